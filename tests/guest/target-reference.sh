# shellcheck shell=bash disable=SC2034,SC2154
# `run` and this file share variables.
# The target as the host side drives it, in reference mode: a guest of its own that runs the kernel's nvmet,
# reached through forwarded ports. What only Braid has (drives that fail, logs) is absent. Sourced by `run`.

target_configure() {
  # nvmet advertises the address at which a connection reached it: its guest's own.
  ADVERTISED=10.0.2.15 DISCOVERY_SHOWS=$DISCOVERY_PORT
}

target_start() {
  local limit=$((SECONDS + 60)) p fwd=()
  for p in "$PORT" "$DISCOVERY_PORT" "$GUARDED_PORT"; do fwd+=(--fwd "$p:$p"); done
  guest "$work/target" -c 2 -m 1024 "${fwd[@]}" -- reference >"$work/target.log" 2>&1 &
  reference_pid=$!
  until [ -e "$work/target/ready" ]; do
    target_alive || return 1
    [ $SECONDS -lt $limit ] || { echo "the reference target is not ready after 60 s"; return 1; }
    sleep 0.2
  done
}

orders=0
order() { # order WORD: has the reference target do it, and waits until it is done.
  local limit=$((SECONDS + 30))
  orders=$((orders + 1))
  : >"$work/target/do-$1.$orders"
  until [ -e "$work/target/did-$1.$orders" ]; do
    [ $SECONDS -lt $limit ] || { echo "the reference target did not carry out '$1'"; return 1; }
    sleep 0.2
  done
}
target_restart() { order restart; }
target_add_namespace() { order add; }
target_remove_namespace() { order remove; }

target_alive() {
  kill -0 "$reference_pid" 2>/dev/null || { echo "the reference target died: $(tail -n 1 "$work/target.log")"; return 1; }
}

target_stop() {
  : >"$work/target/do-end"
  wait "$reference_pid" || { echo "the reference target ended badly: $(tail -n 1 "$work/target.log")"; return 1; }
}
