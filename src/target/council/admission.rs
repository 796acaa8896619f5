//! Whether a target keeps what nodes that share its drives rely on: tried out on the target itself, before anything of an array is on it.
//!
//! Two hosts, both of this program, register and reserve a namespace; then one fences the other with Preempt and Abort while that has
//! many writes under way. What the target does not show to hold is refused (PROTOCOL 3.6, hazards H03 and H04).
//!
//! Who makes an array holds one of its drives meanwhile ([`Hold`]), so that of several nodes that are asked for it at the same moment one makes it, and nobody tries out drives that
//! are about to be in use.
//!
//! Written are [`REGION_BLOCKS`] blocks from [`REGION_AT`], where the heartbeats of an array's nodes are going to be, and nothing else; what was there
//! before is put back. A namespace that anybody is registered with is left alone.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use config::RemoteShelf;
use nvme::command::{SubmissionEntry, admin_opcode, io_opcode};
use nvme::identify::{IDENTIFY_BYTES, cns};
use nvme::reservation::{Command, HostId, Key, Kind, Persistence, REGISTRANTS_MAX, Report};
use nvme::status::Status;
use reactor::{Options, PollMode};
use uuid::Uuid;

use super::desk::{self, HEARTBEATS_AT};
use crate::icl::SLOTS;
use crate::icl::membership::label::Label;
use crate::target::fabric::session::{ANSWER_WAIT, await_ready};
use crate::target::host::ask::Questions;
use crate::target::host::{Host, Job, Namespace, Outcome, Target, TargetFacts};

/// First byte of what is written.
pub const REGION_AT: u64 = HEARTBEATS_AT;
/// Blocks that are written.
pub const REGION_BLOCKS: u32 = 8;
const _: () = assert!(REGION_BLOCKS as usize == SLOTS);
/// Writes of a round.
const WRITES: u32 = 512;
/// Answers to them after which the fence begins.
const ANSWERED_FIRST: usize = 32;
/// Commands in flight of each host.
const DEPTH: u16 = 64;
/// Rounds in which a fence has to have met writes under way.
const ROUNDS: u32 = 3;
/// Rounds after which a target is called too quick to be judged.
const ROUNDS_MAX: u32 = 12;
/// How long after a fence a write would have to be held to escape this test.
const OBSERVED: Duration = Duration::from_millis(100);
/// How often a host that has taken a drive looks whether it is alone there, and the pause between.
const ALONE_LOOKS_MAX: u32 = 100;
const ALONE_AGAIN: Duration = Duration::from_millis(20);
/// Memory of a host's core: its commands are of one block, beside a page or two.
const ARENA_BYTES: usize = 16 << 20;
/// What an array uses: who is not registered reads nothing either.
const EXCLUSIVE: Kind = Kind::ExclusiveAccessAllRegistrants;

/// Something that a target was shown to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub what: &'static str,
    /// What was found.
    pub found: String,
}

/// Why a target is not fit for drives that nodes share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}. {remedy}")]
pub struct Refusal {
    /// What it is about.
    pub what: &'static str,
    /// What was found, or not.
    pub why: String,
    /// What can be done.
    pub remedy: &'static str,
}

const USE_A_SHELF: &str =
    "Use a target that has it, such as `braid shelf`, and on it the namespaces with odd numbers";
const ANOTHER_MAKES: &str = "Another node makes an array of it at this moment, or has made it; `braid array show` says when it is there";
const LOOK: &str = "Look into the log of the target and try again";

fn refusal(what: &'static str, why: impl Into<String>, remedy: &'static str) -> Refusal {
    Refusal {
        what,
        why: why.into(),
        remedy,
    }
}

/// One of the two hosts.
struct Party {
    host: Host<Questions>,
    facts: Arc<TargetFacts>,
    id: HostId,
    key: Key,
}

/// Tries a target out. What it was shown to do comes in the order in which it was found.
pub fn examine(
    target: &RemoteShelf,
    is_it: impl Fn(&Namespace) -> bool,
    mut tell: impl FnMut(Finding),
) -> Result<(), Refusal> {
    let one = Party::connect(target)?;
    let namespace = one.find(is_it)?;
    let bench = Bench {
        one: &one,
        two: Party::connect(target)?,
        namespace,
    };
    tell(one.capabilities(&namespace)?);
    one.is_free(&namespace)?;
    let result = bench.shared(&mut tell);
    // Registrations are nobody's afterwards, however far it came.
    let cleared = one.reserve(&namespace, Command::Clear { current: one.key });
    result?;
    if cleared.is_success() {
        Ok(())
    } else {
        Err(refusal("clear", cleared.to_string(), LOOK))
    }
}

