//! The tail under every interleaving and every memory order that the language allows.

use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicBool, Ordering};
use ::loom::thread;

use super::JournalShared;

/// A lane's core and the state of its one entry, as the checker sees it.
struct World {
    shared: JournalShared,
    retired: [AtomicBool; 2],
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            shared: JournalShared::new(2, 5),
            retired: [AtomicBool::new(false), AtomicBool::new(false)],
        })
    }

    /// One entry of a lane from its number to its end; returns the number.
    fn write(&self, lane: u16) -> u64 {
        let seq = self.shared.enter(lane);
        self.retired[usize::from(lane)].store(true, Ordering::SeqCst);
        self.shared.set_lowest(lane, None);
        seq
    }

    /// A tail, and which entries were retired before it was used.
    fn look(&self) -> (u64, [bool; 2]) {
        let tail = self.shared.tail();
        (tail, [0, 1].map(|lane| self.retired[lane].load(Ordering::SeqCst)))
    }
}

fn check((tail, retired): (u64, [bool; 2]), seqs: [u64; 2]) {
    for (seq, retired) in seqs.into_iter().zip(retired) {
        assert!(
            tail <= seq || retired,
            "tail {tail} passed {seq}, which is not retired"
        );
    }
}

/// Caught here: publishing after taking the number, and reading the lanes before the counter.
#[test]
fn the_tail_never_passes_an_entry_that_is_not_retired() {
    ::loom::model(|| {
        let world = World::new();
        let threads = [0, 1].map(|lane| {
            let world = Arc::clone(&world);
            thread::spawn(move || world.write(lane))
        });
        let seen = world.look();
        let seqs = threads.map(|thread| thread.join().expect("a lane ends"));
        check(seen, seqs);
        assert_ne!(seqs[0], seqs[1], "each entry has a number of its own");
        check(world.look(), seqs);
    });
}

/// A lane that looks while another one writes, as a core does when it encodes its next header.
#[test]
fn a_lane_that_has_an_entry_sees_the_others() {
    ::loom::model(|| {
        let world = World::new();
        let other = Arc::clone(&world);
        let thread = thread::spawn(move || other.write(1));
        let own = world.shared.enter(0);
        let seen = world.look();
        let seqs = [own, thread.join().expect("a lane ends")];
        check(seen, seqs);
        assert!(seen.0 <= own, "its own entry is not retired");
    });
}
