//! One power cut, in every way that a start can tell apart: blocks are decided when, and only if, they are read.
//!
//! Of a cut with `n` undecided blocks come `2^n` states and more. A start that leads to the same story from many of them is looked
//! at once, and stands for all. What it may depend on is decided in the order in which it is read:
//!
//! 1. *Superblocks* (`heads`): for each drive, what `examine` can find; and what group `assemble` makes of all of them together, because a
//!    start knows nothing else of them.
//! 2. *Lanes of the journal* (`lanes`): for each lane and member, what its scan can learn; and what is learnt of all of them together,
//!    because a replay knows nothing else of them. The same for the copies of the write-intent bitmap.
//! 3. *Data* steers nothing: engines move it and add it up, and see it only where they compare. So a start is made once; drives say which
//!    undecided blocks were read before anything was written there, and no other block can matter. Bytes meet only bytes of the same
//!    offset in a strip of the same row (of any row, where an expansion moves rows), and the judgement is one of blocks, too; so the
//!    undecided blocks that were read fall into *columns* that know nothing of each other. Starts are made until each column has been there
//!    in every way, all columns at once. Every one of them must ask the drives for the same and read the same undecided blocks, else
//!    data did steer something, and that is a violation of its own.
//!
//! Drives that are away are never read, so nothing of them is decided. The same start is not made twice: what is decided, what is not, and
//! the hosts' story are compared first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use super::heads::{Head, Heads, regions};
use super::lanes::{Image, Lane};
use super::{Hole, Sweep, count, digest_at, nth, product};
use crate::amf::group::Candidate;
use crate::amf::journal::Batch;
use crate::amf::journal::scan::{Found, Scan, ScanError};
use crate::amf::superblock::RECORD_BYTES;
use crate::amf::{MemberIndex, RowIndex};
use crate::sim::drive::{Drive, Undecided};
use crate::sim::node::Node;
use crate::sim::random::mix;
use crate::sim::scenario::Mutant;
use crate::sim::stamp::{BLOCK_BYTES, Block};
use crate::sim::trace::digest_of;
use crate::sim::world::{Violation, World};

/// Blocks of a page of the write-intent bitmap.
const PAGE_BLOCKS: u64 = (RECORD_BYTES / BLOCK_BYTES) as u64;

/// Ways of one column that are tried: three versions on each of six drives are 729.
const WAYS_MAX: usize = 1 << 13;

/// The version of a block of a drive.
type Left = BTreeMap<(u16, u64), usize>;

/// What the lanes of all members together can tell a replay.
#[derive(Debug)]
pub(super) struct Told {
    left: Left,
    digest: u64,
}

/// All that they can tell.
#[derive(Debug)]
pub(super) struct Tells {
    told: Vec<Told>,
    cut_short: bool,
}

/// What has been found out about lanes, by what they hold.
#[derive(Debug, Default)]
pub(super) struct Memory {
    lanes: BTreeMap<u64, Rc<Lane>>,
    tells: BTreeMap<u64, Rc<Tells>>,
}

/// A moment at which the power fails.
struct Cut<'a> {
    world: &'a World,
    undecided: Vec<Vec<Undecided>>,
    /// The drives with the first version of each block.
    base: Vec<Drive>,
    heads: Vec<Heads>,
    /// Not everything was looked at.
    cut_short: bool,
}

/// One start, but for data.
struct Beginning {
    away: u32,
    left: Left,
    /// Undecided blocks that hold data.
    data: Vec<(u16, Undecided)>,
    /// What lies here is told by lanes, or by the write-intent bitmap.
    lanes: Range<u64>,
    intent: Range<u64>,
    /// Blocks of data: where the scratch area of an expansion and the rows begin, and how many a strip and a row have.
    scratch_start: u64,
    data_start: u64,
    strip: u64,
    row: u64,
}

/// What came of a start.
struct Came {
    /// Stands for everything that drives were asked.
    control: u64,
    /// Undecided blocks of data that were read.
    met: BTreeSet<(u16, u64)>,
}

