#!/bin/bash
# What it costs to pass connections on: CPU time per connection, per request and per GiB, and memory per idle
# connection, of pen beside HAProxy, nginx (stream) and Debian's classic pen.
#
#   [PENS="pen ..."] [TOGETHER=yes] benches/tcp.sh [rounds [seconds [row ...]]]
#
# Needs nginx, its stream module, haproxy and Debian's package pen. Without PENS it builds the release binary and
# compares that, with one worker and with two; with it, all the pens that are named: before and after a change, say.
#
# A row is:
#   connection-N  connections with one small request each, N at a time
#   request-N     small requests of N clients, one after the other on connections that stay
#   gib-N         bytes of responses without end to N clients
#   idle-N        N connections that had one response; growth of proportional memory over all processes
#   clients-N     connections as above, 64 at a time, from N addresses by turns, each of which is remembered (HAProxy has a
#                 table of them, too; nginx cannot, and the classic, which looks through all that it remembers for
#                 each, is left out beyond 10,000)
# A request has 107 bytes, its response 0.8 KiB. The server is http/load.rs, as are the clients; nobody but them looks at
# what passes.
#
# Beside the balancers there is `floor`, which passes on and does nothing else (floor/floor.rs): what pen costs beyond
# that is its own, the rest is the system's.
#
# One process of each balancer does all the work (but pen2w: two workers, which the one process of clients hears of less at a
# time; workers.sh looks into that), and takes turns with the others round by round.
# Balancers, clients and server run on one CPU: what they cost each other by waking up on different ones varies far more
# than what is measured. So only the cost per operation is worth comparing; rate (operations a second) and the waiting
# times p50, p99 and p999 (microseconds) contain the cost of clients and server. The table has medians over the rounds; a
# ratio is the median of the ratios to that balancer in the same round. Where perf(1) can count, instructions and cycles
# come from runs of their own, because counting makes every context switch dearer; the ratios behind them are of cycles.
# How busy others kept the machine meanwhile is said at the end: where that is much, CPU times are worth little, and
# ratios are steadier with TOGETHER: all balancers have their clients at the same time, and so the same share of what
# disturbs them.
#
# Targets are for the ratios to HAProxy, to HAProxy that splices, nginx and the classic.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"
on_one_cpu "${PENS-}" "http_load floor" "$@"

rounds=${1:-5}
seconds=${2:-0.5}
if [ $# -gt 2 ]; then rows=("${@:3}"); else
    rows=(connection-64 request-{1,64,1000} gib-{1,16} idle-9700 clients-{1000,10000,100000,1000000})
fi
read -r -a pens <<<"${PENS-$here/target/release/pen}"
classic=${CLASSIC_PEN:-/usr/bin/pen}
load=$here/target/release/examples/http_load
floor=$here/target/release/examples/floor
module=/usr/lib/nginx/modules/ngx_stream_module.so

need haproxy haproxy
need nginx nginx-light
[ -e "$module" ] || die "$module is missing: apt-get install libnginx-mod-stream"
need "$classic" pen
for pen in "${pens[@]}"; do [ -x "$pen" ] || die "$pen is missing"; done

# Two descriptors a connection.
ulimit -n "$(ulimit -Hn)"

web=$(free_port)
"$load" serve "127.0.0.1:$web" 2>"$dir/server.err" & pids+=($!)
await "$web" server

# What a row is.
plan() {
    IFS=- read -r kind clients <<<"$1"
    [[ $clients =~ ^[1-9][0-9]*$ ]] || die "no such row: $1"
    options=("clients=$clients" "seconds=$seconds")
    remembered=2048
    mode=requests unit=1000 times=$rounds goals=-
    case $1 in
    connection-*) mode=connections goals='0.80 - 0.87 0.90' ;;
    request-1000) goals='0.55 - 0.65 0.75' ;;
    request-*) goals='0.78 - 0.83 0.98' ;;
    gib-1) mode=bulk unit=1000000 goals='0.40 0.70 0.45 0.42' ;;
    gib-*) mode=bulk unit=1000000 goals='0.22 0.70 0.25 0.25' ;;
    # Memory does not vary; and a second round would find what the first has left.
    idle-*) mode=idle unit=1 times=1 counters='' goals='0.15 - 0.05 -' ;;
    clients-*) mode=connections remembered=$clients options=(clients=64 "sources=$clients" "seconds=$seconds") ;;
    *) die "no such row: $1" ;;
    esac
}

start() { # name
    local name=$1 program rule=() workers=1
    port=$(free_port)
    case $name in
    haproxy | spliced)
        # One thread, no log, no check, and no limit that anybody meets. Left to itself (splice-auto) HAProxy 2.6 copies;
        # told to splice always it is much better with streams and no worse otherwise, so it is shown there as well. What
        # is not set is best as it is: 16 KiB buffers.
        local splice=(splice-auto)
        started=
        if [ "$name" = spliced ]; then
            [ "$kind" = gib ] || return 0
            splice=(splice-request splice-response)
        fi
        [ "$kind" != clients ] || rule=("    stick-table type ip size 2m expire 1h" "    stick on src")
        cat > "$dir/haproxy.cfg" <<CONF
global
    nbthread 1
    maxconn 9800
    maxpipes 100
defaults
    mode tcp
$(printf '    option %s\n' "${splice[@]}")
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen web
    bind 127.0.0.1:$port backlog 2000
$(printf '%s\n' "${rule[@]}")
    server web 127.0.0.1:$web
CONF
        haproxy -db -f "$dir/haproxy.cfg" 2>"$dir/$name.err" & started=$!
        ;;
    nginx)
        started=
        [ "$kind" != clients ] || return 0
        # Nothing is logged.
        cat > "$dir/nginx.conf" <<CONF
load_module $module;
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err; user root;
events { worker_connections 19900; multi_accept on; }
stream {
    access_log off;
    tcp_nodelay on;
    server {
        listen 127.0.0.1:$port backlog=2000;
        proxy_pass 127.0.0.1:$web;
    }
}
CONF
        nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null & started=$!
        ;;
    classic)
        started=
        [ "$kind" != clients ] || [ "$clients" -le 10000 ] || return 0
        "$classic" -f -r -x 9800 -q 2000 -c "$remembered" "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$name.err" &
        started=$!
        ;;
    floor)
        started=
        case $kind in clients | idle) return 0 ;; esac
        "$floor" tcp "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$name.err" & started=$!
        ;;
    pen*)
        if [ "$name" = pen2w ]; then program=${pens[0]} workers=2; else program=${pens[${name#pen}]}; fi
        "$program" -f -r -x 9800 -q 2000 -c "$remembered" --workers "$workers" "127.0.0.1:$port" "127.0.0.1:$web" \
            2>"$dir/$name.err" &
        started=$!
        ;;
    esac
}

names=(haproxy spliced nginx classic floor) others=(haproxy spliced nginx classic floor) shown=(rate p50 p99 p999)
for n in "${!pens[@]}"; do
    names+=("pen$n")
    echo "pen$n: ${pens[n]}"
done
if [ -z "${PENS-}" ]; then
    names+=(pen2w)
    echo "pen2w: the same with two workers"
fi
echo "haproxy: $(haproxy -v | sed -n '1s/.*version \([^ ]*\).*/\1/p'); $(nginx -v 2>&1); classic: $classic"
echo "cost: CPU us per connection or request, ms per GiB, bytes per idle connection"
compare
