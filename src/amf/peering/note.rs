//! What nodes say about a group that they share, as bytes on the link.
//!
//! Every note begins with a [`Context`]. What follows, little-endian:
//!
//! | kind | body |
//! |---|---|
//! | 1 lock | a message of the lock protocol |
//! | 2 standing | flags 0 (1: has the group open, 2: last part, 4: it has failed), tails 1, zeroes 2..8, so many tails of 16 bytes (slot, zeroes, number), rows of 8 bytes |
//! | 3 led | members (32 times: 1 if named and 16 bytes), the record |
//! | 4 refused | a sentence |
//! | 5 fault | member 0, kind of error 1, zeroes 2..4, errno 4..8 |
//! | 6 hurry | lane 0..2, zeroes 2..8, number 8..16 |
//! | 7 tail moved | mask of lanes 0..4 |
//! | 8 beat | nothing |
//! | 9 reserve | a message about reservations |
//! | 10 hand over | row 0..8, token 8..20 (epoch 4, serial 8), zeroes 20..24, the data as [`HandedOver`] has it |
//! | 11 replayed | nothing |
//! | 12 copy | lane 0..2, zeroes 2..8, batch 8..16, below which batch all are on the drives 16..24, highest number 24..32, the batch |
//! | 13 kept | lane 0..2, 1 if it is kept 2, zeroes 3..8, batch 8..16 |
//! | 14 commit | lane 0..2, zeroes 2..4, flush 4..8 |
//! | 15 committed | the same |
//! | 16 memory | nothing |
//! | 17 memory is | 1 if it is 0 |
//! | 18 memory ended | nothing |
//! | 19 left | nothing |
//! | 20 restored | nothing |
//! | 21 kept by | sets of nodes, a byte each |
//! | 22 left heard | nothing |

use std::sync::Arc;

use thiserror::Error;

use super::keepers::{Parts, View};
use crate::amf::arbiter::Token;
use crate::amf::arbiter::message::{Message, MessageError};
use crate::amf::geometry::ROWS_MAX as GROUP_ROWS_MAX;
use crate::amf::hand_over::{HandOverError, HandedOver};
use crate::amf::homes::{CONTEXT_BYTES, Context, ContextError};
use crate::amf::replica::{Copy, Name};
use crate::amf::reserving::message::{Message as Reservation, MessageError as ReservationError};
use crate::amf::superblock::{LANES_MAX, RECORD_BYTES};
use crate::amf::{MEMBERS_MAX, MemberIndex, RowIndex};
use crate::drive::DriveError;
use crate::icl::{Epoch, Slot, SlotSet};

/// Rows of a part of a standing at most: what fits a packet of the link with room for others.
pub const ROWS_MAX: usize = 4096;
/// Longest sentence of a refusal.
const WHY_BYTES_MAX: usize = 512;
/// Most sets of nodes that a node names.
const PARTS_MAX: usize = 32;
/// Bytes of a slot and its tail.
const TAIL_BYTES: usize = 16;
/// Bytes before the data of a hand-over.
const HAND_OVER_BYTES: usize = 24;
/// Bytes that name the drive of a member.
const NAMED_BYTES: usize = 17;

/// The newest durable record of a group, and what else its followers need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    /// What names the drive of each member to all nodes: the UUID of its namespace; `None` if no drive carries it.
    pub drives: Vec<Option<[u8; 16]>>,
    /// The record, as a superblock has it.
    pub record: Box<[u8; RECORD_BYTES]>,
}

