//! The cores of a node, as it is made and as it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{BLOCK, Core, JUNK, LANE_BLOCKS, OWN_COMMANDS, Shape, WRITE_BLOCKS_MAX, World};
use crate::amf::MemberSet;
use crate::amf::engine::{Engine, EngineConfig, WriteBackConfig};
use crate::amf::expansion::Layout;
use crate::amf::intent::IntentMap;
use crate::amf::journal::{JournalLayout, JournalShared};
use crate::amf::lock::LockTable;
use crate::amf::lost::LostMap;
use crate::amf::superblock::Uuid;
use crate::drive::block::{BlockSize, MemberLba};

/// What all cores are made of.
pub(super) struct Founding {
    pub shape: Shape,
    pub layout: Layout,
    pub scratch_bytes: u32,
    pub journal_start: MemberLba,
}

impl Founding {
    fn journal(&self) -> JournalLayout {
        JournalLayout {
            start: self.journal_start,
            lane_blocks: LANE_BLOCKS,
            lanes: self.shape.cores,
            incarnation: 1,
            group: Uuid([7; 16]),
            block: BlockSize::B512,
        }
    }

    /// A core, counted through all nodes, whose batches begin with this number.
    pub fn core(
        &self,
        core: u16,
        members: MemberSet,
        (lock, numbers): (&Arc<LockTable>, &Arc<JournalShared>),
        first_batch: u64,
        (intent, lost): (&Arc<IntentMap>, &Arc<LostMap>),
    ) -> Core {
        let Self {
            shape,
            layout,
            scratch_bytes,
            ..
        } = self;
        let cores_each = shape.cores / shape.nodes;
        let journal = |durability| WriteBackConfig {
            first_lane: core / cores_each * cores_each,
            first_batch,
            layout: self.journal(),
            shared: Arc::clone(numbers),
            durability,
            keeps_copies: shape.nodes > 1,
            hands_over: shape.shared || shape.nodes > 1,
            write_blocks_max: WRITE_BLOCKS_MAX,
            // Nodes that share a group have no such map and list yet.
            intent: (shape.nodes == 1).then(|| Arc::clone(intent)),
            lost: (shape.nodes == 1).then(|| Arc::clone(lost)),
        };
        Core {
            engine: Engine::new(EngineConfig {
                layout: *layout,
                core: core % cores_each,
                lock: Arc::clone(lock),
                // More, for the test's own drains and moves.
                commands_max: shape.commands + 1 + OWN_COMMANDS,
                pieces_max: shape.pieces,
                scratch_bytes: *scratch_bytes,
                members,
                write_back: shape.journal.map(journal),
            }),
            ring: vec![JUNK; LANE_BLOCKS as usize],
            headers: BTreeMap::new(),
            arriving: BTreeMap::new(),
            clean: Vec::new(),
            buffers: vec![Vec::new(); shape.commands as usize],
            scratch: vec![JUNK; (scratch_bytes / BLOCK) as usize],
            owed: Vec::new(),
        }
    }
}

impl World {
    /// Where the journal is.
    pub fn journal(&self) -> JournalLayout {
        self.founding.journal()
    }

    /// All cores may acknowledge from memory.
    pub fn allow_ram(&mut self) {
        for core in 0..self.cores.len() {
            let mut out = Vec::new();
            self.cores[core].engine.allow_ram(true, &mut out);
            self.act(core, out);
        }
    }

    /// Whether the node of a core lives.
    pub fn lives(&self, core: usize) -> bool {
        let node = core / self.cores_each;
        self.several.as_ref().is_none_or(|several| several.lives(node))
    }

    /// The cores of nodes that live.
    pub fn living_cores(&self) -> Vec<usize> {
        (0..self.cores.len()).filter(|core| self.lives(*core)).collect()
    }

    /// Whether nobody holds a row in the lock table of any node that lives.
    pub fn locks_are_idle(&self) -> bool {
        match &self.several {
            Some(several) => several.locks_are_idle(),
            None => self.lock.is_idle(),
        }
    }

    /// A node comes back: with new cores that know nothing, and number their batches from here.
    pub fn reborn(
        &mut self,
        node: usize,
        (lock, numbers): (&Arc<LockTable>, &Arc<JournalShared>),
        first_batch: u64,
    ) {
        for core in node * self.cores_each..(node + 1) * self.cores_each {
            let number = u16::try_from(core).expect("few cores");
            let lists = (&self.intent, &self.lost);
            self.cores[core] = self
                .founding
                .core(number, self.members, (lock, numbers), first_batch, lists);
        }
    }
}
