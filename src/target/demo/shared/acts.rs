//! What happens to the two nodes: one is killed and comes back, a drive fails, everything is checked through both.

use std::time::{Duration, Instant};

use super::super::report::{Failover, Part, Story, Summary};
use super::super::workload::Phase;
use super::super::{GROUP, PATIENCE, QUEUES_PER_CORE, VICTIM, group_of};
use super::Stage;
use super::setting::{self, NODE_COUNT, NODES};
use crate::target::cli::Failure;
use crate::target::cli::options::DemoOptions;
use crate::target::manage::{DriveFail, GroupName, GroupState, Request};

/// Slot of the node that is killed, and of the other one.
const KILLED: u8 = 0;
const SURVIVOR: u8 = 1;

/// A part of the load.
struct Span {
    name: &'static str,
    /// As it is told.
    what: &'static str,
    /// How long, in tenths of the load's time; dying and coming back take their own time.
    tenths: u32,
    /// Slots of the nodes that serve meanwhile.
    slots: &'static [u8],
}

const BOTH: Span = Span {
    name: "both nodes",
    what: "random reads and writes through both nodes",
    tenths: 3,
    slots: &[0, 1],
};
const ONE: Span = Span {
    name: "one killed",
    what: "since the kill",
    tenths: 2,
    slots: &[SURVIVOR],
};
const AGAIN: Span = Span {
    name: "both again",
    what: "since it was started again",
    tenths: 2,
    slots: &[0, 1],
};
const DEGRADED: Span = Span {
    name: "degraded",
    what: "the same with one drive failed",
    tenths: 3,
    slots: &[0, 1],
};
const _: () = assert!(BOTH.tenths + ONE.tenths + AGAIN.tenths + DEGRADED.tenths == 10);

impl Stage {
    /// The whole demonstration.
    pub fn play(&mut self, options: &DemoOptions, started: Instant) -> Result<Summary, Failure> {
        self.hosts.await_ready()?;
        self.hosts.say(&format!(
            "our own initiator is connected: {NODE_COUNT} hosts with {} queues to each node, header and data digests on\n",
            setting::cores(options) * QUEUES_PER_CORE
        ))?;
        self.hosts.pass(
            Phase::Fill,
            "writing every block once, half of them through each node",
        )?;
        let tenth = Duration::from_secs(u64::from(options.seconds)) / 10;
        self.hosts.begin(Phase::Load)?;
        self.hosts.measured()?;
        let mut parts = self.load(&BOTH, Instant::now(), tenth)?;
        let since = Instant::now();
        let mut failover = self.kill_node()?;
        parts.extend(self.load(&ONE, since, tenth)?);
        self.compared()?;
        let since = Instant::now();
        self.start_again(&mut failover)?;
        parts.extend(self.load(&AGAIN, since, tenth)?);
        self.fail_drive()?;
        parts.extend(self.load(&DEGRADED, Instant::now(), tenth)?);
        self.hosts.begin(Phase::Rest)?;
        self.hosts.await_rest()?;
        let before = self.hosts.standing()?;
        self.hosts.go_by(0)?;
        self.hosts
            .pass(Phase::Check, "reading every block back through n0")?;
        self.hosts.go_by(1)?;
        self.hosts
            .pass(Phase::Check, "reading every block back through n1")?;
        let standing = self.hosts.standing()?;
        self.await_open(&[0, 1])?;
        Ok(Summary {
            parts,
            checked: standing.checked - before.checked,
            // A block that was wrong during the load counts as well.
            wrong: standing.wrong,
            standing,
            failed_drive: VICTIM.to_owned(),
            story: Story::Shared { failover },
            group_state: self.group_state()?.name(),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Lets the load go on for a while. Returns what each node did since the part began.
    fn load(&self, span: &Span, since: Instant, tenth: Duration) -> Result<Vec<Part>, Failure> {
        self.hosts.load_for(tenth * span.tenths, span.what)?;
        let seconds = since.elapsed().as_secs_f64();
        let by_node = (0..).zip(self.hosts.measured()?);
        // Of a node that was killed, answers may have been under way to its hosts.
        let parts = by_node
            .filter(|(slot, _)| span.slots.contains(slot))
            .map(|(slot, measured)| Part {
                name: span.name,
                node: Some(NODES[usize::from(slot)]),
                seconds,
                measured,
            });
        let parts: Vec<Part> = parts.collect();
        let counts = parts.iter().map(|part| {
            format!(
                "{} commands by {}",
                part.measured.commands(),
                part.node.unwrap_or_default()
            )
        });
        let counts: Vec<String> = counts.collect();
        self.hosts.say(&format!(
            "{}: {} in {seconds:.1} s\n",
            span.what,
            counts.join(", ")
        ))?;
        Ok(parts)
    }

    /// Kills a node in the midst of the load, and waits until all hosts are answered by the other one.
    fn kill_node(&mut self) -> Result<Failover, Failure> {
        let killed = usize::from(KILLED);
        let lost_before = self.hosts.standing()?.lost;
        let pid = self.nodes[killed].pid();
        self.hosts.longest_waits()?;
        self.hosts.kills = true;
        let killed_at = Instant::now();
        self.nodes[killed].kill()?;
        self.hosts.say(&format!(
            "kill -9 {pid}: {} is gone in the midst of the load\n",
            NODES[killed]
        ))?;
        self.await_open(&[SURVIVOR])?;
        let open = killed_at.elapsed();
        let epoch = self.array(SURVIVOR)?.epoch;
        self.hosts.say(&format!(
            "{:.1} s later epoch {epoch} is open, of {} alone: {}'s way to the drives is fenced, its lease is over, and what its journal had is in place\n",
            open.as_secs_f64(),
            NODES[usize::from(SURVIVOR)],
            NODES[killed]
        ))?;
        self.await_answers()?;
        let waits = self.hosts.longest_waits()?;
        let failover = Failover {
            node: NODES[killed],
            epoch,
            open,
            its_hosts: waits[killed],
            other_hosts: waits[usize::from(SURVIVOR)],
            commands_lost: self.hosts.standing()?.lost - lost_before,
            back: Duration::ZERO,
            wait_for_back: Duration::ZERO,
        };
        self.hosts.say(&format!(
            "its hosts go by {}: the longest time without an answer was {:.1} s for them and {:.1} s for the others\n  {} commands were under way and never answered\n",
            NODES[usize::from(SURVIVOR)],
            failover.its_hosts.as_secs_f64(),
            failover.other_hosts.as_secs_f64(),
            failover.commands_lost
        ))?;
        Ok(failover)
    }

    /// Says what hosts have read so far.
    fn compared(&self) -> Result<(), Failure> {
        let standing = self.hosts.standing()?;
        self.hosts.say(&format!(
            "{} blocks were read and compared so far, {} of them lost or wrong\n",
            standing.checked, standing.wrong
        ))
    }

    /// Waits until every core of every host is answered once more.
    fn await_answers(&self) -> Result<(), Failure> {
        let before = self.hosts.answers()?;
        self.answers_until("all hosts", |now| {
            let cores = before.iter().flatten().zip(now.iter().flatten());
            let mut totals = cores.map(|(before, now)| (before.iter().sum::<u64>(), now.iter().sum::<u64>()));
            totals.all(|(before, now)| now > before)
        })
    }

    fn answers_until(&self, whom: &str, done: impl Fn(&[Vec<Vec<u64>>]) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !done(&self.hosts.answers()?) {
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    format!("{whom} are not answered any more"),
                    "report this",
                ));
            }
            self.hosts.moment()?;
        }
        Ok(())
    }

