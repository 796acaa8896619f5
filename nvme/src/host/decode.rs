//! What a host needs of Identify structures and log pages, read from their bytes.

use crate::identify::IDENTIFY_BYTES;
use crate::log::{DISCOVERY_ENTRY_BYTES, DiscoveryEntry};

/// One page of Identify data.
pub(super) type Page = [u8; IDENTIFY_BYTES];

/// Records of a discovery log that are read at most: 1 MiB of log, far more than any fabric advertises.
pub(super) const DISCOVERY_RECORDS_MAX: u64 = 1024;

/// What Identify Controller says, as far as a host acts on it.
///
/// Source: NVM Express Base Specification 2.0, figure 275 (Identify Controller Data Structure); 2.3, figure 328, for CIU, CIRN and CCRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Controller {
    pub cntlid: u16,
    /// MDTS, a power of two in units of the smallest page; 0 is no limit.
    pub transfer_shift: u8,
    /// OAES.
    pub events: u32,
    /// KAS, in units of 100 ms.
    pub keep_alive_granularity: u16,
    pub maxcmd: u16,
    pub oncs: u16,
    pub fuses: u16,
    pub volatile_write_cache: bool,
    pub sgls: u32,
    /// IOCCSZ, in units of 16 bytes.
    pub command_units: u32,
    /// IORCSZ, in units of 16 bytes.
    pub response_units: u32,
    pub icdoff: u16,
    /// CIU; 0 for a controller without.
    pub instance: u8,
    /// CIRN.
    pub instance_random: u64,
    /// CCRL: Cross-Controller Resets at a time; 0 for a controller without that command.
    pub reset_limit: u8,
}

impl Controller {
    pub(super) fn parse(page: &Page) -> Self {
        Self {
            cntlid: short(page, 78),
            transfer_shift: page[77],
            events: long(page, 92),
            keep_alive_granularity: short(page, 320),
            maxcmd: short(page, 514),
            oncs: short(page, 520),
            fuses: short(page, 522),
            volatile_write_cache: page[525] & 1 != 0,
            sgls: long(page, 536),
            command_units: long(page, 1792),
            response_units: long(page, 1796),
            icdoff: short(page, 1800),
            instance: page[135],
            instance_random: wide(page, 136),
            reset_limit: page[1807],
        }
    }
}

/// What a host acts on of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Namespace {
    pub blocks: u64,
    pub block_bytes: u32,
    pub nguid: [u8; 16],
    pub uuid: [u8; 16],
}

impl Namespace {
    /// Reads Identify Namespace. `None`: it is inactive, or has blocks that we cannot use (metadata, or
    /// a size that is not 512 bytes to 64 KiB).
    ///
    /// Source: NVM Command Set Specification 1.0, figure 97 (NSZE, FLBAS, LBAF, NGUID).
    pub(super) fn parse(page: &Page) -> Option<Self> {
        let blocks = wide(page, 0);
        // FLBAS bits 3:0 and, for more than 16 formats, bits 6:5.
        let format = usize::from(page[26] & 0xf) | usize::from(page[26] >> 5 & 3) << 4;
        let lba_format = long(page, 128 + format * 4);
        let metadata_bytes = lba_format & 0xffff;
        let shift = lba_format >> 16 & 0xff;
        if blocks == 0 || metadata_bytes != 0 || !(9..=16).contains(&shift) {
            return None;
        }
        let mut nguid = [0; 16];
        nguid.copy_from_slice(&page[104..120]);
        Some(Self {
            blocks,
            block_bytes: 1 << shift,
            nguid,
            uuid: [0; 16],
        })
    }

    /// Adds the identifiers of a Namespace Identification Descriptor list.
    ///
    /// Source: NVM Express Base Specification 2.0, figure 277 (Namespace Identification Descriptor).
    pub(super) fn add_descriptors(&mut self, page: &Page) {
        const NGUID: u8 = 2;
        const UUID: u8 = 3;
        let mut rest = &page[..];
        // Ends: each turn takes at least a header of 4 bytes.
        while let Some((&[kind, length, _, _], tail)) = rest.split_first_chunk::<4>() {
            let length = usize::from(length);
            if length == 0 || length > tail.len() {
                return;
            }
            let (value, tail) = tail.split_at(length);
            rest = tail;
            if let Ok(value) = <[u8; 16]>::try_from(value) {
                match kind {
                    NGUID => self.nguid = value,
                    UUID => self.uuid = value,
                    _ => {}
                }
            }
        }
    }
}

/// The NSIDs of an active namespace list: they ascend and a zero ends them.
pub(super) fn namespace_list(page: &Page, after: u32) -> Vec<u32> {
    let mut last = after;
    let mut nsids = Vec::new();
    for word in page.as_chunks::<4>().0 {
        let nsid = u32::from_le_bytes(*word);
        if nsid <= last {
            break;
        }
        last = nsid;
        nsids.push(nsid);
    }
    nsids
}

/// The header of a discovery log.
///
/// Source: NVM Express Base Specification 2.0, figure 263 (Discovery Log Page).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiscoveryHeader {
    pub generation: u64,
    /// NUMREC, cut to [`DISCOVERY_RECORDS_MAX`].
    pub records: u64,
}

impl DiscoveryHeader {
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let head: &[u8; 16] = data.first_chunk()?;
        Some(Self {
            generation: wide(head, 0),
            records: wide(head, 8).min(DISCOVERY_RECORDS_MAX),
        })
    }
}

/// Reads whole entries; those that make no sense to us are left out.
pub(super) fn discovery_entries(data: &[u8]) -> Vec<DiscoveryEntry> {
    let whole = data.as_chunks::<DISCOVERY_ENTRY_BYTES>().0;
    whole
        .iter()
        .filter_map(|bytes| DiscoveryEntry::parse(bytes).ok())
        .collect()
}

fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(short(bytes, at)) | u32::from(short(bytes, at + 2)) << 16
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    u64::from(long(bytes, at)) | u64::from(long(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_lists_of_any_bytes_end() {
        for kind in 0..=255 {
            for length in 0..=255 {
                let mut page = [kind; IDENTIFY_BYTES];
                page[1] = length;
                let mut namespace = Namespace {
                    blocks: 1,
                    block_bytes: 512,
                    nguid: [0; 16],
                    uuid: [0; 16],
                };
                namespace.add_descriptors(&page);
                assert_eq!(namespace.blocks, 1);
            }
        }
    }

    #[test]
    fn namespaces_without_blocks_or_with_metadata_are_left_out() {
        let mut page = [0; IDENTIFY_BYTES];
        page[130] = 12;
        assert_eq!(Namespace::parse(&page), None, "no blocks");
        page[0] = 8;
        assert_eq!(Namespace::parse(&page).unwrap().block_bytes, 4096);
        page[128] = 8;
        assert_eq!(Namespace::parse(&page), None, "metadata");
        page[128] = 0;
        page[130] = 40;
        assert_eq!(Namespace::parse(&page), None, "blocks of a terabyte");
        page[26] = 0xff;
        assert_eq!(Namespace::parse(&page), None, "a format that is not there");
    }

    #[test]
    fn namespace_lists_ascend_and_end_at_zero() {
        let mut page = [0; IDENTIFY_BYTES];
        for (index, nsid) in [3, 7, 9, 9, 10].into_iter().enumerate() {
            page[index * 4] = nsid;
        }
        assert_eq!(namespace_list(&page, 2), [3, 7, 9]);
        assert_eq!(namespace_list(&page, 3), []);
    }
}
