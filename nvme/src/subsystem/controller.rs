//! One controller: its properties, its queues, its events, its logs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::fabrics::{Capabilities, Configuration, ControllerStatus, PropertyAccess, VERSION, property};
use crate::feature::Features;
use crate::identify::{
    ASYNC_EVENT_LIMIT, ControllerKind, NOTICE_ACCESS_CHANGED, NOTICE_CROSS_RESET, NOTICE_DISCOVERY_CHANGED,
    NOTICE_NAMESPACE_CHANGED, Transport,
};
use crate::log::{CHANGED_NAMESPACES_MAX, ErrorLog, lid};
use crate::nqn::Nqn;
use crate::reservation;
use crate::status::Status;

use super::interface::QueueId;
use super::reset::CrossReset;

/// Asynchronous Event Requests that a controller holds.
pub(super) const ASYNC_EVENTS_MAX: usize = ASYNC_EVENT_LIMIT as usize + 1;

/// Bound on how long CSTS.RDY lags behind CC.EN, in units of 500 ms (CAP.TO, CRTO.CRWMT): 30 s, which is
/// what draining I/O queues may take when drives retry.
const READY_TIMEOUT_HALF_SECONDS: u8 = 60;

/// How long a discovery controller without keep alive timer may be silent: two minutes.
///
/// Source: NVM Express Base Specification 2.0, Discovery Controller: at least 2 minutes.
const DISCOVERY_IDLE_MS: u32 = 120_000;

/// Where a controller stands between its resets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// CC.EN is 0.
    Disabled,
    /// CC.EN and CSTS.RDY are 1.
    Ready,
    /// CC.EN is 0 and CSTS.RDY still 1: the I/O queues are being closed.
    Resetting,
    /// CSTS.CFS is 1: the host asked for a configuration that we do not have.
    Failed,
}

/// How far a shutdown is (CSTS.SHST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShutdownPhase {
    /// None was asked for.
    Normal,
    /// The I/O queues are being closed.
    Occurring,
    /// Done; only a reset leads out.
    Complete,
}

/// What a write to CC means for the rest of the subsystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Enabled,
    Failed,
    Reset,
    ShutDown,
}

/// An asynchronous event. Once told, it is not told again until its log page was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// SMART: the subsystem is less reliable, or read only.
    Reliability,
    /// SMART: a temperature threshold was crossed.
    Temperature,
    /// SMART: spare capacity is low.
    Spare,
    /// Namespaces came, went or changed their size.
    Namespaces,
    /// Namespaces can be used here that could not, or the other way round.
    Access,
    /// The discovery log changed.
    Discovery,
    /// There is something in the reservation notification log.
    Reservations,
    /// A Cross-Controller Reset is through.
    CrossReset,
}

impl Notice {
    /// Dword 0 of the completion: type, information, log page.
    ///
    /// Source: NVM Express Base Specification 2.0, Asynchronous Event Request.
    const fn result(self) -> u64 {
        let (kind, information, page) = match self {
            Self::Reliability => (1, 0x00, lid::SMART),
            Self::Temperature => (1, 0x01, lid::SMART),
            Self::Spare => (1, 0x02, lid::SMART),
            Self::Namespaces => (2, 0x00, lid::CHANGED_NAMESPACES),
            Self::Access => (2, 0x03, lid::ASYMMETRIC_ACCESS),
            Self::Discovery => (2, 0xf0, lid::DISCOVERY),
            Self::Reservations => (6, 0x00, lid::RESERVATION),
            Self::CrossReset => (2, 0xf4, lid::CROSS_CONTROLLER_RESET),
        };
        kind | information << 8 | (page as u64) << 16
    }

    /// Bits of Asynchronous Event Configuration that ask for it; `None`: it has a mask of its own.
    const fn enabling(self) -> Option<u32> {
        match self {
            Self::Spare => Some(1),
            Self::Temperature => Some(1 << 1),
            Self::Reliability => Some(1 << 2 | 1 << 3 | 1 << 4),
            Self::Namespaces => Some(NOTICE_NAMESPACE_CHANGED),
            Self::Access => Some(NOTICE_ACCESS_CHANGED),
            Self::Discovery => Some(NOTICE_DISCOVERY_CHANGED),
            Self::CrossReset => Some(NOTICE_CROSS_RESET),
            Self::Reservations => None,
        }
    }
}

