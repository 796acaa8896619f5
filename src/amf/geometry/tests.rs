//! The places of blocks, against tables and by counting them all.

use std::collections::BTreeSet;

use super::*;

fn geometry(members: u8, strip_blocks: u32, rows: u64) -> Geometry {
    shaped(Level::Raid5, members, strip_blocks, rows)
}

fn shaped(level: Level, members: u8, strip_blocks: u32, rows: u64) -> Geometry {
    Geometry::new(
        level,
        members,
        strip_blocks,
        MemberLba(256),
        rows,
        BlockSize::B512,
    )
    .expect("a legal geometry")
}

/// The example table of four members that every description of md's default shows.
#[test]
fn left_symmetric_is_as_md_lays_it_out() {
    let g = geometry(4, 1, 8);
    // Per row the data block of each member; `None` is parity.
    let table = [
        [Some(0), Some(1), Some(2), None],
        [Some(4), Some(5), None, Some(3)],
        [Some(8), None, Some(6), Some(7)],
        [None, Some(9), Some(10), Some(11)],
        [Some(12), Some(13), Some(14), None],
    ];
    for (row, members) in (0..).zip(table) {
        for (member, block) in (0..).zip(members) {
            let Some(block) = block else {
                assert_eq!(g.parity_member(RowIndex(row)), Some(MemberIndex(member)));
                assert_eq!(g.column_of(RowIndex(row), MemberIndex(member)), None);
                continue;
            };
            let place = g.locate(GroupLba(block));
            assert_eq!((place.row, place.member), (RowIndex(row), MemberIndex(member)));
            assert_eq!(place.lba, MemberLba(256 + row));
            assert_eq!(
                g.column_of(RowIndex(row), MemberIndex(member)),
                Some(place.column)
            );
        }
    }
}

/// md's RAID 6 of five members, as its left-symmetric algorithm lays it out: Q behind P, then the data.
#[test]
fn two_check_strips_are_where_md_has_them() {
    let g = shaped(Level::Raid6, 5, 1, 6);
    const P: i8 = -1;
    const Q: i8 = -2;
    let table = [
        [Q, 0, 1, 2, P],
        [3, 4, 5, P, Q],
        [7, 8, P, Q, 6],
        [11, P, Q, 9, 10],
        [P, Q, 12, 13, 14],
        [Q, 15, 16, 17, P],
    ];
    for (row, members) in (0..).map(RowIndex).zip(table) {
        for (member, block) in (0..).map(MemberIndex).zip(members) {
            match block {
                P => assert_eq!(g.check_member(row, 0), Some(member)),
                Q => assert_eq!(g.check_member(row, 1), Some(member)),
                block => {
                    let place = g.locate(GroupLba(u64::from(block.unsigned_abs())));
                    assert_eq!((place.row, place.member), (row, member));
                }
            }
        }
    }
}

/// The published tables of md's `near` layout with two copies: pairs, and round an odd number of drives.
#[test]
fn copies_are_near_each_other_as_md_lays_them_out() {
    let even = [[0, 0, 1, 1], [2, 2, 3, 3]];
    let odd = [[0, 0, 1], [1, 2, 2], [3, 3, 4], [4, 5, 5]];
    holds_copies(&shaped(Level::Raid10, 4, 1, 2), &even);
    holds_copies(&shaped(Level::Raid10, 3, 1, 2), &odd);
    holds_copies(&shaped(Level::Raid1, 3, 1, 2), &[[0; 3], [1; 3]]);
}

/// `table` has the block of each member, strip by strip from the start of the data.
fn holds_copies<const N: usize>(g: &Geometry, table: &[[u64; N]]) {
    for block in 0..g.capacity_blocks() {
        let place = g.locate(GroupLba(block));
        let mut found = Vec::new();
        for copy in 0..g.copies() {
            let at = g.copy_place(place.row, place.column, copy);
            let lba = g.member_lba(place.row, at.start_blocks + place.offset_blocks);
            found.push((lba.0 - 256, at.member.0));
        }
        let mut expected = Vec::new();
        for (at, members) in (0..).zip(table) {
            let holders = (0..).zip(members).filter(|(_, held)| **held == block);
            expected.extend(holders.map(|(member, _)| (at, member)));
        }
        assert_eq!(found, expected);
    }
}

