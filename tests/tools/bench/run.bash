#!/usr/bin/env bash
# kvss, and Part I of kvss.c alone, beside redis-server, memcached, a server with a thread for each client in Python, and the floor:
# what a select() server can't be faster than. All get the same keys, values and order, in rounds that
# alternate. Prints a table, and keeps every number in a file.
#
#     make bench             some six minutes
#     make bench QUICK=1     under a minute: to see that all replies are right, not for figures
#     make bench OUT=FILE    where the numbers go; bench.tsv by default
set -eu
# shellcheck source-path=SCRIPTDIR source=common.bash
source "${BASH_SOURCE[0]%/*}/common.bash"
needs cc=gcc redis-server=redis-server memcached=memcached python3=python3 taskset=util-linux ss=iproute2
BENCH=$ROOT/tests/tools/bench
OUT=${OUT:-bench.tsv}
ROUNDS=7 MS=400 PLAN=400000 MILLION=1000000 SWEEP=3
[ -z "${QUICK-}" ] || ROUNDS=1 MS=40 PLAN=20000 MILLION=50000 SWEEP=1
build
cc -O2 -o "$WORK/floor" "$BENCH/floor.c"
: >"$OUT"
declare -A PIDS PORTS
sed '/^\/\* == PART II/,$d' "$ROOT/kvss.c" >"$WORK/lab.c"
cc -std=c99 -O2 -o "$WORK/lab" "$WORK/lab.c"
declare -A PROTOCOLS=([kvss]=kv [lab]=kv [redis]=resp [memcached]=memcached [python]=kv [floor]=floor)

# start NAME: sets PID and PORT.
start() {
    case $1 in
    kvss) start_kvss ;;
    lab) KVSS=$WORK/lab start_kvss ;;
    redis)
        start_redis --appendonly no
        await PING +PONG ;;
    memcached)
        free_port
        server memcached -l 127.0.0.1 -p "$PORT" -U 0 -t 1 -R 1000 -c 4096 -m 2048 -u "$(id -un)" # -u: for root
        await version VERSION ;;
    python)
        free_port
        server python3 "$BENCH/threads.py" "$PORT"
        await 'KV/1.0 GET nothing' 404 ;;
    floor)
        free_port
        server "$WORK/floor" "$PORT"
        until ss -tlnH "sport = :$PORT" | grep -q .; do sleep 0.01; done ;;
    esac
    PIDS[$1]=$PID PORTS[$1]=$PORT
}

# measure WORK ROUNDS SERVERS OPTION...: each server in turn, and again. A line for each in the file.
measure() {
    local work=$1 rounds=$2 servers=$3 round name
    shift 3
    for ((round = 1; round <= rounds; round++)); do
        for name in $servers; do
            PID=${PIDS[$name]} PORT=${PORTS[$name]}
            printf '%s\t%s\t%d\t%s\n' "$work" "$name" $round \
                "$(load --protocol "${PROTOCOLS[$name]}" --plan $PLAN --ms $MS "$@" | sed 's/[a-z_0-9]*=//g; s/ /\t/g')" >>"$OUT"
        done
    done
    echo "measured: $work" >&2
}

# fill ROUNDS: new servers get a million keys; how long the longest request waits, and the memory.
fill() {
    local round name
    for ((round = 1; round <= $1; round++)); do
        for name in kvss lab redis memcached; do
            start "$name"
            printf 'fill\t%s\t%d\t%s\t%s\n' "$name" $round \
                "$(load --protocol "${PROTOCOLS[$name]}" --fill 1 --keys $MILLION --connections 10 --depth 10 | sed 's/[a-z_0-9]*=//g; s/ /\t/g')" \
                "$(ps -o rss= -p "$PID" | tr -d ' ')" >>"$OUT"
            kill "$PID"
            wait "$PID" || :
        done
    done
    echo 'measured: fill' >&2
}

{
    printf '# %s\n' "$(date -u +%Y-%m-%d)" "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort -u), $(nproc) cores" \
        "$(uname -sr | sed 's/-.*//')" "$("$KVSS" --version), $(redis-server --version | sed 's/.*v=\([^ ]*\).*/redis-server \1/'), $(memcached -V), $(python3 -V), $(cc --version | head -n 1)" \
        'work server round ops/s cpu-ns/op p50-us p99-us p99.9-us longest-us [kB]'
} >>"$OUT"

fill $((ROUNDS > 5 ? 5 : ROUNDS))
for name in kvss lab redis memcached python floor; do
    start $name
    [ $name = floor ] || load --protocol "${PROTOCOLS[$name]}" --fill 1 --connections 10 --depth 100 >/dev/null
done
measure '50 clients, depth 100' $ROUNDS 'kvss lab redis memcached floor' --connections 50 --depth 100
measure '50 clients, depth 16' $ROUNDS 'kvss lab redis memcached floor' --connections 50 --depth 16
measure '1 client, depth 100' $ROUNDS 'kvss lab redis memcached floor' --connections 1 --depth 100
measure '50 clients, depth 1' $ROUNDS 'kvss lab redis memcached floor' --connections 50 --depth 1
measure '900 clients, depth 1' $ROUNDS 'kvss lab redis memcached floor' --connections 900 --depth 1
measure '1 client, 900 idle' $ROUNDS 'kvss lab redis memcached floor' --connections 1 --depth 1 --idle 900
measure '50 clients, depth 100' $SWEEP 'python' --connections 50 --depth 100
measure '50 clients, depth 1' $SWEEP 'python' --connections 50 --depth 1
if [ -z "${QUICK-}" ]; then
    for depth in 1 2 4 8 16 32 64 128 256; do
        measure "depth $depth" $SWEEP 'kvss lab redis memcached floor' --connections 50 --depth $depth
    done
    for connections in 1 10 50 100 200 400 600 900; do
        measure "active $connections" $SWEEP 'kvss lab redis memcached floor' --connections $connections
        measure "idle $connections" $SWEEP 'kvss lab redis memcached floor' --connections 1 --idle $((connections - 1))
    done
fi
"$BENCH/report.py" "$OUT"
