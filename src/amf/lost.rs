//! Lost blocks: which blocks of a group cannot be given back by any of its drives, and read as an error until they are written.
//!
//! Owns the list that all cores of a node share, and the layout of its copies on the drives. `engine` and the replay of the journal
//! decide what is lost, `group` decides when the list is written.
//!
//! Invariants:
//! - A block is on the list, durably on all live members, before its place is filled with zeroes that nobody ever wrote
//!   (PROTOCOL I1: a read gives what was written, or an error). Only blocks that no combination of the row's strips gives back get there.
//! - It leaves the list only after new data of it is in its place, and the journal forgets that data only once the list without it is
//!   durable. So every list that may be found at a start is right: what is on it is lost, or is in the journal.
//! - Addresses are those of the group, which neither a rebuild nor an expansion changes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nvme::crc32c;

use super::superblock::{HEAD_BYTES, RECORD_BYTES, Uuid};
use crate::drive::block::GroupLba;

/// Blocks of one window of the list, aligned to as many.
const WINDOW_BLOCKS: u64 = 16;

/// Bytes at the start of the page that are not windows.
const HEADER_BYTES: usize = 64;

/// Windows of the list: one page of each member has room for these.
pub const WINDOWS_MAX: usize = (RECORD_BYTES - HEADER_BYTES) / 8;

/// Where the two copies of the list are on each member, in bytes from its start: in the head, far behind the superblocks. The
/// copy of version `v` is the one of number `v % 2`, so that a torn write leaves the version before.
pub const PAGE_OFFSETS: [u64; 2] = [HEAD_BYTES / 2, HEAD_BYTES / 2 + RECORD_BYTES as u64];

/// Starts every page.
const MAGIC: [u8; 8] = *b"BRAIDLB1";

const GROUP_AT: usize = 8;
const VERSION_AT: usize = 24;
const CRC_AT: usize = 32;

/// A run of lost blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LostExtent {
    /// First block.
    pub lba: GroupLba,
    /// Length, at least 1.
    pub blocks: u64,
}

/// Windows in use as they go to the drives: the number of the window above 16 bits, one for each of its blocks.
pub(super) type Windows = Vec<u64>;

/// The lost blocks of one group, shared by all cores.
///
/// Blocks of a row are added and removed by whoever has the row's lock for writing, and looked up by whoever has it at all: the lock
/// carries the order. Windows at the border of two rows are changed by two at a time, which is why each change is one atomic step.
#[derive(Debug)]
pub struct LostMap {
    windows: Box<[AtomicU64]>,
    /// Windows in use: as long as there are none, which is nearly always, nobody looks at them.
    used: AtomicU32,
}

impl Default for LostMap {
    fn default() -> Self {
        Self {
            windows: (0..WINDOWS_MAX).map(|_| AtomicU64::new(0)).collect(),
            used: AtomicU32::new(0),
        }
    }
}

impl LostMap {
    /// The list that these windows say.
    pub(super) fn of(windows: &[u64]) -> Self {
        let map = Self::default();
        for (place, window) in map.windows.iter().zip(windows) {
            place.store(*window, Ordering::Relaxed);
        }
        let used = windows.iter().filter(|window| **window != 0).count();
        map.used.store(
            u32::try_from(used).expect("a list has few windows"),
            Ordering::Release,
        );
        map
    }

