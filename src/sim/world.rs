//! The world of one run: clock, drives, node, hosts, and what happens to them when.
//!
//! Owns the one queue of everything that will happen, in virtual nanoseconds. A step takes the first event, hands
//! it to whom it concerns, and queues what comes of it. Power cuts, stops and drive faults come by the number of
//! host commands, so that a scenario with fewer commands still has them.

mod audit;
mod life;
mod orders;
mod restore;
mod sweep;

pub use sweep::{Hole, Manner, Outcome, Step, Swept, Thoroughness, sweep, sweep_noting};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::drive::{Command, Drive, Trouble};
use super::history::{Contradiction, Durability, Ended, History, Wish};
use super::host::{self, Order};
use super::node::{Asker, Effect, Mail, Node};
use super::random::{Random, mix};
use super::replaying::Replaying;
use super::scenario::{OperatorWish, Scenario};
use super::stamp::{BLOCK_BYTES, Content, recognise};
use super::trace::{Trace, digest_of};
use crate::amf::engine::GroupError;
use crate::amf::group::Group;
use crate::amf::replication::ReplicationMode;
use crate::drive::block::NamespaceLba;
use crate::vdisk::VirtualDisk;

/// Events of one run; a run that needs more has got stuck. The longest have some 20,000.
const EVENTS_MAX: u64 = 400_000;
/// How often the control core looks after what waits.
const TICK_NS: u64 = 5_000_000;
/// After this long the node gives up on a drive that does not answer.
const HANG_NS: u64 = 20_000_000;
/// How long nothing may be heard by any host: far longer than a drive that hangs and the longest resynchronisation.
const SILENCE_NS: u64 = 2_000_000_000;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Answers to hosts fit no order of their commands (I7, I8, I9, I16).
    Contradiction(Contradiction),
    /// A command failed although the group survives what was lost.
    Unavailable(String),
    /// The group was refused although enough of it is there.
    Refused(String),
    /// With these members lost, a block reads something else (I5, I6).
    Redundancy(String),
    /// Something waits for ever (I19).
    Stuck(String),
    /// An assertion of our own code did not hold.
    Panic(String),
}

impl Violation {
    /// What kind it is, for comparing two runs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Contradiction(_) => "contradiction",
            Self::Unavailable(_) => "unavailable",
            Self::Refused(_) => "refused",
            Self::Redundancy(_) => "redundancy",
            Self::Stuck(_) => "stuck",
            Self::Panic(_) => "panic",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradiction(contradiction) => write!(f, "{contradiction}"),
            Self::Unavailable(what)
            | Self::Refused(what)
            | Self::Redundancy(what)
            | Self::Stuck(what)
            | Self::Panic(what) => write!(f, "{}: {what}", self.kind()),
        }
    }
}

/// How a run ended that was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything was done and audited.
    Audited,
    /// The group has failed, as it had to.
    GroupFailed,
    /// The group was refused, as it had to be.
    Refused,
    /// Blocks cannot be read while check data are not believed, so that the synchronisation cannot end.
    NotSynchronised,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Digest of everything that happened.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Commands of hosts.
    pub commands: u32,
    /// Of these, with an error.
    pub failed: u32,
    /// Commands of drives.
    pub drive_commands: u64,
    /// Power cuts.
    pub cuts: u32,
    /// Starts of the node.
    pub starts: u32,
    /// Sets of lost members with which everything was read again.
    pub audits: u32,
    /// Expansions that came to their end.
    pub expansions: u16,
    /// Rebuilds that were limited to marked rows.
    pub partial_rebuilds: u16,
    /// Starts at which an operator accepted that writes are lost.
    pub losses: u16,
    /// How it ended.
    pub ending: Ending,
    /// Virtual time in nanoseconds.
    pub time_ns: u64,
    /// What happened, line by line, if that was asked for.
    pub lines: Vec<String>,
}

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A drive carries out a command.
    Drive { drive: u16, number: u64 },
    /// The node gives a command of a drive up, if it is still under way.
    Overdue { drive: u16, number: u64 },
    /// A message arrives.
    Mail { to: u16, mail: Mail },
    /// A host asks.
    Host { host: u16 },
    /// The control core looks after what waits.
    Tick,
    /// The power fails.
    Cut,
    /// The node starts.
    Boot,
    /// The background work goes on.
    Wake,
    /// An operator wants something.
    Order(OperatorWish),
}

