//! Groups that acknowledge from memory: what their superblocks say of it, and what their cores may do.
//!
//! Writes are acknowledged from memory only while the superblocks say that they may be lost. When nobody has written for a
//! while, all lanes are committed and the superblocks say that nothing can be lost: so a node that loses power at rest
//! has nothing to ask its operator about. One machine a group, on its control core.

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A core has a write that it could acknowledge from memory if that were allowed.
    Wanted,
    /// It is durable that acknowledged writes may be lost.
    Allowed,
    /// A core has committed all that it had acknowledged, as [`Action::Tell`] asked it to.
    Committed,
    /// It is durable that nothing can be lost.
    Cleared,
    /// Time goes by.
    Tick {
        /// Entries in the journal since it was opened.
        entries: u64,
        /// The group is open, and is not about to be closed.
        is_open: bool,
    },
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have it made durable that acknowledged writes may be lost; [`Event::Allowed`] follows.
    Dirty,
    /// Have it made durable that nothing can be lost; [`Event::Cleared`] follows.
    Clean,
    /// Tell every core whether it may acknowledge from memory; if not, each answers [`Event::Committed`].
    Tell {
        /// Whether it may.
        allowed: bool,
    },
}

/// How far a group is with acknowledging from memory, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing can be lost.
    Safe,
    /// A core wants to; it has to be durable first that writes may be lost.
    Asked,
    /// Cores do. The number of entries in the journal at the last tick, and for how many ticks it has not changed.
    Allowed { entries: u64, quiet: u32 },
    /// So many cores are still to say that all they have acknowledged is committed.
    Closing { awaited: u16 },
    /// The superblocks are told that nothing can be lost.
    Clearing,
}

/// See the module.
#[derive(Debug)]
pub struct Ram {
    cores: u16,
    /// Ticks without a write after which everything is committed and the superblocks say so.
    quiet_ticks: u32,
    state: State,
    /// A core has asked since the permission was taken back.
    wanted: bool,
}

impl Ram {
    /// For a group that is about to be opened by so many cores.
    pub const fn new(cores: u16, quiet_ticks: u32) -> Self {
        Self {
            cores,
            quiet_ticks,
            state: State::Safe,
            wanted: false,
        }
    }

    /// Takes an event; what is to be done is returned, if there is anything.
    ///
    /// Panics at an answer to what was not asked.
    pub fn handle(&mut self, event: Event) -> Option<Action> {
        match event {
            Event::Wanted => self.wanted(),
            Event::Allowed => Some(self.allowed()),
            Event::Committed => self.committed(),
            Event::Cleared => {
                self.state = State::Safe;
                if std::mem::take(&mut self.wanted) {
                    self.wanted()
                } else {
                    None
                }
            }
            Event::Tick { entries, is_open } => self.tick(entries, is_open),
        }
    }

    fn wanted(&mut self) -> Option<Action> {
        match self.state {
            State::Safe => {
                self.state = State::Asked;
                Some(Action::Dirty)
            }
            // Its answer is on the way.
            State::Asked | State::Allowed { .. } => None,
            State::Closing { .. } | State::Clearing => {
                self.wanted = true;
                None
            }
        }
    }

    const fn allowed(&mut self) -> Action {
        self.wanted = false;
        self.state = State::Allowed { entries: 0, quiet: 0 };
        Action::Tell { allowed: true }
    }

    fn committed(&mut self) -> Option<Action> {
        let State::Closing { awaited } = &mut self.state else {
            unreachable!("cores answer what they were asked")
        };
        *awaited = awaited.checked_sub(1).expect("each core answers once");
        if *awaited > 0 {
            return None;
        }
        if self.wanted {
            // It is still durable that writes may be lost.
            return Some(self.allowed());
        }
        self.state = State::Clearing;
        Some(Action::Clean)
    }

    fn tick(&mut self, now: u64, is_open: bool) -> Option<Action> {
        let State::Allowed { entries, quiet } = &mut self.state else {
            return None;
        };
        *quiet = if now == *entries { *quiet + 1 } else { 0 };
        *entries = now;
        if *quiet < self.quiet_ticks || !is_open {
            return None;
        }
        self.state = State::Closing { awaited: self.cores };
        Some(Action::Tell { allowed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Option<Action> = Some(Action::Tell { allowed: true });
    const TAKEN_BACK: Option<Action> = Some(Action::Tell { allowed: false });

    fn tick(ram: &mut Ram, entries: u64) -> Option<Action> {
        let is_open = true;
        ram.handle(Event::Tick { entries, is_open })
    }

    fn allowed() -> Ram {
        let mut ram = Ram::new(2, 2);
        assert_eq!(ram.handle(Event::Wanted), Some(Action::Dirty));
        assert_eq!(ram.handle(Event::Wanted), None, "it is on the way");
        assert_eq!(ram.handle(Event::Allowed), TOLD);
        ram
    }

    #[test]
    fn after_a_while_without_a_write_nothing_can_be_lost_any_more() {
        let mut ram = allowed();
        assert_eq!(tick(&mut ram, 5), None);
        assert_eq!(tick(&mut ram, 5), None);
        assert_eq!(tick(&mut ram, 6), None, "somebody has written");
        assert_eq!(tick(&mut ram, 6), None);
        assert_eq!(tick(&mut ram, 6), TAKEN_BACK);
        assert_eq!(ram.handle(Event::Committed), None);
        assert_eq!(ram.handle(Event::Committed), Some(Action::Clean));
        assert_eq!(ram.handle(Event::Cleared), None);
        assert_eq!(ram.handle(Event::Wanted), Some(Action::Dirty));
    }

    #[test]
    fn who_writes_while_the_permission_is_taken_back_gets_it_again() {
        let mut ram = allowed();
        assert_eq!((tick(&mut ram, 0), tick(&mut ram, 0)), (None, TAKEN_BACK));
        assert_eq!(ram.handle(Event::Wanted), None);
        assert_eq!(ram.handle(Event::Committed), None);
        assert_eq!(ram.handle(Event::Committed), TOLD, "it is still durable");
        assert_eq!((tick(&mut ram, 1), tick(&mut ram, 1)), (None, None));
        assert_eq!(tick(&mut ram, 1), TAKEN_BACK);
        ram.handle(Event::Committed);
        assert_eq!(ram.handle(Event::Committed), Some(Action::Clean));
        assert_eq!(ram.handle(Event::Wanted), None, "the superblocks come first");
        assert_eq!(ram.handle(Event::Cleared), Some(Action::Dirty));
    }

    #[test]
    fn a_group_that_is_closed_is_left_alone() {
        let mut ram = allowed();
        let is_open = false;
        for _ in 0..5 {
            assert_eq!(ram.handle(Event::Tick { entries: 0, is_open }), None);
        }
    }
}
