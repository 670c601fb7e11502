# shellcheck shell=bash
# What tests/limits.bats and tests/hostile/limits.bats share: a server whose memory is watched.

# start: a server whose memory is watched.
start() {
    serve --quiet
    BEFORE=$(memory "$PID")
}

# bounded KB: its memory has grown by no more than that, and it serves. AddressSanitizer keeps up to
# 256 MB of freed memory aside, and valgrind has much to note; so with them the bound is wider.
bounded() {
    local now more=$1
    ! instrumented || more=400000
    now=$(memory "$PID")
    echo "memory: $BEFORE kB before, $now kB now, $more kB more allowed"
    [ "$now" -le $((BEFORE + more)) ]
    replies 'KV/1.0 PUT alive 1' '201 CREATED' 'KV/1.0 DEL alive' '204 NO_CONTENT'
}

# alone: whether whoever asks is the only client.
alone() {
    stat connections && [ "$STAT" = 1 ]
}

# grow_and_shrink N: so many keys are stored, half of them are deleted, then the others. The table becomes
# as small as it was, some chains in each turn.
grow_and_shrink() {
    local n=$1
    [ "$(seq 1 "$n" | sed 's/.*/KV\/1.0 PUT key& value&/' | talk | grep -c '^201 CREATED$')" = "$n" ]
    seq 1 "$n" | sed 's/.*/KV\/1.0 GET key&/' | talk | cmp - <(seq 1 "$n" | sed 's/^/200 OK value/')
    # Every other key goes. That moves slots, and those that stay must still be found.
    [ "$(seq 1 2 "$n" | sed 's/.*/KV\/1.0 DEL key&/' | talk | grep -c '^204 NO_CONTENT$')" = $((n / 2)) ]
    seq 1 "$n" | sed 's/.*/KV\/1.0 GET key&/' | talk |
        cmp - <(seq 1 "$n" | awk '{ print $1 % 2 ? "404 NOT_FOUND" : "200 OK value" $1 }')
    seq 2 2 "$n" | sed 's/.*/KV\/1.0 DEL key&/' | talk >"$BATS_TEST_TMPDIR/del"
    stat keys
    [ "$STAT" = 0 ]
    wait_until is_empty
}

is_empty() {
    stat memory
    [ "$STAT" = 0 ]
}
