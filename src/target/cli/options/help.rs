//! Examples behind the help texts.

pub const TOP: &str = "\
Examples:
  braid demo                         show everything on this machine, in a minute
  braid config example > node.toml   start from a commented configuration
  braid check-config node.toml       see what it would run
  braid node --config node.toml      run it
  braid status                       ask it how it is

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the node cannot be reached.";
pub const NODE: &str = "\
Examples:
  braid node --config node.toml
  braid --log debug node --config /etc/braid/node.toml";
pub const SHELF: &str = "\
Examples:
  braid config example --shelf > shelf.toml
  braid shelf --config shelf.toml
  braid shelf show
  braid shelf test 10.0.0.9:4420 --nqn nqn.2026-01.io.braid:shelf-a --nsid 1";
pub const SHELF_TEST: &str = "\
Examples:
  braid shelf test 10.0.0.9:4420 --nqn nqn.2026-01.io.braid:shelf-a --nsid 1
  braid shelf test 10.0.0.9 10.0.1.9 --nqn nqn.2014-08.org.example:array --nsid 3 --json

Two hosts register and reserve the namespace; one fences the other by Preempt and Abort while that writes. A namespace that
anybody is registered with is left alone. Written are 8 blocks from byte 131072 on, where the heartbeats of an array's nodes
are going to be; what was there before is put back, unless the test is killed.";
pub const ARRAY: &str = "\
Examples:
  braid array key > vault.key
  braid config example --array > node-0.toml
  braid node --config node-0.toml
  braid array create
  braid array show
  braid array list --shelf 10.0.0.9
  braid array import --shelf 10.0.0.9 --slot 2 --key-file vault.key --peer 0=10.0.0.1:4500 > node-2.toml";
pub const DEMO: &str = "\
Examples:
  braid demo
  braid demo --nodes 1
  braid demo --seconds 30 --megabytes 512 --json";
pub const PERF: &str = "\
Examples:
  braid perf 127.0.0.1:4420 --nqn nqn.2026-01.io.braid:node-a
  braid perf 127.0.0.1 --nqn nqn.2026-01.io.braid:node-a --depth 32 --queues 4 --block-size 4KiB
  braid perf 10.0.2.2 --nqn nqn.2026-01.io.braid:node-a --rate 20000 --report-html latency.html
  braid perf 10.0.2.2 10.0.2.3 --nqn nqn.2026-01.io.braid:vault --seconds 30

Several addresses are paths to one namespace, through nodes that share it. What is lost with a path, or refused
because others serve, is sent again by the next one, and counts as one command. The report says how long nothing
completed at most (the failover time, if a node was lost or stopped meanwhile), and when that began, counted from
the end of the warm-up; of several cores it is the one that waited longest.";
#[cfg(feature = "sim")]
pub const SIM: &str = "\
Examples:
  braid sim --seed 1 --runs 2000
  braid sim --levels raid5 --minutes 30 --json
  braid sim --scenario 'seed=7 level=raid5 members=4' --trace
  braid sim --membership --runs 20000
  braid sim --nodes 3 --runs 5000
  braid sim --nodes any --seed 1541 --runs 1 --trace

A run that fails is made as small as it gets, and the command that repeats it is printed.";
pub const CHECK_CONFIG: &str = "\
Examples:
  braid check-config node.toml
  braid check-config node.toml --json";
pub const CONFIG: &str = "\
Example:
  braid config example > node.toml
  braid config example --shelf > shelf.toml
  braid config example --fabric > node.toml";
pub const PREFLIGHT: &str = "\
Examples:
  braid preflight
  braid preflight --config node.toml --json";
pub const STATUS: &str = "\
Examples:
  braid status
  braid status --socket /run/braid/node.sock --json";
pub const GROUP: &str = "\
Examples:
  braid group list
  braid group show g0
  braid group create g1 d3 d4 d5 --strip 64KiB";
pub const GROUP_CREATE: &str = "\
Examples:
  braid group create g1 d3 d4 d5
  braid group create g1 d3 d4 d5 --strip 128KiB --block-bytes 512";
