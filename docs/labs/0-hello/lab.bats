#!/usr/bin/env bats
# Lab 0: HELLO.

load ../lab

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/0-hello/README.md
}

@test "HELLO is answered with hello" {
    serve
    replies 'KV/1.0 HELLO' '200 OK hello'
}

@test "HELLO takes no arguments" {
    serve
    replies 'KV/1.0 HELLO' '200 OK hello' \
            'KV/1.0 HELLO you' '400 BAD_REQUEST'
}

@test "--help has HELLO, and STATS all counts it" {
    "$KVSS" --help | grep -q '^  KV/1.0 HELLO$'
    serve
    [[ "$(ask 'KV/1.0 HELLO' 'KV/1.0 STATS all') " == *' HELLO=1 '* ]]
}
