//! Turns the tables of the file into values, section by section; [`check`](crate::check) then compares sections.

mod array;
mod fabric;
mod field;
mod health;
mod serving;
mod storage;

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check;
use crate::problem::{Problem, Problems};
use crate::section::{Section, type_name};
use crate::{
    ARRAY_SLOTS, Background, Config, DRIVES_MAX, Drive, Durability, GROUPS_MAX, Health, LISTENERS_MAX, Level,
    Listen, Node, Peer, Reactor, RemoteShelf, Replication, SHELVES_MAX, Shelf, Subsystem, TEXT_BYTES_MAX,
    VDISKS_MAX, VdiskSize,
};

pub(crate) use array::{ArrayDraft, RuleDraft};

/// A section's value with the places that later checks point at.
#[derive(Clone)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    /// Where its name (or address) stands, else the section.
    pub(crate) at: Range<usize>,
}

/// A group before its drives' names are looked up.
pub(crate) struct GroupDraft<'a> {
    pub(crate) name: &'a str,
    pub(crate) level: Level,
    pub(crate) strip_kib: u32,
    pub(crate) block_bytes: u32,
    pub(crate) drives: Option<Vec<(&'a str, Range<usize>)>>,
    pub(crate) drives_at: Range<usize>,
    pub(crate) create: bool,
    pub(crate) durability: Option<(Durability, Range<usize>)>,
    pub(crate) copies: Option<(u8, Range<usize>)>,
    pub(crate) copies_min: Option<(u8, Range<usize>)>,
    pub(crate) journal_mib: Option<u32>,
    pub(crate) spares: Vec<(&'a str, Range<usize>)>,
    pub(crate) accept_dirty_degraded: bool,
    pub(crate) background: Background,
    pub(crate) accept_lost_writes: bool,
    pub(crate) nodes: Option<(Vec<usize>, Range<usize>)>,
}

/// A virtual disk before its group's name is looked up.
pub(crate) struct VdiskDraft<'a> {
    pub(crate) name: &'a str,
    pub(crate) group: Option<(&'a str, Range<usize>)>,
    pub(crate) size: VdiskSize,
    pub(crate) size_at: Range<usize>,
    pub(crate) nsid: Option<(u32, Range<usize>)>,
    pub(crate) ports: Option<(Vec<u8>, Range<usize>)>,
    pub(crate) replication: Option<(Replication, Range<usize>)>,
}

/// What the file says of an array, of the other nodes of it, and of whose copies go where.
#[derive(Default)]
pub(crate) struct ArrayParts<'a> {
    pub(crate) array: Option<Placed<ArrayDraft>>,
    pub(crate) peers: Vec<Placed<Peer>>,
    pub(crate) rules: Vec<Placed<RuleDraft<'a>>>,
}

/// Everything that the file says, each section on its own found good or given its default.
pub(crate) struct Draft<'a> {
    pub(crate) node: Node,
    pub(crate) shelf: Option<Shelf>,
    /// Placed where `memory_mib` stands.
    pub(crate) reactor: Placed<Reactor>,
    pub(crate) subsystem: Subsystem,
    pub(crate) listeners: Vec<Placed<Listen>>,
    /// Some `[[listen]]` section was so wrong that it is not among `listeners`.
    pub(crate) listeners_missing: bool,
    pub(crate) array: ArrayParts<'a>,
    pub(crate) shelves: Vec<Placed<RemoteShelf>>,
    /// Some `[[shelf]]` section was so wrong that it is not among `shelves`.
    pub(crate) shelves_missing: bool,
    pub(crate) drives: Vec<Placed<Drive>>,
    pub(crate) health: Health,
    pub(crate) groups: Vec<Placed<GroupDraft<'a>>>,
    pub(crate) vdisks: Vec<Placed<VdiskDraft<'a>>>,
}

/// See [`parse`](crate::parse).
pub(crate) fn config(text: &str, file: &Path) -> Result<Config, Vec<Problem>> {
    let mut problems = Problems::new(file, text);
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("the file has {} bytes", text.len());
        problems.push(
            &(0..0),
            what,
            format!("a configuration has at most {TEXT_BYTES_MAX} bytes"),
        );
        return Err(problems.finish().err().unwrap_or_default());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let at = error.span().unwrap_or(0..0);
        problems.push(
            &at,
            format!("this is not TOML: {}", error.message()),
            "see https://toml.io",
        );
    }
    if !problems.is_empty() {
        return Err(problems.finish().err().unwrap_or_default());
    }
    let draft = draft(document.get_ref(), &mut problems);
    let config = check::config(draft, &mut problems);
    let notes = problems.finish()?;
    Ok(Config { notes, ..config })
}

