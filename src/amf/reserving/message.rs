//! What nodes say to each other about reservations, as the body of a note.
//!
//! | kind 0, zeroes 1..8 | body |
//! |---|---|
//! | 1 tell | a page of 4 KiB, hosts to abort 0..2, notices 2..4, zeroes ..8, hosts of 16 bytes, notices of 17 bytes (host, type) |
//! | 2 held | virtual disk 0..16, epoch 16..20, zeroes, count 24..32 |
//! | 3 ask | virtual disk 0..16, number 16..24, host 24..40, the command's entry of 64 bytes, its data |
//! | 4 ask, whether reservations persist | virtual disk 0..16, number 16..24, host 24..40, 0 or 1, zeroes ..48 |
//! | 5 answer | virtual disk 0..16, number 16..24, status 24..26, zeroes ..32, data |

use nvme::command::{SQE_BYTES, SubmissionEntry};
use nvme::reservation::wire::is_reservation;
use nvme::reservation::{Command, HostId, Notice, REGISTRANTS_MAX, Report};
use nvme::status::Status;
use thiserror::Error;

use super::table::{Last, Table, Version};
use crate::amf::superblock::{RECORD_BYTES, Uuid};
use crate::icl::Epoch;

const HEAD_BYTES: usize = 8;
const NOTICE_BYTES: usize = 17;
/// Notices of one change: to each registrant of before that its reservation was released, or its registration preempted.
const NOTICES_MAX: usize = 2 * REGISTRANTS_MAX;

/// A host's reservation command on its way to whoever leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which virtual disk.
    pub disk: Uuid,
    /// The asking node's number for it; it has no two alike.
    pub number: u64,
    /// Whose it is.
    pub host: HostId,
    /// What it asks for.
    pub command: Command,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A table: of a member to whoever leads, when an epoch begins, and of whoever leads to all others from then on.
    Tell(Box<Table>),
    /// All cores of the sender hold commands to this table, and nothing runs any more that it was to end.
    Held {
        /// Which virtual disk.
        disk: Uuid,
        /// Which table.
        version: Version,
    },
    /// To whoever leads.
    Ask(Ask),
    /// The answer.
    Answer {
        /// Which virtual disk.
        disk: Uuid,
        /// As it was asked.
        number: u64,
        /// How it ended.
        status: Status,
        /// What it returns.
        data: Vec<u8>,
    },
}

/// Bytes are no message about reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct MessageError(&'static str);

impl Message {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Tell(_) => 1,
            Self::Held { .. } => 2,
            Self::Ask(Ask {
                command: Command::SetPersistence(_),
                ..
            }) => 4,
            Self::Ask(_) => 3,
            Self::Answer { .. } => 5,
        };
        out.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        match self {
            Self::Tell(table) => encode_table(table, out),
            Self::Held { disk, version } => {
                out.extend(disk.0);
                out.extend(version.epoch.0.to_le_bytes());
                out.extend([0; 4]);
                out.extend(version.count.to_le_bytes());
            }
            Self::Ask(ask) => {
                out.extend(ask.disk.0);
                out.extend(ask.number.to_le_bytes());
                out.extend(ask.host.0);
                if let Command::SetPersistence(on) = ask.command {
                    return out.extend([u8::from(on), 0, 0, 0, 0, 0, 0, 0]);
                }
                let (entry, data) = ask.command.encode(0, 0);
                out.extend(entry.encode());
                out.extend(data);
            }
            Self::Answer {
                disk,
                number,
                status,
                data,
            } => {
                out.extend(disk.0);
                out.extend(number.to_le_bytes());
                out.extend(status.wire().to_le_bytes());
                out.extend([0; 6]);
                out.extend(data);
            }
        }
    }

    /// Reads one. Errs at anything that no sound node sends.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let (head, body) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or(MessageError("its head is cut"))?;
        if head[1..] != [0; HEAD_BYTES - 1] {
            return Err(MessageError("its head"));
        }
        match head[0] {
            1 => Ok(Self::Tell(Box::new(parse_table(body)?))),
            2 => {
                let (disk, version) = cut::<16>(body, "a virtual disk")?;
                let version: &[u8; 16] = version.try_into().map_err(|_| MessageError("a version"))?;
                Ok(Self::Held {
                    disk: Uuid(disk),
                    version: Version {
                        epoch: Epoch(u32::from_le_bytes([
                            version[0], version[1], version[2], version[3],
                        ])),
                        count: long(&version[8..]),
                    },
                })
            }
            3 | 4 => parse_ask(head[0], body),
            5 => {
                let (disk, rest) = cut::<16>(body, "a virtual disk")?;
                let (number, rest) = cut::<8>(rest, "a number")?;
                let (status, data) = cut::<8>(rest, "a status")?;
                if data.len() > Report::bytes(REGISTRANTS_MAX, true) {
                    return Err(MessageError("an answer that is too long"));
                }
                Ok(Self::Answer {
                    disk: Uuid(disk),
                    number: u64::from_le_bytes(number),
                    status: Status::from_wire(u16::from_le_bytes([status[0], status[1]])),
                    data: data.to_vec(),
                })
            }
            _ => Err(MessageError("its kind")),
        }
    }
}

