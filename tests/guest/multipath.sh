# shellcheck shell=bash disable=SC2153
# Checks of one namespace that several nodes serve at once: the kernel makes one device with a path to each of them, and a file system
# on it does not notice that nodes are stopped and killed. Sourced by in-guest.sh after harness.sh.

SHARED_PATHS=2
# A node that comes back has this long to be a live path of this host again.
RETURN_S=40
# What may follow from the loss of a path: a controller that runs into a time-out, and reading ahead (flags RAHEAD, 80000h, and
# FAILFAST, 700h) that the kernel gives up on that path instead of sending it by the other one; who wants the data reads it then.
LOST_PATH='nvme nvme[0-9]+: .*[Tt]imeout|I/O error, dev nvme[0-9]+c[0-9]+n1, sector [0-9]+ op 0x0:\(READ\) flags 0x208[0-9a-f][7f]00 '

shared_device() { namespace "$SHARED_NQN" 1; }
shared_paths() { controllers "$SHARED_NQN"; }

# The controller by which a node is reached: path_to SLOT
path_to() {
  local c port=SHARED_PORT_$1
  for c in $(shared_paths); do
    if grep -Eq "trsvcid=${!port}(,|$)" "/sys/class/nvme/$c/address"; then
      echo "$c"
      return 0
    fi
  done
  return 1
}
# The block device, hidden from everything but sysfs, of the namespace by one controller: leg_of CONTROLLER
leg_of() {
  local n
  for n in /sys/class/nvme/"$1"/nvme*c*n*; do
    [ ! -d "$n" ] || { echo "${n##*/}"; return 0; }
  done
  return 1
}
# Reads and writes that a node was sent by this host: done_by SLOT
done_by() { awk '{ print $1 + $5 }' "/sys/block/$(leg_of "$(path_to "$1")")/stat"; }
has_done() { [ "$(done_by "$1")" -ge "$2" ]; }

# The ports of the shared subsystem that a node's discovery log names: ports_by SLOT
ports_by() {
  local port=SHARED_PORT_$1
  nvme discover -t tcp -a "$ADDR" -s "${!port}" -o json >"$W/log"
  jq -r --arg n "$SHARED_NQN" '.records[] | select(.subnqn == $n) | .trsvcid' "$W/log" | sort | tr '\n' ' '
}
names() { [ "$(ports_by "$1" | wc -w)" = "$2" ]; }
generation_by() { local port=SHARED_PORT_$1; nvme discover -t tcp -a "$ADDR" -s "${!port}" -o json | jq .genctr; }

each_node_names_all() {
  local slot all generation
  all=$(printf '%s\n' "$SHARED_PORT_0" "$SHARED_PORT_1" | sort | tr '\n' ' ')
  for slot in 0 1; do
    same "what node $slot names" "$(ports_by $slot)" "$all"
    same "the number of port ids that node $slot names" \
      "$(jq --arg n "$SHARED_NQN" '[.records[] | select(.subnqn == $n) | .portid] | unique | length' "$W/log")" 2
    generation=$(generation_by $slot)
    same "the generation by node $slot, read again" "$(generation_by $slot)" "$generation"
  done
}

# Who knows one node finds the others.
one_address_connects_both() {
  nvme connect-all -t tcp -a "$ADDR" -s "$SHARED_PORT_1"
  await 20 "two controllers" has_paths $SHARED_PATHS
  both_nodes_are_left
  nvme disconnect -n nqn.2014-08.org.nvmexpress.discovery
}
has_paths() { [ "$(shared_paths | wc -l)" = "$1" ]; }

both_nodes_connect() {
  local slot port
  for slot in 0 1; do
    port=SHARED_PORT_$slot
    nvme connect -t tcp -a "$ADDR" -s "${!port}" -n "$SHARED_NQN" --nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=120
  done
  for slot in 0 1; do
    await 20 "a live path to node $slot" is_live "$(path_to $slot)"
    await 20 "the namespace by node $slot" leg_of "$(path_to $slot)"
  done
  await 20 "the device" shared_device
}

