//! Whole engines on drives in memory: random runs against a model, and exhaustive small ones.

mod away;
mod mended;
mod ram;

use super::executor::{Random, Shape, World};
use super::*;
use crate::amf::geometry::Level;

/// What a command in flight of a random run expects.
pub(super) struct Running {
    pub core: usize,
    pub command: u32,
    /// The other half of a fused pair.
    pub write: Option<u32>,
    pub range: std::ops::Range<usize>,
    pub changes: bool,
    /// What the range holds after success.
    pub after: Vec<u8>,
    pub result: Result<(), GroupError>,
    pub reads: bool,
    /// Its node is gone: nobody knows which of its blocks were changed until they are read, which is under way once this has a core again.
    pub is_unsure: bool,
}

impl Running {
    const CHANGE: Self = Self {
        core: 0,
        command: 0,
        write: None,
        range: 0..0,
        changes: true,
        after: Vec::new(),
        result: Ok(()),
        reads: false,
        is_unsure: false,
    };
}

/// A read, forced to see the medium or not, of a disk of this length.
fn read_request(lba: GroupLba, blocks: u32, fua: bool, disk_blocks: usize) -> Request {
    match fua {
        true => Request::Read { lba, blocks },
        false => Request::CachedRead {
            lba,
            blocks,
            disk_end: GroupLba(disk_blocks as u64),
        },
    }
}

/// A random run: commands on ranges that no other change in flight overlaps, so that a model knows every
/// block; rows are shared all the time, so that locks, scratch and pieces are fought over.
pub(super) struct Run {
    pub world: World,
    pub model: Vec<u8>,
    pub running: Vec<Running>,
    pub commands: u32,
    /// Where a sequential stream goes on, if there is to be one.
    pub stream: Option<usize>,
    /// When writes are done.
    pub replication: ReplicationMode,
    completed: u64,
    aborted: u64,
    /// Commands of the group's own that completed.
    pub background: Vec<(u32, Result<(), GroupError>)>,
}

impl Run {
    pub fn new(shape: &Shape, seed: u64) -> Self {
        let world = World::new(shape, seed);
        let model = vec![0; world.capacity()];
        Self {
            world,
            model,
            running: Vec::new(),
            commands: shape.commands,
            stream: None,
            replication: ReplicationMode::Sync,
            completed: 0,
            aborted: 0,
            background: Vec::new(),
        }
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.world.random
    }

    pub fn free_ids(&self, core: usize) -> Vec<u32> {
        let used = |id| {
            self.running
                .iter()
                .any(|r| r.core == core && (r.command == id || r.write == Some(id)))
        };
        (0..self.commands).filter(|id| !used(*id)).collect()
    }

    pub fn start(&mut self) {
        let cores = self.world.cores.len();
        let core = self.random().index(cores);
        let ids = self.free_ids(core);
        if ids.len() < 2 || !self.world.lives(core) {
            return;
        }
        let capacity = self.model.len();
        if let Some(at) = self.stream
            && self.random().chance(40)
        {
            // Streams begin anew now and then.
            let start = if self.random().chance(5) { 0 } else { at % capacity };
            let range = start..(start + 4).min(capacity);
            let overlaps = |r: &Running| r.changes && r.range.start < range.end && range.start < r.range.end;
            if !self.running.iter().any(overlaps) {
                self.stream = Some(range.end);
                self.submit(core, ids[0], ids[1], 0, range);
            }
            return;
        }
        let start = self.random().index(capacity);
        let row = self.world.geometry.row_blocks() as usize;
        let longest = if self.random().chance(20) {
            3 * row
        } else {
            row.div_ceil(2)
        };
        let length = 1 + self.random().index(longest.min(capacity - start));
        let mut range = start..start + length;
        let kind = self.random().below(12);
        if kind == 9 || kind == 10 {
            // A fused pair stays inside its row.
            range.end = range.end.min((start / row + 1) * row);
            range.end = range.end.min(start + self.world.fused_blocks_max());
        }
        if kind == 11 && self.random().chance(50) && start + row <= capacity {
            // Whole rows of zeroes go another way than parts.
            range = start / row * row..(start + row) / row * row;
        }
        let changes = !matches!(kind, 0..4 | 8);
        let overlaps = |r: &Running| r.range.start < range.end && range.start < r.range.end;
        if self.running.iter().any(|r| (r.changes || changes) && overlaps(r)) {
            return;
        }
        self.submit(core, ids[0], ids[1], kind, range);
    }

