//! Hosts with a path to each node of an array, which use them like Linux's native multipath: one at a time, another one when that is lost or the node says that the namespace
//! is inaccessible there, and lost ones are connected again beside the load. Every answer is written down (PROTOCOL 4.2).

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use braid::sim::history::{Durability, Ended, History, Wish};
use braid::sim::stamp::{Content, fill, recognise};
use nvme::status::Status;

use super::queue::{Answer, Host, Manner, read, write};
use super::scene::Random;
use super::stage::WAIT;

const BLOCK: u32 = 4096;
/// Blocks that hosts use: a few stripe rows of which all of them want all.
const BLOCKS: u64 = 96;
/// Commands that a host has under way at once.
const DEPTH: usize = 3;
/// Wait between the commands of a host, so that a machine that others use, too, keeps up.
const PAUSE: Duration = Duration::from_millis(2);
/// Wait before a path is tried again.
const RECONNECT: Duration = Duration::from_millis(100);

/// What was counted over all hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Commands that were carried out.
    pub done: u64,
    /// Commands that a node refused because hosts are to go elsewhere.
    pub refused: u64,
    /// Commands that were lost with their connection.
    pub lost: u64,
    /// The longest time between two answers to one host.
    pub longest: Duration,
}

/// What all hosts do.
pub struct Load {
    history: Mutex<History>,
    is_over: AtomicBool,
    counts: Mutex<Counts>,
}

/// One path of a host.
enum Path {
    Up(Box<Host>),
    /// It is connected on a thread of its own, because a node that has just gone may keep whoever dials waiting.
    Connecting(Receiver<io::Result<Host>>),
}

impl Path {
    fn connect(address: SocketAddr, host: u8) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            thread::sleep(RECONNECT);
            let manner = Manner {
                host,
                patience: WAIT,
                ..Manner::default()
            };
            let _ = sender.send(Host::try_connect_as(address, manner)); // The host may be over.
        });
        Self::Connecting(receiver)
    }
}

/// One host.
struct Multipath<'a> {
    load: &'a Load,
    number: u8,
    addresses: &'a [SocketAddr],
    paths: Vec<Path>,
    /// Associations with nodes that told it to go elsewhere: theirs to end.
    left: Vec<Host>,
    random: Random,
}

impl Multipath<'_> {
    /// The path that it uses now: its own one if that is up.
    fn path(&mut self) -> Option<usize> {
        for (path, address) in self.paths.iter_mut().zip(self.addresses) {
            let connecting = match path {
                // A path that is not used now may have ended meanwhile.
                Path::Up(host) if host.io[0].is_closed() => {
                    *path = Path::connect(*address, self.number + 1);
                    continue;
                }
                Path::Up(_) => continue,
                Path::Connecting(connecting) => connecting,
            };
            match connecting.try_recv() {
                Ok(Ok(host)) => *path = Path::Up(Box::new(host)),
                Ok(Err(_)) => *path = Path::connect(*address, self.number + 1),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => panic!("a host is refused at {address}"),
            }
        }
        let count = self.paths.len();
        let home = usize::from(self.number) % count;
        let mut tried = (home..home + count).map(|at| at % count);
        tried.find(|at| matches!(self.paths[*at], Path::Up(_)))
    }

    /// Sends a few commands by a path, and takes the answers. What is not carried out is left to whatever it draws next: that goes another way.
    fn run(&mut self, at: usize) {
        let Path::Up(host) = &mut self.paths[at] else {
            unreachable!("it is a path that is up")
        };
        let queue = &mut host.io[0];
        let mut asked = Vec::new();
        for _ in 0..DEPTH {
            let blocks = 1 + self.random.below(3);
            let lba = self.random.below(BLOCKS - blocks + 1);
            let blocks = u32::try_from(blocks).unwrap();
            let wish = match self.random.below(2) {
                0 => Wish::Read,
                _ => Wish::Write { forced: false },
            };
            let number = self.load.history.lock().unwrap().begin(wish, lba, blocks);
            let sent = if wish == Wish::Read {
                queue.try_submit(read(1, lba, blocks), &[], blocks * BLOCK)
            } else {
                let mut data = vec![0; (blocks * BLOCK) as usize];
                for (at, block) in (lba..).zip(data.chunks_mut(BLOCK as usize)) {
                    fill(block, number, at);
                }
                queue.try_submit(write(1, lba, blocks), &data, 0)
            };
            asked.push((sent, number, lba, wish));
        }
        let (mut refused, mut lost, mut done) = (0, 0, 0);
        for (sent, number, lba, wish) in asked {
            match sent.and_then(|cid| queue.try_wait(cid)) {
                Ok(answer) if answer.is(Status::ANA_INACCESSIBLE) => {
                    self.load.history.lock().unwrap().end(number, Ended::Failed, &[]);
                    refused += 1;
                }
                Ok(answer) => {
                    self.load.note(number, lba, wish, &answer);
                    done += 1;
                }
                // It may have had its effect, or have it later.
                Err(_) => lost += 1,
            }
        }
        let mut counts = self.load.counts.lock().unwrap();
        counts.done += done;
        counts.refused += refused;
        counts.lost += lost;
        drop(counts);
        if refused + lost > 0 {
            let again = Path::connect(self.addresses[at], self.number + 1);
            let Path::Up(host) = std::mem::replace(&mut self.paths[at], again) else {
                unreachable!("it was up")
            };
            self.left.push(*host);
        }
    }

    fn live(&mut self) {
        let mut last = Instant::now();
        while !self.load.is_over.load(Ordering::Relaxed) {
            let Some(at) = self.path() else {
                thread::sleep(PAUSE);
                continue;
            };
            let before = self.load.counts.lock().unwrap().done;
            self.run(at);
            let mut counts = self.load.counts.lock().unwrap();
            if counts.done > before {
                counts.longest = counts.longest.max(last.elapsed());
                last = Instant::now();
            }
            drop(counts);
            thread::sleep(PAUSE);
        }
    }
}

