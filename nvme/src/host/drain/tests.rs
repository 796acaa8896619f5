//! The association against a real subsystem, with a wire on which bytes of lost connections stay.

use std::collections::BTreeMap;

use super::*;
use crate::command::Sgl;
use crate::host::{Config, Event, Kind, QueueFault};
use crate::identify::{Reservable, Transport};
use crate::io::NamespaceFormat;
use crate::nqn::Nqn;
use crate::subsystem::{self, HostAccess, Port, PortId, QueueId, Subsystem};

const MS: u64 = 1_000_000;

fn nqn(text: &str) -> Nqn {
    Nqn::parse(text).unwrap()
}

fn target() -> Subsystem {
    let config = subsystem::Config {
        nqn: nqn("nqn.2026-01.io.braid:shelf"),
        serial: "S".into(),
        model: "M".into(),
        firmware: "F".into(),
        oui: [2, 0x42, 0x52],
        cntlids: 1..=9,
        cntlids_elsewhere: Vec::new(),
        controllers_max: 9,
        io_queues_max: 2,
        queue_entries_max: 128,
        in_capsule_bytes: 8192,
        max_transfer_bytes: 1 << 18,
        compare_write_blocks_max: 1,
        atomic_write_blocks: 1,
        atomic_write_blocks_power_fail: 1,
        command_quiesce_ms: 0,
        allow: HostAccess::Any,
        ports: vec![Port {
            id: PortId(1),
            transport: Transport::Tcp,
            address: "192.0.2.1".into(),
            service: "4420".into(),
            discovery_only: false,
        }],
        instance: [1; 16],
        seed: 3,
    };
    let mut target = Subsystem::new(config).unwrap();
    let namespace = subsystem::Namespace {
        nsid: 2,
        access: crate::access::Access::Here,
        nguid: [2; 16],
        uuid: [2; 16],
        format: NamespaceFormat {
            blocks: 100,
            block_shift: 12,
        },
        strip_blocks: None,
        stripe_blocks: None,
        volatile: false,
        reservable: Reservable::Never,
        admission_of: None,
    };
    target.handle(0, subsystem::Event::NamespaceAdded(namespace), &mut Vec::new());
    target
}

fn association(drain: bool) -> Association {
    Association::new(Config {
        subnqn: nqn("nqn.2026-01.io.braid:shelf"),
        hostnqn: nqn("nqn.2026-01.io.braid:host"),
        hostid: [9; 16],
        kind: Kind::Io,
        io_queues: 1,
        queue_entries: 16,
        admin_entries: 32,
        kato_ms: 0,
        keep_alive_ns: 0,
        drain,
        flow_control: false,
        max_transfer_bytes: 1 << 18,
        command_timeout_ns: 1_000 * MS,
        reconnect_min_ns: 100 * MS,
        reconnect_max_ns: 100 * MS,
        loss_timeout_ns: None,
    })
}

/// A connection as the target has it. What its host has given up is still there.
struct Connection {
    qid: u16,
    /// Writes of the block that lie in the socket, and have not been read.
    socket: Vec<u64>,
    /// A write of the block that the drive has not answered.
    at_drive: Option<u64>,
    closing: bool,
}

struct World {
    association: Association,
    target: Subsystem,
    now_ns: u64,
    connections: BTreeMap<QueueId, Connection>,
    /// The connection of each queue, as the host has it.
    open: BTreeMap<u16, QueueId>,
    next: u32,
    block: u64,
    live: bool,
    drain: Drain,
}

impl World {
    fn new(drain: bool) -> Self {
        let mut world = Self {
            association: association(drain),
            target: target(),
            now_ns: 1,
            connections: BTreeMap::new(),
            open: BTreeMap::new(),
            next: 0,
            block: 0,
            live: false,
            drain: Drain::NotAsked,
        };
        world.host(Event::Start);
        assert!(world.live);
        world
    }

