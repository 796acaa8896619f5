//! Turns the tables of the file into values, section by section; [`check`](crate::check) then compares sections.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};

use nvme::nqn::Nqn;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::check;
use crate::problem::{Problem, Problems, quoted};
use crate::section::{Found, Section, type_name};
use crate::{
    Backing, C2hSuccess, CORES_MAX, Config, DRIVES_MAX, Drive, GROUP_DRIVES_MAX, GROUPS_MAX, HOSTS_MAX,
    Hosts, LISTENERS_MAX, Level, Listen, MemoryDrive, NAME_BYTES_MAX, Node, Poll, Reactor, Subsystem,
    TEXT_BYTES_MAX, VDISKS_MAX, VdiskSize,
};

/// Longest path of a Unix socket: `sun_path` has 108 bytes with its terminating zero.
///
/// Source: unix(7), Address format.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Highest CPU number: the kernel's largest `NR_CPUS` is 8192.
const CPU_MAX: usize = 8191;
/// Smallest drive in MiB: 1 MiB of metadata at each end, the rest for rows of the largest strip.
const DRIVE_MIB_MIN: u64 = 8;
/// Largest drive that may be made in MiB: 16 TiB.
const DRIVE_MIB_MAX: u64 = 1 << 24;
/// Largest namespace identifier: keeps the active namespace list in one page.
const NSID_MAX: u32 = 1024;

/// A section's value with the places that later checks point at.
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
    pub(crate) accept_dirty_degraded: bool,
}

/// A virtual disk before its group's name is looked up.
pub(crate) struct VdiskDraft<'a> {
    pub(crate) name: &'a str,
    pub(crate) group: Option<(&'a str, Range<usize>)>,
    pub(crate) size: VdiskSize,
    pub(crate) size_at: Range<usize>,
    pub(crate) nsid: Option<(u32, Range<usize>)>,
}

