//! The longest time without a completion: what a failover costs whoever waits.

use reactor::Nanos;

/// A time in which nothing completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// How long it was.
    pub length_ns: Nanos,
    /// When it began, from the start of the measured time.
    pub at_ns: Nanos,
}

impl Gap {
    /// The longer one of the two.
    #[must_use]
    pub const fn longer(self, other: Self) -> Self {
        if other.length_ns > self.length_ns {
            other
        } else {
            self
        }
    }
}

/// Watches the completions of one core, from a moment on until it is told that that was all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    from: Nanos,
    last: Nanos,
    longest: Gap,
    is_over: bool,
}

impl Watch {
    /// Watches from then on; what completed before does not count.
    pub const fn since(from: Nanos) -> Self {
        Self {
            from,
            last: from,
            longest: Gap {
                length_ns: 0,
                at_ns: 0,
            },
            is_over: false,
        }
    }

    /// Something has completed.
    pub fn completed(&mut self, now: Nanos) {
        if !self.is_over && now >= self.last {
            let gap = Gap {
                length_ns: now - self.last,
                at_ns: self.last - self.from,
            };
            self.longest = self.longest.longer(gap);
            self.last = now;
        }
    }

    /// The end: what has not completed by then was a gap, too.
    pub fn end(&mut self, now: Nanos) {
        self.completed(now);
        self.is_over = true;
    }

    /// The longest gap so far.
    pub const fn longest(&self) -> Gap {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(length_ns: Nanos, at_ns: Nanos) -> Gap {
        Gap { length_ns, at_ns }
    }

    #[test]
    fn the_longest_gap_counts_from_the_start_to_the_end() {
        let mut watch = Watch::since(100);
        assert_eq!(watch.longest(), gap(0, 0));
        watch.completed(40); // In the warm-up.
        watch.completed(130);
        assert_eq!(watch.longest(), gap(30, 0), "before the first one");
        watch.completed(140);
        watch.completed(190);
        assert_eq!(watch.longest(), gap(50, 40));
        watch.completed(230);
        watch.end(300);
        assert_eq!(watch.longest(), gap(70, 130), "after the last one");
        watch.completed(900);
        assert_eq!(watch.longest(), gap(70, 130), "what comes later is not measured");
    }

    #[test]
    fn of_several_cores_the_longest_one_counts() {
        assert_eq!(gap(5, 1).longer(gap(7, 2)), gap(7, 2));
        assert_eq!(gap(7, 2).longer(gap(5, 1)), gap(7, 2));
    }
}
