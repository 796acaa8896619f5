//! One life of a node in its array: the machine, the connections to shelves and to the other nodes, on a reactor of its own.

mod making;
mod status;

pub use status::{LEAVING, SETTLING};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};
use std::time::Duration;

use nvme::status::Status as NvmeStatus;
use reactor::{Errno, Io, Nanos, Progress, Received, SendBatch, Span, TimerId, Token};

use super::desk::{self, Encoded};
use super::drives::{Drives, State};
use super::{Ending, Setup};
use crate::icl::link::{Lane, LinkConfig, PastLives};
use crate::icl::membership::contact::{Contacts, UNLINKED_NS};
use crate::icl::membership::machine::{Action, Answer, Command, Config, Event, Ticket, Wish};
use crate::icl::membership::message::{Announcement, Standing};
use crate::icl::membership::record::EpochRecord;
use crate::icl::membership::status::{Halt, Stage};
use crate::icl::membership::times::IO_NS;
use crate::icl::membership::{DriveSet, Machine};
use crate::icl::{DriveIndex, Epoch, Incarnation, Node, Slot};
use crate::target::host::associations::Associations;
use crate::target::host::queues::{Happened, Queues, Submission};
use crate::target::host::{Event as AssociationEvent, JobError, Outcome, Payload, Target, TargetFacts};
use crate::target::icl::{ANNOUNCEMENTS, News, Port, PortSetup, address_of_lane};
use crate::target::manage::{ArrayCut, ArrayStatus};
use crate::target::share::{Heard, Lease};

/// What tokens are about, in their highest byte.
const QUEUES: u8 = 1;
const PORT: u8 = 2;
const TIMER: u8 = 3;
/// How often what is not urgent is looked at, drives without a label among it.
const TICK_NS: Nanos = 100_000_000;
const LABELS_NS: Nanos = 1_000_000_000;
/// A drive that has erred twice within so long is left alone for as long.
const DOUBT_NS: Nanos = 5_000_000_000;
/// Commands in flight at a shelf.
const DEPTH: u16 = 64;
/// Longest time that a shelf's admin commands may take: those that wait for other nodes' commands.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// Wait before a shelf is connected to again, doubling.
const RECONNECT: Duration = Duration::from_millis(100);
/// A shelf that hears nothing for so long ends the association.
const KATO_MS: u32 = 5000;

/// What the outside wants.
pub enum Order {
    /// Say how things are.
    Status(SyncSender<ArrayStatus>),
    /// Make the array.
    Create(SyncSender<Result<(), String>>),
    /// Leave it.
    Leave(SyncSender<Result<(), String>>),
    /// Cut the link to a node.
    Cut {
        /// Which.
        peer: Slot,
        /// How.
        cut: ArrayCut,
        /// Done.
        answer: SyncSender<()>,
    },
    /// The link for locks has not heard a member for a while.
    Unlinked(Slot),
    /// It hears it, for the first time in the epoch or again.
    Linked(Slot),
    /// The cores of this life have done what its barrier asked for.
    BarrierDone(Epoch),
    /// They have recovered what was under way.
    Recovered(Epoch),
    /// They have brought everything to its place, and are gone.
    Drained,
    /// A drive has refused them.
    Preempted,
    /// They cannot serve, and why.
    Failed(String),
    /// They could not in another life either, and why.
    Unfit(String),
    /// End.
    Stop,
}

/// A command for a drive, and why it was given.
struct Asked {
    drive: usize,
    why: Why,
    encoded: Encoded,
    span: Option<Span>,
    /// How it ended, and what it read, until its memory is free again.
    over: bool,
    /// Its shelf was lost while it was under way, and the drive knows.
    left_behind: bool,
}

impl Asked {
    /// Whether it may take effect later although no answer has come.
    const fn may_change(&self) -> bool {
        self.encoded.read_bytes == 0 && !self.over && !self.left_behind
    }
}

enum Why {
    ReadLabel,
    /// This life claims its name on a drive, before it changes anything there: earlier lives are out from then on.
    Claim(Then),
    /// Keys of the drive are held to epochs from now on.
    HoldKeys,
    WriteLabel,
    Machine(DriveIndex, Ticket, Command),
}

