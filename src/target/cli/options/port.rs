//! Options of `braid port`.

use clap::Subcommand;

use super::{Client, help};

/// What to do with ports of virtual disks.
#[derive(Clone, Debug, Subcommand)]
pub enum PortCommand {
    /// List at which nodes a virtual disk has ports, and what hosts find there
    #[command(after_help = help::PORT_LIST)]
    List {
        /// Name of the virtual disk [default: all of them]
        vdisk: Option<String>,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Have one more node serve a virtual disk
    #[command(after_help = help::PORT_ADD)]
    Add {
        /// Name of the virtual disk
        vdisk: String,
        /// Slot of the node
        #[arg(long, value_name = "SLOT")]
        node: u8,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
    /// Have a node stop to serve a virtual disk
    #[command(after_help = help::PORT_DELETE)]
    Delete {
        /// Name of the virtual disk
        vdisk: String,
        /// Slot of the node
        #[arg(long, value_name = "SLOT")]
        node: u8,
        /// Delete its last port, too: no host can use it then
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        #[expect(
            missing_docs,
            reason = "a doc comment here would become the command's help text"
        )]
        client: Client,
    },
}
