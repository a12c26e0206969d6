#!/bin/bash
# What it costs to pass datagrams on: CPU time per datagram there and back, of pen -U beside Debian's classic pen -U and
# nginx (stream); and how many get lost.
#
#   [PENS="pen ..."] [PROXY_RESPONSES=1] [TOGETHER=yes] benches/udp.sh [rounds [seconds [row ...]]]
#
# With PROXY_RESPONSES nginx ends its session after so many replies, as it is configured for DNS; otherwise sessions go on.
#
# Needs nginx, its stream module and Debian's package pen. Without PENS it builds the release binary and compares that;
# with it, all the pens that are named: before and after a change, say. PENS= is for the others alone.
#
# A row is:
#   single-N          64 clients, each with one datagram of N bytes on its way at a time
#   burst-W[-N][-T]   8 clients, each with a window of W datagrams of N bytes (64), sent one by one, and the next when
#                     all of them have come back. T is gro: clients and server have the kernel put trains together; or
#                     gso: they send trains as well, as QUIC's do
#   loss-P            64 clients that send P % of what pen passes on in single-64 when all share the CPU (measured just
#                     before), one by one, at an even pace, whatever comes back
# What has not come back after 0.2 s is lost. The server sends back what it gets; it is udp/load.rs, as are the clients.
#
# One process of each balancer does all the work, and takes turns with the others round by round; `direct` is nobody
# in between, and `floor` passes on and does nothing else (floor/floor.rs). Balancers, clients and server run on one CPU:
# what they cost each other by waking up on different ones varies far more than what is measured. So only the cost per
# datagram is worth comparing, not the rate. The table has medians over the rounds, but all that was lost; a ratio is the
# median of the ratios to that balancer in the same round. Where perf(1) can count, instructions and cycles come from
# runs of their own, because counting makes every context switch dearer; the ratios behind them are of cycles. How busy
# others kept the machine meanwhile is said at the end: where that is much, CPU times are worth little, and ratios are
# steadier with TOGETHER: all balancers have their clients at the same time.
#
# Targets are for the ratios to nginx and to the classic.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"
on_one_cpu "${PENS+given}" "udp_load floor" "$@"

rounds=${1:-5}
seconds=${2:-0.5}
if [ $# -gt 2 ]; then rows=("${@:3}"); else
    rows=(single-64 burst-16 burst-16-gro burst-16-gso burst-32-1200 loss-80)
fi
read -r -a pens <<<"${PENS-$here/target/release/pen}"
classic=${CLASSIC_PEN:-/usr/bin/pen}
load=$here/target/release/examples/udp_load
floor=$here/target/release/examples/floor
module=/usr/lib/nginx/modules/ngx_stream_module.so

need nginx nginx-light
[ -e "$module" ] || die "$module is missing: apt-get install libnginx-mod-stream"
need "$classic" pen
for pen in "${pens[@]}"; do [ -x "$pen" ] || die "$pen is missing"; done

# A port for datagrams that nobody has.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        grep -qi ":$(printf %04x "$port") " /proc/net/udp || { echo "$port"; return; }
    done
}

# Waits until datagrams come back from there. What he says goes to $dir/NAME.err.
await() { # port name
    "$load" await "127.0.0.1:$1" clients=1 2>>"$dir/$2.err" || die "$2: $(cat "$dir/$2.err")"
}

# Servers, one for those who know of trains and one for the others.
declare -A servers=()
for trains in none gather; do
    servers[$trains]=$(free_port)
    options=()
    [ $trains = none ] || options=(trains=gather)
    "$load" serve "127.0.0.1:${servers[$trains]}" "${options[@]}" 2>"$dir/server.err" & pids+=($!)
    await "${servers[$trains]}" server
done

# What a row is.
plan() {
    local kind first more
    IFS=- read -r kind first more <<<"$1"
    [[ $first =~ ^[1-9][0-9]*$ ]] || die "no such row: $1"
    mode=windows unit=1000 times=$rounds goals=- server=none share=''
    options=("seconds=$seconds")
    case $kind in
    single) options+=(clients=64 "size=$first") goals='0.30 0.90' ;;
    burst)
        options+=(clients=8 "window=$first")
        case $more in
        gro | *-gro) options+=(trains=gather) server=gather ;;
        gso | *-gso) options+=(trains=make) server=gather ;;
        esac
        [[ ! $more =~ ^[1-9][0-9]* ]] || options+=("size=${BASH_REMATCH[0]}")
        goals='- 0.35'
        ;;
    loss) options+=(clients=64 size=64) share=$first ;;
    *) die "no such row: $1" ;;
    esac
}

# How fast the clients of `loss` send.
prepare() {
    local fastest=classic line
    [ -n "$share" ] || return 0
    [ "${#pens[@]}" -eq 0 ] || fastest=pen0
    for _ in 1 2 3; do
        line=$("$load" windows "127.0.0.1:${ports[$fastest]}" "${options[@]}" 2>>"$dir/$fastest.err")
        field rate "$line"
    done > "$dir/fastest"
    mode=paced
    options+=("rate=$(awk -v share="$share" '{ print int($1 * share / 100) }' <<<"$(median < "$dir/fastest")")")
}

start() { # name
    local to=${servers[$server]} options=(-U -f -r -x 5000)
    port=$(free_port)
    case $1 in
    direct) started=0 port=$to ;;
    nginx)
        # A session goes on for as long as datagrams come, as with pen; with proxy_responses 1 each datagram would begin
        # a new one, which costs far more. Nothing is logged. Buffers as large as pen's, so that bursts have room; those
        # for the servers are the system's with all of them.
        cat > "$dir/nginx.conf" <<CONF
load_module $module;
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err; user root;
events { worker_connections 10000; multi_accept on; }
stream {
    access_log off;
    proxy_timeout 30s;
    ${PROXY_RESPONSES+proxy_responses $PROXY_RESPONSES;}
    proxy_buffer_size 64k;
    server {
        listen 127.0.0.1:$port udp rcvbuf=4m sndbuf=4m;
        proxy_pass 127.0.0.1:$to;
    }
}
CONF
        nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null & started=$!
        ;;
    classic) "$classic" "${options[@]}" "127.0.0.1:$port" "127.0.0.1:$to" 2>"$dir/$1.err" & started=$! ;;
    floor) "$floor" udp "127.0.0.1:$port" "127.0.0.1:$to" 2>"$dir/$1.err" & started=$! ;;
    pen*)
        "${pens[${1#pen}]}" "${options[@]}" --workers 1 "127.0.0.1:$port" "127.0.0.1:$to" 2>"$dir/$1.err" &
        started=$!
        ;;
    esac
}

names=(direct nginx classic floor) others=(nginx classic floor) shown=(rate)
for n in "${!pens[@]}"; do
    names+=("pen$n")
    echo "pen$n: ${pens[n]} -U"
done
echo "$(nginx -v 2>&1); classic: $classic -U"
echo "cost: CPU us per datagram there and back; failed: datagrams lost"
compare
