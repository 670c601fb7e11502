#!/usr/bin/env bats
# The long forms of tests/frames.bats: lists and messages of many frames, and many frames at once. Each takes
# what the server can hold at most.

load ../helper

# whole VERB FILE: each frame of it has this verb, and between NULs nothing but whole characters. Prints their
# arguments.
whole() {
    local part
    rm -f "$BATS_TEST_TMPDIR"/part.*
    split -a 5 -b 1024 "$2" "$BATS_TEST_TMPDIR/part."
    for part in "$BATS_TEST_TMPDIR"/part.*; do
        [ "$(wc -c <"$part")" = 1024 ]
        [ "$(head -c 15 "$part" | tr -d '\0')" = "$1" ]
        tail -c +16 "$part" | tr -d '\0' | iconv -f UTF-8 -t UTF-8
    done
}

# framed VERB: sends this frame, and its end, and prints what comes.
framed() {
    { printf '%s' "$1"; head -c $((15 - ${#1})) /dev/zero; printf '%s' "${2-}"; } >"$BATS_TEST_TMPDIR/frame"
    PORT=$FRAMES talk <"$BATS_TEST_TMPDIR/frame" # in one write: nothing says where a frame ends
}

@test "a message of 63,000 bytes comes in 63 frames, each of whole characters" {
    serve_frames
    long=$(yes 'Hà Nội' | head -n 7000 | tr -d '\n')
    replies 'KV/1.0 CREATE bob' '201 CREATED' "KV/1.0 SEND bob $long" '202 ACCEPTED'
    framed connect bob >"$BATS_TEST_TMPDIR/got"
    [ "$(head -c 1024 "$BATS_TEST_TMPDIR/got" | tr -d '\0')" = ok ]
    tail -c +1025 "$BATS_TEST_TMPDIR/got" >"$BATS_TEST_TMPDIR/message"
    [ "$(whole string "$BATS_TEST_TMPDIR/message")" = "$long" ]
}

@test "a list of 10,000 users comes in 2,500 frames, each of whole names" {
    serve_frames --quiet
    for ((i = 10000; i < 20000; i++)); do printf 'Ộ%0240d%d\n' 0 "$i"; done >"$BATS_TEST_TMPDIR/names"
    sed 's/^/KV\/1.0 CREATE /' "$BATS_TEST_TMPDIR/names" | talk >/dev/null
    framed list >"$BATS_TEST_TMPDIR/got"
    [ "$(wc -c <"$BATS_TEST_TMPDIR/got")" = $((2500 * 1024)) ]
    # Between two frames, there is one comma less.
    tr -s '\0' '\n' <"$BATS_TEST_TMPDIR/got" | grep -v '^list$' | tr ',' '\n' | cmp - "$BATS_TEST_TMPDIR/names"
    # Eight at once.
    for _ in {1..8}; do printf 'list%01020d' 0 | tr 0 '\0'; done | PORT=$FRAMES talk >"$BATS_TEST_TMPDIR/eight"
    for _ in {1..8}; do cat "$BATS_TEST_TMPDIR/got"; done | cmp - "$BATS_TEST_TMPDIR/eight"
}

@test "20,000 frames at once, to a client that reads: every one is answered" {
    serve_frames --quiet
    yes "list$(printf '%01020d' 0)" | head -n 20000 | tr -d '\n' | tr 0 '\0' >"$BATS_TEST_TMPDIR/requests"
    PORT=$FRAMES talk <"$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/replies"
    # TCP may bring a part of a frame that ends in its verb: then both parts are no frame, and get an error.
    tr -s '\0' '\n' <"$BATS_TEST_TMPDIR/replies" | sort | uniq -c >"$BATS_TEST_TMPDIR/kinds"
    cat "$BATS_TEST_TMPDIR/kinds"
    lists=$(awk '$2 == "list" { print $1 }' "$BATS_TEST_TMPDIR/kinds")
    errors=$(awk '$2 == "error" { print $1 }' "$BATS_TEST_TMPDIR/kinds")
    [ "$lists" -gt 19900 ]
    [ $((lists + ${errors:-0} / 2)) = 20000 ]
    [ "$(wc -c <"$BATS_TEST_TMPDIR/replies")" = $(((lists + ${errors:-0}) * 1024)) ]
}
