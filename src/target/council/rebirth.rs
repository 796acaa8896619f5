//! How long a node waits between two of its lives.
//!
//! A life that others went on without is followed by another one soon. One that could not serve would most likely end in the same way again, and each life has the others begin an
//! epoch: so the pauses get longer as long as that is so.

use std::time::Duration;

/// Pause between a life that has ended and the next one.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(60);
/// A life that has lasted for so long was none that could not serve.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// The pauses of one node.
#[derive(Debug, Default)]
pub struct Rebirth {
    /// Why the last life could not serve, and the pause that followed.
    failed: Option<(String, Duration)>,
}

/// What follows a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long.
    pub time: Duration,
    /// The life before has ended in the same way: that was said already.
    pub is_known: bool,
}

impl Rebirth {
    /// A life has ended because others went on without it, or it could not go on.
    pub fn lost(&mut self) -> Pause {
        self.failed = None;
        Pause {
            time: SHORTEST,
            is_known: false,
        }
    }

    /// A life that has lasted for so long has ended because it could not serve.
    pub fn failed(&mut self, why: &str, lasted: Duration) -> Pause {
        let before = self.failed.take().filter(|_| lasted < GOOD_LIFE);
        let is_known = before.as_ref().is_some_and(|(known, _)| known == why);
        let time = before.map_or(SHORTEST, |(_, pause)| (pause * 2).min(LONGEST));
        self.failed = Some((why.to_owned(), time));
        Pause { time, is_known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    fn pause(seconds: u64, is_known: bool) -> Pause {
        Pause {
            time: Duration::from_secs(seconds),
            is_known,
        }
    }

    #[test]
    fn lives_that_cannot_serve_begin_less_and_less_often_and_are_said_once() {
        let mut rebirth = Rebirth::default();
        assert_eq!(rebirth.failed("a", SHORT), pause(1, false));
        assert_eq!(rebirth.failed("a", SHORT), pause(2, true));
        assert_eq!(
            rebirth.failed("b", SHORT),
            pause(4, false),
            "another reason is said"
        );
        let later: Vec<u64> = (0..5)
            .map(|_| rebirth.failed("b", SHORT).time.as_secs())
            .collect();
        assert_eq!(later, [8, 16, 32, 60, 60]);
    }

    #[test]
    fn whoever_has_served_begins_again_soon() {
        let mut rebirth = Rebirth::default();
        rebirth.failed("a", SHORT);
        rebirth.failed("a", SHORT);
        assert_eq!(rebirth.failed("a", GOOD_LIFE), pause(1, false));
        rebirth.failed("a", SHORT);
        assert_eq!(rebirth.lost(), pause(1, false));
        assert_eq!(rebirth.failed("a", SHORT), pause(1, false));
    }
}
