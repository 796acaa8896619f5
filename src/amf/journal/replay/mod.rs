//! Replay: brings a group's rows up to its journal before anybody may touch them.
//!
//! Owns the order of things, so that a stop anywhere and another run, with up to as many members lost as
//! the level survives, ends with the same bytes (PROTOCOL H19, I12):
//!
//! 1. *Settle*: all members flush, because what was written may be seen before it is durable, and what was
//!    seen must not go back.
//! 2. *Scan* all lanes of all live members.
//! 3. *Spread*: every batch that counts is written, at its own place, to as many members as it takes to
//!    outlive further losses. A batch of which a power cut left one copy counts from here on like one that
//!    was committed; before, nothing may be built on it.
//!    Who goes on without a member says so to later runs in a *mark*.
//! 4. *Redo*: rows with a destage may be half-written. All its data and check data are written whole and
//!    nothing is read, so an inconsistent row heals, also with lost members (H25, H26). Then a flush.
//! 5. *Rounds*: other rows are consistent. New check data is computed and recorded in the recovery lane with
//!    a destage, then the row is written in place. A flush before the lane is used for the next rows. Before the first
//!    round a mark says of its rows that older destages are in place.
//!
//! In levels without check data every row is redone: copies need nothing computed.
//!
//! The caller has excluded the members that it calls failed *durably* before it starts: a member that
//! comes back must not meet rows that went on without it. It gives the group its next incarnation only
//! after [`Action::Done`]. Deliberately knows no time and does no I/O itself; arithmetic is scalar.

mod image;
mod living;
mod marks;
mod record;
mod update;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use thiserror::Error;

use super::codec::{self, JournalLayout};
use super::mark;
use super::scan::{Found, Scan, ScanError};
use crate::amf::code;
use crate::amf::expansion::Layout;
use crate::amf::geometry::Geometry;
use crate::amf::lost::{self, LostList, LostMap};
use crate::amf::superblock::LaneFloors;
use crate::amf::{MemberIndex, MemberSet, RowIndex};
use crate::drive::DriveError;
use crate::drive::block::{GroupLba, MemberLba};
use image::{Blocks, Image, RowStory};
pub use living::LivingNodes;
use record::Record;
use update::{Strip, Update};

/// Most transfers that are asked for and not answered.
pub const IN_FLIGHT_MAX: usize = 64;

/// Longest transfer in bytes.
pub const IO_BYTES_MAX: u32 = 1 << 20;

/// About how much data is on its way at once; one row more at most, which has up to 32 MiB.
const BYTES_AT_ONCE: u64 = 64 << 20;

/// Names a transfer until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// What replay is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin.
    Start,
    /// A read is answered; `Ok` has exactly the blocks that were asked for.
    ReadDone {
        /// Which one.
        io: IoId,
        /// Its data.
        result: Result<Vec<u8>, DriveError>,
    },
    /// A write is answered.
    Written {
        /// Which one.
        io: IoId,
        /// How it ended.
        result: Result<(), DriveError>,
    },
    /// A flush is answered.
    Flushed {
        /// Which one.
        io: IoId,
        /// How it ended.
        result: Result<(), DriveError>,
    },
}

/// What replay asks for. After `Done` or `Failed` comes nothing more, and answers are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read blocks of a member.
    Read {
        /// Named so in the answer.
        io: IoId,
        /// Which member.
        member: MemberIndex,
        /// First block.
        lba: MemberLba,
        /// Length, at most [`IO_BYTES_MAX`].
        blocks: u32,
    },
    /// Write blocks of a member.
    Write {
        /// Named so in the answer.
        io: IoId,
        /// Which member.
        member: MemberIndex,
        /// First block.
        lba: MemberLba,
        /// Whole blocks, at most [`IO_BYTES_MAX`].
        data: Vec<u8>,
        /// Whether it has to be durable when it is answered.
        fua: bool,
    },
    /// Make durable what was written to a member.
    Flush {
        /// Named so in the answer.
        io: IoId,
        /// Which member.
        member: MemberIndex,
    },
    /// So many of so many rows are up to date.
    Progress {
        /// Rows that are done.
        done_rows: u64,
        /// All rows that the journal names.
        rows: u64,
    },
    /// Every row is up to date and durable: the group may have its next incarnation.
    Done(Report),
    /// The group cannot be opened so.
    Failed(ReplayError),
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows that the journal named.
    pub rows: u64,
    /// Batches that counted.
    pub batches: u64,
    /// Blocks of user data that were brought in place.
    pub blocks: u64,
    /// Above every sequence number in the journal: numbers go on from here.
    pub next_seq: u64,
    /// Batches that a power cut left unfinished; nobody was told that their data is safe.
    pub torn_batches: u64,
    /// Blocks of journal lanes that could not be read; other members have copies of what lay there.
    pub unreadable_blocks: u64,
}

