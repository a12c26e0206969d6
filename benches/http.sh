#!/bin/bash
# What it costs to tell the servers of the client in each HTTP request: CPU time per request and per GiB, and memory per
# idle connection, of pen -H beside HAProxy, nginx and Debian's classic pen -H; and of pen without -H.
#
#   [PENS="pen ..."] [PLAIN="pen ..."] [TOGETHER=yes] benches/http.sh [rounds [seconds [row ...]]]
#
# Needs nginx, haproxy and Debian's package pen. Without PENS (started with -H) and PLAIN (without) it builds the
# release binary and compares that; with them, all the pens that are named: before and after a change, say.
#
# A row is:
#   request-N    small requests of N clients, one after the other on connections that stay
#   browser-N    the same with the headers of a browser: 15 lines, 800 bytes
#   post-N       the same with a body of 16 KiB
#   close-N      small requests of N clients at a time, each on a connection of its own (to the server as well with
#                both pens; HAProxy and nginx have kept one that they use again)
#   gib-N        bytes of responses without end to N clients
#   idle-N       N connections that had one response; growth of proportional memory over all processes
# Responses have 0.8 KiB, the body of 512 bytes included. The server is http/load.rs, as are the clients. It looks
# whether each request has exactly one X-Forwarded-For and one X-Forwarded-Proto: `told` is the percentage of those that
# have.
#
# Beside the balancers there is `floor`, which puts the headers in and does nothing else (floor/floor.rs).
#
# One process of each balancer does all the work, and takes turns with the others round by round. Balancers, clients
# and server run on one CPU: what they cost each other by waking up on different ones varies far more than what is
# measured. So only the cost per operation is worth comparing, not throughput. The table has medians over the rounds;
# a ratio is the median of the ratios to that balancer in the same round. Where perf(1) can count, instructions and
# cycles come from runs of their own, because counting makes every context switch dearer; the ratios behind them are of
# cycles. How busy others kept the machine meanwhile is said at the end: where that is much, CPU times are worth
# little, and ratios are steadier with TOGETHER: all balancers have their clients at the same time, and so the same
# share of what disturbs them.
#
# Targets are for the ratios to HAProxy, nginx and the classic.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"
on_one_cpu "${PENS-}${PLAIN-}" "http_load floor" "$@"

rounds=${1:-5}
seconds=${2:-0.5}
if [ $# -gt 2 ]; then rows=("${@:3}"); else
    rows=(request-{1,64,1000} browser-64 post-64 close-64 gib-{1,16} idle-1000)
fi
[ -n "${PENS-}${PLAIN-}" ] || PENS=$here/target/release/pen PLAIN=$here/target/release/pen
read -r -a pens <<<"${PENS-}"
read -r -a plains <<<"${PLAIN-}"
classic=${CLASSIC_PEN:-/usr/bin/pen}
load=$here/target/release/examples/http_load
floor=$here/target/release/examples/floor

need haproxy haproxy
need nginx nginx-light
need "$classic" pen
for pen in "${pens[@]}" "${plains[@]}"; do [ -x "$pen" ] || die "$pen is missing"; done

web=$(free_port)
"$load" serve "127.0.0.1:$web" 2>"$dir/server.err" & pids+=($!)
await "$web" server

# Starts a balancer in front of the server; its process is in $started, its port in $port.
start() { # name
    local options=(-f -r -x 5000 -q 2000)
    port=$(free_port)
    case $1 in
    haproxy)
        # One thread, no log, no check, and no limit that anybody meets. All requests may go on connections to the
        # server that others have left: that halves the cost of close-N, and changes little else. Responses are spliced:
        # a third of the cost of gib-N, nothing lost with small ones (splice-auto does not do it). Requests must come
        # within a time, as with pen -H. What is not set is best as it is: 16 KiB buffers, kept-alive connections on
        # both sides.
        cat > "$dir/haproxy.cfg" <<CONF
global
    nbthread 1
    maxconn 5000
defaults
    mode http
    option forwardfor
    http-reuse always
    option splice-response
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 60s
listen web
    bind 127.0.0.1:$port backlog 2000
    http-request set-header X-Forwarded-Proto http
    server web 127.0.0.1:$web
CONF
        haproxy -db -f "$dir/haproxy.cfg" 2>"$dir/$1.err" & started=$!
        ;;
    nginx)
        # Connections to the server are kept (which needs HTTP/1.1 and no Connection header) and never closed because of
        # the number of requests; nothing is logged; nothing goes to files: bodies are passed on as they come, and a
        # response that a client takes slowly waits at the server. Buffers of 16 KiB halve the cost of gib-N; without
        # any (proxy_buffering off) it is twice as high.
        cat > "$dir/nginx.conf" <<CONF
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err; user root;
events { worker_connections 10000; }
http {
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3;
    uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
    upstream web { server 127.0.0.1:$web; keepalive 2000; keepalive_requests 1000000000; }
    server {
        listen 127.0.0.1:$port backlog=2000;
        location / {
            proxy_pass http://web;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host \$host;
            proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto \$scheme;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k;
        }
    }
}
CONF
        nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null & started=$!
        ;;
    classic) "$classic" "${options[@]}" -H "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$1.err" & started=$! ;;
    floor)
        started=
        case $kind in post | idle) return 0 ;; esac
        "$floor" http "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$1.err" & started=$!
        ;;
    pen*)
        "${pens[${1#pen}]}" "${options[@]}" -H --workers 1 "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$1.err" &
        started=$!
        ;;
    plain*)
        "${plains[${1#plain}]}" "${options[@]}" --workers 1 "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$1.err" &
        started=$!
        ;;
    esac
}

# What a row is.
plan() {
    IFS=- read -r kind clients <<<"$1"
    [[ $clients =~ ^[1-9][0-9]*$ ]] || die "no such row: $1"
    options=("clients=$clients" "seconds=$seconds")
    mode=requests unit=1000 times=$rounds goals=-
    case $kind in
    request) goals='0.45 0.50 0.95' ;;
    browser) options+=(request=browser) goals='0.45 0.50 0.95' ;;
    post) options+=(request=post) ;;
    close) mode=connections ;;
    gib) mode=bulk unit=1000000 ;;
    # Memory does not vary; and a second round would find what the first has left.
    idle) mode=idle unit=1 times=1 counters= ;;
    *) die "no such row: $1" ;;
    esac
}

names=(haproxy nginx classic floor) others=(haproxy nginx classic floor) shown=(told)
for n in "${!pens[@]}"; do
    names+=("pen$n")
    echo "pen$n: ${pens[n]} -H"
done
for n in "${!plains[@]}"; do
    names+=("plain$n")
    echo "plain$n: ${plains[n]}"
done
echo "haproxy: $(haproxy -v | sed -n '1s/.*version \([^ ]*\).*/\1/p'); $(nginx -v 2>&1); classic: $classic -H"
echo "cost: CPU us per request, ms per GiB, bytes per idle connection; told: % of requests with both headers"
compare
