//! Shelves on the control core: their associations, the paths to their drives, and what is asked of drives beside the commands of engines.
//!
//! Drives that nodes share are used after [`Control::admit_drives`], which membership has done. When one of them refuses this life of the
//! node, all are lost to it, [`Expelled`] is called, and nothing else is said: the groups would record a loss, and hosts would be told that
//! their data is lost, while other nodes go on with both. Commands wait until whoever is called ends the cores.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use nvme::command::SubmissionEntry;
use nvme::host::DownReason;
use reactor::{CoreIndex, Io, Nanos, Span};

use super::Control;
use crate::amf::MemberIndex;
use crate::amf::group::MemberStatus;
use crate::drive::DriveError;
use crate::target::core::Core;
use crate::target::drives::{DriveSpec, Medium};
use crate::target::fabric::paths::{Action, Event, Paths};
use crate::target::fabric::{
    ASK_BYTES_MAX, Answer, Ask, FabricJob, FabricOrder, FabricReport, Shelf, answer_of, encode_ask,
    encode_instance, give_back, instance_of,
};
use crate::target::host::associations::{Associations, Order};
use crate::target::host::queues::Submission;
use crate::target::host::{Event as AssociationEvent, Outcome, Payload, Target};
use crate::target::manage::ManageError;
use crate::target::message::Message;

/// Questions of the control core that are under way with data at a time; the others wait.
const ASK_SPANS: usize = 8;
/// How long a question may take before its association is torn down, unless it waits for commands of a drive.
const ASK_NS: Nanos = 5_000_000_000;
/// Ticks after the last group has closed until every core has said that nothing of it is left with a drive.
const QUIET_TICKS: u32 = 3;
/// Ticks that giving the drives back may take.
const LEAVE_TICKS: u32 = 20;

/// Who has asked, and wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The paths: which start of a shelf's process this is, in this attempt.
    Instance(u16, u32),
    /// The paths: a step of a claim to a drive, in this attempt.
    Claim(u16, u32),
    /// The end of the node: a drive is given back.
    Leave,
}

/// A question that is under way or waits.
struct Asked {
    asker: Asker,
    shelf: u16,
    is_admin: bool,
    ask: Option<Ask>,
    entry: SubmissionEntry,
    data: Vec<u8>,
    read_bytes: u32,
    /// How long the answer may take before the association is torn down.
    patience: Option<Nanos>,
    span: Option<Span>,
    answer: Option<Answer>,
}

/// How far the node is with giving its drives back.
#[derive(Clone, Copy, Debug, Default)]
struct Leaving {
    ticks: u32,
    asked: bool,
    unanswered: u32,
}

/// Called, at most once, when this life of the node has lost the drives that it shares with others; on core 0, so that it may not wait.
pub type Expelled = Box<dyn FnOnce() + Send>;

/// The shelves of a node.
pub(super) struct FabricControl {
    associations: Associations,
    paths: Paths,
    shelves: Vec<Shelf>,
    asked: BTreeMap<u32, Asked>,
    next: u32,
    /// Questions that wait for a place in a queue, or for memory.
    waiting: VecDeque<u32>,
    spans: Vec<Span>,
    /// Queues of each shelf that are open, or half open, on all cores.
    open: Vec<u32>,
    /// Those of them that belong to associations that are lost.
    lost: Vec<u32>,
    /// Why each shelf is not connected, as was said last.
    said: Vec<Option<DownReason>>,
    leaving: Option<Leaving>,
    expelled: Option<Expelled>,
}

