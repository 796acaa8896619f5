//! Accepting, connecting, receiving and sending over loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use reactor::{
    Errno, Io, Options, PollMode, Program, Progress, Received, SendBatch, SharedMemory, SocketId, Token,
    Without,
};

use crate::support::{Bench, CORE, Happened, PATIENCE, options, pattern};

/// Sends back what it receives, one batch a connection and turn, out of its own batches.
#[derive(Default)]
#[expect(
    clippy::vec_box,
    reason = "batches go to the reactor and come back in their boxes"
)]
struct Echo {
    listener: Option<OwnedFd>,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    spare: Vec<Box<SendBatch>>,
}

struct Connection {
    socket: SocketId,
    filling: Box<SendBatch>,
    sending: usize,
    ended: bool,
}

impl Echo {
    fn drop_if_done(&mut self, io: &mut Io<()>, key: u64) {
        let connection = &self.connections[&key];
        if connection.ended && connection.sending == 0 && connection.filling.is_empty() {
            io.remove_socket(connection.socket, Token(key));
            self.connections.remove(&key);
        }
    }
}

impl Program for Echo {
    type Message = ();

    fn started(&mut self, io: &mut Io<()>) {
        let listener = self.listener.as_ref().expect("it is made with one");
        assert!(io.accept(listener.as_fd(), Token(u64::MAX)).is_some());
    }

    fn message(&mut self, _io: &mut Io<()>, (): ()) {}

    fn accepted(&mut self, io: &mut Io<()>, _token: Token, result: Result<OwnedFd, Errno>) {
        let Ok(socket) = result else { return };
        let socket = io.add_socket(socket).expect("there is room");
        let key = self.next;
        self.next += 1;
        let filling = self.spare.pop().unwrap_or_default();
        self.connections.insert(
            key,
            Connection {
                socket,
                filling,
                sending: 0,
                ended: false,
            },
        );
        io.receive(socket, Token(key));
    }

    fn received(&mut self, io: &mut Io<()>, token: Token, event: Received<'_>) {
        let connection = self
            .connections
            .get_mut(&token.0)
            .expect("nothing comes for what was removed");
        match event {
            Received::Data(bytes) => connection.filling.push_bytes(bytes),
            Received::End | Received::Error(_) => {
                connection.ended = true;
                self.drop_if_done(io, token.0);
            }
        }
    }

    fn sent(&mut self, io: &mut Io<()>, token: Token, mut batch: Box<SendBatch>, result: Result<(), Errno>) {
        batch.clear();
        self.spare.push(batch);
        if let Some(connection) = self.connections.get_mut(&token.0) {
            connection.sending -= 1;
            connection.ended |= result.is_err();
            self.drop_if_done(io, token.0);
        }
    }

    fn file_done(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<u32, Errno>) {}
    fn connected(&mut self, _io: &mut Io<()>, _token: Token, _result: Result<OwnedFd, Errno>) {}
    fn closed(&mut self, _io: &mut Io<()>, _token: Token) {}
    fn timer(&mut self, _io: &mut Io<()>, _token: Token) {}

    fn turn(&mut self, io: &mut Io<()>) -> Progress {
        for (key, connection) in &mut self.connections {
            if !connection.filling.is_empty() {
                let empty = self.spare.pop().unwrap_or_default();
                let full = std::mem::replace(&mut connection.filling, empty);
                connection.sending += 1;
                io.send(connection.socket, Token(*key), full);
            }
        }
        Progress::Idle
    }
}

/// Runs an echo server on as many cores as asked for, and `client` against its address.
fn with_echo(options: Options, client: impl FnOnce(SocketAddr)) -> reactor::Counters {
    let first =
        reactor::listener_per_core("127.0.0.1:0".parse().expect("an address"), 1024).expect("it listens");
    let address = TcpListener::from(first.try_clone().expect("it is cloned"))
        .local_addr()
        .expect("it has an address");
    let first = std::sync::Mutex::new(Some(first));
    let running = reactor::run(options, move |_| {
        let listener = first.lock().expect("nobody panics with it").take();
        let listener =
            listener.unwrap_or_else(|| reactor::listener_per_core(address, 1024).expect("it listens"));
        Echo {
            listener: Some(listener),
            ..Echo::default()
        }
    });
    let running = running.expect("it starts");
    client(address);
    running.stop();
    let remote = running.handle();
    running.join().expect("it ends well");
    remote.counters(CORE)
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it connects");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    stream
}

