#!/bin/bash
# What the scripts here have in common; they source it. A directory that goes when they end ($dir), and with it the
# processes that they add to $pids.
# shellcheck shell=bash disable=SC2034 # its variables are theirs

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=$(mktemp -d)
pids=()

stop() { # pid ...
    local pid
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "$@"; do wait "$pid" 2>/dev/null || true; done
}
cleanup() {
    stop "${pids[@]}"
    rm -rf "$dir"
}
trap cleanup EXIT

die() { echo "${0##*/}: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing: apt-get install $2"; } # program package
PATH=$PATH:/usr/sbin:/sbin

# A port nobody listens on.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
}

# Waits until somebody listens there. What he says goes to $dir/NAME.err.
await() { # port name
    local n=0
    until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
        n=$((n + 1))
        [ "$n" -lt 500 ] || { cat "$dir/$2.err" >&2; die "$2 does not listen on port $1"; }
        sleep 0.01
    done
}

# Of the numbers in standard input, a line each; lines of - do not count.
median() {
    sort -n | awk '$1 != "-" { v[++n] = $1 }
        END { print n == 0 ? "-" : n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }'
}

# A value in a line of key=value.
field() { # key text
    local word
    for word in $2; do [ "${word%%=*}" != "$1" ] || { echo "${word#*=}"; return; }; done
}

# A quotient, or - if there is none.
per() { awk -v total="$1" -v n="${2:-0}" 'BEGIN { if (n > 0 && total != "") print total / n; else print "-" }'; }

# The median of the quotients of two files' lines.
ratio() { paste "$1" "$2" | awk '{ print ($1 != "-" && $2 > 0) ? $1 / $2 : "-" }' | median; }
scaled() { # value divisor digits
    awk -v v="$1" -v by="$2" -v digits="$3" 'BEGIN { printf v == "-" ? "-" : "%.*f\n", digits, v / by }'
}

# The machine's time, and what of it other CPUs have worked or the hypervisor has taken from this one; in ticks.
machine() {
    awk '$1 == "cpu0" { all = $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9; stolen = $9 }
        $1 ~ /^cpu[1-9]/ { others += $2 + $3 + $4 + $7 + $8 + $9; n++ }
        END { print all, (n > 0) ? others / n : 0, stolen }' /proc/stat
}

# Where others kept the machine busy since then, CPU times are worth less.
disturbed() { # what machine said then
    echo "$1 $(machine)" | awk '{ all = ($4 - $1) / 100
        if (all > 0) printf "meanwhile other CPUs were busy %.0f %% of the time, and the hypervisor took %.0f %% of this one\n",
            ($5 - $2) / all, ($6 - $3) / all }'
}

# What of instructions and cycles perf(1) can count here, if anything.
countable() {
    if perf stat -x, -e instructions,cycles true 2>&1 | grep -q '^[0-9]'; then echo instructions,cycles; fi
}
