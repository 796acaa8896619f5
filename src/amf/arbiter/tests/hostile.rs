//! Goal: whatever well-formed messages a peer sends, it stops nobody: no panic, no memory without bound.
//! Method: a node with users gets messages that are made up, from a member that is not one of ours.

use super::super::message::{Claim, ClaimKind, Grant, HandOver, Message, Request, Seat, Terms, Waiter};
use super::super::*;
use super::script::{setting, world};
use super::world::slot;
use crate::amf::lock::{Held, Mode};
use crate::icl::link::random::Random;

const RESOURCES: u64 = 4;
const SEEDS: u64 = 600;

struct Liar(Random);

impl Liar {
    fn chance(&mut self) -> bool {
        self.0.chance(500)
    }

    fn resource(&mut self) -> Resource {
        Resource(self.0.below(RESOURCES))
    }

    fn number(&mut self) -> Number {
        Number(self.0.below(40))
    }

    fn token(&mut self) -> Token {
        Token {
            epoch: Epoch(u32::try_from(self.0.below(4)).unwrap()),
            serial: self.0.below(20),
        }
    }

    fn mode(&mut self) -> Mode {
        if self.chance() { Mode::Read } else { Mode::Write }
    }

    fn held(&mut self) -> Held {
        [Held::Nothing, Held::Read, Held::Write][self.0.index(3)]
    }

    fn slot(&mut self) -> Slot {
        slot(u8::try_from(self.0.below(8)).unwrap())
    }

    fn terms(&mut self) -> Terms {
        let next = self.chance().then(|| self.slot());
        Terms {
            keep: self.held(),
            next,
        }
    }

    fn waiter(&mut self) -> Waiter {
        Waiter {
            mode: self.mode(),
            priority: 1,
            number: self.number(),
            takes: self.chance(),
        }
    }

    fn grant(&mut self) -> Grant {
        let mode = self.mode();
        let has_seat = mode.is_write() && self.chance();
        Grant {
            resource: self.resource(),
            mode,
            number: self.number(),
            token: self.token(),
            when_done: self.chance().then(|| self.terms()),
            hand_over: self.0.chance(200).then(|| HandOver {
                from: self.slot(),
                token: self.token(),
            }),
            prefetch: Prefetch(self.0.below(8)),
            seat: has_seat.then(|| Seat {
                waiting: self.chance().then(|| self.waiter()),
            }),
        }
    }

    fn claim(&mut self) -> Claim {
        let mode = self.mode();
        Claim {
            resource: self.resource(),
            kind: [ClaimKind::Wants(mode), ClaimKind::Gives, ClaimKind::Holds(mode)][self.0.index(3)],
            number: self.number(),
            token: self.token(),
            priority: 0,
        }
    }

    fn message(&mut self) -> Message {
        let (resource, number, token) = (self.resource(), self.number(), self.token());
        match self.0.below(11) {
            0 => Message::Request(Request {
                resource,
                mode: self.mode(),
                priority: 0,
                number,
                prefetch: Prefetch(self.0.below(8)),
                takes: self.chance(),
            }),
            1 => Message::Recall {
                resource,
                number,
                terms: self.terms(),
            },
            2 => Message::Released {
                resource,
                number,
                kept: self.held(),
                is_handed_over: self.chance(),
            },
            3 | 4 => Message::Grant(self.grant()),
            5 => Message::Moved { resource, number },
            6 => Message::Refused { resource, number },
            7 => Message::Returned { resource, token },
            8 => Message::Taken { resource, token },
            9 => Message::Noted { resource, token },
            _ => Message::Report {
                batch: u32::try_from(self.0.below(3)).unwrap(),
                is_last: self.chance(),
                claims: (0..self.0.below(4)).map(|_| self.claim()).collect(),
            },
        }
    }
}

#[test]
fn a_lying_peer_stops_nobody() {
    for seed in 0..SEEDS {
        let mut liar = Liar(Random::new(seed));
        let mut setting = setting([2, 3, 4][liar.0.index(3)]);
        setting.hands_over = liar.chance();
        let mut world = world(setting);
        for _ in 0..300 {
            let at = slot(u8::from(liar.chance()));
            let from = slot(1 - at.number());
            let resource = liar.resource();
            match liar.0.below(6) {
                0 => {
                    let mode = liar.mode();
                    world.user(at, resource, mode, Prefetch::next(2));
                }
                1 => world.finish(at, resource),
                2 => world.settle(),
                _ => {
                    let epoch = world.station(at).machine.epoch();
                    let message = liar.message();
                    world.event(at, Event::Message { from, epoch, message });
                }
            }
            let (entries, dockets) = world.station(at).machine.counts();
            assert!(entries <= 8 && dockets <= 8, "{entries} {dockets}");
            if liar.0.chance(6) {
                world.decide();
                world.form();
                let epoch = world.station(at).machine.epoch();
                for number in 0..setting.nodes {
                    world.event(slot(number), Event::Recovered(epoch));
                }
            }
        }
    }
}
