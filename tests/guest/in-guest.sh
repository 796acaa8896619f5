#!/bin/bash
# shellcheck disable=SC2317 # Functions are called through `check`.
# The guest's side of the suite: checks of a target by the kernel's own NVMe/TCP initiator and nvme-cli.
# Started by `run` on the host, with this folder at /files. Usage, in the guest: in-guest.sh PHASE
#   main       everything that one host can see, with drives failed and the target restarted meanwhile
#   survivor   a later guest: the data that `main` left, and I/O while the host troubles the victim
#   reservations  two hosts, one after the other, that keep one another out
#   multipath  nodes that share a group, as paths to one device; nodes are stopped and killed meanwhile
#   victim     a guest that is stalled and then killed
#   reference  no check at all: makes this guest the reference target, the kernel's nvmet
# Reads ADDR, PORT, DISCOVERY_PORT, DISCOVERY_SHOWS, ADVERTISED, NQN, GUARDED_PORT, GUARDED_NQN, ALLOWED_HOST,
# NS1_BYTES, NS2_BYTES, SHARED_PORT_0, SHARED_PORT_1, SHARED_NQN, SHARED_BYTES, HALL_PORT_0 to HALL_PORT_2, HALL_NQN, ROUNDS and
# REFERENCE from the environment. Prints `ok NAME` or `FAIL NAME: why` for each check.
set -uo pipefail
PHASE=$1
cd /files || exit 2
if [ "$PHASE" = reference ]; then exec ./reference.sh; fi
# shellcheck source=harness.sh
. ./harness.sh
# shellcheck source=fabric.sh
. ./fabric.sh
# shellcheck source=admin.sh
. ./admin.sh
# shellcheck source=io.sh
. ./io.sh
# shellcheck source=failover.sh
. ./failover.sh
# shellcheck source=raid6.sh
. ./raid6.sh
# shellcheck source=reservations.sh
. ./reservations.sh
# shellcheck source=multipath.sh
. ./multipath.sh

prepare() {
  modprobe nvme-tcp
  if [ -n "${REFERENCE:-}" ]; then
    # nvmet advertises its own guest's address, which here is every guest's: take another, and send
    # what is meant for the advertised one to the host, which forwards it.
    ip addr del "$ADVERTISED/24" dev eth0
    ip addr add 10.0.2.16/24 dev eth0
    nft -f - <<N
table ip suite {
  chain out { type nat hook output priority -100; ip daddr $ADVERTISED tcp dport { $PORT, $DISCOVERY_PORT } dnat to 10.0.2.2; }
}
N
  fi
}

main() {
  local nsid digests
  check discovers in-band
  check discovers discovery-port
  check generation_is_stable
  check connects_all in-band
  check connects_all discovery-port
  for digests in no-digests header-digest data-digest both-digests; do check -t 90 connects $digests; done
  check unknown_subsystem_is_refused
  check stranger_is_refused
  check stranger_discovers_nothing
  check listed_host_is_served

  check join
  check identity_is_stable
  check lists_devices
  check lists_subsystem
  check lists_namespace_ids
  check identifies_controller
  braid_check identifies_braid
  check identifies_namespaces
  check describes_namespace
  check smart_log_counts
  check error_log_names_the_error
  check effects_log_lists_commands
  check firmware_log_agrees
  check changed_namespaces_log_is_read
  check number_of_queues_is_told
  check keep_alive_timer_is_set
  check write_cache_feature_agrees
  check async_events_are_configured
  check host_identifier_is_told
  check features_of_hardware_are_refused
  check unknown_commands_are_refused
  braid_check unknown_namespace_is_refused
  check registers_are_shown

  for nsid in 1 2; do
    check passthrough_reads_what_it_wrote $nsid
    braid_check compare_finds_a_difference $nsid
    check write_zeroes_zeroes $nsid
    check dsm_deallocates $nsid
    check past_the_end_is_refused $nsid
    check discard_reads_zero $nsid
    check discard_reads_zero $nsid --zeroout
    check -t 90 mixed_sizes_verify $nsid
    check -t 120 ext4_holds_files $nsid
  done

  check namespace_comes_and_goes
  check resets
  check -t 120 reset_under_load
  # The device is taken from under the load: its writes end in errors, as they have to.
  check -a 'I/O error, dev nvme' disconnects_under_load
  check survives_reconnection
  check -t 180 target_restarts_under_load

  # The data of these outlives this guest. In the first two, a drive of each group fails.
  if [ -z "${REFERENCE:-}" ]; then
    check -t 180 drive_fails_under_4k_writes
    check -t 180 drive_fails_under_128k_writes
  else
    check -t 180 writes_verify 1 "${KEPT_1[@]}"
    check -t 180 writes_verify 2 "${KEPT_2[@]}"
  fi
  check -t 120 mixed_sizes_verify 2
  check -t 120 mixed_sizes_verify 1
  check -t 120 ext4_holds_files 3 keep
  braid_check raid6_appears
  braid_check -t 180 raid6_is_rebuilt_under_writes
  braid_check -t 180 raid6_is_scrubbed_under_writes
  braid_check -t 180 raid6_is_expanded_under_writes
  braid_check -t 120 ext4_holds_files 5 keep
  braid_check raid6_disk_grows
  check leave
}

survivor() {
  check join --hdr-digest --data-digest
  check identity_is_stable
  check -t 120 earlier_writes_verify 1 "${KEPT_1[@]}"
  check -t 120 earlier_writes_verify 2 "${KEPT_2[@]}"
  check ext4_still_holds_files 3
  braid_check ext4_still_holds_files 5
  check -t 300 unharmed_by_others
  check -t 120 earlier_writes_verify 1 "${KEPT_1[@]}"
  check leave
}

victim() {
  check join
  check -t 200 stalled_host_returns
  : >"/out/$PHASE.alive"
  check -t 120 host_is_killed
}

check prepare
case $PHASE in
main) main ;;
survivor) survivor ;;
reservations) reservations ;;
multipath) multipath ;;
victim) victim ;;
*) echo "FAIL suite: no phase '$PHASE'"; exit 2 ;;
esac
finish
