//! What the hosts of a kill cycle asked and were told, judged block by block.
//!
//! Each cycle is a history of its own, which begins with what the whole disk was read to hold at the end of the cycle
//! before: nothing was under way then, so nothing is lost by forgetting what came earlier.

use braid::sim::history::{Contradiction, Durability, Ended, History, Wish};
use braid::sim::stamp::{self, BLOCK_BYTES, Content};

/// Bytes of a namespace's block: several of the stamps' own.
pub const BLOCK: usize = 4096;
const STAMPS: u64 = (BLOCK / BLOCK_BYTES) as u64;

/// Who wrote what a block holds: a number that no other write of the whole run has; `None` for zeroes.
pub type Writer = Option<u32>;

/// Fills a block with what `writer` writes there.
pub fn fill(block: &mut [u8], writer: u32, lba: u64) {
    for (part, bytes) in (lba * STAMPS..).zip(block.chunks_exact_mut(BLOCK_BYTES)) {
        stamp::fill(bytes, writer, part);
    }
}

/// What a block holds as a whole: a block of parts of two writes is garbage.
fn recognise(block: &[u8], lba: u64) -> Content {
    let mut parts = (lba * STAMPS..)
        .zip(block.chunks_exact(BLOCK_BYTES))
        .map(|(part, bytes)| stamp::recognise(bytes, part));
    let first = parts.next().expect("a block has several parts");
    if parts.all(|part| part == first) {
        first
    } else {
        Content::Garbage
    }
}

/// The record of a cycle. A write is named in the history by its command, and on the disk by `offset` more, so that
/// writes of different cycles differ.
pub struct Record {
    history: History,
    initial: Vec<Writer>,
    offset: u32,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Commands that were answered with an error.
    pub failed: u64,
}

impl Record {
    /// The first cycle's: nothing was ever written.
    pub fn new(blocks: u64) -> Self {
        let blocks = usize::try_from(blocks).unwrap();
        Self::begin_with(vec![None; blocks], 0)
    }

    /// A record of a disk that holds this. No write so far had a number of `offset` or above.
    fn begin_with(initial: Vec<Writer>, offset: u32) -> Self {
        let mut history = History::new(initial.len() as u64, Durability::Acknowledged, Content::Zeroes);
        for (lba, writer) in (0..).zip(&initial) {
            let forced = true;
            let wish = match writer {
                None => Wish::Zero { forced },
                Some(_) => Wish::Write { forced },
            };
            // The number of the command is that of the block.
            let command = history.begin(wish, lba, 1);
            assert_eq!(u64::from(command), lba);
            history.end(command, Ended::Done, &[]);
        }
        Self {
            history,
            initial,
            offset,
            acknowledged: 0,
            failed: 0,
        }
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.history.len()
    }

    /// A host asks; the command's number.
    pub fn begin(&mut self, wish: Wish, lba: u64, blocks: u32) -> u32 {
        self.history.begin(wish, lba, blocks)
    }

    /// What a command's blocks are stamped with.
    pub fn writer(&self, command: u32) -> u32 {
        self.offset + command
    }

    /// Whether so many writes of some of these blocks are under way that one more makes the judgement long.
    pub fn is_busy(&self, lba: u64, blocks: u32) -> bool {
        self.history.writes_under_way(lba, blocks) >= 3
    }

    /// A write or a flush has ended.
    pub fn end(&mut self, command: u32, wish: Wish, is_success: bool) {
        self.history.end(command, ended(is_success), &[]);
        self.failed += u64::from(!is_success);
        self.acknowledged += u64::from(is_success && matches!(wish, Wish::Write { .. } | Wish::Zero { .. }));
    }

    /// A read has ended, with this data if it succeeded.
    pub fn end_read(&mut self, command: u32, lba: u64, data: Option<&[u8]>) {
        let seen: Vec<Content> = data.map_or_else(Vec::new, |data| {
            let blocks = (lba..).zip(data.chunks_exact(BLOCK));
            blocks
                .map(|(lba, block)| self.known_as(lba, recognise(block, lba)))
                .collect()
        });
        self.history.end(command, ended(data.is_some()), &seen);
        self.failed += u64::from(data.is_none());
    }

