//! A member of a decided epoch: stores the record, registers, fences, waits for the victims' leases, compares the registrants, has the
//! locks reported, recovers, and opens.
//!
//! The leader fences and calls each step; the others follow what it announces. If it dies on the way the next epoch has another one,
//! and the victims of this epoch are victims of that one, too, as long as nobody has seen this one open.

use nvme::reservation::{Command as Reservation, Report};

use super::{Action, Answer, Command, Machine, Purpose};
use crate::icl::membership::authority::Authority;
use crate::icl::membership::choice;
use crate::icl::membership::fence::{self, Fence, RESERVATION};
use crate::icl::membership::lease::Lease;
use crate::icl::membership::message::{Standing, Step};
use crate::icl::membership::record::{EpochRecord, Member};
use crate::icl::membership::status::Halt;
use crate::icl::membership::times::LEASE_WAIT_NS;
use crate::icl::membership::{DriveIndex, DriveSet, Epoch, Incarnation, Slot};

/// Turns of the loop that a settlement takes at once: more than there are steps.
const STEPS_MAX: usize = 10;

/// What the opening of an epoch awaits, beside the leader's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Nothing was asked of the array management function.
    Nothing,
    /// It reports its locks.
    Report,
    /// It recovers.
    Recovery,
    /// It has recovered.
    Recovered,
}

/// A member's part in its record.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    own: Member,
    is_leader: bool,
    step: Step,
    /// Drives that keep the own copy of the record.
    stored: DriveSet,
    /// Drives on which the own key is registered.
    enrolled: DriveSet,
    fence: Option<Fence>,
    /// The leader compares the registrants: these drives agree.
    audited: Option<DriveSet>,
    /// Voters whose decided records were read since the comparison began.
    read: DriveSet,
    wait: Wait,
    opens_at_ns: Option<u64>,
    /// Some epoch has been open for this life.
    has_opened: bool,
    /// Somebody has opened this epoch: nobody of its victims is left.
    pub(super) is_known_open: bool,
}

impl Inside {
    fn new(record: &EpochRecord, own: Member, before: Option<&Self>) -> Self {
        let kept = before.filter(|_| !record.fence_all);
        Self {
            own,
            is_leader: record.senior_leader().slot == own.slot,
            step: Step::Adopted,
            stored: DriveSet::EMPTY,
            enrolled: kept.map_or(DriveSet::EMPTY, |before| before.enrolled),
            fence: None,
            audited: None,
            read: DriveSet::EMPTY,
            wait: Wait::Nothing,
            opens_at_ns: None,
            has_opened: before.is_some_and(|before| before.has_opened),
            is_known_open: false,
        }
    }

    pub(super) const fn step(&self) -> Step {
        self.step
    }

    pub(super) const fn has_opened(&self) -> bool {
        self.has_opened
    }

    pub(super) const fn opens_at_ns(&self) -> Option<u64> {
        self.opens_at_ns
    }

    /// Drives that confirmed no fence.
    pub(super) fn unfenced(&self) -> DriveSet {
        self.fence.as_ref().map_or(DriveSet::EMPTY, Fence::failed)
    }

    pub(super) const fn note_read(&mut self, drive: DriveIndex) {
        self.read = self.read.with(drive);
    }
}

impl<A: Authority> Machine<A> {
    /// Takes in a decided record, if it is newer than the own one.
    pub(super) fn learn(&mut self, now_ns: u64, record: EpochRecord, out: &mut Vec<Action>) {
        if record.epoch <= self.epoch() || record.voters != self.config.voters {
            return;
        }
        let own = record.member(self.config.slot).copied();
        let own = own.filter(|own| own.incarnation == self.config.incarnation);
        if self
            .proposal
            .as_ref()
            .is_some_and(|proposal| proposal.instance() <= record.epoch)
        {
            self.end_proposal();
        }
        self.deviates_since_ns = None;
        self.has_news = true;
        self.wish = self.wish.filter(|wish| !wish.is_met_by(&record));
        let Some(own) = own else {
            self.record = Some(record);
            if self.inside.is_some() {
                self.left_out(out);
            } else {
                self.watch_again(now_ns);
            }
            return;
        };
        for purpose in [Purpose::Fence, Purpose::Enrol, Purpose::Audit, Purpose::Store] {
            self.desk.forget(purpose);
        }
        if record.fence_all {
            // The leader takes everyone's registration first; heartbeats begin again with the new one.
            self.desk.forget(Purpose::Lease);
            self.lease = None;
        }
        self.unaudited = DriveSet::EMPTY;
        let added = self
            .record
            .as_ref()
            .map_or(DriveSet::EMPTY, |old| record.drives.minus(old.drives));
        self.stale = self.stale.minus(added);
        self.inside = Some(Inside::new(&record, own, self.inside.as_ref()));
        if self.standing == Standing::Outside {
            self.standing = Standing::Member;
        }
        if let Some(lease) = &mut self.lease {
            lease.set_epoch(record.epoch);
        }
        out.push(Action::Decided(Box::new(record.clone())));
        self.record = Some(record);
        self.store(out);
    }

