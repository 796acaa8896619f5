//! Which namespaces of the shelves are drives of the array: what they are called here, and what their labels say.

use std::fmt;

use super::Setup;
use super::desk::{HEARTBEATS_AT, quorum_of};
use crate::icl::membership::label::{LABEL_BLOCK, Label, LabelError};
use crate::icl::membership::record::{QUORUM_BLOCKS, RECORD_BYTES};
use crate::icl::{DriveIndex, DriveSet, SLOTS};
use crate::target::host::{Drain, Namespace, TargetFacts};

/// How a namespace is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceName {
    /// By its number.
    Nsid(u32),
    /// By its UUID.
    Uuid([u8; 16]),
}

impl NamespaceName {
    /// Whether it is the name of this one.
    pub fn names(self, namespace: &Namespace) -> bool {
        match self {
            Self::Nsid(nsid) => namespace.nsid == nsid,
            Self::Uuid(uuid) => namespace.uuid == uuid,
        }
    }
}

/// Why a drive takes no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The shelf has no such namespace.
    Missing,
    /// There is no quorum area beside it, or it is too small.
    NoQuorum,
    /// Blocks are too small for a record, or the shelf moves too little at once.
    Blocks,
    /// Its label is none.
    Label(LabelError),
    /// It belongs to another array, or to one with another key.
    OtherArray(String),
    /// Its label was written to another namespace: it is a copy.
    Copy,
    /// Another drive has the same place: two shelves offer the same drive.
    Twice(String),
    /// Its label contradicts those of other drives.
    Contradicts,
    /// Its label could not be read, or it did not let this node claim its name.
    Unreadable,
    /// Something that a lost connection has left behind may change it at any time, and its target does not end that.
    Undrained,
}

impl fmt::Display for Unfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => out.write_str("the shelf has no such namespace; `braid shelf show` lists what it has"),
            Self::NoQuorum => out.write_str(
                "there is no quorum area beside the namespace: it is no data namespace of a shelf of this program",
            ),
            Self::Blocks => out.write_str("its shelf reads too little at once for the records of membership"),
            Self::Label(error) => write!(out, "{error}"),
            Self::OtherArray(name) => write!(
                out,
                "it belongs to the array \"{name}\", or to one of that name with another key"
            ),
            Self::Copy => out.write_str("it is a copy of a drive of the array"),
            Self::Twice(other) => write!(out, "drive \"{other}\" is the same drive of the array: one of them is a copy"),
            Self::Contradicts => out.write_str("its label contradicts those of the other drives"),
            Self::Unreadable => out.write_str("its label cannot be read, or it takes no commands of this node"),
            Self::Undrained => out.write_str(
                "a command of a lost connection may still change it, and its target has no Cross-Controller Reset for that connection: start this node anew when the target has ended it",
            ),
        }
    }
}

/// How far a drive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its shelf is not connected.
    Away,
    /// What a lost connection has left behind is being waited for.
    Draining,
    /// Its label is being read.
    Reading,
    /// It has no label yet.
    Blank,
    /// It is this drive of the array.
    Member(DriveIndex),
    /// It takes no part.
    Unfit(Unfit),
}

/// One drive.
#[derive(Debug)]
pub struct Drive {
    /// What the shelf says of its data.
    pub namespace: Option<Namespace>,
    /// How far it is.
    pub state: State,
    /// Something that changes it was under way when its shelf was lost: an answer did not come, and it may take effect at any time.
    left_behind: bool,
}

impl Drive {
    /// How far a drive is that is there. As long as a command of an earlier connection may take effect, nothing is asked of it: a late
    /// write of this very life could undo a later one.
    fn after_drain(&mut self, drain: Drain) -> State {
        if !self.left_behind {
            return State::Reading;
        }
        match drain {
            Drain::Proven => {
                self.left_behind = false;
                State::Reading
            }
            Drain::UnderWay => State::Draining,
            Drain::NotAsked | Drain::Unsupported | Drain::Refused(_) => State::Unfit(Unfit::Undrained),
        }
    }
}

/// All drives of the configuration.
#[derive(Debug)]
pub struct Drives {
    all: Vec<Drive>,
    /// What the first label said that was read.
    array: Option<(DriveSet, DriveSet)>,
}

