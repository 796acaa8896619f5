//! Connections and controllers: what the subsystem machine hears and has carried out.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use nvme::command::{SubmissionEntry, admin_opcode};
use nvme::log::Health;
use nvme::reservation::{HostName, Life};
use nvme::subsystem::{Action, Event, QueueId, Report};
use reactor::{CoreIndex, Errno, Io, Nanos};

use super::{Control, ControllerFacts, Listener};
use crate::target::core::{Core, TokenKind, queue_core, token};
use crate::target::message::{Accept, Arrival, Message, Traffic};
use crate::target::sockets;

/// Log page identifier of SMART / Health Information.
///
/// Source: NVM Express Base Specification 2.0, Get Log Page: Log Page Identifiers.
const HEALTH_LOG: u32 = 0x02;

/// A request for the health log that waits for the cores' counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct HealthRequest {
    cores_left: u16,
    queue: QueueId,
    slot: u16,
    entry: SubmissionEntry,
}

/// How far the end of hosts' associations is, when the node stops.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Until when hosts may go to other nodes before their associations with this one end.
    moves_until: Option<Nanos>,
    /// They are over, or end.
    has_begun: bool,
    /// What hangs is left behind then.
    deadline: Nanos,
    /// The stop has taken too long.
    gave_up: bool,
}

/// How long a stop may take before what hangs is left behind, unclean.
const STOP_NS: Nanos = 20_000_000_000;
/// How long hosts that have paths to other nodes may take to go there before their connections to this one end: what they sent before they
/// knew is still answered. Linux reads the access log within milliseconds of the notice.
const MOVE_NS: Nanos = 500_000_000;
/// How often the health log is brought up to date.
const HEALTH_NS: Nanos = 1_000_000_000;
const NANOS_PER_HOUR: Nanos = 3_600_000_000_000;
/// Unit of data read and written: 1000 units of 512 bytes.
///
/// Source: NVM Express Base Specification 2.0, figure 207 (SMART / Health Information Log Page).
const DATA_UNIT_BYTES: u128 = 512_000;
/// Critical warning: reliability is degraded.
const RELIABILITY_DEGRADED: u8 = 1 << 2;
/// Critical warning: the media are read only.
const MEDIA_READ_ONLY: u8 = 1 << 3;

impl Control {
    /// Begins to accept hosts.
    pub(super) fn listen(&mut self, io: &mut Io<Message>) {
        let accept = |(at, listener): (u64, &Listener)| {
            io.accept(listener.socket.as_fd(), token(TokenKind::Accept, at))
        };
        self.accepting = (0..).zip(&self.listeners).map(accept).collect();
        self.listening = true;
    }

    /// Begins again the accepts that failed.
    pub(super) fn listen_again(&mut self, io: &mut Io<Message>) {
        for listener in std::mem::take(&mut self.accept_again) {
            let at = usize::try_from(listener).expect("an index of listeners");
            let socket = self.listeners[at].socket.as_fd();
            // When the reactor cannot, it says so as a failed accept, and this comes again.
            self.accepting[at] = io.accept(socket, token(TokenKind::Accept, listener));
        }
    }

    /// A host connected: gives the connection to the core with the fewest.
    pub(in crate::target) fn accepted(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        listener: u64,
        result: Result<OwnedFd, Errno>,
    ) {
        let socket = match result {
            Ok(socket) => socket,
            Err(error) => {
                // The reactor has ended the accept; the next tick begins another, so that a node without
                // descriptors does not spin.
                if !self.stopping {
                    tracing::warn!(%error, "accepting a connection failed");
                    self.accept_again.push(listener);
                }
                return;
            }
        };
        let Ok(peer) = sockets::peer_address(&socket) else {
            return;
        };
        let open: u32 = self.connections.iter().sum();
        if self.stopping || open >= self.connections_max {
            tracing::warn!(%peer, open, "connection refused: the node serves as many as its configuration allows");
            return;
        }
        let (at, count) = self
            .connections
            .iter_mut()
            .enumerate()
            .min_by_key(|(_, count)| **count)
            .expect("a node has at least one core");
        *count += 1;
        let to = CoreIndex(u16::try_from(at).expect("at most 16 cores"));
        let port = self.listeners[usize::try_from(listener).expect("an index of listeners")].port;
        self.accepted_ns = io.now().max(self.accepted_ns + 1);
        let accepted_ns = self.accepted_ns;
        let arrival = Arrival {
            port,
            peer,
            accepted_ns,
        };
        core.tell(io, to, Message::Adopt { socket, arrival });
    }

