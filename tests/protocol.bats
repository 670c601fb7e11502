#!/usr/bin/env bats
# The rules of KV/1.0, in the order of docs/protocol.md. What every server of the lab has to do is in
# tests/public/: the first test runs those, and the others add what they leave out.

load helper
load watch

# long BYTES: so many times the letter x.
long() {
    printf '%*s' "$1" '' | tr ' ' x
}

# bad REPLY REQUEST...: one client, and each of these gets that reply.
bad() {
    local request pairs=()
    for request in "${@:2}"; do pairs+=("$request" "$1"); done
    replies "${pairs[@]}"
}

# bytes_in N: whether the server has read so many bytes, not counting this STATS all.
bytes_in() {
    stat bytes_in
    [ $((STAT - 17 * ++ASKED)) -ge "$1" ]
}

@test "the public tests: all points" {
    "$ROOT/tests/grade.sh" --patience 99 --command "'$KVSS' PORT" "$BATS_TEST_TMPDIR"
}

@test "STATS: keys, and requests served, bad ones and this one too" {
    serve
    run ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2' 'nonsense' 'KV/1.0 STATS'
    [[ ${lines[3]} =~ ^'200 OK keys=2 uptime='[0-9]+'s served=4'$ ]]
    run ask 'KV/1.0 DEL a' 'KV/1.0 STATS'
    [[ ${lines[1]} =~ ^'200 OK keys=1 uptime='[0-9]+'s served=6'$ ]]
}

@test "STATS: uptime is in whole seconds" {
    begun=$SECONDS
    uptime() { [[ $(ask 'KV/1.0 STATS') =~ uptime=([0-9]+)s ]]; }
    serve --timeout 1
    uptime
    [ "${BASH_REMATCH[1]}" -le $((SECONDS - begun + 1)) ]
    connect idle
    closed idle # a second has gone by
    uptime
    [ "${BASH_REMATCH[1]}" -ge 1 ]
    [ "${BASH_REMATCH[1]}" -le $((SECONDS - begun + 1)) ]
}

@test "STATS all: the three, then connections, refusals, bytes, memory, and requests by verb" {
    serve
    ask 'KV/1.0 PUT key value' 'KV/1.0 GET key' 'KV/1.0 GET other' 'KV/1.0 DEL other' 'KV/1.0 FROB'
    run ask 'KV/1.0 STATS all'
    [[ $output =~ ^'200 OK keys=1 uptime='[0-9]+'s served=6 '(.*)$ ]]
    rest=${BASH_REMATCH[1]}
    [[ $rest =~ ^'connections=1 refused=0 bytes_in='([0-9]+)' bytes_out='([0-9]+)' memory='([0-9]+)' '(.*)$ ]]
    # What was sent above, this request included, and what came, this reply not included.
    [ "${BASH_REMATCH[1]}" = $((21 + 15 + 17 + 17 + 12 + 17)) ]
    [ "${BASH_REMATCH[2]}" = $((12 + 13 + 14 + 14 + 16)) ]
    [ "${BASH_REMATCH[3]}" -ge 8 ]
    for count in PUT=1 GET=2 DEL=1 STATS=1 QUIT=0; do [[ " ${BASH_REMATCH[4]} " == *" $count "* ]]; done
}

@test "STATS all: memory grows with the store, and comes back" {
    serve
    store() { seq 1 5000 | sed "s/.*/KV\/1.0 PUT key& $value/" | talk >"$BATS_TEST_TMPDIR/put"; }
    value=$(long 100)
    stat memory
    [ "$STAT" = 0 ]
    store
    stat memory
    full=$STAT
    [ "$full" -gt $((5000 * 107)) ]
    # The same again, and the memory is the same: the old values are gone.
    store
    stat memory
    [ "$STAT" = "$full" ]
    seq 1 5000 | sed 's/.*/KV\/1.0 DEL key&/' | talk >"$BATS_TEST_TMPDIR/del"
    stat memory
    [ "$STAT" -lt $((full / 4)) ] # what is left is the table of chains
}

