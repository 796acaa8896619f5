//! Log pages: what Get Log Page asks and what the pages look like.
//!
//! Offsets were compared with libnvme's `src/nvme/types.h`.
//!
//! Every encoder returns a whole page; cutting out what the host asked for is [`LogRequest::cut`].

use std::collections::VecDeque;

use crate::command::{SubmissionEntry, admin_opcode, io_opcode};
use crate::identify::{ACCESS_GROUP, ERROR_LOG_LIMIT};
use crate::nqn::{Nqn, NqnError};
use crate::status::Status;
use crate::subsystem::NAMESPACES_MAX;

/// Log page identifiers.
///
/// Source: NVM Express Base Specification 2.0, Get Log Page: Log Page Identifiers.
pub mod lid {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const SUPPORTED_PAGES: u8 = 0x00;
    pub const ERROR: u8 = 0x01;
    pub const SMART: u8 = 0x02;
    pub const FIRMWARE_SLOT: u8 = 0x03;
    pub const CHANGED_NAMESPACES: u8 = 0x04;
    pub const EFFECTS: u8 = 0x05;
    pub const ASYMMETRIC_ACCESS: u8 = 0x0c;
    pub const FEATURE_EFFECTS: u8 = 0x12;
    pub const MI_EFFECTS: u8 = 0x13;
    pub const CROSS_CONTROLLER_RESET: u8 = 0x1e;
    pub const DISCOVERY: u8 = 0x70;
    pub const RESERVATION: u8 = 0x80;
    /// Vendor specific: see [`super::instance`].
    pub const INSTANCE: u8 = 0xc0;
}

/// The fields of a Get Log Page command.
///
/// Source: NVM Express Base Specification 2.0, Get Log Page, command dwords 10 to 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRequest {
    /// Log page identifier.
    pub lid: u8,
    /// LSP: what else the page is asked for.
    pub specific: u8,
    /// RAE: do not clear the asynchronous event that the page belongs to.
    pub retain_event: bool,
    /// First byte asked for, a multiple of 4.
    pub offset: u64,
    /// Bytes asked for, at least 4.
    pub length_bytes: u64,
}

impl LogRequest {
    /// Reads a Get Log Page command. Errs for offsets off a dword boundary and for what we do not have:
    /// index offsets, other command sets.
    pub fn parse(entry: &SubmissionEntry) -> Result<Self, Status> {
        let (dword10, dword11, dword14) = (entry.dword(10), entry.dword(11), entry.dword(14));
        let offset = entry.qword(12);
        let index_offset = dword14 & 1 << 23 != 0;
        let command_set = dword14 >> 24;
        if offset & 3 != 0 || index_offset || command_set != 0 {
            return Err(Status::INVALID_FIELD.do_not_retry());
        }
        let dwords = u64::from(dword10 >> 16 | (dword11 & 0xffff) << 16) + 1;
        Ok(Self {
            lid: (dword10 & 0xff) as u8,
            specific: (dword10 >> 8 & 0x7f) as u8,
            retain_event: dword10 & 1 << 15 != 0,
            offset,
            length_bytes: dwords * 4,
        })
    }

    /// Cuts what was asked for out of a page; shorter than asked for if the page ends before.
    ///
    /// Errs if the request starts past the end of the page.
    pub fn cut(&self, page: &[u8]) -> Result<Vec<u8>, Status> {
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let rest = page.get(start..).ok_or(Status::INVALID_FIELD.do_not_retry())?;
        let length = usize::try_from(self.length_bytes).unwrap_or(usize::MAX);
        Ok(rest[..rest.len().min(length)].to_vec())
    }
}

/// Builds a Get Log Page command; the data pointer is left to the transport.
///
/// Panics if `length_bytes` is 0 or either number is no multiple of 4.
pub fn log_command(cid: u16, page: u8, offset: u64, length_bytes: u32) -> SubmissionEntry {
    assert!(
        length_bytes > 0 && length_bytes.is_multiple_of(4),
        "lengths are counted in dwords"
    );
    assert!(offset.is_multiple_of(4), "offsets are counted in dwords");
    let dwords = length_bytes / 4 - 1;
    let mut entry = SubmissionEntry::new(admin_opcode::GET_LOG_PAGE, cid);
    entry.set_dword(10, u32::from(page) | (dwords & 0xffff) << 16);
    entry.set_dword(11, dwords >> 16);
    entry.set_qword(12, offset);
    entry
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}

