//! Whether each drive of each shelf may be used at the moment, decided on core 0.
//!
//! A pure machine. After each connect it looks which start of the shelf this is and whether the namespaces are the ones that the node
//! knows, and renews its claim to each drive; only then do the cores hear of a route. What it finds changed makes the drive a lost member
//! of its group: what is on it is what a rebuild takes it for, until an operator brings it back.
//!
//! Drives that nodes share are not claimed: membership has this life of the node registered at them, and says once that it may use them.
//! Instead of a claim the path awaits the end of what earlier associations have left behind. A reservation conflict at one of them means
//! that the array goes on without this life, which then uses none of them any more.

use std::collections::BTreeMap;

use nvme::reservation::Command as Reservation;

use super::claim::{Claim, Custody, Identity, Refusal, Rivals, Step};
use super::{Answer, Route, hostid_of, identity_of};
use crate::drive::DriveError;
use crate::target::host::{Drain, Namespace, TargetFacts};

/// How long a claim that failed is let be.
const CLAIM_AGAIN_NS: u64 = 1_000_000_000;

/// Why a drive is a lost member although it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// The shelf was started anew: what was not flushed may be gone.
    Restarted,
    /// The namespace is not there, or another one is in its place.
    Missing,
    /// The drive had forgotten that it was this node's.
    Forgotten,
}

impl Stale {
    /// As a sentence's end.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Restarted => {
                "its shelf was started anew, so that writes which were not flushed may be gone"
            }
            Self::Missing => "its namespace is not there, or is another one",
            Self::Forgotten => {
                "it has forgotten that it is reserved for this node, so that others may have written to it"
            }
        }
    }
}

/// What happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// The association to a shelf works, or its namespaces have changed.
    Ready {
        /// Which shelf.
        shelf: u16,
        /// What it is.
        facts: &'a TargetFacts,
    },
    /// It is lost.
    Down {
        /// Which shelf.
        shelf: u16,
    },
    /// Answer to [`Action::ReadInstance`].
    Instance {
        /// Which shelf.
        shelf: u16,
        /// Of this attempt.
        attempt: u32,
        /// What it said: nothing if it knows no such page. An error is a connection that is gone.
        instance: Result<Option<[u8; 16]>, ()>,
    },
    /// Answer to [`Action::Reserve`].
    Reserved {
        /// Which drive.
        drive: u16,
        /// Of this attempt.
        attempt: u32,
        /// Its answer.
        answer: Answer,
    },
    /// Something that was written to a drive was lost with its connection, and may still take effect.
    InDoubt {
        /// Which drive.
        drive: u16,
    },
    /// No core has a connection of an association to a shelf that is lost: all drives that are in doubt were named.
    Ended {
        /// Which shelf.
        shelf: u16,
    },
    /// A drive refused a command with a reservation conflict.
    Conflict {
        /// Which drive.
        drive: u16,
    },
    /// Membership has this life of the node registered at the drives that nodes share.
    Admitted,
    /// An operator gives a drive to a group, which takes nothing on it for current.
    Restore {
        /// Which drive.
        drive: u16,
    },
    /// Time passes.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask which start of the shelf's process this is.
    ReadInstance {
        /// Which shelf.
        shelf: u16,
        /// Comes back with the answer.
        attempt: u32,
    },
    /// Ask this of a drive.
    Reserve {
        /// Which drive.
        drive: u16,
        /// Comes back with the answer.
        attempt: u32,
        /// What.
        command: Reservation,
    },
    /// Tell all cores.
    Route {
        /// Which drive.
        drive: u16,
        /// May it be used?
        route: Route,
    },
    /// The drive is a lost member from now on.
    Stale {
        /// Which drive.
        drive: u16,
        /// Why.
        why: Stale,
    },
    /// The drive is another node's.
    Fenced {
        /// Which drive.
        drive: u16,
    },
    /// A drive that nodes share has refused this life of the node, which has lost all of them by that. Said once.
    Expelled {
        /// Which drive.
        drive: u16,
    },
    /// The drive cannot be claimed for the moment.
    Refused {
        /// Which drive.
        drive: u16,
        /// Why.
        refusal: Refusal,
    },
}

#[derive(Clone, Debug)]
enum State {
    /// Awaits the association.
    Down,
    /// Awaits answers of its drive.
    Claiming(Claim),
    /// Awaits the time of the next claim.
    Unclaimed { until_ns: u64 },
    /// Shared with other nodes; awaits the end of what earlier associations have left behind.
    Draining,
    /// Shared with other nodes; awaits [`Event::Admitted`].
    Connected,
    /// Awaits nothing.
    Claimed,
    /// The namespace is not there.
    Missing,
    /// Awaits nothing any more: the drive is another node's, or other nodes'.
    Fenced,
}

