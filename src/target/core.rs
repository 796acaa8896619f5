//! One core of a node: its connections, its engines, its share of the drives, run to completion.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nvme::reservation::Guard;
use nvme::status::Status;
use nvme::subsystem::QueueId;
use nvme::tcp::target::{self, Limits, Outbox, Slot, Success};
use reactor::{CoreIndex, Errno, Io, Nanos, Progress, Received, SendBatch, Span, Token};

use super::array::{GroupBinding, drive_error};
use super::command::Commands;
use super::command_log::CommandLog;
use super::connection::{CommandState, Connection, Life, Role};
use super::control::Control;
use super::drives::{AwakeClock, DelayedIo, DriveBinding, DriveReport, DriveSpec, Flights, HungDrives};
use super::fabric::Fabric;
use super::message::{Accept, Arrival, ControlMessage, Message, Traffic};
use super::namespaces::Namespaces;
use super::observe::{Latencies, Stage};
use super::share::Lease;
use super::sums::Sums;
use crate::amf::MemberIndex;
use crate::amf::engine::GroupError;
use crate::amf::group::SuperblockIo;
use crate::drive::DriveError;

/// The core where the control machines live.
pub const CONTROL_CORE: CoreIndex = CoreIndex(0);
/// Most connections of one core: the index takes 12 bits of a `QueueId`.
pub const CONNECTIONS_MAX: usize = 4095;
/// Most bytes kept of a connection whose parser waits for a buffer; what a host may send beyond them before the
/// receive stops is bounded by the core's receive buffers.
const BACKLOG_KEEP_BYTES: usize = 256 * 1024;
/// Largest piece of zeroes that the runtime lends to engines: the largest strip.
pub const ZEROES_BYTES: u32 = 1 << 20;

/// How long a connection that ends may take to send what was composed for it.
const CLOSE_WAIT_NS: Nanos = 1_000_000_000;
/// How often what is not urgent is done.
pub const TICK_NS: Nanos = 100_000_000;

/// What a token of the reactor is about: its top byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A listener; the payload is its index.
    Accept = 1,
    /// A connection; the payload is its `QueueId`.
    Connection = 2,
    /// An engine's drive command; the payload is group and `IoTag`.
    Drive = 3,
    /// A superblock write of the control core.
    Superblock = 4,
    /// The control core's tick.
    Tick = 5,
    /// An engine's zeroing of a file; the payload is group and `IoTag`.
    Zero = 6,
    /// The next row of a group's background work is due; the payload is the group.
    Background = 7,
    /// Reservations on their way to a drive of a shelf; the payload names the write.
    Reservation = 8,
    /// A connection to a shelf; the payload is its place and its epoch.
    Fabric = 9,
    /// A connection to another node, or what its port waits for; the payload is the port's.
    Link = 10,
    /// The locks of shared groups want to be looked at.
    Locks = 11,
}

/// Composes a token.
pub fn token(kind: TokenKind, payload: u64) -> Token {
    assert!(payload >> 56 == 0, "the top byte is the kind");
    Token((kind as u64) << 56 | payload)
}

/// Takes a token apart; `None` for a kind that nobody gave out.
pub fn untoken(token: Token) -> Option<(TokenKind, u64)> {
    let kind = match token.0 >> 56 {
        1 => TokenKind::Accept,
        2 => TokenKind::Connection,
        3 => TokenKind::Drive,
        4 => TokenKind::Superblock,
        5 => TokenKind::Tick,
        6 => TokenKind::Zero,
        7 => TokenKind::Background,
        8 => TokenKind::Reservation,
        9 => TokenKind::Fabric,
        10 => TokenKind::Link,
        11 => TokenKind::Locks,
        _ => return None,
    };
    Some((kind, token.0 & 0x00ff_ffff_ffff_ffff))
}

/// Limits of this core's connections, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct TransportLimits {
    /// Limits of the protocol machine.
    pub machine: Limits,
    /// When C2HData may stand for the response capsule.
    pub success: Success,
}

