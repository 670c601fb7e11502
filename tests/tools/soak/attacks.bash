#!/usr/bin/env bash
# What hostile clients cost the others. 20 clients wait for each reply before they ask again, and
# are measured without and with each attack, in rounds that alternate; printed are the medians, in
# us. The attacker shares a core with these 20: a part of what they wait is its work, and not the
# server's.
#
#     attacks.bash               some five minutes
#     ONLY=auth attacks.bash     one: slowloris, deaf, turns, lists, auth, flood, expiry, stats,
#                                leaves, verb
#     QUICK=1 attacks.bash       half a minute: all but verb in small, to see that the others are served
set -eu
# shellcheck source-path=SCRIPTDIR source=../bench/common.bash
source "${BASH_SOURCE[0]%/*}/../bench/common.bash"
needs cc=gcc python3=python3 taskset=util-linux openssl=openssl
SOAK=$ROOT/tests/tools/soak

# n LONG SHORT: the number for this form.
n() {
    if [ "${QUICK-}" ]; then echo "$2"; else echo "$1"; fi
}

ROUNDS=$(n "${ROUNDS:-5}" 1) MS=$(n 2000 500) PLAN=$(n 100000 2000) KEYS=$(n 100000 1000)
COLLIDING=$(n 200000 2000) KNOWN=$(n 50000 2000) MILLION=$(n 1000000 20000)
build
(umask 077; echo "adam:$(openssl passwd -6 eve)" >"$WORK/managers")

# others [OPTION...]: the clients that are measured.
others() {
    load --connections 20 --plan "$PLAN" --ms "$MS" "$@"
}

# begin NAME PORT COUNT [KEYS]: starts the attack, and waits until it's in place. Sets ATTACKER.
begin() {
    mkfifo "$WORK/ready"
    taskset -c "$LOAD_CORE" "$SOAK/attackers.py" "$@" >"$WORK/ready" &
    ATTACKER=$!
    exec 8<"$WORK/ready"
    rm "$WORK/ready"
    read -r -u 8 line && [ "$line" = ready ]
}

# end: of the attack, and prints what came of it.
end() {
    kill "$ATTACKER"
    wait "$ATTACKER"
    tail -n 1 <&8
    exec 8<&-
}

# descriptors: how many the server has.
descriptors() {
    find "/proc/$PID/fd" -mindepth 1 | wc -l
}

# back: waits until the server has as many descriptors as without clients.
back() {
    local until=$((SECONDS + 60))
    while [ "$(descriptors)" != "$DESCRIPTORS" ]; do
        [ $SECONDS -lt $until ] || { echo "the server has kept descriptors" >&2; return 1; }
        sleep 0.01
    done
}

# attack TITLE NAME COUNT [KEYS]: on the server that was started last.
attack() {
    local title=$1 round
    shift
    [ -z "${ONLY-}" ] || [ "$ONLY" = "$1" ] || return 0
    : >"$WORK/without"
    : >"$WORK/with"
    for ((round = 1; round <= ROUNDS; round++)); do
        others "${OTHERS[@]}" >>"$WORK/without"
        begin "$1" "$PORT" "${@:2}"
        others "${OTHERS[@]}" >>"$WORK/with"
        end >"$WORK/said.$round"
        back
    done
    row "$title" without "$(cat "$WORK/said.1")"
    row '' with ''
}

# row TITLE FILE TEXT
row() {
    local name
    printf '%-26s %-8s' "$1" "$2"
    for name in p50 p99 p999 max; do printf '%10.0f' "$(value $name <"$WORK/$2" | median)"; done
    printf '  %s\n' "$3"
}

# stop: ends the server, which has to end well.
stop() {
    kill "$PID"
    wait "$PID" || { cat "$LOG" >&2; return 1; }
}

# start [OPTION...]: a server with so many KEYS. Sets PID, PORT and DESCRIPTORS.
start() {
    [ ${#SERVERS[@]} = 0 ] || stop
    start_kvss "$@"
    DESCRIPTORS=$(descriptors)
    OTHERS=(--keys "$KEYS")
    load --fill 1 --connections 10 --depth 100 "${OTHERS[@]}" >/dev/null
}

# known_seed: a kvss whose seed is known: zeros.
known_seed() {
    sed 's/read(fd, hash_seed, sizeof hash_seed) != sizeof hash_seed/0/' \
        "$ROOT/kvss.c" >"$WORK/kvss.c"
    if cmp -s "$ROOT/kvss.c" "$WORK/kvss.c"; then return 1; fi
    mkdir "$WORK/known"
    cc -O2 -w -o "$WORK/known/kvss" "$WORK/kvss.c" -lcrypt -lrt
}

printf '%-26s %-8s%10s%10s%10s%10s\n' '' 'attack' p50 p99 p99.9 longest
start
attack 'slowloris' slowloris "$(n 900 300)"
attack 'readers that stop' deaf "$(n 100 20)"
attack 'connections in turn' turns "$(n 100000 2000)"
attack 'LIST, the worst pattern' lists "$(n 10000 300)"
start --managers "$WORK/managers"
attack 'AUTH guessing' auth "$(n 50 20)"

cc -std=gnu11 -O2 -o "$WORK/collide" "$SOAK/collide.c" -lcrypt -lrt
"$WORK/collide" "$COLLIDING" >"$WORK/colliding"
seq 1 "$COLLIDING" | sed 's/^/random/' >"$WORK/random"
start
attack 'flood of any keys' flood "$COLLIDING" "$WORK/random" "$PID"
start
attack 'flood, seed unknown' flood "$COLLIDING" "$WORK/colliding" "$PID"
known_seed
start_known() {
    local KVSS=$WORK/known/kvss
    start
}
start_known
attack 'flood, seed known' flood "$KNOWN" "$WORK/colliding" "$PID"

start
attack 'a million keys expire' expiry "$MILLION"
await 'KV/1.0 STATS' "200 OK keys=$KEYS "
start
attack 'STATS of expired keys' stats "$MILLION"
start --private
OTHERS=(--fill 1 --keys "$KEYS")
attack 'owner of a million leaves' leaves "$MILLION"

# Each verb that there is, pipelined by four clients; a million keys, and all the mailboxes.
if [ "${ONLY-verb}" = verb ] && [ -z "${QUICK-}" ]; then
    KEYS=1000000
    start --managers "$WORK/managers" --data "$WORK/data"
    "$KVSS" --help | sed -n 's/^  KV\/1\.0 //p' >"$WORK/usages"
    while read -r -u 7 usage; do
        attack "${usage%% *}" verb 4 "$usage"
    done 7<"$WORK/usages"
fi
stop
