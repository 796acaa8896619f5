//! The associations of a host, on core 0: they are told what happens and tell the cores what to do.

use std::net::SocketAddr;
use std::sync::Arc;

use nvme::host::{Action, Association, Config, Event as AssociationEvent, Kind, QueueFault};
use reactor::{CoreIndex, Nanos};

use super::job::QueueName;
use super::queues::Report;
use super::{Drain, Event, Namespace, Target, TargetFacts};

/// Entries of an admin queue: the association's commands and those of the workload.
const ADMIN_ENTRIES: u16 = 32;
/// Longest wait between attempts to reconnect.
const RECONNECT_MAX_NS: u64 = 5_000_000_000;

/// What the control core wants of the core that has a queue.
#[derive(Debug)]
pub enum Order {
    /// Connect.
    Open {
        /// Jobs that may be in flight.
        jobs_max: u16,
        /// Where to.
        address: SocketAddr,
    },
    /// Drop the connection.
    Close,
    /// Send a command of the association.
    Submit {
        /// The command.
        entry: nvme::command::SubmissionEntry,
        /// Data to the controller.
        payload: Vec<u8>,
        /// Bytes wanted from it.
        read_bytes: u32,
    },
}

/// One association.
struct Link {
    association: Association,
    target: Target,
    /// Attempts to connect so far.
    attempt: u32,
    /// Number of the present opening of each queue; 0 while it is closed.
    epochs: Vec<u32>,
    /// What the controller is, while it is live; its namespaces grow as they are reported.
    facts: Option<TargetFacts>,
    /// The facts of the present association were told.
    told: bool,
    over: bool,
}

/// All associations of a host.
pub struct Associations {
    links: Vec<Link>,
    cores: u16,
    epoch: u32,
    actions: Vec<Action>,
    /// Orders for the cores, in order: to be handed out after each call.
    pub orders: Vec<(CoreIndex, QueueName, u32, Order)>,
    /// Facts for all cores, likewise, after the orders.
    pub ready: Vec<(u16, Arc<TargetFacts>)>,
    /// What became of them, likewise.
    pub events: Vec<Event>,
    stopping: bool,
}

impl Associations {
    /// Associations to all targets, not yet started.
    pub fn new(targets: &[Target], cores: u16) -> Self {
        let links = targets.iter().map(|target| Link {
            association: Association::new(config(target)),
            target: target.clone(),
            attempt: 0,
            epochs: vec![0; usize::from(target.io_queues) + 1],
            facts: None,
            told: false,
            over: false,
        });
        Self {
            links: links.collect(),
            cores,
            epoch: 0,
            actions: Vec::new(),
            orders: Vec::new(),
            ready: Vec::new(),
            events: Vec::new(),
            stopping: false,
        }
    }

    /// Starts all associations.
    pub fn start(&mut self, now: Nanos) {
        self.each(now, AssociationEvent::Start);
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Nanos) {
        self.each(now, AssociationEvent::Tick);
    }

    /// Takes leave of all targets.
    pub fn stop(&mut self, now: Nanos) {
        self.stopping = true;
        self.each(now, AssociationEvent::Stop);
    }

    /// Whether all associations have ended as they were asked to.
    pub fn has_stopped(&self) -> bool {
        self.stopping && self.links.iter().all(|link| link.over)
    }

    fn each(&mut self, now: Nanos, event: AssociationEvent<'_>) {
        for target in 0..self.links.len() {
            if !self.links[target].over {
                self.handle(now, target, event);
            }
        }
    }

    /// Gives up the present connections to a target, which is then tried again.
    pub fn reset(&mut self, now: Nanos, target: usize) {
        if !self.links[target].over {
            let (qid, fault) = (0, QueueFault::TimedOut);
            self.handle(now, target, AssociationEvent::QueueDown { qid, fault });
        }
    }

    /// A queue's core reports what happened to it; ignored unless it is about the queue's present opening.
    pub fn report(&mut self, now: Nanos, queue: QueueName, epoch: u32, report: &Report) {
        let QueueName { target, qid } = queue;
        let target = usize::from(target);
        if epoch == 0 || self.links[target].epochs[usize::from(qid)] != epoch {
            return;
        }
        let event = match *report {
            Report::Up => AssociationEvent::QueueUp { qid },
            Report::Down(fault) => AssociationEvent::QueueDown { qid, fault },
            Report::Completed(entry, ref data) => AssociationEvent::Completion { qid, entry, data },
        };
        self.handle(now, target, event);
    }

    /// The core that has a queue.
    fn core_of(&self, queue: QueueName) -> CoreIndex {
        if queue.qid == 0 {
            return CoreIndex(0);
        }
        CoreIndex((queue.target + queue.qid - 1) % self.cores)
    }

