//! Kernels for CPUs with AVX2: a product is the sum of two looked up ones, of a byte's lower and of its upper four bits.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_sfence, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256,
    _mm256_stream_si256, _mm256_xor_si256,
};

use super::field::{self, multiply};
use super::{Kernels, OUTPUTS_MAX, Operation};

pub(super) const KERNELS: Kernels = Kernels {
    name: "avx2",
    combine,
    combine_streaming,
};

const VECTOR_BYTES: usize = 32;

/// Products of one factor: with 0, 1, .. 15, then with 0, 16, .. 240.
#[repr(C, align(32))]
struct Products {
    lower: [u8; 16],
    upper: [u8; 16],
}

/// For each factor its products: 8 KiB, of which an operation uses 32 bytes a factor.
static PRODUCTS: [Products; 256] = products();

const fn products() -> [Products; 256] {
    let mut products = [const {
        Products {
            lower: [0; 16],
            upper: [0; 16],
        }
    }; 256];
    let mut factor = 0_u8;
    loop {
        let mut nibble = 0_u8;
        while nibble < 16 {
            products[factor as usize].lower[nibble as usize] = multiply(factor, nibble);
            products[factor as usize].upper[nibble as usize] = multiply(factor, nibble << 4);
            nibble += 1;
        }
        if factor == u8::MAX {
            return products;
        }
        factor += 1;
    }
}

/// # Safety
///
/// As `super::Combine`, and the CPU has AVX2.
unsafe fn combine(operation: &Operation<'_>) {
    // SAFETY: as the caller promised.
    unsafe { dispatch::<false>(operation) };
}

/// # Safety
///
/// As `super::Combine`, and the CPU has AVX2.
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
    // There are 16 registers for the sums, the halves of the bytes and the looked up products.
    let kernel = match (operation.outputs.len(), plain) {
        (1, true) => rounds::<1, 8, true, STREAM>,
        (1, false) => rounds::<1, 4, false, STREAM>,
        (2, true) => rounds::<2, 4, true, STREAM>,
        (2, false) => rounds::<2, 4, false, STREAM>,
        (3, true) => rounds::<3, 2, true, STREAM>,
        (3, false) => rounds::<3, 2, false, STREAM>,
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
#[target_feature(enable = "avx2")]
unsafe fn rounds<const OUTPUTS: usize, const VECTORS: usize, const PLAIN: bool, const STREAM: bool>(
    operation: &Operation<'_>,
) {
    let outputs: &[*mut u8; OUTPUTS] = operation
        .outputs
        .try_into()
        .expect("`dispatch` looked at their number");
    let mut at = 0;
    while operation.bytes - at >= VECTORS * VECTOR_BYTES {
        // SAFETY: as the caller promised; the round ends at most at `bytes`.
        unsafe { round::<OUTPUTS, VECTORS, PLAIN, STREAM>(operation, outputs, at) };
        at += VECTORS * VECTOR_BYTES;
    }
    while operation.bytes - at >= VECTOR_BYTES {
        // SAFETY: as above.
        unsafe { round::<OUTPUTS, 1, PLAIN, STREAM>(operation, outputs, at) };
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
#[target_feature(enable = "avx2")]
unsafe fn round<const OUTPUTS: usize, const VECTORS: usize, const PLAIN: bool, const STREAM: bool>(
    operation: &Operation<'_>,
    outputs: &[*mut u8; OUTPUTS],
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
    let count = operation.sources.len();
    for (number, source) in operation.sources.iter().enumerate() {
        let mut vectors = [const { zero() }; VECTORS];
        for (index, vector) in vectors.iter_mut().enumerate() {
            // SAFETY: as the caller promised.
            *vector = unsafe { load(*source, at + index * VECTOR_BYTES) };
        }
        for (output, sums) in sums.iter_mut().enumerate() {
            if PLAIN && output == 0 {
                for (sum, vector) in sums.iter_mut().zip(&vectors) {
                    *sum = _mm256_xor_si256(*sum, *vector);
                }
            } else {
                let factor = operation.factors[output * count + number];
                let products = &PRODUCTS[usize::from(factor)];
                let (lower, upper) = (table(&products.lower), table(&products.upper));
                for (sum, vector) in sums.iter_mut().zip(&vectors) {
                    *sum = _mm256_xor_si256(*sum, times(*vector, lower, upper));
                }
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

/// Sixteen products, in both halves of a vector: the shuffle looks up in each half on its own.
#[inline]
#[target_feature(enable = "avx2")]
fn table(products: &[u8; 16]) -> __m256i {
    let start: *const __m128i = products.as_ptr().cast();
    // SAFETY: the sixteen bytes are borrowed, and the load asks for no alignment.
    let products = unsafe { _mm_loadu_si128(start) };
    _mm256_broadcastsi128_si256(products)
}

/// Each byte of `vector` times the factor whose products `lower` and `upper` are.
#[inline]
#[target_feature(enable = "avx2")]
fn times(vector: __m256i, lower: __m256i, upper: __m256i) -> __m256i {
    let nibble = _mm256_set1_epi8(0x0F);
    let low = _mm256_and_si256(vector, nibble);
    let high = _mm256_and_si256(_mm256_srli_epi64::<4>(vector), nibble);
    _mm256_xor_si256(_mm256_shuffle_epi8(lower, low), _mm256_shuffle_epi8(upper, high))
}

/// All bits zero, as a constant.
const fn zero() -> __m256i {
    // SAFETY: every bit pattern is a valid vector.
    unsafe { std::mem::zeroed() }
}

/// # Safety
///
/// `from + at` must be valid for reading a vector.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8, at: usize) -> __m256i {
    // SAFETY: as the caller promised.
    let from = unsafe { from.add(at) };
    // SAFETY: as the caller promised; the load asks for no alignment.
    unsafe { _mm256_loadu_si256(from.cast()) }
}

/// # Safety
///
/// `to + at` must be valid for writing a vector, and aligned to one with `STREAM`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store<const STREAM: bool>(to: *mut u8, at: usize, vector: __m256i) {
    // SAFETY: as the caller promised.
    let to = unsafe { to.add(at) };
    if STREAM {
        // SAFETY: as the caller promised, alignment included.
        unsafe { _mm256_stream_si256(to.cast(), vector) };
    } else {
        // SAFETY: as the caller promised; the store asks for no alignment.
        unsafe { _mm256_storeu_si256(to.cast(), vector) };
    }
}
