#!/usr/bin/env bats
# Beyond the lab: keys that expire, by EXPIRE, EXPIREAT and TTL.
# Deadlines here are a second or two away, or so far that they never come.

load helper
load watch

gone() {
    [ "$(ask "KV/1.0 GET $1")" = '404 NOT_FOUND' ]
}

# none_left [N]: whether no key is left, or N.
none_left() {
    stat keys && [ "$STAT" = "${1-0}" ]
}

# past SECOND: whether that second of the clock is over.
past() {
    [ "$EPOCHSECONDS" -gt "$1" ]
}

@test "EXPIRE: the key is gone in time; the last EXPIRE counts, PUT clears it, DEL takes it along" {
    serve
    replies 'KV/1.0 EXPIRE k 1' '404 NOT_FOUND' \
            'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 PUT other v' '201 CREATED' \
            'KV/1.0 EXPIRE k 1' '200 OK' \
            'KV/1.0 GET k' '200 OK v' \
            'KV/1.0 PUT later v' '201 CREATED' \
            'KV/1.0 EXPIRE later 60' '200 OK' \
            'KV/1.0 PUT sooner v' '201 CREATED' \
            'KV/1.0 EXPIRE sooner 1000' '200 OK' \
            'KV/1.0 EXPIRE sooner 2000' '200 OK' \
            'KV/1.0 TTL sooner' '200 OK 2000' \
            'KV/1.0 EXPIRE sooner 1' '200 OK' \
            'KV/1.0 TTL sooner' '200 OK 1' \
            'KV/1.0 PUT kept v' '201 CREATED' \
            'KV/1.0 EXPIRE kept 1' '200 OK' \
            'KV/1.0 PUT kept w' '200 OK' \
            'KV/1.0 TTL kept' '200 OK -1' \
            'KV/1.0 PUT new v' '201 CREATED' \
            'KV/1.0 EXPIRE new 1' '200 OK' \
            'KV/1.0 DEL new' '204 NO_CONTENT' \
            'KV/1.0 PUT new v' '201 CREATED' \
            'KV/1.0 TTL new' '200 OK -1' \
            'KV/1.0 PUT last v' '201 CREATED' \
            'KV/1.0 EXPIRE last 1' '200 OK'
    wait_until gone k
    wait_until gone sooner
    wait_until gone last
    replies 'KV/1.0 GET k' '404 NOT_FOUND' \
            'KV/1.0 DEL k' '404 NOT_FOUND' \
            'KV/1.0 TTL k' '404 NOT_FOUND' \
            'KV/1.0 EXPIRE k 1' '404 NOT_FOUND' \
            'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 TTL k' '200 OK -1' \
            'KV/1.0 GET later' '200 OK v' \
            'KV/1.0 GET kept' '200 OK w' \
            'KV/1.0 GET new' '200 OK v' \
            'KV/1.0 GET other' '200 OK v'
}

@test "EXPIRE: from 1 second to 10 years, a whole number, else 400" {
    serve --explain
    wrong='400 BAD_REQUEST *'
    for seconds in 0 00 -1 +1 1.5 1s x '1 ' ' 1' 1e3 315360001 99999999999999999999999999 18446744073709551617; do
        pairs+=("KV/1.0 EXPIRE k $seconds" "$wrong")
    done
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            "${pairs[@]}" \
            'KV/1.0 EXPIRE k' "$wrong" \
            'KV/1.0 EXPIRE' "$wrong" \
            'KV/1.0 EXPIRE nobody 0' "$wrong" \
            'KV/1.0 EXPIRE k 315360000' '200 OK' \
            'KV/1.0 TTL k' '200 OK 315360000'
}

@test "EXPIREAT: a time of day, with milliseconds or without; what is past is gone" {
    serve --explain
    wrong='400 BAD_REQUEST *'
    for time in 10000000000 00000000001 99999999999999999999 -1 +1 1. .250 1.2 1.25 1.2500 1.-50 1.250.250 1,250 1e3 x ' 1' '1 '; do
        pairs+=("KV/1.0 EXPIREAT k $time" "$wrong")
    done
    for time in 0 1 0000000001 1763719200 1763719200.000 1763719200.250 "$EPOCHSECONDS"; do
        gone+=("KV/1.0 EXPIREAT k $time" '200 OK' 'KV/1.0 GET k' '404 NOT_FOUND' 'KV/1.0 PUT k v' '201 CREATED')
    done
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            "${pairs[@]}" \
            'KV/1.0 EXPIREAT k' "$wrong" \
            'KV/1.0 EXPIREAT nobody 1' '404 NOT_FOUND' \
            'KV/1.0 EXPIREAT k 9999999999.999' '200 OK' \
            'KV/1.0 PUT k v' '200 OK' \
            "${gone[@]}"
    run ask "KV/1.0 EXPIREAT k $((EPOCHSECONDS + 100)).250" 'KV/1.0 TTL k'
    [[ ${lines[1]} =~ ^'200 OK '(9[0-9]|10[01])$ ]]
    then=$((EPOCHSECONDS + 2))
    replies "KV/1.0 EXPIREAT k $then" '200 OK'
    wait_until gone k
    [ "${EPOCHREALTIME%.*}" -ge "$then" ] # EPOCHSECONDS may be some milliseconds behind the server's clock
}