/// One failed command in the error log.
///
/// Source: NVM Express Base Specification 2.0, Error Information Log Entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorEntry {
    /// Number of this error since the controller came up, from 1.
    pub count: u64,
    /// Submission queue.
    pub sqid: u16,
    /// Command identifier.
    pub cid: u16,
    /// How it failed.
    pub status: Status,
    /// First block that failed, 0 where blocks do not matter.
    pub lba: u64,
    /// Namespace, 0 if none.
    pub nsid: u32,
}

/// Bytes of one entry of the error log.
const ERROR_ENTRY_BYTES: usize = 64;
/// Entries of the error log, which at 40 bytes each come to 2.5 KiB per controller.
const ERRORS_MAX: usize = ERROR_LOG_LIMIT as usize + 1;

/// The newest errors of one controller.
#[derive(Clone, Debug, Default)]
pub struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    /// Notes an error; the oldest makes way. `entry.count` is filled in here.
    pub fn push(&mut self, mut entry: ErrorEntry) {
        self.count += 1;
        entry.count = self.count;
        self.entries.truncate(ERRORS_MAX - 1);
        self.entries.push_front(entry);
        assert!(self.entries.len() <= ERRORS_MAX, "the log is bounded");
    }

    /// Errors since the controller came up.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Error Information (LID 01h), newest first; entries of zeroes are empty.
    pub fn encode(&self) -> Vec<u8> {
        let mut page = vec![0; ERRORS_MAX * ERROR_ENTRY_BYTES];
        for (entry, bytes) in self.entries.iter().zip(page.chunks_exact_mut(ERROR_ENTRY_BYTES)) {
            put(bytes, 0, &entry.count.to_le_bytes());
            put(bytes, 8, &entry.sqid.to_le_bytes());
            put(bytes, 10, &entry.cid.to_le_bytes());
            put(bytes, 12, &(entry.status.wire() << 1).to_le_bytes());
            put(bytes, 14, &0xffff_u16.to_le_bytes()); // No particular parameter.
            put(bytes, 16, &entry.lba.to_le_bytes());
            put(bytes, 24, &entry.nsid.to_le_bytes());
        }
        page
    }
}

/// How the subsystem is, as the runtime measures it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Critical Warning: bit 0 spare low, 1 temperature, 2 reliability degraded, 3 read only, 4 backup failed.
    pub critical_warning: u8,
    /// Composite temperature in kelvin.
    pub temperature_k: u16,
    /// Spare capacity left in percent.
    pub available_spare: u8,
    /// Threshold for it in percent.
    pub available_spare_threshold: u8,
    /// Estimate of the life used up in percent; may be above 100.
    pub percentage_used: u8,
    /// Data read by hosts in units of 512,000 bytes, rounded up.
    pub data_units_read: u128,
    /// Data written by hosts in units of 512,000 bytes, rounded up.
    pub data_units_written: u128,
    /// Read and Compare commands.
    pub read_commands: u128,
    /// Write commands.
    pub write_commands: u128,
    /// Minutes with commands in flight.
    pub busy_minutes: u128,
    /// Starts.
    pub power_cycles: u128,
    /// Hours since the first start.
    pub power_on_hours: u128,
    /// Starts that no shutdown went before.
    pub unsafe_shutdowns: u128,
    /// Reads whose data could not be had.
    pub media_errors: u128,
}

impl Default for Health {
    /// A healthy subsystem at 300 K.
    fn default() -> Self {
        Self {
            critical_warning: 0,
            temperature_k: 300,
            available_spare: 100,
            available_spare_threshold: 10,
            percentage_used: 0,
            data_units_read: 0,
            data_units_written: 0,
            read_commands: 0,
            write_commands: 0,
            busy_minutes: 0,
            power_cycles: 0,
            power_on_hours: 0,
            unsafe_shutdowns: 0,
            media_errors: 0,
        }
    }
}

