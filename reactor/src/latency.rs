//! Latency histograms of bounded size and relative error.

use hdrhistogram::Histogram;

/// Latencies are counted up to here; longer ones count as this.
const NANOS_MAX: u64 = 60_000_000_000;

/// Significant decimal digits of a histogram's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 1 % error, 30 KiB: for many of them.
    TwoDigits,
    /// 0.1 % error, 216 KiB: for a few that are published.
    ThreeDigits,
}

/// Counts latencies from 1 ns to 60 s. It belongs to one core; a copy of it is sent to whoever wants to read it.
#[derive(Clone, Debug)]
pub struct LatencyRecorder {
    histogram: Histogram<u64>,
}

impl LatencyRecorder {
    /// An empty recorder; all its memory is allocated here.
    pub fn new(precision: Precision) -> Self {
        let digits = match precision {
            Precision::TwoDigits => 2,
            Precision::ThreeDigits => 3,
        };
        let histogram =
            Histogram::new_with_bounds(1, NANOS_MAX, digits).expect("these bounds and digits are valid");
        Self { histogram }
    }

    /// Counts one latency, a few nanoseconds of work.
    pub fn record(&mut self, nanos: u64) {
        self.histogram.saturating_record(nanos.clamp(1, NANOS_MAX));
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all recorders have the same bounds");
    }

    /// Forgets what was counted.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// Latencies that were counted.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency, in nanoseconds, that `quantile` (0.0 to 1.0) of those counted do not exceed; 0 if there are none.
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        self.histogram.value_at_quantile(quantile)
    }

    /// The longest latency in nanoseconds; 0 if there are none.
    pub fn max_ns(&self) -> u64 {
        self.histogram.max()
    }

    /// The mean latency in nanoseconds; 0 if there are none.
    pub fn mean_ns(&self) -> f64 {
        self.histogram.mean()
    }

    /// Each latency that occurred, rounded to the histogram's steps, with how often, from the shortest.
    pub fn steps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_merging() {
        for precision in [Precision::TwoDigits, Precision::ThreeDigits] {
            let mut a = LatencyRecorder::new(precision);
            let mut b = LatencyRecorder::new(precision);
            for value in 1..=500_u64 {
                a.record(value * 1000);
                b.record((500 + value) * 1000);
            }
            a.merge(&b);
            assert_eq!(a.count(), 1000);
            let median = a.quantile_ns(0.5);
            assert!((495_000..=505_000).contains(&median), "{median}");
            assert!(a.max_ns() >= 1_000_000);
            assert_eq!(a.steps().map(|(_, count)| count).sum::<u64>(), 1000);
            a.clear();
            assert_eq!(a.count(), 0);
        }
    }

    #[test]
    fn values_outside_of_the_bounds_are_counted_at_the_bounds() {
        let mut recorder = LatencyRecorder::new(Precision::TwoDigits);
        recorder.record(0);
        recorder.record(u64::MAX);
        assert_eq!(recorder.count(), 2);
        assert!(recorder.max_ns() >= NANOS_MAX);
    }
}
