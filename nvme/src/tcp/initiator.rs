//! The host's end of an NVMe/TCP connection, as a pure machine.
//!
//! Commands go in and their completions and data come out; bytes from the controller go in, and what
//! must be sent is left in an [`Outbox`], where [`Part::Payload`] names the command by `Slot(cid)`. It owns
//! the connection's set-up, the commands in flight, the answers to R2Ts and digests. It does not know what
//! commands mean, when to give up on one, nor any socket or buffer.
//!
//! Invariants: each command submitted ends exactly once, with [`Event::Completion`] or
//! [`Event::Corrupt`], unless the connection ends first; a controller that names a command which is not in
//! flight, or moves data twice, past the end or not at all, ends the connection.
//!
//! Source: Linux, include/linux/nvme-tcp.h; the rules of targets: shared INTEROP.md, NVMe/TCP.

use super::framer::{Frame, Framer};
pub use super::outbox::{Outbox, Part, Slot};
pub use super::pdu::CloseReason;
use super::pdu::{
    self, DataHeader, Digests, Fatal, FatalStatus, IcReq, IcResp, Pdu, PduType, R2t, TermReq, field,
};
use super::target::ADMIN_IN_CAPSULE_BYTES;
use crate::command::{CompletionEntry, Direction, Sgl, SubmissionEntry, admin_opcode};
use crate::crc32c::Crc32c;
use crate::status::Status;

/// Computes the CRC-32C of `length` bytes at `offset` of the data of command `cid`. Only called for
/// commands with data to the target, and only when data digests are on.
pub type PayloadCrc<'a> = &'a mut dyn FnMut(u16, u32, u32) -> u32;

/// What the host wants of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Ask for header digests; a controller that refuses them ends the connection.
    pub header_digest: bool,
    /// Ask for data digests; likewise.
    pub data_digest: bool,
    /// Commands that can be in flight: their identifiers are `0..commands_max`.
    pub commands_max: u16,
    /// Data bytes that the capsule of a command may carry, unless it is a Fabrics command: those may
    /// always carry 8 KiB. Admin queues have 8 KiB, I/O queues IOCCSZ * 16 - 64.
    pub in_capsule_bytes: u32,
}

/// The data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// It moves none.
    None,
    /// So many bytes, at least 1, go to the target.
    ToTarget(u32),
    /// So many bytes, at least 1, are wanted from the target.
    FromTarget(u32),
}

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The connection is set up: commands may be submitted.
    Ready,
    /// A piece of data from the target, in order and without gaps. It counts only once the completion has come.
    Data {
        /// Command.
        cid: u16,
        /// Where in the command's data the piece starts.
        offset_bytes: u32,
        /// The piece.
        bytes: &'a [u8],
    },
    /// The command is over and its identifier free.
    Completion {
        /// The completion; SQHD is 0 if the target sent SUCCESS with the data instead.
        entry: CompletionEntry,
        /// Bytes of data that came; a target may send less than was wanted.
        data_bytes: u32,
    },
    /// The command is over and its identifier free; the target says that it succeeded, but a data digest was
    /// wrong, so the data is not to be used. Equivalent to [`Status::TRANSIENT_TRANSPORT_ERROR`].
    Corrupt {
        /// Command.
        cid: u16,
    },
    /// Flush the outbox, then close. Commands in flight are lost; nothing more is parsed.
    Close {
        /// Why.
        reason: CloseReason,
    },
}

/// Where in its life the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Awaits `start`.
    New,
    /// Awaits ICResp.
    Initialize,
    /// Awaits completions, data and R2Ts.
    Ready,
    /// Over.
    Closed,
}

/// One command identifier.
#[derive(Clone, Copy, Debug)]
struct Command {
    in_flight: bool,
    payload: Payload,
    /// Bytes of data sent or received so far.
    moved_bytes: u32,
    /// LAST_PDU has come: no more data follows.
    last: bool,
    /// A data digest was wrong.
    corrupt: bool,
}

const FREE: Command = Command {
    in_flight: false,
    payload: Payload::None,
    moved_bytes: 0,
    last: false,
    corrupt: false,
};

/// The C2HData whose body is being received.
#[derive(Clone, Copy, Debug)]
struct Receiving {
    cid: u16,
    success: bool,
}

/// The host's end of one connection.
pub struct Connection {
    crc: Crc32c,
    phase: Phase,
    wanted: Digests,
    framer: Framer,
    commands: Vec<Command>,
    in_flight: u16,
    receiving: Option<Receiving>,
    in_capsule_bytes: u32,
    /// CPDA.
    controller_alignment: u8,
    /// MAXH2CDATA.
    max_h2c_bytes: u32,
}

