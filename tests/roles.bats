#!/usr/bin/env bats
# Beyond the lab: a store for each connection, guests and managers.
# bats file_tags=crypt

# shellcheck disable=SC2153 # PORT is set by serve
load helper

# Made by: openssl passwd -6 -salt kvss eve, and openssl passwd -1 -salt kvss 'a password of many words'
# shellcheck disable=SC2016 # these are no variables
EVE='$6$kvss$0z/GPGpnKKujNcHZOfubegsLYi3pgjJmpHjelPcDyNMIX24/JtfUUU2dkVshPMzHtN/M/nrrs5iTkUs3.Tza3/'
# shellcheck disable=SC2016
RAY='$1$kvss$6NkLEUz6mK2e6hS3595Ys0'

# managers LINE...: makes the file of the managers, MANAGERS.
managers() {
    MANAGERS=$BATS_TEST_TMPDIR/managers
    printf '%s\n' "$@" >"$MANAGERS"
    chmod 600 "$MANAGERS"
}

# own_port FD: the port that WHOAMI shows.
own_port() {
    local reply
    echo 'KV/1.0 WHOAMI' >&"$1"
    read -r -t 20 -u "$1" reply
    echo "${reply##* }"
}

@test "the session of the assignment, reply by reply" {
    managers "adam:$EVE"
    serve --private --timeout 60 --managers "$MANAGERS"
    connect; one=$FD
    connect; two=$FD
    port=$(own_port "$one")
    says "$one" 'KV/1.0 GET city' '404 NOT_FOUND'
    says "$one" 'KV/1.0 PUT city Kolkata' '201 CREATED'
    says "$one" 'KV/1.0 GET city' '200 OK Kolkata'
    says "$one" 'bad command' '426 UPGRADE_REQUIRED'
    says "$two" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$two" "KV/1.0 MANAGE $port GET city" '200 OK Kolkata'
    says "$two" "KV/1.0 MANAGE $port PUT city Mumbai" '200 OK'
    says "$two" 'KV/1.0 GET city' '404 NOT_FOUND'
    says "$one" 'KV/1.0 GET city' '200 OK Mumbai'
    hang_up "$one" "$two"
}

@test "--private: a store for each connection, gone when it ends" {
    serve --private
    connect; one=$FD
    says "$one" 'KV/1.0 PUT a 1' '201 CREATED'
    replies 'KV/1.0 GET a' '404 NOT_FOUND' \
            'KV/1.0 PUT a 2' '201 CREATED'
    replies 'KV/1.0 GET a' '404 NOT_FOUND'
    says "$one" 'KV/1.0 GET a' '200 OK 1'
    echo 'KV/1.0 STATS' >&"$one"
    read -r -t 20 -u "$one" line
    [[ $line =~ ^'200 OK keys=1 ' ]]
    hang_up "$one"
}

@test "without --private, all share one store" {
    serve
    replies 'KV/1.0 PUT a 1' '201 CREATED'
    replies 'KV/1.0 GET a' '200 OK 1'
}

@test "--private: the memory of a store comes back when its connection ends" {
    serve --private --quiet
    fill() { seq 1 200000 | sed 's/.*/KV\/1.0 PUT key& some value/' | talk | grep -c '^201 CREATED$'; }
    [ "$(fill)" = 200000 ]
    once=$(memory "$PID")
    # The same again and again takes no more. (AddressSanitizer keeps freed memory aside.)
    for _ in 1 2 3 4 5; do [ "$(fill)" = 200000 ]; done
    instrumented || [ "$(memory "$PID")" -lt $((once + 8000)) ]
}

@test "WHOAMI: guest, and the port that the client's end has" {
    serve
    connect; one=$FD
    echo 'KV/1.0 WHOAMI' >&"$one"
    read -r -t 20 -u "$one" line
    port=$(sed -n 's/.* connect 127\.0\.0\.1:\([0-9]*\)$/\1/p' "$LOG")
    [ "$line" = "200 OK guest $port" ]
    says "$one" 'KV/1.0 WHOAMI now' '400 BAD_REQUEST'
    hang_up "$one"
}

