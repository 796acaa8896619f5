//! A hierarchical timer wheel: setting, cancelling and firing are O(1), and nothing is allocated in steady state.
//!
//! A tick is 2^14 ns, about 16 microseconds. Level 0 has a slot for each of the next 64 ticks, each higher level slots 64
//! times as long. A timer goes into the level of the highest digit (base 64) in which its tick differs from the present
//! one, and comes down a level whenever that digit is reached. It never fires early, and at most a tick late.

use crate::clock::Nanos;
use crate::program::Token;
use crate::slab::{Key, Slab};

/// Nanoseconds of one tick, as a power of two.
const TICK_SHIFT: u32 = 14;
/// Slots of one level, as a power of two.
const SLOT_SHIFT: u32 = 6;
const SLOTS: usize = 1 << SLOT_SHIFT;
/// Six levels reach 64^6 ticks, 13 days; a later timer waits in the last slot and is put back until it is due.
const LEVELS: usize = 6;
const REACH_TICKS: u64 = 1 << (SLOT_SHIFT as usize * LEVELS);
/// The furthest that a timer is placed ahead: 63 of the highest level's slots, never the same slot a lap later.
const AHEAD_TICKS_MAX: u64 = REACH_TICKS - REACH_TICKS / SLOTS as u64;

/// Names a timer that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerId(Key);

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// The tick at whose start it is due.
    tick: u64,
    token: Token,
    level: u8,
    slot: u8,
    previous: Option<Key>,
    next: Option<Key>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    /// A bit for each slot that holds timers.
    occupied: u64,
    slots: [Option<Key>; SLOTS],
}

/// All timers of one core.
#[derive(Debug)]
pub struct Wheel {
    timers: Slab<Timer>,
    levels: [Level; LEVELS],
    /// The tick up to which everything has fired.
    present: u64,
    /// The start of the first slot that holds anything: nothing fires before. `u64::MAX` without timers.
    next_tick: u64,
}

impl Wheel {
    /// An empty wheel at `now`, for at most `limit` timers.
    pub fn new(now: Nanos, limit: u32) -> Self {
        let level = Level {
            occupied: 0,
            slots: [None; SLOTS],
        };
        Self {
            timers: Slab::new(limit),
            levels: [level; LEVELS],
            present: now >> TICK_SHIFT,
            next_tick: u64::MAX,
        }
    }

    /// Timers that are set.
    pub fn len(&self) -> usize {
        self.timers.len() as usize
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.timers.len() == 0
    }

    /// Sets a timer that fires at `deadline`, or at the next `pop` if that has passed. `None`: the limit is reached.
    pub fn set(&mut self, deadline: Nanos, token: Token) -> Option<TimerId> {
        let tick = deadline.div_ceil(1 << TICK_SHIFT).max(self.present);
        let timer = Timer {
            tick,
            token,
            level: 0,
            slot: 0,
            previous: None,
            next: None,
        };
        let key = self.timers.insert(timer).ok()?;
        self.link(key);
        Some(TimerId(key))
    }

    /// Cancels a timer: its token if it had not fired or been cancelled yet.
    pub fn cancel(&mut self, timer: TimerId) -> Option<Token> {
        self.timers.get(timer.0)?;
        self.unlink(timer.0);
        let timer = self.timers.remove(timer.0).expect("it was found above");
        Some(timer.token)
    }

    /// A time before which nothing is due; timers that were cancelled may have left it too early.
    pub fn next_deadline(&self) -> Option<Nanos> {
        (self.next_tick != u64::MAX).then(|| self.next_tick.saturating_mul(1 << TICK_SHIFT))
    }

    /// Takes one timer that is due at `now`; those of an earlier tick come first.
    pub fn pop(&mut self, now: Nanos) -> Option<Token> {
        let now = now >> TICK_SHIFT;
        while self.next_tick <= now {
            let Some((level, slot, start)) = self.first_slot() else {
                self.next_tick = u64::MAX;
                break;
            };
            self.next_tick = start;
            if start > now {
                break;
            }
            self.present = self.present.max(start);
            let key = self.levels[level].slots[slot].expect("an occupied slot holds a timer");
            if self.timers.get(key).expect("linked timers are set").tick <= self.present {
                self.unlink(key);
                return self.timers.remove(key).map(|timer| timer.token);
            }
            self.come_down(level, slot);
        }
        self.present = self.present.max(now);
        None
    }

    /// Moves all timers of a slot whose start is the present to where they belong now.
    fn come_down(&mut self, level: usize, slot: usize) {
        let mut next = self.levels[level].slots[slot].take();
        self.levels[level].occupied &= !(1 << slot);
        while let Some(key) = next {
            next = self.timers.get(key).expect("linked timers are set").next;
            self.link(key);
        }
    }

