//! Background work as a person sees and waits for it.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::options::{BackgroundCommand, Client as Options};
use super::units::{age_text, bytes_text, count_text};
use super::{Failure, call, print};
use crate::target::manage::{
    BackgroundRequest as Wanted, BackgroundStatus, GroupName, GroupScrub, GroupSetRate, GroupStatus,
    ProcessStatus, RebuildStatus, Reply, Request, ScrubState, ScrubStatus,
};

/// How often a command that waits looks.
const LOOK: Duration = Duration::from_millis(200);

/// Does what an operator wants of a group's background work.
pub(super) fn run(command: BackgroundCommand) -> Result<(), Failure> {
    match command {
        BackgroundCommand::Scrub {
            group,
            repair: _, // The default; `--check-only` is what differs.
            check_only,
            stop,
            wait,
            client,
        } => {
            let wanted = if stop {
                Wanted::ScrubStop(GroupName { group })
            } else {
                let repair = !check_only;
                Wanted::Scrub(GroupScrub { group, repair })
            };
            order(&client, &Request::Background(wanted), wait)
        }
        BackgroundCommand::RebuildStatus { group, wait, client } => {
            order(&client, &Request::GroupShow(GroupName { group }), wait)
        }
        BackgroundCommand::Pause { group, client } => order(
            &client,
            &Request::Background(Wanted::Pause(GroupName { group })),
            false,
        ),
        BackgroundCommand::Resume { group, client } => order(
            &client,
            &Request::Background(Wanted::Resume(GroupName { group })),
            false,
        ),
        BackgroundCommand::SetRate {
            group,
            mib_s,
            latency_target_us,
            client,
        } => {
            let set = GroupSetRate {
                group,
                rate_mib_s: mib_s,
                latency_target_us,
            };
            order(&client, &Request::Background(Wanted::SetRate(set)), false)
        }
    }
}

/// Makes a call, waits for the end of the work if that is wanted, and shows how things are then.
pub(super) fn order(options: &Options, request: &Request, wait: bool) -> Result<(), Failure> {
    let mut client = call::connect(options)?;
    let mut group = asked(client.call(request)?)?;
    if wait {
        let show = Request::GroupShow(GroupName {
            group: group.name.clone(),
        });
        let bar = bar(options.json);
        while is_busy(&group.background) {
            draw(&bar, &group.background);
            std::thread::sleep(LOOK);
            group = asked(client.call(&show)?)?;
        }
        bar.finish_and_clear();
    }
    if options.json {
        let value = serde_json::to_value(&group.background).expect("a status is plain data with text keys");
        super::print_json(&value)?;
    } else {
        print(&text(&group))?;
    }
    match group.background.scrub {
        Some(scrub) if wait && is_bad(&scrub) => Err(Failure::said()),
        Some(_) | None => Ok(()),
    }
}

fn asked(reply: Reply) -> Result<GroupStatus, Failure> {
    let Reply::Group(group) = reply else {
        return Err(Failure::new(
            "the node answered something else",
            "use the version of braid that the node runs",
        ));
    };
    Ok(group)
}

/// Whether something runs or waits to run. What is paused does not end by waiting.
fn is_busy(background: &BackgroundStatus) -> bool {
    let scrubs = background
        .scrub
        .is_some_and(|scrub| scrub.state == ScrubState::Running);
    !background.paused && (background.process.is_some() || scrubs)
}

/// Whether a scrub ended with something that is not right again.
const fn is_bad(scrub: &ScrubStatus) -> bool {
    scrub.unreadable > 0 || scrub.mismatches > scrub.repaired
}

fn bar(json: bool) -> ProgressBar {
    if json || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix:>8} [{bar:40}] {percent:>3} %  {msg}")
        .expect("the template is right")
        .progress_chars("=> ");
    ProgressBar::new(0).with_style(style)
}

fn draw(bar: &ProgressBar, background: &BackgroundStatus) {
    match &background.process {
        Some(process) => {
            bar.set_prefix(process.name.clone());
            bar.set_length(process.rows);
            bar.set_position(process.rows_done);
            bar.set_message(pace_text(process));
        }
        None => bar.set_message("waits until the group is healthy"),
    }
}

/// `12.0 MiB/s, 3 min 5 s left`, and what holds it if something does.
fn pace_text(process: &ProcessStatus) -> String {
    let mut text = format!("{}/s", bytes_text(process.bytes_per_second));
    if let Some(seconds) = process.seconds_left {
        text.push_str(&format!(", {} left", age_text(seconds.saturating_mul(1000))));
    }
    if process.state != "running" {
        text.push_str(&format!(", {}", process.state));
    }
    text
}

/// Whole percents; 100 only at the end.
fn percent(done: u64, rows: u64) -> u64 {
    let percent = u128::from(done) * 100 / u128::from(rows.max(1));
    u64::try_from(percent).unwrap_or(100)
}