impl Health {
    /// SMART / Health Information (LID 02h).
    ///
    /// Source: NVM Express Base Specification 2.0, SMART / Health Information log page.
    pub fn encode(&self, errors: u64) -> Vec<u8> {
        let mut page = vec![0; 512];
        page[0] = self.critical_warning;
        put(&mut page, 1, &self.temperature_k.to_le_bytes());
        page[3] = self.available_spare;
        page[4] = self.available_spare_threshold;
        page[5] = self.percentage_used;
        let counters = [
            self.data_units_read,
            self.data_units_written,
            self.read_commands,
            self.write_commands,
            self.busy_minutes,
            self.power_cycles,
            self.power_on_hours,
            self.unsafe_shutdowns,
            self.media_errors,
            u128::from(errors),
        ];
        for (index, counter) in counters.into_iter().enumerate() {
            put(&mut page, 32 + index * 16, &counter.to_le_bytes());
        }
        page
    }
}

/// Firmware Slot Information (LID 03h): slot 1 is active and the only one.
///
/// Source: NVM Express Base Specification 2.0, Firmware Slot Information log page.
pub fn firmware_slots(firmware: &str) -> Vec<u8> {
    let mut page = vec![0; 512];
    page[0] = 1;
    page[8..16].fill(b' ');
    let bytes = firmware.as_bytes();
    put(&mut page, 8, &bytes[..bytes.len().min(8)]);
    page
}

/// Most namespaces in the changed list; when more changed, it says "all" instead.
pub const CHANGED_NAMESPACES_MAX: usize = 1024;

/// Changed Namespace List (LID 04h). `None`: more changed than the list can hold.
///
/// Source: NVM Express Base Specification 2.0, Changed Namespace List log page.
pub fn changed_namespaces(nsids: Option<&[u32]>) -> Vec<u8> {
    let mut page = vec![0; CHANGED_NAMESPACES_MAX * 4];
    for (slot, nsid) in page.chunks_exact_mut(4).zip(nsids.unwrap_or(&[u32::MAX])) {
        slot.copy_from_slice(&nsid.to_le_bytes());
    }
    page
}

/// Commands Supported and Effects (LID 05h).
///
/// Source: NVM Express Base Specification 2.0, Commands Supported and Effects log page.
pub fn command_effects() -> Vec<u8> {
    const SUPPORTED: u8 = 1;
    const CHANGES_BLOCKS: u8 = 1 << 1;
    let mut page = vec![0; 4096];
    for opcode in [
        admin_opcode::GET_LOG_PAGE,
        admin_opcode::IDENTIFY,
        admin_opcode::ABORT,
        admin_opcode::SET_FEATURES,
        admin_opcode::GET_FEATURES,
        admin_opcode::ASYNC_EVENT_REQUEST,
        admin_opcode::KEEP_ALIVE,
        admin_opcode::CROSS_CONTROLLER_RESET,
        admin_opcode::FABRICS,
        admin_opcode::ADMISSION,
    ] {
        page[usize::from(opcode) * 4] = SUPPORTED;
    }
    for opcode in [
        io_opcode::FLUSH,
        io_opcode::READ,
        io_opcode::COMPARE,
        io_opcode::RESERVATION_REGISTER,
        io_opcode::RESERVATION_REPORT,
        io_opcode::RESERVATION_ACQUIRE,
        io_opcode::RESERVATION_RELEASE,
    ] {
        page[1024 + usize::from(opcode) * 4] = SUPPORTED;
    }
    for opcode in [
        io_opcode::WRITE,
        io_opcode::WRITE_ZEROES,
        io_opcode::DATASET_MANAGEMENT,
    ] {
        page[1024 + usize::from(opcode) * 4] = SUPPORTED | CHANGES_BLOCKS;
    }
    page
}

