//! How fast background work may go: a limit that the operator sets, and one that hosts' latency sets.
//!
//! The work pays for each row out of a credit that grows with time at the lower of the two rates. A row may
//! overdraw the credit, so that a rate below one row a second still makes progress, and then the work waits
//! until the debt is paid. The second rate follows the hosts: as soon as their latency is above its target
//! it is half of what was achieved, and for each measurement below it grows by a fixed step (additive
//! increase, multiplicative decrease). Without hosts there is no second rate.

use super::Limits;

/// Measurements without a host command after which the hosts count as away: with ten a second, half a second.
const IDLE_TICKS: u32 = 5;
/// What the work keeps whatever the hosts' latency is, so that redundancy comes back some day: 4 MiB/s.
const RATE_FLOOR: u64 = 4 << 20;
/// By how much the rate grows with each measurement below the target: ten a second make 20 MiB/s each second.
const RATE_STEP: u64 = 2 << 20;
/// Credit that is kept at most, as time at the current rate: a pause is not made up for by a burst.
const CREDIT_NS_MAX: u64 = 20_000_000;
/// Longest span that credit or rate are computed over, which also keeps the products in range: 10 s.
const SPAN_NS_MAX: u64 = 10_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;

/// What hosts saw of a group since the last measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostLoad {
    /// Commands that were completed.
    pub commands: u64,
    /// The 99th percentile of their latency, in nanoseconds; of no meaning without commands.
    pub p99_ns: u64,
}

/// Decides whether one more row may be begun.
#[derive(Debug)]
pub(super) struct Throttle {
    limits: Limits,
    /// What hosts' latency allows, in bytes a second; `None` when it is no reason to hold back.
    adaptive: Option<u64>,
    /// Measurements without a host command, up to `IDLE_TICKS`.
    idle_ticks: u32,
    /// What may be spent, in bytes; negative when the last row was more than there was.
    credit: i64,
    /// When `credit` was computed.
    credit_at_ns: u64,
    /// Bytes of the rows that were done since `measured_at_ns`.
    done_bytes: u64,
    measured_at_ns: u64,
    /// What is being achieved, in bytes a second, smoothed.
    achieved: u64,
}