pub const GROUP_SCRUB: &str = "\
Examples:
  braid group scrub g0 --wait
  braid group scrub g0 --check-only
  braid group scrub g0 --stop";
pub const GROUP_EXPAND: &str = "\
Hosts go on meanwhile. The new capacity can be used at the end: make a virtual disk in it, or make one larger with
`braid vdisk resize`.

Examples:
  braid group expand g0 --drive d4
  braid group expand g0 --drive d4 --drive d5 --wait";
pub const GROUP_REBUILD_STATUS: &str = "\
Examples:
  braid group rebuild-status g0
  braid group rebuild-status g0 --wait";
pub const GROUP_SET_RATE: &str = "\
Examples:
  braid group set-rate g0 --mib-s 200
  braid group set-rate g0 --latency-target-us 2000
  braid group set-rate g0";
pub const VDISK: &str = "\
Examples:
  braid vdisk list
  braid vdisk create v1 --group g0 --size 1GiB
  braid vdisk resize v1 --size 2GiB
  braid vdisk delete v1";
pub const VDISK_CREATE: &str = "\
Examples:
  braid vdisk create v1 --group g0 --size 1GiB
  braid vdisk create v2 --group g0 --size all --nsid 7
  braid vdisk create scratch --group g0 --size 1GiB --replication async";
pub const VDISK_REPLICATE: &str = "\
Only what hosts have written and not flushed depends on it; Flush and Force Unit Access wait for the drives as ever. Commands that
come after the answer do as it says; another node that serves the virtual disk hears of it a moment later.

Examples:
  braid vdisk replicate v1 async
  braid vdisk replicate 7 sync";
pub const VDISK_RESIZE: &str = "\
It only grows, and only into what is free behind it. Connected hosts see the new size without connecting again.

Examples:
  braid vdisk resize v1 --size 2GiB
  braid vdisk resize 7 --size all";
pub const VDISK_DELETE: &str = "\
Example:
  braid vdisk delete v1";
pub const PORT: &str = "\
Examples:
  braid port list
  braid port list v1 --json
  braid port add v1 --node 2
  braid port delete v1 --node 2";
pub const PORT_LIST: &str = "\
Examples:
  braid port list
  braid port list v1 --json";
pub const PORT_ADD: &str = "\
Any node of the array may be asked. Connected hosts find the same namespace at the new port without connecting again.

Example:
  braid port add v1 --node 2";
pub const PORT_DELETE: &str = "\
Commands that the node has by then are carried out; hosts go to other ports with all later ones. Any node of the array may be asked.

Examples:
  braid port delete v1 --node 2
  braid port delete v1 --node 0 --force";
pub const DRIVE: &str = "\
Examples:
  braid drive list
  braid drive show d0
  braid drive fail g0 d0
  braid drive add-spare g0 d5
  braid drive replace g0 0 d4";
pub const DRIVE_REPLACE: &str = "\
Examples:
  braid drive replace g0 1 d4
  braid drive replace g0 1 d1 (its own drive, after it was repaired)";
pub const DRIVE_SPARE: &str = "\
Examples:
  braid drive add-spare g0 d5
  braid drive remove-spare g0 d5";
pub const DRIVE_INJECT: &str = "\
Examples:
  braid drive inject --drive d1 --fault media --at 4194304 --blocks 8
  braid drive inject --drive d1 --fault slow --us 50000
  braid drive inject --drive d1 --fault hang
  braid drive inject --drive d1 --fault clear";
pub const DRIVE_FAIL: &str = "\
Example:
  braid drive fail g0 d0";
pub const HOST: &str = "\
Examples:
  braid host list
  braid host list --json";
pub const LATENCY: &str = "\
Examples:
  braid latency
  braid latency --json";
pub const COUNTERS: &str = "\
Examples:
  braid counters
  braid counters --json";
pub const SHUTDOWN: &str = "\
Examples:
  braid shutdown
  braid shutdown --socket /run/braid/node.sock";