one_device_has_two_paths() {
  local c leg devices subsystem
  nvme list-subsys
  nvme list-subsys -o json >"$W/subsystems"
  jq '[.. | .Subsystems? // empty | .[] | select(.NQN == "'"$SHARED_NQN"'")]' "$W/subsystems" >"$W/shared"
  same "the number of subsystems" "$(jq length "$W/shared")" 1
  same "the number of its live paths" "$(jq '[.[].Paths[] | select(.State == "live")] | length' "$W/shared")" $SHARED_PATHS
  devices=$(lsblk -dno NAME | grep -c '^nvme')
  same "the number of block devices" "$devices" 1
  same "the size" "$(blockdev --getsize64 "/dev/$(shared_device)")" "$SHARED_BYTES"
  subsystem=$(echo /sys/class/nvme-subsystem/*)
  for c in $(shared_paths); do
    leg=$(leg_of "$c")
    [ -e "$subsystem/$c" ] || fail "$c is of another subsystem"
    same "the access state by $c" "$(cat "/sys/block/$leg/ana_state")" optimized
    same "the access group by $c" "$(cat "/sys/block/$leg/ana_grpid")" 1
    nvme ana-log "/dev/$c" -o json | tee "$W/ana"
    same "the state in the log of $c" "$(jq -r '.. | .state? // empty' "$W/ana")" optimized
  done
  nvme list-subsys "/dev/$(shared_device)" | tee "$W/listed"
  same "the number of paths listed as optimized" "$(grep -c 'live optimized' "$W/listed")" $SHARED_PATHS
}

# Whatever a host may recognise a namespace by is the same by both nodes; the controllers are two of one subsystem.
paths_agree() {
  local c field
  for c in $(shared_paths); do
    nvme id-ns "/dev/$c" -n 1 -o json >"$W/ns-$c"
    nvme ns-descs "/dev/$c" -n 1 >"$W/descriptors-$c"
    nvme id-ctrl "/dev/$c" -o json | jq -S 'del(.cntlid, .ciu, .cirn)' >"$W/controller-$c"
    nvme id-ctrl "/dev/$c" -o json | jq .cntlid >>"$W/cntlids"
  done
  for field in ns descriptors controller; do
    # shellcheck disable=SC2046 # One word a controller.
    diff $(shared_paths | sed "s|^|$W/$field-|") || fail "two nodes give different answers: $field"
  done
  same "the number of controller ids" "$(sort -u "$W/cntlids" | wc -l)" $SHARED_PATHS
  jq -r '[.nguid, .nsze] | @tsv' "$W/ns-$c"
  if jq -r .nguid "$W/ns-$c" | grep -E '^0+$'; then fail "the NGUID is zero"; fi
}

# Every path gets its share: shares_load POLICY
shares_load() {
  local dev policy before=() slot
  dev=$(shared_device)
  policy=$(echo /sys/class/nvme-subsystem/*/iopolicy)
  echo "$1" >"$policy"
  same "the policy" "$(cat "$policy")" "$1"
  for slot in 0 1; do before[slot]=$(done_by $slot); done
  verified "$dev" 4k 0 2M
  for slot in 0 1; do at_least "commands by node $slot" $(($(done_by $slot) - before[slot])) 100; done
}

# Blocks that one node has written are read from the other, at once, with direct I/O through one path and then the other.
what_one_writes_the_other_reads() {
  local round dev legs
  dev=/dev/$(shared_device)
  mapfile -t legs < <(shared_paths)
  for round in 0 1 2 3; do
    head -c 8192 /dev/urandom >"$W/data"
    nvme write "/dev/${legs[round % 2]}" -n 1 -s $((round * 3)) -c 1 -z 8192 -d "$W/data"
    rm -f "$W/back"
    nvme read "/dev/${legs[1 - round % 2]}" -n 1 -s $((round * 3)) -c 1 -z 8192 -d "$W/back"
    cmp "$W/data" "$W/back"
    dd if="$dev" of="$W/back" bs=4k skip=$((round * 3)) count=2 iflag=direct status=none
    cmp "$W/data" "$W/back"
  done
}

# Writes and verifies over and over, until the ports have come and gone.
block_load() {
  until [ -e "$W/ports-over" ]; do verified "$(shared_device)" 4k 0 1M --rate=1M,1M || return 1; done
}
has_state() { [ "$(cat "/sys/block/$1/ana_state")" = "$2" ]; }

