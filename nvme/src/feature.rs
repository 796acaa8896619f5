//! Features of one controller: what Set Features changes and Get Features tells.
//!
//! Nothing is saved across resets, no feature belongs to one namespace except error recovery and those of reservations, which the
//! subsystem keeps beside them, and the interrupt features do not exist over Fabrics.

use crate::command::SubmissionEntry;
use crate::identify::{KEEP_ALIVE_GRANULARITY, WARNING_TEMPERATURE_K};
use crate::status::Status;

/// Feature identifiers.
///
/// Source: NVM Express Base Specification 2.0, Feature Identifiers.
pub mod fid {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const ARBITRATION: u8 = 0x01;
    pub const POWER_MANAGEMENT: u8 = 0x02;
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub const ERROR_RECOVERY: u8 = 0x05;
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    pub const ASYNC_EVENT_CONFIGURATION: u8 = 0x0b;
    pub const TIMESTAMP: u8 = 0x0e;
    pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
    pub const HOST_BEHAVIOR: u8 = 0x16;
    pub const HOST_IDENTIFIER: u8 = 0x81;
    pub const RESERVATION_NOTIFICATION_MASK: u8 = 0x82;
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
    /// Vendor specific: see [`crate::reservation::floors`].
    pub const KEY_EPOCHS: u8 = 0xc0;
}

/// Every feature of an I/O controller without a volatile write cache.
const IO_FEATURES: [u8; 14] = [
    fid::ARBITRATION,
    fid::POWER_MANAGEMENT,
    fid::TEMPERATURE_THRESHOLD,
    fid::ERROR_RECOVERY,
    fid::NUMBER_OF_QUEUES,
    fid::WRITE_ATOMICITY,
    fid::ASYNC_EVENT_CONFIGURATION,
    fid::TIMESTAMP,
    fid::KEEP_ALIVE_TIMER,
    fid::HOST_BEHAVIOR,
    fid::HOST_IDENTIFIER,
    fid::RESERVATION_NOTIFICATION_MASK,
    fid::RESERVATION_PERSISTENCE,
    fid::KEY_EPOCHS,
];

/// Every feature of a discovery controller.
const DISCOVERY_FEATURES: [u8; 3] = [
    fid::ASYNC_EVENT_CONFIGURATION,
    fid::KEEP_ALIVE_TIMER,
    fid::HOST_IDENTIFIER,
];

/// SMART critical warnings that can raise an event: bits 4:0 of Asynchronous Event Configuration.
const CRITICAL_WARNINGS: u32 = 0x1f;

/// What a controller's features start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureDefaults {
    /// Whether it is a discovery controller, which has few features.
    pub discovery: bool,
    /// Whether there is a volatile write cache; without one its feature does not exist.
    pub volatile_write_cache: bool,
    /// I/O queues that a host may have.
    pub io_queues_max: u16,
    /// Notices offered (OAES); on until the host says otherwise.
    pub notices: u32,
    /// Keep alive timeout of Connect in milliseconds.
    pub kato_ms: u32,
    /// Host identifier of Connect.
    pub hostid: [u8; 16],
}

/// The features of one controller.
#[derive(Clone, Debug)]
pub struct Features {
    defaults: FeatureDefaults,
    current: Values,
}

/// Everything that a host can change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values {
    arbitration: u32,
    over_temperature_k: u16,
    under_temperature_k: u16,
    time_limited_recovery: u16,
    io_queues: u16,
    atomicity_off: bool,
    events: u32,
    kato_ms: u32,
    retry_delay: bool,
    timestamp: Option<Timestamp>,
}

/// A time that the host told us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timestamp {
    host_ms: u64,
    told_ns: u64,
}

/// What Get Features returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureValue {
    /// Dword 0 of the completion.
    pub result: u32,
    /// Data, for the features that have any.
    pub data: Vec<u8>,
}

impl FeatureValue {
    const fn number(result: u32) -> Self {
        Self {
            result,
            data: Vec::new(),
        }
    }