/// LSP of the Asymmetric Namespace Access log: groups without their namespaces (RGO).
pub const ACCESS_GROUPS_ONLY: u8 = 1;

/// Asymmetric Namespace Access (LID 0Ch): one group, optimized, with all namespaces; nodes serve what they have or are no path at all.
/// `changes` counts changes of the page. It is as long as the kernel asks for, which is room for every NSID.
///
/// Source: NVM Express Base Specification 2.0, Asymmetric Namespace Access log page.
pub fn asymmetric_access(changes: u64, nsids: impl ExactSizeIterator<Item = u32>) -> Vec<u8> {
    const GROUP: usize = 16;
    const OPTIMIZED: u8 = 1;
    let mut page = vec![0; GROUP + 32 + NAMESPACES_MAX as usize * 4];
    put(&mut page, 0, &changes.to_le_bytes());
    put(&mut page, 8, &1_u16.to_le_bytes()); // Groups.
    put(&mut page, GROUP, &ACCESS_GROUP.to_le_bytes());
    let count = u32::try_from(nsids.len()).expect("namespaces have numbers of 32 bits");
    put(&mut page, GROUP + 4, &count.to_le_bytes());
    put(&mut page, GROUP + 8, &changes.to_le_bytes());
    put(&mut page, GROUP + 16, &[OPTIMIZED]);
    for (slot, nsid) in page[GROUP + 32..].chunks_exact_mut(4).zip(nsids) {
        slot.copy_from_slice(&nsid.to_le_bytes());
    }
    page
}

/// A page of 256 dwords with bit 0 set for each of `identifiers`: Supported Log Pages (LID 00h), Feature
/// Identifiers Supported and Effects (LID 12h), NVMe-MI Commands Supported and Effects (LID 13h).
///
/// Source: NVM Express Base Specification 2.0, Supported Log Pages, Feature Identifiers
/// Supported and Effects, NVMe-MI Commands Supported and Effects.
pub fn supported(identifiers: &[u8]) -> Vec<u8> {
    let mut page = vec![0; 1024];
    for &identifier in identifiers {
        page[usize::from(identifier) * 4] = 1;
    }
    page
}

/// Bytes of the page that names the start of a target.
pub const INSTANCE_BYTES: usize = 64;

/// Names the start of the target's process (LID C0h, vendor specific): bytes 15:0 are random numbers that were drawn at the start, the
/// same for all controllers; the others are 0. Who finds another instance knows that writes which were not flushed may be gone, and has
/// to look at the reservations again (PROTOCOL H04, H31).
pub fn instance(instance: [u8; 16]) -> Vec<u8> {
    let mut page = vec![0; INSTANCE_BYTES];
    put(&mut page, 0, &instance);
    page
}

/// Most entries of the Cross-Controller Reset log.
pub const CROSS_RESETS_MAX: usize = 511;
/// LSP of the Cross-Controller Reset log: entries that are through are removed after they were read (RMC).
pub const CROSS_RESETS_REMOVE: u8 = 1;

/// How far a Cross-Controller Reset is (CCRS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrossResetStage {
    /// 0: under way.
    InProgress,
    /// 1: nothing of the other controller is under way any more.
    Succeeded,
    /// 2: the other controller could not be reset.
    Failed,
}

/// One entry of the Cross-Controller Reset log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossResetEntry {
    /// The controller that is reset (ICID).
    pub cntlid: u16,
    /// Its instance (CIU).
    pub instance: u8,
    /// The controller that was asked (ACID).
    pub asked: u16,
    /// How far it is.
    pub stage: CrossResetStage,
    /// Whether it is known to be the host's controller, and to be ended.
    pub is_begun: bool,
}