    /// Whether nothing is lost.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.used.load(Ordering::Acquire) == 0
    }

    /// Puts blocks on the list. False if it has no room: then some of them may be on it.
    pub fn add(&self, lba: GroupLba, blocks: u32) -> bool {
        windows_of(lba, blocks).all(|(number, mask)| self.add_window(number, mask))
    }

    fn add_window(&self, number: u64, mask: u16) -> bool {
        let wanted = number << 16;
        for place in &self.windows {
            let now = place.load(Ordering::Acquire);
            if now != 0 && now >> 16 == number {
                let set =
                    |window: u64| (window != 0 && window >> 16 == number).then_some(window | u64::from(mask));
                if place
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, set)
                    .is_ok()
                {
                    return true;
                }
            }
        }
        let new = wanted | u64::from(mask);
        let free = self.windows.iter().any(|place| {
            place
                .compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        });
        if free {
            self.used.fetch_add(1, Ordering::AcqRel);
        }
        free
    }

    /// Takes blocks off the list. True if any of them was on it.
    pub fn remove(&self, lba: GroupLba, blocks: u32) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut any = false;
        for (number, mask) in windows_of(lba, blocks) {
            for place in &self.windows {
                any |= self.remove_window(place, number, mask);
            }
        }
        any
    }

    fn remove_window(&self, place: &AtomicU64, number: u64, mask: u16) -> bool {
        let clear = |window: u64| {
            let hit = window != 0 && window >> 16 == number && window & u64::from(mask) != 0;
            let left = window & !u64::from(mask);
            hit.then_some(if left.trailing_zeros() < 16 { left } else { 0 })
        };
        let before = place.fetch_update(Ordering::AcqRel, Ordering::Acquire, clear);
        if before.is_ok_and(|window| clear(window) == Some(0)) {
            self.used.fetch_sub(1, Ordering::AcqRel);
        }
        before.is_ok()
    }

    /// Calls `each` with every lost block among these.
    pub fn for_each_in(&self, lba: GroupLba, blocks: u32, mut each: impl FnMut(GroupLba)) {
        if self.is_empty() || blocks == 0 {
            return;
        }
        let end = lba.0 + u64::from(blocks);
        let (first, last) = (lba.0 / WINDOW_BLOCKS, (end - 1) / WINDOW_BLOCKS);
        for place in &self.windows {
            let window = place.load(Ordering::Acquire);
            if window == 0 || !(first..=last).contains(&(window >> 16)) {
                continue;
            }
            for block in blocks_of(window).filter(|block| (lba.0..end).contains(block)) {
                each(GroupLba(block));
            }
        }
    }

    /// Whether any of these blocks is lost.
    pub fn contains_any(&self, lba: GroupLba, blocks: u32) -> bool {
        let mut any = false;
        self.for_each_in(lba, blocks, |_| any = true);
        any
    }

    /// How many blocks are lost.
    pub fn blocks(&self) -> u64 {
        self.extents().iter().map(|extent| extent.blocks).sum()
    }

    /// What is lost, in order.
    pub fn extents(&self) -> Vec<LostExtent> {
        let mut blocks: Vec<u64> = self
            .windows()
            .iter()
            .flat_map(|window| blocks_of(*window))
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        let mut extents: Vec<LostExtent> = Vec::new();
        for block in blocks {
            match extents.last_mut() {
                Some(last) if last.lba.0 + last.blocks == block => last.blocks += 1,
                Some(_) | None => extents.push(LostExtent {
                    lba: GroupLba(block),
                    blocks: 1,
                }),
            }
        }
        extents
    }

    /// The list as it is now.
    pub(super) fn windows(&self) -> Windows {
        let windows = self.windows.iter().map(|window| window.load(Ordering::Acquire));
        windows.filter(|window| *window != 0).collect()
    }
}

/// The windows that these blocks lie in, with the bits of the blocks.
fn windows_of(lba: GroupLba, blocks: u32) -> impl Iterator<Item = (u64, u16)> {
    let end = lba.0 + u64::from(blocks);
    let numbers = lba.0 / WINDOW_BLOCKS..end.div_ceil(WINDOW_BLOCKS);
    numbers.map(move |number| {
        let start = number * WINDOW_BLOCKS;
        let bits = (start..start + WINDOW_BLOCKS).enumerate();
        let mask = bits
            .filter(|(_, block)| (lba.0..end).contains(block))
            .fold(0, |mask: u16, (bit, _)| mask | 1 << bit);
        (number, mask)
    })
}

fn blocks_of(window: u64) -> impl Iterator<Item = u64> {
    let start = (window >> 16) * WINDOW_BLOCKS;
    (0..WINDOW_BLOCKS)
        .filter(move |bit| window >> bit & 1 == 1)
        .map(move |bit| start + bit)
}

