#!/usr/bin/env bats
# Beyond the lab: keys that expire.

# shellcheck disable=SC2153 # PORT is set by serve
load helper

# stat NAME: a figure of STATS all.
stat() {
    ask 'KV/1.0 STATS all' | tr ' ' '\n' | sed -n "s/^$1=//p"
}

# second: a second goes by: another server closes a client that says nothing.
second() {
    local port=$PORT log=$LOG pid=$PID
    serve --timeout 1
    connect
    wait_until 20 grep -q ' idle$' "$LOG"
    hang_up "$FD"
    PORT=$port LOG=$log PID=$pid
}

gone() {
    [ "$(ask "KV/1.0 GET $1")" = '404 NOT_FOUND' ]
}

@test "EXPIRE: 200, and the key is gone in time; 404 where there is none" {
    serve
    replies 'KV/1.0 EXPIRE k 1' '404 NOT_FOUND' \
            'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 PUT other v' '201 CREATED' \
            'KV/1.0 EXPIRE k 1' '200 OK' \
            'KV/1.0 GET k' '200 OK v'
    wait_until 10 gone k
    replies 'KV/1.0 GET k' '404 NOT_FOUND' \
            'KV/1.0 DEL k' '404 NOT_FOUND' \
            'KV/1.0 TTL k' '404 NOT_FOUND' \
            'KV/1.0 EXPIRE k 1' '404 NOT_FOUND' \
            'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 TTL k' '200 OK -1' \
            'KV/1.0 GET other' '200 OK v'
}

@test "EXPIRE: a key lives as long as it was told" {
    serve
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 60' 'KV/1.0 PUT brief v' 'KV/1.0 EXPIRE brief 1'
    second
    wait_until 10 gone brief
    replies 'KV/1.0 GET k' '200 OK v'
}

@test "EXPIRE: from 1 second to 10 years, a whole number, else 400" {
    serve --explain
    wrong='400 BAD_REQUEST EXPIRE needs a key and a number of seconds, from 1 to 315360000'
    ask 'KV/1.0 PUT k v'
    for seconds in 0 00 -1 +1 1.5 1s x '1 ' ' 1' 1e3 315360001 99999999999999999999999999 18446744073709551617; do
        replies "KV/1.0 EXPIRE k $seconds" "$wrong"
    done
    replies 'KV/1.0 EXPIRE k' "$wrong" \
            'KV/1.0 EXPIRE' "$wrong" \
            'KV/1.0 EXPIRE nobody 0' "$wrong" \
            'KV/1.0 EXPIRE k 315360000' '200 OK' \
            'KV/1.0 TTL k' '200 OK 315360000'
}

@test "EXPIREAT: a time of day, with milliseconds or without; what is past is gone" {
    serve --explain
    wrong='400 BAD_REQUEST EXPIREAT needs a key and seconds since 1970, as in 1763719200 or 1763719200.250'
    ask 'KV/1.0 PUT k v'
    for time in 10000000000 00000000001 99999999999999999999 -1 +1 1. .250 1.2 1.25 1.2500 1.-50 1.250.250 1,250 1e3 x ' 1' '1 '; do
        replies "KV/1.0 EXPIREAT k $time" "$wrong"
    done
    replies 'KV/1.0 EXPIREAT k' "$wrong" \
            'KV/1.0 EXPIREAT nobody 1' '404 NOT_FOUND' \
            'KV/1.0 EXPIREAT k 9999999999.999' '200 OK'
    for time in 0 1 0000000001 1763719200 1763719200.000 1763719200.250 "$(date +%s)"; do
        replies 'KV/1.0 PUT k v' '200 OK' \
                "KV/1.0 EXPIREAT k $time" '200 OK' \
                'KV/1.0 GET k' '404 NOT_FOUND' \
                'KV/1.0 PUT k v' '201 CREATED'
    done
    ask "KV/1.0 EXPIREAT k $(($(date +%s) + 100)).250"
    [[ $(ask 'KV/1.0 TTL k') =~ ^'200 OK '(9[0-9]|10[01])$ ]]
    then=$(($(date +%s) + 2))
    ask "KV/1.0 EXPIREAT k $then"
    wait_until 10 gone k
    [ "$(date +%s)" -ge "$then" ]
}

