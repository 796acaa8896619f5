use super::*;
use crate::amf::RowIndex;
use crate::amf::expansion::Layout;
use crate::amf::geometry::{Geometry, Level};
use crate::amf::journal::codec::{BatchHeader, Entry};
use crate::amf::superblock::Uuid;
use crate::drive::block::{BlockSize, MemberLba};

const BLOCK: usize = 512;
const LANE_BLOCKS: u32 = 16;

fn layout() -> JournalLayout {
    JournalLayout {
        start: MemberLba(0),
        lane_blocks: LANE_BLOCKS,
        lanes: 1,
        incarnation: 5,
        group: Uuid([1; 16]),
        block: BlockSize::B512,
    }
}

fn scan() -> Scan {
    let geometry = Geometry::new(Level::Raid5, 3, 4, MemberLba(100), 8, BlockSize::B512).expect("legal");
    Scan::new(layout(), Layout::fixed(geometry))
}

fn header(lane: u16, batch: u64, position: u32, tail: u64, payload_blocks: u32) -> BatchHeader {
    BatchHeader {
        group: layout().group,
        incarnation: layout().incarnation,
        lane,
        batch,
        position,
        tail,
        payload_blocks,
    }
}

/// Puts a batch with one write into a lane; its payload is `fill` all over.
fn put(lane: &mut [u8], header: &BatchHeader, seq: u64, fill: u8) {
    let blocks = header.payload_blocks;
    let payload = vec![fill; blocks as usize * BLOCK];
    let entry = Entry::Write {
        members: 3,
        row: RowIndex(2),
        start_blocks: 0,
        blocks,
        seq,
        payload_block: 0,
    };
    let entries: &[Entry] = if blocks == 0 { &[] } else { &[entry] };
    let at = header.position as usize * BLOCK;
    codec::encode(
        header,
        entries,
        crc32c::portable(0, &payload),
        &mut lane[at..at + BLOCK],
    );
    lane[at + BLOCK..][..payload.len()].copy_from_slice(&payload);
}

fn empty() -> Vec<u8> {
    vec![0; LANE_BLOCKS as usize * BLOCK]
}

fn found(lanes: &[(u8, u16, &[u8])]) -> Found {
    let mut scan = scan();
    for (member, lane, bytes) in lanes {
        scan.lane(MemberIndex(*member), *lane, bytes)
            .expect("sound records");
    }
    scan.finish()
}

fn numbers(found: &Found) -> Vec<(u16, u64)> {
    let name = |found: &FoundBatch| (found.batch.header.lane, found.batch.header.batch);
    found.batches.iter().map(name).collect()
}

#[test]
fn the_same_batch_on_several_members_counts_once() {
    let mut lane = empty();
    put(&mut lane, &header(0, 1, 3, 10, 2), 10, 0xaa);
    let found = found(&[(0, 0, &lane), (2, 0, &lane), (1, 0, &empty())]);
    assert_eq!((numbers(&found), found.batches[0].members), (vec![(0, 1)], 0b101));
    assert_eq!(found.batches[0].payload, [0xaa; 2 * BLOCK]);
    assert_eq!((found.tail, found.next_seq, found.torn_batches), (10, 11, 0));
}

/// H23: a batch of which any block is missing is not there, unless another member has it whole.
#[test]
fn h23_a_torn_batch_is_ignored() {
    let mut whole = empty();
    put(&mut whole, &header(0, 1, 3, 10, 2), 10, 0xaa);
    for missing in 3..6 {
        let mut torn = whole.clone();
        torn[missing * BLOCK..][..BLOCK].fill(0);
        let alone = found(&[(0, 0, &torn)]);
        assert_eq!(numbers(&alone), []);
        assert_eq!(
            alone.torn_batches,
            u64::from(missing != 3),
            "without a header nothing is known of it"
        );
        let both = found(&[(0, 0, &torn), (1, 0, &whole)]);
        assert_eq!((both.batches[0].members, both.torn_batches), (0b10, 0));
    }
}

