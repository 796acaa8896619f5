//! Goal: a group that is expanded under load loses no block, whatever fails and whenever the power goes.
//! Method: engines of several cores on drives in memory, all levels that can be expanded, from a few members to a few more; hosts read, write,
//! compare and zero at random during all waves, and each answer is held against a model.

use std::collections::{BTreeSet, VecDeque};

use super::executor::{Change, OWN_COMMANDS, Random, Shape, World};
use super::tests::Run;
use super::*;
use crate::amf::expansion::{ExpansionRecord, Restore, ScratchArea, ScratchState, WaveKind, Waves};
use crate::amf::geometry::{Geometry, Level};
use crate::amf::journal::replay;

/// One thing after the other in a wave.
#[derive(Clone, Debug)]
enum Job {
    Moves(VecDeque<(RowIndex, MovePhase)>),
    Flush,
    Record(ScratchState),
    /// The frontier.
    Advance(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Resting,
    Holding,
    Working,
    Ending,
    Over,
}

/// What happened that a power cut could part.
#[derive(Clone, Debug)]
enum Durable {
    Change(Change),
    Record(ExpansionRecord),
}

/// Drives an expansion as the module of the waves says, one small thing at a time.
struct Expander {
    waves: Waves,
    area: ScratchArea,
    record: ExpansionRecord,
    stage: Stage,
    /// Cores that have not heard yet what all are told.
    untold: Vec<usize>,
    jobs: VecDeque<Job>,
    /// Rows of the last scratch wave.
    scratched: VecDeque<(RowIndex, MovePhase)>,
    in_flight: BTreeSet<u32>,
    failed: Option<GroupError>,
    given_up: u32,
    /// Gives the wave up after so many moves that may be given up, once.
    fuse: Option<u32>,
    /// Whether the moves under way may be.
    revocable: bool,
    history: Vec<Durable>,
}

impl Expander {
    fn new(run: &mut Run, more: u8) -> Self {
        let old = run.world.geometry;
        run.world.add_members(more);
        let record = ExpansionRecord::begin(old.members());
        run.world.layout = Layout::of(run.world.geometry, Some(record)).expect("it widens");
        for core in 0..run.world.cores.len() {
            set_layout(&mut run.world, core);
        }
        Self::going_on(run, record)
    }

    /// An expansion of which this is durable, and known to the engines.
    fn going_on(run: &Run, record: ExpansionRecord) -> Self {
        let layout = run.world.layout;
        let area = run.world.scratch_area();
        Self {
            waves: layout.waves(area.rows(layout.widest())).expect("there is room"),
            area,
            record,
            stage: Stage::Resting,
            untold: Vec::new(),
            jobs: VecDeque::new(),
            scratched: VecDeque::new(),
            in_flight: BTreeSet::new(),
            failed: None,
            given_up: 0,
            fuse: None,
            revocable: false,
            history: Vec::new(),
        }
    }

    /// A new record is durable.
    fn persist(&mut self, run: &mut Run, record: ExpansionRecord) {
        self.note_changes(run);
        self.record = record;
        self.history.push(Durable::Record(record));
    }

    fn note_changes(&mut self, run: &mut Run) {
        if let Some(trace) = &mut run.world.trace {
            self.history.extend(trace.drain(..).map(Durable::Change));
        }
    }

    fn step(&mut self, run: &mut Run) {
        self.take_results(run);
        match self.stage {
            Stage::Resting => self.begin(run),
            Stage::Holding => match self.untold.pop() {
                Some(core) => {
                    let wave = self.waves.next(self.record.frontier).expect("it was begun");
                    let mut out = Vec::new();
                    let rows = self.waves.held(wave);
                    run.world.cores[core].engine.hold_range(rows, &mut out);
                    run.world.act(core, out);
                }
                None if run.world.range_held as usize == run.world.cores.len() => self.stage = Stage::Working,
                None => {}
            },
            Stage::Working => self.work(run),
            Stage::Ending => match self.untold.pop() {
                Some(core) => set_layout(&mut run.world, core),
                None => self.stage = Stage::Resting,
            },
            Stage::Over => {}
        }
    }

    fn tell_all(&mut self, run: &mut Run) {
        self.untold = (0..run.world.cores.len()).collect();
        let turn = run.random().index(self.untold.len());
        self.untold.rotate_left(turn);
    }

