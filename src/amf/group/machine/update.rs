//! Writes one record to the drives of a group: to all at once, on each one write after another.

use std::collections::VecDeque;

use super::seat::{Content, Seat, SpareSeat};
use super::{Group, Phase, participants};
use crate::amf::MemberIndex;
use crate::amf::group::status::LossReason;
use crate::amf::group::{Action, Report, SuperblockIo};
use crate::amf::superblock::{Carrier, GroupRecord, RECORD_BYTES, Superblock, Uuid, encode};
use crate::drive::DriveError;

/// Whose drive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Member(MemberIndex),
    Spare(Uuid),
}

/// An update under way.
#[derive(Clone, Debug)]
pub(super) struct Update {
    pub(super) record: GroupRecord,
    pub(super) writes: Vec<DriveWrites>,
    /// Members that could not take it.
    pub(super) refused: u32,
}

/// What one drive still has to write, one after another.
#[derive(Clone, Debug)]
pub(super) struct DriveWrites {
    pub(super) target: Target,
    pub(super) io: Option<SuperblockIo>,
    pub(super) left: VecDeque<(u64, Content)>,
}

impl Group {
    /// Every drive that a record goes to, and spares that are to forget theirs.
    pub(super) fn targets(&self, next: &GroupRecord) -> Vec<Target> {
        let members = participants(next).map(Target::Member);
        let here = |spare: &&SpareSeat| spare.seat.drive.is_some() && spare.seat.lost.is_none();
        let spares = self.spares.iter().filter(here);
        let spares = spares.map(|spare| Target::Spare(spare.identity));
        let is_member = |target: &Target| match target {
            Target::Member(_) => false,
            Target::Spare(spare) => next.members.iter().any(|line| line.drive == *spare),
        };
        members
            .chain(spares.filter(|target| !is_member(target)))
            .collect()
    }

    /// Starts writing a record to these drives.
    pub(super) fn write_update(&mut self, record: GroupRecord, targets: &[Target], out: &mut Vec<Action>) {
        assert!(self.update.is_none(), "one update at a time");
        record.check().expect("the group composes sound records only");
        let mut writes = Vec::with_capacity(targets.len());
        for &target in targets {
            let seat = self.seat_of(target);
            let left = match target {
                Target::Spare(spare) if !record.spares.contains(&spare) => seat.wipes(),
                Target::Member(member) => {
                    if seat.rewrite && !record.forming {
                        out.push(Action::Report(Report::CopiesRewritten { member }));
                    }
                    let mut left = seat.writes(record.generation);
                    // A group that is being made has an identity that no old list has.
                    if !record.forming {
                        let pages = self.page_writes(seat).into_iter();
                        for write in pages.chain(self.lost_writes(seat)).rev() {
                            left.push_front(write);
                        }
                    }
                    left
                }
                Target::Spare(_) => seat.writes(record.generation),
            };
            writes.push(DriveWrites {
                target,
                io: None,
                left,
            });
        }
        self.update = Some(Update {
            record,
            writes,
            refused: 0,
        });
        for at in 0..targets.len() {
            self.write_next(at, out);
        }
    }

    /// Sends a drive its next write, if it has one.
    pub(super) fn write_next(&mut self, at: usize, out: &mut Vec<Action>) {
        let io = SuperblockIo(self.next_io);
        let update = self.update.as_mut().expect("writes belong to an update");
        let writes = &mut update.writes[at];
        assert!(writes.io.is_none(), "one write at a time on each drive");
        let Some((offset_bytes, content)) = writes.left.pop_front() else {
            return;
        };
        writes.io = Some(io);
        let target = writes.target;
        self.next_io = self.next_io.wrapping_add(1);
        let seat = self.seat_of(target);
        let (drive, _, drive_bytes) = seat
            .drive
            .as_ref()
            .expect("only drives that are there are written");
        let record = match content {
            Content::Zeroes => Box::new([0; RECORD_BYTES]),
            Content::Record => self.encode_for(target, *drive_bytes),
            Content::LostBlocks => self.lost_page(),
            Content::Page(place) => self.page_of(place),
        };
        out.push(Action::WriteSuperblock {
            io,
            drive: *drive,
            offset_bytes,
            record,
        });
    }

