//! Both ends of a connection joined in memory: bytes arrive in random pieces, data must come out right.

use std::collections::BTreeMap;

use super::initiator::{self, Options, Payload};
use super::outbox::{Outbox, Part, Slot};
use super::target::{self, Limits, Queue, Success};
use crate::command::{Direction, SubmissionEntry, io_opcode};
use crate::crc32c::portable;
use crate::status::Status;

const COMMANDS_MAX: u16 = 16;
const TRANSFER_BYTES_MAX: u32 = 40_000;

/// A small generator of numbers that look random; the same seed gives the same run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let [a, b, c, d, ..] = self.0.to_be_bytes();
        u32::from_be_bytes([a, b, c, d]) % bound
    }
}

/// The data of the command that carries this number: differs between commands and places.
fn pattern(number: u64, length_bytes: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length_bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

/// A command that runs on the target.
struct Running {
    entry: SubmissionEntry,
    transfer_bytes: u32,
    data: Vec<u8>,
    awaits_admission: bool,
}

/// A command that the host has sent.
struct Sent {
    number: u64,
    payload: Payload,
    data: Vec<u8>,
}

/// How a run is set up.
#[derive(Clone, Copy)]
struct Setup {
    seed: u64,
    header_digest: bool,
    data_digest: bool,
    in_capsule_bytes: u32,
    /// One byte in so many is damaged on its way; 0 for none.
    damage: u32,
    success: Success,
}

#[derive(Default)]
struct Tally {
    completed: u32,
    corrupt: u32,
    closed: u32,
}

struct Pair {
    setup: Setup,
    random: Random,
    target: target::Connection,
    host: initiator::Connection,
    running: BTreeMap<u16, Running>,
    sent: BTreeMap<u16, Sent>,
    to_target: Vec<u8>,
    to_host: Vec<u8>,
    next_number: u64,
    tally: Tally,
    over: bool,
}

impl Pair {
    fn new(setup: Setup) -> Self {
        let limits = Limits {
            in_capsule_bytes: setup.in_capsule_bytes,
            max_h2c_bytes: 8192,
            max_transfer_bytes: TRANSFER_BYTES_MAX,
            header_digest: true,
            data_digest: true,
            slots_max: COMMANDS_MAX,
        };
        let options = Options {
            header_digest: setup.header_digest,
            data_digest: setup.data_digest,
            commands_max: COMMANDS_MAX,
            in_capsule_bytes: setup.in_capsule_bytes,
        };
        let mut pair = Self {
            setup,
            random: Random(setup.seed),
            target: target::Connection::new(limits, portable),
            host: initiator::Connection::new(options, portable),
            running: BTreeMap::new(),
            sent: BTreeMap::new(),
            to_target: Vec::new(),
            to_host: Vec::new(),
            next_number: 1,
            tally: Tally::default(),
            over: false,
        };
        let mut out = Outbox::default();
        pair.host.start(&mut out);
        pair.flush_host(&out);
        pair.target.set_queue(Queue {
            entries: COMMANDS_MAX,
            flow_control: true,
            admin: false,
            success: setup.success,
        });
        pair
    }

    /// Lets every command be sent and completed, or the connection end.
    fn run(mut self, commands: u32) -> Tally {
        let mut left = commands;
        let mut idle_turns = 0;
        // Each turn moves bytes or submits; without damage 2,000,000 turns are far more than it takes.
        for _ in 0..2_000_000 {
            if self.over || (left == 0 && self.sent.is_empty()) {
                break;
            }
            if left > 0 && self.host.is_ready() && self.random.below(3) == 0 && self.submit() {
                left -= 1;
            }
            let idle = self.to_target.is_empty() && self.to_host.is_empty();
            idle_turns = if idle { idle_turns + 1 } else { 0 };
            self.admit_one();
            self.deliver_to_target();
            self.deliver_to_host();
            if idle_turns > 200 && self.setup.damage > 0 {
                break; // A damaged length can leave an end waiting for bytes that nobody sends.
            }
        }
        if self.setup.damage == 0 {
            assert!(
                !self.over && left == 0 && self.sent.is_empty(),
                "all commands are over"
            );
            assert_eq!((self.target.in_flight(), self.host.in_flight()), (0, 0));
        }
        self.tally
    }

    fn submit(&mut self) -> bool {
        let Some(cid) = (0..COMMANDS_MAX).find(|cid| !self.sent.contains_key(cid)) else {
            return false;
        };
        let number = self.next_number;
        self.next_number += 1;
        let bytes = match self.random.below(4) {
            0 => 1 + self.random.below(64),
            1 => 4096,
            _ => 1 + self.random.below(TRANSFER_BYTES_MAX),
        };
        let (opcode, payload) = match self.random.below(5) {
            0 => (io_opcode::FLUSH, Payload::None),
            1 | 2 => (io_opcode::READ, Payload::FromTarget(bytes)),
            _ => (io_opcode::WRITE, Payload::ToTarget(bytes)),
        };
        let data = match payload {
            Payload::None => Vec::new(),
            Payload::ToTarget(bytes) => pattern(number, bytes),
            Payload::FromTarget(bytes) => vec![0; bytes as usize],
        };
        let mut entry = SubmissionEntry::new(opcode, cid);
        entry.set_qword(10, number);
        self.sent.insert(
            cid,
            Sent {
                number,
                payload,
                data,
            },
        );
        let mut out = Outbox::default();
        let sent = &self.sent;
        let mut crc = |cid, offset, length| host_crc(sent, cid, offset, length);
        self.host.submit(entry, payload, &mut crc, &mut out);
        self.flush_host(&out);
        true
    }

    /// Admits a command that was left waiting, some turns after it came.
    fn admit_one(&mut self) {
        if self.random.below(4) > 0 {
            return;
        }
        let waiting = self
            .running
            .iter_mut()
            .find(|(_, running)| running.awaits_admission);
        if let Some((&slot, running)) = waiting {
            running.awaits_admission = false;
            let mut out = Outbox::default();
            self.target.admit(Slot(slot), &mut out);
            self.flush_target(&out, &[]);
        }
    }

    fn deliver_to_target(&mut self) {
        let chunk = take_chunk(&mut self.to_target, &mut self.random, self.setup.damage);
        let mut input = &chunk[..];
        let mut out = Outbox::default();
        while let Some(event) = self.target.next(&mut input, &mut out) {
            let mut payload = Vec::new();
            match event {
                target::Event::Command {
                    slot,
                    entry,
                    direction,
                    transfer_bytes,
                } => {
                    let running = Running {
                        entry,
                        transfer_bytes,
                        data: Vec::new(),
                        awaits_admission: false,
                    };
                    self.running.insert(slot.0, running);
                    payload = self.start(slot, direction, &mut out);
                }
                target::Event::Data {
                    slot,
                    offset_bytes,
                    bytes,
                } => {
                    let running = self.running.get_mut(&slot.0).unwrap();
                    assert_eq!(running.data.len(), offset_bytes as usize);
                    running.data.extend(bytes);
                }
                target::Event::DataDone { slot } => {
                    let running = self.running.remove(&slot.0).unwrap();
                    assert_eq!(running.data.len(), running.transfer_bytes as usize);
                    if self.is_protected() {
                        assert!(running.data == pattern(running.entry.qword(10), running.transfer_bytes));
                    }
                    self.target.complete(slot, 0, Status::SUCCESS, &mut out);
                }
                target::Event::DataCorrupt { slot } => {
                    assert!(self.setup.damage > 0 && self.setup.data_digest);
                    self.running.remove(&slot.0);
                    self.target
                        .complete(slot, 0, Status::TRANSIENT_TRANSPORT_ERROR, &mut out);
                }
                target::Event::Close { .. } => self.close(),
            }
            self.flush_target(&out, &payload);
            out.clear();
        }
        self.flush_target(&out, &[]);
    }

    /// Starts a command that has just come in; returns the data for the host, if it is complete already.
    fn start(&mut self, slot: Slot, direction: Direction, out: &mut Outbox) -> Vec<u8> {
        let running = self.running.get_mut(&slot.0).unwrap();
        assert_eq!(self.target.find(running.entry.cid()), Some(slot));
        let transfer_bytes = running.transfer_bytes;
        let refused = self.random.below(8) == 0;
        if refused {
            self.running.remove(&slot.0);
            self.target.complete(slot, 0, Status::LBA_OUT_OF_RANGE, out);
            return Vec::new();
        }
        match direction {
            Direction::FromHost if transfer_bytes > self.setup.in_capsule_bytes => {
                running.awaits_admission = true;
                Vec::new()
            }
            Direction::FromHost => {
                self.target.admit(slot, out);
                Vec::new()
            }
            Direction::ToHost => {
                let short = self.random.below(6) == 0;
                let length_bytes = if short {
                    self.random.below(transfer_bytes)
                } else {
                    transfer_bytes
                };
                let data = pattern(running.entry.qword(10), length_bytes);
                self.running.remove(&slot.0);
                let digest = self.target.digests().1.then(|| portable(0, &data));
                self.target.complete_with_data(slot, 0, length_bytes, digest, out);
                data
            }
            Direction::None | Direction::Bidirectional => {
                self.running.remove(&slot.0);
                self.target.complete(slot, 0, Status::SUCCESS, out);
                Vec::new()
            }
        }
    }

    fn deliver_to_host(&mut self) {
        let chunk = take_chunk(&mut self.to_host, &mut self.random, self.setup.damage);
        let mut input = &chunk[..];
        let mut out = Outbox::default();
        loop {
            let sent = &self.sent;
            let mut crc = |cid, offset, length| host_crc(sent, cid, offset, length);
            let Some(event) = self.host.next(&mut input, &mut crc, &mut out) else {
                break;
            };
            match event {
                initiator::Event::Ready => {}
                initiator::Event::Data {
                    cid,
                    offset_bytes,
                    bytes,
                } => {
                    let at = offset_bytes as usize;
                    let sent = self.sent.get_mut(&cid).unwrap();
                    sent.data[at..at + bytes.len()].copy_from_slice(bytes);
                }
                initiator::Event::Completion { entry, data_bytes } => {
                    let sent = self.sent.remove(&entry.cid).unwrap();
                    self.tally.completed += 1;
                    if entry.status.is_success() && matches!(sent.payload, Payload::FromTarget(_)) {
                        let data = &sent.data[..data_bytes as usize];
                        assert!(!self.is_protected() || data == pattern(sent.number, data_bytes));
                    }
                }
                initiator::Event::Corrupt { cid } => {
                    assert!(self.setup.damage > 0 && self.setup.data_digest);
                    self.tally.corrupt += 1;
                    self.sent.remove(&cid).unwrap();
                }
                initiator::Event::Close { .. } => self.close(),
            }
            self.flush_host(&out);
            out.clear();
        }
        self.flush_host(&out);
    }

    /// Whether data that counts as received must be right.
    fn is_protected(&self) -> bool {
        self.setup.damage == 0 || (self.setup.header_digest && self.setup.data_digest)
    }

    fn close(&mut self) {
        assert!(self.setup.damage > 0, "an undamaged connection stays open");
        self.tally.closed += 1;
        self.over = true;
    }

    fn flush_target(&mut self, out: &Outbox, payload: &[u8]) {
        for part in &out.parts {
            match *part {
                Part::Bytes { start, end } => self.to_host.extend(&out.bytes[start as usize..end as usize]),
                Part::Payload {
                    offset_bytes,
                    length_bytes,
                    ..
                } => {
                    let at = offset_bytes as usize;
                    self.to_host.extend(&payload[at..at + length_bytes as usize]);
                }
            }
        }
    }

    fn flush_host(&mut self, out: &Outbox) {
        for part in &out.parts {
            match *part {
                Part::Bytes { start, end } => self.to_target.extend(&out.bytes[start as usize..end as usize]),
                Part::Payload {
                    slot,
                    offset_bytes,
                    length_bytes,
                } => {
                    let at = offset_bytes as usize;
                    self.to_target
                        .extend(&self.sent[&slot.0].data[at..at + length_bytes as usize]);
                }
            }
        }
    }
}

fn host_crc(sent: &BTreeMap<u16, Sent>, cid: u16, offset: u32, length: u32) -> u32 {
    portable(0, &sent[&cid].data[offset as usize..(offset + length) as usize])
}

/// Takes some of the bytes on their way, mostly many, sometimes one; damages a few if asked to.
fn take_chunk(bytes: &mut Vec<u8>, random: &mut Random, damage: u32) -> Vec<u8> {
    let most = match random.below(4) {
        0 => 1 + random.below(8),
        1 => 1 + random.below(200),
        _ => 1 + random.below(50_000),
    };
    let mut chunk: Vec<u8> = bytes.drain(..bytes.len().min(most as usize)).collect();
    if damage > 0 {
        for byte in &mut chunk {
            if random.below(damage) == 0 {
                *byte ^= 1 << random.below(8);
            }
        }
    }
    chunk
}

const SETUP: Setup = Setup {
    seed: 1,
    header_digest: false,
    data_digest: false,
    in_capsule_bytes: 4096,
    damage: 0,
    success: Success::Always,
};

/// Goal: every command completes and moves the right bytes, whatever the digests and limits, however the
/// stream is cut. Method: random commands, some refused, some short, some admitted late.
#[test]
fn both_ends_agree_for_all_digests_and_capsule_limits() {
    let mut seed = 0;
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)] {
        for in_capsule_bytes in [0, 512, 4096, 16_384] {
            for success in [Success::Always, Success::Never, Success::WithoutFlowControl] {
                seed += 1;
                let setup = Setup {
                    seed,
                    header_digest,
                    data_digest,
                    in_capsule_bytes,
                    success,
                    ..SETUP
                };
                let tally = Pair::new(setup).run(150);
                assert_eq!((tally.completed, tally.corrupt), (150, 0));
            }
        }
    }
}

