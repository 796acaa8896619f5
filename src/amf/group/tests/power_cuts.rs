//! Goal: whatever is lost, torn or refused at whatever write, no start ever reads a drive that lacks acknowledged data.
//! Method: random lives of a group with power cuts; a model remembers what was announced and acknowledged.

use super::*;

/// SplitMix64: tiny, seeded, good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, chance: usize) -> bool {
        self.below(chance) == 0
    }
}

/// What must hold from now on, whatever happens.
struct Promises {
    /// Largest generation that was announced.
    generation: u64,
    /// Members that an announced generation called lost.
    lost: u32,
    /// Those of them that have got all their rows again, so that they may be called active.
    rebuilt: u32,
    /// Version of user data that was acknowledged, and the version on each member.
    acknowledged: u64,
    stamps: Vec<u64>,
    /// Virtual disks that were created, and those for which one cannot know.
    vdisks: BTreeMap<String, VdiskRecord>,
    unsure: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// Hosts were let in and the group was not asked to stop since.
    unclean: bool,
    /// Parity may not fit since an unclean stop.
    untrusted: bool,
    /// Since then it was resynchronised; maybe without us being told.
    resynced: bool,
    /// Since then the operator accepted it for a degraded group.
    accepted: bool,
}

struct World {
    random: Random,
    level: Level,
    /// One superblock write in so many is refused.
    refusals: usize,
    disks: Vec<Disk>,
    promises: Promises,
    next_vdisk: u8,
    starts: u32,
    cuts_with_writes: u32,
    rebuilds: u32,
}

/// One life of the group, from assembly to power cut or stop.
struct Life {
    group: Group,
    writes: Vec<(SuperblockIo, u16, u64, Box<[u8; RECORD_BYTES]>)>,
    members: Option<MemberSet>,
    /// What is to be rebuilt, and members of which every row is, so that writes go to them.
    work: Option<RebuildWork>,
    filled: u32,
    open: bool,
    over: bool,
    stopping: bool,
    requests: BTreeMap<u64, String>,
    next_request: u64,
    /// Drives that refuse everything until the next life.
    dead: u32,
}

impl World {
    fn new(level: Level, seed: u64) -> Self {
        let mut random = Random(seed);
        let count = match level {
            Level::Raid0 => 1 + random.below(4),
            Level::Raid1 => 2 + random.below(3),
            Level::Raid10 | Level::Raid5 => 3 + random.below(3),
            Level::Raid6 | Level::RaidTp => 5 + random.below(3),
        };
        let promises = Promises {
            generation: 0,
            lost: 0,
            rebuilt: 0,
            acknowledged: 0,
            stamps: vec![0; count],
            vdisks: BTreeMap::new(),
            unsure: BTreeSet::new(),
            deleted: BTreeSet::new(),
            unclean: false,
            untrusted: false,
            resynced: false,
            accepted: false,
        };
        Self {
            refusals: [40, 300, 3000][random.below(3)],
            random,
            level,
            disks: disks(count),
            promises,
            next_vdisk: 1,
            starts: 0,
            cuts_with_writes: 0,
            rebuilds: 0,
        }
    }

    fn live(&mut self, first: bool) {
        let Some((group, accept)) = self.assemble(first) else {
            return;
        };
        self.promises.accepted |= accept;
        let mut life = Life {
            group,
            writes: Vec::new(),
            members: None,
            work: None,
            filled: 0,
            open: false,
            over: false,
            stopping: false,
            requests: BTreeMap::new(),
            next_request: 0,
            dead: 0,
        };
        self.handle(&mut life, START);
        let longest = [6, 14, 80][self.random.below(3)];
        let shortest = if first { 30 } else { 0 };
        let steps = shortest + self.random.below(longest);
        for _ in 0..steps {
            if life.over {
                break;
            }
            self.step(&mut life);
        }
        self.cut(life);
    }

