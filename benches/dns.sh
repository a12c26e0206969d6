#!/bin/bash
# DNS through pen: dnsperf's summaries, direct and through pen, with one of two servers killed half-way through; and what a
# flood of clients that never listen does to pen's memory. Prints; nothing is compared with a target.
#
#   [PEN=path] benches/dns.sh [seconds [clients]]
#
# Needs dnsperf and nsd. Without PEN it builds the release binary. The flood is a datagram each of so many clients'
# ports (dns/flood.rs), with -x 20000; memory is proportional (PSS), over all processes of pen.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"

seconds=${1:-4}
clients=${2:-100000}
pen=${PEN:-$here/target/release/pen}
flood=$here/target/release/examples/dns_flood

need dnsperf dnsperf
need nsd nsd
(
    cd "$here"
    [ -n "${PEN-}" ] || cargo build --release --locked --quiet
    cargo build --release --locked --quiet --example dns_flood
)

# A name server for pen.test; its process is in $started, its port in $port.
serve() { # name
    port=$(free_port)
    mkdir "$dir/$1"
    # shellcheck disable=SC2016 # not the shell's $
    printf '$ORIGIN pen.test.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\nwho TXT "%s"\n' \
        "$1" > "$dir/$1/zone"
    cat > "$dir/$1/conf" <<CONF
server:
    ip-address: 127.0.0.1@$port
    server-count: 1
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    receive-buffer-size: 4194304
    username: ""
    chroot: ""
    database: ""
    zonesdir: "$dir/$1"
    xfrdir: "$dir/$1"
    pidfile: "$dir/$1/pid"
    xfrdfile: "$dir/$1/state"
    zonelistfile: "$dir/$1/list"
    logfile: "$dir/$1/log"
remote-control:
    control-enable: no
zone:
    name: pen.test
    zonefile: zone
CONF
    nsd -d -c "$dir/$1/conf" 2>"$dir/$1.err" & started=$!
    pids+=("$started")
    await "$port" "$1"
}

balance() { # option ...
    port=$(free_port)
    # It has TCP too, so that it can be seen when it is there.
    printf 'listen udp 127.0.0.1:%s\nlisten tcp 127.0.0.1:%s\n' "$port" "$port" > "$dir/pen.cfg"
    "$pen" -f -r --workers 2 "$@" -F "$dir/pen.cfg" "127.0.0.1:$port" "127.0.0.1:$one" "127.0.0.1:$two" \
        >/dev/null 2>"$dir/pen.err" & started=$!
    pids+=("$started")
    await "$port" pen
}

echo 'who.pen.test TXT' > "$dir/questions"
perf() { # port
    dnsperf -s 127.0.0.1 -p "$1" -d "$dir/questions" -l "$seconds" -c 20 -q 100 -t 1 2>"$dir/perf.err" |
        sed -n '/Queries sent/,/Latency StdDev/p'
}

# KiB of these processes and their children.
memory() { # pid
    local pid
    for pid in "$1" $(cat "/proc/$1/task/$1/children"); do cat "/proc/$pid/smaps_rollup"; done |
        awk '$1 == "Pss:" { total += $2 } END { print total }'
}

# Waits until nothing waits at this UDP port.
digested() { # port
    local n=0
    until awk -v port="$(printf ':%04X' "$1")" '$2 ~ port "$" && $5 !~ /:0+$/ { waits = 1 } END { exit waits }' /proc/net/udp
    do
        n=$((n + 1))
        [ "$n" -lt 3000 ] || die "what has come to port $1 is not read"
        sleep 0.01
    done
}

serve one; one=$port
serve two; two=$port victim=$started
disown "$victim" # or its end would be told here
replies=(-O 'udp_timeout 30 replies 1')

echo "Direct, one server:"
perf "$one"
balance "${replies[@]}"
echo "Through pen, two servers:"
perf "$port"
echo "Through pen, and one of the two servers is killed after half of the time:"
(
    sleep "$(awk -v s="$seconds" 'BEGIN { print s / 2 }')"
    # shellcheck disable=SC2046 # a list of numbers
    kill -KILL "$victim" $(pgrep -P "$victim") $(pgrep -P "$(pgrep -d, -P "$victim")")
) &
perf "$port"
stop "$started"

echo "A flood of $clients clients that never listen, -x 20000:"
serve again; two=$port
balance -x 20000
before=$(memory "$started")
echo "  sent: $("$flood" "127.0.0.1:$port" "$clients")"
digested "$port"
echo "  memory before: $before KiB, after: $(memory "$started") KiB"
echo "Afterwards:"
perf "$port"
