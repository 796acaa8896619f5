//! What is on a drive: nothing, something foreign, or the superblock of a group.

use super::codec::{MAGIC, ParseError, parse};
use super::{COPIES, RECORD_BYTES, Superblock, Uuid};

/// Bytes to read at the start of a drive for [`examine`].
pub const HEAD_READ_BYTES: usize = 16384;

/// Bytes to read from [`super::tail_start`] on for [`examine`].
pub const TAIL_READ_BYTES: usize = 12288;

/// Whose data a drive seems to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign(pub &'static str);

/// A drive's best record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The newest good copy.
    pub superblock: Superblock,
    /// The newest record is in both of its places, in the head and in the tail.
    pub whole: bool,
    /// Bit `i` is set when copy `i` (head 0, head 1, tail 0, tail 1) is not a good copy of this group.
    pub damaged: u8,
}

/// What was found on a drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Zeros where superblocks and other programs' signatures would be.
    Blank,
    /// Data of something else.
    Foreign(Foreign),
    /// A Braid drive without a single good copy; why the best one is not.
    Damaged(ParseError),
    /// Good copies of two groups, or of two drives.
    Mixed {
        /// Groups of two of the copies.
        groups: [Uuid; 2],
    },
    /// A member or spare of a group.
    Braid(Box<Scan>),
    /// Neither head nor tail could be read.
    Unreadable,
}

/// Judges a drive by its first [`HEAD_READ_BYTES`] and the first [`TAIL_READ_BYTES`] of its tail region.
///
/// `None`, or fewer bytes than that, stands for a region that could not be read.
pub fn examine(head: Option<&[u8]>, tail: Option<&[u8]>) -> Found {
    let head = head.filter(|bytes| bytes.len() >= HEAD_READ_BYTES);
    let tail = tail.filter(|bytes| bytes.len() >= TAIL_READ_BYTES);
    if head.is_none() && tail.is_none() {
        return Found::Unreadable;
    }
    let copies: [Result<Superblock, ParseError>; COPIES] =
        [copy(head, 1), copy(head, 2), copy(tail, 1), copy(tail, 2)];
    if let Some(found) = best(&copies) {
        return found;
    }
    let braid = copies.iter().filter_map(|copy| copy.as_ref().err());
    if let Some(error) = braid
        .clone()
        .find(|error| !matches!(error, ParseError::Magic | ParseError::Length(_)))
    {
        return Found::Damaged(*error);
    }
    let Some(head) = head else {
        return Found::Unreadable;
    };
    match signature(head) {
        Some(foreign) => Found::Foreign(foreign),
        None => Found::Blank,
    }
}

fn copy(region: Option<&[u8]>, record: usize) -> Result<Superblock, ParseError> {
    region.map_or(Err(ParseError::Length(0)), |bytes| {
        parse(&bytes[record * RECORD_BYTES..][..RECORD_BYTES])
    })
}

/// The newest good copy; the head's if head and tail have the same generation, because it is written first.
fn best(copies: &[Result<Superblock, ParseError>; COPIES]) -> Option<Found> {
    let good = || copies.iter().flatten();
    let first = good().next()?;
    if let Some(other) = good().find(|other| identity(other) != identity(first)) {
        return Some(Found::Mixed {
            groups: [first.record.group, other.record.group],
        });
    }
    let newest = good().reduce(|best, next| {
        if next.record.generation > best.record.generation {
            next
        } else {
            best
        }
    })?;
    let damaged = copies
        .iter()
        .enumerate()
        .filter(|(_, copy)| copy.is_err())
        .fold(0, |mask, (at, _)| mask | 1 << at);
    let whole = good().filter(|copy| copy.record == newest.record).count() >= 2;
    Some(Found::Braid(Box::new(Scan {
        superblock: newest.clone(),
        whole,
        damaged,
    })))
}

/// A drive stays the same when it turns from a spare into a member.
fn identity(superblock: &Superblock) -> (Uuid, Uuid) {
    (superblock.record.group, superblock.drive())
}

/// Signature of one kind of content: name, offset in bytes, bytes.
type Signature = (&'static str, usize, &'static [u8]);

/// Where other programs sign, within the first 16 KiB. The most telling ones come first. The list only makes
/// the sentence better: a drive with any byte set here counts as foreign.
const SIGNATURES: [Signature; 13] = [
    ("a Linux software RAID (md)", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a Linux software RAID (md)", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("an encrypted volume (LUKS)", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an XFS file system", 0, b"XFSB"),
    ("an ext2/3/4 file system", 1080, &[0x53, 0xef]),
    ("an NTFS file system", 3, b"NTFS    "),
    ("a swap area", 4086, b"SWAPSPACE2"),
    ("a partition table (GPT)", 512, b"EFI PART"),
    ("a partition table (GPT)", 4096, b"EFI PART"),
    ("a partition table or boot sector", 510, &[0x55, 0xaa]),
    ("parts of a Braid superblock", 4096, &MAGIC),
];

/// Whose data the first bytes of a drive are; `None` if they are all zero.
pub fn signature(head: &[u8]) -> Option<Foreign> {
    let signed = |&&(_, at, bytes): &&Signature| head.get(at..at + bytes.len()) == Some(bytes);
    if let Some((name, _, _)) = SIGNATURES.iter().find(signed) {
        return Some(Foreign(name));
    }
    head.iter()
        .any(|&byte| byte != 0)
        .then_some(Foreign("data of an unknown kind"))
}

