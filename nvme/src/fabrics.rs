//! Fabrics commands: Connect, Property Get and Property Set, and the properties themselves.
//!
//! Shared by both ends: the subsystem parses what the host encodes. Transport independent.

use thiserror::Error;

use crate::command::{SubmissionEntry, admin_opcode};
use crate::nqn::{NQN_FIELD_BYTES, Nqn, NqnError};

/// Fabrics command types.
///
/// Source: NVM Express Base Specification 2.0, Fabrics Command Types.
pub mod fctype {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const PROPERTY_SET: u8 = 0x00;
    pub const CONNECT: u8 = 0x01;
    pub const PROPERTY_GET: u8 = 0x04;
    pub const AUTHENTICATION_SEND: u8 = 0x05;
    pub const AUTHENTICATION_RECEIVE: u8 = 0x06;
    pub const DISCONNECT: u8 = 0x08;
}

/// Offsets of controller properties in bytes.
///
/// Source: NVM Express Base Specification 2.0, Property Definition.
pub mod property {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const CAP: u32 = 0x00;
    pub const VS: u32 = 0x08;
    pub const CC: u32 = 0x14;
    pub const CSTS: u32 = 0x1c;
    pub const NSSR: u32 = 0x20;
    pub const CRTO: u32 = 0x68;
}

/// The version that our controllers report in VS and in Identify: 2.0.
pub const VERSION: u32 = 0x0002_0000;

/// Bytes of the data of a Connect command.
pub const CONNECT_DATA_BYTES: usize = 1024;

/// CNTLID of a Connect that leaves the choice to the subsystem (dynamic controller model).
pub const CNTLID_DYNAMIC: u16 = 0xffff;

/// Largest CNTLID that a controller may have.
///
/// Source: NVM Express Base Specification 2.0, Identify Controller (CNTLID) and Connect:
/// FFF0h and up are reserved.
pub const CNTLID_MAX: u16 = 0xffef;

/// What a Connect command carries as data.
///
/// Source: NVM Express Base Specification 2.0, Connect Command: Data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectData {
    /// Host identifier, a UUID.
    pub hostid: [u8; 16],
    /// Controller asked for: [`CNTLID_DYNAMIC`] on an admin queue, the association's own on an I/O queue.
    pub cntlid: u16,
    /// Name of the subsystem.
    pub subnqn: Nqn,
    /// Name of the host.
    pub hostnqn: Nqn,
}

/// Why the data of a Connect command is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectDataError {
    /// The data does not have exactly 1,024 bytes.
    #[error("connect data has {bytes} bytes, {CONNECT_DATA_BYTES} expected")]
    Length {
        /// Bytes that came.
        bytes: usize,
    },
    /// The subsystem name is malformed.
    #[error("subsystem name: {0}")]
    SubNqn(NqnError),
    /// The host name is malformed.
    #[error("host name: {0}")]
    HostNqn(NqnError),
}

impl ConnectData {
    /// Offset of the host identifier, for the error reply.
    pub const HOSTID_OFFSET: u16 = 0;
    /// Offset of the controller identifier, for the error reply.
    pub const CNTLID_OFFSET: u16 = 16;
    /// Offset of the subsystem name, for the error reply.
    pub const SUBNQN_OFFSET: u16 = 256;
    /// Offset of the host name, for the error reply.
    pub const HOSTNQN_OFFSET: u16 = 512;

    /// Reads the data of a Connect command.
    pub fn parse(data: &[u8]) -> Result<Self, ConnectDataError> {
        let bytes: &[u8; CONNECT_DATA_BYTES] = data
            .try_into()
            .map_err(|_| ConnectDataError::Length { bytes: data.len() })?;
        let mut hostid = [0; 16];
        hostid.copy_from_slice(&bytes[..16]);
        Ok(Self {
            hostid,
            cntlid: u16::from_le_bytes([bytes[16], bytes[17]]),
            subnqn: Nqn::from_field(&bytes[256..256 + NQN_FIELD_BYTES]).map_err(ConnectDataError::SubNqn)?,
            hostnqn: Nqn::from_field(&bytes[512..512 + NQN_FIELD_BYTES])
                .map_err(ConnectDataError::HostNqn)?,
        })
    }

