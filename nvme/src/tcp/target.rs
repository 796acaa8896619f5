//! The controller's end of an NVMe/TCP connection, as a pure machine.
//!
//! Bytes go in, commands and their data come out; admissions and completions go in, and what must be
//! sent is left in an [`Outbox`]. It owns the connection's set-up, the commands in flight, R2T flow,
//! digests and the queue head pointer. It does not know what commands mean, nor any socket or buffer.
//!
//! Invariants: each command that surfaces completes exactly once; one R2T is outstanding per command
//! at most; after [`Event::Close`] nothing is parsed any more.
//!
//! Source: Linux, include/linux/nvme-tcp.h; the rules of initiators: shared INTEROP.md, NVMe/TCP.

use super::framer::{Frame, Framer};
pub use super::outbox::{Outbox, Part, Slot};
pub use super::pdu::CloseReason;
use super::pdu::{
    self, Body, DataHeader, Digests, Fatal, FatalStatus, IcReq, IcResp, Pdu, PduType, R2t, TermReq, field,
};
use super::slots::{Slots, State};
use crate::command::{CompletionEntry, Direction, Sgl, SubmissionEntry, admin_opcode};
use crate::crc32c::Crc32c;
use crate::status::Status;

/// Data bytes that a capsule may always carry on an admin queue, in a Fabrics command, and before Connect.
///
/// Source: Linux, include/linux/nvme-tcp.h, NVME_TCP_ADMIN_CCSZ.
pub const ADMIN_IN_CAPSULE_BYTES: u32 = 8192;

/// Commands in flight until Connect has set the size of the queue: hosts send Connect and wait.
const SLOTS_BEFORE_CONNECT: u16 = 4;

/// SQHD while the host has turned flow control off.
const HEAD_WITHOUT_FLOW_CONTROL: u16 = 0xffff;

/// What a connection offers and tolerates.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Data bytes in the capsule of an I/O command; IOCCSZ says the same in units of 16, plus 64.
    pub in_capsule_bytes: u32,
    /// MAXH2CDATA, and the most that one R2T asks for. At least 4096, a multiple of 4.
    pub max_h2c_bytes: u32,
    /// Data bytes that one command may move.
    pub max_transfer_bytes: u32,
    /// Whether a host that asks for header digests gets them.
    pub header_digest: bool,
    /// Whether a host that asks for data digests gets them.
    pub data_digest: bool,
    /// Most commands in flight, `1..=65_534`; no queue may have more entries.
    pub slots_max: u16,
}

/// When C2HData may say SUCCESS instead of a response capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Success {
    /// If the host has turned flow control off, because without a response there is no SQHD (Linux nvmet).
    WithoutFlowControl,
    /// Always (SPDK).
    Always,
    /// Never.
    Never,
}

/// What Connect has settled about the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Entries, at most `slots_max`: SQSIZE + 1.
    pub entries: u16,
    /// Whether SQHD is kept (Connect's CATTR has not disabled it).
    pub flow_control: bool,
    /// Whether it is the admin queue.
    pub admin: bool,
    /// When C2HData may say SUCCESS.
    pub success: Success,
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A command. Its SGL has been checked; wrong ones are answered here and do not surface.
    Command {
        /// Names it until it is completed.
        slot: Slot,
        /// The submission queue entry.
        entry: SubmissionEntry,
        /// Which way it moves data; `None` also if its opcode would but its SGL says 0 bytes.
        direction: Direction,
        /// Bytes that it moves, as its SGL says; at most `max_transfer_bytes`. 0 for `Direction::None`.
        transfer_bytes: u32,
    },
    /// A piece of the data of an admitted command, in order and without gaps.
    Data {
        /// Whose.
        slot: Slot,
        /// Where in the command's data the piece starts.
        offset_bytes: u32,
        /// The piece.
        bytes: &'a [u8],
    },
    /// All data of the command is there and its digests were right: run it.
    DataDone {
        /// Whose.
        slot: Slot,
    },
    /// A data digest of the command was wrong: complete it with [`Status::TRANSIENT_TRANSPORT_ERROR`].
    /// The connection lives on.
    DataCorrupt {
        /// Whose.
        slot: Slot,
    },
    /// Flush the outbox, then close. Nothing more is parsed.
    Close {
        /// Why.
        reason: CloseReason,
    },
}