fn echo_once(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("it takes bytes");
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).expect("it gives them back");
    assert_eq!(back, bytes);
}

/// Goal: opening and closing never mixes connections up and leaks nothing.
/// Method: 3000 connections, up to 100 at a time, in an order of opening that is not that of closing; more than the table
/// holds in total, so that every place is used again.
#[test]
fn thousands_of_connections_open_and_close() {
    let counters = with_echo(
        Options {
            files_max: 256,
            ..options()
        },
        |address| {
            let mut open: Vec<TcpStream> = Vec::new();
            for round in 0..3000 {
                let mut stream = dial(address);
                echo_once(&mut stream, &pattern(round, 1 + round % 700));
                open.push(stream);
                if open.len() == 100 {
                    for _ in 0..60 {
                        let mut stream = open.swap_remove((round * 7) % open.len());
                        echo_once(&mut stream, &pattern(round + 1, 300));
                    }
                }
            }
        },
    );
    assert_eq!(counters.accepts, 3000);
    assert_eq!(counters.received_bytes, counters.sent_bytes);
}

/// Goal: every fall-back serves as the best way does.
#[test]
fn echo_with_every_fall_back() {
    let all = [
        Without::default(),
        Without {
            defer_taskrun: true,
            ..Without::default()
        },
        Without {
            multishot_receive: true,
            ..Without::default()
        },
        Without {
            registered_files: true,
            ..Without::default()
        },
        Without {
            huge_pages: true,
            registered_buffers: true,
            ..Without::default()
        },
    ];
    for without in all {
        for (poll, sqpoll) in [
            (PollMode::Interrupt, false),
            (PollMode::Busy, false),
            (PollMode::Interrupt, true),
        ] {
            let options = Options {
                without,
                poll,
                sqpoll,
                ring_entries: 8,
                ..options()
            };
            with_echo(options, |address| {
                let mut streams: Vec<_> = (0..20).map(|_| dial(address)).collect();
                for round in 0..5 {
                    for (index, stream) in streams.iter_mut().enumerate() {
                        echo_once(stream, &pattern(index + round, 5000));
                    }
                }
            });
        }
    }
}

/// Goal: a connection whose receive found no buffer loses nothing.
/// Method: two buffers of 64 bytes for 50 connections that all send at once.
#[test]
fn starved_receives_lose_nothing() {
    let counters = with_echo(
        Options {
            receive_buffers: 2,
            receive_buffer_bytes: 64,
            ..options()
        },
        |address| {
            let mut streams: Vec<_> = (0..50).map(|_| dial(address)).collect();
            for (index, stream) in streams.iter_mut().enumerate() {
                stream.write_all(&pattern(index, 3000)).expect("it takes bytes");
            }
            for (index, stream) in streams.iter_mut().enumerate() {
                let mut back = vec![0; 3000];
                stream.read_exact(&mut back).expect("it gives them back");
                assert_eq!(back, pattern(index, 3000));
            }
        },
    );
    assert!(counters.receive_starved > 0, "the test is about starving");
}

/// Goal: connections that came to different cores are served by each.
#[test]
fn two_cores_share_an_address() {
    with_echo(
        Options {
            cores: 2,
            ..options()
        },
        |address| {
            let mut streams: Vec<_> = (0..64).map(|_| dial(address)).collect();
            for (index, stream) in streams.iter_mut().enumerate() {
                echo_once(stream, &pattern(index, 10_000));
            }
        },
    );
}

/// A bench with one connection: the socket on the core, and its peer in the test.
fn connected(options: Options) -> (Bench, SocketId, TcpStream) {
    let bench = Bench::start(options);
    let (socket, peer) = connect_one_more(&bench);
    (bench, socket, peer)
}

fn connect_one_more(bench: &Bench) -> (SocketId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("it listens");
    let peer = dial(listener.local_addr().expect("it has an address"));
    let (near, _) = listener.accept().expect("it is accepted");
    let socket = bench.on_core(move |io| io.add_socket(near.into()).expect("there is room"));
    (socket, peer)
}

fn set_buffer(socket: &impl AsRawFd, name: i32, bytes: i32) {
    let length = libc::socklen_t::try_from(size_of::<i32>()).expect("four");
    // SAFETY: the value is valid for its length and lives across the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const bytes).cast(),
            length,
        )
    };
    assert_eq!(status, 0);
}

