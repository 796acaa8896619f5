//! Kernel, limits, memory, CPUs, clock, ports.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

use config::{Config, Listen};

use super::{Check, Needs, Verdict};
use crate::target::cli::bytes_text;
use crate::target::rpc::Runtime;

/// Everything that needs no drive and no port.
pub(super) fn checks(config: Option<&Config>, needs: Needs, cpus: usize) -> Vec<Check> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let limits = text("/proc/self/limits");
    let pins = config.and_then(|config| config.reactor.cpus.as_deref());
    vec![
        kernel(text("/proc/sys/kernel/osrelease").trim()),
        locked_memory(&limits, has_ipc_lock(&text("/proc/self/status")), needs),
        open_files(&limits, needs),
        huge_pages(&text("/proc/meminfo"), needs),
        memory(&text("/proc/meminfo"), config, needs),
        cpu_features(),
        cores(needs, cpus),
        pinning(
            pins,
            &text("/sys/devices/system/cpu/online"),
            &text("/sys/devices/system/cpu/isolated"),
        ),
        governor(text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim()),
        clock_source(text("/sys/devices/system/clocksource/clocksource0/current_clocksource").trim()),
    ]
}

/// The kernel's version against what the reactor makes use of.
///
/// Source: io_uring_setup(2): `IORING_SETUP_DEFER_TASKRUN` since 6.1; io_uring_prep_recv_multishot(3): since 6.0.
fn kernel(release: &str) -> Check {
    let name = "kernel";
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Check::new(name, Verdict::Warn, "its version cannot be read", "mount /proc");
    };
    let newer = "use Linux 6.1 or newer";
    match (major, minor) {
        (0..=5, _) => Check::new(name, Verdict::Fail, format!("Linux {release} is too old"), newer),
        (6, 0) => Check::new(
            name,
            Verdict::Warn,
            format!("Linux {release} lacks deferred completions"),
            newer,
        ),
        (6.., _) => Check::ok(name, format!("Linux {release}")),
    }
}

/// Soft and hard limit of a resource; `None` for a limit stands for unlimited.
fn limit(limits: &str, resource: &str) -> Option<(Option<u64>, Option<u64>)> {
    let mut fields = limits
        .lines()
        .find_map(|line| line.strip_prefix(resource))?
        .split_whitespace();
    let mut next = || match fields.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some((next()?, next()?))
}

/// Whether this process has CAP_IPC_LOCK, which lifts the limit of locked memory.
///
/// Source: proc_pid_status(5), `CapEff`; capabilities(7), CAP_IPC_LOCK is bit 14 of linux/capability.h.
fn has_ipc_lock(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> 14 & 1 == 1)
}

fn locked_memory(limits: &str, has_ipc_lock: bool, needs: Needs) -> Check {
    let name = "locked memory";
    let needed = bytes_text(needs.memory_bytes);
    match limit(limits, "Max locked memory") {
        _ if has_ipc_lock => Check::ok(name, "not limited for this process (CAP_IPC_LOCK)"),
        None => Check::new(name, Verdict::Warn, "the limit cannot be read", "mount /proc"),
        Some((None, _)) => Check::ok(name, "not limited"),
        Some((Some(soft), _)) if soft >= needs.memory_bytes => {
            Check::ok(name, format!("{} allowed, {needed} needed", bytes_text(soft)))
        }
        Some((Some(soft), _)) => Check::new(
            name,
            Verdict::Note,
            format!(
                "{} allowed, {needed} needed: buffers are not registered, drive I/O is slower",
                bytes_text(soft)
            ),
            "set LimitMEMLOCK=infinity in the service, or ulimit -l unlimited",
        ),
    }
}

fn open_files(limits: &str, needs: Needs) -> Check {
    let name = "open files";
    // Below this not even one host with its queues and a few drives fits.
    const LEAST: u64 = 256;
    match limit(limits, "Max open files") {
        None => Check::new(name, Verdict::Warn, "the limit cannot be read", "mount /proc"),
        Some((None, _)) => Check::ok(name, "not limited"),
        Some((Some(soft), _)) if soft >= needs.descriptors => Check::ok(
            name,
            format!("{soft} allowed, {} needed at most", needs.descriptors),
        ),
        Some((Some(soft), _)) => Check::new(
            name,
            if soft < LEAST {
                Verdict::Fail
            } else {
                Verdict::Note
            },
            format!(
                "{soft} allowed, {} needed when all hosts connect all queues",
                needs.descriptors
            ),
            format!(
                "set LimitNOFILE={0} in the service, or ulimit -n {0}",
                needs.descriptors.next_power_of_two()
            ),
        ),
    }
}

