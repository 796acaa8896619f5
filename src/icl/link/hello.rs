//! The handshake of a connection: both nodes prove that they have the array's key before the first packet.
//!
//! Owns four messages and what each side checks. The initiator names itself and whom it wants; the acceptor names itself
//! and proves the key first; the initiator proves it too; the acceptor's verdict ends the handshake. A proof is an
//! HMAC-SHA-256 over the prover's role and both introductions: fresh nonces of both sides, both slots, lives and epochs,
//! lane and path. So a proof fits no other connection, and none can be sent back to who made it. The nonces come from
//! the runtime, and the time that a handshake may take is the runtime's concern. It proves who is there when the
//! connection begins; against someone who can alter the connection afterwards only encryption below it helps. Of that it
//! knows one thing: how to tell a peer that encrypts, or that does not, when this node does otherwise.
//!
//! | bytes | field of an introduction |
//! |---|---|
//! | 0..4, 4, 5 | magic `BHEL`, format version, kind of message |
//! | 6, 7 | lane, path |
//! | 8..24, 24..28, 28..32, 32..40 | array, epoch (0: in none), terms, incarnation |
//! | 40, 41 | slot of the sender, of whom it wants |
//! | 42..48 | 0 |
//! | 48..80 | nonce |
//!
//! The acceptor's introduction is followed by its proof of 32 bytes. The initiator's proof stands behind eight bytes that
//! begin as above; the verdict has only these, with its code in byte 6.

use std::ops::Range;

use thiserror::Error;

use super::hmac::{HmacSha256, MAC_BYTES, is_same};
use super::name::{Lane, PATHS_MAX, PathId};
use super::past::PastLives;
use crate::icl::{ArrayId, Epoch, Incarnation, Node, Slot};

const MAGIC: [u8; 4] = *b"BHEL";
/// With what a peer begins that encrypts.
///
/// Source: RFC 8446, section 5.1, `ContentType`: handshake.
const TLS_HANDSHAKE: u8 = 22;
/// Version of the handshake and of what follows it.
pub const VERSION: u8 = 2;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 32;

const START_BYTES: usize = 8;
const INTRODUCTION_BYTES: usize = 80;
const CHALLENGE_BYTES: usize = INTRODUCTION_BYTES + MAC_BYTES;
const PROOF_BYTES: usize = START_BYTES + MAC_BYTES;
/// Bytes of the longest message.
pub const HELLO_BYTES_MAX: usize = CHALLENGE_BYTES;

const VERSION_AT: usize = 4;
const KIND_AT: usize = 5;
const LANE_AT: usize = 6;
const CODE_AT: usize = 6;
const PATH_AT: usize = 7;
const ARRAY_AT: usize = 8;
const EPOCH_AT: usize = 24;
const TERMS_AT: usize = 28;
const INCARNATION_AT: usize = 32;
const SENDER_AT: usize = 40;
const WANTED_AT: usize = 41;
const RESERVED_AT: Range<usize> = 42..NONCE_AT;
const NONCE_AT: usize = 48;

const ACCEPTOR_PROOF: &[u8] = b"braid link acceptor";
const INITIATOR_PROOF: &[u8] = b"braid link initiator";
const _: () =
    assert!(NONCE_AT + NONCE_BYTES == INTRODUCTION_BYTES && ACCEPTOR_PROOF.len() != INITIATOR_PROOF.len());

/// Why nodes with other terms are refused.
const UNLIKE: &str = "the files of the two nodes do not say alike who keeps what is acknowledged from memory: `replication_group`, the [[replication_rule]] sections, and `copies` and `min_copies` of each [[group]] with durability \"ram\" have to be the same in all nodes. Make them so, and restart the nodes that were changed";

/// Messages in order; a verdict may come instead of any but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Introduction,
    Challenge,
    Proof,
    Verdict,
}

impl Kind {
    const fn wire(self) -> u8 {
        match self {
            Self::Introduction => 1,
            Self::Challenge => 2,
            Self::Proof => 3,
            Self::Verdict => 4,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Introduction => INTRODUCTION_BYTES,
            Self::Challenge => CHALLENGE_BYTES,
            Self::Proof => PROOF_BYTES,
            Self::Verdict => START_BYTES,
        }
    }
}