impl FabricControl {
    /// The shelves and drives of a node that has claimed them, or shares them with others; `None` if it has none.
    pub fn new(
        shelves: Vec<Shelf>,
        drives: &[DriveSpec],
        cores: u16,
        expelled: Option<Expelled>,
    ) -> Option<Self> {
        if shelves.is_empty() {
            return None;
        }
        let mut paths = Paths::default();
        for shelf in &shelves {
            paths.add_shelf(shelf.target.hostid, shelf.instance);
        }
        for (index, spec) in (0..).zip(drives) {
            if let Medium::Fabric(drive) = &spec.medium {
                paths.add_drive(index, drive.shelf, drive.namespace, drive.identity);
            }
        }
        let targets: Vec<Target> = shelves.iter().map(|shelf| shelf.target.clone()).collect();
        Some(Self {
            associations: Associations::new(&targets, cores),
            paths,
            open: vec![0; shelves.len()],
            lost: vec![0; shelves.len()],
            said: vec![None; shelves.len()],
            shelves,
            asked: BTreeMap::new(),
            next: 0,
            waiting: VecDeque::new(),
            spans: Vec::new(),
            leaving: None,
            expelled,
        })
    }
}

impl Control {
    fn fabric(&mut self) -> &mut FabricControl {
        self.fabric
            .as_mut()
            .expect("only a node with shelves hears of them")
    }

    /// The cores run: connects to the shelves.
    pub(super) fn start_fabric(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let Some(fabric) = &mut self.fabric else { return };
        for _ in 0..ASK_SPANS {
            fabric.spans.extend(io.arena_mut().alloc(ASK_BYTES_MAX));
        }
        self.associate(core, io, Associations::start);
    }

    /// Lets time pass.
    pub(super) fn tick_fabric(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.fabric.is_none() {
            return;
        }
        self.associate(core, io, Associations::tick);
        self.path_event(core, io, Event::Tick);
        self.pump_asks(core, io);
        self.leave_shelves(core, io);
    }

    /// Lets the associations handle something and hands out what they want done.
    fn associate(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        act: impl FnOnce(&mut Associations, Nanos),
    ) {
        let fabric = self.fabric();
        act(&mut fabric.associations, io.now());
        for (to, name, epoch, order) in fabric.associations.orders.drain(..) {
            if let Order::Open { .. } = order {
                fabric.open[usize::from(name.target)] += 1;
            }
            core.tell(io, to, Message::Fabric(FabricOrder::Queue(name, epoch, order)));
        }
        for (shelf, facts) in fabric.associations.ready.drain(..) {
            for to in 0..io.cores() {
                let order = FabricOrder::Ready(shelf, Arc::clone(&facts));
                core.tell(io, CoreIndex(to), Message::Fabric(order));
            }
        }
        for event in std::mem::take(&mut fabric.associations.events) {
            self.association_event(core, io, event);
        }
    }

    fn association_event(&mut self, core: &mut Core, io: &mut Io<Message>, event: AssociationEvent) {
        let number = |target: usize| u16::try_from(target).expect("a node has at most 64 shelves");
        match event {
            AssociationEvent::Ready { target, facts } => {
                let shelf = number(target);
                self.fabric().said[target] = None;
                if !self.fabric().paths.is_known(shelf, facts.attempt) {
                    let name = &self.fabric().shelves[target].name;
                    tracing::info!(shelf = %name, controller = facts.cntlid, "shelf is connected");
                }
                self.path_event(core, io, Event::Ready { shelf, facts: &facts });
            }
            AssociationEvent::Down { target, reason } => {
                // Once, however often it is tried in vain.
                if self.fabric().said[target].replace(reason) != Some(reason) {
                    let name = &self.fabric().shelves[target].name;
                    tracing::warn!(shelf = %name, %reason, "shelf is not connected; trying again");
                }
                self.shelf_down(core, io, number(target));
            }
            AssociationEvent::Failed { target, reason } => {
                tracing::error!(shelf = %self.fabric().shelves[target].name, %reason, "shelf is given up until the node is restarted");
                self.shelf_down(core, io, number(target));
            }
            AssociationEvent::Stopped { .. } | AssociationEvent::Discovered { .. } => {}
        }
    }

