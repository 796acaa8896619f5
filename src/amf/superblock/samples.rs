//! Records for the tests of this module.

use super::{
    Carrier, Durability, GroupRecord, IntentRecord, JournalRecord, Level, MemberRecord, MemberState, Name,
    PORTS_ALL, ParityState, SPARES_MAX, Superblock, Uuid, VDISKS_MAX, VdiskRecord,
};
use crate::amf::expansion::{ExpansionRecord, ScratchState};
use crate::amf::replication::ReplicationMode;
use crate::amf::{MEMBERS_MAX, MemberIndex};
use crate::drive::block::{BlockSize, GroupLba, MemberLba};

/// Three members, two virtual disks, some of everything.
pub(super) fn small() -> Superblock {
    let member = |number: u8| MemberRecord {
        drive: Uuid([number; 16]),
        state: MemberState::Active,
        current_at: 9,
    };
    let vdisk = |number: u8, start: u64, blocks: u64| VdiskRecord {
        nsid: u32::from(number),
        name: Name::parse(&format!("v{number}")).unwrap(),
        uuid: Uuid([number; 16]),
        nguid: [number; 16],
        start: GroupLba(start),
        blocks,
        ports: PORTS_ALL,
        leaving: false,
        replication: ReplicationMode::Sync,
    };
    let record = GroupRecord {
        array: Uuid([0xa1; 16]),
        group: Uuid([0xb2; 16]),
        name: Name::parse("group-0.a_b").unwrap(),
        level: Level::Raid5,
        strip_blocks: 16,
        block: BlockSize::B4096,
        data_start: MemberLba(512),
        rows: 32,
        generation: 9,
        previous: 8,
        clean: true,
        forming: false,
        exclusive_local: true,
        parity: ParityState::Resync { next_row: 5 },
        durability: Durability::Journal,
        journal: Some(JournalRecord {
            start: MemberLba(256),
            blocks: 240,
            lane_blocks: 60,
            lanes: 3,
            incarnation: 7,
            floors: [0; 17],
        }),
        dirty_ram: false,
        intent: Some(IntentRecord {
            start: MemberLba(496),
            blocks: 2,
            since_generation: 0,
            rows_per_bit: 1,
        }),
        rebuilt_rows: 0,
        rebuild_partial: false,
        scrub_row: 3,
        expansion: None,
        members: vec![member(1), member(2), member(3)],
        spares: vec![Uuid([0x51; 16])],
        vdisks: vec![vdisk(1, 0, 33), vdisk(2, 64, 960)],
    };
    Superblock {
        record,
        carrier: Carrier::Member(MemberIndex(1)),
        drive_bytes: 5 << 20,
    }
}

/// The same with a fourth member, over which five of the rows are laid out by now; the sixth is in the scratch area.
pub(super) fn expanding() -> Superblock {
    let mut superblock = small();
    let mut member = superblock.record.members[0];
    member.drive = Uuid([4; 16]);
    superblock.record.members.push(member);
    superblock.record.expansion = Some(ExpansionRecord {
        old_members: 3,
        frontier: 5,
        scratch: ScratchState::Holds { to: 6 },
    });
    superblock
}

/// Stripes without redundancy, on up to 32 members.
pub(super) fn striped(members: u8) -> Superblock {
    let mut superblock = small();
    let record = &mut superblock.record;
    record.level = Level::Raid0;
    record.parity = ParityState::Trusted;
    record.durability = Durability::None;
    (record.journal, record.intent) = (None, None);
    record.spares.clear();
    record.members = (1..=members)
        .map(|number| MemberRecord {
            drive: Uuid([number; 16]),
            state: MemberState::Active,
            current_at: 9,
        })
        .collect();
    let row_blocks = record.row_blocks();
    record.vdisks.truncate(1);
    record.vdisks[0].start = GroupLba(row_blocks);
    record.vdisks[0].blocks = 30 * row_blocks;
    superblock.carrier = Carrier::Member(MemberIndex(members - 1));
    superblock
}

/// Every table full, one member lost.
pub(super) fn full() -> Superblock {
    let mut superblock = small();
    let record = &mut superblock.record;
    record.name = Name::parse(&"n".repeat(32)).unwrap();
    record.block = BlockSize::B512;
    record.strip_blocks = 8;
    record.data_start = MemberLba(4096);
    record.durability = Durability::Ram;
    record.dirty_ram = true;
    record.journal = Some(JournalRecord {
        start: MemberLba(2048),
        blocks: 1024,
        lane_blocks: 56,
        lanes: 16,
        incarnation: u64::MAX,
        floors: [0; 17],
    });
    record.intent = Some(IntentRecord {
        start: MemberLba(3072),
        blocks: 1024,
        since_generation: 4,
        rows_per_bit: 1,
    });
    record.spares = (0..u8::try_from(SPARES_MAX).unwrap())
        .map(|number| Uuid([0x80 + number; 16]))
        .collect();
    record.rows = 512;
    record.parity = ParityState::Trusted;
    record.clean = false;
    (record.generation, record.previous) = (12, 9);
    record.members = (0..u8::try_from(MEMBERS_MAX).unwrap())
        .map(|number| MemberRecord {
            drive: Uuid([number + 1; 16]),
            state: if number == 31 {
                MemberState::Missing
            } else {
                MemberState::Active
            },
            current_at: if number == 31 { 4 } else { 12 },
        })
        .collect();
    let row_blocks = record.row_blocks();
    record.vdisks = (0..u8::try_from(VDISKS_MAX).unwrap())
        .map(|number| VdiskRecord {
            nsid: u32::MAX - 1 - u32::from(number),
            name: Name::parse(&format!("{number:032}")).unwrap(),
            uuid: Uuid([number + 1; 16]),
            nguid: [number; 16],
            start: GroupLba(u64::from(number) * 16 * row_blocks),
            blocks: 16 * row_blocks,
            ports: PORTS_ALL,
            leaving: false,
            replication: ReplicationMode::Sync,
        })
        .collect();
    superblock
}
