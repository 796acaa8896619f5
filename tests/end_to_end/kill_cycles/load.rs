//! Hosts that write all over a disk, and over one another, until they are told to stop or the node is gone.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use braid::sim::history::Wish;
use braid::sim::random::Random;
use nvme::command::{SubmissionEntry, io_opcode};

use super::super::queue::{Answer, Host, Manner, Queue, command, read, write};
use super::record::{BLOCK, Record, fill};

/// Commands in flight on a queue.
const DEPTH: usize = 6;
/// Blocks of a command at most: 256 KiB.
const BLOCKS_MAX: u32 = 64;
/// Blocks that half of the commands are about, so that they meet one another.
const HOT_BLOCKS: u64 = 200;
/// Force Unit Access, in dword 12.
const FUA: u32 = 1 << 30;

/// What a host asks.
struct Question {
    wish: Wish,
    lba: u64,
    blocks: u32,
}

/// Chooses a command.
fn question(random: &mut Random, record: &Record) -> Question {
    for _ in 0..8 {
        let blocks = 1 << random.below(7);
        let blocks = if random.chance(30) {
            random.between(1, BLOCKS_MAX)
        } else {
            blocks
        };
        let span = if random.chance(50) {
            HOT_BLOCKS
        } else {
            record.blocks()
        };
        let lba = random.below(span).min(record.blocks() - u64::from(blocks));
        let forced = random.chance(20);
        let wish = match random.below(100) {
            0..5 => Wish::Flush,
            5..20 => Wish::Read,
            20..28 => Wish::Zero { forced },
            _ => Wish::Write { forced },
        };
        let writes = matches!(wish, Wish::Write { .. } | Wish::Zero { .. });
        if !(writes && record.is_busy(lba, blocks)) {
            return Question { wish, lba, blocks };
        }
    }
    Question {
        wish: Wish::Flush,
        lba: 0,
        blocks: 0,
    }
}

/// Sends a command that the record knows of. Fails if the node is gone.
fn ask(queue: &mut Queue, question: &Question, writer: u32) -> io::Result<u16> {
    let Question { wish, lba, blocks } = *question;
    let force = |mut entry: SubmissionEntry, forced: bool| {
        if forced {
            entry.set_dword(12, entry.dword(12) | FUA);
        }
        entry
    };
    match wish {
        Wish::Read => queue.try_submit(read(1, lba, blocks), &[], blocks * 4096),
        Wish::Write { forced } => {
            let mut data = vec![0; blocks as usize * BLOCK];
            for (lba, block) in (lba..).zip(data.chunks_exact_mut(BLOCK)) {
                fill(block, writer, lba);
            }
            queue.try_submit(force(write(1, lba, blocks), forced), &data, 0)
        }
        Wish::Zero { forced } => {
            let entry = command(io_opcode::WRITE_ZEROES, 1, lba, blocks);
            queue.try_submit(force(entry, forced), &[], 0)
        }
        Wish::Flush => {
            let mut entry = SubmissionEntry::new(io_opcode::FLUSH, 0);
            entry.set_nsid(1);
            queue.try_submit(entry, &[], 0)
        }
        Wish::Compare { .. } | Wish::Swap { .. } => unreachable!("no such question is asked"),
    }
}

fn note(record: &mut Record, (number, question): (u32, Question), answer: &Answer) {
    let is_success = answer.status().is_success();
    if question.wish == Wish::Read {
        record.end_read(number, question.lba, is_success.then_some(&answer.data));
    } else {
        record.end(number, question.wish, is_success);
    }
}

/// One queue's load. Ends when `stop` and every command is answered, or when the node is gone.
fn drive(queue: &mut Queue, record: &Mutex<Record>, random: &mut Random, stop: &AtomicBool) {
    let mut open: BTreeMap<u16, (u32, Question)> = BTreeMap::new();
    loop {
        while open.len() < DEPTH && !stop.load(Ordering::Relaxed) {
            let (question, number, writer) = {
                let mut record = record.lock().unwrap();
                let question = question(random, &record);
                let number = record.begin(question.wish, question.lba, question.blocks);
                (question, number, record.writer(number))
            };
            let Ok(cid) = ask(queue, &question, writer) else {
                return;
            };
            open.insert(cid, (number, question));
        }
        if open.is_empty() {
            return;
        }
        let Ok((cid, answer)) = queue.try_next() else {
            return;
        };
        let asked = open.remove(&cid).unwrap();
        note(&mut record.lock().unwrap(), asked, &answer);
    }
}

/// Runs two hosts of two queues each while `meanwhile` does; it ends the node or lets it be. Hosts that are still
/// connected then finish what they began.
pub fn load(address: SocketAddr, record: &Mutex<Record>, seed: u64, meanwhile: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for host in 1..=2_u8 {
            let manner = Manner {
                queues: 2,
                host,
                ..Manner::default()
            };
            let mut host_queues = Host::connect_as(address, manner);
            let stop = &stop;
            scope.spawn(move || {
                // The admin queue stays open as long as the I/O queues are used.
                let Host { admin, io, .. } = &mut host_queues;
                std::thread::scope(|scope| {
                    for (queue, stream) in io.iter_mut().zip(0..) {
                        let mut random = Random::new(seed, u64::from(host) << 8 | stream);
                        scope.spawn(move || drive(queue, record, &mut random, stop));
                    }
                });
                let _ = admin;
            });
        }
        meanwhile();
        stop.store(true, Ordering::Relaxed);
    });
}

/// Reads the whole disk, and enters what it holds.
pub fn read_all(address: SocketAddr, record: &mut Record) -> Vec<u8> {
    let mut host = Host::connect(address);
    let mut all = Vec::new();
    for lba in (0..record.blocks()).step_by(BLOCKS_MAX as usize) {
        let number = record.begin(Wish::Read, lba, BLOCKS_MAX);
        let data = host.read(1, lba, BLOCKS_MAX, 4096);
        record.end_read(number, lba, Some(&data));
        all.extend(data);
    }
    all
}