@test "TTL: the seconds left, rounded up; -1 without a deadline; 404" {
    serve
    replies 'KV/1.0 TTL k' '404 NOT_FOUND' \
            'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 TTL k' '200 OK -1' \
            'KV/1.0 TTL' '400 BAD_REQUEST' \
            'KV/1.0 TTL k k' '400 BAD_REQUEST' \
            'KV/1.0 PUT long v' '201 CREATED' \
            'KV/1.0 EXPIRE long 100' '200 OK' \
            'KV/1.0 EXPIRE k 1' '200 OK'
    # Down to the end it's 1, and never 0.
    connect ann
    LINE='200 OK 1'
    while [ "$LINE" = '200 OK 1' ]; do
        says ann 'KV/1.0 TTL k'
        next ann
    done
    [ "$LINE" = '404 NOT_FOUND' ]
    [[ $(ask 'KV/1.0 TTL long') =~ ^'200 OK '[1-9][0-9]$ ]]
}

@test "STATS counts the keys that are stored: one whose time is past, until it is removed" {
    serve
    # All in one turn of the loop. The search for the key removes it.
    run ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIREAT k 1' 'KV/1.0 STATS' 'KV/1.0 GET k' 'KV/1.0 STATS'
    [[ ${lines[2]} == '200 OK keys=1 '* ]]
    [ "${lines[3]}" = '404 NOT_FOUND' ]
    [[ ${lines[4]} == '200 OK keys=0 '* ]]
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIREAT k 1'
    wait_until none_left
}

@test "all at once: none of 20,000 is seen any more, and the memory comes back unasked" {
    serve
    { seq 1 20000 | sed 's/.*/KV\/1.0 PUT key& value/'; echo 'KV/1.0 PUT stays value'; } | talk >"$BATS_TEST_TMPDIR/put"
    [ "$(grep -c '^201' "$BATS_TEST_TMPDIR/put")" = 20001 ]
    stat memory
    full=$STAT
    [ "$full" -gt 200000 ]
    # First to an hour, then to a second: not one is over before all have a deadline.
    seq 1 20000 | sed 's/.*/KV\/1.0 EXPIRE key& 3600/' | talk >"$BATS_TEST_TMPDIR/expire"
    none_left 20001
    seq 1 20000 | sed 's/.*/KV\/1.0 EXPIRE key& 1/' | talk >"$BATS_TEST_TMPDIR/expire"
    # Nobody asks for them: a few are removed in each turn of the loop.
    wait_until none_left 1
    freed() { stat memory && [ "$STAT" -lt $((full / 20)) ]; }
    wait_until freed
    replies 'KV/1.0 GET stays' '200 OK value' \
            'KV/1.0 GET key17777' '404 NOT_FOUND'
}

# bats test_tags=mailboxes
@test "a turn of the loop removes a part of the keys whose time is past: others are served in between" {
    serve --quiet
    # A client sees how many there are, turn after turn. On a busy machine it may miss what is in between.
    for round in {1..20}; do
        seq 1 3000 | sed 's/.*/KV\/1.0 PUT k& v/' | talk >"$BATS_TEST_TMPDIR/put"
        then=$((EPOCHSECONDS + 1))
        seq 1 3000 | sed "s/.*/KV\/1.0 EXPIREAT k& $then/" | talk >"$BATS_TEST_TMPDIR/expire"
        connect "$round"
        freeze "$PID" # it sleeps until they are all over
        wait_until past "$then"
        for _ in {1..20}; do says "$round" 'KV/1.0 LIST' 'KV/1.0 STATS'; done # a LIST waits for the next turn
        kill -s CONT "$PID"
        between=0
        for _ in {1..20}; do
            hears "$round" '200 OK'
            next "$round"
            [[ $LINE =~ ^'200 OK keys='([0-9]+)' ' ]]
            [ "${BASH_REMATCH[1]}" = 0 ] || [ "${BASH_REMATCH[1]}" = 3000 ] || between=1
        done
        hang_up "$round"
        [ $between = 0 ] || return 0
    done
    return 1
}

