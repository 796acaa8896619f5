//! Our own host against a node: discovery, limits, timeouts, and connections that are cut under load.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use braid::target::host::{
    Event, Host, Job, JobError, Next, Outcome, QueueName, Target, TargetFacts, Workload,
};
use nvme::host::{DownReason, Kind, QueueFault};
use nvme::nqn::Nqn;
use nvme::status::Status;
use reactor::{CoreIndex, Nanos, Options, PollMode};

use super::bad_hosts::verify;
use super::queue::pattern;
use super::stage::{NQN, Stage, TWO_NAMESPACES, WAIT};

/// A workload that does what it is told, and keeps what came of it by the job's tag.
#[derive(Default)]
struct Told {
    jobs: VecDeque<(Job, Vec<u8>)>,
    writing: Vec<(u64, Vec<u8>)>,
    done: Vec<(u64, Outcome, Vec<u8>)>,
}

impl Workload for Told {
    fn ready(&mut self, _: Nanos, _: usize, _: &TargetFacts) {}

    fn next(&mut self, _: Nanos, queue: QueueName) -> Next {
        match self.jobs.pop_front_if(|_| queue.qid > 0) {
            None => Next::Idle,
            Some((job, data)) => {
                self.writing.push((job.tag, data));
                Next::Job(job)
            }
        }
    }

    fn fill(&mut self, job: &Job, data: &mut [u8]) {
        let (_, written) = self.writing.iter().find(|(tag, _)| *tag == job.tag).unwrap();
        data.copy_from_slice(written);
    }

    fn done(&mut self, _: Nanos, _: QueueName, job: &Job, outcome: Outcome, data: &[u8]) {
        self.done.push((job.tag, outcome, data.to_vec()));
    }
}

fn target(address: SocketAddr) -> Target {
    let hostnqn = Nqn::parse("nqn.2026-01.io.braid:told").unwrap();
    Target {
        reconnect: Duration::from_millis(20),
        loss_timeout: None,
        ..Target::new(address, Nqn::parse(NQN).unwrap(), hostnqn, [9; 16])
    }
}

fn start(target: Target) -> Host<Told> {
    let options = Options {
        poll: PollMode::Interrupt,
        arena_bytes: 16 << 20,
        files_max: 64,
        ..Options::default()
    };
    Host::start(options, vec![target], |_| Told::default()).unwrap()
}

fn event(host: &Host<Told>) -> Event {
    host.events()
        .recv_timeout(WAIT)
        .expect("the host says what happens")
}

fn await_ready(host: &Host<Told>) -> Arc<TargetFacts> {
    let event = event(host);
    let Event::Ready { facts, .. } = event else {
        panic!("{event:?}")
    };
    facts
}

/// Hands out jobs with what they write.
fn tell(host: &Host<Told>, jobs: Vec<(Job, Vec<u8>)>) {
    host.with(CoreIndex(0), move |told, _| told.jobs.extend(jobs))
        .unwrap();
}

/// Waits for so many results, by ascending tag.
fn results(host: &Host<Told>, count: usize) -> Vec<(u64, Outcome, Vec<u8>)> {
    let deadline = Instant::now() + WAIT;
    while host.with(CoreIndex(0), |told, _| told.done.len()).unwrap() < count {
        assert!(Instant::now() < deadline, "jobs end");
        thread::yield_now();
    }
    let mut done = host
        .with(CoreIndex(0), |told, _| std::mem::take(&mut told.done))
        .unwrap();
    done.sort_by_key(|(tag, ..)| *tag);
    assert_eq!(done.len(), count, "each job ends once");
    done
}

#[test]
fn discovery_names_the_subsystem_where_it_listens() {
    let stage = Stage::set(TWO_NAMESPACES);
    let target = Target {
        kind: Kind::Discovery,
        subnqn: Nqn::DISCOVERY,
        ..target(stage.address())
    };
    let host = start(target);
    let entries = loop {
        match event(&host) {
            Event::Discovered { entries, .. } => break entries,
            Event::Ready { .. } => {}
            event @ (Event::Down { .. } | Event::Failed { .. } | Event::Stopped { .. }) => {
                panic!("{event:?}")
            }
        }
    };
    let port = stage.address().port().to_string();
    let found = entries
        .iter()
        .find(|entry| entry.subnqn.as_str() == NQN)
        .expect("the subsystem is listed");
    assert_eq!((found.address.as_str(), &found.service), ("127.0.0.1", &port));
    host.stop().unwrap();
}

#[test]
fn facts_are_those_of_the_node_and_bound_what_is_sent() {
    let stage = Stage::set(TWO_NAMESPACES);
    let host = start(Target {
        io_queues: 200,
        depth: 1000,
        ..target(stage.address())
    });
    let facts = await_ready(&host);
    assert_eq!((facts.io_queues, facts.depth), (16, 127), "what the node grants");
    assert_eq!(
        (facts.max_transfer_bytes, facts.in_capsule_bytes),
        (256 << 10, 8 << 10)
    );
    let sizes: Vec<(u32, u64, u32)> = facts
        .namespaces
        .iter()
        .map(|found| (found.nsid, found.blocks, found.block_bytes))
        .collect();
    assert_eq!(sizes, [(1, 32 << 10, 512), (2, 4 << 10, 4096)]);
    host.stop().unwrap();
    stage.until("the host has taken leave", |stage| stage.hosts().is_empty());
}

