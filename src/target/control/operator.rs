//! Calls of the management plane: what an operator may see and change.

use std::sync::mpsc::SyncSender;

use nvme::access::Access;
use reactor::{Io, Nanos};

use super::background;
use super::groups::{GroupControl, GroupPlan, GroupSource, random_uuid};
use super::{Control, ManageCall};
use crate::amf::background::Limits;
use crate::amf::engine::Engine;
use crate::amf::geometry::Level;
use crate::amf::group::{
    Answer, CreateIds, DriveFacts, Event, Group, GroupSnapshot, GroupSpec, GroupState, MemberStatus,
    RequestError, RequestId, VdiskSize, VdiskSpec, plan_create,
};
use crate::amf::lost::LostList;
use crate::amf::replication::ReplicationMode;
use crate::amf::superblock::{Durability, Found, Name, PORTS_ALL, Uuid, VdiskRecord};
use crate::drive::block::BlockSize;
use crate::icl::{Epoch, Slot, SlotSet};
use crate::target::array::ScratchMemory;
use crate::target::core::Core;
use crate::target::drives::Medium;
use crate::target::manage::{self, ManageError, PortRequest, Reply, Request};
use crate::target::message::Message;

/// Who asked for something.
pub(super) enum Asker {
    /// An operator of this node.
    Operator(SyncSender<Result<Reply, ManageError>>),
    /// An operator of another node, which has given the request this number in this epoch.
    Node(Slot, u64, Epoch),
}

/// An operator's request that a group works on.
pub(super) struct Waiting {
    group: usize,
    asker: Asker,
    what: WaitingFor,
}

pub(super) enum WaitingFor {
    VdiskShown,
    /// A virtual disk of this name and number is made.
    VdiskCreated {
        name: Name,
        nsid: Option<u32>,
    },
    VdiskDeleted {
        nsid: u32,
        name: String,
        bytes: u64,
    },
    /// A port is there, or is not and has been closed by this node.
    PortChanged {
        closes: Option<Slot>,
    },
    MemberFailed,
    DriveGiven,
    SpareRemoved {
        drive: String,
    },
}

/// Bytes of one identity in a call's entropy.
const ID_BYTES: usize = 16;

/// The lost blocks of a group, as its hosts know them where they belong to a virtual disk.
fn lost_blocks(machine: &Group, snapshot: &GroupSnapshot) -> Vec<manage::LostBlocks> {
    let mut all = Vec::new();
    for extent in machine.lost_blocks().extents() {
        let mut block = extent.lba.0;
        let end = block + extent.blocks;
        while block < end {
            let mut disks = snapshot.vdisks.iter();
            let disk = disks.find(|disk| (disk.start.0..disk.start.0 + disk.blocks).contains(&block));
            let starts = snapshot.vdisks.iter().map(|disk| disk.start.0);
            let next = starts.filter(|start| *start > block).fold(end, u64::min);
            let until = disk.map_or(next, |disk| end.min(disk.start.0 + disk.blocks));
            all.push(manage::LostBlocks {
                vdisk: disk.map(|disk| disk.name.to_string()),
                block: block - disk.map_or(0, |disk| disk.start.0),
                blocks: until - block,
            });
            block = until;
        }
    }
    all
}

impl Control {
    /// Answers a call, at once or when the group has done what it asks for.
    pub(in crate::target) fn manage(&mut self, core: &mut Core, io: &mut Io<Message>, call: ManageCall) {
        let ManageCall {
            request,
            entropy,
            reply,
        } = call;
        let asker = Asker::Operator(reply);
        if self.is_passed_on(&request) && !self.stopping {
            return self.pass_on(io, request, &entropy, asker);
        }
        self.manage_for(core, io, request, &entropy, asker);
    }

