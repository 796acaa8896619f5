//! Plans are carried out on rows of one byte a block and judged by what is on the members afterwards.

use super::super::RowIndex;
use super::super::code;
use super::super::geometry::Level;
use super::*;
use crate::amf::ParityTrust;
use crate::drive::block::{BlockSize, MemberLba};

mod levels;
mod never_written;

const HEALTHY: Members = Members {
    failed: 0,
    parity: ParityTrust::Everywhere,
};

fn geometry(members: u8, strip_blocks: u32) -> Geometry {
    shaped(Level::Raid5, members, strip_blocks)
}

fn shaped(level: Level, members: u8, strip_blocks: u32) -> Geometry {
    Geometry::new(level, members, strip_blocks, MemberLba(0), 64, BlockSize::B512).expect("legal")
}

fn parity_of(g: &Geometry, row: RowIndex) -> MemberIndex {
    g.parity_member(row).expect("the level has parity")
}

fn piece(row: u64, start_blocks: u32, blocks: u32) -> RowPiece {
    RowPiece {
        row: RowIndex(row),
        start_blocks,
        blocks,
        skipped_blocks: 0,
    }
}

/// One row, a byte a block; `None` in a lost member's strip, which nobody may read.
struct Disks {
    strips: Vec<Vec<Option<u8>>>,
}

impl Disks {
    fn new(g: &Geometry, row: RowIndex, seed: u8) -> Self {
        let strip = g.strip_blocks() as usize;
        let mut strips = vec![vec![Some(0); strip]; usize::from(g.members())];
        for column in 0..g.data_members() {
            let blocks = &mut strips[usize::from(g.data_member(row, column).0)];
            for (offset, block) in (0..).zip(blocks) {
                *block = Some(seed ^ (column * 37 + offset * 5 + 1));
            }
        }
        let mut disks = Self { strips };
        disks.set_parity(g, row, 0);
        disks
    }

    /// Does nothing to a level without parity.
    fn set_parity(&mut self, g: &Geometry, row: RowIndex, wrong: u8) {
        let Some(member) = g.parity_member(row) else {
            return;
        };
        for offset in 0..g.strip_blocks() as usize {
            let parity = (0..g.data_members()).fold(wrong, |sum, column| {
                sum ^ self.strips[usize::from(g.data_member(row, column).0)][offset].expect("not lost yet")
            });
            self.strips[usize::from(member.0)][offset] = Some(parity);
        }
    }

    fn lose(&mut self, failed: u32) {
        for (member, strip) in self.strips.iter_mut().enumerate() {
            if failed >> member & 1 == 1 {
                strip.fill(None);
            }
        }
    }

    /// The row's user data, with a lost strip regenerated.
    fn user(&self, g: &Geometry, row: RowIndex) -> Vec<u8> {
        (0..g.row_blocks())
            .map(|block| {
                let column = u8::try_from(block / g.strip_blocks()).expect("few columns");
                let offset = (block % g.strip_blocks()) as usize;
                let member = usize::from(g.data_member(row, column).0);
                self.strips[member][offset].unwrap_or_else(|| {
                    let others = self
                        .strips
                        .iter()
                        .enumerate()
                        .filter(|(other, _)| *other != member);
                    others.fold(0, |sum, (_, strip)| sum ^ strip[offset].expect("one loss only"))
                })
            })
            .collect()
    }

    fn run(&mut self, plan: &RowPlan, user: &mut [u8]) {
        let mut scratch = vec![0xEE; plan.scratch_blocks as usize];
        for io in &plan.reads {
            for i in 0..io.blocks {
                let value = self.strips[usize::from(io.member.0)][(io.offset_blocks + i) as usize];
                store(
                    io.area.plus(i),
                    value.expect("a lost member is never read"),
                    user,
                    &mut scratch,
                );
            }
        }
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
                let old = code::mul(keep, load(into.plus(i), user, &scratch));
                let value = old ^ code::mul(factor, load(from.plus(i), user, &scratch));
                store(into.plus(i), value, user, &mut scratch);
            }
        }
        for io in &plan.writes {
            for i in 0..io.blocks {
                let block = &mut self.strips[usize::from(io.member.0)][(io.offset_blocks + i) as usize];
                assert!(block.is_some(), "a lost member is never written");
                *block = Some(load(io.area.plus(i), user, &scratch));
            }
        }
    }
}

