//! Seeds and mutants of whole nodes that share a group. More seeds: `braid sim --nodes any`, as in the step `sim` of `.ci/run`.

use crate::amf::replica::Replication;

use super::{Counters, Mutant, Setting, Summary, run, seeds_to_catch, try_setting};

/// Seeds of each of the two tests that share them, so that the harness runs them side by side.
const SEEDS: u64 = 500;

/// One run of a setting.
fn keeps_promises(setting: &Setting) -> Counters {
    match try_setting(setting) {
        Ok(counters) => counters,
        Err(violation) => panic!("seed {}: {setting}: {violation}", setting.shape.seed),
    }
}

/// CHECKLIST B, C, PROTOCOL 4.3: I1, I5 to I9, I10, I15, I19; hazards H05, H10 to H13, H19, H26, H29, H38.
///
/// Goal: whatever happens to nodes, links, drives and membership, hosts that use the same blocks through all nodes get what one node alone would give them.
/// Method: a thousand seeds; a failing one is repeated by `braid sim --nodes any --seed SEED --runs 1`.
fn part(number: u64) {
    let mut sum = Summary::default();
    for seed in number * SEEDS..(number + 1) * SEEDS {
        sum += keeps_promises(&Setting::random(seed, None));
    }
    println!("{sum}");
    // What is there to go wrong has to have been reached.
    let Counters {
        commands,
        opened,
        evicted,
        lost,
        strikes,
        cuts,
        replays,
        rows,
        interrupted,
        quick_restarts,
        handovers,
        left,
        adopted,
        restored,
        ..
    } = sum.counters;
    assert!(commands > 100 * SEEDS && opened > 5 * SEEDS, "{sum}");
    assert!(
        evicted > SEEDS / 2 && lost > SEEDS / 2 && cuts > SEEDS / 2,
        "{sum}"
    );
    assert!(replays > SEEDS && rows > SEEDS && left > SEEDS / 2, "{sum}");
    assert!(strikes > SEEDS / 2, "{sum}");
    // Dirty data that went with its row, and such that found no taker.
    assert!(adopted > 2 * SEEDS && restored > 0, "{sum}");
    assert!(
        interrupted > SEEDS / 10 && quick_restarts > SEEDS / 10 && handovers > SEEDS / 10,
        "{sum}"
    );
}

#[test]
fn nodes_that_share_a_group_keep_their_promises_1() {
    part(0);
}

#[test]
fn nodes_that_share_a_group_keep_their_promises_2() {
    part(1);
}

/// CHECKLIST A5, C3, C5, C6, A12, PROTOCOL H17, H18, H19, H22, H45: the same where writes are acknowledged once several nodes have them in memory. Nodes die and are left out one at a
/// time, or all of a replication group at once, as soon as there are copies of everything again; hosts lose nothing.
#[test]
fn what_nodes_keep_in_memory_for_each_other_outlives_them() {
    const SEEDS: u64 = 500;
    let mut sum = Summary::default();
    for seed in 0..SEEDS {
        sum += keeps_promises(&Setting::in_memory(seed, None));
    }
    println!("{sum}");
    let Counters {
        commands,
        replays,
        rows,
        copies_kept,
        copies_read,
        groups_ended,
        ..
    } = sum.counters;
    assert!(
        commands > 100 * SEEDS && replays > SEEDS / 2 && rows > SEEDS,
        "{sum}"
    );
    assert!(copies_kept > 10 * SEEDS && copies_read > SEEDS / 10, "{sum}");
    assert!(groups_ended > SEEDS / 50, "{sum}");
}

/// A seed that was found when the leader of membership always led the group, too, and no node went before there were copies of everything.
fn together(setting: Setting) -> Setting {
    spared(Setting {
        leads_apart: false,
        is_reckless: false,
        ..setting
    })
}

/// A seed that was found when drives did not fail in the midst of recoveries more often than else.
fn spared(setting: Setting) -> Setting {
    Setting {
        strikes: false,
        ..setting
    }
}

/// A seed that was found when nodes were in no replication groups yet, and as many copies wanted as there are to be at least.
fn without_groups(seed: u64) -> Setting {
    let setting = Setting::in_memory(seed, None);
    Setting {
        replication: Replication::new(setting.replication.copies()),
        groups: Vec::new(),
        ..setting
    }
}

