#!/bin/bash
# What the scripts here have in common; they source it. A directory that goes when they end ($dir), and with it the
# processes that they add to $pids.
# shellcheck shell=bash disable=SC2034 # its variables are theirs

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=$(mktemp -d)
pids=()

stop() { # pid ...
    local pid
    for pid in "$@"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "$@"; do wait "$pid" 2>/dev/null || true; done
}
cleanup() {
    stop "${pids[@]}"
    rm -rf "$dir"
}
trap cleanup EXIT

# Builds what is to be measured, unless that is named, and these examples; then the script begins anew, on one CPU. It calls
# this before it does anything else.
on_one_cpu() { # named examples argument ...
    local named=$1 example examples=()
    for example in $2; do examples+=(--example "$example"); done
    shift 2
    [ -z "${PEN_ON_ONE_CPU-}" ] || return 0
    (
        cd "$here"
        [ -n "$named" ] || cargo build --release --locked --quiet
        cargo build --release --locked --quiet "${examples[@]}"
    )
    rm -rf "$dir"
    PEN_ON_ONE_CPU=yes exec taskset -c 0 bash "$0" "$@"
}

die() { echo "${0##*/}: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing: apt-get install $2"; } # program package
PATH=$PATH:/usr/sbin:/sbin

# A port nobody listens on.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
}

# Waits until somebody listens there. What he says goes to $dir/NAME.err.
await() { # port name
    local n=0
    until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
        n=$((n + 1))
        [ "$n" -lt 500 ] || { cat "$dir/$2.err" >&2; die "$2 does not listen on port $1"; }
        sleep 0.01
    done
}

# Of the numbers in standard input, a line each; lines of - do not count.
median() {
    sort -n | awk '$1 != "-" { v[++n] = $1 }
        END { print n == 0 ? "-" : n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }'
}

# A value in a line of key=value.
field() { # key text
    local word
    for word in $2; do [ "${word%%=*}" != "$1" ] || { echo "${word#*=}"; return; }; done
}

# A quotient, or - if there is none.
per() { awk -v total="$1" -v n="${2:-0}" 'BEGIN { if (n > 0 && total != "") print total / n; else print "-" }'; }

# The median of the quotients of two files' lines.
ratio() { paste "$1" "$2" | awk '{ print ($1 != "-" && $2 > 0) ? $1 / $2 : "-" }' | median; }
scaled() { # value divisor digits
    awk -v v="$1" -v by="$2" -v digits="$3" 'BEGIN { if (v == "-") print v; else printf "%.*f\n", digits, v / by }'
}

# The machine's time, and what of it other CPUs have worked or the hypervisor has taken from this one; in ticks.
machine() {
    awk '$1 == "cpu0" { all = $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9; stolen = $9 }
        $1 ~ /^cpu[1-9]/ { others += $2 + $3 + $4 + $7 + $8 + $9; n++ }
        END { print all, (n > 0) ? others / n : 0, stolen }' /proc/stat
}

# Where others kept the machine busy since then, CPU times are worth less.
disturbed() { # what machine said then
    echo "$1 $(machine)" | awk '{ all = ($4 - $1) / 100
        if (all > 0) printf "meanwhile other CPUs were busy %.0f %% of the time, and the hypervisor took %.0f %% of this one\n",
            ($5 - $2) / all, ($6 - $3) / all }'
}

# What of instructions and cycles perf(1) can count here, if anything.
countable() {
    if perf stat -x, -e instructions,cycles true 2>&1 | grep -q '^[0-9]'; then echo instructions,cycles; fi
}

# --- Balancers side by side in front of one server, with a load like http/load.rs for clients. The caller has filled $rows,
# $names (all balancers), $others (those that ratios are to) and $shown (what else of the load's line is in the table), and
# defines two functions: start NAME puts a balancer's process into $started and its port into $port, or sets $started to
# nothing where that balancer has no part in this row (0: nobody is in between); plan ROW sets $mode and $options for the
# load, $unit (the cost is divided by), $times (rounds), $counters and $goals (the most that each ratio should be, or -).
# One more, if it is there: prepare, when all have been started. start may set $goals, too, and $own, an option for the
# load of this balancer alone. What the load says of $told, the last time, stands as it is at the end of the table's lines.
told=()