    /// The bytes for the wire.
    pub fn encode(&self) -> [u8; CONNECT_DATA_BYTES] {
        let mut bytes = [0; CONNECT_DATA_BYTES];
        bytes[..16].copy_from_slice(&self.hostid);
        bytes[16..18].copy_from_slice(&self.cntlid.to_le_bytes());
        bytes[256..512].copy_from_slice(&self.subnqn.to_field());
        bytes[512..768].copy_from_slice(&self.hostnqn.to_field());
        bytes
    }
}

/// The command-specific fields of a Connect command.
///
/// Source: NVM Express Base Specification 2.0, Connect Command: Submission Queue Entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Record format; only 0 is defined.
    pub recfmt: u16,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Queue size in entries, 0's based.
    pub sqsize: u16,
    /// Attributes: bit 2 disables submission queue flow control, bits 1:0 are the priority class.
    pub cattr: u8,
    /// Keep alive timeout in milliseconds, `0` for none; admin queue only.
    pub kato_ms: u32,
}

impl Connect {
    /// CATTR bit 2: the host does without submission queue flow control.
    pub const CATTR_DISABLE_FLOW_CONTROL: u8 = 1 << 2;
    /// CATTR bit 3: the host can delete individual I/O queues (Disconnect).
    pub const CATTR_INDIVIDUAL_DELETION: u8 = 1 << 3;
    /// Offset of RECFMT in the entry, for the error reply.
    pub const RECFMT_OFFSET: u16 = 40;
    /// Offset of QID in the entry, for the error reply.
    pub const QID_OFFSET: u16 = 42;
    /// Offset of SQSIZE in the entry, for the error reply.
    pub const SQSIZE_OFFSET: u16 = 44;
    /// Offset of CATTR in the entry, for the error reply.
    pub const CATTR_OFFSET: u16 = 46;

    /// Reads the fields from an entry whose FCTYPE is Connect.
    pub fn parse(entry: &SubmissionEntry) -> Self {
        let bytes = entry.encode();
        Self {
            recfmt: u16::from_le_bytes([bytes[40], bytes[41]]),
            qid: u16::from_le_bytes([bytes[42], bytes[43]]),
            sqsize: u16::from_le_bytes([bytes[44], bytes[45]]),
            cattr: bytes[46],
            kato_ms: entry.dword(12),
        }
    }

    /// The command as an entry; the data pointer is left to the transport.
    pub fn encode(&self, cid: u16) -> SubmissionEntry {
        let mut entry = SubmissionEntry::new(admin_opcode::FABRICS, cid);
        entry.set_fctype(fctype::CONNECT);
        entry.set_dword(10, u32::from(self.recfmt) | u32::from(self.qid) << 16);
        entry.set_dword(11, u32::from(self.sqsize) | u32::from(self.cattr) << 16);
        entry.set_dword(12, self.kato_ms);
        entry
    }
}

/// Which parameter of a Connect command is wrong, as the completion's dword 0 says it.
///
/// Source: NVM Express Base Specification 2.0, Connect Response: IPO and IATTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidParameter {
    /// Byte of the submission queue entry.
    Entry(u16),
    /// Byte of the data.
    Data(u16),
}

impl InvalidParameter {
    /// Dword 0 of the completion: the offset in bits 15:0, bit 16 set for the data.
    pub const fn result(self) -> u64 {
        match self {
            Self::Entry(offset) => offset as u64,
            Self::Data(offset) => offset as u64 | 1 << 16,
        }
    }

    /// Reads dword 0 of a completion of status "connect: invalid parameters".
    pub fn parse(result: u64) -> Self {
        let bytes = result.to_le_bytes();
        let offset = u16::from_le_bytes([bytes[0], bytes[1]]);
        if bytes[2] & 1 == 0 {
            Self::Entry(offset)
        } else {
            Self::Data(offset)
        }
    }
}

/// A Property Get or Property Set command.
///
/// Source: NVM Express Base Specification 2.0, Property Get and Set Command: Submission Queue Entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyAccess {
    /// Offset of the property, see [`property`].
    pub offset: u32,
    /// Size of the property: 4 or 8 bytes; `None` for a size that does not exist.
    pub size_bytes: Option<u8>,
    /// What a Property Set writes; 0 in a Property Get.
    pub value: u64,
}

