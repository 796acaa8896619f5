//! A host's side of one association: brings a controller up, keeps it alive, and reconnects.
//!
//! Owns the admin queue's own commands, the set of I/O queues, the list of namespaces and the reconnect
//! timers. The runtime owns the connections: it opens and closes queues, submits what it is told and
//! reports what happens. User I/O is none of this machine's business; it runs on the I/O queues between
//! [`Action::Live`] and [`Action::Down`], with any command identifier, and on the admin queue with
//! identifiers from [`ADMIN_CIDS_RESERVED`] on.
//!
//! Invariants: one command at a time takes each step; whatever fails leads to `Down` with all queues
//! closed and a bounded backoff, or for good to `Failed`. After [`Action::CloseQueue`] the runtime says
//! nothing more of that queue until it is opened again.
//!
//! Source: NVM Express Base Specification 2.0, section 3.5.2 (Memory-less Controller Initialization).

mod decode;
mod discover;
mod drain;
mod event;
mod scan;

use std::collections::BTreeMap;

use self::decode::{Controller, Namespace, Page};
use self::discover::Discover;
pub use self::drain::Drain;
use self::drain::Resets;
pub use self::event::{Action, Config, DownReason, Event, FailReason, Kind, QueueFault};
use self::scan::Scan;
use crate::command::{CompletionEntry, SubmissionEntry, admin_opcode};
use crate::fabrics::{
    CNTLID_DYNAMIC, Capabilities, Configuration, Connect, ConnectData, ControllerStatus, PropertyAccess,
    property,
};
use crate::feature::fid;
use crate::identify::{
    IDENTIFY_BYTES, NOTICE_CROSS_RESET, NOTICE_DISCOVERY_CHANGED, NOTICE_NAMESPACE_CHANGED, cns,
};
use crate::log::{lid, log_command};
use crate::status::Status;

/// Command identifiers `0..8` of the admin queue belong to the association.
pub const ADMIN_CIDS_RESERVED: u16 = 8;

/// The asynchronous event request that is always outstanding.
const CID_EVENT: u16 = 0;
/// Keep Alive.
const CID_KEEP_ALIVE: u16 = 1;
/// Bring-up, then scans and discovery: a step at a time.
const CID_STEP: u16 = 2;
/// The log page that an asynchronous event asks to be read.
const CID_LOG: u16 = 3;
/// Shutdown.
const CID_SHUTDOWN: u16 = 4;
/// Resets of earlier controllers, one after the other.
const CID_DRAIN: u16 = 5;

/// Command identifier of Connect on an I/O queue; nothing else is in flight there before it completes.
const CID_IO_CONNECT: u16 = 0;

/// How often CSTS is read while the controller starts or shuts down.
const POLL_NS: u64 = 100_000_000;
/// How long a shutdown may take before the queues are closed all the same.
const SHUTDOWN_NS: u64 = 5_000_000_000;
/// I/O queues that an association opens at most.
const IO_QUEUES_MAX: u16 = 1024;

/// Where in its life the association is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Awaits `Start`.
    New,
    /// Awaits the admin queue and the steps up to `Live`.
    Starting,
    /// Awaits nothing: works.
    Live,
    /// Awaits the end of the shutdown, at the latest until then.
    Stopping { until_ns: u64 },
    /// Awaits the time of the next attempt.
    Backoff { until_ns: u64 },
    /// Stopped, or failed for good.
    Over,
}

/// What a reserved admin command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Connect,
    Capabilities,
    Enable,
    ReadStatus,
    IdentifyController,
    ConfigureEvents,
    SetQueues,
    Scan,
    Discover,
    KeepAlive,
    AsyncEvent,
    /// Reads a log page to clear its event; whether namespaces are to be scanned afterwards.
    EventLog {
        rescan: bool,
    },
    Reset,
    ResetLog,
    Shutdown,
    ShutdownStatus,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    purpose: Purpose,
    /// `u64::MAX` for asynchronous event requests, which wait for ever.
    deadline_ns: u64,
}

