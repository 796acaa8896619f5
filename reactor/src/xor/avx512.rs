//! Kernels for CPUs with AVX-512: 64 bytes a register, 512 a round, three operands an instruction.

use std::arch::x86_64::{
    __m512i, _mm_sfence, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_stream_si512,
    _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

use super::Kernels;
use super::portable::bytewise;

pub(super) const KERNELS: Kernels = Kernels {
    name: "avx512",
    in_place,
    many,
    many_streaming,
};

const VECTOR_BYTES: usize = 64;
/// Eight registers are summed at a time: enough loads in flight to hide the latency of the caches, and from memory long
/// enough pieces of each source; four were a tenth slower there.
const ROUND_VECTORS: usize = 8;
const ROUND_BYTES: usize = VECTOR_BYTES * ROUND_VECTORS;
/// The truth table of `a ^ b ^ c`: bit `4a + 2b + c` is one where an odd number of them is.
///
/// Source: Intel 64 and IA-32 Software Developer's Manual, volume 2, VPTERNLOGQ.
const XOR_OF_THREE: i32 = 0x96;

/// # Safety
///
/// As `Kernels::xor_in_place_raw`, and the CPU has AVX-512F.
unsafe fn in_place(target: *mut u8, source: *const u8, bytes: usize) {
    // SAFETY: the target is valid for reading too, and each round reads it before it writes it.
    unsafe { rounds::<false>(target, &[target.cast_const(), source], bytes) };
}

/// # Safety
///
/// As `Kernels::xor_many_raw`, and the CPU has AVX-512F.
unsafe fn many(target: *mut u8, sources: &[*const u8], bytes: usize) {
    // SAFETY: as the caller promised.
    unsafe { rounds::<false>(target, sources, bytes) };
}

/// # Safety
///
/// As `Kernels::xor_many_raw`, and the CPU has AVX-512F.
unsafe fn many_streaming(target: *mut u8, sources: &[*const u8], bytes: usize) {
    if !target.addr().is_multiple_of(VECTOR_BYTES) {
        // SAFETY: as the caller promised. Streaming stores need alignment; the arena's spans have it.
        return unsafe { rounds::<false>(target, sources, bytes) };
    }
    // SAFETY: as the caller promised, and the target is aligned.
    unsafe { rounds::<true>(target, sources, bytes) };
}

/// # Safety
///
/// As `portable::many`, the CPU has AVX-512F, and with `STREAM` the target is aligned to a vector.
#[target_feature(enable = "avx512f")]
unsafe fn rounds<const STREAM: bool>(target: *mut u8, sources: &[*const u8], bytes: usize) {
    let (first, rest) = sources
        .split_first()
        .expect("the caller checked that there is a source");
    let mut at = 0;
    while bytes - at >= ROUND_BYTES {
        let mut sum = [const { zero() }; ROUND_VECTORS];
        for (index, sum) in sum.iter_mut().enumerate() {
            // SAFETY: the round ends at most at `bytes`, for which every source is valid.
            *sum = unsafe { load(*first, at + index * VECTOR_BYTES) };
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        for [a, b] in pairs {
            for (index, sum) in sum.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = unsafe { load(*a, at + index * VECTOR_BYTES) };
                // SAFETY: as above.
                let b = unsafe { load(*b, at + index * VECTOR_BYTES) };
                *sum = _mm512_ternarylogic_epi64::<XOR_OF_THREE>(*sum, a, b);
            }
        }
        for source in odd {
            for (index, sum) in sum.iter_mut().enumerate() {
                // SAFETY: as above.
                let next = unsafe { load(*source, at + index * VECTOR_BYTES) };
                *sum = _mm512_xor_si512(*sum, next);
            }
        }
        for (index, sum) in sum.iter().enumerate() {
            // SAFETY: as above for the target; the vectors' offsets keep its alignment.
            unsafe { store::<STREAM>(target, at + index * VECTOR_BYTES, *sum) };
        }
        at += ROUND_BYTES;
    }
    if STREAM {
        _mm_sfence(); // Streaming stores are weakly ordered: whoever is told of the result must see it.
    }
    // SAFETY: `at` is at most `bytes`.
    unsafe { bytewise(target, sources, at, bytes) };
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
