//! The association against a small controller that answers in memory.

use super::*;
use crate::io::NamespaceFormat;
use crate::log::{DiscoveryEntry, LogRequest, SubsystemType, discovery};
use crate::nqn::Nqn;

const SECOND_NS: u64 = 1_000_000_000;

/// A controller without a transport: answers each command at once, as its fields say.
struct Fake {
    cntlid: u16,
    identify: Vec<u8>,
    queues_granted: u16,
    /// Number of blocks by NSID.
    namespaces: BTreeMap<u32, u64>,
    ready: bool,
    shut_down: bool,
    connect: Status,
    /// The first command with this opcode gets no answer.
    mute: Option<u8>,
    discovery: Vec<u8>,
    /// Moves the generation after each of so many reads of entries.
    restless: u32,
    submitted: Vec<SubmissionEntry>,
}

fn facts(cntlid: u16) -> Vec<u8> {
    let mut page = vec![0; IDENTIFY_BYTES];
    page[77] = 5; // 128 KiB
    page[78..80].copy_from_slice(&cntlid.to_le_bytes());
    page[92..96].copy_from_slice(&(1_u32 << 8 | 1 << 31).to_le_bytes());
    page[320] = 10;
    page[514..516].copy_from_slice(&64_u16.to_le_bytes());
    page[525] = 1;
    page[536] = 1;
    page[1792..1796].copy_from_slice(&260_u32.to_le_bytes()); // 4096 + 64
    page[1796] = 1;
    page
}

impl Fake {
    fn new() -> Self {
        Self {
            cntlid: 0x0105,
            identify: facts(0x0105),
            queues_granted: 8,
            namespaces: BTreeMap::from([(1, 1000), (7, 5000)]),
            ready: true,
            shut_down: true,
            connect: Status::SUCCESS,
            mute: None,
            discovery: Vec::new(),
            restless: 0,
            submitted: Vec::new(),
        }
    }

    /// Result, status and data of a command; `None`: no answer.
    fn answer(&mut self, entry: &SubmissionEntry) -> Option<(u64, Status, Vec<u8>)> {
        self.submitted.push(*entry);
        if self.mute == Some(entry.opcode()) {
            return None;
        }
        let done = |result: u64| Some((result, Status::SUCCESS, Vec::new()));
        match (entry.opcode(), entry.fctype()) {
            (admin_opcode::FABRICS, crate::fabrics::fctype::CONNECT) => {
                Some((u64::from(self.cntlid), self.connect, Vec::new()))
            }
            (admin_opcode::FABRICS, crate::fabrics::fctype::PROPERTY_GET) => {
                match PropertyAccess::parse(entry).offset {
                    property::CAP => done(Capabilities::new(128, 4).0),
                    _ => {
                        let shutdown_status = if self.shut_down { 2 } else { 1 };
                        done(u64::from(
                            ControllerStatus::new(self.ready, false, shutdown_status).0,
                        ))
                    }
                }
            }
            (admin_opcode::IDENTIFY, _) => self.identify(entry),
            (admin_opcode::SET_FEATURES, _) if entry.dword(10) == u32::from(fid::NUMBER_OF_QUEUES) => {
                let granted = u64::from(self.queues_granted - 1);
                done(granted | granted << 16)
            }
            (admin_opcode::GET_LOG_PAGE, _) => Some((0, Status::SUCCESS, self.log(entry))),
            (admin_opcode::ASYNC_EVENT_REQUEST, _) => None,
            _ => done(0),
        }
    }

    fn identify(&self, entry: &SubmissionEntry) -> Option<(u64, Status, Vec<u8>)> {
        let [cns, ..] = entry.dword(10).to_le_bytes();
        let nsid = entry.nsid();
        let data = match cns {
            cns::CONTROLLER => self.identify.clone(),
            cns::ACTIVE_NAMESPACES => {
                crate::identify::namespace_list(self.namespaces.range(nsid + 1..).map(|(&nsid, _)| nsid))
            }
            cns::NAMESPACE => match self.namespaces.get(&nsid) {
                Some(&blocks) => crate::identify::namespace(&namespace_facts(nsid, blocks)),
                None => return Some((0, Status::INVALID_NAMESPACE_OR_FORMAT, Vec::new())),
            },
            _ => crate::identify::namespace_descriptors(&namespace_facts(nsid, 0)),
        };
        Some((0, Status::SUCCESS, data))
    }

