//! Exclusive-or kernels, chosen once for the CPU: what RAID-5 parity, regeneration and read-modify-write are made of.
//!
//! All kernels take any lengths and alignments and give the same bytes; `tests` compares each of them with the obvious loop.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// Sources of one `xor_many`, at most: the widest redundancy group.
pub const SOURCES_MAX: usize = 64;

/// From this many bytes in all (sources and target), the target is written past the caches: it would only drive out what
/// is still needed, and a streaming store saves reading the line first.
///
/// A typical core has 1 to 2 MiB of second-level cache. Less than that is not streamed although it would be faster from memory,
/// because whoever asked may read the result next, to journal it.
pub(crate) const STREAM_FROM_BYTES: usize = 1 << 20;

/// `target ^= source`, for `bytes` bytes.
type InPlace = unsafe fn(target: *mut u8, source: *const u8, bytes: usize);
/// `target = sources[0] ^ sources[1] ^ ..`, for `bytes` bytes of each; at least one source.
type Many = unsafe fn(target: *mut u8, sources: &[*const u8], bytes: usize);

/// One set of kernels for one kind of CPU.
#[derive(Clone, Copy)]
pub struct Kernels {
    name: &'static str,
    in_place: InPlace,
    many: Many,
    /// As `many`, with stores that pass the caches.
    many_streaming: Many,
}

impl Kernels {
    /// The fastest kernels that this CPU has.
    pub fn detect() -> Self {
        *Self::all_supported()
            .last()
            .expect("the portable kernels are always there")
    }

