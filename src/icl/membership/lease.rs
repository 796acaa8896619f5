//! The lease: what a node may still say when nobody can reach it any more (PROTOCOL H05, H06).
//!
//! A heartbeat is written to every voter, under the voter's reservation. A lease lasts [`LEASE_NS`] from the moment at which the heartbeats
//! of a majority were *issued*: whoever has fenced a majority knows that every heartbeat that counts was issued before that, or before
//! it heard of it ([`super::beats`]), and waits for as long as such a lease can last, and a tenth more for clocks that run apart.
//!
//! A lapse pauses service, and the next renewal ends it. After a gap between two turns of the loop only heartbeats that were issued
//! after it count, because the answers of older ones may have lain there for any time. A conflict is an eviction, for good.

use super::record::Heartbeat;
use super::times::{GAP_NS, HEARTBEAT_NS, LEASE_NS};
use super::{DriveIndex, DriveSet, Epoch, Incarnation, Slot, majority};

/// How a drive answered a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is on stable media.
    Written,
    /// Reservation conflict: this node was fenced.
    Conflict,
    /// It may have been written or not.
    Failed,
}

/// One voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Voter {
    drive: DriveIndex,
    /// When the heartbeat was issued that is not answered.
    pending_ns: Option<u64>,
    /// When the last heartbeat was issued that was written.
    written_ns: Option<u64>,
}

/// The lease of one life of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    slot: Slot,
    incarnation: Incarnation,
    epoch: Epoch,
    voters: Vec<Voter>,
    /// Voters that get heartbeats; the others count as not renewed.
    drives: DriveSet,
    /// The round of heartbeats that was issued last.
    round: u64,
    next_beat_ns: u64,
    last_turn_ns: u64,
    /// Heartbeats that were issued earlier do not count.
    fresh_ns: u64,
    is_evicted: bool,
}

impl Lease {
    /// A lease that is not valid before a first round of heartbeats, which the next [`Self::turn`] sends.
    ///
    /// Panics if nobody votes.
    pub fn new(now_ns: u64, slot: Slot, incarnation: Incarnation, epoch: Epoch, voters: DriveSet) -> Self {
        assert!(!voters.is_empty(), "somebody votes");
        let voter = |drive| Voter {
            drive,
            pending_ns: None,
            written_ns: None,
        };
        Self {
            slot,
            incarnation,
            epoch,
            voters: voters.iter().map(voter).collect(),
            drives: voters,
            round: 0,
            next_beat_ns: now_ns,
            last_turn_ns: now_ns,
            fresh_ns: now_ns,
            is_evicted: false,
        }
    }

