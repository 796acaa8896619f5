//! Tests of the whole machine, event by event.

mod access;
mod admin;
mod connect;
mod discovery;
mod held;
mod lifecycle;
mod passing;
mod random;
mod reservation;
mod reset;

use super::*;
use crate::command::SubmissionEntry;
use crate::fabrics::{CNTLID_DYNAMIC, Configuration, Connect, ConnectData, PropertyAccess, property};
use crate::identify::Reservable;
use crate::io::NamespaceFormat;
use crate::nqn::Nqn;

const MAIN: PortId = PortId(1);
const DISCOVERY_PORT: PortId = PortId(2);
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

fn nqn(text: &str) -> Nqn {
    Nqn::parse(text).unwrap()
}

fn subsystem_nqn() -> Nqn {
    nqn("nqn.2026-01.io.braid:node-a")
}

fn host_nqn(index: u32) -> Nqn {
    nqn(&format!("nqn.2014-08.org.nvmexpress:uuid:host-{index}"))
}

fn port(id: PortId, address: &str, service: &str, discovery_only: bool) -> Port {
    Port {
        id,
        transport: Transport::Tcp,
        address: address.into(),
        service: service.into(),
        discovery_only,
    }
}

fn config() -> Config {
    Config {
        nqn: subsystem_nqn(),
        serial: "BRAID0001".into(),
        model: "Braid".into(),
        firmware: "0.1.0".into(),
        oui: [0x02, 0x42, 0x52],
        cntlids: 100..=199,
        cntlids_elsewhere: Vec::new(),
        controllers_max: 16,
        io_queues_max: 4,
        queue_entries_max: 128,
        in_capsule_bytes: 8192,
        max_transfer_bytes: 262_144,
        compare_write_blocks_max: 1,
        atomic_write_blocks: 1,
        atomic_write_blocks_power_fail: 1,
        command_quiesce_ms: 0,
        allow: HostAccess::Any,
        ports: vec![
            port(MAIN, "0.0.0.0", "4420", false),
            port(DISCOVERY_PORT, "192.0.2.1", "8009", true),
        ],
        instance: [0x5a; 16],
        seed: 7,
    }
}

