//! The Connect command: how a connection becomes a queue.

use crate::fabrics::{CNTLID_DYNAMIC, Connect, ConnectData};
use crate::feature::{FeatureDefaults, Features};
use crate::identify::{
    ControllerKind, NOTICE_ACCESS_CHANGED, NOTICE_CROSS_RESET, NOTICE_DISCOVERY_CHANGED,
    NOTICE_NAMESPACE_CHANGED,
};
use crate::nqn::Nqn;
use crate::reservation::HostId;

use super::controller::{Birth, Controller};
use super::{ADMIN_ENTRIES_MAX, Action, Command, Queue, QueueState, Refusal, Reply, Report, Subsystem};

/// How long a Connect waits for the queue that it replaces to be torn down: one second.
const HELD_NS: u64 = 1_000_000_000;

/// A Connect that waits for the queue that it replaces to be torn down.
#[derive(Clone, Debug)]
pub(super) struct HeldConnect {
    command: Command,
    connect: Connect,
    data: ConnectData,
    deadline_ns: u64,
}

/// What a Connect leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    NewController(ControllerKind),
    NewQueue,
    Wait,
}

/// Completes a Connect with the status and the parameter that belong to `why`.
pub(super) fn refuse(command: &Command, host: Option<Nqn>, why: Refusal, out: &mut Vec<Action>) {
    out.push(Action::Report(Report::Refused {
        queue: command.queue,
        host,
        why,
    }));
    let reply = Reply {
        result: why.result(),
        status: why.status(),
        data: Vec::new(),
    };
    command.complete(reply, out);
}

impl Subsystem {
    /// Executes a Connect of a connection that has had none.
    ///
    /// Source: NVM Express Base Specification 2.0, Connect Command and Response.
    pub(super) fn connect(&mut self, now_ns: u64, command: Command, data: &[u8], out: &mut Vec<Action>) {
        let connect = Connect::parse(&command.entry);
        if connect.recfmt != 0 {
            return refuse(&command, None, Refusal::RecordFormat, out);
        }
        let data = match ConnectData::parse(data) {
            Ok(data) => data,
            Err(error) => return refuse(&command, None, Refusal::Data(error), out),
        };
        let held = HeldConnect {
            command,
            connect,
            data,
            deadline_ns: now_ns.saturating_add(HELD_NS),
        };
        self.decide_and_act(now_ns, held, out);
    }

    fn decide_and_act(&mut self, now_ns: u64, held: HeldConnect, out: &mut Vec<Action>) {
        let id = held.command.queue;
        match self.decide(&held) {
            Ok(Decision::Wait) if now_ns < held.deadline_ns => {
                let queue = self
                    .queues
                    .get_mut(&id)
                    .expect("a Connect comes over a known connection");
                queue.state = QueueState::AwaitingRelease(Box::new(held));
            }
            Ok(Decision::Wait) => self.refuse_held(held, Refusal::QueueExists, out),
            Ok(Decision::NewController(kind)) => match self.free_cntlid(kind) {
                Some(cntlid) => self.make_controller(now_ns, cntlid, kind, held, out),
                None => self.refuse_held(held, Refusal::Busy, out),
            },
            Ok(Decision::NewQueue) => self.add_queue(held, out),
            Err(why) => self.refuse_held(held, why, out),
        }
    }

    fn refuse_held(&mut self, held: HeldConnect, why: Refusal, out: &mut Vec<Action>) {
        let queue = self
            .queues
            .get_mut(&held.command.queue)
            .expect("a Connect comes over a known connection");
        queue.state = QueueState::AwaitingConnect;
        refuse(&held.command, Some(held.data.hostnqn), why, out);
    }

    /// Checks a Connect against everything that it names.
    fn decide(&self, held: &HeldConnect) -> Result<Decision, Refusal> {
        let (connect, data) = (&held.connect, &held.data);
        let queue = self
            .queues
            .get(&held.command.queue)
            .expect("a Connect comes over a known connection");
        let kind = self.addressed_subsystem(queue, data)?;
        if kind == ControllerKind::Io && !self.config.allow.allows(&data.hostnqn) {
            return Err(Refusal::HostNotAllowed);
        }
        let entries_max = if connect.qid == 0 {
            ADMIN_ENTRIES_MAX
        } else {
            self.config.queue_entries_max
        };
        if connect.sqsize == 0 || connect.sqsize >= entries_max {
            return Err(Refusal::QueueSize);
        }
        if connect.qid != 0 {
            return self.decide_io(queue, kind, connect, data);
        }
        if data.cntlid != CNTLID_DYNAMIC {
            return Err(Refusal::StaticController);
        }
        Ok(Decision::NewController(kind))
    }

    /// Which subsystem a Connect addresses, if this port serves it.
    fn addressed_subsystem(&self, queue: &Queue, data: &ConnectData) -> Result<ControllerKind, Refusal> {
        if data.subnqn == Nqn::DISCOVERY {
            return Ok(ControllerKind::Discovery);
        }
        let port = self.config.ports.iter().find(|port| port.id == queue.port);
        let serves = port.is_some_and(|port| !port.discovery_only);
        if serves && data.subnqn == self.config.nqn {
            Ok(ControllerKind::Io)
        } else {
            Err(Refusal::UnknownSubsystem)
        }
    }

