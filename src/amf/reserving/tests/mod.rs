//! One step after the other: what a node says, what it awaits, and what becomes of that when an epoch begins.

mod world;

use nvme::reservation::{Key, Kind, Notice, Persistence, Report};

use super::*;

const DISK: Uuid = Uuid([7; 16]);

fn slot(number: u8) -> Slot {
    Slot::new(number).expect("an array has that slot")
}

fn slots(numbers: &[u8]) -> SlotSet {
    numbers.iter().map(|number| slot(*number)).collect()
}

fn host(number: u8) -> HostId {
    HostId([number; 16])
}

const fn register(key: u64, persistence: Persistence) -> Command {
    Command::Register {
        new: Key(key),
        persistence,
    }
}

const fn acquire(key: u64) -> Command {
    Command::Acquire {
        current: Key(key),
        kind: Kind::WriteExclusive,
    }
}

const fn preempt(key: u64, victim: u64) -> Command {
    Command::Preempt {
        current: Key(key),
        victim: Key(victim),
        kind: Kind::WriteExclusive,
        abort: true,
    }
}

/// Nodes of one epoch whose messages arrive at once and whose cores and drives answer at once, except where a test holds that up.
struct Nodes {
    nodes: Vec<Reserving>,
    epoch: u32,
    leader: Slot,
    /// Cores of these nodes do not answer.
    slow: Vec<u8>,
    enforcing: Vec<(u8, Uuid, Version)>,
    /// Drives do not answer.
    is_held: bool,
    persisting: Vec<u64>,
    pages: Vec<Table>,
    answers: Vec<(u8, u64, Status, Vec<u8>)>,
}

impl Nodes {
    fn new(count: u8) -> Self {
        let nodes = (0..count).map(|number| Reserving::new(slot(number))).collect();
        let mut nodes = Self {
            nodes,
            epoch: 0,
            leader: slot(0),
            slow: Vec::new(),
            enforcing: Vec::new(),
            is_held: false,
            persisting: Vec::new(),
            pages: Vec::new(),
            answers: Vec::new(),
        };
        for node in &mut nodes.nodes {
            node.add(DISK);
        }
        let all: Vec<u8> = (0..count).collect();
        nodes.enter(&all, 0);
        nodes
    }

    fn act(&mut self, number: u8, act: impl FnOnce(&mut Reserving, &mut Vec<Action>)) {
        let mut out = Vec::new();
        act(&mut self.nodes[usize::from(number)], &mut out);
        self.carry_out(number, out);
    }

    fn carry_out(&mut self, number: u8, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    let message = Message::parse(&bytes).expect("it was just encoded");
                    self.act(to.number(), |node, out| node.receive(slot(number), message, out));
                }
                Action::Enforce { disk, version } if self.slow.contains(&number) => {
                    self.enforcing.push((number, disk, version));
                }
                Action::Enforce { disk, version } => {
                    self.act(number, |node, out| node.enforced(disk, version, out));
                }
                Action::Persist { ticket, page, .. } => {
                    self.pages
                        .push(Table::parse(&page[..]).expect("it was just encoded"));
                    if self.is_held {
                        self.persisting.push(ticket);
                    } else {
                        self.act(number, |node, out| node.persisted(ticket, out));
                    }
                }
                Action::Answer { name, status, data } => self.answers.push((number, name, status, data)),
            }
        }
    }

    /// An epoch of these members begins, and is opened.
    fn enter(&mut self, members: &[u8], leader: u8) {
        self.epoch += 1;
        self.leader = slot(leader);
        let (epoch, set) = (Epoch(self.epoch), slots(members));
        for number in members {
            self.act(*number, |node, out| node.enter(epoch, set, slot(leader), out));
        }
        self.act(leader, |node, out| node.lead(epoch, &[DISK], out));
        for number in members {
            self.act(*number, |node, out| node.serve(&[DISK], out));
        }
    }

    fn ask(&mut self, number: u8, name: u64, of: u8, command: Command) {
        self.act(number, |node, out| node.ask(DISK, name, host(of), command, out));
    }

    /// The same, and how it ended.
    fn run(&mut self, number: u8, of: u8, command: Command) -> Status {
        let name = 1000 + self.answers.len() as u64;
        self.ask(number, name, of, command);
        self.ended(number, name).expect("nothing holds it up").0
    }

    fn ended(&self, number: u8, name: u64) -> Option<(Status, Vec<u8>)> {
        let mut answers = self.answers.iter();
        let answer = answers.find(|answer| (answer.0, answer.1) == (number, name));
        answer.map(|(.., status, data)| (*status, data.clone()))
    }

    fn report(&mut self, number: u8) -> Report {
        let name = 5000 + self.answers.len() as u64;
        let command = Command::Report {
            extended: true,
            length_bytes: 4096,
        };
        self.ask(number, name, 9, command);
        let (_, data) = self.ended(number, name).expect("nothing holds it up");
        Report::parse(&data, true).expect("it is one")
    }

    fn table(&self, number: u8) -> &Table {
        self.nodes[usize::from(number)].table(DISK).expect("it was added")
    }

    fn enforced(&mut self, number: u8) {
        let of_node = |it: &mut (u8, Uuid, Version)| it.0 == number;
        for (_, disk, version) in self.enforcing.extract_if(.., of_node).collect::<Vec<_>>() {
            self.act(number, |node, out| node.enforced(disk, version, out));
        }
    }
}

