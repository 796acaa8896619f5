//! What a reservation means for a command.

use crate::command::{admin_opcode, io_opcode};

use super::{Admission, HostId, Kind, Life};

/// What a command does to a namespace, as far as reservations care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: reservation commands look at the registrants themselves.
    Free,
    /// It reads.
    Read,
    /// It writes, or nobody has said what it does: an opcode that is not listed counts as the worst (PROTOCOL H08).
    Write,
}

impl Access {
    /// What a command of an I/O queue does, by its opcode.
    ///
    /// Source: NVM Express Base Specification 2.0, section 8.19, figure "Command Behavior in the Presence of a Reservation".
    pub const fn of(opcode: u8) -> Self {
        match opcode {
            io_opcode::READ | io_opcode::COMPARE | io_opcode::VERIFY => Self::Read,
            io_opcode::RESERVATION_REGISTER
            | io_opcode::RESERVATION_REPORT
            | io_opcode::RESERVATION_ACQUIRE
            | io_opcode::RESERVATION_RELEASE
            | admin_opcode::FABRICS => Self::Free,
            _ => Self::Write,
        }
    }
}

/// Who may do what with a namespace; all that a core has to know of its reservation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The type of the reservation, if there is one.
    pub kind: Option<Kind>,
    /// The hosts that have the right which the reservation gives.
    pub hosts: Vec<HostId>,
    /// Which lives of hosts may change anything at all.
    pub admission: Admission,
}

impl Rules {
    /// Whether everybody may do everything.
    pub const fn is_open(&self) -> bool {
        self.kind.is_none() && self.admission.is_open()
    }

    /// Whether a life of a host may do this: it is admitted, where that matters, and the reservation permits it.
    pub fn allows(&self, life: Life, access: Access) -> bool {
        let is_admitted = match access {
            Access::Free | Access::Read => true,
            Access::Write => self.admission.admits(life),
        };
        is_admitted && self.permits(life.host, access)
    }

    /// Whether the reservation lets a host do this.
    pub fn permits(&self, host: HostId, access: Access) -> bool {
        let Some(kind) = self.kind else { return true };
        match access {
            Access::Free => true,
            Access::Read if !kind.excludes_readers() => true,
            Access::Read | Access::Write => self.hosts.contains(&host),
        }
    }
}