/// What one node says to another about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// About its locks.
    Lock(Message),
    /// To whoever leads an epoch: what the sender has of the group. In parts.
    Standing {
        /// The sender's engines serve it.
        is_open: bool,
        /// It has failed there.
        has_failed: bool,
        /// Below which numbers other nodes need no entries of theirs, as it has heard; those that are gone among them.
        tails: Vec<(Slot, u64)>,
        /// Rows that it holds.
        rows: Vec<RowIndex>,
        /// What it knows of nodes that are gone.
        view: View,
        /// No further part follows.
        is_last: bool,
    },
    /// From whoever leads: the group is open, or its record has changed.
    Led(Led),
    /// From whoever leads: the group cannot be opened, and why.
    Refused(String),
    /// To whoever leads: a member failed a command.
    Fault(MemberIndex, DriveError),
    /// A lane waits until all others have retired what has lower numbers.
    Hurry {
        /// Which lane waits.
        lane: u16,
        /// Everything below.
        below: u64,
    },
    /// That was done, for these lanes.
    TailMoved {
        /// Bit `i` is lane `i`.
        lanes: u32,
    },
    /// Nothing but its context.
    Beat,
    /// To the next writer of a row: its dirty data, which a grant will name.
    HandOver {
        /// Which row.
        row: RowIndex,
        /// Of the sender's grant.
        token: Token,
        /// What it is.
        data: HandedOver,
    },
    /// From whoever leads an epoch: what journals have of rows that nobody held when it began is in its place.
    Replayed,
    /// About the reservations of its virtual disks.
    Reserve(Reservation),
    /// To a partner: a batch to keep. To whoever leads, from one that has kept it for a node that is gone.
    Copy(Copy),
    /// To the writer of a batch: it is kept here, or there is no room.
    Kept {
        /// Which.
        name: Name,
        /// It is.
        keeps: bool,
    },
    /// A core has a flush under way: everything in the receiver's lanes is to be committed.
    Commit(FlushName),
    /// That was done, in one lane.
    Committed(FlushName),
    /// To whoever leads: a core could acknowledge from memory, were it durable that what is acknowledged may be lost.
    Memory,
    /// From whoever leads: it is, or the receiver is to commit what it has acknowledged so, and to acknowledge nothing more.
    MemoryIs(bool),
    /// To whoever leads: that was done.
    MemoryEnded,
    /// The sender is about to leave, and has nothing in memory alone any more.
    Left,
    /// The answer to that: the sender will not miss the receiver.
    LeftHeard,
    /// All that the sender has acknowledged from memory before this epoch is on the drives, or with its partners of this epoch.
    Restored,
    /// Before anything is acknowledged in this epoch: the parts of what the sender has acknowledged from memory before, and who has each.
    KeptBy(Parts),
}

/// Names a flush, within a node or between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushName {
    /// The lane of its core.
    pub lane: u16,
    /// As the core calls it, or the node that asks others.
    pub flush: u32,
}

