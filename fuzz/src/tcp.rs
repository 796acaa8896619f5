//! NVMe/TCP: bytes from a host for the target's machine, bytes from a controller for the initiator's.

use std::collections::{BTreeMap, VecDeque};

use nvme::command::{Direction, SubmissionEntry, io_opcode};
use nvme::crc32c::{Crc32c, portable};
use nvme::status::Status;
use nvme::tcp::initiator::{self, Options, Payload};
use nvme::tcp::outbox::{Outbox, Part, Slot};
use nvme::tcp::pdu::{Digests, IcReq, IcResp};
use nvme::tcp::target::{self, Limits, Queue, Success};

use super::Input;

/// Entries of the queue that is fuzzed.
pub const QUEUE_ENTRIES: u16 = 16;
/// Data bytes of a command at most.
pub const TRANSFER_BYTES_MAX: u32 = 65_536;
/// Commands whose completion is put off, so that several are in flight.
const HELD_MAX: usize = 4;
/// Commands that the host submits at most in one run.
const SUBMITTED_MAX: u32 = 64;

/// The first byte of an input.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Header digests.
    pub header_digest: bool,
    /// Data digests.
    pub data_digest: bool,
    /// Whether the connection is set up before the input comes in.
    pub ready: bool,
    /// Digests are always zero, so that a fuzzer gets past them.
    pub zero_digests: bool,
    /// Bytes that come in at a time.
    pub piece_bytes: usize,
}

impl Setup {
    fn parse(byte: u8) -> Self {
        let pieces = [1, 7, 24, 72, 100, 1000, 4096, usize::MAX];
        Self {
            header_digest: byte & 1 != 0,
            data_digest: byte & 2 != 0,
            ready: byte & 4 != 0,
            zero_digests: byte & 8 != 0,
            piece_bytes: pieces[usize::from(byte >> 4 & 7)],
        }
    }

    fn crc(self) -> Crc32c {
        if self.zero_digests { |_, _| 0 } else { portable }
    }

    fn digests(self) -> Digests {
        Digests {
            header: self.header_digest,
            data: self.data_digest,
        }
    }
}

/// Checks that what is to be sent refers to what there is, and forgets it.
fn flush(out: &mut Outbox) {
    for part in &out.parts {
        match *part {
            Part::Bytes { start, end } => {
                let end = usize::try_from(end).expect("an index");
                assert!(usize::try_from(start).expect("an index") < end && end <= out.bytes.len());
            }
            Part::Payload {
                offset_bytes,
                length_bytes,
                ..
            } => {
                assert!(length_bytes > 0 && offset_bytes + length_bytes <= TRANSFER_BYTES_MAX);
            }
        }
    }
    out.clear();
}

/// A write whose data is coming in.
struct Incoming {
    transfer_bytes: u32,
    moved_bytes: u32,
}

/// The controller's runtime, which completes what it gets.
struct Controller {
    connection: target::Connection,
    out: Outbox,
    crc: Crc32c,
    /// Whether the queue has been set up, as Connect would.
    connected: bool,
    incoming: BTreeMap<u16, Incoming>,
    held: VecDeque<(Slot, Direction, u32)>,
}

/// Feeds the target's machine: the first byte is a [`Setup`], the others are the host's. Returns the commands seen.
pub fn target(bytes: &[u8]) -> usize {
    let mut input = Input::new(bytes);
    let setup = Setup::parse(input.byte());
    let limits = Limits {
        in_capsule_bytes: 4096,
        max_h2c_bytes: 4096,
        max_transfer_bytes: TRANSFER_BYTES_MAX,
        header_digest: setup.header_digest,
        data_digest: setup.data_digest,
        slots_max: QUEUE_ENTRIES,
    };
    let mut controller = Controller {
        connection: target::Connection::new(limits, setup.crc()),
        out: Outbox::default(),
        crc: setup.crc(),
        connected: false,
        incoming: BTreeMap::new(),
        held: VecDeque::new(),
    };
    let mut commands = 0;
    let request = IcReq {
        alignment: 0,
        digests: setup.digests(),
        max_r2t: 0,
    }
    .encode();
    if setup.ready {
        assert!(controller.feed(&request, &mut commands));
        assert!(controller.connection.is_ready());
    }
    for piece in input.rest().chunks(setup.piece_bytes) {
        if !controller.feed(piece, &mut commands) {
            assert!(
                controller
                    .connection
                    .next(&mut &piece[..], &mut controller.out)
                    .is_none()
            );
            break;
        }
    }
    controller.release(0);
    commands
}