impl Connection {
    /// A connection whose TCP handshake is done. Panics if `commands_max` is 0.
    pub fn new(options: Options, crc: Crc32c) -> Self {
        assert!(options.commands_max > 0);
        Self {
            crc,
            phase: Phase::New,
            wanted: Digests {
                header: options.header_digest,
                data: options.data_digest,
            },
            framer: Framer::new(crc),
            commands: vec![FREE; usize::from(options.commands_max)],
            in_flight: 0,
            receiving: None,
            in_capsule_bytes: options.in_capsule_bytes,
            controller_alignment: 0,
            max_h2c_bytes: pdu::MAX_H2C_BYTES_MIN,
        }
    }

    /// Sends ICReq; [`Event::Ready`] follows. Panics if called twice.
    pub fn start(&mut self, out: &mut Outbox) {
        assert_eq!(self.phase, Phase::New);
        let request = IcReq {
            alignment: 0,
            digests: self.wanted,
            max_r2t: 0, // 0's based: one at a time.
        };
        out.push_bytes(&request.encode());
        self.phase = Phase::Initialize;
    }

    /// Sets the limit for data in capsules, once Identify has told IOCCSZ.
    pub fn set_in_capsule_bytes(&mut self, in_capsule_bytes: u32) {
        self.in_capsule_bytes = in_capsule_bytes;
    }

    /// Whether header and data digests are in use.
    pub fn digests(&self) -> (bool, bool) {
        let digests = self.framer.digests();
        (digests.header, digests.data)
    }

    /// Whether commands may be submitted.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Commands that were submitted and are not over.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Whether this identifier is in flight.
    pub fn is_in_flight(&self, cid: u16) -> bool {
        self.commands
            .get(usize::from(cid))
            .is_some_and(|command| command.in_flight)
    }

    /// Sends a command. Its data pointer is written here; data to the target goes into the capsule if it
    /// fits there and otherwise waits for R2Ts.
    ///
    /// Panics if the connection is not ready, or the identifier is in use or not below `commands_max`, or
    /// the payload contradicts the opcode.
    pub fn submit(
        &mut self,
        mut entry: SubmissionEntry,
        payload: Payload,
        payload_crc: PayloadCrc<'_>,
        out: &mut Outbox,
    ) {
        const PSDT_SGL: u8 = 1;
        assert!(self.is_ready());
        assert_eq!(entry.psdt(), PSDT_SGL, "SubmissionEntry::new sets it");
        let cid = entry.cid();
        let command = &mut self.commands[usize::from(cid)];
        assert!(!command.in_flight, "an identifier is used once at a time");
        let carried_bytes = match payload {
            Payload::None => 0,
            Payload::ToTarget(bytes) => {
                assert!(bytes > 0 && entry.direction() == Direction::FromHost);
                let fabrics = entry.opcode() == admin_opcode::FABRICS;
                let limit = if fabrics {
                    self.in_capsule_bytes.max(ADMIN_IN_CAPSULE_BYTES)
                } else {
                    self.in_capsule_bytes
                };
                if bytes <= limit { bytes } else { 0 }
            }
            Payload::FromTarget(bytes) => {
                assert!(bytes > 0 && entry.direction() == Direction::ToHost);
                0
            }
        };
        *command = Command {
            in_flight: true,
            payload,
            moved_bytes: carried_bytes,
            ..FREE
        };
        self.in_flight += 1;
        entry.set_sgl(sgl(payload, carried_bytes));
        let digests = self.framer.digests();
        let alignment = self.controller_alignment;
        let header = pdu::encode_command(&entry, digests, alignment, carried_bytes);
        out.push_header(&header, digests.header, self.crc);
        if carried_bytes > 0 {
            self.push_data(PduType::CapsuleCmd, cid, 0, carried_bytes, payload_crc, out);
        }
    }