fn parse_ask(kind: u8, body: &[u8]) -> Result<Message, MessageError> {
    let (disk, rest) = cut::<16>(body, "a virtual disk")?;
    let (number, rest) = cut::<8>(rest, "a number")?;
    let (host, rest) = cut::<16>(rest, "a host")?;
    let command = if kind == 4 {
        match rest {
            [on @ (0 | 1), 0, 0, 0, 0, 0, 0, 0] => Command::SetPersistence(*on == 1),
            _ => return Err(MessageError("a feature")),
        }
    } else {
        let (entry, data) = cut::<SQE_BYTES>(rest, "a command")?;
        let entry = SubmissionEntry::parse(entry);
        let command = is_reservation(entry.opcode()).then(|| Command::parse(&entry, data));
        command
            .and_then(Result::ok)
            .ok_or(MessageError("a command that is none"))?
    };
    Ok(Message::Ask(Ask {
        disk: Uuid(disk),
        number: u64::from_le_bytes(number),
        host: HostId(host),
        command,
    }))
}

fn encode_table(table: &Table, out: &mut Vec<u8>) {
    out.extend(&table.encode()[..]);
    let Last { abort, notices } = &table.last;
    for count in [abort.len(), notices.len()] {
        let count = u16::try_from(count).expect("registrants are bounded");
        out.extend(count.to_le_bytes());
    }
    out.extend([0; 4]);
    for host in abort {
        out.extend(host.0);
    }
    for (host, notice) in notices {
        out.extend(host.0);
        out.push(notice.wire());
    }
}

fn parse_table(body: &[u8]) -> Result<Table, MessageError> {
    let (page, rest) = body
        .split_at_checked(RECORD_BYTES)
        .ok_or(MessageError("a table that is cut"))?;
    let table = Table::parse(page).ok_or(MessageError("a table that is none"))?;
    let (counts, rest) = cut::<8>(rest, "numbers")?;
    let [aborts, notices] =
        [[counts[0], counts[1]], [counts[2], counts[3]]].map(|count| usize::from(u16::from_le_bytes(count)));
    let is_bounded = aborts <= REGISTRANTS_MAX && notices <= NOTICES_MAX;
    if !is_bounded || rest.len() != aborts * 16 + notices * NOTICE_BYTES {
        return Err(MessageError("numbers of hosts"));
    }
    let (abort, notices) = rest.split_at(aborts * 16);
    let (abort, _) = abort.as_chunks::<16>();
    let (notices, _) = notices.as_chunks::<NOTICE_BYTES>();
    let notice = |bytes: &[u8; NOTICE_BYTES]| {
        let (host, _) = cut::<16>(bytes, "a host").ok()?;
        Some((HostId(host), notice_of(bytes[16])?))
    };
    let notices: Option<Vec<_>> = notices.iter().map(notice).collect();
    Ok(Table {
        last: Last {
            abort: abort.iter().map(|host| HostId(*host)).collect(),
            notices: notices.ok_or(MessageError("a notice"))?,
        },
        ..table
    })
}

