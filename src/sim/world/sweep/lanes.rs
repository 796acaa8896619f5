//! Lanes of the journal after a cut: which of all that may be left of one does its scan tell apart?
//!
//! A lane in which `n` blocks are undecided can be left in `2^n` ways, and its scan, which is the real one, looks at
//! them only so: is this block the header of a batch, and if it is, does the payload behind it have the checksum that the header
//! names? So the scan is followed from block to block, and where its answer depends on a block the ways part: of versions that
//! are no header any may be there, each header is a way of its own, and behind each the payload is whole, in one way, or torn,
//! in all others. Ways on which it has learnt the same, and may still learn the same, are one. In the end each thing that can be learnt
//! gets one image, and the scan has to learn just that from it.
//!
//! That a torn payload is seen is what the journal builds on, and no sum of 32 bits sees all of 2^33 of them. How many
//! torn ones of a long payload have the sum of the whole one follows from the sums themselves, which are linear: those are counted, and left out.

use std::collections::{BTreeMap, BTreeSet};

use crate::amf::MemberIndex;
use crate::amf::journal::Batch;
use crate::amf::journal::scan::{Scan, ScanError};
use crate::sim::stamp::Block;

/// Places at which ways of one lane part. Most lanes have a few dozen.
const WAYS_MAX: usize = 20_000;

/// Ways of leaving a payload that are tried one by one.
const TRIED_MAX: usize = 512;

/// All that a scan can find in one lane of one member.
#[derive(Clone, Debug, Default)]
pub(super) struct Lane {
    /// An image of each, with the version of each block.
    pub images: Vec<Image>,
    /// Every header that may be there.
    pub headers: Vec<Batch>,
    /// Torn payloads that have the sum of the whole one.
    pub ties: f64,
    /// There are more ways than were followed.
    pub cut_short: bool,
}

/// What may be left of a lane.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Which version of each block.
    pub versions: Vec<usize>,
}

/// A header that may be there, and the versions of the blocks behind it with which its payload is whole.
#[derive(Clone, Debug)]
struct Header {
    length: usize,
    /// Each has the version of each block of the payload.
    whole: Vec<Vec<usize>>,
}

/// What one version of a block says to a scan.
#[derive(Clone, Debug)]
enum Says {
    /// It is no header.
    Nothing,
    Header(Header),
    /// The scan ends with an error.
    Impossible,
}

/// A payload that is not whole: not all of these blocks have this version.
#[derive(Clone, Debug)]
struct Torn {
    first: usize,
    versions: Vec<usize>,
}

/// What is known of the blocks on one way.
#[derive(Clone, Debug)]
struct Way {
    /// Versions that each block may have.
    may: Vec<Vec<usize>>,
    torn: Vec<Torn>,
    /// The scan, as far as it has come, and what it ended with.
    scan: Scan,
    error: Option<ScanError>,
}

struct Walk<'a> {
    member: MemberIndex,
    lane: u16,
    blocks: &'a [Vec<Block>],
    says: Vec<Vec<Says>>,
    /// Where ways parted, and what was known there.
    parted: BTreeSet<String>,
    /// What scans have learnt in the end, each with versions that lead there.
    ends: BTreeMap<String, Vec<usize>>,
    cut_short: bool,
}

