//! Reads the list of active namespaces, then each namespace, one command at a time.

use super::decode::{Namespace, namespace_list};
use super::{Action, Association, CID_STEP, PAGE_BYTES, Purpose, Trouble, page};
use crate::command::{SubmissionEntry, admin_opcode};
use crate::identify::cns;
use crate::status::Status;

/// NSIDs that one list holds: 4096 bytes of 4 each.
const LIST_NSIDS: usize = 1024;
/// Namespaces that a host looks at: four lists. More are left out.
const NAMESPACES_MAX: usize = 4 * LIST_NSIDS;

/// What the scan awaits.
#[derive(Debug, Default)]
enum Awaits {
    /// Nothing: no scan is under way.
    #[default]
    Nothing,
    /// The list of NSIDs above `after`.
    List { after: u32 },
    /// Identify Namespace of `found[index]`.
    Namespace { index: usize },
    /// The identification descriptors of `found[index]`.
    Descriptors { index: usize, namespace: Namespace },
}

/// A scan of the namespaces.
#[derive(Debug, Default)]
pub(super) struct Scan {
    awaits: Awaits,
    found: Vec<u32>,
    /// NSIDs of `found` that turned out to be usable.
    usable: Vec<u32>,
    /// Namespaces changed while the scan was under way.
    again: bool,
}

impl Association {
    /// Scans from the start; if a scan is under way then once more after it.
    pub(super) fn start_scan(&mut self, now_ns: u64, out: &mut Vec<Action>) -> Result<(), Trouble> {
        if !matches!(self.scan.awaits, Awaits::Nothing) {
            self.scan.again = true;
            return Ok(());
        }
        self.scan = Scan {
            awaits: Awaits::List { after: 0 },
            ..Scan::default()
        };
        self.step_identify(now_ns, cns::ACTIVE_NAMESPACES, 0, out)
    }

    pub(super) fn scan_step(
        &mut self,
        now_ns: u64,
        status: Status,
        data: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        match std::mem::take(&mut self.scan.awaits) {
            Awaits::Nothing => panic!("a scan that is not under way has no command"),
            Awaits::List { after } => {
                let nsids = namespace_list(page(status, data)?, after);
                let full = nsids.len() == LIST_NSIDS;
                self.scan.found.extend(nsids);
                if full && self.scan.found.len() < NAMESPACES_MAX {
                    let after = self.scan.found[self.scan.found.len() - 1];
                    self.scan.awaits = Awaits::List { after };
                    return self.step_identify(now_ns, cns::ACTIVE_NAMESPACES, after, out);
                }
                self.scan_next(now_ns, 0, out)
            }
            Awaits::Namespace { index } => {
                // It may be gone since the list was read; then there is one namespace less.
                let found = page(status, data).ok().and_then(Namespace::parse);
                let Some(namespace) = found else {
                    return self.scan_next(now_ns, index + 1, out);
                };
                self.scan.awaits = Awaits::Descriptors { index, namespace };
                self.step_identify(now_ns, cns::NAMESPACE_DESCRIPTORS, self.scan.found[index], out)
            }
            Awaits::Descriptors { index, mut namespace } => {
                // Old controllers know no descriptors; then NGUID from Identify Namespace is all there is.
                if let Ok(page) = page(status, data) {
                    namespace.add_descriptors(page);
                }
                let nsid = self.scan.found[index];
                self.scan.usable.push(nsid);
                if self.namespaces.insert(nsid, namespace) != Some(namespace) {
                    out.push(Action::Namespace {
                        nsid,
                        blocks: namespace.blocks,
                        block_bytes: namespace.block_bytes,
                        nguid: namespace.nguid,
                        uuid: namespace.uuid,
                    });
                }
                self.scan_next(now_ns, index + 1, out)
            }
        }
    }

    /// Goes on with the namespace at `index`, or ends the scan after the last.
    fn scan_next(&mut self, now_ns: u64, index: usize, out: &mut Vec<Action>) -> Result<(), Trouble> {
        if let Some(&nsid) = self.scan.found.get(index) {
            self.scan.awaits = Awaits::Namespace { index };
            return self.step_identify(now_ns, cns::NAMESPACE, nsid, out);
        }
        let usable = std::mem::take(&mut self.scan.usable);
        self.namespaces.retain(|&nsid, _| {
            let stays = usable.binary_search(&nsid).is_ok();
            if !stays {
                out.push(Action::NamespaceRemoved { nsid });
            }
            stays
        });
        if self.scan.again {
            return self.start_scan(now_ns, out);
        }
        let namespaces = u32::try_from(usable.len()).expect("NAMESPACES_MAX is far below 2^32");
        out.push(Action::Scanned { namespaces });
        Ok(())
    }

    fn step_identify(
        &mut self,
        now_ns: u64,
        cns: u8,
        nsid: u32,
        out: &mut Vec<Action>,
    ) -> Result<(), Trouble> {
        let mut identify = SubmissionEntry::new(admin_opcode::IDENTIFY, CID_STEP);
        identify.set_nsid(nsid);
        identify.set_dword(10, u32::from(cns));
        self.step(now_ns, Purpose::Scan, identify, PAGE_BYTES, out)
    }
}