impl PropertyAccess {
    /// Reads the fields from an entry whose FCTYPE is Property Get or Property Set.
    pub fn parse(entry: &SubmissionEntry) -> Self {
        Self {
            offset: entry.dword(11),
            size_bytes: match entry.dword(10) & 7 {
                0 => Some(4),
                1 => Some(8),
                _ => None,
            },
            value: entry.qword(12),
        }
    }

    /// Property Get of `offset`; CAP has 8 bytes, everything else that we know has 4.
    pub fn get(cid: u16, offset: u32) -> SubmissionEntry {
        Self::entry(cid, fctype::PROPERTY_GET, offset)
    }

    /// Property Set of a 4-byte property.
    pub fn set(cid: u16, offset: u32, value: u32) -> SubmissionEntry {
        let mut entry = Self::entry(cid, fctype::PROPERTY_SET, offset);
        entry.set_dword(12, value);
        entry
    }

    fn entry(cid: u16, fctype: u8, offset: u32) -> SubmissionEntry {
        let mut entry = SubmissionEntry::new(admin_opcode::FABRICS, cid);
        entry.set_fctype(fctype);
        entry.set_dword(10, u32::from(offset == property::CAP));
        entry.set_dword(11, offset);
        entry
    }
}

/// Controller Capabilities, the property CAP.
///
/// Source: NVM Express Base Specification 2.0, Offset 0h: CAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// What our controllers can do: queues of up to `queue_entries_max` entries (at least 2), contiguous
    /// queues as Fabrics asks, the NVM command set, 4 KiB pages; `timeout_half_seconds` bounds how long
    /// CSTS.RDY lags behind CC.EN.
    pub fn new(queue_entries_max: u16, timeout_half_seconds: u8) -> Self {
        assert!(queue_entries_max >= 2, "a queue has two entries or more");
        let cqr = 1 << 16;
        let nvm_command_set = 1 << 37;
        let timeout = u64::from(timeout_half_seconds) << 24;
        Self(u64::from(queue_entries_max - 1) | cqr | timeout | nvm_command_set)
    }

    /// MQES as entries, not 0's based.
    pub fn queue_entries_max(self) -> u32 {
        u32::from(self.word(0)) + 1
    }

    /// TO in units of 500 ms.
    pub fn timeout_half_seconds(self) -> u8 {
        self.0.to_le_bytes()[3]
    }

    fn word(self, index: usize) -> u16 {
        let bytes = self.0.to_le_bytes();
        u16::from_le_bytes([bytes[index * 2], bytes[index * 2 + 1]])
    }
}

/// Controller Configuration, the property CC.
///
/// Source: NVM Express Base Specification 2.0, Offset 14h: CC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configuration(pub u32);

impl Configuration {
    /// What a host writes to start a controller of ours: EN, NVM command set, 64-byte submission and
    /// 16-byte completion queue entries.
    pub const START: Self = Self(1 | 6 << 16 | 4 << 20);
    /// What a host writes for a normal shutdown: [`Self::START`] with SHN = 01b.
    pub const SHUTDOWN: Self = Self(Self::START.0 | 1 << 14);

    /// EN: the controller is to process commands.
    pub const fn enabled(self) -> bool {
        self.0 & 1 != 0
    }

    /// CSS: the command sets chosen; 000b is NVM.
    pub const fn command_sets(self) -> u8 {
        (self.0 >> 4 & 7) as u8
    }

    /// MPS: memory page size as a power of two above 4 KiB.
    pub const fn page_shift(self) -> u8 {
        (self.0 >> 7 & 15) as u8
    }

    /// AMS: arbitration; 000b is round robin.
    pub const fn arbitration(self) -> u8 {
        (self.0 >> 11 & 7) as u8
    }

    /// SHN: 00b none, 01b normal, 10b abrupt shutdown.
    pub const fn shutdown(self) -> u8 {
        (self.0 >> 14 & 3) as u8
    }

    /// IOSQES: submission queue entry size as a power of two.
    pub const fn submission_entry_shift(self) -> u8 {
        (self.0 >> 16 & 15) as u8
    }

    /// IOCQES: completion queue entry size as a power of two.
    pub const fn completion_entry_shift(self) -> u8 {
        (self.0 >> 20 & 15) as u8
    }
}

/// Controller Status, the property CSTS.
///
/// Source: NVM Express Base Specification 2.0, Offset 1Ch: CSTS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerStatus(pub u32);