/// Why bytes are no note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// They are too few.
    #[error("it is too short")]
    Short,
    /// Nobody knows this kind.
    #[error("nobody knows kind {0}")]
    Kind(u16),
    /// What every note begins with.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A message about locks.
    #[error("a message about locks: {0}")]
    Lock(#[from] MessageError),
    /// Dirty data.
    #[error("dirty data of a row: {0}")]
    HandOver(#[from] HandOverError),
    /// A message about reservations.
    #[error("a message about reservations: {0}")]
    Reserve(#[from] ReservationError),
    /// A field has a value that it cannot have.
    #[error("field {0} cannot be so")]
    Field(&'static str),
}

impl Note {
    /// Its kind on the link.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Lock(_) => 1,
            Self::Standing { .. } => 2,
            Self::Led(_) => 3,
            Self::Refused(_) => 4,
            Self::Fault(..) => 5,
            Self::Hurry { .. } => 6,
            Self::TailMoved { .. } => 7,
            Self::Beat => 8,
            Self::Reserve(_) => 9,
            Self::HandOver { .. } => 10,
            Self::Replayed => 11,
            Self::Copy(_) => 12,
            Self::Kept { .. } => 13,
            Self::Commit(_) => 14,
            Self::Committed(_) => 15,
            Self::Memory => 16,
            Self::MemoryIs(_) => 17,
            Self::MemoryEnded => 18,
            Self::Left => 19,
            Self::Restored => 20,
            Self::LeftHeard => 22,
            Self::KeptBy(_) => 21,
        }
    }

    /// Appends its body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let Some(rest) = self.encode_head(out) {
            out.extend_from_slice(rest);
        }
    }

    /// Appends its body up to what need not be copied, which is returned and follows.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> Option<&Arc<[u8]>> {
        match self {
            Self::Lock(message) => message.encode(out),
            Self::Standing {
                is_open,
                has_failed,
                tails,
                rows,
                view,
                is_last,
            } => {
                let flags = u8::from(*is_open) | u8::from(*is_last) << 1 | u8::from(*has_failed) << 2;
                let count = u8::try_from(tails.len()).expect("an array has few slots");
                out.extend([flags, count, view.unkept.0, view.kept.0]);
                out.extend(view.served.0.to_le_bytes());
                for (slot, tail) in tails {
                    out.extend([slot.number(), 0, 0, 0, 0, 0, 0, 0]);
                    out.extend(tail.to_le_bytes());
                }
                for row in rows {
                    out.extend(row.0.to_le_bytes());
                }
            }
            Self::Led(led) => encode_led(led, out),
            Self::Refused(why) => {
                let most = why.floor_char_boundary(WHY_BYTES_MAX);
                out.extend(&why.as_bytes()[..most]);
            }
            Self::Fault(member, error) => {
                let (kind, errno) = code_of(*error);
                out.extend([member.0, kind, 0, 0]);
                out.extend(errno.to_le_bytes());
            }
            Self::Hurry { lane, below } => {
                out.extend(lane.to_le_bytes());
                out.extend([0; 6]);
                out.extend(below.to_le_bytes());
            }
            Self::TailMoved { lanes } => out.extend(lanes.to_le_bytes()),
            Self::Beat | Self::Replayed | Self::Memory | Self::MemoryEnded => {}
            Self::Left | Self::LeftHeard | Self::Restored => {}
            Self::KeptBy(parts) => encode_kept_by(parts, out),
            Self::MemoryIs(is) => out.push(u8::from(*is)),
            Self::HandOver { row, token, data } => {
                out.extend(row.0.to_le_bytes());
                out.extend(token.epoch.0.to_le_bytes());
                out.extend(token.serial.to_le_bytes());
                out.extend([0; 4]);
                data.encode(out);
            }
            Self::Reserve(message) => message.encode(out),
            Self::Copy(copy) => {
                encode_name(copy.name, 0, out);
                out.extend(copy.committed.to_le_bytes());
                out.extend(copy.seq_max.to_le_bytes());
                return Some(&copy.bytes);
            }
            Self::Kept { name, keeps } => encode_name(*name, u8::from(*keeps), out),
            Self::Commit(name) | Self::Committed(name) => {
                out.extend(name.lane.to_le_bytes());
                out.extend([0; 2]);
                out.extend(name.flush.to_le_bytes());
            }
        }
        None
    }

    /// What a message of the link says. Errs at anything that no sound node sends.
    pub fn parse(kind: u16, bytes: &[u8]) -> Result<(Context, Self), NoteError> {
        let (context, body) = bytes.split_at_checked(CONTEXT_BYTES).ok_or(NoteError::Short)?;
        Ok((Context::parse(context)?, Self::parse_body(kind, body)?))
    }

    fn parse_body(kind: u16, body: &[u8]) -> Result<Self, NoteError> {
        Ok(match kind {
            1 => Self::Lock(Message::parse(body)?),
            2 => parse_standing(body)?,
            3 => Self::Led(parse_led(body)?),
            4 => {
                let why = body.get(..body.len().min(WHY_BYTES_MAX)).unwrap_or_default();
                Self::Refused(String::from_utf8_lossy(why).into_owned())
            }
            5 => {
                let &[member, kind, 0, 0, a, b, c, d] = body else {
                    return Err(NoteError::Field("fault"));
                };
                let error = error_of(kind, i32::from_le_bytes([a, b, c, d]));
                let is_member = usize::from(member) < MEMBERS_MAX;
                let error = error.filter(|_| is_member).ok_or(NoteError::Field("fault"))?;
                Self::Fault(MemberIndex(member), error)
            }
            6 => {
                let bytes: &[u8; 16] = body.try_into().map_err(|_| NoteError::Field("hurry"))?;
                let (lane, below) = bytes.split_at(8);
                Self::Hurry {
                    lane: u16::from_le_bytes([lane[0], lane[1]]),
                    below: long(below),
                }
            }
            7 => {
                let bytes = body.try_into().map_err(|_| NoteError::Field("tail moved"))?;
                Self::TailMoved {
                    lanes: u32::from_le_bytes(bytes),
                }
            }
            8 if body.is_empty() => Self::Beat,
            9 => Self::Reserve(Reservation::parse(body)?),
            10 => parse_hand_over(body)?,
            11 if body.is_empty() => Self::Replayed,
            12 => parse_copy(body)?,
            13 => {
                let (head, rest) = body.split_at_checked(NAME_BYTES).ok_or(NoteError::Short)?;
                let (name, flag) = parse_name(head)?;
                let is_sound = flag <= 1 && rest.is_empty();
                let keeps = is_sound.then_some(flag == 1).ok_or(NoteError::Field("kept"))?;
                Self::Kept { name, keeps }
            }
            14 => Self::Commit(parse_flush(body)?),
            15 => Self::Committed(parse_flush(body)?),
            16 if body.is_empty() => Self::Memory,
            17 => {
                let &[flag @ (0 | 1)] = body else {
                    return Err(NoteError::Field("memory"));
                };
                Self::MemoryIs(flag == 1)
            }
            18 if body.is_empty() => Self::MemoryEnded,
            19 if body.is_empty() => Self::Left,
            20 if body.is_empty() => Self::Restored,
            22 if body.is_empty() => Self::LeftHeard,
            21 => Self::KeptBy(parse_kept_by(body)?),
            kind => return Err(NoteError::Kind(kind)),
        })
    }
}

