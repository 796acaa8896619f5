//! Drives of a node bound to a core: files and block devices through the ring, memory drives by copying, those of shelves by the core's
//! own initiator.

mod fault;
mod flight;
mod hung;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reactor::{Arena, Errno, FileId, Io, Nanos, SharedMemory, Span};

use super::array::drive_error;
use super::core::{Core, TICK_NS, TokenKind, token};
use super::fabric::FabricDrive;
use super::message::Message;
use crate::amf::engine::{IoTag, Place};
use crate::drive::DriveError;
use crate::drive::health::LatencyWindow;

pub use fault::{Fault, Faults, Verdict};
pub use flight::{FlightKey, Flights};
pub use hung::HungDrives;

use flight::{Flight, Stage};

/// A drive of the node, open and ready to be bound to cores.
pub struct DriveSpec {
    /// Name in the configuration.
    pub name: String,
    /// What it is made of.
    pub medium: Medium,
    /// Capacity in bytes.
    pub bytes: u64,
    /// Smallest unit that it reads and writes.
    pub logical_block_bytes: u32,
    /// Whether it was made just now and therefore holds only zeroes.
    pub fresh: bool,
    /// What an operator has it do wrong.
    pub faults: Faults,
}

/// What a drive is made of.
pub enum Medium {
    /// A file or block device. The handle stays open, and locked, as long as the node runs.
    File {
        /// Where it is.
        path: PathBuf,
        /// The open file.
        file: File,
        /// Whether it is a block device.
        is_block: bool,
    },
    /// Memory of this process, gone with it; for benches and tests.
    Memory(MemoryDrive),
    /// A namespace of a shelf.
    Fabric(FabricDrive),
}

/// A memory drive with its injected faults.
pub struct MemoryDrive {
    /// The bytes.
    pub memory: Arc<SharedMemory>,
    /// Time that each command takes, in ns.
    pub delay: Nanos,
    /// Bytes a second, shared by all cores; 0 is no limit.
    pub bandwidth: u64,
    /// Every how many-th command fails with a medium error; 0 is none.
    pub error_every: u64,
    /// Commands so far, over all cores.
    pub commands: AtomicU64,
    /// When the drive's bandwidth is free again.
    pub busy_until: AtomicU64,
}

/// How a core reaches a drive.
#[derive(Clone, Copy, Debug)]
pub enum DriveBinding {
    /// A file on this core's ring.
    File(FileId),
    /// A memory drive.
    Memory,
    /// A namespace of a shelf, over this core's queue to that.
    Fabric,
    /// The file could not be put on the ring.
    Lost,
}

/// Whether a drive command was answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer comes later.
    Pending,
    /// This is the answer.
    Done(Result<(), DriveError>),
}

/// What is asked of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read.
    Read,
    /// Write.
    Write {
        /// Durable before the answer.
        fua: bool,
    },
    /// Make zero.
    Zero {
        /// Durable before the answer.
        fua: bool,
    },
    /// Make durable what was written.
    Flush,
}

/// A command of an engine for a drive.
#[derive(Clone, Copy, Debug)]
pub struct DriveCommand {
    /// Which drive of the node; `None` if the member has none.
    pub drive: Option<u16>,
    /// Whose.
    pub group: u16,
    /// Its name there.
    pub tag: IoTag,
    /// What is asked.
    pub kind: Kind,
    /// In the drive, in bytes.
    pub at: u64,
    /// Length in bytes.
    pub bytes: u32,
    /// Where its memory is for the engine, and where for the core; `None` for commands without data.
    pub memory: Option<(Place, Span)>,
}

/// What a core counted of a drive since it last told the control core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriveReport {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes that reads asked for.
    pub read_bytes: u64,
    /// Bytes that writes brought; zeroing brings none.
    pub written_bytes: u64,
    /// Writes, zeroing included, that were to be on stable media before they were answered.
    pub forced: u64,
    /// Flushes.
    pub flushes: u64,
    /// Commands that were refused or broken off, also those that then succeeded.
    pub io_errors: u32,
    /// How long commands took.
    pub latency: LatencyWindow,
    /// For how long the oldest command is unanswered that was not given up, by the core's [`AwakeClock`].
    pub waiting: Option<Nanos>,
    /// Commands that were given up and are still unanswered.
    pub given_up: u32,
}

/// The time in which a core looked around. A core that is stopped for seconds, with its whole machine perhaps, must not
/// call drives hung whose answers lie before it: so no step between two ticks counts for more than two of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwakeClock {
    awake: Nanos,
    looked_at: Nanos,
}

