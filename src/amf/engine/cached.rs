//! Whole engines that remember what they read: no read ever returns what was before, on whichever core, and reading ahead
//! gets into nobody's way.

use super::executor::{Owed, Random, Shape, World, drive_io};
use super::tests::{Rebuilder, Run, any_shape, with_own_commands};
use super::*;
use crate::amf::geometry::Level;

/// Blocks of a page in these groups.
const PAGE: u64 = 8;

/// Rows of three strips of 16 blocks, six pages.
const GROUP: Shape = Shape {
    strip: 16,
    rows: 16,
    ..Shape::SMALL
};

const JOURNALED: Shape = Shape {
    journal: Some(Durability::Journal),
    ..GROUP
};

/// A group of these cores with data everywhere, all of it in its place, and nothing read yet.
fn world(shape: &Shape, window_bytes: u32) -> (World, Vec<u8>) {
    let mut world = World::new(shape, 1);
    world.remember_reads(64, window_bytes);
    let data: Vec<u8> = (0..world.capacity()).map(|_| world.random.byte()).collect();
    world.write(0, 0, 0, &data);
    world.settle();
    world.drain();
    world.done.clear();
    (world, data)
}

/// Reads, and says how many blocks the drives were asked for. What they hold is compared with the data.
fn read(world: &mut World, core: usize, lba: u64, blocks: u32, data: &[u8]) -> u32 {
    world.read(core, 0, lba, blocks);
    let asked = world.asked(core);
    world.settle();
    assert_eq!(world.result(core, 0), Some(Ok(())));
    let start = usize::try_from(lba).expect("small");
    assert_eq!(
        world.cores[core].buffers[0],
        data[start..start + blocks as usize],
        "{blocks} from {lba}"
    );
    world.done.clear();
    asked.iter().map(read_blocks).sum()
}

fn read_blocks(action: &Action) -> u32 {
    if let Action::DriveRead { blocks, .. } = *action {
        blocks
    } else {
        0
    }
}

fn write(world: &mut World, core: usize, lba: u64, new: &[u8], data: &mut [u8]) {
    world.write(core, 0, lba, new);
    world.settle();
    assert_eq!(world.result(core, 0), Some(Ok(())));
    let start = usize::try_from(lba).expect("small");
    data[start..start + new.len()].copy_from_slice(new);
    world.done.clear();
}

#[test]
fn what_was_read_is_not_read_again() {
    let (mut world, data) = world(&GROUP, 0);
    assert_eq!(
        read(&mut world, 0, PAGE, 8, &data),
        8,
        "a page, and no more than that"
    );
    assert_eq!(read(&mut world, 0, PAGE, 8, &data), 0);
    assert_eq!(read(&mut world, 0, PAGE + 3, 2, &data), 0, "a part of it");
    assert_eq!(
        read(&mut world, 0, PAGE, 16, &data),
        16,
        "only half of it is here"
    );
    assert_eq!(read(&mut world, 0, PAGE, 16, &data), 0);
    assert_eq!(read(&mut world, 0, 50, 3, &data), 3, "less than a page");
    assert_eq!(read(&mut world, 0, 50, 3, &data), 3, "is not kept");
    assert_eq!(world.cores[0].engine.read_cache_counts().hits, 3);
    world.assert_idle();
}

/// Forced unit access is to see what the medium has.
#[test]
fn a_plain_read_goes_to_the_drives() {
    let (mut world, data) = world(&GROUP, 0);
    assert_eq!(read(&mut world, 0, 0, 8, &data), 8);
    let request = Request::Read {
        lba: GroupLba(0),
        blocks: 8,
    };
    world.submit(0, 0, request);
    assert_eq!(world.asked(0).len(), 1);
    world.settle();
    world.assert_idle();
}

/// CHECKLIST B9: a block is cached on three cores; when one writes it, no later read on any of them returns the old value.
#[test]
fn a_write_is_seen_on_all_cores_at_once() {
    for shape in [GROUP, JOURNALED] {
        let (mut world, mut data) = world(&Shape { cores: 3, ..shape }, 0);
        for writer in 0..3_u8 {
            for core in 0..3 {
                read(&mut world, core, 8, 8, &data);
                assert_eq!(read(&mut world, core, 8, 8, &data), 0, "it is remembered");
            }
            write(&mut world, usize::from(writer), 10, &[writer + 1; 3], &mut data);
            for core in (0..3).rev() {
                read(&mut world, core, 8, 8, &data);
            }
        }
        world.drain();
        world.assert_idle();
    }
}

