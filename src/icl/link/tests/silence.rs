use super::*;

fn suspicions(bench: &Bench) -> Vec<(usize, u64)> {
    let silence = |&(node, action): &(usize, Action)| match action {
        Action::Suspect { silence_ns, .. } => Some((node, silence_ns / MS)),
        Action::Send { .. }
        | Action::Deliver { .. }
        | Action::Heard { .. }
        | Action::NewerEpoch { .. }
        | Action::Room { .. }
        | Action::ClosePath { .. } => None,
    };
    bench.asked.iter().filter_map(silence).collect()
}

/// E1, H01: silence makes a suspect after T_susp, once, and never anything more: the epoch and the queue stay.
#[test]
fn silence_makes_a_suspect_and_nothing_more() {
    let mut bench = Bench::new(2, |_| {});
    bench.submit(0, 1, 1, b"waits");
    // The last that was heard may be up to a ping and a settling turn old.
    bench.run(700, &[0], |_| false);
    assert_eq!(suspicions(&bench), []);
    bench.run(60, &[0], |_| false);
    assert_eq!(suspicions(&bench), [(0, 750)]);
    bench.run(5000, &[0], |_| false);
    assert_eq!(suspicions(&bench), [(0, 750)], "once");
    assert_eq!(bench.counters(0, 1).suspicions, 1);
    assert_eq!(
        (bench.nodes[0].epoch(), bench.nodes[0].queued(slot(1)).frames),
        (Some(Epoch(1)), 1)
    );
    bench.asked.clear();
    // Only the link was cut: it is heard again, and what waited arrives.
    bench.down(1, 0, P0);
    bench.up(0, 1, P0);
    bench.up(1, 0, P0);
    bench.settle();
    assert_eq!(bench.asked[0], (0, Action::Heard { peer: slot(1) }));
    assert_eq!(bench.payloads(1, 0, 1), [b"waits"]);
}

/// E1: a transport error alone leads to suspicion within T_susp.
#[test]
fn a_lost_connection_leads_to_suspicion_in_time() {
    let mut bench = Bench::new(2, |_| {});
    bench.run(400, &[0, 1], |_| true);
    bench.down(0, 1, P0);
    bench.run(750, &[0], |_| false);
    assert_eq!(suspicions(&bench).len(), 1);
}

#[test]
fn a_peer_that_never_enters_the_epoch_is_suspected() {
    let mut bench = Bench::apart(2, |_| {});
    bench.enter(0, 1);
    bench.run(749, &[0], |_| false);
    assert_eq!(suspicions(&bench), []);
    bench.run(1, &[0], |_| false);
    assert_eq!(suspicions(&bench), [(0, 750)]);
}

/// H06: whoever was paused itself does not blame its peers, yet notices those that stay silent.
#[test]
fn a_pause_of_this_node_is_not_the_peers_silence() {
    let mut bench = Bench::new(2, |_| {});
    bench.run(100, &[0, 1], |_| true);
    bench.now_ns += 10_000 * MS;
    bench.tick(0);
    assert_eq!(bench.asked, []);
    bench.run(500, &[0], |_| false);
    assert_eq!(suspicions(&bench), []);
    bench.run(300, &[0], |_| false);
    assert_eq!(suspicions(&bench).len(), 1);
}

/// A node that ticks only when it asked for it hears its peers for ever, and suspects a dead one in time.
#[test]
fn ticks_that_were_asked_for_suffice() {
    let mut bench = Bench::new(2, |_| {});
    let start_ns = bench.now_ns;
    let mut dead_since = None;
    let mut turns = 0;
    while bench.now_ns < start_ns + 20_000 * MS && suspicions(&bench).is_empty() {
        if bench.now_ns > start_ns + 10_000 * MS {
            dead_since.get_or_insert(bench.now_ns);
        }
        let alive: &[usize] = if dead_since.is_some() { &[0] } else { &[0, 1] };
        let wake = alive
            .iter()
            .filter_map(|&node| bench.nodes[node].wake_at_ns())
            .min();
        bench.now_ns = wake.expect("a member has timers").max(bench.now_ns);
        let mut sent = Vec::new();
        for &node in alive {
            bench.tick(node);
            sent.extend(bench.end_turn(node));
        }
        sent.retain(|sent| alive.contains(&sent.to));
        bench.give_all(&sent);
        for &node in alive {
            let sent = bench.end_turn(node);
            bench.give_all(&sent);
        }
        turns += 1;
        assert!(turns < 5000, "time passes");
    }
    let silence_ms = (bench.now_ns - dead_since.expect("ten seconds passed")) / MS;
    assert!((500..=750).contains(&silence_ms), "{silence_ms} ms");
    assert!(turns < 1000, "an idle link rests: {turns} turns in ten seconds");
}

/// Two paths: one that falls silent is given up and the other carries on; nobody is suspected and nothing is lost.
#[test]
fn a_silent_path_hands_over_to_the_other() {
    let mut bench = Bench::new(2, |_| {});
    bench.up(0, 1, P1);
    bench.up(1, 0, P1);
    bench.run(500, &[0, 1], |_| true);
    for number in 0u8..100 {
        bench.submit(0, 1, 1, &[number]);
        bench.run(10, &[0, 1], |sent| sent.path == P1);
    }
    bench.run(100, &[0, 1], |sent| sent.path == P1);
    let expected: Vec<Vec<u8>> = (0..100).map(|number| vec![number]).collect();
    assert_eq!(bench.payloads(1, 0, 1), expected);
    assert_eq!(suspicions(&bench), []);
    let is_silent = |(_, action): &(usize, Action)| {
        matches!(
            action,
            Action::ClosePath {
                path: P0,
                reason: CloseReason::Silent { .. },
                ..
            }
        )
    };
    assert!(
        bench.asked.iter().all(is_silent) && bench.asked.len() == 2,
        "{:?}",
        bench.asked
    );
    assert_eq!(bench.counters(0, 1).failovers, 1);
}