    pub fn submit(
        &mut self,
        core: usize,
        command: u32,
        other: u32,
        kind: u64,
        range: std::ops::Range<usize>,
    ) {
        let lba = GroupLba(range.start as u64);
        let blocks = u32::try_from(range.len()).expect("short");
        let now = self.model[range.clone()].to_vec();
        let new: Vec<u8> = range.clone().map(|_| self.random().byte()).collect();
        let mut running = Running {
            core,
            command,
            range,
            after: now.clone(),
            ..Running::CHANGE
        };
        let (fua, replication) = (self.random().chance(30), self.replication);
        let (expected, wrong) = self.expected(now);
        let buffers = &mut self.world.cores[core].buffers;
        let request = match kind {
            0..4 => {
                buffers[command as usize] = vec![0xEE; new.len()];
                (running.changes, running.reads) = (false, true);
                read_request(lba, blocks, fua, self.model.len())
            }
            4..8 => {
                buffers[command as usize].clone_from(&new);
                running.after = new;
                Request::Write {
                    lba,
                    blocks,
                    fua,
                    replication,
                }
            }
            8 => {
                buffers[command as usize] = expected;
                running.changes = false;
                running.result = if wrong {
                    Err(GroupError::CompareFailed)
                } else {
                    Ok(())
                };
                Request::Compare { lba, blocks }
            }
            9 | 10 => {
                buffers[command as usize] = expected;
                buffers[other as usize].clone_from(&new);
                running.write = Some(other);
                running.result = if wrong {
                    Err(GroupError::CompareFailed)
                } else {
                    Ok(())
                };
                running.after = new;
                Request::CompareWrite {
                    lba,
                    blocks,
                    write: CommandId(other),
                    fua,
                }
            }
            _ => {
                running.after = vec![0; new.len()];
                Request::Zero {
                    lba,
                    blocks: u64::from(blocks),
                    deallocate: true,
                    fua,
                    replication,
                }
            }
        };
        self.begin(running, request, blocks);
    }

    fn begin(&mut self, running: Running, request: Request, blocks: u32) {
        let Running { core, command, .. } = running;
        self.running.push(running);
        let comes_in_parts = matches!(request, Request::Write { .. }) && self.random().chance(30);
        if comes_in_parts {
            let there = self.random().index(blocks as usize);
            self.world.submit_part(core, command, request, there);
        } else {
            self.world.submit(core, command, request);
        }
    }

    /// What a host expects where something else may be, and whether it is wrong.
    fn expected(&mut self, mut now: Vec<u8>) -> (Vec<u8>, bool) {
        let wrong = self.random().chance(30);
        if wrong {
            let at = self.random().index(now.len());
            now[at] ^= 0x41;
        }
        (now, wrong)
    }

    pub fn abort(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let count = self.running.len();
        let pick = self.random().index(count);
        let Running {
            core, command, write, ..
        } = self.running[pick];
        if self.running[pick].is_unsure {
            return;
        }
        let target = write.filter(|_| self.world.random.chance(50)).unwrap_or(command);
        if self.world.abort(core, target) {
            self.running[pick].result = Err(GroupError::Aborted);
            assert_eq!(
                self.world.result(core, command),
                Some(Err(GroupError::Aborted)),
                "as it said"
            );
        }
    }

