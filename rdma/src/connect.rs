//! Private data of RDMA connection management: what host and controller tell each other before the first capsule.
//!
//! The layouts are those of record format 0, the only one there is. Reserved bytes are written as
//! zeroes and not looked at when read, as later revisions have put fields there (CNTLID was one).

use thiserror::Error;

/// Bytes of the private data of a connect request and of an acceptance.
pub const PRIVATE_DATA_BYTES: usize = 32;
/// Bytes of the private data of a rejection.
pub const REJECT_BYTES: usize = 4;

/// Record format (RECFMT) of everything here.
const RECORD_FORMAT: u16 = 0;
/// Fewest entries of a queue: one more than can be outstanding.
const ENTRIES_MIN: u16 = 2;
/// Most entries of an admin queue.
///
/// Source: Linux, include/linux/nvme.h, `NVME_AQ_DEPTH`, which drivers/nvme/target/rdma.c refuses to exceed.
pub const ADMIN_ENTRIES_MAX: u16 = 32;

/// What a host says when it asks for a queue pair: the private data of `RDMA_CM_REQUEST`.
///
/// Source: Linux, include/linux/nvme-rdma.h, `struct nvme_rdma_cm_req`; SPDK, include/spdk/nvmf_spec.h,
/// `struct spdk_nvmf_rdma_request_private_data` (has CNTLID); for which sizes are 0's based: Linux,
/// drivers/nvme/target/rdma.c, `nvmet_rdma_parse_cm_connect_req`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Queue identifier (QID): 0 for the admin queue.
    pub qid: u16,
    /// Entries of the host's receive queue (HRQSIZE), so the responses that may be under way. At least 1.
    pub host_receive_entries: u16,
    /// Entries of the host's send queue, so the commands that may be under way: HSQSIZE, which is 0's
    /// based on the wire, plus 1. At least 2.
    pub host_send_entries: u16,
    /// Controller (CNTLID) that an I/O queue belongs to; 0 from hosts that predate the field, so that
    /// only Connect's own field counts.
    pub cntlid: u16,
}

/// What the controller says when it accepts: the private data of `RDMA_CM_ACCEPT`.
///
/// Source: Linux, include/linux/nvme-rdma.h, `struct nvme_rdma_cm_rep`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectAccept {
    /// Entries of the controller's receive queue (CRQSIZE): capsules that it can take at a time.
    pub controller_receive_entries: u16,
}

/// Why the controller rejects a connection, or a host's request does not parse.
///
/// Source: Linux, include/linux/nvme-rdma.h, `enum nvme_rdma_cm_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[repr(u16)]
pub enum Reject {
    /// The private data is too short.
    #[error("invalid private data length")]
    InvalidLength = 0x01,
    /// The record format is not known.
    #[error("invalid record format")]
    InvalidRecordFormat = 0x02,
    /// The queue identifier is not to be had.
    #[error("invalid queue identifier")]
    InvalidQid = 0x03,
    /// The host's send queue is too small, or too large for the queue.
    #[error("invalid host send queue size")]
    InvalidHostSendQueueSize = 0x04,
    /// The host's receive queue is too small.
    #[error("invalid host receive queue size")]
    InvalidHostReceiveQueueSize = 0x05,
    /// The controller has nothing left for another queue pair.
    #[error("no resources")]
    NoResources = 0x06,
    /// The responder resources (IRD) do not do.
    #[error("invalid inbound read depth")]
    InvalidInboundReadDepth = 0x07,
    /// The initiator depth (ORD) does not do.
    #[error("invalid outbound read depth")]
    InvalidOutboundReadDepth = 0x08,
}

/// Why a controller's answer does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// Fewer bytes than the record has.
    #[error("the private data has {bytes} bytes, {needed} are needed")]
    TooShort {
        /// Bytes that came.
        bytes: usize,
        /// Bytes of the record.
        needed: usize,
    },
    /// A record format other than 0.
    #[error("record format {0} is not known")]
    RecordFormat(u16),
    /// A receive queue that takes nothing.
    #[error("the controller's receive queue has no entry")]
    NoEntries,
    /// A reason that the specification does not list.
    #[error("reject reason {0:#06x} is not known")]
    Reason(u16),
}

