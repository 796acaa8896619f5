# shellcheck shell=bash
# Checks of the admin command set, by nvme-cli on a connected controller.
# Sourced by in-guest.sh after harness.sh. Each check finds the controller itself: numbers move.

sysfs() { sed 's/ *$//' "/sys/class/nvme/$(controller "$NQN")/$1"; }
char() { echo "/dev/$(controller "$NQN")"; }
block() { echo "/dev/$(namespace "$NQN" "$1")"; }

lists_devices() {
  nvme list -o json | tee "$W/list"
  local nsid path
  for nsid in 1 2 3; do
    path=$(block $nsid)
    same "the size of namespace $nsid in the list" \
      "$(jq --arg p "$path" '.Devices[] | select(.DevicePath == $p) | .PhysicalSize' "$W/list")" "$(blockdev --getsize64 "$path")"
  done
  same SerialNumber "$(jq -r '.Devices[0].SerialNumber' "$W/list" | sed 's/ *$//')" "$(sysfs serial)"
}

lists_subsystem() {
  nvme list-subsys -o json | tee "$W/list"
  local path
  path=$(jq -c --arg n "$NQN" '.[].Subsystems[] | select(.NQN == $n) | .Paths[]' "$W/list")
  same Transport "$(jq -r .Transport <<<"$path")" tcp
  same State "$(jq -r .State <<<"$path")" live
  grep -q "traddr=$ADDR,trsvcid=$PORT" <<<"$path" || fail "the path's address is $path"
}

field() { jq -r ".$1" "$W/id"; }
bit() { [ $(($(field "$1") >> $2 & 1)) = 1 ] || fail "$1 = $(field "$1") lacks bit $2 ($3)"; }

identifies_controller() {
  local mdts hw
  nvme id-ctrl "$(char)" -o json | tee "$W/id"
  same subnqn "$(field subnqn)" "$NQN"
  same cntlid "$(field cntlid)" "$(sysfs cntlid)"
  same sn "$(field sn | sed 's/ *$//')" "$(sysfs serial)"
  same mn "$(field mn | sed 's/ *$//')" "$(sysfs model)"
  same fr "$(field fr | sed 's/ *$//')" "$(sysfs firmware_rev)"
  same cntrltype "$(field cntrltype)" 1
  same sqes "$(field sqes)" $((0x66))
  same cqes "$(field cqes)" $((0x44))
  same icdoff "$(field icdoff)" 0
  at_least ver "$(field ver)" $((0x10300))
  at_least ioccsz "$(field ioccsz)" 4
  at_least iorcsz "$(field iorcsz)" 1
  at_least kas "$(field kas)" 1
  at_least maxcmd "$(field maxcmd)" 1
  at_least nn "$(field nn)" 3
  bit cmic 1 "several controllers"
  bit oncs 3 "Write Zeroes"
  bit oncs 2 "Dataset Management"
  bit sgls 0 "SGLs"
  mdts=$(field mdts)
  hw=$(cat "/sys/block/$(namespace "$NQN" 1)/queue/max_hw_sectors_kb")
  # MDTS counts in units of CAP.MPSMIN, 4 KiB; 0 is no limit.
  [ "$mdts" = 0 ] || [ "$hw" -le $((4 << mdts)) ] || fail "the kernel sends $hw KiB, MDTS is $mdts"
}

# What Braid promises beyond what any target has to.
identifies_braid() {
  nvme id-ctrl "$(char)" -o json >"$W/id"
  same ver "$(printf '%#x' "$(field ver)")" 0x20000
  same mdts "$(field mdts)" 6 # max_transfer_kib = 256 in the configuration.
  same ioccsz "$(field ioccsz)" $(((64 + 8192) / 16))
  same "the write cache's write-back state" "$(field vwc)/$(cat "/sys/block/$(namespace "$NQN" 1)/queue/write_cache")" \
    "$( [ $(($(field vwc) & 1)) = 1 ] && echo "$(field vwc)/write back" || echo "$(field vwc)/write through")"
  bit oncs 0 Compare
  bit fuses 0 "Compare and Write"
  same mn "$(field mn | sed 's/ *$//')" Braid
}

