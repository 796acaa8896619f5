# shellcheck shell=bash
# Checks under load: a drive that fails, a target that restarts, hosts that leave, stall or die.
# Sourced by in-guest.sh after harness.sh. Each proves that the load was still running when the fault came.

# The regions of namespace 1 and 2 that outlive the first guest; `verified` repeats their seeds.
KEPT_1=(4k 64M 32M)
KEPT_2=(128k 64M 32M)

# Waits until a fio in the background has written some blocks, acts, and sees fio through:
# under_load FIO-PID DEVICE WRITES ACT [ARG]...
under_load() {
  local fio=$1 dev=$2 writes=$3
  shift 3
  # Whatever fails: no later check shall find its blocks overwritten.
  trap 'kill -KILL $(jobs -pr) 2>/dev/null || true' EXIT
  await 60 "$writes writes on $dev" has_written "$dev" "$writes"
  kill -0 "$fio" || fail "fio ended before it could be disturbed"
  "$@"
  kill -0 "$fio" || fail "fio ended before '$*' was done: nothing is shown"
  wait "$fio"
}

drive_fails_under_4k_writes() {
  local dev
  dev=$(namespace "$NQN" 1)
  verified "$dev" "${KEPT_1[@]}" --rate=6M,6M &
  under_load $! "$dev" $(($(writes_done "$dev") + 500)) ask fail-drive.g0.d1
}

drive_fails_under_128k_writes() {
  local dev
  dev=$(namespace "$NQN" 2)
  verified "$dev" "${KEPT_2[@]}" --rate=8M,8M &
  under_load $! "$dev" $(($(writes_done "$dev") + 32)) ask fail-drive.g1.e2
}

# The same load without a failing drive, for the reference target.
writes_verify() { # writes_verify NSID BLOCK-SIZE OFFSET BYTES
  verified "$(namespace "$NQN" "$1")" "${@:2}"
}

earlier_writes_verify() { # earlier_writes_verify NSID BLOCK-SIZE OFFSET BYTES
  verified "$(namespace "$NQN" "$1")" "${@:2}" --verify_only
}

target_restarts_under_load() {
  local dev
  dev=$(namespace "$NQN" 1)
  # Long enough for a slow host, whose answer may come seconds after the target is there again.
  verified "$dev" 4k 0 56M --rate=4M,4M &
  under_load $! "$dev" $(($(writes_done "$dev") + 500)) ask restart
  dmesg | grep -E 'Successfully reconnected' || fail "the kernel reports no reconnection"
  is_live "$(controller "$NQN")" || fail "the controller is not live"
  identity_is_stable
}

reset_under_load() {
  local dev
  dev=$(namespace "$NQN" 2)
  verified "$dev" 4k 0 16M --rate=4M,4M &
  under_load $! "$dev" $(($(writes_done "$dev") + 500)) nvme reset "$(char)"
  is_live "$(controller "$NQN")" || fail "the controller is not live"
}

# The load fails, as it must without its device, but it ends, and the next connection works.
disconnects_under_load() {
  local dev fio rc=0
  dev=$(namespace "$NQN" 1)
  fio --name=cut --filename="/dev/$dev" --rw=randrw --bs=4k --size=64M --direct=1 --ioengine=io_uring \
    --iodepth=32 --time_based --runtime=300 >"$W/cut" 2>&1 &
  fio=$!
  await 60 "500 writes on $dev" has_written "$dev" $(($(writes_done "$dev") + 500))
  kill -0 $fio || fail "fio ended before it could be disturbed"
  leave
  await 30 "the end of fio" bash -c "! kill -0 $fio"
  wait $fio || rc=$?
  [ $rc != 0 ] || fail "fio succeeded without its device"
  join
  verified "$(namespace "$NQN" 1)" 4k 0 1M
}

# The host stops this whole guest for longer than its keep-alive time-out, in the midst of writes, until
# the target has given the association up. Then the guest goes on: the kernel reconnects, no write is lost.
stalled_host_returns() {
  local dev
  dev=$(namespace "$NQN" 3)
  verified "$dev" 4k 0 16M --rate=2M,2M &
  under_load $! "$dev" $(($(writes_done "$dev") + 300)) ask stall
  dmesg | grep -E 'Successfully reconnected' || fail "the kernel reports no reconnection"
}

# The host kills this guest in the midst of writes; only the host is left to tell how that went.
host_is_killed() {
  local dev
  dev=$(namespace "$NQN" 3)
  fio --name=doomed --filename="/dev/$dev" --rw=randwrite --bs=64k --size=16M --direct=1 \
    --ioengine=io_uring --iodepth=32 --time_based --runtime=300 >/dev/null &
  await 60 "500 writes on $dev" has_written "$dev" $(($(writes_done "$dev") + 500))
  ask kill
  fail "still alive"
}

# Writes and verifies for as long as the host troubles another guest, and at least once.
unharmed_by_others() {
  local dev rounds=0
  dev=$(namespace "$NQN" 1)
  : >/out/ask-watch
  until [ -e /out/answer-watch ]; do
    verified "$dev" 4k 0 4M
    rounds=$((rounds + 1))
  done
  same "the host's answer" "$(cat /out/answer-watch)" ok
  at_least "rounds of writes" $rounds 1
  if dmesg | grep -E 'reconnect|error recovery|keep.alive'; then fail "this host lost its connection"; fi
}
