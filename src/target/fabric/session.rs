//! Drives of shelves apart from the cores: opened, claimed, read and written, one command after the other.
//!
//! A session is a host of its own, on one core. The thread that asks waits for each answer. For drives that are this node's alone it ends
//! before the node's cores start; these connect as somebody else and fence it. Drives that nodes share can be opened at any time, also
//! beside cores that use them: all associations are one host there, and which of them may write what is for their users to agree upon.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use config::{NamespaceName, RemoteShelf, ShelfDrive};
use nvme::command::SubmissionEntry;
use nvme::host::DownReason;
use nvme::nqn::Nqn;
use nvme::status::Status;
use nvme::tcp::initiator::Payload;
use reactor::{Options, PollMode};
use thiserror::Error;

use super::claim::{Claim, Identity, Refusal, Rivals, Step, give_back};
use super::command::{encode, encode_ask, encode_instance, instance_of, part_bytes_max, result_of};
use super::line::Line;
use super::{Answer, Ask, FabricDrive, Shelf, Tenure, answer_of, hostid_of, identity_of, target_of};
use crate::drive::DriveError;
use crate::target::drives::Kind;
use crate::target::host::ask::Questions;
use crate::target::host::{Event, Host, HostError, JobError, Namespace, Outcome, TargetFacts};

/// How long a shelf may take to be reached: one that is restarted may be on its way.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// How long a command may take; the association gives up before.
pub const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Memory of the session's core: a few commands of the largest size.
const ARENA_BYTES: usize = 16 << 20;
/// Namespaces that a message names.
const LISTED_MAX: usize = 8;

/// Why a drive of a shelf cannot be used.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The session's core could not be started.
    #[error("the connection to its shelf cannot be made: {0}")]
    Host(#[from] HostError),
    /// The shelf cannot be reached, or does not have the drive: it may be back later.
    #[error("{0}")]
    Absent(String),
    /// Something that does not go away by itself.
    #[error("{0}")]
    Unusable(String),
}

/// The shelf of a session.
struct Connected {
    shelf: Shelf,
    facts: Arc<TargetFacts>,
    /// Who takes drives; nobody does if nodes share them.
    identity: Option<Identity>,
    take_over: bool,
}

/// What there is of a session's association.
enum Connection {
    Open(Line),
    /// A command was lost, and may still take effect.
    InDoubt,
    Ended,
}

/// Connections to one shelf.
pub struct Session {
    connection: Mutex<Connection>,
    connected: Connected,
    /// Drives that are this node's.
    claimed: Mutex<Vec<Namespace>>,
}

/// The shelves of a configuration, and those of their drives that are opened.
pub struct Sessions {
    sessions: Vec<(String, Result<Arc<Session>, SessionError>)>,
}

impl Sessions {
    /// Connects to all shelves of a node that has this many cores, to all at once; one that is not there is no error before a drive of it is opened.
    pub fn connect(shelves: &[RemoteShelf], tenure: &Tenure, cores: u16) -> Self {
        let connect = |shelf| Session::connect(shelf, tenure, cores).map(Arc::new);
        let sessions = std::thread::scope(|scope| {
            let began: Vec<_> = shelves
                .iter()
                .map(|shelf| (shelf.name.clone(), scope.spawn(move || connect(shelf))))
                .collect();
            let ended = began.into_iter().map(|(name, thread)| {
                let session = thread.join().expect("who connects does not panic");
                (name, session)
            });
            ended.collect()
        });
        Self { sessions }
    }

    /// Finds a drive on its shelf, and makes it this node's unless nodes share it. The number of its shelf counts those that are there.
    pub fn open(&self, drive: &ShelfDrive) -> Result<FabricDrive, SessionError> {
        let named = |(name, _): &&(String, _)| *name == drive.shelf;
        let found = (0..).zip(&self.sessions).find(|(_, session)| named(session));
        let (_, (_, session)) = found.expect("the configuration was checked");
        let session = match session {
            Ok(session) => session,
            Err(SessionError::Absent(why)) => return Err(SessionError::Absent(why.clone())),
            Err(error) => return Err(SessionError::Unusable(error.to_string())),
        };
        let namespace = session.find(&drive.namespace)?;
        if let Some(identity) = session.connected.identity {
            session.claim(identity, &namespace)?;
        }
        let connected = self.sessions.iter().filter(|(_, session)| session.is_ok());
        let shelf = connected.take_while(|(name, _)| *name != drive.shelf).count();
        Ok(FabricDrive {
            shelf: u16::try_from(shelf).expect("a node has at most 64 shelves"),
            namespace,
            identity: session.connected.identity,
            session: Arc::clone(session),
        })
    }