/// A refusal as the peer is told it: the kind of it, without what this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RefusalCode {
    /// Format or order of the messages.
    #[error("it did not understand the handshake")]
    Protocol,
    /// Format version.
    #[error("it speaks another version")]
    Version,
    /// Array.
    #[error("it belongs to another array")]
    Array,
    /// Slot of either side.
    #[error("it is not the node that was wanted, or has the same slot")]
    Slot,
    /// The life is over.
    #[error("this incarnation of the node is over")]
    OldIncarnation,
    /// The proof does not fit.
    #[error("the key of the array is not the same")]
    Key,
    /// One side encrypts, the other does not.
    #[error(
        "one of the two nodes encrypts and the other does not: `encryption` in [array] has to be the same in all nodes"
    )]
    Encryption,
    /// The two nodes would not work out alike who keeps what is acknowledged from memory.
    #[error("{UNLIKE}")]
    Terms,
    /// A code that this version does not know.
    #[error("it refused for a reason that this version does not know")]
    Unknown,
}

impl RefusalCode {
    const fn wire(self) -> u8 {
        match self {
            Self::Protocol => 1,
            Self::Version => 2,
            Self::Array => 3,
            Self::Slot => 4,
            Self::OldIncarnation => 5,
            Self::Key => 6,
            Self::Encryption => 7,
            Self::Terms => 8,
            Self::Unknown => u8::MAX,
        }
    }

    const fn from_wire(code: u8) -> Self {
        match code {
            1 => Self::Protocol,
            2 => Self::Version,
            3 => Self::Array,
            4 => Self::Slot,
            5 => Self::OldIncarnation,
            6 => Self::Key,
            7 => Self::Encryption,
            8 => Self::Terms,
            _ => Self::Unknown,
        }
    }
}

/// Why a connection is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// What came in is no handshake of nodes.
    #[error("no handshake of a node at byte 0")]
    NoHello,
    /// Another version of the handshake.
    #[error("handshake version {found} is not {VERSION}")]
    Version {
        /// The peer's.
        found: u8,
    },
    /// A message that must not come now.
    #[error("message kind {found} at byte {KIND_AT} is out of order")]
    Order {
        /// Its kind.
        found: u8,
    },
    /// A field of an introduction has a value that it must not have.
    #[error("field at byte {at} of the introduction is out of range")]
    Field {
        /// Where.
        at: usize,
    },
    /// The peer belongs to another array.
    #[error("the peer belongs to another array")]
    Array,
    /// The peer has another slot than was wanted, or wants another than this node's.
    #[error("slot {found} where {expected} was expected")]
    WrongSlot {
        /// What the peer says.
        found: u8,
        /// What it should say.
        expected: u8,
    },
    /// The peer says that it is in this node's own slot: two nodes have the same configuration, or bytes came back.
    #[error("the peer claims this node's own slot {slot}")]
    OwnSlot {
        /// The slot.
        slot: u8,
    },
    /// The peer is a life of its slot that is over, whether it knows or not: it was left out of an epoch, or fenced.
    #[error("incarnation {found:#x} of slot {slot} is over")]
    OldIncarnation {
        /// The slot.
        slot: u8,
        /// The peer's life.
        found: u64,
    },
    /// The peer does not have the key, or has another.
    #[error("the proof does not fit: the key of the array is not the same")]
    Key,
    /// The peer encrypts, and this node does not.
    #[error(
        "the peer encrypts and this node does not: `encryption` in [array] has to be the same in all nodes"
    )]
    Encrypted,
    /// This node encrypts, and the peer does not.
    #[error(
        "this node encrypts and the peer does not: `encryption` in [array] has to be the same in all nodes"
    )]
    Unencrypted,
    /// The two nodes would not work out alike who keeps what is acknowledged from memory.
    #[error("{UNLIKE}")]
    Terms,
    /// What came in is not what a node says that encrypts.
    #[error("what came in is no TLS 1.3 of a node")]
    Tls,
    /// The peer has refused this node.
    #[error("the peer refused: {0}")]
    ByPeer(RefusalCode),
}

impl HelloError {
    /// What the peer is told; nothing if it is none, or has ended the handshake itself.
    const fn code(self) -> Option<RefusalCode> {
        Some(match self {
            Self::NoHello | Self::Tls | Self::ByPeer(_) => return None,
            Self::Version { .. } => RefusalCode::Version,
            Self::Order { .. } | Self::Field { .. } => RefusalCode::Protocol,
            Self::Array => RefusalCode::Array,
            Self::WrongSlot { .. } | Self::OwnSlot { .. } => RefusalCode::Slot,
            Self::OldIncarnation { .. } => RefusalCode::OldIncarnation,
            Self::Key => RefusalCode::Key,
            Self::Encrypted | Self::Unencrypted => RefusalCode::Encryption,
            Self::Terms => RefusalCode::Terms,
        })
    }

