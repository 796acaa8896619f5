//! Members that are away for a while and come back with what they had: only marked rows are rebuilt, and none is missing.

use super::super::executor::{Owed, drive_io};
use super::*;
use crate::amf::{MemberIndex, MemberSet};

/// Takes members away, brings them back, and has the rows rebuilt that are marked.
struct Away {
    free: Vec<u32>,
    next: u64,
    /// A row was not rebuilt: begins anew at the frontier once the others have ended.
    failed: bool,
    /// The members are being flushed at the end of a rebuild, by this command.
    flushing: Option<u32>,
    rebuilt: u32,
    /// Rows that were to be rebuilt, and those that were passed over.
    marked: u64,
    passed: u64,
}

impl Away {
    fn new(first: u32) -> Self {
        Self {
            free: (first..first + OWN_COMMANDS).collect(),
            next: 0,
            failed: false,
            flushing: None,
            rebuilt: 0,
            marked: 0,
            passed: 0,
        }
    }

    fn step(&mut self, run: &mut Run, loses: bool) {
        for (command, result) in std::mem::take(&mut run.background) {
            self.free.push(command);
            if self.flushing == Some(command) {
                self.flushing = None;
                if result.is_ok() && !self.failed && run.world.members.rebuilding != 0 && run.all_told() {
                    self.done(run);
                }
            } else {
                self.failed |= result.is_err();
            }
        }
        let members = run.world.members;
        let rests = self.free.len() == OWN_COMMANDS as usize && run.all_told();
        if rests && self.failed {
            (self.failed, self.next) = (false, run.world.lock.rebuild().rows);
        } else if rests && members.rebuilding != 0 && self.next == run.world.geometry.rows() {
            self.flushing = self.free.pop();
            let command = self.flushing.expect("all are free");
            return run.world.submit(0, command, Request::FlushDrives);
        } else if rests && members.rebuilding == 0 && members.failed != 0 && run.random().chance(2) {
            return self.come_back(run);
        }
        if loses && run.random().chance(1) {
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
            let only_marked = true;
            run.world.submit(
                0,
                command,
                Request::Rebuild {
                    row,
                    wave: 0,
                    only_marked,
                },
            );
        }
    }

    /// Loses a member: it is told to be lost, or its drive stops to answer and is found out.
    fn lose(&mut self, run: &mut Run) {
        let member = 1 << run.world.random.index(run.world.drives.len());
        let world = &mut run.world;
        let lost = world.members.failed | world.reported | world.broken | member;
        if !world.geometry.survives(lost) {
            return;
        }
        if world.random.chance(50) && world.members.failed & member == 0 {
            world.broken |= member;
            return;
        }
        world.announce(MemberSet {
            failed: world.members.failed | member,
            rebuilding: world.members.rebuilding & !member,
            ..world.members
        });
    }

    /// The lost members come back, unless they still owe an answer. Of what they were not asked to flush, some is gone.
    fn come_back(&mut self, run: &mut Run) {
        let world = &mut run.world;
        let owes = |action: &Action| world.members.is_failed(drive_io(action).1);
        if (0..world.cores.len()).any(|core| world.asked(core).iter().any(owes)) {
            return;
        }
        check_marks(run);
        let world = &mut run.world;
        for member in (0..world.drives.len()).filter(|member| world.members.failed >> member & 1 == 1) {
            for at in 0..world.drives[member].len() {
                if world.random.chance(50) {
                    world.drives[member][at] = world.stable[member][at];
                }
            }
            world.stable[member] = world.drives[member].clone();
        }
        let marked = world.intent.marked_rows();
        self.marked += marked;
        self.passed += world.geometry.rows() - marked;
        self.next = 0;
        world.broken &= !world.members.failed;
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
        let failed = members.failed & !members.rebuilding;
        if failed == 0 {
            run.world.intent.clear();
            run.world.durable_marks.clear();
        }
        run.world.announce(MemberSet {
            failed,
            rebuilding: 0,
            ..members
        });
    }

