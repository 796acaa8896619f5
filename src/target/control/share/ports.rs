//! Where hosts reach the nodes of the array. Each node tells the others its ports when an epoch begins, and the discovery log of each lists those of all.
//!
//! A message is a row of ports: transport 0 (0 TCP, 1 RDMA), number 1..3, bytes of the address 3, bytes of the service 4, address, service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nvme::identify::Transport;
use nvme::subsystem::{PORTS_MAX, Port, PortId};
use thiserror::Error;

use crate::icl::{Slot, SlotSet};

/// The kind of such a message from node to node.
pub(super) const KIND: u16 = 1;
/// Bytes of a port before its address.
const HEAD_BYTES: usize = 5;

/// Bytes are no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a node tells ports that are none: {0}")]
pub(super) struct PortsError(&'static str);

/// The ports of all members.
#[derive(Debug)]
pub(super) struct Ports {
    own: Vec<Port>,
    others: BTreeMap<Slot, Vec<Port>>,
}

/// Whether hosts that ask another node can be told of it: a wildcard is an address only to who comes in on it.
fn can_be_told(port: &Port) -> bool {
    let is_wildcard = port
        .address
        .parse()
        .is_ok_and(|address: IpAddr| address.is_unspecified());
    !port.discovery_only && !is_wildcard
}

impl Ports {
    pub(super) fn new(own: Vec<Port>) -> Self {
        Self {
            own,
            others: BTreeMap::new(),
        }
    }

    /// What other nodes are told.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for port in self.own.iter().filter(|port| can_be_told(port)) {
            let lengths = (u8::try_from(port.address.len()), u8::try_from(port.service.len()));
            let (Ok(address_bytes), Ok(service_bytes)) = lengths else {
                continue; // No field of the discovery log has room for it either.
            };
            bytes.push(match port.transport {
                Transport::Tcp => 0,
                Transport::Rdma => 1,
            });
            bytes.extend(port.id.0.to_le_bytes());
            bytes.extend([address_bytes, service_bytes]);
            bytes.extend(port.address.as_bytes());
            bytes.extend(port.service.as_bytes());
        }
        bytes
    }

    /// Another node tells its ports.
    pub(super) fn heard(&mut self, from: Slot, bytes: &[u8]) -> Result<(), PortsError> {
        self.others.insert(from, parse(bytes)?);
        Ok(())
    }

    /// Those of other nodes are forgotten.
    pub(super) fn keep(&mut self, members: SlotSet) {
        self.others.retain(|slot, _| members.contains(*slot));
    }

    /// All that are known, this node's first, and no more than a subsystem may have.
    pub(super) fn all(&self) -> Vec<Port> {
        let all = self.own.iter().chain(self.others.values().flatten());
        all.take(PORTS_MAX).cloned().collect()
    }
}

fn parse(mut bytes: &[u8]) -> Result<Vec<Port>, PortsError> {
    let mut ports = Vec::new();
    while let Some((&[transport, id_low, id_high, address_bytes, service_bytes], rest)) =
        bytes.split_first_chunk::<HEAD_BYTES>()
    {
        let cut = |bytes: &'_ [u8], count: u8| -> Option<(String, usize)> {
            let text = str::from_utf8(bytes.get(..usize::from(count))?).ok()?;
            let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
            is_plain.then(|| (text.to_owned(), text.len()))
        };
        let (address, used) = cut(rest, address_bytes).ok_or(PortsError("an address"))?;
        let rest = &rest[used..];
        let (service, used) = cut(rest, service_bytes).ok_or(PortsError("a service"))?;
        bytes = &rest[used..];
        ports.push(Port {
            id: PortId(u16::from_le_bytes([id_low, id_high])),
            transport: match transport {
                0 => Transport::Tcp,
                1 => Transport::Rdma,
                _ => return Err(PortsError("a transport")),
            },
            address,
            service,
            discovery_only: false,
        });
    }
    if !bytes.is_empty() || ports.len() > PORTS_MAX {
        return Err(PortsError("their number"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(id: u16, address: &str) -> Port {
        Port {
            id: PortId(id),
            transport: Transport::Tcp,
            address: address.to_owned(),
            service: "4420".to_owned(),
            discovery_only: false,
        }
    }

    fn slot(number: u8) -> Slot {
        Slot::new(number).expect("an array has that slot")
    }

    #[test]
    fn what_a_node_tells_the_others_list_until_it_is_gone() {
        let rdma = Port {
            transport: Transport::Rdma,
            ..port(65, "fd00::1")
        };
        let only_discovery = Port {
            discovery_only: true,
            ..port(66, "192.0.2.1")
        };
        let told = Ports::new(vec![
            port(64, "192.0.2.1"),
            rdma.clone(),
            only_discovery,
            port(67, "0.0.0.0"),
        ]);
        let mut ports = Ports::new(vec![port(0, "0.0.0.0")]);
        ports.heard(slot(1), &told.encode()).unwrap();
        ports.heard(slot(1), &told.encode()).unwrap();
        assert_eq!(ports.all(), [port(0, "0.0.0.0"), port(64, "192.0.2.1"), rdma]);
        ports.keep([slot(0), slot(1)].into_iter().collect());
        assert_eq!(ports.all().len(), 3);
        ports.keep([slot(0)].into_iter().collect());
        assert_eq!(ports.all(), [port(0, "0.0.0.0")]);
    }

    #[test]
    fn bytes_that_are_no_ports_are_refused() {
        let whole = Ports::new(vec![port(64, "192.0.2.1"), port(65, "192.0.2.2")]).encode();
        let half = whole.len() / 2;
        for end in (1..whole.len()).filter(|end| *end != half) {
            assert!(parse(&whole[..end]).is_err(), "{end} bytes");
        }
        let mut strange = whole.clone();
        strange[0] = 7;
        assert!(parse(&strange).is_err(), "transport");
        strange.clone_from(&whole);
        strange[HEAD_BYTES] = b' ';
        assert!(parse(&strange).is_err(), "address");
        assert!(parse(&whole[..half].repeat(PORTS_MAX + 1)).is_err(), "number");
        assert_eq!(parse(&[]), Ok(Vec::new()));
    }
}