/// A value of /proc/meminfo, without its unit.
fn meminfo_value(meminfo: &str, key: &str) -> Option<u64> {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn huge_pages(meminfo: &str, needs: Needs) -> Check {
    let name = "huge pages";
    let value = |key| meminfo_value(meminfo, key);
    let (Some(free), Some(total), Some(page_kib)) = (
        value("HugePages_Free"),
        value("HugePages_Total"),
        value("Hugepagesize").filter(|kib| *kib > 0),
    ) else {
        let remedy = "nothing to do: ordinary pages are used";
        return Check::new(name, Verdict::Note, "this kernel has none", remedy);
    };
    let needed = needs.memory_bytes.div_ceil(page_kib << 10);
    if free >= needed {
        return Check::ok(name, format!("{free} of {page_kib} KiB free, {needed} needed"));
    }
    let missing = needed - free;
    Check::new(
        name,
        Verdict::Note,
        format!(
            "{free} of {page_kib} KiB free, {needed} needed: {missing} are missing, ordinary pages are used"
        ),
        format!("sysctl vm.nr_hugepages={}", total + missing),
    )
}

fn memory(meminfo: &str, config: Option<&Config>, needs: Needs) -> Check {
    let name = "memory";
    let drives = config.map_or(0, |config| {
        let sizes = config.drives.iter().map(|drive| match &drive.backing {
            config::Backing::Memory(memory) => memory.size_mib << 20,
            config::Backing::Path { .. } | config::Backing::Shelf(_) => 0,
        });
        sizes.sum::<u64>()
    });
    let needed = needs.memory_bytes.saturating_add(drives);
    let needed = needed.saturating_add(needs.kept_bytes);
    let Some(available) = meminfo_value(meminfo, "MemAvailable") else {
        return Check::new(name, Verdict::Warn, "what is free cannot be read", "mount /proc");
    };
    let available = available << 10;
    let finding = format!("{} free, {} needed", bytes_text(available), bytes_text(needed));
    if available >= needed {
        return Check::ok(name, finding);
    }
    // Memory drives take their pages as they are written, so this may go well for a long time.
    Check::new(
        name,
        Verdict::Warn,
        finding,
        "lower reactor.memory_mib or the size of the memory drives",
    )
}

fn cpu_features() -> Check {
    let name = "cpu features";
    #[cfg(target_arch = "x86_64")]
    {
        let avx512 = std::arch::is_x86_feature_detected!("avx512f");
        let avx2 = std::arch::is_x86_feature_detected!("avx2");
        let gfni = std::arch::is_x86_feature_detected!("gfni");
        let vpclmul = std::arch::is_x86_feature_detected!("vpclmulqdq");
        let crc = std::arch::is_x86_feature_detected!("sse4.2");
        let all = [
            ("AVX-512", avx512),
            ("AVX2", avx2),
            ("GFNI", gfni),
            ("VPCLMULQDQ", vpclmul),
            ("CRC32", crc),
        ];
        let found: Vec<&str> = all
            .iter()
            .filter(|(_, there)| *there)
            .map(|(name, _)| *name)
            .collect();
        let found = if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        };
        if avx2 && crc {
            return Check::ok(name, found);
        }
        Check::new(
            name,
            Verdict::Note,
            format!("{found}: parity and digests are slower"),
            "let the virtual machine see the CPU's own features (cpu=host)",
        )
    }
    #[cfg(not(target_arch = "x86_64"))]
    Check::new(
        name,
        Verdict::Note,
        "no x86-64: portable parity and digests are used",
        "",
    )
}

fn cores(needs: Needs, cpus: usize) -> Check {
    let finding = format!("{} of {cpus} CPUs poll", needs.cores);
    if usize::from(needs.cores) <= cpus {
        return Check::ok("cores", finding);
    }
    Check::new(
        "cores",
        Verdict::Warn,
        finding,
        format!("set reactor.cores to at most {cpus}"),
    )
}

/// Numbers of a list such as `0-3,8`. Source: Linux kernel documentation, admin-guide/cputopology, cpulist format.
fn cpu_list(list: &str) -> Vec<std::ops::RangeInclusive<usize>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).collect()
}