    /// Goes on without hosts until all are back.
    fn end(&mut self, run: &mut Run) {
        for _ in 0..100_000 {
            self.step(run, false);
            run.world.settle();
            run.check_done();
            if run.world.members.failed | run.world.broken == 0 {
                return run.world.drain();
            }
            if run.world.members.failed == 0 {
                run.world.fail_members(run.world.broken);
            }
        }
        panic!("a rebuild ends");
    }
}

/// PROTOCOL H31: a row that a lost member misses, in the worst case that its cache is gone, is owed by the journal, or its mark is
/// durable; so power may be cut at any time. And it has its mark in memory once all cores know of the loss and nothing of the row
/// is under way.
fn check_marks(run: &Run) {
    let world = &run.world;
    let lost = world.members.failed & !world.members.rebuilding;
    if lost == 0 || !run.all_told() {
        return;
    }
    let engines = world.cores.iter().map(|core| &core.engine);
    let owed: Vec<RowIndex> = engines.flat_map(Engine::owed_rows).collect();
    let row_blocks = usize::try_from(world.geometry.row_blocks()).expect("small");
    // What is being written may be in its place before the command ends.
    let changes = |row: &RowIndex| {
        let start = usize::try_from(row.0).expect("small") * row_blocks;
        let overlaps = |r: &Running| r.changes && r.range.start < start + row_blocks && start < r.range.end;
        run.running.iter().any(overlaps)
    };
    let unforgotten =
        |row: &RowIndex| !owed.contains(row) && !world.durable_marks.contains(&row.0) && !changes(row);
    for row in (0..world.geometry.rows()).map(RowIndex).filter(unforgotten) {
        for member in (0..world.geometry.members()).filter(|member| lost >> member & 1 == 1) {
            assert!(
                is_right(run, MemberIndex(member), row),
                "member {member} misses row {} and nobody knows",
                row.0
            );
        }
    }
}

/// Whether what a member holds of a row, durably and in its cache, is what hosts have written.
fn is_right(run: &Run, member: MemberIndex, row: RowIndex) -> bool {
    let g = &run.world.geometry;
    let holds = |start_blocks: u32, right: u8| {
        let at = usize::try_from(g.member_lba(row, start_blocks).0).expect("small");
        let drive = usize::from(member.0);
        run.world.drives[drive][at] == right && run.world.stable[drive][at] == right
    };
    let first = usize::try_from(row.0).expect("small") * g.row_blocks() as usize;
    let strip = g.strip_blocks();
    (0..strip).all(|offset| {
        let data = |column: u8| run.model[first + (u32::from(column) * strip + offset) as usize];
        let copies = (0..g.data_members()).all(|column| {
            let places = (0..g.copies()).map(|copy| g.copy_place(row, column, copy));
            let mut own = places.filter(|place| place.member == member);
            own.all(|place| holds(place.start_blocks + offset, data(column)))
        });
        let checks = (0..g.check_strips()).all(|index| {
            let sum = (0..g.data_members()).fold(0, |sum, column| {
                sum ^ crate::amf::code::mul(crate::amf::code::factor(index, column), data(column))
            });
            g.check_member(row, index) != Some(member) || holds(offset, sum)
        });
        copies && checks
    })
}

/// CHECKLIST D6 (PROTOCOL H31, H34): members are away for a while, their caches are lost, they come back and only marked rows
/// are rebuilt, while commands run on all cores and further members are lost; in the end every strip is right.
#[test]
fn members_that_come_back_are_rebuilt_where_they_missed_something() {
    let (mut rebuilt, mut marked, mut passed) = (0, 0, 0);
    for seed in 0..250 {
        let mut random = Random::new(seed);
        let shape = Shape {
            rows: 24,
            ..any_shape(&mut random)
        };
        if !shape.level.is_redundant() || shape.journal.is_none() {
            continue;
        }
        let mut run = Run::new(&with_own_commands(&shape), seed);
        run.commands = shape.commands;
        let mut away = Away::new(shape.commands);
        run.run(5000, |run, step| {
            away.step(run, true);
            if step % 16 == 0 {
                check_marks(run);
            }
        });
        away.end(&mut run);
        run.check_contents();
        rebuilt += away.rebuilt;
        marked += away.marked;
        passed += away.passed;
    }
    assert!(
        rebuilt > 300 && marked > 1000 && passed > 1000,
        "{rebuilt} rebuilds, {marked} rows were marked and {passed} not"
    );
}

