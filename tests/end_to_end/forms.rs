//! The same group in every form in which a node can be had, and over every kind of drive.

use std::net::SocketAddr;

use nvme::command::io_opcode;
use nvme::status::Status;

use super::bad_hosts::{assert_undisturbed, verify};
use super::fabric::{at, drives, group, shelf, spawn};
use super::queue::{Host, command, pattern, read, write};
use super::stage::{Folder, Stage};

const BLOCKS: u32 = 3072;
const PIECE: u32 = 32;

/// What a host does with a namespace of 12 MiB: how each command ended, and what it reads in the end.
fn suite(address: SocketAddr) -> (Vec<Status>, Vec<u8>) {
    let mut host = Host::connect(address);
    let mut ended = Vec::new();
    let mut run = |entry, data: &[u8], bytes| {
        let answer = host.io[0].run(entry, data, bytes);
        ended.push(answer.status());
        answer
    };
    for piece in 0..BLOCKS / PIECE {
        let at = u64::from(piece * PIECE);
        run(write(2, at, PIECE), &pattern(at, (PIECE * 4096) as usize), 0);
    }
    for (seed, at, blocks) in [(1, 3, 1), (2, 12, 9), (3, 63, 2), (4, 700, 32), (5, 3071, 1)] {
        run(
            write(2, at, blocks),
            &pattern(1000 + seed, (blocks * 4096) as usize),
            0,
        );
    }
    run(command(io_opcode::WRITE_ZEROES, 2, 100, 200), &[], 0);
    run(command(io_opcode::COMPARE, 2, 3, 1), &pattern(1001, 4096), 0);
    run(command(io_opcode::COMPARE, 2, 3, 1), &pattern(9, 4096), 0);
    run(command(io_opcode::VERIFY, 2, 0, 64), &[], 0);
    run(command(io_opcode::FLUSH, 2, 0, 1), &[], 0);
    run(read(2, u64::from(BLOCKS), 1), &[], 4096);
    let mut data = Vec::new();
    for piece in 0..BLOCKS / PIECE {
        data.extend(run(read(2, u64::from(piece * PIECE), PIECE), &[], PIECE * 4096).data());
    }
    (ended, data)
}

/// CHECKLIST A2, as far as hosts reach a node over NVMe/TCP: a node inside of another program and one that is a program of its own, over memory, files
/// and the namespaces of a shelf, answer a host's commands alike and hold the same data.
#[test]
fn a_group_is_the_same_in_every_form_and_over_every_kind_of_drive() {
    let own = |line: &str| -> String {
        (0..4)
            .map(|drive| {
                format!(
                    "[[drive]]\nname = \"d{drive}\"\n{}\n",
                    line.replace('#', &drive.to_string())
                )
            })
            .collect()
    };
    let names = ["d0", "d1", "d2", "d3"];
    let mut seen = Vec::new();
    for (kind, size) in [
        ("memory", "memory_mib = 64"),
        ("files", "path = \"d#.img\"\nsize_mib = 16"),
        ("shelf", ""),
    ] {
        for form in ["library", "program"] {
            let shelf = (kind == "shelf").then(|| Stage::set(&shelf("s", 4)));
            let backing = shelf.as_ref().map_or_else(
                || own(size),
                |shelf| at("s", shelf.address()) + &drives("s", "d", 4),
            );
            let text = backing + &group("raid5", &names);
            let found = if form == "library" {
                let node = Stage::set(&text);
                let found = suite(node.address());
                assert_undisturbed(&verify(node.address(), 2, 1));
                found
            } else {
                let folder = Folder::make();
                let node = spawn(folder.path(), "node", &text, 0, &[]);
                let found = suite(node.address);
                assert_undisturbed(&verify(node.address, 2, 1));
                found
            };
            seen.push((format!("{form} over {kind}"), found));
        }
    }
    let (first, expected) = &seen[0];
    for (form, found) in &seen[1..] {
        assert!(
            found.0 == expected.0,
            "{form} answers {:?}, {first} {:?}",
            found.0,
            expected.0
        );
        assert!(found.1 == expected.1, "{form} holds what {first} does not");
    }
}