/// One core of a node.
pub struct Core {
    pub(super) index: CoreIndex,
    /// The control machines, on core 0 only.
    pub(super) control: Option<Box<Control>>,
    pub(super) limits: TransportLimits,
    pub(super) connections: Connections,
    pub(super) commands: Commands,
    pub(super) groups: Vec<GroupBinding>,
    pub(super) drive_specs: Arc<Vec<DriveSpec>>,
    pub(super) drives: Vec<DriveBinding>,
    pub(super) delayed: DelayedIo,
    /// Drive commands that are under way.
    pub(super) flights: Flights,
    /// Members of groups that get another drive when the old one owes no answer any more.
    pub(super) moving: Vec<(u16, MemberIndex, u16)>,
    /// Those of them that wait for a drive which hangs on an operator's word.
    pub(super) parked: u32,
    /// By which it is told how long drives have not answered.
    pub(super) awake: AwakeClock,
    /// Drives that do not answer.
    pub(super) hung: HungDrives,
    /// Times that a file's I/O error is tried again.
    pub(super) io_retries: u8,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) outbox: Outbox,
    /// Connections with something to send at the end of this turn.
    dirty: Vec<u16>,
    /// Commands that wait for a buffer, first come first served.
    pub(super) awaiting_buffer: VecDeque<(QueueId, Slot)>,
    /// Messages to each core that found its mailbox full, and those to this core itself; their number is bounded
    /// by the commands in flight.
    overflow: Vec<VecDeque<Message>>,
    pub(super) zeroes: Option<Span>,
    /// Buffers that a send is through with; kept for its memory.
    sent_spans: Vec<Span>,
    spare_scratch_bytes: u32,
    /// Scratch memory for a group that is made while the core runs.
    pub(super) spare_scratch: Option<Span>,
    spare_ring_bytes: u32,
    /// Memory for the journal of that group.
    pub(super) spare_ring: Option<Span>,
    pub(super) latencies: Latencies,
    pub(super) traffic: Traffic,
    /// What was counted of each drive since the last tick.
    pub(super) drive_reports: Vec<DriveReport>,
    /// Questions after namespaces of which nothing begins any more and something is still in flight here.
    draining: Vec<(u64, u32)>,
    /// What engines want computed, on its way to a kernel.
    pub(super) sums: Sums,
    /// Failed commands that were reported to the error log since the last tick.
    pub(super) failures: u32,
    /// Who may do what with namespaces that are reserved.
    pub(super) guard: Guard,
    /// Its connections to shelves, if the node has drives there.
    pub(super) fabric: Option<Box<Fabric>>,
    /// Where it is noted what begins and ends, if anybody wants to know.
    pub(super) command_log: Option<CommandLog>,
    /// Until when hosts may be answered, if the node shares its groups.
    pub(super) lease: Option<Arc<Lease>>,
    /// Requests of hosts that are done and were not said to be, for want of a lease.
    pub(super) withheld: Vec<(QueueId, Slot, Result<(), GroupError>)>,
    /// When its last turn began.
    pub(super) turned_at: Nanos,
}

/// The connections of a core, by index, with a generation that tells late events of an old one apart.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Box<Connection>>>,
    generations: Vec<u16>,
    free: Vec<u16>,
}

impl Connections {
    /// Names a new connection, unless the core has as many as it may.
    pub fn reserve(&mut self, core: CoreIndex) -> Option<QueueId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < CONNECTIONS_MAX => {
                self.slots.push(None);
                self.generations.push(0);
                u16::try_from(self.slots.len() - 1).expect("CONNECTIONS_MAX fits 12 bits")
            }
            None => return None,
        };
        let generation = &mut self.generations[usize::from(index)];
        *generation = (*generation + 1) & 0xfff;
        Some(QueueId(
            u32::from(core.0) << 24 | u32::from(index) << 12 | u32::from(*generation),
        ))
    }

    /// Places a connection under the name that was reserved for it.
    pub fn insert(&mut self, connection: Connection) {
        let index = usize::from(queue_index(connection.queue));
        assert!(self.slots[index].is_none(), "a reserved place is empty");
        self.slots[index] = Some(Box::new(connection));
    }

    /// Gives a name back without a connection.
    pub fn release(&mut self, queue: QueueId) -> Option<Box<Connection>> {
        let index = queue_index(queue);
        self.free.push(index);
        self.slots[usize::from(index)].take()
    }

    /// The connection of this name, if it still is the same one.
    pub fn find(&mut self, queue: QueueId) -> Option<&mut Connection> {
        self.at(queue_index(queue))
            .filter(|connection| connection.queue == queue)
    }

    /// The connection in this place.
    pub fn at(&mut self, index: u16) -> Option<&mut Connection> {
        self.slots.get_mut(usize::from(index))?.as_deref_mut()
    }

    /// All connections.
    pub fn iter(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().flatten().map(Box::as_mut)
    }
}