    pub(super) fn queue_opened(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        queue: QueueId,
        arrival: Arrival,
        local: SocketAddr,
    ) {
        self.peers.insert(queue.0, arrival.peer);
        let local_address = local.ip().to_canonical().to_string();
        self.subsystem_event(
            core,
            io,
            Event::Opened {
                queue,
                port: arrival.port,
                local_address: &local_address,
                accepted_ns: arrival.accepted_ns,
            },
        );
    }

    pub(super) fn queue_closed(&mut self, core: &mut Core, io: &mut Io<Message>, queue: QueueId) {
        self.peers.remove(&queue.0);
        self.health_waiting.retain(|_, request| request.queue != queue);
        self.connection_ended(queue_core(queue));
        self.subsystem_event(core, io, Event::Closed { queue });
        self.try_close(core, io);
    }

    /// A core has one connection fewer, or could not take one.
    pub(super) fn connection_ended(&mut self, core: CoreIndex) {
        let count = &mut self.connections[core.index()];
        assert!(*count > 0, "a connection ends once");
        *count -= 1;
    }

    /// Feeds the subsystem machine and carries out what it wants.
    pub(super) fn subsystem_event(&mut self, core: &mut Core, io: &mut Io<Message>, event: Event<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.subsystem.handle(io.now(), event, &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Accept {
                    queue,
                    qid,
                    entries,
                    flow_control,
                    volatile_write_cache,
                    host,
                    hostid,
                    ..
                } => {
                    core.tell(
                        io,
                        queue_core(queue),
                        Message::Accept(Accept {
                            queue,
                            qid,
                            entries,
                            flow_control,
                            write_through: !volatile_write_cache,
                            life: Life {
                                name: HostName::of(&host),
                                host: hostid,
                            },
                        }),
                    );
                }
                Action::Complete {
                    queue,
                    slot,
                    result,
                    status,
                    data,
                } => {
                    core.tell(
                        io,
                        queue_core(queue),
                        Message::Complete {
                            queue,
                            slot,
                            result,
                            status,
                            data,
                        },
                    );
                }
                Action::Abort { queue, cid, token } => {
                    core.tell(io, queue_core(queue), Message::Abort { queue, cid, token });
                }
                Action::EnforceReservation(order) => self.enforce_reservation(core, io, &order),
                Action::PersistReservation { number, nsid, state } => {
                    self.persist_reservation(core, io, number, nsid, state);
                }
                Action::PassReservation(pass) => self.pass_reservation(core, io, pass),
                Action::ResetElsewhere { number, wish } => self.reset_elsewhere(io, number, wish),
                Action::ResetAnswered { number, outcome } => self.reset_answered(number, outcome),
                Action::Close { queue, reason } => {
                    tracing::debug!(queue = queue.0, ?reason, "closing connection");
                    core.tell(io, queue_core(queue), Message::Close { queue });
                }
                Action::Report(report) => self.take_report(io.now(), &report),
            }
        }
        self.actions = actions;
    }

    pub(super) fn add_traffic(&mut self, traffic: Traffic) {
        self.traffic.read_commands += traffic.read_commands;
        self.traffic.write_commands += traffic.write_commands;
        self.traffic.read_bytes += traffic.read_bytes;
        self.traffic.write_bytes += traffic.write_bytes;
    }
}