/// Goal: with both digests, damage on the way never turns into wrong data that counts as right, and damage
/// of data alone does not cost the connection. Method: one bit in some 30,000 bytes flips.
#[test]
fn damage_never_passes_both_digests() {
    let mut total = Tally::default();
    for seed in 0..150 {
        let setup = Setup {
            seed,
            header_digest: true,
            data_digest: true,
            damage: 30_000,
            ..SETUP
        };
        let tally = Pair::new(setup).run(60);
        total.completed += tally.completed;
        total.corrupt += tally.corrupt;
        total.closed += tally.closed;
    }
    assert!(total.corrupt > 100, "data was damaged: {}", total.corrupt);
    assert!(total.closed > 10, "headers were damaged: {}", total.closed);
    assert!(total.completed > 2000, "connections survive: {}", total.completed);
}

/// Goal: no bytes make either end panic. Method: heavy damage, also without digests, where it gets far.
#[test]
fn damaged_streams_never_panic() {
    for seed in 0..1500 {
        let setup = Setup {
            seed,
            header_digest: seed % 2 == 0 && seed % 3 == 0,
            data_digest: seed % 5 == 0,
            damage: [40, 400, 4000, 20_000][usize::try_from(seed % 4).unwrap()],
            ..SETUP
        };
        Pair::new(setup).run(20);
    }
}