impl Sweep {
    /// Opens the group from everything that a power cut at this moment can leave, without each of these sets of members.
    pub(super) fn cut(&mut self, world: &World, sets: &[u32]) -> Result<(), Box<Hole>> {
        let cut = Cut::new(world);
        let mut short = cut.cut_short;
        let all = cut.undecided.iter().flatten();
        let versions: Vec<usize> = all.map(|block| block.versions.len()).collect();
        self.swept.ways += product(&versions);
        for away in sets {
            let mut found = BTreeSet::new();
            let mut picks = vec![Vec::new()];
            for (drive, heads) in (0u16..).zip(&cut.heads) {
                let there = away >> drive & 1 == 0;
                let heads = if there {
                    &heads.heads[..]
                } else {
                    &heads.heads[..1]
                };
                picks = picks
                    .iter()
                    .flat_map(|picked: &Vec<(u16, &Head)>| {
                        let with = |head| [&picked[..], &[(drive, head)]].concat();
                        heads.iter().map(with)
                    })
                    .collect();
            }
            for picked in picks {
                short |= self.with_heads(&cut, *away, &picked, &mut found)?;
            }
        }
        self.swept.sampled += u64::from(short);
        Ok(())
    }

    /// Opens the group from everything that is left with these superblocks, unless that makes a group of which one was `found` before.
    /// Returns whether something was left out.
    fn with_heads(
        &mut self,
        cut: &Cut<'_>,
        away: u32,
        heads: &[(u16, &Head)],
        found: &mut BTreeSet<u64>,
    ) -> Result<bool, Box<Hole>> {
        let mut left = Left::new();
        let mut facts = Vec::new();
        let mut digest = 0;
        for (drive, head) in heads.iter().filter(|(drive, _)| away >> drive & 1 == 0) {
            left.extend(head.left.iter().map(|(lba, version)| ((*drive, *lba), *version)));
            facts.push(head.facts.clone());
            digest = mix(digest ^ head.digest ^ u64::from(*drive));
        }
        let candidate = Node::find(&facts, false, &cut.world.scenario).ok();
        match &candidate {
            // The drives that are away are brought back, so this is a start with all of them.
            None if away != 0 => return Ok(false),
            // A start that puts rows in their place looks at superblocks again.
            Some(candidate) if candidate.restore().is_none() => {
                digest = digest_of(format!("{candidate:?}").as_bytes());
            }
            Some(_) | None => {}
        }
        if !found.insert(digest) {
            return Ok(false);
        }
        let digest = mix(digest ^ mix(u64::from(away)));
        let tells = self.tells(cut, candidate.as_ref());
        let marks = marks(cut, candidate.as_ref());
        let mut short = tells.cut_short || marks.cut_short;
        let pairs = tells
            .told
            .iter()
            .flat_map(|told| marks.told.iter().map(move |marked| (told, marked)));
        for (told, marked) in pairs {
            let mut left = left.clone();
            left.extend(&told.left);
            left.extend(&marked.left);
            let beginning = cut.beginning(away, left, candidate.as_ref());
            short |= beginning.is_strange();
            let known = mix(digest ^ told.digest) ^ mix(marked.digest);
            if !self.seen.insert(cut.digest(&beginning) ^ mix(known)) {
                continue;
            }
            short |= self.with_data(cut, &beginning)?;
            if away == 0 && self.again_left > 0 && !self.is_again {
                self.again_left -= 1;
                self.cut_again(cut.world, &cut.drives(&beginning.left))?;
            }
        }
        Ok(short)
    }