    fn handle(&mut self, now: Nanos, target: usize, event: AssociationEvent<'_>) {
        let mut actions = std::mem::take(&mut self.actions);
        self.links[target].association.handle(now, event, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(target, action);
        }
        self.actions = actions;
    }

    fn carry_out(&mut self, target: usize, action: Action) {
        let name = |qid| QueueName {
            target: u16::try_from(target).expect("a host has few targets"),
            qid,
        };
        let link = &mut self.links[target];
        match action {
            Action::OpenQueue { qid, entries } => self.open(name(qid), entries),
            Action::CloseQueue { qid } => {
                let epoch = std::mem::replace(&mut link.epochs[usize::from(qid)], 0);
                self.order(name(qid), epoch, Order::Close);
            }
            Action::Submit {
                qid,
                entry,
                payload,
                read_bytes,
            } => {
                let epoch = link.epochs[usize::from(qid)];
                self.order(
                    name(qid),
                    epoch,
                    Order::Submit {
                        entry,
                        payload,
                        read_bytes,
                    },
                );
            }
            Action::Live { .. } => link.live(&action),
            Action::Drain(drain) => self.drained(target, drain),
            Action::Namespace {
                nsid,
                blocks,
                block_bytes,
                nguid,
                uuid,
            } => {
                link.put(Namespace {
                    nsid,
                    blocks,
                    block_bytes,
                    nguid,
                    uuid,
                });
            }
            Action::NamespaceRemoved { nsid } => {
                if let Some(facts) = &mut link.facts {
                    facts.namespaces.retain(|namespace| namespace.nsid != nsid);
                }
            }
            Action::NamespacesChanged => {}
            Action::Scanned { .. } => self.scanned(target),
            Action::Discovered { entries, .. } => self.say(Event::Discovered { target, entries }),
            Action::Down {
                reason,
                will_retry_at_ns,
            } => {
                link.over = will_retry_at_ns.is_none();
                let over = link.over;
                self.say(if over {
                    Event::Stopped { target }
                } else {
                    Event::Down { target, reason }
                });
            }
            Action::Failed { reason } => {
                link.over = true;
                self.say(Event::Failed { target, reason });
            }
        }
    }

    fn open(&mut self, queue: QueueName, entries: u16) {
        self.epoch += 1;
        let link = &mut self.links[usize::from(queue.target)];
        link.epochs[usize::from(queue.qid)] = self.epoch;
        if queue.qid == 0 {
            link.begin_attempt();
        }
        let jobs_max = if queue.qid == 0 {
            ADMIN_ENTRIES - 1 - nvme::host::ADMIN_CIDS_RESERVED
        } else {
            link.target.depth.min(entries - 1) // A queue is full with one entry empty.
        };
        let address = link.address();
        self.order(queue, self.epoch, Order::Open { jobs_max, address });
    }

    /// More is known of what earlier controllers have left behind.
    fn drained(&mut self, target: usize, drain: Drain) {
        let link = &mut self.links[target];
        link.facts.as_mut().expect("it is live").drain = drain;
        if link.told {
            self.scanned(target);
        }
    }

    fn scanned(&mut self, target: usize) {
        let link = &mut self.links[target];
        let Some(facts) = &link.facts else { return };
        link.told = true;
        let facts = Arc::new(facts.clone());
        self.ready.push((
            u16::try_from(target).expect("a host has few targets"),
            Arc::clone(&facts),
        ));
        self.say(Event::Ready { target, facts });
    }

    fn order(&mut self, queue: QueueName, epoch: u32, order: Order) {
        self.orders.push((self.core_of(queue), queue, epoch, order));
    }

    fn say(&mut self, event: Event) {
        self.events.push(event);
    }
}

impl Link {
    /// The next attempt goes to the next address, as who the target is to know us by.
    fn begin_attempt(&mut self) {
        if let Some(hostid) = self.target.hostid_of {
            self.association
                .set_hostid(hostid(self.target.hostid, self.attempt));
        }
        self.attempt = self.attempt.wrapping_add(1);
    }

    /// Where the present attempt goes.
    fn address(&self) -> SocketAddr {
        let others = &self.target.other_addresses;
        match self.attempt.saturating_sub(1) as usize % (others.len() + 1) {
            0 => self.target.address,
            at => others[at - 1],
        }
    }

