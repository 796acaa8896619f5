//! One core's connections to shelves, bound to its drives.

use std::sync::Arc;

use nvme::tcp::initiator::Payload;
use reactor::{Io, Nanos};

use super::command::{encode, part_bytes_max, result_of};
use super::transfer::{Ended, Errand, Part, Route, Transfers, Wanted};
use crate::drive::DriveError;
use crate::target::core::{CONTROL_CORE, Core, TokenKind};
use crate::target::drives::{DriveSpec, FlightKey, Kind, Medium};
use crate::target::host::associations::Order;
use crate::target::host::queues::{Happened, Queues, Report, Submission};
use crate::target::host::{JobError, Namespace, Outcome, QueueName, Target, TargetFacts};
use crate::target::message::{ControlMessage, Message};

/// What a core's queues are asked to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricJob {
    /// A part of a command.
    Part {
        /// The command.
        transfer: u32,
        /// Bytes that a read wants; 0 for others.
        read_bytes: u32,
    },
    /// What core 0 asks, by its number.
    Ask(u32),
}

/// What core 0 wants of a core's connections to shelves.
pub enum FabricOrder {
    /// Something of a queue.
    Queue(QueueName, u32, Order),
    /// The controller of a shelf works.
    Ready(u16, Arc<TargetFacts>),
    /// A drive may be used, or not any more.
    Route(u16, Route),
}

/// What a core has to say of its connections to shelves.
pub enum FabricReport {
    /// Something of a queue.
    Queue(QueueName, u32, Report),
    /// A queue is gone, and everything that was in flight on it has ended; with drives of its shelf to which something was written that may
    /// still take effect.
    Closed(QueueName, Vec<u16>),
    /// A drive has refused a command with a reservation conflict.
    Conflict(u16),
}

/// One core's connections to shelves, and its commands for their drives.
pub struct Fabric {
    pub(in crate::target) queues: Queues<FabricJob>,
    transfers: Transfers,
    /// Of each shelf that is connected.
    facts: Vec<Option<Arc<TargetFacts>>>,
    /// The namespace of each drive that is one.
    namespaces: Vec<Option<(u16, Namespace)>>,
    /// Drives that nodes share.
    shared: Vec<bool>,
    /// Drives of each shelf; the next one's turn is first.
    drives: Vec<Vec<u16>>,
    /// Commands that are over; kept for its memory.
    ended: Vec<Ended>,
    /// Something may be sendable.
    runnable: bool,
}

impl Fabric {
    /// Of a node with these shelves and drives.
    pub fn new(targets: Arc<[Target]>, specs: &[DriveSpec]) -> Self {
        let mut drives = vec![Vec::new(); targets.len()];
        let namespaces = (0..).zip(specs).map(|(index, spec)| match &spec.medium {
            Medium::Fabric(drive) => {
                drives[usize::from(drive.shelf)].push(index);
                Some((drive.shelf, drive.namespace))
            }
            Medium::File { .. } | Medium::Memory(_) => None,
        });
        let namespaces = namespaces.collect();
        let is_shared =
            |spec: &DriveSpec| matches!(&spec.medium, Medium::Fabric(drive) if drive.identity.is_none());
        Self {
            shared: specs.iter().map(is_shared).collect(),
            facts: vec![None; targets.len()],
            queues: Queues::new(targets, TokenKind::Fabric as u8),
            transfers: Transfers::new(specs.len()),
            namespaces,
            drives,
            ended: Vec::new(),
            runnable: false,
        }
    }

    /// Sends what can be sent. True if anything was.
    fn pump(&mut self, io: &mut Io<Message>, zeroes: reactor::Span) -> bool {
        let mut any = false;
        for shelf in 0..u16::try_from(self.drives.len()).expect("a node has at most 64 shelves") {
            // Ends: each turn fills a place of the queue.
            while let Some(place) = self.queues.place_with_room(shelf) {
                let Some(part) = self.next_part(shelf) else { break };
                self.send(io, shelf, place, part, zeroes);
                any = true;
            }
        }
        any
    }

