//! Faults that an operator has a drive show, for tests and demonstrations.
//!
//! A drive without any costs its commands one load of a word that nobody writes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reactor::Nanos;

use super::Kind;
use crate::drive::DriveError;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Reads of these bytes fail until they are written anew.
    Media {
        /// First byte.
        at: u64,
        /// How many.
        bytes: u64,
    },
    /// Every command takes longer by this.
    Slow(Nanos),
    /// No command is answered.
    Hang,
    /// Every command fails.
    Error,
    /// The drive is well again, its unreadable bytes included.
    Clear,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is carried out, and answered this much later.
    Pass(Nanos),
    /// It fails.
    Fail(DriveError),
    /// It waits until the drive is well again.
    Park,
}

/// The faults of one drive, seen by all cores.
#[derive(Debug, Default)]
pub struct Faults {
    armed: AtomicBool,
    hang: AtomicBool,
    error: AtomicBool,
    slow: AtomicU64,
    /// Ranges that cannot be read: first byte, and the byte behind the last.
    bad: Mutex<Vec<(u64, u64)>>,
}

impl Faults {
    /// Whether there may be any.
    #[inline]
    pub fn armed(&self) -> bool {
        self.armed.load(Ordering::Acquire)
    }

    /// Whether commands are not answered.
    pub fn hangs(&self) -> bool {
        self.armed() && self.hang.load(Ordering::Relaxed)
    }

    /// Adds a fault, or takes all away.
    pub fn inject(&self, fault: Fault) {
        match fault {
            Fault::Media { at, bytes } => self.bad().push((at, at.saturating_add(bytes))),
            Fault::Slow(by) => self.slow.store(by, Ordering::Relaxed),
            Fault::Hang => self.hang.store(true, Ordering::Relaxed),
            Fault::Error => self.error.store(true, Ordering::Relaxed),
            Fault::Clear => {
                self.bad().clear();
                self.slow.store(0, Ordering::Relaxed);
                self.hang.store(false, Ordering::Relaxed);
                self.error.store(false, Ordering::Relaxed);
            }
        }
        self.armed.store(fault != Fault::Clear, Ordering::Release);
    }

    /// What becomes of a command. One that rewrites bytes makes them readable again, as a drive does that has spare
    /// blocks left.
    pub fn judge(&self, kind: Kind, at: u64, bytes: u32) -> Verdict {
        if self.hang.load(Ordering::Relaxed) {
            return Verdict::Park;
        }
        if self.error.load(Ordering::Relaxed) {
            return Verdict::Fail(DriveError::Io {
                errno: libc::EREMOTEIO,
            });
        }
        let end = at + u64::from(bytes);
        match kind {
            Kind::Read => {
                if self
                    .bad()
                    .iter()
                    .any(|&(first, behind)| first < end && at < behind)
                {
                    return Verdict::Fail(DriveError::Media);
                }
            }
            Kind::Write { .. } | Kind::Zero { .. } => rewrite(&mut self.bad(), at, end),
            Kind::Flush => {}
        }
        Verdict::Pass(self.slow.load(Ordering::Relaxed))
    }

    /// How much longer a command takes.
    pub fn slow(&self) -> Nanos {
        self.slow.load(Ordering::Relaxed)
    }

    fn bad(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u64)>> {
        self.bad.lock().expect("nobody panics while holding it")
    }
}

/// Cuts the bytes from `at` to `end` out of the ranges.
fn rewrite(bad: &mut Vec<(u64, u64)>, at: u64, end: u64) {
    let touches = |&(first, behind): &(u64, u64)| first < end && at < behind;
    if !bad.iter().any(touches) {
        return;
    }
    let cut = std::mem::take(bad);
    for range in cut {
        if !touches(&range) {
            bad.push(range);
            continue;
        }
        let (first, behind) = range;
        bad.extend((first < at).then_some((first, at)));
        bad.extend((end < behind).then_some((end, behind)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_bytes_stay_so_until_they_are_written() {
        let faults = Faults::default();
        assert!(!faults.armed());
        faults.inject(Fault::Media {
            at: 4096,
            bytes: 8192,
        });
        assert!(faults.armed() && !faults.hangs());
        let read = |at, bytes| faults.judge(Kind::Read, at, bytes);
        assert_eq!(read(0, 4096), Verdict::Pass(0));
        assert_eq!(read(0, 4097), Verdict::Fail(DriveError::Media));
        assert_eq!(read(12_287, 1), Verdict::Fail(DriveError::Media));
        assert_eq!(read(12_288, 4096), Verdict::Pass(0));
        let write = |at, bytes| faults.judge(Kind::Write { fua: false }, at, bytes);
        assert_eq!(write(6144, 2048), Verdict::Pass(0));
        assert_eq!(read(6144, 2048), Verdict::Pass(0), "written anew");
        assert_eq!(read(4096, 2049), Verdict::Fail(DriveError::Media), "before it");
        assert_eq!(read(8192, 1), Verdict::Fail(DriveError::Media), "behind it");
        let zero = Kind::Zero { fua: false };
        assert_eq!(faults.judge(zero, 0, 1 << 20), Verdict::Pass(0));
        assert_eq!(read(0, 1 << 20), Verdict::Pass(0));
    }

    #[test]
    fn a_drive_is_slow_errs_and_hangs_until_it_is_cleared() {
        let faults = Faults::default();
        faults.inject(Fault::Slow(5));
        assert_eq!(faults.judge(Kind::Flush, 0, 0), Verdict::Pass(5));
        faults.inject(Fault::Error);
        assert!(matches!(
            faults.judge(Kind::Read, 0, 512),
            Verdict::Fail(DriveError::Io { .. })
        ));
        faults.inject(Fault::Hang);
        assert!(faults.hangs());
        assert_eq!(faults.judge(Kind::Flush, 0, 0), Verdict::Park);
        faults.inject(Fault::Clear);
        assert!(!faults.armed() && !faults.hangs());
        assert_eq!(faults.judge(Kind::Read, 0, 512), Verdict::Pass(0));
    }
}