    fn log(&mut self, entry: &SubmissionEntry) -> Vec<u8> {
        let request = LogRequest::parse(entry).unwrap();
        if request.lid != lid::DISCOVERY {
            return vec![0; usize::try_from(request.length_bytes).unwrap()];
        }
        let data = request.cut(&self.discovery).unwrap();
        if request.offset > 0 && self.restless > 0 {
            self.restless -= 1;
            self.discovery[0] += 1;
        }
        data
    }
}

fn namespace_facts(nsid: u32, blocks: u64) -> crate::identify::NamespaceFacts {
    let [low, ..] = nsid.to_le_bytes();
    crate::identify::NamespaceFacts {
        nsid,
        access: crate::access::Access::Here,
        format: NamespaceFormat {
            blocks,
            block_shift: 12,
        },
        nguid: [low; 16],
        uuid: [low | 0x80; 16],
        strip_blocks: None,
        stripe_blocks: None,
        atomic_write_blocks: 1,
        atomic_write_blocks_power_fail: 1,
        compare_write_blocks_max: 1,
        reservable: crate::identify::Reservable::UntilStop,
    }
}

fn config(kind: Kind) -> Config {
    Config {
        subnqn: Nqn::parse("nqn.2014-08.org.example:array").unwrap(),
        hostnqn: Nqn::parse("nqn.2014-08.org.example:host").unwrap(),
        hostid: [9; 16],
        kind,
        io_queues: 3,
        queue_entries: 128,
        admin_entries: 32,
        kato_ms: 10_000,
        keep_alive_ns: 5 * SECOND_NS,
        drain: false,
        flow_control: false,
        max_transfer_bytes: 1 << 20,
        command_timeout_ns: 30 * SECOND_NS,
        reconnect_min_ns: SECOND_NS,
        reconnect_max_ns: 10 * SECOND_NS,
        loss_timeout_ns: None,
    }
}

/// An association with its controller, a clock, and what the user was told.
struct Rig {
    association: Association,
    fake: Fake,
    now_ns: u64,
    told: Vec<Action>,
    /// Whether connections can be made.
    reachable: bool,
    open: std::collections::BTreeSet<u16>,
}

impl Rig {
    fn new(kind: Kind, fake: Fake) -> Self {
        Self {
            association: Association::new(config(kind)),
            fake,
            now_ns: 5,
            told: Vec::new(),
            reachable: true,
            open: std::collections::BTreeSet::new(),
        }
    }

    fn live() -> Self {
        let mut rig = Self::new(Kind::Io, Fake::new());
        rig.handle(Event::Start);
        assert!(rig.association.is_live());
        rig
    }

    /// Feeds one event, and everything that follows from it without time passing.
    fn handle(&mut self, event: Event<'_>) {
        let mut actions = Vec::new();
        self.association.handle(self.now_ns, event, &mut actions);
        for action in actions {
            match action {
                Action::OpenQueue { qid, entries } => {
                    assert!(entries >= 2 && self.open.insert(qid), "queues are opened once");
                    if self.reachable {
                        self.handle(Event::QueueUp { qid });
                    } else {
                        let fault = QueueFault::Unreachable;
                        self.handle(Event::QueueDown { qid, fault });
                    }
                }
                Action::CloseQueue { qid } => assert!(self.open.remove(&qid), "only open queues are closed"),
                Action::Submit { qid, entry, .. } => {
                    assert!(self.open.contains(&qid), "commands go to open queues");
                    if let Some((result, status, data)) = self.fake.answer(&entry) {
                        self.complete(qid, entry.cid(), result, status, &data);
                    }
                }
                told @ (Action::Live { .. }
                | Action::Drain(_)
                | Action::Namespace { .. }
                | Action::NamespaceRemoved { .. }
                | Action::NamespacesChanged
                | Action::Scanned { .. }
                | Action::Discovered { .. }
                | Action::Down { .. }
                | Action::Failed { .. }) => self.told.push(told),
            }
        }
    }