/// What follows a claim.
#[derive(Clone, Copy)]
enum Then {
    /// The drive is a drive of the array.
    Up(DriveIndex),
    /// It is made one.
    Label,
}

/// An array that is being made.
struct Making {
    answer: SyncSender<Result<(), String>>,
    /// Drives whose labels are written once that of the first drive is there.
    later: Vec<usize>,
    left: usize,
    failed: Option<String>,
}

/// See the module.
pub struct Seat {
    setup: Arc<Setup>,
    incarnation: Incarnation,
    random: u32,
    ended: SyncSender<Ending>,
    port: Port,
    heard: Vec<Event>,
    queues: Queues<u32>,
    associations: Associations,
    facts: Vec<Option<Arc<TargetFacts>>>,
    drives: Drives,
    machine: Option<Machine>,
    actions: Vec<Action>,
    /// Drives on which this life has claimed its name: it does that once on each.
    claimed: BTreeSet<usize>,
    asked: BTreeMap<u32, Asked>,
    next: u32,
    waiting: VecDeque<u32>,
    making: Option<Making>,
    timer: Option<(Nanos, TimerId)>,
    tick_at: Nanos,
    labels_at: Nanos,
    /// When each drive answered a command with an error last.
    doubted: BTreeMap<usize, Nanos>,
    past: PastLives,
    /// Who is heard, and who counts as silent all the same.
    contacts: Contacts,
    record: Option<EpochRecord>,
    /// The cores that serve the array's groups, if this node does, and until when they may answer hosts.
    share: Option<(Sender<Heard>, Arc<Lease>)>,
    is_over: bool,
}

fn port_token(payload: u64) -> Token {
    Token(u64::from(PORT) << 56 | payload)
}

impl Seat {
    /// A life that begins when its reactor does.
    pub fn new(
        setup: Arc<Setup>,
        incarnation: Incarnation,
        random: u32,
        listener: OwnedFd,
        ended: SyncSender<Ending>,
        share: Option<(Sender<Heard>, Arc<Lease>)>,
    ) -> Self {
        let node = Node {
            slot: setup.slot,
            incarnation,
        };
        let port = PortSetup {
            link: LinkConfig::new(setup.array(), node, ANNOUNCEMENTS, crate::target::crc32c),
            key: setup.key,
            encryption: setup.encryption,
            terms: setup.terms,
            peers: setup.peers.clone(),
            token: port_token,
        };
        let targets: Vec<Target> = setup
            .shelves
            .iter()
            .map(|shelf| {
                let (first, others) = shelf.addresses.split_first().expect("a shelf has an address");
                Target {
                    other_addresses: others.to_vec(),
                    depth: DEPTH,
                    kato_ms: KATO_MS,
                    drain: true,
                    command_timeout: COMMAND_TIMEOUT,
                    reconnect: RECONNECT,
                    loss_timeout: None,
                    ..Target::new(
                        *first,
                        shelf.nqn.clone(),
                        setup.host_nqn(setup.slot),
                        setup.host_id(setup.slot, incarnation),
                    )
                }
            })
            .collect();
        Self {
            port: Port::new(port, Some(listener)),
            heard: Vec::new(),
            associations: Associations::new(&targets, 1),
            facts: vec![None; targets.len()],
            queues: Queues::new(targets.into(), QUEUES),
            drives: Drives::new(&setup),
            machine: None,
            actions: Vec::new(),
            claimed: BTreeSet::new(),
            asked: BTreeMap::new(),
            next: 0,
            waiting: VecDeque::new(),
            making: None,
            timer: None,
            tick_at: 0,
            labels_at: 0,
            doubted: BTreeMap::new(),
            past: PastLives::default(),
            contacts: Contacts::default(),
            record: None,
            share,
            is_over: false,
            setup,
            incarnation,
            random,
            ended,
        }
    }