/// The namespaces of a target.
pub fn namespaces(target: &RemoteShelf) -> Result<Vec<Namespace>, Refusal> {
    Ok(Party::connect(target)?.facts.namespaces.clone())
}

/// A drive that is this node's alone until it lets go of it.
pub struct Hold {
    party: Party,
    namespace: Namespace,
    /// Keys are held to epochs there because this node has asked for it.
    is_prepared: bool,
}

impl Hold {
    /// Takes a drive that nobody is registered with, and that has no label. Of several who try that at the same moment one gets it.
    pub fn take(target: &RemoteShelf, is_it: impl Fn(&Namespace) -> bool) -> Result<Self, Refusal> {
        const WHAT: &str = "hold";
        let party = Party::connect(target)?;
        let namespace = party.find(is_it)?;
        party.capabilities(&namespace)?;
        party.is_free(&namespace)?;
        let status = party.register(&namespace);
        if !status.is_success() {
            let why =
                format!("Reservation Register that outlives a loss of power (CPTPL 3) failed: {status}");
            return Err(refusal(WHAT, why, USE_A_SHELF));
        }
        let hold = Self {
            party,
            namespace,
            is_prepared: false,
        };
        let held = hold.acquire().and_then(|()| hold.is_blank());
        match held {
            Ok(()) => Ok(hold),
            Err(refusal) => {
                hold.release();
                Err(refusal)
            }
        }
    }

    fn acquire(&self) -> Result<(), Refusal> {
        let (current, kind) = (self.party.key, Kind::ExclusiveAccess);
        let acquire = Command::Acquire { current, kind };
        let status = self.party.reserve(&self.namespace, acquire);
        if status.same_code(Status::RESERVATION_CONFLICT) {
            return Err(refusal(
                "registrants",
                "another node has just taken it",
                ANOTHER_MAKES,
            ));
        }
        if !status.is_success() {
            let why = format!("a reservation of type {kind:?} cannot be had: {status}");
            return Err(refusal("hold", why, USE_A_SHELF));
        }
        // Whoever has tried at the same moment has registered as well, and goes.
        let alone = || Ok(self.party.report(&self.namespace)?.registrants.len() == 1);
        for _ in 0..ALONE_LOOKS_MAX {
            if alone()? {
                return Ok(());
            }
            std::thread::sleep(ALONE_AGAIN);
        }
        self.party.is_free(&self.namespace)
    }

    /// Another node may have made the array since this one has looked.
    fn is_blank(&self) -> Result<(), Refusal> {
        let label = desk::read_label(&self.namespace);
        let (status, data) = self.party.ask(false, label.entry, label.data, label.read_bytes);
        if !status.is_success() {
            return Err(refusal("label", format!("it cannot be read: {status}"), LOOK));
        }
        match Label::parse(&data) {
            Ok(None) => Ok(()),
            Ok(Some(_)) | Err(_) => Err(refusal("label", "it has one by now", ANOTHER_MAKES)),
        }
    }

    /// Has the drive hold keys to epochs, or not any more: who writes its label is not registered there, and so could not.
    fn hold_keys(&self, on: bool) -> Status {
        let keys = desk::hold_keys(&self.namespace, on);
        self.party.ask(true, keys.entry, keys.data, keys.read_bytes).0
    }

    /// Tries the drive itself out, like [`examine`], and keeps it: whoever looks finds somebody registered all the time.
    pub fn examine(&self, target: &RemoteShelf, mut tell: impl FnMut(Finding)) -> Result<(), Refusal> {
        let bench = Bench {
            one: &self.party,
            two: Party::connect(target)?,
            namespace: self.namespace,
        };
        tell(self.party.capabilities(&self.namespace)?);
        let (current, kind) = (self.party.key, Kind::ExclusiveAccess);
        let status = self
            .party
            .reserve(&self.namespace, Command::Release { current, kind });
        if !status.is_success() {
            let why = format!("Reservation Release failed: {status}");
            return Err(refusal("types", why, LOOK));
        }
        let result = bench.shared(&mut tell);
        let _ = bench.two.unregister(&self.namespace); // It is fenced, if all went well.
        result
    }