    /// The shelves that are there, in the order of the numbers that their drives have.
    pub fn shelves(&self) -> Vec<Shelf> {
        let connected = self
            .sessions
            .iter()
            .filter_map(|(_, session)| session.as_ref().ok());
        connected.map(|session| session.connected.shelf.clone()).collect()
    }

    /// Gives all drives back, because the node does not start, and ends all sessions.
    pub fn abandon(self) {
        for session in self
            .sessions
            .iter()
            .filter_map(|(_, session)| session.as_ref().ok())
        {
            session.give_back();
        }
        self.end();
    }

    /// Ends all sessions.
    pub fn end(self) {
        for session in self
            .sessions
            .iter()
            .filter_map(|(_, session)| session.as_ref().ok())
        {
            session.end();
        }
    }
}

impl Session {
    fn connect(shelf: &RemoteShelf, tenure: &Tenure, cores: u16) -> Result<Self, SessionError> {
        // As many queues as the cores will want, so that a lack of them is seen now.
        let target = target_of(shelf, tenure, "start", cores);
        let (hostnqn, base) = (target.hostnqn.clone(), target.hostid);
        let options = Options {
            poll: PollMode::Interrupt,
            arena_bytes: ARENA_BYTES,
            files_max: 64,
            ..Options::default()
        };
        let host = Host::start(options, vec![target], |_| Questions::default())?;
        let facts = match await_ready(&host, &with_name(shelf, hostnqn)) {
            Ok(facts) => facts,
            Err(error) => {
                drop(host);
                return Err(error);
            }
        };
        let (entry, bytes) = encode_instance();
        let (outcome, data) = host.ask(0, true, entry, Vec::new(), bytes, ANSWER_WAIT);
        let instance = instance_of(&answer_of(None, outcome, data));
        let (line, identity) = match tenure {
            Tenure::Alone { .. } => {
                let identity = identity_of(hostid_of(base, facts.attempt));
                (Line::alone(host), Some(identity))
            }
            Tenure::Shared(_) => (Line::shared(host, &facts, instance), None),
        };
        let session = Self {
            connection: Mutex::new(Connection::Open(line)),
            claimed: Mutex::default(),
            connected: Connected {
                shelf: Shelf {
                    name: shelf.name.clone(),
                    target: target_of(shelf, tenure, "run", cores),
                    instance,
                },
                identity,
                facts,
                take_over: shelf.take_over,
            },
        };
        if session.connected.facts.io_queues < cores {
            return Err(session.unusable(&format!(
                "it grants {} I/O queues, and each of this node's {cores} cores needs one. Set `cores` in [reactor] to that, or let the shelf grant more",
                session.connected.facts.io_queues
            )));
        }
        Ok(session)
    }

    fn unusable(&self, what: &str) -> SessionError {
        SessionError::Unusable(format!("shelf \"{}\": {what}", self.connected.shelf.name))
    }

    /// The namespace that a drive of the configuration is.
    fn find(&self, name: &NamespaceName) -> Result<Namespace, SessionError> {
        let Connected { shelf, facts, .. } = &self.connected;
        let is_it = |namespace: &&Namespace| match name {
            NamespaceName::Nsid(nsid) => namespace.nsid == *nsid,
            NamespaceName::Uuid(uuid) => namespace.uuid == *uuid,
        };
        let found = facts.namespaces.iter().find(is_it);
        found.copied().ok_or_else(|| {
            SessionError::Absent(format!(
                "shelf \"{}\" has no {name}; {}",
                shelf.name,
                listed(&facts.namespaces)
            ))
        })
    }

