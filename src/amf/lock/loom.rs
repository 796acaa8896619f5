//! The lock word under every interleaving and every memory order that the language allows.

use ::loom::sync::Arc;
use ::loom::sync::Notify;
use ::loom::sync::atomic::{AtomicUsize, Ordering};
use ::loom::thread;

use super::shared::{Entry, HOME};
use super::word::LockWord;
use super::{Acquire, Held, Mode, WakeMask};

const TAG: u32 = 7;

/// What the lock protects: relaxed accesses, so that only the lock orders them.
struct Shared {
    word: LockWord,
    left: AtomicUsize,
    right: AtomicUsize,
    /// Writers that have left, whether they wrote or gave up. No part of the model: it only counts.
    left_by_writers: std::sync::atomic::AtomicUsize,
    bells: Vec<Notify>,
}

impl Shared {
    fn new(cores: usize) -> Arc<Self> {
        Arc::new(Self {
            word: LockWord::new(),
            left: AtomicUsize::new(0),
            right: AtomicUsize::new(0),
            left_by_writers: std::sync::atomic::AtomicUsize::new(0),
            bells: (0..cores).map(|_| Notify::new()).collect(),
        })
    }

    fn ring(&self, wake: WakeMask) {
        for (core, bell) in self.bells.iter().enumerate() {
            if wake.0 >> core & 1 == 1 {
                bell.notify();
            }
        }
    }

    /// Takes the lock as a core does: told `Busy` it sleeps until its bell rings. A wake-up that got
    /// lost is a deadlock, which loom reports.
    fn lock(&self, mode: Mode, core: u16) {
        loop {
            match self.word.try_acquire(TAG, mode, core) {
                Acquire::Acquired { wake } => return self.ring(wake),
                Acquire::Busy { .. } => self.bells[usize::from(core)].wait(),
                Acquire::Absent => unreachable!("nobody shares it"),
            }
        }
    }

