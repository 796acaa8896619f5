//! `braid demo`: a node with a RAID-5 group on file drives, real NVMe/TCP load on it with a drive failed meanwhile,
//! and every block checked at the end. Needs no configuration and no privileges, and leaves nothing behind.

mod folder;
mod report;
mod workload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use config::Config;
use indicatif::{ProgressBar, ProgressStyle};
use nvme::nqn::Nqn;
use reactor::{Options, PollMode};

use self::folder::Folder;
use self::report::{Part, Summary};
use self::workload::{Demo, Measured, Phase, Standing};
use super::cli::options::DemoOptions;
use super::cli::{Failure, print, print_json};
use super::host::{Event, Host, Target};
use super::manage::{DriveFail, GroupName, GroupState, Reply, Request};
use super::node::{self, RunningNode};
use super::storage;

/// Drives of the group.
const DRIVES: u32 = 4;
/// Smallest drive in MiB.
const DRIVE_MIB_MIN: u32 = 64;
/// MiB of a drive that hold no data of the virtual disk: superblocks, bitmap, rounding.
const DRIVE_MIB_SPARE: u32 = 16;
/// The only namespace.
const NSID: u32 = 1;
/// I/O queues on each core, and commands in flight on each.
const QUEUES_PER_CORE: u16 = 2;
/// Likewise.
const DEPTH: u16 = 16;
/// How long anything but the load may take without getting on.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The drive that is failed.
const VICTIM: &str = "d1";

/// Runs the demonstration. Errs if anything went wrong, in particular if a block is lost.
pub fn run(options: DemoOptions) -> Result<(), Failure> {
    let started = Instant::now();
    let stop = stop_flag()?;
    let stage = Stage::set(&options, stop)?;
    let result = stage.play(&options, started);
    let kept = options.keep.then(|| stage.folder.path().to_owned());
    let torn_down = stage.strike();
    let summary = result?;
    torn_down?;
    if options.json {
        let mut json = summary.json();
        json["folder"] = kept.map_or(serde_json::Value::Null, |folder| {
            folder.display().to_string().into()
        });
        print_json(&json)?;
    } else {
        print(&summary.text())?;
        if let Some(folder) = kept {
            print(&format!(
                "the drives and their configuration are kept in {}\n",
                folder.display()
            ))?;
        }
        print(&format!("{}\n", summary.verdict()))?;
    }
    if summary.is_good() {
        Ok(())
    } else {
        Err(Failure::new(
            format!("the node did not keep its promises: {}", summary.verdict()),
            "report this with the output above; --keep keeps the drives",
        ))
    }
}

/// A flag that SIGINT and SIGTERM set, so that the demonstration cleans up after itself.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| Failure::new(format!("signals cannot be caught: {error}"), ""))?;
    }
    Ok(stop)
}

/// Node and host, side by side. The fields are dropped in this order.
struct Stage {
    host: Host<Demo>,
    node: RunningNode,
    folder: Folder,
    stop: Arc<AtomicBool>,
    say: bool,
}

impl Stage {
    /// Makes the drives, starts the node and connects the host.
    fn set(options: &DemoOptions, stop: Arc<AtomicBool>) -> Result<Self, Failure> {
        let system = |error| Failure::new(format!("no random numbers from the system: {error}"), "");
        let seed = u64::from_le_bytes(storage::random_bytes().map_err(system)?);
        let folder = Folder::make(seed, options.keep).map_err(|error| {
            let remedy = "set TMPDIR to a folder where you may write";
            Failure::new(format!("no folder can be made for the drives: {error}"), remedy)
        })?;
        let drive_mib = (options.megabytes.div_ceil(DRIVES - 1) + DRIVE_MIB_SPARE).max(DRIVE_MIB_MIN);
        let config = configuration(options, &folder, drive_mib)?;
        let say = !options.json;
        if say {
            print(&format!(
                "4 file drives of {drive_mib} MiB in {}\none RAID-5 group, one virtual disk of {} MiB\n",
                folder.path().display(),
                options.megabytes
            ))?;
        }
        let started = node::start(&config);
        let node = started.map_err(|error| Failure::new(format!("the node does not start: {error}"), ""))?;
        let address = *node
            .addresses()
            .first()
            .expect("the configuration has a listener");
        if say {
            print(&format!(
                "a node serves it on {} cores; Linux would connect with\n  nvme connect -t tcp -a {} -s {} -n {}\n",
                options.cores,
                address.ip(),
                address.port(),
                config.subsystem.nqn
            ))?;
        }
        let host = connect(options, address, &config.subsystem.nqn, seed)?;
        Ok(Self {
            host,
            node,
            folder,
            stop,
            say,
        })
    }

