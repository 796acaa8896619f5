//! `braid array list` and `braid array import`: arrays as the drives of shelves tell of them.

use std::net::SocketAddr;

use config::{ArrayText, ShelfText};
use serde_json::json;
use uuid::Uuid;

use super::call::{ask, connect};
use super::options::{ArrayImport, ArrayList};
use super::table::{Align, Table};
use super::{Failure, print, print_json};
use crate::target::council::array_id;
use crate::target::council::manage::{KeyError, read_key};
use crate::target::council::survey::{FoundArray, Survey, survey};
use crate::target::manage::{ArrayRequest, ArrayStatus, Reply, Request};

/// Carries out `braid array list`.
pub(super) fn list(options: &ArrayList) -> Result<(), Failure> {
    if options.shelf.is_empty() {
        let request = Request::Array(ArrayRequest::Show);
        if options.client.json {
            return ask(&options.client, &request);
        }
        let reply = connect(&options.client)?.call(&request)?;
        return if let Reply::Array(array) = &reply {
            print(&own_text(array))
        } else {
            print(&super::show::text(&reply))
        };
    }
    let found = look(&options.shelf)?;
    if options.client.json {
        print_json(&as_json(&found))
    } else {
        print(&text(&found))
    }
}

fn look(shelves: &[SocketAddr]) -> Result<Survey, Failure> {
    survey(shelves).map_err(|error| {
        Failure::new(
            error.to_string(),
            "name the address and port of a shelf that runs: `braid shelf --config shelf.toml`",
        )
    })
}

fn own_text(array: &ArrayStatus) -> String {
    let mut table = Table::new(&[
        ("array", Align::Left),
        ("uuid", Align::Left),
        ("drives", Align::Right),
        ("epoch", Align::Right),
        ("members", Align::Left),
        ("stage", Align::Left),
    ]);
    let members = array.members.iter().map(|(slot, _)| slot.to_string());
    table.row([
        array.array.clone(),
        array.uuid.clone(),
        array.drives.len().to_string(),
        array.epoch.to_string(),
        members.collect::<Vec<_>>().join(" "),
        array.stage.clone(),
    ]);
    table.text()
}

fn uuid_of(array: &FoundArray) -> String {
    Uuid::from_bytes(array.id.0).to_string()
}

fn members_of(array: &FoundArray) -> Vec<u8> {
    let members = array.record.iter().flat_map(|record| &record.members);
    members.map(|member| member.slot.number()).collect()
}

fn text(found: &Survey) -> String {
    let mut table = Table::new(&[
        ("array", Align::Left),
        ("uuid", Align::Left),
        ("drives found", Align::Right),
        ("of", Align::Right),
        ("epoch", Align::Right),
        ("members", Align::Left),
    ]);
    for array in &found.arrays {
        let members: Vec<String> = members_of(array).iter().map(u8::to_string).collect();
        table.row([
            array.name.clone(),
            uuid_of(array),
            array.found.len().to_string(),
            array.drives.count().to_string(),
            array
                .record
                .as_ref()
                .map_or(0, |record| record.epoch.0)
                .to_string(),
            members.join(" "),
        ]);
    }
    let mut text = if table.is_empty() {
        "no array\n".to_owned()
    } else {
        table.text()
    };
    let place =
        |shelf: usize, nsid: u32| format!("namespace {nsid} of {}", found.shelves[shelf].nqn.as_str());
    let blank: Vec<String> = found
        .blank
        .iter()
        .map(|(shelf, nsid)| place(*shelf, *nsid))
        .collect();
    if !blank.is_empty() {
        text.push_str(&format!("\ndrives of no array: {}\n", blank.join(", ")));
    }
    for (shelf, nsid, why) in &found.unfit {
        text.push_str(&format!(
            "\n{} takes part in nothing: {why}\n",
            place(*shelf, *nsid)
        ));
    }
    text
}

