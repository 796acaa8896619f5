//! Goal: whatever happens to drives, node and power, hosts get what PROTOCOL 4.3 promises them.
//! Method: the simulator's seeds; a failing one prints its smallest scenario and the command that repeats it.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;

use braid::amf::geometry::Level;
use braid::sim::check::seeds_to_catch;
use braid::sim::drive::Trouble;
use braid::sim::history::Wish;
use braid::sim::lives::{Life, lives};
use braid::sim::{self, Ending, Fault, Manner, Mutant, Outcome, Scenario, Step, Stop, Swept, Thoroughness};

/// Seeds of one run of the tests, over all threads.
const SEEDS: u64 = 2000;
const THREADS: u64 = 4;

fn random(seed: u64) -> Scenario {
    Scenario::random(seed, &Level::ALL)
}

/// The seeds of one of the tests that share them, so that the harness runs them side by side.
fn part(number: u64) {
    let (mut audited, mut commands) = (0, 0);
    for seed in (number..SEEDS).step_by(usize::try_from(THREADS).expect("few")) {
        match sim::try_seed(&random(seed)) {
            Err(failure) => panic!("{failure}"),
            Ok(report) => {
                audited += u64::from(report.ending == Ending::Audited);
                commands += u64::from(report.commands);
            }
        }
    }
    assert!(audited > SEEDS / THREADS / 3, "{audited} runs came to their end");
    assert!(commands > SEEDS / THREADS * 50, "{commands} commands");
}

#[test]
fn every_seed_keeps_its_promises_1() {
    part(0);
}

#[test]
fn every_seed_keeps_its_promises_2() {
    part(1);
}

#[test]
fn every_seed_keeps_its_promises_3() {
    part(2);
}

#[test]
fn every_seed_keeps_its_promises_4() {
    part(3);
}

#[test]
fn the_same_seed_is_the_same_run_event_for_event() {
    for seed in 0..30 {
        let (first, second) = (sim::run(&random(seed), true), sim::run(&random(seed), true));
        assert_eq!(first, second, "seed {seed}");
        let (other, _) = sim::run(&random(seed + 1), false);
        assert_ne!(first.0.trace, other.trace);
        assert_eq!(
            sim::run(&random(seed), false).0.trace,
            first.0.trace,
            "whether somebody reads along changes nothing"
        );
    }
}

/// Goal: the simulator notices what it is there for (PROTOCOL 4.4, mutants).
/// Method: a mistake in the wiring at a time; the number of seeds that it takes is bounded, and printed.
#[test]
fn every_mutant_is_caught() {
    // The last one takes two losses at the right moments, and has a test of its own.
    let sound_or_apart = |mutant: &Mutant| matches!(mutant, Mutant::None | Mutant::OldJournal);
    for mutant in Mutant::ALL.into_iter().filter(|mutant| !sound_or_apart(mutant)) {
        // A journal leaves no parity to mistrust.
        let make = |seed| Scenario {
            journal: mutant.needs_journal(),
            ..Scenario::random(seed, &[Level::Raid5])
        };
        let caught = seeds_to_catch(mutant, make, 3000);
        let (seeds, violation) = caught.unwrap_or_else(|| panic!("{} survives", mutant.name()));
        println!("{}: {} after {seeds} seeds", mutant.name(), violation.kind());
    }
}

/// Goal: check data that never fitted is not built upon (PROTOCOL H27).
/// Method: a group with a journal, of drives that were used before, believes all of its check data from the start.
#[test]
fn trust_in_check_data_that_never_fitted_is_caught() {
    let make = |seed| Scenario {
        journal: true,
        zeroed: false,
        ..Scenario::random(seed, &[Level::Raid6, Level::RaidTp])
    };
    let caught = seeds_to_catch(Mutant::TrustedParity, make, 3000);
    let (seeds, violation) = caught.expect("trust in what never fitted loses data");
    println!("{} after {seeds} seeds", violation.kind());
}

