//! I/O commands of the NVM command set, checked once and turned into requests that cannot be wrong.
//!
//! Runs on every core for every command: no allocation, no branch that is not a check. Knows block ranges
//! and lengths; deliberately does not know where blocks live or how their data travels.

use crate::command::{SubmissionEntry, io_opcode};
use crate::status::Status;

/// NSID that stands for every namespace.
pub const NSID_ALL: u32 = 0xffff_ffff;

/// Most ranges in one Dataset Management command: NR is one byte, 0's based.
pub const DSM_RANGES_MAX: u16 = 256;

/// Bytes of one Dataset Management range.
pub const DSM_RANGE_BYTES: usize = 16;

/// Most bytes that a Dataset Management command carries: 256 ranges of 16 bytes.
pub const DSM_BYTES_MAX: usize = DSM_RANGES_MAX as usize * DSM_RANGE_BYTES;

/// Size and block size of a namespace, as a host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceFormat {
    /// Size in logical blocks.
    pub blocks: u64,
    /// Block size in bytes as a power of two: 9 or 12.
    pub block_shift: u32,
}

impl NamespaceFormat {
    /// Bytes of one logical block.
    pub const fn block_bytes(&self) -> u32 {
        1 << self.block_shift
    }

    /// Fails unless all `blocks` from `slba` on exist. Never overflows.
    fn check_range(&self, slba: u64, blocks: u32) -> Result<(), Status> {
        let blocks = u64::from(blocks);
        if blocks <= self.blocks && slba <= self.blocks - blocks {
            Ok(())
        } else {
            Err(Status::LBA_OUT_OF_RANGE.do_not_retry())
        }
    }
}

/// What the controller promised in Identify and holds hosts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimits {
    /// Most bytes that one command moves (MDTS).
    pub max_transfer_bytes: u32,
    /// Most blocks of a fused Compare and Write (ACWU, not 0's based).
    pub compare_write_blocks_max: u32,
}

/// An I/O command that has passed every check which needs only the command and the namespace's format.
///
/// `blocks` counts logical blocks, is not 0's based, and the range lies inside the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoRequest {
    /// Read `blocks` from `slba` on.
    Read {
        /// First logical block.
        slba: u64,
        /// Number of blocks, `1..=65_536`.
        blocks: u32,
        /// Force Unit Access: what is returned must be on stable media.
        fua: bool,
    },
    /// Write `blocks` from `slba` on.
    Write {
        /// First logical block.
        slba: u64,
        /// Number of blocks, `1..=65_536`.
        blocks: u32,
        /// Force Unit Access: complete only when on stable media.
        fua: bool,
    },
    /// Compare the blocks with the command's data.
    Compare {
        /// First logical block.
        slba: u64,
        /// Number of blocks, `1..=65_536`.
        blocks: u32,
    },
    /// Set the blocks to zero; no data moves.
    WriteZeroes {
        /// First logical block.
        slba: u64,
        /// Number of blocks, `1..=65_536`; not bound by the transfer limit.
        blocks: u32,
        /// DEAC: the host would like the blocks deallocated; they read as zeroes either way.
        deallocate: bool,
        /// Force Unit Access: complete only when on stable media.
        fua: bool,
    },
    /// Make everything that was completed before durable.
    Flush,
    /// Hints for the ranges in the command's data, see [`parse_dsm_ranges`].
    DatasetManagement {
        /// Number of ranges, `1..=256`.
        ranges: u16,
        /// AD: deallocate. If not set, the command is advice that may be ignored.
        deallocate: bool,
    },
}

