//! Sums that an engine asks for term by term, gathered so that one pass over the memory computes them.
//!
//! Engines say how check data is computed in steps of two operands. Taken one by one, a sum is written and read again with
//! each of its terms, and P and Q each read all data. Here a run of steps that add to one place becomes one sum, and
//! neighbouring sums of the same terms become one operation with several outputs. Knows places only, and no memory.

use reactor::parity::{OUTPUTS_MAX, SOURCES_MAX};

use crate::amf::engine::{Action, Place};

/// An operation under construction; its memory is used again and again.
#[derive(Debug)]
pub struct Sums {
    /// Where the sums go: apart from each other and from all sources.
    pub outputs: Vec<Place>,
    /// What is summed.
    pub sources: Vec<Place>,
    /// One a source for the first output, then those of the second, and so on.
    pub factors: Vec<u8>,
    /// Length of each output and source.
    pub bytes: u32,
    /// Whether what the outputs hold is part of the sums.
    pub accumulate: bool,
    /// The terms of the sum that is looked at.
    terms: Vec<(Place, u8)>,
}

/// A sum at the start of some actions, whose terms are in [`Sums::terms`].
struct Sum {
    into: Place,
    bytes: u32,
    accumulate: bool,
    /// How many actions it is.
    actions: usize,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            outputs: Vec::with_capacity(OUTPUTS_MAX),
            sources: Vec::with_capacity(SOURCES_MAX),
            factors: Vec::with_capacity(OUTPUTS_MAX * SOURCES_MAX),
            bytes: 0,
            accumulate: false,
            terms: Vec::with_capacity(SOURCES_MAX),
        }
    }
}

impl Sums {
    /// Gathers what can be computed at once from the start of `actions`; returns how many of them that are, 0 if they do
    /// not start with a sum.
    pub fn gather(&mut self, actions: &[Action]) -> usize {
        let Some(first) = self.parse(actions) else {
            return 0;
        };
        self.outputs.clear();
        self.outputs.push(first.into);
        self.sources.clear();
        self.sources.extend(self.terms.iter().map(|(place, _)| *place));
        self.factors.clear();
        self.factors.extend(self.terms.iter().map(|(_, factor)| *factor));
        (self.bytes, self.accumulate) = (first.bytes, first.accumulate);
        let mut taken = first.actions;
        while self.outputs.len() < OUTPUTS_MAX
            && let Some(next) = self.parse(&actions[taken..])
            && self.add_output(&next)
        {
            taken += next.actions;
        }
        taken
    }

    /// Whether all that is computed is the exclusive or of the sources.
    pub fn is_xor(&self) -> bool {
        self.outputs.len() == 1 && self.factors.iter().all(|factor| *factor == 1)
    }

    /// Finds the sum at the start of `actions`.
    fn parse(&mut self, actions: &[Action]) -> Option<Sum> {
        self.terms.clear();
        let (into, bytes, accumulate) = match *actions.first()? {
            Action::Copy { into, from, bytes } => {
                // Copies that nothing is added to are left to the runtime, which may also move them.
                term(actions.get(1)?, into, bytes)?;
                if from != Place::Zeroes {
                    self.terms.push((from, 1));
                }
                (into, bytes, false)
            }
            Action::Xor { into, bytes, .. } | Action::MulAdd { into, bytes, .. } => (into, bytes, true),
            Action::DriveRead { .. }
            | Action::DriveWrite { .. }
            | Action::DriveZero { .. }
            | Action::DriveFlush { .. }
            | Action::Compare { .. }
            | Action::Seal { .. }
            | Action::Keep { .. }
            | Action::RecallCore { .. }
            | Action::HurryCores { .. }
            | Action::CommitCores { .. }
            | Action::Committed { .. }
            | Action::TailMoved { .. }
            | Action::WakeCores { .. }
            | Action::WantRow { .. }
            | Action::Give { .. }
            | Action::Taken { .. }
            | Action::ReportMedia { .. }
            | Action::Scrubbed { .. }
            | Action::ReportFault { .. }
            | Action::RangeHeld
            | Action::PersistIntent
            | Action::PersistLost
            | Action::RamWanted
            | Action::RamCommitted
            | Action::KeptAgain(_)
            | Action::Complete { .. } => return None,
        };
        let start = usize::from(!accumulate);
        let room = SOURCES_MAX - self.terms.len();
        let more = actions[start..]
            .iter()
            .map_while(|action| term(action, into, bytes))
            .take(room);
        let before = self.terms.len();
        self.terms.extend(more);
        Some(Sum {
            into,
            bytes,
            accumulate,
            actions: start + self.terms.len() - before,
        })
    }