    const fn bytes(data: Vec<u8>) -> Self {
        Self { result: 0, data }
    }
}

/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();

/// Low word of a dword.
const fn low(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// Low byte of a dword.
const fn byte(value: u32) -> u8 {
    (value & 0xff) as u8
}

/// A keep alive timeout as it is enforced: rounded up to the granularity, `0` stays off.
///
/// Source: NVM Express Base Specification 2.0, Keep Alive Timer.
pub fn round_keep_alive(kato_ms: u32) -> u32 {
    let unit_ms = u32::from(KEEP_ALIVE_GRANULARITY) * 100;
    kato_ms.checked_next_multiple_of(unit_ms).unwrap_or(u32::MAX)
}

impl Features {
    /// Features at their defaults.
    pub fn new(defaults: FeatureDefaults) -> Self {
        assert!(
            defaults.io_queues_max > 0,
            "an association may have one I/O queue at least"
        );
        Self {
            defaults,
            current: Values::new(&defaults),
        }
    }

    /// Back to the defaults, as a controller reset does; the keep alive timer stays as it is.
    pub fn reset(&mut self) {
        let kato_ms = self.current.kato_ms;
        self.current = Values::new(&self.defaults);
        self.current.kato_ms = kato_ms;
    }

    /// I/O queues granted.
    pub fn io_queues(&self) -> u16 {
        self.current.io_queues
    }

    /// Keep alive timeout in milliseconds, a multiple of the granularity; `0`: none.
    pub fn kato_ms(&self) -> u32 {
        self.current.kato_ms
    }

    /// Events that the host wants to hear of: Asynchronous Event Configuration.
    pub fn events(&self) -> u32 {
        self.current.events
    }

    /// Notices offered (OAES).
    pub fn notices(&self) -> u32 {
        self.defaults.notices
    }

    /// Every feature identifier that this controller has.
    pub fn identifiers(&self) -> Vec<u8> {
        if self.defaults.discovery {
            return DISCOVERY_FEATURES.to_vec();
        }
        let mut identifiers = IO_FEATURES.to_vec();
        if self.defaults.volatile_write_cache {
            identifiers.push(fid::VOLATILE_WRITE_CACHE);
        }
        identifiers
    }

    /// Whether there is a volatile write cache.
    pub const fn has_volatile_write_cache(&self) -> bool {
        self.defaults.volatile_write_cache
    }

    fn check_exists(&self, identifier: u8) -> Result<(), Status> {
        if self.identifiers().contains(&identifier) {
            Ok(())
        } else {
            Err(INVALID)
        }
    }

    /// Executes Get Features: the current value, the default (also for "saved", as nothing is saveable), or
    /// what can be done with the feature.
    ///
    /// Source: NVM Express Base Specification 2.0, Get Features.
    pub fn read(&self, entry: &SubmissionEntry, now_ns: u64) -> Result<FeatureValue, Status> {
        let identifier = byte(entry.dword(10));
        self.check_exists(identifier)?;
        match entry.dword(10) >> 8 & 7 {
            0 => self.value(&self.current, identifier, entry, now_ns),
            1 | 2 => self.value(&Values::new(&self.defaults), identifier, entry, now_ns),
            3 => Ok(FeatureValue::number(capabilities(identifier))),
            _ => Err(INVALID),
        }
    }

    fn value(
        &self,
        values: &Values,
        identifier: u8,
        entry: &SubmissionEntry,
        now_ns: u64,
    ) -> Result<FeatureValue, Status> {
        let dword11 = entry.dword(11);
        Ok(match identifier {
            fid::ARBITRATION => FeatureValue::number(values.arbitration),
            fid::POWER_MANAGEMENT => FeatureValue::number(0),
            fid::TEMPERATURE_THRESHOLD => match (dword11 >> 16 & 15, dword11 >> 20 & 3) {
                (0, 0) => FeatureValue::number(u32::from(values.over_temperature_k)),
                (0, 1) => FeatureValue::number(u32::from(values.under_temperature_k)),
                _ => return Err(INVALID),
            },
            fid::ERROR_RECOVERY => FeatureValue::number(u32::from(values.time_limited_recovery)),
            fid::VOLATILE_WRITE_CACHE => FeatureValue::number(1),
            fid::NUMBER_OF_QUEUES => FeatureValue::number(queue_count(values.io_queues)),
            fid::WRITE_ATOMICITY => FeatureValue::number(u32::from(values.atomicity_off)),
            fid::ASYNC_EVENT_CONFIGURATION => FeatureValue::number(values.events),
            fid::TIMESTAMP => FeatureValue::bytes(timestamp(values.timestamp, now_ns)),
            fid::KEEP_ALIVE_TIMER => FeatureValue::number(values.kato_ms),
            fid::HOST_BEHAVIOR => {
                let mut data = vec![0; 512];
                data[0] = u8::from(values.retry_delay);
                FeatureValue::bytes(data)
            }
            // Over Fabrics only identifiers of 128 bits exist: EXHID must be set.
            fid::HOST_IDENTIFIER if dword11 & 1 == 1 => FeatureValue::bytes(self.defaults.hostid.to_vec()),
            _ => return Err(INVALID),
        })
    }

    /// Executes Set Features and returns dword 0 of the completion. `io_queues_open` says whether the
    /// association has I/O queues, after which their number is fixed.
    ///
    /// Source: NVM Express Base Specification 2.0, Set Features.
    pub fn write(
        &mut self,
        entry: &SubmissionEntry,
        data: &[u8],
        io_queues_open: bool,
        now_ns: u64,
    ) -> Result<u32, Status> {
        let dword10 = entry.dword(10);
        let identifier = byte(dword10);
        self.check_exists(identifier)?;
        if dword10 & 1 << 31 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.do_not_retry());
        }
        if identifier != fid::ERROR_RECOVERY && !matches!(entry.nsid(), 0 | u32::MAX) {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.do_not_retry());
        }
        self.apply(identifier, entry.dword(11), data, io_queues_open, now_ns)
    }

    fn apply(
        &mut self,
        identifier: u8,
        dword11: u32,
        data: &[u8],
        io_queues_open: bool,
        now_ns: u64,
    ) -> Result<u32, Status> {
        let current = &mut self.current;
        match identifier {
            fid::ARBITRATION => current.arbitration = dword11 & 0xffff_ff07,
            fid::POWER_MANAGEMENT if dword11 & 0x1f == 0 => {}
            fid::TEMPERATURE_THRESHOLD => return current.set_temperature(dword11),
            fid::ERROR_RECOVERY => {
                let deallocated_errors = dword11 & 1 << 16 != 0;
                if deallocated_errors {
                    return Err(INVALID);
                }
                current.time_limited_recovery = low(dword11);
            }
            // Writing through is the runtime's decision: the cache cannot be switched off from here.
            fid::VOLATILE_WRITE_CACHE if dword11 & 1 == 1 => {}
            fid::VOLATILE_WRITE_CACHE => return Err(Status::FEATURE_NOT_CHANGEABLE.do_not_retry()),
            fid::NUMBER_OF_QUEUES => {
                if io_queues_open {
                    return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
                }
                current.io_queues = grant_queues(dword11, self.defaults.io_queues_max)?;
                return Ok(queue_count(current.io_queues));
            }
            fid::WRITE_ATOMICITY => current.atomicity_off = dword11 & 1 == 1,
            fid::ASYNC_EVENT_CONFIGURATION => {
                current.events = dword11 & (self.defaults.notices | CRITICAL_WARNINGS);
            }
            fid::TIMESTAMP => {
                let bytes: [u8; 8] = data
                    .try_into()
                    .map_err(|_| Status::DATA_SGL_LENGTH_INVALID.do_not_retry())?;
                let host_ms = u64::from_le_bytes(bytes) & TIMESTAMP_MASK;
                current.timestamp = Some(Timestamp {
                    host_ms,
                    told_ns: now_ns,
                });
            }
            fid::KEEP_ALIVE_TIMER => {
                current.kato_ms = round_keep_alive(dword11);
                return Ok(current.kato_ms);
            }
            fid::HOST_BEHAVIOR => return current.set_host_behavior(data),
            fid::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry()),
            _ => return Err(INVALID),
        }
        Ok(0)
    }
}