#[test]
fn a_host_through_two_nodes_is_one_registrant_and_all_report_the_same() {
    let mut nodes = Nodes::new(3);
    assert_eq!(nodes.run(1, 4, register(1, Persistence::Keep)), Status::SUCCESS);
    assert_eq!(nodes.run(2, 4, register(1, Persistence::Keep)), Status::SUCCESS);
    assert_eq!(nodes.run(0, 5, register(2, Persistence::Keep)), Status::SUCCESS);
    assert_eq!(nodes.run(2, 4, acquire(1)), Status::SUCCESS);
    let conflict = nodes.run(1, 5, acquire(2));
    assert!(conflict.same_code(Status::RESERVATION_CONFLICT), "{conflict}");
    let reports: Vec<Report> = (0..3).map(|number| nodes.report(number)).collect();
    assert_eq!(reports[0].registrants.len(), 2);
    assert_eq!(reports[0].kind, Some(Kind::WriteExclusive));
    assert!(reports.iter().all(|report| *report == reports[0]));
    assert!((0..3).all(|number| nodes.table(number) == nodes.table(0)));
}

#[test]
fn a_change_is_answered_when_the_last_node_holds_to_it() {
    let mut nodes = Nodes::new(3);
    nodes.run(0, 4, register(1, Persistence::Keep));
    nodes.run(0, 5, register(2, Persistence::Keep));
    nodes.run(0, 5, acquire(2));
    nodes.slow = vec![2];
    nodes.ask(1, 77, 4, preempt(1, 2));
    assert_eq!(nodes.ended(1, 77), None);
    for number in 0..3 {
        let table = nodes.table(number);
        assert_eq!(table.state.registrants.len(), 1, "all hold to it meanwhile");
        assert_eq!(table.last.abort, [host(5)]);
        assert_eq!(table.last.notices, [(host(5), Notice::RegistrationPreempted)]);
    }
    nodes.ask(2, 78, 5, register(3, Persistence::Keep));
    assert_eq!(nodes.ended(2, 78), None, "it has its turn");
    nodes.slow.clear();
    nodes.enforced(2);
    assert_eq!(nodes.ended(1, 77).map(|ended| ended.0), Some(Status::SUCCESS));
    assert_eq!(nodes.ended(2, 78).map(|ended| ended.0), Some(Status::SUCCESS));
}

#[test]
fn what_is_to_persist_is_durable_before_anybody_hears_of_it() {
    let mut nodes = Nodes::new(2);
    nodes.is_held = true;
    nodes.ask(1, 7, 4, register(1, Persistence::On));
    assert_eq!(nodes.ended(1, 7), None);
    assert!((0..2).all(|number| !nodes.table(number).is_used()));
    let ticket = nodes.persisting[0];
    nodes.act(0, |node, out| node.persisted(ticket, out));
    assert_eq!(nodes.ended(1, 7).map(|ended| ended.0), Some(Status::SUCCESS));
    let page = nodes.pages[0].clone();
    assert_eq!((page.state, page.place), (nodes.table(1).state.clone(), Some(0)));
    nodes.act(0, |node, out| node.persisted(ticket, out));
    // What is asked for again was written in an epoch that is over: it is written anew.
    nodes.ask(0, 8, 4, acquire(1));
    assert_eq!(nodes.ended(0, 8), None);
    nodes.enter(&[0, 1], 0);
    let late = nodes.persisting[1];
    nodes.act(0, |node, out| node.persisted(late, out));
    assert_eq!(nodes.ended(0, 8), None, "that one is of before");
    let ticket = nodes.persisting[2];
    nodes.act(0, |node, out| node.persisted(ticket, out));
    assert_eq!(nodes.ended(0, 8).map(|ended| ended.0), Some(Status::SUCCESS));
    assert_eq!(
        (nodes.pages[1].pages, nodes.pages[2].pages),
        (2, 2),
        "the copy that everybody relies on stays until the next one is whole"
    );
}

