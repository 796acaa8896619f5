//! A host that behaves, by blocking calls: one association, its queues driven one command after the other or several.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nvme::command::{CompletionEntry, SubmissionEntry, admin_opcode, io_opcode};
use nvme::crc32c::portable;
use nvme::fabrics::{CNTLID_DYNAMIC, Configuration, Connect, ConnectData, PropertyAccess, property};
use nvme::log::{CrossResetStage, cross_reset_stage, lid, log_command};
use nvme::nqn::Nqn;
use nvme::status::Status;
use nvme::tcp::initiator::{Connection, Event, Options, Outbox, Part, Payload};

use super::stage::{NQN, WAIT};

/// Commands in flight on a queue at most.
const COMMANDS: u16 = 64;

/// The answer to a command.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its completion.
    pub entry: CompletionEntry,
    /// The data that came with it.
    pub data: Vec<u8>,
}

impl Answer {
    /// Its status.
    pub fn status(&self) -> Status {
        self.entry.status
    }

    /// The data of a command that must have succeeded.
    pub fn data(self) -> Vec<u8> {
        assert!(self.entry.status.is_success(), "{}", self.entry.status);
        self.data
    }

    /// Nothing, of a command that must have succeeded.
    pub fn ok(self) {
        let _ = self.data();
    }

    /// Whether it failed in this way, whatever its retry bits say.
    pub fn is(&self, status: Status) -> bool {
        self.entry.status.same_code(status)
    }
}

/// One connection.
pub struct Queue {
    stream: TcpStream,
    machine: Connection,
    /// Data of commands in flight: to be sent, or as it comes in.
    data: BTreeMap<u16, Vec<u8>>,
    answers: BTreeMap<u16, Answer>,
    next_cid: u16,
    /// Capsule data that is held back until `release`, to let a command stand in the middle of its transfer.
    outbox: Outbox,
}

impl Queue {
    /// Connects, to a target that may be gone, and exchanges ICReq and ICResp. Whoever waits for anything waits so long.
    pub fn open(address: SocketAddr, digests: (bool, bool), patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        let options = Options {
            header_digest: digests.0,
            data_digest: digests.1,
            commands_max: COMMANDS,
            in_capsule_bytes: 8192,
        };
        let mut queue = Self {
            stream,
            machine: Connection::new(options, portable),
            data: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_cid: 0,
            outbox: Outbox::default(),
        };
        queue.machine.start(&mut queue.outbox);
        queue.flush()?;
        while !queue.machine.is_ready() {
            queue.receive()?;
        }
        Ok(queue)
    }

    /// Sends a command; its identifier. `data` goes to the target; `read_bytes` are wanted from it.
    pub fn submit(&mut self, entry: SubmissionEntry, data: &[u8], read_bytes: u32) -> u16 {
        self.try_submit(entry, data, read_bytes).unwrap()
    }

    /// Likewise, to a target that may be gone.
    pub fn try_submit(
        &mut self,
        mut entry: SubmissionEntry,
        data: &[u8],
        read_bytes: u32,
    ) -> io::Result<u16> {
        let free = (0..COMMANDS)
            .map(|ahead| (self.next_cid + ahead) % COMMANDS)
            .find(|cid| !self.machine.is_in_flight(*cid) && !self.answers.contains_key(cid));
        let cid = free.expect("the tests have few commands in flight");
        self.next_cid = (cid + 1) % COMMANDS;
        entry.set_cid(cid);
        let payload = match (u32::try_from(data.len()).unwrap(), read_bytes) {
            (0, 0) => Payload::None,
            (0, bytes) => Payload::FromTarget(bytes),
            (bytes, _) => Payload::ToTarget(bytes),
        };
        let buffer = if data.is_empty() {
            vec![0; read_bytes as usize]
        } else {
            data.to_vec()
        };
        self.data.insert(cid, buffer);
        let data = &self.data;
        let mut crc = |cid, offset, bytes| payload_crc(data, cid, offset, bytes);
        self.machine.submit(entry, payload, &mut crc, &mut self.outbox);
        self.flush()?;
        Ok(cid)
    }

    /// Waits for the answer to a command.
    pub fn wait(&mut self, cid: u16) -> Answer {
        self.try_wait(cid).unwrap()
    }

