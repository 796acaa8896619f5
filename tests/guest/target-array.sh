# shellcheck shell=bash disable=SC2034,SC2154
# `run` and this file share variables.
# A shelf and two Braid nodes on this machine's loopback, which share one RAID-5 group. Sourced by `run`, after target-braid.sh.
# Every function ends with 0, or says why not on stdout and ends with 1.

SHARED_NQN=nqn.2026-01.io.braid:array:vault # The default of all nodes of that array.
SHARED_BYTES=$((96 << 20))

# A port with a free one above it, where the link of a node's first core listens: free_pair VARIABLE
free_pair() {
  local below above
  for _ in $(seq 100); do
    free_port below || return 1
    above=$((below + 1))
    if [[ $taken != *" $above "* ]] && ! (exec 3<>"/dev/tcp/127.0.0.1/$above") 2>/dev/null; then
      taken+="$above "
      printf -v "$1" %s "$below"
      return 0
    fi
  done
  echo "no two free ports in a row"
  return 1
}

group_durability() { # With what its configuration says when a write is done.
  [ "$durability" != ram ] || printf 'durability = "ram"\ncopies = 2'
}

array_configure() {
  local shelf slot peer d links=() link
  free_port shelf
  free_port SHARED_PORT_0
  free_port SHARED_PORT_1
  for slot in 0 1; do
    free_pair link
    links+=("$link")
  done
  "$braid" array key >"$work/vault.key"
  {
    cat <<TOML
[shelf]
name = "shelf"
rpc_socket = "shelf.sock"
quorum_mib = 1
create = true
[subsystem]
nqn = "nqn.2026-01.io.braid:shelf"
[reactor]
cores = 1
poll = "interrupt"
[[listen]]
address = "127.0.0.1:$shelf"
TOML
    for d in 0 1 2 3 4; do printf '[[drive]]\nname = "s%s"\npath = "s%s.img"\nsize_mib = 64\n' $d $d; done
  } >"$work/shelf.toml"
  for slot in 0 1; do
    peer=$((1 - slot)) link=SHARED_PORT_$slot
    {
      cat <<TOML
[node]
name = "n$slot"
rpc_socket = "n$slot.sock"
[reactor]
cores = 1
poll = "interrupt"
memory_mib = 32
[[listen]]
address = "127.0.0.1:${!link}"
advertise = "$ADVERTISED"
[array]
name = "vault"
slot = $slot
key_file = "vault.key"
listen = "127.0.0.1:${links[slot]}"
[[peer]]
slot = $peer
addresses = ["127.0.0.1:${links[peer]}"]
[[shelf]]
name = "shelf"
addresses = ["127.0.0.1:$shelf"]
nqn = "nqn.2026-01.io.braid:shelf"
TOML
      for d in 0 1 2 3 4; do printf '[[drive]]\nname = "d%s"\nshelf = "shelf"\nnsid = %s\n' $d $((2 * d + 1)); done
      cat <<TOML
[[group]]
name = "g"
level = "raid5"
drives = ["d0", "d1", "d2", "d3"]
strip_kib = 16
journal_mib = 16
create = true
$(group_durability)
[[vdisk]]
name = "v"
group = "g"
size_mib = $((SHARED_BYTES >> 20))
nsid = 1
TOML
    } >"$work/n$slot.toml"
  done
}

array_is_open() { # array_is_open NODE: this node serves, in an open epoch of which both are members.
  local shown
  shown=$(control_array "$1" array show --json 2>&1 | tr -d ' \n')
  grep -q '"stage":"open"' <<<"$shown" && grep -q '"serves":true' <<<"$shown" &&
    grep -Eq '"members":\[\[0,"[^"]*"\],\[1,"[^"]*"\]\]' <<<"$shown" || { echo "not open to both, says $1: $shown"; return 1; }
}

array_opens() {
  local node limit=$((SECONDS + 30))
  for node in n0 n1; do
    until array_is_open "$node" >"$work/array.why"; do
      [ $SECONDS -lt $limit ] || { cat "$work/array.why"; return 1; }
      sleep 0.2
    done
  done
}

control_array() { # control_array NODE ARGUMENT...
  local node=$1
  shift
  "$braid" "$@" --socket "$work/$node.sock"
}

# It takes a node a moment to be connected to all drives.
array_create() {
  local limit=$((SECONDS + 30))
  until control_array n0 array create >"$work/array.why" 2>&1; do
    [ $SECONDS -lt $limit ] || { cat "$work/array.why"; return 1; }
    sleep 0.5
  done
}

array_start() {
  process_start shelf shelf && node_start n0 && node_start n1 && array_create && array_opens
}

array_start_node() { node_start "$1" && array_opens; } # array_start_node NODE: it comes back by itself.

# A node of a group of durability `ram` has acknowledged what no drive has, and the other one keeps all of it: array_is_in_memory NODE
array_is_in_memory() {
  local shown limit=$((SECONDS + 20))
  until
    shown=$(control_array "$1" group show g --json 2>&1 | tr -d ' \n')
    grep -q '"dirty_ram":true' <<<"$shown" && grep -q '"copies":{[^}]*"now":2[,}]' <<<"$shown"
  do
    [ $SECONDS -lt $limit ] || { echo "$1 acknowledges nothing from memory: $shown"; return 1; }
    sleep 0.1
  done
}

array_kill_node() { # array_kill_node NODE: neither it nor the other one is told.
  [ "$durability" != ram ] || array_is_in_memory "$1" || return 1
  kill -KILL "${node_pid[$1]}" || { echo "$1 was gone already"; return 1; }
  wait "${node_pid[$1]}" 2>/dev/null || true
}

# The virtual disk's port at a node, changed by way of the other one: array_port add|delete SLOT
array_port() { control_array "n$((1 - $2))" port "$1" v --node "$2"; }

array_alive() {
  local name
  for name in shelf n0 n1; do
    kill -0 "${node_pid[$name]}" 2>/dev/null || { echo "$name has died: $(tail -n 1 "$work/$name.log")"; return 1; }
  done
}

array_stop() { node_stop n0 && node_stop n1 && node_stop shelf; }

array_log_is_clean() {
  ! grep -him1 -e panic -e assertion "$work"/{n0,n1,shelf}.log
}
