//! A bounded queue from one thread to one other: what cores send each other messages through.
//!
//! Each end keeps a copy of the other's index and looks at the shared one only when the copy says that it must wait, so
//! that in steady state a message costs one transferred cache line. Indices count up for ever and wrap.

use std::mem::MaybeUninit;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicU32, Ordering, UnsafeCell};

struct Shared<M> {
    slots: Box<[UnsafeCell<MaybeUninit<M>>]>,
    /// The next slot to be read; written by the receiver only.
    head: CachePadded<AtomicU32>,
    /// The next slot to be written; written by the sender only.
    tail: CachePadded<AtomicU32>,
}

// SAFETY: slots from `head` to `tail` belong to the receiver, the others to the sender; a slot changes hands by a release
// store of the index and an acquire load by the other side. So a message is moved from one thread to another, and never
// used by both: `M: Send` is enough.
unsafe impl<M: Send> Sync for Shared<M> {}
// SAFETY: as above.
unsafe impl<M: Send> Send for Shared<M> {}

impl<M> Shared<M> {
    fn slot(&self, index: u32) -> &UnsafeCell<MaybeUninit<M>> {
        &self.slots[index as usize & (self.slots.len() - 1)]
    }
}

impl<M> Drop for Shared<M> {
    fn drop(&mut self) {
        let tail = self.tail.load(Ordering::Acquire);
        let mut head = self.head.load(Ordering::Acquire);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: both ends are gone, and slots from `head` to `tail` hold messages that nobody took.
                let slot = unsafe { &mut *slot };
                // SAFETY: as above; each is dropped once because `head` moves on.
                unsafe { slot.assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

/// The sending end. It may move to another thread, but not be used by two.
pub struct Sender<M> {
    shared: Arc<Shared<M>>,
    tail: u32,
    /// The receiver's index when last looked at: it may have moved on since, never back.
    head_seen: u32,
}

/// The receiving end. It may move to another thread, but not be used by two.
pub struct Receiver<M> {
    shared: Arc<Shared<M>>,
    head: u32,
    /// The sender's index when last looked at: it may have moved on since, never back.
    tail_seen: u32,
}

/// A mailbox for `entries` messages, a power of two.
pub fn mailbox<M: Send>(entries: u32) -> (Sender<M>, Receiver<M>) {
    assert!(
        entries.is_power_of_two() && entries <= 1 << 30,
        "indices wrap at a multiple of the length"
    );
    let slots = (0..entries)
        .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
        .collect();
    let head = CachePadded::new(AtomicU32::new(0));
    let tail = CachePadded::new(AtomicU32::new(0));
    let shared = Arc::new(Shared { slots, head, tail });
    let sender = Sender {
        shared: Arc::clone(&shared),
        tail: 0,
        head_seen: 0,
    };
    (
        sender,
        Receiver {
            shared,
            head: 0,
            tail_seen: 0,
        },
    )
}

impl<M: Send> Sender<M> {
    /// Hands `message` over, or gives it back when the mailbox is full.
    pub fn push(&mut self, message: M) -> Result<(), M> {
        let entries = u32::try_from(self.shared.slots.len()).expect("checked when it was made");
        if self.tail.wrapping_sub(self.head_seen) == entries {
            self.head_seen = self.shared.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == entries {
                return Err(message);
            }
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: the slot is not between `head` and `tail`, so it is the sender's, which we are the only one of.
            let slot = unsafe { &mut *slot };
            slot.write(message);
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<M: Send> Receiver<M> {
    /// The oldest message, if there is one.
    pub fn pop(&mut self) -> Option<M> {
        if self.is_empty() {
            return None;
        }
        let message = self.shared.slot(self.head).with_mut(|slot| {
            // SAFETY: the slot is between `head` and `tail`, so it is the receiver's, which we are the only one of.
            let slot = unsafe { &*slot };
            // SAFETY: the sender filled the slot before it moved `tail` on; `head` moves on below, so it is read once.
            unsafe { slot.assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(message)
    }

    /// Whether nothing is waiting. What is pushed meanwhile may be missed; see the doorbell for why that is enough.
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
        }
        self.head == self.tail_seen
    }
}
