#!/bin/bash
# What compare.sh and tls.sh have in common; they source it. A directory that goes when they end ($dir), and with it the
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
