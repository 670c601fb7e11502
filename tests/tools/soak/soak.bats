#!/usr/bin/env bats
# A short soak, and the attacks in small: that others are served meanwhile, in whatever time it
# takes. soak.py and attacks.bash are the long ones.

load ../../helper

setup() {
    [ "$(uname)" = Linux ] || skip "epoll() and /proc are needed"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        skip "python3 from 3.11 on is needed: apt-get install python3"
    cd "$BATS_TEST_TMPDIR" || exit
}

# compile NAME SOURCE [FLAG...]: a tool of the tests.
compile() {
    "${CC:-cc}" -std=gnu11 -O2 -o "$1" "$ROOT/tests/tools/$2" "${@:3}"
}

descriptors() {
    find "/proc/$PID/fd" -mindepth 1 | wc -l
}

# others [OPTION...]: 20 clients whose replies all have to be right.
others() {
    ./load --port "$PORT" --connections 20 --keys 1000 --plan 2000 --ms 500 "$@"
}

# survives ATTACK COUNT [KEYS PID]: the others get their replies while it goes on, and when it's
# over, no descriptor of it is left. OTHERS are options for them.
survives() {
    local line
    mkfifo ready
    "$ROOT/tests/tools/soak/attackers.py" "$1" "$PORT" "${@:2}" >ready 3>&- &
    attacker=$!
    exec 8<ready
    read -r -t 600 -u 8 line
    [ "$line" = ready ]
    others "${OTHERS[@]}"
    kill "$attacker"
    wait "$attacker"
    cat <&8
    exec 8<&-
    rm ready
    restored() { [ "$(descriptors)" = "$BEFORE" ]; }
    wait_until 30 restored
}

# start [OPTION...]: a server, and what the others look for.
start() {
    compile load bench/load.c
    serve --quiet "$@"
    BEFORE=$(descriptors)
    OTHERS=()
    others --fill 1
}

# bats test_tags=crypt
@test "a short soak: 300 clients, good and bad, beside a model" {
    "$ROOT/tests/tools/soak/soak.py" --kvss "$KVSS" --seconds 5 --clients 300
}

@test "slowloris, readers that stop, connections in turn" {
    start
    survives slowloris 300
    survives deaf 20
    survives turns 2000
}

@test "a flood of keys that would share a home, if the seed were zeros" {
    start
    compile collide soak/collide.c -lcrypt -lrt
    ./collide 2000 >keys
    survives flood 2000 keys "$PID"
}

# bats test_tags=crypt
@test "guesses of passwords on 20 connections" {
    command -v openssl >/dev/null || skip "openssl is needed: apt-get install openssl"
    (umask 077; echo "adam:$(openssl passwd -6 eve)" >managers)
    start --managers managers
    survives auth 20
}

@test "LIST again and again, with a pattern that takes long" {
    start
    survives lists 300
}

@test "20,000 keys expire at once; the owner of 20,000 leaves" {
    start
    survives expiry 20000
    expired() { [[ $(ask 'KV/1.0 STATS') == '200 OK keys=1000 '* ]]; }
    wait_until 20 expired
    start --private
    OTHERS=(--fill 1)
    survives leaves 20000
}