fn load(area: Area, user: &[u8], scratch: &[u8]) -> u8 {
    match area {
        Area::User(at) => user[at as usize],
        Area::Scratch(at) => scratch[at as usize],
        Area::Zeroes => 0,
    }
}

fn store(area: Area, value: u8, user: &mut [u8], scratch: &mut [u8]) {
    match area {
        Area::User(at) => user[at as usize] = value,
        Area::Scratch(at) => scratch[at as usize] = value,
        Area::Zeroes => panic!("zeroes are never written to"),
    }
}

fn blocks_read(plan: &RowPlan) -> u32 {
    plan.reads.iter().map(|io| io.blocks).sum()
}

/// Every piece of small rows: `(geometry, row, start, blocks)`.
fn all_pieces(each: impl FnMut(&Geometry, RowPiece)) {
    pieces_of(Level::Raid5, 2..=6, each);
}

/// The same without redundancy, on 1 to 4 members.
fn all_striped_pieces(each: impl FnMut(&Geometry, RowPiece)) {
    pieces_of(Level::Raid0, 1..=4, each);
}

fn pieces_of(level: Level, widths: std::ops::RangeInclusive<u8>, mut each: impl FnMut(&Geometry, RowPiece)) {
    for members in widths {
        for strip in 1..=4 {
            let g = shaped(level, members, strip);
            let row = u64::from(members) + u64::from(strip);
            for start in 0..g.row_blocks() {
                for blocks in 1..=g.row_blocks() - start {
                    each(&g, piece(row, start, blocks));
                }
            }
        }
    }
}

/// The same member is never asked for two adjacent ranges that are adjacent in memory too.
fn assert_merged(ios: &[RowIo]) {
    for a in ios {
        for b in ios {
            let adjacent = a.member == b.member && a.offset_blocks + a.blocks == b.offset_blocks;
            assert!(
                !adjacent || a.area.plus(a.blocks) != b.area,
                "{a:?} and {b:?} are one transfer"
            );
        }
    }
}

/// Exhaustive: after any write, healthy or with any member lost, the new data and all the rest can be
/// read, and still can after each further loss that the level survives.
#[test]
fn every_write_keeps_every_block_readable() {
    let mut plan = RowPlan::default();
    all_pieces(|g, p| {
        for lost in 0..=u32::from(g.members()) {
            let failed = if lost == 0 { 0 } else { 1 << (lost - 1) };
            for source in [Source::User, Source::Zeroes] {
                let mut disks = Disks::new(g, p.row, 0x5A);
                let mut expected = disks.user(g, p.row);
                disks.lose(failed);
                plan.write(g, &p, source, Members { failed, ..HEALTHY }, 0)
                    .expect("one loss is survived");
                assert!(plan.scratch_blocks <= scratch_blocks_max(g));
                assert_merged(&plan.reads);
                assert_merged(&plan.writes);
                let mut user: Vec<u8> = (0..p.blocks)
                    .map(|i| 0x80 | u8::try_from(i).expect("short"))
                    .collect();
                let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
                match source {
                    Source::User => expected[range].copy_from_slice(&user),
                    Source::Zeroes => expected[range].fill(0),
                }
                disks.run(&plan, &mut user);
                assert_eq!(disks.user(g, p.row), expected);
                for next in 0..g.members() {
                    if failed == 0 {
                        let mut later = Disks {
                            strips: disks.strips.clone(),
                        };
                        later.lose(1 << next);
                        assert_eq!(later.user(g, p.row), expected, "lost {next} after the write");
                    }
                }
            }
        }
    });
}