    /// Starts the killed node again, and waits until it serves the hosts that were its own.
    fn start_again(&mut self, failover: &mut Failover) -> Result<(), Failure> {
        let killed = usize::from(KILLED);
        let started = Instant::now();
        self.hosts.longest_waits()?;
        self.nodes[killed].restart(&self.places.of_node(killed))?;
        self.await_open(&[0, 1])?;
        let by_node = |answers: &[Vec<Vec<u64>>]| -> u64 {
            answers.iter().flatten().map(|by_target| by_target[killed]).sum()
        };
        let before = by_node(&self.hosts.answers()?);
        self.answers_until("the hosts of the node that is back", |now| by_node(now) > before)?;
        self.hosts.kills = false;
        failover.back = started.elapsed();
        let waits = self.hosts.longest_waits()?;
        failover.wait_for_back = waits.into_iter().max().unwrap_or_default();
        self.hosts.say(&format!(
            "{} is started again, and serves its hosts after {:.1} s; meanwhile no host was without an answer for more than {:.1} s\n",
            NODES[killed],
            failover.back.as_secs_f64(),
            failover.wait_for_back.as_secs_f64()
        ))
    }

    /// Fails a drive while the load goes on, by the node that leads the group.
    fn fail_drive(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let why = match self.try_fail_drive()? {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if Instant::now() >= deadline {
                let what = format!("no node fails a drive of the group: {why}");
                return Err(Failure::new(what, "report this"));
            }
            self.hosts.moment()?;
        }
    }

    /// Asks each node once. Returns why neither of them does it.
    fn try_fail_drive(&self) -> Result<Result<(), String>, Failure> {
        let request = Request::DriveFail(DriveFail {
            group: GROUP.to_owned(),
            drive: VICTIM.to_owned(),
            force: false,
        });
        let mut refusals = Vec::new();
        for node in &self.nodes {
            match node.call(&request).and_then(group_of) {
                Ok(group) if group.state == GroupState::Degraded => {
                    self.hosts.say(&format!(
                        "drive {VICTIM} was failed under load, by {}: the group is {}\n",
                        node.name(),
                        group.state.name()
                    ))?;
                    return Ok(Ok(()));
                }
                Ok(group) => refusals.push(format!("{}: it is {}", node.name(), group.state.name())),
                Err(error) => refusals.push(format!("{}: {}", node.name(), error.what)),
            }
        }
        Ok(Err(refusals.join("; ")))
    }

    /// What both nodes say of the group.
    fn group_state(&self) -> Result<GroupState, Failure> {
        let request = Request::GroupShow(GroupName {
            group: GROUP.to_owned(),
        });
        let mut states = Vec::new();
        for node in &self.nodes {
            states.push(group_of(node.call(&request)?)?.state);
        }
        if states.iter().all(|state| *state == states[0]) {
            return Ok(states[0]);
        }
        let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
        let what = format!("the nodes do not agree on the group: {}", names.join(", "));
        Err(Failure::new(what, "report this"))
    }
}