/// A world with a journal, whose lane is committed and destaged as time goes by.
fn quiet_world() -> World {
    World::new(
        &Shape {
            journal: Some(Durability::Journal),
            ..Shape::SMALL
        },
        1,
    )
}

fn write_row(world: &mut World, row: u64) {
    let blocks = world.geometry.row_blocks();
    let lba = row * u64::from(blocks);
    world.write(0, 0, lba, &vec![0x42; blocks as usize]);
    world.settle();
    assert_eq!(world.result(0, 0), Some(Ok(())));
}

fn marked(world: &World) -> Vec<u64> {
    (0..world.geometry.rows())
        .filter(|row| world.intent.is_marked(RowIndex(*row)))
        .collect()
}

#[test]
fn a_healthy_group_marks_nothing() {
    let mut world = quiet_world();
    write_row(&mut world, 3);
    world.drain();
    assert!(marked(&world).is_empty());
    // Nor what was flushed before the loss.
    world.fail_members(0b10);
    world.settle();
    assert!(marked(&world).is_empty());
}

#[test]
fn rows_that_are_written_while_a_member_is_lost_are_marked_durably_before_the_journal_forgets_them() {
    let mut world = quiet_world();
    world.fail_members(0b10);
    world.settle();
    let blocks = world.geometry.row_blocks();
    world.write(0, 0, 0, &vec![0x42; blocks as usize]);
    while world.cores[0]
        .owed
        .iter()
        .all(|owed| *owed != Owed::IntentDurable)
    {
        if !world.pay_any() {
            let mut out = Vec::new();
            world.cores[0].engine.tick(&mut out);
            world.act(0, out);
        }
    }
    assert_eq!(marked(&world), [0]);
    assert_eq!(world.cores[0].engine.owed_rows(), [RowIndex(0)]);
    world.drain();
    assert!(world.cores[0].engine.owed_rows().is_empty());
    assert!(world.durable_marks.contains(&0));
}

#[test]
fn rows_that_wait_for_a_flush_when_a_member_is_lost_are_marked() {
    let mut world = quiet_world();
    let blocks = world.geometry.row_blocks();
    world.write(0, 0, 2 * u64::from(blocks), &vec![0x42; blocks as usize]);
    // Until its in-place writes are answered and nothing but a flush is left.
    while world.cores[0].engine.owed_rows() != [RowIndex(2)] || !world.lock.is_idle() {
        assert!(world.pay_any(), "a whole row is destaged at once");
    }
    assert!(marked(&world).is_empty());
    world.fail_members(0b1);
    let told = world.find(0, |owed| matches!(owed, Owed::Members(_)));
    world.pay(0, told);
    assert_eq!(marked(&world), [2]);
    world.settle();
}

#[test]
fn an_unmarked_row_is_passed_over_without_any_transfer() {
    let mut world = quiet_world();
    world.fail_members(0b1);
    world.settle();
    write_row(&mut world, 1);
    world.drain();
    world.announce(MemberSet {
        rebuilding: 0b1,
        rebuilt_rows: 0,
        ..world.members
    });
    world.settle();
    for row in (0..3).map(RowIndex) {
        world.done.clear();
        world.submit(
            0,
            0,
            Request::Rebuild {
                row,
                wave: 0,
                only_marked: true,
            },
        );
        assert_eq!(world.asked(0).is_empty(), row.0 != 1, "row {}", row.0);
        world.settle();
        assert_eq!(world.result(0, 0), Some(Ok(())));
        assert_eq!(world.lock.rebuild().rows, row.0 + 1);
    }
}
