//! Messages as bytes.

use super::{
    CLAIMS_MAX, Claim, ClaimKind, Grant, HandOver, Kind, Message, MessageError, Request, Seat, Terms, Waiter,
};
use crate::amf::arbiter::name::{Number, Prefetch, Resource, Token};
use crate::amf::lock::{Held, Mode};
use crate::icl::{Epoch, Slot};

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 28;
/// Most bytes of a grant.
pub const GRANT_BYTES_MAX: usize = 62;
const _: () = assert!(REQUEST_BYTES <= 64 && GRANT_BYTES_MAX <= 64);

/// Bytes of a claim in a report.
const CLAIM_BYTES: usize = 30;
/// Bits that the serial of a token may have: nobody grants that often.
const SERIAL_BITS: u32 = 56;
/// The place of a slot that is none.
const NOBODY: u8 = u8::MAX;

// Of the first byte of a grant.
const WRITE: u8 = 1;
const WHEN_DONE: u8 = 2;
const HANDED_OVER: u8 = 4;
const SEAT: u8 = 8;
const WAITING: u8 = 16;
/// Who waits takes dirty data.
const TAKES: u8 = 32;
const GRANT_FLAGS: u8 = WRITE | WHEN_DONE | HANDED_OVER | SEAT | WAITING | TAKES;

impl Message {
    /// Appends the message.
    ///
    /// Panics if a report has more than [`CLAIMS_MAX`] claims.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(code(self.kind()));
        match self {
            Self::Request(request) => {
                let takes = u8::from(request.takes);
                out.extend([mode_code(request.mode), request.priority, takes]);
                about(request.number, request.resource, out);
                out.extend(request.prefetch.0.to_le_bytes());
            }
            Self::Recall {
                resource,
                number,
                terms,
            } => {
                out.extend([hold_code(terms.keep), slot_code(terms.next), 0]);
                about(*number, *resource, out);
            }
            Self::Released {
                resource,
                number,
                kept,
                is_handed_over,
            } => {
                out.extend([hold_code(*kept), u8::from(*is_handed_over), 0]);
                about(*number, *resource, out);
            }
            Self::Grant(grant) => encode_grant(grant, out),
            Self::Moved { resource, number } | Self::Refused { resource, number } => {
                out.extend([0; 3]);
                about(*number, *resource, out);
            }
            Self::Returned { resource, token }
            | Self::Taken { resource, token }
            | Self::Noted { resource, token } => {
                out.extend([0; 3]);
                out.extend(resource.0.to_le_bytes());
                encode_token(*token, out);
            }
            Self::Report {
                batch,
                is_last,
                claims,
            } => {
                assert!(claims.len() <= CLAIMS_MAX, "a report is bounded");
                let count = u16::try_from(claims.len()).expect("a report is bounded");
                out.push(u8::from(*is_last));
                out.extend(count.to_le_bytes());
                out.extend(batch.to_le_bytes());
                for claim in claims {
                    encode_claim(claim, out);
                }
            }
            Self::ReportTaken { batch } => {
                out.extend([0; 3]);
                out.extend(batch.to_le_bytes());
            }
        }
    }

    /// Reads a message. Errs for everything that [`Self::encode`] would not have made.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let (&code, rest) = bytes.split_first().ok_or(MessageError::Empty)?;
        let index = usize::from(code).checked_sub(1);
        let kind = index.and_then(|index| Kind::ALL.get(index));
        let kind = *kind.ok_or(MessageError::Kind(code))?;
        let mut input = Input {
            rest,
            short: MessageError::Length {
                kind: code,
                found: bytes.len(),
            },
        };
        let message = input.message(kind)?;
        if input.rest.is_empty() {
            Ok(message)
        } else {
            Err(input.short)
        }
    }
}

fn code(kind: Kind) -> u8 {
    u8::try_from(kind.index() + 1).expect("there are few kinds")
}

const fn mode_code(mode: Mode) -> u8 {
    match mode {
        Mode::Read => 1,
        Mode::Write => 2,
    }
}

const fn hold_code(hold: Held) -> u8 {
    match hold {
        Held::Nothing => 0,
        Held::Read => 1,
        Held::Write => 2,
    }
}

fn slot_code(slot: Option<Slot>) -> u8 {
    slot.map_or(NOBODY, Slot::number)
}

fn about(number: Number, resource: Resource, out: &mut Vec<u8>) {
    out.extend(number.0.to_le_bytes());
    out.extend(resource.0.to_le_bytes());
}

fn encode_token(token: Token, out: &mut Vec<u8>) {
    out.extend(token.epoch.0.to_le_bytes());
    out.extend(token.serial.to_le_bytes());
}