fn as_json(found: &Survey) -> serde_json::Value {
    let nqn = |shelf: usize| found.shelves[shelf].nqn.as_str();
    let array = |array: &FoundArray| {
        let drives = array.found.iter().map(|drive| {
            let place = drive.place.number();
            let votes = array.voters.contains(drive.place);
            json!({"place": place, "votes": votes, "subnqn": nqn(drive.shelf), "nsid": drive.nsid})
        });
        json!({
            "array": array.name,
            "uuid": uuid_of(array),
            "drives": array.drives.count(),
            "epoch": array.record.as_ref().map_or(0, |record| record.epoch.0),
            "members": members_of(array),
            "found": drives.collect::<Vec<_>>(),
        })
    };
    let blank = found.blank.iter();
    let unfit = found.unfit.iter();
    json!({
        "arrays": found.arrays.iter().map(array).collect::<Vec<_>>(),
        "blank": blank.map(|(shelf, nsid)| json!({"subnqn": nqn(*shelf), "nsid": nsid})).collect::<Vec<_>>(),
        "unfit": unfit
            .map(|(shelf, nsid, why)| json!({"subnqn": nqn(*shelf), "nsid": nsid, "reason": why}))
            .collect::<Vec<_>>(),
    })
}

/// Carries out `braid array import`.
pub(super) fn import(options: ArrayImport) -> Result<(), Failure> {
    let found = look(&options.shelf)?;
    let array = choose(&found, options.array.as_deref())?;
    let key = read_key(&options.key_file).map_err(|error: KeyError| Failure::new(error.to_string(), ""))?;
    if array_id(&key, &array.name) != array.id {
        return Err(Failure::new(
            format!(
                "{} is not the key of the array \"{}\"",
                options.key_file.display(),
                array.name
            ),
            "take the file from a node of the array",
        ));
    }
    let missing = array.drives.count() as usize - array.found.len();
    if missing > 0 {
        return Err(Failure::new(
            format!(
                "{missing} of the {} drives of the array \"{}\" were not found",
                array.drives.count(),
                array.name
            ),
            "name all of its shelves, each with --shelf; `braid array list` with the same addresses shows what was found",
        ));
    }
    if let Some((slot, _)) = options.peer.iter().find(|(slot, _)| *slot == options.slot) {
        return Err(Failure::usage(
            format!("slot {slot} is this node's and a peer's"),
            "give each node of the array a slot of its own",
        ));
    }
    let text = ArrayText {
        host_listen: options.listen,
        name: array.name.clone(),
        slot: options.slot,
        key_file: options.key_file.display().to_string(),
        listen: options.link,
        failures: array.failures(),
        encryption: options.encryption,
        peers: options.peer,
        shelves: shelves_of(&found, array),
        has_group: false,
    };
    print(&text.to_string())
}

fn choose<'a>(found: &'a Survey, wanted: Option<&str>) -> Result<&'a FoundArray, Failure> {
    let is_wanted = |array: &&FoundArray| wanted.is_none_or(|it| array.name == it || uuid_of(array) == it);
    let mut arrays = found.arrays.iter().filter(is_wanted);
    let (first, second) = (arrays.next(), arrays.next());
    match (first, second) {
        (Some(array), None) => Ok(array),
        (None, _) => Err(Failure::new(
            wanted.map_or_else(
                || "no array was found".to_owned(),
                |wanted| format!("no array \"{wanted}\" was found"),
            ),
            "`braid array list` with the same addresses shows what was found",
        )),
        (Some(_), Some(_)) => Err(Failure::usage(
            "several arrays were found",
            "choose one with --array; `braid array list` with the same addresses lists them",
        )),
    }
}

/// The shelves with drives of the array; drives are named by their places.
fn shelves_of(found: &Survey, array: &FoundArray) -> Vec<ShelfText> {
    let shelves = found.shelves.iter().enumerate();
    let shelves = shelves.map(|(at, shelf)| ShelfText {
        name: format!("shelf-{at}"),
        addresses: shelf.addresses.clone(),
        nqn: shelf.nqn.clone(),
        drives: array
            .found
            .iter()
            .filter(|drive| drive.shelf == at)
            .map(|drive| (format!("d{}", drive.place), drive.nsid))
            .collect(),
    });
    shelves.filter(|shelf| !shelf.drives.is_empty()).collect()
}