    fn begin(&mut self, run: &mut Run) {
        let Some(wave) = self.waves.next(self.record.frontier) else {
            self.stage = Stage::Over;
            return;
        };
        let place = |row: RowIndex| self.area.place(&run.world.geometry, wave.from_row, row);
        let rows = || (wave.from_row..wave.to_row).map(RowIndex);
        let moves =
            |phase: &dyn Fn(RowIndex) -> MovePhase| Job::Moves(rows().map(|row| (row, phase(row))).collect());
        self.jobs.clear();
        if wave.kind == WaveKind::MovesThroughScratch {
            let to = wave.to_row;
            self.jobs.extend([
                Job::Record(ScratchState::Dirty),
                moves(&|row| MovePhase::ToScratch { at: place(row) }),
                Job::Flush,
                Job::Record(ScratchState::Holds { to }),
                moves(&|row| MovePhase::FromScratch { at: place(row) }),
                Job::Flush,
            ]);
            let wiped = rows().map(|row| (row, MovePhase::Wipe { at: place(row) }));
            self.scratched.extend(wiped);
        } else {
            if !self.scratched.is_empty() {
                let wipes = Job::Moves(std::mem::take(&mut self.scratched));
                let clean = Job::Record(ScratchState::Clean);
                self.jobs.extend([wipes, Job::Flush, clean]);
            }
            let phase = match wave.kind {
                WaveKind::Clears => MovePhase::Clear,
                WaveKind::Moves | WaveKind::MovesThroughScratch => MovePhase::InPlace,
            };
            self.jobs.extend([moves(&|_| phase), Job::Flush]);
        }
        self.jobs.push_back(Job::Advance(wave.to_row));
        self.stage = Stage::Holding;
        run.world.range_held = 0;
        self.tell_all(run);
    }

    fn work(&mut self, run: &mut Run) {
        if self.failed.is_some() {
            if self.in_flight.is_empty() {
                self.given_up += 1;
                self.stage = Stage::Ending;
                self.tell_all(run);
            }
            return;
        }
        let ids = (0..OWN_COMMANDS).map(|id| run.commands + 1 + id);
        let free = ids.into_iter().find(|id| !self.in_flight.contains(id));
        match self.jobs.front_mut().expect("a wave ends with its frontier") {
            Job::Moves(rows) => match (rows.pop_front(), free) {
                (Some((row, phase)), Some(id)) => {
                    self.revocable = phase.is_revocable();
                    self.in_flight.insert(id);
                    run.world.submit(0, id, Request::Move { row, phase });
                }
                (Some(row), None) => rows.push_front(row),
                (None, _) if self.in_flight.is_empty() => drop(self.jobs.pop_front()),
                (None, _) => {}
            },
            Job::Flush => {
                if let Some(id) = free.filter(|_| self.in_flight.is_empty()) {
                    self.revocable = false;
                    self.in_flight.insert(id);
                    run.world.submit(0, id, Request::FlushDrives);
                    self.jobs.pop_front();
                }
            }
            // The flush is answered first.
            Job::Record(_) | Job::Advance(_) if !self.in_flight.is_empty() => {}
            Job::Record(scratch) => {
                let record = ExpansionRecord {
                    scratch: *scratch,
                    ..self.record
                };
                self.persist(run, record);
                self.jobs.pop_front();
            }
            Job::Advance(frontier) => {
                let scratch = match self.record.scratch {
                    ScratchState::Holds { .. } => ScratchState::Dirty,
                    other @ (ScratchState::Clean | ScratchState::Dirty) => other,
                };
                let frontier = *frontier;
                let record = ExpansionRecord {
                    frontier,
                    scratch,
                    ..self.record
                };
                self.persist(run, record);
                run.world.layout.advance(frontier);
                self.jobs.pop_front();
                self.stage = Stage::Ending;
                self.tell_all(run);
            }
        }
    }

    fn take_results(&mut self, run: &mut Run) {
        for (id, result) in std::mem::take(&mut run.background) {
            if !self.in_flight.remove(&id) {
                continue;
            }
            if let Err(error) = result {
                self.failed.get_or_insert(error);
            }
            if self.revocable
                && let Some(fuse) = &mut self.fuse
            {
                *fuse = fuse.saturating_sub(1);
                if *fuse == 0 {
                    self.fuse = None;
                    self.failed = Some(GroupError::Aborted);
                }
            }
        }
    }

