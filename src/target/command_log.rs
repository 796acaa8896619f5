//! The command log of a shelf: when each command that changes something began on its drive and when it was over, and when each change of a
//! reservation was in effect on all cores. For tests and for whoever wants to prove that nothing of a fenced host landed after the fence.
//!
//! Cores never wait for it: a record goes into a bounded queue, and a thread of its own writes lines. What finds the queue full is lost,
//! counted, and said in the log. Numbers are drawn when something happens, so that of two records of which one is because of
//! the other the cause has the lower number; lines may stand in another order.
//!
//! | line | after its number and time in ns |
//! |---|---|
//! | `started` | `instance=` as in log page C0h |
//! | `begin` | `nsid= host= key= opcode= lba= blocks=`; `key=-` if the host had none when rules last changed |
//! | `end` | `of=` number of the `begin`, `nsid= host= status=` as on the wire |
//! | `rules` | `nsid= order= kind= aborted= barred= registrants=`, lists by commas, `-` for none, a registrant as `host:key` |
//! | `lost` | `count=` records since the start that are not here |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{Builder, JoinHandle};

use nvme::reservation::{HostId, Key, Kind, Registrant};
use nvme::status::Status;
use reactor::Nanos;

/// Records that wait for the writer; at 120 bytes each they take 8 MiB.
const WAITING_MAX: usize = 64 << 10;
/// Lines that one write to the file takes together.
const LINES_MAX: usize = 1024;

/// What is noted.
#[derive(Clone, Debug)]
pub enum Note {
    /// The process has started.
    Started {
        /// Names the start.
        instance: [u8; 16],
    },
    /// A command is handed to its drive.
    Begin {
        /// The namespace.
        nsid: u32,
        /// Whose it is.
        host: HostId,
        /// Its opcode.
        opcode: u8,
        /// First block.
        lba: u64,
        /// Blocks.
        blocks: u32,
    },
    /// A command is over.
    End {
        /// The number of its begin.
        of: u64,
        /// The namespace.
        nsid: u32,
        /// Whose it was.
        host: HostId,
        /// How it ended.
        status: Status,
    },
    /// Rules are in effect on all cores, and what they end is over.
    Rules {
        /// The namespace.
        nsid: u32,
        /// The number of the order.
        order: u64,
        /// The type of the reservation.
        kind: Option<Kind>,
        /// Hosts whose commands were ended.
        aborted: Arc<Vec<HostId>>,
        /// Lives that are out for good, here and in the namespace beside.
        barred: Vec<HostId>,
        /// Who is registered from now on.
        registrants: Vec<Registrant>,
    },
}

struct Record {
    number: u64,
    at: Nanos,
    note: Note,
}

/// A core's way into the log.
#[derive(Clone)]
pub struct CommandLog {
    sender: SyncSender<Record>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    number: AtomicU64,
    lost: AtomicU64,
}

impl CommandLog {
    /// Opens the log, to go on at its end. The writer ends when every core has dropped its way into it.
    pub fn open(path: &Path) -> std::io::Result<(Self, JoinHandle<()>)> {
        let file = File::options().create(true).append(true).open(path)?;
        let (sender, receiver) = mpsc::sync_channel(WAITING_MAX);
        let counters = Arc::new(Counters::default());
        let writer = Writer {
            file,
            counters: Arc::clone(&counters),
            told_lost: 0,
            keys: BTreeMap::new(),
        };
        let thread = Builder::new()
            .name("command-log".to_owned())
            .spawn(move || writer.run(&receiver))?;
        Ok((Self { sender, counters }, thread))
    }

    /// Notes what happens at this moment; its number, from 1. Never waits.
    pub fn note(&self, at: Nanos, note: Note) -> u64 {
        let number = self.counters.number.fetch_add(1, Ordering::SeqCst) + 1;
        if self.sender.try_send(Record { number, at, note }).is_err() {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
        number
    }
}

struct Writer {
    file: File,
    counters: Arc<Counters>,
    /// Lost records that the log has told of.
    told_lost: u64,
    /// Keys as the last rules had them, by namespace and host.
    keys: BTreeMap<(u32, HostId), Key>,
}

impl Writer {
    fn run(mut self, receiver: &Receiver<Record>) {
        let mut text = String::new();
        while let Ok(first) = receiver.recv() {
            text.clear();
            self.line(&first, &mut text);
            for record in receiver.try_iter().take(LINES_MAX) {
                self.line(&record, &mut text);
            }
            self.tell_lost(&mut text);
            if let Err(error) = self.file.write_all(text.as_bytes()) {
                tracing::error!(%error, "the command log cannot be written: it ends here");
                return;
            }
        }
    }

    fn tell_lost(&mut self, text: &mut String) {
        let lost = self.counters.lost.load(Ordering::Relaxed);
        if lost > self.told_lost {
            tracing::warn!(
                records = lost - self.told_lost,
                "the command log has lost records"
            );
            self.told_lost = lost;
            let _ = writeln!(text, "0 0 lost count={lost}");
        }
    }

    fn line(&mut self, record: &Record, text: &mut String) {
        let _ = write!(text, "{} {} ", record.number, record.at);
        let _ = match &record.note {
            Note::Started { instance } => writeln!(text, "started instance={}", HostId(*instance)),
            Note::Begin {
                nsid,
                host,
                opcode,
                lba,
                blocks,
            } => {
                let key = self.keys.get(&(*nsid, *host));
                let key = key.map_or("-".to_owned(), |key| format!("{:#x}", key.0));
                writeln!(
                    text,
                    "begin nsid={nsid} host={host} key={key} opcode={opcode:#04x} lba={lba} blocks={blocks}"
                )
            }
            Note::End {
                of,
                nsid,
                host,
                status,
            } => writeln!(
                text,
                "end of={of} nsid={nsid} host={host} status={:#06x}",
                status.wire()
            ),
            Note::Rules {
                nsid,
                order,
                kind,
                aborted,
                barred,
                registrants,
            } => {
                self.keys.retain(|(of, _), _| of != nsid);
                let keys = registrants.iter().map(|it| ((*nsid, it.host), it.key));
                self.keys.extend(keys);
                let kind = kind.map_or(0, Kind::wire);
                writeln!(
                    text,
                    "rules nsid={nsid} order={order} kind={kind} aborted={} barred={} registrants={}",
                    list(aborted.iter()),
                    list(barred.iter()),
                    list(
                        registrants
                            .iter()
                            .map(|it| format!("{}:{:#x}", it.host, it.key.0))
                    ),
                )
            }
        };
    }
}

/// Items by commas, `-` for none.
fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    if items.is_empty() {
        "-".to_owned()
    } else {
        items.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a writer, so that the queue fills up.
    #[test]
    fn what_finds_no_room_is_counted_and_numbered_all_the_same() {
        let (sender, receiver) = mpsc::sync_channel(2);
        let log = CommandLog {
            sender,
            counters: Arc::default(),
        };
        let started = || Note::Started { instance: [7; 16] };
        let numbers: Vec<u64> = (0..4).map(|at| log.note(at, started())).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        assert_eq!(log.counters.lost.load(Ordering::Relaxed), 2);
        drop(log.sender);
        assert_eq!(receiver.iter().count(), 2);
    }
}
