//! Capsules: single commands, a host's capsules for the subsystem, and a controller's answers for the host.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use nvme::access::Access;
use nvme::command::{CompletionEntry, Direction, SQE_BYTES, Sgl, SubmissionEntry, admin_opcode};
use nvme::fabrics::{CNTLID_DYNAMIC, Connect, ConnectData};
use nvme::host::{self, Association, QueueFault};
use nvme::identify::{Reservable, Transport};
use nvme::io::{IoLimits, IoRequest, NamespaceFormat, parse_dsm_ranges};
use nvme::nqn::Nqn;
use nvme::reservation::wire::is_reservation;
use nvme::status::Status;
use nvme::subsystem::{self, HostAccess, Namespace, Port, PortId, QueueId, ResetOutcome, Subsystem};

use super::Input;

const SUBSYSTEM: &str = "nqn.2026-01.io.braid:fuzz";
const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-3333-4444-555555555555";
const HOST_ID: [u8; 16] = [0x11; 16];
const FORMAT: NamespaceFormat = NamespaceFormat {
    blocks: 1000,
    block_shift: 12,
};
/// Connections that are open at a time.
const QUEUES: u32 = 6;
/// Commands that one connection has in flight.
const SLOTS: u16 = 32;
/// Events of one run.
const STEPS_MAX: usize = 2000;
/// Actions that one event may cause: a shutdown closes and reports every connection, and a change of the
/// namespaces completes an asynchronous event request of each controller.
const ACTIONS_MAX: usize = 512;

/// Feeds one of the others, which the first byte chooses.
pub fn any(bytes: &[u8]) -> usize {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => io(input.rest()),
        1 => controller(input.rest()),
        _ => association(input.rest()),
    }
}

/// Feeds the parsers of I/O commands and Connect data. Returns how many parsed.
pub fn io(bytes: &[u8]) -> usize {
    let mut input = Input::new(bytes);
    let entry = SubmissionEntry::parse(input.array::<SQE_BYTES>());
    let length = u32::from(input.word()) << (input.byte() % 4 * 4);
    let data = input.rest();
    let mut parsed = 0;
    let limits = IoLimits {
        max_transfer_bytes: 1 << 18,
        compare_write_blocks_max: 8,
    };
    for block_shift in [9, 12] {
        let format = NamespaceFormat {
            block_shift,
            ..FORMAT
        };
        let Ok(request) = IoRequest::parse(&entry, length, &format, &limits) else {
            continue;
        };
        parsed += 1;
        match request {
            IoRequest::Read { slba, blocks, .. }
            | IoRequest::Write { slba, blocks, .. }
            | IoRequest::Compare { slba, blocks } => {
                assert!(
                    blocks > 0 && slba + u64::from(blocks) <= format.blocks,
                    "inside the namespace"
                );
                assert_eq!(
                    u64::from(blocks) << block_shift,
                    u64::from(length),
                    "as long as its data"
                );
                assert!(length <= limits.max_transfer_bytes);
            }
            IoRequest::WriteZeroes { slba, blocks, .. } => {
                assert!(
                    blocks > 0 && slba + u64::from(blocks) <= format.blocks,
                    "inside the namespace"
                );
            }
            IoRequest::DatasetManagement { ranges, .. } => {
                let Ok(checked) = parse_dsm_ranges(data, ranges, &format) else {
                    continue;
                };
                assert_eq!(checked.len(), usize::from(ranges));
                for range in checked {
                    assert!(
                        range.slba + u64::from(range.blocks) <= format.blocks,
                        "inside the namespace"
                    );
                }
            }
            IoRequest::Flush => {}
        }
    }
    if let Ok(connect) = ConnectData::parse(data) {
        parsed += 1;
        assert_eq!(ConnectData::parse(&connect.encode()), Ok(connect));
    }
    parsed
}

fn nqn(text: &str) -> Nqn {
    Nqn::parse(text).expect("a name of ours")
}

