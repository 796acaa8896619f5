//! The PDUs of NVMe/TCP: parsed once into types that cannot be wrong, and encoded.
//!
//! Owns the wire format and every rule that one PDU alone can break: type, lengths, flags, data offset
//! and header digest. What depends on the PDUs before it is the business of the machines in
//! [`super::target`] and [`super::initiator`]. Data is not touched here: a header says where it is.
//!
//! Source: Linux, include/linux/nvme-tcp.h (layout of each PDU, flags and fatal error codes).

use thiserror::Error;

use crate::command::{CQE_BYTES, CompletionEntry, SQE_BYTES, SubmissionEntry};
use crate::crc32c::Crc32c;

/// Bytes of the common header, with which each PDU begins.
pub const COMMON_HEADER_BYTES: usize = 8;
/// Bytes of a digest of either kind.
pub const DIGEST_BYTES: usize = 4;
/// Bytes of the longest header, ICReq and ICResp; they carry no digest.
pub const HEADER_BYTES_MAX: usize = 128;
/// Bytes of a command capsule's header.
pub const COMMAND_HEADER_BYTES: usize = COMMON_HEADER_BYTES + SQE_BYTES;
/// Largest HPDA and CPDA: data aligned to `(31 + 1) * 4` = 128 bytes.
pub const ALIGNMENT_MAX: u8 = 31;
/// Least MAXH2CDATA that a controller may announce.
pub const MAX_H2C_BYTES_MIN: u32 = 4096;

/// Bytes of every header but those of ICReq, ICResp and command capsules.
const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of the offending header that a TermReq may quote.
const TERM_QUOTE_BYTES_MAX: usize = 128;
/// Bytes of the longest TermReq.
pub const TERM_BYTES_MAX: usize = SHORT_HEADER_BYTES + TERM_QUOTE_BYTES_MAX;
/// The same as it stands in PLEN.
const TERM_PLEN_MAX: u32 = 152;

const _: () = assert!(COMMAND_HEADER_BYTES == 72 && COMMON_HEADER_BYTES + CQE_BYTES == SHORT_HEADER_BYTES);
const _: () = assert!(TERM_BYTES_MAX == 152 && TERM_QUOTE_BYTES_MAX == HEADER_BYTES_MAX);

const FLAG_HEADER_DIGEST: u8 = 1 << 0;
const FLAG_DATA_DIGEST: u8 = 1 << 1;
const FLAG_LAST: u8 = 1 << 2;
const FLAG_SUCCESS: u8 = 1 << 3;

/// Byte offsets of header fields, which a TermReq's FEI names.
pub(super) mod field {
    pub const TYPE: u32 = 0;
    pub const FLAGS: u32 = 1;
    pub const HLEN: u32 = 2;
    pub const PDO: u32 = 3;
    pub const PLEN: u32 = 4;
    /// PFV of ICReq and ICResp.
    pub const PFV: u32 = 8;
    /// HPDA of ICReq, CPDA of ICResp.
    pub const ALIGNMENT: u32 = 10;
    /// DGST of ICReq and ICResp.
    pub const DIGESTS: u32 = 11;
    /// MAXH2CDATA of ICResp.
    pub const MAX_H2C_BYTES: u32 = 12;
    /// CCCID of data PDUs and R2T.
    pub const CID: u32 = 8;
    /// TTAG of data PDUs and R2T.
    pub const TTAG: u32 = 10;
    /// DATAO of data PDUs, R2TO of R2T.
    pub const OFFSET: u32 = 12;
    /// DATAL of data PDUs, R2TL of R2T.
    pub const LENGTH: u32 = 16;
    /// Command identifier in the completion of a response capsule.
    pub const RESPONSE_CID: u32 = 20;
}

/// PDU types.
///
/// Source: Linux, include/linux/nvme-tcp.h, enum nvme_tcp_pdu_type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PduType {
    /// Initialize Connection Request, host to controller.
    IcReq,
    /// Initialize Connection Response.
    IcResp,
    /// Terminate Connection Request, host to controller.
    H2cTermReq,
    /// Terminate Connection Request, controller to host.
    C2hTermReq,
    /// Command capsule.
    CapsuleCmd,
    /// Response capsule.
    CapsuleResp,
    /// Data, host to controller.
    H2cData,
    /// Data, controller to host.
    C2hData,
    /// Ready to Transfer: the controller asks for data.
    R2t,
}