    fn complete(&mut self, qid: u16, cid: u16, result: u64, status: Status, data: &[u8]) {
        let entry = CompletionEntry {
            result,
            sqhd: 0,
            cid,
            status,
        };
        self.handle(Event::Completion { qid, entry, data });
    }

    /// Lets time pass in steps of 100 ms.
    fn pass(&mut self, ns: u64) {
        let until_ns = self.now_ns + ns;
        while self.now_ns < until_ns {
            self.now_ns += 100_000_000;
            self.handle(Event::Tick);
        }
    }

    /// What the user was told since the last call.
    fn told(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.told)
    }

    fn down(reason: DownReason, will_retry_at_ns: u64) -> Action {
        Action::Down {
            reason,
            will_retry_at_ns: Some(will_retry_at_ns),
        }
    }
}

fn namespace(nsid: u32, blocks: u64) -> Action {
    let [low, ..] = nsid.to_le_bytes();
    Action::Namespace {
        nsid,
        blocks,
        block_bytes: 4096,
        nguid: [low; 16],
        uuid: [low | 0x80; 16],
    }
}

fn live(io_queues: u16) -> Action {
    Action::Live {
        cntlid: 0x0105,
        io_queues,
        queue_entries: 64,
        max_transfer_bytes: 128 << 10,
        in_capsule_bytes: 4096,
        volatile_write_cache: true,
        oncs: 0,
        fuses: 0,
    }
}

#[test]
fn bring_up_ends_live_with_all_queues_and_namespaces() {
    let mut rig = Rig::live();
    let expected = [
        live(3),
        namespace(1, 1000),
        namespace(7, 5000),
        Action::Scanned { namespaces: 2 },
    ];
    assert_eq!(rig.told(), expected);
    assert_eq!(rig.open, std::collections::BTreeSet::from([0, 1, 2, 3]));
    let connects: Vec<_> = rig
        .fake
        .submitted
        .iter()
        .filter(|entry| entry.opcode() == admin_opcode::FABRICS && entry.fctype() == 1)
        .map(|entry| {
            (
                Connect::parse(entry).qid,
                Connect::parse(entry).sqsize,
                Connect::parse(entry).kato_ms,
            )
        })
        .collect();
    assert_eq!(
        connects,
        [(0, 31, 10_000), (1, 63, 0), (2, 63, 0), (3, 63, 0)],
        "MAXCMD is kept to"
    );
}

#[test]
fn fewer_queues_granted_are_fewer_queues_opened() {
    let mut fake = Fake::new();
    fake.queues_granted = 2;
    let mut rig = Rig::new(Kind::Io, fake);
    rig.handle(Event::Start);
    assert_eq!(rig.told()[0], live(2));
    assert_eq!(rig.open.len(), 3);
}

#[test]
fn do_not_retry_on_connect_ends_it_and_anything_else_is_tried_again() {
    let mut fake = Fake::new();
    fake.connect = Status::CONNECT_INVALID_HOST.do_not_retry();
    let mut rig = Rig::new(Kind::Io, fake);
    rig.handle(Event::Start);
    let reason = FailReason::Refused(Status::CONNECT_INVALID_HOST.do_not_retry());
    assert_eq!(rig.told(), [Action::Failed { reason }]);
    rig.pass(100 * SECOND_NS);
    assert!(rig.told().is_empty() && rig.open.is_empty(), "it stays failed");

    let mut fake = Fake::new();
    fake.connect = Status::CONNECT_CONTROLLER_BUSY;
    let mut rig = Rig::new(Kind::Io, fake);
    rig.handle(Event::Start);
    let reason = DownReason::CommandFailed(Status::CONNECT_CONTROLLER_BUSY);
    assert_eq!(rig.told(), [Rig::down(reason, 5 + SECOND_NS)]);
    rig.fake.connect = Status::SUCCESS;
    rig.pass(2 * SECOND_NS);
    assert!(rig.association.is_live());
}

#[test]
fn waits_between_attempts_double_up_to_the_limit() {
    let mut rig = Rig::new(Kind::Io, Fake::new());
    rig.reachable = false;
    rig.handle(Event::Start);
    rig.pass(60 * SECOND_NS);
    let waits: Vec<u64> = rig
        .told()
        .iter()
        .map(|action| {
            let Action::Down {
                will_retry_at_ns: Some(at_ns),
                ..
            } = action
            else {
                panic!("only attempts that fail, not {action:?}")
            };
            at_ns / SECOND_NS
        })
        .collect();
    assert_eq!(waits[..5], [1, 3, 7, 15, 25], "1, 2, 4, 8, then 10 seconds each");
}

