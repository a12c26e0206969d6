#!/bin/bash
# What workers cost each other: CPU time per connection, per request and per GiB of a pen with two workers beside one with
# one, and beside two pens that know nothing of each other. And how evenly the two workers share.
#
#   [PEN=path] benches/workers.sh [rounds [seconds [row ...]]]
#
# Without PEN it builds the release binary. A row is as in tcp.sh: connection-N, request-N, gib-N; N must be even. Server,
# balancers and clients run on one CPU, so that only what is done for each other costs anything, and not what processors
# pass to and fro; they take turns round by round. The clients are two processes with half of the clients each, whoever they
# come to (and one to each of the two pens): a process of clients that waits for two others has less to do each time that it
# is woken than one that waits for one, and so have they. That is a cost of two processes, whatever they do.
#
# The table has medians over the rounds; a ratio is the median of the ratios in the same round. The share is that of the
# worker with more CPU time, in per cent. Targets: 1.10 of one worker, and nothing worth mentioning of two pens.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"
on_one_cpu "${PEN-}" "http_load" "$@"

rounds=${1:-7}
seconds=${2:-0.5}
if [ $# -gt 2 ]; then rows=("${@:3}"); else rows=(connection-64 request-64 request-1000 gib-16); fi
pen=${PEN:-$here/target/release/pen}
load=$here/target/release/examples/http_load
[ -x "$pen" ] || die "$pen is missing"

ulimit -n "$(ulimit -Hn)"

web=$(free_port)
"$load" serve "127.0.0.1:$web" 2>"$dir/server.err" & pids+=($!)
await "$web" server

# Starts a pen; its process is in $started, its port in $port.
balance() { # workers name
    port=$(free_port)
    "$pen" -f -r -x 9800 -q 2000 --workers "$1" "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$2.err" & started=$!
    pids+=("$started")
    await "$port" "$2"
}

# The CPU time that processes have had, a line each, in nanoseconds.
worked() { # pid ...
    local one
    for one in "$@"; do cut -d' ' -f1 "/proc/$one/schedstat"; done
}

# Two processes of clients, each with half of them, at these two ports: operations, and the CPU time that these processes
# have had meanwhile for each of them, in nanoseconds.
visited() { # port port pid ...
    local ports=("$1" "$2") before clients=() port done=0
    shift 2
    before=$(worked "$@" | awk '{ sum += $1 } END { printf "%.0f", sum }')
    for port in "${ports[@]}"; do
        "$load" "$mode" "127.0.0.1:$port" "pid=$$" "clients=$half" "seconds=$seconds" > "$dir/clients.$port.${#clients[@]}" &
        clients+=($!)
    done
    wait "${clients[@]}"
    done=$(cat "$dir"/clients.*.[01] | tr ' ' '\n' | awk -F= '$1 == "operations" { sum += $2 } END { print sum }')
    rm "$dir"/clients.*.[01]
    worked "$@" | awk -v before="$before" -v n="$done" '{ sum += $1 } END { print (n > 0) ? (sum - before) / n : "-" }'
}

echo "cost: CPU us per connection or request, ms per GiB"
echo
format='%-16s %10s %12s %10s %10s %10s %8s\n'
# shellcheck disable=SC2059
printf "$format" row "one worker" "two workers" "two pens" "/one" "/two pens" share
began=$(machine)
for row in "${rows[@]}"; do
    IFS=- read -r kind clients <<<"$row"
    [[ $clients =~ ^[1-9][0-9]*$ && $((clients % 2)) -eq 0 ]] || die "no such row: $row"
    case $kind in
    connection) mode=connections unit=1000 ;;
    request) mode=requests unit=1000 ;;
    gib) mode=bulk unit=1000000 ;;
    *) die "no such row: $row" ;;
    esac
    half=$((clients / 2))
    balance 1 one; one=$started at_one=$port
    balance 2 two; two=$started at_two=$port
    balance 1 left; left=$started at_left=$port
    balance 1 right; right=$started at_right=$port
    declare -A all
    for name in one two left right; do
        mapfile -t found < <(pgrep -P "${!name}")
        all[$name]="${!name} ${found[*]}"
    done
    read -r -a workers <<<"${all[two]#* }"
    rm -f "$dir"/*.cost
    before=$(worked "${workers[@]}")
    for _ in $(seq "$rounds"); do
        # shellcheck disable=SC2086 # several numbers
        {
            visited "$at_one" "$at_one" ${all[one]} >> "$dir/one.cost"
            visited "$at_two" "$at_two" ${all[two]} >> "$dir/two.cost"
            visited "$at_left" "$at_right" ${all[left]} ${all[right]} >> "$dir/pens.cost"
        }
    done
    share=$(paste <(echo "$before") <(worked "${workers[@]}") |
        awk '{ own = $2 - $1; sum += own; if (own > most) most = own } END { printf "%.0f", 100 * most / sum }')
    costs=()
    for name in one two pens; do costs+=("$(scaled "$(median < "$dir/$name.cost")" "$unit" 2)"); done
    # shellcheck disable=SC2059
    printf "$format" "$row" "${costs[@]}" "$(scaled "$(ratio "$dir/two.cost" "$dir/one.cost")" 1 2)" \
        "$(scaled "$(ratio "$dir/two.cost" "$dir/pens.cost")" 1 2)" "$share"
    stop "$one" "$two" "$left" "$right"
done
echo
disturbed "$began"