impl AwakeClock {
    /// The time awake.
    pub fn read(&self, now: Nanos) -> Nanos {
        self.awake + now.saturating_sub(self.looked_at).min(2 * TICK_NS)
    }

    /// The core looks around, as it does with every tick.
    pub fn tick(&mut self, now: Nanos) {
        self.awake = self.read(now);
        self.looked_at = now;
    }
}

/// Answers that are due later, by time.
#[derive(Default)]
pub struct DelayedIo {
    due: BinaryHeap<Reverse<(Nanos, u64, FlightKey)>>,
    sequence: u64,
}

impl DelayedIo {
    /// Whether none is outstanding.
    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    fn push(&mut self, due: Nanos, key: FlightKey) {
        self.sequence += 1;
        self.due.push(Reverse((due, self.sequence, key)));
    }

    fn pop(&mut self, now: Nanos) -> Option<FlightKey> {
        let &Reverse((due, _, key)) = self.due.peek()?;
        if due > now {
            return None;
        }
        self.due.pop();
        Some(key)
    }
}

impl MemoryDrive {
    /// A drive of this many bytes, without injected faults.
    pub fn new(bytes: u64) -> std::io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        Ok(Self {
            memory: Arc::new(SharedMemory::map(bytes)?),
            delay: 0,
            bandwidth: 0,
            error_every: 0,
            commands: AtomicU64::new(0),
            busy_until: AtomicU64::new(0),
        })
    }

    /// Does what is asked, unless this command is one that fails.
    fn carry_out(
        &self,
        arena: &mut Arena,
        kind: Kind,
        at: u64,
        bytes: u32,
        span: Option<Span>,
    ) -> Result<(), DriveError> {
        if self.fails() {
            return Err(DriveError::Media);
        }
        let with_data = "a command that moves data has memory";
        match kind {
            Kind::Read => self.memory.copy_to(place(at), arena, span.expect(with_data)),
            Kind::Write { .. } => self.memory.copy_from(place(at), arena, span.expect(with_data)),
            Kind::Zero { .. } => self.memory.zero(place(at), bytes as usize),
            Kind::Flush => {}
        }
        Ok(())
    }

    /// Whether the next command is one that fails.
    fn fails(&self) -> bool {
        self.error_every > 0
            && (self.commands.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(self.error_every)
    }

    /// When a command of this many bytes that starts now is done; `None` if that is now.
    fn due(&self, bytes: u64) -> Option<Nanos> {
        if self.delay == 0 && self.bandwidth == 0 {
            return None;
        }
        let now = reactor::now();
        let mut start = now;
        if let Some(takes) = bytes.saturating_mul(1_000_000_000).checked_div(self.bandwidth) {
            let mut busy_until = self.busy_until.load(Ordering::Relaxed);
            loop {
                let done = busy_until.max(now) + takes;
                match self.busy_until.compare_exchange_weak(
                    busy_until,
                    done,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => break start = done,
                    Err(seen) => busy_until = seen,
                }
            }
        }
        Some(start + self.delay)
    }
}

impl Core {
    /// Puts every drive on this core's ring.
    pub(super) fn bind_drives(&mut self, io: &mut Io<Message>) {
        let specs = Arc::clone(&self.drive_specs);
        for spec in specs.iter() {
            let binding = match &spec.medium {
                Medium::Memory(_) => DriveBinding::Memory,
                Medium::Fabric(_) => DriveBinding::Fabric,
                Medium::File { file, path, .. } => match file.try_clone().map(OwnedFd::from).and_then(|fd| {
                    io.add_file(fd)
                        .map_err(|_| std::io::Error::from(std::io::ErrorKind::QuotaExceeded))
                }) {
                    Ok(id) => DriveBinding::File(id),
                    Err(error) => {
                        tracing::error!(drive = %spec.name, path = %path.display(), %error, "drive is lost: it could not be put on the ring");
                        DriveBinding::Lost
                    }
                },
            };
            self.drives.push(binding);
        }
    }