    /// The same, whoever asks.
    #[expect(clippy::too_many_lines, reason = "one arm for each request")]
    pub(super) fn manage_for(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        request: Request,
        entropy: &[u8; 64],
        asker: Asker,
    ) {
        if let Err(error) = self.refuse(&request) {
            return self.answer(io, asker, Err(error));
        }
        let answer = match request {
            Request::NodeShow => Ok(Reply::Node(self.node_status(io.now()))),
            Request::GroupList => Ok(Reply::Groups(
                self.groups.iter().map(|group| self.group_status(group)).collect(),
            )),
            Request::GroupShow(wanted) => self
                .group_named(&wanted.group)
                .map(|group| Reply::Group(self.group_status(&self.groups[group]))),
            Request::GroupCreate(create) => self.create_group(core, io, &create, entropy),
            Request::GroupExpand(expand) => {
                match self.expansion(&expand, derived_ids(entropy, expand.drives.len())) {
                    Ok((group, event)) => {
                        return self.ask_group(core, io, group, asker, WaitingFor::DriveGiven, event);
                    }
                    Err(error) => Err(error),
                }
            }
            Request::Background(wanted) => self.background_request(core, io, &wanted),
            Request::VdiskList => Ok(Reply::Vdisks(self.vdisk_list())),
            Request::VdiskShow(wanted) => self.vdisk_named(&wanted.vdisk).map(Reply::Vdisk),
            Request::VdiskCreate(create) => match self.vdisk_spec(&create, entropy) {
                Ok((group, spec)) => {
                    let what = WaitingFor::VdiskCreated {
                        name: spec.name.clone(),
                        nsid: spec.nsid,
                    };
                    let event = |request| Event::CreateVdisk { request, spec };
                    return self.ask_group(core, io, group, asker, what, event);
                }
                Err(error) => Err(error),
            },
            Request::VdiskResize(resize) => match self.vdisk_to_resize(&resize) {
                Ok((group, event)) => {
                    return self.ask_group(core, io, group, asker, WaitingFor::VdiskShown, event);
                }
                Err(error) => Err(error),
            },
            Request::VdiskReplicate(replicate) => match self.vdisk_to_replicate(&replicate) {
                Ok((group, event)) => {
                    return self.ask_group(core, io, group, asker, WaitingFor::VdiskShown, event);
                }
                Err(error) => Err(error),
            },
            Request::VdiskDelete(delete) => match self.vdisk_to_delete(&delete) {
                Ok((group, record)) => {
                    let block = u64::from(self.groups[group].shared.geometry.block().bytes());
                    let what = WaitingFor::VdiskDeleted {
                        nsid: record.nsid,
                        name: record.name.to_string(),
                        bytes: record.blocks * block,
                    };
                    let (nsid, is_shared) = (record.nsid, self.share.is_some());
                    let event = |request| match is_shared {
                        true => Event::LeaveVdisk { request, nsid },
                        false => Event::DeleteVdisk { request, nsid },
                    };
                    return self.ask_group(core, io, group, asker, what, event);
                }
                Err(error) => Err(error),
            },
            Request::Port(PortRequest::List(wanted)) => self.port_list(wanted.vdisk.as_deref()),
            Request::Port(wanted) => match self.port_to_change(&wanted) {
                Ok((group, what, event)) => {
                    return self.ask_group(core, io, group, asker, what, event);
                }
                Err(error) => Err(error),
            },
            Request::DriveList => Ok(Reply::Drives(self.drive_list())),
            Request::DriveShow(wanted) => self
                .drive_named(&wanted.drive)
                .map(|drive| Reply::Drive(self.drive_status(drive))),
            Request::DriveFail(fail) => match self.member_to_fail(&fail) {
                Ok((group, member)) => {
                    let event = |request| Event::FailMember {
                        request,
                        member,
                        force: fail.force,
                    };
                    return self.ask_group(core, io, group, asker, WaitingFor::MemberFailed, event);
                }
                Err(error) => Err(error),
            },
            Request::DriveReplace(wanted) => match self.replacement(&wanted, derived_id(entropy, 0)) {
                Ok((group, event)) => {
                    self.restore_drive(core, io, &wanted.drive);
                    return self.ask_group(core, io, group, asker, WaitingFor::DriveGiven, event);
                }
                Err(error) => Err(error),
            },
            Request::DriveAddSpare(wanted) => match self.new_spare(&wanted, derived_id(entropy, 0)) {
                Ok((group, event)) => {
                    self.restore_drive(core, io, &wanted.drive);
                    return self.ask_group(core, io, group, asker, WaitingFor::DriveGiven, event);
                }
                Err(error) => Err(error),
            },
            Request::DriveRemoveSpare(wanted) => match self.old_spare(&wanted) {
                Ok((group, event)) => {
                    let what = WaitingFor::SpareRemoved { drive: wanted.drive };
                    return self.ask_group(core, io, group, asker, what, event);
                }
                Err(error) => Err(error),
            },
            Request::DriveInject(wanted) => self.inject(&wanted),
            Request::ShelfShow => self.shelf_status().map(Reply::Shelf),
            Request::HostList => Ok(Reply::Hosts(self.host_list(io.now()))),
            // The node's own thread answers these: it asks every core, or the thread of membership.
            Request::Latency | Request::Counters | Request::Array(_) => Err(ManageError::new(
                ManageError::INVALID,
                "this call is not for the control core",
                "",
            )),
            Request::Shutdown => {
                // The main thread begins the stop, so that this answer goes out first.
                let _ = self.stop.try_send(());
                Ok(Reply::Stopping(manage::Stopping { stopping: true }))
            }
        };
        self.answer(io, asker, answer);
    }

