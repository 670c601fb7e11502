#!/usr/bin/env bats
# The rules of KV/1.0, one by one, in the order of docs/protocol.md.

load helper

# long BYTES: so many times the letter x.
long() {
    printf '%*s' "$1" '' | tr ' ' x
}

@test "PUT: 201 for a new key, 200 for an update" {
    serve
    replies 'KV/1.0 PUT foo bar' '201 CREATED' \
            'KV/1.0 PUT foo baz' '200 OK'
}

@test "GET: the value, or 404" {
    serve
    replies 'KV/1.0 GET foo' '404 NOT_FOUND' \
            'KV/1.0 PUT foo bar' '201 CREATED' \
            'KV/1.0 GET foo' '200 OK bar'
}

@test "DEL: 204, then 404" {
    serve
    replies 'KV/1.0 PUT foo bar' '201 CREATED' \
            'KV/1.0 DEL foo' '204 NO_CONTENT' \
            'KV/1.0 DEL foo' '404 NOT_FOUND' \
            'KV/1.0 GET foo' '404 NOT_FOUND'
}

@test "STATS: keys, uptime, and requests served, bad ones and this one too" {
    serve
    run ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2' 'nonsense' 'KV/1.0 STATS'
    [[ ${lines[3]} =~ ^'200 OK keys=2 uptime='[0-9]+'s served=4'$ ]]
    run ask 'KV/1.0 DEL a' 'KV/1.0 STATS'
    [[ ${lines[1]} =~ ^'200 OK keys=1 uptime='[0-9]+'s served=6'$ ]]
}

