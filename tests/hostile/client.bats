#!/usr/bin/env bats
# kvss_client, where a system call fails that hardly ever does: it's built with the faults of
# tests/tools/faults.

load ../helper

@test "batch: a server that leaves before a file has been sent that has been read" {
    faulty=$KVSS_CLIENT
    if ! grep -q __wrap_send "$faulty"; then
        command -v cc >/dev/null || skip "a C compiler is needed"
        faulty=$BATS_TEST_TMPDIR/kvss_client
        KVSS_SOURCE=kvss_client.c "$ROOT/tests/tools/faults/build.bash" "$faulty"
    fi
    serve --timeout 1
    value=$(printf '%60000s' '' | tr ' ' x)
    for i in {1..5}; do echo "put k$i $value"; done >"$BATS_TEST_TMPDIR/requests"
    echo 'send EAGAIN' >"$BATS_TEST_TMPDIR/faults"
    FAULTS=$BATS_TEST_TMPDIR/faults run "$faulty" --port "$PORT" --file "$BATS_TEST_TMPDIR/requests"
    printed 'kvss_client: the server closed the connection, and the requests from line 5 on were not sent'
    [ "$status" = 2 ]
}
