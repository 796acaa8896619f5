//! Reservation commands, their data, the report and the notification log as they cross the wire.
//!
//! Offsets were compared with `struct nvme_resv_status` and its neighbours in libnvme's `src/nvme/types.h`.

use crate::command::{Direction, SubmissionEntry, io_opcode};
use crate::status::Status;

use super::{HostId, HostName, Key, Kind, Notice};

/// Bytes of the data of Register and Acquire.
pub const TWO_KEYS_BYTES: usize = 16;
/// Bytes of the data of Release.
pub const ONE_KEY_BYTES: usize = 8;
/// Bytes of one entry of the Reservation Notification log page.
pub const NOTICE_BYTES: usize = 64;
/// Bytes of the header and of an entry of a report with host identifiers of 64 bits.
const REPORT_BYTES: usize = 24;
/// Bytes of the header and of an entry of a report with host identifiers of 128 bits.
const EXTENDED_BYTES: usize = 64;

/// RESCAP: all six types, and IEKEY as version 1.3 and later define it; without Persist Through Power Loss.
///
/// Source: NVM Express Base Specification 2.0, Reservation Capabilities of Identify Namespace.
pub const CAPABILITIES: u8 = 0xfe;
/// RESCAP bit 0: Persist Through Power Loss.
pub const CAPABILITY_PERSISTS: u8 = 1;

/// Command Dword 10 of Register, Acquire and Release: Ignore Existing Key.
const IEKEY: u32 = 1 << 3;
/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();

/// Change Persist Through Power Loss State (CPTPL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// 00b: as it is.
    Keep,
    /// 10b: registrants and reservation end with the power.
    Off,
    /// 11b: registrants and reservation outlive a loss of power.
    On,
}

/// A reservation command with its data, as far as it can be checked without the state of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Register, RREGA 000b.
    Register {
        /// The key, not 0.
        new: Key,
        /// CPTPL.
        persistence: Persistence,
    },
    /// Register, RREGA 001b.
    Unregister {
        /// The key so far; `None`: whichever it is (IEKEY).
        current: Option<Key>,
        /// CPTPL.
        persistence: Persistence,
    },
    /// Register, RREGA 010b.
    Replace {
        /// The key so far; `None`: whichever it is, if any (IEKEY).
        current: Option<Key>,
        /// The key from now on, not 0.
        new: Key,
        /// CPTPL.
        persistence: Persistence,
    },
    /// Acquire, RACQA 000b.
    Acquire {
        /// The host's key.
        current: Key,
        /// The type.
        kind: Kind,
    },
    /// Acquire, RACQA 001b or 010b.
    Preempt {
        /// The host's key.
        current: Key,
        /// The key of those that lose their registration; 0 under All Registrants: all others.
        victim: Key,
        /// The type, where the reservation changes hands.
        kind: Kind,
        /// 010b: what the preempted hosts have under way is aborted.
        abort: bool,
    },
    /// Release, RRELA 000b.
    Release {
        /// The host's key.
        current: Key,
        /// The type.
        kind: Kind,
    },
    /// Release, RRELA 001b.
    Clear {
        /// The host's key.
        current: Key,
    },
    /// Report.
    Report {
        /// EDS: host identifiers of 128 bits.
        extended: bool,
        /// Bytes asked for.
        length_bytes: u64,
    },
    /// Set Features of Reservation Persistence: no reservation command, but one that changes the same state.
    SetPersistence(bool),
    /// Set Features of the vendor specific feature C0h: whether keys are held to epochs (see [`super::floors`]).
    SetFloors(bool),
    /// The admin command of [`super::admission`]: the host is the only life of its name from now on.
    Expel {
        /// Its name.
        name: HostName,
    },
    /// Likewise: a life of a host is out for good.
    Kill {
        /// Its identifier.
        host: HostId,
    },
}

/// Whether an opcode of an I/O queue is one of the reservation commands.
pub const fn is_reservation(opcode: u8) -> bool {
    matches!(
        opcode,
        io_opcode::RESERVATION_REGISTER
            | io_opcode::RESERVATION_REPORT
            | io_opcode::RESERVATION_ACQUIRE
            | io_opcode::RESERVATION_RELEASE
    )
}

