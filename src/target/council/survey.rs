//! Which arrays there are on shelves, as the labels and records of their drives say: read only, by a host that claims nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use nvme::host::Kind;
use nvme::log::{DiscoveryEntry, SubsystemType};
use nvme::nqn::Nqn;
use reactor::{Options, PollMode};
use thiserror::Error;

use super::desk::{self, Encoded, quorum_of};
use crate::icl::membership::label::{LABEL_BLOCK, Label};
use crate::icl::membership::record::EpochRecord;
use crate::icl::membership::record::codec::parse_quorum;
use crate::icl::{ArrayId, DriveIndex, DriveSet};
use crate::target::host::ask::Questions;
use crate::target::host::identity::Identity;
use crate::target::host::{Event, Host, HostError, Namespace, Target, TargetFacts};

/// How long shelves may take to be reached.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long a command may take.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
const ARENA_BYTES: usize = 4 << 20;

/// Why shelves could not be looked at.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// The program could not connect to anything.
    #[error("no connection can be made: {0}")]
    Host(#[from] HostError),
    /// One of them does not answer.
    #[error("{address} does not answer as an NVMe/TCP target: {why}")]
    Unreachable {
        /// Which.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
}

/// A shelf that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundShelf {
    /// Where it was reached, and where else it says that it listens.
    pub addresses: Vec<SocketAddr>,
    /// Its subsystem.
    pub nqn: Nqn,
}

/// A drive of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDrive {
    /// Its place in the array.
    pub place: DriveIndex,
    /// Which of the shelves has it.
    pub shelf: usize,
    /// Which namespace it is.
    pub nsid: u32,
}

/// An array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundArray {
    /// What people call it.
    pub name: String,
    /// Which it is.
    pub id: ArrayId,
    /// All of its drives.
    pub drives: DriveSet,
    /// Those that vote.
    pub voters: DriveSet,
    /// Its drives that were found, by place; a place twice is a drive and a copy of it, and both are left out.
    pub found: Vec<FoundDrive>,
    /// The newest decided record; `None` before the first epoch, or if no voter was found.
    pub record: Option<EpochRecord>,
}

impl FoundArray {
    /// Drives that may be lost, as its voters were chosen for.
    pub fn failures(&self) -> u8 {
        u8::try_from(self.voters.count() / 2).expect("a few drives vote")
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The shelves.
    pub shelves: Vec<FoundShelf>,
    /// The arrays, by identifier.
    pub arrays: Vec<FoundArray>,
    /// Namespaces that could be drives of an array and belong to none.
    pub blank: Vec<(usize, u32)>,
    /// Namespaces whose labels are damaged or contradict others, and how.
    pub unfit: Vec<(usize, u32, String)>,
}

/// Looks at the shelves that listen at these addresses.
pub fn survey(addresses: &[SocketAddr]) -> Result<Survey, SurveyError> {
    let mut shelves: Vec<FoundShelf> = Vec::new();
    for address in addresses {
        for found in discover(*address)? {
            match shelves.iter_mut().find(|shelf| shelf.nqn == found.nqn) {
                Some(known) => {
                    let new = found.addresses.into_iter();
                    known
                        .addresses
                        .extend(new.filter(|it| !known.addresses.contains(it)).collect::<Vec<_>>());
                }
                None => shelves.push(found),
            }
        }
    }
    let mut survey = Survey::default();
    for (at, shelf) in shelves.iter().enumerate() {
        let target = Target {
            other_addresses: shelf.addresses[1..].to_vec(),
            ..target_at(shelf.addresses[0], shelf.nqn.clone())
        };
        let host = connect(target)?;
        let facts = await_event(&host, shelf.addresses[0], |event| match event {
            Event::Ready { facts, .. } => Some(facts),
            Event::Discovered { .. } | Event::Down { .. } | Event::Failed { .. } | Event::Stopped { .. } => {
                None
            }
        })?;
        look(&host, at, &facts, &mut survey);
        let _ = host.stop(); // Whatever it says, everything is read.
    }
    survey.shelves = shelves;
    survey.arrays.sort_by_key(|array| array.id);
    for array in &mut survey.arrays {
        leave_out_copies(array, &mut survey.unfit);
    }
    Ok(survey)
}

fn target_at(address: SocketAddr, nqn: Nqn) -> Target {
    let own = Identity::of_this_machine();
    Target::new(address, nqn, own.nqn, own.id)
}

fn connect(target: Target) -> Result<Host<Questions>, SurveyError> {
    let options = Options {
        poll: PollMode::Interrupt,
        arena_bytes: ARENA_BYTES,
        files_max: 16,
        ..Options::default()
    };
    Ok(Host::start(options, vec![target], |_| Questions::default())?)
}

fn await_event<R>(
    host: &Host<Questions>,
    address: SocketAddr,
    wanted: impl Fn(Event) -> Option<R>,
) -> Result<R, SurveyError> {
    let unreachable = |why: String| SurveyError::Unreachable { address, why };
    let end = Instant::now() + CONNECT_WAIT;
    let mut last = "it takes too long".to_owned();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match host.events().recv_timeout(left) {
            Ok(Event::Failed { reason, .. }) => return Err(unreachable(reason.to_string())),
            Ok(Event::Down { reason, .. }) => last = reason.to_string(),
            Ok(event) => {
                if let Some(result) = wanted(event) {
                    return Ok(result);
                }
            }
            Err(RecvTimeoutError::Timeout) => return Err(unreachable(last)),
            Err(RecvTimeoutError::Disconnected) => return Err(HostError::Silent.into()),
        }
    }
}

