//! Whether a reactor core starts here: tried out with one that has nothing to do.

use std::fs;
use std::os::fd::OwnedFd;

use reactor::{CoreIndex, Errno, Io, Options, Program, Progress, Received, SendBatch, StartError, Token};

use super::{Check, Verdict};

/// Memory of the core when no configuration says how much, in MiB.
const MEMORY_MIB_DEFAULT: u32 = 64;

/// Starts one core, asks what it found, and stops it.
pub(super) fn checks(memory_mib: Option<u32>) -> Vec<Check> {
    let name = "io_uring";
    let memory_mib = memory_mib.unwrap_or(MEMORY_MIB_DEFAULT);
    let arena_bytes = (memory_mib as usize) << 20;
    let running = match reactor::run(
        Options {
            arena_bytes,
            ..Options::default()
        },
        |_| Idle,
    ) {
        Ok(running) => running,
        Err(error) => return vec![Check::new(name, Verdict::Fail, error.to_string(), remedy(&error))],
    };
    let facts = running.facts(CoreIndex(0)).clone();
    running.stop();
    if let Err(error) = running.join() {
        return vec![Check::new(name, Verdict::Fail, error.to_string(), "report this")];
    }
    let features = [
        ("deferred completions", facts.defer_taskrun),
        ("multishot receive", facts.multishot_receive),
        ("registered buffers", facts.registered_buffers),
        ("registered files", facts.registered_files),
    ];
    let used: Vec<&str> = features
        .iter()
        .filter(|(_, used)| *used)
        .map(|(feature, _)| *feature)
        .collect();
    let used = if used.is_empty() {
        "works, without any extra".to_owned()
    } else {
        used.join(", ")
    };
    let mut checks = vec![Check::ok(name, used)];
    checks.extend(
        facts
            .notes
            .iter()
            .map(|note| Check::new(name, Verdict::Note, note, "")),
    );
    checks
}

fn remedy(error: &StartError) -> &'static str {
    match error {
        StartError::KernelTooOld { .. } => "use Linux 6.1 or newer",
        StartError::Options(_) => "correct reactor.memory_mib",
        StartError::Vanished { .. } => "report this",
        StartError::Core { .. } => {
            let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            match disabled.trim() {
                "1" => "sysctl kernel.io_uring_disabled=0, or join the group kernel.io_uring_group",
                "2" => "sysctl kernel.io_uring_disabled=0",
                _ => "allow io_uring in the container's seccomp profile; see what the error names",
            }
        }
    }
}

/// A program that asks for nothing.
struct Idle;

impl Program for Idle {
    type Message = ();

    fn started(&mut self, _io: &mut Io<()>) {}

    fn message(&mut self, _io: &mut Io<()>, (): ()) {}

    fn accepted(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<OwnedFd, Errno>) {}

    fn received(&mut self, _io: &mut Io<()>, _token: Token, _event: Received<'_>) {}

    fn sent(&mut self, _io: &mut Io<()>, _token: Token, _batch: Box<SendBatch>, _result: Result<(), Errno>) {}

    fn file_done(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<u32, Errno>) {}

    fn connected(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<OwnedFd, Errno>) {}

    fn closed(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn timer(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn turn(&mut self, _io: &mut Io<()>) -> Progress {
        Progress::Idle
    }
}
