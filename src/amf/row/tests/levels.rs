//! Every level, at every width: plans are carried out on one row, a byte a block, and afterwards each live member must hold
//! exactly what the row's data says that it holds.

use super::super::super::geometry::Role;
use super::*;
use crate::amf::ParityTrust;

/// A small generator: the same seed, the same run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 20) % u64::from(end)).expect("below 32 bits")
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }

    pub(super) fn piece(&mut self, g: &Geometry, row: RowIndex) -> RowPiece {
        let start_blocks = self.below(g.row_blocks());
        let blocks = 1 + self.below(g.row_blocks() - start_blocks);
        RowPiece {
            row,
            start_blocks,
            blocks,
            skipped_blocks: 0,
        }
    }

    fn mask(&mut self, g: &Geometry, most: u32) -> u32 {
        let count = self.below(most + 1);
        (0..count).fold(0, |mask, _| mask | 1 << self.below(u32::from(g.members())))
    }
}

/// What every member holds of a row with this data: the definition of each level.
fn encode(g: &Geometry, row: RowIndex, user: &[u8]) -> Vec<Vec<u8>> {
    let strip = g.strip_blocks() as usize;
    let mut held = vec![vec![0; g.member_row_blocks() as usize]; usize::from(g.members())];
    for column in 0..g.data_members() {
        let data = &user[usize::from(column) * strip..][..strip];
        for copy in 0..g.copies() {
            let place = g.copy_place(row, column, copy);
            let start = place.start_blocks as usize;
            held[usize::from(place.member.0)][start..start + strip].copy_from_slice(data);
        }
        for index in 0..g.check_strips() {
            let member = g.check_member(row, index).expect("the level has it");
            // 2 to the power of index * column, by doubling.
            let factor = (0..u32::from(index) * u32::from(column)).fold(1, |power, _| code::mul(power, 2));
            for (sum, byte) in held[usize::from(member.0)].iter_mut().zip(data) {
                *sum ^= code::mul(factor, *byte);
            }
        }
    }
    held
}

/// The members' parts of a row; `None` where nobody may read.
pub(super) struct Parts(Vec<Vec<Option<u8>>>);

impl Parts {
    pub(super) fn of(held: &[Vec<u8>], lost: u32) -> Self {
        let part = |(member, part): (usize, &Vec<u8>)| {
            let lost = lost >> member & 1 == 1;
            part.iter().map(|byte| (!lost).then_some(*byte)).collect()
        };
        Self(held.iter().enumerate().map(part).collect())
    }

    pub(super) fn read(&self, plan: &RowPlan, user: &mut [u8], scratch: &mut [u8]) {
        for io in &plan.reads {
            for i in 0..io.blocks {
                let byte = self.0[usize::from(io.member.0)][(io.offset_blocks + i) as usize];
                let byte = byte.expect("what is lost, unreadable or untrusted is never read");
                store(io.area.plus(i), byte, user, scratch);
            }
        }
    }

    /// Carries a plan out and gives what is in scratch at its end.
    pub(super) fn run(&mut self, plan: &RowPlan, user: &mut [u8]) -> Vec<u8> {
        let mut scratch = vec![0xEE; plan.scratch_blocks as usize];
        self.read(plan, user, &mut scratch);
        for fill in &plan.filled {
            let (from, to) = (fill.start_blocks as usize, fill.scratch_block as usize);
            let blocks = fill.blocks as usize;
            scratch[to..to + blocks].copy_from_slice(&user[from..from + blocks]);
        }
        compute(plan, user, &mut scratch);
        for io in &plan.writes {
            for i in 0..io.blocks {
                let byte = load(io.area.plus(i), user, &scratch);
                self.0[usize::from(io.member.0)][(io.offset_blocks + i) as usize] = Some(byte);
            }
        }
        scratch
    }

    fn assert_holds(&self, held: &[Vec<u8>], members: u32, context: &dyn std::fmt::Debug) {
        for (member, (part, expected)) in self.0.iter().zip(held).enumerate() {
            if members >> member & 1 == 1 {
                let part: Vec<u8> = part.iter().map(|byte| byte.unwrap_or(!expected[0])).collect();
                assert_eq!(&part, expected, "member {member} of {context:?}");
            }
        }
    }
}