/// A host's command under way.
#[derive(Clone, Copy, Debug)]
struct Underway {
    host: u16,
    wish: Wish,
    lba: u64,
    /// When it came.
    since: u64,
    /// Check data were not believed when it came, so that a lost block could not be had.
    untrusted: bool,
}

/// What the run is waiting for, in order of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Somebody says what hosts ask, and when the node closes.
    Scripted,
    /// Hosts ask.
    Running,
    /// Hosts ask nothing more; when all is answered the node is closed.
    Draining,
    /// The node closes.
    Closing,
    /// Hosts ask nothing more, and whatever goes on comes to its end.
    Settling,
    /// Every row is looked at by the node; then comes the audit.
    Scrubbing,
    /// Over.
    Over(Ending),
}

/// One run.
pub struct World {
    scenario: Scenario,
    random: Random,
    now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    drives: Vec<Drive>,
    /// Who waits for a drive's command.
    askers: BTreeMap<u64, (u16, Asker)>,
    drive_commands: u64,
    /// Stands for everything that drives were asked, but for the data.
    control: u64,
    /// When the last message between two cores arrives: they stay in order.
    mailed: BTreeMap<(u16, u16), u64>,
    node: Option<Node>,
    /// The replay of the journal, or what comes before that, before there is a node.
    replaying: Option<Replaying>,
    /// The group whose superblocks say what was restored, before its journal is replayed.
    restoring: Option<Group>,
    history: Option<History>,
    underway: BTreeMap<u32, Underway>,
    stage: Stage,
    issued: u32,
    failed: u32,
    next_stop: usize,
    next_fault: usize,
    next_order: usize,
    /// Drives that are not there in this life.
    away: u32,
    /// Drives that this start does without, because it could not read them.
    unreadable: u32,
    /// Drives that have missed what a replay wrote without them, as a mask.
    left_out: u32,
    /// Members that are out of the group, or may be.
    harmed: u32,
    /// Members that somebody has ordered out of the group since they were rebuilt last.
    leaving: u32,
    /// Members that could not give back some blocks. They are not out for that, but a row may miss what they cannot give.
    doubtful: u32,
    /// Of more members than the group survives something was missing at a time.
    was_too_much: bool,
    /// The drive of each member, as far as is known.
    seats: Vec<Option<u16>>,
    /// Numbers of members that the group may have.
    widths: BTreeSet<u8>,
    /// What the node's background work has brought about.
    background_done: u64,
    /// What is still to happen after this start, the last thing first.
    afterwards: Vec<Step>,
    /// The power fails when so many more drive commands have been carried out.
    fuse: Option<u16>,
    cuts: u32,
    starts: u32,
    audits: u32,
    expansions: u16,
    partial_rebuilds: u16,
    losses: u16,
    /// The operator accepts that writes are lost, for this start.
    accepts_loss: bool,
    /// When a host was last told something, or the node started.
    heard: u64,
    trace: Trace,
    violation: Option<Violation>,
}

/// Runs a scenario. The same scenario always gives the same report.
pub fn run(scenario: &Scenario, readable: bool) -> (Report, Option<Violation>) {
    let mut world = World::new(scenario.clone(), readable);
    world.go_on();
    let report = Report {
        trace: world.trace.digest(),
        events: world.trace.events(),
        commands: world.issued,
        failed: world.failed,
        drive_commands: world.drive_commands,
        cuts: world.cuts,
        starts: world.starts,
        audits: world.audits,
        expansions: world.expansions,
        partial_rebuilds: world.partial_rebuilds,
        losses: world.losses,
        ending: match world.stage {
            Stage::Over(ending) => ending,
            Stage::Scripted
            | Stage::Running
            | Stage::Draining
            | Stage::Closing
            | Stage::Settling
            | Stage::Scrubbing => Ending::Audited,
        },
        time_ns: world.now,
        lines: world.trace.into_lines(),
    };
    (report, world.violation)
}

