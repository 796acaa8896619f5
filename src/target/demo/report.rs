//! What the demonstration found out, for people and for programs.

use serde_json::{Value, json};

use super::workload::{Kind, Measured, Standing};
use crate::target::cli::{Align, Table, bytes_text, duration_text};
use crate::target::manage::{ScrubState, ScrubStatus};

/// One part of the load.
pub struct Part {
    /// How the group was meanwhile.
    pub name: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// What was measured.
    pub measured: Measured,
}

impl Part {
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

/// Everything that was found out.
pub struct Summary {
    /// The parts of the load.
    pub parts: Vec<Part>,
    /// Blocks of the virtual disk that were read back at the end, and those of them that were lost or wrong.
    pub checked: u64,
    /// Likewise.
    pub wrong: u64,
    /// Everything else that was counted, over all cores.
    pub standing: Standing,
    /// The drive that was failed.
    pub failed_drive: String,
    /// How it was replaced.
    pub rebuild: Rebuild,
    /// How the node died and came back.
    pub kill: Kill,
    /// Whether the check data fit in the end.
    pub scrub: ScrubStatus,
    /// State of the group at the end.
    pub group_state: &'static str,
    /// Time from start to end in seconds.
    pub seconds: f64,
}

impl Summary {
    /// Whether every block is as it should be.
    pub fn is_good(&self) -> bool {
        self.wrong == 0
            && self.standing.failed == 0
            && self.scrub.state == ScrubState::Completed
            && self.scrub.mismatches == 0
            && self.scrub.unreadable == 0
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
            ("GROUP", Align::Left),
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
                if latency.count() == 0 {
                    continue;
                }
                table.row([
                    part.name.to_owned(),
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
                part.name,
                part.commands_per_second(),
                bytes_text(part.bytes_per_second())
            );
        }
        let mut text = format!("{}\n{rates}", table.text());
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
        json!({
            "blocks_checked": self.checked,
            "blocks_lost_or_wrong": self.wrong,
            "blocks_not_acknowledged": self.standing.uncertain,
            "blocks_compared_in_all": self.standing.checked,
            "commands_failed": self.standing.failed,
            "commands_lost": self.standing.lost,
            "failed_drive": self.failed_drive,
            "rebuild": {"rows": self.rebuild.rows, "seconds": self.rebuild.seconds},
            "kill": {
                "seconds_until_served": self.kill.seconds,
                "commands_lost": self.kill.commands_lost,
                "replayed": self.kill.replayed,
            },
            "scrub": {
                "rows": self.scrub.rows,
                "mismatches": self.scrub.mismatches,
                "unreadable": self.scrub.unreadable,
            },
            "group_state": self.group_state,
            "seconds": self.seconds,
            "load": parts,
        })
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
        "group": part.name,
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
                seconds: 0.5,
                measured,
            }],
            checked: 10,
            wrong,
            standing: Standing::default(),
            failed_drive: "d0".to_owned(),
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
            spoil(&mut summary.scrub);
            assert!(!summary.is_good(), "{:?}", summary.scrub);
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
}