# Each node's port of the virtual disk is deleted and added again under load: its path stays live, and is not used meanwhile.
paths_close_and_open() {
  local slot leg before load
  trap 'touch "$W/ports-over"; kill -KILL $(jobs -pr) 2>/dev/null || true' EXIT
  block_load >"$W/block-load" 2>&1 &
  load=$!
  goes_on $load 0 1
  for slot in 0 1; do
    leg=$(leg_of "$(path_to $slot)")
    ask "delete-port.$slot"
    await 20 "the state inaccessible by node $slot" has_state "$leg" inaccessible
    before=$(done_by $slot)
    goes_on $load $((1 - slot))
    same "commands by node $slot without a port" "$(done_by $slot)" "$before"
    is_live "$(path_to $slot)" || fail "the controller of node $slot is not live"
    ask "add-port.$slot"
    await 20 "the state optimized by node $slot" has_state "$leg" optimized
    goes_on $load 0 1
  done
  touch "$W/ports-over"
  wait $load || fail "the load failed: $(grep -Ei 'verify|error|err=' "$W/block-load" | head -n 3)"
}

# Mixed reads and writes of files, one past the page cache and one through it, each block with its checksum, until the rounds
# are over; every pass reads all that it has written once more.
file_load() {
  local pass=0
  until [ -e "$W/rounds-over" ]; do
    pass=$((pass + 1))
    fio --directory=/mnt --rw=randrw --rwmixread=40 --bs=4k --size=6M --verify=crc32c --do_verify=1 --verify_fatal=1 \
      --verify_state_save=0 --verify_backlog=128 --randseed=$pass --ioengine=io_uring --iodepth=8 \
      --name=direct --direct=1 --rate=2M,2M --name=cached --direct=0 --fsync=64 --rate=2M,2M || return 1
    echo "pass $pass is verified"
  done
}

# The load has gone on by these nodes: goes_on FIO-PID SLOT...
goes_on() {
  local load=$1 slot
  shift
  for slot in "$@"; do await 45 "load by node $slot" has_done "$slot" $(($(done_by "$slot") + 150)); done
  kill -0 "$load" || fail "the load has ended"
}

# One node goes and comes back: trouble ROUND HOW SLOT LOAD-PID
trouble() {
  local round=$1 how=$2 slot=$3 load=$4 c start=$SECONDS
  c=$(path_to "$slot")
  ask "$how-node.n$slot.$round"
  await 20 "the loss of the path to node $slot" is_lost "$c"
  goes_on "$load" $((1 - slot))
  echo "round $round: node $slot $how: the load goes on by the other after $((SECONDS - start)) s"
  await 5 "a discovery log without node $slot" names $((1 - slot)) 1
  ask "start-node.n$slot.$round"
  await $RETURN_S "the path to node $slot" is_live "$c"
  goes_on "$load" 0 1
  echo "round $round: node $slot is back after $((SECONDS - start)) s"
}
is_lost() { ! is_live "$1"; }

nodes_go_and_come_under_a_file_system() {
  local dev round load
  dev=/dev/$(shared_device)
  trap 'touch "$W/rounds-over"; kill -KILL $(jobs -pr) 2>/dev/null || true; umount -l /mnt 2>/dev/null || true' EXIT
  mkfs.ext4 -q -F "$dev"
  mount "$dev" /mnt
  head -c 3M /dev/urandom >/mnt/kept
  sha256sum /mnt/kept >"$W/sums"
  file_load >"$W/load" 2>&1 &
  load=$!
  goes_on $load 0 1
  for round in $(seq "$ROUNDS"); do
    trouble "$round" stop $((round % 2)) $load
    trouble "$round" kill $((1 - round % 2)) $load
    cp "$W/load" /out/load
  done
  touch "$W/rounds-over"
  wait $load || fail "the load failed: $(grep -Ei 'verify|error|err=' "$W/load" | head -n 3)"
  cp "$W/load" /out/load
  at_least "passes of the load" "$(grep -c 'is verified' "$W/load")" 1
  sync
  echo 3 >/proc/sys/vm/drop_caches
  sha256sum --quiet -c "$W/sums"
  umount /mnt
  fsck.ext4 -fn "$dev"
  mount "$dev" /mnt
  sha256sum --quiet -c "$W/sums"
  umount /mnt
}

