//! A node that is no member: it reads what was decided last, watches whether anyone is alive, asks to be admitted, and if
//! all are dead starts the array together with whoever else is there.
//!
//! Watching is a matter of manners: safety rests on the decision, the fence and the wait alone. A node that starts the array although
//! somebody is alive would only evict it.

use std::collections::BTreeMap;

use super::{Action, Answer, Command, Machine, Purpose};
use crate::icl::membership::authority::Authority;
use crate::icl::membership::message::Standing;
use crate::icl::membership::times::{BOOT_NS, DEAD_NS};
use crate::icl::membership::{DriveIndex, DriveSet, Incarnation, Slot};

/// What is known from outside.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    /// Voters whose records were read.
    read: DriveSet,
    /// Whether any of them had one.
    has_records: bool,
    /// Since when there is no sign of life.
    quiet_since_ns: u64,
    /// The last heartbeat that was seen, by voter and slot.
    beats: BTreeMap<(DriveIndex, Slot), (Incarnation, u64)>,
    /// The operator wants a new array.
    pub(super) wants_format: bool,
}

impl Outside {
    pub(super) const fn new(now_ns: u64) -> Self {
        Self {
            read: DriveSet::EMPTY,
            has_records: false,
            quiet_since_ns: now_ns,
            beats: BTreeMap::new(),
            wants_format: false,
        }
    }

    /// This node has not run for a while: what others did meanwhile was not seen.
    pub(super) const fn excuse(&mut self, now_ns: u64) {
        self.quiet_since_ns = now_ns;
    }

    pub(super) const fn has_read_majority(&self, voters: DriveSet) -> bool {
        self.read.has_majority_of(voters)
    }
}

impl<A: Authority> Machine<A> {
    /// Whether these voters were read and none of them has a record: nobody has ever begun an epoch on them.
    pub fn has_found_blank(&self, voters: DriveSet) -> bool {
        !self.outside.has_records && self.outside.read.covers(voters)
    }

    /// Whether it was asked to begin the first epoch of a new array.
    pub const fn wants_format(&self) -> bool {
        self.outside.wants_format
    }

    /// What a node that is no member does in each turn.
    pub(super) fn look(&mut self, now_ns: u64, is_beat: bool, out: &mut Vec<Action>) {
        let lives = |standing| matches!(standing, Standing::Member | Standing::Leaving);
        let is_alive = self.peers.fresh(now_ns).any(|said| lives(said.standing));
        if is_alive || !self.outside.has_read_majority(self.config.voters) {
            self.outside.quiet_since_ns = now_ns;
        }
        if is_beat {
            for drive in self.up.and(self.config.voters).iter() {
                self.ask_if_idle(Purpose::Learn, drive, Command::ReadQuorum, out);
                self.ask_if_idle(Purpose::Watch, drive, Command::ReadHeartbeats, out);
            }
        }
    }

    /// Whether the array is to be started by those that are outside: nobody was alive for long enough.
    pub(super) fn may_start(&self, now_ns: u64) -> bool {
        if !self.outside.has_read_majority(self.config.voters) {
            return false;
        }
        let Some(record) = &self.record else {
            return self.outside.wants_format;
        };
        let quiet_ns = now_ns - self.outside.quiet_since_ns;
        let here = self.peers.heard(now_ns).with(self.config.slot);
        let is_complete = here.covers(record.slots());
        quiet_ns >= 2 * DEAD_NS + if is_complete { 0 } else { BOOT_NS }
    }

    pub(super) fn ask_if_idle(
        &mut self,
        purpose: Purpose,
        drive: DriveIndex,
        command: Command,
        out: &mut Vec<Action>,
    ) {
        if self.desk.is_idle(purpose, drive) {
            self.desk.ask(purpose, drive, command, out);
        }
    }

    /// Decided records were read.
    pub(super) fn quorum_read(
        &mut self,
        now_ns: u64,
        drive: DriveIndex,
        answer: Answer,
        out: &mut Vec<Action>,
    ) {
        let Answer::Quorum(quorum) = answer else { return };
        self.outside.read = self.outside.read.with(drive);
        self.outside.has_records |= !quorum.is_blank();
        if let Some(inside) = &mut self.inside {
            inside.note_read(drive);
        }
        if let Some(newest) = quorum.newest() {
            self.learn(now_ns, newest.clone(), out);
        }
    }

    /// Heartbeats were read: one that has changed is a sign of life.
    pub(super) fn heartbeats_read(&mut self, now_ns: u64, drive: DriveIndex, answer: Answer) {
        let Answer::Heartbeats(beats) = answer else {
            return;
        };
        for beat in beats {
            let seen = (beat.incarnation, beat.seq);
            let last = self.outside.beats.insert((drive, beat.slot), seen);
            if last.is_some_and(|last| last != seen) {
                self.outside.quiet_since_ns = now_ns;
            }
        }
    }

    /// The array has changed while this node was outside: whoever decided that is alive, or was until now.
    pub(super) const fn watch_again(&mut self, now_ns: u64) {
        self.outside.quiet_since_ns = now_ns;
    }
}