#[test]
fn more_jobs_than_places_all_end_once_with_their_own_data() {
    let stage = Stage::set(TWO_NAMESPACES);
    for (depth, digests, flow_control) in [(1, false, true), (3, true, false), (32, true, true)] {
        let host = start(Target {
            io_queues: 2,
            depth,
            header_digest: digests,
            data_digest: digests,
            flow_control,
            ..target(stage.address())
        });
        await_ready(&host);
        // In the capsule, and by R2T.
        let write = |tag: u64| {
            let blocks = [1, 2, 3, 16, 64][usize::try_from(tag % 5).unwrap()];
            (
                Job::write(2, tag * 64 % 4096, blocks, 4096, tag),
                pattern(tag, blocks as usize * 4096),
            )
        };
        tell(&host, (0..60).map(write).collect());
        for (tag, outcome, _) in results(&host, 60) {
            assert!(outcome.unwrap().status.is_success(), "{tag}");
        }
        let read = |tag| {
            let (job, _) = write(tag);
            (Job::read(2, job.slba(), job.blocks(), 4096, tag), Vec::new())
        };
        tell(&host, (0..60).map(read).collect());
        for (tag, outcome, data) in results(&host, 60) {
            assert!(
                outcome.unwrap().status.is_success() && data == write(tag).1,
                "{tag}"
            );
        }
        host.stop().unwrap();
    }
}

#[test]
fn what_cannot_be_sent_and_what_the_target_refuses_are_told_apart() {
    let stage = Stage::set(TWO_NAMESPACES);
    // The node's limit, and a lower one of the host's own.
    for (wanted, granted) in [(1 << 20, 256 << 10), (128 << 10, 128 << 10)] {
        let host = start(Target {
            max_transfer_bytes: wanted,
            ..target(stage.address())
        });
        assert_eq!(await_ready(&host).max_transfer_bytes, granted);
        let blocks = granted / 4096;
        tell(
            &host,
            vec![
                (Job::read(2, 0, blocks + 1, 4096, 0), Vec::new()),
                (Job::read(2, 1 << 40, 1, 4096, 1), Vec::new()),
                (Job::read(2, 0, blocks, 4096, 2), Vec::new()),
            ],
        );
        let results = results(&host, 3);
        assert_eq!(results[0].1, Err(JobError::TooLarge));
        assert!(results[1].1.unwrap().status.same_code(Status::LBA_OUT_OF_RANGE));
        assert!(results[2].1.unwrap().status.is_success() && results[2].2.len() == granted as usize);
        host.stop().unwrap();
    }
}

/// Drives slower than the host waits.
const SLOW: &str = r#"
[[drive]]
name = "a"
memory_mib = 16
delay_us = 2000000
[[drive]]
name = "b"
memory_mib = 16
delay_us = 2000000
[[drive]]
name = "c"
memory_mib = 16
delay_us = 2000000
[[group]]
name = "g"
drives = ["a", "b", "c"]
create = true
[[vdisk]]
name = "v"
group = "g"
size_mib = 8
nsid = 1
"#;

#[test]
fn a_job_that_takes_too_long_resets_the_controller_and_the_host_comes_back() {
    let stage = Stage::set(SLOW);
    let host = start(Target {
        job_timeout: Duration::from_millis(200),
        ..target(stage.address())
    });
    await_ready(&host);
    tell(&host, vec![(Job::read(1, 0, 1, 4096, 0), Vec::new())]);
    assert_eq!(results(&host, 1)[0].1, Err(JobError::Lost));
    let event = event(&host);
    let Event::Down { reason, .. } = event else {
        panic!("{event:?}")
    };
    assert_eq!(
        reason,
        DownReason::Queue {
            qid: 1,
            fault: QueueFault::TimedOut
        }
    );
    await_ready(&host);
    host.stop().unwrap();
}

/// Forwards connections to a target, and can cut all of them at once.
pub struct Wire {
    /// Where to connect.
    pub address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    /// To this target.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let all = Arc::clone(&streams);
        thread::spawn(move || {
            for host in listener.incoming().map(Result::unwrap) {
                let Ok(target) = TcpStream::connect(target) else {
                    continue;
                };
                host.set_nodelay(true).unwrap();
                target.set_nodelay(true).unwrap();
                all.lock()
                    .unwrap()
                    .extend([host.try_clone().unwrap(), target.try_clone().unwrap()]);
                for (from, to) in [(&host, &target), (&target, &host)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || forward(&mut from, &mut to));
                }
            }
        });
        Self { address, streams }
    }

    /// How many connections were made since the last cut.
    pub fn open(&self) -> usize {
        self.streams.lock().unwrap().len() / 2
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        for stream in std::mem::take(&mut *self.streams.lock().unwrap()) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn forward(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(bytes) = from.read(&mut buffer) {
        if bytes == 0 || to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Goal: a host whose connections are cut under load loses no acknowledged write and goes on by itself.
/// Method: cuts everything in the middle of a verifying load, twice; the load checks every block that it reads.
#[test]
fn connections_cut_under_load_are_made_again_and_nothing_acknowledged_is_lost() {
    let stage = Stage::set(TWO_NAMESPACES);
    let wire = Wire::to(stage.address());
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| verify(wire.address, 2, 4));
        for _ in 0..2 {
            let before = stage.drive_commands("b0");
            // One queue may carry the load before the next one is connected again.
            stage.until("the load is on, over all connections", |stage| {
                stage.drive_commands("b0") > before + 1000 && wire.open() >= 3
            });
            wire.cut();
        }
        load.join().unwrap()
    });
    let measured = &report.measured;
    assert_eq!((measured.wrong, measured.failed), (0, 0), "{}", report.text());
    assert!(measured.checked > 0 && measured.lost > 0, "{}", report.text());
    assert!(
        !report.unfinished && report.course.last().unwrap().iops > 0.0,
        "it goes on: {:?}",
        report.course
    );
    assert!(
        report.notes.iter().any(|note| note.contains("made again")),
        "{:?}",
        report.notes
    );
}
