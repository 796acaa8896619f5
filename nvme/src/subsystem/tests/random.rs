//! Random events from one seed: nothing panics, nothing is completed twice, nothing is forgotten.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// The runtime's view of one run.
struct World {
    rig: Rig,
    random: Random,
    /// Open connections with the commands that are not completed.
    open: BTreeMap<QueueId, BTreeSet<u16>>,
    /// Connections that are to be closed, but are not yet.
    closing: BTreeSet<QueueId>,
    aborts: Vec<u32>,
    /// Rules of reservations that the cores have not confirmed.
    enforcements: Vec<u64>,
    enforced: u32,
    /// Reservations that are not durable yet.
    persists: Vec<u64>,
    /// Passed on and not answered.
    passed: Vec<u64>,
    cntlids: Vec<u16>,
    /// Resets that hosts of other nodes wait for: the connections that have to be gone before, if the controller is that host's.
    asked: BTreeMap<u64, Option<Vec<QueueId>>>,
    asked_number: u64,
    /// Resets that other nodes have been asked for.
    elsewhere: Vec<u64>,
    resets: u32,
}

impl World {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.draw() % bound
    }

    fn number(&mut self, bound: u32) -> u32 {
        u32::try_from(self.below(u64::from(bound))).unwrap()
    }

    fn pick(&mut self) -> Option<QueueId> {
        let index = usize::try_from(self.random.draw() >> 33).unwrap();
        let count = self.open.len();
        (count > 0).then(|| *self.open.keys().nth(index % count).unwrap())
    }

    fn entry(&mut self) -> SubmissionEntry {
        let mut bytes = [0; 64];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.random.draw().to_le_bytes());
        }
        let mut entry = SubmissionEntry::parse(bytes);
        if self.below(8) == 0 {
            return entry;
        }
        let opcodes = [0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18];
        let opcode = opcodes[usize::try_from(self.below(7)).unwrap()];
        let mut sane = admin(opcode, 512 * self.number(9));
        sane.set_cid(entry.cid() & 15);
        entry.set_nsid(entry.nsid() & 3);
        sane.set_nsid(entry.nsid());
        sane.set_dword(10, entry.dword(10) & 0x00ff_037f);
        sane.set_dword(11, entry.dword(11) & 3);
        sane.set_qword(12, entry.qword(12) & 0x1ffc);
        sane
    }

    /// One Connect or one write to CC, mostly right.
    fn fabrics(&mut self) -> (SubmissionEntry, Vec<u8>) {
        let host = self.number(3);
        match self.below(4) {
            0 => {
                let subnqn = if self.below(3) == 0 {
                    Nqn::DISCOVERY
                } else {
                    subsystem_nqn()
                };
                (admin_connect().encode(1), data(&subnqn, host).encode().to_vec())
            }
            1 if !self.cntlids.is_empty() => {
                let index = usize::try_from(self.below(64)).unwrap() % self.cntlids.len();
                let qid = u16::try_from(self.below(5)).unwrap() + 1;
                (
                    io_connect(qid).encode(1),
                    io_data(host, self.cntlids[index]).encode().to_vec(),
                )
            }
            2 => (PropertyAccess::get(1, property::CSTS), Vec::new()),
            _ => {
                let values = [
                    0,
                    Configuration::START.0,
                    Configuration::START.0,
                    Configuration::SHUTDOWN.0,
                    1,
                ];
                let value = values[usize::try_from(self.below(5)).unwrap()];
                (PropertyAccess::set(1, property::CC, value), Vec::new())
            }
        }
    }

    fn step(&mut self) {
        self.rig.now_ns += self.below(20 * MS);
        match self.below(22) {
            20 => self.ask_reset(),
            21 => self.reset(),
            16..=18 => {
                let (entry, keys) = self.reservation();
                self.send(entry, &keys);
            }
            19 => self.answer(),
            0 => {
                let port = if self.below(4) == 0 { DISCOVERY_PORT } else { MAIN };
                let queue = self.rig.open(port);
                self.open.insert(queue, BTreeSet::new());
            }
            1 => self.rig.step(Event::Tick),
            2 => {
                if let Some(queue) = self.pick().filter(|_| self.below(4) == 0) {
                    self.close(queue);
                }
            }
            3 => {
                if let Some(queue) = self.closing.pop_first() {
                    self.close(queue);
                }
            }
            4 => self.change(),
            5..=9 => {
                let (entry, data) = self.fabrics();
                self.send(entry, &data);
            }
            _ => {
                let entry = self.entry();
                self.send(entry, &[0; 8]);
            }
        }
        self.look();
    }

    /// A reservation command of any kind, with few keys, so that some succeed.
    fn reservation(&mut self) -> (SubmissionEntry, [u8; 16]) {
        let opcodes = [0x0d, 0x0d, 0x0e, 0x11, 0x11, 0x15];
        let mut entry = SubmissionEntry::new(opcodes[usize::try_from(self.below(6)).unwrap()], 1);
        entry.set_nsid(self.number(3) + 1);
        entry.set_sgl(Sgl::Transport { length_bytes: 512 });
        entry.set_dword(10, self.number(4) | self.number(8) << 8 | self.number(4) << 30);
        entry.set_dword(11, 1);
        let mut keys = [0; 16];
        keys[0] = u8::try_from(self.below(3)).unwrap();
        keys[8] = u8::try_from(self.below(3)).unwrap();
        (entry, keys)
    }

    /// Answers what the machine waits for.
    fn answer(&mut self) {
        if self.below(4) == 0
            && let Some(number) = self.elsewhere.pop()
        {
            let outcomes = [ResetOutcome::Over, ResetOutcome::Refused, ResetOutcome::Unknown];
            let outcome = outcomes[usize::try_from(self.below(3)).unwrap()];
            self.rig.step(Event::ResetElsewhere { number, outcome });
        } else if let Some(number) = self.enforcements.pop() {
            self.enforced += 1;
            self.rig.step(Event::ReservationEnforced { number });
        } else if let Some(number) = self.persists.pop() {
            let succeeded = self.below(4) > 0;
            self.rig.step(Event::ReservationPersisted { number, succeeded });
        } else if let Some(number) = self.passed.pop() {
            self.enforced += 1;
            self.rig.step(Event::ReservationAnswered(ReservationAnswer {
                number,
                status: Status::SUCCESS,
                data: Vec::new(),
            }));
        }
    }

    /// What names an instance of a controller, and its host; sometimes of one that is over.
    fn instance(&mut self) -> Option<(ResetWish, ControllerKind)> {
        let index = usize::try_from(self.below(64)).unwrap();
        let controllers = &self.rig.subsystem.controllers;
        let controller = controllers.values().nth(index % controllers.len().max(1))?;
        let mut wish = ResetWish {
            cntlid: controller.cntlid,
            instance: controller.instance,
            random: controller.instance_random,
            host: controller.host.clone(),
        };
        let kind = controller.kind;
        if self.below(4) == 0 {
            wish.random ^= 1;
        }
        Some((wish, kind))
    }

    /// A host of another node resets a controller of this one; or a stranger tries to.
    fn ask_reset(&mut self) {
        let Some((mut wish, kind)) = self.instance() else {
            return;
        };
        let controller = &self.rig.subsystem.controllers[&wish.cntlid];
        let is_it = controller.instance_random == wish.random;
        let mut queues: Vec<QueueId> = controller.io.values().copied().collect();
        queues.extend(controller.admin);
        if self.below(4) == 0 {
            wish.host = host_nqn(9);
        }
        let is_own = wish.host != host_nqn(9) && kind == ControllerKind::Io;
        let awaited = match (is_it, is_own) {
            (true, true) => Some(queues),
            (true, false) => None,
            (false, _) => Some(Vec::new()),
        };
        self.asked_number += 1;
        let number = self.asked_number;
        self.asked.insert(number, awaited);
        self.rig.step(Event::ResetAsked { number, wish });
    }

    /// A host resets a controller of this node or of another one.
    fn reset(&mut self) {
        let Some((wish, _)) = self.instance() else { return };
        let mut entry = admin(admin_opcode::CROSS_CONTROLLER_RESET, 0);
        let elsewhere = u32::try_from(200 + self.below(8)).unwrap();
        let cntlid = match self.below(2) {
            0 => u32::from(wish.cntlid),
            _ => elsewhere,
        };
        entry.set_dword(10, cntlid | u32::from(wish.instance) << 16);
        entry.set_qword(12, wish.random);
        self.send(entry, &[]);
    }

    fn reset_answered(&mut self, number: u64, outcome: ResetOutcome) {
        let awaited = self.asked.remove(&number).expect("each reset is answered once");
        match (outcome, awaited) {
            (ResetOutcome::Over, Some(queues)) => {
                let is_gone = queues.iter().all(|queue| !self.open.contains_key(queue));
                assert!(is_gone, "it still has connections");
                self.resets += u32::from(!queues.is_empty());
            }
            (ResetOutcome::Refused, None) => {}
            (outcome, awaited) => panic!("{outcome:?} of {awaited:?}"),
        }
    }

    fn change(&mut self) {
        let nsid = self.number(3) + 1;
        match self.below(6) {
            0 if self.rig.subsystem.namespaces.contains_key(&nsid) => {
                self.rig.step(Event::NamespaceRemoved { nsid });
            }
            0 => self.rig.step(Event::NamespaceAdded(Namespace {
                reservable: match nsid {
                    1 => Reservable::Persistently,
                    2 => Reservable::UntilStop,
                    _ => Reservable::AcrossNodes,
                },
                ..namespace(nsid)
            })),
            1 => self.rig.step(Event::PortsChanged(config().ports)),
            2 => {
                let hosts = (0..self.number(4)).map(host_nqn).collect();
                self.rig.step(Event::HostsChanged(HostAccess::List(hosts)));
            }
            3 => self.rig.step(Event::HostsChanged(HostAccess::Any)),
            4 => {
                let critical_warning = u8::try_from(self.below(32)).unwrap();
                self.rig.step(Event::Health(Health {
                    critical_warning,
                    ..Health::default()
                }));
            }
            _ => {
                if let Some(token) = self.aborts.pop() {
                    let aborted = self.below(2) == 0;
                    self.rig.step(Event::Aborted { token, aborted });
                }
            }
        }
    }

    fn send(&mut self, entry: SubmissionEntry, data: &[u8]) {
        let Some(queue) = self.pick() else { return };
        let slot = self.rig.send(queue, entry, data);
        self.open.get_mut(&queue).unwrap().insert(slot);
    }

    fn close(&mut self, queue: QueueId) {
        self.closing.remove(&queue);
        self.open.remove(&queue);
        self.rig.close(queue);
    }

    /// Does what the runtime would do and checks what was promised to it.
    fn look(&mut self) {
        for action in std::mem::take(&mut self.rig.actions) {
            match action {
                Action::Accept { cntlid, qid: 0, .. } => self.cntlids.push(cntlid),
                Action::Accept { .. } | Action::Report(_) => {}
                Action::Complete { queue, slot, .. } => {
                    let slots = self
                        .open
                        .get_mut(&queue)
                        .expect("completed on an open connection");
                    assert!(slots.remove(&slot), "each command is completed once");
                    assert!(!self.closing.contains(&queue), "nothing is completed after Close");
                }
                Action::Abort { token, .. } => self.aborts.push(token),
                Action::EnforceReservation(order) => self.enforcements.push(order.number),
                Action::PersistReservation { number, .. } => self.persists.push(number),
                Action::PassReservation(passed) => self.passed.push(passed.number),
                Action::Close { queue, .. } => {
                    assert!(self.closing.insert(queue), "closed once");
                }
                Action::ResetElsewhere { number, wish } => {
                    assert!((200..=299).contains(&wish.cntlid));
                    self.elsewhere.push(number);
                }
                Action::ResetAnswered { number, outcome } => self.reset_answered(number, outcome),
            }
        }
        let waiting = self.rig.subsystem.controllers.values();
        assert!(waiting.map(|it| it.aborts.len()).all(|count| count <= 4));
    }
}

