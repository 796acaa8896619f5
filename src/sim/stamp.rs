//! What simulated hosts write: blocks that say which command wrote them, and where.

use std::cell::Cell;
use std::rc::Rc;

use super::random::mix;
use super::trace::digest_of;

/// Bytes of a block: the smallest there is, so that even tiny strips have several.
pub const BLOCK_BYTES: usize = 512;

/// One block of a drive or buffer. Copies share their bytes, so that a whole array is cheap to copy.
#[derive(Clone, Debug, Default)]
pub struct Block(Option<Rc<Shared>>);

#[derive(Debug)]
struct Shared {
    bytes: [u8; BLOCK_BYTES],
    /// What stands for the bytes, once somebody has asked.
    digest: Cell<Option<u64>>,
}

static ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

impl Block {
    /// A block of zeroes.
    pub const ZERO: Self = Self(None);

    /// A block with these bytes. Panics if they are not as many as a block has.
    pub fn new(bytes: &[u8]) -> Self {
        if bytes == ZEROES {
            return Self::ZERO;
        }
        let bytes: [u8; BLOCK_BYTES] = bytes.try_into().expect("a block has 512 bytes");
        let digest = Cell::new(None);
        Self(Some(Rc::new(Shared { bytes, digest })))
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        self.0.as_deref().map_or(&ZEROES, |shared| &shared.bytes)
    }

    /// A number that stands for its bytes; 0 for zeroes.
    pub fn digest(&self) -> u64 {
        let Some(shared) = &self.0 else { return 0 };
        let digest = shared.digest.get().unwrap_or_else(|| digest_of(&shared.bytes));
        shared.digest.set(Some(digest));
        digest
    }
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(own), Some(other)) => Rc::ptr_eq(own, other) || own.bytes == other.bytes,
            (None, None) => true,
            // What is all zero is never kept.
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl Eq for Block {}

/// What a block of a namespace holds, as a host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Zeroes: never written, or zeroed.
    Zeroes,
    /// What this command wrote at this block.
    Command(u32),
    /// Neither: torn, mixed, another block's, or what was on the drive before.
    Garbage,
}

/// Fills `bytes`, a block of the namespace, with what command `number` writes at block `lba`: its number, the place, and bytes that
/// follow from both, so that no sum of other blocks looks like it.
pub fn fill(bytes: &mut [u8], number: u32, lba: u64) {
    assert!(
        bytes.len().is_multiple_of(BLOCK_BYTES),
        "a block is filled as a whole"
    );
    assert!(lba < 1 << 32, "a simulated namespace is small");
    let name = u64::from(number) << 32 | lba;
    let words = bytes.chunks_exact_mut(8);
    for (word, salt) in words.zip(0..) {
        let value = if salt == 0 {
            !name
        } else {
            mix(name ^ (salt << 54))
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Recognises what a block of a namespace holds.
pub fn recognise(bytes: &[u8], lba: u64) -> Content {
    assert!(
        bytes.len().is_multiple_of(BLOCK_BYTES),
        "a block is judged as a whole"
    );
    if bytes.chunks(BLOCK_BYTES).all(|part| part == ZEROES) {
        return Content::Zeroes;
    }
    let head: [u8; 8] = bytes[..8].try_into().expect("a block is longer than a word");
    let name = !u64::from_le_bytes(head);
    let number = u32::try_from(name >> 32).expect("the upper half of 64 bits is 32 bits");
    let mut wanted = vec![0; bytes.len()];
    fill(&mut wanted, number, lba);
    if bytes == wanted {
        Content::Command(number)
    } else {
        Content::Garbage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_recognised_at_its_own_place_only() {
        let mut bytes = [0; BLOCK_BYTES];
        assert_eq!(recognise(&bytes, 5), Content::Zeroes);
        fill(&mut bytes, 77, 5);
        assert_eq!(recognise(&bytes, 5), Content::Command(77));
        assert_eq!(recognise(&bytes, 6), Content::Garbage);
        bytes[300] ^= 1;
        assert_eq!(recognise(&bytes, 5), Content::Garbage);
    }

    #[test]
    fn sums_of_stamps_are_no_stamps() {
        let mut sum = [0; BLOCK_BYTES];
        for number in 1..4 {
            let mut bytes = [0; BLOCK_BYTES];
            fill(&mut bytes, number, 9);
            sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte);
        }
        assert_eq!(recognise(&sum, 9), Content::Garbage);
    }
}
