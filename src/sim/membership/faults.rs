//! What goes wrong, and when it is right again.

use super::drive::Life;
use super::{Answer, Authority, Coming, Event, Flight, MS, World};

/// Something goes wrong, or ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Kill(usize),
    Pause(usize),
    Resume(usize),
    Cut {
        from: usize,
        to: usize,
        both: bool,
    },
    Reset {
        from: usize,
        to: usize,
    },
    LosePath {
        node: usize,
        drive: usize,
    },
    DriveOff(usize),
    DriveOn(usize),
    /// A shelf is killed: all of its drives are away, and what it had not carried out is gone.
    ShelfOff(usize),
    ShelfOn(usize),
    Loss(u64),
    Leave(usize),
    Heal,
}

impl<A: Authority> World<A> {
    /// Plans some faults between `from_ns` and `to_ns`, and their end at `to_ns`.
    pub(super) fn plan(&mut self, from_ns: u64, to_ns: u64) {
        let count = 2 + self.random.below(6);
        for _ in 0..count {
            let at_ns = from_ns + self.random.below(to_ns - from_ns);
            let node = self.random.index(self.nodes.len());
            let other = self.random.index(self.nodes.len());
            let drive = self.random.index(self.drives.len());
            let both = self.random.chance(50);
            let fault = match self.random.below(13) {
                0 | 1 => Fault::Kill(node),
                2 | 3 => {
                    let length_ns = self.random.ms(200, 9_000);
                    let end_ns = (at_ns + length_ns).min(to_ns);
                    self.later(end_ns - self.now_ns, Coming::Fault(Fault::Resume(node)));
                    Fault::Pause(node)
                }
                4..=6 => Fault::Cut {
                    from: node,
                    to: other,
                    both,
                },
                7 => Fault::LosePath { node, drive },
                8 => {
                    let length_ns = self.random.ms(100, 8_000);
                    let end_ns = (at_ns + length_ns).min(to_ns);
                    self.later(end_ns - self.now_ns, Coming::Fault(Fault::DriveOn(drive)));
                    Fault::DriveOff(drive)
                }
                9 => Fault::Loss(self.random.below(60)),
                10 => Fault::Leave(node),
                11 => {
                    let length_ns = self.random.ms(100, 8_000);
                    let end_ns = (at_ns + length_ns).min(to_ns);
                    let shelf = drive % self.shelves;
                    self.later(end_ns - self.now_ns, Coming::Fault(Fault::ShelfOn(shelf)));
                    Fault::ShelfOff(shelf)
                }
                _ => Fault::Reset {
                    from: node,
                    to: other,
                },
            };
            self.later(at_ns - self.now_ns, Coming::Fault(fault));
        }
        self.later(to_ns - self.now_ns, Coming::Fault(Fault::Heal));
    }

