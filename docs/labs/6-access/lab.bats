#!/usr/bin/env bats
# Lab 6: --access-log.

load ../lab

setup() {
    offers --access-log
    ACCESS=$BATS_TEST_TMPDIR/access.log
}

# holds LINE...: these lines, with any time, are in the file, and no other.
holds() {
    run sed 's/\[[^]]*\]/[when]/' "$ACCESS"
    printed "$(printf '%s\n' "$@")"
}

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/6-access/README.md
}

@test "a line is as the page's" {
    serve --access-log "$ACCESS"
    replies 'KV/1.0 PUT foo bar' '201 CREATED' 'KV/1.0 GET foo' '200 OK bar'
    [ "$(sed -n '2s/\[[^]]*\]/[when]/p' "$ACCESS")" = \
        "$(block docs/labs/6-access/README.md line | sed -n '1s/\[[^]]*\]/[when]/p')" ]
}

@test "the time is UTC, in the common format" {
    serve --access-log "$ACCESS"
    export TZ=Asia/Ho_Chi_Minh
    before=$(LC_ALL=C date -u '+%d/%b/%Y:%H:%M:%S')
    ask 'KV/1.0 GET foo'
    after=$(LC_ALL=C date -u '+%d/%b/%Y:%H:%M:%S')
    run sed 's/^127\.0\.0\.1 - - \[\(.*\) +0000\] "KV\/1\.0 GET foo" 404 14$/\1/' "$ACCESS"
    [[ $output == "$before" || $output == "$after" || ($output > $before && $output < $after) ]]
}

@test "nobody can write a line of it, or reach the terminal that shows it" {
    serve --access-log "$ACCESS"
    printf 'x" 200 1\\\r\nKV/1.0 GET \x1b[31m\x7f\nKV/1.0 PUT k \xc3\xa0\nKV/1.0 GET a\0b\nhalf' |
        talk
    holds '127.0.0.1 - - [when] "x\x22 200 1\x5C" 426 21' \
          '127.0.0.1 - - [when] "KV/1.0 GET \x1B[31m\x7F" 400 16' \
          '127.0.0.1 - - [when] "KV/1.0 PUT k \xC3\xA0" 201 12' \
          '127.0.0.1 - - [when] "KV/1.0 GET a\x00b" 400 16' \
          '127.0.0.1 - - [when] "half" 400 16'
}

@test "the longest line, and the bytes of the longest reply" {
    serve --access-log "$ACCESS"
    long=$(head -c 65000 /dev/zero | tr '\0' x)
    ask "KV/1.0 PUT k $long" 'KV/1.0 GET k' >/dev/null
    holds "127.0.0.1 - - [when] \"KV/1.0 PUT k $long\" 201 12" \
          '127.0.0.1 - - [when] "KV/1.0 GET k" 200 65008'
}

@test "an IPv6 address has no brackets" {
    serve --access-log "$ACCESS" --host ::1 || skip "this machine has no ::1"
    "$KVSS_CLIENT" --host ::1 --port "$PORT" quit
    holds '::1 - - [when] "KV/1.0 QUIT" 200 11'
}

@test "no password gets into it" {
    printf 'adam:%s\n' "$(openssl passwd -6 eve)" >"$BATS_TEST_TMPDIR/managers"
    chmod 600 "$BATS_TEST_TMPDIR/managers"
    serve --access-log "$ACCESS" --managers "$BATS_TEST_TMPDIR/managers"
    ask 'KV/1.0 AUTH adam eve' 'KV/1.0 AUHT adam eve'
    holds '127.0.0.1 - - [when] "AUTH" 200 15' \
          '127.0.0.1 - - [when] "(not shown)" 400 16'
}

@test "a line a request, when 10,000 come at once; -a is the short form, and FILE is appended to" {
    for _ in 1 2; do
        serve -a "$ACCESS"
        yes 'KV/1.0 GET k' | head -n 5000 | talk >/dev/null
        stop "$PID"
    done
    [ "$(grep -c '^127\.0\.0\.1 - - \[.* +0000\] "KV/1\.0 GET k" 404 14$' "$ACCESS")" = 10000 ]
    [ "$(wc -l <"$ACCESS")" = 10000 ]
}

@test "a full disk is told once, and the service goes on" {
    [ -c /dev/full ] || skip "this system has no /dev/full"
    serve --access-log /dev/full
    for _ in {1..3}; do replies 'KV/1.0 GET k' '404 NOT_FOUND'; done
    [ "$(grep -c ' error /dev/full No space left on device$' "$LOG")" = 1 ]
}

@test "a FILE that can't be opened: one line, status 1" {
    run "$KVSS" --access-log "$BATS_TEST_TMPDIR/none/access.log"
    [ "$status" = 1 ]
    printed "kvss: $BATS_TEST_TMPDIR/none/access.log: No such file or directory"
}