pub(super) fn compute(plan: &RowPlan, user: &mut [u8], scratch: &mut [u8]) {
    for step in &plan.steps {
        let (into, from, blocks, keep, factor) = match *step {
            Step::Copy { into, from, blocks } => (into, from, blocks, 0, 1),
            Step::Xor { into, from, blocks } => (into, from, blocks, 1, 1),
            Step::MulAdd {
                into,
                from,
                factor,
                blocks,
            } => (into, from, blocks, 1, factor),
        };
        for i in 0..blocks {
            let old = code::mul(keep, load(into.plus(i), user, scratch));
            let new = old ^ code::mul(factor, load(from.plus(i), user, scratch));
            store(into.plus(i), new, user, scratch);
        }
    }
}

/// Everything that a plan has room for.
fn rooms(plan: &RowPlan) -> [usize; 7] {
    [
        plan.reads.capacity(),
        plan.steps.capacity(),
        plan.writes.capacity(),
        plan.filled.capacity(),
        plan.checks.capacity(),
        plan.borders.capacity(),
        plan.intervals.capacity(),
    ]
}

fn every_shape(strip: u32, mut each: impl FnMut(&Geometry, RowIndex, &mut Random)) {
    for level in Level::ALL {
        for members in level.members_min()..=32 {
            let g = shaped(level, members, strip);
            let mut random = Random(0x1234_5678_9ABC_DEF1 ^ u64::from(members) << 40);
            let row = RowIndex(u64::from(random.below(64)));
            each(&g, row, &mut random);
        }
    }
}

/// Every set of losses that the group survives, or for wide groups of copies a random part of them.
pub(super) fn every_survived_loss(g: &Geometry, random: &mut Random, mut each: impl FnMut(u32, &mut Random)) {
    if g.level().is_mirror() && g.members() > 9 {
        for _ in 0..300 {
            let mask = random.mask(g, u32::from(g.members()));
            if g.survives(mask) {
                each(mask, random);
            }
        }
        return;
    }
    for first in 0..=g.members() {
        for second in first..=g.members() {
            for third in second..=g.members() {
                // The number behind the last member is nobody.
                let all = [first, second, third].map(|m| 1_u64 << m);
                let in_order =
                    all[0] < all[1] && all[1] < all[2] || all[1] == all[2] && all[1] >> g.members() == 1;
                let mask = (all[0] | all[1] | all[2]) & ((1 << g.members()) - 1);
                let mask = u32::try_from(mask).expect("at most 32 members");
                if in_order && g.survives(mask) {
                    each(mask, random);
                }
            }
        }
    }
    if g.level().is_mirror() {
        for mask in (0..1_u32 << g.members()).filter(|mask| mask.count_ones() > 3 && g.survives(*mask)) {
            each(mask, random);
        }
    }
}

pub(super) fn bytes(random: &mut Random, blocks: u32) -> Vec<u8> {
    (0..blocks).map(|_| random.byte()).collect()
}

/// CHECKLIST D1, D2 (PROTOCOL I6): every level, every width, every survivable loss: each block of the row reads back, as a
/// whole and in random parts, and no plan needs more room than was laid out.
#[test]
fn every_block_is_read_after_every_survivable_loss() {
    every_shape(2, |g, row, random| {
        let user = bytes(random, g.row_blocks());
        let held = encode(g, row, &user);
        let mut plan = RowPlan::with_capacity(g);
        let room = rooms(&plan);
        every_survived_loss(g, random, |lost, random| {
            let whole = piece(row.0, 0, g.row_blocks());
            let parts = Parts::of(&held, lost);
            for p in [whole, random.piece(g, row)] {
                let mut read = vec![0; p.blocks as usize];
                plan.read(g, &p, Target::User, lost, ParityTrust::Everywhere)
                    .expect("survived");
                let mut scratch = vec![0xEE; plan.scratch_blocks as usize];
                parts.read(&plan, &mut read, &mut scratch);
                compute(&plan, &mut read, &mut scratch);
                let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
                assert_eq!(read, user[range], "{p:?} of {g:?} without {lost:b}");
                assert!(plan.scratch_blocks <= scratch_blocks_max(g));
            }
        });
        assert_eq!(rooms(&plan), room, "no allocation in steady state");
    });
}