    /// Heartbeats are of this epoch from now on.
    ///
    /// Panics if it is an older one.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        assert!(epoch >= self.epoch, "epochs only grow");
        self.epoch = epoch;
    }

    /// Only these voters get heartbeats from now on: drives in use, on which this node is registered. A majority of all voters still is
    /// what it takes.
    pub const fn set_drives(&mut self, drives: DriveSet) {
        self.drives = drives;
    }

    /// One turn of the loop: heartbeats that are due go to `out`. A voter that has not answered the last one gets none.
    ///
    /// To be called in every turn, before anything is completed in it. Panics if time goes backwards.
    pub fn turn(&mut self, now_ns: u64, out: &mut Vec<(DriveIndex, Heartbeat)>) {
        assert!(now_ns >= self.last_turn_ns, "boot time does not go backwards");
        if now_ns - self.last_turn_ns > GAP_NS {
            self.fresh_ns = now_ns;
            self.next_beat_ns = now_ns;
        }
        self.last_turn_ns = now_ns;
        if now_ns < self.next_beat_ns || self.is_evicted {
            return;
        }
        self.next_beat_ns = now_ns + HEARTBEAT_NS;
        self.round += 1;
        let heartbeat = Heartbeat {
            slot: self.slot,
            incarnation: self.incarnation,
            epoch: self.epoch,
            seq: self.round,
        };
        for voter in &mut self.voters {
            if voter.pending_ns.is_none() && self.drives.contains(voter.drive) {
                voter.pending_ns = Some(now_ns);
                out.push((voter.drive, heartbeat));
            }
        }
    }

    /// A voter has answered its heartbeat.
    ///
    /// Panics if it had none to answer.
    pub fn answered(&mut self, drive: DriveIndex, answer: Answer) {
        let mut voters = self.voters.iter_mut();
        let voter = voters.find(|voter| voter.drive == drive);
        let voter = voter.expect("only voters get heartbeats");
        let issued_ns = voter.pending_ns.take().expect("a heartbeat is answered once");
        match answer {
            Answer::Written => voter.written_ns = Some(issued_ns),
            Answer::Conflict => self.is_evicted |= self.drives.contains(drive),
            Answer::Failed => {}
        }
    }

    /// Until when the lease is valid if nothing happens meanwhile, not even a turn; 0 if it is not.
    pub fn valid_until_ns(&self) -> u64 {
        let begin = self.begin_ns().filter(|begin_ns| *begin_ns >= self.fresh_ns);
        let begin = begin.filter(|_| !self.is_evicted);
        begin.map_or(0, |begin_ns| {
            (begin_ns + LEASE_NS).min(self.last_turn_ns + GAP_NS)
        })
    }

    /// Whether something may be completed at this moment, also between two turns.
    pub fn is_valid(&self, now_ns: u64) -> bool {
        self.left_ns(now_ns) > 0
    }

    /// How long the lease lasts from now on; 0 if it is not valid.
    pub fn left_ns(&self, now_ns: u64) -> u64 {
        let has_gap = now_ns.saturating_sub(self.last_turn_ns) > GAP_NS;
        if self.is_evicted || has_gap {
            return 0;
        }
        let begin = self.begin_ns().filter(|begin_ns| *begin_ns >= self.fresh_ns);
        begin.map_or(0, |begin_ns| (begin_ns + LEASE_NS).saturating_sub(now_ns))
    }

    /// The same lease for a life that has issued so many rounds with an earlier one: a life counts up.
    #[must_use]
    pub const fn after(mut self, round: u64) -> Self {
        self.round = round;
        self
    }

    /// The round of heartbeats that was issued last; 0 before the first.
    pub const fn round(&self) -> u64 {
        self.round
    }

    /// Whether a conflict has ended it for good.
    pub const fn is_evicted(&self) -> bool {
        self.is_evicted
    }

    /// When the next turn has something to send.
    pub const fn wake_at_ns(&self) -> u64 {
        self.next_beat_ns
    }

    /// The latest moment such that a majority has a heartbeat that was issued then or later.
    fn begin_ns(&self) -> Option<u64> {
        let mut written: Vec<Option<u64>> = self.voters.iter().map(|voter| voter.written_ns).collect();
        written.sort_unstable_by(|one, other| other.cmp(one));
        let count = u32::try_from(written.len()).expect("at most 64 drives");
        written[majority(count) as usize - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn drive(number: u8) -> DriveIndex {
        DriveIndex::new(number).unwrap()
    }

    fn lease() -> Lease {
        Lease::new(
            0,
            Slot::new(1).unwrap(),
            Incarnation(5),
            Epoch(2),
            DriveSet(0b111),
        )
    }

    fn turn(lease: &mut Lease, now_ns: u64) -> usize {
        let mut out = Vec::new();
        lease.turn(now_ns, &mut out);
        out.len()
    }

    /// A lease that was renewed on two of three voters at time 0.
    fn held() -> Lease {
        let mut lease = lease();
        assert_eq!(turn(&mut lease, 0), 3);
        assert!(!lease.is_valid(0), "nobody has answered");
        lease.answered(drive(0), Answer::Written);
        assert!(!lease.is_valid(0), "one of three is no majority");
        lease.answered(drive(2), Answer::Written);
        assert!(lease.is_valid(0));
        lease
    }

    #[test]
    fn it_counts_from_the_issue_and_ends_by_itself() {
        let mut lease = lease();
        turn(&mut lease, 0);
        turn(&mut lease, 900 * MS);
        lease.answered(drive(0), Answer::Written);
        lease.answered(drive(1), Answer::Written);
        assert_eq!(lease.left_ns(900 * MS), LEASE_NS - 900 * MS);
        turn(&mut lease, 1_800 * MS);
        assert!(lease.is_valid(1_999 * MS));
        assert!(!lease.is_valid(2_000 * MS));
    }

    #[test]
    fn a_voter_that_does_not_answer_gets_no_second_heartbeat() {
        let mut lease = held();
        assert_eq!(turn(&mut lease, 100 * MS), 0, "not due yet");
        assert_eq!(turn(&mut lease, 250 * MS), 2);
        assert_eq!(turn(&mut lease, 500 * MS), 0);
        lease.answered(drive(1), Answer::Failed);
        assert_eq!(turn(&mut lease, 750 * MS), 1);
    }

    #[test]
    fn after_a_gap_only_a_fresh_round_counts() {
        let mut lease = held();
        turn(&mut lease, 250 * MS);
        let now = 250 * MS + GAP_NS + 1;
        assert!(!lease.is_valid(now), "also before the turn");
        turn(&mut lease, now);
        lease.answered(drive(0), Answer::Written);
        lease.answered(drive(2), Answer::Written);
        assert!(!lease.is_valid(now), "these were issued before the gap");
        assert_eq!(turn(&mut lease, now + 250 * MS), 2);
        lease.answered(drive(0), Answer::Written);
        lease.answered(drive(2), Answer::Written);
        assert!(
            lease.is_valid(now + 250 * MS),
            "a lapse is over with the next renewal"
        );
    }

    #[test]
    fn a_conflict_ends_it_for_good() {
        let mut lease = held();
        turn(&mut lease, 250 * MS);
        lease.answered(drive(0), Answer::Written);
        lease.answered(drive(1), Answer::Conflict);
        lease.answered(drive(2), Answer::Written);
        assert!(lease.is_evicted() && !lease.is_valid(250 * MS));
        assert_eq!(turn(&mut lease, 500 * MS), 0);
    }

    #[test]
    fn heartbeats_count_up_and_name_their_epoch() {
        let mut lease = lease();
        let mut out = Vec::new();
        lease.turn(0, &mut out);
        lease.set_epoch(Epoch(3));
        for number in 0..3 {
            lease.answered(drive(number), Answer::Written);
        }
        lease.turn(HEARTBEAT_NS, &mut out);
        let told: Vec<_> = out.iter().map(|(_, beat)| (beat.epoch.0, beat.seq)).collect();
        assert_eq!(told, [(2, 1), (2, 1), (2, 1), (3, 2), (3, 2), (3, 2)]);
    }
}
