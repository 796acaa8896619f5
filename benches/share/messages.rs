//! How many messages does a lock cost, and does that depend on how many nodes there are? And what does a message cost the two nodes, without the link?
//!
//! Nodes hand rows on to each other in turn, through queues of this process: request, recall, release and grant where the arbiter is a third node; half of that where it is the node
//! that wants the row, or the one that has it. The more nodes there are, the fewer rows are of the second kind, so that the mean over all rows comes near to that of the first.
//! The count is exact. (CHECKLIST B18.)

use std::collections::VecDeque;
use std::time::Instant;

use braid::amf::RowIndex;
use braid::amf::arbiter::{Resource, Rule};
use braid::amf::lock::Mode;
use braid::icl::Slot;

use crate::Effort;
use crate::member::{Member, Send, slot, slots};

/// Rows that go round.
const ROWS: u64 = 512;
/// Bytes of a message, at most, but for the one that says how a group is.
const MAIL_BYTES: usize = 256;

/// What is on its way, in order, with buffers that are used again.
#[derive(Default)]
struct Post {
    mail: VecDeque<(Slot, Slot, u16, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Post {
    fn add(&mut self, from: Slot, to: Slot, kind: u16, pieces: &[&[u8]; 2]) {
        let spare = self.spare.pop();
        let mut bytes = spare.unwrap_or_else(|| Vec::with_capacity(MAIL_BYTES));
        bytes.clear();
        pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        self.mail.push_back((from, to, kind, bytes));
    }
}

/// All nodes, and what is between them. Time does not pass.
struct World {
    members: Vec<Member>,
    post: Post,
}

impl World {
    fn new(count: u8) -> Self {
        let mut world = Self {
            members: (0..count).map(|number| Member::new(slot(number), 0)).collect(),
            post: Post::default(),
        };
        for number in 0..count {
            world.act(number, |member, send| member.enter(0, count, send));
        }
        world.settle();
        assert!(world.members.iter().all(|member| member.progress.is_reported));
        assert!(world.members[0].progress.is_recovered, "everybody is there");
        for number in 0..count {
            world.act(number, |member, send| member.open(0, send));
        }
        world.settle();
        assert!(world.members.iter().all(|member| member.progress.serves));
        world
    }

    fn act(&mut self, number: u8, act: impl FnOnce(&mut Member, Send<'_>)) {
        let post = &mut self.post;
        let from = slot(number);
        act(&mut self.members[usize::from(number)], &mut |to, kind, pieces| {
            post.add(from, to, kind, pieces);
        });
    }

    fn settle(&mut self) {
        while let Some((from, to, kind, bytes)) = self.post.mail.pop_front() {
            self.act(to.number(), |member, send| {
                member.receive(0, from, kind, &bytes, send);
            });
            self.post.spare.push(bytes);
        }
    }

    /// A node gets a row, and goes out of it.
    fn transfer(&mut self, to: u8, row: RowIndex) {
        let mut is_in = false;
        // It asks, is let in, and that is all.
        for _ in 0..2 {
            self.act(to, |member, send| is_in |= member.want(0, row, Mode::Write, send));
            self.settle();
        }
        assert!(is_in, "{to} gets row {}", row.0);
    }

    /// Messages about locks, and holders that were recalled.
    fn counted(&self) -> [u64; 2] {
        let counters = self.members.iter().map(Member::counters);
        counters.fold([0; 2], |[messages, recalls], all| {
            [messages + all.messages(), recalls + all.recalls]
        })
    }
}

/// All rows go round `rounds` times. Not inlined, so that a profile shows it.
#[inline(never)]
fn go_round(world: &mut World, count: u8, rounds: u64) {
    for round in 0..rounds {
        let to = u8::try_from(round % u64::from(count)).expect("a few nodes");
        for row in 0..ROWS {
            world.transfer(to, RowIndex(row));
        }
    }
}

/// Messages for each transfer whose arbiter is neither the node that gets the row nor the one that has it: the fewest and the most.
fn by_a_third(world: &mut World, count: u8) -> Option<(u64, u64)> {
    let members = slots(count);
    let rule = Rule::preferred(members);
    let mut found = Vec::new();
    // Afterwards the last node has all rows.
    go_round(world, count, u64::from(count));
    for round in 0..u64::from(count) {
        let to = u8::try_from(round).expect("a few nodes");
        let has_it = slot((to + count - 1) % count);
        for row in 0..ROWS {
            let [before, ..] = world.counted();
            world.transfer(to, RowIndex(row));
            let home = rule.placement().home(Resource(row), members);
            if home != slot(to) && home != has_it {
                found.push(world.counted()[0] - before);
            }
        }
    }
    Some((*found.iter().min()?, *found.iter().max()?))
}

/// Prints a line for each number of nodes.
pub fn run(effort: Effort) {
    println!("messages for a lock that another node holds; {ROWS} rows go round");
    let mut baseline = None;
    for count in 2..=8 {
        let mut world = World::new(count);
        go_round(&mut world, count, u64::from(count));
        let before = world.counted();
        let begin = Instant::now();
        let rounds = 8 * if effort.is_quick { 1 } else { 25 };
        go_round(&mut world, count, rounds);
        let ns = begin.elapsed().as_secs_f64() * 1e9;
        let after = world.counted();
        let [messages, recalls] = [0, 1].map(|at| (after[at] - before[at]) as f64);
        let all = (rounds * ROWS) as f64;
        let per_message = ns / messages.max(1.0);
        let baseline = *baseline.get_or_insert(per_message);
        let by_a_third = by_a_third(&mut world, count);
        let third = by_a_third.map_or("no third node".to_owned(), |(fewest, most)| {
            format!("{fewest} to {most} by a third node")
        });
        println!(
            "{count} nodes: {:.2} messages for a lock ({third}), {:.2} holders recalled, bound {:.2}; {per_message:.0} ns a message, {:.2} of that of two nodes",
            messages / all,
            recalls / all,
            2.0 + 2.0 * recalls / all,
            per_message / baseline,
        );
    }
}
