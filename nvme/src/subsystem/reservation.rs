//! Reservations within the subsystem: commands of hosts to the machine of their namespace, and what that wants to the runtime.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::SubmissionEntry;
use crate::feature::fid;
use crate::identify::Reservable;
use crate::reservation::machine::{self, Ask, Machine};
use crate::reservation::{self, HostId, HostName, Life, Notice, Order, State, admission};
use crate::status::Status;

use super::passing::Passing;
use super::{Action, Command, Namespace, QueueId, QueueState, Reply, Subsystem};

/// Invalid Field in Command, for good.
const INVALID: Status = Status::INVALID_FIELD.do_not_retry();
/// Invalid Namespace or Format, for good.
const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.do_not_retry();
/// NSID that stands for every namespace.
const NSID_ALL: u32 = u32::MAX;
/// Reservation Notification Mask: REGPRE, RESREL and RESPRE.
const MASK_BITS: u32 = 0b1110;

/// The reservation machines of all namespaces.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    machines: BTreeMap<u32, Machine<Command>>,
    /// Of namespaces that several nodes serve: what is decided elsewhere.
    pub(super) passing: BTreeMap<u32, Passing>,
    /// What the runtime has been asked for and has not answered, by number: its namespace.
    awaited: BTreeMap<u64, u32>,
    number: u64,
}

/// Whether a Get or Set Features command is about a feature of reservations.
pub(super) fn is_feature(entry: &SubmissionEntry) -> bool {
    let [identifier, ..] = entry.dword(10).to_le_bytes();
    matches!(
        identifier,
        fid::RESERVATION_NOTIFICATION_MASK | fid::RESERVATION_PERSISTENCE | fid::KEY_EPOCHS
    )
}

impl Reservations {
    /// A namespace appeared.
    pub(super) fn add(&mut self, namespace: &Namespace) {
        let can_persist = match namespace.reservable {
            Reservable::Never => return,
            Reservable::UntilStop => false,
            Reservable::Persistently => true,
            Reservable::AcrossNodes => {
                self.passing.insert(namespace.nsid, Passing::default());
                return;
            }
        };
        let machine = Machine::new(can_persist, None);
        self.machines.insert(namespace.nsid, machine);
    }

    /// Registrants and reservation of a namespace.
    pub(super) fn state(&self, nsid: u32) -> Option<&State> {
        let passing = || Some(&self.passing.get(&nsid)?.state);
        self.machines.get(&nsid).map(Machine::state).or_else(passing)
    }

    /// Registrants and reservation of a namespace as they are going to be when the command under way is through.
    pub(super) fn next(&self, nsid: u32) -> Option<&State> {
        self.machines.get(&nsid).map(Machine::next)
    }

    /// A connection is gone: its commands that have not begun are forgotten.
    pub(super) fn withdraw(&mut self, queue: QueueId) {
        for machine in self.machines.values_mut() {
            machine.withdraw(|command| command.queue == queue);
        }
        for passing in self.passing.values_mut() {
            passing.withdraw(queue);
        }
    }

    /// Whether a command is under way whose connection is gone.
    pub(super) fn has_orphans(&self) -> bool {
        let mut passing = self.passing.values();
        self.machines.values().any(Machine::is_orphaned) || passing.any(Passing::is_orphaned)
    }

    pub(super) fn passing_mut(&mut self, nsid: u32) -> Option<&mut Passing> {
        self.passing.get_mut(&nsid)
    }

    /// Whether hosts can reserve this namespace.
    fn knows(&self, nsid: u32) -> bool {
        self.machines.contains_key(&nsid) || self.passing.contains_key(&nsid)
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The namespace that an answer is for; `None` if it has gone since.
    fn answered(&mut self, number: u64) -> Option<(u32, &mut Machine<Command>)> {
        let nsid = self.awaited.remove(&number)?;
        Some((nsid, self.machines.get_mut(&nsid)?))
    }
}

impl Subsystem {
    /// Executes a reservation command of an I/O queue.
    pub(super) fn reservation_command(
        &mut self,
        cntlid: u16,
        command: Command,
        data: &[u8],
        out: &mut Vec<Action>,
    ) {
        // Hosts that say nothing of who they are would all be one.
        let is_nobody = self.controller(cntlid).hostid == [0; 16];
        let asked = if is_nobody {
            Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry())
        } else {
            self.parse_reservation(&command, data)
        };
        match asked {
            Ok(asked) => self.ask(cntlid, command.entry.nsid(), command, asked, out),
            Err(status) => command.complete(Reply::failure(status), out),
        }
    }

