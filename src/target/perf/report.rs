//! What a measurement found out, for people and for programs.

use std::net::SocketAddr;

use reactor::LatencyRecorder;
use serde_json::{Value, json};

use super::workload::{Measured, Side};
use crate::target::cli::options::{Pattern, PerfOptions};
use crate::target::cli::{Align, Table, bytes_text, duration_text};

/// Quantiles that are printed, with their names in tables and JSON.
pub const QUANTILES: [(f64, &str, &str); 5] = [
    (0.5, "P50", "p50_ns"),
    (0.9, "P90", "p90_ns"),
    (0.99, "P99", "p99_ns"),
    (0.999, "P99.9", "p999_ns"),
    (0.9999, "P99.99", "p9999_ns"),
];

/// One second of the measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// When it ended, in seconds from the start of the load.
    pub at: f64,
    /// Commands a second.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Median latency in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: u64,
}

/// What was asked for and what was measured.
#[derive(Clone, Debug)]
pub struct PerfReport {
    /// Where the target is; of several, which are paths to the same namespace, all.
    pub addresses: Vec<SocketAddr>,
    /// The subsystem.
    pub nqn: String,
    /// Namespace.
    pub nsid: u32,
    /// Bytes of a command.
    pub block_bytes: u32,
    /// Share of reads in percent.
    pub read_percent: u8,
    /// Which blocks.
    pub pattern: Pattern,
    /// Whether blocks were verified.
    pub verify: bool,
    /// Commands a second that were asked for, of an open loop.
    pub rate: Option<f64>,
    /// I/O queues and commands in flight on each, as the controller granted them.
    pub queues: u16,
    /// Likewise.
    pub depth: u16,
    /// Cores that sent.
    pub cores: u16,
    /// Header digest, data digest.
    pub digests: (bool, bool),
    /// Time that was measured, in seconds, without the warm-up.
    pub seconds: f64,
    /// What was measured, all cores together.
    pub measured: Measured,
    /// How it went, second by second, warm-up included.
    pub course: Vec<Second>,
    /// Commands that were due and never ended.
    pub unfinished: bool,
    /// It was ended before its time.
    pub interrupted: bool,
    /// What a reader of the figures has to know, as sentences.
    pub notes: Vec<String>,
}

impl PerfReport {
    /// Reads and writes together.
    pub fn all(&self) -> Side {
        let mut all = self.measured.reads.clone();
        all.merge(&self.measured.writes);
        all
    }

    /// Commands a second.
    pub fn iops(&self) -> f64 {
        self.rate_of(self.all().latency.count())
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.rate_of(self.all().bytes)
    }

    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^53")]
    fn rate_of(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(1e-9)
    }

    /// The sides that have anything, with their names.
    pub fn sides(&self) -> Vec<(&'static str, Side)> {
        let mut sides = vec![
            ("read", self.measured.reads.clone()),
            ("write", self.measured.writes.clone()),
        ];
        sides.retain(|(_, side)| side.latency.count() > 0);
        if sides.len() == 2 {
            sides.push(("all", self.all()));
        }
        sides
    }

    /// Whether the figures stand for a target that did what it should.
    pub fn is_good(&self) -> bool {
        self.measured.wrong == 0 && self.measured.failed == 0 && self.measured.lost == 0 && !self.unfinished
    }

    /// What was done, as one line.
    pub fn title(&self) -> String {
        let pattern = match self.pattern {
            Pattern::Random => "random",
            Pattern::Sequential => "sequential",
        };
        let mix = match self.read_percent {
            100 => "reads".to_owned(),
            0 => "writes".to_owned(),
            percent => format!("{percent} % reads"),
        };
        let (queues, cores) = (plural(self.queues, "queue"), plural(self.cores, "core"));
        let pace = match self.rate {
            None => format!("depth {}", self.depth),
            Some(rate) => format!("{rate} commands/s"),
        };
        format!(
            "{pattern} {mix} of {} at {pace}, {queues} on {cores}",
            bytes_text(u64::from(self.block_bytes))
        )
    }

    /// Tables and figures.
    pub fn text(&self) -> String {
        let mut columns = vec![("COMMAND", Align::Left), ("COUNT", Align::Right)];
        columns.extend(QUANTILES.map(|(_, name, _)| (name, Align::Right)));
        columns.push(("MAX", Align::Right));
        let mut table = Table::new(&columns);
        for (name, side) in self.sides() {
            let [p50, p90, p99, p999, p9999] =
                QUANTILES.map(|(quantile, _, _)| duration_text(side.latency.quantile_ns(quantile)));
            let max = duration_text(side.latency.max_ns());
            table.row([
                name.to_owned(),
                side.latency.count().to_string(),
                p50,
                p90,
                p99,
                p999,
                p9999,
                max,
            ]);
        }
        let mut text = format!(
            "{}\n{}{:.0} IOPS, {:.1} MiB/s in {:.1} s\n",
            self.title(),
            table.text(),
            self.iops(),
            self.bytes_per_second() / f64::from(1 << 20),
            self.seconds
        );
        text += &format!("{}\n", self.gap_text());
        if self.addresses.len() > 1 {
            text += &format!("{}\n", self.paths_text());
        }
        for problem in self.problems() {
            text += &format!("{problem}\n");
        }
        for note in &self.notes {
            text += &format!("note: {note}\n");
        }
        text
    }