/// CHECKLIST D2: exactly the losses that leave a copy, or as many check strips as lost strips, are survived.
#[test]
fn the_losses_that_are_survived_are_those_that_leave_the_data() {
    for level in Level::ALL {
        for members in level.members_min()..=8 {
            let g = shaped(level, members, 1, 3);
            for failed in 0..1_u32 << members {
                let lost = |member: MemberIndex| failed >> member.0 & 1 == 1;
                let has = |row, column| {
                    let copies = 0..g.copies();
                    copies
                        .map(|copy| g.copy_place(row, column, copy))
                        .any(|at| !lost(at.member))
                };
                let row_has = |row| {
                    let columns = (0..g.data_members()).filter(|column| !has(row, *column)).count();
                    let checks = (0..g.check_strips()).filter_map(|index| g.check_member(row, index));
                    columns <= checks.filter(|member| !lost(*member)).count()
                };
                assert_eq!(
                    g.survives(failed),
                    (0..3).map(RowIndex).all(row_has),
                    "{g:?} without {failed:b}"
                );
                let any = failed.count_ones() <= g.losses_max();
                assert!(
                    !any || g.survives(failed),
                    "that many may be lost, whichever they are"
                );
            }
        }
    }
}

/// Without parity the strips go round the members, in order.
#[test]
fn striping_goes_round_the_members() {
    let g = shaped(Level::Raid0, 3, 2, 4);
    assert_eq!((g.capacity_blocks(), g.row_blocks(), g.losses_max()), (24, 6, 0));
    for block in 0..24 {
        let place = g.locate(GroupLba(block));
        let strip = block / 2;
        assert_eq!(u64::from(place.member.0), strip % 3);
        assert_eq!(place.lba, MemberLba(256 + strip / 3 * 2 + block % 2));
        assert_eq!(g.column_of(place.row, place.member), Some(place.column));
        assert_eq!(g.parity_member(place.row), None);
    }
}

/// A group of one member is that drive, block by block.
#[test]
fn one_member_is_a_plain_drive() {
    let g = shaped(Level::Raid0, 1, 8, 5);
    assert_eq!(g.capacity_blocks(), 40);
    for block in 0..40 {
        let place = g.locate(GroupLba(block));
        assert_eq!(
            (place.member, place.lba),
            (MemberIndex(0), MemberLba(256 + block))
        );
    }
}

/// Every level and width and several strips: each block has one place, no two share it, and together
/// with the parity strips they fill the members without a gap.
#[test]
fn every_block_has_exactly_one_place() {
    for level in Level::ALL {
        for members in level.members_min()..=32 {
            for strip in [1, 2, 3, 7, 16] {
                every_block_has_a_place(&shaped(level, members, strip, u64::from(members) * 2 + 1));
            }
        }
    }
}

fn every_block_has_a_place(g: &Geometry) {
    let mut taken = BTreeSet::new();
    let strip = g.strip_blocks();
    for lba in 0..g.capacity_blocks() {
        let place = g.locate(GroupLba(lba));
        assert_eq!(place.member, g.data_member(place.row, place.column));
        for copy in 0..g.copies() {
            let at = g.copy_place(place.row, place.column, copy);
            let on_member = g.member_lba(place.row, at.start_blocks + place.offset_blocks);
            assert!(taken.insert((at.member, on_member)), "two blocks in one place");
            assert_eq!(copy == 0, at.member == place.member);
            assert!(copy > 0 || on_member == place.lba);
            let held = u8::try_from(at.start_blocks / strip).expect("two at most");
            let role = if g.level().is_mirror() {
                Role::Copy {
                    column: place.column,
                    copy,
                }
            } else {
                Role::Data { column: place.column }
            };
            assert_eq!(g.role(place.row, at.member, held), role);
        }
    }
    for row in (0..g.rows()).map(RowIndex) {
        for index in 0..g.check_strips() {
            let member = g.check_member(row, index).expect("the level has it");
            assert_eq!(g.role(row, member, 0), Role::Check { index });
            assert_eq!(g.column_of(row, member), None);
            for offset in 0..strip {
                assert!(taken.insert((member, g.member_lba(row, offset))));
            }
        }
        assert_eq!(g.check_member(row, g.check_strips()), None);
    }
    let blocks = u64::from(g.member_row_blocks()) * g.rows();
    assert_eq!(taken.len() as u64, u64::from(g.members()) * blocks);
    assert!(taken.iter().all(|(_, lba)| lba.0 >= 256 && lba.0 < 256 + blocks));
}