    /// Executes the vendor specific admin command about which lives of a host are let in.
    pub(super) fn admission_command(
        &mut self,
        cntlid: u16,
        command: &Command,
        data: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Status> {
        // Where no namespace could keep it there is no such command, whatever namespace it names.
        if !self.reservations.machines.values().any(Machine::can_persist) {
            return Err(Status::INVALID_OPCODE.do_not_retry());
        }
        let nsid = command.entry.nsid();
        let namespace = self.namespaces.get(&nsid).ok_or(NO_NAMESPACE)?;
        let nsid = namespace.admission_of.unwrap_or(nsid);
        let machine = self.reservations.machines.get(&nsid);
        if !machine.is_some_and(Machine::can_persist) {
            return Err(Status::INVALID_OPCODE.do_not_retry());
        }
        let own = self.life(cntlid);
        if own.host == HostId([0; 16]) {
            return Err(Status::COMMAND_SEQUENCE_ERROR.do_not_retry());
        }
        let asked = admission::parse(&command.entry, data, own)?;
        self.ask(cntlid, nsid, *command, asked, out);
        Ok(None)
    }

    /// Whose association this is.
    fn life(&self, cntlid: u16) -> Life {
        let controller = self.controller(cntlid);
        Life {
            name: HostName::of(&controller.host),
            host: HostId(controller.hostid),
        }
    }

    fn parse_reservation(&self, command: &Command, data: &[u8]) -> Result<reservation::Command, Status> {
        let entry = &command.entry;
        let namespace = self.namespaces.get(&entry.nsid());
        if let Some(refusal) = namespace.and_then(|namespace| namespace.access.refusal()) {
            return Err(refusal);
        }
        if !self.reservations.knows(entry.nsid()) {
            let is_there = self.namespaces.contains_key(&entry.nsid());
            return Err(if is_there {
                Status::INVALID_OPCODE.do_not_retry()
            } else {
                NO_NAMESPACE
            });
        }
        if entry.fuse() != 0 || command.data_bytes() > self.config.max_transfer_bytes {
            return Err(INVALID);
        }
        let asked = reservation::Command::parse(entry, data)?;
        if let reservation::Command::Report {
            extended,
            length_bytes,
        } = asked
        {
            if length_bytes > u64::from(command.data_bytes()) {
                return Err(Status::DATA_SGL_LENGTH_INVALID.do_not_retry());
            }
            // Host identifiers have 128 bits over Fabrics, and would not fit the shorter form.
            if !extended {
                return Err(Status::HOST_ID_INCONSISTENT.do_not_retry());
            }
        }
        Ok(asked)
    }

    /// Hands a command to the machine of its namespace, which is there.
    fn ask(
        &mut self,
        cntlid: u16,
        nsid: u32,
        name: Command,
        command: reservation::Command,
        out: &mut Vec<Action>,
    ) {
        let life = self.life(cntlid);
        if self.reservations.passing.contains_key(&nsid) {
            return self.pass(nsid, name, (life.host, command), out);
        }
        let ask = Ask {
            name,
            host: life.host,
            host_name: life.name,
            command,
        };
        let mut actions = Vec::new();
        let machine = self.reservations.machines.get_mut(&nsid);
        let machine = machine.expect("the caller has found the namespace");
        machine.ask(ask, &mut actions);
        self.run_machine(nsid, actions, out);
    }

    /// What was kept of a namespace's reservations holds from now on.
    ///
    /// Panics if there is no such namespace, or if a host was there before.
    pub(super) fn restore_reservations(&mut self, nsid: u32, state: State, out: &mut Vec<Action>) {
        let machine = self.reservations.machines.get_mut(&nsid);
        let machine = machine.expect("a namespace is added before its reservations");
        assert!(
            machine.state() == &State::default() && !machine.is_busy(),
            "reservations are restored before hosts come"
        );
        *machine = Machine::new(machine.can_persist(), Some(state));
        self.enforce_unasked(nsid, out);
    }

    /// Tells the cores the rules as they are; nobody waits for that.
    fn enforce_unasked(&mut self, nsid: u32, out: &mut Vec<Action>) {
        let number = self.reservations.next_number();
        let rules = self.reservations.state(nsid).map(State::rules);
        out.push(Action::EnforceReservation(Order {
            number,
            nsid,
            beside: self.beside(nsid),
            rules: Arc::new(rules.unwrap_or_default()),
            abort: Arc::default(),
            bars: false,
        }));
    }

    /// The namespace whose admission this one decides about, too.
    fn beside(&self, nsid: u32) -> Option<u32> {
        let mut all = self.namespaces.values();
        all.find(|other| other.admission_of == Some(nsid))
            .map(|other| other.nsid)
    }

    /// A namespace appeared: its own machine begins, or what another one says of who is admitted holds for it, too.
    pub(super) fn add_reservations(&mut self, namespace: &Namespace, out: &mut Vec<Action>) {
        self.reservations.add(namespace);
        let of = namespace.admission_of;
        if let Some(nsid) = of.filter(|nsid| self.reservations.state(*nsid).is_some()) {
            self.enforce_unasked(nsid, out);
        }
    }

    /// A namespace disappeared.
    pub(super) fn end_reservations(&mut self, nsid: u32, out: &mut Vec<Action>) {
        if let Some(passing) = self.reservations.passing.remove(&nsid) {
            for command in passing.end() {
                self.end_reservation(&command, NO_NAMESPACE, Vec::new(), out);
            }
            self.finish_resets(out);
            return self.enforce_unasked(nsid, out);
        }
        let Some(mut machine) = self.reservations.machines.remove(&nsid) else {
            return;
        };
        self.reservations.awaited.retain(|_, of| *of != nsid);
        let mut actions = Vec::new();
        machine.end(&mut actions);
        self.run_machine(nsid, actions, out);
        self.enforce_unasked(nsid, out);
    }

    /// The cores hold commands to rules that they were told.
    pub(super) fn reservation_enforced(&mut self, number: u64, out: &mut Vec<Action>) {
        let mut actions = Vec::new();
        if let Some((nsid, machine)) = self.reservations.answered(number) {
            machine.enforced(&mut actions);
            self.run_machine(nsid, actions, out);
        }
    }

    /// What was to be made durable is, or is not.
    pub(super) fn reservation_kept(&mut self, number: u64, succeeded: bool, out: &mut Vec<Action>) {
        let mut actions = Vec::new();
        if let Some((nsid, machine)) = self.reservations.answered(number) {
            machine.persisted(succeeded, &mut actions);
            self.run_machine(nsid, actions, out);
        }
    }

    fn run_machine(&mut self, nsid: u32, actions: Vec<machine::Action<Command>>, out: &mut Vec<Action>) {
        for action in actions {
            match action {
                machine::Action::Persist(state) => {
                    let number = self.await_answer(nsid);
                    out.push(Action::PersistReservation { number, nsid, state });
                }
                machine::Action::Enforce { rules, abort, bars } => {
                    let number = self.await_answer(nsid);
                    out.push(Action::EnforceReservation(Order {
                        number,
                        nsid,
                        beside: self.beside(nsid),
                        rules: Arc::new(rules),
                        abort: Arc::new(abort),
                        bars,
                    }));
                }
                machine::Action::Notify { host, notice } => {
                    self.reservation_lost(nsid, host, notice);
                    self.tell_notices(out);
                }
                machine::Action::Complete { name, status, data } => {
                    self.end_reservation(&name, status, data, out)
                }
            }
        }
        self.finish_resets(out);
    }

    /// Notes for all controllers of a host that it lost something.
    pub(super) fn reservation_lost(&mut self, nsid: u32, host: HostId, notice: Notice) {
        let controllers = self.controllers.values_mut();
        for controller in controllers.filter(|it| it.hostid == host.0) {
            controller.reservation_lost(nsid, notice);
        }
    }

    fn await_answer(&mut self, nsid: u32) -> u64 {
        let number = self.reservations.next_number();
        self.reservations.awaited.insert(number, nsid);
        number
    }

    /// Completes a command whose connection may be closing by now.
    pub(super) fn end_reservation(
        &self,
        command: &Command,
        status: Status,
        data: Vec<u8>,
        out: &mut Vec<Action>,
    ) {
        let queue = self.queues.get(&command.queue).map(|queue| &queue.state);
        if matches!(queue, Some(QueueState::Io { .. } | QueueState::Admin { .. })) {
            let reply = Reply {
                result: 0,
                status,
                data,
            };
            command.complete(reply, out);
        }
    }

    /// Executes Get Features of a reservation feature.
    ///
    /// Source: NVM Express Base Specification 2.0, Reservation Notification Mask and Reservation Persistence; the vendor specific one is
    /// described in [`reservation::floors`].
    pub(super) fn reservation_feature(&self, cntlid: u16, entry: &SubmissionEntry) -> Result<Reply, Status> {
        let [identifier, select, ..] = entry.dword(10).to_le_bytes();
        let nsid = entry.nsid();
        if nsid == NSID_ALL {
            return Err(INVALID);
        }
        let state = self.reservations.state(nsid).ok_or(NO_NAMESPACE)?;
        let value = match select & 7 {
            0 if identifier == fid::RESERVATION_PERSISTENCE => u32::from(state.persists),
            0 if identifier == fid::KEY_EPOCHS => u32::from(state.floors.is_some()),
            0 => {
                let masks = &self.controller(cntlid).reservations.masks;
                masks.get(&nsid).copied().unwrap_or(0)
            }
            1 | 2 => 0,
            3 => 0b110,
            _ => return Err(INVALID),
        };
        Ok(Reply::success(u64::from(value)))
    }

    /// Executes Set Features of a reservation feature. Persistence and epochs of keys change what has to be durable, and so take their
    /// turn among the reservation commands.
    pub(super) fn set_reservation_feature(
        &mut self,
        cntlid: u16,
        command: &Command,
        out: &mut Vec<Action>,
    ) -> Result<Option<Reply>, Status> {
        let entry = &command.entry;
        let [identifier, _, _, save] = entry.dword(10).to_le_bytes();
        let nsid = entry.nsid();
        if save & 0x80 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.do_not_retry());
        }
        let known = self.reservations.knows(nsid);
        let on = entry.dword(11) & 1 == 1;
        let asked = match identifier {
            fid::RESERVATION_PERSISTENCE => Some(reservation::Command::SetPersistence(on)),
            // The keys of a shelf's drives are, and those have a machine of their own.
            fid::KEY_EPOCHS if self.reservations.passing.contains_key(&nsid) => return Err(INVALID),
            fid::KEY_EPOCHS => Some(reservation::Command::SetFloors(on)),
            _ => None,
        };
        if let Some(asked) = asked {
            if !known {
                return Err(if nsid == NSID_ALL { INVALID } else { NO_NAMESPACE });
            }
            self.ask(cntlid, nsid, *command, asked, out);
            return Ok(None);
        }
        if !known && nsid != NSID_ALL {
            return Err(NO_NAMESPACE);
        }
        let mask = entry.dword(11) & MASK_BITS;
        let meant: Vec<u32> = match nsid {
            NSID_ALL => {
                let Reservations {
                    machines, passing, ..
                } = &self.reservations;
                machines.keys().chain(passing.keys()).copied().collect()
            }
            nsid => vec![nsid],
        };
        let masks = &mut self.controller_mut(cntlid).reservations.masks;
        masks.extend(meant.into_iter().map(|nsid| (nsid, mask)));
        Ok(Some(Reply::success(0)))
    }
}