#[test]
fn a_later_batch_over_a_part_of_an_older_one_makes_that_void() {
    let mut lane = empty();
    put(&mut lane, &header(0, 1, 0, 10, 4), 10, 0xaa);
    put(&mut lane, &header(0, 8, 2, 30, 1), 40, 0xbb);
    let found = found(&[(0, 0, &lane)]);
    assert_eq!((numbers(&found), found.torn_batches), (vec![(0, 8)], 0));
}

/// A batch inside the payload of a whole one is somebody's data.
#[test]
fn payload_is_not_searched_for_headers() {
    let mut lane = empty();
    let inner = header(0, 99, 2, 1000, 1);
    put(&mut lane, &inner, 1001, 0xbb);
    let payload = lane[BLOCK..5 * BLOCK].to_vec();
    let outer = header(0, 1, 0, 10, 4);
    put(&mut lane, &outer, 10, 0);
    lane[BLOCK..5 * BLOCK].copy_from_slice(&payload);
    let entries = codec::parse(&lane[..BLOCK]).expect("a header").entries;
    codec::encode(
        &outer,
        &entries,
        crc32c::portable(0, &payload),
        &mut lane[..BLOCK],
    );
    let found = found(&[(0, 0, &lane)]);
    assert_eq!((numbers(&found), found.tail), (vec![(0, 1)], 10));
}

/// The tail of any header counts, of a torn batch and of one without entries too.
#[test]
fn the_largest_tail_decides() {
    let (mut lane, mut other) = (empty(), empty());
    put(&mut lane, &header(0, 1, 0, 5, 1), 10, 0xaa);
    put(&mut lane, &header(0, 2, 2, 5, 1), 20, 0xaa);
    assert_eq!(numbers(&found(&[(0, 0, &lane)])), [(0, 1), (0, 2)]);
    put(&mut other, &header(0, 3, 4, 11, 0), 0, 0);
    let tailed = found(&[(0, 0, &lane), (1, 0, &other)]);
    assert_eq!((numbers(&tailed), tailed.tail), (vec![(0, 2)], 11));
    put(&mut other, &header(0, 4, 6, 50, 2), 60, 0xcc);
    other[8 * BLOCK] ^= 1;
    let torn = found(&[(0, 0, &lane), (1, 0, &other)]);
    assert_eq!((numbers(&torn), torn.tail, torn.torn_batches), (vec![], 50, 1));
    assert_eq!(torn.next_seq, 61, "a number that was seen is not given again");
}

/// Bad input: another group, incarnation, lane or place, or longer than the lane.
#[test]
fn what_does_not_belong_here_is_ignored() {
    let good = header(0, 1, 3, 10, 2);
    let mut lane = empty();
    for wrong in [
        BatchHeader {
            group: Uuid([2; 16]),
            ..good
        },
        BatchHeader {
            incarnation: 6,
            ..good
        },
        BatchHeader { lane: 1, ..good },
    ] {
        put(&mut lane, &wrong, 10, 0xaa);
        assert_eq!(found(&[(0, 0, &lane)]), scan().finish(), "{wrong:?}");
    }
    put(&mut lane, &good, 10, 0xaa);
    lane.copy_within(3 * BLOCK..6 * BLOCK, 4 * BLOCK);
    lane[3 * BLOCK..4 * BLOCK].fill(0);
    assert_eq!(found(&[(0, 0, &lane)]), scan().finish(), "not where it says");
    let mut long = empty();
    let at = 14 * BLOCK;
    codec::encode(&header(0, 1, 14, 0, 2), &[], 0, &mut long[at..at + BLOCK]);
    assert_eq!(
        found(&[(0, 0, &long)]),
        scan().finish(),
        "beyond the end of the lane"
    );
}

