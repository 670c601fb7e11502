#!/usr/bin/env bats
# docs/outgrowing.md: a store that moves to other servers has the same keys, values and deadlines
# there.

# shellcheck disable=SC2034,SC2153,SC2016 # SERVERS is the helper's, PORT is set by serve; $3 is a word of Redis
load ../helper
load follow

setup() {
    fresh_copy
    DATA=$COPY/data
}

@test "docs/outgrowing.md: every example is answered as the page shows" {
    check_page docs/outgrowing.md
}

# ours: the page's ports changed to ours.
ours() {
    sed "s/127.0.0.1:9000/127.0.0.1:$PORT/; s/9443/$TLS_PORT/"
}

# needs PACKAGE COMMAND...
needs() {
    command -v "${@:2}" >/dev/null || skip "$1 is needed: apt-get install $1"
}

# background COMMAND...: it ends with the test, like a server that says goodbye with status 0.
background() {
    bash -c 'trap "kill \$!; wait; exit 0" TERM; "$@" & wait' - "$@" \
        >"$BATS_TEST_TMPDIR/background" 2>&1 3>&- &
    PID=$! SERVERS[$!]=$!
}

# free_port: one that nobody has now. Sets PORT.
free_port() {
    serve --quiet
    stop "$PID"
}

# random_requests SEED COUNT: with a control character in place of each NUL, which not every awk can read.
random_requests() {
    "$ROOT/tests/tools/soak/model.py" generate "$@" | tr '\000' '\001'
}

# random_data: a data file that kvss has written of thousands of requests, with all bytes that keys
# and values may have, and a file of the keys. The server goes on.
random_data() {
    needs python3 python3
    serve --data "$DATA"
    random_requests 7 20000 | grep -a '^KV/1.0 [PD]' |
        awk 'NR % 3 { sub(/^[^ ]* [^ ]* [^ ]*/, "&" (NR % 1000)) } { print }' >"$COPY/requests"
    sed -n 's/^KV\/1.0 PUT \([^ ]*\) .*/\1/p' "$COPY/requests" | sort -u >"$COPY/keys"
    awk '{ print "KV/1.0 PUT", "-a\\\"'"'"'$*%s" NR, NR % 3 ? "$5" : "\\n \"" }' "$COPY/keys" \
        >>"$COPY/requests"
    # A deadline for some, which a PUT or a DEL takes away from some of them again.
    awk '{ print }
        NR % 3 == 0 { print "KV/1.0 EXPIREAT", $3, 1990000000 + 1000 * NR (NR % 2 ? "" : ".250") }
        NR % 7 == 0 { print "KV/1.0 EXPIRE", $3, 1000 * (1 + NR % 9) }
        NR % 11 == 0 { print "KV/1.0 DEL", $3 }' "$COPY/requests" |
        talk >"$COPY/replies"
    sed -n 's/^KV\/1.0 PUT \([^ ]*\) .*/\1/p' "$DATA" | sort -u >"$COPY/keys"
    [ "$(wc -l <"$DATA")" -gt 5000 ]
    LC_ALL=C grep -q $'\r$' "$DATA"
}

# answers VERB: what kvss answers about all keys.
answers() {
    sed "s/^/KV\/1.0 $1 /" "$COPY/keys" | talk
}

# redis_answers VERB: the same of a server that speaks RESP.
redis_answers() {
    awk -v verb="$1" 'BEGIN { ORS = "\r\n" }
        { print "*2"; print "$" length(verb); print verb; print "$" length; print }' "$COPY/keys" |
        timeout 600 socat -t 10 - "UNIX-CONNECT:$SOCKET" |
        awk '{ sub(/\r$/, "") }
            body { print "200 OK " $0; body = 0; next }
            /^:-2$/ || /^\$-1$/ { print "404 NOT_FOUND"; next }
            /^:/ { print "200 OK " substr($0, 2); next }
            /^\$/ { body = 1; next }
            { print "what is " $0 }'
}

# same_with_every_awk: they differ in the order of the deadlines, at the end.
same_with_every_awk() {
    local awk
    for awk in mawk gawk 'gawk --posix' 'busybox awk'; do
        ! command -v "${awk% *}" >/dev/null ||
            $awk -f "$ROOT/docs/kvss-to-redis.awk" "$DATA" | sort | cksum
    done >"$COPY/sums"
    [ "$(sort -u "$COPY/sums" | wc -l)" = 1 ]
}

# moves_to NAME: from kvss to NAME-server, which has the commands of Redis.
moves_to() {
    needs socat socat
    random_data
    SOCKET=$BATS_TEST_TMPDIR/socket
    background "$1-server" --port 0 --unixsocket "$SOCKET" --save '' --dir "$BATS_TEST_TMPDIR"
    wait_until "$1-cli" -s "$SOCKET" ping 2>/dev/null
    same_with_every_awk
    run bash -c "cd '$COPY'; redis-cli() { command $1-cli -s '$SOCKET' \"\$@\"; }
        $(block docs/outgrowing.md redis)"
    [[ $output == *'errors: 0, replies: '[1-9]* ]]

    answers GET >"$COPY/wanted"
    redis_answers GET | diff -a "$COPY/wanted" -
    [ "$(grep -ac '^200' "$COPY/wanted")" -gt 2000 ]
    [ "$(grep -ac '^404' "$COPY/wanted")" -gt 100 ]
    # A second or two go by between the two questions, and more on a busy machine.
    paste -d ' ' <(answers TTL) <(redis_answers TTL) >"$COPY/ttl"
    awk '/-1$/ { none++; if ($3 != -1) exit 1; next }
        /^404/ { if ($0 != "404 NOT_FOUND 404 NOT_FOUND") exit 1; next }
        { some++; late = $3 - $6; if ($3 < 0 || late < -20 || late > 20) exit 1 }
        END { if (none < 100 || some < 100) exit 1 }' "$COPY/ttl"
    # Now to the millisecond.
    local key unixtime
    read -r key unixtime < <(tac "$DATA" | sed -n 's/^KV\/1.0 EXPIREAT //p')
    [ "$("$1-cli" -s "$SOCKET" PEXPIRETIME "$key")" = "${unixtime/./}" ]
}