/// The core that a queue belongs to.
pub fn queue_core(queue: QueueId) -> CoreIndex {
    CoreIndex(u16::try_from(queue.0 >> 24).expect("8 bits"))
}

/// The place of a queue on its core.
pub fn queue_index(queue: QueueId) -> u16 {
    u16::try_from(queue.0 >> 12 & 0xfff).expect("12 bits")
}

impl Core {
    /// Makes the core that runs on the calling thread.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a part that is made before the core is"
    )]
    pub fn new(
        index: CoreIndex,
        limits: TransportLimits,
        drive_specs: Arc<Vec<DriveSpec>>,
        (spare_scratch_bytes, spare_ring_bytes): (u32, u32),
        io_retries: u8,
        control: Option<Box<Control>>,
        fabric: Option<Box<Fabric>>,
        command_log: Option<CommandLog>,
        lease: Option<Arc<Lease>>,
    ) -> Self {
        let drives = drive_specs.len();
        Self {
            index,
            control,
            limits,
            connections: Connections::default(),
            commands: Commands::default(),
            groups: Vec::new(),
            flights: Flights::new(drives),
            moving: Vec::new(),
            parked: 0,
            awake: AwakeClock::default(),
            hung: HungDrives::new(drives),
            io_retries,
            drive_specs,
            drives: Vec::new(),
            delayed: DelayedIo::default(),
            namespaces: Arc::default(),
            outbox: Outbox::default(),
            dirty: Vec::new(),
            awaiting_buffer: VecDeque::new(),
            overflow: Vec::new(),
            zeroes: None,
            sent_spans: Vec::new(),
            spare_scratch_bytes,
            spare_scratch: None,
            spare_ring_bytes,
            spare_ring: None,
            latencies: Latencies::default(),
            traffic: Traffic::default(),
            drive_reports: vec![DriveReport::default(); drives],
            draining: Vec::new(),
            sums: Sums::default(),
            failures: 0,
            fabric,
            guard: Guard::default(),
            command_log,
            lease,
            withheld: Vec::new(),
            turned_at: 0,
        }
    }

    /// Sends a message to a core, this one included. Messages to one core arrive in order.
    pub(super) fn tell(&mut self, io: &mut Io<Message>, core: CoreIndex, message: Message) {
        let held = &mut self.overflow[core.index()];
        // To itself by way of the queue, not by a call: the caller may hold a connection half-way.
        if core == self.index || !held.is_empty() {
            held.push_back(message);
        } else if let Err(message) = io.post(core, message) {
            held.push_back(message);
        }
    }

    /// Sends a message to the control core.
    pub(super) fn tell_control(&mut self, io: &mut Io<Message>, message: ControlMessage) {
        self.tell(io, CONTROL_CORE, Message::ToControl(message));
    }

    /// Notes that a connection has something to send at the end of the turn.
    pub(super) fn mark_dirty(&mut self, index: u16) {
        if let Some(connection) = self.connections.at(index).filter(|connection| !connection.dirty) {
            connection.dirty = true;
            self.dirty.push(index);
        }
    }

    /// Delivers messages that a full mailbox held back, and those to this core itself. True if it did anything.
    fn deliver_overflow(&mut self, io: &mut Io<Message>) -> bool {
        let mut moved = false;
        for at in 0..self.overflow.len() {
            let core = CoreIndex(u16::try_from(at).expect("there are at most 16 cores"));
            for _ in 0..self.overflow[at].len() {
                let Some(message) = self.overflow[at].pop_front() else {
                    break;
                };
                if core == self.index {
                    self.handle_message(io, message);
                } else if let Err(message) = io.post(core, message) {
                    self.overflow[at].push_front(message);
                    break;
                }
                moved = true;
            }
        }
        moved
    }

    fn has_overflow(&self) -> bool {
        self.overflow.iter().any(|held| !held.is_empty())
    }

    /// Sends everything that this turn produced: one send a connection.
    fn flush(&mut self, io: &mut Io<Message>) {
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop() else { break };
            let Some(connection) = self.connections.at(index) else {
                continue;
            };
            connection.dirty = false;
            if connection.can_send() {
                let (socket, queue) = (connection.socket, connection.queue);
                connection.sent_at = io.now();
                let batch = connection.take_batch();
                io.send(socket, token(TokenKind::Connection, u64::from(queue.0)), batch);
            }
        }
    }

    /// Takes a socket as a connection of this core.
    fn adopt(&mut self, io: &mut Io<Message>, socket: OwnedFd, arrival: Arrival, local: SocketAddr) {
        let peer = arrival.peer;
        let Some(queue) = self.connections.reserve(self.index) else {
            tracing::warn!(%peer, connections = CONNECTIONS_MAX, "connection refused: this core serves its maximum");
            return self.tell_control(io, ControlMessage::NotAdopted { core: self.index });
        };
        let Ok(socket) = io.add_socket(socket) else {
            self.connections.release(queue);
            tracing::warn!(%peer, "connection refused: this core has as many sockets as it may");
            return self.tell_control(io, ControlMessage::NotAdopted { core: self.index });
        };
        let machine = target::Connection::new(self.limits.machine, super::crc32c);
        let slots = self.limits.machine.slots_max;
        self.connections
            .insert(Connection::new(queue, socket, peer, machine, slots));
        io.receive(socket, token(TokenKind::Connection, u64::from(queue.0)));
        self.tell_control(
            io,
            ControlMessage::Opened {
                queue,
                arrival,
                local,
            },
        );
    }

    /// Carries out one message.
    #[expect(clippy::too_many_lines, reason = "one arm for each kind of message")]
    fn handle_message(&mut self, io: &mut Io<Message>, message: Message) {
        match message {
            Message::Adopt { socket, arrival } => match super::sockets::local_address(&socket) {
                Ok(local) => self.adopt(io, socket, arrival, local),
                Err(error) => {
                    tracing::debug!(peer = %arrival.peer, %error, "connection was gone before it was taken over");
                    self.tell_control(io, ControlMessage::NotAdopted { core: self.index });
                }
            },
            Message::Accept(accept) => self.accept_queue(accept),
            Message::Complete {
                queue,
                slot,
                result,
                status,
                data,
            } => {
                self.complete_control(queue, Slot(slot), result, status, &data);
            }
            Message::Close { queue } => self.begin_close(io, queue),
            Message::Abort { queue, cid, token } => {
                let aborted = self.abort_command(io, queue, cid);
                self.tell_control(io, ControlMessage::Aborted { token, aborted });
            }
            Message::AddGroup(shared, members) => self.add_group(io, shared, members),
            Message::Members { group, set } => self.set_members(io, group, set),
            Message::Served { group, is_served } => self.set_served(io, group, is_served),
            Message::MemberDrive { group, member, drive } => self.set_member_drive(io, group, member, drive),
            Message::HoldRows { group, rows, wave } => self.hold_rows(io, group, rows, wave),
            Message::SetLayout { group, layout } => self.set_layout(io, group, layout),
            Message::Wake { group, row } => self.wake_row(io, group, row),
            Message::Recall { group, row } => self.recall_row(io, group, row),
            Message::Hand { group, row, hand } => self.hand(io, group, row, &hand),
            Message::KeepCopies {
                group,
                keeping,
                epoch,
            } => self.keep_copies(io, group, keeping, epoch),
            Message::Sent { group, batch } => self.copy_sent(io, group, batch),
            Message::Kept { group, batch } => self.copy_kept(io, group, batch),
            Message::Hurry { group, lane, below } => self.hurry_lane(io, group, lane, below),
            Message::TailMoved { group } => self.tail_moved(io, group),
            Message::AllowRam { group, allowed } => self.allow_ram(io, group, allowed),
            Message::IntentDurable { group } => self.intent_durable(io, group),
            Message::LostDurable { group } => self.lost_durable(io, group),
            Message::DrainGroup { group } => self.drain_group(io, group),
            Message::RetireGroup { group } => self.retire_group(io, group),
            Message::Commit { group, lane, flush } => self.commit_lane(io, group, lane, flush),
            Message::Committed { group, flush } => self.lane_committed(io, group, flush),
            Message::Namespaces(namespaces) => self.namespaces = namespaces,
            Message::SayNamespacesKnown { group } => {
                self.tell_control(io, ControlMessage::NamespacesKnown { group });
            }
            Message::Observe(call) => {
                let counts = (
                    self.read_cache_counts(),
                    self.hand_over_counts(),
                    self.reduced_copies(),
                );
                call.answer(self.index, &self.latencies, counts, io);
            }
            Message::ToControl(message) => {
                self.with_control(io, |control, core, io| control.core_says(core, io, message))
            }
            Message::Manage(call) => {
                self.with_control(io, |control, core, io| control.manage(core, io, call))
            }
            Message::DrainNamespace {
                number,
                nsid,
                is_gone,
            } => {
                if is_gone {
                    self.end_waiting(io, nsid);
                }
                self.draining.push((number, nsid));
                self.report_drained(io);
            }
            Message::EnforceReservation(order) => self.enforce_reservation(io, order),
            Message::Hung { drive, hung } => self.set_hung(io, drive, hung),
            Message::Fabric(order) => self.fabric_order(io, order),
            Message::DriveRefused { payload, error } => self.drive_done(io, payload, Err(error)),
            Message::Pump { group } => self.pump(io, group),
            Message::ResumeParsing { queue } => self.resume_parsing(io, queue),
            Message::CountNow { request } => self.count_now(io, request),
            Message::SuperblockWritten {
                group,
                io: name,
                result,
            } => {
                self.with_control(io, |control, core, io| {
                    control.superblock_written(core, io, group, name, result)
                });
            }
            Message::Notes(notes) => self.with_control(io, |control, _, _| control.add_notes(notes)),
            Message::Share(order) => {
                self.with_control(io, |control, core, io| control.share_order(core, io, order));
            }
            Message::Stop => self.with_control(io, |control, core, io| control.begin_stop(core, io)),
        }
    }

    /// Tells the control core everything that was counted here, and then that this was all.
    fn count_now(&mut self, io: &mut Io<Message>, request: u64) {
        self.report_counts(io);
        self.tell_control(io, ControlMessage::Counted { request });
    }

    /// Runs `act` with the control machines taken out of the core, so that they can use the rest of it.
    pub(super) fn with_control(
        &mut self,
        io: &mut Io<Message>,
        act: impl FnOnce(&mut Control, &mut Core, &mut Io<Message>),
    ) {
        let mut control = self
            .control
            .take()
            .expect("control messages are sent to the control core only");
        act(&mut control, self, io);
        self.control = Some(control);
    }

    fn accept_queue(&mut self, accept: Accept) {
        let success = self.limits.success;
        let Some(connection) = self.connections.find(accept.queue) else {
            return;
        };
        connection.write_through = accept.write_through;
        connection.host = accept.life;
        connection.role = if accept.qid == 0 { Role::Admin } else { Role::Io };
        connection.machine.set_queue(target::Queue {
            entries: accept.entries,
            flow_control: accept.flow_control,
            admin: accept.qid == 0,
            success,
        });
    }

    /// Ends the connection: nothing more is executed, what runs is drained.
    pub(super) fn begin_close(&mut self, io: &mut Io<Message>, queue: QueueId) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if connection.life != Life::Open {
            return;
        }
        connection.life = Life::Draining;
        connection.closing_since = io.now();
        connection.backlog = Vec::new();
        io.pause_receive(connection.socket);
        self.abandon_commands(io, queue);
        self.continue_close(io, queue);
    }

    /// Takes the next step of a close, if what it waits for is done.
    pub(super) fn continue_close(&mut self, io: &mut Io<Message>, queue: QueueId) {
        let index = queue_index(queue);
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if connection.life != Life::Draining || connection.running > 0 {
            return;
        }
        if connection.is_sending() {
            self.mark_dirty(index);
            return;
        }
        connection.life = Life::Leaving;
        io.remove_socket(
            connection.socket,
            token(TokenKind::Connection, u64::from(queue.0)),
        );
    }

    /// Ends the commands of a removed namespace that no engine has yet.
    fn end_waiting(&mut self, io: &mut Io<Message>, nsid: u32) {
        let queues: Vec<QueueId> = self
            .connections
            .iter()
            .map(|connection| connection.queue)
            .collect();
        for queue in queues {
            for slot in (0..self.limits.machine.slots_max).map(Slot) {
                let Some(connection) = self.connections.find(queue) else {
                    break;
                };
                let command = connection.command(slot);
                let waits = matches!(
                    command.state,
                    CommandState::AwaitingBuffer | CommandState::AwaitingData | CommandState::AwaitingPartner
                );
                if waits && command.request.is_some() && command.entry.nsid() == nsid {
                    self.end_pair(
                        io,
                        queue,
                        slot,
                        Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry(),
                    );
                }
            }
        }
    }

    /// Tells the control core of which namespaces nothing is in flight here any more.
    fn report_drained(&mut self, io: &mut Io<Message>) {
        for (number, nsid) in std::mem::take(&mut self.draining) {
            if self.connections.iter().any(|connection| connection.uses(nsid)) {
                self.draining.push((number, nsid));
            } else {
                self.tell_control(io, ControlMessage::Drained { number });
            }
        }
    }

    /// Ends connections whose hosts do not take what was composed for them before their end.
    fn cut_slow_closes(&mut self, io: &mut Io<Message>) {
        let now = io.now();
        for connection in self.connections.iter() {
            let over = now > connection.closing_since + CLOSE_WAIT_NS;
            if connection.life == Life::Draining && connection.running == 0 && over {
                connection.life = Life::Leaving;
                io.remove_socket(
                    connection.socket,
                    token(TokenKind::Connection, u64::from(connection.queue.0)),
                );
            }
        }
    }

    /// Answers a superblock write that did not go through the ring.
    pub(super) fn tell_superblock(
        &mut self,
        io: &mut Io<Message>,
        group: u16,
        name: SuperblockIo,
        result: Result<(), DriveError>,
    ) {
        self.tell(
            io,
            self.index,
            Message::SuperblockWritten {
                group,
                io: name,
                result,
            },
        );
    }

    /// Tells the control core what was counted since the last time.
    fn report_counts(&mut self, io: &mut Io<Message>) {
        let traffic = std::mem::take(&mut self.traffic);
        let drives = self.take_drive_reports(io.now());
        if traffic != Traffic::default() || !drives.is_empty() {
            let core = self.index;
            self.tell_control(
                io,
                ControlMessage::Counts {
                    core,
                    traffic,
                    drives,
                },
            );
        }
    }

    /// Tells the control core how long groups took for hosts since the last time.
    fn report_hosts(&mut self, io: &mut Io<Message>) {
        let windows: Vec<_> = (0..)
            .zip(&mut self.groups)
            .filter(|(_, binding)| binding.hosts.count() > 0)
            .map(|(group, binding)| (group, Box::new(std::mem::take(&mut binding.hosts))))
            .collect();
        if !windows.is_empty() {
            self.tell_control(io, ControlMessage::HostsSaw { windows });
        }
    }

    /// Ten times a second: what is not urgent.
    fn tick(&mut self, io: &mut Io<Message>) {
        self.report_drained(io);
        self.cut_slow_closes(io);
        self.look_after_unheard(io);
        self.say_withheld(io);
        self.tick_groups(io);
        self.failures = 0;
        self.awake.tick(io.now());
        self.fabric_tick(io);
        self.tend_hung(io);
        self.move_members(io);
        self.report_counts(io);
        self.report_hosts(io);
        if self.control.is_some() {
            self.with_control(io, |control, core, io| control.tick(core, io));
        }
        io.set_timer(io.now() + TICK_NS, token(TokenKind::Tick, 0));
    }

    /// Feeds received bytes to the connection's machine.
    fn receive_bytes(&mut self, io: &mut Io<Message>, queue: QueueId, bytes: &[u8]) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if connection.life != Life::Open {
            return;
        }
        if connection.blocked.is_some() || connection.is_congested() || !connection.backlog.is_empty() {
            connection.backlog.extend_from_slice(bytes);
            if connection.backlog.len() > BACKLOG_KEEP_BYTES {
                io.pause_receive(connection.socket);
            }
            return;
        }
        let rest = self.parse(io, queue, bytes);
        if rest > 0 {
            let Some(connection) = self
                .connections
                .find(queue)
                .filter(|open| open.life == Life::Open)
            else {
                return;
            };
            connection.backlog.extend_from_slice(&bytes[bytes.len() - rest..]);
            io.pause_receive(connection.socket);
        }
    }

    /// Goes on with bytes that waited for a buffer.
    pub(super) fn resume_parsing(&mut self, io: &mut Io<Message>, queue: QueueId) {
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if connection.life != Life::Open {
            return;
        }
        connection.blocked = None;
        let backlog = std::mem::take(&mut connection.backlog);
        let rest = self.parse(io, queue, &backlog);
        let Some(connection) = self.connections.find(queue) else {
            return;
        };
        if rest > 0 {
            connection.backlog = backlog[backlog.len() - rest..].to_vec();
        } else if connection.life == Life::Open {
            io.resume_receive(connection.socket);
        }
    }
}