    /// Holds what completed against what was expected.
    pub fn check_done(&mut self) {
        let mut fused = None;
        for done in std::mem::take(&mut self.world.done) {
            if let Some((write, result)) = fused.take() {
                assert_eq!(
                    (done.command.0, done.result),
                    (write, result),
                    "a pair completes together"
                );
                continue;
            }
            if done.command.0 >= self.commands {
                self.background.push((done.command.0, done.result));
                continue;
            }
            let here = |r: &Running| r.core == done.core && r.command == done.command.0;
            let running = self
                .running
                .swap_remove(self.running.iter().position(here).expect("it runs"));
            assert_eq!(done.result, running.result);
            let now = &mut self.model[running.range];
            if running.is_unsure {
                settle_unsure(
                    now,
                    &running.after,
                    &self.world.cores[done.core].buffers[done.command.0 as usize],
                );
            } else if running.reads && done.result.is_ok() {
                let buffer = &self.world.cores[done.core].buffers[done.command.0 as usize];
                assert_eq!(buffer, now, "a read returns what was last written");
            }
            if running.changes && !running.is_unsure && done.result.is_ok() {
                now.copy_from_slice(&running.after);
            }
            fused = running.write.map(|write| match done.result {
                Err(GroupError::CompareFailed) => (write, Err(GroupError::FusedCompareFailed)),
                result => (write, result),
            });
            self.completed += 1;
            self.aborted += u64::from(done.result == Err(GroupError::Aborted));
        }
        assert!(fused.is_none(), "a pair completes together");
    }

    /// Runs `steps` random steps; `event` may fail members at some of them.
    pub fn run(&mut self, steps: u32, mut event: impl FnMut(&mut Self, u32)) {
        let rooms = |world: &World| {
            world
                .cores
                .iter()
                .map(|core| core.engine.rooms())
                .collect::<Vec<_>>()
        };
        let before = rooms(&self.world);
        for step in 0..steps {
            event(self, step);
            self.step();
        }
        self.world.settle();
        self.check_done();
        assert!(self.running.is_empty(), "nothing hangs");
        self.world.drain();
        assert_eq!(rooms(&self.world), before, "no allocation in steady state");
        self.world.assert_idle();
    }

    /// One random step.
    pub fn step(&mut self) {
        match self.random().below(10) {
            0..4 => self.start(),
            4 if self.random().chance(20) => self.abort(),
            _ => {
                self.world.pay_any();
            }
        }
        if self.world.reported != 0 && self.random().chance(10) {
            self.world.fail_members(self.world.reported);
        }
        self.check_done();
    }

    /// All blocks are right on the drives: parity matches if no member is lost, and each further loss
    /// that the level survives loses nothing. Then once more through the engines.
    pub fn check_contents(&mut self) {
        let failed = self.world.members.failed;
        assert_eq!(self.world.contents(failed), self.model);
        assert!(failed != 0 || self.world.parity_matches());
        for _ in 0..6 {
            let members = usize::from(self.world.geometry.members());
            let count = self.random().below(4);
            let more = (0..count).fold(failed, |mask, _| mask | 1 << self.random().index(members));
            if self.world.layout.survives(more) {
                assert_eq!(
                    self.world.contents(more),
                    self.model,
                    "after the loss of {more:b}"
                );
            }
        }
        for core in self.world.living_cores() {
            let capacity = u32::try_from(self.world.capacity()).expect("small");
            self.world.read(core, 0, 0, capacity);
            self.world.settle();
            assert_eq!(self.world.result(core, 0), Some(Ok(())));
            assert_eq!(self.world.cores[core].buffers[0], self.model);
            self.world.done.clear();
        }
    }
}

/// Blocks that may have been changed or not are read for the first time: from now on they are what they are.
fn settle_unsure(now: &mut [u8], after: &[u8], read: &[u8]) {
    for ((now, after), read) in now.iter_mut().zip(after).zip(read) {
        assert!(read == now || read == after, "a block is changed or not");
        *now = *read;
    }
}

fn shape(random: &mut Random) -> Shape {
    let pick = |random: &mut Random, from: u64, to: u64| from + random.below(to - from + 1);
    let small = |n: u64| u32::try_from(n).expect("small");
    Shape {
        level: Level::Raid5,
        members: u8::try_from(pick(random, 2, 8)).expect("small"),
        strip: small(pick(random, 1, 16)),
        rows: pick(random, 1, 12),
        cores: u16::try_from(pick(random, 1, 4)).expect("small"),
        commands: small(pick(random, 2, 24)),
        pieces: small(pick(random, 1, 32)),
        scratch_strips: small(pick(random, 0, 24)),
        journal: None,
        shared: false,
        nodes: 1,
    }
}

