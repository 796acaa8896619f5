//! Waking a core that sleeps, and not waking one that does not.
//!
//! The sleeper announces itself, then looks for work a last time; the sender hands work over, then looks whether the
//! sleeper announced itself. Each does its store before its load, with a sequentially consistent fence between, so at
//! least one of them sees the other: work is found before sleeping, or the bell is rung.

use crate::sync::{AtomicBool, Ordering, fence};

/// The announcement of one core.
#[derive(Debug)]
pub(crate) struct Doorbell {
    sleeping: AtomicBool,
}

impl Doorbell {
    pub(crate) fn new() -> Self {
        Self {
            sleeping: AtomicBool::new(false),
        }
    }

    /// The core is about to sleep: it must look for work once more after this, and sleep only if it finds none.
    pub(crate) fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core is awake.
    pub(crate) fn withdraw(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// After work was handed over: whether the caller must wake the core. Of several callers one is told so.
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}