/// Why a group cannot be opened, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A member failed meanwhile.
    #[error("member {} failed during replay: {error}; start the group without it", member.0)]
    Member {
        /// Which one.
        member: MemberIndex,
        /// What it said.
        error: DriveError,
    },
    /// The journal holds what cannot be.
    #[error(transparent)]
    Journal(#[from] ScanError),
    /// More is lost than the level survives.
    #[error("too many members are missing: bring one of them back")]
    TooManyMembersLost,
    /// More blocks can be given back by no member than the list of lost blocks has room for.
    #[error(
        "so many blocks cannot be read that the list of lost blocks is full: bring a missing member back"
    )]
    TooManyLostBlocks,
    /// A member came back that an earlier replay has written without.
    #[error("member {} has missed what an earlier replay wrote without it; start the group without it", member.0)]
    LeftOut {
        /// Which one.
        member: MemberIndex,
    },
    /// Blocks cannot be given back, and other nodes have the group open.
    #[error("row {}: blocks cannot be read and are lost; stop the group on all nodes and start it again", row.0)]
    LostAmongLiving {
        /// Which row.
        row: RowIndex,
    },
    /// A member is lost before the check data of this row was ever computed.
    #[error("row {}: a member is missing and check data is not initialised there; bring the missing member back", row.0)]
    CheckDataNotTrusted {
        /// Which row.
        row: RowIndex,
    },
}

impl ReplayError {
    /// The member without which the group is to be replayed anew, if that is what it takes.
    pub const fn member(&self) -> Option<MemberIndex> {
        match *self {
            Self::Member { member, .. } | Self::LeftOut { member } => Some(member),
            Self::Journal(_)
            | Self::TooManyMembersLost
            | Self::TooManyLostBlocks
            | Self::LostAmongLiving { .. }
            | Self::CheckDataNotTrusted { .. } => None,
        }
    }
}

/// A transfer that is not asked for yet.
#[derive(Debug)]
struct Job {
    member: MemberIndex,
    transfer: Transfer,
}

#[derive(Debug)]
enum Transfer {
    Read {
        lba: MemberLba,
        blocks: u32,
        into: Into,
    },
    Write {
        lba: MemberLba,
        data: Vec<u8>,
        fua: bool,
    },
    Flush,
}

/// Where the data of a read goes.
#[derive(Clone, Copy, Debug)]
enum Into {
    /// The image of the lane that is being scanned.
    Lane { position: u32 },
    Strip {
        update: usize,
        strip: Strip,
        /// First block, from the start of the strip.
        offset: u32,
    },
}

/// A transfer that is not answered yet.
#[derive(Debug)]
enum Flying {
    Read {
        member: MemberIndex,
        blocks: u32,
        into: Into,
    },
    Write {
        member: MemberIndex,
    },
    Flush {
        member: MemberIndex,
    },
}

/// What all transfers in flight are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Idle,
    Settling,
    /// Number of the lane and member, counted through all of them.
    Scanning {
        at: u32,
    },
    /// The first batch that was not looked at.
    Spreading {
        next: usize,
    },
    SayingWhoIsGone,
    Redoing,
    FlushingRedone,
    SayingWhatIsInPlace,
    Reading,
    Listing,
    Recording,
    Placing,
    FlushingPlaced,
    Ended,
}