/// Goal: a rebuilt member is relied on only when it has a copy of all that is in the journal (PROTOCOL H34).
/// Method: a spare takes the place of one copy of two, then the other is lost, and then the power.
#[test]
fn a_journal_that_is_older_than_a_rebuilt_member_is_caught() {
    let gone = |at, drive| Fault {
        at,
        drive,
        trouble: Trouble::Gone,
    };
    let make = |seed: u64| {
        let at = 20 + u32::try_from(seed * 7 % 60).expect("small");
        Scenario {
            seed,
            level: Level::Raid1,
            members: 2,
            spares: 1,
            rows: 6,
            journal: true,
            cache: false,
            stops: vec![Stop {
                at,
                clean: false,
                again: 0,
                away: None,
            }],
            faults: vec![gone(6, 0), gone(at, 1)],
            ..Scenario::PLAIN
        }
    };
    let caught = seeds_to_catch(Mutant::OldJournal, make, 1000);
    let (seeds, violation) = caught.expect("what only the lost drive had in its journal is lost");
    println!("{} after {seeds} seeds", violation.kind());
    assert_eq!(seeds_to_catch(Mutant::None, make, 300), None);
}

/// Goal: what drives do silently is noticed by who judges, so that a sound run says something.
#[test]
fn silent_corruption_is_noticed() {
    for trouble in [Trouble::LostWrite, Trouble::Misdirected, Trouble::StaleRead] {
        let noticed = (0..60).any(|seed| {
            let scenario = Scenario {
                seed,
                faults: vec![Fault {
                    at: 40,
                    drive: 1,
                    trouble,
                }],
                ..Scenario::PLAIN
            };
            sim::try_seed(&scenario).is_err()
        });
        assert!(noticed, "{}", trouble.name());
    }
}

/// Goal: a failing run is made smaller, and the smaller one still fails in the same way and can be repeated.
#[test]
fn a_failing_run_is_made_smaller() {
    let stop = |at| Stop {
        at,
        clean: false,
        again: 0,
        away: None,
    };
    let scenario = Scenario {
        seed: 3,
        stops: vec![stop(30), stop(60)],
        mutant: Mutant::EarlyAcknowledge,
        ..Scenario::PLAIN
    };
    let failure = sim::try_seed(&scenario).expect_err("the mutant is caught");
    let smallest = &failure.smallest;
    assert!(
        smallest.commands < scenario.commands && smallest.stops.len() < 2,
        "{smallest}"
    );
    let again: Scenario = smallest.to_string().parse().expect("it is written as it is read");
    let second = sim::try_seed(&again).expect_err("it fails again");
    assert_eq!(second.violation.kind(), failure.violation.kind());
}

