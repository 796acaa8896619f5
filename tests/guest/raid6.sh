# shellcheck shell=bash
# Checks of a RAID-6 group: a drive is rebuilt, a scrub runs, the group and then a virtual disk grow, all under verified writes.
# Sourced by in-guest.sh after harness.sh, io.sh and failover.sh. The host makes the namespace while this guest is connected.

RAID6=5 # The namespace, of 48 MiB.

raid6_appears() {
  ask add-raid6
  await 20 "namespace $RAID6" namespace "$NQN" $RAID6
}

# Writes and verifies while the host does all of these one after another: raid6_under_load WORD...
raid6_under_load() {
  local dev
  dev=$(namespace "$NQN" $RAID6)
  verified "$dev" 16k 0 40M --rate=5M,5M &
  under_load $! "$dev" $(($(writes_done "$dev") + 100)) ask_all "$@"
}
ask_all() {
  local word
  for word in "$@"; do ask "$word"; done
}

# A spare takes the failed drive's place and is filled while the load goes on.
raid6_is_rebuilt_under_writes() { raid6_under_load fail-drive.g2.f1 await-rebuilt.g2.f5; }

# What is compared is what the host writes meanwhile: a scrub takes a row as a whole or not at all.
raid6_is_scrubbed_under_writes() { raid6_under_load scrub.g2; }

# A drive more: everything is laid out anew while the load goes on.
raid6_is_expanded_under_writes() { raid6_under_load expand.g2.f6; }

# The disk becomes larger than the group was before. Nobody rescans: the target says that the namespace has changed. The file
# system on it grows with it and keeps its files.
raid6_disk_grows() {
  local dev n
  dev=$(block $RAID6) n=$(namespace "$NQN" $RAID6)
  same "the size before" "$(blockdev --getsize64 "$dev")" $((48 << 20))
  ask resize
  await 20 "the new size" raid6_has_bytes "$n" $((208 << 20))
  e2fsck -fp "$dev"
  resize2fs "$dev"
  fsck.ext4 -fn "$dev"
  trap 'umount /mnt 2>/dev/null || true' EXIT
  mount "$dev" /mnt
  at_least "the size of the file system in KiB" "$(df -k --output=size /mnt | tail -n 1)" $((180 << 10))
  (cd /mnt && sha256sum --quiet -c "/out/sums-$RAID6")
  umount /mnt
  if dmesg | grep -E 'reconnect|error recovery'; then fail "the host had to connect again"; fi
}
raid6_has_bytes() { [ $(($(cat "/sys/block/$1/size") * 512)) = "$2" ]; }