    /// Appends to `out` what the peer is told of it, which may be nothing.
    pub fn tell(self, out: &mut Vec<u8>) {
        if let Some(code) = self.code() {
            out.extend_from_slice(&verdict(code.wire()));
        }
    }
}

/// What a node brings to its handshakes.
#[derive(Clone, Copy)]
pub struct HelloConfig {
    /// The array.
    pub array: ArrayId,
    /// This node, in this life.
    pub local: Node,
    /// The epoch that it is in; 0 if it is in none.
    pub epoch: Epoch,
    /// Stands for what the configurations of all nodes have to say alike.
    pub terms: u32,
    /// The array's key.
    pub key: [u8; MAC_BYTES],
    /// How proofs are made.
    pub hmac: HmacSha256,
    /// Lives that are refused.
    pub over: PastLives,
}

/// Who is at the other end, proved; see [`super::Event::PathUp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeted {
    /// The peer, in its present life.
    pub peer: Node,
    /// The epoch that it was in; 0 if in none.
    pub epoch: Epoch,
    /// For which links the connection is.
    pub lane: Lane,
    /// Which way it is.
    pub path: PathId,
}

/// What the handshake awaits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The acceptor: who wants to connect.
    AwaitingIntroduction,
    /// The initiator: the peer's proof.
    AwaitingChallenge,
    /// The acceptor: the peer's proof.
    AwaitingProof,
    /// The initiator: the end.
    AwaitingVerdict,
    Over,
}

impl State {
    const fn awaited(self) -> Option<Kind> {
        Some(match self {
            Self::AwaitingIntroduction => Kind::Introduction,
            Self::AwaitingChallenge => Kind::Challenge,
            Self::AwaitingProof => Kind::Proof,
            Self::AwaitingVerdict => Kind::Verdict,
            Self::Over => return None,
        })
    }
}

/// One handshake.
pub struct Handshake {
    config: HelloConfig,
    state: State,
    /// The slot that the initiator wants.
    wanted: Option<Slot>,
    nonce: [u8; NONCE_BYTES],
    /// Introduction of the initiator, then of the acceptor: what proofs are about.
    introductions: [[u8; INTRODUCTION_BYTES]; 2],
    /// Who the peer says it is; proved when the handshake is over.
    greeted: Option<Greeted>,
    partial: [u8; HELLO_BYTES_MAX],
    partial_bytes: usize,
}

impl Handshake {
    /// Begins a handshake with the node in a slot; `out` gets what is to be sent. The nonce must be random and new.
    pub fn initiate(
        config: HelloConfig,
        peer: Slot,
        lane: Lane,
        path: PathId,
        nonce: [u8; NONCE_BYTES],
        out: &mut Vec<u8>,
    ) -> Self {
        assert!(peer != config.local.slot, "a node wants another one");
        let mut handshake = Self::new(config, State::AwaitingChallenge, nonce);
        handshake.wanted = Some(peer);
        handshake.introductions[0] = handshake.introduction(Kind::Introduction, peer, lane, path);
        out.extend_from_slice(&handshake.introductions[0]);
        handshake
    }

    /// Awaits a handshake on a connection that was accepted. The nonce must be random and new.
    pub fn accept(config: HelloConfig, nonce: [u8; NONCE_BYTES]) -> Self {
        Self::new(config, State::AwaitingIntroduction, nonce)
    }

    fn new(config: HelloConfig, state: State, nonce: [u8; NONCE_BYTES]) -> Self {
        Self {
            config,
            state,
            wanted: None,
            nonce,
            introductions: [[0; INTRODUCTION_BYTES]; 2],
            greeted: None,
            partial: [0; HELLO_BYTES_MAX],
            partial_bytes: 0,
        }
    }

