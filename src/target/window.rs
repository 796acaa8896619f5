//! What hosts saw of a group in the last fractions of a second, for background work that makes way for them.

use crate::amf::background::HostLoad;
use reactor::Nanos;

/// Steps of a doubling: a quantile is right to a quarter.
const STEPS: u32 = 4;
/// Doublings that are told apart: up to 2^36 ns, a minute. What is longer counts as that.
const DOUBLINGS: u32 = 36;
const BUCKETS: usize = (STEPS * DOUBLINGS) as usize;

/// A small histogram of latencies.
#[derive(Clone, Debug)]
pub struct Window {
    buckets: [u32; BUCKETS],
    count: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            count: 0,
        }
    }
}

impl Window {
    /// Commands that were recorded.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Adds the latency of one command.
    pub fn record(&mut self, nanos: Nanos) {
        let bucket = &mut self.buckets[bucket(nanos)];
        *bucket = bucket.saturating_add(1);
        self.count += 1;
    }

    /// Adds all of another window.
    pub fn add(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.count += other.count;
    }

    /// The upper end of the bucket in which the 99th percentile lies; 0 without commands.
    pub fn p99_ns(&self) -> Nanos {
        let wanted = self.count - self.count / 100;
        let mut seen = 0;
        for (at, bucket) in (0..).zip(&self.buckets) {
            seen += u64::from(*bucket);
            if seen >= wanted && seen > 0 {
                return upper_end(at);
            }
        }
        0
    }
}

/// The bucket of a latency: its highest bit, and the two bits below it.
fn bucket(nanos: Nanos) -> usize {
    let nanos = nanos.max(u64::from(STEPS));
    let doubling = nanos.ilog2();
    let step = nanos >> (doubling - 2) & 3;
    let at = u64::from((doubling - 2) * STEPS) + step;
    usize::try_from(at).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The longest latency that falls into a bucket.
const fn upper_end(at: u32) -> Nanos {
    let (doubling, step) = (at / STEPS + 2, at % STEPS);
    ((STEPS + step + 1) as Nanos) << (doubling - 2)
}

/// What the hosts of one group saw lately.
#[derive(Clone, Debug, Default)]
pub struct HostWindow {
    window: Window,
    /// Commands since the last measurement.
    fresh: u64,
    /// Measurements since the window was emptied.
    ticks: u32,
}

/// Commands of which a 99th percentile is worth anything; with fewer a window goes on.
const COMMANDS_MIN: u64 = 32;
/// Measurements after which a window is emptied in any case: a second.
const TICKS_MAX: u32 = 10;

impl HostWindow {
    /// Adds what one core saw.
    pub fn add(&mut self, window: &Window) {
        self.fresh += window.count();
        self.window.add(window);
    }

    /// Ends a measurement.
    pub fn measure(&mut self) -> HostLoad {
        let load = HostLoad {
            commands: std::mem::take(&mut self.fresh),
            p99_ns: self.window.p99_ns(),
        };
        self.ticks += 1;
        if self.window.count() >= COMMANDS_MIN || self.ticks >= TICKS_MAX {
            self.window = Window::default();
            self.ticks = 0;
        }
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a latency lies at or below the upper end of its bucket, by at most a quarter.
    #[test]
    fn buckets_are_a_quarter_wide() {
        for nanos in (4..5000).chain((13..36).map(|bit| (1 << bit) + 12_345 % (1 << bit))) {
            let end = upper_end(u32::try_from(bucket(nanos)).expect("few"));
            assert!(
                nanos < end && end - nanos <= nanos / 4 + 1,
                "{nanos} in a bucket up to {end}"
            );
        }
        assert_eq!((bucket(0), bucket(4)), (0, 0));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_percentile_leaves_one_in_a_hundred_out() {
        let mut window = Window::default();
        assert_eq!(window.p99_ns(), 0);
        for _ in 0..99 {
            window.record(1000);
        }
        window.record(1_000_000);
        assert!(window.p99_ns() < 1300);
        window.record(1_000_000);
        assert!(window.p99_ns() > 1_000_000);
    }

    /// Goal: a slow trickle of commands is judged by a second of it, a fast one by each tick.
    #[test]
    fn windows_end_when_they_say_something_or_after_a_second() {
        let mut window = Window::default();
        window.record(1_000_000);
        let mut host = HostWindow::default();
        host.add(&window);
        assert_eq!(host.measure().commands, 1);
        for _ in 1..TICKS_MAX {
            let load = host.measure();
            assert!(load.commands == 0 && load.p99_ns > 1_000_000, "it still counts");
        }
        assert_eq!(host.measure().p99_ns, 0);
        for _ in 0..COMMANDS_MIN {
            host.add(&window);
        }
        assert!(host.measure().p99_ns > 1_000_000);
        assert_eq!(host.measure().p99_ns, 0);
    }
}
