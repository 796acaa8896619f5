//! Where everything listens, and the configurations of the shelf and of the nodes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use nvme::nqn::Nqn;

use super::super::{DRIVES, GROUP, GROUP_DRIVES, NSID, write, write_configuration};
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;
use crate::target::council::manage::new_key;

/// The nodes, by slot.
pub const NODES: [&str; 2] = ["n0", "n1"];
/// How many they are.
#[expect(clippy::cast_possible_truncation, reason = "there are two")]
pub const NODE_COUNT: u16 = NODES.len() as u16;
/// Smallest drive in MiB.
const DRIVE_MIB_MIN: u32 = 64;
/// MiB of the journal of each drive.
const JOURNAL_MIB: u32 = 16;
/// MiB of a drive that hold no data of the virtual disk: journal, quorum area, superblocks, bitmap, rounding.
const DRIVE_MIB_SPARE: u32 = JOURNAL_MIB + 16;
/// Attempts to find adjacent ports.
const ATTEMPTS_MAX: u32 = 1000;

/// Size of a drive in MiB, for a virtual disk of this size.
pub fn drive_mib(megabytes: u32) -> u32 {
    (megabytes.div_ceil(GROUP_DRIVES - 1) + DRIVE_MIB_SPARE).max(DRIVE_MIB_MIN)
}

/// Cores of each node, and of the hosts that prefer it.
pub fn cores(options: &DemoOptions) -> u16 {
    (options.cores.min(config::CORES_MAX) / NODE_COUNT).max(1)
}

/// Where the processes listen.
pub struct Places {
    shelf: SocketAddr,
    /// Where each node listens for the other one. The ports above it are those of its cores' lanes.
    links: [SocketAddr; NODES.len()],
    lanes: u16,
    /// Where each node listens for hosts.
    pub hosts: [SocketAddr; NODES.len()],
}

impl Places {
    /// Finds ports that nobody uses. They are free again before anybody listens there: whoever takes one meanwhile spoils the demonstration.
    pub fn find(options: &DemoOptions) -> Result<Self, Failure> {
        let lanes = cores(options);
        let mut taken = Vec::new();
        let mut find = |above| {
            for _ in 0..ATTEMPTS_MAX {
                let adjacent = listen_on_adjacent(above);
                if let Ok(listeners) = adjacent
                    && let Some(Ok(first)) = listeners.first().map(TcpListener::local_addr)
                {
                    taken.extend(listeners);
                    return Ok(first);
                }
            }
            Err(Failure::new("no free ports were found on 127.0.0.1", ""))
        };
        Ok(Self {
            shelf: find(0)?,
            links: [find(lanes)?, find(lanes)?],
            lanes,
            hosts: [find(0)?, find(0)?],
        })
    }

    /// Everywhere where a node listens.
    pub fn of_node(&self, slot: usize) -> Vec<SocketAddr> {
        let link = self.links[slot];
        let of_link = (0..=self.lanes).map(|lane| SocketAddr::new(link.ip(), link.port() + lane));
        of_link.chain([self.hosts[slot]]).collect()
    }

    /// Writes all configurations and the key of the array into the folder. Returns the name of the subsystem that both nodes are.
    pub fn write(&self, options: &DemoOptions, folder: &Path) -> Result<Nqn, Failure> {
        let key = new_key()
            .map_err(|error| Failure::new(format!("no random numbers from the system: {error}"), ""))?;
        write(&folder.join("array.key"), &key.to_string())?;
        let shelf = write_configuration(&folder.join("shelf.toml"), &self.shelf_text(options))?;
        let mut subsystem = None;
        for (slot, name) in NODES.iter().enumerate() {
            let text = self.node_text(options, slot, &shelf);
            let nqn = write_configuration(&folder.join(format!("{name}.toml")), &text)?;
            let first = subsystem.get_or_insert_with(|| nqn.clone());
            assert_eq!(*first, nqn, "nodes of an array are one subsystem");
        }
        Ok(subsystem.expect("there are nodes"))
    }

    fn shelf_text(&self, options: &DemoOptions) -> String {
        let mut text = format!(
            "[shelf]\nname = \"demo\"\nrpc_socket = \"shelf.sock\"\nquorum_mib = 1\ncreate = true\n\
             \n[reactor]\ncores = 1\npoll = \"interrupt\"\n\n[[listen]]\naddress = \"{}\"\n",
            self.shelf
        );
        let drive_mib = drive_mib(options.megabytes);
        for drive in 0..DRIVES {
            text += &format!(
                "\n[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = {drive_mib}\n"
            );
        }
        text
    }

    fn node_text(&self, options: &DemoOptions, slot: usize, shelf: &Nqn) -> String {
        let name = NODES[slot];
        let mut text = format!(
            "[node]\nname = \"{name}\"\nrpc_socket = \"{name}.sock\"\n\n[reactor]\ncores = {}\npoll = \"interrupt\"\n\
             \n[[listen]]\naddress = \"{}\"\n\
             \n[array]\nname = \"demo\"\nslot = {slot}\nkey_file = \"array.key\"\nlisten = \"{}\"\n",
            self.lanes, self.hosts[slot], self.links[slot]
        );
        for (peer, link) in self.links.iter().enumerate().filter(|(peer, _)| *peer != slot) {
            text += &format!("\n[[peer]]\nslot = {peer}\naddresses = [\"{link}\"]\n");
        }
        text += &format!(
            "\n[[shelf]]\nname = \"shelf\"\naddresses = [\"{}\"]\nnqn = \"{shelf}\"\n",
            self.shelf
        );
        for drive in 0..DRIVES {
            // Beside each drive's data its quorum area has the next even number.
            let nsid = 2 * drive + 1;
            text += &format!("\n[[drive]]\nname = \"d{drive}\"\nshelf = \"shelf\"\nnsid = {nsid}\n");
        }
        text + &format!(
            "\n[[group]]\nname = \"{GROUP}\"\nlevel = \"raid5\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\n\
             journal_mib = {JOURNAL_MIB}\ncreate = true\n\
             \n[[vdisk]]\nname = \"v0\"\ngroup = \"{GROUP}\"\nsize_mib = {}\nnsid = {NSID}\n",
            options.megabytes
        )
    }
}

/// Listens on a free port, and on so many above it.
fn listen_on_adjacent(above: u16) -> std::io::Result<Vec<TcpListener>> {
    let mut all = vec![TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    let first = all[0].local_addr()?.port();
    for number in 1..=above {
        let port = first
            .checked_add(number)
            .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        all.push(TcpListener::bind((Ipv4Addr::LOCALHOST, port))?);
    }
    Ok(all)
}