/// Goal: what a batch gathers arrives whole and in order, in spite of short sends and of more segments than one call takes.
/// Method: 3000 segments from header bytes, the arena and shared memory, tiny socket buffers, a peer that reads in sips,
/// and two batches behind one another.
#[test]
fn gathered_batches_arrive_in_order() {
    let (bench, socket, mut peer) = connected(options());
    set_buffer(&peer, libc::SO_RCVBUF, 64 << 10);
    let memory = Arc::new(SharedMemory::map(1 << 20).expect("it maps"));
    let shared_bytes = pattern(1, 1 << 20);
    memory.write(0, &shared_bytes);
    let arena_bytes = pattern(2, 1 << 20);
    let (to_core, expected) = (arena_bytes.clone(), std::sync::mpsc::channel());
    let send = expected.0;
    bench.on_core(move |io| {
        set_buffer(&io.socket_fd(socket).expect("it is open"), libc::SO_SNDBUF, 4096);
        let span = io.arena_mut().alloc(1 << 20).expect("it is empty");
        io.arena_mut().copy_in(span, 0, &to_core);
        let mut expected = Vec::new();
        for token in 0..2 {
            let mut batch = Box::new(SendBatch::new());
            for index in 0..1000_usize {
                let (at, length) = (index * 997 % (1 << 19), 1 + index * 7 % 800);
                batch.push_bytes(&pattern(index, 8));
                expected.extend(pattern(index, 8));
                batch.push_span(span.part(
                    u32::try_from(at).expect("small"),
                    u32::try_from(length).expect("small"),
                ));
                expected.extend_from_slice(&to_core[at..at + length]);
                batch.push_shared(&memory, at..at + length);
                expected.extend_from_slice(&shared_bytes[at..at + length]);
            }
            assert_eq!(batch.segment_count(), 3000);
            io.send(socket, Token(token), batch);
        }
        send.send(expected).expect("the test waits for it");
    });
    let expected = expected.1.recv().expect("the command sent it");
    let mut got = vec![0; expected.len()];
    for sip in got.chunks_mut(1500) {
        peer.read_exact(sip).expect("it comes");
    }
    assert!(got == expected, "all bytes in order");
    for token in 0..2 {
        let (sent, mut batch, result) = bench.sent();
        assert_eq!((sent, result), (Token(token), Ok(())));
        batch.clear();
        assert!(batch.is_empty());
    }
    let counters = bench.on_core(|io| *io.counters());
    assert!(counters.sends_continued > 2, "the test is about short sends");
    assert_eq!(counters.sent_bytes, expected.len() as u64);
}

/// Goal: a paused socket delivers nothing more once what was under way is delivered, and goes on where it stopped.
#[test]
fn paused_receives_go_on() {
    for without in [
        Without::default(),
        Without {
            multishot_receive: true,
            ..Without::default()
        },
    ] {
        let (bench, socket, mut peer) = connected(Options { without, ..options() });
        bench.on_core(move |io| io.receive(socket, Token(5)));
        let mut expected = Vec::new();
        let mut got = Vec::new();
        for round in 0..50 {
            let part = pattern(round, 2000);
            peer.write_all(&part).expect("it takes bytes");
            expected.extend(part);
            bench.on_core(move |io| {
                io.pause_receive(socket);
                if round % 3 == 0 {
                    io.resume_receive(socket);
                    io.pause_receive(socket);
                }
            });
            while let Some(happened) = bench.try_next() {
                let Happened::Data(Token(5), bytes) = happened else {
                    panic!("only data: {happened:?}")
                };
                got.extend(bytes);
            }
            bench.on_core(move |io| io.resume_receive(socket));
        }
        while got.len() < expected.len() {
            let Happened::Data(Token(5), bytes) = bench.next() else {
                panic!("only data")
            };
            got.extend(bytes);
        }
        assert!(got == expected, "all bytes in order");
        // Paused for good: what is sent now stays with the kernel.
        bench.on_core(move |io| io.pause_receive(socket));
        settle(&bench, socket, &mut peer);
        peer.write_all(b"later").expect("it takes bytes");
        settle_connection(&bench);
        let happened = bench.try_next();
        assert!(happened.is_none(), "paused {happened:?} {without:?}");
        bench.on_core(move |io| io.resume_receive(socket));
        assert!(matches!(bench.next(), Happened::Data(Token(5), bytes) if bytes == b"later"));
        drop(peer);
        assert!(matches!(bench.next(), Happened::End(Token(5))));
    }
}