/// Cross-Controller Reset (LID 1Eh): number of entries, then the entries.
///
/// The count has two bytes and six are reserved; an entry is ICID, CIU, a reserved byte, ACID, CCRS and CCRF.
///
/// Source: NVM Express Base Specification 2.3, section 5.2.12.3.1, figures 304 and 305, after a review of nvme-cli 3 that quotes both.
pub fn cross_resets(entries: &[CrossResetEntry]) -> Vec<u8> {
    const ENTRY_BYTES: usize = 8;
    let mut page = vec![0; ENTRY_BYTES * (1 + CROSS_RESETS_MAX)];
    let count = u16::try_from(entries.len()).expect("entries are bounded");
    put(&mut page, 0, &count.to_le_bytes());
    for (entry, bytes) in entries
        .iter()
        .zip(page[ENTRY_BYTES..].chunks_exact_mut(ENTRY_BYTES))
    {
        put(bytes, 0, &entry.cntlid.to_le_bytes());
        bytes[2] = entry.instance;
        put(bytes, 4, &entry.asked.to_le_bytes());
        bytes[6] = match entry.stage {
            CrossResetStage::InProgress => 0,
            CrossResetStage::Succeeded => 1,
            CrossResetStage::Failed => 2,
        };
        bytes[7] = 0b11 * u8::from(entry.is_begun); // CCRF: validated and initiated.
    }
    page
}

/// How far the reset of a controller's instance is, after a page of [`cross_resets`]; `None` if it is not listed.
pub fn cross_reset_stage(page: &[u8], cntlid: u16, instance: u8) -> Option<CrossResetStage> {
    let (entries, _) = page.as_chunks::<8>();
    let (head, entries) = entries.split_first()?;
    let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let [low, high] = cntlid.to_le_bytes();
    let meant = [low, high, instance];
    let entry = entries.iter().take(count).find(|entry| entry[..3] == meant)?;
    match entry[6] {
        0 => Some(CrossResetStage::InProgress),
        1 => Some(CrossResetStage::Succeeded),
        2 => Some(CrossResetStage::Failed),
        _ => None,
    }
}

/// Bytes of the header of the discovery log and of each entry.
pub const DISCOVERY_ENTRY_BYTES: usize = 1024;

/// What kind of subsystem an entry of the discovery log names (SUBTYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubsystemType {
    /// Another discovery subsystem.
    Referral,
    /// An NVM subsystem.
    Nvm,
    /// The discovery subsystem that is being asked.
    CurrentDiscovery,
}

/// One way to reach one subsystem.
///
/// Source: NVM Express Base Specification 2.0, Discovery Log Page Entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryEntry {
    /// TRTYPE: 1 RDMA, 3 TCP.
    pub trtype: u8,
    /// ADRFAM: 1 IPv4, 2 IPv6.
    pub adrfam: u8,
    /// What kind of subsystem it is.
    pub subtype: SubsystemType,
    /// PORTID.
    pub port: u16,
    /// ASQSZ: entries that an admin queue may have.
    pub admin_entries_max: u16,
    /// EFLAGS, see [`DiscoveryEntry::DUPRETINFO`].
    pub eflags: u16,
    /// TRSVCID: the TCP or RDMA port as text, up to 31 bytes.
    pub service: String,
    /// Name of the subsystem.
    pub subnqn: Nqn,
    /// TRADDR: the address as text, up to 255 bytes.
    pub address: String,
}

impl DiscoveryEntry {
    /// EFLAGS: any entry with this flag returns the same information.
    pub const DUPRETINFO: u16 = 1;
    /// EFLAGS: the discovery subsystem welcomes persistent connections (EPCSD).
    pub const EPCSD: u16 = 1 << 1;
    /// TRTYPE of RDMA.
    pub const TRTYPE_RDMA: u8 = 1;
    /// TRTYPE of TCP.
    pub const TRTYPE_TCP: u8 = 3;

