#!/usr/bin/env bats
# Beyond the lab: with --private, each connection has a store of its own. A client is a guest until AUTH
# makes it a manager, and a manager reaches the stores of the others by MANAGE.
# bats file_tags=crypt

# shellcheck disable=SC2153 # PORT is set by serve
load helper
load watch

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

# whoami NAME ROLE: this is what the client is. Sets OWN_PORT, the port that WHOAMI shows.
whoami() {
    says "$1" 'KV/1.0 WHOAMI'
    next "$1"
    OWN_PORT=${LINE##* }
    [ "$LINE" = "200 OK $2 $OWN_PORT" ]
}

@test "the session of the assignment, reply by reply" {
    managers "adam:$EVE"
    serve --private --timeout 60 --managers "$MANAGERS"
    connect one
    connect two
    whoami one guest
    says one 'KV/1.0 GET city';                           hears one '404 NOT_FOUND'
    says one 'KV/1.0 PUT city Kolkata';                   hears one '201 CREATED'
    says one 'KV/1.0 GET city';                           hears one '200 OK Kolkata'
    says one 'bad command';                               hears one '426 UPGRADE_REQUIRED'
    says two 'KV/1.0 AUTH adam eve';                      hears two '200 OK manager'
    says two "KV/1.0 MANAGE $OWN_PORT GET city";          hears two '200 OK Kolkata'
    says two "KV/1.0 MANAGE $OWN_PORT PUT city Mumbai";   hears two '200 OK'
    says two 'KV/1.0 GET city';                           hears two '404 NOT_FOUND'
    says one 'KV/1.0 GET city';                           hears one '200 OK Mumbai'
}

@test "--private: a store for each connection, gone when it ends" {
    serve --private
    connect one
    says one 'KV/1.0 PUT a 1';     hears one '201 CREATED'
    replies 'KV/1.0 GET a' '404 NOT_FOUND' \
            'KV/1.0 PUT a 2' '201 CREATED'
    replies 'KV/1.0 GET a' '404 NOT_FOUND'
    says one 'KV/1.0 GET a' 'KV/1.0 STATS'
    hears one '200 OK 1' '200 OK keys=1 *'
}

@test "--private: the memory of a store comes back when its connection ends" {
    serve --private --quiet
    seq 1 40000 | sed 's/.*/KV\/1.0 PUT key& some value/' >"$BATS_TEST_TMPDIR/puts"
    fill() { [ "$(talk <"$BATS_TEST_TMPDIR/puts" | grep -c '^201 CREATED$')" = 40000 ]; }
    fill
    once=$(memory "$PID")
    # The same again and again takes no more. (AddressSanitizer keeps freed memory aside.)
    fill; fill; fill; fill
    instrumented || [ "$(memory "$PID")" -lt $((once + 3000)) ]
}

@test "--private: a client that has deleted half of its keys can leave" {
    serve --private --quiet
    for n in 40 100 1000; do
        { seq 1 $n | sed 's/.*/KV\/1.0 PUT k& v/'; seq 1 $((n / 2)) | sed 's/.*/KV\/1.0 DEL k&/'; } | talk >/dev/null
        # The keys that are left are freed in turns of the loop, as these are.
        replies 'KV/1.0 GET k1' '404 NOT_FOUND' \
                'KV/1.0 STATS' '200 OK keys=0 *'
    done
}

@test "without --private, all share one store, and MANAGE reaches it by anybody's port" {
    managers "adam:$EVE"
    serve --managers "$MANAGERS"
    connect one
    connect two
    whoami one guest
    says two 'KV/1.0 AUTH adam eve' "KV/1.0 MANAGE $OWN_PORT PUT k v" 'KV/1.0 GET k'
    hears two '200 OK manager' '201 CREATED' '200 OK v'
    says one 'KV/1.0 GET k';       hears one '200 OK v'
}

@test "WHOAMI and AUTH: a client is a guest, then a manager from then on, on this connection alone" {
    managers '# the managers' '' "adam:$EVE" '   ' "ray:$RAY"
    serve --managers "$MANAGERS"
    connect one
    whoami one guest
    says one 'KV/1.0 WHOAMI now';  hears one '400 BAD_REQUEST'
    logged " connect 127.0.0.1:$OWN_PORT" # the port of the client's end
    says one 'KV/1.0 AUTH adam eve'
    hears one '200 OK manager'
    whoami one manager
    says one 'KV/1.0 AUTH ray a password of many words'
    hears one '200 OK manager'
    replies 'KV/1.0 WHOAMI' '200 OK guest *'
    logged " audit 127.0.0.1:$OWN_PORT AUTH adam"
}

@test "AUTH: 401 for a wrong password and for an unknown name, and the third closes" {
    managers "adam:$EVE"
    serve --managers "$MANAGERS"
    # A bad form is 400, and no failure.
    replies 'KV/1.0 AUTH' '400 BAD_REQUEST' \
            'KV/1.0 AUTH adam' '400 BAD_REQUEST' \
            'KV/1.0 AUTH adam ' '400 BAD_REQUEST' \
            "KV/1.0 AUTH adam $(printf '%0251d' 0)" '400 BAD_REQUEST' \
            "KV/1.0 AUTH adam $(printf '%0250d' 0)" '401 UNAUTHORIZED' \
            'KV/1.0 AUTH nobody eve' '401 UNAUTHORIZED' \
            'KV/1.0 GET a' '404 NOT_FOUND' \
            'KV/1.0 AUTH adam eve' '200 OK manager'
    replies 'KV/1.0 AUTH adam bill' '401 UNAUTHORIZED' \
            'KV/1.0 AUTH adam Eve' '401 UNAUTHORIZED' \
            'KV/1.0 AUTH adam eve ' '401 UNAUTHORIZED'
    # The end of the connection is the server's doing: this client does not end its side.
    connect one
    says one 'KV/1.0 AUTH adam 1' 'KV/1.0 AUTH adam 2' 'KV/1.0 AUTH adam 3' 'KV/1.0 AUTH adam eve' 'KV/1.0 GET a'
    hears one '401 UNAUTHORIZED' '401 UNAUTHORIZED' '401 UNAUTHORIZED'
    closed one
    # Without --managers, every password is wrong.
    serve
    replies 'KV/1.0 AUTH adam eve' '401 UNAUTHORIZED'
}

@test "AUTH: among many that guess, each client has its turn, and others do not wait" {
    managers "ray:$RAY"
    serve --managers "$MANAGERS" --timeout 1 --verbose
    guessing=(g{1..8})
    for name in "${guessing[@]}" honest other; do
        connect "$name"
        says "$name" 'KV/1.0 GET none'
        hears "$name" '404 NOT_FOUND'
    done
    # All of it waits in the sockets, so that the honest client comes after the others.
    freeze "$PID"
    for name in "${guessing[@]}"; do
        says "$name" 'KV/1.0 AUTH ray 1' 'KV/1.0 AUTH ray 2' 'KV/1.0 AUTH ray 3' 'KV/1.0 AUTH ray 4'
    done
    wait_until arrived $((8 * 72))
    says honest 'KV/1.0 AUTH ray a password of many words' 'KV/1.0 GET k'
    says other 'KV/1.0 PUT k v'
    wait_until arrived $((8 * 72 + 54 + 15))
    begun=${EPOCHREALTIME/./}
    kill -s CONT "$PID"
    hears other '201 CREATED'
    hears honest '200 OK manager' '200 OK v'
    # No more than 25 are tried in a second.
    [ $((${EPOCHREALTIME/./} - begun)) -ge 320000 ]
    # It waited for one guess of each of them, and not for two.
    sed '/ manager /q' "$LOG" >"$BATS_TEST_TMPDIR/before"
    [ "$(grep -c ' AUTH refused' "$BATS_TEST_TMPDIR/before")" -le 8 ]
    grep -q ' request 127\.0\.0\.1:[0-9]* PUT$' "$BATS_TEST_TMPDIR/before"
    # Three of each are tried, and then it's thrown out.
    hang_up g{2..8} honest other
    hears g1 '401 UNAUTHORIZED' '401 UNAUTHORIZED' '401 UNAUTHORIZED'
    closed g1
}

@test "AUTH: clients that guess, and are new, do not come before one that waits since before" {
    managers "ray:$RAY"
    serve --managers "$MANAGERS"
    connect honest
    says honest 'KV/1.0 AUTH ray a typo'
    hears honest '401 UNAUTHORIZED'
    # Each of these has guessed before, has closed, and is here anew.
    for name in g{1..3}; do
        replies 'KV/1.0 AUTH ray 1' '401 UNAUTHORIZED'
        connect "$name"
    done
    wait_until logged ' connect ' 7
    freeze "$PID"
    for name in g{1..3}; do says "$name" 'KV/1.0 AUTH ray 2'; done
    wait_until arrived $((3 * 18))
    says honest 'KV/1.0 AUTH ray a password of many words'
    wait_until arrived $((3 * 18 + 41))
    kill -s CONT "$PID"
    hears honest '200 OK manager'
    sed '/ manager /q' "$LOG" >"$BATS_TEST_TMPDIR/before"
    [ "$(grep -c ' AUTH refused' "$BATS_TEST_TMPDIR/before")" = 4 ]
}

@test "AUTH: one that waits does not hold up a stop: 429" {
    managers "ray:$RAY"
    serve --managers "$MANAGERS"
    connect one
    says one 'KV/1.0 WHOAMI now';  hears one '400 BAD_REQUEST'
    freeze "$PID"
    says one 'KV/1.0 AUTH ray 1' 'KV/1.0 AUTH ray 2' 'KV/1.0 AUTH ray 3' 'KV/1.0 AUTH ray 4'
    wait_until arrived 72
    kill -s TERM "$PID"
    kill -s CONT "$PID"
    # One may have been tried before the signal.
    next one
    while [ "$LINE" = '401 UNAUTHORIZED' ]; do next one; done
    [ "$LINE" = '429 TOO_MANY_REQUESTS' ]
    hang_up one
    ended "$PID"
}

# bats test_tags=frames, expiry
@test "a password never reaches the log, even after a verb misspelt" {
    managers "adam:$EVE"
    serve_frames --verbose --explain --managers "$MANAGERS"
    ask 'KV/1.0 AUTH adam s3cret' 'KV/1.0 AUTH adam eve' 'KV/1.0 auth adam s3cret' 'AUTH adam s3cret' \
        'KV/1.0  AUTH adam s3cret' 'KV/1.0 AUHT adam s3cret' $'KV/1.0\tAUTH\tadam\ts3cret' \
        'KV/1.1 AUTH adam s3cret' $'KV/1.0 AUTH adam s3cret\xff' 'KV/1.0 GET shown' 'KV/1.0 MANAGE 1 AUTH adam s3cret' 'KV/1.0 MANAGE 1 PUT k s3cret' \
        'KV/1.0 EXPIRE shown 50' 'AUTH/adam/s3cret' \
        'KV/1.0 PUT AUTH adam s3cret' 'KV/1.0 GET AUTH' 'KV/1.0 WHOAMI s3cret' $'AUTH\tadam\ts3cret' \
        "KV/1.0 AUTH adam s3cret$(printf '%070000d' 0)"
    printf 'KV/1.0 AUTH adam s3cret' | talk
    run ! logged s3cret
    run ! logged eve
    [ "$(sed -n 's/^[^ ]* request 127\.0\.0\.1:[0-9]* //p' "$LOG" | sort -u)" = '(not shown)
AUTH
EXPIRE
GET
MANAGE
PUT
WHOAMI' ]
    grep -q ' audit 127\.0\.0\.1:[0-9]* AUTH refused: wrong name or password$' "$LOG"
    # The other wire is a way to mistype it, too.
    PORT=$FRAMES
    ask 'KV/1.0 AUTH adam s3cret' >/dev/null
    printf 'send\0\0\0\0\0\0\0\0\0\0\0adam,s3cret' | talk >/dev/null
    run ! grep -e s3cret "$LOG"
    grep -q ' request 127\.0\.0\.1:[0-9]* SEND$' "$LOG"
    # Without --managers there are no passwords, but people may think so.
    serve --verbose
    ask 'KV/1.0 AUTH adam s3cret'
    run ! grep s3cret "$LOG"
}

@test "MANAGE: PUT, GET and DEL on another's store, with the replies they have; 404 where no client has the port, 400 for a bad form" {
    managers "adam:$EVE"
    serve --private --explain --managers "$MANAGERS"
    connect one
    connect two
    whoami two guest
    own=$OWN_PORT
    whoami one guest
    port=$OWN_PORT
    says two 'KV/1.0 AUTH adam eve' "KV/1.0 MANAGE $port GET k" "KV/1.0 MANAGE $port PUT k two  words"
    hears two '200 OK manager' '404 NOT_FOUND' '201 CREATED'
    says one 'KV/1.0 GET k';       hears one '200 OK two  words'
    says two "KV/1.0 MANAGE 127.0.0.1:$port PUT k v"
    hears two '200 OK'
    says one 'KV/1.0 GET k';       hears one '200 OK v'
    says two "KV/1.0 MANAGE $port DEL k" "KV/1.0 MANAGE $port DEL k"
    hears two '204 NO_CONTENT' '404 NOT_FOUND'
    says one 'KV/1.0 GET k';       hears one '404 NOT_FOUND'
    # One's own port is a port like any other.
    says two "KV/1.0 MANAGE $own PUT own 1" 'KV/1.0 GET own'
    hears two '201 CREATED' '200 OK 1'
    # There is no such client.
    for client in 1 127.0.0.1:1 "127.0.0.2:$port" ":$port" "0$port"; do
        says two "KV/1.0 MANAGE $client GET k"
        hears two '404 NOT_FOUND'
    done
    # All of these have one reason, which is about MANAGE itself.
    says two 'KV/1.0 MANAGE'
    next two
    form=$LINE
    [[ $form == '400 BAD_REQUEST '*MANAGE* ]]
    says two "KV/1.0 MANAGE $port" "KV/1.0 MANAGE $port FROB k" "KV/1.0 MANAGE $port get k" "KV/1.0 MANAGE $port STATS" \
        "KV/1.0 MANAGE $port MANAGE $port GET k" 'KV/1.0 MANAGE 1 FROB'
    hears two "$form" "$form" "$form" "$form" "$form" "$form"
    # These have the reason that the command would have by itself, whether or not there is such a client.
    for bad in GET 'GET ' 'PUT k' "GET $(printf '%0251d' 0)"; do
        says two "KV/1.0 $bad" "KV/1.0 MANAGE $port $bad" "KV/1.0 MANAGE 1 $bad"
        next two
        [[ $LINE == '400 BAD_REQUEST '* ]]
        hears two "$LINE" "$LINE"
    done
    says two "KV/1.0 MANAGE $port GET $(printf '%0250d' 0)"
    hears two '404 NOT_FOUND'
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

@test "MANAGE: two hosts with the same port need an address, 409 without" {
    managers "adam:$EVE"
    serve --private --managers "$MANAGERS"
    connect one
    whoami one guest
    port=$OWN_PORT
    # The same port again, from another address of this machine.
    connect two "$PORT" -s 127.0.0.2 -p "$port"
    says two 'KV/1.0 PUT where there'
    hears two '201 CREATED'
    logged " connect 127.0.0.2:$port"
    replies 'KV/1.0 AUTH adam eve' '200 OK manager' \
            "KV/1.0 MANAGE $port GET where" '409 CONFLICT' \
            "KV/1.0 MANAGE 127.0.0.1:$port GET where" '404 NOT_FOUND' \
            "KV/1.0 MANAGE 127.0.0.2:$port GET where" '200 OK there'
}

@test "MANAGE: an IPv6 client by [ADDRESS]:PORT" {
    managers "adam:$EVE"
    serve --host ::1 --private --managers "$MANAGERS" || skip "this machine has no ::1"
    HOST=::1 connect one
    whoami one guest
    says one 'KV/1.0 AUTH adam eve' "KV/1.0 MANAGE [::1]:$OWN_PORT PUT k v" "KV/1.0 MANAGE $OWN_PORT GET k"
    hears one '200 OK manager' '201 CREATED' '200 OK v'
}

# refuses MESSAGE: with the file, the server does not start, and says why in one line.
refuses() {
    run timeout "$PATIENCE" "$KVSS" --port 0 --managers "$MANAGERS"
    printed "kvss: $1"
    [ "$status" = 1 ]
}

@test "an audit under --quiet, too: who became a manager, who failed, and what managers did" {
    managers "adam:$EVE"
    serve --quiet --private --managers "$MANAGERS"
    connect one
    whoami one guest
    port=$OWN_PORT
    connect two
    whoami two guest
    says two 'KV/1.0 AUTH adam wrong' 'KV/1.0 AUTH adam eve' "KV/1.0 MANAGE $port PUT secret value" \
        "KV/1.0 MANAGE $port GET none" 'KV/1.0 MANAGE 1 GET none'
    hears two '401 UNAUTHORIZED' '200 OK manager' '201 CREATED' '404 NOT_FOUND' '404 NOT_FOUND'
    same "audit 127.0.0.1:$OWN_PORT AUTH refused: wrong name or password
audit 127.0.0.1:$OWN_PORT AUTH adam
audit 127.0.0.1:$OWN_PORT MANAGE $port PUT: 201 CREATED
audit 127.0.0.1:$OWN_PORT MANAGE $port GET: 404 NOT_FOUND" "$(sed -n 's/^[0-9TZ:.-]* //p' "$LOG")"
}

@test "SIGHUP: the managers are read anew, and a bad file changes nothing" {
    managers "adam:$EVE" "ray:$RAY"
    serve --managers "$MANAGERS"
    connect one
    says one 'KV/1.0 AUTH adam eve'
    hears one '200 OK manager'
    connect two
    says two 'KV/1.0 AUTH ray a password of many words'
    hears two '200 OK manager'
    managers "adam:$EVE" 'ray'
    kill -s HUP "$PID"
    wait_until logged " error $MANAGERS line 2: not name:hash"
    whoami one manager
    whoami two manager
    managers "ray:$RAY" "bill:$EVE"
    kill -s HUP "$PID"
    wait_until logged " audit $MANAGERS is read anew"
    whoami one guest
    whoami two manager
    says one 'KV/1.0 AUTH adam eve' 'KV/1.0 AUTH bill eve'
    hears one '401 UNAUTHORIZED' '200 OK manager'
}

@test "SIGHUP without --managers: nothing happens, if stderr is no terminal" {
    serve
    kill -s HUP "$PID"
    wait_until logged ' audit SIGHUP there are no --managers to be read'
    replies 'KV/1.0 WHOAMI' '200 OK guest *'
}

@test "--managers: a file that others can read is refused, with what to type" {
    managers "adam:$EVE"
    for mode in 644 640 602 610; do
        chmod $mode "$MANAGERS"
        refuses "$MANAGERS: it is open to others; type: chmod 600 '$MANAGERS'"
    done
    eval "${output#*type: }"
    # Lines may end in CR LF, and the last one without either.
    printf 'adam:%s\r\nray:%s' "$EVE" "$RAY" >"$MANAGERS"
    serve --managers "$MANAGERS"
    replies 'KV/1.0 AUTH adam eve' '200 OK manager' \
            'KV/1.0 AUTH ray a password of many words' '200 OK manager'
}

@test "--managers: a bad line is named by its number" {
    no_hash='not a hash of crypt(3); openssl passwd -6 prints one'
    no_name='a name is 1 to 250 bytes, without a space'
    managers "adam:$EVE" '# more' '' 'bill'
    refuses "$MANAGERS: line 4: not name:hash"
    # shellcheck disable=SC2016
    for bad in 'adam:' 'adam:x' 'adam:!!' 'adam:YmlsbA==' 'adam:$6$kvss$short' "adam:$EVE:0:99999"; do
        managers "$bad"
        refuses "$MANAGERS: line 1: $no_hash"
    done
    for bad in ":$EVE" "a b:$EVE" $'a\tb:'"$EVE" $'\xff:'"$EVE" "$(printf '%0251d' 0):$EVE"; do
        managers "ray:$RAY" "$bad"
        refuses "$MANAGERS: line 2: $no_name"
    done
    managers "adam:$EVE" "adam:$RAY"
    refuses "$MANAGERS: line 2: that name was there before"
    managers "#$(printf '%0100000d' 0)" "$(printf '%0100000d' 0)"
    refuses "$MANAGERS: line 2: not name:hash"
    MANAGERS=$BATS_TEST_TMPDIR/nowhere
    refuses "$MANAGERS: No such file or directory"
    MANAGERS=$BATS_TEST_TMPDIR
    chmod 700 "$MANAGERS"
    refuses "$MANAGERS: Is a directory"
}

@test "kvss_client: whoami, auth and manage, in any case" {
    managers "adam:$EVE"
    serve --private --managers "$MANAGERS"
    connect one
    whoami one guest
    port=$OWN_PORT
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
    says one 'KV/1.0 GET city';    hears one '200 OK two words'
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