    fn shelf_down(&mut self, core: &mut Core, io: &mut Io<Message>, shelf: u16) {
        self.path_event(core, io, Event::Down { shelf });
        // Queues of the next association are opened later.
        let fabric = self.fabric();
        fabric.lost[usize::from(shelf)] = fabric.open[usize::from(shelf)];
        if fabric.lost[usize::from(shelf)] == 0 {
            self.path_event(core, io, Event::Ended { shelf });
        }
        // What was sent ends with its queue; what was not ends here.
        let fabric = self.fabric();
        let asked = &fabric.asked;
        let waiting = std::mem::take(&mut fabric.waiting).into_iter();
        let (lost, kept): (Vec<u32>, VecDeque<u32>) =
            waiting.fold(Default::default(), |(mut lost, mut kept), number| {
                if asked[&number].shelf == shelf {
                    lost.push(number);
                } else {
                    kept.push_back(number);
                }
                (lost, kept)
            });
        fabric.waiting = kept;
        for number in lost {
            let asked = self.fabric().asked.remove(&number).expect("it waits");
            self.answered(core, io, asked.asker, Answer::Failed(None));
        }
    }

    /// A core says something of its connections.
    pub(super) fn fabric_says(&mut self, core: &mut Core, io: &mut Io<Message>, report: FabricReport) {
        match report {
            FabricReport::Queue(name, epoch, report) => self.associate(core, io, |associations, now| {
                associations.report(now, name, epoch, &report);
            }),
            FabricReport::Closed(name, in_doubt) => {
                for drive in in_doubt {
                    self.path_event(core, io, Event::InDoubt { drive });
                }
                let fabric = self.fabric();
                let shelf = name.target;
                fabric.open[usize::from(shelf)] -= 1;
                let lost = &mut fabric.lost[usize::from(shelf)];
                // A queue ends after its association was heard to be lost, or has carried nothing.
                if *lost > 0 {
                    *lost -= 1;
                    if *lost == 0 {
                        self.path_event(core, io, Event::Ended { shelf });
                    }
                }
            }
            FabricReport::Conflict(drive) => self.path_event(core, io, Event::Conflict { drive }),
        }
    }

    /// Lets the paths handle something and carries out what they want.
    fn path_event(&mut self, core: &mut Core, io: &mut Io<Message>, event: Event<'_>) {
        let mut actions = Vec::new();
        self.fabric().paths.handle(io.now(), event, &mut actions);
        for action in actions {
            self.path_action(core, io, action);
        }
    }

    fn path_action(&mut self, core: &mut Core, io: &mut Io<Message>, action: Action) {
        match action {
            Action::ReadInstance { shelf, attempt } => {
                let (entry, read_bytes) = encode_instance();
                let asked = Asked {
                    asker: Asker::Instance(shelf, attempt),
                    shelf,
                    is_admin: true,
                    ask: None,
                    entry,
                    data: Vec::new(),
                    read_bytes,
                    patience: Some(ASK_NS),
                    span: None,
                    answer: None,
                };
                self.ask(core, io, asked);
            }
            Action::Reserve {
                drive,
                attempt,
                command,
            } => {
                // A fence waits for commands, on a drive that hangs for ever: the others are not to suffer from that.
                let asker = Asker::Claim(drive, attempt);
                self.ask_drive(core, io, drive, asker, (Ask::Reserve(command), None));
            }
            Action::Route { drive, route } => {
                if !route.is_up() {
                    // At once: what the control core wants written next is not to overtake the message.
                    core.fabric_hold(drive);
                }
                for to in 0..io.cores() {
                    let order = FabricOrder::Route(drive, route);
                    core.tell(io, CoreIndex(to), Message::Fabric(order));
                }
            }
            Action::Stale { drive, why } => {
                let name = &self.drives[usize::from(drive)].name;
                tracing::error!(drive = %name, "drive counts as lost: {}", why.text());
                self.drive_fault(core, io, drive, DriveError::Gone);
            }
            Action::Fenced { drive } => self.fenced(core, io, drive),
            Action::Expelled { drive } => {
                let name = &self.drives[usize::from(drive)].name;
                tracing::error!(drive = %name, "the array goes on without this life of the node: it uses none of the array's drives any more");
                if let Some(expelled) = self.fabric().expelled.take() {
                    expelled();
                }
            }
            Action::Refused { drive, refusal } => {
                let name = &self.drives[usize::from(drive)].name;
                tracing::warn!(drive = %name, "drive cannot be used for the moment: {refusal}");
            }
        }
    }

