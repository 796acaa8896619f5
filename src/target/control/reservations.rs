//! Reservations, as far as all cores have to agree: rules go to each of them, and hold when the last one has confirmed them.

use std::sync::Arc;

use nvme::reservation::{HostId, Rules};
use nvme::subsystem::Event;
use reactor::{CoreIndex, Io};

use super::Control;
use crate::target::core::Core;
use crate::target::message::{Enforcement, Message};

impl Control {
    /// Tells every core who may do what with a namespace from now on, and whose commands are to end.
    pub(super) fn enforce_reservation(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        number: u64,
        nsid: u32,
        rules: Rules,
        abort: Vec<HostId>,
    ) {
        for host in &abort {
            tracing::info!(%host, nsid, "host lost its registration: its commands are aborted");
        }
        let before = self.enforcing.insert(number, self.cores);
        assert!(before.is_none(), "rules have a number of their own");
        let enforcement = Enforcement {
            number,
            nsid,
            rules: Arc::new(rules),
            abort: Arc::new(abort),
        };
        for to in 0..self.cores {
            core.tell(
                io,
                CoreIndex(to),
                Message::EnforceReservation(enforcement.clone()),
            );
        }
    }

    /// One core holds commands to the rules and has nothing under way that was to end.
    pub(super) fn core_enforced(&mut self, core: &mut Core, io: &mut Io<Message>, number: u64) {
        let left = self.enforcing.get_mut(&number);
        let left = left.expect("a core confirms rules that it was told");
        *left -= 1;
        if *left == 0 {
            self.enforcing.remove(&number);
            self.subsystem_event(core, io, Event::ReservationEnforced { number });
        }
    }
}
