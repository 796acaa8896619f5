//! Reservations of the virtual disks of a group that several nodes serve: the same at each of them (PROTOCOL H42, I17).
//!
//! Each node has the [`Table`] of each virtual disk, and holds its hosts' commands to it without a word to anybody. Whoever leads the group in an epoch takes
//! reservation commands, one of a virtual disk after the other, also those that other nodes pass on. A change goes its way in this order:
//!
//! 1. The new table is durable on all members of the group, if it is to outlive a stop of all nodes ([`Action::Persist`]).
//! 2. All members of the epoch have it ([`Message::Tell`]), hold all commands to it, and have nothing under way any more that it was to abort
//!    ([`Message::Held`]). A host that was preempted hears of it from its own node.
//! 3. The host is answered. So whatever a host was told holds at every node, and nothing of an aborted host runs at any.
//!
//! When an epoch begins, all tell whoever leads what they have. The newest table of each virtual disk counts: nothing was ever answered that is not in it, because
//! everybody had it before, and what only some had is done now. All have it before whoever leads begins anything, and whoever comes to the group has it before
//! the group's record, so before it serves anything. What hosts still wait for is asked anew; a table says which request of each node it has last served, so that none
//! is served twice. Whatever a node that is gone may still do to hosts and drives is over before the epoch is open, and nothing is begun before
//! ([`Reserving::serve`]).
//!
//! A write that began before a change may be under way after it, unless its host is aborted; so it is on a single node.
//!
//! Deliberately knows neither cores nor drives, and no NSID.

pub mod message;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nvme::reservation::{Command, HostId, HostName, Life, State};
use nvme::status::Status;

use super::superblock::{RECORD_BYTES, Uuid};
use crate::icl::{Epoch, Slot, SlotSet};
pub use message::{Ask, Message};
use table::durable_part;
pub use table::{Last, PLACE_BYTES, PLACES, Pages, Table, Version, page_offset};

/// Invalid Namespace or Format, for good.
const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry();

/// What the binding does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say this to another node in this epoch, in order with all that is said of the group.
    Send {
        /// To whom.
        to: Slot,
        /// What.
        message: Message,
    },
    /// Hold all cores to [`Reserving::table`], end what it aborts, tell hosts what they have lost, and call [`Reserving::enforced`].
    Enforce {
        /// Which virtual disk.
        disk: Uuid,
        /// Which of its tables.
        version: Version,
    },
    /// Write this page to all members, forced to stable media, and call [`Reserving::persisted`].
    Persist {
        /// To be given back.
        ticket: u64,
        /// Its place.
        place: u8,
        /// Which of the pages of that place it is.
        pages: u64,
        /// The page.
        page: Box<[u8; RECORD_BYTES]>,
    },
    /// Complete a command of a host of this node.
    Answer {
        /// What the caller calls it.
        name: u64,
        /// How it ended.
        status: Status,
        /// What it returns.
        data: Vec<u8>,
    },
}

/// Who has asked for a change.
type Asker = Option<(Slot, u64)>;

/// How far whoever leads is with a virtual disk.
#[derive(Clone, Debug)]
enum Stage {
    /// Everybody has the table.
    Idle,
    /// The next one is to be durable.
    Persisting {
        ticket: u64,
        next: Box<Table>,
        asker: Asker,
    },
    /// These members hold all commands to the table.
    Telling { held: SlotSet, asker: Asker },
}

/// The reservations of one virtual disk at one node.
#[derive(Debug)]
struct Desk {
    table: Table,
    /// Tables that cores are being told.
    enforcing: BTreeSet<Version>,
    /// Whoever leads is to hear when the cores hold to the table.
    is_owed: bool,
    /// The command of a host of this node that whoever leads was asked for, with the caller's name for it.
    asked: Option<(u64, Ask)>,
    /// Commands that wait, if this node leads.
    queue: VecDeque<(Slot, Ask)>,
    stage: Stage,
    /// What is on the drives, as far as that is known in this epoch.
    durable: Option<State>,
    /// It was found on some of the drives, after all nodes had stopped: it is to be on all of them.
    is_found: bool,
}

