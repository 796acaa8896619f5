//! Submission and completion queue entries, opcodes and SGL descriptors.

use crate::status::Status;

/// Bytes of a submission queue entry.
pub const SQE_BYTES: usize = 64;
/// Bytes of a completion queue entry.
pub const CQE_BYTES: usize = 16;

/// Opcodes of the admin command set that this software knows.
///
/// Source: NVM Express Base Specification 2.0, figure 138 (Opcodes for Admin Commands).
pub mod admin_opcode {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const DELETE_IO_SQ: u8 = 0x00;
    pub const CREATE_IO_SQ: u8 = 0x01;
    pub const GET_LOG_PAGE: u8 = 0x02;
    pub const IDENTIFY: u8 = 0x06;
    pub const ABORT: u8 = 0x08;
    pub const SET_FEATURES: u8 = 0x09;
    pub const GET_FEATURES: u8 = 0x0a;
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub const KEEP_ALIVE: u8 = 0x18;
    pub const CROSS_CONTROLLER_RESET: u8 = 0x38;
    pub const FABRICS: u8 = 0x7f;
    /// Vendor specific: see [`crate::reservation::admission`].
    pub const ADMISSION: u8 = 0xc1;
}

/// Opcodes of the NVM command set that this software knows.
///
/// Source: NVM Command Set Specification 1.0, figure 18 (Opcodes for NVM Commands).
pub mod io_opcode {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const FLUSH: u8 = 0x00;
    pub const WRITE: u8 = 0x01;
    pub const READ: u8 = 0x02;
    pub const COMPARE: u8 = 0x05;
    pub const WRITE_ZEROES: u8 = 0x08;
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    pub const VERIFY: u8 = 0x0c;
    pub const RESERVATION_REGISTER: u8 = 0x0d;
    pub const RESERVATION_REPORT: u8 = 0x0e;
    pub const RESERVATION_ACQUIRE: u8 = 0x11;
    pub const RESERVATION_RELEASE: u8 = 0x15;
    pub const FABRICS: u8 = 0x7f;
}

/// Which way a command moves data: bits 1:0 of its opcode (of its FCTYPE for Fabrics commands).
///
/// Source: NVM Express Base Specification 2.0, figure 88 (Command Dword 0: Data Transfer).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// No data.
    None,
    /// Host to controller.
    FromHost,
    /// Controller to host.
    ToHost,
    /// Both ways; no command that this software knows does that.
    Bidirectional,
}

/// What the data pointer of a command over Fabrics says.
///
/// Source: NVM Express Base Specification 2.0, section 4.1.2 (Scatter Gather List), figures 104 to 113.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sgl {
    /// Data Block, offset subtype: the data is in the capsule, `offset_bytes` after the start of its data.
    InCapsule {
        /// Where the data starts, counted from ICDOFF.
        offset_bytes: u64,
        /// Bytes to move.
        length_bytes: u32,
    },
    /// Transport Data Block: the transport moves the data (R2T and C2HData over TCP).
    Transport {
        /// Bytes to move.
        length_bytes: u32,
    },
    /// Keyed Data Block: address, length and remote key in host memory (RDMA).
    Keyed {
        /// Host address.
        address: u64,
        /// Bytes to move, 24 bits.
        length_bytes: u32,
        /// Remote key.
        key: u32,
        /// Whether the key is to be invalidated remotely when the command completes.
        invalidate: bool,
    },
    /// Anything else, as its descriptor type and subtype.
    Other {
        /// Byte 15 of the descriptor.
        identifier: u8,
    },
}

/// A submission queue entry as it came in; every field is read from its place on demand.
///
/// Source: NVM Express Base Specification 2.0, figures 87 and 88 (Common Command Format).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SubmissionEntry {
    bytes: [u8; SQE_BYTES],
}

