#!/bin/bash
# What the log tools cost, beside those of Debian's classic pen: CPU time for each line or datagram.
#
#   [TOOLS=directory] benches/logs.sh [rounds [row ...]]
#
# Needs Debian's package pen. Without TOOLS it builds the release binaries and compares those.
#
# The traffic is made up (logs/load.rs): three servers, 6,000 different requests, half of the visits for a thirtieth of
# them; 2 % of pen's entries are missing, and 2 % of the servers' lines. A row is:
#   merge-RATE[-V]       mergelogs reads the logs of V thousand visits (300), RATE of them in a minute: the more, the more
#                        of pen's entries are within the jitter, which is the default
#   take-N[-APART]       penlogd with a cache of N entries, filled before, takes pen's datagrams and the servers', half
#                        and half, in batches; a server's line comes up to APART visits (300) behind pen's entry
#   pace-RATE            penlogd with a cache of 1,000 gets RATE datagrams a second for a second, whatever it makes of
#                        them; what the kernel drops is lost
#   limit                the same, faster and faster: at which rate nothing is lost; or at least so many, when no more
#                        can be sent
#   send-file, send-pipe penlog sends 100,000 lines; it reads them from a file, or from a pipe into which each is written
#                        by itself, as web servers do
#
# One process does all the work of a row, and takes turns with the classic's round by round. All run on one CPU, but who
# sends in `pace` and `limit` has another one. The table has medians over the rounds, but all that was lost; the
# ratio is the median of the ratios of the cost to that of the classic in the same round. The outputs of mergelogs are
# compared, too. How busy others kept the machine meanwhile is said at the end: where that is much, CPU times are worth
# little.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"
on_one_cpu "${TOOLS+given}" "logs_load" "$@"

rounds=${1:-3}
if [ $# -gt 1 ]; then rows=("${@:2}"); else
    rows=(merge-120 merge-1200-100 take-1000 take-100000 take-100000-30000 pace-100000 limit send-file send-pipe)
fi
release=${CARGO_TARGET_DIR:-$here/target}/release
declare -A tools=([classic]=${CLASSIC_TOOLS:-/usr/bin} [ours]=${TOOLS:-$release})
load=$release/examples/logs_load
names=(classic ours)
for tool in mergelogs penlogd penlog; do
    need "${tools[classic]}/$tool" pen
    [ -x "${tools[ours]}/$tool" ] || die "${tools[ours]}/$tool is missing"
done
other_cpu=()
[ "$(nproc --all)" -lt 2 ] || other_cpu=(taskset -c 1)

# A port for datagrams that nobody has.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        grep -qi ":$(printf %04x "$port") " /proc/net/udp /proc/net/udp6 || { echo "$port"; return; }
    done
}

# Waits until somebody takes datagrams there.
await_datagrams() { # port name
    local n=0
    until grep -qi ":$(printf %04x "$1") " /proc/net/udp /proc/net/udp6; do
        n=$((n + 1))
        [ "$n" -lt 500 ] || { cat "$dir/$2.err" >&2; die "$2 does not listen on port $1"; }
        sleep 0.01
    done
}

# A penlogd of $name; its process is in $started, its port in $port.
start_penlogd() { # entries
    port=$(free_port)
    "${tools[$name]}/penlogd" -f -n "$1" -l "$dir/$name.log" "$port" 2>"$dir/$name.err" & started=$!
    pids+=("$started")
    await_datagrams "$port" "$name"
}
stop_penlogd() {
    stop "$started"
    rm -f "$dir/$name.log"
}

# The logs of so many thousand visits, so many in a minute; `lines` is how many lines the servers have.
logs() { # rate thousands
    local made=$dir/logs-$1-$2
    [ -d "$made" ] || { mkdir "$made"; "$load" write "$made" "rate=$1" "visits=$2000" > "$made/lines"; }
    lines=$(field lines "$(cat "$made/lines")")
    cd "$made"
}