/// Exhaustive: any read, healthy or with any member lost, to either target, gives the data.
#[test]
fn every_read_gives_the_data() {
    let mut plan = RowPlan::default();
    all_pieces(|g, p| {
        for lost in 0..=u32::from(g.members()) {
            let failed = if lost == 0 { 0 } else { 1 << (lost - 1) };
            let mut disks = Disks::new(g, p.row, 0xC3);
            let expected = disks.user(g, p.row);
            disks.lose(failed);
            let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
            let mut user = vec![0; p.blocks as usize];
            plan.read(g, &p, Target::User, failed, ParityTrust::Everywhere)
                .expect("one loss is survived");
            assert_merged(&plan.reads);
            disks.run(&plan, &mut user);
            assert_eq!(user, expected[range.clone()]);

            // To scratch: the same data at its start. A write from there shows it.
            plan.read(g, &p, Target::Scratch, failed, ParityTrust::Everywhere)
                .expect("one loss is survived");
            assert!(plan.scratch_blocks <= scratch_blocks_max(g));
            let moved: Vec<Step> = std::iter::once(Step::Copy {
                into: Area::User(0),
                from: Area::Scratch(0),
                blocks: p.blocks,
            })
            .collect();
            plan.steps.extend(moved);
            user.fill(0);
            disks.run(&plan, &mut user);
            assert_eq!(user, expected[range]);
        }
    });
}

/// Exhaustive: a healthy write without redundancy puts the new data in its place, leaves the rest alone,
/// reads nothing and computes nothing, whatever is said of parity.
#[test]
fn a_striped_write_is_one_transfer_a_strip() {
    let mut plan = RowPlan::default();
    all_striped_pieces(|g, p| {
        for (source, parity) in [
            (Source::User, ParityTrust::Everywhere),
            (Source::User, ParityTrust::Nowhere),
            (Source::Zeroes, ParityTrust::WhereWritten),
        ] {
            let mut disks = Disks::new(g, p.row, 0x5A);
            let mut expected = disks.user(g, p.row);
            let members = Members { failed: 0, parity };
            plan.write(g, &p, source, members, 0).expect("healthy");
            assert_eq!(
                (plan.reads.len(), plan.steps.len(), plan.scratch_blocks),
                (0, 0, 0)
            );
            assert_eq!(plan.writes.len(), g.segments(&p).count());
            let mut user: Vec<u8> = (0..p.blocks)
                .map(|i| 0x80 | u8::try_from(i).expect("short"))
                .collect();
            let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
            match source {
                Source::User => expected[range].copy_from_slice(&user),
                Source::Zeroes => expected[range].fill(0),
            }
            disks.run(&plan, &mut user);
            assert_eq!(disks.user(g, p.row), expected);
        }
    });
}

/// Exhaustive: without redundancy a read is served as long as it touches no lost member, and refused
/// as soon as it does; a write is refused with any member lost.
#[test]
fn a_striped_group_serves_only_reads_of_live_members() {
    let mut plan = RowPlan::default();
    let too_many = Err(PlanError::TooManyMembersLost);
    all_striped_pieces(|g, p| {
        for failed in 0..1_u32 << g.members() {
            let touches = g
                .segments(&p)
                .any(|segment| failed >> g.data_member(p.row, segment.column).0 & 1 == 1);
            let mut disks = Disks::new(g, p.row, 0xC3);
            let row = disks.user(g, p.row);
            let range = p.start_blocks as usize..(p.start_blocks + p.blocks) as usize;
            disks.lose(failed);
            for target in [Target::User, Target::Scratch] {
                let read = plan.read(g, &p, target, failed, ParityTrust::Everywhere);
                if touches {
                    assert_eq!(read, too_many);
                    continue;
                }
                assert_eq!((read, plan.steps.len()), (Ok(()), 0));
                if target == Target::Scratch {
                    assert_eq!(plan.scratch_blocks, p.blocks);
                    continue;
                }
                let mut user = vec![0; p.blocks as usize];
                disks.run(&plan, &mut user);
                assert_eq!(user, row[range.clone()]);
            }
            let members = Members { failed, ..HEALTHY };
            let expected = if failed == 0 { Ok(()) } else { too_many };
            assert_eq!(plan.write(g, &p, Source::User, members, 0), expected);
            assert_eq!(zero_row(g, members).map(|_| ()), expected);
            assert_eq!(plan.resync(g, p.row, members, 0), expected);
            assert!(
                plan.reads.is_empty() && plan.writes.is_empty(),
                "nothing to compute"
            );
        }
    });
}