# One round of $mode against all balancers.
visit() { # more options
    local name clients=()
    for name in "${present[@]}"; do
        "$load" "$mode" "127.0.0.1:${ports[$name]}" "pid=${pid[$name]}" "${options[@]}" "$@" \
            ${owns[$name]:+"${owns[$name]}"} > "$dir/$name.line" 2>>"$dir/$name.err" & clients+=($!)
        # All of them could not be idle at once: the server has not so many descriptors.
        [ -n "${TOGETHER-}" ] && [ "$mode" != idle ] || wait $! || true
    done
    for name in "${clients[@]}"; do wait "$name" || true; done
}

# The ratios to the others, of one thing that was measured.
ratios() { # name what
    local other
    for other in "${others[@]}"; do
        if [ -e "$dir/$other.$2" ]; then scaled "$(ratio "$dir/$1.$2" "$dir/$other.$2")" 1 2; else echo -; fi
    done
}

# All rows, as a table on standard output.
compare() {
    local row name line cost event cells present events began failures own
    local format='%-20s %-8s %9s' header=(row balancer cost)
    declare -A pid ports failed goal owns last
    events=$(countable)
    [ -n "$events" ] || echo "perf(1) cannot count instructions and cycles here: CPU time alone"
    began=$(machine)
    for name in "${others[@]}"; do format+=' %8s' header+=("/$name"); done
    if [ -n "$events" ]; then
        format+=' %8s %8s' header+=(kinsn kcycles)
        for name in "${others[@]}"; do format+=' %8s' header+=("/$name"); done
    fi
    for name in "${shown[@]}"; do format+=' %8s' header+=("$name"); done
    format+='  %-20s %6s' header+=(targets failed)
    if [ "${#told[@]}" -gt 0 ]; then format+='  %s' header+=("${told[*]}"); fi
    format+='\n'
    echo
    # shellcheck disable=SC2059
    printf "$format" "${header[@]}"
    for row in "${rows[@]}"; do
        counters=$events
        plan "$row"
        present=()
        rm -f "$dir"/*.{cpu,instructions,cycles,line} "$dir"/*.shown-*
        for name in "${names[@]}"; do
            own=
            start "$name"
            [ -n "$started" ] || continue
            [ "$started" -eq 0 ] || pids+=("$started")
            await "$port" "$name"
            present+=("$name")
            pid[$name]=$started ports[$name]=$port failed[$name]=0 goal[$name]=$goals owns[$name]=$own
        done
        if declare -F prepare >/dev/null; then prepare; fi
        for _ in $(seq "$times"); do
            visit
            for name in "${present[@]}"; do
                line=$(cat "$dir/$name.line")
                failures=$(field failures "$line")
                failed[$name]=$((failed[$name] + ${failures:-1}))
                if [ "$mode" = idle ]; then cost=$(field memory "$line"); else cost=$(field cpu "$line"); fi
                if [ -z "$cost" ]; then echo -; else per "$cost" "$(field operations "$line")"; fi >> "$dir/$name.cpu"
                for cost in "${shown[@]}"; do
                    event=$(field "$cost" "$line")
                    echo "${event:--}" >> "$dir/$name.shown-$cost"
                done
                last[$name]=
                for cost in "${told[@]}"; do last[$name]+="$(field "$cost" "$line") "; done
            done
            [ -n "$counters" ] || continue
            visit "events=$counters"
            for name in "${present[@]}"; do
                line=$(cat "$dir/$name.line")
                for event in ${counters//,/ }; do
                    per "$(field "$event" "$line")" "$(field operations "$line")" >> "$dir/$name.$event"
                done
            done
        done
        for name in "${present[@]}"; do
            mapfile -t cells < <(scaled "$(median < "$dir/$name.cpu")" "$unit" 2; ratios "$name" cpu)
            if [ -n "$counters" ]; then
                for event in ${events//,/ }; do cells+=("$(scaled "$(median < "$dir/$name.$event")" 1000 1)"); done
                mapfile -t -O "${#cells[@]}" cells < <(ratios "$name" cycles)
            elif [ -n "$events" ]; then
                cells+=(- -)
                for event in "${others[@]}"; do cells+=(-); done
            fi
            for cost in "${shown[@]}"; do cells+=("$(median < "$dir/$name.shown-$cost")"); done
            case $name in pen*) cells+=("${goal[$name]}") ;; *) cells+=(-) ;; esac
            # shellcheck disable=SC2059
            printf "$format" "$row" "$name" "${cells[@]}" "${failed[$name]}" ${told:+"${last[$name]% }"}
            if [ "${failed[$name]}" -gt 0 ]; then tail -n 2 "$dir/$name.err" >&2; fi
            [ "${pid[$name]}" -eq 0 ] || stop "${pid[$name]}"
        done
    done
    echo
    disturbed "$began"
}