/// The discovery log as one reader sees it, however many commands it takes to read.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) generation: u64,
    pub(super) page: Vec<u8>,
}

/// An Abort that waits for the runtime.
#[derive(Clone, Copy, Debug)]
pub(super) struct AbortWait {
    pub(super) slot: u16,
    pub(super) queue: QueueId,
}

/// One controller and its association.
#[derive(Debug)]
pub(super) struct Controller {
    pub(super) cntlid: u16,
    pub(super) kind: ControllerKind,
    pub(super) transport: Transport,
    pub(super) host: Nqn,
    pub(super) hostid: [u8; 16],
    /// Local address of the admin queue's connection, for the discovery log.
    pub(super) local_address: String,
    /// `None` once the connection is gone.
    pub(super) admin: Option<QueueId>,
    /// Whether every queue of the association is closed or being closed.
    pub(super) terminated: bool,
    /// I/O queues by QID, those included that are being closed.
    pub(super) io: BTreeMap<u16, QueueId>,
    pub(super) phase: Phase,
    pub(super) shutdown: ShutdownPhase,
    pub(super) features: Features,
    pub(super) errors: ErrorLog,
    pub(super) aborts: BTreeMap<u32, AbortWait>,
    pub(super) snapshot: Option<Snapshot>,
    /// CIU and CIRN: they tell one life of a controller from the next.
    pub(super) instance: u8,
    pub(super) instance_random: u64,
    pub(super) queue_entries_max: u16,
    configuration: Configuration,
    silent_since_ns: u64,
    /// Outstanding Asynchronous Event Requests as slot and command identifier.
    waiting: VecDeque<(u16, u16)>,
    pending: BTreeSet<Notice>,
    masked: BTreeSet<Notice>,
    /// `None`: more than the list can hold.
    changed: Option<BTreeSet<u32>>,
    pub(super) reservations: ReservationLog,
    /// Resets of other controllers that this one was asked for.
    pub(super) resets: Vec<CrossReset>,
}

/// The reservation notification log, and what its host does not want to find there.
#[derive(Debug, Default)]
pub(super) struct ReservationLog {
    /// Reservation Notification Mask by namespace; without an entry nothing is masked.
    pub(super) masks: BTreeMap<u32, u32>,
    /// Oldest first: number, what was lost, namespace.
    entries: VecDeque<(u64, reservation::Notice, u32)>,
    count: u64,
}

/// Entries that the reservation notification log keeps: as many as its field can say; then the oldest goes.
const RESERVATION_NOTICES_MAX: usize = 255;

impl ReservationLog {
    /// The page as it is read now.
    pub(super) fn page(&self) -> Vec<u8> {
        let left = self.entries.len().saturating_sub(1);
        reservation::wire::notice(self.entries.front().copied(), left)
    }
}

/// What a new controller starts from.
pub(super) struct Birth {
    pub(super) cntlid: u16,
    pub(super) kind: ControllerKind,
    pub(super) transport: Transport,
    pub(super) host: Nqn,
    pub(super) hostid: [u8; 16],
    pub(super) local_address: String,
    pub(super) admin: QueueId,
    pub(super) features: Features,
    pub(super) queue_entries_max: u16,
    pub(super) now_ns: u64,
}

impl Controller {
    pub(super) fn new(birth: Birth) -> Self {
        Self {
            cntlid: birth.cntlid,
            kind: birth.kind,
            transport: birth.transport,
            host: birth.host,
            hostid: birth.hostid,
            local_address: birth.local_address,
            admin: Some(birth.admin),
            terminated: false,
            io: BTreeMap::new(),
            phase: Phase::Disabled,
            shutdown: ShutdownPhase::Normal,
            features: birth.features,
            errors: ErrorLog::default(),
            aborts: BTreeMap::new(),
            snapshot: None,
            instance: 0,
            instance_random: 0,
            queue_entries_max: birth.queue_entries_max,
            configuration: Configuration::default(),
            silent_since_ns: birth.now_ns,
            waiting: VecDeque::new(),
            pending: BTreeSet::new(),
            masked: BTreeSet::new(),
            changed: Some(BTreeSet::new()),
            reservations: ReservationLog::default(),
            resets: Vec::new(),
        }
    }

    /// Whether commands other than Fabrics commands are executed.
    pub(super) fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Whether I/O queues may connect.
    pub(super) fn takes_queues(&self) -> bool {
        self.phase == Phase::Ready && self.shutdown == ShutdownPhase::Normal
    }