identifies_namespaces() {
  local nsid dev used
  for nsid in 1 2 3; do
    dev=$(block $nsid)
    nvme id-ns "$dev" -o json | tee "$W/id"
    used=$(field "lbafs[$(($(field flbas) & 15))].ds")
    same "the block size of namespace $nsid" $((1 << used)) "$(blockdev --getss "$dev")"
    same "nsze times block size of namespace $nsid" $(($(field nsze) << used)) "$(blockdev --getsize64 "$dev")"
    at_least ncap "$(field ncap)" 1
    bit nmic 0 "shared namespace"
    same "nguid of namespace $nsid" "$(field nguid)" "$(tr -d - <"/sys/block/${dev#/dev/}/nguid")"
  done
  same "the block size of namespace 1" "$(blockdev --getss "$(block 1)")" 4096
  same "the block size of namespace 2" "$(blockdev --getss "$(block 2)")" 512
  same "the size of namespace 1" "$(blockdev --getsize64 "$(block 1)")" "$NS1_BYTES"
  same "the size of namespace 2" "$(blockdev --getsize64 "$(block 2)")" "$NS2_BYTES"
}

describes_namespace() {
  local dev
  dev=$(block 1)
  nvme ns-descs "$dev" -o json | tee "$W/id"
  same uuid "$(jq -r '."ns-descs"[] | select(.Type == "uuid") | .uuid' "$W/id")" "$(cat "/sys/block/${dev#/dev/}/uuid")"
  same nguid "$(jq -r '."ns-descs"[] | select(.Type == "nguid") | .nguid' "$W/id" | tr -d -)" \
    "$(tr -d - <"/sys/block/${dev#/dev/}/nguid")"
  same csi "$(jq -r '."ns-descs"[] | select(.Type == "csi") | .csi' "$W/id")" 0
}

lists_namespace_ids() {
  same "the active namespaces" "$(nvme list-ns "$(char)" -o json | jq -c '[.nsid_list[].nsid]')" '[1,2,3]'
}

smart_log_counts() {
  local before after dev
  dev=$(block 1)
  before=$(nvme smart-log "$(char)" -o json | tee "$W/smart" | jq .host_write_commands)
  dd if=/dev/urandom of="$dev" bs=64k count=32 oflag=direct status=none
  dd if="$dev" of=/dev/null bs=64k count=32 iflag=direct status=none
  after=$(nvme smart-log "$(char)" -o json | tee "$W/smart" | jq .host_write_commands)
  cat "$W/smart"
  at_least "host_write_commands after 32 more writes" "$after" $((before + 32))
  at_least host_read_commands "$(jq .host_read_commands "$W/smart")" 32
  at_least data_units_written "$(jq .data_units_written "$W/smart")" 1
  same critical_warning "$(jq .critical_warning "$W/smart")" 0
}

# A read past the end leaves an entry that names its address; smart-log counts it.
error_log_names_the_error() {
  local end entry
  end=$(nvme id-ns "$(block 1)" -o json | jq .nsze)
  nvme read "$(block 1)" -s "$end" -c 0 -z 4096 -d "$W/none" || true
  nvme error-log "$(char)" -e 8 -o json | tee "$W/errors"
  entry=$(jq -c --argjson l "$end" '[.errors[] | select(.lba == $l and .error_count > 0)][0]' "$W/errors")
  [ "$entry" != null ] || fail "no entry with lba $end"
  same nsid "$(jq .nsid <<<"$entry")" 1
  at_least sqid "$(jq .sqid <<<"$entry")" 1
  [ -n "${REFERENCE:-}" ] || # nvmet does not count them.
    at_least num_err_log_entries "$(nvme smart-log "$(char)" -o json | jq .num_err_log_entries)" 1
}

effects_log_lists_commands() {
  nvme effects-log "$(char)" -o json | tee "$W/log"
  local want wanted=(ACS_2 ACS_6 ACS_9 ACS_10 ACS_12 ACS_24 IOCS_0 IOCS_1 IOCS_2 IOCS_8 IOCS_9)
  [ -n "${REFERENCE:-}" ] || wanted+=(IOCS_5) # Compare, which nvmet lacks.
  for want in "${wanted[@]}"; do
    grep -q "\"$want " "$W/log" || fail "$want is missing"
  done
}

firmware_log_agrees() {
  nvme fw-log "$(char)" -o json | tee "$W/log"
  [ -n "${REFERENCE:-}" ] || grep -q "$(sysfs firmware_rev)" "$W/log" || fail "the running revision is in no slot"
}

changed_namespaces_log_is_read() {
  nvme changed-ns-list-log "$(char)" -o json
  nvme changed-ns-list-log "$(char)" -o json | tee "$W/log"
  if grep -E '"0x|: *[1-9]' "$W/log" | grep -v nvme; then fail "reading did not clear the log"; fi
}

feature() { nvme get-feature "$(char)" -f "$1" "${@:2}" | sed -n 's/.*value: *//p' | tail -n 1; }

number_of_queues_is_told() {
  local got
  got=$(feature 0x07)
  at_least "I/O submission queues" $(((got & 0xffff) + 1)) 4
  at_least "I/O completion queues" $(((got >> 16) + 1)) 4
}

keep_alive_timer_is_set() {
  same "the timer as the kernel connected" $(($(feature 0x0f))) 5000
  nvme set-feature "$(char)" -f 0x0f -V 10000
  same "the timer as set" $(($(feature 0x0f))) 10000
  nvme set-feature "$(char)" -f 0x0f -V 5000
  same "the timer as set back" $(($(feature 0x0f))) 5000
}

# Without a volatile write cache the feature is either refused or says "disabled".
write_cache_feature_agrees() {
  local vwc got
  vwc=$(nvme id-ctrl "$(char)" -o json | jq .vwc)
  if [ $((vwc & 1)) = 1 ]; then
    same "the write cache" $(($(feature 0x06) & 1)) 1
  elif nvme get-feature "$(char)" -f 0x06 >"$W/got" 2>&1; then
    got=$(sed -n 's/.*value: *//p' "$W/got" | tail -n 1)
    same "the write cache" $((got & 1)) 0
  else
    grep -q 'Invalid Field' "$W/got" || fail "$(cat "$W/got")"
  fi
}

# The kernel has asked for namespace notices; setting the same value again must hold it.
async_events_are_configured() {
  local got
  got=$(feature 0x0b)
  [ $((got >> 8 & 1)) = 1 ] || fail "namespace attribute notices are off: $got"
  nvme set-feature "$(char)" -f 0x0b -V "$got"
  same "the configuration as set" "$(feature 0x0b)" "$got"
}

host_identifier_is_told() {
  nvme get-feature "$(char)" -f 0x81 --cdw11=1 --data-len=16 --raw-binary >"$W/hostid"
  same "the host identifier" "$(od -An -tx1 "$W/hostid" | tr -d ' \n')" "$(tr -d '\n-' </etc/nvme/hostid)"
}

features_of_hardware_are_refused() { # Interrupt coalescing has no meaning over fabrics.
  refused 'Invalid Field|Invalid Command' nvme get-feature "$(char)" -f 0x08
}

unknown_commands_are_refused() {
  refused 'Invalid Command Opcode' nvme admin-passthru "$(char)" --opcode=0xc1
  refused 'Invalid Command Opcode' nvme io-passthru "$(block 1)" --opcode=0x93 --namespace-id=1
  # The specification's status; nvmet says Invalid Field.
  refused 'Invalid (Field|Log Page)' nvme get-log "$(char)" --log-id=0xfe --log-len=512
  is_live "$(controller "$NQN")" || fail "the controller is not live afterwards"
}

unknown_namespace_is_refused() { # nvmet answers with zeroes.
  refused 'Invalid Namespace or Format' nvme id-ns "$(char)" --namespace-id=0xfffffff0
}

# A namespace that is made and deleted while hosts are connected: they hear of it, nobody rescans.
namespace_comes_and_goes() {
  ask add-namespace
  await 20 "namespace 4" namespace "$NQN" 4
  verified "$(namespace "$NQN" 4)" 4k 0 2M
  ask remove-namespace
  await 20 "the end of namespace 4" has_no_namespace 4
  for nsid in 1 2 3; do namespace "$NQN" $nsid || fail "namespace $nsid has gone as well"; done
}
has_no_namespace() { ! namespace "$NQN" "$1"; }

registers_are_shown() {
  nvme show-regs "$(char)" -o json | tee "$W/id"
  same "CSTS.RDY, with no fatal status" $(($(field csts) & 3)) 1
  same CC.EN $(($(field cc) & 1)) 1
  [ -n "${REFERENCE:-}" ] || bit cap 16 "contiguous queues" # nvmet lacks it, though Fabrics asks for it.
  at_least CAP.MQES $(($(field cap) & 0xffff)) 15
  same "VS and the version in Identify" "$(field vs)" "$(nvme id-ctrl "$(char)" -o json | jq .ver)"
}

resets() {
  local before
  before=$(sysfs cntlid)
  nvme reset "$(char)"
  await 20 "a live controller" is_live "$(controller "$NQN")"
  same queue_count "$(sysfs queue_count)" 5
  echo "cntlid $before, then $(sysfs cntlid)"
  identity_is_stable
  verified "$(namespace "$NQN" 1)" 4k 0 1M
}