impl ControllerStatus {
    /// Builds the property: RDY, CFS, and SHST (00b none, 01b occurring, 10b complete).
    pub const fn new(ready: bool, fatal: bool, shutdown_status: u8) -> Self {
        assert!(shutdown_status < 4, "SHST has two bits");
        Self(ready as u32 | (fatal as u32) << 1 | (shutdown_status as u32) << 2)
    }

    /// RDY.
    pub const fn ready(self) -> bool {
        self.0 & 1 != 0
    }

    /// CFS: the controller has failed for good.
    pub const fn fatal(self) -> bool {
        self.0 & 2 != 0
    }

    /// SHST: 00b none, 01b occurring, 10b complete.
    pub const fn shutdown_status(self) -> u8 {
        (self.0 >> 2 & 3) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> ConnectData {
        ConnectData {
            hostid: [7; 16],
            cntlid: CNTLID_DYNAMIC,
            subnqn: Nqn::parse("nqn.2026-01.io.braid:node-a").unwrap(),
            hostnqn: Nqn::parse("nqn.2014-08.org.nvmexpress:uuid:36ebf5a9-1df9-47b3-a6d0-e9ba32e428a2")
                .unwrap(),
        }
    }

    #[test]
    fn connect_data_survives_a_round_trip() {
        assert_eq!(ConnectData::parse(&data().encode()), Ok(data()));
    }

    #[test]
    fn connect_data_is_refused_when_short_or_when_a_name_is_wrong() {
        let good = data().encode();
        assert_eq!(
            ConnectData::parse(&good[..1023]),
            Err(ConnectDataError::Length { bytes: 1023 })
        );
        let mut bad = good;
        bad[256] = b'x';
        assert_eq!(
            ConnectData::parse(&bad),
            Err(ConnectDataError::SubNqn(NqnError::Prefix))
        );
        let mut bad = good;
        bad[512..768].fill(b'n');
        assert_eq!(
            ConnectData::parse(&bad),
            Err(ConnectDataError::HostNqn(NqnError::Unterminated))
        );
    }

    #[test]
    fn connect_fields_stand_where_the_specification_puts_them() {
        let connect = Connect {
            recfmt: 0,
            qid: 3,
            sqsize: 127,
            cattr: Connect::CATTR_DISABLE_FLOW_CONTROL,
            kato_ms: 5000,
        };
        let entry = connect.encode(9);
        assert_eq!(Connect::parse(&entry), connect);
        let bytes = entry.encode();
        assert_eq!(
            (bytes[0], bytes[4], bytes[42], bytes[44], bytes[46]),
            (0x7f, 1, 3, 127, 4)
        );
        assert_eq!(bytes[48..52], 5000_u32.to_le_bytes());
    }

    #[test]
    fn properties_stand_where_the_specification_puts_them() {
        let get = PropertyAccess::get(1, property::CAP);
        assert_eq!((get.fctype(), get.encode()[40], get.encode()[44]), (4, 1, 0));
        let set = PropertyAccess::set(2, property::CC, Configuration::START.0);
        assert_eq!((set.fctype(), set.encode()[40], set.encode()[44]), (0, 0, 0x14));
        assert_eq!(PropertyAccess::parse(&set).value, 0x0046_0001);
        let cap = Capabilities::new(128, 15);
        assert_eq!(cap.0, 0x0000_0020_0f01_007f);
        assert_eq!((cap.queue_entries_max(), cap.timeout_half_seconds()), (128, 15));
        let cc = Configuration::SHUTDOWN;
        assert_eq!(
            (cc.enabled(), cc.shutdown(), cc.submission_entry_shift()),
            (true, 1, 6)
        );
        assert_eq!((cc.completion_entry_shift(), cc.command_sets()), (4, 0));
        assert_eq!(ControllerStatus::new(true, false, 2).0, 0x9);
    }

    #[test]
    fn invalid_parameters_name_their_place() {
        assert_eq!(InvalidParameter::Entry(Connect::QID_OFFSET).result(), 42);
        assert_eq!(
            InvalidParameter::Data(ConnectData::SUBNQN_OFFSET).result(),
            0x1_0100
        );
        for place in [InvalidParameter::Entry(44), InvalidParameter::Data(512)] {
            assert_eq!(InvalidParameter::parse(place.result()), place);
        }
    }
}
