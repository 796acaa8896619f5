//! Sequential streams among a core's reads, and what they will want next.

use std::ops::Range;

use crate::drive::block::GroupLba;

/// Streams that are followed at a time.
pub const STREAMS_MAX: usize = 16;

/// Reads that are remembered because they may be the start of a stream: the latest ones that continue none. They have places of
/// their own, so that random reads do not push streams out.
const CANDIDATES_MAX: usize = 16;

/// Marks a place without stream: nothing is read from there on.
const NOWHERE: u64 = u64::MAX;

/// Reads in a row, the first one included, that prove a stream. Two neighbours may be chance.
const PROOF_READS: u8 = 3;

/// A read may come so many times its own length too early or too late, because queues of a host overtake each other.
const REORDER_READS: u64 = 4;

/// What [`ReadAhead`] keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAheadLimits {
    /// Length of a strip: a stream's first window is two of them, and what is prefetched ends with a strip.
    pub strip_blocks: u32,
    /// Largest window, at least two strips; 0 turns read-ahead off.
    pub window_blocks_max: u32,
}

/// Says which reads are parts of sequential streams, and what to read before a stream asks for it.
///
/// A stream is known by where it will go on, so streams are told apart however they are interleaved. Its window is how far
/// ahead of it is read: two strips at first, and twice as much whenever half of what is ahead was used, up to a limit. A stream that jumps
/// is a new one.
#[derive(Debug)]
pub struct ReadAhead {
    limits: ReadAheadLimits,
    /// Where each stream goes on; apart from the rest, because every read looks at all of them.
    next: [u64; STREAMS_MAX],
    streams: [Stream; STREAMS_MAX],
    /// Where each candidate would go on.
    candidates_next: [u64; CANDIDATES_MAX],
    candidates: [Candidate; CANDIDATES_MAX],
    /// The candidate that was there for longest and gives way to the next.
    oldest: usize,
    clock: u64,
}

/// What [`ReadAhead::observe`] found out about a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Whether the read is part of a stream, as three reads in a row prove it.
    pub is_stream: bool,
    /// What to read ahead, never empty.
    pub prefetch: Option<Range<GroupLba>>,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Where the stream's virtual disk ends: adjacent disks are different streams.
    disk_end: u64,
    /// Up to here has been asked for.
    ahead: u64,
    window_blocks: u32,
    used_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    disk_end: u64,
    reads: u8,
}

impl ReadAhead {
    /// A detector that has seen nothing.
    pub fn new(limits: ReadAheadLimits) -> Self {
        assert!(limits.strip_blocks > 0, "a strip has blocks");
        let window_min = u64::from(limits.strip_blocks) * 2;
        let window_max = u64::from(limits.window_blocks_max);
        assert!(
            window_max == 0 || window_max >= window_min,
            "the first window is two strips"
        );
        Self {
            limits,
            next: [NOWHERE; STREAMS_MAX],
            streams: [Stream {
                disk_end: 0,
                ahead: 0,
                window_blocks: 0,
                used_at: 0,
            }; STREAMS_MAX],
            candidates_next: [NOWHERE; CANDIDATES_MAX],
            candidates: [Candidate {
                disk_end: 0,
                reads: 0,
            }; CANDIDATES_MAX],
            oldest: 0,
            clock: 0,
        }
    }

    /// Takes note of a read of a virtual disk that lies at `disk`, and says what to read ahead.
    ///
    /// Panics if the read is empty or not inside the disk.
    pub fn observe(&mut self, lba: GroupLba, blocks: u32, disk: &Range<GroupLba>) -> Observed {
        let end = lba.0 + u64::from(blocks);
        assert!(blocks > 0, "a read has blocks");
        assert!(
            disk.start <= lba && end <= disk.end.0,
            "a read lies inside its disk"
        );
        self.clock += 1;
        let known = self.stream_at(lba.0, u64::from(blocks), disk.end.0);
        let Some(at) = known.or_else(|| self.prove(lba.0, end, disk.end.0)) else {
            return Observed {
                is_stream: false,
                prefetch: None,
            };
        };
        self.streams[at].used_at = self.clock;
        self.next[at] = self.next[at].max(end);
        Observed {
            is_stream: true,
            prefetch: self.prefetch(at),
        }
    }

    /// Forgets all streams, as when the group's disks change.
    pub fn clear(&mut self) {
        *self = Self::new(self.limits);
    }

    /// The stream that a read is part of: one that it continues exactly, or else one that it nearly does.
    fn stream_at(&self, lba: u64, blocks: u64, disk_end: u64) -> Option<usize> {
        let exact = places(&self.next, |next| next == lba);
        let near = places(&self.next, |next| next.abs_diff(lba) <= blocks * REORDER_READS);
        let on_disk = |places: u32| first_of(places, |at| self.streams[at].disk_end == disk_end);
        on_disk(exact).or_else(|| on_disk(near))
    }

