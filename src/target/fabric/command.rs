//! A drive's command as NVMe has it, and what the answers mean.

use nvme::command::{SubmissionEntry, io_opcode};
use nvme::log::{INSTANCE_BYTES, lid, log_command};
use nvme::reservation::{Command as Reservation, Report};
use nvme::status::Status;
use nvme::tcp::initiator::Payload;

use super::{Answer, Ask};
use crate::drive::DriveError;
use crate::target::drives::Kind;
use crate::target::host::{Answer as Completion, Namespace, Outcome, TargetFacts};

/// Force Unit Access.
///
/// Source: NVM Command Set Specification 1.0, Write and Write Zeroes commands, Command Dword 12, bit 30.
const FUA: u32 = 1 << 30;
/// Deallocate: allowed only if the blocks read as zeroes afterwards.
///
/// Source: NVM Command Set Specification 1.0, Write Zeroes command, Command Dword 12, bit 25.
const DEAC: u32 = 1 << 25;
/// ONCS bit 3: Write Zeroes.
///
/// Source: NVM Express Base Specification 2.0, Identify Controller, Optional NVM Command Support.
const ONCS_WRITE_ZEROES: u16 = 1 << 3;
/// Blocks of one command at most: Number of Logical Blocks has 16 bits and is 0's based.
const BLOCKS_MAX: u32 = 1 << 16;

/// How zeroes are made on a target.
pub fn writes_zeroes_itself(facts: &TargetFacts) -> bool {
    facts.oncs & ONCS_WRITE_ZEROES != 0
}

/// The longest part of a command, in bytes, that goes in one piece.
pub fn part_bytes_max(kind: Kind, namespace: &Namespace, facts: &TargetFacts) -> u32 {
    let blocks_max = BLOCKS_MAX.saturating_mul(namespace.block_bytes);
    match kind {
        Kind::Zero { .. } if writes_zeroes_itself(facts) => blocks_max,
        Kind::Read | Kind::Write { .. } | Kind::Zero { .. } | Kind::Flush => {
            let whole = facts.max_transfer_bytes / namespace.block_bytes * namespace.block_bytes;
            whole.min(blocks_max)
        }
    }
}

/// The command for `bytes` bytes from `at` of a namespace, and its data.
pub fn encode(
    kind: Kind,
    namespace: &Namespace,
    at: u64,
    bytes: u32,
    facts: &TargetFacts,
) -> (SubmissionEntry, Payload) {
    let forced = |fua: bool| if fua { FUA } else { 0 };
    let (opcode, flags, data) = match kind {
        Kind::Read => (io_opcode::READ, 0, Payload::FromTarget(bytes)),
        Kind::Write { fua } => (io_opcode::WRITE, forced(fua), Payload::ToTarget(bytes)),
        Kind::Zero { fua } if writes_zeroes_itself(facts) => {
            (io_opcode::WRITE_ZEROES, DEAC | forced(fua), Payload::None)
        }
        Kind::Zero { fua } => (io_opcode::WRITE, forced(fua), Payload::ToTarget(bytes)),
        Kind::Flush => {
            let mut entry = SubmissionEntry::new(io_opcode::FLUSH, 0);
            entry.set_nsid(namespace.nsid);
            return (entry, Payload::None);
        }
    };
    (address(opcode, namespace, at, bytes, flags), data)
}

/// A command on whole blocks.
fn address(opcode: u8, namespace: &Namespace, at: u64, bytes: u32, flags: u32) -> SubmissionEntry {
    let block = namespace.block_bytes;
    assert!(at.is_multiple_of(u64::from(block)) && bytes.is_multiple_of(block));
    let (slba, blocks) = (at / u64::from(block), bytes / block);
    assert!((1..=BLOCKS_MAX).contains(&blocks));
    let mut entry = SubmissionEntry::new(opcode, 0);
    entry.set_nsid(namespace.nsid);
    let [a, b, c, d, e, f, g, h] = slba.to_le_bytes();
    entry.set_dword(10, u32::from_le_bytes([a, b, c, d]));
    entry.set_dword(11, u32::from_le_bytes([e, f, g, h]));
    entry.set_dword(12, (blocks - 1) | flags);
    entry
}