@test "soon and late ones, set, changed, cleared and deleted at random: the late ones are left" {
    serve --quiet
    awk -v left="$BATS_TEST_TMPDIR/left" 'BEGIN {
        srand(3)
        for (i = 0; i < 20000; i++) {
            key = "k" int(rand() * 3000); what = rand()
            if (what < 0.4) { print "KV/1.0 PUT " key " v"; late[key] = 1 }
            else if (what < 0.6) { print "KV/1.0 EXPIRE " key " 2"; if (key in late) late[key] = 0 }
            else if (what < 0.9) { print "KV/1.0 EXPIRE " key " " int(100 + rand() * 1000); if (key in late) late[key] = 1 }
            else { print "KV/1.0 DEL " key; delete late[key] }
        }
        for (key in late) n += late[key]
        print n >left
    }' >"$BATS_TEST_TMPDIR/requests"
    talk <"$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/replies"
    # Nobody asks for a key: it is the order of the deadlines that makes them go.
    wanted=$(<"$BATS_TEST_TMPDIR/left")
    [ "$wanted" -gt 500 ]
    stat keys
    [ "$STAT" -gt "$wanted" ]
    fewer() { stat keys && [ "$STAT" -le "$wanted" ]; }
    wait_until fewer
    [ "$STAT" = "$wanted" ]
}

# bats test_tags=roles
@test "deadlines far off do not keep the server busy, and one in a --private store is kept" {
    serve
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 EXPIRE k 300000000' '200 OK'
    busy=$PID port=$PORT
    serve --private
    connect ann
    says ann 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 1'
    hears ann '201 CREATED' '200 OK'
    over() { says ann 'KV/1.0 GET k' && next ann && [ "$LINE" = '404 NOT_FOUND' ]; }
    wait_until over
    # Meanwhile, a second has gone by.
    instrumented || [ "$(ps -o cputimes= -p "$busy")" -le 0 ]
    PORT=$port
    none_left 1
}

@test "deadlines and a model: 5,000 random commands on 50 keys" {
    serve --quiet
    # Deadlines of a thousand seconds and more, so that TTL says which is which; none comes.
    awk -v file="$BATS_TEST_TMPDIR/wanted" 'BEGIN {
        srand(7)
        for (i = 0; i < 5000; i++) {
            key = "k" int(rand() * 50); what = rand()
            if (what < 0.3) { print "KV/1.0 PUT " key " v"; print (key in ttl) ? "200 OK" : "201 CREATED" >file; ttl[key] = -1 }
            else if (what < 0.6) { n = 1000 * int(1 + rand() * 1000); print "KV/1.0 EXPIRE " key " " n
                print (key in ttl) ? "200 OK" : "404 NOT_FOUND" >file; if (key in ttl) ttl[key] = n }
            else if (what < 0.85) { print "KV/1.0 TTL " key; print (key in ttl) ? "200 OK " ttl[key] : "404 NOT_FOUND" >file }
            else { print "KV/1.0 DEL " key; print (key in ttl) ? "204 NO_CONTENT" : "404 NOT_FOUND" >file; delete ttl[key] }
        } }' >"$BATS_TEST_TMPDIR/requests"
    # A time that is over a little is rounded up to the thousand that it was.
    talk <"$BATS_TEST_TMPDIR/requests" | awk '$1 == 200 && $3 > 0 { $3 = 1000 * int(($3 + 999) / 1000) } { print }' |
        cmp - "$BATS_TEST_TMPDIR/wanted"
}

@test "kvss_client: expire, expireat and ttl" {
    serve
    "$KVSS_CLIENT" --port "$PORT" put k v
    run "$KVSS_CLIENT" --port "$PORT" expire k 1000
    printed '200 OK'
    run "$KVSS_CLIENT" --port "$PORT" --value ttl k
    [[ $output =~ ^(9[0-9][0-9]|1000)$ ]]
    run "$KVSS_CLIENT" --port "$PORT" expireat k 1
    printed '200 OK'
    run "$KVSS_CLIENT" --port "$PORT" get k
    printed '404 NOT_FOUND'
}