@test "AUTH: 200 and a manager from then on, on this connection alone" {
    managers '# the managers' '' "adam:$EVE" '   ' "ray:$RAY"
    serve --managers "$MANAGERS"
    connect; one=$FD
    port=$(own_port "$one")
    says "$one" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$one" 'KV/1.0 WHOAMI' "200 OK manager $port"
    says "$one" 'KV/1.0 AUTH ray a password of many words' '200 OK manager'
    run ask 'KV/1.0 WHOAMI'
    [[ $output == '200 OK guest '* ]]
    grep -q " manager 127\.0\.0\.1:$port adam\$" "$LOG"
    hang_up "$one"
}

@test "AUTH: 401 for a wrong password and for an unknown name, and the third closes" {
    managers "adam:$EVE"
    serve --managers "$MANAGERS"
    replies 'KV/1.0 AUTH adam bill' '401 UNAUTHORIZED' \
            'KV/1.0 AUTH nobody eve' '401 UNAUTHORIZED' \
            'KV/1.0 GET a' '404 NOT_FOUND' \
            'KV/1.0 AUTH adam eve' '200 OK manager'
    replies 'KV/1.0 AUTH adam bill' '401 UNAUTHORIZED' \
            'KV/1.0 AUTH adam Eve' '401 UNAUTHORIZED' \
            'KV/1.0 AUTH adam eve ' '401 UNAUTHORIZED'
    # The end of the connection is the server's doing: this client says nothing of it.
    connect; one=$FD
    printf 'KV/1.0 AUTH adam %d\n' 1 2 3 4 >&"$one"
    [ "$(cat <&"$one")" = $'401 UNAUTHORIZED\n401 UNAUTHORIZED\n401 UNAUTHORIZED' ]
    hang_up "$one"
}

@test "AUTH: without --managers it's 401, like any wrong password" {
    serve
    replies 'KV/1.0 AUTH adam eve' '401 UNAUTHORIZED'
}

@test "AUTH: a bad form is 400 and no failure" {
    managers "adam:$EVE"
    serve --managers "$MANAGERS"
    replies 'KV/1.0 AUTH' '400 BAD_REQUEST' \
            'KV/1.0 AUTH adam' '400 BAD_REQUEST' \
            'KV/1.0 AUTH adam ' '400 BAD_REQUEST' \
            "KV/1.0 AUTH adam $(printf '%0251d' 0)" '400 BAD_REQUEST' \
            "KV/1.0 AUTH adam $(printf '%0250d' 0)" '401 UNAUTHORIZED' \
            'KV/1.0 AUTH adam eve' '200 OK manager'
}

@test "AUTH: among many that guess, each client has its turn, and others do not wait" {
    managers "ray:$RAY"
    serve --managers "$MANAGERS" --timeout 1 --verbose
    fds=()
    for _ in {1..30}; do connect; fds+=("$FD"); done
    connect; honest=$FD
    connect; other=$FD
    connected() { [ "$(grep -c ' connect ' "$LOG")" = 32 ]; }
    wait_until 10 connected
    # All of it waits in the sockets, so that the honest client comes after the others.
    kill -s STOP "$PID"
    stopped() { [[ $(ps -o stat= -p "$PID") == T* ]]; }
    wait_until 10 stopped
    for fd in "${fds[@]}"; do printf 'KV/1.0 AUTH ray %d\n' 1 2 3 4 >&"$fd"; done
    printf 'KV/1.0 AUTH ray a password of many words\nKV/1.0 GET k\n' >&"$honest"
    echo 'KV/1.0 PUT k v' >&"$other"
    kill -s CONT "$PID"
    hears "$other" '201 CREATED'
    hears "$honest" '200 OK manager' '200 OK v'
    # It waited for one guess of each of them, and not for two.
    sed '/ manager /q' "$LOG" >"$BATS_TEST_TMPDIR/before"
    [ "$(grep -c ' refuse ' "$BATS_TEST_TMPDIR/before")" -le 30 ]
    grep -q 'KV/1\.0 PUT$' "$BATS_TEST_TMPDIR/before"
    # Three of each are tried, and then it's thrown out.
    [ "$(cat <&"${fds[0]}")" = $'401 UNAUTHORIZED\n401 UNAUTHORIZED\n401 UNAUTHORIZED' ]
    hang_up "${fds[@]}" "$honest" "$other"
}

