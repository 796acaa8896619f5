//! Claims against the machine that shelves keep reservations by, alone and against one another.

use nvme::reservation::{HostName, Life, State as Shelf};

use super::*;

fn identity(number: u8) -> Identity {
    Identity {
        host: HostId([number; 16]),
        key: Key(u64::from(number)),
    }
}

/// What a drive would answer.
fn answer(shelf: &mut Shelf, who: Identity, command: &Command) -> Answer {
    if let Command::Report { .. } = command {
        return Answer::Report(shelf.report());
    }
    let life = Life {
        name: HostName(u128::from(who.key.0)),
        host: who.host,
    };
    match shelf.execute(life, command, true) {
        Ok(_) => Answer::Done,
        Err(status) if status.same_code(Status::RESERVATION_CONFLICT) => Answer::Conflict,
        Err(status) => Answer::Failed(Some(status)),
    }
}

fn run(shelf: &mut Shelf, who: Identity, rivals: Rivals) -> (Step, Vec<Command>) {
    let (mut claim, mut command) = Claim::begin(who, rivals);
    let mut asked = Vec::new();
    loop {
        asked.push(command);
        match claim.answered(answer(shelf, who, &command)) {
            Step::Ask(next) => command = next,
            step @ (Step::Claimed { .. } | Step::Refused(_)) => return (step, asked),
        }
    }
}

fn registered(shelf: &Shelf) -> Vec<HostId> {
    shelf.registrants.iter().map(|it| it.host).collect()
}

/// By a node that had the drive as this host.
fn renew(number: u8) -> Rivals {
    Rivals::Renew(Custody::of(identity(number).host))
}

const NEW: Step = Step::Claimed { continuous: false };

#[test]
fn a_free_drive_is_taken_and_a_second_node_is_told_who_has_it() {
    let mut shelf = Shelf::default();
    assert_eq!(run(&mut shelf, identity(1), Rivals::Respect).0, NEW);
    let (refused, asked) = run(&mut shelf, identity(2), Rivals::Respect);
    let Step::Refused(refusal @ Refusal::Held(_)) = refused else {
        panic!("{refused:?}")
    };
    let said = refusal.to_string();
    assert!(
        said.contains("reserved by host 01010101-0101-0101-0101-010101010101 with key 0x0000000000000001"),
        "{said}"
    );
    assert_eq!(asked.len(), 1, "it has changed nothing");
    assert_eq!(registered(&shelf), [HostId([1; 16])]);
}

#[test]
fn an_operator_takes_a_drive_over_by_a_fence() {
    let mut shelf = Shelf::default();
    run(&mut shelf, identity(1), Rivals::Respect);
    let (claimed, asked) = run(&mut shelf, identity(2), Rivals::TakeOver);
    assert_eq!(claimed, NEW);
    let is_fence = |command: &Command| matches!(command, Command::Preempt { abort: true, .. });
    assert!(asked.iter().any(is_fence), "{asked:?}");
    assert_eq!(registered(&shelf), [HostId([2; 16])]);
    let (late, _) = run(&mut shelf, identity(3), renew(1));
    assert!(matches!(late, Step::Refused(Refusal::Held(_))), "{late:?}");
}

#[test]
fn a_reconnect_fences_what_the_node_was_before() {
    let mut shelf = Shelf::default();
    run(&mut shelf, identity(1), Rivals::Respect);
    let (claimed, asked) = run(&mut shelf, identity(2), renew(1));
    assert_eq!(claimed, Step::Claimed { continuous: true });
    assert!(asked.contains(&preempt(Key(2), Key(1))), "{asked:?}");
    assert_eq!(registered(&shelf), [HostId([2; 16])]);
    // A shelf that has forgotten everybody is taken again, but not as if nothing had been.
    let mut forgetful = Shelf::default();
    let (claimed, _) = run(&mut forgetful, identity(3), renew(2));
    assert_eq!(claimed, NEW);
}

/// Goal: of two nodes that start at once at most one gets the drive.
/// Method: all interleavings of their commands.
#[test]
fn two_that_start_at_once_never_both_get_it() {
    let mut won = [0_u32; 3];
    for order in 0..1_u32 << 14 {
        let mut shelf = Shelf::default();
        let who = [identity(1), identity(2)];
        let mut claims = who.map(|who| Claim::begin(who, Rivals::Respect));
        let mut ends: [Option<Step>; 2] = [None, None];
        for turn in 0..64 {
            let wanted = if turn < 14 {
                (order >> turn & 1) as usize
            } else {
                turn % 2
            };
            let at = if ends[wanted].is_none() {
                wanted
            } else {
                1 - wanted
            };
            if ends[at].is_some() {
                break;
            }
            let (claim, command) = &mut claims[at];
            match claim.answered(answer(&mut shelf, who[at], command)) {
                Step::Ask(next) => *command = next,
                step @ (Step::Claimed { .. } | Step::Refused(_)) => ends[at] = Some(step),
            }
        }
        let claimed = ends.iter().filter(|end| **end == Some(NEW)).count();
        assert!(
            ends.iter().all(Option::is_some) && claimed < 2,
            "{order:b}: {ends:?}"
        );
        won[claimed] += 1;
    }
    assert!(won[1] > 0, "{won:?}");
}