    /// The entry for the wire; text that does not fit is cut, its last byte is always a zero.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; DISCOVERY_ENTRY_BYTES];
        bytes[0] = self.trtype;
        bytes[1] = self.adrfam;
        bytes[2] = match self.subtype {
            SubsystemType::Referral => 1,
            SubsystemType::Nvm => 2,
            SubsystemType::CurrentDiscovery => 3,
        };
        bytes[3] = if self.trtype == Self::TRTYPE_TCP {
            1 << 2
        } else {
            0
        }; // TREQ: flow control may be off.
        put(&mut bytes, 4, &self.port.to_le_bytes());
        put(&mut bytes, 6, &0xffff_u16.to_le_bytes()); // CNTLID: dynamic controllers.
        put(&mut bytes, 8, &self.admin_entries_max.to_le_bytes());
        put(&mut bytes, 10, &self.eflags.to_le_bytes());
        let service = self.service.as_bytes();
        put(&mut bytes, 32, &service[..service.len().min(31)]);
        put(&mut bytes, 256, &self.subnqn.to_field());
        let address = self.address.as_bytes();
        put(&mut bytes, 512, &address[..address.len().min(255)]);
        if self.trtype == Self::TRTYPE_RDMA {
            put(&mut bytes, 768, &[1, 1, 1]); // TSAS: connected, no provider named, RDMA-CM.
        }
        bytes
    }

    /// Reads an entry. Errs if it is short, names an unknown subsystem type or holds malformed text.
    pub fn parse(bytes: &[u8]) -> Result<Self, DiscoveryEntryError> {
        if bytes.len() < DISCOVERY_ENTRY_BYTES {
            return Err(DiscoveryEntryError::Length { bytes: bytes.len() });
        }
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let subtype = match bytes[2] {
            1 => SubsystemType::Referral,
            2 => SubsystemType::Nvm,
            3 => SubsystemType::CurrentDiscovery,
            value => return Err(DiscoveryEntryError::Subtype { value }),
        };
        Ok(Self {
            trtype: bytes[0],
            adrfam: bytes[1],
            subtype,
            port: word(4),
            admin_entries_max: word(8),
            eflags: word(10),
            service: text(&bytes[32..64])?,
            subnqn: Nqn::from_field(&bytes[256..512])?,
            address: text(&bytes[512..768])?,
        })
    }
}

/// Text of a field that ends with a zero or, as some targets do, with spaces.
fn text(field: &[u8]) -> Result<String, DiscoveryEntryError> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).map_err(|_| DiscoveryEntryError::Text)?;
    Ok(text.trim_end().to_owned())
}

/// Why an entry of a discovery log is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryEntryError {
    /// Too few bytes.
    #[error("a discovery log entry has {DISCOVERY_ENTRY_BYTES} bytes, this one {bytes}")]
    Length {
        /// Bytes that came.
        bytes: usize,
    },
    /// Unknown SUBTYPE.
    #[error("unknown subsystem type {value}")]
    Subtype {
        /// What it says.
        value: u8,
    },
    /// Address or service is no UTF-8 text.
    #[error("address or service is no text")]
    Text,
    /// Malformed subsystem name.
    #[error("subsystem name: {0}")]
    Nqn(#[from] NqnError),
}