    /// What was seen on the disk, in the history's own numbers.
    fn known_as(&self, lba: u64, seen: Content) -> Content {
        let Content::Command(writer) = seen else {
            return seen;
        };
        let at = usize::try_from(lba).unwrap();
        if self.initial[at] == Some(writer) {
            return Content::Command(u32::try_from(lba).unwrap());
        }
        match writer.checked_sub(self.offset) {
            Some(command) if u64::from(command) >= self.blocks() => Content::Command(command),
            // Of an earlier cycle, and replaced before this one began.
            _ => Content::Garbage,
        }
    }

    /// The node was killed or has stopped: what was under way has had its effect, or never will.
    pub fn cut(&mut self) {
        self.history.cut();
    }

    /// Judges the cycle, at whose end the whole disk was read to hold `data`, and begins the next.
    pub fn next(self, data: &[u8]) -> Result<Self, Contradiction> {
        self.history.judge()?;
        let blocks = (0..).zip(data.chunks_exact(BLOCK));
        let initial = blocks.map(|(lba, block)| match recognise(block, lba) {
            Content::Zeroes => None,
            Content::Command(writer) => Some(writer),
            Content::Garbage => unreachable!("the judgement finds no command that writes garbage"),
        });
        let initial = initial.collect();
        Ok(Self::begin_with(
            initial,
            self.offset + self.history.next_command(),
        ))
    }
}

const fn ended(is_success: bool) -> Ended {
    if is_success { Ended::Done } else { Ended::Failed }
}

/// What is on a disk of two blocks after `writes`, each of both blocks by one writer, and a cut.
fn after(record: &mut Record, writers: [u32; 2]) -> Vec<u8> {
    let mut data = vec![0; 2 * BLOCK];
    for (lba, (block, writer)) in (0..).zip(data.chunks_exact_mut(BLOCK).zip(writers)) {
        fill(block, writer, lba);
    }
    record.cut();
    let read = record.begin(Wish::Read, 0, 2);
    record.end_read(read, 0, Some(&data));
    data
}

const WRITE: Wish = Wish::Write { forced: false };

#[test]
fn a_record_accepts_the_last_acknowledged_write_and_one_under_way_and_nothing_older() {
    for (seen, good) in [
        ([1, 1], false),
        ([1, 2], false),
        ([2, 2], true),
        ([2, 3], true),
        ([3, 3], true),
    ] {
        let mut record = Record::new(2);
        let writers: Vec<u32> = (0..3)
            .map(|nth| {
                let command = record.begin(WRITE, 0, 2);
                if nth < 2 {
                    record.end(command, WRITE, true);
                }
                record.writer(command)
            })
            .collect();
        let seen = seen.map(|nth| writers[nth - 1]);
        let data = after(&mut record, seen);
        assert_eq!(record.next(&data).is_ok(), good, "{seen:?}");
    }
}

#[test]
fn a_record_remembers_over_cycles() {
    let mut record = Record::new(2);
    let command = record.begin(WRITE, 0, 2);
    let first = record.writer(command);
    record.end(command, WRITE, true);
    let lost = record.begin(WRITE, 0, 2);
    let lost = record.writer(lost);
    let data = after(&mut record, [first, first]);
    let mut record = record.next(&data).unwrap();
    let data = after(&mut record, [first, first]);
    let mut record = record.next(&data).unwrap();
    // What was once not there does not appear later.
    let data = after(&mut record, [first, lost]);
    assert!(record.next(&data).is_err());
}

#[test]
fn a_block_of_two_writes_is_garbage() {
    let mut block = [0; BLOCK];
    let mut other = [0; BLOCK];
    fill(&mut block, 7, 3);
    fill(&mut other, 8, 3);
    assert_eq!(recognise(&block, 3), Content::Command(7));
    block[BLOCK / 2..].copy_from_slice(&other[BLOCK / 2..]);
    assert_eq!(recognise(&block, 3), Content::Garbage);
}