    /// What the lanes can tell the replay of this group; one thing if there is none.
    fn tells(&mut self, cut: &Cut<'_>, candidate: Option<&Candidate>) -> Rc<Tells> {
        let scenario = &cut.world.scenario;
        let is_read = scenario.is_journaled() && scenario.mutant != Mutant::NoReplay;
        let candidate = candidate.filter(|_| is_read);
        let Some((candidate, replay)) = candidate.and_then(|found| Some((found, found.replay()?))) else {
            let (left, digest) = (Left::new(), 0);
            return Rc::new(Tells {
                told: vec![Told { left, digest }],
                cut_short: false,
            });
        };
        let (scan, order) = replay.scans();
        let journal = *scan.journal();
        // What lies in the scratch area of an expansion is brought to its place, or wiped, before lanes are read.
        let scratch = candidate.restore().map(|_| journal.recovery_lane());
        let place = digest_of(format!("{scan:?}").as_bytes());
        let mut digest = place;
        let mut lanes = Vec::new();
        for (member, lane) in order.filter(|(_, lane)| Some(*lane) != scratch) {
            let drive = candidate.members[usize::from(member.0)].drive_index();
            let drive = drive.expect("only members that are there are scanned");
            let start = journal.lane_start(lane).0;
            let blocks = (start..).take(journal.lane_blocks as usize);
            let blocks: Vec<Vec<Block>> = blocks.map(|lba| cut.versions(drive, lba)).collect();
            let key =
                mix(digest_of_versions(&blocks)
                    ^ mix(place ^ mix(u64::from(lane) << 32 | u64::from(member.0))));
            digest = mix(digest ^ key ^ mix(u64::from(drive)));
            lanes.push((member, lane, (drive, start), key, blocks));
        }
        if let Some(tells) = self.memory.tells.get(&digest) {
            return Rc::clone(tells);
        }
        let mut ways: Vec<Way> = vec![(Ok(scan.clone()), Left::new())];
        let mut cut_short = false;
        let mut headers = Vec::new();
        for (member, lane, at, key, blocks) in lanes {
            let found = self.memory.lanes.entry(key).or_insert_with(|| {
                let found = Lane::of(scan, member, lane, &blocks);
                self.swept.ties += found.ties;
                Rc::new(found)
            });
            ways = scanned(&ways, (member, lane), found, at);
            cut_short |= found.cut_short
                || found
                    .headers
                    .iter()
                    .any(|header| is_contradicted(header, &headers));
            headers.extend(found.headers.iter().cloned());
        }
        let tells = Rc::new(Tells {
            told: told(ways),
            cut_short,
        });
        self.memory.tells.insert(digest, Rc::clone(&tells));
        tells
    }

    /// Opens the group with data in every way that can matter. Returns whether something was left out.
    fn with_data(&mut self, cut: &Cut<'_>, beginning: &Beginning) -> Result<bool, Box<Hole>> {
        let first = self.start(cut, beginning, &Left::new())?;
        let mut columns: BTreeMap<u64, Vec<(u16, &Undecided)>> = BTreeMap::new();
        for (drive, block) in &beginning.data {
            if first.met.contains(&(*drive, block.lba)) {
                let column = beginning.column(block.lba);
                columns.entry(column).or_default().push((*drive, block));
            }
        }
        let mut most = 1;
        let mut short = false;
        let mut sizes = Vec::new();
        for blocks in columns.values() {
            let versions: Vec<usize> = blocks.iter().map(|(_, block)| block.versions.len()).collect();
            let ways = count(&versions).unwrap_or(usize::MAX);
            short |= ways > WAYS_MAX;
            most = most.max(ways.min(WAYS_MAX));
            sizes.push((blocks, versions, ways));
        }
        for number in 1..most {
            let mut left = Left::new();
            for (blocks, versions, ways) in &sizes {
                let way = nth(number % ways, versions);
                left.extend(
                    blocks
                        .iter()
                        .zip(way)
                        .map(|((drive, block), version)| ((*drive, block.lba), version)),
                );
            }
            let came = self.start(cut, beginning, &left)?;
            if came.control != first.control || came.met != first.met {
                let what = "what a start asks of drives depends on the data that it finds".to_owned();
                return Err(self.hole(Violation::Stuck(what), beginning.away, &cut.numbers(&left)));
            }
        }
        Ok(short)
    }

