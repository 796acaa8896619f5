//! The admin machine of one process: every association, its controller, discovery.
//!
//! It owns who is connected, what each controller is called, what it tells of itself and which events it
//! still has to tell. It runs on one core. It deliberately does not know how bytes travel, nor what an I/O
//! command does: accepted I/O queues are the runtime's, which hands only Fabrics commands of theirs to here.
//!
//! Invariants: a controller identifier and a queue identifier are free only when every connection that used
//! them is closed and drained ([`Event::Closed`]); each slot is completed exactly once unless its connection
//! is closed; everything is bounded.

mod admin;
mod connect;
mod controller;
mod discovery;
mod interface;
mod passing;
mod reservation;
mod reset;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::access::Access;
use crate::command::{Direction, Sgl, SubmissionEntry, admin_opcode};
use crate::fabrics::fctype;
use crate::identify::{ControllerKind, Transport};
use crate::log::{ErrorEntry, Health};
use crate::reservation::wire::is_reservation;
use crate::status::Status;

use connect::HeldConnect;
use controller::{Controller, Notice};

pub use interface::{
    Action, Association, CloseReason, Config, ConfigError, Event, HostAccess, NAMESPACES_MAX, Namespace,
    PORTS_MAX, Port, PortId, QueueId, Refusal, Report, ReservationAnswer, ReservationChange, ReservationPass,
    ResetOutcome, ResetWish,
};

/// Connections that may be waiting for their Connect at once, held ones included. With about 300 bytes each
/// that is 75 KiB; when there are more, the oldest makes way, so that a flood cannot lock hosts out.
pub const UNCONNECTED_MAX: usize = 256;

/// How long a connection may exist without an accepted Connect: 10 s, as initiators give their targets.
pub const CONNECT_TIMEOUT_NS: u64 = 10_000_000_000;

/// Entries that an admin queue may have (ASQSZ in the discovery log); Linux and SPDK ask for 32.
pub const ADMIN_ENTRIES_MAX: u16 = 128;

/// One transport connection.
#[derive(Debug)]
struct Queue {
    port: PortId,
    transport: Transport,
    local_address: String,
    accepted_ns: u64,
    state: QueueState,
}

/// What a connection is.
#[derive(Debug)]
enum QueueState {
    /// Waits for its Connect.
    AwaitingConnect,
    /// Its Connect waits until the queue that it replaces is closed.
    AwaitingRelease(Box<HeldConnect>),
    /// An admin queue.
    Admin { cntlid: u16 },
    /// An I/O queue.
    Io { cntlid: u16, qid: u16 },
    /// A queue that is being closed, still to be taken off its controller.
    Closing { cntlid: u16, qid: u16 },
}

/// How a command ended.
#[derive(Debug)]
struct Reply {
    result: u64,
    status: Status,
    data: Vec<u8>,
}

impl Reply {
    const fn success(result: u64) -> Self {
        Self {
            result,
            status: Status::SUCCESS,
            data: Vec::new(),
        }
    }

    const fn data(data: Vec<u8>) -> Self {
        Self {
            result: 0,
            status: Status::SUCCESS,
            data,
        }
    }

    const fn failure(status: Status) -> Self {
        Self {
            result: 0,
            status,
            data: Vec::new(),
        }
    }
}

/// Deterministic random numbers from the seed that the runtime drew (SplitMix64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The NVM subsystem and the discovery subsystem of one process.
#[derive(Debug)]
pub struct Subsystem {
    config: Config,
    namespaces: BTreeMap<u32, Namespace>,
    /// Changes of the asymmetric namespace access log, and which of them was the last of each namespace.
    access_changes: u64,
    access_changed: BTreeMap<u32, u64>,
    /// Registrants and reservations of each namespace.
    reservations: reservation::Reservations,
    queues: BTreeMap<QueueId, Queue>,
    /// Connections without an accepted Connect, oldest first.
    unconnected: BTreeSet<(u64, QueueId)>,
    controllers: BTreeMap<u16, Controller>,
    /// Where the search for a free controller identifier goes on, so that none is used again at once.
    cntlid_next: u16,
    /// GENCTR of the discovery log.
    generation: u64,
    random: Random,
    health: Health,
    abort_token: u32,
    /// Resets of controllers that hosts of other nodes wait for, and the number of the last one that another node was asked for.
    asked_resets: Vec<reset::AskedReset>,
    reset_number: u64,
    shutting_down: bool,
}

