//! Writes whose data comes bit by bit, while parts of them are under way already.

use super::{CommandId, JUNK, Owed, Request, World};

/// What a host sends, and how many blocks of it are there.
pub struct Data {
    blocks: Vec<u8>,
    there: usize,
}

impl World {
    /// A write of which so many blocks are in the command's buffer. The others come in some order with everything else, and until then the buffer has junk in their place.
    pub fn submit_part(&mut self, core: usize, command: u32, request: Request, there: usize) {
        let buffer = &mut self.cores[core].buffers[command as usize];
        let blocks = buffer.clone();
        buffer[there..].fill(JUNK);
        let data = Data { blocks, there };
        let command = CommandId(command);
        self.cores[core].owed.push(Owed::Data(command));
        self.cores[core].arriving.insert(command, data);
        let (mut out, arrived) = (Vec::new(), u32::try_from(there).expect("short"));
        self.cores[core]
            .engine
            .submit_part(command, request, arrived, &mut out);
        self.act(core, out);
    }

    pub(super) fn more_comes(&mut self, core: usize, command: CommandId) {
        let mut data = self.cores[core]
            .arriving
            .remove(&command)
            .expect("it sends something");
        let last = data.there;
        data.there += 1 + self.random.index(data.blocks.len() - last);
        let arrived = u32::try_from(data.there).expect("short");
        let buffer = &mut self.cores[core].buffers[command.0 as usize];
        buffer[last..data.there].copy_from_slice(&data.blocks[last..data.there]);
        if data.there < data.blocks.len() {
            self.cores[core].owed.push(Owed::Data(command));
            self.cores[core].arriving.insert(command, data);
        }
        let mut out = Vec::new();
        self.cores[core].engine.arrived(command, arrived, &mut out);
        self.act(core, out);
    }

    /// The command is over: nothing of it is awaited any more.
    pub(super) fn nothing_comes(&mut self, core: usize, command: CommandId) {
        if self.cores[core].arriving.remove(&command).is_some() {
            self.cores[core].owed.retain(|owed| *owed != Owed::Data(command));
        }
    }
}
