#!/bin/sh
# Makes sure that the programs are there which "make demo", "make check" or "make bench" call. On Debian and its
# relatives root gets the missing packages installed; anybody else is told their names. Does nothing, and needs no
# network, if nothing is missing.
#
# "make check" can do without the classic pen, the scanners sslscan and testssl, and the servers, balancers and clients
# that the tests bring together with pen: it then leaves out what needs them.
#
# Servers that it installs, name servers among them, are not started, neither now nor when the system starts.
#
# usage: setup.sh demo|check|bench
set -eu

# program:package, /FILE:package, or NAME.pc:package for a library that pkg-config(1) knows; one a line
demo='cc:gcc libc6-dev
pkg-config:pkg-config
openssl.pc:libssl-dev
openssl:openssl
curl:curl'
check="$demo
make:make
mandoc:mandoc
strace:strace
ip:iproute2
ps:procps"
bench="$demo
nginx:nginx-light
/usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream
haproxy:haproxy
wrk:wrk
pen:pen
nsd:nsd
dnsperf:dnsperf"

helpful="/usr/bin/pen:pen
sslscan:sslscan
testssl:testssl.sh
nginx:nginx-light
/usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream
haproxy:haproxy
apache2:apache2-bin
h2load:nghttp2-client
wrk:wrk
nsd:nsd
dig:bind9-dnsutils
dnsperf:dnsperf
dnsdist:dnsdist
rsyslogd:rsyslog
logger:bsdutils
sipp:sip-tester"

optional=
case ${1-} in
demo) wanted=$demo ;;
check) wanted=$check optional=$helpful ;;
bench) wanted=$bench ;;
*)
    echo "usage: setup.sh demo|check|bench" >&2
    exit 2
    ;;
esac

# Where system programs are, whoever calls.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

has() {
    case $1 in
    *.pc) pkg-config --exists "${1%.pc}" 2>/dev/null ;;
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

if ! has cargo && [ -x "${HOME:-/}/.cargo/bin/cargo" ]; then
    PATH=$HOME/.cargo/bin:$PATH
fi
if ! has cargo; then
    echo "setup: cargo is missing; install Rust 1.88 or newer (https://rustup.rs)" >&2
    exit 1
fi

# The packages of those of these programs that are missing.
missing_of() {
    echo "$1" | while IFS=: read -r program package; do
        [ -z "$program" ] || has "$program" || printf '%s ' "$package"
    done
}

missing=$(missing_of "$wanted")
useful=$(missing_of "$optional")

if [ -n "$missing$useful" ]; then
    if [ "$(id -u)" -ne 0 ] || ! has apt-get; then
        if [ -n "$missing" ]; then
            echo "setup: please install first: $missing" >&2
            exit 1
        fi
        echo "setup: without the package ${useful}some tests are left out" >&2
    else
        echo "setup: installing $missing$useful"
        # Nothing that is installed here is to be started, neither now nor when the system starts: the tests bring their
        # own servers up and down.
        services() {
            for unit in /lib/systemd/system/*[!@].service /etc/init.d/*; do
                [ ! -e "$unit" ] || basename "$unit" .service
            done | sort -u
        }
        # What was not there before.
        disable() {
            services | while read -r service; do
                case " $known " in *" $service "*) continue ;; esac
                [ ! -d /run/systemd/system ] || systemctl --quiet stop "$service.service" || true
                [ ! -e "/etc/init.d/$service" ] || update-rc.d "$service" disable || true
                ! has systemctl || systemctl --quiet disable "$service.service" || true
            done
        }
        known=$(services | tr '\n' ' ')
        policy=/usr/sbin/policy-rc.d
        if [ -e $policy ]; then
            trap disable EXIT
        else
            trap 'disable; rm -f $policy' EXIT
            printf '#!/bin/sh\nexit 101\n' >$policy
            chmod 755 $policy
        fi
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        export DEBIAN_FRONTEND=noninteractive
        install() {
            apt-get install -qq -y --no-install-recommends "$@" >/dev/null
        }
        apt-get update -qq || [ -z "$missing" ]
        # shellcheck disable=SC2086 # a list of words
        [ -z "$missing" ] || install $missing
        for package in $useful; do
            install "$package" || echo "setup: without the package $package some tests are left out" >&2
        done
    fi
fi

# The two parts of Rust that a minimal installation lacks.
if [ "$1" = check ]; then
    for part in fmt:rustfmt clippy:clippy; do
        if ! cargo "${part%:*}" --version >/dev/null 2>&1; then
            if ! has rustup || ! rustup component add "${part#*:}"; then
                echo "setup: cargo ${part%:*} is missing; install the component ${part#*:} of Rust" >&2
                exit 1
            fi
        fi
    done
fi
