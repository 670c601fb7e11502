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

@test "Part I names nothing of Part II" {
    cut
    # Every function and table of Part II, but the members of the seam, which are defined in Part I.
    sed '1,/^\/\* == PART II/d' "$ROOT/kvss.c" | sed -n 's/^static .*[ *]\([a-z_0-9]*\)(.*{$/\1/p' | sort -u >"$BATS_TEST_TMPDIR/names"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/names")" -gt 100 ]
    run ! grep -nwFf "$BATS_TEST_TMPDIR/names" "$LAB.c"
}
