#!/usr/bin/env bash
# What a request costs the kvss that is built here, for growing numbers of keys: microseconds of its
# CPU time, which depend less on what else the machine does than those of the clock. PUT adds the
# keys, in random order; GET asks for each of them, in another.
#
#     docs/labs/7-sorted/measure.bash [KEYS...]
set -euo pipefail
cd "$(dirname "$0")/../../.."
. tests/tools/bench/common.bash

# used: nanoseconds that the server has run so far.
used() { cut -d ' ' -f 1 "/proc/$PID/schedstat"; }

# cost VERB [VALUE]: sends it for each key in $WORK/keys.
cost() {
    local before
    sed "s/.*/KV\/1.0 $1 &${2:+ $2}/" "$WORK/keys" >"$WORK/requests"
    before=$(used)
    nc -N 127.0.0.1 "$PORT" <"$WORK/requests" >/dev/null
    echo "$(($(used) - before))" "$keys" | awk '{ printf "%12.2f", $1 / $2 / 1000 }'
}

make -s -C "$ROOT" kvss
[ $# -gt 0 ] || set -- 1000 10000 100000 1000000
echo '        keys         PUT         GET'
for keys; do
    start_kvss
    printf '%12d' "$keys"
    seq 1 "$keys" | sed 's/^/key/' | shuf >"$WORK/keys"
    cost PUT value
    shuf -o "$WORK/keys" "$WORK/keys"
    cost GET
    echo
    kill "$PID"
    wait "$PID"
done
