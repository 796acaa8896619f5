//! A simulated drive: a medium, a volatile cache in front of it, and commands that end in any order.
//!
//! Owns the bytes and decides what a power cut leaves of them: of each block either what the medium has or any
//! write of it that was not forced or flushed, block by block, also inside one command. Knows no time: whoever
//! drives it says when a command is carried out.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::random::Random;
use super::stamp::{BLOCK_BYTES, Block};
use crate::drive::DriveError;

/// What a drive is asked. Addresses and lengths count blocks of 512 bytes from the drive's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give back blocks.
    Read {
        /// First block.
        lba: u64,
        /// Length.
        blocks: u32,
    },
    /// Take blocks.
    Write {
        /// First block.
        lba: u64,
        /// What to write.
        data: Vec<Block>,
        /// On the medium before the answer.
        fua: bool,
    },
    /// Make everything that was written before durable.
    Flush,
}

/// What a drive does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Answers every command with an error until the next start of the node; then it is back as it was.
    Gone,
    /// Answers one command with an I/O error.
    Error,
    /// Cannot give back the blocks of one read, until they are written again.
    Media,
    /// Answers nothing until the node gives it up; a write may still be carried out.
    Hang,
    /// Answers one write and forgets it.
    LostWrite,
    /// Puts one write at another place.
    Misdirected,
    /// Answers one read with what was there before the last write.
    StaleRead,
}

impl Trouble {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Gone,
        Self::Error,
        Self::Media,
        Self::Hang,
        Self::LostWrite,
        Self::Misdirected,
        Self::StaleRead,
    ];

    /// Its name in a scenario.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Error => "error",
            Self::Media => "media",
            Self::Hang => "hang",
            Self::LostWrite => "lost-write",
            Self::Misdirected => "misdirected",
            Self::StaleRead => "stale-read",
        }
    }

    /// Whether the drive itself says that something is wrong.
    pub const fn is_told(self) -> bool {
        match self {
            Self::Gone | Self::Error | Self::Media | Self::Hang => true,
            Self::LostWrite | Self::Misdirected | Self::StaleRead => false,
        }
    }
}

/// Blocks by which a misdirected write misses its place.
const MISDIRECTED_BLOCKS: u64 = 8;

/// Different blocks of junk on a drive that was used before.
const JUNK_BLOCKS: usize = 16;

/// A command that was submitted and not carried out.
#[derive(Clone, Debug)]
struct Underway {
    command: Command,
    /// Of a Flush: writes up to this one were answered when it came.
    covers: u64,
}

/// One write of a block that the medium does not have yet.
#[derive(Clone, Debug)]
struct Cached {
    write: u64,
    block: Block,
}

/// One simulated drive.
#[derive(Clone, Debug)]
pub struct Drive {
    medium: Vec<Block>,
    /// Per block what was written and not flushed, oldest first.
    cache: BTreeMap<u64, Vec<Cached>>,
    underway: BTreeMap<u64, Underway>,
    /// Numbers writes in the order in which they are carried out.
    writes: u64,
    /// Whether answered writes may be lost.
    is_volatile: bool,
    /// Blocks that a power cut leaves as a whole, old or new.
    atom: usize,
    trouble: Option<Trouble>,
    /// Blocks that cannot be read until they are written.
    bad: BTreeSet<u64>,
    /// What the last write of each block replaced, for stale reads; kept only while one is to come.
    replaced: BTreeMap<u64, Block>,
    watch: Watch,
}

/// What a drive writes as a whole, and of which a power cut may leave one thing or another.
#[derive(Clone, Debug)]
pub struct Undecided {
    /// Its first block.
    pub lba: u64,
    /// What may be found there afterwards, each once: first what the medium has, then each write in order.
    pub versions: Vec<Vec<Block>>,
}

/// Blocks that somebody wants to hear of if what the medium has there is read.
#[derive(Clone, Debug, Default)]
struct Watch {
    /// Those that were not written since.
    blocks: BTreeSet<u64>,
    /// Those of them that were read.
    met: RefCell<BTreeSet<u64>>,
}