    /// Refuses what changes anything once the node is stopping, and what would change what a shelf exports.
    fn refuse(&self, request: &Request) -> Result<(), ManageError> {
        if self.stopping && request.changes_state() {
            return Err(ManageError::new(
                ManageError::BUSY,
                "the node is stopping",
                "start it again",
            ));
        }
        let is_for_shelf = matches!(request, Request::Shutdown | Request::DriveInject(_));
        if self.is_shelf && request.changes_state() && !is_for_shelf {
            return Err(ManageError::new(
                ManageError::INVALID,
                "this is a shelf: its drives are exported as they are",
                "groups and virtual disks are made by the nodes that use it",
            ));
        }
        let needs_all_nodes = match request {
            Request::GroupCreate(_)
            | Request::GroupExpand(_)
            | Request::DriveReplace(_)
            | Request::DriveAddSpare(_)
            | Request::DriveRemoveSpare(_) => true,
            Request::NodeShow
            | Request::GroupList
            | Request::GroupShow(_)
            | Request::Background(_)
            | Request::VdiskList
            | Request::VdiskShow(_)
            | Request::VdiskCreate(_)
            | Request::VdiskResize(_)
            | Request::VdiskReplicate(_)
            | Request::VdiskDelete(_)
            | Request::Port(_)
            | Request::DriveList
            | Request::DriveShow(_)
            | Request::DriveFail(_)
            | Request::DriveInject(_)
            | Request::ShelfShow
            | Request::HostList
            | Request::Latency
            | Request::Counters
            | Request::Array(_)
            | Request::Shutdown => false,
        };
        if self.share.is_some() && needs_all_nodes {
            return Err(ManageError::new(
                ManageError::REFUSED,
                "all nodes would have to take part in this, and they cannot do that yet for groups that they share",
                "virtual disks can be made, made larger and deleted, and have ports at all nodes or some; what else a shared group has stays as it was made",
            ));
        }
        Ok(())
    }

    /// Hands a request to a group's machine; the answer follows.
    fn ask_group(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: usize,
        asker: Asker,
        what: WaitingFor,
        event: impl FnOnce(RequestId) -> Event,
    ) {
        let request = self.next_request();
        self.waiting.insert(request, Waiting { group, asker, what });
        let group = u16::try_from(group).expect("a node has at most 128 groups");
        self.group_event(core, io, group, event(request));
    }

    /// A group has done what was asked, or says why not.
    pub(super) fn request_done(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        group: u16,
        request: RequestId,
        result: Result<Answer, RequestError>,
    ) {
        if self.planned_pending == Some(request) {
            self.planned_pending = None;
            match result {
                Ok(_) => tracing::info!("virtual disk of the configuration created"),
                Err(error) => {
                    tracing::error!(%error, "virtual disk of the configuration could not be created")
                }
            }
            return self.try_listen(core, io);
        }
        let Some(waiting) = self.waiting.remove(&request) else {
            return;
        };
        if let WaitingFor::VdiskDeleted { nsid, .. } = waiting.what
            && !matches!(result, Err(RequestError::AlreadyLeaving(_)))
            && self.leaving.remove(&nsid)
        {
            self.publish_namespaces(core, io);
        }
        if let (Ok(_), WaitingFor::SpareRemoved { drive }) = (&result, &waiting.what)
            && let Ok(drive) = self.drive_named(drive)
        {
            (self.drive_uses[drive].existing, self.drive_uses[drive].finding) = (Found::Blank, None);
        }
        if let (Ok(Answer::VdiskChanged(record)), WaitingFor::PortChanged { closes }) =
            (&result, &waiting.what)
        {
            let answer = self.port_list(Some(record.name.as_str()));
            return match *closes {
                Some(slot) => self.await_closed(core, io, group, (record.uuid, slot), waiting.asker),
                None => self.answer(io, waiting.asker, answer),
            };
        }
        let state = &self.groups[usize::from(group)];
        let answer = match (result, waiting.what) {
            (
                Ok(
                    Answer::VdiskCreated(record)
                    | Answer::VdiskResized(record)
                    | Answer::VdiskChanged(record),
                ),
                _,
            ) => Ok(Reply::Vdisk(self.vdisk_status(state, &record))),
            (Ok(_), WaitingFor::VdiskDeleted { name, bytes, .. }) => Ok(Reply::Deleted(manage::Deleted {
                vdisk: name,
                freed_bytes: bytes,
            })),
            (
                Ok(_),
                WaitingFor::MemberFailed
                | WaitingFor::VdiskShown
                | WaitingFor::VdiskCreated { .. }
                | WaitingFor::PortChanged { .. }
                | WaitingFor::DriveGiven
                | WaitingFor::SpareRemoved { .. },
            ) => Ok(Reply::Group(self.group_status(state))),
            // It went to the node that leads: nobody does at the moment.
            (
                Err(RequestError::Led),
                WaitingFor::VdiskShown
                | WaitingFor::VdiskCreated { .. }
                | WaitingFor::VdiskDeleted { .. }
                | WaitingFor::PortChanged { .. },
            ) => Err(Self::nobody_leads()),
            (Err(error), _) => Err(refusal(error)),
        };
        self.answer(io, waiting.asker, answer);
    }

