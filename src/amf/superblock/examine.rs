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
    /// A member of a group.
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

fn identity(superblock: &Superblock) -> (Uuid, Uuid, u8) {
    (superblock.record.group, superblock.drive(), superblock.member.0)
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
