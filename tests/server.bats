#!/usr/bin/env bats
# The server as its operator sees it: the command line, the log, signals, limits.

load helper

BYE='200 OK bye'

# hold NAME: opens a connection and keeps it open; what the server sends goes to the file NAME. Its
# other end is descriptor 9, which a test writes to and closes.
hold() {
    mkfifo "$BATS_TEST_TMPDIR/$1.fifo"
    exec 9<>"$BATS_TEST_TMPDIR/$1.fifo"
    nc 127.0.0.1 "$PORT" <&9 >"$BATS_TEST_TMPDIR/$1" 3>&- 9>&- &
    HOLDER=$!
}

release() {
    exec 9>&-
    kill "$HOLDER" 2>/dev/null || :
    wait "$HOLDER" || :
}

# fails STATUS MESSAGE WORD...: kvss with these words ends so, having said just this.
fails() {
    run timeout $((20 * PATIENCE)) "$KVSS" "${@:3}"
    printed "kvss: $2"
    [ "$status" = "$1" ]
}

@test "every way to say where to listen" {
    port() { sed -n '1s/.*://p' "$LOG"; }
    serve                       # --port 0, which takes a free one
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
    [[ $(head -n 1 "$LOG") =~ ^'kvss: listening on 127.0.0.2:'[0-9]+$ ]]
}

@test "IPv6: --host ::1" {
    serve 127.0.0.1 0
    serve --host ::1 || skip "this machine has no ::1"
    [[ $(head -n 1 "$LOG") =~ ^'kvss: listening on [::1]:'[0-9]+$ ]]
    run "$KVSS_CLIENT" --host ::1 --port "$PORT" quit
    printed "$BYE"
    grep -q ' connect \[::1\]:[0-9]*$' "$LOG"
}

# bats test_tags=glibc
@test "a port in use, an address of somebody else, an unknown name: one line, status 1" {
    serve
    fails 1 "127.0.0.1, port $PORT: Address already in use" "$PORT"
    fails 1 '192.0.2.1, port 9000: Cannot assign requested address' 192.0.2.1 9000
    run "$KVSS" nowhere.invalid 9000
    [ "$status" = 1 ]
    [[ $output == 'kvss: nowhere.invalid: '* ]]
    [ "${#lines[@]}" = 1 ]
}

@test "a bad command line: one line, status 2" {
    fails 2 "port: '65536' is not a number from 0 to 65535" 65536
    fails 2 "port: '+9' is not a number from 0 to 65535" -p +9
    fails 2 "port: 'http' is not a number from 0 to 65535" http
    fails 2 "port: '-1' is not a number from 0 to 65535" --port -1
    fails 2 "port: '' is not a number from 0 to 65535" --port=
    fails 2 "port: '90x' is not a number from 0 to 65535" -p 90x
    fails 2 "timeout: '99999999999999999999' is not a number from 0 to 1000000" -t 99999999999999999999
    fails 2 "max-clients: '0' is not a number from 1 to 1024" --max-clients 0
    # An empty name comes from a script whose variable is not set.
    fails 2 'host: HOST is empty' --host ''
    fails 2 'host: HOST is empty' '' 9000
    fails 2 'managers: FILE is empty' --managers ''
    fails 2 'managers: FILE is empty' --managers=
    fails 2 'data: FILE is empty' --data ''
    fails 2 'data: FILE is empty' -d ''
    fails 2 'fsync: WHEN is empty' --fsync ''
    fails 2 '--nonsense: no such option; see kvss --help' --nonsense
    fails 2 '--por: no such option; see kvss --help' --por 9000
    fails 2 '-x: no such option; see kvss --help' -x
    fails 2 '-: no such option; see kvss --help' -
    fails 2 '--port: PORT is missing' --port
    fails 2 '-p: PORT is missing' -p
    fails 2 '--verbose=yes: this option takes no value' --verbose=yes
    fails 2 '9: what comes after HOST and PORT?' 127.0.0.1 9000 9
}

@test "--help shows every option, its default and every request" {
    run "$KVSS" --help
    [ "$status" = 0 ]
    [ "${lines[0]}" = 'Usage: kvss [options] [[HOST] PORT]' ]
    [[ $output == *'-H, --host HOST '*'(127.0.0.1)'* ]]
    [[ $output == *'-p, --port PORT '*'(9000)'* ]]
    [[ $output == *'-t, --timeout SECONDS '*'(0)'* ]]
    [[ $output == *'-m, --max-clients N '* ]]
    [[ $output == *$'\n  KV/1.0 QUIT'* ]]
    [ "$output" = "$("$KVSS" -h)" ]
}

