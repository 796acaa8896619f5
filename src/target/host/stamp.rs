//! What a verifying workload writes into each block, so that a read tells which write it sees.
//!
//! A stamped block says which block it is, which write of which run wrote it, and carries a CRC over all of itself:
//! a block that is stale, misplaced, torn or damaged is told apart from the one that was acknowledged.

use super::random::mix;

/// Bytes of a stamp, at the start of the block; the rest is filled from it.
pub const STAMP_BYTES: usize = 32;

/// What a block says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which block it is.
    pub lba: u64,
    /// Which run wrote it.
    pub seed: u64,
    /// Which write of that run, from 1.
    pub sequence: u64,
}

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It holds no stamp, or a damaged one.
    Damaged,
    /// It is another block's data.
    Misplaced {
        /// That block.
        lba: u64,
    },
    /// Another run wrote it.
    Foreign,
    /// Another write of this run wrote it.
    Stale {
        /// That write.
        sequence: u64,
    },
    /// It holds zeroes and should hold data.
    Zeroes,
    /// It holds data and should hold zeroes.
    NotZeroes,
    /// It could not be read.
    Unreadable,
}

impl Stamp {
    /// Fills a block. Panics if it is shorter than a stamp.
    pub fn fill(&self, block: &mut [u8]) {
        let mut state = mix(self.lba ^ mix(self.seed ^ mix(self.sequence)));
        for word in block[STAMP_BYTES..].chunks_mut(8) {
            state = state
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        block[..8].copy_from_slice(&self.lba.to_le_bytes());
        block[8..16].copy_from_slice(&self.seed.to_le_bytes());
        block[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        block[24..STAMP_BYTES].fill(0);
        let crc = crate::target::crc32c(0, block);
        block[24..28].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the stamp of a block; `None` if it has none or its CRC is wrong. Panics if it is shorter than a stamp.
    pub fn read(block: &[u8]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
        let crc = crate::target::crc32c(0, &block[..24]);
        let crc = crate::target::crc32c(crc, &[0; 8]);
        let crc = crate::target::crc32c(crc, &block[STAMP_BYTES..]);
        (word(24) == u64::from(crc)).then(|| Self {
            lba: word(0),
            seed: word(8),
            sequence: word(16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        lba: 7,
        seed: 8,
        sequence: 9,
    };

    #[test]
    fn a_stamp_is_read_back_from_any_block_size() {
        for bytes in [STAMP_BYTES, 512, 4096, 4099] {
            let mut block = vec![0xff; bytes];
            STAMP.fill(&mut block);
            assert_eq!(Stamp::read(&block), Some(STAMP));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let mut block = vec![0; 512];
        STAMP.fill(&mut block);
        for bit in 0..512 * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(&block), None, "bit {bit}");
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Stamp::read(&[0; 512]), None);
    }

    #[test]
    fn a_block_torn_between_two_writes_is_noticed() {
        let (mut old, mut new) = (vec![0; 4096], vec![0; 4096]);
        STAMP.fill(&mut old);
        Stamp {
            sequence: 10,
            ..STAMP
        }
        .fill(&mut new);
        for cut in (512..4096).step_by(512) {
            let torn = [&new[..cut], &old[cut..]].concat();
            assert_eq!(Stamp::read(&torn), None, "torn at {cut}");
        }
    }
}