    /// Everything to its end, hosts at work, with what `event` does in between.
    fn run_to_end(&mut self, run: &mut Run, mut event: impl FnMut(&mut Self, &mut Run)) {
        for step in 0.. {
            assert!(step < 400_000, "it comes to an end: {:?}", self.stage);
            event(self, run);
            self.step(run);
            if self.stage == Stage::Over {
                break;
            }
            match run.random().below(10) {
                0..3 => run.start(),
                3 if run.random().chance(10) => run.abort(),
                _ => drop(run.world.pay_any()),
            }
            if run.world.reported != 0 && run.random().chance(10) {
                run.world.fail_members(run.world.reported);
            }
            run.check_done();
        }
    }

    /// Everything to its end, while no host asks for anything.
    fn run_quietly(&mut self, run: &mut Run) {
        while self.stage != Stage::Over {
            self.step(run);
            if run.world.pay_any() {
                run.check_done();
            }
            self.note_changes(run);
        }
    }

    /// What stopped the wave is put right: hosts rest meanwhile.
    fn put_right(&mut self, run: &mut Run) {
        run.world.settle();
        run.check_done();
        self.take_results(run);
        assert!(self.in_flight.is_empty());
        for (member, row, offset_blocks, blocks) in std::mem::take(&mut run.world.media) {
            // Longer than a strip where two strips of a member follow one another.
            let request = Request::Repair {
                row,
                member,
                offset_blocks,
                blocks,
            };
            run.world.submit(0, run.commands + 1, request);
            run.world.settle();
        }
        let lost = run.world.members.failed;
        if lost != 0 {
            self.rebuild(run, lost);
        }
        run.check_done();
        self.take_results(run);
        self.failed = None;
    }

