#!/usr/bin/env bats
# Lab 5: --limit.

load ../lab

setup() { offers --limit; }

# run_again REPLY REQUEST: after a second, the request is run again.
run_again() {
    again() { says ann "$2" && next ann && [ "$LINE" = "$1" ]; }
    wait_until again "$@"
}

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/5-limit/README.md
}

@test "what is past the limit is not run, and after a second it is" {
    serve --limit 2
    connect ann
    says ann 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 1' 'KV/1.0 PUT c 1'
    hears ann '201 CREATED' '201 CREATED' '429 TOO_MANY_REQUESTS'
    replies 'KV/1.0 GET b' '200 OK 1' 'KV/1.0 GET c' '404 NOT_FOUND'
    run_again '200 OK 1' 'KV/1.0 GET a'
}

@test "of 500 at once, the first 100 are run" {
    serve --limit 100
    yes 'KV/1.0 GET k' | head -n 500 | talk >"$BATS_TEST_TMPDIR/replies" # a single recv()
    yes '404 NOT_FOUND' | head -n 100 | cmp - <(head -n 100 "$BATS_TEST_TMPDIR/replies")
    yes '429 TOO_MANY_REQUESTS' | head -n 400 | cmp - <(tail -n +101 "$BATS_TEST_TMPDIR/replies")
}

@test "each client has its own" {
    serve --limit 1
    connect ann
    says ann 'KV/1.0 GET k' 'KV/1.0 GET k'
    hears ann '404 NOT_FOUND' '429 TOO_MANY_REQUESTS'
    replies 'KV/1.0 GET k' '404 NOT_FOUND' 'KV/1.0 GET k' '429 TOO_MANY_REQUESTS'
}

@test "bad lines count; a refused one is bare, also with --explain" {
    serve --limit 2 --explain
    replies 'x' '426 UPGRADE_REQUIRED a request begins with KV/1.0 and a space' \
            'KV/1.0 GET' '400 BAD_REQUEST usage: GET key' \
            'KV/1.0 GET' '429 TOO_MANY_REQUESTS' \
            'x' '429 TOO_MANY_REQUESTS'
    [[ $(ask 'KV/1.0 STATS all') =~ ' served=5 '.*' GET=1 ' ]]
}

@test "no limit without the option, or with 0; -l is the short form" {
    for words in '' '--limit 0' '-l 1000000'; do
        # shellcheck disable=SC2086 # split into words
        serve $words
        [ "$(yes 'KV/1.0 GET k' | head -n 2000 | talk | sort -u)" = '404 NOT_FOUND' ]
    done
    run "$KVSS" --limit 1000001
    printed "kvss: limit: '1000001' is not a number from 0 to 1000000"
}