/// I5, found by this seed: what a node had kept for one that was gone was forgotten before it was recovered, because all that lived had retired entries with such numbers of their own.
#[test]
fn i5_copies_for_a_node_that_is_gone_are_kept_until_it_is_recovered() {
    keeps_promises(&together(without_groups(5190)));
}

/// I5, found by this seed: a new life led in the slot of the one that was gone, and forgot what that one's partner had brought, as if it were its own and retired.
#[test]
fn i5_a_life_that_leads_in_the_slot_of_one_that_is_gone_keeps_what_it_is_brought() {
    keeps_promises(&together(Setting::in_memory(103_932, None)));
}

/// H45, found by this seed: a leader that was about to leave had it written once more that writes may be lost, because another node asked; all left, and nobody was there to take that back.
#[test]
fn h45_whoever_leaves_lets_nobody_acknowledge_from_memory() {
    keeps_promises(&together(without_groups(17_550)));
}

/// H45, found by this seed: nodes that had left in good order were missed by one that did not come to serve the epochs between their word and their going.
#[test]
fn h45_who_has_left_is_not_missed() {
    keeps_promises(&together(Setting::in_memory(600_735, None)));
}

/// H45, found by these seeds: a leader believed that others had served an epoch that it had not opened, and called writes lost that were with partners of the one before.
#[test]
fn h45_what_its_leader_has_not_opened_nobody_has_served() {
    for seed in [601_739, 2_869] {
        keeps_promises(&together(Setting::in_memory(seed, None)));
    }
}

/// I12, found by this seed: an older destage was done once more over newer data that was in place, after an interrupted recovery.
#[test]
fn i12_what_is_in_place_stays_there_after_an_interrupted_recovery() {
    keeps_promises(&together(Setting::random(17_358, None)));
}

/// I5, found by this seed: a node that was opening the group for an epoch that was over already said that it did not have it open, and then had. The next leader opened it
/// once more, with a journal of its own, and what the first one acknowledged was in one that nobody reads.
#[test]
fn i5_a_group_that_is_being_opened_is_not_opened_once_more() {
    keeps_promises(&together(Setting::random(25_098, None)));
}

/// I8, found by these seeds: a drive that was not there when a recovery began, and was back before it ended, has missed what it wrote, and counts as lost.
#[test]
fn i8_drives_that_come_back_in_a_recovery_have_missed_it() {
    keeps_promises(&spared(Setting::random(1_042_235, None)));
    keeps_promises(&spared(Setting::in_memory(1_025_560, None)));
}

/// PROTOCOL H19: a leader whose recovery was overtaken by another epoch before it was over for all took it for over; a later one wrote older check data over newer.
#[test]
fn a_recovery_that_is_overtaken_is_not_over() {
    keeps_promises(&spared(Setting::in_memory(3_014_300, None)));
}

/// PROTOCOL H02, H19, found by these seeds: a drive failed in the midst of a replay, which went on without it, while another one was lost already. Whoever led told the group of that one first, took
/// this for all, and opened the epoch before the loss of the other one was durable: what that one held was read.
#[test]
fn who_was_left_out_of_a_replay_is_lost_before_the_epoch_is_open() {
    keeps_promises(&spared(Setting::random(4_008_411, None)));
    keeps_promises(&spared(Setting::in_memory(4_016_490, None)));
}

/// Found by this seed: a core that had not heard yet that the group is served again said that nobody serves it; a host that hears that asks another path, so that it is no fault.
#[test]
fn cores_hear_later_than_hosts_that_the_group_is_served_again() {
    keeps_promises(&spared(Setting::random(3_026_379, None)));
}

/// PROTOCOL 4.4: the simulator notices what it is there for. A mistake in the wiring at a time; the number of seeds that it takes is bounded, and printed.
#[test]
fn every_mutant_is_caught() {
    for (mutant, most) in Mutant::ALL {
        let seeds = seeds_to_catch(mutant, 0..most);
        println!("{mutant:?} is caught by seed {seeds:?} of at most {most}");
        assert!(seeds.is_some(), "{mutant:?} is not caught by {most} seeds");
    }
}

/// The same seed is the same run, event for event, whether or not somebody reads along.
#[test]
fn a_seed_is_one_run() {
    for seed in 0..20 {
        let setting = Setting::random(seed, None);
        let (first, second) = (run(&setting, true), run(&setting, false));
        assert_eq!(
            (first.trace, first.counters),
            (second.trace, second.counters),
            "seed {seed}"
        );
        assert!(!first.lines.is_empty() && second.lines.is_empty());
    }
}