/// Goal: what the simulator has found once stays mended.
/// Method: the smallest scenario of each find, as it was printed.
#[test]
fn what_was_found_stays_mended() {
    let found = [
        // A member was rebuilt and relied on while the journal held writes that it had no copy of.
        "seed=683584 level=raid1 members=2 spares=1 rows=6 cores=2 hosts=2 depth=2 commands=81 span=60 cache=0 journal=1 \
         zeroed=1 stop=power@20+149 fault=gone@6:0 fault=gone@20:1",
        // A batch whose last copy was refused after its member was known to be lost was never written anywhere else.
        "seed=501132 level=raid1 members=2 spares=2 rows=10 cores=4 hosts=4 depth=6 commands=107 span=105 cache=0 journal=1 \
         zeroed=0 stop=power@13+50 fault=hang@90:0 fault=gone@107:1",
        // What a cut wave of an expansion had put aside was given back at a start that missed a member under rebuild.
        "seed=2569 level=raid5 members=3 joining=3 rows=6 cores=4 hosts=1 depth=5 commands=231 span=279 cache=1 journal=1 \
         zeroed=1 stop=power@89+25 stop=power@125+0 stop=power@142+57 stop=power@170+0-2 stop=power@231+23 fault=hang@148:2 \
         order=expand@65:1 order=expand@138:1 order=return@165:2 order=expand@205:1",
        // A row was made to fit for the first time around a block that could not be read just then, and was afterwards.
        "seed=505493 level=raid6 members=5 rows=12 cores=2 hosts=3 depth=5 commands=47 span=13 cache=1 journal=1 ram=1 zeroed=0 \
         stop=power@47+0 fault=media@9:3",
        // The first rows of a rebuild were asked for before their core had heard of it, and counted by how far the last one was.
        "seed=513310 level=raid1 members=4 spares=2 disks=2 rows=6 cores=3 hosts=1 depth=2 commands=61 span=80 cache=0 journal=1 \
         zeroed=0 stop=power@1+0 stop=power@25+0 fault=error@10:1 fault=hang@61:3 order=return@49:1",
        // A row's turn in a rebuild that was over counted for the next, although that had not done the rows in front of it.
        "seed=38931 level=raid6 members=4 spares=1 joining=1 rows=5 cores=2 hosts=1 depth=2 commands=137 span=103 cache=1 \
         journal=1 ram=1 zeroed=1 stop=power@134+0-1 fault=hang@123:0 order=return@103:5 order=repair@105:0",
        // A flush that began without a lost member failed when another went, although the first had been rebuilt meanwhile.
        "seed=21695 level=raid5 members=4 spares=1 joining=0 block=4096 disks=1 rows=7 cores=2 hosts=4 depth=1 commands=128 span=65 \
         cache=0 journal=0 ram=0 zeroed=0 fault=gone@77:3 fault=gone@128:1",
        // A repair that could not be read back cost a group without redundancy its member, and so itself.
        "seed=503927 level=raid5 members=3 spares=2 joining=0 block=4096 disks=1 rows=6 cores=3 hosts=3 depth=2 commands=98 span=25 \
         cache=0 journal=1 ram=0 zeroed=1 stop=power@78+41-2 fault=media@95:0 fault=media@98:0",
        // The judge took a member for whole that an operator had put out while its rebuild was ending.
        "seed=36583 level=raid5 members=6 spares=0 joining=0 block=512 disks=1 rows=1 cores=1 hosts=2 depth=4 commands=190 span=26 \
         cache=1 journal=1 ram=1 zeroed=1 stop=power@82+0 fault=gone@77:4 fault=error@190:5 order=fail@114:4",
        // Blocks of one row that could not be read had each other repaired for ever.
        "seed=463 level=raid6 members=7 rows=5 cores=3 hosts=3 depth=4 commands=52 span=142 cache=0 zeroed=1 \
         stop=clean@36+0-0 fault=media@40:2 fault=media@52:3",
        // A write that came to a lost group waited for a row that stays held.
        "seed=127 level=raid10 members=3 rows=1 cores=2 hosts=1 depth=1 commands=194 span=44 cache=0 journal=1 \
         zeroed=1 fault=error@65:1 fault=error@193:2",
        "seed=171 level=raid5 members=5 rows=3 cores=2 hosts=1 depth=1 commands=26 span=68 cache=0 journal=1 \
         zeroed=1 fault=hang@16:2 fault=hang@25:0",
        // A destage that waited for its turn when the group was lost ended as if it were a host's.
        "seed=695 level=raid10 members=5 rows=3 cores=2 hosts=1 depth=5 commands=64 span=92 cache=1 journal=1 \
         zeroed=1 stop=power@1+0-4 stop=clean@35+28 stop=power@50+0-2 fault=error@64:3",
        // A flush that a lost member had refused waited for ever, because a spare was rebuilt before the others answered.
        "seed=11 level=raid6 members=4 spares=1 rows=2 cores=4 hosts=1 depth=4 commands=85 span=52 cache=0 zeroed=0 \
         fault=gone@85:2 order=scrub@62:0",
        // The replay wrote a check strip's data from before its member was lost over the strip that was rebuilt since.
        "seed=22242 level=raid6 members=5 spares=2 rows=6 cores=4 hosts=3 depth=5 commands=102 span=78 cache=0 journal=1 \
         zeroed=1 stop=clean@101+0 fault=error@49:1 order=fail@79:4",
        // What a member's old drive answered late was blamed on the spare that had its place since.
        "seed=31019 level=raid10 members=4 spares=1 rows=5 cores=3 hosts=4 depth=4 commands=185 span=131 cache=0 \
         journal=1 zeroed=0 fault=gone@44:3 fault=gone@185:2",
        // A core that heard of a loss only when the drive was back in its place waited for ever for a flush that it had refused.
        "seed=35596 level=raid6 members=7 spares=2 rows=11 cores=2 hosts=2 depth=6 commands=189 span=37 cache=1 journal=1 \
         zeroed=0 stop=power@23+0-1 stop=power@117+0 fault=media@112:6 fault=error@176:5 order=return@185:5",
        // A replay that was cut off had defined what a missing member held where nobody had written; the member came back with something else.
        "seed=16119 level=raid6 members=6 rows=7 cores=3 hosts=1 depth=5 commands=10 span=82 cache=1 journal=1 zeroed=0 \
         stop=power@3+51-5 fault=hang@10:1",
        // A member lost before the first synchronisation: the other check strips of never written rows fit nothing.
        "seed=26 level=raidtp members=6 rows=7 cores=1 hosts=2 depth=4 commands=37 span=118 cache=0 journal=1 zeroed=0 \
         fault=error@12:4 order=return@37:4",
        // A rebuild that ended while the next one was about to be announced stood for that, too, so that it never began.
        "seed=645 level=raid6 members=4 spares=2 rows=8 cores=3 hosts=4 depth=6 commands=236 span=17 cache=0 journal=1 \
         zeroed=1 stop=clean@20+0-2 fault=gone@137:0 order=scrub@25:0 order=rate@121:62 order=scrub@205:0",
        // Hosts waited for rows of an expansion's wave that could not end, because the group was lost in its midst.
        "seed=279 level=raid0 members=3 joining=1 rows=17 cores=1 hosts=2 depth=2 commands=63 span=278 cache=0 journal=1 \
         zeroed=1 fault=gone@63:3 order=expand@2:1",
        "seed=11176 level=raid0 members=1 joining=2 rows=19 cores=1 hosts=2 depth=4 commands=88 span=182 cache=0 journal=1 \
         zeroed=1 stop=power@47+0 fault=error@88:1 order=expand@29:2",
        // A group without redundancy was lost because a drive that was about to join it was.
        "seed=22827 level=raid0 members=4 joining=2 rows=28 cores=2 hosts=2 depth=4 commands=86 span=393 cache=0 journal=1 \
         zeroed=1 stop=power@56+0 fault=error@86:5 order=expand@47:2",
        // A start that put an expansion's rows in their place forgot which rows a drive that had come back still missed.
        "seed=1927 level=raid5 members=4 joining=2 block=4096 rows=15 cores=3 hosts=1 depth=3 commands=100 span=80 cache=0 \
         journal=1 ram=1 zeroed=1 stop=power@100+0 fault=hang@52:3 order=expand@32:1 order=return@86:3",
    ];
    for text in found {
        let scenario: Scenario = text.parse().expect("a scenario as it is printed");
        if let Err(failure) = sim::try_seed(&scenario) {
            panic!("{failure}");
        }
    }
}

