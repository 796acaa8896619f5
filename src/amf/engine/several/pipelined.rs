//! Long writes, of which some parts are locked while others come from the host and still others go to the nodes that keep them.

use std::collections::BTreeMap;

use super::super::Durability;
use super::super::executor::{Owed, Shape, World};
use super::super::{CommandId, Request};
use super::copies::Keeper;
use super::survivors::Array;
use super::{Link, Mail};
use crate::amf::replica::Replication;
use crate::amf::replication::ReplicationMode;
use crate::drive::block::GroupLba;

const ROWS: u32 = 16;
const ROW_BLOCKS: u32 = 3;

/// Three nodes that have each write in the memory of two of them; messages between them take one unit of time, and so does a row's data from the host. The writer's drives take for ever.
struct Rig {
    world: World,
    /// Messages on their way that are to arrive at the end of this unit of time.
    due: BTreeMap<(usize, usize), usize>,
    trace: Vec<Step>,
}

/// What is seen of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A message about a lock has left the writer.
    Lock,
    /// The data of a row has come from the host.
    Transfer(u32),
    /// A partner is asked to keep a batch.
    Copy,
    /// It says that it does.
    Kept,
    Done,
}

impl Rig {
    fn new() -> Self {
        let shape = Shape {
            strip: 1,
            rows: u64::from(ROWS),
            nodes: 3,
            cores: 3,
            journal: Some(Durability::Ram),
            ..Shape::SMALL
        };
        let mut array = Array::new(&shape, 1);
        let several = array.run.world.several();
        several.replication = Replication::new(2);
        several
            .keepers
            .iter_mut()
            .for_each(|keeper| *keeper = Keeper::roomy());
        array.run.world.allow_ram();
        array.serve_all();
        let mut rig = Self {
            world: array.run.world,
            due: BTreeMap::new(),
            trace: Vec::new(),
        };
        assert_eq!(rig.world.geometry.row_blocks(), ROW_BLOCKS);
        // Another node has written last: the writer holds nothing.
        for row in 0..ROWS {
            rig.world.cores[1].buffers[0] = vec![1; ROW_BLOCKS as usize];
            rig.world.submit(1, 0, request(row * ROW_BLOCKS, ROW_BLOCKS));
            rig.world.settle();
        }
        rig.world.done.clear();
        rig
    }

    /// Whatever was on its way at the beginning of a unit of time is there at its end.
    fn unit(&mut self) {
        let sent = self.world.several().links.iter();
        let sent = sent
            .filter(|((from, _), _)| *from == 0)
            .flat_map(|(_, link)| link);
        let seen = sent.filter_map(|(_, _, mail)| match mail {
            Mail::Lock(_) => Some(Step::Lock),
            Mail::Copy(_) => Some(Step::Copy),
            Mail::Data(..)
            | Mail::Hurry { .. }
            | Mail::TailMoved { .. }
            | Mail::Kept(..)
            | Mail::Sent(..)
            | Mail::Beat => None,
        });
        self.trace.extend(seen.collect::<Vec<_>>());
        let count = |link: &Link| link.len();
        self.due = self
            .world
            .several()
            .links
            .iter()
            .map(|(key, link)| (*key, count(link)))
            .collect();
        for ((from, to), count) in std::mem::take(&mut self.due) {
            for _ in 0..count {
                let mail = self.world.several().links[&(from, to)].front();
                if mail.is_some_and(|(_, _, mail)| to == 0 && matches!(mail, Mail::Kept(..))) {
                    self.trace.push(Step::Kept);
                }
                self.world.arrive(from, to);
            }
        }
        self.pay();
    }

    /// What cores have to tell each other takes no time, and only the writer's drives do.
    fn pay(&mut self) {
        let is_for_ever = |core: usize, owed: &Owed| core == 0 && matches!(owed, Owed::Drive(_));
        while let Some((core, index)) = self.world.cores.iter().enumerate().find_map(|(core, it)| {
            let index = it.owed.iter().position(|owed| !is_for_ever(core, owed))?;
            Some((core, index))
        }) {
            self.world.pay(core, index);
        }
    }

    fn is_done(&mut self, command: u32) -> bool {
        let is_done = self.world.result(0, command).is_some();
        if is_done {
            self.trace.push(Step::Done);
        }
        is_done
    }

    /// Rows from this one on as one command, whose data comes row by row. How long it took.
    fn write(&mut self, first: u32, rows: u32) -> u32 {
        let blocks = rows * ROW_BLOCKS;
        let data = vec![7; blocks as usize];
        self.world.cores[0].buffers[1] = vec![0; data.len()];
        let (mut out, mut units) = (Vec::new(), 0);
        let engine = &mut self.world.cores[0].engine;
        engine.submit_part(CommandId(1), request(first * ROW_BLOCKS, blocks), 0, &mut out);
        self.world.act(0, out);
        for row in 1..=rows {
            self.unit();
            units += 1;
            let there = (row * ROW_BLOCKS) as usize;
            self.world.cores[0].buffers[1][..there].copy_from_slice(&data[..there]);
            let mut out = Vec::new();
            let engine = &mut self.world.cores[0].engine;
            engine.arrived(CommandId(1), row * ROW_BLOCKS, &mut out);
            self.world.act(0, out);
            self.trace.push(Step::Transfer(first + row - 1));
        }
        while !self.is_done(1) {
            self.unit();
            units += 1;
            assert!(units < 1000, "it ends: {:?}", self.trace);
        }
        self.world.done.clear();
        units
    }
}

fn request(lba: u32, blocks: u32) -> Request {
    Request::Write {
        lba: GroupLba(u64::from(lba)),
        blocks,
        fua: false,
        replication: ReplicationMode::Sync,
    }
}

/// CHECKLIST C9 (patent application, Figure 12, steps 410 to 480), PROTOCOL H17: rows of one write are locked and come in while others are being replicated; the host hears that it is done after the last of them is kept; and it takes
/// far less time than one row after the other.
#[test]
fn parts_of_a_long_write_overlap() {
    let mut rig = Rig::new();
    let took = rig.write(0, ROWS);
    let trace = std::mem::take(&mut rig.trace);
    let first = |step: Step| trace.iter().position(|other| *other == step).expect("it is seen");
    let last = |step: Step| {
        trace
            .iter()
            .rposition(|other| *other == step)
            .expect("it is seen")
    };
    let kept = first(Step::Kept);
    assert!(first(Step::Transfer(1)) < kept, "{trace:?}");
    assert!(
        last(Step::Lock) > first(Step::Copy),
        "rows are locked while others are replicated: {trace:?}"
    );
    assert!(
        last(Step::Transfer(ROWS - 1)) > kept,
        "the last data comes after the first rows are kept: {trace:?}"
    );
    assert_eq!(last(Step::Kept) + 1, last(Step::Done), "{trace:?}");
    assert_eq!(
        trace.iter().filter(|step| **step == Step::Kept).count(),
        ROWS as usize
    );
    let mut rig = Rig::new();
    let serial: u32 = (0..ROWS).map(|row| rig.write(row, 1)).sum();
    println!("{ROWS} rows at once take {took} units, one after the other {serial}");
    assert!(10 * took < 6 * serial, "{took} {serial}");
}