impl Desk {
    const fn new(table: Table) -> Self {
        Self {
            table,
            enforcing: BTreeSet::new(),
            is_owed: false,
            asked: None,
            queue: VecDeque::new(),
            stage: Stage::Idle,
            durable: None,
            is_found: false,
        }
    }

    /// The place of its pages, or of the first one that is being written.
    fn place(&self) -> Option<u8> {
        match &self.stage {
            Stage::Persisting { next, .. } => next.place,
            Stage::Idle | Stage::Telling { .. } => self.table.place,
        }
    }
}

/// The epoch.
#[derive(Clone, Copy, Debug)]
struct Now {
    epoch: Epoch,
    members: SlotSet,
    leader: Slot,
    /// This node leads, and all have told it what they have.
    leads: bool,
    /// The epoch is open.
    serves: bool,
    /// The group is not served.
    is_refused: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Reserving {
    local: Slot,
    now: Option<Now>,
    desks: BTreeMap<Uuid, Desk>,
    /// Requests that came before this node knew what others have.
    early: Vec<(Slot, Ask)>,
    /// Requests of this node in this epoch.
    asks: u32,
    ticket: u64,
}

impl Reserving {
    /// A node that is in no epoch.
    pub const fn new(local: Slot) -> Self {
        Self {
            local,
            now: None,
            desks: BTreeMap::new(),
            early: Vec::new(),
            asks: 0,
            ticket: 0,
        }
    }

    /// What this node has of a virtual disk, if it knows that one.
    pub fn table(&self, disk: Uuid) -> Option<&Table> {
        self.desks.get(&disk).map(|desk| &desk.table)
    }

    /// A virtual disk is there.
    pub fn add(&mut self, disk: Uuid) {
        self.desks
            .entry(disk)
            .or_insert_with(|| Desk::new(Table::new(disk)));
    }

    /// A virtual disk is gone.
    pub fn forget(&mut self, disk: Uuid, out: &mut Vec<Action>) {
        let Some(desk) = self.desks.remove(&disk) else {
            return;
        };
        let asker = match desk.stage {
            Stage::Idle => None,
            Stage::Persisting { asker, .. } | Stage::Telling { asker, .. } => asker,
        };
        let waiting = desk.queue.iter().map(|(slot, ask)| (*slot, ask.number));
        for (slot, number) in asker.into_iter().chain(waiting) {
            if slot != self.local {
                self.answer((slot, number), disk, (NO_NAMESPACE, Vec::new()), out);
            }
        }
        if let Some((name, _)) = desk.asked {
            out.push(Action::Answer {
                name,
                status: NO_NAMESPACE,
                data: Vec::new(),
            });
        }
    }

    fn retain(&mut self, disks: &[Uuid], out: &mut Vec<Action>) {
        let known: Vec<Uuid> = self.desks.keys().copied().collect();
        for disk in known.into_iter().filter(|disk| !disks.contains(disk)) {
            self.forget(disk, out);
        }
    }

    /// What was found on the drives after all nodes had stopped, before the group is opened.
    pub fn restore(&mut self, tables: Vec<Table>, out: &mut Vec<Action>) {
        for table in tables {
            let disk = table.disk;
            self.add(disk);
            // A node that had just come when the others stopped may have more than the drives. Of what does not persist at least the place counts: an older
            // page there says something else.
            if self.desk(disk).table.version < table.version {
                self.desk(disk).is_found = table.state.persists;
                self.adopt(table, out);
            }
        }
    }
}

// Epochs.
impl Reserving {
    /// An epoch begins. Whatever is said here comes before anything else that is said of the group in it.
    pub fn enter(&mut self, epoch: Epoch, members: SlotSet, leader: Slot, out: &mut Vec<Action>) {
        self.now = Some(Now {
            epoch,
            members,
            leader,
            leads: false,
            serves: false,
            is_refused: false,
        });
        self.asks = 0;
        self.early.clear();
        let local = self.local;
        let mut asked = Vec::new();
        for desk in self.desks.values_mut() {
            desk.queue.clear();
            (desk.stage, desk.durable, desk.is_owed) = (Stage::Idle, None, false);
            if leader != local && desk.table.is_used() {
                let message = Message::Tell(Box::new(desk.table.clone()));
                out.push(Action::Send { to: leader, message });
            }
            asked.extend(desk.asked.as_ref().map(|(_, ask)| *ask));
        }
        for ask in asked {
            self.send(leader, Message::Ask(ask), out);
        }
    }