    /// Takes bytes from the front of `input` and returns the next event. `None`: all of `input` was
    /// taken and more is needed. Call it until then even with empty input.
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        payload_crc: PayloadCrc<'_>,
        out: &mut Outbox,
    ) -> Option<Event<'a>> {
        loop {
            if self.phase == Phase::Closed {
                *input = &[];
                return None;
            }
            let event = match self.framer.next(input)? {
                Ok(Frame::Header(pdu)) => self.handle_header(pdu, payload_crc, out),
                Ok(Frame::Bytes(bytes)) => Ok(Some(self.handle_bytes(bytes))),
                Ok(Frame::End { intact }) => Ok(self.handle_end(intact)),
                Err(fatal) => Err(fatal),
            };
            match event {
                Ok(None) => {}
                Ok(event) => return event,
                Err(fatal) => return Some(self.terminate(fatal, out)),
            }
        }
    }

    fn handle_header<'a>(
        &mut self,
        pdu: Pdu,
        payload_crc: PayloadCrc<'_>,
        out: &mut Outbox,
    ) -> Result<Option<Event<'a>>, Fatal> {
        match (self.phase, pdu) {
            (Phase::Ready, Pdu::DataToHost(data, _)) => self.handle_data(data),
            (Phase::Ready, Pdu::Response(entry)) => self.handle_response(entry),
            (Phase::Ready, Pdu::R2t(r2t)) => self.handle_r2t(r2t, payload_crc, out),
            (Phase::Initialize, Pdu::IcResp(response)) => self.handle_icresp(response),
            (_, Pdu::ControllerTerminates(termination)) => {
                self.phase = Phase::Closed;
                Ok(Some(Event::Close {
                    reason: CloseReason::Terminated(termination),
                }))
            }
            (_, Pdu::IcResp(_) | Pdu::Response(_) | Pdu::DataToHost(..) | Pdu::R2t(_)) => {
                Err(Fatal::new(FatalStatus::SequenceError, 0))
            }
            (_, Pdu::IcReq(_) | Pdu::HostTerminates(_) | Pdu::Command(..) | Pdu::DataToController(..)) => {
                Err(Fatal::field(field::TYPE))
            }
        }
    }

    fn handle_icresp<'a>(&mut self, response: IcResp) -> Result<Option<Event<'a>>, Fatal> {
        if response.digests != self.wanted {
            return Err(Fatal::new(FatalStatus::UnsupportedParameter, field::DIGESTS));
        }
        self.framer.set_digests(response.digests);
        self.controller_alignment = response.alignment;
        self.max_h2c_bytes = response.max_h2c_bytes;
        self.phase = Phase::Ready;
        Ok(Some(Event::Ready))
    }

    fn handle_data<'a>(&mut self, data: DataHeader) -> Result<Option<Event<'a>>, Fatal> {
        let command = self.in_flight_mut(data.cid, field::CID)?;
        let Payload::FromTarget(wanted_bytes) = command.payload else {
            return Err(Fatal::field(field::CID));
        };
        if command.last {
            return Err(Fatal::new(FatalStatus::SequenceError, 0));
        }
        if data.offset_bytes != command.moved_bytes {
            return Err(Fatal::new(FatalStatus::DataOutOfRange, field::OFFSET));
        }
        let missing_bytes = wanted_bytes - command.moved_bytes;
        if data.length_bytes > missing_bytes {
            return Err(Fatal::new(FatalStatus::DataOutOfRange, field::LENGTH));
        }
        if data.success && data.length_bytes < missing_bytes {
            return Err(Fatal::field(field::FLAGS));
        }
        command.last = data.last;
        self.receiving = Some(Receiving {
            cid: data.cid,
            success: data.success,
        });
        Ok(None)
    }

    fn handle_bytes<'a>(&mut self, bytes: &'a [u8]) -> Event<'a> {
        let cid = self.receiving.expect("only C2HData has a body here").cid;
        let command = &mut self.commands[usize::from(cid)];
        let offset_bytes = command.moved_bytes;
        command.moved_bytes += u32::try_from(bytes.len()).expect("a PDU is shorter than 4 GiB");
        Event::Data {
            cid,
            offset_bytes,
            bytes,
        }
    }

    fn handle_end<'a>(&mut self, intact: bool) -> Option<Event<'a>> {
        let Receiving { cid, success } = self.receiving.take().expect("only C2HData has a body here");
        self.commands[usize::from(cid)].corrupt |= !intact;
        success.then(|| {
            self.finish(CompletionEntry {
                result: 0,
                sqhd: 0,
                cid,
                status: Status::SUCCESS,
            })
        })
    }

    fn handle_response<'a>(&mut self, entry: CompletionEntry) -> Result<Option<Event<'a>>, Fatal> {
        let command = self.in_flight_mut(entry.cid, field::RESPONSE_CID)?;
        if let Payload::ToTarget(bytes) = command.payload
            && entry.status.is_success()
            && command.moved_bytes < bytes
        {
            // It cannot have done what it says without the data.
            return Err(Fatal::new(FatalStatus::SequenceError, 0));
        }
        Ok(Some(self.finish(entry)))
    }

    fn handle_r2t<'a>(
        &mut self,
        r2t: R2t,
        payload_crc: PayloadCrc<'_>,
        out: &mut Outbox,
    ) -> Result<Option<Event<'a>>, Fatal> {
        let max_h2c_bytes = self.max_h2c_bytes;
        let command = self.in_flight_mut(r2t.cid, field::CID)?;
        let Payload::ToTarget(bytes) = command.payload else {
            return Err(Fatal::field(field::CID));
        };
        if r2t.offset_bytes != command.moved_bytes {
            return Err(Fatal::new(FatalStatus::DataOutOfRange, field::OFFSET));
        }
        if r2t.length_bytes > bytes - command.moved_bytes {
            return Err(Fatal::new(FatalStatus::DataOutOfRange, field::LENGTH));
        }
        command.moved_bytes += r2t.length_bytes;
        let digests = self.framer.digests();
        let mut offset_bytes = r2t.offset_bytes;
        let mut left_bytes = r2t.length_bytes;
        // Ends: `left_bytes` shrinks by at least one MAXH2CDATA (4096) a turn or reaches 0.
        while left_bytes > 0 {
            let length_bytes = left_bytes.min(max_h2c_bytes);
            left_bytes -= length_bytes;
            let header = DataHeader {
                cid: r2t.cid,
                ttag: r2t.ttag,
                offset_bytes,
                length_bytes,
                last: left_bytes == 0,
                success: false,
            };
            let header = header.encode(PduType::H2cData, digests, self.controller_alignment);
            out.push_header(&header, digests.header, self.crc);
            self.push_data(
                PduType::H2cData,
                r2t.cid,
                offset_bytes,
                length_bytes,
                payload_crc,
                out,
            );
            offset_bytes += length_bytes;
        }
        Ok(None)
    }

    /// Appends what follows a header with data: padding, the data, its digest.
    fn push_data(
        &self,
        kind: PduType,
        cid: u16,
        offset_bytes: u32,
        length_bytes: u32,
        payload_crc: PayloadCrc<'_>,
        out: &mut Outbox,
    ) {
        let digests = self.framer.digests();
        let pad_bytes = pdu::pad_bytes(kind, digests, self.controller_alignment);
        if pad_bytes > 0 {
            out.push_bytes(&[0; 128][..pad_bytes]);
        }
        out.push_payload(Slot(cid), offset_bytes, length_bytes);
        if digests.data {
            let digest = payload_crc(cid, offset_bytes, length_bytes);
            out.push_bytes(&digest.to_le_bytes());
        }
    }

    /// The command that the controller names, if it is in flight; `field` is where it stands in the PDU.
    fn in_flight_mut(&mut self, cid: u16, field: u32) -> Result<&mut Command, Fatal> {
        self.commands
            .get_mut(usize::from(cid))
            .filter(|command| command.in_flight)
            .ok_or(Fatal::field(field))
    }

    fn finish<'a>(&mut self, entry: CompletionEntry) -> Event<'a> {
        let command = &mut self.commands[usize::from(entry.cid)];
        assert!(command.in_flight, "a command ends exactly once");
        let ended = *command;
        *command = FREE;
        self.in_flight -= 1;
        if ended.corrupt && entry.status.is_success() {
            return Event::Corrupt { cid: entry.cid };
        }
        Event::Completion {
            entry,
            data_bytes: match ended.payload {
                Payload::FromTarget(_) => ended.moved_bytes,
                Payload::None | Payload::ToTarget(_) => 0,
            },
        }
    }

    fn terminate<'a>(&mut self, fatal: Fatal, out: &mut Outbox) -> Event<'a> {
        assert!(self.phase != Phase::Closed);
        self.phase = Phase::Closed;
        out.push_bytes(TermReq::new(PduType::H2cTermReq, fatal, self.framer.header()).as_bytes());
        Event::Close {
            reason: CloseReason::Fatal(fatal),
        }
    }
}

/// The data pointer for a payload of which the capsule carries `carried_bytes`.
fn sgl(payload: Payload, carried_bytes: u32) -> Sgl {
    match payload {
        Payload::ToTarget(length_bytes) if carried_bytes > 0 => Sgl::InCapsule {
            offset_bytes: 0,
            length_bytes,
        },
        Payload::ToTarget(length_bytes) | Payload::FromTarget(length_bytes) => {
            Sgl::Transport { length_bytes }
        }
        Payload::None => Sgl::Transport { length_bytes: 0 },
    }
}

#[cfg(test)]
mod tests;