impl Lane {
    /// Follows a scan through a lane of which each block has one of these versions.
    pub(super) fn of(scan: &Scan, member: MemberIndex, lane: u16, blocks: &[Vec<Block>]) -> Self {
        let mut found = Self::default();
        let mut says = Vec::new();
        for (position, versions) in blocks.iter().enumerate() {
            let said = versions.iter().map(|version| {
                let at = u32::try_from(position).expect("a lane is short");
                match scan.header(member, lane, at, version.bytes()) {
                    Ok(None) => match scan.mark_header(lane, at, version.bytes()) {
                        Some(payload) => Says::Header(found.header(payload, &blocks[position + 1..])),
                        None => Says::Nothing,
                    },
                    Ok(Some(batch)) => {
                        let payload = (batch.header.payload_blocks, batch.payload_crc);
                        let header = found.header(payload, &blocks[position + 1..]);
                        found.headers.push(batch);
                        Says::Header(header)
                    }
                    Err(_) => Says::Impossible,
                }
            });
            says.push(said.collect());
        }
        let mut walk = Walk {
            member,
            lane,
            blocks,
            says,
            parted: BTreeSet::new(),
            ends: BTreeMap::new(),
            cut_short: false,
        };
        let may = blocks.iter().map(|versions| (0..versions.len()).collect());
        let way = Way {
            may: may.collect(),
            torn: Vec::new(),
            scan: scan.clone(),
            error: None,
        };
        walk.go_on(0, way);
        found.cut_short |= walk.cut_short;
        for (learnt, versions) in walk.ends {
            let left = blocks.iter().zip(&versions);
            let left = left.flat_map(|(versions, left)| *versions[*left].bytes());
            let bytes: Vec<u8> = left.collect();
            let mut fresh = scan.clone();
            let error = fresh.lane(member, lane, &bytes).err();
            assert_eq!(
                name_of(&fresh, error),
                learnt,
                "a scan learns from an image what it stands for"
            );
            found.images.push(Image { bytes, versions });
        }
        found
    }

    /// What a header means that names the length and the sum of its payload, and how many payloads it cannot tell from a whole one.
    fn header(&mut self, (length, sum): (u32, u32), behind: &[Vec<Block>]) -> Header {
        let length = length as usize;
        let payload = &behind[..length];
        let versions: Vec<usize> = payload.iter().map(Vec::len).collect();
        let mut whole: Vec<Vec<usize>> = Vec::new();
        if let Some(all) = super::count(&versions).filter(|all| *all <= TRIED_MAX) {
            let ways = (0..all).map(|number| super::nth(number, &versions));
            whole.extend(ways.filter(|left| sum_of(payload, left) == sum));
            return Header { length, whole };
        }
        // Too many to be tried: what one writer wrote. Versions are in the order of their writes.
        for version in 0..versions.iter().copied().max().unwrap_or(1) {
            let left = versions.iter().map(|count| version.min(count - 1));
            let left: Vec<usize> = left.collect();
            if sum_of(payload, &left) == sum && !whole.contains(&left) {
                whole.push(left);
            }
        }
        match with_sum(payload, sum) {
            Some(all) => {
                let known = u32::try_from(whole.len()).expect("a block has few versions");
                self.ties += (all - f64::from(known)).max(0.0);
            }
            None => self.cut_short = true,
        }
        Header { length, whole }
    }
}

fn sum_of(payload: &[Vec<Block>], left: &[usize]) -> u32 {
    let left = payload.iter().zip(left);
    left.fold(0, |crc, (versions, left)| {
        nvme::crc32c::portable(crc, versions[*left].bytes())
    })
}

/// In how many ways a payload has this sum. Sums are linear: what changing one block does to the sum does not depend on the others. `None`
/// if there are too many blocks of more than two versions.
fn with_sum(payload: &[Vec<Block>], sum: u32) -> Option<f64> {
    let many: Vec<usize> = (0..payload.len()).filter(|at| payload[*at].len() > 2).collect();
    let ways = many.iter().try_fold(1_usize, |ways, at| {
        Some(ways.checked_mul(payload[*at].len())?).filter(|ways| *ways <= TRIED_MAX)
    })?;
    let old = vec![0; payload.len()];
    let base = sum_of(payload, &old);
    let pairs = (0..payload.len()).filter(|at| payload[*at].len() == 2);
    let changes: Vec<u32> = pairs
        .map(|at| {
            let mut left = old.clone();
            left[at] = 1;
            sum_of(payload, &left) ^ base
        })
        .collect();
    let basis = Basis::of(&changes);
    let free = changes.len() - basis.rank();
    let mut all = 0.0;
    for mut number in 0..ways {
        let mut left = old.clone();
        for at in &many {
            left[*at] = number % payload[*at].len();
            number /= payload[*at].len();
        }
        if basis.spans(sum_of(payload, &left) ^ sum) {
            all += 2.0_f64.powi(i32::try_from(free).expect("a lane is short"));
        }
    }
    Some(all)
}

