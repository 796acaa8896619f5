//! What the demonstration found out, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use reactor::LatencyRecorder;
use serde_json::{Value, json};

use super::workload::{Kind, Measured, Standing};
use crate::target::cli::{Align, Table, bytes_text, duration_text};
use crate::target::manage::{ScrubState, ScrubStatus};

/// One part of the load.
pub struct Part {
    /// How things were meanwhile.
    pub name: &'static str,
    /// Which node answered, if there are several.
    pub node: Option<&'static str>,
    /// How long it took.
    pub seconds: f64,
    /// What was measured.
    pub measured: Measured,
}

impl Part {
    /// How people call it.
    fn title(&self) -> String {
        let by = self.node.map_or_else(String::new, |node| format!(", {node}"));
        format!("{}{by}", self.name)
    }

    /// Commands a second.
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^53")]
    pub fn commands_per_second(&self) -> f64 {
        self.measured.commands() as f64 / self.seconds.max(1e-9)
    }

    /// Bytes a second.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate for people: positive and far below 2^53"
    )]
    pub fn bytes_per_second(&self) -> u64 {
        (self.measured.bytes as f64 / self.seconds.max(1e-9)) as u64
    }
}

/// How a drive was filled that took a failed one's place.
#[derive(Clone, Copy, Debug)]
pub struct Rebuild {
    /// Stripe rows.
    pub rows: u64,
    /// Time from the replacement until the group was healthy.
    pub seconds: f64,
}

/// How the node's death under load went.
#[derive(Clone, Debug)]
pub struct Kill {
    /// Time from the kill until a command of the host was answered again.
    pub seconds: f64,
    /// Commands of the host that were never answered.
    pub commands_lost: u64,
    /// What the node said about its journal after the restart.
    pub replayed: Option<String>,
}

/// How a node's death went where another node shares its group.
#[derive(Clone, Debug)]
pub struct Failover {
    /// The node that was killed.
    pub node: &'static str,
    /// The epoch that began without it, and how long after its death that was open.
    pub epoch: u32,
    /// Likewise.
    pub open: Duration,
    /// The longest that its hosts were without an answer until they were answered by the other node.
    pub its_hosts: Duration,
    /// The same for the hosts of the other node.
    pub other_hosts: Duration,
    /// Commands that were never answered.
    pub commands_lost: u64,
    /// Time from its start until it served its hosts again.
    pub back: Duration,
    /// The longest that any host was without an answer while it came back.
    pub wait_for_back: Duration,
}

impl Failover {
    fn json(&self) -> Value {
        json!({
            "node": self.node,
            "epoch": self.epoch,
            "seconds_until_open": self.open.as_secs_f64(),
            "seconds_without_answer": self.its_hosts.max(self.other_hosts).as_secs_f64(),
            "seconds_without_answer_of_its_hosts": self.its_hosts.as_secs_f64(),
            "seconds_without_answer_of_other_hosts": self.other_hosts.as_secs_f64(),
            "commands_lost": self.commands_lost,
            "seconds_until_back": self.back.as_secs_f64(),
            "seconds_without_answer_until_back": self.wait_for_back.as_secs_f64(),
        })
    }
}

/// What happened beside the load and the drive that failed.
#[derive(Clone, Debug)]
pub enum Story {
    /// To one node with drives of its own.
    Single {
        /// How the failed drive was replaced.
        rebuild: Rebuild,
        /// How the node died and came back.
        kill: Kill,
        /// Whether the check data fit in the end.
        scrub: ScrubStatus,
    },
    /// To two nodes that share the group.
    Shared {
        /// How one of them died and came back.
        failover: Failover,
    },
}

impl Story {
    fn is_good(&self) -> bool {
        match self {
            Self::Single { scrub, .. } => {
                scrub.state == ScrubState::Completed && scrub.mismatches == 0 && scrub.unreadable == 0
            }
            Self::Shared { .. } => true,
        }
    }

    /// Whether the table for people has a row for this kind of command; JSON has all.
    const fn shows(&self, kind: Kind) -> bool {
        match self {
            Self::Single { .. } => true,
            Self::Shared { .. } => matches!(kind, Kind::Read | Kind::Write),
        }
    }

    fn add_to(&self, json: &mut Value) {
        match self {
            Self::Single { rebuild, kill, scrub } => {
                json["rebuild"] = json!({"rows": rebuild.rows, "seconds": rebuild.seconds});
                json["kill"] = json!({
                    "seconds_until_served": kill.seconds,
                    "commands_lost": kill.commands_lost,
                    "replayed": kill.replayed,
                });
                json["scrub"] = json!({
                    "rows": scrub.rows,
                    "mismatches": scrub.mismatches,
                    "unreadable": scrub.unreadable,
                });
            }
            Self::Shared { failover } => json["kill"] = failover.json(),
        }
    }
}

