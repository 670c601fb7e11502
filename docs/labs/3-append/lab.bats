#!/usr/bin/env bats
# Lab 3: APPEND.

load ../lab

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/3-append/README.md
}

@test "a value is the rest of the line, spaces and tabs and all" {
    serve
    replies 'KV/1.0 APPEND k  ' '201 CREATED' \
            $'KV/1.0 APPEND k \tb  c ' '200 OK' \
            'KV/1.0 APPEND k à' '200 OK' \
            'KV/1.0 GET k' $'200 OK  \tb  c à' \
            'KV/1.0 APPEND k ' '400 BAD_REQUEST' \
            'KV/1.0 GET k' $'200 OK  \tb  c à'
}

@test "as long as a PUT could say, and not a byte more" {
    serve
    long=$(head -c 60000 /dev/zero | tr '\0' x) rest=$(head -c 5519 /dev/zero | tr '\0' y)
    # "KV/1.0 PUT key " and LF are 16 bytes of 65,536.
    replies "KV/1.0 APPEND key $long" '201 CREATED' \
            "KV/1.0 APPEND key ${rest}zz" '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 GET key' "200 OK $long" \
            "KV/1.0 APPEND key ${rest}z" '200 OK' \
            'KV/1.0 GET key' "200 OK $long${rest}z" \
            'KV/1.0 APPEND key z' '507 INSUFFICIENT_STORAGE'
}

@test "APPEND clears the deadline, as PUT does" {
    serve
    replies 'KV/1.0 APPEND k a' '201 CREATED' \
            'KV/1.0 EXPIRE k 100' '200 OK' \
            'KV/1.0 APPEND k b' '200 OK' \
            'KV/1.0 TTL k' '200 OK -1'
}

@test "--data: what was appended outlives the server, the longest value, too" {
    serve --data "$BATS_TEST_TMPDIR/data"
    long=$(head -c 32000 /dev/zero | tr '\0' x) rest=$(head -c 33522 /dev/zero | tr '\0' y)
    replies 'KV/1.0 PUT brief a' '201 CREATED' 'KV/1.0 EXPIRE brief 1' '200 OK' \
            "KV/1.0 APPEND l $long" '201 CREATED' "KV/1.0 APPEND l $rest" '200 OK'
    gone() { [ "$(ask 'KV/1.0 GET brief')" = '404 NOT_FOUND' ]; }
    wait_until gone
    replies 'KV/1.0 APPEND brief b' '201 CREATED'
    stop "$PID"
    serve --data "$BATS_TEST_TMPDIR/data"
    replies 'KV/1.0 GET brief' '200 OK b' 'KV/1.0 GET l' "200 OK $long$rest"
}

@test "--help has APPEND, and STATS all counts it" {
    "$KVSS" --help | grep -q '^  KV/1.0 APPEND key value$'
    serve
    [[ "$(ask 'KV/1.0 APPEND k v' 'KV/1.0 APPEND' 'KV/1.0 STATS all') " == *' APPEND=2 '* ]]
}
