//! `kill -9` of a node under write load, over and over: nothing that was acknowledged is lost, whatever else was
//! interrupted (CHECKLIST D1, D2, D6; PROTOCOL H24, I7).
//!
//! In some cycles as many drives as the level survives are gone after the kill, with what their journals held; they come back in
//! a later one and are rebuilt, and the rebuild is killed, too. So is the start, in the midst of the journal's
//! replay. Now and then the node is stopped in good order. After each cycle the whole disk is read and the history judged; when all
//! drives are there, a scrub has to find nothing.
//!
//! A long run, whose table shows with `--nocapture`:
//! `BRAID_KILL_CYCLES=200 BRAID_KILL_SEED=7 cargo test --release --test end_to_end kill_cycles -- --nocapture`;
//! `BRAID_KILL_PROGRAM` names another build of `braid` to kill.

mod expansion;
mod fabric;
mod load;
pub mod node;
mod record;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use braid::sim::random::Random;
use braid::target::manage::GroupState;

use self::load::{load, read_all};
use self::node::{DISK_BYTES, Folder, Node};
use self::record::{BLOCK, Record};

/// Cycles of a level if `BRAID_KILL_CYCLES` does not say.
const CYCLES: u64 = 5;
/// Of rebuilds that are to be met in their midst, in MiB/s.
const SLOW_MIB_S: u32 = 12;

/// What was counted.
#[derive(Debug, Default)]
struct Counts {
    kills: u64,
    stops: u64,
    kills_in_start: u64,
    kills_in_rebuild: u64,
    drives_taken: u64,
    drives_back: u64,
    scrubs: u64,
    mismatches: u64,
    writes: u64,
    blocks_checked: u64,
}

/// A level under test. Its drives are so many that those that stay are known to be current: those that may be lost at once could not
/// have gone on alone.
struct Cycles {
    level: &'static str,
    /// Chooses drives that may be lost together.
    choose: fn(&mut Random) -> Vec<usize>,
    folder: Folder,
    random: Random,
    away: Vec<usize>,
    counts: Counts,
}

/// So many different drives of as many.
fn some_of(random: &mut Random, drives: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..drives).collect();
    (0..count).map(|_| all.remove(random.index(all.len()))).collect()
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

impl Cycles {
    /// Lets hosts write until the node is killed or stopped.
    fn trouble(&mut self, node: Node, record: Record) -> Record {
        let record = Mutex::new(record);
        let seed = self.random.next();
        let time = Duration::from_millis(self.random.below(400) + 50);
        let stops = self.random.chance(15);
        if let Some(process) = node.group().background.process
            && process.name == "rebuild"
            && !stops
        {
            self.counts.kills_in_rebuild += 1;
        }
        load(node.address, &record, seed, || {
            std::thread::sleep(time);
            if stops { node.stop() } else { node.kill() }
        });
        *(if stops {
            &mut self.counts.stops
        } else {
            &mut self.counts.kills
        }) += 1;
        let mut record = record.into_inner().unwrap();
        assert!(
            stops || record.failed == 0,
            "{}: a command failed: {}",
            self.level,
            self.folder.log()
        );
        record.cut();
        self.counts.writes += record.acknowledged;
        record
    }

    /// Takes drives away, or gives some back.
    fn move_drives(&mut self, was_healthy: bool, cycle: u64) {
        if self.away.is_empty() && was_healthy && cycle % 3 == 1 {
            self.away = (self.choose)(&mut self.random);
            self.away.iter().for_each(|drive| self.folder.take(*drive));
            self.counts.drives_taken += self.away.len() as u64;
        } else if !self.away.is_empty() && self.random.chance(60) {
            let count = self.random.index(self.away.len()) + 1;
            for drive in self.away.drain(..count) {
                self.folder.give_back(drive);
                self.counts.drives_back += 1;
            }
        }
    }

    /// Starts the node again, at times not at the first attempt.
    fn start(&mut self) -> Node {
        if self.random.chance(40) {
            for _ in 0..self.random.between(1, 3) {
                let after = Duration::from_micros(self.random.below(50_000));
                self.folder.start_and_kill(after);
                self.counts.kills_in_start += 1;
            }
        }
        self.folder.start()
    }

