# shellcheck shell=bash
# What the benchmarks share. Each server is pinned to one core, and the load to another; servers listen
# on loopback only, on free ports, and end with the script, which leaves nothing behind.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
KVSS=${KVSS:-$ROOT/kvss}
SERVER_CORE=0
LOAD_CORE=$(($(nproc) > 1 ? 1 : 0))
WORK=$(mktemp -d)
SERVERS=()

finish() {
    local pid
    for pid in "${SERVERS[@]}"; do kill "$pid" 2>/dev/null || :; done
    wait 2>/dev/null || :
    rm -rf "$WORK"
}
trap finish EXIT
trap 'exit 1' INT TERM

# needs COMMAND=PACKAGE...: or says what to install.
needs() {
    local tool missing=()
    for tool; do command -v "${tool%%=*}" >/dev/null || missing+=("${tool#*=}"); done
    [ ${#missing[@]} = 0 ] && return
    echo "the benchmark needs these packages: sudo apt-get install -y ${missing[*]}" >&2
    exit 1
}

# The largest number of connections needs as many descriptors, and some more.
ulimit -n "$(ulimit -H -n)"

# server COMMAND...: starts one, pinned. Sets PID.
server() {
    LOG=$WORK/log.${#SERVERS[@]}
    : >"$LOG"
    taskset -c "$SERVER_CORE" "$@" >"$LOG" 2>&1 </dev/null &
    PID=$!
    SERVERS[PID]=$PID
}

# start_kvss [OPTION...]: sets PID and PORT.
# shellcheck disable=SC2120 # others pass some
start_kvss() {
    server "$KVSS" --quiet --port 0 "$@"
    until PORT=$(sed -n 's/^kvss: listening on .*://p' "$LOG"); [ "$PORT" ]; do sleep 0.01; done
}

# free_port: one that nobody has now. Sets PORT.
free_port() {
    start_kvss --host 127.0.0.1
    kill "$PID"
    wait "$PID"
}

# start_redis [OPTION...]: without snapshots. Sets PID and PORT.
# shellcheck disable=SC2120 # others pass some
start_redis() {
    free_port
    server redis-server --port "$PORT" --bind 127.0.0.1 --save '' --dir "$WORK" "$@"
}

# answers REQUEST REPLY: whether the server on PORT answers so.
answers() {
    local reply=''
    exec 9<>"/dev/tcp/127.0.0.1/$PORT" || return
    printf '%s\r\n' "$1" >&9
    IFS= read -r -t 10 -u 9 reply || :
    exec 9>&-
    [[ $reply == "$2"* ]]
} 2>/dev/null

# await REQUEST REPLY
await() {
    until answers "$@"; do
        kill -0 "$PID" || { cat "$LOG" >&2; exit 1; }
        sleep 0.002
    done
}

load() {
    taskset -c "$LOAD_CORE" "$WORK/load" --port "$PORT" --pid "$PID" "$@"
}

# median: of the numbers on stdin.
median() {
    sort -n | awk '{ n[NR] = $1 } END { print NR % 2 ? n[(NR + 1) / 2] : (n[NR / 2] + n[NR / 2 + 1]) / 2 }'
}

# value NAME: of a line name=value name=value ... on stdin.
value() {
    tr ' ' '\n' | sed -n "s/^$1=//p"
}

build() {
    [ "$KVSS" != "$ROOT/kvss" ] || make -s -C "$ROOT" kvss
    cc -std=gnu11 -O2 -o "$WORK/load" "$ROOT/tests/tools/bench/load.c"
}