/// Data that is looked at lies at the start of scratch, also when it is regenerated.
#[test]
fn what_is_read_to_scratch_is_the_same() {
    every_shape(3, |g, row, random| {
        let user = bytes(random, g.row_blocks());
        let held = encode(g, row, &user);
        let mut plan = RowPlan::with_capacity(g);
        for _ in 0..20 {
            let lost = random.mask(g, 3);
            if !g.survives(lost) {
                continue;
            }
            let p = random.piece(g, row);
            plan.read(g, &p, Target::Scratch, lost, ParityTrust::Everywhere)
                .expect("survived");
            let mut scratch = vec![0xEE; plan.scratch_blocks as usize];
            Parts::of(&held, lost).read(&plan, &mut [], &mut scratch);
            compute(&plan, &mut [], &mut scratch);
            let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
            assert_eq!(scratch[..p.blocks as usize], user[range]);
            assert!(plan.scratch_blocks <= scratch_blocks_max(g));
        }
    });
}

/// A read is refused exactly when a block of it is on nothing that is left.
#[test]
fn reads_beyond_redundancy_are_refused() {
    for level in Level::ALL {
        for members in level.members_min()..=6 {
            let g = shaped(level, members, 2);
            let row = RowIndex(5);
            let mut plan = RowPlan::with_capacity(&g);
            for lost in (0..1_u32 << members).filter(|lost| !g.survives(*lost)) {
                for column in 0..g.data_members() {
                    let p = piece(row.0, u32::from(column) * 2, 1);
                    let mut copies = (0..g.copies()).map(|copy| g.copy_place(row, column, copy));
                    let readable = copies.any(|place| lost >> place.member.0 & 1 == 0);
                    let read = plan.read(&g, &p, Target::User, lost, ParityTrust::Everywhere);
                    let expected = if readable {
                        Ok(())
                    } else {
                        Err(PlanError::TooManyMembersLost)
                    };
                    // Three are lost of a row that survives two: the group's judgement, though this row may have lost only two.
                    assert_eq!(read, expected, "{p:?} of {g:?} without {lost:b}");
                }
                let members = Members {
                    failed: lost,
                    parity: ParityTrust::Everywhere,
                };
                let too_many = Err(PlanError::TooManyMembersLost);
                assert_eq!(
                    plan.write(&g, &piece(row.0, 0, 1), Source::User, members, 0),
                    too_many
                );
                assert_eq!(plan.resync(&g, row, members, 0), too_many);
                assert_eq!(zero_row(&g, members).map(|_| ()), too_many);
            }
        }
    }
}

/// One write, judged: `failed` members are not written, `avoid` are written and not read.
fn judge_write(g: &Geometry, p: &RowPiece, plan: &mut RowPlan, random: &mut Random, failed: u32, avoid: u32) {
    let old = bytes(random, g.row_blocks());
    let mut new = old.clone();
    let source = if random.below(4) == 0 {
        Source::Zeroes
    } else {
        Source::User
    };
    let mut user = bytes(random, p.blocks);
    let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
    match source {
        Source::User => new[range].copy_from_slice(&user),
        Source::Zeroes => new[range].fill(0),
    }
    let mut parts = Parts::of(&encode(g, p.row, &old), failed | avoid);
    let members = Members {
        failed,
        parity: ParityTrust::Everywhere,
    };
    plan.write(g, p, source, members, avoid).expect("survived");
    assert!(plan.scratch_blocks <= scratch_blocks_max(g));
    assert!(
        plan.writes.iter().all(|io| failed >> io.member.0 & 1 == 0),
        "a lost member is never written"
    );
    let context = (g, p, failed, avoid);
    parts.run(plan, &mut user);
    let readable = u32::MAX >> (32 - u32::from(g.members())) & !failed & !avoid;
    let held = encode(g, p.row, &new);
    parts.assert_holds(&held, readable, &context);
    // Of a member that could not be read, what was written is right.
    for io in plan.writes.iter().filter(|io| avoid >> io.member.0 & 1 == 1) {
        for at in io.offset_blocks..io.offset_blocks + io.blocks {
            let member = usize::from(io.member.0);
            assert_eq!(
                parts.0[member][at as usize],
                Some(held[member][at as usize]),
                "{context:?}"
            );
        }
    }
}

