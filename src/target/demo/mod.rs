//! `braid demo`: a shelf with file drives and two nodes that share a RAID-5 group on them, with real NVMe/TCP load through both at
//! once. Under that load a node is killed and comes back, and a drive fails; at the end every block is checked through both nodes.
//! `single` is the same for one node with drives of its own. Needs no configuration and no privileges, and leaves nothing behind.

mod folder;
mod hosts;
mod process;
mod report;
mod shared;
mod single;
mod workload;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nvme::nqn::Nqn;
use reactor::{CoreIndex, Options, PollMode};

use self::folder::Folder;
use self::report::Summary;
use self::workload::Demo;
use super::cli::options::DemoOptions;
use super::cli::{Failure, print, print_json};
use super::host::{Host, Target};
use super::manage::{GroupStatus, Reply};
use super::storage;

/// The only namespace.
const NSID: u32 = 1;
/// Name of the group.
const GROUP: &str = "demo";
/// The drive that is failed.
const VICTIM: &str = "d1";
/// Drives of the group.
const GROUP_DRIVES: u32 = 4;
/// Drives in all: one more than the group has.
const DRIVES: u32 = GROUP_DRIVES + 1;
/// I/O queues on each core, and commands in flight on each.
const QUEUES_PER_CORE: u16 = 2;
/// Likewise.
const DEPTH: u16 = 16;
/// How long anything but the load may take without getting on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demonstration. Errs if anything went wrong, in particular if a block is lost.
pub fn run(options: DemoOptions) -> Result<(), Failure> {
    let started = Instant::now();
    let stop = stop_flag()?;
    let system = |error| Failure::new(format!("no random numbers from the system: {error}"), "");
    let seed = u64::from_le_bytes(storage::random_bytes().map_err(system)?);
    let folder = Folder::make(seed, options.keep).map_err(|error| {
        let remedy = "set TMPDIR to a folder where you may write";
        Failure::new(format!("no folder can be made for the drives: {error}"), remedy)
    })?;
    let summary = if options.nodes == 1 {
        single::run(&options, seed, folder.path(), stop, started)?
    } else {
        shared::run(&options, seed, folder.path(), stop, started)?
    };
    tell(&options, &summary, folder.path())?;
    if summary.is_good() {
        Ok(())
    } else {
        Err(Failure::new(
            format!("promises were not kept: {}", summary.verdict()),
            "report this with the output above; --keep keeps the drives",
        ))
    }
}

fn tell(options: &DemoOptions, summary: &Summary, folder: &Path) -> Result<(), Failure> {
    let kept = options.keep.then(|| folder.display().to_string());
    if options.json {
        let mut json = summary.json();
        json["folder"] = kept.into();
        return print_json(&json);
    }
    print(&summary.text())?;
    if let Some(folder) = kept {
        print(&format!(
            "the drives and their configuration are kept in {folder}\n"
        ))?;
    }
    print(&format!("{}\n", summary.verdict()))
}

/// A flag that SIGINT and SIGTERM set, so that the demonstration cleans up after itself.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Failure::new(format!("signals cannot be caught: {error}"), ""))?;
    }
    Ok(stop)
}

/// Writes a configuration into the folder, where it can be used again, and checks it. Returns the name of its subsystem.
fn write_configuration(file: &Path, text: &str) -> Result<Nqn, Failure> {
    write(file, text)?;
    let config = config::parse(text, file).map_err(|problems| {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(
            format!("the demo's own configuration is wrong: {}", text.join("; ")),
            "report this",
        )
    })?;
    Ok(config.subsystem.nqn)
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text)
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display()), ""))
}

/// Starts a host with so many cores, which reaches the subsystem by each of these addresses.
///
/// `number` tells it from the other hosts of the demonstration.
fn connect(
    cores: u16,
    addresses: &[SocketAddr],
    nqn: &Nqn,
    (number, seed): (u16, u64),
    workload: impl Fn(CoreIndex) -> Demo + Send + Sync + 'static,
) -> Result<Host<Demo>, Failure> {
    let hostnqn = format!("nqn.2026-01.io.braid:demo-host-{number}");
    let hostnqn = Nqn::parse(&hostnqn).expect("it is a valid NQN");
    let mut hostid = [0; 16];
    hostid[..8].copy_from_slice(&seed.to_le_bytes());
    hostid[8..].copy_from_slice(&(!seed ^ u64::from(number)).to_le_bytes());
    let targets = addresses.iter().map(|address| Target {
        io_queues: cores.saturating_mul(QUEUES_PER_CORE),
        depth: DEPTH,
        header_digest: true,
        data_digest: true,
        ..Target::new(*address, nqn.clone(), hostnqn.clone(), hostid)
    });
    let reactor = Options {
        cores,
        // Nodes share the cores with it; on a small machine a host that polls would only take their time.
        poll: PollMode::Interrupt,
        arena_bytes: 64 << 20,
        files_max: 256,
        ..Options::default()
    };
    Host::start(reactor, targets.collect(), workload).map_err(|error| {
        Failure::new(
            error.to_string(),
            "`braid preflight` says what this machine lacks",
        )
    })
}

fn group_of(reply: Reply) -> Result<GroupStatus, Failure> {
    let Reply::Group(group) = reply else {
        return Err(Failure::new("the node answers something else", "report this"));
    };
    Ok(group)
}
