//! Is this machine fit to run a node? Looks, changes nothing, and says what to do about each thing.
//!
//! Everything here is read from the kernel's text files or tried out for a moment. The sentences are computed by
//! functions of that text, so that each can be tested without the machine that it is about.

#![expect(clippy::disallowed_types, reason = "looking at files and sockets is its work")]

mod drive;
mod machine;
mod ring;

use config::Config;
use serde::Serialize;

use super::cli::{Align, Table};
use super::share::KEPT_BYTES_MAX;

/// How a check came out, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, and could be faster.
    Note,
    /// Works now, and may surprise.
    Warn,
    /// A node would not start, or would not do what it is configured for.
    Fail,
}

impl Verdict {
    /// The verdict as it stands in JSON and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, such as `io_uring` or `drive d0`.
    pub name: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// What to do about it; empty if there is nothing to do.
    pub remedy: String,
}

impl Check {
    fn new(
        name: impl Into<String>,
        verdict: Verdict,
        finding: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            verdict,
            finding: finding.into(),
            remedy: remedy.into(),
        }
    }

    fn ok(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, finding, "")
    }
}

/// What a node needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    cores: u16,
    /// Buffers of all cores together.
    memory_bytes: u64,
    /// What it keeps of groups in memory for other nodes, at most.
    kept_bytes: u64,
    /// Connections when every controller and queue that is allowed is there, and the drives.
    descriptors: u64,
}

impl Needs {
    fn of(config: Option<&Config>, cpus: usize) -> Self {
        let reactor = config.map(|config| config.reactor.clone()).unwrap_or_default();
        let cores = reactor.core_count(cpus);
        let descriptors = config.map_or(1024, |config| {
            let subsystem = &config.subsystem;
            let connections = u64::from(subsystem.controllers_max) * (1 + u64::from(subsystem.io_queues_max));
            connections + config.drives.len() as u64 + config.listeners.len() as u64 * u64::from(cores) + 64
        });
        let groups = config.map_or(0, |config| config.groups.len() as u64);
        let core_mib = u64::from(reactor.memory_mib) + groups * u64::from(reactor.read_cache_mib);
        let kept = config
            .filter(|config| config.array.is_some())
            .map_or(0, |config| {
                let in_memory = |group: &&config::Group| group.durability == Some(config::Durability::Ram);
                config.groups.iter().filter(in_memory).count() as u64
            });
        Self {
            cores,
            memory_bytes: u64::from(cores) * (core_mib << 20),
            kept_bytes: kept * KEPT_BYTES_MAX as u64,
            descriptors,
        }
    }
}

/// Looks at the machine, and with a configuration at what that needs.
pub fn run(config: Option<&Config>) -> Vec<Check> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let needs = Needs::of(config, cpus);
    let mut checks = machine::checks(config, needs, cpus);
    checks.extend(ring::checks(config.map(|config| config.reactor.memory_mib)));
    if let Some(config) = config {
        checks.push(machine::socket_folder(config));
        checks.extend(config.listeners.iter().map(machine::port));
        checks.extend(drive::checks(config));
    }
    checks
}

/// The checks as a table, remedies below what they are for, and a last line that sums up.
pub fn table(checks: &[Check]) -> String {
    let mut table = Table::new(&[
        ("CHECK", Align::Left),
        ("", Align::Left),
        ("FINDING", Align::Left),
    ]);
    for check in checks {
        table.row([
            check.name.clone(),
            check.verdict.name().to_owned(),
            check.finding.clone(),
        ]);
        if !check.remedy.is_empty() {
            table.row([String::new(), String::new(), format!("-> {}", check.remedy)]);
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (fail, warn, note) = (count(Verdict::Fail), count(Verdict::Warn), count(Verdict::Note));
    let sum = if fail == 0 {
        "A node can run here"
    } else {
        "A node cannot run here like this"
    };
    format!(
        "{}\n{sum}: {fail} fail, {warn} warn, {note} note, {} ok.\n",
        table.text(),
        count(Verdict::Ok)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_sums_up_and_puts_remedies_below() {
        let checks = [
            Check::ok("kernel", "6.18"),
            Check::new("drive d0", Verdict::Fail, "/x does not exist", "add size_mib"),
        ];
        let text = table(&checks);
        assert!(
            text.contains("drive d0  fail  /x does not exist\n                -> add size_mib\n"),
            "{text}"
        );
        assert!(text.ends_with("A node cannot run here like this: 1 fail, 0 warn, 0 note, 1 ok.\n"));
        assert!(table(&checks[..1]).contains("A node can run here"));
    }

    #[test]
    fn needs_follow_the_configuration() {
        let text = "[reactor]\ncores = 4\nmemory_mib = 32\n[subsystem]\ncontrollers_max = 10\nio_queues_max = 3\n\
                    [[listen]]\naddress = \"127.0.0.1:0\"\n";
        let config = config::parse(text, std::path::Path::new("node.toml")).unwrap();
        let needs = Needs::of(Some(&config), 2);
        assert_eq!(
            needs,
            Needs {
                cores: 4,
                memory_bytes: 128 << 20,
                kept_bytes: 0,
                descriptors: 40 + 4 + 64
            }
        );
        assert_eq!(Needs::of(None, 1).cores, 1);
        let text = config::ArrayText::example(3, 0).to_string();
        let mut config = config::parse(&text, std::path::Path::new("node.toml")).unwrap();
        for (durability, kept_bytes) in [
            (config::Durability::Ram, 64 << 20),
            (config::Durability::Journal, 0),
        ] {
            config.groups[0].durability = Some(durability);
            assert_eq!(Needs::of(Some(&config), 2).kept_bytes, kept_bytes);
        }
    }

    #[test]
    fn this_machine_gets_a_sentence_for_everything() {
        let checks = run(None);
        for name in [
            "kernel",
            "io_uring",
            "locked memory",
            "open files",
            "huge pages",
            "cpu features",
            "clock source",
        ] {
            assert!(checks.iter().any(|check| check.name == name), "{name}");
        }
        for check in checks {
            assert!(!check.finding.is_empty(), "{}", check.name);
            assert!(
                check.verdict <= Verdict::Note || !check.remedy.is_empty(),
                "{}: {}",
                check.name,
                check.finding
            );
        }
    }
}