/// CHECKLIST D2 (PROTOCOL I5, I6): every write of small rows with every survivable loss leaves each live strip as the data says.
#[test]
fn every_write_of_small_rows_leaves_every_strip_right() {
    let mut random = Random(77);
    for level in Level::ALL {
        for members in level.members_min()..=6 {
            let g = shaped(level, members, 2);
            let mut plan = RowPlan::with_capacity(&g);
            let room = rooms(&plan);
            let row = RowIndex(u64::from(members) * 3 + 1);
            for failed in (0..1_u32 << members).filter(|failed| g.survives(*failed)) {
                for start in 0..g.row_blocks() {
                    for blocks in 1..=g.row_blocks() - start {
                        judge_write(
                            &g,
                            &piece(row.0, start, blocks),
                            &mut plan,
                            &mut random,
                            failed,
                            0,
                        );
                    }
                }
            }
            assert_eq!(rooms(&plan), room, "no allocation in steady state");
        }
    }
}

/// The same at every width, with random losses and members that answer but cannot be read.
#[test]
fn writes_go_round_what_cannot_be_read() {
    every_shape(5, |g, row, random| {
        let mut plan = RowPlan::with_capacity(g);
        let room = rooms(&plan);
        for _ in 0..60 {
            let (failed, avoid) = (random.mask(g, 3), random.mask(g, 3));
            if g.survives(failed | avoid) {
                let p = random.piece(g, row);
                judge_write(g, &p, &mut plan, random, failed, avoid & !failed);
            }
        }
        assert_eq!(rooms(&plan), room, "no allocation in steady state");
    });
}

/// In each block a healthy write reads as many strips as the cheaper of the two methods, and on a tie no check strips.
#[test]
fn writes_read_as_little_as_possible() {
    every_shape(4, |g, row, random| {
        let mut plan = RowPlan::with_capacity(g);
        for _ in 0..20 {
            let p = random.piece(g, row);
            plan.write(g, &p, Source::User, HEALTHY, 0).expect("healthy");
            let columns = u32::from(g.data_members());
            let checks = u32::from(g.check_strips());
            let mut fewest = 0;
            for offset in 0..g.strip_blocks() {
                let inside = |column: &u32| {
                    let at = column * g.strip_blocks() + offset;
                    at >= p.start_blocks && at < p.start_blocks + p.blocks
                };
                let touched = u32::try_from((0..columns).filter(inside).count()).expect("few");
                if touched > 0 && checks > 0 {
                    fewest += (touched + checks).min(columns - touched);
                }
            }
            assert_eq!(blocks_read(&plan), fewest, "{p:?} of {g:?}");
        }
    });
}

/// PROTOCOL H27: check data that is not trusted is never read, and right after a write where the write went.
#[test]
fn untrusted_check_data_is_never_read_and_comes_right() {
    let members = Members {
        failed: 0,
        parity: ParityTrust::Nowhere,
    };
    every_shape(3, |g, row, random| {
        let mut plan = RowPlan::with_capacity(g);
        let checks = (0..g.check_strips()).filter_map(|index| g.check_member(row, index));
        let checks = checks.fold(0, |mask, member| mask | 1 << member.0);
        for _ in 0..20 {
            let mut user = bytes(random, g.row_blocks());
            let mut parts = Parts::of(&encode(g, row, &user), checks);
            let p = random.piece(g, row);
            plan.write(g, &p, Source::Zeroes, members, 0).expect("healthy");
            parts.run(&plan, &mut []);
            user[p.start_blocks as usize..(p.start_blocks + p.blocks) as usize].fill(0);
            let held = encode(g, row, &user);
            for segment in g.segments(&p) {
                for at in segment.offset_blocks..segment.offset_blocks + segment.blocks {
                    for member in bits(checks).map(usize::from) {
                        assert_eq!(parts.0[member][at as usize], Some(held[member][at as usize]));
                    }
                }
            }
        }
    });
}

