//! Reservations, as far as all cores have to agree: rules go to each of them, and hold when the last one has confirmed them. And how those
//! of a shelf's drives become durable.

use std::collections::VecDeque;

use nvme::reservation::record::RECORD_BYTES;
use nvme::reservation::{Order, State};
use nvme::subsystem::{Event, Namespace};
use reactor::{CoreIndex, Io, Span};

use super::Control;
use super::share::is_of_table;
use crate::target::command_log::Note;
use crate::target::core::{Core, TokenKind, token};
use crate::target::drives::{DriveBinding, Kind, Medium, Verdict};
use crate::target::message::{ControlMessage, Message};

/// A header on its way to its drive.
struct HeaderWrite {
    number: u64,
    group: u16,
    at: u64,
    record: Box<[u8; RECORD_BYTES]>,
}

/// Headers on their way to drives: one at a time, because reservations change rarely; each namespace has one at most.
#[derive(Default)]
pub(super) struct ReservationWrites {
    waiting: VecDeque<HeaderWrite>,
    /// The one that is under way: its number and group.
    under_way: Option<(u64, u16)>,
    span: Option<Span>,
}

/// Answers a write that did not go through the ring; by way of the queue, for whoever asked for it is still at it.
fn tell_written(core: &mut Core, io: &mut Io<Message>, number: u64, succeeded: bool) {
    let written = ControlMessage::ReservationWritten { number, succeeded };
    core.tell_control(io, written);
}

impl ReservationWrites {
    /// Takes the buffer for them.
    pub(super) fn keep(&mut self, span: Option<Span>) {
        self.span = span;
    }
}

impl Control {
    /// Tells every core who may do what with a namespace from now on, and whose commands are to end.
    pub(super) fn enforce_reservation(&mut self, core: &mut Core, io: &mut Io<Message>, order: &Order) {
        let nsid = order.nsid;
        for host in order.abort.iter() {
            tracing::info!(%host, nsid, "host lost its registration: its commands are aborted");
        }
        if order.bars {
            let admission = &order.rules.admission;
            let (claims, barred) = (admission.claims.len(), admission.barred.len());
            tracing::info!(
                nsid,
                claims,
                barred,
                "lives of hosts are barred: their commands are aborted"
            );
        }
        let before = self.enforcing.insert(order.number, (self.cores, order.clone()));
        assert!(before.is_none(), "rules have a number of their own");
        for to in 0..self.cores {
            core.tell(io, CoreIndex(to), Message::EnforceReservation(order.clone()));
        }
    }

    /// One core holds commands to the rules and has nothing under way that was to end.
    pub(super) fn core_enforced(&mut self, core: &mut Core, io: &mut Io<Message>, number: u64) {
        let asked = self.enforcing.get_mut(&number);
        let (left, _) = asked.expect("a core confirms rules that it was told");
        *left -= 1;
        if *left == 0
            && let Some((_, order)) = self.enforcing.remove(&number)
        {
            self.note_rules(core, io, order);
            if is_of_table(number) {
                return self.table_enforced(core, io, number);
            }
            self.subsystem_event(core, io, Event::ReservationEnforced { number });
        }
    }

    /// Tells the command log of rules that are in effect on all cores.
    fn note_rules(&self, core: &Core, io: &Io<Message>, order: Order) {
        let Some(log) = &core.command_log else { return };
        let next = self.subsystem.reservation_next(order.nsid);
        let registrants = next.map(|state| state.registrants.clone());
        log.note(
            io.now(),
            Note::Rules {
                nsid: order.nsid,
                order: order.number,
                kind: order.rules.kind,
                aborted: order.abort,
                barred: order.rules.admission.barred.clone(),
                registrants: registrants.unwrap_or_default(),
            },
        );
    }

