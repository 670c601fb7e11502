#!/usr/bin/env bats
# kvss_client, once and in batches: what it sends, prints, and ends with.
# Its prompt has a file of its own, prompt.bats.

load helper

client() {
    "$KVSS_CLIENT" --port "$PORT" "$@"
}

# pretend TEXT: a server that says just this, whatever it's asked, and closes. Sets PORT and NC[server].
pretend() {
    [ "$NC_LISTEN" ] || skip "this nc can't listen on 127.0.0.1 only"
    serve
    stop "$PID"
    printf '%s' "$1" >"$BATS_TEST_TMPDIR/said"
    : >"$LOG"
    # shellcheck disable=SC2086 # words
    nc -v ${NC_CLOSE:+"$NC_CLOSE"} $NC_LISTEN "$PORT" <"$BATS_TEST_TMPDIR/said" >"$BATS_TEST_TMPDIR/heard" 2>"$LOG" 3>&- &
    wait_until logged 'istening on '
}

# gives STATUS OUTPUT WORD...: the client with these words ends so, having printed just this.
gives() {
    run client "${@:3}"
    printed "$2"
    [ "$status" = "$1" ]
}

@test "once: each command, its reply and its exit status" {
    serve
    gives 0 '201 CREATED' put foo bar
    gives 0 '200 OK' put foo baz
    gives 0 '200 OK baz' get foo
    gives 0 '204 NO_CONTENT' del foo
    gives 1 '404 NOT_FOUND' get foo
    gives 1 '404 NOT_FOUND' DEL foo
    run client Stats
    [[ $output =~ ^'200 OK keys=0 uptime='[0-9]+'s served=7'$ ]]
    gives 0 '200 OK bye' quit
    gives 1 '400 BAD_REQUEST' get
    gives 1 '400 BAD_REQUEST' frob x
    gives 1 '426 UPGRADE_REQUIRED' KV/2.0 get
}

@test "once: HOST and PORT may come first" {
    serve
    gives 0 '201 CREATED' put mykey 5050
    run "$KVSS_CLIENT" 127.0.0.1 "$PORT" GET mykey
    printed '200 OK 5050'
    run "$KVSS_CLIENT" --host 127.0.0.1 --port="$PORT" get mykey
    printed '200 OK 5050'
    run "$KVSS_CLIENT" -H localhost -p"$PORT" get mykey
    printed '200 OK 5050'
}

@test "once: of a name's addresses, the first that answers" {
    getent ahosts localhost 2>&1 | grep -q '^::1 ' || skip "localhost is not ::1 on this machine"
    serve --host ::1
    gives 1 '404 NOT_FOUND' --host localhost get k
    serve
    gives 1 '404 NOT_FOUND' --host localhost get k
}

@test "once: no limit of time, words that begin with a dash, and what is almost a version" {
    serve
    gives 1 '404 NOT_FOUND' --timeout 0 get k
    gives 1 '404 NOT_FOUND' -- get k
    gives 1 '403 FORBIDDEN' manage 123
    for words in - 'fr{}b x' 'KV/x get k' '/1.0 get k'; do
        # shellcheck disable=SC2086 # words
        run client $words
        [[ $status = 1 && $output = 40[05]' '* ]] # 405 is lab 4's
    done
}

@test "once: a value of many words, with spaces, or of any byte" {
    serve
    gives 0 '201 CREATED' put name John Smith
    gives 0 '200 OK John Smith' get name
    gives 0 '200 OK' put name '  John  '
    gives 0 '200 OK   John  ' get name
    gives 0 '200 OK' put name --host
    gives 0 '200 OK --host' get name
    gives 0 '200 OK' put name 'Nguyễn Văn A'
    gives 0 '200 OK Nguyễn Văn A' get name
}

@test "once: the value - is read from standard input" {
    serve
    run client put k - <<<'from a pipe'
    printed '201 CREATED'
    gives 0 '200 OK from a pipe' get k
    run client put k - < <(printf '%*s' 65522 '' | tr ' ' x)
    printed '200 OK'
    [ "$(client --value get k | wc -c)" = 65523 ]
    run client put k - < <(printf '%*s' 65523 '' | tr ' ' x)
    [ "$status" = 2 ]
    run client put k - < <(printf 'two\nlines\n')
    [ "$status" = 2 ]
    run client put k - </dev/null
    [ "$status" = 2 ]
    gives 2 'kvss_client: standard input: Is a directory' put k - </
}