    /// One start, to its end.
    fn start(&mut self, cut: &Cut<'_>, beginning: &Beginning, data: &Left) -> Result<Came, Box<Hole>> {
        let away = beginning.away;
        let mut left = beginning.left.clone();
        left.extend(data);
        let mut drives = cut.drives(&left);
        for (number, drive) in (0u16..).zip(&mut drives) {
            let own = beginning.data.iter().filter(|(of, _)| *of == number);
            let atom = drive.atom();
            drive.watch(own.flat_map(|(_, block)| block.lba..block.lba + atom));
        }
        self.swept.opened += 1;
        self.swept.states += u64::from(away == 0);
        let mut start = cut.world.after_cut(drives, away);
        start.go_on_after_cut(&self.afterwards);
        self.note_outcome(cut.world, &start);
        let mut met = BTreeSet::new();
        for (number, drive) in (0u16..).zip(&start.drives) {
            let atom = drive.atom();
            met.extend(drive.met().into_iter().map(|lba| (number, lba - lba % atom)));
        }
        if let Some(violation) = start.violation {
            return Err(self.hole(violation, away, &cut.numbers(&left)));
        }
        Ok(Came {
            control: start.control,
            met,
        })
    }
}

impl<'a> Cut<'a> {
    fn new(world: &'a World) -> Self {
        let undecided: Vec<Vec<Undecided>> = world.drives.iter().map(Drive::undecided).collect();
        let mut base = world.drives.clone();
        for drive in &mut base {
            drive.cut_with(|_| 0);
        }
        let drives = (0u16..).zip(base.iter().zip(&undecided));
        let heads = drives.map(|(number, (drive, own))| Heads::of(number, drive, own));
        let heads: Vec<Heads> = heads.collect();
        Self {
            cut_short: heads.iter().any(|heads| heads.cut_short),
            world,
            undecided,
            base,
            heads,
        }
    }

    /// The drives with these versions, and with the first one of every other block.
    fn drives(&self, left: &Left) -> Vec<Drive> {
        let mut drives = self.base.clone();
        for ((drive, lba), version) in left {
            let own = &self.undecided[usize::from(*drive)];
            let block = own.iter().find(|block| block.lba == *lba);
            let block = block.expect("only undecided blocks have versions");
            drives[usize::from(*drive)].set(*lba, &block.versions[*version]);
        }
        drives
    }

    /// What a block may hold. Lanes have undecided blocks only where a drive's own blocks are written.
    fn versions(&self, drive: u16, lba: u64) -> Vec<Block> {
        let own = &self.undecided[usize::from(drive)];
        match own.binary_search_by_key(&lba, |block| block.lba) {
            Ok(at) => own[at]
                .versions
                .iter()
                .map(|version| version[0].clone())
                .collect(),
            Err(_) => self.base[usize::from(drive)].read(lba, 1),
        }
    }

    fn beginning(&self, away: u32, left: Left, candidate: Option<&Candidate>) -> Beginning {
        let mut begin = Beginning {
            away,
            left,
            data: Vec::new(),
            lanes: 0..0,
            intent: 0..0,
            scratch_start: 0,
            data_start: 0,
            strip: 1,
            row: u64::MAX,
        };
        if let Some(candidate) = candidate {
            let record = candidate.record();
            let geometry = *record.layout().widest();
            begin.data_start = geometry.member_lba(RowIndex(0), 0).0;
            begin.strip = u64::from(geometry.strip_blocks());
            if self.world.scenario.joining == 0 {
                begin.row = u64::from(geometry.member_row_blocks());
            }
            if let Some(intent) = &record.intent {
                let blocks = intent.pages(record.rows) * PAGE_BLOCKS;
                begin.intent = intent.start.0..intent.start.0 + blocks;
            }
            begin.scratch_start = record.scratch_area().map_or(0, |area| area.start.0);
            if let Some(replay) = candidate.replay() {
                let journal = *replay.scans().0.journal();
                let end = match candidate.restore() {
                    Some(_) => journal.lane_start(journal.recovery_lane()).0,
                    None => journal.start.0 + journal.region_blocks(),
                };
                begin.lanes = journal.start.0..end;
            }
        }
        for (number, own) in (0u16..).zip(&self.undecided) {
            if away >> number & 1 == 1 {
                continue;
            }
            let drive = &self.base[usize::from(number)];
            let data = own.iter().filter(|block| begin.is_data(drive, block.lba));
            let data: Vec<Undecided> = data.cloned().collect();
            begin.data.extend(data.into_iter().map(|block| (number, block)));
        }
        begin
    }

