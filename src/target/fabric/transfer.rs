//! The commands of one core for drives of shelves: cut into parts that a target takes, in order, and sent again after a lost connection
//! where that is safe.
//!
//! Pure. Owns what is under way and what waits; a core tells it of parts that ended and of routes that open and close. A command that was
//! lost with its connection has an unknown outcome and is *unsettled* until the drive has a route of a later association: by then the
//! lost one is fenced. It is then sent again as a whole, from the same memory, unless its engine was told an error in between.
//!
//! Invariants: each command ends in exactly one [`Ended`], at which no part of its memory is with a connection any more; one that writes
//! is never sent again before it is settled, and never after [`Transfers::forsake`]; the number of commands is bounded by their owners.

use std::collections::VecDeque;

use reactor::Span;

use crate::drive::DriveError;
use crate::target::drives::{FlightKey, Kind};

/// Whose a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// An engine's.
    Flight(FlightKey),
    /// A superblock of the control core, by the number of the write.
    Superblock(u64),
}

/// Whether a drive may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Not now: commands wait.
    Down,
    /// Over the association of this attempt to connect; those of earlier ones are fenced.
    Up {
        /// Which attempt.
        attempt: u32,
    },
    /// Every command fails.
    Refused {
        /// Like this.
        error: DriveError,
        /// Nothing of earlier associations can take effect any more.
        settled: bool,
    },
}

impl Route {
    /// Whether commands are sent.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Whose.
    pub errand: Errand,
    /// Of which drive.
    pub drive: u16,
    /// What is asked.
    pub kind: Kind,
    /// First byte on the drive.
    pub at: u64,
    /// Length in bytes; 0 for a flush.
    pub bytes: u32,
    /// Its memory; `None` for commands without data.
    pub span: Option<Span>,
}

/// A part of a command that is to be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The command's name here.
    pub transfer: u32,
    /// What is asked.
    pub kind: Kind,
    /// First byte on the drive.
    pub at: u64,
    /// Length in bytes; 0 for a flush.
    pub bytes: u32,
    /// Its memory.
    pub span: Option<Span>,
}

/// A command that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose it was.
    pub errand: Errand,
    /// How it went.
    pub result: Result<(), DriveError>,
}

#[derive(Clone, Copy, Debug)]
struct Transfer {
    wanted: Wanted,
    /// Bytes in parts that were sent.
    issued: u32,
    /// A flush was sent.
    flushed: bool,
    /// Parts that are not over.
    outstanding: u16,
    /// The first error that a part had.
    error: Option<DriveError>,
    /// A part was lost with its connection.
    lost: bool,
    /// The attempt whose association its parts went over.
    attempt: u32,
    /// Its owner was told an error, or is about to be: it is not sent again.
    forsaken: bool,
}

impl Transfer {
    fn writes(&self) -> bool {
        matches!(self.wanted.kind, Kind::Write { .. } | Kind::Zero { .. })
    }

    fn is_issued(&self) -> bool {
        match self.wanted.kind {
            Kind::Flush => self.flushed,
            Kind::Read | Kind::Write { .. } | Kind::Zero { .. } => self.issued == self.wanted.bytes,
        }
    }
}

#[derive(Debug)]
struct Lane {
    route: Route,
    /// Commands with parts to be sent, in order.
    waiting: VecDeque<u32>,
    /// Commands that were lost with a connection, in order.
    unsettled: VecDeque<u32>,
}

/// The commands of one core.
#[derive(Debug)]
pub struct Transfers {
    entries: Vec<Option<Transfer>>,
    free: Vec<u32>,
    /// By drive of the node.
    lanes: Vec<Lane>,
}

