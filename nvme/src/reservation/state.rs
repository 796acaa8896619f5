//! The registrants and the reservation of one namespace, and what each reservation command makes of them.

use crate::status::Status;

use super::admission::Outcome;
use super::{
    Admission, Command, Floors, HostId, Key, Kind, Life, Notice, Persistence, REGISTRANTS_MAX, Report,
    Reported, Rules,
};

/// Reservation Conflict. Never worth a retry: only another reservation command changes it.
const CONFLICT: Status = Status::RESERVATION_CONFLICT.do_not_retry();
/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();

/// A host with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// The host.
    pub host: HostId,
    /// Its key, never 0.
    pub key: Key,
}

/// A reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its type.
    pub kind: Kind,
    /// Who holds it, a registrant; `None` exactly where all registrants do.
    pub holder: Option<HostId>,
}

/// What a command leads to beside the new state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Hosts whose commands are to be aborted, and waited for.
    pub abort: Vec<HostId>,
    /// Hosts that lost something, and what.
    pub notices: Vec<(HostId, Notice)>,
    /// Lives are barred that were not: what they have under way is to be aborted, and waited for.
    pub bars: bool,
}

/// Registrants, reservation, generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The registrants, oldest first; no host twice.
    pub registrants: Vec<Registrant>,
    /// The reservation, if there is one.
    pub reservation: Option<Reservation>,
    /// Generation (GEN).
    pub generation: u32,
    /// Persist Through Power Loss State (PTPLS).
    pub persists: bool,
    /// Which lives of hosts may change anything.
    pub admission: Admission,
    /// Which keys are too old to be registered, if the namespace is held to that.
    pub floors: Option<Floors>,
}

impl State {
    /// The key of a host, if it is registered.
    pub fn key(&self, host: HostId) -> Option<Key> {
        let mut all = self.registrants.iter();
        all.find(|registrant| registrant.host == host)
            .map(|registrant| registrant.key)
    }

    /// Whether a host holds the reservation; under All Registrants each registrant does.
    pub fn is_holder(&self, host: HostId) -> bool {
        match self.reservation {
            Some(Reservation {
                holder: Some(holder), ..
            }) => holder == host,
            Some(Reservation { holder: None, .. }) => self.key(host).is_some(),
            None => false,
        }
    }

    /// What cores are to hold commands to.
    pub fn rules(&self) -> Rules {
        let admission = self.admission.clone();
        let Some(reservation) = self.reservation else {
            return Rules {
                admission,
                ..Rules::default()
            };
        };
        let hosts = match reservation.holder {
            Some(holder) if reservation.kind.is_of_one() => vec![holder],
            Some(_) | None => self
                .registrants
                .iter()
                .map(|registrant| registrant.host)
                .collect(),
        };
        Rules {
            kind: Some(reservation.kind),
            hosts,
            admission,
        }
    }

    /// What Reservation Report tells. No registrant has a static controller, so that their controller is `FFFFh`.
    pub fn report(&self) -> Report {
        let reported = |registrant: &Registrant| Reported {
            cntlid: u16::MAX,
            holder: self.is_holder(registrant.host),
            host: registrant.host,
            key: registrant.key,
        };
        Report {
            generation: self.generation,
            kind: self.reservation.map(|reservation| reservation.kind),
            persists: self.persists,
            registrants: self.registrants.iter().map(reported).collect(),
        }
    }

    /// Executes a command of a life of a host, if it is let in; on an error the state is not to be used any more.
    ///
    /// `can_persist` is whether there is a place that outlives a loss of power (RESCAP bit 0).
    pub fn execute(&mut self, life: Life, command: &Command, can_persist: bool) -> Result<Effect, Status> {
        match command {
            // Who is out learns that here, or claims its name.
            Command::Report { .. } | Command::Expel { .. } => {}
            Command::Register { .. }
            | Command::Unregister { .. }
            | Command::Replace { .. }
            | Command::Acquire { .. }
            | Command::Preempt { .. }
            | Command::Release { .. }
            | Command::Clear { .. }
            | Command::SetPersistence(_)
            | Command::SetFloors(_)
            | Command::Kill { .. } => {
                if !self.admission.admits(life) {
                    return Err(CONFLICT);
                }
            }
        }
        self.apply(life.host, command, can_persist)
    }