@test "once: what would break the line is refused before anything is sent" {
    serve --verbose
    gives 2 "kvss_client: 'a b' has a space in it, and only a value can" put 'a b' c
    gives 2 "kvss_client: 'put x' has a space in it, and only a value can" 'put x' y
    gives 2 'kvss_client: a line feed in an argument would end the request there' put a $'b\nKV/1.0 DEL c'
    gives 2 'kvss_client: a line feed in an argument would end the request there' get $'a\n'
    gives 2 'kvss_client: a carriage return at the end would be dropped' put a $'b\r'
    gives 2 'kvss_client: an empty argument: no field of a request can be empty' get ''
    long=$(printf '%*s' 65530 '' | tr ' ' x)
    too_long='kvss_client: that is longer than a request can be, 65536 bytes'
    gives 2 "$too_long" put k "$long"
    gives 2 "$too_long" put k "$long" "$long" y "$long" "$long" "$long"
    gives 2 "$too_long" put k "$long$long" "$long" yyyyyyyy
    gives 2 "$too_long" put k "$long${long}0123456789"
    gives 1 '404 NOT_FOUND' get it
    # That one came after all the others, and was the only one.
    [ "$(grep -c ' connect ' "$LOG")" = 1 ]
}

@test "--value prints the data of a 200, for scripts" {
    serve
    gives 0 '' --value put name 'a  b'
    name=$(client --value get name)
    [ "$name" = 'a  b' ]
    gives 0 '' --value del name
    run --separate-stderr client -v get name
    [ "$status" = 1 ]
    [ "$output" = '' ]
    # shellcheck disable=SC2154
    [ "$stderr" = '404 NOT_FOUND' ]
}

@test "no server: one line that says what to do, status 2" {
    serve
    port=$PORT
    stop "$PID"
    gives 2 "kvss_client: 127.0.0.1 port $port: Connection refused; is the server running? ./kvss $port starts it" get x
    run "$KVSS_CLIENT" -H nowhere.invalid get x
    [ "$status" = 2 ]
    [[ $output == 'kvss_client: nowhere.invalid: '* ]]
    # This is no address of a server, and connect() says so at once.
    run "$KVSS_CLIENT" -H 255.255.255.255 get x
    [ "$status" = 2 ]
    [[ $output == 'kvss_client: 255.255.255.255 port '* ]]
}

# bats test_tags=process, glibc
@test "no descriptor that select() can wait for: one line, status 2" {
    ulimit -n 1100 || skip "this shell may not have 1,024 descriptors"
    serve
    # Bash passes on descriptors from 10 on only to the command that they are named at.
    full() { eval '"$KVSS_CLIENT" --port "$PORT" "$@"' "$(printf '%d</dev/null ' {4..1023})"; }
    run full get x
    printed "kvss_client: 127.0.0.1 port $PORT: Too many open files; is the server running? ./kvss $PORT starts it"
    [ "$status" = 2 ]
}

# bats test_tags=glibc
@test "a server that lets nobody in: --timeout, status 2" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    pretend ''
    listener=$!
    # It sleeps; its queue of connections gets full, so that the next one's SYN is not answered.
    freeze "$listener"
    for i in {1..16}; do connect "$i"; done
    full() { ss -tlnH "sport = :$PORT" | awk '{ exit $2 <= $3 }'; }
    wait_until full
    gives 2 "kvss_client: 127.0.0.1 port $PORT: Connection timed out; is the server running? ./kvss $PORT starts it" --timeout 1 get x
    kill -s KILL "$listener"
    wait "$listener" || :
}