    /// Takes note of a read that is part of no stream yet, and says which one it is part of now if it proves one. A
    /// candidate is believed only if it goes on exactly: nearness is much likelier to be chance.
    fn prove(&mut self, lba: u64, end: u64, disk_end: u64) -> Option<usize> {
        let exact = places(&self.candidates_next, |next| next == lba);
        let Some(at) = first_of(exact, |at| self.candidates[at].disk_end == disk_end) else {
            self.candidates_next[self.oldest] = end;
            self.candidates[self.oldest] = Candidate { disk_end, reads: 1 };
            self.oldest = (self.oldest + 1) % CANDIDATES_MAX;
            return None;
        };
        self.candidates[at].reads += 1;
        self.candidates_next[at] = end;
        if self.candidates[at].reads < PROOF_READS {
            return None;
        }
        self.candidates_next[at] = NOWHERE;
        let ages = self.streams.iter().enumerate();
        let (silent, _) = ages.min_by_key(|(_, stream)| stream.used_at)?;
        self.next[silent] = end;
        self.streams[silent] = Stream {
            disk_end,
            ahead: 0,
            window_blocks: 0,
            used_at: self.clock,
        };
        Some(silent)
    }

    /// What a stream reads ahead, if more than half of its window has been used.
    fn prefetch(&mut self, at: usize) -> Option<Range<GroupLba>> {
        let window_max = self.limits.window_blocks_max;
        if window_max == 0 {
            return None;
        }
        let next = self.next[at];
        let strip = u64::from(self.limits.strip_blocks);
        let stream = &mut self.streams[at];
        let start = stream.ahead.max(next);
        if start - next > u64::from(stream.window_blocks / 2) {
            return None;
        }
        // Until the first prefetch there is no window.
        let doubled = stream
            .window_blocks
            .saturating_mul(2)
            .max(self.limits.strip_blocks * 2);
        stream.window_blocks = doubled.min(window_max);
        let window_end = next + u64::from(stream.window_blocks);
        let end = (window_end - window_end % strip).min(stream.disk_end);
        if start >= end {
            return None;
        }
        stream.ahead = end;
        Some(GroupLba(start)..GroupLba(end))
    }
}

/// Which of the places suit, a bit each. Without a branch for each of them, so that the compiler takes several at a time.
fn places(next: &[u64; STREAMS_MAX], suits: impl Fn(u64) -> bool) -> u32 {
    let bits = next.iter().enumerate();
    bits.fold(0, |places, (at, next)| places | u32::from(suits(*next)) << at)
}