    /// A record was decided without this member.
    fn left_out(&mut self, out: &mut Vec<Action>) {
        let epoch = self.epoch();
        self.inside = None;
        // Whoever leads the epoch takes the registration, for only that waits for what is still on its way.
        self.stop(Halt::LeftOut(epoch), out);
    }

    /// Writes the own copy of the record to the voters that do not have it.
    fn store(&mut self, out: &mut Vec<Action>) {
        let (Some(record), Some(inside)) = (&self.record, &self.inside) else {
            return;
        };
        let record = record.clone();
        for drive in record.voters.and(self.up).minus(inside.stored).iter() {
            self.ask_if_idle(Purpose::Store, drive, Command::WriteDecided(record.clone()), out);
        }
    }

    pub(super) const fn stored(&mut self, drive: DriveIndex, is_done: bool) {
        if let Some(inside) = &mut self.inside
            && is_done
        {
            inside.stored = inside.stored.with(drive);
        }
    }

    /// What a member does in each turn; what failed is tried again with each beat.
    pub(super) fn settle(&mut self, now_ns: u64, is_beat: bool, out: &mut Vec<Action>) {
        if is_beat {
            self.store(out);
            self.enrol(out);
            for drive in self.up.and(self.config.voters).iter() {
                self.ask_if_idle(Purpose::Learn, drive, Command::ReadQuorum, out);
            }
            for drive in self.unaudited.iter() {
                self.ask_report(drive, out);
            }
            self.audit(out);
            self.fence_again(out);
        }
        for _ in 0..STEPS_MAX {
            let Some(before) = self.inside.as_ref().map(|inside| (inside.step, inside.wait)) else {
                return;
            };
            self.settle_step(now_ns, out);
            let after = self.inside.as_ref().map(|inside| (inside.step, inside.wait));
            if self.halt.is_some() || after == Some(before) {
                return;
            }
            self.has_news = true;
        }
        unreachable!("an epoch has fewer steps");
    }

    fn settle_step(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let inside = self.inside.as_ref().expect("members settle");
        if !inside.stored.has_majority_of(self.config.voters) {
            return;
        }
        match inside.step {
            Step::Adopted if inside.is_leader => self.lead_fence(now_ns, out),
            Step::Adopted => self.follow_fence(out),
            Step::Registered => self.pass_registered(now_ns, out),
            Step::Barrier => {}
            Step::Reported => self.pass_reported(now_ns, out),
            Step::Open => self.leave_last(out),
        }
    }

    fn parts(&mut self) -> (&EpochRecord, &mut Inside) {
        let record = self.record.as_ref().expect("a member has a record");
        (record, self.inside.as_mut().expect("members settle"))
    }

    fn lead_fence(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let slot = self.config.slot;
        let killers = self.config.killers;
        let (record, inside) = self.parts();
        if !record.fence_all && !inside.enrolled.covers(record.drives) {
            return self.enrol(out);
        }
        let Some(fence) = &inside.fence else {
            let mut fence = Fence::new(record, slot, killers);
            let mut asks = Vec::new();
            fence.begin(now_ns, &mut asks);
            inside.fence = Some(fence);
            self.ask_fence(asks, out);
            return self.lead_fence(now_ns, out);
        };
        if fence.is_complete() {
            let lease_ns = self.last_lease_ns();
            let (record, inside) = self.parts();
            inside.enrolled = record.drives;
            inside.step = Step::Registered;
            inside.opens_at_ns = lease_ns.map(|begun_ns| begun_ns + LEASE_WAIT_NS);
            self.set_lease_drives();
        }
    }

