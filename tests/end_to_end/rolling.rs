//! Nodes that are stopped in good order and started again, one after the other, and a power cut of everything; under load of hosts that have paths to all of them.

use std::thread;
use std::time::Duration;

use braid::target::cli::options::{Pattern, PerfOptions};
use braid::target::perf::{PerfReport, measure};
use nvme::nqn::Nqn;

use super::multipath::Load;
use super::scene::Scene;
use super::sharing::GROUP;
use super::stage::NQN;

const NODES: u8 = 3;
const HOSTS: u8 = 6;
/// What whoever waits for another node's lease waits.
const LEASE_WAIT: Duration = Duration::from_millis(2200);

fn scene() -> Scene {
    let mut scene = Scene::set(NODES, GROUP);
    scene.create(0);
    let all: Vec<u8> = (0..NODES).collect();
    scene.until_open("formed", &all);
    scene
}

/// PROTOCOL 3.5 (graceful leave), H44, CHECKLIST A11: each node is stopped and started under load, twice. No host sees an error or loses a command, because each is told to go elsewhere
/// before its association ends, and the others go on without waiting for a lease.
#[test]
fn a_rolling_restart_costs_hosts_nothing() {
    let mut scene = scene();
    let addresses = scene.hosts.clone();
    Load::new().under(HOSTS, &addresses, |load| {
        let all: Vec<u8> = (0..NODES).collect();
        load.await_progress();
        println!("before: no answer for {:.2?}", load.counts().longest);
        let mut gaps = Vec::new();
        for slot in (0..NODES).chain(0..NODES) {
            let rest: Vec<u8> = all.iter().copied().filter(|other| *other != slot).collect();
            let before = load.counts();
            let stopped = scene.nodes[usize::from(slot)].take().unwrap();
            stopped.signal("-TERM");
            let took = stopped.ends_well();
            scene.until_open("after it has left", &rest);
            load.await_progress();
            let left = load.counts();
            scene.start_node(slot);
            let back = scene.until_open("it is back", &all);
            load.await_progress();
            let joined = load.counts();
            println!(
                "node {slot}: stopped in {took:.2?}, no answer for {:.2?}; back in {back:.2?}, no answer for {:.2?}; {} commands done, {} sent to other nodes",
                left.longest,
                joined.longest,
                joined.done - before.done,
                joined.refused - before.refused,
            );
            assert!(left.refused > before.refused, "hosts of node {slot} are told to go elsewhere");
            gaps.push(left.longest);
        }
        let counts = load.counts();
        assert_eq!(counts.lost, 0, "no command is lost: {counts:?}");
        // A busy machine may hold up one of them, and hardly all.
        let shortest = gaps.iter().min().unwrap();
        assert!(*shortest < LEASE_WAIT / 2, "others do not wait for a lease: {gaps:?}");
    });
}

/// `braid node leave` under load, and `braid node join`: the same, and the process goes on as another life of the node.
#[test]
fn a_node_that_is_asked_to_leave_comes_back_when_it_is_asked_to() {
    let mut scene = scene();
    let addresses = scene.hosts.clone();
    Load::new().under(HOSTS, &addresses, |load| {
        load.await_progress();
        let before = scene.show(1).expect("it answers").incarnation;
        load.counts();
        scene.leave(1);
        scene.until_open("it has left", &[0, 2]);
        load.await_progress();
        let left = load.counts();
        scene.join(1);
        scene.until_open("it is back", &[0, 1, 2]);
        load.await_progress();
        let joined = load.counts();
        println!(
            "no answer for {:.2?} while it left, {:.2?} while it came back",
            left.longest, joined.longest
        );
        assert!(left.refused > 0 && joined.lost == 0, "{joined:?}");
        assert_ne!(
            scene.show(1).expect("it answers").incarnation,
            before,
            "it is another life"
        );
    });
}

/// PROTOCOL H24, H31, 3.5 (simultaneous power loss): all nodes and the shelf die at once, twice, under load. What was acknowledged is there afterwards, and hosts that wait see no error.
#[test]
fn what_was_acknowledged_survives_the_death_of_everything() {
    let mut scene = scene();
    let addresses = scene.hosts.clone();
    Load::new().under(HOSTS, &addresses, |load| {
        for _ in 0..2 {
            load.await_progress();
            load.counts();
            scene.kill_everything();
            scene.start_shelf();
            (0..NODES).for_each(|slot| scene.start_node(slot));
            let back = scene.until_open("all are back", &[0, 1, 2]);
            load.await_progress();
            println!(
                "all are back in {back:.2?}, no answer for {:.2?}",
                load.counts().longest
            );
        }
        assert!(load.counts().lost > 0, "commands were under way");
    });
}

/// `braid perf` with a path to each of two nodes, of which one goes in the midst of it, in this way.
fn perf_while(scene: &mut Scene, goes: impl FnOnce(&mut Scene)) -> PerfReport {
    let options = PerfOptions {
        addresses: scene.hosts[..2].to_vec(),
        nqn: Nqn::parse(NQN).unwrap(),
        nsid: 1,
        depth: 4,
        block_bytes: 4096,
        read_percent: 50,
        seconds: 10,
        queues: 1,
        cores: 1,
        pattern: Pattern::Random,
        fua: false,
        verify: true,
        rate: None,
        header_digest: false,
        data_digest: false,
        host_nqn: None,
        json: false,
        report_html: None,
    };
    let report = thread::scope(|scope| {
        let measured = scope.spawn(|| measure(&options));
        thread::sleep(Duration::from_secs(3)); // In the midst of ten seconds, on the slowest machine.
        goes(scene);
        measured.join().unwrap().unwrap()
    });
    println!("{}", report.text());
    assert!(report.is_good(), "{}", report.text());
    let answered = &report.measured.by_path;
    assert!(answered.iter().all(|count| *count > 0), "{answered:?}");
    report
}

/// The longest time without a completion is what a failover costs: a lease and a recovery if a node is killed, and less if it leaves.
#[test]
fn braid_perf_says_how_long_a_failover_takes() {
    let mut scene = scene();
    let killed = perf_while(&mut scene, |scene| {
        scene.nodes[0] = None;
        scene.until_open("after a kill", &[1, 2]);
    });
    assert!(killed.measured.sent_again > 0);
    let gap = killed.measured.gap;
    assert!(
        gap.length_ns > 1_000_000_000 && gap.at_ns > 500_000_000,
        "{gap:?}"
    );
    scene.start_node(0);
    scene.until_open("it is back", &[0, 1, 2]);
    let left = perf_while(&mut scene, |scene| {
        let stopped = scene.nodes[0].take().unwrap();
        stopped.signal("-TERM");
        stopped.ends_well();
        scene.until_open("after it has left", &[1, 2]);
    });
    let gaps = [left, killed].map(|report| report.measured.gap.length_ns);
    assert!(gaps[0] < gaps[1], "no lease is waited for: {gaps:?}");
}
