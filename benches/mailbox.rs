//! How long does a message take from one core to another?
//!
//! Reactor's mailbox against a queue for many senders and receivers (crossbeam's ArrayQueue) and against one bare atomic
//! word, which is as fast as a cache line moves. Times are those of the clock on the wall and include reading it. No thread
//! is pinned: on a busy machine p99 is the scheduler's. Run with `cargo bench --bench mailbox`; `-- --quick` or
//! `BRAID_BENCH_QUICK=1` for smoke.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baseline::{Effort, Series, Unit, print_line, wall_ns};
use crossbeam_queue::ArrayQueue;
use reactor::mailbox::{self, mailbox};

/// As large as what cores tell each other: a tag and three words.
type Message = [u64; 4];

const ENTRIES: u32 = 1024;
/// Trips before those that count: the other thread has to start.
const TRIPS_IGNORED: usize = 100;
/// Looks in vain before the core is offered to another thread: both ends may share one.
const SPINS_MAX: u32 = 4096;
const ONCE: Unit = Unit::Nanoseconds { per_turn: 1 };

/// Sends one word, which is never 0, in a message; `false` if there is no room.
trait Sends: Send {
    fn send(&mut self, word: u64) -> bool;
}

/// Takes one message's word.
trait Receives: Send {
    fn receive(&mut self) -> Option<u64>;
}

impl Sends for mailbox::Sender<Message> {
    fn send(&mut self, word: u64) -> bool {
        self.push([word; 4]).is_ok()
    }
}

impl Receives for mailbox::Receiver<Message> {
    fn receive(&mut self) -> Option<u64> {
        self.pop().map(|message| message[3])
    }
}

impl Sends for Arc<ArrayQueue<Message>> {
    fn send(&mut self, word: u64) -> bool {
        self.push([word; 4]).is_ok()
    }
}

impl Receives for Arc<ArrayQueue<Message>> {
    fn receive(&mut self) -> Option<u64> {
        self.pop().map(|message| message[3])
    }
}

/// One word on lines of its own. A word that nobody took is overwritten.
#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicU64);

struct WordReceiver {
    word: Arc<Word>,
    seen: u64,
}

impl Sends for Arc<Word> {
    fn send(&mut self, word: u64) -> bool {
        self.0.store(word, Ordering::Release);
        true
    }
}

impl Receives for WordReceiver {
    fn receive(&mut self) -> Option<u64> {
        let word = self.word.0.load(Ordering::Acquire);
        (word != self.seen).then(|| {
            self.seen = word;
            word
        })
    }
}

fn open_queue() -> (Arc<ArrayQueue<Message>>, Arc<ArrayQueue<Message>>) {
    let queue = Arc::new(ArrayQueue::new(ENTRIES as usize));
    (Arc::clone(&queue), queue)
}

fn open_word() -> (Arc<Word>, WordReceiver) {
    let word = Arc::new(Word::default());
    (Arc::clone(&word), WordReceiver { word, seen: 0 })
}

/// Looks until there is something.
fn wait<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut spins = 0;
    loop {
        if let Some(found) = look() {
            return found;
        }
        spins += 1;
        if spins < SPINS_MAX {
            std::hint::spin_loop();
        } else {
            spins = 0;
            std::thread::yield_now();
        }
    }
}

/// Nanoseconds of each trip there, and of each there and back.
#[derive(Default)]
struct Trips {
    one_way: Vec<Vec<u64>>,
    round: Vec<Vec<u64>>,
}

impl Trips {
    /// One message at a time goes there, with the time in it, and back.
    fn measure<S: Sends, R: Receives>(&mut self, trips: usize, open: impl Fn() -> (S, R)) {
        let ((mut there, mut arrives), (mut back, mut returns)) = (open(), open());
        let mut round = Vec::with_capacity(trips);
        let one_way = std::thread::scope(|scope| {
            let other = scope.spawn(move || {
                let mut one_way = Vec::with_capacity(trips);
                for _ in 0..trips {
                    let sent = wait(|| arrives.receive());
                    one_way.push(wall_ns() - sent);
                    assert!(back.send(sent), "one message at a time fits");
                }
                one_way
            });
            for _ in 0..trips {
                let sent = wall_ns();
                assert!(there.send(sent), "one message at a time fits");
                assert_eq!(wait(|| returns.receive()), sent);
                round.push(wall_ns() - sent);
            }
            other.join().expect("the other end asserts what this one does")
        });
        self.one_way.push(one_way[TRIPS_IGNORED..].to_vec());
        self.round.push(round[TRIPS_IGNORED..].to_vec());
    }
}

/// Nanoseconds that `messages` take one after another as fast as the receiver makes room.
fn stream<S: Sends, R: Receives>(messages: u64, open: impl Fn() -> (S, R)) -> u64 {
    let (mut sender, mut receiver) = open();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for word in 1..=messages {
                wait(|| sender.send(word).then_some(()));
            }
        });
        // The clock starts with the first message, when both threads run.
        assert_eq!(wait(|| receiver.receive()), 1, "in order");
        let start = wall_ns();
        for word in 2..=messages {
            assert_eq!(wait(|| receiver.receive()), word, "in order");
        }
        wall_ns() - start
    })
}

fn main() {
    let effort = Effort::from_process();
    let rounds = effort.pick(31, 3);
    let trips = effort.pick(4_000, 400) + TRIPS_IGNORED;
    let messages = effort.pick(200_000, 5_000);
    let (mut ours, mut queue, mut word) = (Trips::default(), Trips::default(), Trips::default());
    let (mut our_streams, mut queue_streams) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.measure(trips, || mailbox::<Message>(ENTRIES));
        queue.measure(trips, open_queue);
        word.measure(trips, open_word);
        our_streams.push(vec![stream(messages, || mailbox::<Message>(ENTRIES))]);
        queue_streams.push(vec![stream(messages, open_queue)]);
    }
    println!("messages of 32 bytes from one thread to another, wall time");
    let one_way = |name, trips: &Trips| Series::new(name, &trips.one_way);
    let round = |name, trips: &Trips| Series::new(name, &trips.round);
    for (what, series) in [
        ("one way", &one_way as &dyn Fn(&'static str, &Trips) -> Series),
        ("there and back", &round),
    ] {
        let (ours, queue, word) = (
            series("mailbox", &ours),
            series("ArrayQueue", &queue),
            series("bare word", &word),
        );
        print_line(what, ONCE, &ours, &queue, None);
        print_line(what, ONCE, &ours, &word, None);
        print_line(what, ONCE, &queue, &word, None);
    }
    let each = Unit::Nanoseconds { per_turn: messages };
    let ours = Series::new("mailbox", &our_streams);
    print_line(
        "in a row, each",
        each,
        &ours,
        &Series::new("ArrayQueue", &queue_streams),
        None,
    );
}