fn pinning(pins: Option<&[usize]>, online: &str, isolated: &str) -> Check {
    let name = "cpu pinning";
    let Some(pins) = pins else {
        return Check::new(
            name,
            Verdict::Note,
            "cores are not pinned to CPUs: other work may push them aside",
            "for steady latency set reactor.cpus, and isolate those CPUs (isolcpus=, nohz_full=)",
        );
    };
    let outside = |list: &str| {
        let ranges = cpu_list(list);
        let missing = pins
            .iter()
            .filter(|cpu| !ranges.iter().any(|range| range.contains(cpu)));
        missing.map(usize::to_string).collect::<Vec<_>>().join(", ")
    };
    let offline = outside(online);
    if !offline.is_empty() {
        let remedy = format!("choose among {}", online.trim());
        return Check::new(
            name,
            Verdict::Fail,
            format!("CPU {offline} is not online"),
            remedy,
        );
    }
    let shared = outside(isolated);
    if shared.is_empty() {
        return Check::ok(name, "all pinned to isolated CPUs");
    }
    let finding = format!("CPU {shared} is not isolated: other work runs there too");
    Check::new(
        name,
        Verdict::Note,
        finding,
        "boot with isolcpus= and nohz_full= for steady latency",
    )
}

fn governor(governor: &str) -> Check {
    let name = "cpu frequency";
    match governor {
        "" => Check::ok(name, "not scaled by this kernel"),
        "performance" => Check::ok(name, "governor performance"),
        other => Check::new(
            name,
            Verdict::Note,
            format!("governor {other}: latency depends on the load"),
            "cpupower frequency-set -g performance",
        ),
    }
}

fn clock_source(source: &str) -> Check {
    let name = "clock source";
    match source {
        "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter" => Check::ok(name, source),
        "" => Check::new(name, Verdict::Note, "cannot be read", "mount /sys"),
        slow => Check::new(
            name,
            Verdict::Warn,
            format!("{slow}: each look at the clock is a system call"),
            "boot with clocksource=tsc if the CPU has a constant one",
        ),
    }
}

/// Whether the node could make its socket.
pub(super) fn socket_folder(config: &Config) -> Check {
    let name = "management socket";
    let socket = Runtime::of_this_process().socket(&config.node);
    let shown = socket.display();
    if UnixStream::connect(&socket).is_ok() {
        let remedy = "stop that node first, or give this one another node.name";
        return Check::new(name, Verdict::Warn, format!("a node runs on {shown} now"), remedy);
    }
    let existing = socket
        .ancestors()
        .skip(1)
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    match try_making_a_file(existing) {
        Ok(()) => Check::ok(name, shown.to_string()),
        Err(error) => Check::new(
            name,
            Verdict::Fail,
            format!("{shown} cannot be made in {}: {error}", existing.display()),
            "set node.rpc_socket to a path in a folder that you own",
        ),
    }
}

/// Makes a file in a folder and removes it again.
pub(super) fn try_making_a_file(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".braid-preflight-{}", std::process::id()));
    fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)
}

