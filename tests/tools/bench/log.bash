#!/usr/bin/env bash
# What the log costs: how long a start with 1,000,000 keys takes, beside redis-server that loads the same
# from its append-only file; and the throughput with the log, beside that without.
set -eu
# shellcheck source-path=SCRIPTDIR source=common.bash
source "${BASH_SOURCE[0]%/*}/common.bash"
needs cc=gcc redis-server=redis-server redis-cli=redis-tools taskset=util-linux
ROUNDS=${ROUNDS:-7}
KEYS=${KEYS:-1000000}
build

# loading COMMAND...: seconds from the start until it answers.
loading() {
    local began ended
    began=$(date +%s.%N)
    "$@"
    ended=$(date +%s.%N)
    kill "$PID"
    wait "$PID" || :
    awk -v a="$began" -v b="$ended" 'BEGIN { printf "%.3f\n", b - a }'
}

kvss_loads() {
    server "$KVSS" --quiet --port "$PORT" --data "$WORK/kvss.data"
    await 'KV/1.0 STATS' "200 OK keys=$KEYS "
}

# Redis answers PING with an error while it loads.
redis_loads() {
    server redis-server --port "$PORT" --bind 127.0.0.1 --save '' --dir "$WORK/$1" --appendonly yes \
        --auto-aof-rewrite-percentage 0
    await PING +PONG
}

echo "Start with $KEYS keys (key 16 bytes, value 32): seconds until the first reply, $ROUNDS rounds in turn"
start_kvss --data "$WORK/kvss.data"
load --fill 1 --keys "$KEYS" --connections 10 --depth 100 >/dev/null
kill "$PID"
wait "$PID"
mkdir "$WORK/appended"
start_redis --dir "$WORK/appended" --appendonly yes --auto-aof-rewrite-percentage 0
await PING +PONG
load --protocol resp --fill 1 --keys "$KEYS" --connections 10 --depth 100 >/dev/null
redis-cli -p "$PORT" shutdown nosave
wait "$PID" || :
cp -R "$WORK/appended" "$WORK/rewritten"
start_redis --dir "$WORK/rewritten" --appendonly yes
await PING +PONG
redis-cli -p "$PORT" bgrewriteaof >/dev/null
until redis-cli -p "$PORT" info persistence | grep -q '^aof_rewrite_in_progress:0'; do sleep 0.1; done
redis-cli -p "$PORT" shutdown nosave
wait "$PID" || :
for ((round = 0; round < ROUNDS; round++)); do
    loading kvss_loads >>"$WORK/kvss"
    loading redis_loads appended >>"$WORK/redis"
    loading redis_loads rewritten >>"$WORK/redis-rewritten"
done
base=$(median <"$WORK/kvss")
for name in kvss redis redis-rewritten; do
    middle=$(median <"$WORK/$name")
    awk -v name="$name" -v median="$middle" -v base="$base" -v all="$(sort -n "$WORK/$name" | tr '\n' ' ')" 'BEGIN {
        split("kvss redis redis-rewritten", names)
        what["kvss"] = "kvss --data"; what["redis"] = "redis-server, commands as they were appended"
        what["redis-rewritten"] = "redis-server, after BGREWRITEAOF"
        printf "%-46s median %.3f   kvss/this %.2f   all: %s\n", what[name], median, base / median, all }'
done

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
