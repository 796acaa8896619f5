//! What is simulated: a plain value that follows from a seed, can be written down, and can be made smaller.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::drive::Trouble;
use super::random::Random;
use crate::amf::geometry::Level;
use crate::amf::group::drives_min;

/// Commands of one host that are under way at once, at most.
pub const DEPTH_MAX: u16 = 16;

/// One run. Everything that happens in it follows from this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Decides everything that the other fields leave open.
    pub seed: u64,
    /// Level of the group.
    pub level: Level,
    /// Its members.
    pub members: u8,
    /// Spare drives, which have the numbers behind the members' drives.
    pub spares: u8,
    /// Drives with the numbers behind these, which expansions may take.
    pub joining: u8,
    /// Bytes of a block.
    pub block: u32,
    /// Virtual disks, which hosts see as one range of blocks, one behind the other.
    pub disks: u8,
    /// Its stripe rows.
    pub rows: u16,
    /// Cores of the node.
    pub cores: u16,
    /// Hosts.
    pub hosts: u16,
    /// Commands that each host keeps under way.
    pub depth: u16,
    /// Commands of all hosts together, over the whole run.
    pub commands: u32,
    /// Blocks from the start of the virtual disk that hosts touch; few make them meet often.
    pub span: u32,
    /// The drives have a volatile write cache.
    pub cache: bool,
    /// Writes end in the journal and are written back; else they go straight through. Means nothing without redundancy.
    pub journal: bool,
    /// Writes with a journal are acknowledged from memory, and a Flush brings them there.
    pub ram: bool,
    /// The drives are known to be zero, so that a new group needs no synchronisation.
    pub zeroed: bool,
    /// Power cuts and stops.
    pub stops: Vec<Stop>,
    /// What goes wrong with drives.
    pub faults: Vec<Fault>,
    /// What an operator wants meanwhile.
    pub orders: Vec<Order>,
    /// What the node does wrong on purpose, to see that it is noticed.
    pub mutant: Mutant,
}

/// An end of the node, after which it is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// After so many commands of hosts.
    pub at: u32,
    /// In good order, and not by a power cut.
    pub clean: bool,
    /// The power fails again when the next start has asked the drives for so many things; 0: it does not.
    pub again: u16,
    /// This drive is not there at the next start.
    pub away: Option<u8>,
}

/// Something that goes wrong with a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// After so many commands of hosts.
    pub at: u32,
    /// Which drive.
    pub drive: u8,
    /// What.
    pub trouble: Trouble,
}

/// Something that an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// After so many commands of hosts.
    pub at: u32,
    /// What.
    pub wish: OperatorWish,
}

/// What an operator may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorWish {
    /// This member is to be out.
    Fail(u8),
    /// This drive is sound again: the node gets it back, for its own place if that is still empty, else as a spare.
    Return(u8),
    /// Everything is to be compared with its check data.
    Scrub,
    /// The same, and what does not fit repaired.
    Repair,
    /// No more background work is to be begun.
    Pause,
    /// Background work goes on.
    Resume,
    /// Background work is to do no more than so many MiB a second.
    Rate(u8),
    /// Background work is to leave hosts a latency of so many microseconds.
    Latency(u8),
    /// So many of the joining drives are to become members.
    Expand(u8),
}

impl OperatorWish {
    const fn name(self) -> &'static str {
        match self {
            Self::Fail(_) => "fail",
            Self::Return(_) => "return",
            Self::Scrub => "scrub",
            Self::Repair => "repair",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Rate(_) => "rate",
            Self::Latency(_) => "latency",
            Self::Expand(_) => "expand",
        }
    }

    /// Of which drive or how much; 0 where there is nothing to say.
    const fn number(self) -> u8 {
        match self {
            Self::Fail(number)
            | Self::Return(number)
            | Self::Rate(number)
            | Self::Latency(number)
            | Self::Expand(number) => number,
            Self::Scrub | Self::Repair | Self::Pause | Self::Resume => 0,
        }
    }

    fn parse(name: &str, number: u8) -> Option<Self> {
        let wishes = [
            Self::Fail(number),
            Self::Return(number),
            Self::Scrub,
            Self::Repair,
            Self::Pause,
            Self::Resume,
            Self::Rate(number),
            Self::Latency(number),
            Self::Expand(number),
        ];
        wishes.into_iter().find(|wish| wish.name() == name)
    }
}