/// PROTOCOL H28: with a member lost, only what needs no untrusted check data is done.
#[test]
fn untrusted_check_data_regenerates_nothing() {
    for level in [Level::Raid5, Level::Raid6, Level::RaidTp] {
        let g = shaped(level, 7, 2);
        let row = RowIndex(3);
        let mut plan = RowPlan::with_capacity(&g);
        let failed = 1 << g.data_member(row, 1).0;
        let members = Members {
            failed,
            parity: ParityTrust::Nowhere,
        };
        let refused = Err(PlanError::ParityNotTrusted);
        assert_eq!(
            plan.read(&g, &piece(3, 1, 2), Target::User, failed, ParityTrust::Nowhere),
            refused
        );
        assert_eq!(plan.write(&g, &piece(3, 0, 2), Source::User, members, 0), refused);
        assert_eq!(plan.rebuild(&g, row, failed, members, 0), refused);
        assert_eq!(plan.resync(&g, row, members, 0), refused);
        assert_eq!(plan.write(&g, &piece(3, 2, 2), Source::User, members, 0), Ok(()));
        // A lost check strip is in nobody's way.
        let check = Members {
            failed: 1 << g.check_member(row, 0).expect("a check strip").0,
            parity: ParityTrust::Nowhere,
        };
        assert_eq!(plan.rebuild(&g, row, check.failed, check, 0), Ok(()));
        assert_eq!(plan.write(&g, &piece(3, 0, 2), Source::User, check, 0), Ok(()));
        assert_eq!(plan.resync(&g, row, check, 0), Ok(()));
    }
}

/// Random extents of a row, ascending and not adjacent.
fn extents(g: &Geometry, random: &mut Random) -> Vec<RowExtent> {
    let mut extents = Vec::new();
    let mut at = random.below(g.row_blocks());
    let length = 1 + random.below(g.row_blocks());
    while at < g.row_blocks() && extents.len() < EXTENTS_MAX {
        let blocks = (1 + random.below(length)).min(g.row_blocks() - at);
        extents.push(RowExtent {
            start_blocks: at,
            blocks,
        });
        at += blocks + 1 + random.below(length);
    }
    extents
}

fn judge_extents(
    g: &Geometry,
    row: RowIndex,
    plan: &mut RowPlan,
    random: &mut Random,
    failed: u32,
    avoid: u32,
) {
    let old = bytes(random, g.row_blocks());
    let mut new = old.clone();
    let extents = extents(g, random);
    for extent in &extents {
        for block in &mut new[extent.start_blocks as usize..][..extent.blocks as usize] {
            *block = random.byte();
        }
    }
    let members = Members {
        failed,
        parity: ParityTrust::Everywhere,
    };
    plan.write_extents(g, row, &extents, members, avoid)
        .expect("survived");
    assert!(plan.scratch_blocks <= scratch_blocks_max(g));
    let held = encode(g, row, &new);
    let mut parts = Parts::of(&encode(g, row, &old), failed | avoid);
    let scratch = parts.run(plan, &mut new);
    let readable = u32::MAX >> (32 - u32::from(g.members())) & !failed & !avoid;
    parts.assert_holds(&held, readable, &(g, &extents, failed, avoid));
    let mut runs = [0_u32; 32];
    for io in &plan.writes {
        assert!(failed >> io.member.0 & 1 == 0, "a lost member is never written");
        runs[usize::from(io.member.0)] += 1;
    }
    assert!(
        runs.iter().all(|count| *count <= 128),
        "the tags tell a member's transfers apart"
    );
    // The check data that is listed is the check data that is written.
    let strips = plan
        .writes
        .iter()
        .filter(|io| g.column_of(row, io.member).is_none());
    let listed: Vec<_> = plan
        .checks
        .iter()
        .map(|c| (c.member, c.offset_blocks, c.blocks))
        .collect();
    let written: Vec<_> = strips
        .map(|io| (io.member, io.offset_blocks, io.blocks))
        .collect();
    assert_eq!(listed, written);
    for check in &plan.checks {
        assert_eq!(g.check_member(row, check.index), Some(check.member));
        let at = check.offset_blocks as usize;
        let expected = &held[usize::from(check.member.0)][at..at + check.blocks as usize];
        let at = check.scratch_block as usize;
        assert_eq!(&scratch[at..at + check.blocks as usize], expected);
    }
}

