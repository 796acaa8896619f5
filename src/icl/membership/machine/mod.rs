//! Membership of one node in one array, from its start until it halts: what joins the decision, the fence and the lease.
//!
//! | file | part |
//! |---|---|
//! | `outside` | a node that is no member: reads the voters, watches for life, asks to be admitted, or starts the array |
//! | `propose` | a member or starter that sees that another set of nodes or drives is needed, and has it decided |
//! | `settle` | a member of a decided epoch: stores it, registers, fences, waits, compares, and opens it |
//! | `peers`, `desk` | what others have said; what drives have been asked |
//!
//! The binding owes the machine: an event for each command, once it has taken effect or never will (H30), and `Failed` for what takes longer
//! than [`super::times::IO_NS`], after its association was torn down; every announcement at most a few times; [`Event::Tick`] in each turn
//! of its loop, and when [`Machine::wake_at_ns`] says so; and it sends no completion without [`Machine::may_complete`] at that moment.

mod desk;
mod outside;
mod peers;
mod propose;
mod settle;

use nvme::reservation::{Command as Reservation, Report};

use self::desk::Desk;
use self::outside::Outside;
use self::peers::Peers;
use self::settle::Inside;
use super::authority::Authority;
use super::choice::{self, Need};
use super::lease::{self, Lease};
use super::message::{Announcement, Standing, Step};
use super::paxos::{self, Paxos};
use super::record::codec::{encode_certificate, encode_decided, encode_heartbeat, encode_paxos};
use super::record::{Certificate, EpochRecord, Heartbeat, Kind, PaxosBlock, Quorum, RECORD_BYTES};
use super::status::{Halt, Stage, Status};
use super::times::{GAP_NS, HEARTBEAT_NS};
use super::{ArrayId, DriveIndex, DriveSet, Epoch, Incarnation, Slot, SlotSet};

/// What a machine is told when it is made.
#[derive(Clone, Debug)]
pub struct Config {
    /// The array.
    pub array: ArrayId,
    /// This node's slot.
    pub slot: Slot,
    /// This life of it: random, not 0.
    pub incarnation: Incarnation,
    /// 24 random bits.
    pub random: u32,
    /// All drives of the array: what a format uses.
    pub drives: DriveSet,
    /// Drives that vote.
    pub voters: DriveSet,
    /// Drives that can kill a host's association (our shelf).
    pub killers: DriveSet,
    /// What the groups need.
    pub needs: Vec<Need>,
}

/// What a command is for: commands of different purposes are independent of one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Deciding.
    Paxos,
    /// Heartbeats.
    Lease,
    /// Fencing.
    Fence,
    /// Registering.
    Enrol,
    /// Comparing registrants.
    Audit,
    /// Keeping the decided record.
    Store,
    /// Reading decided records.
    Learn,
    /// Watching heartbeats.
    Watch,
}

/// Which command an answer belongs to; the binding hands it back as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    purpose: Purpose,
    serial: u32,
}

impl Ticket {
    /// What the command is for.
    pub const fn purpose(self) -> Purpose {
        self.purpose
    }
}

/// What a drive is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// End all associations of this slot's past lives, wait for their commands, and let none of them in again.
    Expel,
    /// Kill all associations of another node's life, wait for their commands, and let it in no more.
    Kill(Slot, Incarnation),
    /// Read and parse the first [`super::record::QUORUM_BLOCKS`] blocks of the area.
    ReadQuorum,
    /// Read and parse the heartbeats.
    ReadHeartbeats,
    /// Write the own Paxos block, forced to stable media, like all writes here.
    WritePaxos(PaxosBlock),
    /// Write the own copy of the decided record.
    WriteDecided(EpochRecord),
    /// Write the own certificate.
    WriteCertificate(Certificate),
    /// Write the own heartbeat, under the reservation.
    WriteHeartbeat(Heartbeat),
    /// A reservation command.
    Reserve(Reservation),
}

impl Command {
    /// For a write: the block of the area, and its content, to be padded with zeros.
    pub fn write(&self, array: ArrayId, slot: Slot) -> Option<(usize, [u8; RECORD_BYTES])> {
        match self {
            Self::WritePaxos(block) => Some((Kind::Paxos.block(slot), encode_paxos(array, block))),
            Self::WriteDecided(record) => {
                Some((Kind::Decided.block(slot), encode_decided(array, slot, record)))
            }
            Self::WriteCertificate(certificate) => Some((
                Kind::Certificate.block(slot),
                encode_certificate(array, certificate),
            )),
            Self::WriteHeartbeat(beat) => Some((Kind::Heartbeat.block(slot), encode_heartbeat(array, beat))),
            Self::Expel | Self::Kill(..) | Self::ReadQuorum | Self::ReadHeartbeats | Self::Reserve(_) => None,
        }
    }
}

