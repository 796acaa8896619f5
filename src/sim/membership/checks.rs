//! What may never happen.

use std::collections::BTreeMap;

use super::drive::{Drive, Life};
use crate::icl::membership::record::EpochRecord;
use crate::icl::membership::status::Halt;
use crate::icl::membership::{Epoch, Key, Slot};

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Checks {
    decided: BTreeMap<Epoch, EpochRecord>,
    keys: BTreeMap<Life, Key>,
    opened: Option<EpochRecord>,
    pub(super) epochs_opened: u32,
    pub(super) writes: u64,
    pub(super) halts: Vec<(Slot, Halt)>,
}

impl Checks {
    /// I3: one record for each epoch.
    pub(super) fn decided(&mut self, record: &EpochRecord) {
        for member in &record.members {
            self.keys.insert((member.slot, member.incarnation), member.key);
        }
        let known = self.decided.entry(record.epoch).or_insert_with(|| record.clone());
        assert_eq!(known, record, "I3: two records for one epoch");
    }

    pub(super) fn opened(&mut self, record: &EpochRecord) {
        if self
            .opened
            .as_ref()
            .is_none_or(|newest| record.epoch > newest.epoch)
        {
            self.opened = Some(record.clone());
            self.epochs_opened += 1;
        }
    }

    pub(super) fn halted(&mut self, slot: Slot, halt: Halt) {
        self.halts.push((slot, halt));
    }

    fn is_current(&self, life: Life) -> bool {
        self.opened
            .as_ref()
            .is_none_or(|record| record.names(life.0, life.1))
            || self
                .decided
                .last_key_value()
                .is_some_and(|(_, newest)| newest.names(life.0, life.1))
    }

    /// I10 and its reason: who is not of the newest open epoch answers nobody.
    pub(super) fn may_answer(&self, life: Life) {
        assert!(
            self.is_current(life),
            "I10: {life:?} answers beside {:?}",
            self.opened
        );
    }

    /// I4: a drive in use executes nothing of who is fenced there, or is not of the newest open epoch.
    pub(super) fn executed(&mut self, drive: &Drive, life: Life, is_data: bool) {
        let key = self.keys.get(&life).copied().unwrap_or(Key::NONE);
        assert!(
            !drive.certified.contains(&key),
            "I4: {life:?} writes to {} after its certificate",
            drive.index
        );
        if is_data {
            self.writes += 1;
            let is_in_use = self
                .opened
                .as_ref()
                .is_some_and(|record| record.drives.contains(drive.index));
            assert!(
                !is_in_use || self.is_current(life),
                "I4: {life:?} writes beside {:?}",
                self.opened
            );
        }
    }
}
