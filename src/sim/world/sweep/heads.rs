//! Superblocks after a cut: which of all that may be left of a drive's records does a start tell apart?
//!
//! A start reads a drive's head and tail once and learns of them what [`examine`] says, and nothing else. A record is
//! judged as a whole, so what may be left of each is tried in every way and put in order by what comes of it: what it says,
//! or why it says nothing and whether its bytes look like anything else. What all records of a drive come to is asked from [`examine`]
//! again, and what it finds the same is one.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::amf::group::DriveFacts;
use crate::amf::superblock::{
    Found, HEAD_READ_BYTES, RECORD_BYTES, TAIL_READ_BYTES, examine, parse, signature, tail_start,
};
use crate::sim::drive::{Drive, Undecided};
use crate::sim::node::drive_facts;
use crate::sim::stamp::{BLOCK_BYTES, Block};
use crate::sim::trace::digest_of;

/// Ways of one record that are tried.
const WAYS_MAX: usize = 1 << 14;

/// Blocks of a record.
const RECORD_BLOCKS: u64 = (RECORD_BYTES / BLOCK_BYTES) as u64;

/// What a drive can be found to carry.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Versions of the undecided blocks that lead there.
    pub left: Vec<(u64, usize)>,
    /// The drive, as a start sees it then.
    pub facts: DriveFacts,
    /// Stands for what is found.
    pub digest: u64,
}

/// All that a drive can be found to carry.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    pub heads: Vec<Head>,
    /// There are more ways than were tried.
    pub cut_short: bool,
}

/// Where a start looks for superblocks: blocks of the head, and of the tail.
pub(super) fn regions(drive: &Drive) -> [Range<u64>; 2] {
    let blocks = |bytes: usize| (bytes / BLOCK_BYTES) as u64;
    let tail = tail_start(drive.bytes()).map_or(0, |start| start / BLOCK_BYTES as u64);
    [0..blocks(HEAD_READ_BYTES), tail..tail + blocks(TAIL_READ_BYTES)]
}

/// What is read there, from a drive without anything undecided.
struct Image {
    regions: [Range<u64>; 2],
    bytes: [Vec<u8>; 2],
}

impl Image {
    fn of(drive: &Drive) -> Self {
        let regions = regions(drive);
        let bytes = regions.clone().map(|region| {
            let blocks = u32::try_from(region.end - region.start).expect("a region is short");
            let blocks = drive.read(region.start, blocks);
            blocks.iter().flat_map(|block| *block.bytes()).collect()
        });
        Self { regions, bytes }
    }

    fn set(&mut self, lba: u64, blocks: &[Block]) {
        for (lba, block) in (lba..).zip(blocks) {
            for (region, bytes) in self.regions.iter().zip(&mut self.bytes) {
                if region.contains(&lba) {
                    let at = usize::try_from(lba - region.start).expect("a region is short");
                    bytes[at * BLOCK_BYTES..][..BLOCK_BYTES].copy_from_slice(block.bytes());
                }
            }
        }
    }

    fn found(&self) -> Found {
        examine(Some(&self.bytes[0]), Some(&self.bytes[1]))
    }

    /// The record around this block, as a start sees it.
    fn record(&self, lba: u64) -> (usize, &[u8]) {
        let region = usize::from(!self.regions[0].contains(&lba));
        let first = lba - lba % RECORD_BLOCKS - self.regions[region].start;
        let at = usize::try_from(first).expect("a region is short") * BLOCK_BYTES;
        (at, &self.bytes[region][at..][..RECORD_BYTES])
    }

    /// Everything that a start can learn from the record around this block.
    fn says(&self, lba: u64) -> String {
        let (at, record) = self.record(lba);
        let parsed = parse(record);
        let foreign = parsed.is_err().then(|| {
            let mut alone = vec![0; HEAD_READ_BYTES];
            alone[at..][..RECORD_BYTES].copy_from_slice(record);
            signature(&alone)
        });
        format!("{parsed:?} {foreign:?}")
    }
}

impl Heads {
    /// All that this drive can be found to carry; `base` is the drive with the first version of each block.
    pub(super) fn of(number: u16, base: &Drive, undecided: &[Undecided]) -> Self {
        let mut all = Self::default();
        let mut image = Image::of(base);
        let regions = image.regions.clone();
        let mut records: BTreeMap<u64, Vec<&Undecided>> = BTreeMap::new();
        for block in undecided {
            if regions.iter().any(|region| region.contains(&block.lba)) {
                records.entry(block.lba / RECORD_BLOCKS).or_default().push(block);
            }
        }
        let mut ways = vec![Vec::new()];
        for blocks in records.values() {
            let record = all.ways_of_record(&mut image, blocks);
            let with = |way: &Vec<(u64, usize)>| {
                let way = way.clone();
                record.iter().map(move |more| [&way[..], more].concat())
            };
            ways = ways.iter().flat_map(with).collect();
        }
        let facts = drive_facts(number, base, 512);
        for left in ways {
            for (lba, version) in &left {
                let block = undecided.iter().find(|block| block.lba == *lba);
                image.set(*lba, &block.expect("it came from there").versions[*version]);
            }
            let existing = image.found();
            if all
                .heads
                .iter()
                .any(|head: &Head| head.facts.existing == existing)
            {
                continue;
            }
            let digest = digest_of(format!("{existing:?}").as_bytes());
            let facts = DriveFacts {
                existing,
                ..facts.clone()
            };
            all.heads.push(Head { left, facts, digest });
        }
        all
    }

    /// One way of leaving each thing that this record can say, alone.
    fn ways_of_record(&mut self, image: &mut Image, blocks: &[&Undecided]) -> Vec<Vec<(u64, usize)>> {
        let mut ways = BTreeMap::new();
        let versions: Vec<usize> = blocks.iter().map(|block| block.versions.len()).collect();
        let all = super::count(&versions).unwrap_or(usize::MAX);
        self.cut_short |= all > WAYS_MAX;
        for number in 0..all.min(WAYS_MAX) {
            let way = super::nth(number, &versions);
            for (block, version) in blocks.iter().zip(&way) {
                image.set(block.lba, &block.versions[*version]);
            }
            let left = || {
                blocks
                    .iter()
                    .zip(&way)
                    .map(|(block, version)| (block.lba, *version))
            };
            ways.entry(image.says(blocks[0].lba))
                .or_insert_with(|| left().collect());
        }
        for block in blocks {
            image.set(block.lba, &block.versions[0]);
        }
        ways.into_values().collect()
    }
}
