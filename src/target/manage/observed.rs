//! What cores have counted and measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Latency of one stage on one core, from an HDR histogram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageLatency {
    /// Core index.
    pub core: u16,
    /// Stage of a command, such as `read` or `drive-write`.
    pub stage: String,
    /// Values recorded.
    pub count: u64,
    /// Median in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: u64,
    /// 99.9th percentile in nanoseconds.
    pub p999_ns: u64,
    /// Largest value in nanoseconds.
    pub max_ns: u64,
}

/// Counters of one core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreCounters {
    /// Core index.
    pub core: u16,
    /// Value of each counter since the start; a name that ends in `_bytes` or `_ns` counts that.
    pub counters: BTreeMap<String, u64>,
}