    /// The next part of a shelf's drives, which take turns.
    fn next_part(&mut self, shelf: u16) -> Option<Part> {
        let facts = self.facts[usize::from(shelf)].as_deref()?;
        let drives = &mut self.drives[usize::from(shelf)];
        for at in 0..drives.len() {
            let drive = drives[at];
            let Some(kind) = self.transfers.next_kind(drive) else {
                continue;
            };
            drives.rotate_left(at + 1);
            let (_, namespace) = self.namespaces[usize::from(drive)].as_ref()?;
            let mut most = part_bytes_max(kind, namespace, facts);
            if let Kind::Zero { .. } = kind {
                // Where zeroes are sent they come from a region of that length.
                most = most.min(crate::target::core::ZEROES_BYTES);
            }
            return Some(self.transfers.next_part(drive, most));
        }
        None
    }

    fn send(&mut self, io: &mut Io<Message>, shelf: u16, place: usize, part: Part, zeroes: reactor::Span) {
        let facts = self.facts[usize::from(shelf)].as_deref();
        let facts = facts.expect("its queues are ready");
        let drive = self.transfers.drive(part.transfer);
        let (_, namespace) =
            self.namespaces[usize::from(drive)].expect("a transfer is for a drive of a shelf");
        let (entry, data) = encode(part.kind, &namespace, part.at, part.bytes, facts);
        let (span, read_bytes) = match data {
            Payload::None => (None, 0),
            Payload::FromTarget(bytes) => (part.span, bytes),
            Payload::ToTarget(bytes) => (part.span.or(Some(zeroes.part(0, bytes))), 0),
        };
        let job = FabricJob::Part {
            transfer: part.transfer,
            read_bytes,
        };
        let submission = Submission {
            job,
            entry,
            data,
            span,
            deadline: Nanos::MAX, // The control core looks for drives that do not answer.
        };
        self.queues.submit(io, place, submission);
    }
}

impl Core {
    /// Begins a command for a drive of a shelf; an error is its end.
    pub(in crate::target) fn fabric_begin(&mut self, wanted: Wanted) -> Result<(), DriveError> {
        let fabric = self.fabric.as_mut().expect("a drive of a shelf has a binding");
        fabric.runnable = true;
        fabric.transfers.begin(wanted)
    }

    /// The memory that its connections need for themselves.
    pub(in crate::target) fn fabric_started(&mut self, io: &mut Io<Message>) {
        if let Some(fabric) = &mut self.fabric {
            fabric.queues.keep_spares(io);
        }
    }

    /// The control core wants something.
    pub(in crate::target) fn fabric_order(&mut self, io: &mut Io<Message>, order: FabricOrder) {
        let Some(fabric) = &mut self.fabric else { return };
        match order {
            FabricOrder::Queue(name, epoch, order) => fabric.queues.obey(io, name, epoch, order),
            FabricOrder::Ready(shelf, facts) => {
                fabric.queues.ready(shelf, &facts);
                fabric.facts[usize::from(shelf)] = Some(facts);
            }
            FabricOrder::Route(drive, route) => {
                let mut ended = std::mem::take(&mut fabric.ended);
                fabric.transfers.set_route(drive, route, &mut ended);
                fabric.runnable = true;
                self.fabric_ended(io, ended);
            }
        }
        self.fabric_happened(io);
    }

    /// Sends nothing more to a drive until the next order about it.
    pub(in crate::target) fn fabric_hold(&mut self, drive: u16) {
        if let Some(fabric) = &mut self.fabric {
            fabric.transfers.hold(drive);
        }
    }

    /// A drive is called hung: nothing more is sent for commands that are about to be given up.
    pub(in crate::target) fn fabric_forsake(&mut self, io: &mut Io<Message>, drive: u16) {
        let Some(fabric) = &mut self.fabric else { return };
        let mut ended = std::mem::take(&mut fabric.ended);
        fabric.transfers.forsake(drive, &mut ended);
        self.fabric_ended(io, ended);
    }