    /// Another node has a drive, and is about to have the others of its group: nothing is written to these any more, so that it does not
    /// find there what this node thinks of its own end.
    fn fenced(&mut self, core: &mut Core, io: &mut Io<Message>, drive: u16) {
        let name = &self.drives[usize::from(drive)].name;
        tracing::error!(drive = %name, "drive belongs to another node now: this one does not use it any more");
        let group = self.drive_uses[usize::from(drive)].member.map(|(group, _)| group);
        for other in 0..u16::try_from(self.drives.len()).expect("a node has at most 1024 drives") {
            let member = self.drive_uses[usize::from(other)].member;
            let is_fabric = matches!(self.drives[usize::from(other)].medium, Medium::Fabric(_));
            if is_fabric && member.is_some_and(|(of, _)| Some(of) == group) {
                // Ends: one that is fenced already does nothing. Their groups hear of it only when all are.
                self.path_event(core, io, Event::Conflict { drive: other });
            }
        }
        self.drive_fault(core, io, drive, DriveError::Fenced);
    }

    /// The group of a drive loses it.
    fn drive_fault(&mut self, core: &mut Core, io: &mut Io<Message>, drive: u16, error: DriveError) {
        if let Some((group, member)) = self.drive_uses[usize::from(drive)].member {
            self.member_fault(core, io, group, MemberIndex(member), error);
        }
    }

    /// Asks a drive of a shelf something beside the commands of engines; the answer goes to [`Control::answered`]. What takes longer than its
    /// patience, if that has an end, is answered as failed after its association was torn down.
    pub(super) fn ask_drive(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        drive: u16,
        asker: Asker,
        (ask, patience): (Ask, Option<Nanos>),
    ) {
        let Medium::Fabric(fabric) = &self.drives[usize::from(drive)].medium else {
            panic!("only drives of shelves are asked")
        };
        let (entry, data, read_bytes) = encode_ask(&ask, &fabric.namespace);
        let asked = Asked {
            asker,
            shelf: fabric.shelf,
            is_admin: false,
            ask: Some(ask),
            entry,
            data,
            read_bytes,
            patience,
            span: None,
            answer: None,
        };
        self.ask(core, io, asked);
    }

    fn ask(&mut self, core: &mut Core, io: &mut Io<Message>, asked: Asked) {
        let fabric = self.fabric();
        fabric.next = fabric.next.wrapping_add(1);
        let number = fabric.next;
        fabric.waiting.push_back(number);
        let old = fabric.asked.insert(number, asked);
        assert!(old.is_none(), "four thousand million questions are not under way");
        self.pump_asks(core, io);
    }

    /// Sends the questions that have a place.
    pub(in crate::target) fn pump_asks(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let (Some(fabric), Some(own)) = (&mut self.fabric, &mut core.fabric) else {
            return;
        };
        for _ in 0..fabric.waiting.len() {
            let Some(number) = fabric.waiting.pop_front() else {
                break;
            };
            let asked = fabric.asked.get_mut(&number).expect("it waits");
            let queues = &mut own.queues;
            let place = if asked.is_admin {
                queues.admin_with_room(asked.shelf)
            } else {
                queues.place_with_room(asked.shelf)
            };
            let write_bytes = u32::try_from(asked.data.len()).expect("ASK_BYTES_MAX fits");
            let bytes = write_bytes.max(asked.read_bytes);
            let (Some(place), true) = (place, bytes == 0 || !fabric.spans.is_empty()) else {
                fabric.waiting.push_back(number);
                continue;
            };
            let span = (bytes > 0).then(|| fabric.spans.pop()).flatten();
            let data = match (write_bytes, asked.read_bytes) {
                (0, 0) => Payload::None,
                (0, bytes) => Payload::FromTarget(bytes),
                (bytes, _) => Payload::ToTarget(bytes),
            };
            if let Some(span) = span {
                io.arena_mut().copy_in(span, 0, &asked.data);
            }
            asked.span = span;
            let submission = Submission {
                job: FabricJob::Ask(number),
                entry: asked.entry,
                data,
                span: span.map(|span| span.part(0, bytes)),
                deadline: asked.patience.map_or(Nanos::MAX, |patience| io.now() + patience),
            };
            queues.submit(io, place, submission);
        }
    }