    /// All members have told what they have, the group is open under this node's pen, and nobody was told so in this epoch. These are its virtual disks.
    pub fn lead(&mut self, epoch: Epoch, disks: &[Uuid], out: &mut Vec<Action>) {
        let local = self.local;
        let Some(now) = self
            .now
            .as_mut()
            .filter(|now| now.epoch == epoch && now.leader == local)
        else {
            return; // There is a newer one.
        };
        now.leads = true;
        self.retain(disks, out);
        for disk in disks {
            self.add(*disk);
            if self.desk(*disk).table.is_used() {
                self.tell(*disk, None, out);
            }
        }
        for (slot, ask) in std::mem::take(&mut self.early) {
            self.take_ask(slot, ask, out);
        }
    }

    /// The epoch is open. These are the virtual disks of the group.
    pub fn serve(&mut self, disks: &[Uuid], out: &mut Vec<Action>) {
        if let Some(now) = &mut self.now {
            now.serves = true;
        }
        self.retain(disks, out);
        for disk in disks {
            self.advance(*disk, out);
        }
    }

    /// The group cannot be served in this epoch, or not any more: nobody is to wait for it.
    pub fn refuse(&mut self, out: &mut Vec<Action>) {
        if let Some(now) = &mut self.now {
            now.is_refused = true;
        }
        for desk in self.desks.values_mut() {
            if let Some((name, _)) = desk.asked.take() {
                out.push(failure(name));
            }
        }
    }
}

// This node's hosts, and its cores.
impl Reserving {
    /// A host of this node sends a command: one of a virtual disk at a time. [`Action::Answer`] answers it, with the caller's name for it.
    pub fn ask(&mut self, disk: Uuid, name: u64, host: HostId, command: Command, out: &mut Vec<Action>) {
        let epoch = self.now.map_or(Epoch(0), |now| now.epoch);
        let Some(desk) = self.desks.get_mut(&disk) else {
            return out.push(Action::Answer {
                name,
                status: NO_NAMESPACE,
                data: Vec::new(),
            });
        };
        if self.now.is_some_and(|now| now.is_refused) {
            return out.push(failure(name));
        }
        assert!(desk.asked.is_none(), "one command of a virtual disk at a time");
        self.asks += 1;
        let ask = Ask {
            disk,
            // No two lives of a slot are in the same epoch.
            number: u64::from(epoch.0) << 32 | u64::from(self.asks),
            host,
            command,
        };
        desk.asked = Some((name, ask));
        if let Some(now) = self.now {
            self.send(now.leader, Message::Ask(ask), out);
        }
    }

    /// The answer to [`Action::Enforce`].
    pub fn enforced(&mut self, disk: Uuid, version: Version, out: &mut Vec<Action>) {
        if let Some(desk) = self.desks.get_mut(&disk) {
            desk.enforcing.remove(&version);
            self.say_held(disk, out);
        }
    }

    /// The answer to [`Action::Persist`].
    pub fn persisted(&mut self, ticket: u64, out: &mut Vec<Action>) {
        let mut desks = self.desks.iter_mut();
        let is_meant =
            |desk: &Desk| matches!(desk.stage, Stage::Persisting { ticket: own, .. } if own == ticket);
        let Some((disk, desk)) = desks.find(|(_, desk)| is_meant(desk)) else {
            return; // Of an epoch that is over.
        };
        let disk = *disk;
        if let Stage::Persisting { next, asker, .. } = std::mem::replace(&mut desk.stage, Stage::Idle) {
            desk.durable = Some(durable_part(&next.state));
            self.publish(*next, asker, out);
        }
        self.advance(disk, out);
    }

