#!/usr/bin/env bats
# Crowds and floods that take minutes: the long forms of tests/limits.bats, to be run with
# `bats --setup-suite-file tests/setup_suite.bash tests/hostile/`. They need python3.

load ../helper
load ../limits

# gather: begins a crowd, see crowd.py. crowd ORDER...: obeys, and DID is what it said.
gather() {
    command -v python3 >/dev/null || skip "python3 is needed"
    coproc CROWD { exec python3 "$ROOT/tests/hostile/crowd.py" "$PORT" 3>&-; }
}
crowd() {
    printf '%s\n' "$*" >&"${CROWD[1]}"
    read -r -t 1000 -u "${CROWD[0]}" DID
}

@test "10,000 pipelined requests, each with its reply, in order" {
    start
    seq 1 5000 | sed 's/.*/KV\/1.0 PUT key& value&\nKV\/1.0 GET key&/' >"$BATS_TEST_TMPDIR/requests"
    seq 1 5000 | sed 's/.*/201 CREATED\n200 OK value&/' >"$BATS_TEST_TMPDIR/wanted"
    talk <"$BATS_TEST_TMPDIR/requests" | cmp - "$BATS_TEST_TMPDIR/wanted"
    bounded 10000
}

@test "1,100 connections at once: as many as select() takes are served, the rest get 503" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    start
    gather
    crowd open all 1100
    crowd say all 'KV/1.0 GET k\n'
    crowd hear all
    echo "$DID"
    # A refused client may have sent before it was refused, and then its 503 can be lost.
    [[ $DID =~ ([0-9]+)' 404 NOT_FOUND' ]]
    served=${BASH_REMATCH[1]}
    [ "$served" -ge 1000 ]
    [ "$served" -lt 1024 ]
    [[ $DID =~ ([0-9]+)' 503 SERVICE_UNAVAILABLE' ]]
    crowd close all
    wait_until alone
    stat refused
    [ "$STAT" -ge $((1100 - served)) ]
    bounded 40000
}

# One turn reads QUIT first, then thousands of requests, whose log lines take their time; it closes 500
# clients who have left. Meanwhile as many come, and are accepted after this last turn.
@test "a stop, when half of the clients have just left and as many have come" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    serve --quit-stops-server --verbose
    gather
    connect stopping
    crowd open busy 40
    crowd open leaving 500
    wait_until logged ' connect ' 541
    freeze "$PID"
    says stopping 'KV/1.0 QUIT'
    for _ in {1..1000}; do crowd say busy 'x\n'; done
    crowd close leaving
    kill -s CONT "$PID"
    wait_until logged 'KV/1.0 QUIT'
    kill -s STOP "$PID" || skip "the server was faster than this test"
    crowd open newcomers 500
    kill -s CONT "$PID"
    hears stopping '200 OK bye'
    hang_up stopping
    crowd close busy
    crowd close newcomers
    ended "$PID"
}

@test "a client that asks for 100 MB of replies and reads none is no longer read" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    start
    printf -v value '%060000d' 0
    replies "KV/1.0 PUT big $value" '201 CREATED'
    connect greedy
    yes 'KV/1.0 GET big' | head -n 1700 >&"${TO[greedy]}"
    STAT=0
    stuck() {
        local before=$STAT
        stat bytes_out
        [ "$(ss -tnH "sport = :$PORT" | awk '$3 > 0' | wc -l)" = 1 ] && [ $((STAT - before)) -lt 1000 ]
    }
    wait_until stuck
    echo "$STAT bytes sent until then"
    [ "$STAT" -lt 50000000 ]
    bounded 10000
    for _ in {1..500}; do head -c 60008 <&"${FROM[greedy]}"; done | cmp - <(yes "200 OK $value" | head -n 500)
    bounded 10000
    head -c $((1200 * 60008)) <&"${FROM[greedy]}" | cmp - <(yes "200 OK $value" | head -n 1200)
    bounded 10000
}

@test "100,000 connections opened and dropped leave no descriptor and no memory behind" {
    start
    gather
    descriptors() { find "/proc/$PID/fd" -mindepth 1 2>/dev/null | wc -l; }
    before=$(descriptors)
    crowd drop $((${QUICK:+-80000} + 100000))
    [ "$DID" = 'done' ]
    wait_until alone
    [ "$(descriptors)" = "$before" ]
    bounded 5000 # up to 1,020 may have been open at a time, and the page that each has read into stays
}

@test "a store of a million keys grows, answers right, and gives its memory back" {
    start
    n=1000000
    [ "$(seq 1 $n | sed 's/.*/KV\/1.0 PUT key& value&/' | talk | grep -c '^201 CREATED$')" = $n ]
    seq 1 $n | sed 's/.*/KV\/1.0 GET key&/' | talk | cmp - <(seq 1 $n | sed 's/^/200 OK value/')
    # Every other key goes. That moves slots, and those that stay must still be found.
    [ "$(seq 1 2 $n | sed 's/.*/KV\/1.0 DEL key&/' | talk | grep -c '^204 NO_CONTENT$')" = $((n / 2)) ]
    seq 1 $n | sed 's/.*/KV\/1.0 GET key&/' | talk |
        cmp - <(seq 1 $n | awk '{ print $1 % 2 ? "404 NOT_FOUND" : "200 OK value" $1 }')
    seq 2 2 $n | sed 's/.*/KV\/1.0 DEL key&/' | talk >"$BATS_TEST_TMPDIR/del"
    stat keys
    [ "$STAT" = 0 ]
    stat memory
    [ "$STAT" -lt 100000 ]
}

# Without optimization, a compiler may write a struct as a whole, with its padding.
@test "a key and a value of one byte: the entry is shorter than its struct, and nothing is written behind it" {
    command -v clang >/dev/null || skip "clang is needed"
    clang -std=c99 -O0 -g -fsanitize=address "$ROOT/kvss.c" -o "$BATS_TEST_TMPDIR/kvss" -lcrypt -lrt ||
        skip "clang has no AddressSanitizer here"
    KVSS=$BATS_TEST_TMPDIR/kvss serve
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 PUT k vw' '200 OK' \
            'KV/1.0 PUT k w' '200 OK' \
            'KV/1.0 GET k' '200 OK w'
}
