//! The configuration of the only node.

use std::net::SocketAddr;
use std::path::Path;

use nvme::nqn::Nqn;

use super::super::{DRIVES, GROUP, GROUP_DRIVES, NSID, write_configuration};
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;

/// Smallest drive in MiB.
const DRIVE_MIB_MIN: u32 = 64;
/// MiB of a drive that hold no data of the virtual disk: superblocks, bitmap, journal, rounding.
const DRIVE_MIB_SPARE: u32 = 16;
/// Place in the group of the drive that is failed.
pub const VICTIM_MEMBER: u8 = 1;
/// The drive that takes its place: it belongs to no group at first.
pub const REPLACEMENT: &str = "d4";

/// Size of a drive in MiB, for a virtual disk of this size.
pub fn drive_mib(megabytes: u32) -> u32 {
    (megabytes.div_ceil(GROUP_DRIVES - 1) + DRIVE_MIB_SPARE).max(DRIVE_MIB_MIN)
}

/// Writes the configuration of the node into the folder, where it can be used again. Returns the name of its subsystem.
///
/// `listen` has port 0 at first; a node that starts again listens where the first one did.
pub fn write_node(options: &DemoOptions, folder: &Path, listen: SocketAddr) -> Result<Nqn, Failure> {
    let drive_mib = drive_mib(options.megabytes);
    let mut text = format!(
        "[node]\nname = \"demo\"\nrpc_socket = \"node.sock\"\n\n[reactor]\ncores = {}\n\n[[listen]]\naddress = \"{listen}\"\n",
        options.cores.min(config::CORES_MAX)
    );
    for drive in 0..DRIVES {
        text +=
            &format!("\n[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = {drive_mib}\n");
    }
    text += &format!(
        "\n[[group]]\nname = \"{GROUP}\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\ncreate = true\n\
         \n[[vdisk]]\nname = \"v0\"\ngroup = \"{GROUP}\"\nsize_mib = {}\nnsid = {NSID}\n",
        options.megabytes
    );
    write_configuration(&folder.join("node.toml"), &text)
}