/// D3: dirty data lies over what is remembered, and is in it once it has gone to its place.
#[test]
fn dirty_blocks_lie_over_remembered_ones() {
    // Nothing else is in the journal that would have the row destaged at once.
    let mut world = World::new(&JOURNALED, 1);
    world.remember_reads(64, 0);
    let mut data = vec![0; world.capacity()];
    read(&mut world, 0, 8, 8, &data);
    world.write(0, 0, 10, &[1; 2]);
    data[10..12].fill(1);
    while world.result(0, 0).is_none() {
        world.pay_any();
    }
    world.read(0, 1, 8, 8);
    assert_eq!(world.result(0, 1), Some(Ok(())), "page and journal have it all");
    assert_eq!(world.cores[0].buffers[1], data[8..16]);
    world.drain();
    world.done.clear();
    assert_eq!(
        read(&mut world, 0, 8, 8, &data),
        8,
        "the row was written in place"
    );
    world.assert_idle();
}

/// What a rebuild, a repair, a scrub that repairs or a resynchronisation writes is read anew.
#[test]
fn what_the_group_writes_by_itself_is_read_anew() {
    let row = RowIndex(0);
    let repair = Request::Repair {
        row,
        member: MemberIndex(1),
        offset_blocks: 0,
        blocks: 4,
    };
    let scrub = Request::Scrub { row, repair: true };
    for request in [repair, scrub, Request::Resync { row }] {
        for shape in [GROUP, JOURNALED] {
            let (mut world, data) = world(&shape, 0);
            read(&mut world, 0, 0, 8, &data);
            world.submit(0, 1, request);
            world.settle();
            assert_eq!(world.result(0, 1), Some(Ok(())));
            assert_eq!(read(&mut world, 0, 0, 8, &data), 8, "{request:?}");
            world.assert_idle();
        }
    }
}

/// A scrub looks at the drives, whatever is remembered: a bad block is found, and so is a wrong one.
#[test]
fn a_scrub_finds_what_reads_from_memory_would_hide() {
    let row = RowIndex(0);
    let (mut world, data) = world(&GROUP, 0);
    read(&mut world, 0, 0, 8, &data);
    let place = world.geometry.locate(GroupLba(2));
    let block = usize::try_from(place.lba.0).expect("small");
    world.bad_blocks.insert((usize::from(place.member.0), block));
    assert_eq!(read(&mut world, 0, 0, 8, &data), 0, "the host need not know");
    world.submit(0, 1, Request::Scrub { row, repair: false });
    world.settle();
    assert_eq!(world.media.len(), 1, "the scrub does");
    world.bad_blocks.clear();
    world.drives[usize::from(place.member.0)][block] ^= 1;
    world.submit(0, 2, Request::Scrub { row, repair: false });
    world.settle();
    let (_, outcome) = world.scrubbed.last().expect("it says what it found");
    assert!(matches!(outcome, ScrubOutcome::Mismatch { .. }));
    world.assert_idle();
}

#[test]
fn regenerated_data_is_remembered() {
    let (mut world, data) = world(&GROUP, 0);
    world.fail_members(1 << world.geometry.locate(GroupLba(0)).member.0);
    world.settle();
    assert_eq!(read(&mut world, 0, 0, 8, &data), 24, "of all others");
    assert_eq!(read(&mut world, 0, 0, 8, &data), 0);
    world.assert_idle();
}

/// A lost group may have told hosts of writes that its drives do not hold, or never will.
#[test]
fn a_lost_group_answers_nothing_from_memory() {
    let striped = Shape {
        level: Level::Raid0,
        ..GROUP
    };
    for (shape, lost) in [(JOURNALED, 0b11), (striped, 0b1)] {
        let (mut world, data) = world(&shape, 0);
        read(&mut world, 0, 0, 8, &data);
        assert_eq!(world.geometry.locate(GroupLba(0)).member, MemberIndex(0));
        world.fail_members(lost);
        world.settle();
        world.read(0, 0, 0, 8);
        assert_eq!(world.result(0, 0), Some(Err(GroupError::TooManyMembersLost)));
    }
}

#[test]
fn a_cache_that_is_cleared_has_nothing() {
    let (mut world, data) = world(&GROUP, 8 << 10);
    read(&mut world, 0, 0, 8, &data);
    world.cores[0].engine.clear_read_cache();
    assert_eq!(read(&mut world, 0, 0, 8, &data), 8);
    world.assert_idle();
}