fn notice_of(wire: u8) -> Option<Notice> {
    let all = [
        Notice::RegistrationPreempted,
        Notice::ReservationReleased,
        Notice::ReservationPreempted,
    ];
    all.into_iter().find(|notice| notice.wire() == wire)
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes were cut off"))
}

fn cut<'a, const N: usize>(bytes: &'a [u8], what: &'static str) -> Result<([u8; N], &'a [u8]), MessageError> {
    let (field, rest) = bytes.split_first_chunk::<N>().ok_or(MessageError(what))?;
    Ok((*field, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvme::reservation::{Key, Kind, Persistence, Registrant, State};

    const DISK: Uuid = Uuid([7; 16]);

    fn encoded(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    fn ask(command: Command) -> Message {
        Message::Ask(Ask {
            disk: DISK,
            number: 1 << 40,
            host: HostId([3; 16]),
            command,
        })
    }

    fn commands() -> Vec<Command> {
        let (current, victim, new) = (Key(1), Key(2), Key(3));
        let persistence = Persistence::On;
        let kind = Kind::ExclusiveAccessRegistrantsOnly;
        vec![
            Command::Register { new, persistence },
            Command::Unregister {
                current: None,
                persistence: Persistence::Off,
            },
            Command::Replace {
                current: Some(current),
                new,
                persistence,
            },
            Command::Acquire { current, kind },
            Command::Preempt {
                current,
                victim,
                kind,
                abort: true,
            },
            Command::Release { current, kind },
            Command::Clear { current },
            Command::Report {
                extended: true,
                length_bytes: 4096,
            },
            Command::SetPersistence(true),
            Command::SetPersistence(false),
        ]
    }

    fn messages() -> Vec<Message> {
        let table = Table {
            state: State {
                registrants: vec![Registrant {
                    host: HostId([4; 16]),
                    key: Key(5),
                }],
                ..State::default()
            },
            last: Last {
                abort: vec![HostId([1; 16]), HostId([2; 16])],
                notices: vec![(HostId([2; 16]), Notice::ReservationReleased)],
            },
            ..Table::new(DISK)
        };
        let version = Version {
            epoch: Epoch(8),
            count: 9,
        };
        let answer = Message::Answer {
            disk: DISK,
            number: 5,
            status: Status::RESERVATION_CONFLICT.do_not_retry(),
            data: vec![1, 2, 3],
        };
        let mut all = vec![
            Message::Tell(Box::new(table)),
            Message::Held { disk: DISK, version },
            answer,
        ];
        all.extend(commands().into_iter().map(ask));
        all
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        for message in messages() {
            assert_eq!(Message::parse(&encoded(&message)), Ok(message));
        }
    }

    #[test]
    fn what_is_cut_is_no_message_or_another_one_and_never_a_panic() {
        for message in messages() {
            let bytes = encoded(&message);
            for end in 0..bytes.len() {
                assert_ne!(Message::parse(&bytes[..end]).as_ref(), Ok(&message), "{end}");
            }
        }
    }

    #[test]
    fn what_no_sound_node_sends_is_refused() {
        let refused = |message: &Message, at: usize, byte: u8| {
            let mut bytes = encoded(message);
            bytes[at] = byte;
            assert!(Message::parse(&bytes).is_err(), "{message:?} {at}");
        };
        let all = messages();
        for message in &all {
            refused(message, 0, 6);
            refused(message, 1, 1);
        }
        refused(&all[0], HEAD_BYTES + RECORD_BYTES, 3);
        refused(&all[0], HEAD_BYTES + RECORD_BYTES + 8 + 32 + 16, 4);
        let flush = ask(Command::Clear { current: Key(1) });
        refused(&flush, HEAD_BYTES + 40, 0);
        refused(&ask(Command::SetPersistence(true)), HEAD_BYTES + 40, 2);
    }
}