    fn unlock(&self, mode: Mode) {
        if mode.is_write() {
            self.left_by_writers
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.ring(self.word.release(TAG, mode));
    }

    fn write(&self, core: u16) {
        self.lock(Mode::Write, core);
        let left = self.left.load(Ordering::Relaxed);
        let before = self.left_by_writers.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(self.version(), before, "each writer before it made a version");
        self.left.store(left + 1, Ordering::Relaxed);
        let right = self.right.load(Ordering::Relaxed);
        assert_eq!(left, right, "a writer is alone");
        self.right.store(right + 1, Ordering::Relaxed);
        self.unlock(Mode::Write);
    }

    fn read(&self, core: u16) {
        self.lock(Mode::Read, core);
        let right = self.right.load(Ordering::Relaxed);
        assert_eq!(
            self.left.load(Ordering::Relaxed),
            right,
            "no writer is inside with a reader"
        );
        assert_eq!(self.version(), right, "what is read is of this version");
        self.unlock(Mode::Read);
    }

    fn version(&self) -> usize {
        usize::try_from(self.word.version()).expect("few writes")
    }

    /// Reads what nobody asked for, if nobody is in the way.
    fn read_ahead(&self, core: u16) {
        if self.word.try_read(TAG, core) {
            let right = self.right.load(Ordering::Relaxed);
            assert_eq!(self.left.load(Ordering::Relaxed), right, "no writer is inside");
            assert_eq!(self.version(), right, "what is read is of this version");
            self.unlock(Mode::Read);
        }
    }

    fn check(&self, writes: usize) {
        assert_eq!(self.left.load(Ordering::Relaxed), writes, "no write is lost");
        assert!(self.word.is_idle());
    }
}

fn run(workers: &[fn(&Shared, u16)], writes: usize) {
    let shared = Shared::new(workers.len());
    let threads: Vec<_> = (0..)
        .zip(workers)
        .skip(1)
        .map(|(core, worker)| {
            let (shared, worker) = (Arc::clone(&shared), *worker);
            thread::spawn(move || worker(&shared, core))
        })
        .collect();
    workers[0](&shared, 0);
    for thread in threads {
        thread.join().expect("a worker ends");
    }
    shared.check(writes);
}

/// The interleavings with at most this many forced switches: enough for every pair of transitions of
/// three threads to meet.
fn bounded(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

#[test]
fn two_writers_exclude_each_other_and_wake_each_other() {
    ::loom::model(|| run(&[Shared::write, Shared::write], 2));
}

#[test]
fn a_reader_sees_all_of_a_write_or_nothing() {
    ::loom::model(|| run(&[Shared::write, Shared::read], 1));
}

#[test]
fn reading_ahead_meets_no_writer() {
    ::loom::model(|| run(&[Shared::write, Shared::read_ahead], 1));
    bounded(|| run(&[Shared::write, Shared::read_ahead, Shared::read], 1));
}

#[test]
fn writer_and_two_readers() {
    bounded(|| run(&[Shared::write, Shared::read, Shared::read], 1));
}

#[test]
fn two_writers_and_a_reader() {
    bounded(|| run(&[Shared::write, Shared::write, Shared::read], 2));
}

/// A core gives up: whether or not its turn has come, the third is not forgotten.
#[test]
fn giving_up_loses_no_turn() {
    fn give_up(shared: &Shared, core: u16) {
        match shared.word.try_acquire(TAG, Mode::Write, core) {
            Acquire::Acquired { wake } => {
                shared.ring(wake);
                shared.unlock(Mode::Write);
            }
            Acquire::Busy { .. } => shared.ring(shared.word.withdraw(core)),
            Acquire::Absent => unreachable!("nobody shares it"),
        }
    }
    bounded(|| run(&[Shared::write, give_up, Shared::write], 2));
}

/// Two cores and the home of a row that is here only when the home has got it. What the row holds is checked as above: whoever else has it
/// meanwhile changes it, too.
struct Away {
    word: LockWord,
    left: AtomicUsize,
    right: AtomicUsize,
    over: AtomicUsize,
    bells: Vec<Notify>,
    home: Notify,
}

impl Away {
    fn ring(&self, wake: WakeMask) {
        for (core, bell) in self.bells.iter().enumerate() {
            if wake.0 >> core & 1 == 1 {
                bell.notify();
            }
        }
        if wake.0 >> HOME & 1 == 1 {
            self.home.notify();
        }
    }

    fn lock(&self, mode: Mode, core: u16) {
        loop {
            match self.word.try_acquire_shared(TAG, mode, core) {
                Acquire::Acquired { wake } => return self.ring(wake),
                Acquire::Busy { .. } => {}
                Acquire::Absent => self.home.notify(),
            }
            self.bells[usize::from(core)].wait();
        }
    }

    fn change(&self) {
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left + 1, Ordering::Relaxed);
        let right = self.right.load(Ordering::Relaxed);
        assert_eq!(left, right, "a writer is alone");
        self.right.store(right + 1, Ordering::Relaxed);
    }

    fn end(&self) {
        self.over.fetch_add(1, Ordering::AcqRel);
        self.home.notify();
    }

    fn write(&self, core: u16) {
        self.lock(Mode::Write, core);
        self.change();
        self.ring(self.word.release_shared(TAG, Mode::Write));
        self.end();
    }

    fn read(&self, core: u16) {
        self.lock(Mode::Read, core);
        let right = self.right.load(Ordering::Relaxed);
        assert_eq!(
            self.left.load(Ordering::Relaxed),
            right,
            "no writer is inside with a reader"
        );
        self.ring(self.word.release_shared(TAG, Mode::Read));
        self.end();
    }

    /// Writes half, and leaves the row to the home, which does the rest.
    fn give(&self, core: u16) {
        self.lock(Mode::Write, core);
        let left = self.left.load(Ordering::Relaxed);
        assert_eq!(left, self.right.load(Ordering::Relaxed), "a writer is alone");
        self.left.store(left + 1, Ordering::Relaxed);
        let asked = self.word.enter_home();
        assert!(matches!(asked, Entry::Busy { .. }), "a writer is inside");
        let wake = self.word.release_to_home(TAG);
        self.ring(wake.expect("the home was named"));
        self.end();
    }

    /// Whether the home has nothing more to do.
    fn is_over(&self, cores: usize, recalls: usize) -> bool {
        self.over.load(Ordering::Acquire) == cores && recalls == 0 && self.word.is_idle()
    }

    /// Gets the row when it is wanted, and gives it up once for another node, which changes it. With `passes` it comes back with data that a core lays in.
    fn serve(&self, cores: usize, mut recalls: usize, passes: bool) {
        // Whether its turn is still to come: until then it stays named in the word.
        let mut is_due = false;
        loop {
            if recalls == 0 || is_due {
                self.home.wait();
            }
            if !is_due && self.is_over(cores, recalls) {
                return;
            }
            is_due = matches!(self.word.enter_home(), Entry::Busy { .. });
            if is_due {
                continue;
            }
            // What a core has given.
            self.right
                .store(self.left.load(Ordering::Relaxed), Ordering::Relaxed);
            let is_recalled = recalls > 0;
            if is_recalled {
                recalls -= 1;
                self.word.set_held(0, Held::Nothing);
                self.change();
            }
            if is_recalled && passes {
                self.word.pass_home(TAG, 0);
                self.change();
                self.ring(self.word.release_shared(TAG, Mode::Write));
            } else {
                self.word.set_held(TAG, Held::Write);
                self.ring(self.word.leave_home(None));
            }
            if self.is_over(cores, recalls) {
                return;
            }
        }
    }
}

fn run_away(workers: &[fn(&Away, u16)], recalls: usize, writes: usize) {
    run_away_with(workers, recalls, false, writes);
}

fn run_away_with(workers: &[fn(&Away, u16)], recalls: usize, passes: bool, writes: usize) {
    let away = Arc::new(Away {
        word: LockWord::new(),
        left: AtomicUsize::new(0),
        right: AtomicUsize::new(0),
        over: AtomicUsize::new(0),
        bells: workers.iter().map(|_| Notify::new()).collect(),
        home: Notify::new(),
    });
    let threads: Vec<_> = (0..)
        .zip(workers)
        .map(|(core, worker)| {
            let (away, worker) = (Arc::clone(&away), *worker);
            thread::spawn(move || worker(&away, core))
        })
        .collect();
    away.serve(workers.len(), recalls, passes);
    for thread in threads {
        thread.join().expect("a worker ends");
    }
    assert_eq!(
        away.left.load(Ordering::Relaxed),
        writes + recalls,
        "no write is lost"
    );
    assert!(away.word.is_idle());
}

/// One forced switch: three parties and their bells make more than that too many.
fn few_switches(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.check(check);
}

#[test]
fn what_a_node_does_not_hold_is_got_once_for_all_who_wait() {
    few_switches(|| run_away(&[Away::write, Away::write], 0, 2));
    few_switches(|| run_away(&[Away::write, Away::read], 0, 1));
}

#[test]
fn a_row_that_is_given_up_and_got_again_loses_no_write_and_no_turn() {
    bounded(|| run_away(&[Away::write], 1, 1));
    bounded(|| run_away(&[Away::read], 1, 0));
    few_switches(|| run_away(&[Away::write, Away::write], 1, 2));
}

#[test]
fn a_row_that_comes_back_with_data_is_seen_by_nobody_before_it_is_laid_in() {
    bounded(|| run_away_with(&[Away::write], 1, true, 2));
    bounded(|| run_away_with(&[Away::read], 1, true, 1));
    few_switches(|| run_away_with(&[Away::write, Away::read], 1, true, 2));
}

#[test]
fn what_a_writer_leaves_to_the_home_is_seen_by_nobody_before() {
    bounded(|| run_away(&[Away::give], 0, 1));
    few_switches(|| run_away(&[Away::give, Away::read], 0, 1));
    few_switches(|| run_away(&[Away::give, Away::write], 0, 2));
}
