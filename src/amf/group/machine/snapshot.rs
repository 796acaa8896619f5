//! What management shows of a group at work.

use super::{Group, Phase, Seat};
use crate::amf::MemberIndex;
use crate::amf::group::status::{
    GroupSnapshot, GroupState, MemberSnapshot, MemberStatus, RebuildSnapshot, ResyncSnapshot, SpareSnapshot,
    VdiskSnapshot,
};
use crate::amf::group::vdisks;
use crate::amf::superblock::{MemberRecord, MemberState, ParityState, Uuid, VdiskRecord};

impl Group {
    /// What management shows.
    pub fn snapshot(&self) -> GroupSnapshot {
        let record = &self.record;
        let state = match self.phase {
            Phase::AwaitingStart
            | Phase::RollingForward
            | Phase::Restoring
            | Phase::Persisting
            | Phase::Opening => GroupState::Opening,
            Phase::Following if self.announced.is_none() => GroupState::Opening,
            Phase::Open | Phase::Following if self.lost_mask() != 0 => GroupState::Degraded,
            Phase::Open | Phase::Following => GroupState::Healthy,
            Phase::Failed(why) => GroupState::Failed(why),
            Phase::Stopped => GroupState::Stopped,
        };
        let resync = record.parity.next_row().map(|durable_row| ResyncSnapshot {
            next_row: durable_row.max(self.resync_row),
            rows: record.rows,
            unclean: matches!(record.parity, ParityState::Resync { .. }),
        });
        GroupSnapshot {
            name: record.name.clone(),
            uuid: record.group,
            state,
            level: record.level,
            block: record.block,
            strip_blocks: record.strip_blocks,
            rows: record.rows,
            capacity_blocks: record.capacity_blocks(),
            free_blocks: vdisks::free_blocks(record),
            generation: self
                .announced
                .map_or(record.generation, |members| members.generation),
            durability: record.durability,
            journal: record.journal,
            dirty_ram: record.dirty_ram,
            resync,
            rebuild: self.wave.map(|wave| RebuildSnapshot {
                wave,
                members: record.rebuilding_mask(),
                next_row: record.rebuilt_rows.max(self.rebuilt_rows),
                rows: record.rows,
                partial: record.rebuild_partial,
            }),
            scrub_row: record.scrub_row,
            expansion: record.expansion,
            spares: record
                .spares
                .iter()
                .map(|spare| self.spare_snapshot(*spare))
                .collect(),
            members: self.member_snapshots(),
            vdisks: record
                .vdisks
                .iter()
                .map(|vdisk| self.vdisk_snapshot(vdisk))
                .collect(),
        }
    }

    fn member_snapshots(&self) -> Vec<MemberSnapshot> {
        let lines = (0u8..).zip(self.record.members.iter().zip(&self.seats));
        let snapshot = |(member, (line, seat)): (u8, (&MemberRecord, &Seat))| MemberSnapshot {
            member: MemberIndex(member),
            drive_uuid: line.drive,
            drive: seat.drive.as_ref().map(|(index, _, _)| *index),
            label: seat.drive.as_ref().map(|(_, label, _)| label.clone()),
            status: match seat.lost {
                Some(reason) => MemberStatus::Lost(reason),
                None if line.state == MemberState::Rebuilding => MemberStatus::Rebuilding,
                None => MemberStatus::Active,
            },
            generation: seat.holds,
        };
        lines.map(snapshot).collect()
    }

    fn spare_snapshot(&self, spare: Uuid) -> SpareSnapshot {
        let seat = self.spares.iter().find(|seat| seat.identity == spare);
        let drive = seat.and_then(|spare| spare.seat.drive.as_ref());
        SpareSnapshot {
            drive_uuid: spare,
            drive: drive.map(|(index, _, _)| *index),
            label: drive.map(|(_, label, _)| label.clone()),
        }
    }

    fn vdisk_snapshot(&self, vdisk: &VdiskRecord) -> VdiskSnapshot {
        VdiskSnapshot {
            nsid: vdisk.nsid,
            name: vdisk.name.clone(),
            uuid: vdisk.uuid,
            nguid: vdisk.nguid,
            start: vdisk.start,
            blocks: vdisk.blocks,
            leaving: self.leaving.iter().any(|leaving| leaving.nsid == vdisk.nsid),
        }
    }
}
