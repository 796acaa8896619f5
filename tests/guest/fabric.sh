# shellcheck shell=bash disable=SC2153
# Checks of discovery, of connecting and refusing, and of who the target says it is.
# Sourced by in-guest.sh after harness.sh.

# The discovery log as read at one port; the record of the subsystem under test in it.
discovery_log() { nvme discover -t tcp -a "$ADDR" -s "$1" -o json; }
record_of() { jq -c --arg n "$1" '.records[] | select(.subnqn == $n and .subtype == "nvme subsystem")'; }

discovers() { # discovers in-band|discovery-port
  local port=$PORT shown=$PORT log record
  if [ "$1" = discovery-port ]; then port=$DISCOVERY_PORT shown=$DISCOVERY_SHOWS; fi
  discovery_log "$port" >"$W/log"
  record=$(record_of "$NQN" <"$W/log")
  cat "$W/log"
  same "the number of records of $NQN" "$(grep -c . <<<"$record")" 1
  same trtype "$(jq -r .trtype <<<"$record")" tcp
  same adrfam "$(jq -r .adrfam <<<"$record")" ipv4
  same traddr "$(jq -r .traddr <<<"$record")" "$ADVERTISED"
  same trsvcid "$(jq -r .trsvcid <<<"$record")" "$shown"
  log=$(jq -r '[.records[] | select(.subtype == "current discovery subsystem") | .subnqn] | unique | join(",")' "$W/log")
  same "the NQN of the discovery subsystem's own record" "$log" nqn.2014-08.org.nvmexpress.discovery
  if grep -E '"traddr": *"(0\.0\.0\.0|::|)"' "$W/log"; then fail "a record names a wildcard address"; fi
}

# A generation counter that moves without a change makes every client read the log again.
generation_is_stable() {
  local first
  first=$(discovery_log "$PORT" | jq .genctr)
  discovery_log "$DISCOVERY_PORT" >/dev/null
  same genctr "$(discovery_log "$PORT" | jq .genctr)" "$first"
}

connects_all() { # connects_all in-band|discovery-port
  local port=$PORT
  [ "$1" = in-band ] || port=$DISCOVERY_PORT
  nvme connect-all -t tcp -a "$ADDR" -s "$port"
  await 20 "a live controller" is_live "$(controller "$NQN")"
  await 20 "namespace 1" namespace "$NQN" 1
  leave
  nvme disconnect -n nqn.2014-08.org.nvmexpress.discovery
}

# Four I/O queues, each used: data written through one processor's queue is read through another's.
connects() { # connects no-digests|header-digest|data-digest|both-digests
  local digests=() c dev cpu
  case $1 in
  header-digest) digests=(--hdr-digest) ;;
  data-digest) digests=(--data-digest) ;;
  both-digests) digests=(--hdr-digest --data-digest) ;;
  esac
  join "${digests[@]}"
  c=$(controller "$NQN")
  same "queue_count (one admin queue, four I/O queues)" "$(cat "/sys/class/nvme/$c/queue_count")" 5
  dev=/dev/$(namespace "$NQN" 1)
  for cpu in 0 1 2 3; do
    head -c 262144 /dev/urandom >"$W/data"
    taskset -c $cpu dd if="$W/data" of="$dev" bs=64k seek=$cpu oflag=direct status=none
    taskset -c $((3 - cpu)) dd if="$dev" bs=64k skip=$cpu count=4 iflag=direct status=none | cmp - "$W/data"
  done
  verified "$(namespace "$NQN" 1)" 4k 1M 2M
  verified "$(namespace "$NQN" 2)" 128k 0 8M
  leave
}

unknown_subsystem_is_refused() {
  refused 'failed to write|could not add|Invalid' \
    nvme connect -t tcp -a "$ADDR" -s "$PORT" -n "$NQN:none"
  dmesg | tail -n 5 | grep -E 'Connect Invalid Data Parameter' || fail "the kernel names no invalid parameter"
  is_gone "$NQN:none" || fail "a controller lingers"
}

# The guarded subsystem's host list holds ALLOWED_HOST only. The kernel wants one host id per host NQN.
guarded() {
  local host=$1
  shift
  nvme "$@" -t tcp -a "$ADDR" -s "$GUARDED_PORT" --hostnqn="$host" --hostid="${host##*:}"
}
STRANGER=nqn.2014-08.org.nvmexpress:uuid:5f3b1c52-9f0e-4f9c-8d5e-0badc0ffee00

stranger_is_refused() {
  export -f guarded
  refused 'failed to write|could not add|not allowed|[Ii]nvalid [Hh]ost|denied' \
    bash -c 'guarded "$@"' - "$STRANGER" connect -n "$GUARDED_NQN"
  dmesg | tail -n 5 | grep -E 'not allowed, hostnqn' || fail "the kernel does not say that the host is not allowed"
  is_gone "$GUARDED_NQN" || fail "a controller lingers"
}

stranger_discovers_nothing() {
  guarded "$STRANGER" discover -o json >"$W/log"
  same "the number of records" "$(record_of "$GUARDED_NQN" <"$W/log" | grep -c . || true)" 0
}

listed_host_is_served() {
  guarded "$ALLOWED_HOST" discover -o json >"$W/log"
  same "the number of records" "$(record_of "$GUARDED_NQN" <"$W/log" | grep -c .)" 1
  guarded "$ALLOWED_HOST" connect -n "$GUARDED_NQN"
  await 20 "namespace 1" namespace "$GUARDED_NQN" 1
  verified "$(namespace "$GUARDED_NQN" 1)" 4k 0 1M
  nvme disconnect -n "$GUARDED_NQN"
  await 20 "the end of the controller" is_gone "$GUARDED_NQN"
}

# The first guest records what it saw; every later connection and guest has to see the same.
identity_is_stable() {
  local nsid
  for nsid in 1 2 3; do identity $nsid; done >"$W/identity"
  cat "$W/identity"
  if grep -E 'nguid=0{8}-0{4}-0{4}-|uuid=0{8}-0{4}' "$W/identity"; then fail "an identifier is zero"; fi
  same "the number of different NGUIDs" "$(grep -o 'nguid=[^ ]*' "$W/identity" | sort -u | grep -c .)" 3
  same "the number of different UUIDs" "$(grep -o ' uuid=[^ ]*' "$W/identity" | sort -u | grep -c .)" 3
  [ -e /out/identity ] || cp "$W/identity" /out/identity
  diff /out/identity "$W/identity" || fail "identifiers, size or format have changed"
}

survives_reconnection() {
  leave
  join
  identity_is_stable
}
