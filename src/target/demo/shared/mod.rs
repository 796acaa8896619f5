//! A shelf with file drives, and two nodes that share a RAID-5 group on them; half of the hosts go by each. Under load one node is
//! killed, its hosts go by the other one, and it comes back; then a drive fails. At the end every block is checked through both nodes.

mod acts;
mod setting;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use self::setting::{NODES, Places};
use super::hosts::Hosts;
use super::process::{Process, Role};
use super::report::Summary;
use super::workload::Demo;
use super::{DRIVES, GROUP_DRIVES, NSID, PATIENCE, connect};
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;
use crate::target::manage::{ArrayRequest, ArrayStatus, Reply, Request};

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

/// Everything that runs. The fields are dropped in this order.
struct Stage {
    hosts: Hosts,
    /// By slot.
    nodes: Vec<Process>,
    shelf: Process,
    places: Places,
}

impl Stage {
    /// Makes the drives and the array, starts shelf and nodes, and connects the hosts.
    fn set(options: &DemoOptions, seed: u64, folder: &Path, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let places = Places::find(options)?;
        let nqn = places.write(options, folder)?;
        let hosts = Hosts::new(stop, !options.json);
        hosts.say(&format!(
            "a shelf with {DRIVES} file drives of {} MiB in {}\n",
            setting::drive_mib(options.megabytes),
            folder.display(),
        ))?;
        let shelf = Process::start(folder, Role::Shelf, "shelf")?;
        let start = |name: &&str| Process::start(folder, Role::Member, name);
        let nodes: Result<_, Failure> = NODES.iter().map(start).collect();
        let mut stage = Self {
            hosts,
            nodes: nodes?,
            shelf,
            places,
        };
        stage.make_array(options)?;
        stage.hosts.say(&format!(
            "nodes {} (process {}) and {} (process {}) share it; Linux would connect with\n",
            stage.nodes[0].name(),
            stage.nodes[0].pid(),
            stage.nodes[1].name(),
            stage.nodes[1].pid(),
        ))?;
        for address in stage.places.hosts {
            stage.hosts.say(&format!(
                "  nvme connect -t tcp -a {} -s {} -n {nqn}\n",
                address.ip(),
                address.port()
            ))?;
        }
        let cores = setting::cores(options);
        let workers = cores * setting::NODE_COUNT;
        for home in 0..setting::NODE_COUNT {
            let workload = move |core: reactor::CoreIndex| {
                Demo::new(home * cores + core.0, workers, NSID, seed).with_paths(home, setting::NODE_COUNT)
            };
            let host = connect(cores, &stage.places.hosts, &nqn, (home, seed), workload)?;
            stage.hosts.add(host);
        }
        Ok(stage)
    }

    /// Makes the array through one of the nodes, and waits until both serve.
    fn make_array(&self, options: &DemoOptions) -> Result<(), Failure> {
        let started = Instant::now();
        let request = Request::Array(ArrayRequest::Create);
        // A node that has just begun does not know its drives yet.
        while let Err(error) = self.nodes[0].call(&request) {
            if started.elapsed() >= PATIENCE {
                return Err(error);
            }
            self.hosts.moment()?;
        }
        self.await_open(&[0, 1])?;
        self.hosts.say(&format!(
            "an array on its drives, which were tried out first, in {:.1} s: one RAID-5 group of the first {GROUP_DRIVES}, one virtual disk of {} MiB\n",
            started.elapsed().as_secs_f64(),
            options.megabytes
        ))
    }

    fn array(&self, slot: u8) -> Result<ArrayStatus, Failure> {
        let request = Request::Array(ArrayRequest::Show);
        let Reply::Array(array) = self.nodes[usize::from(slot)].call(&request)? else {
            return Err(Failure::new("the node answers something else", "report this"));
        };
        Ok(*array)
    }

    /// Waits until these nodes, and no others, are the members of an open epoch and may answer hosts.
    fn await_open(&self, slots: &[u8]) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let is_open = |slot: &u8| {
                // Between two lives a node says nothing of the array.
                self.array(*slot).is_ok_and(|array| {
                    let members = array.members.iter().map(|(member, _)| *member);
                    array.serves && array.stage == "open" && members.eq(slots.iter().copied())
                })
            };
            if slots.iter().all(is_open) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let seen = slots.iter().map(|slot| match self.array(*slot) {
                    Ok(array) => array.blocked.unwrap_or(array.stage),
                    Err(error) => error.what,
                });
                let seen: Vec<String> = seen.collect();
                let what = format!("the nodes do not serve together: {}", seen.join("; "));
                return Err(Failure::new(what, "report this"));
            }
            self.hosts.moment()?;
        }
    }

    /// Stops hosts, nodes and shelf, in this order.
    fn strike(self) -> Result<(), Failure> {
        let mut all = self.hosts.stop();
        for node in self.nodes {
            all = all.and(node.stop());
        }
        all.and(self.shelf.stop())
    }
}
