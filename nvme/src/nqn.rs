//! NVMe Qualified Names: the names of hosts and of subsystems.
//!
//! A value of type [`Nqn`] is well formed, so that nothing past the parser has to ask again.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name in bytes, the terminating zero not counted.
///
/// Source: NVM Express Base Specification 2.0, NVMe Qualified Names.
pub const NQN_BYTES_MAX: usize = 223;

/// Bytes that a name takes in Connect data and in Identify: the name, then zeroes.
pub const NQN_FIELD_BYTES: usize = 256;

/// Bytes of `nqn.yyyy-mm.`, which every name starts with.
const PREFIX_BYTES: usize = 12;

/// An NVMe Qualified Name: `nqn.yyyy-mm.` and a reverse domain name, then mostly `:` and a string of its owner.
///
/// Source: NVM Express Base Specification 2.0, NVMe Qualified Names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nqn(Cow<'static, str>);

/// Why a string is no NVMe Qualified Name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NqnError {
    /// The name has more than [`NQN_BYTES_MAX`] bytes.
    #[error("the name has {bytes} bytes, {NQN_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes of the name.
        bytes: usize,
    },
    /// The name does not start with `nqn.`, a year, a month and a dot.
    #[error("the name must start with \"nqn.yyyy-mm.\", for example \"nqn.2026-01.io.example:disk\"")]
    Prefix,
    /// Nothing follows the date.
    #[error("a reverse domain name must follow the date, for example \"nqn.2026-01.io.example:disk\"")]
    Domain,
    /// The name contains a control character.
    #[error("the name contains a control character at byte {at}")]
    Control {
        /// Index of its first byte.
        at: usize,
    },
    /// A field of fixed size holds no UTF-8 text.
    #[error("the name is no UTF-8 text")]
    NotText,
    /// A field of fixed size has no terminating zero.
    #[error("the name is not terminated by a zero")]
    Unterminated,
}

impl Nqn {
    /// The well-known name of every discovery controller.
    ///
    /// Source: NVM Express over Fabrics 1.1, Discovery Service.
    pub const DISCOVERY: Self = Self(Cow::Borrowed("nqn.2014-08.org.nvmexpress.discovery"));

    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, NqnError> {
        if text.len() > NQN_BYTES_MAX {
            return Err(NqnError::TooLong { bytes: text.len() });
        }
        let bytes = text.as_bytes();
        if bytes.len() < PREFIX_BYTES || !is_prefix(&bytes[..PREFIX_BYTES]) {
            return Err(NqnError::Prefix);
        }
        if bytes.len() == PREFIX_BYTES || bytes[PREFIX_BYTES] == b':' {
            return Err(NqnError::Domain);
        }
        if let Some(at) = text.find(|c: char| c.is_control()) {
            return Err(NqnError::Control { at });
        }
        Ok(Self(Cow::Owned(text.to_owned())))
    }

    /// Reads a name from a field of fixed size that ends it with a zero.
    pub fn from_field(field: &[u8]) -> Result<Self, NqnError> {
        let end = field
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(NqnError::Unterminated)?;
        let text = std::str::from_utf8(&field[..end]).map_err(|_| NqnError::NotText)?;
        Self::parse(text)
    }

    /// The name as a field of 256 bytes, padded with zeroes.
    pub fn to_field(&self) -> [u8; NQN_FIELD_BYTES] {
        let mut field = [0; NQN_FIELD_BYTES];
        field[..self.0.len()].copy_from_slice(self.0.as_bytes());
        field
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `bytes` reads `nqn.yyyy-mm.` with a month that exists.
fn is_prefix(bytes: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    let month = (&bytes[9..11]).try_into().map(|text: [u8; 2]| text);
    bytes[..4] == *b"nqn."
        && digits(4..8)
        && bytes[8] == b'-'
        && digits(9..11)
        && matches!(month, Ok(text) if text >= *b"01" && text <= *b"12")
        && bytes[11] == b'.'
}

impl fmt::Display for Nqn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hosts_really_use_are_accepted() {
        for text in [
            "nqn.2014-08.org.nvmexpress:uuid:36ebf5a9-1df9-47b3-a6d0-e9ba32e428a2",
            "nqn.2026-01.io.braid:node-a",
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2014-08.com.example",
        ] {
            assert_eq!(Nqn::parse(text).expect("a valid name").as_str(), text);
        }
        assert_eq!(Nqn::parse(Nqn::DISCOVERY.as_str()), Ok(Nqn::DISCOVERY));
    }

    #[test]
    fn malformed_names_are_refused_with_their_reason() {
        assert_eq!(Nqn::parse(""), Err(NqnError::Prefix));
        assert_eq!(Nqn::parse("iqn.2026-01.io.braid:a"), Err(NqnError::Prefix));
        assert_eq!(Nqn::parse("nqn.26-01.io.braid:a"), Err(NqnError::Prefix));
        assert_eq!(Nqn::parse("nqn.2026-13.io.braid:a"), Err(NqnError::Prefix));
        assert_eq!(Nqn::parse("nqn.2026-01-io.braid:a"), Err(NqnError::Prefix));
        assert_eq!(Nqn::parse("nqn.2026-01."), Err(NqnError::Domain));
        assert_eq!(Nqn::parse("nqn.2026-01.:a"), Err(NqnError::Domain));
        assert_eq!(Nqn::parse("nqn.2026-01.a\nb"), Err(NqnError::Control { at: 13 }));
        let long = format!("nqn.2026-01.{}", "x".repeat(212));
        assert_eq!(Nqn::parse(&long), Err(NqnError::TooLong { bytes: 224 }));
        assert!(Nqn::parse(&long[..223]).is_ok());
    }

    #[test]
    fn fields_of_fixed_size_survive_a_round_trip() {
        let name = Nqn::parse("nqn.2026-01.io.braid:node-a").expect("a valid name");
        assert_eq!(Nqn::from_field(&name.to_field()), Ok(name));
        assert_eq!(Nqn::from_field(&[b'n'; 256]), Err(NqnError::Unterminated));
        assert_eq!(Nqn::from_field(&[0xff, 0, 0]), Err(NqnError::NotText));
        assert_eq!(Nqn::from_field(&[]), Err(NqnError::Unterminated));
    }
}
