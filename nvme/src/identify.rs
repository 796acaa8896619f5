//! Data structures of the Identify command, built from facts.
//!
//! Offsets were compared with `struct nvme_id_ctrl` and its neighbours in libnvme's `src/nvme/types.h`, except
//! CIU and CIRN, which it does not have yet.
//!
//! Every function here returns the 4,096 bytes that Identify moves. Which structure to build for whom is the
//! subsystem's to decide.

use crate::access::{ACCESS_GROUPS_MAX, Access};
use crate::fabrics::VERSION;
use crate::io::NamespaceFormat;
use crate::nqn::Nqn;
use crate::reservation::wire::{CAPABILITIES, CAPABILITY_PERSISTS};

/// Bytes of every Identify data structure.
pub const IDENTIFY_BYTES: usize = 4096;

/// Values of Controller or Namespace Structure (CNS).
///
/// Source: NVM Express Base Specification 2.0, CNS Values.
pub mod cns {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const NAMESPACE: u8 = 0x00;
    pub const CONTROLLER: u8 = 0x01;
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    pub const COMMAND_SET_NAMESPACE: u8 = 0x05;
    pub const COMMAND_SET_CONTROLLER: u8 = 0x06;
    pub const COMMAND_SET_ACTIVE_NAMESPACES: u8 = 0x07;
    pub const INDEPENDENT_NAMESPACE: u8 = 0x08;
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    pub const NAMESPACE_CONTROLLERS: u8 = 0x12;
    pub const SUBSYSTEM_CONTROLLERS: u8 = 0x13;
    pub const NAMESPACE_GRANULARITY: u8 = 0x16;
    pub const UUID_LIST: u8 = 0x17;
    pub const COMMAND_SETS: u8 = 0x1c;
}

/// What a controller is for (CNTRLTYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControllerKind {
    /// Serves namespaces.
    Io,
    /// Serves the discovery log only.
    Discovery,
}

/// Which transport carries an association, as far as its identity depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// NVMe/TCP.
    Tcp,
    /// NVMe/RDMA.
    Rdma,
}

/// Commands that an Abort may have outstanding beside it, 0's based (ACL).
pub const ABORT_LIMIT: u8 = 3;
/// Asynchronous Event Requests that may be outstanding, 0's based (AERL).
pub const ASYNC_EVENT_LIMIT: u8 = 3;
/// Entries of the error log, 0's based (ELPE).
pub const ERROR_LOG_LIMIT: u8 = 63;
/// Granularity of the keep alive timer in units of 100 ms (KAS): one second.
pub const KEEP_ALIVE_GRANULARITY: u16 = 10;
/// Composite temperature that raises a warning, in kelvin (WCTEMP).
pub const WARNING_TEMPERATURE_K: u16 = 343;
const _: () = assert!(WARNING_TEMPERATURE_K < CRITICAL_TEMPERATURE_K);
/// Composite temperature that is critical, in kelvin (CCTEMP).
pub const CRITICAL_TEMPERATURE_K: u16 = 353;

/// OAES and Asynchronous Event Configuration: notices of namespace attribute changes.
pub const NOTICE_NAMESPACE_CHANGED: u32 = 1 << 8;
/// OAES and Asynchronous Event Configuration: notices of changes of asymmetric namespace access.
pub const NOTICE_ACCESS_CHANGED: u32 = 1 << 11;
/// OAES and Asynchronous Event Configuration: notices of Cross-Controller Resets that are through.
pub const NOTICE_CROSS_RESET: u32 = 1 << 20;
/// Cross-Controller Resets that one controller has under way (CCRL).
pub const CROSS_RESET_LIMIT: u8 = 4;
/// OAES and Asynchronous Event Configuration: notices of discovery log changes.
pub const NOTICE_DISCOVERY_CHANGED: u32 = 1 << 31;

