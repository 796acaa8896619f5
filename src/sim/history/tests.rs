//! Stories that are legal and stories that are not, and a slow judge that must agree.

use super::*;
use crate::sim::random::Random;

const FLUSHED: Durability = Durability::Flushed;
const ACKNOWLEDGED: Durability = Durability::Acknowledged;

struct Story(History);

impl Story {
    fn new(durability: Durability) -> Self {
        Self(History::new(1, durability, Content::Zeroes))
    }

    fn write(&mut self) -> u32 {
        self.0.begin(Wish::Write { forced: false }, 0, 1)
    }

    fn forced(&mut self) -> u32 {
        self.0.begin(Wish::Write { forced: true }, 0, 1)
    }

    fn done(&mut self, command: u32) -> &mut Self {
        self.0.end(command, Ended::Done, &[]);
        self
    }

    fn written(&mut self) -> u32 {
        let command = self.write();
        self.done(command);
        command
    }

    fn flushed(&mut self) {
        let command = self.0.begin(Wish::Flush, 0, 0);
        self.done(command);
    }

    fn sees(&mut self, command: u32) -> bool {
        self.sees_content(Content::Command(command))
    }

    fn sees_content(&mut self, content: Content) -> bool {
        let read = self.0.begin(Wish::Read, 0, 1);
        self.0.end(read, Ended::Done, &[content]);
        self.0.judge().is_ok()
    }

    /// Whether the story could go on with this read, without it becoming part of the story.
    fn could_see(&self, command: u32) -> bool {
        Self(self.0.clone()).sees(command)
    }
}

#[test]
fn i9_a_read_returns_the_last_write_or_one_under_way() {
    let mut story = Story::new(FLUSHED);
    let (a, b) = (story.written(), story.written());
    assert!(!story.could_see(a) && story.could_see(b));
    let c = story.write();
    assert!(story.could_see(b) && story.could_see(c));
    assert!(story.sees(c));
    assert!(!story.could_see(b), "what was read once stays");
    assert!(!Story(story.0.clone()).sees_content(Content::Garbage));
    assert!(!Story(story.0.clone()).sees_content(Content::Zeroes));
}

#[test]
fn i9_two_reads_may_not_disagree_about_the_order_of_two_writes() {
    let mut story = Story::new(FLUSHED);
    let (a, b) = (story.write(), story.write());
    story.done(a).done(b);
    assert!(story.could_see(a) && story.could_see(b));
    assert!(story.sees(a));
    assert!(!story.sees(b));
}

#[test]
fn a_read_that_takes_long_may_see_what_was_there_meanwhile() {
    let mut story = Story::new(FLUSHED);
    let a = story.written();
    let read = story.0.begin(Wish::Read, 0, 1);
    let _ = story.written();
    let _ = story.written();
    story.0.end(read, Ended::Done, &[Content::Command(a)]);
    assert_eq!(story.0.judge(), Ok(()));
}

#[test]
fn i7_what_was_acknowledged_survives_or_what_was_flushed() {
    for durability in [ACKNOWLEDGED, FLUSHED] {
        let mut story = Story::new(durability);
        let a = story.written();
        story.flushed();
        let b = story.written();
        story.0.cut();
        assert!(story.could_see(b));
        assert_eq!(story.could_see(a), durability == FLUSHED);
        assert!(!Story(story.0.clone()).sees_content(Content::Zeroes));
    }
}

#[test]
fn i7_a_flush_covers_only_what_had_ended_before_it_came() {
    let mut story = Story::new(FLUSHED);
    let a = story.written();
    let flush = story.0.begin(Wish::Flush, 0, 0);
    let b = story.written();
    story.done(flush);
    story.0.cut();
    assert!(story.could_see(a) && story.could_see(b));
    assert!(!Story(story.0.clone()).sees_content(Content::Zeroes));
}

#[test]
fn i7_a_forced_write_is_durable_and_all_before_it_is_gone() {
    let mut story = Story::new(FLUSHED);
    let a = story.written();
    let b = story.forced();
    story.done(b);
    story.0.cut();
    assert!(story.could_see(b) && !story.could_see(a));
    let mut story = Story::new(FLUSHED);
    let a = story.written();
    let b = story.forced();
    story.0.cut();
    assert!(story.could_see(b) && story.could_see(a), "it was not answered");
}

#[test]
fn i8_what_was_read_after_a_cut_never_flips_back() {
    let mut story = Story::new(FLUSHED);
    let a = story.written();
    story.flushed();
    let b = story.write();
    story.0.cut();
    assert!(story.could_see(a) && story.could_see(b));
    assert!(story.sees(a));
    assert!(!story.could_see(b), "a write that was cut off may not come later");
    story.0.cut();
    assert!(!story.could_see(b) && story.could_see(a));
}

#[test]
fn i7_what_a_cut_left_undecided_may_come_back_after_the_next_one() {
    let mut story = Story::new(FLUSHED);
    let (a, b) = (story.written(), story.written());
    story.0.cut();
    let c = story.written();
    story.0.cut();
    for version in [a, b, c] {
        assert!(
            story.could_see(version),
            "nothing was flushed, and nothing was read"
        );
    }
}