@test "TTL: the seconds left, rounded up; -1 without a deadline; 404" {
    serve
    replies 'KV/1.0 TTL k' '404 NOT_FOUND' \
            'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 TTL k' '200 OK -1' \
            'KV/1.0 EXPIRE k 1' '200 OK' \
            'KV/1.0 TTL k' '200 OK 1'
    # Down to the end it's 1, and never 0.
    while :; do
        reply=$(ask 'KV/1.0 TTL k')
        [ "$reply" = '200 OK 1' ] || break
    done
    [ "$reply" = '404 NOT_FOUND' ]
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 100'
    second
    [[ $(ask 'KV/1.0 TTL k') =~ ^'200 OK '[1-9][0-9]$ ]]
    replies 'KV/1.0 TTL' '400 BAD_REQUEST' \
            'KV/1.0 TTL k k' '400 BAD_REQUEST'
}

@test "EXPIRE again sets another time, sooner or later" {
    serve
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 EXPIRE k 1000' '200 OK' \
            'KV/1.0 EXPIRE k 2000' '200 OK' \
            'KV/1.0 TTL k' '200 OK 2000' \
            'KV/1.0 EXPIRE k 1' '200 OK' \
            'KV/1.0 TTL k' '200 OK 1'
    wait_until 10 gone k
}

@test "PUT clears the deadline, DEL takes it along" {
    serve
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 EXPIRE k 1' '200 OK' \
            'KV/1.0 PUT k w' '200 OK' \
            'KV/1.0 TTL k' '200 OK -1' \
            'KV/1.0 PUT other v' '201 CREATED' \
            'KV/1.0 EXPIRE other 1' '200 OK' \
            'KV/1.0 DEL other' '204 NO_CONTENT' \
            'KV/1.0 PUT other v' '201 CREATED' \
            'KV/1.0 TTL other' '200 OK -1' \
            'KV/1.0 PUT brief v' '201 CREATED' \
            'KV/1.0 EXPIRE brief 1' '200 OK'
    wait_until 10 gone brief
    second
    replies 'KV/1.0 GET k' '200 OK w' \
            'KV/1.0 GET other' '200 OK v'
}

@test "all at once: none of 100,000 is seen any more, and the memory comes back unasked" {
    serve
    before=$(stat memory)
    { seq 1 100000 | sed 's/.*/KV\/1.0 PUT key& value/'; echo 'KV/1.0 PUT stays value'; } | talk | grep -c '^201' >"$BATS_TEST_TMPDIR/put"
    [ "$(cat "$BATS_TEST_TMPDIR/put")" = 100001 ]
    full=$(stat memory)
    [ "$full" -gt 1000000 ]
    # First to an hour, then to a second: not one is over before all have a deadline.
    seq 1 100000 | sed 's/.*/KV\/1.0 EXPIRE key& 3600/' | talk >/dev/null
    [ "$(stat keys)" = 100001 ]
    seq 1 100000 | sed 's/.*/KV\/1.0 EXPIRE key& 1/' | talk | sort | uniq -c
    # Nobody asks for them: a few are removed in each turn of the loop.
    one() { [ "$(stat keys)" = 1 ]; }
    wait_until 20 one
    freed() { now=$(stat memory); [ "$now" -lt $((full / 20)) ]; }
    wait_until 20 freed
    echo "memory: $before before, $full full, $now now"
    [ "$(stat keys)" = 1 ]
    replies 'KV/1.0 GET stays' '200 OK value' \
            'KV/1.0 GET key77777' '404 NOT_FOUND'
}