impl World {
    fn new(scenario: Scenario, readable: bool) -> Self {
        assert!(
            scenario.is_sound(),
            "an unsound scenario cannot be run: {scenario}"
        );
        let bytes = super::node::drive_bytes(&scenario);
        // Where nothing closes the write hole, drives write a block of the group as a whole.
        let atom = if scenario.is_journaled() {
            1
        } else {
            scenario.block as usize / BLOCK_BYTES
        };
        let mut junk = Random::new(scenario.seed, 4);
        let drives = (0..scenario.drives()).map(|_| {
            let mut drive = Drive::new(bytes, scenario.cache, atom);
            if !scenario.zeroed {
                drive.soil(&mut junk);
            }
            drive
        });
        Self {
            random: Random::new(scenario.seed, 2),
            drives: drives.collect(),
            seats: vec![None; usize::from(scenario.members_max())],
            widths: BTreeSet::from([scenario.members]),
            background_done: 0,
            next_order: 0,
            scenario,
            now: 0,
            queue: BTreeMap::new(),
            queued: 0,
            askers: BTreeMap::new(),
            drive_commands: 0,
            control: 0,
            mailed: BTreeMap::new(),
            node: None,
            replaying: None,
            restoring: None,
            history: None,
            underway: BTreeMap::new(),
            stage: Stage::Running,
            issued: 0,
            failed: 0,
            next_stop: 0,
            next_fault: 0,
            away: 0,
            unreadable: 0,
            left_out: 0,
            harmed: 0,
            leaving: 0,
            afterwards: Vec::new(),
            doubtful: 0,
            was_too_much: false,
            fuse: None,
            cuts: 0,
            starts: 0,
            audits: 0,
            expansions: 0,
            partial_rebuilds: 0,
            losses: 0,
            accepts_loss: false,
            heard: 0,
            trace: Trace::new(readable),
            violation: None,
        }
    }

