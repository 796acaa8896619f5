//! Hosts at all nodes of a shared group, and nodes that are killed, stopped and cut off meanwhile. Every answer to every host is written down, and an
//! order of all commands on each block has to explain all of them (PROTOCOL 4.2).
//!
//! A few schedules in CI; `BRAID_SHARING_SCENES=34 BRAID_SHARING_SCHEDULES=3 BRAID_SHARING_SEED=7 cargo test --release --test end_to_end sharing_under_blows -- --nocapture`
//! for more: so many times so many schedules, of which the last third of each scene have a drive that fails with the first of them. It ends with a table of how long hosts were without an answer.
//! `BRAID_SHARING_CALM_SECONDS=600` for ten minutes in which nothing happens first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use braid::sim::history::{Durability, Ended, History, Wish};
use braid::sim::stamp::{Content, fill, recognise};
use nvme::command::{SubmissionEntry, io_opcode};
use nvme::log::CrossResetStage;
use nvme::status::Status;

use super::queue::{Host, Instance, Manner, command, read, write};
use super::scene::{Random, Scene};
use super::sharing::GROUP;
use super::sharing_memory::{group, until_restored};
use super::stage::WAIT;

const BLOCK: u32 = 4096;
/// Blocks that hosts use: a few stripe rows of which all of them want all.
const BLOCKS: u64 = 96;
/// The part of them where every third command goes.
const HOT: u64 = 6;
/// After so many schedules hosts go on to other blocks: a write that was never answered may take effect at any time, and the judge tries all orders.
const SCHEDULES_A_WINDOW: u64 = 8;
/// One in so many commands of a host is a write in the middle of which it goes away without closing its connection.
const LEAVES_ONE_IN: u64 = 150;
/// How long a host waits for a node to take its connection, and for a command.
const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(6);

/// What all hosts do.
struct Load {
    history: Mutex<History>,
    /// Hosts are to come to an end.
    is_over: AtomicBool,
    /// The longest that a host was without an answer since this was looked at, in microseconds.
    longest: Mutex<Duration>,
    completed: Mutex<u64>,
    /// Associations that were ended through another node.
    resets: Mutex<u64>,
    /// Wait between two commands of a host.
    pause: Duration,
    /// Where the blocks begin that hosts use now.
    first: AtomicU64,
}

/// A host's association that it has left, and the write that it had under way there. Its sockets stay open, as if the network were cut.
struct Left {
    _host: Host,
    instance: Instance,
    command: u32,
}

/// One command of a host, and how it is written down.
struct Asked {
    wish: Wish,
    lba: u64,
    blocks: u32,
}

impl Load {
    fn new(pause: Duration, windows: u64) -> Self {
        let blocks = windows * BLOCKS;
        Self {
            history: Mutex::new(History::new(blocks, Durability::Acknowledged, Content::Zeroes)),
            is_over: AtomicBool::new(false),
            longest: Mutex::default(),
            completed: Mutex::default(),
            resets: Mutex::default(),
            pause,
            first: AtomicU64::new(0),
        }
    }

