//! Cuts the byte stream of one direction into PDU headers and pieces of data.
//!
//! Shared by both ends. Headers are gathered here because they may arrive in pieces (128 + 4 bytes
//! at most); data passes through borrowed and is never stored. Knows nothing of what PDUs mean.

use super::pdu::{
    Body, COMMON_HEADER_BYTES, CommonHeader, DIGEST_BYTES, Digests, Fatal, HEADER_BYTES_MAX, Pdu,
};
use crate::crc32c::Crc32c;

/// The next thing in the stream.
#[derive(Debug)]
pub(super) enum Frame<'a> {
    /// A whole header. If it has a body then `Bytes` and `End` follow, unless the receiver says `skip_body`.
    Header(Pdu),
    /// Some of the body's data, at least one byte.
    Bytes(&'a [u8]),
    /// The body is over; `intact` is false if its data digest was wrong.
    End { intact: bool },
}

/// Where in a PDU the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Within a header, of which `buffered` bytes are here.
    Header,
    /// Before or within padding, data or data digest.
    Body {
        pad_bytes: u32,
        data_bytes: u32,
        digest: bool,
    },
    /// `bytes` that nobody wants.
    Skip { bytes: u64 },
}

/// Reassembles headers and delimits data.
pub(super) struct Framer {
    digests: Digests,
    crc: Crc32c,
    position: Position,
    /// The header being gathered, or the last whole one. Followed by a data digest being gathered.
    buffer: [u8; HEADER_BYTES_MAX + DIGEST_BYTES],
    /// Bytes of the header (or, in a body, of the data digest) that are here.
    buffered: usize,
    /// Bytes of the last whole header.
    header_bytes: usize,
    /// Running data digest.
    digest: u32,
}

impl Framer {
    pub(super) fn new(crc: Crc32c) -> Self {
        Self {
            digests: Digests::default(),
            crc,
            position: Position::Header,
            buffer: [0; HEADER_BYTES_MAX + DIGEST_BYTES],
            buffered: 0,
            header_bytes: 0,
            digest: 0,
        }
    }

    pub(super) fn digests(&self) -> Digests {
        self.digests
    }

    /// Uses digests from the next PDU on.
    pub(super) fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// The header received last, as far as it came; for a TermReq to quote.
    pub(super) fn header(&self) -> &[u8] {
        &self.buffer[..self.header_bytes]
    }

    /// Takes from `input` up to the next frame. `None`: everything was taken and more is needed.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Option<Result<Frame<'a>, Fatal>> {
        loop {
            match self.position {
                Position::Header => return self.gather_header(input).transpose(),
                Position::Body {
                    pad_bytes,
                    data_bytes,
                    digest,
                } => {
                    if pad_bytes > 0 {
                        let taken = take_count(input, u64::from(pad_bytes))?;
                        self.position = Position::Body {
                            pad_bytes: pad_bytes - taken,
                            data_bytes,
                            digest,
                        };
                    } else if data_bytes > 0 {
                        return self.take_data(input, data_bytes, digest).map(Ok);
                    } else {
                        return self.finish_body(input, digest).map(Ok);
                    }
                }
                Position::Skip { bytes: 0 } => self.position = Position::Header,
                Position::Skip { bytes } => {
                    let taken = take_count(input, bytes)?;
                    self.position = Position::Skip {
                        bytes: bytes - u64::from(taken),
                    };
                }
            }
        }
    }

    /// Passes over what is left of the current body, digest included, without frames for it.
    pub(super) fn skip_body(&mut self) {
        let Position::Body {
            pad_bytes,
            data_bytes,
            digest,
        } = self.position
        else {
            return; // There is no body, or nothing is left of it.
        };
        let digest_bytes = if digest { DIGEST_BYTES - self.buffered } else { 0 };
        self.buffered = 0;
        self.position = Position::Skip {
            bytes: u64::from(pad_bytes) + u64::from(data_bytes) + digest_bytes as u64,
        };
    }

    fn gather_header<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Fatal> {
        if self.buffered < COMMON_HEADER_BYTES {
            let complete = self.fill(input, COMMON_HEADER_BYTES);
            self.header_bytes = self.buffered;
            if !complete {
                return Ok(None);
            }
        }
        let common_bytes = self
            .buffer
            .first_chunk()
            .expect("the buffer is longer than a common header");
        let common = CommonHeader::parse(common_bytes, self.digests)?;
        let head_bytes = common.head_bytes(self.digests) as usize;
        let complete = self.fill(input, head_bytes);
        self.header_bytes = self.buffered;
        if !complete {
            return Ok(None);
        }
        let pdu = Pdu::parse(&common, &self.buffer[..head_bytes], self.digests, self.crc)?;
        self.buffered = 0;
        if let Pdu::Command(_, Some(body)) | Pdu::DataToController(_, body) | Pdu::DataToHost(_, body) = pdu {
            self.start_body(body);
        }
        Ok(Some(Frame::Header(pdu)))
    }

    /// Gathers bytes of the header until `wanted` are here. Returns whether they are.
    fn fill(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let missing = wanted - self.buffered;
        let taken = missing.min(input.len());
        let (head, rest) = input.split_at(taken);
        self.buffer[self.buffered..self.buffered + taken].copy_from_slice(head);
        self.buffered += taken;
        *input = rest;
        taken == missing
    }

    fn start_body(&mut self, body: Body) {
        assert_eq!(self.buffered, 0, "the header is complete");
        assert!(body.data_bytes > 0);
        self.digest = 0;
        self.position = Position::Body {
            pad_bytes: body.pad_bytes,
            data_bytes: body.data_bytes,
            digest: body.digest,
        };
    }

    fn take_data<'a>(&mut self, input: &mut &'a [u8], data_bytes: u32, digest: bool) -> Option<Frame<'a>> {
        let all = *input;
        let taken = take_count(input, u64::from(data_bytes))?;
        let bytes = &all[..taken as usize];
        if digest {
            self.digest = (self.crc)(self.digest, bytes);
        }
        self.position = Position::Body {
            pad_bytes: 0,
            data_bytes: data_bytes - taken,
            digest,
        };
        Some(Frame::Bytes(bytes))
    }

    fn finish_body<'a>(&mut self, input: &mut &[u8], digest: bool) -> Option<Frame<'a>> {
        let mut intact = true;
        if digest {
            // The digest is gathered behind the header, which a TermReq may still have to quote.
            let at = HEADER_BYTES_MAX + self.buffered;
            let taken = input.len().min(DIGEST_BYTES - self.buffered);
            let (head, rest) = input.split_at(taken);
            self.buffer[at..at + taken].copy_from_slice(head);
            self.buffered += taken;
            *input = rest;
            if self.buffered < DIGEST_BYTES {
                return None;
            }
            let received = self.buffer.last_chunk().expect("the buffer ends with a digest");
            intact = u32::from_le_bytes(*received) == self.digest;
            self.buffered = 0;
        }
        self.position = Position::Header;
        Some(Frame::End { intact })
    }
}

/// Takes at most `wanted` bytes off `input`; `None` if it is empty. Returns how many, at least 1.
fn take_count(input: &mut &[u8], wanted: u64) -> Option<u32> {
    assert!(wanted > 0);
    let available = input.len().min(1 << 30);
    let taken = usize::try_from(wanted).unwrap_or(available).min(available);
    if taken == 0 {
        return None;
    }
    *input = &input[taken..];
    u32::try_from(taken).ok()
}
