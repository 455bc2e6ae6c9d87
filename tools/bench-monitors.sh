# SPDX-License-Identifier: Apache-2.0
#
# How tools/bench-host starts each monitor, itself read by it.
# shellcheck shell=sh disable=SC2154 # memory is set by bench-host

# The guest's devices, for those that have any.
disk='' tap='' mac=02:00:00:00:00:01

command_of() { # peer; the kernel command line comes after
    case $1 in
    casemate-*) casemate_command casemate "${1#casemate-}" ;;
    peer-casemate) casemate_command peer-casemate bzimage ;;
    peer-kvmtool | peer-kvmtool-bare)
        # By itself it gives each guest a network device of user mode.
        network=${tap:+mode=tap,tapif=$tap,guest_mac=$mac}
        [ "$1" = peer-kvmtool ] || network=${network:-mode=none}
        echo "$1" run --console serial --cpus 1 --mem "$memory" --kernel /lane/bzimage --initrd /lane/initrd \
            ${disk:+--disk "$disk"} ${network:+--network "$network"} --params
        ;;
    peer-qemu)
        echo peer-qemu -M pc,accel=kvm -cpu host -nodefaults -no-user-config -display none -L roms -serial stdio \
            -no-reboot -m "$memory" -kernel /lane/bzimage -initrd /lane/initrd \
            ${disk:+-drive "if=none,id=disk,format=raw,file=$disk" -device virtio-blk-pci,drive=disk} \
            ${tap:+-netdev "tap,id=net,ifname=$tap,script=no,downscript=no" -device "virtio-net-pci,netdev=net,mac=$mac,romfile="} \
            -append
        ;;
    attributes | mapping | slots) casemate_command casemate vmlinux --protect "$1" ;;
    not-offered) casemate_command casemate vmlinux --locks off ;;
    *) casemate_command casemate vmlinux ;;
    esac
}

casemate_command() { # PROGRAM KERNEL [OPTION...]
    program=$1 kernel=$2
    shift 2
    echo "$program" run --kernel "/lane/$kernel" --initrd /lane/initrd --memory "${memory}M" "$@" \
        ${disk:+--disk "$disk"} ${tap:+--net "tap=$tap,mac=$mac"} --cmdline
}

# A peer is a program from elsewhere: it may need what this host does not have.
runs_here() { # peer
    case $1 in
    peer-kvmtool*) question=version ;;
    peer-*) question=--version ;;
    *) return 0 ;;
    esac
    said=$(timeout -s KILL 30 "$1" "$question" 2>&1 <&3) && return
    echo "$1 error it does not run in this host: '$question' ended with status $?: $(printf '%s' "$said" | tail -n 1)"
    return 1
}
