//! `braid demo` and `braid perf` as a person runs them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use braid::target::cli::options::{Pattern, PerfOptions};
use braid::target::perf;
use nvme::nqn::Nqn;
use serde_json::Value;

use super::stage::{Folder, NQN, Stage, TWO_NAMESPACES};

fn braid() -> Command {
    Command::new(env!("CARGO_BIN_EXE_braid"))
}

fn entries(folder: &Folder) -> usize {
    std::fs::read_dir(folder.path()).unwrap().count()
}

/// Runs the demonstration in this folder and returns the summary that it prints.
fn demo(folder: &Folder, arguments: &[&str]) -> Value {
    let output = braid()
        .args(["demo", "--json"])
        .args(arguments)
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn demo_loses_a_node_and_a_drive_and_no_block_and_leaves_nothing_behind() {
    let folder = Folder::make();
    let summary = demo(&folder, &["--seconds", "4", "--megabytes", "32"]);
    assert_eq!(summary["blocks_lost_or_wrong"], 0);
    assert_eq!(
        summary["blocks_checked"],
        2 * 32 * 256,
        "all of them through each node"
    );
    assert_eq!(summary["commands_failed"], 0);
    assert_eq!(summary["group_state"], "degraded");
    let kill = &summary["kill"];
    assert!(kill["seconds_without_answer"].as_f64().unwrap() > 0.0);
    assert!(kill["seconds_until_back"].as_f64().unwrap() > 0.0);
    let load = summary["load"].as_array().unwrap();
    for (name, nodes) in [
        ("both nodes", 2),
        ("one killed", 1),
        ("both again", 2),
        ("degraded", 2),
    ] {
        let parts: Vec<&Value> = load.iter().filter(|part| part["name"] == name).collect();
        assert_eq!(parts.len(), nodes, "{name}");
        assert!(parts.iter().all(|part| part["iops"].as_f64().unwrap() > 0.0));
    }
    assert_eq!(entries(&folder), 0);
}

#[test]
fn demo_of_one_node_finds_every_block_right_and_leaves_nothing_behind() {
    let folder = Folder::make();
    let summary = demo(&folder, &["--nodes", "1", "--seconds", "2", "--megabytes", "32"]);
    assert_eq!(summary["blocks_lost_or_wrong"], 0);
    assert_eq!(summary["blocks_checked"], 32 * 256);
    assert_eq!(summary["commands_failed"], 0);
    assert_eq!(summary["group_state"], "healthy", "the failed drive was replaced");
    assert!(summary["rebuild"]["rows"].as_u64().unwrap() > 0);
    assert!(summary["kill"]["seconds_until_served"].as_f64().unwrap() > 0.0);
    assert_eq!(summary["scrub"]["mismatches"], 0);
    assert_eq!(summary["scrub"]["rows"], summary["rebuild"]["rows"]);
    for part in summary["load"].as_array().unwrap() {
        assert!(part["iops"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(entries(&folder), 0);
}

#[test]
fn demo_keeps_its_drives_when_asked_and_says_its_last_line() {
    let folder = Folder::make();
    let arguments = ["demo", "--seconds", "1", "--megabytes", "16", "--keep"];
    let output = braid()
        .args(arguments)
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        text.lines().last(),
        Some("0 blocks lost or wrong (8192 blocks checked)"),
        "{text}"
    );
    let connects = text.matches("nvme connect -t tcp -a 127.0.0.1 -s ");
    assert_eq!(connects.count(), 2, "{text}");
    assert_eq!(entries(&folder), 1);
}

#[test]
fn demo_cleans_up_when_it_is_interrupted() {
    let folder = Folder::make();
    let mut child = braid()
        .args(["demo", "--seconds", "600", "--megabytes", "16"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(
        lines.any(|line| line.starts_with("writing every block once")),
        "the load begins"
    );
    assert_eq!(entries(&folder), 1);
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(entries(&folder), 0);
}

#[test]
fn perf_prints_json_and_writes_a_page() {
    let stage = Stage::set(TWO_NAMESPACES);
    let folder = Folder::make();
    let page = folder.path().join("report.html");
    let address = stage.address().to_string();
    let output = braid()
        .args([
            "perf",
            &address,
            "--nqn",
            NQN,
            "--nsid",
            "2",
            "--seconds",
            "1",
            "--depth",
            "4",
            "--json",
        ])
        .args([
            "--read-percent",
            "70",
            "--verify",
            "--header-digest",
            "--report-html",
        ])
        .arg(&page)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["iops"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&report["blocks_wrong"], &report["commands_failed"]),
        (&0.into(), &0.into())
    );
    let latency = &report["latency"]["all"];
    assert!(latency["p50_ns"].as_u64().unwrap() <= latency["p9999_ns"].as_u64().unwrap());
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
}

#[test]
fn perf_says_what_is_wrong_with_the_target() {
    let stage = Stage::set(TWO_NAMESPACES);
    let address = stage.address().to_string();
    let failing = |nqn: &str, nsid: &str, size: &str| {
        let arguments = [
            "perf",
            &address,
            "--nqn",
            nqn,
            "--nsid",
            nsid,
            "--block-size",
            size,
            "--seconds",
            "1",
        ];
        let output = braid().args(arguments).output().unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text) = failing("nqn.2026-01.io.braid:nobody", "1", "4KiB");
    assert!(
        code == 3 && text.contains("connect: invalid parameters") && text.contains("check --nqn"),
        "{text}"
    );
    let (code, text) = failing(NQN, "9", "4KiB");
    assert!(code == 2 && text.contains("no namespace 9"), "{text}");
    let (code, text) = failing(NQN, "2", "512");
    assert!(code == 2 && text.contains("not whole blocks"), "{text}");
}

#[test]
fn an_open_loop_keeps_its_rate() {
    const RATE: f64 = 500.0;
    let stage = Stage::set(TWO_NAMESPACES);
    let options = PerfOptions {
        addresses: vec![stage.address()],
        nqn: Nqn::parse(NQN).unwrap(),
        nsid: 1,
        depth: 1,
        block_bytes: 4096,
        read_percent: 50,
        seconds: 2,
        queues: 2,
        cores: 1,
        pattern: Pattern::Sequential,
        fua: false,
        verify: false,
        rate: Some(RATE),
        header_digest: false,
        data_digest: false,
        host_nqn: None,
        json: false,
        report_html: None,
    };
    let report = perf::measure(&options).unwrap();
    assert!(report.is_good(), "{}", report.text());
    // Exactly what was due: neither a busy machine nor a slow target changes the number of commands.
    let due = report.seconds * RATE;
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let count = report.all().latency.count() as f64;
    assert!((count - due).abs() <= 4.0, "{count} of {due}");
    assert!(Duration::from_secs_f64(report.seconds) >= Duration::from_secs(2));
}