#[cfg(test)]
mod tests {
    use super::super::Carrier;
    use super::super::encode;
    use super::super::samples::small;
    use super::*;
    use crate::amf::MemberIndex;

    fn at_generation(generation: u64) -> Superblock {
        let mut superblock = small();
        superblock.record.generation = generation;
        superblock.record.previous = generation - 1;
        for member in &mut superblock.record.members {
            member.current_at = generation;
        }
        superblock
    }

    /// Head and tail of a drive with these copies; `None` leaves zeros.
    fn drive(copies: [Option<&Superblock>; COPIES]) -> [Vec<u8>; 2] {
        let mut regions = [vec![0; HEAD_READ_BYTES], vec![0; TAIL_READ_BYTES]];
        for (at, superblock) in copies.into_iter().enumerate() {
            if let Some(superblock) = superblock {
                let slot = &mut regions[at / 2][(1 + at % 2) * RECORD_BYTES..][..RECORD_BYTES];
                slot.copy_from_slice(&encode(superblock)[..]);
            }
        }
        regions
    }

    fn scan(found: Found) -> Scan {
        let Found::Braid(scan) = found else {
            panic!("{found:?}")
        };
        *scan
    }

    #[test]
    fn the_newest_good_copy_counts_wherever_it_is() {
        let (old, new) = (at_generation(8), at_generation(9));
        for place in 0..COPIES {
            let mut copies = [Some(&old); COPIES];
            copies[place] = Some(&new);
            let [head, tail] = drive(copies);
            let scan = scan(examine(Some(&head), Some(&tail)));
            assert_eq!(
                (scan.superblock, scan.damaged, scan.whole),
                (new.clone(), 0, false)
            );
        }
        let [head, tail] = drive([Some(&old), Some(&new), Some(&old), Some(&new)]);
        assert!(scan(examine(Some(&head), Some(&tail))).whole);
    }

    #[test]
    fn damaged_copies_and_unreadable_regions_are_counted() {
        let good = small();
        let [mut head, tail] = drive([Some(&good); COPIES]);
        head[5000] ^= 1;
        assert_eq!(scan(examine(Some(&head), Some(&tail))).damaged, 0b0001);
        assert_eq!(scan(examine(None, Some(&tail))).damaged, 0b0011);
        assert_eq!(scan(examine(Some(&head), None)).damaged, 0b1101);
        assert_eq!(scan(examine(Some(&head), Some(&tail[..100]))).damaged, 0b1101);
        assert_eq!(examine(None, None), Found::Unreadable);
        assert_eq!(examine(Some(&head[..8192]), None), Found::Unreadable);
    }

    #[test]
    fn no_good_copy_is_damaged_and_not_blank() {
        let good = small();
        let [mut head, _] = drive([Some(&good), None, None, None]);
        head[5000] ^= 1;
        let blank = vec![0; TAIL_READ_BYTES];
        assert_eq!(
            examine(Some(&head), Some(&blank)),
            Found::Damaged(ParseError::Checksum)
        );
        assert_eq!(
            examine(Some(&vec![0; HEAD_READ_BYTES]), Some(&blank)),
            Found::Blank
        );
        assert_eq!(
            examine(None, Some(&blank)),
            Found::Unreadable,
            "a head that cannot be read may hold anything"
        );
    }

    #[test]
    fn copies_of_two_groups_or_two_drives_are_mixed() {
        let good = small();
        let mut other_group = small();
        other_group.record.group = Uuid([7; 16]);
        let mut other_drive = small();
        other_drive.carrier = Carrier::Member(MemberIndex(2));
        for other in [other_group, other_drive] {
            let [head, tail] = drive([Some(&good), Some(&good), Some(&good), Some(&other)]);
            let groups = [good.record.group, other.record.group];
            assert_eq!(examine(Some(&head), Some(&tail)), Found::Mixed { groups });
        }
    }

    #[test]
    fn other_programs_are_known_by_their_signatures() {
        for (name, at, bytes) in SIGNATURES {
            let mut head = vec![0; HEAD_READ_BYTES];
            head[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(signature(&head), Some(Foreign(name)));
        }
        let mut head = vec![0; HEAD_READ_BYTES];
        assert_eq!(signature(&head), None);
        head[HEAD_READ_BYTES - 1] = 1;
        assert_eq!(
            examine(Some(&head), None),
            Found::Foreign(Foreign("data of an unknown kind"))
        );
    }

    #[test]
    fn random_regions_never_panic() {
        let mut state = 7_u64;
        let mut bytes = vec![0; HEAD_READ_BYTES];
        for length in [0, 1, 4096, TAIL_READ_BYTES - 1, TAIL_READ_BYTES, HEAD_READ_BYTES] {
            for _ in 0..50 {
                for byte in &mut bytes {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = state.to_be_bytes()[0];
                }
                for record in 0..3 {
                    bytes[record * RECORD_BYTES..][..8].copy_from_slice(&MAGIC);
                }
                let found = examine(Some(&bytes), Some(&bytes[..length]));
                assert_eq!(found, Found::Damaged(ParseError::Checksum));
            }
        }
    }
}
