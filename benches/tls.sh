#!/bin/bash
# What TLS costs: CPU time per connection and per GiB, and memory per idle connection, of pen beside HAProxy, nginx and
# Debian's classic pen.
#
#   [PENS="pen ..."] [FLOOR=floor] [TOGETHER=yes] benches/tls.sh [rounds [seconds [row ...]]]
#
# Needs nginx with its stream module, haproxy, openssl and Debian's package pen. Without PENS it builds the release
# binary and compares that; with it, all the pens that are named (one with each library, say). Clients and servers
# (tls/load.rs) always use the system's OpenSSL.
#
# A row is KIND-VERSION-KEY[-own]:
#   full, resumed   one handshake, one small request and answer, for each connection; 16 connections at a time
#   gib1, gib16     bytes to 1 client, to 16 clients
#   idle            2,000 connections that had one answer; growth of proportional memory over all processes
#   1.2, 1.3        version of TLS
#   rsa, p256       key in the certificate
#   own             clients offer all they have and the balancer chooses; in all other rows they offer X25519 and
#                   AES-256-GCM, so that everybody computes the same (but the classic, which has only P-256)
#
# Beside the balancers there is `floor`, which terminates TLS with the library that it is built with, passes on and does
# nothing else (floor/floor.rs): what pen costs beyond that is its own, the rest is the library's and the system's. It is
# built with OpenSSL of the system. To compare a pen with AWS-LC, build both with that and name them:
#   cargo build --release --features aws-lc --target-dir DIR --bin pen --example floor
#   PENS=DIR/release/pen FLOOR=DIR/release/examples/floor benches/tls.sh
#
# One process of each balancer does all the work, and takes turns with the others round by round. Balancers, clients
# and servers run on one CPU: what they cost each other by waking up on different ones varies far more than what is
# measured. So only the cost per operation is worth comparing, not throughput. The table has medians over the rounds;
# a ratio is the median of the ratios to that balancer in the same round. Where perf(1) can count, instructions and cycles
# come from runs of their own, because counting makes every context switch dearer. How busy others kept the machine
# meanwhile is said at the end: where that is much, CPU times are worth little, and ratios are steadier with TOGETHER: all
# balancers have their clients at the same time, and so the same share of what disturbs them.
set -eu

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"
on_one_cpu "${PENS-}" "tls_load floor" "$@"

rounds=${1:-5}
seconds=${2:-0.5}
if [ $# -gt 2 ]; then rows=("${@:3}"); else
    rows=({full,resumed}-{1.3,1.2}-{rsa,p256} gib{1,16}-1.3-rsa idle-{1.3,1.2}-rsa
        {full,resumed}-1.3-{rsa,p256}-own gib16-1.3-rsa-own)
fi
read -r -a pens <<<"${PENS:-$here/target/release/pen}"
classic=${CLASSIC_PEN:-/usr/bin/pen}
load=$here/target/release/examples/tls_load
floor=${FLOOR:-$here/target/release/examples/floor}

need haproxy haproxy
need nginx nginx-light
need openssl openssl
need "$classic" pen
modules=/usr/lib/nginx/modules
[ -e $modules/ngx_stream_module.so ] || die "nginx's stream module is missing: apt-get install libnginx-mod-stream"
for pen in "${pens[@]}"; do [ -x "$pen" ] || die "$pen is missing"; done
[ -x "$floor" ] || die "$floor is missing"

openssl req -x509 -nodes -newkey rsa:2048 -subj /CN=localhost -keyout "$dir/key" -out "$dir/crt" 2>/dev/null
cat "$dir/crt" "$dir/key" > "$dir/rsa.pem"
openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost \
    -keyout "$dir/key" -out "$dir/crt" 2>/dev/null
cat "$dir/crt" "$dir/key" > "$dir/p256.pem"

web=$(free_port)
"$load" serve "127.0.0.1:$web" 2>"$dir/server.err" & pids+=($!)
await "$web" server

# Starts a balancer with the row's certificate in front of the server; its process is in $started, its port in $port.
start() { # name
    local certificate=$dir/$key.pem
    port=$(free_port) own=$groups
    case $1 in
    haproxy)
        # One thread, and no limit that anybody meets. What is not set is best as it is: tickets are on, so that no
        # session cache is searched; the system's preference of ciphers; 16 KiB buffers.
        cat > "$dir/haproxy.cfg" <<CONF
global
    nbthread 1
    maxconn 5000
    tune.ssl.default-dh-param 2048
    ssl-default-bind-curves X25519:P-256
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen tls
    bind 127.0.0.1:$port ssl crt $certificate backlog 2000
    server web 127.0.0.1:$web
CONF
        haproxy -db -f "$dir/haproxy.cfg" 2>"$dir/$1.err" & started=$!
        ;;
    nginx)
        # Tickets are on and the session cache is off unless told otherwise; nothing is logged.
        cat > "$dir/nginx.conf" <<CONF