/// Where a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueState {
    Closed,
    Opening { deadline_ns: u64 },
    Connecting { deadline_ns: u64 },
    Up,
}

/// Why a step cannot be followed by the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Down(DownReason),
    Fail(FailReason),
}

impl From<DownReason> for Trouble {
    fn from(reason: DownReason) -> Self {
        Self::Down(reason)
    }
}

impl From<FailReason> for Trouble {
    fn from(reason: FailReason) -> Self {
        Self::Fail(reason)
    }
}

/// The host's side of one association.
pub struct Association {
    config: Config,
    state: State,
    pending: [Option<Pending>; ADMIN_CIDS_RESERVED as usize],
    /// By queue identifier, the admin queue first.
    queues: Vec<QueueState>,
    cntlid: u16,
    capabilities: Capabilities,
    controller: Option<Controller>,
    /// I/O queues of this attempt.
    io_queues: u16,
    ready_deadline_ns: u64,
    /// When CSTS is to be read again.
    poll_at_ns: Option<u64>,
    keep_alive_at_ns: Option<u64>,
    scan: Scan,
    discover: Discover,
    /// Controllers before the present one; survive reconnects.
    resets: Resets,
    /// What the user knows of; survives reconnects, so that only changes are reported.
    namespaces: BTreeMap<u32, Namespace>,
    failures: u32,
    /// When the association was lost, for the loss timeout.
    lost_at_ns: Option<u64>,
}

impl Association {
    /// An association that waits for [`Event::Start`]. Panics if the configuration contradicts itself.
    pub fn new(config: Config) -> Self {
        assert!(config.queue_entries >= 2 && config.admin_entries >= 32);
        assert!(config.kind == Kind::Discovery || (1..=IO_QUEUES_MAX).contains(&config.io_queues));
        assert!(config.reconnect_min_ns > 0 && config.reconnect_min_ns <= config.reconnect_max_ns);
        assert!(config.command_timeout_ns > 0 && config.max_transfer_bytes >= 4096);
        // One Keep Alive may be lost in time.
        assert!(config.keep_alive_ns <= u64::from(config.kato_ms) * 1_000_000 / 2);
        Self {
            queues: vec![QueueState::Closed; usize::from(config.io_queues) + 1],
            config,
            state: State::New,
            pending: [None; ADMIN_CIDS_RESERVED as usize],
            cntlid: CNTLID_DYNAMIC,
            capabilities: Capabilities(0),
            controller: None,
            io_queues: 0,
            ready_deadline_ns: 0,
            poll_at_ns: None,
            keep_alive_at_ns: None,
            scan: Scan::default(),
            discover: Discover::default(),
            resets: Resets::default(),
            namespaces: BTreeMap::new(),
            failures: 0,
            lost_at_ns: None,
        }
    }

    /// Who we are from the next Connect of an admin queue on.
    ///
    /// Panics while I/O queues may be connecting: an association has one host identifier.
    pub fn set_hostid(&mut self, hostid: [u8; 16]) {
        assert!(!self.is_live() && self.io_queues == 0);
        self.config.hostid = hostid;
    }

    /// Whether user I/O may be submitted.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Advances by one event; what is to be done goes to `out`, in order.
    pub fn handle(&mut self, now_ns: u64, event: Event<'_>, out: &mut Vec<Action>) {
        let result = match event {
            Event::Start => {
                assert_eq!(self.state, State::New, "an association starts once");
                self.open(now_ns, out);
                Ok(())
            }
            Event::QueueUp { qid } => {
                self.queue_up(now_ns, qid, out);
                Ok(())
            }
            Event::QueueDown { qid, fault } => match self.queue(qid) {
                QueueState::Closed => Ok(()),
                QueueState::Opening { .. } | QueueState::Connecting { .. } | QueueState::Up => {
                    Err(DownReason::Queue { qid, fault }.into())
                }
            },
            Event::Completion { qid: 0, entry, data } => self.admin_completion(now_ns, entry, data, out),
            Event::Completion { qid, entry, .. } => self.io_completion(now_ns, qid, entry, out),
            Event::Tick => self.tick(now_ns, out),
            Event::Stop => {
                self.stop(now_ns, out);
                Ok(())
            }
        };
        match result {
            Ok(()) => {}
            Err(Trouble::Down(reason)) => self.go_down(now_ns, reason, out),
            Err(Trouble::Fail(reason)) => self.fail(reason, out),
        }
    }

