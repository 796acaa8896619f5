//! One round of the recovery lane: the check data of several rows, durable before any of them is written.

use nvme::crc32c;

use super::update::Update;
use crate::amf::expansion::Layout;
use crate::amf::geometry::Geometry;
use crate::amf::journal::codec::{self, BatchHeader, Entry, JournalLayout, entries_max};
use crate::amf::journal::mark;

/// A batch that is being filled.
#[derive(Debug)]
struct Filling {
    position: u32,
    payload_blocks: u32,
    entries: Vec<Entry>,
    payload: Vec<u8>,
}

/// The batches of one round, laid from the start of the lane.
#[derive(Debug)]
pub(super) struct Record {
    /// Blocks that rounds may take.
    round_blocks: u32,
    entries_max: usize,
    /// What each filled place takes: entries and payload of a row.
    places: Vec<(u32, u32)>,
    end: u32,
    entries: usize,
}

impl Record {
    pub(super) fn new(layout: &JournalLayout) -> Self {
        Self {
            round_blocks: mark::round_blocks(layout),
            entries_max: entries_max(layout.block),
            places: Vec::new(),
            end: 0,
            entries: 0,
        }
    }

    /// Takes room for a row of which `checks` check strips are recorded, `blocks` blocks of each; false if
    /// the lane is full.
    pub(super) fn reserve(&mut self, checks: u8, blocks: u32) -> bool {
        let entries = usize::from(checks) + 1;
        let header = self.places.is_empty() || self.entries + entries > self.entries_max;
        let length = u32::from(checks) * blocks + u32::from(header);
        if self.round_blocks - self.end < length {
            return false;
        }
        let position = if header {
            self.entries = 0;
            self.end
        } else {
            self.places.last().expect("there is a batch to go on with").0
        };
        self.places.push((position, blocks));
        self.end += length;
        self.entries += entries;
        true
    }

    /// Whether no row was taken yet.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Encodes the batches with the check data of the rows for which room was taken, in that order. Each
    /// comes with its position; numbers are taken from `seq`.
    pub(super) fn encode(
        &self,
        journal: &JournalLayout,
        layout: &Layout,
        updates: &[Update],
        (tail, round): (u64, u64),
        seq: &mut u64,
    ) -> Vec<(u32, Vec<u8>)> {
        assert_eq!(updates.len(), self.places.len(), "every row has a place");
        let mut batches: Vec<Filling> = Vec::new();
        for (update, &(position, blocks)) in updates.iter().zip(&self.places) {
            assert_eq!(update.blocks, blocks, "a row is as long as it was");
            if batches.last().is_none_or(|batch| batch.position != position) {
                batches.push(Filling {
                    position,
                    payload_blocks: 0,
                    entries: Vec::new(),
                    payload: Vec::new(),
                });
            }
            let batch = batches.last_mut().expect("just made");
            batch.add(update, layout.geometry_of_row(update.row), seq);
        }
        let encode = |batch: Filling| {
            let header = BatchHeader {
                group: journal.group,
                incarnation: journal.incarnation,
                lane: journal.recovery_lane(),
                batch: round,
                position: batch.position,
                tail,
                payload_blocks: batch.payload_blocks,
            };
            let mut bytes = vec![0; journal.block.bytes() as usize];
            let crc = crc32c::portable(0, &batch.payload);
            codec::encode(&header, &batch.entries, crc, &mut bytes);
            bytes.extend(&batch.payload);
            (batch.position, bytes)
        };
        batches.into_iter().map(encode).collect()
    }
}

impl Filling {
    fn add(&mut self, update: &Update, geometry: &Geometry, seq: &mut u64) {
        let (members, checks) = (geometry.members(), geometry.check_strips());
        let mut number = || {
            *seq += 1;
            *seq - 1
        };
        for (index, data) in (0..checks).zip(&update.checks) {
            self.entries.push(Entry::Check {
                members,
                row: update.row,
                index,
                offset_blocks: update.offset,
                blocks: update.blocks,
                seq: number(),
                payload_block: self.payload_blocks,
            });
            self.payload.extend(data);
            self.payload_blocks += update.blocks;
        }
        self.entries.push(Entry::Destage {
            members,
            row: update.row,
            cut: update.cut,
            checks,
            seq: number(),
        });
    }
}