fn encode_grant(grant: &Grant, out: &mut Vec<u8>) {
    let waiting = grant.seat.and_then(|seat| seat.waiting);
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let flags = flag(grant.mode.is_write(), WRITE)
        | flag(grant.when_done.is_some(), WHEN_DONE)
        | flag(grant.hand_over.is_some(), HANDED_OVER)
        | flag(grant.seat.is_some(), SEAT)
        | flag(waiting.is_some(), WAITING)
        | flag(waiting.is_some_and(|waiter| waiter.takes), TAKES);
    let terms = grant.when_done.unwrap_or(Terms {
        keep: Held::Nothing,
        next: None,
    });
    // Two slots and a hold in two bytes: a slot has three bits, and one says that there is none.
    let next = terms.next.map_or(0x0f, Slot::number);
    out.extend([
        flags,
        slot_code(grant.hand_over.map(|over| over.from)),
        hold_code(terms.keep) << 4 | next,
    ]);
    about(grant.number, grant.resource, out);
    encode_token(grant.token, out);
    out.extend(grant.prefetch.0.to_le_bytes());
    if let Some(over) = grant.hand_over {
        encode_token(over.token, out);
    }
    if let Some(waiting) = waiting {
        out.extend([mode_code(waiting.mode), waiting.priority]);
        out.extend(waiting.number.0.to_le_bytes());
    }
}

fn encode_claim(claim: &Claim, out: &mut Vec<u8>) {
    let kind = match claim.kind {
        ClaimKind::Wants(mode) => mode_code(mode),
        ClaimKind::Gives => 3,
        ClaimKind::Holds(mode) => 3 + mode_code(mode),
    };
    out.extend([kind, claim.priority]);
    about(claim.number, claim.resource, out);
    encode_token(claim.token, out);
}

/// What is left to read.
struct Input<'a> {
    rest: &'a [u8],
    /// What to say if it is not enough.
    short: MessageError,
}