impl Values {
    fn new(defaults: &FeatureDefaults) -> Self {
        Self {
            arbitration: 6,
            over_temperature_k: WARNING_TEMPERATURE_K,
            under_temperature_k: 0,
            time_limited_recovery: 0,
            io_queues: defaults.io_queues_max,
            atomicity_off: false,
            events: defaults.notices,
            kato_ms: round_keep_alive(defaults.kato_ms),
            retry_delay: false,
            timestamp: None,
        }
    }

    /// Temperature Threshold: the composite temperature (TMPSEL 0h) or all sensors (Fh), over or under.
    fn set_temperature(&mut self, dword11: u32) -> Result<u32, Status> {
        match (dword11 >> 16 & 15, dword11 >> 20 & 3) {
            (0 | 15, 0) => self.over_temperature_k = low(dword11),
            (0 | 15, 1) => self.under_temperature_k = low(dword11),
            _ => return Err(INVALID),
        }
        Ok(0)
    }

    /// Host Behavior Support: we honour ACRE, by never asking for a delay; the rest we do not have.
    fn set_host_behavior(&mut self, data: &[u8]) -> Result<u32, Status> {
        if data.len() != 512 {
            return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
        }
        if data[0] > 1 || data[1..6].iter().any(|&byte| byte != 0) {
            return Err(INVALID);
        }
        self.retry_delay = data[0] == 1;
        Ok(0)
    }
}