impl Throttle {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            adaptive: None,
            idle_ticks: IDLE_TICKS,
            credit: 0,
            credit_at_ns: 0,
            done_bytes: 0,
            measured_at_ns: 0,
            achieved: 0,
        }
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.adaptive = None;
        self.credit = self.credit.max(0); // A debt at the old rate could take very long at the new one.
    }

    /// Whether hosts have been using the group lately.
    pub(super) const fn hosts_are_active(&self) -> bool {
        self.idle_ticks < IDLE_TICKS
    }

    /// Bytes a second that are being achieved.
    pub(super) const fn achieved(&self) -> u64 {
        self.achieved
    }

    /// The rate that holds now, in bytes a second; `None` for as fast as it goes.
    pub(super) fn rate(&self) -> Option<u64> {
        match (self.limits.rate, self.adaptive) {
            (Some(limit), Some(adaptive)) => Some(limit.min(adaptive)),
            (limit, adaptive) => limit.or(adaptive),
        }
    }

    /// Whether hosts' latency, and not the operator, is what limits the work.
    pub(super) fn is_held_by_hosts(&self) -> bool {
        self.adaptive
            .is_some_and(|adaptive| self.limits.rate.is_none_or(|limit| adaptive < limit))
    }

    /// Work begins, perhaps after a long time without any.
    pub(super) fn start(&mut self, now_ns: u64) {
        self.credit = 0;
        self.credit_at_ns = now_ns;
        self.done_bytes = 0;
        self.measured_at_ns = now_ns;
        self.achieved = 0;
    }

    /// Takes a measurement of the hosts, and one of the work.
    pub(super) fn measure(&mut self, now_ns: u64, hosts: HostLoad) {
        self.measure_work(now_ns);
        if hosts.commands > 0 {
            self.idle_ticks = 0;
        } else {
            self.idle_ticks = (self.idle_ticks + 1).min(IDLE_TICKS);
        }
        let Some(target_ns) = self.limits.latency_target_ns else {
            return;
        };
        if !self.hosts_are_active() {
            self.adaptive = None;
        } else if hosts.commands > 0 && hosts.p99_ns > target_ns {
            let from = self.rate().unwrap_or(u64::MAX).min(self.achieved);
            self.adaptive = Some((from / 2).max(RATE_FLOOR));
        } else if hosts.commands > 0
            && let Some(adaptive) = self.adaptive
        {
            // Far above what is achieved it limits nothing, and would take long to come down from.
            let grown = adaptive + RATE_STEP;
            self.adaptive = (grown <= self.achieved.saturating_mul(2).max(2 * RATE_FLOOR)).then_some(grown);
        }
    }

    fn measure_work(&mut self, now_ns: u64) {
        let span_ns = now_ns.saturating_sub(self.measured_at_ns).min(SPAN_NS_MAX);
        if span_ns == 0 {
            return;
        }
        let rate = per_second(self.done_bytes, span_ns);
        // A quarter of each measurement: with ten a second, nine tenths of a change within a second.
        self.achieved = if self.achieved == 0 {
            rate
        } else {
            self.achieved - self.achieved / 4 + rate / 4
        };
        self.done_bytes = 0;
        self.measured_at_ns = now_ns;
    }

    /// Whether a row of so many bytes may be begun; pays for it if so.
    pub(super) fn try_take(&mut self, now_ns: u64, bytes: u64) -> bool {
        let Some(rate) = self.rate() else {
            self.credit = 0;
            self.credit_at_ns = now_ns;
            return true;
        };
        let span_ns = now_ns.saturating_sub(self.credit_at_ns).min(SPAN_NS_MAX);
        let earned = signed(earned(rate, span_ns));
        if earned > 0 {
            // Less than a byte stays uncounted until it is one.
            self.credit_at_ns = now_ns;
            self.credit = self
                .credit
                .saturating_add(earned)
                .min(signed(self::earned(rate, CREDIT_NS_MAX)));
        }
        if self.credit < 0 {
            return false;
        }
        self.credit -= signed(bytes);
        true
    }

    /// When the next row may be begun, if a debt has to be paid first.
    pub(super) fn ready_at_ns(&self) -> Option<u64> {
        let rate = self.rate()?;
        let debt = u64::try_from(self.credit.checked_neg()?)
            .ok()
            .filter(|debt| *debt > 0)?;
        let wait = u128::from(debt) * u128::from(SECOND_NS) / u128::from(rate) + 1;
        Some(
            self.credit_at_ns
                .saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)),
        )
    }

    /// A row of so many bytes is done.
    pub(super) fn done(&mut self, bytes: u64) {
        self.done_bytes = self.done_bytes.saturating_add(bytes);
    }
}

