//! One node's part in a redundancy group that several nodes serve: its locks, and what the nodes owe each other when an epoch begins.
//!
//! Owns the [`Homes`] of the node's locks, and says when this node may report to membership and when locks may be granted. One member of each epoch *leads* the
//! group: it alone writes superblocks, and it brings up to the journal what members that are gone have left. The others *follow* what it tells.
//!
//! An epoch, as membership calls its steps:
//!
//! 1. [`Peering::enter`]: locks are reported to their new arbiters, and to the leader which rows are held here ([`Note::Standing`]): these rows nobody who is gone
//!    can have been writing, so they are left alone, and their holders go on with them. Who led before and does not any more puts its pen down. After that
//!    [`Action::BarrierDone`].
//! 2. [`Peering::recover`], on the leader, when all have come so far: [`Action::Recover`], answered by [`Peering::replayed`] when what the others have left is in its place, and
//!    the group open under this node's pen. Everybody hears of the members that this was done with, and retires what is older; then [`Action::EndEntries`] has the
//!    superblocks say that it is over, and [`Peering::led`] that they do.
//! 3. [`Peering::opened`]: once the leader's word is there, too, locks are granted. So whoever gets a row in this epoch knows the members that it was recovered
//!    with (PROTOCOL H12, H29).
//!
//! Deliberately knows neither engines nor superblocks, and no membership but what it is told.

mod copies;
mod flush;
mod keepers;
mod memory;
pub mod note;
pub mod roll;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::arbiter::Rule;
use super::hand_over::{Fit, HandedOver};
use super::homes::{Context, HomeAction, Homes};
use super::lock::Mode;
use super::replica::{Asked, Copies, Copy, Replication};
use super::reserving::Message as Reservation;
use super::superblock::LANES_MAX;
use super::{MemberIndex, MemberSet, RowIndex};
use crate::amf::arbiter::Misbehaviour;
use crate::drive::DriveError;
use crate::icl::membership::record::EpochRecord;
use crate::icl::{Epoch, Slot, SlotSet};
pub use keepers::View;
pub use memory::MemoryAction;
use note::{Led, Note, NoteError, ROWS_MAX};

/// How often each node says what it knows, if it has nothing else to say.
pub const BEAT_NS: u64 = 100_000_000;

/// Why a group is not opened that has failed.
const FAILED: &str = "it has failed: stop all nodes, and start them when its drives are back";

/// The epoch that a node enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era {
    /// Its number.
    pub epoch: Epoch,
    /// Its members.
    pub members: SlotSet,
    /// Those that were members, in the same life, of the last one that this node has entered, and have kept their registration: nobody where everyone was fenced.
    pub seniors: SlotSet,
    /// Those that were members of it in the same life, whoever was fenced: what they have in memory is there.
    pub stayed: SlotSet,
    /// Who leads: the same for all.
    pub leader: Slot,
    /// How arbiters are placed.
    pub rule: Rule,
}

impl Era {
    /// An epoch as a group of a node sees it, after the last one that this life of it has entered: of its members those that serve the group, and who of them leads it.
    pub fn of(record: &EpochRecord, before: Option<&EpochRecord>, sharers: SlotSet, leader: Slot) -> Self {
        // A slot may have been lost and taken by another life in an epoch that was not entered here.
        let is_known = |slot: &Slot| {
            let life = record.member(*slot).map(|member| member.incarnation);
            before.is_none_or(|before| life.is_some_and(|life| before.names(*slot, life)))
        };
        Self {
            epoch: record.epoch,
            members: sharers,
            seniors: record.seniors().and(sharers).iter().filter(is_known).collect(),
            stayed: sharers
                .iter()
                .filter(|slot| before.is_some() && is_known(slot))
                .collect(),
            leader,
            rule: Rule::preferred(sharers),
        }
    }
}

/// What the leader of an epoch has to bring in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The epoch.
    pub epoch: Epoch,
    /// Members whose engines have the group open: their lanes of the journal live. If there are none, the group is opened as after a stop.
    pub living: SlotSet,
    /// Rows that they hold.
    pub rows: BTreeSet<RowIndex>,
    /// Below this members that are gone need no entries of theirs, and living ones keep all others until this is over
    /// ([`LivingNodes::retired`](super::journal::replay::LivingNodes::retired)).
    pub retired: u64,
    /// This node has written the superblocks before and goes on with that.
    pub goes_on: bool,
    /// Somebody who was a member when this node last led is gone.
    pub is_needed: bool,
    /// What members have kept in memory of lanes of nodes that are gone.
    pub copies: Vec<Arc<[u8]>>,
    /// Nodes that are gone with all who kept copies for them: what they have acknowledged from memory may be lost, if anything was.
    pub unkept: SlotSet,
}

