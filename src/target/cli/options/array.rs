//! Options of `braid array` and `braid node`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Client, parse_address};

/// What to do with the nodes of an array.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes of the array, and which of them are members
    List(Client),
    /// Have this node leave the array: its hosts go by the other nodes first, which then go on without it
    Leave(Client),
    /// Have this node join the array again after it has left
    Join(Client),
}

/// What to do with the array that a node shares with others.
#[derive(Clone, Debug, Subcommand)]
pub enum ArrayCommand {
    /// Print a new key for the nodes of an array
    Key,
    /// Make the array on its drives, which have to be blank: once, through any of its nodes
    Create(Client),
    /// List the arrays whose drives are on shelves, or that of a running node
    List(ArrayList),
    /// Print the configuration of a node for an array that was found on shelves
    Import(ArrayImport),
    /// Show the array as a node sees it
    Show(Client),
    /// Have this node leave it: its hosts go by the other nodes first, which then go on without it
    Leave(Client),
    /// Have this node join it again after it has left
    Join(Client),
    /// Cut the link to another node, to see what follows; without a direction it is whole again
    Cut {
        /// Slot of the other node
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..8))]
        peer: u8,
        /// Send nothing to it
        #[arg(long)]
        muted: bool,
        /// Hear nothing of it
        #[arg(long)]
        deafened: bool,
        /// Cut the link for locks alone: announcements pass
        #[arg(long)]
        locks_only: bool,
        /// Which node
        #[command(flatten)]
        client: Client,
    },
}

/// Options of `braid array list`.
#[derive(Clone, Debug, Args)]
pub struct ArrayList {
    /// Look at the drives of the shelf that listens here, without any node; may be given more than once
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_address)]
    pub shelf: Vec<SocketAddr>,
    /// Which node is asked where no shelf is named
    #[command(flatten)]
    pub client: Client,
}

/// Options of `braid array import`.
#[derive(Clone, Debug, Args)]
pub struct ArrayImport {
    /// Where a shelf with drives of the array listens; may be given more than once
    #[arg(long, required = true, value_name = "ADDRESS[:PORT]", value_parser = parse_address)]
    pub shelf: Vec<SocketAddr>,
    /// Which array, by name or UUID, if there are several
    #[arg(long, value_name = "NAME")]
    pub array: Option<String>,
    /// Place of the node in it
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..8))]
    pub slot: u8,
    /// The key of the array
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// Where the node listens for hosts
    #[arg(long, value_name = "ADDRESS[:PORT]", default_value = "127.0.0.1:4420", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Where it listens for the other nodes; also on the ports above, one for each core
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4500")]
    pub link: SocketAddr,
    /// Another node: its slot, and one or two addresses where it listens for others
    #[arg(long, value_name = "SLOT=ADDRESS:PORT[,ADDRESS:PORT]", value_parser = parse_peer)]
    pub peer: Vec<(u8, Vec<SocketAddr>)>,
    /// What protects the connections between nodes: none or tls, as in the files of the others
    #[arg(long, value_name = "none|tls", default_value = "none", value_parser = parse_encryption)]
    pub encryption: config::Encryption,
}

fn parse_encryption(text: &str) -> Result<config::Encryption, String> {
    let choices = [config::Encryption::None, config::Encryption::Tls];
    let chosen = choices.into_iter().find(|choice| choice.name() == text);
    chosen.ok_or_else(|| "it is none or tls".to_owned())
}

fn parse_peer(text: &str) -> Result<(u8, Vec<SocketAddr>), String> {
    let remedy = "write a slot and one or two addresses, such as 1=10.0.0.2:4500";
    let (slot, addresses) = text.split_once('=').ok_or(remedy)?;
    let slot = slot
        .parse()
        .ok()
        .filter(|slot| *slot < 8)
        .ok_or("slots are 0 to 7")?;
    let addresses: Result<Vec<SocketAddr>, _> = addresses.split(',').map(str::parse).collect();
    let addresses = addresses.map_err(|error| format!("{error}: {remedy}"))?;
    if addresses.len() > 2 {
        return Err(format!("{} addresses: {remedy}", addresses.len()));
    }
    Ok((slot, addresses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_a_slot_and_addresses() {
        let (slot, addresses) = parse_peer("3=10.0.0.2:1,[::1]:2").unwrap();
        assert_eq!((slot, addresses.len()), (3, 2));
        for text in [
            "",
            "3",
            "8=10.0.0.2:1",
            "x=10.0.0.2:1",
            "1=",
            "1=10.0.0.2",
            "1=10.0.0.2:1,10.0.0.3:1,10.0.0.4:1",
        ] {
            assert!(parse_peer(text).is_err(), "{text}");
        }
    }
}