/// A record of ours that cannot be is a bug, or another version: the start is stopped, not the record passed over.
#[test]
fn impossible_records_stop_the_scan() {
    let mut lane = empty();
    put(&mut lane, &header(0, 1, 3, 10, 2), 10, 0xaa);
    let mut other = empty();
    put(&mut other, &header(0, 1, 3, 10, 1), 10, 0xaa);
    let mut contradicted = scan();
    contradicted.lane(MemberIndex(0), 0, &lane).expect("sound");
    let error = contradicted
        .lane(MemberIndex(1), 0, &other)
        .expect_err("another batch of that name");
    assert_eq!(
        (error.member, error.what),
        (MemberIndex(1), Impossible::Contradiction)
    );
    let mut outside = empty();
    put(&mut outside, &header(0, 1, 0, 10, 9), 10, 0xaa);
    let error = scan()
        .lane(MemberIndex(0), 0, &outside)
        .expect_err("a row has 8 blocks");
    assert_eq!(error.what, Impossible::Outside);
}

/// Of the recovery lane the newest round counts whose first batch is whole, and no batch of another round.
#[test]
fn the_newest_whole_round_of_the_recovery_lane_counts() {
    let recovery = layout().recovery_lane();
    let mut old = empty();
    put(&mut old, &header(recovery, 1, 0, 0, 2), 10, 0xaa);
    put(&mut old, &header(recovery, 1, 3, 0, 2), 11, 0xaa);
    put(&mut old, &header(recovery, 1, 6, 0, 2), 12, 0xaa);
    assert_eq!(found(&[(0, recovery, &old)]).batches.len(), 3);
    // Round 2 was shorter: what lies behind it is of round 1.
    let mut newer = old.clone();
    put(&mut newer, &header(recovery, 2, 0, 0, 2), 20, 0xbb);
    let both = found(&[(0, recovery, &newer), (1, recovery, &old)]);
    assert_eq!((numbers(&both), both.round), (vec![(recovery, 2)], 2));
    // Round 3 is torn at its start: rounds 1 and 2 are in place, and nothing of 3 is.
    newer[BLOCK] ^= 1;
    let torn = found(&[(0, recovery, &newer)]);
    assert_eq!((numbers(&torn), torn.round, torn.torn_batches), (vec![], 2, 0));
}

/// Bad input of every kind at once: nothing panics, and the tail that is found was written by somebody.
#[test]
fn any_bytes_are_scanned() {
    let mut state = 77_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..500 {
        let mut lane = empty();
        put(&mut lane, &header(0, 1, 0, 5, 1), 10, 0xaa);
        put(&mut lane, &header(0, 2, 5, 7, 3), 20, 0xaa);
        put(&mut lane, &header(0, 3, 12, 9, 3), 30, 0xaa);
        for _ in 0..random() % 40 {
            let at = usize::try_from(random() % lane.len() as u64).expect("small");
            lane[at] = random().to_le_bytes()[1];
        }
        let found = found(&[(0, 0, &lane)]);
        assert!([0, 5, 7, 9].contains(&found.tail), "{}", found.tail);
    }
}

#[test]
fn scans_that_know_the_same_have_the_same_names() {
    let summary = |lanes: &[&[u8]]| {
        let mut scan = scan();
        for (member, bytes) in (0..).zip(lanes) {
            scan.lane(MemberIndex(member), 0, bytes).expect("sound records");
        }
        scan.summary()
    };
    let (mut old, mut torn, mut whole) = (empty(), empty(), empty());
    put(&mut old, &header(0, 1, 0, 1, 1), 1, 7);
    put(&mut whole, &header(0, 2, 4, 2, 2), 2, 8);
    torn.copy_from_slice(&whole);
    torn[5 * BLOCK] ^= 1;
    let states = [&empty(), &old, &torn, &whole].map(|bytes| summary(&[bytes]));
    for (at, state) in states.iter().enumerate() {
        assert!(!states[at + 1..].contains(state), "{state}");
    }
    // What the new tail has retired does not count, and neither does what is left of it.
    assert_eq!(summary(&[&whole, &old]), summary(&[&whole, &empty()]));
    let mut broken = old.clone();
    broken[BLOCK] ^= 1;
    assert_eq!(summary(&[&whole, &broken]), summary(&[&whole, &empty()]));
    assert_ne!(summary(&[&whole, &whole]), summary(&[&whole, &empty()]));
}

