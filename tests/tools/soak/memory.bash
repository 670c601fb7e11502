#!/usr/bin/env bash
# What a server held, it can replay in the same memory. Under a limit, keys are stored until memory is
# full. Then the server is stopped and started under the same limit, and each key that got 201 has to be
# there. A row for each combination: how many keys there were, and how long the start took.
#
#     bash tests/tools/soak/memory.bash [kB of ulimit -v...]      (300000 2097152)
set -eu -o pipefail
BATS_TEST_TMPDIR=$(mktemp -d /tmp/kvss-memory.XXXXXX)
# shellcheck source-path=SCRIPTDIR source=../../helper.bash
source "${BASH_SOURCE[0]%/*}/../../helper.bash"
trap 'kill "${SERVERS[@]}" 2>/dev/null || :; rm -rf "$BATS_TEST_TMPDIR"' EXIT
PATIENCE=600 DATA=$BATS_TEST_TMPDIR/data REPLIES=$BATS_TEST_TMPDIR/replies
[ $# -gt 0 ] || set -- 300000 2097152
printf '%10s %8s %10s %10s %10s %8s\n' limit/kB value/B --fsync stored there start/ms
for limit; do
    for size in 100 1000 60000; do
        for fsync in always everysec no; do
            ulimit -Sv "$limit"
            serve --quiet --data "$DATA" --fsync "$fsync"
            ulimit -Sv unlimited
            awk -v n=$((limit * 1024 / size)) -v v="$(printf "%0${size}d" 0)" \
                'BEGIN { for (i = 1; i <= n; i++) print "KV/1.0 PUT key" i, v }' | talk >"$REPLIES"
            grep -q '^500' "$REPLIES"
            stored=$(grep -c '^201' "$REPLIES")
            stop "$PID"
            start=$(date +%s%N) there=0
            ulimit -Sv "$limit"
            serve --quiet --data "$DATA" --fsync "$fsync" 2>/dev/null || :
            ms=$((($(date +%s%N) - start) / 1000000))
            ulimit -Sv unlimited
            [ -z "$PORT" ] || there=$(ask 'KV/1.0 STATS' | sed 's/.* keys=\([0-9]*\) .*/\1/')
            printf '%10d %8d %10s %10d %10d %8d\n' "$limit" "$size" "$fsync" "$stored" "$there" "$ms"
            [ "$there" = "$stored" ] || FAILED=1
            stop "$PID" || :
            rm -f "$DATA"
        done
    done
done
[ -z "${FAILED-}" ]
