//! Which ways a lock can take were taken in a search: those of Figures 18 to 20, and those that this protocol adds.

use std::sync::atomic::{AtomicU32, Ordering};

use super::super::message::Message;
use super::super::station::Wire;
use super::super::*;
use crate::amf::lock::Held;

/// By its bit.
pub(super) const PATHS: [&str; 14] = [
    "a request is granted at once (1424, 1426)",
    "a request makes a holder release (1420, 1422)",
    "a release brings a grant (1430, 1432)",
    "a grant says that others wait (1432, 1456)",
    "a writer keeps reading (1330)",
    "the arbitership moves with a write grant (1350)",
    "and takes along who waits",
    "a request finds the arbitership gone",
    "an arbitership goes home",
    "two readers are asked for one writer (1446, 1448)",
    "a prefetched lock rides in a grant",
    "a prefetched lock is busy",
    "dirty data goes with a grant",
    "dirty data without a taker goes back",
];

pub(super) fn note_paths(
    taken: &AtomicU32,
    cause: Option<&Message>,
    local: Slot,
    epoch: Epoch,
    sent: &[(Slot, Wire)],
) {
    let note = |path: usize, is_taken: bool| {
        if is_taken {
            taken.fetch_or(1 << path, Ordering::Relaxed);
        }
    };
    let request = match cause {
        Some(Message::Request(request)) => Some(request),
        Some(_) | None => None,
    };
    let mut recalls = 0;
    for (to, wire) in sent {
        let Wire::Lock(message) = wire else { continue };
        match message {
            Message::Grant(grant) => {
                note(0, request.is_some_and(|request| request.number == grant.number));
                note(2, matches!(cause, Some(Message::Released { .. })));
                note(3, grant.when_done.is_some());
                note(5, grant.seat.is_some());
                note(6, grant.seat.is_some_and(|seat| seat.waiting.is_some()));
                note(10, grant.prefetch != Prefetch::NONE);
                let asked = request.map_or(Prefetch::NONE, |request| request.prefetch);
                note(11, asked.count() > grant.prefetch.count());
                note(12, grant.hand_over.is_some());
                note(13, grant.mode.is_write() && grant.token.epoch < epoch);
            }
            Message::Recall { .. } => {
                recalls += 1;
                note(1, request.is_some());
                note(9, recalls == 2);
            }
            Message::Released { kept, .. } => note(4, *kept == Held::Read),
            Message::Moved { .. } => note(7, true),
            Message::Returned { .. } => note(8, *to != local),
            Message::Request(_)
            | Message::Refused { .. }
            | Message::Taken { .. }
            | Message::Noted { .. }
            | Message::Report { .. }
            | Message::ReportTaken { .. } => {}
        }
    }
}