/// A subsystem with two namespaces and two listeners.
fn new_subsystem() -> Subsystem {
    let port = |id, discovery_only| Port {
        id: PortId(id),
        transport: Transport::Tcp,
        address: "0.0.0.0".to_owned(),
        service: "4420".to_owned(),
        discovery_only,
    };
    let mut subsystem = Subsystem::new(subsystem::Config {
        nqn: nqn(SUBSYSTEM),
        serial: "FUZZ".to_owned(),
        model: "Braid".to_owned(),
        firmware: "1".to_owned(),
        oui: [2, 0x42, 0x52],
        cntlids: 1..=64,
        cntlids_elsewhere: vec![65..=80],
        controllers_max: 4,
        io_queues_max: 4,
        queue_entries_max: 32,
        in_capsule_bytes: 4096,
        max_transfer_bytes: 1 << 18,
        compare_write_blocks_max: 8,
        atomic_write_blocks: 1,
        atomic_write_blocks_power_fail: 1,
        command_quiesce_ms: 0,
        allow: HostAccess::List(vec![nqn(HOST)]),
        ports: vec![port(1, false), port(2, true)],
        instance: [1; 16],
        seed: 1,
    })
    .expect("a configuration of ours");
    for nsid in [1, 7] {
        let id = [u8::try_from(nsid).expect("small"); 16];
        let namespace = Namespace {
            nsid,
            nguid: id,
            uuid: id,
            format: FORMAT,
            access: Access::Here,
            strip_blocks: Some(16),
            stripe_blocks: None,
            volatile: false,
            reservable: if nsid == 1 {
                Reservable::Persistently
            } else {
                Reservable::AcrossNodes
            },
            admission_of: None,
        };
        let mut out = Vec::new();
        subsystem.handle(0, subsystem::Event::NamespaceAdded(namespace), &mut out);
    }
    subsystem
}

/// The controller's runtime: what it must keep to, and what it may rely on.
struct Runtime {
    subsystem: Subsystem,
    now_ns: u64,
    open: BTreeSet<u32>,
    /// Connections that are accepted I/O queues.
    io: BTreeSet<u32>,
    /// Commands in flight, and how many bytes they want from the controller.
    in_flight: BTreeMap<(u32, u16), u32>,
    completed: usize,
}

impl Runtime {
    fn new() -> Self {
        Self {
            subsystem: new_subsystem(),
            now_ns: 0,
            open: BTreeSet::new(),
            io: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            completed: 0,
        }
    }

    /// Hands one event over and carries out what comes of it; returns the actions.
    fn handle(&mut self, event: subsystem::Event<'_>) -> Vec<subsystem::Action> {
        let mut out = Vec::new();
        self.subsystem.handle(self.now_ns, event, &mut out);
        assert!(out.len() <= ACTIONS_MAX, "{} actions of one event", out.len());
        for action in &out {
            match action {
                subsystem::Action::Accept {
                    queue, qid, entries, ..
                } => {
                    assert!(self.open.contains(&queue.0) && *entries >= 2);
                    if *qid > 0 {
                        self.io.insert(queue.0);
                    }
                }
                subsystem::Action::Complete {
                    queue,
                    slot,
                    data,
                    status,
                    ..
                } => {
                    let wanted = self
                        .in_flight
                        .remove(&(queue.0, *slot))
                        .expect("each command completes once");
                    let length = u32::try_from(data.len()).expect("an admin transfer");
                    assert!(
                        length == 0 || length == wanted,
                        "{length} bytes for a host that wants {wanted}"
                    );
                    assert!(
                        length == 0 || *status == Status::SUCCESS,
                        "data only with success"
                    );
                    self.completed += 1;
                }
                subsystem::Action::Close { queue, .. } => {
                    assert!(self.open.contains(&queue.0), "closed twice")
                }
                subsystem::Action::Abort { .. }
                | subsystem::Action::EnforceReservation(_)
                | subsystem::Action::PersistReservation { .. }
                | subsystem::Action::PassReservation(_)
                | subsystem::Action::ResetElsewhere { .. }
                | subsystem::Action::ResetAnswered { .. }
                | subsystem::Action::Report(_) => {}
            }
        }
        out
    }

