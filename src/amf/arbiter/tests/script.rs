//! Scripts: nodes without faults whose messages are delivered one by one, and told in words.

use super::super::message::{ClaimKind, Message};
use super::super::station::{Mutant, Wire};
use super::super::*;
use super::world::{Setting, World, slot};
use crate::amf::lock::{Held, Mode};

/// So many nodes, without faults; nothing is kept for a shortest time.
pub(super) fn setting(nodes: u8) -> Setting {
    Setting {
        nodes,
        resources: 1,
        rule: None,
        order: QueueOrder::Fifo,
        holder_limit: 1000,
        arbiter_limit: 1000,
        hold_ns_min: 0,
        hands_over: false,
        is_ordered: true,
        repeats: false,
        deaths: 0,
        epochs: 0,
        pauses: 0,
        prefetch: 0,
        securing: 1000,
        mutant: Mutant::None,
    }
}

/// A world of that kind in its first open epoch.
pub(super) fn world(setting: Setting) -> World {
    let mut world = World::new(1, setting);
    world.form();
    world
}

/// The first resource that is placed at a node, as the patent numbers them: AMF #1 is slot 0.
pub(super) fn placed_at(amf: u8, world: &World) -> Resource {
    let home = |resource: &Resource| {
        world
            .stations()
            .next()
            .map(|one| one.machine.status(*resource).arbiter)
    };
    let mut runs = (0..1000).map(|run| Resource(run * RUN));
    runs.find(|resource| home(resource) == Some(slot(amf - 1)))
        .expect("each node is the arbiter of some")
}

impl World {
    /// A user of an AMF comes.
    pub(super) fn wants(&mut self, amf: u8, mode: Mode, resource: Resource) {
        self.user(slot(amf - 1), resource, mode, Prefetch::NONE);
    }

    /// The users of an AMF are done.
    pub(super) fn is_done(&mut self, amf: u8, resource: Resource) {
        self.finish(slot(amf - 1), resource);
    }

    /// What an AMF holds.
    pub(super) fn hold(&mut self, amf: u8, resource: Resource) -> Held {
        self.station(slot(amf - 1)).machine.hold(resource)
    }

    /// Whether a user of an AMF is inside.
    pub(super) fn is_inside(&mut self, amf: u8, resource: Resource) -> bool {
        let users = self.station(slot(amf - 1)).users.get(&resource);
        users.is_some_and(|users| users.is_used())
    }

    /// What was sent since the last time, in words.
    pub(super) fn said(&mut self, names: &[(Resource, &str)]) -> Vec<String> {
        self.check();
        assert_eq!(self.store.broken, None);
        let trace = std::mem::take(&mut self.trace);
        trace
            .iter()
            .map(|(from, to, wire)| {
                let (from, to) = (from.number() + 1, to.number() + 1);
                format!("{from}>{to} {}", words(wire, names))
            })
            .collect()
    }
}

fn words(wire: &Wire, names: &[(Resource, &str)]) -> String {
    let name = |resource: &Resource| {
        let named = names.iter().find(|(known, _)| known == resource);
        named.map_or_else(|| resource.0.to_string(), |(_, name)| (*name).to_owned())
    };
    let mode = |mode: &Mode| if mode.is_write() { "write" } else { "read" };
    let message = match wire {
        Wire::Data { resource, .. } => return format!("data {}", name(resource)),
        Wire::Lock(message) => message,
    };
    match message {
        Message::Request(request) => format!("request {} {}", mode(&request.mode), name(&request.resource)),
        Message::Recall { resource, .. } => format!("release {}", name(resource)),
        Message::Released { resource, kept, .. } => {
            let kept = if *kept == Held::Read { ", keeps read" } else { "" };
            format!("released {}{kept}", name(resource))
        }
        Message::Grant(grant) => {
            let until_done = if grant.when_done.is_some() {
                " until done"
            } else {
                ""
            };
            let seat = if grant.seat.is_some() { ", arbiter" } else { "" };
            format!(
                "grant {} {}{until_done}{seat}",
                mode(&grant.mode),
                name(&grant.resource)
            )
        }
        Message::Moved { resource, .. } => format!("moved {}", name(resource)),
        Message::Refused { resource, .. } => format!("refused {}", name(resource)),
        Message::Returned { resource, .. } => format!("returned {}", name(resource)),
        Message::Taken { resource, .. } => format!("taken {}", name(resource)),
        Message::Noted { resource, .. } => format!("noted {}", name(resource)),
        Message::Report { claims, .. } => {
            let wants = |claim: &message::Claim| matches!(claim.kind, ClaimKind::Wants(_));
            let wanted = claims.iter().filter(|claim| wants(claim)).count();
            format!("report {} held, {wanted} wanted", claims.len() - wanted)
        }
        Message::ReportTaken { .. } => "report taken".to_owned(),
    }
}