    /// H36: the lost members are replaced and rebuilt, in rows of both layouts, before anything goes on.
    fn rebuild(&mut self, run: &mut Run, lost: u32) {
        let world = &mut run.world;
        world.broken = 0;
        for (member, drive) in world.drives.iter_mut().enumerate() {
            if lost >> member & 1 == 1 {
                drive.fill(0x99);
            }
        }
        let members = world.members;
        world.announce(MemberSet {
            rebuilding: lost,
            rebuilt_rows: 0,
            ..members
        });
        world.settle();
        for row in (0..world.geometry.rows()).map(RowIndex) {
            world.submit(
                0,
                run.commands + 1,
                Request::Rebuild {
                    row,
                    wave: 0,
                    only_marked: false,
                },
            );
            world.settle();
            assert_eq!(world.result(0, run.commands + 1), Some(Ok(())), "{row:?}");
        }
        assert_eq!(world.lock.rebuild().rows, world.geometry.rows(), "all rows count");
        let members = world.members;
        world.announce(MemberSet {
            failed: 0,
            rebuilding: 0,
            ..members
        });
        world.settle();
    }
}

fn set_layout(world: &mut World, core: usize) {
    let mut out = Vec::new();
    world.cores[core].engine.set_layout(world.layout, &mut out);
    world.act(core, out);
}

/// Levels that can be expanded, from how many members, to how many more.
const GROWTHS: [(Level, u8, u8); 10] = [
    (Level::Raid0, 1, 1),
    (Level::Raid0, 2, 3),
    (Level::Raid10, 2, 2),
    (Level::Raid10, 3, 2),
    (Level::Raid5, 3, 1),
    (Level::Raid5, 4, 2),
    (Level::Raid5, 2, 4),
    (Level::Raid6, 4, 1),
    (Level::Raid6, 3, 3),
    (Level::RaidTp, 5, 2),
];

fn shape(level: Level, members: u8, journal: bool, random: &mut Random) -> Shape {
    let small = |n: u64| u32::try_from(n).expect("small");
    let journal = journal && level.is_redundant();
    let durability = if random.chance(70) {
        Durability::Journal
    } else {
        Durability::Ram
    };
    Shape {
        level,
        members,
        strip: small(1 + random.below(6)),
        rows: 12 + random.below(29),
        cores: 2 + u16::try_from(random.below(2)).expect("small"),
        commands: 12,
        pieces: small(2 + random.below(16)),
        // Rows of the wider group need more than those of the first.
        scratch_strips: 64,
        journal: journal.then_some(durability),
        shared: false,
        nodes: 1,
    }
}

/// A group whose blocks mean something before the expansion begins.
fn filled(shape: &Shape, seed: u64) -> Run {
    let mut run = Run::new(shape, seed);
    let data: Vec<u8> = (0..run.model.len()).map(|_| run.random().byte()).collect();
    run.world.write(0, 0, 0, &data);
    run.world.settle();
    run.world.done.clear();
    run.model = data;
    run
}

fn each_growth(seeds: std::ops::Range<u64>, mut check: impl FnMut(&mut Run, Expander, u64)) {
    for seed in seeds {
        for (which, (level, members, more)) in GROWTHS.into_iter().enumerate() {
            let seed = seed * 100 + which as u64;
            let mut random = Random::new(seed);
            let journal = random.chance(70);
            let mut run = filled(&shape(level, members, journal, &mut random), seed);
            let expander = Expander::new(&mut run, more);
            check(&mut run, expander, seed);
        }
    }
}

/// The group as it is at the end, with all that the wider layout has.
fn check_end(run: &mut Run) {
    run.world.settle();
    run.check_done();
    let capacity = run.world.geometry.capacity_blocks();
    assert!(run.world.layout.is_over());
    // PROTOCOL I13: what is new is there, and holds nothing of anybody's.
    run.model.resize(usize::try_from(capacity).expect("small"), 0);
    run.run(200, |_, _| {});
    run.check_contents();
}

/// H35, I13, CHECKLIST G1, B3: hosts are served by the right layout at every instant, and afterwards everything is in its new place.
#[test]
fn h35_i13_hosts_see_no_expansion() {
    each_growth(0..3, |run, mut expander, _| {
        expander.run_to_end(run, |_, _| {});
        assert_eq!(expander.given_up, 0);
        check_end(run);
    });
}

/// H35, I12: a wave that is given up after any number of moves leaves everything as it was, and is done again.
#[test]
fn i12_a_wave_may_be_given_up_anywhere() {
    each_growth(10..12, |run, mut expander, _| {
        let mut again = 0;
        expander.fuse = Some(1);
        expander.run_to_end(run, |expander, run| {
            if expander.stage != Stage::Resting || expander.failed.is_none() {
                return;
            }
            expander.put_right(run);
            run.world.drain();
            run.check_contents();
            again += 1;
            expander.fuse = (again < 12).then_some(again % 7 + 1);
        });
        assert!(again > 0);
        check_end(run);
    });
}

/// H36: a member that is lost at any point of a wave stops the expansion, or the wave is finished without it if its rows are in the scratch
/// area; it is rebuilt in rows of both layouts, and then it goes on.
#[test]
fn h36_a_lost_member_is_rebuilt_before_the_expansion_goes_on() {
    let mut losses = 0;
    each_growth(20..24, |run, mut expander, _| {
        if !run.world.geometry.level().is_redundant() {
            return;
        }
        let mut left = 3;
        expander.run_to_end(run, |expander, run| {
            let healthy = run.world.broken == 0 && run.world.members.failed == 0;
            if left > 0 && healthy && expander.stage != Stage::Ending && run.random().chance(2) {
                left -= 1;
                losses += 1;
                let members = usize::from(run.world.geometry.members());
                run.world.broken |= 1 << run.random().index(members);
            }
            if expander.stage == Stage::Resting && !healthy {
                run.world.settle();
                run.check_done();
                run.world.drain();
                // Behind the last wave there is more to look at, and that is done at the end.
                if !run.world.layout.is_over() {
                    run.check_contents();
                }
                let broken = run.world.broken & !run.world.members.failed;
                if broken != 0 {
                    // Nobody has asked it for anything yet.
                    run.world.fail_members(broken);
                }
                expander.put_right(run);
            }
        });
        if run.world.broken != 0 {
            run.world.fail_members(run.world.broken);
            expander.put_right(run);
        }
        check_end(run);
    });
    assert!(losses > 50);
}

/// H36: blocks that cannot be read where there is redundancy are repaired, and the wave is tried again.
#[test]
fn h36_unreadable_sources_are_repaired_first() {
    let mut repaired = 0;
    each_growth(30..32, |run, mut expander, _| {
        if !run.world.geometry.level().is_redundant() {
            return;
        }
        let layout = run.world.layout;
        let old = layout.oldest();
        let capacity = usize::try_from(old.capacity_blocks()).expect("small");
        for _ in 0..2 {
            let lba = run.random().index(capacity) as u64;
            let place = old.locate(GroupLba(lba));
            let at = usize::try_from(place.lba.0).expect("small");
            run.world.bad_blocks.insert((usize::from(place.member.0), at));
        }
        expander.run_to_end(run, |expander, run| {
            if expander.stage == Stage::Resting && (expander.failed.is_some() || !run.world.media.is_empty())
            {
                repaired += 1;
                expander.put_right(run);
            }
        });
        expander.put_right(run);
        check_end(run);
    });
    assert!(repaired > 5);
}

/// What drives hold, with what may be lost when the power goes.
#[derive(Clone)]
struct Disks {
    durable: Vec<Vec<u8>>,
    /// Written since the member's last flush, in order.
    cached: Vec<(MemberIndex, MemberLba, Vec<u8>)>,
}

impl Disks {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(member, lba, data) => self.cached.push((*member, *lba, data.clone())),
            Change::Flush(flushed) => {
                let cached = std::mem::take(&mut self.cached);
                for (member, lba, data) in cached {
                    if member == *flushed {
                        write_to(&mut self.durable, member, lba, &data);
                    } else {
                        self.cached.push((member, lba, data));
                    }
                }
            }
        }
    }

    /// The power goes; what was not flushed is there if `keeps` says so.
    fn cut(&self, mut keeps: impl FnMut(usize) -> bool) -> Vec<Vec<u8>> {
        let mut left = self.durable.clone();
        for (number, (member, lba, data)) in self.cached.iter().enumerate() {
            if keeps(number) {
                write_to(&mut left, *member, *lba, data);
            }
        }
        left
    }
}

