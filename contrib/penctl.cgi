#!/bin/sh
# A page that shows what a pen does and lets people drain and undrain servers, close connections and reload the
# configuration: through penctl(1), run by a web server as a CGI program (RFC 3875).
#
# Whoever can use this page can steer pen. So the web server must
#   - authenticate people: without a REMOTE_USER this program does nothing at all;
#   - be reached over TLS, or only from where nobody listens in;
#   - run it as a user who may use pen's control port: that of pen's option -u for a Unix socket, which is best.
# For Apache, with pen's control port at /run/pen.ctl (-C):
#   ScriptAlias "/pen" "/usr/local/share/doc/pen/examples/penctl.cgi"
#   <Location "/pen">
#       AuthType Basic
#       AuthName "pen"
#       AuthUserFile "/etc/pen/htpasswd"
#       Require valid-user
#       SetEnv PENCTL_TARGET "/run/pen.ctl"
#   </Location>
#
# Which pen it is about is said by the web server's configuration alone: PENCTL_TARGET, as penctl(1) takes it; PENCTL
# is where penctl is. Nothing of a request is ever run or passed on but words from the lists below and plain numbers.
# Only POST changes anything, and only from a form of this same page.
set -euf
LC_ALL=C
PATH=${PATH:-/usr/local/bin:/usr/bin:/bin}
export LC_ALL PATH

target=${PENCTL_TARGET:-/run/pen.ctl}
penctl=${PENCTL:-penctl}

# The longest form that is read, in bytes. Ours are shorter.
longest=200

escape() {
    sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/"/\&quot;/g' -e "s/'/\\&#39;/g"
}

# header STATUS: the head of the answer. Scripts, frames and other people's forms have no business here.
header() {
    printf '%s\r\n' "Status: $1" \
        'Content-Type: text/html; charset=utf-8' \
        'Cache-Control: no-store' \
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'" \
        'X-Content-Type-Options: nosniff' \
        'X-Frame-Options: DENY' \
        'Referrer-Policy: same-origin' \
        ''
}

top() {
    header "$1"
    printf '%s\n' '<!DOCTYPE html>' '<html lang="en"><head><title>pen</title></head><body>' '<h1>pen</h1>'
}

bottom() {
    printf '%s\n' '</body></html>'
}

# refuse STATUS WORDS: the end.
refuse() {
    top "$1"
    printf '<p>%s</p>\n' "$2"
    bottom
    exit 0
}

# ask WORD...: what pen answers, in $answer; false if it has not done what it was asked for.
ask() {
    answer=$("$penctl" -t 20 -- "$target" "$@" 2>&1 </dev/null)
}

# page TITLE: $answer, and what can be asked for next.
page() {
    printf '<h2>%s</h2>\n<pre>\n' "$1"
    printf '%s\n' "$answer" | escape
    cat <<'EOF'
</pre>
<p>
<a href="?view=servers">servers</a>
<a href="?view=recent">recent clients</a>
<a href="?view=mode">mode</a>
<a href="?view=limits">limits</a>
<a href="?view=status">status page</a>
</p>
<form method="post">
<label>Server <input name="number" size="5" required pattern="[0-9]{1,7}"></label>
<button name="action" value="drain">no new clients</button>
<button name="action" value="drain-all">no new connections</button>
<button name="action" value="undrain">all clients</button>
</form>
<form method="post">
<label>Connection <input name="number" size="8" required pattern="[0-9]{1,7}"></label>
<button name="action" value="connection">show</button>
<button name="action" value="close">close</button>
</form>
<form method="post">
<button name="action" value="check">check the configuration</button>
<button name="action" value="diff">what would change</button>
<button name="action" value="reload">reload</button>
</form>
EOF
}

# field NAME FORM: what the form says for it. Nothing is decoded: what we take needs no encoding.
field() {
    rest=$2
    while [ -n "$rest" ]; do
        pair=${rest%%&*}
        case $rest in
        *'&'*) rest=${rest#*&} ;;
        *) rest= ;;
        esac
        case $pair in
        "$1="*)
            printf '%s' "${pair#*=}"
            return
            ;;
        esac
    done
}

# Is this request made by a page of this same server? Browsers say so, and web pages cannot make them lie.
same_origin() {
    host=${HTTP_HOST:-}
    case $host in
    '' | *[!][A-Za-z0-9.:_-]*) return 1 ;;
    esac
    if [ -n "${HTTP_SEC_FETCH_SITE:-}" ]; then
        [ "$HTTP_SEC_FETCH_SITE" = same-origin ]
    elif [ -n "${HTTP_ORIGIN:-}" ]; then
        [ "$HTTP_ORIGIN" = "http://$host" ] || [ "$HTTP_ORIGIN" = "https://$host" ]
    else
        case ${HTTP_REFERER:-} in
        "http://$host/"* | "https://$host/"*) return 0 ;;
        *) return 1 ;;
        esac
    fi
}

view() {
    case $1 in
    '' | servers) set -- servers servers ;;
    recent) set -- 'recent clients' recent ;;
    mode | limits) set -- "$1" "$1" ;;
    status)
        # A page of its own.
        if ask status; then
            header '200 OK'
            printf '%s\n' "$answer"
            return
        fi
        set -- status status
        ;;
    *) refuse '404 Not Found' 'There is no such view.' ;;
    esac
    title=$1
    shift
    if ask "$@"; then top '200 OK'; else top '502 Bad Gateway'; fi
    page "$title"
    bottom
}

change() {
    action=$(field action "$1")
    number=$(field number "$1")
    case $action in
    check | diff | reload) set -- "$action" ;;
    drain | drain-all | undrain | connection | close)
        case $number in
        '' | *[!0-9]* | ????????*) refuse '400 Bad Request' 'The number must be digits, seven at most.' ;;
        esac
        case $action in
        drain-all) set -- drain "$number" all ;;
        *) set -- "$action" "$number" ;;
        esac
        ;;
    *) refuse '400 Bad Request' 'There is no such action.' ;;
    esac
    if ask "$@"; then
        top '200 OK'
        case $action in
        diff) : "${answer:=nothing would change}" ;;
        *) : "${answer:=done}" ;;
        esac
    else
        top '502 Bad Gateway'
    fi
    page "$*"
    bottom
}

[ -n "${REMOTE_USER:-}" ] ||
    refuse '403 Forbidden' 'The web server has not asked who you are; this page is for known people only.'

case ${REQUEST_METHOD:-} in
GET | HEAD)
    view "$(field view "${QUERY_STRING:-}")"
    ;;
POST)
    same_origin || refuse '403 Forbidden' 'This form was not sent by this page.'
    length=${CONTENT_LENGTH:-}
    case $length in
    '' | *[!0-9]* | ????*) refuse '400 Bad Request' 'This is not a form of this page.' ;;
    esac
    [ "$length" -le "$longest" ] || refuse '400 Bad Request' 'This is not a form of this page.'
    change "$(dd bs=1 count="$length" 2>/dev/null)"
    ;;
*)
    refuse '405 Method Not Allowed' 'This page knows GET, HEAD and POST.'
    ;;
esac
