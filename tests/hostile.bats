#!/usr/bin/env bats
# Clients that are many, slow, greedy or broken: the others are served, and memory stays bounded.

load helper

# A server whose memory is watched.
start() {
    serve --quiet
    BEFORE=$(memory "$PID")
}

# bounded KB: the server's memory has grown by no more than that, and it serves. AddressSanitizer
# keeps up to 256 MB of freed memory aside, and valgrind has much to note; so with them the bound is wider.
bounded() {
    local now more=$1
    ! instrumented || more=400000
    now=$(memory "$PID")
    echo "memory: $BEFORE kB before, $now kB now, $more kB more allowed"
    [ "$now" -le $((BEFORE + more)) ]
    [ "$(ask 'KV/1.0 PUT alive 1' 'KV/1.0 DEL alive')" = $'201 CREATED\n204 NO_CONTENT' ]
}

# stat NAME: a figure of STATS all.
stat() {
    ask 'KV/1.0 STATS all' | tr ' ' '\n' | sed -n "s/^$1=//p"
}

@test "10,000 pipelined requests, each with its reply, in order" {
    start
    seq 1 5000 | sed 's/.*/KV\/1.0 PUT key& value&\nKV\/1.0 GET key&/' >"$BATS_TEST_TMPDIR/requests"
    seq 1 5000 | sed 's/.*/201 CREATED\n200 OK value&/' >"$BATS_TEST_TMPDIR/wanted"
    talk <"$BATS_TEST_TMPDIR/requests" | cmp - "$BATS_TEST_TMPDIR/wanted"
    bounded 10000
}

