//! Cross-Controller Resets of controllers that other nodes have: whom this node asks, and when a reset is through without an answer (PROTOCOL H37).
//!
//! A node is asked in an epoch that is open, and what it answers counts in that epoch; in the next one it is asked anew. So whoever answers that a controller is over, or
//! never was there, does so when everything of earlier lives of its slot is over, too: they were fenced and their journals replayed before the epoch
//! was opened. For the same reason a node that is no member of an epoch which is open needs no asking: its commands have taken effect by then or never will, its drives
//! refuse it, its locks are void, and its lease is over. A member that does not answer in time leaves the host to wait until its commands
//! must have come to an end (CQT).
//!
//! Who has no lease may have been left behind, and others may have let in whom its epoch does not know: from a missing member follows nothing then.
//!
//! Deliberately knows neither controllers nor links.

use std::collections::BTreeMap;

use nvme::nqn::Nqn;
use nvme::subsystem::{ResetOutcome, ResetWish};
use thiserror::Error;

use super::{Slot, SlotSet};

/// How long an answer is waited for: a member that does not answer because it hangs is none any more after about four seconds; it takes longer only if a drive does.
pub const WAIT_NS: u64 = 10_000_000_000;

/// Bytes of a question before the name of the host.
const ASK_BYTES: usize = 24;
const ANSWER_BYTES: usize = 16;

/// What nodes say to each other about resets, little-endian.
///
/// | kind | body |
/// |---|---|
/// | ask | number 0..8, random number of the instance 8..16, controller 16..18, instance 18, zeroes 19..24, name of the host |
/// | answer | number 0..8, outcome 8 (0 over, 1 refused, 2 unknown), zeroes 9..16 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// End this controller.
    Ask {
        /// The asker's name for it.
        number: u64,
        /// Which controller, and whose host asks.
        wish: ResetWish,
    },
    /// It is over, or none of that host's.
    Answer {
        /// As in the question.
        number: u64,
        /// What became of it.
        outcome: ResetOutcome,
    },
}

/// Bytes are no message about a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it is no message about the reset of a controller: {0}")]
pub struct MessageError(&'static str);

impl Message {
    /// The kind of a question.
    pub const ASK: u16 = 16;
    /// The kind of an answer.
    pub const ANSWER: u16 = 17;

    /// Its kind on the link, among messages from node to node.
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Ask { .. } => Self::ASK,
            Self::Answer { .. } => Self::ANSWER,
        }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Ask { number, wish } => {
                bytes.extend(number.to_le_bytes());
                bytes.extend(wish.random.to_le_bytes());
                bytes.extend(wish.cntlid.to_le_bytes());
                bytes.extend([wish.instance, 0, 0, 0, 0, 0]);
                bytes.extend(wish.host.as_str().as_bytes());
            }
            Self::Answer { number, outcome } => {
                let outcome = match outcome {
                    ResetOutcome::Over => 0,
                    ResetOutcome::Refused => 1,
                    ResetOutcome::Unknown => 2,
                };
                bytes.extend(number.to_le_bytes());
                bytes.extend([outcome, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
        bytes
    }

    /// What a message of the link says. Errs at anything that no sound node sends.
    pub fn parse(kind: u16, bytes: &[u8]) -> Result<Self, MessageError> {
        match kind {
            Self::ASK => parse_ask(bytes),
            Self::ANSWER => {
                let bytes: &[u8; ANSWER_BYTES] = bytes.try_into().map_err(|_| MessageError("its length"))?;
                let outcome = match bytes[8..] {
                    [0, 0, 0, 0, 0, 0, 0, 0] => ResetOutcome::Over,
                    [1, 0, 0, 0, 0, 0, 0, 0] => ResetOutcome::Refused,
                    [2, 0, 0, 0, 0, 0, 0, 0] => ResetOutcome::Unknown,
                    _ => return Err(MessageError("its outcome")),
                };
                let number = long(&bytes[..8]);
                Ok(Self::Answer { number, outcome })
            }
            _ => Err(MessageError("its kind")),
        }
    }
}

fn long(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("8 bytes were cut off"))
}

fn parse_ask(bytes: &[u8]) -> Result<Message, MessageError> {
    let (head, name) = bytes
        .split_first_chunk::<ASK_BYTES>()
        .ok_or(MessageError("its length"))?;
    let &[low, high, instance, 0, 0, 0, 0, 0] = &head[16..] else {
        return Err(MessageError("its controller"));
    };
    let name = str::from_utf8(name).map_err(|_| MessageError("its host"))?;
    let wish = ResetWish {
        cntlid: u16::from_le_bytes([low, high]),
        instance,
        random: long(&head[8..16]),
        host: Nqn::parse(name).map_err(|_| MessageError("its host"))?,
    };
    let number = long(&head[..8]);
    Ok(Message::Ask { number, wish })
}

/// What the binding does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a member; call [`Resets::not_sent`] if there is no room for it now.
    Ask {
        /// Whom.
        to: Slot,
        /// The name of the reset.
        number: u64,
        /// Which controller, and whose host asks.
        wish: ResetWish,
    },
    /// This is what became of a reset.
    Ended {
        /// The name of the reset.
        number: u64,
        /// What became of it.
        outcome: ResetOutcome,
    },
}