    /// Another node says something in this epoch.
    pub fn receive(&mut self, from: Slot, message: Message, out: &mut Vec<Action>) {
        let Some(now) = self.now else { return };
        match message {
            Message::Tell(table) => {
                let disk = table.disk;
                self.add(disk);
                if self.desk(disk).table.version < table.version {
                    self.adopt(*table, out);
                }
                if from == now.leader {
                    self.desk(disk).is_owed = true;
                    self.say_held(disk, out);
                }
            }
            Message::Held { disk, version } => {
                if let Some(desk) = self.desks.get(&disk)
                    && version >= desk.table.version
                {
                    self.held_by(from, disk, out);
                }
            }
            Message::Ask(ask) => self.take_ask(from, ask, out),
            Message::Answer {
                disk,
                number,
                status,
                data,
            } => self.take_answer(disk, number, (status, data), out),
        }
    }

    fn take_answer(
        &mut self,
        disk: Uuid,
        number: u64,
        (status, data): (Status, Vec<u8>),
        out: &mut Vec<Action>,
    ) {
        let asked = self.desks.get_mut(&disk).map(|desk| &mut desk.asked);
        let answered = asked.and_then(|asked| asked.take_if(|(_, ask)| ask.number == number));
        if let Some((name, _)) = answered {
            out.push(Action::Answer { name, status, data });
        }
    }

    /// Takes a newer table: cores are held to it from here on.
    fn adopt(&mut self, table: Table, out: &mut Vec<Action>) {
        let (disk, version) = (table.disk, table.version);
        let desk = self.desk(disk);
        assert!(desk.table.version < version, "tables only get newer");
        desk.table = table;
        desk.enforcing.insert(version);
        out.push(Action::Enforce { disk, version });
    }

    /// Says that the cores hold to the table, if they do and somebody wants to know.
    fn say_held(&mut self, disk: Uuid, out: &mut Vec<Action>) {
        let Some(now) = self.now else { return };
        let desk = self.desk(disk);
        if !desk.enforcing.is_empty() {
            return;
        }
        if now.leader == self.local {
            return self.held_by(self.local, disk, out);
        }
        let desk = self.desk(disk);
        if std::mem::take(&mut desk.is_owed) {
            let version = desk.table.version;
            let message = Message::Held { disk, version };
            out.push(Action::Send {
                to: now.leader,
                message,
            });
        }
    }
}

// Whoever leads.
impl Reserving {
    fn desk(&mut self, disk: Uuid) -> &mut Desk {
        self.desks.get_mut(&disk).expect("the caller has found it")
    }

    /// Says something to a node, which may be this one.
    fn send(&mut self, to: Slot, message: Message, out: &mut Vec<Action>) {
        if to == self.local {
            self.receive(to, message, out);
        } else {
            out.push(Action::Send { to, message });
        }
    }

    fn answer(
        &mut self,
        (to, number): (Slot, u64),
        disk: Uuid,
        (status, data): (Status, Vec<u8>),
        out: &mut Vec<Action>,
    ) {
        let answer = Message::Answer {
            disk,
            number,
            status,
            data,
        };
        self.send(to, answer, out);
    }

    fn take_ask(&mut self, from: Slot, ask: Ask, out: &mut Vec<Action>) {
        let Some(now) = self.now.filter(|now| now.leader == self.local) else {
            return;
        };
        if now.is_refused {
            let refusal = (Status::INTERNAL_ERROR, Vec::new());
            return self.answer((from, ask.number), ask.disk, refusal, out);
        }
        if !now.leads {
            return self.early.push((from, ask));
        }
        match self.desks.get_mut(&ask.disk) {
            Some(desk) => desk.queue.push_back((from, ask)),
            None => {
                return self.answer((from, ask.number), ask.disk, (NO_NAMESPACE, Vec::new()), out);
            }
        }
        self.advance(ask.disk, out);
    }

