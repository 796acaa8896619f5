//! Goal: a write of a fenced host lands before the fence completes, or never (PROTOCOL H02, H03); likewise for lives that are expelled or killed.
//! Method: the real subsystem, reservation machine and guards of two cores, with a drive that holds what it has begun for as long as a seed says,
//! mailboxes that deliver when it says, connections that are lost, and victims that come back. Every landing is checked against what
//! has been confirmed, and at the end the drive against what it had then. Mistakes in the wiring have to be caught by the same check.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::reservation::{
    Access, Command as Asked, Guard, HostId, HostName, Key, Kind, Life, Order, Persistence, admission,
};

const CORES: usize = 2;
const BLOCKS: usize = 4;
/// Who fences, who is fenced, and who has nothing to do with it.
const FENCER: u32 = 1;
const VICTIM: u32 = 2;
const OTHER: u32 = 3;
const ALL: Kind = Kind::WriteExclusiveAllRegistrants;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fence {
    PreemptAndAbort,
    Kill,
    Expel,
}

/// Mistakes in the wiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    None,
    /// A core confirms while commands that an order ends are under way.
    NoDrain,
    /// A core confirms an order before it holds commands to it.
    LateRules,
    /// The first core that confirms speaks for all.
    OneCore,
    /// Commands are looked at when they arrive, and begin later.
    CheckedOnArrival,
    /// Plain Preempt (H03).
    NoAbort,
    /// A command whose connection is gone counts as over.
    LostIsOver,
    /// The quorum area beside is forgotten.
    NotBeside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its data is on the way.
    Arrived,
    /// The drive has it.
    Held,
    /// It has had its effect, and the core does not know yet.
    Landed,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    life: Life,
    nsid: u32,
    block: usize,
    stamp: u64,
    stage: Stage,
    /// Its connection is gone.
    is_lost: bool,
}

/// Stamps by namespace and block.
type Content = BTreeMap<(u32, usize), u64>;

#[derive(Default)]
struct Core {
    guard: Guard,
    mailbox: VecDeque<Order>,
    /// Orders that a mutant has confirmed and not taken.
    owed: Vec<Order>,
    writes: Vec<Write>,
    /// Confirmations on their way to the control core.
    confirmed: VecDeque<u64>,
}

struct World {
    rig: Rig,
    random: Random,
    mutant: Mutant,
    cores: Vec<Core>,
    /// Confirmations that orders still wait for.
    awaited: BTreeMap<u64, usize>,
    persisting: VecDeque<u64>,
    /// Admin queue and I/O queue of each host.
    queues: BTreeMap<u32, (QueueId, QueueId)>,
    drive: Content,
    stamp: u64,
    /// The life that was fenced, once that is confirmed, and what the drive had then.
    fenced: Option<(Life, Content)>,
    stamps_of_victim: Vec<u64>,
    /// Namespaces that the fence is about.
    about: Vec<u32>,
    landed_of_others_after: u32,
}

fn host(number: u32) -> HostId {
    HostId([u8::try_from(number).unwrap(); 16])
}

/// The life that a host has at first.
fn life(number: u32) -> Life {
    Life {
        name: HostName::of(&host_nqn(number)),
        host: host(number),
    }
}