# One visit of a row to a program of $name: a line of results.
visit() {
    local servers=(127.0.0.2:access0.log 127.0.0.3:access1.log 127.0.0.4:access2.log)
    case $kind in
    merge)
        # The classic takes its second line for one of the summer, an hour off, unless that means nothing.
        (
            logs "$first" "${more:-300}"
            TZ=XXX0YYY0,J100,J200 "$load" run "lines=$lines" "output=$dir/$name.out" -- \
                "${tools[$name]}/mergelogs" -p pen.log "${servers[@]}"
        )
        ;;
    take)
        start_penlogd "$first"
        "$load" turns "$port" "pid=$started" "entries=$first" "apart=${more:-300}" lines=100000
        stop_penlogd
        ;;
    pace)
        start_penlogd 1000
        "${other_cpu[@]}" "$load" paced "$port" "pid=$started" "rate=$first"
        stop_penlogd
        ;;
    limit)
        local best='' line rate
        for rate in 25 50 75 100 150 200 250 300 350 400 450 500 600 700 800; do
            start_penlogd 1000
            line=$("${other_cpu[@]}" "$load" paced "$port" "pid=$started" "rate=${rate}000" seconds=0.5)
            stop_penlogd
            [ "$(field failures "$line")" -eq 0 ] || break
            best=$line
            awk -v want="${rate}000" -v got="$(field rate "$line")" 'BEGIN { exit got < want * 0.95 }' || {
                echo "no more can be sent" > "$dir/$name.note"
                break
            }
        done
        echo "${best:-$line}"
        ;;
    send)
        (
            logs 120 100
            "$load" run "lines=$lines" input=lines.log "pipe=$([ "$first" = pipe ] && echo 1 || echo 0)" -- \
                "${tools[$name]}/penlog" 127.0.0.1 "$sink" 127.0.0.1
        )
        ;;
    *) die "no such row: $row" ;;
    esac
}

sink=$(free_port)
"$load" sink "$sink" 2>"$dir/sink.err" & pids+=($!)
await_datagrams "$sink" sink

echo "classic: ${tools[classic]}; ours: ${tools[ours]}"
echo "cost: CPU us for each line (mergelogs, penlog) or datagram (penlogd)"
echo
began=$(machine)
format='%-20s %-8s %11s %9s %9s %9s %8s %s\n'
# shellcheck disable=SC2059
printf "$format" row tools cost "n/s/core" /classic target lost ''
for row in "${rows[@]}"; do
    IFS=- read -r kind first more <<<"$row"
    declare -A lost=([classic]=0 [ours]=0)
    rm -f "$dir"/*.{cpu,rate,out,note}
    for _ in $(seq "$rounds"); do
        for name in "${names[@]}"; do
            line=$(visit)
            [ -n "$line" ] || die "$row, $name: $(cat "$dir/$name.err")"
            lost[$name]=$((lost[$name] + $(field failures "$line")))
            field rate "$line" >> "$dir/$name.rate"
            per "$(field cpu "$line")" "$(field operations "$line")" >> "$dir/$name.cpu"
        done
        [ "$kind" != merge ] ||
            { cmp -s "$dir/classic.out" "$dir/ours.out" && echo "same output" || echo "OTHER OUTPUT"; } > "$dir/ours.note"
    done
    for name in "${names[@]}"; do
        cost=$(median < "$dir/$name.cpu")
        goal=-
        case $name-$kind in
        ours-merge) goal=1.00/0.10 ;;
        ours-take | ours-pace) goal=10.00/- ;;
        esac
        rate=$(per 1000000000 "$cost")
        # What it has kept up with, not what it might.
        [ "$kind" != limit ] || rate=$(median < "$dir/$name.rate")
        # shellcheck disable=SC2059
        printf "$format" "$row" "$name" "$(scaled "$cost" 1000 3)" "$(scaled "$rate" 1 0)" \
            "$(scaled "$(ratio "$dir/$name.cpu" "$dir/classic.cpu")" 1 3)" "$goal" "${lost[$name]}" "$(cat "$dir/$name.note" 2>/dev/null || true)"
    done
done
echo
disturbed "$began"