#[test]
fn a_healthy_read_is_one_transfer_a_strip() {
    let mut plan = RowPlan::default();
    all_pieces(|g, p| {
        plan.read(g, &p, Target::User, 0, ParityTrust::Everywhere)
            .expect("healthy");
        assert_eq!(plan.reads.len(), g.segments(&p).count());
        assert_eq!((plan.steps.len(), plan.scratch_blocks), (0, 0));
    });
}

/// A degraded read of a whole row reads each surviving strip once and needs no scratch.
#[test]
fn a_degraded_read_reads_nothing_twice() {
    let g = geometry(5, 4);
    let mut plan = RowPlan::default();
    let lost = g.data_member(RowIndex(3), 1);
    plan.read(
        &g,
        &piece(3, 0, 16),
        Target::User,
        1 << lost.0,
        ParityTrust::Everywhere,
    )
    .expect("one loss");
    assert_eq!(
        (plan.reads.len(), blocks_read(&plan), plan.scratch_blocks),
        (4, 16, 0)
    );
}

/// In each interval of a healthy write the planner reads the smaller of the two sets.
#[test]
fn the_method_that_reads_fewer_blocks_is_taken() {
    let mut plan = RowPlan::default();
    all_pieces(|g, p| {
        plan.write(g, &p, Source::User, HEALTHY, 0).expect("healthy");
        let fewest: u32 = (0..g.strip_blocks())
            .map(|offset| {
                let inside = |column: u32| {
                    let block = column * g.strip_blocks() + offset;
                    block >= p.start_blocks && block < p.start_blocks + p.blocks
                };
                let columns = u32::from(g.data_members());
                let touched = u32::try_from((0..columns).filter(|c| inside(*c)).count()).expect("few");
                if touched == 0 {
                    0
                } else {
                    (touched + 1).min(columns - touched)
                }
            })
            .sum();
        assert_eq!(blocks_read(&plan), fewest);
    });
}

/// Three data columns, one written: two reads either way, and old parity is not one of them.
#[test]
fn on_a_tie_old_parity_is_not_built_upon() {
    let g = geometry(4, 4);
    let mut plan = RowPlan::default();
    plan.write(&g, &piece(1, 0, 4), Source::User, HEALTHY, 0)
        .expect("healthy");
    let parity = parity_of(&g, RowIndex(1));
    assert_eq!(plan.reads.len(), 2);
    assert!(plan.reads.iter().all(|io| io.member != parity));
}

#[test]
fn a_full_row_is_written_without_reading() {
    let g = geometry(5, 4);
    let mut plan = RowPlan::default();
    plan.write(&g, &piece(2, 0, 16), Source::User, HEALTHY, 0)
        .expect("healthy");
    assert_eq!((plan.reads.len(), plan.writes.len()), (0, 5));
}

#[test]
fn lost_parity_means_just_write_data() {
    let mut plan = RowPlan::default();
    all_pieces(|g, p| {
        let failed = 1 << parity_of(g, p.row).0;
        plan.write(
            g,
            &p,
            Source::User,
            Members {
                failed,
                parity: ParityTrust::Nowhere,
            },
            0,
        )
        .expect("one loss");
        assert_eq!(
            (plan.reads.len(), plan.steps.len(), plan.scratch_blocks),
            (0, 0, 0)
        );
        assert_eq!(plan.writes.len(), g.segments(&p).count());
    });
}

