//! Commands whose host has gone (PROTOCOL H37): one named test for each thing that they may be doing,
//! and random runs in which they are given up at any moment.

use std::ops::Range;

use super::executor::{Owed, Random, Shape, World, drive_io};
use super::piece::State;
use super::tag::IO_TAG_SHIFT;
use super::*;
use crate::amf::MemberIndex;
use crate::amf::geometry::Level;

const ABORTED: Option<Result<(), GroupError>> = Some(Err(GroupError::Aborted));
const OK: Option<Result<(), GroupError>> = Some(Ok(()));

/// A world whose blocks hold a pattern without zeroes, and the pattern.
fn filled(shape: &Shape) -> (World, Vec<u8>) {
    let mut world = World::new(shape, 1);
    let data: Vec<u8> = (1..=251).cycle().take(world.capacity()).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    world.done.clear();
    (world, data)
}

fn zero(lba: u64, blocks: u64) -> Request {
    Request::Zero {
        lba: GroupLba(lba),
        blocks,
        deallocate: true,
        fua: false,
        replication: ReplicationMode::Sync,
    }
}

fn is_read(action: &Action) -> bool {
    matches!(action, Action::DriveRead { .. })
}

/// Pays the drive reads that core 0 waits for now.
fn pay_reads(world: &mut World) {
    for _ in 0..world.asked(0).iter().filter(|action| is_read(action)).count() {
        let index = world.find(0, |owed| matches!(owed, Owed::Drive(action) if is_read(action)));
        world.pay(0, index);
    }
}

/// Pays all that is owed, with nothing else happening.
fn pay_all(world: &mut World) {
    while world.pay_any() {}
}

fn fused(world: &mut World, lba: u64, expected: &[u8], new: &[u8]) {
    world.cores[0].buffers[1] = expected.to_vec();
    world.cores[0].buffers[2] = new.to_vec();
    let request = Request::CompareWrite {
        lba: GroupLba(lba),
        blocks: u32::try_from(new.len()).expect("short"),
        write: CommandId(2),
        fua: false,
    };
    world.submit(0, 1, request);
}

#[test]
fn a_long_zero_starts_no_further_row() {
    let shape = Shape {
        rows: 100,
        ..Shape::SMALL
    };
    let (mut world, mut data) = filled(&shape);
    world.submit(0, 0, zero(0, 1200));
    world.pay(0, 0);
    let asked = world.asked(0).len();
    world.give_up(0, 0);
    assert_eq!(world.asked(0).len(), asked, "no drive is asked for more");
    assert_eq!(world.result(0, 0), None, "rows that are being zeroed go on");
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), ABORTED);
    data[..PIECES_PER_COMMAND_MAX as usize * 12].fill(0);
    assert_eq!(world.contents(0), data, "the rows of the window and no other");
    assert!(world.parity_matches());
    world.assert_idle();
}

/// The host may by now have written there through another controller: this is the hazard itself.
#[test]
fn a_zero_does_not_overwrite_what_comes_after_it() {
    let shape = Shape {
        rows: 100,
        ..Shape::SMALL
    };
    let (mut world, _) = filled(&shape);
    world.submit(0, 0, zero(0, 1200));
    world.give_up(0, 0);
    world.write(0, 1, 600, &[0xA7; 600]);
    pay_all(&mut world);
    assert_eq!((world.result(0, 0), world.result(0, 1)), (ABORTED, OK));
    assert_eq!(world.contents(0)[600..], [0xA7; 600]);
    world.assert_idle();
}

#[test]
fn a_command_that_waits_for_its_turn_ends_at_once() {
    let shape = Shape {
        pieces: 1,
        ..Shape::SMALL
    };
    let (mut world, data) = filled(&shape);
    world.read(0, 0, 0, 1);
    world.write(0, 1, 12, &[9; 12]);
    world.submit(0, 2, Request::Flush);
    for command in [1, 2] {
        assert_eq!(world.result(0, command), None, "the only piece is taken");
        world.give_up(0, command);
        assert_eq!(world.result(0, command), ABORTED);
    }
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), OK);
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

#[test]
fn a_write_that_reads_does_not_write() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.write(0, 0, 1, &[0xB1; 2]);
    assert!(world.asked(0).iter().all(is_read) && !world.asked(0).is_empty());
    world.give_up(0, 0);
    assert_eq!(world.result(0, 0), None, "drives still write to its scratch");
    assert!(!world.lock.is_idle());
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), ABORTED);
    assert_eq!(world.contents(0), data);
    world.assert_idle();
}