#[test]
fn a_failed_write_has_had_its_effect_or_never_will() {
    let mut story = Story::new(FLUSHED);
    let (a, b) = (story.written(), story.write());
    story.0.end(b, Ended::Failed, &[]);
    assert!(story.could_see(a) && story.could_see(b));
    let mut no = Story(story.0.clone());
    assert!(no.sees(a) && !no.sees(b));
}

#[test]
fn i16_compare_and_write_is_one_step() {
    let mut story = Story::new(FLUSHED);
    let a = story.written();
    let swap = |story: &mut Story, expected| {
        let wish = Wish::Swap {
            expected,
            forced: false,
        };
        story.0.begin(wish, 0, 1)
    };
    let (b, c) = (
        swap(&mut story, Content::Command(a)),
        swap(&mut story, Content::Command(a)),
    );
    let mut both = Story(story.0.clone());
    both.done(b).done(c);
    assert!(both.0.judge().is_err(), "both cannot have found it");
    story.done(b);
    story.0.end(c, Ended::Differed, &[]);
    assert!(story.sees(b));
    let mut wrong = Story::new(FLUSHED);
    let a = wrong.written();
    let b = swap(&mut wrong, Content::Command(a));
    wrong.0.end(b, Ended::Differed, &[]);
    assert!(wrong.0.judge().is_err(), "it was there");
}

#[test]
fn zeroes_are_values_like_others() {
    let mut story = Story::new(FLUSHED);
    let _ = story.written();
    let zero = story.0.begin(Wish::Zero { forced: false }, 0, 1);
    story.done(zero);
    assert!(Story(story.0.clone()).sees_content(Content::Zeroes));
    let a = story.written();
    assert!(story.sees(a));
    assert!(!story.sees_content(Content::Zeroes));
}

/// All orders, tried one after the other. Without cuts and flushes.
fn slow_judge(entries: &[Entry]) -> bool {
    fn go(entries: &[Entry], done: u32, content: Content) -> bool {
        let certain = |index: usize| entries[index].certain;
        if (0..entries.len()).all(|index| done >> index & 1 == 1 || !certain(index)) {
            return true;
        }
        let first_end = (0..entries.len())
            .filter(|index| done >> index & 1 == 0)
            .map(|index| entries[index].end)
            .min();
        (0..entries.len())
            .filter(|index| done >> index & 1 == 0)
            .any(|index| {
                let entry = entries[index];
                // Who started after another one's end comes after it; an uncertain one may also be left out.
                if entry.start > first_end.expect("one is left") {
                    return false;
                }
                let next = match entry.effect {
                    Effect::Write { content } => Some(content),
                    Effect::Swap {
                        expected,
                        content: new,
                    } => (expected == content).then_some(new),
                    Effect::Saw { content: seen } => (seen == content).then_some(content),
                    Effect::Differs { expected } => (expected != content).then_some(content),
                    Effect::Nothing => Some(content),
                };
                let done = done | 1 << index;
                next.is_some_and(|next| go(entries, done, next))
                    || (!entry.certain && go(entries, done, content))
            })
    }
    go(entries, 0, Content::Zeroes)
}

#[test]
fn the_judge_agrees_with_one_that_tries_all_orders() {
    let (mut legal, mut illegal) = (0, 0);
    for seed in 0..3000 {
        let mut random = Random::new(seed, 9);
        let mut history = History::new(1, FLUSHED, Content::Zeroes);
        let mut open: Vec<(u32, Wish)> = Vec::new();
        for _ in 0..14 {
            let any = |random: &mut Random, history: &History| match random
                .below(u64::from(history.next_command()) + 1)
            {
                0 => Content::Zeroes,
                number => Content::Command(u32::try_from(number - 1).unwrap()),
            };
            if open.len() < 4 && random.chance(55) {
                let expected = any(&mut random, &history);
                let wish = [
                    Wish::Read,
                    Wish::Write { forced: false },
                    Wish::Zero { forced: false },
                    Wish::Swap {
                        expected,
                        forced: false,
                    },
                ][random.index(4)];
                open.push((history.begin(wish, 0, 1), wish));
            } else if !open.is_empty() {
                let (command, wish) = open.swap_remove(random.index(open.len()));
                let seen = any(&mut random, &history);
                let ended = match wish {
                    Wish::Swap { .. } => [Ended::Done, Ended::Differed, Ended::Failed][random.index(3)],
                    Wish::Read | Wish::Write { .. } | Wish::Zero { .. } if random.chance(10) => Ended::Failed,
                    Wish::Read
                    | Wish::Write { .. }
                    | Wish::Zero { .. }
                    | Wish::Compare { .. }
                    | Wish::Flush => Ended::Done,
                };
                history.end(command, ended, &[seen]);
            }
        }
        let verdict = history.judge().is_ok();
        let entries = &history.blocks[0];
        assert_eq!(verdict, slow_judge(entries), "seed {seed}: {entries:#?}");
        *(if verdict { &mut legal } else { &mut illegal }) += 1;
    }
    assert!(legal > 300 && illegal > 300, "{legal} legal, {illegal} not");
}
