//! A program that does what the test sends it as closures, and reports all that happens.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use reactor::{
    CoreIndex, Errno, Io, Options, PollMode, Program, Progress, Received, Remote, Running, SendBatch, Token,
};

/// Something to do on a core.
pub struct Command(Action);

type Action = Box<dyn FnOnce(&mut Io<Command>) + Send>;

/// What a core was told.
#[derive(Debug)]
pub enum Happened {
    Started,
    Accepted(Token, Result<OwnedFd, Errno>),
    Data(Token, Vec<u8>),
    End(Token),
    Failed(Token, Errno),
    Sent(Token, Box<SendBatch>, Result<(), Errno>),
    FileDone(Token, Result<u32, Errno>),
    Connected(Token, Result<OwnedFd, Errno>),
    Closed(Token),
    Timer(Token),
    Stopping,
}

struct Scripted {
    happened: mpsc::Sender<(CoreIndex, Happened)>,
}

impl Scripted {
    fn report(&self, io: &Io<Command>, happened: Happened) {
        let _ = self.happened.send((io.core(), happened)); // The test may be over.
    }
}

impl Program for Scripted {
    type Message = Command;

    fn started(&mut self, io: &mut Io<Command>) {
        self.report(io, Happened::Started);
    }

    fn message(&mut self, io: &mut Io<Command>, message: Command) {
        (message.0)(io);
    }

    fn accepted(&mut self, io: &mut Io<Command>, token: Token, result: Result<OwnedFd, Errno>) {
        self.report(io, Happened::Accepted(token, result));
    }

    fn received(&mut self, io: &mut Io<Command>, token: Token, event: Received<'_>) {
        self.report(
            io,
            match event {
                Received::Data(bytes) => Happened::Data(token, bytes.to_vec()),
                Received::End => Happened::End(token),
                Received::Error(errno) => Happened::Failed(token, errno),
            },
        );
    }

    fn sent(&mut self, io: &mut Io<Command>, token: Token, batch: Box<SendBatch>, result: Result<(), Errno>) {
        self.report(io, Happened::Sent(token, batch, result));
    }

    fn file_done(&mut self, io: &mut Io<Command>, token: Token, result: Result<u32, Errno>) {
        self.report(io, Happened::FileDone(token, result));
    }

    fn connected(&mut self, io: &mut Io<Command>, token: Token, result: Result<OwnedFd, Errno>) {
        self.report(io, Happened::Connected(token, result));
    }

    fn closed(&mut self, io: &mut Io<Command>, token: Token) {
        self.report(io, Happened::Closed(token));
    }

    fn timer(&mut self, io: &mut Io<Command>, token: Token) {
        self.report(io, Happened::Timer(token));
    }

    fn turn(&mut self, _io: &mut Io<Command>) -> Progress {
        Progress::Idle
    }

    fn stopping(&mut self, io: &mut Io<Command>) {
        self.report(io, Happened::Stopping);
    }
}

/// A running reactor, driven by the test.
pub struct Bench {
    pub running: Running<Command>,
    pub remote: Remote<Command>,
    happened: mpsc::Receiver<(CoreIndex, Happened)>,
}

pub const CORE: CoreIndex = CoreIndex(0);

impl Bench {
    pub fn start(options: Options) -> Self {
        let (sender, happened) = mpsc::channel();
        let cores = options.cores;
        let running = reactor::run(options, move |_| Scripted {
            happened: sender.clone(),
        })
        .expect("it starts");
        let bench = Self {
            remote: running.handle(),
            running,
            happened,
        };
        for _ in 0..cores {
            assert!(matches!(bench.next(), Happened::Started));
        }
        bench
    }

    /// Runs `command` on a core and returns what it returns.
    pub fn on<R: Send + 'static>(
        &self,
        core: CoreIndex,
        command: impl FnOnce(&mut Io<Command>) -> R + Send + 'static,
    ) -> R {
        let (sender, receiver) = mpsc::channel();
        let command = Command::new(move |io| {
            let _ = sender.send(command(io)); // The test may be over.
        });
        assert!(
            self.remote.post(core, command).is_ok(),
            "the inbox is large enough"
        );
        receiver
            .recv_timeout(PATIENCE)
            .expect("the core runs the command")
    }

    /// Runs `command` on core 0.
    pub fn on_core<R: Send + 'static>(
        &self,
        command: impl FnOnce(&mut Io<Command>) -> R + Send + 'static,
    ) -> R {
        self.on(CORE, command)
    }

    /// The next thing that happened on any core.
    pub fn next(&self) -> Happened {
        self.happened.recv_timeout(PATIENCE).expect("something happens").1
    }

    /// What has happened already.
    pub fn try_next(&self) -> Option<Happened> {
        self.happened.try_recv().ok().map(|(_, happened)| happened)
    }

    pub fn closed(&self) -> Token {
        match self.next() {
            Happened::Closed(token) => token,
            other => panic!("closed was expected, not {other:?}"),
        }
    }

    pub fn file_done(&self) -> (Token, Result<u32, Errno>) {
        match self.next() {
            Happened::FileDone(token, result) => (token, result),
            other => panic!("the end of file I/O was expected, not {other:?}"),
        }
    }

    pub fn accepted(&self) -> OwnedFd {
        match self.next() {
            Happened::Accepted(_, Ok(socket)) => socket,
            other => panic!("a connection was expected, not {other:?}"),
        }
    }

    pub fn sent(&self) -> (Token, Box<SendBatch>, Result<(), Errno>) {
        match self.next() {
            Happened::Sent(token, batch, result) => (token, batch, result),
            other => panic!("the end of a send was expected, not {other:?}"),
        }
    }

    /// Stops the reactor and returns what happened until its end.
    pub fn end(self) -> Vec<Happened> {
        let Self {
            running,
            remote,
            happened,
        } = self;
        running.stop();
        running.join().expect("it ends well");
        drop(remote);
        happened.into_iter().map(|(_, happened)| happened).collect()
    }
}

impl Command {
    pub fn new(command: impl FnOnce(&mut Io<Self>) + Send + 'static) -> Self {
        Self(Box::new(command))
    }
}

/// How long a test waits for what must happen: only a failing test ever waits as long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Small enough for the default limit of locked memory, so that buffers are registered for everyone.
pub fn options() -> Options {
    Options {
        arena_bytes: 2 << 20,
        files_max: 4096,
        poll: PollMode::Interrupt,
        ..Options::default()
    }
}

/// Bytes that differ from place to place.
pub fn pattern(seed: usize, length: usize) -> Vec<u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