@test "STATS: uptime is in whole seconds" {
    uptime() { ask 'KV/1.0 STATS' | sed 's/.*uptime=\([0-9]*\)s.*/\1/'; }
    begun=$SECONDS
    serve
    [ "$(uptime)" -le $((SECONDS - begun + 1)) ]
    later() { [ "$(uptime)" -ge 1 ]; }
    wait_until 10 later
    [ "$(uptime)" -le $((SECONDS - begun + 1)) ]
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

@test "--long-stats: the session of the other assignment, reply by reply" {
    serve --long-stats
    run ask 'KV/1.0 PUT name John' 'KV/1.0 GET name' 'KV/1.0 PUT name Jane' 'KV/1.0 GET name' 'KV/1.0 DEL name' \
        'KV/1.0 GET name' 'KV/1.0 STATS' 'KV/1.0 GET' 'KV/1.0 PUT keyonly' 'KV/1.0 INVALID command' 'WRONG/1.0 GET test'
    output=$(sed -E 's/uptime: [0-9]+:[0-5][0-9]:[0-5][0-9];/uptime: 0:05:23;/' <<<"$output")
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

@test "STATS all: memory grows with the store, and comes back" {
    memory_held() { ask 'KV/1.0 STATS all' | sed 's/.* memory=\([0-9]*\) .*/\1/'; }
    serve
    [ "$(memory_held)" = 0 ]
    seq 1 5000 | sed "s/.*/KV\/1.0 PUT key& $(long 100)/" | talk >/dev/null
    full=$(memory_held)
    # The same again, and the memory is the same: the old values are gone.
    seq 1 5000 | sed "s/.*/KV\/1.0 PUT key& $(long 100)/" | talk >/dev/null
    [ "$(memory_held)" = "$full" ]
    [ "$full" -gt $((5000 * 107)) ]
    seq 1 5000 | sed 's/.*/KV\/1.0 DEL key&/' | talk >/dev/null
    [ "$(memory_held)" -lt $((full / 10)) ]
}

@test "QUIT: bye, the connection is closed, and nothing after it is run" {
    serve
    replies 'KV/1.0 QUIT' '200 OK bye'
    run ask 'KV/1.0 PUT a 1' 'KV/1.0 QUIT' 'KV/1.0 PUT b 2' 'KV/1.0 PUT c 3'
    printed $'201 CREATED\n200 OK bye'
    replies 'KV/1.0 GET a' '200 OK 1' \
            'KV/1.0 GET b' '404 NOT_FOUND'
}

@test "QUIT: the server closes, even where the client does not" {
    serve
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    exec 9<>"$BATS_TEST_TMPDIR/fifo" # open for writing too, so nc waits for more all the time
    echo 'KV/1.0 QUIT' >&9
    timeout 600 nc 127.0.0.1 "$PORT" <&9 >/dev/null 3>&- 9>&- &
    wait_until 20 grep -q ' disconnect ' "$LOG"
    kill $! 2>/dev/null || :
    exec 9>&-
}

@test "rule 1: a line of 65536 bytes with its LF is taken, one more is 400" {
    serve
    value=$(long $((65536 - 14))) # the other 14: "KV/1.0 PUT k ", LF
    run ask "KV/1.0 PUT k $value"
    printed '201 CREATED'
    [ "$(ask 'KV/1.0 GET k')" = "200 OK $value" ]
    # The same, but all except the LF comes first, and is no line too long yet.
    exec 8<>"/dev/tcp/127.0.0.1/$PORT"
    printf 'KV/1.0 PUT k %s' "$value" >&8
    arrived() { [[ $(ask 'KV/1.0 STATS all') =~ bytes_in=([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 131084 ]; }
    wait_until 10 arrived
    echo >&8
    read -r -u 8 line
    [ "$line" = '200 OK' ]
    exec 8>&-
    run ask "KV/1.0 PUT k ${value}x" 'KV/1.0 DEL k'
    printed $'400 BAD_REQUEST\n204 NO_CONTENT'
}

@test "rule 1 comes before rule 2: a long line is 400 whatever it says" {
    serve
    run ask "$(long 70000)" 'KV/1.0 GET a' "KV/2.0 $(long 200000)" 'KV/1.0 GET b'
    printed $'400 BAD_REQUEST\n404 NOT_FOUND\n400 BAD_REQUEST\n404 NOT_FOUND'
}

@test "rule 2: a line whose first field is not KV/1.0 is 426" {
    serve
    replies 'GET foo' '426 UPGRADE_REQUIRED' \
            'KV/2.0 GET foo' '426 UPGRADE_REQUIRED' \
            'WRONG/1.0 GET test' '426 UPGRADE_REQUIRED' \
            'kv/1.0 GET foo' '426 UPGRADE_REQUIRED' \
            'KV/1.0x GET foo' '426 UPGRADE_REQUIRED' \
            'KV/1.' '426 UPGRADE_REQUIRED' \
            ' KV/1.0 GET foo' '426 UPGRADE_REQUIRED' \
            $'KV/1.0\tGET foo' '426 UPGRADE_REQUIRED' \
            '' '426 UPGRADE_REQUIRED' \
            ' ' '426 UPGRADE_REQUIRED' \
            $'\r' '426 UPGRADE_REQUIRED'
}

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
    replies 'KV/1.0 GET pwned' '404 NOT_FOUND'
    [ "$(grep -c ' bad 127\.0\.0\.1:[0-9]* this is HTTP: nothing after it is run$' "$LOG")" = 5 ]
    # The server closes, also where the client does not.
    connect
    printf 'GET / HTTP/1.1\n' >&"$FD"
    [ "$(timeout $((20 * PATIENCE)) cat <&"$FD")" = '426 UPGRADE_REQUIRED' ]
    hang_up "$FD"
    # What only looks like it does no harm.
    replies 'GET foo' '426 UPGRADE_REQUIRED' \
            'GET /' '426 UPGRADE_REQUIRED' \
            'HTTP/1.1' '426 UPGRADE_REQUIRED' \
            'GET / HTTP/1.1 foo' '426 UPGRADE_REQUIRED' \
            'Hosts: a' '426 UPGRADE_REQUIRED' \
            'KV/1.0 PUT a GET / HTTP/1.1' '201 CREATED' \
            'KV/1.0 GET a' '200 OK GET / HTTP/1.1'
}

@test "rule 2 comes before rule 3: garbage without the version is 426" {
    serve
    output=$(printf '\xff\xfe\0GET\n\0\nKV/1.0\xff GET a\n' | talk)
    printed $'426 UPGRADE_REQUIRED\n426 UPGRADE_REQUIRED\n426 UPGRADE_REQUIRED'
}

@test "rule 3: what is not UTF-8 is 400" {
    serve
    # A lone continuation, a lead without one, overlong 2, 3 and 4 bytes, a surrogate, past U+10FFFF,
    # leads that do not exist, a character cut short by the end of the line.
    for bytes in '\x80' '\xc3' '\xc0\xaf' '\xc1\xbf' '\xe0\x9f\xbf' '\xf0\x8f\xbf\xbf' \
        '\xed\xa0\x80' '\xed\xbf\xbf' '\xf4\x90\x80\x80' '\xf5\x80\x80\x80' '\xff' '\xe2\x82' \
        '\xf0\x9f\x98'; do
        # shellcheck disable=SC2059 # the bytes are escapes
        output=$(printf "KV/1.0 PUT k a${bytes}\nKV/1.0 PUT ${bytes} v\n" | talk)
        printed $'400 BAD_REQUEST\n400 BAD_REQUEST'
    done
}

@test "rule 3: the first and last character of each length are taken" {
    serve
    for bytes in '\x7f' '\xc2\x80' '\xdf\xbf' '\xe0\xa0\x80' '\xed\x9f\xbf' '\xee\x80\x80' \
        '\xef\xbf\xbf' '\xf0\x90\x80\x80' '\xf4\x8f\xbf\xbf'; do
        # shellcheck disable=SC2059
        output=$(printf "KV/1.0 PUT k ${bytes}\nKV/1.0 GET k\nKV/1.0 DEL k\n" | talk)
        # shellcheck disable=SC2059
        printed "$(printf "201 CREATED\n200 OK ${bytes}\n204 NO_CONTENT")"
    done
    replies 'KV/1.0 PUT thành_phố Hà Nội' '201 CREATED' \
            'KV/1.0 GET thành_phố' '200 OK Hà Nội'
}

@test "rule 3: a NUL is 400, and the line goes on after it" {
    serve
    output=$(printf 'KV/1.0 GET a\0b\nKV/1.0 PUT a \0\nKV/1.0 \0\nKV/1.0 GET a\n' | talk)
    printed $'400 BAD_REQUEST\n400 BAD_REQUEST\n400 BAD_REQUEST\n404 NOT_FOUND'
}

@test "rule 4: an unknown verb is 400; verbs are upper case" {
    serve
    replies 'KV/1.0 POTT user42 Alice' '400 BAD_REQUEST' \
            'KV/1.0 get foo' '400 BAD_REQUEST' \
            'KV/1.0 GETT foo' '400 BAD_REQUEST' \
            'KV/1.0 GE foo' '400 BAD_REQUEST' \
            'KV/1.0' '400 BAD_REQUEST'
}

@test "rule 4: an argument too few or too many is 400" {
    serve
    replies 'KV/1.0 PUT' '400 BAD_REQUEST' \
            'KV/1.0 PUT keyonly' '400 BAD_REQUEST' \
            'KV/1.0 GET' '400 BAD_REQUEST' \
            'KV/1.0 GET a b' '400 BAD_REQUEST' \
            'KV/1.0 DEL' '400 BAD_REQUEST' \
            'KV/1.0 DEL a b' '400 BAD_REQUEST' \
            'KV/1.0 STATS some' '400 BAD_REQUEST' \
            'KV/1.0 STATS all all' '400 BAD_REQUEST' \
            'KV/1.0 QUIT now' '400 BAD_REQUEST' \
            'KV/1.0 GET a' '404 NOT_FOUND'
}

@test "rule 4: an empty field is 400" {
    serve
    replies 'KV/1.0 ' '400 BAD_REQUEST' \
            'KV/1.0  GET a' '400 BAD_REQUEST' \
            'KV/1.0 GET ' '400 BAD_REQUEST' \
            'KV/1.0 GET  a' '400 BAD_REQUEST' \
            'KV/1.0 GET a ' '400 BAD_REQUEST' \
            'KV/1.0 PUT  a' '400 BAD_REQUEST' \
            'KV/1.0 PUT a ' '400 BAD_REQUEST' \
            'KV/1.0 PUT ' '400 BAD_REQUEST' \
            'KV/1.0 STATS ' '400 BAD_REQUEST' \
            'KV/1.0 QUIT ' '400 BAD_REQUEST'
}

@test "rule 4: a key of 250 bytes is taken, one of 251 is 400" {
    serve
    key=$(long 250)
    replies "KV/1.0 PUT $key v" '201 CREATED' \
            "KV/1.0 GET $key" '200 OK v' \
            "KV/1.0 PUT ${key}x v" '400 BAD_REQUEST' \
            "KV/1.0 GET ${key}x" '400 BAD_REQUEST' \
            "KV/1.0 DEL $key" '204 NO_CONTENT'
}

@test "rule 4: a key with a control character is 400, a value may have them" {
    serve
    for c in $'\x01' $'\t' $'\x1b' $'\x1f' $'\x7f' $'\r'; do
        replies "KV/1.0 PUT a${c}b v" '400 BAD_REQUEST' \
                "KV/1.0 GET ${c}a" '400 BAD_REQUEST' \
                "KV/1.0 PUT k x${c}y" '201 CREATED' \
                'KV/1.0 GET k' "200 OK x${c}y" \
                'KV/1.0 DEL k' '204 NO_CONTENT'
    done
}

@test "a value is the rest of the line, spaces and tabs and all" {
    serve
    for value in 'two words' '  two  before, two after  ' $'\ttabs\t' ' ' 'KV/1.0 GET a' '='; do
        replies "KV/1.0 PUT k $value" '201 CREATED' \
                'KV/1.0 GET k' "200 OK $value" \
                'KV/1.0 DEL k' '204 NO_CONTENT'
    done
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
    replies 'KV/1.0 PUT foo' '400 BAD_REQUEST PUT needs a key and a value' \
            'GET foo' '426 UPGRADE_REQUIRED a request begins with KV/1.0 and a space' \
            'KV/1.0' '400 BAD_REQUEST the verb is missing' \
            'KV/1.0 POTT user42 Alice' '400 BAD_REQUEST there is no such verb; verbs are upper case' \
            'KV/1.0 GET a b' '400 BAD_REQUEST GET needs a key and nothing more' \
            'KV/1.0 DEL' '400 BAD_REQUEST DEL needs a key and nothing more' \
            'KV/1.0 STATS some' '400 BAD_REQUEST STATS takes nothing or the word all' \
            'KV/1.0 QUIT now' '400 BAD_REQUEST QUIT takes nothing' \
            'KV/1.0 PUT a ' '400 BAD_REQUEST a field is empty: one space stands between two fields' \
            "KV/1.0 GET $(long 251)" '400 BAD_REQUEST the key is longer than 250 bytes' \
            $'KV/1.0 GET a\tb' '400 BAD_REQUEST the key has a control character in it' \
            $'KV/1.0 GET \xff' '400 BAD_REQUEST the line is not UTF-8, or has a NUL in it' \
            "$(long 65536)" '400 BAD_REQUEST the line is longer than 65536 bytes' \
            'KV/1.0 GET foo' '404 NOT_FOUND'
    output=$(printf 'half' | talk)
    printed '400 BAD_REQUEST the line has no LF'
}

@test "the reason for a 400 or 426 stands in the log, without --explain too" {
    serve
    ask 'KV/1.0 PUT foo' 'GET foo'
    grep -q ' bad 127\.0\.0\.1:[0-9]* PUT needs a key and a value$' "$LOG"
    grep -q ' bad 127\.0\.0\.1:[0-9]* a request begins with KV/1.0 and a space$' "$LOG"
}

@test "one client can't fill the log with bad requests" {
    serve
    seq 1 1000 | talk >/dev/null
    [ "$(grep -c ' bad ' "$LOG")" = 20 ]
}