/// Waits until the receive that was paused is gone: sends a byte and removes what still comes.
fn settle(bench: &Bench, socket: SocketId, peer: &mut TcpStream) {
    loop {
        settle_connection(bench);
        peer.write_all(b".").expect("it takes bytes");
        settle_connection(bench);
        let mut got = 0;
        while bench.try_next().is_some() {
            got += 1;
        }
        if got == 0 {
            break; // The dot stays with the kernel.
        }
    }
    // Take the dot out again, so that the stream is as before.
    bench.on_core(move |io| io.resume_receive(socket));
    assert!(matches!(bench.next(), Happened::Data(Token(5), bytes) if bytes == b"."));
    bench.on_core(move |io| io.pause_receive(socket));
    settle_connection(bench);
}

/// Waits until the core has submitted what it was asked for and handled what loopback brought it: a few turns. Commands
/// alone are not turns: one turn may run many of them.
fn settle_connection(bench: &Bench) {
    let first = bench.on_core(|io| io.counters().turns);
    while bench.on_core(|io| io.counters().turns) < first + 5 {}
}

/// Goal: removing a socket ends its operations, tells of each, and lets nothing late through to the next user of its place.
#[test]
fn removed_sockets_are_silent() {
    let (bench, mut socket, mut peer) = connected(Options {
        files_max: 1,
        ..options()
    });
    for round in 0..100_u64 {
        bench.on_core(move |io| {
            io.receive(socket, Token(round));
            for _ in 0..2 {
                let mut batch = Box::new(SendBatch::new());
                batch.push_bytes(&vec![7; 8 << 20]); // More than the peer, who does not read, can take.
                io.send(socket, Token(round), batch);
            }
        });
        peer.write_all(&[1; 100]).expect("it takes bytes");
        bench.on_core(move |io| io.remove_socket(socket, Token(1000 + round)));
        let (mut failed, mut closed) = (0, false);
        while !closed {
            match bench.next() {
                Happened::Data(token, _) => assert!(token == Token(round) && failed == 0),
                Happened::Sent(token, _, Err(_)) => {
                    assert_eq!(token, Token(round));
                    failed += 1;
                }
                Happened::Closed(token) => {
                    assert_eq!(token, Token(1000 + round));
                    closed = true;
                }
                other => panic!("unexpected: {other:?}"),
            }
        }
        assert_eq!(failed, 2, "both batches came back before the end");
        bench.on_core(move |io| {
            io.receive(socket, Token(1)); // The name is stale by now.
            io.pause_receive(socket);
            io.shutdown(socket);
            assert!(io.socket_fd(socket).is_none());
        });
        assert!(matches!(bench.next(), Happened::Failed(Token(1), Errno::STALE)));
        (socket, peer) = connect_one_more(&bench);
    }
    assert!(
        bench
            .end()
            .into_iter()
            .all(|happened| matches!(happened, Happened::Stopping))
    );
}

