//! The discovery log: what a host may connect to, as seen from the connection that it asks over.

use std::net::IpAddr;

use crate::identify::Transport;
use crate::log::{DiscoveryEntry, SubsystemType, discovery};
use crate::nqn::Nqn;

use super::controller::{Controller, Snapshot};
use super::{ADMIN_ENTRIES_MAX, Port, QueueState, Subsystem};

/// ADRFAM and TRADDR of a port for a reader at `local`; `None` if there is no address to tell: a wildcard
/// port of another transport or address family than the one that the reader came in on.
fn advertised(port: &Port, reader: Transport, local: &str) -> Option<(u8, String)> {
    let family = |address: IpAddr| if address.is_ipv4() { 1 } else { 2 };
    let Ok(address) = port.address.parse::<IpAddr>() else {
        // Not an IP address (an IPv6 address with a zone, for instance): the configuration knows best.
        let family = if port.address.contains(':') { 2 } else { 1 };
        return Some((family, port.address.clone()));
    };
    if !address.is_unspecified() {
        return Some((family(address), port.address.clone()));
    }
    let local = local.parse::<IpAddr>().ok()?.to_canonical();
    let same_family = address.is_ipv6() || local.is_ipv4();
    if port.transport != reader || !same_family || local.is_unspecified() {
        return None;
    }
    Some((family(local), local.to_string()))
}

impl Subsystem {
    /// Takes a new snapshot of the discovery log for one reader, unless the one that it has is still right.
    pub(super) fn refresh_snapshot(&mut self, cntlid: u16) {
        let reader = self.controller(cntlid);
        if reader
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.generation == self.generation)
        {
            return;
        }
        let page = discovery(self.generation, &self.discovery_entries(reader));
        let generation = self.generation;
        self.controller_mut(cntlid).snapshot = Some(Snapshot { generation, page });
    }

    /// The discovery subsystem itself at the reader's port, then the NVM subsystem at every port that serves
    /// it, if the reader's host may use it.
    fn discovery_entries(&self, reader: &Controller) -> Vec<DiscoveryEntry> {
        let queue = reader.admin.and_then(|id| self.queues.get(&id));
        let own_port = queue.map(|queue| {
            let admin = matches!(queue.state, QueueState::Admin { .. } | QueueState::Closing { .. });
            assert!(admin, "the log is read over an admin queue");
            queue.port
        });
        let mut entries = Vec::new();
        if let Some(port) = self.config.ports.iter().find(|port| Some(port.id) == own_port) {
            entries.extend(self.entry(port, reader, SubsystemType::CurrentDiscovery));
        }
        if self.config.allow.allows(&reader.host) {
            for port in self.config.ports.iter().filter(|port| !port.discovery_only) {
                entries.extend(self.entry(port, reader, SubsystemType::Nvm));
            }
        }
        entries
    }

    fn entry(&self, port: &Port, reader: &Controller, subtype: SubsystemType) -> Option<DiscoveryEntry> {
        let (adrfam, address) = advertised(port, reader.transport, &reader.local_address)?;
        let (subnqn, eflags) = match subtype {
            SubsystemType::Nvm => (self.config.nqn.clone(), 0),
            SubsystemType::CurrentDiscovery | SubsystemType::Referral => {
                (Nqn::DISCOVERY, DiscoveryEntry::EPCSD | DiscoveryEntry::DUPRETINFO)
            }
        };
        Some(DiscoveryEntry {
            trtype: match port.transport {
                Transport::Tcp => DiscoveryEntry::TRTYPE_TCP,
                Transport::Rdma => DiscoveryEntry::TRTYPE_RDMA,
            },
            adrfam,
            subtype,
            port: port.id.0,
            admin_entries_max: ADMIN_ENTRIES_MAX,
            eflags,
            service: port.service.clone(),
            subnqn,
            address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subsystem::PortId;

    fn port(address: &str, transport: Transport) -> Port {
        Port {
            id: PortId(1),
            transport,
            address: address.into(),
            service: "4420".into(),
            discovery_only: false,
        }
    }

    #[test]
    fn wildcards_become_the_readers_own_address_or_nothing() {
        let told = |address, local| advertised(&port(address, Transport::Tcp), Transport::Tcp, local);
        assert_eq!(told("0.0.0.0", "10.0.2.2"), Some((1, "10.0.2.2".into())));
        assert_eq!(told("::", "fd00::1"), Some((2, "fd00::1".into())));
        assert_eq!(told("::", "::ffff:10.0.2.2"), Some((1, "10.0.2.2".into())));
        assert_eq!(told("0.0.0.0", "fd00::1"), None);
        assert_eq!(told("0.0.0.0", "0.0.0.0"), None);
        assert_eq!(told("0.0.0.0", "garbage"), None);
        assert_eq!(told("192.0.2.7", "10.0.2.2"), Some((1, "192.0.2.7".into())));
        assert_eq!(told("fe80::1%eth0", "10.0.2.2"), Some((2, "fe80::1%eth0".into())));
        let rdma = port("0.0.0.0", Transport::Rdma);
        assert_eq!(advertised(&rdma, Transport::Tcp, "10.0.2.2"), None);
    }
}