    /// Another node leads a group from now on, and what this one was asked for may have been done or not.
    pub(super) fn led_no_more(&mut self, io: &mut Io<Message>, group: u16) {
        let group = usize::from(group);
        let is_its = |_: &RequestId, waiting: &mut Waiting| waiting.group == group;
        let over: Vec<Waiting> = self
            .waiting
            .extract_if(.., is_its)
            .map(|(_, waiting)| waiting)
            .collect();
        for waiting in over {
            let error = ManageError::new(
                ManageError::BUSY,
                "another node leads the group by now",
                "see whether it was done, and ask again if it was not",
            );
            self.answer(io, waiting.asker, Err(error));
        }
    }

    /// Virtual disks that are being made: names, and numbers if they have some.
    pub(super) fn vdisks_to_come(&self) -> impl Iterator<Item = (&Name, Option<u32>)> {
        self.waiting.values().filter_map(|waiting| match &waiting.what {
            WaitingFor::VdiskCreated { name, nsid } => Some((name, *nsid)),
            WaitingFor::VdiskShown
            | WaitingFor::VdiskDeleted { .. }
            | WaitingFor::PortChanged { .. }
            | WaitingFor::MemberFailed
            | WaitingFor::DriveGiven
            | WaitingFor::SpareRemoved { .. } => None,
        })
    }

    pub(super) fn group_named(&self, name: &str) -> Result<usize, ManageError> {
        let found = self.groups.iter().position(|group| group.shared.name == name);
        found.ok_or_else(|| ManageError::not_found("group", name))
    }

    fn vdisk_named(&self, name: &str) -> Result<manage::VdiskStatus, ManageError> {
        let found = self.vdisk_list().into_iter().find(|vdisk| vdisk.name == name);
        found.ok_or_else(|| ManageError::not_found("vdisk", name))
    }

    pub(super) fn drive_named(&self, name: &str) -> Result<usize, ManageError> {
        let found = self.drives.iter().position(|drive| drive.name == name);
        found.ok_or_else(|| ManageError::not_found("drive", name))
    }