fn encode_led(led: &Led, out: &mut Vec<u8>) {
    for member in 0..MEMBERS_MAX {
        let name = led.drives.get(member).copied().flatten();
        out.push(u8::from(name.is_some()));
        out.extend(name.unwrap_or_default());
    }
    out.extend(&led.record[..]);
}

fn encode_kept_by(parts: &[SlotSet], out: &mut Vec<u8>) {
    if parts.len() > PARTS_MAX {
        // So many that nobody need know which.
        out.push(SlotSet::EMPTY.0);
    } else {
        out.extend(parts.iter().map(|part| part.0));
    }
}

fn parse_kept_by(body: &[u8]) -> Result<Parts, NoteError> {
    if body.len() > PARTS_MAX {
        return Err(NoteError::Field("kept by"));
    }
    Ok(body.iter().map(|part| SlotSet(*part)).collect())
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes were cut off"))
}

fn parse_standing(body: &[u8]) -> Result<Note, NoteError> {
    let (head, rest) = body.split_at_checked(8).ok_or(NoteError::Short)?;
    let (tails, rows) = rest
        .split_at_checked(TAIL_BYTES * usize::from(head[1]))
        .ok_or(NoteError::Short)?;
    let is_sound = head[0] < 8 && rows.len().is_multiple_of(8) && rows.len() <= 8 * ROWS_MAX;
    if !is_sound {
        return Err(NoteError::Field("standing"));
    }
    let tail = |tail: &[u8]| Some((Slot::new(tail[0])?, long(&tail[8..])));
    let tails = tails.chunks(TAIL_BYTES).map(tail).collect::<Option<Vec<_>>>();
    Ok(Note::Standing {
        is_open: head[0] & 1 == 1,
        tails: tails.ok_or(NoteError::Field("slot"))?,
        rows: rows.chunks(8).map(|row| RowIndex(long(row))).collect(),
        view: View {
            served: Epoch(u32::from_le_bytes(
                head[4..8].try_into().expect("4 bytes were cut off"),
            )),
            unkept: SlotSet(head[2]),
            kept: SlotSet(head[3]),
        },
        is_last: head[0] & 2 == 2,
        has_failed: head[0] & 4 == 4,
    })
}