impl Command {
    /// Reads a command whose opcode [`is_reservation`] knows, and its data.
    ///
    /// Errs for actions and types that do not exist, for a new key of 0, and for data that is too short.
    ///
    /// Source: NVM Express Base Specification 2.0, sections 7.2 to 7.5 (Reservation Acquire, Register, Release and Report commands).
    pub fn parse(entry: &SubmissionEntry, data: &[u8]) -> Result<Self, Status> {
        let action = entry.dword(10) & 7;
        match entry.opcode() {
            io_opcode::RESERVATION_REGISTER => Self::parse_register(entry.dword(10), action, data),
            io_opcode::RESERVATION_ACQUIRE => Self::parse_acquire(entry.dword(10), action, data),
            io_opcode::RESERVATION_RELEASE => Self::parse_release(entry.dword(10), action, data),
            io_opcode::RESERVATION_REPORT => Ok(Self::Report {
                extended: entry.dword(11) & 1 == 1,
                length_bytes: (u64::from(entry.dword(10)) + 1) * 4,
            }),
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    fn parse_register(dword10: u32, action: u32, data: &[u8]) -> Result<Self, Status> {
        let (current, new) = (key(data, 0)?, key(data, 8)?);
        let persistence = match dword10 >> 30 {
            0 => Persistence::Keep,
            2 => Persistence::Off,
            3 => Persistence::On,
            _ => return Err(INVALID),
        };
        let current = (dword10 & IEKEY == 0).then_some(current);
        match action {
            0 | 2 if new == Key::NONE => Err(INVALID),
            0 => Ok(Self::Register { new, persistence }),
            1 => Ok(Self::Unregister { current, persistence }),
            2 => Ok(Self::Replace {
                current,
                new,
                persistence,
            }),
            _ => Err(INVALID),
        }
    }

    fn parse_acquire(dword10: u32, action: u32, data: &[u8]) -> Result<Self, Status> {
        let (current, victim) = (key(data, 0)?, key(data, 8)?);
        let kind = kind(dword10)?;
        if dword10 & IEKEY != 0 {
            return Err(INVALID);
        }
        match action {
            0 => Ok(Self::Acquire { current, kind }),
            1 | 2 => Ok(Self::Preempt {
                current,
                victim,
                kind,
                abort: action == 2,
            }),
            _ => Err(INVALID),
        }
    }

    fn parse_release(dword10: u32, action: u32, data: &[u8]) -> Result<Self, Status> {
        let current = key(data, 0)?;
        if dword10 & IEKEY != 0 {
            return Err(INVALID);
        }
        match action {
            0 => Ok(Self::Release {
                current,
                kind: kind(dword10)?,
            }),
            1 => Ok(Self::Clear { current }),
            _ => Err(INVALID),
        }
    }

    /// The command for the wire, and its data; the data pointer is left to the transport.
    ///
    /// Panics for what is no command of an I/O queue.
    pub fn encode(&self, cid: u16, nsid: u32) -> (SubmissionEntry, Vec<u8>) {
        let (opcode, dword10, keys): (u8, u32, &[Key]) = match self {
            Self::Register { new, persistence } => {
                let dword10 = change(*persistence);
                (io_opcode::RESERVATION_REGISTER, dword10, &[Key::NONE, *new])
            }
            Self::Unregister { current, persistence } => (
                io_opcode::RESERVATION_REGISTER,
                1 | ignore(*current) | change(*persistence),
                &[current.unwrap_or(Key::NONE), Key::NONE],
            ),
            Self::Replace {
                current,
                new,
                persistence,
            } => (
                io_opcode::RESERVATION_REGISTER,
                2 | ignore(*current) | change(*persistence),
                &[current.unwrap_or(Key::NONE), *new],
            ),
            Self::Acquire { current, kind } => {
                let dword10 = rtype(*kind);
                (io_opcode::RESERVATION_ACQUIRE, dword10, &[*current, Key::NONE])
            }
            Self::Preempt {
                current,
                victim,
                kind,
                abort,
            } => {
                let action = if *abort { 2 } else { 1 };
                let dword10 = action | rtype(*kind);
                (io_opcode::RESERVATION_ACQUIRE, dword10, &[*current, *victim])
            }
            Self::Release { current, kind } => (io_opcode::RESERVATION_RELEASE, rtype(*kind), &[*current]),
            Self::Clear { current } => (io_opcode::RESERVATION_RELEASE, 1, &[*current]),
            Self::Report { length_bytes, .. } => {
                let dwords = u32::try_from(length_bytes / 4 - 1).expect("a report is asked for in dwords");
                (io_opcode::RESERVATION_REPORT, dwords, &[])
            }
            Self::SetPersistence(_) | Self::SetFloors(_) | Self::Expel { .. } | Self::Kill { .. } => {
                unreachable!("an admin command has no form on an I/O queue")
            }
        };
        let mut entry = SubmissionEntry::new(opcode, cid);
        entry.set_nsid(nsid);
        entry.set_dword(10, dword10);
        entry.set_dword(11, u32::from(matches!(self, Self::Report { extended: true, .. })));
        debug_assert!(entry.direction() != Direction::None);
        (entry, keys.iter().flat_map(|key| key.0.to_le_bytes()).collect())
    }
}

/// IEKEY of a command that names no current key.
fn ignore(current: Option<Key>) -> u32 {
    if current.is_none() { IEKEY } else { 0 }
}

/// CPTPL in its place.
const fn change(persistence: Persistence) -> u32 {
    match persistence {
        Persistence::Keep => 0,
        Persistence::Off => 2 << 30,
        Persistence::On => 3 << 30,
    }
}

/// RTYPE in its place.
const fn rtype(kind: Kind) -> u32 {
    (kind.wire() as u32) << 8
}

fn kind(dword10: u32) -> Result<Kind, Status> {
    let [_, rtype, ..] = dword10.to_le_bytes();
    Kind::from_wire(rtype).ok_or(INVALID)
}

fn key(data: &[u8], at: usize) -> Result<Key, Status> {
    let bytes = data
        .get(at..at + 8)
        .ok_or(Status::DATA_SGL_LENGTH_INVALID.do_not_retry())?;
    let mut key = [0; 8];
    key.copy_from_slice(bytes);
    Ok(Key(u64::from_le_bytes(key)))
}

/// One registrant in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Its controller; `FFFFh`: none in particular.
    pub cntlid: u16,
    /// Whether it holds the reservation (RCSTS bit 0).
    pub holder: bool,
    /// The host; of 64 bits the upper eight bytes are 0.
    pub host: HostId,
    /// Its key.
    pub key: Key,
}

/// Reservation Status data structure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// GEN.
    pub generation: u32,
    /// RTYPE.
    pub kind: Option<Kind>,
    /// PTPLS.
    pub persists: bool,
    /// Registrants.
    pub registrants: Vec<Reported>,
}