/// The same with a journal, in which writes end first.
fn journaled_shape(random: &mut Random) -> Shape {
    let durability = if random.chance(70) {
        Durability::Journal
    } else {
        Durability::Ram
    };
    Shape {
        journal: Some(durability),
        ..shape(random)
    }
}

/// The same without redundancy, on 1 to 4 members.
fn striped_shape(random: &mut Random) -> Shape {
    let shape = shape(random);
    Shape {
        level: Level::Raid0,
        members: 1 + shape.members % 4,
        ..shape
    }
}

/// Any level at all, with a journal or without.
pub fn any_shape(random: &mut Random) -> Shape {
    let shape = shape(random);
    let level = Level::ALL[random.index(Level::ALL.len())];
    let journals = [None, Some(Durability::Journal), Some(Durability::Ram)];
    Shape {
        level,
        journal: journals[random.index(3)].filter(|_| level.is_redundant()),
        members: shape.members.max(level.members_min()),
        ..shape
    }
}

#[test]
fn random_commands_agree_with_the_model() {
    for shape in [shape, striped_shape, any_shape, journaled_shape] {
        let (mut completed, mut aborted) = (0, 0);
        for seed in 0..120 {
            let mut run = Run::new(&shape(&mut Random::new(seed)), seed);
            run.run(3000, |_, _| {});
            run.check_contents();
            completed += run.completed;
            aborted += run.aborted;
        }
        assert!(
            completed > 20_000 && aborted > 100,
            "{completed} commands, {aborted} of them aborted"
        );
    }
}

/// A member is declared failed at a random moment while its drive still works and grows stale.
#[test]
fn a_member_may_be_failed_at_any_moment() {
    for seed in 0..240 {
        let shape = if seed % 2 == 0 { shape } else { journaled_shape };
        let mut run = Run::new(&shape(&mut Random::new(seed)), seed);
        let moment = u32::try_from(run.random().below(2500)).expect("small");
        let member = run.world.random.index(run.world.drives.len());
        run.run(3000, |run, step| {
            if step == moment {
                run.world.fail_members(1 << member);
            }
        });
        assert_eq!(run.world.members.failed, 1 << member);
        run.check_contents();
    }
}

/// CHECKLIST D1, D2: as many members as the level survives are declared failed or break, at random moments.
#[test]
fn every_level_goes_on_with_all_the_losses_it_survives() {
    for seed in 0..200 {
        let mut run = Run::new(&any_shape(&mut Random::new(seed)), seed);
        let members = run.world.drives.len();
        run.run(3000, |run, _| {
            if !run.random().chance(1) {
                return;
            }
            let member = 1 << run.random().index(members);
            let world = &mut run.world;
            let lost = world.members.failed | world.broken | member;
            if world.geometry.survives(lost) {
                if world.random.chance(50) {
                    world.fail_members(member);
                } else {
                    world.broken |= member;
                }
            }
        });
        run.check_contents();
    }
}

/// CHECKLIST F1, I12 (PROTOCOL H34): members are replaced and rebuilt while commands run on all cores and further members
/// are lost; in the end nothing is lost, and every strip is right.
#[test]
fn members_are_rebuilt_under_load() {
    let (mut rebuilt, mut stopped) = (0, 0);
    for seed in 0..250 {
        let mut random = Random::new(seed);
        let shape = any_shape(&mut random);
        if !shape.level.is_redundant() {
            continue;
        }
        let mut run = Run::new(&with_own_commands(&shape), seed);
        run.commands = shape.commands;
        let mut rebuilder = Rebuilder::new(shape.commands);
        run.run(6000, |run, _| rebuilder.step(run));
        rebuilder.end(&mut run);
        assert!(run.world.members.failed == 0 || run.world.broken != 0);
        run.check_contents();
        rebuilt += rebuilder.rebuilt;
        stopped += rebuilder.stopped;
    }
    assert!(
        rebuilt > 300 && stopped > 20,
        "{rebuilt} rebuilds, {stopped} were stopped"
    );
}

