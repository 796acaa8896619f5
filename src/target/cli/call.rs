//! Commands that ask a running node.

use std::path::PathBuf;
use std::time::Duration;

use super::options::{
    Client as Options, DriveCommand, GroupCommand, GroupCreateArgs, HostCommand, PortCommand, VdiskCommand,
};
use super::show;
use super::{Failure, print, print_json};
use crate::target::manage::{
    DriveAddSpare, DriveFail, DriveInject, DriveName, DriveRemoveSpare, DriveReplace, GroupCreate,
    GroupExpand, GroupName, PortAdd, PortDelete, PortList, PortRequest, Reply, Request, VdiskCreate,
    VdiskDelete, VdiskName, VdiskReplicate, VdiskResize,
};
use crate::target::rpc::{Client, ClientError, Runtime, node_sockets};

/// How long the node may take for one call: making a group writes to every drive.
const CALL_WAIT: Duration = Duration::from_secs(60);

pub(super) fn status(options: &Options) -> Result<(), Failure> {
    if options.json {
        return ask(options, &Request::NodeShow);
    }
    let mut client = connect(options)?;
    let mut text = String::new();
    for request in [Request::NodeShow, Request::GroupList] {
        text.push_str(&show::text(&client.call(&request)?));
    }
    print(&text)
}

pub(super) fn shelf(options: &Options) -> Result<(), Failure> {
    ask(options, &Request::ShelfShow)
}

pub(super) fn group(command: GroupCommand) -> Result<(), Failure> {
    match command {
        GroupCommand::List(client) => ask(&client, &Request::GroupList),
        GroupCommand::Show { group, client } => ask(&client, &Request::GroupShow(GroupName { group })),
        GroupCommand::Create(create) => {
            let GroupCreateArgs {
                name,
                drives,
                level,
                strip,
                block_bytes,
                durability,
                journal_mib,
                force,
                client,
            } = create;
            let strip_kib = strip_kib(strip)?;
            let create = GroupCreate {
                name,
                level,
                strip_kib,
                block_bytes,
                drives,
                durability,
                journal_mib,
                force,
            };
            ask(&client, &Request::GroupCreate(create))
        }
        GroupCommand::Expand {
            group,
            drives,
            force,
            wait,
            client,
        } => {
            let expand = GroupExpand { group, drives, force };
            super::background::order(&client, &Request::GroupExpand(expand), wait)
        }
        GroupCommand::Background(command) => super::background::run(command),
    }
}

fn strip_kib(bytes: u64) -> Result<u32, Failure> {
    match u32::try_from(bytes / 1024) {
        Ok(kib) if bytes.is_multiple_of(1024) && kib.is_power_of_two() && (4..=1024).contains(&kib) => {
            Ok(kib)
        }
        Ok(_) | Err(_) => Err(Failure::usage(
            format!("a strip of {bytes} bytes is not possible"),
            "use a power of two from 4KiB to 1MiB",
        )),
    }
}

pub(super) fn vdisk(command: VdiskCommand) -> Result<(), Failure> {
    match command {
        VdiskCommand::List(client) => ask(&client, &Request::VdiskList),
        VdiskCommand::Show { vdisk, client } => ask(&client, &Request::VdiskShow(VdiskName { vdisk })),
        VdiskCommand::Create {
            name,
            group,
            size,
            nsid,
            replication,
            client,
        } => ask(
            &client,
            &Request::VdiskCreate(VdiskCreate {
                name,
                group,
                size,
                nsid,
                replication,
            }),
        ),
        VdiskCommand::Replicate {
            vdisk,
            replication,
            client,
        } => {
            let replicate = VdiskReplicate { vdisk, replication };
            ask(&client, &Request::VdiskReplicate(replicate))
        }
        VdiskCommand::Resize { vdisk, size, client } => {
            ask(&client, &Request::VdiskResize(VdiskResize { vdisk, size }))
        }
        VdiskCommand::Delete { vdisk, force, client } => {
            ask(&client, &Request::VdiskDelete(VdiskDelete { vdisk, force }))
        }
    }
}

