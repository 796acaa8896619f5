//! Several nodes that share drives: the real membership machines of a few nodes, drives that hold writes back, links that lose, double, delay
//! and cut, nodes that are killed, paused and started again, clocks that run apart; all of it from one seed.
//!
//! What may never happen is checked while it runs, and is a panic that names the invariant: I3, I4 and I10 of PROTOCOL 4.3. After the faults all
//! is healed, and the array has to be whole again (I19).

mod checks;
mod drive;
mod faults;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::checks::Checks;
use self::drive::{Drive, Life, Outcome, What, host_of};
use self::faults::Fault;
use crate::icl::membership::authority::Authority;
use crate::icl::membership::choice::Need;
use crate::icl::membership::machine::{Action, Answer, Command, Config, Event, Machine, Ticket, Wish};
use crate::icl::membership::message::Announcement;
use crate::icl::membership::paxos::Paxos;
use crate::icl::membership::status::Stage;
use crate::icl::membership::times::IO_NS;
use crate::icl::{ArrayId, DriveIndex, DriveSet, Epoch, Incarnation, Slot};

const MS: u64 = 1_000_000;
const ARRAY: ArrayId = ArrayId([9; 16]);
const FORMED_NS: u64 = 15_000 * MS;
const FAULTS_NS: u64 = 20_000 * MS;
/// After everything is healed: two watches, a wait for peers, fences and leases, and a rejoin or two.
const LIVENESS_NS: u64 = 60_000 * MS;

/// SplitMix64.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn ms(&mut self, from: u64, to: u64) -> u64 {
        (from + self.below(to - from)) * MS
    }
}

/// A fault of the machines' surroundings or of the machines that the checks have to catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// All is as it should be.
    None,
    /// A layer turns Preempt and Abort into a plain Preempt.
    AbortLost,
    /// Nodes answer hosts without looking at their lease.
    LeaseIgnored,
    /// Drives show heartbeats that are two seconds old.
    BeatsOld,
}

/// What will happen at some time.
#[derive(Clone, Debug)]
enum Coming {
    Wake(usize, Incarnation),
    Arrive(u64),
    Execute(u64),
    Timeout(u64),
    Tell(usize, Incarnation, Box<Event>),
    Data(usize, Incarnation),
    Fault(Fault),
    Restart(usize),
    Rebuild,
    Drain(usize, Incarnation),
}

/// A command of a node to a drive that is not answered.
#[derive(Clone, Debug)]
struct Flight {
    node: usize,
    life: Life,
    drive: usize,
    ticket: Option<Ticket>,
    what: What,
    /// It was lost on its way, or its answer would be: it is answered when the path is there again.
    is_stuck: bool,
}

struct Node<A> {
    slot: Slot,
    life: u64,
    machine: Option<Machine<A>>,
    /// The clock of a node runs a little faster or slower: nanoseconds in a million.
    rate: u64,
    paused: bool,
    is_draining: bool,
    backlog: Vec<Event>,
    halts: u32,
}

impl<A> Node<A> {
    fn incarnation(&self) -> Incarnation {
        Incarnation(self.life * 100 + u64::from(self.slot.number()) + 1)
    }
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Epochs that were opened.
    pub epochs: u64,
    /// Writes of data that drives have executed.
    pub writes: u64,
    /// Lives of nodes that ended because they were evicted.
    pub halts: u64,
}

/// One seed: an array of two to four nodes and three or five drives forms, suffers for twenty seconds, is healed, and has to be whole again.
///
/// Panics, and says why, if an invariant does not hold.
pub fn run(seed: u64, mutant: Mutant) -> Summary {
    run_with::<Paxos>(seed, mutant)
}