    /// Makes a drive this node's.
    fn claim(&self, identity: Identity, namespace: &Namespace) -> Result<(), SessionError> {
        let rivals = if self.connected.take_over {
            Rivals::TakeOver
        } else {
            Rivals::Respect
        };
        let (mut claim, mut command) = Claim::begin(identity, rivals);
        // Ends: a claim takes at most six steps.
        loop {
            match claim.answered(self.reserve(namespace, command)) {
                Step::Ask(next) => command = next,
                Step::Claimed { .. } => {
                    let mut claimed = self.claimed.lock().expect("nobody panics while holding it");
                    claimed.push(*namespace);
                    return Ok(());
                }
                Step::Refused(refusal) => {
                    let remedy = match &refusal {
                        Refusal::Held(_) => {
                            "If that is this node before it was killed, or a node that is gone for good, start with --take-over; otherwise stop that node first"
                        }
                        Refusal::Preempted => "Only one node may use it: stop the other one",
                        Refusal::NotDrained => "Try again when the shelf's drives answer",
                        Refusal::Unsupported => {
                            "Use a target that has them, such as `braid shelf`, and on it the namespaces with odd numbers"
                        }
                        Refusal::Failed(_) => "Look into the log of the shelf",
                    };
                    let nsid = namespace.nsid;
                    return Err(
                        self.unusable(&format!("namespace {nsid} cannot be used: {refusal}. {remedy}"))
                    );
                }
            }
        }
    }

    fn reserve(&self, namespace: &Namespace, command: nvme::reservation::Command) -> Answer {
        let ask = Ask::Reserve(command);
        let (entry, data, read_bytes) = encode_ask(&ask, namespace);
        let (outcome, data) = self.ask(entry, &data, read_bytes);
        answer_of(Some(&ask), outcome, data)
    }

    /// Asks, and waits for the answer.
    fn ask(&self, entry: SubmissionEntry, data: &[u8], read_bytes: u32) -> (Outcome, Vec<u8>) {
        let mut connection = self.connection.lock().expect("nobody panics while holding it");
        let Connection::Open(line) = &mut *connection else {
            return (Err(JobError::Lost), Vec::new());
        };
        let answered = line.ask(entry, data, read_bytes);
        if answered.0 == Err(JobError::Lost) && self.connected.identity.is_none() {
            // Nothing of it is to be sent after this was said.
            *connection = Connection::InDoubt;
        }
        answered
    }

    /// Carries out a command of any length; what a read brings is the answer.
    fn run(&self, kind: Kind, namespace: &Namespace, at: u64, data: &mut [u8]) -> Result<(), DriveError> {
        let facts = &self.connected.facts;
        let most = part_bytes_max(kind, namespace, facts) as usize;
        let mut at = at;
        for part in data.chunks_mut(most) {
            let bytes = u32::try_from(part.len()).expect("a part is short");
            let (entry, payload) = encode(kind, namespace, at, bytes, facts);
            let (sent, read_bytes): (&[u8], u32) = match payload {
                Payload::FromTarget(bytes) => (&[], bytes),
                Payload::ToTarget(_) => (part, 0),
                Payload::None => (&[], 0),
            };
            let (outcome, came) = self.ask(entry, sent, read_bytes);
            result_of(outcome).unwrap_or(Err(DriveError::Gone))?;
            if read_bytes > 0 {
                let came = came.get(..part.len()).ok_or(DriveError::Media)?;
                part.copy_from_slice(came);
            }
            at += u64::from(bytes);
        }
        Ok(())
    }

    fn give_back(&self) {
        let Some(identity) = self.connected.identity else {
            return;
        };
        let claimed = std::mem::take(&mut *self.claimed.lock().expect("nobody panics while holding it"));
        for namespace in claimed {
            let answer = self.reserve(&namespace, give_back(identity));
            if answer != Answer::Done {
                tracing::warn!(shelf = %self.connected.shelf.name, nsid = namespace.nsid, ?answer, "drive stays reserved");
            }
        }
    }

    fn end(&self) {
        let mut connection = self.connection.lock().expect("nobody panics while holding it");
        if let Connection::Open(line) = std::mem::replace(&mut *connection, Connection::Ended)
            && let Err(error) = line.stop()
        {
            tracing::warn!(shelf = %self.connected.shelf.name, %error, "a session's connection did not end cleanly");
        }
    }
}

impl FabricDrive {
    /// Bytes of the drive.
    pub const fn bytes(&self) -> u64 {
        self.namespace.blocks * self.namespace.block_bytes as u64
    }

    /// Reads, also parts of blocks.
    pub fn read(&self, at: u64, bytes: usize) -> Result<Vec<u8>, DriveError> {
        let (first, mut whole) = self.around(at, bytes)?;
        self.session.run(Kind::Read, &self.namespace, first, &mut whole)?;
        let skip = usize::try_from(at - first).expect("within a block");
        whole.drain(..skip);
        whole.truncate(bytes);
        Ok(whole)
    }