/// CHECKLIST D2, D5 (PROTOCOL I5): any set of extents, at every width, with losses and unreadable members.
#[test]
fn writes_of_extents_leave_every_strip_right() {
    for strip in [1, 3, 16, 200] {
        every_shape(strip, |g, row, random| {
            let mut plan = RowPlan::with_capacity(g);
            let room = rooms(&plan);
            for _ in 0..if strip > 16 { 4 } else { 30 } {
                let (failed, avoid) = (random.mask(g, 3), random.mask(g, 1));
                if g.survives(failed | avoid) {
                    judge_extents(g, row, &mut plan, random, failed, avoid & !failed);
                }
            }
            assert_eq!(rooms(&plan), room, "no allocation in steady state");
        });
    }
}

/// 64 extents of every other block in a strip are the most intervals that there are.
#[test]
fn the_most_extents_fit_the_room_laid_out() {
    every_shape(256, |g, row, random| {
        let mut plan = RowPlan::with_capacity(g);
        let room = rooms(&plan);
        for spread in [0, 1] {
            // All in the first column, or one in each in turn.
            let column = |i: u32| spread * (i % u32::from(g.data_members())) * 256;
            let mut extents: Vec<_> = (0..64)
                .map(|i| RowExtent {
                    start_blocks: column(i) + 2 * i + 1,
                    blocks: 1,
                })
                .collect();
            extents.sort_by_key(|extent| extent.start_blocks);
            for failed in [0, 1, 0b100] {
                let failed = if g.survives(failed) { failed } else { 0 };
                let members = Members {
                    failed: failed & (u32::MAX >> (32 - u32::from(g.members()))),
                    parity: match (random.below(3), failed) {
                        (0, 0) => ParityTrust::Nowhere,
                        (1, _) => ParityTrust::WhereWritten,
                        _ => ParityTrust::Everywhere,
                    },
                };
                let planned = plan.write_extents(g, row, &extents, members, 0);
                assert!(planned.is_ok() || !members.parity.regenerates());
                assert_eq!(rooms(&plan), room, "no allocation in steady state");
            }
        }
    });
}

/// CHECKLIST F1: a rebuild gives each member that was lost what the data says, whichever others are lost.
#[test]
fn rebuilt_strips_hold_what_was_lost() {
    every_shape(2, |g, row, random| {
        let user = bytes(random, g.row_blocks());
        let held = encode(g, row, &user);
        let mut plan = RowPlan::with_capacity(g);
        let room = rooms(&plan);
        for _ in 0..60 {
            let failed = random.mask(g, 3);
            let targets = failed & random.mask(g, 32);
            let avoid = random.mask(g, 1) & !failed;
            if !g.survives(failed | avoid) {
                continue;
            }
            let members = Members {
                failed,
                parity: ParityTrust::Everywhere,
            };
            plan.rebuild(g, row, targets, members, avoid).expect("survived");
            assert!(plan.writes.iter().all(|io| targets >> io.member.0 & 1 == 1));
            assert!(plan.scratch_blocks <= scratch_blocks_max(g));
            let mut parts = Parts::of(&held, failed | avoid);
            parts.run(&plan, &mut []);
            parts.assert_holds(&held, targets, &(g, failed, targets, avoid));
        }
        assert_eq!(rooms(&plan), room, "no allocation in steady state");
    });
}

/// Any range of any member's strip is had from the others, and nothing else is written.
#[test]
fn a_repair_gives_exactly_the_range_back() {
    every_shape(4, |g, row, random| {
        let user = bytes(random, g.row_blocks());
        let held = encode(g, row, &user);
        let mut plan = RowPlan::with_capacity(g);
        for _ in 0..40 {
            let failed = random.mask(g, 2);
            let member = MemberIndex(u8::try_from(random.below(u32::from(g.members()))).expect("few"));
            let own = 1 << member.0;
            if failed & own != 0 || !g.survives(failed | own) {
                continue;
            }
            let offset = random.below(g.member_row_blocks());
            let target = RowIo {
                member,
                offset_blocks: offset,
                blocks: 1 + random.below(4 - offset % 4),
                area: Area::Scratch(0),
            };
            let members = Members {
                failed,
                parity: ParityTrust::Everywhere,
            };
            plan.repair(g, row, target, members, 0).expect("survived");
            assert!(plan.scratch_blocks <= scratch_blocks_max(g));
            let written: Vec<_> = plan
                .writes
                .iter()
                .map(|io| (io.member, io.offset_blocks, io.blocks))
                .collect();
            assert_eq!(written, [(member, offset, target.blocks)]);
            let mut parts = Parts::of(&held, failed | own);
            parts.run(&plan, &mut []);
            let range = offset as usize..(offset + target.blocks) as usize;
            let own = usize::from(member.0);
            let repaired: Vec<_> = parts.0[own][range.clone()].iter().flatten().collect();
            let expected: Vec<_> = held[own][range].iter().collect();
            assert_eq!(repaired, expected, "{target:?} of {g:?}");
        }
    });
}

