//! Who decides which record an epoch has.
//!
//! The machine of [`super::Machine`] only needs that one record is decided for each epoch, whoever proposes and whoever dies while
//! proposing, and that a majority of the voters has it before a newer epoch is proposed. The voters themselves decide by default
//! ([`super::paxos::Paxos`]), so that an array needs nothing but its drives; a service outside of the array that keeps one record an epoch, first
//! come, first served, is another way for those who run one anyway.
//!
//! Deliberately no part of it: who is to be a member (`choice`), fences and leases. Whatever decides, a record takes effect only behind these.

use super::paxos::{Action, Event};
use super::record::EpochRecord;
use super::{DriveSet, Epoch, Node};

/// What proposes the record of one epoch and says which one was decided.
///
/// One value decides one instance and then is over. It may be dropped at any time: what it has asked of drives is answered all the same,
/// and the answers are forgotten.
pub trait Authority: Sized {
    /// Proposes `record` in the name of `own`, from `begins_ns` on: larger components have a head start. On the drives
    /// `expelled` this slot's past lives have been ended already.
    ///
    /// Panics if the record is not sound.
    fn propose(begins_ns: u64, own: Node, record: EpochRecord, expelled: DriveSet) -> Self;

    /// What it proposes.
    fn record(&self) -> &EpochRecord;

    /// The epoch whose record is decided.
    fn instance(&self) -> Epoch;

    /// Whether it has not begun yet: then dropping it leaves no trace.
    fn is_waiting_to_begin(&self) -> bool;

    /// Drives on which this slot's past lives have been ended.
    fn expelled(&self) -> DriveSet;

    /// When the next [`Event::Tick`] matters, if one does.
    fn wake_at_ns(&self) -> Option<u64>;

    /// Advances by one event; what has to be done goes to `out`.
    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Action>);
}
