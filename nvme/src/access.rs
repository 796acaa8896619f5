//! Asymmetric namespace access: whether hosts can use a namespace through the controllers of this node.
//!
//! Each namespace is a group of its own: its ANAGRPID is its NSID, at every node and for ever, because each has ports of its own. What differs from
//! node to node is the state of the group: optimized where the namespace has a port, and inaccessible where it has none.

use crate::log::put;
use crate::status::Status;
use crate::subsystem::NAMESPACES_MAX;

/// Groups that there may be (ANAGRPMAX, NANAGRPID).
pub const ACCESS_GROUPS_MAX: u32 = NAMESPACES_MAX;

/// LSP of the Asymmetric Namespace Access log: groups without their namespaces (RGO).
pub const ACCESS_GROUPS_ONLY: u8 = 1;

/// Bytes of the log before its groups.
const HEAD_BYTES: usize = 16;
/// Bytes of a group before its namespaces.
const GROUP_BYTES: usize = 32;

/// Bytes of the log as the Linux kernel reads it: room for all groups and all namespaces. It has to fit one command, or the kernel does without the log.
pub const ACCESS_LOG_BYTES: usize =
    HEAD_BYTES + GROUP_BYTES * ACCESS_GROUPS_MAX as usize + 4 * NAMESPACES_MAX as usize;

/// Whether a namespace can be used through the controllers of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// It has a port here.
    #[default]
    Here,
    /// It has none here, but at another node.
    Elsewhere,
    /// It has none anywhere.
    Nowhere,
}

impl Access {
    /// How a command ends that begins now; `None`: it is carried out.
    ///
    /// A host that knows another path takes it at "inaccessible", and nothing above it hears of an error; "namespace not ready" would have it try the same path again, and then fail. Where
    /// there is no port at all it is the other way round: a host that looks for another path would hold its commands for ever, so it is told that the namespace is not ready. An operator
    /// may add a port at any time, so neither is said for good.
    pub const fn refusal(self) -> Option<Status> {
        match self {
            Self::Here => None,
            Self::Elsewhere => Some(Status::ANA_INACCESSIBLE),
            Self::Nowhere => Some(Status::NAMESPACE_NOT_READY),
        }
    }

    /// The state of the namespace's group.
    ///
    /// Source: NVM Express Base Specification 2.0, Asymmetric Namespace Access log page, ANA State.
    const fn state(self) -> u8 {
        match self {
            Self::Here => 0x01,
            // A loss that is persistent could not be taken back.
            Self::Elsewhere | Self::Nowhere => 0x03,
        }
    }
}

/// The log page (LID 0Ch): `groups` has the NSID of each namespace, how it can be used, and which change of the page was the last of its own. `changes` counts all changes.
/// It is as long as the kernel asks for.
///
/// Source: NVM Express Base Specification 2.0, Asymmetric Namespace Access log page.
pub fn access_log(
    changes: u64,
    groups: impl ExactSizeIterator<Item = (u32, Access, u64)>,
    groups_only: bool,
) -> Vec<u8> {
    let mut page = vec![0; HEAD_BYTES];
    page.reserve(ACCESS_LOG_BYTES);
    let count = u16::try_from(groups.len()).expect("a subsystem has at most 1024 namespaces");
    put(&mut page, 0, &changes.to_le_bytes());
    put(&mut page, 8, &count.to_le_bytes());
    for (nsid, access, changed) in groups {
        let at = page.len();
        page.resize(at + GROUP_BYTES, 0);
        put(&mut page, at, &nsid.to_le_bytes());
        put(&mut page, at + 4, &u32::from(!groups_only).to_le_bytes());
        put(&mut page, at + 8, &changed.to_le_bytes());
        put(&mut page, at + 16, &[access.state()]);
        if !groups_only {
            page.extend(nsid.to_le_bytes());
        }
    }
    page.resize(ACCESS_LOG_BYTES, 0);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CHECKLIST A11: which status is said when.
    #[test]
    fn hosts_are_sent_elsewhere_only_if_there_is_a_port() {
        assert_eq!(Access::Here.refusal(), None);
        let elsewhere = Access::Elsewhere.refusal().unwrap();
        assert_eq!((elsewhere.code_type(), elsewhere.code()), (3, 2));
        let nowhere = Access::Nowhere.refusal().unwrap();
        assert_eq!((nowhere.code_type(), nowhere.code()), (0, 0x82));
        assert!(!elsewhere.is_do_not_retry() && !nowhere.is_do_not_retry());
    }

    #[test]
    fn a_full_log_is_as_long_as_the_kernel_makes_room_for() {
        let groups: Vec<(u32, Access, u64)> =
            (1..=NAMESPACES_MAX).map(|nsid| (nsid, Access::Here, 1)).collect();
        let page = access_log(9, groups.into_iter(), false);
        assert_eq!(page.len(), ACCESS_LOG_BYTES);
        assert_eq!(page[ACCESS_LOG_BYTES - 4..], NAMESPACES_MAX.to_le_bytes());
    }
}