    /// Finds the group; `None` if it was rightly refused.
    fn assemble(&mut self, first: bool) -> Option<(Group, bool)> {
        if first {
            let creation = create(&spec_of(self.level, facts(&self.disks))).unwrap();
            return Some((Group::form(creation), false));
        }
        self.rot();
        let mut facts = facts(&self.disks);
        let mut away = 0;
        while facts.len() > 1 && self.random.one_in(4) && away < 2 {
            let member = self.random.below(facts.len());
            facts.remove(member);
            away += 1;
        }
        let accept = self.random.one_in(2);
        let options = if accept {
            accepting()
        } else {
            AssembleOptions::default()
        };
        match found_with(&facts, &options) {
            Ok(candidate) => Some((Group::assembled(candidate), accept)),
            Err(Refusal::CreationInterrupted { .. }) => {
                // A drive that was lost while the group first opened still calls it new.
                let known = self.promises.generation > 0 && away == 0;
                assert!(!known, "a group that was announced exists");
                None
            }
            Err(Refusal::DirtyDegraded { .. }) => {
                assert!(!accept);
                None
            }
            Err(Refusal::TooManyLost { lost, .. }) => {
                assert!(
                    away > 0,
                    "with every drive there the group always assembles: {lost:?}"
                );
                None
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Spoils one copy on a drive that has four good ones.
    fn rot(&mut self) {
        let member = self.random.below(self.disks.len());
        let good = |found: &Found| matches!(found, Found::Braid(scan) if scan.damaged == 0);
        if self.random.one_in(4) && good(&self.disks[member].facts(member).existing) {
            let (copy, byte) = (self.random.below(COPIES), self.random.below(RECORD_BYTES));
            self.disks[member].copy(copy)[byte] ^= 0x40;
        }
    }

    fn step(&mut self, life: &mut Life) {
        let stuck = !life.open && life.writes.is_empty();
        assert!(!stuck, "a group that opens or closes waits for a write");
        match self.random.below(18) {
            16 if life.open && !life.stopping => self.rebuild(life),
            0..=8 => self.answer_write(life),
            9 | 10 => self.write_data(life),
            11 if self.random.one_in(20) => {
                let member = u8::try_from(self.random.below(self.disks.len())).unwrap();
                life.dead |= 1 << member;
                if life.open {
                    let error = DriveError::Gone;
                    self.handle(
                        life,
                        Event::MemberFault {
                            member: MemberIndex(member),
                            error,
                        },
                    );
                }
            }
            12 => self.request(life),
            13 if life.open && !life.stopping && self.random.one_in(3) => {
                self.promises.resynced = true;
                self.handle(life, Event::ResyncDone);
            }
            14 if life.open => {
                let next_row = self.random.next() % 33;
                self.handle(life, Event::ResyncProgress { next_row });
            }
            15 if self.random.one_in(6) => {
                life.stopping = true;
                self.handle(life, Event::Stop);
            }
            _ => self.answer_write(life),
        }
    }

    /// Every row gets onto the members under rebuild, or some rows do.
    fn rebuild(&mut self, life: &mut Life) {
        let Some(work) = life.work.filter(|work| work.members & life.dead == 0) else {
            return;
        };
        let wave = work.wave;
        if self.random.one_in(3) {
            let rows = self.random.next() % 33;
            return self.handle(life, Event::RebuildProgress { wave, rows });
        }
        for member in (0..self.disks.len()).filter(|member| work.members >> member & 1 == 1) {
            self.promises.stamps[member] = *self.promises.stamps.iter().max().unwrap();
        }
        self.promises.rebuilt |= work.members;
        life.filled |= work.members;
        self.handle(life, Event::RebuildDone { wave });
    }

    fn answer_write(&mut self, life: &mut Life) {
        if life.writes.is_empty() {
            return;
        }
        let (io, drive, offset, record) = life.writes.swap_remove(self.random.below(life.writes.len()));
        let refused = life.dead >> drive & 1 == 1 || self.random.one_in(self.refusals);
        if refused {
            // A write that failed may have happened, or half of it.
            self.write_some(drive, offset, &record);
        } else {
            self.disks[usize::from(drive)]
                .at(offset)
                .copy_from_slice(&record[..]);
        }
        let result = if refused { Err(DriveError::Gone) } else { Ok(()) };
        self.handle(life, Event::SuperblockWritten { io, result });
    }

    fn write_some(&mut self, drive: u16, offset: u64, record: &[u8; RECORD_BYTES]) {
        let bytes = match self.random.below(3) {
            0 => 0,
            1 => 512 * self.random.below(8),
            _ => RECORD_BYTES,
        };
        self.disks[usize::from(drive)].at(offset)[..bytes].copy_from_slice(&record[..bytes]);
    }

    /// One host write to every row at once: acknowledged only if every live member took it.
    fn write_data(&mut self, life: &mut Life) {
        let Some(set) = life.members.filter(|_| life.open && !life.stopping) else {
            return;
        };
        let mut refused = None;
        let version = 1 + self.promises.stamps.iter().max().unwrap();
        for member in (0..u8::try_from(self.disks.len()).unwrap()).map(MemberIndex) {
            let filled = life.filled >> member.0 & 1 == 1;
            if set.is_failed(member) && !filled {
                continue;
            }
            if life.dead >> member.0 & 1 == 1 {
                refused = Some(member);
            } else {
                self.promises.stamps[usize::from(member.0)] = version;
            }
        }
        match refused {
            None => self.promises.acknowledged = version,
            Some(member) => self.handle(
                life,
                Event::MemberFault {
                    member,
                    error: DriveError::Gone,
                },
            ),
        }
    }

    fn request(&mut self, life: &mut Life) {
        let request = RequestId(life.next_request);
        life.next_request += 1;
        let event = match self.random.below(5) {
            0 | 1 => {
                let spec = vdisk(self.next_vdisk, VdiskSize::Blocks(1 + self.random.next() % 200));
                self.next_vdisk = self.next_vdisk.checked_add(1).unwrap_or(1);
                if self.promises.deleted.contains(spec.name.as_str()) {
                    return;
                }
                life.requests.insert(request.0, spec.name.to_string());
                Event::CreateVdisk { request, spec }
            }
            2 => {
                let Some(vdisk) = life.group.vdisks().first().cloned() else {
                    return;
                };
                life.requests.insert(request.0, vdisk.name.to_string());
                self.handle(
                    life,
                    Event::DeleteVdisk {
                        request,
                        nsid: vdisk.nsid,
                    },
                );
                if !life
                    .group
                    .snapshot()
                    .vdisks
                    .iter()
                    .any(|other| other.nsid == vdisk.nsid && other.leaving)
                {
                    return;
                }
                self.promises.unsure.insert(vdisk.name.to_string());
                if !life.requests.contains_key(&request.0) {
                    return; // Refused: it was leaving already.
                }
                Event::VdiskDrained { nsid: vdisk.nsid }
            }
            3 if self.random.one_in(8) => {
                let member = MemberIndex(u8::try_from(self.random.below(self.disks.len())).unwrap());
                Event::FailMember {
                    request,
                    member,
                    force: self.random.one_in(4),
                }
            }
            _ => return,
        };
        self.handle(life, event);
    }

    fn handle(&mut self, life: &mut Life, event: Event) {
        let mut actions = Vec::new();
        life.group.handle(event, &mut actions);
        for action in actions {
            match action {
                Action::WriteSuperblock {
                    io,
                    drive,
                    offset_bytes,
                    record,
                } => {
                    assert!(!life.over, "nothing is written after the end");
                    life.writes.push((io, drive, offset_bytes, record));
                }
                Action::Members(set) => self.check_members(life, set),
                Action::Started => {
                    life.open = true;
                    self.starts += 1;
                    self.promises.unclean = true;
                    self.check_vdisks(life);
                }
                Action::Reply { request, result } => self.check_reply(life, request, result),
                Action::GroupFailed { .. } => life.over = true,
                Action::Stopped { clean } => {
                    life.over = true;
                    if clean && life.members.is_some() {
                        self.promises.unclean = false;
                    }
                }
                Action::VdiskAdded(_)
                | Action::VdiskRemoved { .. }
                | Action::VdiskResized(_)
                | Action::VdiskChanged(_)
                | Action::Layout { .. }
                | Action::Restored
                | Action::MemberDrive { .. }
                | Action::RamAllowed
                | Action::RamCleared
                | Action::LanesOver(_)
                | Action::IntentDurable { .. }
                | Action::LostDurable { .. }
                | Action::PageDurable { .. }
                | Action::Report(_) => {}
                Action::RebuildNeeded(work) => {
                    (life.work, life.filled) = (Some(work), 0);
                    self.rebuilds += 1;
                }
                Action::RebuildOver { .. } => (life.work, life.filled) = (None, 0),
            }
        }
    }

    fn check_members(&mut self, life: &mut Life, set: MemberSet) {
        let promises = &mut self.promises;
        assert!(set.generation > promises.generation, "generations never go back");
        assert_eq!(
            promises.lost & !set.failed & !promises.rebuilt,
            0,
            "who is lost stays lost until it is rebuilt"
        );
        promises.rebuilt &= set.failed;
        for (member, stamp) in promises.stamps.iter().enumerate() {
            let live = set.failed >> member & 1 == 0;
            assert!(
                !live || *stamp >= promises.acknowledged,
                "member {member} is read and lacks acknowledged data"
            );
        }
        for member in (0..promises.stamps.len()).filter(|member| set.failed >> member & 1 == 0) {
            let Found::Braid(scan) = self.disks[member].facts(member).existing else {
                panic!("a live member is a member")
            };
            assert!(
                scan.superblock.record.generation >= set.generation,
                "durable before it is announced"
            );
        }
        if set.parity.regenerates() && promises.untrusted {
            assert!(
                promises.resynced || (promises.accepted && set.failed != 0),
                "parity is believed without a reason: {set:?}"
            );
            promises.untrusted = false;
        }
        assert!(
            set.failed == 0 || set.parity.regenerates(),
            "a degraded group lives by its parity"
        );
        promises.generation = set.generation;
        promises.lost = set.failed;
        life.members = Some(set);
    }

    fn check_vdisks(&mut self, life: &Life) {
        let there: BTreeMap<String, VdiskRecord> = life
            .group
            .vdisks()
            .iter()
            .map(|vdisk| (vdisk.name.to_string(), vdisk.clone()))
            .collect();
        let promises = &mut self.promises;
        for (name, vdisk) in &promises.vdisks {
            assert!(
                promises.unsure.contains(name) || there.get(name) == Some(vdisk),
                "{name} was acknowledged"
            );
        }
        for name in there.keys() {
            assert!(!promises.deleted.contains(name), "{name} was deleted");
            assert!(
                promises.unsure.contains(name) || promises.vdisks.contains_key(name),
                "{name} was never asked for"
            );
        }
        promises.unsure.clear();
        promises.vdisks = there;
    }

    fn check_reply(&mut self, life: &mut Life, request: RequestId, result: Result<Answer, RequestError>) {
        let Some(name) = life.requests.remove(&request.0) else {
            return;
        };
        match result {
            Ok(Answer::VdiskCreated(vdisk)) => {
                self.promises.vdisks.insert(name, vdisk);
            }
            Ok(Answer::VdiskDeleted { .. }) => {
                self.promises.vdisks.remove(&name);
                self.promises.unsure.remove(&name);
                self.promises.deleted.insert(name);
            }
            Ok(
                Answer::MemberFailed { .. }
                | Answer::MemberReplaced { .. }
                | Answer::VdiskResized(_)
                | Answer::VdiskChanged(_)
                | Answer::Expanding
                | Answer::SpareAdded { .. }
                | Answer::SpareRemoved { .. },
            ) => unreachable!("those have no name"),
            // It may be in an update that some drives took.
            Err(RequestError::GroupFailed) => {
                self.promises.unsure.insert(name);
            }
            Err(_) => {}
        }
    }

    /// Power goes: every write that was not answered happened, or not, or half of it.
    fn cut(&mut self, life: Life) {
        self.cuts_with_writes += u32::from(!life.writes.is_empty());
        for (_, drive, offset, record) in &life.writes {
            self.write_some(*drive, *offset, record);
        }
        self.promises.unsure.extend(life.requests.into_values());
        if life.open && self.promises.unclean && !life.stopping {
            // Without check data there is nothing that may not fit.
            self.promises.untrusted = self.level.check_strips() > 0;
            self.promises.resynced = false;
            self.promises.accepted = false;
        }
    }
}

#[test]
fn never_mix_up_drives_generations_or_virtual_disks() {
    random_lives(Level::Raid5);
}

#[test]
fn never_mix_up_anything_without_redundancy_either() {
    random_lives(Level::Raid0);
}

fn random_lives(level: Level) {
    let (mut starts, mut cuts, mut rebuilds) = (0, 0, 0);
    for seed in 0..400 {
        let mut world = World::new(level, seed);
        world.live(true);
        for _ in 0..12 {
            let blank = world
                .disks
                .iter()
                .all(|disk| disk.facts(0).existing == Found::Blank);
            let parts = world
                .disks
                .iter()
                .any(|disk| !matches!(disk.facts(0).existing, Found::Braid(_)));
            if blank || parts {
                break; // Creation was interrupted; that has its own test.
            }
            world.live(false);
        }
        starts += world.starts;
        cuts += world.cuts_with_writes;
        rebuilds += world.rebuilds;
    }
    assert!(
        starts > 400 && cuts > 800,
        "the lives are worth the time: {starts} starts, {cuts} cuts"
    );
    assert!(rebuilds > 100 || !level.is_redundant(), "{rebuilds} rebuilds");
}

/// A group whose every drive is there assembles after a cut at every single write of its life.
#[test]
fn cut_at_every_write_of_a_life() {
    cut_at_every_write(Level::Raid5, 3);
    for width in 1..=4 {
        cut_at_every_write(Level::Raid0, width);
    }
}

fn cut_at_every_write(level: Level, width: usize) {
    let events = || {
        let create = Event::CreateVdisk {
            request: REQUEST,
            spec: vdisk(1, VdiskSize::Blocks(40)),
        };
        [START, create, Event::ResyncDone, Event::Stop]
    };
    for torn_bytes in [0, 2048, RECORD_BYTES] {
        for cut_at in 0.. {
            let mut disks = stopped_as(level, width);
            let mut group = Group::assembled(found(&disks).unwrap());
            let mut left = cut_at;
            let mut acknowledged = false;
            'life: for event in events() {
                let mut actions = Vec::new();
                group.handle(event, &mut actions);
                while !actions.is_empty() {
                    let action = actions.remove(0);
                    acknowledged |= matches!(action, Action::Reply { result: Ok(_), .. });
                    let Action::WriteSuperblock {
                        io,
                        drive,
                        offset_bytes,
                        record,
                    } = action
                    else {
                        continue;
                    };
                    let bytes = if left == 0 { torn_bytes } else { RECORD_BYTES };
                    disks[usize::from(drive)].at(offset_bytes)[..bytes].copy_from_slice(&record[..bytes]);
                    if left == 0 {
                        break 'life;
                    }
                    left -= 1;
                    group.handle(Event::SuperblockWritten { io, result: Ok(()) }, &mut actions);
                }
            }
            let (group, actions) = restart(&mut disks);
            assert!(actions.contains(&Action::Started), "cut at write {cut_at}");
            assert_eq!(members_of(&actions).failed, 0);
            assert!(!acknowledged || group.vdisks().len() == 1);
            if left > 0 {
                break; // The whole life fits before the cut.
            }
        }
    }
}
