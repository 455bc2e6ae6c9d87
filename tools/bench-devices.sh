# SPDX-License-Identifier: Apache-2.0
#
# The benches of tools/bench-host that use a guest's disk or network, itself read by it.
# shellcheck shell=sh disable=SC2034,SC2154 # variables shared with bench-host

# A disk whose file is in the page cache.
make_disk() { # MiB
    disk=/tmp/disk
    dd if=/dev/zero of=$disk bs=1M count="$1" 2>/dev/null
}

worked() { # peer TASK
    launch "$1" "$2"
    watch ''
    ended "$1"
    numbers "$1"
}

disk() { # peer...
    make_disk 128
    for each in "$@"; do warm worked "$each" disk.100.1; done
    for _ in $(seq "$runs"); do
        for each in "$@"; do whole worked "$each" disk.3000.96; done
    done
}

# What a read costs in events: names are 1/reads.COUNT/WHAT, and the difference counts, without the boot.
requests() { # peer...
    make_disk 128
    counters="$counters kvm/kvm_inj_virq:vector sched/sched_switch:prev_prio raw_syscalls/sys_enter:id.syscall"
    for each in "$@"; do
        for task in reads.100 reads.1100; do
            of=1/$task/
            whole counted "$each" $task
        done
    done
}

# A tap at which the guest is 10.77.0.2; bench-io is at both ends.
make_tap() {
    tap=tap0
    tunctl -t $tap >/dev/null
    ip addr add 10.77.0.1/24 dev $tap
    ip link set $tap up
}

# A guest that has hung is told by the name of the number it owes; for casemate that is an error.
ended_or_hung() { # peer WHAT...
    read -r end _ </proc/uptime
    case $1 in
    casemate-*) ;;
    *)
        if [ "${end%.*}" -ge $((${start%.*} + patience)) ]; then
            wait "$pid"
            peer=$1
            shift
            for what in "$@"; do echo "$peer hung $what"; done
            return 1
        fi
        ;;
    esac
    ended "$1"
}

transferred() { # peer to_guest|from_guest
    case $2 in to_guest) way=send ;; *) way=receive ;; esac
    timeout -s KILL "$patience" bench-io listen "$2" $way 64 >/tmp/far &
    far=$!
    launch "$1" "$2.64"
    watch ''
    if ended_or_hung "$1" "${2}_s" "host.${2}_s"; then
        wait $far || echo "$1 error the host's end: $(tail -n 1 /tmp/far)"
        rm -f /tmp/marks # the other end's clock is the better one
        numbers "$1"
        sed -n "s|^bench: \([a-z_]*_s [0-9.]*\)$|$1 host.\1|p" /tmp/far
    fi
    kill $far 2>/dev/null
    wait $far 2>/dev/null
}

# When the guest is ready it waits for a connection, and ends with it.
ping_guest() {
    bench-io ping ping_us 10.77.0.2 "$pings" >/tmp/far
    nc 10.77.0.2 5000 </dev/null >/dev/null 2>/tmp/far_end || echo "bench: failed $(cat /tmp/far_end)" >>/tmp/far
}

pinged() { # peer
    when=ready
    launch "$1" ping.$pings
    watch ping_guest
    when=user_space
    ended_or_hung "$1" ping_us guest_ping_us || return
    sed -n "s|^bench: failed|$1 error the host's end:|p" /tmp/far
    sed -n "s|^bench: \(ping_us [0-9.]*\)$|$1 \1|p" /tmp/far
    numbers "$1"
}
pings=200

# A boot for each task, as some monitors do not survive two.
net() { # peer...
    make_tap
    patience=60
    for each in "$@"; do warm pinged "$each"; done
    for _ in $(seq "$runs"); do
        for task in to_guest from_guest; do
            for each in "$@"; do whole transferred "$each" $task; done
        done
        for each in "$@"; do whole pinged "$each"; done
    done
}