@test "AUTH: one that waits does not hold up a stop: 429" {
    managers "ray:$RAY"
    serve --managers "$MANAGERS"
    connect
    says "$FD" 'KV/1.0 WHOAMI now' '400 BAD_REQUEST'
    pid=$PID
    kill -s STOP "$pid"
    printf 'KV/1.0 AUTH ray %d\n' 1 2 3 4 >&"$FD"
    kill -s TERM "$pid"
    kill -s CONT "$pid"
    [ "$(cat <&"$FD" | sort -u | tail -n 1)" = '429 TOO_MANY_REQUESTS' ]
    ended "$pid"
    hang_up "$FD"
}

@test "a password never reaches the log, even after a verb misspelt" {
    managers "adam:$EVE"
    serve --verbose --explain --managers "$MANAGERS"
    ask 'KV/1.0 AUTH adam s3cret' 'KV/1.0 AUTH adam eve' 'KV/1.0 auth adam s3cret' 'AUTH adam s3cret' \
        'KV/1.0  AUTH adam s3cret' 'KV/1.0 AUHT adam s3cret' $'KV/1.0\tAUTH\tadam\ts3cret' \
        'KV/1.1 AUTH adam s3cret' $'KV/1.0 AUTH adam s3cret\xff' 'KV/1.0 GET shown' 'KV/1.0 MANAGE 1 AUTH adam s3cret' 'AUTH/adam/s3cret' \
        'KV/1.0 PUT AUTH adam s3cret' 'KV/1.0 GET AUTH' 'KV/1.0 WHOAMI s3cret' $'AUTH\tadam\ts3cret' \
        "KV/1.0 AUTH adam s3cret$(printf '%070000d' 0)"
    printf 'KV/1.0 AUTH adam s3cret' | talk
    run ! grep -e s3cret "$LOG"
    run ! grep -w -e eve "$LOG"
    run sed -n 's/^[^ ]* request 127\.0\.0\.1:[0-9]* //p' "$LOG"
    [ "$(sort -u <<<"$output")" = '(not shown)
KV/1.0 AUTH
KV/1.0 GET
KV/1.0 MANAGE
KV/1.0 PUT
KV/1.0 WHOAMI' ]
    grep -q ' refuse 127\.0\.0\.1:[0-9]* wrong name or password$' "$LOG"
    # The other wire is a way to mistype it, too.
    serve_frames --verbose --explain --managers "$MANAGERS"
    PORT=$FRAMES
    ask 'KV/1.0 AUTH adam s3cret' >/dev/null
    printf 'send\0\0\0\0\0\0\0\0\0\0\0adam,s3cret' | talk >/dev/null
    run ! grep -e s3cret "$LOG"
    grep -q ' request 127\.0\.0\.1:[0-9]* KV/1\.0 SEND$' "$LOG"
    # Without --managers there are no passwords, but people may think so.
    serve --verbose
    ask 'KV/1.0 AUTH adam s3cret'
    run ! grep s3cret "$LOG"
}

@test "MANAGE: PUT, GET and DEL on another's store, with the replies they have" {
    managers "adam:$EVE"
    serve --private --managers "$MANAGERS"
    connect; one=$FD
    connect; two=$FD
    port=$(own_port "$one")
    says "$two" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$two" "KV/1.0 MANAGE $port GET k" '404 NOT_FOUND'
    says "$two" "KV/1.0 MANAGE $port PUT k two  words" '201 CREATED'
    says "$one" 'KV/1.0 GET k' '200 OK two  words'
    says "$two" "KV/1.0 MANAGE 127.0.0.1:$port PUT k v" '200 OK'
    says "$one" 'KV/1.0 GET k' '200 OK v'
    says "$two" "KV/1.0 MANAGE $port DEL k" '204 NO_CONTENT'
    says "$one" 'KV/1.0 GET k' '404 NOT_FOUND'
    says "$two" "KV/1.0 MANAGE $port DEL k" '404 NOT_FOUND'
    # One's own port is a port like any other.
    says "$two" "KV/1.0 MANAGE $(own_port "$two") PUT own 1" '201 CREATED'
    says "$two" 'KV/1.0 GET own' '200 OK 1'
    hang_up "$one" "$two"
}

@test "MANAGE: without --private it's the store that all share" {
    managers "adam:$EVE"
    serve --managers "$MANAGERS"
    connect; one=$FD
    connect; two=$FD
    says "$two" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$two" "KV/1.0 MANAGE $(own_port "$one") PUT k v" '201 CREATED'
    says "$two" 'KV/1.0 GET k' '200 OK v'
    hang_up "$one" "$two"
}

@test "MANAGE: 403 for a guest, whatever else is wrong with the line" {
    serve --private
    replies 'KV/1.0 MANAGE 1 GET k' '403 FORBIDDEN' \
            'KV/1.0 MANAGE' '403 FORBIDDEN' \
            'KV/1.0 MANAGE ' '403 FORBIDDEN' \
            'KV/1.0 MANAGE  ' '403 FORBIDDEN' \
            'KV/1.0 MANAGE x FROB' '403 FORBIDDEN' \
            $'KV/1.0 MANAGE \xff' '403 FORBIDDEN' \
            "KV/1.0 MANAGE $(printf '%0300d' 0)" '403 FORBIDDEN'
}

@test "MANAGE: 404 where no client has the port, 400 for a bad form" {
    managers "adam:$EVE"
    serve --private --explain --managers "$MANAGERS"
    connect; one=$FD
    port=$(own_port "$one")
    form='400 BAD_REQUEST MANAGE needs a port and a PUT, GET or DEL'
    says "$one" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$one" 'KV/1.0 MANAGE 1 GET k' '404 NOT_FOUND'
    says "$one" 'KV/1.0 MANAGE 127.0.0.1:1 GET k' '404 NOT_FOUND'
    says "$one" "KV/1.0 MANAGE 127.0.0.2:$port GET k" '404 NOT_FOUND'
    says "$one" "KV/1.0 MANAGE :$port GET k" '404 NOT_FOUND'
    says "$one" "KV/1.0 MANAGE 0$port GET k" '404 NOT_FOUND'
    says "$one" 'KV/1.0 MANAGE' "$form"
    says "$one" "KV/1.0 MANAGE $port" "$form"
    says "$one" "KV/1.0 MANAGE $port FROB k" "$form"
    says "$one" "KV/1.0 MANAGE $port get k" "$form"
    says "$one" "KV/1.0 MANAGE $port STATS" "$form"
    says "$one" "KV/1.0 MANAGE $port MANAGE $port GET k" "$form"
    says "$one" 'KV/1.0 MANAGE 1 GET' '400 BAD_REQUEST GET needs a key and nothing more'
    says "$one" 'KV/1.0 MANAGE 1 FROB' "$form"
    says "$one" "KV/1.0 MANAGE $port GET" '400 BAD_REQUEST GET needs a key and nothing more'
    says "$one" "KV/1.0 MANAGE $port GET " '400 BAD_REQUEST a field is empty: one space stands between two fields'
    says "$one" "KV/1.0 MANAGE $port PUT k" '400 BAD_REQUEST PUT needs a key and a value'
    says "$one" "KV/1.0 MANAGE $port GET $(printf '%0251d' 0)" '400 BAD_REQUEST the key is longer than 250 bytes'
    says "$one" "KV/1.0 MANAGE $port GET $(printf '%0250d' 0)" '404 NOT_FOUND'
    hang_up "$one"
}

@test "MANAGE: two hosts with the same port need an address, 409 without" {
    managers "adam:$EVE"
    serve --private --managers "$MANAGERS"
    connect; one=$FD
    port=$(own_port "$one")
    # The same port again, from another address of this machine.
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    exec {hold}<>"$BATS_TEST_TMPDIR/fifo"
    nc -s 127.0.0.2 -p "$port" 127.0.0.1 "$PORT" <&"$hold" >"$BATS_TEST_TMPDIR/two" 3>&- &
    nc=$!
    wait_until 10 grep -q " connect 127\.0\.0\.2:$port\$" "$LOG"
    echo 'KV/1.0 PUT where there' >&"$hold"
    wait_until 10 grep -q CREATED "$BATS_TEST_TMPDIR/two"
    connect; three=$FD
    says "$three" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$three" "KV/1.0 MANAGE $port GET where" '409 CONFLICT'
    says "$three" "KV/1.0 MANAGE 127.0.0.1:$port GET where" '404 NOT_FOUND'
    says "$three" "KV/1.0 MANAGE 127.0.0.2:$port GET where" '200 OK there'
    hang_up "$one" "$three" "$hold"
    kill $nc
    wait $nc || :
}

@test "MANAGE: an IPv6 client by [ADDRESS]:PORT" {
    managers "adam:$EVE"
    serve --host ::1 --private --managers "$MANAGERS" || skip "this machine has no ::1"
    exec {one}<>"/dev/tcp/::1/$PORT"
    port=$(own_port "$one")
    says "$one" 'KV/1.0 AUTH adam eve' '200 OK manager'
    says "$one" "KV/1.0 MANAGE [::1]:$port PUT k v" '201 CREATED'
    says "$one" "KV/1.0 MANAGE $port GET k" '200 OK v'
    hang_up "$one"
}

# refuses MESSAGE: with the file, the server does not start, and says why in one line.
refuses() {
    run "$KVSS" --port 0 --managers "$MANAGERS"
    printed "kvss: $1"
    [ "$status" = 1 ]
}

@test "--managers: a file that others can read is refused, with what to type" {
    managers "adam:$EVE"
    for mode in 644 640 602 610; do
        chmod $mode "$MANAGERS"
        refuses "$MANAGERS is open to others; type: chmod 600 '$MANAGERS'"
    done
    eval "${output#*type: }"
    serve --managers "$MANAGERS"
}

@test "--managers: a bad line is named by its number" {
    no_hash='not a hash of crypt(3); openssl passwd -6 prints one'
    no_name='a name is 1 to 250 bytes, without a space'
    managers "adam:$EVE" '# more' '' 'bill'
    refuses "$MANAGERS, line 4: not name:hash"
    # shellcheck disable=SC2016
    for bad in 'adam:' 'adam:x' 'adam:!!' 'adam:YmlsbA==' 'adam:$6$kvss$short' "adam:$EVE:0:99999"; do
        managers "$bad"
        refuses "$MANAGERS, line 1: $no_hash"
    done
    for bad in ":$EVE" "a b:$EVE" $'a\tb:'"$EVE" $'\xff:'"$EVE" "$(printf '%0251d' 0):$EVE"; do
        managers "ray:$RAY" "$bad"
        refuses "$MANAGERS, line 2: $no_name"
    done
    managers "adam:$EVE" "adam:$RAY"
    refuses "$MANAGERS, line 2: that name was there before"
    managers "$(printf '%01100d' 0)"
    refuses "$MANAGERS, line 1: too long"
    managers "#$(printf '%01022d' 0)evil:$EVE"
    refuses "$MANAGERS, line 1: too long"
    MANAGERS=$BATS_TEST_TMPDIR/nowhere
    refuses "$MANAGERS: No such file or directory"
    MANAGERS=$BATS_TEST_TMPDIR
    chmod 700 "$MANAGERS"
    refuses "$MANAGERS: Is a directory"
}

@test "--managers: lines may end in CR LF, and the last one without either" {
    managers
    printf 'adam:%s\r\nray:%s' "$EVE" "$RAY" >"$MANAGERS"
    serve --managers "$MANAGERS"
    replies 'KV/1.0 AUTH adam eve' '200 OK manager'
    replies 'KV/1.0 AUTH ray a password of many words' '200 OK manager'
}

@test "kvss_client: whoami, auth and manage, in any case" {
    managers "adam:$EVE"
    serve --private --managers "$MANAGERS"
    connect; one=$FD
    port=$(own_port "$one")
    run "$KVSS_CLIENT" --port "$PORT" <<<"whoami
auth adam eve
manage $port Put city two words
manage $port gEt city
Manage $port frob"
    [[ ${lines[0]} == '200 OK guest '* ]]
    [ "$(printf '%s\n' "${lines[@]:1}")" = '200 OK manager
201 CREATED
200 OK two words
400 BAD_REQUEST' ]
    says "$one" 'KV/1.0 GET city' '200 OK two words'
    hang_up "$one"
    # Once: the words of a value are joined, the other arguments have no spaces.
    run "$KVSS_CLIENT" --port "$PORT" auth adam - <<<eve
    printed '200 OK manager'
    run "$KVSS_CLIENT" --port "$PORT" auth 'adam eve' x
    printed "kvss_client: 'adam eve' has a space in it, and only a value can"
    run "$KVSS_CLIENT" --port "$PORT" manage 1 put 'a b' c
    printed "kvss_client: 'a b' has a space in it, and only a value can"
    run "$KVSS_CLIENT" --port "$PORT" manage 1 put a 'b c'
    printed '403 FORBIDDEN'
}
