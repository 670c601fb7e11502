# Each chapter of Part II can be left out of the list of extensions, with those that need it. What is left compiles,
# and passes the tests of the other chapters. Part I alone passes all of the lab's tests.

# The tag of a test names a chapter that it needs beside its own: # bats test_tags=expiry
load ../helper

# without CHAPTER...: KVSS is a server without these.
without() {
    local name lines=()
    for name; do lines+=(-e "/^    &${name}_extension,\$/d"); done
    KVSS=$BATS_TEST_TMPDIR/kvss
    sed "${lines[@]}" "$ROOT/kvss.c" >"$KVSS.c"
    [ $(($(wc -l <"$ROOT/kvss.c") - $(wc -l <"$KVSS.c"))) = $# ]
    "${CC:-cc}" -std=c99 -O2 -Wall -Wextra -Wpedantic -Werror -Wno-unused-variable -o "$KVSS" "$KVSS.c" -lcrypt -lrt
    export KVSS
}

# pass TAGS FILE...: these tests pass, but those that need something with one of these tags.
pass() {
    local file files=()
    for file in "${@:2}"; do files+=("$ROOT/tests/$file.bats"); done
    bats ${1:+--filter-tags "$1"} "${files[@]}"
}

@test "Part I alone: server and limits" {
    export KVSS=$BATS_TEST_TMPDIR/lab
    sed '/^\/\* == PART II/,$d' "$ROOT/kvss.c" >"$KVSS.c"
    "${CC:-cc}" -std=c99 -O2 -Wall -Wextra -Wpedantic -Werror -o "$KVSS" "$KVSS.c"
    pass '!beyond' server limits
}

@test "without Speed" {
    without speed
    pass '' protocol server limits mailboxes frames log
}

@test "without Limits" {
    without limits
    pass '!limits' protocol server log
}

@test "without Statistics" {
    without statistics
    pass '!beyond' protocol
}

@test "without Frames" {
    without frames
    pass '!frames' roles mailboxes
}

@test "without Mailboxes, and so without Frames" {
    without mailboxes frames
    pass '!frames,!mailboxes' roles expiry log
}

@test "without Roles" {
    without roles
    pass '!roles' expiry mailboxes frames log
}

@test "without Slow requests, and so without Roles, Mailboxes and Frames" {
    without slow roles mailboxes frames
    pass '!roles,!mailboxes,!frames' protocol expiry log
}

@test "without Expiry" {
    without expiry
    pass '!expiry' roles mailboxes frames log
}

@test "without Replay, Compaction and Log" {
    without replay compaction log
    pass '!log' expiry roles mailboxes frames
}