impl reactor::Program for Core {
    type Message = Message;

    fn started(&mut self, io: &mut Io<Message>) {
        self.overflow = (0..io.cores()).map(|_| VecDeque::new()).collect();
        self.bind_drives(io);
        let zeroes = io
            .arena_mut()
            .alloc(ZEROES_BYTES)
            .expect("the memory of a core is at least 16 MiB");
        io.arena_mut().zero(zeroes);
        self.zeroes = Some(zeroes);
        self.spare_scratch = io.arena_mut().alloc(self.spare_scratch_bytes);
        self.spare_ring = io.arena_mut().alloc(self.spare_ring_bytes);
        let reserve = io.arena_mut().alloc(self.limits.machine.max_transfer_bytes);
        self.hung.keep_reserve(reserve);
        self.fabric_started(io);
        io.set_timer(io.now() + TICK_NS, token(TokenKind::Tick, 0));
        if self.control.is_some() {
            self.with_control(io, |control, core, io| control.started(core, io));
        }
    }

    fn message(&mut self, io: &mut Io<Message>, message: Message) {
        self.handle_message(io, message);
    }

    fn accepted(&mut self, io: &mut Io<Message>, token: Token, result: Result<OwnedFd, Errno>) {
        if let Some((TokenKind::Link, _)) = untoken(token) {
            return self.with_control(io, |control, _, io| control.link_accepted(io, result));
        }
        let Some((TokenKind::Accept, listener)) = untoken(token) else {
            return;
        };
        self.with_control(io, |control, core, io| {
            control.accepted(core, io, listener, result)
        });
    }

