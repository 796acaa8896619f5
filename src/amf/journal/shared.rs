//! What the lanes of one group share: the sequence numbers, and from where on they are still needed.
//!
//! Owns one counter and one word a lane: the lowest number of an entry of that lane that is not retired.
//! Each word has one writer, its lane's core; anybody reads. Invariant: [`JournalShared::tail`] is never
//! above the number of an entry that is not retired, whatever the other cores do meanwhile, because
//! replay ignores everything below the largest tail that it finds.
//!
//! Where nodes share a journal each has its own lanes and one such value; of the others' lanes it knows one bound. Numbers of an entry are above those
//! of all entries that its writer has heard of ([`JournalShared::raise`]), so that a row's entries ascend from node to node as its lock does.
//!
//! Why that holds: a lane without entries publishes a lower bound *before* it takes a number, and the
//! tail reads the counter before it reads the lanes. Either it sees the bound; or it read the lane's word
//! before the bound was there, so the number is taken later and is not below the counter that was read.

#[cfg(all(test, loom))]
mod loom;

#[cfg(loom)]
use ::loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// No entry of the lane waits for anything.
const NONE: u64 = u64::MAX;

/// A word of its own pair of cache lines, because each core writes its own often.
#[derive(Debug)]
#[repr(align(128))]
struct Word(AtomicU64);

/// Sequence numbers of all lanes of one group, shared by the cores.
#[derive(Debug)]
pub struct JournalShared {
    next: Word,
    lowest: Box<[Word]>,
    /// No entry of another node's lane below this is needed.
    elsewhere: Word,
}

impl JournalShared {
    /// Starts the sequence at `start`, which is above every number that replay found, with `lanes` lanes
    /// that have no entries.
    ///
    /// Panics without lanes.
    pub fn new(lanes: u16, start: u64) -> Self {
        assert!(lanes > 0, "somebody writes the journal");
        assert!(start < NONE, "there are numbers left");
        Self {
            next: Word(AtomicU64::new(start)),
            lowest: (0..lanes).map(|_| Word(AtomicU64::new(NONE))).collect(),
            elsewhere: Word(AtomicU64::new(NONE)),
        }
    }

    /// The same where other nodes write lanes, too: until they are heard the tail stays at `start`.
    pub fn among_nodes(lanes: u16, start: u64) -> Self {
        let shared = Self::new(lanes, start);
        shared.set_elsewhere(Some(start));
        shared
    }

    /// The same for a node that comes to others which have the group open: of their lanes entries below `start` may be needed, so that nothing is known to be retired
    /// until they are heard.
    pub fn joining(lanes: u16, start: u64) -> Self {
        let shared = Self::new(lanes, start);
        shared.set_elsewhere(Some(0));
        shared
    }

    /// The numbers of entries from now on are at least this: another node has used those below.
    pub fn raise(&self, next: u64) {
        assert!(next < NONE, "there are numbers left");
        self.next.0.fetch_max(next, Ordering::SeqCst);
    }

    /// All entries of other nodes' lanes below this are retired, and they take no lower numbers any more; `None` if there are no other nodes.
    pub fn set_elsewhere(&self, bound: Option<u64>) {
        self.elsewhere.0.store(bound.unwrap_or(NONE), Ordering::SeqCst);
    }

    /// As [`Self::tail`], for the lanes of this node alone: what other nodes are told.
    pub fn own_tail(&self) -> u64 {
        // The counter first: see the head of this file.
        let next = self.next.0.load(Ordering::SeqCst);
        let lanes = self.lowest.iter().map(|word| word.0.load(Ordering::SeqCst));
        lanes.fold(next, u64::min)
    }

    /// Takes the number of an entry of `lane`; from now on the tail stays at or below it until
    /// [`JournalShared::set_lowest`] moves on. Called by the lane's own core, under the row's lock.
    pub fn enter(&self, lane: u16) -> u64 {
        let word = self.word(lane);
        // The one writer of this word is the caller.
        let first = word.load(Ordering::Relaxed) == NONE;
        if first {
            word.store(self.next.0.load(Ordering::SeqCst), Ordering::SeqCst);
        }
        let seq = self.next();
        if first {
            word.store(seq, Ordering::SeqCst);
        }
        seq
    }