impl Subsystem {
    /// A subsystem without namespaces and hosts.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            cntlid_next: *config.cntlids.start(),
            random: Random(config.seed),
            config,
            namespaces: BTreeMap::new(),
            access_changes: 0,
            access_changed: BTreeMap::new(),
            reservations: reservation::Reservations::default(),
            queues: BTreeMap::new(),
            unconnected: BTreeSet::new(),
            controllers: BTreeMap::new(),
            generation: 1,
            health: Health::default(),
            abort_token: 0,
            asked_resets: Vec::new(),
            reset_number: 0,
            shutting_down: false,
        })
    }

    /// Registrants and reservation of a namespace, if there is one.
    pub fn reservation(&self, nsid: u32) -> Option<&crate::reservation::State> {
        self.reservations.state(nsid)
    }

    /// Registrants and reservation of a namespace as they are going to be once what is being enforced is.
    pub fn reservation_next(&self, nsid: u32) -> Option<&crate::reservation::State> {
        self.reservations.next(nsid)
    }

    /// Every association, in the order of their controller identifiers.
    pub fn associations(&self) -> impl Iterator<Item = Association<'_>> {
        self.controllers.values().map(|controller| Association {
            cntlid: controller.cntlid,
            kind: controller.kind,
            host: &controller.host,
            hostid: controller.hostid,
            io_queues: controller.io.len(),
            kato_ms: controller.features.kato_ms(),
        })
    }

    /// Advances everything by one event; what is to be done goes to `out`, in order.
    ///
    /// Panics if the runtime breaks its word: a connection opened twice, a namespace added twice or outside
    /// `1..=NAMESPACES_MAX`, more than [`PORTS_MAX`] ports.
    pub fn handle(&mut self, now_ns: u64, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Opened {
                queue,
                port,
                local_address,
                accepted_ns,
            } => {
                self.opened(accepted_ns, queue, port, local_address, out);
            }
            Event::Capsule {
                queue,
                slot,
                entry,
                data,
            } => {
                self.capsule(now_ns, Command { queue, slot, entry }, data, out);
            }
            Event::Closed { queue } => self.closed(now_ns, queue, out),
            Event::Aborted { token, aborted } => self.aborted(token, aborted, out),
            Event::IoFailed {
                queue,
                cid,
                status,
                nsid,
                slba,
            } => {
                self.io_failed(
                    queue,
                    ErrorEntry {
                        count: 0,
                        sqid: 0,
                        cid,
                        status,
                        lba: slba,
                        nsid,
                    },
                );
            }
            Event::NamespaceAdded(namespace) => self.namespace_added(namespace, out),
            Event::ReservationRestored { nsid, state } => self.restore_reservations(nsid, state, out),
            Event::ReservationEnforced { number } => self.reservation_enforced(number, out),
            Event::ReservationPersisted { number, succeeded } => {
                self.reservation_kept(number, succeeded, out);
            }
            Event::ReservationAnswered(answer) => self.reservation_answered(answer, out),
            Event::ReservationChanged(change) => self.reservation_changed(change, out),
            Event::NamespaceRemoved { nsid } => self.namespace_removed(nsid, out),
            Event::NamespaceResized { nsid, blocks } => {
                if let Some(namespace) = self.namespaces.get_mut(&nsid)
                    && namespace.format.blocks != blocks
                {
                    namespace.format.blocks = blocks;
                    self.namespace_changed(nsid, out);
                }
            }
            Event::AccessChanged { nsid, access } => self.access_changed(nsid, access, out),
            Event::AccessRenewed => self.access_renewed(out),
            Event::PortsChanged(ports) => self.ports_changed(ports, out),
            Event::ResetElsewhere { number, outcome } => self.reset_elsewhere_ended(number, outcome, out),
            Event::ResetAsked { number, wish } => self.reset_asked(number, wish, out),
            Event::HostsChanged(allow) => self.hosts_changed(allow, out),
            Event::Health(health) => self.health_changed(health, out),
            Event::Tick => self.tick(now_ns, out),
            Event::Shutdown => self.shut_down(out),
        }
    }

    fn opened(
        &mut self,
        accepted_ns: u64,
        id: QueueId,
        port: PortId,
        local_address: &str,
        out: &mut Vec<Action>,
    ) {
        assert!(!self.queues.contains_key(&id), "a connection is opened once");
        let port = self.config.ports.iter().find(|known| known.id == port);
        let reason = if self.shutting_down {
            CloseReason::Shutdown
        } else {
            CloseReason::UnknownPort
        };
        let Some(port) = port.filter(|_| !self.shutting_down) else {
            out.push(Action::Close { queue: id, reason });
            return;
        };
        let queue = Queue {
            port: port.id,
            transport: port.transport,
            local_address: local_address.to_owned(),
            accepted_ns,
            state: QueueState::AwaitingConnect,
        };
        self.queues.insert(id, queue);
        self.unconnected.insert((accepted_ns, id));
        if self.unconnected.len() > UNCONNECTED_MAX
            && let Some((_, oldest)) = self.unconnected.pop_first()
        {
            self.drop_unconnected(oldest, CloseReason::TooManyUnconnected, out);
        }
        assert!(
            self.unconnected.len() <= UNCONNECTED_MAX,
            "waiting connections are bounded"
        );
    }

    /// Closes a connection that never became a queue and forgets it: nothing has to wait for it.
    fn drop_unconnected(&mut self, id: QueueId, reason: CloseReason, out: &mut Vec<Action>) {
        self.queues.remove(&id).expect("waiting connections are known");
        out.push(Action::Report(Report::Unconnected { queue: id, reason }));
        out.push(Action::Close { queue: id, reason });
    }

    fn capsule(&mut self, now_ns: u64, command: Command, data: &[u8], out: &mut Vec<Action>) {
        // A connection that we asked to close may still deliver; its commands are never completed.
        let Some(queue) = self.queues.get(&command.queue) else {
            return;
        };
        let is_connect = command.fctype() == Some(fctype::CONNECT);
        match queue.state {
            QueueState::AwaitingConnect if is_connect => self.connect(now_ns, command, data, out),
            QueueState::AwaitingConnect => {
                command.complete(Reply::failure(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()), out);
            }
            QueueState::AwaitingRelease(_) | QueueState::Admin { .. } | QueueState::Io { .. }
                if is_connect =>
            {
                connect::refuse(&command, None, Refusal::SecondConnect, out);
            }
            QueueState::AwaitingRelease(_) => {
                command.complete(Reply::failure(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()), out);
            }
            QueueState::Admin { cntlid } => self.admin_command(now_ns, cntlid, command, data, out),
            QueueState::Io { cntlid, .. } if is_reservation(command.entry.opcode()) => {
                self.reservation_command(cntlid, command, data, out);
            }
            // Properties and everything else with the Fabrics opcode belong to the admin queue.
            QueueState::Io { .. } => {
                command.complete(Reply::failure(Status::INVALID_OPCODE.do_not_retry()), out);
            }
            QueueState::Closing { .. } => {}
        }
    }

    fn closed(&mut self, now_ns: u64, id: QueueId, out: &mut Vec<Action>) {
        let Some(queue) = self.queues.remove(&id) else {
            return;
        };
        match queue.state {
            QueueState::AwaitingConnect | QueueState::AwaitingRelease(_) => {
                let waited = self.unconnected.remove(&(queue.accepted_ns, id));
                assert!(waited, "a connection without a Connect is listed as such");
            }
            QueueState::Admin { cntlid } | QueueState::Closing { cntlid, qid: 0 } => {
                self.reservations.withdraw(id);
                self.controller_mut(cntlid).admin = None;
                self.terminate(cntlid, CloseReason::AdminQueueGone, out);
                self.forget_if_gone(cntlid, out);
            }
            QueueState::Io { cntlid, qid } | QueueState::Closing { cntlid, qid } => {
                self.reservations.withdraw(id);
                self.controller_mut(cntlid).queue_closed(qid);
                self.finish_aborts(cntlid, id, out);
                self.forget_if_gone(cntlid, out);
                self.retry_held(now_ns, out);
            }
        }
    }

    fn controller(&self, cntlid: u16) -> &Controller {
        self.controllers
            .get(&cntlid)
            .expect("a controller outlives its queues")
    }

    fn controller_mut(&mut self, cntlid: u16) -> &mut Controller {
        self.controllers
            .get_mut(&cntlid)
            .expect("a controller outlives its queues")
    }

    /// Asks the runtime to close one queue; until it is closed, its identifiers stay taken.
    fn close_queue(&mut self, id: QueueId, reason: CloseReason, out: &mut Vec<Action>) {
        let queue = self.queues.get_mut(&id).expect("a controller's queues are known");
        let (cntlid, qid) = match queue.state {
            QueueState::Admin { cntlid } => (cntlid, 0),
            QueueState::Io { cntlid, qid } => (cntlid, qid),
            QueueState::Closing { .. } => return,
            QueueState::AwaitingConnect | QueueState::AwaitingRelease(_) => {
                unreachable!("a controller's queues are connected")
            }
        };
        queue.state = QueueState::Closing { cntlid, qid };
        out.push(Action::Close { queue: id, reason });
    }

    fn close_io_queues(&mut self, cntlid: u16, reason: CloseReason, out: &mut Vec<Action>) {
        let queues: Vec<QueueId> = self.controller(cntlid).io.values().copied().collect();
        for id in queues {
            self.close_queue(id, reason, out);
        }
    }

    /// Ends an association: every queue of it is closed.
    fn terminate(&mut self, cntlid: u16, reason: CloseReason, out: &mut Vec<Action>) {
        self.close_io_queues(cntlid, reason, out);
        if let Some(admin) = self.controller(cntlid).admin {
            self.close_queue(admin, reason, out);
        }
        self.controller_mut(cntlid).terminated = true;
    }

    /// Frees the controller identifier when the last connection is closed.
    fn forget_if_gone(&mut self, cntlid: u16, out: &mut Vec<Action>) {
        let controller = self.controller(cntlid);
        if controller.admin.is_none() && controller.io.is_empty() {
            let controller = self.controllers.remove(&cntlid).expect("it was just there");
            assert!(controller.terminated, "an association ends with its admin queue");
            self.reset_drained(cntlid, out);
            out.push(Action::Report(Report::Disconnected {
                cntlid,
                host: controller.host,
            }));
        }
    }

    fn io_failed(&mut self, queue: QueueId, mut entry: ErrorEntry) {
        if let Some(Queue {
            state: QueueState::Io { cntlid, qid } | QueueState::Closing { cntlid, qid },
            ..
        }) = self.queues.get(&queue)
        {
            entry.sqid = *qid;
            let cntlid = *cntlid;
            self.controller_mut(cntlid).errors.push(entry);
        }
    }

    fn namespace_added(&mut self, namespace: Namespace, out: &mut Vec<Action>) {
        assert!(
            (1..=NAMESPACES_MAX).contains(&namespace.nsid),
            "an NSID within NN"
        );
        let before = self.namespaces.insert(namespace.nsid, namespace);
        assert!(before.is_none(), "a namespace is added once");
        self.access_changes += 1;
        self.access_changed.insert(namespace.nsid, self.access_changes);
        self.add_reservations(&namespace, out);
        self.namespace_changed(namespace.nsid, out);
    }

    fn namespace_removed(&mut self, nsid: u32, out: &mut Vec<Action>) {
        if self.namespaces.remove(&nsid).is_some() {
            self.access_changes += 1;
            self.access_changed.remove(&nsid);
            self.end_reservations(nsid, out);
            self.namespace_changed(nsid, out);
        }
    }

    /// A namespace has got a port here, or lost it. Its identity and its size stay what they are; only hosts' paths to it differ.
    fn access_changed(&mut self, nsid: u32, access: Access, out: &mut Vec<Action>) {
        let namespace = self.namespaces.get_mut(&nsid);
        if let Some(namespace) = namespace.filter(|namespace| namespace.access != access) {
            namespace.access = access;
            self.access_changes += 1;
            self.access_changed.insert(nsid, self.access_changes);
            self.raise(ControllerKind::Io, Notice::Access);
            self.tell_notices(out);
        }
    }

    /// Hosts look at all of their paths once more (PROTOCOL H44).
    fn access_renewed(&mut self, out: &mut Vec<Action>) {
        self.access_changes += 1;
        self.raise(ControllerKind::Io, Notice::Access);
        self.tell_notices(out);
    }

    fn namespace_changed(&mut self, nsid: u32, out: &mut Vec<Action>) {
        for controller in self.controllers.values_mut() {
            controller.namespace_changed(nsid);
        }
        self.tell_notices(out);
    }

    fn health_changed(&mut self, health: Health, out: &mut Vec<Action>) {
        let new = health.critical_warning & !self.health.critical_warning;
        self.health = health;
        let notices = [
            (1, Notice::Spare),
            (2, Notice::Temperature),
            (0x1c, Notice::Reliability),
        ];
        for (bits, notice) in notices {
            if new & bits != 0 {
                self.raise(ControllerKind::Io, notice);
            }
        }
        self.tell_notices(out);
    }

    fn raise(&mut self, kind: ControllerKind, notice: Notice) {
        for controller in self
            .controllers
            .values_mut()
            .filter(|controller| controller.kind == kind)
        {
            controller.raise(notice);
        }
    }

    /// Answers outstanding Asynchronous Event Requests as far as there is something to tell.
    fn tell_notices(&mut self, out: &mut Vec<Action>) {
        for controller in self.controllers.values_mut() {
            tell(controller, out);
        }
    }

    fn ports_changed(&mut self, ports: Vec<Port>, out: &mut Vec<Action>) {
        assert!(ports.len() <= PORTS_MAX, "the runtime checks the number of ports");
        if ports != self.config.ports {
            self.config.ports = ports;
            self.discovery_changed(out);
        }
    }

    fn hosts_changed(&mut self, allow: HostAccess, out: &mut Vec<Action>) {
        if allow == self.config.allow {
            return;
        }
        self.config.allow = allow;
        let revoked: Vec<(u16, crate::nqn::Nqn)> = self
            .controllers
            .values()
            .filter(|controller| controller.kind == ControllerKind::Io && !controller.terminated)
            .filter(|controller| !self.config.allow.allows(&controller.host))
            .map(|controller| (controller.cntlid, controller.host.clone()))
            .collect();
        for (cntlid, host) in revoked {
            out.push(Action::Report(Report::HostRevoked { cntlid, host }));
            self.terminate(cntlid, CloseReason::HostRevoked, out);
        }
        self.discovery_changed(out);
    }

    /// The discovery log is another one: its generation moves once, and its readers hear of it.
    fn discovery_changed(&mut self, out: &mut Vec<Action>) {
        self.generation += 1;
        self.raise(ControllerKind::Discovery, Notice::Discovery);
        self.tell_notices(out);
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.retry_held(now_ns, out);
        while let Some(&(accepted_ns, id)) = self.unconnected.first() {
            if now_ns.saturating_sub(accepted_ns) < CONNECT_TIMEOUT_NS {
                break;
            }
            self.unconnected.pop_first();
            self.drop_unconnected(id, CloseReason::ConnectTimeout, out);
        }
        let silent: Vec<(u16, crate::nqn::Nqn)> = self
            .controllers
            .values()
            .filter(|controller| !controller.terminated && controller.is_silent(now_ns))
            .map(|controller| (controller.cntlid, controller.host.clone()))
            .collect();
        for (cntlid, host) in silent {
            out.push(Action::Report(Report::KeepAliveExpired { cntlid, host }));
            self.terminate(cntlid, CloseReason::KeepAliveExpired, out);
        }
    }

    fn shut_down(&mut self, out: &mut Vec<Action>) {
        self.shutting_down = true;
        while let Some((_, id)) = self.unconnected.pop_first() {
            self.drop_unconnected(id, CloseReason::Shutdown, out);
        }
        let cntlids: Vec<u16> = self.controllers.keys().copied().collect();
        for cntlid in cntlids {
            self.terminate(cntlid, CloseReason::Shutdown, out);
        }
    }
}

