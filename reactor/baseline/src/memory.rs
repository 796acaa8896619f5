//! What memory itself can do: reading, copying, and writing past the caches, with no other work.

use std::ops::{Deref, DerefMut};

/// Buffers start at multiples of a huge page.
const ALIGNMENT: usize = 2 << 20;

/// Bytes with a pattern in them, aligned to 2 MiB and on transparent huge pages if the kernel has some.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Allocates and fills `length` bytes.
    pub fn new(length: usize) -> Self {
        let mut bytes = vec![0; length + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        let place = bytes[start..].as_mut_ptr().cast();
        // SAFETY: the range belongs to `bytes`; the advice changes page sizes, not contents. It may be refused, and then
        // ordinary pages do.
        let _ = unsafe { libc::madvise(place, length, libc::MADV_HUGEPAGE) };
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for word in bytes[start..start + length].chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
        }
        Self { bytes, start, length }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

/// Reads all bytes with the widest loads of this CPU, eight of them in flight. Gives a sum, so that nothing is left out.
pub fn read(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            return unsafe { x86::read_avx512(bytes) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            return unsafe { x86::read_avx2(bytes) };
        }
    }
    read_words(bytes)
}

/// Copies, by the C library's means.
pub fn copy(target: &mut [u8], source: &[u8]) {
    target.copy_from_slice(source);
}

/// Reads each source and then writes each target past the caches: the traffic of a parity computation without the
/// computation, in the order that memory likes best.
pub fn read_all_write(targets: &mut [&mut [u8]], sources: &[&[u8]]) -> u64 {
    let sum = sources
        .iter()
        .fold(0_u64, |sum, source| sum.wrapping_add(read(source)));
    for target in targets {
        write_past_caches(target, sum);
    }
    sum
}

fn write_past_caches(target: &mut [u8], pattern: u64) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        unsafe { x86::stream(target, pattern) };
        return;
    }
    target.fill(pattern.to_le_bytes()[0]);
}

/// Sums the words of `bytes`; what is left after the last word is added byte by byte.
#[inline(always)]
fn read_words(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    words
        .chain(rest.iter().copied().map(u64::from))
        .fold(0, u64::wrapping_add)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm_sfence, _mm256_add_epi64, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_storeu_si256, _mm256_stream_si256, _mm512_add_epi64, _mm512_loadu_si512,
        _mm512_reduce_add_epi64, _mm512_setzero_si512,
    };

    use super::read_words;

    /// Vectors that are summed side by side.
    const LANES: usize = 8;

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512(bytes: &[u8]) -> u64 {
        let (rounds, rest) = bytes.as_chunks::<{ 64 * LANES }>();
        let mut sums: [__m512i; LANES] = [_mm512_setzero_si512(); LANES];
        for round in rounds {
            for (sum, vector) in sums.iter_mut().zip(round.as_chunks::<64>().0) {
                // SAFETY: the vector's 64 bytes are borrowed, and the load asks for no alignment.
                let vector = unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) };
                *sum = _mm512_add_epi64(*sum, vector);
            }
        }
        let whole = sums
            .into_iter()
            .reduce(|a, b| _mm512_add_epi64(a, b))
            .expect("eight sums");
        read_words(rest).wrapping_add(_mm512_reduce_add_epi64(whole).cast_unsigned())
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(bytes: &[u8]) -> u64 {
        let (rounds, rest) = bytes.as_chunks::<{ 32 * LANES }>();
        let mut sums: [__m256i; LANES] = [_mm256_setzero_si256(); LANES];
        for round in rounds {
            for (sum, vector) in sums.iter_mut().zip(round.as_chunks::<32>().0) {
                // SAFETY: the vector's 32 bytes are borrowed, and the load asks for no alignment.
                let vector = unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) };
                *sum = _mm256_add_epi64(*sum, vector);
            }
        }
        let whole = sums
            .into_iter()
            .reduce(|a, b| _mm256_add_epi64(a, b))
            .expect("eight sums");
        let mut words = [0_u64; 4];
        // SAFETY: the four words are ours, and the store asks for no alignment.
        unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), whole) };
        words.into_iter().fold(read_words(rest), u64::wrapping_add)
    }

    /// Fills `target` with a pattern past the caches. Panics unless it is aligned to a vector.
    #[target_feature(enable = "avx2")]
    pub(super) fn stream(target: &mut [u8], pattern: u64) {
        assert!(
            target.as_ptr().addr().is_multiple_of(32),
            "streaming stores are aligned"
        );
        let vector = _mm256_set1_epi64x(pattern.cast_signed());
        let (vectors, rest) = target.as_chunks_mut::<32>();
        for place in vectors {
            // SAFETY: the 32 bytes are borrowed mutably, and the assertion above aligned the first of them.
            unsafe { _mm256_stream_si256(place.as_mut_ptr().cast(), vector) };
        }
        rest.fill(pattern.to_le_bytes()[0]);
        _mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_sums_every_byte_once() {
        let buffer = Buffer::new(3000);
        for length in [0, 1, 8, 63, 512, 1024, 2999] {
            assert_eq!(read(&buffer[..length]), read_words(&buffer[..length]), "{length}");
        }
        let mut other = Buffer::new(3000);
        other[1500] ^= 1;
        assert_ne!(read(&buffer), read(&other));
    }

    #[test]
    fn targets_are_written_to_their_ends() {
        let source = Buffer::new(4096);
        let (mut one, mut other) = (Buffer::new(4096), Buffer::new(4096));
        let before = one.to_vec();
        let sum = read_all_write(&mut [&mut one, &mut other], &[&source]);
        for target in [&one, &other] {
            assert!(target.chunks(8).all(|word| word == sum.to_le_bytes()));
        }
        assert_ne!(before, *one);
    }
}
