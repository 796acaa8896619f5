//! Kernels for every CPU: eight bytes at a time, in a shape that the compiler turns into the vectors that it may assume.

use super::Kernels;

pub(super) const KERNELS: Kernels = Kernels {
    name: "portable",
    in_place,
    many,
    many_streaming: many,
};

/// Bytes of one round: eight words, as many as fit the registers of any 64-bit CPU.
const ROUND_BYTES: usize = 64;

/// # Safety
///
/// As `Kernels::xor_in_place_raw`.
pub(super) unsafe fn in_place(target: *mut u8, source: *const u8, bytes: usize) {
    // SAFETY: the caller says that the target is valid for reading too, and reading before writing makes it its own source.
    unsafe { many(target, &[target.cast_const(), source], bytes) };
}

/// # Safety
///
/// As `Kernels::xor_many_raw`, but a source may be the target itself.
pub(super) unsafe fn many(target: *mut u8, sources: &[*const u8], bytes: usize) {
    let mut at = 0;
    while bytes - at >= ROUND_BYTES {
        let mut sum = [0_u64; ROUND_BYTES / 8];
        for source in sources {
            // SAFETY: `at + ROUND_BYTES` is at most `bytes`, for which the source is valid.
            let from = unsafe { source.add(at) };
            // SAFETY: as above, and the read asks for no alignment.
            let words = unsafe { from.cast::<[u64; ROUND_BYTES / 8]>().read_unaligned() };
            for (sum, word) in sum.iter_mut().zip(words) {
                *sum ^= word;
            }
        }
        // SAFETY: `at + ROUND_BYTES` is at most `bytes`, for which the target is valid.
        let to = unsafe { target.add(at) };
        // SAFETY: as above, and the write asks for no alignment.
        unsafe { to.cast::<[u64; ROUND_BYTES / 8]>().write_unaligned(sum) };
        at += ROUND_BYTES;
    }
    // SAFETY: `at` is at most `bytes`.
    unsafe { bytewise(target, sources, at, bytes) };
}

/// The last bytes, from `at` to `bytes`: what is left after whole vectors.
///
/// # Safety
///
/// As `many`, and `at` is at most `bytes`.
pub(super) unsafe fn bytewise(target: *mut u8, sources: &[*const u8], at: usize, bytes: usize) {
    for at in at..bytes {
        let mut sum = 0;
        for source in sources {
            // SAFETY: `at` is less than `bytes`, for which the source is valid.
            let from = unsafe { source.add(at) };
            // SAFETY: as above.
            sum ^= unsafe { from.read() };
        }
        // SAFETY: `at` is less than `bytes`, for which the target is valid.
        let to = unsafe { target.add(at) };
        // SAFETY: as above.
        unsafe { to.write(sum) };
    }
}
