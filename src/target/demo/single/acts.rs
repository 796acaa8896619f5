//! What happens to the only node: a drive fails and is replaced, the node is killed, everything is checked.

use std::time::{Duration, Instant};

use super::super::report::{Kill, Part, Rebuild, Story, Summary};
use super::super::workload::{Measured, Phase};
use super::super::{GROUP, PATIENCE, QUEUES_PER_CORE, VICTIM, group_of};
use super::Stage;
use super::setting::{REPLACEMENT, VICTIM_MEMBER};
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;
use crate::target::manage::{
    BackgroundRequest, DriveFail, DriveReplace, GroupName, GroupScrub, GroupState, GroupStatus, Request,
    ScrubState, ScrubStatus,
};

/// Parts of the load's time, of ten: with all drives, without one, after the node was killed. The rebuild takes its own time.
const HEALTHY: u32 = 4;
const DEGRADED: u32 = 3;
const RESTARTED: u32 = 3;

impl Stage {
    /// The whole demonstration.
    pub fn play(&mut self, options: &DemoOptions, started: Instant) -> Result<Summary, Failure> {
        self.hosts.await_ready()?;
        self.group_until("be healthy", |group| group.state == GroupState::Healthy)?;
        self.hosts.say(&format!(
            "our own initiator is connected: {} queues, header and data digests on\n",
            options.cores * QUEUES_PER_CORE
        ))?;
        self.hosts.pass(Phase::Fill, "writing every block once")?;
        let tenth = Duration::from_secs(u64::from(options.seconds)) / 10;
        self.hosts.begin(Phase::Load)?;
        let healthy = self.load("healthy", tenth * HEALTHY, "random reads and writes")?;
        self.fail_drive()?;
        let degraded = self.load("degraded", tenth * DEGRADED, "the same with one drive failed")?;
        let (rebuilding, rebuild) = self.replace_drive()?;
        let kill = self.kill_node()?;
        let restarted = self.load("restarted", tenth * RESTARTED, "the same after the restart")?;
        self.hosts.begin(Phase::Rest)?;
        self.hosts.await_rest()?;
        let before = self.hosts.standing()?;
        self.hosts.pass(Phase::Check, "reading every block back")?;
        let standing = self.hosts.standing()?;
        let scrub = self.scrub()?;
        Ok(Summary {
            parts: vec![healthy, degraded, rebuilding, restarted],
            checked: standing.checked - before.checked,
            // A block that was wrong during the load counts as well.
            wrong: standing.wrong,
            standing,
            failed_drive: VICTIM.to_owned(),
            story: Story::Single { rebuild, kill, scrub },
            group_state: self.group()?.state.name(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn group(&self) -> Result<GroupStatus, Failure> {
        let group = GROUP.to_owned();
        group_of(self.node.call(&Request::GroupShow(GroupName { group }))?)
    }

    /// Waits until the group is as it should become.
    fn group_until(
        &self,
        what: &str,
        mut done: impl FnMut(&GroupStatus) -> bool,
    ) -> Result<GroupStatus, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let group = self.group()?;
            if done(&group) {
                return Ok(group);
            }
            if Instant::now() >= deadline {
                let what = format!("the group is {} and does not {what}", group.state.name());
                return Err(Failure::new(what, "report this"));
            }
            self.hosts.moment()?;
        }
    }

    /// Lets the load go on for a while.
    fn load(&self, name: &'static str, time: Duration, what: &'static str) -> Result<Part, Failure> {
        self.measured()?;
        let started = Instant::now();
        self.hosts.load_for(time, what)?;
        let part = self.part(name, started)?;
        self.hosts.say(&format!(
            "{what}: {} commands in {:.1} s\n",
            part.measured.commands(),
            part.seconds
        ))?;
        Ok(part)
    }

    /// What all cores measured since the last time; there is one target.
    fn measured(&self) -> Result<Measured, Failure> {
        let mut by_target = self.hosts.measured()?;
        Ok(by_target.swap_remove(0))
    }

    fn part(&self, name: &'static str, started: Instant) -> Result<Part, Failure> {
        let measured = self.measured()?;
        Ok(Part {
            name,
            node: None,
            seconds: started.elapsed().as_secs_f64(),
            measured,
        })
    }

    /// Fails a drive while the load goes on.
    fn fail_drive(&self) -> Result<(), Failure> {
        let request = DriveFail {
            group: GROUP.to_owned(),
            drive: VICTIM.to_owned(),
            force: false,
        };
        let state = group_of(self.node.call(&Request::DriveFail(request))?)?.state;
        self.hosts.say(&format!(
            "drive {VICTIM} was failed under load: the group is {}\n",
            state.name()
        ))?;
        if state == GroupState::Degraded {
            Ok(())
        } else {
            Err(Failure::new(
                format!("a failed drive left the group {}", state.name()),
                "report this",
            ))
        }
    }

    /// Puts another drive into the failed one's place, and waits until it is filled while the load goes on.
    fn replace_drive(&self) -> Result<(Part, Rebuild), Failure> {
        let started = Instant::now();
        self.measured()?;
        let request = DriveReplace {
            group: GROUP.to_owned(),
            member: VICTIM_MEMBER,
            drive: REPLACEMENT.to_owned(),
            force: false,
        };
        let rows = group_of(self.node.call(&Request::DriveReplace(request))?)?.rows;
        self.hosts.say(&format!(
            "drive {REPLACEMENT} takes its place, and is rebuilt under load\n"
        ))?;
        let bar = self.hosts.bar("rebuilding", rows);
        self.group_until("become healthy again", |group| {
            if let Some(process) = &group.background.process {
                bar.set_position(process.rows_done);
            }
            group.state == GroupState::Healthy
        })?;
        bar.finish_and_clear();
        let part = self.part("rebuilding", started)?;
        self.hosts.say(&format!(
            "rebuilt: {rows} rows in {:.1} s, and {} commands meanwhile; the group is healthy\n",
            part.seconds,
            part.measured.commands()
        ))?;
        let seconds = part.seconds;
        Ok((part, Rebuild { rows, seconds }))
    }

    /// Kills the node in the midst of the load, starts it again, and waits until it serves the host, which connects by itself.
    fn kill_node(&mut self) -> Result<Kill, Failure> {
        let lost_before = self.hosts.standing()?.lost;
        let pid = self.node.pid();
        let started = Instant::now();
        self.hosts.kills = true;
        self.node.kill()?;
        self.hosts.say(&format!(
            "kill -9 {pid}: the node is gone in the midst of the load\n"
        ))?;
        self.node.restart(&[self.address])?;
        self.measured()?;
        let deadline = Instant::now() + PATIENCE;
        while self.measured()?.commands() == 0 {
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    "the host is not served after the restart",
                    "report this",
                ));
            }
            self.hosts.moment()?;
        }
        self.hosts.kills = false;
        let seconds = started.elapsed().as_secs_f64();
        let notes = self.node.status()?.notes;
        let replayed = notes
            .into_iter()
            .find(|note| note.contains("journal was replayed"));
        let kill = Kill {
            seconds,
            commands_lost: self.hosts.standing()?.lost - lost_before,
            replayed,
        };
        self.hosts.say(&format!(
            "started again: hosts are served {seconds:.1} s after the kill\n  {}\n  {} commands were under way and never answered\n",
            kill.replayed.as_deref().unwrap_or("nothing was left in the journal"),
            kill.commands_lost
        ))?;
        Ok(kill)
    }

    /// Compares all data with its parity.
    fn scrub(&self) -> Result<ScrubStatus, Failure> {
        let request = GroupScrub {
            group: GROUP.to_owned(),
            repair: false,
        };
        let group = self
            .node
            .call(&Request::Background(BackgroundRequest::Scrub(request)))?;
        let bar = self.hosts.bar("scrubbing", group_of(group)?.rows);
        let group = self.group_until("end its scrub", |group| {
            if let Some(process) = &group.background.process {
                bar.set_position(process.rows_done);
            }
            let scrub = group.background.scrub;
            scrub.is_some_and(|scrub| scrub.state != ScrubState::Running)
        })?;
        bar.finish_and_clear();
        let scrub = group.background.scrub.expect("it was asked for and has ended");
        self.hosts.say(&format!(
            "scrub: {} rows compared with their parity, {} mismatches\n",
            scrub.rows, scrub.mismatches
        ))?;
        Ok(scrub)
    }
}
