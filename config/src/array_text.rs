//! Writes the file of a node that shares drives with others: as an example, or for an array that was found on its drives.

use std::fmt;
use std::net::SocketAddr;

use nvme::nqn::Nqn;

use crate::Encryption;

/// A shelf and the namespaces of it that are drives of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShelfText {
    /// What the file calls it.
    pub name: String,
    /// Where it listens; at least one.
    pub addresses: Vec<SocketAddr>,
    /// Its subsystem.
    pub nqn: Nqn,
    /// Names and numbers of namespaces.
    pub drives: Vec<(String, u32)>,
}

/// A file to be written. Displayed, it is text that [`crate::parse`] accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayText {
    /// Where hosts reach the node.
    pub host_listen: SocketAddr,
    /// What people call the array.
    pub name: String,
    /// The node's place.
    pub slot: u8,
    /// Where its key is.
    pub key_file: String,
    /// Where the node listens for the others.
    pub listen: SocketAddr,
    /// Drives that may be lost.
    pub failures: u8,
    /// Whether connections to the other nodes are encrypted.
    pub encryption: Encryption,
    /// Slots and addresses of the others.
    pub peers: Vec<(u8, Vec<SocketAddr>)>,
    /// The shelves; at least one.
    pub shelves: Vec<ShelfText>,
    /// A group of four of the drives, to be made, with a virtual disk.
    pub has_group: bool,
}

impl ArrayText {
    /// An example: the node in `slot` of so many, all on this machine, with the five drives of one shelf.
    ///
    /// Panics unless `slot` is below `nodes` and there are at most eight.
    pub fn example(nodes: u8, slot: u8) -> Self {
        assert!(slot < nodes && nodes <= 8, "an array has up to eight nodes");
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        // Ports above a node's own are those of its cores.
        let listen = |slot: u8| local(4500 + 20 * u16::from(slot));
        Self {
            host_listen: local(4420 + u16::from(slot)),
            name: "vault".to_owned(),
            slot,
            key_file: "vault.key".to_owned(),
            listen: listen(slot),
            failures: 1,
            encryption: Encryption::default(),
            peers: (0..nodes)
                .filter(|peer| *peer != slot)
                .map(|peer| (peer, vec![listen(peer)]))
                .collect(),
            shelves: vec![ShelfText {
                name: "shelf-a".to_owned(),
                addresses: vec![local(4440)],
                nqn: Nqn::parse("nqn.2026-01.io.braid:shelf-a").expect("it is one"),
                drives: (0..5).map(|drive| (format!("d{drive}"), 2 * drive + 1)).collect(),
            }],
            has_group: true,
        }
    }
}

const GROUPS: &str = "\
# Groups that are to be made, in the files of all nodes alike: whoever leads makes them, once. Those that are there all nodes find on the drives.
# A group with `nodes = [0, 2]` is served by the nodes of these slots alone; then each [[vdisk]] needs an `nsid`.
# All nodes need as many cores as each other (`cores` in [reactor]), at most 16 over all slots.
";

const REPLICATION: &str = "\
# Nodes that may all be gone at once, because they are of one host system, rack or site, are in one replication group, the same for a node in all files:
# then copies of what a group with durability \"ram\" acknowledges (`copies`, in its section) are kept by nodes of other groups alone, and the whole group
# may go. Either all nodes are in one, here and in each [[peer]], or none is: then any other node keeps them. Rules say, in the files of all nodes alike,
# to which groups the nodes of one send their copies; without a rule, to any other.
# replication_group = \"site-a\"
#
# [[replication_rule]]
# from = \"site-a\"
# to = [\"site-b\"]
";

const GROUP: &str = "\
[[group]]
name = \"g0\"
level = \"raid5\"
drives = [\"d0\", \"d1\", \"d2\", \"d3\"]
create = true

[[vdisk]]
name = \"v0\"
group = \"g0\"
size_mib = \"all\"
# ports = [0, 1]                # slots of the nodes that serve it at first; all if left out. Later: `braid port`

[reactor]
cores = 1
";

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(addresses: &[SocketAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

impl fmt::Display for ArrayText {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host_listen,
            slot,
            listen,
            failures,
            ..
        } = self;
        let (name, key_file) = (quoted(&self.name), quoted(&self.key_file));
        let encryption = self.encryption.name();
        write!(
            out,
            "\
# Configuration of a `braid node` that shares the drives of shelves with other nodes. Everything that is not about arrays is
# explained in node.toml and fabric.toml (`braid config example`, also with --fabric); a shelf has a file like shelf.toml (--shelf).
#
# All nodes of an array have this file, with another slot, other addresses, and themselves left out of the peers. Which of them are members, and
# who may write to the drives, they decide by the drives themselves. `braid array create` makes the array, once, through any of them.

[node]
name = \"node-{slot}\"

[[listen]]
address = \"{host_listen}\"

[array]
name = {name}
# This node's place: 0 to 7, another one for each node.
slot = {slot}
# 64 hexadecimal digits that all nodes of the array have and nobody else knows: `braid array key > vault.key`.
key_file = {key_file}
# Where this node listens for the others; also the ports above it, one for each core.
listen = \"{listen}\"
# Drives that may be lost: twice as many and one more keep the votes, when the array is made.
failures = {failures}
# What protects the connections between nodes, the same in all of them: \"none\" or \"tls\" (TLS 1.3, which takes some time of the cores). Either way
# both ends prove the key first. Data on their way to shelves and hosts are not encrypted, whatever is said here.
encryption = \"{encryption}\"
{REPLICATION}"
        )?;
        if self.peers.is_empty() {
            out.write_str("\n# There are no other nodes. Each one would have a section like this:\n")?;
            out.write_str("# [[peer]]\n# slot = 1\n# addresses = [\"127.0.0.1:4520\"]\n")?;
        } else {
            out.write_str("\n# The other nodes. Two addresses are two ways to a node.\n")?;
        }
        for (at, (slot, addresses)) in self.peers.iter().enumerate() {
            let (space, addresses) = (if at == 0 { "" } else { "\n" }, list(addresses));
            write!(out, "{space}[[peer]]\nslot = {slot}\naddresses = {addresses}\n")?;
        }
        for shelf in &self.shelves {
            let (name, addresses) = (quoted(&shelf.name), list(&shelf.addresses));
            let nqn = shelf.nqn.as_str();
            write!(
                out,
                "\n[[shelf]]\nname = {name}\naddresses = {addresses}\nnqn = \"{nqn}\"\n"
            )?;
        }
        out.write_str("\n# The array's drives.\n")?;
        for shelf in &self.shelves {
            for (drive, nsid) in &shelf.drives {
                let (drive, shelf) = (quoted(drive), quoted(&shelf.name));
                write!(
                    out,
                    "[[drive]]\nname = {drive}\nshelf = {shelf}\nnsid = {nsid}\n\n"
                )?;
            }
        }
        out.write_str(GROUPS)?;
        if self.has_group {
            out.write_str(GROUP)?;
        }
        Ok(())
    }
}
