//! The host against targets that do not behave: what it says, that it tries again, and that it ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use nvme::host::{DownReason, FailReason, QueueFault};
use nvme::nqn::Nqn;
use reactor::PollMode;

use super::*;

/// A workload that wants nothing.
struct Nothing;

impl Workload for Nothing {
    fn ready(&mut self, _: Nanos, _: usize, _: &TargetFacts) {}

    fn next(&mut self, _: Nanos, _: QueueName) -> Next {
        Next::Idle
    }

    fn fill(&mut self, _: &Job, _: &mut [u8]) {
        unreachable!("there are no jobs")
    }

    fn done(&mut self, _: Nanos, _: QueueName, _: &Job, _: Outcome, _: &[u8]) {
        unreachable!("there are no jobs")
    }
}

/// A listener whose connections are given to `serve`, until the test ends.
fn listen(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
    address
}

fn host(address: SocketAddr, change: impl FnOnce(&mut Target)) -> Host<Nothing> {
    let nqn = |name: &str| Nqn::parse(name).unwrap();
    let mut target = Target {
        reconnect: Duration::from_millis(20),
        command_timeout: Duration::from_millis(300),
        loss_timeout: None,
        ..Target::new(
            address,
            nqn("nqn.2026-01.io.braid:t"),
            nqn("nqn.2026-01.io.braid:h"),
            [1; 16],
        )
    };
    change(&mut target);
    let options = Options {
        poll: PollMode::Interrupt,
        arena_bytes: 4 << 20,
        files_max: 64,
        ..Options::default()
    };
    Host::start(options, vec![target], |_| Nothing).unwrap()
}

fn event(host: &Host<Nothing>) -> Event {
    host.events()
        .recv_timeout(Duration::from_secs(10))
        .expect("the host says what happens")
}

fn down(host: &Host<Nothing>) -> DownReason {
    let event = event(host);
    let Event::Down { reason, .. } = event else {
        panic!("{event:?}")
    };
    reason
}

#[test]
fn a_target_that_hangs_up_is_tried_again_with_growing_pauses() {
    let host = host(listen(drop), |_| {});
    let started = Instant::now();
    for _ in 0..4 {
        assert_eq!(
            down(&host),
            DownReason::Queue {
                qid: 0,
                fault: QueueFault::Lost
            }
        );
    }
    assert!(
        started.elapsed() >= Duration::from_millis(20 + 40 + 80),
        "it backs off"
    );
    host.stop().unwrap();
}

#[test]
fn a_target_that_says_nothing_is_given_up_in_time() {
    // It keeps the connection and reads, so that only time can tell.
    let host = host(
        listen(|mut stream| {
            std::thread::spawn(move || while stream.read(&mut [0; 256]).is_ok_and(|bytes| bytes > 0) {});
        }),
        |_| {},
    );
    assert_eq!(down(&host), DownReason::CommandTimeout { qid: 0 });
    host.stop().unwrap();
}

#[test]
fn a_target_that_talks_nonsense_is_told_so_and_left() {
    let (answer, answers) = mpsc::channel();
    let host = host(
        listen(move |mut stream| {
            stream.write_all(&[0xAA; 128]).unwrap();
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard); // It may be reset: there is nonsense that nobody read.
            let _ = answer.send(heard);
        }),
        |_| {},
    );
    assert_eq!(
        down(&host),
        DownReason::Queue {
            qid: 0,
            fault: QueueFault::Lost
        }
    );
    let heard = answers.recv_timeout(Duration::from_secs(10)).unwrap();
    const ICREQ_BYTES: usize = 128;
    const H2C_TERM_REQ: u8 = 2;
    assert_eq!(
        heard.get(ICREQ_BYTES),
        Some(&H2C_TERM_REQ),
        "after ICReq it says why it leaves"
    );
    host.stop().unwrap();
}

#[test]
fn a_target_that_does_not_come_back_is_given_up_for_good() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let host = host(address, |target| {
        target.loss_timeout = Some(Duration::from_millis(100))
    });
    let reason = loop {
        let event = event(&host);
        if let Event::Failed { reason, .. } = event {
            break reason;
        }
        let Event::Down { reason, .. } = event else {
            panic!("{event:?}")
        };
        assert_eq!(
            reason,
            DownReason::Queue {
                qid: 0,
                fault: QueueFault::Unreachable
            }
        );
    };
    assert_eq!(reason, FailReason::LossTimeout);
    host.stop().unwrap();
}

#[test]
fn dropping_a_host_ends_it_in_any_state() {
    for serve in [drop as fn(TcpStream), |stream| std::mem::forget(stream)] {
        let host = host(listen(serve), |_| {});
        let events = {
            let started = Instant::now();
            while host.counters(CoreIndex(0)).enters == 0 {
                assert!(started.elapsed() < Duration::from_secs(10), "the core runs");
                std::thread::yield_now();
            }
            let Host {
                running,
                remote,
                events,
            } = host;
            drop(running);
            assert!(
                remote.post(CoreIndex(0), Message::Stop).is_err(),
                "nobody takes messages any more"
            );
            events
        };
        // The control core is gone, and with it whoever could say something.
        loop {
            match events.recv_timeout(Duration::from_secs(10)) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the core still runs"),
            }
        }
    }
}
