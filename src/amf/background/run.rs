//! One run of a process over the rows of a group: what was handed out, answered, and made durable.

use std::collections::VecDeque;

use super::{Process, RowAnswer};

/// Rows between the first that is not answered and the last that was handed out: one slow row must not end in an
/// endless list of answered ones behind it. Four windows.
const SPAN_MAX: usize = 4 * super::WINDOW_MAX as usize;

/// A row that was handed out.
#[derive(Clone, Copy, Debug)]
struct Issued {
    row: u64,
    /// The row behind the last that was handed out with it.
    to_row: u64,
    is_clean: bool,
    answer: Option<RowAnswer>,
}

/// An answered row that progress covers from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Covered {
    pub(super) row: u64,
    pub(super) to_row: u64,
    pub(super) is_clean: bool,
    pub(super) answer: RowAnswer,
}

/// One run.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) process: Process,
    /// Tells runs over different drives apart; 0 for a process without.
    pub(super) identity: (u32, u64),
    rows: u64,
    next_row: u64,
    /// Handed out and not yet covered, ascending and without gaps.
    issued: VecDeque<Issued>,
    unanswered: u32,
    /// The first row that failed.
    failed_row: Option<u64>,
    durable_row: u64,
    /// The progress that the flush under way is for.
    flushing: Option<u64>,
    /// Nothing more comes of it; what is under way ends.
    pub(super) abandoned: bool,
}

impl Run {
    pub(super) fn new(process: Process, identity: (u32, u64), from_row: u64, rows: u64) -> Self {
        assert!(from_row <= rows, "a run stays inside the group");
        Self {
            process,
            identity,
            rows,
            next_row: from_row,
            issued: VecDeque::with_capacity(SPAN_MAX),
            unanswered: 0,
            failed_row: None,
            durable_row: from_row,
            flushing: None,
            abandoned: false,
        }
    }

    /// Rows below it are done: they were answered, and so were all before them.
    pub(super) fn covered_row(&self) -> u64 {
        self.issued.front().map_or(self.next_row, |issued| issued.row)
    }

    pub(super) const fn durable_row(&self) -> u64 {
        self.durable_row
    }

    pub(super) const fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Nothing is under way.
    pub(super) const fn is_quiet(&self) -> bool {
        self.unanswered == 0 && self.flushing.is_none()
    }

    /// Every row is covered.
    pub(super) fn is_over(&self) -> bool {
        self.covered_row() == self.rows
    }

    /// The next row to hand out, if the window has room for one.
    pub(super) fn next(&self, window: u32) -> Option<u64> {
        let room = self.unanswered < window && self.issued.len() < SPAN_MAX;
        (room && self.failed_row.is_none() && !self.abandoned && self.next_row < self.rows)
            .then_some(self.next_row)
    }

    /// The next row is handed out.
    pub(super) fn issue(&mut self, is_clean: bool) {
        self.issue_to(self.next_row + 1, is_clean);
    }

    /// The rows up to this one are handed out as one, which is answered under the name of the first; nothing else is under way then.
    pub(super) fn issue_to(&mut self, to_row: u64, is_clean: bool) {
        assert!(
            self.next_row < to_row && to_row <= self.rows,
            "a run stays inside the group"
        );
        self.issued.push_back(Issued {
            row: self.next_row,
            to_row,
            is_clean,
            answer: None,
        });
        self.next_row = to_row;
        self.unanswered += 1;
    }

    /// A row was answered.
    ///
    /// Panics if it was not handed out, or answered before.
    pub(super) fn answered(&mut self, row: u64, answer: RowAnswer) {
        let first = self.covered_row();
        let at = row.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        let issued = at
            .and_then(|at| self.issued.get_mut(at))
            .expect("a row is answered after it was handed out");
        assert!(issued.answer.is_none(), "a row is answered once");
        issued.answer = Some(answer);
        self.unanswered -= 1;
        match answer {
            RowAnswer::Done | RowAnswer::Mismatched(_) => {}
            RowAnswer::Failed | RowAnswer::Refused => {
                self.failed_row = Some(self.failed_row.map_or(row, |first| first.min(row)));
            }
        }
    }

    /// Takes the first row off the list, if it is done.
    pub(super) fn cover(&mut self) -> Option<Covered> {
        let first = self.issued.front()?;
        let answer = first.answer?;
        match answer {
            RowAnswer::Done | RowAnswer::Mismatched(_) => {}
            RowAnswer::Failed | RowAnswer::Refused => return None,
        }
        let covered = Covered {
            row: first.row,
            to_row: first.to_row,
            is_clean: first.is_clean,
            answer,
        };
        self.issued.pop_front();
        Some(covered)
    }

    /// Once all rows are answered, goes back to the first that failed; says which it is, and whether it was not
    /// even begun.
    pub(super) fn rewind(&mut self) -> Option<(u64, RowAnswer)> {
        if self.unanswered > 0 {
            return None;
        }
        let row = self.failed_row.take()?;
        assert_eq!(row, self.covered_row(), "the rows before it are covered");
        let answer = self.issued.front().and_then(|first| first.answer);
        self.issued.clear();
        self.next_row = row;
        Some((row, answer.expect("every row is answered")))
    }

    /// Passes over the next row. Only after `rewind`.
    pub(super) fn pass_over(&mut self) {
        assert!(self.issued.is_empty(), "nothing is handed out");
        self.next_row += 1;
    }

    /// A flush begins for all rows that are covered.
    pub(super) fn flush(&mut self) {
        assert!(self.flushing.is_none(), "one flush at a time");
        self.flushing = Some(self.covered_row());
    }

    /// The flush has ended. Says the first row that is left when there is progress to tell.
    pub(super) fn flushed(&mut self, done: bool) -> Option<u64> {
        let row = self.flushing.take().expect("a flush is answered once");
        if !done {
            return None;
        }
        self.durable_row = row;
        Some(row)
    }
}