/// Everything that was found out.
pub struct Summary {
    /// The parts of the load.
    pub parts: Vec<Part>,
    /// Blocks that were read back at the end, through each of the nodes, and those that were lost or wrong.
    pub checked: u64,
    /// Likewise.
    pub wrong: u64,
    /// Everything else that was counted, over all cores.
    pub standing: Standing,
    /// The drive that was failed.
    pub failed_drive: String,
    /// What else happened.
    pub story: Story,
    /// State of the group at the end.
    pub group_state: &'static str,
    /// Time from start to end in seconds.
    pub seconds: f64,
}

impl Summary {
    /// Whether every block is as it should be.
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.standing.failed == 0 && self.story.is_good()
    }

    /// The last line.
    pub fn verdict(&self) -> String {
        format!(
            "{} blocks lost or wrong ({} blocks checked)",
            self.wrong, self.checked
        )
    }

    /// Tables and figures.
    pub fn text(&self) -> String {
        let mut table = Table::new(&[
            ("LOAD", Align::Left),
            ("COMMAND", Align::Left),
            ("COUNT", Align::Right),
            ("P50", Align::Right),
            ("P99", Align::Right),
            ("P99.9", Align::Right),
            ("MAX", Align::Right),
        ]);
        let mut rates = String::new();
        for part in &self.parts {
            for (kind, latency) in Kind::ALL.iter().zip(&part.measured.latency) {
                if latency.count() == 0 || !self.story.shows(*kind) {
                    continue;
                }
                table.row([
                    part.title(),
                    kind.name().to_owned(),
                    latency.count().to_string(),
                    duration_text(latency.quantile_ns(0.5)),
                    duration_text(latency.quantile_ns(0.99)),
                    duration_text(latency.quantile_ns(0.999)),
                    duration_text(latency.max_ns()),
                ]);
            }
            rates += &format!(
                "{}: {:.0} commands/s, {}/s\n",
                part.title(),
                part.commands_per_second(),
                bytes_text(part.bytes_per_second())
            );
        }
        let mut text = format!("{}\n{rates}", table.text());
        text += &self.histograms();
        if self.standing.failed + self.standing.lost > 0 {
            text += &format!(
                "{} commands failed, {} were lost with their connection; of {} blocks that were being written then, either content is right\n",
                self.standing.failed, self.standing.lost, self.standing.uncertain
            );
        }
        if let Some(mistake) = self.standing.mistake {
            text += &format!("first wrong block: {}: {:?}\n", mistake.lba, mistake.wrong);
        }
        text
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        let parts: Vec<Value> = self.parts.iter().map(part_json).collect();
        let mut json = json!({
            "blocks_checked": self.checked,
            "blocks_lost_or_wrong": self.wrong,
            "blocks_not_acknowledged": self.standing.uncertain,
            "blocks_compared_in_all": self.standing.checked,
            "commands_failed": self.standing.failed,
            "commands_lost": self.standing.lost,
            "failed_drive": self.failed_drive,
            "group_state": self.group_state,
            "seconds": self.seconds,
            "load": parts,
        });
        self.story.add_to(&mut json);
        json
    }

    /// How latencies are spread, for each node of several.
    fn histograms(&self) -> String {
        let mut by_node: BTreeMap<&str, [u64; STEPS]> = BTreeMap::new();
        for part in &self.parts {
            let Some(node) = part.node else { continue };
            let counts = by_node.entry(node).or_default();
            for (ns, count) in part.measured.latency.iter().flat_map(LatencyRecorder::steps) {
                counts[step(ns)] += count;
            }
        }
        let mut text = String::new();
        for (node, counts) in by_node {
            text += &format!("\nlatency of all commands that {node} answered\n");
            let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
            let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
            let most = counts.iter().copied().max().unwrap_or(0).max(1);
            for (at, count) in counts.iter().enumerate().take(last + 1).skip(first) {
                let bar = "#".repeat(usize::try_from(count * BAR / most).unwrap_or(0));
                let line = format!("  up to {:>7} {count:>7} {bar}", step_text(at));
                text += &format!("{}\n", line.trim_end());
            }
        }
        if !text.is_empty() {
            text += "\n";
        }
        text
    }
}

/// Steps of a histogram: the first ends at 2^`FIRST_STEP` microseconds, each other one at twice the one before, the last not at all.
const STEPS: usize = 18;
const FIRST_STEP: u32 = 6;
/// Characters of the longest bar.
const BAR: u64 = 50;