/// A lost column that is written is reconstructed: its new content exists in parity only.
#[test]
fn a_lost_member_that_is_written_is_reconstructed() {
    let g = geometry(6, 4);
    let mut plan = RowPlan::default();
    let lost = g.data_member(RowIndex(1), 0);
    plan.write(
        &g,
        &piece(1, 0, 2),
        Source::User,
        Members {
            failed: 1 << lost.0,
            ..HEALTHY
        },
        0,
    )
    .expect("one loss");
    let parity = parity_of(&g, RowIndex(1));
    assert!(
        plan.reads
            .iter()
            .all(|io| io.member != parity && io.member != lost)
    );
    assert_eq!((plan.reads.len(), plan.writes.len()), (4, 1));
    assert_eq!(plan.writes[0].member, parity);
}

/// A lost column that is not written lives on in parity, so old parity must be carried forward, even
/// where reconstruct-write would read less.
#[test]
fn a_lost_member_that_is_not_written_needs_read_modify_write() {
    let g = geometry(4, 4);
    let mut plan = RowPlan::default();
    let lost = g.data_member(RowIndex(1), 2);
    plan.write(
        &g,
        &piece(1, 0, 8),
        Source::User,
        Members {
            failed: 1 << lost.0,
            ..HEALTHY
        },
        0,
    )
    .expect("one loss");
    assert!(
        plan.reads
            .iter()
            .any(|io| io.member == parity_of(&g, RowIndex(1)))
    );
    assert_eq!(plan.reads.len(), 3);
}

/// PROTOCOL H27: after an unclean stop parity is never built upon; writes make it right instead.
#[test]
fn untrusted_parity_is_never_read_and_comes_right() {
    let mut plan = RowPlan::default();
    all_pieces(|g, p| {
        let members = Members {
            failed: 0,
            parity: ParityTrust::Nowhere,
        };
        let mut disks = Disks::new(g, p.row, 0x11);
        disks.set_parity(g, p.row, 0xFF);
        plan.write(g, &p, Source::User, members, 0).expect("no loss");
        assert!(plan.reads.iter().all(|io| io.member != parity_of(g, p.row)));
        disks.run(&plan, &mut vec![0x77; p.blocks as usize]);
        for offset in 0..g.strip_blocks() as usize {
            let in_piece = |column: u32| {
                let block = column as usize * g.strip_blocks() as usize + offset;
                block >= p.start_blocks as usize && block < (p.start_blocks + p.blocks) as usize
            };
            if (0..u32::from(g.data_members())).any(in_piece) {
                let sum = disks
                    .strips
                    .iter()
                    .fold(0, |sum, strip| sum ^ strip[offset].expect("none lost"));
                assert_eq!(sum, 0, "parity matches where the write went");
            }
        }
    });
}

/// PROTOCOL H28: what only untrusted parity could tell is refused; all else is served.
#[test]
fn a_lost_member_with_untrusted_parity_is_refused() {
    let g = geometry(4, 4);
    let mut plan = RowPlan::default();
    let (row, lost) = (RowIndex(1), g.data_member(RowIndex(1), 1));
    let members = Members {
        failed: 1 << lost.0,
        parity: ParityTrust::Nowhere,
    };
    let read = |plan: &mut RowPlan, p| plan.read(&g, &p, Target::User, members.failed, ParityTrust::Nowhere);
    assert_eq!(read(&mut plan, piece(1, 4, 1)), Err(PlanError::ParityNotTrusted));
    assert_eq!(read(&mut plan, piece(1, 0, 4)), Ok(()));
    assert_eq!(
        plan.write(&g, &piece(1, 0, 4), Source::User, members, 0),
        Err(PlanError::ParityNotTrusted)
    );
    assert_eq!(plan.write(&g, &piece(1, 4, 4), Source::User, members, 0), Ok(()));
    assert_eq!(plan.resync(&g, row, members, 0), Err(PlanError::ParityNotTrusted));
}