#[test]
fn what_only_one_survivor_has_is_done_by_whoever_leads_next() {
    let mut nodes = Nodes::new(3);
    nodes.run(0, 4, register(1, Persistence::Keep));
    nodes.run(0, 5, register(2, Persistence::Keep));
    nodes.run(0, 5, acquire(2));
    let before = nodes.table(2).clone();
    // Node 0 leads, and dies when node 1 has heard, and node 2 has not.
    let (mut out, command) = (Vec::new(), preempt(1, 2));
    nodes.nodes[1].ask(DISK, 77, host(4), command, &mut out);
    let Action::Send { message, .. } = out.remove(0) else {
        panic!("it goes to whoever leads");
    };
    let mut out = Vec::new();
    nodes.nodes[0].receive(slot(1), message, &mut out);
    let tell = out.into_iter().find_map(|action| match action {
        Action::Send { to, message } if to == slot(1) => Some(message),
        Action::Send { .. } | Action::Enforce { .. } | Action::Persist { .. } | Action::Answer { .. } => None,
    });
    let tell = tell.expect("nothing of it has to last, and so everybody is told at once");
    nodes.slow = vec![1];
    nodes.act(1, |node, out| node.receive(slot(0), tell, out));
    assert!(nodes.table(1).version > before.version);
    assert_eq!(nodes.table(2), &before);
    nodes.enter(&[1, 2], 1);
    assert_eq!(nodes.table(2), nodes.table(1));
    assert_eq!(nodes.table(2).last.abort, [host(5)], "it is aborted there, too");
    assert_eq!(nodes.ended(1, 77), None, "here its commands still run");
    nodes.enforced(1);
    let ended = nodes.ended(1, 77).map(|ended| ended.0);
    assert_eq!(
        ended,
        Some(Status::SUCCESS),
        "it is not done twice, for there is nobody left"
    );
}

#[test]
fn who_comes_has_the_tables_before_anything_is_begun() {
    let mut nodes = Nodes::new(3);
    nodes.enter(&[0, 1], 0);
    nodes.run(0, 4, register(1, Persistence::Keep));
    nodes.run(0, 4, acquire(1));
    nodes.nodes[2] = Reserving::new(slot(2));
    nodes.slow = vec![2];
    nodes.ask(1, 77, 5, register(2, Persistence::Keep));
    nodes.enter(&[0, 1, 2], 0);
    assert_eq!(nodes.table(2), nodes.table(0));
    nodes.ask(1, 78, 6, register(3, Persistence::Keep));
    assert_eq!(nodes.ended(1, 78), None, "node 2 does not hold to it yet");
    nodes.enforced(2);
    nodes.slow.clear();
    nodes.enforced(2);
    assert_eq!(nodes.ended(1, 78).map(|ended| ended.0), Some(Status::SUCCESS));
}

#[test]
fn with_all_nodes_what_does_not_persist_goes() {
    for (persistence, left) in [(Persistence::On, 1), (Persistence::Keep, 0)] {
        let mut nodes = Nodes::new(2);
        nodes.run(0, 4, register(1, persistence));
        nodes.run(0, 4, acquire(1));
        let mut pages = Pages::default();
        for page in &nodes.pages {
            pages.take(&page.encode()[..]);
        }
        let tables = pages.of(&[DISK]);
        let last = nodes.table(0).version;
        let mut again = Nodes::new(2);
        again.epoch = nodes.epoch;
        for number in 0..2 {
            again.nodes[usize::from(number)] = Reserving::new(slot(number));
            again.act(number, |node, _| node.add(DISK));
        }
        again.act(0, |node, out| node.restore(tables, out));
        again.enter(&[0, 1], 0);
        assert_eq!(again.report(1).registrants.len(), left);
        assert_eq!(again.table(0).state, again.table(1).state);
        assert_eq!(
            again.pages.is_empty(),
            left == 0,
            "what was found is on all drives before it is relied on"
        );
        assert!(left == 0 || again.table(0).version > last);
    }
}

#[test]
fn nobody_waits_for_a_virtual_disk_that_is_gone_or_a_group_that_is_not_served() {
    let mut nodes = Nodes::new(2);
    nodes.slow = vec![0];
    nodes.ask(1, 7, 4, register(1, Persistence::Keep));
    nodes.ask(0, 8, 5, register(2, Persistence::Keep));
    nodes.act(0, |node, out| node.forget(DISK, out));
    for (number, name) in [(1, 7), (0, 8)] {
        let (status, _) = nodes.ended(number, name).expect("it has ended");
        assert!(status.same_code(Status::INVALID_NAMESPACE_OR_FORMAT));
    }
    nodes.act(1, |node, out| node.forget(DISK, out));
    nodes.ask(1, 9, 4, register(1, Persistence::Keep));
    assert!(nodes.ended(1, 9).is_some());
    nodes.act(1, |node, _| node.add(DISK));
    nodes.act(1, Reserving::refuse);
    nodes.ask(1, 10, 4, register(1, Persistence::Keep));
    assert_eq!(
        nodes.ended(1, 10).map(|ended| ended.0),
        Some(Status::INTERNAL_ERROR)
    );
}

#[test]
fn places_are_given_once() {
    let mut nodes = Nodes::new(1);
    let disks: Vec<Uuid> = (1..=28).map(|number| Uuid([number; 16])).collect();
    for disk in &disks {
        nodes.act(0, |node, _| node.add(*disk));
    }
    nodes.is_held = true;
    for (name, disk) in (0..).zip(&disks) {
        nodes.act(0, |node, out| {
            node.ask(*disk, name, host(1), register(1, Persistence::On), out);
        });
    }
    let places: BTreeSet<u8> = nodes.pages.iter().filter_map(|page| page.place).collect();
    assert_eq!(
        places.len(),
        PLACES,
        "also while their first pages are being written"
    );
}