/// What Identify Controller says of one controller.
#[derive(Clone, Debug)]
pub struct ControllerFacts<'a> {
    /// What it is for.
    pub kind: ControllerKind,
    /// Transport of its association.
    pub transport: Transport,
    /// Its identifier, the same as in the reply to Connect.
    pub cntlid: u16,
    /// Subsystem that the host connected to.
    pub subnqn: &'a Nqn,
    /// Serial number, up to 20 ASCII characters.
    pub serial: &'a str,
    /// Model number, up to 40 ASCII characters.
    pub model: &'a str,
    /// Firmware revision, up to 8 ASCII characters.
    pub firmware: &'a str,
    /// OUI in the order that it is printed.
    pub oui: [u8; 3],
    /// Transfer limit in bytes; a power of two of 4 KiB or more.
    pub max_transfer_bytes: u32,
    /// In-capsule data of I/O queues in bytes, a multiple of 16.
    pub in_capsule_bytes: u32,
    /// Entries that an I/O queue may have.
    pub queue_entries_max: u16,
    /// Largest NSID that there can be.
    pub namespaces_max: u32,
    /// Whether a write may complete before it is on stable media.
    pub volatile_write_cache: bool,
    /// Blocks written atomically in normal operation, at least 1 (AWUN is 0's based).
    pub atomic_write_blocks: u16,
    /// Blocks written atomically across a power failure, at least 1 (AWUPF is 0's based).
    pub atomic_write_blocks_power_fail: u16,
    /// Blocks of a fused Compare and Write, at least 1 (ACWU is 0's based).
    pub compare_write_blocks_max: u16,
    /// Asynchronous events offered (OAES).
    pub notices: u32,
    /// Controller instance uniquifier (CIU), never 0 and new each time the controller becomes ready.
    pub instance: u8,
    /// Controller instance random number (CIRN), drawn with `instance`.
    pub instance_random: u64,
    /// Command quiesce time in milliseconds (CQT).
    pub quiesce_ms: u16,
}

/// Bytes under construction.
struct Page(Vec<u8>);

