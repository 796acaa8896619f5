//! Commands in flight on one connection of the target: a slab of slots and an index by command identifier.

use super::outbox::Slot;

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The slot is not in use.
    Free,
    /// For the caller to admit data that the capsule carries; nothing is parsed meanwhile.
    DecisionInCapsule,
    /// For the caller to admit data that R2Ts fetch.
    Decision,
    /// For the rest of the data in its capsule.
    InCapsuleData,
    /// For data up to `end_bytes`, which an R2T has asked for.
    R2tData {
        /// Byte of the command's data after the last one that was asked for.
        end_bytes: u32,
    },
    /// For its completion.
    Completion,
}

/// One command in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub state: State,
    pub cid: u16,
    /// Bytes that the command moves.
    pub transfer_bytes: u32,
    /// Bytes of the host's data that came in so far; offsets never go backwards.
    pub received_bytes: u32,
    /// Those of them that are known to be right, from the first on.
    pub sound_bytes: u32,
    /// Whether a data digest was wrong.
    pub corrupt: bool,
}

const FREE: Command = Command {
    state: State::Free,
    cid: 0,
    transfer_bytes: 0,
    received_bytes: 0,
    sound_bytes: 0,
    corrupt: false,
};

/// Mark of an empty place in the index.
const EMPTY: u16 = u16::MAX;

/// The slab. It allocates only in [`Slots::grow`].
pub(super) struct Slots {
    commands: Vec<Command>,
    /// Free slots; the one released last is used first because it is warm.
    free: Vec<u16>,
    /// Open addressing with linear probing from `cid & mask`: hosts count identifiers up from 0, so the
    /// probe is short. At least twice as many places as slots, a power of two.
    index: Vec<u16>,
}

impl Slots {
    pub(super) fn new(slots: u16) -> Self {
        let mut table = Self {
            commands: Vec::new(),
            free: Vec::new(),
            index: Vec::new(),
        };
        table.grow(slots);
        table
    }

    /// Makes room for `slots` commands; those in flight keep their slots. Never shrinks.
    pub(super) fn grow(&mut self, slots: u16) {
        assert!(slots > 0 && slots < EMPTY, "a queue has 1 to 65,534 entries here");
        let old = u16::try_from(self.commands.len()).expect("never more than u16::MAX slots");
        if slots <= old {
            return;
        }
        self.commands.resize(usize::from(slots), FREE);
        self.free.reserve_exact(usize::from(slots));
        self.free.splice(0..0, (old..slots).rev());
        self.index.clear();
        self.index
            .resize((usize::from(slots) * 2).next_power_of_two(), EMPTY);
        for slot in 0..old {
            if self.commands[usize::from(slot)].state != State::Free {
                self.enter(slot);
            }
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.commands.len() - self.free.len()
    }

    /// Takes a free slot; `None` if there is none. The caller has checked that `cid` is not in flight.
    pub(super) fn insert(&mut self, cid: u16, transfer_bytes: u32, state: State) -> Option<Slot> {
        assert!(state != State::Free);
        let slot = self.free.pop()?;
        self.commands[usize::from(slot)] = Command {
            state,
            cid,
            transfer_bytes,
            received_bytes: 0,
            sound_bytes: 0,
            corrupt: false,
        };
        self.enter(slot);
        Some(Slot(slot))
    }

    /// Frees a slot and returns what it held. Panics if it is free already.
    pub(super) fn remove(&mut self, slot: Slot) -> Command {
        let place = usize::from(slot.0);
        let command = self.commands[place];
        assert!(command.state != State::Free, "a command completes exactly once");
        self.leave(slot.0);
        self.commands[place] = FREE;
        self.free.push(slot.0);
        command
    }

    /// The command in a slot. Panics if it is free: only our own code names slots.
    pub(super) fn command(&self, slot: Slot) -> &Command {
        let command = &self.commands[usize::from(slot.0)];
        assert!(command.state != State::Free, "the slot is in use");
        command
    }

    /// The command in a slot, to change. Panics if it is free.
    pub(super) fn command_mut(&mut self, slot: Slot) -> &mut Command {
        let command = &mut self.commands[usize::from(slot.0)];
        assert!(command.state != State::Free, "the slot is in use");
        command
    }

    /// The command in the slot that the other end named; `None` if it does not exist or is free.
    pub(super) fn named(&self, number: u16) -> Option<&Command> {
        self.commands
            .get(usize::from(number))
            .filter(|command| command.state != State::Free)
    }

    pub(super) fn find(&self, cid: u16) -> Option<Slot> {
        let mut place = self.home(cid);
        loop {
            let slot = self.index[place];
            if slot == EMPTY {
                return None;
            }
            if self.commands[usize::from(slot)].cid == cid {
                return Some(Slot(slot));
            }
            place = self.after(place);
        }
    }

    fn home(&self, cid: u16) -> usize {
        usize::from(cid) & (self.index.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.index.len() - 1)
    }

    fn enter(&mut self, slot: u16) {
        let mut place = self.home(self.commands[usize::from(slot)].cid);
        while self.index[place] != EMPTY {
            place = self.after(place); // Ends: at least half of the places are empty.
        }
        self.index[place] = slot;
    }

    /// Removes a slot from the index and closes the gap, so that no probe stops short of its goal.
    fn leave(&mut self, slot: u16) {
        let mut gap = self.home(self.commands[usize::from(slot)].cid);
        while self.index[gap] != slot {
            gap = self.after(gap);
        }
        let mask = self.index.len() - 1;
        let mut place = self.after(gap);
        while self.index[place] != EMPTY {
            let home = self.home(self.commands[usize::from(self.index[place])].cid);
            // It may move into the gap if its probe passes there: the gap lies between home and place.
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(gap) & mask {
                self.index[gap] = self.index[place];
                gap = place;
            }
            place = self.after(place);
        }
        self.index[gap] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Against a map, with identifiers that collide on purpose.
    #[test]
    fn index_agrees_with_a_map_under_collisions() {
        let mut slots = Slots::new(8);
        let mut model: BTreeMap<u16, Slot> = BTreeMap::new();
        let mut seed = 7u32;
        for round in 0..60_000u32 {
            if round == 20_000 {
                slots.grow(40);
            }
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [_, a, b, c] = seed.to_le_bytes();
            let cid = u16::from(a % 12) * 128 + u16::from(b % 4);
            assert_eq!(slots.find(cid), model.get(&cid).copied());
            match model.get(&cid) {
                Some(&slot) if c % 2 == 0 => {
                    assert_eq!(slots.remove(slot).cid, cid);
                    model.remove(&cid);
                }
                Some(&slot) => assert_eq!(slots.command(slot).cid, cid),
                None => {
                    if let Some(slot) = slots.insert(cid, 0, State::Completion) {
                        assert!(model.values().all(|&other| other != slot));
                        model.insert(cid, slot);
                    } else {
                        assert_eq!(model.len(), if round < 20_000 { 8 } else { 40 });
                    }
                }
            }
            assert_eq!(slots.in_flight(), model.len());
        }
    }
}