impl Input<'_> {
    fn message(&mut self, kind: Kind) -> Result<Message, MessageError> {
        Ok(match kind {
            Kind::Request => {
                let mode = self.mode()?;
                let priority = self.byte()?;
                let takes = self.flag("whether dirty data is taken")?;
                let (number, resource) = self.about()?;
                let prefetch = Prefetch(self.long()?);
                Message::Request(Request {
                    resource,
                    mode,
                    priority,
                    number,
                    prefetch,
                    takes,
                })
            }
            Kind::Recall => {
                let keep = self.hold()?;
                let next = self.slot()?;
                self.zeros(1)?;
                let (number, resource) = self.about()?;
                Message::Recall {
                    resource,
                    number,
                    terms: Terms { keep, next },
                }
            }
            Kind::Released => {
                let kept = self.hold()?;
                let is_handed_over = self.flag("whether dirty data is handed over")?;
                self.zeros(1)?;
                let (number, resource) = self.about()?;
                Message::Released {
                    resource,
                    number,
                    kept,
                    is_handed_over,
                }
            }
            Kind::Grant => Message::Grant(self.grant()?),
            Kind::Moved | Kind::Refused => {
                self.zeros(3)?;
                let (number, resource) = self.about()?;
                if kind == Kind::Moved {
                    Message::Moved { resource, number }
                } else {
                    Message::Refused { resource, number }
                }
            }
            Kind::Returned | Kind::Taken | Kind::Noted => self.with_token(kind)?,
            Kind::Report => self.report()?,
            Kind::ReportTaken => {
                self.zeros(3)?;
                let batch = self.int()?;
                Message::ReportTaken { batch }
            }
        })
    }

    fn with_token(&mut self, kind: Kind) -> Result<Message, MessageError> {
        self.zeros(3)?;
        let resource = Resource(self.long()?);
        let token = self.token()?;
        Ok(if kind == Kind::Returned {
            Message::Returned { resource, token }
        } else if kind == Kind::Taken {
            Message::Taken { resource, token }
        } else {
            Message::Noted { resource, token }
        })
    }

    fn grant(&mut self) -> Result<Grant, MessageError> {
        let flags = self.byte()?;
        let has = |flag: u8| flags & flag != 0;
        let is_odd = has(WAITING) && !has(SEAT) || has(SEAT) && !has(WRITE) || has(TAKES) && !has(WAITING);
        if flags & !GRANT_FLAGS != 0 || is_odd {
            return unknown("flags", flags);
        }
        let from = self.slot()?;
        let terms = self.byte()?;
        let next = if terms & 0x0f == 0x0f {
            None
        } else {
            Some(Slot::new(terms & 0x0f).ok_or(MessageError::Unknown {
                field: "slot",
                value: terms,
            })?)
        };
        let keep = hold(terms >> 4)?;
        let terms = Terms { keep, next };
        let (number, resource) = self.about()?;
        let token = self.token()?;
        let prefetch = Prefetch(self.long()?);
        let hand_over = match (has(HANDED_OVER), from) {
            (true, Some(from)) => Some(HandOver {
                from,
                token: self.token()?,
            }),
            (false, None) => None,
            (true, None) | (false, Some(_)) => return unknown("flags", flags),
        };
        if !has(WHEN_DONE)
            && terms
                != (Terms {
                    keep: Held::Nothing,
                    next: None,
                })
        {
            return unknown("flags", flags);
        }
        let waiting = if has(WAITING) {
            Some(self.waiter(has(TAKES))?)
        } else {
            None
        };
        Ok(Grant {
            resource,
            mode: if has(WRITE) { Mode::Write } else { Mode::Read },
            number,
            token,
            when_done: has(WHEN_DONE).then_some(terms),
            hand_over,
            prefetch,
            seat: has(SEAT).then_some(Seat { waiting }),
        })
    }

    fn waiter(&mut self, takes: bool) -> Result<Waiter, MessageError> {
        Ok(Waiter {
            mode: self.mode()?,
            priority: self.byte()?,
            number: Number(self.long()?),
            takes,
        })
    }

    fn report(&mut self) -> Result<Message, MessageError> {
        let is_last = self.flag("whether a report is the last")?;
        let count = usize::from(u16::from_le_bytes(self.array()?));
        let batch = self.int()?;
        if count > CLAIMS_MAX || self.rest.len() != count * CLAIM_BYTES {
            return Err(self.short);
        }
        let mut claims = Vec::with_capacity(count);
        for _ in 0..count {
            claims.push(self.claim()?);
        }
        Ok(Message::Report {
            batch,
            is_last,
            claims,
        })
    }

    fn claim(&mut self) -> Result<Claim, MessageError> {
        let kind = match self.byte()? {
            1 => ClaimKind::Wants(Mode::Read),
            2 => ClaimKind::Wants(Mode::Write),
            3 => ClaimKind::Gives,
            4 => ClaimKind::Holds(Mode::Read),
            5 => ClaimKind::Holds(Mode::Write),
            value => return unknown("kind of a claim", value),
        };
        let priority = self.byte()?;
        let (number, resource) = self.about()?;
        let token = self.token()?;
        Ok(Claim {
            resource,
            kind,
            number,
            token,
            priority,
        })
    }

    fn array<const BYTES: usize>(&mut self) -> Result<[u8; BYTES], MessageError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(self.short)?;
        self.rest = rest;
        Ok(*array)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn int(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_le_bytes)
    }

    fn zeros(&mut self, count: usize) -> Result<(), MessageError> {
        for _ in 0..count {
            match self.byte()? {
                0 => {}
                value => return unknown("a reserved byte", value),
            }
        }
        Ok(())
    }

    fn flag(&mut self, field: &'static str) -> Result<bool, MessageError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            value => unknown(field, value),
        }
    }

    fn mode(&mut self) -> Result<Mode, MessageError> {
        match self.byte()? {
            1 => Ok(Mode::Read),
            2 => Ok(Mode::Write),
            value => unknown("mode", value),
        }
    }

    fn hold(&mut self) -> Result<Held, MessageError> {
        hold(self.byte()?)
    }

    fn slot(&mut self) -> Result<Option<Slot>, MessageError> {
        match self.byte()? {
            NOBODY => Ok(None),
            number => match Slot::new(number) {
                Some(slot) => Ok(Some(slot)),
                None => unknown("slot", number),
            },
        }
    }

    fn about(&mut self) -> Result<(Number, Resource), MessageError> {
        Ok((Number(self.long()?), Resource(self.long()?)))
    }

    fn token(&mut self) -> Result<Token, MessageError> {
        let epoch = Epoch(self.int()?);
        let serial = self.long()?;
        match serial >> SERIAL_BITS {
            0 => Ok(Token { epoch, serial }),
            _ => unknown("serial of a token", u8::MAX),
        }
    }
}

fn unknown<T>(field: &'static str, value: u8) -> Result<T, MessageError> {
    Err(MessageError::Unknown { field, value })
}