    /// A question was answered, or its connection lost.
    pub(in crate::target) fn ask_done(
        &mut self,
        io: &Io<Message>,
        number: u32,
        outcome: Outcome,
        data_bytes: u32,
    ) {
        let asked = self.fabric().asked.get_mut(&number).expect("it was sent");
        let data = match asked.span.filter(|_| data_bytes > 0) {
            Some(span) => io.arena().with_bytes(span.part(0, data_bytes), <[u8]>::to_vec),
            None => Vec::new(),
        };
        asked.answer = Some(answer_of(asked.ask.as_ref(), outcome, data));
    }

    /// The memory of a question that was answered is free.
    pub(in crate::target) fn ask_released(&mut self, core: &mut Core, io: &mut Io<Message>, number: u32) {
        let fabric = self.fabric();
        let asked = fabric.asked.remove(&number).expect("it was sent");
        fabric.spans.extend(asked.span);
        let answer = asked.answer.expect("it is over");
        self.answered(core, io, asked.asker, answer);
        self.pump_asks(core, io);
    }

    fn answered(&mut self, core: &mut Core, io: &mut Io<Message>, asker: Asker, answer: Answer) {
        match asker {
            Asker::Instance(shelf, attempt) => {
                let is_lost = answer == Answer::Failed(None);
                let instance = if is_lost {
                    Err(())
                } else {
                    Ok(instance_of(&answer))
                };
                let event = Event::Instance {
                    shelf,
                    attempt,
                    instance,
                };
                self.path_event(core, io, event);
            }
            Asker::Claim(drive, attempt) => {
                let event = Event::Reserved {
                    drive,
                    attempt,
                    answer,
                };
                self.path_event(core, io, event);
            }
            Asker::Leave => {
                if let Some(leaving) = &mut self.fabric().leaving {
                    leaving.unanswered -= 1;
                }
            }
        }
    }

    /// Membership has this life of the node registered at the drives that nodes share: from now on they are used as they are connected.
    pub(in crate::target) fn admit_drives(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.fabric.is_some() {
            self.path_event(core, io, Event::Admitted);
        }
    }

    /// Whether this life of the node has lost the drives that it shares with others.
    pub(super) fn is_expelled(&self) -> bool {
        let fabric = self.fabric.as_ref();
        fabric.is_some_and(|fabric| fabric.paths.is_expelled())
    }

    /// Whether a drive is shared, and this life of the node has lost it: what fails there is not the drive's fault, and no group hears of it.
    pub(super) fn has_lost(&self, drive: u16) -> bool {
        let is_fabric = matches!(self.drives[usize::from(drive)].medium, Medium::Fabric(_));
        let fabric = self.fabric.as_ref().filter(|_| is_fabric);
        fabric.is_some_and(|fabric| fabric.paths.is_expelled() && fabric.paths.is_shared(drive))
    }

    /// Where a drive of a shelf is, for people.
    pub(super) fn place_on_shelf(&self, drive: usize) -> Option<String> {
        let Medium::Fabric(on) = &self.drives[drive].medium else {
            return None;
        };
        let shelf = &self.fabric.as_ref()?.shelves[usize::from(on.shelf)];
        Some(format!("{} namespace {}", shelf.name, on.namespace.nsid))
    }