impl Page {
    fn new() -> Self {
        Self(vec![0; IDENTIFY_BYTES])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes text padded with spaces; what does not fit is cut.
    fn text(&mut self, at: usize, width: usize, text: &str) {
        self.0[at..at + width].fill(b' ');
        let bytes = text.as_bytes();
        self.put(at, &bytes[..bytes.len().min(width)]);
    }
}

/// MDTS: the transfer limit as a power of two in units of 4 KiB pages.
///
/// Panics if `max_transfer_bytes` is under one page, for MDTS 0 would mean "no limit".
pub fn transfer_shift(max_transfer_bytes: u32) -> u8 {
    assert!(max_transfer_bytes >= 8192, "MDTS 0 would mean no limit");
    u8::try_from((max_transfer_bytes >> 12).ilog2()).expect("a logarithm of 32 bits is under 32")
}

/// Identify Controller (CNS 01h).
///
/// Source: NVM Express Base Specification 2.0, Identify Controller data structure; CIU, CIRN, CCRL and
/// CQT: TP4129 and TP8028.
pub fn controller(facts: &ControllerFacts<'_>) -> Vec<u8> {
    let mut page = Page::new();
    controller_capabilities(&mut page, facts);
    page.put(256, &0_u16.to_le_bytes()); // OACS: no optional admin command.
    page.put(258, &[ABORT_LIMIT, ASYNC_EVENT_LIMIT]);
    page.put(320, &KEEP_ALIVE_GRANULARITY.to_le_bytes());
    page.put(386, &facts.quiesce_ms.to_le_bytes());
    page.put(514, &facts.queue_entries_max.to_le_bytes()); // MAXCMD
    page.put(536, &sgl_support(facts.transport).to_le_bytes());
    page.put(768, &facts.subnqn.to_field());
    page.put(1792, &((64 + facts.in_capsule_bytes) / 16).to_le_bytes()); // IOCCSZ
    page.put(1796, &1_u32.to_le_bytes()); // IORCSZ
    page.put(1800, &0_u16.to_le_bytes()); // ICDOFF: initiators support nothing else.
    page.put(1803, &[1]); // MSDBD
    match facts.kind {
        ControllerKind::Io => io_controller(&mut page, facts),
        ControllerKind::Discovery => {
            page.put(261, &[LPA_EXTENDED]);
            page.put(1806, &[1]); // DCTYPE: a direct discovery controller.
        }
    }
    page.0
}

/// Longest time in the state "change" (ANATT), which must not be 0. Nobody ever is in it: while nodes come and go commands wait, and ports change at once.
const ACCESS_TRANSITION_S: u8 = 10;

/// Log Page Attributes: the commands supported and effects log exists.
const LPA_EFFECTS: u8 = 1 << 1;
/// Log Page Attributes: log pages can be read from an offset on.
const LPA_EXTENDED: u8 = 1 << 2;
/// Log Page Attributes: log pages 00h, 12h and 13h exist.
const LPA_SUPPORTED_PAGES: u8 = 1 << 5;

/// Bytes 0 to 255: who the controller is.
fn controller_capabilities(page: &mut Page, facts: &ControllerFacts<'_>) {
    page.text(4, 20, facts.serial);
    page.text(24, 40, facts.model);
    page.text(64, 8, facts.firmware);
    page.put(72, &[6]); // RAB: bursts of 64 commands.
    let [high, middle, low] = facts.oui;
    page.put(73, &[low, middle, high]);
    let reports_access = u8::from(facts.kind == ControllerKind::Io) << 3;
    page.put(76, &[0b11 | reports_access]); // CMIC: several ports, several controllers.
    page.put(77, &[transfer_shift(facts.max_transfer_bytes)]);
    page.put(78, &facts.cntlid.to_le_bytes());
    page.put(80, &VERSION.to_le_bytes());
    page.put(92, &facts.notices.to_le_bytes());
    page.put(96, &1_u32.to_le_bytes()); // CTRATT: host identifiers of 128 bits.
    let kind = match facts.kind {
        ControllerKind::Io => 1,
        ControllerKind::Discovery => 2,
    };
    page.put(111, &[kind]);
    page.put(135, &[facts.instance]);
    page.put(136, &facts.instance_random.to_le_bytes());
}

/// What only a controller with namespaces has.
fn io_controller(page: &mut Page, facts: &ControllerFacts<'_>) {
    assert!(facts.atomic_write_blocks > 0 && facts.atomic_write_blocks_power_fail > 0);
    assert!(facts.compare_write_blocks_max > 0, "ACWU is 0's based");
    page.put(260, &[0b11]); // FRMW: one slot, read only.
    page.put(261, &[LPA_EFFECTS | LPA_EXTENDED | LPA_SUPPORTED_PAGES]);
    page.put(262, &[ERROR_LOG_LIMIT]);
    page.put(266, &WARNING_TEMPERATURE_K.to_le_bytes());
    page.put(268, &CRITICAL_TEMPERATURE_K.to_le_bytes());
    page.put(342, &[ACCESS_TRANSITION_S]); // ANATT
    page.put(343, &[0b100_0101]); // ANACAP: optimized, inaccessible; a namespace stays in its group.
    page.put(344, &ACCESS_GROUPS_MAX.to_le_bytes()); // ANAGRPMAX
    page.put(348, &ACCESS_GROUPS_MAX.to_le_bytes()); // NANAGRPID
    page.put(512, &[0x66, 0x44]); // SQES, CQES: 64 and 16 bytes, nothing else.
    page.put(516, &facts.namespaces_max.to_le_bytes());
    let compare = 1;
    let dataset_management = 1 << 2;
    let write_zeroes = 1 << 3;
    let select = 1 << 4;
    let reservations = 1 << 5;
    let timestamp = 1 << 6;
    let oncs: u16 = compare | dataset_management | write_zeroes | select | reservations | timestamp;
    page.put(520, &oncs.to_le_bytes());
    page.put(522, &1_u16.to_le_bytes()); // FUSES: Compare and Write.
    let flush_all = 0b110; // Flush takes NSID FFFFFFFFh.
    page.put(525, &[u8::from(facts.volatile_write_cache) | flush_all]);
    page.put(526, &(facts.atomic_write_blocks - 1).to_le_bytes());
    page.put(528, &(facts.atomic_write_blocks_power_fail - 1).to_le_bytes());
    page.put(532, &(facts.compare_write_blocks_max - 1).to_le_bytes());
    page.put(540, &facts.namespaces_max.to_le_bytes()); // MNAN: nonzero and at most NN.
    page.put(1807, &[CROSS_RESET_LIMIT]);
}

/// SGLS: SGLs without alignment and data at an offset in the capsule; what moves the rest depends on the
/// transport.
const fn sgl_support(transport: Transport) -> u32 {
    let offsets = 1 << 20;
    match transport {
        Transport::Tcp => 1 | offsets | 1 << 21, // transport data blocks
        Transport::Rdma => 1 | offsets | 1 << 2, // keyed data blocks
    }
}

/// What Identify says of one namespace; the same at every node but for the access to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its number, which is that of its group of asymmetric access, too.
    pub nsid: u32,
    /// Whether it can be used here.
    pub access: Access,
    /// Size and block size.
    pub format: NamespaceFormat,
    /// Namespace globally unique identifier; all zeroes: none.
    pub nguid: [u8; 16],
    /// UUID; all zeroes: none.
    pub uuid: [u8; 16],
    /// Blocks of one strip: writes aligned to it avoid reading neighbours. 1 to 65,536.
    pub strip_blocks: Option<u32>,
    /// Blocks of user data in a full stripe: writes of that size need no reads at all. 1 to 65,536.
    pub stripe_blocks: Option<u32>,
    /// Blocks written atomically in normal operation, at least 1.
    pub atomic_write_blocks: u16,
    /// Blocks written atomically across a power failure, at least 1.
    pub atomic_write_blocks_power_fail: u16,
    /// Blocks of a fused Compare and Write, at least 1.
    pub compare_write_blocks_max: u16,
    /// Whether hosts can reserve it.
    pub reservable: Reservable,
}