    fn received(&mut self, io: &mut Io<Message>, token: Token, received: Received<'_>) {
        if let Some((TokenKind::Fabric, _)) = untoken(token) {
            if let Some(fabric) = &mut self.fabric {
                fabric.queues.received(io, token, received);
            }
            return self.fabric_happened(io);
        }
        if let Some((TokenKind::Link, payload)) = untoken(token) {
            return self.with_control(io, |control, _, io| control.link_received(io, payload, received));
        }
        let Some((TokenKind::Connection, payload)) = untoken(token) else {
            return;
        };
        let queue = QueueId(u32::try_from(payload).expect("a connection's token carries its QueueId"));
        match received {
            Received::Data(bytes) => self.receive_bytes(io, queue, bytes),
            Received::End => self.begin_close(io, queue),
            Received::Error(error) => {
                tracing::debug!(queue = queue.0, %error, "connection lost");
                self.begin_close(io, queue);
            }
        }
    }

    fn sent(&mut self, io: &mut Io<Message>, token: Token, batch: Box<SendBatch>, result: Result<(), Errno>) {
        if let Some((TokenKind::Fabric, _)) = untoken(token) {
            if let Some(fabric) = &mut self.fabric {
                fabric.queues.sent(io, token, batch, result);
            }
            return self.fabric_happened(io);
        }
        if let Some((TokenKind::Link, payload)) = untoken(token) {
            return self.with_control(io, |control, _, io| control.link_sent(io, payload, batch, result));
        }
        let Some((TokenKind::Connection, payload)) = untoken(token) else {
            return;
        };
        let queue = QueueId(u32::try_from(payload).expect("a connection's token carries its QueueId"));
        let connection = self
            .connections
            .find(queue)
            .expect("a connection stays until its sends are done");
        self.latencies
            .record(Stage::Send, reactor::now().saturating_sub(connection.sent_at));
        let mut free = std::mem::take(&mut self.sent_spans);
        free.extend(connection.sent(batch));
        let again = match result {
            Ok(()) => connection.can_send(),
            Err(_) => {
                free.extend(connection.forget_composed());
                false
            }
        };
        let held = connection.blocked.is_none() && !connection.backlog.is_empty() && result.is_ok();
        for span in free.drain(..) {
            self.give_back(io, span);
        }
        self.sent_spans = free;
        if again {
            self.mark_dirty(queue_index(queue));
        }
        if held {
            self.tell(io, self.index, Message::ResumeParsing { queue });
        }
        if result.is_err() {
            self.begin_close(io, queue);
        }
        self.continue_close(io, queue);
    }