/// PROTOCOL H19: what a node that is gone has left below its lane's floor is over; what it said of other lanes is true still.
#[test]
fn entries_below_the_floor_of_their_lane_do_not_count() {
    let (mut lane, mut recovery) = (empty(), empty());
    put(&mut lane, &header(0, 1, 0, 10, 1), 10, 0xaa);
    put(&mut lane, &header(0, 2, 2, 11, 1), 20, 0xbb);
    put(&mut recovery, &header(1, 7, 0, 5, 1), 15, 0xcc);
    let found = |floors: [u64; 2]| {
        let mut all = LaneFloors::default();
        all[..2].copy_from_slice(&floors);
        let mut scan = scan();
        scan.set_floors(all);
        for (number, bytes) in [(0, &lane), (1, &recovery)] {
            scan.lane(MemberIndex(0), number, bytes).expect("sound records");
        }
        scan.finish()
    };
    assert_eq!(numbers(&found([0, 0])), [(0, 2), (1, 7)]);
    assert_eq!(numbers(&found([20, 15])), [(0, 2), (1, 7)]);
    assert_eq!(numbers(&found([21, 15])), [(1, 7)]);
    assert_eq!(numbers(&found([20, 16])), [(0, 2)]);
    let over = found([21, 16]);
    assert_eq!(numbers(&over), []);
    assert_eq!((over.tail, over.next_seq, over.round), (11, 21, 7));
    assert!(!over.counts(0, 20) && over.counts(0, 21) && over.counts(1, 16));
}

/// A lane that is being written has batches that are half there; they are nobody's concern.
#[test]
fn a_living_lane_may_be_torn_and_contradict_itself() {
    let (mut here, mut there) = (empty(), empty());
    put(&mut here, &header(0, 1, 3, 10, 2), 10, 0xaa);
    put(&mut there, &header(0, 1, 3, 10, 2), 10, 0xbb);
    let mut torn = here.clone();
    torn[4 * BLOCK..5 * BLOCK].fill(0);
    let mut living = scan();
    living.set_living(0b1);
    for (member, bytes) in [(0, &torn), (1, &here), (2, &there)] {
        living.lane(MemberIndex(member), 0, bytes).expect("it lives");
    }
    let found = living.finish();
    assert_eq!((found.batches[0].members, found.torn_batches), (0b10, 0));
    let mut alone = scan();
    alone.set_living(0b1);
    alone.lane(MemberIndex(0), 0, &torn).expect("it lives");
    assert_eq!(alone.finish().torn_batches, 0);
}

#[test]
#[should_panic(expected = "a living node has lanes of its own")]
fn nobody_lives_in_the_recovery_lane() {
    scan().set_living(0b10);
}

/// A mark at its place in the recovery lane.
fn put_mark(lane: &mut [u8], number: u64, without: u32, seq: u64) {
    let mark = Mark {
        number,
        without,
        seq,
        in_place: [(RowIndex(2), seq - 1)].into(),
    };
    let bytes = mark::encode(&mark, &layout());
    let at = mark::position(&layout(), number) as usize * BLOCK;
    lane[at..at + bytes.len()].copy_from_slice(&bytes);
}

/// What of marks counts: number, members that have it, the largest number.
fn marks(found: &Found) -> (Option<(u64, u32)>, u64) {
    let counts = found
        .mark
        .as_ref()
        .map(|found| (found.mark.number, found.members));
    (counts, found.mark_number)
}