impl Load {
    /// Hosts that have done nothing yet.
    pub fn new() -> Self {
        Self {
            history: Mutex::new(History::new(BLOCKS, Durability::Acknowledged, Content::Zeroes)),
            is_over: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }

    /// Runs so many hosts while `act` goes on. Then every block is read once more by each path, and one order of all commands has to explain all answers.
    pub fn under(self, hosts: u8, addresses: &[SocketAddr], act: impl FnOnce(&Self)) {
        thread::scope(|scope| {
            for number in 0..hosts {
                let load = &self;
                scope.spawn(move || {
                    let connect = |address: &SocketAddr| Path::connect(*address, number + 1);
                    let mut host = Multipath {
                        load,
                        number,
                        addresses,
                        paths: addresses.iter().map(connect).collect(),
                        left: Vec::new(),
                        random: Random(u64::from(number) * 7919 + 1),
                    };
                    host.live();
                });
            }
            let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&self)));
            self.is_over.store(true, Ordering::Relaxed);
            if let Err(panic) = acted {
                std::panic::resume_unwind(panic);
            }
        });
        for address in addresses {
            self.read_all(&mut super::sharing::connect(*address, hosts + 1));
        }
        if let Err(contradiction) = self.history.into_inner().unwrap().judge() {
            panic!("{contradiction}");
        }
    }

    fn read_all(&self, host: &mut Host) {
        for lba in 0..BLOCKS {
            let number = self.history.lock().unwrap().begin(Wish::Read, lba, 1);
            let answer = host.io[0].run(read(1, lba, 1), &[], BLOCK);
            self.note(number, lba, Wish::Read, &answer);
        }
    }

    /// Writes an answer down. Panics at an error, which would be one for whoever uses the host's disk.
    fn note(&self, number: u32, lba: u64, wish: Wish, answer: &Answer) {
        let status = answer.status();
        assert!(status.is_success(), "I/O error: {wish:?} at {lba}: {status}");
        let found = (lba..).zip(answer.data.chunks(BLOCK as usize));
        let seen: Vec<Content> = found.map(|(at, block)| recognise(block, at)).collect();
        self.history.lock().unwrap().end(number, Ended::Done, &seen);
    }

    /// What was counted so far; the longest time without an answer begins anew.
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.lock().unwrap();
        let seen = *counts;
        counts.longest = Duration::ZERO;
        seen
    }

    /// Waits until every host may have been answered some more.
    pub fn await_progress(&self) {
        let begin = Instant::now();
        let before = self.counts.lock().unwrap().done;
        while self.counts.lock().unwrap().done < before + 400 {
            assert!(begin.elapsed() < 2 * WAIT, "hosts get answers");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