/// Bytes that `rate` bytes a second make in a span.
fn earned(rate: u64, span_ns: u64) -> u64 {
    let bytes = u128::from(rate) * u128::from(span_ns) / u128::from(SECOND_NS);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn per_second(bytes: u64, span_ns: u64) -> u64 {
    let rate = u128::from(bytes) * u128::from(SECOND_NS) / u128::from(span_ns);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK_NS: u64 = 100_000_000;
    const ROW: u64 = 256 << 10;
    const MIB: u64 = 1 << 20;

    fn limits(rate_mib: Option<u64>, target_us: Option<u64>) -> Limits {
        Limits {
            rate: rate_mib.map(|mib| mib * MIB),
            latency_target_ns: target_us.map(|us| us * 1000),
        }
    }

    const fn load(commands: u64, p99_us: u64) -> HostLoad {
        HostLoad {
            commands,
            p99_ns: p99_us * 1000,
        }
    }

    /// Begins rows for a second, one after another, as fast as it may and `capacity` allows; measures each 100 ms.
    fn run_second(throttle: &mut Throttle, from_ns: u64, capacity: u64, hosts: HostLoad) -> u64 {
        let row_ns = ROW * SECOND_NS / capacity;
        let (mut now, mut bytes, mut tick) = (from_ns, 0, from_ns + TICK_NS);
        while now < from_ns + SECOND_NS {
            if now >= tick {
                throttle.measure(now, hosts);
                tick += TICK_NS;
            }
            if throttle.try_take(now, ROW) {
                bytes += ROW;
                throttle.done(ROW);
                now += row_ns;
            } else {
                let ready = throttle.ready_at_ns().expect("a debt is what holds it back");
                assert!(ready > now, "time goes on");
                now = ready.min(tick);
            }
        }
        bytes
    }

    /// Goal: a rate limit is kept, and used up, whether rows are larger or smaller than what a tick earns.
    #[test]
    fn the_rate_limit_is_kept_and_used_up() {
        for mib in [1, 3, 100, 5000] {
            let mut throttle = Throttle::new(limits(Some(mib), None));
            throttle.start(7);
            let moved = (0..5)
                .map(|second| run_second(&mut throttle, 7 + second * SECOND_NS, 50_000 * MIB, load(0, 0)))
                .sum::<u64>();
            let wanted = mib * MIB * 5;
            let slack = wanted / 40 + 2 * ROW;
            assert!(
                moved.abs_diff(wanted) <= slack,
                "{mib} MiB/s: {moved} bytes in 5 s"
            );
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for_by_a_burst() {
        let mut throttle = Throttle::new(limits(Some(100), None));
        throttle.start(0);
        let mut rows = 0;
        while throttle.try_take(3600 * SECOND_NS, ROW) {
            rows += 1;
        }
        assert!(
            rows * ROW <= 100 * MIB / 50 + ROW,
            "{rows} rows at once after an hour"
        );
    }

    /// Goal: above the target the work halves down to the floor, below it it comes back, without hosts it is free.
    #[test]
    fn hosts_latency_halves_the_rate_and_gives_it_back_slowly() {
        let mut throttle = Throttle::new(limits(None, Some(500)));
        throttle.start(0);
        let full = run_second(&mut throttle, 0, 800 * MIB, load(100, 400));
        assert!(full > 790 * MIB, "below the target nothing is held back");
        throttle.measure(SECOND_NS, load(100, 600));
        let halved = throttle.rate().expect("held back");
        assert!(halved.abs_diff(400 * MIB) < 30 * MIB, "{halved}");
        assert!(throttle.is_held_by_hosts());
        run_second(&mut throttle, SECOND_NS, 800 * MIB, load(100, 600));
        assert_eq!(throttle.rate(), Some(RATE_FLOOR), "but never less than the floor");
        run_second(&mut throttle, 2 * SECOND_NS, 800 * MIB, load(100, 400));
        let back = throttle.rate().expect("it comes back in steps");
        assert!(
            (RATE_FLOOR + 5 * RATE_STEP..=RATE_FLOOR + 10 * RATE_STEP).contains(&back),
            "{back}"
        );
        for tick in 0..u64::from(IDLE_TICKS) {
            assert!(throttle.rate().is_some());
            throttle.measure(3 * SECOND_NS + tick * TICK_NS, load(0, 0));
        }
        assert_eq!(throttle.rate(), None, "without hosts it goes at full speed");
        assert!(!throttle.hosts_are_active());
    }

    /// Goal: the lower of both limits holds; a measurement without commands says nothing about latency.
    #[test]
    fn the_lower_limit_holds_and_silence_is_no_measurement() {
        let mut throttle = Throttle::new(limits(Some(10), Some(500)));
        throttle.start(0);
        run_second(&mut throttle, 0, 800 * MIB, load(10, 900));
        assert_eq!(throttle.rate(), Some(RATE_FLOOR));
        throttle.measure(SECOND_NS + 1, load(0, 900));
        assert_eq!(throttle.rate(), Some(RATE_FLOOR), "nothing was measured");
        throttle.set_limits(limits(Some(1), Some(500)));
        assert_eq!(throttle.rate(), Some(MIB));
        assert!(!throttle.is_held_by_hosts());
    }

    #[test]
    fn a_new_limit_forgives_the_debt() {
        let mut throttle = Throttle::new(limits(Some(1), None));
        throttle.start(0);
        assert!(throttle.try_take(0, 1 << 30), "a row may overdraw");
        assert!(!throttle.try_take(SECOND_NS, ROW), "and is then paid for");
        throttle.set_limits(limits(Some(500), None));
        assert!(throttle.try_take(SECOND_NS, ROW));
    }

    /// Goal: no number is too large and no time too odd.
    #[test]
    fn absurd_numbers_do_not_overflow() {
        let mut throttle = Throttle::new(Limits {
            rate: Some(u64::MAX),
            latency_target_ns: Some(1),
        });
        throttle.start(u64::MAX - 1);
        assert!(throttle.try_take(u64::MAX, u64::MAX));
        throttle.done(u64::MAX);
        throttle.measure(
            u64::MAX,
            HostLoad {
                commands: u64::MAX,
                p99_ns: u64::MAX,
            },
        );
        assert!(throttle.ready_at_ns().is_none_or(|at| at >= u64::MAX - 1));
        throttle.measure(0, load(1, 1));
        assert!(throttle.achieved() > 0);
    }
}