fn draft<'a>(document: &'a DeTable<'_>, problems: &mut Problems<'_>) -> Draft<'a> {
    let mut root = Section::new("the file", document, 0..0);
    // A list of them is what a node uses; a single one is what the process is.
    let listed = |value: &Spanned<DeValue<'_>>| value.get_ref().as_array().is_some();
    let has_shelves = root.peek("shelf").is_some_and(listed);
    let is_shelf = root.peek("shelf").is_some() && !has_shelves;
    let (node, shelf) = if is_shelf {
        let (node, shelf) = serving::shelf(one(&mut root, "shelf", problems), problems);
        (node, Some(shelf))
    } else {
        (serving::node(one(&mut root, "node", problems), problems), None)
    };
    let reactor = serving::reactor(one(&mut root, "reactor", problems), problems);
    let subsystem = serving::subsystem(one(&mut root, "subsystem", problems), &node, problems);
    let sections = many(&mut root, "listen", LISTENERS_MAX, problems);
    let listeners: Vec<_> = sections
        .into_iter()
        .filter_map(|section| serving::listen(section, problems))
        .collect();
    let listed = root
        .peek("listen")
        .map_or(0, |value| value.get_ref().as_array().map_or(1, |list| list.len()));
    let listeners_missing = listeners.len() < listed;
    let (shelves, shelves_missing) = if has_shelves {
        remote_shelves(&mut root, &node, problems)
    } else {
        (Vec::new(), false)
    };
    let array = if is_shelf {
        ArrayParts::default()
    } else {
        array_and_peers(&mut root, problems)
    };
    let drives = many(&mut root, "drive", DRIVES_MAX, problems);
    let drives = drives
        .into_iter()
        .filter_map(|section| storage::drive(section, problems))
        .collect();
    let health = health::health(one(&mut root, "health", problems), problems);
    // A shelf has no groups of its own: whoever writes some learns that these sections are not known there.
    let (mut groups, mut vdisks) = (Vec::new(), Vec::new());
    if !is_shelf {
        let sections = many(&mut root, "group", GROUPS_MAX, problems);
        groups.extend(
            sections
                .into_iter()
                .filter_map(|section| storage::group(section, problems)),
        );
        let sections = many(&mut root, "vdisk", VDISKS_MAX, problems);
        vdisks.extend(
            sections
                .into_iter()
                .filter_map(|section| storage::vdisk(section, problems)),
        );
    }
    root.finish(problems);
    Draft {
        node,
        shelf,
        reactor,
        subsystem,
        listeners,
        listeners_missing,
        array,
        shelves,
        shelves_missing,
        drives,
        health,
        groups,
        vdisks,
    }
}

/// The shelves that a node uses, and whether some section was so wrong that it is not among them.
fn remote_shelves(
    root: &mut Section<'_, '_>,
    node: &Node,
    problems: &mut Problems<'_>,
) -> (Vec<Placed<RemoteShelf>>, bool) {
    let sections = many(root, "shelf", SHELVES_MAX, problems);
    let found = sections.len();
    let read = |section| fabric::shelf(section, &node.name, problems);
    let shelves: Vec<_> = sections.into_iter().filter_map(read).collect();
    let is_missing = shelves.len() < found;
    (shelves, is_missing)
}

/// What the file says of an array.
fn array_and_peers<'a>(root: &mut Section<'a, '_>, problems: &mut Problems<'_>) -> ArrayParts<'a> {
    let at = root.peek("array").map(Spanned::span);
    let array = at.and_then(|at| array::array(one(root, "array", problems), at, problems));
    let sections = many(root, "peer", usize::from(ARRAY_SLOTS), problems);
    let peers = sections
        .into_iter()
        .filter_map(|section| array::peer(section, problems))
        .collect();
    let sections = many(root, "replication_rule", usize::from(ARRAY_SLOTS), problems);
    let rules = sections
        .into_iter()
        .filter_map(|section| array::rule(section, problems));
    ArrayParts {
        array,
        peers,
        rules: rules.collect(),
    }
}

/// The section `[key]`, which the file may leave out.
fn one<'a, 'i>(
    root: &mut Section<'a, 'i>,
    key: &'static str,
    problems: &mut Problems<'_>,
) -> Section<'a, 'i> {
    let title = format!("[{key}]");
    let Some(value) = root.value(key) else {
        return Section::absent(title);
    };
    let Some(table) = value.get_ref().as_table() else {
        let what = format!("{key} is {}", type_name(value.get_ref()));
        let remedy = format!("there is one {title} section: write its name in single brackets, once");
        problems.push(&value.span(), what, remedy);
        return Section::absent(title);
    };
    Section::new(title, table, value.span())
}

