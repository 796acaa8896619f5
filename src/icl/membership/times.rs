//! The timers of membership, and the arithmetic that ties them together.
//!
//! Source: PROTOCOL 3.1; the rules are those of hazards H05, H06 and H47. The values are starting points, to be measured.

/// One millisecond.
const MS: u64 = 1_000_000;

/// Time between two heartbeats, and between two announcements.
pub const HEARTBEAT_NS: u64 = 250 * MS;
/// How long a lease lasts, from the moment at which its heartbeats were issued.
pub const LEASE_NS: u64 = 2_000 * MS;
/// What whoever waits for another node's lease waits: clocks may run apart by a tenth.
pub const LEASE_WAIT_NS: u64 = LEASE_NS + LEASE_NS / 10;
/// Longest time between two turns of a node's loop after which it still trusts its lease.
pub const GAP_NS: u64 = LEASE_NS / 2;
/// Silence after which a member is suspected.
pub const SUSPECT_NS: u64 = 750 * MS;
/// Longest time that a drive command may take before its path counts as lost.
pub const IO_NS: u64 = 1_000 * MS;
/// Without a change of its heartbeat for so long a node is dead: its lease is over and no beat is on the way.
pub const DEAD_NS: u64 = LEASE_WAIT_NS + HEARTBEAT_NS;
/// How long a node that boots waits for the others after everybody was found dead.
pub const BOOT_NS: u64 = 2_000 * MS;
/// Head start of a component for each node that it has more than another one.
pub const COMPONENT_NS: u64 = 50 * MS;
/// Head start of those who hear at least as many members as they do not hear. A cut is noticed by one side up to a heartbeat before the other, and a node that is cut off
/// from all would leave them out one by one.
pub const MINORITY_NS: u64 = 2 * HEARTBEAT_NS;
/// Who was heard within this time still is there: it announces itself each [`HEARTBEAT_NS`].
pub const HEARD_NS: u64 = HEARTBEAT_NS + HEARTBEAT_NS / 2;
/// Time that recovery has, so that hosts do not give up: what remains of five seconds.
pub const RECOVERY_NS: u64 = 2_000 * MS;
/// First pause of a proposer that lost a ballot.
pub const BACKOFF_NS: u64 = 10 * MS;
/// Pause before what a drive failed is tried again.
pub const RETRY_NS: u64 = HEARTBEAT_NS;
/// KATO of Linux hosts: 5 s.
const HOST_KATO_NS: u64 = 5_000 * MS;

const _: () = assert!(
    LEASE_NS >= 4 * HEARTBEAT_NS,
    "a lost heartbeat or two is no lapse"
);
const _: () = assert!(IO_NS < LEASE_NS, "a slow drive is known before the lease is over");
const _: () = assert!(
    SUSPECT_NS >= 3 * HEARTBEAT_NS,
    "three announcements have to be missed"
);
const _: () = assert!(
    SUSPECT_NS + LEASE_WAIT_NS + RECOVERY_NS <= HOST_KATO_NS,
    "hosts live through a takeover"
);
const _: () = assert!(
    8 * COMPONENT_NS < SUSPECT_NS,
    "the head start does not look like silence"
);
const _: () = assert!(
    8 * COMPONENT_NS + MINORITY_NS < 2 * SUSPECT_NS,
    "the head start does not look like the silence of whoever is to propose"
);
const _: () = assert!(
    MINORITY_NS > HEARTBEAT_NS,
    "whoever hears more begins first, however late it notices"
);
const _: () = assert!(
    HEARD_NS + HEARTBEAT_NS < SUSPECT_NS,
    "who is silenced by the same cut is known to be silent when the first one is suspected"
);
const _: () = assert!(DEAD_NS > LEASE_WAIT_NS, "who is found dead has no lease");
