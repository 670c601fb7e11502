#!/usr/bin/env bats
# Beyond the lab: --frames opens a second port, for the mailboxes' old wire. There, a request and a reply
# are frames: a verb in 15 bytes, and its arguments.

# shellcheck disable=SC2153 # PORT and FRAMES are set by serve_frames
load helper
load watch
load mailboxes

printf -v NULS '\\0%.0s' {1..1024} # for the format of printf; a variable can't hold a NUL

# frame VERB [ARGUMENTS]: a frame as the assignment's client sends it: no longer than it needs to be.
# (bash writes it at once, if there is no LF in it.)
frame() {
    printf "%s${NULS:0:2 * (15 - ${#1})}%s" "$1" "${2-}"
}

# padded VERB [ARGUMENTS]: the same, with NULs up to 1,024 bytes.
padded() {
    printf "%s${NULS:0:2 * (15 - ${#1})}%s${NULS:0:2 * (1009 - ${#2})}" "$1" "${2-}"
}

# gets NAME VERB [ARGUMENTS]: the next 1,024 bytes that come to NAME are just this frame. "*" stands for any
# arguments, but not for none.
gets() {
    local verb='' arguments='' rest fd=${FROM[$1]}
    IFS= read -r -d '' -n 15 -t "$PATIENCE" -u "$fd" verb || verb='nothing, or the end'
    if [ "$verb" = "$2" ]; then
        mapfile -d '' -n $((14 - ${#verb})) -u "$fd" rest
        IFS= read -r -d '' -n 1009 -t "$PATIENCE" -u "$fd" arguments || :
        [ ${#arguments} -ge 1008 ] || mapfile -d '' -n $((1008 - ${#arguments})) -u "$fd" rest
    fi
    [ "${3-}" != '*' ] || [ -z "$arguments" ] || set -- "$1" "$2" "$arguments"
    if [ "$verb $arguments" != "$2 ${3-}" ] || [[ ${rest[*]} == *[!\ ]* ]]; then
        printf 'expected:\n%s %.300s\nbut got:\n%s %.300s\n' "$2" "${3-}" "$verb" "$arguments" >&2
        return 1
    fi
}

# exchange NAME VERB ARGUMENTS REPLY ARGUMENTS [...]: NAME sends the frame, and gets the reply; and so on.
exchange() {
    local name=$1
    shift
    while [ $# -gt 0 ]; do
        frame "$1" "$2" >&"${TO[$name]}"
        gets "$name" "$3" "$4" || { printf 'to: %s %.300s\n' "$1" "$2" >&2; return 1; }
        shift 4
    done
}

@test "the session of the assignment: three terminals, with nc" {
    serve_frames
    connect two "$FRAMES"
    connect three "$FRAMES"
    exchange two create user2 ok ''
    exchange three create user3 ok ''
    exchange two list '' list user2,user3 \
                 send user3,hello ok ''
    exchange three connect user3 ok ''
    gets three string hello
    exchange two send user3,helloagain ok ''
    gets three string helloagain
}

@test "create, delete, list, send, connect: ok, notok, list, string" {
    serve_frames
    connect one "$FRAMES"
    exchange one create bob ok '' \
                 create bob notok '' \
                 create ann ok '' \
                 list '' list ann,bob \
                 list '^b' list bob \
                 list 'n{2,3}' list ann \
                 list 'x' list '' \
                 send 'bob,hello, you, all' ok '' \
                 send bob,two ok '' \
                 send bob,three ok '' \
                 send 'nobody,hello' notok '' \
                 connect nobody notok ''
    connect two "$FRAMES"
    # Messages that wait are a frame each: recv(1024) always gets one whole.
    exchange two connect bob ok ''
    gets two string 'hello, you, all'
    gets two string two
    gets two string three
    exchange one delete bob ok '' \
                 delete bob notok '' \
                 list '' list ann
}

@test "a mailbox that is full is notok, and so are too many users" {
    serve_frames --quiet --max-mailboxes-per-client 10000
    ask 'KV/1.0 CREATE bob'
    seq 1 1000 | sed 's/^/KV\/1.0 SEND bob /' | talk >/dev/null
    connect one "$FRAMES"
    exchange one send bob,more notok '' \
                 delete bob ok ''
    seq 1 10000 | sed 's/^/KV\/1.0 CREATE u/' | talk >/dev/null
    exchange one create more notok ''
}

@test "garbage is an error, and the connection goes on" {
    serve_frames
    connect one "$FRAMES"
    for garbage in 'list' 'frobnicate     ' $'list\n' 'LIST           ' 'KV/1.0 GET key and more' 'create,bob' \
        'xxxxxxxxxxxxxxxbob'; do
        printf '%s' "$garbage" >&"${TO[one]}"
        gets one error
    done
    # A verb that does not exist, is in upper case, goes on after a NUL, or has a letter past the 15th.
    for verb in frob List LIST 'li~t' 'create bob' createbobcreate 'list '; do
        exchange one "$verb" bob error ''
    done
    for bytes in 'li\0st\0\0\0\0\0\0\0\0\0\0' 'list\0st\0\0\0\0\0\0\0\0' '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0list' '\0'; do
        # shellcheck disable=SC2059 # a format
        printf "$bytes" >&"${TO[one]}"
        gets one error
    done
    # Arguments that are missing, too many, or not what a name or a text can be.
    exchange one create '' error '' \
                 create 'a,b' error '' \
                 create 'a b' error '' \
                 create $'a\tb' error '' \
                 create $'a\xff' error '' \
                 create "$(printf '%0251d' 0)" error '' \
                 connect '' error '' \
                 delete '' error '' \
                 send '' error '' \
                 send bob error '' \
                 send bob, error '' \
                 send ,text error '' \
                 list '(' error '' \
                 list '' list ''
    # A text can't break the lines of KV/1.0.
    exchange one create bob ok ''
    frame send $'bob,hello\n200 OK forged' >"$BATS_TEST_TMPDIR/frame"
    cat "$BATS_TEST_TMPDIR/frame" >&"${TO[one]}" # at once, which bash does not do here
    gets one error
    replies 'KV/1.0 CONNECT bob' '200 OK 0'
}

@test "HTTP ends the connection: a page in a browser can't send frames" {
    serve_frames
    # The body comes after the error, so that it would be a frame of its own.
    connect one "$FRAMES"
    printf 'POST / HTTP/1.1\r\nHost: a\r\n\r\n' >&"${TO[one]}"
    gets one error
    frame create pwned >&"${TO[one]}"
    closed one
    # Or it begins where a frame is cut.
    connect two "$FRAMES"
    printf 'POST / HTTP/1.1\r\nHost: a\r\nx: %0991d\r\n\r\n' 0 >"$BATS_TEST_TMPDIR/page"
    [ "$(wc -c <"$BATS_TEST_TMPDIR/page")" = 1024 ]
    frame create pwned >>"$BATS_TEST_TMPDIR/page"
    cat "$BATS_TEST_TMPDIR/page" >&"${TO[two]}"
    gets two error
    closed two
    replies 'KV/1.0 LIST' '200 OK'
}

@test "nothing on this port can reach the key-value store" {
    serve_frames
    ask 'KV/1.0 PUT key value'
    connect one "$FRAMES"
    for verb in get put del stats quit whoami auth manage; do
        for arguments in '' key key,value 'key value'; do exchange one "$verb" "$arguments" error ''; done
    done
    # A line of KV/1.0 is a frame like any other, and a bad one.
    printf 'KV/1.0 GET key\n' >&"${TO[one]}"
    gets one error
    replies 'KV/1.0 GET key' '200 OK value'
}

@test "--explain: an error says why" {
    serve_frames --explain
    connect one "$FRAMES"
    exchange one create a,b error '*' \
                 frob bob error '*' \
                 send bob error '*'
}

@test "one mailbox, two wires: SEND reaches connect, and send reaches CONNECT" {
    serve_frames
    connect old "$FRAMES"
    connect new
    exchange old create bob ok ''
    says new 'KV/1.0 CREATE ann';          hears new '201 CREATED'
    exchange old connect bob ok ''
    says new 'KV/1.0 CONNECT ann';         hears new '200 OK 0'
    says new 'KV/1.0 SEND bob one, two';   hears new '200 OK'
    gets old string 'one, two'
    exchange old send 'ann,three, four' ok ''
    hears new '100 MESSAGE ann three, four'
    says new 'KV/1.0 LIST';                hears new '200 OK ann bob'
    exchange old list '' list ann,bob
    # The newest connection has the mailbox, on whichever wire.
    says new 'KV/1.0 CONNECT bob';         hears new '200 OK 0'
    exchange old send bob,hi ok ''
    hears new '100 MESSAGE bob hi'
    exchange old connect bob ok ''
    says new 'KV/1.0 SEND bob back';       hears new '200 OK'
    gets old string back
}

@test "a list longer than a frame comes in several, each of whole names" {
    serve_frames
    long=$(printf '%0240d' 0)
    connect one
    connect two "$FRAMES"
    for i in {1..9}; do says one "KV/1.0 CREATE u$i$long"; hears one '201 CREATED'; done
    exchange two list '' list "u1$long,u2$long,u3$long,u4$long"
    gets two list "u5$long,u6$long,u7$long,u8$long"
    gets two list "u9$long"
    # Names of 1,009 bytes, commas included, are just a frame; one byte more is another.
    for i in {1..9}; do says one "KV/1.0 DELETE u$i$long"; hears one '204 NO_CONTENT'; done
    four=
    for i in {1..4}; do
        printf -v name '%d%0249d' "$i" 0
        says one "KV/1.0 CREATE $name"; hears one '201 CREATED'
        four+=$name,
    done
    exchange two create 99999 ok '' \
                 list '' list "${four}99999" \
                 delete 99999 ok '' \
                 create 999999 ok '' \
                 list '' list "${four%,}"
    gets two list 999999
}

@test "a message longer than a frame comes in several, each of whole characters" {
    serve_frames
    ascii=$(printf '%01008d' 0)
    connect one
    connect two "$FRAMES"
    exchange two create bob ok '' \
                 connect bob ok ''
    says one "KV/1.0 SEND bob ${ascii}ộ" "KV/1.0 SEND bob ${ascii}1" "KV/1.0 SEND bob ${ascii}${ascii}${ascii}"
    gets two string "$ascii"
    gets two string 'ộ'
    gets two string "${ascii}1"
    gets two string "${ascii}0"
    gets two string "${ascii}0"
    gets two string "$(printf '%01006d' 0)"
    hears one '200 OK' '200 OK' '200 OK'
    # 8,000 bytes of characters of 1, 2 and 3 bytes. 1,009 bytes are a frame, but for what would be half a character.
    printf -v long 'Hà Nội.%.0s' {1..800}
    says one "KV/1.0 SEND bob $long"
    while [ -n "$long" ]; do
        part=${long:0:1009}
        # A byte of the form 10xxxxxx goes on with a character.
        while [[ ${long:${#part}:1} == [$'\x80'-$'\xbf'] ]]; do part=${part%?}; done
        gets two string "$part"
        long=${long:${#part}}
    done
}

@test "frames padded to 1,024 bytes may come in one read, and every one is answered" {
    serve_frames
    connect one "$FRAMES"
    { for i in {1..50}; do padded create "u$i"; done; padded list '^u1$'; } >&"${TO[one]}"
    for i in {1..50}; do gets one ok; done
    gets one list u1
    # Padded ones, and one more of its own length.
    { padded create a; padded create b; frame create c; } >"$BATS_TEST_TMPDIR/three"
    cat "$BATS_TEST_TMPDIR/three" >&"${TO[one]}"
    gets one ok
    gets one ok
    gets one ok
    exchange one list '^[abc]$' list a,b,c
}

@test "a padded frame may come in two parts, if its padding is what is cut" {
    serve_frames --verbose
    connect one "$FRAMES"
    padded create a >&"${TO[one]}";            gets one ok
    { padded create b; padded create c; } >"$BATS_TEST_TMPDIR/two"
    head -c 1500 "$BATS_TEST_TMPDIR/two" >&"${TO[one]}"
    gets one ok
    gets one ok
    { tail -c +1501 "$BATS_TEST_TMPDIR/two"; padded create d; } >"$BATS_TEST_TMPDIR/rest"
    cat "$BATS_TEST_TMPDIR/rest" >&"${TO[one]}"
    gets one ok
    exchange one list '' list a,b,c,d
    # Not more than what was missing.
    head -c 1010 /dev/zero >&"${TO[one]}"
    gets one error
}

@test "the flaw of the old wire: two frames in one read are one, and a bad one" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve_frames
    connect one "$FRAMES"
    exchange one create bob ok ''
    # Sent one after the other, but the server looks only when both are there.
    freeze "$PID"
    frame send bob,one >&"${TO[one]}"
    frame send bob,two >&"${TO[one]}"
    wait_until arrived 44 "$FRAMES"
    kill -s CONT "$PID"
    gets one error
    # Neither arrived; nor is there a message of both.
    exchange one connect bob ok '' \
                 list '' list bob
    # The same, padded: each is one.
    freeze "$PID"
    padded send bob,one >&"${TO[one]}"
    padded send bob,two >&"${TO[one]}"
    wait_until arrived 2048 "$FRAMES"
    kill -s CONT "$PID"
    gets one ok
    gets one ok
    gets one string one
    gets one string two
}

@test "more replies than a client reads wait, and it's not read meanwhile" {
    serve_frames --quiet
    # A list of 250 frames, four names in each; 60 times, that's more than the kernel holds.
    for ((i = 0; i < 250; i++)); do
        four=($((4 * i)) $((4 * i + 1)) $((4 * i + 2)) $((4 * i + 3)))
        printf 'KV/1.0 CREATE %0250d\n' "${four[@]}" >&4
        printf -v names ',%0250d' "${four[@]}"
        padded list "${names:1}"
    done >"$BATS_TEST_TMPDIR/list" 4>"$BATS_TEST_TMPDIR/create"
    talk <"$BATS_TEST_TMPDIR/create" >/dev/null
    connect one "$FRAMES"
    connect two
    for _ in {1..60}; do padded list; done >&"${TO[one]}"
    # It's no longer read, when STATS is the only request of fifty.
    before=0 alone=0
    while [ $alone -lt 50 ]; do
        says two 'KV/1.0 STATS'
        next two
        served=${LINE##*=}
        if [ "$served" = $((before + 1)) ]; then alone=$((alone + 1)); else alone=0; fi
        before=$served
    done
    for _ in {1..60}; do cat "$BATS_TEST_TMPDIR/list"; done >"$BATS_TEST_TMPDIR/wanted"
    timeout "$PATIENCE" head -c $((60 * 256000)) <&"${FROM[one]}" | cmp - "$BATS_TEST_TMPDIR/wanted"
    exchange one create bob ok ''
}

@test "a connection that dies gets nothing, and the next gets all that the kernel had not taken" {
    serve_frames
    connect old "$FRAMES"
    exchange old create bob ok '' \
                 connect bob ok ''
    dies_stuffed old
}

@test "whoever is sent messages without end can still ask" {
    serve_frames --quiet
    connect one "$FRAMES"
    connect two
    exchange one create bob ok ''
    yes 'KV/1.0 SEND bob x' 2>/dev/null | nc 127.0.0.1 "$PORT" >/dev/null 2>&1 3>&- &
    flood=$!
    frame connect bob >&"${TO[one]}"
    timeout "$PATIENCE" grep -z -q -m 1 '^string$' <&"${FROM[one]}"
    frame list >&"${TO[one]}"
    timeout "$PATIENCE" grep -z -q -m 1 '^list$' <&"${FROM[one]}"
    # The flood goes on meanwhile.
    sends() { says two 'KV/1.0 STATS all'; next two; SENDS=${LINE##* SEND=} SENDS=${SENDS%% *}; }
    sends
    before=$SENDS
    until [ "$SENDS" -gt "$before" ]; do sends; done
    kill "$flood"
    wait "$flood" || :
}

# bats test_tags=glibc
@test "--frames: no port by default, one line names it, and a port in use is refused" {
    serve
    run ! logged frames
    run "$KVSS" --port 0 --frames "$PORT"
    printed "kvss: 127.0.0.1, port $PORT: Address already in use"
    [ "$status" = 1 ]
    run "$KVSS" --frames 65536
    printed "kvss: frames: '65536' is not a number from 0 to 65535"
    first=$PORT
    stop "$PID"
    serve --frames "$first"
    grep -qx "kvss: listening for frames on 127.0.0.1:$first" "$LOG"
}

@test "--max-clients counts both wires; one too many gets an error on this one" {
    serve_frames --max-clients 1
    connect one
    says one 'KV/1.0 GET a';               hears one '404 NOT_FOUND'
    connect two "$FRAMES"
    gets two error
    closed two
}

# bats test_tags=crypt, roles
@test "MANAGE does not find a client of this wire" {
    # shellcheck disable=SC2016 # a hash
    echo 'adam:$1$kvss$L5ncgsjATo3aIaHMmzODv0' >"$BATS_TEST_TMPDIR/managers"
    chmod 600 "$BATS_TEST_TMPDIR/managers"
    serve_frames --managers "$BATS_TEST_TMPDIR/managers"
    connect one "$FRAMES"
    exchange one list '' list ''
    port=$(sed -n 's/.* connect 127\.0\.0\.1:\([0-9]*\)$/\1/p' "$LOG")
    replies 'KV/1.0 AUTH adam eve' '200 OK manager' \
            "KV/1.0 MANAGE $port PUT k v" '404 NOT_FOUND'
}

@test "--verbose logs frames as the requests of KV/1.0 that they stand for, and bad ones as they are; a stop ends this wire, too" {
    serve_frames --verbose
    connect one "$FRAMES"
    exchange one list '' list '' \
                 send 'bob,hello, you' notok '' \
                 frob '' error ''
    [ "$(sed -n 's/^[^ ]* \(request\|reply\) 127\.0\.0\.1:[0-9]* /\1 /p' "$LOG")" = 'request KV/1.0 LIST
reply 200 OK
request KV/1.0 SEND bob hello, you
reply 404 NOT_FOUND
request frob\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00
reply 400 BAD_REQUEST' ]
    kill "$PID"
    closed one
    ended "$PID"
    logged ' goodbye'
}