    /// Starts the node, and goes on to the end.
    fn go_on(&mut self) {
        self.later(0, Event::Boot);
        while self.violation.is_none() && !matches!(self.stage, Stage::Over(_)) {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                return self.violate(Violation::Stuck("nothing will ever happen any more".to_owned()));
            };
            self.now = at;
            self.step(event);
            if self.stage == Stage::Scripted {
                self.follow_script();
            }
            let silent = self.now > self.heard + SILENCE_NS;
            if silent && self.waits_for_unreadable() {
                self.stage = Stage::Over(Ending::NotSynchronised);
            } else if silent || self.trace.events() > EVENTS_MAX {
                let node = self.node.as_ref().map(Node::unfinished).unwrap_or_default();
                let what = format!("{:?} does not end: {:?}; {node}", self.stage, self.underway);
                return self.violate(Violation::Stuck(what));
            }
        }
        if self.violation.is_none()
            && let Some(history) = &self.history
            && let Err(contradiction) = history.judge()
        {
            self.violate(Violation::Contradiction(contradiction));
        }
    }

    fn violate(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), event);
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Drive { drive, number } => self.drive_acts(drive, number),
            Event::Overdue { drive, number } => self.give_drive_up(drive, number),
            Event::Mail { to, mail } => {
                self.trace.note(&[self.now, 2, u64::from(to)], || {
                    format!("{} core {to} gets {mail:?}", self.now)
                });
                self.with_node(|node, out| node.deliver(to, mail, out));
            }
            Event::Host { host } => self.host_asks(host),
            Event::Tick => {
                self.with_node(Node::tick);
                if self.node.is_some() {
                    self.later(TICK_NS, Event::Tick);
                }
                self.look_at_background();
                self.look_around();
            }
            Event::Cut => self.cut(),
            Event::Boot => self.boot(),
            Event::Wake => self.with_node(Node::background_wake),
            Event::Order(wish) => self.operate(wish),
        }
    }

    /// Lets the node do something, and carries out what it wants.
    fn with_node(&mut self, act: impl FnOnce(&mut Node, &mut Vec<Effect>)) {
        let Some(node) = &mut self.node else { return };
        let mut effects = Vec::new();
        node.set_now(self.now);
        act(node, &mut effects);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Drive {
                    drive,
                    command,
                    asker,
                } => self.ask_drive(drive, command, asker),
                Effect::Mail { from, to, mail } => self.post(from, to, mail),
                Effect::Done {
                    command,
                    result,
                    data,
                } => self.host_is_told(command, result, &data),
                Effect::Started => self.hosts_begin(),
                Effect::WakeAt(at) => self.later(at.saturating_sub(self.now), Event::Wake),
                Effect::Rebuilt(member) => self.member_rebuilt(member),
                Effect::PartialRebuild => self.partial_rebuilds += 1,
                Effect::Expanded => self.expansions += 1,
                Effect::Grown => self.disks_grow(),
                Effect::Evicted(member) => self.put_out(1 << member.0),
                Effect::Stopped { clean } => self.node_stopped(clean),
            }
        }
    }

    fn post(&mut self, from: u16, to: u16, mail: Mail) {
        let delay = if self.random.chance(5) {
            self.random.below(200_000)
        } else {
            self.random.below(4_000)
        };
        let last = self.mailed.get(&(from, to)).copied().unwrap_or(0);
        let at = (self.now + delay).max(last);
        self.mailed.insert((from, to), at);
        self.later(at - self.now, Event::Mail { to, mail });
    }

    fn ask_drive(&mut self, drive: u16, command: Command, asker: Asker) {
        let number = self.drive_commands;
        self.drive_commands += 1;
        let usual = match &command {
            Command::Read { .. } => 60_000,
            Command::Write { .. } => 100_000,
            Command::Flush => 400_000,
        };
        let delay = match self.random.below(100) {
            0..3 => usual * 20,
            3..40 => usual / 4,
            _ => usual,
        };
        let delay = 2_000 + self.random.below(delay);
        let at = usize::from(drive);
        let (kind, lba, blocks) = match &command {
            Command::Read { lba, blocks } => (0, *lba, u64::from(*blocks)),
            Command::Write { lba, data, fua } => (1 + u64::from(*fua), *lba, data.len() as u64),
            Command::Flush => (3, 0, 0),
        };
        for word in [u64::from(drive) << 2 | kind, lba, blocks, self.now] {
            self.control = mix(self.control ^ word);
        }
        self.drives[at].submit(number, command);
        self.askers.insert(number, (drive, asker));
        if self.drives[at].trouble() == Some(Trouble::Hang) {
            self.later(HANG_NS, Event::Overdue { drive, number });
        } else {
            self.later(delay, Event::Drive { drive, number });
        }
    }

    fn drive_acts(&mut self, drive: u16, number: u64) {
        if self.drives[usize::from(drive)].trouble() == Some(Trouble::Hang) {
            return self.later(HANG_NS, Event::Overdue { drive, number });
        }
        let result = self.drives[usize::from(drive)].carry_out(number);
        let digest = match &result {
            Ok(data) => data
                .iter()
                .fold(0, |digest, block| mix(digest ^ digest_of(&block.bytes()[..8]))),
            Err(_) => u64::MAX,
        };
        let (_, asker) = self.askers.remove(&number).expect("a command has an asker");
        self.trace
            .note(&[self.now, 1, u64::from(drive), number, digest], || {
                let ok = result.as_ref().map(Vec::len);
                format!("{} drive {drive} answers {asker:?}: {ok:?}", self.now)
            });
        self.answer(asker, result);
        self.burn_fuse();
    }

    fn answer(&mut self, asker: Asker, result: Result<Vec<super::stamp::Block>, crate::drive::DriveError>) {
        match asker {
            Asker::Engine { core, io } => self.with_node(|node, out| node.drive_done(core, io, result, out)),
            Asker::Superblock(io) => {
                let result = result.map(|_| ());
                if self.restoring.is_some() {
                    return self.restore_written(io, result);
                }
                self.with_node(|node, out| node.superblock_done(io, result, out));
            }
            Asker::Replay(io) => self.replay_answered(io, result),
            Asker::Nobody => {}
        }
        self.look_around();
    }

    /// A drive has been silent for too long: its commands count as failed, whatever it still does with them.
    fn give_drive_up(&mut self, drive: u16, number: u64) {
        let Some((_, asker)) = self.askers.remove(&number) else {
            return;
        };
        if self.random.chance(50) {
            self.drives[usize::from(drive)].carry_out_late(number);
        } else {
            self.drives[usize::from(drive)].forget(number);
        }
        self.trace.note(&[self.now, 3, u64::from(drive), number], || {
            format!("{} drive {drive} is given up for {asker:?}", self.now)
        });
        self.answer(asker, Err(crate::drive::DriveError::Gone));
    }

    /// The countdown to a power cut goes on.
    fn burn_fuse(&mut self) {
        let Some(left) = &mut self.fuse else { return };
        *left -= 1;
        if *left == 0 {
            self.fuse = None;
            self.later(0, Event::Cut);
        }
    }
}

