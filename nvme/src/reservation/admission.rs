//! Which life of a host may use a namespace at all, whatever its reservation says.
//!
//! A host that starts anew keeps its name (host NQN) and takes another host identifier, one for each life of its process. Reservations
//! do not tell lives apart where there is none, as in a quorum area; so a namespace can be told to take only one life of a host.
//!
//! - **Expel**: a life claims its name. From then on other lives of that name are *barred*, those that have never been heard of included.
//!   A life that comes later is barred as well until it claims the name itself, which it does before it changes anything.
//! - **Kill**: a registered host bars one life of any name, for good.
//!
//! Who is barred may read and look at the registrants, because that is how it learns that it is out; it changes nothing and takes part in
//! no reservation. A life that was superseded or killed cannot claim its name again, as long as it is among the last [`BARRED_MAX`]. Safety does
//! not hang on that bound where names are claimed: a life claims its name at most once, before its first change, so that what it knows of the
//! namespace is younger than its claim.
//!
//! Claims and kills are durable before they are answered, whether or not reservations persist: a life whose connection was lost before the
//! shelf was started anew would otherwise be let in after it.
//!
//! # The command on the wire
//!
//! Admin command C1h, vendor specific, to the namespace that is to be held to it:
//!
//! | field | content |
//! |---|---|
//! | NSID | the namespace; those that belong together, as the data and the quorum area of a shelf's drive, are held to it both |
//! | CDW10 7:0 | 0: Expel; 1: Kill |
//! | data, 16 bytes to the controller | Expel: the host identifier to keep, which is that of the association; Kill: the one to bar |
//!
//! It completes when the change is durable, when no core lets a barred host begin anything that changes these namespaces, and when nothing
//! that one has begun in them is under way. Statuses: Invalid Opcode where nothing can be kept; Reservation Conflict for an Expel by a
//! life that is out, and for a Kill by a host that is not registered or is out; Internal Error if there are too many names.

use crate::command::{SubmissionEntry, admin_opcode};
use crate::nqn::Nqn;
use crate::status::Status;

use super::{Command, HostId};

/// Most names that were claimed in one namespace: an array has eight slots.
pub const CLAIMS_MAX: usize = 12;
/// Lives that are kept in mind after they were superseded or killed.
pub const BARRED_MAX: usize = 16;
/// Bytes of the command's data.
pub const DATA_BYTES: u32 = 16;

const EXPEL: u8 = 0;
const KILL: u8 = 1;

/// Has the claim of a name whose life was killed; no life has this identifier.
pub const NOBODY: HostId = HostId([0; 16]);

/// A host's name, as a number: FNV-1a with 128 bits of its NQN, so that cores compare it at a glance.
///
/// Source: Fowler, Noll, Vo, Eastlake, "The FNV Non-Cryptographic Hash Algorithm", sections 2 and 5 (128 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(pub u128);

impl HostName {
    /// The number of a name.
    pub fn of(nqn: &Nqn) -> Self {
        let basis = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        let prime = 1 << 88 | 0x13b;
        let step = |sum: u128, byte: u8| (sum ^ u128::from(byte)).wrapping_mul(prime);
        Self(nqn.as_str().bytes().fold(basis, step))
    }
}

/// One life of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Its name.
    pub name: HostName,
    /// Its identifier, by which reservations know it.
    pub host: HostId,
}

/// What an admission command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was so before.
    Unchanged,
    /// Lives may be barred now that were not.
    Changed,
}

/// Who may use a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Names that were claimed, with the life that claimed each last; no name twice.
    pub claims: Vec<Life>,
    /// Lives that are out for good, oldest first.
    pub barred: Vec<HostId>,
}

impl Admission {
    /// Whether everybody is let in.
    pub const fn is_open(&self) -> bool {
        self.claims.is_empty() && self.barred.is_empty()
    }

    /// Whether a life may change something.
    pub fn admits(&self, life: Life) -> bool {
        let mut claims = self.claims.iter();
        let is_current = claims
            .find(|claim| claim.name == life.name)
            .is_none_or(|claim| claim.host == life.host && claim.host != NOBODY);
        is_current && !self.barred.contains(&life.host)
    }