# bats test_tags=beyond
@test "--long-stats: the session of the other assignment, reply by reply" {
    serve --long-stats
    run ask 'KV/1.0 PUT name John' 'KV/1.0 GET name' 'KV/1.0 PUT name Jane' 'KV/1.0 GET name' 'KV/1.0 DEL name' \
        'KV/1.0 GET name' 'KV/1.0 STATS' 'KV/1.0 GET' 'KV/1.0 PUT keyonly' 'KV/1.0 INVALID command' 'WRONG/1.0 GET test'
    [[ $output =~ ' uptime: '[0-9]+:[0-5][0-9]:[0-5][0-9]';' ]]
    output=${output/"${BASH_REMATCH[0]}"/ uptime: 0:05:23;}
    printed '201 CREATED
200 OK John
200 OK
200 OK Jane
204 NO_CONTENT
404 NOT_FOUND
200 OK uptime: 0:05:23; connections: 1; commands_processed: 6; get_requests: 3; put_requests: 2; del_requests: 1; keys_stored: 0
400 BAD_REQUEST
400 BAD_REQUEST
400 BAD_REQUEST
426 UPGRADE_REQUIRED'
    # What STATS all answers is as it was; every request before this one is counted.
    run ask 'KV/1.0 STATS all' 'KV/1.0 STATS'
    [[ ${lines[0]} =~ ^'200 OK keys=0 uptime='[0-9]+'s served=12 connections=1 ' ]]
    [[ ${lines[1]} == *'; commands_processed: 12; get_requests: 4; put_requests: 3; del_requests: 1; keys_stored: 0' ]]
}

@test "QUIT: the server closes, even where the client does not, and nothing after it is run" {
    serve
    connect ann
    says ann 'KV/1.0 PUT a 1' 'KV/1.0 QUIT' 'KV/1.0 PUT b 2' 'KV/1.0 PUT c 3'
    hears ann '201 CREATED' '200 OK bye'
    closed ann
    replies 'KV/1.0 GET a' '200 OK 1' \
            'KV/1.0 GET b' '404 NOT_FOUND'
}

@test "rule 1: a line of 65536 bytes with its LF is taken, one more is 400" {
    serve
    value=$(long $((65536 - 14))) # the other 14: "KV/1.0 PUT k ", LF
    replies "KV/1.0 PUT k $value" '201 CREATED' \
            'KV/1.0 GET k' "200 OK $value" \
            "KV/1.0 PUT k ${value}x" '400 BAD_REQUEST' \
            'KV/1.0 DEL k' '204 NO_CONTENT'
    # The same, but all except the LF comes first, and is no line too long yet.
    serve
    connect ann
    printf 'KV/1.0 PUT k %s' "$value" >&"${TO[ann]}"
    wait_until bytes_in 65535
    says ann ''
    hears ann '201 CREATED'
}

@test "rule 1 comes before rule 2: a long line is 400 whatever it says" {
    serve
    replies "$(long 70000)" '400 BAD_REQUEST' \
            'KV/1.0 GET a' '404 NOT_FOUND' \
            "KV/2.0 $(long 500000)" '400 BAD_REQUEST' \
            'KV/1.0 GET b' '404 NOT_FOUND'
}

@test "rule 2: a line whose first field is not KV/1.0 is 426, before it is looked at any further" {
    serve
    bad '426 UPGRADE_REQUIRED' 'kv/1.0 GET foo' 'KV/1.0x GET foo' 'KV/1.' ' KV/1.0 GET foo' $'KV/1.0\tGET foo' \
        ' ' $'\r' $'KV/1.0\xff GET a'
    output=$(printf '\xff\xfe\0GET\n\0\n' | talk)
    printed $'426 UPGRADE_REQUIRED\n426 UPGRADE_REQUIRED'
}

# bats test_tags=beyond, limits
@test "rule 2: HTTP ends the connection, so that no web page can drive the server" {
    serve
    body=$'\r\n\r\nx\nKV/1.0 PUT pwned x\n'
    for header in $'POST / HTTP/1.1\r\nHost: 127.0.0.1:9000' 'OPTIONS /a/b HTTP/1.0' 'HOST: a' 'host:'; do
        run talk <<<"$header$body"
        printed '426 UPGRADE_REQUIRED'
    done
    # An address so long that its line is refused and skipped: the next one is Host.
    run talk <<<"POST /$(long 70000) HTTP/1.1"$'\r\nHost: a'"$body"
    printed $'400 BAD_REQUEST\n426 UPGRADE_REQUIRED'
    # The server closes, also where the client does not.
    connect browser
    says browser 'GET / HTTP/1.1'
    hears browser '426 UPGRADE_REQUIRED'
    closed browser
    [ "$(grep -c ' bad 127\.0\.0\.1:[0-9]* .*HTTP' "$LOG")" = 6 ]
    # What only looks like it does no harm.
    replies 'KV/1.0 GET pwned' '404 NOT_FOUND' \
            'GET /' '426 UPGRADE_REQUIRED' \
            'HTTP/1.1' '426 UPGRADE_REQUIRED' \
            'GET / HTTP/1.1 foo' '426 UPGRADE_REQUIRED' \
            'Hosts: a' '426 UPGRADE_REQUIRED' \
            'KV/1.0 PUT a GET / HTTP/1.1' '201 CREATED' \
            'KV/1.0 GET a' '200 OK GET / HTTP/1.1'
}

