//! What operators ask of any node: it goes to the node that leads, and the answer comes back.
//!
//! | kind | body |
//! |---|---|
//! | 5 asked | number 0..8, random bytes for identities 8..72, JSON of the method and its parameters |
//! | 6 answered | number 0..8, JSON of the result or the error |

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::SyncSender;

use reactor::Io;
use serde_json::{Value, json};

use super::super::Control;
use super::super::operator::Asker;
use super::{ShareControl, SharedGroup, disks};
use crate::icl::link::{Address, Payload, SubmitError};
use crate::icl::{Slot, SlotSet};
use crate::target::core::Core;
use crate::target::manage::{ManageError, PortRequest, Reply, Request};
use crate::target::message::Message;
use crate::target::rpc;

pub(super) const ASKED: u16 = 5;
pub(super) const ANSWERED: u16 = 6;
const ENTROPY_BYTES: usize = 64;

/// Takes the answer of another node.
type Answer = SyncSender<Result<Reply, ManageError>>;

/// What is under way between this node and others beside the notes of groups.
#[derive(Default)]
pub(super) struct Errands {
    number: u64,
    /// Requests that other nodes were asked for.
    passed: BTreeMap<u64, Passed>,
    /// What found the queue to a node full: kind and body.
    outbox: BTreeMap<Slot, VecDeque<(u16, Vec<u8>)>>,
}

/// A request that another node was asked for.
struct Passed {
    request: Request,
    entropy: [u8; ENTROPY_BYTES],
    answer: Answer,
    /// Those that are asked if that one knows nothing of what it is about.
    leaders: SlotSet,
}

impl Passed {
    /// Whether whoever was asked has no such virtual disk.
    fn is_unknown(&self, answer: Option<&Result<Reply, ManageError>>) -> bool {
        let Some(Subject::Vdisk(name)) = subject_of(&self.request) else {
            return false;
        };
        matches!(answer, Some(Err(error)) if *error == ManageError::not_found("vdisk", name))
    }
}

fn busy(message: &str) -> ManageError {
    ManageError::new(ManageError::BUSY, message, "ask again in a moment")
}

fn encode_request(number: u64, entropy: &[u8; ENTROPY_BYTES], request: &Request) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(entropy);
    let call = json!({"method": request.method(), "params": rpc::params(request)});
    bytes.extend(call.to_string().into_bytes());
    bytes
}

fn parse_request(bytes: &[u8]) -> Option<(u64, [u8; ENTROPY_BYTES], Request)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (entropy, call) = rest.split_first_chunk()?;
    let mut call: Value = serde_json::from_slice(call).ok()?;
    let params = call
        .get_mut("params")
        .map(Value::take)
        .filter(|params| !params.is_null());
    let request = rpc::read_request(call.get("method")?.as_str()?, params).ok()?;
    subject_of(&request)?;
    Some((u64::from_le_bytes(*number), *entropy, request))
}

fn encode_answer(number: u64, answer: &Result<Reply, ManageError>) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    let answer = match answer {
        Ok(reply) => json!({"result": serde_json::to_value(reply).expect("replies are plain data")}),
        Err(error) => json!({"code": error.code, "message": error.message, "remedy": error.remedy}),
    };
    bytes.extend(answer.to_string().into_bytes());
    bytes
}

fn parse_answer(request: &Request, bytes: &[u8]) -> Option<Result<Reply, ManageError>> {
    let mut answer: Value = serde_json::from_slice(bytes).ok()?;
    if let Some(result) = answer.get_mut("result") {
        return Some(Ok(Reply::from_json(request, result.take()).ok()?));
    }
    let text = |key: &str| answer.get(key)?.as_str();
    let code = answer.get("code")?.as_i64()?;
    Some(Err(ManageError::new(code, text("message")?, text("remedy")?)))
}

/// What a request is about that is for the node which leads the group.
#[derive(Clone, Copy, Debug)]
enum Subject<'a> {
    /// The group of this name.
    Group(&'a str),
    /// The group of the virtual disk with this name, or number.
    Vdisk(&'a str),
}

/// `None`: whoever is asked carries it out.
fn subject_of(request: &Request) -> Option<Subject<'_>> {
    let vdisk = match request {
        Request::VdiskCreate(create) => return Some(Subject::Group(&create.group)),
        Request::VdiskResize(resize) => &resize.vdisk,
        Request::VdiskReplicate(replicate) => &replicate.vdisk,
        Request::VdiskDelete(delete) => &delete.vdisk,
        Request::Port(PortRequest::Add(add)) => &add.vdisk,
        Request::Port(PortRequest::Delete(delete)) => &delete.vdisk,
        Request::Port(PortRequest::List(_))
        | Request::NodeShow
        | Request::GroupList
        | Request::GroupShow(_)
        | Request::GroupCreate(_)
        | Request::GroupExpand(_)
        | Request::Background(_)
        | Request::VdiskList
        | Request::VdiskShow(_)
        | Request::DriveList
        | Request::DriveShow(_)
        | Request::DriveFail(_)
        | Request::DriveReplace(_)
        | Request::DriveAddSpare(_)
        | Request::DriveRemoveSpare(_)
        | Request::DriveInject(_)
        | Request::ShelfShow
        | Request::Array(_)
        | Request::HostList
        | Request::Latency
        | Request::Counters
        | Request::Shutdown => return None,
    };
    Some(Subject::Vdisk(vdisk))
}