    /// All kernels that this CPU has, from the slowest to the fastest: for tests and benches.
    pub fn all_supported() -> Vec<Self> {
        let mut all = vec![portable::KERNELS];
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx2") {
                all.push(avx2::KERNELS);
            }
            if std::arch::is_x86_feature_detected!("avx512f") {
                all.push(avx512::KERNELS);
            }
        }
        all
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Makes each byte of `target` the exclusive or of itself and that of `source`. Panics unless they are equally long.
    pub fn xor_in_place(&self, target: &mut [u8], source: &[u8]) {
        assert_eq!(target.len(), source.len(), "operands of one length");
        // SAFETY: both ranges are valid for the length, and a `&mut` cannot overlap with anything.
        unsafe { self.xor_in_place_raw(target.as_mut_ptr(), source.as_ptr(), target.len()) };
    }

    /// Makes each byte of `target` the exclusive or of those of `sources`.
    ///
    /// Panics unless there are 1 to `SOURCES_MAX` sources, all as long as the target.
    pub fn xor_many(&self, target: &mut [u8], sources: &[&[u8]]) {
        assert!(sources.len() <= SOURCES_MAX, "no group is wider");
        let mut pointers = [std::ptr::null::<u8>(); SOURCES_MAX];
        let pointers = &mut pointers[..sources.len()];
        for (pointer, source) in pointers.iter_mut().zip(sources) {
            assert_eq!(target.len(), source.len(), "operands of one length");
            *pointer = source.as_ptr();
        }
        // SAFETY: all ranges are valid for the length, and a `&mut` cannot overlap with anything.
        unsafe { self.xor_many_raw(target.as_mut_ptr(), pointers, target.len()) };
    }

    /// As `xor_in_place`, for memory that no slice may describe.
    ///
    /// # Safety
    ///
    /// `target` must be valid for reading and writing `bytes` bytes, `source` for reading them, and they must not overlap.
    pub unsafe fn xor_in_place_raw(&self, target: *mut u8, source: *const u8, bytes: usize) {
        // SAFETY: as the caller promised; `detect` and `all_supported` give only kernels that the CPU can run.
        unsafe { (self.in_place)(target, source, bytes) };
    }

    /// As `xor_many`, for memory that no slice may describe. Panics unless there are 1 to `SOURCES_MAX` sources.
    ///
    /// # Safety
    ///
    /// `target` must be valid for writing `bytes` bytes and each source for reading them, and no source may overlap it.
    pub unsafe fn xor_many_raw(&self, target: *mut u8, sources: &[*const u8], bytes: usize) {
        assert!((1..=SOURCES_MAX).contains(&sources.len()), "one source at least");
        let streams = bytes.saturating_mul(sources.len() + 1) >= STREAM_FROM_BYTES;
        let kernel = if streams { self.many_streaming } else { self.many };
        // SAFETY: as the caller promised; `detect` and `all_supported` give only kernels that the CPU can run.
        unsafe { kernel(target, sources, bytes) };
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(seed: usize, length: usize) -> Vec<u8> {
        let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[3]
            })
            .collect()
    }

    /// Every kernel and, under another name, its streaming sibling.
    fn all() -> Vec<Kernels> {
        let kernels = Kernels::all_supported();
        let streaming = kernels.iter().map(|kernels| Kernels {
            many: kernels.many_streaming,
            ..*kernels
        });
        streaming.chain(kernels.iter().copied()).collect()
    }

    const LENGTHS: std::ops::RangeInclusive<usize> = 0..=1100;
    const GUARD: u8 = 0xA5;

    /// Runs both kernels at one length and alignment; bytes around the target must stay.
    fn check(kernels: &Kernels, sources: &[&[u8]], sum: &[u8], room: &mut [u8], align: usize) {
        let length = sum.len();
        let place = room.as_ptr().align_offset(64) + align;
        room.fill(GUARD);
        kernels.xor_many(&mut room[place..place + length], sources);
        let what = || {
            format!(
                "{kernels:?}, {length} bytes at {align}, {} sources",
                sources.len()
            )
        };
        assert!(room[place..place + length] == *sum, "{}", what());
        kernels.xor_in_place(&mut room[place..place + length], sources[0]);
        for (index, byte) in room[place..place + length].iter().enumerate() {
            assert_eq!(*byte, sum[index] ^ sources[0][index], "{}", what());
        }
        assert!(
            room[..place]
                .iter()
                .chain(&room[place + length..])
                .all(|byte| *byte == GUARD),
            "{}",
            what()
        );
    }

    /// Goal: each kernel gives the bytes of the obvious loop for all lengths, alignments and numbers of sources.
    /// Method: every length with every number of sources at one alignment, then every length with every alignment of the
    /// target, the sources misaligned in other ways.
    #[test]
    fn every_kernel_equals_the_obvious_loop() {
        let data: Vec<Vec<u8>> = (0..16).map(|index| pattern(index, 2048)).collect();
        let mut room = vec![0; 1500];
        for kernels in all() {
            for length in LENGTHS {
                let mut sum = vec![0; length];
                let mut sources: Vec<&[u8]> = Vec::new();
                for (index, source) in data.iter().enumerate() {
                    let source = &source[index * 37 % 64..][..length];
                    sum.iter_mut().zip(source).for_each(|(sum, byte)| *sum ^= byte);
                    sources.push(source);
                    check(&kernels, &sources, &sum, &mut room, length * 7 % 64);
                }
                let sources = [
                    &data[0][length % 64..][..length],
                    &data[1][13..][..length],
                    &data[2][..length],
                ];
                let sum: Vec<u8> = (0..length)
                    .map(|at| sources.iter().fold(0, |sum, s| sum ^ s[at]))
                    .collect();
                for align in 0..64 {
                    check(&kernels, &sources, &sum, &mut room, align);
                }
            }
        }
    }

    /// Goal: large operations, which take the streaming path, are right as well, aligned or not.
    #[test]
    fn large_operations_stream() {
        let length = STREAM_FROM_BYTES / 3 + 1000;
        let data: Vec<Vec<u8>> = (0..3).map(|index| pattern(index, length)).collect();
        let sources: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let sum: Vec<u8> = (0..length)
            .map(|at| data[0][at] ^ data[1][at] ^ data[2][at])
            .collect();
        let mut room = vec![0; length + 200];
        for kernels in Kernels::all_supported() {
            for align in [0, 1, 32] {
                check(&kernels, &sources, &sum, &mut room, align);
            }
        }
    }

    #[test]
    fn the_best_kernels_are_chosen() {
        let all = Kernels::all_supported();
        assert_eq!(all[0].name(), "portable");
        assert_eq!(Kernels::detect().name(), all.last().unwrap().name());
    }

    #[test]
    #[should_panic(expected = "one source at least")]
    fn no_source_is_a_mistake() {
        Kernels::detect().xor_many(&mut [0; 8], &[]);
    }

    #[test]
    #[should_panic(expected = "operands of one length")]
    fn lengths_must_agree() {
        Kernels::detect().xor_many(&mut [0; 8], &[&[0; 8], &[0; 7]]);
    }
}