/// Goal: a node whose connection comes back while another one takes its drive over does not take it back.
/// Method: all interleavings of their commands.
#[test]
fn a_drive_is_not_taken_back_from_who_takes_it_over() {
    let mut claimed = [0_u32; 2];
    for order in 0..1_u32 << 14 {
        let mut shelf = Shelf::default();
        run(&mut shelf, identity(9), Rivals::Respect);
        let who = [identity(1), identity(2)];
        let mut claims = [
            Claim::begin(who[0], renew(9)),
            Claim::begin(who[1], Rivals::TakeOver),
        ];
        let mut ends: [Option<Step>; 2] = [None, None];
        for turn in 0..64 {
            let wanted = if turn < 14 {
                (order >> turn & 1) as usize
            } else {
                turn % 2
            };
            let at = if ends[wanted].is_none() {
                wanted
            } else {
                1 - wanted
            };
            if ends[at].is_some() {
                break;
            }
            let (claim, command) = &mut claims[at];
            match claim.answered(answer(&mut shelf, who[at], command)) {
                Step::Ask(next) => *command = next,
                step @ (Step::Claimed { .. } | Step::Refused(_)) => ends[at] = Some(step),
            }
        }
        let is_claimed = |at: usize| matches!(ends[at], Some(Step::Claimed { .. }));
        let is_registered = |at: usize| registered(&shelf).contains(&who[at].host);
        if is_claimed(1) {
            assert!(is_registered(1), "{order:b}: {ends:?}");
            assert!(!is_registered(0), "{order:b}: {ends:?}");
        } else {
            assert!(is_claimed(0) && is_registered(0), "{order:b}: {ends:?}");
        }
        for (at, count) in claimed.iter_mut().enumerate() {
            *count += u32::from(is_claimed(at));
        }
    }
    assert!(claimed.iter().all(|count| *count > 0), "{claimed:?}");
}

/// One life of a world in which a node's connection is lost at any moment, once or more, while another node may take its drive over and
/// give it back. Whether the first one believed at the end that it had the drive all the time, and whether the other one had it.
fn life(seed: u64) -> (bool, bool) {
    let mut random = crate::target::host::random::Random::new(seed);
    let mut shelf = Shelf::default();
    run(&mut shelf, identity(200), Rivals::Respect);
    let mut custody = Custody::of(identity(200).host);
    let taker = identity(100);
    let takes = random.percent(70);
    let (mut taking, mut question) = Claim::begin(taker, Rivals::TakeOver);
    let (mut has_had, mut is_over) = (false, !takes);
    for attempt in 1..=60 {
        let own = identity(attempt);
        let (mut claim, mut command) = Claim::begin(own, Rivals::Renew(custody.clone()));
        let loses = attempt < 60 && random.percent(70);
        loop {
            if !is_over && random.percent(40) {
                let said = answer(&mut shelf, taker, &question);
                match taking.answered(said) {
                    Step::Ask(next) => question = next,
                    Step::Claimed { .. } => (has_had, is_over) = (true, true),
                    Step::Refused(_) => is_over = true,
                }
                if has_had && random.percent(50) {
                    answer(&mut shelf, taker, &give_back(taker));
                }
                continue;
            }
            let is_lost = loses && random.percent(40);
            if is_lost && random.percent(50) {
                break; // Before it has reached the drive.
            }
            let said = answer(&mut shelf, own, &command);
            if is_lost {
                break;
            }
            match claim.answered(said) {
                Step::Ask(next) => command = next,
                Step::Claimed { continuous } => return (continuous, has_had),
                Step::Refused(_) => return (false, has_had),
            }
        }
        custody.tried(&claim);
    }
    unreachable!("the last attempt is not lost")
}

/// Goal: a node that another one has had the drive of never believes what is on it, however often its connection is lost meanwhile; and
/// without another node it always does.
/// Method: lives from many seeds.
#[test]
fn who_has_had_a_drive_is_known_through_lost_connections() {
    let mut seen = [[0_u32; 2]; 2];
    for seed in 0..100_000 {
        let (continuous, other_had) = life(seed);
        assert!(!(continuous && other_had), "seed {seed}");
        seen[usize::from(continuous)][usize::from(other_had)] += 1;
    }
    assert!(seen[1][0] > 1000 && seen[0][1] > 1000, "{seen:?}");
}

#[test]
fn what_is_not_proven_is_refused() {
    let unproven = |state: usize, answer: Answer| {
        let mut shelf = Shelf::default();
        run(&mut shelf, identity(1), Rivals::Respect);
        let (mut claim, mut command) = Claim::begin(identity(2), Rivals::TakeOver);
        for _ in 0..state {
            let Step::Ask(next) = claim.answered(super::tests::answer(&mut shelf, identity(2), &command))
            else {
                panic!("not so far")
            };
            command = next;
        }
        claim.answered(answer)
    };
    assert_eq!(
        unproven(2, Answer::Interrupted),
        Step::Refused(Refusal::NotDrained)
    );
    // Its registration goes first.
    assert_eq!(unproven(2, Answer::Conflict), Step::Ask(give_back(identity(2))));
    assert_eq!(
        unproven(0, Answer::Failed(Some(Status::INVALID_OPCODE))),
        Step::Refused(Refusal::Unsupported)
    );
    assert_eq!(
        unproven(1, Answer::Failed(None)),
        Step::Refused(Refusal::Failed(None))
    );
}