    /// Refuses a drive of a shelf to a group while it is not this node's.
    pub(super) fn check_connected(&self, drive: usize) -> Result<(), ManageError> {
        let Some(fabric) = &self.fabric else { return Ok(()) };
        let index = u16::try_from(drive).expect("a node has at most 1024 drives");
        match self.drives[drive].medium {
            Medium::Fabric(_) if !fabric.paths.is_claimed(index) => Err(ManageError::new(
                ManageError::DRIVE,
                format!("drive \"{}\" is not connected", self.drives[drive].name),
                "wait until its shelf is back",
            )),
            Medium::Fabric(_) | Medium::File { .. } | Medium::Memory(_) => Ok(()),
        }
    }

    /// An operator gives a drive to a group: nothing on it counts any more, so that it may be used again.
    pub(super) fn restore_drive(&mut self, core: &mut Core, io: &mut Io<Message>, name: &str) {
        let drives = (0..).zip(self.drives.iter());
        let mut named = drives.filter(|(_, spec)| spec.name == name);
        let is_fabric = |(_, spec): &(u16, &DriveSpec)| matches!(spec.medium, Medium::Fabric(_));
        let Some((drive, _)) = named.next().filter(is_fabric) else {
            return;
        };
        // A member that is still relied on keeps what it has.
        let relied_on = self.drive_uses[usize::from(drive)]
            .member
            .is_some_and(|(group, member)| {
                let members = &self.groups[usize::from(group)].machine.snapshot().members;
                members[usize::from(member)].status == MemberStatus::Active
            });
        if !relied_on {
            self.path_event(core, io, Event::Restore { drive });
        }
    }

    /// The groups are closed: the drives are to be given back before the node ends. False if it may end at once, as it may if it shares
    /// them: who has left the array is fenced by who goes on.
    pub(super) fn begin_leave(&mut self) -> bool {
        let is_own = |medium: &Medium| matches!(medium, Medium::Fabric(drive) if drive.identity.is_some());
        let owns = self.drives.iter().any(|spec| is_own(&spec.medium));
        if let Some(fabric) = self.fabric.as_mut().filter(|_| owns) {
            fabric.leaving.get_or_insert_default();
        }
        owns
    }

    /// Gives the drives back once nothing is under way for them; those of which that is not known stay this node's, because whoever
    /// comes next has to fence what may still take effect.
    fn leave_shelves(&mut self, core: &mut Core, io: &mut Io<Message>) {
        let Some(leaving) = &mut self.fabric().leaving else {
            return;
        };
        leaving.ticks += 1;
        let Leaving {
            ticks,
            asked,
            unanswered,
        } = *leaving;
        if ticks >= QUIET_TICKS && !asked {
            leaving.asked = true;
            self.ask_leave(core, io);
        } else if (asked && unanswered == 0) || ticks >= LEAVE_TICKS {
            io.stop();
        }
    }

    fn ask_leave(&mut self, core: &mut Core, io: &mut Io<Message>) {
        for drive in 0..u16::try_from(self.drives.len()).expect("a node has at most 1024 drives") {
            let is_own = matches!(&self.drives[usize::from(drive)].medium, Medium::Fabric(on) if on.identity.is_some());
            if !is_own {
                continue;
            }
            let identity = self.fabric().paths.identity(drive);
            let Some(identity) = identity.filter(|_| self.is_idle(drive)) else {
                tracing::warn!(drive = %self.drives[usize::from(drive)].name, "drive stays reserved: it is not known that nothing is under way for it");
                continue;
            };
            if let Some(leaving) = &mut self.fabric().leaving {
                leaving.unanswered += 1;
            }
            let ask = (Ask::Reserve(give_back(identity)), Some(ASK_NS));
            self.ask_drive(core, io, drive, Asker::Leave, ask);
        }
    }
}