impl PduType {
    const fn from_wire(code: u8) -> Option<Self> {
        Some(match code {
            0x00 => Self::IcReq,
            0x01 => Self::IcResp,
            0x02 => Self::H2cTermReq,
            0x03 => Self::C2hTermReq,
            0x04 => Self::CapsuleCmd,
            0x05 => Self::CapsuleResp,
            0x06 => Self::H2cData,
            0x07 => Self::C2hData,
            0x09 => Self::R2t,
            _ => return None,
        })
    }

    const fn wire(self) -> u8 {
        match self {
            Self::IcReq => 0x00,
            Self::IcResp => 0x01,
            Self::H2cTermReq => 0x02,
            Self::C2hTermReq => 0x03,
            Self::CapsuleCmd => 0x04,
            Self::CapsuleResp => 0x05,
            Self::H2cData => 0x06,
            Self::C2hData => 0x07,
            Self::R2t => 0x09,
        }
    }

    /// HLEN, which is fixed for each type.
    const fn header_bytes(self) -> u8 {
        match self {
            Self::IcReq | Self::IcResp => 128,
            Self::CapsuleCmd => 72,
            Self::H2cTermReq
            | Self::C2hTermReq
            | Self::CapsuleResp
            | Self::H2cData
            | Self::C2hData
            | Self::R2t => 24,
        }
    }

    /// Whether a negotiated header digest applies; the others come before or end the negotiation.
    const fn has_header_digest(self) -> bool {
        match self {
            Self::IcReq | Self::IcResp | Self::H2cTermReq | Self::C2hTermReq => false,
            Self::CapsuleCmd | Self::CapsuleResp | Self::H2cData | Self::C2hData | Self::R2t => true,
        }
    }

    /// Whether bytes may follow the header.
    const fn has_data(self) -> bool {
        match self {
            Self::CapsuleCmd | Self::H2cData | Self::C2hData => true,
            Self::IcReq
            | Self::IcResp
            | Self::H2cTermReq
            | Self::C2hTermReq
            | Self::CapsuleResp
            | Self::R2t => false,
        }
    }
}

/// Why a connection must end, in the terms of a TermReq.
///
/// Source: Linux, include/linux/nvme-tcp.h, enum nvme_tcp_fatal_error_status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FatalStatus {
    /// A header field has a value that it must not have.
    InvalidHeaderField,
    /// This PDU may not come now.
    SequenceError,
    /// The header digest does not match the header.
    HeaderDigestError,
    /// Data outside of what was asked for.
    DataOutOfRange,
    /// More data, R2Ts or commands than were agreed.
    LimitExceeded,
    /// A parameter that this end does not support.
    UnsupportedParameter,
}

impl FatalStatus {
    /// The FES field.
    pub const fn wire(self) -> u16 {
        match self {
            Self::InvalidHeaderField => 0x01,
            Self::SequenceError => 0x02,
            Self::HeaderDigestError => 0x03,
            Self::DataOutOfRange => 0x04,
            Self::LimitExceeded => 0x05,
            Self::UnsupportedParameter => 0x06,
        }
    }
}

/// A fatal transport error: what the TermReq about it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("fatal NVMe/TCP error {status:?} (FES {:02x}h), information {information:#x}", status.wire())]
pub struct Fatal {
    /// FES.
    pub status: FatalStatus,
    /// FEI: the byte offset of the wrong field, or the wrong header digest as it came in; else 0.
    pub information: u32,
}

impl Fatal {
    /// A header field, named by its byte offset, is wrong.
    pub(super) const fn field(offset: u32) -> Self {
        Self::new(FatalStatus::InvalidHeaderField, offset)
    }

    /// Any other fatal error.
    pub(super) const fn new(status: FatalStatus, information: u32) -> Self {
        Self { status, information }
    }
}

/// Which digests a connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// Header digests (HDGST).
    pub header: bool,
    /// Data digests (DDGST).
    pub data: bool,
}

impl Digests {
    const fn wire(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    const fn from_wire(bits: u8) -> Self {
        Self {
            header: bits & 1 != 0,
            data: bits & 2 != 0,
        }
    }
}

/// What follows a header in the same PDU: padding, then data, then perhaps a data digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes of padding between header (with its digest) and data.
    pub pad_bytes: u32,
    /// Bytes of data, at least 1.
    pub data_bytes: u32,
    /// Whether a data digest follows.
    pub digest: bool,
}

/// The common header, checked as far as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommonHeader {
    /// PDU type.
    pub kind: PduType,
    flags: u8,
    data_offset: u8,
    /// PLEN: bytes of the whole PDU, at least those of its header.
    pub total_bytes: u32,
}