    /// The drive is about to get its label.
    pub fn prepare(&mut self) -> Result<(), Refusal> {
        let status = self.hold_keys(true);
        self.is_prepared = status.is_success();
        let why = || format!("keys are not held to epochs (feature C0h): {status}");
        status
            .is_success()
            .then_some(())
            .ok_or_else(|| refusal("keys", why(), USE_A_SHELF))
    }

    /// Lets go of it. If it has got no label it is as it was before.
    pub fn release(self) {
        if self.is_prepared && self.is_blank().is_ok() {
            let _ = self.hold_keys(false); // Whoever makes an array of it has it hold them again.
        }
        let status = self.party.unregister(&self.namespace);
        // Members of the array that has been made meanwhile take the registration of whoever is none.
        if !status.is_success() && !status.same_code(Status::RESERVATION_CONFLICT) {
            tracing::warn!(%status, "a drive that was held while the array was made is not let go of");
        }
    }
}

impl Party {
    fn connect(shelf: &RemoteShelf) -> Result<Self, Refusal> {
        let id = Uuid::new_v4().into_bytes();
        let (first, others) = shelf.addresses.split_first().expect("a target has an address");
        let target = Target {
            other_addresses: others.to_vec(),
            depth: DEPTH,
            header_digest: shelf.header_digest,
            data_digest: shelf.data_digest,
            ..Target::new(*first, shelf.nqn.clone(), shelf.host_nqn.clone(), id)
        };
        let options = Options {
            poll: PollMode::Interrupt,
            arena_bytes: ARENA_BYTES,
            files_max: 64,
            ..Options::default()
        };
        let host = Host::start(options, vec![target], |_| Questions::default())
            .map_err(|error| refusal("connection", error.to_string(), LOOK))?;
        let facts = await_ready(&host, shelf).map_err(|error| {
            refusal(
                "connection",
                error.to_string(),
                "Check the address and the network",
            )
        })?;
        let [a, b, c, d, e, f, g, h, ..] = id;
        // Never 0, and no key of a slot: no epoch of an array is held to it.
        let key = Key(u64::from_le_bytes([a | 1, b, c, d | 0x80, e, f, g, h]));
        Ok(Self {
            host,
            facts,
            id: HostId(id),
            key,
        })
    }

    fn ask(
        &self,
        is_admin: bool,
        entry: SubmissionEntry,
        data: Vec<u8>,
        read_bytes: u32,
    ) -> (Status, Vec<u8>) {
        let (outcome, data) = self.host.ask(0, is_admin, entry, data, read_bytes, ANSWER_WAIT);
        (status_of(outcome), data)
    }

    fn reserve(&self, namespace: &Namespace, command: Command) -> Status {
        let (entry, data) = command.encode(0, namespace.nsid);
        self.ask(false, entry, data, 0).0
    }

    fn register(&self, namespace: &Namespace) -> Status {
        let (new, persistence) = (self.key, Persistence::On);
        self.reserve(namespace, Command::Register { new, persistence })
    }

    fn unregister(&self, namespace: &Namespace) -> Status {
        let (current, persistence) = (Some(self.key), Persistence::Keep);
        self.reserve(namespace, Command::Unregister { current, persistence })
    }

    fn find(&self, is_it: impl Fn(&Namespace) -> bool) -> Result<Namespace, Refusal> {
        let all = &self.facts.namespaces;
        let found = all.iter().find(|namespace| is_it(namespace)).copied();
        found.ok_or_else(|| {
            let named: Vec<String> = all.iter().map(|it| it.nsid.to_string()).collect();
            refusal(
                "namespace",
                format!("there is none of that name; there are {}", named.join(", ")),
                "Check the configuration",
            )
        })
    }

    fn report(&self, namespace: &Namespace) -> Result<Report, Refusal> {
        let length_bytes = Report::bytes(REGISTRANTS_MAX, true) as u64;
        let command = Command::Report {
            extended: true,
            length_bytes,
        };
        let (entry, data) = command.encode(0, namespace.nsid);
        let bytes = u32::try_from(length_bytes).expect("a report is short");
        let (status, page) = self.ask(false, entry, data, bytes);
        let report = Report::parse(&page, true).filter(|_| status.is_success());
        report.ok_or_else(|| {
            refusal(
                "report",
                format!("Reservation Report failed: {status}"),
                USE_A_SHELF,
            )
        })
    }

