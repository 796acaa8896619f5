//! Hosts that reach the same blocks through all nodes, and what they were told.
//!
//! A command whose node is gone has had its effect or not, and may still have it until an epoch without that node is open; from then on never (PROTOCOL H38).

use std::collections::BTreeMap;

use super::node::Node;
use super::world::{Event, MS, Stage, World};
use crate::amf::engine::GroupError;
use crate::drive::block::NamespaceLba;
use crate::icl::Epoch;
use crate::sim::history::{Contradiction, Durability, Ended, History, Wish};
use crate::sim::host::{self, Order};
use crate::sim::stamp::{Content, recognise};
use crate::sim::trace::digest_of;
use crate::sim::world::Violation;

/// How long hosts go on when nothing goes wrong any more.
const AFTER_NS: u64 = 40 * MS;

/// A command under way.
#[derive(Clone, Copy, Debug)]
struct Underway {
    host: u16,
    life: u64,
    wish: Wish,
    lba: u64,
}

/// What hosts asked, and were told.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    pub(super) history: Option<History>,
    underway: BTreeMap<u32, Underway>,
    /// Commands that nobody will answer, by life of the node that had them.
    orphans: BTreeMap<u32, u64>,
}

impl Hosts {
    /// Whether a life has commands to answer.
    pub(super) fn is_busy(&self, life: u64) -> bool {
        self.underway.values().any(|underway| underway.life == life)
    }

    /// The power has failed.
    pub(super) fn cut(&mut self) {
        self.orphans.clear();
        if let Some(history) = &mut self.history {
            history.cut();
        }
    }

    /// Whether hosts ask nothing more, and have their answers.
    pub(super) fn are_done(&self, now: u64, trouble_ns: u64) -> bool {
        now > trouble_ns + AFTER_NS && self.underway.is_empty()
    }

    /// What they wait for, for people.
    pub(super) fn unfinished(&self) -> String {
        format!(
            "hosts wait for {:?}; nobody answers {:?}",
            self.underway, self.orphans
        )
    }

    pub(super) fn judge(&self) -> Result<(), Contradiction> {
        self.history.as_ref().map_or(Ok(()), History::judge)
    }
}

impl World {
    fn think(&mut self, host: u16) {
        let shape = &self.setting.shape;
        let streams = u64::from(shape.hosts) * u64::from(shape.depth);
        let mean = self.setting.trouble_ns * streams / u64::from(shape.commands);
        let delay = match self.random.below(10) {
            0..5 => self.random.below(100_000),
            _ => self.random.below(4 * mean),
        };
        self.later(delay, Event::Host(host));
    }

    pub(super) fn host_asks(&mut self, host: u16) {
        let is_over = self.now > self.setting.trouble_ns + AFTER_NS;
        if is_over || !matches!(self.stage, Stage::Trouble | Stage::Healing) {
            return;
        }
        let serving = self.serving();
        if serving.is_empty() {
            return self.later(3 * MS, Event::Host(host));
        }
        let life = serving[self.random.index(serving.len())];
        let node = self.lives[&life].node.as_ref().expect("it serves");
        let (disk, row_blocks) = (
            node.disk().expect("it serves"),
            node.row_blocks().expect("it serves"),
        );
        let blocks = disk.blocks();
        let history = self
            .hosts
            .history
            .get_or_insert_with(|| History::new(blocks, Durability::Acknowledged, Content::Zeroes));
        let span = blocks.min(u64::from(self.setting.shape.span));
        let question = host::question(&mut self.random, history, span, row_blocks);
        let command = history.begin(question.wish, question.lba, question.blocks);
        let place = disk.group_range(NamespaceLba(question.lba), u64::from(question.blocks));
        let order = Order {
            command,
            question,
            place: (place.expect("hosts stay inside the disk"), disk.group_end()),
        };
        let underway = Underway {
            host,
            life,
            wish: question.wish,
            lba: question.lba,
        };
        self.hosts.underway.insert(command, underway);
        self.counters.commands += 1;
        self.note(&[self.now, 40, life, u64::from(command), question.lba], || {
            format!("host {host} asks life {life} for command {command}: {question:?}")
        });
        let core = u16::try_from(self.random.below(u64::from(self.setting.cores))).expect("few cores");
        self.with_node(life, |node, out| node.submit(core, &order, out));
    }