    /// The controller works: keeps what it says of itself, and the namespaces that were known before.
    fn live(&mut self, action: &Action) {
        let &Action::Live {
            cntlid,
            io_queues,
            queue_entries,
            max_transfer_bytes,
            in_capsule_bytes,
            volatile_write_cache,
            oncs,
            fuses,
        } = action
        else {
            unreachable!("the caller has matched it");
        };
        self.told = false;
        let namespaces = self.facts.take().map_or_else(Vec::new, |facts| facts.namespaces);
        self.facts = Some(TargetFacts {
            attempt: self.attempt - 1,
            cntlid,
            io_queues,
            depth: self.target.depth.min(queue_entries.saturating_sub(1)),
            max_transfer_bytes,
            in_capsule_bytes,
            volatile_write_cache,
            oncs,
            fuses,
            drain: Drain::NotAsked,
            namespaces,
        });
    }

    fn put(&mut self, namespace: Namespace) {
        let Some(facts) = &mut self.facts else { return };
        facts.namespaces.retain(|old| old.nsid != namespace.nsid);
        let at = facts.namespaces.partition_point(|old| old.nsid < namespace.nsid);
        facts.namespaces.insert(at, namespace);
    }
}

fn config(target: &Target) -> Config {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let reconnect_min_ns = nanos(target.reconnect).clamp(1, RECONNECT_MAX_NS);
    Config {
        subnqn: target.subnqn.clone(),
        hostnqn: target.hostnqn.clone(),
        hostid: target.hostid,
        kind: target.kind,
        io_queues: if target.kind == Kind::Io {
            target.io_queues
        } else {
            0
        },
        queue_entries: target.depth.saturating_add(1),
        admin_entries: ADMIN_ENTRIES,
        kato_ms: target.kato_ms,
        keep_alive_ns: nanos(target.keep_alive).min(u64::from(target.kato_ms) * 1_000_000 / 2),
        drain: target.drain,
        flow_control: target.flow_control,
        max_transfer_bytes: target.max_transfer_bytes,
        command_timeout_ns: nanos(target.command_timeout),
        reconnect_min_ns,
        reconnect_max_ns: RECONNECT_MAX_NS,
        loss_timeout_ns: target.loss_timeout.map(nanos),
    }
}

#[cfg(test)]
mod tests {
    use nvme::nqn::Nqn;

    use super::*;

    fn target() -> Target {
        let nqn = |name: &str| Nqn::parse(name).unwrap();
        let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Target {
            other_addresses: vec![address(2), address(3)],
            hostid_of: Some(|base, attempt| {
                let mut hostid = base;
                hostid[0] = u8::try_from(attempt).unwrap();
                hostid
            }),
            loss_timeout: None,
            ..Target::new(
                address(1),
                nqn("nqn.2026-01.io.braid:t"),
                nqn("nqn.2026-01.io.braid:h"),
                [7; 16],
            )
        }
    }

    fn opened(associations: &mut Associations) -> (QueueName, u32, SocketAddr) {
        let (core, name, epoch, order) = associations.orders.remove(0);
        let Order::Open { address, .. } = order else {
            panic!("{order:?}")
        };
        assert_eq!((core, name.qid), (CoreIndex(0), 0));
        (name, epoch, address)
    }

    #[test]
    fn each_attempt_goes_to_the_next_address_as_somebody_else() {
        let mut associations = Associations::new(&[target()], 2);
        associations.start(0);
        let mut now = 0;
        for attempt in 0..7_u8 {
            let (name, epoch, address) = opened(&mut associations);
            assert_eq!(address.port(), 1 + u16::from(attempt) % 3);
            associations.report(now, name, epoch, &Report::Up);
            let (_, _, _, connect) = associations.orders.remove(0);
            let Order::Submit { payload, .. } = connect else {
                panic!("{connect:?}")
            };
            assert_eq!(payload[..2], [attempt, 7], "the host identifier is first");
            let fault = QueueFault::Lost;
            associations.report(now, name, epoch, &Report::Down(fault));
            assert!(matches!(associations.orders.remove(0).3, Order::Close));
            now += RECONNECT_MAX_NS;
            associations.tick(now);
        }
    }

    #[test]
    fn a_reset_closes_what_is_open_says_so_and_tries_again() {
        let mut associations = Associations::new(&[target()], 2);
        associations.start(0);
        let (name, epoch, _) = opened(&mut associations);
        associations.reset(0, 0);
        let (_, closed, of, order) = associations.orders.remove(0);
        assert!((closed, of) == (name, epoch) && matches!(order, Order::Close));
        let down = associations.events.pop();
        assert!(matches!(down, Some(Event::Down { target: 0, .. })), "{down:?}");
        associations.report(0, name, epoch, &Report::Up);
        assert!(associations.orders.is_empty(), "of a queue that was closed");
        associations.tick(RECONNECT_MAX_NS);
        assert!(opened(&mut associations).1 != epoch);
    }
}
