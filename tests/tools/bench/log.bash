#!/usr/bin/env bash
# What the log costs: how long a start with 1,000,000 keys takes; and the throughput with the log, beside
# that without.
set -eu
# shellcheck source-path=SCRIPTDIR source=common.bash
source "${BASH_SOURCE[0]%/*}/common.bash"
needs cc=gcc taskset=util-linux
ROUNDS=${ROUNDS:-7}
KEYS=${KEYS:-1000000}
build

start_kvss --data "$WORK/kvss.data"
load --fill 1 --keys "$KEYS" --connections 10 --depth 100 >/dev/null
for ((round = 0; round < ROUNDS; round++)); do
    kill "$PID"
    wait "$PID"
    began=$(date +%s%N)
    start_kvss --data "$WORK/kvss.data"
    await 'KV/1.0 STATS' "200 OK keys=$KEYS "
    echo $((($(date +%s%N) - began) / 1000000)) >>"$WORK/start"
done
echo "Start with $KEYS keys (key 16 bytes, value 32): $(median <"$WORK/start") ms until the first reply, median of $ROUNDS"

echo
echo "Throughput, 50 clients, pipelined by 100: requests a second, median of $ROUNDS rounds in turn"
modes=(none no everysec always)
pids=() ports=()
for mode in "${modes[@]}"; do
    if [ "$mode" = none ]; then start_kvss; else start_kvss --data "$WORK/$mode.data" --fsync "$mode"; fi
    pids+=("$PID")
    ports+=("$PORT")
    load --fill 1 --connections 10 --depth 100 >/dev/null
done
printf '%-8s %12s %12s %12s %12s   everysec/none, all rounds\n' writes "${modes[@]/#/--fsync }" | sed 's/--fsync none/     no log/'
for writes in 10 50 100; do
    : >"$WORK/ratios"
    for ((round = 0; round < ROUNDS; round++)); do
        for i in 0 1 2 3; do
            PID=${pids[i]} PORT=${ports[i]}
            ops=$(load --depth 100 --writes $writes --ms 700 | value ops)
            echo "$ops" >>"$WORK/ops.$writes.${modes[i]}"
            [ "$i" != 0 ] || none=$ops
            [ "$i" != 2 ] || awk -v a="$ops" -v b="$none" 'BEGIN { printf "%.3f\n", a / b }' >>"$WORK/ratios"
        done
    done
    printf '%-8s' "$writes %"
    for mode in "${modes[@]}"; do printf ' %12d' "$(median <"$WORK/ops.$writes.$mode")"; done
    printf '   median %.3f of %s\n' "$(median <"$WORK/ratios")" "$(sort -n "$WORK/ratios" | tr '\n' ' ')"
done

echo
echo "One client that sends a write and waits for its reply: writes a second, median of $ROUNDS rounds in turn"
for ((round = 0; round < ROUNDS; round++)); do
    for i in 0 1 2 3; do
        PID=${pids[i]} PORT=${ports[i]}
        load --connections 1 --writes 100 --ms 500 | value ops >>"$WORK/one.${modes[i]}"
    done
done
for mode in "${modes[@]}"; do printf '%-9s %8d\n' "$mode" "$(median <"$WORK/one.$mode")"; done
