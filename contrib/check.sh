#!/bin/bash
# Everything that must be green before a change is taken. Stops at the first thing that is not. The tests come last,
# so that their summary is the last thing to be seen.
set -eu -o pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin
export PATH

step() {
    echo "check: $*"
    "$@"
}

step cargo fmt --check
step cargo clippy --all-targets --locked -- -D warnings
step env RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet
step mandoc -Tlint -Wwarning man/*.[1-8]

for script in contrib/*.sh contrib/*.init contrib/*.cgi contrib/*.bash benches/*.sh .ci/run; do
    [ -e "$script" ] || continue
    case $(head -n 1 "$script") in
    *bash*) step bash -n "$script" ;;
    *) step sh -n "$script" ;;
    esac
done
if command -v shellcheck >/dev/null 2>&1; then
    step shellcheck contrib/*.sh contrib/*.init contrib/*.cgi contrib/*.bash benches/*.sh .ci/run
fi

step cargo test --locked --doc --quiet

summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
# Not with the signals ignored that a shell ignores for what it runs in the background: some stories are about those.
step env --default-signal=HUP,INT,QUIT,TERM cargo test --locked --lib --bins --tests 2>&1 | tee "$summary"
awk '/^test result:/ { passed += $4; failed += $6; skipped += $8 }
    END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' "$summary"