    /// The latest moment at which a lease can have begun that somebody holds whom this record has fenced; `None` if nobody has one.
    fn last_lease_ns(&self) -> Option<u64> {
        let (record, inside) = (self.record.as_ref()?, self.inside.as_ref()?);
        let fence = inside.fence.as_ref()?;
        let majority_ns = fence
            .majority_ns()
            .expect("all drives are a majority of the voters");
        if record.fence_all {
            return (record.epoch > Epoch(1)).then_some(majority_ns);
        }
        let victims = record.victims.iter().filter(|one| !self.peers.has_halted(one));
        let begun_ns = |victim: &Member| {
            let issued_ns = self
                .peers
                .beats(victim)?
                .issued_before_ns(fence.last_round(victim)?)?;
            Some(issued_ns.min(majority_ns))
        };
        victims
            .map(|victim| begun_ns(victim).unwrap_or(majority_ns))
            .max()
    }

    /// If there is no going on without the drives that could not be fenced, they are tried again.
    fn fence_again(&mut self, out: &mut Vec<Action>) {
        let is_blocked = choice::blocked(self.rules(self.drives_wanted()), self.reach()).is_some();
        let fence = self.inside.as_mut().and_then(|inside| inside.fence.as_mut());
        if let Some(fence) = fence.filter(|_| is_blocked) {
            let mut asks = Vec::new();
            fence.retry(&mut asks);
            self.ask_fence(asks, out);
        }
    }

    fn ask_fence(&mut self, asks: Vec<(DriveIndex, fence::Ask)>, out: &mut Vec<Action>) {
        for (drive, ask) in asks {
            let command = match (ask.reservation(), ask) {
                (Some(reservation), _) => Command::Reserve(reservation),
                (None, fence::Ask::ReadCertificates) => Command::ReadQuorum,
                (None, fence::Ask::ReadHeartbeats) => Command::ReadHeartbeats,
                (None, fence::Ask::WriteCertificate(certificate)) => Command::WriteCertificate(certificate),
                (None, fence::Ask::Kill(slot, incarnation)) => Command::Kill(slot, incarnation),
                (
                    None,
                    fence::Ask::Register(_)
                    | fence::Ask::Acquire(_)
                    | fence::Ask::PreemptAndAbort { .. }
                    | fence::Ask::Report,
                ) => unreachable!("these are reservation commands"),
            };
            self.desk.ask(Purpose::Fence, drive, command, out);
        }
    }

    pub(super) fn fence_answered(
        &mut self,
        now_ns: u64,
        drive: DriveIndex,
        answer: Answer,
        out: &mut Vec<Action>,
    ) {
        let Some(fence) = self.inside.as_mut().and_then(|inside| inside.fence.as_mut()) else {
            return;
        };
        let answer = match answer {
            Answer::Done => fence::Answer::Done,
            Answer::Conflict => fence::Answer::Conflict,
            Answer::Interrupted => fence::Answer::Interrupted,
            Answer::Failed => fence::Answer::Failed,
            Answer::Heartbeats(beats) => fence::Answer::Heartbeats(beats),
            Answer::Quorum(quorum) => fence::Answer::Certificates(quorum.certificates),
            Answer::Report(report) => fence::Answer::of_report(&report),
        };
        let mut asks = Vec::new();
        fence.answered(now_ns, drive, answer, &mut asks);
        if fence.is_evicted() {
            return self.stop(Halt::Fenced(self.epoch()), out);
        }
        self.ask_fence(asks, out);
    }

    fn follow_fence(&mut self, out: &mut Vec<Action>) {
        let (record, inside) = self.parts();
        if inside.enrolled.covers(record.drives) {
            inside.step = Step::Registered;
            self.set_lease_drives();
        } else {
            self.enrol(out);
        }
    }

    /// Registers on drives in use where the own key is not registered. After everyone was fenced it waits for the leader's certificates.
    fn enrol(&mut self, out: &mut Vec<Action>) {
        let (Some(record), Some(inside)) = (&self.record, &self.inside) else {
            return;
        };
        let lead = self.peers.step(record.senior_leader(), record);
        if record.fence_all && (inside.is_leader || lead.is_none_or(|step| step < Step::Registered)) {
            return;
        }
        let key = inside.own.key;
        for drive in record.drives.and(self.up).minus(inside.enrolled).iter() {
            if self.desk.is_idle(Purpose::Enrol, drive) {
                let register = fence::Ask::Register(key).reservation();
                let register = register.expect("it is a reservation command");
                self.desk
                    .ask(Purpose::Enrol, drive, Command::Reserve(register), out);
            }
        }
    }