/// Where in its life the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Awaits ICReq.
    Initialize,
    /// Awaits commands and data.
    Ready,
    /// Over.
    Closed,
}

/// The controller's end of one connection.
pub struct Connection {
    limits: Limits,
    crc: Crc32c,
    phase: Phase,
    framer: Framer,
    slots: Slots,
    /// Whose data the body being received is; `None` outside of bodies and in bodies that are skipped.
    receiving: Option<Slot>,
    /// The in-capsule command that the caller must decide on before anything more is parsed.
    undecided: Option<Slot>,
    /// HPDA.
    host_alignment: u8,
    /// Commands that may be in flight: the entries of the queue.
    in_flight_max: u16,
    in_capsule_bytes: u32,
    /// Whether C2HData may say SUCCESS.
    success: bool,
    /// Entries of the queue for the wrap of SQHD; 0 until Connect.
    entries: u16,
    flow_control: bool,
    /// SQHD: capsules completed, modulo `entries`.
    head: u16,
    refused_commands: u64,
}

impl Connection {
    /// A connection that has just been accepted. Panics if the limits contradict themselves.
    pub fn new(limits: Limits, crc: Crc32c) -> Self {
        assert!(limits.max_h2c_bytes >= pdu::MAX_H2C_BYTES_MIN && limits.max_h2c_bytes.is_multiple_of(4));
        assert!(limits.slots_max > 0 && limits.slots_max < u16::MAX);
        assert!(
            limits.max_transfer_bytes >= ADMIN_IN_CAPSULE_BYTES,
            "admin data must fit"
        );
        let in_flight_max = limits.slots_max.min(SLOTS_BEFORE_CONNECT);
        Self {
            limits,
            crc,
            phase: Phase::Initialize,
            framer: Framer::new(crc),
            slots: Slots::new(in_flight_max),
            receiving: None,
            undecided: None,
            host_alignment: 0,
            in_flight_max,
            in_capsule_bytes: ADMIN_IN_CAPSULE_BYTES,
            success: false,
            entries: 0,
            flow_control: true,
            head: 0,
            refused_commands: 0,
        }
    }

    /// Adopts the queue's size and habits; to be called when its Connect is accepted, before that is completed.
    ///
    /// Panics if the queue has more entries than `slots_max`.
    pub fn set_queue(&mut self, queue: Queue) {
        assert!(queue.entries > 0 && queue.entries <= self.limits.slots_max);
        assert_eq!(self.entries, 0, "a queue is connected once");
        self.slots.grow(queue.entries);
        self.in_flight_max = queue.entries;
        self.entries = queue.entries;
        self.flow_control = queue.flow_control;
        self.in_capsule_bytes = if queue.admin {
            ADMIN_IN_CAPSULE_BYTES
        } else {
            self.limits.in_capsule_bytes
        };
        self.success = match queue.success {
            Success::WithoutFlowControl => !queue.flow_control,
            Success::Always => true,
            Success::Never => false,
        };
    }

    /// Whether header and data digests are in use.
    pub fn digests(&self) -> (bool, bool) {
        let digests = self.framer.digests();
        (digests.header, digests.data)
    }

    /// Whether ICReq and ICResp have been exchanged and the connection is not over.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Commands that surfaced and have not been completed.
    pub fn in_flight(&self) -> u16 {
        u16::try_from(self.slots.in_flight()).expect("slots_max is a u16")
    }

    /// Commands that were answered here, with an error, without surfacing.
    pub fn refused_commands(&self) -> u64 {
        self.refused_commands
    }

