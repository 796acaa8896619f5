//! A host that sends whatever bytes a test wants.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use nvme::command::{CompletionEntry, SubmissionEntry};
use nvme::fabrics::{CNTLID_DYNAMIC, Configuration, Connect, ConnectData, PropertyAccess, property};
use nvme::nqn::Nqn;
use nvme::tcp::pdu::{Digests, IcReq};

use super::stage::{NQN, WAIT};

/// PDU types of the NVMe/TCP specification.
pub const C2H_TERM_REQ: u8 = 0x03;
pub const CAPSULE_CMD: u8 = 0x04;
pub const CAPSULE_RESP: u8 = 0x05;
pub const H2C_DATA: u8 = 0x06;
pub const R2T: u8 = 0x09;

/// A PDU from the target.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// Its type.
    pub kind: u8,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Pdu {
    /// The completion in a response capsule.
    pub fn completion(&self) -> CompletionEntry {
        assert_eq!(self.kind, CAPSULE_RESP);
        CompletionEntry::parse(self.bytes[8..24].try_into().unwrap())
    }

    /// Fatal Error Status of a termination request.
    pub fn fatal_status(&self) -> u16 {
        assert_eq!(self.kind, C2H_TERM_REQ);
        u16::from_le_bytes([self.bytes[8], self.bytes[9]])
    }
}

/// A connection, byte by byte. Without digests, but for those of data where a test wants them.
pub struct Raw {
    stream: TcpStream,
    has_data_digests: bool,
}

impl Raw {
    /// Connects and says nothing.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        Self {
            stream,
            has_data_digests: false,
        }
    }

    /// Connects and exchanges ICReq and ICResp.
    pub fn open(address: SocketAddr) -> Self {
        Self::open_as(address, false)
    }

    fn open_as(address: SocketAddr, has_data_digests: bool) -> Self {
        let mut raw = Self::silent(address);
        let mut request = ic_req();
        request[11] |= u8::from(has_data_digests) << 1;
        raw.send(&request);
        assert_eq!(raw.receive().unwrap().kind, 0x01);
        raw.has_data_digests = has_data_digests;
        raw
    }

    /// An association: its admin queue and one I/O queue, both enabled.
    pub fn connect(address: SocketAddr, host: u8) -> (Self, Self) {
        Self::connect_as(address, host, false)
    }

    /// The same with digests of data; see [`with_digest`].
    pub fn connect_with_data_digests(address: SocketAddr, host: u8) -> (Self, Self) {
        Self::connect_as(address, host, true)
    }

    fn connect_as(address: SocketAddr, host: u8, has_data_digests: bool) -> (Self, Self) {
        let mut data = ConnectData {
            hostid: [host; 16],
            cntlid: CNTLID_DYNAMIC,
            subnqn: Nqn::parse(NQN).unwrap(),
            hostnqn: Nqn::parse(&format!("nqn.2026-01.io.braid:host-{host}")).unwrap(),
        };
        let connect = |qid| {
            Connect {
                recfmt: 0,
                qid,
                sqsize: 31,
                cattr: 0,
                kato_ms: 0,
            }
            .encode(1)
        };
        let mut admin = Self::open_as(address, has_data_digests);
        let completion = admin.run_with(connect(0), &data.encode());
        data.cntlid = u16::try_from(completion.result & 0xffff).unwrap();
        admin.run(PropertyAccess::set(2, property::CC, Configuration::START.0));
        let mut io = Self::open_as(address, has_data_digests);
        assert!(io.run_with(connect(1), &data.encode()).status.is_success());
        (admin, io)
    }

    /// Sends bytes. That the target has closed the connection meanwhile is no failure: reading tells.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(
                matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                "{error}"
            );
        }
    }

    /// Sends a capsule as it is, with data behind it.
    pub fn send_capsule(&mut self, entry: &SubmissionEntry, data: &[u8]) {
        let capsule = capsule(entry, data);
        if self.has_data_digests && !data.is_empty() {
            self.send(&with_digest(capsule, 72, true));
        } else {
            self.send(&capsule);
        }
    }

    /// Sends a command without data and waits for its completion.
    pub fn run(&mut self, entry: SubmissionEntry) -> CompletionEntry {
        self.send_capsule(&entry, &[]);
        self.receive().unwrap().completion()
    }

    /// Sends a command with data in the capsule and waits for its completion.
    pub fn run_with(&mut self, mut entry: SubmissionEntry, data: &[u8]) -> CompletionEntry {
        let length_bytes = u32::try_from(data.len()).unwrap();
        entry.set_sgl(nvme::command::Sgl::InCapsule {
            offset_bytes: 0,
            length_bytes,
        });
        self.send_capsule(&entry, data);
        self.receive().unwrap().completion()
    }

    /// The next PDU; `None` if the target closes the connection. Panics after having waited for too long.
    pub fn receive(&mut self) -> Option<Pdu> {
        let mut bytes = vec![0; 8];
        self.fill(&mut bytes)?;
        let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
        assert!(
            (8..1 << 22).contains(&length),
            "a target sends PDUs of sane lengths"
        );
        let mut rest = vec![0; length - 8];
        self.fill(&mut rest)?;
        bytes.extend_from_slice(&rest);
        Some(Pdu {
            kind: bytes[0],
            bytes,
        })
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) => {
                let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
                assert!(closed.contains(&error.kind()), "{error}");
                None
            }
        }
    }
}

/// ICReq without digests.
pub fn ic_req() -> Vec<u8> {
    IcReq {
        alignment: 0,
        digests: Digests::default(),
        max_r2t: 0,
    }
    .encode()
    .to_vec()
}

/// A capsule as it stands on the wire.
pub fn capsule(entry: &SubmissionEntry, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(72 + data.len()).unwrap();
    let mut bytes = vec![CAPSULE_CMD, 0, 72, if data.is_empty() { 0 } else { 72 }];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(entry.encode());
    bytes.extend_from_slice(data);
    bytes
}

/// A PDU with the digest of its data, or with a wrong one.
pub fn with_digest(mut pdu: Vec<u8>, header_bytes: usize, is_right: bool) -> Vec<u8> {
    pdu[1] |= 2;
    let digest = nvme::crc32c::portable(0, &pdu[header_bytes..]) ^ u32::from(!is_right);
    pdu.extend(digest.to_le_bytes());
    let length = u32::try_from(pdu.len()).unwrap();
    pdu[4..8].copy_from_slice(&length.to_le_bytes());
    pdu
}

/// H2CData as it stands on the wire; `last` sets LAST_PDU.
pub fn h2c_data(cid: u16, ttag: u16, offset: u32, data: &[u8], last: bool) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    let mut bytes = vec![H2C_DATA, if last { 4 } else { 0 }, 24, 24];
    bytes.extend_from_slice(&(24 + length).to_le_bytes());
    bytes.extend_from_slice(&cid.to_le_bytes());
    bytes.extend_from_slice(&ttag.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(data);
    bytes
}
