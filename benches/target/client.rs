//! The load: a client so simple that the server is what is measured, and the same for target and baseline.
//!
//! It keeps a fixed number of prepared commands in flight and counts the bytes that come back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nvme::command::{CompletionEntry, SubmissionEntry, io_opcode};
use nvme::crc32c::portable;
use nvme::fabrics::{self, Configuration, Connect, ConnectData, PropertyAccess, property};
use nvme::nqn::Nqn;
use nvme::tcp::initiator::{Connection, Event, Options, Payload};
use nvme::tcp::target::{Outbox, Part};

/// Bytes of a command capsule without data.
pub const CAPSULE_BYTES: usize = 72;
/// Bytes of a C2HData or response capsule header.
pub const REPLY_BYTES: usize = 24;
/// Bytes of one command's data.
pub const BLOCK_BYTES: usize = 4096;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// 4 KiB reads.
    Read,
    /// 4 KiB writes with the data in the capsule.
    Write,
}

impl Operation {
    /// Bytes of one request on the wire.
    pub const fn request_bytes(self) -> usize {
        match self {
            Self::Read => CAPSULE_BYTES,
            Self::Write => CAPSULE_BYTES + BLOCK_BYTES,
        }
    }

    /// Bytes of one reply on the wire.
    pub const fn reply_bytes(self) -> usize {
        match self {
            Self::Read => REPLY_BYTES + BLOCK_BYTES,
            Self::Write => REPLY_BYTES,
        }
    }
}

/// What came of a measurement.
pub struct Figures {
    /// Commands a second.
    pub iops: f64,
    /// Latency of a batch of replies in ns: at depth 1, of each command.
    pub latency: Histogram<u64>,
}

/// Prepares `count` requests over `blocks` blocks, one after the other in memory, command identifiers `0..count`.
pub fn prepare(operation: Operation, count: u16, blocks: u64, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::from(count) * operation.request_bytes());
    let mut state = seed | 1;
    for cid in 0..count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let opcode = if operation == Operation::Read {
            io_opcode::READ
        } else {
            io_opcode::WRITE
        };
        let mut entry = SubmissionEntry::new(opcode, cid);
        entry.set_nsid(1);
        entry.set_qword(10, state % blocks);
        let length_bytes = u32::try_from(BLOCK_BYTES).expect("4096");
        entry.set_sgl(match operation {
            Operation::Read => nvme::command::Sgl::Transport { length_bytes },
            Operation::Write => nvme::command::Sgl::InCapsule {
                offset_bytes: 0,
                length_bytes,
            },
        });
        let total = u32::try_from(operation.request_bytes()).expect("small");
        let data_offset = if operation == Operation::Write { 72 } else { 0 };
        bytes.extend_from_slice(&[0x04, 0, 72, data_offset]);
        bytes.extend_from_slice(&total.to_le_bytes());
        bytes.extend_from_slice(entry.encode());
        if operation == Operation::Write {
            bytes.extend(
                (0..BLOCK_BYTES).map(|at| u8::try_from((at ^ usize::from(cid)) & 0xff).expect("masked")),
            );
        }
    }
    bytes
}

/// Keeps `depth` of the prepared requests in flight for `time`.
pub fn run(
    stream: &mut TcpStream,
    operation: Operation,
    depth: usize,
    requests: &[u8],
    time: Duration,
) -> Figures {
    let (request, reply) = (operation.request_bytes(), operation.reply_bytes());
    let count = requests.len() / request;
    assert!(
        depth < count,
        "an identifier is not used again while it may be in flight"
    );
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("legal bounds");
    let mut buffer = vec![0; 1 << 20];
    let start = Instant::now();
    let (mut next, mut outstanding, mut partial, mut commands) = (0, 0, 0, 0_u64);
    let mut sent = start;
    let mut owed = depth;
    loop {
        let ended = start.elapsed() >= time;
        if !ended {
            while owed > 0 {
                let batch = owed.min(count - next);
                stream
                    .write_all(&requests[next * request..(next + batch) * request])
                    .expect("the server lives");
                next = (next + batch) % count;
                owed -= batch;
                outstanding += batch;
            }
            sent = Instant::now();
        } else if outstanding == 0 {
            break;
        }
        let got = loop {
            match stream.read(&mut buffer) {
                Ok(got) => break got,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => panic!("the server lives: {error}"),
            }
        };
        assert!(got > 0, "the server keeps the connection open");
        partial += got;
        let done = partial / reply;
        partial %= reply;
        if done > 0 {
            let nanos = u64::try_from(sent.elapsed().as_nanos()).expect("short");
            latency.saturating_record_n(nanos, done as u64);
        }
        assert!(done <= outstanding, "a reply for each request");
        outstanding -= done;
        commands += done as u64;
        owed += done;
    }
    assert_eq!(partial, 0, "replies are whole");
    Figures {
        iops: commands as f64 / start.elapsed().as_secs_f64(),
        latency,
    }
}