fn write_to(drives: &mut [Vec<u8>], member: MemberIndex, lba: MemberLba, data: &[u8]) {
    let at = usize::try_from(lba.0).expect("small");
    drives[usize::from(member.0)][at..at + data.len()].copy_from_slice(data);
}

/// The runs of a restore after a power cut: interrupted at random, each time losing what was not flushed, and begun again until
/// the record says that nothing is left to do.
fn restore(
    drives: Vec<Vec<u8>>,
    geometry: Geometry,
    area: ScratchArea,
    mut record: ExpansionRecord,
    failed: u32,
    random: &mut Random,
) -> (Vec<Vec<u8>>, ExpansionRecord) {
    let mut disks = Disks {
        durable: drives,
        cached: Vec::new(),
    };
    while record.awaits_restore() {
        let layout = Layout::of(geometry, Some(record)).expect("it widens");
        let machine = Restore::new(&layout, record, area, failed);
        let patience = random.chance(50).then(|| random.below(30));
        match run_restore(machine, &mut disks, patience, failed, random) {
            Some(next) => record = next,
            None => disks.durable = disks.cut(|_| random.chance(50)),
        }
        disks.cached.clear();
    }
    (disks.durable, record)
}

/// `None` if the power went before its end.
fn run_restore(
    mut machine: Restore,
    disks: &mut Disks,
    patience: Option<u64>,
    failed: u32,
    random: &mut Random,
) -> Option<ExpansionRecord> {
    let (mut asked, mut answered) = (Vec::new(), 0);
    machine.handle(replay::Event::Start, &mut asked);
    loop {
        if patience == Some(answered) {
            return None;
        }
        answered += 1;
        let event = match asked.swap_remove(random.index(asked.len())) {
            replay::Action::Read {
                io,
                member,
                lba,
                blocks,
            } => {
                assert_eq!(failed >> member.0 & 1, 0, "a lost member is not asked");
                let seen = disks.cut(|_| true);
                let at = usize::try_from(lba.0).expect("small");
                let data = &seen[usize::from(member.0)][at..at + blocks as usize];
                let data = data.iter().flat_map(|byte| [*byte; 512]).collect();
                replay::Event::ReadDone { io, result: Ok(data) }
            }
            replay::Action::Write {
                io,
                member,
                lba,
                data,
                ..
            } => {
                let data = data.chunks(512).map(|block| block[0]).collect();
                disks.apply(&Change::Write(member, lba, data));
                replay::Event::Written { io, result: Ok(()) }
            }
            replay::Action::Flush { io, member } => {
                disks.apply(&Change::Flush(member));
                replay::Event::Flushed { io, result: Ok(()) }
            }
            replay::Action::Done(_) => return Some(machine.record()),
            action @ (replay::Action::Progress { .. } | replay::Action::Failed(_)) => panic!("{action:?}"),
        };
        machine.handle(event, &mut asked);
    }
}