    /// Whether a command is answered within this time.
    pub fn answers_within(&mut self, cid: u16, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while !self.answers.contains_key(&cid) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let got = self.receive();
            self.stream.set_read_timeout(Some(WAIT)).unwrap();
            match got {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => panic!("{error}"),
            }
        }
        true
    }

    /// Waits for the answer to a command, from a target that may go away.
    pub fn try_wait(&mut self, cid: u16) -> io::Result<Answer> {
        loop {
            if let Some(answer) = self.answers.remove(&cid) {
                return Ok(answer);
            }
            self.receive()?;
        }
    }

    /// Waits for the answer to any command, from a target that may go away.
    pub fn try_next(&mut self) -> io::Result<(u16, Answer)> {
        loop {
            if let Some(answer) = self.answers.pop_first() {
                return Ok(answer);
            }
            self.receive()?;
        }
    }

    /// Sends a command and waits for its answer.
    pub fn run(&mut self, entry: SubmissionEntry, data: &[u8], read_bytes: u32) -> Answer {
        self.try_run(entry, data, read_bytes).unwrap()
    }

    /// Likewise, with a target that may be gone.
    pub fn try_run(&mut self, entry: SubmissionEntry, data: &[u8], read_bytes: u32) -> io::Result<Answer> {
        let cid = self.try_submit(entry, data, read_bytes)?;
        self.try_wait(cid)
    }

    /// Waits so long for anything from now on.
    pub fn be_patient(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// Whether the target closes the connection, with or without saying why, before the test has waited for too long.
    pub fn ends_by_target(mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Whether the target has closed the connection while nothing was awaited of it.
    pub fn is_closed(&self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        !matches!(peeked, Ok(1..)) && !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn flush(&mut self) -> io::Result<()> {
        for part in &self.outbox.parts {
            let bytes = match *part {
                Part::Bytes { start, end } => &self.outbox.bytes[start as usize..end as usize],
                Part::Payload {
                    slot,
                    offset_bytes,
                    length_bytes,
                } => &self.data[&slot.0][offset_bytes as usize..(offset_bytes + length_bytes) as usize],
            };
            self.stream.write_all(bytes)?;
        }
        self.outbox.clear();
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        let got = self.stream.read(&mut buffer)?;
        if got == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut input = &buffer[..got];
        loop {
            let data = &self.data;
            let mut crc = |cid, offset, bytes| payload_crc(data, cid, offset, bytes);
            match self.machine.next(&mut input, &mut crc, &mut self.outbox) {
                None => break,
                Some(Event::Ready) => {}
                Some(Event::Data {
                    cid,
                    offset_bytes,
                    bytes,
                }) => {
                    let start = offset_bytes as usize;
                    self.data.get_mut(&cid).unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
                }
                Some(Event::Completion { entry, data_bytes }) => {
                    let mut data = self.data.remove(&entry.cid).unwrap();
                    data.truncate(data_bytes as usize);
                    self.answers.insert(entry.cid, Answer { entry, data });
                }
                Some(event @ (Event::Corrupt { .. } | Event::Close { .. })) => {
                    return Err(io::Error::other(format!("{event:?}")));
                }
            }
        }
        self.flush()
    }
}

fn payload_crc(data: &BTreeMap<u16, Vec<u8>>, cid: u16, offset: u32, bytes: u32) -> u32 {
    portable(0, &data[&cid][offset as usize..(offset + bytes) as usize])
}

/// How a host connects.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Header and data digests.
    pub digests: (bool, bool),
    /// I/O queues.
    pub queues: u16,
    /// Entries of each of them.
    pub entries: u16,
    /// Keep alive timeout.
    pub kato_ms: u32,
    /// Who it is.
    pub host: u8,
    /// Which life of it, for hosts that have several: their identifiers differ.
    pub life: Option<u8>,
    /// Whether submission queue flow control is used.
    pub flow_control: bool,
    /// How long it waits for anything.
    pub patience: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            digests: (false, false),
            queues: 1,
            entries: COMMANDS,
            kato_ms: 0,
            host: 1,
            life: None,
            flow_control: true,
            patience: WAIT,
        }
    }
}

/// What names one instance of a controller.
#[derive(Clone, Copy, Debug)]
pub struct Instance {
    /// Controller identifier.
    pub cntlid: u16,
    /// CIU.
    pub instance: u8,
    /// CIRN.
    pub random: u64,
}

/// One association.
pub struct Host {
    /// The admin queue.
    pub admin: Queue,
    /// The I/O queues.
    pub io: Vec<Queue>,
    /// Controller identifier.
    pub cntlid: u16,
}