    fn connected(&mut self, io: &mut Io<Message>, token: Token, result: Result<OwnedFd, Errno>) {
        if let Some((TokenKind::Link, payload)) = untoken(token) {
            return self.with_control(io, |control, _, io| control.link_connected(io, payload, result));
        }
        let fabric = self
            .fabric
            .as_mut()
            .expect("a node connects to shelves and to other nodes alone");
        fabric.queues.connected(io, token, result);
        self.fabric_happened(io);
    }

    fn file_done(&mut self, io: &mut Io<Message>, token: Token, result: Result<u32, Errno>) {
        match untoken(token) {
            Some((TokenKind::Drive, payload)) => {
                self.drive_done(io, payload, result.map(|_| ()).map_err(drive_error));
            }
            Some((TokenKind::Zero, payload)) => self.zero_answered(io, payload, result.map(|_| ())),
            Some((TokenKind::Superblock, payload)) => {
                self.with_control(io, |control, core, io| {
                    control.superblock_done(core, io, payload, result.map(|_| ()).map_err(drive_error))
                });
            }
            Some((TokenKind::Reservation, number)) => {
                let succeeded = result.is_ok();
                self.tell_control(io, ControlMessage::ReservationWritten { number, succeeded });
            }
            Some((
                TokenKind::Accept
                | TokenKind::Connection
                | TokenKind::Tick
                | TokenKind::Background
                | TokenKind::Fabric
                | TokenKind::Link
                | TokenKind::Locks,
                _,
            ))
            | None => {
                unreachable!("only drives and superblocks read and write files")
            }
        }
    }