fn hold(code: u8) -> Result<Held, MessageError> {
    match code {
        0 => Ok(Held::Nothing),
        1 => Ok(Held::Read),
        2 => Ok(Held::Write),
        value => unknown("hold", value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icl::link::random::Random;

    fn slot(number: u8) -> Slot {
        Slot::new(number).unwrap()
    }

    fn token(serial: u64) -> Token {
        Token {
            epoch: Epoch(7),
            serial,
        }
    }

    fn grants() -> Vec<Message> {
        let mut all = Vec::new();
        for bits in 0..32 {
            let terms = Terms {
                keep: Held::Read,
                next: (bits & 1 == 0).then(|| slot(7)),
            };
            let waiter = Waiter {
                mode: Mode::Read,
                priority: 9,
                number: Number(88),
                takes: bits & 1 == 0,
            };
            let seat = Seat {
                waiting: (bits & 2 == 0).then_some(waiter),
            };
            all.push(Message::Grant(Grant {
                resource: Resource(u64::MAX - 5),
                mode: Mode::Write,
                number: Number(1 << 40),
                token: token(3),
                when_done: (bits & 4 == 0).then_some(terms),
                hand_over: (bits & 8 == 0).then_some(HandOver {
                    from: slot(3),
                    token: token(2),
                }),
                prefetch: Prefetch::next(5),
                seat: (bits & 16 == 0).then_some(seat),
            }));
        }
        all
    }

    fn samples() -> Vec<Message> {
        let (resource, number, token) = (Resource(0x0102_0304_0506), Number(77), token(9));
        let terms = Terms {
            keep: Held::Nothing,
            next: Some(slot(2)),
        };
        let claim = |kind| Claim {
            resource,
            kind,
            number,
            token,
            priority: 4,
        };
        let claims = vec![
            claim(ClaimKind::Wants(Mode::Read)),
            claim(ClaimKind::Gives),
            claim(ClaimKind::Holds(Mode::Write)),
        ];
        let mut all = vec![
            Message::Request(Request {
                resource,
                mode: Mode::Read,
                priority: 200,
                number,
                prefetch: Prefetch(0b1011),
                takes: true,
            }),
            Message::Recall {
                resource,
                number,
                terms,
            },
            Message::Released {
                resource,
                number,
                kept: Held::Read,
                is_handed_over: false,
            },
            Message::Moved { resource, number },
            Message::Refused { resource, number },
            Message::Returned { resource, token },
            Message::Taken { resource, token },
            Message::Noted { resource, token },
            Message::Report {
                batch: 6,
                is_last: true,
                claims,
            },
            Message::Report {
                batch: 0,
                is_last: false,
                claims: Vec::new(),
            },
            Message::ReportTaken { batch: 6 },
        ];
        all.extend(grants());
        all
    }

    fn bytes(message: &Message) -> Vec<u8> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_sent_is_received() {
        for message in samples() {
            assert_eq!(Message::parse(&bytes(&message)), Ok(message));
        }
    }

    #[test]
    fn a_request_and_a_grant_are_small() {
        assert_eq!(bytes(&samples()[0]).len(), REQUEST_BYTES);
        let longest = grants().iter().map(|grant| bytes(grant).len()).max();
        assert_eq!(longest, Some(GRANT_BYTES_MAX));
    }

    #[test]
    fn every_cut_and_every_byte_too_many_is_an_error() {
        for message in samples() {
            let mut bytes = bytes(&message);
            for end in 0..bytes.len() {
                assert!(Message::parse(&bytes[..end]).is_err(), "{message:?} {end}");
            }
            bytes.push(0);
            assert!(matches!(Message::parse(&bytes), Err(MessageError::Length { .. })));
        }
    }

    /// Whatever is read is what would have been written: no two encodings mean the same.
    #[test]
    fn changed_bytes_are_refused_or_mean_what_they_say() {
        let mut random = Random::new(5);
        for message in samples() {
            for _ in 0..2000 {
                let mut changed = bytes(&message);
                let at = random.index(changed.len());
                changed[at] = u8::try_from(random.below(256)).unwrap();
                if let Ok(parsed) = Message::parse(&changed) {
                    assert_eq!(bytes(&parsed), changed);
                }
            }
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(Message::parse(&[]), Err(MessageError::Empty));
        assert_eq!(Message::parse(&[0, 1]), Err(MessageError::Kind(0)));
        assert_eq!(Message::parse(&[12, 1]), Err(MessageError::Kind(12)));
        let mut request = bytes(&samples()[0]);
        request[1] = 3;
        assert_eq!(
            Message::parse(&request),
            Err(MessageError::Unknown {
                field: "mode",
                value: 3
            })
        );
        let mut report = bytes(&Message::Report {
            batch: 0,
            is_last: true,
            claims: Vec::new(),
        });
        report[2..4].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(
            Message::parse(&report),
            Err(MessageError::Length { kind: 10, found: 8 })
        );
    }
}