/// How a drive answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// Reservation conflict (SCT 0h, SC 83h).
    Conflict,
    /// Command interrupted.
    Interrupted,
    /// It failed, or did not answer in time; also a record that could not be parsed.
    Failed,
    /// To [`Command::ReadQuorum`].
    Quorum(Quorum),
    /// To [`Command::ReadHeartbeats`].
    Heartbeats(Vec<Heartbeat>),
    /// To a report.
    Report(Report),
}

/// What the array management function wants to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Drives in use.
    pub drives: DriveSet,
    /// Generation of the groups' configuration: at least that.
    pub generation: u64,
    /// Whether writes may be acknowledged from memory.
    pub dirty_ram: bool,
}

impl Wish {
    /// Whether a record says so. Its drives may be fewer, if they are not all reached.
    pub const fn is_met_by(&self, record: &EpochRecord) -> bool {
        record.generation >= self.generation && record.dirty_ram == self.dirty_ram
    }
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time goes by.
    Tick,
    /// A drive has answered.
    Answered {
        /// The drive.
        drive: DriveIndex,
        /// The command's ticket.
        ticket: Ticket,
        /// Its answer.
        answer: Answer,
    },
    /// A peer's announcement, over an authenticated link.
    Heard(Box<Announcement>),
    /// A link was reset, missed its pings, or a host has asked for a Cross-Controller Reset.
    LinkLost(Slot),
    /// A drive is connected.
    DriveUp(DriveIndex),
    /// A drive's path is lost.
    DriveDown(DriveIndex),
    /// A drive reported that the own registration was preempted, or refused a data command with a conflict.
    Preempted,
    /// The operator wants a new array on blank drives.
    Format,
    /// The operator wants this node to go.
    Leave,
    /// [`Action::Drain`] is done.
    Drained,
    /// [`Action::Barrier`] is done.
    BarrierDone(Epoch),
    /// [`Action::Recover`] is done.
    Recovered(Epoch),
    /// Another configuration is to be decided.
    Configure(Wish),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give a drive a command; [`Event::Answered`] follows.
    Drive {
        /// The drive.
        drive: DriveIndex,
        /// To be handed back.
        ticket: Ticket,
        /// The command.
        command: Command,
    },
    /// Send to all peers that there is a link to.
    Announce(Box<Announcement>),
    /// These members are not heard: grant nothing that involves them. Empty: all are.
    Suspect(SlotSet),
    /// A record is decided: no grants, no frames of older epochs. Held locks and the lease stay good.
    Decided(Box<EpochRecord>),
    /// Report all locks, held and wanted, to the arbiters of this epoch; [`Event::BarrierDone`] follows.
    Barrier(Epoch),
    /// This node leads: recover what was under way, then [`Event::Recovered`] follows.
    Recover(Box<EpochRecord>),
    /// The epoch is open: grant locks, tell hosts of changed paths.
    Opened(Box<EpochRecord>),
    /// No lease: complete nothing.
    Pause,
    /// The lease is good again.
    Resume,
    /// Finish everything, destage, release all locks; [`Event::Drained`] follows when no data command is left on any drive.
    Drain,
    /// A drive does not know its registrants any more (H04): what it holds is stale.
    DriveStale(DriveIndex),
    /// Over, for good: drop connections, cache and locks. A new life of this slot has to join.
    Halt(Halt),
}

/// Membership of one node in one array, whose records `A` decides.
#[derive(Clone, Debug)]
pub struct Machine<A = Paxos> {
    config: Config,
    desk: Desk,
    peers: Peers,
    seq: u64,
    /// The round of heartbeats that this life has issued last.
    round: u64,
    /// Drives with a path.
    up: DriveSet,
    /// Drives with a path whose registrants are still to be compared.
    unaudited: DriveSet,
    /// Drives that forgot their registrants.
    stale: DriveSet,
    /// The newest decided record.
    record: Option<EpochRecord>,
    outside: Outside,
    /// What a member of `record` is about; `None` for a node that is none.
    inside: Option<Inside>,
    proposal: Option<A>,
    /// Voters on which other lives of this slot have been ended.
    expelled: DriveSet,
    lease: Option<Lease>,
    wish: Option<Wish>,
    /// Since when others ought to have proposed something.
    deviates_since_ns: Option<u64>,
    /// Since when this node waits to propose.
    waits_since_ns: u64,
    suspects: SlotSet,
    standing: Standing,
    halt: Option<Halt>,
    is_serving: bool,
    next_beat_ns: u64,
    last_turn_ns: u64,
    /// Something that peers wait for has changed.
    has_news: bool,
}

