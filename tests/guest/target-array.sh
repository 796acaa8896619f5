# shellcheck shell=bash disable=SC2034,SC2154
# `run` and this file share variables.
# Arrays on this machine's loopback: a shelf and the Braid nodes that share one RAID-5 group on it, two of `vault` and three of `hall`.
# Sourced by `run`, after target-braid.sh.
# Every function ends with 0, or says why not on stdout and ends with 1.

declare -A nodes_of=([vault]="n0 n1" [hall]="h0 h1 h2")
SHARED_NQN=nqn.2026-01.io.braid:array:vault HALL_NQN=nqn.2026-01.io.braid:array:hall # The default of all nodes of an array.
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

group_durability() { # group_durability WHEN: with what its configuration says when a write is done.
  [ "$1" != ram ] || printf 'durability = "ram"\ncopies = 2'
}

# Writes what the shelf and the nodes of an array are started with: array_configure ARRAY DURABILITY PORT-VARIABLE...
# Hosts reach the node of slot 0 at the first of these ports, and so on.
array_configure() {
  local array=$1 durability=$2 shelf slot peer d links=() link node nodes
  shift 2
  read -ra nodes <<<"${nodes_of[$array]}"
  free_port shelf
  for slot in "${!nodes[@]}"; do
    free_pair link
    links+=("$link")
  done
  "$braid" array key >"$work/$array.key"
  {
    cat <<TOML
[shelf]
name = "$array-shelf"
rpc_socket = "$array-shelf.sock"
quorum_mib = 1
create = true
[subsystem]
nqn = "nqn.2026-01.io.braid:$array-shelf"
[reactor]
cores = 1
poll = "interrupt"
[[listen]]
address = "127.0.0.1:$shelf"
TOML
    for d in 0 1 2 3 4; do printf '[[drive]]\nname = "s%s"\npath = "%s-s%s.img"\nsize_mib = 64\n' $d "$array" $d; done
  } >"$work/$array-shelf.toml"
  for slot in "${!nodes[@]}"; do
    free_port "$1"
    node=${nodes[slot]} link=$1
    shift
    {
      cat <<TOML
[node]
name = "$node"
rpc_socket = "$node.sock"
[reactor]
cores = 1
poll = "interrupt"
memory_mib = 32
[[listen]]
address = "127.0.0.1:${!link}"
advertise = "$ADVERTISED"
[array]
name = "$array"
slot = $slot
key_file = "$array.key"
listen = "127.0.0.1:${links[slot]}"
[[shelf]]
name = "shelf"
addresses = ["127.0.0.1:$shelf"]
nqn = "nqn.2026-01.io.braid:$array-shelf"
TOML
      for peer in "${!nodes[@]}"; do
        [ "$peer" = "$slot" ] || printf '[[peer]]\nslot = %s\naddresses = ["127.0.0.1:%s"]\n' "$peer" "${links[peer]}"
      done
      for d in 0 1 2 3 4; do printf '[[drive]]\nname = "d%s"\nshelf = "shelf"\nnsid = %s\n' $d $((2 * d + 1)); done
      cat <<TOML
[[group]]
name = "g"
level = "raid5"
drives = ["d0", "d1", "d2", "d3"]
strip_kib = 16
journal_mib = 16
create = true
$(group_durability "$durability")
[[vdisk]]
name = "v"
group = "g"
size_mib = $((SHARED_BYTES >> 20))
nsid = 1
TOML
    } >"$work/$node.toml"
  done
}

array_of() { # array_of NODE
  local array
  for array in "${!nodes_of[@]}"; do
    [[ " ${nodes_of[$array]} " != *" $1 "* ]] || echo "$array"
  done
}

array_is_open() { # array_is_open ARRAY NODE: this node serves, in an open epoch of which all nodes of the array are members.
  local shown members slot all
  read -ra all <<<"${nodes_of[$1]}"
  members=$(for slot in "${!all[@]}"; do printf '\[%s,"[^"]*"\],' "$slot"; done)
  shown=$(control_array "$2" array show --json 2>&1 | tr -d ' \n')
  grep -q '"stage":"open"' <<<"$shown" && grep -q '"serves":true' <<<"$shown" &&
    grep -Eq '"members":\['"${members%,}"'\]' <<<"$shown" || { echo "not open to all, says $2: $shown"; return 1; }
}

array_opens() { # array_opens ARRAY
  local node limit=$((SECONDS + 30))
  for node in ${nodes_of[$1]}; do
    until array_is_open "$1" "$node" >"$work/array.why"; do
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

# It takes a node a moment to be connected to all drives: array_create NODE
array_create() {
  local limit=$((SECONDS + 30))
  until control_array "$1" array create >"$work/array.why" 2>&1; do
    [ $SECONDS -lt $limit ] || { cat "$work/array.why"; return 1; }
    sleep 0.5
  done
}

array_start() { # array_start ARRAY
  local node
  process_start shelf "$1-shelf" || return 1
  for node in ${nodes_of[$1]}; do node_start "$node" || return 1; done
  array_create "$node" && array_opens "$1"
}

array_start_node() { node_start "$1" && array_opens "$(array_of "$1")"; } # array_start_node NODE: it comes back by itself.

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
  node_kill "$1"
}

node_kill() { # node_kill NAME
  kill -KILL "${node_pid[$1]}" || { echo "$1 was gone already"; return 1; }
  wait "${node_pid[$1]}" 2>/dev/null || true
}

# The virtual disk's port at a node, changed by way of the other one: array_port add|delete SLOT
array_port() { control_array "n$((1 - $2))" port "$1" v --node "$2"; }

array_alive() { # array_alive ARRAY
  local name
  for name in "$1-shelf" ${nodes_of[$1]}; do
    kill -0 "${node_pid[$name]:-}" 2>/dev/null || { echo "$name has died: $(tail -n 1 "$work/$name.log")"; return 1; }
  done
}

array_kill() { # array_kill ARRAY: where a stop may take too long for node_stop (known fault 4 in README.md).
  local name
  for name in ${nodes_of[$1]} "$1-shelf"; do node_kill "$name" || return 1; done
}

array_stop() { # array_stop ARRAY
  local name
  for name in ${nodes_of[$1]} "$1-shelf"; do node_stop "$name" || return 1; done
}

array_log_is_clean() { # array_log_is_clean ARRAY
  local name
  for name in "$1-shelf" ${nodes_of[$1]}; do
    ! grep -im1 -e panic -e assertion "$work/$name.log" || return 1
  done
}

# h0 goes together with h1, which has the only copies of what it acknowledged; h2 is left, and does not serve the group.
hall_loses_all_copies() {
  local shown limit=$((SECONDS + 20))
  array_is_in_memory h0 || return 1
  kill -KILL "${node_pid[h0]}" "${node_pid[h1]}"
  wait "${node_pid[h0]}" "${node_pid[h1]}" 2>/dev/null || true
  until
    shown=$(control_array h2 group show g 2>&1)
    grep -q 'so are all that kept copies for them' <<<"$shown"
  do
    [ $SECONDS -lt $limit ] || { echo "h2 does not say that it does not serve the group: $shown"; return 1; }
    sleep 0.1
  done
}

# The operator accepts that writes may be lost. h2 is killed, because its stop may take too long for node_stop (known fault 4 in README.md).
hall_accepts_the_loss() {
  local node
  node_kill h2 || return 1
  for node in ${nodes_of[hall]}; do process_start node "$node" --accept-loss g || return 1; done
  array_opens hall
}