    fn open(&mut self, queue: u32, port: PortId) -> Vec<subsystem::Action> {
        self.open.insert(queue);
        self.handle(subsystem::Event::Opened {
            queue: QueueId(queue),
            port,
            local_address: "127.0.0.1",
            accepted_ns: self.now_ns,
        })
    }

    /// What the runtime does when a connection is gone, by whomever it was closed.
    fn gone(&mut self, queue: u32) -> Vec<subsystem::Action> {
        if !self.open.remove(&queue) {
            return Vec::new();
        }
        self.io.remove(&queue);
        self.in_flight.retain(|(other, _), _| *other != queue);
        self.handle(subsystem::Event::Closed {
            queue: QueueId(queue),
        })
    }

    /// One capsule, made to keep what the transport checks before.
    fn capsule(
        &mut self,
        queue: u32,
        mut entry: SubmissionEntry,
        length_bytes: u32,
        data: &[u8],
    ) -> Option<(u16, Vec<subsystem::Action>)> {
        let slot = (0..SLOTS).find(|slot| !self.in_flight.contains_key(&(queue, *slot)))?;
        let is_for_control = entry.opcode() == admin_opcode::FABRICS || is_reservation(entry.opcode());
        let is_for_queue = self.io.contains(&queue) && !is_for_control;
        if !self.open.contains(&queue) || is_for_queue || entry.direction() == Direction::Bidirectional {
            return None;
        }
        entry.set_sgl(Sgl::Transport { length_bytes });
        let from_host = entry.direction() == Direction::FromHost;
        let mut sent = if from_host { data.to_vec() } else { Vec::new() };
        sent.resize(
            if from_host {
                usize::try_from(length_bytes).ok()?
            } else {
                0
            },
            0,
        );
        let wanted = if entry.direction() == Direction::ToHost {
            length_bytes
        } else {
            0
        };
        self.in_flight.insert((queue, slot), wanted);
        let event = subsystem::Event::Capsule {
            queue: QueueId(queue),
            slot,
            entry,
            data: &sent,
        };
        Some((slot, self.handle(event)))
    }

    /// Carries out closes and aborts, whose own actions may ask for more of them.
    fn settle(&mut self, actions: Vec<subsystem::Action>, caught: bool) {
        let mut todo = VecDeque::from(actions);
        let mut rounds = 0;
        while let Some(action) = todo.pop_front() {
            rounds += 1;
            assert!(rounds <= 100 * ACTIONS_MAX, "closes and aborts end");
            match action {
                subsystem::Action::Close { queue, .. } => todo.extend(self.gone(queue.0)),
                subsystem::Action::Abort { token, .. } => {
                    todo.extend(self.handle(subsystem::Event::Aborted {
                        token,
                        aborted: caught,
                    }));
                }
                subsystem::Action::EnforceReservation(order) => {
                    let number = order.number;
                    todo.extend(self.handle(subsystem::Event::ReservationEnforced { number }));
                }
                subsystem::Action::PersistReservation { number, .. } => {
                    todo.extend(self.handle(subsystem::Event::ReservationPersisted {
                        number,
                        succeeded: caught,
                    }));
                }
                subsystem::Action::PassReservation(passed) => {
                    todo.extend(self.handle(answered(passed.number)));
                }
                subsystem::Action::ResetElsewhere { number, .. } => {
                    let outcome = if caught {
                        ResetOutcome::Over
                    } else {
                        ResetOutcome::Unknown
                    };
                    todo.extend(self.handle(subsystem::Event::ResetElsewhere { number, outcome }));
                }
                subsystem::Action::Accept { .. }
                | subsystem::Action::Complete { .. }
                | subsystem::Action::ResetAnswered { .. }
                | subsystem::Action::Report(_) => {}
            }
        }
    }
}