    /// Begins a command of an engine.
    #[inline]
    pub(super) fn start_drive(&mut self, io: &mut Io<Message>, command: DriveCommand) -> Outcome {
        let gone = Outcome::Done(Err(DriveError::Gone));
        let Some(drive) = command.drive else {
            return gone;
        };
        let at = usize::from(drive);
        if self.hung.is_hung(drive) {
            return gone;
        }
        let report = &mut self.drive_reports[at];
        match command.kind {
            Kind::Read => {
                report.reads += 1;
                report.read_bytes += u64::from(command.bytes);
            }
            Kind::Write { fua } => {
                report.writes += 1;
                report.written_bytes += u64::from(command.bytes);
                report.forced += u64::from(fua);
            }
            Kind::Zero { fua } => report.forced += u64::from(fua),
            Kind::Flush => report.flushes += 1,
        }
        let faults = &self.drive_specs[at].faults;
        let verdict = if faults.armed() {
            faults.judge(command.kind, command.at, command.bytes)
        } else {
            Verdict::Pass(0)
        };
        let slow = match verdict {
            Verdict::Pass(slow) => slow,
            Verdict::Fail(error) => {
                report.io_errors += u32::from(error != DriveError::Media);
                return Outcome::Done(Err(error));
            }
            Verdict::Park => {
                self.parked += 1;
                self.flights
                    .insert(flight(drive, &command, Stage::Parked, io.now(), self.awake));
                return Outcome::Pending;
            }
        };
        match self.drives[at] {
            DriveBinding::File(_) | DriveBinding::Fabric => {
                let key = self
                    .flights
                    .insert(flight(drive, &command, Stage::Kernel, io.now(), self.awake));
                self.issue(io, key);
                Outcome::Pending
            }
            DriveBinding::Memory => self.start_memory(io, drive, &command, slow),
            DriveBinding::Lost => gone,
        }
    }

    /// Carries out a memory drive's command now; its answer may be due later.
    fn start_memory(
        &mut self,
        io: &mut Io<Message>,
        drive: u16,
        command: &DriveCommand,
        slow: Nanos,
    ) -> Outcome {
        let at = usize::from(drive);
        let memory = memory_of(&self.drive_specs[at]);
        let span = command.memory.map(|(_, span)| span);
        let result = memory.carry_out(io.arena_mut(), command.kind, command.at, command.bytes, span);
        let moved = match command.kind {
            Kind::Read | Kind::Write { .. } => u64::from(command.bytes),
            // These move no data over a drive's link: they take the delay but no bandwidth.
            Kind::Zero { .. } | Kind::Flush => 0,
        };
        let due = memory.due(moved);
        if due.is_none() && slow == 0 {
            self.drive_reports[at].latency.add(0);
            return Outcome::Done(result);
        }
        let due = due.unwrap_or_else(reactor::now) + slow;
        let key = self.flights.insert(flight(
            drive,
            command,
            Stage::Delayed(result),
            io.now(),
            self.awake,
        ));
        self.delayed.push(due, key);
        Outcome::Pending
    }

    /// Hands a flight to its drive, for the first time or again.
    pub(super) fn issue(&mut self, io: &mut Io<Message>, key: FlightKey) {
        let flight = self.flights.find(key).expect("it is under way");
        let (drive, kind, at, bytes, span) =
            (flight.drive, flight.kind, flight.at, flight.bytes, flight.span);
        let with_data = "a command that moves data has memory";
        match self.drives[usize::from(drive)] {
            DriveBinding::File(file) => match kind {
                Kind::Read => io.read(file, drive_token(key), span.expect(with_data), at),
                Kind::Write { fua } => io.write(file, drive_token(key), span.expect(with_data), at, fua),
                Kind::Zero { .. } => io.zero(file, zero_token(key), at, u64::from(bytes)),
                Kind::Flush => io.sync(file, drive_token(key)),
            },
            DriveBinding::Memory => {
                let memory = memory_of(&self.drive_specs[usize::from(drive)]);
                let result = memory.carry_out(io.arena_mut(), kind, at, bytes, span);
                self.finish_flight(io, key, result);
            }
            DriveBinding::Fabric => self.fabric_issue(io, key),
            DriveBinding::Lost => self.finish_flight(io, key, Err(DriveError::Gone)),
        }
    }

    /// A file or a shelf answered.
    pub(super) fn drive_done(&mut self, io: &mut Io<Message>, payload: u64, result: Result<(), DriveError>) {
        let key = FlightKey::from_bits(payload);
        let retries_max = self.io_retries;
        let flight = self.flights.find(key).expect("a file answers a command once");
        let spec = &self.drive_specs[usize::from(flight.drive)];
        if let Err(DriveError::Io { .. }) = result {
            self.drive_reports[usize::from(flight.drive)].io_errors += 1;
            let hung = self.hung.is_hung(flight.drive) || flight.held.is_some();
            if flight.retries < retries_max && !hung {
                flight.retries += 1;
                return self.issue(io, key);
            }
        }
        let slow = if spec.faults.armed() {
            spec.faults.slow()
        } else {
            0
        };
        if slow > 0 {
            flight.stage = Stage::Delayed(result);
            return self.delayed.push(io.now() + slow, key);
        }
        self.finish_flight(io, key, result);
    }

