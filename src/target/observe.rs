//! Latencies by stage and core, and the calls that collect them from all cores.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;

use nvme::io::IoRequest;
use reactor::{CoreIndex, Io, LatencyRecorder, Nanos, Precision};

use super::array::ReducedCopies;
use super::connection::Command;
use super::manage::{CoreCounters, StageLatency};
use super::message::Message;
use crate::amf::engine::{HandOverCounts, ReadCacheCounts};

/// Stages of a command that have a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A Read, from its capsule parsed to its completion composed.
    Read,
    /// A Write, likewise; the time for its data to arrive included.
    Write,
    /// Any other command of an I/O queue, likewise.
    Other,
    /// A command's time in the array alone: locks, drives, parity.
    Array,
    /// A send, from handing it to the kernel to its completion.
    Send,
}

impl Stage {
    /// All stages, in the order of their histograms.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Other, Self::Array, Self::Send];

    /// Name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Other => "other",
            Self::Array => "array",
            Self::Send => "send",
        }
    }
}

/// Histograms of one core.
pub struct Latencies {
    recorders: [LatencyRecorder; Stage::ALL.len()],
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            recorders: Stage::ALL.map(|_| LatencyRecorder::new(Precision::TwoDigits)),
        }
    }
}

impl Latencies {
    /// Records how long a stage took.
    pub fn record(&mut self, stage: Stage, nanos: Nanos) {
        self.recorders[stage as usize].record(nanos);
    }

    /// Records a command of an I/O queue that is complete.
    pub fn command(&mut self, command: &Command, now: Nanos) {
        let stage = match command.request {
            Some(IoRequest::Read { .. }) => Stage::Read,
            Some(IoRequest::Write { .. }) => Stage::Write,
            Some(_) => Stage::Other,
            None => return,
        };
        self.record(stage, now.saturating_sub(command.started));
        if command.submitted > 0 {
            self.record(Stage::Array, now.saturating_sub(command.submitted));
        }
    }

    /// What the histograms of core `core` say.
    fn snapshot(&self, core: CoreIndex) -> Vec<StageLatency> {
        let stages = Stage::ALL.iter().zip(&self.recorders);
        stages
            .map(|(stage, recorder)| StageLatency {
                core: core.0,
                stage: stage.name().to_owned(),
                count: recorder.count(),
                p50_ns: recorder.quantile_ns(0.5),
                p99_ns: recorder.quantile_ns(0.99),
                p999_ns: recorder.quantile_ns(0.999),
                max_ns: recorder.max_ns(),
            })
            .collect()
    }
}

/// What one core observed.
pub struct Observation {
    /// Latency of each stage.
    pub latencies: Vec<StageLatency>,
    /// The reactor's counters.
    pub counters: CoreCounters,
}

/// Asks one core for what it observed; the answer goes straight to the asking thread.
pub struct ObserveCall {
    /// Takes one answer of each core.
    pub answer: SyncSender<Observation>,
}

impl ObserveCall {
    /// Answers for one core.
    pub fn answer(
        self,
        core: CoreIndex,
        latencies: &Latencies,
        (read_cache, hand_overs, reduced): (ReadCacheCounts, HandOverCounts, ReducedCopies),
        io: &mut Io<Message>,
    ) {
        let counters: BTreeMap<String, u64> = io
            .counters()
            .named()
            .chain(read_cache_named(read_cache))
            .chain(hand_overs_named(hand_overs))
            .chain([
                ("groups_with_reduced_copies", reduced.groups),
                ("bytes_with_reduced_copies", reduced.bytes),
            ])
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let observation = Observation {
            latencies: latencies.snapshot(core),
            counters: CoreCounters {
                core: core.0,
                counters,
            },
        };
        // The channel holds an answer of each core; if the asker gave up, nobody is interested.
        drop(self.answer.try_send(observation));
    }
}

/// What became of dirty rows that nodes share, likewise.
fn hand_overs_named(counts: HandOverCounts) -> [(&'static str, u64); 3] {
    let HandOverCounts {
        given,
        restored,
        taken,
    } = counts;
    [
        ("dirty_rows_handed_back", restored),
        ("dirty_rows_handed_over", given),
        ("dirty_rows_taken", taken),
    ]
}

/// What the core's engines remember of what they read, with names as operators see them.
fn read_cache_named(counts: ReadCacheCounts) -> [(&'static str, u64); 6] {
    let ReadCacheCounts {
        hits,
        misses,
        prefetched,
        prefetched_used,
        evicted,
        stale,
    } = counts;
    [
        ("read_cache_hits", hits),
        ("read_cache_misses", misses),
        ("read_cache_pages_evicted", evicted),
        ("read_cache_pages_prefetched", prefetched),
        ("read_cache_pages_prefetched_used", prefetched_used),
        ("read_cache_pages_stale", stale),
    ]
}