impl ConnectRequest {
    /// Reads a request. The transport may pad private data, so bytes after the record are left alone.
    ///
    /// Errs with the reason to reject the connection with.
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let Some(record) = bytes.first_chunk::<PRIVATE_DATA_BYTES>() else {
            return Err(Reject::InvalidLength);
        };
        if word(record, 0) != RECORD_FORMAT {
            return Err(Reject::InvalidRecordFormat);
        }
        let (qid, hrqsize, hsqsize) = (word(record, 2), word(record, 4), word(record, 6));
        let host_send_entries = hsqsize.checked_add(1).ok_or(Reject::InvalidHostSendQueueSize)?;
        if host_send_entries < ENTRIES_MIN || qid == 0 && host_send_entries > ADMIN_ENTRIES_MAX {
            return Err(Reject::InvalidHostSendQueueSize);
        }
        if hrqsize == 0 {
            return Err(Reject::InvalidHostReceiveQueueSize);
        }
        Ok(Self {
            qid,
            host_receive_entries: hrqsize,
            host_send_entries,
            cntlid: word(record, 8),
        })
    }

    /// The bytes for the wire. Panics if a size is outside its documented range.
    pub fn encode(&self) -> [u8; PRIVATE_DATA_BYTES] {
        assert!(
            self.host_send_entries >= ENTRIES_MIN,
            "a queue has two entries or more"
        );
        assert!(self.host_receive_entries > 0, "a host receives responses");
        let mut bytes = [0; PRIVATE_DATA_BYTES];
        let fields = [
            RECORD_FORMAT,
            self.qid,
            self.host_receive_entries,
            self.host_send_entries - 1,
            self.cntlid,
        ];
        for (at, field) in fields.into_iter().enumerate() {
            bytes[at * 2..at * 2 + 2].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }
}

impl ConnectAccept {
    /// Reads an acceptance; errs if it is too short, of another format, or offers no receive entry.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnswerError> {
        let Some(record) = bytes.first_chunk::<PRIVATE_DATA_BYTES>() else {
            return Err(AnswerError::TooShort {
                bytes: bytes.len(),
                needed: PRIVATE_DATA_BYTES,
            });
        };
        match (word(record, 0), word(record, 2)) {
            (RECORD_FORMAT, 0) => Err(AnswerError::NoEntries),
            (RECORD_FORMAT, controller_receive_entries) => Ok(Self {
                controller_receive_entries,
            }),
            (format, _) => Err(AnswerError::RecordFormat(format)),
        }
    }

    /// The bytes for the wire.
    pub fn encode(&self) -> [u8; PRIVATE_DATA_BYTES] {
        let mut bytes = [0; PRIVATE_DATA_BYTES];
        bytes[2..4].copy_from_slice(&self.controller_receive_entries.to_le_bytes());
        bytes
    }
}

impl Reject {
    /// Every reason, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::InvalidLength,
        Self::InvalidRecordFormat,
        Self::InvalidQid,
        Self::InvalidHostSendQueueSize,
        Self::InvalidHostReceiveQueueSize,
        Self::NoResources,
        Self::InvalidInboundReadDepth,
        Self::InvalidOutboundReadDepth,
    ];

    /// The code on the wire (STS).
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// Reads a rejection; errs if it is too short, of another format, or gives an unknown reason.
    ///
    /// Source: Linux, include/linux/nvme-rdma.h, `struct nvme_rdma_cm_rej`.
    pub fn parse(bytes: &[u8]) -> Result<Self, AnswerError> {
        let Some(record) = bytes.first_chunk::<REJECT_BYTES>() else {
            return Err(AnswerError::TooShort {
                bytes: bytes.len(),
                needed: REJECT_BYTES,
            });
        };
        let (format, code) = (word(record, 0), word(record, 2));
        if format != RECORD_FORMAT {
            return Err(AnswerError::RecordFormat(format));
        }
        Self::ALL
            .into_iter()
            .find(|reason| reason.code() == code)
            .ok_or(AnswerError::Reason(code))
    }

    /// The bytes for the wire.
    pub fn encode(self) -> [u8; REJECT_BYTES] {
        let mut bytes = [0; REJECT_BYTES];
        bytes[2..].copy_from_slice(&self.code().to_le_bytes());
        bytes
    }
}