/// Some sets of members that the group survives the loss of, none at all among them.
fn losses(run: &mut Run) -> Vec<u32> {
    let members = usize::from(run.world.geometry.members());
    let mut losses = vec![0];
    for _ in 0..3 {
        let count = run.random().below(4);
        let lost = (0..count).fold(0, |mask, _| mask | 1 << run.random().index(members));
        if run.world.layout.survives(lost) {
            losses.push(lost);
        }
    }
    losses
}

/// PROTOCOL H35, I12, I13, L4: the power goes after any answer of a drive, and of what was not flushed anything is there. With what the
/// superblock says then every block is where it belongs, also with members lost meanwhile, and the expansion can go on.
#[test]
fn h35_i12_the_power_may_go_at_any_point_of_an_expansion() {
    let (mut restored, mut gone_on) = (0, 0);
    for (which, (level, members, more)) in GROWTHS.into_iter().enumerate() {
        let seed = 4000 + which as u64;
        let mut random = Random::new(seed);
        let shape = Shape {
            strip: 1 + u32::try_from(which % 2).expect("small"),
            rows: 12,
            cores: 1,
            ..shape(level, members, false, &mut random)
        };
        let mut run = filled(&shape, seed);
        let mut expander = Expander::new(&mut run, more);
        run.world.trace = Some(Vec::new());
        let mut disks = Disks {
            durable: run.world.drives.clone(),
            cached: Vec::new(),
        };
        expander.run_quietly(&mut run);
        let shape = Shape {
            members: members + more,
            ..shape
        };
        let mut record = ExpansionRecord::begin(members);
        for (at, event) in expander.history.iter().enumerate() {
            match event {
                Durable::Change(change) => disks.apply(change),
                Durable::Record(next) => record = *next,
            }
            let open = disks.cached.len();
            for kind in 0..6 {
                let one = random.index(open.max(1));
                let left = disks.cut(|number| match kind {
                    0 => true,
                    1 => false,
                    2 => number == one,
                    3 => number != one,
                    _ => random.chance(50),
                });
                restored += u32::from(record.awaits_restore());
                // What is whole in the scratch area counts on the new members as if it were in its place.
                let mut counted = record;
                if let ScratchState::Holds { to } = record.scratch {
                    counted.frontier = to;
                }
                run.world.layout = Layout::of(run.world.geometry, Some(counted)).expect("it widens");
                for lost in losses(&mut run) {
                    let geometry = run.world.geometry;
                    let context =
                        format!("{level:?} {members}+{more}, event {at}, kind {kind}, lost {lost:b}");
                    let (drives, record) =
                        restore(left.clone(), geometry, expander.area, record, lost, &mut random);
                    run.world.drives.clone_from(&drives);
                    run.world.layout = Layout::of(geometry, Some(record)).expect("it widens");
                    let capacity =
                        usize::try_from(run.world.layout.oldest().capacity_blocks()).expect("small");
                    assert_eq!(run.world.contents(lost)[..capacity], run.model, "{context}");
                    assert!(lost != 0 || run.world.parity_matches(), "{context}");
                    if lost == 0 && random.chance(2) {
                        go_on(&shape, seed, drives, record, run.model.clone());
                        gone_on += 1;
                    }
                }
            }
        }
        assert_eq!(record.frontier, shape.rows);
    }
    assert!(restored > 500 && gone_on > 50, "{restored} {gone_on}");
}

/// A group that was opened again with what was durable goes on to the end.
fn go_on(shape: &Shape, seed: u64, drives: Vec<Vec<u8>>, record: ExpansionRecord, model: Vec<u8>) {
    let mut run = Run::new(shape, seed);
    run.world = World::opened(shape, seed, |wide| {
        Layout::of(wide, Some(record)).expect("it widens")
    });
    run.world.stable.clone_from(&drives);
    run.world.drives = drives;
    run.model = model;
    if !run.world.layout.is_over() {
        let mut expander = Expander::going_on(&run, record);
        expander.run_to_end(&mut run, |_, _| {});
    } else {
        let capacity = run.world.capacity();
        run.model.resize(capacity, 0);
    }
    check_end(&mut run);
}