/// A mistake in the wiring between machines, drives and hosts. Each has to be caught (PROTOCOL 4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// No mistake.
    None,
    /// A write is acknowledged when it arrives.
    EarlyAcknowledge,
    /// A drive's write is answered when it is asked for, so that locks are released with I/O outstanding.
    EarlyRelease,
    /// Drives are not asked to flush.
    NoFlush,
    /// Force unit access is forgotten.
    NoForce,
    /// Superblocks are not written once the group exists.
    NoSuperblocks,
    /// A member counts as failed before that is durable.
    EarlyMembers,
    /// Check data are believed after an unclean stop.
    TrustedParity,
    /// Nothing is resynchronised.
    NoResync,
    /// The journal is not replayed, and the group opened as if it had been.
    NoReplay,
    /// One wake-up between cores in four gets lost.
    LostWakes,
    /// A batch of the journal is answered when it is asked for, so that writes are acknowledged before they are durable.
    EarlyJournal,
    /// New check data is computed without the dirty data that is about to be written with it.
    StaleParity,
    /// Check records are not written, although rows are written in place as if they were.
    NoPartialParity,
    /// A rebuilt row counts as done when it is asked for, and nobody waits for the last flush, so that the rebuild is published before its data.
    EarlyRebuild,
    /// Rows of an expansion are not flushed before it is durable that they have moved.
    MapBeforeData,
    /// Cores look blocks up where an expansion has put them before that is durable.
    EarlyFrontier,
    /// Rows are written in place without being marked for members that are lost.
    NoIntent,
    /// Writes are acknowledged from memory, and the superblocks say that nothing can be lost.
    SilentRam,
    /// A rebuilt member is relied on while the journal holds what it has no copy of.
    OldJournal,
}

impl Mutant {
    /// Every one, the sound node first.
    pub const ALL: [Self; 20] = [
        Self::None,
        Self::EarlyAcknowledge,
        Self::EarlyRelease,
        Self::NoFlush,
        Self::NoForce,
        Self::NoSuperblocks,
        Self::EarlyMembers,
        Self::TrustedParity,
        Self::NoResync,
        Self::NoReplay,
        Self::LostWakes,
        Self::EarlyJournal,
        Self::StaleParity,
        Self::NoPartialParity,
        Self::EarlyRebuild,
        Self::MapBeforeData,
        Self::EarlyFrontier,
        Self::NoIntent,
        Self::SilentRam,
        Self::OldJournal,
    ];

    /// Whether the mistake is one about journals, so that only a group with one can make it.
    pub const fn needs_journal(self) -> bool {
        match self {
            Self::NoReplay
            | Self::EarlyJournal
            | Self::StaleParity
            | Self::NoPartialParity
            | Self::NoIntent
            | Self::SilentRam
            | Self::OldJournal => true,
            Self::None
            | Self::EarlyAcknowledge
            | Self::EarlyRelease
            | Self::NoFlush
            | Self::NoForce
            | Self::NoSuperblocks
            | Self::EarlyMembers
            | Self::TrustedParity
            | Self::NoResync
            | Self::LostWakes
            | Self::EarlyRebuild
            | Self::MapBeforeData
            | Self::EarlyFrontier => false,
        }
    }

    /// Its name in a scenario.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::EarlyAcknowledge => "early-acknowledge",
            Self::EarlyRelease => "early-release",
            Self::NoFlush => "no-flush",
            Self::NoForce => "no-force",
            Self::NoSuperblocks => "no-superblocks",
            Self::EarlyMembers => "early-members",
            Self::TrustedParity => "trusted-parity",
            Self::NoResync => "no-resync",
            Self::NoReplay => "no-replay",
            Self::LostWakes => "lost-wakes",
            Self::EarlyJournal => "early-journal",
            Self::StaleParity => "stale-parity",
            Self::NoPartialParity => "no-partial-parity",
            Self::EarlyRebuild => "early-rebuild",
            Self::MapBeforeData => "map-before-data",
            Self::EarlyFrontier => "early-frontier",
            Self::NoIntent => "no-intent",
            Self::SilentRam => "silent-ram",
            Self::OldJournal => "old-journal",
        }
    }
}

impl Scenario {
    /// A small group without any trouble, for tests to change.
    pub const PLAIN: Self = Self {
        seed: 0,
        level: Level::Raid5,
        members: 4,
        spares: 0,
        joining: 0,
        block: 512,
        disks: 1,
        rows: 8,
        cores: 2,
        hosts: 2,
        depth: 4,
        commands: 150,
        span: 64,
        cache: true,
        journal: false,
        ram: false,
        zeroed: true,
        stops: Vec::new(),
        faults: Vec::new(),
        orders: Vec::new(),
        mutant: Mutant::None,
    };