impl Control {
    /// Takes a capsule for the subsystem. A host that asks for the health log gets what was counted until then: every
    /// core is asked first.
    pub(super) fn capsule(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        queue: QueueId,
        slot: u16,
        entry: SubmissionEntry,
        data: &[u8],
    ) {
        let wants_health =
            entry.opcode() == admin_opcode::GET_LOG_PAGE && entry.dword(10) & 0xff == HEALTH_LOG;
        if !wants_health {
            return self.subsystem_event(
                core,
                io,
                Event::Capsule {
                    queue,
                    slot,
                    entry,
                    data,
                },
            );
        }
        let request = self.next_request().0;
        let cores_left = self.cores;
        self.health_waiting.insert(
            request,
            HealthRequest {
                cores_left,
                queue,
                slot,
                entry,
            },
        );
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::CountNow { request });
        }
    }

    /// One core has told what it counted.
    pub(super) fn counted(&mut self, core: &mut Core, io: &mut Io<Message>, request: u64) {
        let Some(waiting) = self.health_waiting.get_mut(&request) else {
            return;
        };
        waiting.cores_left -= 1;
        if waiting.cores_left > 0 {
            return;
        }
        let HealthRequest {
            queue, slot, entry, ..
        } = *waiting;
        self.health_waiting.remove(&request);
        self.health_at = 0;
        self.report_health(core, io);
        self.subsystem_event(
            core,
            io,
            Event::Capsule {
                queue,
                slot,
                entry,
                data: &[],
            },
        );
    }

    /// Brings the health log up to date, once a second.
    pub(super) fn report_health(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if io.now() < self.health_at {
            return;
        }
        self.health_at = io.now() + HEALTH_NS;
        let degraded = self.groups.iter().any(super::groups::GroupControl::is_degraded);
        let failed = self.groups.iter().any(super::groups::GroupControl::is_failed);
        let traffic = self.traffic;
        let errors: u64 = self.drive_uses.iter().map(|drive| drive.errors).sum();
        let units = |bytes: u64| u128::from(bytes).div_ceil(DATA_UNIT_BYTES);
        let health = Health {
            critical_warning: (u8::from(degraded) * RELIABILITY_DEGRADED)
                | (u8::from(failed) * MEDIA_READ_ONLY),
            data_units_read: units(traffic.read_bytes),
            data_units_written: units(traffic.write_bytes),
            read_commands: u128::from(traffic.read_commands),
            write_commands: u128::from(traffic.write_commands),
            power_on_hours: u128::from((io.now() - self.started_at) / NANOS_PER_HOUR),
            media_errors: u128::from(errors),
            ..Health::default()
        };
        self.subsystem_event(core, io, Event::Health(health));
    }

    /// Notes what the management plane shows, and logs the fact.
    fn take_report(&mut self, now: Nanos, report: &Report) {
        match report {
            Report::Connected {
                queue,
                cntlid,
                kind,
                host,
            } => {
                let address = self
                    .peers
                    .get(&queue.0)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                tracing::info!(%host, cntlid, ?kind, %address, "host connected");
                self.controllers
                    .insert(*cntlid, ControllerFacts { address, since: now });
            }
            Report::QueueConnected { cntlid, qid, queue } => {
                tracing::debug!(cntlid, qid, queue = queue.0, "I/O queue connected");
            }
            Report::Refused { queue, host, why } => {
                let address = self
                    .peers
                    .get(&queue.0)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let host = host.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%host, %address, %why, "connect refused");
            }
            Report::Unconnected { queue, reason } => {
                tracing::debug!(queue = queue.0, ?reason, "connection without a Connect closed");
            }
            Report::Ready { cntlid } => tracing::debug!(cntlid, "controller ready"),
            Report::BadConfiguration { cntlid, cc } => {
                tracing::warn!(
                    cntlid,
                    cc,
                    "host wrote a controller configuration that is not supported"
                );
            }
            Report::Reset { cntlid } => tracing::info!(cntlid, "host reset its controller"),
            Report::CrossReset { cntlid, by } => {
                tracing::info!(cntlid, by, "host reset its controller through another one");
            }
            Report::CrossResetElsewhere { cntlid, host } => {
                tracing::info!(cntlid, %host, "host reset its controller through another node");
            }
            Report::ShutDown { cntlid } => tracing::debug!(cntlid, "host shut its controller down"),
            Report::KeepAliveExpired { cntlid, host } => {
                tracing::warn!(cntlid, %host, "association closed: the host was silent for its keep alive timeout");
            }
            Report::HostRevoked { cntlid, host } => {
                tracing::info!(cntlid, %host, "host is not allowed any more")
            }
            Report::Disconnected { cntlid, host } => {
                tracing::info!(cntlid, %host, "host disconnected");
                self.controllers.remove(cntlid);
            }
        }
    }
}