    /// One drive's copy of the record that is being written.
    pub(super) fn encode_for(&self, target: Target, drive_bytes: u64) -> Box<[u8; RECORD_BYTES]> {
        let record = &self.update.as_ref().expect("a record is being written").record;
        let carrier = match target {
            Target::Member(member) => Carrier::Member(member),
            Target::Spare(identity) => {
                let mut spares = (0u8..).zip(&record.spares);
                let own = spares.find(|(_, spare)| **spare == identity);
                Carrier::Spare(own.expect("a spare that is written is in the record").0)
            }
        };
        encode(&Superblock {
            record: record.clone(),
            carrier,
            drive_bytes,
        })
    }

    pub(super) fn superblock_written(
        &mut self,
        io: SuperblockIo,
        result: Result<(), DriveError>,
        out: &mut Vec<Action>,
    ) {
        let is_other = self.intent_written(io, result, out) || self.lost_written(io, result, out);
        if is_other || self.page_written(io, result, out) {
            return;
        }
        let update = self.update.as_mut().expect("a write belongs to an update");
        let at = update
            .writes
            .iter()
            .position(|writes| writes.io == Some(io))
            .expect("each write is answered once");
        let writes = &mut update.writes[at];
        writes.io = None;
        if result.is_err() {
            writes.left.clear();
        }
        let (target, ended) = (writes.target, writes.left.is_empty());
        let generation = update.record.generation;
        match (target, result) {
            (_, Ok(())) if !ended => self.write_next(at, out),
            (Target::Member(_), Ok(())) => {
                let list = Some(self.lost_version());
                let seat = self.seat_of_mut(target);
                seat.took(generation);
                seat.list = list;
            }
            (Target::Spare(_), Ok(())) => self.seat_of_mut(target).took(generation),
            (Target::Member(member), Err(error)) => {
                update.refused |= 1 << member.0;
                self.lose(member, LossReason::Superblock(error), out);
            }
            (Target::Spare(spare), Err(error)) => self.lose_spare(spare, error, out),
        }
        let update = self.update.as_ref().expect("it is still under way");
        if update.writes.iter().all(|writes| writes.io.is_none()) {
            let update = self.update.take().expect("it is still under way");
            self.finish(update, out);
        }
    }

    /// Every write of an update has been answered.
    pub(super) fn finish(&mut self, update: Update, out: &mut Vec<Action>) {
        let first_failed = self.record.forming && update.record.forming && update.refused != 0;
        self.record = update.record;
        self.faults &= !self.gone_mask();
        let record = &self.record;
        self.spares
            .retain(|spare| record.spares.contains(&spare.identity));
        match self.phase {
            Phase::RollingForward if first_failed => {} // `advance` ends it.
            Phase::RollingForward => match self.restoring {
                Some(expansion) => self.write_restored(expansion, out),
                None => self.begin_opening(out),
            },
            // Whoever refused it is known to the caller, who looks at the drives once more.
            Phase::Restoring => {
                self.phase = Phase::Stopped;
                out.push(Action::Restored);
            }
            Phase::Opening | Phase::Open if update.refused == 0 => self.announce(out),
            // Not announced: the next update, without those that refused, will be.
            Phase::Opening | Phase::Open => {
                assert_ne!(self.faults, 0, "who refused an update is on the way out")
            }
            Phase::AwaitingStart
            | Phase::Persisting
            | Phase::Following
            | Phase::Stopped
            | Phase::Failed(_) => {
                unreachable!("no update is under way then")
            }
        }
    }

    pub(super) fn seat_of(&self, target: Target) -> &Seat {
        match target {
            Target::Member(member) => self.seat(member),
            Target::Spare(identity) => {
                let spare = self.spares.iter().find(|spare| spare.identity == identity);
                &spare.expect("a spare that is written has a seat").seat
            }
        }
    }

    pub(super) fn seat_of_mut(&mut self, target: Target) -> &mut Seat {
        match target {
            Target::Member(member) => &mut self.seats[usize::from(member.0)],
            Target::Spare(identity) => {
                let spare = self.spares.iter_mut().find(|spare| spare.identity == identity);
                &mut spare.expect("a spare that is written has a seat").seat
            }
        }
    }
}
