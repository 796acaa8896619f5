//! Admin commands of a connected controller.

use crate::access;
use crate::command::{SubmissionEntry, admin_opcode};
use crate::fabrics::{PropertyAccess, fctype};
use crate::identify::{self, ABORT_LIMIT, ControllerFacts, ControllerKind, NamespaceFacts, cns};
use crate::log::{self, ErrorEntry, LogRequest, lid};
use crate::nqn::Nqn;
use crate::status::Status;

use super::controller::{AbortWait, Change};
use super::reservation;
use super::{
    Action, CloseReason, Command, NAMESPACES_MAX, Namespace, QueueId, QueueState, Reply, Report, Subsystem,
    tell,
};

/// Aborts that one controller has under way.
const ABORTS_MAX: usize = ABORT_LIMIT as usize + 1;

/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();

/// Log pages of an I/O controller.
const IO_LOG_PAGES: [u8; 12] = [
    lid::SUPPORTED_PAGES,
    lid::ERROR,
    lid::SMART,
    lid::FIRMWARE_SLOT,
    lid::CHANGED_NAMESPACES,
    lid::EFFECTS,
    lid::ASYMMETRIC_ACCESS,
    lid::FEATURE_EFFECTS,
    lid::MI_EFFECTS,
    lid::CROSS_CONTROLLER_RESET,
    lid::RESERVATION,
    lid::INSTANCE,
];

/// What a command leads to: its end, or nothing yet.
type Outcome = Result<Option<Reply>, Status>;

/// An Abort's answer: bit 0 of dword 0 says that the command was *not* aborted.
const fn abort_reply(aborted: bool) -> Reply {
    Reply::success(!aborted as u64)
}

impl Subsystem {
    /// Executes one command of an admin queue.
    pub(super) fn admin_command(
        &mut self,
        now_ns: u64,
        cntlid: u16,
        command: Command,
        data: &[u8],
        out: &mut Vec<Action>,
    ) {
        self.controller_mut(cntlid).heard(now_ns);
        match self.execute(now_ns, cntlid, &command, data, out) {
            Ok(Some(reply)) => command.complete(reply, out),
            Ok(None) => {}
            Err(status) => {
                let entry = &command.entry;
                let (cid, nsid) = (entry.cid(), entry.nsid());
                let error = ErrorEntry {
                    count: 0,
                    sqid: 0,
                    cid,
                    status,
                    lba: 0,
                    nsid,
                };
                self.controller_mut(cntlid).errors.push(error);
                command.complete(Reply::failure(status), out);
            }
        }
        // A command may have made room for an event, or read the page of one.
        tell(self.controller_mut(cntlid), out);
    }