    /// The scenario of a seed: any shape, any trouble that the group has to live with. `levels` is not empty.
    pub fn random(seed: u64, levels: &[Level]) -> Self {
        let mut random = Random::new(seed, 1);
        let level = levels[random.index(levels.len())];
        let least = u8::try_from(drives_min(level)).expect("small");
        let members = least + u8::try_from(random.below(4)).expect("below 4");
        let rows = u16::try_from(random.between(2, 12)).expect("small");
        let commands = random.between(40, 260);
        let mut scenario = Self {
            seed,
            level,
            members,
            rows,
            cores: u16::try_from(random.between(1, 4)).expect("small"),
            hosts: u16::try_from(random.between(1, 4)).expect("small"),
            depth: u16::try_from(random.between(1, 6)).expect("small"),
            commands,
            span: random.between(4, 160),
            cache: random.chance(75),
            journal: random.chance(70),
            zeroed: random.chance(70),
            ..Self::PLAIN
        };
        for _ in 0..random.below(4) {
            let again = if random.chance(30) {
                random.between(1, 60)
            } else {
                0
            };
            let away = random.chance(25).then(|| random.below(u64::from(members)));
            scenario.stops.push(Stop {
                at: random.between(0, commands),
                clean: random.chance(30),
                again: u16::try_from(again).expect("small"),
                away: away.map(|drive| u8::try_from(drive).expect("below the members")),
            });
        }
        scenario.stops.sort_by_key(|stop| stop.at);
        let told: Vec<Trouble> = Trouble::ALL
            .into_iter()
            .filter(|trouble| trouble.is_told())
            .collect();
        for _ in 0..random.below(3) {
            scenario.faults.push(Fault {
                at: random.between(0, commands),
                drive: u8::try_from(random.below(u64::from(members))).expect("below the members"),
                trouble: told[random.index(told.len())],
            });
        }
        scenario.faults.sort_by_key(|fault| fault.at);
        scenario.draw_operators();
        scenario.draw_expansion();
        scenario.ram = scenario.journal && Random::new(seed, 6).chance(20);
        scenario
    }

    /// Draws what the group has beside its members, and what operators want. From a stream of its own, so that the rest of a seed stays what
    /// it is.
    fn draw_operators(&mut self) {
        let mut random = Random::new(self.seed, 3);
        let number =
            |random: &mut Random, end: u8| u8::try_from(random.below(u64::from(end))).expect("below 256");
        if self.level.is_redundant() && random.chance(35) {
            self.spares = 1 + number(&mut random, 2);
        }
        if random.chance(20) {
            self.block = 4096;
        }
        if random.chance(30) {
            self.disks = 1 + number(&mut random, 2);
        }
        let drives = self.drives();
        let mut orders = Vec::new();
        for fault in &self.faults {
            if random.chance(60) {
                let at = random.between(fault.at.min(self.commands), self.commands);
                let wish = OperatorWish::Return(fault.drive);
                orders.push(Order { at, wish });
            }
        }
        for _ in 0..random.below(4) {
            let at = random.between(0, self.commands);
            let wish = match random.below(10) {
                0 => OperatorWish::Fail(number(&mut random, self.members)),
                1 | 2 => OperatorWish::Return(number(&mut random, drives)),
                3..=5 => OperatorWish::Scrub,
                6 => OperatorWish::Repair,
                7 => OperatorWish::Pause,
                8 => OperatorWish::Rate(4 + number(&mut random, 60)),
                _ => OperatorWish::Latency(20 + number(&mut random, 200)),
            };
            orders.push(Order { at, wish });
            if wish == OperatorWish::Pause {
                let at = random.between(at, self.commands);
                let wish = OperatorWish::Resume;
                orders.push(Order { at, wish });
            }
        }
        orders.sort_by_key(|order| order.at);
        self.orders = orders;
    }
}

