//! Arithmetic of GF(2^8), byte by byte: what the kernels' tables are made of, and what is left after whole vectors.

use super::Operation;

/// The polynomial x^8 + x^4 + x^3 + x^2 + 1 without its highest term: what a carry out of a byte folds back to.
///
/// Source: "The mathematics of RAID-6", H. Peter Anvin, section 2: polynomial 0x11D, generator 2.
pub(super) const FOLD: u8 = 0x1D;

/// Twice `byte`.
pub(super) const fn double(byte: u8) -> u8 {
    (byte << 1) ^ (FOLD * (byte >> 7))
}

/// The product of two bytes.
pub(super) const fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut power, mut rest) = (0, a, b);
    while rest != 0 {
        product ^= power * (rest & 1);
        power = double(power);
        rest >>= 1;
    }
    product
}

/// Carries out `operation` for the bytes from `at` on.
///
/// # Safety
///
/// As `super::Combine`.
pub(super) unsafe fn bytewise(operation: &Operation<'_>, at: usize) {
    for at in at..operation.bytes {
        for (output, factors) in operation.rows() {
            // SAFETY: `at` is less than `bytes`, for which the output is valid.
            let to = unsafe { output.add(at) };
            let mut sum = if operation.accumulate {
                // SAFETY: as above, and an output that is accumulated into may be read.
                unsafe { to.read() }
            } else {
                0
            };
            for (source, factor) in operation.sources.iter().zip(factors) {
                // SAFETY: `at` is less than `bytes`, for which the source is valid.
                let from = unsafe { source.add(at) };
                // SAFETY: as above.
                sum ^= multiply(unsafe { from.read() }, *factor);
            }
            // SAFETY: as above.
            unsafe { to.write(sum) };
        }
    }
}