/// The write hole stays closed: what has begun to write is written to the end.
#[test]
fn a_write_that_writes_ends_with_its_result() {
    let (mut world, mut data) = filled(&Shape::SMALL);
    world.write(0, 0, 1, &[0xB1; 2]);
    pay_reads(&mut world);
    world.give_up(0, 0);
    assert_eq!(world.asked(0).len(), 2, "data and parity");
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), OK, "all of it was done");
    data[1..3].fill(0xB1);
    assert_eq!(world.contents(0), data);
    assert!(world.parity_matches());
    world.assert_idle();
}

/// One row of it writes, one waits for its lock: the command ends with the row that writes.
#[test]
fn a_row_that_waits_for_its_lock_is_left_off() {
    let (mut world, mut data) = filled(&Shape::SMALL);
    world.read(0, 1, 12, 1);
    world.write(0, 0, 0, &[0xC1; 24]);
    world.give_up(0, 0);
    assert_eq!(world.result(0, 0), None);
    let index = world.find(0, |owed| matches!(owed, Owed::Drive(action) if is_read(action)));
    world.pay(0, index);
    assert_eq!(world.asked(0).len(), 4, "the row that became free is not written");
    while world.result(0, 0).is_none() {
        world.pay(0, 0);
    }
    assert!(world.asked(0).is_empty(), "its buffer is no longer used");
    assert_eq!(world.result(0, 0), ABORTED);
    data[..12].fill(0xC1);
    assert_eq!(world.contents(0), data);
    assert!(world.parity_matches());
    world.assert_idle();
}

/// The turn of a waiter that is given up goes to the next core; it would wait for ever otherwise.
#[test]
fn the_turn_for_a_lock_is_passed_on() {
    let shape = Shape {
        cores: 3,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    for core in 0..3_u8 {
        world.write(core.into(), 0, 0, &[1 + core; 12]);
    }
    while world.result(0, 0).is_none() {
        world.pay(0, 0);
    }
    // Core 1 has been given the turn but has not heard of it yet.
    world.give_up(1, 0);
    assert_eq!(world.result(1, 0), ABORTED);
    let woken = |owed: &Owed| matches!(owed, Owed::Wake(_));
    assert!(world.cores[2].owed.iter().any(woken), "core 2 hears at once");
    pay_all(&mut world);
    assert_eq!(world.result(2, 0), OK);
    assert_eq!(world.contents(0)[..12], [3; 12]);
    world.assert_idle();
}

#[test]
fn a_row_that_waits_for_scratch_is_left_off_and_the_next_is_served() {
    let shape = Shape {
        scratch_strips: 0,
        members: 6,
        strip: 16,
        ..Shape::SMALL
    };
    let mut world = World::new(&shape, 1);
    // Of 176 blocks of scratch the large writes need 64 each and the small one 16.
    world.write(0, 0, 0, &[1; 32]);
    world.write(0, 1, 80, &[2; 32]);
    world.write(0, 2, 160, &[3; 32]);
    world.write(0, 3, 240, &[4; 8]);
    let begun = |world: &World| [0, 1, 2, 3].map(|command| world.cores[0].engine.commands[command].issued);
    assert_eq!(begun(&world), [true, true, false, false]);
    world.give_up(0, 2);
    assert_eq!(world.result(0, 2), ABORTED);
    assert_eq!(
        begun(&world),
        [true, true, false, true],
        "the next in line has its turn"
    );
    pay_all(&mut world);
    assert_eq!([0, 1, 3].map(|command| world.result(0, command)), [OK; 3]);
    assert_eq!(world.contents(0)[160..192], [0; 32]);
    world.assert_idle();
}

#[test]
fn a_write_that_waits_for_members_before_it_writes_ends_at_once() {
    let shape = Shape {
        members: 6,
        ..Shape::SMALL
    };
    let (mut world, data) = filled(&shape);
    world.write(0, 0, 0, &[9]);
    let member = world.geometry.locate(GroupLba(0)).member;
    let index = world.find_member(0, member);
    world.pay_with_error(0, index, DriveError::Gone);
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), None);
    world.give_up(0, 0);
    assert_eq!(world.result(0, 0), ABORTED);
    world.assert_idle();
    world.settle();
    assert_eq!(world.members.failed, 1 << member.0);
    assert_eq!(world.contents(world.members.failed), data);
    world.assert_idle();
}

