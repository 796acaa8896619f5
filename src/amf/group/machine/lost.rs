//! Keeps the list of lost blocks on the drives equal to the one that the cores share.
//!
//! The list is written to all members that take part, and counts once all have taken it: who could not is out, durably, before
//! anybody is answered, because a later list is written without it. No member takes a record before it has the list, so that whoever
//! counts as current at a start has the newest that anybody relied on.

use std::sync::Arc;

use super::seat::{Content, Seat};
use super::{Group, Phase, participants};
use crate::amf::MemberIndex;
use crate::amf::group::status::LossReason;
use crate::amf::group::{Action, RequestId, SuperblockIo};
use crate::amf::lost::{LostList, LostMap, PAGE_OFFSETS, encode_page};
use crate::amf::superblock::RECORD_BYTES;
use crate::drive::DriveError;

/// The list, and what of it is on the drives.
#[derive(Debug, Default)]
pub(super) struct LostKeeper {
    pub(super) map: Arc<LostMap>,
    /// What was written last, or is being written.
    list: LostList,
    /// Writes of it that are not answered.
    ios: Vec<(SuperblockIo, MemberIndex)>,
    /// A member could not take it: it is written once more.
    refused: bool,
    /// Who waits for marks of the write-intent bitmap first: who was away while blocks were lost misses the zeroes in their places.
    marking: Vec<RequestId>,
    /// Who waits for the list that is being written, and who came later.
    answering: Vec<RequestId>,
    asked: Vec<RequestId>,
}

impl LostKeeper {
    pub(super) fn new(found: LostList) -> Self {
        Self {
            map: Arc::new(LostMap::of(&found.windows)),
            list: found,
            ..Self::default()
        }
    }

    /// A new version of what the cores share.
    fn renew(&mut self) {
        self.list.version += 1;
        self.list.windows = self.map.windows();
    }
}

/// Where the copy of a version is.
fn offset_of(version: u64) -> u64 {
    PAGE_OFFSETS[usize::from(!version.is_multiple_of(2))]
}

impl Group {
    /// Notes who wants the list durable as it is by now. Never answered once the group is closed or has failed: then nobody relies on it
    /// either.
    pub(super) fn persist_lost(&mut self, request: RequestId) {
        if !matches!(self.phase, Phase::Opening | Phase::Open) {
            return;
        }
        if self.intent.is_some() {
            self.lost_blocks.marking.push(request);
            self.persist_intent(request);
        } else {
            self.lost_blocks.asked.push(request);
        }
    }

    /// Marks are durable; true if they were for the list of lost blocks, which comes next.
    pub(super) fn marked_lost(&mut self, request: RequestId) -> bool {
        let keeper = &mut self.lost_blocks;
        let Some(at) = keeper.marking.iter().position(|marking| *marking == request) else {
            return false;
        };
        keeper.marking.swap_remove(at);
        keeper.asked.push(request);
        true
    }

    /// The opening writes what was found anew, in the place of an older list, so that all members have the same.
    pub(super) fn renew_lost(&mut self) {
        if self.lost_blocks.list.version > 0 {
            self.lost_blocks.renew();
        }
    }

    /// The writes that give a drive the list, before it takes a record.
    pub(super) fn lost_writes(&self, seat: &Seat) -> Vec<(u64, Content)> {
        let version = self.lost_blocks.list.version;
        let own = (offset_of(version), Content::LostBlocks);
        match seat.list {
            // What it may have from another time must not count.
            None if version == 0 => PAGE_OFFSETS.map(|offset| (offset, Content::Zeroes)).to_vec(),
            None => vec![(offset_of(version + 1), Content::Zeroes), own],
            Some(has) if has == version => Vec::new(),
            Some(_) => vec![own],
        }
    }

    pub(super) fn lost_page(&self) -> Box<[u8; RECORD_BYTES]> {
        let LostList { version, windows } = &self.lost_blocks.list;
        encode_page(self.record.group, *version, windows)
    }

    pub(super) const fn lost_version(&self) -> u64 {
        self.lost_blocks.list.version
    }

    /// Starts to write the list if anybody waits for that. The record has to be settled first, because it says who takes it.
    pub(super) fn advance_lost(&mut self, out: &mut Vec<Action>) {
        let settled = self.phase == Phase::Open && self.update.is_none() && self.faults == 0;
        let keeper = &mut self.lost_blocks;
        let waiting = !keeper.asked.is_empty() || !keeper.answering.is_empty();
        if !settled || !waiting || !keeper.ios.is_empty() {
            return;
        }
        keeper.refused = false;
        keeper.answering.append(&mut keeper.asked);
        keeper.renew();
        let page = self.lost_page();
        let offset_bytes = offset_of(self.lost_version());
        let is_here = |member: &MemberIndex| self.seat(*member).lost.is_none();
        let members: Vec<MemberIndex> = participants(&self.record).filter(is_here).collect();
        for member in members {
            let io = SuperblockIo(self.next_io);
            self.next_io = self.next_io.wrapping_add(1);
            self.lost_blocks.ios.push((io, member));
            out.push(Action::WriteSuperblock {
                io,
                drive: self.seat(member).index().expect("who takes part has a drive"),
                offset_bytes,
                record: page.clone(),
            });
        }
        assert!(
            !self.lost_blocks.ios.is_empty(),
            "a group that has not failed has members"
        );
    }

    /// Takes the answer to a write of the list; false if it was none.
    pub(super) fn lost_written(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(at) = self.lost_blocks.ios.iter().position(|(own, _)| *own == io) else {
            return false;
        };
        let (_, member) = self.lost_blocks.ios.swap_remove(at);
        match result {
            Ok(()) => self.seats[usize::from(member.0)].list = Some(self.lost_version()),
            Err(error) => {
                self.lost_blocks.refused = true;
                self.lose(member, LossReason::Superblock(error), out);
            }
        }
        let keeper = &mut self.lost_blocks;
        if keeper.ios.is_empty() && !keeper.refused && self.phase == Phase::Open {
            for request in keeper.answering.drain(..) {
                out.push(Action::LostDurable { request });
            }
        }
        true
    }
}