    /// What the target says of itself.
    ///
    /// Source: NVM Express Base Specification 2.0, Identify Controller (ONCS bit 5); NVM Command Set Specification 1.0, Identify Namespace (NMIC in
    /// byte 30, RESCAP in byte 31).
    fn capabilities(&self, namespace: &Namespace) -> Result<Finding, Refusal> {
        const ONCS_RESERVATIONS: u16 = 1 << 5;
        if self.facts.oncs & ONCS_RESERVATIONS == 0 {
            let why = "the target has no reservations (ONCS bit 5)";
            return Err(refusal("capabilities", why, USE_A_SHELF));
        }
        if namespace.blocks * u64::from(namespace.block_bytes) < 2 * REGION_AT {
            let why = "the namespace has less than 256 KiB";
            return Err(refusal("capabilities", why, "Use a larger one"));
        }
        let mut identify = SubmissionEntry::new(admin_opcode::IDENTIFY, 0);
        identify.set_nsid(namespace.nsid);
        identify.set_dword(10, u32::from(cns::NAMESPACE));
        let bytes = u32::try_from(IDENTIFY_BYTES).expect("a page");
        let (status, page) = self.ask(true, identify, Vec::new(), bytes);
        let (Some(&nmic), Some(&rescap), true) = (page.get(30), page.get(31), status.is_success()) else {
            return Err(refusal(
                "capabilities",
                format!("Identify failed: {status}"),
                LOOK,
            ));
        };
        match lacking(nmic, rescap) {
            Some(why) => Err(refusal("capabilities", why, USE_A_SHELF)),
            None => Ok(Finding {
                what: "capabilities",
                found: format!("shared, PTPL, types 5h and 6h (RESCAP {rescap:#04x})"),
            }),
        }
    }

    /// Nobody else uses the namespace.
    fn is_free(&self, namespace: &Namespace) -> Result<(), Refusal> {
        let report = self.report(namespace)?;
        let others = report.registrants.iter().filter(|it| it.host != self.id);
        let hosts: Vec<String> = others.map(|it| it.host.to_string()).collect();
        if hosts.is_empty() {
            return Ok(());
        }
        let why = format!("somebody is registered: host {}", hosts.join(", host "));
        let remedy = "If another node makes an array of it at this moment, `braid array show` says when it is there. Otherwise stop who uses it, or clear its reservation, and try again";
        Err(refusal("registrants", why, remedy))
    }

    fn read(&self, namespace: &Namespace, block: u32, blocks: u32) -> (Status, Vec<u8>) {
        let job = Job::read(
            namespace.nsid,
            first_block(namespace) + u64::from(block),
            blocks,
            namespace.block_bytes,
            0,
        );
        self.ask(false, job.entry, Vec::new(), blocks * namespace.block_bytes)
    }

    fn write(&self, namespace: &Namespace, block: u32, data: Vec<u8>) -> Status {
        let entry = write_entry(namespace, block);
        self.ask(false, entry, data, 0).0
    }
}

/// Writes one block of the region.
fn write_entry(namespace: &Namespace, block: u32) -> SubmissionEntry {
    let slba = first_block(namespace) + u64::from(block);
    let job = Job::write(namespace.nsid, slba, 1, namespace.block_bytes, 0).with_fua();
    job.entry
}

fn first_block(namespace: &Namespace) -> u64 {
    REGION_AT / u64::from(namespace.block_bytes)
}

/// A connection that is lost is a transport error.
fn status_of(outcome: Outcome) -> Status {
    outcome.map_or(Status::TRANSIENT_TRANSPORT_ERROR, |answer| answer.status)
}

/// Two hosts and what they are tried on.
struct Bench<'a> {
    one: &'a Party,
    two: Party,
    namespace: Namespace,
}

