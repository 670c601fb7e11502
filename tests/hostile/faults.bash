# shellcheck shell=bash
# What the tests of this folder share that have system calls of the server fail.

# faulty OPTION...: a server whose system calls fail as the file FAULTS says, see tests/tools/faults/faults.c.
faulty() {
    local kvss=$BATS_FILE_TMPDIR/kvss
    command -v cc >/dev/null || skip "a C compiler is needed"
    [ -e "$kvss" ] || "$ROOT/tests/tools/faults/build.bash" "$kvss"
    export FAULTS=$BATS_TEST_TMPDIR/faults
    KVSS=$kvss serve "$@"
}

# set_clock SECONDS [PASSED]: for servers that faulty starts, the time of day is wrong by so many seconds, and so
# many more have passed since the start.
set_clock() {
    export CLOCK=$BATS_TEST_TMPDIR/clock
    echo "$@" >"$CLOCK.new"
    mv "$CLOCK.new" "$CLOCK"
}
