#!/bin/bash
# Makes this guest the reference target: the kernel's nvmet on RAM-backed null_blk devices, with the same
# subsystems, sizes and ports as Braid's configuration. Started by in-guest.sh; serves until the host writes
# /out/do-end. An order is a file /out/do-WORD.N, which becomes /out/did-WORD.N when it is carried out:
# `restart` takes the port away and brings it back, as a restart looks to a host; `add` and `remove` a namespace.
set -euo pipefail
nvmet=/sys/kernel/config/nvmet nullb=/sys/kernel/config/nullb
modprobe null_blk nr_devices=0
modprobe nvmet-tcp

device() { # device NAME MIB BLOCK-BYTES
  mkdir "$nullb/$1"
  echo "$2" >"$nullb/$1/size"
  echo "$3" >"$nullb/$1/blocksize"
  echo 1 >"$nullb/$1/memory_backed"
  echo 1 >"$nullb/$1/discard"
  echo 1 >"$nullb/$1/power"
}

attach() { # attach NQN NSID DEVICE: identifiers differ in the namespace id and the subsystem.
  local n=$nvmet/subsystems/$1/namespaces/$2 id
  id=$(printf '%s-%s' "$1" "$2" | sha256sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/')
  mkdir "$n"
  echo "/dev/$3" >"$n/device_path"
  echo "$id" >"$n/device_uuid"
  echo "$id" | rev >"$n/device_nguid"
  echo 1 >"$n/enable"
}

port() { # port ID SERVICE
  mkdir "$nvmet/ports/$1"
  echo tcp >"$nvmet/ports/$1/addr_trtype"
  echo ipv4 >"$nvmet/ports/$1/addr_adrfam"
  echo 0.0.0.0 >"$nvmet/ports/$1/addr_traddr"
  echo "$2" >"$nvmet/ports/$1/addr_trsvcid"
}

device nullb0 $((NS1_BYTES >> 20)) 4096
device nullb1 $((NS2_BYTES >> 20)) 512
device nullb2 64 512
device nullb3 16 4096
device nullb4 16 4096
mkdir "$nvmet/subsystems/$NQN" "$nvmet/subsystems/$GUARDED_NQN" "$nvmet/hosts/$ALLOWED_HOST"
echo 1 >"$nvmet/subsystems/$NQN/attr_allow_any_host"
for n in 1 2 3; do attach "$NQN" $n nullb$((n - 1)); done
attach "$GUARDED_NQN" 1 nullb3
ln -s "$nvmet/hosts/$ALLOWED_HOST" "$nvmet/subsystems/$GUARDED_NQN/allowed_hosts/"
port 1 "$PORT"
port 2 "$DISCOVERY_PORT"
port 3 "$GUARDED_PORT"
ln -s "$nvmet/subsystems/$NQN" "$nvmet/ports/1/subsystems/"
ln -s "$nvmet/subsystems/$NQN" "$nvmet/ports/2/subsystems/"
ln -s "$nvmet/subsystems/$GUARDED_NQN" "$nvmet/ports/3/subsystems/"
: >/out/ready

carry_out() { # carry_out WORD
  case $1 in
  restart)
    rm "$nvmet/ports/1/subsystems/$NQN"
    sleep 2 # Long enough for the host to see its connections end and to find the port closed.
    ln -s "$nvmet/subsystems/$NQN" "$nvmet/ports/1/subsystems/"
    ;;
  add) attach "$NQN" 4 nullb4 ;;
  remove) echo 0 >"$nvmet/subsystems/$NQN/namespaces/4/enable" ;;
  end) exit 0 ;;
  esac
}

while :; do
  for order in /out/do-*; do
    [ -e "$order" ] || continue
    name=${order##*/do-}
    carry_out "${name%.*}"
    mv "$order" "/out/did-$name"
  done
  sleep 0.2
done