    #[expect(
        clippy::too_many_lines,
        reason = "every field of a group that is made is named"
    )]
    fn create_group(
        &mut self,
        core: &mut Core,
        io: &mut Io<Message>,
        create: &manage::GroupCreate,
        entropy: &[u8],
    ) -> Result<Reply, ManageError> {
        let invalid =
            |what: String| ManageError::new(ManageError::INVALID, what, "see `braid group create --help`");
        let name = Name::parse(&create.name).map_err(|error| invalid(error.to_string()))?;
        if self.group_named(&create.name).is_ok() {
            return Err(ManageError::new(
                ManageError::EXISTS,
                format!("there is a group named \"{name}\" already"),
                "choose another name",
            ));
        }
        let level = Level::from_name(&create.level).ok_or_else(|| {
            let known = Level::ALL.map(Level::name).join(", ");
            invalid(format!("level \"{}\" is not known; {known} are", create.level))
        })?;
        let bytes = create.block_bytes;
        let block = BlockSize::from_bytes(bytes)
            .ok_or_else(|| invalid(format!("a block has 512 or 4096 bytes, not {bytes}")))?;
        let strip_bytes = create
            .strip_kib
            .checked_mul(1024)
            .ok_or_else(|| invalid("the strip is too long".into()))?;
        let mut drives = Vec::new();
        for drive in &create.drives {
            let drive = self.drive_named(drive)?;
            self.check_usable(drive)?;
            drives.push(self.drive_facts(drive));
        }
        let ids = CreateIds {
            array: derived_id(entropy, 0),
            group: derived_id(entropy, 1),
            drives: (0..drives.len())
                .map(|drive| derived_id(entropy, 2 + drive))
                .collect(),
        };
        let spec = GroupSpec {
            name,
            level,
            strip_bytes,
            block,
            durability: durability_of(create.durability, level),
            journal_bytes: create.journal_mib.map(|mib| u64::from(mib) << 20),
            exclusive_local: true,
            force: create.force,
            zeroed: drives
                .iter()
                .all(|drive| self.drives[usize::from(drive.index)].fresh),
            drives,
        };
        let creation = plan_create(&spec, &ids)
            .map_err(|error| ManageError::new(ManageError::REFUSED, error.to_string(), ""))?;
        for warning in &creation.warnings {
            tracing::warn!(group = %create.name, %warning, "creating group");
        }
        let plan = GroupPlan {
            header: None,
            source: GroupSource::New(Box::new(creation)),
            limits: Limits::default(),
            spares: Vec::new(),
            replayed: None,
            intent: None,
            lost: LostList::default(),
            reserved: Vec::new(),
        };
        let (spare, ring) = crate::target::assemble::spare_bytes(self.memory_mib);
        let fits = Engine::scratch_bytes_min(&plan.geometry()) <= spare
            && crate::target::assemble::ring_bytes(&plan.geometry(), self.memory_mib) <= ring;
        if !fits || !std::mem::take(&mut self.has_spare_scratch) {
            return Err(no_memory_left());
        }
        let group = self.open_group(core, io, plan, ScratchMemory::Spare);
        Ok(Reply::Group(self.group_status(&self.groups[usize::from(group)])))
    }

    /// What the planner of a new group wants to know of a drive.
    pub(super) fn drive_facts(&self, drive: usize) -> DriveFacts {
        let spec = &self.drives[drive];
        DriveFacts {
            index: u16::try_from(drive).expect("a node has at most 1024 drives"),
            label: spec.name.clone(),
            bytes: spec.bytes,
            logical_block: spec.logical_block_bytes,
            in_use: self.drive_uses[drive].member.is_some() || self.spare_of(drive).is_some(),
            left_out: false,
            existing: self.drive_uses[drive].existing.clone(),
        }
    }

    fn vdisk_spec(
        &self,
        create: &manage::VdiskCreate,
        entropy: &[u8],
    ) -> Result<(usize, VdiskSpec), ManageError> {
        let group = self.group_named(&create.group)?;
        let invalid =
            |what: String| ManageError::new(ManageError::INVALID, what, "see `braid vdisk create --help`");
        let name = Name::parse(&create.name).map_err(|error| invalid(error.to_string()))?;
        let is_there = self.vdisk_list().iter().any(|vdisk| vdisk.name == create.name);
        if is_there || self.vdisks_to_come().any(|(to_come, _)| *to_come == name) {
            return Err(ManageError::new(
                ManageError::EXISTS,
                format!("there is a virtual disk named \"{name}\" already"),
                "choose another name",
            ));
        }
        if create.nsid.is_none() && !self.knows_all_namespaces() {
            return Err(ManageError::new(
                ManageError::INVALID,
                "nodes of this array serve different groups, so that this one cannot tell which namespace numbers are free",
                "choose one that no node of the array has: --nsid",
            ));
        }
        if let Some(nsid) = create.nsid {
            if nsid == 0 || nsid > crate::target::namespaces::NSID_MAX {
                return Err(invalid(format!(
                    "namespace numbers are 1 to {}",
                    crate::target::namespaces::NSID_MAX
                )));
            }
            if self.is_used(nsid) {
                return Err(ManageError::new(
                    ManageError::EXISTS,
                    format!("namespace {nsid} exists already"),
                    "choose another number, or leave it out",
                ));
            }
        }
        let block = u64::from(self.groups[group].shared.geometry.block().bytes());
        let size = match create.size {
            manage::Size::All => VdiskSize::LargestFree,
            manage::Size::Bytes(bytes) => VdiskSize::Blocks(bytes.div_ceil(block)),
        };
        let nsid = create.nsid.or_else(|| self.free_nsid());
        let replication = create.replication.map_or(ReplicationMode::Sync, Into::into);
        self.check_replication(group, replication)?;
        let uuid = Uuid(random_uuid(&entropy[..ID_BYTES]));
        let nguid = self.make_nguid(&entropy[ID_BYTES..]);
        Ok((
            group,
            VdiskSpec {
                name,
                size,
                nsid,
                uuid,
                nguid,
                ports: PORTS_ALL,
                replication,
            },
        ))
    }

    fn vdisk_to_delete(&self, delete: &manage::VdiskDelete) -> Result<(usize, VdiskRecord), ManageError> {
        let name = delete.vdisk.as_str();
        let found = self.vdisk_record(|record| record.name.as_str() == name);
        let (group, record) = found.ok_or_else(|| ManageError::not_found("vdisk", name))?;
        let refused = |why, remedy| Err(ManageError::new(ManageError::REFUSED, why, remedy));
        let associations = self.subsystem.associations();
        let hosts = associations
            .filter(|association| association.io_queues > 0)
            .count();
        let index = u16::try_from(group).expect("a node has at most 128 groups");
        if hosts > 0 && self.access_of(index, record) == Access::Here && !delete.force {
            return refused(
                format!("{hosts} hosts are connected and may be using \"{name}\""),
                "disconnect them first, or use --force: the data is lost",
            );
        }
        let share = self.share.as_ref();
        let others = share.map_or(SlotSet::EMPTY, |share| {
            share.others_that_serve(index, record.ports)
        });
        if !others.is_empty() && !delete.force {
            return refused(
                format!("other nodes serve \"{name}\", too, and their hosts may be using it"),
                "delete its ports there first, or use --force: the data is lost",
            );
        }
        Ok((group, record.clone()))
    }

    /// The first virtual disk like this, and its group.
    pub(super) fn vdisk_record(&self, is_it: impl Fn(&VdiskRecord) -> bool) -> Option<(usize, &VdiskRecord)> {
        self.groups.iter().enumerate().find_map(|(at, group)| {
            let mut vdisks = group.machine.vdisks().iter();
            Some((at, vdisks.find(|record| is_it(record))?))
        })
    }

    fn member_to_fail(
        &self,
        fail: &manage::DriveFail,
    ) -> Result<(usize, crate::amf::MemberIndex), ManageError> {
        let group = self.group_named(&fail.group)?;
        let drive = self.drive_named(&fail.drive)?;
        match self.drive_uses[drive].member {
            Some((of, member)) if usize::from(of) == group => Ok((group, crate::amf::MemberIndex(member))),
            Some(_) | None => Err(ManageError::new(
                ManageError::INVALID,
                format!(
                    "drive \"{}\" is not a member of group \"{}\"",
                    fail.drive, fail.group
                ),
                format!("`braid group show {}` lists its members", fail.group),
            )),
        }
    }

    fn node_status(&self, now: Nanos) -> manage::NodeStatus {
        let listen = self
            .node
            .listen
            .iter()
            .map(|(address, discovery_only)| manage::ListenStatus {
                address: address.clone(),
                transport: "tcp".to_owned(),
                discovery_only: *discovery_only,
            });
        manage::NodeStatus {
            name: self.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nqn: self.nqn.clone(),
            serial: self.serial.clone(),
            pid: std::process::id(),
            uptime_ms: (now - self.started_at) / 1_000_000,
            cores: self.cores,
            poll: self.node.poll.clone(),
            listen: listen.collect(),
            groups: u32::try_from(self.groups.len()).expect("few"),
            vdisks: u32::try_from(self.vdisk_list().len()).expect("few"),
            controllers: u32::try_from(self.subsystem.associations().count()).expect("few"),
            notes: self.node.notes.clone(),
        }
    }

    pub(super) fn group_status(&self, group: &GroupControl) -> manage::GroupStatus {
        let snapshot = group.machine.snapshot();
        let block = u64::from(snapshot.block.bytes());
        let members = snapshot.members.iter().map(|member| manage::MemberStatus {
            index: member.member.0,
            drive: member.label.clone(),
            state: match member.status {
                MemberStatus::Active => manage::MemberState::Active,
                MemberStatus::Rebuilding => manage::MemberState::Rebuilding,
                MemberStatus::Lost(_) if member.drive.is_none() => manage::MemberState::Missing,
                MemberStatus::Lost(_) => manage::MemberState::Failed,
            },
            reason: match member.status {
                MemberStatus::Active | MemberStatus::Rebuilding => None,
                MemberStatus::Lost(reason) => Some(reason.to_string()),
            },
        });
        let spares = snapshot.spares.iter().map(|spare| manage::SpareStatus {
            uuid: spare.drive_uuid.to_string(),
            drive: spare.label.clone(),
        });
        manage::GroupStatus {
            name: snapshot.name.to_string(),
            uuid: snapshot.uuid.to_string(),
            level: snapshot.level.name().to_owned(),
            state: state_of(group),
            generation: snapshot.generation,
            strip_kib: u32::try_from(u64::from(snapshot.strip_blocks) * block / 1024).expect("at most 1024"),
            block_bytes: snapshot.block.bytes(),
            capacity_bytes: snapshot.capacity_blocks * block,
            free_bytes: snapshot.free_blocks * block,
            rows: snapshot.rows,
            resync_done_rows: group.resync_done_rows(),
            expansion_done_rows: snapshot.expansion.map(|expansion| expansion.frontier),
            background: background::status_of(&group.background),
            durability: match snapshot.durability {
                Durability::None => manage::Durability::None,
                Durability::Journal => manage::Durability::Journal,
                Durability::Ram => manage::Durability::Ram,
            },
            dirty_ram: snapshot.dirty_ram,
            copies: self.copies_of(group.shared.index),
            not_served: self.why_not_served(group.shared.index).map(Into::into),
            lost_blocks: lost_blocks(&group.machine, &snapshot),
            journal_bytes: snapshot.journal.map_or(0, |journal| journal.blocks * block),
            spares: spares.collect(),
            members: members.collect(),
            vdisks: snapshot
                .vdisks
                .iter()
                .map(|vdisk| vdisk.name.to_string())
                .collect(),
        }
    }

    fn vdisk_status(&self, group: &GroupControl, record: &VdiskRecord) -> manage::VdiskStatus {
        let block_bytes = group.shared.geometry.block().bytes();
        manage::VdiskStatus {
            name: record.name.to_string(),
            group: group.shared.name.clone(),
            nsid: record.nsid,
            capacity_bytes: record.blocks * u64::from(block_bytes),
            block_bytes,
            uuid: record.uuid.to_string(),
            nguid: record.nguid.iter().map(|byte| format!("{byte:02x}")).collect(),
            state: state_of(group),
            replication: self
                .copies_of(group.shared.index)
                .map(|_| record.replication.into()),
        }
    }

    fn vdisk_list(&self) -> Vec<manage::VdiskStatus> {
        let disks = self
            .groups
            .iter()
            .flat_map(|group| group.machine.vdisks().iter().map(move |vdisk| (group, vdisk)));
        disks
            .map(|(group, record)| self.vdisk_status(group, record))
            .collect()
    }

    fn drive_list(&self) -> Vec<manage::DriveStatus> {
        (0..self.drives.len())
            .map(|drive| self.drive_status(drive))
            .collect()
    }

    pub(super) fn drive_status(&self, drive: usize) -> manage::DriveStatus {
        let spec = &self.drives[drive];
        let usage = &self.drive_uses[drive];
        let member = usage.member.map(|(group, member)| {
            let group = &self.groups[usize::from(group)];
            let snapshot = group.machine.snapshot();
            (
                group.shared.name.clone(),
                member,
                snapshot.members[usize::from(member)].status,
            )
        });
        let (kind, path) = match &spec.medium {
            Medium::File {
                path, is_block: true, ..
            } => (manage::DriveKind::Block, Some(path)),
            Medium::File {
                path,
                is_block: false,
                ..
            } => (manage::DriveKind::File, Some(path)),
            Medium::Memory(_) => (manage::DriveKind::Memory, None),
            Medium::Fabric(_) => (manage::DriveKind::Fabric, None),
        };
        let place = path.map(|path| path.display().to_string());
        let place = place.or_else(|| self.place_on_shelf(drive));
        let (state, reason) = match &member {
            Some((_, _, MemberStatus::Active)) => (manage::DriveState::Member, None),
            Some((_, _, MemberStatus::Rebuilding)) => (manage::DriveState::Rebuilding, None),
            Some((_, _, MemberStatus::Lost(reason))) => {
                (manage::DriveState::Failed, Some(reason.to_string()))
            }
            None if self.spare_of(drive).is_some() => (manage::DriveState::Spare, None),
            None if matches!(usage.existing, Found::Blank) => (manage::DriveState::Free, None),
            None => (manage::DriveState::Foreign, usage.finding.clone()),
        };
        manage::DriveStatus {
            name: spec.name.clone(),
            kind,
            path: place,
            state,
            capacity_bytes: spec.bytes,
            block_bytes: spec.logical_block_bytes,
            group: member.as_ref().map(|(group, ..)| group.clone()),
            member_index: member.as_ref().map(|(_, member, _)| *member),
            reads: usage.reads,
            writes: usage.writes,
            read_bytes: usage.read_bytes,
            written_bytes: usage.written_bytes,
            forced_writes: usage.forced,
            flushes: usage.flushes,
            errors: usage.errors,
            reason,
            health: self.health[drive].status(),
        }
    }

    fn host_list(&self, now: Nanos) -> Vec<manage::HostStatus> {
        self.subsystem
            .associations()
            .map(|association| {
                let facts = self.controllers.get(&association.cntlid);
                let discovery = association.kind == nvme::identify::ControllerKind::Discovery;
                let subsystem = if discovery {
                    nvme::nqn::Nqn::DISCOVERY.as_str().to_owned()
                } else {
                    self.nqn.clone()
                };
                manage::HostStatus {
                    cntlid: association.cntlid,
                    host_nqn: association.host.as_str().to_owned(),
                    subsystem_nqn: subsystem,
                    address: facts.map(|facts| facts.address.clone()).unwrap_or_default(),
                    io_queues: u16::try_from(association.io_queues).expect("bounded by the configuration"),
                    keep_alive_ms: association.kato_ms,
                    connected_ms: facts.map_or(0, |facts| (now - facts.since) / 1_000_000),
                }
            })
            .collect()
    }
}

