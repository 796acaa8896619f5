//! What a core counts, and the page through which other threads read it.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What one core counted since it started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Each counter with its name, in a fixed order.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        /// The counters as they were when the core last published them.
        #[derive(Debug, Default)]
        struct Page {
            $($name: AtomicU64,)*
        }

        impl Page {
            fn store(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Ordering::Relaxed);)*
            }

            fn load(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Turns of the loop.
    turns,
    /// Turns that found something to do.
    busy_turns,
    /// System calls that submitted or waited.
    enters,
    /// Operations that were given to the kernel.
    submissions,
    /// Completions that came back.
    completions,
    /// Times that the core slept in the ring.
    sleeps,
    /// Times that another thread woke it.
    wakes,
    /// Nanoseconds asleep.
    sleep_ns,
    /// Turns that took longer than `STALL_NS`: something blocked the core, or the system did not run it.
    stalls,
    /// The longest turn in nanoseconds.
    turn_ns_max,
    /// Bytes that sockets received.
    received_bytes,
    /// Receives that found no free buffer and were armed again.
    receive_starved,
    /// Bytes that sockets sent.
    sent_bytes,
    /// Batches that were sent.
    sends,
    /// Batches that needed more than one submission.
    sends_continued,
    /// Bytes read from files.
    file_read_bytes,
    /// Bytes written to files.
    file_written_bytes,
    /// File operations that ended.
    file_operations,
    /// Messages that came in.
    messages_received,
    /// Messages that went out to other cores.
    messages_sent,
    /// Messages that found the other core's mailbox full.
    messages_refused,
    /// Timers that fired.
    timers,
    /// Connections that were accepted.
    accepts,
    /// Times that the completion ring overflowed: completions were late but not lost.
    completion_overflows,
}

/// A turn that takes longer is counted as a stall: a hundred times what a full turn takes.
pub(crate) const STALL_NS: u64 = 10_000_000;

/// Counters of one core as other threads see them: each is right, together they may be of slightly different times.
#[derive(Debug, Default)]
pub(crate) struct Published(CachePadded<Page>);

impl Published {
    pub(crate) fn store(&self, counters: &Counters) {
        self.0.store(counters);
    }

    pub(crate) fn load(&self) -> Counters {
        self.0.load()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_what_is_read() {
        let counters = Counters {
            turns: 7,
            accepts: 3,
            completion_overflows: 1,
            ..Counters::default()
        };
        let published = Published::default();
        published.store(&counters);
        assert_eq!(published.load(), counters);
        assert_eq!(counters.named().filter(|(_, value)| *value > 0).count(), 3);
        assert_eq!(counters.named().next(), Some(("turns", 7)));
    }
}