/// Connects an I/O queue to a target: an admin queue first, which must stay open meanwhile.
pub fn connect_target(address: SocketAddr, nqn: &str, entries: u16) -> (TcpStream, TcpStream) {
    let subnqn = Nqn::parse(nqn).expect("a good name");
    let hostnqn =
        Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:6f0e9e4c-0000-4000-8000-00000000b7ad").expect("good");
    let mut data = ConnectData {
        hostid: [7; 16],
        cntlid: fabrics::CNTLID_DYNAMIC,
        subnqn,
        hostnqn,
    };
    let mut admin = Queue::open(address);
    let connect = Connect {
        recfmt: 0,
        qid: 0,
        sqsize: 31,
        cattr: 0,
        kato_ms: 0,
    };
    let completion = admin.exchange(connect.encode(0), &data.encode());
    data.cntlid = u16::try_from(completion.result & 0xffff).expect("masked");
    admin.exchange(PropertyAccess::set(1, property::CC, Configuration::START.0), &[]);
    let mut io = Queue::open(address);
    let cattr = Connect::CATTR_DISABLE_FLOW_CONTROL;
    let connect = Connect {
        recfmt: 0,
        qid: 1,
        sqsize: entries - 1,
        cattr,
        kato_ms: 0,
    };
    io.exchange(connect.encode(0), &data.encode());
    (admin.stream, io.stream)
}

/// A connection driven by blocking calls, for the handshake.
struct Queue {
    stream: TcpStream,
    machine: Connection,
}

impl Queue {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the target listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let options = Options {
            header_digest: false,
            data_digest: false,
            commands_max: 16,
            in_capsule_bytes: 8192,
        };
        let mut queue = Self {
            stream,
            machine: Connection::new(options, portable),
        };
        let mut out = Outbox::default();
        queue.machine.start(&mut out);
        queue.send(&out, &[]);
        queue.wait(|event| matches!(event, Event::Ready).then_some(()));
        queue
    }

    fn send(&mut self, out: &Outbox, data: &[u8]) {
        for part in &out.parts {
            let bytes = match *part {
                Part::Bytes { start, end } => &out.bytes[start as usize..end as usize],
                Part::Payload {
                    offset_bytes,
                    length_bytes,
                    ..
                } => &data[offset_bytes as usize..(offset_bytes + length_bytes) as usize],
            };
            self.stream.write_all(bytes).expect("the target lives");
        }
    }

    fn wait<T>(&mut self, mut look: impl FnMut(&Event<'_>) -> Option<T>) -> T {
        let mut buffer = [0; 16 * 1024];
        let mut out = Outbox::default();
        loop {
            let got = self.stream.read(&mut buffer).expect("the target lives");
            assert!(got > 0, "the target keeps the connection open");
            let mut input = &buffer[..got];
            while let Some(event) = self.machine.next(&mut input, &mut |_, _, _| 0, &mut out) {
                if let Some(found) = look(&event) {
                    return found;
                }
            }
        }
    }

    fn exchange(&mut self, entry: SubmissionEntry, data: &[u8]) -> CompletionEntry {
        let payload = match data.len() {
            0 => Payload::None,
            bytes => Payload::ToTarget(u32::try_from(bytes).expect("small")),
        };
        let mut out = Outbox::default();
        self.machine.submit(entry, payload, &mut |_, _, _| 0, &mut out);
        self.send(&out, data);
        let completion = self.wait(|event| match event {
            Event::Completion { entry, .. } => Some(*entry),
            Event::Ready | Event::Data { .. } | Event::Corrupt { .. } | Event::Close { .. } => None,
        });
        assert!(completion.status.is_success(), "{}", completion.status);
        completion
    }
}
