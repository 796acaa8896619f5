# shellcheck shell=bash disable=SC2034,SC2154
# `run` and this file share variables.
# The target as the host side drives it: two Braid nodes on this machine's loopback. Sourced by `run`.
# Every function ends with 0, or says why not on stdout and ends with 1.

# Appends one group with its drives and virtual disks to a configuration:
# group NAME LEVEL BLOCK-BYTES DRIVE-LINES VDISK... -- DRIVE...     VDISK is NSID:MIB
group() {
  local name=$1 level=$2 block=$3 backing=$4 vdisks=() names v d
  shift 4
  while [ "$1" != -- ]; do vdisks+=("$1"); shift; done
  shift
  for d in "$@"; do
    printf '[[drive]]\nname = "%s"\n' "$d"
    # shellcheck disable=SC2059 # The format is a literal of ours, with or without a place for the name.
    printf "$backing\n" "$d"
  done
  names=$(printf ', "%s"' "$@")
  printf '[[group]]\nname = "%s"\nlevel = "%s"\nstrip_kib = 64\nblock_bytes = %s\ndrives = [%s]\ncreate = true\n' \
    "$name" "$level" "$block" "${names:2}"
  for v in "${vdisks[@]}"; do
    printf '[[vdisk]]\nname = "v%s"\ngroup = "%s"\nsize_mib = %s\nnsid = %s\n' "${v%:*}" "$name" "${v#*:}" "${v%:*}"
  done
}

# One node serves any host from two groups; the other holds a list of hosts that has one entry.
target_configure() {
  ADVERTISED=10.0.2.2 DISCOVERY_SHOWS=$PORT
  {
    cat <<TOML
[node]
name = "node-a"
rpc_socket = "node-a.sock"
[reactor]
cores = 2
poll = "adaptive"
[subsystem]
nqn = "$NQN"
serial = "GUEST0001"
model = "Braid"
hosts = "any"
max_transfer_kib = 256
in_capsule_kib = 8
[[listen]]
address = "127.0.0.1:$PORT"
advertise = "$ADVERTISED"
[[listen]]
address = "127.0.0.1:$DISCOVERY_PORT"
advertise = "$ADVERTISED"
discovery_only = true
TOML
    group g0 raid5 4096 'path = "%s.img"\nsize_mib = 128' 1:$((NS1_BYTES >> 20)) -- d0 d1 d2 d3
    group g1 raid5 512 'path = "%s.img"\nsize_mib = 128' 2:$((NS2_BYTES >> 20)) 3:64 -- e0 e1 e2
    # Of RAID-6, with a spare, and a drive by which it is to grow. Its virtual disk is made while hosts are connected.
    group g2 raid6 4096 'path = "%s.img"\nsize_mib = 64' -- f0 f1 f2 f3 f4
    printf 'spares = ["f5"]\n'
    printf '[[drive]]\nname = "%s"\npath = "%s.img"\nsize_mib = 64\n' f5 f5 f6 f6
  } >"$work/node-a.toml"
  {
    cat <<TOML
[node]
name = "node-b"
rpc_socket = "node-b.sock"
[reactor]
cores = 1
poll = "adaptive"
[subsystem]
nqn = "$GUARDED_NQN"
serial = "GUEST0002"
hosts = ["$ALLOWED_HOST"]
[[listen]]
address = "127.0.0.1:$GUARDED_PORT"
advertise = "$ADVERTISED"
TOML
    group g0 raid5 4096 'memory_mib = 32' 1:16 -- m0 m1 m2
  } >"$work/node-b.toml"
}

declare -A node_pid=()

times_ready() { grep -Ec "^braid (node|shelf) $1 is ready" "$work/$1.log" || true; }

process_start() { # process_start ROLE NAME [OPTION]...: ROLE is `node` or `shelf`.
  local role=$1 name=$2 log=$work/$2.log limit=$((SECONDS + 30)) before
  shift 2
  : >>"$log"
  before=$(times_ready "$name")
  "$braid" "$role" --config "$work/$name.toml" "$@" >>"$log" 2>&1 &
  node_pid[$name]=$!
  until [ "$(times_ready "$name")" -gt "$before" ]; do
    kill -0 "${node_pid[$name]}" 2>/dev/null || { echo "$name ended at start: $(tail -n 1 "$log")"; return 1; }
    [ $SECONDS -lt $limit ] || { echo "$name is not ready after 30 s: $(tail -n 1 "$log")"; return 1; }
    sleep 0.1
  done
}
node_start() { process_start node "$1"; } # node_start NAME

node_stop() { # node_stop NAME: SIGTERM, then exit code 0 within 15 s.
  local pid=${node_pid[$1]} limit=$((SECONDS + 15)) rc=0
  kill -TERM "$pid" 2>/dev/null || { wait "$pid" || rc=$?; echo "$1 was gone already, exit code $rc"; return 1; }
  while kill -0 "$pid" 2>/dev/null; do
    if [ $SECONDS -ge $limit ]; then
      kill -KILL "$pid"
      wait "$pid" 2>/dev/null
      echo "$1 still ran 15 s after SIGTERM"
      return 1
    fi
    sleep 0.1
  done
  wait "$pid" || rc=$?
  [ $rc = 0 ] || { echo "$1 ended with exit code $rc on SIGTERM: $(tail -n 1 "$work/$1.log")"; return 1; }
}