    /// Works off what has happened on the connections.
    pub(in crate::target) fn fabric_happened(&mut self, io: &mut Io<Message>) {
        // Ends: nothing that is done here lets something happen on a connection at once.
        while let Some(fabric) = &mut self.fabric
            && let Some(happened) = fabric.queues.next_happened()
        {
            fabric.runnable = true;
            match happened {
                Happened::Report(name, epoch, report) => {
                    let report = FabricReport::Queue(name, epoch, report);
                    self.tell_control(io, ControlMessage::Fabric(report));
                }
                Happened::Closed { queue } => {
                    let drives = fabric.drives[usize::from(queue.target)].iter().copied();
                    let in_doubt = drives.filter(|drive| fabric.transfers.is_in_doubt(*drive));
                    let report = FabricReport::Closed(queue, in_doubt.collect());
                    self.tell_control(io, ControlMessage::Fabric(report));
                }
                Happened::Done {
                    job: FabricJob::Ask(number),
                    outcome,
                    data_bytes,
                    ..
                } => self.with_control(io, |control, _, io| {
                    control.ask_done(io, number, outcome, data_bytes);
                }),
                Happened::Released {
                    job: FabricJob::Ask(number),
                } => self.with_control(io, |control, core, io| control.ask_released(core, io, number)),
                Happened::Done {
                    job: FabricJob::Part { transfer, read_bytes },
                    outcome,
                    data_bytes,
                    ..
                } => self.part_done(io, transfer, read_bytes, outcome, data_bytes),
                Happened::Released {
                    job: FabricJob::Part { transfer, .. },
                } => self.part_released(io, transfer),
            }
        }
    }

    fn part_done(
        &mut self,
        io: &mut Io<Message>,
        transfer: u32,
        read_bytes: u32,
        outcome: Outcome,
        data_bytes: u32,
    ) {
        let fabric = self.fabric.as_mut().expect("it has sent the part");
        let mut result = result_of(outcome);
        if result == Some(Ok(())) && data_bytes != read_bytes {
            result = Some(Err(DriveError::Io { errno: libc::EBADMSG }));
        }
        assert!(outcome != Err(JobError::TooLarge), "parts are cut to what fits");
        let (drive, is_refused) = (
            fabric.transfers.drive(transfer),
            result == Some(Err(DriveError::Fenced)),
        );
        if is_refused && fabric.shared[usize::from(drive)] {
            // Not the command has failed, but this life of the node has ended: what becomes of its commands is for others to say.
            result = None;
        }
        fabric.transfers.part_ended(transfer, result);
        if is_refused {
            self.tell_control(io, ControlMessage::Fabric(FabricReport::Conflict(drive)));
        }
    }

    fn part_released(&mut self, io: &mut Io<Message>, transfer: u32) {
        let fabric = self.fabric.as_mut().expect("it has sent the part");
        if let Some(ended) = fabric.transfers.part_released(transfer) {
            self.errand_ended(io, ended);
        }
    }

    fn fabric_ended(&mut self, io: &mut Io<Message>, mut ended: Vec<Ended>) {
        for end in ended.drain(..) {
            self.errand_ended(io, end);
        }
        if let Some(fabric) = &mut self.fabric {
            fabric.ended = ended;
        }
    }

    fn errand_ended(&mut self, io: &mut Io<Message>, Ended { errand, result }: Ended) {
        match errand {
            Errand::Flight(key) => self.drive_done(io, key.to_bits(), result),
            // By way of a message: the control machines may be at work.
            Errand::Superblock(number) => self.tell(
                io,
                CONTROL_CORE,
                Message::ToControl(ControlMessage::SuperblockDone { number, result }),
            ),
        }
    }

    /// Begins a command of an engine for a drive of a shelf.
    pub(in crate::target) fn fabric_issue(&mut self, io: &mut Io<Message>, key: FlightKey) {
        let flight = self.flights.find(key).expect("it is under way");
        let wanted = Wanted {
            errand: Errand::Flight(key),
            drive: flight.drive,
            kind: flight.kind,
            at: flight.at,
            bytes: flight.bytes,
            span: flight.span,
        };
        if let Err(error) = self.fabric_begin(wanted) {
            // By way of the queue: the engine that asks is at work.
            let payload = key.to_bits();
            self.tell(io, self.index, Message::DriveRefused { payload, error });
        }
    }

    /// Sends what this turn has for shelves. True if there was anything.
    pub(in crate::target) fn fabric_turn(&mut self, io: &mut Io<Message>) -> bool {
        let Some(fabric) = self.fabric.as_mut() else {
            return false;
        };
        let mut busy = false;
        if fabric.runnable {
            fabric.runnable = false;
            let zeroes = self.zeroes.expect("allocated at start");
            busy = fabric.pump(io, zeroes);
        }
        fabric.queues.flush(io);
        busy
    }

    /// Looks at deadlines, ten times a second.
    pub(in crate::target) fn fabric_tick(&mut self, io: &mut Io<Message>) {
        if let Some(fabric) = &mut self.fabric {
            fabric.queues.tick(io);
            fabric.runnable = true;
            self.fabric_happened(io);
        }
    }
}
