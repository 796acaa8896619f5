//! What hosts asked and what they were told, and the judgement over it.
//!
//! Owns the record of all host commands of a run, block by block, with flushes and power cuts between them. The
//! judgement is complete: it finds an order of all commands on each block that explains every answer (PROTOCOL
//! I8, I9, I16), or says that there is none. Each block is a register of its own, because the array promises
//! nothing about commands of several blocks. A power cut ends every command under way, which then has taken
//! effect or never will; and it may bring back older values as far as the [`Durability`] allows (PROTOCOL I7).

mod judge;

use std::fmt;

use super::stamp::Content;

/// What an acknowledged write is worth when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It survives.
    Acknowledged,
    /// It survives if it was forced, or a Flush that came after its end has ended.
    Flushed,
    /// It survives unless the node says afterwards that writes are lost; then the same.
    Confessed,
}

/// What a host asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Read blocks.
    Read,
    /// Write blocks with the command's own stamp.
    Write {
        /// Durable before it is answered.
        forced: bool,
    },
    /// Make blocks zero.
    Zero {
        /// Durable before it is answered.
        forced: bool,
    },
    /// Compare one block.
    Compare {
        /// With this.
        expected: Content,
    },
    /// Compare one block and write it if it is as expected.
    Swap {
        /// What it should be.
        expected: Content,
        /// Durable before it is answered.
        forced: bool,
    },
    /// Make everything durable that was written before.
    Flush,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As it should.
    Done,
    /// A comparison found something else.
    Differed,
    /// With an error: it has taken effect or not, block by block, and will not do so later.
    Failed,
}

/// One command on one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    command: u32,
    start: u64,
    /// When it was answered or cut off; `u64::MAX` while it is under way.
    end: u64,
    /// It was answered as it should; else it may have had its effect or not.
    certain: bool,
    forced: bool,
    effect: Effect,
}

/// What a command does to a block, or tells about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Write { content: Content },
    Swap { expected: Content, content: Content },
    Saw { content: Content },
    Differs { expected: Content },
    Nothing,
}

impl Effect {
    const fn writes(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Swap { .. })
    }
}

/// What happens to all blocks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    FlushStart(u32),
    FlushEnd(u32),
    /// The power failed, and what was not made durable may be gone.
    CutLosing,
    /// The power failed, and everything that was acknowledged is there.
    Cut,
    Stop,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    wish: Wish,
    lba: u64,
    blocks: u32,
    /// Answered, or cut off.
    over: bool,
}

/// The record of a run.
#[derive(Clone, Debug)]
pub struct History {
    durability: Durability,
    initial: Content,
    /// Blocks that were there from the start.
    first_blocks: usize,
    clock: u64,
    blocks: Vec<Vec<Entry>>,
    commands: Vec<Issued>,
    marks: Vec<(u64, Mark)>,
}

/// No order of the commands explains what a host was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The block.
    pub lba: u64,
    /// The command whose answer cannot be.
    pub command: u32,
    /// The block's story up to there, for people.
    pub story: String,
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {}: the answer to command {} fits no order of the commands\n{}",
            self.lba, self.command, self.story
        )
    }
}