target_start() { node_start node-a && node_start node-b; }
target_restart() { node_stop node-a && node_start node-a; }
target_stop() { node_stop node-a && node_stop node-b; }

target_alive() {
  local name
  for name in node-a node-b; do
    kill -0 "${node_pid[$name]}" 2>/dev/null || { echo "$name has died: $(tail -n 1 "$work/$name.log")"; return 1; }
  done
}

control() { "$braid" "$@" --socket "$work/node-a.sock"; }

target_fail_drive() { control drive fail "$1" "$2"; } # target_fail_drive GROUP DRIVE
target_add_namespace() { control vdisk create v4 --group g0 --size 16MiB --nsid 4; }
target_remove_namespace() { control vdisk delete v4 --force; }

target_add_raid6() {
  # The rebuild is to be seen beside the load, and the load beside the rebuild.
  control group set-rate g2 --mib-s 64 && control vdisk create v5 --group g2 --size 48MiB --nsid 5
}

target_await_rebuilt() { # target_await_rebuilt GROUP DRIVE: the spare that has taken over.
  local shown
  control group rebuild-status "$1" --wait || return 1
  target_is_healthy "$1" || return 1
  shown=$(control group show "$1" --json 2>&1 | tr -d ' \n')
  grep -Eq "\"drive\":\"$2\"[^}]*\"state\":\"active\"" <<<"$shown" || { echo "$2 is not shown as active: $shown"; return 1; }
}

target_expand() { control group expand "$1" --drive "$2" --wait && target_is_healthy "$1"; } # target_expand GROUP DRIVE
target_resize() { control vdisk resize v5 --size 208MiB; } # More than the group had before.

target_is_healthy() { # target_is_healthy GROUP
  local shown
  shown=$(control group show "$1" --json 2>&1 | tr -d ' \n')
  grep -q '"state":"healthy"' <<<"$shown" || { echo "group $1 is not healthy: $shown"; return 1; }
}

target_scrub() { # target_scrub GROUP: to its end, and nothing is wrong. Repairing would hide it.
  local shown
  shown=$(control group scrub "$1" --check-only --wait --json 2>&1 | tr -d ' \n')
  clean_scrub "$shown"
}

clean_scrub() { # clean_scrub SHOWN
  local shown=$1
  grep -q '"state":"completed"' <<<"$shown" && grep -Eq '"rows":[1-9]' <<<"$shown" &&
    grep -q '"mismatches":0[^0-9]' <<<"$shown" && grep -q '"unreadable":0[^0-9]' <<<"$shown" ||
    { echo "not a clean scrub: $shown"; return 1; }
}

target_is_degraded() { # target_is_degraded GROUP DRIVE: as the group says about itself and its member.
  local shown
  shown=$(control group show "$1" --json 2>&1 | tr -d ' \n')
  grep -q '"state":"degraded"' <<<"$shown" || { echo "group $1 is not degraded: $shown"; return 1; }
  grep -Eq "\"drive\":\"$2\"[^}]*\"state\":\"(failed|missing)\"" <<<"$shown" || { echo "$2 is not shown as failed: $shown"; return 1; }
}

target_has_no_hosts() { # Hosts that left, and one that was killed.
  local limit=$((SECONDS + 20)) shown=''
  until [ "$shown" = '[]' ]; do
    [ $SECONDS -lt $limit ] || { echo "controllers are left: $shown"; return 1; }
    shown=$(control host list --json 2>&1 | tr -d ' \n')
    sleep 0.2
  done
}

# Open descriptors of the serving node: sockets, rings and files.
target_descriptors() { find "/proc/${node_pid[node-a]}/fd" -mindepth 1 | wc -l; }

descriptors_are_back_at() { # descriptors_are_back_at COUNT
  local limit=$((SECONDS + 20))
  until [ "$(target_descriptors)" -le "$1" ]; do
    [ $SECONDS -lt $limit ] || { echo "$(target_descriptors) open descriptors, $1 before the first host came"; return 1; }
    sleep 0.5
  done
}

cpu_ticks() { awk '{ print $14 + $15 }' "/proc/${node_pid[node-a]}/stat"; }

idle_node_rests() { # Under 5 % of a processor in three seconds without a host.
  local before used
  before=$(cpu_ticks)
  sleep 3 # The measured span itself.
  used=$(($(cpu_ticks) - before))
  [ $used -lt $((3 * $(getconf CLK_TCK) / 20)) ] || { echo "$used ticks of $(getconf CLK_TCK) Hz in 3 s"; return 1; }
}

target_log_is_clean() {
  ! grep -him1 -e panic -e assertion "$work"/node-?.log
}

target_reports_expiry() {
  grep -Eiq 'keep.?alive' "$work/node-a.log" || { echo "node-a's log has no line about a keep-alive"; return 1; }
}