    /// Takes a number for an entry of a lane that has an entry with a lower one.
    pub fn next(&self) -> u64 {
        let seq = self.next.0.fetch_add(1, Ordering::SeqCst);
        assert!(seq < NONE - 1, "64 bits of numbers are never used up");
        seq
    }

    /// Says the lowest number of an entry of `lane` that is not retired, `None` if all are.
    ///
    /// Called by the lane's own core. Panics if that goes backwards: what is retired stays so.
    pub fn set_lowest(&self, lane: u16, seq: Option<u64>) {
        let word = self.word(lane);
        let new = seq.unwrap_or(NONE);
        assert!(
            new >= word.load(Ordering::Relaxed),
            "what is retired is not needed again"
        );
        word.store(new, Ordering::SeqCst);
    }

    /// Grows with every entry of every lane.
    pub fn entered(&self) -> u64 {
        self.next.0.load(Ordering::Relaxed)
    }

    /// A number below which every entry of every lane is retired.
    pub fn tail(&self) -> u64 {
        self.own_tail().min(self.elsewhere.0.load(Ordering::SeqCst))
    }

    fn word(&self, lane: u16) -> &AtomicU64 {
        &self.lowest[usize::from(lane)].0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_from_the_start_over_all_lanes() {
        let shared = JournalShared::new(3, 40);
        assert_eq!(shared.tail(), 40);
        assert_eq!(
            (shared.enter(0), shared.enter(2), shared.enter(0), shared.next()),
            (40, 41, 42, 43)
        );
    }

    #[test]
    fn the_tail_is_the_lowest_that_is_not_retired() {
        let shared = JournalShared::new(2, 10);
        let (a, b, c) = (shared.enter(0), shared.enter(1), shared.enter(0));
        assert_eq!((a, b, c, shared.tail()), (10, 11, 12, 10));
        shared.set_lowest(0, Some(c));
        assert_eq!(shared.tail(), b);
        shared.set_lowest(1, None);
        assert_eq!(shared.tail(), c);
        shared.set_lowest(0, None);
        assert_eq!(
            shared.tail(),
            13,
            "all are retired: the next one is the first that counts"
        );
        assert_eq!((shared.enter(1), shared.tail()), (13, 13));
    }

    /// PROTOCOL H19: a row's entries ascend as its lock goes from node to node, and nobody forgets what is needed against another's older entry.
    #[test]
    fn nodes_take_numbers_above_those_that_they_have_heard_of() {
        let [here, there] = [0, 1].map(|_| JournalShared::among_nodes(2, 10));
        let first = here.enter(0);
        assert_eq!((first, here.tail(), here.own_tail()), (10, 10, 10));
        there.raise(here.entered());
        let second = there.enter(0);
        assert!(second > first);
        there.set_lowest(0, None);
        assert_eq!(there.tail(), 10, "the older entry is needed still");
        here.set_lowest(0, None);
        there.set_elsewhere(Some(here.own_tail()));
        assert_eq!(there.tail(), here.own_tail());
        here.raise(there.entered());
        there.set_elsewhere(Some(here.own_tail()));
        assert_eq!(there.tail(), there.entered(), "nothing is needed any more");
    }

    #[test]
    #[should_panic(expected = "what is retired is not needed again")]
    fn retiring_goes_forwards_only() {
        let shared = JournalShared::new(1, 0);
        let first = shared.enter(0);
        let second = shared.enter(0);
        shared.set_lowest(0, Some(second));
        shared.set_lowest(0, Some(first));
    }

    #[test]
    #[should_panic(expected = "somebody writes the journal")]
    fn a_journal_has_lanes() {
        let _ = JournalShared::new(0, 0);
    }
}