/// A Connect of the host that is allowed.
fn connect(qid: u16, cntlid: u16, cid: u16) -> (SubmissionEntry, [u8; 1024]) {
    let fields = Connect {
        recfmt: 0,
        qid,
        sqsize: 31,
        cattr: 0,
        kato_ms: 5000,
    };
    let data = ConnectData {
        hostid: HOST_ID,
        cntlid,
        subnqn: nqn(SUBSYSTEM),
        hostnqn: nqn(HOST),
    };
    (fields.encode(cid), data.encode())
}

/// Feeds the subsystem: connections come and go, capsules have any bytes. Returns the commands completed.
pub fn controller(bytes: &[u8]) -> usize {
    let mut input = Input::new(bytes);
    let mut runtime = Runtime::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let (kind, queue) = (input.byte(), u32::from(input.byte()) % QUEUES);
        runtime.now_ns += 1_000_000 * u64::from(input.byte());
        let actions = match kind % 16 {
            0 | 1 if !runtime.open.contains(&queue) => runtime.open(queue, PortId(u16::from(kind >> 7) + 1)),
            2 | 3 => {
                let (qid, cid) = (u16::from(input.byte() % 6), input.word());
                let cntlid = if qid == 0 {
                    CNTLID_DYNAMIC
                } else {
                    u16::from(input.byte() % 8)
                };
                let (entry, data) = connect(qid, cntlid, cid);
                runtime
                    .capsule(queue, entry, 1024, &data)
                    .map_or(Vec::new(), |(_, actions)| actions)
            }
            4 => runtime.gone(queue),
            5 => runtime.handle(subsystem::Event::Tick),
            6 => runtime.handle(subsystem::Event::NamespaceResized {
                nsid: 1,
                blocks: input.word().into(),
            }),
            7 => {
                let status = Status::from_wire(input.word());
                let (cid, slba) = (input.word(), input.word().into());
                let event = subsystem::Event::IoFailed {
                    queue: QueueId(queue),
                    cid,
                    status,
                    nsid: 1,
                    slba,
                };
                if runtime.io.contains(&queue) {
                    runtime.handle(event)
                } else {
                    Vec::new()
                }
            }
            _ => {
                let mut raw = input.array::<SQE_BYTES>();
                // Opcodes that are known come more often than chance would have it.
                let known = [2, 6, 8, 9, 10, 12, 24, 0x7f, 0x7f, 0x7f];
                if kind & 0x10 != 0 {
                    raw[0] = known[usize::from(raw[0]) % known.len()];
                }
                let lengths = [0, 4, 8, 16, 512, 1024, 4096, 20_000];
                let length = lengths[usize::from(kind >> 5)];
                let data_bytes = usize::from(input.byte());
                let data = input.take(data_bytes);
                let capsule = runtime.capsule(queue, SubmissionEntry::parse(raw), length, data);
                capsule.map_or(Vec::new(), |(_, actions)| actions)
            }
        };
        runtime.settle(actions, kind & 0x80 != 0);
    }
    let actions = runtime.handle(subsystem::Event::Shutdown);
    runtime.settle(actions, false);
    assert!(runtime.open.is_empty(), "a shutdown closes every connection");
    runtime.completed
}

/// What the host's side has asked for and not got yet.
struct Wanted {
    qid: u16,
    cid: u16,
    read_bytes: u32,
}

/// Both machines joined in memory, with damage on the way.
struct Joined<'a> {
    input: Input<'a>,
    runtime: Runtime,
    host: Association,
    /// Connection of each of the host's queues.
    queues: BTreeMap<u16, u32>,
    connections: u32,
    wanted: BTreeMap<(u32, u16), Wanted>,
    to_host: VecDeque<host::Action>,
    to_controller: VecDeque<subsystem::Action>,
    /// How often the association came up.
    live: usize,
}