#[test]
fn two_losses_are_too_many_except_for_reads_of_live_members() {
    let g = geometry(4, 4);
    let mut plan = RowPlan::default();
    let row = RowIndex(1);
    let failed = 1 << g.data_member(row, 0).0 | 1 << g.data_member(row, 1).0;
    let members = Members {
        failed,
        parity: ParityTrust::Everywhere,
    };
    let too_many = Err(PlanError::TooManyMembersLost);
    assert_eq!(
        plan.read(&g, &piece(1, 7, 2), Target::User, failed, ParityTrust::Everywhere),
        too_many
    );
    assert_eq!(
        plan.read(&g, &piece(1, 8, 4), Target::User, failed, ParityTrust::Everywhere),
        Ok(())
    );
    assert_eq!(
        plan.write(&g, &piece(1, 8, 4), Source::User, members, 0),
        too_many
    );
    assert_eq!(plan.resync(&g, row, members, 0), too_many);
    assert_eq!(zero_row(&g, members).err(), Some(PlanError::TooManyMembersLost));
}

#[test]
fn resync_makes_parity_match_and_changes_no_data() {
    let mut plan = RowPlan::default();
    for members in 2..=8 {
        let g = geometry(members, 3);
        let row = RowIndex(5);
        let mut disks = Disks::new(&g, row, 0x42);
        let expected = disks.user(&g, row);
        disks.set_parity(&g, row, 0x99);
        plan.resync(
            &g,
            row,
            Members {
                failed: 0,
                parity: ParityTrust::Nowhere,
            },
            0,
        )
        .expect("no loss");
        disks.run(&plan, &mut []);
        for lost in 0..members {
            let mut later = Disks {
                strips: disks.strips.clone(),
            };
            later.lose(1 << lost);
            assert_eq!(later.user(&g, row), expected);
        }
        let failed = 1 << parity_of(&g, row).0;
        plan.resync(
            &g,
            row,
            Members {
                failed,
                parity: ParityTrust::Nowhere,
            },
            0,
        )
        .expect("nothing to do");
        assert!(plan.reads.is_empty() && plan.writes.is_empty());
    }
}

/// 32 data columns are as many as a mask has bits, and leave no column for parity in the scratch table.
#[test]
fn the_widest_striped_row_is_planned() {
    let g = shaped(Level::Raid0, 32, 4);
    let mut plan = RowPlan::with_capacity(&g);
    let room = plan.writes.capacity();
    for (start, blocks) in [(0, 128), (1, 127), (124, 4), (0, 1), (3, 122)] {
        let p = piece(7, start, blocks);
        plan.write(&g, &p, Source::User, HEALTHY, 0).expect("healthy");
        assert_eq!(plan.writes.len(), g.segments(&p).count());
        plan.read(&g, &p, Target::Scratch, 0, ParityTrust::Everywhere)
            .expect("healthy");
        assert_eq!(plan.reads.len(), g.segments(&p).count());
    }
    assert_eq!(plan.writes.capacity(), room);
}

#[test]
fn a_row_of_zeroes_goes_to_all_live_members() {
    let g = geometry(5, 4);
    let members = Members {
        failed: 0b100,
        parity: ParityTrust::Nowhere,
    };
    let live: Vec<u8> = zero_row(&g, members)
        .expect("one loss")
        .map(|member| member.0)
        .collect();
    assert_eq!(live, [0, 1, 3, 4]);
}

/// A plan that is made again for the next phase is the same plan, and making it takes no memory.
#[test]
fn plans_fit_into_the_room_laid_out_for_them() {
    for members in [2, 3, 8, 32] {
        let g = geometry(members, 16);
        let mut plan = RowPlan::with_capacity(&g);
        let room = (
            plan.reads.capacity(),
            plan.steps.capacity(),
            plan.writes.capacity(),
        );
        for start in 0..g.row_blocks() {
            for blocks in [1, 5, 16, 17, 40, g.row_blocks()] {
                let p = piece(0, start, blocks.min(g.row_blocks() - start));
                for failed in [0, 1, 0b10] {
                    plan.write(&g, &p, Source::User, Members { failed, ..HEALTHY }, 0)
                        .expect("one loss");
                    plan.read(&g, &p, Target::Scratch, failed, ParityTrust::Everywhere)
                        .expect("one loss");
                }
            }
        }
        assert_eq!(
            room,
            (
                plan.reads.capacity(),
                plan.steps.capacity(),
                plan.writes.capacity()
            )
        );
    }
}
