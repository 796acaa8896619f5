//! What lives ask drives, and how drives keep out those that were fenced.

use super::{Event, Flight, MS, Shared, World};
use crate::drive::DriveError;
use crate::sim::array::Mutant;
use crate::sim::drive::{Command, Trouble};
use crate::sim::node::Asker;
use crate::sim::stamp::Block;
use crate::sim::world::Violation;

impl World {
    pub(in crate::sim::array) fn ask_drive(&mut self, life: u64, drive: u16, command: Command, asker: Asker) {
        let it = self.lives.get(&life);
        if it.is_none_or(|it| it.is_expelled) {
            return; // Nothing is sent any more, and nobody waits for it.
        }
        let number = self.counters.drive_commands;
        self.counters.drive_commands += 1;
        let usual = match &command {
            Command::Read { .. } => 60_000,
            Command::Write { .. } => 100_000,
            Command::Flush => 400_000,
        };
        let slow = if matches!(asker, Asker::Superblock(_)) {
            15
        } else {
            3
        };
        let delay = match self.random.below(100) {
            draw if draw < slow => usual * 20,
            3..40 => usual / 4,
            _ => usual,
        };
        let delay = 2_000 + self.random.below(delay);
        let is_write = matches!(command, Command::Write { .. });
        let has_pen = |asker: Asker| matches!(asker, Asker::Superblock(_) | Asker::Replay(_));
        let shared = &mut self.drives[usize::from(drive)];
        if is_write && has_pen(asker) && !shared.fenced.contains(&life) {
            let mut others = self.flights.values();
            let other = others.find(|other| {
                let may_come = other.life != life && !shared.fenced.contains(&other.life);
                other.drive == drive && may_come && other.is_write && has_pen(other.asker)
            });
            if let Some(other) = other {
                let what = format!(
                    "life {life} writes what only the leader may, as life {} does",
                    other.life
                );
                self.violate(Violation::Redundancy(what));
            }
        }
        let (lba, blocks) = match &command {
            Command::Read { lba, blocks } => (*lba, u64::from(*blocks)),
            Command::Write { lba, data, .. } => (*lba, data.len() as u64),
            Command::Flush => (0, 0),
        };
        self.note(&[self.now, 14, life, u64::from(drive), lba, blocks], || {
            let what = if is_write { "write" } else { "read" };
            format!("life {life} {asker:?} asks drive {drive} to {what} {lba}+{blocks}")
        });
        self.drives[usize::from(drive)].drive.submit(number, command);
        let flight = Flight {
            life,
            drive,
            asker,
            is_write,
            is_late: false,
            held_until: 0,
        };
        self.flights.insert(number, flight);
        self.later(delay, Event::Drive(number));
    }

    pub(super) fn drive_acts(&mut self, number: u64) {
        let Some(flight) = self.flights.remove(&number) else {
            return; // A fence or a power cut has ended it.
        };
        if flight.held_until > self.now {
            let delay = flight.held_until - self.now;
            self.flights.insert(number, flight);
            return self.later(delay, Event::Drive(number));
        }
        let shared = &mut self.drives[usize::from(flight.drive)];
        if shared.fenced.contains(&flight.life) && !flight.is_late {
            shared.drive.forget(number);
            return self.expel(flight.life);
        }
        let result = shared.drive.carry_out(number);
        let (life, drive) = (flight.life, flight.drive);
        self.note(&[self.now, 1, u64::from(drive), number], || {
            let ok = result.as_ref().map(Vec::len);
            format!("drive {drive} answers life {life} {:?}: {ok:?}", flight.asker)
        });
        if !flight.is_late {
            // Nothing changes for a life that is not paused.
            self.step(Event::Answer(Box::new((flight, result))));
        }
    }

    pub(super) fn answer(&mut self, flight: Flight, result: Result<Vec<Block>, DriveError>) {
        let life = flight.life;
        if self.lives.get(&life).is_none_or(|it| it.is_expelled) {
            return;
        }
        match flight.asker {
            Asker::Engine { core, io } => {
                self.with_node(life, |node, out| node.drive_done(core, io, result, out));
            }
            Asker::Superblock(io) => {
                let result = result.map(|_| ());
                self.with_node(life, |node, out| node.superblock_done(io, result, out));
            }
            Asker::Replay(io) => self.replay_answered(life, io, result),
            Asker::Nobody => {}
        }
    }

    /// A life is gone: what it has under way may be held back on its way for longer than it takes to fence it.
    pub(super) fn hold_back(&mut self, life: u64) {
        for flight in self.flights.values_mut().filter(|flight| flight.life == life) {
            if self.random.chance(50) {
                flight.held_until = self.now + self.random.below(150 * MS);
            }
        }
    }

    /// A drive has refused a life: it uses none of them any more, and is over soon.
    pub(super) fn expel(&mut self, life: u64) {
        let Some(it) = self.lives.get_mut(&life) else {
            return;
        };
        if !std::mem::replace(&mut it.is_expelled, true) {
            let delay = self.random.below(20 * MS);
            self.later(delay, Event::End(life));
        }
    }

    /// Preempt and Abort: what the victim has under way is carried out now or never.
    pub(super) fn fence(&mut self, drive: u8, victim: u64) {
        let shared = &mut self.drives[usize::from(drive)];
        if shared.drive.trouble() == Some(Trouble::Gone) {
            return self.later(10 * MS, Event::Fence { drive, victim });
        }
        shared.fenced.insert(victim);
        let flying = self.flights.iter();
        let own: Vec<u64> = flying
            .filter(|(_, flight)| flight.life == victim && flight.drive == u16::from(drive))
            .map(|(number, _)| *number)
            .collect();
        for number in own {
            if self.setting.mutant == Mutant::LateWrite {
                let flight = self.flights.get_mut(&number).expect("it was listed");
                flight.is_late = true;
                continue;
            }
            self.flights.remove(&number);
            if self.random.chance(50) {
                shared_of(&mut self.drives, drive).drive.carry_out_late(number);
            } else {
                shared_of(&mut self.drives, drive).drive.forget(number);
            }
            // Whoever waits for an answer finds out.
            self.expel(victim);
        }
        self.note(&[self.now, 3, u64::from(drive), victim], || {
            format!("drive {drive} has fenced life {victim}")
        });
        self.fenced(drive, victim);
    }
}

fn shared_of(drives: &mut [Shared], drive: u8) -> &mut Shared {
    &mut drives[usize::from(drive)]
}
