#!/usr/bin/env bats
# Lab 7: a sorted array. What tells it from outside is the file that COMPACT writes.

load ../lab

# compacted: has the data file written anew, and prints its lines, without the header.
compacted() {
    local before
    before=$(grep -c ' compact ' "$LOG" || :)
    ask 'KV/1.0 COMPACT' >/dev/null
    done_anew() { [ "$(grep -c ' compact ' "$LOG")" -gt "$before" ]; }
    wait_until done_anew
    sed 1d "$BATS_TEST_TMPDIR/data"
}

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/7-sorted/README.md
}

@test "the store is in order, whatever order the keys come and go in" {
    serve --data "$BATS_TEST_TMPDIR/data"
    # 2003 is a prime: 2,000 of the numbers below it, each once.
    mixed() { seq "$@" 2000 | awk '{ print "KV/1.0 PUT key" $1 * 7919 % 2003 " value" }'; }
    [ "$(mixed 1 1 | talk | grep -c '^201 CREATED$')" = 2000 ]
    compacted | diff - <(mixed 1 1 | sort)
    mixed 1 2 | sed 's/PUT/DEL/; s/ value//' | talk >/dev/null
    compacted | diff - <(mixed 2 2 | sort)
}

@test "the order is that of bytes, and a key comes before those that begin with it" {
    serve --data "$BATS_TEST_TMPDIR/data"
    for key in b ab Ánh a a. A 10 9 Z é; do echo "KV/1.0 PUT $key 1"; done | talk >/dev/null
    run compacted
    printed "$(for key in 10 9 A Z a a. ab b Ánh é; do echo "KV/1.0 PUT $key 1"; done)"
}

@test "the same after a restart, from a file in any order" {
    serve --data "$BATS_TEST_TMPDIR/data"
    stop "$PID"
    seq 1 3000 | shuf --random-source="$KVSS" | sed 's/.*/KV\/1.0 PUT & v/' \
        >>"$BATS_TEST_TMPDIR/data"
    serve --data "$BATS_TEST_TMPDIR/data"
    compacted | diff - <(seq 1 3000 | sort | sed 's/.*/KV\/1.0 PUT & v/')
}