impl Control {
    /// The answer to what is for whoever leads a group.
    pub(in super::super) fn nobody_leads() -> ManageError {
        busy("the nodes of the array are agreeing on who leads its groups")
    }

    /// Whether another node has to carry it out.
    pub(in super::super) fn is_passed_on(&self, request: &Request) -> bool {
        let share = self.share.as_ref();
        let Some((share, subject)) = share.zip(subject_of(request)) else {
            return false;
        };
        match self.shared_group_of(subject) {
            Some(group) => !group.peering.leads(),
            None => !share.elsewhere(subject).is_empty(),
        }
    }

    /// The shared group that a request is about, as far as this node has heard of that.
    fn shared_group_of(&self, subject: Subject<'_>) -> Option<&SharedGroup> {
        let share = self.share.as_ref()?;
        match subject {
            Subject::Group(name) => share.groups.iter().find(|group| group.name.as_str() == name),
            Subject::Vdisk(wanted) => {
                let named = self.vdisk_record(|record| record.name.as_str() == wanted);
                let numbered = || self.vdisk_record(|record| record.nsid.to_string() == wanted);
                let (group, _) = named.or_else(numbered)?;
                let group = u16::try_from(group).expect("a node has at most 128 groups");
                share.groups.get(share.at(group)?)
            }
        }
    }

    /// Hands a request to the node that leads the group which it is about. If this node knows of no such group, those that lead others are asked one after the other.
    pub(in super::super) fn pass_on(
        &mut self,
        io: &mut Io<Message>,
        request: Request,
        entropy: &[u8; ENTROPY_BYTES],
        asker: Asker,
    ) {
        let subject = subject_of(&request).expect("only such requests are passed on");
        let leaders = match self.shared_group_of(subject) {
            Some(group) => group.peering.leader().into_iter().collect(),
            None => self.share().elsewhere(subject),
        };
        let leaders = leaders.without(self.share().local);
        // A node never asks another one for a third.
        let Asker::Operator(answer) = asker else {
            return self.answer(io, asker, Err(Self::nobody_leads()));
        };
        let passed = Passed {
            request,
            entropy: *entropy,
            answer,
            leaders,
        };
        if let Some(passed) = self.ask_next(io, passed) {
            drop(passed.answer.try_send(Err(Self::nobody_leads())));
        }
    }

    /// Asks the next of the nodes that may know. Gives the request back if there is none.
    fn ask_next(&mut self, io: &mut Io<Message>, mut passed: Passed) -> Option<Passed> {
        // Until groups are in the epoch, they name whoever led them in the last one.
        let leader = passed.leaders.iter().next();
        let Some(leader) = leader.filter(|_| self.share().has_entered()) else {
            return Some(passed);
        };
        passed.leaders = passed.leaders.without(leader);
        let errands = &mut self.share().errands;
        errands.number += 1;
        let bytes = encode_request(errands.number, &passed.entropy, &passed.request);
        errands.passed.insert(errands.number, passed);
        self.send_to_node(io, leader, ASKED, bytes);
        None
    }

    /// Answers whoever asked, here or through another node.
    pub(in super::super) fn answer(
        &mut self,
        io: &mut Io<Message>,
        asker: Asker,
        answer: Result<Reply, ManageError>,
    ) {
        match asker {
            // An asker that gave up is not interested any more.
            Asker::Operator(reply) => drop(reply.try_send(answer)),
            Asker::Node(slot, number, epoch) if epoch == self.share().epoch() => {
                self.send_to_node(io, slot, ANSWERED, encode_answer(number, &answer));
            }
            // That node has answered by itself when the epoch ended, and another life of it may use the same number.
            Asker::Node(..) => {}
        }
    }

    /// Says something to another node that is no note of a group: with the end of the turn, or later if its queue is full.
    pub(super) fn send_to_node(&mut self, io: &mut Io<Message>, to: Slot, kind: u16, bytes: Vec<u8>) {
        let share = self.share();
        share
            .errands
            .outbox
            .entry(to)
            .or_default()
            .push_back((kind, bytes));
        self.run_errands(io);
    }

