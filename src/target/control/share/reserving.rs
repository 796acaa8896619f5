//! Reservations of shared groups: hosts' commands on their way to whoever leads, tables on their way to the cores, pages on their way to the drives. What is decided
//! is decided in [`crate::amf::reserving`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use nvme::reservation::{Order, Rules};
use nvme::status::Status;
use nvme::subsystem::{Event as SubsystemEvent, ReservationAnswer, ReservationChange, ReservationPass};
use reactor::Io;

use super::super::Control;
use crate::amf::group::{Event, PageWrite, RequestId};
use crate::amf::peering::note::Note;
use crate::amf::reserving::{Action, Last, Reserving, Version};
use crate::amf::superblock::Uuid;
use crate::target::core::Core;
use crate::target::message::Message;
use crate::target::share::Lease;

/// Numbers of orders that come from here; those of the subsystem are lower.
const ORDERS_FROM: u64 = 1 << 63;

/// What cores were told, and what hosts are to be told.
#[derive(Default)]
pub(super) struct Tables {
    number: u64,
    /// Which table cores confirm with an order: of which group and which virtual disk.
    orders: BTreeMap<u64, (usize, Uuid, Version)>,
    /// Pages on their way to the drives, by request: of which group, with which ticket.
    pages: BTreeMap<RequestId, (usize, u64)>,
    /// Answers that wait for a lease: what they say is right in the epoch that it covers, or never said.
    answers: VecDeque<(u64, Status, Vec<u8>)>,
}

impl Tables {
    fn next_order(&mut self) -> u64 {
        self.number += 1;
        ORDERS_FROM | self.number
    }

    /// An epoch begins: what is written is written anew, if it has to be.
    pub(super) fn enter(&mut self) {
        self.pages.clear();
    }
}

/// Whether an order came from here.
pub(in super::super) const fn is_of_table(order: u64) -> bool {
    order >= ORDERS_FROM
}

fn order_of(number: u64, nsid: u32, rules: Rules, last: &Last) -> Order {
    Order {
        number,
        nsid,
        beside: None,
        rules: Arc::new(rules),
        abort: Arc::new(last.abort.clone()),
        bars: false,
    }
}

impl Control {
    /// Lets a group's reservations do something, and carries out what they want.
    pub(super) fn reserve(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        act: impl FnOnce(&mut Reserving, &mut Vec<Action>),
    ) {
        let mut actions = Vec::new();
        act(&mut self.share().groups[at].reserving, &mut actions);
        for action in actions {
            match action {
                Action::Send { to, message } => {
                    self.send_note(io, to, at, Note::Reserve(message));
                }
                Action::Enforce { disk, version } => self.enforce_table(core, io, at, (disk, version)),
                Action::Persist {
                    ticket,
                    place,
                    pages,
                    page,
                } => {
                    let request = self.next_request();
                    let share = self.share();
                    share.tables.pages.insert(request, (at, ticket));
                    let index = share.groups[at].index.expect("who leads has the group open");
                    let write = PageWrite {
                        request,
                        place,
                        pages,
                        page,
                    };
                    self.group_event(core, io, index, Event::PersistPage(write));
                }
                Action::Answer { name, status, data } => {
                    self.share().tables.answers.push_back((name, status, data));
                }
            }
        }
    }

    /// A host of this node sends a reservation command.
    pub(in super::super) fn pass_reservation(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        pass: ReservationPass,
    ) {
        let ReservationPass {
            number,
            nsid,
            host,
            command,
        } = pass;
        let shown = self.announced.get(&nsid);
        let shown = shown.expect("hosts reserve only what they were shown");
        let disk = shown.uuid;
        let at = self.share.as_ref().and_then(|share| share.at(shown.group));
        let at = at.expect("only commands of shared groups are passed on");
        self.reserve(core, io, at, |reserving, out| {
            reserving.ask(disk, number, host, command, out);
        });
    }

    /// The end of a turn: answers hosts, as far as there is a lease to say anything.
    pub(super) fn answer_reservations(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.share().tables.answers.is_empty() {
            return; // As in most turns.
        }
        // Of this moment, after what is said was looked up.
        let covers = |lease: &Arc<Lease>| lease.covers(reactor::now());
        if !core.lease.as_ref().is_none_or(covers) {
            return;
        }
        while let Some((number, status, data)) = self.share().tables.answers.pop_front() {
            let answered = SubsystemEvent::ReservationAnswered(ReservationAnswer { number, status, data });
            self.subsystem_event(core, io, answered);
        }
    }