    /// Stands for all that such a start may depend on, beside what superblocks and lanes say.
    fn digest(&self, beginning: &Beginning) -> u64 {
        let world = self.world;
        let story = world.history.as_ref().map_or(0, super::super::History::now);
        let seats = digest_of(format!("{:?} {:?} {:b}", world.seats, world.widths, world.harmed).as_bytes());
        let mut sum = mix(story) ^ seats;
        for (number, drive) in (0u64..).zip(&self.base) {
            if beginning.away >> number & 1 == 1 {
                continue;
            }
            let undecided = &self.undecided[usize::try_from(number).expect("few drives")];
            for (lba, block) in drive.written() {
                let first = lba - lba % drive.atom();
                let is_open = undecided.binary_search_by_key(&first, |block| block.lba).is_ok();
                if !is_open && beginning.is_data(drive, lba) {
                    sum = sum.wrapping_add(digest_at(number, lba, block));
                }
            }
        }
        for (drive, block) in &beginning.data {
            for part in block.versions.iter().flatten() {
                sum = mix(sum ^ digest_at(u64::from(*drive), block.lba, part));
            }
        }
        sum
    }

    /// Which version of each undecided block, drive by drive.
    fn numbers(&self, left: &Left) -> Vec<usize> {
        let blocks = (0u16..).zip(&self.undecided);
        blocks
            .flat_map(|(drive, own)| own.iter().map(move |block| (drive, block.lba)))
            .map(|place| left.get(&place).copied().unwrap_or(0))
            .collect()
    }
}

impl Beginning {
    /// The column of a block: only blocks of the same one can meet.
    fn column(&self, lba: u64) -> u64 {
        let (row, at) = match lba.checked_sub(self.data_start) {
            Some(at) => (at / self.row, at),
            None => (0, lba.saturating_sub(self.scratch_start)),
        };
        (row << 32) | (at % self.strip)
    }

    /// Whether there is data where none should be: nobody knows what it does.
    fn is_strange(&self) -> bool {
        let first = self.data_start.min(self.scratch_start);
        self.data.iter().any(|(_, block)| block.lba < first)
    }

    /// Whether a block of a drive is neither a superblock nor in a lane nor in the write-intent bitmap.
    fn is_data(&self, drive: &Drive, lba: u64) -> bool {
        !self.lanes.contains(&lba)
            && !self.intent.contains(&lba)
            && !regions(drive).iter().any(|head| head.contains(&lba))
    }
}

