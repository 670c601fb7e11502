# Part I of kvss.c is a whole program: what stands above the line that begins with "/* == PART II". These tests
# cut it out, compile it, and give it the tests of the lab.

load helper

# cut: LAB is Part I as a program, without a library.
cut() {
    LAB=$BATS_TEST_TMPDIR/lab
    sed '/^\/\* == PART II/,$d' "$ROOT/kvss.c" >"$LAB.c"
    "${CC:-cc}" -std=c99 -O2 -Wall -Wextra -Wpedantic -Werror -o "$LAB" "$LAB.c"
}

@test "Part I alone: no warning, no library, and every test of the protocol" {
    cut
    KVSS=$LAB bats --filter-tags '!beyond' "$ROOT/tests/protocol.bats"
}

@test "Part I alone: without a free descriptor, newcomers wait until a client leaves" {
    cut
    printf '#!/bin/sh\nulimit -n 16\nexec "%s" "$@"\n' "$LAB" >"$BATS_TEST_TMPDIR/limited"
    chmod +x "$BATS_TEST_TMPDIR/limited"
    KVSS=$BATS_TEST_TMPDIR/limited serve
    until logged ' error accept Too many open files'; do # accept() says so before anybody waits
        connect "$((++n))"
        says "$n" 'KV/1.0 GET a'
        hears "$n" '404 NOT_FOUND'
    done
    connect late
    says late 'KV/1.0 GET a'
    says 1 'KV/1.0 PUT a b' 'KV/1.0 QUIT'
    hears 1 '201 CREATED' '200 OK bye'
    hears late '200 OK b'
}

@test "Part I names nothing of Part II" {
    cut
    # Every function and table of Part II, but the members of struct extension, which are defined in Part I.
    sed '1,/^\/\* == PART II/d' "$ROOT/kvss.c" | sed -n 's/^static .*[ *]\([a-z_0-9][a-z_0-9]*\)(.*{$/\1/p' | sort -u >"$BATS_TEST_TMPDIR/names"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/names")" -gt 100 ]
    run ! grep -nwFf "$BATS_TEST_TMPDIR/names" "$LAB.c"
}