impl Drive {
    /// A drive of zeroes. `is_volatile`: it has a write cache that a power cut empties. `atom`: how many blocks it writes as a whole.
    pub fn new(bytes: u64, is_volatile: bool, atom: usize) -> Self {
        assert_eq!(bytes % BLOCK_BYTES as u64, 0, "a drive has whole blocks");
        let blocks = usize::try_from(bytes / BLOCK_BYTES as u64).expect("a simulated drive is small");
        Self {
            medium: vec![Block::ZERO; blocks],
            cache: BTreeMap::new(),
            underway: BTreeMap::new(),
            writes: 0,
            is_volatile,
            atom,
            trouble: None,
            bad: BTreeSet::new(),
            replaced: BTreeMap::new(),
            watch: Watch::default(),
        }
    }

    /// Fills it with what somebody left there who had it before.
    pub fn soil(&mut self, random: &mut Random) {
        let mut junk = || {
            let mut bytes = [0; BLOCK_BYTES];
            bytes
                .iter_mut()
                .for_each(|byte| *byte = random.next().to_le_bytes()[0]);
            Block::new(&bytes)
        };
        // Few, because their bytes are shared; but no two drives have the same, so that no sum of them fits by chance.
        let few: Vec<Block> = (0..JUNK_BLOCKS).map(|_| junk()).collect();
        for block in &mut self.medium {
            *block = few[random.index(few.len())].clone();
        }
    }

    /// Puts these blocks on the medium, for whoever decides what a power cut has left there.
    pub fn set(&mut self, lba: u64, blocks: &[Block]) {
        self.medium[place(lba)..][..blocks.len()].clone_from_slice(blocks);
    }

    /// From now on [`Self::met`] says which of these blocks are read before anything else is written there.
    pub fn watch(&mut self, blocks: impl Iterator<Item = u64>) {
        self.watch.blocks = blocks.collect();
        self.watch.met.take();
    }

    /// The watched blocks that were read before they were written.
    pub fn met(&self) -> BTreeSet<u64> {
        self.watch.met.borrow().clone()
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        (self.medium.len() * BLOCK_BYTES) as u64
    }

    /// Blocks that it writes as a whole.
    pub const fn atom(&self) -> u64 {
        self.atom as u64
    }

    /// What the medium has and is not zero.
    pub fn written(&self) -> impl Iterator<Item = (u64, &Block)> {
        let blocks = (0..).zip(&self.medium);
        blocks.filter(|(_, block)| **block != Block::ZERO)
    }

    /// What is wrong with it from now on.
    pub fn begin(&mut self, trouble: Trouble) {
        self.trouble = Some(trouble);
    }

    /// What is wrong with it.
    pub const fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// Whether there are blocks that it cannot give back.
    pub fn has_unreadable(&self) -> bool {
        !self.bad.is_empty()
    }

    /// Its power comes back: errors are over.
    pub fn recover(&mut self) {
        self.trouble = None;
    }

    /// Takes a command. Panics if the number is in use, or the blocks are beyond the end.
    pub fn submit(&mut self, number: u64, command: Command) {
        if let Some((lba, blocks)) = extent(&command) {
            assert!(
                lba + blocks <= self.medium.len() as u64,
                "nobody asks for blocks beyond the end"
            );
        }
        let covers = self.writes;
        let before = self.underway.insert(number, Underway { command, covers });
        assert!(before.is_none(), "a number names one command");
    }

    /// Carries a command out. What a read gives back is only there for reads.
    ///
    /// Panics if there is no such command.
    pub fn carry_out(&mut self, number: u64) -> Result<Vec<Block>, DriveError> {
        let Underway { command, covers } = self
            .underway
            .remove(&number)
            .expect("a command is carried out once");
        match self.strike(&command) {
            Some(Trouble::Gone | Trouble::Hang) => return Err(DriveError::Gone),
            Some(Trouble::Error) => return Err(DriveError::Io { errno: 5 }),
            Some(Trouble::Media) => {
                let (lba, blocks) = extent(&command).expect("only reads meet this");
                self.bad.extend(lba..lba + blocks);
                return Err(DriveError::Media);
            }
            Some(Trouble::LostWrite) => return Ok(Vec::new()),
            Some(Trouble::StaleRead) => return Ok(self.stale(&command)),
            Some(Trouble::Misdirected) => {
                self.write_elsewhere(&command);
                return Ok(Vec::new());
            }
            None => {}
        }
        match command {
            Command::Read { lba, blocks } => {
                if self.bad.range(lba..lba + u64::from(blocks)).next().is_some() {
                    return Err(DriveError::Media);
                }
                return Ok(self.read(lba, blocks));
            }
            Command::Write { lba, data, fua } => self.write(lba, &data, fua),
            Command::Flush => self.flush(covers),
        }
        Ok(Vec::new())
    }