/// Ids behind those of the hosts are the group's own.
pub fn with_own_commands(shape: &Shape) -> Shape {
    Shape {
        commands: shape.commands + OWN_COMMANDS,
        ..*shape
    }
}

const OWN_COMMANDS: u32 = 4;

/// Loses members, replaces their drives, and has them rebuilt, several rows at a time.
pub struct Rebuilder {
    free: Vec<u32>,
    next: u64,
    /// A row was not rebuilt: begins anew at the frontier once the others have ended.
    failed: bool,
    rebuilt: u32,
    stopped: u32,
}

impl Rebuilder {
    pub fn new(first: u32) -> Self {
        Self {
            free: (first..first + OWN_COMMANDS).collect(),
            next: 0,
            failed: false,
            rebuilt: 0,
            stopped: 0,
        }
    }

    pub fn step(&mut self, run: &mut Run) {
        for (command, result) in std::mem::take(&mut run.background) {
            self.free.push(command);
            self.failed |= result.is_err();
            self.stopped += u32::from(result.is_err());
        }
        let members = run.world.members;
        if self.free.len() == OWN_COMMANDS as usize && run.all_told() {
            if self.failed {
                (self.failed, self.next) = (false, run.world.lock.rebuild().rows);
            } else if members.rebuilding != 0 && self.next == run.world.geometry.rows() {
                return self.done(run);
            } else if members.rebuilding == 0 && members.failed != 0 && run.random().chance(20) {
                return self.replace(run);
            }
        }
        if run.random().chance(1) {
            self.lose(run);
        }
        let going = members.rebuilding != 0 && !self.failed && self.next < run.world.geometry.rows();
        if going
            && run.all_told()
            && run.random().chance(30)
            && let Some(command) = self.free.pop()
        {
            let row = RowIndex(self.next);
            self.next += 1;
            run.world.submit(
                0,
                command,
                Request::Rebuild {
                    row,
                    wave: 0,
                    only_marked: false,
                },
            );
        }
    }

    /// Loses one member more, perhaps one that is being rebuilt.
    fn lose(&mut self, run: &mut Run) {
        let member = 1 << run.world.random.index(run.world.drives.len());
        let world = &mut run.world;
        if !world
            .geometry
            .survives(world.members.failed | world.reported | member)
        {
            return;
        }
        let rebuilding = world.members.rebuilding & !member;
        world.announce(MemberSet {
            failed: world.members.failed | member,
            rebuilding,
            ..world.members
        });
    }

    /// The members that are lost get new drives, unless the old ones still owe an answer.
    fn replace(&mut self, run: &mut Run) {
        let world = &mut run.world;
        let owes = |action: &Action| world.members.is_failed(executor::drive_io(action).1);
        if (0..world.cores.len()).any(|core| world.asked(core).iter().any(owes)) {
            return;
        }
        for (member, drive) in world.drives.iter_mut().enumerate() {
            if world.members.failed >> member & 1 == 1 {
                drive.fill(0x99);
            }
        }
        self.next = 0;
        world.announce(MemberSet {
            rebuilding: world.members.failed,
            rebuilt_rows: 0,
            ..world.members
        });
    }

    fn done(&mut self, run: &mut Run) {
        let members = run.world.members;
        assert_eq!(run.world.lock.rebuild().rows, run.world.geometry.rows());
        self.rebuilt += 1;
        self.next = 0;
        run.world.announce(MemberSet {
            failed: members.failed & !members.rebuilding,
            rebuilding: 0,
            ..members
        });
    }

    /// Goes on without hosts until all is rebuilt.
    pub fn end(&mut self, run: &mut Run) {
        for _ in 0..100_000 {
            self.step(run);
            run.world.settle();
            run.check_done();
            if run.world.members.failed == 0 {
                return run.world.drain();
            }
        }
        panic!("a rebuild ends");
    }
}