    fn with_port(
        &mut self,
        io: &mut Io<Order>,
        act: impl FnOnce(&mut Port, &mut Io<Order>, &mut dyn FnMut(News<'_>)),
    ) {
        let (heard, contacts, array) = (&mut self.heard, &mut self.contacts, self.setup.array());
        let now = io.now();
        act(&mut self.port, io, &mut |news| match news {
            News::Announcement { peer, bytes } => match Announcement::parse(bytes) {
                Ok(said)
                    if said.array == array
                        && said.slot == peer.slot
                        && said.incarnation == peer.incarnation =>
                {
                    // That a life is over is good to know of anybody.
                    if contacts.announced(now, said.slot) || said.standing == Standing::Halted {
                        heard.push(Event::Heard(Box::new(said)));
                    }
                }
                Ok(_) => {
                    tracing::warn!(peer = %peer.slot, "a node announces something in another's name; it is not believed")
                }
                Err(error) => {
                    tracing::warn!(peer = %peer.slot, %error, "an announcement of a node is not understood")
                }
            },
            News::Lost { peer } => heard.push(Event::LinkLost(peer)),
            News::Message { .. }
            | News::Suspect { .. }
            | News::Heard { .. }
            | News::NewerEpoch { .. }
            | News::Room { .. } => unreachable!("announcements have no session"),
        });
    }

    /// Works off everything that has come up, until nothing more does.
    fn go_on(&mut self, io: &mut Io<Order>) {
        loop {
            let mut any = false;
            for event in std::mem::take(&mut self.heard) {
                self.machine_event(io, event);
                any = true;
            }
            any |= self.associate(io);
            while let Some(happened) = self.queues.next_happened() {
                self.happened(io, happened);
                any = true;
            }
            any |= self.send_waiting(io);
            if !any {
                break;
            }
        }
        self.queues.flush(io);
        self.with_port(io, |port, io, mut news| port.end_turn(io, &mut news));
        if let Some(machine) = &self.machine {
            self.wake_at(io, machine.wake_at_ns());
        }
    }

    fn wake_at(&mut self, io: &mut Io<Order>, at: Nanos) {
        if let Some((due, timer)) = self.timer {
            if due <= at {
                return;
            }
            io.cancel_timer(timer);
        }
        let timer = io.set_timer(at, Token(u64::from(TIMER) << 56));
        self.timer = timer.map(|timer| (at, timer));
    }

    fn tick(&mut self, io: &mut Io<Order>) {
        let now = io.now();
        if now < self.tick_at {
            return;
        }
        self.tick_at = now + TICK_NS;
        self.associations.tick(now);
        self.queues.tick(io);
        self.shun(now);
        if now >= self.labels_at {
            self.labels_at = now + LABELS_NS;
            self.take_drives_back(io);
            if self.making.is_none() {
                for drive in 0..self.setup.drives.len() {
                    if self.may_look(now, drive) && self.drives.look_again(drive) {
                        self.read_label(drive);
                    }
                }
            }
        }
    }
}

// The other nodes.
impl Seat {
    /// Counts members as silent that are heard, but not on the link for locks.
    fn shun(&mut self, now: Nanos) {
        while let Some((peer, long_ns)) = self.contacts.shun(now) {
            let known = self.setup.peers.iter().find(|known| known.slot == peer);
            let address = known.and_then(|known| address_of_lane(*known.addresses.first()?, Lane(0)));
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::error!(
                %peer, %address, silent_s = UNLINKED_NS / 1_000_000_000, shunned_s = long_ns / 1_000_000_000,
                "a member is heard, but the link for locks to it is silent: it counts as lost for a while. Let that TCP port through between the nodes"
            );
            self.heard.push(Event::LinkLost(peer));
        }
    }
}

// Shelves and their drives.
impl Seat {
    /// Drives that are reached again are to be in use again. Nothing of hosts is on them yet that would have to be rebuilt first.
    fn take_drives_back(&mut self, io: &mut Io<Order>) {
        let Some(machine) = &self.machine else { return };
        let is_open = machine.status(io.now()).stage == Stage::Open;
        let Some(record) = machine.record().filter(|_| is_open) else {
            return;
        };
        let reached: DriveSet = (0..self.setup.drives.len())
            .filter_map(|drive| match self.drives.get(drive).state {
                State::Member(index) => Some(index),
                State::Away | State::Draining | State::Reading | State::Blank | State::Unfit(_) => None,
            })
            .collect();
        let is_more = reached != record.drives && reached.covers(record.drives);
        if is_more && record.leader().slot == self.setup.slot {
            let wish = Wish {
                drives: reached,
                generation: record.generation + 1,
                dirty_ram: record.dirty_ram,
            };
            self.machine_event(io, Event::Configure(wish));
        }
    }

    /// Hands out what the associations want. Whether they wanted anything.
    fn associate(&mut self, io: &mut Io<Order>) -> bool {
        let mut any = false;
        for (_, name, epoch, order) in std::mem::take(&mut self.associations.orders) {
            self.queues.obey(io, name, epoch, order);
            any = true;
        }
        for (shelf, facts) in std::mem::take(&mut self.associations.ready) {
            self.queues.ready(shelf, &facts);
            any = true;
        }
        for event in std::mem::take(&mut self.associations.events) {
            any = true;
            match event {
                AssociationEvent::Ready { target, facts } => self.shelf_up(target, facts),
                AssociationEvent::Down { target, reason } => {
                    tracing::warn!(shelf = %self.setup.shelves[target].name, %reason, "membership has lost a shelf");
                    self.shelf_down(io, target);
                }
                AssociationEvent::Failed { target, reason } => {
                    tracing::error!(shelf = %self.setup.shelves[target].name, %reason, "membership gives up a shelf");
                    self.shelf_down(io, target);
                }
                AssociationEvent::Stopped { .. } | AssociationEvent::Discovered { .. } => {}
            }
        }
        any
    }

    fn shelf_up(&mut self, target: usize, facts: Arc<TargetFacts>) {
        let shelf = u16::try_from(target).expect("a node has few shelves");
        for drive in self.drives.shelf_up(&self.setup, shelf, &facts) {
            self.read_label(drive);
        }
        self.facts[target] = Some(facts);
    }

    fn shelf_down(&mut self, io: &mut Io<Order>, target: usize) {
        let shelf = u16::try_from(target).expect("a node has few shelves");
        self.facts[target] = None;
        for index in self.drives.shelf_down(&self.setup, shelf) {
            self.machine_event(io, Event::DriveDown(index));
        }
        for number in self.asked.keys().copied().collect::<Vec<u32>>() {
            if !self.waiting.contains(&number) {
                self.leave_behind(number, Some(shelf));
            }
        }
        // What was sent ends with its queue; what was not ends here.
        let (asked, setup) = (&self.asked, &self.setup);
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (lost, kept): (Vec<u32>, Vec<u32>) =
            waiting.partition(|number| setup.drives[asked[number].drive].shelf == shelf);
        self.waiting = kept.into();
        for number in lost {
            if let Some(asked) = self.asked.remove(&number) {
                self.answered(io, asked.drive, asked.why, &Err(JobError::NotSent), &[]);
            }
        }
    }

    /// A command has got no answer and gets none any more, on this shelf if one is named.
    fn leave_behind(&mut self, number: u32, only: Option<u16>) {
        let Some(asked) = self.asked.get_mut(&number) else {
            return;
        };
        let shelf = self.setup.drives[asked.drive].shelf;
        if asked.may_change() && only.is_none_or(|only| only == shelf) {
            asked.left_behind = true;
            self.drives.leave_behind(asked.drive);
        }
    }

    /// A drive has answered a command with an error: it counts as away until its label is read, which is tried at once, but not again and again.
    fn doubt(&mut self, io: &mut Io<Order>, drive: usize, index: DriveIndex) {
        let now = io.now();
        let is_usual = self.doubted.get(&drive).is_some_and(|at| now < at + DOUBT_NS);
        self.doubted.insert(drive, now);
        self.drives.doubt(drive);
        self.heard.push(Event::DriveDown(index));
        if !is_usual && self.drives.look_again(drive) {
            self.read_label(drive);
        }
    }

    /// Whether the machine has a command under way for a drive.
    fn has_under_way(&self, drive: usize) -> bool {
        let of = |asked: &Asked| asked.drive == drive && !asked.over && matches!(asked.why, Why::Machine(..));
        self.asked.values().any(of)
    }

    /// Whether a drive that was in doubt may be looked at again.
    fn may_look(&self, now: Nanos, drive: usize) -> bool {
        self.doubted.get(&drive).is_none_or(|at| now >= at + DOUBT_NS)
    }

    fn read_label(&mut self, drive: usize) {
        let namespace = self.drives.get(drive).namespace;
        let namespace = namespace.expect("a drive whose label is read is there");
        self.ask(drive, Why::ReadLabel, desk::read_label(&namespace));
    }

    fn ask(&mut self, drive: usize, why: Why, encoded: Encoded) {
        self.next = self.next.wrapping_add(1);
        let asked = Asked {
            drive,
            why,
            encoded,
            span: None,
            over: false,
            left_behind: false,
        };
        let old = self.asked.insert(self.next, asked);
        assert!(old.is_none(), "four thousand million commands are not under way");
        self.waiting.push_back(self.next);
    }

    /// Sends what has a place in a queue and memory. Whether anything was sent.
    fn send_waiting(&mut self, io: &mut Io<Order>) -> bool {
        let mut any = false;
        for _ in 0..self.waiting.len() {
            let Some(number) = self.waiting.pop_front() else {
                break;
            };
            let asked = self.asked.get_mut(&number).expect("it waits");
            let shelf = self.setup.drives[asked.drive].shelf;
            let place = if asked.encoded.is_admin {
                self.queues.admin_with_room(shelf)
            } else {
                self.queues.place_with_room(shelf)
            };
            let write_bytes = u32::try_from(asked.encoded.data.len()).expect("a block");
            let bytes = write_bytes.max(asked.encoded.read_bytes);
            let data = match (write_bytes, asked.encoded.read_bytes) {
                (0, 0) => Payload::None,
                (0, bytes) => Payload::FromTarget(bytes),
                (bytes, _) => Payload::ToTarget(bytes),
            };
            let Some(place) = place else {
                self.waiting.push_back(number);
                continue;
            };
            if bytes > 0 {
                let Some(span) = io.arena_mut().alloc(bytes) else {
                    self.waiting.push_back(number);
                    continue;
                };
                io.arena_mut().copy_in(span, 0, &asked.encoded.data);
                asked.span = Some(span);
            }
            let submission = Submission {
                job: number,
                entry: asked.encoded.entry,
                data,
                span: asked.span.map(|span| span.part(0, bytes)),
                deadline: io.now() + IO_NS,
            };
            self.queues.submit(io, place, submission);
            any = true;
        }
        any
    }

    fn happened(&mut self, io: &mut Io<Order>, happened: Happened<u32>) {
        match happened {
            Happened::Report(queue, epoch, report) => {
                self.associations.report(io.now(), queue, epoch, &report);
            }
            Happened::Done {
                job,
                outcome,
                data_bytes,
                ..
            } => {
                if outcome == Err(JobError::Lost) {
                    self.leave_behind(job, None);
                }
                let Some(asked) = self.asked.get_mut(&job) else {
                    return;
                };
                asked.over = true;
                let why = std::mem::replace(&mut asked.why, Why::WriteLabel);
                let (drive, span) = (asked.drive, asked.span);
                let data = span
                    .filter(|_| data_bytes > 0)
                    .map(|span| io.arena().with_bytes(span.part(0, data_bytes), <[u8]>::to_vec));
                self.answered(io, drive, why, &outcome, &data.unwrap_or_default());
            }
            Happened::Released { job } => {
                if let Some(asked) = self.asked.remove(&job) {
                    assert!(asked.over, "memory is free after the end");
                    if let Some(span) = asked.span {
                        io.arena_mut().free(span);
                    }
                }
            }
            Happened::Closed { .. } => {}
        }
    }

    fn answered(&mut self, io: &mut Io<Order>, drive: usize, why: Why, outcome: &Outcome, data: &[u8]) {
        match why {
            Why::ReadLabel => {
                let read = matches!(outcome, Ok(answer) if answer.status.is_success());
                let index = self.drives.labelled(&self.setup, drive, read.then_some(data));
                match index {
                    // What was asked before it was doubted may still change it.
                    Some(_) if self.has_under_way(drive) => self.drives.doubt(drive),
                    Some(index) if self.claimed.contains(&drive) => self.drive_up(io, index),
                    Some(index) => self.claim(drive, Then::Up(index)),
                    None => {}
                }
            }
            Why::Claim(then) => self.claim_answered(io, drive, then, outcome),
            Why::HoldKeys => match outcome {
                Ok(answer) if answer.status.is_success() => self.write_label(drive),
                Ok(_) | Err(_) => self.label_written(io, drive, outcome),
            },
            Why::WriteLabel => self.label_written(io, drive, outcome),
            Why::Machine(index, ticket, command) => {
                let namespace = self.drives.get(drive).namespace;
                let block_bytes = namespace.map_or(4096, |namespace| namespace.block_bytes);
                let answer = desk::answer(&self.setup, block_bytes, &command, outcome, data);
                let is_refused = matches!(outcome, Ok(answer) if !answer.status.is_success());
                if answer == Answer::Failed && is_refused {
                    self.doubt(io, drive, index);
                }
                if answer == Answer::Failed {
                    let status = outcome
                        .as_ref()
                        .map_or(NvmeStatus::SUCCESS, |answer| answer.status);
                    let name = &self.setup.drives[drive].name;
                    tracing::debug!(drive = %name, purpose = ?ticket.purpose(), %status, "a command of membership failed");
                }
                let event = Event::Answered {
                    drive: index,
                    ticket,
                    answer,
                };
                self.machine_event(io, event);
            }
        }
    }
}

// Claims.
impl Seat {
    fn claim(&mut self, drive: usize, then: Then) {
        let namespace = self.drives.get(drive).namespace;
        let namespace = namespace.expect("a drive that is claimed is there");
        let claim = desk::encode(&self.setup, self.incarnation, &namespace, &Command::Expel);
        self.ask(drive, Why::Claim(then), claim);
    }

    fn claim_answered(&mut self, io: &mut Io<Order>, drive: usize, then: Then, outcome: &Outcome) {
        match (desk::answer(&self.setup, 0, &Command::Expel, outcome, &[]), then) {
            (Answer::Done, Then::Up(index)) => {
                self.claimed.insert(drive);
                if self.drives.get(drive).state == State::Member(index) {
                    self.drive_up(io, index);
                }
            }
            (Answer::Done, Then::Label) => {
                self.claimed.insert(drive);
                self.hold_keys(drive);
            }
            (Answer::Conflict, _) => self.halt(Halt::SlotTaken),
            (_, Then::Up(_)) => self.drives.doubt(drive),
            (_, Then::Label) => self.label_written(io, drive, outcome),
        }
    }
}

// The machine.
impl Seat {
    fn begin(&mut self, io: &mut Io<Order>, drives: DriveSet, voters: DriveSet) {
        if self.machine.is_some() {
            return;
        }
        let config = Config {
            array: self.setup.array(),
            slot: self.setup.slot,
            incarnation: self.incarnation,
            random: self.random,
            drives,
            voters,
            killers: drives,
            needs: Vec::new(),
        };
        self.machine = Some(Machine::new(io.now(), config));
    }

    fn drive_up(&mut self, io: &mut Io<Order>, index: DriveIndex) {
        let (drives, voters) = self.drives.array().expect("a label was read");
        self.begin(io, drives, voters);
        self.machine_event(io, Event::DriveUp(index));
    }

    fn machine_event(&mut self, io: &mut Io<Order>, event: Event) {
        let Some(machine) = &mut self.machine else { return };
        let now = io.refresh_now();
        let mut actions = std::mem::take(&mut self.actions);
        machine.handle(now, event, &mut actions);
        if let Some((_, lease)) = &self.share {
            lease.set(machine.completes_until_ns());
        }
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
    }

    /// Tells the cores that serve the array's groups. False if there are none.
    fn tell(&self, heard: Heard) -> bool {
        let Some((ear, _)) = &self.share else {
            return false;
        };
        let _ = ear.send(heard); // Their life may be about to end.
        true
    }

    /// Which drives of the configuration all members use.
    fn usable(&self, record: &EpochRecord) -> Vec<bool> {
        let is_used = |drive: usize| match self.drives.get(drive).state {
            State::Member(index) => record.drives.contains(index),
            // What is not known to be in use has not been fenced, as far as this node can tell.
            State::Away | State::Draining | State::Reading | State::Blank | State::Unfit(_) => false,
        };
        (0..self.setup.drives.len()).map(is_used).collect()
    }

    fn act(&mut self, action: Action) {
        let (array, slot) = (&self.setup.name, self.setup.slot);
        match action {
            Action::Drive {
                drive,
                ticket,
                command,
            } => self.command(drive, ticket, command),
            Action::Announce(said) => self.port.announce(&said.encode()),
            Action::Suspect(slots) => {
                if slots.is_empty() {
                    tracing::info!(%array, "all members are heard");
                } else {
                    let silent: Vec<u8> = slots.iter().map(Slot::number).collect();
                    tracing::warn!(%array, ?silent, "members are not heard");
                }
                self.tell(Heard::Suspect(slots));
            }
            Action::Decided(record) => self.decided(*record),
            // A node that serves no groups of the array has no locks to report, nothing to recover, nothing to drain.
            Action::Barrier(epoch) => {
                let record = self
                    .record
                    .clone()
                    .expect("a record was decided before its barrier");
                let usable = self.usable(&record);
                if !self.tell(Heard::Barrier(Box::new(record), usable)) {
                    self.heard.push(Event::BarrierDone(epoch));
                }
            }
            Action::Recover(record) => {
                if !self.tell(Heard::Recover(record.epoch, self.usable(&record))) {
                    self.heard.push(Event::Recovered(record.epoch));
                }
            }
            Action::Drain => {
                if !self.tell(Heard::Drain) {
                    self.heard.push(Event::Drained);
                }
            }
            Action::Opened(record) => {
                tracing::info!(%array, %slot, epoch = %record.epoch, members = record.members.len(), "epoch is open");
                self.tell(Heard::Opened(record.epoch));
            }
            Action::Pause => tracing::warn!(%array, %slot, "no lease: nothing is answered"),
            Action::Resume => tracing::info!(%array, %slot, "the lease is good"),
            Action::DriveStale(drive) => {
                tracing::error!(%array, %drive, "drive has forgotten who may write to it: what it holds is stale");
            }
            Action::Halt(halt) => self.halt(halt),
        }
    }

    fn command(&mut self, index: DriveIndex, ticket: Ticket, command: Command) {
        let place = self.drives.find(index);
        let namespace = place.and_then(|place| self.drives.get(place).namespace);
        let (Some(place), Some(namespace)) = (place, namespace) else {
            // It went down in this moment, and the machine has yet to hear of it.
            return self.heard.push(Event::Answered {
                drive: index,
                ticket,
                answer: Answer::Failed,
            });
        };
        if command == Command::Expel {
            // That was done before the machine heard of the drive, and is not to be done twice.
            return self.heard.push(Event::Answered {
                drive: index,
                ticket,
                answer: Answer::Done,
            });
        }
        let encoded = desk::encode(&self.setup, self.incarnation, &namespace, &command);
        self.ask(place, Why::Machine(index, ticket, command), encoded);
    }

    fn decided(&mut self, record: EpochRecord) {
        tracing::info!(array = %self.setup.name, epoch = %record.epoch, members = record.members.len(), drives = record.drives.count(), "epoch is decided");
        let node = |member: &crate::icl::membership::record::Member| Node {
            slot: member.slot,
            incarnation: member.incarnation,
        };
        let before = self.record.iter().flat_map(|old| &old.members);
        for member in before.chain(&record.victims) {
            if !record.names(member.slot, member.incarnation) {
                self.past.add(node(member));
                self.port.is_over(node(member));
                self.tell(Heard::Over(node(member)));
            }
        }
        let has_cores = self.record.is_some() && self.share.is_some();
        if record.fence_all && has_cores {
            // What its cores had under way was ended with everybody's registration, and nobody has told them.
            self.end(Ending::Lost(
                "everybody was fenced, this node among them".to_owned(),
            ));
        }
        self.record = Some(record);
        self.contacts.enter();
    }

    fn halt(&mut self, halt: Halt) {
        let ending = match halt {
            Halt::Left(_) => Ending::Left,
            Halt::LeftOut(_) | Halt::Fenced(_) | Halt::Preempted(_) | Halt::SlotTaken => {
                Ending::Lost(halt.to_string())
            }
        };
        self.end(ending);
    }

    fn end(&mut self, ending: Ending) {
        if !self.is_over {
            self.is_over = true;
            let _ = self.ended.try_send(ending); // The thread that waits for it may be gone.
        }
    }
}

// What people ask.
impl Seat {
    fn order(&mut self, io: &mut Io<Order>, order: Order) {
        match order {
            Order::Status(answer) => drop(answer.send(self.status(io.now()))),
            Order::Create(answer) => self.create(io, answer),
            Order::Leave(answer) => {
                let is_open = self
                    .machine
                    .as_ref()
                    .is_some_and(|machine| machine.status(io.now()).stage == Stage::Open);
                let result = if is_open {
                    self.machine_event(io, Event::Leave);
                    Ok(())
                } else {
                    Err(
                        "this node is not a member of an open epoch, so that there is nothing to leave"
                            .to_owned(),
                    )
                };
                drop(answer.send(result));
            }
            Order::Cut { peer, cut, answer } => {
                if !cut.locks_only {
                    self.port.cut(peer, cut.muted, cut.deafened);
                }
                self.tell(Heard::Cut(peer, cut));
                let _ = answer.send(()); // Whoever asked may have gone.
            }
            Order::Unlinked(peer) => self.contacts.silent(io.now(), peer),
            Order::Linked(peer) => self.contacts.linked(io.now(), peer),
            Order::BarrierDone(epoch) => self.machine_event(io, Event::BarrierDone(epoch)),
            Order::Recovered(epoch) => self.machine_event(io, Event::Recovered(epoch)),
            Order::Drained => self.machine_event(io, Event::Drained),
            Order::Preempted => self.machine_event(io, Event::Preempted),
            Order::Failed(why) => self.end(Ending::Failed(why)),
            Order::Unfit(why) => self.end(Ending::Unfit(why)),
            Order::Stop => self.end(Ending::Stopped),
        }
    }
}

fn index_of(drive: usize) -> Option<DriveIndex> {
    DriveIndex::new(u8::try_from(drive).ok()?)
}

impl reactor::Program for Seat {
    type Message = Order;

    fn started(&mut self, io: &mut Io<Order>) {
        self.queues.keep_spares(io);
        self.associations.start(io.now());
        self.port.start(io);
        self.wake_at(io, io.now());
    }

    fn message(&mut self, io: &mut Io<Order>, message: Order) {
        self.order(io, message);
    }

    fn accepted(&mut self, io: &mut Io<Order>, _token: Token, result: Result<OwnedFd, Errno>) {
        self.port.accepted(io, result);
    }

    fn received(&mut self, io: &mut Io<Order>, token: Token, event: Received<'_>) {
        match kind_of(token) {
            (PORT, payload) => {
                self.with_port(io, |port, io, mut news| {
                    port.received(io, payload, event, &mut news)
                });
            }
            _ => self.queues.received(io, token, event),
        }
    }

    fn sent(&mut self, io: &mut Io<Order>, token: Token, batch: Box<SendBatch>, result: Result<(), Errno>) {
        match kind_of(token) {
            (PORT, payload) => self.with_port(io, |port, io, mut news| {
                port.sent(io, payload, batch, result, &mut news)
            }),
            _ => self.queues.sent(io, token, batch, result),
        }
    }

    fn file_done(&mut self, _io: &mut Io<Order>, _token: Token, _result: Result<u32, Errno>) {
        unreachable!("membership has no files")
    }

    fn connected(&mut self, io: &mut Io<Order>, token: Token, result: Result<OwnedFd, Errno>) {
        match kind_of(token) {
            (PORT, payload) => self.port.connected(io, payload, result),
            _ => self.queues.connected(io, token, result),
        }
    }

    fn closed(&mut self, io: &mut Io<Order>, token: Token) {
        match kind_of(token) {
            (PORT, payload) => self.port.closed(payload),
            _ => self.queues.closed(io, token),
        }
    }

    fn timer(&mut self, io: &mut Io<Order>, token: Token) {
        match kind_of(token) {
            (PORT, _) => self.with_port(io, |port, io, mut news| port.timer(io, &mut news)),
            _ => {
                self.timer = None;
                self.tick(io);
                self.wake_at(io, self.tick_at);
            }
        }
    }

    fn turn(&mut self, io: &mut Io<Order>) -> Progress {
        if self.is_over {
            return Progress::Idle; // Over for good: nothing more is sent.
        }
        self.machine_event(io, Event::Tick);
        self.go_on(io);
        Progress::Idle
    }
}

fn kind_of(token: Token) -> (u8, u64) {
    let [kind, ..] = token.0.to_be_bytes();
    (kind, token.0 & 0x00ff_ffff_ffff_ffff)
}
