# Completion of penctl(1) for bash: options before the target, commands and their words behind it.
# shellcheck shell=bash

_penctl() {
    local commands='abort_on_error abuse acl ascii blacklist block check client_acl clients_max close conn_max
        connection control control_acl debug delayed_forward diff drain dsr_if dsr_ip dummy emergency epoll exit
        explain forgetful geoip hash http idle_timeout idlers include keepalive kqueue limits listen listen_queue log
        mode multi_accept no peek pending_max pid poll prio recent reload roundrobin select server servers socket
        source ssl_ciphers ssl_client_renegotiation_interval ssl_ocsp_response ssl_option ssl_sni_path status stubborn
        tarpit_acl tcp_fastclose tcp_nodelay timeout tracking transparent undrain web_stats weight workers write'
    local negatives='abort_on_error abuse acl ascii block delayed_forward dummy emergency epoll forgetful geoip hash
        http keepalive kqueue log peek poll prio roundrobin select source stubborn tcp_nodelay transparent web_stats
        weight'
    local options='--help --timeout --version --words'

    # Not COMP_WORDS: those are cut at every colon too.
    local words cur='' line=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$line"
    if [[ $line != *[[:blank:]] ]]; then
        cur=${words[-1]}
        unset 'words[-1]'
    fi

    local i=1 value=
    while [[ ${words[i]-} == -?* && ${words[i]} != -- ]]; do
        value=
        case ${words[i]} in
        --timeout | -t | -wt)
            value=${words[i]}
            ((++i))
            ;;
        esac
        ((++i))
    done
    [[ ${words[i]-} == -- ]] && ((++i))

    COMPREPLY=()
    if ((${#words[@]} <= i)); then
        if [[ -n $value ]] && ((${#words[@]} < i)); then
            return
        elif [[ $cur == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
        elif [[ $cur == */* ]]; then
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        fi
        return
    fi

    local given=("${words[@]:i+1}") choices=''
    case "${given[*]}" in
    '') choices=$commands ;;
    no) choices=$negatives ;;
    'acl '*)
        case ${#given[@]} in
        2) choices='permit deny' ;;
        3) choices='country' ;;
        esac
        ;;
    'server '*)
        ((${#given[@]} % 2)) || choices='acl address blacklist hard max port prio weight'
        ;;
    'drain '*) ((${#given[@]} == 2)) && choices='all' ;;
    tcp_fastclose) choices='off up down both' ;;
    workers) choices='auto' ;;
    explain) choices='unix' ;;
    check | diff | geoip | include | log | web_stats | write)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur")
}

complete -F _penctl penctl