@test "rule 3: what is not UTF-8, or has a NUL in it, is 400" {
    serve
    # A lone continuation, a lead without one, overlong 2, 3 and 4 bytes, a surrogate, past U+10FFFF,
    # leads that do not exist, a character cut short by the end of the line.
    for bytes in $'\x80' $'\xc3' $'\xc0\xaf' $'\xc1\xbf' $'\xe0\x9f\xbf' $'\xf0\x8f\xbf\xbf' $'\xed\xa0\x80' \
        $'\xed\xbf\xbf' $'\xf4\x90\x80\x80' $'\xf5\x80\x80\x80' $'\xff' $'\xe2\x82' $'\xf0\x9f\x98'; do
        wrong+=("KV/1.0 PUT k a$bytes" "KV/1.0 PUT $bytes v")
    done
    bad '400 BAD_REQUEST' "${wrong[@]}"
    # The line goes on after a NUL.
    output=$(printf 'KV/1.0 GET a\0b\nKV/1.0 PUT a \0\nKV/1.0 \0\nKV/1.0 GET a\n' | talk)
    printed $'400 BAD_REQUEST\n400 BAD_REQUEST\n400 BAD_REQUEST\n404 NOT_FOUND'
}

@test "rule 3: the first and last character of each length are taken" {
    serve
    for bytes in $'\x7f' $'\xc2\x80' $'\xdf\xbf' $'\xe0\xa0\x80' $'\xed\x9f\xbf' $'\xee\x80\x80' \
        $'\xef\xbf\xbf' $'\xf0\x90\x80\x80' $'\xf4\x8f\xbf\xbf'; do
        pairs+=("KV/1.0 PUT k $bytes" '201 CREATED' 'KV/1.0 GET k' "200 OK $bytes" 'KV/1.0 DEL k' '204 NO_CONTENT')
    done
    replies "${pairs[@]}"
}

@test "rule 4: verbs are upper case and whole, with as many arguments as they need, none of them empty" {
    serve
    bad '400 BAD_REQUEST' 'KV/1.0 get foo' 'KV/1.0 GETT foo' 'KV/1.0 GE foo' \
        'KV/1.0 GET a b' 'KV/1.0 DEL a b' 'KV/1.0 STATS some' 'KV/1.0 STATS all all' 'KV/1.0 QUIT now' \
        'KV/1.0 ' 'KV/1.0  GET a' 'KV/1.0 GET ' 'KV/1.0 GET  a' 'KV/1.0 GET a ' 'KV/1.0 PUT  a' 'KV/1.0 PUT a ' \
        'KV/1.0 PUT ' 'KV/1.0 STATS ' 'KV/1.0 QUIT '
}

@test "rule 4: a key has 250 bytes or fewer, and no control character" {
    serve
    key=$(long 250)
    replies "KV/1.0 PUT $key v" '201 CREATED' \
            "KV/1.0 GET $key" '200 OK v' \
            "KV/1.0 PUT ${key}x v" '400 BAD_REQUEST' \
            "KV/1.0 GET ${key}x" '400 BAD_REQUEST' \
            "KV/1.0 DEL $key" '204 NO_CONTENT'
    for c in $'\x01' $'\t' $'\x1b' $'\x1f' $'\x7f' $'\r'; do
        pairs+=("KV/1.0 PUT a${c}b v" '400 BAD_REQUEST' "KV/1.0 GET ${c}a" '400 BAD_REQUEST')
    done
    # Wherever it is in a key: a server may look at eight bytes at once.
    key=$(long 20)
    for i in {0..19}; do pairs+=("KV/1.0 GET ${key::i}"$'\t'"${key:i + 1}" '400 BAD_REQUEST'); done
    replies "${pairs[@]}"
}

@test "a value is the rest of the line, spaces, tabs, control characters and all" {
    serve
    for value in '  two  before, two after  ' $'\ttabs\t' ' ' 'KV/1.0 GET a' '=' $'\x01' $'x\ty' $'\x1b' $'\x1f' $'\x7f' $'x\ry'; do
        pairs+=("KV/1.0 PUT k $value" '201 CREATED' 'KV/1.0 GET k' "200 OK $value" 'KV/1.0 DEL k' '204 NO_CONTENT')
    done
    replies "${pairs[@]}"
}