/// The same, with records decided by `A`.
fn run_with<A: Authority>(seed: u64, mutant: Mutant) -> Summary {
    let nodes = 2 + usize::try_from(seed % 3).expect("below three");
    let drives = if seed.is_multiple_of(2) { 3 } else { 5 };
    let mut world = World::<A>::formed(seed, nodes, drives, mutant);
    let now_ns = world.now_ns;
    world.stuck_percent = 10;
    world.plan(now_ns, now_ns + FAULTS_NS);
    world.run_until(now_ns + FAULTS_NS);
    world.run_until_whole(LIVENESS_NS);
    Summary {
        epochs: u64::from(world.checks.epochs_opened),
        writes: world.checks.writes,
        halts: world.checks.halts.len() as u64,
    }
}

struct World<A = Paxos> {
    now_ns: u64,
    random: Random,
    queue: BTreeMap<(u64, u64), Coming>,
    count: u64,
    nodes: Vec<Node<A>>,
    drives: Vec<Drive>,
    /// Drive `d` is on shelf `d` modulo this.
    shelves: usize,
    flights: BTreeMap<u64, Flight>,
    /// `cuts[from][to]`: nothing arrives.
    cuts: Vec<Vec<bool>>,
    /// `paths[node][drive]`: lost.
    lost_paths: Vec<Vec<bool>>,
    loss_percent: u64,
    /// Held commands that cannot be aborted.
    stuck_percent: u64,
    checks: Checks,
    mutant: Mutant,
}

impl<A: Authority> World<A> {
    /// An array that is whole.
    fn formed(seed: u64, nodes: usize, drives: usize, mutant: Mutant) -> Self {
        let mut world = Self::new(seed, nodes, drives, mutant);
        world.run_until_whole(FORMED_NS);
        world
    }

    fn new(seed: u64, nodes: usize, drives: usize, mutant: Mutant) -> Self {
        let mut random = Random(seed);
        let index = |number: usize| DriveIndex::new(u8::try_from(number).expect("a few")).expect("a few");
        let slot = |number: usize| Slot::new(u8::try_from(number).expect("a few")).expect("a few");
        let node = |number: usize| Node {
            slot: slot(number),
            life: 0,
            machine: None,
            rate: 960_000 + random.below(80_000),
            paused: false,
            is_draining: false,
            backlog: Vec::new(),
            halts: 0,
        };
        let nodes: Vec<Node<A>> = (0..nodes).map(node).collect();
        let mut world = Self {
            now_ns: 0,
            random,
            queue: BTreeMap::new(),
            count: 0,
            cuts: vec![vec![false; nodes.len()]; nodes.len()],
            lost_paths: vec![vec![false; drives]; nodes.len()],
            drives: (0..drives).map(|number| Drive::new(index(number))).collect(),
            nodes,
            shelves: 1 + usize::try_from(seed / 6 % 3).expect("below three"),
            flights: BTreeMap::new(),
            loss_percent: 1,
            stuck_percent: 0,
            checks: Checks::default(),
            mutant,
        };
        for drive in &mut world.drives {
            drive.loses_abort = mutant == Mutant::AbortLost;
            drive.shows_old_beats = mutant == Mutant::BeatsOld;
        }
        for number in 0..world.nodes.len() {
            world.start(number);
        }
        world.nodes_event(0, Event::Format);
        world.later(5_000 * MS, Coming::Rebuild);
        world
    }

    fn all_drives(&self) -> DriveSet {
        self.drives.iter().map(|drive| drive.index).collect()
    }

    fn later(&mut self, after_ns: u64, coming: Coming) {
        self.count += 1;
        self.queue.insert((self.now_ns + after_ns, self.count), coming);
    }

    fn clock(&self, node: usize) -> u64 {
        self.now_ns / 1_000_000 * self.nodes[node].rate
    }