#[derive(Debug)]
struct Path {
    shelf: u16,
    namespace: Namespace,
    state: State,
    /// What is on it is not to be relied on, and the cores have been told.
    stale: Option<Stale>,
    /// Something that was written to it may still take effect. Of others, which are not, nothing is under way.
    is_in_doubt: bool,
    /// Who this node may be to the drive; `None` if nodes share it.
    custody: Option<Custody>,
}

#[derive(Debug)]
struct ShelfState {
    /// From which the host identifiers of attempts follow.
    base: [u8; 16],
    /// The attempt that works.
    attempt: Option<u32>,
    namespaces: Vec<Namespace>,
    volatile: bool,
    /// Nothing of earlier associations can take effect any more.
    is_drained: bool,
    /// Which drives those have left something for is known.
    is_ended: bool,
    /// Which start of its process it was when it was last known, if it has told.
    instance: Option<[u8; 16]>,
    /// It was connected before.
    known: bool,
}

impl Path {
    /// A claim that is under way does not come to an end.
    fn break_off(&mut self) {
        if let (State::Claiming(claim), Some(custody)) = (&self.state, &mut self.custody) {
            custody.tried(claim);
        }
    }
}

/// The paths to all drives of all shelves.
#[derive(Debug, Default)]
pub struct Paths {
    shelves: Vec<ShelfState>,
    paths: BTreeMap<u16, Path>,
    /// Drives that nodes share may be used when they are connected.
    is_admitted: bool,
    /// None of them is used any more.
    is_expelled: bool,
}

impl Paths {
    /// Adds a shelf: the next one gets the next number. `instance` is what it has told before.
    pub fn add_shelf(&mut self, base: [u8; 16], instance: Option<[u8; 16]>) {
        self.shelves.push(ShelfState {
            base,
            attempt: None,
            namespaces: Vec::new(),
            volatile: false,
            is_drained: false,
            is_ended: true,
            instance,
            known: false,
        });
    }

    /// Adds a drive, which this node has claimed as `identity`; `None` for one that nodes share, which is used only after
    /// [`Event::Admitted`].
    pub fn add_drive(&mut self, drive: u16, shelf: u16, namespace: Namespace, identity: Option<Identity>) {
        let path = Path {
            shelf,
            namespace,
            state: State::Down,
            stale: None,
            is_in_doubt: false,
            custody: identity.map(|identity| Custody::of(identity.host)),
        };
        let old = self.paths.insert(drive, path);
        assert!(old.is_none() && usize::from(shelf) < self.shelves.len());
    }

    /// Whether nodes share a drive.
    pub fn is_shared(&self, drive: u16) -> bool {
        self.paths[&drive].custody.is_none()
    }

    /// Whether this life of the node has lost the drives that nodes share.
    pub const fn is_expelled(&self) -> bool {
        self.is_expelled
    }

    /// Whether this attempt to connect a shelf is known to have led somewhere.
    pub fn is_known(&self, shelf: u16, attempt: u32) -> bool {
        self.shelves[usize::from(shelf)].attempt == Some(attempt)
    }

    /// Whether a drive answers commands, or would if it was not stale.
    pub fn is_claimed(&self, drive: u16) -> bool {
        matches!(self.paths[&drive].state, State::Claimed)
    }

    /// Why what is on a drive is not to be relied on.
    pub fn stale(&self, drive: u16) -> Option<Stale> {
        self.paths[&drive].stale
    }

    /// Who this node is to a drive that it has claimed.
    pub fn identity(&self, drive: u16) -> Option<Identity> {
        let path = &self.paths[&drive];
        let shelf = &self.shelves[usize::from(path.shelf)];
        let is_own = self.is_claimed(drive) && !self.is_shared(drive);
        let attempt = shelf.attempt.filter(|_| is_own)?;
        Some(identity_of(hostid_of(shelf.base, attempt)))
    }

