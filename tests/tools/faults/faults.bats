#!/usr/bin/env bats
# Calls of kvss fail, one in each session: the short form of faults/sweep.py and faults/client.py.
# `tests/tools/faults/run.bash` makes every call fail that can.

load ../../helper

# bats 1.8 takes a skip in setup_file for a failure.
setup_file() {
    if [ -x "$(command -v cc)" ]; then
        "$ROOT/tests/tools/faults/build.bash" "$BATS_FILE_TMPDIR/kvss"
    fi
}

setup() {
    command -v python3 >/dev/null || skip "python3 is needed"
    command -v openssl >/dev/null || skip "openssl is needed"
    [ -x "$BATS_FILE_TMPDIR/kvss" ] || skip "a C compiler is needed"
}

# sweep VARIANT
sweep() {
    "$ROOT/tests/tools/faults/sweep.py" --short --variant "$1" "$BATS_FILE_TMPDIR/kvss"
}

@test "a fault in each session: two clients, and FILE that is synced always and written anew" {
    sweep always
}

@test "a fault in each session: FILE that is repaired, tables and deadlines that grow and shrink" {
    sweep repair
}

@test "a fault in each session: mailboxes, on both wires" {
    sweep mail
}

@test "a fault in each session: a store for each client, and a manager" {
    sweep roles
}

@test "a fault in each session: the client, once, in a batch and at the prompt" {
    KVSS_SOURCE=kvss_client.c "$ROOT/tests/tools/faults/build.bash" "$BATS_TEST_TMPDIR/kvss_client"
    KVSS=$BATS_FILE_TMPDIR/kvss "$ROOT/tests/tools/faults/client.py" --short "$BATS_TEST_TMPDIR/kvss_client"
}