/// Bits 47:0 of a timestamp count milliseconds since 1970.
const TIMESTAMP_MASK: u64 = (1 << 48) - 1;

/// The time as far as the host told us; origin 001b says that it did, 000b that none was told since reset.
///
/// Source: NVM Express Base Specification 2.0, Timestamp - Data Structure for Get Features.
fn timestamp(told: Option<Timestamp>, now_ns: u64) -> Vec<u8> {
    let (ms, origin) = match told {
        Some(told) => (
            told.host_ms
                .wrapping_add(now_ns.saturating_sub(told.told_ns) / 1_000_000),
            1_u64,
        ),
        None => (now_ns / 1_000_000, 0),
    };
    (ms & TIMESTAMP_MASK | origin << 49).to_le_bytes().to_vec()
}

/// Number of Queues as its completion says it: submission and completion queues, both 0's based.
fn queue_count(io_queues: u16) -> u32 {
    let count = u32::from(io_queues) - 1;
    count | count << 16
}

/// How many pairs of queues a host gets that asks with `dword11`: no more than asked for, or than there are.
fn grant_queues(dword11: u32, io_queues_max: u16) -> Result<u16, Status> {
    let (submission, completion) = (low(dword11), low(dword11 >> 16));
    if submission == u16::MAX || completion == u16::MAX {
        return Err(INVALID);
    }
    Ok((submission.min(completion) + 1).min(io_queues_max))
}