impl Controller {
    /// Feeds one piece; false once the connection is over.
    fn feed(&mut self, mut piece: &[u8], commands: &mut usize) -> bool {
        // A PDU has 8 bytes or more and makes at most three events.
        let mut events_left = 3 * (piece.len() + 8);
        loop {
            self.release(HELD_MAX);
            let Some(event) = self.connection.next(&mut piece, &mut self.out) else {
                assert!(piece.is_empty(), "all input is taken");
                flush(&mut self.out);
                return true;
            };
            events_left = events_left.checked_sub(1).expect("events end");
            match event {
                target::Event::Command {
                    slot,
                    entry,
                    direction,
                    transfer_bytes,
                } => {
                    *commands += 1;
                    self.begin(slot, entry, direction, transfer_bytes);
                }
                target::Event::Data {
                    slot,
                    offset_bytes,
                    bytes,
                } => {
                    let incoming = self
                        .incoming
                        .get_mut(&slot.0)
                        .expect("only for admitted commands");
                    assert_eq!(offset_bytes, incoming.moved_bytes, "in order, without gaps");
                    assert!(!bytes.is_empty());
                    incoming.moved_bytes += u32::try_from(bytes.len()).expect("a piece");
                    assert!(incoming.moved_bytes <= incoming.transfer_bytes);
                }
                target::Event::DataDone { slot } => {
                    let incoming = self.incoming.remove(&slot.0).expect("only for admitted commands");
                    assert_eq!(incoming.moved_bytes, incoming.transfer_bytes, "all of it");
                    self.connection.complete(slot, 0, Status::SUCCESS, &mut self.out);
                }
                target::Event::DataCorrupt { slot } => {
                    self.incoming.remove(&slot.0).expect("only for admitted commands");
                    self.connection
                        .complete(slot, 0, Status::TRANSIENT_TRANSPORT_ERROR, &mut self.out);
                }
                target::Event::Close { .. } => {
                    assert!(!self.connection.is_ready());
                    flush(&mut self.out);
                    return false;
                }
            }
        }
    }

    fn begin(&mut self, slot: Slot, entry: SubmissionEntry, direction: Direction, transfer_bytes: u32) {
        assert!(transfer_bytes <= TRANSFER_BYTES_MAX && slot.0 < QUEUE_ENTRIES);
        assert!(self.connection.in_flight() <= QUEUE_ENTRIES);
        assert_eq!(self.connection.find(entry.cid()), Some(slot));
        if !self.connected {
            self.connected = true;
            let (flow_control, admin) = (entry.nsid() & 1 != 0, entry.nsid() & 2 != 0);
            self.connection.set_queue(Queue {
                entries: QUEUE_ENTRIES,
                flow_control,
                admin,
                success: Success::WithoutFlowControl,
            });
        }
        assert!(!self.incoming.contains_key(&slot.0), "a slot has one command");
        assert!(
            self.held.iter().all(|(held, ..)| *held != slot),
            "a slot has one command"
        );
        match direction {
            Direction::FromHost if entry.cid().is_multiple_of(5) => {
                self.connection
                    .complete(slot, 0, Status::INVALID_FIELD, &mut self.out);
            }
            Direction::FromHost => {
                self.incoming.insert(
                    slot.0,
                    Incoming {
                        transfer_bytes,
                        moved_bytes: 0,
                    },
                );
                self.connection.admit(slot, &mut self.out);
            }
            Direction::None | Direction::ToHost => self.held.push_back((slot, direction, transfer_bytes)),
            Direction::Bidirectional => panic!("no command moves data both ways"),
        }
    }

    /// Completes the oldest commands until so many are left.
    fn release(&mut self, left: usize) {
        while self.held.len() > left {
            let (slot, direction, bytes) = self.held.pop_front().expect("there are some");
            assert!(self.connection.can_complete(slot));
            if direction == Direction::ToHost {
                let crc = (self.crc)(0, &vec![0; usize::try_from(bytes).expect("a length")]);
                self.connection
                    .complete_with_data(slot, 0, bytes, Some(crc), &mut self.out);
            } else {
                self.connection.complete(slot, 0, Status::SUCCESS, &mut self.out);
            }
        }
    }
}

