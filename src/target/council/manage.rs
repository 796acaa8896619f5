//! Membership as the configuration asks for it, and as operators do.

use std::path::Path;

use super::{Council, CouncilError, DriveSpec, NamespaceName, Setup, ShelfSpec};
use crate::icl::Slot;
use crate::icl::link::hmac::MAC_BYTES;
use crate::target::icl::{Peer, hmac_sha256};
use crate::target::manage::{ArrayRequest, ManageError, Reply};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error(
        "the key of the array, {path}, cannot be read: {error}. `braid array key > {path}` makes one, for all nodes of the array"
    )]
    Unreadable {
        /// Where it should be.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is no key.
    #[error(
        "{path} is no key of an array: it has to be 64 hexadecimal digits. `braid array key > {path}` makes one, for all nodes of the array"
    )]
    Malformed {
        /// Where it is.
        path: String,
    },
}

/// The key in a file.
pub fn read_key(path: &Path) -> Result<[u8; MAC_BYTES], KeyError> {
    let text = std::fs::read_to_string(path).map_err(|error| KeyError::Unreadable {
        path: path.display().to_string(),
        error,
    })?;
    parse_key(text.trim()).ok_or_else(|| KeyError::Malformed {
        path: path.display().to_string(),
    })
}

fn parse_key(digits: &str) -> Option<[u8; MAC_BYTES]> {
    let is_key = digits.len() == 2 * MAC_BYTES && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let mut key = [0; MAC_BYTES];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    is_key.then_some(key)
}

/// A new key as it stands in its file.
pub fn new_key() -> std::io::Result<String> {
    let random: [u8; MAC_BYTES] = crate::target::storage::random_bytes()?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Setup {
    /// What the configuration says of the node's array, and of the groups on its drives.
    pub fn of(array: &config::Array, groups: &[config::Group]) -> Result<Self, KeyError> {
        let slot = |number| Slot::new(number).expect("the configuration has slots below eight");
        let namespace = |name| match name {
            config::NamespaceName::Nsid(nsid) => NamespaceName::Nsid(nsid),
            config::NamespaceName::Uuid(uuid) => NamespaceName::Uuid(uuid),
        };
        let key = read_key(&array.key_file)?;
        let terms = array.replication_terms(groups);
        let [a, b, c, d, ..] = hmac_sha256(&key, &[b"braid terms", terms.as_bytes()]);
        Ok(Self {
            name: array.name.clone(),
            slot: slot(array.slot),
            key,
            terms: u32::from_le_bytes([a, b, c, d]),
            failures: u32::from(array.failures),
            encryption: array.encryption,
            listen: array.listen,
            peers: array
                .peers
                .iter()
                .map(|peer| Peer {
                    slot: slot(peer.slot),
                    addresses: peer.addresses.clone(),
                })
                .collect(),
            shelves: array
                .shelves
                .iter()
                .map(|shelf| ShelfSpec {
                    name: shelf.name.clone(),
                    addresses: shelf.addresses.clone(),
                    nqn: shelf.nqn.clone(),
                })
                .collect(),
            drives: array
                .drives
                .iter()
                .map(|drive| DriveSpec {
                    name: drive.name.clone(),
                    shelf: drive.shelf,
                    namespace: namespace(drive.namespace),
                })
                .collect(),
        })
    }
}

/// Answers an operator; `may_cut` says whether links may be cut for tests.
pub fn answer(
    council: Option<&Council>,
    request: &ArrayRequest,
    may_cut: bool,
) -> Result<Reply, ManageError> {
    let Some(council) = council else {
        return Err(ManageError::new(
            ManageError::INVALID,
            "this node shares no drives with others",
            "write an [array] section; `braid config example --array` prints one",
        ));
    };
    match request {
        ArrayRequest::Show => {}
        ArrayRequest::Create => council.create().map_err(refused)?,
        ArrayRequest::Leave => council.leave().map_err(refused)?,
        ArrayRequest::Join => council.join().map_err(refused)?,
        ArrayRequest::Cut(_) if !may_cut => {
            return Err(ManageError::new(
                ManageError::INVALID,
                "links are cut for tests only",
                "set allow_fault_injection = true in [health]",
            ));
        }
        ArrayRequest::Cut(cut) => {
            let peer = Slot::new(cut.peer).filter(|peer| {
                let mut peers = council.setup().peers.iter();
                peers.any(|known| known.slot == *peer)
            });
            let peer = peer.ok_or_else(|| {
                ManageError::new(
                    ManageError::INVALID,
                    format!("there is no other node in slot {}", cut.peer),
                    "`braid array show` lists them",
                )
            })?;
            council.cut(peer, *cut).map_err(refused)?;
        }
    }
    let status = council.status().map_err(refused)?;
    Ok(Reply::Array(Box::new(status)))
}

fn refused(error: CouncilError) -> ManageError {
    match error {
        CouncilError::Silent => {
            ManageError::new(ManageError::BUSY, error.to_string(), "try again in a second")
        }
        CouncilError::Refused(why) => ManageError::new(ManageError::INVALID, why, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_64_digits() {
        let key = new_key().unwrap();
        assert!(parse_key(&key).is_some_and(|key| key != [0; MAC_BYTES]));
        assert_ne!(new_key().unwrap(), key);
        for text in [
            "",
            "00",
            &key[1..],
            &format!("{key}0"),
            &key.replace(&key[..1], "g"),
            &"é".repeat(32),
        ] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