/// PROTOCOL H29, H33: the row is half written until it is durable which strip is not to be believed.
#[test]
fn a_write_that_waits_for_members_after_it_has_written_waits_on() {
    let (mut world, mut data) = filled(&Shape::SMALL);
    world.write(0, 0, 4, &[0xB1, 0xB2]);
    pay_reads(&mut world);
    let member = world.geometry.locate(GroupLba(4)).member;
    let index = world.find_member(0, member);
    world.pay_with_error(0, index, DriveError::Gone);
    pay_all(&mut world);
    world.give_up(0, 0);
    assert_eq!(world.result(0, 0), None);
    assert!(!world.lock.is_idle(), "nobody reads the row meanwhile");
    world.settle();
    assert_eq!(world.result(0, 0), OK);
    data[4..6].copy_from_slice(&[0xB1, 0xB2]);
    assert_eq!(world.contents(1 << member.0), data);
    world.assert_idle();
}

/// A drive that errs is still reported, but nothing is read in its place.
#[test]
fn a_read_keeps_its_buffer_for_the_drives_and_is_not_tried_again() {
    let (mut world, _) = filled(&Shape::SMALL);
    world.read(0, 0, 5, 2);
    world.give_up(0, 0);
    assert_eq!(world.result(0, 0), None, "a drive still writes to its buffer");
    world.pay_with_error(0, 0, DriveError::Media);
    assert_eq!(world.result(0, 0), ABORTED);
    assert!(world.asked(0).is_empty());
    assert_eq!(world.media.len(), 1);
    world.assert_idle();
}

#[test]
fn a_resync_that_reads_does_not_write_and_one_that_writes_ends() {
    for (reads_first, result) in [(false, ABORTED), (true, OK)] {
        let (mut world, data) = filled(&Shape::SMALL);
        world.submit(0, 0, Request::Resync { row: RowIndex(2) });
        if reads_first {
            pay_reads(&mut world);
        }
        world.give_up(0, 0);
        pay_all(&mut world);
        assert_eq!(world.result(0, 0), result);
        assert_eq!(world.contents(0), data);
        assert!(world.parity_matches());
        world.assert_idle();
    }
}

#[test]
fn a_flush_in_flight_ends_with_its_result() {
    let mut world = World::new(&Shape::SMALL, 1);
    world.submit(0, 0, Request::Flush);
    world.give_up(0, 0);
    assert_eq!((world.result(0, 0), world.asked(0).len()), (None, 4));
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), OK);
    world.assert_idle();
}

/// A command that is refused has a host that waits for its answer: it never hears that all was done, also where it was.
#[test]
fn what_is_refused_ends_like_what_is_given_up_and_says_why() {
    const NOT_SERVED: Option<Result<(), GroupError>> = Some(Err(GroupError::NotServed));
    let (mut world, mut data) = filled(&Shape::SMALL);
    world.write(0, 0, 1, &[0xB1; 2]);
    pay_reads(&mut world);
    world.write(0, 1, 1, &[0xC1; 2]);
    world.submit(0, 2, Request::Flush);
    for command in 0..3 {
        world.refuse(0, command);
    }
    let results = |world: &World| [0, 1, 2].map(|command| world.result(0, command));
    assert_eq!(results(&world), [None, NOT_SERVED, None], "one waits for a lock");
    pay_all(&mut world);
    assert_eq!(results(&world), [NOT_SERVED; 3]);
    data[1..3].fill(0xB1);
    assert_eq!(world.contents(0), data);
    assert!(world.parity_matches());
    let before = data[3..5].to_vec();
    fused(&mut world, 3, &before, &[0xD1; 2]);
    world.refuse(0, 2);
    pay_all(&mut world);
    let both = [1, 2].map(|command| world.result(0, command));
    assert_eq!(both, [NOT_SERVED; 2], "whichever half is named");
    assert_eq!(world.contents(0), data);
    world.refuse(0, 3);
    world.assert_idle();
}