/// The first of the places that suits.
fn first_of(places: u32, suits: impl Fn(usize) -> bool) -> Option<usize> {
    let mut places = places;
    while places != 0 {
        let at = places.trailing_zeros() as usize;
        if suits(at) {
            return Some(at);
        }
        places &= places - 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRIP: u32 = 16;
    const WINDOW_MAX: u32 = 128;
    const DISK: Range<GroupLba> = GroupLba(0)..GroupLba(1 << 30);

    fn read_ahead() -> ReadAhead {
        ReadAhead::new(ReadAheadLimits {
            strip_blocks: STRIP,
            window_blocks_max: WINDOW_MAX,
        })
    }

    /// Reads and says what is prefetched.
    fn read(ahead: &mut ReadAhead, lba: u64, blocks: u32) -> Option<Range<u64>> {
        let prefetch = ahead.observe(GroupLba(lba), blocks, &DISK).prefetch?;
        Some(prefetch.start.0..prefetch.end.0)
    }

    #[test]
    fn the_window_starts_with_two_strips_and_doubles() {
        let mut ahead = read_ahead();
        assert_eq!(read(&mut ahead, 160, 8), None, "any read");
        assert_eq!(read(&mut ahead, 168, 8), None, "its neighbour, perhaps by chance");
        assert_eq!(
            read(&mut ahead, 176, 8),
            Some(184..208),
            "two strips, up to a strip's end"
        );
        assert_eq!(read(&mut ahead, 184, 8), Some(208..256), "four");
        assert_eq!(
            read(&mut ahead, 192, 8),
            None,
            "more than half of them is still ahead"
        );
        let mut asked = 256;
        let mut furthest = 0;
        for lba in (200..4096).step_by(8) {
            if let Some(range) = read(&mut ahead, lba, 8) {
                assert_eq!(
                    range.start, asked,
                    "nothing is asked for twice, and nothing is left out"
                );
                assert_eq!(range.end % u64::from(STRIP), 0);
                asked = range.end;
            }
            assert!(asked > lba + 8, "the data is ahead of its reader");
            furthest = furthest.max(asked - (lba + 8));
        }
        assert!(furthest <= u64::from(WINDOW_MAX), "the window has a limit");
        assert!(furthest > u64::from(WINDOW_MAX - STRIP), "which is used");
    }

    #[test]
    fn a_jump_starts_with_a_small_window() {
        let mut ahead = read_ahead();
        for lba in (0..1024).step_by(8) {
            read(&mut ahead, lba, 8);
        }
        for lba in [1 << 20, (1 << 20) + 8] {
            assert_eq!(read(&mut ahead, lba, 8), None);
        }
        let range = read(&mut ahead, (1 << 20) + 16, 8).expect("a stream again");
        assert_eq!(range, (1 << 20) + 24..(1 << 20) + 48);
    }

    /// Two reads next to each other are no rarity among random ones; three are.
    #[test]
    fn random_reads_do_not_trigger() {
        let mut seed = 11_u64;
        for disk_reads in [1 << 24, 1 << 17] {
            let mut ahead = read_ahead();
            for _ in 0..200_000 {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let lba = (seed >> 33) % disk_reads * 8;
                let observed = ahead.observe(GroupLba(lba), 8, &DISK);
                assert!(!observed.is_stream && observed.prefetch.is_none(), "{lba}");
            }
        }
    }

    #[test]
    fn interleaved_streams_are_told_apart() {
        let mut ahead = read_ahead();
        let streams: Vec<u64> = (0..16).map(|stream| stream << 20).collect();
        let mut asked = vec![0_u64; 16];
        for step in 0..64 {
            for (stream, start) in streams.iter().enumerate() {
                let lba = start + step * 8;
                let observed = ahead.observe(GroupLba(lba), 8, &DISK);
                assert_eq!(observed.is_stream, step >= 2, "stream {stream}, step {step}");
                if let Some(range) = observed.prefetch {
                    assert!(range.start.0 > lba && range.end.0 <= lba + 8 + u64::from(WINDOW_MAX));
                    asked[stream] += range.end.0 - range.start.0;
                }
            }
        }
        assert!(asked.iter().all(|asked| *asked >= 61 * 8), "{asked:?}");
    }

    /// A hundred random reads between any two of a stream do not hide it, once it has been seen.
    #[test]
    fn random_reads_do_not_push_a_stream_out() {
        let mut ahead = read_ahead();
        let mut seed = 1_u64;
        let mut streams = 0;
        for step in 0..50 {
            streams += u32::from(ahead.observe(GroupLba(step * 8), 8, &DISK).is_stream);
            for _ in 0..if step < 3 { 0 } else { 100 } {
                seed = seed
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                ahead.observe(GroupLba((1 << 20) + (seed >> 40)), 8, &DISK);
            }
        }
        assert_eq!(streams, 48);
    }

    /// Proven streams that end make room for new ones.
    #[test]
    fn old_streams_give_way() {
        let mut ahead = read_ahead();
        for stream in 0..200_u64 {
            for step in 0..4 {
                let observed = ahead.observe(GroupLba((stream << 16) + step * 8), 8, &DISK);
                assert_eq!(observed.is_stream, step >= 2, "stream {stream}");
            }
        }
    }

    #[test]
    fn a_stream_may_be_a_little_out_of_order() {
        let mut ahead = read_ahead();
        for lba in [0, 8, 16, 24] {
            read(&mut ahead, lba, 8);
        }
        for (lba, next) in [(40, 48), (32, 48), (64, 72), (48, 72), (56, 72)] {
            let observed = ahead.observe(GroupLba(lba), 8, &DISK);
            assert!(observed.is_stream, "{lba}");
            assert_eq!(ahead.next[0], next, "a late read does not turn it back");
        }
        assert!(!ahead.observe(GroupLba(500), 8, &DISK).is_stream, "too far");
    }

    #[test]
    fn it_stays_inside_the_disk() {
        let mut ahead = read_ahead();
        let disk = GroupLba(1000)..GroupLba(1060);
        let mut asked = 0;
        for lba in (1000..1056).step_by(8) {
            let observed = ahead.observe(GroupLba(lba), 8, &disk);
            if let Some(range) = observed.prefetch {
                assert!(range.start < range.end && range.end <= disk.end);
                asked = range.end.0;
            }
        }
        assert_eq!(asked, 1060, "to the very end");
        let neighbour = GroupLba(1060)..GroupLba(2000);
        assert_eq!(ahead.observe(GroupLba(1056), 4, &disk).prefetch, None);
        let observed = ahead.observe(GroupLba(1060), 8, &neighbour);
        assert!(!observed.is_stream, "the next disk has streams of its own");
    }

    #[test]
    fn streams_are_told_even_when_nothing_is_read_ahead() {
        let mut ahead = ReadAhead::new(ReadAheadLimits {
            strip_blocks: STRIP,
            window_blocks_max: 0,
        });
        for (lba, is_stream) in [(0, false), (8, false), (16, true), (24, true)] {
            let observed = ahead.observe(GroupLba(lba), 8, &DISK);
            assert_eq!(
                observed,
                Observed {
                    is_stream,
                    prefetch: None
                }
            );
        }
        ahead.clear();
        assert!(
            !ahead.observe(GroupLba(32), 8, &DISK).is_stream,
            "all is forgotten"
        );
    }

    #[test]
    #[should_panic(expected = "inside its disk")]
    fn a_read_beyond_the_disk_is_a_bug() {
        read_ahead().observe(GroupLba(90), 20, &(GroupLba(0)..GroupLba(100)));
    }
}
