//! One node's part in the locks of a shared group, with nothing behind it: the real protocol and lock table, and the one user of core 0, who is in
//! a row for no longer than it takes to come out again.

use std::sync::Arc;

use braid::amf::RowIndex;
use braid::amf::arbiter::{Arbitration, Config, Counters, QueueOrder, Rule};
use braid::amf::homes::Homes;
use braid::amf::journal::JournalShared;
use braid::amf::lock::{Acquire, HOME, LockTable, Mode};
use braid::amf::peering::note::Led;
use braid::amf::peering::{Action, Era, Peering};
use braid::amf::superblock::RECORD_BYTES;
use braid::icl::{Epoch, Slot, SlotSet};

/// The one epoch.
pub const EPOCH: Epoch = Epoch(1);
/// Lock words, as a node has them.
const LOCK_SLOTS: usize = 1 << 16;
/// Rows that a node holds or arbitrates.
const ROWS_MAX: usize = 1 << 17;

/// Sends a message: to whom, of which kind, its bytes.
pub type Send<'a> = &'a mut dyn FnMut(Slot, u16, &[&[u8]; 2]);

/// How far a node is in the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All arbiters know what it has.
    pub is_reported: bool,
    /// It leads, and the others may go on.
    pub is_recovered: bool,
    /// It grants locks.
    pub serves: bool,
}

/// See the module.
pub struct Member {
    local: Slot,
    peering: Peering,
    table: Arc<LockTable>,
    actions: Vec<Action>,
    body: Vec<u8>,
    /// How far it is.
    pub progress: Progress,
    /// The user has been told that the turn is its own.
    is_woken: bool,
}

/// The slot with this number.
pub fn slot(number: u8) -> Slot {
    Slot::new(number).expect("there are that many slots")
}

/// The first so many slots.
pub fn slots(count: u8) -> SlotSet {
    (0..count).map(slot).collect()
}

impl Member {
    /// A node that is in no epoch.
    pub fn new(local: Slot, hold_ns_min: u64) -> Self {
        let table = LockTable::shared(LOCK_SLOTS);
        let journal = Arc::new(JournalShared::joining(16, 1));
        let arbitration = Arbitration::new(Config {
            local,
            order: QueueOrder::Fifo,
            hold_ns_min,
            holder_limit: ROWS_MAX,
            arbiter_limit: ROWS_MAX,
            queue_max: 1 << 12,
        });
        let homes = Homes::new(local, Arc::clone(&table), journal, arbitration);
        Self {
            local,
            peering: Peering::new(local, 1, homes),
            table,
            actions: Vec::with_capacity(32),
            body: Vec::with_capacity(256),
            progress: Progress::default(),
            is_woken: false,
        }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        self.peering.homes().arbitration().counters()
    }

    /// The word of a row, to find rows that have one of their own.
    pub fn word(&self, row: RowIndex) -> u32 {
        self.table.slot(row)
    }

    /// Begins the epoch with so many members, of which slot 0 leads.
    pub fn enter(&mut self, now_ns: u64, members: u8, send: Send<'_>) {
        let members = slots(members);
        let era = Era {
            epoch: EPOCH,
            members,
            seniors: SlotSet::EMPTY,
            stayed: SlotSet::EMPTY,
            leader: slot(0),
            rule: Rule::preferred(members),
        };
        self.act(now_ns, send, |peering, out| peering.enter(now_ns, era, out));
        if self.local == slot(0) {
            self.act(now_ns, send, |peering, out| peering.recover(EPOCH, out));
        }
    }

    /// All nodes have reported, and the leader is done.
    pub fn open(&mut self, now_ns: u64, send: Send<'_>) {
        self.act(now_ns, send, |peering, out| peering.opened(now_ns, EPOCH, out));
    }

    /// A message has come in.
    pub fn receive(&mut self, now_ns: u64, from: Slot, kind: u16, bytes: &[u8], send: Send<'_>) {
        self.act(now_ns, send, |peering, out| {
            let received = peering.receive(now_ns, (from, EPOCH), (kind, bytes), out);
            received.expect("nodes here are sound");
        });
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64, send: Send<'_>) {
        if self.peering.wake_at_ns() <= now_ns {
            self.act(now_ns, send, |peering, out| peering.tick(now_ns, out));
        }
    }

    /// The user wants to be in a row. Whether it was at once, and is out again.
    pub fn want(&mut self, now_ns: u64, row: RowIndex, mode: Mode, send: Send<'_>) -> bool {
        match self.table.try_acquire(row, mode, 0) {
            Acquire::Acquired { .. } => {
                let wake = self.table.release(row, mode);
                self.turn_of_home(now_ns, wake.0, row, send);
                return true;
            }
            Acquire::Absent => self.act(now_ns, send, |peering, out| {
                peering.want(now_ns, 0, row, mode, false, out)
            }),
            Acquire::Busy { .. } => {} // Its home is in, for another node, and tells when it is out.
        }
        false
    }

    /// Whether the user has been told to try again since this was asked last.
    pub fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.is_woken)
    }

    fn turn_of_home(&mut self, now_ns: u64, mask: u16, row: RowIndex, send: Send<'_>) {
        self.is_woken |= mask & 1 == 1;
        if mask >> HOME & 1 == 1 {
            self.act(now_ns, send, |peering, out| peering.turn(now_ns, row, out));
        }
    }

    fn act(&mut self, now_ns: u64, send: Send<'_>, act: impl FnOnce(&mut Peering, &mut Vec<Action>)) {
        let mut actions = std::mem::take(&mut self.actions);
        act(&mut self.peering, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(now_ns, action, send);
        }
        self.actions = actions;
    }

    fn carry_out(&mut self, now_ns: u64, action: Action, send: Send<'_>) {
        match action {
            Action::Send { to, note } => {
                self.body.clear();
                note.encode(&mut self.body);
                let context = self.peering.context().encode();
                send(to, note.kind(), &[&context, &self.body]);
            }
            Action::WakeCores { mask, row } => self.turn_of_home(now_ns, mask, row, send),
            Action::BarrierDone(_) => self.progress.is_reported = true,
            Action::Recover(recovery) => {
                let led = Led {
                    drives: Vec::new(),
                    record: Box::new([0; RECORD_BYTES]),
                };
                self.act(now_ns, send, |peering, out| {
                    peering.replayed(now_ns, recovery.epoch, led, None, out);
                });
            }
            Action::Recovered(_) => self.progress.is_recovered = true,
            Action::Follow(_) => self.act(now_ns, send, |peering, out| peering.is_open(now_ns, out)),
            Action::Serve => self.progress.serves = true,
            // Nobody is in a row between two events, and there is no journal.
            Action::TailMoved | Action::LanesMoved { .. } => {}
            Action::RecallCore { .. }
            | Action::Answer { .. }
            | Action::Adopt { .. }
            | Action::Restore { .. }
            | Action::Settle { .. }
            | Action::Void { .. }
            | Action::Forget { .. }
            | Action::Hurry { .. }
            | Action::Memory(_)
            | Action::StepDown
            | Action::EndEntries { .. }
            | Action::Refused(_)
            | Action::NotServed
            | Action::Fault(..)
            | Action::Reserve { .. }
            | Action::Misbehaved { .. } => unreachable!("one epoch of sound nodes: {action:?}"),
        }
    }
}