/// What sums of some words can be, by their highest bits.
struct Basis([u32; 32]);

impl Basis {
    fn of(words: &[u32]) -> Self {
        let mut basis = Self([0; 32]);
        for word in words {
            let rest = basis.reduce(*word);
            if rest != 0 {
                basis.0[rest.ilog2() as usize] = rest;
            }
        }
        basis
    }

    fn reduce(&self, mut word: u32) -> u32 {
        for bit in (0..32).rev() {
            if word >> bit & 1 == 1 {
                word ^= self.0[bit];
            }
        }
        word
    }

    fn rank(&self) -> usize {
        self.0.iter().filter(|word| **word != 0).count()
    }

    fn spans(&self, word: u32) -> bool {
        self.reduce(word) == 0
    }
}

/// Names what a scan has learnt.
fn name_of(scan: &Scan, error: Option<ScanError>) -> String {
    error.map_or_else(|| scan.summary(), |error| error.to_string())
}

impl Walk<'_> {
    /// Follows a way from this block on, in every way in which the scan can go on. Ways on which the same is known, and the same may
    /// still be, are one.
    fn go_on(&mut self, from: usize, mut way: Way) {
        let mut position = from;
        while position < self.says.len() {
            let says_nothing = |version: &usize| matches!(self.says[position][*version], Says::Nothing);
            if !way.may[position].iter().all(says_nothing) {
                way.scan.forget_dead();
                if !self.parted.insert(way.name_at(position)) {
                    return;
                }
                if self.parted.len() > WAYS_MAX {
                    self.cut_short = true;
                    return;
                }
            }
            let may = std::mem::take(&mut way.may[position]);
            let says_nothing = |version: &usize| matches!(self.says[position][*version], Says::Nothing);
            let (silent, telling): (Vec<usize>, Vec<usize>) = may.into_iter().partition(says_nothing);
            for version in telling {
                let mut other = way.clone();
                other.may[position] = vec![version];
                self.follow(position, version, other);
            }
            if silent.is_empty() {
                return;
            }
            way.may[position] = silent;
            position += 1;
        }
        self.end(way);
    }

    /// Goes on behind a version that is a header, or the end of the scan.
    fn follow(&mut self, position: usize, version: usize, mut way: Way) {
        let first = position + 1;
        let header = match &self.says[position][version] {
            Says::Nothing => unreachable!("it tells something"),
            Says::Header(header) => header.clone(),
            Says::Impossible => {
                self.step(position, version, &[], false, &mut way);
                return self.end(way);
            }
        };
        for whole in &header.whole {
            let mut way = way.clone();
            for (at, version) in (first..).zip(whole) {
                way.may[at] = vec![*version];
            }
            if way.is_possible() {
                self.step(position, version, whole, false, &mut way);
                self.go_on(first + header.length, way);
            }
        }
        let any = header.whole.first().cloned();
        let any = any.unwrap_or_else(|| vec![0; header.length]);
        let torn = header.whole.iter().cloned();
        way.torn.extend(torn.map(|versions| Torn { first, versions }));
        if way.is_possible() {
            self.step(position, version, &any, !header.whole.is_empty(), &mut way);
            self.go_on(first, way);
        }
    }

    /// Lets the scan look at a header and its payload; `breaks`: which is whole, and shall not be.
    fn step(&self, position: usize, version: usize, payload: &[usize], breaks: bool, way: &mut Way) {
        let mut rest = self.blocks[position][version].bytes().to_vec();
        for (block, version) in self.blocks[position + 1..].iter().zip(payload) {
            rest.extend(block[*version].bytes());
        }
        if breaks {
            // No sum of 32 bits misses a single one.
            let last = rest.last_mut().expect("there is a block");
            *last ^= 1;
        }
        let at = u32::try_from(position).expect("a lane is short");
        way.error = way.scan.step(self.member, self.lane, at, &rest).err();
    }

    fn end(&mut self, mut way: Way) {
        way.scan.forget_dead();
        let learnt = name_of(&way.scan, way.error);
        if self.ends.contains_key(&learnt) {
            return;
        }
        if let Some(fits) = way.fits(&way.torn, way.may.clone()) {
            self.ends.insert(learnt, fits);
        }
    }
}