/// All that the copies of the write-intent bitmap can tell; they are tried in every way, because few of their blocks are ever undecided.
fn marks(cut: &Cut<'_>, candidate: Option<&Candidate>) -> Tells {
    let pages = candidate.map(Candidate::intent_pages).unwrap_or_default();
    let places = pages
        .iter()
        .map(|page| (page.drive, page.offset_bytes / BLOCK_BYTES as u64));
    let undecided = places.flat_map(|(drive, start)| {
        let own = cut.undecided[usize::from(drive)].iter();
        let own = own.filter(move |block| (start..start + PAGE_BLOCKS).contains(&block.lba));
        own.map(move |block| ((drive, block.lba), block.versions.len()))
    });
    let (places, versions): (Vec<(u16, u64)>, Vec<usize>) = undecided.unzip();
    let all = count(&versions).unwrap_or(usize::MAX);
    let mut told: BTreeMap<u64, Left> = BTreeMap::new();
    for number in 0..all.min(WAYS_MAX) {
        let left: Left = places.iter().copied().zip(nth(number, &versions)).collect();
        let map = candidate.and_then(|candidate| {
            candidate.load_intent(|page| {
                let start = page.offset_bytes / BLOCK_BYTES as u64;
                let block = |lba| {
                    let version = left.get(&(page.drive, lba)).copied().unwrap_or(0);
                    cut.versions(page.drive, lba).swap_remove(version)
                };
                let blocks = (start..start + PAGE_BLOCKS).map(block);
                Some(blocks.flat_map(|block| *block.bytes()).collect())
            })
        });
        told.entry(digest_of(format!("{map:?}").as_bytes()))
            .or_insert(left);
    }
    Tells {
        told: told
            .into_iter()
            .map(|(digest, left)| Told { left, digest })
            .collect(),
        cut_short: all > WAYS_MAX,
    }
}

/// What a scan knows so far, and how that came.
type Way = (Result<Scan, ScanError>, Left);

/// All that scans know that knew this before, and now look at another lane, which lies here.
fn scanned(
    before: &[Way],
    (member, lane): (MemberIndex, u16),
    found: &Lane,
    (drive, start): (u16, u64),
) -> Vec<Way> {
    let mut known = BTreeSet::new();
    let mut ways: Vec<Way> = Vec::new();
    for (scan, left) in before {
        for Image { bytes, versions } in &found.images {
            let mut after = scan.clone();
            let outcome = match &mut after {
                Ok(scan) => scan.lane(member, lane, bytes),
                Err(error) => Err(*error),
            };
            let after = outcome.and(after);
            let name = after.as_ref().map(Scan::summary).map_err(ToString::to_string);
            if !known.insert(name) {
                continue;
            }
            let mut left = left.clone();
            let decided = (start..).zip(versions).filter(|(_, version)| **version != 0);
            left.extend(decided.map(|(lba, version)| ((drive, lba), *version)));
            ways.push((after, left));
        }
    }
    ways
}

/// What all that scans can know in the end means for a replay.
fn told(ways: Vec<Way>) -> Vec<Told> {
    let mut told: BTreeMap<u64, Left> = BTreeMap::new();
    for (scan, left) in ways {
        let digest = digest_of_found(&scan.map(Scan::finish));
        told.entry(digest).or_insert(left);
    }
    told.into_iter()
        .map(|(digest, left)| Told { left, digest })
        .collect()
}

/// Whether another batch has the same name: a scan may hear of that, although neither counts.
fn is_contradicted(batch: &Batch, others: &[Batch]) -> bool {
    let name = |batch: &Batch| (batch.header.lane, batch.header.batch, batch.header.position);
    others
        .iter()
        .any(|other| name(other) == name(batch) && other != batch)
}

fn digest_of_versions(blocks: &[Vec<Block>]) -> u64 {
    blocks.iter().fold(0, |sum, versions| {
        let sum = mix(sum ^ versions.len() as u64);
        versions
            .iter()
            .fold(sum, |sum, version| mix(sum ^ version.digest()))
    })
}

fn digest_of_found(found: &Result<Found, ScanError>) -> u64 {
    let Ok(found) = found else {
        return digest_of(format!("{found:?}").as_bytes());
    };
    let Found {
        batches,
        tail,
        next_seq,
        round,
        torn_batches,
        floors,
        mark,
        mark_number,
    } = found;
    let numbers = format!("{tail} {next_seq} {round} {torn_batches} {floors:?} {mark:?} {mark_number}");
    let mut sum = digest_of(numbers.as_bytes());
    for found in batches {
        let head = digest_of(format!("{:?} {:b}", found.batch, found.members).as_bytes());
        sum = mix(sum ^ head ^ mix(digest_of(&found.payload)));
    }
    sum
}
