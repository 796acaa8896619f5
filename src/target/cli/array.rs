//! `braid array`: the array that a node shares with others.

use super::call::{ask, connect};
use super::options::{ArrayCommand, Client};
use super::table::{Align, Table};
use super::{Failure, print, show};
use crate::target::council::manage::new_key;
use crate::target::manage::{ArrayCut, ArrayRequest, ArrayStatus, Reply, Request};

/// Carries out `braid array`.
pub(super) fn array(command: ArrayCommand) -> Result<(), Failure> {
    let (client, request) = match command {
        ArrayCommand::Key => {
            let key = new_key().map_err(|error| Failure::new(format!("no random bytes: {error}"), ""))?;
            return print(&format!("{key}\n"));
        }
        ArrayCommand::List(options) => return super::survey::list(&options),
        ArrayCommand::Import(options) => return super::survey::import(options),
        ArrayCommand::Show(client) => (client, ArrayRequest::Show),
        ArrayCommand::Create(client) => (client, ArrayRequest::Create),
        ArrayCommand::Leave(client) => (client, ArrayRequest::Leave),
        ArrayCommand::Join(client) => (client, ArrayRequest::Join),
        ArrayCommand::Cut {
            peer,
            muted,
            deafened,
            locks_only,
            client,
        } => {
            let cut = ArrayCut {
                peer,
                muted,
                deafened,
                locks_only,
            };
            (client, ArrayRequest::Cut(cut))
        }
    };
    ask(&client, &Request::Array(request))
}

/// Prints the file of a node of an array, as an example.
pub(super) fn example(nodes: u8, slot: u8) -> Result<(), Failure> {
    if slot >= nodes {
        return Err(Failure::usage(
            format!("there is no slot {slot} among {nodes} nodes"),
            "slots count from 0",
        ));
    }
    print(&config::ArrayText::example(nodes, slot).to_string())
}

/// The nodes of the array.
pub(super) fn nodes(client: &Client) -> Result<(), Failure> {
    let request = Request::Array(ArrayRequest::Show);
    if client.json {
        return ask(client, &request);
    }
    let reply = connect(client)?.call(&request)?;
    if let Reply::Array(array) = &reply {
        print(&nodes_text(array))
    } else {
        print(&show::text(&reply))
    }
}

fn nodes_text(array: &ArrayStatus) -> String {
    let mut table = Table::new(&[
        ("slot", Align::Right),
        ("member", Align::Left),
        ("incarnation", Align::Left),
        ("connected", Align::Left),
        ("addresses", Align::Left),
    ]);
    let life = |slot: u8| {
        let mut members = array.members.iter();
        members
            .find(|(member, _)| *member == slot)
            .map(|(_, life)| life.clone())
    };
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let own = (array.slot, "this node".to_owned(), String::new());
    let peers = array.peers.iter().map(|peer| {
        let is_silent = array.silent.contains(&peer.slot);
        let connected = if is_silent {
            "not heard".to_owned()
        } else if peer.addresses.len() > 1 && peer.paths_up > 0 {
            format!("by {} of {} paths", peer.paths_up, peer.addresses.len())
        } else {
            yes_no(peer.incarnation.is_some())
        };
        (peer.slot, connected, peer.addresses.join(" "))
    });
    let mut rows: Vec<_> = std::iter::once(own).chain(peers).collect();
    rows.sort();
    for (slot, connected, addresses) in rows {
        let life = life(slot);
        table.row([
            slot.to_string(),
            yes_no(life.is_some()),
            life.unwrap_or_else(|| "-".to_owned()),
            connected,
            addresses,
        ]);
    }
    table.text()
}

/// What the word in the status means for the links between nodes.
fn encryption_text(word: &str) -> &str {
    match word {
        "tls" => "links between nodes are encrypted with TLS 1.3",
        _ => "links between nodes are not encrypted",
    }
}

/// The array as a person reads it.
pub(super) fn text(array: &ArrayStatus) -> String {
    let mut facts = vec![
        ("array", format!("{} ({})", array.array, array.uuid)),
        (
            "this node",
            match array.incarnation.as_str() {
                "" => format!("slot {}", array.slot),
                incarnation => format!("slot {}, incarnation {incarnation}", array.slot),
            },
        ),
        ("stage", array.stage.clone()),
        ("epoch", array.epoch.to_string()),
        ("encryption", encryption_text(&array.encryption).to_owned()),
        (
            "lease",
            if array.serves {
                format!("{} ms left", array.lease_left_ms)
            } else {
                "none".to_owned()
            },
        ),
    ];
    if let Some(blocked) = &array.blocked {
        facts.push(("blocked", blocked.clone()));
    }
    if let Some(ended) = &array.ended_before {
        facts.push(("life before", ended.clone()));
    }
    if let Some(next_s) = array.next_life_s {
        facts.push((
            "next life",
            format!("in {next_s} s; `braid node join` begins it at once"),
        ));
    }
    if let Some(refusal) = &array.last_refusal {
        facts.push((
            "refused",
            format!(
                "{} connections, the last because {refusal}",
                array.refused_connections
            ),
        ));
    }
    if array.stage == "blank" {
        facts.push((
            "remedy",
            "the array does not exist yet; `braid array create` makes it".to_owned(),
        ));
    }
    if array.stage == "left" {
        facts.push((
            "remedy",
            "this node takes no part until `braid node join` has it come back".to_owned(),
        ));
    }
    format!(
        "{}\n{}\n{}{}",
        show::facts(facts),
        nodes_text(array),
        drives_text(array),
        admission_text(array)
    )
}

fn drives_text(array: &ArrayStatus) -> String {
    let mut table = Table::new(&[
        ("drive", Align::Left),
        ("shelf", Align::Left),
        ("place", Align::Right),
        ("votes", Align::Left),
        ("in use", Align::Left),
        ("state", Align::Left),
    ]);
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for drive in &array.drives {
        table.row([
            drive.name.clone(),
            drive.shelf.clone(),
            drive
                .place
                .map_or_else(|| "-".to_owned(), |place| place.to_string()),
            yes_no(drive.votes),
            yes_no(drive.in_use),
            drive.state.clone(),
        ]);
    }
    table.text()
}

/// What was found of the drives, if the array was made here.
fn admission_text(array: &ArrayStatus) -> String {
    let admitted = array.drives.iter().filter_map(|drive| {
        let found = drive.admission.as_ref()?;
        Some((drive.name.as_str(), found.clone()))
    });
    let admitted = show::facts(admitted);
    if admitted.is_empty() {
        String::new()
    } else {
        format!("\ntried out when the array was made:\n{admitted}")
    }
}
