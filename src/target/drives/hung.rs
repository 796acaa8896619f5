//! Drives that do not answer: their commands are given up, and the memory of these is kept until they are answered.
//!
//! When the control core calls a drive hung, this core asks the kernel to end the drive's commands. What has not ended a
//! little later is given up: its engine is told an error, so that hosts are served by the other members. The kernel may
//! still touch the command's memory, so that
//! - scratch is held ([`Engine::hold_scratch`](crate::amf::engine::Engine::hold_scratch));
//! - the buffer of a host's command is held: nobody gets it before the kernel has answered. A command whose buffer the
//!   kernel may still *write* gets another one at once, with what the other members have filled already, because its
//!   engine goes on to fill it.

use reactor::{Io, Nanos, Span};

use super::Kind;
use super::flight::{FlightKey, Stage};
use crate::amf::engine::{CommandId, Place, ScratchHold};
use crate::drive::DriveError;
use crate::target::command::Owner;
use crate::target::core::Core;
use crate::target::drives::DriveBinding;
use crate::target::message::Message;

/// How long the kernel may take to end commands that it was asked to end.
const CANCEL_WAIT_NS: Nanos = 100_000_000;

/// The memory of a command that was given up.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    /// It has none of its own.
    Nothing,
    /// Part of this buffer.
    Buffer(Span),
    /// Scratch of its group's engine.
    Scratch(ScratchHold),
}

/// A buffer that the kernel may still touch.
#[derive(Debug)]
struct HeldBuffer {
    span: Span,
    holders: u32,
    /// Its command has given it back.
    returned: bool,
}

/// What a core knows of drives that do not answer.
#[derive(Debug, Default)]
pub struct HungDrives {
    /// Since when each drive is called hung.
    since: Vec<Option<Nanos>>,
    buffers: Vec<HeldBuffer>,
    /// A buffer of the largest size, so that there is one also when commands that wait for a drive have all others.
    reserve: Option<Span>,
    reserve_home: Option<Span>,
}

impl HungDrives {
    /// No drive of these hangs.
    pub fn new(drives: usize) -> Self {
        Self {
            since: vec![None; drives],
            ..Self::default()
        }
    }

    /// Whether a drive is called hung.
    pub fn is_hung(&self, drive: u16) -> bool {
        self.since[usize::from(drive)].is_some()
    }

    /// Takes the reserve into keeping.
    pub fn keep_reserve(&mut self, span: Option<Span>) {
        self.reserve = span;
        self.reserve_home = span;
    }

    fn hold(&mut self, span: Span) -> Held {
        match self.buffers.iter_mut().find(|held| held.span == span) {
            Some(held) => held.holders += 1,
            None => self.buffers.push(HeldBuffer {
                span,
                holders: 1,
                returned: false,
            }),
        }
        Held::Buffer(span)
    }
}

impl Core {
    /// Gives the buffer of a command back; it is free when the kernel has let it go.
    pub(in crate::target) fn give_back(&mut self, io: &mut Io<Message>, span: Span) {
        let mut buffers = self.hung.buffers.iter_mut();
        match buffers.find(|held| held.span.offset() == span.offset()) {
            Some(held) => held.returned = true,
            None => self.free_buffer(io, span),
        }
    }

    fn free_buffer(&mut self, io: &mut Io<Message>, span: Span) {
        let home = self.hung.reserve_home;
        match home.filter(|home| home.offset() == span.offset()) {
            Some(home) => self.hung.reserve = Some(home),
            None => io.arena_mut().free(span),
        }
    }

    /// The drive has answered a command that was given up: its memory is its owner's again.
    pub(super) fn release(&mut self, io: &mut Io<Message>, group: u16, held: Held) {
        match held {
            Held::Nothing => {}
            Held::Scratch(hold) => {
                let binding = &mut self.groups[usize::from(group)];
                binding.release_scratch(hold);
                self.pump(io, group);
            }
            Held::Buffer(span) => {
                let buffers = &mut self.hung.buffers;
                let place = buffers
                    .iter()
                    .position(|held| held.span == span)
                    .expect("a held buffer is listed");
                buffers[place].holders -= 1;
                if buffers[place].holders == 0 {
                    let held = buffers.swap_remove(place);
                    if held.returned {
                        self.free_buffer(io, held.span);
                    }
                }
            }
        }
    }

    /// The control core calls a drive hung, or takes that back.
    pub(in crate::target) fn set_hung(&mut self, io: &mut Io<Message>, drive: u16, hung: bool) {
        let now = io.now();
        let since = &mut self.hung.since[usize::from(drive)];
        if !hung {
            *since = None;
            return;
        }
        since.get_or_insert(now);
        match self.drives[usize::from(drive)] {
            DriveBinding::File(file) => io.forsake_file(file),
            DriveBinding::Fabric => self.fabric_forsake(io, drive),
            DriveBinding::Memory | DriveBinding::Lost => {}
        }
    }

    /// Looks after hung drives, ten times a second.
    pub(in crate::target) fn tend_hung(&mut self, io: &mut Io<Message>) {
        self.unpark(io);
        let now = io.now();
        for drive in 0..self.hung.since.len() {
            let due = self.hung.since[drive].is_some_and(|since| now >= since + CANCEL_WAIT_NS);
            if due {
                self.give_up_flights(io, u16::try_from(drive).expect("a node has at most 1024 drives"));
            }
        }
    }