    /// What was kept of a namespace's reservations holds again, before any host comes.
    pub(super) fn restore_reservations(&mut self, core: &mut Core, io: &mut Io<Message>, facts: &Namespace) {
        let nsid = facts.nsid;
        if facts.reservable != nvme::identify::Reservable::Persistently {
            return;
        }
        let header = self.group_of(nsid).and_then(|group| {
            let group = &mut self.groups[usize::from(group)];
            group.header.as_mut()
        });
        let state = header.and_then(|header| header.restored.take());
        if let Some(state) = state.filter(|state| *state != State::default()) {
            let registrants = state.registrants.len();
            tracing::info!(nsid, registrants, "reservations are as they were kept");
            self.subsystem_event(core, io, Event::ReservationRestored { nsid, state });
        }
    }

    fn group_of(&self, nsid: u32) -> Option<u16> {
        let has = |group: &super::groups::GroupControl| {
            let mut vdisks = group.machine.vdisks().iter();
            vdisks.any(|record| record.nsid == nsid)
        };
        (0..)
            .zip(&self.groups)
            .find(|(_, group)| has(group))
            .map(|(index, _)| index)
    }

    /// Makes reservations of a shelf's namespace durable.
    pub(super) fn persist_reservation(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        number: u64,
        nsid: u32,
        state: State,
    ) {
        let group = self.group_of(nsid).expect("namespaces of a shelf stay");
        let header = self.groups[usize::from(group)].header.as_mut();
        let (at, record) = header
            .expect("only namespaces of a shelf keep reservations")
            .next(state);
        let write = HeaderWrite {
            number,
            group,
            at,
            record,
        };
        self.reservation_writes.waiting.push_back(write);
        self.write_reservations(core, io);
    }

    /// Begins to write the next header, unless one is under way, or its drive hangs on an operator's word.
    pub(super) fn write_reservations(&mut self, core: &mut Core, io: &mut Io<Message>) {
        if self.reservation_writes.under_way.is_some() {
            return;
        }
        let Some(write) = self.reservation_writes.waiting.pop_front() else {
            return;
        };
        let HeaderWrite {
            number, group, at, ..
        } = write;
        let drive = self.groups[usize::from(group)].drives[0];
        let drive = usize::from(drive.expect("a drive of a shelf keeps its place"));
        let spec = &self.drives[drive];
        let bytes = u32::try_from(RECORD_BYTES).expect("4096");
        let verdict = if spec.faults.armed() {
            spec.faults.judge(Kind::Write { fua: true }, at, bytes)
        } else {
            Verdict::Pass(0)
        };
        if matches!(verdict, Verdict::Park) {
            self.reservation_writes.waiting.push_front(write);
            return;
        }
        self.reservation_writes.under_way = Some((number, group));
        match (verdict, &spec.medium) {
            (Verdict::Fail(error), _) => {
                tracing::error!(drive = %spec.name, %error, "reservations cannot be written");
                tell_written(core, io, number, false);
            }
            (Verdict::Pass(_) | Verdict::Park, Medium::Memory(memory)) => {
                let at = usize::try_from(at).expect("a memory drive fits the address space");
                memory.memory.write(at, &write.record[..]);
                tell_written(core, io, number, true);
            }
            (Verdict::Pass(_) | Verdict::Park, Medium::Fabric(_)) => {
                unreachable!("the configuration gives a shelf no drives of others")
            }
            (Verdict::Pass(_) | Verdict::Park, Medium::File { .. }) => {
                let DriveBinding::File(file) = core.drives[drive] else {
                    return tell_written(core, io, number, false);
                };
                let span = self.reservation_writes.span.expect("a shelf keeps one");
                io.arena_mut().copy_in(span, 0, &write.record[..]);
                io.write(file, token(TokenKind::Reservation, number), span, at, true);
            }
        }
    }

    /// A header is on its drive, or is not.
    pub(super) fn reservation_written(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        number: u64,
        succeeded: bool,
    ) {
        let (expected, group) = self
            .reservation_writes
            .under_way
            .take()
            .expect("one is under way");
        assert_eq!(expected, number, "one at a time");
        if !succeeded {
            let group = &mut self.groups[usize::from(group)];
            tracing::error!(drive = %group.shared.name, "reservations are not durable: the command is refused");
            group.header.as_mut().expect("it was written").failed();
        }
        self.subsystem_event(core, io, Event::ReservationPersisted { number, succeeded });
        self.write_reservations(core, io);
    }
}