    /// Computes one more sum in the same pass, if it is one of the same sources that disturbs none of them.
    fn add_output(&mut self, sum: &Sum) -> bool {
        let mut others = self.outputs.iter().chain(&self.sources);
        if sum.bytes != self.bytes
            || sum.accumulate != self.accumulate
            || others.any(|other| overlap(sum.into, *other, self.bytes))
        {
            return false;
        }
        let before = self.factors.len();
        let mut terms = self.terms.iter().peekable();
        for source in &self.sources {
            let factor = terms.next_if(|(place, _)| place == source);
            self.factors.push(factor.map_or(0, |(_, factor)| *factor));
        }
        if terms.next().is_some() {
            self.factors.truncate(before);
            return false;
        }
        self.outputs.push(sum.into);
        true
    }
}

/// What an action adds to what is at `into`, if that is what it does.
fn term(action: &Action, sum: Place, length: u32) -> Option<(Place, u8)> {
    let (into, from, factor, bytes) = match *action {
        Action::Xor { into, from, bytes } => (into, from, 1, bytes),
        Action::MulAdd {
            into,
            from,
            factor,
            bytes,
        } => (into, from, factor, bytes),
        Action::DriveRead { .. }
        | Action::DriveWrite { .. }
        | Action::DriveZero { .. }
        | Action::DriveFlush { .. }
        | Action::Copy { .. }
        | Action::Compare { .. }
        | Action::Seal { .. }
        | Action::Keep { .. }
        | Action::RecallCore { .. }
        | Action::HurryCores { .. }
        | Action::CommitCores { .. }
        | Action::Committed { .. }
        | Action::TailMoved { .. }
        | Action::WakeCores { .. }
        | Action::WantRow { .. }
        | Action::Give { .. }
        | Action::Taken { .. }
        | Action::ReportMedia { .. }
        | Action::Scrubbed { .. }
        | Action::ReportFault { .. }
        | Action::RangeHeld
        | Action::PersistIntent
        | Action::PersistLost
        | Action::RamWanted
        | Action::RamCommitted
        | Action::KeptAgain(_)
        | Action::Complete { .. } => return None,
    };
    (into == sum && bytes == length).then_some((from, factor))
}

