#!/usr/bin/env bats
# kvss and a second implementation, tests/tools/soak/model.py, are given the same 100,000 requests, and
# must answer alike. KVSS_SEED=N tries others.

load ../helper

SEED=${KVSS_SEED:-1}
MODEL=$ROOT/tests/tools/soak/model.py

setup() {
    command -v python3 >/dev/null || skip "python3 is needed"
}

# sessions FIRST LAST REQUESTS: makes the sessions of so many requests each.
sessions() {
    local i
    for ((i = $1; i <= $2; i++)); do
        python3 "$MODEL" generate $((SEED * 1000 + i)) "$3" >"$BATS_TEST_TMPDIR/session.$i"
    done
}

@test "server and model answer 100,000 random requests alike" {
    serve --quiet
    sessions 1 40 2500
    for file in "$BATS_TEST_TMPDIR"/session.*; do talk <"$file"; done |
        sed 's/uptime=[0-9]*s/uptime=Ns/' >"$BATS_TEST_TMPDIR/server"
    python3 "$MODEL" answer "$BATS_TEST_TMPDIR"/session.* >"$BATS_TEST_TMPDIR/model"
    cmp "$BATS_TEST_TMPDIR/server" "$BATS_TEST_TMPDIR/model" || {
        echo "seed $SEED" >&2
        diff -a "$BATS_TEST_TMPDIR/model" "$BATS_TEST_TMPDIR/server" | cut -c 1-100 | head -n 8 >&2
        return 1
    }
    # All sorts of replies were among them, or this proves little.
    for status in '200 OK' '200 OK value' '200 OK keys=' '200 OK bye' '201' '204' '400' '404' '426'; do
        [ "$(grep -a -c "^$status" "$BATS_TEST_TMPDIR/model")" -gt 3 ]
    done
    [ "$(wc -l <"$BATS_TEST_TMPDIR/model")" -ge 100000 ]
}

@test "the same seed makes the same requests" {
    sessions 1 1 500
    mv "$BATS_TEST_TMPDIR/session.1" "$BATS_TEST_TMPDIR/first"
    sessions 1 2 500
    cmp "$BATS_TEST_TMPDIR/first" "$BATS_TEST_TMPDIR/session.1"
    run ! cmp -s "$BATS_TEST_TMPDIR/first" "$BATS_TEST_TMPDIR/session.2"
}
