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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_in_order_across_the_wrap() {
        let (mut sender, mut receiver) = mailbox(4);
        let (mut sent, mut received) = (0_u32, 0_u32);
        for round in 0..1000 {
            for _ in 0..round % 6 {
                if sender.push(sent).is_ok() {
                    sent += 1;
                }
            }
            assert!(sent - received <= 4);
            for _ in 0..round % 5 {
                if let Some(message) = receiver.pop() {
                    assert_eq!(message, received);
                    received += 1;
                }
            }
        }
        assert!(sent > 1000);
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (mut sender, mut receiver) = mailbox(2);
        assert!(receiver.is_empty());
        assert_eq!(
            (sender.push('a'), sender.push('b'), sender.push('c')),
            (Ok(()), Ok(()), Err('c'))
        );
        assert_eq!(receiver.pop(), Some('a'));
        assert_eq!(sender.push('c'), Ok(()));
        assert_eq!(
            (receiver.pop(), receiver.pop(), receiver.pop()),
            (Some('b'), Some('c'), None)
        );
    }

    #[test]
    fn what_nobody_took_is_dropped_once() {
        let counted = std::sync::Arc::new(());
        let (mut sender, mut receiver) = mailbox(8);
        for _ in 0..5 {
            sender.push(std::sync::Arc::clone(&counted)).unwrap();
        }
        drop(receiver.pop());
        assert_eq!(std::sync::Arc::strong_count(&counted), 5);
        drop(sender);
        drop(receiver);
        assert_eq!(std::sync::Arc::strong_count(&counted), 1);
    }

    #[test]
    fn two_threads_lose_nothing() {
        let (mut sender, mut receiver) = mailbox(16);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for number in 0..100_000_u64 {
                    let mut number = number;
                    while let Err(back) = sender.push(number) {
                        number = back;
                        std::thread::yield_now();
                    }
                }
            });
            for expected in 0..100_000_u64 {
                let got = loop {
                    if let Some(got) = receiver.pop() {
                        break got;
                    }
                    std::thread::yield_now();
                };
                assert_eq!(got, expected);
            }
        });
    }
}

/// All interleavings, with `RUSTFLAGS="--cfg loom" cargo test -p reactor --release --lib loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::doorbell::Doorbell;

    #[test]
    fn loom_messages_move_between_threads() {
        loom::model(|| {
            let (mut sender, mut receiver) = mailbox::<Box<u32>>(2);
            let thread = loom::thread::spawn(move || {
                let mut refused = 0;
                for number in 0..3 {
                    refused += u32::from(sender.push(Box::new(number)).is_err());
                }
                refused
            });
            let mut got = Vec::new();
            for _ in 0..3 {
                got.extend(receiver.pop().map(|number| *number));
                loom::thread::yield_now();
            }
            let refused = thread.join().unwrap();
            while let Some(number) = receiver.pop() {
                got.push(*number);
            }
            assert!(got.is_sorted());
            assert_eq!(got.len(), 3 - refused as usize);
        });
    }

    /// The sleeper that found nothing sleeps only if it is going to be woken: after the sender is done, there is no
    /// message left without a bell that was rung or a sleeper that stayed awake.
    #[test]
    fn loom_no_wake_up_is_lost() {
        loom::model(|| {
            let (mut sender, mut receiver) = mailbox::<u32>(2);
            let bell = Arc::new(Doorbell::new());
            let theirs = Arc::clone(&bell);
            let thread = loom::thread::spawn(move || {
                sender.push(1).unwrap();
                theirs.must_ring()
            });
            bell.announce();
            let stays_awake = !receiver.is_empty();
            let rung = thread.join().unwrap();
            assert!(stays_awake || rung, "asleep with a message and nobody rang");
        });
    }

    /// Of two senders exactly one rings for one announcement.
    #[test]
    fn loom_one_of_two_senders_rings() {
        loom::model(|| {
            let bell = Arc::new(Doorbell::new());
            bell.announce();
            let theirs = Arc::clone(&bell);
            let thread = loom::thread::spawn(move || theirs.must_ring());
            let ours = bell.must_ring();
            assert!(ours ^ thread.join().unwrap());
        });
    }
}