# Whoever goes on writing does so until the group is served again; nothing is compared, because an operator accepts that writes are lost.
hall_load() {
  until [ -e "$W/hall-over" ]; do
    fio --name=hall --filename="/dev/$(namespace "$HALL_NQN" 1)" --rw=randrw --bs=4k --size=2M --direct=1 --ioengine=io_uring \
      --iodepth=8 --rate=1M,1M || return 1
  done
}

# The controller by which a node of the hall is reached: hall_path SLOT
hall_path() {
  local c port=HALL_PORT_$1
  for c in $(controllers "$HALL_NQN"); do
    if grep -Eq "trsvcid=${!port}(,|$)" "/sys/class/nvme/$c/address"; then
      echo "$c"
      return 0
    fi
  done
  return 1
}
hall_done() { awk '{ print $1 + $5 }' "/sys/block/$(leg_of "$(hall_path "$1")")/stat"; }
hall_has_done() { [ "$(hall_done "$1")" -ge "$2" ]; }
hall_goes_on() { # hall_goes_on FIO-PID: by all nodes
  local slot
  for slot in 0 1 2; do await 30 "load by node $slot" hall_has_done "$slot" $(($(hall_done "$slot") + 50)); done
  kill -0 "$1" || fail "the load has ended"
}

# Two of three nodes go at once with all copies of what they acknowledged. The third one does not serve the group, its path is inaccessible, and the host's
# commands wait, without an error, until an operator has accepted the loss.
host_waits_while_no_node_serves() {
  local slot port load leg before
  ask start-hall
  for slot in 0 1 2; do
    port=HALL_PORT_$slot
    nvme connect -t tcp -a "$ADDR" -s "${!port}" -n "$HALL_NQN" --nr-io-queues=2 --reconnect-delay=1 --ctrl-loss-tmo=120
    await 20 "a live path to node $slot" is_live "$(hall_path $slot)"
    await 20 "the namespace by node $slot" leg_of "$(hall_path $slot)"
  done
  await 20 "the device" namespace "$HALL_NQN" 1
  for policy in /sys/class/nvme-subsystem/*/iopolicy; do echo round-robin >"$policy"; done
  trap 'touch "$W/hall-over"; kill -KILL $(jobs -pr) 2>/dev/null || true' EXIT
  hall_load >"$W/hall-load" 2>&1 &
  load=$!
  hall_goes_on $load
  ask lose-copies
  leg=$(leg_of "$(hall_path 2)")
  await 20 "the state inaccessible by node 2" has_state "$leg" inaccessible
  before=$(hall_done 2)
  sleep 5 # Commands have that long to end wrongly.
  kill -0 $load || fail "the load has ended: $(tail -n 3 "$W/hall-load")"
  same "commands by node 2 meanwhile" "$(hall_done 2)" "$before"
  is_live "$(hall_path 2)" || fail "the controller of node 2 is not live"
  ask accept-loss
  for slot in 0 1 2; do
    await $RETURN_S "the path to node $slot" is_live "$(hall_path $slot)"
    await 20 "the state optimized by node $slot" has_state "$(leg_of "$(hall_path $slot)")" optimized
  done
  hall_goes_on $load
  touch "$W/hall-over"
  wait $load || fail "the load failed: $(grep -Ei 'error|err=' "$W/hall-load" | head -n 3)"
  verified "$(namespace "$HALL_NQN" 1)" 4k 0 2M
  nvme disconnect -n "$HALL_NQN"
  await 20 "the end of the last controller" is_gone "$HALL_NQN"
}

both_nodes_are_left() {
  nvme disconnect -n "$SHARED_NQN"
  await 20 "the end of the last controller" is_gone "$SHARED_NQN"
}

multipath() {
  check each_node_names_all
  check one_address_connects_both
  check both_nodes_connect
  check one_device_has_two_paths
  check paths_agree
  check shares_load round-robin
  if echo queue-depth >"$(echo /sys/class/nvme-subsystem/*/iopolicy)"; then
    check shares_load queue-depth
  else
    skip "this kernel has no such policy" shares_load queue-depth
  fi
  check what_one_writes_the_other_reads
  check -t 180 paths_close_and_open
  check -t $((120 + 90 * ROUNDS)) -a "$LOST_PATH" nodes_go_and_come_under_a_file_system
  check each_node_names_all
  check both_nodes_are_left
  check -t 180 -a "$LOST_PATH" host_waits_while_no_node_serves
}
