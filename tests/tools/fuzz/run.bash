#!/usr/bin/env bash
# run.bash [lines|frames|data...]: fuzzes kvss with clang's libFuzzer, ASan and UBSan, on these
# entries or on all. First the corpus is replayed, then each is fuzzed for TIME seconds, 60 or as
# given; 0: not at all. FAST=1 is without sanitizers, and ten times as fast. What is found is kept
# in OUT, tests/tools/fuzz/out or as given:
#
#     OUT/lines crash-...     runs that input again
#
# and new inputs in OUT/lines.new. To keep what of them is worth it:
#
#     OUT/lines -merge=1 tests/tools/fuzz/corpus/lines OUT/lines.new
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TIME=${TIME:-60}
OUT=${OUT:-$here/out}
FLAGS=(-std=gnu11 -g -Wall -Wextra -Wpedantic -Wno-unused-function)
if [ -n "${FAST-}" ]; then
    FLAGS+=(-O2 -fsanitize=fuzzer -fno-sanitize-coverage=trace-cmp)
else
    FLAGS+=(-O1 '-fsanitize=fuzzer,address,undefined' -fno-sanitize-recover=undefined)
fi

# The verbs of both wires, as dictionary: those of frames are in lower case, with NULs up to 15 bytes.
verbs() {
    local verb nul='\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00'
    sed -n 's/^ *{"\([A-Z]*\)", "\1.*/"KV\/1.0 \1 "/p' "$here/../../../kvss.c"
    for verb in create delete list send connect; do
        echo "\"$verb${nul:0:4 * (15 - ${#verb})}\""
    done
}

# fuzz ENTRY: replays its corpus, and goes on from there. Fails with the end of what libFuzzer said.
fuzz() {
    local log=$OUT/$1.log
    case $1 in
    lines | frames) clang "${FLAGS[@]}" "-DWIRE=${1^^}" -o "$OUT/$1" "$here/connection.c" ;;
    data) clang "${FLAGS[@]}" -o "$OUT/data" "$here/data.c" ;;
    *) echo "run.bash: $1 is not lines, frames or data" >&2; return 1 ;;
    esac
    "$OUT/$1" -runs=0 "$here/corpus/$1" >"$log" 2>&1 || { tail -n 50 "$log"; return 1; }
    [ "$TIME" -gt 0 ] || return 0
    mkdir -p "$OUT/$1.new"
    "$OUT/$1" -max_total_time="$TIME" -max_len=600 -timeout=20 -dict="$OUT/kv.dict" \
        -artifact_prefix="$OUT/" -print_final_stats=1 "$OUT/$1.new" "$here/corpus/$1" \
        >"$log" 2>&1 || { tail -n 50 "$log"; return 1; }
    sed -n "s/^stat::number_of_executed_units: */$1: inputs run: /p" "$log"
}

[ $# -gt 0 ] || set -- lines frames data
mkdir -p "$OUT"
{ verbs && cat "$here/kv.dict"; } >"$OUT/kv.dict"
jobs=() status=0
for entry; do
    fuzz "$entry" &
    jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job" || status=1; done
exit $status