load_module $modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err; user root;
events { worker_connections 10000; }
stream {
    server {
        listen 127.0.0.1:$port ssl backlog=2000;
        ssl_certificate $certificate; ssl_certificate_key $certificate;
        ssl_protocols TLSv1.2 TLSv1.3; ssl_ecdh_curve X25519:prime256v1;
        proxy_pass 127.0.0.1:$web;
    }
}
CONF
        nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null & started=$!
        ;;
    classic)
        # It would answer with another round trip; P-256 costs much the same.
        own=${groups/X25519:/}
        "$classic" -f -r -x 5000 -q 2000 -E "$certificate" "127.0.0.1:$port" "127.0.0.1:$web" 2>"$dir/$1.err" & started=$!
        ;;
    floor)
        started=
        [ "$mode" != idle ] || return 0
        # The suite that pen comes to, alone: AWS-LC prefers none by itself.
        local suite=TLS_AES_256_GCM_SHA384
        [ -n "$groups" ] || suite=TLS_AES_128_GCM_SHA256
        "$floor" tls "127.0.0.1:$port" "127.0.0.1:$web" "$certificate" "$suite" 2>"$dir/$1.err" & started=$!
        ;;
    pen*)
        goals=$(target "$row" "$(library "${pens[${1#pen}]}")")
        "${pens[${1#pen}]}" -f -r -x 5000 -q 2000 --workers 1 -E "$certificate" "127.0.0.1:$port" "127.0.0.1:$web" \
            2>"$dir/$1.err" & started=$!
        ;;
    esac
}

# The library in a pen, by which its targets go.
library() {
    if ldd "$1" 2>/dev/null | grep -q libssl; then echo system
    elif grep -aq 'AWS-LC' "$1"; then echo aws-lc
    else echo vendored; fi
}

# What a pen should not exceed: the ratio to HAProxy, or bytes per idle connection.
target() { # row library
    case $2-$1 in
    *-own) echo - ;; # others compute something else
    system-idle*) echo 15000 ;;
    aws-lc-idle*) echo 7000 ;;
    system-gib*) echo 0.76 ;;
    aws-lc-gib*) echo 0.42 ;;
    system-*) echo 0.87 ;;
    aws-lc-full-*-rsa) echo 0.66 ;;
    aws-lc-full-*-p256 | aws-lc-resumed-*) echo 0.52 ;;
    *) echo - ;;
    esac
}

# What a row is.
plan() {
    local kind version own ciphers=TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES256-GCM-SHA384
    IFS=- read -r kind version key own <<<"$1"
    [ -e "$dir/$key.pem" ] || die "no such row: $1"
    options=("version=$version" "seconds=$seconds")
    groups=
    # X25519 comes first; P-256 must be there for TLS 1.2 to accept a certificate with such a key.
    if [ -z "$own" ]; then groups=groups=X25519:P-256; options+=("ciphers=$ciphers"); fi
    mode=$kind unit=1000 times=$rounds goals=-
    case $kind in
    full | resumed) ;;
    gib1 | gib16) mode=bulk unit=1000000; options+=("clients=${kind#gib}") ;;
    # Memory does not vary; and a second round would find what the first has left.
    idle) unit=1 times=1 counters= ;;
    *) die "no such row: $1" ;;
    esac
}

names=(haproxy nginx classic floor) others=(haproxy floor) shown=() told=(version cipher group)
for n in "${!pens[@]}"; do
    names+=("pen$n")
    echo "pen$n: ${pens[n]} ($(library "${pens[n]}"))"
done
echo "haproxy: $(haproxy -v | sed -n '1s/.*version \([^ ]*\).*/\1/p'); $(nginx -v 2>&1); classic: $classic"
echo "floor: $floor ($(library "$floor"))"
echo "cost: CPU us per connection, ms per GiB, bytes per idle connection; targets: for pen with its library, to HAProxy"
compare