impl History {
    /// A record of as many blocks, all of them with this content.
    pub fn new(blocks: u64, durability: Durability, initial: Content) -> Self {
        let blocks = usize::try_from(blocks).expect("a simulated namespace is small");
        Self {
            durability,
            initial,
            first_blocks: blocks,
            clock: 0,
            blocks: vec![Vec::new(); blocks],
            commands: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Watches so many blocks from now on; those that are new are zero.
    ///
    /// Panics if they are fewer than before.
    pub fn grow(&mut self, blocks: u64) {
        assert!(blocks >= self.len(), "disks only grow");
        let blocks = usize::try_from(blocks).expect("a simulated namespace is small");
        self.blocks.resize(blocks, Vec::new());
    }

    /// Blocks that it watches.
    pub fn len(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether it watches none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The number that the next command gets.
    pub fn next_command(&self) -> u32 {
        u32::try_from(self.commands.len()).expect("a run has fewer than 2^32 commands")
    }

    /// Grows with everything that it is told.
    pub const fn now(&self) -> u64 {
        self.clock
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A host asks. Returns the command's number, which is also its stamp.
    pub fn begin(&mut self, wish: Wish, lba: u64, blocks: u32) -> u32 {
        let command = self.next_command();
        let start = self.tick();
        self.commands.push(Issued {
            wish,
            lba,
            blocks,
            over: false,
        });
        let stamp = Content::Command(command);
        let (effect, forced) = match wish {
            Wish::Read => (Effect::Nothing, false),
            Wish::Write { forced } => (Effect::Write { content: stamp }, forced),
            Wish::Zero { forced } => {
                let content = Content::Zeroes;
                (Effect::Write { content }, forced)
            }
            Wish::Compare { .. } => (Effect::Nothing, false),
            Wish::Swap { expected, forced } => {
                let content = stamp;
                (Effect::Swap { expected, content }, forced)
            }
            Wish::Flush => {
                self.marks.push((start, Mark::FlushStart(command)));
                return command;
            }
        };
        for at in self.range(command) {
            self.blocks[at].push(Entry {
                command,
                start,
                end: u64::MAX,
                certain: false,
                forced,
                effect,
            });
        }
        command
    }

    fn range(&self, command: u32) -> std::ops::Range<usize> {
        let Issued { lba, blocks, .. } = self.commands[command as usize];
        let start = usize::try_from(lba).expect("a simulated namespace is small");
        start..start + blocks as usize
    }

    /// A host is told. `seen` is what a read found, one for each block.
    ///
    /// Panics if the command is over.
    pub fn end(&mut self, command: u32, ended: Ended, seen: &[Content]) {
        let end = self.tick();
        let issued = &mut self.commands[command as usize];
        assert!(!issued.over, "a command is answered once");
        issued.over = true;
        let wish = issued.wish;
        if wish == Wish::Flush {
            if ended == Ended::Done {
                self.marks.push((end, Mark::FlushEnd(command)));
            }
            return;
        }
        for (offset, at) in self.range(command).enumerate() {
            let entry = find(&mut self.blocks[at], command);
            entry.end = end;
            entry.certain = ended != Ended::Failed;
            entry.effect = match (wish, ended) {
                (Wish::Read, Ended::Done) => {
                    let content = seen[offset];
                    Effect::Saw { content }
                }
                (Wish::Compare { expected }, Ended::Done) => Effect::Saw { content: expected },
                (Wish::Compare { expected } | Wish::Swap { expected, .. }, Ended::Differed) => {
                    Effect::Differs { expected }
                }
                (Wish::Read | Wish::Compare { .. }, Ended::Failed | Ended::Differed) => Effect::Nothing,
                (Wish::Write { .. } | Wish::Zero { .. } | Wish::Swap { .. }, _) => entry.effect,
                (Wish::Flush, _) => unreachable!("a flush touches no block"),
            };
        }
    }

    /// The power fails: whatever is under way has had its effect or never will.
    pub fn cut(&mut self) {
        let end = self.tick();
        let mark = match self.durability {
            Durability::Flushed => Mark::CutLosing,
            Durability::Acknowledged | Durability::Confessed => Mark::Cut,
        };
        self.marks.push((end, mark));
        for command in 0..self.next_command() {
            let issued = &mut self.commands[command as usize];
            if std::mem::replace(&mut issued.over, true) {
                continue;
            }
            if issued.wish == Wish::Flush {
                continue;
            }
            for at in self.range(command) {
                find(&mut self.blocks[at], command).end = end;
            }
        }
    }

    /// The node has said that writes are lost which it had acknowledged before the last power cut.
    ///
    /// Panics unless it may.
    pub fn lose(&mut self) {
        assert_eq!(
            self.durability,
            Durability::Confessed,
            "only who acknowledges from memory loses anything"
        );
        let cut = self.marks.iter_mut().rfind(|(_, mark)| *mark == Mark::Cut);
        if let Some((_, mark)) = cut {
            *mark = Mark::CutLosing;
        }
    }

    /// The node has stopped in good order: everything is durable.
    ///
    /// Panics if a command is under way.
    pub fn stop(&mut self) {
        assert!(
            self.commands.iter().all(|issued| issued.over),
            "hosts are gone before a node stops"
        );
        let now = self.tick();
        self.marks.push((now, Mark::Stop));
    }

    /// Writes under way that touch a block of this range. The judgement of many at once takes long.
    pub fn writes_under_way(&self, lba: u64, blocks: u32) -> usize {
        let start = usize::try_from(lba).expect("a simulated namespace is small");
        let open = |entries: &Vec<Entry>| {
            let entries = entries.iter().rev().take(64);
            entries
                .filter(|entry| entry.end == u64::MAX && entry.effect != Effect::Nothing)
                .count()
        };
        let blocks = &self.blocks[start..start + blocks as usize];
        blocks.iter().map(open).max().unwrap_or(0)
    }

    /// The content that the last command to begin a write there gives a block: a likely guess for a comparison.
    pub fn last_written(&self, lba: u64) -> Content {
        let at = usize::try_from(lba).expect("a simulated namespace is small");
        let written = self.blocks[at].iter().rev().find_map(|entry| match entry.effect {
            Effect::Write { content } | Effect::Swap { content, .. } => Some(content),
            Effect::Saw { content } => Some(content),
            Effect::Differs { .. } | Effect::Nothing => None,
        });
        // Nobody can know what nobody wrote.
        written
            .filter(|content| *content != Content::Garbage)
            .unwrap_or(Content::Zeroes)
    }

    /// Finds an order that explains every answer, for each block, or the first block that has none.
    pub fn judge(&self) -> Result<(), Contradiction> {
        for (lba, entries) in (0..).zip(&self.blocks) {
            let is_first = lba < self.first_blocks as u64;
            let initial = if is_first { self.initial } else { Content::Zeroes };
            judge::judge(lba, entries, &self.marks, self.durability, initial)?;
        }
        Ok(())
    }
}

/// A command's entry of a block: one of the last, because it is looked for when it ends.
fn find(entries: &mut [Entry], command: u32) -> &mut Entry {
    let entry = entries.iter_mut().rfind(|entry| entry.command == command);
    entry.expect("a command has an entry on each of its blocks")
}

#[cfg(test)]
mod tests;