@test "one CR before the LF is dropped, and only one" {
    serve
    replies $'KV/1.0 PUT k v\r' '201 CREATED' \
            $'KV/1.0 GET k\r' '200 OK v' \
            $'KV/1.0 PUT k v\r\r' '200 OK' \
            'KV/1.0 GET k' $'200 OK v\r' \
            $'KV/1.0 PUT k \r' '400 BAD_REQUEST' \
            $'KV/1.0 STATS\r\r' '400 BAD_REQUEST'
}

@test "a line without its LF at the end of the stream is 400 and not run" {
    serve
    output=$(printf 'KV/1.0 PUT a 1\nKV/1.0 PUT b 2' | talk)
    printed $'201 CREATED\n400 BAD_REQUEST'
    replies 'KV/1.0 GET b' '404 NOT_FOUND'
    for line in 'PUT b 2' 'KV/2.0 PUT b 2' 'KV/1.0 MANAGE 1 GET b'; do
        output=$(printf '%s' "$line" | talk)
        printed '400 BAD_REQUEST'
    done
    output=$(printf '' | talk)
    printed ''
}

@test "--explain: 400 and 426 say why, every other reply is bare" {
    serve --explain
    bad '400 BAD_REQUEST *' 'KV/1.0' 'KV/1.0 POTT user42 Alice' 'KV/1.0 GET a b' 'KV/1.0 DEL' 'KV/1.0 STATS some' \
        'KV/1.0 QUIT now' 'KV/1.0 PUT a ' $'KV/1.0 GET a\tb' $'KV/1.0 GET \xff'
    replies 'GET foo' '426 UPGRADE_REQUIRED *' \
            'KV/1.0 GET foo' '404 NOT_FOUND'
    run ask 'KV/1.0 PUT foo' "KV/1.0 GET $(long 251)" "$(long 65536)" 'GET foo'
    [[ ${lines[0]} == '400 BAD_REQUEST '*PUT*key*value* ]]
    [[ ${lines[1]} == '400 BAD_REQUEST '*250* ]]
    [[ ${lines[2]} == '400 BAD_REQUEST '*65536* ]]
    [[ ${lines[3]} == '426 UPGRADE_REQUIRED '*KV/1.0* ]]
    output=$(printf 'half' | talk)
    printed '400 BAD_REQUEST *'
}

@test "the reason stands in the log, without --explain too, but no client can fill it with bad requests" {
    serve
    replies 'KV/1.0 PUT foo' '400 BAD_REQUEST' \
            'GET foo' '426 UPGRADE_REQUIRED'
    grep -q ' bad 127\.0\.0\.1:[0-9]* .*PUT.*key.*value' "$LOG"
    grep -q ' bad 127\.0\.0\.1:[0-9]* .*KV/1.0' "$LOG"
    seq 1 1000 | talk >"$BATS_TEST_TMPDIR/replies"
    [ "$(grep -c ' bad ' "$LOG")" = 22 ]
}

# Each reply is known beforehand: awk keeps the keys as the server has to.
@test "3,000 random requests on 200 keys get the replies of a model" {
    serve --quiet
    awk -v wanted="$BATS_TEST_TMPDIR/wanted" 'BEGIN {
        srand(5)
        for (i = 0; i < 3000; i++) {
            key = "key" int(rand() * 200); what = rand(); end = rand() < 0.3 ? "\r\n" : "\n"
            if (what < 0.35) { printf "KV/1.0 PUT %s value %d%s", key, i, end
                print key in kept ? "200 OK" : "201 CREATED" >wanted; kept[key] = i }
            else if (what < 0.6) { printf "KV/1.0 GET %s%s", key, end
                print key in kept ? "200 OK value " kept[key] : "404 NOT_FOUND" >wanted }
            else if (what < 0.9) { printf "KV/1.0 DEL %s%s", key, end
                print key in kept ? "204 NO_CONTENT" : "404 NOT_FOUND" >wanted; delete kept[key] }
            else if (what < 0.95) { printf "KV/1.0 %s %s v w%s", rand() < 0.5 ? "GET" : "DEL", key, end
                print "400 BAD_REQUEST" >wanted }
            else { printf "KV/1.%d PUT %s v%s", 1 + rand() * 9, key, end; print "426 UPGRADE_REQUIRED" >wanted }
        } }' >"$BATS_TEST_TMPDIR/requests"
    talk <"$BATS_TEST_TMPDIR/requests" | cmp - "$BATS_TEST_TMPDIR/wanted"
}
