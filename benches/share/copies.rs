//! What do the copies of a write cost the node that writes it? Time that its process spends on the processor, in user space and in the kernel, for a 64 KiB write that is done in the
//! journal, and for one that is done in the memory of two and of three nodes; the difference is what a copy costs. Of three nodes the first one writes.

use std::fs;
use std::time::{Duration, Instant};

use crate::load::{self, Load};
use crate::memory::until_acknowledged;
use crate::queue::Host;
use crate::stage::{BLOCK, Shape, Stage};
use crate::{Effort, median};

/// Blocks of a write.
const EACH: u32 = 16;
/// Blocks that are written: 4 MiB, each of which is held.
const BLOCKS: u64 = 1024;
/// Milliseconds of one unit of `/proc/PID/stat`, wherever Linux runs.
const TICK_MS: f64 = 10.0;

fn stage(copies: u8) -> (Stage, Host) {
    let stage = Stage::set(Shape {
        nodes: 3,
        copies,
        ..Shape::TWO_NODES
    });
    let mut host = stage.connect(0, 1);
    load::fill(&mut host, 1, BLOCKS);
    until_acknowledged(&stage, 0, copies, || {
        host.write(1, 0, BLOCK, &[0x5a; BLOCK as usize])
    });
    (stage, host)
}

/// Milliseconds that node 0 has spent in user space, and in the kernel.
fn spent_ms(stage: &Stage) -> [f64; 2] {
    let stat = fs::read_to_string(format!("/proc/{}/stat", stage.process(0))).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("its name is in brackets");
    let mut ticks = fields.split_whitespace().skip(11);
    [(); 2].map(|()| {
        let ticks = ticks.next().and_then(|ticks| ticks.parse::<f64>().ok());
        ticks.expect("utime and stime follow") * TICK_MS
    })
}

/// Microseconds for a write in user space, and in the kernel.
fn per_write(stage: &Stage, host: &mut Host, time: Duration) -> [f64; 2] {
    let load = Load {
        nsid: 1,
        writes: true,
        each: EACH,
        blocks: BLOCKS,
        depth: 4,
        seed: 1,
    };
    let (begin, before) = (Instant::now(), spent_ms(stage));
    let writes = load::keep_under_way(host, load, |_| begin.elapsed() < time);
    let after = spent_ms(stage);
    [0, 1].map(|at| (after[at] - before[at]) * 1e3 / writes as f64)
}

/// Prints medians of the rounds, and what a copy costs.
pub fn run(effort: Effort) {
    let (rounds, time) = if effort.is_quick {
        (1, Duration::from_millis(300))
    } else {
        (5, Duration::from_secs(3))
    };
    println!(
        "time of the writer's process for a write of 64 KiB, 4 under way; three nodes over a shelf of memory drives, one core and one process each, not polling"
    );
    let mut stages = [1, 2, 3].map(stage);
    let mut figures = [const { [Vec::new(), Vec::new()] }; 3];
    for _ in 0..rounds {
        for ((stage, host), figures) in stages.iter_mut().zip(&mut figures) {
            let spent = per_write(stage, host, time);
            figures.iter_mut().zip(spent).for_each(|(all, one)| all.push(one));
        }
    }
    let figures = figures.map(|of| of.map(median));
    let [journal, ..] = figures;
    println!(
        "in the journal: {:.1} us in user space, {:.1} us in the kernel",
        journal[0], journal[1]
    );
    for (copies, [user, kernel]) in (1..).zip(figures).skip(1) {
        let more = f64::from(copies - 1);
        println!(
            "in the memory of {copies} nodes: {user:.1} us in user space, {kernel:.1} us in the kernel; {:.1} and {:.1} us more a copy",
            (user - journal[0]) / more,
            (kernel - journal[1]) / more,
        );
    }
}