    /// Has all cores hold to the newest table of a virtual disk. Where hosts do not see it yet, cores are told before they do.
    fn enforce_table(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        at: usize,
        (disk, version): (Uuid, Version),
    ) {
        let index = self.share().groups[at].index;
        let mut announced = self.announced.iter();
        let shown = announced.find(|(_, shown)| shown.uuid == disk && Some(shown.group) == index);
        let nsid = shown.map(|(nsid, _)| *nsid);
        let share = self.share();
        let table = share.groups[at].reserving.table(disk);
        let Some((nsid, table)) = nsid.zip(table.cloned()) else {
            return self.reserve(core, io, at, |reserving, out| {
                reserving.enforced(disk, version, out);
            });
        };
        let number = share.tables.next_order();
        share.tables.orders.insert(number, (at, disk, version));
        let order = order_of(number, nsid, table.state.rules(), &table.last);
        self.enforce_reservation(core, io, &order);
        let changed = SubsystemEvent::ReservationChanged(ReservationChange {
            nsid,
            state: table.state,
            notices: table.last.notices,
        });
        self.subsystem_event(core, io, changed);
    }

    /// All cores hold to a table.
    pub(in super::super) fn table_enforced(&mut self, core: &mut Core, io: &mut Io<Message>, number: u64) {
        if let Some((at, disk, version)) = self.share().tables.orders.remove(&number) {
            self.reserve(core, io, at, |reserving, out| {
                reserving.enforced(disk, version, out);
            });
        }
    }

    /// A page is durable.
    pub(in super::super) fn page_durable(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        request: RequestId,
    ) {
        // Of an epoch that is over nobody waits for it.
        if let Some((at, ticket)) = self.share().tables.pages.remove(&request) {
            self.reserve(core, io, at, |reserving, out| reserving.persisted(ticket, out));
        }
    }

    /// Hosts are about to see a virtual disk: cores know who has reserved it before they serve it.
    pub(in super::super) fn guard_namespace(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        (nsid, disk): (u32, Uuid),
    ) {
        let Some(at) = self.share.as_ref().and_then(|share| share.at(group)) else {
            return;
        };
        let share = self.share();
        share.groups[at].reserving.add(disk);
        let table = share.groups[at].reserving.table(disk).expect("it was just added");
        let rules = table.state.rules();
        if !rules.is_open() {
            let number = share.tables.next_order();
            let order = order_of(number, nsid, rules, &Last::default());
            self.enforce_reservation(core, io, &order);
        }
    }

    /// Hosts see a virtual disk from now on.
    pub(in super::super) fn show_table(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        (nsid, disk): (u32, Uuid),
    ) {
        let share = self.share.as_ref();
        let shared = share.and_then(|share| Some(&share.groups[share.at(group)?]));
        let Some(table) = shared.and_then(|shared| shared.reserving.table(disk)) else {
            return;
        };
        let changed = SubsystemEvent::ReservationChanged(ReservationChange {
            nsid,
            state: table.state.clone(),
            notices: Vec::new(),
        });
        self.subsystem_event(core, io, changed);
    }

    /// A virtual disk is gone.
    pub(in super::super) fn forget_table(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        disk: Uuid,
    ) {
        if let Some(at) = self.share.as_ref().and_then(|share| share.at(group)) {
            self.reserve(core, io, at, |reserving, out| reserving.forget(disk, out));
        }
    }

    /// The virtual disks of a shared group that are there to stay.
    pub(super) fn disks_of(&self, at: usize) -> Vec<Uuid> {
        let share = self.share.as_ref();
        let shared = &share.expect("only a node that shares groups gets here").groups[at];
        let Some(index) = shared.index else {
            return Vec::new();
        };
        let vdisks = self.groups[usize::from(index)].machine.vdisks().iter();
        let staying = vdisks.filter(|vdisk| !vdisk.leaving);
        staying.map(|vdisk| vdisk.uuid).collect()
    }
}