    fn decide_io(
        &self,
        queue: &Queue,
        kind: ControllerKind,
        connect: &Connect,
        data: &ConnectData,
    ) -> Result<Decision, Refusal> {
        if kind == ControllerKind::Discovery {
            return Err(Refusal::QueueIdentifier);
        }
        let controller = self
            .controllers
            .get(&data.cntlid)
            .filter(|controller| controller.kind == kind && !controller.terminated)
            .filter(|controller| controller.transport == queue.transport)
            .ok_or(Refusal::UnknownController)?;
        if controller.host != data.hostnqn {
            return Err(Refusal::OtherHostNqn);
        }
        if controller.hostid != data.hostid {
            return Err(Refusal::OtherHostId);
        }
        if !controller.takes_queues() {
            return Err(Refusal::NotReady);
        }
        if connect.qid > controller.features.io_queues() {
            return Err(Refusal::QueueIdentifier);
        }
        if controller.io.contains_key(&connect.qid) {
            Ok(Decision::Wait)
        } else {
            Ok(Decision::NewQueue)
        }
    }

    /// The next controller identifier of our slice that no association has, if there may be one more.
    fn free_cntlid(&mut self, kind: ControllerKind) -> Option<u16> {
        let discovery = self
            .controllers
            .values()
            .filter(|controller| controller.kind == kind)
            .count();
        let discovery_max = usize::from(self.config.controllers_max / 4).max(1);
        if self.controllers.len() >= usize::from(self.config.controllers_max)
            || (kind == ControllerKind::Discovery && discovery >= discovery_max)
        {
            return None;
        }
        let (first, last) = (*self.config.cntlids.start(), *self.config.cntlids.end());
        let cntlid = (self.cntlid_next..=last)
            .chain(first..self.cntlid_next)
            .find(|cntlid| !self.controllers.contains_key(cntlid))?;
        self.cntlid_next = if cntlid == last { first } else { cntlid + 1 };
        Some(cntlid)
    }

    fn make_controller(
        &mut self,
        now_ns: u64,
        cntlid: u16,
        kind: ControllerKind,
        held: HeldConnect,
        out: &mut Vec<Action>,
    ) {
        let id = held.command.queue;
        // Only a discovery connection with a keep alive timer is a persistent one, which hears of changes.
        let notices = match (kind, held.connect.kato_ms) {
            (ControllerKind::Io, _) => NOTICE_NAMESPACE_CHANGED | NOTICE_ACCESS_CHANGED | NOTICE_CROSS_RESET,
            (ControllerKind::Discovery, 0) => 0,
            (ControllerKind::Discovery, _) => NOTICE_DISCOVERY_CHANGED,
        };
        let features = Features::new(FeatureDefaults {
            discovery: kind == ControllerKind::Discovery,
            // A host asks once, so that the answer has to hold as long as the association does.
            volatile_write_cache: kind == ControllerKind::Io
                && self.namespaces.values().any(|namespace| namespace.volatile),
            io_queues_max: self.config.io_queues_max,
            notices,
            kato_ms: held.connect.kato_ms,
            hostid: held.data.hostid,
        });
        let queue = self
            .queues
            .get(&id)
            .expect("a Connect comes over a known connection");
        let controller = Controller::new(Birth {
            cntlid,
            kind,
            transport: queue.transport,
            host: held.data.hostnqn.clone(),
            hostid: held.data.hostid,
            local_address: queue.local_address.clone(),
            admin: id,
            features,
            queue_entries_max: self.config.queue_entries_max,
            now_ns,
        });
        let before = self.controllers.insert(cntlid, controller);
        assert!(before.is_none(), "the controller identifier was free");
        let host = held.data.hostnqn.clone();
        self.accept(cntlid, QueueState::Admin { cntlid }, held, out);
        out.push(Action::Report(Report::Connected {
            queue: id,
            cntlid,
            kind,
            host,
        }));
    }

    fn add_queue(&mut self, held: HeldConnect, out: &mut Vec<Action>) {
        let (queue, cntlid, qid) = (held.command.queue, held.data.cntlid, held.connect.qid);
        let before = self.controller_mut(cntlid).io.insert(qid, queue);
        assert!(before.is_none(), "the queue identifier was free");
        self.accept(cntlid, QueueState::Io { cntlid, qid }, held, out);
        out.push(Action::Report(Report::QueueConnected { queue, cntlid, qid }));
    }

    fn accept(&mut self, cntlid: u16, state: QueueState, held: HeldConnect, out: &mut Vec<Action>) {
        let id = held.command.queue;
        let queue = self
            .queues
            .get_mut(&id)
            .expect("a Connect comes over a known connection");
        queue.state = state;
        let waited = self.unconnected.remove(&(queue.accepted_ns, id));
        assert!(waited, "a connection without a Connect is listed as such");
        let connect = held.connect;
        let volatile_write_cache = self.controller(cntlid).features.has_volatile_write_cache();
        out.push(Action::Accept {
            queue: id,
            qid: connect.qid,
            entries: connect.sqsize + 1,
            flow_control: connect.cattr & Connect::CATTR_DISABLE_FLOW_CONTROL == 0,
            volatile_write_cache,
            cntlid,
            host: held.data.hostnqn,
            hostid: HostId(held.data.hostid),
        });
        held.command.complete(Reply::success(u64::from(cntlid)), out);
    }

    /// Tries every Connect again that waits for a queue to be torn down.
    pub(super) fn retry_held(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        let waiting: Vec<HeldConnect> = self
            .unconnected
            .iter()
            .filter_map(|(_, id)| match &self.queues.get(id)?.state {
                QueueState::AwaitingRelease(held) => Some((**held).clone()),
                QueueState::AwaitingConnect
                | QueueState::Admin { .. }
                | QueueState::Io { .. }
                | QueueState::Closing { .. } => None,
            })
            .collect();
        for held in waiting {
            self.decide_and_act(now_ns, held, out);
        }
    }
}
