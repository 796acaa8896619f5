//! Making the array: labels on blank drives, the first one before all others, and then the first epoch.

use std::sync::mpsc::SyncSender;

use reactor::Io;

use super::{Making, Order, Seat, Then, Why, index_of};
use crate::icl::membership::DriveSet;
use crate::icl::membership::label::{Label, voters_of};
use crate::icl::membership::machine::{Event, Machine};
use crate::icl::membership::status::Stage;
use crate::target::council::desk;
use crate::target::council::drives::State;
use crate::target::council::seat::status::state_text;
use crate::target::host::Outcome;

impl Seat {
    pub(super) fn create(&mut self, io: &mut Io<Order>, answer: SyncSender<Result<(), String>>) {
        let is_blank = |drive: &usize| self.drives.get(*drive).state == State::Blank;
        let mut blank = (0..self.setup.drives.len()).filter(is_blank);
        let first = blank.next();
        let machine = self.machine.as_ref();
        let is_labelled = machine.is_some_and(|machine| machine.status(io.now()).stage == Stage::Blank);
        if is_labelled && first.is_none() && !self.is_beginning() {
            // Whoever wrote the labels was stopped before the first epoch.
            self.machine_event(io, Event::Format);
            let _ = answer.send(Ok(())); // Whoever asked may have gone.
            return;
        }
        let later: Vec<usize> = blank.collect();
        let first = match (self.cannot_create(), first) {
            (None, Some(first)) => first,
            (why, _) => {
                let why = why.unwrap_or_else(|| "no drive is blank".to_owned());
                let _ = answer.send(Err(why)); // Likewise.
                return;
            }
        };
        // The first drive's label goes before all others, so that whoever finds some of them knows from its records, as it votes, whether
        // an epoch has ever begun.
        self.making = Some(Making {
            answer,
            later,
            left: 1,
            failed: None,
        });
        self.make(first);
    }

    /// Whether the labels are written and somebody has this node begin the first epoch.
    fn is_beginning(&self) -> bool {
        self.machine.as_ref().is_some_and(Machine::wants_format)
    }

    /// Has a drive become one of the array.
    pub(super) fn make(&mut self, drive: usize) {
        if self.claimed.contains(&drive) {
            self.hold_keys(drive);
        } else {
            self.claim(drive, Then::Label);
        }
    }

    pub(super) fn hold_keys(&mut self, drive: usize) {
        let namespace = self.drives.get(drive).namespace;
        let namespace = namespace.expect("it is blank, and so there");
        self.ask(drive, Why::HoldKeys, desk::hold_keys(&namespace, true));
    }

    pub(super) fn write_label(&mut self, drive: usize) {
        let namespace = self.drives.get(drive).namespace;
        let namespace = namespace.expect("what is known of a namespace is kept when its shelf is gone");
        let count = self.setup.drives.len();
        let drives: DriveSet = (0..count).filter_map(index_of).collect();
        let label = Label {
            array: self.setup.array(),
            name: self.setup.name.clone(),
            drive: index_of(drive).expect("an array has at most 64 drives"),
            namespace: namespace.uuid,
            drives,
            voters: voters_of(drives.count(), self.setup.failures),
        };
        let write = desk::write_label(&namespace, &label.encode());
        self.ask(drive, Why::WriteLabel, write);
    }

    pub(super) fn cannot_create(&self) -> Option<String> {
        if self.making.is_some() || self.is_beginning() {
            return Some("the array is being made. `braid array show` says how far it is".to_owned());
        }
        if self.setup.drives.is_empty() {
            return Some("the configuration names no drives of a shelf".to_owned());
        }
        // A node that was stopped while it wrote labels left some of them, and it may be made to the end: if they are those that would be
        // written now, and no epoch has begun.
        if let Some(machine) = &self.machine
            && !machine.has_found_blank(DriveSet(1))
        {
            return Some("the array exists: its drives have labels. `braid array show` says more".to_owned());
        }
        let all: DriveSet = (0..self.setup.drives.len()).filter_map(index_of).collect();
        let planned = (all, voters_of(all.count(), self.setup.failures));
        if self.drives.array().is_some_and(|array| array != planned) {
            return Some(
                "some drives have labels of an array with other drives, or with other failures that it survives".to_owned(),
            );
        }
        let is_fit = |place: usize| match self.drives.get(place).state {
            State::Blank => true,
            State::Member(index) => Some(index) == index_of(place),
            State::Away | State::Draining | State::Reading | State::Unfit(_) => false,
        };
        let named: Vec<String> = (0..self.setup.drives.len())
            .filter(|place| !is_fit(*place))
            .map(|place| (&self.setup.drives[place].name, &self.drives.get(place).state))
            .map(|(name, state)| format!("drive \"{name}\": {}", state_text(state)))
            .collect();
        (!named.is_empty()).then(|| format!("all drives have to be there and blank; {}", named.join("; ")))
    }

    pub(super) fn label_written(&mut self, io: &mut Io<Order>, drive: usize, outcome: &Outcome) {
        let Some(making) = &mut self.making else { return };
        let is_done = matches!(outcome, Ok(answer) if answer.status.is_success());
        if !is_done {
            let name = &self.setup.drives[drive].name;
            making.failed = Some(format!(
                "the label of drive \"{name}\" could not be written; those of others may be. Look at the shelf and try again"
            ));
        }
        making.left -= 1;
        if making.left > 0 {
            return;
        }
        let later = std::mem::take(&mut making.later);
        if making.failed.is_none() && !later.is_empty() {
            making.left = later.len();
            for drive in later {
                self.make(drive);
            }
            return;
        }
        let Making { answer, failed, .. } = self.making.take().expect("it is being made");
        let result = failed.map_or(Ok(()), Err);
        if result.is_ok() {
            tracing::info!(array = %self.setup.name, drives = self.setup.drives.len(), "the array is made");
            let count = self.setup.drives.len();
            let all: DriveSet = (0..count).filter_map(index_of).collect();
            self.begin(io, all, voters_of(all.count(), self.setup.failures));
            self.machine_event(io, Event::Format);
        }
        for drive in 0..self.setup.drives.len() {
            if self.drives.look_again(drive) {
                self.read_label(drive);
            }
        }
        let _ = answer.send(result); // Whoever asked may have gone.
    }
}