    /// The longest time in which nothing completed, as a sentence.
    pub fn gap_text(&self) -> String {
        let gap = self.measured.gap;
        format!(
            "longest time without a completion: {}, from {:.1} s on",
            duration_text(gap.length_ns),
            seconds(gap.at_ns)
        )
    }

    /// What went by which path, as a sentence.
    fn paths_text(&self) -> String {
        let by_path = self.addresses.iter().zip(&self.measured.by_path);
        let by_path: Vec<String> = by_path
            .map(|(address, count)| format!("{count} by {address}"))
            .collect();
        format!(
            "commands: {}; {} sent again by another path",
            by_path.join(", "),
            self.measured.sent_again
        )
    }

    /// What went wrong, a line each, and what was verified.
    fn problems(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let measured = &self.measured;
        if self.verify {
            lines.push(format!(
                "{} blocks wrong ({} blocks checked)",
                measured.wrong, measured.checked
            ));
        }
        if let Some(mistake) = measured.mistake {
            lines.push(format!("first wrong block: {}: {:?}", mistake.lba, mistake.wrong));
        }
        if let Some(status) = measured.first_error {
            lines.push(format!(
                "{} commands failed, the first with: {status}",
                measured.failed
            ));
        }
        if measured.lost > 0 {
            lines.push(format!(
                "{} commands were lost with their connection",
                measured.lost
            ));
        }
        if self.unfinished {
            lines.push("some commands did not end in time and are missing in the figures".to_owned());
        }
        if self.interrupted {
            lines.push("interrupted: these are the figures so far".to_owned());
        }
        lines
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        let sides: serde_json::Map<String, Value> = self
            .sides()
            .into_iter()
            .map(|(name, side)| (name.to_owned(), side_json(&side)))
            .collect();
        let course: Vec<Value> = self
            .course
            .iter()
            .map(|second| {
                json!({
                    "at_seconds": second.at,
                    "iops": second.iops,
                    "bytes_per_second": second.bytes_per_second,
                    "p50_ns": second.p50_ns,
                    "p99_ns": second.p99_ns,
                })
            })
            .collect();
        json!({
            "target": { "addresses": self.addresses, "nqn": self.nqn, "nsid": self.nsid },
            "load": {
                "block_bytes": self.block_bytes,
                "read_percent": self.read_percent,
                "pattern": match self.pattern { Pattern::Random => "random", Pattern::Sequential => "sequential" },
                "verify": self.verify,
                "rate": self.rate,
                "queues": self.queues,
                "depth": self.depth,
                "cores": self.cores,
                "header_digest": self.digests.0,
                "data_digest": self.digests.1,
            },
            "seconds": self.seconds,
            "iops": self.iops(),
            "bytes_per_second": self.bytes_per_second(),
            "latency": sides,
            "commands_failed": self.measured.failed,
            "first_error": self.measured.first_error.map(|status| status.to_string()),
            "commands_lost": self.measured.lost,
            "commands_sent_again": self.measured.sent_again,
            "commands_by_path": self.measured.by_path,
            "commands_unfinished": self.unfinished,
            "longest_gap": {
                "seconds": seconds(self.measured.gap.length_ns),
                "at_seconds": seconds(self.measured.gap.at_ns),
            },
            "blocks_checked": self.measured.checked,
            "blocks_wrong": self.measured.wrong,
            "interrupted": self.interrupted,
            "course": course,
            "notes": self.notes,
        })
    }
}