fn namespace(nsid: u32) -> Namespace {
    Namespace {
        nsid,
        nguid: [u8::try_from(nsid & 0xff).unwrap(); 16],
        uuid: [u8::try_from(nsid & 0xff).unwrap() ^ 0xff; 16],
        format: NamespaceFormat {
            blocks: 1 << 20,
            block_shift: 12,
        },
        access: Access::Here,
        strip_blocks: Some(16),
        stripe_blocks: Some(32),
        volatile: false,
        reservable: Reservable::UntilStop,
        admission_of: None,
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Done {
    status: Status,
    result: u64,
    data: Vec<u8>,
}

/// A subsystem with a clock and names for its connections and slots.
struct Rig {
    subsystem: Subsystem,
    now_ns: u64,
    queues: u32,
    slots: u16,
    /// Everything that was asked of the runtime and not yet looked at.
    actions: Vec<Action>,
}

impl Rig {
    fn new(config: Config) -> Self {
        let subsystem = Subsystem::new(config).unwrap();
        Self {
            subsystem,
            now_ns: SECOND,
            queues: 0,
            slots: 0,
            actions: Vec::new(),
        }
    }

    fn step(&mut self, event: Event<'_>) {
        self.subsystem.handle(self.now_ns, event, &mut self.actions);
    }

    /// Lets time pass in the steps that the runtime ticks in.
    fn wait(&mut self, ns: u64) {
        let until = self.now_ns + ns;
        while self.now_ns < until {
            self.now_ns = (self.now_ns + 100 * MS).min(until);
            self.step(Event::Tick);
        }
    }

    fn open(&mut self, port: PortId) -> QueueId {
        self.open_accepted(port, self.now_ns)
    }

    fn open_accepted(&mut self, port: PortId, accepted_ns: u64) -> QueueId {
        self.queues += 1;
        let queue = QueueId(self.queues);
        self.step(Event::Opened {
            queue,
            port,
            local_address: "10.0.2.2",
            accepted_ns,
        });
        queue
    }

    /// Sends a command and returns its slot.
    fn send(&mut self, queue: QueueId, entry: SubmissionEntry, data: &[u8]) -> u16 {
        self.slots = self.slots.wrapping_add(1);
        let slot = self.slots;
        self.step(Event::Capsule {
            queue,
            slot,
            entry,
            data,
        });
        slot
    }

    /// The completion of a command, if there is one; at most once.
    fn completion(&mut self, of_queue: QueueId, of_slot: u16) -> Option<Done> {
        let mut found = None;
        self.actions.retain(|action| {
            let Action::Complete {
                queue,
                slot,
                result,
                status,
                data,
            } = action
            else {
                return true;
            };
            if (*queue, *slot) != (of_queue, of_slot) {
                return true;
            }
            assert!(found.is_none(), "a command is completed once");
            found = Some(Done {
                status: *status,
                result: *result,
                data: data.clone(),
            });
            false
        });
        found
    }

    fn command(&mut self, queue: QueueId, entry: SubmissionEntry, data: &[u8]) -> Done {
        let slot = self.send(queue, entry, data);
        self.completion(queue, slot)
            .expect("the command is completed at once")
    }

    fn connect(&mut self, queue: QueueId, connect: Connect, data: &ConnectData) -> Done {
        self.command(queue, connect.encode(0), &data.encode())
    }

    /// An association whose controller is not enabled yet.
    fn associate(&mut self, subnqn: &Nqn, host: u32) -> (QueueId, u16) {
        let queue = self.open(MAIN);
        let done = self.connect(queue, admin_connect(), &data(subnqn, host));
        assert_eq!(done.status, Status::SUCCESS);
        (queue, u16::try_from(done.result).unwrap())
    }

    fn set_cc(&mut self, queue: QueueId, value: u32) -> Done {
        self.command(queue, PropertyAccess::set(1, property::CC, value), &[])
    }

    fn property(&mut self, queue: QueueId, offset: u32) -> u64 {
        let done = self.command(queue, PropertyAccess::get(1, offset), &[]);
        assert_eq!(done.status, Status::SUCCESS);
        done.result
    }

    /// An enabled controller.
    fn controller(&mut self, host: u32) -> (QueueId, u16) {
        let (queue, cntlid) = self.associate(&subsystem_nqn(), host);
        assert_eq!(self.set_cc(queue, Configuration::START.0).status, Status::SUCCESS);
        (queue, cntlid)
    }

    /// A persistent discovery controller, enabled.
    fn discovery_controller(&mut self, host: u32) -> (QueueId, u16) {
        let (queue, cntlid) = self.associate(&Nqn::DISCOVERY, host);
        assert_eq!(self.set_cc(queue, Configuration::START.0).status, Status::SUCCESS);
        (queue, cntlid)
    }

    fn io_queue(&mut self, host: u32, cntlid: u16, qid: u16) -> QueueId {
        let queue = self.open(MAIN);
        let done = self.connect(queue, io_connect(qid), &io_data(host, cntlid));
        assert_eq!((done.status, done.result), (Status::SUCCESS, u64::from(cntlid)));
        queue
    }

    /// The connections that were asked to be closed since the last look, with the reasons.
    fn closes(&mut self) -> Vec<(QueueId, CloseReason)> {
        let mut closes = Vec::new();
        self.actions.retain(|action| {
            let Action::Close { queue, reason } = action else {
                return true;
            };
            closes.push((*queue, *reason));
            false
        });
        closes
    }

    /// Everything that was reported since the last look.
    fn reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        self.actions.retain(|action| {
            let Action::Report(report) = action else {
                return true;
            };
            reports.push(report.clone());
            false
        });
        reports
    }

    fn close(&mut self, queue: QueueId) {
        self.step(Event::Closed { queue });
    }
}

fn admin_connect() -> Connect {
    Connect {
        recfmt: 0,
        qid: 0,
        sqsize: 31,
        cattr: 0,
        kato_ms: 5000,
    }
}

fn io_connect(qid: u16) -> Connect {
    Connect {
        recfmt: 0,
        qid,
        sqsize: 127,
        cattr: 0,
        kato_ms: 0,
    }
}

fn data(subnqn: &Nqn, host: u32) -> ConnectData {
    ConnectData {
        hostid: [u8::try_from(host & 0xff).unwrap(); 16],
        cntlid: CNTLID_DYNAMIC,
        subnqn: subnqn.clone(),
        hostnqn: host_nqn(host),
    }
}

fn io_data(host: u32, cntlid: u16) -> ConnectData {
    ConnectData {
        cntlid,
        ..data(&subsystem_nqn(), host)
    }
}

/// An admin command that asks for `bytes` of data.
fn admin(opcode: u8, bytes: u32) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(opcode, 1);
    entry.set_sgl(Sgl::Transport { length_bytes: bytes });
    entry
}

fn identify(structure: u8, nsid: u32) -> SubmissionEntry {
    let mut entry = admin(admin_opcode::IDENTIFY, 4096);
    entry.set_nsid(nsid);
    entry.set_dword(10, u32::from(structure));
    entry
}

fn log_page(page: u8, offset: u64, bytes: u32) -> SubmissionEntry {
    let mut entry = crate::log::log_command(1, page, offset, bytes);
    entry.set_sgl(Sgl::Transport { length_bytes: bytes });
    entry
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn dword(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}