    /// Reads everything and judges the cycle.
    fn check(&mut self, node: &Node, mut record: Record) -> Record {
        let data = read_all(node.address, &mut record);
        self.counts.blocks_checked += record.blocks();
        let next = record.next(&data);
        next.unwrap_or_else(|wrong| panic!("{}: {wrong}\n{}", self.level, self.folder.log()))
    }

    /// Rebuilds the rest at full speed and scrubs.
    fn scrub(&mut self, node: &Node) {
        node.set_rate(0);
        node.until_healthy();
        let scrub = node.scrub();
        self.counts.scrubs += 1;
        self.counts.mismatches += scrub.mismatches + scrub.unreadable;
        assert_eq!(
            (scrub.mismatches, scrub.unreadable),
            (0, 0),
            "{}: {}",
            self.level,
            self.folder.log()
        );
    }

    fn run(&mut self) {
        let cycles = from_environment("BRAID_KILL_CYCLES", CYCLES);
        let mut record = Record::new(DISK_BYTES / BLOCK as u64);
        let mut node = self.folder.start();
        for cycle in 0..cycles {
            let was_healthy = node.group().state == GroupState::Healthy;
            record = self.trouble(node, record);
            self.move_drives(was_healthy, cycle);
            node = self.start();
            node.set_rate(SLOW_MIB_S);
            record = self.check(&node, record);
            if self.away.is_empty() && self.random.chance(50) {
                self.scrub(&node);
            }
        }
        node.stop();
        for drive in std::mem::take(&mut self.away) {
            self.folder.give_back(drive);
            self.counts.drives_back += 1;
        }
        let node = self.folder.start();
        self.scrub(&node);
        self.check(&node, record);
        node.stop();
    }
}

/// Rows that replays brought up to date, by the nodes' own account.
fn rows_replayed(log: &str) -> u64 {
    let after = log.split("the journal was replayed, ").skip(1);
    after
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Goes through the cycles of one level and prints what happened.
fn survives(level: &'static str, drives: usize, choose: fn(&mut Random) -> Vec<usize>) {
    let seed = from_environment("BRAID_KILL_SEED", 1);
    let started = Instant::now();
    let mut cycles = Cycles {
        level,
        choose,
        folder: Folder::make(level, drives),
        random: Random::new(seed, (level.len() << 8 | drives) as u64),
        away: Vec::new(),
        counts: Counts::default(),
    };
    cycles.run();
    let log = cycles.folder.log();
    assert!(!log.contains("panicked"), "{log}");
    let counts = &cycles.counts;
    assert!(
        counts.kills > 0 && counts.writes > 0 && counts.scrubs > 0,
        "{counts:?}"
    );
    println!(
        "{level:<8} {:>4} kills ({} in a rebuild), {} more in the start, {} stops; {} drives taken, {} back; \
         {} writes acknowledged, {} rows replayed, {} blocks checked, {} scrubs, {} mismatches; {:.0} s",
        counts.kills,
        counts.kills_in_rebuild,
        counts.kills_in_start,
        counts.stops,
        counts.drives_taken,
        counts.drives_back,
        counts.writes,
        rows_replayed(&log),
        counts.blocks_checked,
        counts.scrubs,
        counts.mismatches,
        started.elapsed().as_secs_f64(),
    );
}

#[test]
fn raid5_keeps_what_it_acknowledged() {
    survives("raid5", 4, |random| some_of(random, 4, 1));
}

#[test]
fn raid6_keeps_what_it_acknowledged() {
    survives("raid6", 5, |random| some_of(random, 5, 2));
}

/// Copies that go round: any two drives that are no neighbours.
#[test]
fn raid10_keeps_what_it_acknowledged() {
    survives("raid10", 5, |random| {
        let first = random.index(5);
        vec![first, (first + 2 + random.index(2)) % 5]
    });
}

#[test]
fn three_check_strips_keep_what_they_acknowledged() {
    survives("raidtp", 7, |random| some_of(random, 7, 3));
}