impl Way {
    /// Names what is known before this block, and what that leaves to those behind: which of the payloads that reach beyond it may be
    /// torn already, together with all that lie before it.
    fn name_at(&self, position: usize) -> String {
        let ends_at = |torn: &Torn| torn.first + torn.versions.len();
        let (before, across): (Vec<&Torn>, Vec<&Torn>) =
            self.torn.iter().partition(|torn| ends_at(torn) <= position);
        let can = (0..1_u32 << across.len()).map(|set| {
            let mut torn: Vec<Torn> = before.iter().map(|torn| (*torn).clone()).collect();
            for (_, own) in across.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1) {
                torn.push(Torn {
                    first: own.first,
                    versions: own.versions[..position - own.first].to_vec(),
                });
            }
            self.fits(&torn, self.may.clone()).is_some()
        });
        let can: Vec<bool> = can.collect();
        format!("{position} {can:?} {across:?} {}", self.scan.summary())
    }

    fn is_possible(&self) -> bool {
        self.fits(&self.torn, self.may.clone()).is_some()
    }

    /// Versions with which each of these payloads is torn, if there are any: in each of them one block is another.
    fn fits(&self, torn: &[Torn], may: Vec<Vec<usize>>) -> Option<Vec<usize>> {
        let Some((Torn { first, versions }, others)) = torn.split_first() else {
            return Some(may.iter().map(|may| may.first().copied().unwrap_or(0)).collect());
        };
        for (at, whole) in (*first..).zip(versions) {
            let other: Vec<usize> = may[at]
                .iter()
                .copied()
                .filter(|version| version != whole)
                .collect();
            if other.is_empty() {
                continue;
            }
            let is_torn = other.len() == may[at].len();
            let mut narrowed = may.clone();
            narrowed[at] = other;
            if let Some(fits) = self.fits(others, narrowed) {
                return Some(fits);
            }
            if is_torn {
                return None; // Nothing was narrowed, so no other block helps.
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf::RowIndex;
    use crate::amf::expansion::Layout;
    use crate::amf::geometry::{Geometry, Level};
    use crate::amf::journal::{BatchHeader, Entry, JournalLayout, encode};
    use crate::amf::superblock::Uuid;
    use crate::drive::block::{BlockSize, MemberLba};
    use crate::sim::stamp::{BLOCK_BYTES, fill};

    fn scan(lane_blocks: u32) -> Scan {
        let journal = JournalLayout {
            start: MemberLba(0),
            lane_blocks,
            lanes: 1,
            incarnation: 5,
            group: Uuid([1; 16]),
            block: BlockSize::B512,
        };
        let geometry = Geometry::new(Level::Raid5, 6, 8, MemberLba(100), 8, BlockSize::B512).unwrap();
        Scan::new(journal, Layout::fixed(geometry))
    }

    /// Writes a batch into a lane: its blocks get another version.
    fn put(lane: &mut [Vec<Block>], number: u64, position: u32, tail: u64, blocks: u32) {
        let header = BatchHeader {
            group: Uuid([1; 16]),
            incarnation: 5,
            lane: 0,
            batch: number,
            position,
            tail,
            payload_blocks: blocks,
        };
        let entry = Entry::Write {
            members: 6,
            row: RowIndex(2),
            start_blocks: 0,
            blocks,
            seq: number,
            payload_block: 0,
        };
        let mut payload = vec![0; blocks as usize * BLOCK_BYTES];
        for (block, lba) in payload.chunks_mut(BLOCK_BYTES).zip(0..) {
            fill(block, u32::try_from(number).unwrap(), lba);
        }
        let mut bytes = vec![0; BLOCK_BYTES];
        encode(&header, &[entry], nvme::crc32c::portable(0, &payload), &mut bytes);
        bytes.extend(payload);
        for (at, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            lane[position as usize + at].push(Block::new(block));
        }
    }

    /// What the scan itself learns of one image after the other.
    fn one_by_one(scan: &Scan, lane: &[Vec<Block>]) -> (Vec<Scan>, usize) {
        let versions: Vec<usize> = lane.iter().map(Vec::len).collect();
        let all = super::super::count(&versions).unwrap();
        let mut learnt = Vec::new();
        for number in 0..all {
            let left = super::super::nth(number, &versions);
            let bytes = lane
                .iter()
                .zip(left)
                .flat_map(|(block, left)| *block[left].bytes());
            let bytes: Vec<u8> = bytes.collect();
            let mut fresh = scan.clone();
            fresh.lane(MemberIndex(1), 0, &bytes).unwrap();
            if !learnt.contains(&fresh) {
                learnt.push(fresh);
            }
        }
        (learnt, all)
    }

    fn assert_complete(scan: &Scan, lane: &[Vec<Block>]) -> (usize, usize) {
        let (learnt, all) = one_by_one(scan, lane);
        let found = Lane::of(scan, MemberIndex(1), 0, lane);
        assert!(!found.cut_short);
        assert_eq!(found.ties, 0.0);
        let of_images: Vec<Scan> = found
            .images
            .iter()
            .map(|image| {
                let mut fresh = scan.clone();
                fresh.lane(MemberIndex(1), 0, &image.bytes).unwrap();
                fresh
            })
            .collect();
        assert!(learnt.iter().all(|scan| of_images.contains(scan)));
        assert_eq!(learnt.len(), of_images.len());
        (learnt.len(), all)
    }

    #[test]
    fn a_batch_over_old_ones_is_told_apart_as_the_scan_does_it() {
        let scan = scan(16);
        let mut lane = vec![vec![Block::ZERO]; 16];
        for (number, position, blocks) in [(1, 0, 2), (2, 3, 2), (3, 6, 1), (4, 8, 2), (5, 11, 3)] {
            let mut written = vec![Vec::new(); 16];
            put(&mut written, number, position, 1, blocks);
            for (block, new) in lane.iter_mut().zip(written) {
                new.into_iter().for_each(|new| *block = vec![new]);
            }
        }
        // Nothing that is old counts any more, then all of it does.
        for tail in [3, 1] {
            let mut lane = lane.clone();
            put(&mut lane, 6, 0, tail, 7);
            put(&mut lane, 7, 8, tail, 2);
            let (learnt, all) = assert_complete(&scan, &lane);
            assert_eq!(all, 1 << 11);
            assert!(learnt > 6 && learnt < 200, "{learnt}");
        }
        // Batches that came one over the other, not flushed yet.
        let mut twice = lane.clone();
        put(&mut twice, 6, 0, 2, 3);
        put(&mut twice, 7, 2, 2, 2);
        put(&mut twice, 8, 4, 2, 2);
        assert_complete(&scan, &twice);
    }

    #[test]
    fn torn_batches_that_no_sum_tells_apart_are_counted() {
        let scan = scan(64);
        let mut lane = vec![vec![Block::ZERO]; 64];
        put(&mut lane, 1, 4, 1, 40);
        let found = Lane::of(&scan, MemberIndex(1), 0, &lane);
        assert!(!found.cut_short);
        assert_eq!(found.images.len(), 3, "not there, torn and whole");
        // 40 blocks, of which 32 decide the sum, if no less do.
        assert_eq!(found.ties, 255.0);
        let mut short = vec![vec![Block::ZERO]; 64];
        put(&mut short, 1, 4, 1, 12);
        assert_eq!(Lane::of(&scan, MemberIndex(1), 0, &short).ties, 0.0);
    }
}
