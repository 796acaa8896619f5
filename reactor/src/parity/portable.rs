//! The kernel for every CPU: eight bytes a word, in a shape that the compiler turns into the vectors that it may assume.
//!
//! A factor is taken bit by bit, the highest first: double the sum, then add the sources whose factor has that bit. So an
//! output costs seven doublings however many sources there are, a factor of one costs an exclusive or and nothing more,
//! and no table is looked into.

use super::field::{self, FOLD};
use super::{Kernels, OUTPUTS_MAX, Operation};

pub(super) const KERNELS: Kernels = Kernels {
    name: "portable",
    combine,
    combine_streaming: combine,
};

/// Bytes of one round: eight words, as many as fit the registers of any 64-bit CPU.
const ROUND_BYTES: usize = WORDS * 8;
const WORDS: usize = 8;
/// One in each byte of a word.
const ONES: u64 = 0x0101_0101_0101_0101;

/// For each bit of the factors, which sources have it.
type Planes = [u64; 8];

fn planes_of(factors: &[u8]) -> Planes {
    let mut planes = [0; 8];
    for (index, factor) in factors.iter().enumerate() {
        for (bit, plane) in planes.iter_mut().enumerate() {
            *plane |= u64::from(factor >> bit & 1) << index;
        }
    }
    planes
}

/// Twice each byte of a word.
fn double(word: u64) -> u64 {
    let carries = (word >> 7) & ONES;
    ((word << 1) & !ONES) ^ carries.wrapping_mul(u64::from(FOLD))
}

/// # Safety
///
/// As `super::Combine`.
unsafe fn combine(operation: &Operation<'_>) {
    let mut planes = [[0; 8]; OUTPUTS_MAX];
    for (planes, (_, factors)) in planes.iter_mut().zip(operation.rows()) {
        *planes = planes_of(factors);
    }
    let mut at = 0;
    while operation.bytes - at >= ROUND_BYTES {
        for (output, planes) in operation.outputs.iter().zip(&planes) {
            // SAFETY: `at + ROUND_BYTES` is at most `bytes`, for which sources and outputs are valid.
            unsafe { round(operation, *output, planes, at) };
        }
        at += ROUND_BYTES;
    }
    // SAFETY: as the caller promised.
    unsafe { field::bytewise(operation, at) };
}

/// # Safety
///
/// `ROUND_BYTES` bytes from `at` must be valid as `super::Combine` says.
unsafe fn round(operation: &Operation<'_>, output: *mut u8, planes: &Planes, at: usize) {
    let mut sum = [0_u64; WORDS];
    for plane in planes.iter().rev() {
        // Before the first bit that any factor has, there is nothing to be doubled: small factors are cheap.
        if sum != [0; WORDS] {
            sum = sum.map(double);
        }
        let mut left = *plane;
        while left != 0 {
            let source = operation.sources[left.trailing_zeros() as usize];
            left &= left - 1;
            // SAFETY: as the caller promised.
            let words = unsafe { load(source, at) };
            for (sum, word) in sum.iter_mut().zip(words) {
                *sum ^= word;
            }
        }
    }
    if operation.accumulate {
        // SAFETY: as the caller promised: an output that is accumulated into may be read.
        let words = unsafe { load(output, at) };
        for (sum, word) in sum.iter_mut().zip(words) {
            *sum ^= word;
        }
    }
    // SAFETY: as the caller promised.
    let to = unsafe { output.add(at) };
    // SAFETY: as the caller promised, and the write asks for no alignment.
    unsafe { to.cast::<[u64; WORDS]>().write_unaligned(sum) };
}

/// # Safety
///
/// `ROUND_BYTES` bytes from `from + at` must be valid for reading.
unsafe fn load(from: *const u8, at: usize) -> [u64; WORDS] {
    // SAFETY: as the caller promised.
    let from = unsafe { from.add(at) };
    // SAFETY: as the caller promised, and the read asks for no alignment.
    unsafe { from.cast::<[u64; WORDS]>().read_unaligned() }
}