    /// The demonstration itself.
    fn play(&self, options: &DemoOptions, started: Instant) -> Result<Summary, Failure> {
        self.await_ready()?;
        self.await_group(GroupState::Healthy)?;
        self.say(&format!(
            "our own initiator is connected: {} queues, header and data digests on\n",
            options.cores * QUEUES_PER_CORE
        ))?;
        self.pass(Phase::Fill, "writing every block once")?;
        let half = Duration::from_secs(u64::from(options.seconds)) / 2;
        self.begin(Phase::Load)?;
        let healthy = self.load("healthy", half, "random reads and writes")?;
        let group_state = self.fail_drive()?;
        let degraded = self.load("degraded", half, "the same with one drive failed")?;
        self.begin(Phase::Rest)?;
        self.await_rest()?;
        let before = self.standing()?;
        self.pass(Phase::Check, "reading every block back")?;
        let standing = self.standing()?;
        Ok(Summary {
            parts: vec![healthy, degraded],
            checked: standing.checked - before.checked,
            // A block that was wrong during the load counts as well.
            wrong: standing.wrong,
            standing,
            failed_drive: VICTIM.to_owned(),
            group_state,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Stops both ends and removes the folder.
    fn strike(self) -> Result<(), Failure> {
        let host = self
            .host
            .stop()
            .map_err(|error| Failure::new(error.to_string(), ""));
        let node = self
            .node
            .stop()
            .map_err(|error| Failure::new(format!("the node ended badly: {error}"), ""));
        drop(self.folder);
        host.and(node)
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.say { print(text) } else { Ok(()) }
    }

    fn begin(&self, phase: Phase) -> Result<(), Failure> {
        self.host
            .with_all(move |demo, _| demo.begin(phase))
            .map_err(silent)?;
        Ok(())
    }

    /// All cores taken together.
    fn standing(&self) -> Result<Standing, Failure> {
        let standings = self.host.with_all(|demo, _| demo.standing()).map_err(silent)?;
        let all = standings.into_iter().reduce(|a, b| Standing {
            ready: a.ready && b.ready,
            done_blocks: a.done_blocks + b.done_blocks,
            all_blocks: a.all_blocks + b.all_blocks,
            at_rest: a.at_rest && b.at_rest,
            failed: a.failed + b.failed,
            lost: a.lost + b.lost,
            checked: a.checked + b.checked,
            wrong: a.wrong + b.wrong,
            uncertain: a.uncertain + b.uncertain,
            mistake: a.mistake.or(b.mistake),
        });
        Ok(all.expect("a host has at least one core"))
    }

    /// Lets a moment pass. Errs if the user wants to stop, or the association is given up.
    fn moment(&self) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted", ""));
        }
        match self.host.events().recv_timeout(LOOK) {
            Ok(Event::Failed { reason, .. }) => Err(Failure::new(format!("the host gave up: {reason}"), "")),
            Ok(Event::Down { reason, .. }) => {
                tracing::warn!(%reason, "connection lost; it is made again");
                Ok(())
            }
            Ok(Event::Ready { .. } | Event::Discovered { .. } | Event::Stopped { .. }) | Err(_) => Ok(()),
        }
    }

    fn await_ready(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.standing()?.ready {
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    "the virtual disk did not appear on the connection",
                    "",
                ));
            }
            self.moment()?;
        }
        Ok(())
    }

    /// Waits until nothing is in flight.
    fn await_rest(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !self.standing()?.at_rest {
            if Instant::now() >= deadline {
                return Err(Failure::new("commands do not end", ""));
            }
            self.moment()?;
        }
        Ok(())
    }

    fn await_group(&self, state: GroupState) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = Request::GroupShow(GroupName {
                group: "demo".to_owned(),
            });
            let found = group_state(self.node.call(request))?;
            if found == state {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = format!(
                    "the group is {} and does not become {}",
                    found.name(),
                    state.name()
                );
                return Err(Failure::new(what, ""));
            }
            self.moment()?;
        }
    }

    /// Goes over all blocks.
    fn pass(&self, phase: Phase, what: &'static str) -> Result<(), Failure> {
        self.begin(phase)?;
        let bar = self.bar(what, self.standing()?.all_blocks);
        let mut last = (0, Instant::now());
        loop {
            let standing = self.standing()?;
            bar.set_position(standing.done_blocks);
            if standing.at_rest {
                break;
            }
            if standing.done_blocks > last.0 {
                last = (standing.done_blocks, Instant::now());
            } else if last.1.elapsed() >= PATIENCE {
                return Err(Failure::new(
                    format!("{what}: no progress for {} s", PATIENCE.as_secs()),
                    "",
                ));
            }
            self.moment()?;
        }
        bar.finish_and_clear();
        self.say(&format!(
            "{what}: {} blocks\n",
            last.0.max(self.standing()?.done_blocks)
        ))
    }

    /// Lets the load go on for a while.
    fn load(&self, name: &'static str, time: Duration, what: &'static str) -> Result<Part, Failure> {
        let started = Instant::now();
        let bar = self.bar(what, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        while started.elapsed() < time {
            bar.set_position(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
            self.moment()?;
        }
        let all = self
            .host
            .with_all(|demo, _| demo.take_measured())
            .map_err(silent)?;
        let seconds = started.elapsed().as_secs_f64();
        let mut measured = Measured::new();
        all.iter().for_each(|part| measured.merge(part));
        let part = Part {
            name,
            seconds,
            measured,
        };
        bar.finish_and_clear();
        self.say(&format!(
            "{what}: {} commands in {seconds:.1} s\n",
            part.measured.commands()
        ))?;
        Ok(part)
    }

    /// Fails a drive while the load goes on; the state of the group afterwards.
    fn fail_drive(&self) -> Result<&'static str, Failure> {
        let request = DriveFail {
            group: "demo".to_owned(),
            drive: VICTIM.to_owned(),
            force: false,
        };
        let state = group_state(self.node.call(Request::DriveFail(request)))?;
        self.say(&format!(
            "drive {VICTIM} was failed under load: the group is {}\n",
            state.name()
        ))?;
        if state == GroupState::Degraded {
            Ok(state.name())
        } else {
            Err(Failure::new(
                format!("a failed drive left the group {}", state.name()),
                "report this",
            ))
        }
    }

    /// A progress bar, visible on a terminal only.
    fn bar(&self, what: &'static str, length: u64) -> ProgressBar {
        if !self.say {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %");
        ProgressBar::new(length)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(what)
    }
}

fn silent(error: super::host::HostError) -> Failure {
    Failure::new(error.to_string(), "see the log above")
}

fn group_state(reply: Result<Reply, super::manage::ManageError>) -> Result<GroupState, Failure> {
    match reply {
        Ok(Reply::Group(group)) => Ok(group.state),
        Ok(_) => unreachable!("requests about a group are answered with the group"),
        Err(error) => Err(Failure::new(error.message, error.remedy)),
    }
}

/// Writes the configuration of the node into the folder, so that it can be used again, and reads it.
fn configuration(options: &DemoOptions, folder: &Folder, drive_mib: u32) -> Result<Config, Failure> {
    let mut text = format!(
        "[node]\nname = \"demo\"\n\n[reactor]\ncores = {}\n\n[[listen]]\naddress = \"127.0.0.1:0\"\n",
        options.cores.min(config::CORES_MAX)
    );
    for drive in 0..DRIVES {
        text +=
            &format!("\n[[drive]]\nname = \"d{drive}\"\npath = \"d{drive}.img\"\nsize_mib = {drive_mib}\n");
    }
    text += &format!(
        "\n[[group]]\nname = \"demo\"\ndrives = [\"d0\", \"d1\", \"d2\", \"d3\"]\ncreate = true\n\
         \n[[vdisk]]\nname = \"v0\"\ngroup = \"demo\"\nsize_mib = {}\nnsid = {NSID}\n",
        options.megabytes
    );
    let file = folder.path().join("node.toml");
    std::fs::write(&file, &text)
        .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display()), ""))?;
    config::parse(&text, &file).map_err(|problems| {
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::new(
            format!("the demo's own configuration is wrong: {}", text.join("; ")),
            "report this",
        )
    })
}

/// Starts the host.
fn connect(options: &DemoOptions, address: SocketAddr, nqn: &Nqn, seed: u64) -> Result<Host<Demo>, Failure> {
    let cores = options.cores.min(config::CORES_MAX);
    let hostnqn = Nqn::parse("nqn.2026-01.io.braid:demo-host").expect("it is a valid NQN");
    let mut hostid = [0; 16];
    hostid[..8].copy_from_slice(&seed.to_le_bytes());
    hostid[8..].copy_from_slice(&(!seed).to_le_bytes());
    let target = Target {
        io_queues: cores.saturating_mul(QUEUES_PER_CORE),
        depth: DEPTH,
        header_digest: true,
        data_digest: true,
        ..Target::new(address, nqn.clone(), hostnqn, hostid)
    };
    let reactor = Options {
        cores,
        // The node polls; on a small machine a host that polls too would only take its time.
        poll: PollMode::Interrupt,
        arena_bytes: 64 << 20,
        files_max: 256,
        ..Options::default()
    };
    Host::start(reactor, vec![target], move |core| {
        Demo::new(core.0, cores, NSID, seed)
    })
    .map_err(|error| {
        Failure::new(
            error.to_string(),
            "`braid preflight` says what this machine lacks",
        )
    })
}
