//! Starting, stopping, and failing.

use std::os::fd::AsFd;

use reactor::{CoreIndex, JoinError, Options, PollMode, SendBatch, StartError, Token};

use crate::support::{Bench, CORE, Command, Happened, options};

/// Goal: stopping with everything in flight ends each operation once and joins.
#[test]
fn stop_while_busy() {
    for poll in [PollMode::Interrupt, PollMode::Busy] {
        let bench = Bench::start(Options {
            cores: 2,
            poll,
            ..options()
        });
        let listener = reactor::listener("127.0.0.1:0".parse().expect("an address"), 16).expect("it listens");
        let (near, _far) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let address = std::net::TcpListener::from(listener.try_clone().expect("it is cloned"));
        let address = address.local_addr().expect("it has an address");
        bench.on_core(move |io| {
            let socket = io.add_socket(near.into()).expect("there is room");
            io.accept(listener.as_fd(), Token(1)).expect("it is started");
            io.receive(socket, Token(2));
            for token in 3..6 {
                let mut batch = Box::new(SendBatch::new());
                batch.push_bytes(&vec![0; 8 << 20]);
                io.send(socket, Token(token), batch);
            }
            io.set_timer(io.now() + 3_600_000_000_000, Token(6))
                .expect("there is room");
        });
        bench.on(CoreIndex(1), move |io| {
            let file =
                std::fs::File::create(format!("/var/tmp/reactor-stop-{}", std::process::id())).expect("made");
            let file = io.add_file(file.into()).expect("there is room");
            let span = io.arena_mut().alloc(1 << 20).expect("there is room");
            for token in 10..20 {
                io.write(file, Token(token), span, token << 20, true);
            }
            io.connect(address, Token(20)).expect("it is started");
            io.stop(); // From inside.
        });
        let happened = bench.end();
        let _ = std::fs::remove_file(format!("/var/tmp/reactor-stop-{}", std::process::id())); // It may be gone.
        let count =
            |wanted: fn(&Happened) -> bool| happened.iter().filter(|happened| wanted(happened)).count();
        assert_eq!(count(|h| matches!(h, Happened::Stopping)), 2);
        assert_eq!(
            count(|h| matches!(h, Happened::Accepted(Token(1), Err(_)))),
            1,
            "{happened:?}"
        );
        assert_eq!(
            count(|h| matches!(h, Happened::Failed(Token(2), _) | Happened::End(Token(2)))),
            1
        );
        assert_eq!(count(|h| matches!(h, Happened::Sent(_, _, Err(_)))), 3);
        assert_eq!(
            count(|h| matches!(h, Happened::FileDone(_, Ok(n)) if *n == 1 << 20)),
            10,
            "writes end in earnest"
        );
        assert_eq!(count(|h| matches!(h, Happened::Connected(Token(20), _))), 1);
    }
}

/// Goal: after the end, messages come back; dropping instead of joining ends as well.
#[test]
fn handles_outlive_the_reactor() {
    let bench = Bench::start(options());
    let remote = bench.remote.clone();
    bench.on_core(|_| ());
    bench.running.stop();
    assert!(remote.post(CORE, Command::new(|_| ())).is_err());
    drop(bench);
    assert_eq!(remote.cores(), 1);
    assert_eq!(remote.counters(CORE).messages_received, 1);
}

/// Goal: a program that panics ends the reactor with an error, and the other cores are told.
#[test]
fn a_panic_ends_the_reactor() {
    let bench = Bench::start(Options {
        cores: 2,
        ..options()
    });
    let panics = Command::new(|_| panic!("on purpose"));
    assert!(bench.remote.post(CoreIndex(1), panics).is_ok());
    assert_eq!(bench.running.join(), Err(JoinError::Panicked(CoreIndex(1))));
}

/// Goal: wrong options are refused with a sentence, before anything starts.
#[test]
fn wrong_options_are_refused() {
    let wrong = [
        Options {
            cores: 0,
            ..options()
        },
        Options {
            cores: 2,
            cpus: Some(vec![0]),
            ..options()
        },
        Options {
            ring_entries: 100,
            ..options()
        },
        Options {
            receive_buffers: 3,
            ..options()
        },
        Options {
            receive_buffer_bytes: 100,
            ..options()
        },
        Options {
            arena_bytes: 0,
            ..options()
        },
        Options {
            files_max: 0,
            ..options()
        },
        Options {
            operations_max: 0,
            ..options()
        },
        Options {
            timers_max: 0,
            ..options()
        },
        Options {
            mailbox_entries: 3,
            ..options()
        },
    ];
    for options in wrong {
        let error = reactor::run(options.clone(), |_| -> Never {
            unreachable!("the options are refused first")
        })
        .err();
        assert!(matches!(error, Some(StartError::Options(_))), "{error:?}");
    }
}

/// Goal: a factory that panics is an error of starting, and no other core stays behind.
#[test]
fn a_factory_that_panics_is_an_error() {
    let error = reactor::run(
        Options {
            cores: 2,
            ..options()
        },
        |core| {
            assert_ne!(core, CoreIndex(1), "on purpose");
            Never
        },
    );
    assert!(matches!(
        error.err(),
        Some(StartError::Vanished { core: CoreIndex(1) })
    ));
}

/// Goal: what was asked for and is not there has a note, and nothing else has.
#[test]
fn facts_are_reported() {
    let bench = Bench::start(Options {
        cores: 1,
        cpus: Some(vec![0]),
        ..options()
    });
    let facts = bench.running.facts(CORE);
    assert_eq!(facts.pinned, Some(0));
    let missing = [
        facts.huge_pages,
        facts.registered_buffers,
        facts.registered_files,
        facts.defer_taskrun,
    ];
    let missing = missing
        .iter()
        .chain([&facts.multishot_receive])
        .filter(|there| !**there)
        .count();
    assert_eq!(facts.notes.len(), missing, "{facts:?}");
    let far = Bench::start(Options {
        cpus: Some(vec![100_000]),
        ..options()
    });
    let facts = far.running.facts(CORE);
    assert!(
        facts.pinned.is_none() && facts.notes.iter().any(|note| note.contains("CPU 100000")),
        "{facts:?}"
    );
}

/// A program that never gets to do anything.
struct Never;

impl reactor::Program for Never {
    type Message = ();

    fn started(&mut self, _io: &mut reactor::Io<()>) {}
    fn message(&mut self, _io: &mut reactor::Io<()>, (): ()) {}
    fn accepted(
        &mut self,
        _io: &mut reactor::Io<()>,
        _token: Token,
        _result: Result<std::os::fd::OwnedFd, reactor::Errno>,
    ) {
    }
    fn received(&mut self, _io: &mut reactor::Io<()>, _token: Token, _event: reactor::Received<'_>) {}
    fn sent(
        &mut self,
        _io: &mut reactor::Io<()>,
        _token: Token,
        _batch: Box<SendBatch>,
        _result: Result<(), reactor::Errno>,
    ) {
    }
    fn file_done(&mut self, _io: &mut reactor::Io<()>, _token: Token, _result: Result<u32, reactor::Errno>) {}
    fn connected(
        &mut self,
        _io: &mut reactor::Io<()>,
        _token: Token,
        _result: Result<std::os::fd::OwnedFd, reactor::Errno>,
    ) {
    }
    fn closed(&mut self, _io: &mut reactor::Io<()>, _token: Token) {}
    fn timer(&mut self, _io: &mut reactor::Io<()>, _token: Token) {}
    fn turn(&mut self, _io: &mut reactor::Io<()>) -> reactor::Progress {
        reactor::Progress::Idle
    }
}