/// Goal: a member that was away during a replay which was cut off is not believed when it comes back (H33).
/// Method: power cuts again after any number of drive commands of a start without one member.
#[test]
fn h33_a_member_that_missed_a_replay_is_not_believed() {
    let levels = [Level::Raid5, Level::Raid6, Level::Raid10, Level::RaidTp];
    for seed in 0..200 {
        let plain = Scenario::random(seed, &levels);
        let number = u16::try_from(seed).expect("few");
        let scenario = Scenario {
            journal: true,
            zeroed: true,
            // Many rows in many lanes, so that replay takes several rounds.
            cores: 4,
            rows: 12,
            hosts: 4,
            depth: 6,
            span: 400,
            commands: 200,
            faults: Vec::new(),
            stops: vec![Stop {
                at: 150,
                clean: false,
                again: 1 + 5 * number % 500,
                away: Some(u8::try_from(seed % u64::from(plain.members)).expect("few")),
            }],
            ..plain
        };
        if let Err(failure) = sim::try_seed(&scenario) {
            panic!("{failure}");
        }
    }
}

/// Goal: no power cut, at whatever instant and whatever it leaves of what was not durable, followed by the loss of
/// any members that the group survives, makes a lie of what a host was told (L4; I5 to I8, I12, H24 to H26, H35).
/// Method: every point of short lives, from the making of the group to its closing, with rebuilds, degraded writes and expansions; every
/// state that a start can tell apart; some starts are cut off once more. All lives of all levels and sizes: `braid sim --sweep`.
fn swept(level: Level, members: u8, names: &[&str]) {
    let mut all = Swept::default();
    let chosen = |life: &Life| names.is_empty() || names.contains(&life.name);
    for life in lives(level, members).into_iter().filter(chosen) {
        let how = Thoroughness {
            again: life.name == "forced part" && members < 4,
            ..COMPLETE
        };
        match sim::sweep(&life.scenario, &life.steps, how) {
            Ok(swept) => all.add(&swept),
            Err(hole) => panic!("{}, {}: {hole}", life.name, life.scenario),
        }
    }
    println!("{} of {members}: {all:?}", level.name());
    assert_eq!(all.sampled, 0, "every state at every point");
    assert!(all.states > 80, "{all:?}");
}

