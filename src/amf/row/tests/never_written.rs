//! Rows that nobody has made to fit: drives that were not zero, and a first synchronisation that has not come by. What hosts
//! write there has to survive every loss that the level survives, whatever was lost when they wrote.

use super::levels::{Parts, Random, bytes, every_survived_loss};
use super::*;

/// A row of junk, and what hosts know of it.
struct Row<'a> {
    geometry: &'a Geometry,
    row: RowIndex,
    parts: Parts,
    failed: u32,
    /// What was written, block by block.
    known: Vec<Option<u8>>,
}

impl Row<'_> {
    fn members(&self) -> Members {
        Members {
            failed: self.failed,
            parity: ParityTrust::WhereWritten,
        }
    }

    fn write(&mut self, plan: &mut RowPlan, random: &mut Random) {
        let p = random.piece(self.geometry, self.row);
        let mut user = bytes(random, p.blocks);
        let known = &mut self.known[p.start_blocks as usize..][..p.blocks as usize];
        for (known, byte) in known.iter_mut().zip(&user) {
            *known = Some(*byte);
        }
        plan.write(self.geometry, &p, Source::User, self.members(), 0)
            .expect("survived");
        self.parts.run(plan, &mut user);
    }

    fn resync(&mut self, plan: &mut RowPlan) {
        plan.resync(self.geometry, self.row, self.members(), 0)
            .expect("survived");
        assert!(plan.scratch_blocks <= scratch_blocks_max(self.geometry));
        self.parts.run(plan, &mut []);
    }

    fn rebuild(&mut self, plan: &mut RowPlan, member: u32) {
        plan.rebuild(self.geometry, self.row, 1 << member, self.members(), 0)
            .expect("survived");
        self.parts.run(plan, &mut []);
        self.failed &= !(1 << member);
    }

    /// With each set of members lost that the level survives, all that was written reads back.
    fn assert_safe(&self, plan: &mut RowPlan, random: &mut Random, story: &str) {
        let whole = RowPiece {
            row: self.row,
            start_blocks: 0,
            blocks: self.geometry.row_blocks(),
            skipped_blocks: 0,
        };
        every_survived_loss(self.geometry, random, |lost, _| {
            if lost & self.failed != self.failed {
                return;
            }
            plan.read(
                self.geometry,
                &whole,
                Target::User,
                lost,
                ParityTrust::WhereWritten,
            )
            .expect("survived");
            let mut user = vec![0; self.known.len()];
            let mut scratch = vec![0xEE; plan.scratch_blocks as usize];
            self.parts.read(plan, &mut user, &mut scratch);
            levels::compute(plan, &mut user, &mut scratch);
            for (at, (known, read)) in self.known.iter().zip(&user).enumerate() {
                if let Some(known) = known {
                    assert_eq!(
                        known, read,
                        "block {at} of {:?} with {lost:#b} lost after {story}",
                        self.geometry
                    );
                }
            }
        });
    }
}

/// PROTOCOL H27, I6: check strips of a row that was never made to fit do not even fit one another. Writes in such a row, with any
/// survivable loss, leave nothing of what they wrote to such check data; nor do rebuilds and synchronisations between them.
#[test]
fn writes_to_rows_that_never_fitted_survive_every_further_loss() {
    for level in Level::ALL.into_iter().filter(|level| level.is_redundant()) {
        for members in level.members_min()..=7 {
            let g = shaped(level, members, 3);
            let mut random = Random(0x0DDB_1A5E_5BAD_5EED ^ u64::from(members) << 40);
            let mut plan = RowPlan::with_capacity(&g);
            every_survived_loss(&g, &mut Random(1), |failed, _| {
                for turn in 0..6 {
                    let row = RowIndex(u64::from(random.below(64)));
                    let held: Vec<Vec<u8>> = (0..g.members())
                        .map(|_| bytes(&mut random, g.member_row_blocks()))
                        .collect();
                    let mut at = Row {
                        geometry: &g,
                        row,
                        parts: Parts::of(&held, failed),
                        failed,
                        known: vec![None; g.row_blocks() as usize],
                    };
                    let mut story = String::new();
                    for _ in 0..5 {
                        match random.below(4) {
                            0 if turn > 1 => {
                                at.resync(&mut plan);
                                story.push_str("resync, ");
                            }
                            1 if at.failed != 0 && turn > 2 => {
                                at.rebuild(&mut plan, at.failed.trailing_zeros());
                                story.push_str("rebuild, ");
                            }
                            _ => {
                                at.write(&mut plan, &mut random);
                                story.push_str("write, ");
                            }
                        }
                        at.assert_safe(&mut plan, &mut random, &story);
                    }
                }
            });
        }
    }
}

/// A synchronisation that comes by while members are lost leaves check data that fits, so that it may be built upon.
#[test]
fn a_degraded_synchronisation_leaves_a_row_that_fits() {
    for level in [Level::Raid5, Level::Raid6, Level::RaidTp] {
        for members in level.members_min()..=7 {
            let g = shaped(level, members, 3);
            let mut plan = RowPlan::with_capacity(&g);
            let mut random = Random(0x5EED_0001 ^ u64::from(members) << 33);
            every_survived_loss(&g, &mut Random(1), |failed, _| {
                let held: Vec<Vec<u8>> = (0..g.members())
                    .map(|_| bytes(&mut random, g.member_row_blocks()))
                    .collect();
                let mut at = Row {
                    geometry: &g,
                    row: RowIndex(5),
                    parts: Parts::of(&held, failed),
                    failed,
                    known: Vec::new(),
                };
                at.resync(&mut plan);
                while at.failed != 0 {
                    at.rebuild(&mut plan, at.failed.trailing_zeros());
                }
                assert!(plan.scrub(&g, at.row, 0), "all of it can be read");
                let scratch = at.parts.run(&plan, &mut []);
                let checks = u32::from(g.data_members()) * g.strip_blocks();
                let end = checks + u32::from(g.check_strips()) * g.strip_blocks();
                assert!(
                    scratch[checks as usize..end as usize]
                        .iter()
                        .all(|byte| *byte == 0),
                    "{g:?} after {failed:#b} were lost"
                );
            });
        }
    }
}