/// Joins host and subsystem, and damages what goes between them. Returns how often
/// the association came up.
pub fn association(bytes: &[u8]) -> usize {
    let mut input = Input::new(bytes);
    let kind = if input.byte() & 1 == 0 {
        host::Kind::Io
    } else {
        host::Kind::Discovery
    };
    let subnqn = if kind == host::Kind::Io {
        nqn(SUBSYSTEM)
    } else {
        Nqn::DISCOVERY
    };
    let host = Association::new(host::Config {
        subnqn,
        hostnqn: nqn(HOST),
        hostid: HOST_ID,
        kind,
        io_queues: 2,
        queue_entries: 32,
        admin_entries: 32,
        kato_ms: 5000,
        keep_alive_ns: 2_500_000_000,
        drain: true,
        flow_control: true,
        max_transfer_bytes: 1 << 18,
        command_timeout_ns: 1_000_000_000,
        reconnect_min_ns: 10_000_000,
        reconnect_max_ns: 100_000_000,
        loss_timeout_ns: None,
    });
    let mut joined = Joined {
        input,
        runtime: Runtime::new(),
        host,
        queues: BTreeMap::new(),
        connections: 0,
        wanted: BTreeMap::new(),
        to_host: VecDeque::new(),
        to_controller: VecDeque::new(),
        live: 0,
    };
    joined.tell_host(host::Event::Start);
    for step in 0..STEPS_MAX {
        if let Some(action) = joined.to_controller.pop_front() {
            joined.carry_out_of_controller(action);
        } else if let Some(action) = joined.to_host.pop_front() {
            joined.carry_out_of_host(action);
        } else if joined.input.is_empty() && step > 100 {
            break;
        } else {
            joined.pass_time();
        }
    }
    joined.live
}