/// Composes the page of a version as it goes to the drives.
pub(super) fn encode_page(group: Uuid, version: u64, windows: &[u64]) -> Box<[u8; RECORD_BYTES]> {
    let mut bytes = Box::new([0; RECORD_BYTES]);
    bytes[..GROUP_AT].copy_from_slice(&MAGIC);
    bytes[GROUP_AT..VERSION_AT].copy_from_slice(&group.0);
    bytes[VERSION_AT..CRC_AT].copy_from_slice(&version.to_le_bytes());
    for (window, place) in windows.iter().zip(bytes[HEADER_BYTES..].chunks_exact_mut(8)) {
        place.copy_from_slice(&window.to_le_bytes());
    }
    let crc = checksum(&bytes[..]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a page says: its version and windows; `None` if it is torn, another group's or was never written.
fn parse_page(group: Uuid, bytes: &[u8]) -> Option<(u64, Windows)> {
    if bytes.len() != RECORD_BYTES || bytes[..GROUP_AT] != MAGIC || bytes[GROUP_AT..VERSION_AT] != group.0 {
        return None;
    }
    let crc = u32::from_le_bytes(bytes[CRC_AT..CRC_AT + 4].try_into().expect("4 bytes"));
    if checksum(bytes) != crc {
        return None;
    }
    let version = u64::from_le_bytes(bytes[VERSION_AT..CRC_AT].try_into().expect("8 bytes"));
    let words = bytes[HEADER_BYTES..].chunks_exact(8);
    let windows = words.map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
    let windows = windows.filter(|window| window.trailing_zeros() < 16).collect();
    Some((version, windows))
}

/// CRC-32C of the page without the four bytes that hold it.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::portable(crc32c::portable(0, &bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}

/// A list with its version: what the drives say, or are to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostList {
    /// Grows by one with every list that is written; 0 if none was.
    pub version: u64,
    pub(super) windows: Windows,
}

impl LostList {
    /// Takes one copy of a member into account: the newest that is whole counts.
    pub(super) fn take(&mut self, group: Uuid, bytes: &[u8]) {
        if let Some((version, windows)) = parse_page(group, bytes)
            && version > self.version
        {
            (self.version, self.windows) = (version, windows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Uuid = Uuid([9; 16]);

    fn extent(lba: u64, blocks: u64) -> LostExtent {
        LostExtent {
            lba: GroupLba(lba),
            blocks,
        }
    }

    #[test]
    fn blocks_come_and_go() {
        let map = LostMap::default();
        assert!(map.is_empty() && !map.remove(GroupLba(0), 100));
        assert!(map.add(GroupLba(14), 5) && map.add(GroupLba(15), 1) && map.add(GroupLba(0), 1));
        assert_eq!(map.extents(), [extent(0, 1), extent(14, 5)]);
        assert_eq!(map.blocks(), 6);
        assert!(map.contains_any(GroupLba(18), 1) && !map.contains_any(GroupLba(19), 100));
        assert!(!map.contains_any(GroupLba(1), 13) && map.contains_any(GroupLba(1), 14));
        assert!(map.remove(GroupLba(15), 2));
        assert!(!map.remove(GroupLba(15), 2), "they are gone");
        assert_eq!(map.extents(), [extent(0, 1), extent(14, 1), extent(17, 2)]);
        assert!(map.remove(GroupLba(0), 32));
        assert!(map.is_empty() && map.extents().is_empty());
    }

    #[test]
    fn a_full_list_says_so_and_takes_what_lies_in_its_windows() {
        let map = LostMap::default();
        for window in 0..WINDOWS_MAX as u64 {
            assert!(map.add(GroupLba(window * WINDOW_BLOCKS), 1));
        }
        assert!(!map.add(GroupLba(1 << 40), 1));
        assert!(map.add(GroupLba(5), 1));
        assert!(map.remove(GroupLba(16), 1) && map.add(GroupLba(1 << 40), 1));
    }

    #[test]
    fn the_newest_whole_page_of_the_own_group_counts() {
        let map = LostMap::default();
        let mut found = LostList::default();
        found.take(GROUP, &[0; RECORD_BYTES]);
        assert_eq!(found, LostList::default());
        assert!(map.add(GroupLba(77), 3));
        let second = encode_page(GROUP, 2, &map.windows());
        assert!(map.add(GroupLba(177), 1));
        let mut third = encode_page(GROUP, 3, &map.windows());
        found.take(GROUP, &encode_page(Uuid([8; 16]), 9, &map.windows())[..]);
        found.take(GROUP, &second[..]);
        third[100] ^= 1;
        found.take(GROUP, &third[..]);
        assert_eq!(found.version, 2);
        third[100] ^= 1;
        found.take(GROUP, &third[..]);
        found.take(GROUP, &second[..]);
        assert_eq!(found.version, 3);
        assert_eq!(
            LostMap::of(&found.windows).extents(),
            [extent(77, 3), extent(177, 1)]
        );
    }
}