@test "a request cut at every byte" {
    start
    requests=$'KV/1.0 PUT k\xc3\xa9y v\xc3\xa0lue \r\nKV/1.0 GET k\xc3\xa9y\r\n\nKV/1.0 DEL k\xc3\xa9y\n'
    for ((i = 1; i < ${#requests}; i++)); do
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"
        already=$(stat bytes_in)
        printf '%s' "${requests:0:i}" >&8
        # The server has read the first part, before the second is sent. A STATS all is 17 bytes, too.
        arrived() { already=$((already + 17)); [ "$(stat bytes_in)" -ge $((already + i)) ]; }
        wait_until 10 arrived
        printf '%s' "${requests:i}" >&8
        mapfile -t -n 4 -u 8 got
        exec 8>&-
        [ "$(printf '%s\n' "${got[@]}")" = $'201 CREATED\n200 OK v\xc3\xa0lue \n426 UPGRADE_REQUIRED\n204 NO_CONTENT' ]
    done
    bounded 10000
}

@test "requests of one byte at a time" {
    start
    requests=$'KV/1.0 PUT key value\r\nKV/1.0 GET key\nKV/1.0 QUIT\n'
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    for ((i = 0; i < ${#requests}; i++)); do printf '%s' "${requests:i:1}" >&8; done
    [ "$(cat <&8)" = $'201 CREATED\n200 OK value\n200 OK bye' ]
    exec 8>&-
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

@test "1,100 connections at once: as many as select() takes are served, the rest get 503" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    start
    fds=()
    for _ in {1..1100}; do
        exec {fd}<>"/dev/tcp/127.0.0.1/$PORT"
        fds+=("$fd")
    done
    served=0 refused=0
    for ((i = ${#fds[@]} - 1; i >= 0; i--)); do
        # A refused client finds its 503, and may fail to send.
        echo 'KV/1.0 GET k' >&"${fds[i]}" || :
        read -r -u "${fds[i]}" line # no -t: bash waits by select(), and past FD_SETSIZE it aborts
        case $line in
        '404 NOT_FOUND') served=$((served + 1)) ;;
        '503 SERVICE_UNAVAILABLE') refused=$((refused + 1)) ;;
        *) echo "client $i got '$line'"; false ;;
        esac
    done
    echo "$served served, $refused refused"
    [ $((served + refused)) = 1100 ]
    [ $served -ge 1000 ]
    [ $served -lt 1024 ]
    for fd in "${fds[@]}"; do exec {fd}>&-; done
    serving() { [ "$(ask 'KV/1.0 GET k')" = '404 NOT_FOUND' ]; }
    wait_until 10 serving
    [ "$(stat refused)" -ge $refused ]
    bounded 40000
}

# One turn reads QUIT first, then thousands of requests, whose log lines take their time; it closes 500
# clients who have left. Meanwhile as many come, and are accepted after this last turn.
@test "a stop, when half of the clients have just left and as many have come" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    serve --quit-stops-server --verbose
    busy=() leaving=() newcomers=()
    connect; stopping=$FD
    for _ in {1..40}; do connect; busy+=("$FD"); done
    for _ in {1..500}; do connect; leaving+=("$FD"); done
    all() { [ "$(grep -c ' connect ' "$LOG")" = 541 ]; }
    wait_until 20 all
    kill -s STOP "$PID"
    stopped() { [[ $(ps -o stat= -p "$PID") == T* ]]; }
    wait_until 20 stopped
    echo 'KV/1.0 QUIT' >&"$stopping"
    for fd in "${busy[@]}"; do yes x | head -n 1000 >&"$fd"; done
    hang_up "${leaving[@]}"
    kill -s CONT "$PID"
    wait_until 20 grep -q ' request .* QUIT' "$LOG"
    kill -s STOP "$PID" || skip "the server was faster than this test"
    for _ in {1..500}; do
        connect 2>/dev/null || break # the server has stopped before it was made to sleep
        newcomers+=("$FD")
    done
    kill -s CONT "$PID"
    hears "$stopping" '200 OK bye'
    hang_up "$stopping" "${busy[@]}" "${newcomers[@]}"
    ended "$PID"
}

@test "a client that asks for 100 MB of replies and reads none is no longer read" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    start
    value=$(head -c 60000 /dev/zero | tr '\0' x)
    ask "KV/1.0 PUT big $value"
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    (yes 'KV/1.0 GET big' 2>/dev/null | head -n 1700 >&8) 3>&- &
    writer=$!
    # The server's socket is full, and between two looks nothing but STATS was sent.
    sent=0
    stuck() {
        local before=$sent
        sent=$(stat bytes_out)
        [ "$(ss -tnH "sport = :$PORT" | awk '$3 > 0' | wc -l)" = 1 ] && [ $((sent - before)) -lt 1000 ]
    }
    wait_until 20 stuck
    echo "$sent bytes sent until then"
    [ "$sent" -lt 50000000 ]
    bounded 10000
    # Now it reads, and all that it asked for comes.
    head -c $((1700 * 60008)) <&8 | cmp - <(yes "200 OK $value" | head -n 1700)
    wait "$writer"
    exec 8>&-
    bounded 10000
}

@test "a client that reads slowly, and never to the end, does not make its buffer grow" {
    start
    value=$(head -c 60000 /dev/zero | tr '\0' x)
    ask "KV/1.0 PUT big $value"
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    (yes 'KV/1.0 GET big' 2>/dev/null | head -n 1000 >&8) 3>&- &
    writer=$!
    for _ in {1..500}; do head -c 60008 <&8; done | cmp - <(yes "200 OK $value" | head -n 500)
    bounded 10000
    wait "$writer"
    exec 8>&-
}

@test "one client's flood does not starve the rest" {
    start
    (yes 'KV/1.0 PUT flood value' | timeout 600 nc 127.0.0.1 "$PORT" >/dev/null 2>&1) 3>&- &
    flood=$!
    busy() { [ "$(stat served)" -gt 10000 ]; }
    wait_until 20 busy
    before=$(stat served)
    for i in {1..50}; do
        [ "$(ask "KV/1.0 PUT key$i v")" = '201 CREATED' ]
    done
    [ $(($(stat served) - before)) -gt 1000 ] # the flood went on meanwhile
    pkill -P $flood || :
    wait $flood || :
}

# With QUICK=1, a fifth of them.
@test "100,000 connections opened and dropped leave no descriptor and no memory behind" {
    start
    descriptors() { find "/proc/$PID/fd" -mindepth 1 2>/dev/null | wc -l; }
    before=$(descriptors) count=${QUICK:+20000}
    # One says nothing, one half a line, one leaves before its reply, one says QUIT and leaves.
    for ((i = 0; i < ${count:=100000}; i += 4)); do
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"; exec 8>&-
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"; printf 'KV/1.0 GET' >&8; exec 8>&-
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"; echo 'KV/1.0 GET a' >&8; exec 8>&-
        exec 8<>"/dev/tcp/127.0.0.1/$PORT"; echo 'KV/1.0 QUIT' >&8; exec 8>&-
    done
    alone() { [ "$(stat connections)" = 1 ]; }
    wait_until 20 alone
    [ "$(descriptors)" = "$before" ]
    bounded 5000 # up to 1,020 may have been open at a time, and the page that each has read into stays
}

@test "a store of 300,000 keys grows, answers right, and gives its memory back" {
    start
    seq 1 300000 | sed 's/.*/KV\/1.0 PUT key& value&/' | talk | sort | uniq -c >"$BATS_TEST_TMPDIR/put"
    [[ $(cat "$BATS_TEST_TMPDIR/put") =~ ^' '*'300000 201 CREATED'$ ]]
    seq 1 300000 | sed 's/.*/KV\/1.0 GET key&/' | talk | cmp - <(seq 1 300000 | sed 's/^/200 OK value/')
    # Every other key goes. That moves slots, and those that stay must still be found.
    seq 1 2 300000 | sed 's/.*/KV\/1.0 DEL key&/' | talk | sort | uniq -c >"$BATS_TEST_TMPDIR/del"
    [[ $(cat "$BATS_TEST_TMPDIR/del") =~ ^' '*'150000 204 NO_CONTENT'$ ]]
    seq 1 300000 | sed 's/.*/KV\/1.0 GET key&/' | talk |
        cmp - <(seq 1 300000 | awk '{ print $1 % 2 ? "404 NOT_FOUND" : "200 OK value" $1 }')
    seq 2 2 300000 | sed 's/.*/KV\/1.0 DEL key&/' | talk >/dev/null
    [ "$(stat keys)" = 0 ]
    [ "$(stat memory)" -lt 100000 ]
}

@test "out of memory: 500, the store is as it was, and the connection lives" {
    if instrumented; then skip "what runs is not the server alone, and needs more than a limit allows"; fi
    limit=$(ulimit -Sv)
    ulimit -Sv 200000 2>/dev/null || skip "ulimit -v is refused here"
    serve
    ulimit -Sv "$limit"
    value=$(head -c 60000 /dev/zero | tr '\0' x)
    seq 1 3000 | sed "s/.*/KV\/1.0 PUT key& $value/" | talk >"$BATS_TEST_TMPDIR/put"
    stored=$(grep -c '^201 CREATED$' "$BATS_TEST_TMPDIR/put")
    echo "$stored of 3000 stored"
    [ "$stored" -gt 100 ]
    [ "$(sort -u "$BATS_TEST_TMPDIR/put")" = $'201 CREATED\n500 SERVER_ERROR' ]
    [ "$(wc -l <"$BATS_TEST_TMPDIR/put")" = 3000 ]
    # What was said to be stored is there, and nothing else.
    awk '/201/ { print "KV/1.0 DEL key" NR }' "$BATS_TEST_TMPDIR/put" | talk >"$BATS_TEST_TMPDIR/del"
    [ "$(grep -c '^204 NO_CONTENT$' "$BATS_TEST_TMPDIR/del")" = "$stored" ]
    [ "$(stat keys)" = 0 ]
    [ "$(ask "KV/1.0 PUT again $value")" = '201 CREATED' ]
}

# full [OPTION...]: a server that has filled the memory that it may have. Sets STORED, how many keys it
# has, and VALUE, what most of them hold.
full() {
    local limit
    if instrumented; then skip "what runs is not the server alone, and needs more than a limit allows"; fi
    limit=$(ulimit -Sv)
    ulimit -Sv 150000 2>/dev/null || skip "ulimit -v is refused here"
    serve --quiet "$@"
    ulimit -Sv "$limit"
    VALUE=$(head -c 1000 /dev/zero | tr '\0' x)
    # Values of a kilobyte, and then small ones for what is left.
    { seq 1 160000 | sed "s/.*/KV\/1.0 PUT key& $VALUE/"; seq 1 100000 | sed 's/.*/KV\/1.0 PUT small& v/'; } |
        talk | sort | uniq -c >"$BATS_TEST_TMPDIR/put"
    grep -q ' 500 SERVER_ERROR$' "$BATS_TEST_TMPDIR/put"
    STORED=$(sed -n 's/ 201 CREATED$//p' "$BATS_TEST_TMPDIR/put")
}

@test "out of memory: whoever comes is served, and can delete" {
    full
    fds=()
    for _ in {1..50}; do connect; fds+=("$FD"); done
    for fd in "${fds[@]}"; do says "$fd" 'KV/1.0 GET nobody' '404 NOT_FOUND'; done
    says "$FD" 'KV/1.0 DEL key1' '204 NO_CONTENT'
    says "$FD" "KV/1.0 PUT key1 $VALUE" '201 CREATED'
    hang_up "${fds[@]}"
    [ "$(stat keys)" = $((STORED)) ]
}

@test "out of memory: the server starts again under the same limit, with all that it held" {
    full --data "$BATS_TEST_TMPDIR/data" --fsync no
    stop "$PID"
    ulimit -Sv 150000
    serve --data "$BATS_TEST_TMPDIR/data" --fsync no
    [ "$(stat keys)" = $((STORED)) ]
}