#[test]
fn a_comparison_ends_with_the_answers_to_come() {
    for reads_first in [false, true] {
        let (mut world, data) = filled(&Shape::SMALL);
        world.cores[0].buffers[0] = data[3..6].to_vec();
        let lba = GroupLba(3);
        world.submit(0, 0, Request::Compare { lba, blocks: 3 });
        if reads_first {
            pay_reads(&mut world);
        }
        world.give_up(0, 0);
        assert_eq!(world.result(0, 0), None);
        pay_all(&mut world);
        assert_eq!(world.result(0, 0), ABORTED);
        world.assert_idle();
    }
}

/// Either half gives the pair up, in each of its phases, and both complete once.
#[test]
fn a_fused_pair_is_given_up_as_a_whole() {
    let results = [
        (ABORTED, ABORTED, "it waits for its lock"),
        (ABORTED, ABORTED, "it reads for the comparison"),
        (ABORTED, ABORTED, "it compares"),
        (OK, ABORTED, "it has compared and reads for the write"),
        (OK, OK, "it writes"),
    ];
    for half in [1, 2] {
        for (phase, (compare, write, what)) in results.into_iter().enumerate() {
            let (mut world, mut data) = filled(&Shape::SMALL);
            if phase == 0 {
                world.write(0, 0, 0, &[data[0]]);
            }
            fused(&mut world, 2, &data[2..5], &[0xD1; 3]);
            if phase >= 2 {
                pay_reads(&mut world);
            }
            if phase >= 3 {
                let index = world.find(0, |owed| matches!(owed, Owed::Compared { equal: true, .. }));
                world.pay(0, index);
            }
            if phase >= 4 {
                pay_reads(&mut world);
            }
            world.give_up(0, half);
            world.give_up(0, 3 - half);
            pay_all(&mut world);
            assert_eq!(world.result(0, 1), compare, "{what}");
            assert_eq!(world.result(0, 2), write, "{what}");
            let completed = world.done.iter().filter(|done| done.command.0 != 0).count();
            assert_eq!(completed, 2, "{what}");
            if write == OK {
                data[2..5].fill(0xD1);
            }
            assert_eq!(world.contents(0), data, "{what}");
            assert!(world.parity_matches());
            world.assert_idle();
        }
    }
}

#[test]
fn a_command_that_is_over_or_never_was_is_none_of_its_business() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.give_up(0, 0);
    world.give_up(0, 1_000);
    assert!(world.done.is_empty());
    world.read(0, 0, 0, 1);
    pay_all(&mut world);
    world.give_up(0, 0);
    assert_eq!(world.done.len(), 1);
    // Its id is as good as new.
    world.read(0, 0, 3, 2);
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), OK);
    assert_eq!(world.cores[0].buffers[0], data[3..5]);
    world.assert_idle();
}

/// An error that came first is what the command completes with.
#[test]
fn an_error_from_before_is_the_result() {
    let (mut world, data) = filled(&Shape::SMALL);
    world.cores[0].buffers[0] = data[..24].to_vec();
    world.cores[0].buffers[0][0] ^= 1;
    let lba = GroupLba(0);
    world.submit(0, 0, Request::Compare { lba, blocks: 24 });
    let index = world.find_member(0, world.geometry.locate(lba).member);
    world.pay(0, index);
    let index = world.find(0, |owed| matches!(owed, Owed::Compared { equal: false, .. }));
    world.pay(0, index);
    world.give_up(0, 0);
    pay_all(&mut world);
    assert_eq!(world.result(0, 0), Some(Err(GroupError::CompareFailed)));
    world.assert_idle();
}

/// A command of a random run.
struct Running {
    core: usize,
    command: u32,
    /// The other half of a fused pair.
    write: Option<u32>,
    range: Range<usize>,
    /// What the range holds after success, if that is anything new.
    after: Option<Vec<u8>>,
    reads: bool,
    /// Since it was given up: the drive commands that it still waits for.
    given_up: Option<Vec<Action>>,
}

/// Random commands on ranges that no other change in flight overlaps, given up at random moments.
struct Run {
    world: World,
    /// For each block what it may hold: one thing, or more after a change that was left off half-way.
    model: Vec<Vec<u8>>,
    running: Vec<Running>,
    commands: u32,
    submitted: u64,
    completed: u64,
    aborted: u64,
    /// Given up and done nevertheless.
    carried_out: u64,
    /// What pieces did when they were given up.
    seen: Vec<State>,
}