const COMPLETE: Thoroughness = Thoroughness {
    manner: Manner::Every,
    lose: true,
    again: false,
};

#[test]
fn l4_every_crash_point_of_short_lives_of_raid0() {
    swept(Level::Raid0, 1, &["expansion"]);
    swept(Level::Raid0, 2, &["superblock", "full row", "overlapping"]);
}

#[test]
fn l4_every_crash_point_of_short_lives_of_raid1() {
    swept(Level::Raid1, 2, &[]);
}

#[test]
fn l4_every_crash_point_of_short_lives_of_raid10() {
    swept(Level::Raid10, 3, &["full row", "two rows", "degraded"]);
}

#[test]
fn l4_every_crash_point_of_short_lives_of_raid5() {
    let names = [
        "superblock",
        "full row",
        "forced part",
        "journal wrap",
        "failing",
        "write-through",
    ];
    swept(Level::Raid5, 3, &names);
}

#[test]
fn l4_every_crash_point_of_short_lives_of_raid6() {
    swept(Level::Raid6, 4, &["part of a row", "degraded"]);
}

fn life_of(level: Level, members: u8, name: &str) -> Life {
    let life = lives(level, members).into_iter().find(|life| life.name == name);
    life.expect("there is such a life")
}

fn noted(life: &Life, manner: Manner) -> (Swept, BTreeSet<Outcome>) {
    let how = Thoroughness { manner, ..COMPLETE };
    let noted = sim::sweep_noting(&life.scenario, &life.steps, how);
    noted.unwrap_or_else(|hole| panic!("{}: {hole}", life.scenario))
}

