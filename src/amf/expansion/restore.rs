//! After a stop in a scratch wave: what the scratch area holds goes to its place, before anything else is done to the group.
//!
//! One run takes the record one step further: from [`ScratchState::Holds`] to `Dirty` with the wave's end as the frontier,
//! or from `Dirty` to `Clean`, when zeroes lie where users' data could be taken for a record of the journal. The caller makes
//! the record of [`Restore::record`] durable after each run, and runs until [`ExpansionRecord::awaits_restore`] is false; then the journal is
//! replayed. Every step may be interrupted anywhere and done again (PROTOCOL I12): until the record says otherwise, nobody writes what it
//! reads. Each member has its own strips in its own area, so that nothing is computed, and lost members are skipped.
//!
//! It asks and is told like a [`Replay`](crate::amf::journal::replay::Replay), and is driven by the same loop.

use std::collections::{BTreeMap, VecDeque};

use super::{ExpansionRecord, Layout, ScratchArea, ScratchState, WAVE_ROWS_MAX};
use crate::amf::geometry::Geometry;
use crate::amf::journal::replay::{Action, Event, IN_FLIGHT_MAX, IoId, ReplayError, Report};
use crate::amf::{MemberIndex, RowIndex};
use crate::drive::block::MemberLba;

/// A strip on its way.
#[derive(Clone, Copy, Debug)]
struct Strip {
    member: MemberIndex,
    /// Where it is read; `None` for zeroes.
    from: Option<MemberLba>,
    to: MemberLba,
}

#[derive(Clone, Copy, Debug)]
enum Flying {
    Read(Strip),
    Write(MemberIndex),
    Flush(MemberIndex),
}

/// See the module.
#[derive(Debug)]
pub struct Restore {
    geometry: Geometry,
    failed: u32,
    after: ExpansionRecord,
    strips: VecDeque<Strip>,
    flying: BTreeMap<IoId, Flying>,
    next_io: u64,
    flushed: bool,
    ended: bool,
}

impl Restore {
    /// Prepares one step. `failed` names the members that are lost, durably so; bit `i` is member `i`.
    ///
    /// Panics if there is nothing to do, or if the record does not belong to the layout.
    pub fn new(layout: &Layout, record: ExpansionRecord, area: ScratchArea, failed: u32) -> Self {
        let geometry = *layout.widest();
        assert_eq!(record.frontier, layout.frontier(), "the layout is the record's");
        let (rows, after) = match record.scratch {
            ScratchState::Clean => panic!("a clean scratch area needs nothing"),
            ScratchState::Dirty => {
                let most = area.rows(&geometry).min(WAVE_ROWS_MAX);
                let clean = ScratchState::Clean;
                (
                    0..most,
                    ExpansionRecord {
                        scratch: clean,
                        ..record
                    },
                )
            }
            ScratchState::Holds { to } => {
                assert!(record.frontier < to && to <= geometry.rows(), "a wave has rows");
                let after = ExpansionRecord {
                    frontier: to,
                    scratch: ScratchState::Dirty,
                    ..record
                };
                (record.frontier..to, after)
            }
        };
        let holds = matches!(record.scratch, ScratchState::Holds { .. });
        let first = rows.start;
        let mut strips = VecDeque::new();
        let live = (0..geometry.members()).filter(|member| failed >> member & 1 == 0);
        for (row, member) in rows.flat_map(|row| live.clone().map(move |member| (RowIndex(row), member))) {
            let kept = area.place(&geometry, first, row);
            let offsets = (0..geometry.member_row_blocks()).step_by(geometry.strip_blocks() as usize);
            strips.extend(offsets.map(|offset| {
                let kept = MemberLba(kept.0 + u64::from(offset));
                Strip {
                    member: MemberIndex(member),
                    from: holds.then_some(kept),
                    to: if holds {
                        geometry.member_lba(row, offset)
                    } else {
                        kept
                    },
                }
            }));
        }
        Self {
            geometry,
            failed,
            after,
            strips,
            flying: BTreeMap::new(),
            next_io: 0,
            flushed: false,
            ended: false,
        }
    }

    /// The record that is to be made durable after [`Action::Done`].
    pub const fn record(&self) -> ExpansionRecord {
        self.after
    }

    /// Takes an event; what is to be done next goes to `out`. An error of a member ends it: the group is to be started without that
    /// member, whatever it could not do.
    ///
    /// Panics at an answer to what was not asked, or to something else.
    pub fn handle(&mut self, event: Event, out: &mut Vec<Action>) {
        if self.ended {
            return;
        }
        let result = match event {
            Event::Start => Ok(()),
            Event::ReadDone { io, result } => {
                let Some(Flying::Read(strip)) = self.flying.remove(&io) else {
                    panic!("{io:?} is no read in flight")
                };
                result
                    .map(|data| self.write(strip, data, out))
                    .map_err(|error| (strip.member, error))
            }
            Event::Written { io, result } => {
                let Some(Flying::Write(member)) = self.flying.remove(&io) else {
                    panic!("{io:?} is no write in flight")
                };
                result.map_err(|error| (member, error))
            }
            Event::Flushed { io, result } => {
                let Some(Flying::Flush(member)) = self.flying.remove(&io) else {
                    panic!("{io:?} is no flush in flight")
                };
                result.map_err(|error| (member, error))
            }
        };
        match result {
            Ok(()) => self.advance(out),
            Err((member, error)) => {
                self.ended = true;
                out.push(Action::Failed(ReplayError::Member { member, error }));
            }
        }
    }

    fn advance(&mut self, out: &mut Vec<Action>) {
        while self.flying.len() < IN_FLIGHT_MAX
            && let Some(strip) = self.strips.pop_front()
        {
            match strip.from {
                Some(lba) => {
                    let io = self.fly(Flying::Read(strip));
                    out.push(Action::Read {
                        io,
                        member: strip.member,
                        lba,
                        blocks: self.geometry.strip_blocks(),
                    });
                }
                None => self.write(strip, vec![0; self.geometry.strip_bytes() as usize], out),
            }
        }
        if !self.flying.is_empty() {
            return;
        }
        if self.flushed {
            self.ended = true;
            return out.push(Action::Done(Report::default()));
        }
        self.flushed = true;
        for member in (0..self.geometry.members()).map(MemberIndex) {
            if self.failed >> member.0 & 1 == 0 {
                let io = self.fly(Flying::Flush(member));
                out.push(Action::Flush { io, member });
            }
        }
    }

    fn write(&mut self, strip: Strip, data: Vec<u8>, out: &mut Vec<Action>) {
        let io = self.fly(Flying::Write(strip.member));
        out.push(Action::Write {
            io,
            member: strip.member,
            lba: strip.to,
            data,
            fua: false,
        });
    }

    fn fly(&mut self, flying: Flying) -> IoId {
        let io = IoId(self.next_io);
        self.next_io += 1;
        self.flying.insert(io, flying);
        io
    }
}
