//! What does the NVMe/TCP codec cost per command, against copying the same bytes once?
//!
//! A read: its capsule is parsed, then the command completed with data (which stays where it is). A write: its capsule is
//! parsed with 4 KiB of data in it, admitted, its data handed out in place, then completed. Run with
//! `cargo bench --bench pdu`; `-- --quick` or `BRAID_BENCH_QUICK=1` for smoke.
//!
//! Instructions: run the executable that `cargo bench --bench pdu --no-run` names as `valgrind --tool=callgrind
//! --toggle-collect='pdu::End::turn*' EXECUTABLE --quick '4 KiB read'`; then `callgrind_annotate --inclusive=yes
//! --tree=caller` on its output gives the instructions of all calls of `turn`, and how many there were. A turn is 32 commands.

use std::cell::RefCell;
use std::hint::black_box;

use baseline::{Buffer, Candidate, Effort, Unit, compare, print_line};
use nvme::command::{Sgl, SubmissionEntry, io_opcode};
use nvme::status::Status;
use nvme::tcp::pdu::{Digests, IcReq, encode_command};
use nvme::tcp::target::{Connection, Event, Limits, Outbox, Queue, Success};

const DATA_BYTES: u32 = 4096;
/// What a receive holds when a host keeps its queue full.
const DEPTH: u16 = 32;

const LIMITS: Limits = Limits {
    in_capsule_bytes: 8192,
    max_h2c_bytes: 128 << 10,
    max_transfer_bytes: 1 << 20,
    header_digest: true,
    data_digest: true,
    slots_max: 128,
};

const QUEUE: Queue = Queue {
    entries: 128,
    flow_control: false, // As Linux hosts connect.
    admin: false,
    success: Success::WithoutFlowControl,
};

/// One connection with its queue connected, and what it wants to send.
struct End {
    connection: Connection,
    out: Outbox,
    data_digest: bool,
}

impl End {
    fn new(digests: Digests) -> Self {
        let mut connection = Connection::new(LIMITS, braid::target::crc32c);
        let mut out = Outbox::default();
        let request = IcReq {
            alignment: 0,
            digests,
            max_r2t: 0,
        };
        assert_eq!(connection.next(&mut request.encode().as_slice(), &mut out), None);
        assert!(connection.is_ready(), "the request was right");
        connection.set_queue(QUEUE);
        Self {
            connection,
            out,
            data_digest: digests.data,
        }
    }

    /// Takes one receive's bytes and completes every command in them. Gives how many there were.
    #[inline(never)] // So that a profile shows it.
    fn turn(&mut self, mut input: &[u8], data: &[u8]) -> u16 {
        let mut completed = 0;
        self.out.clear();
        while let Some(event) = self.connection.next(&mut input, &mut self.out) {
            match event {
                Event::Command { slot, entry, .. } if entry.opcode() == io_opcode::READ => {
                    let crc = self.data_digest.then(|| braid::target::crc32c(0, data));
                    self.connection
                        .complete_with_data(slot, 0, DATA_BYTES, crc, &mut self.out);
                    completed += 1;
                }
                Event::Command { slot, .. } => self.connection.admit(slot, &mut self.out),
                Event::Data { bytes, .. } => {
                    black_box(bytes);
                }
                Event::DataDone { slot } => {
                    self.connection.complete(slot, 0, Status::SUCCESS, &mut self.out);
                    completed += 1;
                }
                Event::DataCorrupt { .. } | Event::Close { .. } => {
                    unreachable!("the bytes are right: {event:?}")
                }
            }
        }
        completed
    }
}

/// A receive full of command capsules.
fn capsules(opcode: u8, digests: Digests, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let digest = |bytes: &mut Vec<u8>, wanted: bool, from: usize| {
        if wanted {
            let crc = nvme::crc32c::portable(0, &bytes[from..]);
            bytes.extend(crc.to_le_bytes());
        }
    };
    let carries = opcode == io_opcode::WRITE;
    for cid in 0..DEPTH {
        let mut entry = SubmissionEntry::new(opcode, cid);
        entry.set_nsid(1);
        entry.set_sgl(if carries {
            Sgl::InCapsule {
                offset_bytes: 0,
                length_bytes: DATA_BYTES,
            }
        } else {
            Sgl::Transport {
                length_bytes: DATA_BYTES,
            }
        });
        let header_at = bytes.len();
        let carried_bytes = if carries { DATA_BYTES } else { 0 };
        bytes.extend(encode_command(&entry, digests, 0, carried_bytes));
        digest(&mut bytes, digests.header, header_at);
        if carries {
            let data_at = bytes.len();
            bytes.extend(data);
            digest(&mut bytes, digests.data, data_at);
        }
    }
    bytes
}

fn measure(effort: &Effort, what: &str, opcode: u8, digests: Digests) {
    if !effort.wants(what) {
        return;
    }
    let data = Buffer::new(DATA_BYTES as usize);
    let input = capsules(opcode, digests, &data);
    let mut end = End::new(digests);
    assert_eq!(end.turn(&input, &data), DEPTH, "each command completes");
    // The same bytes, copied: all that came in, and all that goes out.
    let sent_bytes = usize::try_from(end.out.total_bytes()).expect("a few hundred KiB");
    let moved_bytes = input.len() + sent_bytes;
    let (from, to) = (Buffer::new(moved_bytes), RefCell::new(Buffer::new(moved_bytes)));
    let candidates = vec![
        Candidate::new("codec", || {
            black_box(end.turn(black_box(&input), black_box(&data)));
        }),
        Candidate::new("memcpy", || {
            baseline::copy(&mut to.borrow_mut(), black_box(&from));
            black_box(&to);
        }),
    ];
    let unit = Unit::Nanoseconds {
        per_turn: u64::from(DEPTH),
    };
    let series = compare(effort, unit, candidates);
    print_line(what, unit, &series[0], &series[1], None);
}

fn main() {
    let effort = Effort::from_process();
    println!("NVMe/TCP codec of the target, CPU time a command, {DEPTH} commands a receive");
    let none = Digests::default();
    let both = Digests {
        header: true,
        data: true,
    };
    measure(&effort, "4 KiB read", io_opcode::READ, none);
    measure(&effort, "4 KiB read, digests", io_opcode::READ, both);
    measure(&effort, "4 KiB write in capsule", io_opcode::WRITE, none);
    measure(&effort, "4 KiB write in capsule, digests", io_opcode::WRITE, both);
}