/// What core 0 asks of a drive, with the data that it brings and the bytes that it wants.
pub fn encode_ask(ask: &Ask, namespace: &Namespace) -> (SubmissionEntry, Vec<u8>, u32) {
    let of = |area: super::Area| Namespace {
        nsid: area.nsid(namespace.nsid),
        ..*namespace
    };
    match ask {
        Ask::Reserve(command) => {
            let (entry, data) = command.encode(0, namespace.nsid);
            let read_bytes = match command {
                Reservation::Report { length_bytes, .. } => {
                    u32::try_from(*length_bytes).expect("a report is short")
                }
                Reservation::Register { .. }
                | Reservation::Unregister { .. }
                | Reservation::Replace { .. }
                | Reservation::Acquire { .. }
                | Reservation::Preempt { .. }
                | Reservation::Release { .. }
                | Reservation::Clear { .. }
                | Reservation::SetPersistence(_)
                | Reservation::SetFloors(_)
                | Reservation::Expel { .. }
                | Reservation::Kill { .. } => 0,
            };
            (entry, data, read_bytes)
        }
        Ask::Read { area, at, bytes } => {
            let entry = address(io_opcode::READ, &of(*area), *at, *bytes, 0);
            (entry, Vec::new(), *bytes)
        }
        Ask::Write { area, at, data } => {
            let bytes = u32::try_from(data.len()).expect("ASK_BYTES_MAX fits");
            let entry = address(io_opcode::WRITE, &of(*area), *at, bytes, FUA);
            (entry, data.clone(), 0)
        }
    }
}

/// Asks a controller which start of its process it is.
pub fn encode_instance() -> (SubmissionEntry, u32) {
    let bytes = u32::try_from(INSTANCE_BYTES).expect("64");
    (log_command(0, lid::INSTANCE, 0, bytes), bytes)
}

/// The start of a process that a page names; `None` if the target has no such page.
pub fn instance_of(answer: &Answer) -> Option<[u8; 16]> {
    match answer {
        Answer::Data(data) => data.first_chunk().copied(),
        Answer::Done | Answer::Report(_) | Answer::Conflict | Answer::Interrupted | Answer::Failed(_) => None,
    }
}

/// How what core 0 asked was answered.
pub fn answer_of(ask: Option<&Ask>, outcome: Outcome, data: Vec<u8>) -> Answer {
    let status = match outcome {
        Ok(Completion { status, .. }) => status,
        Err(_) => return Answer::Failed(None),
    };
    if status.same_code(Status::RESERVATION_CONFLICT) {
        return Answer::Conflict;
    }
    if status.same_code(Status::COMMAND_INTERRUPTED) {
        return Answer::Interrupted;
    }
    if !status.is_success() {
        return Answer::Failed(Some(status));
    }
    match ask {
        Some(Ask::Reserve(Reservation::Report { extended, .. })) => {
            Report::parse(&data, *extended).map_or(Answer::Failed(None), Answer::Report)
        }
        Some(Ask::Reserve(_) | Ask::Write { .. }) => Answer::Done,
        Some(Ask::Read { .. }) | None => Answer::Data(data),
    }
}

/// What an engine is told of a command's end; `None` if that is not known, because the connection was lost.
pub fn result_of(outcome: Outcome) -> Option<Result<(), DriveError>> {
    let status = outcome.ok()?.status;
    Some(if status.is_success() {
        Ok(())
    } else {
        Err(error_of(status))
    })
}