impl Scenario {
    /// Draws whether the group is expanded, and what goes wrong meanwhile. From a stream of its own again.
    fn draw_expansion(&mut self) {
        let mut random = Random::new(self.seed, 5);
        let small = |random: &mut Random, least: u32, end: u32| {
            u8::try_from(random.between(least, end)).expect("below 256")
        };
        if self.level == Level::Raid1 || !random.chance(25) {
            return;
        }
        // Pairs of copies keep their place only if their number stays even or odd.
        self.joining = match self.level {
            Level::Raid10 => 2,
            Level::Raid0 | Level::Raid1 | Level::Raid5 | Level::Raid6 | Level::RaidTp => {
                small(&mut random, 1, 3)
            }
        };
        // A group of few rows cannot be expanded, and hosts shall look at most of it.
        let least = if self.level == Level::Raid0 { 17 } else { 4 };
        self.rows = u16::try_from(least + random.between(0, 12)).expect("small");
        self.span = random.between(8, 500);
        let mut left = self.joining;
        while left > 0 {
            let number = if self.level == Level::Raid10 {
                left
            } else {
                small(&mut random, 1, u32::from(left))
            };
            left -= number;
            let at = random.between(0, self.commands);
            let wish = OperatorWish::Expand(number);
            self.orders.push(Order { at, wish });
            if random.chance(60) {
                let at = (at + random.between(0, 40)).min(self.commands);
                self.draw_cut_of_expansion(&mut random, at);
            }
        }
        if random.chance(25) {
            let drive = self.drives() - 1 - small(&mut random, 0, u32::from(self.joining) - 1);
            let told: Vec<Trouble> = Trouble::ALL
                .into_iter()
                .filter(|trouble| trouble.is_told())
                .collect();
            let trouble = told[random.index(told.len())];
            let at = random.between(0, self.commands);
            self.faults.push(Fault { at, drive, trouble });
            if random.chance(60) {
                let at = random.between(at, self.commands);
                let wish = OperatorWish::Return(drive);
                self.orders.push(Order { at, wish });
            }
        }
        self.orders.sort_by_key(|order| order.at);
        self.faults.sort_by_key(|fault| fault.at);
        self.stops.sort_by_key(|stop| stop.at);
    }

    /// Stops the node once more, about when an expansion is under way.
    fn draw_cut_of_expansion(&mut self, random: &mut Random, at: u32) {
        let again = if random.chance(40) {
            random.between(1, 40)
        } else {
            0
        };
        let drives = u64::from(self.drives());
        let away = random.chance(20).then(|| random.below(drives));
        self.stops.push(Stop {
            at,
            clean: random.chance(15),
            again: u16::try_from(again).expect("small"),
            away: away.map(|drive| u8::try_from(drive).expect("below the drives")),
        });
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed={} level={} members={} spares={} joining={} block={} disks={} rows={} cores={} hosts={} depth={} commands={} span={} cache={} journal={} ram={} zeroed={}",
            self.seed,
            self.level.name(),
            self.members,
            self.spares,
            self.joining,
            self.block,
            self.disks,
            self.rows,
            self.cores,
            self.hosts,
            self.depth,
            self.commands,
            self.span,
            u8::from(self.cache),
            u8::from(self.journal),
            u8::from(self.ram),
            u8::from(self.zeroed)
        )?;
        for stop in &self.stops {
            let kind = if stop.clean { "clean" } else { "power" };
            write!(f, " stop={kind}@{}+{}", stop.at, stop.again)?;
            if let Some(drive) = stop.away {
                write!(f, "-{drive}")?;
            }
        }
        for fault in &self.faults {
            write!(f, " fault={}@{}:{}", fault.trouble.name(), fault.at, fault.drive)?;
        }
        for Order { at, wish } in &self.orders {
            write!(f, " order={}@{at}:{}", wish.name(), wish.number())?;
        }
        if self.mutant != Mutant::None {
            write!(f, " mutant={}", self.mutant.name())?;
        }
        Ok(())
    }
}

/// Why a text is no scenario.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is no part of a scenario: copy the line that a failed run printed")]
pub struct ScenarioError(pub String);

impl FromStr for Scenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut scenario = Self::PLAIN;
        for part in text.split_whitespace() {
            let wrong = || ScenarioError(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            scenario.set(key, value).ok_or_else(wrong)?;
        }
        let fits = scenario.is_sound();
        fits.then_some(scenario)
            .ok_or_else(|| ScenarioError(text.to_owned()))
    }
}