impl Run {
    fn new(shape: &Shape, seed: u64) -> Self {
        let world = World::new(shape, seed);
        Self {
            model: vec![vec![0]; world.capacity()],
            world,
            running: Vec::new(),
            commands: shape.commands,
            submitted: 0,
            completed: 0,
            aborted: 0,
            carried_out: 0,
            seen: Vec::new(),
        }
    }

    fn start(&mut self) {
        let core = self.world.random.index(self.world.cores.len());
        let used = |r: &Running, id| r.core == core && (r.command == id || r.write == Some(id));
        let mut ids = (0..self.commands).filter(|id| !self.running.iter().any(|r| used(r, *id)));
        let (Some(command), Some(other)) = (ids.next(), ids.next()) else {
            return;
        };
        let row = self.world.geometry.row_blocks() as usize;
        let capacity = self.model.len();
        let random = &mut self.world.random;
        let start = random.index(capacity);
        let longest = [row.div_ceil(2), 3 * row, capacity][random.index(3)];
        let mut range = start..start + 1 + random.index(longest.min(capacity - start));
        let kind = random.below(10);
        match kind {
            // A fused pair stays inside its row.
            6 => range.end = range.end.min((start / row + 1) * row),
            8 | 9 => range = 0..0,
            _ => {}
        }
        let changes = matches!(kind, 2..=4 | 6 | 7);
        let overlaps = |r: &Running| r.range.start < range.end && range.start < r.range.end;
        let fits = |r: &Running| !overlaps(r) || (r.after.is_none() && !changes);
        if self.running.iter().all(fits) {
            self.submit(core, (command, other), kind, range);
        }
    }

    fn submit(&mut self, core: usize, (command, other): (u32, u32), kind: u64, range: Range<usize>) {
        let lba = GroupLba(range.start as u64);
        let blocks = u32::try_from(range.len()).expect("short");
        let random = &mut self.world.random;
        let new: Vec<u8> = range.clone().map(|_| random.byte()).collect();
        let guess: Vec<u8> = range.clone().map(|at| self.model[at][0]).collect();
        let row = RowIndex(random.below(self.world.geometry.rows()));
        let fua = random.chance(30);
        let mut running = Running {
            core,
            command,
            write: None,
            range,
            after: None,
            reads: false,
            given_up: None,
        };
        let buffers = &mut self.world.cores[core].buffers;
        let request = match kind {
            0 | 1 => {
                buffers[command as usize] = vec![0xEE; new.len()];
                running.reads = true;
                Request::Read { lba, blocks }
            }
            2..5 => {
                buffers[command as usize].clone_from(&new);
                running.after = Some(new);
                Request::Write {
                    lba,
                    blocks,
                    fua,
                    replication: ReplicationMode::Sync,
                }
            }
            5 => {
                buffers[command as usize] = guess;
                Request::Compare { lba, blocks }
            }
            6 => {
                buffers[command as usize] = guess;
                buffers[other as usize].clone_from(&new);
                running.after = Some(new);
                running.write = Some(other);
                let write = CommandId(other);
                Request::CompareWrite {
                    lba,
                    blocks,
                    write,
                    fua,
                }
            }
            7 => {
                running.after = Some(vec![0; new.len()]);
                zero(lba.0, u64::from(blocks))
            }
            8 => Request::Flush,
            _ => Request::Resync { row },
        };
        self.submitted += 1 + u64::from(running.write.is_some());
        self.running.push(running);
        self.world.submit(core, command, request);
    }

    /// What the drives have been asked for a command.
    fn asked(world: &World, core: usize, command: u32) -> Vec<Action> {
        let pieces = &world.cores[core].engine.pieces;
        let mut asked = world.asked(core);
        asked.retain(|action| {
            let piece = drive_io(action).0.0 >> IO_TAG_SHIFT;
            pieces[piece as usize].command == command
        });
        asked
    }

    fn give_up(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let pick = self.world.random.index(self.running.len());
        let Running {
            core, command, write, ..
        } = self.running[pick];
        let pieces = self.world.cores[core].engine.pieces.iter();
        let states = pieces
            .filter(|piece| piece.command == command)
            .map(|piece| piece.state);
        self.seen.extend(states);
        self.seen.sort_unstable_by_key(|state| *state as u8);
        self.seen.dedup();
        let before = Self::asked(&self.world, core, command);
        self.running[pick].given_up.get_or_insert(before);
        let half = write.filter(|_| self.world.random.chance(50)).unwrap_or(command);
        self.world.give_up(core, half);
    }