    /// The host was heard of.
    pub(super) fn heard(&mut self, now_ns: u64) {
        self.silent_since_ns = now_ns;
    }

    /// Whether the host was silent for longer than it may be.
    pub(super) fn is_silent(&self, now_ns: u64) -> bool {
        let limit_ms = match (self.features.kato_ms(), self.kind) {
            (0, ControllerKind::Io) => return false,
            (0, ControllerKind::Discovery) => DISCOVERY_IDLE_MS,
            (kato_ms, _) => kato_ms,
        };
        now_ns.saturating_sub(self.silent_since_ns) > u64::from(limit_ms) * 1_000_000
    }

    /// Executes Property Get.
    pub(super) fn property(&self, access: PropertyAccess) -> Result<u64, Status> {
        let (size_bytes, value) = match access.offset {
            property::CAP => (8, self.capabilities()),
            property::VS => (4, u64::from(VERSION)),
            property::CC => (4, u64::from(self.configuration.0)),
            property::CSTS => (4, u64::from(self.status().0)),
            property::CRTO => (4, u64::from(READY_TIMEOUT_HALF_SECONDS)),
            _ => return Err(Status::INVALID_FIELD.do_not_retry()),
        };
        if access.size_bytes == Some(size_bytes) {
            Ok(value)
        } else {
            Err(Status::INVALID_FIELD.do_not_retry())
        }
    }

    /// CAP, with CRMS.CRWMS as version 2.0 asks.
    fn capabilities(&self) -> u64 {
        let ready_with_media = 1 << 59;
        Capabilities::new(self.queue_entries_max, READY_TIMEOUT_HALF_SECONDS).0 | ready_with_media
    }

    fn status(&self) -> ControllerStatus {
        let ready = matches!(self.phase, Phase::Ready | Phase::Resetting);
        let shutdown = match self.shutdown {
            ShutdownPhase::Normal => 0,
            ShutdownPhase::Occurring => 1,
            ShutdownPhase::Complete => 2,
        };
        ControllerStatus::new(ready, self.phase == Phase::Failed, shutdown)
    }

    /// Executes Property Set. Only CC can be written: there is no subsystem reset.
    pub(super) fn set_property(&mut self, access: PropertyAccess) -> Result<Change, Status> {
        if access.offset != property::CC || access.size_bytes != Some(4) {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let written = Configuration((access.value & 0xffff_ffff) as u32);
        let change = match (self.configuration.enabled(), written.enabled()) {
            (false, true) => self.enable(written)?,
            (true, false) => self.reset(),
            (true, true) if written.shutdown() != 0 && self.configuration.shutdown() == 0 => self.shut_down(),
            (false, false) if written.shutdown() != 0 && self.configuration.shutdown() == 0 => {
                self.shut_down()
            }
            (true, true) | (false, false) => Change::Nothing,
        };
        self.configuration = written;
        Ok(change)
    }

    fn enable(&mut self, written: Configuration) -> Result<Change, Status> {
        match self.phase {
            Phase::Disabled => {}
            // The host did not wait for CSTS.RDY to become 0.
            Phase::Resetting => return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()),
            Phase::Ready | Phase::Failed => unreachable!("CC.EN is 1 in this phase"),
        }
        let entries = (written.submission_entry_shift(), written.completion_entry_shift());
        let entries_right = self.kind == ControllerKind::Discovery || entries == (6, 4);
        let right = written.command_sets() == 0
            && written.page_shift() == 0
            && written.arbitration() == 0
            && entries_right;
        self.shutdown = ShutdownPhase::Normal;
        if right {
            self.phase = Phase::Ready;
            Ok(Change::Enabled)
        } else {
            self.phase = Phase::Failed;
            Ok(Change::Failed)
        }
    }

    fn reset(&mut self) -> Change {
        assert_ne!(self.phase, Phase::Disabled, "CC.EN was 1");
        self.phase = if self.io.is_empty() {
            Phase::Disabled
        } else {
            Phase::Resetting
        };
        self.shutdown = ShutdownPhase::Normal;
        self.features.reset();
        self.pending.clear();
        self.masked.clear();
        self.changed = Some(BTreeSet::new());
        self.reservations = ReservationLog::default();
        self.snapshot = None;
        Change::Reset
    }

