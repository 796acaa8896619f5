//! The shelves whose drives a node uses, and which of their namespaces these are.

use std::net::SocketAddr;
use std::ops::Range;

use nvme::nqn::Nqn;

use super::Placed;
use super::field::{name, parse_nqn};
use crate::problem::{Problems, quoted};
use crate::section::{Found, Section};
use crate::{NamespaceName, RemoteShelf, SHELF_ADDRESSES_MAX, ShelfDrive};

pub(crate) fn shelf(
    mut section: Section<'_, '_>,
    node: &str,
    problems: &mut Problems<'_>,
) -> Option<Placed<RemoteShelf>> {
    let (name, at) = name(&mut section, "shelf", "shelf-a", problems);
    let addresses = addresses(&mut section, problems);
    let nqn = match section.text("nqn", problems) {
        Found::Value(text, at) => parse_nqn(text, &at, &section, "nqn", problems),
        Found::Absent => {
            section.missing("nqn", "nqn = \"nqn.2026-01.io.braid:shelf-a\"", problems);
            None
        }
        Found::Wrong => None,
    };
    let host_nqn = match section.text("host_nqn", problems) {
        Found::Value(text, at) => parse_nqn(text, &at, &section, "host_nqn", problems),
        Found::Absent => Some(
            Nqn::parse(&format!("nqn.2026-01.io.braid:host:{node}")).expect("a node's name fits into an NQN"),
        ),
        Found::Wrong => None,
    };
    let header_digest = section.flag("header_digest", problems).or(false);
    let data_digest = section.flag("data_digest", problems).or(false);
    let take_over = section.flag("take_over", problems).or(false);
    section.finish(problems);
    let value = RemoteShelf {
        name: name?.to_owned(),
        addresses: addresses?,
        nqn: nqn?,
        host_nqn: host_nqn?,
        header_digest,
        data_digest,
        take_over,
    };
    Some(Placed { value, at })
}

/// Where a shelf listens; `None` if something was wrong, which is reported.
fn addresses(section: &mut Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Vec<SocketAddr>> {
    let listed = section.texts("addresses", SHELF_ADDRESSES_MAX, problems);
    let (listed, at) = match listed {
        Found::Value(listed, at) => (listed, at),
        Found::Absent => {
            section.missing("addresses", "addresses = [\"10.0.0.1:4420\"]", problems);
            return None;
        }
        Found::Wrong => return None,
    };
    let mut addresses = Vec::new();
    for (text, at) in &listed {
        let parsed = text.parse::<SocketAddr>().ok();
        let usable = parsed.filter(|address| !address.ip().is_unspecified() && address.port() != 0);
        let Some(address) = usable else {
            let what = format!("{}: {} is nothing to connect to", section.title(), quoted(text));
            problems.push(
                at,
                what,
                "write address and port, for example \"10.0.0.1:4420\" or \"[fd00::1]:4420\"",
            );
            continue;
        };
        if addresses.contains(&address) {
            let what = format!("{}: {address} is listed twice", section.title());
            problems.push(at, what, "remove one of the two");
        }
        addresses.push(address);
    }
    if listed.is_empty() {
        let what = format!("{}: addresses is empty", section.title());
        problems.push(
            &at,
            what,
            "write where the shelf listens, for example [\"10.0.0.1:4420\"]",
        );
    }
    (addresses.len() == listed.len() && !listed.is_empty()).then_some(addresses)
}

/// The namespace that a drive of a shelf is; absent for other drives.
pub(crate) fn drive(section: &mut Section<'_, '_>, problems: &mut Problems<'_>) -> Found<ShelfDrive> {
    let shelf = section.text("shelf", problems);
    let namespace = namespace(section, &shelf, problems);
    match (shelf, namespace) {
        (Found::Absent, _) => Found::Absent,
        (Found::Value(shelf, at), Some(namespace)) => {
            let shelf = shelf.to_owned();
            Found::Value(ShelfDrive { shelf, namespace }, at)
        }
        (Found::Wrong | Found::Value(..), _) => Found::Wrong,
    }
}

/// Which namespace of a shelf a drive is: `nsid` or `uuid`.
fn namespace(
    section: &mut Section<'_, '_>,
    shelf: &Found<&str>,
    problems: &mut Problems<'_>,
) -> Option<NamespaceName> {
    let nsid = section.number("nsid", 1..=u32::MAX - 1, problems);
    let uuid = match section.text("uuid", problems) {
        Found::Value(text, at) => uuid(text, &at, section, problems),
        Found::Absent => Found::Absent,
        Found::Wrong => Found::Wrong,
    };
    let extra = match (&nsid, &uuid) {
        (Found::Value(_, at), Found::Absent) if shelf.is_absent() => Some(("nsid", at, "set shelf")),
        (_, Found::Value(_, at)) if shelf.is_absent() => Some(("uuid", at, "set shelf")),
        (Found::Value(..), Found::Value(_, at)) => {
            Some(("uuid", at, "name the namespace by one of nsid and uuid"))
        }
        _ => None,
    };
    if let Some((key, at, remedy)) = extra {
        let what = format!("{}: {key} is too much", section.title());
        problems.push(at, what, format!("remove {key}, or {remedy}"));
        return None;
    }
    if !shelf.is_absent() && nsid.is_absent() && uuid.is_absent() {
        section.missing(
            "nsid",
            "nsid = 1, or uuid = \"...\"; `braid shelf show` lists both",
            problems,
        );
    }
    nsid.some()
        .map(NamespaceName::Nsid)
        .or(uuid.some().map(NamespaceName::Uuid))
}

fn uuid(
    text: &str,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    problems: &mut Problems<'_>,
) -> Found<[u8; 16]> {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    let mut uuid = [0; 16];
    let is_good = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes = (0..16).map(|byte| u8::from_str_radix(digits.get(2 * byte..2 * byte + 2)?, 16).ok());
    for (byte, value) in uuid.iter_mut().zip(bytes) {
        *byte = value.unwrap_or(0);
    }
    if is_good && uuid != [0; 16] {
        return Found::Value(uuid, at.clone());
    }
    let what = format!("{}: uuid = {} is no UUID", section.title(), quoted(text));
    problems.push(at, what, "copy it from `braid shelf show`");
    Found::Wrong
}