/// The step of a histogram that counts this latency.
fn step(ns: u64) -> usize {
    let units = (ns / 1000) >> FIRST_STEP;
    let step = usize::try_from(u64::BITS - units.leading_zeros()).expect("at most 64");
    step.min(STEPS - 1)
}

/// Where a step ends, in units that are 1000 or more of the next smaller one.
fn step_text(step: usize) -> String {
    let us = 1_u64 << (usize::try_from(FIRST_STEP).expect("it is small") + step);
    match us {
        0..1024 => format!("{us} us"),
        1024..1_048_576 => format!("{} ms", us >> 10),
        1_048_576.. => format!("{} s", us >> 20),
    }
}

fn part_json(part: &Part) -> Value {
    let latency: serde_json::Map<String, Value> = Kind::ALL
        .iter()
        .zip(&part.measured.latency)
        .map(|(kind, latency)| {
            let figures = json!({
                "count": latency.count(),
                "p50_ns": latency.quantile_ns(0.5),
                "p99_ns": latency.quantile_ns(0.99),
                "p999_ns": latency.quantile_ns(0.999),
                "max_ns": latency.max_ns(),
            });
            (kind.name().replace(' ', "_"), figures)
        })
        .collect();
    json!({
        "name": part.name,
        "node": part.node,
        "seconds": part.seconds,
        "iops": part.commands_per_second(),
        "bytes_per_second": part.bytes_per_second(),
        "latency": latency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(wrong: u64) -> Summary {
        let mut measured = Measured::new();
        measured.latency[0].record(1_000_000);
        measured.bytes = 4096;
        Summary {
            parts: vec![Part {
                name: "healthy",
                node: None,
                seconds: 0.5,
                measured,
            }],
            checked: 10,
            wrong,
            standing: Standing::default(),
            failed_drive: "d0".to_owned(),
            story: Story::Single {
                rebuild: Rebuild {
                    rows: 100,
                    seconds: 0.5,
                },
                kill: Kill {
                    seconds: 0.2,
                    commands_lost: 7,
                    replayed: None,
                },
                scrub: ScrubStatus {
                    state: ScrubState::Completed,
                    repairs: false,
                    rows: 100,
                    mismatches: 0,
                    repaired: 0,
                    located: 0,
                    unreadable: 0,
                },
            },
            group_state: "healthy",
            seconds: 3.0,
        }
    }

    #[test]
    fn the_last_line_counts_blocks() {
        assert_eq!(summary(0).verdict(), "0 blocks lost or wrong (10 blocks checked)");
        assert!(summary(0).is_good() && !summary(1).is_good());
    }

    #[test]
    fn an_error_of_the_target_is_no_success_although_no_block_is_wrong() {
        let mut summary = summary(0);
        summary.standing.failed = 1;
        assert!(!summary.is_good());
        assert!(summary.text().contains("1 commands failed"));
    }

    #[test]
    fn a_scrub_that_found_something_or_did_not_end_is_no_success() {
        let spoil: [fn(&mut ScrubStatus); 3] = [
            |scrub| scrub.mismatches = 1,
            |scrub| scrub.unreadable = 1,
            |scrub| scrub.state = ScrubState::Stopped,
        ];
        for spoil in spoil {
            let mut summary = summary(0);
            let Story::Single { scrub, .. } = &mut summary.story else {
                panic!("it is one node's")
            };
            spoil(scrub);
            assert!(!summary.is_good(), "{:?}", summary.story);
        }
    }

    #[test]
    fn figures_agree_in_text_and_json() {
        let summary = summary(0);
        assert!(
            summary.text().contains("healthy: 2 commands/s, 8 KiB/s"),
            "{}",
            summary.text()
        );
        let json = summary.json();
        assert_eq!(json["load"][0]["latency"]["read"]["count"], 1);
        assert_eq!(json["load"][0]["bytes_per_second"], 8192);
        assert_eq!(json["blocks_lost_or_wrong"], 0);
    }

    #[test]
    fn histograms_have_a_bar_for_each_step_of_each_node() {
        assert_eq!((step(0), step(63_999), step(64_000), step(128_000)), (0, 0, 1, 2));
        assert_eq!(step(u64::MAX), STEPS - 1);
        assert_eq!(
            (step_text(0), step_text(4), step_text(14)),
            ("64 us".to_owned(), "1 ms".to_owned(), "1 s".to_owned())
        );
        let mut summary = summary(0);
        assert!(!summary.text().contains("answered"), "there is one node");
        summary.parts[0].node = Some("n1");
        summary.parts[0].measured.latency[0].record(3_000_000);
        let text = summary.text();
        assert!(text.contains("that n1 answered"), "{text}");
        assert!(text.contains(&format!("1 {}", "#".repeat(50))), "{text}");
        assert_eq!(summary.json()["load"][0]["node"], "n1");
    }
}