/// The sections `[[key]]`, at most `count_max`.
fn many<'a, 'i>(
    root: &mut Section<'a, 'i>,
    key: &'static str,
    count_max: usize,
    problems: &mut Problems<'_>,
) -> Vec<Section<'a, 'i>> {
    let Some(value) = root.value(key) else {
        return Vec::new();
    };
    let Some(list) = value.get_ref().as_array() else {
        let what = format!("{key} is {}", type_name(value.get_ref()));
        problems.push(
            &value.span(),
            what,
            format!("write [[{key}]] in double brackets: there may be several"),
        );
        return Vec::new();
    };
    if list.len() > count_max {
        let what = format!("the file has {} [[{key}]] sections", list.len());
        problems.push(&value.span(), what, format!("a node takes at most {count_max}"));
    }
    let mut sections = Vec::new();
    for (index, entry) in list.iter().take(count_max).enumerate() {
        match entry.get_ref().as_table() {
            Some(table) => sections.push(Section::new(
                format!("[[{key}]] number {}", index + 1),
                table,
                entry.span(),
            )),
            None => {
                let what = format!("{key} number {} is {}", index + 1, type_name(entry.get_ref()));
                problems.push(&entry.span(), what, format!("write a [[{key}]] section"));
            }
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use crate::Poll;
    use crate::testing::{LEAST, good, only, refuses};

    /// `LEAST` and a section after it; the section's first key stands in line 4.
    fn with(section: &str) -> String {
        format!("{LEAST}{section}")
    }

    #[test]
    fn unknown_sections_and_keys_get_a_suggestion() {
        refuses(&with("[nod]\n"), 3, &["has no key \"nod\"", "did you mean node?"]);
        refuses(
            &with("[node]\nnmae = \"a\"\n"),
            4,
            &["[node] has no key", "did you mean name?"],
        );
        refuses(
            &with("[subsystem]\nin-capsule-kib = 8\n"),
            4,
            &["did you mean in_capsule_kib?"],
        );
        refuses(
            &with("[node]\ncolour = 1\n"),
            4,
            &["remove it; the keys here are name, rpc_socket, log"],
        );
    }

    #[test]
    fn columns_point_at_the_value() {
        let (line, column, _) = only(&with("[reactor]\n  cores =  99\n"));
        assert_eq!((line, column), (4, 12));
    }

    #[test]
    fn wrong_types_say_what_is_there_and_what_is_wanted() {
        for (section, words) in [
            ("[node]\nname = 1", ["name is a whole number", "text in quotes"]),
            (
                "[reactor]\ncores = \"2\"",
                ["cores is text", "a whole number in 1..=16"],
            ),
            (
                "[reactor]\nmemory_mib = 64.0",
                ["a number with a fraction", "a whole number in 16..=2048"],
            ),
            (
                "[reactor]\ncpus = 3",
                ["cpus is a whole number", "a list of 1 to 16"],
            ),
            (
                "[reactor]\ncpus = [\"a\"]",
                ["cpus is not a list of 1 to 16", "[0, 1]"],
            ),
            (
                "[subsystem]\nhosts = true",
                ["hosts is true or false", "a list of texts"],
            ),
            (
                "[subsystem]\nhosts = [1]",
                ["hosts is a whole number", "text in quotes"],
            ),
            (
                "[subsystem]\ndata_digest = false",
                ["data_digest is true or false", "text"],
            ),
            (
                "[[vdisk]]\nname = 1979-05-27\ngroup=\"g\"\nsize_mib=1",
                ["name is a date", "text"],
            ),
        ] {
            refuses(&with(section), 4, &words);
        }
    }

    #[test]
    fn single_and_double_brackets_are_told_apart() {
        refuses(
            &with("[drive]\nname = \"d0\"\npath = \"a\"\n"),
            3,
            &["drive is a table", "[[drive]]"],
        );
        refuses(
            &with("[[node]]\nname = \"a\"\n"),
            3,
            &["node is a list", "[node]"],
        );
        refuses("listen = [1]\n", 1, &["listen number 1 is a whole number"]);
    }

    #[test]
    fn too_many_sections_are_refused() {
        let text: String = (0..65)
            .map(|i| format!("[[listen]]\naddress = \"127.0.0.1:{}\"\n", i + 1))
            .collect();
        refuses(&text, 1, &["65 [[listen]] sections", "at most 64"]);
    }

    #[test]
    fn numbers_in_other_bases_and_with_underscores_are_numbers() {
        assert_eq!(
            good(&with("[reactor]\nmemory_mib = 0x40\n")).reactor.memory_mib,
            64
        );
        assert_eq!(
            good(&with("[reactor]\nspin_us = 1_000\n")).reactor.poll,
            Poll::Adaptive { spin_us: 1000 }
        );
        assert_eq!(
            good(&with("[reactor]\nspin_us = +9\n")).reactor.poll,
            Poll::Adaptive { spin_us: 9 }
        );
    }

    #[test]
    fn choices_list_their_words_and_guess() {
        refuses(
            &with("[reactor]\npoll = \"adaptiv\"\n"),
            4,
            &["did you mean \"adaptive\"?", "\"busy\""],
        );
        refuses(
            &with("[subsystem]\nheader_digest = \"yes\"\n"),
            4,
            &["it may be \"allow\", \"refuse\""],
        );
        refuses(&with("[subsystem]\nhosts = \"all\"\n"), 4, &["\"any\""]);
    }
}
