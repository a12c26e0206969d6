#!/bin/bash
# Shows pen at work: two small web servers, pen in front of them, clients that are spread and come back, a server that
# is taken out of service, TLS, a server that dies, and the status page. Ends by itself, or with Ctrl-C, and leaves
# nothing behind.
#
# usage: demo.sh path/to/pen
set -eu

pen=${1:?usage: demo.sh path/to/pen}
penctl=$(dirname "$pen")/penctl
scratch=$(mktemp -d "${TMPDIR:-/tmp}/pen-demo.XXXXXX")
pids=()

end() {
    trap - EXIT
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

fail() {
    echo "demo: $*" >&2
    cat "$scratch"/*.err >&2 || true
    exit 1
}

# A port of 127.0.0.1 that nobody listens on, stored in the variable of that name. Below the range from which the
# system takes ports for outgoing connections.
free_port() {
    local try
    for _ in {1..100}; do
        try=$((20000 + RANDOM % 10000))
        if [[ " ${taken-} " != *" $try "* ]] && ! (exec 3<>"/dev/tcp/127.0.0.1/$try") 2>/dev/null; then
            taken="${taken-} $try"
            printf -v "$1" %s "$try"
            return
        fi
    done
    fail "no free port found"
}

# Starts pen in the background with these arguments; $! is its process. Its messages go to NAME.err.
start() {
    local name=$1
    shift
    "$pen" -f "$@" 2>"$scratch/$name.err" &
    pids+=($!)
}

# Waits up to 10 seconds for a command to succeed.
await() {
    for _ in {1..100}; do
        if "$@" >/dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    fail "timed out waiting for: $*"
}

# One request as client 127.0.0.N: who answered?
request() {
    curl --silent --show-error --max-time 10 --interface "127.0.0.$1" "http://127.0.0.1:$front/from-127.0.0.$1"
}

requests() {
    local client
    for client in "$@"; do
        printf '  client 127.0.0.%s  ->  %s\n' "$client" "$(request "$client")"
    done
}

# One handshake, and a line about it: is the session a new one, or resumed?
handshake() {
    printf 'GET / HTTP/1.0\r\n\r\n' |
        openssl s_client -connect "127.0.0.1:$secure" -CAfile "$scratch/cert.pem" -verify_return_error -ign_eof "$@" \
            2>>"$scratch/openssl.err" | grep -m 1 -E '^(New|Reused), ' || fail "no handshake with openssl s_client $*"
}

# The status page as text: the cells of a row in columns as wide as their headings.
page_as_text() {
    awk '
        /<h[12]>|^Time|^Max number|^Number of/ { gsub(/<[^>]*>/, ""); print "  " $0 }
        /<tr>/ { column = 0; row = "" }
        /<td/ {
            heading = /bgcolor/
            gsub(/<[^>]*>/, "")
            if (heading) width[column] = length($0) < 11 ? 11 : length($0)
            row = row sprintf("%-" width[column] "s  ", $0)
            column++
        }
        /<\/tr>/ { print "    " row }
    ' "$1"
}

free_port one
free_port two
free_port front
free_port secure

echo "Two web servers on ports $one and $two (pen's dummy mode), and pen with two workers on port $front:"
echo
echo "  pen --workers 2 -f -t 1 -C ./pen.ctl -l requests.log -w status.html \\"
echo "      127.0.0.1:$front 127.0.0.1:$one 127.0.0.1:$two"
start one --workers 1 -O dummy "127.0.0.1:$one"
first=$!
start two --workers 1 -O dummy "127.0.0.1:$two"
await curl --silent --fail "http://127.0.0.1:$one/"
await curl --silent --fail "http://127.0.0.1:$two/"
# A control port must not be root's unless that is said.
user=()
if [[ $(id -u) -eq 0 ]]; then
    user=(-u root)
fi
start front --workers 2 -t 1 "${user[@]}" -C "$scratch/pen.ctl" -l "$scratch/requests.log" -w "$scratch/status.html" \
    "127.0.0.1:$front" "127.0.0.1:$one" "127.0.0.1:$two"
balancer=$!
await curl --silent --fail "http://127.0.0.1:$front/"

echo
echo "New clients are spread over the servers:"
requests 2 3 4 5
echo
echo "They come back to the server that they know:"
requests 5 4 3 2 2 2
echo
echo "Server 1 is taken out of service: it keeps its clients and gets no new ones."
for command in "drain 1" servers "explain 127.0.0.6"; do
    echo "  penctl ./pen.ctl $command"
    "$penctl" "$scratch/pen.ctl" "$command" | sed 's/^/    /'
done
requests 6 7 8 3
"$penctl" "$scratch/pen.ctl" undrain 1

echo
echo "Another pen speaks TLS with the clients, with a certificate made just now; the servers stay as they are:"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 -keyout "$scratch/key.pem" -out "$scratch/cert.pem" 2>"$scratch/openssl.err"
echo
echo "  pen --workers 2 -f -E cert.pem -K key.pem 127.0.0.1:$secure 127.0.0.1:$one 127.0.0.1:$two"
start secure --workers 2 -E "$scratch/cert.pem" -K "$scratch/key.pem" \
    "127.0.0.1:$secure" "127.0.0.1:$one" "127.0.0.1:$two"
await curl --silent --fail --cacert "$scratch/cert.pem" "https://127.0.0.1:$secure/"
echo "  curl --cacert cert.pem https://127.0.0.1:$secure/"
curl --silent --show-error --max-time 10 --cacert "$scratch/cert.pem" "https://127.0.0.1:$secure/" | sed 's/^/    /'
echo
echo "A client that comes back resumes its session, whichever worker it meets:"
echo "  first visit:  $(handshake -sess_out "$scratch/session.pem")"
echo "  second visit: $(handshake -sess_in "$scratch/session.pem")"
echo "  third visit:  $(handshake -sess_in "$scratch/session.pem")"

echo
echo "The server on port $one is killed. Its clients go to the other one, and nobody notices:"
kill "$first"
wait "$first" 2>/dev/null || true
requests 2 3 4 5

echo
echo "What pen says of itself (kill -USR1 writes $scratch/status.html):"
kill -USR1 "$balancer"
await grep -q '</html>' "$scratch/status.html"
echo
page_as_text "$scratch/status.html"
echo
echo "The last requests in its log:"
tail -n 4 "$scratch/requests.log" | sed 's/^/  /'

if [[ -t 0 && -t 1 ]]; then
    echo
    echo "Try http://127.0.0.1:$front/ and $scratch/status.html yourself. Enter or Ctrl-C ends this, or one minute."
    read -r -t 60 || true
fi
echo
echo "That was it; everything is stopped and removed."