/// Goal: what the sweep takes for one state is one: it finds what a sweep finds that opens the group from each state.
/// Method: lives so short that all states can be tried; for each block the same contents come of both, and of each set of lost members.
#[test]
fn a_sweep_of_classes_finds_what_a_sweep_of_states_finds() {
    for (level, members, journal) in [
        (Level::Raid0, 1, false),
        (Level::Raid1, 2, true),
        (Level::Raid1, 2, false),
        (Level::Raid5, 3, true),
    ] {
        let mut life = life_of(level, members, "forced part");
        life.scenario.journal = journal;
        let forced = Wish::Write { forced: true };
        life.steps = vec![Step::Ask(forced, 0, 4), Step::Begin, Step::Ask(forced, 2, 1)];
        let (of_classes, of_states) = (
            noted(&life, Manner::Every),
            noted(&life, Manner::Sampled(1 << 12)),
        );
        println!(
            "{} of {members}: {:?} {:?}",
            level.name(),
            of_classes.0,
            of_states.0
        );
        assert_eq!(of_states.0.sampled, 0, "every state was tried: {:?}", of_states.0);
        assert_eq!(of_classes.0.ways, of_states.0.ways);
        assert_eq!(of_classes.1, of_states.1, "{}", level.name());
        assert!(of_classes.0.opened < of_states.0.opened, "{:?}", of_classes.0);
    }
}

/// Goal and method: as before, but for lives with more states than can be tried: what comes of a sample of them came of the sweep.
#[test]
fn a_sweep_of_classes_finds_what_a_sample_of_states_finds() {
    for (level, members, name) in [
        (Level::Raid1, 2, "rebuild"),
        (Level::Raid5, 3, "overlapping"),
        (Level::Raid6, 4, "degraded"),
    ] {
        let life = life_of(level, members, name);
        let (of_classes, of_states) = (noted(&life, Manner::Every), noted(&life, Manner::Sampled(3)));
        assert!(of_states.0.sampled > 0, "{:?}", of_states.0);
        let missing = of_states.1.difference(&of_classes.1).next();
        assert_eq!(missing, None, "{} {name}", level.name());
    }
}

/// Goal: the sweep sees what it is there for: each of these mistakes leaves a state from which a group does not come back.
/// Method: one mistake in the wiring at a time, in a life that needs what is done wrongly (H24, H25, H27, H31, H34, H35).
#[test]
fn the_sweep_finds_a_hole_with_every_mistake() {
    for (mutant, level, members, name) in [
        (Mutant::NoReplay, Level::Raid5, 4, "forced part"),
        (Mutant::NoReplay, Level::Raid6, 4, "forced part"),
        (Mutant::NoPartialParity, Level::Raid5, 3, "two rows"),
        (Mutant::StaleParity, Level::Raid5, 3, "two rows"),
        (Mutant::EarlyJournal, Level::Raid5, 3, "part of a row"),
        (Mutant::EarlyAcknowledge, Level::Raid1, 2, "full row"),
        (Mutant::EarlyRelease, Level::Raid5, 3, "part of a row"),
        (Mutant::NoFlush, Level::Raid5, 3, "part of a row"),
        (Mutant::NoForce, Level::Raid5, 3, "forced part"),
        (Mutant::NoSuperblocks, Level::Raid5, 3, "failing"),
        (Mutant::TrustedParity, Level::Raid6, 4, "write-through"),
        (Mutant::NoResync, Level::Raid5, 3, "write-through"),
        (Mutant::EarlyRebuild, Level::Raid5, 3, "spare"),
        (Mutant::NoIntent, Level::Raid5, 3, "rebuild"),
        (Mutant::MapBeforeData, Level::Raid0, 2, "expansion"),
    ] {
        let mut life = life_of(level, members, name);
        if name == "spare" {
            // The rebuild alone: that takes long enough.
            let begin = life.steps.len() - 2;
            life.steps.retain(|step| *step != Step::Begin);
            life.steps.insert(begin, Step::Begin);
        }
        let scenario = Scenario {
            mutant,
            ..life.scenario
        };
        let found = sim::sweep(&scenario, &life.steps, COMPLETE);
        assert!(found.is_err(), "{}: {found:?}", mutant.name());
    }
}
