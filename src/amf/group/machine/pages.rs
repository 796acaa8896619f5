//! Writes the pages of reservations to the drives, one after another, each to all members that take part.
//!
//! A page counts once all of them have taken it: who could not is out, durably, before anybody is answered. No drive takes a member's place before it has the
//! newest page of each place.

use std::collections::{BTreeMap, VecDeque};

use super::seat::{Content, Seat};
use super::{Group, Phase, participants};
use crate::amf::MemberIndex;
use crate::amf::group::status::LossReason;
use crate::amf::group::{Action, PageWrite, RequestId, SuperblockIo};
use crate::amf::reserving::{Table, page_offset};
use crate::amf::superblock::RECORD_BYTES;
use crate::drive::DriveError;

/// Pages, and what of them is on the drives.
#[derive(Debug, Default)]
pub(super) struct PageKeeper {
    /// The newest of each place, and which one that is: on the drives, or on its way there.
    newest: BTreeMap<u8, (u64, Box<[u8; RECORD_BYTES]>)>,
    asked: VecDeque<PageWrite>,
    /// The one that is being written, of which place, and its writes that are not answered.
    current: Option<(RequestId, u8)>,
    ios: Vec<(SuperblockIo, MemberIndex)>,
    /// A member could not take it: it is written once more.
    refused: bool,
}

impl PageKeeper {
    /// Whether no page is on its way to the drives.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.current.is_none() && self.ios.is_empty()
    }
}

impl Group {
    /// Says what the drives have, as [`Candidate::load_pages`](crate::amf::group::Candidate::load_pages) has it.
    ///
    /// Panics after `Event::Start`.
    pub fn with_pages(mut self, tables: &[Table]) -> Self {
        assert_eq!(
            self.phase,
            Phase::AwaitingStart,
            "pages are read before the start"
        );
        for table in tables {
            if let Some(place) = table.place {
                self.pages.newest.insert(place, (table.pages, table.encode()));
            }
        }
        self
    }

    /// Never answered once the group is closed or has failed.
    pub(super) fn persist_page(&mut self, write: PageWrite) {
        if matches!(self.phase, Phase::Opening | Phase::Open) {
            self.pages.asked.push_back(write);
        }
    }

    /// The writes that give a new drive all pages.
    pub(super) fn page_writes(&self, seat: &Seat) -> Vec<(u64, Content)> {
        if seat.list.is_some() {
            return Vec::new(); // It has taken part, and so it has them.
        }
        let newest = self.pages.newest.iter();
        newest
            .map(|(place, (pages, _))| (page_offset(*place, *pages), Content::Page(*place)))
            .collect()
    }

    pub(super) fn page_of(&self, place: u8) -> Box<[u8; RECORD_BYTES]> {
        let (_, page) = self.pages.newest.get(&place).expect("pages are not forgotten");
        page.clone()
    }

    /// Starts to write the next page. The record has to be settled first, because it says who takes it.
    pub(super) fn advance_pages(&mut self, out: &mut Vec<Action>) {
        let settled = self.phase == Phase::Open && self.update.is_none() && self.faults == 0;
        if !settled || !self.pages.ios.is_empty() {
            return;
        }
        if self.pages.current.is_none() {
            let Some(PageWrite {
                request,
                place,
                pages,
                page,
            }) = self.pages.asked.pop_front()
            else {
                return;
            };
            self.pages.newest.insert(place, (pages, page));
            self.pages.current = Some((request, place));
        }
        let (_, place) = self.pages.current.expect("it was just set");
        self.pages.refused = false;
        let (pages, page) = self.pages.newest[&place].clone();
        let is_here = |member: &MemberIndex| self.seat(*member).lost.is_none();
        let members: Vec<MemberIndex> = participants(&self.record).filter(is_here).collect();
        for member in members {
            let io = SuperblockIo(self.next_io);
            self.next_io = self.next_io.wrapping_add(1);
            self.pages.ios.push((io, member));
            out.push(Action::WriteSuperblock {
                io,
                drive: self.seat(member).index().expect("who takes part has a drive"),
                offset_bytes: page_offset(place, pages),
                record: page.clone(),
            });
        }
        assert!(
            !self.pages.ios.is_empty(),
            "a group that has not failed has members"
        );
    }

    /// Takes the answer to a write of a page; false if it was none.
    pub(super) fn page_written(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) -> bool {
        let Some(at) = self.pages.ios.iter().position(|(own, _)| *own == io) else {
            return false;
        };
        let (_, member) = self.pages.ios.swap_remove(at);
        if let Err(error) = result {
            self.pages.refused = true;
            self.lose(member, LossReason::Superblock(error), out);
        }
        let keeper = &mut self.pages;
        if keeper.ios.is_empty()
            && !keeper.refused
            && self.phase == Phase::Open
            && let Some((request, _)) = keeper.current.take()
        {
            out.push(Action::PageDurable { request });
        }
        true
    }
}