    /// Starts a new life of a node.
    fn start(&mut self, node: usize) {
        let now_ns = self.clock(node);
        let drives = self.all_drives();
        let random = u32::try_from(self.random.below(1 << 24)).expect("24 bits");
        let failures = u32::try_from(self.drives.len() / 2).expect("a few");
        let one = &mut self.nodes[node];
        one.life += 1;
        one.paused = false;
        one.is_draining = false;
        one.backlog.clear();
        let config = Config {
            array: ARRAY,
            slot: one.slot,
            incarnation: one.incarnation(),
            random,
            drives,
            voters: drives,
            killers: if random.is_multiple_of(2) {
                drives
            } else {
                DriveSet::EMPTY
            },
            needs: vec![Need {
                drives,
                required: drives.count() - failures,
            }],
        };
        one.machine = Some(Machine::new(now_ns, config));
        let incarnation = one.incarnation();
        self.later(0, Coming::Wake(node, incarnation));
        self.later(MS, Coming::Data(node, incarnation));
        for drive in 0..self.drives.len() {
            if self.is_reached(node, drive) {
                self.nodes_event(node, Event::DriveUp(self.drives[drive].index));
            }
        }
    }

    fn is_reached(&self, node: usize, drive: usize) -> bool {
        self.drives[drive].is_online && !self.lost_paths[node][drive]
    }

    /// Gives an event to a node, or keeps it while the node is paused.
    fn nodes_event(&mut self, node: usize, event: Event) {
        let now_ns = self.clock(node);
        let one = &mut self.nodes[node];
        if one.paused {
            return one.backlog.push(event);
        }
        let Some(machine) = &mut one.machine else { return };
        let mut out = Vec::new();
        machine.handle(now_ns, event, &mut out);
        let wake_ns = machine.wake_at_ns().saturating_sub(now_ns).max(MS) * 1_000_000 / one.rate;
        let incarnation = one.incarnation();
        self.later(wake_ns + 1, Coming::Wake(node, incarnation));
        for action in out {
            self.carry_out(node, incarnation, action);
        }
    }

    fn carry_out(&mut self, node: usize, incarnation: Incarnation, action: Action) {
        match action {
            Action::Drive {
                drive,
                ticket,
                command,
            } => self.issue(
                node,
                usize::from(drive.number()),
                Some(ticket),
                What::Membership(command),
            ),
            Action::Announce(said) => self.spread(node, &said),
            Action::Decided(record) => self.checks.decided(&record),
            Action::Barrier(epoch) => self.amf(node, incarnation, Event::BarrierDone(epoch)),
            Action::Recover(record) => self.amf(node, incarnation, Event::Recovered(record.epoch)),
            Action::Opened(record) => {
                self.checks.opened(&record);
                self.check_authority();
            }
            Action::Drain => self.later(MS, Coming::Drain(node, incarnation)),
            Action::Halt(halt) => {
                self.checks.halted(self.nodes[node].slot, halt);
                self.nodes[node].halts += 1;
                let after_ns = self.random.ms(300, 2_000);
                self.later(after_ns, Coming::Restart(node));
            }
            Action::Suspect(_) | Action::Pause | Action::Resume | Action::DriveStale(_) => {}
        }
    }

    fn amf(&mut self, node: usize, incarnation: Incarnation, event: Event) {
        let after_ns = self.random.ms(1, 30);
        self.later(after_ns, Coming::Tell(node, incarnation, Box::new(event)));
    }

    fn spread(&mut self, from: usize, said: &Announcement) {
        let bytes = said.encode();
        for to in 0..self.nodes.len() {
            if to == from || self.cuts[from][to] || self.random.chance(self.loss_percent) {
                continue;
            }
            let copies = if self.random.chance(2) { 2 } else { 1 };
            for _ in 0..copies {
                let said = Announcement::parse(&bytes).expect("what is sent is received");
                let slow = self.random.chance(1);
                let after_ns = if slow {
                    self.random.ms(50, 3_000)
                } else {
                    self.random.ms(0, 3) + MS / 10
                };
                let incarnation = self.nodes[to].incarnation();
                self.later(
                    after_ns,
                    Coming::Tell(to, incarnation, Box::new(Event::Heard(Box::new(said)))),
                );
            }
        }
    }