    /// After it was given up a command asks the drives for nothing: what it waits for only gets less.
    fn check_given_up(&mut self) {
        for running in &mut self.running {
            if let Some(before) = &mut running.given_up {
                let now = Self::asked(&self.world, running.core, running.command);
                let old = now.iter().all(|action| before.contains(action));
                assert!(old, "{now:?} was not all among {before:?}");
                *before = now;
            }
        }
    }

    fn check_done(&mut self) {
        let mut done = std::mem::take(&mut self.world.done).into_iter();
        while let Some(first) = done.next() {
            let here = |r: &Running| r.core == first.core && r.command == first.command.0;
            let at = self.running.iter().position(here).expect("it completes once");
            let running = self.running.swap_remove(at);
            self.completed += 1;
            let mut result = first.result;
            if let Some(write) = running.write {
                let second = done.next().expect("a pair completes together");
                assert_eq!((second.core, second.command.0), (first.core, write));
                self.completed += 1;
                result = second.result;
                // A drive that touched it later would find nothing.
                self.world.cores[first.core].buffers[write as usize].clear();
            }
            self.check_result(&running, result);
            self.world.cores[first.core].buffers[first.command.0 as usize].clear();
        }
    }

    fn check_result(&mut self, running: &Running, result: Result<(), GroupError>) {
        let left_off = result == Err(GroupError::Aborted);
        assert!(!left_off || running.given_up.is_some(), "nobody gave it up");
        self.aborted += u64::from(left_off);
        self.carried_out += u64::from(result.is_ok() && running.given_up.is_some());
        let row = self.world.geometry.row_blocks() as usize;
        let one_row = running.range.is_empty() || running.range.start / row == (running.range.end - 1) / row;
        match result {
            Ok(()) if running.reads => {
                let buffer = &self.world.cores[running.core].buffers[running.command as usize];
                for (byte, may) in buffer.iter().zip(&self.model[running.range.clone()]) {
                    assert!(may.contains(byte), "a read returns what was written");
                }
            }
            Ok(()) => {
                for (may, new) in self.model[running.range.clone()]
                    .iter_mut()
                    .zip(running.after.iter().flatten())
                {
                    *may = vec![*new];
                }
            }
            // What was left off in its only row has not begun there.
            Err(GroupError::Aborted) if !one_row => self.settle_rows(running),
            Err(GroupError::Aborted) => {}
            Err(GroupError::CompareFailed | GroupError::FusedCompareFailed) => {
                let unsure = self.model[running.range.clone()].iter().any(|may| may.len() > 1);
                assert!(unsure, "the comparison was with what is there");
            }
            Err(
                error @ (GroupError::TooManyMembersLost
                | GroupError::NotServed
                | GroupError::ParityNotTrusted
                | GroupError::MemberFailed
                | GroupError::TooLong
                | GroupError::Unreadable
                | GroupError::OutOfRange),
            ) => panic!("{error}"),
        }
    }