/// Answers the Asynchronous Event Requests of one controller as far as there is something to tell.
fn tell(controller: &mut Controller, out: &mut Vec<Action>) {
    if controller.terminated {
        return;
    }
    let Some(queue) = controller.admin else { return };
    while let Some((slot, result)) = controller.next_notice() {
        out.push(Action::Complete {
            queue,
            slot,
            result,
            status: Status::SUCCESS,
            data: Vec::new(),
        });
    }
}

/// A command on its way through the machine.
#[derive(Clone, Copy, Debug)]
struct Command {
    queue: QueueId,
    slot: u16,
    entry: SubmissionEntry,
}

impl Command {
    /// The Fabrics command type, if it is a Fabrics command.
    fn fctype(&self) -> Option<u8> {
        (self.entry.opcode() == admin_opcode::FABRICS).then(|| self.entry.fctype())
    }

    /// Bytes that the data pointer asks for.
    fn data_bytes(&self) -> u32 {
        match self.entry.sgl() {
            Sgl::InCapsule { length_bytes, .. }
            | Sgl::Transport { length_bytes }
            | Sgl::Keyed { length_bytes, .. } => length_bytes,
            Sgl::Other { .. } => 0,
        }
    }

    /// Completes the command. Initiators take a short read for an error, so data for the host is cut or
    /// filled up to exactly what its data pointer asks for, which the caller has checked to be small.
    fn complete(&self, mut reply: Reply, out: &mut Vec<Action>) {
        if reply.status.is_success() && self.entry.direction() == Direction::ToHost {
            let bytes = usize::try_from(self.data_bytes()).expect("a checked length");
            reply.data.resize(bytes, 0);
        } else {
            reply.data.clear();
        }
        out.push(Action::Complete {
            queue: self.queue,
            slot: self.slot,
            result: reply.result,
            status: reply.status,
            data: reply.data,
        });
    }
}
