# shellcheck shell=bash disable=SC2153
# Checks of reservations by nvme-cli and the kernel, as two hosts that come one after the other: registrations stay when a host leaves.
# Sourced by in-guest.sh after harness.sh.

HOST_ONE=(--hostnqn nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111 --hostid 11111111-1111-4111-8111-111111111111)
HOST_TWO=(--hostnqn nqn.2014-08.org.nvmexpress:uuid:22222222-2222-4222-8222-222222222222 --hostid 22222222-2222-4222-8222-222222222222)

reserved_device() { echo "/dev/$(namespace "$NQN" 1)"; }
report() { nvme resv-report "$(reserved_device)" -e -o json | tee "$W/report"; }
reported() { jq -r "$1" "$W/report"; }
# One write or read, with another command before it if there is one.
access() { # access writes|reads [PREFIX]...
  local kind=$1
  shift
  case $kind in
  writes) "$@" dd if=/dev/zero of="$(reserved_device)" bs=4k count=1 seek=100 oflag=direct status=none ;;
  reads) "$@" dd if="$(reserved_device)" of=/dev/null bs=4k count=1 skip=100 iflag=direct status=none ;;
  esac
}
kept_from() { access "$1" refused 'exchange|error'; }

first_host_reserves() {
  join "${HOST_ONE[@]}"
  nvme resv-register "$(reserved_device)" -k 0x1111 -r 0
  nvme resv-acquire "$(reserved_device)" -c 0x1111 -t 1 -a 0
  report
  same rtype "$(reported .rtype)" 1
  same regctl "$(reported '.regctl // .regctlext | if type == "array" then length else . end')" 1
  access writes
  access reads
  leave
}

second_host_is_kept_out() {
  join "${HOST_TWO[@]}"
  report
  same rtype "$(reported .rtype)" 1
  access reads
  kept_from writes
  refused 'onflict' nvme resv-acquire "$(reserved_device)" -c 0x2222 -t 1 -a 0
  refused 'onflict' nvme resv-release "$(reserved_device)" -c 0x2222 -t 1 -a 0
}

second_host_preempts() {
  nvme resv-register "$(reserved_device)" -k 0x2222 -r 0
  nvme resv-acquire "$(reserved_device)" -c 0x2222 -p 0x1111 -t 2 -a 2
  report
  same rtype "$(reported .rtype)" 2
  access writes
  leave
}

first_host_is_fenced() {
  join "${HOST_ONE[@]}"
  kept_from writes
  kept_from reads
  leave
}

second_host_clears() {
  join "${HOST_TWO[@]}"
  nvme resv-release "$(reserved_device)" -c 0x2222 -t 2 -a 0
  nvme resv-register "$(reserved_device)" -c 0x2222 -r 1
  report
  same rtype "$(reported .rtype)" 0
  leave
}

everybody_writes_again() {
  join "${HOST_ONE[@]}"
  access writes
  access reads
  leave
}

reservations() {
  # The kernel looks for partitions on whatever it may not read.
  local conflict='reservation conflict|sct 0x0 / sc 0x83|Buffer I/O error on dev nvme'
  check first_host_reserves
  check -a "$conflict" second_host_is_kept_out
  check second_host_preempts
  check -a "$conflict" first_host_is_fenced
  check second_host_clears
  check everybody_writes_again
}