pub(super) fn port(command: PortCommand) -> Result<(), Failure> {
    let (client, request) = match command {
        PortCommand::List { vdisk, client } => (client, PortRequest::List(PortList { vdisk })),
        PortCommand::Add { vdisk, node, client } => (client, PortRequest::Add(PortAdd { vdisk, node })),
        PortCommand::Delete {
            vdisk,
            node,
            force,
            client,
        } => (client, PortRequest::Delete(PortDelete { vdisk, node, force })),
    };
    ask(&client, &Request::Port(request))
}

pub(super) fn drive(command: DriveCommand) -> Result<(), Failure> {
    match command {
        DriveCommand::List(client) => ask(&client, &Request::DriveList),
        DriveCommand::Show { drive, client } => ask(&client, &Request::DriveShow(DriveName { drive })),
        DriveCommand::Inject {
            drive,
            fault,
            at,
            blocks,
            us,
            client,
        } => {
            let inject = DriveInject {
                drive,
                fault,
                at_bytes: at,
                blocks,
                slow_us: us,
            };
            ask(&client, &Request::DriveInject(inject))
        }
        DriveCommand::Replace {
            group,
            member,
            drive,
            force,
            client,
        } => {
            let replace = DriveReplace {
                group,
                member,
                drive,
                force,
            };
            ask(&client, &Request::DriveReplace(replace))
        }
        DriveCommand::AddSpare {
            group,
            drive,
            force,
            client,
        } => ask(
            &client,
            &Request::DriveAddSpare(DriveAddSpare { group, drive, force }),
        ),
        DriveCommand::RemoveSpare { group, drive, client } => ask(
            &client,
            &Request::DriveRemoveSpare(DriveRemoveSpare { group, drive }),
        ),
        DriveCommand::Fail {
            group,
            drive,
            force,
            client,
        } => ask(&client, &Request::DriveFail(DriveFail { group, drive, force })),
    }
}

pub(super) fn host(command: HostCommand) -> Result<(), Failure> {
    match command {
        HostCommand::List(client) => ask(&client, &Request::HostList),
    }
}

pub(super) fn latency(options: &Options) -> Result<(), Failure> {
    ask(options, &Request::Latency)
}

pub(super) fn counters(options: &Options) -> Result<(), Failure> {
    ask(options, &Request::Counters)
}

pub(super) fn shutdown(options: &Options) -> Result<(), Failure> {
    ask(options, &Request::Shutdown)
}

/// Makes one call and prints its result.
pub(super) fn ask(options: &Options, request: &Request) -> Result<(), Failure> {
    let mut client = connect(options)?;
    if options.json {
        return print_json(&client.call_raw(request)?);
    }
    let reply: Reply = client.call(request)?;
    print(&show::text(&reply))
}

/// Connects to the node that is meant.
pub(super) fn connect(options: &Options) -> Result<Client, Failure> {
    let named = options.socket.clone();
    let named = named.or_else(|| {
        std::env::var_os("BRAID_SOCKET")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    });
    if let Some(path) = named {
        return Ok(Client::connect(&path, CALL_WAIT)?);
    }
    let runtime = Runtime::of_this_process();
    let mut clients = Vec::new();
    let mut failed = None;
    for socket in node_sockets(&runtime) {
        match Client::connect(&socket, CALL_WAIT) {
            Ok(client) => clients.push((socket, client)),
            Err(error) => failed = Some(error),
        }
    }
    match (clients.len(), failed) {
        (0, None) => Err(Failure::unreachable(
            format!(
                "no node of this user is running; there is no socket in {}",
                runtime.socket_folder().display()
            ),
            "start one with `braid node --config FILE`, or name its socket with --socket",
        )),
        (0, Some(error)) => Err(error.into()),
        (1, _) => Ok(clients.remove(0).1),
        (_, _) => {
            let sockets: Vec<_> = clients
                .iter()
                .map(|(socket, _)| socket.display().to_string())
                .collect();
            Err(Failure::usage(
                format!("{} nodes are running", sockets.len()),
                format!("name one with --socket: {}", sockets.join(", ")),
            ))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        if error.is_unreachable() {
            return Self::unreachable(error.to_string(), error.remedy());
        }
        Self::new(error.to_string(), error.remedy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strip_is_a_power_of_two_in_range() {
        assert_eq!(strip_kib(64 * 1024), Ok(64));
        for bad in [0, 1, 2048, 4097, 48 * 1024, 2 << 20, u64::MAX] {
            assert_eq!(strip_kib(bad).unwrap_err().exit, 2, "{bad}");
        }
    }
}