@test "a bad command line: one line, status 2" {
    PORT=1
    gives 2 'kvss_client: --nonsense: no such option; see kvss_client --help' --nonsense
    gives 2 'kvss_client: --port: PORT is missing' --port
    for port in x '' 9x -1 65536; do
        gives 2 "kvss_client: port: '$port' is not a number from 0 to 65535" -p "$port"
    done
    gives 2 'kvss_client: --value=1: this option takes no value' --value=1
    gives 2 'kvss_client: a command, or --file: not both' --file x get y
    gives 2 'kvss_client: /nonexistent: No such file or directory' --file /nonexistent
    serve
    gives 2 'kvss_client: cannot read the requests: Is a directory' --file /
}

@test "--help shows every option and the commands" {
    run "$KVSS_CLIENT" --help
    [ "$status" = 0 ]
    [ "$output" = "$("$KVSS_CLIENT" -h)" ]
    for option in --host --port --timeout --file --value --help --version; do
        [[ $output == *" $option"* ]]
    done
    for verb in put get del stats quit; do [[ $output == *$'\n'"  $verb"* ]]; done
    run "$KVSS_CLIENT" --version
    [[ $output =~ ^'kvss_client '[0-9.]+$ ]]
    [ "$output" = "$("$KVSS_CLIENT" -V)" ]
    [ "${output#kvss_client }" = "$("$KVSS" -V | sed 's/kvss //')" ]
}

@test "a server that says nothing: --timeout, status 2" {
    serve
    freeze "$PID"
    gives 2 'kvss_client: no reply in 1 s; --timeout sets how long to wait' --timeout 1 get x
    kill -s CONT "$PID"
}

@test "a server that is no kvss, or goes away: status 2" {
    pretend $'SSH-2.0-OpenSSH_9.2\r\n'
    gives 2 'kvss_client: what came is no reply of KV/1.0; is that kvss?' get x
    pretend $'2000 OK x\n'
    gives 2 'kvss_client: what came is no reply of KV/1.0; is that kvss?' get x
    pretend $'200-OK x\n'
    gives 2 'kvss_client: what came is no reply of KV/1.0; is that kvss?' get x
    pretend "$(printf '%4194305s' '' | tr ' ' x)"
    gives 2 'kvss_client: the reply does not end; is that a KV/1.0 server?' get x
    pretend ''
    gives 2 'kvss_client: the server closed the connection; 1 of 1 requests have no reply' quit
    pretend ''
    gives 2 'kvss_client: the server closed the connection; 1 of 1 requests have no reply' get x
    pretend '200 OK half of a re'
    gives 2 'kvss_client: the server closed the connection; 1 of 1 requests have no reply' get x
    [ "$(cat "$BATS_TEST_TMPDIR/heard")" = 'KV/1.0 GET x' ]
}

@test "replies that no kvss gives, and could" {
    pretend $'404\n'
    gives 1 '404' get x
    pretend $'100 MESSAGE bob\n100 MESSAGE bob hi\n200 OK x\n'
    gives 0 $'hi\nx' --value get x
}

@test "503: the reply is shown, status 1" {
    serve --max-clients 1
    connect first
    wait_until logged ' connect '
    gives 1 '503 SERVICE_UNAVAILABLE' get x
}

@test "batch: a request a line, replies in order, the worst decides the status" {
    serve
    run client <<<'put a 1
Get a
stats all all

KV/1.0 get a
KV/2.0 GET a
KV/1.0 GET a
get b'
    printed '201 CREATED
200 OK 1
400 BAD_REQUEST
400 BAD_REQUEST
426 UPGRADE_REQUIRED
200 OK 1
404 NOT_FOUND'
    [ "$status" = 1 ]
    run client < <(printf 'put b 2\r\nget b')
    printed $'201 CREATED\n200 OK 2'
    [ "$status" = 0 ]
    gives 0 '' </dev/null
    gives 0 '200 OK 2' <<<'  get b'
}

@test "batch: nothing is sent after QUIT" {
    serve
    run client <<<$'put a 1\nquit\nput b 2'
    printed $'201 CREATED\n200 OK bye'
    [ "$status" = 0 ]
    gives 1 '404 NOT_FOUND' get b
}

