//! Goal: no bytes from outside make the code panic, hang or break a promise.
//! Method: the drivers of the fuzz targets, with seeded random bytes and with damaged valid input.

#[path = "../fuzz/src/lib.rs"]
mod drive;

use drive::{capsule, stored, tcp};

use nvme::command::Direction;
use nvme::crc32c::portable;
use nvme::status::Status;
use nvme::tcp::initiator::{self, Options, Payload};
use nvme::tcp::outbox::{Outbox, Part};
use nvme::tcp::target::{self, Limits, Queue, Success};

/// A small generator (xorshift64*); the same seed gives the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("64 bits");
        usize::try_from(self.next() % bound).expect("less than a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    /// Damages valid input: flips, overwrites, cuts, doubles or moves a few of its bytes.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            let end = (at + self.below(24)).min(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => bytes[at] = self.byte(),
                3 => drop(bytes.drain(at..end)),
                4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                _ => bytes.truncate(at),
            }
        }
    }
}

/// Runs a driver on random bytes, then on damaged copies of valid inputs. Returns how far those came in sum.
fn run(seed: u64, rounds: usize, valid: &[Vec<u8>], driver: fn(&[u8]) -> usize) -> usize {
    let mut random = Random(seed);
    for _ in 0..rounds {
        let length = random.below(2000);
        driver(&random.bytes(length));
    }
    let mut reached = 0;
    for round in 0..rounds {
        let mut bytes = valid[round % valid.len()].clone();
        random.damage(&mut bytes);
        reached += driver(&bytes);
    }
    reached
}

/// All that an outbox holds as bytes; the data of commands is zeroes.
fn wire(out: &mut Outbox) -> Vec<u8> {
    let index = |number: u32| usize::try_from(number).expect("an index");
    let mut bytes = Vec::new();
    for part in &out.parts {
        match *part {
            Part::Bytes { start, end } => bytes.extend(&out.bytes[index(start)..index(end)]),
            Part::Payload { length_bytes, .. } => bytes.resize(bytes.len() + index(length_bytes), 0),
        }
    }
    out.clear();
    bytes
}

/// Both ends of one connection, and all that they sent.
struct Conversation {
    host: initiator::Connection,
    controller: target::Connection,
    host_out: Outbox,
    controller_out: Outbox,
    to_target: Vec<u8>,
    to_host: Vec<u8>,
    connected: bool,
}

fn crc_of_zeroes(length: u32) -> u32 {
    portable(0, &vec![0; usize::try_from(length).expect("a length")])
}

impl Conversation {
    fn new(header_digest: bool, data_digest: bool) -> Self {
        let commands_max = tcp::QUEUE_ENTRIES;
        let options = Options {
            header_digest,
            data_digest,
            commands_max,
            in_capsule_bytes: 4096,
        };
        let limits = Limits {
            in_capsule_bytes: 4096,
            max_h2c_bytes: 4096,
            max_transfer_bytes: tcp::TRANSFER_BYTES_MAX,
            header_digest,
            data_digest,
            slots_max: tcp::QUEUE_ENTRIES,
        };
        let mut host = initiator::Connection::new(options, portable);
        let mut host_out = Outbox::default();
        host.start(&mut host_out);
        Self {
            host,
            controller: target::Connection::new(limits, portable),
            host_out,
            controller_out: Outbox::default(),
            to_target: Vec::new(),
            to_host: Vec::new(),
            connected: false,
        }
    }

    /// Lets the host carry out every command of [`tcp::command`] once, the first alone, as Connect is.
    fn run(mut self) -> (Vec<u8>, Vec<u8>) {
        let mut completed = 0;
        while completed < tcp::QUEUE_ENTRIES {
            self.controller_turn();
            completed += self.host_turn();
        }
        (self.to_target, self.to_host)
    }

    fn submit(&mut self, cids: std::ops::Range<u16>) {
        for cid in cids {
            let (entry, payload): (_, Payload) = tcp::command(cid);
            let mut crc = |_: u16, _: u32, length: u32| crc_of_zeroes(length);
            self.host.submit(entry, payload, &mut crc, &mut self.host_out);
        }
    }

