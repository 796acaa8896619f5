//! Deallocated blocks: they read as zeroes, also after a crash, and the drives get their space back.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nvme::command::{SubmissionEntry, io_opcode};

use super::queue::{Host, pattern};
use super::stage::{FILES, Folder, Stage, WAIT, start};

/// Drives of `FILES`.
const DRIVES: [&str; 4] = ["d0.img", "d1.img", "d2.img", "d3.img"];
/// Blocks that the tests write: 12 MiB, 4 MiB a drive with the check data.
const BLOCKS: u32 = 3072;
/// Of them those that are deallocated: not at the borders of rows, which have 12 blocks.
const GONE: (u32, u32) = (13, 3000);

/// Bytes that the drives' files take up.
fn allocated(folder: &Path) -> u64 {
    let bytes = DRIVES.map(|drive| std::fs::metadata(folder.join(drive)).unwrap().blocks() * 512);
    bytes.iter().sum()
}

fn write_all(host: &mut Host) {
    for slba in (0..BLOCKS).step_by(32) {
        host.write(1, u64::from(slba), 4096, &pattern(u64::from(slba), 32 * 4096));
    }
}

fn deallocate(host: &mut Host) {
    let (first, blocks) = GONE;
    let mut range = vec![0; 4];
    range.extend(blocks.to_le_bytes());
    range.extend(u64::from(first).to_le_bytes());
    let mut entry = SubmissionEntry::new(io_opcode::DATASET_MANAGEMENT, 0);
    entry.set_nsid(1);
    entry.set_dword(10, 0); // One range, 0's based.
    entry.set_dword(11, 1 << 2); // Deallocate.
    host.io[0].run(entry, &range, 0).ok();
}

/// What was deallocated reads as zeroes and the rest as it was written.
fn check_all(host: &mut Host) {
    let gone = GONE.0..GONE.0 + GONE.1;
    for slba in (0..BLOCKS).step_by(32) {
        let mut expected = pattern(u64::from(slba), 32 * 4096);
        for (block, bytes) in (slba..).zip(expected.chunks_mut(4096)) {
            if gone.contains(&block) {
                bytes.fill(0);
            }
        }
        assert!(
            host.read(1, u64::from(slba), 32, 4096) == expected,
            "block {slba}"
        );
    }
}

/// Of the 12 MiB of data and 4 MiB of check data all whole rows are holes again, soon after the command and without a flush.
#[test]
fn drives_get_the_space_of_deallocated_rows_back() {
    let mut stage = Stage::set(FILES);
    let empty = allocated(stage.path());
    let mut host = Host::connect(stage.address());
    write_all(&mut host);
    stage.until("everything is in its place", |stage| {
        allocated(stage.path()) >= empty + (15 << 20)
    });
    let full = allocated(stage.path());
    deallocate(&mut host);
    // The journal goes on growing towards its full length meanwhile, by the records of the zeroes.
    stage.until("the space is given back", |stage| {
        allocated(stage.path()) + (14 << 20) <= full
    });
    check_all(&mut host);
    stage.fail_drive("g", "d2");
    check_all(&mut host);
    drop(host);
    stage.stop();
    stage.start().unwrap();
    check_all(&mut Host::connect(stage.address()));
}

/// `braid node` as a process, which is killed however the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(folder: &Path) -> (Process, std::net::SocketAddr) {
    // Nobody else takes it in the moment in between.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let socket = folder.join("rpc.sock");
    let text = format!(
        "[node]\nname = \"end-to-end\"\nrpc_socket = \"{}\"\n[[listen]]\naddress = \"{address}\"\n{FILES}",
        socket.display()
    );
    let file = folder.join("node.toml");
    std::fs::write(&file, text).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_braid"))
        .args(["node", "--config"])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let child = Process(child);
    let deadline = Instant::now() + WAIT;
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the node never listens");
        std::thread::yield_now();
    }
    (child, address)
}

/// CHECKLIST D5, PROTOCOL H24: killed right after the command, some rows are zeroed, some half and some not at all: replay ends it.
#[test]
fn deallocated_blocks_stay_zeroes_after_a_kill() {
    let folder = Folder::make();
    let (node, address) = spawn(folder.path());
    let mut host = Host::connect(address);
    write_all(&mut host);
    deallocate(&mut host);
    drop(node);
    drop(host);
    let node = start(FILES, folder.path()).unwrap();
    check_all(&mut Host::connect(node.addresses()[0]));
    node.stop().unwrap();
}
