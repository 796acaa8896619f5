//! The namespaces as every core sees them: which group and which blocks of it they are.

use nvme::access::Access;
use nvme::io::NamespaceFormat;

use crate::amf::replication::ReplicationMode;
use crate::vdisk::VirtualDisk;

/// Highest namespace identifier that a node serves; the table is an array indexed by it (a few KiB).
pub const NSID_MAX: u32 = nvme::subsystem::NAMESPACES_MAX;

/// One namespace, ready for the data path.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Index of the redundancy group among the node's groups.
    pub group: u16,
    /// Capacity and block size as the host sees them.
    pub format: NamespaceFormat,
    /// Whether hosts can use it through this node.
    pub access: Access,
    /// Most blocks that a fused Compare and Write may have.
    pub compare_write_blocks_max: u32,
    /// Whether writes may complete before they are on stable media, for hosts that were told so.
    pub volatile: bool,
    /// When writes are done, where that is acknowledged from memory.
    pub replication: ReplicationMode,
    /// Translation to the group's blocks.
    pub disk: VirtualDisk,
}

/// All namespaces of the subsystem; replaced as a whole when one changes.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    by_nsid: Vec<Option<Namespace>>,
}

impl Namespaces {
    /// Adds a namespace; false if its identifier is above [`NSID_MAX`] or in use.
    pub fn insert(&mut self, nsid: u32, namespace: Namespace) -> bool {
        let at = nsid as usize;
        if nsid == 0 || nsid > NSID_MAX {
            return false;
        }
        if self.by_nsid.len() <= at {
            self.by_nsid.resize(at + 1, None);
        }
        let free = self.by_nsid[at].is_none();
        if free {
            self.by_nsid[at] = Some(namespace);
        }
        free
    }

    /// The namespace with this identifier.
    pub fn find(&self, nsid: u32) -> Option<&Namespace> {
        self.by_nsid.get(nsid as usize)?.as_ref()
    }

    /// The lowest group above `group` that has a namespace.
    pub fn group_after(&self, group: u16) -> Option<u16> {
        let groups = self.by_nsid.iter().flatten().map(|namespace| namespace.group);
        groups.filter(|other| *other > group).min()
    }

    /// The lowest group that has a namespace, with one of its namespaces.
    pub fn first_of_lowest_group(&self) -> Option<u32> {
        let used = (0..)
            .zip(&self.by_nsid)
            .filter_map(|(nsid, entry)| Some((entry.as_ref()?.group, nsid)));
        used.min().map(|(_, nsid)| nsid)
    }
}