// Hosts.
impl World {
    fn hosts_begin(&mut self) {
        let disks = self.node.as_ref().map_or(&[] as &[_], Node::disks);
        if disks.is_empty() {
            // The group failed before it had a disk.
            self.stage = Stage::Over(Ending::GroupFailed);
            return;
        }
        if self.history.is_none() {
            let blocks = disks.iter().map(VirtualDisk::blocks).sum();
            let durability = if self.scenario.is_in_memory() {
                Durability::Confessed
            } else if self.scenario.is_journaled() {
                Durability::Acknowledged
            } else {
                Durability::Flushed
            };
            let initial = if self.scenario.zeroed {
                Content::Zeroes
            } else {
                Content::Garbage
            };
            self.history = Some(History::new(blocks, durability, initial));
        }
        self.disks_grow();
        for host in 0..self.scenario.hosts {
            for _ in 0..self.scenario.depth {
                let delay = self.random.below(50_000);
                self.later(delay, Event::Host { host });
            }
        }
        self.look_around();
    }

    /// Disks may have got larger: what is new is empty.
    fn disks_grow(&mut self) {
        let (Some(node), Some(history)) = (&self.node, &mut self.history) else {
            return;
        };
        let blocks: u64 = node.disks().iter().map(VirtualDisk::blocks).sum();
        let (before, is_over) = (history.len(), node.layout().is_over());
        history.grow(blocks.max(before));
        // The next expansion may have begun before anybody looked.
        let had = node.layout().oldest().capacity_blocks();
        if blocks < before || blocks > before.max(had) && !is_over {
            let what = format!("disks of {before} blocks have {blocks}, and expansion over is {is_over}");
            self.violate(Violation::Unavailable(what));
        }
    }

    fn host_asks(&mut self, host: u16) {
        if self.stage != Stage::Running {
            return;
        }
        let busy = self
            .underway
            .values()
            .filter(|underway| underway.host == host)
            .count();
        if busy >= usize::from(self.scenario.depth) {
            return;
        }
        self.issued += 1;
        self.things_happen();
        self.orders_come();
        if self.random.chance(1) {
            self.host_gives_up(host);
        }
        let history = self.history.as_mut().expect("hosts begin when there is a disk");
        let node = self.node.as_ref().expect("hosts ask a node that runs");
        let span = history.len().min(u64::from(self.scenario.span));
        let mut question = host::question(&mut self.random, history, span, node.geometry().row_blocks());
        let (_, _, left) = node.locate(question.lba);
        question.blocks = u32::try_from(left).map_or(question.blocks, |left| question.blocks.min(left));
        self.ask(host, question);
        if self.issued >= self.scenario.commands {
            self.settle();
        }
        self.look_around();
    }

    /// A host asks this.
    fn ask(&mut self, host: u16, question: host::Question) {
        let history = self.history.as_mut().expect("hosts begin when there is a disk");
        let node = self.node.as_ref().expect("hosts ask a node that runs");
        let host::Question { wish, lba, blocks } = question;
        let command = history.begin(wish, lba, blocks);
        let untrusted = node.members().is_none_or(|members| !members.parity.regenerates());
        self.underway.insert(
            command,
            Underway {
                host,
                wish,
                lba,
                since: self.now,
                untrusted,
            },
        );
        let core = u16::try_from(self.random.below(u64::from(self.scenario.cores))).expect("few cores");
        self.trace
            .note(&[self.now, 4, u64::from(host), u64::from(command), lba], || {
                format!(
                    "{} host {host} asks core {core} for command {command}: {wish:?} {lba}+{blocks}",
                    self.now
                )
            });
        self.submit(core, command, wish, lba, blocks);
    }

