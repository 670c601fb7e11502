#!/usr/bin/env bats
# kvss and tests/model.awk are given the same 100,000 requests, and must answer alike.
# KVSS_SEED=N bats tests/model.bats tries others.

load helper

SEED=${KVSS_SEED:-1}

# sessions FIRST LAST REQUESTS: makes the sessions of so many requests each.
sessions() {
    local i
    for ((i = $1; i <= $2; i++)); do
        awk -v seed=$((SEED * 1000 + i)) -v n="$3" -f "$ROOT/tests/generate.awk" </dev/null |
            tr '\001' '\000' >"$BATS_TEST_TMPDIR/session.$i"
    done
}

# model FILE...: what the model answers to the sessions in these files.
model() {
    local file
    for file; do
        echo session
        od -An -v -tx1 "$file"
    done | awk -f "$ROOT/tests/model.awk"
}

# alike FILE...: the server says the same.
alike() {
    local file
    for file; do talk <"$file"; done | sed 's/uptime=[0-9]*s/uptime=Ns/' >"$BATS_TEST_TMPDIR/server"
    model "$@" >"$BATS_TEST_TMPDIR/model"
    wc -l "$BATS_TEST_TMPDIR/model"
    cmp "$BATS_TEST_TMPDIR/server" "$BATS_TEST_TMPDIR/model" || {
        echo "seed $SEED" >&2
        diff -a "$BATS_TEST_TMPDIR/model" "$BATS_TEST_TMPDIR/server" | cut -c 1-100 | head -n 8 >&2
        return 1
    }
}

@test "server and model answer 100,000 random requests alike" {
    serve --quiet
    sessions 1 40 2500
    alike "$BATS_TEST_TMPDIR"/session.*
    # All sorts of replies were among them, or this proves little.
    for status in '200 OK' '200 OK value' '200 OK keys=' '200 OK bye' '201' '204' '400' '404' '426'; do
        [ "$(grep -a -c "^$status" "$BATS_TEST_TMPDIR/model")" -gt 3 ]
    done
    [ "$(wc -l <"$BATS_TEST_TMPDIR/model")" -ge 100000 ]
}

@test "the same seed makes the same requests" {
    sessions 1 1 500
    mv "$BATS_TEST_TMPDIR/session.1" "$BATS_TEST_TMPDIR/first"
    sessions 1 1 500
    cmp "$BATS_TEST_TMPDIR/first" "$BATS_TEST_TMPDIR/session.1"
    sessions 2 2 500
    run ! cmp -s "$BATS_TEST_TMPDIR/first" "$BATS_TEST_TMPDIR/session.2"
}
