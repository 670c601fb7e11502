#!/usr/bin/env bats
# The server as its operator sees it: the command line, the log, time limits, signals, and a full house.
# What clients can do to it by being many or greedy is in limits.bats.

load helper
load watch

BYE='200 OK bye'

# fails STATUS TEXT WORD...: kvss with these words ends so, in one line with this text, a pattern.
fails() {
    run timeout "$PATIENCE" "$KVSS" "${@:3}"
    [[ $status = "$1" && ${#lines[@]} = 1 && $output == "kvss: "*$2* ]] || same "$1: kvss: $2" "$status: $output"
}

# enters NAME: connects, and waits until it's served.
enters() {
    connect "$1"
    says "$1" 'KV/1.0 GET nobody'
    hears "$1" '404 NOT_FOUND'
}

# bytes_in N: whether the server has read so many bytes, not counting this STATS all.
bytes_in() {
    stat bytes_in
    [ $((STAT - 17 * ++ASKED)) -ge "$1" ]
}

@test "every way to say where to listen" {
    serve # --port 0, which takes a free one
    first=$PORT
    [ "$first" -gt 0 ]
    stop "$PID"
    for words in "$first" "127.0.0.2 $first" "-H 127.0.0.2 -p $first" "-p$first" \
        "--host 127.0.0.1 --port $first" "--host=127.0.0.1 --port=$first" "localhost $first"; do
        # shellcheck disable=SC2086 # split into words
        serve $words
        [ "$PORT" = "$first" ]
        stop "$PID"
    done
    serve 127.0.0.2 0
    [[ $(<"$LOG")$'\n' =~ ^'kvss: listening on 127.0.0.2:'[0-9]+$'\n' ]]
}

@test "IPv6: --host ::1" {
    serve --host ::1 || skip "this machine has no ::1"
    [[ $(<"$LOG")$'\n' =~ ^'kvss: listening on [::1]:'[0-9]+$'\n' ]]
    run "$KVSS_CLIENT" --host ::1 --port "$PORT" quit
    printed "$BYE"
    grep -q ' connect \[::1\]:[0-9]*$' "$LOG"
}

# bats test_tags=glibc
@test "a port in use, an address of somebody else, an unknown name: one line, status 1" {
    serve
    fails 1 "127.0.0.1*$PORT*Address already in use" "$PORT"
    fails 1 '192.0.2.1*9000*Cannot assign requested address' 192.0.2.1 9000
    fails 1 'nowhere.invalid: ' nowhere.invalid 9000
}

@test "a bad command line: one line, status 2" {
    fails 2 "port: '65536'*65535" 65536
    fails 2 "port: '+9'" -p +9
    fails 2 "port: 'http'" http
    fails 2 "port: '-1'" --port -1
    fails 2 "port: ''" --port=
    fails 2 "port: '90x'" -p 90x
    fails 2 "timeout: '99999999999999999999'" -t 99999999999999999999
    fails 2 "max-clients: '0'" --max-clients 0
    # An empty name comes from a script whose variable is not set.
    fails 2 'host: *empty' --host ''
    fails 2 'host: *empty' '' 9000
    fails 2 'host: *empty' --host=
    fails 2 'host: *empty' -H ''
    fails 2 '--nonsense: no such option' --nonsense
    fails 2 '--por: no such option' --por 9000
    fails 2 '-x: no such option' -x
    fails 2 '-: no such option' -
    fails 2 '--port: *missing' --port
    fails 2 '-p: *missing' -p
    fails 2 '--verbose=yes: *no value' --verbose=yes
    fails 2 '9: ' 127.0.0.1 9000 9
}

# bats test_tags=beyond
@test "a bad command line: the name of a file is empty" {
    fails 2 'managers: *empty' --managers ''
    fails 2 'managers: *empty' --managers=
    fails 2 'data: *empty' --data ''
    fails 2 'data: *empty' -d ''
    fails 2 'fsync: *empty' --fsync ''
}

@test "--help shows options, their defaults and requests; --version the version; a full disk is no success" {
    run "$KVSS" --help
    [ "$status" = 0 ]
    [ "${lines[0]}" = 'Usage: kvss [options] [[HOST] PORT]' ]
    [[ $output == *'-H, --host HOST '*'(127.0.0.1)'* ]]
    [[ $output == *'-p, --port PORT '*'(9000)'* ]]
    [[ $output == *'-t, --timeout SECONDS '*'(0)'* ]]
    [[ $output == *'-m, --max-clients N '* ]]
    [[ $output == *$'\n  KV/1.0 QUIT'* ]]
    [ "$output" = "$("$KVSS" -h)" ]
    run "$KVSS" --version
    [[ $output =~ ^'kvss '[0-9]+\.[0-9]+\.[0-9]+$ ]]
    [ "$output" = "$("$KVSS" -V)" ]
    [ -c /dev/full ] || skip "this system has no /dev/full"
    # shellcheck disable=SC2016 # that shell expands it
    run -1 bash -c '"$1" --help >/dev/full' - "$KVSS"
}

@test "the log: start, connect, disconnect, stop, each with its time; with --quiet the address alone" {
    serve
    ask 'KV/1.0 QUIT'
    stop "$PID"
    mapfile -t lines <"$LOG"
    time='[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z'
    [[ ${lines[0]} =~ ^'kvss: listening on 127.0.0.1:'[0-9]+$ ]]
    [[ ${lines[1]} =~ ^$time' start kvss '[0-9.]+$ ]]
    [[ ${lines[2]} =~ ^$time' connect 127.0.0.1:'([0-9]+)$ ]]
    [[ ${lines[3]} =~ ^$time" disconnect 127.0.0.1:${BASH_REMATCH[1]}"$ ]]
    [[ ${lines[4]} =~ ^$time' stop SIGTERM'$ ]]
    [[ ${lines[5]} =~ ^$time' goodbye'$ ]]
    [ "${#lines[@]}" = 6 ]
    serve --quiet
    ask 'x' 'KV/1.0 QUIT'
    stop "$PID"
    same "kvss: listening on 127.0.0.1:$PORT" "$(<"$LOG")"
}

@test "--verbose logs every request and its reply" {
    serve --verbose
    ask 'KV/1.0 FROB' 'KV/1.0 QUIT'
    run sed -n 's/^[^ ]* \(request\|bad\|reply\) 127\.0\.0\.1:[0-9]* /\1 /p' "$LOG"
    [ "${lines[0]}" = 'request KV/1.0 FROB' ]
    [[ ${lines[1]} == 'bad '*verb* ]]
    [ "${lines[2]}" = 'reply 400 BAD_REQUEST' ]
    [ "${lines[3]}" = 'request KV/1.0 QUIT' ]
    [ "${lines[4]}" = "reply $BYE" ]
}

@test "no client can forge a line of the log, or reach the terminal that shows it" {
    serve -v
    printf 'a\rb\x1b[31mc\x7f\\d\t\xc2\x9be\n\xffx\nth\xc3\xa0nh \xc2\xa3\n%05000d\n' 0 | talk
    run sed -n 's/^[^ ]* request 127\.0\.0\.1:[0-9]* //p' "$LOG"
    [ "${lines[0]}" = 'a\x0Db\x1B[31mc\x7F\x5Cd\x09\xC2\x9Be' ]
    [ "${lines[1]}" = '\xFFx' ]
    [ "${lines[2]}" = $'th\xc3\xa0nh \xc2\xa3' ]
    [[ ${lines[3]} =~ ^0{1900,2048}\.\.\.$ ]]
}

# bats test_tags=timing
@test "--timeout closes idle clients in time, those too who send a byte now and then, and no busy one; without it nobody" {
    serve
    enters patient
    serve --timeout 2
    enters busy
    enters slow
    connect idle
    wait_until logged ' connect ' 3
    uptime() { says busy 'KV/1.0 STATS' && next busy && [[ $LINE =~ uptime=([0-9]+)s ]]; }
    uptime
    # They have two seconds by the server's clock. In the third second from now on these are over.
    end=$((BASH_REMATCH[1] + 3))
    until uptime && [ "${BASH_REMATCH[1]}" -ge $end ]; do printf x >&"${TO[slow]}" || :; done
    for _ in {1..50}; do uptime; done # not every turn is about all clients
    [ "$(grep -c ' disconnect .* idle$' "$LOG")" = 2 ]
    closed idle
    closed slow
    says patient 'KV/1.0 GET nobody'
    hears patient '404 NOT_FOUND'
}

# When the server ends its own direction of a connection, nc leaves, unless it takes a second for that.
@test "after QUIT and at a stop, clients are told at once, and get time to close" {
    leave() {
        serve
        enters quitting
        enters other
        says quitting 'KV/1.0 QUIT'
        hears quitting "$BYE"
        closed quitting
        wait_until logged ' disconnect '
        kill -s TERM "$PID"
        closed other
        ended "$PID"
        hang_up quitting other
        [ "$(grep -c ' disconnect 127\.0\.0\.1:[0-9]*$' "$LOG")" = 2 ] # they closed; they were not cut off
    }
    wait_until leave
}

# A shell without job control starts background commands with SIGINT ignored; kvss is not to care,
# since nobody asked it to.
@test "SIGTERM and SIGINT: goodbye, status 0, and half a request is not answered" {
    for signal in TERM INT; do
        serve
        connect "$signal"
        printf 'KV/1.0 GET' >&"${TO[$signal]}"
        ASKED=0
        wait_until bytes_in 10
        kill -s "$signal" "$PID"
        pids+=("$PID") logs+=("$LOG")
    done
    for i in 0 1; do
        ended "${pids[i]}"
        LOG=${logs[i]}
        logged ' goodbye'
    done
    logged ' stop SIGINT'
    LOG=${logs[0]}
    logged ' stop SIGTERM'
    closed TERM
    closed INT
}

@test "a signal to stop: what has arrived is answered first" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    for signal in TERM INT; do
        serve
        freeze "$PID"
        seq 1 1000 | sed 's/.*/KV\/1.0 FROB/' >"$BATS_TEST_TMPDIR/requests"
        talk <"$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/replies" 3>&- &
        talker=$!
        # The kernel takes the connection and its 12,000 bytes, while the server sleeps.
        wait_until arrived 12000
        kill -s $signal "$PID"
        kill -s CONT "$PID"
        ended "$PID"
        wait "$talker"
        [ "$(grep -c '^400 BAD_REQUEST$' "$BATS_TEST_TMPDIR/replies")" = 1000 ]
        logged " stop SIG$signal"
    done
}

# bats test_tags=timing
@test "a signal to stop: requests that wait for a slow reader are answered, too" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    printf -v value '%01000d' 0
    replies "KV/1.0 PUT k $value" '201 CREATED'
    enters slow
    freeze "$PID"
    yes 'KV/1.0 GET k' | head -n 4000 >&"${TO[slow]}"
    wait_until arrived 52000
    kill -s TERM "$PID"
    kill -s CONT "$PID"
    wait_until logged ' stop SIGTERM'
    timeout "$PATIENCE" head -c $((4000 * 1008)) <&"${FROM[slow]}" | cmp - <(yes "200 OK $value" | head -n 4000)
    hang_up slow
    ended "$PID"
}

@test "a signal to stop is seen under load" {
    serve --quiet
    for _ in {1..6}; do
        (yes 'KV/1.0 GET k' | timeout "$PATIENCE" nc 127.0.0.1 "$PORT" >/dev/null 2>&1) 3>&- &
        load+=($!)
    done
    busy() { [[ $(ask 'KV/1.0 STATS') =~ served=([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -gt 20000 ]; }
    wait_until busy
    stop "$PID"
    wait "${load[@]}" || :
}

@test "a signal to stop: a client that does not read can't prevent it" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    printf -v value '%060000d' 0
    replies "KV/1.0 PUT big $value" '201 CREATED'
    enters greedy
    yes 'KV/1.0 GET big' | head -n 2000 >&"${TO[greedy]}" # 120 MB of replies
    blocked() { [ "$(ss -tnH "sport = :$PORT" | awk '{ print ($3 > 0) }')" = 1 ]; }
    wait_until blocked
    start=$SECONDS
    stop "$PID"
    [ $((SECONDS - start)) -le 100 ]
}

@test "--quit-stops-server: QUIT ends the server, with status 0" {
    serve --quit-stops-server
    run ask 'KV/1.0 QUIT' 'x'
    printed "$BYE"
    ended "$PID"
    logged ' stop QUIT'
    logged ' goodbye'
}

@test "--max-clients: one more is told 503 and closed, the others go on" {
    serve --max-clients 1
    enters first
    connect second
    hears second '503 SERVICE_UNAVAILABLE'
    closed second
    says first 'KV/1.0 QUIT'
    hears first "$BYE"
    hang_up first
    wait_until logged ' disconnect '
    replies 'KV/1.0 QUIT' "$BYE"
    grep -q ' refuse 127\.0\.0\.1:[0-9]* ' "$LOG"
}

# limited [OPTION...]: a server that has no more than 16 descriptors.
limited() {
    printf '#!/bin/sh\nulimit -n 16\nexec "%s" "$@"\n' "$KVSS" >"$BATS_TEST_TMPDIR/limited"
    chmod +x "$BATS_TEST_TMPDIR/limited"
    KVSS=$BATS_TEST_TMPDIR/limited serve "$@"
}

# bats test_tags=beyond, limits, roles
@test "no descriptor left: 503, the others go on, and the server does not spin" {
    if grep -q '^#!' "$KVSS"; then skip "valgrind has descriptors of its own"; fi
    limited --private # AddressSanitizer sees whether the stores of those who are refused are freed
    [[ $(<"$LOG") =~ 'kvss: ulimit -n 16 '[^$'\n']*' '([1-9]+)' clients' ]]
    room=${BASH_REMATCH[1]}
    for ((i = 1; i <= room; i++)); do enters "$i"; done
    for ((; i <= 20; i++)); do
        connect "$i"
        hears "$i" '503 SERVICE_UNAVAILABLE'
        closed "$i"
    done
    logged ' refuse ' $((20 - room))
    says 1 'KV/1.0 QUIT'
    hears 1 "$BYE"
    closed 1
    wait_until logged ' disconnect '
    replies 'KV/1.0 QUIT' "$BYE"
    instrumented || [ "$(ps -o cputimes= -p "$PID")" -le 1 ]
}

# bats test_tags=beyond, limits
@test "ulimit -n: raised as far as it can be; too few is said at the start" {
    if instrumented; then skip "valgrind has descriptors of its own"; fi
    limit=$(ulimit -Sn)
    ulimit -Sn 16
    serve
    ulimit -Sn "$limit"
    run ! logged 'kvss: ulimit'
    limited --max-clients 3
    run ! logged 'kvss: ulimit'
    # shellcheck disable=SC2016 # that shell expands it
    run -1 bash -c 'ulimit -n 11; "$1" --port 0' - "$KVSS"
    [[ ${lines[-1]} == 'kvss: ulimit -n 11 '* ]]
}

@test "started with so many files open that select() could not wait for it: one line, status 1" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    # shellcheck disable=SC2016 # that shell expands them
    run -1 timeout "$PATIENCE" bash -c 'exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3
        for _ in {10..1100}; do exec {fd}<&3; done; exec "$1" --port 0' - "$KVSS"
    [[ ${lines[-1]} == 'kvss: too many files'* ]]
}

# The first 32 KB of replies tell the server that the client has gone. It has more to send.
@test "a client that leaves before it has read its replies does no harm" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    printf -v value '%01000d' 0
    replies "KV/1.0 PUT k $value" '201 CREATED'
    freeze "$PID"
    connect ann
    yes 'KV/1.0 GET k' | head -n 100 >&"${TO[ann]}"
    wait_until arrived 1300
    hang_up ann
    kill -s CONT "$PID"
    wait_until logged ' disconnect ' 2
    replies 'KV/1.0 QUIT' "$BYE"
}

@test "requests after QUIT, still on their way, don't destroy the reply" {
    serve --quiet
    printf -v after '%0100000d' 0
    for i in {1..10}; do
        connect "$i"
        says "$i" 'KV/1.0 QUIT' "$after" || : # some ncs leave with the server
        hears "$i" "$BYE"
        says "$i" "$after" || [ "$NC_CLOSE" != -N ] # fails where the connection has been reset
        hang_up "$i"
    done
}

# up: whether a server at PORT, whose first line can't be read, answers.
up() {
    [ "$(ask 'KV/1.0 QUIT' 2>/dev/null)" = "$BYE" ]
}

@test "stdin, stdout and stderr closed: no client gets the log" {
    serve
    stop "$PID"
    "$KVSS" --verbose "$PORT" <&- >&- 2>&- 3>&- &
    SERVERS[$!]=$!
    wait_until up
    replies 'KV/1.0 FROB' '400 BAD_REQUEST' \
            'KV/1.0 FROB' '400 BAD_REQUEST' \
            'KV/1.0 QUIT' "$BYE"
}

@test "diagnostics that nobody reads do not stop the service, and those that were dropped are counted" {
    serve
    stop "$PID"
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    exec 7<>"$BATS_TEST_TMPDIR/fifo" # nobody reads it
    "$KVSS" --verbose "$PORT" 2>&7 3>&- 7>&- &
    # shellcheck disable=SC2034 # teardown ends it
    SERVERS[$!]=$!
    wait_until up
    [ "$(seq 1 5000 | talk | grep -c '^426 UPGRADE_REQUIRED$')" = 5000 ]
    up
    # The reader wakes up: the next line says how many it has missed.
    while read -r -t 0 -u 7; do read -r -u 7; done
    up
    read -r -t 120 -u 7
    [[ $REPLY =~ ^[0-9TZ:.-]+' ('[1-9][0-9]*' lines dropped) connect 127.0.0.1:'[0-9]+$ ]]
    exec 7>&- # the reader has gone
    [ "$(seq 1 1000 | talk | grep -c '^426 UPGRADE_REQUIRED$')" = 1000 ]
    up
}
