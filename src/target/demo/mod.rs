//! `braid demo`: a node with a RAID-5 group on file drives and real NVMe/TCP load on it. Under that load a drive fails and is
//! replaced, and the node is killed and started again; at the end every block is checked. Needs no configuration and
//! no privileges, and leaves nothing behind.

mod acts;
mod folder;
mod process;
mod report;
mod setting;
mod workload;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use self::folder::Folder;
use self::process::Process;
use self::workload::{Demo, Phase, Standing};
use super::cli::options::DemoOptions;
use super::cli::{Failure, print, print_json};
use super::host::{Event, Host};
use super::storage;

/// The only namespace.
const NSID: u32 = 1;
/// How long anything but the load may take without getting on.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the demonstration. Errs if anything went wrong, in particular if a block is lost.
pub fn run(options: DemoOptions) -> Result<(), Failure> {
    let started = Instant::now();
    let stop = stop_flag()?;
    let mut stage = Stage::set(&options, stop)?;
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
    node: Process,
    folder: Folder,
    stop: Arc<AtomicBool>,
    say: bool,
    /// The node is killed: connections are lost, as they have to be.
    kills: bool,
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
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let nqn = setting::write_configuration(options, folder.path(), any_port)?;
        let say = !options.json;
        if say {
            print(&format!(
                "{} file drives of {} MiB in {}\none RAID-5 group of the first {}, one virtual disk of {} MiB\n",
                setting::DRIVES + 1,
                setting::drive_mib(options.megabytes),
                folder.path().display(),
                setting::DRIVES,
                options.megabytes
            ))?;
        }
        let node = Process::start(folder.path())?;
        let address = node.address()?;
        // A host connects again to where it was connected.
        setting::write_configuration(options, folder.path(), address)?;
        if say {
            print(&format!(
                "a node serves it on {} cores (process {}); Linux would connect with\n  nvme connect -t tcp -a {} -s {} -n {nqn}\n",
                options.cores,
                node.pid(),
                address.ip(),
                address.port(),
            ))?;
        }
        let host = setting::connect(options, address, &nqn, seed)?;
        Ok(Self {
            host,
            node,
            folder,
            stop,
            say,
            kills: false,
        })
    }

    /// Stops both ends and removes the folder.
    fn strike(self) -> Result<(), Failure> {
        let host = self
            .host
            .stop()
            .map_err(|error| Failure::new(error.to_string(), ""));
        let node = self.node.stop();
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
            Ok(Event::Down { .. }) if self.kills => Ok(()),
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
