//! An array that several nodes share: what this node is in it, and where the others are.

use std::net::SocketAddr;
use std::ops::Range;

use super::Placed;
use super::field::{check_name, path};
use crate::problem::{Problems, quoted};
use crate::section::{Found, Section};
use crate::{ARRAY_PATHS_MAX, ARRAY_SLOTS, Encryption, Peer};

/// `[array]` before its drives and shelves are known.
pub(crate) struct ArrayDraft {
    pub(crate) name: String,
    pub(crate) slot: u8,
    pub(crate) key_file: std::path::PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) failures: u8,
    pub(crate) encryption: Encryption,
    pub(crate) replication_group: Option<String>,
}

/// `[[replication_rule]]` before it is known which groups there are.
pub(crate) struct RuleDraft<'a> {
    pub(crate) from: (&'a str, Range<usize>),
    pub(crate) to: Vec<(&'a str, Range<usize>)>,
}

/// `[array]`; `None` if something was wrong, which is reported.
pub(crate) fn array(
    mut section: Section<'_, '_>,
    at: Range<usize>,
    problems: &mut Problems<'_>,
) -> Option<Placed<ArrayDraft>> {
    let name = match section.text("name", problems) {
        Found::Value(name, at) => check_name(name, &at, section.title(), problems).then(|| name.to_owned()),
        Found::Absent => {
            section.missing("name", "name = \"vault\"", problems);
            None
        }
        Found::Wrong => None,
    };
    let slot = slot(&mut section, problems);
    let key_file = match section.text("key_file", problems) {
        Found::Value(file, at) => path(file, &at, &section, "key_file", problems),
        Found::Absent => {
            section.missing(
                "key_file",
                "key_file = \"vault.key\"; `braid array key` makes what is in it",
                problems,
            );
            None
        }
        Found::Wrong => None,
    };
    let listen = match section.text("listen", problems) {
        Found::Value(text, at) => address(text, &at, &section, "listen", true, problems),
        Found::Absent => {
            section.missing("listen", "listen = \"10.0.0.1:4430\"", problems);
            None
        }
        Found::Wrong => None,
    };
    let failures = section.number("failures", 1..=3, problems).or(1);
    let choices = [Encryption::None, Encryption::Tls].map(|choice| (choice.name(), choice));
    let encryption = section
        .choice("encryption", &choices, problems)
        .or(Encryption::default());
    let replication_group = replication_group(&mut section, problems);
    section.finish(problems);
    let value = ArrayDraft {
        name: name?,
        slot: slot?,
        key_file: key_file?,
        listen: listen?,
        failures,
        encryption,
        replication_group,
    };
    Some(Placed { value, at })
}

/// `[[peer]]`.
pub(crate) fn peer(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Placed<Peer>> {
    let at = section.at().clone();
    let slot = slot(&mut section, problems);
    let addresses = match section.texts("addresses", ARRAY_PATHS_MAX, problems) {
        Found::Value(listed, at) => {
            let parsed: Vec<SocketAddr> = listed
                .iter()
                .filter_map(|(text, at)| address(text, at, &section, "addresses", false, problems))
                .collect();
            if listed.is_empty() {
                let what = format!("{}: addresses is empty", section.title());
                problems.push(
                    &at,
                    what,
                    "write where the node listens, for example [\"10.0.0.2:4430\"]",
                );
            }
            (parsed.len() == listed.len() && !parsed.is_empty()).then_some(parsed)
        }
        Found::Absent => {
            section.missing("addresses", "addresses = [\"10.0.0.2:4430\"]", problems);
            None
        }
        Found::Wrong => None,
    };
    let replication_group = replication_group(&mut section, problems);
    section.finish(problems);
    let value = Peer {
        slot: slot?,
        addresses: addresses?,
        replication_group,
    };
    Some(Placed { value, at })
}

/// `[[replication_rule]]`.
pub(crate) fn rule<'a>(
    mut section: Section<'a, '_>,
    problems: &mut Problems<'_>,
) -> Option<Placed<RuleDraft<'a>>> {
    let at = section.at().clone();
    let from = match section.text("from", problems) {
        Found::Value(name, at) => Some((name, at)),
        Found::Absent => {
            section.missing("from", "from = \"site-a\"", problems);
            None
        }
        Found::Wrong => None,
    };
    let to = match section.texts("to", usize::from(ARRAY_SLOTS), problems) {
        Found::Value(names, at) if names.is_empty() => {
            let what = format!("{}: to is empty", section.title());
            problems.push(&at, what, "name replication groups, for example [\"site-b\"]");
            None
        }
        Found::Value(names, _) => Some(names),
        Found::Absent => {
            section.missing("to", "to = [\"site-b\"]", problems);
            None
        }
        Found::Wrong => None,
    };
    section.finish(problems);
    let value = RuleDraft { from: from?, to: to? };
    Some(Placed { value, at })
}

fn replication_group(section: &mut Section<'_, '_>, problems: &mut Problems<'_>) -> Option<String> {
    match section.text("replication_group", problems) {
        Found::Value(name, at) => check_name(name, &at, section.title(), problems).then(|| name.to_owned()),
        Found::Absent | Found::Wrong => None,
    }
}

fn slot(section: &mut Section<'_, '_>, problems: &mut Problems<'_>) -> Option<u8> {
    let slot = section.number("slot", 0..=ARRAY_SLOTS - 1, problems);
    if slot.is_absent() {
        section.missing("slot", "slot = 0, another one for each node", problems);
    }
    slot.some()
}

fn address(
    text: &str,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    key: &str,
    is_own: bool,
    problems: &mut Problems<'_>,
) -> Option<SocketAddr> {
    let parsed = text.parse::<SocketAddr>().ok();
    let usable = parsed.filter(|address| address.port() != 0 && (is_own || !address.ip().is_unspecified()));
    if usable.is_none() {
        let what = format!(
            "{}: {key}: {} is no address of a node",
            section.title(),
            quoted(text)
        );
        problems.push(at, what, "write address and port, for example \"10.0.0.1:4430\"");
    }
    usable
}