/// Everything that the file says, each section on its own found good or given its default.
pub(crate) struct Draft<'a> {
    pub(crate) node: Node,
    pub(crate) reactor: Reactor,
    pub(crate) subsystem: Subsystem,
    pub(crate) listeners: Vec<Placed<Listen>>,
    pub(crate) drives: Vec<Placed<Drive>>,
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
    let node = node(one(&mut root, "node", problems), problems);
    let reactor = reactor(one(&mut root, "reactor", problems), problems);
    let subsystem = subsystem(one(&mut root, "subsystem", problems), &node, problems);
    let listeners = many(&mut root, "listen", LISTENERS_MAX, problems);
    let listeners = listeners
        .into_iter()
        .filter_map(|section| listen(section, problems))
        .collect();
    let drives = many(&mut root, "drive", DRIVES_MAX, problems);
    let drives = drives
        .into_iter()
        .filter_map(|section| drive(section, problems))
        .collect();
    let groups = many(&mut root, "group", GROUPS_MAX, problems);
    let groups = groups
        .into_iter()
        .filter_map(|section| group(section, problems))
        .collect();
    let vdisks = many(&mut root, "vdisk", VDISKS_MAX, problems);
    let vdisks = vdisks
        .into_iter()
        .filter_map(|section| vdisk(section, problems))
        .collect();
    root.finish(problems);
    Draft {
        node,
        reactor,
        subsystem,
        listeners,
        drives,
        groups,
        vdisks,
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

fn node(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Node {
    let mut node = Node::named("braid");
    if let Found::Value(name, at) = section.text("name", problems)
        && check_name(name, &at, section.title(), problems)
    {
        node.name = name.to_owned();
    }
    if let Found::Value(socket, at) = section.text("rpc_socket", problems) {
        node.rpc_socket = path(socket, &at, &section, "rpc_socket", problems);
        let bytes = node.rpc_socket.as_ref().map_or(0, |path| path.as_os_str().len());
        if bytes > SOCKET_PATH_BYTES_MAX {
            let what = format!("{}: rpc_socket has {bytes} bytes", section.title());
            problems.push(
                &at,
                what,
                format!("the system allows {SOCKET_PATH_BYTES_MAX}; choose a shorter path"),
            );
        }
    }
    if let Found::Value(log, at) = section.text("log", problems) {
        if is_log_filter(log) {
            node.log = log.to_owned();
        } else {
            let what = format!("{}: log = {} is no filter", section.title(), quoted(log));
            let remedy =
                "write off, error, warn, info, debug or trace, also as in \"info,braid::target=debug\"";
            problems.push(&at, what, remedy);
        }
    }
    section.finish(problems);
    node
}

/// Whether each part, between commas, is a level or a module path with a level.
fn is_log_filter(text: &str) -> bool {
    text.len() <= 1024
        && text.split(',').all(|part| {
            let (module, level) = match part.split_once('=') {
                Some((module, level)) => (Some(module), level),
                None => (None, part),
            };
            let module_ok = module.is_none_or(|module| {
                !module.is_empty()
                    && module
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':')
            });
            module_ok && ["off", "error", "warn", "info", "debug", "trace"].contains(&level)
        })
}

fn reactor(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Reactor {
    let default = Reactor::default();
    let cores = section.number("cores", 1..=CORES_MAX, problems);
    let cpus = section.numbers("cpus", CPU_MAX, usize::from(CORES_MAX), problems);
    if let Found::Value(list, at) = &cpus {
        if let Some(twice) = (1..list.len()).find(|i| list[..*i].contains(&list[*i])) {
            let what = format!("{}: cpus has {} twice", section.title(), list[twice]);
            problems.push(at, what, "give each core a CPU of its own");
        }
        if let Found::Value(cores, _) = &cores
            && usize::from(*cores) != list.len()
        {
            let what = format!(
                "{}: cores = {cores} but cpus lists {}",
                section.title(),
                list.len()
            );
            problems.push(at, what, "list one CPU for each core, or leave out cores");
        }
    }
    let spin_us = section.number("spin_us", 1..=1_000_000, problems);
    let choices = [
        ("busy", Poll::Busy),
        ("adaptive", default.poll),
        ("interrupt", Poll::Interrupt),
    ];
    let mut poll = section.choice("poll", &choices, problems).or(default.poll);
    if let Found::Value(spin_us, at) = spin_us {
        match &mut poll {
            Poll::Adaptive { spin_us: spin } => *spin = spin_us,
            Poll::Busy | Poll::Interrupt => {
                let what = format!("{}: spin_us has no meaning here", section.title());
                problems.push(&at, what, "remove it, or set poll = \"adaptive\"");
            }
        }
    }
    let memory_mib = section
        .number("memory_mib", 16..=2048, problems)
        .or(default.memory_mib);
    section.finish(problems);
    let cpus = cpus.some();
    let pinned = cpus.as_ref().and_then(|cpus| u16::try_from(cpus.len()).ok());
    Reactor {
        cores: cores.some().or(pinned),
        cpus,
        poll,
        memory_mib,
    }
}

fn subsystem(mut section: Section<'_, '_>, node: &Node, problems: &mut Problems<'_>) -> Subsystem {
    let default = Nqn::parse(&format!("nqn.2026-01.io.braid:{}", node.name))
        .expect("a checked node name is short and has no character that an NQN forbids");
    let nqn = match section.text("nqn", problems) {
        Found::Value(text, at) => {
            let nqn = parse_nqn(text, &at, &section, "nqn", problems);
            if nqn == Some(Nqn::DISCOVERY) {
                let what = format!("{}: nqn is the name of every discovery service", section.title());
                problems.push(&at, what, "give the subsystem a name of its own");
            }
            nqn.unwrap_or(default)
        }
        Found::Absent | Found::Wrong => default,
    };
    let mut subsystem = Subsystem::named(nqn);
    let fields = [
        ("serial", 20, &mut subsystem.serial),
        ("model", 40, &mut subsystem.model),
        ("firmware", 8, &mut subsystem.firmware),
    ];
    for (key, bytes_max, field) in fields {
        identity(&mut section, key, bytes_max, field, problems);
    }
    if let Found::Value(text, at) = section.text("oui", problems) {
        match parse_oui(text) {
            Some(oui) => subsystem.oui = oui,
            None => {
                let what = format!("{}: oui = {} is no OUI", section.title(), quoted(text));
                problems.push(&at, what, "write three bytes in hexadecimal such as \"02:42:52\"");
            }
        }
    }
    subsystem.hosts = hosts(&mut section, problems);
    limits(&mut section, &mut subsystem, problems);
    section.finish(problems);
    subsystem
}

/// The numbers and switches of `[subsystem]`.
fn limits(section: &mut Section<'_, '_>, subsystem: &mut Subsystem, problems: &mut Problems<'_>) {
    let max = section.number("max_transfer_kib", 4..=1024, problems);
    subsystem.max_transfer_kib = power_of_two(max, "max_transfer_kib", section, problems).or(256);
    let in_capsule = section.number("in_capsule_kib", 0..=64, problems);
    if let Found::Value(kib, at) = &in_capsule
        && *kib > subsystem.max_transfer_kib
    {
        let what = format!(
            "{}: in_capsule_kib is more than max_transfer_kib",
            section.title()
        );
        problems.push(at, what, format!("write at most {}", subsystem.max_transfer_kib));
    }
    subsystem.in_capsule_kib = in_capsule.or(8.min(subsystem.max_transfer_kib));
    subsystem.io_queues_max = section.number("io_queues_max", 1..=128, problems).or(16);
    subsystem.queue_entries_max = section.number("queue_entries_max", 16..=1024, problems).or(128);
    subsystem.controllers_max = section.number("controllers_max", 1..=4096, problems).or(256);
    let choices = [
        ("without-flow-control", C2hSuccess::WithoutFlowControl),
        ("always", C2hSuccess::Always),
        ("never", C2hSuccess::Never),
    ];
    subsystem.c2h_success = section
        .choice("c2h_success", &choices, problems)
        .or(C2hSuccess::WithoutFlowControl);
    let choices = [("allow", true), ("refuse", false)];
    subsystem.header_digest = section.choice("header_digest", &choices, problems).or(true);
    subsystem.data_digest = section.choice("data_digest", &choices, problems).or(true);
}

fn hosts(section: &mut Section<'_, '_>, problems: &mut Problems<'_>) -> Hosts {
    if section
        .peek("hosts")
        .is_some_and(|value| value.get_ref().is_str())
    {
        section.choice("hosts", &[("any", ())], problems);
        return Hosts::Any;
    }
    let (texts, at) = match section.texts("hosts", HOSTS_MAX, problems) {
        Found::Value(texts, at) => (texts, at),
        Found::Absent | Found::Wrong => return Hosts::Any,
    };
    if texts.is_empty() {
        let what = format!(
            "{}: hosts is empty, so that nobody could connect",
            section.title()
        );
        problems.push(&at, what, "list host NQNs, or write \"any\"");
    }
    let mut list = std::collections::BTreeSet::new();
    for (text, at) in texts {
        let Some(nqn) = parse_nqn(text, &at, section, "hosts", problems) else {
            continue;
        };
        if !list.insert(nqn) {
            let what = format!("{}: hosts has {} twice", section.title(), quoted(text));
            problems.push(&at, what, "remove one");
        }
    }
    Hosts::List(list.into_iter().collect())
}

fn listen(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Placed<Listen>> {
    let address = section.text("address", problems);
    if address.is_absent() {
        section.missing("address", "address = \"127.0.0.1:4420\"", problems);
    }
    let address = match address {
        Found::Value(text, at) => match text.parse::<SocketAddr>() {
            Ok(address) => Some((address, at)),
            Err(_) => {
                let what = format!("{}: {} is no address and port", section.title(), quoted(text));
                problems.push(
                    &at,
                    what,
                    "write for example \"127.0.0.1:4420\" or \"[::1]:4420\"",
                );
                None
            }
        },
        Found::Absent | Found::Wrong => None,
    };
    if let Some((address, at)) = &address {
        check_listen_address(*address, at, &section, problems);
    }
    let mut advertise = None;
    if let Found::Value(text, at) = section.text("advertise", problems) {
        match text.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => advertise = Some(ip),
            Ok(_) | Err(_) => {
                let what = format!(
                    "{}: advertise = {} is nothing to connect to",
                    section.title(),
                    quoted(text)
                );
                problems.push(
                    &at,
                    what,
                    "write the address, without port, by which hosts reach this listener",
                );
            }
        }
    }
    let discovery_only = section.flag("discovery_only", problems).or(false);
    section.finish(problems);
    let (address, at) = address?;
    if address.ip().is_unspecified() && advertise.is_none() {
        let text =
            format!("{address} listens everywhere; each host is told the address that it connected to");
        problems.note(&at, text);
    }
    Some(Placed {
        value: Listen {
            address,
            advertise,
            discovery_only,
        },
        at,
    })
}

fn check_listen_address(
    address: SocketAddr,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    problems: &mut Problems<'_>,
) {
    if address.ip().is_multicast() {
        let what = format!("{}: {address} is a multicast address", section.title());
        problems.push(at, what, "NVMe/TCP needs an address of this machine");
    }
    if address.port() == 0 {
        problems.note(
            at,
            format!("{address} leaves the port to the system; hosts find it in the node's log only"),
        );
    }
}

fn drive(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Placed<Drive>> {
    let (name, at) = name(&mut section, "drive", "d0", problems);
    let path_found = section.text("path", problems);
    let size_mib = section.number("size_mib", DRIVE_MIB_MIN..=DRIVE_MIB_MAX, problems);
    let memory_mib = section.number("memory_mib", DRIVE_MIB_MIN..=DRIVE_MIB_MAX, problems);
    let delay_us = section.number("delay_us", 0..=10_000_000, problems);
    let bandwidth_mib_s = section.number("bandwidth_mib_s", 1..=u32::MAX, problems);
    let error_every = section.number("error_every", 1..=u32::MAX, problems);
    let mut belongs = |key: &str, place: Option<Range<usize>>, to: &str| {
        if let Some(place) = place {
            let what = format!("{}: {key} belongs to drives with {to}", section.title());
            problems.push(&place, what, format!("remove {key}, or set {to}"));
        }
    };
    if memory_mib.is_absent() {
        belongs("delay_us", delay_us.place(), "memory_mib");
        belongs("bandwidth_mib_s", bandwidth_mib_s.place(), "memory_mib");
        belongs("error_every", error_every.place(), "memory_mib");
    } else {
        belongs(
            "path",
            path_found.place(),
            "a file or block device, this one has memory_mib",
        );
        belongs("size_mib", size_mib.place(), "path");
    }
    let backing = match (path_found, memory_mib) {
        (Found::Value(text, at), Found::Absent) => {
            path(text, &at, &section, "path", problems).map(|path| Backing::Path {
                path,
                size_mib: size_mib.some(),
            })
        }
        (_, Found::Value(size_mib, _)) => Some(Backing::Memory(MemoryDrive {
            size_mib,
            delay_us: delay_us.or(0),
            bandwidth_mib_s: bandwidth_mib_s.some().and_then(NonZeroU32::new),
            error_every: error_every.some().and_then(NonZeroU32::new),
        })),
        (Found::Absent, Found::Absent) => {
            section.missing(
                "path",
                "path = \"d0.img\" (a file or block device) or memory_mib = 256",
                problems,
            );
            None
        }
        (_, Found::Wrong) | (Found::Wrong, Found::Absent) => None,
    };
    section.finish(problems);
    // A drive whose backing is wrong is reported; it keeps its name, so that groups still find it.
    let backing = backing.unwrap_or(Backing::Path {
        path: PathBuf::new(),
        size_mib: None,
    });
    Some(Placed {
        value: Drive {
            name: name?.to_owned(),
            backing,
        },
        at,
    })
}

fn group<'a>(mut section: Section<'a, '_>, problems: &mut Problems<'_>) -> Option<Placed<GroupDraft<'a>>> {
    let (name, at) = name(&mut section, "group", "g0", problems);
    let level = section
        .choice("level", &[(Level::Raid5.name(), Level::Raid5)], problems)
        .or(Level::Raid5);
    let strip = section.number("strip_kib", 4..=1024, problems);
    let strip_kib = power_of_two(strip, "strip_kib", &section, problems).or(64);
    let block = section.number("block_bytes", 512..=4096, problems);
    if let Found::Value(bytes, at) = &block
        && ![512, 4096].contains(bytes)
    {
        let what = format!("{}: block_bytes = {bytes} is no block size", section.title());
        problems.push(at, what, "write 512 or 4096");
    }
    let drives = section.texts("drives", GROUP_DRIVES_MAX, problems);
    if drives.is_absent() {
        section.missing("drives", "drives = [\"d0\", \"d1\", \"d2\"]", problems);
    }
    let create = section.flag("create", problems).or(false);
    let accept_dirty_degraded = section.flag("accept_dirty_degraded", problems).or(false);
    let drives_at = drives.place().unwrap_or(section.at().clone());
    section.finish(problems);
    let value = GroupDraft {
        name: name?,
        level,
        strip_kib,
        block_bytes: block.or(4096),
        drives: drives.some(),
        drives_at,
        create,
        accept_dirty_degraded,
    };
    Some(Placed { value, at })
}

fn vdisk<'a>(mut section: Section<'a, '_>, problems: &mut Problems<'_>) -> Option<Placed<VdiskDraft<'a>>> {
    let (name, at) = name(&mut section, "vdisk", "v0", problems);
    let group = section.text("group", problems);
    if group.is_absent() {
        section.missing("group", "group = \"g0\"", problems);
    }
    let group = match group {
        Found::Value(group, at) => Some((group, at)),
        Found::Absent | Found::Wrong => None,
    };
    let size = match section.peek("size_mib").map(Spanned::get_ref) {
        Some(DeValue::String(_)) => section.choice("size_mib", &[("all", VdiskSize::Rest)], problems),
        Some(
            DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_),
        )
        | None => section
            .number("size_mib", 1..=1 << 40, problems)
            .map(VdiskSize::Mib),
    };
    if size.is_absent() {
        section.missing("size_mib", "size_mib = 128 or size_mib = \"all\"", problems);
    }
    let size_at = size.place().unwrap_or(section.at().clone());
    let nsid = match section.number("nsid", 1..=NSID_MAX, problems) {
        Found::Value(nsid, at) => Some((nsid, at)),
        Found::Absent | Found::Wrong => None,
    };
    section.finish(problems);
    // A size that is wrong was reported; 1 MiB stands for it.
    let size = size.or(VdiskSize::Mib(1));
    Some(Placed {
        value: VdiskDraft {
            name: name?,
            group,
            size,
            size_at,
            nsid,
        },
        at,
    })
}