    fn controller_turn(&mut self) {
        let bytes = wire(&mut self.host_out);
        self.to_target.extend(&bytes);
        let (controller, out) = (&mut self.controller, &mut self.controller_out);
        let mut rest = &bytes[..];
        while let Some(event) = controller.next(&mut rest, out) {
            match event {
                target::Event::Command {
                    slot,
                    direction,
                    transfer_bytes,
                    ..
                } => {
                    if !self.connected {
                        self.connected = true;
                        let (entries, success) = (tcp::QUEUE_ENTRIES, Success::Never);
                        controller.set_queue(Queue {
                            entries,
                            flow_control: true,
                            admin: false,
                            success,
                        });
                    }
                    match direction {
                        Direction::FromHost => controller.admit(slot, out),
                        Direction::ToHost => {
                            let crc = Some(crc_of_zeroes(transfer_bytes));
                            controller.complete_with_data(slot, 0, transfer_bytes, crc, out);
                        }
                        Direction::None | Direction::Bidirectional => {
                            controller.complete(slot, 0, Status::SUCCESS, out);
                        }
                    }
                }
                target::Event::DataDone { slot } => controller.complete(slot, 0, Status::SUCCESS, out),
                target::Event::Data { .. } => {}
                target::Event::DataCorrupt { .. } | target::Event::Close { .. } => panic!("{event:?}"),
            }
        }
    }

    /// Returns the commands that completed.
    fn host_turn(&mut self) -> u16 {
        let bytes = wire(&mut self.controller_out);
        self.to_host.extend(&bytes);
        let mut crc = |_: u16, _: u32, length: u32| crc_of_zeroes(length);
        let (mut rest, mut completed, mut next) = (&bytes[..], 0, 0..0);
        while let Some(event) = self.host.next(&mut rest, &mut crc, &mut self.host_out) {
            match event {
                initiator::Event::Ready => next = 0..1,
                initiator::Event::Data { .. } => {}
                initiator::Event::Completion { entry, .. } => {
                    completed += 1;
                    if entry.cid == 0 {
                        next = 1..tcp::QUEUE_ENTRIES;
                    }
                }
                initiator::Event::Corrupt { .. } | initiator::Event::Close { .. } => panic!("{event:?}"),
            }
        }
        self.submit(next);
        completed
    }
}

/// Valid inputs for both drivers, behind their first byte: with and without digests, in pieces of several sizes.
fn conversations() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut all = (Vec::new(), Vec::new());
    for setup in 0..32_u8 {
        let (to_target, to_host) = Conversation::new(setup & 1 != 0, setup & 2 != 0).run();
        let byte = setup & 3 | (setup >> 2 & 7) << 4;
        all.0.push([vec![byte], to_target].concat());
        all.1.push([vec![byte], to_host].concat());
    }
    all
}

#[test]
fn valid_conversations_reach_every_command() {
    let (to_target, to_host) = conversations();
    assert!(
        to_target
            .iter()
            .all(|bytes| tcp::target(bytes) == usize::from(tcp::QUEUE_ENTRIES))
    );
    assert!(
        to_host
            .iter()
            .all(|bytes| tcp::initiator(bytes) >= usize::from(tcp::QUEUE_ENTRIES))
    );
}

#[test]
fn pdus_for_the_target() {
    let reached = run(1, 4000, &conversations().0, tcp::target);
    assert!(reached > 10_000, "commands seen in damaged streams: {reached}");
}

#[test]
fn pdus_for_the_initiator() {
    let reached = run(2, 4000, &conversations().1, tcp::initiator);
    assert!(
        reached > 10_000,
        "commands completed by damaged streams: {reached}"
    );
}

#[test]
fn capsules_of_single_commands() {
    let mut valid = Vec::new();
    for opcode in [0_u8, 1, 2, 5, 8, 9] {
        let mut bytes = vec![0; 1 + 64 + 3 + 4096];
        bytes[1] = opcode;
        bytes[2] = 0x40;
        bytes[5] = 1;
        // 4096 bytes are one block; Dataset Management has five ranges.
        bytes[41] = if opcode == 9 { 4 } else { 0 };
        bytes[65..68].copy_from_slice(&[0, 0x10, 0]);
        assert!(capsule::any(&bytes) > 0, "opcode {opcode}");
        valid.push(bytes);
    }
    let reached = run(3, 20_000, &valid, capsule::any);
    assert!(reached > 10_000, "commands that parsed: {reached}");
}

#[test]
fn capsules_for_the_subsystem() {
    // Opens two connections, connects an admin queue and an I/O queue, then random capsules.
    let mut random = Random(4);
    let mut valid = Vec::new();
    for _ in 0..16 {
        let mut bytes = vec![0, 0, 0, 2, 0, 0, 0, 1, 0];
        // Enable the controller: Property Set of CC.
        let mut enable = [0_u8; 64];
        (
            enable[0], enable[1], enable[2], enable[40], enable[48], enable[50],
        ) = (0x7f, 0x40, 2, 0, 0x01, 0x46);
        enable[44] = 0x14;
        bytes.extend([8, 0, 0]);
        bytes.extend(enable);
        bytes.push(0);
        bytes.extend([0, 1, 0, 2, 1, 0, 1, 1, 0, 1]);
        for _ in 0..20 {
            bytes.extend([0x18 | random.byte() & 0xe0, 0, random.byte()]);
            let mut raw = random.bytes(64);
            raw[1] = 0x40;
            raw[4..44].fill(0);
            bytes.extend(raw);
            bytes.push(0);
        }
        valid.push(bytes);
    }
    let reached = run(5, 2000, &valid, capsule::controller);
    assert!(reached > 20_000, "commands completed: {reached}");
}