impl Run {
    /// All cores know the newest members.
    fn all_told(&self) -> bool {
        let mut owed = self.world.cores.iter().flat_map(|core| &core.owed);
        !owed.any(|owed| matches!(owed, executor::Owed::Members(_)))
    }
}

/// A drive breaks at a random moment: what it was asked it has done or not, and it says so only later.
#[test]
fn a_drive_may_break_at_any_moment() {
    for seed in 0..320 {
        let shape = if seed % 2 == 0 { shape } else { journaled_shape };
        let mut run = Run::new(&shape(&mut Random::new(seed)), seed);
        let moment = u32::try_from(run.random().below(2500)).expect("small");
        let member = run.world.random.index(run.world.drives.len());
        run.run(3000, |run, step| {
            if step == moment {
                run.world.broken = 1 << member;
            }
        });
        run.check_contents();
    }
}

/// Two drives break. Everything ends, nothing hangs, and no read returns anything but data or an error.
#[test]
fn two_broken_drives_hang_nothing_and_return_nothing_wrong() {
    for seed in 0..120 {
        let mut random = Random::new(seed);
        let shape = if seed % 2 == 0 { shape } else { journaled_shape };
        let shape = shape(&mut random);
        drives_break(&shape, seed, random);
    }
}

/// The same without redundancy, where the first drive that breaks is one too many.
#[test]
fn broken_drives_of_a_striped_group_hang_nothing_and_return_nothing_wrong() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let shape = striped_shape(&mut random);
        drives_break(&shape, seed, random);
    }
}

fn drives_break(shape: &Shape, seed: u64, mut random: Random) {
    let mut world = World::new(shape, seed);
    let capacity = world.capacity();
    let data: Vec<u8> = (0..capacity).map(|_| random.byte()).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    world.done.clear();
    for round in 0..200_u32 {
        if round == 50 || round == 80 {
            world.broken |= 1 << random.index(world.drives.len());
        }
        for core in 0..world.cores.len() {
            if world.cores[core].engine.in_flight() > 0 {
                continue;
            }
            let start = random.index(capacity);
            let length = 1 + random.index(capacity - start);
            if random.chance(50) {
                world.read(core, 0, start as u64, u32::try_from(length).expect("small"));
                world.cores[core].buffers[1] = data[start..start + length].to_vec();
            } else {
                // The same data again, so that every outcome of a failed write is known.
                world.write(core, 0, start as u64, &data[start..start + length]);
                world.cores[core].buffers[1] = data[start..start + length].to_vec();
            }
        }
        for _ in 0..random.below(60) {
            world.pay_any();
        }
        for done in std::mem::take(&mut world.done) {
            let core = &world.cores[done.core];
            match done.result {
                Ok(()) => assert_eq!(core.buffers[0], core.buffers[1]),
                Err(error) => assert_eq!(error, GroupError::TooManyMembersLost),
            }
        }
    }
    world.settle();
    world.drain();
    world.assert_idle();
}

/// Exhaustive: every write on 3 to 5 members with tiny strips, healthy and with each member failed,
/// then regenerated from each loss that is survived.
#[test]
fn every_write_on_small_groups_survives_every_loss() {
    for members in 3..=5 {
        for strip in 1..=3 {
            for lost in 0..=members {
                let failed = if lost == 0 { 0 } else { 1 << (lost - 1) };
                every_write(&tiny(Level::Raid5, members, strip), failed);
            }
        }
    }
}

/// The same for the other levels, with each set of members failed that they survive.
#[test]
fn every_write_at_every_level_survives_every_loss() {
    for level in [Level::Raid1, Level::Raid10, Level::Raid6, Level::RaidTp] {
        for members in level.members_min()..=5 {
            for failed in 0..1_u32 << members {
                let shape = tiny(level, members, 2);
                if level.survives(members, failed) {
                    every_write(&shape, failed);
                }
            }
        }
    }
}