    /// Writes, also parts of blocks.
    pub fn write(&self, at: u64, data: &[u8], fua: bool) -> Result<(), DriveError> {
        let (first, mut whole) = self.around(at, data.len())?;
        let skip = usize::try_from(at - first).expect("within a block");
        if whole.len() != data.len() {
            let found = self.read(first, whole.len())?;
            whole.copy_from_slice(&found);
        }
        whole[skip..skip + data.len()].copy_from_slice(data);
        let kind = Kind::Write { fua };
        self.session.run(kind, &self.namespace, first, &mut whole)
    }

    /// Makes durable what was written.
    pub fn flush(&self) -> Result<(), DriveError> {
        let facts = &self.session.connected.facts;
        let (entry, _) = encode(Kind::Flush, &self.namespace, 0, 0, facts);
        let (outcome, _) = self.session.ask(entry, &[], 0);
        result_of(outcome).unwrap_or(Err(DriveError::Gone))
    }

    /// Whether a command for the drive, or for another one of its shelf, was lost over a session of drives that nodes share, and may
    /// still take effect. No fence ends it as long as this life goes on, so that the drive is not to be used in it any more.
    pub fn is_in_doubt(&self) -> bool {
        let connection = self.session.connection.lock();
        let connection = connection.expect("nobody panics while holding it");
        matches!(*connection, Connection::InDoubt)
    }

    /// Room for the whole blocks that these bytes lie in, and where those begin.
    fn around(&self, at: u64, bytes: usize) -> Result<(u64, Vec<u8>), DriveError> {
        let block = u64::from(self.namespace.block_bytes);
        let end = at + u64::try_from(bytes).map_err(|_| DriveError::OutOfRange)?;
        let (first, end) = (at / block * block, end.next_multiple_of(block));
        if end > self.bytes() {
            return Err(DriveError::OutOfRange);
        }
        let length = usize::try_from(end - first).map_err(|_| DriveError::OutOfRange)?;
        Ok((first, vec![0; length]))
    }
}

/// A shelf as somebody with this name knows it.
fn with_name(shelf: &RemoteShelf, host_nqn: Nqn) -> RemoteShelf {
    let shelf = shelf.clone();
    RemoteShelf { host_nqn, ..shelf }
}

/// Waits until a shelf is connected and its namespaces are known.
pub fn await_ready(host: &Host<Questions>, shelf: &RemoteShelf) -> Result<Arc<TargetFacts>, SessionError> {
    let name = &shelf.name;
    let places: Vec<String> = shelf.addresses.iter().map(ToString::to_string).collect();
    let places = places.join(", ");
    let deadline = Instant::now() + CONNECT_WAIT;
    let mut why = "nothing was heard".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match host.events().recv_timeout(left) {
            Ok(Event::Ready { facts, .. }) => return Ok(facts),
            Ok(Event::Down {
                reason: DownReason::CommandFailed(status),
                ..
            }) if is_refusal(status) => return Err(refused(shelf, &places, &status.to_string())),
            Ok(Event::Down { reason, .. }) => why = reason.to_string(),
            Ok(Event::Failed { reason, .. }) => return Err(refused(shelf, &places, &reason.to_string())),
            Ok(Event::Discovered { .. } | Event::Stopped { .. }) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(SessionError::Absent(format!(
                    "shelf \"{name}\" cannot be reached at {places}: {why}"
                )));
            }
        }
    }
}

/// Whether a shelf will not have this node, however often that asks.
fn is_refusal(status: Status) -> bool {
    let for_good = [Status::CONNECT_INVALID_PARAMETERS, Status::CONNECT_INVALID_HOST];
    for_good.iter().any(|known| status.same_code(*known))
}

fn refused(shelf: &RemoteShelf, places: &str, why: &str) -> SessionError {
    SessionError::Unusable(format!(
        "shelf \"{}\" at {places}: {why}. Check its nqn, {}, and that it lets in host {}",
        shelf.name,
        shelf.nqn.as_str(),
        shelf.host_nqn.as_str()
    ))
}