#[test]
fn the_loss_timeout_ends_it() {
    let mut rig = Rig::new(Kind::Io, Fake::new());
    rig.association.config.loss_timeout_ns = Some(20 * SECOND_NS);
    rig.reachable = false;
    rig.handle(Event::Start);
    rig.pass(60 * SECOND_NS);
    let reason = FailReason::LossTimeout;
    assert_eq!(rig.told().last(), Some(&Action::Failed { reason }));
}

#[test]
fn identify_must_agree_with_connect_and_suit_fabrics() {
    let cases: [(usize, &[u8], FailReason); 6] = [
        (
            78,
            &[4, 1],
            FailReason::ControllerMismatch {
                connect: 0x0105,
                identify: 0x0104,
            },
        ),
        (1792, &[3, 0], FailReason::Incompatible("IOCCSZ")),
        (1796, &[0], FailReason::Incompatible("IORCSZ")),
        (1800, &[1], FailReason::Incompatible("ICDOFF")),
        (320, &[0, 0], FailReason::Incompatible("KAS")),
        (536, &[0], FailReason::Incompatible("SGLS")),
    ];
    for (at, bytes, reason) in cases {
        let mut fake = Fake::new();
        fake.identify[at..at + bytes.len()].copy_from_slice(bytes);
        let mut rig = Rig::new(Kind::Io, fake);
        rig.handle(Event::Start);
        assert_eq!(rig.told(), [Action::Failed { reason }]);
        assert!(rig.open.is_empty());
    }
}

#[test]
fn a_controller_that_wants_authentication_is_refused_clearly() {
    let mut rig = Rig::new(Kind::Io, Fake::new());
    rig.open.insert(0); // The association is driven by hand until Connect completes.
    rig.association.handle(5, Event::Start, &mut Vec::new());
    rig.association
        .handle(5, Event::QueueUp { qid: 0 }, &mut Vec::new());
    rig.complete(0, CID_STEP, 0x0105 | 1 << 17, Status::SUCCESS, &[]);
    let reason = FailReason::AuthenticationRequired;
    assert_eq!(rig.association.state, State::Over);
    assert_eq!(rig.told(), [Action::Failed { reason }]);
}

#[test]
fn a_controller_that_is_not_ready_within_cap_to_is_tried_again() {
    let mut fake = Fake::new();
    fake.ready = false;
    let mut rig = Rig::new(Kind::Io, fake);
    rig.handle(Event::Start);
    rig.pass(SECOND_NS);
    assert_eq!(rig.told(), []);
    rig.pass(SECOND_NS + 200_000_000);
    assert!(
        matches!(
            rig.told()[..],
            [Action::Down {
                reason: DownReason::NotReady,
                ..
            }]
        ),
        "CAP.TO is 2 s"
    );
    rig.fake.ready = true;
    rig.pass(2 * SECOND_NS);
    assert!(rig.association.is_live());
}

#[test]
fn an_admin_command_without_an_answer_resets() {
    for opcode in [
        admin_opcode::FABRICS,
        admin_opcode::IDENTIFY,
        admin_opcode::SET_FEATURES,
    ] {
        let mut fake = Fake::new();
        fake.mute = Some(opcode);
        let mut rig = Rig::new(Kind::Io, fake);
        rig.handle(Event::Start);
        rig.pass(29 * SECOND_NS);
        assert_eq!(rig.told(), []);
        rig.pass(SECOND_NS);
        let reason = DownReason::CommandTimeout { qid: 0 };
        assert!(matches!(rig.told()[..], [Action::Down { reason: seen, .. }] if seen == reason));
        assert!(rig.open.is_empty());
        rig.fake.mute = None;
        rig.pass(2 * SECOND_NS);
        assert!(rig.association.is_live());
    }
}