/// The replay of one group's journal.
#[derive(Debug)]
pub struct Replay {
    journal: JournalLayout,
    layout: Layout,
    members: MemberSet,
    step: Step,
    next_io: u64,
    queue: VecDeque<Job>,
    flying: BTreeMap<IoId, Flying>,
    scan: Scan,
    /// Entries of each lane below are over.
    floors: LaneFloors,
    living: Option<LivingNodes>,
    /// What nodes have kept in memory of lanes of those that are gone.
    copies: Vec<Arc<[u8]>>,
    /// The lane that is being read from a member.
    lane: Vec<u8>,
    found: Found,
    /// Rows that were not looked at, then rows whose data has no destage yet.
    rows: VecDeque<(RowIndex, RowStory)>,
    later: VecDeque<(RowIndex, RowStory)>,
    /// The rows of the round.
    updates: Vec<Update>,
    /// Those of them that have to be read again, going round a member.
    again: BTreeSet<usize>,
    record: Record,
    /// Blocks that are lost, if any are, and what of that the members have.
    lost: Option<LostMap>,
    list: LostList,
    done_rows: u64,
    /// All rows that the journal names.
    named: Vec<RowIndex>,
    report: Report,
}

impl Replay {
    /// Prepares the replay of a group's journal. `members` names those that are lost, durably so, and those
    /// that are being rebuilt with the durable frontier.
    ///
    /// Panics if the two layouts do not belong together, or if a lane has no room for the check data of a row.
    pub fn new(journal: JournalLayout, layout: Layout, members: MemberSet) -> Self {
        let geometry = layout.widest();
        assert_eq!(journal.block, geometry.block(), "a group has one block size");
        assert!(
            geometry.level().is_redundant(),
            "a group without redundancy has no journal"
        );
        let checks = u32::from(geometry.check_strips()) * geometry.strip_blocks();
        assert!(
            mark::round_blocks(&journal) > checks,
            "a lane has room for a row's check data"
        );
        let scan = Scan::new(journal, layout);
        Self {
            journal,
            layout,
            members,
            step: Step::Idle,
            next_io: 0,
            queue: VecDeque::new(),
            flying: BTreeMap::new(),
            found: scan.clone().finish(),
            scan,
            floors: LaneFloors::default(),
            living: None,
            copies: Vec::new(),
            lane: Vec::new(),
            rows: VecDeque::new(),
            later: VecDeque::new(),
            updates: Vec::new(),
            again: BTreeSet::new(),
            record: Record::new(&journal),
            lost: None,
            list: LostList::default(),
            done_rows: 0,
            named: Vec::new(),
            report: Report::default(),
        }
    }

    /// Batches that nodes have kept in memory for those that wrote them. To be called before the start.
    #[must_use]
    pub fn with_copies(mut self, copies: Vec<Arc<[u8]>>) -> Self {
        assert_eq!(self.step, Step::Idle, "copies are there before the start");
        self.copies = copies;
        self
    }

    /// Says what is lost already. To be called before the start.
    pub fn with_lost(mut self, found: LostList) -> Self {
        assert_eq!(self.step, Step::Idle, "the list is read before the start");
        self.lost = (!found.windows.is_empty()).then(|| LostMap::of(&found.windows));
        self.list = found;
        self
    }

    /// What is lost now. The group gets it, and makes it durable before the journal is void.
    pub fn into_lost(self) -> LostList {
        LostList {
            windows: self.lost.map(|lost| lost.windows()).unwrap_or_default(),
            ..self.list
        }
    }

    /// The rows that were brought up to date, or are going to be: a member that is lost misses them, and the journal forgets them. Beside living nodes also those
    /// that they hold: of what the node that is gone wrote there nobody else has a mark.
    pub fn rows(&self) -> &[RowIndex] {
        &self.named
    }

    /// What it begins to scan with, and which lanes of which members it scans, in this order.
    pub fn scans(&self) -> (&Scan, impl Iterator<Item = (MemberIndex, u16)>) {
        (&self.scan, (0..).map_while(|at| self.lane_at(at)))
    }