impl<A: Authority> Machine<A> {
    /// A node that knows nothing and reaches nothing yet.
    ///
    /// Panics if the configuration is none that could ever have a majority, or the incarnation is 0.
    pub fn new(now_ns: u64, config: Config) -> Self {
        assert!(config.incarnation != Incarnation(0), "a life has a number");
        assert!(config.voters.count() % 2 == 1, "voters are two f and one");
        assert!(
            config.drives.covers(config.voters),
            "voters are drives of the array"
        );
        assert!(config.random < 1 << 24, "a key has room for 24 bits");
        Self {
            config,
            desk: Desk::default(),
            peers: Peers::default(),
            seq: 0,
            round: 0,
            up: DriveSet::EMPTY,
            unaudited: DriveSet::EMPTY,
            stale: DriveSet::EMPTY,
            record: None,
            outside: Outside::new(now_ns),
            inside: None,
            proposal: None,
            expelled: DriveSet::EMPTY,
            lease: None,
            wish: None,
            deviates_since_ns: None,
            waits_since_ns: 0,
            suspects: SlotSet::EMPTY,
            standing: Standing::Outside,
            halt: None,
            is_serving: false,
            next_beat_ns: now_ns,
            last_turn_ns: now_ns,
            has_news: true,
        }
    }

    /// Whether a completion, a cache hit or a lock grant may go out at this moment (I10).
    pub fn may_complete(&self, now_ns: u64) -> bool {
        let has_opened = self.inside.as_ref().is_some_and(Inside::has_opened);
        let lease = self.lease.as_ref();
        let is_member = self.standing == Standing::Member;
        is_member && has_opened && lease.is_some_and(|lease| lease.is_valid(now_ns))
    }

    /// Until when [`Self::may_complete`] says yes if nothing happens meanwhile; 0 if it says no.
    pub fn completes_until_ns(&self) -> u64 {
        let has_opened = self.inside.as_ref().is_some_and(Inside::has_opened);
        let is_member = self.standing == Standing::Member;
        let lease = self.lease.as_ref().filter(|_| is_member && has_opened);
        lease.map_or(0, Lease::valid_until_ns)
    }

    /// The newest decided record that is known.
    pub const fn record(&self) -> Option<&EpochRecord> {
        self.record.as_ref()
    }

    /// When [`Event::Tick`] is due if nothing else happens before.
    pub fn wake_at_ns(&self) -> u64 {
        let proposal = self.proposal.as_ref().and_then(A::wake_at_ns);
        let opens = self.inside.as_ref().and_then(Inside::opens_at_ns);
        let opens = opens.filter(|opens_ns| *opens_ns > self.last_turn_ns);
        [proposal, opens]
            .into_iter()
            .flatten()
            .fold(self.next_beat_ns, u64::min)
    }