    fn shut_down(&mut self) -> Change {
        self.shutdown = if self.io.is_empty() {
            ShutdownPhase::Complete
        } else {
            ShutdownPhase::Occurring
        };
        Change::ShutDown
    }

    /// An I/O queue is gone; if it was the last, a reset or shutdown under way is done.
    pub(super) fn queue_closed(&mut self, qid: u16) {
        self.io.remove(&qid).expect("a queue leaves its controller once");
        if self.io.is_empty() {
            if self.phase == Phase::Resetting {
                self.phase = Phase::Disabled;
            }
            if self.shutdown == ShutdownPhase::Occurring {
                self.shutdown = ShutdownPhase::Complete;
            }
        }
    }

    /// Takes an Asynchronous Event Request.
    pub(super) fn await_event(&mut self, slot: u16, cid: u16) -> Result<(), Status> {
        if self.waiting.len() >= ASYNC_EVENTS_MAX {
            return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED.do_not_retry());
        }
        self.waiting.push_back((slot, cid));
        Ok(())
    }

    /// Takes back the Asynchronous Event Request with this command identifier; returns its slot.
    pub(super) fn withdraw_request(&mut self, cid: u16) -> Option<u16> {
        let index = self.waiting.iter().position(|&(_, waiting)| waiting == cid)?;
        self.waiting.remove(index).map(|(slot, _)| slot)
    }

    /// Takes back every Asynchronous Event Request; returns their slots.
    pub(super) fn withdraw_requests(&mut self) -> Vec<u16> {
        self.waiting.drain(..).map(|(slot, _)| slot).collect()
    }

    /// Notes an event, if the host wants to know and does not know already.
    pub(super) fn raise(&mut self, notice: Notice) {
        let events = self.features.events();
        let wanted = notice.enabling().is_none_or(|bits| events & bits != 0);
        if self.is_ready() && wanted && !self.masked.contains(&notice) {
            self.pending.insert(notice);
        }
    }

    /// The next event to tell: the slot of the request that it answers, and dword 0.
    pub(super) fn next_notice(&mut self) -> Option<(u16, u64)> {
        if self.waiting.is_empty() {
            return None;
        }
        let notice = self.pending.pop_first()?;
        let (slot, _) = self.waiting.pop_front()?;
        self.masked.insert(notice);
        Some((slot, notice.result()))
    }

    /// The host read the log page `page` and did not ask to retain its event.
    pub(super) fn event_read(&mut self, page: u8) {
        self.masked
            .retain(|notice| notice.result() >> 16 != u64::from(page));
    }

    /// Notes that a namespace changed.
    pub(super) fn namespace_changed(&mut self, nsid: u32) {
        if self.kind != ControllerKind::Io || !self.is_ready() {
            return;
        }
        if let Some(changed) = &mut self.changed {
            changed.insert(nsid);
            if changed.len() > CHANGED_NAMESPACES_MAX {
                self.changed = None;
            }
        }
        self.raise(Notice::Namespaces);
    }

    /// Namespaces that changed since the list was last read; `None`: too many to list.
    pub(super) fn changed_namespaces(&self) -> Option<Vec<u32>> {
        self.changed
            .as_ref()
            .map(|changed| changed.iter().copied().collect())
    }

    /// The changed list was read.
    pub(super) fn forget_changed_namespaces(&mut self) {
        self.changed = Some(BTreeSet::new());
    }

    /// The host lost something in a namespace.
    pub(super) fn reservation_lost(&mut self, nsid: u32, notice: reservation::Notice) {
        let log = &mut self.reservations;
        let mask = log.masks.get(&nsid).copied().unwrap_or(0);
        if self.kind != ControllerKind::Io || self.phase != Phase::Ready || mask & notice.mask() != 0 {
            return;
        }
        // Numbers start at 1: a page of number 0 has nothing to tell.
        log.count = log.count.checked_add(1).unwrap_or(1);
        log.entries.push_back((log.count, notice, nsid));
        if log.entries.len() > RESERVATION_NOTICES_MAX {
            log.entries.pop_front();
        }
        self.raise(Notice::Reservations);
    }

    /// The oldest reservation notice was read; the next one is told like a new one.
    pub(super) fn reservation_read(&mut self) {
        self.reservations.entries.pop_front();
        if !self.reservations.entries.is_empty() {
            self.raise(Notice::Reservations);
        }
    }
}