    fn host(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.association.handle(self.now_ns, event, &mut actions);
        for action in actions {
            match action {
                Action::OpenQueue { qid, .. } => self.connect(qid),
                Action::CloseQueue { qid } => assert!(self.open.remove(&qid).is_some()),
                Action::Submit {
                    qid,
                    mut entry,
                    payload,
                    read_bytes,
                } => {
                    let sent = u32::try_from(payload.len()).unwrap();
                    let length_bytes = read_bytes.max(sent);
                    entry.set_sgl(Sgl::Transport { length_bytes });
                    let capsule = subsystem::Event::Capsule {
                        queue: self.open[&qid],
                        slot: entry.cid(),
                        entry,
                        data: &payload,
                    };
                    self.target(capsule);
                }
                Action::Live { .. } => (self.live, self.drain) = (true, Drain::NotAsked),
                Action::Drain(drain) => self.drain = drain,
                Action::Down { .. } => self.live = false,
                Action::Failed { reason } => panic!("{reason}"),
                Action::Namespace { .. }
                | Action::NamespaceRemoved { .. }
                | Action::NamespacesChanged
                | Action::Scanned { .. }
                | Action::Discovered { .. } => {}
            }
        }
    }

    fn connect(&mut self, qid: u16) {
        self.next += 1;
        let queue = QueueId(self.next);
        let connection = Connection {
            qid,
            socket: Vec::new(),
            at_drive: None,
            closing: false,
        };
        self.connections.insert(queue, connection);
        self.open.insert(qid, queue);
        self.target(subsystem::Event::Opened {
            queue,
            port: PortId(1),
            local_address: "192.0.2.1",
            accepted_ns: self.now_ns,
        });
        self.host(Event::QueueUp { qid });
    }

    fn target(&mut self, event: subsystem::Event<'_>) {
        let mut actions = Vec::new();
        self.target.handle(self.now_ns, event, &mut actions);
        for action in actions {
            match action {
                subsystem::Action::Complete {
                    queue,
                    slot,
                    result,
                    status,
                    data,
                } => self.answered(queue, slot, result, status, &data),
                subsystem::Action::Close { queue, .. } => {
                    let Some(connection) = self.connections.get_mut(&queue) else {
                        continue;
                    };
                    connection.closing = true;
                    connection.socket.clear(); // With its socket what was not read is gone.
                    self.close_if_drained(queue);
                }
                subsystem::Action::Accept { .. } | subsystem::Action::Report(_) => {}
                other @ (subsystem::Action::Abort { .. }
                | subsystem::Action::EnforceReservation(_)
                | subsystem::Action::PersistReservation { .. }
                | subsystem::Action::PassReservation(_)
                | subsystem::Action::ResetElsewhere { .. }
                | subsystem::Action::ResetAnswered { .. }) => panic!("{other:?}"),
            }
        }
    }

    fn answered(&mut self, queue: QueueId, cid: u16, result: u64, status: Status, data: &[u8]) {
        let qid = self.connections[&queue].qid;
        if self.open.get(&qid) != Some(&queue) {
            return; // The host does not listen there any more.
        }
        let entry = CompletionEntry {
            result,
            sqhd: 0,
            cid,
            status,
        };
        self.host(Event::Completion { qid, entry, data });
    }

    fn close_if_drained(&mut self, queue: QueueId) {
        let connection = &self.connections[&queue];
        if connection.closing && connection.at_drive.is_none() {
            self.connections.remove(&queue);
            self.target(subsystem::Event::Closed { queue });
        }
    }

    /// The host writes the block: that much of it lies in the socket.
    fn send_write(&mut self, value: u64) {
        assert!(self.live);
        let connection = self.connections.get_mut(&self.open[&1]).unwrap();
        connection.socket.push(value);
    }

    /// A write goes all the way.
    fn write(&mut self, value: u64) {
        self.send_write(value);
        let connection = self.connections.get_mut(&self.open[&1]).unwrap();
        self.block = connection.socket.pop().unwrap();
        assert_eq!(self.block, value);
    }

