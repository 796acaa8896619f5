//! Where one JSON value ends and the next begins in a stream of bytes.
//!
//! Values may follow each other with or without white space. Each byte is looked at once, however slowly it
//! arrives. Whether a value is good JSON is for the parser to say.

use thiserror::Error;

/// Longest message in bytes: the longest request, `group.create` with 32 long names, takes a few thousand.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The message is longer than [`MESSAGE_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the message is longer than {MESSAGE_BYTES_MAX} bytes")]
pub struct TooLong;

/// What the value under way is, from its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    /// Nothing but white space since the last value.
    Between,
    /// Inside an object or array, `depth` brackets deep.
    Brackets { depth: u32, text: Text },
    /// Something else: it ends with its line.
    Line,
}

/// Whether the scanner is inside a string, where brackets do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Outside,
    Inside,
    Escaped,
}

/// Cuts a stream into JSON values.
#[derive(Debug)]
pub struct Framer {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that have been looked at.
    scanned: usize,
    /// Where the value under way starts.
    start: usize,
    scan: Scan,
    bytes_max: usize,
    values: u64,
}

impl Default for Framer {
    fn default() -> Self {
        Self::with_limit(MESSAGE_BYTES_MAX)
    }
}

impl Framer {
    /// A framer for messages of up to `bytes_max` bytes.
    pub fn with_limit(bytes_max: usize) -> Self {
        assert!(bytes_max > 0);
        Self {
            bytes: Vec::new(),
            scanned: 0,
            start: 0,
            scan: Scan::Between,
            bytes_max,
            values: 0,
        }
    }

    /// Takes bytes of the stream; [`Framer::take`] gives the values that they complete.
    pub fn push(&mut self, bytes: &[u8]) {
        // The caller drains after each push, so that what is kept is one unfinished message and one read.
        self.bytes.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a value has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.scan != Scan::Between
    }

    /// Complete values that [`Framer::take`] has given.
    pub fn values(&self) -> u64 {
        self.values
    }

    /// The next complete value. `None`: more bytes are needed. Errs when the value under way is too long; nothing
    /// after that can be read.
    pub fn take(&mut self) -> Result<Option<&[u8]>, TooLong> {
        while let Some(&byte) = self.bytes.get(self.scanned) {
            let before = self.scan;
            self.scan = before.after(byte);
            self.scanned += 1;
            if before == Scan::Between && self.scan == Scan::Between {
                self.start = self.scanned;
                continue;
            }
            if self.scanned - self.start > self.bytes_max {
                return Err(TooLong);
            }
            if self.scan == Scan::Between {
                let value = self.start..self.scanned;
                self.start = self.scanned;
                self.values += 1;
                return Ok(Some(&self.bytes[value]));
            }
        }
        Ok(None)
    }

    /// What is left when the stream has ended: a line without its end, or an unfinished value.
    pub fn rest(&mut self) -> Option<&[u8]> {
        let inside = self.is_inside();
        self.scan = Scan::Between;
        let value = self.start..self.scanned;
        self.start = self.scanned;
        inside.then(|| &self.bytes[value])
    }
}

impl Scan {
    fn after(self, byte: u8) -> Self {
        match self {
            Self::Between => match byte {
                b' ' | b'\t' | b'\r' | b'\n' => Self::Between,
                b'{' | b'[' => Self::Brackets {
                    depth: 1,
                    text: Text::Outside,
                },
                _ => Self::Line,
            },
            Self::Line if byte == b'\n' => Self::Between,
            Self::Line => Self::Line,
            Self::Brackets {
                depth,
                text: Text::Outside,
            } => match byte {
                b'"' => Self::Brackets {
                    depth,
                    text: Text::Inside,
                },
                b'{' | b'[' => Self::Brackets {
                    depth: depth.saturating_add(1),
                    text: Text::Outside,
                },
                b'}' | b']' if depth == 1 => Self::Between,
                b'}' | b']' => Self::Brackets {
                    depth: depth - 1,
                    text: Text::Outside,
                },
                _ => self,
            },
            Self::Brackets {
                depth,
                text: Text::Inside,
            } => match byte {
                b'"' => Self::Brackets {
                    depth,
                    text: Text::Outside,
                },
                b'\\' => Self::Brackets {
                    depth,
                    text: Text::Escaped,
                },
                _ => self,
            },
            Self::Brackets {
                depth,
                text: Text::Escaped,
            } => Self::Brackets {
                depth,
                text: Text::Inside,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(stream: &[u8], piece_bytes: usize) -> Vec<Vec<u8>> {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for piece in stream.chunks(piece_bytes) {
            framer.push(piece);
            while let Some(value) = framer.take().unwrap() {
                found.push(value.to_vec());
            }
        }
        found.extend(framer.rest().map(<[u8]>::to_vec));
        found
    }

    #[test]
    fn values_need_no_white_space_between_them_and_any_split_will_do() {
        let stream = br#" {"a":"}\"{"} {"b":[1,{}]}[{}]
 42
{"c":"\\"}"#;
        let whole: Vec<&[u8]> = vec![
            br#"{"a":"}\"{"}"#,
            br#"{"b":[1,{}]}"#,
            b"[{}]",
            b"42\n",
            br#"{"c":"\\"}"#,
        ];
        for piece_bytes in 1..stream.len() + 1 {
            assert_eq!(frames(stream, piece_bytes), whole, "in pieces of {piece_bytes}");
        }
    }

    #[test]
    fn unfinished_value_is_what_rests() {
        assert_eq!(frames(b"{\"a\": ", 3), [b"{\"a\": ".to_vec()]);
        assert_eq!(frames(b"  \n ", 3), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn limit_counts_one_message_only() {
        let mut framer = Framer::with_limit(8);
        for _ in 0..100 {
            framer.push(b"      {\"a\":1}");
            assert_eq!(framer.take(), Ok(Some(&b"{\"a\":1}"[..])));
            assert_eq!(framer.take(), Ok(None));
        }
        framer.push(b"{\"ab\":1}{\"abc\":1}");
        assert_eq!(framer.take(), Ok(Some(&b"{\"ab\":1}"[..])));
        assert_eq!(framer.take(), Err(TooLong));
    }

    #[test]
    fn memory_does_not_grow_with_the_stream() {
        let mut framer = Framer::default();
        for _ in 0..10_000 {
            framer.push(b"{\"method\":\"node.show\"}  ");
            assert!(framer.take().unwrap().is_some());
            assert!(framer.take().unwrap().is_none());
        }
        assert!(framer.bytes.capacity() < 4096);
    }
}