/// Whether two places of this length share bytes.
fn overlap(a: Place, b: Place, bytes: u32) -> bool {
    let near = |a: u32, b: u32| a.abs_diff(b) < bytes;
    match (a, b) {
        (
            Place::Command {
                command,
                offset_bytes,
            },
            Place::Command {
                command: other,
                offset_bytes: at,
            },
        ) => command == other && near(offset_bytes, at),
        (Place::Scratch { offset_bytes }, Place::Scratch { offset_bytes: at })
        | (Place::Ring { offset_bytes }, Place::Ring { offset_bytes: at })
        | (Place::Clean { offset_bytes }, Place::Clean { offset_bytes: at }) => near(offset_bytes, at),
        (
            Place::Command { .. }
            | Place::Scratch { .. }
            | Place::Ring { .. }
            | Place::Clean { .. }
            | Place::Handed { .. }
            | Place::Zeroes,
            _,
        ) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::amf::code::mul_add_bytes;
    use crate::amf::engine::CommandId;
    use crate::amf::geometry::{Geometry, Level, RowPiece};
    use crate::amf::lock::Members;
    use crate::amf::row::{Area, RowPlan, Source, Step};
    use crate::amf::{ParityTrust, RowIndex};
    use crate::drive::block::{BlockSize, MemberLba};

    /// Memory of the kinds that sums work on.
    #[derive(Clone, PartialEq, Eq)]
    struct Memory {
        user: Vec<u8>,
        scratch: Vec<u8>,
    }

    impl Memory {
        fn at(&mut self, place: Place, bytes: u32) -> &mut [u8] {
            let (memory, offset) = match place {
                Place::Command { offset_bytes, .. } => (&mut self.user, offset_bytes),
                Place::Scratch { offset_bytes } => (&mut self.scratch, offset_bytes),
                Place::Ring { .. } | Place::Clean { .. } | Place::Handed { .. } | Place::Zeroes => {
                    unreachable!("nothing is written there")
                }
            };
            &mut memory[offset as usize..][..bytes as usize]
        }

        fn read(&mut self, place: Place, bytes: u32) -> Vec<u8> {
            match place {
                Place::Zeroes => vec![0; bytes as usize],
                Place::Command { .. }
                | Place::Scratch { .. }
                | Place::Ring { .. }
                | Place::Clean { .. }
                | Place::Handed { .. } => self.at(place, bytes).to_vec(),
            }
        }

        fn add(&mut self, into: Place, from: Place, factor: u8, bytes: u32) {
            let from = self.read(from, bytes);
            mul_add_bytes(self.at(into, bytes), &from, factor);
        }

        fn step(&mut self, action: &Action) {
            if let Action::Copy { into, from, bytes } = *action {
                let from = self.read(from, bytes);
                self.at(into, bytes).copy_from_slice(&from);
                return;
            }
            let mut sums = Sums::default();
            let sum = sums
                .parse(std::slice::from_ref(action))
                .expect("it computes something");
            let (from, factor) = sums.terms[0];
            self.add(sum.into, from, factor, sum.bytes);
        }

        /// As a kernel does it: all sources are read before any output is written.
        fn sum(&mut self, sums: &Sums) {
            let sources: Vec<_> = sums.sources.iter().map(|s| self.read(*s, sums.bytes)).collect();
            let rows = sums.factors.chunks_exact(sums.sources.len());
            assert_eq!(rows.len(), sums.outputs.len());
            for (output, factors) in sums.outputs.iter().zip(rows) {
                let into = self.at(*output, sums.bytes);
                if !sums.accumulate {
                    into.fill(0);
                }
                for (source, factor) in sources.iter().zip(factors) {
                    mul_add_bytes(into, source, *factor);
                }
            }
        }
    }

    fn pattern(seed: u32, bytes: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
        (0..bytes)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[1]
            })
            .collect()
    }

    /// Carries actions out step by step and gathered; how many operations that were.
    fn check(actions: &[Action], scratch: usize, user: usize) -> (usize, usize) {
        let mut plain = Memory {
            user: pattern(1, user),
            scratch: pattern(2, scratch),
        };
        let mut gathered = plain.clone();
        actions.iter().for_each(|action| plain.step(action));
        let (mut sums, mut at, mut operations) = (Sums::default(), 0, 0);
        while at < actions.len() {
            operations += 1;
            match sums.gather(&actions[at..]) {
                0 => {
                    gathered.step(&actions[at]);
                    at += 1;
                }
                taken => {
                    gathered.sum(&sums);
                    at += taken;
                }
            }
        }
        assert!(plain == gathered, "{actions:?}");
        (actions.len(), operations)
    }

    fn geometry(level: Level, members: u8) -> Geometry {
        Geometry::new(level, members, 4, MemberLba(0), 8, BlockSize::B512).expect("legal")
    }

    fn actions_of(plan: &RowPlan) -> Vec<Action> {
        let place = |area| match area {
            Area::User(blocks) => Place::Command {
                command: CommandId(0),
                offset_bytes: blocks * 512,
            },
            Area::Scratch(blocks) => Place::Scratch {
                offset_bytes: blocks * 512,
            },
            Area::Zeroes => Place::Zeroes,
        };
        let action = |step: &Step| match *step {
            Step::Copy { into, from, blocks } => Action::Copy {
                into: place(into),
                from: place(from),
                bytes: blocks * 512,
            },
            Step::Xor { into, from, blocks } => Action::Xor {
                into: place(into),
                from: place(from),
                bytes: blocks * 512,
            },
            Step::MulAdd {
                into,
                from,
                factor,
                blocks,
            } => Action::MulAdd {
                into: place(into),
                from: place(from),
                factor,
                bytes: blocks * 512,
            },
        };
        plan.steps.iter().map(action).collect()
    }

    const TRUSTED: Members = Members {
        failed: 0,
        parity: ParityTrust::Everywhere,
    };

    /// Goal: gathering changes nothing that is computed, for every write and rebuild of a small row with every loss.
    #[test]
    fn gathered_sums_equal_their_steps() {
        let (mut steps, mut operations) = (0, 0);
        let mut plan = RowPlan::default();
        for (level, members) in [(Level::Raid5, 4), (Level::Raid6, 5), (Level::RaidTp, 6)] {
            let geometry = geometry(level, members);
            let row = geometry.row_blocks();
            for failed in (0..1_u32 << members).filter(|failed| geometry.survives(*failed)) {
                let lost = Members { failed, ..TRUSTED };
                let mut run = |plan: &RowPlan| {
                    let scratch = plan.scratch_blocks as usize * 512;
                    let (taken, done) = check(&actions_of(plan), scratch, row as usize * 512);
                    (steps, operations) = (steps + taken, operations + done);
                };
                for start_blocks in 0..row {
                    for blocks in 1..=row - start_blocks {
                        let piece = RowPiece {
                            row: RowIndex(1),
                            start_blocks,
                            blocks,
                            skipped_blocks: 0,
                        };
                        plan.write(&geometry, &piece, Source::User, lost, 0)
                            .expect("it survives");
                        run(&plan);
                    }
                }
                plan.rebuild(&geometry, RowIndex(1), failed, lost, 0)
                    .expect("it survives");
                run(&plan);
            }
        }
        assert!(
            3 * operations < steps,
            "{operations} operations for {steps} steps"
        );
    }

    /// P, Q and R of a whole row are one pass over its data; so is their change by one strip.
    #[test]
    fn check_strips_of_one_row_are_computed_together() {
        let mut plan = RowPlan::default();
        for (level, members) in [(Level::Raid5, 8), (Level::Raid6, 9), (Level::RaidTp, 10)] {
            let geometry = geometry(level, members);
            for blocks in [geometry.row_blocks(), geometry.strip_blocks()] {
                let piece = RowPiece {
                    row: RowIndex(0),
                    start_blocks: 0,
                    blocks,
                    skipped_blocks: 0,
                };
                plan.write(&geometry, &piece, Source::User, TRUSTED, 0)
                    .expect("healthy");
                let scratch = plan.scratch_blocks as usize * 512;
                let (_, operations) =
                    check(&actions_of(&plan), scratch, geometry.row_blocks() as usize * 512);
                assert_eq!(operations, 1, "{level:?}, {blocks} blocks");
            }
        }
    }

    /// A sum that reads what the one before it writes, or writes what that reads, is computed after it.
    #[test]
    fn sums_that_hang_on_one_another_stay_apart() {
        let scratch = |offset_bytes| Place::Scratch { offset_bytes };
        let xor = |into, from| Action::Xor {
            into: scratch(into),
            from: scratch(from),
            bytes: 8,
        };
        let copy = |into, from| Action::Copy {
            into: scratch(into),
            from: scratch(from),
            bytes: 8,
        };
        for (actions, operations) in [
            // The second reads the first's result.
            (vec![xor(0, 16), xor(24, 0)], 2),
            // The second writes to the first's source, in part.
            (vec![xor(0, 16), xor(20, 40)], 2),
            (vec![xor(0, 16), xor(12, 16)], 2),
            // Both write to the same place, in part.
            (vec![xor(0, 16), xor(4, 16)], 2),
            // One starts from nothing, the other goes on.
            (vec![copy(0, 16), xor(0, 24), xor(32, 16), xor(32, 24)], 2),
            // Other terms, and the same in another order.
            (vec![xor(0, 16), xor(24, 40)], 2),
            (vec![xor(0, 16), xor(0, 24), xor(32, 24), xor(32, 16)], 2),
            // The second leaves one out.
            (vec![xor(0, 16), xor(0, 24), xor(32, 24)], 1),
            // Nothing is added to these.
            (vec![copy(0, 16), copy(8, 16)], 2),
            (vec![copy(0, 16), xor(8, 16), xor(0, 24)], 3),
            // Started twice.
            (vec![xor(0, 16), copy(0, 24), xor(0, 16)], 2),
        ] {
            assert_eq!(check(&actions, 64, 0).1, operations, "{actions:?}");
        }
    }

    /// More terms than a kernel takes are several sums, the later ones on top of the first.
    #[test]
    fn long_sums_are_cut() {
        let place = |index: u32| Place::Scratch {
            offset_bytes: index * 8,
        };
        let mut actions = vec![Action::Copy {
            into: place(0),
            from: place(1),
            bytes: 8,
        }];
        let more = u32::try_from(SOURCES_MAX).expect("64") + 10;
        actions.extend((2..more).map(|index| Action::MulAdd {
            into: place(0),
            from: place(index),
            factor: 3,
            bytes: 8,
        }));
        assert_eq!(check(&actions, more as usize * 8, 0).1, 2);
    }
}
