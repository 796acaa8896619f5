//! What one core holds commands to, and when it may say that it does.
//!
//! Each core has its own copy of the rules, so that a command costs one look at a field of the core as long as nothing is reserved. A new
//! order holds from the moment that the core has taken it; it is confirmed when nothing that it ends is under way on this core any more. A
//! command counts as under way from the moment that it may touch the drive until it is over, whoever waits for its completion.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::io::NSID_ALL;

use super::{Access, HostId, Life, Rules};

/// Rules that hold from now on, and whose commands end before that is confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Names it in the confirmation.
    pub number: u64,
    /// Which namespace.
    pub nsid: u32,
    /// A namespace beside it, to which only its admission applies: the quorum area of a shelf's drive.
    pub beside: Option<u32>,
    /// Who may do what.
    pub rules: Arc<Rules>,
    /// Hosts that lost the reservation: what they have under way in the namespace ends.
    pub abort: Arc<Vec<HostId>>,
    /// Lives were barred: what those that are not admitted have under way ends, also in the namespace beside.
    pub bars: bool,
}

impl Order {
    /// Whether what this life has under way in a namespace ends; a command may be about all namespaces.
    pub fn ends(&self, life: Life, nsid: u32) -> bool {
        let is_here = nsid == self.nsid || nsid == NSID_ALL;
        let is_beside = self.beside == Some(nsid);
        let lost = is_here && self.abort.contains(&life.host);
        let is_out = self.bars && (is_here || is_beside) && !self.rules.admission.admits(life);
        lost || is_out
    }

    /// What the namespace beside is held to.
    fn rules_beside(&self) -> Arc<Rules> {
        Arc::new(Rules {
            admission: self.rules.admission.clone(),
            ..Rules::default()
        })
    }
}

/// What a core knows of reservations.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Rules of the namespaces that somebody is kept from.
    rules: BTreeMap<u32, Arc<Rules>>,
    /// Orders whose confirmation waits for commands.
    unconfirmed: Vec<Order>,
}

impl Guard {
    /// Whether nobody is kept from anything.
    pub fn is_open(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a life may not do this to a namespace. A flush of all namespaces needs the right to each of them.
    pub fn refuses(&self, life: Life, nsid: u32, access: Access) -> bool {
        if nsid == NSID_ALL {
            return self.rules.values().any(|rules| !rules.allows(life, access));
        }
        self.rules
            .get(&nsid)
            .is_some_and(|rules| !rules.allows(life, access))
    }

    /// Takes an order: commands are held to it from here on.
    pub fn take(&mut self, order: Order) {
        self.set(order.nsid, Arc::clone(&order.rules));
        if let Some(beside) = order.beside {
            self.set(beside, order.rules_beside());
        }
        self.unconfirmed.push(order);
    }

    /// Whether an order waits for its confirmation.
    pub fn is_asked(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// The numbers of the orders that can be confirmed: those of which `is_held` says that nothing they end is under way.
    pub fn confirm(&mut self, mut is_held: impl FnMut(&Order) -> bool) -> Vec<u64> {
        let (held, done): (Vec<Order>, Vec<Order>) = std::mem::take(&mut self.unconfirmed)
            .into_iter()
            .partition(|order| is_held(order));
        self.unconfirmed = held;
        done.into_iter().map(|order| order.number).collect()
    }

    fn set(&mut self, nsid: u32, rules: Arc<Rules>) {
        if rules.is_open() {
            self.rules.remove(&nsid);
        } else {
            self.rules.insert(nsid, rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Admission, HostName, Kind};
    use super::*;

    fn life(number: u8) -> Life {
        Life {
            name: HostName(u128::from(number)),
            host: HostId([number; 16]),
        }
    }

    fn order(number: u64, abort: &[u8]) -> Order {
        Order {
            number,
            nsid: 1,
            beside: Some(2),
            rules: Arc::new(Rules {
                kind: Some(Kind::WriteExclusiveAllRegistrants),
                hosts: vec![life(1).host],
                admission: Admission::default(),
            }),
            abort: Arc::new(abort.iter().map(|number| life(*number).host).collect()),
            bars: false,
        }
    }

    #[test]
    fn rules_hold_at_once_and_are_confirmed_when_nothing_is_held() {
        let mut guard = Guard::default();
        guard.take(order(1, &[2]));
        assert!(guard.refuses(life(2), 1, Access::Write) && guard.refuses(life(2), NSID_ALL, Access::Write));
        assert!(!guard.refuses(life(2), 1, Access::Read) && !guard.refuses(life(1), 1, Access::Write));
        assert!(
            !guard.refuses(life(2), 2, Access::Write),
            "nobody reserves what is beside"
        );
        assert!(guard.confirm(|_| true).is_empty() && guard.is_asked());
        guard.take(order(2, &[3]));
        assert_eq!(guard.confirm(|order| order.number == 1), [2]);
        assert_eq!(guard.confirm(|_| false), [1]);
        assert!(!guard.is_asked());
    }

    #[test]
    fn preemption_ends_what_is_under_way_in_its_namespace_only() {
        let order = order(1, &[2]);
        assert!(order.ends(life(2), 1) && order.ends(life(2), NSID_ALL));
        assert!(!order.ends(life(2), 2) && !order.ends(life(2), 3) && !order.ends(life(1), 1));
    }

    #[test]
    fn who_is_not_admitted_changes_nothing_in_either_namespace() {
        let admission = Admission {
            claims: vec![life(1)],
            barred: vec![life(2).host],
        };
        let bars = Order {
            rules: Arc::new(Rules {
                admission,
                ..Rules::default()
            }),
            bars: true,
            ..order(1, &[])
        };
        let old = Life {
            host: life(9).host,
            ..life(1)
        };
        for nsid in [1, 2, NSID_ALL] {
            assert!(bars.ends(life(2), nsid) && bars.ends(old, nsid) && !bars.ends(life(1), nsid));
        }
        let mut guard = Guard::default();
        guard.take(bars);
        for nsid in [1, 2, NSID_ALL] {
            assert!(guard.refuses(old, nsid, Access::Write) && !guard.refuses(old, nsid, Access::Read));
            assert!(!guard.refuses(life(1), nsid, Access::Write));
        }
        let open = Order {
            rules: Arc::default(),
            ..order(2, &[])
        };
        guard.take(open);
        assert!(guard.is_open());
    }
}
