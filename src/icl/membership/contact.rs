//! Nodes that are heard, and with which nothing can be agreed on all the same.
//!
//! Announcements and locks go over connections of their own. If those for locks fail alone, as behind a firewall that lets the one TCP port through
//! and the other not, nobody would ever be left out, and what two members want of each other would wait for good. So whoever hears a member's announcements, and
//! nothing of it on the link for locks, takes no announcement of it any more for a while: from then on it is as silent as if the whole network to it had
//! failed, and membership decides as for that. When the while is over it may be tried again; it doubles each time, because each try
//! costs all members the wait.
//!
//! Safe by what may happen anyway: to membership an announcement that is not taken is one that the network has lost.

use super::times::SUSPECT_NS;
use super::{SLOTS, Slot};

/// How long a member may be silent on the link for locks while its announcements come.
pub const UNLINKED_NS: u64 = 5_000_000_000;
/// How long its announcements are not taken then, at first and at most.
const SHUN_NS_MIN: u64 = 10_000_000_000;
const SHUN_NS_MAX: u64 = 320_000_000_000;
/// Who was on the link for so long begins with the shortest while again.
const SOUND_NS: u64 = 60_000_000_000;

/// What is known of one other node.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// Since when it has been silent on the link for locks, if it is.
    silent_since_ns: Option<u64>,
    /// Since when it has been on it, if it is.
    linked_since_ns: Option<u64>,
    /// Its announcements came without a gap from the first to the last.
    announced_ns: Option<(u64, u64)>,
    /// Until when they are not taken.
    shunned_until_ns: u64,
    /// For how long they were not taken the last time.
    shunned_ns: u64,
}

/// All other nodes, by slot.
#[derive(Clone, Debug, Default)]
pub struct Contacts([Peer; SLOTS]);

impl Contacts {
    /// An epoch begins, and the link for locks with it anew.
    pub fn enter(&mut self) {
        for peer in &mut self.0 {
            peer.silent_since_ns = None;
        }
    }

    /// A node has announced itself. False if that is not to be taken.
    pub fn announced(&mut self, now_ns: u64, slot: Slot) -> bool {
        let peer = &mut self.0[slot.index()];
        let first_ns = match peer.announced_ns {
            Some((first_ns, last_ns)) if now_ns.saturating_sub(last_ns) <= SUSPECT_NS => first_ns,
            Some(_) | None => now_ns,
        };
        peer.announced_ns = Some((first_ns, now_ns));
        now_ns >= peer.shunned_until_ns
    }

    /// The link for locks has heard nothing of a member for a while.
    pub fn silent(&mut self, now_ns: u64, slot: Slot) {
        let peer = &mut self.0[slot.index()];
        if peer
            .linked_since_ns
            .take()
            .is_some_and(|since_ns| now_ns - since_ns >= SOUND_NS)
        {
            peer.shunned_ns = 0;
        }
        peer.silent_since_ns.get_or_insert(now_ns);
    }

    /// The link for locks hears a member.
    pub fn linked(&mut self, now_ns: u64, slot: Slot) {
        let peer = &mut self.0[slot.index()];
        peer.silent_since_ns = None;
        peer.linked_since_ns.get_or_insert(now_ns);
    }

    /// Whose announcements are not taken from now on, and for how long, if there is one more.
    pub fn shun(&mut self, now_ns: u64) -> Option<(Slot, u64)> {
        let slot = Slot::all().find(|slot| self.0[slot.index()].is_unlinked(now_ns))?;
        let peer = &mut self.0[slot.index()];
        peer.silent_since_ns = None;
        peer.shunned_ns = (peer.shunned_ns * 2).clamp(SHUN_NS_MIN, SHUN_NS_MAX);
        peer.shunned_until_ns = now_ns + peer.shunned_ns;
        Some((slot, peer.shunned_ns))
    }
}

impl Peer {
    /// Whether it was announced all the while in which it was silent on the link for locks.
    fn is_unlinked(&self, now_ns: u64) -> bool {
        let (Some(silent_ns), Some((first_ns, last_ns))) = (self.silent_since_ns, self.announced_ns) else {
            return false;
        };
        let is_announced = now_ns.saturating_sub(last_ns) <= SUSPECT_NS;
        is_announced && now_ns.saturating_sub(silent_ns.max(first_ns)) >= UNLINKED_NS
    }
}

#[cfg(test)]
mod tests {
    use super::super::times::HEARTBEAT_NS;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn slot() -> Slot {
        Slot::new(1).unwrap()
    }

    /// Lets announcements come from one time to another. When the node was shunned, and how many announcements were taken.
    fn announce(contacts: &mut Contacts, from_ns: u64, to_ns: u64) -> (Option<(u64, u64)>, usize) {
        let (mut shunned, mut taken) = (None, 0);
        let mut now_ns = from_ns;
        while now_ns < to_ns {
            taken += usize::from(contacts.announced(now_ns, slot()));
            if let Some((shunned_slot, long_ns)) = contacts.shun(now_ns) {
                assert_eq!(shunned_slot, slot());
                assert_eq!(shunned.replace((now_ns, long_ns)), None, "once");
            }
            now_ns += HEARTBEAT_NS;
        }
        (shunned, taken)
    }

    /// PROTOCOL 3.1, CHECKLIST A3: a member that is heard, but not on the link for locks, counts as silent after a while, for a while, and then for twice as long.
    #[test]
    fn who_is_only_announced_is_shunned_for_longer_each_time() {
        let mut contacts = Contacts::default();
        contacts.silent(0, slot());
        let (shunned, taken) = announce(&mut contacts, 0, 20 * SECOND);
        assert_eq!(shunned, Some((UNLINKED_NS, SHUN_NS_MIN)));
        let while_ns = usize::try_from(SHUN_NS_MIN / HEARTBEAT_NS).unwrap();
        assert_eq!(taken, 80 - (while_ns - 1), "the others are taken");
        let mut at = 20 * SECOND;
        let mut longest = 0;
        for long_ns in [20, 40, 80, 160, 320, 320] {
            contacts.enter();
            contacts.silent(at, slot());
            let end = at + UNLINKED_NS + long_ns * SECOND;
            let (shunned, _) = announce(&mut contacts, at, end);
            assert_eq!(shunned.unwrap().1, long_ns * SECOND);
            longest = long_ns;
            at = end;
        }
        assert_eq!(longest * SECOND, SHUN_NS_MAX);
        // After a sound minute it is as at first.
        contacts.linked(at, slot());
        contacts.silent(at + SOUND_NS, slot());
        let (shunned, _) = announce(&mut contacts, at + SOUND_NS, at + SOUND_NS + 6 * SECOND);
        assert_eq!(shunned.unwrap().1, SHUN_NS_MIN);
    }

    #[test]
    fn who_is_silent_altogether_or_linked_again_is_not_shunned() {
        let mut contacts = Contacts::default();
        contacts.announced(0, slot());
        contacts.silent(0, slot());
        assert_eq!(contacts.shun(10 * SECOND), None, "it announces nothing, either");
        // Both come back: the time counts from then on.
        let (shunned, _) = announce(&mut contacts, 10 * SECOND, 14 * SECOND);
        assert_eq!(shunned, None);
        contacts.linked(14 * SECOND, slot());
        let (shunned, taken) = announce(&mut contacts, 14 * SECOND, 34 * SECOND);
        assert_eq!((shunned, taken), (None, 80));
        // An epoch makes links anew.
        contacts.silent(34 * SECOND, slot());
        contacts.enter();
        assert_eq!(announce(&mut contacts, 34 * SECOND, 50 * SECOND).0, None);
    }
}
