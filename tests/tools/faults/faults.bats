#!/usr/bin/env bats
# Calls of kvss and of its client fail, one in each session: the short form of run.bash.

load ../../helper

@test "a fault in each session of kvss, and of its client" {
    for tool in cc openssl python3; do
        command -v $tool >/dev/null || skip "$tool is needed"
    done
    QUICK=1 "$ROOT/tests/tools/faults/run.bash"
}

@test "setitimer() fails: while some are busy, the others are served all the same" {
    export FAULTS=$BATS_TEST_TMPDIR/faults
    echo 'setitimer EIO' >"$FAULTS"
    "$ROOT/tests/tools/faults/build.bash" "$BATS_TEST_TMPDIR/kvss" || skip "a C compiler with sanitizers is needed"
    KVSS=$BATS_TEST_TMPDIR/kvss serve
    connect busy
    connect other
    for _ in {1..50}; do
        says busy 'KV/1.0 GET k'
        hears busy '404 NOT_FOUND'
    done
    says other 'KV/1.0 GET k'
    hears other '404 NOT_FOUND'
}