impl IoRequest {
    /// Checks one I/O command against its namespace and the controller's limits.
    ///
    /// `transfer_bytes` is what the command's data pointer says. The namespace itself is the caller's to find
    /// first, see [`NamespaceScope`]; for Flush `format` does not matter.
    ///
    /// Source: NVM Command Set Specification 1.0, I/O commands.
    pub fn parse(
        entry: &SubmissionEntry,
        transfer_bytes: u32,
        format: &NamespaceFormat,
        limits: &IoLimits,
    ) -> Result<Self, Status> {
        let fuse = fuse_kind(entry);
        if fuse == FuseKind::Invalid {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let transfer = Transfer {
            fuse,
            transfer_bytes,
            format,
            limits,
        };
        match entry.opcode() {
            io_opcode::READ => {
                let (slba, blocks) = transfer.check(entry)?;
                Ok(Self::Read {
                    slba,
                    blocks,
                    fua: has(entry, FUA),
                })
            }
            io_opcode::WRITE => {
                if entry.dword(12) & DTYPE != 0 {
                    return Err(Status::INVALID_FIELD.do_not_retry());
                }
                let (slba, blocks) = transfer.check(entry)?;
                Ok(Self::Write {
                    slba,
                    blocks,
                    fua: has(entry, FUA),
                })
            }
            io_opcode::COMPARE => {
                let (slba, blocks) = transfer.check(entry)?;
                Ok(Self::Compare { slba, blocks })
            }
            io_opcode::WRITE_ZEROES => {
                let (slba, blocks) = block_range(entry, format)?;
                Ok(Self::WriteZeroes {
                    slba,
                    blocks,
                    deallocate: has(entry, DEAC),
                    fua: has(entry, FUA),
                })
            }
            io_opcode::FLUSH => Ok(Self::Flush),
            io_opcode::DATASET_MANAGEMENT => dataset_management(entry, transfer_bytes),
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// Whether `self` and `second` form a fused Compare and Write: the same blocks of the same namespace
    /// (the caller compares the namespaces).
    ///
    /// Source: NVM Command Set Specification 1.0, Compare and Write: ranges that differ
    /// fail both commands with Invalid Field in Command.
    pub fn check_fused_with(&self, second: &Self) -> Result<(), Status> {
        let (
            Self::Compare { slba, blocks },
            Self::Write {
                slba: slba_second,
                blocks: blocks_second,
                ..
            },
        ) = (self, second)
        else {
            return Err(Status::INVALID_FIELD.do_not_retry());
        };
        if slba == slba_second && blocks == blocks_second {
            Ok(())
        } else {
            Err(Status::INVALID_FIELD.do_not_retry())
        }
    }
}

/// Command Dword 12: Force Unit Access.
const FUA: u32 = 1 << 30;
/// Command Dword 12: Protection Information (29:26) and Storage Tag Check (24); we format without either.
const PROTECTION: u32 = 0xf << 26 | 1 << 24;
/// Command Dword 12 of Write Zeroes: Deallocate.
const DEAC: u32 = 1 << 25;
/// Command Dword 12 of Write: Directive Type.
const DTYPE: u32 = 0xf << 20;
/// Command Dword 11 of Dataset Management: Attribute - Deallocate.
const DSM_DEALLOCATE: u32 = 1 << 2;

/// Whether Command Dword 12 has this bit.
fn has(entry: &SubmissionEntry, bit: u32) -> bool {
    entry.dword(12) & bit != 0
}

/// SLBA and NLB of a command, the latter no longer 0's based, and inside the namespace.
fn block_range(entry: &SubmissionEntry, format: &NamespaceFormat) -> Result<(u64, u32), Status> {
    let dword12 = entry.dword(12);
    if dword12 & PROTECTION != 0 {
        return Err(Status::INVALID_FIELD.do_not_retry());
    }
    let slba = entry.qword(10);
    let blocks = (dword12 & 0xffff) + 1;
    format.check_range(slba, blocks)?;
    Ok((slba, blocks))
}

/// The checks of Read, Write and Compare, which move one block of data for each block they name.
struct Transfer<'a> {
    fuse: FuseKind,
    transfer_bytes: u32,
    format: &'a NamespaceFormat,
    limits: &'a IoLimits,
}

impl Transfer<'_> {
    fn check(&self, entry: &SubmissionEntry) -> Result<(u64, u32), Status> {
        let (slba, blocks) = block_range(entry, self.format)?;
        let bytes = u64::from(blocks) << self.format.block_shift;
        if bytes > u64::from(self.limits.max_transfer_bytes) {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        if self.fuse != FuseKind::None && blocks > self.limits.compare_write_blocks_max {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        if bytes != u64::from(self.transfer_bytes) {
            return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
        }
        Ok((slba, blocks))
    }
}

/// Checks a Dataset Management command but not yet its ranges, which are data.
///
/// Linux always sends 4,096 bytes however few ranges it has, so more than the ranges need is welcome.
fn dataset_management(entry: &SubmissionEntry, transfer_bytes: u32) -> Result<IoRequest, Status> {
    let ranges = (entry.dword(10) & 0xff) as u16 + 1;
    let bytes = usize::try_from(transfer_bytes).unwrap_or(usize::MAX);
    if bytes < usize::from(ranges) * DSM_RANGE_BYTES || bytes > DSM_BYTES_MAX {
        return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
    }
    Ok(IoRequest::DatasetManagement {
        ranges,
        deallocate: entry.dword(11) & DSM_DEALLOCATE != 0,
    })
}

/// What part a command has in a fused operation.
///
/// Compare and Write is the only fused operation there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuseKind {
    /// Not fused.
    None,
    /// A Compare that is the first command of the pair.
    First,
    /// A Write that is the second command of the pair.
    Second,
    /// Fused bits on a command that cannot have them there: fails with Invalid Field.
    Invalid,
}

/// Reads the fused bits of an I/O command.
pub fn fuse_kind(entry: &SubmissionEntry) -> FuseKind {
    match (entry.fuse(), entry.opcode()) {
        (0, _) => FuseKind::None,
        (1, io_opcode::COMPARE) => FuseKind::First,
        (2, io_opcode::WRITE) => FuseKind::Second,
        _ => FuseKind::Invalid,
    }
}

/// Which namespaces an I/O command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceScope {
    /// The namespace with this NSID, if it exists.
    One(u32),
    /// Every namespace of the controller: Flush with NSID FFFFFFFFh.
    All,
}

impl NamespaceScope {
    /// Reads the NSID of an I/O command: 0 never, FFFFFFFFh only for Flush.
    pub fn of(entry: &SubmissionEntry) -> Result<Self, Status> {
        match (entry.nsid(), entry.opcode()) {
            (NSID_ALL, io_opcode::FLUSH) => Ok(Self::All),
            (0 | NSID_ALL, _) => Err(Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry()),
            (nsid, _) => Ok(Self::One(nsid)),
        }
    }
}

/// One range of a Dataset Management command, inside the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DsmRange {
    /// First logical block.
    pub slba: u64,
    /// Number of blocks; 0 asks for nothing.
    pub blocks: u32,
}

