//! Kernels of GF(2^8), chosen once for the CPU: what P, Q and R, their regeneration and their read-modify-write are made of.
//!
//! One operation serves all of them: each output is a sum of sources, every source times a factor of its own, and all
//! outputs come from one pass over the sources. All kernels take any lengths and alignments and give the same bytes;
//! `tests` compares each of them with the obvious loop.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod field;
mod portable;
#[cfg(test)]
mod tests;

/// Outputs of one `combine`, at most: the check strips of the level with the most of them.
pub const OUTPUTS_MAX: usize = 3;
/// Sources of one `combine`, at most: old and new data of each member of the widest redundancy group.
pub const SOURCES_MAX: usize = 64;

/// From this many bytes in all (sources and outputs), outputs are written past the caches: as for `xor`, and for the same
/// reasons.
const STREAM_FROM_BYTES: usize = crate::xor::STREAM_FROM_BYTES;

/// What one call of a kernel computes: for each output, the sum of all sources, each times its factor.
struct Operation<'a> {
    /// Where the sums go: 1 to `OUTPUTS_MAX`.
    outputs: &'a [*mut u8],
    /// What is summed: 1 to `SOURCES_MAX`.
    sources: &'a [*const u8],
    /// The factors of the first output, one a source, then those of the second, and so on.
    factors: &'a [u8],
    /// Length of each source and each output.
    bytes: usize,
    /// Whether what the outputs hold is part of the sum.
    accumulate: bool,
}

impl Operation<'_> {
    /// Each output with its factors.
    fn rows(&self) -> impl Iterator<Item = (*mut u8, &[u8])> {
        let factors = self.factors.chunks_exact(self.sources.len());
        self.outputs.iter().copied().zip(factors)
    }
}

/// Carries out an operation.
///
/// Safety: outputs are valid for writing `bytes` bytes and, if accumulated into, for reading them; sources are valid for
/// reading; no output overlaps a source or another output; the CPU has what the kernel's set is named for.
type Combine = unsafe fn(operation: &Operation<'_>);

/// One set of kernels for one kind of CPU.
#[derive(Clone, Copy)]
pub struct Kernels {
    name: &'static str,
    combine: Combine,
    /// As `combine`, with stores that pass the caches.
    combine_streaming: Combine,
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
            if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("gfni") {
                all.push(avx512::KERNELS);
            }
        }
        all
    }

    /// `portable`, `avx2` or `avx512+gfni`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Adds `factor` times `source` to `target`. Panics unless they are equally long.
    pub fn mul_add(&self, target: &mut [u8], source: &[u8], factor: u8) {
        self.combine(&mut [target], &[source], &[factor], true);
    }

    /// Makes each of `outputs` the sum of all `sources`, each times its factor, and with `accumulate` of what it was before.
    ///
    /// `factors` holds one factor a source for the first output, then those for the second, and so on. Panics unless there
    /// are 1 to `OUTPUTS_MAX` outputs and 1 to `SOURCES_MAX` sources, all of one length.
    pub fn combine(&self, outputs: &mut [&mut [u8]], sources: &[&[u8]], factors: &[u8], accumulate: bool) {
        assert!(outputs.len() <= OUTPUTS_MAX, "no level has more check strips");
        assert!(sources.len() <= SOURCES_MAX, "no group is wider");
        let bytes = outputs.first().map_or(0, |output| output.len());
        let mut targets = [std::ptr::null_mut::<u8>(); OUTPUTS_MAX];
        let targets = &mut targets[..outputs.len()];
        for (target, output) in targets.iter_mut().zip(outputs) {
            assert_eq!(output.len(), bytes, "operands of one length");
            *target = output.as_mut_ptr();
        }
        let mut pointers = [std::ptr::null::<u8>(); SOURCES_MAX];
        let pointers = &mut pointers[..sources.len()];
        for (pointer, source) in pointers.iter_mut().zip(sources) {
            assert_eq!(source.len(), bytes, "operands of one length");
            *pointer = source.as_ptr();
        }
        // SAFETY: all ranges are valid for the length, and a `&mut` cannot overlap with anything.
        unsafe { self.combine_raw(targets, pointers, factors, bytes, accumulate) };
    }

    /// As `combine`, for memory that no slice may describe, `bytes` bytes of each. Panics as it does, but for the lengths.
    ///
    /// # Safety
    ///
    /// Each output must be valid for writing `bytes` bytes, and for reading them if accumulated into, each source for
    /// reading them, and no output may overlap a source or another output.
    pub unsafe fn combine_raw(
        &self,
        outputs: &[*mut u8],
        sources: &[*const u8],
        factors: &[u8],
        bytes: usize,
        accumulate: bool,
    ) {
        assert!((1..=OUTPUTS_MAX).contains(&outputs.len()), "one output at least");
        assert!((1..=SOURCES_MAX).contains(&sources.len()), "one source at least");
        assert_eq!(
            factors.len(),
            outputs.len() * sources.len(),
            "a factor for each source of each output"
        );
        // Lines that are accumulated into are read anyway, so that storing past the caches wins nothing.
        let streams = !accumulate && bytes.saturating_mul(outputs.len() + sources.len()) >= STREAM_FROM_BYTES;
        let kernel = if streams {
            self.combine_streaming
        } else {
            self.combine
        };
        let operation = Operation {
            outputs,
            sources,
            factors,
            bytes,
            accumulate,
        };
        // SAFETY: as the caller promised; `detect` and `all_supported` give only kernels that the CPU can run.
        unsafe { kernel(&operation) };
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("parity::Kernels").field(&self.name).finish()
    }
}