/// PROTOCOL H37: among others, no reset is answered as through before the last connection is gone.
#[test]
fn random_events_never_panic_never_complete_twice_and_leave_nothing_behind() {
    let (mut enforced, mut resets, mut elsewhere) = (0, 0, 0);
    for seed in 0..24 {
        let config = Config {
            cntlids_elsewhere: vec![200..=299],
            ..config()
        };
        let mut world = World {
            rig: Rig::new(config),
            random: Random(seed),
            open: BTreeMap::new(),
            closing: BTreeSet::new(),
            aborts: Vec::new(),
            enforcements: Vec::new(),
            enforced: 0,
            persists: Vec::new(),
            passed: Vec::new(),
            cntlids: Vec::new(),
            asked: BTreeMap::new(),
            asked_number: 0,
            elsewhere: Vec::new(),
            resets: 0,
        };
        for _ in 0..4000 {
            world.step();
        }
        assert!(world.cntlids.len() > 10, "the run made associations");
        enforced += world.enforced;
        resets += world.resets;
        elsewhere += world.rig.subsystem.reset_number;
        world.rig.step(Event::Shutdown);
        world.look();
        let open: Vec<QueueId> = world.open.keys().copied().collect();
        for queue in open {
            assert!(
                world.closing.contains(&queue),
                "every connection is closed in the end"
            );
            world.close(queue);
        }
        world.look();
        while !(world.enforcements.is_empty() && world.persists.is_empty() && world.passed.is_empty()) {
            world.answer();
            world.look();
        }
        assert!(
            world.asked.is_empty(),
            "every reset is answered: {:?}",
            world.asked
        );
        let subsystem = &world.rig.subsystem;
        assert!(subsystem.queues.is_empty() && subsystem.controllers.is_empty());
        assert!(subsystem.unconnected.is_empty());
    }
    assert!(enforced > 100, "hosts made reservations: {enforced}");
    assert!(
        resets > 100 && elsewhere > 10,
        "hosts reset controllers: {resets}, {elsewhere}"
    );
}