    fn queue(&self, qid: u16) -> QueueState {
        self.queues
            .get(usize::from(qid))
            .copied()
            .unwrap_or(QueueState::Closed)
    }

    /// Starts an attempt with the admin queue.
    fn open(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        assert!(self.queues.iter().all(|&queue| queue == QueueState::Closed));
        self.state = State::Starting;
        self.open_queue(now_ns, 0, self.config.admin_entries, out);
    }

    fn open_queue(&mut self, now_ns: u64, qid: u16, entries: u16, out: &mut Vec<Action>) {
        self.queues[usize::from(qid)] = QueueState::Opening {
            deadline_ns: now_ns.saturating_add(self.config.command_timeout_ns),
        };
        out.push(Action::OpenQueue { qid, entries });
    }

    fn queue_up(&mut self, now_ns: u64, qid: u16, out: &mut Vec<Action>) {
        if !matches!(self.queue(qid), QueueState::Opening { .. }) {
            return; // It was closed meanwhile.
        }
        let deadline_ns = now_ns.saturating_add(self.config.command_timeout_ns);
        self.queues[usize::from(qid)] = QueueState::Connecting { deadline_ns };
        let admin = qid == 0;
        let entries = if admin {
            self.config.admin_entries
        } else {
            self.queue_entries()
        };
        let connect = Connect {
            recfmt: 0,
            qid,
            sqsize: entries - 1,
            cattr: if self.config.flow_control {
                0
            } else {
                Connect::CATTR_DISABLE_FLOW_CONTROL
            },
            kato_ms: if admin { self.config.kato_ms } else { 0 },
        };
        let data = ConnectData {
            hostid: self.config.hostid,
            cntlid: if admin { CNTLID_DYNAMIC } else { self.cntlid },
            subnqn: self.config.subnqn.clone(),
            hostnqn: self.config.hostnqn.clone(),
        };
        let payload = data.encode().to_vec();
        if admin {
            self.submit(
                now_ns,
                CID_STEP,
                Purpose::Connect,
                connect.encode(CID_STEP),
                payload,
                0,
                out,
            );
        } else {
            out.push(Action::Submit {
                qid,
                entry: connect.encode(CID_IO_CONNECT),
                payload,
                read_bytes: 0,
            });
        }
    }