// The end.
impl Control {
    /// Stops the node: hosts that have other paths are told and may take them first; then connections are drained and groups closed.
    pub(in crate::target) fn begin_stop(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        tracing::info!("stopping");
        if let Some(ready) = self.ready.take() {
            drop(ready.send(Err("the node was stopped before it was ready".to_owned())));
        }
        self.ending.deadline = io.now() + STOP_NS;
        self.accept_again.clear();
        for operation in self.accepting.drain(..).flatten() {
            io.cancel(operation);
        }
        self.depart(core, io);
        self.try_end_associations(core, io);
    }

    /// Has hosts use the paths to other nodes instead of those to this one: whatever begins now is refused in the way that has hosts take another path, and nothing
    /// above them hears of it.
    fn depart(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let Some(share) = &mut self.share else { return };
        share.depart();
        let is_serving = self.connections.iter().any(|count| *count > 0);
        for group in 0..self.groups.len() {
            let index = u16::try_from(group).expect("a node has at most 128 groups");
            for record in self.groups[group].machine.vdisks().to_vec() {
                self.change_access(core, io, index, &record);
            }
        }
        if is_serving && !self.draining.is_empty() {
            self.ending.moves_until = Some(io.now() + MOVE_NS);
        }
    }

    /// Ends the associations of all hosts, once those that could have gone elsewhere had the time for it and have the answers to all that they asked.
    fn try_end_associations(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let have_moved = self
            .ending
            .moves_until
            .is_none_or(|until| io.now() >= until && self.draining.is_empty());
        let is_alone = self.connections.iter().all(|count| *count == 0);
        if self.stopping && !self.ending.has_begun && (have_moved || is_alone) {
            self.ending.has_begun = true;
            self.subsystem_event(core, io, Event::Shutdown);
            self.try_close(core, io);
        }
    }

    /// Ends a stop that takes too long, and one of a life that has lost its drives: its groups have nothing to be closed on, and the
    /// commands of its hosts no answer.
    pub(super) fn check_stop(&mut self, core: &mut Core, io: &mut Io<Message>) {
        self.try_end_associations(core, io);
        if self.stopping && !self.ending.gave_up && self.is_expelled() {
            self.ending.gave_up = true;
            tracing::info!("stopping at once: the array goes on without this life of the node");
            self.tell_stopped();
            io.stop();
        }
        if self.stopping && !self.ending.gave_up && io.now() > self.ending.deadline {
            self.ending.gave_up = true;
            let connections: u32 = self.connections.iter().sum();
            tracing::error!(
                connections,
                "stopping without a clean close: connections or drives do not end their commands"
            );
            self.tell_stopped();
            io.stop();
        }
    }

    /// Closes the groups once the last connection is gone.
    pub(super) fn try_close(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let is_alone = self.connections.iter().all(|count| *count == 0);
        if self.ending.has_begun && !self.closing && is_alone {
            self.closing = true;
            self.close_groups(core, io);
        }
    }
}