impl Transfers {
    /// None, of this many drives, none of which may be used yet.
    pub fn new(drives: usize) -> Self {
        let lane = || Lane {
            route: Route::Down,
            waiting: VecDeque::new(),
            unsettled: VecDeque::new(),
        };
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            lanes: (0..drives).map(|_| lane()).collect(),
        }
    }

    /// Begins a command, which waits for its turn. Errs at once for a drive that refuses all.
    pub fn begin(&mut self, wanted: Wanted) -> Result<(), DriveError> {
        let lane = &mut self.lanes[usize::from(wanted.drive)];
        if let Route::Refused { error, .. } = lane.route {
            return Err(error);
        }
        let transfer = Some(Transfer {
            wanted,
            issued: 0,
            flushed: false,
            outstanding: 0,
            error: None,
            lost: false,
            attempt: 0,
            forsaken: false,
        });
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = transfer;
                index
            }
            None => {
                self.entries.push(transfer);
                u32::try_from(self.entries.len() - 1).expect("a core has far fewer commands")
            }
        };
        lane.waiting.push_back(index);
        Ok(())
    }

    fn transfer(&mut self, index: u32) -> &mut Transfer {
        self.entries[index as usize].as_mut().expect("it is under way")
    }

    /// The drive of a command that is under way.
    pub fn drive(&self, index: u32) -> u16 {
        let transfer = self.entries[index as usize].as_ref();
        transfer.expect("it is under way").wanted.drive
    }

    /// Whether a command of this drive could be sent.
    pub fn is_sendable(&self, drive: u16) -> bool {
        let lane = &self.lanes[usize::from(drive)];
        lane.route.is_up() && !lane.waiting.is_empty()
    }

    /// What the next part of a drive asks, so that its length can be found.
    pub fn next_kind(&mut self, drive: u16) -> Option<Kind> {
        if !self.is_sendable(drive) {
            return None;
        }
        let index = *self.lanes[usize::from(drive)].waiting.front()?;
        Some(self.transfer(index).wanted.kind)
    }

    /// The next part of a drive, at most `bytes_max` long. Panics if nothing is sendable.
    pub fn next_part(&mut self, drive: u16, bytes_max: u32) -> Part {
        let lane = &self.lanes[usize::from(drive)];
        let Route::Up { attempt } = lane.route else {
            panic!("is_sendable() says so")
        };
        let index = *lane.waiting.front().expect("is_sendable() says so");
        let transfer = self.transfer(index);
        assert!(!transfer.is_issued() && !transfer.lost && bytes_max > 0);
        let wanted = transfer.wanted;
        let bytes = (wanted.bytes - transfer.issued).min(bytes_max);
        let part = Part {
            transfer: index,
            kind: wanted.kind,
            at: wanted.at + u64::from(transfer.issued),
            bytes,
            span: wanted.span.map(|span| span.part(transfer.issued, bytes)),
        };
        transfer.issued += bytes;
        transfer.flushed = wanted.kind == Kind::Flush;
        transfer.outstanding += 1;
        transfer.attempt = attempt;
        if transfer.is_issued() {
            self.lanes[usize::from(drive)].waiting.pop_front();
        }
        part
    }

    /// A part is over; `None`: it was lost with its connection. Its memory may still be lent.
    pub fn part_ended(&mut self, index: u32, result: Option<Result<(), DriveError>>) {
        let transfer = self.transfer(index);
        assert!(transfer.outstanding > 0, "a part ends once");
        match result {
            Some(Ok(())) => {}
            Some(Err(error)) => transfer.error = transfer.error.or(Some(error)),
            None => transfer.lost = true,
        }
        if (transfer.lost || transfer.error.is_some()) && !transfer.is_issued() {
            // The rest is not sent.
            let drive = usize::from(transfer.wanted.drive);
            transfer.issued = transfer.wanted.bytes;
            self.lanes[drive].waiting.retain(|waiting| *waiting != index);
        }
    }

    /// The memory of a part that is over is not lent any more.
    pub fn part_released(&mut self, index: u32) -> Option<Ended> {
        let transfer = self.transfer(index);
        transfer.outstanding -= 1;
        if transfer.outstanding > 0 || !transfer.is_issued() {
            return None;
        }
        if !transfer.lost {
            let result = transfer.error.map_or(Ok(()), Err);
            return Some(self.end(index, result));
        }
        let drive = usize::from(transfer.wanted.drive);
        let (attempt, writes, forsaken) = (transfer.attempt, transfer.writes(), transfer.forsaken);
        match self.lanes[drive].route {
            Route::Up { attempt: now } if now > attempt => self.settle(index),
            Route::Refused { error, settled } if settled || !writes => Some(self.end(index, Err(error))),
            Route::Down | Route::Up { .. } if forsaken && !writes => {
                Some(self.end(index, Err(DriveError::Gone)))
            }
            Route::Down | Route::Up { .. } | Route::Refused { .. } => {
                self.lanes[drive].unsettled.push_back(index);
                None
            }
        }
    }

    /// What was lost can take effect no more: it is sent again, unless nobody wants that.
    fn settle(&mut self, index: u32) -> Option<Ended> {
        let transfer = self.transfer(index);
        assert!(transfer.lost && transfer.outstanding == 0);
        if transfer.forsaken {
            return Some(self.end(index, Err(DriveError::Gone)));
        }
        (transfer.issued, transfer.flushed) = (0, false);
        (transfer.error, transfer.lost) = (None, false);
        let drive = usize::from(transfer.wanted.drive);
        self.lanes[drive].waiting.push_back(index);
        None
    }

    fn end(&mut self, index: u32, result: Result<(), DriveError>) -> Ended {
        let transfer = self.entries[index as usize].take().expect("it is under way");
        assert_eq!(transfer.outstanding, 0, "nothing of it is with a connection");
        self.free.push(index);
        Ended {
            errand: transfer.wanted.errand,
            result,
        }
    }

    /// Whether something that was written to a drive was lost with its connection, and may still take effect.
    pub fn is_in_doubt(&self, drive: u16) -> bool {
        let mut unsettled = self.lanes[usize::from(drive)].unsettled.iter();
        unsettled.any(|index| {
            self.entries[*index as usize]
                .as_ref()
                .is_some_and(Transfer::writes)
        })
    }

    /// Nothing is sent to a drive before its next route.
    pub fn hold(&mut self, drive: u16) {
        let lane = &mut self.lanes[usize::from(drive)];
        if lane.route.is_up() {
            lane.route = Route::Down;
        }
    }

    /// A drive may be used, or not any more. Commands that are over by that go to `ended`.
    pub fn set_route(&mut self, drive: u16, route: Route, ended: &mut Vec<Ended>) {
        let lane = &mut self.lanes[usize::from(drive)];
        lane.route = route;
        match route {
            Route::Down => {}
            Route::Up { attempt } => {
                // Behind them goes what has waited meanwhile.
                let waiting = std::mem::take(&mut lane.waiting);
                for index in std::mem::take(&mut lane.unsettled) {
                    assert!(
                        self.transfer(index).attempt < attempt,
                        "a lost association is not used again"
                    );
                    ended.extend(self.settle(index));
                }
                self.lanes[usize::from(drive)].waiting.extend(waiting);
            }
            Route::Refused { error, settled } => {
                self.end_waiting(drive, error, ended);
                for index in std::mem::take(&mut self.lanes[usize::from(drive)].unsettled) {
                    if settled || !self.transfer(index).writes() {
                        ended.push(self.end(index, Err(error)));
                    } else {
                        self.lanes[usize::from(drive)].unsettled.push_back(index);
                    }
                }
            }
        }
    }

    /// Ends what waits; of a command that is half sent the rest is not.
    fn end_waiting(&mut self, drive: u16, error: DriveError, ended: &mut Vec<Ended>) {
        for index in std::mem::take(&mut self.lanes[usize::from(drive)].waiting) {
            let transfer = self.transfer(index);
            if transfer.outstanding == 0 {
                ended.push(self.end(index, Err(error)));
            } else {
                transfer.issued = transfer.wanted.bytes;
                transfer.error = transfer.error.or(Some(error));
                transfer.forsaken = true;
            }
        }
    }

    /// The owners of a drive's commands are told errors: nothing more is sent for them. What nobody can be harmed by ends at once.
    pub fn forsake(&mut self, drive: u16, ended: &mut Vec<Ended>) {
        self.end_waiting(drive, DriveError::Gone, ended);
        let of_drive = |transfer: &&mut Transfer| transfer.wanted.drive == drive;
        let transfers = self.entries.iter_mut().flatten();
        transfers
            .filter(of_drive)
            .for_each(|transfer| transfer.forsaken = true);
        for index in std::mem::take(&mut self.lanes[usize::from(drive)].unsettled) {
            if self.transfer(index).writes() {
                self.lanes[usize::from(drive)].unsettled.push_back(index);
            } else {
                ended.push(self.end(index, Err(DriveError::Gone)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Kind = Kind::Write { fua: true };

    fn transfers() -> Transfers {
        let mut transfers = Transfers::new(2);
        transfers.set_route(0, Route::Up { attempt: 0 }, &mut Vec::new());
        transfers
    }

    fn begin(transfers: &mut Transfers, number: u64, kind: Kind, bytes: u32) {
        let wanted = Wanted {
            errand: Errand::Superblock(number),
            drive: 0,
            kind,
            at: 4096 * number,
            bytes,
            span: None,
        };
        transfers.begin(wanted).unwrap();
    }

    fn ended(number: u64, result: Result<(), DriveError>) -> Ended {
        let errand = Errand::Superblock(number);
        Ended { errand, result }
    }

    fn send(transfers: &mut Transfers, bytes_max: u32) -> Part {
        assert!(transfers.is_sendable(0));
        transfers.next_part(0, bytes_max)
    }

    fn answer(
        transfers: &mut Transfers,
        part: Part,
        result: Option<Result<(), DriveError>>,
    ) -> Option<Ended> {
        transfers.part_ended(part.transfer, result);
        transfers.part_released(part.transfer)
    }

    fn route(transfers: &mut Transfers, route: Route) -> Vec<Ended> {
        let mut ended = Vec::new();
        transfers.set_route(0, route, &mut ended);
        ended
    }

    fn forsake(transfers: &mut Transfers) -> Vec<Ended> {
        let mut ended = Vec::new();
        transfers.forsake(0, &mut ended);
        ended
    }

    #[test]
    fn commands_are_cut_and_end_with_their_last_part() {
        let mut transfers = transfers();
        begin(&mut transfers, 1, Kind::Read, 10_000);
        begin(&mut transfers, 2, Kind::Flush, 0);
        let parts = [(); 3].map(|()| send(&mut transfers, 4096));
        assert_eq!(
            parts.map(|part| (part.at, part.bytes)),
            [(4096, 4096), (8192, 4096), (12_288, 1808)]
        );
        let flush = send(&mut transfers, 4096);
        assert!(!transfers.is_sendable(0) && flush.kind == Kind::Flush);
        assert_eq!(answer(&mut transfers, parts[2], Some(Ok(()))), None);
        assert_eq!(
            answer(&mut transfers, flush, Some(Ok(()))),
            Some(ended(2, Ok(())))
        );
        assert_eq!(
            answer(&mut transfers, parts[0], Some(Err(DriveError::Media))),
            None
        );
        let last = answer(&mut transfers, parts[1], Some(Ok(())));
        assert_eq!(last, Some(ended(1, Err(DriveError::Media))));
    }

    #[test]
    fn after_an_error_the_rest_is_not_sent() {
        let mut transfers = transfers();
        begin(&mut transfers, 1, WRITE, 10_000);
        let part = send(&mut transfers, 4096);
        assert_eq!(
            answer(&mut transfers, part, Some(Err(DriveError::OutOfRange))),
            Some(ended(1, Err(DriveError::OutOfRange)))
        );
        assert!(!transfers.is_sendable(0));
    }

    #[test]
    fn what_was_lost_is_sent_again_before_what_waited_and_only_over_a_later_association() {
        let mut transfers = transfers();
        begin(&mut transfers, 1, WRITE, 8192);
        begin(&mut transfers, 2, Kind::Read, 4096);
        let (first, second) = (send(&mut transfers, 4096), send(&mut transfers, 4096));
        let read = send(&mut transfers, 4096);
        assert_eq!(answer(&mut transfers, first, Some(Ok(()))), None);
        assert_eq!(answer(&mut transfers, read, None), None);
        assert!(!transfers.is_in_doubt(0), "a read harms nobody");
        assert_eq!(answer(&mut transfers, second, None), None);
        assert!(transfers.is_in_doubt(0) && !transfers.is_in_doubt(1));
        begin(&mut transfers, 3, WRITE, 4096);
        transfers.hold(0);
        assert!(!transfers.is_sendable(0));
        assert_eq!(route(&mut transfers, Route::Down), []);
        assert!(!transfers.is_sendable(0));
        assert_eq!(route(&mut transfers, Route::Up { attempt: 4 }), []);
        let order: Vec<Part> = (0..4).map(|_| send(&mut transfers, 4096)).collect();
        assert_eq!(order[0].transfer, read.transfer);
        assert_eq!(order[1].transfer, first.transfer);
        assert_eq!((order[1].at, order[2].at), (4096, 8192), "as a whole");
        assert_eq!(order[3].at, 3 * 4096);
        // A connection that ends late: its association is fenced by then.
        assert_eq!(route(&mut transfers, Route::Down), []);
        assert_eq!(route(&mut transfers, Route::Up { attempt: 5 }), []);
        assert_eq!(answer(&mut transfers, order[3], None), None);
        assert_eq!(send(&mut transfers, 4096).at, 3 * 4096);
    }

    #[test]
    fn a_write_that_was_given_up_is_not_sent_again_and_ends_when_it_is_settled() {
        let mut transfers = transfers();
        begin(&mut transfers, 1, WRITE, 4096);
        begin(&mut transfers, 2, Kind::Read, 4096);
        begin(&mut transfers, 3, WRITE, 8192);
        begin(&mut transfers, 4, WRITE, 4096);
        let write = send(&mut transfers, 4096);
        let read = send(&mut transfers, 4096);
        let half = send(&mut transfers, 4096);
        route(&mut transfers, Route::Down);
        assert_eq!(answer(&mut transfers, write, None), None);
        assert_eq!(answer(&mut transfers, read, None), None);
        let gone = Err(DriveError::Gone);
        assert_eq!(forsake(&mut transfers), [ended(4, gone), ended(2, gone)]);
        assert_eq!(answer(&mut transfers, half, None), None);
        assert_eq!(
            route(&mut transfers, Route::Up { attempt: 1 }),
            [ended(1, gone), ended(3, gone)]
        );
        assert!(!transfers.is_sendable(0));
    }

    #[test]
    fn a_drive_that_refuses_ends_everything_but_writes_that_may_still_take_effect() {
        for settled in [false, true] {
            let mut transfers = transfers();
            begin(&mut transfers, 1, WRITE, 4096);
            begin(&mut transfers, 2, Kind::Flush, 0);
            let (write, flush) = (send(&mut transfers, 4096), send(&mut transfers, 4096));
            begin(&mut transfers, 3, WRITE, 4096);
            assert_eq!(answer(&mut transfers, write, None), None);
            assert_eq!(answer(&mut transfers, flush, None), None);
            let error = DriveError::Fenced;
            let over = route(&mut transfers, Route::Refused { error, settled });
            let mut expected = vec![ended(3, Err(error)), ended(1, Err(error)), ended(2, Err(error))];
            expected.retain(|end| settled || end.errand != Errand::Superblock(1));
            assert_eq!(over, expected);
            let wanted = Wanted {
                errand: Errand::Superblock(9),
                drive: 0,
                kind: Kind::Read,
                at: 0,
                bytes: 512,
                span: None,
            };
            assert_eq!(transfers.begin(wanted), Err(error));
            let rest = route(&mut transfers, Route::Up { attempt: 1 });
            assert_eq!(rest, []);
            assert_eq!(transfers.is_sendable(0), !settled, "the write is sent again");
        }
    }
}
