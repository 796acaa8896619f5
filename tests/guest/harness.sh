# shellcheck shell=bash
# What every check of the guest suite stands on: `check` runs one, `fail` and `same` end one, `ask`
# has the host do something to the target, and the rest finds controllers and namespaces in sysfs.
# Sourced by in-guest.sh, which owns the order of the checks.

W=/run/suite # Scratch files that one check leaves for the next.
passed=0 failed=0 skipped=0
mkdir -p "$W"
rm -f "$W/results"
mkfifo "$W/results"
exec 9<>"$W/results"

# Kernel messages that no check may cause. `check -a REGEX` excuses lines that its own act explains.
DMESG_BAD='BUG:|WARNING:|Oops|Call Trace|I/O error|[Tt]imeout|Duplicate|identifiers changed|hung_task|blocked for more'

# Runs one check and prints its verdict: check [-t SECONDS] [-a REGEX] FUNCTION [ARG]...
# The function runs in its own shell under `set -e`; it passes if it ends with 0 in time and the
# kernel logged nothing bad meanwhile. Its output is kept at /out/log. A check that hangs ends the
# suite, because whatever followed would be measured on a host with stuck I/O.
check() {
  local limit=60 allow='^$' name rc bad why start=$SECONDS log=$W/check.log
  while [[ $1 == -* ]]; do
    case $1 in
    -t) limit=$2 ;;
    -a) allow=$2 ;;
    esac
    shift 2
  done
  name=$(tr '_ ' '- ' <<<"$*")
  dmesg -c >>/out/dmesg
  {
    (
      set -eEuo pipefail
      trap 'echo "line $LINENO: $BASH_COMMAND"' ERR
      "$@"
    ) >"$log" 2>&1 9>&-
    echo $? >&9
  } &
  if ! read -r -t "$limit" rc <&9; then
    rc=hung
    echo "no result in $limit s; last output: $(tail -n 1 "$log")" >>"$log"
    ps -eo pid,stat,wchan:24,args | awk '$2 ~ /D/' >>/out/log
  fi
  dmesg -c >"$W/dmesg"
  cat "$W/dmesg" >>/out/dmesg
  { echo "== $name: $rc, $((SECONDS - start)) s"; cat "$log"; } >>/out/log
  bad=$(grep -E "$DMESG_BAD" "$W/dmesg" | grep -Ev -- "$allow" | head -n 1)
  if [ "$rc" = 0 ] && [ -z "$bad" ]; then
    passed=$((passed + 1))
    echo "ok $name"
  else
    failed=$((failed + 1))
    why=$bad
    [ "$rc" = 0 ] || why=$(grep -v '^line [0-9]*: exit' "$log" | tail -n 2 | tr '\n' ' ')
    echo "FAIL $name: ${why:-exit $rc without output}"
    # What the kernel said after its first complaint (registers, page, stack): one line is no diagnosis.
    [ -z "$bad" ] || grep -F -A 45 -- "$bad" "$W/dmesg" | sed 's/^/  | /'
  fi
  if [ "$rc" = hung ]; then
    echo "FAIL suite: stopped after a hang, later checks did not run"
    failed=$((failed + 1))
    finish
  fi
}

# Says that a check does not apply, and why: skip WHY FUNCTION [ARG]...
skip() {
  skipped=$((skipped + 1))
  echo "skip $(shift && tr '_ ' '- ' <<<"$*"): $1"
}

# Runs a check that only Braid can pass; against the reference target it is skipped, visibly.
braid_check() {
  if [ -z "${REFERENCE:-}" ]; then check "$@"; else
    while [[ $1 == -* ]]; do shift 2; done
    skip "the reference target has no such function" "$@"
  fi
}

# Ends the suite: the totals, and the file by which the host knows that the end was reached.
finish() {
  echo "$passed passed, $failed failed, $skipped skipped" | tee "/out/$PHASE.done"
  sync
  [ "$failed" = 0 ]
  exit
}

fail() {
  echo "$*"
  exit 1
}