impl CommonHeader {
    /// Reads the first eight bytes of a PDU and checks type, HLEN, the digest flags, and that PLEN
    /// holds the header with its digest and, for PDUs without data, nothing else.
    pub fn parse(bytes: &[u8; COMMON_HEADER_BYTES], digests: Digests) -> Result<Self, Fatal> {
        let [code, flags, header_bytes, data_offset, plen @ ..] = *bytes;
        let kind = PduType::from_wire(code).ok_or(Fatal::field(field::TYPE))?;
        let header = Self {
            kind,
            flags,
            data_offset,
            total_bytes: u32::from_le_bytes(plen),
        };
        if header_bytes != kind.header_bytes() {
            return Err(Fatal::field(field::HLEN));
        }
        let head_bytes = header.head_bytes(digests);
        let length_fits = match kind {
            PduType::CapsuleCmd => header.total_bytes >= head_bytes,
            PduType::H2cData | PduType::C2hData => header.total_bytes > head_bytes,
            PduType::H2cTermReq | PduType::C2hTermReq => {
                (head_bytes..=TERM_PLEN_MAX).contains(&header.total_bytes)
            }
            PduType::IcReq | PduType::IcResp | PduType::CapsuleResp | PduType::R2t => {
                header.total_bytes == head_bytes
            }
        };
        if !length_fits {
            return Err(Fatal::field(field::PLEN));
        }
        if kind.has_header_digest() && (flags & FLAG_HEADER_DIGEST != 0) != digests.header {
            return Err(Fatal::field(field::FLAGS));
        }
        Ok(header)
    }

    /// Bytes of the header together with its digest.
    pub fn head_bytes(&self, digests: Digests) -> u32 {
        head_bytes(self.kind, digests)
    }

    /// Finds data, padding and data digest behind the header; `None` if there is no data.
    fn body(&self, digests: Digests) -> Result<Option<Body>, Fatal> {
        let head_bytes = self.head_bytes(digests);
        if self.total_bytes == head_bytes {
            return Ok(None); // PDO means nothing then, and hosts differ in what they write there.
        }
        let digest = self.flags & FLAG_DATA_DIGEST != 0;
        if digest != digests.data {
            return Err(Fatal::field(field::FLAGS));
        }
        // Our CPDA and HPDA are 0, so 4 bytes is the alignment that we ask for; more is harmless.
        let data_offset = u32::from(self.data_offset);
        if data_offset < head_bytes || data_offset % 4 != 0 {
            return Err(Fatal::field(field::PDO));
        }
        let trailer_bytes = if digest { 4 } else { 0 };
        let data_bytes = self
            .total_bytes
            .checked_sub(data_offset + trailer_bytes)
            .filter(|&bytes| bytes > 0)
            .ok_or(Fatal::field(field::PLEN))?;
        Ok(Some(Body {
            pad_bytes: data_offset - head_bytes,
            data_bytes,
            digest,
        }))
    }
}

/// Bytes of a header of this type together with its digest, at most 128.
fn head_bytes(kind: PduType, digests: Digests) -> u32 {
    let digest_bytes = if kind.has_header_digest() && digests.header {
        4
    } else {
        0
    };
    u32::from(kind.header_bytes()) + digest_bytes
}

/// Bytes to insert before data so that it starts at a multiple of `(alignment + 1) * 4` bytes.
///
/// Panics if `alignment` (HPDA or CPDA) is more than [`ALIGNMENT_MAX`]: ICReq and ICResp were checked.
pub fn pad_bytes(kind: PduType, digests: Digests, alignment: u8) -> usize {
    assert!(alignment <= ALIGNMENT_MAX);
    let unit = (u32::from(alignment) + 1) * 4;
    let head_bytes = head_bytes(kind, digests);
    (head_bytes.next_multiple_of(unit) - head_bytes) as usize
}