/// Every range of small groups: the segments of its pieces are the range's blocks, in order.
#[test]
fn pieces_and_segments_cover_the_range_in_order() {
    for (members, strip) in [(2, 1), (2, 4), (3, 2), (4, 3), (5, 1)] {
        every_range_is_covered(&geometry(members, strip, 3));
    }
    for members in 1..=4 {
        for strip in 1..=3 {
            every_range_is_covered(&shaped(Level::Raid0, members, strip, 3));
        }
    }
}

fn every_range_is_covered(g: &Geometry) {
    for lba in 0..g.capacity_blocks() {
        for blocks in 0..=g.capacity_blocks() - lba {
            let mut next = lba;
            for piece in g.pieces(GroupLba(lba), blocks) {
                assert_eq!(piece.skipped_blocks, next - lba);
                let first = next;
                for segment in g.segments(&piece) {
                    assert_eq!(u64::from(segment.skipped_blocks), next - first);
                    for i in 0..segment.blocks {
                        let place = g.locate(GroupLba(next));
                        assert_eq!(place.row, piece.row);
                        assert_eq!(place.column, segment.column);
                        assert_eq!(place.offset_blocks, segment.offset_blocks + i);
                        next += 1;
                    }
                }
                assert_eq!(next - first, u64::from(piece.blocks));
            }
            assert_eq!(next, lba + blocks);
        }
    }
}

#[test]
fn impossible_shapes_are_refused() {
    let of = |level, members, strip, start, rows| {
        Geometry::new(level, members, strip, MemberLba(start), rows, BlockSize::B4096)
    };
    let new = |members, strip, start, rows| of(Level::Raid5, members, strip, start, rows);
    for (level, members) in [
        (Level::Raid5, 0),
        (Level::Raid5, 1),
        (Level::Raid5, 33),
        (Level::Raid0, 0),
        (Level::Raid0, 33),
    ] {
        assert_eq!(
            of(level, members, 1, 0, 1),
            Err(GeometryError::Members { level, members })
        );
    }
    assert_eq!(new(3, 0, 0, 1), Err(GeometryError::Strip { strip_blocks: 0 }));
    assert_eq!(new(3, 257, 0, 1), Err(GeometryError::Strip { strip_blocks: 257 }));
    assert_eq!(new(3, 1, 0, 0), Err(GeometryError::Rows { rows: 0 }));
    assert_eq!(
        new(3, 1, 0, ROWS_MAX + 1),
        Err(GeometryError::Rows { rows: ROWS_MAX + 1 })
    );
    assert_eq!(
        new(3, 1, u64::MAX, 1),
        Err(GeometryError::DataStart { data_start: u64::MAX })
    );
    let largest = new(32, 256, 0, ROWS_MAX).expect("the largest group is legal");
    assert_eq!(
        largest.locate(GroupLba(largest.capacity_blocks() - 1)).row,
        RowIndex(ROWS_MAX - 1)
    );
}

/// The one row of 2^16 blocks: 32 members without parity and the longest strip of the smallest blocks.
#[test]
fn the_longest_row_is_cut_right() {
    let g = shaped(Level::Raid0, 32, 2048, ROWS_MAX);
    assert_eq!(g.row_blocks(), 1 << 16);
    let last = GroupLba(g.capacity_blocks() - 1);
    assert_eq!(
        (g.locate(last).member, g.locate(last).row),
        (MemberIndex(31), RowIndex(ROWS_MAX - 1))
    );
    let piece = g.first_piece(GroupLba(1 << 16), u64::MAX >> 8);
    assert_eq!((piece.row, piece.blocks), (RowIndex(1), 1 << 16));
    assert_eq!(g.segments(&piece).count(), 32);
}

#[test]
fn levels_are_known_by_name() {
    for level in Level::ALL {
        assert_eq!(Level::from_name(level.name()), Some(level));
    }
    assert_eq!(Level::from_name("raid60"), None);
    assert_eq!(Level::from_name(""), None);
}

#[test]
fn ranges_that_leave_the_group_are_seen() {
    let g = geometry(3, 2, 5);
    assert_eq!(g.capacity_blocks(), 20);
    assert!(g.contains(GroupLba(0), 20));
    assert!(!g.contains(GroupLba(1), 20));
    assert!(!g.contains(GroupLba(u64::MAX), 2));
}
