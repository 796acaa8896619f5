//! Keeps the write-intent bitmap of the drives behind the one that the cores share.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Group, Phase, participants};
use crate::amf::MemberIndex;
use crate::amf::group::status::LossReason;
use crate::amf::group::{Action, RequestId, SuperblockIo};
use crate::amf::intent::{IntentMap, PageWords, encode_page};
use crate::amf::superblock::{GroupRecord, MemberState, ParityState, RECORD_BYTES, Uuid};
use crate::drive::DriveError;

/// The bitmap, and what of it is on the drives.
#[derive(Debug)]
pub(super) struct IntentKeeper {
    pub(super) map: Arc<IntentMap>,
    /// The generation since which marks count; pages of another one say nothing.
    since: u64,
    /// What every live member has durably, by page.
    durable: Vec<PageWords>,
    flush: Option<Flush>,
    /// Who waits for the flush that is under way, and who came later.
    answering: Vec<RequestId>,
    asked: Vec<RequestId>,
    /// Drives lack what others have: a flush is due although nobody asks.
    due: bool,
}

/// Pages on their way to the drives, one after another, each to all live members.
#[derive(Debug)]
struct Flush {
    since: u64,
    pages: VecDeque<(usize, Box<PageWords>)>,
    current: Option<(usize, Box<PageWords>)>,
    ios: Vec<(SuperblockIo, MemberIndex)>,
}

impl IntentKeeper {
    pub(super) fn new(map: IntentMap) -> Self {
        let nothing = (0..map.pages()).map(|page| map.page_words(page).map(|_| 0));
        Self {
            since: 0,
            durable: nothing.collect(),
            map: Arc::new(map),
            flush: None,
            answering: Vec::new(),
            asked: Vec::new(),
            due: false,
        }
    }

    /// Nothing is known to be on the drives.
    fn forget_durable(&mut self) {
        self.durable.iter_mut().for_each(|words| words.fill(0));
    }

    /// Pages with marks that the drives lack.
    fn changed(&self) -> VecDeque<(usize, Box<PageWords>)> {
        let pages = self.durable.iter().enumerate();
        let changed = pages.filter_map(|(page, durable)| {
            let words = self.map.page_words(page);
            (words != *durable).then(|| (page, Box::new(words)))
        });
        changed.collect()
    }
}