impl Bench<'_> {
    /// Everything that needs registrations.
    fn shared(&self, tell: &mut impl FnMut(Finding)) -> Result<(), Refusal> {
        tell(self.persistence()?);
        tell(self.types()?);
        let before = self.read_region()?;
        let fenced = self.fences();
        let restored = self.restore(&before);
        tell(fenced?);
        restored
    }

    fn persistence(&self) -> Result<Finding, Refusal> {
        const WHAT: &str = "persistence";
        for party in [self.one, &self.two] {
            let status = party.register(&self.namespace);
            if !status.is_success() {
                let why =
                    format!("Reservation Register that outlives a loss of power (CPTPL 3) failed: {status}");
                return Err(refusal(WHAT, why, USE_A_SHELF));
            }
        }
        let report = self.one.report(&self.namespace)?;
        let is_listed = |party: &Party| {
            let mut all = report.registrants.iter();
            all.any(|it| (it.host, it.key) == (party.id, party.key))
        };
        if !report.persists {
            let why = "registrations are forgotten with the power: PTPLS is 0 after it was asked for";
            return Err(refusal(WHAT, why, USE_A_SHELF));
        }
        if report.registrants.len() != 2 || !is_listed(self.one) || !is_listed(&self.two) {
            let why = "Reservation Report does not list the hosts and keys that have registered";
            return Err(refusal(WHAT, why, USE_A_SHELF));
        }
        Ok(Finding {
            what: WHAT,
            found: "registrations outlive a loss of power (PTPLS 1)".to_owned(),
        })
    }

    fn types(&self) -> Result<Finding, Refusal> {
        const WHAT: &str = "types";
        let current = self.one.key;
        // The last one stays.
        for kind in [Kind::WriteExclusiveAllRegistrants, EXCLUSIVE] {
            let status = self
                .one
                .reserve(&self.namespace, Command::Acquire { current, kind });
            if !status.is_success() || self.one.report(&self.namespace)?.kind != Some(kind) {
                let why = format!("a reservation of type {kind:?} cannot be had: {status}");
                return Err(refusal(WHAT, why, USE_A_SHELF));
            }
            if kind == EXCLUSIVE {
                break;
            }
            let status = self
                .one
                .reserve(&self.namespace, Command::Release { current, kind });
            if !status.is_success() {
                return Err(refusal(
                    WHAT,
                    format!("Reservation Release failed: {status}"),
                    LOOK,
                ));
            }
        }
        Ok(Finding {
            what: WHAT,
            found: "5h and 6h are had and given back".to_owned(),
        })
    }

    fn read_region(&self) -> Result<Vec<u8>, Refusal> {
        let (status, data) = self.one.read(&self.namespace, 0, REGION_BLOCKS);
        if status.is_success() && data.len() == (REGION_BLOCKS * self.namespace.block_bytes) as usize {
            Ok(data)
        } else {
            Err(refusal(
                "read",
                format!("a registered host cannot read: {status}"),
                LOOK,
            ))
        }
    }

    fn restore(&self, before: &[u8]) -> Result<(), Refusal> {
        let blocks = before.chunks(self.namespace.block_bytes as usize);
        for (block, data) in (0..).zip(blocks) {
            let status = self.one.write(&self.namespace, block, data.to_vec());
            if !status.is_success() {
                let why = format!("what was there before cannot be put back: {status}");
                return Err(refusal("restore", why, LOOK));
            }
        }
        Ok(())
    }

    /// Fences the second host until that has met writes under way often enough.
    fn fences(&self) -> Result<Finding, Refusal> {
        const WHAT: &str = "fence";
        let (mut telling, mut ended) = (0, 0);
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                let status = self.two.register(&self.namespace);
                if !status.is_success() {
                    return Err(refusal(
                        WHAT,
                        format!("a fenced host cannot register anew: {status}"),
                        LOOK,
                    ));
                }
            }
            let met = self.fence(round)?;
            ended += met;
            telling += u32::from(met > 0);
            if telling == ROUNDS {
                let found = format!(
                    "Preempt and Abort met {ended} writes under way in {ROUNDS} of {} rounds, and nothing landed after it",
                    round + 1
                );
                return Ok(Finding { what: WHAT, found });
            }
        }
        let why = format!(
            "no write could be caught under way in {} of {ROUNDS_MAX} rounds",
            ROUNDS_MAX - telling
        );
        Err(refusal(
            WHAT,
            why,
            "Try again while the target is less idle, or over the network that nodes will use",
        ))
    }

    /// One fence. Writes that it has met under way.
    fn fence(&self, round: u32) -> Result<u32, Refusal> {
        const WHAT: &str = "fence";
        let namespace = &self.namespace;
        let begin = |number| {
            let data = stamp(round, number, namespace.block_bytes);
            (write_entry(namespace, number % REGION_BLOCKS), data)
        };
        let mut writes = self.two.host.ask_writes(0, (0..WRITES).map(begin));
        let heard = |write: Receiver<(Outcome, Vec<u8>)>| {
            let (outcome, _) = write.recv_timeout(ANSWER_WAIT).ok()?;
            Some(status_of(outcome))
        };
        let lost = || refusal(WHAT, "the connection of the fenced host was lost", LOOK);
        for write in writes.drain(..ANSWERED_FIRST) {
            let status = heard(write).ok_or_else(lost)?;
            if !status.is_success() {
                return Err(refusal(
                    WHAT,
                    format!("a registered host cannot write: {status}"),
                    LOOK,
                ));
            }
        }
        let preempt = Command::Preempt {
            current: self.one.key,
            victim: self.two.key,
            kind: EXCLUSIVE,
            abort: true,
        };
        let status = self.one.reserve(&self.namespace, preempt);
        if !status.is_success() {
            let why = format!("Preempt and Abort failed under load: {status}");
            return Err(refusal(WHAT, why, USE_A_SHELF));
        }
        let at_once = self.read_region()?;
        let mut met = 0;
        for write in writes {
            let status = heard(write).ok_or_else(lost)?;
            if status.same_code(Status::TRANSIENT_TRANSPORT_ERROR) {
                return Err(lost());
            }
            met += u32::from(!status.is_success());
        }
        let answered = self.read_region()?;
        std::thread::sleep(OBSERVED);
        let later = self.read_region()?;
        let block_bytes = self.namespace.block_bytes as usize;
        if let Some(block) = changed(block_bytes, &[&at_once, &answered, &later]) {
            let why = format!(
                "a write of the fenced host landed in block {block} after Preempt and Abort had completed"
            );
            return Err(refusal(WHAT, why, USE_A_SHELF));
        }
        self.is_kept_out(round)?;
        Ok(met)
    }

    /// A host that was fenced neither reads nor changes anything.
    fn is_kept_out(&self, round: u32) -> Result<(), Refusal> {
        let late = stamp(round, WRITES, self.namespace.block_bytes);
        let write = self.two.write(&self.namespace, 0, late);
        let (read, _) = self.two.read(&self.namespace, 0, 1);
        let mut zero = SubmissionEntry::new(io_opcode::WRITE_ZEROES, 0);
        zero.set_nsid(self.namespace.nsid);
        let slba = u32::try_from(first_block(&self.namespace)).expect("the region is in the head");
        zero.set_dword(10, slba);
        let (zeroes, _) = self.two.ask(false, zero, Vec::new(), 0);
        let is_unknown = zeroes.same_code(Status::INVALID_OPCODE);
        let lets_in = |status: Status| !status.same_code(Status::RESERVATION_CONFLICT);
        let through = [
            ("Write", lets_in(write)),
            ("Read", lets_in(read)),
            ("Write Zeroes", !is_unknown && lets_in(zeroes)),
        ];
        match through.into_iter().find(|(_, lets_in)| *lets_in) {
            None => Ok(()),
            Some((command, _)) => {
                let why = format!("{command} of a fenced host is no reservation conflict");
                Err(refusal("fence", why, USE_A_SHELF))
            }
        }
    }
}