same() { # same WHAT GOT WANTED
  [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"
}

at_least() { # at_least WHAT GOT MINIMUM
  [ "$2" -ge "$3" ] || fail "$1 is $2, less than $3"
}

# Runs a command that must fail by itself, and soon: refused REGEX COMMAND [ARG]...
# A time-out counts as a hang, not as the refusal that the output has to name.
refused() {
  local pattern=$1 rc=0
  shift
  timeout 15 "$@" >"$W/refused" 2>&1 || rc=$?
  cat "$W/refused"
  [ "$rc" != 124 ] || fail "hangs: $*"
  [ "$rc" != 0 ] || fail "succeeds, and should not: $*"
  grep -Eq -- "$pattern" "$W/refused" || fail "refused, but not for '$pattern': $(tail -n 1 "$W/refused")"
}

# Waits until a command succeeds: await SECONDS WHAT COMMAND [ARG]...
await() {
  local limit=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $limit ] || fail "never came: $what"
    sleep 0.1
  done
}

# Has the host act on the target and waits for its answer: ask WORD[.ARG]...
# The request is an empty file in /out; the answer is "ok" or a reason. One request of a kind per guest.
ask() {
  # The host may take the request away before the shell has closed it.
  { : >"/out/ask-$1"; } 2>/dev/null || test ! -e "/out/ask-$1"
  await 90 "the host's answer to $1" test -e "/out/answer-$1"
  same "the host's answer to $1" "$(cat "/out/answer-$1")" ok
}

# Controllers of a subsystem, one name (nvme0) a line.
controllers() {
  local c
  for c in /sys/class/nvme/nvme*; do
    [ "$(cat "$c/subsysnqn" 2>/dev/null)" != "$1" ] || echo "${c##*/}"
  done
}

controller() { # The only controller of a subsystem.
  local all
  all=$(controllers "$1")
  same "the number of controllers of $1" "$(grep -c . <<<"$all")" 1
  echo "$all"
}

# Block device (nvme0n1) of a namespace, by subsystem and namespace id.
namespace() {
  local s n
  for s in /sys/class/nvme-subsystem/*; do
    [ "$(cat "$s/subsysnqn")" = "$1" ] || continue
    for n in "$s"/nvme*n*; do
      if [ "$(cat "$n/nsid" 2>/dev/null)" = "$2" ] && [ -b "/dev/${n##*/}" ]; then
        echo "${n##*/}"
        return 0
      fi
    done
  done
  return 1
}

is_live() { [ "$(cat "/sys/class/nvme/$1/state")" = live ]; }
is_gone() { [ -z "$(controllers "$1")" ]; }

# Connects to the subsystem under test and waits for its namespaces: join [NVME-CONNECT-OPTION]...
# Reconnects are tried every second, so that a restart of the target costs seconds and not tens.
join() {
  local nsid
  nvme connect -t tcp -a "$ADDR" -s "$PORT" -n "$NQN" --nr-io-queues=4 --reconnect-delay=1 "$@"
  await 20 "a live controller" is_live "$(controller "$NQN")"
  for nsid in 1 2 3; do await 20 "namespace $nsid" namespace "$NQN" "$nsid"; done
}

leave() {
  nvme disconnect -n "$NQN"
  await 20 "the end of the last controller" is_gone "$NQN"
}

writes_done() { awk '{ print $5 }' "/sys/block/$1/stat"; }
has_written() { [ "$(writes_done "$1")" -ge "$2" ]; }

# Writes a region in random order, then reads it back against the checksums in its blocks:
# verified DEVICE BLOCK-SIZE OFFSET BYTES [FIO-OPTION]...   The seed is fixed: `--verify_only` repeats it.
verified() {
  local dev=$1 bs=$2 offset=$3 bytes=$4
  shift 4
  fio --name="$dev-$bs" --filename="/dev/$dev" --rw=randwrite --bs="$bs" --offset="$offset" --size="$bytes" \
    --direct=1 --ioengine=io_uring --iodepth=16 --randrepeat=1 --verify=crc32c --do_verify=1 \
    --verify_fatal=1 --verify_state_save=0 "$@"
}

# Everything by which a host recognises a namespace: identity NSID.
identity() {
  local n
  n=$(namespace "$NQN" "$1")
  echo "nsid=$1 $(cd "/sys/block/$n" && for f in nguid uuid wwid size queue/logical_block_size; do echo "$f=$(cat $f)"; done | tr '\n' ' ')"
}