/// Whether a listener could have its address.
pub(super) fn port(listen: &Listen) -> Check {
    let name = format!("listen {}", listen.address);
    let Err(error) = TcpListener::bind(listen.address) else {
        return Check::ok(name, "free");
    };
    let kind = error.kind();
    let remedy = if kind == ErrorKind::AddrInUse {
        "stop what uses it (ss -ltnp shows it), or choose another port"
    } else if kind == ErrorKind::AddrNotAvailable {
        "use an address of this machine (ip address shows them)"
    } else if kind == ErrorKind::PermissionDenied {
        "use a port above 1023, or give the node CAP_NET_BIND_SERVICE"
    } else {
        "choose another address"
    };
    Check::new(name, Verdict::Fail, error.to_string(), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        cores: 2,
        memory_bytes: 128 << 20,
        kept_bytes: 0,
        descriptors: 5000,
    };

    #[test]
    fn kernel_versions() {
        assert_eq!(kernel("6.18.0-rc1").verdict, Verdict::Ok);
        assert_eq!(kernel("7.0").verdict, Verdict::Ok);
        assert_eq!(kernel("6.0.19-x").verdict, Verdict::Warn);
        assert_eq!(kernel("5.15.0").verdict, Verdict::Fail);
        assert_eq!(kernel("").verdict, Verdict::Warn);
    }

    #[test]
    fn limits_are_read_in_their_columns() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max locked memory         8388608              unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some((Some(1024), Some(524_288))));
        assert_eq!(limit(limits, "Max locked memory"), Some((Some(8_388_608), None)));
        assert_eq!(limit(limits, "Max nothing"), None);
        let check = locked_memory(limits, false, NEEDS);
        assert_eq!(check.verdict, Verdict::Note);
        assert!(check.finding.starts_with("8 MiB allowed, 128 MiB needed"));
        assert_eq!(locked_memory(limits, true, NEEDS).verdict, Verdict::Ok);
        let check = open_files(limits, NEEDS);
        assert_eq!(
            (check.verdict, check.remedy.contains("LimitNOFILE=8192")),
            (Verdict::Note, true)
        );
        assert_eq!(
            open_files(
                limits,
                Needs {
                    descriptors: 1024,
                    ..NEEDS
                }
            )
            .verdict,
            Verdict::Ok
        );
        assert_eq!(
            open_files("Max open files   100   100   files", NEEDS).verdict,
            Verdict::Fail
        );
    }

    #[test]
    fn capability_is_one_bit_of_a_mask() {
        assert!(has_ipc_lock("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!has_ipc_lock("CapEff:\t000001ffffffbfff\n"));
        assert!(!has_ipc_lock(""));
    }

    #[test]
    fn huge_pages_say_how_many_are_missing() {
        let meminfo = "MemAvailable: 1000 kB\nHugePages_Total:      10\nHugePages_Free:       4\nHugepagesize:  2048 kB\n";
        let check = huge_pages(meminfo, NEEDS);
        assert_eq!(
            check.finding,
            "4 of 2048 KiB free, 64 needed: 60 are missing, ordinary pages are used"
        );
        assert_eq!(check.remedy, "sysctl vm.nr_hugepages=70");
        assert_eq!(
            huge_pages(
                meminfo,
                Needs {
                    memory_bytes: 8 << 20,
                    ..NEEDS
                }
            )
            .verdict,
            Verdict::Ok
        );
        assert_eq!(huge_pages("", NEEDS).verdict, Verdict::Note);
        assert_eq!(memory(meminfo, None, NEEDS).verdict, Verdict::Warn);
        assert_eq!(
            memory(
                meminfo,
                None,
                Needs {
                    memory_bytes: 1000 << 10,
                    ..NEEDS
                }
            )
            .verdict,
            Verdict::Ok
        );
        let keeps = Needs {
            memory_bytes: 1000 << 10,
            kept_bytes: 64 << 20,
            ..NEEDS
        };
        assert_eq!(memory(meminfo, None, keeps).verdict, Verdict::Warn);
    }

    #[test]
    fn pins_are_compared_with_lists_of_cpus() {
        assert_eq!(pinning(Some(&[2, 3]), "0-3\n", "2-3\n").verdict, Verdict::Ok);
        assert_eq!(
            pinning(Some(&[1, 2]), "0-3", "2-3").finding,
            "CPU 1 is not isolated: other work runs there too"
        );
        let check = pinning(Some(&[1, 7, 9]), "0-3,8", "");
        assert_eq!(
            (check.verdict, check.finding.as_str()),
            (Verdict::Fail, "CPU 7, 9 is not online")
        );
        assert_eq!(pinning(None, "0-3", "").verdict, Verdict::Note);
    }

    #[test]
    fn port_in_use_and_foreign_address_fail() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = |address| Listen {
            address,
            advertise: None,
            discovery_only: false,
        };
        let check = port(&listen(held.local_addr().unwrap()));
        assert_eq!(
            (check.verdict, check.remedy.contains("ss -ltnp")),
            (Verdict::Fail, true)
        );
        let check = port(&listen("192.0.2.1:4420".parse().unwrap()));
        assert_eq!(
            (check.verdict, check.remedy.contains("of this machine")),
            (Verdict::Fail, true)
        );
        assert_eq!(port(&listen("127.0.0.1:0".parse().unwrap())).verdict, Verdict::Ok);
    }

    #[test]
    fn clocks_and_governors() {
        assert_eq!(clock_source("tsc").verdict, Verdict::Ok);
        assert_eq!(clock_source("hpet").verdict, Verdict::Warn);
        assert_eq!(governor("powersave").verdict, Verdict::Note);
        assert_eq!(governor("").verdict, Verdict::Ok);
        assert_eq!(cores(Needs { cores: 4, ..NEEDS }, 2).verdict, Verdict::Warn);
    }
}