/// Whether hosts can reserve a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reservable {
    /// No.
    Never,
    /// Until the process ends.
    UntilStop,
    /// Also beyond a loss of power, if a host wants that.
    Persistently,
    /// Likewise, and through several nodes alike: none of them decides alone.
    AcrossNodes,
}

impl Reservable {
    /// RESCAP.
    const fn capabilities(self) -> u8 {
        match self {
            Self::Never => 0,
            Self::UntilStop => CAPABILITIES,
            Self::Persistently | Self::AcrossNodes => CAPABILITIES | CAPABILITY_PERSISTS,
        }
    }
}

/// A count of `1..=65_536` as 0's based word; what is outside is moved to the nearest end.
fn zero_based(count: u32) -> [u8; 2] {
    u16::try_from(count.saturating_sub(1))
        .unwrap_or(u16::MAX)
        .to_le_bytes()
}

/// Identify Namespace of the NVM command set (CNS 00h and 11h).
///
/// Source: NVM Command Set Specification 1.0, Identify Namespace Data Structure.
pub fn namespace(facts: &NamespaceFacts) -> Vec<u8> {
    let mut page = Page::new();
    let blocks = facts.format.blocks.to_le_bytes();
    page.put(0, &blocks); // NSZE
    page.put(8, &blocks); // NCAP
    if facts.access == Access::Here {
        page.put(16, &blocks); // NUSE: 0 where a namespace is inaccessible.
    }
    let own_atomics = 1 << 1;
    let optimal = facts.strip_blocks.is_some() || facts.stripe_blocks.is_some();
    page.put(24, &[own_atomics | u8::from(optimal) << 4]); // NSFEAT
    page.put(30, &[1]); // NMIC: shared.
    page.put(31, &[facts.reservable.capabilities()]); // RESCAP
    page.put(33, &[0b1001]); // DLFEAT: deallocated blocks read as zeroes, Write Zeroes may deallocate.
    page.put(34, &(facts.atomic_write_blocks - 1).to_le_bytes());
    page.put(36, &(facts.atomic_write_blocks_power_fail - 1).to_le_bytes());
    page.put(38, &(facts.compare_write_blocks_max - 1).to_le_bytes());
    if let Some(strip_blocks) = facts.strip_blocks {
        page.put(64, &zero_based(strip_blocks)); // NPWG
        page.put(66, &zero_based(strip_blocks)); // NPWA
    }
    if let Some(stripe_blocks) = facts.stripe_blocks {
        page.put(72, &zero_based(stripe_blocks)); // NOWS
    }
    page.put(92, &facts.nsid.to_le_bytes()); // ANAGRPID
    page.put(104, &facts.nguid);
    let shift = u8::try_from(facts.format.block_shift).expect("a block size is a power under 2^32");
    page.put(128, &[0, 0, shift, 0]); // LBAF 0: no metadata, best performance.
    page.0
}

