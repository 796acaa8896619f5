//! What names a drive command of a piece: piece, run and member in one number.

use super::IoTag;
use crate::amf::{MEMBERS_MAX, MemberIndex, row};

// An I/O tag is: piece | run (7 bits) | member (5 bits). The run tells a member's transfers of one phase apart: of a
// write of 64 extents every other interval of a strip may be one of its own, and two more are cut by columns' ends.
const MEMBER_BITS: u32 = 5;
const RUN_BITS: u32 = 7;
pub(super) const IO_TAG_SHIFT: u32 = MEMBER_BITS + RUN_BITS;

/// Numbers that the piece field of a tag can have.
pub(super) const TAG_PIECES: u32 = 1 << (u32::BITS - IO_TAG_SHIFT);

const _: () = assert!(1 << MEMBER_BITS == MEMBERS_MAX);
const _: () = assert!(1 << RUN_BITS >= row::EXTENTS_MAX + 2);

pub(super) fn tag(piece: u32, run: u32, member: MemberIndex) -> IoTag {
    IoTag(piece << IO_TAG_SHIFT | run << MEMBER_BITS | u32::from(member.0))
}

/// The tag of a member's next transfer in this phase.
pub(super) fn next_tag(piece: u32, member: MemberIndex, runs: &mut [u32; MEMBERS_MAX]) -> IoTag {
    let run = &mut runs[usize::from(member.0)];
    assert!(
        *run < 1 << RUN_BITS,
        "a member has at most 128 transfers in a phase"
    );
    let io = tag(piece, *run, member);
    *run += 1;
    io
}

pub(super) fn member_of(io: IoTag) -> MemberIndex {
    MemberIndex(u8::try_from(io.0 & ((1 << MEMBER_BITS) - 1)).expect("five bits fit"))
}

/// Which of the member's transfers of this phase it is.
pub(super) const fn run_of(io: IoTag) -> u32 {
    io.0 >> MEMBER_BITS & ((1 << RUN_BITS) - 1)
}