/// The ranges of one Dataset Management command, all checked; borrows the command's data.
#[derive(Clone, Debug)]
pub struct DsmRanges<'a> {
    ranges: std::slice::ChunksExact<'a, u8>,
}

impl Iterator for DsmRanges<'_> {
    type Item = DsmRange;

    fn next(&mut self) -> Option<DsmRange> {
        self.ranges.next().map(dsm_range)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ranges.size_hint()
    }
}

impl ExactSizeIterator for DsmRanges<'_> {}

/// Checks the `count` ranges at the start of `data` before the first of them is acted upon.
///
/// Errs with LBA Out of Range if one leaves the namespace, or with Data SGL Length Invalid if `data` is too
/// short for them.
///
/// Source: NVM Command Set Specification 1.0, Dataset Management: Range Definition.
pub fn parse_dsm_ranges<'a>(
    data: &'a [u8],
    count: u16,
    format: &NamespaceFormat,
) -> Result<DsmRanges<'a>, Status> {
    let bytes = usize::from(count) * DSM_RANGE_BYTES;
    let data = data
        .get(..bytes)
        .ok_or(Status::DATA_SGL_LENGTH_INVALID.do_not_retry())?;
    let ranges = DsmRanges {
        ranges: data.chunks_exact(DSM_RANGE_BYTES),
    };
    for range in ranges.clone() {
        format.check_range(range.slba, range.blocks)?;
    }
    Ok(ranges)
}