    fn submit(&mut self, core: u16, command: u32, wish: Wish, lba: u64, blocks: u32) {
        let node = self.node.as_ref().expect("hosts ask a node that runs");
        let (disk, there, _) = node.locate(lba);
        let at = disk
            .group_range(NamespaceLba(there), u64::from(blocks))
            .expect("hosts stay inside the disk");
        let order = Order {
            command,
            question: host::Question { wish, lba, blocks },
            place: (at, disk.group_end()),
        };
        let buffers = order.buffers(self.scenario.block as usize);
        let request = |write| order.request(write, ReplicationMode::Sync);
        self.with_node(|node, out| node.submit(core, command, request, buffers, out));
    }

    /// A host loses its connection: what it has under way is given up.
    fn host_gives_up(&mut self, host: u16) {
        let own = self.underway.iter().filter(|(_, underway)| underway.host == host);
        let commands: Vec<u32> = own.map(|(command, _)| *command).collect();
        for command in commands {
            self.with_node(|node, out| node.give_up(command, out));
        }
    }

    fn host_is_told(&mut self, command: u32, result: Result<(), GroupError>, data: &[u8]) {
        let Some(Underway {
            host,
            wish,
            lba,
            since,
            untrusted,
        }) = self.underway.remove(&command)
        else {
            unreachable!("a host is told once")
        };
        self.heard = self.now;
        if let Some(node) = &mut self.node {
            node.host_waited(self.now - since);
        }
        let ended = match result {
            Ok(()) => Ended::Done,
            Err(GroupError::CompareFailed | GroupError::FusedCompareFailed) => Ended::Differed,
            Err(_) => Ended::Failed,
        };
        let seen: Vec<Content> = if wish == Wish::Read && ended == Ended::Done {
            let blocks = data.chunks(self.scenario.block as usize).zip(lba..);
            blocks.map(|(bytes, lba)| recognise(bytes, lba)).collect()
        } else {
            Vec::new()
        };
        self.trace
            .note(&[self.now, 5, u64::from(command), digest_of(data)], || {
                format!("{} command {command} ends: {result:?} {seen:?}", self.now)
            });
        let history = self.history.as_mut().expect("it has begun");
        history.end(command, ended, &seen);
        if let Err(error) = result {
            self.judge_error(command, error, untrusted);
        }
        let delay = if self.random.chance(70) {
            self.random.below(20_000)
        } else {
            self.random.below(400_000)
        };
        self.later(delay, Event::Host { host });
    }

    /// A command may fail only if it was given up, or if more is lost than the group survives.
    fn judge_error(&mut self, command: u32, error: GroupError, untrusted: bool) {
        match error {
            GroupError::CompareFailed | GroupError::FusedCompareFailed | GroupError::Aborted => return,
            GroupError::NotServed => unreachable!("no node shares its groups here"),
            // Check data are not believed after an unclean stop: a block of a member that is lost then is lost, too.
            GroupError::TooManyMembersLost
            | GroupError::ParityNotTrusted
            | GroupError::MemberFailed
            | GroupError::Unreadable => {}
            GroupError::TooLong | GroupError::OutOfRange => {
                let what = format!("command {command} is refused: {error}");
                return self.violate(Violation::Unavailable(what));
            }
        }
        self.failed += 1;
        let node = self.node.as_ref().expect("the node has answered");
        let missing = self.harmed | self.doubtful;
        // What was lost once stays so until it is written.
        let may_be_lost = error == GroupError::Unreadable && self.was_too_much;
        if node.survives(missing) && !untrusted && !may_be_lost {
            let what = format!("command {command} failed: {error}; harmed members: {missing:b}");
            self.violate(Violation::Unavailable(what));
        }
    }
}
