//! Scratch memory that a drive may still touch although its command was given up.
//!
//! A drive that does not answer must not hold its group up: the runtime tells the engine an error in the drive's place.
//! But the drive, or the kernel, may touch the command's memory until it really answers. So before the runtime tells the
//! error, it has the piece's scratch held ([`Engine::hold_scratch`]); the span is then free only when the piece has let
//! it go *and* every holder has released it. Buffers of commands are the runtime's own, which keeps them likewise.

use super::machine::Engine;
use super::scratch::Span;
use super::tag::IO_TAG_SHIFT;
use super::{Action, IoTag};

/// A span of scratch that is held for a drive that has not answered; give it back to [`Engine::release_scratch`].
#[derive(Debug, PartialEq, Eq)]
pub struct ScratchHold {
    offset_bytes: u32,
}

/// A span that one or more drives have not let go.
#[derive(Debug)]
pub(super) struct Held {
    offset_bytes: u32,
    holders: u32,
    /// Set once the piece has given the span back: it is free when the last holder releases it.
    span: Option<Span>,
}

impl Engine {
    /// Keeps the scratch of the piece that this command belongs to, until the hold is released. Called before the
    /// runtime answers the command with an error although its drive has not.
    ///
    /// Panics if the command was not asked for, or its piece has no scratch.
    pub fn hold_scratch(&mut self, io: IoTag) -> ScratchHold {
        let piece = &self.pieces[(io.0 >> IO_TAG_SHIFT) as usize];
        let span = piece.scratch.expect("a command with a place in scratch has some");
        let offset_bytes = span.offset_bytes;
        match self
            .held
            .iter_mut()
            .find(|held| held.offset_bytes == offset_bytes)
        {
            Some(held) => {
                assert!(held.span.is_none(), "the piece still has its scratch");
                held.holders += 1;
            }
            None => self.held.push(Held {
                offset_bytes,
                holders: 1,
                span: None,
            }),
        }
        ScratchHold { offset_bytes }
    }

    /// The drive has answered at last: its hold is over, and operations that wait for scratch may go on.
    pub fn release_scratch(&mut self, hold: ScratchHold, out: &mut Vec<Action>) {
        let place = self
            .held
            .iter()
            .position(|held| held.offset_bytes == hold.offset_bytes)
            .expect("a hold is released once");
        let held = &mut self.held[place];
        held.holders -= 1;
        if held.holders == 0 {
            let held = self.held.swap_remove(place);
            if let Some(span) = held.span {
                self.scratch.free(span);
                self.scratch_retry = true;
            }
        }
        self.settle(out);
    }

    /// Gives a piece's scratch back, now or when nobody holds it any more.
    pub(super) fn give_scratch_back(&mut self, span: Span) {
        let held = self
            .held
            .iter_mut()
            .find(|held| held.offset_bytes == span.offset_bytes);
        match held {
            Some(held) => held.span = Some(span),
            None => {
                self.scratch.free(span);
                self.scratch_retry = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::executor::{Owed, Shape, World, drive_io};
    use super::super::*;

    /// The place in scratch of a command that was asked for.
    fn scratch_of(action: &Action) -> Option<u32> {
        let (Action::DriveRead { into: place, .. } | Action::DriveWrite { from: place, .. }) = *action else {
            return None;
        };
        match place {
            Place::Scratch { offset_bytes } => Some(offset_bytes),
            Place::Command { .. }
            | Place::Ring { .. }
            | Place::Clean { .. }
            | Place::Handed { .. }
            | Place::Zeroes => None,
        }
    }

    /// A read-modify-write whose reads are under way: the index of the first that goes to scratch, and its tag.
    fn reading(world: &mut World) -> (usize, IoTag) {
        world.write(0, 0, 0, &[7; 1]);
        let asked = world.asked(0);
        let index = asked
            .iter()
            .position(|action| scratch_of(action).is_some())
            .expect("old data or parity is read to scratch");
        (index, drive_io(&asked[index]).0)
    }

    #[test]
    fn held_scratch_is_given_to_nobody_until_its_drive_answers() {
        let mut world = World::new(&Shape::SMALL, 1);
        let (index, tag) = reading(&mut world);
        let hold = world.cores[0].engine.hold_scratch(tag);
        let held = hold.offset_bytes_for_test();
        world.pay_with_error(0, index, DriveError::Gone);
        world.settle();
        assert_eq!(
            world.result(0, 0),
            Some(Ok(())),
            "the write ends without that drive"
        );
        for at in 1..20 {
            world.write(0, 1, at, &[9; 1]);
            for action in world.asked(0) {
                assert_ne!(
                    scratch_of(&action),
                    Some(held),
                    "somebody else may still write there"
                );
            }
            world.settle();
            world.done.clear();
        }
        let mut out = Vec::new();
        world.cores[0].engine.release_scratch(hold, &mut out);
        assert!(out.is_empty(), "nobody waits");
        world.write(0, 1, 2, &[9; 1]);
        assert!(
            world
                .asked(0)
                .iter()
                .any(|action| scratch_of(action) == Some(held)),
            "from here on it is scratch like any other"
        );
        world.settle();
        world.assert_idle();
    }

    #[test]
    fn scratch_that_two_drives_hold_is_free_when_both_have_answered() {
        let mut world = World::new(&Shape::SMALL, 1);
        let (index, tag) = reading(&mut world);
        let first = world.cores[0].engine.hold_scratch(tag);
        let second = world.cores[0].engine.hold_scratch(tag);
        world.pay_with_error(0, index, DriveError::Gone);
        world.settle();
        let mut out = Vec::new();
        world.cores[0].engine.release_scratch(second, &mut out);
        assert_eq!(world.cores[0].engine.held.len(), 1);
        world.cores[0].engine.release_scratch(first, &mut out);
        assert!(world.cores[0].engine.held.is_empty());
        world.assert_idle();
    }

    /// The drive answers before the piece is through with its other members.
    #[test]
    fn a_hold_that_is_released_early_leaves_the_scratch_to_its_piece() {
        let mut world = World::new(&Shape::SMALL, 1);
        let (index, tag) = reading(&mut world);
        let hold = world.cores[0].engine.hold_scratch(tag);
        let mut out = Vec::new();
        world.cores[0].engine.release_scratch(hold, &mut out);
        world.pay_with_error(0, index, DriveError::Gone);
        world.settle();
        assert_eq!(world.result(0, 0), Some(Ok(())));
        assert!(
            world.cores[0]
                .owed
                .iter()
                .all(|owed| !matches!(owed, Owed::Drive(_)))
        );
        world.assert_idle();
    }

    impl super::ScratchHold {
        fn offset_bytes_for_test(&self) -> u32 {
            self.offset_bytes
        }
    }
}