    fn issue(&mut self, node: usize, drive: usize, ticket: Option<Ticket>, what: What) {
        let life = (self.nodes[node].slot, self.nodes[node].incarnation());
        self.count += 1;
        let id = self.count;
        let flight = Flight {
            node,
            life,
            drive,
            ticket,
            what,
            is_stuck: !self.is_reached(node, drive),
        };
        self.flights.insert(id, flight);
        let slow = self.random.chance(1);
        let after_ns = if slow {
            self.random.ms(10, 400)
        } else {
            self.random.ms(0, 2) + MS / 10
        };
        self.later(after_ns, Coming::Arrive(id));
        self.later(IO_NS, Coming::Timeout(id));
    }

    /// A command reaches its drive: the checks are made now, the effect may come much later.
    fn arrive(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        let (node, drive, life) = (flight.node, flight.drive, flight.life);
        // What a dead life has on its way arrives all the same.
        if flight.is_stuck || !self.drives[drive].is_online || self.lost_paths[node][drive] {
            flight.is_stuck = true;
            return;
        }
        let what = flight.what.clone();
        if !self.drives[drive].admits(life) {
            return self.answer(id, Answer::Failed);
        }
        if !self.drives[drive].permits(life, &what) {
            return self.answer(id, Answer::Conflict);
        }
        match what {
            What::Membership(Command::Reserve(command)) => {
                let outcome = self.drives[drive].reserve(id, life, command);
                self.follow(outcome);
            }
            What::Membership(Command::Expel) => {
                self.drives[drive].expelled.insert(life.0, life.1);
                self.end_associations(drive, |other| other.0 == life.0 && other.1 < life.1);
                self.answer(id, Answer::Done);
            }
            What::Membership(Command::Kill(slot, incarnation)) => {
                self.drives[drive].killed.insert((slot, incarnation));
                self.end_associations(drive, |other| other == (slot, incarnation));
                self.answer(id, Answer::Done);
            }
            what @ (What::Membership(_) | What::Data) => {
                let long = self.random.chance(3);
                let hold_ns = if long {
                    self.random.ms(100, 9_000)
                } else {
                    self.random.ms(0, 2)
                };
                let can_abort = !self.random.chance(self.stuck_percent);
                self.drives[drive].held.insert(id, (life, what, can_abort));
                self.later(hold_ns, Coming::Execute(id));
            }
        }
    }

    fn execute(&mut self, id: u64) {
        let Some(flight) = self.flights.get(&id) else {
            return;
        };
        let (drive, life) = (flight.drive, flight.life);
        let Some((_, what, _)) = self.drives[drive].held.get(&id).cloned() else {
            return;
        };
        if what.is_reserved_write() {
            self.checks
                .executed(&self.drives[drive], life, matches!(what, What::Data));
        }
        let answer = match &what {
            What::Data => Answer::Done,
            What::Membership(command) => self.drives[drive].execute(life, command),
        };
        self.answer(id, answer);
        let outcome = self.drives[drive].released(id);
        self.follow(outcome);
    }

    /// Nothing of these lives on the drive has an effect any more.
    fn end_associations(&mut self, drive: usize, is_meant: impl Fn(Life) -> bool) {
        let of_them = |(_, flight): &(&u64, &Flight)| flight.drive == drive && is_meant(flight.life);
        let ids: Vec<u64> = self.flights.iter().filter(of_them).map(|(id, _)| *id).collect();
        for id in ids {
            self.drives[drive].reservation.withdraw(|name| *name == id);
            self.answer(id, Answer::Failed);
            let outcome = self.drives[drive].released(id);
            self.follow(outcome);
        }
    }