/// The newest mark counts that is whole anywhere; of a torn one only the number is known, which nobody may have again.
#[test]
fn the_newest_whole_mark_counts() {
    let recovery = layout().recovery_lane();
    let mut first = empty();
    put_mark(&mut first, 1, 0, 50);
    let mut second = first.clone();
    put_mark(&mut second, 2, 0, 60);
    assert_eq!(marks(&found(&[(0, recovery, &first)])), (Some((1, 0b1)), 1));
    let both = found(&[
        (0, recovery, &second),
        (1, recovery, &first),
        (2, recovery, &second),
    ]);
    assert_eq!((marks(&both), both.next_seq), ((Some((2, 0b101)), 2), 61));
    let mut torn = second.clone();
    torn[(mark::position(&layout(), 2) as usize + 1) * BLOCK] ^= 1;
    let found_torn = found(&[(0, recovery, &torn)]);
    assert_eq!(
        (marks(&found_torn), found_torn.next_seq),
        ((Some((1, 0b1)), 2), 61)
    );
    // In another lane it is data.
    assert_eq!(marks(&found(&[(0, 0, &second)])), (None, 0));
}

/// A mark is over with the entries of its lane.
#[test]
fn a_mark_that_is_over_does_not_count() {
    let recovery = layout().recovery_lane();
    let mut lane = empty();
    put_mark(&mut lane, 1, 0b10, 50);
    for (floor, counts) in [(50, true), (51, false)] {
        let mut scan = scan();
        let mut floors = LaneFloors::default();
        floors[usize::from(recovery)] = floor;
        scan.set_floors(floors);
        scan.lane(MemberIndex(0), recovery, &lane)
            .expect("nothing is wrong");
        assert_eq!(scan.finish().mark.is_some(), counts, "floor {floor}");
    }
    let mut tail = empty();
    put(&mut tail, &header(0, 1, 0, 51, 0), 0, 0);
    assert_eq!(marks(&found(&[(0, recovery, &lane), (0, 0, &tail)])), (None, 1));
}

/// Two marks may have the same number: one was written while the member was away that has the other. That one says so.
#[test]
fn of_marks_with_the_same_number_the_one_with_fewer_members_counts() {
    let recovery = layout().recovery_lane();
    let (mut away, mut without) = (empty(), empty());
    put_mark(&mut away, 3, 0, 50);
    put_mark(&mut without, 3, 0b1, 50);
    for order in [[(0, &away), (1, &without)], [(1, &without), (0, &away)]] {
        let order: Vec<_> = order
            .iter()
            .map(|(member, lane)| (*member, recovery, *lane))
            .collect();
        let mut scan = scan();
        for (member, lane, bytes) in order {
            scan.lane(MemberIndex(member), lane, bytes)
                .expect("nothing is wrong");
        }
        let found = scan.finish().mark.expect("there are two");
        assert_eq!((found.mark.without, found.members), (0b1, 0b10));
    }
}

/// A batch of another version stops the start if it is of this opening: others are dead anyway.
#[test]
fn only_a_living_journal_of_another_version_is_refused() {
    let mut lane = empty();
    put(&mut lane, &header(0, 1, 0, 10, 1), 10, 0xaa);
    let at = 12;
    lane[at] += 1;
    let crc = crc32c::portable(crc32c::portable(0, &lane[..8]), &lane[12..BLOCK]);
    lane[8..12].copy_from_slice(&crc.to_le_bytes());
    let error = scan()
        .lane(MemberIndex(0), 0, &lane)
        .expect_err("another version");
    assert_eq!(error.what, Impossible::Version);
    lane[32] += 1;
    let crc = crc32c::portable(crc32c::portable(0, &lane[..8]), &lane[12..BLOCK]);
    lane[8..12].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(found(&[(0, 0, &lane)]).batches, []);
}

/// A batch as another node keeps it for the one that wrote it: header and payload.
fn copy(header: &BatchHeader, seq: u64, fill: u8) -> Vec<u8> {
    let mut lane = empty();
    put(&mut lane, header, seq, fill);
    let blocks = header.payload_blocks as usize + 1;
    lane[header.position as usize * BLOCK..][..blocks * BLOCK].to_vec()
}

/// What is found in a lane, and in what others keep.
fn with_copies(lane: &[u8], copies: &[&[u8]]) -> Found {
    let mut scan = scan();
    scan.lane(MemberIndex(0), 0, lane).expect("sound records");
    for copy in copies {
        scan.copy(copy).expect("none of them stops the scan");
    }
    scan.finish()
}