/// What namespaces there are, for people.
fn listed(namespaces: &[Namespace]) -> String {
    if namespaces.is_empty() {
        return "it has none".to_owned();
    }
    let one = |namespace: &Namespace| {
        let mib = namespace.blocks.saturating_mul(u64::from(namespace.block_bytes)) >> 20;
        let uuid = uuid::Uuid::from_bytes(namespace.uuid);
        format!("{} ({mib} MiB, uuid {uuid})", namespace.nsid)
    };
    let mut named: Vec<String> = namespaces.iter().take(LISTED_MAX).map(one).collect();
    if namespaces.len() > LISTED_MAX {
        named.push(format!("{} more", namespaces.len() - LISTED_MAX));
    }
    format!("it has {}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::fabric::Area;

    #[test]
    fn a_message_names_what_is_there() {
        let namespace = |nsid| Namespace {
            nsid,
            blocks: 256,
            block_bytes: 4096,
            nguid: [0; 16],
            uuid: [1; 16],
        };
        assert_eq!(listed(&[]), "it has none");
        let many: Vec<Namespace> = (1..=10).map(namespace).collect();
        let said = listed(&many);
        assert!(
            said.starts_with("it has 1 (1 MiB, uuid 01010101-0101-0101-0101-010101010101), 2"),
            "{said}"
        );
        assert!(said.ends_with("2 more"), "{said}");
    }

    const SHELF: &str = r#"
[shelf]
name = "s"
quorum_mib = 1
create = true
[[listen]]
address = "127.0.0.1:0"
[[drive]]
name = "d"
memory_mib = 16
"#;

    fn remote(address: std::net::SocketAddr) -> RemoteShelf {
        let nqn = |name: &str| nvme::nqn::Nqn::parse(name).unwrap();
        RemoteShelf {
            name: "s".to_owned(),
            addresses: vec![address],
            nqn: nqn("nqn.2026-01.io.braid:s"),
            host_nqn: nqn("nqn.2026-01.io.braid:host:n"),
            header_digest: false,
            data_digest: false,
            take_over: false,
        }
    }

    /// What core 0 asks of drives, against a shelf: the areas, and the rules that they are held to.
    #[test]
    fn both_areas_of_a_drive_are_read_and_written() {
        let config = config::parse(SHELF, std::path::Path::new("shelf.toml")).unwrap();
        let shelf = crate::target::node::start(&config).unwrap();
        let remote = remote(shelf.addresses()[0]);
        let named = ShelfDrive {
            shelf: "s".to_owned(),
            namespace: NamespaceName::Nsid(1),
        };
        let sessions = [[1; 16], [2; 16]].map(|incarnation| {
            Sessions::connect(std::slice::from_ref(&remote), &Tenure::Alone { incarnation }, 1)
        });
        let [first, second] = sessions;
        let drive = first.open(&named).unwrap();
        let other = &second.sessions[0].1.as_ref().unwrap();
        let ask = |session: &Session, ask: Ask| {
            let (entry, data, read_bytes) = encode_ask(&ask, &drive.namespace);
            let (outcome, data) = session.ask(entry, &data, read_bytes);
            answer_of(Some(&ask), outcome, data)
        };
        for area in [Area::Quorum, Area::Data] {
            let data: Vec<u8> = (0..8192_u32).map(|at| at.to_le_bytes()[0] ^ 7).collect();
            let write = Ask::Write {
                area,
                at: 4096,
                data: data.clone(),
            };
            let read = Ask::Read {
                area,
                at: 4096,
                bytes: 8192,
            };
            assert_eq!(ask(&drive.session, write.clone()), Answer::Done);
            assert_eq!(ask(&drive.session, read.clone()), Answer::Data(data.clone()));
            let (written, found) = match area {
                Area::Quorum => (Answer::Done, Answer::Data(data)),
                Area::Data => (Answer::Conflict, Answer::Conflict),
            };
            assert_eq!((ask(other, write), ask(other, read)), (written, found));
        }
        assert!(
            matches!(second.open(&named), Err(SessionError::Unusable(why)) if why.contains("reserved by host"))
        );
        drive.write(4100, &[9; 5000], true).unwrap();
        drive.flush().unwrap();
        let found = drive.read(4099, 5002).unwrap();
        assert_eq!(
            (found[0], found[1], found[5000], found[5001]),
            (3 ^ 7, 9, 9, 0x8c ^ 7)
        );
        assert_eq!(drive.read(drive.bytes() - 1, 2), Err(DriveError::OutOfRange));
        first.abandon();
        second.open(&named).expect("it was given back");
        second.end();
        shelf.stop().unwrap();
    }
}