/// I/O command set independent Identify Namespace (CNS 08h).
///
/// Source: NVM Express Base Specification 2.0, I/O Command Set Independent Identify Namespace data structure.
pub fn independent_namespace(facts: &NamespaceFacts) -> Vec<u8> {
    let mut page = Page::new();
    page.put(1, &[1]); // NMIC: shared.
    page.put(2, &[facts.reservable.capabilities()]); // RESCAP
    page.put(4, &facts.nsid.to_le_bytes()); // ANAGRPID
    page.put(14, &[1]); // NSTAT: ready.
    page.0
}

/// Namespace Identification Descriptor list (CNS 03h): NGUID, UUID, command set.
///
/// Source: NVM Express Base Specification 2.0, Namespace Identification Descriptor.
pub fn namespace_descriptors(facts: &NamespaceFacts) -> Vec<u8> {
    let mut page = Page::new();
    let mut at = 0;
    let mut add = |kind: u8, value: &[u8]| {
        let length = u8::try_from(value.len()).expect("an identifier has 16 bytes at most");
        page.put(at, &[kind, length, 0, 0]);
        page.put(at + 4, value);
        at += 4 + value.len();
    };
    if facts.nguid != [0; 16] {
        add(2, &facts.nguid);
    }
    if facts.uuid != [0; 16] {
        add(3, &facts.uuid);
    }
    add(4, &[0]);
    page.0
}

/// A list of NSIDs (CNS 02h, 07h, 10h): the first 1,024 of `nsids`, which ascend, then zeroes.
///
/// Source: NVM Express Base Specification 2.0, Namespace List.
pub fn namespace_list(nsids: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut page = Page::new();
    for (index, nsid) in nsids.take(IDENTIFY_BYTES / 4).enumerate() {
        page.put(index * 4, &nsid.to_le_bytes());
    }
    page.0
}

/// A list of controllers (CNS 12h, 13h): the first 2,047 of `cntlids`, which ascend.
///
/// Source: NVM Express Base Specification 2.0, Controller List.
pub fn controller_list(cntlids: impl Iterator<Item = u16>) -> Vec<u8> {
    let mut page = Page::new();
    let mut count = 0_u16;
    for cntlid in cntlids.take(IDENTIFY_BYTES / 2 - 1) {
        count += 1;
        page.put(usize::from(count) * 2, &cntlid.to_le_bytes());
    }
    page.put(0, &count.to_le_bytes());
    page.0
}

/// Blocks of one range of Dataset Management that a host should stay at: to deallocate 4 GiB of 4 KiB blocks takes an array
/// about a second, and hosts give a command up after some tens of them.
pub const DSM_RANGE_BLOCKS_MAX: u32 = 1 << 20;
/// Blocks of all ranges of one Dataset Management command that a host should stay at.
pub const DSM_BLOCKS_MAX: u64 = 4 * DSM_RANGE_BLOCKS_MAX as u64;
/// Ranges of one Dataset Management command that a host should stay at: as many as the field can say.
pub const DSM_RANGES_LIMIT: u8 = u8::MAX;

