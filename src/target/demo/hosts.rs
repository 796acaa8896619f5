//! The demonstration's hosts: what all of them are asked to do, how far they are and what they measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::PATIENCE;
use super::workload::{Demo, Measured, Phase, Standing};
use crate::target::cli::{Failure, print};
use crate::target::host::{Event, Host, HostError};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// All hosts, and what the user sees of them. Without any they only let time pass.
pub struct Hosts {
    hosts: Vec<Host<Demo>>,
    stop: Arc<AtomicBool>,
    say: bool,
    /// A node is killed: connections are lost, as they have to be.
    pub kills: bool,
}

impl Hosts {
    /// No hosts yet. `stop` is set when the user wants to stop; nothing is printed unless `say`.
    pub const fn new(stop: Arc<AtomicBool>, say: bool) -> Self {
        Self {
            hosts: Vec::new(),
            stop,
            say,
            kills: false,
        }
    }

    /// One more.
    pub fn add(&mut self, host: Host<Demo>) {
        self.hosts.push(host);
    }

    /// Stops all of them.
    pub fn stop(self) -> Result<(), Failure> {
        let mut all = Ok(());
        for host in self.hosts {
            let stopped = host.stop();
            all = all.and(stopped.map_err(|error| Failure::new(error.to_string(), "")));
        }
        all
    }

    /// Tells the user, unless only a program reads.
    pub fn say(&self, text: &str) -> Result<(), Failure> {
        if self.say { print(text) } else { Ok(()) }
    }

    /// Runs `act` on all cores of all hosts; their answers by host.
    fn with_all<R: Send + 'static>(
        &self,
        act: impl Fn(&mut Demo) -> R + Clone + Send + 'static,
    ) -> Result<Vec<Vec<R>>, Failure> {
        let ask = |host: &Host<Demo>| {
            let act = act.clone();
            host.with_all(move |demo, _| act(demo))
        };
        let answers: Result<_, HostError> = self.hosts.iter().map(ask).collect();
        answers.map_err(|error| Failure::new(error.to_string(), "see the log above"))
    }

    /// Starts a phase on all of them.
    pub fn begin(&self, phase: Phase) -> Result<(), Failure> {
        self.with_all(move |demo| demo.begin(phase)).map(drop)
    }

    /// All of them go by this target from now on. Panics if commands are in flight.
    pub fn go_by(&self, target: u16) -> Result<(), Failure> {
        self.with_all(move |demo| demo.go_by(target)).map(drop)
    }

    /// All cores taken together. Panics if there is no host.
    pub fn standing(&self) -> Result<Standing, Failure> {
        let standings = self.with_all(|demo| demo.standing())?;
        let all = standings.into_iter().flatten().reduce(|a, b| Standing {
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

    /// What all cores measured since the last time, by target.
    pub fn measured(&self) -> Result<Vec<Measured>, Failure> {
        let all = self.with_all(Demo::take_measured)?;
        let mut all = all.into_iter().flatten();
        let mut sum = all.next().expect("a host has at least one core");
        for part in all {
            sum.iter_mut().zip(&part).for_each(|(to, from)| to.merge(from));
        }
        Ok(sum)
    }

    /// Commands of the load that were answered so far, by host, core and target.
    pub fn answers(&self) -> Result<Vec<Vec<Vec<u64>>>, Failure> {
        self.with_all(|demo| demo.answers().to_vec())
    }

    /// The longest time between two answers on any core since the last time, by host.
    pub fn longest_waits(&self) -> Result<Vec<Duration>, Failure> {
        let all = self.with_all(Demo::take_longest_wait)?;
        let longest = |cores: Vec<u64>| Duration::from_nanos(cores.into_iter().max().unwrap_or(0));
        Ok(all.into_iter().map(longest).collect())
    }

    /// Lets a moment pass. Errs if the user wants to stop, or an association is given up.
    pub fn moment(&self) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted", ""));
        }
        if self.hosts.is_empty() {
            std::thread::sleep(LOOK);
        }
        for host in &self.hosts {
            match host.events().recv_timeout(LOOK) {
                Ok(Event::Failed { reason, .. }) => {
                    return Err(Failure::new(format!("the host gave up: {reason}"), ""));
                }
                Ok(Event::Down { .. }) if self.kills => {}
                Ok(Event::Down { reason, .. }) => {
                    tracing::warn!(%reason, "connection lost; it is made again");
                }
                Ok(Event::Ready { .. } | Event::Discovered { .. } | Event::Stopped { .. }) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Waits until the virtual disk is there for everybody by all ways.
    pub fn await_ready(&self) -> Result<(), Failure> {
        self.until("the virtual disk did not appear on the connection", |standing| {
            standing.ready
        })
    }

    /// Waits until nothing is in flight.
    pub fn await_rest(&self) -> Result<(), Failure> {
        self.until("commands do not end", |standing| standing.at_rest)
    }

    fn until(&self, otherwise: &str, done: impl Fn(&Standing) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.standing()?) {
            if Instant::now() >= deadline {
                return Err(Failure::new(otherwise, "report this"));
            }
            self.moment()?;
        }
        Ok(())
    }

    /// Goes over all blocks.
    pub fn pass(&self, phase: Phase, what: &'static str) -> Result<(), Failure> {
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
    pub fn load_for(&self, time: Duration, what: &'static str) -> Result<(), Failure> {
        let started = Instant::now();
        let bar = self.bar(what, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        while started.elapsed() < time {
            bar.set_position(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
            self.moment()?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// A progress bar, visible on a terminal only.
    pub fn bar(&self, what: &'static str, length: u64) -> ProgressBar {
        if !self.say {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %");
        ProgressBar::new(length)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(what)
    }
}