    /// After a change of several rows was left off each row has all of it or nothing. From here on the
    /// blocks may hold only what they hold now, so that a write which comes late is found out.
    fn settle_rows(&mut self, running: &Running) {
        let Some(after) = &running.after else {
            return;
        };
        let range = running.range.clone();
        if self.world.broken != 0 {
            // What is there cannot be told while strips are lost and neighbours are being written.
            for (may, new) in self.model[range].iter_mut().zip(after) {
                may.push(*new);
            }
            return;
        }
        let row = self.world.geometry.row_blocks() as usize;
        let contents = self.world.contents(0);
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min((start / row + 1) * row);
            let now = &contents[start..end];
            let old = now
                .iter()
                .zip(&self.model[start..end])
                .all(|(byte, may)| may == &[*byte]);
            assert!(
                old || now == &after[start - range.start..end - range.start],
                "blocks {start}..{end} are half written"
            );
            for (may, byte) in self.model[start..end].iter_mut().zip(now) {
                *may = vec![*byte];
            }
            start = end;
        }
    }

    fn run(&mut self, steps: u32, mut event: impl FnMut(&mut World, u32)) {
        for step in 0..steps {
            event(&mut self.world, step);
            match self.world.random.below(20) {
                0..6 => self.start(),
                6 => self.give_up(),
                _ => {
                    self.world.pay_any();
                }
            }
            if self.world.reported != 0 && self.world.random.chance(5) {
                self.world.fail_members(self.world.reported);
            }
            // Those that completed first: another command may have their piece by now.
            self.check_done();
            self.check_given_up();
        }
        self.world.settle();
        self.check_done();
        assert!(self.running.is_empty(), "nothing hangs");
        assert_eq!(self.completed, self.submitted, "each completes once");
        self.world.assert_idle();
    }

    /// Every block holds what it may, also after each loss that is survived: parity is right on every row.
    fn check_contents(&mut self) {
        let failed = self.world.members.failed;
        let contents = self.world.contents(failed);
        for (byte, may) in contents.iter().zip(&self.model) {
            assert!(may.contains(byte), "{byte} is none of {may:?}");
        }
        assert!(failed != 0 || self.world.parity_matches());
        for core in 0..self.world.cores.len() {
            let capacity = u32::try_from(contents.len()).expect("small");
            self.world.read(core, 0, 0, capacity);
            self.world.settle();
            assert_eq!(self.world.result(core, 0), OK);
            assert_eq!(self.world.cores[core].buffers[0], contents);
        }
    }
}

fn shape(random: &mut Random) -> Shape {
    let mut pick = |from: u64, to: u64| u32::try_from(from + random.below(to - from + 1)).expect("small");
    Shape {
        members: u8::try_from(pick(3, 8)).expect("small"),
        strip: pick(1, 16),
        rows: pick(1, 30).into(),
        cores: u16::try_from(pick(1, 4)).expect("small"),
        pieces: pick(1, 24),
        scratch_strips: pick(0, 12),
        ..Shape::SMALL
    }
}

#[test]
fn commands_may_be_given_up_at_any_moment() {
    let (mut aborted, mut carried_out, mut seen) = (0, 0, Vec::new());
    for seed in 0..150 {
        let mut run = Run::new(&shape(&mut Random::new(seed)), seed);
        run.run(3000, |_, _| {});
        run.check_contents();
        aborted += run.aborted;
        carried_out += run.carried_out;
        seen.append(&mut run.seen);
    }
    assert!(aborted > 3_000 && carried_out > 1_000, "{aborted}, {carried_out}");
    for state in [
        State::AwaitingLock,
        State::AwaitingScratch,
        State::Reading,
        State::Comparing,
        State::Writing,
    ] {
        assert!(seen.contains(&state), "{state:?} was never given up");
    }
}

/// The same without redundancy, on 1 to 4 members.
#[test]
fn commands_of_a_striped_group_may_be_given_up_at_any_moment() {
    let (mut aborted, mut carried_out) = (0, 0);
    for seed in 0..100 {
        let shape = shape(&mut Random::new(seed));
        let shape = Shape {
            level: Level::Raid0,
            members: 1 + shape.members % 4,
            ..shape
        };
        let mut run = Run::new(&shape, seed);
        run.run(3000, |_, _| {});
        run.check_contents();
        aborted += run.aborted;
        carried_out += run.carried_out;
    }
    assert!(aborted > 2_000 && carried_out > 1_000, "{aborted}, {carried_out}");
}

/// On RAID-5 while a drive breaks, so that commands also wait for members.
#[test]
fn commands_may_be_given_up_while_a_drive_breaks() {
    let (mut aborted, mut seen) = (0, Vec::new());
    for seed in 0..200 {
        let mut run = Run::new(&shape(&mut Random::new(seed)), seed);
        let moment = u32::try_from(run.world.random.below(1500)).expect("small");
        let member =
            MemberIndex(u8::try_from(run.world.random.index(run.world.drives.len())).expect("small"));
        run.run(2000, |world, step| {
            if step == moment {
                world.broken = 1 << member.0;
            }
        });
        run.check_contents();
        aborted += run.aborted;
        seen.append(&mut run.seen);
    }
    assert!(aborted > 2_000, "{aborted}");
    for state in [State::AwaitingMembersToPlan, State::AwaitingMembersToEnd] {
        assert!(seen.contains(&state), "{state:?} was never given up");
    }
}
