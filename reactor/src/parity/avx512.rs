//! Kernels for CPUs with AVX-512 and GFNI: a factor is a matrix of bits that one instruction multiplies 64 bytes with.
//!
//! The instruction that multiplies bytes as such (`gf2p8mulb`) knows only the polynomial 0x11B of AES; a multiplication
//! by a constant is linear over bits in any field, so that `gf2p8affineqb` does it for 0x11D as well.

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_gf2p8affine_epi64_epi8, _mm512_loadu_si512, _mm512_set1_epi64,
    _mm512_storeu_si512, _mm512_stream_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

use super::field::{self, multiply};
use super::{Kernels, OUTPUTS_MAX, Operation, SOURCES_MAX};

pub(super) const KERNELS: Kernels = Kernels {
    name: "avx512+gfni",
    combine,
    combine_streaming,
};

const VECTOR_BYTES: usize = 64;
/// The truth table of `a ^ b ^ c`: bit `4a + 2b + c` is one where an odd number of them is.
///
/// Source: Intel 64 and IA-32 Software Developer's Manual, volume 2, VPTERNLOGQ.
const XOR_OF_THREE: i32 = 0x96;

/// For each factor the matrix that multiplies a byte with it.
static MATRICES: [i64; 256] = matrices();

/// Matrices of the factors of one operation: one an output for each source.
type Matrices<const OUTPUTS: usize> = [[i64; OUTPUTS]; SOURCES_MAX];

/// Bit `i` of a product is the sum of those bits `j` of the byte for which bit `i` of `factor * 2^j` is one.
///
/// Source: Intel 64 and IA-32 Software Developer's Manual, volume 2, GF2P8AFFINEQB: byte `7 - i` of the matrix selects the
/// bits of the source that make up bit `i` of the result.
const fn matrices() -> [i64; 256] {
    let mut matrices = [0; 256];
    let mut factor = 0_u8;
    loop {
        let mut rows = [0_u8; 8];
        let mut j = 0;
        while j < 8 {
            let product = multiply(factor, 1 << j);
            let mut i = 0;
            while i < 8 {
                rows[7 - i] |= ((product >> i) & 1) << j;
                i += 1;
            }
            j += 1;
        }
        matrices[factor as usize] = i64::from_le_bytes(rows);
        if factor == u8::MAX {
            return matrices;
        }
        factor += 1;
    }
}

/// # Safety
///
/// As `super::Combine`, and the CPU has AVX-512F and GFNI.
unsafe fn combine(operation: &Operation<'_>) {
    // SAFETY: as the caller promised.
    unsafe { dispatch::<false>(operation) };
}

/// # Safety
///
/// As `super::Combine`, and the CPU has AVX-512F and GFNI.
unsafe fn combine_streaming(operation: &Operation<'_>) {
    let outputs = operation.outputs;
    if outputs
        .iter()
        .all(|output| output.addr().is_multiple_of(VECTOR_BYTES))
    {
        // SAFETY: as the caller promised, and the outputs are aligned.
        unsafe { dispatch::<true>(operation) };
    } else {
        // SAFETY: as the caller promised. Streaming stores need alignment; the arena's spans have it.
        unsafe { dispatch::<false>(operation) };
    }
}

/// Gives the number of outputs and whether the first is a plain sum to the compiler: a plain sum needs no product.
///
/// # Safety
///
/// As `combine`, and with `STREAM` the outputs are aligned to a vector.
unsafe fn dispatch<const STREAM: bool>(operation: &Operation<'_>) {
    let plain = operation.factors[..operation.sources.len()]
        .iter()
        .all(|factor| *factor == 1);
    // Eight vectors of each source hide the latency of the caches. With three outputs four do; eight would be a tenth faster
    // in the caches, but a tenth slower from memory, which is the case that misses its goal.
    let kernel = match (operation.outputs.len(), plain) {
        (1, true) => rounds::<1, 8, true, STREAM>,
        (1, false) => rounds::<1, 8, false, STREAM>,
        (2, true) => rounds::<2, 8, true, STREAM>,
        (2, false) => rounds::<2, 8, false, STREAM>,
        (3, true) => rounds::<3, 4, true, STREAM>,
        (3, false) => rounds::<3, 4, false, STREAM>,
        _ => unreachable!("there are 1 to {OUTPUTS_MAX} outputs"),
    };
    // SAFETY: as the caller promised.
    unsafe { kernel(operation) };
}