    /// Submits one of the association's own admin commands.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one field of the command or its bookkeeping"
    )]
    fn submit(
        &mut self,
        now_ns: u64,
        cid: u16,
        purpose: Purpose,
        entry: SubmissionEntry,
        payload: Vec<u8>,
        read_bytes: u32,
        out: &mut Vec<Action>,
    ) {
        let pending = &mut self.pending[usize::from(cid)];
        assert!(pending.is_none(), "one command at a time for each purpose");
        assert_eq!(entry.cid(), cid);
        let deadline_ns = match purpose {
            Purpose::AsyncEvent => u64::MAX,
            Purpose::Connect
            | Purpose::Capabilities
            | Purpose::Enable
            | Purpose::ReadStatus
            | Purpose::IdentifyController
            | Purpose::ConfigureEvents
            | Purpose::SetQueues
            | Purpose::Scan
            | Purpose::Discover
            | Purpose::KeepAlive
            | Purpose::EventLog { .. }
            | Purpose::Reset
            | Purpose::ResetLog
            | Purpose::Shutdown
            | Purpose::ShutdownStatus => now_ns.saturating_add(self.config.command_timeout_ns),
        };
        *pending = Some(Pending { purpose, deadline_ns });
        out.push(Action::Submit {
            qid: 0,
            entry,
            payload,
            read_bytes,
        });
    }

    /// Submits the command of the next step, which carries no data to the controller.
    fn step(
        &mut self,
        now_ns: u64,
        purpose: Purpose,
        entry: SubmissionEntry,
        read_bytes: u32,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        self.submit(now_ns, CID_STEP, purpose, entry, Vec::new(), read_bytes, out);
        Ok(())
    }

    fn admin_completion(
        &mut self,
        now_ns: u64,
        entry: CompletionEntry,
        data: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        let pending = self
            .pending
            .get_mut(usize::from(entry.cid))
            .and_then(Option::take);
        let Some(Pending { purpose, .. }) = pending else {
            return Ok(()); // A user's command, or one of an attempt that has ended.
        };
        match purpose {
            Purpose::Connect => self.connected(now_ns, entry, out),
            Purpose::Capabilities => self.capabilities_read(now_ns, entry, out),
            Purpose::Enable => {
                succeeded(entry.status)?;
                let read = PropertyAccess::get(CID_STEP, property::CSTS);
                self.step(now_ns, Purpose::ReadStatus, read, 0, out)
            }
            Purpose::ReadStatus => self.status_read(now_ns, entry, out),
            Purpose::IdentifyController => self.identified(now_ns, entry.status, data, out),
            // A controller that refuses to be configured just sends no such events.
            Purpose::ConfigureEvents => self.events_configured(now_ns, out),
            Purpose::SetQueues => self.queues_granted(now_ns, entry, out),
            Purpose::Scan => self.scan_step(now_ns, entry.status, data, out),
            Purpose::Discover => self.discover_step(now_ns, entry.status, data, out),
            Purpose::KeepAlive => succeeded(entry.status),
            Purpose::AsyncEvent => {
                self.event_reported(now_ns, entry, out);
                Ok(())
            }
            Purpose::EventLog { rescan } => {
                self.request_event(now_ns, out);
                if rescan {
                    self.start_scan(now_ns, out)
                } else {
                    Ok(())
                }
            }
            Purpose::Reset => {
                self.reset_answered(now_ns, entry, out);
                self.request_event(now_ns, out);
                Ok(())
            }
            Purpose::ResetLog => {
                self.resets_read(now_ns, entry.status, data, out);
                self.request_event(now_ns, out);
                Ok(())
            }
            Purpose::Shutdown => {
                self.poll_at_ns = Some(now_ns);
                Ok(())
            }
            Purpose::ShutdownStatus => {
                self.shutdown_status_read(now_ns, entry, out);
                Ok(())
            }
        }
    }

    fn connected(
        &mut self,
        now_ns: u64,
        entry: CompletionEntry,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        self.cntlid = connect_result(entry)?;
        self.queues[0] = QueueState::Up;
        let read = PropertyAccess::get(CID_STEP, property::CAP);
        self.step(now_ns, Purpose::Capabilities, read, 0, out)
    }

    fn capabilities_read(
        &mut self,
        now_ns: u64,
        entry: CompletionEntry,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        const HALF_SECOND_NS: u64 = 500_000_000;
        succeeded(entry.status)?;
        self.capabilities = Capabilities(entry.result);
        let half_seconds = u64::from(self.capabilities.timeout_half_seconds()).max(1);
        self.ready_deadline_ns = now_ns.saturating_add(half_seconds * HALF_SECOND_NS);
        // CC.MPS must be at least CAP.MPSMIN, although pages mean nothing over fabrics.
        let configuration = Configuration::START.0 | u32::from(self.page_shift_min()) << 7;
        let write = PropertyAccess::set(CID_STEP, property::CC, configuration);
        self.step(now_ns, Purpose::Enable, write, 0, out)
    }

    /// CAP.MPSMIN: the smallest page as a power of two above 4 KiB; the unit of MDTS.
    ///
    /// Source: NVM Express Base Specification 2.0, figure 36 (CAP), bits 51:48.
    fn page_shift_min(&self) -> u8 {
        self.capabilities.0.to_le_bytes()[6] & 0xf
    }

    fn status_read(
        &mut self,
        now_ns: u64,
        entry: CompletionEntry,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        succeeded(entry.status)?;
        let status = controller_status(entry);
        if status.fatal() {
            return Err(DownReason::ControllerFatal.into());
        }
        if !status.ready() {
            if now_ns >= self.ready_deadline_ns {
                return Err(DownReason::NotReady.into());
            }
            self.poll_at_ns = Some(now_ns.saturating_add(POLL_NS));
            return Ok(());
        }
        if self.config.kato_ms > 0 {
            self.keep_alive_at_ns = Some(now_ns.saturating_add(self.config.keep_alive_ns));
        }
        let mut identify = SubmissionEntry::new(admin_opcode::IDENTIFY, CID_STEP);
        identify.set_dword(10, u32::from(cns::CONTROLLER));
        self.step(now_ns, Purpose::IdentifyController, identify, PAGE_BYTES, out)
    }

    fn identified(
        &mut self,
        now_ns: u64,
        status: Status,
        data: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        let controller = Controller::parse(page(status, data)?);
        self.check_controller(&controller)?;
        self.controller = Some(controller);
        let drained = if self.config.drain { NOTICE_CROSS_RESET } else { 0 };
        let events = controller.events & (NOTICE_NAMESPACE_CHANGED | NOTICE_DISCOVERY_CHANGED | drained);
        if events == 0 {
            return self.events_configured(now_ns, out);
        }
        let mut configure = SubmissionEntry::new(admin_opcode::SET_FEATURES, CID_STEP);
        configure.set_dword(10, u32::from(fid::ASYNC_EVENT_CONFIGURATION));
        configure.set_dword(11, events);
        self.step(now_ns, Purpose::ConfigureEvents, configure, 0, out)
    }

    /// The checks that Linux makes of a fabrics controller.
    ///
    /// Source: Linux, drivers/nvme/host/core.c, nvme_check_ctrl_fabric_info (after INTEROP.md).
    fn check_controller(&self, controller: &Controller) -> Result<(), FailReason> {
        if controller.cntlid != self.cntlid {
            return Err(FailReason::ControllerMismatch {
                connect: self.cntlid,
                identify: controller.cntlid,
            });
        }
        let useful = [
            (
                controller.keep_alive_granularity > 0 || self.config.kato_ms == 0,
                "KAS",
            ),
            (controller.sgls & 0b11 != 0, "SGLS"),
        ];
        let useful_for_io = [
            (controller.command_units >= 4, "IOCCSZ"),
            (controller.response_units >= 1, "IORCSZ"),
            (controller.icdoff == 0, "ICDOFF"),
        ];
        let io = self.config.kind == Kind::Io;
        let all = useful.iter().chain(useful_for_io.iter().filter(|_| io));
        match all.into_iter().find(|(passed, _)| !passed) {
            Some((_, field)) => Err(FailReason::Incompatible(field)),
            None => Ok(()),
        }
    }

    fn events_configured(&mut self, now_ns: u64, out: &mut Vec<Action>) -> Result<(), Trouble> {
        match self.config.kind {
            Kind::Discovery => self.go_live(now_ns, out),
            Kind::Io => {
                let queues = u32::from(self.config.io_queues) - 1;
                let mut set = SubmissionEntry::new(admin_opcode::SET_FEATURES, CID_STEP);
                set.set_dword(10, u32::from(fid::NUMBER_OF_QUEUES));
                set.set_dword(11, queues | queues << 16);
                self.step(now_ns, Purpose::SetQueues, set, 0, out)
            }
        }
    }

    fn queues_granted(
        &mut self,
        now_ns: u64,
        entry: CompletionEntry,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        succeeded(entry.status)?;
        let bytes = entry.result.to_le_bytes();
        let submission = u16::from_le_bytes([bytes[0], bytes[1]]);
        let completion = u16::from_le_bytes([bytes[2], bytes[3]]);
        let granted = submission.min(completion).saturating_add(1); // 0's based
        self.io_queues = self.config.io_queues.min(granted);
        assert!(self.io_queues > 0);
        for qid in 1..=self.io_queues {
            self.open_queue(now_ns, qid, self.queue_entries(), out);
        }
        Ok(())
    }

    /// Entries of an I/O queue: what we want, within MQES and MAXCMD.
    fn queue_entries(&self) -> u16 {
        let controller = self.controller.expect("I/O queues are opened after Identify");
        let mqes = u16::try_from(self.capabilities.queue_entries_max()).unwrap_or(u16::MAX);
        let maxcmd = if controller.maxcmd == 0 {
            u16::MAX
        } else {
            controller.maxcmd
        };
        self.config.queue_entries.min(mqes).min(maxcmd).max(2)
    }

    fn io_completion(
        &mut self,
        now_ns: u64,
        qid: u16,
        entry: CompletionEntry,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        if entry.cid != CID_IO_CONNECT || !matches!(self.queue(qid), QueueState::Connecting { .. }) {
            return Ok(());
        }
        connect_result(entry)?;
        self.queues[usize::from(qid)] = QueueState::Up;
        let connected = self.queues[1..]
            .iter()
            .filter(|&&queue| queue == QueueState::Up)
            .count();
        if self.state == State::Starting && connected == usize::from(self.io_queues) {
            return self.go_live(now_ns, out);
        }
        Ok(())
    }

    fn go_live(&mut self, now_ns: u64, out: &mut Vec<Action>) -> Result<(), Trouble> {
        assert_eq!(self.state, State::Starting);
        let controller = self.controller.expect("the controller was identified");
        self.state = State::Live;
        self.failures = 0;
        self.lost_at_ns = None;
        let io = self.config.kind == Kind::Io;
        out.push(Action::Live {
            cntlid: self.cntlid,
            io_queues: self.io_queues,
            queue_entries: if io { self.queue_entries() } else { 0 },
            max_transfer_bytes: self.max_transfer_bytes(&controller),
            in_capsule_bytes: if io {
                controller.command_units.saturating_mul(16).saturating_sub(64)
            } else {
                0
            },
            volatile_write_cache: controller.volatile_write_cache,
            oncs: controller.oncs,
            fuses: controller.fuses,
        });
        self.start_drain(now_ns, out);
        self.request_event(now_ns, out);
        match self.config.kind {
            Kind::Io => self.start_scan(now_ns, out),
            Kind::Discovery => self.start_discovery(now_ns, out),
        }
    }

    fn max_transfer_bytes(&self, controller: &Controller) -> u32 {
        if controller.transfer_shift == 0 {
            return self.config.max_transfer_bytes;
        }
        let shift = u32::from(controller.transfer_shift) + u32::from(self.page_shift_min()) + 12;
        let limit = 1_u32.checked_shl(shift).unwrap_or(u32::MAX);
        self.config.max_transfer_bytes.min(limit)
    }

    /// Keeps an asynchronous event request outstanding.
    fn request_event(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        if self.state == State::Live && self.pending[usize::from(CID_EVENT)].is_none() {
            let entry = SubmissionEntry::new(admin_opcode::ASYNC_EVENT_REQUEST, CID_EVENT);
            self.submit(now_ns, CID_EVENT, Purpose::AsyncEvent, entry, Vec::new(), 0, out);
        }
    }

    /// Reads the log page that an event names, which allows its next occurrence, then asks again.
    ///
    /// Source: NVM Express Base Specification 2.0, figure 146 (Asynchronous Event Request: Dword 0).
    fn event_reported(&mut self, now_ns: u64, entry: CompletionEntry, out: &mut Vec<Action>) {
        const NOTICE: u8 = 2;
        const NAMESPACE_CHANGED: u8 = 0x00;
        if !entry.status.is_success() || self.state != State::Live {
            return; // The controller takes no more requests, or the end has come.
        }
        let [kind, information, log_page, ..] = entry.result.to_le_bytes();
        let rescan = self.config.kind == Kind::Io && kind & 7 == NOTICE && information == NAMESPACE_CHANGED;
        if rescan {
            out.push(Action::NamespacesChanged);
        }
        if log_page == lid::DISCOVERY {
            self.request_event(now_ns, out);
            if self.pending[usize::from(CID_STEP)].is_some() {
                self.discover.again = true;
            } else {
                self.discover_first(now_ns, out);
            }
            return;
        }
        if log_page == lid::CROSS_CONTROLLER_RESET && self.config.drain {
            return self.look_at_resets(now_ns, out);
        }
        let read_bytes = match log_page {
            lid::ERROR => 64,
            lid::CHANGED_NAMESPACES => PAGE_BYTES,
            _ => 512,
        };
        let read = log_command(CID_LOG, log_page, 0, read_bytes);
        self.submit(
            now_ns,
            CID_LOG,
            Purpose::EventLog { rescan },
            read,
            Vec::new(),
            read_bytes,
            out,
        );
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Action>) -> Result<(), Trouble> {
        match self.state {
            State::New | State::Over => return Ok(()),
            State::Backoff { until_ns } => {
                if now_ns >= until_ns {
                    self.open(now_ns, out);
                }
                return Ok(());
            }
            State::Stopping { until_ns } if now_ns >= until_ns => {
                self.finish_stop(out);
                return Ok(());
            }
            State::Starting | State::Live | State::Stopping { .. } => {}
        }
        if self
            .pending
            .iter()
            .flatten()
            .any(|pending| now_ns >= pending.deadline_ns)
        {
            return Err(DownReason::CommandTimeout { qid: 0 }.into());
        }
        for (qid, &queue) in (0..).zip(&self.queues) {
            if let QueueState::Opening { deadline_ns } | QueueState::Connecting { deadline_ns } = queue
                && now_ns >= deadline_ns
            {
                return Err(DownReason::CommandTimeout { qid }.into());
            }
        }
        if self.poll_at_ns.is_some_and(|at_ns| now_ns >= at_ns) {
            self.poll_at_ns = None;
            self.poll_status(now_ns, out);
        }
        if self.state == State::Live {
            self.tick_drain(now_ns, out);
        }
        if let Some(at_ns) = self.keep_alive_at_ns
            && now_ns >= at_ns
            && self.pending[usize::from(CID_KEEP_ALIVE)].is_none()
        {
            self.keep_alive_at_ns = Some(now_ns.saturating_add(self.config.keep_alive_ns));
            let entry = SubmissionEntry::new(admin_opcode::KEEP_ALIVE, CID_KEEP_ALIVE);
            self.submit(
                now_ns,
                CID_KEEP_ALIVE,
                Purpose::KeepAlive,
                entry,
                Vec::new(),
                0,
                out,
            );
        }
        Ok(())
    }

    /// Reads CSTS for whoever waits for it.
    fn poll_status(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let (cid, purpose) = if matches!(self.state, State::Stopping { .. }) {
            (CID_SHUTDOWN, Purpose::ShutdownStatus)
        } else {
            (CID_STEP, Purpose::ReadStatus)
        };
        let read = PropertyAccess::get(cid, property::CSTS);
        self.submit(now_ns, cid, purpose, read, Vec::new(), 0, out);
    }

    fn stop(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        match self.state {
            State::Live => {
                self.state = State::Stopping {
                    until_ns: now_ns.saturating_add(SHUTDOWN_NS),
                };
                self.poll_at_ns = None;
                self.keep_alive_at_ns = None;
                self.pending = [None; ADMIN_CIDS_RESERVED as usize]; // Nobody waits for the rest any more.
                let write = PropertyAccess::set(CID_SHUTDOWN, property::CC, Configuration::SHUTDOWN.0);
                self.submit(now_ns, CID_SHUTDOWN, Purpose::Shutdown, write, Vec::new(), 0, out);
            }
            State::Stopping { .. } | State::Over => {}
            State::New | State::Starting | State::Backoff { .. } => self.finish_stop(out),
        }
    }

    fn shutdown_status_read(&mut self, now_ns: u64, entry: CompletionEntry, out: &mut Vec<Action>) {
        const COMPLETE: u8 = 2;
        if entry.status.is_success() && controller_status(entry).shutdown_status() != COMPLETE {
            self.poll_at_ns = Some(now_ns.saturating_add(POLL_NS));
        } else {
            self.finish_stop(out);
        }
    }

    fn finish_stop(&mut self, out: &mut Vec<Action>) {
        self.close_all(out);
        self.state = State::Over;
        out.push(Action::Down {
            reason: DownReason::Stopped,
            will_retry_at_ns: None,
        });
    }

    /// Closes everything and waits before the next attempt.
    fn go_down(&mut self, now_ns: u64, reason: DownReason, out: &mut Vec<Action>) {
        if matches!(self.state, State::Stopping { .. }) {
            return self.finish_stop(out);
        }
        self.close_all(out);
        let lost_at_ns = *self.lost_at_ns.get_or_insert(now_ns);
        let delay_ns = self
            .config
            .reconnect_min_ns
            .saturating_mul(1 << self.failures.min(30))
            .min(self.config.reconnect_max_ns);
        let until_ns = now_ns.saturating_add(delay_ns);
        self.failures = self.failures.saturating_add(1);
        if self
            .config
            .loss_timeout_ns
            .is_some_and(|limit_ns| until_ns - lost_at_ns > limit_ns)
        {
            return self.fail(FailReason::LossTimeout, out);
        }
        self.state = State::Backoff { until_ns };
        out.push(Action::Down {
            reason,
            will_retry_at_ns: Some(until_ns),
        });
    }

    fn fail(&mut self, reason: FailReason, out: &mut Vec<Action>) {
        self.close_all(out);
        self.state = State::Over;
        out.push(Action::Failed { reason });
    }

    /// Closes all queues, I/O queues first, and forgets what was under way.
    fn close_all(&mut self, out: &mut Vec<Action>) {
        for qid in (0..=self.config.io_queues).rev() {
            let queue = &mut self.queues[usize::from(qid)];
            if *queue != QueueState::Closed {
                *queue = QueueState::Closed;
                out.push(Action::CloseQueue { qid });
            }
        }
        self.pending = [None; ADMIN_CIDS_RESERVED as usize];
        self.resets.interrupt();
        if let Some(controller) = self.controller.take_if(|_| self.state == State::Live) {
            self.resets.remember(&controller);
        }
        self.controller = None;
        self.io_queues = 0;
        self.poll_at_ns = None;
        self.keep_alive_at_ns = None;
        self.scan = Scan::default();
        self.discover = Discover::default();
    }
}

