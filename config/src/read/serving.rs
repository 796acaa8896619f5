//! What the node is to hosts and operators: the process, its cores, the subsystem, its listeners.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use nvme::nqn::Nqn;

use super::Placed;
use super::field::{check_name, parse_nqn, path, power_of_two};
use crate::problem::{Problems, quoted};
use crate::section::{Found, Section};
use crate::{C2hSuccess, CORES_MAX, HOSTS_MAX, Hosts, Listen, Node, Poll, Reactor, Shelf, Subsystem};

/// Longest path of a Unix socket: `sun_path` has 108 bytes with its terminating zero.
///
/// Source: unix(7), Address format.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Highest CPU number: the kernel's largest `NR_CPUS` is 8192.
const CPU_MAX: usize = 8191;

pub(crate) fn node(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Node {
    let node = process(&mut section, problems);
    section.finish(problems);
    node
}

/// `[shelf]`: the process, and how it exports its drives.
pub(crate) fn shelf(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> (Node, Shelf) {
    let node = process(&mut section, problems);
    let quorum_mib = section.number("quorum_mib", 1..=1024, problems).or(8);
    let mut block_bytes = 4096;
    if let Found::Value(bytes, at) = section.number("block_bytes", 512..=4096, problems) {
        block_bytes = bytes;
        if !matches!(bytes, 512 | 4096) {
            let what = format!("{}: block_bytes = {bytes} is no block size", section.title());
            problems.push(&at, what, "write 512 or 4096");
        }
    }
    let create = section.flag("create", problems).or(false);
    let mut command_log = None;
    if let Found::Value(file, at) = section.text("command_log", problems) {
        command_log = path(file, &at, &section, "command_log", problems);
    }
    section.finish(problems);
    let shelf = Shelf {
        quorum_mib,
        block_bytes,
        create,
        command_log,
    };
    (node, shelf)
}

/// What the sections of a node and of a shelf have in common.
fn process(section: &mut Section<'_, '_>, problems: &mut Problems<'_>) -> Node {
    let mut node = Node::named("braid");
    if let Found::Value(name, at) = section.text("name", problems)
        && check_name(name, &at, section.title(), problems)
    {
        node.name = name.to_owned();
    }
    if let Found::Value(socket, at) = section.text("rpc_socket", problems) {
        node.rpc_socket = path(socket, &at, section, "rpc_socket", problems);
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

pub(crate) fn reactor(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Placed<Reactor> {
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
    let memory_mib = section.number("memory_mib", 16..=2048, problems);
    let read_cache_mib = section.number("read_cache_mib", 0..=2048, problems);
    let at = memory_mib.place().unwrap_or(section.at().clone());
    section.finish(problems);
    let cpus = cpus.some();
    let pinned = cpus.as_ref().and_then(|cpus| u16::try_from(cpus.len()).ok());
    let memory_mib = memory_mib.or(default.memory_mib);
    Placed {
        value: Reactor {
            cores: cores.some().or(pinned),
            cpus,
            poll,
            memory_mib,
            read_cache_mib: read_cache_mib.or(default.read_cache_mib),
        },
        at,
    }
}

pub(crate) fn subsystem(mut section: Section<'_, '_>, node: &Node, problems: &mut Problems<'_>) -> Subsystem {
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
    let max = section.number("max_transfer_kib", 8..=1024, problems);
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
    subsystem.in_capsule_kib = in_capsule.or(8);
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
    let mut list = BTreeSet::new();
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

pub(crate) fn listen(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Option<Placed<Listen>> {
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

#[cfg(test)]
mod tests {
    use crate::testing::{LEAST, good, refuses};

    use super::*;

    /// `LEAST` and a section after it; the section's first key stands in line 4.
    fn with(section: &str) -> String {
        format!("{LEAST}{section}")
    }

    #[test]
    fn numbers_out_of_range_are_refused_at_both_ends() {
        for (section, key, least, most) in [
            ("reactor", "cores", 1_u64, 16_u64),
            ("reactor", "memory_mib", 16, 2048),
            ("reactor", "spin_us", 1, 1_000_000),
            ("subsystem", "io_queues_max", 1, 128),
            ("subsystem", "queue_entries_max", 16, 1024),
            ("subsystem", "controllers_max", 1, 4096),
        ] {
            for good_value in [least, most] {
                good(&with(&format!("[{section}]\n{key} = {good_value}\n")));
            }
            for bad_value in [
                (least - 1).to_string(),
                (most + 1).to_string(),
                "-1".into(),
                "9".repeat(25),
            ] {
                let words = ["is out of range".to_owned(), format!("{least}..={most}")];
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                refuses(&with(&format!("[{section}]\n{key} = {bad_value}\n")), 4, &words);
            }
        }
    }

    #[test]
    fn the_read_cache_has_a_limit_and_may_be_off() {
        let text = |mib: u32| with(&format!("[reactor]\nread_cache_mib = {mib}\n"));
        for mib in [0, 1, 2048] {
            assert_eq!(good(&text(mib)).reactor.read_cache_mib, mib);
        }
        refuses(&text(2049), 4, &["is out of range", "0..=2048"]);
    }

    #[test]
    fn in_capsule_data_never_exceeds_a_transfer() {
        let text = with("[subsystem]\nin_capsule_kib = 9\nmax_transfer_kib = 8\n");
        refuses(
            &text,
            4,
            &["in_capsule_kib is more than max_transfer_kib", "at most 8"],
        );
        good(&with("[subsystem]\nmax_transfer_kib = 64\nin_capsule_kib = 64\n"));
        refuses(&with("[subsystem]\nmax_transfer_kib = 4\n"), 4, &["8..=1024"]);
    }

    #[test]
    fn poll_modes_and_their_spin() {
        let poll = |text: &str| good(&with(&format!("[reactor]\n{text}"))).reactor.poll;
        assert_eq!(poll("poll = \"busy\""), Poll::Busy);
        assert_eq!(poll("poll = \"interrupt\""), Poll::Interrupt);
        assert_eq!(poll("spin_us = 7"), Poll::Adaptive { spin_us: 7 });
        refuses(
            &with("[reactor]\nspin_us = 7\npoll = \"busy\"\n"),
            4,
            &["spin_us has no meaning here"],
        );
    }

    #[test]
    fn cpus_are_different_and_as_many_as_cores() {
        assert_eq!(
            good(&with("[reactor]\ncpus = [3, 1, 2]\n")).reactor.cores,
            Some(3)
        );
        refuses(&with("[reactor]\ncpus = [3, 3]\n"), 4, &["cpus has 3 twice"]);
        refuses(
            &with("[reactor]\ncpus = [3]\ncores = 2\n"),
            4,
            &["cores = 2 but cpus lists 1"],
        );
        refuses(&with("[reactor]\ncpus = []\n"), 4, &["a list of 1 to 16"]);
        refuses(&with("[reactor]\ncpus = [9000]\n"), 4, &["0..=8191"]);
    }

    #[test]
    fn log_filters() {
        for filter in ["off", "info,braid::target=debug", "warn,nvme=trace"] {
            assert_eq!(
                good(&with(&format!("[node]\nlog = \"{filter}\"\n"))).node.log,
                filter
            );
        }
        for filter in ["", "loud", "info,", "=info", "a b=info", "info;warn"] {
            refuses(
                &with(&format!("[node]\nlog = \"{filter}\"\n")),
                4,
                &["is no filter"],
            );
        }
    }

    #[test]
    fn socket_path_fits_the_systems_limit() {
        let of = |bytes: usize| with(&format!("[node]\nrpc_socket = \"/{}\"\n", "s".repeat(bytes - 1)));
        good(&of(107));
        refuses(&of(108), 4, &["rpc_socket has 108 bytes", "107"]);
    }

    #[test]
    fn host_lists_are_not_empty_and_name_each_host_once() {
        refuses(
            &with("[subsystem]\nhosts = []\n"),
            4,
            &["nobody could connect", "\"any\""],
        );
        let twice = "[subsystem]\nhosts = [\"nqn.2026-01.a:b\",\n\"nqn.2026-01.a:b\"]\n";
        refuses(&with(twice), 5, &["twice"]);
    }

    #[test]
    fn identity_strings_fit_their_fields() {
        for (key, bytes) in [("serial", 20), ("model", 40), ("firmware", 8)] {
            let of = |text: &str| with(&format!("[subsystem]\n{key} = \"{text}\"\n"));
            good(&of(&"x".repeat(bytes)));
            let bytes_max = bytes.to_string();
            refuses(&of(&"x".repeat(bytes + 1)), 4, &["does not fit", &bytes_max]);
            for text in ["", " x", "x ", "ü", "\\t"] {
                refuses(&of(text), 4, &["printable ASCII"]);
            }
        }
    }

    #[test]
    fn oui_takes_three_hexadecimal_bytes() {
        let oui = |text: &str| with(&format!("[subsystem]\noui = \"{text}\"\n"));
        assert_eq!(good(&oui("aC-De-48")).subsystem.oui, [0xac, 0xde, 0x48]);
        for text in ["", "02:42", "02:42:52:00", "2:42:52", "+2:42:52", "0g:00:00"] {
            refuses(&oui(text), 4, &["is no OUI"]);
        }
    }

    #[test]
    fn listen_addresses_have_an_ip_and_a_port() {
        for text in ["localhost:4420", "127.0.0.1", "::1:4420:x", "", "127.0.0.1:65536"] {
            refuses(
                &format!("[[listen]]\naddress = \"{text}\"\n"),
                2,
                &["is no address and port"],
            );
        }
        refuses("[[listen]]\naddress = \"224.0.0.1:4420\"\n", 2, &["multicast"]);
        refuses("[[listen]]\ndiscovery_only = false\n", 1, &["has no address"]);
        assert!(
            good("[[listen]]\naddress = \"[::1]:4420\"\n").listeners[0]
                .address
                .is_ipv6()
        );
    }

    #[test]
    fn a_wildcard_or_a_chosen_port_is_noted_not_refused() {
        let config = good("[[listen]]\naddress = \"0.0.0.0:4420\"\n");
        assert_eq!((config.notes.len(), config.notes[0].line), (1, 2));
        let advertised = "[[listen]]\naddress = \"0.0.0.0:4420\"\nadvertise = \"10.0.2.2\"\n";
        assert_eq!(good(advertised).notes, []);
        assert!(
            good("[[listen]]\naddress = \"127.0.0.1:0\"\n").notes[0]
                .text
                .contains("leaves the port")
        );
    }

    #[test]
    fn advertised_addresses_can_be_connected_to() {
        for text in ["0.0.0.0", "::", "224.0.0.1", "10.0.0.1:4420", "name"] {
            refuses(
                &format!("{LEAST}advertise = \"{text}\"\n"),
                3,
                &["nothing to connect to"],
            );
        }
    }
}