    pub(super) fn enrol_answered(
        &mut self,
        drive: DriveIndex,
        command: &Command,
        is_done: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(inside) = self.inside.as_mut().filter(|_| is_done) else {
            return;
        };
        if matches!(command, Command::Reserve(Reservation::Acquire { .. })) {
            inside.enrolled = inside.enrolled.with(drive);
            return;
        }
        let acquire = fence::Ask::Acquire(inside.own.key).reservation();
        let acquire = acquire.expect("it is a reservation command");
        self.desk
            .ask(Purpose::Enrol, drive, Command::Reserve(acquire), out);
    }

    /// Heartbeats go to the voters in use.
    fn set_lease_drives(&mut self) {
        let drives = self
            .record
            .as_ref()
            .map_or(DriveSet::EMPTY, |record| record.drives);
        if let Some(lease) = &mut self.lease {
            lease.set_drives(drives);
        }
    }

    /// Everyone else has come at least so far with this record.
    fn all_are_at(&self, step: Step) -> bool {
        let record = self.record.as_ref().expect("a member has a record");
        let mut others = record
            .members
            .iter()
            .filter(|member| member.slot != self.config.slot);
        others.all(|member| self.peers.step(member, record).is_some_and(|their| their >= step))
    }

    fn pass_registered(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let (record, inside) = (self.record.as_ref(), self.inside.as_ref());
        let (record, inside) = (record.expect("a member has one"), inside.expect("members settle"));
        if !inside.is_leader {
            let lead = self.peers.step(record.senior_leader(), record);
            if lead.is_some_and(|step| step >= Step::Barrier) {
                self.begin_barrier(now_ns, out);
            }
            return;
        }
        let have_all_halted =
            !record.fence_all && record.victims.iter().all(|one| self.peers.has_halted(one));
        let is_over = have_all_halted || inside.opens_at_ns.is_none_or(|opens_ns| now_ns >= opens_ns);
        if !is_over || !self.all_are_at(Step::Registered) {
            return;
        }
        let (drives, voters) = (record.drives, self.config.voters);
        match inside.audited {
            None => {
                self.desk.forget(Purpose::Learn);
                let (_, inside) = self.parts();
                inside.audited = Some(DriveSet::EMPTY);
                inside.read = DriveSet::EMPTY;
                self.audit(out);
                for drive in voters.and(self.up).iter() {
                    self.ask_if_idle(Purpose::Learn, drive, Command::ReadQuorum, out);
                }
            }
            Some(audited) if audited.covers(drives) && inside.read.has_majority_of(voters) => {
                self.begin_barrier(now_ns, out);
            }
            Some(_) => {}
        }
    }

    /// The leader compares the registrants of all drives in use.
    fn audit(&mut self, out: &mut Vec<Action>) {
        let (Some(record), Some(inside)) = (&self.record, &self.inside) else {
            return;
        };
        if let Some(audited) = inside.audited
            && inside.step == Step::Registered
        {
            for drive in record.drives.and(self.up).minus(audited).iter() {
                self.ask_report(drive, out);
            }
        }
    }

    pub(super) fn ask_report(&mut self, drive: DriveIndex, out: &mut Vec<Action>) {
        let report = fence::Ask::Report.reservation();
        let report = Command::Reserve(report.expect("it is a reservation command"));
        self.ask_if_idle(Purpose::Audit, drive, report, out);
    }

    /// A drive has reported its registrants, or removed one that ought not to be there.
    pub(super) fn audit_answered(&mut self, drive: DriveIndex, answer: Answer, out: &mut Vec<Action>) {
        match answer {
            Answer::Report(report) => self.compare(drive, &report, out),
            Answer::Done | Answer::Conflict => self.ask_report(drive, out),
            Answer::Interrupted | Answer::Failed | Answer::Quorum(_) | Answer::Heartbeats(_) => {}
        }
    }

