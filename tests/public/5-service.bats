#!/usr/bin/env bats
# STATS, QUIT, and clients that are no help.

load public

# stat NAME: a figure of STATS.
stat() {
    ask 'KV/1.0 STATS' | tr ' ' '\n' | sed -n "s/^$1=//p"
}

@test "[2] STATS: keys, uptime and served" {
    run ask 'KV/1.0 STATS'
    [[ $output =~ ^'200 OK keys='[0-9]+' uptime='[0-9]+'s served='[0-9]+ ]] ||
        printed '200 OK keys=N uptime=Ns served=N'
}

@test "[2] STATS: keys is how many there are" {
    put city Hanoi
    put town Hue
    put town Hoi An
    [ "$(stat keys)" = 2 ]
}

@test "[1] STATS: served grows with each request" {
    before=$(stat served)
    put city Hanoi
    put city Hue
    [ "$(stat served)" = $((before + 3)) ]
}

@test "[2] QUIT: 200 OK bye, and the server closes" {
    connect ann
    says ann 'KV/1.0 QUIT'
    hears ann '200 OK bye'
    closed ann
}

@test "[2] QUIT: the others are served; or the server stops, where it should" {
    ask 'KV/1.0 QUIT' >"$BATS_TEST_TMPDIR/quit"
    if [ "$QUIT_STOPS" = 1 ]; then
        wait_until dead "$PID"
    else
        serves
    fi
}

@test "[2] clients that leave in the middle of a line" {
    for _ in {1..20}; do
        connect ann
        printf 'KV/1.0 GET city\nKV/1.0 GET' >&"${TO[ann]}" # nc sends this as one piece
        next ann
        hang_up ann
    done
    serves
}

@test "[2] clients that leave without their replies" {
    for _ in {1..20}; do
        connect ann
        seq 20000 | sed 's/.*/KV\/1.0 GET city/' >&"${TO[ann]}" 2>/dev/null 3>&- &
        next ann
        hang_up ann
    done
    serves
}

@test "[1] garbage" {
    garbage=$BATS_TEST_TMPDIR/garbage
    for byte in {0..255}; do printf '%b' "\\x$(printf %x "$byte")\n"; done >"$garbage"
    sed 's/^/KV\/1.0 GET /' "$garbage" | cat "$garbage" - | talk >/dev/null || :
    serves
}

@test "[1] a line of 1,000,000 bytes" {
    { long 1000000; echo; } | talk >/dev/null || :
    serves
}
