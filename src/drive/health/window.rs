//! What is counted of a drive over a time: latencies of a window, events of the last hour.

use super::Nanos;

/// Buckets of a [`LatencyWindow`]: two for each doubling, from 1 µs to over four minutes.
pub const LATENCY_BUCKETS: usize = 56;
/// The first bucket ends at one and a half times two to this power, in ns.
const FIRST_BITS: u32 = 10;
const MINUTE_NS: Nanos = 60_000_000_000;
/// Minutes of an hour, each with a count of its own.
const MINUTES: usize = 60;

/// How many commands took how long, to within a factor of the square root of two.
///
/// Cores count in windows of their own, which are merged once in a while: nothing is sent for a single command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencyWindow {
    buckets: [u32; LATENCY_BUCKETS],
    commands: u32,
}

impl Default for LatencyWindow {
    fn default() -> Self {
        Self {
            buckets: [0; LATENCY_BUCKETS],
            commands: 0,
        }
    }
}

impl LatencyWindow {
    /// Counts one command.
    #[inline]
    pub fn add(&mut self, latency: Nanos) {
        let bucket = &mut self.buckets[bucket_of(latency)];
        *bucket = bucket.saturating_add(1);
        self.commands = self.commands.saturating_add(1);
    }

    /// Counts what another window has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.commands = self.commands.saturating_add(other.commands);
    }

    /// Commands that were counted.
    pub const fn commands(&self) -> u32 {
        self.commands
    }

    /// What 99 of 100 commands did not exceed, rounded up to the end of its bucket; `None` for no commands.
    pub fn p99(&self) -> Option<Nanos> {
        let total: u64 = self.buckets.iter().map(|&count| u64::from(count)).sum();
        let rank = (total * 99).div_ceil(100);
        if total == 0 {
            return None;
        }
        let mut seen = 0;
        let index = self.buckets.iter().position(|&count| {
            seen += u64::from(count);
            seen >= rank
        });
        index.map(bucket_end)
    }
}

fn bucket_of(latency: Nanos) -> usize {
    let latency = latency.max(1 << FIRST_BITS);
    let top = latency.ilog2();
    let half = latency >> (top - 1) & 1;
    let index = u64::from(top - FIRST_BITS) * 2 + half;
    usize::try_from(index).map_or(LATENCY_BUCKETS - 1, |index| index.min(LATENCY_BUCKETS - 1))
}

/// The first latency that is beyond a bucket.
fn bucket_end(index: usize) -> Nanos {
    let low = 1_u64 << (FIRST_BITS as usize + index / 2);
    if index.is_multiple_of(2) {
        low + low / 2
    } else {
        low * 2
    }
}

/// What the latencies of a group's drives are measured by: their median, the lower one of two in the middle, so that in
/// a pair the slow drive is measured by the quick one. `None` unless at least two drives have one.
pub fn reference(latencies: &mut [Nanos]) -> Option<Nanos> {
    latencies.sort_unstable();
    (latencies.len() >= 2).then(|| latencies[(latencies.len() - 1) / 2])
}

/// How often something happened within the last hour, by minutes.
#[derive(Clone, Copy, Debug)]
pub struct Hourly {
    minutes: [u32; MINUTES],
    /// The minute that was counted last, since the clock's start.
    last: u64,
}

impl Default for Hourly {
    fn default() -> Self {
        Self {
            minutes: [0; MINUTES],
            last: 0,
        }
    }
}

impl Hourly {
    /// Counts `count` more.
    pub fn add(&mut self, now: Nanos, count: u32) {
        self.forget(now);
        let place = &mut self.minutes[place_of(self.last)];
        *place = place.saturating_add(count);
    }

    /// How many there were in this minute and the 59 before it.
    pub fn last_hour(&mut self, now: Nanos) -> u32 {
        self.forget(now);
        self.minutes
            .iter()
            .fold(0, |sum, &count| sum.saturating_add(count))
    }

    fn forget(&mut self, now: Nanos) {
        let minute = (now / MINUTE_NS).max(self.last);
        let passed = (minute - self.last).min(MINUTES as u64);
        for step in 0..passed {
            self.minutes[place_of(minute - step)] = 0;
        }
        self.last = minute;
    }
}

fn place_of(minute: u64) -> usize {
    usize::try_from(minute % MINUTES as u64).expect("less than 60")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every latency lies below the end of its bucket and not below half of it.
    #[test]
    fn a_bucket_tells_a_latency_to_within_its_half() {
        let mut latency = 1_u64 << FIRST_BITS;
        while latency < 1 << 37 {
            let end = bucket_end(bucket_of(latency));
            assert!(
                latency < end && end <= latency + latency / 2 + 1,
                "{latency} in a bucket that ends at {end}"
            );
            latency += latency / 97 + 1;
        }
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(u64::MAX), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn the_p99_is_that_of_the_slowest_hundredth() {
        let mut window = LatencyWindow::default();
        assert_eq!(window.p99(), None);
        (0..990).for_each(|_| window.add(10_000));
        (0..10).for_each(|_| window.add(50_000_000));
        assert!(
            window.p99().is_some_and(|p99| p99 < 20_000),
            "exactly a hundredth is beyond"
        );
        window.add(50_000_000);
        assert!(window.p99().is_some_and(|p99| p99 > 50_000_000));
    }

    #[test]
    fn merged_windows_are_as_one() {
        let (mut one, mut other, mut all) = Default::default();
        for at in 0..1000_u64 {
            let latency = at * at * 7;
            let window: &mut LatencyWindow = if at % 3 == 0 { &mut one } else { &mut other };
            window.add(latency);
            LatencyWindow::add(&mut all, latency);
        }
        one.merge(&other);
        assert_eq!(one, all);
        assert_eq!(one.commands(), 1000);
    }

    #[test]
    fn the_lower_of_two_medians_is_the_measure() {
        assert_eq!(reference(&mut []), None);
        assert_eq!(reference(&mut [5]), None);
        assert_eq!(reference(&mut [900, 5]), Some(5));
        assert_eq!(reference(&mut [900, 5, 6]), Some(6));
        assert_eq!(reference(&mut [900, 5, 6, 800]), Some(6));
    }

    #[test]
    fn what_is_older_than_an_hour_is_forgotten() {
        let mut hourly = Hourly::default();
        hourly.add(0, 3);
        hourly.add(30 * MINUTE_NS, 4);
        assert_eq!(hourly.last_hour(59 * MINUTE_NS), 7);
        assert_eq!(hourly.last_hour(60 * MINUTE_NS), 4);
        assert_eq!(hourly.last_hour(89 * MINUTE_NS), 4);
        assert_eq!(hourly.last_hour(90 * MINUTE_NS), 0);
        hourly.add(10_000 * MINUTE_NS, 1);
        assert_eq!(hourly.last_hour(10_000 * MINUTE_NS), 1);
    }
}
