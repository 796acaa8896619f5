//! Reads a discovery log in pieces so that all of it is of one generation.
//!
//! Source: INTEROP.md, Discovery: header, entries in pieces of 4 KiB, header again; if the generation has
//! moved meanwhile then all over, up to 10 times.

use super::decode::{DiscoveryHeader, discovery_entries};
use super::{Action, Association, CID_STEP, DownReason, PAGE_BYTES, Purpose, Trouble, succeeded};
use crate::log::{DISCOVERY_ENTRY_BYTES, DiscoveryEntry, lid, log_command};
use crate::status::Status;

/// Readings of the whole log before the generation has to stand still.
const ATTEMPTS_MAX: u32 = 10;
/// Bytes of the header that are read, as many as libnvme reads.
const HEADER_BYTES: u32 = 20;
/// Bytes of an entry, as a length on the wire.
const ENTRY_BYTES: u32 = 1024;
const _: () = assert!(ENTRY_BYTES as usize == DISCOVERY_ENTRY_BYTES);

/// What is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Awaits {
    /// Nothing.
    #[default]
    Nothing,
    /// The header, before the entries.
    Header,
    /// Entries from `first` on, of a log with this header.
    Entries { header: DiscoveryHeader, first: u64 },
    /// The header once more.
    Check { header: DiscoveryHeader },
}

/// A reading of the discovery log.
#[derive(Debug, Default)]
pub(super) struct Discover {
    awaits: Awaits,
    attempts: u32,
    entries: Vec<DiscoveryEntry>,
    /// The log changed while it was being read.
    pub(super) again: bool,
}

impl Association {
    pub(super) fn start_discovery(&mut self, now_ns: u64, out: &mut Vec<Action>) -> Result<(), Trouble> {
        self.discover_first(now_ns, out);
        Ok(())
    }

    /// Starts to read the log.
    pub(super) fn discover_first(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.discover = Discover::default();
        self.read_header(now_ns, out);
    }

    fn read_header(&mut self, now_ns: u64, out: &mut Vec<Action>) {
        self.discover.entries.clear();
        self.discover.awaits = Awaits::Header;
        self.read_log(now_ns, 0, HEADER_BYTES, out);
    }

    pub(super) fn discover_step(
        &mut self,
        now_ns: u64,
        status: Status,
        data: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        succeeded(status)?;
        match std::mem::take(&mut self.discover.awaits) {
            Awaits::Nothing => panic!("a reading that is not under way has no command"),
            Awaits::Header => {
                let header = DiscoveryHeader::parse(data).ok_or(DownReason::ShortData)?;
                self.read_entries(now_ns, header, 0, out);
            }
            Awaits::Entries { header, first } => {
                let wanted = Self::entries_at_once(&header, first);
                let bytes = usize::try_from(wanted).unwrap_or(usize::MAX) * DISCOVERY_ENTRY_BYTES;
                let entries = data.get(..bytes).ok_or(DownReason::ShortData)?;
                self.discover.entries.extend(discovery_entries(entries));
                self.read_entries(now_ns, header, first + wanted, out);
            }
            Awaits::Check { header } => {
                let now_header = DiscoveryHeader::parse(data).ok_or(DownReason::ShortData)?;
                return self.finish_reading(now_ns, header, now_header, out);
            }
        }
        Ok(())
    }

    /// Entries that the next command reads: four, or what is left.
    fn entries_at_once(header: &DiscoveryHeader, first: u64) -> u64 {
        (header.records - first).min(u64::from(PAGE_BYTES / ENTRY_BYTES))
    }

    /// Reads entries from `first` on, or the header again after the last.
    fn read_entries(&mut self, now_ns: u64, header: DiscoveryHeader, first: u64, out: &mut Vec<Action>) {
        if first < header.records {
            let wanted = Self::entries_at_once(&header, first);
            let length_bytes = u32::try_from(wanted).expect("four at most") * ENTRY_BYTES;
            self.discover.awaits = Awaits::Entries { header, first };
            // The header takes as much room as an entry.
            self.read_log(now_ns, (first + 1) * u64::from(ENTRY_BYTES), length_bytes, out);
        } else {
            self.discover.awaits = Awaits::Check { header };
            self.read_log(now_ns, 0, HEADER_BYTES, out);
        }
    }

    fn finish_reading(
        &mut self,
        now_ns: u64,
        header: DiscoveryHeader,
        now_header: DiscoveryHeader,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        self.discover.attempts += 1;
        if header == now_header && !self.discover.again {
            out.push(Action::Discovered {
                generation: header.generation,
                entries: std::mem::take(&mut self.discover.entries),
            });
            return Ok(());
        }
        if self.discover.attempts >= ATTEMPTS_MAX {
            return Err(DownReason::LogUnstable.into());
        }
        self.discover.again = false;
        self.read_header(now_ns, out);
        Ok(())
    }

    fn read_log(&mut self, now_ns: u64, offset: u64, length_bytes: u32, out: &mut Vec<Action>) {
        let read = log_command(CID_STEP, lid::DISCOVERY, offset, length_bytes);
        self.submit(
            now_ns,
            CID_STEP,
            Purpose::Discover,
            read,
            Vec::new(),
            length_bytes,
            out,
        );
    }
}
