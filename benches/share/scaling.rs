//! Do nodes add up? One, two and four of them, each with a host that keeps a few commands under way on rows of its own, over drives that take long for each
//! command: so neither the two cores of a small machine nor a drive is what limits, but how much a node has under way. (CHECKLIST A7, Figure 7.)

use std::time::Duration;

use crate::Effort;
use crate::load::{self, Load};
use crate::queue::Host;
use crate::stage::{BLOCK, Shape, Stage};

const NODES: u8 = 4;
const DISK_MIB: u32 = 16;
/// How long the drives take. A journaled write takes once as much, a read of one block, too.
const SLOW_US: u64 = 20_000;
const DEPTH: u32 = 4;
/// The goal of DESIGN section 10.
const GOAL: f64 = 0.95;

/// Prints the rates and their ratios.
pub fn run(effort: Effort) {
    let stage = Stage::set(Shape {
        nodes: NODES,
        is_shared: true,
        disks: NODES,
        disk_mib: DISK_MIB,
        read_cache_mib: 0,
        copies: 1,
        ..Shape::TWO_NODES
    });
    let mut hosts: Vec<Host> = (1..=NODES)
        .map(|host| stage.connect(usize::from(host) - 1, host))
        .collect();
    for (nsid, host) in (1..).zip(&mut hosts) {
        load::fill(host, nsid, u64::from(DISK_MIB << 20) / u64::from(BLOCK));
    }
    stage.slow_down(SLOW_US);
    let (rounds, time) = if effort.is_quick {
        (1, Duration::from_millis(500))
    } else {
        (5, Duration::from_secs(2))
    };
    println!(
        "nodes on rows of their own, {DEPTH} commands of 4 KiB under way at each, drives of {} ms; goal: {GOAL} a node",
        SLOW_US / 1000
    );
    for (what, writes) in [("reads", false), ("writes", true)] {
        let mut rates = [const { Vec::new() }; 3];
        for round in 0..rounds {
            for (rates, count) in rates.iter_mut().zip([1, 2, 4]) {
                let load = Load {
                    nsid: 1,
                    writes,
                    each: 1,
                    blocks: u64::from(DISK_MIB << 20) / u64::from(BLOCK),
                    depth: DEPTH,
                    seed: round,
                };
                rates.push(load::together(&mut hosts[..count], load, time));
            }
        }
        let against = |at: usize| {
            let ratios = rates[at].iter().zip(&rates[0]);
            crate::median(ratios.map(|(rate, one)| rate / one).collect())
        };
        let [one, two, four] = [0, 1, 2].map(|at| crate::median(rates[at].clone()));
        println!(
            "{what}: 1 node {one:.0} IOPS, 2 nodes {two:.0} ({:.2} of one), 4 nodes {four:.0} ({:.2} of one; {:.2} of as many)",
            against(1),
            against(2),
            against(2) / f64::from(NODES)
        );
    }
}