impl Joined<'_> {
    fn tell_host(&mut self, event: host::Event<'_>) {
        let mut out = Vec::new();
        self.host.handle(self.runtime.now_ns, event, &mut out);
        assert!(out.len() <= ACTIONS_MAX, "{} actions of one event", out.len());
        self.to_host.extend(out);
    }

    fn pass_time(&mut self) {
        let byte = self.input.byte();
        self.runtime.now_ns += 1_000_000 * u64::from(byte);
        let actions = self.runtime.handle(subsystem::Event::Tick);
        self.to_controller.extend(actions);
        self.tell_host(host::Event::Tick);
        if byte == 255 {
            let qid = u16::from(self.input.byte() % 3);
            self.tell_host(host::Event::QueueDown {
                qid,
                fault: QueueFault::Lost,
            });
        }
    }

    fn carry_out_of_host(&mut self, action: host::Action) {
        match action {
            host::Action::OpenQueue { qid, .. } => {
                self.connections += 1;
                self.queues.insert(qid, self.connections);
                let actions = self.runtime.open(self.connections, PortId(1));
                self.to_controller.extend(actions);
                self.tell_host(host::Event::QueueUp { qid });
            }
            host::Action::CloseQueue { qid } => {
                let Some(queue) = self.queues.remove(&qid) else {
                    return;
                };
                let actions = self.runtime.gone(queue);
                self.to_controller.extend(actions);
            }
            host::Action::Submit {
                qid,
                entry,
                payload,
                read_bytes,
            } => {
                let Some(queue) = self.queues.get(&qid).copied() else {
                    return;
                };
                assert!(payload.is_empty() || read_bytes == 0, "data goes one way");
                let cid = entry.cid();
                let mut raw = *entry.encode();
                self.damage(&mut raw);
                let length = read_bytes.max(u32::try_from(payload.len()).expect("an admin transfer"));
                let capsule = self
                    .runtime
                    .capsule(queue, SubmissionEntry::parse(raw), length, &payload);
                if let Some((slot, actions)) = capsule {
                    self.wanted.insert((queue, slot), Wanted { qid, cid, read_bytes });
                    self.to_controller.extend(actions);
                }
            }
            host::Action::Live { .. } => self.live += 1,
            host::Action::Drain(_)
            | host::Action::Namespace { .. }
            | host::Action::NamespaceRemoved { .. }
            | host::Action::NamespacesChanged
            | host::Action::Scanned { .. }
            | host::Action::Discovered { .. }
            | host::Action::Down { .. }
            | host::Action::Failed { .. } => {} // Facts for the user.
        }
    }

    fn carry_out_of_controller(&mut self, action: subsystem::Action) {
        match action {
            subsystem::Action::Complete {
                queue,
                slot,
                result,
                status,
                mut data,
            } => {
                let Some(wanted) = self.wanted.remove(&(queue.0, slot)) else {
                    return;
                };
                if self.queues.get(&wanted.qid) != Some(&queue.0) {
                    return; // It belongs to a connection that the host has closed.
                }
                self.damage(&mut data);
                data.truncate(usize::try_from(wanted.read_bytes).expect("a length"));
                let mut raw = CompletionEntry {
                    result,
                    sqhd: 0,
                    cid: wanted.cid,
                    status,
                }
                .encode();
                self.damage(&mut raw);
                let entry = CompletionEntry::parse(raw);
                self.tell_host(host::Event::Completion {
                    qid: wanted.qid,
                    entry,
                    data: &data,
                });
            }
            subsystem::Action::Close { queue, .. } => {
                let actions = self.runtime.gone(queue.0);
                self.to_controller.extend(actions);
                let qid = self
                    .queues
                    .iter()
                    .find(|(_, open)| **open == queue.0)
                    .map(|(qid, _)| *qid);
                if let Some(qid) = qid {
                    self.tell_host(host::Event::QueueDown {
                        qid,
                        fault: QueueFault::Lost,
                    });
                }
            }
            subsystem::Action::Abort { token, .. } => {
                let actions = self.runtime.handle(subsystem::Event::Aborted {
                    token,
                    aborted: false,
                });
                self.to_controller.extend(actions);
            }
            subsystem::Action::EnforceReservation(order) => {
                let event = subsystem::Event::ReservationEnforced { number: order.number };
                self.to_controller.extend(self.runtime.handle(event));
            }
            subsystem::Action::PersistReservation { number, .. } => {
                self.to_controller.extend(self.runtime.handle(persisted(number)));
            }
            subsystem::Action::PassReservation(passed) => {
                self.to_controller
                    .extend(self.runtime.handle(answered(passed.number)));
            }
            subsystem::Action::Accept { .. }
            | subsystem::Action::ResetElsewhere { .. }
            | subsystem::Action::ResetAnswered { .. }
            | subsystem::Action::Report(_) => {}
        }
    }

    /// Leaves most things alone, so that the machines get somewhere, and overwrites a few bytes of the others.
    fn damage(&mut self, bytes: &mut [u8]) {
        let kind = self.input.byte();
        if kind < 0xe0 || bytes.is_empty() {
            return;
        }
        for _ in 0..=kind % 4 {
            let at = usize::from(self.input.word()) % bytes.len();
            bytes[at] = self.input.byte();
        }
    }
}

/// Another node has carried out what was passed on.
fn answered(number: u64) -> subsystem::Event<'static> {
    subsystem::Event::ReservationAnswered(subsystem::ReservationAnswer {
        number,
        status: Status::SUCCESS,
        data: Vec::new(),
    })
}

/// What was to be kept is on the drive.
const fn persisted(number: u64) -> subsystem::Event<'static> {
    subsystem::Event::ReservationPersisted {
        number,
        succeeded: true,
    }
}