/// Resynchronisation believes data, and of copies the first that can be read.
#[test]
fn resync_makes_check_data_and_copies_match() {
    every_shape(3, |g, row, random| {
        let mut plan = RowPlan::with_capacity(g);
        let user = bytes(random, g.row_blocks());
        let held = encode(g, row, &user);
        let mut wrong = held.clone();
        for member in (0..g.members()).map(MemberIndex) {
            for strip in 0..g.level().member_strips(g.members()) {
                let first = match g.role(row, member, strip) {
                    Role::Data { .. } | Role::Copy { copy: 0, .. } => continue,
                    Role::Check { .. } | Role::Copy { .. } => usize::from(strip) * 3,
                };
                wrong[usize::from(member.0)][first..first + 3].fill(0xBD);
            }
        }
        let members = Members {
            failed: 0,
            parity: ParityTrust::Nowhere,
        };
        plan.resync(g, row, members, 0).expect("healthy");
        let mut parts = Parts::of(&wrong, 0);
        parts.run(&plan, &mut []);
        parts.assert_holds(&held, u32::MAX, g);
    });
}

/// A scrub's steps leave zeroes of check strips that fit, and the error times the column's factor of others.
#[test]
fn a_scrub_leaves_nothing_of_check_strips_that_fit() {
    every_shape(2, |g, row, random| {
        let mut plan = RowPlan::with_capacity(g);
        let room = rooms(&plan);
        let user = bytes(random, g.row_blocks());
        let mut held = encode(g, row, &user);
        let complete = plan.scrub(g, row, 0);
        assert_eq!(complete, g.level().is_redundant());
        let scratch = Parts::of(&held, 0).run(&plan, &mut []);
        let left = |scratch: &[u8], index| {
            let Area::Scratch(at) = RowPlan::scrub_area(g, Role::Check { index }) else {
                panic!("strips of a scrub lie in scratch");
            };
            scratch[at as usize + 1]
        };
        let column = u8::try_from(random.below(u32::from(g.data_members()))).expect("few");
        held[usize::from(g.data_member(row, column).0)][1] ^= 0x5A;
        let found = Parts::of(&held, 0).run(&plan, &mut []);
        for index in 0..g.check_strips() {
            assert_eq!(left(&scratch, index), 0);
            assert_eq!(left(&found, index), code::mul(code::factor(index, column), 0x5A));
        }
        assert!(!plan.scrub(g, row, 1), "what cannot be read cannot be compared");
        assert!(plan.reads.iter().all(|io| io.member.0 != 0));
        assert_eq!(rooms(&plan), room, "no allocation in steady state");
    });
}

/// Readers are spread over the copies, and while these may differ all go to the first.
#[test]
fn copies_share_the_reads_once_they_agree() {
    for g in [
        shaped(Level::Raid1, 3, 64),
        shaped(Level::Raid10, 4, 64),
        shaped(Level::Raid10, 5, 64),
    ] {
        let mut readers = [[0; 5]; 3];
        for row in (0..60).map(RowIndex) {
            for offset in (0..64).step_by(16) {
                for (trust, readers) in [
                    ParityTrust::Nowhere,
                    ParityTrust::WhereWritten,
                    ParityTrust::Everywhere,
                ]
                .into_iter()
                .zip(&mut readers)
                {
                    let place = choose_copy(&g, row, 0, offset, 0, trust).expect("healthy");
                    readers[usize::from(place.member.0)] += 1;
                }
            }
        }
        assert_eq!(readers[..2], [[240, 0, 0, 0, 0]; 2]);
        let copies = usize::from(g.copies());
        assert!(
            readers[2][..copies].iter().all(|count| *count == 240 / copies),
            "{readers:?}"
        );
    }
}
