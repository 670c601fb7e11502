#!/usr/bin/env bats
# Clients that are many, slow, greedy or broken: the others are served, and memory stays bounded.
# tests/hostile/limits.bats has what takes minutes.

load helper
load watch
load limits

# taken: whether the server has read all SENT bytes, and the questions of this client, named watch.
taken() {
    says watch 'KV/1.0 STATS all' && next watch && [[ $LINE =~ bytes_in=([0-9]+) ]] &&
        [ $((BASH_REMATCH[1] - 17 * ++ASKED)) -ge "$SENT" ]
}

# sends TEXT: the client named ann does, and the server reads it before anything else comes.
sends() {
    printf '%s' "$1" >&"${TO[ann]}"
    SENT=$((SENT + ${#1}))
    wait_until taken
}

@test "requests cut at every byte, and sent a byte at a time" {
    start
    connect ann
    connect watch
    requests=$'KV/1.0 PUT k\xc3\xa9y v\xc3\xa0lue \r\nKV/1.0 GET k\xc3\xa9y\r\n\nKV/1.0 DEL k\xc3\xa9y\n'
    wanted=('201 CREATED' $'200 OK v\xc3\xa0lue ' '426 UPGRADE_REQUIRED' '204 NO_CONTENT')
    for ((i = 1; i < ${#requests}; i++)); do
        sends "${requests:0:i}"
        sends "${requests:i}"
        hears ann "${wanted[@]}"
    done
    for ((i = 0; i < ${#requests}; i++)); do sends "${requests:i:1}"; done
    hears ann "${wanted[@]}"
    bounded 10000
}

@test "3 MB without an LF: one 400, and the connection goes on" {
    start
    head -c 3000000 /dev/zero | tr '\0' x >"$BATS_TEST_TMPDIR/long"
    run talk < <(cat "$BATS_TEST_TMPDIR/long"; printf '\nKV/1.0 GET a\n')
    printed $'400 BAD_REQUEST\n404 NOT_FOUND'
    run talk <"$BATS_TEST_TMPDIR/long"
    printed '400 BAD_REQUEST'
    bounded 10000
}

# The server has a thousand files open from the start, so that a few clients fill what select() can take.
@test "as many clients as select() takes are served, the rest get 503" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    cat >"$BATS_TEST_TMPDIR/crowded" <<'CROWDED'
#!/usr/bin/env bash
exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3
for _ in {10..999}; do exec {fd}<&3; done
CROWDED
    echo "exec '$KVSS' \"\$@\"" >>"$BATS_TEST_TMPDIR/crowded"
    chmod +x "$BATS_TEST_TMPDIR/crowded"
    KVSS=$BATS_TEST_TMPDIR/crowded serve
    served=0 refused=0
    let_in() { logged ' connect ' $((served + 1)); }
    known() { let_in || logged ' refuse ' $((refused + 1)); }
    for i in {1..30}; do
        connect "$i"
        wait_until known
        if let_in; then
            says "$i" 'KV/1.0 GET k'
            hears "$i" '404 NOT_FOUND'
            served=$((served + 1))
        else
            hears "$i" '503 SERVICE_UNAVAILABLE'
            refused=$((refused + 1))
        fi
    done
    echo "$served served, $refused refused"
    [ $served -ge 8 ]
    [ $served -lt 24 ]
    hang_up {1..30}
    serving() { [ "$(ask 'KV/1.0 GET k')" = '404 NOT_FOUND' ]; }
    wait_until serving
    stat refused
    [ "$STAT" -ge $refused ]
}

# Each read of the server takes 16 KiB at most, so it finds one GET in it, and a PUT that goes on. While a part of
# a reply waits, nothing more is read: what waits is one reply to GET at most, and one to PUT.
@test "a client that asks for 20 MB of replies and reads none, or slowly, is no longer read" {
    start
    printf -v value '%030000d' 0
    replies "KV/1.0 PUT big $value" '201 CREATED' \
            'KV/1.0 PUT long v' '201 CREATED'
    made=24 before='' alone=0
    connect watch
    connect greedy
    yes "KV/1.0 GET big"$'\n'"KV/1.0 PUT long ${value:10000}" | head -n 1400 >&"${TO[greedy]}" 2>/dev/null 3>&- &
    until [ $alone = 50 ]; do # nothing else was served than these
        says watch 'KV/1.0 STATS all'
        next watch
        [[ $LINE =~ bytes_out=([0-9]+)' '.*' PUT='([0-9]+)' GET='([0-9]+) ]]
        puts=$((BASH_REMATCH[2] - 2)) gets=${BASH_REMATCH[3]}
        [ $((made + puts * 7 + gets * 30008 - BASH_REMATCH[1])) -le 30015 ]
        made=$((made + ${#LINE} + 1)) alone=$((alone + 1))
        [ "$puts $gets" = "$before" ] || alone=0
        before="$puts $gets"
    done
    echo "$gets replies until then"
    [ "$gets" -lt 600 ]
    bounded 10000
    # Now it reads a reply at a time, and then all that it asked for.
    for _ in {1..50}; do head -c 30015 <&"${FROM[greedy]}"; done | cmp - <(yes "200 OK $value"$'\n200 OK' | head -n 100)
    bounded 10000
    head -c $((650 * 30015)) <&"${FROM[greedy]}" | cmp - <(yes "200 OK $value"$'\n200 OK' | head -n 1300)
    bounded 10000
}

@test "one client's flood does not starve the rest" {
    start
    connect flood
    cat <&"${FROM[flood]}" >/dev/null 3>&- &
    yes 'KV/1.0 PUT flood value' >&"${TO[flood]}" 2>/dev/null 3>&- &
    busy() { stat served && [ "$STAT" -gt 5000 ]; }
    wait_until busy
    before=$STAT
    for i in {1..20}; do replies "KV/1.0 PUT key$i v" '201 CREATED'; done
    stat served
    [ $((STAT - before)) -gt 1000 ] # the flood went on meanwhile
}

@test "100 connections opened and dropped leave no descriptor and no memory behind" {
    start
    descriptors() { find "/proc/$PID/fd" -mindepth 1 2>/dev/null | wc -l; }
    before=$(descriptors)
    # One says nothing, one half a line, one leaves before its reply, one says QUIT and leaves.
    for _ in {1..25}; do
        for i in {1..4}; do connect "$i"; done
        printf 'KV/1.0 GET' >&"${TO[2]}"
        says 3 'KV/1.0 GET a'
        says 4 'KV/1.0 QUIT'
        hang_up {1..4}
    done
    wait_until alone
    [ "$(descriptors)" = "$before" ]
    bounded 3000
}

# bats test_tags=beyond, limits
@test "a store of 20,000 keys grows, answers right, and gives its memory back" {
    start
    grow_and_shrink 20000
}

# limited [OPTION...]: a server that may have little memory.
limited() {
    if instrumented; then skip "what runs is not the server alone, and needs more than a limit allows"; fi
    printf '#!/bin/sh\nulimit -S -v 220000\nexec "%s" "$@"\n' "$KVSS" >"$BATS_TEST_TMPDIR/limited"
    chmod +x "$BATS_TEST_TMPDIR/limited"
    KVSS=$BATS_TEST_TMPDIR/limited serve --quiet "$@" || skip "ulimit -v is refused here"
}

# full [OPTION...]: a server that has filled the memory that it may have. Sets STORED, how many keys it
# has, and VALUE, what most of them hold.
full() {
    limited "$@"
    printf -v VALUE '%01000d' 0
    # Values of a kilobyte, and then small ones for what is left.
    { seq 1 70000 | sed "s/.*/KV\/1.0 PUT key& $VALUE/"; seq 1 40000 | sed 's/.*/KV\/1.0 PUT small& v/'; } |
        talk >"$BATS_TEST_TMPDIR/put"
    [ "$(sort -u "$BATS_TEST_TMPDIR/put")" = $'201 CREATED\n500 SERVER_ERROR' ]
    [ "$(wc -l <"$BATS_TEST_TMPDIR/put")" = 110000 ]
    STORED=$(grep -c '^201 CREATED$' "$BATS_TEST_TMPDIR/put")
    [ "$STORED" -gt 1000 ]
}

@test "out of memory: 500, whoever comes is served, can delete and store, and the store is as it was" {
    full
    for i in {1..20}; do connect "$i"; done
    for i in {1..20}; do says "$i" 'KV/1.0 GET nobody' && hears "$i" '404 NOT_FOUND'; done
    says 20 'KV/1.0 DEL key1' "KV/1.0 PUT key1 $VALUE"
    hears 20 '204 NO_CONTENT' '201 CREATED'
    hang_up {1..20}
    stat keys
    [ "$STAT" = "$STORED" ]
    # What was said to be stored is there, and nothing else.
    awk '/201/ { print "KV/1.0 DEL " (NR > 70000 ? "small" NR - 70000 : "key" NR) }' "$BATS_TEST_TMPDIR/put" |
        talk >"$BATS_TEST_TMPDIR/del"
    [ "$(grep -c '^204 NO_CONTENT$' "$BATS_TEST_TMPDIR/del")" = "$STORED" ]
    stat keys
    [ "$STAT" = 0 ]
}

# bats test_tags=beyond
@test "out of memory: the server starts again under the same limit, with all that it held" {
    full --data "$BATS_TEST_TMPDIR/data" --fsync no
    stop "$PID"
    KVSS=$BATS_TEST_TMPDIR/limited serve --data "$BATS_TEST_TMPDIR/data" --fsync no
    stat keys
    [ "$STAT" = "$STORED" ]
}

# bats test_tags=beyond
@test "out of memory, which messages have taken: a key can be deleted all the same" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    printf -v VALUE '%060000d' 0
    for before in nothing 'a long turn'; do
        printf '%s\n' '# kvss data 1: the changes of a store, as requests' 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2' \
            >"$BATS_TEST_TMPDIR/data"
        limited --data "$BATS_TEST_TMPDIR/data" --fsync no
        # The lines of a long turn are more than a megabyte. Their ends come while the server sleeps.
        if [ "$before" != nothing ]; then
            for i in watch {1..20}; do connect "$i"; done
            for i in {1..20}; do printf '%s' "KV/1.0 PUT long $VALUE" >&"${TO[$i]}"; done
            SENT=$((20 * 60016)) ASKED=0
            wait_until taken
            freeze "$PID"
            for i in {1..20}; do says "$i" ''; done
            wait_until arrived 20
            kill -s CONT "$PID"
            for i in {1..20}; do next "$i"; done
            hang_up watch {1..20}
        fi
        awk -v text="$VALUE" 'BEGIN { for (len = 60000; len > 5; len /= 10) for (box = len > 6000 ? 80 : 3; box > 0; box--) {
            print "KV/1.0 CREATE " len "-" box
            for (i = 0; i < (len > 1000 ? 17 : 500); i++) print "KV/1.0 SEND " len "-" box " " substr(text, 1, len) } }' |
            talk | grep -c '^500 SERVER_ERROR$'
        replies 'KV/1.0 DEL a' '204 NO_CONTENT' \
                'KV/1.0 DEL nobody' '404 NOT_FOUND' \
                'KV/1.0 GET b' '200 OK 2'
        [ "$(tail -n 1 "$BATS_TEST_TMPDIR/data")" = 'KV/1.0 DEL a' ]
        stop "$PID"
    done
}

# bats test_tags=beyond, limits, mailboxes, expiry
@test "--max-memory: what would need more gets 507, all else goes on, and what is freed can be used" {
    run -2 "$KVSS" --port 0 --max-memory 10X
    [[ $output == "kvss: max-memory: '10X' is not a number of bytes"* ]]
    serve --max-memory 1M
    replies 'KV/1.0 CREATE ann' '201 CREATED'
    printf -v value '%01000d' 0
    seq 1 2000 | sed "s/.*/KV\/1.0 PUT key& $value/" | talk >"$BATS_TEST_TMPDIR/put"
    stored=$(grep -c '^201 CREATED$' "$BATS_TEST_TMPDIR/put")
    [ "$(grep -c '^507 INSUFFICIENT_STORAGE$' "$BATS_TEST_TMPDIR/put")" = $((2000 - stored)) ]
    # Nearly all of the megabyte is used, and not more.
    stat max_memory
    [ "$STAT" = 1048576 ]
    stat held
    [ "$STAT" -gt 900000 ]
    [ "$STAT" -le 1048576 ]
    # The rest is filled with small ones.
    small=1
    while [ "$(ask "KV/1.0 PUT small$small value")" = '201 CREATED' ]; do small=$((small + 1)); done
    [ "$small" -gt 1 ]
    replies "KV/1.0 SEND ann $value" '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 CREATE somebody-with-a-name' '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 EXPIRE small1 1000000' '200 OK' \
            "KV/1.0 PUT new $value" '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 PUT key1 shorter' '200 OK' \
            'KV/1.0 GET key1' '200 OK shorter' \
            'KV/1.0 DEL key2' '204 NO_CONTENT' \
            'KV/1.0 DEL key3' '204 NO_CONTENT'
    replies "KV/1.0 PUT new $value" '201 CREATED' \
            "KV/1.0 PUT newer ${value::100}" '201 CREATED'
}

# bats test_tags=beyond, limits
@test "SIGUSR1: what STATS all would say is printed, with --quiet, too" {
    serve --quiet
    replies 'KV/1.0 PUT a b' '201 CREATED'
    kill -s USR1 "$PID"
    wait_until logged ' stats keys=1 '
    grep -q ' PUT=1 .* max_memory=0$' "$LOG"
    replies 'KV/1.0 GET a' '200 OK b'
}
