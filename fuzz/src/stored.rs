//! Files and messages: superblocks, the configuration, management requests.

use braid::amf::superblock::{Found, HEAD_READ_BYTES, RECORD_BYTES, TAIL_READ_BYTES, encode, examine, parse};

#[cfg(feature = "target")]
use std::path::Path;

/// Feeds the record parser and the examination of a whole drive. Returns the good records found.
pub fn superblock(bytes: &[u8]) -> usize {
    let mut found = 0;
    if let Ok(superblock) = parse(bytes) {
        found += 1;
        superblock.check().expect("a record that parses is consistent");
        let again = encode(&superblock);
        assert_eq!(
            parse(again.as_slice()),
            Ok(superblock),
            "what parses survives a round trip"
        );
    }
    // The same bytes as the four copies of a drive's record.
    let mut head = vec![0; HEAD_READ_BYTES];
    let mut tail = vec![0; TAIL_READ_BYTES];
    for (index, record) in bytes.chunks(RECORD_BYTES).take(4).enumerate() {
        let at = (index % 2 + 1) * RECORD_BYTES;
        let region = if index < 2 { &mut head } else { &mut tail };
        region[at..at + record.len()].copy_from_slice(record);
    }
    for (head, tail) in [
        (Some(&head), Some(&tail)),
        (Some(&head), None),
        (None, Some(&tail)),
    ] {
        if let Found::Braid(scan) = examine(head.map(Vec::as_slice), tail.map(Vec::as_slice)) {
            found += 1;
            scan.superblock
                .check()
                .expect("a record that is found is consistent");
        }
    }
    found
}

/// Feeds the configuration parser. Returns 1 if the file is good.
#[cfg(feature = "target")]
pub fn config(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    match config::parse(&text, Path::new("/etc/braid/node.toml")) {
        Ok(config) => {
            assert!(config.listeners.iter().any(|listen| !listen.discovery_only));
            assert!(
                config
                    .groups
                    .iter()
                    .flat_map(|group| &group.drives)
                    .all(|at| *at < config.drives.len())
            );
            assert!(
                config
                    .vdisks
                    .iter()
                    .all(|vdisk| vdisk.group < config.groups.len())
            );
            1
        }
        Err(problems) => {
            assert!((1..=config::PROBLEMS_MAX + 1).contains(&problems.len()));
            let lines = text.split('\n').count();
            assert!(
                problems
                    .iter()
                    .all(|at| (1..=lines).contains(&at.line) && at.column >= 1)
            );
            0
        }
    }
}

/// Feeds the parser of management requests. Returns 1 if something could be made out.
#[cfg(feature = "target")]
pub fn rpc(bytes: &[u8]) -> usize {
    usize::from(braid::target::rpc::parse_request(bytes).is_ok())
}