    /// A host that goes to the next node whenever one does not answer.
    fn host(&self, number: u8, addresses: &[SocketAddr]) {
        let mut random = Random(u64::from(number) * 7919);
        let mut path = u64::from(number);
        let mut last = Instant::now();
        let mut left: Option<Left> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            // Not the next one, or all of them would come to be at the same.
            path += 1 + random.below(addresses.len() as u64 - 1);
            let manner = Manner {
                host: number + 1,
                patience: CONNECT,
                ..Manner::default()
            };
            let Ok(mut host) = Host::try_connect_as(
                addresses[usize::try_from(path).unwrap() % addresses.len()],
                manner,
            ) else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            host.io[0].be_patient(ANSWER);
            if let Some(left) = left.take() {
                self.end_left(&mut host, &left);
            }
            let Ok(instance) = host.try_instance() else {
                continue;
            };
            while !self.is_over.load(Ordering::Relaxed) {
                if random.below(LEAVES_ONE_IN) == 0 {
                    let command = self.leave(&mut host, &mut random);
                    left = Some(Left {
                        _host: host,
                        instance,
                        command,
                    });
                    break;
                }
                if !self.run(&mut host, &mut random) {
                    break;
                }
                let gap = last.elapsed();
                last = Instant::now();
                let mut longest = self.longest.lock().unwrap();
                *longest = gap.max(*longest);
                drop(longest);
                *self.completed.lock().unwrap() += 1;
                thread::sleep(self.pause);
            }
        }
    }

    /// Begins a write and does not wait for its end.
    fn leave(&self, host: &mut Host, random: &mut Random) -> u32 {
        let (blocks, wish) = (3, Wish::Write { forced: false });
        let lba = self.first.load(Ordering::Relaxed) + random.below(BLOCKS - u64::from(blocks) + 1);
        let number = self.history.lock().unwrap().begin(wish, lba, blocks);
        let mut data = vec![0; (blocks * BLOCK) as usize];
        for (at, block) in (lba..).zip(data.chunks_mut(BLOCK as usize)) {
            fill(block, number, at);
        }
        // A target that is gone has not taken it.
        let _ = host.io[0].try_submit(write(1, lba, blocks), &data, 0);
        number
    }

    /// Has another node end what was left. Then the write has taken effect or never will.
    fn end_left(&self, host: &mut Host, left: &Left) {
        if let Ok(CrossResetStage::Succeeded) = host.try_reset(left.instance) {
            self.history.lock().unwrap().end(left.command, Ended::Failed, &[]);
            *self.resets.lock().unwrap() += 1;
        }
    }

    fn draw(&self, random: &mut Random) -> Asked {
        let blocks = 1 + random.below(3);
        let end = if random.below(3) == 0 { HOT } else { BLOCKS };
        let lba = self.first.load(Ordering::Relaxed) + random.below(end - blocks + 1);
        let wish = match random.below(10) {
            0..5 => Wish::Read,
            5..8 => Wish::Write {
                forced: random.below(4) == 0,
            },
            8 => Wish::Zero { forced: false },
            _ => Wish::Swap {
                expected: self.history.lock().unwrap().last_written(lba),
                forced: false,
            },
        };
        let blocks = match wish {
            Wish::Swap { .. } => 1,
            Wish::Read | Wish::Write { .. } | Wish::Zero { .. } | Wish::Compare { .. } | Wish::Flush => {
                u32::try_from(blocks).unwrap()
            }
        };
        Asked { wish, lba, blocks }
    }

    /// Runs one command. False if its connection is of no use any more: the command may have had its effect or have it later.
    fn run(&self, host: &mut Host, random: &mut Random) -> bool {
        let Asked { wish, lba, blocks } = self.draw(random);
        let number = self.history.lock().unwrap().begin(wish, lba, blocks);
        let queue = &mut host.io[0];
        let mut data = vec![0; (blocks * BLOCK) as usize];
        for (at, block) in (lba..).zip(data.chunks_mut(BLOCK as usize)) {
            fill(block, number, at);
        }
        let ended = match wish {
            Wish::Read => queue.try_run(read(1, lba, blocks), &[], blocks * BLOCK),
            Wish::Write { forced } => queue.try_run(forced_if(write(1, lba, blocks), forced), &data, 0),
            Wish::Zero { .. } => queue.try_run(command(io_opcode::WRITE_ZEROES, 1, lba, blocks), &[], 0),
            Wish::Swap { expected, .. } => {
                let mut old = vec![0; BLOCK as usize];
                if let Content::Command(of) = expected {
                    fill(&mut old, of, lba);
                }
                let mut compare = command(io_opcode::COMPARE, 1, lba, 1);
                compare.set_fuse(1);
                let mut second = write(1, lba, 1);
                second.set_fuse(2);
                queue.try_submit(compare, &old, 0).and_then(|compared| {
                    let written = queue.try_submit(second, &data, 0)?;
                    let (compared, written) = (queue.try_wait(compared)?, queue.try_wait(written)?);
                    Ok(if compared.is(Status::ANA_INACCESSIBLE) {
                        compared
                    } else {
                        written
                    })
                })
            }
            Wish::Compare { .. } | Wish::Flush => unreachable!("they are not drawn"),
        };
        let Ok(answer) = ended else { return false };
        let status = answer.status();
        let seen: Vec<Content> = match wish {
            Wish::Read if status.is_success() => {
                let found = (lba..).zip(answer.data.chunks(BLOCK as usize));
                found.map(|(at, block)| recognise(block, at)).collect()
            }
            Wish::Read
            | Wish::Write { .. }
            | Wish::Zero { .. }
            | Wish::Swap { .. }
            | Wish::Compare { .. }
            | Wish::Flush => Vec::new(),
        };
        if status.same_code(Status::ANA_INACCESSIBLE) {
            // The node is about to go: the host is to take another path.
            self.history.lock().unwrap().end(number, Ended::Failed, &[]);
            return false;
        }
        let ended = if status.is_success() {
            Ended::Done
        } else if status.same_code(Status::ABORTED_FAILED_FUSED) {
            Ended::Differed
        } else {
            panic!("{wish:?} of {blocks} at {lba}: {status}")
        };
        self.history.lock().unwrap().end(number, ended, &seen);
        true
    }

    /// What was seen since the last time: the longest time without an answer.
    fn take_longest(&self) -> Duration {
        std::mem::take(&mut self.longest.lock().unwrap())
    }

    /// Waits until every host may have been answered some more.
    fn await_progress(&self) {
        let begin = Instant::now();
        let before = *self.completed.lock().unwrap();
        while *self.completed.lock().unwrap() < before + 200 {
            assert!(begin.elapsed() < 2 * WAIT, "hosts get answers");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn forced_if(mut entry: SubmissionEntry, forced: bool) -> SubmissionEntry {
    if forced {
        entry.set_dword(12, entry.dword(12) | 1 << 30);
    }
    entry
}

/// What a schedule does to one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// Nothing: how long answers take by themselves.
    None,
    Kill,
    Stop,
    Cut,
    /// It leaves the array in good order, and comes back.
    Restart,
    /// Not it alone, but all of them.
    KillAll,
}

/// How long hosts were without an answer, by what happened, and whether a drive failed with it.
type Gaps = BTreeMap<(Blow, bool), Vec<Duration>>;

/// What happens to the drive that fails in a scene: once, for drives are not replaced here.
fn break_drive(scene: &mut Scene, breaks: bool) {
    if breaks {
        scene.break_drive("d1");
    }
}

fn strike(scene: &mut Scene, load: &Load, (blow, breaks): (Blow, bool), victim: u8, random: &mut Random) {
    let nodes = u8::try_from(scene.nodes.len()).unwrap();
    let all: Vec<u8> = (0..nodes).collect();
    let rest: Vec<u8> = all.iter().copied().filter(|slot| *slot != victim).collect();
    let at = usize::from(victim);
    thread::sleep(Duration::from_millis(random.below(200)));
    match blow {
        Blow::None => break_drive(scene, breaks),
        Blow::Kill => {
            scene.nodes[at] = None;
            break_drive(scene, breaks);
            scene.until_open("after a kill", &rest);
            load.await_progress();
            scene.start_node(victim);
        }
        Blow::Stop => {
            let stopped = scene.nodes[at].take();
            stopped.as_ref().unwrap().signal("-STOP");
            break_drive(scene, breaks);
            scene.until_open("after a stop", &rest);
            load.await_progress();
            stopped.as_ref().unwrap().signal("-CONT");
            scene.nodes[at] = stopped;
        }
        Blow::Cut => {
            let before = scene.newest_epoch();
            for other in &rest {
                scene.cut(victim, *other, true, true);
            }
            break_drive(scene, breaks);
            // Usually the larger side goes on; and whoever is left out soon joins again, in a life that is not cut off.
            scene.until_newer(before);
            load.await_progress();
            for other in &rest {
                scene.cut(victim, *other, false, false);
            }
        }
        Blow::KillAll => {
            scene.nodes.iter_mut().for_each(|node| *node = None);
            break_drive(scene, breaks);
            all.iter().for_each(|slot| scene.start_node(*slot));
        }
        Blow::Restart => {
            let stopped = scene.nodes[at].take();
            stopped.as_ref().unwrap().signal("-TERM");
            break_drive(scene, breaks);
            scene.until_open("after it has left", &rest);
            load.await_progress();
            scene.start_node(victim);
        }
    }
    scene.until_open("all are back", &all);
    load.await_progress();
}

fn print_gaps(gaps: Gaps) {
    for ((blow, breaks), mut of) in gaps {
        of.sort();
        let with = if breaks { " with a drive" } else { "" };
        println!(
            "{blow:?}{with}: {} schedules, longest time without an answer {:.2?} (median), {:.2?} (longest)",
            of.len(),
            of[of.len() / 2],
            of[of.len() - 1]
        );
    }
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Hosts use a group of so many nodes while these blows fall on them, in as many scenes as the environment says; `in_peace` waits for what has to be there before each.
fn suffer(nodes: u8, group: &str, (blows, schedules): (&[Blow], u64), in_peace: impl Fn(&Scene)) {
    let mut random = Random(number("BRAID_SHARING_SEED", 1));
    let mut gaps = Gaps::new();
    for scene in 0..number("BRAID_SHARING_SCENES", 1) {
        println!("scene {scene}");
        // Scenes of three begin elsewhere each time, so that a drive fails with each blow in turn.
        let first = scene * (schedules + 2);
        let blows: Vec<Blow> = (first..first + schedules)
            .map(|at| blows[usize::try_from(at).unwrap() % blows.len()])
            .collect();
        suffer_once(nodes, group, &blows, &mut random, &in_peace, &mut gaps);
    }
    print_gaps(gaps);
}

/// In one scene.
fn suffer_once(
    nodes: u8,
    group: &str,
    blows: &[Blow],
    random: &mut Random,
    in_peace: impl Fn(&Scene),
    gaps: &mut Gaps,
) {
    let schedules = blows.len() as u64;
    // Two thirds with all drives.
    let breaks_at = schedules * 2 / 3;
    let hosts = u8::try_from(number("BRAID_SHARING_HOSTS", 6)).unwrap();
    let mut scene = Scene::set(nodes, group);
    scene.create(0);
    let all: Vec<u8> = (0..nodes).collect();
    scene.until_open("formed", &all);
    let pause = Duration::from_millis(number("BRAID_SHARING_PAUSE_MS", 2));
    let load = Load::new(pause, 1 + schedules / SCHEDULES_A_WINDOW);
    let addresses = scene.hosts.clone();
    thread::scope(|scope| {
        for host in 0..hosts {
            let (load, addresses) = (&load, &addresses);
            scope.spawn(move || load.host(host, addresses));
        }
        let strikes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            load.await_progress();
            load.take_longest();
            thread::sleep(Duration::from_secs(number("BRAID_SHARING_CALM_SECONDS", 1)));
            gaps.entry((Blow::None, false))
                .or_default()
                .push(load.take_longest());
            for (schedule, blow) in (0..).zip(blows) {
                let window = schedule / SCHEDULES_A_WINDOW;
                load.first.store(window * BLOCKS, Ordering::Relaxed);
                let (blow, breaks) = (*blow, schedule == breaks_at);
                let victim = u8::try_from(random.below(u64::from(nodes))).unwrap();
                in_peace(&scene);
                println!(
                    "schedule {schedule}: {blow:?} of {victim}{}",
                    if breaks { " with a drive" } else { "" }
                );
                strike(&mut scene, &load, (blow, breaks), victim, random);
                gaps.entry((blow, breaks)).or_default().push(load.take_longest());
            }
        }));
        load.is_over.store(true, Ordering::Relaxed);
        if let Err(panic) = strikes {
            std::panic::resume_unwind(panic);
        }
    });
    let resets = load.resets.into_inner().unwrap();
    assert!(resets > 0, "hosts have left associations behind");
    let history = load.history.into_inner().unwrap();
    println!(
        "{} commands, {resets} associations ended through another node",
        history.next_command()
    );
    if let Err(contradiction) = history.judge() {
        panic!("{contradiction}");
    }
}