    fn execute(
        &mut self,
        now_ns: u64,
        cntlid: u16,
        command: &Command,
        data: &[u8],
        out: &mut Vec<Action>,
    ) -> Outcome {
        let entry = &command.entry;
        if entry.fuse() != 0 || command.data_bytes() > self.config.max_transfer_bytes {
            return Err(INVALID);
        }
        if let Some(fctype) = command.fctype() {
            return self.fabrics_command(cntlid, fctype, entry, out);
        }
        let controller = self.controller_mut(cntlid);
        if !controller.is_ready() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
        }
        let is_io = controller.kind == ControllerKind::Io;
        match entry.opcode() {
            admin_opcode::GET_LOG_PAGE => self.log_page(cntlid, entry).map(Some),
            admin_opcode::IDENTIFY => self.identify(cntlid, entry).map(Reply::data).map(Some),
            admin_opcode::ABORT if is_io => self.abort(cntlid, command, out),
            admin_opcode::SET_FEATURES if is_io && reservation::is_feature(entry) => {
                self.set_reservation_feature(cntlid, command, out)
            }
            admin_opcode::GET_FEATURES if is_io && reservation::is_feature(entry) => {
                self.reservation_feature(cntlid, entry).map(Some)
            }
            admin_opcode::SET_FEATURES => {
                let open = !controller.io.is_empty();
                let result = controller.features.write(entry, data, open, now_ns)?;
                Ok(Some(Reply::success(u64::from(result))))
            }
            admin_opcode::GET_FEATURES => {
                let value = controller.features.read(entry, now_ns)?;
                let result = u64::from(value.result);
                Ok(Some(Reply {
                    result,
                    status: Status::SUCCESS,
                    data: value.data,
                }))
            }
            admin_opcode::ASYNC_EVENT_REQUEST => {
                controller.await_event(command.slot, entry.cid())?;
                Ok(None)
            }
            admin_opcode::KEEP_ALIVE => Ok(Some(Reply::success(0))),
            admin_opcode::ADMISSION if is_io => self.admission_command(cntlid, command, data, out),
            admin_opcode::CROSS_CONTROLLER_RESET if is_io => self.reset_other(cntlid, entry, out).map(Some),
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    fn fabrics_command(
        &mut self,
        cntlid: u16,
        fctype: u8,
        entry: &SubmissionEntry,
        out: &mut Vec<Action>,
    ) -> Outcome {
        let access = PropertyAccess::parse(entry);
        match fctype {
            fctype::PROPERTY_GET => {
                let value = self.controller(cntlid).property(access)?;
                Ok(Some(Reply::success(value)))
            }
            fctype::PROPERTY_SET => {
                let change = self.controller_mut(cntlid).set_property(access)?;
                self.configured(cntlid, change, access, out);
                Ok(Some(Reply::success(0)))
            }
            _ => Err(Status::INVALID_OPCODE.do_not_retry()),
        }
    }

    /// Does what a write to CC asks for beyond the controller itself.
    fn configured(&mut self, cntlid: u16, change: Change, access: PropertyAccess, out: &mut Vec<Action>) {
        match change {
            Change::Nothing => {}
            Change::Enabled => {
                let random = self.random.draw();
                let controller = self.controller_mut(cntlid);
                controller.instance = controller.instance.checked_add(1).unwrap_or(1);
                controller.instance_random = random;
                controller.forget_resets();
                out.push(Action::Report(Report::Ready { cntlid }));
            }
            Change::Failed => {
                let cc = (access.value & 0xffff_ffff) as u32;
                out.push(Action::Report(Report::BadConfiguration { cntlid, cc }));
            }
            Change::Reset => {
                out.push(Action::Report(Report::Reset { cntlid }));
                self.withdraw_requests(cntlid, out);
                self.close_io_queues(cntlid, CloseReason::ControllerReset, out);
            }
            Change::ShutDown => {
                out.push(Action::Report(Report::ShutDown { cntlid }));
                self.close_io_queues(cntlid, CloseReason::ControllerShutdown, out);
            }
        }
    }

    /// Completes every Asynchronous Event Request as aborted: the admin queue survives a reset, and a host
    /// may use their identifiers again after it.
    fn withdraw_requests(&mut self, cntlid: u16, out: &mut Vec<Action>) {
        let controller = self.controller_mut(cntlid);
        let queue = controller.admin.expect("a reset comes over the admin queue");
        for slot in controller.withdraw_requests() {
            out.push(aborted_request(queue, slot));
        }
    }

    /// Executes Abort: at once for an Asynchronous Event Request, through the runtime for an I/O command.
    ///
    /// Source: NVM Express Base Specification 2.0, Abort command.
    fn abort(&mut self, cntlid: u16, command: &Command, out: &mut Vec<Action>) -> Outcome {
        let [low, high, cid_low, cid_high] = command.entry.dword(10).to_le_bytes();
        let (qid, cid) = (
            u16::from_le_bytes([low, high]),
            u16::from_le_bytes([cid_low, cid_high]),
        );
        let controller = self.controller_mut(cntlid);
        if qid == 0 {
            let slot = controller.withdraw_request(cid);
            out.extend(slot.map(|slot| aborted_request(command.queue, slot)));
            return Ok(Some(abort_reply(slot.is_some())));
        }
        if controller.aborts.len() >= ABORTS_MAX {
            return Err(Status::ABORT_LIMIT_EXCEEDED);
        }
        let Some(&queue) = controller.io.get(&qid) else {
            return Ok(Some(abort_reply(false)));
        };
        let queue_state = &self
            .queues
            .get(&queue)
            .expect("a controller's queues are known")
            .state;
        if matches!(queue_state, QueueState::Closing { .. }) {
            return Ok(Some(abort_reply(false)));
        }
        self.abort_token = self.abort_token.wrapping_add(1);
        let token = self.abort_token;
        self.controller_mut(cntlid).aborts.insert(
            token,
            AbortWait {
                slot: command.slot,
                queue,
            },
        );
        out.push(Action::Abort { queue, cid, token });
        Ok(None)
    }

    /// The runtime answered an Abort.
    pub(super) fn aborted(&mut self, token: u32, aborted: bool, out: &mut Vec<Action>) {
        for controller in self.controllers.values_mut() {
            if let Some(wait) = controller.aborts.remove(&token) {
                if let (Some(queue), false) = (controller.admin, controller.terminated) {
                    out.push(abort_answer(queue, wait.slot, aborted));
                }
                return;
            }
        }
    }

    /// A queue is closed: what was to be aborted on it has ended one way or another.
    pub(super) fn finish_aborts(&mut self, cntlid: u16, closed: QueueId, out: &mut Vec<Action>) {
        let controller = self.controller_mut(cntlid);
        let admin = controller.admin.filter(|_| !controller.terminated);
        controller.aborts.retain(|_, wait| {
            if wait.queue == closed {
                out.extend(admin.map(|queue| abort_answer(queue, wait.slot, false)));
            }
            wait.queue != closed
        });
    }

    /// Executes Get Log Page.
    fn log_page(&mut self, cntlid: u16, entry: &SubmissionEntry) -> Result<Reply, Status> {
        let request = LogRequest::parse(entry)?;
        if request.length_bytes > u64::from(self.config.max_transfer_bytes) {
            return Err(INVALID);
        }
        let data = match self.controller(cntlid).kind {
            ControllerKind::Io => request.cut(&self.io_log_page(cntlid, &request, entry.nsid())?)?,
            ControllerKind::Discovery if request.lid == lid::DISCOVERY => {
                // A read from the start sees what is; one that goes on sees what the start saw.
                if request.offset == 0 || self.controller(cntlid).snapshot.is_none() {
                    self.refresh_snapshot(cntlid);
                }
                let snapshot = self
                    .controller(cntlid)
                    .snapshot
                    .as_ref()
                    .expect("it was just taken");
                request.cut(&snapshot.page)?
            }
            ControllerKind::Discovery => return Err(Status::INVALID_LOG_PAGE.do_not_retry()),
        };
        if request.lid == lid::CROSS_CONTROLLER_RESET && request.specific & log::CROSS_RESETS_REMOVE != 0 {
            self.controller_mut(cntlid).forget_resets();
        }
        if !request.retain_event {
            let controller = self.controller_mut(cntlid);
            controller.event_read(request.lid);
            if request.lid == lid::CHANGED_NAMESPACES {
                controller.forget_changed_namespaces();
            }
            if request.lid == lid::RESERVATION {
                controller.reservation_read();
            }
        }
        Ok(Reply::data(data))
    }

    fn io_log_page(&self, cntlid: u16, request: &LogRequest, nsid: u32) -> Result<Vec<u8>, Status> {
        let controller = self.controller(cntlid);
        Ok(match request.lid {
            lid::SUPPORTED_PAGES => log::supported(&IO_LOG_PAGES),
            lid::ERROR => controller.errors.encode(),
            lid::SMART if matches!(nsid, 0 | u32::MAX) => self.health.encode(controller.errors.count()),
            // There is no such page for one namespace: LPA bit 0 is 0.
            lid::SMART => return Err(INVALID),
            lid::FIRMWARE_SLOT => log::firmware_slots(&self.config.firmware),
            lid::CHANGED_NAMESPACES => log::changed_namespaces(controller.changed_namespaces().as_deref()),
            lid::EFFECTS => log::command_effects(),
            lid::ASYMMETRIC_ACCESS => {
                let group = |namespace: &Namespace| {
                    let changed = self.access_changed.get(&namespace.nsid);
                    (namespace.nsid, namespace.access, changed.copied().unwrap_or(0))
                };
                let groups_only = request.specific & access::ACCESS_GROUPS_ONLY != 0;
                access::access_log(
                    self.access_changes,
                    self.namespaces.values().map(group),
                    groups_only,
                )
            }
            lid::FEATURE_EFFECTS => log::supported(&controller.features.identifiers()),
            lid::MI_EFFECTS => log::supported(&[]),
            lid::CROSS_CONTROLLER_RESET => log::cross_resets(&controller.reset_entries()),
            lid::RESERVATION => controller.reservations.page(),
            lid::INSTANCE => log::instance(self.config.instance),
            _ => return Err(Status::INVALID_LOG_PAGE.do_not_retry()),
        })
    }

    /// Executes Identify.
    ///
    /// Source: NVM Express Base Specification 2.0, Identify command.
    fn identify(&self, cntlid: u16, entry: &SubmissionEntry) -> Result<Vec<u8>, Status> {
        let [structure, _, id_low, id_high] = entry.dword(10).to_le_bytes();
        let first_cntlid = u16::from_le_bytes([id_low, id_high]);
        let command_set = entry.dword(11) >> 24;
        if structure == cns::CONTROLLER {
            return Ok(identify::controller(&self.controller_facts(cntlid)));
        }
        if self.controller(cntlid).kind == ControllerKind::Discovery {
            return Err(INVALID);
        }
        let nsid = entry.nsid();
        let by_command_set = matches!(
            structure,
            cns::COMMAND_SET_NAMESPACE | cns::COMMAND_SET_CONTROLLER | cns::COMMAND_SET_ACTIVE_NAMESPACES
        );
        if by_command_set && command_set != 0 {
            return Err(INVALID);
        }
        match structure {
            cns::NAMESPACE | cns::ALLOCATED_NAMESPACE => Ok(self
                .namespace(nsid)?
                .map_or_else(identify::empty, |it| identify::namespace(&self.facts(it)))),
            cns::COMMAND_SET_NAMESPACE => self.namespace(nsid).map(|_| identify::empty()),
            cns::INDEPENDENT_NAMESPACE => Ok(self.namespace(nsid)?.map_or_else(identify::empty, |it| {
                identify::independent_namespace(&self.facts(it))
            })),
            cns::NAMESPACE_DESCRIPTORS => {
                let namespace = self.namespace(nsid)?.ok_or(NO_NAMESPACE)?;
                Ok(identify::namespace_descriptors(&self.facts(namespace)))
            }
            cns::ACTIVE_NAMESPACES | cns::ALLOCATED_NAMESPACES | cns::COMMAND_SET_ACTIVE_NAMESPACES => {
                if nsid >= 0xffff_fffe {
                    return Err(NO_NAMESPACE);
                }
                Ok(identify::namespace_list(
                    self.namespaces.range(nsid + 1..).map(|(&nsid, _)| nsid),
                ))
            }
            cns::NAMESPACE_CONTROLLERS => {
                self.namespace(nsid)?.ok_or(NO_NAMESPACE)?;
                Ok(identify::controller_list(self.io_controllers(first_cntlid)))
            }
            cns::SUBSYSTEM_CONTROLLERS => Ok(identify::controller_list(self.io_controllers(first_cntlid))),
            cns::COMMAND_SET_CONTROLLER => Ok(identify::nvm_controller()),
            cns::NAMESPACE_GRANULARITY | cns::UUID_LIST => Ok(identify::empty()),
            cns::COMMAND_SETS if matches!(first_cntlid, u16::MAX) || first_cntlid == cntlid => {
                Ok(identify::command_sets())
            }
            _ => Err(INVALID),
        }
    }

    /// The controllers of this node that serve namespaces, from `first` on.
    fn io_controllers(&self, first: u16) -> impl Iterator<Item = u16> {
        let controllers = self.controllers.range(first..);
        controllers
            .filter(|(_, it)| it.kind == ControllerKind::Io)
            .map(|(&cntlid, _)| cntlid)
    }

    /// The namespace of an NSID; `None` if there is none now but could be one.
    fn namespace(&self, nsid: u32) -> Result<Option<&Namespace>, Status> {
        if (1..=NAMESPACES_MAX).contains(&nsid) {
            Ok(self.namespaces.get(&nsid))
        } else {
            Err(NO_NAMESPACE)
        }
    }

    fn compare_write_blocks_max(&self) -> u16 {
        u16::try_from(self.config.compare_write_blocks_max).expect("the configuration was checked")
    }

    fn facts(&self, namespace: &Namespace) -> NamespaceFacts {
        NamespaceFacts {
            nsid: namespace.nsid,
            access: namespace.access,
            format: namespace.format,
            nguid: namespace.nguid,
            uuid: namespace.uuid,
            strip_blocks: namespace.strip_blocks,
            stripe_blocks: namespace.stripe_blocks,
            atomic_write_blocks: self.config.atomic_write_blocks,
            atomic_write_blocks_power_fail: self.config.atomic_write_blocks_power_fail,
            compare_write_blocks_max: self.compare_write_blocks_max(),
            reservable: namespace.reservable,
        }
    }

    fn controller_facts(&self, cntlid: u16) -> ControllerFacts<'_> {
        let controller = self.controller(cntlid);
        let config = &self.config;
        ControllerFacts {
            kind: controller.kind,
            transport: controller.transport,
            cntlid,
            subnqn: match controller.kind {
                ControllerKind::Io => &config.nqn,
                ControllerKind::Discovery => &Nqn::DISCOVERY,
            },
            serial: &config.serial,
            model: &config.model,
            firmware: &config.firmware,
            oui: config.oui,
            max_transfer_bytes: config.max_transfer_bytes,
            in_capsule_bytes: config.in_capsule_bytes,
            queue_entries_max: config.queue_entries_max,
            namespaces_max: NAMESPACES_MAX,
            volatile_write_cache: controller.features.has_volatile_write_cache(),
            atomic_write_blocks: config.atomic_write_blocks,
            atomic_write_blocks_power_fail: config.atomic_write_blocks_power_fail,
            compare_write_blocks_max: self.compare_write_blocks_max(),
            notices: controller.features.notices(),
            instance: controller.instance,
            instance_random: controller.instance_random,
            quiesce_ms: config.command_quiesce_ms,
        }
    }
}

/// Invalid Namespace or Format, for good.
const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry();

/// The completion of an Asynchronous Event Request that tells nothing.
const fn aborted_request(queue: QueueId, slot: u16) -> Action {
    Action::Complete {
        queue,
        slot,
        result: 0,
        status: Status::COMMAND_ABORT_REQUESTED,
        data: Vec::new(),
    }
}

/// The completion of an Abort.
const fn abort_answer(queue: QueueId, slot: u16, aborted: bool) -> Action {
    Action::Complete {
        queue,
        slot,
        result: !aborted as u64,
        status: Status::SUCCESS,
        data: Vec::new(),
    }
}