/// The subsystems with namespaces of the target at an address.
fn discover(address: SocketAddr) -> Result<Vec<FoundShelf>, SurveyError> {
    let discovery = Target {
        kind: Kind::Discovery,
        io_queues: 1,
        ..target_at(address, Nqn::DISCOVERY)
    };
    let host = connect(discovery)?;
    let entries = await_event(&host, address, |event| match event {
        Event::Discovered { entries, .. } => Some(entries),
        Event::Ready { .. } | Event::Down { .. } | Event::Failed { .. } | Event::Stopped { .. } => None,
    });
    let _ = host.stop(); // Whatever it says, everything is read.
    let mut shelves: BTreeMap<String, FoundShelf> = BTreeMap::new();
    for entry in entries? {
        let is_ours = entry.subtype == SubsystemType::Nvm && entry.trtype == DiscoveryEntry::TRTYPE_TCP;
        let at = address_of(&entry);
        if let Some(at) = at.filter(|_| is_ours) {
            let shelf = shelves.entry(entry.subnqn.as_str().to_owned());
            let shelf = shelf.or_insert_with(|| FoundShelf {
                addresses: Vec::new(),
                nqn: entry.subnqn.clone(),
            });
            shelf.addresses.push(at);
        }
    }
    let mut shelves: Vec<FoundShelf> = shelves.into_values().collect();
    for shelf in &mut shelves {
        // Where it answered comes first: other addresses may be out of reach from here.
        if let Some(at) = shelf.addresses.iter().position(|it| *it == address) {
            shelf.addresses.swap(0, at);
        }
    }
    Ok(shelves)
}

fn address_of(entry: &DiscoveryEntry) -> Option<SocketAddr> {
    let address: IpAddr = entry.address.parse().ok()?;
    Some(SocketAddr::new(address, entry.service.parse().ok()?))
}

fn read(
    host: &Host<Questions>,
    Encoded {
        entry, read_bytes, ..
    }: Encoded,
) -> Option<Vec<u8>> {
    let (outcome, data) = host.ask(0, false, entry, Vec::new(), read_bytes, ANSWER_WAIT);
    outcome
        .is_ok_and(|answer| answer.status.is_success())
        .then_some(data)
}

/// Reads what the namespaces of a shelf say.
fn look(host: &Host<Questions>, shelf: usize, facts: &Arc<TargetFacts>, survey: &mut Survey) {
    for namespace in &facts.namespaces {
        let has_area = |other: &Namespace| {
            other.nsid == quorum_of(namespace.nsid)
                && other.block_bytes == namespace.block_bytes
                && other.blocks > LABEL_BLOCK as u64
        };
        // Shelves give odd numbers to data, and the next ones to quorum areas.
        if namespace.nsid.is_multiple_of(2) || !facts.namespaces.iter().any(has_area) {
            continue;
        }
        let block = read(host, desk::read_label(namespace));
        let label = match block.as_deref().map(Label::parse) {
            None => Err("its label cannot be read".to_owned()),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(Some(label))) if label.namespace != namespace.uuid => {
                Err("it is a copy of a drive of an array".to_owned())
            }
            Some(Ok(label)) => Ok(label),
        };
        match label {
            Err(why) => survey.unfit.push((shelf, namespace.nsid, why)),
            Ok(None) => survey.blank.push((shelf, namespace.nsid)),
            Ok(Some(label)) => note(host, shelf, namespace, label, survey),
        }
    }
}

/// Notes a drive of an array, and what it has of the array's records.
fn note(host: &Host<Questions>, shelf: usize, namespace: &Namespace, label: Label, survey: &mut Survey) {
    let known = survey.arrays.iter().position(|array| array.id == label.array);
    let at = known.unwrap_or_else(|| {
        survey.arrays.push(FoundArray {
            name: label.name.clone(),
            id: label.array,
            drives: label.drives,
            voters: label.voters,
            found: Vec::new(),
            record: None,
        });
        survey.arrays.len() - 1
    });
    let array = &mut survey.arrays[at];
    if (label.drives, label.voters) != (array.drives, array.voters) {
        let why = format!(
            "its label contradicts those of other drives of \"{}\"",
            array.name
        );
        survey.unfit.push((shelf, namespace.nsid, why));
        return;
    }
    array.found.push(FoundDrive {
        place: label.drive,
        shelf,
        nsid: namespace.nsid,
    });
    let records = read(host, desk::read_quorum(namespace));
    let records =
        records.and_then(|data| parse_quorum(label.array, namespace.block_bytes as usize, &data).ok());
    if let Some(newest) = records.as_ref().and_then(|records| records.newest()) {
        let is_newer = array
            .record
            .as_ref()
            .is_none_or(|known| known.epoch < newest.epoch);
        if is_newer {
            array.record = Some(newest.clone());
        }
    }
}

fn leave_out_copies(array: &mut FoundArray, unfit: &mut Vec<(usize, u32, String)>) {
    array.found.sort_by_key(|drive| drive.place);
    let mut places = BTreeSet::new();
    let twice: BTreeSet<DriveIndex> = array
        .found
        .iter()
        .filter_map(|drive| (!places.insert(drive.place)).then_some(drive.place))
        .collect();
    for drive in array.found.iter().filter(|drive| twice.contains(&drive.place)) {
        let why = format!("drive {} of \"{}\" is there twice", drive.place, array.name);
        unfit.push((drive.shelf, drive.nsid, why));
    }
    array.found.retain(|drive| !twice.contains(&drive.place));
}
