//! Message gathering: how many of the waiting frames leave in one packet.
//!
//! Whatever one turn has produced for one node waits in that node's queue and leaves at the end of the turn, in as few
//! packets as it fits into: never delayed, always together. Switched off, each message leaves at once in a packet of its
//! own, which is what the patent's Figure 17a shows and what gathering is compared with.
//!
//! Source: US patent application in `seed/`, section 10, Figures 17a and 17b.

use super::packet::{Credit, FRAME_BYTES_MAX, FRAMES_MAX};

/// Whether messages share packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gathering {
    /// All messages of a turn for one node leave in one packet, at the end of the turn.
    On,
    /// Each message leaves in its own packet, at once.
    Off,
}

/// What goes into the next packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Number of frames.
    pub frames: u16,
    /// Their bytes, headers included.
    pub bytes: u32,
    /// More would have gone into it if the receiver had granted more.
    pub is_out_of_credit: bool,
}

impl Gathering {
    /// Cuts the next packet from the lengths of the waiting frames, within what the receiver still grants.
    pub fn cut(self, lengths: impl Iterator<Item = u32>, credit: Credit) -> Cut {
        let frames_max = match self {
            Self::On => FRAMES_MAX,
            Self::Off => 1,
        };
        let mut cut = Cut::default();
        for length in lengths {
            let bytes = cut.bytes + length;
            if cut.frames == frames_max || bytes as usize > FRAME_BYTES_MAX {
                break;
            }
            if u64::from(cut.frames) == credit.frames || u64::from(bytes) > credit.bytes {
                cut.is_out_of_credit = true;
                break;
            }
            cut.frames += 1;
            cut.bytes = bytes;
        }
        assert!(cut.bytes as usize <= FRAME_BYTES_MAX, "a cut fits a packet");
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Credit = Credit {
        frames: u64::MAX,
        bytes: u64::MAX,
    };

    /// M1: gathering puts all into one packet, and a packet has one message without it.
    #[test]
    fn all_that_waits_leaves_together_or_each_alone() {
        let on = Gathering::On.cut([10, 20, 30].into_iter(), PLENTY);
        assert_eq!((on.frames, on.bytes), (3, 60));
        let off = Gathering::Off.cut([10, 20, 30].into_iter(), PLENTY);
        assert_eq!((off.frames, off.bytes, off.is_out_of_credit), (1, 10, false));
    }

    #[test]
    fn a_packet_ends_at_its_bounds_and_at_the_grant() {
        let long = u32::try_from(FRAME_BYTES_MAX).expect("fits");
        let bytes = Gathering::On.cut([long - 8, 8, 8].into_iter(), PLENTY);
        assert_eq!((bytes.frames, bytes.bytes), (2, long));
        let frames = Gathering::On.cut([8; 5000].into_iter(), PLENTY);
        assert_eq!((frames.frames, frames.is_out_of_credit), (FRAMES_MAX, false));
        for (frames, bytes, fit) in [(2, 1000, 2), (9, 16, 2), (9, 15, 1), (0, 1000, 0), (9, 7, 0)] {
            let cut = Gathering::On.cut([8; 4].into_iter(), Credit { frames, bytes });
            assert_eq!((cut.frames, cut.is_out_of_credit), (fit, true));
        }
    }
}