    /// The first occupied slot: its level, its number and the tick at which it starts.
    ///
    /// A lower level's slots all start before the next slot of a higher level, so the lowest occupied level has it; only
    /// a slot of a higher level that starts right now goes before, because timers must come down from it first.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        let slots = (0..LEVELS).filter_map(|level| {
            let occupied = self.levels[level].occupied;
            if occupied == 0 {
                return None;
            }
            let shift = SLOT_SHIFT as usize * level;
            let present_slot = digit(self.present, level);
            let ahead = occupied.rotate_right(present_slot).trailing_zeros();
            let start = ((self.present >> shift) + u64::from(ahead)) << shift;
            let slot = (present_slot + ahead) as usize % SLOTS;
            Some((level, slot, start.max(self.present)))
        });
        slots.min_by_key(|&(level, _, start)| (start, std::cmp::Reverse(level)))
    }

    fn link(&mut self, key: Key) {
        let tick = self.timers.get(key).expect("linked timers are set").tick;
        let placed = tick.min(self.present + AHEAD_TICKS_MAX);
        let differing = (placed ^ self.present).min(REACH_TICKS - 1) | 1;
        let level = ((63 - differing.leading_zeros()) / SLOT_SHIFT) as usize;
        let slot = digit(placed, level) as usize;
        let head = self.levels[level].slots[slot].replace(key);
        self.levels[level].occupied |= 1 << slot;
        if let Some(head) = head {
            self.timers.get_mut(head).expect("linked timers are set").previous = Some(key);
        }
        let timer = self.timers.get_mut(key).expect("linked timers are set");
        timer.level = u8::try_from(level).expect("there are six");
        timer.slot = u8::try_from(slot).expect("there are 64");
        timer.previous = None;
        timer.next = head;
        let shift = SLOT_SHIFT as usize * level;
        self.next_tick = self.next_tick.min((placed >> shift) << shift);
    }

    fn unlink(&mut self, key: Key) {
        let Timer {
            level,
            slot,
            previous,
            next,
            ..
        } = *self.timers.get(key).expect("linked timers are set");
        let level = &mut self.levels[usize::from(level)];
        if let Some(next) = next {
            self.timers.get_mut(next).expect("linked timers are set").previous = previous;
        }
        match previous {
            Some(previous) => self.timers.get_mut(previous).expect("linked timers are set").next = next,
            None => level.slots[usize::from(slot)] = next,
        }
        if level.slots[usize::from(slot)].is_none() {
            level.occupied &= !(1 << slot);
        }
    }
}

/// One digit, base 64, of a tick.
fn digit(tick: u64, level: usize) -> u32 {
    let digit = (tick >> (SLOT_SHIFT as usize * level)) % SLOTS as u64;
    u32::try_from(digit).expect("less than 64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    /// Goal: every timer fires once, not before its deadline, within a tick of being asked after it, unless cancelled.
    /// Method: random sets, cancels and steps of time, small and huge, beside a sorted map.
    #[test]
    fn the_wheel_agrees_with_a_sorted_map() {
        for seed in 1..=60_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut now = random(&mut state) >> (8 + random(&mut state) % 40);
            let mut wheel = Wheel::new(now, 1 << 16);
            let mut oracle: BTreeMap<u64, (Nanos, TimerId)> = BTreeMap::new();
            for number in 0..4000_u64 {
                match random(&mut state) % 8 {
                    0..4 => {
                        let ahead = random(&mut state) >> (6 + random(&mut state) % 58);
                        let deadline = (now + ahead.min(1 << 58)).saturating_sub(random(&mut state) % 100);
                        let id = wheel.set(deadline, Token(number)).unwrap();
                        oracle.insert(number, (deadline, id));
                    }
                    4 => {
                        let Some((&number, &(_, id))) = oracle.iter().next() else {
                            continue;
                        };
                        assert_eq!(wheel.cancel(id), Some(Token(number)));
                        assert_eq!(wheel.cancel(id), None);
                        oracle.remove(&number);
                    }
                    _ => {
                        now += random(&mut state) >> (10 + random(&mut state) % 54);
                        check_pops(&mut wheel, &mut oracle, now);
                    }
                }
                assert_eq!(wheel.len(), oracle.len());
            }
            check_pops(&mut wheel, &mut oracle, now + (1 << 60));
            assert!(oracle.is_empty() && wheel.is_empty() && wheel.next_deadline().is_none());
        }
    }

    fn check_pops(wheel: &mut Wheel, oracle: &mut BTreeMap<u64, (Nanos, TimerId)>, now: Nanos) {
        if let Some(next) = oracle.values().map(|(deadline, _)| *deadline).min() {
            let promised = wheel.next_deadline().expect("timers are set");
            assert!(
                promised < next + (1 << TICK_SHIFT),
                "sleeping until then would be too long"
            );
        }
        while let Some(token) = wheel.pop(now) {
            let (deadline, id) = oracle.remove(&token.0).expect("each fires once");
            assert!(deadline <= now, "never early");
            assert_eq!(wheel.cancel(id), None, "it has fired");
        }
        for (deadline, _) in oracle.values() {
            assert!(
                deadline.div_ceil(1 << TICK_SHIFT) > now >> TICK_SHIFT,
                "what is left is not due"
            );
        }
    }

    #[test]
    fn timers_fire_in_order() {
        let mut wheel = Wheel::new(12_345_678, 100);
        let delays = [7, 1, 1000, 70, 64, 63, 65, 4096, 4095, 300_000, 16_777_216, 2];
        for delay in delays {
            wheel
                .set(12_345_678 + (delay << TICK_SHIFT), Token(delay))
                .unwrap();
        }
        let mut fired = Vec::new();
        let mut now = 12_345_678;
        while !wheel.is_empty() {
            now = wheel.next_deadline().unwrap().max(now);
            while let Some(token) = wheel.pop(now) {
                fired.push(token.0);
            }
        }
        let mut sorted = delays;
        sorted.sort_unstable();
        assert_eq!(fired, sorted);
    }

    #[test]
    fn the_limit_is_kept_and_places_are_used_again() {
        let mut wheel = Wheel::new(0, 2);
        let a = wheel.set(5, Token(1)).unwrap();
        wheel.set(5, Token(2)).unwrap();
        assert_eq!(wheel.set(5, Token(3)), None);
        assert_eq!(wheel.cancel(a), Some(Token(1)));
        assert!(wheel.set(5, Token(3)).is_some());
        let mut fired = [
            wheel.pop(1 << TICK_SHIFT).unwrap().0,
            wheel.pop(1 << TICK_SHIFT).unwrap().0,
        ];
        fired.sort_unstable();
        assert_eq!(fired, [2, 3]);
        assert_eq!(wheel.pop(u64::MAX), None);
    }
}