impl Drives {
    /// Drives of which nothing is known yet.
    pub fn new(setup: &Setup) -> Self {
        let away = |_| Drive {
            namespace: None,
            state: State::Away,
            left_behind: false,
        };
        Self {
            all: setup.drives.iter().map(away).collect(),
            array: None,
        }
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Drive> {
        self.all.iter()
    }

    /// One of them.
    pub fn get(&self, drive: usize) -> &Drive {
        &self.all[drive]
    }

    /// Drives of the array, and those of them that vote, as labels say.
    pub const fn array(&self) -> Option<(DriveSet, DriveSet)> {
        self.array
    }

    /// The drive that has this place in the array, if it is there.
    pub fn find(&self, index: DriveIndex) -> Option<usize> {
        self.all
            .iter()
            .position(|drive| drive.state == State::Member(index))
    }

    /// A shelf is connected. Drives whose labels are to be read.
    pub fn shelf_up(&mut self, setup: &Setup, shelf: u16, facts: &TargetFacts) -> Vec<usize> {
        let mut to_read = Vec::new();
        for (at, spec) in setup.drives.iter().enumerate() {
            let drive = &mut self.all[at];
            // Namespaces may also have changed while it was connected: what is a drive of the array stays one.
            if spec.shelf != shelf || matches!(drive.state, State::Member(_) | State::Reading) {
                continue;
            }
            drive.namespace = facts
                .namespaces
                .iter()
                .find(|namespace| spec.namespace.names(namespace))
                .copied();
            drive.state = match drive.namespace {
                None => State::Unfit(Unfit::Missing),
                Some(namespace) => match check(facts, &namespace) {
                    Some(unfit) => State::Unfit(unfit),
                    None => drive.after_drain(facts.drain),
                },
            };
            if drive.state == State::Reading {
                to_read.push(at);
            }
        }
        to_read
    }

    /// The answer to a command that changes a drive has not come when its shelf was lost.
    pub fn leave_behind(&mut self, drive: usize) {
        self.all[drive].left_behind = true;
    }

    /// A shelf is not connected any more. Places of drives of the array that are gone with it.
    pub fn shelf_down(&mut self, setup: &Setup, shelf: u16) -> Vec<DriveIndex> {
        let mut gone = Vec::new();
        for (spec, drive) in setup.drives.iter().zip(&mut self.all) {
            if spec.shelf == shelf
                && let State::Member(index) = std::mem::replace(&mut drive.state, State::Away)
            {
                gone.push(index);
            }
        }
        gone
    }

    /// A drive without a label is looked at again. Whether it is one.
    pub fn look_again(&mut self, drive: usize) -> bool {
        let state = &mut self.all[drive].state;
        let is_blank = matches!(state, State::Blank | State::Unfit(Unfit::Unreadable));
        if is_blank {
            *state = State::Reading;
        }
        is_blank
    }

    /// A drive that does not do what it is asked is looked at again later.
    pub fn doubt(&mut self, drive: usize) {
        if matches!(self.all[drive].state, State::Member(_)) {
            self.all[drive].state = State::Unfit(Unfit::Unreadable);
        }
    }

    /// The label of a drive was read, or could not be. The place that it has in the array, if it is a drive of that.
    pub fn labelled(&mut self, setup: &Setup, drive: usize, bytes: Option<&[u8]>) -> Option<DriveIndex> {
        if self.all[drive].state != State::Reading {
            return None; // Its shelf was lost meanwhile.
        }
        let state = match bytes.map(Label::parse) {
            None => State::Unfit(Unfit::Unreadable),
            Some(Err(error)) => State::Unfit(Unfit::Label(error)),
            Some(Ok(None)) => State::Blank,
            Some(Ok(Some(label))) => match self.judge(setup, drive, &label) {
                Some(unfit) => State::Unfit(unfit),
                None => {
                    self.array = Some((label.drives, label.voters));
                    State::Member(label.drive)
                }
            },
        };
        let index = match state {
            State::Member(index) => Some(index),
            State::Away | State::Draining | State::Reading | State::Blank | State::Unfit(_) => None,
        };
        if let State::Unfit(unfit) = &state {
            tracing::warn!(drive = %setup.drives[drive].name, "drive takes no part in the array: {unfit}");
        }
        self.all[drive].state = state;
        index
    }

    fn judge(&self, setup: &Setup, drive: usize, label: &Label) -> Option<Unfit> {
        let uuid = self.all[drive].namespace.map(|namespace| namespace.uuid);
        if label.array != setup.array() {
            return Some(Unfit::OtherArray(label.name.clone()));
        }
        if Some(label.namespace) != uuid {
            return Some(Unfit::Copy);
        }
        if let Some(other) = self.find(label.drive) {
            return Some(Unfit::Twice(setup.drives[other].name.clone()));
        }
        let contradicts = |array: (DriveSet, DriveSet)| array != (label.drives, label.voters);
        self.array.is_some_and(contradicts).then_some(Unfit::Contradicts)
    }
}

/// What keeps a namespace from being a drive of an array.
fn check(facts: &TargetFacts, namespace: &Namespace) -> Option<Unfit> {
    let quorum = quorum_of(namespace.nsid);
    let quorum = facts.namespaces.iter().find(|other| other.nsid == quorum);
    let block_bytes = namespace.block_bytes;
    let most = QUORUM_BLOCKS.max(SLOTS);
    let has_heartbeats = namespace.blocks * u64::from(block_bytes) > HEARTBEATS_AT * 2;
    let is_quorum = |quorum: &Namespace| {
        quorum.block_bytes == block_bytes && quorum.blocks > LABEL_BLOCK as u64 && has_heartbeats
    };
    if !quorum.is_some_and(is_quorum) {
        Some(Unfit::NoQuorum)
    } else if (block_bytes as usize) < RECORD_BYTES
        || (facts.max_transfer_bytes as usize) < most * block_bytes as usize
    {
        Some(Unfit::Blocks)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use nvme::nqn::Nqn;

    use super::*;
    use crate::icl::membership::label::voters_of;
    use crate::icl::{ArrayId, Slot};
    use crate::target::council::{DriveSpec, ShelfSpec};

    /// Two shelves with two drives each.
    fn setup() -> Setup {
        let shelf = |name: &str| ShelfSpec {
            name: name.to_owned(),
            addresses: vec!["127.0.0.1:1".parse().unwrap()],
            nqn: Nqn::parse("nqn.2026-01.io.braid:s").unwrap(),
        };
        let drive = |number: u16| DriveSpec {
            name: format!("d{number}"),
            shelf: number / 2,
            namespace: NamespaceName::Nsid(u32::from(number % 2) * 2 + 1),
        };
        Setup {
            name: "vault".to_owned(),
            slot: Slot::new(0).unwrap(),
            key: [1; 32],
            failures: 1,
            encryption: config::Encryption::None,
            terms: 0,
            listen: "127.0.0.1:1".parse().unwrap(),
            peers: Vec::new(),
            shelves: vec![shelf("a"), shelf("b")],
            drives: (0..4).map(drive).collect(),
        }
    }

    fn namespace(nsid: u32, shelf: u8, blocks: u64) -> Namespace {
        Namespace {
            nsid,
            blocks,
            block_bytes: 4096,
            nguid: [0; 16],
            uuid: [shelf * 16 + u8::try_from(nsid).unwrap(); 16],
        }
    }

    fn facts(shelf: u8) -> TargetFacts {
        let pair = |nsid| [namespace(nsid, shelf, 1000), namespace(nsid + 1, shelf, 256)];
        TargetFacts {
            max_transfer_bytes: 256 << 10,
            namespaces: [1, 3].into_iter().flat_map(pair).collect(),
            ..TargetFacts::default()
        }
    }

    fn label(setup: &Setup, drives: &Drives, drive: usize) -> Label {
        Label {
            array: setup.array(),
            name: setup.name.clone(),
            drive: DriveIndex::new(u8::try_from(drive).unwrap()).unwrap(),
            namespace: drives.get(drive).namespace.unwrap().uuid,
            drives: DriveSet(0b1111),
            voters: voters_of(4, 1),
        }
    }

    /// Drives whose labels are about to be read.
    fn reading() -> (Setup, Drives) {
        let setup = setup();
        let mut drives = Drives::new(&setup);
        assert_eq!(drives.shelf_up(&setup, 0, &facts(0)), [0, 1]);
        assert_eq!(drives.shelf_up(&setup, 1, &facts(1)), [2, 3]);
        (setup, drives)
    }

    fn unfit(drives: &Drives, drive: usize) -> &Unfit {
        let State::Unfit(unfit) = &drives.get(drive).state else {
            panic!("{:?}", drives.get(drive))
        };
        unfit
    }

    #[test]
    fn labels_say_which_drive_is_which() {
        let (setup, mut drives) = reading();
        for (drive, place) in [(0, 3), (1, 0), (2, 1), (3, 2)] {
            let label = Label {
                drive: DriveIndex::new(place).unwrap(),
                ..label(&setup, &drives, drive)
            };
            let found = drives.labelled(&setup, drive, Some(&label.encode()));
            assert_eq!(found, DriveIndex::new(place));
        }
        assert_eq!(drives.find(DriveIndex::new(3).unwrap()), Some(0));
        assert_eq!(drives.array(), Some((DriveSet(0b1111), voters_of(4, 1))));
        let gone = drives.shelf_down(&setup, 1);
        assert_eq!(gone, [DriveIndex::new(1).unwrap(), DriveIndex::new(2).unwrap()]);
        assert_eq!(
            drives.shelf_up(&setup, 1, &facts(1)),
            [2, 3],
            "they are read anew"
        );
    }

    /// A write of this life may lie in a socket of the connection that was lost. Without the wait the drive would be asked at once.
    #[test]
    fn a_drive_is_asked_nothing_while_something_of_a_lost_connection_may_change_it() {
        let (setup, mut drives) = reading();
        for drive in [0, 1] {
            let label = label(&setup, &drives, drive);
            drives.labelled(&setup, drive, Some(&label.encode()));
        }
        drives.leave_behind(0);
        drives.shelf_down(&setup, 0);
        let with = |drain| TargetFacts { drain, ..facts(0) };
        assert_eq!(drives.shelf_up(&setup, 0, &with(Drain::UnderWay)), [1]);
        assert_eq!(drives.get(0).state, State::Draining);
        assert!(!drives.look_again(0));
        // Lost once more before that is over.
        drives.shelf_down(&setup, 0);
        assert_eq!(drives.shelf_up(&setup, 0, &with(Drain::UnderWay)), [1]);
        assert_eq!(drives.shelf_up(&setup, 0, &with(Drain::Proven)), [0]);
        drives.shelf_down(&setup, 0);
        assert_eq!(drives.shelf_up(&setup, 0, &with(Drain::UnderWay)), [0, 1]);
        drives.leave_behind(1);
        drives.shelf_down(&setup, 0);
        assert_eq!(drives.shelf_up(&setup, 0, &with(Drain::Unsupported)), [0]);
        assert_eq!(unfit(&drives, 1), &Unfit::Undrained);
        assert!(Unfit::Undrained.to_string().contains("Cross-Controller Reset"));
    }

    #[test]
    fn what_is_no_drive_of_the_array_takes_no_part_and_says_why() {
        let (setup, mut drives) = reading();
        let good = label(&setup, &drives, 0);
        assert!(drives.labelled(&setup, 0, Some(&good.encode())).is_some());
        let mut read = |drive: usize, bytes: Option<&[u8]>, expected: &Unfit| {
            assert_eq!(drives.labelled(&setup, drive, bytes), None);
            assert_eq!(unfit(&drives, drive), expected);
            assert!(!expected.to_string().is_empty());
            drives.all[drive].state = State::Reading;
        };
        let uuid = |drive: u32, shelf| namespace(drive, shelf, 0).uuid;
        let other = Label {
            array: ArrayId([9; 16]),
            namespace: uuid(3, 0),
            ..good.clone()
        };
        read(1, Some(&other.encode()), &Unfit::OtherArray("vault".to_owned()));
        read(1, Some(&good.encode()), &Unfit::Copy);
        let twice = Label {
            namespace: uuid(1, 1),
            ..good.clone()
        };
        read(2, Some(&twice.encode()), &Unfit::Twice("d0".to_owned()));
        let contradicts = Label {
            namespace: uuid(3, 1),
            drive: DriveIndex::new(3).unwrap(),
            voters: DriveSet(1),
            ..good
        };
        read(3, Some(&contradicts.encode()), &Unfit::Contradicts);
        read(3, Some(&[7; 512]), &Unfit::Label(LabelError::Magic));
        read(3, None, &Unfit::Unreadable);
    }

    #[test]
    fn namespaces_that_cannot_carry_records_are_refused_before_they_are_read() {
        let setup = setup();
        let expect = |facts: &TargetFacts, expected: Unfit| {
            let mut drives = Drives::new(&setup);
            let to_read = drives.shelf_up(&setup, 0, facts);
            assert!(!to_read.contains(&0), "{expected:?}");
            assert_eq!(unfit(&drives, 0), &expected);
        };
        let mut none = facts(0);
        none.namespaces.remove(0);
        expect(&none, Unfit::Missing);
        let mut alone = facts(0);
        alone.namespaces.remove(1);
        expect(&alone, Unfit::NoQuorum);
        let mut small = facts(0);
        small.namespaces[1].blocks = 32;
        expect(&small, Unfit::NoQuorum);
        let mut slow = facts(0);
        slow.max_transfer_bytes = 8192;
        expect(&slow, Unfit::Blocks);
    }

    #[test]
    fn a_blank_drive_is_looked_at_again_and_others_are_not() {
        let (setup, mut drives) = reading();
        assert_eq!(drives.labelled(&setup, 0, Some(&[0; 4096])), None);
        assert_eq!(drives.get(0).state, State::Blank);
        assert!(
            drives.look_again(0) && !drives.look_again(1),
            "one is read already"
        );
        let label = label(&setup, &drives, 0);
        assert!(drives.labelled(&setup, 0, Some(&label.encode())).is_some());
        assert!(!drives.look_again(0));
        drives.doubt(0);
        assert!(drives.look_again(0), "it did not do what it was asked");
    }
}