/// Exhaustive: every write without redundancy, on 1 to 4 members with tiny strips.
#[test]
fn every_write_on_small_striped_groups_lands_in_its_place() {
    for members in 1..=4 {
        for strip in 1..=3 {
            every_write(&tiny(Level::Raid0, members, strip), 0);
        }
    }
}

fn tiny(level: Level, members: u8, strip: u32) -> Shape {
    Shape {
        level,
        members,
        strip,
        rows: 2,
        ..Shape::SMALL
    }
}

/// Exhaustive: every command on small groups without redundancy and each set of lost members. Reads of
/// live members are served, all else is refused, and no drive changes.
#[test]
fn every_command_on_small_striped_groups_with_losses_is_served_or_refused() {
    for members in 1..=4 {
        for strip in 1..=3 {
            for failed in 1..1 << members {
                every_command_after_a_loss(&tiny(Level::Raid0, members, strip), failed);
            }
        }
    }
}

fn every_command_after_a_loss(shape: &Shape, failed: u32) {
    let mut world = World::new(shape, 1);
    let capacity = world.capacity();
    let model: Vec<u8> = (1..=u8::try_from(capacity).expect("small")).collect();
    world.write(0, 0, 0, &model);
    world.settle();
    world.fail_members(failed);
    world.settle();
    let lost = Some(Err(GroupError::TooManyMembersLost));
    for start in 0..capacity {
        for length in 1..=capacity - start {
            let (range, lba) = (start..start + length, GroupLba(start as u64));
            let blocks = u32::try_from(length).expect("small");
            let dead = |block| {
                let place = world.geometry.locate(GroupLba(block as u64));
                failed >> place.member.0 & 1 == 1
            };
            let served = !range.clone().any(dead);
            world.read(0, 0, lba.0, blocks);
            world.settle();
            if served {
                assert_eq!(world.result(0, 0), Some(Ok(())));
                assert_eq!(world.cores[0].buffers[0], model[range.clone()]);
            } else {
                assert_eq!(world.result(0, 0), lost);
            }
            world.cores[0].buffers[0] = model[range].to_vec();
            world.submit(0, 0, Request::Compare { lba, blocks });
            world.settle();
            assert_eq!(world.result(0, 0), if served { Some(Ok(())) } else { lost });
            world.write(0, 0, lba.0, &vec![0xEE; length]);
            assert_eq!(world.result(0, 0), lost);
            let (blocks, deallocate, fua) = (length as u64, false, false);
            world.submit(
                0,
                0,
                Request::Zero {
                    lba,
                    blocks,
                    deallocate,
                    fua,
                    replication: ReplicationMode::Sync,
                },
            );
            assert_eq!(world.result(0, 0), lost);
            world.done.clear();
        }
    }
    world.submit(0, 0, Request::Flush);
    assert_eq!(world.result(0, 0), lost);
    assert_eq!(world.contents(0), model, "nothing was written");
    world.assert_idle();
}

fn every_write(shape: &Shape, failed: u32) {
    let mut world = World::new(shape, 1);
    let capacity = world.capacity();
    let mut model: Vec<u8> = (1..=u8::try_from(capacity).expect("small")).collect();
    world.write(0, 0, 0, &model.clone());
    world.settle();
    world.fail_members(failed);
    world.settle();
    let mut stamp = 0x40_u8;
    for start in 0..capacity {
        for length in 1..=capacity - start {
            stamp = stamp.wrapping_add(7);
            let data: Vec<u8> = (0..length)
                .map(|i| stamp ^ u8::try_from(i).expect("small"))
                .collect();
            model[start..start + length].copy_from_slice(&data);
            world.write(0, 0, start as u64, &data);
            world.settle();
            assert_eq!(world.result(0, 0), Some(Ok(())));
            world.done.clear();
            assert_eq!(world.contents(failed), model);
            for next in (0..shape.members).filter(|next| world.geometry.survives(failed | 1 << next)) {
                assert_eq!(
                    world.contents(failed | 1 << next),
                    model,
                    "after the loss of {next}"
                );
            }
        }
    }
    world.assert_idle();
}