@test "STATS counts the keys that are stored: one whose time is past, until it is removed" {
    serve
    # All in one turn of the loop. The search for the key removes it.
    run ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIREAT k 1' 'KV/1.0 STATS' 'KV/1.0 GET k' 'KV/1.0 STATS'
    [[ ${lines[2]} == '200 OK keys=1 '* ]]
    [ "${lines[3]}" = '404 NOT_FOUND' ]
    [[ ${lines[4]} == '200 OK keys=0 '* ]]
    none() { [ "$(stat keys)" = 0 ]; }
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIREAT k 1'
    wait_until 10 none
}

@test "a turn of the loop removes no more than a step, however many clients there are" {
    serve --quiet
    fds=()
    for _ in {1..20}; do connect; fds+=("$FD"); done
    { seq 1 3000 | sed 's/.*/KV\/1.0 PUT k& v/'; echo 'KV/1.0 PUT stays v'; } | talk >/dev/null
    then=$(($(date +%s) + 2))
    seq 1 3000 | sed "s/.*/KV\/1.0 EXPIREAT k& $then/" | talk >/dev/null
    # It sleeps until they are all over. Then each turn runs one LIST, and the STATS after it.
    kill -s STOP "$PID"
    past() { [ "$(date +%s)" -gt "$then" ]; }
    wait_until 10 past
    requests=$(for _ in {1..10}; do printf 'KV/1.0 LIST\nKV/1.0 STATS\n'; done)
    echo "$requests" >&"${fds[0]}"
    kill -s CONT "$PID"
    last=3001
    for _ in {1..10}; do
        hears "${fds[0]}" '200 OK'
        IFS= read -r -t 20 -u "${fds[0]}" line
        [[ $line =~ ^200\ OK\ keys=([0-9]+)\  ]]
        keys=${BASH_REMATCH[1]}
        [ $((last - keys)) -le 500 ] || { echo "from $last to $keys" >&2; return 1; }
        last=$keys
    done
    [ "$last" -lt 3001 ]
    hang_up "${fds[@]}"
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
    }' | talk >/dev/null
    # Nobody asks for a key: it is the order of the deadlines that makes them go.
    wanted=$(cat "$BATS_TEST_TMPDIR/left")
    [ "$wanted" -gt 500 ]
    [ "$(stat keys)" -gt "$wanted" ]
    just() { [ "$(stat keys)" -le "$wanted" ]; }
    wait_until 20 just
    [ "$(stat keys)" = "$wanted" ]
}

@test "deadlines far off do not keep the server busy" {
    serve
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 300000000'
    second
    instrumented || [ "$(ps -o cputimes= -p "$PID")" -le 1 ]
    [ "$(stat keys)" = 1 ]
}

@test "--private: a deadline in a store of one's own" {
    serve --private
    connect; one=$FD
    says "$one" 'KV/1.0 PUT k v' '201 CREATED'
    says "$one" 'KV/1.0 EXPIRE k 1' '200 OK'
    second
    over() { says "$one" 'KV/1.0 GET k' '404 NOT_FOUND' 2>/dev/null; }
    wait_until 10 over
    hang_up "$one"
}

@test "deadlines and a model: 20,000 random commands on 50 keys" {
    serve --quiet
    # Deadlines of a thousand seconds and more, so that TTL says which is which; none comes.
    awk -v file="$BATS_TEST_TMPDIR/wanted" 'BEGIN {
        srand(7)
        for (i = 0; i < 20000; i++) {
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

@test "keys go in the order of their deadlines" {
    serve
    for i in 3 1 4 2 5; do echo "KV/1.0 PUT k$i v"; echo "KV/1.0 EXPIRE k$i $i"; done | talk >/dev/null
    # Asked for all five at once, again and again: those that are gone are the first ones.
    left=5
    while [ "$left" -gt 0 ]; do
        seq -f 'KV/1.0 GET k%.0f' 5 | talk >"$BATS_TEST_TMPDIR/five"
        left=$(grep -c '^200 OK v$' "$BATS_TEST_TMPDIR/five" || :)
        cmp "$BATS_TEST_TMPDIR/five" <(yes '404 NOT_FOUND' | head -n $((5 - left)); yes '200 OK v' | head -n "$left")
    done
}

@test "kvss_client: expire and ttl" {
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