/// Goal: batches on a stale name and empty tables are refused, not lost.
#[test]
fn what_is_refused_comes_back() {
    let (bench, socket, _peer) = connected(Options {
        files_max: 1,
        ..options()
    });
    let (other, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    assert!(
        bench.on_core(move |io| io.add_socket(other.into()).is_err()),
        "the table is full"
    );
    bench.on_core(move |io| io.remove_socket(socket, Token(1)));
    assert_eq!(bench.closed(), Token(1));
    bench.on_core(move |io| {
        let mut batch = Box::new(SendBatch::new());
        batch.push_bytes(b"late");
        io.send(socket, Token(2), batch);
        io.remove_socket(socket, Token(3));
    });
    let (token, batch, result) = bench.sent();
    assert_eq!(
        (token, batch.total_bytes(), result),
        (Token(2), 4, Err(Errno::STALE))
    );
    assert_eq!(bench.closed(), Token(3));
}

/// Goal: the end of the peer's stream is told once, our own direction stays open, and shutdown reaches the peer.
#[test]
fn half_closed_connections_still_send() {
    let (bench, socket, mut peer) = connected(options());
    bench.on_core(move |io| io.receive(socket, Token(1)));
    peer.write_all(b"last words").expect("it takes bytes");
    peer.shutdown(Shutdown::Write).expect("it is connected");
    let mut got = Vec::new();
    loop {
        match bench.next() {
            Happened::Data(_, bytes) => got.extend(bytes),
            Happened::End(token) => break assert_eq!(token, Token(1)),
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(got, b"last words");
    bench.on_core(move |io| {
        io.resume_receive(socket); // Does nothing: the stream has ended.
        let mut batch = Box::new(SendBatch::new());
        batch.push_bytes(b"answer");
        io.send(socket, Token(2), batch);
    });
    assert_eq!(bench.sent().2, Ok(()));
    bench.on_core(move |io| io.shutdown(socket));
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).expect("it ends");
    assert_eq!(answer, b"answer");
    bench.on_core(move |io| {
        let mut batch = Box::new(SendBatch::new());
        batch.push_bytes(b"too late");
        io.send(socket, Token(3), batch);
    });
    assert_eq!(bench.sent().2, Err(Errno(libc::EPIPE)));
    assert!(bench.try_next().is_none());
}

/// Goal: connecting succeeds, is refused, and can be cancelled.
#[test]
fn connecting() {
    let bench = Bench::start(options());
    let listener = TcpListener::bind("127.0.0.1:0").expect("it listens");
    let address = listener.local_addr().expect("it has an address");
    bench.on_core(move |io| assert!(io.connect(address, Token(1)).is_some()));
    let Happened::Connected(Token(1), Ok(socket)) = bench.next() else {
        panic!("it connects")
    };
    assert_eq!(
        TcpStream::from(socket).peer_addr().expect("it is connected"),
        address
    );
    drop(listener);
    bench.on_core(move |io| assert!(io.connect(address, Token(2)).is_some()));
    let refused = bench.next();
    assert!(
        matches!(
            refused,
            Happened::Connected(Token(2), Err(Errno(libc::ECONNREFUSED)))
        ),
        "{refused:?}"
    );
    // A listener with a full backlog answers nobody, so the third connect waits until it is cancelled.
    let full = TcpListener::from(
        reactor::listener("127.0.0.1:0".parse().expect("an address"), 0).expect("it listens"),
    );
    let address = full.local_addr().expect("it has an address");
    let mut pending = Vec::new();
    for token in 3..6 {
        let id = bench.on_core(move |io| io.connect(address, Token(token)).expect("it is started"));
        pending.push(id);
    }
    bench.on_core(move |io| pending.into_iter().for_each(|id| io.cancel(id)));
    let mut cancelled = 0;
    for _ in 3..6 {
        match bench.next() {
            Happened::Connected(_, Ok(_)) => {}
            Happened::Connected(_, Err(Errno::CANCELLED)) => cancelled += 1,
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert!(cancelled >= 1);
}

/// Goal: accepting ends when it is cancelled, is told so, and can begin again; the caller's listener may be gone.
#[test]
fn accepting_can_be_cancelled() {
    let bench = Bench::start(options());
    let listener = reactor::listener("127.0.0.1:0".parse().expect("an address"), 16).expect("it listens");
    let address = TcpListener::from(listener.try_clone().expect("it is cloned"))
        .local_addr()
        .expect("an address");
    for round in 0..20 {
        let clone = listener.try_clone().expect("it is cloned");
        let id = bench.on_core(move |io| io.accept(clone.as_fd(), Token(round)).expect("it is started"));
        let _peers = [dial(address), dial(address)];
        drop(bench.accepted());
        drop(bench.accepted());
        bench.on_core(move |io| io.cancel(id));
        assert!(
            matches!(bench.next(), Happened::Accepted(token, Err(Errno::CANCELLED)) if token == Token(round))
        );
        bench.on_core(move |io| io.cancel(id)); // Stale by now: does nothing.
    }
    assert!(bench.try_next().is_none());
}

/// Goal: a connection that the peer resets is an error, not an end, and harms nobody else.
#[test]
fn resets_are_errors() {
    let (bench, socket, peer) = connected(options());
    bench.on_core(move |io| io.receive(socket, Token(1)));
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = libc::socklen_t::try_from(size_of_val(&linger)).expect("eight");
    // SAFETY: the value is valid for its length and lives across the call.
    let status = unsafe {
        libc::setsockopt(
            peer.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
    assert_eq!(status, 0);
    drop(peer);
    assert!(matches!(
        bench.next(),
        Happened::Failed(Token(1), Errno(libc::ECONNRESET))
    ));
}
