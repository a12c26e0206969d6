#!/bin/bash
# CPU time of the balancer's processes per connection, per request and per GiB: pen beside Debian's classic pen.
#
#   benches/compare.sh [rounds [seconds [mode ...]]]
#
# Needs nginx, wrk, curl and Debian's package pen; builds the release binary. Both balancers do the same work on the
# same servers, taking turns round by round; the table shows medians and the ratio of ours to the classic's.
# Balancer, load and servers all run on one CPU: what they cost each other by waking up on different ones varies far
# more than what is measured. So only CPU time per operation is worth comparing, not throughput.
set -eu

if [ -z "${PEN_ON_ONE_CPU-}" ]; then
    (cd "$(dirname "$0")/.." && cargo build --release --locked --quiet)
    PEN_ON_ONE_CPU=yes exec taskset -c 0 bash "$0" "$@"
fi

# shellcheck source=benches/common.sh
. "$(dirname "$0")/common.sh"

rounds=${1:-5}
seconds=${2:-2}
if [ $# -gt 2 ]; then modes=("${@:3}"); else modes=(connection request-1 request-64 request-1000 gib-1 gib-16); fi

need nginx nginx-light
need wrk wrk
need curl curl
classic=${CLASSIC_PEN:-/usr/bin/pen}
need "$classic" pen
ours=$here/target/release/pen

# Nanoseconds of CPU that a process and its children have used.
cpu() {
    local total=0 pid ns
    for pid in "$1" $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
        read -r ns _ <"/proc/$pid/schedstat" || continue
        total=$((total + ns))
    done
    echo "$total"
}

web=$(free_port)
mkdir "$dir/www"
head -c 1024 /dev/zero | tr '\0' x > "$dir/www/small"
head -c $((64 << 20)) /dev/zero > "$dir/www/large"
cat > "$dir/nginx.conf" <<CONF
daemon off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err; user root;
events { worker_connections 4096; }
http {
    access_log off; sendfile on; keepalive_requests 100000000;
    client_body_temp_path $dir/t1; proxy_temp_path $dir/t2; fastcgi_temp_path $dir/t3;
    uwsgi_temp_path $dir/t4; scgi_temp_path $dir/t5;
    server { listen 127.0.0.1:$web backlog=4096; root $dir/www; }
}
CONF
nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null & pids+=($!)
await "$web" nginx

ours_port=$(free_port)
"$ours" -f -r -x 2000 -q 2000 --workers 1 "127.0.0.1:$ours_port" "127.0.0.1:$web" 2>"$dir/ours.err" & ours_pid=$!
pids+=($ours_pid)
classic_port=$(free_port)
"$classic" -f -r -x 2000 -q 2000 "127.0.0.1:$classic_port" "127.0.0.1:$web" 2>"$dir/classic.err" & classic_pid=$!
pids+=($classic_pid)
await "$ours_port" ours
await "$classic_port" classic

# One measurement: microseconds of CPU per operation.
measure() { # mode pid port
    local before after done_ log=$dir/wrk.out
    before=$(cpu "$2")
    case $1 in
        connection) wrk -t1 -c64 -d"${seconds}s" -H 'Connection: close' "http://127.0.0.1:$3/small" > "$log" ;;
        request-1) wrk -t1 -c1 -d"${seconds}s" "http://127.0.0.1:$3/small" > "$log" ;;
        request-64) wrk -t1 -c64 -d"${seconds}s" "http://127.0.0.1:$3/small" > "$log" ;;
        request-1000) wrk -t1 -c1000 -d"${seconds}s" "http://127.0.0.1:$3/small" > "$log" ;;
        gib-1) wrk -t1 -c1 -d"${seconds}s" "http://127.0.0.1:$3/large" > "$log" ;;
        gib-16) wrk -t1 -c16 -d"${seconds}s" "http://127.0.0.1:$3/large" > "$log" ;;
    esac
    after=$(cpu "$2")
    done_=$(awk '/requests in/ { print $1 }' "$log")
    case $1 in
        # wrk counts what it has read, but a request only when it is whole.
        gib-*) done_=$(awk '/requests in/ { v = $5; u = v; sub(/[0-9.]+/, "", u); sub(/[A-Z]+/, "", v);
            print v * (u == "GB" ? 1 : u == "MB" ? 1 / 1024 : 1 / 1048576) }' "$log") ;;
    esac
    awk -v t=$((after - before)) -v n="$done_" 'BEGIN { printf("%.3f\n", (n > 0) ? t / 1000 / n : 0) }'
}

printf '%-14s %14s %14s %8s\n' "CPU us per" pen classic ratio
for mode in "${modes[@]}"; do
    : > "$dir/a"; : > "$dir/b"
    for _ in $(seq "$rounds"); do
        measure $mode $ours_pid "$ours_port" >> "$dir/a"
        measure $mode $classic_pid "$classic_port" >> "$dir/b"
    done
    a=$(median < "$dir/a"); b=$(median < "$dir/b")
    awk -v m=$mode -v a="$a" -v b="$b" 'BEGIN { printf("%-14s %14.2f %14.2f %8s\n", m, a, b, (b > 0) ? sprintf("%.2f", a / b) : "-") }'
done
