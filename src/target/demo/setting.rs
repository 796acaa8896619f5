//! What the demonstration consists of: the node's configuration, and the host.

use std::net::SocketAddr;
use std::path::Path;

use nvme::nqn::Nqn;
use reactor::{Options, PollMode};

use super::NSID;
use super::workload::Demo;
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;
use crate::target::host::{Host, Target};

/// Drives of the group.
pub const DRIVES: u32 = 4;
/// Smallest drive in MiB.
const DRIVE_MIB_MIN: u32 = 64;
/// MiB of a drive that hold no data of the virtual disk: superblocks, bitmap, journal, rounding.
const DRIVE_MIB_SPARE: u32 = 16;
/// The drive that is failed.
pub const VICTIM: &str = "d1";
/// Its place in the group.
pub const VICTIM_MEMBER: u8 = 1;
/// The drive that takes its place: it belongs to no group at first.
pub const REPLACEMENT: &str = "d4";
/// Name of the group.
pub const GROUP: &str = "demo";
/// I/O queues on each core, and commands in flight on each.
pub const QUEUES_PER_CORE: u16 = 2;
/// Likewise.
const DEPTH: u16 = 16;

/// Size of a drive in MiB, for a virtual disk of this size.
pub fn drive_mib(megabytes: u32) -> u32 {
    (megabytes.div_ceil(DRIVES - 1) + DRIVE_MIB_SPARE).max(DRIVE_MIB_MIN)
}

/// Writes the configuration of the node into the folder, where it can be used again. Returns the name of its subsystem.
///
/// `listen` has port 0 at first; a node that starts again listens where the first one did.
pub fn write_configuration(options: &DemoOptions, folder: &Path, listen: SocketAddr) -> Result<Nqn, Failure> {
    let drive_mib = drive_mib(options.megabytes);
    let mut text = format!(
        "[node]\nname = \"demo\"\nrpc_socket = \"node.sock\"\n\n[reactor]\ncores = {}\n\n[[listen]]\naddress = \"{listen}\"\n",
        options.cores.min(config::CORES_MAX)
    );
    for drive in 0..=DRIVES {
        text +=
            &format!("\n[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = {drive_mib}\n");
    }
    text += &format!(
        "\n[[group]]\nname = \"{GROUP}\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\ncreate = true\n\
         \n[[vdisk]]\nname = \"v0\"\ngroup = \"{GROUP}\"\nsize_mib = {}\nnsid = {NSID}\n",
        options.megabytes
    );
    let file = folder.join("node.toml");
    std::fs::write(&file, &text)
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display()), ""))?;
    let config = config::parse(&text, &file).map_err(|problems| {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(
            format!("the demo's own configuration is wrong: {}", text.join("; ")),
            "report this",
        )
    })?;
    Ok(config.subsystem.nqn)
}

/// Starts the host.
pub fn connect(
    options: &DemoOptions,
    address: SocketAddr,
    nqn: &Nqn,
    seed: u64,
) -> Result<Host<Demo>, Failure> {
    let cores = options.cores.min(config::CORES_MAX);
    let hostnqn = Nqn::parse("nqn.2026-01.io.braid:demo-host").expect("it is a valid NQN");
    let mut hostid = [0; 16];
    hostid[..8].copy_from_slice(&seed.to_le_bytes());
    hostid[8..].copy_from_slice(&(!seed).to_le_bytes());
    let target = Target {
        io_queues: cores.saturating_mul(QUEUES_PER_CORE),
        depth: DEPTH,
        header_digest: true,
        data_digest: true,
        ..Target::new(address, nqn.clone(), hostnqn, hostid)
    };
    let reactor = Options {
        cores,
        // The node polls; on a small machine a host that polls too would only take its time.
        poll: PollMode::Interrupt,
        arena_bytes: 64 << 20,
        files_max: 256,
        ..Options::default()
    };
    Host::start(reactor, vec![target], move |core| {
        Demo::new(core.0, cores, NSID, seed)
    })
    .map_err(|error| {
        Failure::new(
            error.to_string(),
            "`braid preflight` says what this machine lacks",
        )
    })
}