/// Bytes of an Identify page and of the longest log page read here.
const PAGE_BYTES: u32 = 4096;
const _: () = assert!(PAGE_BYTES as usize == IDENTIFY_BYTES);

/// A step that must succeed.
fn succeeded(status: Status) -> Result<(), Trouble> {
    if status.is_success() {
        Ok(())
    } else {
        Err(DownReason::CommandFailed(status).into())
    }
}

/// The whole page that a command has read.
fn page(status: Status, data: &[u8]) -> Result<&Page, Trouble> {
    succeeded(status)?;
    data.first_chunk().ok_or(DownReason::ShortData.into())
}

/// The controller identifier that Connect returns.
///
/// Source: NVM Express Base Specification 2.0, figure 388 (Connect Response): CNTLID in bits 15:0, ASCR and ATR
/// in 18:17; before 2.0, authentication was asked for in bits 31:16.
fn connect_result(entry: CompletionEntry) -> Result<u16, Trouble> {
    if !entry.status.is_success() {
        return Err(if entry.status.is_do_not_retry() {
            FailReason::Refused(entry.status).into()
        } else {
            DownReason::CommandFailed(entry.status).into()
        });
    }
    let [low, high, authentication, ..] = entry.result.to_le_bytes();
    if authentication != 0 {
        return Err(FailReason::AuthenticationRequired.into());
    }
    Ok(u16::from_le_bytes([low, high]))
}

fn controller_status(entry: CompletionEntry) -> ControllerStatus {
    let [a, b, c, d, ..] = entry.result.to_le_bytes();
    ControllerStatus(u32::from_le_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests;
