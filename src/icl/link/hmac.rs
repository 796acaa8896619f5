//! HMAC-SHA-256, with which nodes prove that they have the array's key, in portable code.
//!
//! A handshake computes four of them, so that speed does not matter. The daemon may inject another implementation of
//! the same type [`HmacSha256`]; this one serves the simulator, tests and a build without further crates.

/// Bytes of a key and of a code.
pub const MAC_BYTES: usize = 32;

/// The authentication code of a message, given in pieces, under a key.
pub type HmacSha256 = fn(key: &[u8; MAC_BYTES], pieces: &[&[u8]]) -> [u8; MAC_BYTES];

const BLOCK_BYTES: usize = 64;

/// Source: FIPS 180-4, section 4.2.2: fractional parts of the cube roots of the first 64 primes.
#[rustfmt::skip]
const ROUNDS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Source: FIPS 180-4, section 5.3.3.
#[rustfmt::skip]
const INITIAL: [u32; 8] = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
];

struct Sha256 {
    state: [u32; 8],
    block: [u8; BLOCK_BYTES],
    /// Bytes of `block` that are filled; fewer than all.
    filled: usize,
    total_bytes: u64,
}

impl Sha256 {
    const fn new() -> Self {
        Self {
            state: INITIAL,
            block: [0; BLOCK_BYTES],
            filled: 0,
            total_bytes: 0,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        for &byte in bytes {
            self.block[self.filled] = byte;
            self.filled += 1;
            if self.filled == BLOCK_BYTES {
                self.compress();
                self.filled = 0;
            }
        }
    }

    /// Source: FIPS 180-4, sections 5.1.1 and 6.2.2.
    fn finish(mut self) -> [u8; MAC_BYTES] {
        let bits = self.total_bytes * 8;
        self.update(&[0x80]);
        while self.filled != BLOCK_BYTES - 8 {
            self.update(&[0]);
        }
        self.update(&bits.to_be_bytes());
        assert_eq!(self.filled, 0, "padding ends a block");
        let mut digest = [0; MAC_BYTES];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }

    fn compress(&mut self) {
        let mut schedule = [0u32; 64];
        for (word, bytes) in schedule.iter_mut().zip(self.block.chunks_exact(4)) {
            *word = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
        }
        for t in 16..64 {
            let (early, late) = (schedule[t - 15], schedule[t - 2]);
            let sigma0 = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
            let sigma1 = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
            schedule[t] = schedule[t - 16]
                .wrapping_add(sigma0)
                .wrapping_add(schedule[t - 7])
                .wrapping_add(sigma1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = self.state;
        for (round, word) in ROUNDS.into_iter().zip(schedule) {
            let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let first = h
                .wrapping_add(sum1)
                .wrapping_add((e & f) ^ (!e & g))
                .wrapping_add(round)
                .wrapping_add(word);
            let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = sum0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(second));
        }
        for (state, word) in self.state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *state = state.wrapping_add(word);
        }
    }
}

/// HMAC-SHA-256 of the pieces, one after another. That they cannot be divided in another way is the caller's concern.
///
/// Source: RFC 2104, section 2, with a key shorter than the block of SHA-256.
pub fn portable(key: &[u8; MAC_BYTES], pieces: &[&[u8]]) -> [u8; MAC_BYTES] {
    let pad = |fill: u8| {
        let mut block = [fill; BLOCK_BYTES];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let mut inner = Sha256::new();
    inner.update(&pad(0x36));
    for piece in pieces {
        inner.update(piece);
    }
    let mut outer = Sha256::new();
    outer.update(&pad(0x5c));
    outer.update(&inner.finish());
    outer.finish()
}

/// Whether two codes are the same, in a time that does not tell where they differ.
pub fn is_same(left: &[u8; MAC_BYTES], right: &[u8; MAC_BYTES]) -> bool {
    let differing = |sum: u8, (left, right): (&u8, &u8)| sum | (left ^ right);
    std::hint::black_box(left.iter().zip(right).fold(0, differing)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Source: FIPS 180-2, appendix B: the digests of "abc" and of the 56 letters; that of nothing is well known.
    #[test]
    fn known_digests() {
        for (message, digest) in [
            (
                "",
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                "abc",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
        ] {
            let mut hash = Sha256::new();
            hash.update(message.as_bytes());
            assert_eq!(hex(&hash.finish()), digest);
        }
    }

    /// Source: RFC 4231, sections 4.2 and 4.3; shorter keys are the same as keys with zeros behind them.
    #[test]
    fn known_codes() {
        let mut key = [0; MAC_BYTES];
        key[..20].fill(0x0b);
        assert_eq!(
            hex(&portable(&key, &[b"Hi ", b"", b"There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        let mut key = [0; MAC_BYTES];
        key[..4].copy_from_slice(b"Jefe");
        assert_eq!(
            hex(&portable(&key, &[b"what do ya want for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn codes_that_differ_anywhere_are_not_the_same() {
        let code = [7; MAC_BYTES];
        assert!(is_same(&code, &code));
        for at in 0..MAC_BYTES {
            let mut other = code;
            other[at] ^= 0x80;
            assert!(!is_same(&code, &other));
        }
    }
}