@test "--version" {
    run "$KVSS" --version
    [[ $output =~ ^'kvss '[0-9]+\.[0-9]+\.[0-9]+$ ]]
    [ "$output" = "$("$KVSS" -V)" ]
}

@test "--help on a full disk does not claim success" {
    [ -c /dev/full ] || skip "this system has no /dev/full"
    run bash -c '"$1" --help >/dev/full' - "$KVSS"
    [ "$status" = 1 ]
}

@test "the log: start, connect, disconnect, stop, each with its time" {
    serve
    ask 'KV/1.0 QUIT'
    stop "$PID"
    run cat "$LOG"
    time='[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z'
    [[ ${lines[0]} =~ ^'kvss: listening on 127.0.0.1:'[0-9]+$ ]]
    [[ ${lines[1]} =~ ^$time' start kvss '[0-9.]+$ ]]
    [[ ${lines[2]} =~ ^$time' connect 127.0.0.1:'([0-9]+)$ ]]
    [[ ${lines[3]} =~ ^$time" disconnect 127.0.0.1:${BASH_REMATCH[1]}"$ ]]
    [[ ${lines[4]} =~ ^$time' stop SIGTERM'$ ]]
    [[ ${lines[5]} =~ ^$time' goodbye'$ ]]
    [ "${#lines[@]}" = 6 ]
}

@test "--verbose logs every request and its reply" {
    serve --verbose
    ask 'KV/1.0 FROB' 'KV/1.0 QUIT'
    run sed -n 's/^[^ ]* \(request\|bad\|reply\) 127\.0\.0\.1:[0-9]* /\1 /p' "$LOG"
    printed "request KV/1.0 FROB
bad there is no such verb; verbs are upper case
reply 400 BAD_REQUEST
request KV/1.0 QUIT
reply $BYE"
}

@test "--quiet logs nothing but the address" {
    serve --quiet
    ask 'x' 'KV/1.0 QUIT'
    pid=$PID
    stop "$pid"
    run cat "$LOG"
    printed "kvss: listening on 127.0.0.1:$PORT"
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

@test "--timeout closes idle clients, and a byte now and then is no sign of life" {
    serve --timeout 1
    hold idle
    wait_until 20 grep -q ' disconnect .* idle$' "$LOG"
    release
    hold slow
    trickle() { printf x >&9 && [ "$(grep -c ' disconnect .* idle$' "$LOG")" = 2 ]; }
    wait_until 20 trickle
    release
}

# bats test_tags=timing
@test "--timeout does not touch a client that is busy" {
    serve --timeout 1
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    # Busy for as long as it takes until two idle ones, one after the other, were closed.
    for n in 1 2; do
        exec 7<>"/dev/tcp/127.0.0.1/$PORT"
        busy() {
            echo 'KV/1.0 GET k' >&8
            read -r -u 8 line && [ "$line" = '404 NOT_FOUND' ]
            [ "$(grep -c ' idle$' "$LOG")" = "$n" ]
        }
        wait_until 20 busy
        exec 7>&-
    done
    busy
    exec 8>&-
}

@test "without --timeout nobody is closed for being idle" {
    serve
    hold patient
    wait_until 10 grep -q ' connect ' "$LOG"
    # A client of another server tells when a second has gone by.
    serve -t 1
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    wait_until 20 grep -q ' idle$' "$LOG"
    exec 8>&-
    echo 'KV/1.0 QUIT' >&9
    wait_until 10 grep -q "$BYE" "$BATS_TEST_TMPDIR/patient"
    release
}

@test "SIGTERM and SIGINT: goodbye, status 0" {
    for signal in TERM INT; do
        # A shell without job control starts background commands with SIGINT ignored; kvss is not
        # to care, since nobody asked it to.
        serve
        hold "client.$signal"
        wait_until 10 grep -q ' connect ' "$LOG"
        stop "$PID" "$signal"
        release
        grep -q " stop SIG$signal\$" "$LOG"
        grep -q ' goodbye$' "$LOG"
    done
}

@test "a signal to stop: what has arrived is answered first" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    for signal in TERM INT; do
        serve
        kill -s STOP "$PID"
        { seq 1 1000 | sed 's/.*/KV\/1.0 FROB/' | talk >"$BATS_TEST_TMPDIR/replies"; } 3>&- &
        talker=$!
        # The kernel takes the connection and its 12,000 bytes, while the server sleeps.
        arrived() { [ "$(ss -tnH "sport = :$PORT" | awk '{ print $2 }')" -ge 12000 ]; }
        wait_until 10 arrived
        kill -s $signal "$PID"
        kill -s CONT "$PID"
        ended "$PID"
        wait "$talker"
        [ "$(grep -c '^400 BAD_REQUEST$' "$BATS_TEST_TMPDIR/replies")" = 1000 ]
        grep -q " stop SIG$signal\$" "$LOG"
    done
}

