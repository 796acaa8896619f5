# shellcheck shell=bash
# Checks of the I/O commands, by nvme-cli's passthrough and through the block layer and file systems.
# Sourced by in-guest.sh after harness.sh and admin.sh.

# Blocks 8 and 9 of a namespace, with its block size: pass VERB NSID [OPTION]...
pass() {
  local verb=$1 dev
  dev=$(block "$2")
  shift 2
  rm -f "$W/back" # `nvme read` overwrites a file without shortening it.
  timeout 20 nvme "$verb" "$dev" -s 8 -c 1 -z $(($(blockdev --getss "$dev") * 2)) "$@"
}

two_blocks() { head -c $(($(blockdev --getss "$(block "$1")") * 2)) "$2"; }

passthrough_reads_what_it_wrote() { # passthrough_reads_what_it_wrote NSID
  two_blocks "$1" /dev/urandom >"$W/data"
  pass write "$1" -d "$W/data"
  pass read "$1" -d "$W/back"
  cmp "$W/data" "$W/back"
  two_blocks "$1" /dev/urandom >"$W/data"
  pass write "$1" -d "$W/data" --force-unit-access
  pass read "$1" -d "$W/back" --force-unit-access
  cmp "$W/data" "$W/back"
  timeout 20 nvme flush "$(block "$1")"
}

compare_finds_a_difference() { # compare_finds_a_difference NSID
  local dev bytes
  dev=$(block "$1")
  bytes=$(($(blockdev --getss "$dev") * 2))
  two_blocks "$1" /dev/urandom >"$W/data"
  pass write "$1" -d "$W/data"
  pass compare "$1" -d "$W/data"
  # The last byte of the last block differs, and only that.
  cp "$W/data" "$W/other"
  printf %b "\\x$(printf %02x $(($(tail -c 1 "$W/data" | od -An -tu1) ^ 1)))" |
    dd of="$W/other" bs=1 seek=$((bytes - 1)) conv=notrunc status=none
  refused 'Compare Failure' nvme compare "$dev" -s 8 -c 1 -z $bytes -d "$W/other"
  pass read "$1" -d "$W/back"
  cmp "$W/data" "$W/back"
}

write_zeroes_zeroes() { # write_zeroes_zeroes NSID
  two_blocks "$1" /dev/urandom >"$W/data"
  pass write "$1" -d "$W/data"
  timeout 20 nvme write-zeroes "$(block "$1")" -s 8 -c 0
  pass read "$1" -d "$W/back"
  # Block 8 is zero, block 9 as it was.
  cmp -n $(($(stat -c %s "$W/data") / 2)) "$W/back" /dev/zero
  cmp <(tail -c $(($(stat -c %s "$W/data") / 2)) "$W/data") <(tail -c $(($(stat -c %s "$W/data") / 2)) "$W/back")
}

dsm_deallocates() { # dsm_deallocates NSID: two ranges; the block between them keeps its data.
  local dev size
  dev=$(block "$1") size=$(blockdev --getss "$(block "$1")")
  head -c $((size * 3)) /dev/urandom >"$W/data"
  timeout 20 nvme write "$dev" -s 16 -c 2 -z $((size * 3)) -d "$W/data"
  timeout 20 nvme dsm "$dev" --ad -s 16,18 -b 1,1
  rm -f "$W/back"
  timeout 20 nvme read "$dev" -s 16 -c 2 -z $((size * 3)) -d "$W/back"
  cmp -n "$size" "$W/back" /dev/zero
  cmp -n "$size" -i $((size * 2)):0 "$W/back" /dev/zero
  cmp -n "$size" -i "$size" "$W/data" "$W/back"
}

past_the_end_is_refused() { # past_the_end_is_refused NSID
  local dev end size why='LBA Out of Range'
  dev=$(block "$1") size=$(blockdev --getss "$(block "$1")")
  end=$(nvme id-ns "$dev" -o json | jq .nsze)
  [ -z "${REFERENCE:-}" ] || why='NVMe status' # nvmet leaves it to its block device.
  head -c $((size * 2)) /dev/zero >"$W/data"
  refused "$why" nvme read "$dev" -s "$end" -c 0 -z "$size" -d "$W/back"
  refused "$why" nvme read "$dev" -s $((end - 1)) -c 1 -z $((size * 2)) -d "$W/back"
  refused "$why" nvme write "$dev" -s $((end - 1)) -c 1 -z $((size * 2)) -d "$W/data"
  refused "$why" nvme write-zeroes "$dev" -s "$end" -c 0
  refused "$why" nvme read "$dev" -s 18446744073709551615 -c 1 -z $((size * 2)) -d "$W/back"
  timeout 20 nvme read "$dev" -s $((end - 1)) -c 0 -z "$size" -d "$W/back"
}

# A discard that starts and ends inside strips, inside a pattern: only what was asked for is zero.
discard_reads_zero() { # discard_reads_zero NSID blkdiscard-option
  local dev
  dev=$(block "$1")
  head -c 8M /dev/urandom >"$W/image"
  dd if="$W/image" of="$dev" bs=1M oflag=direct status=none
  blkdiscard ${2:+"$2"} -o 12288 -l 6971392 "$dev"
  dd if=/dev/zero of="$W/image" bs=4096 seek=3 count=1702 conv=notrunc status=none
  dd if="$dev" bs=1M count=8 iflag=direct status=none | cmp - "$W/image"
}

# Sizes from one block up to more than one command may carry, so that the kernel splits them.
mixed_sizes_verify() { # mixed_sizes_verify NSID
  local dev
  dev=$(namespace "$NQN" "$1")
  fio --name="mixed-$1" --filename="/dev/$dev" --rw=randwrite --bsrange="$(blockdev --getss "/dev/$dev")-1m" \
    --bs_unaligned=0 --size=24M --direct=1 --ioengine=libaio --iodepth=16 --randrepeat=1 --verify=crc32c \
    --do_verify=1 --verify_fatal=1 --verify_state_save=0
}

# Files through ext4 and back, after everything cached is gone. Leaves the list of sums for the next guest.
ext4_holds_files() { # ext4_holds_files NSID [KEEP]
  local dev n
  dev=$(block "$1")
  mkfs.ext4 -q -F "$dev"
  trap 'umount /mnt 2>/dev/null || true' EXIT # A failure must not leave it mounted under the next check.
  mount "$dev" /mnt
  cp -r /etc /mnt/
  for n in $(seq 100); do head -c $((n * 997)) /dev/urandom >"/mnt/small-$n"; done
  for n in 1 2 3 4; do head -c 4M /dev/urandom >"/mnt/large-$n"; done
  (cd /mnt && find . -type f -exec sha256sum {} +) >"$W/sums"
  at_least "the number of files" "$(grep -c . "$W/sums")" 104
  umount /mnt
  echo 3 >/proc/sys/vm/drop_caches
  mount "$dev" /mnt
  (cd /mnt && sha256sum --quiet -c "$W/sums")
  umount /mnt
  fsck.ext4 -fn "$dev"
  [ -z "${2:-}" ] || cp "$W/sums" "/out/sums-$1"
}

ext4_still_holds_files() { # ext4_still_holds_files NSID: what an earlier guest left.
  local dev
  dev=$(block "$1")
  fsck.ext4 -fn "$dev"
  trap 'umount /mnt 2>/dev/null || true' EXIT
  mount -o ro "$dev" /mnt
  (cd /mnt && sha256sum --quiet -c "/out/sums-$1")
  umount /mnt
}
