#!/usr/bin/env bats
# kvss and the model in tests/tools/soak/model.py are given the same 100,000 requests, and must answer
# alike. KVSS_SEED=N bats tests/hostile/model.bats tries others.

load ../helper

SEED=${KVSS_SEED:-1}
MODEL=$ROOT/tests/tools/soak/model.py

setup() {
    command -v python3 >/dev/null || skip "python3 is needed"
    cd "$BATS_TEST_TMPDIR" || exit
}

# known: leaves out what the model does not know: the uptime, and why a request is refused.
known() {
    sed 's/uptime=[0-9]*s/uptime=Ns/; s/^\(4[0-9]* [A-Z_]*\) .*/\1/'
}

@test "server and model answer 100,000 random requests alike" {
    serve --quiet
    for session in {11..50}; do
        "$MODEL" generate $((SEED * 1000 + session)) 2500 >"session.$session"
        talk <"session.$session"
    done | known >server
    "$MODEL" answer session.* >model
    wc -l model
    cmp server model || {
        echo "seed $SEED" >&2
        diff -a model server | cut -c 1-100 | head -n 8 >&2
        false
    }
    # All sorts of replies were among them, or this proves little.
    for status in '200 OK' '200 OK value' '200 OK keys=' '200 OK bye' '201' '204' '400' '404' '426'; do
        [ "$(grep -a -c "^$status" model)" -gt 3 ]
    done
    [ "$(wc -l <model)" -ge 100000 ]
}

@test "the same seed makes the same requests" {
    "$MODEL" generate 1 500 >first
    "$MODEL" generate 1 500 | cmp first -
    if "$MODEL" generate 2 500 | cmp -s first -; then false; fi
}