@test "batch: a server that leaves between two requests is no success" {
    serve
    coproc CLIENT { "$KVSS_CLIENT" --port "$PORT" 2>&1 3>&-; }
    pid=$CLIENT_PID
    exec {to}>&"${CLIENT[1]}" {from}<&"${CLIENT[0]}"
    echo 'put a 1' >&"$to"
    read -r -u "$from" reply
    [ "$reply" = '201 CREATED' ]
    stop "$PID"
    read -r -u "$from" reply
    [ "$reply" = 'kvss_client: the server closed the connection, and the requests from line 2 on were not sent' ]
    exec {to}>&-
    run wait "$pid"
}

# bats test_tags=process
@test "once: a closed stdin, stdout or stderr is not taken for the server" {
    serve --verbose
    gives 0 '201 CREATED' put k v <&-
    "$KVSS_CLIENT" --port "$PORT" get k >&- || :
    "$KVSS_CLIENT" --port "$PORT" get '' 2>&- || :
    "$KVSS_CLIENT" --port "$PORT" <&-
    [[ $(ask 'KV/1.0 STATS') =~ ^'200 OK keys=1 uptime='[0-9]+'s served=3'$ ]]
}

@test "batch: QUIT after CONNECT ends it at once" {
    serve
    run client <<<$'create bob\nconnect bob\nquit'
    printed $'201 CREATED\n200 OK 0\n200 OK bye'
    [ "$status" = 0 ]
}

@test "batch: a line that is too long ends it, and is named" {
    serve
    { echo 'put a 1'; printf '%*s\n' 70000 '' | tr ' ' x; echo 'put b 2'; } >"$BATS_TEST_TMPDIR/requests"
    run client --file "$BATS_TEST_TMPDIR/requests"
    [ "$status" = 2 ]
    [ "${lines[0]}" = 'kvss_client: line 2: that is longer than a request can be, 65536 bytes' ]
    [ "${lines[1]}" = '201 CREATED' ]
    head -c 1000000 /dev/zero | tr '\0' x >"$BATS_TEST_TMPDIR/requests"
    run client --file "$BATS_TEST_TMPDIR/requests"
    [ "$status" = 2 ]
    printed 'kvss_client: line 1: that is longer than a request can be, 65536 bytes'
}

@test "batch: 200,000 requests, 20 MB of replies, no deadlock" {
    serve
    value=$(printf '%*s' 100 '' | tr ' ' x)
    seq 1 100000 | sed "s/.*/put key& $value&/" >"$BATS_TEST_TMPDIR/requests"
    run bash -c '"$1" -p "$2" -f "$3" | sort | uniq -c' - "$KVSS_CLIENT" "$PORT" "$BATS_TEST_TMPDIR/requests"
    [[ $output =~ ^' '*'100000 201 CREATED'$ ]]
    seq 1 100000 | sed 's/.*/get key&/' | client --value | cmp - <(seq 1 100000 | sed "s/^/$value/")
}

@test "batch: long requests and long replies, whose reader is slow" {
    serve
    value=$(printf '%*s' 60000 '' | tr ' ' x)
    seq 1 200 | sed "s/.*/put key& $value/" | client >/dev/null
    # sort reads all of its input before it writes a line; wc is behind a pipe of 64 KiB.
    [ "$(seq 1 200 | sed 's/.*/get key&/' | client --value | (read -r _; cat) | wc -c)" = $((199 * 60001)) ]
}

@test "batch: a program can talk to it over pipes, line by line" {
    serve
    coproc CLIENT { client 3>&-; }
    for i in 1 2 3; do
        echo "put k $i" >&"${CLIENT[1]}"
        read -r -t "$PATIENCE" reply <&"${CLIENT[0]}"
        [[ $reply == 20[01]* ]]
    done
    pid=$CLIENT_PID
    eval "exec ${CLIENT[1]}>&-"
    wait "$pid"
}

@test "a full disk is told, status 2" {
    [ -c /dev/full ] || skip "this system has no /dev/full"
    serve
    run bash -c 'echo stats | "$1" -p "$2" >/dev/full' - "$KVSS_CLIENT" "$PORT"
    printed 'kvss_client: standard output: No space left on device'
    [ "$status" = 2 ]
    run bash -c '"$1" --help >/dev/full' - "$KVSS_CLIENT"
    printed 'kvss_client: standard output: No space left on device'
    [ "$status" = 2 ]
}
