#!/usr/bin/env bats
# Beyond the lab: the mailboxes on the old wire, whose frames are a verb in 15 bytes and arguments.

# shellcheck disable=SC2153 # PORT is set by serve
load helper

# frame VERB [ARGUMENTS]: a frame as the assignment's client sends it: in one write, and no longer than
# it needs to be.
frame() {
    { printf '%s' "$1"; head -c $((15 - ${#1})) /dev/zero; printf '%s' "${2-}"; } >"$BATS_TEST_TMPDIR/frame"
    cat "$BATS_TEST_TMPDIR/frame"
}

# padded VERB [ARGUMENTS]: the same, with NULs up to 1,024 bytes.
padded() {
    { frame "$@"; head -c 1024 /dev/zero; } | head -c 1024 >"$BATS_TEST_TMPDIR/padded"
    cat "$BATS_TEST_TMPDIR/padded"
}

# dial: opens a connection for frames. Sets FD.
dial() {
    exec {FD}<>"/dev/tcp/127.0.0.1/$FRAMES"
}

# gets FD VERB [ARGUMENTS]: the next 1,024 bytes are just this frame.
gets() {
    timeout 200 head -c 1024 <&"$1" >"$BATS_TEST_TMPDIR/got"
    padded "${@:2}" | cmp - "$BATS_TEST_TMPDIR/got" || {
        printf 'expected %s, but got %s\n' "${*:2}" "$(tr '\0' '~' <"$BATS_TEST_TMPDIR/got" | cut -c 1-80)" >&2
        return 1
    }
}

# frames VERB ARGUMENTS REPLY ARGUMENTS: a connection of its own, with nc, for one frame.
frames() {
    know_nc
    frame "$1" "$2" | timeout 200 nc "${NC_CLOSE[@]}" 127.0.0.1 "$FRAMES" >"$BATS_TEST_TMPDIR/got"
    padded "$3" "${4-}" | cmp - "$BATS_TEST_TMPDIR/got"
}

# terminal NAME: nc, with what NAME types going in and what NAME sees coming out.
terminal() {
    mkfifo "$BATS_TEST_TMPDIR/$1.types" "$BATS_TEST_TMPDIR/$1.sees"
    exec {TYPES}<>"$BATS_TEST_TMPDIR/$1.types" {SEES}<>"$BATS_TEST_TMPDIR/$1.sees"
    nc 127.0.0.1 "$FRAMES" <&"$TYPES" >&"$SEES" 3>&- &
    NC=$!
}

@test "the session of the assignment: three terminals, with nc" {
    serve_frames
    terminal two; types2=$TYPES sees2=$SEES nc2=$NC
    terminal three; types3=$TYPES sees3=$SEES nc3=$NC
    frame create user2 >&"$types2";            gets "$sees2" ok
    frame create user3 >&"$types3";            gets "$sees3" ok
    frame list >&"$types2";                    gets "$sees2" list user2,user3
    frame send user3,hello >&"$types2";        gets "$sees2" ok
    frame connect user3 >&"$types3";           gets "$sees3" ok
    gets "$sees3" string hello
    frame send user3,helloagain >&"$types2";   gets "$sees2" ok
    gets "$sees3" string helloagain
    hang_up "$types2" "$types3" "$sees2" "$sees3"
    kill "$nc2" "$nc3"
    wait "$nc2" "$nc3" || :
}

@test "create, delete, list, send, connect: ok, notok, list, string" {
    serve_frames
    frames create bob ok
    frames create bob notok
    frames create ann ok
    frames list '' list ann,bob
    frames list '^b' list bob
    frames list 'x' list ''
    frames send 'bob,hello, you, all' ok
    frames send 'nobody,hello' notok
    frames connect nobody notok
    dial
    frame connect bob >&"$FD"
    gets "$FD" ok
    gets "$FD" string 'hello, you, all'
    hang_up "$FD"
    frames delete bob ok
    frames delete bob notok
    frames list '' list ann
}

@test "a mailbox that is full is notok" {
    serve_frames
    ask 'KV/1.0 CREATE bob'
    seq 1 1000 | sed 's/^/KV\/1.0 SEND bob /' | talk >/dev/null
    frames send bob,more notok
    ask 'KV/1.0 DELETE bob'
    seq 1 10000 | sed 's/^/KV\/1.0 CREATE u/' | talk >/dev/null
    frames create more notok
}

@test "garbage is an error, and the connection goes on" {
    serve_frames
    dial
    for garbage in 'list' 'frobnicate     ' $'list\n' 'LIST           ' 'KV/1.0 GET key and more' 'create,bob' \
        'xxxxxxxxxxxxxxxbob'; do
        printf '%s' "$garbage" >&"$FD"
        gets "$FD" error
    done
    # A verb that does not exist, is in upper case, goes on after a NUL, or has a letter past the 15th.
    for verb in frob List LIST 'li~t' 'create bob' createbobcreate 'list '; do
        frame "$verb" bob >&"$FD"
        gets "$FD" error
    done
    printf 'li\0st\0\0\0\0\0\0\0\0\0\0' >&"$FD";       gets "$FD" error
    printf 'list\0st\0\0\0\0\0\0\0\0' >&"$FD";         gets "$FD" error
    printf '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0list' >&"$FD"; gets "$FD" error
    printf '\0' >&"$FD";                                gets "$FD" error
    # Arguments that are missing, too many, or not what a name or a text can be.
    frame create >&"$FD";                      gets "$FD" error
    frame create 'a,b' >&"$FD";                gets "$FD" error
    frame create 'a b' >&"$FD";                gets "$FD" error
    frame create $'a\tb' >&"$FD";              gets "$FD" error
    frame create $'a\xff' >&"$FD";             gets "$FD" error
    frame create "$(printf '%0251d' 0)" >&"$FD"; gets "$FD" error
    frame connect >&"$FD";                     gets "$FD" error
    frame delete >&"$FD";                      gets "$FD" error
    frame send >&"$FD";                        gets "$FD" error
    frame send bob >&"$FD";                    gets "$FD" error
    frame send bob, >&"$FD";                   gets "$FD" error
    frame send ,text >&"$FD";                  gets "$FD" error
    frame list '(' >&"$FD";                    gets "$FD" error
    frame list >&"$FD";                        gets "$FD" list
    hang_up "$FD"
}

@test "a text can't break the lines of KV/1.0" {
    serve_frames
    ask 'KV/1.0 CREATE bob'
    frames send $'bob,hello\n200 OK forged' error
    replies 'KV/1.0 CONNECT bob' '200 OK 0'
}

@test "HTTP ends the connection: a page in a browser can't send frames" {
    serve_frames
    # The body comes after the error, so that it would be a frame of its own.
    dial
    printf 'POST / HTTP/1.1\r\nHost: a\r\n\r\n' >&"$FD"
    gets "$FD" error
    frame create pwned >&"$FD"
    [ -z "$(timeout $((20 * PATIENCE)) cat <&"$FD" | tr -d '\0')" ]
    hang_up "$FD"
    # Or it begins where a frame is cut.
    dial
    { { printf 'POST / HTTP/1.1\r\nHost: a\r\nx: '; head -c 1024 /dev/zero | tr '\0' x; } | head -c 1020
        printf '\r\n\r\n'; frame create pwned; } >"$BATS_TEST_TMPDIR/page"
    cat "$BATS_TEST_TMPDIR/page" >&"$FD"
    gets "$FD" error
    [ -z "$(timeout $((20 * PATIENCE)) cat <&"$FD" | tr -d '\0')" ]
    hang_up "$FD"
    frames list '' list
}

@test "nothing on this port can reach the key-value store" {
    serve_frames
    ask 'KV/1.0 PUT key value'
    for verb in get put del stats quit whoami auth manage; do
        for arguments in '' key key,value 'key value'; do frames "$verb" "$arguments" error; done
    done
    # A line of KV/1.0 is a frame like any other, and a bad one.
    dial
    printf 'KV/1.0 GET key\n' >&"$FD"
    gets "$FD" error
    hang_up "$FD"
    replies 'KV/1.0 GET key' '200 OK value'
}

@test "--explain: an error says why" {
    serve_frames --explain
    frames create a,b error "a user's name has no comma"
    frames frob bob error 'there is no such verb'
    frames send bob error 'SEND needs a user and a text'
}

@test "one mailbox, two wires: SEND reaches connect, and send reaches CONNECT" {
    serve_frames
    dial; old=$FD
    connect; new=$FD
    frame create bob >&"$old";                 gets "$old" ok
    says "$new" 'KV/1.0 CREATE ann' '201 CREATED'
    frame connect bob >&"$old";                gets "$old" ok
    says "$new" 'KV/1.0 CONNECT ann' '200 OK 0'
    says "$new" 'KV/1.0 SEND bob one, two' '200 OK'
    gets "$old" string 'one, two'
    frame send 'ann,three, four' >&"$old";     gets "$old" ok
    hears "$new" '100 MESSAGE ann three, four'
    says "$new" 'KV/1.0 LIST' '200 OK ann bob'
    frame list >&"$old";                       gets "$old" list ann,bob
    # The newest connection has the mailbox, on whichever wire.
    says "$new" 'KV/1.0 CONNECT bob' '200 OK 0'
    frame send bob,hi >&"$old";                gets "$old" ok
    hears "$new" '100 MESSAGE bob hi'
    hang_up "$old" "$new"
}

@test "a list longer than a frame comes in several, each of whole names" {
    serve_frames
    long=$(printf '%0240d' 0)
    for i in {1..9}; do echo "KV/1.0 CREATE u$i$long"; done | talk >/dev/null
    dial
    frame list >&"$FD"
    gets "$FD" list "u1$long,u2$long,u3$long,u4$long"
    gets "$FD" list "u5$long,u6$long,u7$long,u8$long"
    gets "$FD" list "u9$long"
    hang_up "$FD"
    # Names of 1,009 bytes, commas included, are just a frame; one byte more is another.
    for i in {1..9}; do echo "KV/1.0 DELETE u$i$long"; done | talk >/dev/null
    for i in {1..4}; do echo "KV/1.0 CREATE $i$(printf '%0249d' 0)"; done | talk >/dev/null
    four=$(for i in {1..4}; do printf '%s%0249d,' "$i" 0; done)
    ask 'KV/1.0 CREATE 99999'
    dial
    frame list >&"$FD"
    gets "$FD" list "${four}99999"
    ask 'KV/1.0 DELETE 99999' 'KV/1.0 CREATE 999999'
    frame list >&"$FD"
    gets "$FD" list "${four%,}"
    gets "$FD" list 999999
    hang_up "$FD"
}

@test "a message longer than a frame comes in several, each of whole characters" {
    serve_frames
    ask 'KV/1.0 CREATE bob'
    dial
    frame connect bob >&"$FD";                 gets "$FD" ok
    ascii=$(printf '%01008d' 0)
    ask "KV/1.0 SEND bob ${ascii}ộ" "KV/1.0 SEND bob ${ascii}1" "KV/1.0 SEND bob ${ascii}${ascii}${ascii}"
    gets "$FD" string "$ascii"
    gets "$FD" string 'ộ'
    gets "$FD" string "${ascii}1"
    gets "$FD" string "${ascii}0"
    gets "$FD" string "${ascii}0"
    gets "$FD" string "$(printf '%01006d' 0)"
    hang_up "$FD"
    long=$(yes 'Hà Nội' | head -n 7000 | tr -d '\n')
    dial
    frame connect bob >&"$FD";                 gets "$FD" ok
    ask "KV/1.0 SEND bob $long"
    for ((got = 0; got < ${#long}; )); do
        text=$(timeout 200 head -c 1024 <&"$FD" | tail -c +16 | tr -d '\0')
        [ "$text" = "${long:got:${#text}}" ]
        iconv -f UTF-8 -t UTF-8 <<<"$text" >/dev/null
        got=$((got + ${#text}))
    done
    hang_up "$FD"
}

@test "N frames padded to 1,024 bytes may come in one read, and every one is answered" {
    serve_frames
    dial
    { for i in {1..50}; do padded create "u$i"; done; padded list '^u1$'; } >&"$FD"
    for i in {1..50}; do gets "$FD" ok; done
    gets "$FD" list u1
    # Padded ones, and one more of its own length.
    { padded create a; padded create b; frame create c; } >"$BATS_TEST_TMPDIR/three"
    cat "$BATS_TEST_TMPDIR/three" >&"$FD"
    gets "$FD" ok
    gets "$FD" ok
    gets "$FD" ok
    frame list '^[abc]$' >&"$FD"
    gets "$FD" list a,b,c
    hang_up "$FD"
}

@test "a padded frame may come in two parts, if its padding is what is cut" {
    serve_frames --verbose
    dial
    padded create a >&"$FD";                   gets "$FD" ok
    { padded create b; padded create c; } >"$BATS_TEST_TMPDIR/two"
    head -c 1500 "$BATS_TEST_TMPDIR/two" >&"$FD"
    gets "$FD" ok
    gets "$FD" ok
    { tail -c +1501 "$BATS_TEST_TMPDIR/two"; padded create d; } >"$BATS_TEST_TMPDIR/rest"
    cat "$BATS_TEST_TMPDIR/rest" >&"$FD"
    gets "$FD" ok
    frame list >&"$FD";                        gets "$FD" list a,b,c,d
    # Not more than what was missing.
    head -c 1010 /dev/zero >&"$FD"
    gets "$FD" error
    hang_up "$FD"
}

@test "the flaw of the old wire: two frames in one read are one, and a bad one" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve_frames
    dial
    frame create bob >&"$FD"
    gets "$FD" ok
    # Sent one after the other, but the server looks only when both are there.
    arrived() { [ "$(ss -tnH "sport = :$FRAMES" | awk '{ print $2 }')" = "$1" ]; }
    kill -s STOP "$PID"
    frame send bob,one >&"$FD"
    frame send bob,two >&"$FD"
    wait_until 10 arrived 44
    kill -s CONT "$PID"
    gets "$FD" error
    # Neither arrived; nor is there a message of both.
    frame connect bob >&"$FD"
    gets "$FD" ok
    frame list >&"$FD"
    gets "$FD" list bob
    # The same, padded: each is one.
    kill -s STOP "$PID"
    padded send bob,one >&"$FD"
    padded send bob,two >&"$FD"
    wait_until 10 arrived 2048
    kill -s CONT "$PID"
    gets "$FD" ok
    gets "$FD" ok
    gets "$FD" string one
    gets "$FD" string two
    hang_up "$FD"
}

@test "two messages at once are two frames: recv(1024) always gets one whole" {
    serve_frames
    ask 'KV/1.0 CREATE bob' 'KV/1.0 SEND bob one' 'KV/1.0 SEND bob two' 'KV/1.0 SEND bob three'
    dial
    frame connect bob >&"$FD"
    gets "$FD" ok
    gets "$FD" string one
    gets "$FD" string two
    gets "$FD" string three
    hang_up "$FD"
}

@test "more replies than a client reads wait, and it's not read meanwhile" {
    serve_frames
    know_nc
    # 4,096 frames; the replies are the same bytes.
    padded list >"$BATS_TEST_TMPDIR/requests"
    for _ in {1..12}; do
        cat "$BATS_TEST_TMPDIR/requests" "$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/twice"
        mv "$BATS_TEST_TMPDIR/twice" "$BATS_TEST_TMPDIR/requests"
    done
    cp "$BATS_TEST_TMPDIR/requests" "$BATS_TEST_TMPDIR/wanted"
    timeout 600 nc "${NC_CLOSE[@]}" 127.0.0.1 "$FRAMES" <"$BATS_TEST_TMPDIR/requests" |
        cmp - "$BATS_TEST_TMPDIR/wanted"
}

@test "a connection that dies gets nothing, and the next gets all that the kernel had not taken" {
    serve_frames
    dial; old=$FD
    frame create bob >&"$old";                 gets "$old" ok
    frame connect bob >&"$old";                gets "$old" ok
    stuff
    hang_up "$old"
    wait_until 10 grep -q ' leave ' "$LOG"
    delivered=$(sed -n 's/.* leave .* \([0-9]*\) delivered, [0-9]* left$/\1/p' "$LOG")
    ask 'KV/1.0 CONNECT bob' | cmp - <(echo "200 OK $((SENT - delivered))"
        seq $((delivered + 1)) "$SENT" | sed "s/.*/100 MESSAGE bob & $(printf '%10000s' '' | tr ' ' x)/")
}

@test "whoever is sent messages without end can still ask" {
    serve_frames --quiet
    ask 'KV/1.0 CREATE bob'
    (yes 'KV/1.0 SEND bob x' | timeout 600 nc 127.0.0.1 "$PORT" >/dev/null 2>&1) 3>&- &
    flood=$!
    dial
    frame connect bob >&"$FD"
    timeout 200 grep -z -q -m 1 '^string$' <&"$FD"
    frame list >&"$FD"
    timeout 200 grep -z -q -m 1 '^list$' <&"$FD"
    sends() { ask 'KV/1.0 STATS all' | sed 's/.* SEND=\([0-9]*\) .*/\1/'; }
    before=$(sends)
    more() { [ "$(sends)" -gt "$before" ]; } # the flood goes on
    wait_until 10 more
    hang_up "$FD"
    pkill -P $flood || :
    wait $flood || :
}

# bats test_tags=glibc
@test "--frames: no port by default, one line names it, and a port in use is refused" {
    serve
    run ! grep -q frames "$LOG"
    run "$KVSS" --port 0 --frames "$PORT"
    [ "${lines[1]}" = "kvss: 127.0.0.1, port $PORT: Address already in use" ]
    [ "$status" = 1 ]
    run "$KVSS" --frames 65536
    printed "kvss: frames: '65536' is not a number from 0 to 65535"
    first=$PORT
    stop "$PID"
    serve --frames "$first"
    [ "$(sed -n 2p "$LOG")" = "kvss: listening for frames on 127.0.0.1:$first" ]
}

@test "--max-clients counts both wires; one too many gets an error on this one" {
    serve_frames --max-clients 1
    connect; one=$FD
    says "$one" 'KV/1.0 GET a' '404 NOT_FOUND'
    dial
    gets "$FD" error
    hang_up "$FD" "$one"
}

# bats test_tags=crypt
@test "MANAGE does not find a client of this wire" {
    serve_frames
    # shellcheck disable=SC2016 # a hash
    echo 'adam:$1$kvss$L5ncgsjATo3aIaHMmzODv0' >"$BATS_TEST_TMPDIR/managers"
    chmod 600 "$BATS_TEST_TMPDIR/managers"
    serve_frames --managers "$BATS_TEST_TMPDIR/managers"
    dial; old=$FD
    frame list >&"$old";                       gets "$old" list
    port=$(sed -n 's/.* connect 127\.0\.0\.1:\([0-9]*\)$/\1/p' "$LOG")
    replies 'KV/1.0 AUTH adam eve' '200 OK manager' \
            "KV/1.0 MANAGE $port PUT k v" '404 NOT_FOUND'
    hang_up "$old"
}

@test "--verbose logs frames as the requests of KV/1.0 that they stand for, and bad ones as they are" {
    serve_frames --verbose
    frames list '' list ''
    frames send 'bob,hello, you' notok
    frames frob '' error
    grep -q ' request 127\.0\.0\.1:[0-9]* KV/1\.0 LIST$' "$LOG"
    grep -q ' request 127\.0\.0\.1:[0-9]* KV/1\.0 SEND bob hello, you$' "$LOG"
    grep -q ' request 127\.0\.0\.1:[0-9]* frob\(\\x00\)\{11\}$' "$LOG"
    grep -q ' reply 127\.0\.0\.1:[0-9]* 200 OK$' "$LOG"
}

@test "a signal to stop ends connections of both wires" {
    serve_frames
    dial
    frame list >&"$FD"
    gets "$FD" list
    stop "$PID"
    grep -q ' goodbye$' "$LOG"
    hang_up "$FD"
}
