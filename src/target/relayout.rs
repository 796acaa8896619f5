//! One core's part in an expansion: rows that it holds for a wave, and the layout in which it looks blocks up.

use reactor::Io;

use super::core::Core;
use super::message::{ControlMessage, Message};
use crate::amf::expansion::{HeldRows, Layout};

impl Core {
    /// Lets no operation begin in these rows; when nothing of this core is left in them, the control core hears of it.
    pub(super) fn hold_rows(&mut self, io: &mut Io<Message>, group: u16, rows: HeldRows, wave: u64) {
        let binding = &mut self.groups[usize::from(group)];
        binding.held_wave = wave;
        binding.engine.hold_range(rows, &mut binding.actions);
        self.pump(io, group);
    }

    /// Nothing of this core is left in the rows that it holds.
    pub(super) fn rows_held(&mut self, io: &mut Io<Message>, group: u16) {
        let wave = self.groups[usize::from(group)].held_wave;
        self.tell_control(io, ControlMessage::RowsHeld { group, wave });
    }

    /// Looks blocks up in this layout from now on, and holds no rows any more.
    pub(super) fn set_layout(&mut self, io: &mut Io<Message>, group: u16, layout: Layout) {
        let binding = &mut self.groups[usize::from(group)];
        binding.engine.set_layout(layout, &mut binding.actions);
        self.tell_control(io, ControlMessage::LayoutSet { group });
        self.pump(io, group);
    }
}