    pub(super) fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(node) => self.kill(node),
            Fault::Pause(node) => self.nodes[node].paused = true,
            Fault::Resume(node) => self.resume(node),
            Fault::Cut { from, to, both } => {
                self.cuts[from][to] = true;
                self.cuts[to][from] |= both;
            }
            Fault::Reset { from, to } => self.nodes_event(from, Event::LinkLost(self.nodes[to].slot)),
            Fault::LosePath { node, drive } => {
                self.lost_paths[node][drive] = true;
                self.path_lost(node, drive);
            }
            Fault::DriveOff(drive) => self.drive_off(drive),
            Fault::DriveOn(drive) => self.drive_on(drive),
            Fault::ShelfOff(shelf) => {
                for drive in self.drives_of(shelf) {
                    self.drive_off(drive);
                    self.forget_held(drive);
                }
            }
            Fault::ShelfOn(shelf) => {
                for drive in self.drives_of(shelf) {
                    self.drive_on(drive);
                }
            }
            Fault::Loss(percent) => self.loss_percent = percent,
            Fault::Leave(node) => self.nodes_event(node, Event::Leave),
            Fault::Heal => self.heal(),
        }
    }

    fn drives_of(&self, shelf: usize) -> impl Iterator<Item = usize> + use<A> {
        (shelf..self.drives.len()).step_by(self.shelves)
    }

    fn drive_off(&mut self, drive: usize) {
        self.drives[drive].is_online = false;
        for node in 0..self.nodes.len() {
            self.path_lost(node, drive);
        }
    }

    fn drive_on(&mut self, drive: usize) {
        self.drives[drive].is_online = true;
        for node in 0..self.nodes.len() {
            self.path_back(node, drive);
        }
    }

    /// Whatever the drive's shelf had taken and not carried out never takes effect.
    fn forget_held(&mut self, drive: usize) {
        self.drives[drive].reservation.withdraw(|_| true);
        let held: Vec<u64> = self.drives[drive].held.keys().copied().collect();
        for id in held {
            let outcome = self.drives[drive].released(id);
            self.follow(outcome);
        }
    }

    /// A process dies at once; what it has on its way to drives is still on its way.
    pub(super) fn kill(&mut self, node: usize) {
        if self.nodes[node].machine.take().is_some() {
            let after_ns = self.random.ms(100, 12_000);
            self.later(after_ns, Coming::Restart(node));
            for other in 0..self.nodes.len() {
                let reset = self.random.chance(70);
                if other != node && reset && !self.cuts[node][other] {
                    self.nodes_event(other, Event::LinkLost(self.nodes[node].slot));
                }
            }
        }
    }

    fn resume(&mut self, node: usize) {
        let one = &mut self.nodes[node];
        if !std::mem::take(&mut one.paused) {
            return;
        }
        for event in std::mem::take(&mut one.backlog) {
            self.nodes_event(node, event);
        }
        self.nodes_event(node, Event::Tick);
        let incarnation = self.nodes[node].incarnation();
        self.later(MS, Coming::Data(node, incarnation));
    }

    fn path_lost(&mut self, node: usize, drive: usize) {
        for flight in self.flights.values_mut() {
            flight.is_stuck |= flight.node == node && flight.drive == drive;
        }
        let incarnation = self.nodes[node].incarnation();
        let after_ns = self.random.ms(5, 1_000);
        let down = Event::DriveDown(self.drives[drive].index);
        self.later(after_ns, Coming::Tell(node, incarnation, Box::new(down)));
    }

    /// The node connects again, which ends what its old association had under way.
    fn path_back(&mut self, node: usize, drive: usize) {
        if !self.is_reached(node, drive) {
            return;
        }
        let life: Life = (self.nodes[node].slot, self.nodes[node].incarnation());
        let is_stuck = |flight: &Flight| flight.is_stuck && flight.drive == drive && flight.life == life;
        let ids = self
            .flights
            .iter()
            .filter(|(_, flight)| is_stuck(flight))
            .map(|(id, _)| *id);
        for id in ids.collect::<Vec<_>>() {
            self.drives[drive].reservation.withdraw(|name| *name == id);
            self.answer(id, Answer::Failed);
            let outcome = self.drives[drive].released(id);
            self.follow(outcome);
        }
        // The loss of the path is noticed before its return.
        let after_ns = 1_000 * MS + self.random.ms(1, 50);
        let up = Event::DriveUp(self.drives[drive].index);
        self.later(after_ns, Coming::Tell(node, life.1, Box::new(up)));
    }

    fn heal(&mut self) {
        self.loss_percent = 0;
        for from in 0..self.nodes.len() {
            self.resume(from);
            self.cuts[from].fill(false);
            for drive in 0..self.drives.len() {
                self.lost_paths[from][drive] = false;
                self.drives[drive].is_online = true;
            }
        }
        for node in 0..self.nodes.len() {
            for drive in 0..self.drives.len() {
                self.path_back(node, drive);
            }
        }
    }
}
