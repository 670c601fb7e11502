#!/usr/bin/env bats
# Lab 1: INCR.

load ../lab

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/1-incr/README.md
}

@test "INCR counts, for all clients together" {
    serve
    for _ in {1..20}; do
        yes 'KV/1.0 INCR hits' | head -n 500 | talk
    done >"$BATS_TEST_TMPDIR/replies"
    [ "$(head -n 1 "$BATS_TEST_TMPDIR/replies")" = '201 CREATED 1' ]
    [ "$(tail -n 1 "$BATS_TEST_TMPDIR/replies")" = '200 OK 10000' ]
    [ "$(ask 'KV/1.0 GET hits')" = '200 OK 10000' ]
}

@test "409 for what is no number, or too large; the value stays" {
    serve
    for value in many -1 +1 1.0 '1 ' ' 1' 0x1 $'1\t' 999999999999999999 18446744073709551615 \
        99999999999999999999; do
        replies "KV/1.0 PUT k $value" '201 CREATED' \
                'KV/1.0 INCR k' '409 CONFLICT' \
                'KV/1.0 GET k' "200 OK $value" \
                'KV/1.0 DEL k' '204 NO_CONTENT'
    done
    replies 'KV/1.0 PUT k 999999999999999998' '201 CREATED' \
            'KV/1.0 INCR k' '200 OK 999999999999999999' \
            'KV/1.0 INCR k' '409 CONFLICT'
}

@test "--help has INCR, and STATS all counts it" {
    "$KVSS" --help | grep -q '^  KV/1.0 INCR key$'
    serve
    [[ "$(ask 'KV/1.0 INCR k' 'KV/1.0 INCR' 'KV/1.0 STATS all') " == *' INCR=2 '* ]]
}

@test "INCR clears the deadline, as PUT does" {
    serve
    replies 'KV/1.0 INCR hits' '201 CREATED 1' \
            'KV/1.0 EXPIRE hits 100' '200 OK' \
            'KV/1.0 INCR hits' '200 OK 2' \
            'KV/1.0 TTL hits' '200 OK -1'
}

@test "--data: a counter outlives the server, also one that had expired before" {
    serve --data "$BATS_TEST_TMPDIR/data"
    replies 'KV/1.0 INCR hits' '201 CREATED 1' 'KV/1.0 INCR hits' '200 OK 2' \
            'KV/1.0 PUT brief 41' '201 CREATED' 'KV/1.0 EXPIRE brief 1' '200 OK'
    gone() { [ "$(ask 'KV/1.0 GET brief')" = '404 NOT_FOUND' ]; }
    wait_until gone
    replies 'KV/1.0 INCR brief' '201 CREATED 1'
    stop "$PID"
    serve --data "$BATS_TEST_TMPDIR/data"
    replies 'KV/1.0 INCR hits' '200 OK 3' 'KV/1.0 GET brief' '200 OK 1'
}