/// `VECTORS` vectors a round, then one at a time, then bytes.
///
/// # Safety
///
/// As `dispatch`, there are `OUTPUTS` outputs, and with `PLAIN` all factors of the first are one.
#[target_feature(enable = "avx512f,gfni")]
unsafe fn rounds<const OUTPUTS: usize, const VECTORS: usize, const PLAIN: bool, const STREAM: bool>(
    operation: &Operation<'_>,
) {
    let outputs: &[*mut u8; OUTPUTS] = operation
        .outputs
        .try_into()
        .expect("`dispatch` looked at their number");
    let mut matrices = [[0; OUTPUTS]; SOURCES_MAX];
    for (output, (_, factors)) in operation.rows().enumerate() {
        for (matrices, factor) in matrices.iter_mut().zip(factors) {
            matrices[output] = MATRICES[usize::from(*factor)];
        }
    }
    let mut at = 0;
    while operation.bytes - at >= VECTORS * VECTOR_BYTES {
        // SAFETY: as the caller promised; the round ends at most at `bytes`.
        unsafe { round::<OUTPUTS, VECTORS, PLAIN, STREAM>(operation, outputs, &matrices, at) };
        at += VECTORS * VECTOR_BYTES;
    }
    while operation.bytes - at >= VECTOR_BYTES {
        // SAFETY: as above.
        unsafe { round::<OUTPUTS, 1, PLAIN, STREAM>(operation, outputs, &matrices, at) };
        at += VECTOR_BYTES;
    }
    if STREAM {
        _mm_sfence(); // Streaming stores are weakly ordered: whoever is told of the result must see it.
    }
    // SAFETY: as the caller promised.
    unsafe { field::bytewise(operation, at) };
}

/// Loops here count to constants, so that the compiler unrolls them and keeps the sums in registers.
///
/// # Safety
///
/// As `rounds`, for the `VECTORS` vectors from `at` on.
#[inline]
#[target_feature(enable = "avx512f,gfni")]
unsafe fn round<const OUTPUTS: usize, const VECTORS: usize, const PLAIN: bool, const STREAM: bool>(
    operation: &Operation<'_>,
    outputs: &[*mut u8; OUTPUTS],
    matrices: &Matrices<OUTPUTS>,
    at: usize,
) {
    let mut sums = [[const { zero() }; VECTORS]; OUTPUTS];
    if operation.accumulate {
        for (sums, output) in sums.iter_mut().zip(outputs) {
            for (index, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as the caller promised: an output that is accumulated into may be read.
                *sum = unsafe { load(*output, at + index * VECTOR_BYTES) };
            }
        }
    }
    let (pairs, odd) = operation.sources.as_chunks::<2>();
    for ([a, b], [to_a, to_b]) in pairs.iter().zip(matrices.as_chunks::<2>().0) {
        for index in 0..VECTORS {
            // SAFETY: as the caller promised.
            let a = unsafe { load(*a, at + index * VECTOR_BYTES) };
            // SAFETY: as above.
            let b = unsafe { load(*b, at + index * VECTOR_BYTES) };
            for (output, sums) in sums.iter_mut().enumerate() {
                let (a, b) = if PLAIN && output == 0 {
                    (a, b)
                } else {
                    (times(a, to_a[output]), times(b, to_b[output]))
                };
                sums[index] = _mm512_ternarylogic_epi64::<XOR_OF_THREE>(sums[index], a, b);
            }
        }
    }
    if let [source] = odd {
        let matrices = &matrices[2 * pairs.len()];
        for index in 0..VECTORS {
            // SAFETY: as above.
            let vector = unsafe { load(*source, at + index * VECTOR_BYTES) };
            for (output, sums) in sums.iter_mut().enumerate() {
                let vector = if PLAIN && output == 0 {
                    vector
                } else {
                    times(vector, matrices[output])
                };
                sums[index] = _mm512_xor_si512(sums[index], vector);
            }
        }
    }
    for (sums, output) in sums.iter().zip(outputs) {
        for (index, sum) in sums.iter().enumerate() {
            // SAFETY: as the caller promised; the vectors' offsets keep the output's alignment.
            unsafe { store::<STREAM>(*output, at + index * VECTOR_BYTES, *sum) };
        }
    }
}

/// Each byte of `vector` times the factor of `matrix`.
#[inline]
#[target_feature(enable = "avx512f,gfni")]
fn times(vector: __m512i, matrix: i64) -> __m512i {
    _mm512_gf2p8affine_epi64_epi8::<0>(vector, _mm512_set1_epi64(matrix))
}

/// All bits zero, as a constant.
const fn zero() -> __m512i {
    // SAFETY: every bit pattern is a valid vector.
    unsafe { std::mem::zeroed() }
}

/// # Safety
///
/// `from + at` must be valid for reading a vector.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const u8, at: usize) -> __m512i {
    // SAFETY: as the caller promised.
    let from = unsafe { from.add(at) };
    // SAFETY: as the caller promised; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// # Safety
///
/// `to + at` must be valid for writing a vector, and aligned to one with `STREAM`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<const STREAM: bool>(to: *mut u8, at: usize, vector: __m512i) {
    // SAFETY: as the caller promised.
    let to = unsafe { to.add(at) };
    if STREAM {
        // SAFETY: as the caller promised, alignment included.
        unsafe { _mm512_stream_si512(to.cast(), vector) };
    } else {
        // SAFETY: as the caller promised; the store asks for no alignment.
        unsafe { _mm512_storeu_si512(to.cast(), vector) };
    }
}