#[test]
fn answers_for_the_host() {
    // Mostly small bytes, which leave things alone, so that the association comes up before it is hurt.
    let mut random = Random(6);
    let valid: Vec<Vec<u8>> = (0..64)
        .map(|index| {
            let calm = random.below(200);
            let mut bytes = vec![index & 1];
            bytes.extend((0..calm).map(|_| 20));
            bytes.extend(random.bytes(400));
            bytes
        })
        .collect();
    let reached = run(7, 1000, &valid, capsule::association);
    assert!(reached > 500, "times that the association came up: {reached}");
}

#[test]
fn superblocks() {
    let reached = run(8, 2000, &[good_superblock()], stored::superblock);
    assert!(
        reached > 100,
        "records behind whose end the damage was: {reached}"
    );
    assert_eq!(
        stored::superblock(&good_superblock()),
        3,
        "as a record, in the head, in both regions"
    );
}

/// A good record, then three damaged copies of the same.
fn good_superblock() -> Vec<u8> {
    use braid::amf::MemberIndex;
    use braid::amf::geometry::Level;
    use braid::amf::replication::ReplicationMode;
    use braid::amf::superblock::*;
    use braid::drive::block::{BlockSize, GroupLba, MemberLba};

    let generation = 6;
    let member = |id| MemberRecord {
        drive: Uuid([id; 16]),
        state: MemberState::Active,
        current_at: generation,
    };
    let record = GroupRecord {
        array: Uuid([1; 16]),
        group: Uuid([2; 16]),
        name: Name::parse("g0").expect("a name"),
        level: Level::Raid5,
        strip_blocks: 16,
        block: BlockSize::B4096,
        data_start: MemberLba(512),
        rows: 64,
        generation,
        previous: generation - 1,
        clean: true,
        forming: false,
        exclusive_local: true,
        parity: ParityState::Trusted,
        durability: Durability::Journal,
        journal: Some(JournalRecord {
            start: MemberLba(257),
            blocks: 200,
            lane_blocks: 100,
            lanes: 1,
            incarnation: 2,
            floors: [0; 17],
        }),
        dirty_ram: false,
        intent: Some(IntentRecord {
            start: MemberLba(256),
            blocks: 1,
            since_generation: 0,
            rows_per_bit: 1,
        }),
        rebuilt_rows: 0,
        rebuild_partial: false,
        scrub_row: 0,
        expansion: None,
        members: vec![member(10), member(11), member(12)],
        spares: vec![Uuid([13; 16])],
        vdisks: vec![VdiskRecord {
            nsid: 1,
            name: Name::parse("v0").expect("a name"),
            uuid: Uuid([3; 16]),
            nguid: [4; 16],
            start: GroupLba(0),
            blocks: 320,
            ports: PORTS_ALL,
            leaving: false,
            replication: ReplicationMode::Sync,
        }],
    };
    let superblock = Superblock {
        record,
        carrier: Carrier::Member(MemberIndex(0)),
        drive_bytes: 8 << 20,
    };
    superblock.check().expect("a good record");
    encode(&superblock).to_vec()
}

#[cfg(feature = "target")]
#[test]
fn configurations() {
    let example = config::Config::example().as_bytes().to_vec();
    assert_eq!(stored::config(&example), 1);
    let reached = run(9, 1000, &[example], stored::config);
    assert!(
        reached > 100,
        "files still good, as damage in a comment leaves them: {reached}"
    );
}

#[cfg(feature = "target")]
#[test]
fn management_requests() {
    let call = br#"{"jsonrpc":"2.0","id":1,"method":"node.show"}"#.to_vec();
    let batch = [b"[".as_slice(), &call, b",", &call, b"]"].concat();
    assert_eq!(stored::rpc(&call), 1);
    let deep = b"[".repeat(100_000);
    assert_eq!(stored::rpc(&deep), 0, "nesting is bounded");
    let reached = run(10, 20_000, &[call, batch], stored::rpc);
    assert!(reached > 1000, "messages that still are JSON: {reached}");
}