    /// A life claims its name: it is the only one of it from now on.
    pub(super) fn expel(&mut self, life: Life) -> Result<Outcome, Status> {
        if self.barred.contains(&life.host) {
            return Err(Status::RESERVATION_CONFLICT.do_not_retry());
        }
        let Some(claim) = self.claims.iter_mut().find(|claim| claim.name == life.name) else {
            if self.claims.len() == CLAIMS_MAX {
                return Err(Status::INTERNAL_ERROR.do_not_retry());
            }
            self.claims.push(life);
            return Ok(Outcome::Changed);
        };
        if claim.host == life.host {
            return Ok(Outcome::Unchanged);
        }
        let superseded = std::mem::replace(&mut claim.host, life.host);
        if superseded != NOBODY {
            self.bar(superseded);
        }
        Ok(Outcome::Changed)
    }

    /// Bars one life.
    pub(super) fn kill(&mut self, host: HostId) -> Outcome {
        if self.barred.contains(&host) {
            return Outcome::Unchanged;
        }
        for claim in self.claims.iter_mut().filter(|claim| claim.host == host) {
            claim.host = NOBODY;
        }
        self.bar(host);
        Outcome::Changed
    }

    fn bar(&mut self, host: HostId) {
        if self.barred.len() == BARRED_MAX {
            self.barred.remove(0);
        }
        if !self.barred.contains(&host) {
            self.barred.push(host);
        }
        assert!(self.barred.len() <= BARRED_MAX, "lives kept in mind are bounded");
    }
}

/// Reads the admin command, of an association of `own`.
///
/// Errs for actions that do not exist, for data that is too short, and where the identifier is not what the action asks for.
pub fn parse(entry: &SubmissionEntry, data: &[u8], own: Life) -> Result<Command, Status> {
    let bytes = data.first_chunk::<16>();
    let host = HostId(*bytes.ok_or(Status::DATA_SGL_LENGTH_INVALID.do_not_retry())?);
    let [action, ..] = entry.dword(10).to_le_bytes();
    let is_own = host == own.host;
    match (action, is_own) {
        (EXPEL, true) => Ok(Command::Expel { name: own.name }),
        (KILL, false) if host != NOBODY => Ok(Command::Kill { host }),
        _ => Err(Status::INVALID_FIELD.do_not_retry()),
    }
}

/// The command by which a host with this identifier claims its name, and its data; the data pointer is left to the transport.
pub fn expel(cid: u16, nsid: u32, own: HostId) -> (SubmissionEntry, Vec<u8>) {
    entry(cid, nsid, EXPEL, own)
}

/// The command that bars a life with this identifier, and its data.
pub fn kill(cid: u16, nsid: u32, host: HostId) -> (SubmissionEntry, Vec<u8>) {
    entry(cid, nsid, KILL, host)
}