    fn compare(&mut self, drive: DriveIndex, report: &Report, out: &mut Vec<Action>) {
        let (record, inside) = self.parts();
        let own = inside.own.key;
        let has = |member: &Member| report.registrants.iter().any(|one| one.key == member.key);
        // As long as the epoch settles, others may not have registered yet.
        let is_settled = inside.step == Step::Open || inside.audited.is_some();
        let missing = record.members.iter().filter(|member| !has(member)).count();
        let has_forgotten = missing == record.members.len() || (is_settled && missing > 0);
        let is_member = |key| record.members.iter().any(|member| member.key == key);
        let mut extra = report
            .registrants
            .iter()
            .map(|one| one.key)
            .filter(|key| !is_member(*key));
        // A key of a later epoch belongs to somebody who knows more: what was decided is read with each beat.
        let leftover = extra
            .clone()
            .find(|key| Slot::of_key(*key).is_none_or(|(admission, _)| admission <= record.epoch));
        let is_behind = extra.any(|key| Some(key) != leftover);
        let own_is_missing = report.registrants.iter().all(|one| one.key != own);
        if own_is_missing && missing < record.members.len() {
            return self.stop(Halt::Fenced(self.epoch()), out);
        }
        if has_forgotten || report.kind != Some(RESERVATION) {
            self.unaudited = self.unaudited.without(drive);
            self.up = self.up.with(drive);
            if !self.stale.contains(drive) {
                self.stale = self.stale.with(drive);
                out.push(Action::DriveStale(drive));
            }
            self.has_news = true;
            return;
        }
        if let Some(leftover) = leftover {
            // It registered after it was fenced, with a command that had been on its way.
            let preempt = fence::Ask::PreemptAndAbort {
                current: own,
                victim: leftover,
            };
            let preempt = preempt.reservation().expect("it is a reservation command");
            return self
                .desk
                .ask(Purpose::Audit, drive, Command::Reserve(preempt), out);
        }
        if is_behind {
            return;
        }
        if let Some(audited) = &mut inside.audited {
            *audited = audited.with(drive);
        }
        if self.unaudited.contains(drive) {
            self.unaudited = self.unaudited.without(drive);
            self.up = self.up.with(drive);
            self.has_news = true;
        }
    }

    fn begin_barrier(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let (slot, incarnation): (Slot, Incarnation) = (self.config.slot, self.config.incarnation);
        let (epoch, voters) = (self.epoch(), self.config.voters);
        let (_, inside) = self.parts();
        assert_eq!(
            inside.step,
            Step::Registered,
            "locks are reported by who is registered"
        );
        inside.step = Step::Barrier;
        inside.wait = Wait::Report;
        inside.opens_at_ns = None;
        if self.lease.is_none() {
            let lease = Lease::new(now_ns, slot, incarnation, epoch, voters);
            self.lease = Some(lease.after(self.round));
        }
        self.set_lease_drives();
        out.push(Action::Barrier(epoch));
    }

    /// The locks of this epoch are reported.
    pub(super) fn barrier_done(&mut self, epoch: Epoch) {
        if epoch == self.epoch()
            && let Some(inside) = &mut self.inside
            && inside.wait == Wait::Report
        {
            inside.step = Step::Reported;
            inside.wait = Wait::Nothing;
            self.has_news = true;
        }
    }

    /// What was under way is recovered.
    pub(super) fn recovered(&mut self, epoch: Epoch) {
        if epoch == self.epoch()
            && let Some(inside) = &mut self.inside
            && inside.wait == Wait::Recovery
        {
            inside.wait = Wait::Recovered;
        }
    }

    /// The leader recovers when all have reported; everyone opens with a lease that is good.
    fn pass_reported(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let has_lease = self.lease.as_ref().is_some_and(|lease| lease.is_valid(now_ns));
        let have_all_reported = self.all_are_at(Step::Reported);
        let record = self.record.as_ref().expect("a member has a record");
        let lead = self.peers.step(record.senior_leader(), record);
        let inside = self.inside.as_mut().expect("members settle");
        let may_open = if inside.is_leader {
            if inside.wait == Wait::Nothing && have_all_reported {
                inside.wait = Wait::Recovery;
                out.push(Action::Recover(Box::new(record.clone())));
            }
            inside.wait == Wait::Recovered
        } else {
            lead == Some(Step::Open)
        };
        if may_open && has_lease {
            inside.step = Step::Open;
            inside.has_opened = true;
            inside.is_known_open = true;
            out.push(Action::Opened(Box::new(record.clone())));
        }
    }

    /// The last member has its cleanliness decided and open: it goes. Its registration stays, for with it the reservation would go that
    /// keeps out what dead lives may still have on their way; whoever starts the array next takes it.
    fn leave_last(&mut self, out: &mut Vec<Action>) {
        let (record, _) = self.parts();
        let is_last = record.clean && record.members.len() == 1;
        if is_last && self.standing == Standing::Leaving {
            self.stop(Halt::Left(self.epoch()), out);
        }
    }
}