/// Writes a common header. `data_bytes` is 0 if there is no data; then PDO and the data digest flag are 0.
fn encode_common(
    kind: PduType,
    flags: u8,
    digests: Digests,
    alignment: u8,
    data_bytes: u32,
    header: &mut [u8],
) {
    let mut flags = flags;
    let mut data_offset = 0;
    let mut total_bytes = head_bytes(kind, digests);
    if kind.has_header_digest() && digests.header {
        flags |= FLAG_HEADER_DIGEST;
    }
    if data_bytes > 0 {
        assert!(kind.has_data(), "data only follows headers that may have some");
        total_bytes = total_bytes.next_multiple_of((u32::from(alignment) + 1) * 4);
        data_offset = u8::try_from(total_bytes)
            .expect("76 bytes rounded up to a multiple of at most 128 are below 256");
        total_bytes = total_bytes
            .checked_add(data_bytes)
            .expect("transfers are far below 4 GiB");
        if digests.data {
            flags |= FLAG_DATA_DIGEST;
            total_bytes = total_bytes.checked_add(4).expect("transfers are far below 4 GiB");
        }
    }
    header[..4].copy_from_slice(&[kind.wire(), flags, kind.header_bytes(), data_offset]);
    header[4..8].copy_from_slice(&total_bytes.to_le_bytes());
}

/// Initialize Connection Request.
///
/// Source: Linux, include/linux/nvme-tcp.h, struct nvme_tcp_icreq_pdu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcReq {
    /// HPDA, 0's based, in units of 4 bytes: how data towards the host is aligned.
    pub alignment: u8,
    /// Digests that the host wants.
    pub digests: Digests,
    /// MAXR2T, 0's based: R2Ts that may be outstanding for one command.
    pub max_r2t: u32,
}

impl IcReq {
    /// The PDU for the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES_MAX] {
        assert!(self.alignment <= ALIGNMENT_MAX);
        let mut bytes = [0; HEADER_BYTES_MAX];
        encode_common(PduType::IcReq, 0, Digests::default(), 0, 0, &mut bytes);
        bytes[10] = self.alignment;
        bytes[11] = self.digests.wire();
        bytes[12..16].copy_from_slice(&self.max_r2t.to_le_bytes());
        bytes
    }

    fn parse(header: &[u8]) -> Result<Self, Fatal> {
        let alignment = parse_format(header)?;
        Ok(Self {
            alignment,
            digests: Digests::from_wire(header[11]),
            max_r2t: long(header, 12),
        })
    }
}

/// Initialize Connection Response.
///
/// Source: Linux, include/linux/nvme-tcp.h, struct nvme_tcp_icresp_pdu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcResp {
    /// CPDA, 0's based, in units of 4 bytes: how data towards the controller is aligned.
    pub alignment: u8,
    /// Digests that both ends use from here on.
    pub digests: Digests,
    /// MAXH2CDATA: data bytes that one H2CData PDU may carry; at least 4096, a multiple of 4.
    pub max_h2c_bytes: u32,
}

impl IcResp {
    /// The PDU for the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES_MAX] {
        assert!(self.alignment <= ALIGNMENT_MAX);
        assert!(self.max_h2c_bytes >= MAX_H2C_BYTES_MIN && self.max_h2c_bytes.is_multiple_of(4));
        let mut bytes = [0; HEADER_BYTES_MAX];
        encode_common(PduType::IcResp, 0, Digests::default(), 0, 0, &mut bytes);
        bytes[10] = self.alignment;
        bytes[11] = self.digests.wire();
        bytes[12..16].copy_from_slice(&self.max_h2c_bytes.to_le_bytes());
        bytes
    }

    fn parse(header: &[u8]) -> Result<Self, Fatal> {
        let alignment = parse_format(header)?;
        let max_h2c_bytes = long(header, 12);
        if max_h2c_bytes < MAX_H2C_BYTES_MIN || !max_h2c_bytes.is_multiple_of(4) {
            return Err(Fatal::field(field::MAX_H2C_BYTES));
        }
        Ok(Self {
            alignment,
            digests: Digests::from_wire(header[11]),
            max_h2c_bytes,
        })
    }
}

/// Checks PFV and reads the alignment of an ICReq or ICResp, whose layouts agree so far.
fn parse_format(header: &[u8]) -> Result<u8, Fatal> {
    if short(header, 8) != 0 {
        return Err(Fatal::new(FatalStatus::UnsupportedParameter, field::PFV));
    }
    if header[10] > ALIGNMENT_MAX {
        return Err(Fatal::field(field::ALIGNMENT));
    }
    Ok(header[10])
}

/// Why the other end terminates the connection. Codes stay raw: newer ends may know more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termination {
    /// FES.
    pub status: u16,
    /// FEI.
    pub information: u32,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The other end broke the protocol; a TermReq that says how is in the outbox.
    Fatal(Fatal),
    /// The other end has sent a TermReq.
    Terminated(Termination),
}