fn entry(cid: u16, nsid: u32, action: u8, host: HostId) -> (SubmissionEntry, Vec<u8>) {
    let mut entry = SubmissionEntry::new(admin_opcode::ADMISSION, cid);
    entry.set_nsid(nsid);
    entry.set_dword(10, u32::from(action));
    (entry, host.0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Direction;

    fn life(name: u128, host: u8) -> Life {
        Life {
            name: HostName(name),
            host: HostId([host; 16]),
        }
    }

    #[test]
    fn names_have_numbers_of_their_own() {
        let number = |text: &str| HostName::of(&Nqn::parse(text).unwrap());
        assert_eq!(number("nqn.2026-01.io.braid:a"), number("nqn.2026-01.io.braid:a"));
        assert_ne!(number("nqn.2026-01.io.braid:a"), number("nqn.2026-01.io.braid:b"));
    }

    #[test]
    fn the_last_life_that_claims_a_name_has_it() {
        let mut admission = Admission::default();
        assert!(admission.is_open() && admission.admits(life(1, 1)));
        assert_eq!(admission.expel(life(1, 1)), Ok(Outcome::Changed));
        assert_eq!(admission.expel(life(1, 1)), Ok(Outcome::Unchanged));
        assert!(admission.admits(life(1, 1)) && admission.admits(life(2, 9)));
        assert!(
            !admission.admits(life(1, 2)),
            "a later life claims the name first"
        );
        assert_eq!(admission.expel(life(1, 2)), Ok(Outcome::Changed));
        assert!(admission.admits(life(1, 2)) && !admission.admits(life(1, 1)));
        let conflict = Err(Status::RESERVATION_CONFLICT.do_not_retry());
        assert_eq!(admission.expel(life(1, 1)), conflict, "its time is over");
        assert!(!admission.admits(life(7, 1)), "also under another name");
    }

    #[test]
    fn a_killed_life_is_out_and_the_next_one_of_its_name_is_not() {
        let mut admission = Admission::default();
        admission.expel(life(1, 1)).unwrap();
        assert_eq!(admission.kill(HostId([1; 16])), Outcome::Changed);
        assert_eq!(admission.kill(HostId([1; 16])), Outcome::Unchanged);
        assert!(!admission.admits(life(1, 1)) && admission.expel(life(1, 1)).is_err());
        for other in 100..200 {
            admission.kill(HostId([other; 16]));
            assert!(!admission.admits(life(1, 1)), "also after it is forgotten");
        }
        assert!(!admission.admits(life(1, 0)), "nobody is no life");
        assert_eq!(admission.expel(life(1, 2)), Ok(Outcome::Changed));
        assert!(admission.admits(life(1, 2)));
    }

    /// Lives that are forgotten as barred are barred by the claim of a later one.
    #[test]
    fn whatever_is_forgotten_no_superseded_life_is_let_in() {
        let mut admission = Admission::default();
        for host in 1..=100 {
            admission.expel(life(1, host)).unwrap();
            assert!(admission.barred.len() <= BARRED_MAX && admission.claims.len() == 1);
            for old in 1..host {
                assert!(!admission.admits(life(1, old)), "{old} after {host}");
            }
        }
    }

    #[test]
    fn names_are_bounded() {
        let mut admission = Admission::default();
        for name in 0..CLAIMS_MAX as u128 {
            admission.expel(life(name, 1)).unwrap();
        }
        assert!(admission.expel(life(99, 1)).is_err());
        assert!(admission.admits(life(99, 1)));
        assert_eq!(admission.expel(life(3, 2)), Ok(Outcome::Changed), "a known name");
    }

    #[test]
    fn fields_stand_where_the_documentation_puts_them() {
        let own = life(5, 7);
        let (entry, data) = expel(3, 2, own.host);
        assert_eq!((entry.opcode(), entry.nsid(), entry.dword(10)), (0xc1, 2, 0));
        assert_eq!(
            (entry.direction(), &data[..]),
            (Direction::FromHost, &[7; 16][..])
        );
        assert_eq!(parse(&entry, &data, own), Ok(Command::Expel { name: own.name }));
        let (entry, data) = kill(3, 2, HostId([8; 16]));
        assert_eq!((entry.dword(10), data[0]), (1, 8));
        let host = HostId([8; 16]);
        assert_eq!(parse(&entry, &data, own), Ok(Command::Kill { host }));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let own = life(5, 7);
        let invalid = Err(Status::INVALID_FIELD.do_not_retry());
        let (entry, _) = expel(1, 1, own.host);
        assert_eq!(parse(&entry, &[9; 16], own), invalid, "another one's name");
        let short = Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
        assert_eq!(parse(&entry, &[7; 15], own), short);
        let (entry, _) = kill(1, 1, own.host);
        for host in [[7; 16], [0; 16]] {
            assert_eq!(parse(&entry, &host, own), invalid, "itself, or nobody");
        }
        let (mut entry, data) = expel(1, 1, own.host);
        entry.set_dword(10, 2);
        assert_eq!(parse(&entry, &data, own), invalid);
    }
}
