//! How many writes a second do two nodes take that are done in the journal of the drives, and how many that are done in the memory of both? Each node has a host that keeps 16 of them
//! under way on rows of its own; over drives that answer at once, and over such that take a millisecond. Beside it one node alone, which writes the same while the other one has nothing to do.

use std::time::Duration;

use crate::load::{self, Load};
use crate::memory::{SLOW_US, until_acknowledged};
use crate::queue::Host;
use crate::stage::{BLOCK, Shape, Stage};
use crate::{Effort, median};

const NODES: u8 = 2;
const DISK_MIB: u32 = 16;
const DEPTH: u32 = 16;

/// An array whose hosts are told by one of the two ways.
struct Mode {
    name: &'static str,
    stage: Stage,
    hosts: Vec<Host>,
}

impl Mode {
    fn set(name: &'static str, copies: u8) -> Self {
        let stage = Stage::set(Shape {
            nodes: NODES,
            is_shared: true,
            disks: NODES,
            disk_mib: DISK_MIB,
            read_cache_mib: 0,
            copies,
            ..Shape::TWO_NODES
        });
        let hosts = (0..NODES).map(|node| stage.connect(usize::from(node), node + 1));
        let mut hosts: Vec<Host> = hosts.collect();
        for (node, host) in (0..NODES).zip(&mut hosts) {
            load::fill(host, u32::from(node) + 1, load(0).blocks);
            until_acknowledged(&stage, node, copies, || {
                host.write(u32::from(node) + 1, 0, BLOCK, &[0x5a; BLOCK as usize])
            });
        }
        Self { name, stage, hosts }
    }

    /// Writes a second of the first node alone, and of both.
    fn rates(&mut self, round: u64, time: Duration) -> [f64; 2] {
        [1, 2].map(|count| load::together(&mut self.hosts[..count], load(round), time))
    }
}

fn load(seed: u64) -> Load {
    Load {
        nsid: 1,
        writes: true,
        each: 1,
        blocks: u64::from(DISK_MIB << 20) / u64::from(BLOCK),
        depth: DEPTH,
        seed,
    }
}

/// Prints the rates of both ways and their ratios, round by round beside each other.
pub fn run(effort: Effort) {
    let (rounds, time) = if effort.is_quick {
        (1, Duration::from_millis(300))
    } else {
        (5, Duration::from_secs(2))
    };
    println!(
        "two nodes over a shelf, one core and one process each, not polling; {DEPTH} random 4 KiB writes under way at each, on rows of its own"
    );
    let mut modes = [
        Mode::set("in the journal", 1),
        Mode::set("in the memory of 2 nodes", 2),
    ];
    for slow_us in [0, SLOW_US] {
        println!("drives that take {slow_us} us more:");
        modes.iter().for_each(|mode| mode.stage.slow_down(slow_us));
        let mut all = [const { [const { Vec::new() }; 2] }; 2];
        for round in 0..rounds {
            for (mode, all) in modes.iter_mut().zip(&mut all) {
                let rates = mode.rates(round, time);
                all.iter_mut().zip(rates).for_each(|(all, rate)| all.push(rate));
            }
        }
        let ratio = |of: &[f64], to: &[f64]| median(of.iter().zip(to).map(|(of, to)| of / to).collect());
        let journal = all[0].clone();
        for (mode, [one, both]) in modes.iter().zip(&all) {
            println!(
                "writes that are done {:<26} one node {:7.0} IOPS, both {:7.0} ({:.2} of one); {:.2} and {:.2} of those in the journal",
                mode.name,
                median(one.clone()),
                median(both.clone()),
                ratio(both, one),
                ratio(one, &journal[0]),
                ratio(both, &journal[1]),
            );
        }
    }
}