    /// Executes a command of `host`, whichever life of it that is.
    pub(super) fn apply(
        &mut self,
        host: HostId,
        command: &Command,
        can_persist: bool,
    ) -> Result<Effect, Status> {
        let effect = match *command {
            Command::Register { new, persistence } => {
                self.set_persistence(persistence, can_persist)?;
                self.register(host, new)
            }
            Command::Replace {
                current,
                new,
                persistence,
            } => {
                self.set_persistence(persistence, can_persist)?;
                self.replace(host, current, new)
            }
            Command::Unregister { current, persistence } => {
                self.set_persistence(persistence, can_persist)?;
                self.unregister(host, current)
            }
            Command::Acquire { current, kind } => self.acquire(host, current, kind),
            Command::Preempt {
                current,
                victim,
                kind,
                abort,
            } => self.preempt(host, current, victim, kind, abort),
            Command::Release { current, kind } => self.release(host, current, kind),
            Command::Clear { current } => self.clear(host, current),
            Command::Report { .. } => Ok(Effect::default()),
            Command::SetPersistence(on) => {
                let wanted = if on { Persistence::On } else { Persistence::Off };
                self.set_persistence(wanted, can_persist)
                    .map(|()| Effect::default())
            }
            Command::SetFloors(on) if can_persist => self.set_floors(host, on),
            Command::Expel { name } if can_persist => {
                self.admission.expel(Life { name, host }).map(effect_of_admission)
            }
            Command::Kill { host: victim } if can_persist => {
                // Only who could preempt may take away more than that.
                self.key(host).ok_or(CONFLICT)?;
                Ok(effect_of_admission(self.admission.kill(victim)))
            }
            Command::SetFloors(_) | Command::Expel { .. } | Command::Kill { .. } => Err(INVALID),
        }?;
        self.check();
        Ok(effect)
    }

    /// Panics where the parts of the state contradict one another.
    pub fn check(&self) {
        assert!(
            self.registrants.len() <= REGISTRANTS_MAX,
            "registrants are bounded"
        );
        assert!(self.is_sound(), "registrants and reservation fit each other");
    }

    /// Whether each registrant has a key, and the reservation is held by one of them, or by all of those that there are.
    pub fn is_sound(&self) -> bool {
        let have_keys = self.registrants.iter().all(|it| it.key != Key::NONE);
        let fits = self.reservation.is_none_or(|held| match held.holder {
            Some(holder) => !held.kind.is_of_all() && self.key(holder).is_some(),
            None => held.kind.is_of_all() && !self.registrants.is_empty(),
        });
        have_keys && fits
    }