impl SubmissionEntry {
    /// An entry of zeroes with this opcode and command identifier and SGLs selected (PSDT 01b).
    pub fn new(opcode: u8, cid: u16) -> Self {
        let mut entry = Self {
            bytes: [0; SQE_BYTES],
        };
        entry.bytes[0] = opcode;
        entry.bytes[1] = 0x40;
        entry.set_cid(cid);
        entry
    }

    /// Takes the 64 bytes of a capsule's submission queue entry.
    pub const fn parse(bytes: [u8; SQE_BYTES]) -> Self {
        Self { bytes }
    }

    /// The 64 bytes for the wire.
    pub const fn encode(&self) -> &[u8; SQE_BYTES] {
        &self.bytes
    }

    /// Opcode.
    pub const fn opcode(&self) -> u8 {
        self.bytes[0]
    }

    /// Fused operation, bits 1:0 of byte 1: 0 normal, 1 first, 2 second.
    pub const fn fuse(&self) -> u8 {
        self.bytes[1] & 3
    }

    /// Sets the fused operation bits.
    pub fn set_fuse(&mut self, fuse: u8) {
        self.bytes[1] = (self.bytes[1] & !3) | (fuse & 3);
    }

    /// PRP or SGL for Data Transfer, bits 7:6 of byte 1: Fabrics wants 01b.
    pub const fn psdt(&self) -> u8 {
        self.bytes[1] >> 6
    }

    /// Command identifier.
    pub const fn cid(&self) -> u16 {
        u16::from_le_bytes([self.bytes[2], self.bytes[3]])
    }

    /// Sets the command identifier.
    pub fn set_cid(&mut self, cid: u16) {
        self.bytes[2..4].copy_from_slice(&cid.to_le_bytes());
    }

    /// Namespace identifier.
    pub fn nsid(&self) -> u32 {
        self.dword(1)
    }

    /// Sets the namespace identifier.
    pub fn set_nsid(&mut self, nsid: u32) {
        self.set_dword(1, nsid);
    }

    /// Fabrics command type: byte 4 of a Fabrics command.
    pub const fn fctype(&self) -> u8 {
        self.bytes[4]
    }

    /// Sets the Fabrics command type.
    pub fn set_fctype(&mut self, fctype: u8) {
        self.bytes[4] = fctype;
    }

    /// Command dword `index`, `0..16`.
    pub fn dword(&self, index: usize) -> u32 {
        let at = index * 4;
        u32::from_le_bytes([
            self.bytes[at],
            self.bytes[at + 1],
            self.bytes[at + 2],
            self.bytes[at + 3],
        ])
    }

