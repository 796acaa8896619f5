//! Simulated hosts: what they ask next.

use super::history::{History, Wish};
use super::random::Random;
use super::stamp::{Content, fill};
use crate::amf::engine::{CommandId, Request};
use crate::amf::replication::ReplicationMode;
use crate::drive::block::GroupLba;

/// Writes under way that one block may have: each doubles what the judgement has to look at.
const WRITES_PER_BLOCK_MAX: usize = 3;

/// What a host asks, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What.
    pub wish: Wish,
    /// First block.
    pub lba: u64,
    /// Length.
    pub blocks: u32,
}

/// Chooses a host's next command among `span` blocks. `row_blocks` is the user data of a stripe row: writes of
/// whole rows take other ways than short ones.
pub fn question(random: &mut Random, history: &History, span: u64, row_blocks: u32) -> Question {
    for _ in 0..4 {
        let question = any_question(random, history, span, row_blocks);
        let looks = matches!(question.wish, Wish::Read | Wish::Flush | Wish::Compare { .. });
        let busy = history.writes_under_way(question.lba, question.blocks) >= WRITES_PER_BLOCK_MAX;
        if looks || !busy {
            return question;
        }
    }
    Question {
        wish: Wish::Flush,
        lba: 0,
        blocks: 0,
    }
}

/// A host's command as it comes to a node.
#[derive(Clone, Debug)]
pub struct Order {
    /// The host's name for it, and its stamp.
    pub command: u32,
    /// What it is about.
    pub question: Question,
    /// Where the group has its first block, and where its disk ends.
    pub place: (GroupLba, GroupLba),
}

impl Order {
    /// What is written or compared with, and what a Compare and Write writes.
    pub fn buffers(&self, block_bytes: usize) -> [Vec<u8>; 2] {
        let Question { wish, lba, blocks } = self.question;
        let own = Content::Command(self.command);
        let stamped = |content: Content, lba: u64| {
            let mut bytes = vec![0; block_bytes];
            if let Content::Command(number) = content {
                fill(&mut bytes, number, lba);
            }
            bytes
        };
        match wish {
            Wish::Read => [vec![0xdd; blocks as usize * block_bytes], Vec::new()],
            Wish::Write { .. } => {
                let blocks = (lba..lba + u64::from(blocks)).flat_map(|lba| stamped(own, lba));
                [blocks.collect(), Vec::new()]
            }
            Wish::Zero { .. } | Wish::Flush => [Vec::new(), Vec::new()],
            Wish::Compare { expected } => [stamped(expected, lba), Vec::new()],
            Wish::Swap { expected, .. } => [stamped(expected, lba), stamped(own, lba)],
        }
    }

    /// What an engine is asked; `write` has what a Compare and Write writes. Every other read may be answered from memory.
    pub const fn request(&self, write: CommandId, replication: ReplicationMode) -> Request {
        let (at, disk_end) = self.place;
        let Question { wish, blocks, .. } = self.question;
        let is_even = self.command.is_multiple_of(2);
        match wish {
            Wish::Read if is_even => Request::Read { lba: at, blocks },
            Wish::Read => Request::CachedRead {
                lba: at,
                blocks,
                disk_end,
            },
            Wish::Write { forced: fua } => Request::Write {
                lba: at,
                blocks,
                fua,
                replication,
            },
            Wish::Zero { forced: fua } => Request::Zero {
                lba: at,
                blocks: blocks as u64,
                deallocate: is_even,
                fua,
                replication,
            },
            Wish::Compare { .. } => Request::Compare { lba: at, blocks },
            Wish::Swap { forced: fua, .. } => Request::CompareWrite {
                lba: at,
                blocks,
                write,
                fua,
            },
            Wish::Flush => Request::Flush,
        }
    }
}

fn any_question(random: &mut Random, history: &History, span: u64, row_blocks: u32) -> Question {
    let forced = random.chance(20);
    let draw = random.below(100);
    let lba = random.below(span);
    if draw < 6 {
        let wish = Wish::Flush;
        return Question {
            wish,
            lba: 0,
            blocks: 0,
        };
    }
    if draw < 16 {
        // Often right, because nothing is learnt from comparisons that always fail.
        let expected = if random.chance(80) {
            history.last_written(lba)
        } else {
            Content::Command(random.between(0, history.next_command()))
        };
        let wish = if draw < 11 {
            Wish::Compare { expected }
        } else {
            Wish::Swap { expected, forced }
        };
        return Question { wish, lba, blocks: 1 };
    }
    let (lba, blocks) = extent(random, lba, span, row_blocks);
    let wish = match draw {
        16..42 => Wish::Read,
        42..92 => Wish::Write { forced },
        _ => Wish::Zero { forced },
    };
    Question { wish, lba, blocks }
}

/// Mostly a few blocks; at times a whole row, or more than one.
fn extent(random: &mut Random, lba: u64, span: u64, row_blocks: u32) -> (u64, u32) {
    let row = u64::from(row_blocks);
    let (lba, wanted) = match random.below(10) {
        0 | 1 => (lba / row * row, row),
        2 => (lba, random.below(2 * row) + 1),
        3..=6 => (lba, 1),
        _ => (lba, random.below(10) + 1),
    };
    let blocks = wanted.min(span - lba);
    (lba, u32::try_from(blocks).expect("two rows are short"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::history::Durability;

    #[test]
    fn every_kind_of_question_comes_up_and_stays_inside() {
        let mut history = History::new(100, Durability::Flushed, Content::Zeroes);
        let mut random = Random::new(1, 1);
        let mut kinds = [0; 6];
        for _ in 0..2000 {
            let Question { wish, lba, blocks } = question(&mut random, &history, 100, 24);
            assert!(lba + u64::from(blocks) <= 100);
            let kind = match wish {
                Wish::Read => 0,
                Wish::Write { .. } => 1,
                Wish::Zero { .. } => 2,
                Wish::Compare { .. } => 3,
                Wish::Swap { .. } => 4,
                Wish::Flush => 5,
            };
            assert_eq!(kind == 5, blocks == 0);
            kinds[kind] += 1;
            let command = history.begin(wish, lba, blocks);
            let seen = vec![Content::Zeroes; blocks as usize];
            history.end(command, crate::sim::history::Ended::Failed, &seen);
        }
        assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
    }
}