    /// Begins what waits, until something has to be awaited.
    fn advance(&mut self, disk: Uuid, out: &mut Vec<Action>) {
        let Some(now) = self.now.filter(|now| now.leads && now.serves) else {
            return;
        };
        while let Some(desk) = self.desks.get_mut(&disk) {
            if !matches!(desk.stage, Stage::Idle) {
                return;
            }
            if std::mem::take(&mut desk.is_found) {
                let next = desk.table.clone();
                self.change(next, None, now.epoch, out);
                continue;
            }
            let Some((slot, ask)) = desk.queue.pop_front() else {
                return;
            };
            let asker = (slot, ask.number);
            if desk.table.done_of(slot) == ask.number {
                // It was asked in an epoch before, whose leader is gone.
                self.answer(asker, disk, (Status::SUCCESS, Vec::new()), out);
                continue;
            }
            let mut next = desk.table.clone();
            let life = Life {
                name: HostName(0),
                host: ask.host,
            };
            match next.state.execute(life, &ask.command, true) {
                Err(status) => self.answer(asker, disk, (status, Vec::new()), out),
                Ok(_) if next.state == desk.table.state => {
                    let data = report_of(&next.state, &ask.command);
                    self.answer(asker, disk, (Status::SUCCESS, data), out);
                }
                Ok(effect) => {
                    next.done[slot.index()] = ask.number;
                    next.last = Last {
                        abort: effect.abort,
                        notices: effect.notices,
                    };
                    self.change(next, Some(asker), now.epoch, out);
                }
            }
        }
    }

    /// Begins a change.
    fn change(&mut self, mut next: Table, asker: Asker, epoch: Epoch, out: &mut Vec<Action>) {
        let disk = next.disk;
        next.version = Version {
            epoch,
            count: next.version.count + 1,
        };
        if self.desk(disk).durable == Some(durable_part(&next.state)) {
            return self.publish(next, asker, out);
        }
        let Some(place) = next.place.or_else(|| self.free_place()) else {
            if let Some(asker) = asker {
                self.answer(asker, disk, (Status::INTERNAL_ERROR, Vec::new()), out);
            }
            return;
        };
        next.place = Some(place);
        next.pages += 1;
        self.ticket += 1;
        out.push(Action::Persist {
            ticket: self.ticket,
            place,
            pages: next.pages,
            page: next.durable().encode(),
        });
        self.desk(disk).stage = Stage::Persisting {
            ticket: self.ticket,
            next: Box::new(next),
            asker,
        };
    }

    /// A place where no virtual disk has its pages.
    fn free_place(&self) -> Option<u8> {
        let places = 0..u8::try_from(PLACES).expect("a group has few virtual disks");
        let is_free = |place: &u8| self.desks.values().all(|desk| desk.place() != Some(*place));
        places.into_iter().find(is_free)
    }

    /// A new table is durable, as far as it has to be: everybody is to have it.
    fn publish(&mut self, table: Table, asker: Asker, out: &mut Vec<Action>) {
        let disk = table.disk;
        self.adopt(table, out);
        self.tell(disk, asker, out);
    }

    /// Tells everybody the table; the asker is answered when all hold to it.
    fn tell(&mut self, disk: Uuid, asker: Asker, out: &mut Vec<Action>) {
        let (now, local) = (self.now.expect("this node leads an epoch"), self.local);
        let desk = self.desk(disk);
        desk.stage = Stage::Telling {
            held: SlotSet::EMPTY,
            asker,
        };
        for to in now.members.without(local).iter() {
            let message = Message::Tell(Box::new(desk.table.clone()));
            out.push(Action::Send { to, message });
        }
        self.say_held(disk, out);
    }

    /// A member holds all commands to the table.
    fn held_by(&mut self, slot: Slot, disk: Uuid, out: &mut Vec<Action>) {
        let Some(now) = self.now else { return };
        let desk = self.desk(disk);
        let Stage::Telling { held, asker } = &mut desk.stage else {
            return;
        };
        *held = held.with(slot);
        if !held.covers(now.members) {
            return;
        }
        let asker = *asker;
        desk.stage = Stage::Idle;
        if let Some(asker) = asker {
            self.answer(asker, disk, (Status::SUCCESS, Vec::new()), out);
        }
        self.advance(disk, out);
    }
}

fn failure(name: u64) -> Action {
    Action::Answer {
        name,
        status: Status::INTERNAL_ERROR,
        data: Vec::new(),
    }
}

/// What a command returns that changes nothing.
fn report_of(state: &State, command: &Command) -> Vec<u8> {
    let Command::Report {
        extended,
        length_bytes,
    } = *command
    else {
        return Vec::new();
    };
    let mut data = state.report().encode(extended);
    data.truncate(usize::try_from(length_bytes).unwrap_or(usize::MAX));
    data
}