/// Goal: no bytes make either end panic. Method: nothing but noise, behind proper set-up PDUs and types.
#[test]
fn noise_never_panics() {
    for seed in 0..3000 {
        let mut random = Random(seed);
        let mut pair = Pair::new(Setup { seed, ..SETUP });
        pair.deliver_all();
        let mut noise: Vec<u8> = (0..400).map(|_| random.below(256).to_le_bytes()[0]).collect();
        let header: [u8; 8] = match random.below(5) {
            0 => [4, 0, 72, 72, 72, 2, 0, 0],
            1 => [6, 4, 24, 24, 88, 0, 0, 0],
            2 => [7, 4, 24, 24, 88, 0, 0, 0],
            3 => [5, 0, 24, 0, 24, 0, 0, 0],
            _ => [9, 0, 24, 0, 24, 0, 0, 0],
        };
        noise[..8].copy_from_slice(&header);
        noise[8] &= 15;
        noise[9] = 0;
        let mut out = Outbox::default();
        let mut input = &noise[..];
        while let Some(event) = pair.target.next(&mut input, &mut out) {
            if let target::Event::Command {
                slot,
                direction: Direction::FromHost,
                ..
            } = event
            {
                pair.target.admit(slot, &mut out);
            }
        }
        let mut input = &noise[..];
        while pair.host.next(&mut input, &mut |_, _, _| 0, &mut out).is_some() {}
    }
}

impl Pair {
    fn deliver_all(&mut self) {
        while !(self.to_target.is_empty() && self.to_host.is_empty()) {
            self.deliver_to_target();
            self.deliver_to_host();
        }
    }
}