    /// Source: NVM Express Base Specification 2.0, section 7.3 (Reservation Register command): CPTPL.
    fn set_persistence(&mut self, wanted: Persistence, can_persist: bool) -> Result<(), Status> {
        match wanted {
            Persistence::Keep => {}
            Persistence::Off => self.persists = false,
            Persistence::On if can_persist => self.persists = true,
            Persistence::On => return Err(INVALID),
        }
        Ok(())
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Source: NVM Express Base Specification 2.0, section 8.19.2 (Registering): again with the same key is fine, with another one is not.
    fn register(&mut self, host: HostId, new: Key) -> Result<Effect, Status> {
        match self.key(host) {
            Some(key) if key != new => return Err(CONFLICT),
            Some(_) => {}
            None => {
                self.check_age(new)?;
                self.add(host, new)?;
            }
        }
        self.count();
        Ok(Effect::default())
    }

    /// Errs for a key that is too old to become somebody's; from one that is not, others may be.
    fn check_age(&mut self, new: Key) -> Result<(), Status> {
        if let Some(floors) = &mut self.floors {
            floors.check(new)?;
            floors.registered(new);
        }
        Ok(())
    }

    /// Holds keys to the epochs of an array from now on, or not any more; only a registered host changes that where there is one.
    fn set_floors(&mut self, host: HostId, on: bool) -> Result<Effect, Status> {
        if on == self.floors.is_some() {
            return Ok(Effect::default());
        }
        if !self.registrants.is_empty() && self.key(host).is_none() {
            return Err(CONFLICT);
        }
        self.floors = on.then(|| {
            let mut floors = Floors::default();
            let keys = self.registrants.iter().map(|registrant| registrant.key);
            keys.for_each(|key| floors.registered(key));
            floors
        });
        Ok(Effect::default())
    }

    fn add(&mut self, host: HostId, key: Key) -> Result<(), Status> {
        if self.registrants.len() == REGISTRANTS_MAX {
            return Err(Status::INTERNAL_ERROR.do_not_retry());
        }
        self.registrants.push(Registrant { host, key });
        Ok(())
    }

    /// Source: NVM Express Base Specification 2.0, section 8.19.2 (Registering): with IEKEY (`current` is `None`) without regard to the
    /// current key or to whether the host is registered at all.
    fn replace(&mut self, host: HostId, current: Option<Key>, new: Key) -> Result<Effect, Status> {
        let key = self.key(host);
        if current.is_some() && key != current {
            return Err(CONFLICT);
        }
        if key != Some(new) {
            self.check_age(new)?;
        }
        if key.is_none() {
            self.add(host, new)?;
        }
        for registrant in &mut self.registrants {
            if registrant.host == host {
                registrant.key = new;
            }
        }
        self.count();
        Ok(Effect::default())
    }

    /// Source: NVM Express Base Specification 2.0, sections 8.19.2 and 8.19.5: a reservation goes with its holder, or with the last
    /// registrant where all hold it.
    fn unregister(&mut self, host: HostId, current: Option<Key>) -> Result<Effect, Status> {
        let key = self.key(host).ok_or(CONFLICT)?;
        if current.is_some_and(|current| current != key) {
            return Err(CONFLICT);
        }
        let held = self.reservation;
        self.remove(|registrant| registrant.host == host);
        self.count();
        let released = held.filter(|held| held.holder == Some(host) && !held.kind.is_of_one());
        Ok(match released {
            Some(_) => self.tell_others(host, Notice::ReservationReleased),
            None => Effect::default(),
        })
    }

    /// Takes registrants away, and the reservation where that leaves nobody who holds it.
    fn remove(&mut self, is_meant: impl Fn(&Registrant) -> bool) {
        self.registrants.retain(|registrant| !is_meant(registrant));
        let is_held = match self.reservation {
            Some(Reservation {
                holder: Some(holder), ..
            }) => self.key(holder).is_some(),
            Some(Reservation { holder: None, .. }) | None => !self.registrants.is_empty(),
        };
        if !is_held {
            self.reservation = None;
        }
    }

    fn tell_others(&self, host: HostId, notice: Notice) -> Effect {
        let others = self.registrants.iter().filter(|other| other.host != host);
        Effect {
            notices: others.map(|other| (other.host, notice)).collect(),
            ..Effect::default()
        }
    }

    /// Fails unless the host is registered with this key.
    fn authorise(&self, host: HostId, current: Key) -> Result<(), Status> {
        if self.key(host) == Some(current) {
            Ok(())
        } else {
            Err(CONFLICT)
        }
    }

    fn take(&mut self, host: HostId, kind: Kind) {
        self.reservation = Some(Reservation {
            kind,
            holder: (!kind.is_of_all()).then_some(host),
        });
    }

    /// Source: NVM Express Base Specification 2.0, section 8.19.4 (Acquiring a Reservation).
    fn acquire(&mut self, host: HostId, current: Key, kind: Kind) -> Result<Effect, Status> {
        self.authorise(host, current)?;
        match self.reservation {
            None => self.take(host, kind),
            Some(held) if self.is_holder(host) && held.kind == kind => {}
            Some(_) => return Err(CONFLICT),
        }
        Ok(Effect::default())
    }

    /// Source: NVM Express Base Specification 2.0, section 8.19.6 (Preempting a Reservation or Registration).
    fn preempt(
        &mut self,
        host: HostId,
        current: Key,
        victim: Key,
        kind: Kind,
        abort: bool,
    ) -> Result<Effect, Status> {
        self.authorise(host, current)?;
        let before = self.registrants.clone();
        let held = self.reservation;
        let of_all = held.is_some_and(|held| held.kind.is_of_all());
        let holders_key = held
            .and_then(|held| held.holder)
            .and_then(|holder| self.key(holder));
        let takes = if of_all {
            victim == Key::NONE
        } else {
            holders_key == Some(victim)
        };
        if takes {
            // The issuer holds it from here on, so that no moment is without a reservation.
            self.take(host, kind);
            self.registrants
                .retain(|other| other.host == host || !(of_all || other.key == victim));
        } else if victim == Key::NONE {
            return Err(INVALID);
        } else if self.registrants.iter().any(|other| other.key == victim) {
            self.remove(|other| other.key == victim);
        } else {
            return Err(CONFLICT);
        }
        self.count();
        let changed = takes && held.is_some_and(|held| held.kind != kind);
        let mut effect = if changed {
            self.tell_others(host, Notice::ReservationReleased)
        } else {
            Effect::default()
        };
        let mut gone = before;
        gone.retain(|old| old.host != host && self.key(old.host).is_none());
        for old in &gone {
            effect.notices.push((old.host, Notice::RegistrationPreempted));
            if abort {
                effect.abort.push(old.host);
            }
        }
        match &mut self.floors {
            Some(floors) if victim == Key::NONE => floors.preempted_all(current),
            Some(floors) => gone.iter().for_each(|old| floors.preempted(old.key)),
            None => {}
        }
        Ok(effect)
    }

    /// Source: NVM Express Base Specification 2.0, section 8.19.5 (Releasing a Reservation): without effect for who does not hold it.
    fn release(&mut self, host: HostId, current: Key, kind: Kind) -> Result<Effect, Status> {
        self.authorise(host, current)?;
        let Some(held) = self.reservation.filter(|_| self.is_holder(host)) else {
            return Ok(Effect::default());
        };
        if held.kind != kind {
            return Err(INVALID);
        }
        self.reservation = None;
        Ok(if kind.is_of_one() {
            Effect::default()
        } else {
            self.tell_others(host, Notice::ReservationReleased)
        })
    }

    /// Source: NVM Express Base Specification 2.0, section 8.19.7 (Clearing a Reservation).
    fn clear(&mut self, host: HostId, current: Key) -> Result<Effect, Status> {
        self.authorise(host, current)?;
        let effect = self.tell_others(host, Notice::ReservationPreempted);
        self.registrants.clear();
        self.reservation = None;
        self.count();
        Ok(effect)
    }
}

/// What follows from lives being barred.
fn effect_of_admission(outcome: Outcome) -> Effect {
    Effect {
        bars: outcome == Outcome::Changed,
        ..Effect::default()
    }
}
