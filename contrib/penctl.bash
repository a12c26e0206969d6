# Completion of penctl(1) for bash: options before the target, commands and their words behind it.
# shellcheck shell=bash

_penctl() {
    local commands='abort_on_error abuse acl ascii blacklist block check client_acl clients_max close conn_max
        connection control control_acl debug delayed_forward diff drain dsr_if dsr_ip dummy emergency epoll exit
        explain forgetful geoip hash http http_head_max http_head_timeout idle_timeout idlers include keepalive
        kqueue limits listen listen_queue log log_format mode multi_accept no peek pending_max pid poll prio proxy_accept
        proxy_send recent reload roundrobin select server servers socket source ssl_alpn ssl_ca_file ssl_ca_path
        ssl_certificate ssl_ciphers ssl_ciphersuites ssl_client_renegotiation_interval ssl_groups
        ssl_handshake_timeout ssl_key ssl_max_version ssl_min_version ssl_ocsp_response ssl_option
        ssl_passthrough ssl_sni_path ssl_ticket_rotation ssl_verify_client status stubborn tarpit_acl
        tcp_fastclose tcp_nodelay timeout tracking transparent udp_timeout undrain web_stats weight workers
        write'
    local negatives='abort_on_error abuse acl ascii block delayed_forward dummy emergency epoll forgetful geoip
        hash http keepalive kqueue listen log peek poll prio proxy_accept proxy_send roundrobin select source ssl_alpn
        ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_ciphersuites ssl_groups ssl_key
        ssl_ocsp_response ssl_option ssl_passthrough ssl_sni_path stubborn tcp_nodelay transparent web_stats
        weight'
    local versions='TLSv1 TLSv1.1 TLSv1.2 TLSv1.3'
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
        # Words come in pairs, but for tls: it has words of its own behind it, or none.
        local keys='acl address blacklist hard max port prio proxy sni tls weight' more='' key=2
        while ((key < ${#given[@]})); do
            case ${given[key]}:${given[key + 1]-} in
            tls:off)
                more=''
                ((key += 2))
                ;;
            tls:*)
                more='off verify'
                ((++key))
                ;;
            *)
                # What belongs to tls may be followed by more of it.
                if [[ -n $more && ${given[key]} == @(verify|sni) ]]; then
                    more='verify'
                else
                    more=''
                fi
                ((key += 2))
                ;;
            esac
        done
        if ((key == ${#given[@]})); then
            choices="$keys $more"
        else
            case ${given[-1]} in
            proxy) choices='1 2 every off default' ;;
            sni) choices='none' ;;
            verify) choices='none system' ;;
            esac
        fi
        ;;
    http | 'http '*)
        choices='append forwarded keep replace'
        ;;
    'no http') choices='forwarded' ;;
    proxy_accept) choices='off' ;;
    proxy_send) choices='1 2 every off' ;;
    listen | 'no listen') choices='tcp udp' ;;
    log_format) choices='classic json' ;;
    'udp_timeout '*) ((${#given[@]} == 2)) && choices='replies' ;;
    'drain '*) ((${#given[@]} == 2)) && choices='all' ;;
    ssl_max_version | ssl_min_version) choices=$versions ;;
    ssl_option) choices='no_sslv2 no_sslv3 no_tlsv1 no_tlsv1.1 no_tlsv1.2 cipher_server_preference' ;;
    'no ssl_option') choices='no_tlsv1 no_tlsv1.1 no_tlsv1.2' ;;
    ssl_passthrough) choices='off sni' ;;
    ssl_verify_client) choices='off request require' ;;
    tcp_fastclose) choices='off up down both' ;;
    workers) choices='auto' ;;
    explain) choices='unix' ;;
    check | diff | geoip | include | log | ssl_ca_file | ssl_ca_path | ssl_certificate | ssl_key | ssl_ocsp_response | \
        ssl_sni_path | web_stats | write)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur")
}

complete -F _penctl penctl