impl Report {
    /// Bytes of the whole report of this many registrants.
    pub const fn bytes(registrants: usize, extended: bool) -> usize {
        if extended {
            EXTENDED_BYTES * (1 + registrants)
        } else {
            REPORT_BYTES * (1 + registrants)
        }
    }

    /// The whole report for the wire.
    ///
    /// Source: NVM Express Base Specification 2.0, Reservation Status and Reservation Status Extended data structures.
    pub fn encode(&self, extended: bool) -> Vec<u8> {
        let step = if extended { EXTENDED_BYTES } else { REPORT_BYTES };
        let mut bytes = vec![0; Self::bytes(self.registrants.len(), extended)];
        let count = u16::try_from(self.registrants.len()).expect("registrants are bounded");
        put(&mut bytes, 0, &self.generation.to_le_bytes());
        bytes[4] = self.kind.map_or(0, Kind::wire);
        put(&mut bytes, 5, &count.to_le_bytes());
        bytes[9] = u8::from(self.persists);
        for (entry, registrant) in bytes[step..].chunks_exact_mut(step).zip(&self.registrants) {
            put(entry, 0, &registrant.cntlid.to_le_bytes());
            entry[2] = u8::from(registrant.holder);
            if extended {
                put(entry, 8, &registrant.key.0.to_le_bytes());
                put(entry, 16, &registrant.host.0);
            } else {
                put(entry, 8, &registrant.host.0[..8]);
                put(entry, 16, &registrant.key.0.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads a report; what the data has no room for is left out. `None` if the data is shorter than the header, or has a type that
    /// does not exist.
    pub fn parse(bytes: &[u8], extended: bool) -> Option<Self> {
        let step = if extended { EXTENDED_BYTES } else { REPORT_BYTES };
        let header = bytes.get(..step)?;
        let kind = match header[4] {
            0 => None,
            rtype => Some(Kind::from_wire(rtype)?),
        };
        let count = usize::from(u16::from_le_bytes([header[5], header[6]]));
        let entries = bytes[step..].chunks_exact(step).take(count);
        Some(Self {
            generation: u32::from_le_bytes([header[0], header[1], header[2], header[3]]),
            kind,
            persists: header[9] & 1 == 1,
            registrants: entries.map(|entry| reported(entry, extended)).collect(),
        })
    }
}

fn reported(entry: &[u8], extended: bool) -> Reported {
    let mut host = [0; 16];
    let (key_at, host_at, host_bytes) = if extended { (8, 16, 16) } else { (16, 8, 8) };
    host[..host_bytes].copy_from_slice(&entry[host_at..host_at + host_bytes]);
    Reported {
        cntlid: u16::from_le_bytes([entry[0], entry[1]]),
        holder: entry[2] & 1 == 1,
        host: HostId(host),
        key: key(entry, key_at).expect("an entry has room for a key"),
    }
}

/// One entry of the Reservation Notification log page (LID 80h); `None`: nothing to tell.
///
/// `count` is the number of the entry, `left` how many there are after it.
///
/// Source: NVM Express Base Specification 2.0, Reservation Notification Log Page.
pub fn notice(entry: Option<(u64, Notice, u32)>, left: usize) -> Vec<u8> {
    let mut page = vec![0; NOTICE_BYTES];
    if let Some((count, kind, nsid)) = entry {
        put(&mut page, 0, &count.to_le_bytes());
        page[8] = kind.wire();
        page[9] = u8::try_from(left).unwrap_or(u8::MAX);
        put(&mut page, 12, &nsid.to_le_bytes());
    }
    page
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_command() -> Vec<Command> {
        let mut all = vec![
            Command::Clear { current: Key(3) },
            Command::Report {
                extended: true,
                length_bytes: 4096,
            },
            Command::Report {
                extended: false,
                length_bytes: 24,
            },
        ];
        for persistence in [Persistence::Keep, Persistence::Off, Persistence::On] {
            all.push(Command::Register {
                new: Key(9),
                persistence,
            });
            for current in [None, Some(Key(7))] {
                all.push(Command::Unregister { current, persistence });
                all.push(Command::Replace {
                    current,
                    new: Key(8),
                    persistence,
                });
            }
        }
        for kind in Kind::ALL {
            let current = Key(0x1122_3344_5566_7788);
            all.push(Command::Acquire { current, kind });
            all.push(Command::Release { current, kind });
            for abort in [false, true] {
                let victim = Key(5);
                all.push(Command::Preempt {
                    current,
                    victim,
                    kind,
                    abort,
                });
            }
        }
        all
    }

    #[test]
    fn commands_survive_a_round_trip() {
        for command in every_command() {
            let (entry, data) = command.encode(4, 2);
            assert!(is_reservation(entry.opcode()));
            assert_eq!((entry.cid(), entry.nsid()), (4, 2));
            assert_eq!(Command::parse(&entry, &data), Ok(command));
        }
    }

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let command = Command::Preempt {
            current: Key(0x11),
            victim: Key(0x22),
            kind: Kind::WriteExclusiveAllRegistrants,
            abort: true,
        };
        let (entry, data) = command.encode(1, 1);
        assert_eq!((entry.opcode(), entry.dword(10)), (0x11, 0x502));
        assert_eq!((data.len(), data[0], data[8]), (16, 0x11, 0x22));
        let command = Command::Replace {
            current: None,
            new: Key(0x33),
            persistence: Persistence::On,
        };
        let (entry, data) = command.encode(1, 1);
        assert_eq!(
            (entry.opcode(), entry.dword(10), data[8]),
            (0x0d, 0xc000_000a, 0x33)
        );
        let (entry, data) = Command::Clear { current: Key(1) }.encode(1, 1);
        assert_eq!((entry.opcode(), entry.dword(10), data.len()), (0x15, 1, 8));
        let command = Command::Report {
            extended: true,
            length_bytes: 128,
        };
        let (entry, _) = command.encode(1, 1);
        assert_eq!((entry.opcode(), entry.dword(10), entry.dword(11)), (0x0e, 31, 1));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let refused = |opcode, dword10, data: &[u8]| {
            let mut entry = SubmissionEntry::new(opcode, 1);
            entry.set_dword(10, dword10);
            Command::parse(&entry, data).unwrap_err()
        };
        let keys = [1; 16];
        let register = io_opcode::RESERVATION_REGISTER;
        let acquire = io_opcode::RESERVATION_ACQUIRE;
        let release = io_opcode::RESERVATION_RELEASE;
        for (opcode, dword10) in [
            (register, 3),
            (register, 1 << 30),
            (acquire, 0x0103),
            (acquire, 0x0000),
            (acquire, 0x0700),
            (acquire, 0x0108),
            (release, 2),
            (release, 0),
            (release, 0x0109),
        ] {
            assert_eq!(
                refused(opcode, dword10, &keys),
                INVALID,
                "{opcode:#x} {dword10:#x}"
            );
        }
        assert_eq!(refused(register, 0, &[0; 16]), INVALID, "a key of 0");
        assert_eq!(refused(register, 2, &[0; 16]), INVALID, "a key of 0");
        let short = Status::DATA_SGL_LENGTH_INVALID.do_not_retry();
        assert_eq!(refused(register, 0, &keys[..15]), short);
        assert_eq!(refused(acquire, 0x0100, &keys[..8]), short);
        assert_eq!(refused(release, 1, &keys[..7]), short);
        assert_eq!(
            refused(io_opcode::READ, 0, &keys),
            Status::INVALID_OPCODE.do_not_retry()
        );
    }

    #[test]
    fn reports_survive_a_round_trip_in_both_forms() {
        let mut report = Report {
            generation: 0x0102_0304,
            kind: Some(Kind::ExclusiveAccessAllRegistrants),
            persists: true,
            registrants: vec![
                Reported {
                    cntlid: 0xffff,
                    holder: true,
                    host: HostId([0xab; 16]),
                    key: Key(0x55),
                },
                Reported {
                    cntlid: 2,
                    holder: false,
                    host: HostId([0xcd; 16]),
                    key: Key(0x66),
                },
            ],
        };
        let bytes = report.encode(true);
        assert_eq!((bytes.len(), bytes[4], bytes[5], bytes[9]), (192, 6, 2, 1));
        assert_eq!(
            (bytes[64], bytes[66], bytes[72], bytes[80]),
            (0xff, 1, 0x55, 0xab)
        );
        assert_eq!(Report::parse(&bytes, true), Some(report.clone()));
        let bytes = report.encode(false);
        assert_eq!(
            (bytes.len(), bytes[24], bytes[26], bytes[32], bytes[40]),
            (72, 0xff, 1, 0xab, 0x55)
        );
        for registrant in &mut report.registrants {
            registrant.host.0[8..].fill(0);
        }
        assert_eq!(Report::parse(&bytes, false), Some(report.clone()));
        let cut = Report::parse(&bytes[..60], false).unwrap();
        assert_eq!(cut.registrants, report.registrants[..1]);
        assert_eq!(Report::parse(&bytes[..20], false), None);
    }

    #[test]
    fn notices_stand_where_the_specification_puts_them() {
        let page = notice(Some((7, Notice::ReservationReleased, 0x0203)), 300);
        assert_eq!((page.len(), page[0], page[8], page[9]), (64, 7, 2, 255));
        assert_eq!((page[12], page[13]), (3, 2));
        assert!(notice(None, 0).iter().all(|byte| *byte == 0));
    }
}