@test "a signal to stop is seen under load" {
    serve --quiet
    load=()
    for _ in {1..6}; do
        (yes 'KV/1.0 GET k' | timeout 600 nc 127.0.0.1 "$PORT" >/dev/null 2>&1) 3>&- &
        load+=($!)
    done
    busy() { [ "$(ask 'KV/1.0 STATS' | sed 's/.*served=//')" -gt 100000 ]; }
    wait_until 20 busy
    stop "$PID"
    wait "${load[@]}" || :
}

# bats test_tags=timing
@test "a signal to stop: requests that wait for a slow reader are answered, too" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    value=$(head -c 1000 /dev/zero | tr '\0' x)
    ask "KV/1.0 PUT k $value"
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    kill -s STOP "$PID"
    yes 'KV/1.0 GET k' | head -n 4000 >&8
    arrived() { [ "$(ss -tnH "sport = :$PORT" | awk '{ print $2 }' | sort -n | tail -n 1)" -ge 52000 ]; }
    wait_until 10 arrived
    kill -s TERM "$PID"
    kill -s CONT "$PID"
    wait_until 10 grep -q ' stop SIGTERM$' "$LOG"
    timeout 200 head -c $((4000 * 1008)) <&8 | cmp - <(yes "200 OK $value" | head -n 4000)
    exec 8>&-
    ended "$PID"
}

@test "a signal to stop: a client idle for long gets its time to close, too" {
    serve
    hold idle
    wait_until 10 grep -q ' connect ' "$LOG"
    pid=$PID log=$LOG
    # A client of another server tells when a second has gone by.
    serve -t 1
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    wait_until 20 grep -q ' idle$' "$LOG"
    exec 8>&-
    kill -s TERM "$pid"
    wait_until 10 grep -q ' stop SIGTERM$' "$log"
    release
    ended "$pid"
    grep -q ' disconnect 127\.0\.0\.1:[0-9]*$' "$log" # it closed; it was not cut off
}

@test "a signal to stop: half a request is not answered" {
    serve
    hold half
    printf 'KV/1.0 GET' >&9
    arrived() { [[ $(ask 'KV/1.0 STATS all') =~ bytes_in=([0-9]+) ]] && [ $((BASH_REMATCH[1] % 17)) = 10 ]; }
    wait_until 10 arrived
    stop "$PID"
    release
    [ ! -s "$BATS_TEST_TMPDIR/half" ]
}

@test "a signal to stop: a client that does not read can't prevent it" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    (yes 'KV/1.0 FROB' 2>/dev/null | head -c 50000000 >&8) 2>/dev/null 3>&- &
    writer=$!
    blocked() { [ "$(ss -tnH "sport = :$PORT" | awk '{ print ($3 > 0) }')" = 1 ]; }
    wait_until 20 blocked
    start=$SECONDS
    stop "$PID"
    [ $((SECONDS - start)) -le 100 ]
    kill $writer 2>/dev/null || :
    exec 8>&-
}

@test "--quit-stops-server: QUIT ends the server, with status 0" {
    serve --quit-stops-server
    run ask 'KV/1.0 QUIT' 'x'
    printed "$BYE"
    ended "$PID"
    grep -q ' stop QUIT$' "$LOG"
    grep -q ' goodbye$' "$LOG"
}

@test "--max-clients: one more is told 503 and closed, the others go on" {
    serve --max-clients 1
    hold first
    wait_until 10 grep -q ' connect ' "$LOG"
    run timeout 600 nc 127.0.0.1 "$PORT" </dev/null
    printed '503 SERVICE_UNAVAILABLE'
    echo 'KV/1.0 QUIT' >&9
    wait_until 10 grep -q "$BYE" "$BATS_TEST_TMPDIR/first"
    release
    wait_until 10 grep -q ' disconnect ' "$LOG"
    run ask 'KV/1.0 QUIT'
    printed "$BYE"
    grep -q ' refuse 127\.0\.0\.1:[0-9]* no room for one more client$' "$LOG"
}

# limited WORD...: kvss, with no more than 16 descriptors. To be run in a shell of its own.
limited() {
    ulimit -n 16
    exec "$ROOT/kvss" "$@"
}