/// Discovery (LID 70h): header with generation counter and record count, then the entries.
///
/// Source: NVM Express Base Specification 2.0, Discovery Log Page.
pub fn discovery(generation: u64, entries: &[DiscoveryEntry]) -> Vec<u8> {
    let mut page = vec![0; DISCOVERY_ENTRY_BYTES];
    put(&mut page, 0, &generation.to_le_bytes());
    let records = u64::try_from(entries.len()).expect("a count of entries fits 64 bits");
    put(&mut page, 8, &records.to_le_bytes());
    for entry in entries {
        page.extend_from_slice(&entry.encode());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_a_round_trip_with_large_lengths_and_offsets() {
        let mut entry = log_command(1, lid::DISCOVERY, 1 << 33, 0x0004_0008);
        let request = LogRequest::parse(&entry).unwrap();
        let expected = LogRequest {
            lid: 0x70,
            specific: 0,
            retain_event: false,
            offset: 1 << 33,
            length_bytes: 0x0004_0008,
        };
        assert_eq!(request, expected);
        entry.set_dword(10, entry.dword(10) | 1 << 15);
        assert!(LogRequest::parse(&entry).unwrap().retain_event);
        entry.set_qword(12, 2);
        assert!(LogRequest::parse(&entry).is_err(), "offsets are multiples of 4");
        entry.set_qword(12, 0);
        entry.set_dword(14, 1 << 23);
        assert!(
            LogRequest::parse(&entry).is_err(),
            "index offsets are not supported"
        );
    }

    #[test]
    fn a_cut_ends_where_the_page_does() {
        let page: Vec<u8> = (0..=255).collect();
        let cut = |offset, length_bytes| {
            LogRequest {
                lid: 0,
                specific: 0,
                retain_event: false,
                offset,
                length_bytes,
            }
            .cut(&page)
        };
        assert_eq!(cut(4, 8), Ok((4..12).collect()));
        assert_eq!(cut(252, 1 << 34), Ok((252..=255).collect()));
        assert_eq!(cut(256, 4), Ok(Vec::new()));
        assert!(cut(260, 4).is_err() && cut(u64::MAX - 3, 4).is_err());
    }

    #[test]
    fn the_error_log_keeps_the_newest_first_and_is_bounded() {
        let mut log = ErrorLog::default();
        for cid in 0..200 {
            log.push(ErrorEntry {
                count: 0,
                sqid: 3,
                cid,
                status: Status::COMPARE_FAILURE,
                lba: 7,
                nsid: 1,
            });
        }
        let page = log.encode();
        assert_eq!((log.count(), page.len()), (200, 4096));
        assert_eq!((page[0], page[8], page[10], page[64 * 63]), (200, 3, 199, 137));
        assert_eq!(u16::from_le_bytes([page[12], page[13]]), 0x0285 << 1);
    }

    #[test]
    fn smart_counters_stand_where_the_specification_puts_them() {
        let health = Health {
            data_units_written: 5,
            media_errors: 9,
            ..Health::default()
        };
        let page = health.encode(11);
        assert_eq!((page.len(), page[1], page[2], page[3]), (512, 44, 1, 100));
        assert_eq!((page[48], page[160], page[176]), (5, 9, 11));
    }

    #[test]
    fn an_overflowing_changed_list_says_all() {
        assert_eq!(
            changed_namespaces(Some(&[3, 9]))[..12],
            [3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(changed_namespaces(None)[..8], [255, 255, 255, 255, 0, 0, 0, 0]);
        assert_eq!(changed_namespaces(None).len(), 4096);
    }

    #[test]
    fn effects_name_what_is_supported() {
        let page = command_effects();
        assert_eq!((page[0x06 * 4], page[0x80 * 4], page[0x7f * 4]), (1, 0, 1));
        assert_eq!((page[1024 + 4], page[1024 + 8], page[1024 + 0x0c * 4]), (3, 1, 0));
        assert_eq!(supported(&[0, 0x70])[0x70 * 4], 1);
        assert_eq!(firmware_slots("1.0")[..16], *b"\x01\0\0\0\0\0\0\x001.0     ");
    }

    #[test]
    fn discovery_entries_survive_a_round_trip() {
        let entry = DiscoveryEntry {
            trtype: DiscoveryEntry::TRTYPE_TCP,
            adrfam: 1,
            subtype: SubsystemType::Nvm,
            port: 7,
            admin_entries_max: 32,
            eflags: 0,
            service: "4420".into(),
            subnqn: Nqn::parse("nqn.2026-01.io.braid:a").unwrap(),
            address: "10.0.2.2".into(),
        };
        let page = discovery(5, std::slice::from_ref(&entry));
        assert_eq!((page.len(), page[0], page[8]), (2048, 5, 1));
        assert_eq!(DiscoveryEntry::parse(&page[1024..]), Ok(entry.clone()));
        assert!(DiscoveryEntry::parse(&page[1025..]).is_err());
        let mut bytes = entry.encode();
        bytes[2] = 9;
        assert_eq!(
            DiscoveryEntry::parse(&bytes),
            Err(DiscoveryEntryError::Subtype { value: 9 })
        );
        bytes[2] = 2;
        bytes[512] = 0xff;
        assert_eq!(DiscoveryEntry::parse(&bytes), Err(DiscoveryEntryError::Text));
    }
}