#[test]
fn an_io_queue_that_does_not_connect_resets() {
    let mut rig = Rig::live();
    rig.told();
    rig.association.queues[2] = QueueState::Opening {
        deadline_ns: rig.now_ns + SECOND_NS,
    };
    rig.pass(SECOND_NS);
    let reason = DownReason::CommandTimeout { qid: 2 };
    assert!(matches!(rig.told()[..], [Action::Down { reason: seen, .. }] if seen == reason));
}

#[test]
fn keep_alive_is_sent_at_half_of_kato_and_its_failure_resets() {
    let mut rig = Rig::live();
    let count = |rig: &Rig| {
        let keep_alives = rig.fake.submitted.iter();
        keep_alives
            .filter(|entry| entry.opcode() == admin_opcode::KEEP_ALIVE)
            .count()
    };
    rig.pass(60 * SECOND_NS);
    assert_eq!(count(&rig), 12, "one in 5 s");
    rig.told();
    rig.fake.mute = Some(admin_opcode::KEEP_ALIVE);
    rig.pass(35 * SECOND_NS + 100_000_000);
    let reason = DownReason::CommandTimeout { qid: 0 };
    assert!(matches!(rig.told()[0], Action::Down { reason: seen, .. } if seen == reason));
}

#[test]
fn a_namespace_event_reports_what_is_new_changed_or_gone() {
    let mut rig = Rig::live();
    rig.told();
    rig.fake.namespaces = BTreeMap::from([(1, 2000), (9, 10)]);
    rig.complete(0, CID_EVENT, 0x04_00_02, Status::SUCCESS, &[]);
    let expected = [
        Action::NamespacesChanged,
        namespace(1, 2000),
        namespace(9, 10),
        Action::NamespaceRemoved { nsid: 7 },
        Action::Scanned { namespaces: 2 },
    ];
    assert_eq!(rig.told(), expected);
    let last_log = rig
        .fake
        .submitted
        .iter()
        .rfind(|entry| entry.opcode() == admin_opcode::GET_LOG_PAGE);
    assert_eq!(
        last_log.unwrap().dword(10) & 0xff,
        4,
        "the log was read, which re-arms the event"
    );
    assert!(
        rig.association.pending[0].is_some(),
        "another request is outstanding"
    );
}

#[test]
fn more_namespaces_than_one_list_holds_are_all_found() {
    let mut fake = Fake::new();
    fake.namespaces = (1..=1500).map(|nsid| (nsid, 8)).collect();
    let mut rig = Rig::new(Kind::Io, fake);
    rig.handle(Event::Start);
    assert_eq!(rig.told().last(), Some(&Action::Scanned { namespaces: 1500 }));
}

#[test]
fn loss_of_any_queue_closes_all_and_reconnects_without_telling_namespaces_again() {
    for qid in 0..4 {
        let mut rig = Rig::live();
        rig.told();
        let fault = QueueFault::Lost;
        rig.handle(Event::QueueDown { qid, fault });
        let reason = DownReason::Queue { qid, fault };
        assert_eq!(rig.told(), [Rig::down(reason, 5 + SECOND_NS)]);
        assert!(rig.open.is_empty() && !rig.association.is_live());
        rig.handle(Event::QueueDown { qid, fault });
        assert_eq!(rig.told(), [], "the queue is closed already");
        rig.pass(2 * SECOND_NS);
        assert_eq!(rig.told(), [live(3), Action::Scanned { namespaces: 2 }]);
    }
}

#[test]
fn stop_shuts_the_controller_down_and_waits_for_it_but_not_for_ever() {
    for (shut_down, seconds) in [(true, 1), (false, 6)] {
        let mut rig = Rig::live();
        rig.told();
        rig.fake.shut_down = shut_down;
        rig.handle(Event::Stop);
        assert!(!rig.association.is_live() && rig.told().is_empty());
        rig.pass(seconds * SECOND_NS);
        let stopped = Action::Down {
            reason: DownReason::Stopped,
            will_retry_at_ns: None,
        };
        assert_eq!(rig.told(), [stopped]);
        assert!(rig.open.is_empty());
    }
}