    /// Command identifier of a command in flight.
    pub fn cid(&self, slot: Slot) -> u16 {
        self.slots.command(slot).cid
    }

    /// The command in flight with this identifier.
    pub fn find(&self, cid: u16) -> Option<Slot> {
        self.slots.find(cid)
    }

    /// Takes bytes from the front of `input` and returns the next event. `None`: all of `input` was
    /// taken and more is needed. Call it until then even with empty input, because one piece of input
    /// can end several events.
    ///
    /// Panics if the caller has not decided on a command whose data is in its capsule.
    pub fn next<'a>(&mut self, input: &mut &'a [u8], out: &mut Outbox) -> Option<Event<'a>> {
        assert!(
            self.undecided.is_none(),
            "an in-capsule command is admitted or completed first"
        );
        loop {
            if self.phase == Phase::Closed {
                *input = &[];
                return None;
            }
            let event = match self.framer.next(input)? {
                Ok(Frame::Header(pdu)) => self.handle_header(pdu, out),
                Ok(Frame::Bytes(bytes)) => Ok(Some(self.handle_bytes(bytes))),
                Ok(Frame::End { intact }) => Ok(self.handle_end(intact, out)),
                Err(fatal) => Err(fatal),
            };
            match event {
                Ok(None) => {}
                Ok(event) => return event,
                Err(fatal) => return Some(self.terminate(fatal, out)),
            }
        }
    }

    /// Lets the data of a command with `Direction::FromHost` come: what the capsule carries flows as
    /// [`Event::Data`], the rest is asked for with an R2T at a time.
    ///
    /// Panics if the command does not wait for this.
    pub fn admit(&mut self, slot: Slot, out: &mut Outbox) {
        let command = self.slots.command_mut(slot);
        if command.state == State::DecisionInCapsule {
            command.state = State::InCapsuleData;
            assert_eq!(self.undecided.take(), Some(slot));
        } else {
            assert_eq!(command.state, State::Decision, "a command is admitted once");
            self.ask(slot, out);
        }
    }

    /// Bytes of a command's data, from the first on, that have come out and are right: with data digests those of PDUs that have ended.
    pub fn sound_bytes(&self, slot: Slot) -> u32 {
        self.slots.command(slot).sound_bytes
    }

    /// Whether the command may be completed now: not while the host owes data that an R2T asked for.
    pub fn can_complete(&self, slot: Slot) -> bool {
        match self.slots.command(slot).state {
            State::DecisionInCapsule | State::Decision | State::InCapsuleData | State::Completion => true,
            State::R2tData { .. } | State::Free => false,
        }
    }

    /// Sends the response capsule and frees the slot. Data of the capsule that has not come out yet is
    /// skipped silently.
    ///
    /// Panics if [`Connection::can_complete`] says no.
    pub fn complete(&mut self, slot: Slot, result: u64, status: Status, out: &mut Outbox) {
        assert!(self.can_complete(slot), "the host owes data");
        if self.receiving == Some(slot) {
            self.receiving = None;
            self.framer.skip_body();
        }
        if self.undecided == Some(slot) {
            self.undecided = None;
        }
        let command = self.slots.remove(slot);
        self.respond(command.cid, result, status, out);
    }

    /// Sends `length_bytes` of the command's data from its start, says that it succeeded, and frees the
    /// slot: take the buffer out of the [`Part::Payload`] before another command gets the same slot.
    /// 0 bytes only send the response.
    ///
    /// `payload_crc` is the CRC-32C of those bytes; it must be there when data digests are on.
    /// Panics if the command moves less than `length_bytes`.
    pub fn complete_with_data(
        &mut self,
        slot: Slot,
        result: u64,
        length_bytes: u32,
        payload_crc: Option<u32>,
        out: &mut Outbox,
    ) {
        assert_eq!(self.slots.command(slot).state, State::Completion);
        let command = self.slots.remove(slot);
        assert!(
            length_bytes <= command.transfer_bytes,
            "the host has no room for more"
        );
        if length_bytes == 0 {
            return self.respond(command.cid, result, Status::SUCCESS, out);
        }
        // Linux takes SUCCESS after less data than it asked for as a broken transfer.
        let success = self.success && result == 0 && length_bytes == command.transfer_bytes;
        let digests = self.framer.digests();
        let header = DataHeader {
            cid: command.cid,
            ttag: 0,
            offset_bytes: 0,
            length_bytes,
            last: true,
            success,
        };
        out.push_header(
            &header.encode(PduType::C2hData, digests, self.host_alignment),
            digests.header,
            self.crc,
        );
        let pad_bytes = pdu::pad_bytes(PduType::C2hData, digests, self.host_alignment);
        if pad_bytes > 0 {
            out.push_bytes(&[0; 128][..pad_bytes]);
        }
        out.push_payload(slot, 0, length_bytes);
        if digests.data {
            let digest = payload_crc.expect("the caller computes digests when they are on");
            out.push_bytes(&digest.to_le_bytes());
        }
        if success {
            self.advance_head();
        } else {
            self.respond(command.cid, result, Status::SUCCESS, out);
        }
    }

    fn handle_header<'a>(&mut self, pdu: Pdu, out: &mut Outbox) -> Result<Option<Event<'a>>, Fatal> {
        match (self.phase, pdu) {
            (Phase::Ready, Pdu::Command(entry, body)) => self.handle_command(entry, body, out),
            (Phase::Ready, Pdu::DataToController(data, _)) => self.handle_data(data),
            (Phase::Initialize, Pdu::IcReq(request)) => {
                self.initialize(request, out);
                Ok(None)
            }
            (_, Pdu::HostTerminates(termination)) => {
                self.phase = Phase::Closed;
                Ok(Some(Event::Close {
                    reason: CloseReason::Terminated(termination),
                }))
            }
            (_, Pdu::IcReq(_) | Pdu::Command(..) | Pdu::DataToController(..)) => {
                Err(Fatal::new(FatalStatus::SequenceError, 0))
            }
            (
                _,
                Pdu::IcResp(_)
                | Pdu::ControllerTerminates(_)
                | Pdu::Response(_)
                | Pdu::DataToHost(..)
                | Pdu::R2t(_),
            ) => Err(Fatal::field(field::TYPE)),
        }
    }

    fn initialize(&mut self, request: IcReq, out: &mut Outbox) {
        let digests = Digests {
            header: request.digests.header && self.limits.header_digest,
            data: request.digests.data && self.limits.data_digest,
        };
        let response = IcResp {
            alignment: 0, // Linux refuses any other CPDA.
            digests,
            max_h2c_bytes: self.limits.max_h2c_bytes,
        };
        out.push_bytes(&response.encode());
        self.host_alignment = request.alignment;
        self.framer.set_digests(digests);
        self.phase = Phase::Ready;
    }

    fn handle_command<'a>(
        &mut self,
        entry: SubmissionEntry,
        body: Option<Body>,
        out: &mut Outbox,
    ) -> Result<Option<Event<'a>>, Fatal> {
        let carried_bytes = body.map_or(0, |body| body.data_bytes);
        if carried_bytes > self.in_capsule_limit(&entry) {
            return Err(Fatal::new(FatalStatus::LimitExceeded, field::PLEN));
        }
        let plan = match self.plan(&entry, carried_bytes) {
            Ok(plan) => plan,
            Err(status) => {
                self.framer.skip_body();
                self.refused_commands += 1;
                self.respond(entry.cid(), 0, status, out);
                return Ok(None);
            }
        };
        if self.slots.in_flight() >= usize::from(self.in_flight_max) {
            return Err(Fatal::new(FatalStatus::LimitExceeded, 0));
        }
        let state = match (plan.direction, carried_bytes) {
            (Direction::FromHost, 0) => State::Decision,
            (Direction::FromHost, _) => State::DecisionInCapsule,
            (Direction::None | Direction::ToHost | Direction::Bidirectional, _) => State::Completion,
        };
        let slot = self.slots.insert(entry.cid(), plan.transfer_bytes, state);
        let slot = slot.expect("there are at least as many slots as may be in flight");
        if state == State::DecisionInCapsule {
            self.receiving = Some(slot);
            self.undecided = Some(slot);
        }
        Ok(Some(Event::Command {
            slot,
            entry,
            direction: plan.direction,
            transfer_bytes: plan.transfer_bytes,
        }))
    }

    /// Data bytes that this capsule may carry.
    fn in_capsule_limit(&self, entry: &SubmissionEntry) -> u32 {
        if entry.opcode() == admin_opcode::FABRICS {
            self.in_capsule_bytes.max(ADMIN_IN_CAPSULE_BYTES)
        } else {
            self.in_capsule_bytes
        }
    }

    /// Checks what the host says about the command's data against the capsule and our limits. Every
    /// failure is the host's bug, so that sending the command again is no use.
    fn plan(&self, entry: &SubmissionEntry, carried_bytes: u32) -> Result<Plan, Status> {
        const SGL_WITHOUT_METADATA_SGL: u8 = 1;
        if entry.psdt() != SGL_WITHOUT_METADATA_SGL {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        if self.slots.find(entry.cid()).is_some() {
            return Err(Status::COMMAND_ID_CONFLICT.do_not_retry());
        }
        let direction = entry.direction();
        let (in_capsule, transfer_bytes) = match (direction, entry.sgl()) {
            (Direction::Bidirectional, _) => return Err(Status::INVALID_OPCODE.do_not_retry()),
            (Direction::None, _) => (false, 0),
            (
                Direction::FromHost,
                Sgl::InCapsule {
                    offset_bytes: 0,
                    length_bytes,
                },
            ) => (true, length_bytes),
            (Direction::FromHost, Sgl::InCapsule { .. }) => {
                return Err(Status::SGL_OFFSET_INVALID.do_not_retry());
            }
            (Direction::FromHost | Direction::ToHost, Sgl::Transport { length_bytes }) => {
                (false, length_bytes)
            }
            (Direction::ToHost, Sgl::InCapsule { .. })
            | (Direction::FromHost | Direction::ToHost, Sgl::Keyed { .. } | Sgl::Other { .. }) => {
                return Err(Status::SGL_TYPE_INVALID.do_not_retry());
            }
        };
        let expected_bytes = if in_capsule { transfer_bytes } else { 0 };
        if carried_bytes != expected_bytes {
            return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
        }
        if transfer_bytes > self.limits.max_transfer_bytes {
            return Err(Status::INVALID_FIELD.do_not_retry()); // What MDTS asks for.
        }
        Ok(Plan {
            direction: if transfer_bytes == 0 {
                Direction::None
            } else {
                direction
            },
            transfer_bytes,
        })
    }

    /// Checks H2CData against the R2T that it answers.
    fn handle_data<'a>(&mut self, data: DataHeader) -> Result<Option<Event<'a>>, Fatal> {
        let command = self.slots.named(data.ttag).ok_or(Fatal::field(field::TTAG))?;
        let State::R2tData { end_bytes } = command.state else {
            return Err(Fatal::field(field::TTAG));
        };
        if data.cid != command.cid {
            return Err(Fatal::field(field::CID));
        }
        if data.offset_bytes != command.received_bytes {
            return Err(Fatal::new(FatalStatus::DataOutOfRange, field::OFFSET));
        }
        let missing_bytes = end_bytes - command.received_bytes;
        if data.length_bytes > missing_bytes {
            return Err(Fatal::new(FatalStatus::DataOutOfRange, field::LENGTH));
        }
        if data.last != (data.length_bytes == missing_bytes) {
            return Err(Fatal::field(field::FLAGS));
        }
        self.receiving = Some(Slot(data.ttag));
        Ok(None)
    }

    fn handle_bytes<'a>(&mut self, bytes: &'a [u8]) -> Event<'a> {
        let slot = self.receiving.expect("bodies without a receiver are skipped");
        let command = self.slots.command_mut(slot);
        let offset_bytes = command.received_bytes;
        let length = u32::try_from(bytes.len()).expect("a PDU is shorter than 4 GiB");
        command.received_bytes += length;
        if !self.framer.digests().data {
            command.sound_bytes = command.received_bytes;
        }
        assert!(
            command.received_bytes <= command.transfer_bytes,
            "the header was checked"
        );
        Event::Data {
            slot,
            offset_bytes,
            bytes,
        }
    }

    /// A body is over: the command runs, or asks for more, or its PDU was not the last one of the R2T.
    fn handle_end<'a>(&mut self, intact: bool, out: &mut Outbox) -> Option<Event<'a>> {
        let slot = self
            .receiving
            .take()
            .expect("bodies without a receiver are skipped");
        let command = self.slots.command_mut(slot);
        command.corrupt |= !intact;
        if !command.corrupt {
            command.sound_bytes = command.received_bytes;
        }
        if let State::R2tData { end_bytes } = command.state
            && command.received_bytes < end_bytes
        {
            return None;
        }
        if command.corrupt {
            command.state = State::Completion;
            Some(Event::DataCorrupt { slot })
        } else if command.received_bytes == command.transfer_bytes {
            command.state = State::Completion;
            Some(Event::DataDone { slot })
        } else {
            self.ask(slot, out);
            None
        }
    }

    /// Sends an R2T for the next part of a command's data. The slot serves as transfer tag: with one R2T
    /// outstanding per command it names both.
    fn ask(&mut self, slot: Slot, out: &mut Outbox) {
        let command = self.slots.command_mut(slot);
        let missing_bytes = command.transfer_bytes - command.received_bytes;
        let length_bytes = missing_bytes.min(self.limits.max_h2c_bytes);
        assert!(length_bytes > 0, "there is something to ask for");
        command.state = State::R2tData {
            end_bytes: command.received_bytes + length_bytes,
        };
        let digests = self.framer.digests();
        let r2t = R2t {
            cid: command.cid,
            ttag: slot.0,
            offset_bytes: command.received_bytes,
            length_bytes,
        };
        out.push_header(&r2t.encode(digests), digests.header, self.crc);
    }

    fn respond(&mut self, cid: u16, result: u64, status: Status, out: &mut Outbox) {
        self.advance_head();
        let entry = CompletionEntry {
            result,
            sqhd: if self.flow_control {
                self.head
            } else {
                HEAD_WITHOUT_FLOW_CONTROL
            },
            cid,
            status,
        };
        let digests = self.framer.digests();
        out.push_header(&pdu::encode_response(&entry, digests), digests.header, self.crc);
    }

    /// Moves SQHD on when a command completes and not when it arrives, as Linux and SPDK do: then the
    /// host never has more commands in flight than the queue has entries.
    fn advance_head(&mut self) {
        self.head = if self.head + 1 >= self.entries {
            0
        } else {
            self.head + 1
        };
    }

    fn terminate<'a>(&mut self, fatal: Fatal, out: &mut Outbox) -> Event<'a> {
        assert!(self.phase != Phase::Closed);
        self.phase = Phase::Closed;
        out.push_bytes(TermReq::new(PduType::C2hTermReq, fatal, self.framer.header()).as_bytes());
        Event::Close {
            reason: CloseReason::Fatal(fatal),
        }
    }
}

/// What a command's SGL asks for, checked.
struct Plan {
    direction: Direction,
    transfer_bytes: u32,
}

#[cfg(test)]
mod tests;