/// Three reads in a row, which prove a stream: what comes next is asked for, and not answered yet.
fn stream(shape: &Shape) -> (World, Vec<u8>) {
    let (mut world, data) = world(shape, 16 << 10);
    for lba in [0, 8] {
        read(&mut world, 0, lba, 8, &data);
    }
    world.read(0, 0, 16, 8);
    (world, data)
}

/// Where in the core's own scratch, not in a host's buffer.
fn reads_ahead(action: &Action) -> bool {
    matches!(
        action,
        Action::DriveRead {
            into: Place::Scratch { .. },
            ..
        }
    )
}

#[test]
fn a_stream_finds_its_data_in_memory() {
    let (mut world, data) = stream(&GROUP);
    assert!(world.asked(0).iter().any(reads_ahead));
    world.settle();
    world.done.clear();
    let mut asked = 0;
    for lba in (24..world.capacity() as u64).step_by(8) {
        asked += read(&mut world, 0, lba, 8, &data);
    }
    let counts = world.cores[0].engine.read_cache_counts();
    assert_eq!(counts.misses, 3, "those that proved it");
    assert_eq!(
        u64::from(asked),
        world.capacity() as u64 - 48,
        "nothing is read twice"
    );
    assert_eq!(counts.prefetched, counts.prefetched_used);
    world.assert_idle();
}

/// A read that comes before what was read ahead waits for that instead of asking again.
#[test]
fn a_read_waits_for_what_is_on_its_way() {
    let (mut world, data) = stream(&GROUP);
    world.read(0, 1, 24, 8);
    let for_hosts = world.asked(0).into_iter().filter(|action| !reads_ahead(action));
    assert_eq!(for_hosts.count(), 1, "no drive is asked again");
    assert_eq!(world.result(0, 1), None);
    world.settle();
    assert_eq!(world.result(0, 1), Some(Ok(())));
    assert_eq!(world.cores[0].buffers[1], data[24..32]);
    world.assert_idle();
}

#[test]
fn a_read_that_waits_may_be_aborted_or_given_up() {
    for given_up in [false, true] {
        let (mut world, _) = stream(&GROUP);
        world.read(0, 1, 24, 8);
        if given_up {
            world.give_up(0, 1);
        } else {
            assert!(world.abort(0, 1));
        }
        assert_eq!(world.result(0, 1), Some(Err(GroupError::Aborted)));
        world.settle();
        world.assert_idle();
    }
}

/// What could not be read ahead is read by whoever needs it; blocks that are bad are reported, and gone round.
#[test]
fn a_read_does_without_what_could_not_be_read_ahead() {
    for error in [DriveError::Media, DriveError::Gone] {
        let (mut world, data) = stream(&GROUP);
        world.read(0, 1, 24, 8);
        let ahead = |owed: &Owed| matches!(owed, Owed::Drive(action) if reads_ahead(action));
        while let Some(ahead) = world.cores[0].owed.iter().position(ahead) {
            world.pay_with_error(0, ahead, error);
        }
        assert_eq!(world.result(0, 1), None, "it asks for itself now");
        world.settle();
        assert_eq!(world.result(0, 1), Some(Ok(())));
        assert_eq!(world.cores[0].buffers[1], data[24..32]);
        assert!(error != DriveError::Media || !world.media.is_empty());
        world.assert_idle();
    }
}

/// A core that writes keeps its row; reading ahead neither waits for that nor asks for it.
#[test]
fn reading_ahead_leaves_rows_that_are_in_use_alone() {
    let shape = Shape {
        cores: 2,
        ..JOURNALED
    };
    let (mut world, mut data) = world(&shape, 16 << 10);
    world.write(1, 0, 48, &[7; 8]);
    data[48..56].fill(7);
    while world.result(1, 0).is_none() {
        world.pay_any();
    }
    for lba in [24, 32, 40] {
        read_alone(&mut world, lba, &data);
    }
    let recalled = |owed: &Owed| matches!(owed, Owed::Recall(_));
    assert!(!world.cores[1].owed.iter().any(recalled));
    assert_eq!(world.cores[0].engine.read_cache_counts().prefetched, 0);
    for lba in [48, 56] {
        read(&mut world, 0, lba, 8, &data);
    }
    world.drain();
    world.assert_idle();
}