fn discovery_fake(entries: u16) -> Fake {
    let entry = |port| DiscoveryEntry {
        trtype: DiscoveryEntry::TRTYPE_TCP,
        adrfam: 1,
        subtype: SubsystemType::Nvm,
        port,
        admin_entries_max: 32,
        eflags: 0,
        service: "4420".to_owned(),
        subnqn: Nqn::parse("nqn.2014-08.org.example:array").unwrap(),
        address: "192.0.2.1".to_owned(),
    };
    let all: Vec<_> = (0..entries).map(entry).collect();
    let mut fake = Fake::new();
    fake.discovery = discovery(40, &all);
    fake.identify[1792..1797].fill(0);
    fake
}

#[test]
fn a_discovery_log_is_read_in_pieces_of_one_generation() {
    for (entries, restless) in [(0, 0), (1, 0), (4, 0), (9, 0), (9, 5)] {
        let mut fake = discovery_fake(entries);
        fake.restless = restless;
        let mut rig = Rig::new(Kind::Discovery, fake);
        rig.handle(Event::Start);
        let told = rig.told();
        let [
            Action::Live { io_queues: 0, .. },
            Action::Discovered {
                generation,
                entries: found,
            },
        ] = &told[..]
        else {
            panic!("live, then the log: {told:?}")
        };
        assert_eq!(*generation, 40 + u64::from(restless));
        let ports: Vec<u16> = found.iter().map(|entry| entry.port).collect();
        assert_eq!(ports, (0..entries).collect::<Vec<_>>());
        rig.complete(0, CID_EVENT, 0x70_f0_02, Status::SUCCESS, &[]);
        assert!(
            matches!(rig.told()[..], [Action::Discovered { .. }]),
            "an event reads it again"
        );
    }
}

#[test]
fn a_discovery_log_that_never_stands_still_is_given_up() {
    let mut fake = discovery_fake(9);
    fake.restless = 100;
    let mut rig = Rig::new(Kind::Discovery, fake);
    rig.handle(Event::Start);
    assert!(matches!(
        rig.told()[1],
        Action::Down {
            reason: DownReason::LogUnstable,
            ..
        }
    ));
}

/// Whatever a controller answers, the association neither panics nor leaves a queue open when it is down.
#[test]
fn random_answers_never_panic() {
    let mut seed = 1_u64;
    let mut random = move |bound: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % bound
    };
    let mut lives = 0;
    for round in 0..400 {
        let kind = if round % 3 == 0 { Kind::Discovery } else { Kind::Io };
        let mut association = Association::new(config(kind));
        let mut fake = discovery_fake(6);
        fake.identify = facts(0x0105);
        let mut actions = Vec::new();
        let mut queue = std::collections::VecDeque::new();
        let mut now_ns = 0;
        association.handle(now_ns, Event::Start, &mut actions);
        for _ in 0..200 {
            queue.extend(actions.drain(..));
            now_ns += random(SECOND_NS);
            match queue.pop_front() {
                None => association.handle(now_ns, Event::Tick, &mut actions),
                Some(Action::OpenQueue { qid, .. }) => {
                    association.handle(now_ns, Event::QueueUp { qid }, &mut actions);
                }
                Some(Action::CloseQueue { .. }) => {}
                Some(Action::Submit { qid, entry, .. }) => {
                    let answer = fake.answer(&entry);
                    let (mut result, mut status, mut data) =
                        answer.unwrap_or((0x70_f0_02, Status::SUCCESS, vec![]));
                    match random(30) {
                        0 => result = random(u64::MAX),
                        1 => status = Status::INTERNAL_ERROR,
                        2 => data.truncate(usize::try_from(random(64)).unwrap()),
                        3 => data.iter_mut().for_each(|byte| *byte ^= 0x81),
                        _ => {}
                    }
                    let entry = CompletionEntry {
                        result,
                        sqhd: 0,
                        cid: entry.cid(),
                        status,
                    };
                    let event = Event::Completion {
                        qid,
                        entry,
                        data: &data,
                    };
                    association.handle(now_ns, event, &mut actions);
                }
                Some(Action::Live { .. }) => lives += 1,
                Some(_) => {}
            }
            if matches!(association.state, State::Backoff { .. } | State::Over) {
                assert!(
                    association
                        .queues
                        .iter()
                        .all(|&queue| queue == QueueState::Closed)
                );
            }
        }
    }
    assert!(lives > 100, "many get far: {lives}");
}
