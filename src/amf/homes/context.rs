//! What every message between the nodes of a group brings along, so that whoever gets a row knows at least what its last holder knew.
//!
//! A node takes it in before the message itself. As what a holder knew goes to the arbiter with its release, and from there with the grant to the next
//! holder, no message has to say it on its own account (PROTOCOL H29, H34, H19).
//!
//! Layout, little-endian, [`CONTEXT_BYTES`] long: next number 0..8, tail 8..16, rebuilt rows 16..24, generation 24..32, failed 32..36,
//! rebuilding 36..40, trust in check data 40, zeroes 41..48.

use thiserror::Error;

use crate::amf::{MemberSet, ParityTrust};

/// Length of a context.
pub const CONTEXT_BYTES: usize = 48;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Entries of the sender's lanes have lower numbers.
    pub next: u64,
    /// All of them below this are retired.
    pub tail: u64,
    /// The members as the sender knows them.
    pub members: MemberSet,
}

/// Why bytes are no context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ContextError {
    /// There are other than [`CONTEXT_BYTES`].
    #[error("{0} bytes are no context")]
    Length(usize),
    /// A field has a value that it cannot have, or they contradict one another.
    #[error("its fields contradict one another")]
    Fields,
}

impl Context {
    /// As bytes.
    pub fn encode(&self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        let MemberSet {
            generation,
            failed,
            parity,
            rebuilding,
            rebuilt_rows,
        } = self.members;
        bytes[0..8].copy_from_slice(&self.next.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.tail.to_le_bytes());
        bytes[16..24].copy_from_slice(&rebuilt_rows.to_le_bytes());
        bytes[24..32].copy_from_slice(&generation.to_le_bytes());
        bytes[32..36].copy_from_slice(&failed.to_le_bytes());
        bytes[36..40].copy_from_slice(&rebuilding.to_le_bytes());
        bytes[40] = match parity {
            ParityTrust::Nowhere => 0,
            ParityTrust::WhereWritten => 1,
            ParityTrust::Everywhere => 2,
        };
        bytes
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ContextError> {
        let bytes: &[u8; CONTEXT_BYTES] = bytes.try_into().map_err(|_| ContextError::Length(bytes.len()))?;
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let parity = match bytes[40] {
            0 => ParityTrust::Nowhere,
            1 => ParityTrust::WhereWritten,
            2 => ParityTrust::Everywhere,
            _ => return Err(ContextError::Fields),
        };
        let context = Self {
            next: long(0),
            tail: long(8),
            members: MemberSet {
                generation: long(24),
                failed: short(32),
                parity,
                rebuilding: short(36),
                rebuilt_rows: long(16),
            },
        };
        let MemberSet {
            failed, rebuilding, ..
        } = context.members;
        let is_sound =
            context.tail <= context.next && context.next < u64::MAX / 2 && rebuilding & !failed == 0;
        if is_sound && context.encode() == *bytes {
            Ok(context)
        } else {
            Err(ContextError::Fields)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            next: 70,
            tail: 60,
            members: MemberSet {
                generation: 9,
                failed: 0b110,
                parity: ParityTrust::WhereWritten,
                rebuilding: 0b100,
                rebuilt_rows: 5,
            },
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let bytes = context().encode();
        assert_eq!(Context::parse(&bytes), Ok(context()));
        assert_eq!(Context::parse(&bytes[1..]), Err(ContextError::Length(47)));
    }

    #[test]
    fn fields_that_contradict_one_another_are_refused() {
        for (at, value) in [(8, 71), (7, 0xff), (36, 1), (40, 3), (41, 1), (47, 1)] {
            let mut bytes = context().encode();
            bytes[at] = value;
            assert_eq!(Context::parse(&bytes), Err(ContextError::Fields), "{at}");
        }
    }
}
