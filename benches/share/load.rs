//! A host that keeps so many commands under way on one connection.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use braid::target::host::random::Random;

use crate::queue::{Host, read, write};
use crate::stage::BLOCK;

/// Which commands.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Of which virtual disk.
    pub nsid: u32,
    /// They write; otherwise they read.
    pub writes: bool,
    /// Blocks of a command.
    pub each: u32,
    /// Over so many blocks from the first one.
    pub blocks: u64,
    /// How many are under way at a time.
    pub depth: u32,
    /// What chooses the blocks.
    pub seed: u64,
}

/// Writes all blocks once, in large pieces.
pub fn fill(host: &mut Host, nsid: u32, blocks: u64) {
    const PIECE: u64 = 32;
    let data = vec![0x5a; usize::try_from(PIECE).expect("few") * BLOCK as usize];
    for at in 0..blocks / PIECE {
        host.write(nsid, at * PIECE, BLOCK, &data);
    }
}

/// Keeps the commands under way until `goes_on` says no, given how many were answered; how many were answered at all.
pub fn keep_under_way(host: &mut Host, load: Load, mut goes_on: impl FnMut(u64) -> bool) -> u64 {
    let mut random = Random::new(load.seed);
    let data = vec![0xa5; (load.each * BLOCK) as usize];
    let queue = &mut host.io[0];
    let (mut under_way, mut answered) = (0, 0);
    loop {
        while under_way < load.depth && goes_on(answered + u64::from(under_way)) {
            let at = random.draw() % (load.blocks / u64::from(load.each)) * u64::from(load.each);
            let sent = if load.writes {
                queue.try_submit(write(load.nsid, at, load.each), &data, 0)
            } else {
                queue.try_submit(read(load.nsid, at, load.each), &[], load.each * BLOCK)
            };
            sent.expect("the node is there");
            under_way += 1;
        }
        if under_way == 0 {
            return answered;
        }
        let (_, answer) = queue.try_next().expect("the node is there");
        answer.ok();
        under_way -= 1;
        answered += 1;
    }
}

/// The same for so long; commands answered a second.
pub fn rate(host: &mut Host, load: Load, time: Duration) -> f64 {
    let begin = Instant::now();
    let answered = keep_under_way(host, load, |_| begin.elapsed() < time);
    answered as f64 / begin.elapsed().as_secs_f64()
}

/// Commands a second of these hosts together, each with the same load on its own virtual disk.
pub fn together(hosts: &mut [Host], load: Load, time: Duration) -> f64 {
    let begin = Barrier::new(hosts.len());
    thread::scope(|scope| {
        let running: Vec<_> = (1..)
            .zip(hosts)
            .map(|(nsid, host)| {
                let begin = &begin;
                scope.spawn(move || {
                    let load = Load {
                        nsid,
                        seed: load.seed << 8 | u64::from(nsid),
                        ..load
                    };
                    begin.wait();
                    rate(host, load, time)
                })
            })
            .collect();
        let rates = running
            .into_iter()
            .map(|one| one.join().expect("its host is served"));
        rates.sum()
    })
}