    /// A file answered a request to punch a hole.
    pub(super) fn zero_answered(&mut self, io: &mut Io<Message>, payload: u64, result: Result<(), Errno>) {
        let key = FlightKey::from_bits(payload);
        let flight = self.flights.find(key).expect("a file answers a command once");
        let DriveBinding::File(file) = self.drives[usize::from(flight.drive)] else {
            unreachable!("only files punch holes")
        };
        let fua = flight.kind == Kind::Zero { fua: true };
        match result {
            Ok(()) if fua => io.sync(file, drive_token(key)),
            // Its file system or device cannot: zeroes are written instead.
            Err(Errno(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                let zeroes = self.zeroes.expect("allocated at start").part(0, flight.bytes);
                io.write(file, drive_token(key), zeroes, flight.at, fua);
            }
            Ok(()) | Err(_) => self.drive_done(io, payload, result.map_err(drive_error)),
        }
    }

    /// The answer of a flight, to its engine; or to nobody, if that was told an error before.
    fn finish_flight(&mut self, io: &mut Io<Message>, key: FlightKey, result: Result<(), DriveError>) {
        let flight = self.flights.remove(key);
        match flight.held {
            Some(held) => self.release(io, flight.group, held),
            None => {
                let took = io.now().saturating_sub(flight.started);
                self.drive_reports[usize::from(flight.drive)].latency.add(took);
                self.drive_answered(io, flight.group, flight.tag, result);
            }
        }
    }

    /// Gives the answers that are due. True if there was one.
    pub(super) fn run_delayed(&mut self, io: &mut Io<Message>) -> bool {
        let mut any = false;
        while let Some(key) = self.delayed.pop(reactor::now()) {
            any = true;
            let flight = self.flights.find(key).expect("a delayed flight is under way");
            let Stage::Delayed(result) = flight.stage else {
                unreachable!("only delayed flights have a time")
            };
            self.finish_flight(io, key, result);
        }
        any
    }

    /// What was counted of each drive since the last time, for the drives that have something to tell.
    pub(super) fn take_drive_reports(&mut self, now: Nanos) -> Vec<(u16, DriveReport)> {
        let awake = self.awake.read(now);
        let mut reports = Vec::new();
        for (drive, report) in (0..).zip(&mut self.drive_reports) {
            let (oldest, given_up) = self.flights.oldest(drive);
            let waiting = oldest.map(|since| awake.saturating_sub(since));
            let told = report.waiting.is_some() || report.given_up > 0;
            (report.waiting, report.given_up) = (waiting, given_up);
            if *report != DriveReport::default() || told {
                reports.push((drive, *report));
            }
            *report = DriveReport {
                waiting,
                given_up,
                ..DriveReport::default()
            };
        }
        reports
    }
}

/// A flight of a command that begins now.
fn flight(drive: u16, command: &DriveCommand, stage: Stage, now: Nanos, awake: AwakeClock) -> Flight {
    Flight {
        drive,
        group: command.group,
        tag: command.tag,
        kind: command.kind,
        place: command.memory.map(|(place, _)| place),
        span: command.memory.map(|(_, span)| span),
        at: command.at,
        bytes: command.bytes,
        started: now,
        started_awake: awake.read(now),
        retries: 0,
        stage,
        held: None,
    }
}

fn memory_of(spec: &DriveSpec) -> &MemoryDrive {
    match &spec.medium {
        Medium::Memory(memory) => memory,
        Medium::File { .. } | Medium::Fabric(_) => unreachable!("a binding is made from its drive's medium"),
    }
}

/// Names an engine's drive command towards the reactor.
fn drive_token(key: FlightKey) -> reactor::Token {
    token(TokenKind::Drive, key.to_bits())
}

/// Names an engine's zeroing towards the reactor.
fn zero_token(key: FlightKey) -> reactor::Token {
    token(TokenKind::Zero, key.to_bits())
}

/// An offset into a memory drive.
fn place(at: u64) -> usize {
    usize::try_from(at).expect("a memory drive fits the address space")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_core_was_stopped_does_not_count() {
        let mut clock = AwakeClock::default();
        for tick in 1..=10 {
            clock.tick(tick * TICK_NS);
        }
        assert_eq!(clock.read(10 * TICK_NS), 10 * TICK_NS);
        assert_eq!(clock.read(11 * TICK_NS), 11 * TICK_NS);
        assert_eq!(clock.read(1_000 * TICK_NS), 12 * TICK_NS);
        clock.tick(1_000 * TICK_NS);
        assert_eq!(clock.read(1_001 * TICK_NS), 13 * TICK_NS);
    }
}