/// An encoded H2CTermReq or C2HTermReq.
#[derive(Clone, Copy, Debug)]
pub struct TermReq {
    bytes: [u8; TERM_BYTES_MAX],
    length: usize,
}

impl TermReq {
    /// Builds the PDU of type `kind` that reports `fatal`, quoting up to 128 bytes of the header that
    /// was wrong. It never carries a digest.
    ///
    /// Source: Linux, include/linux/nvme-tcp.h, struct nvme_tcp_term_pdu.
    pub fn new(kind: PduType, fatal: Fatal, header: &[u8]) -> Self {
        assert!(matches!(kind, PduType::H2cTermReq | PduType::C2hTermReq));
        let quote = &header[..header.len().min(TERM_QUOTE_BYTES_MAX)];
        let length = SHORT_HEADER_BYTES + quote.len();
        let total_bytes = u32::try_from(length).expect("at most 152");
        let mut bytes = [0; TERM_BYTES_MAX];
        encode_common(kind, 0, Digests::default(), 0, 0, &mut bytes);
        bytes[4..8].copy_from_slice(&total_bytes.to_le_bytes());
        bytes[8..10].copy_from_slice(&fatal.status.wire().to_le_bytes());
        bytes[10..14].copy_from_slice(&fatal.information.to_le_bytes());
        bytes[SHORT_HEADER_BYTES..length].copy_from_slice(quote);
        Self { bytes, length }
    }

    /// The PDU for the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Encodes the header of a command capsule that carries `data_bytes` (0 for none) at an alignment of CPDA.
pub fn encode_command(
    entry: &SubmissionEntry,
    digests: Digests,
    alignment: u8,
    data_bytes: u32,
) -> [u8; COMMAND_HEADER_BYTES] {
    let mut bytes = [0; COMMAND_HEADER_BYTES];
    encode_common(PduType::CapsuleCmd, 0, digests, alignment, data_bytes, &mut bytes);
    bytes[COMMON_HEADER_BYTES..].copy_from_slice(entry.encode());
    bytes
}

/// Encodes a response capsule.
pub fn encode_response(entry: &CompletionEntry, digests: Digests) -> [u8; SHORT_HEADER_BYTES] {
    let mut bytes = [0; SHORT_HEADER_BYTES];
    encode_common(PduType::CapsuleResp, 0, digests, 0, 0, &mut bytes);
    bytes[COMMON_HEADER_BYTES..].copy_from_slice(&entry.encode());
    bytes
}

/// What H2CData and C2HData say about the data that they carry.
///
/// Source: Linux, include/linux/nvme-tcp.h, struct nvme_tcp_data_pdu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// CCCID: identifier of the command.
    pub cid: u16,
    /// TTAG of the R2T that is answered; 0 in C2HData.
    pub ttag: u16,
    /// DATAO: where in the command's data these bytes start.
    pub offset_bytes: u32,
    /// DATAL: how many there are, at least 1.
    pub length_bytes: u32,
    /// LAST_PDU: the last one of the R2T or of the command.
    pub last: bool,
    /// SUCCESS (C2HData only, with `last`): the command succeeded and no response capsule follows.
    pub success: bool,
}

impl DataHeader {
    /// Encodes the header for data aligned by HPDA or CPDA. Panics if `kind` is not a data PDU.
    pub fn encode(&self, kind: PduType, digests: Digests, alignment: u8) -> [u8; SHORT_HEADER_BYTES] {
        assert!(matches!(kind, PduType::H2cData | PduType::C2hData));
        assert!(self.length_bytes > 0, "data PDUs carry data");
        let mut flags = 0;
        if self.last {
            flags |= FLAG_LAST;
        }
        if self.success {
            flags |= FLAG_SUCCESS;
        }
        let mut bytes = [0; SHORT_HEADER_BYTES];
        encode_common(kind, flags, digests, alignment, self.length_bytes, &mut bytes);
        bytes[8..10].copy_from_slice(&self.cid.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.ttag.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.offset_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes
    }

    fn parse(common: &CommonHeader, header: &[u8], body: &Body) -> Result<Self, Fatal> {
        let length_bytes = long(header, 16);
        if length_bytes != body.data_bytes {
            return Err(Fatal::field(field::LENGTH));
        }
        let data = Self {
            cid: short(header, 8),
            ttag: short(header, 10),
            offset_bytes: long(header, 12),
            length_bytes,
            last: common.flags & FLAG_LAST != 0,
            success: common.kind == PduType::C2hData && common.flags & FLAG_SUCCESS != 0,
        };
        if data.success && !data.last {
            return Err(Fatal::field(field::FLAGS));
        }
        Ok(data)
    }
}

/// Ready to Transfer.
///
/// Source: Linux, include/linux/nvme-tcp.h, struct nvme_tcp_r2t_pdu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct R2t {
    /// CCCID: identifier of the command.
    pub cid: u16,
    /// TTAG, which the H2CData PDUs repeat.
    pub ttag: u16,
    /// R2TO: where in the command's data the wanted bytes start.
    pub offset_bytes: u32,
    /// R2TL: how many are wanted, at least 1.
    pub length_bytes: u32,
}