fn key(number: u32) -> Key {
    Key(u64::from(number))
}

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        let mut rig = Rig::new(config());
        rig.step(Event::NamespaceAdded(Namespace {
            reservable: Reservable::Persistently,
            ..namespace(1)
        }));
        rig.step(Event::NamespaceAdded(Namespace {
            reservable: Reservable::Never,
            admission_of: Some(1),
            ..namespace(2)
        }));
        let mut queues = BTreeMap::new();
        for number in [FENCER, VICTIM, OTHER] {
            let (admin, cntlid) = rig.controller(number);
            queues.insert(number, (admin, rig.io_queue(number, cntlid, 1)));
        }
        rig.actions.clear();
        let mut world = Self {
            rig,
            random: Random(seed),
            mutant,
            cores: (0..CORES).map(|_| Core::default()).collect(),
            awaited: BTreeMap::new(),
            persisting: VecDeque::new(),
            queues,
            drive: BTreeMap::new(),
            stamp: 0,
            fenced: None,
            stamps_of_victim: Vec::new(),
            about: Vec::new(),
            landed_of_others_after: 0,
        };
        for number in [FENCER, VICTIM, OTHER] {
            world.ask(number, register(number));
        }
        let current = key(FENCER);
        world.ask(FENCER, Asked::Acquire { current, kind: ALL });
        world.settle();
        world
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.draw() % bound as u64).unwrap()
    }

    fn ask(&mut self, number: u32, command: Asked) -> (QueueId, u16) {
        let (mut entry, data) = command.encode(1, 1);
        let length_bytes = u32::try_from(data.len()).unwrap();
        entry.set_sgl(Sgl::Transport { length_bytes });
        let (_, io) = self.queues[&number];
        let slot = self.rig.send(io, entry, &data);
        self.take_actions();
        (io, slot)
    }

    fn admission(&mut self, number: u32, (mut entry, data): (SubmissionEntry, Vec<u8>)) -> (QueueId, u16) {
        entry.set_sgl(Sgl::Transport { length_bytes: 16 });
        let (admin, _) = self.queues[&number];
        let slot = self.rig.send(admin, entry, &data);
        self.take_actions();
        (admin, slot)
    }

    /// Begins a fence; where its completion comes.
    fn fence(&mut self, fence: Fence) -> (QueueId, u16) {
        match fence {
            Fence::PreemptAndAbort => self.ask(
                FENCER,
                Asked::Preempt {
                    current: key(FENCER),
                    victim: key(VICTIM),
                    kind: ALL,
                    abort: self.mutant != Mutant::NoAbort,
                },
            ),
            Fence::Kill => self.admission(FENCER, admission::kill(1, 1, host(VICTIM))),
            Fence::Expel => {
                // The next life of the victim has its name and another identifier.
                let queue = self.rig.open(MAIN);
                let mut data = data(&subsystem_nqn(), VICTIM);
                data.hostid = [0x77; 16];
                let done = self.rig.connect(queue, admin_connect(), &data);
                assert_eq!(done.status, Status::SUCCESS);
                self.rig.set_cc(queue, Configuration::START.0);
                self.queues.insert(9, (queue, queue));
                self.admission(9, admission::expel(1, 2, HostId([0x77; 16])))
            }
        }
    }

    /// Hands on what the subsystem wants done.
    fn take_actions(&mut self) {
        for action in std::mem::take(&mut self.rig.actions) {
            match action {
                Action::EnforceReservation(mut order) => {
                    if self.mutant == Mutant::NotBeside {
                        order.beside = None;
                    }
                    self.awaited.insert(order.number, CORES);
                    for core in &mut self.cores {
                        core.mailbox.push_back(order.clone());
                    }
                }
                Action::PersistReservation { number, .. } => self.persisting.push_back(number),
                action @ (Action::Accept { .. }
                | Action::Complete { .. }
                | Action::Abort { .. }
                | Action::Close { .. }
                | Action::PassReservation(_)
                | Action::ResetElsewhere { .. }
                | Action::ResetAnswered { .. }
                | Action::Report(_)) => self.rig.actions.push(action),
            }
        }
    }

    fn send(&mut self, life: Life) {
        let (core, block, nsid) = (self.below(CORES), self.below(BLOCKS), 1 + self.below(2));
        self.stamp += 1;
        let write = Write {
            life,
            nsid: u32::try_from(nsid).unwrap(),
            block,
            stamp: self.stamp,
            stage: Stage::Arrived,
            is_lost: false,
        };
        if life == self::life(VICTIM) {
            self.stamps_of_victim.push(self.stamp);
        }
        let core = &mut self.cores[core];
        let is_checked = self.mutant == Mutant::CheckedOnArrival;
        if !is_checked || !core.guard.refuses(life, write.nsid, Access::Write) {
            core.writes.push(write);
        }
    }

    /// One step of one command.
    fn advance(&mut self, at: usize) -> Result<(), String> {
        if self.cores[at].writes.is_empty() {
            return Ok(());
        }
        let index = self.below(self.cores[at].writes.len());
        let write = self.cores[at].writes[index];
        match write.stage {
            Stage::Arrived => {
                let is_checked = self.mutant == Mutant::CheckedOnArrival;
                let core = &mut self.cores[at];
                let is_refused = core.guard.refuses(write.life, write.nsid, Access::Write);
                if write.is_lost || (is_refused && !is_checked) {
                    core.writes.remove(index);
                } else {
                    core.writes[index].stage = Stage::Held;
                }
            }
            Stage::Held => {
                self.drive.insert((write.nsid, write.block), write.stamp);
                self.cores[at].writes[index].stage = Stage::Landed;
                return self.check_landing(write);
            }
            Stage::Landed => {
                self.cores[at].writes.remove(index);
                self.tend(at);
            }
        }
        Ok(())
    }

    fn check_landing(&mut self, write: Write) -> Result<(), String> {
        let Some((victim, _)) = &self.fenced else {
            return Ok(());
        };
        if write.life == *victim && self.about.contains(&write.nsid) {
            return Err(format!("{write:?} has landed after its fence"));
        }
        self.landed_of_others_after += u32::from(write.life == life(OTHER));
        Ok(())
    }

    /// A core takes an order, and ends what it can of what that ends.
    fn obey(&mut self, at: usize) {
        let Some(order) = self.cores[at].mailbox.pop_front() else {
            return;
        };
        if self.mutant == Mutant::LateRules {
            let core = &mut self.cores[at];
            core.confirmed.push_back(order.number);
            return core.owed.push(order);
        }
        self.cores[at].guard.take(order.clone());
        let writes = std::mem::take(&mut self.cores[at].writes);
        for write in writes {
            let is_over = order.ends(write.life, write.nsid)
                && match write.stage {
                    Stage::Arrived => self.mutant != Mutant::CheckedOnArrival,
                    // The drive has it: sometimes it can be called back.
                    Stage::Held => self.below(3) == 0,
                    Stage::Landed => false,
                };
            if !is_over {
                self.cores[at].writes.push(write);
            }
        }
        self.tend(at);
    }

    /// Confirms what can be confirmed.
    fn tend(&mut self, at: usize) {
        let mutant = self.mutant;
        let core = &mut self.cores[at];
        let writes = &core.writes;
        let is_held = |order: &Order| {
            let counts = |write: &&Write| match write.stage {
                Stage::Arrived => false,
                Stage::Held | Stage::Landed => !write.is_lost || mutant != Mutant::LostIsOver,
            };
            let mut under_way = writes.iter().filter(counts);
            mutant != Mutant::NoDrain && under_way.any(|write| order.ends(write.life, write.nsid))
        };
        let confirmed = core.guard.confirm(is_held);
        core.confirmed.extend(confirmed);
    }

    /// The control core hears of one confirmation.
    fn hear(&mut self, at: usize) {
        let Some(number) = self.cores[at].confirmed.pop_front() else {
            return;
        };
        // A mutant has not waited for this one.
        let Some(left) = self.awaited.get_mut(&number) else {
            return;
        };
        *left -= 1;
        if *left == 0 || self.mutant == Mutant::OneCore {
            self.awaited.remove(&number);
            self.rig.step(Event::ReservationEnforced { number });
            self.take_actions();
        }
    }

    fn persist(&mut self) {
        if let Some(number) = self.persisting.pop_front() {
            let succeeded = true;
            self.rig.step(Event::ReservationPersisted { number, succeeded });
            self.take_actions();
        }
    }

    /// Connections of the victim are lost on a core: what the drive has goes on.
    fn lose(&mut self, at: usize) {
        let core = &mut self.cores[at];
        for write in core.writes.iter_mut().filter(|write| write.life == life(VICTIM)) {
            write.is_lost = true;
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let at = self.below(CORES);
        match self.below(16) {
            0..=2 => self.send(life(VICTIM)),
            3 => self.send(life(OTHER)),
            4..=8 => self.advance(at)?,
            9 | 10 => self.obey(at),
            11 | 12 => self.hear(at),
            13 => self.persist(),
            14 if self.below(4) == 0 => self.lose(at),
            15 if self.below(4) == 0 => {
                let owed = std::mem::take(&mut self.cores[at].owed);
                for order in owed {
                    self.cores[at].guard.take(order);
                    self.cores[at].guard.confirm(|_| false);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets everything that is under way end.
    fn settle(&mut self) {
        for _ in 0..200 {
            for at in 0..CORES {
                self.obey(at);
                self.hear(at);
            }
            self.persist();
        }
    }

    /// The fence has completed: nothing of the victim may be under way, or land any more.
    fn confirm(&mut self, victim: Life) -> Result<(), String> {
        let about = &self.about;
        let mut all = self.cores.iter().flat_map(|core| &core.writes);
        let held = all
            .find(|write| write.life == victim && write.stage == Stage::Held && about.contains(&write.nsid));
        if let Some(write) = held {
            return Err(format!("{write:?} is held when its fence completes"));
        }
        self.fenced = Some((victim, self.drive.clone()));
        Ok(())
    }

    /// What the victim wrote is on the drive now only where it was when it was fenced.
    fn check_content(&self) -> Result<(), String> {
        let Some((_, then)) = &self.fenced else {
            return Err("the fence never completes".to_owned());
        };
        for (place, stamp) in &self.drive {
            let is_about = self.about.contains(&place.0);
            if is_about && self.stamps_of_victim.contains(stamp) && then.get(place) != Some(stamp) {
                return Err(format!("{place:?} has {stamp} of the victim, and had not"));
            }
        }
        Ok(())
    }
}

fn register(number: u32) -> Asked {
    Asked::Register {
        new: key(number),
        persistence: Persistence::Keep,
    }
}

/// Runs one schedule. Returns how many writes of the victim were on the drive, and how many of a bystander landed after the fence.
fn run(seed: u64, fence: Fence, mutant: Mutant) -> Result<(usize, u32), String> {
    let mut world = World::new(seed, mutant);
    world.about = match fence {
        Fence::PreemptAndAbort => vec![1],
        Fence::Kill | Fence::Expel => vec![1, 2],
    };
    for _ in 0..world.below(120) {
        world.step()?;
    }
    let (queue, slot) = world.fence(fence);
    for round in 0..8_000 {
        // After a while nothing new comes, so that whatever is held comes to its end.
        if round < 2_000 {
            world.step()?;
        } else {
            let at = world.below(CORES);
            world.advance(at)?;
            world.obey(at);
            world.hear(at);
            world.persist();
        }
        if let Some(done) = world.rig.completion(queue, slot) {
            assert_eq!(done.status, Status::SUCCESS, "{fence:?}");
            world.confirm(life(VICTIM))?;
            break;
        }
    }
    // The victim does not give up.
    for _ in 0..200 {
        world.step()?;
    }
    world.settle();
    while let Some(at) = world.cores.iter().position(|core| !core.writes.is_empty()) {
        world.advance(at)?;
    }
    world.check_content()?;
    let of_victim = world
        .drive
        .values()
        .filter(|stamp| world.stamps_of_victim.contains(stamp));
    Ok((of_victim.count(), world.landed_of_others_after))
}

/// A thousand schedules of each kind.
#[test]
fn a_held_write_lands_before_its_fence_completes_or_never() {
    for fence in [Fence::PreemptAndAbort, Fence::Kill, Fence::Expel] {
        let (mut landed, mut others) = (0, 0);
        for seed in 0..1_000 {
            let (of_victim, of_other) = run(seed, fence, Mutant::None)
                .unwrap_or_else(|error| panic!("{fence:?}, seed {seed}: {error}"));
            landed += of_victim;
            others += of_other;
        }
        println!("{fence:?}: {landed} writes of victims stayed, {others} of others landed after the fence");
        assert!(landed > 100 && others > 1_000, "{fence:?}: {landed} {others}");
    }
}

/// Within how many schedules a mistake is caught.
fn caught(fence: Fence, mutant: Mutant) -> u64 {
    let found = (0..1_000).find(|seed| run(*seed, fence, mutant).is_err());
    found.unwrap_or_else(|| panic!("{mutant:?} is not caught by {fence:?}"))
}

#[test]
fn mistakes_in_the_wiring_are_caught() {
    for mutant in [
        Mutant::NoDrain,
        Mutant::LateRules,
        Mutant::OneCore,
        Mutant::CheckedOnArrival,
        Mutant::LostIsOver,
    ] {
        for fence in [Fence::PreemptAndAbort, Fence::Kill, Fence::Expel] {
            println!("{mutant:?}, {fence:?}: seed {}", caught(fence, mutant));
        }
    }
    println!(
        "NoAbort: seed {}",
        caught(Fence::PreemptAndAbort, Mutant::NoAbort)
    );
    for fence in [Fence::Kill, Fence::Expel] {
        println!("NotBeside, {fence:?}: seed {}", caught(fence, Mutant::NotBeside));
    }
}
