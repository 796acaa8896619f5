//! CRC-32C (Castagnoli), the checksum of NVMe/TCP digests, in portable code.
//!
//! The daemon injects an implementation that uses the processor's instructions; this one serves
//! tests, the simulator and processors without them. Both have the type [`Crc32c`].

/// A running CRC-32C in zlib's convention: start with 0 and feed pieces in order; the value after
/// each piece is the finished checksum of everything so far.
pub type Crc32c = fn(crc: u32, bytes: &[u8]) -> u32;

/// The Castagnoli polynomial 1EDC6F41h with its bits reversed, because the CRC is reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Bytes that one step of the main loop takes.
const STEP_BYTES: usize = 16;

/// `TABLES[k][b]` is the remainder of byte `b` followed by `k` zero bytes. 16 KiB.
static TABLES: [[u32; 256]; STEP_BYTES] = tables();

const fn tables() -> [[u32; 256]; STEP_BYTES] {
    let mut tables = [[0; 256]; STEP_BYTES];
    let mut byte: u32 = 0;
    while byte < 256 {
        let mut remainder = byte;
        let mut bit = 0;
        while bit < 8 {
            let feedback = if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
            remainder = (remainder >> 1) ^ feedback;
            bit += 1;
        }
        tables[0][byte as usize] = remainder;
        byte += 1;
    }
    let mut table = 1;
    while table < STEP_BYTES {
        let mut byte = 0;
        while byte < 256 {
            let shorter = tables[table - 1][byte];
            tables[table][byte] = (shorter >> 8) ^ tables[0][(shorter & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// Continues the CRC-32C `crc` of earlier bytes (0 if there were none) over `bytes`.
///
/// Sixteen table look-ups that do not depend on one another advance it by sixteen bytes.
pub fn portable(crc: u32, bytes: &[u8]) -> u32 {
    let (steps, rest) = bytes.as_chunks::<STEP_BYTES>();
    let mut state = !crc;
    for step in steps {
        let head = state.to_le_bytes();
        let mut next = 0;
        for (position, &byte) in step.iter().enumerate() {
            let mixed = if position < 4 { byte ^ head[position] } else { byte };
            next ^= TABLES[STEP_BYTES - 1 - position][usize::from(mixed)];
        }
        state = next;
    }
    for &byte in rest {
        state = (state >> 8) ^ TABLES[0][usize::from(state.to_le_bytes()[0] ^ byte)];
    }
    !state
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shift register, a bit at a time: the definition.
    fn by_bits(bytes: &[u8]) -> u32 {
        let mut state = !0u32;
        for &byte in bytes {
            state ^= u32::from(byte);
            for _ in 0..8 {
                state = (state >> 1) ^ (if state & 1 == 1 { POLYNOMIAL } else { 0 });
            }
        }
        !state
    }

    /// The test vectors of iSCSI, which uses the same CRC.
    ///
    /// Source: RFC 3720, appendix B.4 (CRC Examples); the first is the usual check value.
    #[test]
    fn known_values() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(portable(0, b"123456789"), 0xe306_9283);
        assert_eq!(portable(0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(portable(0, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(portable(0, &ascending), 0x46dd_794e);
        assert_eq!(portable(0, b""), 0);
    }

    #[test]
    fn every_length_equals_the_definition_and_every_split_agrees() {
        let bytes: Vec<u8> = (0u32..200).map(|i| (i * 167 + 13).to_le_bytes()[0]).collect();
        for length in 0..=bytes.len() {
            assert_eq!(portable(0, &bytes[..length]), by_bits(&bytes[..length]));
        }
        for split in 0..=bytes.len() {
            let (left, right) = bytes.split_at(split);
            assert_eq!(portable(portable(0, left), right), portable(0, &bytes));
        }
    }
}