/// What a namespace lacks, by NMIC and RESCAP.
fn lacking(nmic: u8, rescap: u8) -> Option<&'static str> {
    const SHARED: u8 = 1;
    const PTPL: u8 = 1;
    const ALL_REGISTRANTS: u8 = 0b11 << 5;
    if rescap & PTPL == 0 {
        Some("its reservations do not outlive a loss of power (RESCAP bit 0, PTPL)")
    } else if rescap & ALL_REGISTRANTS != ALL_REGISTRANTS {
        Some("it lacks reservations of all registrants (RESCAP bits 5 and 6, types 5h and 6h)")
    } else if nmic & SHARED == 0 {
        Some("it is private to one controller (NMIC bit 0)")
    } else {
        None
    }
}

/// A block that no other write has.
fn stamp(round: u32, number: u32, block_bytes: u32) -> Vec<u8> {
    let [a, b, ..] = round.to_le_bytes();
    let [c, d, ..] = number.to_le_bytes();
    [a, b, c, d].repeat(block_bytes as usize / 4)
}

/// The first block that is not the same in all readings.
fn changed(block_bytes: usize, readings: &[&[u8]]) -> Option<usize> {
    let (first, others) = readings.split_first()?;
    others.iter().find_map(|other| {
        let pairs = first.chunks(block_bytes).zip(other.chunks(block_bytes));
        pairs.into_iter().position(|(before, after)| before != after)
    })
}

#[cfg(test)]
mod tests;
