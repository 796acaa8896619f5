//! What a node's links are made of.

use nvme::crc32c::Crc32c;

use super::gather::Gathering;
use super::name::Lane;
use super::packet::{Credit, FRAME_BYTES_MAX, FRAMES_MAX};
use crate::icl::{ArrayId, Node};

/// What every receiver grants from the beginning of an epoch without saying so: one packet, so that the first messages
/// need not wait for a round trip.
pub const INITIAL_CREDIT: Credit = Credit {
    frames: FRAMES_MAX as u64,
    bytes: FRAME_BYTES_MAX as u64,
};

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A connection such as TCP: after bytes that are no packet it must end.
    Stream,
    /// Single packets, which stand for themselves: one that is damaged is dropped.
    Datagram,
}

/// Intervals in nanoseconds. All are starting points, to be measured.
///
/// Source: PROTOCOL section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// From ping to ping on each path.
    pub ping_ns: u64,
    /// A path on which nothing came in for so long is closed: two pings were lost.
    pub path_silent_ns: u64,
    /// A peer of which nothing came in for so long is suspected (T_susp): three pings were lost.
    pub suspect_ns: u64,
    /// What is not acknowledged is sent again after this or four round trips, whichever is longer; the interval doubles
    /// as long as nothing is acknowledged.
    pub resend_ns_min: u64,
    /// It doubles up to this.
    pub resend_ns_max: u64,
    /// An acknowledgement waits for a packet to travel with, but no longer than this.
    pub ack_delay_ns: u64,
    /// A tick that comes so much later than the last one and than was asked for shows that this node itself was paused:
    /// what peers did not say meanwhile is no sign that they are silent (H06).
    pub pause_ns: u64,
}

impl Timers {
    /// The values of PROTOCOL section 3.1.
    pub const DEFAULT: Self = Self {
        ping_ns: 250_000_000,
        path_silent_ns: 600_000_000,
        suspect_ns: 750_000_000,
        resend_ns_min: 50_000_000,
        resend_ns_max: 400_000_000,
        ack_delay_ns: 2_000_000,
        pause_ns: 100_000_000,
    };

    /// How old the last ping with an answer may be on a path that is heard: as old as the last sign of a silent one, and a
    /// ping older, because a path that is silent both ways shall count as that.
    pub(super) const fn path_unanswered_ns(&self) -> u64 {
        self.path_silent_ns + self.ping_ns
    }
}

/// What a node's links are made of.
#[derive(Clone, Copy, Debug)]
pub struct LinkConfig {
    /// The array.
    pub array: ArrayId,
    /// This node, in this life.
    pub local: Node,
    /// Which of the node's links these are.
    pub lane: Lane,
    /// Whether messages share packets (M1).
    pub gathering: Gathering,
    /// What carries them.
    pub medium: Medium,
    /// Checksum of the packets.
    pub crc: Crc32c,
    /// Bytes of frames that are queued for one peer, those that are sent and not acknowledged included.
    pub queue_bytes: u32,
    /// Frames of the same.
    pub queue_frames: u32,
    /// Frames that a peer may send ahead of what was consumed.
    pub window_frames: u32,
    /// Bytes of the same.
    pub window_bytes: u32,
    /// Bytes that wait to leave on a path beyond which no more packets are composed for it: what is produced meanwhile
    /// gathers in the queue.
    pub unsent_bytes_max: u32,
    /// Intervals.
    pub timers: Timers,
}

impl LinkConfig {
    /// Usual bounds: per peer 1 MiB of queue, and half of that to be sent ahead.
    pub const fn new(array: ArrayId, local: Node, lane: Lane, crc: Crc32c) -> Self {
        Self {
            array,
            local,
            lane,
            gathering: Gathering::On,
            medium: Medium::Stream,
            crc,
            queue_bytes: 1 << 20,
            queue_frames: 4096,
            window_frames: 4096,
            window_bytes: 512 << 10,
            unsent_bytes_max: 256 << 10,
            timers: Timers::DEFAULT,
        }
    }

    /// Panics if the parts contradict each other: all of it is our own choice.
    pub(super) fn check(&self) {
        let timers = &self.timers;
        assert!(
            self.queue_bytes as usize >= 2 * FRAME_BYTES_MAX && self.queue_frames >= 2,
            "half of a queue takes any message"
        );
        assert!(
            u64::from(self.window_frames) >= INITIAL_CREDIT.frames
                && u64::from(self.window_bytes) >= INITIAL_CREDIT.bytes * 4 / 3,
            "what is granted at first is granted, and three quarters of a window take any message"
        );
        assert!(self.unsent_bytes_max > 0, "something may leave");
        assert!(timers.ping_ns > 0 && timers.resend_ns_min > 0, "time passes");
        assert!(
            timers.ping_ns < timers.path_silent_ns && timers.path_silent_ns <= timers.suspect_ns,
            "a path is given up before its peer is"
        );
        assert!(
            timers.resend_ns_min <= timers.resend_ns_max,
            "an interval that doubles"
        );
    }
}