/// What the binding does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// As [`HomeAction::WakeCores`]; the homes' own turn is not among them.
    WakeCores {
        /// Bit `i` is core `i`.
        mask: u16,
        /// The row.
        row: RowIndex,
    },
    /// As [`HomeAction::RecallCore`].
    RecallCore {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
        /// It may be given with its dirty data.
        gives: bool,
    },
    /// As [`HomeAction::Answer`].
    Answer {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// As [`HomeAction::Adopt`]; answered by [`Peering::secured`].
    Adopt {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
        /// Its dirty data.
        data: Arc<HandedOver>,
    },
    /// As [`HomeAction::Restore`].
    Restore {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// As [`HomeAction::Settle`].
    Settle {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// As [`HomeAction::Void`].
    Void {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// As [`HomeAction::Forget`].
    Forget {
        /// Which core.
        core: u16,
        /// The row.
        row: RowIndex,
    },
    /// Send, with [`Peering::context`] as it is then.
    Send {
        /// To whom.
        to: Slot,
        /// What.
        note: Note,
    },
    /// About acknowledging from memory.
    Memory(MemoryAction),
    /// The journal may forget more: [`super::engine::Engine::tail_moved`] on all cores.
    TailMoved,
    /// Another node's lane waits: [`super::engine::Engine::hurry`] on all cores.
    Hurry {
        /// Which lane.
        lane: u16,
        /// Everything below.
        below: u64,
    },
    /// A lane of this node had waited for what another node has retired.
    LanesMoved {
        /// Bit `i` is lane `i`.
        lanes: u32,
    },
    /// Write no superblock any more; answer [`Peering::stepped_down`] when none is under way.
    StepDown,
    /// Membership may go on: its barrier is done as far as this group goes.
    BarrierDone(Epoch),
    /// Open the group, or go on with it; answer [`Peering::replayed`] or [`Peering::not_led`].
    Recover(Recovery),
    /// Make durable that entries of all lanes below a number are over; answer [`Peering::led`].
    EndEntries {
        /// The epoch.
        epoch: Epoch,
        /// The number.
        below: u64,
    },
    /// Membership may open the epoch as far as this group goes.
    Recovered(Epoch),
    /// The leader's newest record; if the group is not open here, open it, and call [`Peering::is_open`].
    Follow(Led),
    /// The leader cannot open the group.
    Refused(String),
    /// Locks are granted: hosts are welcome.
    Serve,
    /// They are not, and nobody knows when they will be: [`super::engine::Engine::refuse`] for all that hosts wait for, and ask for until [`Self::Serve`].
    NotServed,
    /// A member failed on another node, and this one leads.
    Fault(MemberIndex, DriveError),
    /// Another member says this about reservations ([`super::reserving`]).
    Reserve {
        /// Who.
        from: Slot,
        /// What.
        message: Reservation,
    },
    /// A peer breaks the rules.
    Misbehaved {
        /// Who.
        peer: Slot,
        /// How.
        what: Misbehaviour,
    },
}

/// What another member has of the group.
#[derive(Clone, Debug, Default)]
struct Standing {
    is_open: bool,
    has_failed: bool,
    tails: BTreeMap<Slot, u64>,
    rows: BTreeSet<RowIndex>,
    is_whole: bool,
    view: View,
}

/// How far the leader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// Membership has not called.
    Waiting,
    /// It has, and somebody's standing is missing.
    Called,
    /// It is at it.
    Recovering,
    /// All nodes retire their entries below this.
    Retiring(u64),
    /// The superblocks are to say that entries below are over.
    Ending,
    Over,
}

/// How far the epoch is.
#[derive(Debug)]
struct Now {
    era: Era,
    /// All arbiters know what this node has.
    is_reported: bool,
    /// The binding has yet to say that it has stepped down, or is still recovering for the last epoch.
    has_pen: bool,
    /// The leader has heard what this node has: not before it is known whether a recovery for the last epoch has opened the group here.
    has_stood: bool,
    is_past_barrier: bool,
    lead: Lead,
    standings: BTreeMap<Slot, Standing>,
    /// Membership has opened it.
    is_opened: bool,
    /// The leader has told its record, or this node leads and has it open.
    is_led: bool,
    serves: bool,
    /// Cores of this node that have acknowledged something before that is neither on the drives nor with partners, as a mask.
    restoring: u16,
}

/// See the module.
#[derive(Debug)]
pub struct Peering {
    local: Slot,
    /// Lanes of each node in the journal.
    lanes_each: u16,
    homes: Homes,
    now: Option<Now>,
    /// The group is open here.
    is_open: bool,
    /// This node writes the superblocks.
    leads: bool,
    /// The binding works on an [`Action::Recover`].
    recovers: Option<Epoch>,
    /// Somebody is gone since what others had left was over for the last time, or this node has begun to lead and not come so far.
    owes: bool,
    /// The group has failed here, for this life.
    has_failed: bool,
    /// Faults of members that engines here wait for.
    faults: BTreeMap<MemberIndex, DriveError>,
    /// What others may hand over.
    fit: Option<Fit>,
    /// Of which nodes' memory each batch is to be in.
    replication: Replication,
    /// What this node keeps for others.
    kept: Copies,
    /// What others were asked to keep.
    asked: Asked,
    /// Slots of which a life is gone whose journal is not in its place yet, and below which number batches are that life's.
    orphans: BTreeMap<Slot, u64>,
    keepers: keepers::Keepers,
    flushes: flush::Flushes,
    memory: memory::Memory,
    /// The newest record that this node leads by, for members that have to be told.
    told: Option<Led>,
    beat_at_ns: u64,
    from_homes: Vec<HomeAction>,
}

impl Peering {
    /// A node that is in no epoch.
    pub fn new(local: Slot, lanes_each: u16, homes: Homes) -> Self {
        Self {
            local,
            lanes_each,
            homes,
            now: None,
            is_open: false,
            leads: false,
            recovers: None,
            owes: false,
            has_failed: false,
            faults: BTreeMap::new(),
            fit: None,
            replication: Replication::new(1),
            kept: Copies::new(0),
            asked: Asked::default(),
            orphans: BTreeMap::new(),
            keepers: keepers::Keepers::default(),
            flushes: flush::Flushes::default(),
            memory: memory::Memory::default(),
            told: None,
            beat_at_ns: 0,
            from_homes: Vec::with_capacity(32),
        }
    }

    /// The homes.
    pub const fn homes(&self) -> &Homes {
        &self.homes
    }

    /// What has to go along with each note.
    pub fn context(&self) -> Context {
        self.homes.context()
    }

    /// Engines of this node have rows of which others may hand over so much.
    pub const fn take(&mut self, fit: Fit) {
        self.fit = Some(fit);
    }

    /// Whether this node writes the superblocks.
    pub const fn leads(&self) -> bool {
        self.leads
    }

    /// The epoch whose [`Action::Recover`] is to be answered.
    pub const fn awaits(&self) -> Option<Epoch> {
        self.recovers
    }

    /// Whether locks are granted in this epoch.
    pub fn serves(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.serves)
    }

    /// Whether the group has failed while engines here had it open: for this life of the node, and for all nodes until none of them has it open any more.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Who leads the epoch.
    pub fn leader(&self) -> Option<Slot> {
        Some(self.now.as_ref()?.era.leader)
    }

    /// When [`Self::tick`] is due at the latest.
    pub fn wake_at_ns(&self) -> u64 {
        self.homes
            .wake_at_ns()
            .map_or(self.beat_at_ns, |at| at.min(self.beat_at_ns))
    }

    fn others(&self) -> SlotSet {
        let now = self.now.as_ref();
        now.map_or(SlotSet::EMPTY, |now| now.era.members.without(self.local))
    }
}

// Epochs.
impl Peering {
    /// Membership wants locks to be reported.
    pub fn enter(&mut self, now_ns: u64, era: Era, out: &mut Vec<Action>) {
        let before = self.now.as_ref().map_or(SlotSet::EMPTY, |now| now.era.members);
        self.owes |= !era.seniors.covers(before);
        self.now = Some(Now {
            era,
            is_reported: false,
            has_pen: self.recovers.is_some(),
            has_stood: false,
            is_past_barrier: false,
            lead: Lead::Waiting,
            standings: BTreeMap::new(),
            is_opened: false,
            is_led: false,
            serves: false,
            restoring: self.all_cores(),
        });
        self.told = None;
        let Era {
            epoch,
            members,
            seniors,
            stayed,
            leader,
            rule,
        } = era;
        self.with_homes(out, |homes, out| {
            homes.enter(now_ns, epoch, members, seniors, rule, out);
        });
        self.enter_memory();
        self.bring_copies(before.minus(stayed), out);
        self.stand(out);
        self.say_left(out);
        if self.leads && leader != self.local {
            self.now.as_mut().expect("it was just set").has_pen = true;
            if self.recovers.is_none() {
                out.push(Action::StepDown);
            }
        }
        self.pass_barrier(out);
    }

    /// Says what this node has of the group, once. If the group is being opened here, for an epoch that is over, that is not known yet: were it said that it is not open
    /// and it came to be, the next leader would open it as if nobody had, and no later recovery would read what this node's engines write.
    fn stand(&mut self, out: &mut Vec<Action>) {
        let is_opening = self.recovers.is_some() && !self.is_open;
        let Some(now) = self.now.as_mut().filter(|now| !now.has_stood && !is_opening) else {
            return;
        };
        now.has_stood = true;
        let leader = now.era.leader;
        // What is granted later is not before the leader has recovered; what goes meanwhile was held when the epoch began.
        let rows = if self.is_open {
            self.homes.held_rows()
        } else {
            Vec::new()
        };
        let is_open = self.is_open;
        let mut tails: BTreeMap<Slot, u64> = self.homes.retired_by_gone().collect();
        if is_open && self.homes.has_void() {
            // What this node has given to those that are gone may be older than all that they have said of their tails. No node has let go of anything from this node's own tail on.
            let own_tail = self.homes.own_tail();
            let least = tails.entry(self.local).or_insert(own_tail);
            *least = own_tail.min(*least);
        }
        if leader == self.local {
            let standing = Standing {
                is_open,
                has_failed: self.has_failed,
                tails,
                rows: rows.into_iter().collect(),
                view: self.keepers.view(),
                is_whole: true,
            };
            let now = self.now.as_mut().expect("an epoch was entered");
            now.standings.insert(self.local, standing);
            return;
        }
        let tails: Vec<(Slot, u64)> = tails.into_iter().collect();
        let parts = rows.len().div_ceil(ROWS_MAX).max(1);
        for part in 0..parts {
            let rows = rows.iter().skip(part * ROWS_MAX).take(ROWS_MAX).copied();
            let note = Note::Standing {
                is_open,
                has_failed: self.has_failed,
                tails: tails.clone(),
                rows: rows.collect(),
                view: self.keepers.view(),
                is_last: part + 1 == parts,
            };
            out.push(Action::Send { to: leader, note });
        }
    }

    fn pass_barrier(&mut self, out: &mut Vec<Action>) {
        let Some(now) = &mut self.now else { return };
        if now.is_reported && !now.has_pen && !now.is_past_barrier {
            now.is_past_barrier = true;
            out.push(Action::BarrierDone(now.era.epoch));
        }
    }

    /// The answer to [`Action::StepDown`].
    pub fn stepped_down(&mut self, out: &mut Vec<Action>) {
        assert!(self.leads, "who steps down has led");
        self.leads = false;
        self.put_pen_down(out);
    }

    fn put_pen_down(&mut self, out: &mut Vec<Action>) {
        if let Some(now) = &mut self.now {
            now.has_pen = false;
        }
        self.pass_barrier(out);
    }

    /// All members have reported, and this node leads.
    pub fn recover(&mut self, epoch: Epoch, out: &mut Vec<Action>) {
        let Some(now) = self.now.as_mut().filter(|now| now.era.epoch == epoch) else {
            return;
        };
        assert_eq!(now.era.leader, self.local, "the leader recovers");
        if now.lead == Lead::Waiting {
            now.lead = Lead::Called;
        }
        self.begin_recovery(out);
    }

    fn begin_recovery(&mut self, out: &mut Vec<Action>) {
        let Some(now) = self.now.as_mut().filter(|now| now.lead == Lead::Called) else {
            return;
        };
        let is_whole = |slot: Slot| now.standings.get(&slot).is_some_and(|it| it.is_whole);
        if !now.era.members.iter().all(is_whole) {
            return;
        }
        let epoch = now.era.epoch;
        if now.standings.values().any(|standing| standing.has_failed) {
            now.lead = Lead::Over;
            // Engines were told that it is over with this group, and cannot take that back.
            self.refuse(FAILED, out);
            out.extend([Action::Refused(FAILED.to_owned()), Action::Recovered(epoch)]);
            return self.end_service(out);
        }
        now.lead = Lead::Recovering;
        let open = now.standings.iter().filter(|(_, standing)| standing.is_open);
        let living: SlotSet = open.clone().map(|(slot, _)| *slot).collect();
        let retired = retired(open.clone().map(|(_, standing)| &standing.tails));
        let rows = open.flat_map(|(_, standing)| standing.rows.iter().copied());
        let views: Vec<View> = now.standings.values().map(|standing| standing.view).collect();
        let rows = rows.collect();
        self.owes |= !self.leads;
        self.keepers.brought(self.local);
        let recovery = Recovery {
            epoch,
            living,
            rows,
            retired,
            goes_on: self.leads,
            is_needed: self.owes,
            copies: self.copies_of_gone(living),
            unkept: View::unkept(&views),
        };
        self.recovers = Some(epoch);
        out.push(Action::Recover(recovery));
    }

    /// The answer to [`Action::Recover`]: what others have left is in its place, the group is open under this node's pen, and this is its record. Entries below a number, to which the journal's were raised, are to be retired everywhere, if any were replayed beside living nodes.
    pub fn replayed(
        &mut self,
        now_ns: u64,
        epoch: Epoch,
        led: Led,
        below: Option<u64>,
        out: &mut Vec<Action>,
    ) {
        assert_eq!(self.recovers.take(), Some(epoch), "one recovery at a time");
        (self.leads, self.is_open) = (true, true);
        self.stand(out);
        let Some(now) = &mut self.now else { return };
        if now.era.epoch != epoch {
            return self.lead_no_more(out);
        }
        now.lead = below.map_or(Lead::Ending, Lead::Retiring);
        self.tell(led, out);
        // What is to be retired may wait for a member to be counted as lost, which its leader before this one has not come to.
        self.tell_faults(out);
        let Some(below) = below else {
            return self.over(now_ns, out);
        };
        // What has been given to nodes that are gone is among what is to be retired.
        self.with_homes(out, |homes, out| homes.replayed(out));
        for to in self.others().iter() {
            let note = Note::Replayed;
            out.push(Action::Send { to, note });
        }
        // Any lane of this node will do: who is done says so to it, and how far everybody is comes with what they say.
        let lane = u16::from(self.local.number()) * self.lanes_each;
        self.hurry(lane, below, out);
        out.push(Action::Hurry { lane, below });
        self.end_entries(out);
    }

    /// Looks whether all nodes have retired what they are to.
    fn end_entries(&mut self, out: &mut Vec<Action>) {
        let retired = self.homes.retired();
        let Some(now) = &mut self.now else { return };
        if let Lead::Retiring(below) = now.lead
            && retired >= below
        {
            now.lead = Lead::Ending;
            let epoch = now.era.epoch;
            self.recovers = Some(epoch);
            out.push(Action::EndEntries { epoch, below });
        }
    }

    /// Another epoch has begun while this node was at it. Whoever leads that one waits for its pen.
    fn lead_no_more(&mut self, out: &mut Vec<Action>) {
        if self.leader() == Some(self.local) {
            self.put_pen_down(out);
        } else {
            out.push(Action::StepDown);
        }
    }

    /// The answer to [`Action::EndEntries`].
    pub fn led(&mut self, now_ns: u64, epoch: Epoch, led: Led, out: &mut Vec<Action>) {
        assert_eq!(self.recovers.take(), Some(epoch), "one recovery at a time");
        if self.now.as_ref().is_none_or(|now| now.era.epoch != epoch) {
            return self.lead_no_more(out);
        }
        self.tell(led, out);
        self.over(now_ns, out);
    }

    /// What others have left is over.
    fn over(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let Some(now) = &mut self.now else { return };
        (now.lead, now.is_led) = (Lead::Over, true);
        out.push(Action::Recovered(now.era.epoch));
        self.serve(now_ns, out);
    }

    /// The other answer: it cannot be opened, and why.
    pub fn not_led(&mut self, epoch: Epoch, why: &str, out: &mut Vec<Action>) {
        assert_eq!(self.recovers.take(), Some(epoch), "one recovery at a time");
        self.stand(out);
        let Some(now) = &mut self.now else { return };
        if now.era.epoch != epoch {
            return self.put_pen_down(out);
        }
        now.lead = Lead::Over;
        self.refuse(why, out);
        self.end_service(out);
        out.push(Action::Recovered(epoch));
    }

    fn refuse(&self, why: &str, out: &mut Vec<Action>) {
        for to in self.others().iter() {
            let note = Note::Refused(why.to_owned());
            out.push(Action::Send { to, note });
        }
    }

    /// The group that this node leads, or was about to, has failed. What engines elsewhere are to know of its members goes with the context.
    pub fn failed(&mut self, why: &str, out: &mut Vec<Action>) {
        self.has_failed |= self.is_open;
        if let Some(epoch) = self.recovers {
            return self.not_led(epoch, why, out);
        }
        if self.leads {
            self.refuse(why, out);
            self.end_service(out);
        }
        // Nobody waits for a group that is of no use any more.
        if let Some(now) = &mut self.now
            && matches!(now.lead, Lead::Retiring(_))
        {
            now.lead = Lead::Over;
            out.push(Action::Recovered(now.era.epoch));
        }
    }

    /// The record that this node leads by has changed.
    pub fn tell(&mut self, led: Led, out: &mut Vec<Action>) {
        for to in self.others().iter() {
            let note = Note::Led(led.clone());
            out.push(Action::Send { to, note });
        }
        self.told = Some(led);
        self.keepers.told();
    }

    /// What was told last, if this node leads.
    pub const fn told(&self) -> Option<&Led> {
        self.told.as_ref()
    }

    /// The answer to [`Action::Follow`]: engines serve the group.
    pub fn is_open(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.is_open = true;
        self.serve(now_ns, out);
    }

    /// Membership has opened the epoch.
    pub fn opened(&mut self, now_ns: u64, epoch: Epoch, out: &mut Vec<Action>) {
        if let Some(now) = self.now.as_mut().filter(|now| now.era.epoch == epoch) {
            now.is_opened = true;
        }
        self.serve(now_ns, out);
    }

    fn serve(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let is_open = self.is_open;
        let Some(now) = &mut self.now else { return };
        if !is_open || !now.is_opened || !now.is_led || now.serves {
            return;
        }
        now.serves = true;
        self.owes = false;
        let epoch = now.era.epoch;
        self.with_homes(out, |homes, out| homes.recovered(now_ns, epoch, out));
        self.serve_with_copies(out);
        self.commit_again(out);
        self.ask_for_memory(out);
        out.extend([Action::TailMoved, Action::Serve]);
        self.tell_faults(out);
    }
}

// What goes on within an epoch.
impl Peering {
    /// A core's engine wants a row; see [`Homes::want`].
    pub fn want(
        &mut self,
        now_ns: u64,
        core: u16,
        row: RowIndex,
        mode: Mode,
        takes: bool,
        out: &mut Vec<Action>,
    ) {
        self.with_homes(out, |homes, out| {
            homes.want(now_ns, core, row, mode, takes, out);
        });
    }

    /// A core has laid out what it has of a row; see [`Homes::given`].
    pub fn given(&mut self, row: RowIndex, core: u16, data: HandedOver) {
        self.homes.given(row, core, data);
    }

    /// A core has what it adopted durable.
    pub fn secured(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<Action>) {
        self.with_homes(out, |homes, out| homes.secured(now_ns, row, out));
        self.end_entries(out);
    }

    /// The turn has come to a home.
    pub fn turn(&mut self, now_ns: u64, row: RowIndex, out: &mut Vec<Action>) {
        self.with_homes(out, |homes, out| homes.turn(now_ns, row, out));
    }

    /// These members are not heard.
    pub fn suspect(&mut self, now_ns: u64, members: SlotSet, out: &mut Vec<Action>) {
        self.with_homes(out, |homes, out| homes.suspect(now_ns, members, out));
    }

    /// Time has passed: as [`Self::wake_at_ns`] says.
    pub fn tick(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.with_homes(out, |homes, out| homes.tick(now_ns, out));
        self.end_entries(out);
        if now_ns < self.beat_at_ns {
            return;
        }
        self.beat_at_ns = now_ns + BEAT_NS;
        self.tick_memory(now_ns, out);
        self.forget_retired();
        for to in self.others().iter() {
            let note = Note::Beat;
            out.push(Action::Send { to, note });
        }
        self.tell_faults(out);
    }

    /// An engine here could not use a member. If this node leads, its own group machine is to be told.
    pub fn fault(&mut self, member: MemberIndex, error: DriveError, out: &mut Vec<Action>) {
        if self.leads {
            return out.push(Action::Fault(member, error));
        }
        if self.faults.insert(member, error).is_none() {
            self.tell_faults(out);
        }
    }

    /// Whoever leads may have changed meanwhile: it is told until it has counted the member as lost.
    fn tell_faults(&mut self, out: &mut Vec<Action>) {
        let is_heard = |now: &&Now| now.is_led || self.leads;
        let Some(now) = self.now.as_ref().filter(is_heard) else {
            return;
        };
        let to = now.era.leader;
        for (member, error) in &self.faults {
            if self.leads {
                out.push(Action::Fault(*member, *error));
            } else {
                let note = Note::Fault(*member, *error);
                out.push(Action::Send { to, note });
            }
        }
    }

    /// These members are durable from now on.
    pub fn members(&mut self, set: MemberSet) {
        self.faults.retain(|member, _| set.failed >> member.0 & 1 == 0);
    }

    /// A core waits for what has lower numbers; all nodes hear of it.
    pub fn hurry(&mut self, lane: u16, below: u64, out: &mut Vec<Action>) {
        for to in self.others().iter() {
            let note = Note::Hurry { lane, below };
            out.push(Action::Send { to, note });
        }
    }

    /// A core has retired what lanes of other nodes wait for.
    pub fn tail_moved(&mut self, lanes: u32, out: &mut Vec<Action>) {
        for to in self.others().iter() {
            let first = u32::from(to.number()) * u32::from(self.lanes_each);
            let theirs = lanes & ((1 << self.lanes_each) - 1) << first;
            if theirs != 0 {
                let note = Note::TailMoved { lanes: theirs };
                out.push(Action::Send { to, note });
            }
        }
    }

    /// A note came in on the link in this epoch. Errs at bytes that no sound node sends; nothing was done then.
    pub fn receive(
        &mut self,
        now_ns: u64,
        (from, epoch): (Slot, Epoch),
        (kind, bytes): (u16, &[u8]),
        out: &mut Vec<Action>,
    ) -> Result<(), NoteError> {
        let (context, note) = Note::parse(kind, bytes)?;
        if self.now.as_ref().is_none_or(|now| now.era.epoch != epoch) {
            return Ok(()); // The epoch was entered by the link and not here yet, or is over.
        }
        if let (Note::HandOver { data, .. }, Some(fit)) = (&note, &self.fit) {
            fit.check(data)?;
        }
        if self.homes.learn(from, &context) {
            out.push(Action::TailMoved);
        }
        self.noted(now_ns, from, epoch, note, out);
        self.end_entries(out);
        Ok(())
    }

    fn noted(&mut self, now_ns: u64, from: Slot, epoch: Epoch, note: Note, out: &mut Vec<Action>) {
        match note {
            Note::Lock(message) => self.with_homes(out, |homes, out| {
                homes.received(now_ns, from, epoch, message, out);
            }),
            Note::Standing {
                is_open,
                has_failed,
                tails,
                rows,
                view,
                is_last,
            } => {
                let now = self.now.as_mut().expect("it was compared");
                let standing = now.standings.entry(from).or_default();
                (standing.is_open, standing.has_failed) = (is_open, has_failed);
                standing.tails.extend(tails);
                standing.rows.extend(rows);
                (standing.view, standing.is_whole) = (view, is_last);
                self.begin_recovery(out);
            }
            Note::Led(led) => {
                let now = self.now.as_mut().expect("it was compared");
                if now.era.leader == from {
                    now.is_led = true;
                    out.push(Action::Follow(led));
                    self.serve(now_ns, out);
                    self.memory_of_another(out);
                }
            }
            Note::Refused(why) => {
                if self.leader() == Some(from) {
                    self.has_failed |= self.is_open;
                    out.push(Action::Refused(why));
                    self.end_service(out);
                    self.memory_is_over(out);
                }
            }
            Note::Fault(member, error) => {
                if self.leads {
                    out.push(Action::Fault(member, error));
                }
            }
            Note::Hurry { lane, below } => {
                if lane < LANES_MAX {
                    out.push(Action::Hurry { lane, below });
                }
            }
            Note::TailMoved { lanes } => out.push(Action::LanesMoved { lanes }),
            Note::HandOver { row, token, data } => self.with_homes(out, |homes, out| {
                homes.data_came(now_ns, from, row, token, data, out);
            }),
            Note::Replayed => {
                if self.leader() == Some(from) {
                    self.with_homes(out, |homes, out| homes.replayed(out));
                }
            }
            Note::Beat => {}
            Note::Commit(name) => self.asked_to_commit(from, name, out),
            Note::Committed(name) => self.flush_answered(from, name, out),
            note @ (Note::Memory | Note::MemoryIs(_) | Note::MemoryEnded) => {
                self.memory_noted(from, &note, out);
            }
            note @ (Note::Left | Note::LeftHeard | Note::KeptBy(_) | Note::Restored) => {
                self.keepers_noted(from, note, out);
            }
            Note::Copy(copy) => self.copy_came(from, copy, out),
            Note::Kept { name, keeps } => self.copy_kept(from, name, keeps, out),
            Note::Reserve(message) => out.push(Action::Reserve { from, message }),
        }
    }

    fn with_homes(&mut self, out: &mut Vec<Action>, act: impl FnOnce(&mut Homes, &mut Vec<HomeAction>)) {
        let mut actions = std::mem::take(&mut self.from_homes);
        act(&mut self.homes, &mut actions);
        for action in actions.drain(..) {
            match action {
                HomeAction::WakeCores { mask, row } => out.push(Action::WakeCores { mask, row }),
                HomeAction::RecallCore { core, row, gives } => {
                    out.push(Action::RecallCore { core, row, gives });
                }
                HomeAction::Answer { core, row } => out.push(Action::Answer { core, row }),
                HomeAction::Adopt { core, row, data } => out.push(Action::Adopt { core, row, data }),
                HomeAction::Restore { core, row } => out.push(Action::Restore { core, row }),
                HomeAction::Settle { core, row } => out.push(Action::Settle { core, row }),
                HomeAction::Void { core, row } => out.push(Action::Void { core, row }),
                HomeAction::Forget { core, row } => out.push(Action::Forget { core, row }),
                HomeAction::SendData { to, row, token, data } => {
                    let note = Note::HandOver { row, token, data };
                    out.push(Action::Send { to, note });
                }
                HomeAction::Send { to, message } => {
                    let note = Note::Lock(message);
                    out.push(Action::Send { to, note });
                }
                // What members that are gone have left is found in their lanes of the journal.
                HomeAction::NeedsRecovery { .. } => {}
                HomeAction::Reported(epoch) => {
                    if let Some(now) = self.now.as_mut().filter(|now| now.era.epoch == epoch) {
                        now.is_reported = true;
                    }
                    self.pass_barrier(out);
                }
                HomeAction::Misbehaved { peer, what } => out.push(Action::Misbehaved { peer, what }),
            }
        }
        self.from_homes = actions;
    }
}

/// Below which number nodes that are gone need no entry of theirs: of each the most that a living one has heard, and of these the least.
fn retired<'a>(heard: impl Iterator<Item = &'a BTreeMap<Slot, u64>>) -> u64 {
    let mut most: BTreeMap<Slot, u64> = BTreeMap::new();
    for (slot, tail) in heard.flatten() {
        let known = most.entry(*slot).or_default();
        *known = (*known).max(*tail);
    }
    // Who has not been heard of by any of them has no entries, or they are over.
    most.into_values().min().unwrap_or(0)
}

/// The lanes of these slots, each of which has one for each of its cores.
pub fn lanes_of(slots: SlotSet, cores: u16) -> u32 {
    let each = (1_u32 << cores) - 1;
    slots.iter().fold(0, |lanes, slot| {
        lanes | each << (u32::from(slot.number()) * u32::from(cores))
    })
}