    /// Carries out what a hanging drive was asked, without anybody being told.
    pub fn carry_out_late(&mut self, number: u64) {
        let Some(Underway { command, .. }) = self.underway.remove(&number) else {
            return;
        };
        if let Command::Write { lba, data, fua } = command {
            self.write(lba, &data, fua);
        }
    }

    /// Forgets a command without any effect.
    pub fn forget(&mut self, number: u64) {
        self.underway.remove(&number);
    }

    /// Whether the drive's trouble strikes this command; most troubles strike once.
    fn strike(&mut self, command: &Command) -> Option<Trouble> {
        let trouble = self.trouble?;
        let strikes = match trouble {
            Trouble::Gone | Trouble::Hang => return Some(trouble),
            Trouble::Error => true,
            Trouble::Media => matches!(command, Command::Read { .. }),
            Trouble::LostWrite | Trouble::Misdirected => matches!(command, Command::Write { fua: false, .. }),
            Trouble::StaleRead => self.is_replaced(command),
        };
        if !strikes {
            return None;
        }
        self.trouble = None;
        Some(trouble)
    }

    fn is_replaced(&self, command: &Command) -> bool {
        let Command::Read { lba, blocks } = *command else {
            return false;
        };
        self.replaced.range(lba..lba + u64::from(blocks)).next().is_some()
    }

    fn stale(&mut self, command: &Command) -> Vec<Block> {
        let Command::Read { lba, blocks } = *command else {
            unreachable!("only reads are stale")
        };
        let replaced = std::mem::take(&mut self.replaced);
        let now = self.read(lba, blocks).into_iter();
        now.zip(lba..)
            .map(|(block, at)| replaced.get(&at).cloned().unwrap_or(block))
            .collect()
    }

    fn write_elsewhere(&mut self, command: &Command) {
        let Command::Write { lba, data, fua } = command else {
            unreachable!("only writes miss their place")
        };
        let end = self.medium.len() as u64;
        let there = lba + MISDIRECTED_BLOCKS;
        if there + data.len() as u64 <= end {
            self.write(there, data, *fua);
        }
    }

    /// What the drive would answer now, without a command: for starts, which read before anything else runs.
    pub fn read(&self, lba: u64, blocks: u32) -> Vec<Block> {
        let range = lba..lba + u64::from(blocks);
        let met = self.watch.blocks.range(range.clone());
        self.watch.met.borrow_mut().extend(met);
        range.map(|at| self.now(at)).collect()
    }

    fn now(&self, lba: u64) -> Block {
        let cached = self.cache.get(&lba).and_then(|versions| versions.last());
        cached.map_or_else(|| self.medium[place(lba)].clone(), |cached| cached.block.clone())
    }

    fn write(&mut self, lba: u64, data: &[Block], fua: bool) {
        self.writes += 1;
        for (block, at) in data.iter().zip(lba..) {
            self.bad.remove(&at);
            self.watch.blocks.remove(&at);
            if self.trouble == Some(Trouble::StaleRead) {
                self.replaced.insert(at, self.now(at));
            }
            if fua || !self.is_volatile {
                self.cache.remove(&at);
                self.medium[place(at)] = block.clone();
            } else {
                self.cache.entry(at).or_default().push(Cached {
                    write: self.writes,
                    block: block.clone(),
                });
            }
        }
    }