impl Host {
    /// Connects with one I/O queue and nothing special.
    pub fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, Manner::default())
    }

    /// Connects.
    pub fn connect_as(address: SocketAddr, manner: Manner) -> Self {
        Self::try_connect_as(address, manner).unwrap()
    }

    /// Connects to a target that may go away. Panics if it refuses.
    pub fn try_connect_as(address: SocketAddr, manner: Manner) -> io::Result<Self> {
        let mut data = ConnectData {
            hostid: [manner.life.unwrap_or(manner.host); 16],
            cntlid: CNTLID_DYNAMIC,
            subnqn: Nqn::parse(NQN).unwrap(),
            hostnqn: Nqn::parse(&format!("nqn.2026-01.io.braid:host-{}", manner.host)).unwrap(),
        };
        let cattr = if manner.flow_control {
            0
        } else {
            Connect::CATTR_DISABLE_FLOW_CONTROL
        };
        let connect = |qid, entries, kato_ms| {
            Connect {
                recfmt: 0,
                qid,
                sqsize: entries - 1,
                cattr,
                kato_ms,
            }
            .encode(0)
        };
        let mut admin = Queue::open(address, manner.digests, manner.patience)?;
        let answer = admin.try_run(connect(0, COMMANDS, manner.kato_ms), &data.encode(), 0)?;
        assert!(answer.status().is_success(), "{}", answer.status());
        let cntlid = u16::try_from(answer.entry.result & 0xffff).unwrap();
        data.cntlid = cntlid;
        let start = PropertyAccess::set(0, property::CC, Configuration::START.0);
        admin.try_run(start, &[], 0)?.ok();
        let open = |qid| {
            let mut queue = Queue::open(address, manner.digests, manner.patience)?;
            queue
                .try_run(connect(qid, manner.entries, 0), &data.encode(), 0)?
                .ok();
            Ok(queue)
        };
        Ok(Self {
            io: (1..=manner.queues).map(open).collect::<io::Result<_>>()?,
            admin,
            cntlid,
        })
    }

    /// What names its controller, if the target still answers.
    pub fn try_instance(&mut self) -> io::Result<Instance> {
        let mut entry = SubmissionEntry::new(admin_opcode::IDENTIFY, 0);
        entry.set_dword(10, 1);
        let page = self.admin.try_run(entry, &[], 4096)?.data();
        Ok(Instance {
            cntlid: self.cntlid,
            instance: page[135],
            random: u64::from_le_bytes(page[136..144].try_into().unwrap()),
        })
    }

    /// Ends another controller of the same host through this one, and waits for how that ends. Panics if it is refused.
    pub fn try_reset(&mut self, other: Instance) -> io::Result<CrossResetStage> {
        let mut reset = SubmissionEntry::new(admin_opcode::CROSS_CONTROLLER_RESET, 0);
        reset.set_dword(10, u32::from(other.cntlid) | u32::from(other.instance) << 16);
        reset.set_qword(12, other.random);
        let answer = self.admin.try_run(reset, &[], 0)?;
        assert!(answer.status().is_success(), "{}", answer.status());
        if answer.entry.result & 1 == 1 {
            return Ok(CrossResetStage::Succeeded);
        }
        loop {
            let log = log_command(0, lid::CROSS_CONTROLLER_RESET, 0, 4096);
            let page = self.admin.try_run(log, &[], 4096)?.data();
            match cross_reset_stage(&page, other.cntlid, other.instance).expect("it is listed") {
                CrossResetStage::InProgress => std::thread::sleep(Duration::from_millis(20)),
                ended @ (CrossResetStage::Succeeded | CrossResetStage::Failed) => return Ok(ended),
            }
        }
    }

    /// Identify with a CNS value, for a namespace or for none.
    pub fn identify(&mut self, cns: u8, nsid: u32) -> Vec<u8> {
        let mut entry = SubmissionEntry::new(admin_opcode::IDENTIFY, 0);
        entry.set_nsid(nsid);
        entry.set_dword(10, u32::from(cns));
        self.admin.run(entry, &[], 4096).data()
    }

    /// Reads.
    pub fn read(&mut self, nsid: u32, slba: u64, blocks: u32, block_bytes: u32) -> Vec<u8> {
        self.io[0]
            .run(read(nsid, slba, blocks), &[], blocks * block_bytes)
            .data()
    }

    /// Writes whole blocks.
    pub fn write(&mut self, nsid: u32, slba: u64, block_bytes: u32, data: &[u8]) {
        let blocks = u32::try_from(data.len()).unwrap() / block_bytes;
        self.io[0].run(write(nsid, slba, blocks), data, 0).ok();
    }
}

/// A command that names blocks.
pub fn command(opcode: u8, nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    let mut entry = SubmissionEntry::new(opcode, 0);
    entry.set_nsid(nsid);
    entry.set_qword(10, slba);
    entry.set_dword(12, blocks - 1);
    entry
}

/// Read.
pub fn read(nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    command(io_opcode::READ, nsid, slba, blocks)
}

/// Write.
pub fn write(nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    command(io_opcode::WRITE, nsid, slba, blocks)
}

/// Bytes that differ from block to block and from `seed` to `seed`.
pub fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = braid::target::host::random::Random::new(seed);
    (0..bytes.div_ceil(8))
        .flat_map(|_| random.draw().to_le_bytes())
        .take(bytes)
        .collect()
}