    /// Sends what found queues full.
    pub(super) fn run_errands(&mut self, io: &mut Io<Message>) {
        let share = self.share();
        for (to, waiting) in &mut share.errands.outbox {
            while let Some((kind, bytes)) = waiting.front() {
                // To whoever is no member any more there is nothing to say.
                let payload = [&bytes[..]];
                let payload = Payload::copied(&payload);
                if share.port.submit(io, *to, Address::Node, *kind, payload) == Err(SubmitError::Full) {
                    break;
                }
                waiting.pop_front();
            }
        }
        share.errands.outbox.retain(|_, waiting| !waiting.is_empty());
    }

    /// An epoch begins. What was asked in the last one may have been done or not.
    pub(super) fn end_errands(&mut self) {
        let errands = &mut self.share().errands;
        errands.outbox.clear();
        for Passed { request, answer, .. } in std::mem::take(&mut errands.passed).into_values() {
            let error = ManageError::new(
                ManageError::BUSY,
                format!(
                    "the nodes of the array have changed while {} was under way",
                    request.method()
                ),
                "see whether it was done, and ask again if it was not",
            );
            drop(answer.try_send(Err(error)));
        }
    }

    /// Another node asks, answers, or says what it has closed. False if that is not understood.
    pub(super) fn hear_errand(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        from: Slot,
        kind: u16,
        bytes: &[u8],
    ) -> bool {
        match kind {
            ASKED => match parse_request(bytes) {
                Some((number, entropy, request)) => {
                    let asker = Asker::Node(from, number, self.share().epoch());
                    self.manage_for(core, io, request, &entropy, asker);
                    true
                }
                None => false,
            },
            ANSWERED => self.take_answer(io, bytes),
            disks::KIND => self.hear_closed(core, io, from, bytes).is_ok(),
            _ => false,
        }
    }

    fn take_answer(&mut self, io: &mut Io<Message>, bytes: &[u8]) -> bool {
        let Some((number, answer)) = bytes.split_first_chunk() else {
            return false;
        };
        let passed = &mut self.share().errands.passed;
        let Some(mut passed) = passed.remove(&u64::from_le_bytes(*number)) else {
            return true; // Of an epoch that is over.
        };
        let parsed = parse_answer(&passed.request, answer);
        let is_understood = parsed.is_some();
        if passed.is_unknown(parsed.as_ref()) {
            match self.ask_next(io, passed) {
                None => return true,
                Some(back) => passed = back,
            }
        }
        let strange = || {
            Err(busy(
                "the node that leads has given an answer that makes no sense",
            ))
        };
        drop(passed.answer.try_send(parsed.unwrap_or_else(strange)));
        is_understood
    }
}

impl ShareControl {
    /// Those that may know more of what this node has not heard of.
    fn elsewhere(&self, subject: Subject<'_>) -> SlotSet {
        let leaders = self.gathering.leaders(self.local);
        match subject {
            Subject::Group(name) => {
                let leader = self.gathering.leader_of(name);
                leader
                    .filter(|leader| leaders.contains(*leader))
                    .into_iter()
                    .collect()
            }
            Subject::Vdisk(_) => leaders,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::manage::{Deleted, VdiskDelete};

    fn request() -> Request {
        Request::VdiskDelete(VdiskDelete {
            vdisk: "v".to_owned(),
            force: true,
        })
    }

    #[test]
    fn requests_and_answers_arrive_as_they_were_sent() {
        let bytes = encode_request(7, &[9; ENTROPY_BYTES], &request());
        assert_eq!(parse_request(&bytes), Some((7, [9; ENTROPY_BYTES], request())));
        for end in 0..bytes.len() {
            assert_eq!(parse_request(&bytes[..end]), None, "{end} bytes");
        }
        let deleted = Reply::Deleted(Deleted {
            vdisk: "v".to_owned(),
            freed_bytes: 5,
        });
        for answer in [Ok(deleted), Err(ManageError::not_found("vdisk", "v"))] {
            let bytes = encode_answer(7, &answer);
            assert_eq!(bytes[..8], 7_u64.to_le_bytes());
            assert_eq!(parse_answer(&request(), &bytes[8..]), Some(answer));
        }
        assert_eq!(parse_answer(&request(), b"{}"), None);
    }

    #[test]
    fn only_what_the_leader_does_is_taken_from_another_node() {
        for request in [Request::Shutdown, Request::NodeShow] {
            assert_eq!(
                parse_request(&encode_request(1, &[0; ENTROPY_BYTES], &request)),
                None
            );
        }
    }
}