fn error_of(status: Status) -> DriveError {
    let is = |known: &[Status]| known.iter().any(|known| status.same_code(*known));
    if is(&[Status::UNRECOVERED_READ_ERROR, Status::WRITE_FAULT]) {
        DriveError::Media
    } else if is(&[Status::RESERVATION_CONFLICT, Status::ABORTED_BY_PREEMPTION]) {
        DriveError::Fenced
    } else if is(&[Status::LBA_OUT_OF_RANGE, Status::CAPACITY_EXCEEDED]) {
        DriveError::OutOfRange
    } else if is(&[
        Status::INVALID_NAMESPACE_OR_FORMAT,
        Status::ANA_INACCESSIBLE,
        Status::ANA_PERSISTENT_LOSS,
    ]) {
        DriveError::Gone
    } else {
        DriveError::Io {
            errno: libc::EREMOTEIO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::fabric::Area;

    const NAMESPACE: Namespace = Namespace {
        nsid: 3,
        blocks: 1 << 20,
        block_bytes: 4096,
        nguid: [0; 16],
        uuid: [1; 16],
    };

    fn facts(oncs: u16) -> TargetFacts {
        TargetFacts {
            max_transfer_bytes: (256 << 10) + 512,
            oncs,
            ..TargetFacts::default()
        }
    }

    #[test]
    fn commands_name_blocks_and_say_what_is_forced() {
        let (entry, data) = encode(Kind::Write { fua: true }, &NAMESPACE, 5 << 44, 8192, &facts(0));
        assert_eq!((entry.nsid(), data), (3, Payload::ToTarget(8192)));
        assert_eq!((entry.dword(10), entry.dword(11)), (0, 5));
        assert_eq!(entry.dword(12), 1 | FUA);
        let (entry, data) = encode(Kind::Zero { fua: false }, &NAMESPACE, 0, 1 << 20, &facts(8));
        assert_eq!((entry.opcode(), data), (io_opcode::WRITE_ZEROES, Payload::None));
        assert_eq!(entry.dword(12), 255 | DEAC);
        let (entry, data) = encode(Kind::Zero { fua: false }, &NAMESPACE, 0, 4096, &facts(0));
        assert_eq!(
            (entry.opcode(), data),
            (io_opcode::WRITE, Payload::ToTarget(4096))
        );
        let write = Ask::Write {
            area: Area::Quorum,
            at: 8192,
            data: vec![1; 4096],
        };
        let (entry, data, read_bytes) = encode_ask(&write, &NAMESPACE);
        assert_eq!((entry.nsid(), entry.dword(10), entry.dword(12)), (4, 2, FUA));
        assert_eq!((data.len(), read_bytes), (4096, 0));
    }

    #[test]
    fn parts_are_whole_blocks_within_what_a_target_takes() {
        let most = |kind, oncs| part_bytes_max(kind, &NAMESPACE, &facts(oncs));
        assert_eq!(most(Kind::Read, 8), 256 << 10);
        assert_eq!(most(Kind::Zero { fua: false }, 8), 256 << 20);
        assert_eq!(most(Kind::Zero { fua: false }, 0), 256 << 10);
    }

    #[test]
    fn statuses_are_told_apart_by_what_is_to_be_done() {
        let told = |status| {
            let completion = Completion { status, result: 0 };
            (
                result_of(Ok(completion)),
                answer_of(None, Ok(completion), vec![7]),
            )
        };
        assert_eq!(told(Status::SUCCESS), (Some(Ok(())), Answer::Data(vec![7])));
        for (status, error, answer) in [
            (Status::RESERVATION_CONFLICT, DriveError::Fenced, Answer::Conflict),
            (
                Status::UNRECOVERED_READ_ERROR.do_not_retry(),
                DriveError::Media,
                Answer::Failed(Some(Status::UNRECOVERED_READ_ERROR.do_not_retry())),
            ),
            (
                Status::COMMAND_INTERRUPTED,
                DriveError::Io {
                    errno: libc::EREMOTEIO,
                },
                Answer::Interrupted,
            ),
        ] {
            assert_eq!(told(status), (Some(Err(error)), answer));
        }
        let lost = Err(crate::target::host::JobError::Lost);
        assert_eq!(
            (result_of(lost), answer_of(None, lost, Vec::new())),
            (None, Answer::Failed(None))
        );
    }
}