impl Scenario {
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "seed" => self.seed = value.parse().ok()?,
            "level" => self.level = Level::from_name(value)?,
            "members" => self.members = value.parse().ok()?,
            "spares" => self.spares = value.parse().ok()?,
            "joining" => self.joining = value.parse().ok()?,
            "block" => self.block = value.parse().ok()?,
            "disks" => self.disks = value.parse().ok()?,
            "rows" => self.rows = value.parse().ok()?,
            "cores" => self.cores = value.parse().ok()?,
            "hosts" => self.hosts = value.parse().ok()?,
            "depth" => self.depth = value.parse().ok()?,
            "commands" => self.commands = value.parse().ok()?,
            "span" => self.span = value.parse().ok()?,
            "cache" => self.cache = value.parse::<u8>().ok()? != 0,
            "journal" => self.journal = value.parse::<u8>().ok()? != 0,
            "ram" => self.ram = value.parse::<u8>().ok()? != 0,
            "zeroed" => self.zeroed = value.parse::<u8>().ok()? != 0,
            "stop" => self.stops.push(parse_stop(value)?),
            "fault" => self.faults.push(parse_fault(value)?),
            "order" => self.orders.push(parse_order(value)?),
            "mutant" => self.mutant = Mutant::ALL.into_iter().find(|mutant| mutant.name() == value)?,
            _ => return None,
        }
        Some(())
    }

    /// Whether the group has a journal at work.
    pub const fn is_journaled(&self) -> bool {
        self.journal && self.level.is_redundant()
    }

    /// Whether writes may be acknowledged from memory.
    pub const fn is_in_memory(&self) -> bool {
        self.ram && self.is_journaled()
    }

    /// Drives, with spares and those that may join.
    pub const fn drives(&self) -> u8 {
        self.members + self.spares + self.joining
    }

    /// Members that there may be after all expansions.
    pub const fn members_max(&self) -> u8 {
        self.members + self.joining
    }

    /// Whether it can be run: shapes are legal, and faults name drives that there are.
    pub fn is_sound(&self) -> bool {
        let drives = self.faults.iter().map(|fault| fault.drive);
        let away = self.stops.iter().filter_map(|stop| stop.away);
        let wanted = self.orders.iter().filter_map(|order| match order.wish {
            OperatorWish::Fail(member) => Some(member),
            OperatorWish::Return(drive) => Some(drive),
            OperatorWish::Rate(number) | OperatorWish::Latency(number) => (number == 0).then_some(u8::MAX),
            OperatorWish::Expand(number) => (number == 0 || number > self.joining).then_some(u8::MAX),
            OperatorWish::Scrub | OperatorWish::Repair | OperatorWish::Pause | OperatorWish::Resume => None,
        });
        let members = (drives_min(self.level)..=16).contains(&usize::from(self.members));
        let there = self.spares <= 4
            && self.joining <= 4
            && members
            && drives
                .chain(away)
                .chain(wanted)
                .all(|drive| drive < self.drives());
        let spared = self.spares == 0 || self.level.is_redundant();
        let shape = matches!(self.block, 512 | 4096) && (1..=4).contains(&self.disks);
        let cores = (1..=16).contains(&self.cores);
        let hosts = (1..=16).contains(&self.hosts) && (1..=DEPTH_MAX).contains(&self.depth);
        let rows = (1..=512).contains(&self.rows) && u16::from(self.disks) <= self.rows;
        there && spared && shape && cores && hosts && rows && self.span > 0
    }
}

fn parse_stop(value: &str) -> Option<Stop> {
    let (kind, rest) = value.split_once('@')?;
    let clean = match kind {
        "clean" => true,
        "power" => false,
        _ => return None,
    };
    let (at, rest) = rest.split_once('+')?;
    let (again, away) = match rest.split_once('-') {
        Some((again, away)) => (again, Some(away.parse().ok()?)),
        None => (rest, None),
    };
    Some(Stop {
        at: at.parse().ok()?,
        clean,
        again: again.parse().ok()?,
        away,
    })
}

fn parse_fault(value: &str) -> Option<Fault> {
    let (name, rest) = value.split_once('@')?;
    let trouble = Trouble::ALL.into_iter().find(|trouble| trouble.name() == name)?;
    let (at, drive) = rest.split_once(':')?;
    Some(Fault {
        at: at.parse().ok()?,
        drive: drive.parse().ok()?,
        trouble,
    })
}

fn parse_order(value: &str) -> Option<Order> {
    let (name, rest) = value.split_once('@')?;
    let (at, number) = rest.split_once(':')?;
    Some(Order {
        at: at.parse().ok()?,
        wish: OperatorWish::parse(name, number.parse().ok()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_read_as_it_was_written() {
        for seed in 0..300 {
            let mut scenario = Scenario::random(seed, &Level::ALL);
            scenario.mutant = Mutant::ALL[usize::try_from(seed).unwrap() % Mutant::ALL.len()];
            assert!(scenario.is_sound(), "{scenario}");
            assert_eq!(scenario.to_string().parse(), Ok(scenario));
        }
    }

    #[test]
    fn nonsense_is_refused_by_its_part() {
        for bad in [
            "level=raid9",
            "stop=power@5",
            "fault=gone@5",
            "x=1",
            "members=99",
            "fault=gone@5:9",
            "order=return@5:9",
            "order=dance@5:1",
            "block=513",
            "seed",
            "mutant=x",
            "depth=0",
        ] {
            assert_eq!(bad.parse::<Scenario>(), Err(ScenarioError(bad.to_owned())));
        }
    }
}