fn word(record: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([record[at], record[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: ConnectRequest = ConnectRequest {
        qid: 3,
        host_receive_entries: 128,
        host_send_entries: 128,
        cntlid: 0x1234,
    };

    #[test]
    fn a_request_has_its_fields_where_linux_puts_them() {
        let bytes = REQUEST.encode();
        assert_eq!(bytes[..10], [0, 0, 3, 0, 128, 0, 127, 0, 0x34, 0x12]);
        assert_eq!(bytes[10..], [0; 22]);
        assert_eq!(ConnectRequest::parse(&bytes), Ok(REQUEST));
    }

    #[test]
    fn every_size_survives_a_round_trip() {
        for entries in 2..=u16::MAX {
            let request = ConnectRequest {
                host_receive_entries: entries,
                host_send_entries: entries,
                ..REQUEST
            };
            assert_eq!(ConnectRequest::parse(&request.encode()), Ok(request));
        }
    }

    #[test]
    fn hsqsize_is_zeros_based_and_hrqsize_is_not() {
        let mut bytes = REQUEST.encode();
        bytes[4..8].copy_from_slice(&[1, 0, 1, 0]);
        let request = ConnectRequest::parse(&bytes).unwrap();
        assert_eq!((request.host_receive_entries, request.host_send_entries), (1, 2));
    }

    #[test]
    fn a_short_request_is_rejected_and_padding_is_not() {
        let bytes = REQUEST.encode();
        for length in 0..PRIVATE_DATA_BYTES {
            assert_eq!(
                ConnectRequest::parse(&bytes[..length]),
                Err(Reject::InvalidLength)
            );
        }
        let padded = [bytes.as_slice(), &[0xaa; 24]].concat();
        assert_eq!(ConnectRequest::parse(&padded), Ok(REQUEST));
    }

    #[test]
    fn reserved_bytes_of_a_request_are_not_looked_at() {
        let mut bytes = REQUEST.encode();
        bytes[10..].fill(0xff);
        assert_eq!(ConnectRequest::parse(&bytes), Ok(REQUEST));
    }

    #[test]
    fn another_record_format_is_rejected() {
        for at in [0, 1] {
            let mut bytes = REQUEST.encode();
            bytes[at] = 1;
            assert_eq!(ConnectRequest::parse(&bytes), Err(Reject::InvalidRecordFormat));
            let mut bytes = ConnectAccept {
                controller_receive_entries: 4,
            }
            .encode();
            bytes[at] = 1;
            assert!(matches!(
                ConnectAccept::parse(&bytes),
                Err(AnswerError::RecordFormat(_))
            ));
        }
    }

    #[test]
    fn queue_sizes_that_cannot_work_are_rejected() {
        let with = |at: usize, size: u16| {
            let mut bytes = REQUEST.encode();
            bytes[at..at + 2].copy_from_slice(&size.to_le_bytes());
            ConnectRequest::parse(&bytes)
        };
        assert_eq!(with(4, 0), Err(Reject::InvalidHostReceiveQueueSize));
        assert_eq!(with(6, 0), Err(Reject::InvalidHostSendQueueSize));
        assert_eq!(with(6, u16::MAX), Err(Reject::InvalidHostSendQueueSize));
    }

    #[test]
    fn an_admin_queue_is_no_deeper_than_32() {
        let admin = |entries| ConnectRequest {
            qid: 0,
            host_send_entries: entries,
            ..REQUEST
        };
        assert_eq!(ConnectRequest::parse(&admin(32).encode()), Ok(admin(32)));
        assert_eq!(
            ConnectRequest::parse(&admin(33).encode()),
            Err(Reject::InvalidHostSendQueueSize)
        );
    }

    #[test]
    fn acceptances_survive_a_round_trip() {
        for entries in 1..=u16::MAX {
            let accept = ConnectAccept {
                controller_receive_entries: entries,
            };
            assert_eq!(ConnectAccept::parse(&accept.encode()), Ok(accept));
        }
        assert_eq!(ConnectAccept::parse(&[0; 32]), Err(AnswerError::NoEntries));
        assert_eq!(
            ConnectAccept::parse(&[0; 31]),
            Err(AnswerError::TooShort {
                bytes: 31,
                needed: 32
            })
        );
    }

    #[test]
    fn rejections_survive_a_round_trip() {
        for (index, reason) in Reject::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason.code()), index + 1);
            assert_eq!(Reject::parse(&reason.encode()), Ok(reason));
        }
        assert_eq!(Reject::parse(&[0, 0, 9, 0]), Err(AnswerError::Reason(9)));
        assert_eq!(Reject::parse(&[0, 0, 0, 0]), Err(AnswerError::Reason(0)));
        assert_eq!(Reject::parse(&[1, 0, 1, 0]), Err(AnswerError::RecordFormat(1)));
        assert_eq!(
            Reject::parse(&[0, 0, 1]),
            Err(AnswerError::TooShort { bytes: 3, needed: 4 })
        );
    }
}