    fn follow(&mut self, outcome: Outcome) {
        for (id, _) in outcome.aborted {
            self.answer(id, Answer::Failed);
        }
        for (id, answer) in outcome.done {
            self.answer(id, answer);
        }
        for host in outcome.preempted {
            let told = self
                .nodes
                .iter()
                .position(|node| host_of((node.slot, node.incarnation())) == host);
            if let Some(node) = told.filter(|_| self.random.chance(50)) {
                let incarnation = self.nodes[node].incarnation();
                let after_ns = self.random.ms(0, 20);
                self.later(
                    after_ns,
                    Coming::Tell(node, incarnation, Box::new(Event::Preempted)),
                );
            }
        }
    }

    /// The command has had its effect, or never will: its owner is told, if there is a way.
    fn answer(&mut self, id: u64, answer: Answer) {
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        let Some(ticket) = flight.ticket else {
            if answer == Answer::Conflict && flight.life.1 == self.nodes[flight.node].incarnation() {
                self.nodes_event(flight.node, Event::Preempted);
            }
            return;
        };
        let drive = self.drives[flight.drive].index;
        let event = Event::Answered {
            drive,
            ticket,
            answer,
        };
        let after_ns = self.random.ms(0, 2) + MS / 10;
        self.later(
            after_ns,
            Coming::Tell(flight.node, flight.life.1, Box::new(event)),
        );
    }

    /// A command takes too long: its association is torn down if the drive can be reached, and then nothing of it is left.
    fn timeout(&mut self, id: u64) {
        let Some(flight) = self.flights.get(&id) else {
            return;
        };
        let (node, drive, life) = (flight.node, flight.drive, flight.life);
        let is_current = self.nodes[node].machine.is_some() && self.nodes[node].incarnation() == life.1;
        if !is_current || self.nodes[node].paused {
            return;
        }
        let cannot_end = self.drives[drive]
            .held
            .get(&id)
            .is_some_and(|(.., can_abort)| !can_abort);
        if flight.is_stuck || cannot_end {
            return;
        }
        self.drives[drive].reservation.withdraw(|name| *name == id);
        self.answer(id, Answer::Failed);
        let outcome = self.drives[drive].released(id);
        self.follow(outcome);
    }

    /// A serving node writes data of hosts to some drive in use, and so do those of a mutant that does not look.
    fn write_data(&mut self, node: usize, incarnation: Incarnation) {
        if self.nodes[node].incarnation() != incarnation || self.nodes[node].machine.is_none() {
            return;
        }
        let after_ns = self.random.ms(20, 60);
        self.later(after_ns, Coming::Data(node, incarnation));
        let now_ns = self.clock(node);
        let one = &self.nodes[node];
        let may = one
            .machine
            .as_ref()
            .is_some_and(|machine| machine.may_complete(now_ns));
        if one.paused || one.is_draining || !may {
            return;
        }
        let drive = self.random.index(self.drives.len());
        let record = one.machine.as_ref().and_then(Machine::record);
        if record.is_some_and(|record| record.drives.contains(self.drives[drive].index)) {
            self.issue(node, drive, None, What::Data);
        }
    }

    /// A node that leaves waits for the last of its writes.
    fn drain(&mut self, node: usize, incarnation: Incarnation) {
        if self.nodes[node].incarnation() != incarnation || self.nodes[node].machine.is_none() {
            return;
        }
        self.nodes[node].is_draining = true;
        let is_own = |flight: &Flight| flight.life.1 == incarnation && matches!(flight.what, What::Data);
        if self.flights.values().any(is_own) {
            self.later(10 * MS, Coming::Drain(node, incarnation));
        } else {
            self.nodes_event(node, Event::Drained);
        }
    }

    /// Nobody answers hosts whom the newest open epoch does not name.
    fn check_authority(&mut self) {
        for node in 0..self.nodes.len() {
            let now_ns = self.clock(node);
            let one = &self.nodes[node];
            let Some(machine) = &one.machine else { continue };
            let may = if self.mutant == Mutant::LeaseIgnored {
                machine.status(now_ns).stage == Stage::Open
            } else {
                machine.may_complete(now_ns)
            };
            if may {
                self.checks.may_answer((one.slot, one.incarnation()));
            }
        }
    }

