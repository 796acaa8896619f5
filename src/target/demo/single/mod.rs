//! One node with file drives of its own and a RAID-5 group. Under load a drive fails and is replaced, and the node is killed and
//! started again; at the end the check data is compared, too.

mod acts;
mod setting;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::hosts::Hosts;
use super::process::{Process, Role};
use super::report::Summary;
use super::workload::Demo;
use super::{DRIVES, GROUP_DRIVES, NSID, connect};
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;

/// The demonstration in this folder, from beginning to end.
pub fn run(
    options: &DemoOptions,
    seed: u64,
    folder: &Path,
    stop: Arc<AtomicBool>,
    started: Instant,
) -> Result<Summary, Failure> {
    let mut stage = Stage::set(options, seed, folder, stop)?;
    let result = stage.play(options, started);
    let torn_down = stage.strike();
    let summary = result?;
    torn_down.map(|()| summary)
}

/// Node and host, side by side. The fields are dropped in this order.
struct Stage {
    hosts: Hosts,
    node: Process,
    /// Where the node listens.
    address: SocketAddr,
}

impl Stage {
    /// Makes the drives, starts the node and connects the host.
    fn set(options: &DemoOptions, seed: u64, folder: &Path, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let nqn = setting::write_node(options, folder, any_port)?;
        let mut hosts = Hosts::new(stop, !options.json);
        hosts.say(&format!(
            "{DRIVES} file drives of {} MiB in {}\none RAID-5 group of the first {GROUP_DRIVES}, one virtual disk of {} MiB\n",
            setting::drive_mib(options.megabytes),
            folder.display(),
            options.megabytes
        ))?;
        let node = Process::start(folder, Role::Node, "node")?;
        let address = node.address()?;
        // A host connects again to where it was connected.
        setting::write_node(options, folder, address)?;
        hosts.say(&format!(
            "a node serves it on {} cores (process {}); Linux would connect with\n  nvme connect -t tcp -a {} -s {} -n {nqn}\n",
            options.cores,
            node.pid(),
            address.ip(),
            address.port(),
        ))?;
        let cores = options.cores.min(config::CORES_MAX);
        let workload = move |core: reactor::CoreIndex| Demo::new(core.0, cores, NSID, seed);
        hosts.add(connect(cores, &[address], &nqn, (0, seed), workload)?);
        Ok(Self { hosts, node, address })
    }

    /// Stops both ends.
    fn strike(self) -> Result<(), Failure> {
        let hosts = self.hosts.stop();
        let node = self.node.stop();
        hosts.and(node)
    }
}