#[derive(Debug)]
struct Asked {
    slot: Slot,
    wish: ResetWish,
    until_ns: u64,
    /// In this epoch.
    is_sent: bool,
}

/// Resets that hosts of this node wait for.
#[derive(Debug, Default)]
pub struct Resets {
    members: SlotSet,
    is_open: bool,
    asked: BTreeMap<u64, Asked>,
}

impl Resets {
    /// An epoch is entered: who has been asked is asked anew when it is open.
    pub fn enter(&mut self, members: SlotSet) {
        self.members = members;
        self.is_open = false;
        self.asked.values_mut().for_each(|asked| asked.is_sent = false);
    }

    /// Locks are granted in the epoch, so what members of earlier ones have left is over.
    pub const fn opened(&mut self) {
        self.is_open = true;
    }

    /// Whether nobody waits for anything.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether the epoch is known to be open.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// A host wants a controller of another node ended; [`Self::poll`] sees to that.
    ///
    /// Panics at a number that is in use.
    pub fn ask(&mut self, now_ns: u64, number: u64, slot: Slot, wish: ResetWish) {
        let asked = Asked {
            slot,
            wish,
            until_ns: now_ns + WAIT_NS,
            is_sent: false,
        };
        let before = self.asked.insert(number, asked);
        assert!(before.is_none(), "a reset has a number of its own");
    }

    /// There was no room for a question: the next [`Self::poll`] asks it again.
    pub fn not_sent(&mut self, number: u64) {
        if let Some(asked) = self.asked.get_mut(&number) {
            asked.is_sent = false;
        }
    }

    /// A member has answered in this epoch.
    pub fn answered(&mut self, from: Slot, number: u64, outcome: ResetOutcome, out: &mut Vec<Action>) {
        let is_asked = self
            .asked
            .get(&number)
            .is_some_and(|it| it.slot == from && it.is_sent);
        if is_asked {
            self.asked.remove(&number);
            out.push(Action::Ended { number, outcome });
        }
    }