    /// Carries out what waited for a drive that hung on an operator's word and does so no more.
    fn unpark(&mut self, io: &mut Io<Message>) {
        if self.parked == 0 {
            return;
        }
        for drive in 0..u16::try_from(self.drives.len()).expect("a node has at most 1024 drives") {
            if self.drive_specs[usize::from(drive)].faults.hangs() {
                continue;
            }
            for key in self.flights.of_drive(drive) {
                let flight = self
                    .flights
                    .find(key)
                    .filter(|flight| flight.stage == Stage::Parked);
                if let Some(flight) = flight {
                    flight.stage = Stage::Kernel;
                    self.parked -= 1;
                    self.issue(io, key);
                }
            }
        }
    }

    /// Tells the engines an error for the commands of a drive that has not answered them. What cannot be given up now
    /// is looked at again with the next tick.
    fn give_up_flights(&mut self, io: &mut Io<Message>, drive: u16) {
        for key in self.flights.of_drive(drive) {
            let Some(flight) = self.flights.find(key).filter(|flight| flight.held.is_none()) else {
                continue;
            };
            let (group, tag, span) = (flight.group, flight.tag, flight.span);
            let reads = flight.kind == Kind::Read;
            match flight.place {
                Some(Place::Command { command, .. }) => {
                    let span = span.expect("a command with a place has a span");
                    let current = self.commands.span(command);
                    if !contains(current, span) {
                        // Its command has got another buffer since.
                        let mut old = self.hung.buffers.iter().map(|held| held.span);
                        let old = old.find(|old| contains(*old, span));
                        let held = self.hung.hold(old.expect("a buffer that was left is held"));
                        self.give_up(io, key, held);
                    } else if !reads {
                        let held = self.hung.hold(current);
                        self.give_up(io, key, held);
                    } else if self.is_quiet(command) {
                        self.give_up_reads(io, command);
                    }
                }
                Some(Place::Scratch { .. }) => {
                    let hold = self.groups[usize::from(group)].engine.hold_scratch(tag);
                    self.give_up(io, key, Held::Scratch(hold));
                }
                Some(Place::Ring { .. } | Place::Clean { .. } | Place::Handed { .. } | Place::Zeroes)
                | None => {
                    self.give_up(io, key, Held::Nothing);
                }
            }
        }
    }

    /// Whether only hung drives still have commands on this buffer.
    fn is_quiet(&self, wanted: CommandId) -> bool {
        let on_buffer = |place: Option<Place>| match place {
            Some(Place::Command { command, .. }) => command == wanted,
            Some(
                Place::Scratch { .. }
                | Place::Ring { .. }
                | Place::Clean { .. }
                | Place::Handed { .. }
                | Place::Zeroes,
            )
            | None => false,
        };
        self.flights.iter().all(|flight| {
            flight.held.is_some() || self.hung.is_hung(flight.drive) || !on_buffer(flight.place)
        })
    }

    /// Gives up all reads into the buffer of a command, which gets another one.
    fn give_up_reads(&mut self, io: &mut Io<Message>, command: CommandId) {
        let old = self.commands.span(command);
        let Some(new) = self.another_buffer(io, old.bytes()) else {
            return;
        };
        io.arena_mut().copy_settled(new, old);
        let mut given_up = Vec::new();
        for hung in (0..)
            .zip(&self.hung.since)
            .filter_map(|(at, since)| since.map(|_| at))
        {
            for key in self.flights.of_drive(hung) {
                let is_read_of = |flight: &mut super::Flight| {
                    let is_here = flight.span.is_some_and(|span| contains(old, span));
                    is_here && flight.held.is_none() && flight.kind == Kind::Read
                };
                if self.flights.find(key).is_some_and(is_read_of) {
                    given_up.push(key);
                }
            }
        }
        assert!(!given_up.is_empty(), "the caller has found one");
        let held: Vec<Held> = given_up.iter().map(|_| self.hung.hold(old)).collect();
        self.commands.replace_span(command, new);
        match self.commands.owner(command) {
            Owner::Host(queue, slot) => {
                let connection = self.connections.find(queue);
                let connection = connection.expect("a connection stays until its commands are done");
                connection.command(slot).span = Some(new);
            }
            Owner::Internal(_) => {}
        }
        self.give_back(io, old);
        for (key, held) in given_up.into_iter().zip(held) {
            self.give_up(io, key, held);
        }
    }

    fn another_buffer(&mut self, io: &mut Io<Message>, bytes: u32) -> Option<Span> {
        if let Some(span) = io.arena_mut().alloc(bytes) {
            return Some(span);
        }
        let span = self.hung.reserve.filter(|reserve| reserve.bytes() >= bytes)?;
        self.hung.reserve = None;
        Some(span.part(0, bytes))
    }

    fn give_up(&mut self, io: &mut Io<Message>, key: FlightKey, held: Held) {
        let flight = self.flights.find(key).expect("it is under way");
        flight.held = Some(held);
        let (group, tag) = (flight.group, flight.tag);
        self.drive_answered(io, group, tag, Err(DriveError::Gone));
    }
}

/// Whether a span is part of a buffer.
fn contains(buffer: Span, span: Span) -> bool {
    span.offset() >= buffer.offset() && span.offset() - buffer.offset() < buffer.bytes()
}