    fn rebuild(&mut self) {
        self.later(5_000 * MS, Coming::Rebuild);
        let all = self.all_drives();
        if !self.drives.iter().all(|drive| drive.is_online) {
            return;
        }
        for node in 0..self.nodes.len() {
            let now_ns = self.clock(node);
            let Some(machine) = &self.nodes[node].machine else {
                continue;
            };
            let status = machine.status(now_ns);
            let Some(record) = machine.record().filter(|_| status.stage == Stage::Open) else {
                continue;
            };
            if record.drives != all && record.leader().slot == self.nodes[node].slot {
                let wish = Wish {
                    drives: all,
                    generation: record.generation + 1,
                    dirty_ram: record.dirty_ram,
                };
                return self.nodes_event(node, Event::Configure(wish));
            }
        }
    }

    /// Runs until this time.
    fn run_until(&mut self, until_ns: u64) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until_ns {
                break;
            }
            let ((now_ns, _), coming) = entry.remove_entry();
            assert!(now_ns >= self.now_ns);
            self.now_ns = now_ns;
            self.happen(coming);
        }
        self.now_ns = until_ns;
    }

    fn happen(&mut self, coming: Coming) {
        match coming {
            Coming::Wake(node, incarnation) => {
                let one = &self.nodes[node];
                let now_ns = self.clock(node);
                let is_due = one
                    .machine
                    .as_ref()
                    .is_some_and(|machine| machine.wake_at_ns() <= now_ns + MS);
                if one.incarnation() == incarnation && !one.paused && is_due {
                    self.nodes_event(node, Event::Tick);
                }
            }
            Coming::Arrive(id) => self.arrive(id),
            Coming::Execute(id) => self.execute(id),
            Coming::Timeout(id) => self.timeout(id),
            Coming::Tell(node, incarnation, event) => {
                if self.nodes[node].incarnation() == incarnation {
                    self.nodes_event(node, *event);
                }
            }
            Coming::Data(node, incarnation) => self.write_data(node, incarnation),
            Coming::Fault(fault) => self.inject(fault),
            Coming::Restart(node) => self.start(node),
            Coming::Rebuild => self.rebuild(),
            Coming::Drain(node, incarnation) => self.drain(node, incarnation),
        }
        self.check_authority();
    }

    /// Whether all nodes serve in one epoch.
    fn is_whole(&self) -> bool {
        let views: Vec<(Stage, Epoch, usize, bool)> = (0..self.nodes.len())
            .filter_map(|node| {
                let now_ns = self.clock(node);
                let machine = self.nodes[node].machine.as_ref()?;
                let status = machine.status(now_ns);
                let may = machine.may_complete(now_ns);
                Some((status.stage, status.epoch, status.members.len(), may))
            })
            .collect();
        let whole = (
            Stage::Open,
            views.first().map_or(Epoch(0), |view| view.1),
            self.nodes.len(),
            true,
        );
        views.len() == self.nodes.len() && views.iter().all(|view| *view == whole)
    }

    /// Runs until all nodes serve in one epoch. Panics if that takes longer than this.
    fn run_until_whole(&mut self, within_ns: u64) {
        let end_ns = self.now_ns + within_ns;
        while !self.is_whole() {
            assert!(self.now_ns < end_ns, "{}", self.describe());
            self.run_until(self.now_ns + 100 * MS);
        }
    }

    fn describe(&self) -> String {
        let nodes = (0..self.nodes.len()).map(|node| {
            let now_ns = self.clock(node);
            let machine = self.nodes[node].machine.as_ref();
            let status = machine.map_or("dead".to_owned(), |machine| machine.status(now_ns).to_string());
            format!("\n node {node}: {status}")
        });
        format!(
            "after {} ms not whole:{}",
            self.now_ns / MS,
            nodes.collect::<String>()
        )
    }
}