    pub(super) fn host_is_told(
        &mut self,
        life: u64,
        command: u32,
        result: Result<(), GroupError>,
        data: &[u8],
    ) {
        let Some(underway) = self.hosts.underway.remove(&command) else {
            let what =
                format!("life {life} answers command {command} after an epoch without it is open (I10)");
            return self.violate(Violation::Unavailable(what));
        };
        let Underway { host, wish, lba, .. } = underway;
        let ended = match result {
            Ok(()) => Ended::Done,
            Err(GroupError::CompareFailed | GroupError::FusedCompareFailed) => Ended::Differed,
            Err(_) => Ended::Failed,
        };
        let seen: Vec<Content> = if wish == Wish::Read && ended == Ended::Done {
            let blocks = data.chunks(self.setting.shape.block as usize).zip(lba..);
            blocks.map(|(bytes, lba)| recognise(bytes, lba)).collect()
        } else {
            Vec::new()
        };
        self.note(&[self.now, 41, u64::from(command), digest_of(data)], || {
            format!("command {command} ends: {result:?} {seen:?}")
        });
        let is_unserved = result == Err(GroupError::NotServed) && !self.is_serving(life);
        if is_unserved {
            self.counters.unserved += 1;
            self.hosts.orphans.insert(command, life);
        } else if ended == Ended::Failed {
            self.counters.failed += 1;
            if !self.was_too_much {
                let what = format!(
                    "command {command} failed: {result:?}; harmed members {:#b}",
                    self.harmed
                );
                self.violate(Violation::Unavailable(what));
            }
            // What a failed group has of it may come up when its drives are back.
            self.hosts.orphans.insert(command, life);
        } else {
            let history = self.hosts.history.as_mut().expect("it has begun");
            history.end(command, ended, &seen);
        }
        self.think(host);
        self.close_if_idle(life);
    }

    /// Whether a life grants locks in the epoch that it is in, as all of its cores know.
    fn is_serving(&self, life: u64) -> bool {
        let node = self.lives.get(&life).and_then(|life| life.node.as_ref());
        node.is_some_and(Node::all_cores_serve)
    }

    /// A life is gone: its hosts go on elsewhere, and do not know what became of their commands.
    pub(super) fn hosts_lose(&mut self, life: u64) {
        let underway = self.hosts.underway.iter();
        let own: Vec<(u32, u16)> = underway
            .filter(|(_, underway)| underway.life == life)
            .map(|(command, underway)| (*command, underway.host))
            .collect();
        for (command, host) in own {
            self.hosts.underway.remove(&command);
            self.hosts.orphans.insert(command, life);
            self.think(host);
        }
    }

    /// An epoch is open: what lives had under way that are not in it is over for ever.
    pub(super) fn hosts_find_out(&mut self, epoch: Epoch, members: &[u64]) {
        let underway = self.hosts.underway.values();
        let outside: Vec<u64> = underway
            .map(|underway| underway.life)
            .filter(|life| !members.contains(life))
            .collect();
        for life in outside {
            self.hosts_lose(life);
        }
        let orphans = std::mem::take(&mut self.hosts.orphans);
        for (command, life) in orphans {
            let may_come = self.is_member(life, epoch) || self.was_too_much;
            if may_come {
                self.hosts.orphans.insert(command, life);
            } else {
                let history = self.hosts.history.as_mut().expect("it has begun");
                history.end(command, Ended::Failed, &[]);
            }
        }
    }
}