@test "thousands of keys, of any bytes, move to Redis" {
    needs redis-server redis-server
    moves_to redis
}

@test "thousands of keys, of any bytes, move to Valkey" {
    needs valkey valkey-server
    moves_to valkey
}

@test "awk: a deadline that was put off is the one that counts; each awk writes the same" {
    cat >"$DATA" <<'END'
# kvss data 1: the changes of a store, as requests
KV/1.0 PUT late old
KV/1.0 EXPIREAT late 1000000000.000
KV/1.0 EXPIREAT late 1999999999.250
KV/1.0 PUT gone x
KV/1.0 EXPIREAT gone 0000000001.500
KV/1.0 PUT kept x
KV/1.0 EXPIREAT kept 1000000000
KV/1.0 PUT kept  two  words 	
END
    local awk wanted='*3 $3 SET $4 late $3 old *3 $3 SET $4 gone $1 x *3 $3 SET $4 kept $1 x'
    wanted+=$' *3 $3 SET $4 kept $13  two  words \t '
    for awk in awk mawk gawk 'gawk --posix' 'busybox awk'; do
        command -v "${awk% *}" >/dev/null || continue
        run bash -c "$awk -f '$ROOT/docs/kvss-to-redis.awk' '$DATA' | tr -d '\r' | tr '\n' ' '"
        [ "${output%%'*3 $9'*}" = "$wanted" ]
        [[ $output == *' $4 late $13 1999999999250 '* && $output == *' $4 gone $4 1500 '* ]]
        [[ $output != *'$4 kept $13 1'* && $output != *1000000000* ]]
        run bash -c "echo 'KV/1.0 PUT a b' | $awk -f '$ROOT/docs/kvss-to-redis.awk'"
        [ "$status" = 1 ]
        printed 'this is no data file of kvss'
    done
}

@test "a store moves to etcd" {
    needs etcd-server etcd
    needs etcd-client etcdctl
    needs python3 python3
    serve --data "$DATA"
    local kvss=$PORT name server peer
    { echo 'KV/1.0 PUT gone x'; echo 'KV/1.0 DEL gone'
        random_requests 3 400 | grep -a '^KV/1.0 [PD]'
        printf '%s\n' "KV/1.0 PUT -a\"'\$*%s  - \"% "; } | talk >/dev/null
    sed -n 's/^KV\/1.0 PUT \([^ ]*\) .*/\1/p' "$DATA" | sort -u >"$COPY/keys"
    free_port
    server=http://127.0.0.1:$PORT
    free_port
    peer=http://127.0.0.1:$PORT
    background etcd --data-dir "$BATS_TEST_TMPDIR/etcd" --listen-client-urls "$server" \
        --advertise-client-urls "$server" --listen-peer-urls "$peer" \
        --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
    export ETCDCTL_API=3 ETCDCTL_ENDPOINTS=$server
    wait_until etcdctl endpoint health
    (cd "$COPY" && eval "$(block docs/outgrowing.md etcd)") >/dev/null
    PORT=$kvss
    while IFS= read -r name; do
        ask "KV/1.0 GET $name" >"$COPY/wanted"
        etcdctl get --print-value-only -- "$name" | sed 's/^/200 OK /' >"$COPY/got"
        [ -s "$COPY/got" ] || echo '404 NOT_FOUND' >"$COPY/got"
        diff -a "$COPY/wanted" "$COPY/got"
    done <"$COPY/keys"
    [ "$(wc -l <"$COPY/keys")" -gt 30 ]
    # A lease, as the page has it.
    local lease
    lease=$(eval "$(grep -o 'etcdctl lease grant [0-9]*' "$ROOT/docs/outgrowing.md")")
    lease=${lease#lease } lease=${lease%% *}
    etcdctl put --lease="$lease" brief x
    etcdctl lease timetolive "$lease" --keys | grep -q 'granted with TTL(60s).*\[brief\]'
}

@test "TLS in front: the page's certificate, socat and openssl" {
    needs socat socat
    needs openssl openssl
    free_port
    TLS_PORT=$PORT
    serve
    cd "$COPY"
    block docs/outgrowing.md tls | ours | sed 's/^socat/exec socat/' >tls.sh
    background bash -e tls.sh
    connects() { (exec 4<>"/dev/tcp/127.0.0.1/$TLS_PORT") 2>/dev/null; }
    wait_until connects
    client=$(block docs/outgrowing.md tls-client | ours)
    run bash -c "$client"
    echo "$output"
    [ "${lines[*]:(-3)}" = '201 CREATED 200 OK Hanoi 200 OK bye' ]
    # Whoever expects another name, or knows no certificate, does not talk to it.
    run bash -c "${client/hostname localhost/hostname elsewhere}"
    [[ $status != 0 && $output != *'201 CREATED'* && $output != *'200 OK'* ]]
    run bash -c "${client/-CAfile cert.pem/}"
    [[ $status != 0 && $output != *'201 CREATED'* && $output != *'200 OK'* ]]
}
