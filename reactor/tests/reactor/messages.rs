//! Messages between cores and from outside; sleeping and waking.

use std::sync::mpsc;
use std::time::Duration;

use reactor::{CoreIndex, Options, PollMode, Token};

use crate::support::{Bench, CORE, Command, Happened, PATIENCE, options};

const OTHER: CoreIndex = CoreIndex(1);

/// Posts the next message of a game of `left` more, from whichever core it runs on.
fn serve(left: u32, done: mpsc::Sender<u32>) -> Command {
    Command::new(move |io| {
        if left == 0 {
            let _ = done.send(0); // The test may be over.
            return;
        }
        let other = if io.core() == CORE { OTHER } else { CORE };
        assert!(
            io.post(other, serve(left - 1, done)).is_ok(),
            "one ball is in play"
        );
    })
}

/// Goal: no wake-up is lost, in any poll mode: each ball but the first comes to a core that sleeps or is about to.
#[test]
fn ping_pong_between_cores() {
    let modes = [
        (PollMode::Interrupt, 20_000),
        (
            PollMode::Adaptive {
                spin: Duration::from_micros(20),
            },
            20_000,
        ),
        (PollMode::Busy, 200),
    ];
    for (poll, rounds) in modes {
        let bench = Bench::start(Options {
            cores: 2,
            poll,
            ..options()
        });
        let (done, finished) = mpsc::channel();
        assert!(bench.remote.post(CORE, serve(rounds, done)).is_ok());
        assert_eq!(finished.recv_timeout(PATIENCE), Ok(0));
        if poll == PollMode::Interrupt {
            let counters = bench.on_core(|io| *io.counters());
            assert!(counters.sleeps > 0 && counters.wakes > 0, "{counters:?}");
        }
        assert!(matches!(
            bench.end().as_slice(),
            [Happened::Stopping, Happened::Stopping]
        ));
    }
}

/// Goal: messages of one sender arrive in order; a full mailbox gives the message back and nothing is lost.
#[test]
fn full_mailboxes_give_back() {
    let bench = Bench::start(Options {
        cores: 2,
        mailbox_entries: 4,
        ..options()
    });
    for target in [CORE, OTHER] {
        let (sender, receiver) = mpsc::channel();
        // The receiving core is kept busy until the sender has filled its mailbox.
        let (open, gate) = mpsc::channel::<()>();
        if target == OTHER {
            let wait = Command::new(move |_| gate.recv_timeout(PATIENCE).expect("the sender opens it"));
            assert!(bench.remote.post(OTHER, wait).is_ok());
        }
        let accepted = bench.on_core(move |io| {
            let mut accepted = 0;
            for number in 0..10 {
                let sender = sender.clone();
                let message = Command::new(move |_| sender.send(number).expect("the test waits"));
                accepted += u32::from(io.post(target, message).is_ok());
            }
            let _ = open.send(()); // Nobody waits for it when the core sends to itself.
            accepted
        });
        assert_eq!(accepted, 4);
        let got: Vec<u32> = (0..4)
            .map(|_| receiver.recv_timeout(PATIENCE).expect("it comes"))
            .collect();
        assert_eq!(got, [0, 1, 2, 3]);
        assert!(
            receiver.recv().is_err(),
            "the refused ones are gone with their senders"
        );
    }
    assert_eq!(bench.on_core(|io| io.counters().messages_refused), 12);
}

/// Goal: several outside threads reach sleeping cores, and nothing is lost.
#[test]
fn outside_threads_reach_sleeping_cores() {
    let bench = Bench::start(Options {
        cores: 2,
        ..options()
    });
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (remote, sender) = (bench.remote.clone(), sender.clone());
            scope.spawn(move || {
                for number in 0..2000_u32 {
                    let sender = sender.clone();
                    let mut message = Command::new(move |_| {
                        let _ = sender.send((thread, number)); // The test may be over.
                    });
                    let core = CoreIndex(u16::try_from(number % 2).expect("0 or 1"));
                    while let Err(back) = remote.post(core, message) {
                        message = back;
                        std::thread::yield_now();
                    }
                }
            });
        }
        for _ in 0..8000 {
            receiver.recv_timeout(PATIENCE).expect("each message is run");
        }
    });
}

/// Goal: timers fire in order of their deadlines, never early; those that were cancelled do not.
#[test]
fn timers_fire_in_order_and_never_early() {
    let bench = Bench::start(options());
    let (first, second) = bench.on_core(|io| {
        let now = io.now();
        let ms = 1_000_000;
        for (order, delay) in [(2, 20), (1, 10), (3, 30), (0, 0)] {
            assert!(io.set_timer(now + delay * ms, Token(order)).is_some());
        }
        let cancelled = io.set_timer(now + 15 * ms, Token(99)).expect("there is room");
        (io.cancel_timer(cancelled), io.cancel_timer(cancelled))
    });
    assert!(first && !second);
    let started = reactor::now();
    for order in 0..4_u64 {
        assert!(matches!(bench.next(), Happened::Timer(token) if token == Token(order)));
    }
    assert!(reactor::now() >= started, "time goes on");
    let early = bench.on_core(|io| {
        let deadline = io.now() + 5_000_000;
        io.set_timer(deadline, Token(7)).expect("there is room");
        deadline
    });
    assert!(matches!(bench.next(), Happened::Timer(Token(7))));
    assert!(reactor::now() >= early);
}
