//! A core that has not run for a while: the process was stopped, or its machine was.
//!
//! Owns the rule that what hosts have given up meanwhile does not begin (PROTOCOL H37). What lies in sockets was sent before; its hosts may have gone since, and may have written
//! elsewhere what their old commands would overwrite now. A host that has closed its connections is asked of the kernel, before the core looks
//! at anything else that has happened: neither bytes that it has left behind nor a lock that its commands wait for lets them begin. A host that is cut off closes
//! nothing, and waits for the command quiesce time (CQT) before it goes elsewhere: after an absence of that length all connections end. Together with
//! [`Core::begin_close`](super::core::Core), which withdraws what waits and lets only that go on which has a row's lock and writes, this makes that time true.
//!
//! What a turn has begun before the core was stopped in the middle of it has its row's lock, which nobody gets before it is through, or waits for it and is withdrawn
//! at the beginning of the next turn.
//!
//! From a connection whose bytes wait for a buffer nothing is received, so that its end is not heard of either: the kernel is asked with each tick.

use nvme::subsystem::QueueId;
use reactor::{Io, Nanos};

use super::connection::Life;
use super::core::Core;
use super::message::Message;
use super::plant::COMMAND_QUIESCE_MS;

/// After so long, hosts of which nothing was heard go elsewhere.
const ABSENCE_NS: Nanos = COMMAND_QUIESCE_MS as Nanos * 1_000_000;
/// A core looks around ten times a second; one that has not for so long was kept from it.
const STALL_NS: Nanos = ABSENCE_NS / 4;

impl Core {
    /// Ends connections whose hosts have given them up while this core did not run.
    pub(super) fn look_after_stall(&mut self, io: &mut Io<Message>) {
        let before = std::mem::replace(&mut self.turned_at, io.now());
        let away_ns = io.now().saturating_sub(before);
        if before == 0 || away_ns < STALL_NS {
            return;
        }
        let is_absence = away_ns >= ABSENCE_NS;
        let open = self.connections.iter().filter(|it| it.life == Life::Open);
        let lost = open.filter(|it| is_absence || io.has_hung_up(it.socket));
        let lost: Vec<QueueId> = lost.map(|it| it.queue).collect();
        tracing::warn!(
            core = self.index.0,
            away_ms = away_ns / 1_000_000,
            connections = lost.len(),
            "this core did not run for a while: connections that hosts have given up end"
        );
        for queue in lost {
            self.begin_close(io, queue);
        }
    }

    /// Ends connections whose hosts have gone while nothing was received from them.
    pub(super) fn look_after_unheard(&mut self, io: &mut Io<Message>) {
        let unheard = self
            .connections
            .iter()
            .filter(|it| it.life == Life::Open && (it.blocked.is_some() || !it.backlog.is_empty()));
        let lost = unheard.filter(|it| io.has_hung_up(it.socket));
        for queue in lost.map(|it| it.queue).collect::<Vec<QueueId>>() {
            tracing::debug!(queue = queue.0, "connection lost before its bytes were looked at");
            self.begin_close(io, queue);
        }
    }
}