@test "no descriptor left: 503, the others go on, and the server does not spin" {
    KVSS=limited serve
    room=$(sed -n 's/^kvss: ulimit -n 16 leaves room for \([1-9]\) clients$/\1/p' "$LOG")
    fds=()
    for _ in {1..20}; do
        exec {fd}<>"/dev/tcp/127.0.0.1/$PORT"
        fds+=("$fd")
    done
    all() { [ "$(grep -c ' refuse ' "$LOG")" = $((20 - room)) ]; }
    wait_until 10 all
    read -r -u "${fds[19]}" line
    [ "$line" = '503 SERVICE_UNAVAILABLE' ]
    echo 'KV/1.0 QUIT' >&"${fds[0]}"
    read -r -u "${fds[0]}" line
    [ "$line" = "$BYE" ]
    for fd in "${fds[@]}"; do exec {fd}>&-; done
    run ask 'KV/1.0 QUIT'
    printed "$BYE"
    instrumented || [ "$(ps -o cputimes= -p "$PID")" -le 1 ]
}

@test "ulimit -n: raised as far as it can be; too few is said at the start" {
    if instrumented; then skip "valgrind has descriptors of its own"; fi
    limit=$(ulimit -Sn)
    ulimit -Sn 16
    serve
    ulimit -Sn "$limit"
    [ "$(grep -c '^kvss: ulimit' "$LOG")" = 0 ]
    KVSS=limited serve --max-clients 3
    [ "$(grep -c '^kvss: ulimit' "$LOG")" = 0 ]
    # shellcheck disable=SC2016 # that shell expands it
    run bash -c 'ulimit -n 11; "$1" --port 0' - "$KVSS"
    [ "$status" = 1 ]
    [ "${lines[-1]}" = 'kvss: ulimit -n 11 leaves no room for a client' ]
}

@test "started with so many files open that select() could not wait for it: one line, status 1" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    # shellcheck disable=SC2016 # that shell expands them
    run timeout 200 bash -c 'exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3
        for _ in {10..1100}; do exec {fd}<&3; done; exec "$1" --port 0' - "$KVSS"
    [ "$status" = 1 ]
    [ "${lines[-1]}" = 'kvss: too many files are open already' ]
}

@test "a client that leaves before its replies does no harm" {
    serve
    for _ in {1..20}; do
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"
        seq 1 2000 >&8
        exec 8>&-
    done
    run ask 'KV/1.0 QUIT'
    printed "$BYE"
}

@test "requests after QUIT, still on their way, don't destroy the reply" {
    serve --quiet
    after=$(head -c 100000 /dev/zero | tr '\0' x)
    for _ in {1..30}; do
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"
        echo 'KV/1.0 QUIT' >&8
        printf '%s' "$after" >&8
        read -r -u 8 line
        [ "$line" = "$BYE" ]
        printf '%s' "$after" >&8 # fails where the connection has been reset
        exec 8>&-
    done
}

@test "stdin, stdout and stderr closed: no client gets the log" {
    serve
    port=$PORT
    stop "$PID"
    "$KVSS" --verbose "$port" <&- >&- 2>&- 3>&- &
    SERVERS+=($!)
    PORT=$port
    up() { [ "$(ask 'KV/1.0 QUIT')" = "$BYE" ]; }
    wait_until 10 up
    run ask 'KV/1.0 FROB' 'KV/1.0 FROB' 'KV/1.0 QUIT'
    printed "400 BAD_REQUEST
400 BAD_REQUEST
$BYE"
}

@test "a log whose reader sleeps does not stop the service" {
    serve
    port=$PORT
    stop "$PID"
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    exec 7<>"$BATS_TEST_TMPDIR/fifo" # nobody reads it, and it is never closed
    "$KVSS" --verbose "$port" 2>&7 3>&- 7>&- &
    SERVERS+=($!)
    PORT=$port
    up() { [ "$(ask 'KV/1.0 QUIT')" = "$BYE" ]; }
    wait_until 10 up
    [ "$(seq 1 5000 | talk | grep -c '^426 UPGRADE_REQUIRED$')" = 5000 ]
    up
    exec 7>&-
}

@test "a log that nobody reads does not stop the service" {
    serve
    port=$PORT
    stop "$PID"
    "$KVSS" --verbose "$port" 2> >(:) 3>&- &
    SERVERS+=($!)
    PORT=$port
    up() { [ "$(ask 'KV/1.0 QUIT')" = "$BYE" ]; }
    wait_until 10 up
}