impl R2t {
    /// Encodes the header, which is the whole PDU.
    pub fn encode(&self, digests: Digests) -> [u8; SHORT_HEADER_BYTES] {
        assert!(self.length_bytes > 0, "an R2T asks for something");
        let mut bytes = [0; SHORT_HEADER_BYTES];
        encode_common(PduType::R2t, 0, digests, 0, 0, &mut bytes);
        bytes[8..10].copy_from_slice(&self.cid.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.ttag.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.offset_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length_bytes.to_le_bytes());
        bytes
    }

    fn parse(header: &[u8]) -> Result<Self, Fatal> {
        let length_bytes = long(header, 16);
        if length_bytes == 0 {
            return Err(Fatal::field(field::LENGTH));
        }
        Ok(Self {
            cid: short(header, 8),
            ttag: short(header, 10),
            offset_bytes: long(header, 12),
            length_bytes,
        })
    }
}

/// A PDU's header, parsed. The bytes of a body, where there is one, follow in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pdu {
    /// Initialize Connection Request.
    IcReq(IcReq),
    /// Initialize Connection Response.
    IcResp(IcResp),
    /// H2CTermReq.
    HostTerminates(Termination),
    /// C2HTermReq.
    ControllerTerminates(Termination),
    /// Command capsule with the data in it, if any.
    Command(SubmissionEntry, Option<Body>),
    /// Response capsule.
    Response(CompletionEntry),
    /// H2CData.
    DataToController(DataHeader, Body),
    /// C2HData.
    DataToHost(DataHeader, Body),
    /// Ready to Transfer.
    R2t(R2t),
}

impl Pdu {
    /// Parses a header that [`CommonHeader::parse`] accepted. `header` is exactly as long as
    /// [`CommonHeader::head_bytes`] says, its digest included, which is checked here first.
    pub fn parse(common: &CommonHeader, header: &[u8], digests: Digests, crc: Crc32c) -> Result<Self, Fatal> {
        assert_eq!(header.len(), common.head_bytes(digests) as usize);
        let fields = &header[..usize::from(common.kind.header_bytes())];
        if let Some(digest) = header[fields.len()..].first_chunk::<DIGEST_BYTES>() {
            let received = u32::from_le_bytes(*digest);
            if crc(0, fields) != received {
                return Err(Fatal::new(FatalStatus::HeaderDigestError, received));
            }
        }
        match common.kind {
            PduType::IcReq => IcReq::parse(fields).map(Self::IcReq),
            PduType::IcResp => IcResp::parse(fields).map(Self::IcResp),
            PduType::H2cTermReq => Ok(Self::HostTerminates(Self::termination(fields))),
            PduType::C2hTermReq => Ok(Self::ControllerTerminates(Self::termination(fields))),
            PduType::CapsuleCmd => {
                let entry = fields.last_chunk().expect("HLEN was checked to be 72");
                Ok(Self::Command(
                    SubmissionEntry::parse(*entry),
                    common.body(digests)?,
                ))
            }
            PduType::CapsuleResp => {
                let entry = fields.last_chunk().expect("HLEN was checked to be 24");
                Ok(Self::Response(CompletionEntry::parse(*entry)))
            }
            PduType::H2cData => {
                let body = common.body(digests)?.ok_or(Fatal::field(field::PLEN))?;
                Ok(Self::DataToController(
                    DataHeader::parse(common, fields, &body)?,
                    body,
                ))
            }
            PduType::C2hData => {
                let body = common.body(digests)?.ok_or(Fatal::field(field::PLEN))?;
                Ok(Self::DataToHost(DataHeader::parse(common, fields, &body)?, body))
            }
            PduType::R2t => R2t::parse(fields).map(Self::R2t),
        }
    }

    fn termination(fields: &[u8]) -> Termination {
        Termination {
            status: short(fields, 8),
            information: long(fields, 10),
        }
    }
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