    /// Asks who is to be asked, and ends what needs no asking or has waited too long. At least ten times a second.
    ///
    /// `has_lease` is whether the node's lease covers this moment.
    pub fn poll(&mut self, now_ns: u64, has_lease: bool, out: &mut Vec<Action>) {
        let (members, is_open) = (self.members, self.is_open);
        self.asked.retain(|&number, asked| {
            let is_gone = is_open && !members.contains(asked.slot);
            let outcome = if is_gone && has_lease {
                ResetOutcome::Over
            } else if now_ns >= asked.until_ns {
                ResetOutcome::Unknown
            } else {
                if is_open && !is_gone && !asked.is_sent {
                    asked.is_sent = true;
                    out.push(Action::Ask {
                        to: asked.slot,
                        number,
                        wish: asked.wish.clone(),
                    });
                }
                return true;
            };
            out.push(Action::Ended { number, outcome });
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::slice;

    use super::*;
    use crate::icl::link::random::Random;

    fn wish(cntlid: u16) -> ResetWish {
        ResetWish {
            cntlid,
            instance: 3,
            random: 0x1122_3344_5566_7788,
            host: Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:host").unwrap(),
        }
    }

    fn slot(number: u8) -> Slot {
        Slot::new(number).expect("an array has that slot")
    }

    fn polled(resets: &mut Resets, now_ns: u64) -> Vec<Action> {
        let mut out = Vec::new();
        resets.poll(now_ns, true, &mut out);
        out
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_others_are_refused() {
        let ask = Message::Ask {
            number: 7,
            wish: wish(4081),
        };
        let mut all = vec![ask];
        for outcome in [ResetOutcome::Over, ResetOutcome::Refused, ResetOutcome::Unknown] {
            let number = u64::MAX - 1;
            all.push(Message::Answer { number, outcome });
        }
        for message in all {
            let bytes = message.encode();
            assert_eq!(Message::parse(message.kind(), &bytes), Ok(message.clone()));
            for end in 0..bytes.len().min(ASK_BYTES + 12) {
                assert!(
                    Message::parse(message.kind(), &bytes[..end]).is_err(),
                    "{end} bytes"
                );
            }
            assert!(Message::parse(18, &bytes).is_err());
        }
        let mut strange = Message::Answer {
            number: 1,
            outcome: ResetOutcome::Over,
        }
        .encode();
        strange[8] = 3;
        assert!(Message::parse(Message::ANSWER, &strange).is_err());
    }

    /// PROTOCOL H37: a member is asked when the epoch is open, and again in the next one.
    #[test]
    fn a_member_is_asked_in_each_epoch_that_is_open() {
        let both: SlotSet = [slot(0), slot(1)].into_iter().collect();
        let mut resets = Resets::default();
        resets.enter(both);
        resets.ask(0, 1, slot(1), wish(2041));
        assert_eq!(
            polled(&mut resets, 1),
            [],
            "what earlier lives left may not be over"
        );
        let ask = Action::Ask {
            to: slot(1),
            number: 1,
            wish: wish(2041),
        };
        resets.opened();
        assert_eq!(polled(&mut resets, 2), slice::from_ref(&ask));
        assert_eq!(polled(&mut resets, 3), []);
        resets.not_sent(1);
        assert_eq!(polled(&mut resets, 4), slice::from_ref(&ask));
        resets.enter(both);
        let mut out = Vec::new();
        resets.answered(slot(1), 1, ResetOutcome::Over, &mut out);
        assert_eq!(out, [], "it was not asked in this epoch");
        resets.opened();
        assert_eq!(polled(&mut resets, 5), [ask]);
        resets.answered(slot(0), 1, ResetOutcome::Over, &mut out);
        assert_eq!(out, [], "another one was asked");
        resets.answered(slot(1), 1, ResetOutcome::Over, &mut out);
        let number = 1;
        let outcome = ResetOutcome::Over;
        assert_eq!(out, [Action::Ended { number, outcome }]);
        assert_eq!(polled(&mut resets, 2 * WAIT_NS), [], "it ends once");
    }

    /// PROTOCOL H38: whoever is gone is over when others go on without it, and not before.
    #[test]
    fn a_node_that_is_gone_is_over_when_the_epoch_is_open() {
        let mut resets = Resets::default();
        resets.enter([slot(0), slot(1)].into_iter().collect());
        resets.opened();
        resets.ask(0, 1, slot(1), wish(2041));
        assert_eq!(polled(&mut resets, 1).len(), 1);
        resets.enter([slot(0)].into_iter().collect());
        assert_eq!(polled(&mut resets, 2), []);
        resets.opened();
        let over = Action::Ended {
            number: 1,
            outcome: ResetOutcome::Over,
        };
        assert_eq!(polled(&mut resets, 3), [over]);
    }

    /// PROTOCOL H05, H37: a node that was left behind does not know who serves hosts since.
    #[test]
    fn without_a_lease_nobody_is_known_to_be_gone() {
        let mut resets = Resets::default();
        resets.enter([slot(0)].into_iter().collect());
        resets.opened();
        resets.ask(0, 1, slot(1), wish(2041));
        let mut out = Vec::new();
        resets.poll(1, false, &mut out);
        assert_eq!(out, [], "others may have let that one in again");
        let outcome = ResetOutcome::Over;
        assert_eq!(polled(&mut resets, 2), [Action::Ended { number: 1, outcome }]);
        resets.ask(2, 2, slot(1), wish(2041));
        resets.poll(2 + WAIT_NS, false, &mut out);
        let outcome = ResetOutcome::Unknown;
        assert_eq!(out, [Action::Ended { number: 2, outcome }]);
    }

    #[test]
    fn a_member_that_does_not_answer_is_waited_for_so_long() {
        let mut resets = Resets::default();
        resets.enter([slot(0), slot(1)].into_iter().collect());
        resets.opened();
        resets.ask(5, 1, slot(1), wish(2041));
        assert_eq!(polled(&mut resets, 5).len(), 1);
        assert_eq!(polled(&mut resets, 4 + WAIT_NS), []);
        let unknown = Action::Ended {
            number: 1,
            outcome: ResetOutcome::Unknown,
        };
        assert_eq!(polled(&mut resets, 5 + WAIT_NS), [unknown]);
    }

    /// PROTOCOL H37, H38: nodes that answer late, twice, or not at all, and epochs at any moment. A reset ends once, in time, and never as through unless it was
    /// answered so in the epoch of the question, or an epoch without the node was open.
    #[test]
    fn random_epochs_and_answers() {
        for seed in 0..400 {
            let mut random = Random::new(seed);
            let mut resets = Resets::default();
            let (mut now_ns, mut epoch, mut number) = (0, 0_u64, 0);
            let mut members = SlotSet::EMPTY;
            // What is under way to members: number, slot, epoch of the question.
            let mut questions: Vec<(u64, Slot, u64)> = Vec::new();
            let mut begun: BTreeMap<u64, (Slot, u64)> = BTreeMap::new();
            let mut ended = BTreeSet::new();
            for _ in 0..300 {
                let mut out = Vec::new();
                let (mut answer, mut has_lease) = (None, true);
                match random.below(8) {
                    0 => {
                        epoch += 1;
                        members = SlotSet(u8::try_from(random.below(256)).unwrap() | 1);
                        resets.enter(members);
                    }
                    1 => resets.opened(),
                    2 => {
                        number += 1;
                        let of = slot(u8::try_from(1 + random.below(7)).unwrap());
                        resets.ask(now_ns, number, of, wish(1));
                        begun.insert(number, (of, now_ns));
                    }
                    3 | 4 if !questions.is_empty() => {
                        let at = random.index(questions.len());
                        let (of, from, asked_in) = questions[at];
                        let outcome = match random.below(4) {
                            0 => ResetOutcome::Refused,
                            _ => ResetOutcome::Over,
                        };
                        // The link drops what is of another epoch.
                        if asked_in == epoch {
                            answer = Some((of, outcome));
                            resets.answered(from, of, outcome, &mut out);
                        }
                    }
                    _ => {
                        now_ns += random.below(WAIT_NS / 20);
                        has_lease = random.below(4) > 0;
                        resets.poll(now_ns, has_lease, &mut out);
                    }
                }
                for action in out {
                    match action {
                        Action::Ask { to, number, .. } => {
                            assert!(resets.is_open() && members.contains(to));
                            assert_eq!(begun[&number].0, to);
                            questions.push((number, to, epoch));
                        }
                        Action::Ended { number, outcome } => {
                            assert!(ended.insert(number), "it ends once");
                            let (of, since_ns) = begun[&number];
                            let is_gone = resets.is_open() && !members.contains(of);
                            match outcome {
                                ResetOutcome::Unknown => assert!(now_ns >= since_ns + WAIT_NS),
                                _ if answer == Some((number, outcome)) => {}
                                ResetOutcome::Over => assert!(is_gone && has_lease, "nobody has said so"),
                                ResetOutcome::Refused => panic!("nobody has said so"),
                            }
                        }
                    }
                }
            }
            resets.poll(now_ns + WAIT_NS, false, &mut Vec::new());
            assert!(resets.asked.is_empty(), "whoever waits is told in time");
        }
    }
}