/// Reads on core 0 while time stands still on the other one.
fn read_alone(world: &mut World, lba: u64, data: &[u8]) {
    world.read(0, 0, lba, 8);
    while !world.cores[0].owed.is_empty() {
        world.pay(0, 0);
    }
    let start = usize::try_from(lba).expect("small");
    assert_eq!(world.cores[0].buffers[0], data[start..start + 8]);
}

#[test]
fn nothing_is_read_ahead_beyond_the_disk() {
    let (mut world, _) = world(&GROUP, 16 << 10);
    for lba in [0, 8, 16] {
        world.cores[0].buffers[0] = vec![0; 8];
        let request = Request::CachedRead {
            lba: GroupLba(lba),
            blocks: 8,
            disk_end: GroupLba(36),
        };
        world.submit(0, 0, request);
        world.settle();
    }
    assert_eq!(
        world.cores[0].engine.read_cache_counts().prefetched,
        1,
        "only up to 32"
    );
    world.assert_idle();
}

/// With many commands in flight drives have enough to do.
#[test]
fn nothing_is_read_ahead_of_hosts_that_keep_drives_busy() {
    let shape = Shape {
        commands: 40,
        pieces: 64,
        ..GROUP
    };
    let (mut world, data) = world(&shape, 16 << 10);
    for command in 1..32_u32 {
        // Never two neighbours in a row.
        world.read(0, command, 256 + u64::from(command) * 37 % 64 * 8, 8);
    }
    for lba in [0, 8, 16, 24] {
        world.read(0, 0, lba, 8);
        let own = world.cores[0].owed.len() - 1;
        assert!(!world.asked(0).iter().any(reads_ahead));
        world.pay(0, own);
        let start = usize::try_from(lba).expect("small");
        assert_eq!(world.cores[0].buffers[0], data[start..start + 8]);
    }
    world.settle();
    world.assert_idle();
}

/// A hung drive's command was given up: its scratch stays held although what was to be read ahead has ended.
#[test]
fn scratch_of_reading_ahead_may_be_held() {
    let (mut world, _) = stream(&GROUP);
    let ahead = world.asked(0).into_iter().find(reads_ahead).expect("a stream");
    let (tag, _) = drive_io(&ahead);
    let hold = world.cores[0].engine.hold_scratch(tag);
    let index = world.find(0, |owed| *owed == Owed::Drive(ahead));
    world.pay_with_error(0, index, DriveError::Gone);
    world.settle();
    let mut out = Vec::new();
    world.cores[0].engine.release_scratch(hold, &mut out);
    world.settle();
    world.assert_idle();
}

/// A run on cores with small caches, whose pages are fought over, and with streams.
fn cached(shape: &Shape, seed: u64) -> Run {
    let mut run = Run::new(shape, seed);
    let pages = 1 + u32::try_from(run.random().below(40)).expect("small");
    let window = u32::try_from(run.random().below(3)).expect("small") * 8192;
    run.world.remember_reads(pages, window);
    run.stream = Some(0);
    run
}

fn counts(run: &Run) -> ReadCacheCounts {
    let cores = run.world.cores.iter();
    cores.fold(ReadCacheCounts::default(), |sum, core| {
        sum.plus(core.engine.read_cache_counts())
    })
}

/// CHECKLIST B9, D3: commands of all kinds on several cores with caches; every read returns what was last written.
#[test]
fn random_commands_agree_with_the_model() {
    let mut sum = ReadCacheCounts::default();
    for seed in 0..400 {
        let mut run = cached(&any_shape(&mut Random::new(seed)), seed);
        run.run(3000, |_, _| {});
        sum = sum.plus(counts(&run));
        run.check_contents();
    }
    assert!(
        sum.hits > 5_000 && sum.stale > 1_000 && sum.evicted > 1_000 && sum.prefetched_used > 500,
        "{sum:?}"
    );
}

/// The same while members are lost, break, and are rebuilt on new drives.
#[test]
fn random_commands_agree_while_members_come_and_go() {
    let mut sum = ReadCacheCounts::default();
    for seed in 0..120 {
        let shape = any_shape(&mut Random::new(seed));
        if !shape.level.is_redundant() {
            continue;
        }
        let mut run = cached(&with_own_commands(&shape), seed);
        run.commands = shape.commands;
        let mut rebuilder = Rebuilder::new(shape.commands);
        run.run(5000, |run, _| rebuilder.step(run));
        rebuilder.end(&mut run);
        sum = sum.plus(counts(&run));
        run.check_contents();
    }
    assert!(sum.hits > 1_000 && sum.prefetched_used > 50, "{sum:?}");
}