/// As many identities derived from a call's random bytes.
fn derived_ids(entropy: &[u8], count: usize) -> Vec<Uuid> {
    (0..count).map(|number| derived_id(entropy, number)).collect()
}

/// An identity derived from a call's random bytes: a version 5 UUID of them and a number.
fn derived_id(entropy: &[u8], number: usize) -> Uuid {
    let space =
        uuid::Builder::from_random_bytes(entropy[..ID_BYTES].try_into().expect("16 bytes")).into_uuid();
    Uuid(uuid::Uuid::new_v5(&space, &number.to_le_bytes()).into_bytes())
}

fn state_of(group: &GroupControl) -> manage::GroupState {
    match group.machine.snapshot().state {
        GroupState::Failed(_) => manage::GroupState::Failed,
        GroupState::Degraded => manage::GroupState::Degraded,
        GroupState::Opening | GroupState::Healthy | GroupState::Stopped if group.is_resyncing() => {
            manage::GroupState::Resyncing
        }
        GroupState::Opening | GroupState::Healthy | GroupState::Stopped => manage::GroupState::Healthy,
    }
}

/// The management plane's word for a refusal of a group.
fn refusal(error: RequestError) -> ManageError {
    let code = match error {
        RequestError::NotOpen
        | RequestError::Busy
        | RequestError::AlreadyLeaving(_)
        | RequestError::ExpansionRunning
        | RequestError::RebuildRunning => ManageError::BUSY,
        RequestError::GroupFailed
        | RequestError::Led
        | RequestError::LastPort(_)
        | RequestError::WouldLoseData(_)
        | RequestError::Resynchronising(_)
        | RequestError::NoRedundancy
        | RequestError::NotLost(_)
        | RequestError::DriveInUse
        | RequestError::DriveTooSmall { .. }
        | RequestError::DriveBlock { .. }
        | RequestError::DriveNotBlank { .. }
        | RequestError::NotExpandable
        | RequestError::OddNumber
        | RequestError::NotHealthy
        | RequestError::NoScratch
        | RequestError::ShortLanes
        | RequestError::TooFewRows => ManageError::REFUSED,
        RequestError::DriveUnreadable | RequestError::DriveRefused => ManageError::DRIVE,
        RequestError::NoSuchMember(_)
        | RequestError::NoSuchVdisk(_)
        | RequestError::NoSuchPort(_)
        | RequestError::NoSuchSpare => ManageError::NOT_FOUND,
        RequestError::AlreadyLost(_)
        | RequestError::PortExists(_)
        | RequestError::NameTaken
        | RequestError::NsidTaken(_)
        | RequestError::Identity => ManageError::EXISTS,
        RequestError::Nsid(_)
        | RequestError::Empty
        | RequestError::Shrinks { .. }
        | RequestError::NoDrives
        | RequestError::TooManyMembers
        | RequestError::DriveTwice => ManageError::INVALID,
        RequestError::NoSpace { .. }
        | RequestError::NoSpaceBehind { .. }
        | RequestError::TooManyVdisks
        | RequestError::TooManySpares => ManageError::NO_SPACE,
    };
    let text = error.to_string();
    let (message, remedy) = text.split_once(": ").unwrap_or((&text, ""));
    ManageError::new(code, message, remedy)
}

/// What a new group's writes wait for: the journal, where there is redundancy to protect, if nobody says otherwise.
const fn durability_of(wanted: Option<manage::Durability>, level: Level) -> Durability {
    match wanted {
        None if level.is_redundant() => Durability::Journal,
        None | Some(manage::Durability::None) => Durability::None,
        Some(manage::Durability::Journal) => Durability::Journal,
        Some(manage::Durability::Ram) => Durability::Ram,
    }
}

fn no_memory_left() -> ManageError {
    ManageError::new(
        ManageError::BUSY,
        "the running cores have no memory left for the row operations or the journal of this group",
        "name the group in the configuration with `create = true` and restart the node",
    )
}