    /// Takes an event; what is to be done goes to `out`, in order.
    pub fn handle(&mut self, now_ns: u64, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Ready { shelf, facts } => self.ready(shelf, facts, out),
            Event::Down { shelf } => self.down(shelf, out),
            Event::Instance {
                shelf,
                attempt,
                instance,
            } => {
                if self.shelves[usize::from(shelf)].attempt == Some(attempt)
                    && let Ok(instance) = instance
                {
                    self.instance_read(shelf, attempt, instance, out);
                }
            }
            Event::Reserved {
                drive,
                attempt,
                answer,
            } => self.reserved(now_ns, drive, attempt, answer, out),
            Event::InDoubt { drive } => self.path(drive).is_in_doubt = true,
            Event::Ended { shelf } => {
                self.shelves[usize::from(shelf)].is_ended = true;
                self.claim_waiting(shelf, out);
            }
            Event::Conflict { drive } if self.is_shared(drive) => self.expel(drive, out),
            Event::Conflict { drive } => self.fence(drive, out),
            Event::Admitted => self.admit(out),
            Event::Restore { drive } => self.restore(drive, out),
            Event::Tick => self.tick(now_ns, out),
        }
    }

    fn ready(&mut self, shelf: u16, facts: &TargetFacts, out: &mut Vec<Action>) {
        let state = &mut self.shelves[usize::from(shelf)];
        state.namespaces.clone_from(&facts.namespaces);
        state.volatile = facts.volatile_write_cache;
        state.is_drained = facts.drain == Drain::Proven;
        if state.is_drained {
            let paths = self.paths.values_mut().filter(|path| path.shelf == shelf);
            paths.for_each(|path| path.is_in_doubt = false);
        }
        let attempt = facts.attempt;
        if state.attempt.replace(attempt) != Some(attempt) {
            return out.push(Action::ReadInstance { shelf, attempt });
        }
        self.claim_waiting(shelf, out);
    }

    /// A drive that was missing may be back, and one that was being drained may be so by now.
    fn claim_waiting(&mut self, shelf: u16, out: &mut Vec<Action>) {
        let Some(attempt) = self.shelves[usize::from(shelf)].attempt else {
            return;
        };
        for drive in self.drives_of(shelf) {
            if matches!(self.paths[&drive].state, State::Missing | State::Draining) && self.is_there(drive) {
                self.claim(drive, attempt, out);
            }
        }
    }

    fn drives_of(&self, shelf: u16) -> Vec<u16> {
        let paths = self.paths.iter();
        paths
            .filter(|(_, path)| path.shelf == shelf)
            .map(|(drive, _)| *drive)
            .collect()
    }

    fn is_there(&self, drive: u16) -> bool {
        let path = &self.paths[&drive];
        self.shelves[usize::from(path.shelf)]
            .namespaces
            .contains(&path.namespace)
    }

    fn path(&mut self, drive: u16) -> &mut Path {
        self.paths.get_mut(&drive).expect("it is a drive of a shelf")
    }

    fn down(&mut self, shelf: u16, out: &mut Vec<Action>) {
        let state = &mut self.shelves[usize::from(shelf)];
        (state.attempt, state.is_ended) = (None, false);
        for drive in self.drives_of(shelf) {
            let path = self.path(drive);
            if matches!(path.state, State::Fenced) {
                continue;
            }
            path.break_off();
            path.state = State::Down;
            if path.stale.is_none() {
                let route = Route::Down;
                out.push(Action::Route { drive, route });
            }
        }
    }

    fn instance_read(&mut self, shelf: u16, attempt: u32, instance: Option<[u8; 16]>, out: &mut Vec<Action>) {
        let state = &mut self.shelves[usize::from(shelf)];
        // A target that does not say whether it was started anew is believed only if it has nothing to lose.
        let silent = instance.is_none() && state.known && state.volatile;
        let restarted = instance != state.instance || silent;
        (state.instance, state.known) = (instance, true);
        for drive in self.drives_of(shelf) {
            if matches!(self.paths[&drive].state, State::Fenced) {
                continue;
            }
            if restarted {
                self.make_stale(drive, Stale::Restarted, out);
            }
            if self.is_there(drive) {
                self.claim(drive, attempt, out);
            } else {
                self.path(drive).state = State::Missing;
                self.make_stale(drive, Stale::Missing, out);
            }
        }
    }

    fn make_stale(&mut self, drive: u16, why: Stale, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if path.stale.is_some() {
            return;
        }
        path.stale = Some(why);
        let route = Route::Refused {
            error: DriveError::Gone,
            // With its process everything has ended that it had under way.
            settled: why == Stale::Restarted,
        };
        out.push(Action::Route { drive, route });
        out.push(Action::Stale { drive, why });
    }

    fn claim(&mut self, drive: u16, attempt: u32, out: &mut Vec<Action>) {
        let shelf = &self.shelves[usize::from(self.paths[&drive].shelf)];
        let (is_drained, is_ended) = (shelf.is_drained, shelf.is_ended);
        let identity = identity_of(hostid_of(shelf.base, attempt));
        let is_admitted = self.is_admitted;
        let path = self.path(drive);
        let Some(custody) = path.custody.clone() else {
            // A drive that hangs keeps what was lost from being over, and is to hold up itself alone.
            let is_quiet = is_drained || (is_ended && !path.is_in_doubt);
            path.state = if is_quiet {
                State::Connected
            } else {
                State::Draining
            };
            if is_admitted {
                self.open(drive, out);
            }
            return;
        };
        let (claim, command) = Claim::begin(identity, Rivals::Renew(custody));
        path.state = State::Claiming(claim);
        out.push(Action::Reserve {
            drive,
            attempt,
            command,
        });
    }

    fn reserved(&mut self, now_ns: u64, drive: u16, attempt: u32, answer: Answer, out: &mut Vec<Action>) {
        let shelf = self.paths[&drive].shelf;
        if self.shelves[usize::from(shelf)].attempt != Some(attempt) {
            return; // Of an association that is lost.
        }
        let base = self.shelves[usize::from(shelf)].base;
        let identity = identity_of(hostid_of(base, attempt));
        let path = self.path(drive);
        let State::Claiming(claim) = &mut path.state else {
            return;
        };
        match claim.answered(answer) {
            Step::Ask(command) => out.push(Action::Reserve {
                drive,
                attempt,
                command,
            }),
            Step::Claimed { continuous } => {
                path.state = State::Claimed;
                path.custody = Some(Custody::of(identity.host));
                if !continuous {
                    self.make_stale(drive, Stale::Forgotten, out);
                }
                if self.paths[&drive].stale.is_none() {
                    self.route(drive, out);
                }
            }
            Step::Refused(Refusal::Held(_) | Refusal::Preempted) => self.fence(drive, out),
            // A target that could not wait for the end of commands has what follows wait for it (PROTOCOL H09).
            Step::Refused(refusal) => {
                path.break_off();
                path.state = State::Unclaimed {
                    until_ns: now_ns + CLAIM_AGAIN_NS,
                };
                out.push(Action::Refused { drive, refusal });
            }
        }
    }

    /// The drive is another node's, who has waited for the end of what this one had under way.
    fn fence(&mut self, drive: u16, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if matches!(path.state, State::Fenced) {
            return;
        }
        path.state = State::Fenced;
        let route = Route::Refused {
            error: DriveError::Fenced,
            settled: true,
        };
        out.push(Action::Route { drive, route });
        out.push(Action::Fenced { drive });
    }

    /// The array goes on without this life of the node, which leaves all of its drives alone: nothing is written to any of them that
    /// says what this life thinks of its own end.
    fn expel(&mut self, drive: u16, out: &mut Vec<Action>) {
        if self.is_expelled {
            return;
        }
        self.is_expelled = true;
        for (drive, path) in self.paths.iter_mut().filter(|(_, path)| path.custody.is_none()) {
            path.state = State::Fenced;
            if path.stale.is_none() {
                // Commands wait until the cores end. An error would tell hosts that their data is lost, which other nodes have.
                let (drive, route) = (*drive, Route::Down);
                out.push(Action::Route { drive, route });
            }
        }
        out.push(Action::Expelled { drive });
    }

    fn admit(&mut self, out: &mut Vec<Action>) {
        self.is_admitted = true;
        let drives: Vec<u16> = self.paths.keys().copied().collect();
        for drive in drives {
            self.open(drive, out);
        }
    }

    /// Lets a drive that nodes share be used, if nothing of earlier associations can take effect any more.
    fn open(&mut self, drive: u16, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if !matches!(path.state, State::Connected) {
            return;
        }
        path.state = State::Claimed;
        if path.stale.is_none() {
            self.route(drive, out);
        }
    }

    /// Lets the cores use a drive over the association that works.
    fn route(&self, drive: u16, out: &mut Vec<Action>) {
        let shelf = self.paths[&drive].shelf;
        let attempt = self.shelves[usize::from(shelf)].attempt;
        let attempt = attempt.expect("a drive that may be used has an association");
        let route = Route::Up { attempt };
        out.push(Action::Route { drive, route });
    }

    fn restore(&mut self, drive: u16, out: &mut Vec<Action>) {
        let path = self.path(drive);
        if path.stale.is_none() || !matches!(path.state, State::Claimed) {
            return;
        }
        path.stale = None;
        self.route(drive, out);
    }

    fn tick(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let drives: Vec<u16> = self.paths.keys().copied().collect();
        for drive in drives {
            let path = &self.paths[&drive];
            let shelf = &self.shelves[usize::from(path.shelf)];
            if let (State::Unclaimed { until_ns }, Some(attempt)) = (&path.state, shelf.attempt)
                && now_ns >= *until_ns
            {
                self.claim(drive, attempt, out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
