# shellcheck shell=sh
# SPDX-License-Identifier: Apache-2.0
#
# A monitor's own memory, for tools/bench-host and tests/system/host, read by them.

# private_kib PID MIB: what no other process has of its memory, but for the MIB of its guest's RAM: the mapping that
# is as large, or the neighbours that a lock has made of it, which are as large together. Prints nothing if there is
# no such mapping.
private_kib() {
    awk -v ram=$(($2 * 1024)) '
        /^[0-9a-f]+-[0-9a-f]+ / { split($1, address, "-"); from[++n] = address[1]; to[n] = address[2] }
        $1 == "Size:" { size[n] = $2 }
        /^Private_(Clean|Dirty):/ { private[n] += $2 }
        END {
            for (i = 1; i <= n; ++i) {
                sum = size[i]
                for (j = i; sum < ram && j < n && to[j] == from[j + 1]; sum += size[++j]);
                if (sum == ram || size[i] >= ram)
                    for (k = i; k <= j; ++k) { private[k] = 0; found = 1 }
            }
            for (i = 1; i <= n; ++i) total += private[i]
            if (found) print total
        }' "/proc/$1/smaps"
}