/// Reads one range: context attributes (ignored), length, start. Panics if `chunk` has under 16 bytes.
fn dsm_range(chunk: &[u8]) -> DsmRange {
    let mut slba = [0; 8];
    slba.copy_from_slice(&chunk[8..16]);
    DsmRange {
        slba: u64::from_le_bytes(slba),
        blocks: u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: NamespaceFormat = NamespaceFormat {
        blocks: 1000,
        block_shift: 12,
    };
    const LIMITS: IoLimits = IoLimits {
        max_transfer_bytes: 131_072,
        compare_write_blocks_max: 1,
    };

    fn command(opcode: u8, slba: u64, nlb: u32) -> SubmissionEntry {
        let mut entry = SubmissionEntry::new(opcode, 1);
        entry.set_nsid(1);
        entry.set_qword(10, slba);
        entry.set_dword(12, nlb);
        entry
    }

    fn parse(entry: &SubmissionEntry, transfer_bytes: u32) -> Result<IoRequest, Status> {
        IoRequest::parse(entry, transfer_bytes, &FORMAT, &LIMITS)
    }

    #[test]
    fn reads_writes_and_compares_come_out_as_asked() {
        let mut entry = command(io_opcode::READ, 10, 1);
        assert_eq!(
            parse(&entry, 8192),
            Ok(IoRequest::Read {
                slba: 10,
                blocks: 2,
                fua: false
            })
        );
        entry = command(io_opcode::WRITE, 999, FUA);
        assert_eq!(
            parse(&entry, 4096),
            Ok(IoRequest::Write {
                slba: 999,
                blocks: 1,
                fua: true
            })
        );
        entry = command(io_opcode::COMPARE, 0, 0);
        assert_eq!(parse(&entry, 4096), Ok(IoRequest::Compare { slba: 0, blocks: 1 }));
    }

    #[test]
    fn ranges_past_the_end_are_refused_without_overflow() {
        let out = Err(Status::LBA_OUT_OF_RANGE.do_not_retry());
        for opcode in [
            io_opcode::READ,
            io_opcode::WRITE,
            io_opcode::COMPARE,
            io_opcode::WRITE_ZEROES,
        ] {
            assert_eq!(parse(&command(opcode, 1000, 0), 4096), out);
            assert_eq!(parse(&command(opcode, 999, 1), 8192), out);
            assert_eq!(parse(&command(opcode, u64::MAX, 0), 4096), out);
            assert_eq!(parse(&command(opcode, u64::MAX - 1, 0xffff), 4096), out);
        }
        let tiny = NamespaceFormat {
            blocks: 0,
            block_shift: 9,
        };
        assert_eq!(
            IoRequest::parse(&command(io_opcode::READ, 0, 0), 512, &tiny, &LIMITS),
            out
        );
    }

    #[test]
    fn the_data_pointer_must_fit_the_block_count() {
        let entry = command(io_opcode::READ, 0, 1);
        for bytes in [0, 4096, 8191, 8193, u32::MAX] {
            assert_eq!(
                parse(&entry, bytes),
                Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry())
            );
        }
    }

    #[test]
    fn transfers_above_mdts_are_refused() {
        let entry = command(io_opcode::READ, 0, 32);
        assert_eq!(
            parse(&entry, 33 * 4096),
            Err(Status::INVALID_FIELD.do_not_retry())
        );
        assert!(parse(&command(io_opcode::READ, 0, 31), 131_072).is_ok());
    }

    #[test]
    fn write_zeroes_moves_no_data_and_ignores_mdts() {
        let entry = command(io_opcode::WRITE_ZEROES, 0, 999 | DEAC | FUA);
        let expected = IoRequest::WriteZeroes {
            slba: 0,
            blocks: 1000,
            deallocate: true,
            fua: true,
        };
        assert_eq!(parse(&entry, 0), Ok(expected));
    }

    #[test]
    fn protection_and_directives_are_refused() {
        let refused = Err(Status::INVALID_FIELD.do_not_retry());
        for bit in [24, 26, 27, 28, 29] {
            assert_eq!(parse(&command(io_opcode::READ, 0, 1 << bit), 4096), refused);
            assert_eq!(parse(&command(io_opcode::WRITE_ZEROES, 0, 1 << bit), 0), refused);
        }
        assert_eq!(parse(&command(io_opcode::WRITE, 0, 1 << 20), 4096), refused);
    }

    #[test]
    fn unknown_opcodes_are_refused_for_good() {
        let known = [0x00, 0x01, 0x02, 0x05, 0x08, 0x09];
        for opcode in (0..=255).filter(|opcode| !known.contains(opcode)) {
            assert_eq!(
                parse(&command(opcode, 0, 0), 4096),
                Err(Status::INVALID_OPCODE.do_not_retry())
            );
        }
    }

    #[test]
    fn flush_needs_no_range_and_may_address_every_namespace() {
        let mut entry = SubmissionEntry::new(io_opcode::FLUSH, 1);
        assert_eq!(parse(&entry, 0), Ok(IoRequest::Flush));
        assert!(NamespaceScope::of(&entry).is_err(), "NSID 0 is never valid");
        entry.set_nsid(NSID_ALL);
        assert_eq!(NamespaceScope::of(&entry), Ok(NamespaceScope::All));
        let mut read = command(io_opcode::READ, 0, 0);
        assert_eq!(NamespaceScope::of(&read), Ok(NamespaceScope::One(1)));
        read.set_nsid(NSID_ALL);
        let refused = Err(Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry());
        assert_eq!(NamespaceScope::of(&read), refused);
    }

    #[test]
    fn only_compare_first_and_write_second_may_be_fused() {
        for opcode in 0..=255 {
            for fuse in 0..4 {
                let mut entry = command(opcode, 0, 0);
                entry.set_fuse(fuse);
                let expected = match (fuse, opcode) {
                    (0, _) => FuseKind::None,
                    (1, io_opcode::COMPARE) => FuseKind::First,
                    (2, io_opcode::WRITE) => FuseKind::Second,
                    _ => FuseKind::Invalid,
                };
                assert_eq!(fuse_kind(&entry), expected);
                if expected == FuseKind::Invalid {
                    assert_eq!(parse(&entry, 4096), Err(Status::INVALID_FIELD.do_not_retry()));
                }
            }
        }
    }

    #[test]
    fn fused_pairs_name_the_same_blocks_within_acwu() {
        let mut compare = command(io_opcode::COMPARE, 5, 0);
        compare.set_fuse(1);
        let mut write = command(io_opcode::WRITE, 5, 0);
        write.set_fuse(2);
        let first = parse(&compare, 4096).unwrap();
        assert_eq!(first.check_fused_with(&parse(&write, 4096).unwrap()), Ok(()));
        write.set_qword(10, 6);
        let second = parse(&write, 4096).unwrap();
        assert_eq!(
            first.check_fused_with(&second),
            Err(Status::INVALID_FIELD.do_not_retry())
        );
        assert!(
            second.check_fused_with(&first).is_err(),
            "a write is never the first of the pair"
        );
        compare.set_dword(12, 1);
        assert_eq!(parse(&compare, 8192), Err(Status::INVALID_FIELD.do_not_retry()));
    }

    #[test]
    fn dataset_management_takes_the_4096_bytes_that_linux_always_sends() {
        let mut entry = SubmissionEntry::new(io_opcode::DATASET_MANAGEMENT, 1);
        entry.set_dword(10, 1);
        entry.set_dword(11, DSM_DEALLOCATE);
        let expected = IoRequest::DatasetManagement {
            ranges: 2,
            deallocate: true,
        };
        assert_eq!(parse(&entry, 4096), Ok(expected));
        assert_eq!(parse(&entry, 32), Ok(expected));
        for bytes in [0, 31, 4097] {
            assert_eq!(
                parse(&entry, bytes),
                Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry())
            );
        }
        entry.set_dword(10, 255);
        entry.set_dword(11, 3);
        let expected = IoRequest::DatasetManagement {
            ranges: 256,
            deallocate: false,
        };
        assert_eq!(parse(&entry, 4096), Ok(expected));
    }

    #[test]
    fn dataset_ranges_are_all_checked_before_the_first_is_used() {
        let mut data = [0; 4096];
        data[4] = 8;
        data[8] = 100;
        data[16 + 8..16 + 16].copy_from_slice(&992_u64.to_le_bytes());
        data[16 + 4] = 8;
        let ranges: Vec<_> = parse_dsm_ranges(&data, 2, &FORMAT).unwrap().collect();
        assert_eq!(
            ranges,
            [
                DsmRange { slba: 100, blocks: 8 },
                DsmRange { slba: 992, blocks: 8 }
            ]
        );
        data[16 + 4] = 9;
        let out = Status::LBA_OUT_OF_RANGE.do_not_retry();
        assert_eq!(parse_dsm_ranges(&data, 2, &FORMAT).err(), Some(out));
        let short = Status::DATA_SGL_LENGTH_INVALID.do_not_retry();
        assert_eq!(parse_dsm_ranges(&data[..31], 2, &FORMAT).err(), Some(short));
    }

    #[test]
    fn random_commands_never_panic_and_never_leave_the_namespace() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.rotate_left(29)
        };
        for _ in 0..200_000 {
            let mut bytes = [0; 64];
            for chunk in bytes.chunks_exact_mut(8) {
                chunk.copy_from_slice(&next().to_le_bytes());
            }
            bytes[0] &= 0x0f;
            bytes[1] &= 0x43;
            let mut entry = SubmissionEntry::parse(bytes);
            if next() & 1 == 0 {
                entry.set_qword(10, next() % 1100);
                entry.set_dword(12, entry.dword(12) & (0xff | FUA));
            }
            let transfer = ((entry.dword(12) & 0xffff) + 1) << 12;
            match parse(&entry, transfer) {
                Ok(IoRequest::Read { slba, blocks, .. } | IoRequest::Write { slba, blocks, .. })
                | Ok(IoRequest::Compare { slba, blocks } | IoRequest::WriteZeroes { slba, blocks, .. }) => {
                    assert!(slba < 1000 && slba + u64::from(blocks) <= 1000);
                }
                Ok(IoRequest::Flush | IoRequest::DatasetManagement { .. }) => {}
                Err(status) => assert!(status.is_do_not_retry()),
            }
        }
    }
}