    /// Sets command dword `index`, `0..16`.
    pub fn set_dword(&mut self, index: usize, value: u32) {
        self.bytes[index * 4..index * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Two command dwords, the lower at `index`, as one number.
    pub fn qword(&self, index: usize) -> u64 {
        u64::from(self.dword(index)) | u64::from(self.dword(index + 1)) << 32
    }

    /// Sets two command dwords, the lower at `index`.
    pub fn set_qword(&mut self, index: usize, value: u64) {
        self.bytes[index * 4..index * 4 + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Which way this command moves data.
    pub const fn direction(&self) -> Direction {
        let code = if self.opcode() == admin_opcode::FABRICS {
            self.fctype()
        } else {
            self.opcode()
        };
        match code & 3 {
            0 => Direction::None,
            1 => Direction::FromHost,
            2 => Direction::ToHost,
            _ => Direction::Bidirectional,
        }
    }

    /// What the data pointer (bytes 39:24) says.
    pub fn sgl(&self) -> Sgl {
        let address = self.qword(6);
        let length_bytes = self.dword(8);
        match self.bytes[39] {
            0x01 => Sgl::InCapsule {
                offset_bytes: address,
                length_bytes,
            },
            0x5a => Sgl::Transport { length_bytes },
            0x40 | 0x4f => Sgl::Keyed {
                address,
                length_bytes: length_bytes & 0x00ff_ffff,
                key: u32::from_le_bytes([self.bytes[35], self.bytes[36], self.bytes[37], self.bytes[38]]),
                invalidate: self.bytes[39] == 0x4f,
            },
            identifier => Sgl::Other { identifier },
        }
    }

    /// Writes the data pointer. `Sgl::Other` writes only its identifier.
    pub fn set_sgl(&mut self, sgl: Sgl) {
        self.bytes[24..40].fill(0);
        match sgl {
            Sgl::InCapsule {
                offset_bytes,
                length_bytes,
            } => {
                self.set_qword(6, offset_bytes);
                self.set_dword(8, length_bytes);
                self.bytes[39] = 0x01;
            }
            Sgl::Transport { length_bytes } => {
                self.set_dword(8, length_bytes);
                self.bytes[39] = 0x5a;
            }
            Sgl::Keyed {
                address,
                length_bytes,
                key,
                invalidate,
            } => {
                self.set_qword(6, address);
                self.set_dword(8, length_bytes);
                self.bytes[35..39].copy_from_slice(&key.to_le_bytes());
                self.bytes[39] = if invalidate { 0x4f } else { 0x40 };
            }
            Sgl::Other { identifier } => self.bytes[39] = identifier,
        }
    }
}

impl core::fmt::Debug for SubmissionEntry {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        out.debug_struct("SubmissionEntry")
            .field("opcode", &format_args!("{:#04x}", self.opcode()))
            .field("cid", &self.cid())
            .field("nsid", &self.nsid())
            .field("sgl", &self.sgl())
            .field("cdw10", &format_args!("{:#x}", self.dword(10)))
            .field("cdw11", &format_args!("{:#x}", self.dword(11)))
            .field("cdw12", &format_args!("{:#x}", self.dword(12)))
            .finish()
    }
}

/// A completion queue entry.
///
/// Source: NVM Express Base Specification 2.0, figure 92 (Common Completion Queue Entry Layout).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionEntry {
    /// Dwords 0 and 1: what the command returns.
    pub result: u64,
    /// Submission queue head pointer.
    pub sqhd: u16,
    /// Command identifier.
    pub cid: u16,
    /// Status; the phase tag is always 0 over Fabrics.
    pub status: Status,
}

impl CompletionEntry {
    /// Reads the 16 bytes of an entry.
    pub fn parse(bytes: [u8; CQE_BYTES]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let mut result = [0; 8];
        result.copy_from_slice(&bytes[..8]);
        Self {
            result: u64::from_le_bytes(result),
            sqhd: word(8),
            cid: word(12),
            status: Status::from_wire(word(14) >> 1),
        }
    }

    /// The 16 bytes for the wire; the submission queue identifier stays 0 as Fabrics asks.
    pub fn encode(&self) -> [u8; CQE_BYTES] {
        let mut bytes = [0; CQE_BYTES];
        bytes[..8].copy_from_slice(&self.result.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.sqhd.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.cid.to_le_bytes());
        bytes[14..16].copy_from_slice(&(self.status.wire() << 1).to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sgl_descriptors_survive_a_round_trip() {
        for sgl in [
            Sgl::InCapsule {
                offset_bytes: 0,
                length_bytes: 4096,
            },
            Sgl::Transport {
                length_bytes: 131_072,
            },
            Sgl::Keyed {
                address: 0x1234_5678_9abc,
                length_bytes: 0x0012_3456,
                key: 0xdead_beef,
                invalidate: true,
            },
        ] {
            let mut entry = SubmissionEntry::new(io_opcode::WRITE, 7);
            entry.set_sgl(sgl);
            assert_eq!(entry.sgl(), sgl);
            assert_eq!((entry.cid(), entry.opcode(), entry.psdt()), (7, 1, 1));
        }
    }

    #[test]
    fn completion_entries_survive_a_round_trip() {
        let entry = CompletionEntry {
            result: 1 << 40 | 9,
            sqhd: 3,
            cid: 0xfffe,
            status: Status::COMPARE_FAILURE,
        };
        assert_eq!(CompletionEntry::parse(entry.encode()), entry);
    }
}