    /// The target reads what its connections have brought.
    fn read_sockets(&mut self) {
        for connection in self.connections.values_mut().filter(|it| !it.closing) {
            for value in connection.socket.drain(..) {
                connection.at_drive = Some(value);
            }
        }
    }

    fn drive_answers(&mut self) {
        let queues: Vec<QueueId> = self.connections.keys().copied().collect();
        for queue in queues {
            let connection = self.connections.get_mut(&queue);
            if let Some(value) = connection.and_then(|it| it.at_drive.take()) {
                self.block = value;
                self.close_if_drained(queue);
            }
        }
    }

    fn lose(&mut self) {
        let (qid, fault) = (1, QueueFault::Lost);
        self.host(Event::QueueDown { qid, fault });
        assert!(!self.live);
    }

    fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.now_ns += 100 * MS;
            self.host(Event::Tick);
        }
    }

    /// A write of before the loss lies in a socket; the same host writes again over the next association, as soon as that is allowed; and
    /// then the socket is read.
    fn what_a_late_write_leaves(drain: bool) -> u64 {
        let mut world = Self::new(drain);
        world.write(1);
        world.send_write(2);
        world.lose();
        world.pass(2);
        assert!(world.live && (!drain || world.drain == Drain::Proven));
        world.write(3);
        world.read_sockets();
        world.drive_answers();
        world.block
    }
}

#[test]
fn a_write_of_a_lost_connection_is_not_read_after_a_later_one_of_the_next() {
    assert_eq!(World::what_a_late_write_leaves(true), 3);
    assert_eq!(
        World::what_a_late_write_leaves(false),
        2,
        "without a reset it is: the check above sees that"
    );
}

#[test]
fn nothing_is_proven_while_a_drive_holds_a_command_of_any_controller_before() {
    let mut world = World::new(true);
    assert_eq!(world.drain, Drain::Proven, "there was none before");
    world.send_write(1);
    world.read_sockets();
    for _ in 0..5 {
        world.lose();
        world.pass(1);
        assert!(world.live);
        world.pass(7);
        assert_eq!(world.drain, Drain::UnderWay);
    }
    world.drive_answers();
    world.pass(10);
    assert_eq!((world.drain, world.block), (Drain::Proven, 1));
    world.lose();
    world.pass(2);
    assert_eq!(world.drain, Drain::Proven, "and it is found out anew");
    assert_eq!(world.connections.len(), 2, "those of the present controller");
}

#[test]
fn a_controller_that_is_gone_already_is_drained_whoever_has_its_number() {
    let mut world = World::new(true);
    world.lose();
    // The target has noticed it first.
    let queues: Vec<QueueId> = world.connections.keys().copied().collect();
    for queue in queues {
        if world.connections.remove(&queue).is_some() {
            world.target(subsystem::Event::Closed { queue });
        }
    }
    world.pass(2);
    assert_eq!(world.drain, Drain::Proven);
}

#[test]
fn more_losses_than_can_be_remembered_are_never_called_drained() {
    let mut world = World::new(true);
    let controller = world.association.controller.unwrap();
    for _ in 0..=PAST_MAX {
        world.association.resets.remember(&controller);
    }
    world.lose();
    world.pass(20);
    assert_eq!((world.live, world.drain), (true, Drain::Unsupported));
}

#[test]
fn a_target_without_resets_leaves_it_open() {
    let mut resets = Resets::default();
    let mut controller = World::new(true).association.controller.unwrap();
    assert_eq!(resets.judge(&controller), Drain::Proven);
    resets.remember(&controller);
    assert_eq!(resets.judge(&controller), Drain::UnderWay);
    controller.reset_limit = 0;
    assert_eq!(resets.judge(&controller), Drain::Unsupported);
    controller.reset_limit = 4;
    controller.instance = 0;
    resets.remember(&controller);
    assert_eq!(resets.judge(&controller), Drain::Unsupported);
}