    fn flush(&mut self, covers: u64) {
        let medium = &mut self.medium;
        self.cache.retain(|&lba, versions| {
            if let Some(last) = versions.iter().rposition(|version| version.write <= covers) {
                medium[place(lba)] = versions[last].block.clone();
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
    }

    /// The blocks of which a power cut at this moment could leave one thing or another.
    pub fn undecided(&self) -> Vec<Undecided> {
        let mut versions: BTreeMap<u64, Vec<Vec<Block>>> = BTreeMap::new();
        let atom = self.atom as u64;
        for &lba in self.cache.keys().filter(|lba| lba.is_multiple_of(atom)) {
            let blocks: Vec<&Vec<Cached>> = (lba..lba + atom).filter_map(|at| self.cache.get(&at)).collect();
            let writes = (0..blocks[0].len()).map(|write| {
                let parts = blocks.iter().map(|block| block[write].block.clone());
                parts.collect()
            });
            versions.entry(lba).or_default().extend(writes);
        }
        for Underway { command, .. } in self.underway.values() {
            if let Command::Write { lba, data, .. } = command {
                for (blocks, at) in data.chunks(self.atom).zip((*lba..).step_by(self.atom)) {
                    versions.entry(at).or_default().push(blocks.to_vec());
                }
            }
        }
        let undecided = versions.into_iter().filter_map(|(lba, mut versions)| {
            versions.insert(0, self.medium[place(lba)..][..self.atom].to_vec());
            let mut different: Vec<Vec<Block>> = Vec::new();
            for version in versions {
                if !different.contains(&version) {
                    different.push(version);
                }
            }
            let versions = different;
            (versions.len() > 1).then_some(Undecided { lba, versions })
        });
        undecided.collect()
    }

    /// Loses its power with everything that is under way; `choose` says which version of a block is left.
    pub fn cut_with(&mut self, mut choose: impl FnMut(&Undecided) -> usize) {
        for undecided in self.undecided() {
            let version = choose(&undecided);
            self.medium[place(undecided.lba)..][..self.atom].clone_from_slice(&undecided.versions[version]);
        }
        self.cache.clear();
        self.underway.clear();
        self.replaced.clear();
    }

    /// Loses its power. What is left is nothing of the cache, all of it, or by the block, as drives do.
    pub fn cut(&mut self, random: &mut Random) {
        let manner = random.below(4);
        self.cut_with(|undecided| match manner {
            0 => 0,
            1 => undecided.versions.len() - 1,
            _ => random.index(undecided.versions.len()),
        });
    }
}

fn place(lba: u64) -> usize {
    usize::try_from(lba).expect("a simulated drive is small")
}

fn extent(command: &Command) -> Option<(u64, u64)> {
    match command {
        Command::Read { lba, blocks } => Some((*lba, u64::from(*blocks))),
        Command::Write { lba, data, .. } => Some((*lba, data.len() as u64)),
        Command::Flush => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> Block {
        Block::new(&[byte; BLOCK_BYTES])
    }

    fn write(drive: &mut Drive, lba: u64, byte: u8, fua: bool) {
        let data = vec![block(byte)];
        drive.submit(1, Command::Write { lba, data, fua });
        assert_eq!(drive.carry_out(1), Ok(Vec::new()));
    }

    fn versions(drive: &Drive) -> Vec<(u64, Vec<u8>)> {
        let first = |blocks: &Vec<Block>| blocks[0].bytes()[0];
        let undecided = drive.undecided().into_iter();
        undecided
            .map(|at| (at.lba, at.versions.iter().map(first).collect()))
            .collect()
    }

    #[test]
    fn a_cut_may_keep_any_version_that_was_not_flushed() {
        let mut drive = Drive::new(8 * 512, true, 1);
        write(&mut drive, 2, 1, false);
        write(&mut drive, 2, 2, false);
        drive.submit(9, Command::Flush);
        write(&mut drive, 2, 3, false);
        assert_eq!(versions(&drive), [(2, vec![0, 1, 2, 3])]);
        assert_eq!(drive.carry_out(9), Ok(Vec::new()));
        assert_eq!(
            versions(&drive),
            [(2, vec![2, 3])],
            "what was answered before the flush came"
        );
        drive.cut_with(|_| 1);
        assert_eq!(drive.read(2, 1), [block(3)]);
        assert!(drive.undecided().is_empty());
    }

    #[test]
    fn a_forced_write_replaces_what_was_cached() {
        let mut drive = Drive::new(8 * 512, true, 1);
        write(&mut drive, 2, 1, false);
        write(&mut drive, 2, 2, true);
        assert!(drive.undecided().is_empty());
        drive.cut(&mut Random::new(1, 1));
        assert_eq!(drive.read(2, 1), [block(2)]);
    }

    #[test]
    fn a_write_under_way_is_torn_block_by_block_even_if_forced() {
        let mut drive = Drive::new(8 * 512, false, 1);
        let data = vec![block(1), block(2)];
        drive.submit(
            5,
            Command::Write {
                lba: 3,
                data,
                fua: true,
            },
        );
        assert_eq!(drive.read(3, 2), [block(0), block(0)], "nothing happened yet");
        assert_eq!(versions(&drive), [(3, vec![0, 1]), (4, vec![0, 2])]);
        drive.cut_with(|undecided| usize::from(undecided.lba == 4));
        assert_eq!(drive.read(3, 2), [block(0), block(2)]);
    }

    #[test]
    fn troubles_strike_as_they_are_named() {
        let mut drive = Drive::new(32 * 512, false, 1);
        write(&mut drive, 1, 1, false);
        drive.begin(Trouble::StaleRead);
        write(&mut drive, 1, 2, false);
        drive.submit(2, Command::Read { lba: 1, blocks: 1 });
        assert_eq!(drive.carry_out(2), Ok(vec![block(1)]));
        assert_eq!(drive.read(1, 1), [block(2)]);
        drive.begin(Trouble::LostWrite);
        write(&mut drive, 1, 3, false);
        assert_eq!(drive.read(1, 1), [block(2)]);
        drive.begin(Trouble::Misdirected);
        write(&mut drive, 1, 4, false);
        assert_eq!(
            (drive.read(1, 1), drive.read(9, 1)),
            (vec![block(2)], vec![block(4)])
        );
        for (trouble, error) in [
            (Trouble::Error, DriveError::Io { errno: 5 }),
            (Trouble::Media, DriveError::Media),
            (Trouble::Gone, DriveError::Gone),
        ] {
            drive.begin(trouble);
            drive.submit(2, Command::Read { lba: 1, blocks: 1 });
            assert_eq!(drive.carry_out(2), Err(error));
            assert_eq!(drive.trouble().is_some(), trouble == Trouble::Gone);
            drive.submit(2, Command::Read { lba: 1, blocks: 1 });
            let again = drive.carry_out(2).err();
            assert_eq!(again.is_some(), trouble != Trouble::Error, "{again:?}");
            drive.recover();
            write(&mut drive, 1, 5, false);
            drive.submit(2, Command::Read { lba: 1, blocks: 1 });
            assert_eq!(drive.carry_out(2), Ok(vec![block(5)]));
        }
    }

    #[test]
    fn a_watched_block_is_met_if_it_is_read_before_it_is_written() {
        let mut drive = Drive::new(8 * 512, true, 1);
        drive.set(1, &[block(1), block(2)]);
        drive.watch(1..4);
        assert_eq!(drive.read(0, 2), [block(0), block(1)]);
        write(&mut drive, 2, 3, false);
        write(&mut drive, 3, 3, true);
        assert_eq!(drive.read(1, 3), [block(1), block(3), block(3)]);
        assert_eq!(drive.met(), BTreeSet::from([1]));
        drive.watch(2..3);
        assert!(drive.met().is_empty());
    }

    #[test]
    fn a_hanging_drive_may_still_write() {
        let mut drive = Drive::new(8 * 512, false, 1);
        drive.begin(Trouble::Hang);
        let data = vec![block(7)];
        drive.submit(
            1,
            Command::Write {
                lba: 0,
                data,
                fua: false,
            },
        );
        drive.carry_out_late(1);
        drive.carry_out_late(1);
        assert_eq!(drive.read(0, 1), [block(7)]);
    }
}