/// CHECKLIST C3, PROTOCOL H19: what drives have and what others have kept in memory is read together: a batch is what it is wherever it is found, however often.
#[test]
fn a_batch_that_others_keep_counts_as_one_on_a_drive() {
    let kept = header(0, 2, 5, 10, 2);
    let copy = copy(&kept, 20, 0xbb);
    let mut lane = empty();
    put(&mut lane, &header(0, 1, 0, 10, 1), 10, 0xaa);
    let alone = with_copies(&lane, &[&copy, &copy]);
    assert_eq!((numbers(&alone), alone.next_seq), (vec![(0, 1), (0, 2)], 21));
    let FoundBatch { payload, members, .. } = &alone.batches[1];
    assert_eq!(
        (&payload[..], *members),
        (&[0xbb; 2 * BLOCK][..], 0),
        "no drive has it"
    );
    put(&mut lane, &kept, 20, 0xbb);
    let both = with_copies(&lane, &[&copy]);
    assert_eq!(
        (numbers(&both), both.batches[1].members),
        (vec![(0, 1), (0, 2)], 0b1)
    );
    lane[7 * BLOCK] ^= 1;
    let torn = with_copies(&lane, &[&copy]);
    assert_eq!((numbers(&torn), torn.torn_batches), (vec![(0, 1), (0, 2)], 0));
    assert_eq!(torn.batches[1].payload, [0xbb; 2 * BLOCK]);
}

/// Bad input, PROTOCOL H19: what others keep is damaged, cut off, no batch, or one of another group, opening or place, of a lane that lives or is a replay's, or older than what counts:
/// it is as if it were not there.
#[test]
fn what_others_keep_does_not_count_if_it_is_none_of_ours() {
    let good = header(0, 2, 5, 10, 2);
    let batch = copy(&good, 20, 0xbb);
    let mut lane = empty();
    put(&mut lane, &header(0, 1, 0, 10, 1), 10, 0xaa);
    let without = with_copies(&lane, &[]);
    for at in 0..batch.len() {
        let mut damaged = batch.clone();
        damaged[at] ^= 0x10;
        assert_eq!(with_copies(&lane, &[&damaged]), without, "byte {at}");
    }
    for end in 0..batch.len() {
        assert_eq!(with_copies(&lane, &[&batch[..end]]), without, "{end} bytes");
    }
    let long = [&batch[..], &[0; BLOCK]].concat();
    assert_eq!(with_copies(&lane, &[&long]), without, "a block too many");
    let (group, incarnation) = (Uuid([2; 16]), 6);
    for wrong in [
        BatchHeader { group, ..good },
        BatchHeader { incarnation, ..good },
        BatchHeader { lane: 1, ..good },
        BatchHeader { lane: 31, ..good },
        BatchHeader { tail: 1, ..good },
    ] {
        let seq = if wrong.tail == 1 { 9 } else { 20 };
        assert_eq!(
            with_copies(&lane, &[&copy(&wrong, seq, 0xbb)]),
            without,
            "{wrong:?}"
        );
    }
    let mut living = scan();
    living.set_living(0b1);
    living.copy(&batch).expect("sound");
    assert_eq!(numbers(&living.finish()), []);
    let mut floors = LaneFloors::default();
    floors[0] = 21;
    let mut over = scan();
    over.set_floors(floors);
    over.copy(&batch).expect("sound");
    assert_eq!(
        numbers(&over.finish()),
        [],
        "another life has left that, and it is in its place"
    );
}

/// Bad input: a sound batch of ours that names blocks which the group has not is a bug somewhere, wherever it was kept.
#[test]
fn an_impossible_batch_that_others_keep_stops_the_scan() {
    let error = scan().copy(&copy(&header(0, 1, 0, 10, 9), 10, 0xaa));
    assert_eq!(error.expect_err("a row has 8 blocks").what, Impossible::Outside);
}