fn parse_hand_over(body: &[u8]) -> Result<Note, NoteError> {
    let (head, data) = body.split_at_checked(HAND_OVER_BYTES).ok_or(NoteError::Short)?;
    let row = RowIndex(long(&head[..8]));
    let epoch = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes were cut off"));
    let token = Token {
        epoch: Epoch(epoch),
        serial: long(&head[12..20]),
    };
    if row.0 >= GROUP_ROWS_MAX {
        return Err(NoteError::Field("row"));
    }
    if head[20..] != [0; 4] {
        return Err(NoteError::Field("hand over"));
    }
    let data = HandedOver::parse(data)?;
    Ok(Note::HandOver { row, token, data })
}

/// Lane 0..2, a flag 2, zeroes 3..8, batch 8..16.
const NAME_BYTES: usize = 16;

fn encode_name(name: Name, flag: u8, out: &mut Vec<u8>) {
    out.extend(name.lane.to_le_bytes());
    out.extend([flag, 0, 0, 0, 0, 0]);
    out.extend(name.batch.to_le_bytes());
}

/// The name, and the flag beside it.
fn parse_name(head: &[u8]) -> Result<(Name, u8), NoteError> {
    let lane = u16::from_le_bytes([head[0], head[1]]);
    if head[3..8] != [0; 5] || lane >= LANES_MAX {
        return Err(NoteError::Field("batch"));
    }
    let batch = long(&head[8..16]);
    Ok((Name { lane, batch }, head[2]))
}

fn parse_flush(body: &[u8]) -> Result<FlushName, NoteError> {
    let &[low, high, 0, 0, a, b, c, d] = body else {
        return Err(NoteError::Field("flush"));
    };
    let lane = u16::from_le_bytes([low, high]);
    if lane >= LANES_MAX {
        return Err(NoteError::Field("flush"));
    }
    let flush = u32::from_le_bytes([a, b, c, d]);
    Ok(FlushName { lane, flush })
}

/// Its name, committed 16..24, highest number 24..32, and the batch.
fn parse_copy(body: &[u8]) -> Result<Note, NoteError> {
    let (head, bytes) = body.split_at_checked(NAME_BYTES + 16).ok_or(NoteError::Short)?;
    let (name, flag) = parse_name(&head[..NAME_BYTES])?;
    if flag != 0 {
        return Err(NoteError::Field("copy"));
    }
    Ok(Note::Copy(Copy {
        name,
        committed: long(&head[16..24]),
        seq_max: long(&head[24..32]),
        bytes: bytes.into(),
    }))
}

fn parse_led(body: &[u8]) -> Result<Led, NoteError> {
    let (names, record) = body
        .split_at_checked(MEMBERS_MAX * NAMED_BYTES)
        .ok_or(NoteError::Short)?;
    let record: [u8; RECORD_BYTES] = record.try_into().map_err(|_| NoteError::Field("record"))?;
    let named = |name: &[u8]| {
        let uuid: [u8; 16] = name[1..].try_into().expect("17 bytes were cut off");
        (name[0] == 1).then_some(uuid)
    };
    Ok(Led {
        drives: names.chunks(NAMED_BYTES).map(named).collect(),
        record: Box::new(record),
    })
}

const fn code_of(error: DriveError) -> (u8, i32) {
    match error {
        DriveError::Media => (1, 0),
        DriveError::Gone => (2, 0),
        DriveError::OutOfRange => (3, 0),
        DriveError::Io { errno } => (4, errno),
        DriveError::Fenced => (5, 0),
    }
}

const fn error_of(kind: u8, errno: i32) -> Option<DriveError> {
    match kind {
        1 => Some(DriveError::Media),
        2 => Some(DriveError::Gone),
        3 => Some(DriveError::OutOfRange),
        4 => Some(DriveError::Io { errno }),
        5 => Some(DriveError::Fenced),
        _ => None,
    }
}