    /// Takes an event; what is to be done next goes to `out`.
    ///
    /// Panics at an answer to what was not asked, or to something else.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        let result = match event {
            Event::Start => self.start(),
            Event::ReadDone { io, result } => self.read_done(io, result),
            Event::Written { io, result } => {
                let Some(Flying::Write { member }) = self.flying.remove(&io) else {
                    panic!("{io:?} is no write in flight")
                };
                result.map_err(|error| ReplayError::Member { member, error })
            }
            Event::Flushed { io, result } => {
                let Some(Flying::Flush { member }) = self.flying.remove(&io) else {
                    panic!("{io:?} is no flush in flight")
                };
                result.map_err(|error| ReplayError::Member { member, error })
            }
        };
        if self.step == Step::Ended {
            return;
        }
        if let Err(error) = result.and_then(|()| self.advance(out)) {
            self.step = Step::Ended;
            self.queue.clear();
            out.push(Action::Failed(error));
        }
    }

    fn start(&mut self) -> Result<(), ReplayError> {
        assert_eq!(self.step, Step::Idle, "a replay starts once");
        if !self.layout.survives(self.members.failed) {
            return Err(ReplayError::TooManyMembersLost);
        }
        self.flush_all();
        self.step = Step::Settling;
        Ok(())
    }

    /// Asks for what is queued, and goes on to the next step when everything is answered.
    fn advance(&mut self, out: &mut Vec<Action>) -> Result<(), ReplayError> {
        while self.step != Step::Ended {
            while self.flying.len() < IN_FLIGHT_MAX
                && let Some(job) = self.queue.pop_front()
            {
                self.ask(job, out);
            }
            if !self.flying.is_empty() {
                break;
            }
            self.step_on(out)?;
        }
        Ok(())
    }

    fn ask(&mut self, job: Job, out: &mut Vec<Action>) {
        let io = IoId(self.next_io);
        self.next_io += 1;
        let member = job.member;
        let (flying, action) = match job.transfer {
            Transfer::Read { lba, blocks, into } => (
                Flying::Read { member, blocks, into },
                Action::Read {
                    io,
                    member,
                    lba,
                    blocks,
                },
            ),
            Transfer::Write { lba, data, fua } => (
                Flying::Write { member },
                Action::Write {
                    io,
                    member,
                    lba,
                    data,
                    fua,
                },
            ),
            Transfer::Flush => (Flying::Flush { member }, Action::Flush { io, member }),
        };
        self.flying.insert(io, flying);
        out.push(action);
    }

    fn read_done(&mut self, io: IoId, result: Result<Vec<u8>, DriveError>) -> Result<(), ReplayError> {
        let Some(Flying::Read { member, blocks, into }) = self.flying.remove(&io) else {
            panic!("{io:?} is no read in flight")
        };
        let block = self.block_bytes();
        match (result, into) {
            (Ok(data), into) => {
                assert_eq!(
                    data.len(),
                    blocks as usize * block,
                    "a read gives what was asked for"
                );
                match into {
                    Into::Lane { position } => {
                        self.lane[position as usize * block..][..data.len()].copy_from_slice(&data);
                    }
                    Into::Strip {
                        update,
                        strip,
                        offset,
                    } => self.updates[update].take(strip, offset, &data, block),
                }
                Ok(())
            }
            // What cannot be read here has copies on other members, and may be a few blocks only.
            (Err(DriveError::Media), Into::Lane { position }) => {
                if blocks == 1 {
                    self.report.unreadable_blocks += 1;
                } else if let Step::Scanning { at } = self.step {
                    let half = blocks / 2;
                    self.read_lane(member, at, position, half);
                    self.read_lane(member, at, position + half, blocks - half);
                }
                Ok(())
            }
            (
                Err(DriveError::Media),
                Into::Strip {
                    update,
                    strip,
                    offset,
                },
            ) => {
                if !self.updates[update].thorough {
                    self.updates[update].avoid |= 1 << member.0;
                    self.again.insert(update);
                } else if blocks == 1 {
                    self.updates[update].bad.insert((strip, offset));
                } else {
                    let half = blocks / 2;
                    self.read_strip(update, strip, offset, half);
                    self.read_strip(update, strip, offset + half, blocks - half);
                }
                Ok(())
            }
            (
                Err(
                    error @ (DriveError::Io { .. }
                    | DriveError::Gone
                    | DriveError::Fenced
                    | DriveError::OutOfRange),
                ),
                Into::Lane { .. } | Into::Strip { .. },
            ) => Err(ReplayError::Member { member, error }),
        }
    }

    /// Everything that was asked for is answered: draws the conclusion, and queues what comes next.
    fn step_on(&mut self, out: &mut Vec<Action>) -> Result<(), ReplayError> {
        match self.step {
            Step::Idle | Step::Ended => unreachable!("nothing was asked for"),
            Step::Settling => self.begin_lane(0),
            Step::Scanning { at } => {
                let (member, lane) = self.lane_at(at).expect("a lane is being scanned");
                self.scan.lane(member, lane, &self.lane)?;
                if self.lane_at(at + 1).is_some() {
                    self.begin_lane(at + 1);
                } else {
                    self.begin_rows()?;
                }
            }
            Step::Spreading { next } if next < self.found.batches.len() => self.spread(next),
            Step::Spreading { .. } => self.say_who_is_gone(),
            Step::SayingWhoIsGone => self.step = Step::Redoing,
            Step::Redoing if self.rows.is_empty() => {
                self.flush_all();
                self.step = Step::FlushingRedone;
            }
            Step::Redoing => {
                self.redo();
                self.say_progress(out);
            }
            Step::FlushingRedone => self.say_what_is_in_place(),
            Step::SayingWhatIsInPlace => self.begin_round(out)?,
            Step::Reading if self.again.is_empty() => self.compute()?,
            Step::Listing => self.record(),
            Step::Reading => {
                for update in std::mem::take(&mut self.again) {
                    self.updates[update].strips.clear();
                    self.read_row(update)?;
                }
            }
            Step::Recording => self.place(),
            Step::Placing => {
                self.flush_all();
                self.step = Step::FlushingPlaced;
            }
            Step::FlushingPlaced => {
                self.done_rows += self.updates.len() as u64;
                self.say_progress(out);
                self.begin_round(out)?;
            }
        }
        Ok(())
    }

    /// The member and lane with this number, counted through all lanes of all live members.
    fn lane_at(&self, at: u32) -> Option<(MemberIndex, u16)> {
        let live: Vec<_> = self.live().collect();
        let count = u32::try_from(live.len()).expect("at most 32 members");
        let lane = u16::try_from(at / count).ok()?;
        (lane <= self.journal.recovery_lane()).then(|| (live[(at % count) as usize], lane))
    }

    fn begin_lane(&mut self, at: u32) {
        let (member, _) = self.lane_at(at).expect("there is such a lane");
        let chunk = IO_BYTES_MAX / self.journal.block.bytes();
        self.lane.clear();
        self.lane
            .resize(self.journal.lane_blocks as usize * self.block_bytes(), 0);
        let mut position = 0;
        while position < self.journal.lane_blocks {
            let blocks = chunk.min(self.journal.lane_blocks - position);
            self.read_lane(member, at, position, blocks);
            position += blocks;
        }
        self.step = Step::Scanning { at };
    }

    fn read_lane(&mut self, member: MemberIndex, at: u32, position: u32, blocks: u32) {
        let (_, lane) = self.lane_at(at).expect("there is such a lane");
        let transfer = Transfer::Read {
            lba: self.journal.lba(lane, position),
            blocks,
            into: Into::Lane { position },
        };
        self.queue.push_back(Job { member, transfer });
    }

    fn begin_rows(&mut self) -> Result<(), ReplayError> {
        self.lane = Vec::new();
        let mut scan = std::mem::replace(&mut self.scan, Scan::new(self.journal, self.layout));
        for copy in std::mem::take(&mut self.copies) {
            scan.copy(&copy)?;
        }
        self.found = scan.finish();
        self.rows = image::stories(&self.found, &self.layout).into_iter().collect();
        self.named = self.rows.iter().map(|(row, _)| *row).collect();
        self.leave_to_living();
        self.heed_mark()?;
        self.look_at_lost();
        self.report.batches = self.found.batches.len() as u64;
        self.report.torn_batches = self.found.torn_batches;
        self.report.rows = self.rows.len() as u64;
        self.step = Step::Spreading { next: 0 };
        Ok(())
    }

    /// Lost blocks that the journal has data of are lost no more; the others stay zeroes, whatever it says of their rows.
    fn look_at_lost(&mut self) {
        let Some(lost) = &self.lost else { return };
        for (row, story) in &mut self.rows {
            let blocks = self.layout.geometry_of_row(*row).row_blocks();
            let first = row.0 * u64::from(blocks);
            lost.for_each_in(GroupLba(first), blocks, |lba| {
                let at = u32::try_from(lba.0 - first).expect("it lies in the row");
                if story.has(at) {
                    lost.remove(lba, 1);
                } else {
                    story.lose(at);
                }
            });
        }
    }

    /// Writes batches that too few members have to more of them.
    fn spread(&mut self, mut next: usize) {
        let needed = self.copies_needed();
        let mut bytes = 0;
        while next < self.found.batches.len() && bytes < BYTES_AT_ONCE {
            let found = &self.found.batches[next];
            next += 1;
            let lane = found.batch.header.lane;
            if self.is_living(lane) {
                continue;
            }
            let missing = needed.saturating_sub(found.members.count_ones());
            let targets: Vec<_> = self.live().filter(|m| found.members >> m.0 & 1 == 0).collect();
            let header = &found.batch.header;
            let position = header.position;
            let mut data = vec![0; self.block_bytes()];
            codec::encode(header, &found.batch.entries, found.batch.payload_crc, &mut data);
            data.extend(&found.payload);
            for member in targets.into_iter().take(missing as usize) {
                bytes += data.len() as u64;
                self.write(member, self.journal.lba(lane, position), &data, true);
            }
        }
        self.step = Step::Spreading { next };
    }

    /// Writes whole what may be half-written, for as many rows as may be on their way at once.
    fn redo(&mut self) {
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE
            && let Some((row, story)) = self.rows.pop_front()
        {
            let mirror = self.layout.widest().level().is_mirror();
            let image = if mirror {
                story.whole()
            } else {
                story.redo(self.layout.geometry_of_row(row))
            };
            bytes += self.place_image(row, &image);
            if !mirror && story.remaining().is_some() {
                self.later.push_back((row, story));
            } else {
                self.done_rows += 1;
            }
        }
    }

    /// Takes as many rows as the recovery lane and memory have room for, and reads what their check data
    /// needs; ends if there are no more.
    fn begin_round(&mut self, out: &mut Vec<Action>) -> Result<(), ReplayError> {
        self.updates.clear();
        self.record = Record::new(&self.journal);
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE
            && let Some((row, story)) = self.later.front()
        {
            let (data, cut) = story.remaining().expect("only such rows are left");
            let update = Update::new(self.layout.geometry_of_row(*row), *row, data, cut);
            if !self
                .record
                .reserve(self.layout.widest().check_strips(), update.blocks)
            {
                assert!(!self.record.is_empty(), "an empty lane has room for a row");
                break;
            }
            let strips = u64::from(update.blocks) * u64::from(self.layout.widest().members());
            bytes += strips * u64::from(self.journal.block.bytes());
            self.updates.push(update);
            self.later.pop_front();
        }
        if self.updates.is_empty() {
            self.report.next_seq = self.found.next_seq;
            self.step = Step::Ended;
            out.push(Action::Done(self.report));
            return Ok(());
        }
        for update in 0..self.updates.len() {
            self.read_row(update)?;
        }
        self.step = Step::Reading;
        Ok(())
    }

    fn read_row(&mut self, number: usize) -> Result<(), ReplayError> {
        let lost = self.lost_at(self.updates[number].row);
        let update = &mut self.updates[number];
        let geometry = self.layout.geometry_of_row(update.row);
        let strips = update.reads(geometry, lost, self.members.parity)?;
        let (offset, blocks) = (update.offset, update.blocks);
        for strip in strips {
            self.read_strip(number, strip, offset, blocks);
        }
        Ok(())
    }

    fn read_strip(&mut self, number: usize, strip: Strip, offset: u32, blocks: u32) {
        let row = self.updates[number].row;
        let geometry = self.layout.geometry_of_row(row);
        let transfer = Transfer::Read {
            lba: geometry.member_lba(row, offset),
            blocks,
            into: Into::Strip {
                update: number,
                strip,
                offset,
            },
        };
        let member = strip.member(geometry, row);
        self.queue.push_back(Job { member, transfer });
    }

    /// Computes the new check data of the round's rows. What nothing gives back of them is on the list of lost blocks, durably, before
    /// anything says that it is zero.
    fn compute(&mut self) -> Result<(), ReplayError> {
        let mut any = false;
        for number in 0..self.updates.len() {
            let row = self.updates[number].row;
            let lost = self.lost_at(row);
            let geometry = self.layout.geometry_of_row(row);
            if self.updates[number].thorough {
                let first = row.0 * u64::from(geometry.row_blocks());
                for at in self.updates[number].regenerate_closely(geometry, lost) {
                    if self.living.is_some() {
                        return Err(ReplayError::LostAmongLiving { row });
                    }
                    any = true;
                    let lost = self.lost.get_or_insert_default();
                    if !lost.add(GroupLba(first + u64::from(at)), 1) {
                        return Err(ReplayError::TooManyLostBlocks);
                    }
                }
            }
            self.updates[number].compute(geometry, lost, &self.found.batches);
        }
        if let Some(lost) = self.lost.as_ref().filter(|_| any) {
            self.list.version += 1;
            let page = lost::encode_page(self.journal.group, self.list.version, &lost.windows());
            let offset = lost::PAGE_OFFSETS[usize::from(!self.list.version.is_multiple_of(2))];
            let lba = MemberLba(offset >> self.journal.block.shift());
            for member in self.live().collect::<Vec<_>>() {
                self.write(member, lba, &page[..], true);
            }
        }
        self.step = Step::Listing;
        Ok(())
    }

    /// Records the new check data of the round's rows.
    fn record(&mut self) {
        self.found.round += 1;
        let mark = (self.found.tail, self.found.round);
        let seq = &mut self.found.next_seq;
        let batches = self
            .record
            .encode(&self.journal, &self.layout, &self.updates, mark, seq);
        let recorders: Vec<_> = self.live().take(self.copies_needed() as usize).collect();
        for (position, bytes) in batches {
            let lba = self.journal.lba(self.journal.recovery_lane(), position);
            for member in &recorders {
                self.write(*member, lba, &bytes, true);
            }
        }
        self.step = Step::Recording;
    }

    /// Writes the round's rows in place.
    fn place(&mut self) {
        for update in std::mem::take(&mut self.updates) {
            self.place_data(update.row, &update.data);
            for (index, bytes) in (0..).zip(&update.checks) {
                self.place_check(update.row, index, update.offset, bytes);
            }
            self.updates.push(update);
        }
        self.step = Step::Placing;
    }

    /// Queues everything that is known of a row; returns how many bytes that are.
    fn place_image(&mut self, row: RowIndex, image: &Image) -> u64 {
        let mut bytes = self.place_data(row, &image.data);
        let geometry = *self.layout.geometry_of_row(row);
        if image.is_whole_row(&geometry) {
            for index in 0..geometry.check_strips() {
                let sum = self.check_of_whole_row(&geometry, &image.data, index);
                self.place_check(row, index, 0, &sum);
                bytes += sum.len() as u64;
            }
            return bytes;
        }
        for (index, checks) in (0..).zip(&image.checks) {
            for run in image::runs(checks, geometry.strip_blocks()) {
                let data = image::bytes(checks, run, &self.found.batches, self.block_bytes());
                self.place_check(row, index, run.0, &data);
                bytes += data.len() as u64;
            }
        }
        bytes
    }

    /// A check strip of a row of which all data is known.
    fn check_of_whole_row(&self, geometry: &Geometry, data: &Blocks, index: u8) -> Vec<u8> {
        let strip = geometry.strip_blocks();
        let mut sum = vec![0; strip as usize * self.block_bytes()];
        for column in 0..geometry.data_members() {
            let run = (u32::from(column) * strip, strip);
            let content = image::bytes(data, run, &self.found.batches, self.block_bytes());
            code::mul_add_bytes(&mut sum, &content, code::factor(index, column));
        }
        sum
    }

    /// Queues user data to every copy on a member that the row still has; returns how many bytes that are.
    fn place_data(&mut self, row: RowIndex, data: &Blocks) -> u64 {
        let geometry = *self.layout.geometry_of_row(row);
        let strip = geometry.strip_blocks();
        let lost = self.lost_at(row);
        let mut bytes = 0;
        self.report.blocks += data.len() as u64;
        for run in image::runs(data, strip) {
            let column = u8::try_from(run.0 / strip).expect("a row has at most 32 columns");
            let content = image::bytes(data, run, &self.found.batches, self.block_bytes());
            for copy in 0..geometry.copies() {
                let place = geometry.copy_place(row, column, copy);
                if lost >> place.member.0 & 1 == 0 {
                    let lba = geometry.member_lba(row, place.start_blocks + run.0 % strip);
                    self.write(place.member, lba, &content, false);
                    bytes += content.len() as u64;
                }
            }
        }
        bytes
    }

    fn place_check(&mut self, row: RowIndex, index: u8, offset: u32, data: &[u8]) {
        let geometry = *self.layout.geometry_of_row(row);
        let member = geometry
            .check_member(row, index)
            .expect("the level has this check strip");
        if self.lost_at(row) >> member.0 & 1 == 0 {
            self.write(member, geometry.member_lba(row, offset), data, false);
        }
    }

    /// Queues a write, in pieces of at most [`IO_BYTES_MAX`].
    fn write(&mut self, member: MemberIndex, lba: MemberLba, data: &[u8], fua: bool) {
        let chunk_blocks = u64::from(IO_BYTES_MAX / self.journal.block.bytes());
        for (number, chunk) in (0..).zip(data.chunks(IO_BYTES_MAX as usize)) {
            let transfer = Transfer::Write {
                lba: MemberLba(lba.0 + number * chunk_blocks),
                data: chunk.to_vec(),
                fua,
            };
            self.queue.push_back(Job { member, transfer });
        }
    }

    /// Queues a flush of every member that any row still has.
    fn flush_all(&mut self) {
        let gone = self.members.failed & !self.members.rebuilding;
        for member in self.all().filter(|member| gone >> member.0 & 1 == 0) {
            let transfer = Transfer::Flush;
            self.queue.push_back(Job { member, transfer });
        }
    }

    fn say_progress(&self, out: &mut Vec<Action>) {
        out.push(Action::Progress {
            done_rows: self.done_rows,
            rows: self.report.rows,
        });
    }

    /// How many members must have a record so that one of them is left when no more can be lost.
    fn copies_needed(&self) -> u32 {
        let failed = self.members.failed;
        let more = self
            .layout
            .widest()
            .losses_max()
            .saturating_sub(failed.count_ones());
        // Which ones may be lost beyond those depends on which they are, for levels that pair members.
        let one_more = self
            .live()
            .any(|member| self.layout.survives(failed | 1 << member.0));
        let live = u32::try_from(self.live().count()).expect("at most 32 members");
        (more.max(u32::from(one_more)) + 1).min(live)
    }

    /// Members whose strips of this row are not there: those that are rebuilt have the rows below the frontier.
    fn lost_at(&self, row: RowIndex) -> u32 {
        let failed = if row.0 < self.members.rebuilt_rows {
            self.members.failed & !self.members.rebuilding
        } else {
            self.members.failed
        };
        failed & self.layout.members_of_row(row)
    }

    /// Members with all of their strips, which are also those that hold the journal.
    fn live(&self) -> impl Iterator<Item = MemberIndex> + use<> {
        let failed = self.members.failed;
        self.all().filter(move |member| failed >> member.0 & 1 == 0)
    }

    fn all(&self) -> impl Iterator<Item = MemberIndex> + use<> {
        (0..self.layout.widest().members()).map(MemberIndex)
    }

    fn block_bytes(&self) -> usize {
        self.journal.block.bytes() as usize
    }
}

#[cfg(test)]
mod tests;