/// The host's runtime, which keeps the queue full.
struct Host {
    connection: initiator::Connection,
    out: Outbox,
    crc: Crc32c,
    /// Bytes moved and wanted by command identifier.
    reads: BTreeMap<u16, (u32, u32)>,
    submitted: u32,
}

/// Feeds the initiator's machine: the first byte is a [`Setup`], the others are the controller's. Returns the
/// commands that completed.
pub fn initiator(bytes: &[u8]) -> usize {
    let mut input = Input::new(bytes);
    let setup = Setup::parse(input.byte());
    let options = Options {
        header_digest: setup.header_digest,
        data_digest: setup.data_digest,
        commands_max: QUEUE_ENTRIES,
        in_capsule_bytes: 4096,
    };
    let mut host = Host {
        connection: initiator::Connection::new(options, setup.crc()),
        out: Outbox::default(),
        crc: setup.crc(),
        reads: BTreeMap::new(),
        submitted: 0,
    };
    host.connection.start(&mut host.out);
    let mut completed = 0;
    let response = IcResp {
        alignment: 0,
        digests: setup.digests(),
        max_h2c_bytes: 4096,
    }
    .encode();
    if setup.ready {
        assert!(host.feed(&response, &mut completed));
        assert!(host.connection.is_ready());
    }
    for piece in input.rest().chunks(setup.piece_bytes) {
        if !host.feed(piece, &mut completed) {
            break;
        }
    }
    completed
}

impl Host {
    /// Feeds one piece; false once the connection is over.
    fn feed(&mut self, mut piece: &[u8], completed: &mut usize) -> bool {
        let mut events_left = 3 * (piece.len() + 8);
        let crc = self.crc;
        let mut payload_crc =
            |_: u16, _: u32, length: u32| crc(0, &vec![0; usize::try_from(length).expect("a length")]);
        loop {
            let Some(event) = self.connection.next(&mut piece, &mut payload_crc, &mut self.out) else {
                assert!(piece.is_empty(), "all input is taken");
                flush(&mut self.out);
                return true;
            };
            events_left = events_left.checked_sub(1).expect("events end");
            match event {
                initiator::Event::Ready => (0..QUEUE_ENTRIES).for_each(|cid| self.submit(cid)),
                initiator::Event::Data {
                    cid,
                    offset_bytes,
                    bytes,
                } => {
                    let (moved, wanted) = self.reads.get_mut(&cid).expect("only for reads in flight");
                    assert_eq!(offset_bytes, *moved, "in order, without gaps");
                    *moved += u32::try_from(bytes.len()).expect("a piece");
                    assert!(*moved <= *wanted, "not more than was asked for");
                }
                initiator::Event::Completion { entry, data_bytes } => {
                    *completed += 1;
                    let moved = self.reads.remove(&entry.cid).map_or(0, |(moved, _)| moved);
                    assert_eq!(moved, data_bytes);
                    self.submit(entry.cid);
                }
                initiator::Event::Corrupt { cid } => {
                    self.reads.remove(&cid).expect("only for reads in flight");
                    self.submit(cid);
                }
                initiator::Event::Close { .. } => {
                    assert!(!self.connection.is_ready());
                    flush(&mut self.out);
                    return false;
                }
            }
        }
    }

    fn submit(&mut self, cid: u16) {
        if self.submitted == SUBMITTED_MAX {
            return;
        }
        self.submitted += 1;
        let (entry, payload) = command(cid);
        if let Payload::FromTarget(bytes) = payload {
            self.reads.insert(cid, (0, bytes));
        }
        let crc = self.crc;
        let mut payload_crc =
            |_: u16, _: u32, length: u32| crc(0, &vec![0; usize::try_from(length).expect("a length")]);
        self.connection
            .submit(entry, payload, &mut payload_crc, &mut self.out);
        assert!(self.connection.is_in_flight(cid));
        flush(&mut self.out);
    }
}

/// The command that the host submits with an identifier: reads, small and large writes, and flushes.
pub fn command(cid: u16) -> (SubmissionEntry, Payload) {
    match cid % 4 {
        0 => (SubmissionEntry::new(io_opcode::FLUSH, cid), Payload::None),
        1 => (
            SubmissionEntry::new(io_opcode::READ, cid),
            Payload::FromTarget(8192),
        ),
        2 => (
            SubmissionEntry::new(io_opcode::WRITE, cid),
            Payload::ToTarget(4096),
        ),
        _ => (
            SubmissionEntry::new(io_opcode::WRITE, cid),
            Payload::ToTarget(16_384),
        ),
    }
}