/// What `group show` says of the work in one line; `None` if there is nothing to say.
pub(super) fn line(background: &BackgroundStatus) -> Option<String> {
    let paused = if background.paused { ", paused" } else { "" };
    match &background.process {
        Some(process) => Some(format!(
            "{} {} % ({})",
            process.name,
            percent(process.rows_done, process.rows),
            pace_text(process)
        )),
        None if background.paused => Some(format!("none{paused}")),
        None => None,
    }
}

/// What a rebuild writes anew, as a sentence without its end.
pub(super) fn rebuild_line(rebuild: &RebuildStatus) -> String {
    let state = if rebuild.done { "done" } else { "going on" };
    if rebuild.partial {
        format!(
            "{state}: partial, {} that were written meanwhile",
            rows_text(rebuild.rows)
        )
    } else {
        format!("{state}: all {}", rows_text(rebuild.rows))
    }
}

/// What a scrub found, as a sentence without its end.
pub(super) fn scrub_line(scrub: &ScrubStatus) -> String {
    let state = match scrub.state {
        ScrubState::Running => "going on",
        ScrubState::Completed => "completed",
        ScrubState::Stopped => "stopped",
    };
    let rows = format!("{state}: {} compared", rows_text(scrub.rows));
    if scrub.mismatches == 0 && scrub.unreadable == 0 {
        return format!("{rows}, all fit");
    }
    let mut text = format!("{rows}, {} did not fit", scrub.mismatches);
    if scrub.repairs {
        text.push_str(&format!(", {} repaired", scrub.repaired));
    }
    if scrub.located > 0 {
        text.push_str(&format!(", {} located", scrub.located));
    }
    if scrub.unreadable > 0 {
        text.push_str(&format!(", {} unreadable", scrub.unreadable));
    }
    text
}

fn rows_text(rows: u64) -> String {
    usize::try_from(rows).map_or_else(|_| rows.to_string(), |rows| count_text(rows, "row"))
}

fn text(group: &GroupStatus) -> String {
    let background = &group.background;
    let mut text = match line(background) {
        Some(line) => format!("{}: {line}\n", group.name),
        None => format!("{}: no background work\n", group.name),
    };
    if let Some(rebuild) = &background.rebuild {
        text.push_str(&format!("rebuild {}\n", rebuild_line(rebuild)));
    }
    if let Some(scrub) = &background.scrub {
        text.push_str(&format!("scrub {}\n", scrub_line(scrub)));
    }
    let mut limits = Vec::new();
    if background.rate_mib_s > 0 {
        limits.push(format!("at most {} MiB/s", background.rate_mib_s));
    }
    if background.latency_target_us > 0 {
        limits.push(format!(
            "slower above {} us for hosts",
            background.latency_target_us
        ));
    }
    if !limits.is_empty() {
        text.push_str(&format!("limits: {}\n", limits.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(state: &str) -> ProcessStatus {
        ProcessStatus {
            name: "rebuild".into(),
            state: state.into(),
            rows_done: 999,
            rows: 1000,
            bytes_per_second: 12 << 20,
            seconds_left: Some(185),
        }
    }

    #[test]
    fn a_line_says_what_runs_how_far_and_what_holds_it() {
        let mut background = BackgroundStatus::default();
        assert_eq!(line(&background), None);
        background.process = Some(process("running"));
        let told = "rebuild 99 % (12 MiB/s, 3 min 5 s left)";
        assert_eq!(line(&background).as_deref(), Some(told), "100 % only at the end");
        assert!(is_busy(&background));
        background.process = Some(process("held back for hosts"));
        assert!(line(&background).is_some_and(|line| line.ends_with("left, held back for hosts)")));
        background.paused = true;
        background.process = None;
        assert_eq!(line(&background).as_deref(), Some("none, paused"));
        assert!(!is_busy(&background), "nobody waits for what is paused");
    }

    /// CHECKLIST D6: what was found and what became of it is told apart.
    #[test]
    fn d6_a_scrub_says_what_it_found() {
        let mut scrub = ScrubStatus {
            state: ScrubState::Completed,
            repairs: true,
            rows: 4096,
            mismatches: 0,
            repaired: 0,
            located: 0,
            unreadable: 0,
        };
        assert_eq!(scrub_line(&scrub), "completed: 4096 rows compared, all fit");
        assert!(!is_bad(&scrub));
        scrub.mismatches = 3;
        scrub.repaired = 2;
        scrub.located = 1;
        scrub.unreadable = 1;
        let told = "completed: 4096 rows compared, 3 did not fit, 2 repaired, 1 located, 1 unreadable";
        assert_eq!(scrub_line(&scrub), told);
        assert!(is_bad(&scrub));
        scrub.unreadable = 0;
        scrub.repaired = 3;
        assert!(!is_bad(&scrub), "what was repaired is right again");
    }
}