/// What is true of the options before anything was measured.
impl From<&PerfOptions> for PerfReport {
    fn from(options: &PerfOptions) -> Self {
        Self {
            addresses: options.addresses.clone(),
            nqn: options.nqn.as_str().to_owned(),
            nsid: options.nsid,
            block_bytes: options.block_bytes,
            read_percent: options.read_percent,
            pattern: options.pattern,
            verify: options.verify,
            rate: options.rate,
            queues: options.queues,
            depth: options.depth,
            cores: options.cores,
            digests: (options.header_digest, options.data_digest),
            seconds: 0.0,
            measured: Measured::new(),
            course: Vec::new(),
            unfinished: false,
            interrupted: false,
            notes: Vec::new(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a run is far shorter than 2^53 ns")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn plural(count: u16, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn side_json(side: &Side) -> Value {
    let LatencyFigures(mut figures) = LatencyFigures::of(&side.latency);
    figures.insert("count".to_owned(), side.latency.count().into());
    figures.insert("bytes".to_owned(), side.bytes.into());
    Value::Object(figures)
}

/// A histogram's figures by their names in JSON.
struct LatencyFigures(serde_json::Map<String, Value>);

impl LatencyFigures {
    fn of(latency: &LatencyRecorder) -> Self {
        let quantiles = QUANTILES
            .iter()
            .map(|(quantile, _, name)| ((*name).to_owned(), latency.quantile_ns(*quantile)));
        let others = [("max_ns".to_owned(), latency.max_ns())];
        let mut figures: serde_json::Map<String, Value> = quantiles
            .chain(others)
            .map(|(name, value)| (name, value.into()))
            .collect();
        figures.insert("mean_ns".to_owned(), latency.mean_ns().into());
        Self(figures)
    }
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;
    use nvme::status::Status;

    use super::super::gap::Gap;
    use super::*;
    use crate::target::cli::options::{Cli, Command};

    /// Options as the command line gives them.
    pub fn options(arguments: &str) -> PerfOptions {
        let line = format!("braid perf 127.0.0.1:1 --nqn nqn.2026-01.io.braid:x {arguments}");
        let command = Cli::try_parse_from(line.split_whitespace()).unwrap().command;
        let Command::Perf(options) = command else {
            panic!("{command:?}")
        };
        *options
    }

    /// A report with a thousand reads of 1 to 1000 us in two seconds.
    pub fn report(arguments: &str) -> PerfReport {
        let mut report = PerfReport::from(&options(arguments));
        report.seconds = 2.0;
        for us in 1..=1000 {
            report.measured.reads.latency.record(us * 1000);
            report.measured.reads.bytes += 4096;
        }
        report
    }

    #[test]
    fn figures_agree_in_text_and_json() {
        let report = report("");
        let text = report.text();
        assert!(
            text.starts_with("random reads of 4 KiB at depth 1, 1 queue on 1 core\n"),
            "{text}"
        );
        assert!(text.contains("500 IOPS, 2.0 MiB/s in 2.0 s"), "{text}");
        let json = report.json();
        assert_eq!(json["iops"], 500.0);
        let median = json["latency"]["read"]["p50_ns"].as_u64().unwrap();
        assert!((499_000..=501_000).contains(&median));
        assert!(json["latency"].get("write").is_none() && report.is_good());
    }

    #[test]
    fn a_failover_is_told_and_is_a_success() {
        let mut report = report("127.0.0.1:2");
        report.measured.gap = Gap {
            length_ns: 2_500_000_000,
            at_ns: 1_250_000_000,
        };
        report.measured.by_path = vec![7, 8];
        report.measured.sent_again = 3;
        let text = report.text();
        for line in [
            "longest time without a completion: 2.50 s, from 1.2 s on\n",
            "commands: 7 by 127.0.0.1:1, 8 by 127.0.0.1:2; 3 sent again by another path\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let json = report.json();
        assert_eq!(json["longest_gap"]["seconds"], 2.5);
        assert_eq!(json["longest_gap"]["at_seconds"], 1.25);
        assert_eq!(json["commands_by_path"], serde_json::json!([7, 8]));
        assert_eq!(json["target"]["addresses"][1], "127.0.0.1:2");
        assert!(report.is_good());
    }

    #[test]
    fn whatever_went_wrong_is_said_and_is_no_success() {
        let mut bad = report("--verify --read-percent 50");
        bad.measured.failed = 2;
        bad.measured.first_error = Some(Status::LBA_OUT_OF_RANGE);
        bad.measured.lost = 3;
        bad.unfinished = true;
        bad.interrupted = true;
        let text = bad.text();
        for part in [
            "0 blocks wrong",
            "2 commands failed",
            "3 commands were lost",
            "did not end",
            "so far",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!bad.is_good());
        for spoil in [
            (|report: &mut PerfReport| report.measured.wrong = 1) as fn(&mut PerfReport),
            |report| report.measured.failed = 1,
            |report| report.measured.lost = 1,
            |report| report.unfinished = true,
        ] {
            let mut report = report("");
            spoil(&mut report);
            assert!(!report.is_good());
        }
    }

    #[test]
    fn mixed_loads_have_a_line_for_both_together() {
        let mut mixed = report("--read-percent 70 --pattern sequential --rate 1000");
        mixed.measured.writes.latency.record(5);
        let names: Vec<&str> = mixed.sides().iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["read", "write", "all"]);
        assert_eq!(mixed.all().latency.count(), 1001);
        assert!(
            mixed
                .title()
                .starts_with("sequential 70 % reads of 4 KiB at 1000 commands/s")
        );
    }
}