    fn closed(&mut self, io: &mut Io<Message>, token: Token) {
        if let Some((TokenKind::Fabric, _)) = untoken(token) {
            if let Some(fabric) = &mut self.fabric {
                fabric.queues.closed(io, token);
            }
            return self.fabric_happened(io);
        }
        if let Some((TokenKind::Link, payload)) = untoken(token) {
            return self.with_control(io, |control, _, _| control.link_closed(payload));
        }
        let Some((TokenKind::Connection, payload)) = untoken(token) else {
            return;
        };
        let queue = QueueId(u32::try_from(payload).expect("a connection's token carries its QueueId"));
        if let Some(mut connection) = self.connections.release(queue) {
            for span in connection.forget_composed() {
                self.give_back(io, span);
            }
        }
        self.tell_control(io, ControlMessage::Closed { queue });
    }

    fn timer(&mut self, io: &mut Io<Message>, token: Token) {
        match untoken(token) {
            Some((TokenKind::Tick, _)) => self.tick(io),
            Some((TokenKind::Background, group)) => {
                let group = u16::try_from(group).expect("the group is 16 bits");
                self.with_control(io, |control, core, io| control.background_timer(core, io, group));
            }
            Some((TokenKind::Link, _)) => {
                self.with_control(io, |control, _, io| control.link_timer(io));
            }
            Some((TokenKind::Locks, _)) => self.with_control(io, |control, _, _| control.locks_timer()),
            Some(_) | None => {}
        }
    }

    fn turn_begins(&mut self, io: &mut Io<Message>) {
        self.look_after_stall(io);
    }

    fn turn(&mut self, io: &mut Io<Message>) -> Progress {
        let mut busy = self.deliver_overflow(io);
        busy |= self.run_delayed(io);
        self.serve_buffer_queue(io);
        busy |= self.fabric_turn(io);
        if self.control.as_ref().is_some_and(|control| control.is_sharing()) {
            self.with_control(io, Control::share_turn);
        }
        self.flush(io);
        if busy || self.has_overflow() || !self.delayed.is_empty() {
            Progress::Busy
        } else {
            Progress::Idle
        }
    }
}
