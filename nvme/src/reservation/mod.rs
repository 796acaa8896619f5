//! Reservations: who may read and write a namespace that several hosts share.
//!
//! Owns the wire formats ([`wire`]), the registrants and the reservation of one namespace ([`State`]), which lives of a host may use it at all
//! ([`admission`]) and which keys are too old ([`floors`]), what cores hold commands to ([`Rules`], [`guard`]), the record that outlives a
//! loss of power ([`record`]) and the machine that takes one reservation command after the other ([`Machine`]). Deliberately knows no
//! connection, core or drive.
//!
//! Invariants: a command changes nothing that anyone can see before its new state is durable, where it has to be; and Preempt and Abort
//! completes only when nothing of the preempted hosts runs any more and nothing of theirs can begin (PROTOCOL H02, H03).
//!
//! Source: NVM Express Base Specification 2.0, section 8.19 (Reservations); compared with SPDK's `lib/nvmf/subsystem.c` and Linux'
//! `drivers/nvme/target/pr.c`.

pub mod admission;
pub mod floors;
pub mod guard;
pub mod machine;
pub mod record;
mod rules;
mod state;
#[cfg(test)]
mod tests;
pub mod wire;

use core::fmt;

pub use admission::{Admission, HostName, Life};
pub use floors::Floors;
pub use guard::{Guard, Order};
pub use machine::Machine;
pub use rules::{Access, Rules};
pub use state::{Effect, Registrant, Reservation, State};
pub use wire::{Command, Persistence, Report, Reported};

/// Most registrants of one namespace; what a record of 4 KiB has room for, and many times what an array has nodes.
pub const REGISTRANTS_MAX: usize = 128;

/// A host identifier of 128 bits, as Connect brings it; over Fabrics there are no others (EXHID).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub [u8; 16]);

impl fmt::Display for HostId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A reservation key; a registrant's is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl Key {
    /// No registrant's key; what Preempt means by it depends on the reservation.
    pub const NONE: Self = Self(0);
}

/// Reservation Type (RTYPE).
///
/// Source: NVM Express Base Specification 2.0, section 8.19.3 (Reservation Types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// 1h: one host writes, all read.
    WriteExclusive,
    /// 2h: one host reads and writes.
    ExclusiveAccess,
    /// 3h: registrants write, all read; one of them holds it.
    WriteExclusiveRegistrantsOnly,
    /// 4h: registrants read and write; one of them holds it.
    ExclusiveAccessRegistrantsOnly,
    /// 5h: registrants write, all read; all of them hold it.
    WriteExclusiveAllRegistrants,
    /// 6h: registrants read and write; all of them hold it.
    ExclusiveAccessAllRegistrants,
}

impl Kind {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// Reads RTYPE; 0 and what is reserved are no type.
    pub fn from_wire(rtype: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.wire() == rtype)
    }

    /// RTYPE.
    pub const fn wire(self) -> u8 {
        match self {
            Self::WriteExclusive => 1,
            Self::ExclusiveAccess => 2,
            Self::WriteExclusiveRegistrantsOnly => 3,
            Self::ExclusiveAccessRegistrantsOnly => 4,
            Self::WriteExclusiveAllRegistrants => 5,
            Self::ExclusiveAccessAllRegistrants => 6,
        }
    }

    /// Whether every registrant holds the reservation.
    pub const fn is_of_all(self) -> bool {
        matches!(
            self,
            Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// Whether only its holder has the right that it gives.
    pub const fn is_of_one(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether hosts without the right may not even read.
    pub const fn excludes_readers(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }

    /// The name as the specification has it, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::WriteExclusive => "write exclusive",
            Self::ExclusiveAccess => "exclusive access",
            Self::WriteExclusiveRegistrantsOnly => "write exclusive, registrants only",
            Self::ExclusiveAccessRegistrantsOnly => "exclusive access, registrants only",
            Self::WriteExclusiveAllRegistrants => "write exclusive, all registrants",
            Self::ExclusiveAccessAllRegistrants => "exclusive access, all registrants",
        }
    }
}

/// What a host is told of that lost something without asking: Reservation Notification Log Page Type.
///
/// Source: NVM Express Base Specification 2.0, section 8.19.1 (Reservation Notifications) and Reservation Notification Log Page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// 1h: its registration was preempted.
    RegistrationPreempted,
    /// 2h: the reservation that gave it rights as a registrant was released.
    ReservationReleased,
    /// 3h: the reservation and all registrations were cleared.
    ReservationPreempted,
}

impl Notice {
    /// The value in the log page.
    pub const fn wire(self) -> u8 {
        match self {
            Self::RegistrationPreempted => 1,
            Self::ReservationReleased => 2,
            Self::ReservationPreempted => 3,
        }
    }

    /// The bit of Reservation Notification Mask that keeps it back: REGPRE, RESREL, RESPRE.
    pub const fn mask(self) -> u32 {
        1 << self.wire()
    }
}