/// Two paths: one that works in one direction only is given up by the side whose pings stay unanswered, though it hears
/// the peer on it.
#[test]
fn a_path_that_works_one_way_only_hands_over_to_the_other() {
    let mut bench = Bench::new(2, |_| {});
    bench.up(0, 1, P1);
    bench.up(1, 0, P1);
    bench.run(500, &[0, 1], |_| true);
    bench.submit(0, 1, 1, b"arrives in the end");
    // Node 1 hears nothing on path 0 and gives it up; that news does not come through either.
    let passes = |sent: &Sent| sent.path == P1 || sent.from == 1;
    bench.run(550, &[0, 1], passes);
    assert_eq!(bench.payloads(1, 0, 1).len(), 0);
    bench.run(600, &[0, 1], passes);
    assert_eq!(bench.payloads(1, 0, 1), [b"arrives in the end"]);
    let closed = |of: usize| {
        let reason = |&(node, action): &(usize, Action)| match action {
            Action::ClosePath { path: P0, reason, .. } if node == of => Some(reason),
            Action::ClosePath { .. }
            | Action::Send { .. }
            | Action::Deliver { .. }
            | Action::Suspect { .. }
            | Action::Heard { .. }
            | Action::NewerEpoch { .. }
            | Action::Room { .. } => None,
        };
        bench.asked.iter().filter_map(reason).collect::<Vec<_>>()
    };
    assert!(
        matches!(closed(0)[..], [CloseReason::Unanswered { .. }]),
        "{:?}",
        closed(0)
    );
    assert!(
        matches!(closed(1)[..], [CloseReason::Silent { .. }]),
        "{:?}",
        closed(1)
    );
    assert_eq!(bench.asked.len(), 2);
    assert_eq!(suspicions(&bench), []);
    bench.run(3000, &[0, 1], |sent| sent.path == P1);
    assert!(bench.nodes[0].is_up(slot(1), P1));
}

/// A path stays up while its peer is in another epoch: it carries packets, though none that counts.
#[test]
fn a_path_outlives_a_peer_that_is_slow_to_enter() {
    for late in [0, 1] {
        // So late that a suspicion does not end the wait for answers before it is too long.
        let mut bench = Bench::new(2, |config| config.timers.suspect_ns = 10_000 * MS);
        bench.enter(1 - late, 2);
        bench.submit(1 - late, late, 1, b"early");
        bench.run(3000, &[0, 1], |_| true);
        bench.enter(late, 2);
        bench.settle();
        assert!(bench.nodes[0].is_up(slot(1), P0) && bench.nodes[1].is_up(slot(0), P0));
        assert_eq!(bench.payloads(late, 1 - late, 1), [b"early"]);
        assert_eq!(suspicions(&bench), []);
    }
}

/// Two paths: what was sent on a path that fails and is not acknowledged leaves on the other with the same turn.
#[test]
fn a_lost_path_hands_over_at_once() {
    let mut bench = Bench::new(2, |_| {});
    bench.up(0, 1, P1);
    bench.up(1, 0, P1);
    bench.settle();
    bench.submit(0, 1, 1, b"arrives, but is not acknowledged");
    let first = bench.end_turn(0);
    bench.give_all(&first);
    bench.submit(0, 1, 1, b"is lost");
    let lost = bench.end_turn(0);
    assert!(
        first.iter().chain(&lost).all(|sent| sent.path == P0),
        "one at a time"
    );
    bench.down(0, 1, P0);
    let again = bench.end_turn(0);
    assert!(again.len() == 1 && again[0].path == P1);
    bench.give_all(&again);
    assert_eq!(bench.delivered.len(), 2);
    assert_eq!(bench.counters(1, 0).duplicates_dropped, 1);
    assert_eq!(suspicions(&bench), []);
    // What was on the lost path may still come: it is known.
    bench.give_all(&lost);
    assert_eq!(bench.delivered.len(), 2);
}

#[test]
fn round_trips_are_measured_on_each_path() {
    let mut bench = Bench::new(2, |_| {});
    bench.up(0, 1, P1);
    bench.up(1, 0, P1);
    let mut on_the_way = std::collections::VecDeque::new();
    for _ in 0..4000 {
        bench.now_ns += MS;
        for node in 0..2 {
            bench.tick(node);
            for sent in bench.end_turn(node) {
                let delay = if sent.path == P0 { 3 } else { 40 };
                on_the_way.push_back((bench.now_ns + delay * MS, sent));
            }
        }
        let now_ns = bench.now_ns;
        let due: Vec<Sent> = on_the_way
            .iter()
            .filter(|(at, _)| *at <= now_ns)
            .map(|(_, sent)| sent.clone())
            .collect();
        on_the_way.retain(|(at, _)| *at > now_ns);
        bench.give_all(&due);
    }
    let round_trip_ms = |path| bench.nodes[0].round_trip_ns(slot(1), path).expect("it is up") / MS;
    assert!((6..=8).contains(&round_trip_ms(P0)), "{}", round_trip_ms(P0));
    assert!((80..=83).contains(&round_trip_ms(P1)), "{}", round_trip_ms(P1));
}
