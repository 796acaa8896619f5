//! Status codes of completion queue entries.

use core::fmt;

/// Status Field of a completion queue entry without the phase tag: status code (bits 7:0), status
/// code type (10:8), command retry delay (12:11), more (13), do not retry (14).
///
/// Source: NVM Express Base Specification 2.0, section 3.3.3.2 (Completion Queue Entry: Status Field).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(u16);

const DO_NOT_RETRY: u16 = 1 << 14;
const MORE: u16 = 1 << 13;

/// Declares each status as an associated constant and names it for people.
macro_rules! statuses {
    ($($name:ident = $sct:literal, $sc:literal, $text:literal;)*) => {
        impl Status {
            $(#[doc = $text] pub const $name: Self = Self::new($sct, $sc);)*

            /// Name of the status in words, without the retry bits.
            pub fn text(self) -> &'static str {
                match (self.code_type(), self.code()) {
                    $(($sct, $sc) => $text,)*
                    _ => "status that this software does not know",
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0, 0x00, "successful completion";
    INVALID_OPCODE = 0, 0x01, "invalid command opcode";
    INVALID_FIELD = 0, 0x02, "invalid field in command";
    COMMAND_ID_CONFLICT = 0, 0x03, "command ID conflict";
    DATA_TRANSFER_ERROR = 0, 0x04, "data transfer error";
    POWER_LOSS_ABORT = 0, 0x05, "commands aborted due to power loss notification";
    INTERNAL_ERROR = 0, 0x06, "internal error";
    COMMAND_ABORT_REQUESTED = 0, 0x07, "command abort requested";
    ABORTED_SQ_DELETED = 0, 0x08, "command aborted due to submission queue deletion";
    ABORTED_FAILED_FUSED = 0, 0x09, "command aborted due to failed fused command";
    ABORTED_MISSING_FUSED = 0, 0x0a, "command aborted due to missing fused command";
    INVALID_NAMESPACE_OR_FORMAT = 0, 0x0b, "invalid namespace or format";
    COMMAND_SEQUENCE_ERROR = 0, 0x0c, "command sequence error";
    INVALID_SGL_SEGMENT = 0, 0x0d, "invalid SGL segment descriptor";
    INVALID_SGL_COUNT = 0, 0x0e, "invalid number of SGL descriptors";
    DATA_SGL_LENGTH_INVALID = 0, 0x0f, "data SGL length invalid";
    SGL_TYPE_INVALID = 0, 0x11, "SGL descriptor type invalid";
    INVALID_PRP_OFFSET = 0, 0x13, "PRP offset invalid";
    SGL_OFFSET_INVALID = 0, 0x16, "SGL offset invalid";
    HOST_ID_INCONSISTENT = 0, 0x18, "host identifier inconsistent format";
    KEEP_ALIVE_EXPIRED = 0, 0x19, "keep alive timer expired";
    KEEP_ALIVE_TIMEOUT_INVALID = 0, 0x1a, "keep alive timeout invalid";
    ABORTED_BY_PREEMPTION = 0, 0x1b, "command aborted due to preempt and abort";
    NAMESPACE_WRITE_PROTECTED = 0, 0x20, "namespace is write protected";
    COMMAND_INTERRUPTED = 0, 0x21, "command interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0, 0x22, "transient transport error";
    LBA_OUT_OF_RANGE = 0, 0x80, "LBA out of range";
    CAPACITY_EXCEEDED = 0, 0x81, "capacity exceeded";
    NAMESPACE_NOT_READY = 0, 0x82, "namespace not ready";
    RESERVATION_CONFLICT = 0, 0x83, "reservation conflict";
    INVALID_QUEUE_IDENTIFIER = 1, 0x01, "invalid queue identifier";
    INVALID_QUEUE_SIZE = 1, 0x02, "invalid queue size";
    ABORT_LIMIT_EXCEEDED = 1, 0x03, "abort command limit exceeded";
    ASYNC_EVENT_LIMIT_EXCEEDED = 1, 0x05, "asynchronous event request limit exceeded";
    INVALID_FIRMWARE_SLOT = 1, 0x06, "invalid firmware slot";
    INVALID_FIRMWARE_IMAGE = 1, 0x07, "invalid firmware image";
    INVALID_LOG_PAGE = 1, 0x09, "invalid log page";
    INVALID_FORMAT = 1, 0x0a, "invalid format";
    FEATURE_NOT_SAVEABLE = 1, 0x0d, "feature identifier not saveable";
    FEATURE_NOT_CHANGEABLE = 1, 0x0e, "feature not changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = 1, 0x0f, "feature not namespace specific";
    CROSS_RESET_IN_PROGRESS = 1, 0x3f, "cross-controller reset in progress";
    CROSS_RESET_LOG_FULL = 1, 0x40, "cross-controller reset log page full";
    CROSS_RESET_LIMIT_EXCEEDED = 1, 0x41, "cross-controller reset limit exceeded";
    CONNECT_INCOMPATIBLE_FORMAT = 1, 0x80, "connect: incompatible format";
    CONNECT_CONTROLLER_BUSY = 1, 0x81, "connect: controller busy";
    CONNECT_INVALID_PARAMETERS = 1, 0x82, "connect: invalid parameters";
    CONNECT_RESTART_DISCOVERY = 1, 0x83, "connect: restart discovery";
    CONNECT_INVALID_HOST = 1, 0x84, "connect: invalid host";
    DISCOVERY_RESTART = 1, 0x90, "discovery restart";
    AUTHENTICATION_REQUIRED = 1, 0x91, "authentication required";
    WRITE_FAULT = 2, 0x80, "write fault";
    UNRECOVERED_READ_ERROR = 2, 0x81, "unrecovered read error";
    COMPARE_FAILURE = 2, 0x85, "compare failure";
    ACCESS_DENIED = 2, 0x86, "access denied";
    ANA_PERSISTENT_LOSS = 3, 0x01, "asymmetric access persistent loss";
    ANA_INACCESSIBLE = 3, 0x02, "asymmetric access inaccessible";
    ANA_TRANSITION = 3, 0x03, "asymmetric access transition";
    HOST_PATH_ERROR = 3, 0x70, "host path error";
}

impl Status {
    /// Builds a status from its status code type (`0..=7`) and status code.
    pub const fn new(code_type: u8, code: u8) -> Self {
        assert!(code_type < 8, "the status code type has three bits");
        Self(((code_type as u16) << 8) | code as u16)
    }

    /// Takes the status from the upper 15 bits of dword 3 of a completion queue entry, phase tag removed.
    pub const fn from_wire(field: u16) -> Self {
        Self(field & 0x7fff)
    }

    /// The 15 bits as they stand in a completion queue entry above the phase tag.
    pub const fn wire(self) -> u16 {
        self.0
    }

    /// Status code type, `0..=7`.
    pub const fn code_type(self) -> u8 {
        ((self.0 >> 8) & 7) as u8
    }

    /// Status code.
    pub const fn code(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The same status with Do Not Retry set: the host gains nothing by sending the command again.
    #[must_use]
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | DO_NOT_RETRY)
    }

    /// The same status with More set: the error log holds an entry about this command.
    #[must_use]
    pub const fn more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// Whether Do Not Retry is set.
    pub const fn is_do_not_retry(self) -> bool {
        self.0 & DO_NOT_RETRY != 0
    }

    /// Whether the command succeeded; the retry bits do not count.
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether both mean the same, whatever their retry bits say.
    pub const fn same_code(self, other: Self) -> bool {
        self.0 & 0x7ff == other.0 & 0x7ff
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dnr = if self.is_do_not_retry() { " DNR" } else { "" };
        write!(
            out,
            "{:x}h/{:02x}h{dnr} ({})",
            self.code_type(),
            self.code(),
            self.text()
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let status = Status::COMPARE_FAILURE.do_not_retry();
        assert_eq!(status.wire(), 0x4285);
        assert_eq!((status.code_type(), status.code()), (2, 0x85));
        assert!(status.is_do_not_retry() && !status.is_success());
        assert!(status.same_code(Status::COMPARE_FAILURE));
        assert_eq!(Status::from_wire(status.wire()), status);
    }
}
