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

# stat NAME: sets STAT, a figure of STATS all.
stat() {
    [[ $(ask 'KV/1.0 STATS all') =~ " $1="([0-9]+) ]] && STAT=${BASH_REMATCH[1]}
}

# alone: whether whoever asks is the only client.
alone() {
    stat connections && [ "$STAT" = 1 ]
}