/// The `name` of a section and where to point when it is the matter; the section is called by it from here on.
fn name<'a>(
    section: &mut Section<'a, '_>,
    kind: &str,
    example: &str,
    problems: &mut Problems<'_>,
) -> (Option<&'a str>, Range<usize>) {
    match section.text("name", problems) {
        Found::Value(name, at) => {
            let good = check_name(name, &at, section.title(), problems);
            if good {
                section.set_title(format!("[[{kind}]] {name:?}"));
            }
            (good.then_some(name), at)
        }
        Found::Absent => {
            section.missing("name", &format!("name = {example:?}"), problems);
            (None, section.at().clone())
        }
        Found::Wrong => (None, section.at().clone()),
    }
}

fn check_name(name: &str, at: &Range<usize>, title: &str, problems: &mut Problems<'_>) -> bool {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    // A dot first would make a hidden socket, or a path of its own as `..`.
    let good = letters && (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.');
    if !good {
        let what = format!("{title}: name = {} is no name", quoted(name));
        let remedy = format!(
            "write 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.', and do not start with a dot"
        );
        problems.push(at, what, remedy);
    }
    good
}

/// A path, resolved against the folder of the file.
fn path(
    text: &str,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<PathBuf> {
    if text.is_empty() || text.contains('\0') || text.len() > 4095 {
        let what = format!("{}: {key} = {} is no path", section.title(), quoted(text));
        problems.push(at, what, "write the path of a file, at most 4095 bytes");
        return None;
    }
    let folder = problems.file().parent().unwrap_or(Path::new(""));
    Some(folder.join(text))
}

fn power_of_two(
    found: Found<u32>,
    key: &str,
    section: &Section<'_, '_>,
    problems: &mut Problems<'_>,
) -> Found<u32> {
    match found {
        Found::Value(number, at) if !number.is_power_of_two() => {
            let what = format!("{}: {key} = {number} is no power of two", section.title());
            let above = number.next_power_of_two();
            problems.push(&at, what, format!("write {} or {above}", above / 2));
            Found::Wrong
        }
        found @ (Found::Value(..) | Found::Absent | Found::Wrong) => found,
    }
}

fn parse_nqn(
    text: &str,
    at: &Range<usize>,
    section: &Section<'_, '_>,
    key: &str,
    problems: &mut Problems<'_>,
) -> Option<Nqn> {
    match Nqn::parse(text) {
        Ok(nqn) => Some(nqn),
        Err(error) => {
            let what = format!("{}: {key}: {} is no NQN: {error}", section.title(), quoted(text));
            problems.push(at, what, "write for example \"nqn.2026-01.io.example:node-a\"");
            None
        }
    }
}

fn parse_oui(text: &str) -> Option<[u8; 3]> {
    let mut oui = [0; 3];
    let mut parts = text.split([':', '-']);
    for byte in &mut oui {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(oui)
}

/// An ASCII field of Identify Controller.
fn identity(
    section: &mut Section<'_, '_>,
    key: &'static str,
    bytes_max: usize,
    field: &mut String,
    problems: &mut Problems<'_>,
) {
    let Found::Value(text, at) = section.text(key, problems) else {
        return;
    };
    let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
    if printable && (1..=bytes_max).contains(&text.len()) && text.trim() == text {
        *field = text.to_owned();
        return;
    }
    let what = format!(
        "{}: {key} = {} does not fit Identify Controller",
        section.title(),
        quoted(text)
    );
    let remedy = format!("write 1 to {bytes_max} printable ASCII characters without spaces at the ends");
    problems.push(&at, what, remedy);
}