/// What Get Features tells when asked for a feature's capabilities: bit 1 by namespace, bit 2 changeable.
fn capabilities(identifier: u8) -> u32 {
    match identifier {
        fid::ERROR_RECOVERY
        | fid::RESERVATION_NOTIFICATION_MASK
        | fid::RESERVATION_PERSISTENCE
        | fid::KEY_EPOCHS => 0b110,
        fid::HOST_IDENTIFIER | fid::VOLATILE_WRITE_CACHE => 0,
        _ => 0b100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::admin_opcode;
    use crate::identify::{NOTICE_DISCOVERY_CHANGED, NOTICE_NAMESPACE_CHANGED};

    fn features() -> Features {
        Features::new(FeatureDefaults {
            discovery: false,
            volatile_write_cache: true,
            io_queues_max: 16,
            notices: NOTICE_NAMESPACE_CHANGED,
            kato_ms: 5000,
            hostid: [9; 16],
        })
    }

    fn get(identifier: u8, select: u32, dword11: u32) -> SubmissionEntry {
        let mut entry = SubmissionEntry::new(admin_opcode::GET_FEATURES, 1);
        entry.set_dword(10, u32::from(identifier) | select << 8);
        entry.set_dword(11, dword11);
        entry
    }

    fn set(identifier: u8, dword11: u32) -> SubmissionEntry {
        let mut entry = SubmissionEntry::new(admin_opcode::SET_FEATURES, 1);
        entry.set_dword(10, u32::from(identifier));
        entry.set_dword(11, dword11);
        entry
    }

    fn current(features: &Features, identifier: u8) -> u32 {
        features.read(&get(identifier, 0, 0), 0).unwrap().result
    }

    #[test]
    fn values_that_were_set_are_told_and_defaults_remain_known() {
        let mut features = features();
        let cases = [
            (fid::ARBITRATION, 0x0102_0303, 0x0102_0303),
            (fid::TEMPERATURE_THRESHOLD, 400, 400),
            (fid::ERROR_RECOVERY, 30, 30),
            (fid::WRITE_ATOMICITY, 1, 1),
            (fid::ASYNC_EVENT_CONFIGURATION, 0xffff_ffff, 0x11f),
            (fid::KEEP_ALIVE_TIMER, 7001, 8000),
            (fid::NUMBER_OF_QUEUES, 3 | 3 << 16, 3 | 3 << 16),
        ];
        for (identifier, value, expected) in cases {
            let default = features.read(&get(identifier, 1, 0), 0).unwrap();
            features.write(&set(identifier, value), &[], false, 0).unwrap();
            assert_eq!(
                current(&features, identifier),
                expected,
                "feature {identifier:#x}"
            );
            assert_eq!(features.read(&get(identifier, 1, 0), 0).unwrap(), default);
            assert_ne!(default.result, expected);
        }
        features.reset();
        assert_eq!(
            (features.events(), features.io_queues(), features.kato_ms()),
            (256, 16, 8000)
        );
    }

    #[test]
    fn interrupt_and_unknown_features_are_refused() {
        let mut features = features();
        for identifier in [
            0x00, 0x03, 0x08, 0x09, 0x0c, 0x10, 0x11, 0x78, 0x80, 0x82, 0x83, 0xff,
        ] {
            assert_eq!(features.read(&get(identifier, 0, 0), 0).err(), Some(INVALID));
            assert_eq!(features.write(&set(identifier, 0), &[], false, 0), Err(INVALID));
        }
    }

    #[test]
    fn no_more_queues_are_granted_than_asked_for_or_than_there_are() {
        let mut features = features();
        let grant = |features: &mut Features, dword11, open| {
            features.write(&set(fid::NUMBER_OF_QUEUES, dword11), &[], open, 0)
        };
        assert_eq!(grant(&mut features, 1 | 1 << 16, false), Ok(1 | 1 << 16));
        assert_eq!(grant(&mut features, 99 | 99 << 16, false), Ok(15 | 15 << 16));
        assert_eq!(grant(&mut features, 0xffff, false), Err(INVALID));
        assert_eq!(features.io_queues(), 16);
        let late = Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
        assert_eq!(grant(&mut features, 1 | 1 << 16, true), late);
    }

    #[test]
    fn capabilities_saving_and_namespaces_are_answered_as_the_specification_says() {
        let mut features = features();
        assert_eq!(
            features.read(&get(fid::ARBITRATION, 3, 0), 0).unwrap().result,
            0b100
        );
        assert_eq!(
            features.read(&get(fid::ARBITRATION, 4, 0), 0).err(),
            Some(INVALID)
        );
        let mut entry = set(fid::ARBITRATION, 0);
        entry.set_dword(10, entry.dword(10) | 1 << 31);
        let refused = Err(Status::FEATURE_NOT_SAVEABLE.do_not_retry());
        assert_eq!(features.write(&entry, &[], false, 0), refused);
        let mut entry = set(fid::ARBITRATION, 0);
        entry.set_nsid(1);
        let refused = Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.do_not_retry());
        assert_eq!(features.write(&entry, &[], false, 0), refused);
    }

    #[test]
    fn host_identifiers_are_those_of_connect_and_128_bits_only() {
        let mut features = features();
        assert_eq!(
            features.read(&get(fid::HOST_IDENTIFIER, 0, 1), 0).unwrap().data,
            [9; 16]
        );
        assert_eq!(
            features.read(&get(fid::HOST_IDENTIFIER, 0, 0), 0).err(),
            Some(INVALID)
        );
        let refused = Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
        assert_eq!(
            features.write(&set(fid::HOST_IDENTIFIER, 1), &[0; 16], false, 0),
            refused
        );
    }

    #[test]
    fn the_write_cache_feature_exists_only_with_a_cache_and_cannot_be_switched_off() {
        let mut with_cache = features();
        assert_eq!(current(&with_cache, fid::VOLATILE_WRITE_CACHE), 1);
        assert_eq!(
            with_cache.write(&set(fid::VOLATILE_WRITE_CACHE, 1), &[], false, 0),
            Ok(0)
        );
        let refused = Err(Status::FEATURE_NOT_CHANGEABLE.do_not_retry());
        assert_eq!(
            with_cache.write(&set(fid::VOLATILE_WRITE_CACHE, 0), &[], false, 0),
            refused
        );
        let defaults = FeatureDefaults {
            volatile_write_cache: false,
            ..with_cache.defaults
        };
        let without = Features::new(defaults);
        assert_eq!(
            without.read(&get(fid::VOLATILE_WRITE_CACHE, 0, 0), 0).err(),
            Some(INVALID)
        );
    }

    #[test]
    fn timestamps_go_on_from_what_the_host_told() {
        let mut features = features();
        let told = 1_700_000_000_000_u64;
        features
            .write(&set(fid::TIMESTAMP, 0), &told.to_le_bytes(), false, 5_000_000)
            .unwrap();
        let data = features
            .read(&get(fid::TIMESTAMP, 0, 0), 12_000_000)
            .unwrap()
            .data;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&data);
        assert_eq!(u64::from_le_bytes(bytes), (told + 7) | 1 << 49);
        let short = features.write(&set(fid::TIMESTAMP, 0), &[0; 7], false, 0);
        assert_eq!(short, Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry()));
    }

    #[test]
    fn host_behavior_takes_only_what_we_can_do() {
        let mut features = features();
        let mut data = [0; 512];
        data[0] = 1;
        assert_eq!(
            features.write(&set(fid::HOST_BEHAVIOR, 0), &data, false, 0),
            Ok(0)
        );
        assert_eq!(
            features.read(&get(fid::HOST_BEHAVIOR, 0, 0), 0).unwrap().data[0],
            1
        );
        data[2] = 1;
        assert_eq!(
            features.write(&set(fid::HOST_BEHAVIOR, 0), &data, false, 0),
            Err(INVALID)
        );
        assert!(
            features
                .write(&set(fid::HOST_BEHAVIOR, 0), &data[..100], false, 0)
                .is_err()
        );
    }

    #[test]
    fn discovery_controllers_have_few_features() {
        let defaults = FeatureDefaults {
            discovery: true,
            notices: NOTICE_DISCOVERY_CHANGED,
            ..features().defaults
        };
        let mut features = Features::new(defaults);
        assert_eq!(current(&features, fid::ASYNC_EVENT_CONFIGURATION), 1 << 31);
        assert_eq!(
            features.write(&set(fid::NUMBER_OF_QUEUES, 0), &[], false, 0),
            Err(INVALID)
        );
    }

    #[test]
    fn keep_alive_is_rounded_up_to_its_granularity() {
        assert_eq!(round_keep_alive(0), 0);
        assert_eq!(round_keep_alive(1), 1000);
        assert_eq!(round_keep_alive(5000), 5000);
        assert_eq!(round_keep_alive(u32::MAX), u32::MAX);
    }
}