    /// Advances the machine by one event; what has to be done goes to `out`, in order.
    ///
    /// Panics if time goes backwards, or at an answer to what was not asked.
    pub fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Action>) {
        self.turn(now_ns, out);
        match event {
            Event::Tick => {}
            Event::Answered {
                drive,
                ticket,
                answer,
            } => self.answered(now_ns, drive, ticket, answer, out),
            Event::Heard(said) => self.heard(now_ns, *said, out),
            Event::LinkLost(slot) => self.peers.lose(slot),
            Event::DriveUp(drive) => self.drive_up(drive, out),
            Event::DriveDown(drive) => {
                self.up = self.up.without(drive);
                self.unaudited = self.unaudited.without(drive);
                self.has_news = true;
            }
            Event::Preempted => {
                if self.inside.is_some() {
                    self.stop(Halt::Preempted(self.epoch()), out);
                }
            }
            Event::Format => self.outside.wants_format = true,
            Event::Leave => {
                if self.inside.is_some() && self.standing == Standing::Member {
                    out.push(Action::Drain);
                }
            }
            Event::Drained => {
                if self.inside.is_some() && self.halt.is_none() {
                    self.standing = Standing::Leaving;
                    self.has_news = true;
                }
            }
            Event::BarrierDone(epoch) => self.barrier_done(epoch),
            Event::Recovered(epoch) => self.recovered(epoch),
            Event::Configure(wish) => {
                self.stale = self.stale.minus(wish.drives);
                self.wish = Some(wish);
            }
        }
        self.advance(now_ns, out);
    }

    /// What has to be looked at in each turn before anything else.
    fn turn(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        assert!(now_ns >= self.last_turn_ns, "boot time does not go backwards");
        if now_ns - self.last_turn_ns > GAP_NS {
            self.peers.excuse(now_ns);
            self.outside.excuse(now_ns);
            self.deviates_since_ns = None;
        }
        self.last_turn_ns = now_ns;
        if let Some(lease) = &mut self.lease
            && self.halt.is_none()
        {
            let mut beats = Vec::new();
            lease.turn(now_ns, &mut beats);
            if lease.round() != self.round {
                // Others are to hear of a round before this node can be gone (`beats`).
                self.round = lease.round();
                self.next_beat_ns = now_ns;
            }
            for (drive, beat) in beats {
                self.desk
                    .ask(Purpose::Lease, drive, Command::WriteHeartbeat(beat), out);
            }
        }
    }

    /// Whatever follows from the state as it is.
    fn advance(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let is_beat = now_ns >= self.next_beat_ns;
        if self.halt.is_none() {
            if self.inside.is_some() {
                self.settle(now_ns, is_beat, out);
            } else {
                self.look(now_ns, is_beat, out);
            }
        }
        if self.halt.is_none() {
            self.consider(now_ns, out);
            self.note_suspects(now_ns, out);
            self.drive_proposal(now_ns, paxos::Event::Tick, out);
        }
        let may = self.may_complete(now_ns);
        if may != self.is_serving {
            self.is_serving = may;
            out.push(if may { Action::Resume } else { Action::Pause });
        }
        if is_beat || self.has_news {
            if is_beat {
                self.next_beat_ns = now_ns + HEARTBEAT_NS;
            }
            self.has_news = false;
            self.announce(now_ns, out);
        }
    }

    fn announce(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.seq += 1;
        let step = self.inside.as_ref().map_or(Step::Adopted, Inside::step);
        out.push(Action::Announce(Box::new(Announcement {
            array: self.config.array,
            slot: self.config.slot,
            incarnation: self.config.incarnation,
            seq: self.seq,
            standing: self.standing,
            step,
            random: self.config.random,
            round: self.round,
            reach: self.reach(),
            heard: self.peers.heard(now_ns),
            record: self.record.clone(),
        })));
    }

    fn heard(&mut self, now_ns: u64, said: Announcement, out: &mut Vec<Action>) {
        let is_own = said.slot == self.config.slot;
        if is_own || said.array != self.config.array || self.halt.is_some() {
            return;
        }
        let record = said.record.clone();
        let step = said.step;
        if !self.peers.hear(now_ns, said) {
            return;
        }
        if let Some(record) = record {
            let knows = record.epoch == self.epoch();
            if let Some(inside) = self.inside.as_mut().filter(|_| knows && step == Step::Open) {
                inside.is_known_open = true;
            }
            self.learn(now_ns, record, out);
        }
    }

    fn note_suspects(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let suspects = match (&self.record, &self.inside) {
            (Some(record), Some(_)) => record
                .slots()
                .minus(self.peers.heard(now_ns))
                .without(self.config.slot),
            (Some(_) | None, Some(_) | None) => SlotSet::EMPTY,
        };
        if suspects != self.suspects {
            self.suspects = suspects;
            out.push(Action::Suspect(suspects));
        }
    }

    fn drive_up(&mut self, drive: DriveIndex, out: &mut Vec<Action>) {
        self.has_news = true;
        let is_in_use = self
            .record
            .as_ref()
            .is_some_and(|record| record.drives.contains(drive));
        if is_in_use && self.inside.as_ref().is_some_and(Inside::has_opened) {
            // It may have forgotten who is registered (H04): it is reached when it has said so.
            self.unaudited = self.unaudited.with(drive);
            self.ask_report(drive, out);
        } else {
            self.up = self.up.with(drive);
        }
    }

    /// Passes a drive's answer to whoever waits for it.
    fn answered(
        &mut self,
        now_ns: u64,
        drive: DriveIndex,
        ticket: Ticket,
        answer: Answer,
        out: &mut Vec<Action>,
    ) {
        let Some(command) = self.desk.answered(drive, ticket, out) else {
            return;
        };
        if self.halt.is_some() {
            return;
        }
        let is_done = answer == Answer::Done;
        match ticket.purpose {
            Purpose::Paxos => self.proposal_answered(now_ns, drive, &command, answer, out),
            Purpose::Lease => self.beat_answered(drive, &answer, out),
            Purpose::Fence => self.fence_answered(now_ns, drive, answer, out),
            Purpose::Enrol => self.enrol_answered(drive, &command, is_done, out),
            Purpose::Audit => self.audit_answered(drive, answer, out),
            Purpose::Store => self.stored(drive, is_done),
            Purpose::Learn => self.quorum_read(now_ns, drive, answer, out),
            Purpose::Watch => self.heartbeats_read(now_ns, drive, answer),
        }
    }

    fn beat_answered(&mut self, drive: DriveIndex, answer: &Answer, out: &mut Vec<Action>) {
        let Some(lease) = &mut self.lease else { return };
        let answer = match answer {
            Answer::Done => lease::Answer::Written,
            Answer::Conflict => lease::Answer::Conflict,
            Answer::Interrupted
            | Answer::Failed
            | Answer::Quorum(_)
            | Answer::Heartbeats(_)
            | Answer::Report(_) => lease::Answer::Failed,
        };
        lease.answered(drive, answer);
        if lease.is_evicted() {
            self.stop(Halt::Fenced(self.epoch()), out);
        }
    }

    /// Stops for good, and says so.
    fn stop(&mut self, halt: Halt, out: &mut Vec<Action>) {
        if self.halt.is_some() {
            return;
        }
        // Whoever was to leave has left, also if drives are the first to say so.
        let is_wanted = self.standing == Standing::Leaving;
        let halt = match halt {
            Halt::Fenced(epoch) | Halt::Preempted(epoch) if is_wanted => Halt::Left(epoch.next()),
            Halt::LeftOut(epoch) if is_wanted => Halt::Left(epoch),
            Halt::LeftOut(_) | Halt::Fenced(_) | Halt::Preempted(_) | Halt::SlotTaken | Halt::Left(_) => halt,
        };
        self.halt = Some(halt);
        self.standing = Standing::Halted;
        self.proposal = None;
        for purpose in [
            Purpose::Paxos,
            Purpose::Lease,
            Purpose::Fence,
            Purpose::Enrol,
            Purpose::Audit,
            Purpose::Store,
            Purpose::Learn,
            Purpose::Watch,
        ] {
            self.desk.forget(purpose);
        }
        self.has_news = true;
        out.push(Action::Halt(halt));
    }

    fn epoch(&self) -> Epoch {
        self.record.as_ref().map_or(Epoch(0), |record| record.epoch)
    }

    /// Drives that are reached and trusted.
    fn reach(&self) -> DriveSet {
        self.up.minus(self.stale)
    }

    fn rules(&self, drives: DriveSet) -> choice::Rules<'_> {
        choice::Rules {
            drives,
            voters: self.config.voters,
            needs: &self.config.needs,
        }
    }

    /// For people.
    pub fn status(&self, now_ns: u64) -> Status {
        let record = self.record.as_ref();
        let drives = record.map_or(DriveSet::EMPTY, |record| record.drives);
        let stage = match (self.halt, &self.inside) {
            (Some(_), _) => Stage::Halted,
            (None, Some(_)) if self.standing == Standing::Leaving => Stage::Leaving,
            (None, Some(inside)) if inside.step() == Step::Open => Stage::Open,
            (None, Some(_)) => Stage::Settling,
            (None, None) if !self.outside.has_read_majority(self.config.voters) => Stage::Reading,
            (None, None) if record.is_none() => Stage::Blank,
            (None, None) => Stage::Outside,
        };
        let in_use = record.map_or(self.config.drives, |record| record.drives);
        Status {
            stage,
            epoch: self.epoch(),
            members: record.map_or_else(Vec::new, |record| record.members.clone()),
            silent: self.suspects,
            drives,
            voters: self.config.voters,
            reach: self.reach(),
            stale: self.stale,
            lease_left_ns: self.lease.as_ref().map_or(0, |lease| lease.left_ns(now_ns)),
            blocked: choice::blocked(self.rules(in_use), self.reach()),
            halt: self.halt,
        }
    }
}