/// Identify Controller of the NVM command set (CNS 06h): no limits beside MDTS, but for Dataset Management, whose commands
/// move no data and could name the whole namespace. A command beyond these limits is carried out all the same.
///
/// Source: NVM Command Set Specification 1.0, I/O Command Set Specific Identify Controller data structure.
pub fn nvm_controller() -> Vec<u8> {
    let mut page = Page::new();
    page.put(3, &[DSM_RANGES_LIMIT]); // DMRL
    page.put(4, &DSM_RANGE_BLOCKS_MAX.to_le_bytes()); // DMRSL
    page.put(8, &DSM_BLOCKS_MAX.to_le_bytes()); // DMSL
    page.0
}

/// The I/O command set combinations (CNS 1Ch): NVM alone.
///
/// Source: NVM Express Base Specification 2.0, Identify I/O Command Set Data Structure.
pub fn command_sets() -> Vec<u8> {
    let mut page = Page::new();
    page.put(0, &1_u64.to_le_bytes());
    page.0
}

/// A structure in which zeroes say "nothing": inactive namespaces, CNS 05h, 16h and 17h.
pub fn empty() -> Vec<u8> {
    Page::new().0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(page: &[u8], at: usize) -> u16 {
        u16::from_le_bytes([page[at], page[at + 1]])
    }

    fn dword(page: &[u8], at: usize) -> u32 {
        u32::from(word(page, at)) | u32::from(word(page, at + 2)) << 16
    }

    fn facts(nqn: &Nqn) -> ControllerFacts<'_> {
        ControllerFacts {
            kind: ControllerKind::Io,
            transport: Transport::Tcp,
            cntlid: 0x1234,
            subnqn: nqn,
            serial: "BRAID0001",
            model: "Braid",
            firmware: "0.1.0-a-long-one",
            oui: [0x02, 0x42, 0x52],
            max_transfer_bytes: 262_144,
            in_capsule_bytes: 8192,
            queue_entries_max: 128,
            namespaces_max: 1024,
            volatile_write_cache: false,
            atomic_write_blocks: 1,
            atomic_write_blocks_power_fail: 1,
            compare_write_blocks_max: 1,
            notices: NOTICE_NAMESPACE_CHANGED,
            instance: 3,
            instance_random: 0x1122_3344_5566_7788,
            quiesce_ms: 0,
        }
    }

    #[test]
    fn identify_controller_passes_the_kernels_fabrics_checks() {
        let nqn = Nqn::parse("nqn.2026-01.io.braid:a").unwrap();
        let page = controller(&facts(&nqn));
        assert_eq!(page.len(), IDENTIFY_BYTES);
        assert_eq!(word(&page, 78), 0x1234, "CNTLID equals the Connect reply");
        assert_ne!(word(&page, 320), 0, "KAS is nonzero");
        assert_eq!(dword(&page, 1792), (8192 + 64) / 16, "IOCCSZ");
        assert_eq!(dword(&page, 1796), 1, "IORCSZ");
        assert_eq!(word(&page, 1800), 0, "ICDOFF");
        assert_eq!(word(&page, 514), 128, "MAXCMD zero draws a warning");
        assert_eq!(
            page[76], 0b1011,
            "CMIC says several controllers, and asymmetric access"
        );
        assert_ne!(page[342], 0, "ANATT");
        let (groups_max, groups) = (dword(&page, 344), dword(&page, 348));
        assert!(groups > 0 && groups <= groups_max, "NANAGRPID, ANAGRPMAX");
        assert_eq!(dword(&page, 80), 0x0002_0000, "VER");
        assert_eq!(page[77], 6, "MDTS: 256 KiB are 2^6 pages");
        assert_eq!((page[111], page[512], page[513]), (1, 0x66, 0x44));
        assert_eq!(dword(&page, 536), 1 | 1 << 20 | 1 << 21, "SGLS for TCP");
        assert_eq!(Nqn::from_field(&page[768..1024]), Ok(nqn));
        let (nn, mnan) = (dword(&page, 516), dword(&page, 540));
        assert!(mnan > 0 && mnan <= nn, "MNAN is nonzero and at most NN");
    }

    #[test]
    fn identity_strings_are_padded_with_spaces_and_cut() {
        let nqn = Nqn::parse("nqn.2026-01.io.braid:a").unwrap();
        let page = controller(&facts(&nqn));
        assert_eq!(&page[4..24], b"BRAID0001           ");
        assert_eq!(&page[64..72], b"0.1.0-a-");
        assert_eq!(page[73..76], [0x52, 0x42, 0x02], "the OUI is little endian");
        assert_eq!((page[135], page[136], page[143]), (3, 0x88, 0x11), "CIU and CIRN");
    }

    #[test]
    fn capabilities_that_we_have_are_named_and_no_others() {
        let nqn = Nqn::parse("nqn.2026-01.io.braid:a").unwrap();
        let page = controller(&ControllerFacts {
            volatile_write_cache: true,
            ..facts(&nqn)
        });
        assert_eq!(word(&page, 256), 0, "OACS");
        assert_eq!(word(&page, 520), 0b111_1101, "ONCS");
        assert_eq!(word(&page, 522), 1, "FUSES");
        assert_eq!(page[525], 0b111, "VWC");
        let page = controller(&facts(&nqn));
        assert_eq!(page[525], 0b110, "VWC");
    }

    #[test]
    fn dataset_management_has_limits_and_nothing_else_has() {
        let page = nvm_controller();
        assert_eq!(page[..4], [0, 0, 0, 255], "VSL, WZSL, WUSL, DMRL");
        assert_eq!(
            (dword(&page, 4), dword(&page, 8), dword(&page, 12)),
            (1 << 20, 1 << 22, 0)
        );
        assert!(page[16..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_discovery_controller_says_that_it_is_one() {
        let mut facts = facts(&Nqn::DISCOVERY);
        facts.kind = ControllerKind::Discovery;
        let page = controller(&facts);
        assert_eq!((page[111], page[1806], dword(&page, 516)), (2, 1, 0));
        assert_eq!(page[261] & 4, 4, "log pages have offsets");
    }

    #[test]
    fn identify_namespace_describes_the_format() {
        let facts = NamespaceFacts {
            nsid: 7,
            access: Access::Here,
            format: NamespaceFormat {
                blocks: 1 << 20,
                block_shift: 12,
            },
            nguid: [1; 16],
            uuid: [2; 16],
            strip_blocks: Some(16),
            stripe_blocks: Some(48),
            atomic_write_blocks: 1,
            atomic_write_blocks_power_fail: 1,
            compare_write_blocks_max: 1,
            reservable: Reservable::UntilStop,
        };
        let page = namespace(&facts);
        assert_eq!(
            (page[31], independent_namespace(&facts)[2]),
            (0xfe, 0xfe),
            "RESCAP"
        );
        let persistent = NamespaceFacts {
            reservable: Reservable::Persistently,
            ..facts.clone()
        };
        assert_eq!(namespace(&persistent)[31], 0xff, "RESCAP");
        let never = NamespaceFacts {
            reservable: Reservable::Never,
            ..facts.clone()
        };
        assert_eq!(namespace(&never)[31], 0, "RESCAP");
        for at in [0, 8, 16] {
            assert_eq!(dword(&page, at), 1 << 20);
        }
        assert_eq!((page[25], page[26], page[30], page[33]), (0, 0, 1, 0b1001));
        assert_eq!((word(&page, 64), word(&page, 66), word(&page, 72)), (15, 15, 47));
        assert_eq!((page[104..120].to_vec(), page[130]), (vec![1; 16], 12));
        let page = namespace_descriptors(&facts);
        assert_eq!((page[0], page[1], page[4]), (2, 16, 1));
        assert_eq!((page[20], page[21], page[24]), (3, 16, 2));
        assert_eq!(page[40..46], [4, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn lists_are_cut_at_their_capacity() {
        let page = namespace_list(1..5000);
        assert_eq!((page.len(), dword(&page, 4092)), (4096, 1024));
        let page = controller_list(1..5000);
        assert_eq!(
            (page.len(), word(&page, 0), word(&page, 4094)),
            (4096, 2047, 2047)
        );
    }
}