    /// Takes bytes from the front of `input`, which come in arbitrary cuts, and appends to `out` what is to be sent.
    /// `None` until the handshake is over, when all of `input` is taken; what is left of it then is the first packet.
    ///
    /// Errs if the connection is not to be used: it must be closed once `out` was sent. Panics if it was over before.
    pub fn receive(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<Greeted>, HelloError> {
        let result = self.advance(input, out);
        if let Err(error) = result {
            self.state = State::Over;
            error.tell(out);
        }
        result
    }

    fn advance(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<Greeted>, HelloError> {
        assert_ne!(self.state, State::Over, "a handshake is over once");
        // At most two messages follow one another without an answer in between, so that this ends.
        while let Some(awaited) = self.state.awaited() {
            if !self.fill(input, START_BYTES)? {
                return Ok(None);
            }
            let kind = self.check_start(awaited)?;
            if !self.fill(input, kind.bytes())? {
                return Ok(None);
            }
            self.partial_bytes = 0;
            self.state = match kind {
                Kind::Introduction => self.take_introduction(out)?,
                Kind::Challenge => self.take_challenge(out)?,
                Kind::Proof => self.take_proof(out)?,
                Kind::Verdict => self.take_verdict()?,
            };
        }
        assert!(self.greeted.is_some(), "both sides have introduced themselves");
        Ok(self.greeted)
    }

    /// Takes what is there of the first `wanted` bytes of a message. Whether all of them are there.
    fn fill(&mut self, input: &mut &[u8], wanted: usize) -> Result<bool, HelloError> {
        let missing = wanted.saturating_sub(self.partial_bytes);
        let (taken, rest) = input.split_at(input.len().min(missing));
        self.partial[self.partial_bytes..][..taken.len()].copy_from_slice(taken);
        self.partial_bytes += taken.len();
        *input = rest;
        let magic_bytes = self.partial_bytes.min(MAGIC.len());
        if self.partial[..magic_bytes] == MAGIC[..magic_bytes] {
            return Ok(self.partial_bytes >= wanted);
        }
        if self.state == State::AwaitingIntroduction && self.partial[0] == TLS_HANDSHAKE {
            return Err(HelloError::Encrypted);
        }
        Err(HelloError::NoHello)
    }

    fn check_start(&self, awaited: Kind) -> Result<Kind, HelloError> {
        let found = self.partial[VERSION_AT];
        let kind = self.partial[KIND_AT];
        // A verdict is understood in every version: it says which one the peer speaks not.
        if kind == Kind::Verdict.wire() && self.state != State::AwaitingIntroduction {
            return Ok(Kind::Verdict);
        }
        if found != VERSION {
            return Err(HelloError::Version { found });
        }
        if kind != awaited.wire() {
            return Err(HelloError::Order { found: kind });
        }
        Ok(awaited)
    }

    fn take_introduction(&mut self, out: &mut Vec<u8>) -> Result<State, HelloError> {
        self.introductions[0].copy_from_slice(&self.partial[..INTRODUCTION_BYTES]);
        let greeted = self.check_introduction(&self.introductions[0])?;
        self.greeted = Some(greeted);
        self.introductions[1] =
            self.introduction(Kind::Challenge, greeted.peer.slot, greeted.lane, greeted.path);
        out.extend_from_slice(&self.introductions[1]);
        out.extend_from_slice(&self.proof(ACCEPTOR_PROOF));
        Ok(State::AwaitingProof)
    }

    fn take_challenge(&mut self, out: &mut Vec<u8>) -> Result<State, HelloError> {
        self.introductions[1].copy_from_slice(&self.partial[..INTRODUCTION_BYTES]);
        let greeted = self.check_introduction(&self.introductions[1])?;
        let own = &self.introductions[0];
        if let Some(at) = [LANE_AT, PATH_AT]
            .into_iter()
            .find(|&at| own[at] != self.partial[at])
        {
            return Err(HelloError::Field { at });
        }
        self.check_proof(INTRODUCTION_BYTES, ACCEPTOR_PROOF)?;
        self.greeted = Some(greeted);
        out.extend_from_slice(&start(Kind::Proof));
        out.extend_from_slice(&self.proof(INITIATOR_PROOF));
        Ok(State::AwaitingVerdict)
    }

    fn take_proof(&mut self, out: &mut Vec<u8>) -> Result<State, HelloError> {
        self.check_proof(START_BYTES, INITIATOR_PROOF)?;
        out.extend_from_slice(&verdict(0));
        Ok(State::Over)
    }

    fn take_verdict(&self) -> Result<State, HelloError> {
        match self.partial[CODE_AT] {
            0 if self.state == State::AwaitingVerdict => Ok(State::Over),
            0 => Err(HelloError::Order {
                found: Kind::Verdict.wire(),
            }),
            code => Err(HelloError::ByPeer(RefusalCode::from_wire(code))),
        }
    }

    fn introduction(&self, kind: Kind, peer: Slot, lane: Lane, path: PathId) -> [u8; INTRODUCTION_BYTES] {
        assert!(path.index() < PATHS_MAX, "there is such a path");
        let mut bytes = [0; INTRODUCTION_BYTES];
        bytes[..START_BYTES].copy_from_slice(&start(kind));
        bytes[LANE_AT] = lane.0;
        bytes[PATH_AT] = path.0;
        bytes[ARRAY_AT..EPOCH_AT].copy_from_slice(&self.config.array.0);
        bytes[EPOCH_AT..TERMS_AT].copy_from_slice(&self.config.epoch.0.to_le_bytes());
        bytes[TERMS_AT..INCARNATION_AT].copy_from_slice(&self.config.terms.to_le_bytes());
        bytes[INCARNATION_AT..SENDER_AT].copy_from_slice(&self.config.local.incarnation.0.to_le_bytes());
        bytes[SENDER_AT] = self.config.local.slot.number();
        bytes[WANTED_AT] = peer.number();
        bytes[NONCE_AT..].copy_from_slice(&self.nonce);
        bytes
    }

    /// What the other side says of itself, as far as it can be judged before it is proved.
    fn check_introduction(&self, bytes: &[u8; INTRODUCTION_BYTES]) -> Result<Greeted, HelloError> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let local = self.config.local.slot;
        if bytes[ARRAY_AT..EPOCH_AT] != self.config.array.0 {
            return Err(HelloError::Array);
        }
        let slot = Slot::new(bytes[SENDER_AT]).ok_or(HelloError::Field { at: SENDER_AT })?;
        if usize::from(bytes[PATH_AT]) >= PATHS_MAX {
            return Err(HelloError::Field { at: PATH_AT });
        }
        if let Some(at) = RESERVED_AT.into_iter().find(|&at| bytes[at] != 0) {
            return Err(HelloError::Field { at });
        }
        if slot == local || bytes[NONCE_AT..] == self.nonce {
            return Err(HelloError::OwnSlot { slot: local.number() });
        }
        for (found, expected) in [
            (slot.number(), self.wanted.unwrap_or(slot)),
            (bytes[WANTED_AT], local),
        ] {
            if found != expected.number() {
                return Err(HelloError::WrongSlot {
                    found,
                    expected: expected.number(),
                });
            }
        }
        if bytes[TERMS_AT..INCARNATION_AT] != self.config.terms.to_le_bytes() {
            return Err(HelloError::Terms);
        }
        let peer = Node {
            slot,
            incarnation: Incarnation(word(INCARNATION_AT)),
        };
        if self.config.over.contains(peer) {
            return Err(HelloError::OldIncarnation {
                slot: slot.number(),
                found: peer.incarnation.0,
            });
        }
        let epoch = bytes[EPOCH_AT..TERMS_AT].try_into();
        Ok(Greeted {
            peer,
            epoch: Epoch(u32::from_le_bytes(epoch.expect("four bytes"))),
            lane: Lane(bytes[LANE_AT]),
            path: PathId(bytes[PATH_AT]),
        })
    }

    /// The role comes first and has another length for each, so that no two messages to be proved are alike.
    fn proof(&self, role: &[u8]) -> [u8; MAC_BYTES] {
        let [initiator, acceptor] = &self.introductions;
        (self.config.hmac)(&self.config.key, &[role, initiator, acceptor])
    }

    fn check_proof(&self, at: usize, role: &[u8]) -> Result<(), HelloError> {
        let found = self.partial[at..at + MAC_BYTES]
            .try_into()
            .expect("as many bytes");
        if is_same(&self.proof(role), &found) {
            Ok(())
        } else {
            Err(HelloError::Key)
        }
    }
}

/// Whether these bytes of a peer begin like a handshake that is not encrypted.
pub fn is_unencrypted(bytes: &[u8]) -> bool {
    bytes.first() == MAGIC.first()
}

/// The first bytes of a message.
fn start(kind: Kind) -> [u8; START_BYTES] {
    let mut bytes = [0; START_BYTES];
    bytes[..VERSION_AT].copy_from_slice(&MAGIC);
    bytes[VERSION_AT] = VERSION;
    bytes[KIND_AT] = kind.wire();
    bytes
}

fn verdict(code: u8) -> [u8; START_BYTES] {
    let mut bytes = start(Kind::Verdict);
    bytes[CODE_AT] = code;
    bytes
}

#[cfg(test)]
mod tests;