/// CHECKLIST A4, B1, B9, C2, E2, PROTOCOL I8, I9, H19 to H21, H37, H38.
#[test]
fn whatever_happens_to_nodes_every_answer_is_explained() {
    let blows = [
        Blow::Kill,
        Blow::Stop,
        Blow::Cut,
        Blow::Restart,
        Blow::KillAll,
        Blow::Kill,
    ];
    let nodes = u8::try_from(number("BRAID_SHARING_NODES", 3)).unwrap();
    let schedules = number("BRAID_SHARING_SCHEDULES", 8);
    suffer(nodes, GROUP, (&blows, schedules), |_| ());
}

/// CHECKLIST A4, PROTOCOL H17 to H19, H37, H38: the same where writes are acknowledged once two nodes have them in memory; one node is struck at a time, when there are copies of everything again. Drives are so
/// fast here that nearly all is in journals, too: that copies are needed, and there, `sharing_memory` shows, where they are slow.
#[test]
fn whatever_happens_to_nodes_others_have_what_they_had_in_memory() {
    let blows = [
        Blow::Kill,
        Blow::Stop,
        Blow::Kill,
        Blow::Cut,
        Blow::Restart,
        Blow::Stop,
    ];
    let nodes = u8::try_from(number("BRAID_SHARING_NODES", 3)).unwrap();
    let schedules = number("BRAID_SHARING_MEMORY_SCHEDULES", 4);
    suffer(nodes, &group(2), (&blows, schedules), until_restored);
}