impl Group {
    /// Notes who wants the marks durable that are there by now. Never answered once the group is closed or has failed: then no
    /// journal forgets anything either.
    pub(super) fn persist_intent(&mut self, request: RequestId) {
        let keeper = self
            .intent
            .as_mut()
            .expect("only a group with redundancy marks rows");
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            keeper.asked.push(request);
        }
    }

    /// Starts the next flush of marks, or answers those for whom there is nothing to write. The record has to be settled first,
    /// because it says since when marks count.
    pub(super) fn advance_intent(&mut self, out: &mut Vec<Action>) {
        let settled = self.phase == Phase::Open && self.update.is_none() && self.faults == 0;
        let Some(keeper) = &mut self.intent else { return };
        let waiting = keeper.due || !keeper.asked.is_empty();
        if !settled || !waiting || keeper.flush.is_some() {
            return;
        }
        keeper.due = false;
        keeper.answering = std::mem::take(&mut keeper.asked);
        if self.record.failed_mask() == 0 || !self.flush_intent(out) {
            self.answer_intent(out);
        }
    }

    /// Begins to write the marks that the drives lack; false if they lack none.
    pub(super) fn flush_intent(&mut self, out: &mut Vec<Action>) -> bool {
        let since = self.epoch(&self.record);
        let Some(keeper) = &mut self.intent else {
            return false;
        };
        assert!(keeper.flush.is_none(), "one flush at a time");
        if keeper.since != since {
            keeper.forget_durable();
            keeper.since = since;
        }
        let pages = keeper.changed();
        if pages.is_empty() {
            return false;
        }
        keeper.flush = Some(Flush {
            since,
            pages,
            current: None,
            ios: Vec::new(),
        });
        self.write_page(out);
        true
    }

    /// Writes the next page of a flush to every active member; members under rebuild are never asked for theirs.
    fn write_page(&mut self, out: &mut Vec<Action>) {
        let group = self.record.group;
        let intent = self.record.intent.expect("who marks rows has a bitmap");
        let start = intent.start.0 << self.record.block.shift();
        let is_active = |member: &MemberIndex| {
            let state = self.record.members[usize::from(member.0)].state;
            state == MemberState::Active && self.seat(*member).lost.is_none()
        };
        let members: Vec<MemberIndex> = participants(&self.record).filter(is_active).collect();
        let drives: Vec<u16> = members
            .iter()
            .map(|member| self.seat(*member).index().expect("an active member has a drive"))
            .collect();
        let keeper = self.intent.as_mut().expect("a flush is under way");
        let flush = keeper.flush.as_mut().expect("a flush is under way");
        let Some((page, words)) = flush.pages.pop_front() else {
            return;
        };
        let bytes = encode_page(group, flush.since, page, &words);
        flush.current = Some((page, words));
        for (member, drive) in members.into_iter().zip(drives) {
            let io = SuperblockIo(self.next_io);
            self.next_io = self.next_io.wrapping_add(1);
            flush.ios.push((io, member));
            out.push(Action::WriteSuperblock {
                io,
                drive,
                offset_bytes: start + page as u64 * RECORD_BYTES as u64,
                record: bytes.clone(),
            });
        }
        assert!(
            !flush.ios.is_empty(),
            "a group that has not failed has active members"
        );
    }

    /// Takes the answer to a write of a page; false if it was none.
    pub(super) fn intent_written(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) -> bool {
        let flush = self.intent.as_mut().and_then(|keeper| keeper.flush.as_mut());
        let Some(flush) = flush else { return false };
        let Some(at) = flush.ios.iter().position(|(own, _)| *own == io) else {
            return false;
        };
        let (_, member) = flush.ios.swap_remove(at);
        let (page_done, since) = (flush.ios.is_empty(), flush.since);
        if let Err(error) = result {
            self.lose(member, LossReason::Superblock(error), out);
        }
        if !page_done {
            return true;
        }
        let keeper = self.intent.as_mut().expect("a flush is under way");
        let flush = keeper.flush.as_mut().expect("a flush is under way");
        let (page, words) = flush.current.take().expect("a page was written");
        // After the last member has come back, marks count anew and these pages say nothing any more.
        if since == keeper.since {
            keeper.durable[page] = *words;
        }
        let no_more = flush.pages.is_empty() || matches!(self.phase, Phase::Failed(_) | Phase::Stopped);
        if no_more || !self.has_active() {
            self.end_flush(out);
        } else {
            self.write_page(out);
        }
        true
    }

    fn has_active(&self) -> bool {
        let lines = self.record.members.iter().zip(&self.seats);
        let mut active =
            lines.filter(|(line, seat)| line.state == MemberState::Active && seat.lost.is_none());
        active.next().is_some()
    }

    fn end_flush(&mut self, out: &mut Vec<Action>) {
        let keeper = self.intent.as_mut().expect("a flush is under way");
        keeper.flush = None;
        match self.phase {
            Phase::Persisting => self.phase = Phase::Opening,
            Phase::Opening | Phase::Open => self.answer_intent(out),
            Phase::AwaitingStart
            | Phase::RollingForward
            | Phase::Restoring
            | Phase::Following
            | Phase::Stopped
            | Phase::Failed(_) => {}
        }
    }

    fn answer_intent(&mut self, out: &mut Vec<Action>) {
        let keeper = self.intent.as_mut().expect("somebody asked for it");
        for request in std::mem::take(&mut keeper.answering) {
            if !self.marked_lost(request) {
                out.push(Action::IntentDurable { request });
            }
        }
    }

    /// The generation since which marks count in this record; before the opening, in the one that the opening will write.
    fn epoch(&self, record: &GroupRecord) -> u64 {
        let since = record.intent.map_or(0, |intent| intent.since_generation);
        let before = !matches!(self.phase, Phase::Open);
        // A member that the opening leaves out has at least the generation before: nothing was written since.
        if since == 0 && before {
            record.previous
        } else {
            since
        }
    }

    /// Says in the record to come since when marks count.
    pub(super) fn settle_intent(&self, next: &mut GroupRecord) {
        let degraded = next.failed_mask() != 0;
        let generation = next.generation;
        let moved = self.has_moved_degraded(next);
        let Some(intent) = &mut next.intent else { return };
        intent.since_generation = match (degraded, self.announced) {
            (false, _) => 0,
            // Whoever is away now lacks rows for which nobody has made marks durable.
            (true, _) if moved => generation,
            // Nobody marks rows, unless nothing but the scratch area is written: no drive that is away now or later has everything but marked ones. And if rows were never made to
            // fit their check data, the strips of whoever is lost now have to be made anew for that, marked or not.
            (true, _)
                if !self.opening.marks_intent && self.phase != Phase::Restoring
                    || self.record.parity != ParityState::Trusted =>
            {
                generation
            }
            (true, _) if intent.since_generation != 0 => intent.since_generation,
            (true, None) => self.epoch(&self.record),
            // Whoever is lost now has all that was written under what was announced last.
            (true, Some(announced)) => announced.generation,
        };
    }

    /// A record was announced: whatever is kept for lost members begins, goes on or ends with it.
    pub(super) fn settle_bitmap(&mut self) {
        let since = self.record.intent.map_or(0, |intent| intent.since_generation);
        let Some(keeper) = &mut self.intent else { return };
        if keeper.since != since {
            keeper.since = since;
            keeper.forget_durable();
            if since == 0 {
                keeper.map.clear();
            }
        }
        keeper.due |= since != 0 && self.opening.marks_intent && self.phase == Phase::Opening;
    }

    /// A member has become active that lacks pages which the others have.
    pub(super) fn rewrite_bitmap(&mut self) {
        if let Some(keeper) = &mut self.intent {
            keeper.forget_durable();
            keeper.due = true;
        }
    }

    /// Whether the record knows this drive.
    pub(super) fn is_member_or_spare(&self, drive: Uuid) -> bool {
        let record = &self.record;
        record.spares.contains(&drive) || record.members.iter().any(|line| line.drive == drive)
    }
}
