//! Goal: whatever a power cut leaves, and whichever members are lost with it, replay brings every block to a
//! legal value and all check data to fit.
//! Method: a reference writer goes by the rules of the journal on drives with volatile caches; the seed says
//! where the power goes, which blocks of what was in flight are there, and where replay is interrupted.

mod drives;
mod living;
mod named;
mod world;

use super::*;
use crate::amf::geometry::Level;
use drives::Random;
use world::World;

/// Every level with redundancy, at widths that differ in kind.
const SHAPES: [(Level, u8, u32); 11] = [
    (Level::Raid1, 2, 4),
    (Level::Raid1, 3, 3),
    (Level::Raid10, 4, 3),
    (Level::Raid10, 5, 2),
    (Level::Raid5, 3, 4),
    (Level::Raid5, 4, 3),
    (Level::Raid5, 6, 2),
    (Level::Raid6, 4, 4),
    (Level::Raid6, 6, 3),
    (Level::RaidTp, 4, 2),
    (Level::RaidTp, 6, 4),
];

/// Loses random members, at most as many as the level survives whichever they are.
fn lose_some(world: &mut World, random: &mut Random) {
    let spare = world
        .geometry
        .losses_max()
        .saturating_sub(world.members.failed.count_ones());
    for _ in 0..random.below(spare + 1) {
        let live = world.live();
        let member = live[random.below(u32::try_from(live.len()).expect("few")) as usize];
        world.lose(member);
    }
}

/// A world in which something happened until the power went.
fn after_a_power_cut((level, members, strip): (Level, u8, u32), seed: u64) -> World {
    let mut world = World::new(level, members, strip, seed);
    let mut random = Random::new(seed ^ 0x5555);
    match random.below(4) {
        0 => {
            let member = MemberIndex(u8::try_from(random.below(u32::from(members))).expect("small"));
            world.rebuild(member, u64::from(random.below(7)));
        }
        1 => lose_some(&mut world, &mut random),
        _ => (),
    }
    world.drives.left = Some(u64::from(random.below(500)));
    for _ in 0..random.below(80) {
        if world.step().is_err() {
            break;
        }
        if random.one_in(60) {
            lose_some(&mut world, &mut random);
        }
    }
    world.drives.left = None;
    if random.one_in(4) {
        // Only the program died: what the drives have not made durable is seen all the same.
        return world;
    }
    world.drives.power_cut();
    world
}

fn replayed(mut world: World, context: &str) -> (World, Report) {
    let replay = world.replay();
    let report = world
        .drives
        .run(replay)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    world.drives.power_cut();
    world.check(context);
    (world, report)
}

/// I5, I6, I7, I8, H24: a power cut anywhere, then up to as many members lost as the level survives. I12: a second
/// replay changes nothing.
///
/// Catches among others: check data not redone, the tail ignored, only one copy written, lost columns not
/// regenerated, members not flushed at the end.
#[test]
fn h24_every_level_survives_a_power_cut_and_lost_members() {
    for shape in SHAPES {
        let mut rows = 0;
        for seed in 0..16 {
            let context = format!("{shape:?} seed {seed}");
            let mut world = after_a_power_cut(shape, seed);
            let mut random = Random::new(seed ^ 0x77);
            lose_some(&mut world, &mut random);
            let (world, report) = replayed(world, &context);
            let data = world.data();
            rows += report.rows;
            let (again, second) = replayed(world, &format!("{context}, again"));
            assert!(
                again.data() == data,
                "{context}: the second replay changed something"
            );
            assert!(second.next_seq >= report.next_seq);
        }
        assert!(rows > 10, "{shape:?}: only {rows} rows had anything to replay");
    }
}

/// I12: interrupted after any number of transfers, with any of those in flight done, replay ends with the same
/// bytes when it runs again; and if a member is lost in between, with legal ones.
///
/// Catches among others: writing in place before the record is durable, records without FUA, a cut that
/// leaves out the last write.
#[test]
fn i12_a_replay_that_is_interrupted_anywhere_ends_the_same() {
    for shape in SHAPES {
        for seed in 1000..1002 {
            let mut world = after_a_power_cut(shape, seed);
            let mut random = Random::new(seed ^ 0x99);
            if random.one_in(2) {
                lose_some(&mut world, &mut random);
            }
            let (reference, _) = replayed(world.clone(), &format!("{shape:?} seed {seed}"));
            interrupt_everywhere(&world, &reference, &mut random, &format!("{shape:?} seed {seed}"));
        }
    }
}

fn interrupt_everywhere(world: &World, reference: &World, random: &mut Random, context: &str) {
    let mut transfers = 0;
    loop {
        let mut cut = world.clone();
        cut.drives.random = Random::new(random.next());
        if cut.drives.run_some(cut.replay(), transfers).is_some() {
            return;
        }
        let context = format!("{context} cut after {transfers}");
        if random.one_in(3) {
            // Once more, before anybody is lost.
            let some = u64::from(random.below(40));
            let _ended = cut.drives.run_some(cut.replay(), some);
            cut.drives.power_cut();
        }
        if random.one_in(2) {
            lose_some(&mut cut, random);
        }
        let same_members = cut.members == reference.members;
        let (cut, _) = replayed(cut, &context);
        if same_members {
            assert!(
                cut.data() == reference.data(),
                "{context}: other bytes than without the cut"
            );
        }
        transfers += 1 + u64::from(random.below(4));
    }
}
