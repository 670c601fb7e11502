#!/usr/bin/env bats
# docs/grpc: the store and the mailboxes by gRPC. The server and its clients are those of the page, and run on
# a copy of the project, in which the page's command has made what they need.

# shellcheck disable=SC2016,SC2034 # these are backquotes of Markdown; SERVERS is the helper's

load ../helper
load follow

setup() {
    PATH=/usr/bin:$PATH # of all Pythons, Debian's has Debian's packages
    python3 -c 'import grpc, grpc_tools' 2>/dev/null ||
        skip "Python's grpc is needed: apt-get install python3-grpcio python3-grpc-tools"
    fresh_copy
    cd "$COPY" || return
    eval "$(block docs/grpc/README.md stubs)"
}

# gateway [KVSS]: starts server.py. Sets GATEWAY, its process, and GRPC, its port.
gateway() {
    local log=$BATS_TEST_TMPDIR/gateway.$((++STARTED))
    apart docs/grpc/server.py "${1:-127.0.0.1:$PORT}" 127.0.0.1:0 >"$log" 2>&1 &
    GATEWAY=$! SERVERS[$!]=$!
    started() { grep -qs '^server.py: listening' "$log" || dead "$GATEWAY"; }
    wait_until started
    GRPC=$(sed -n 's/^server.py: listening on .*://p' "$log")
    [ "$GRPC" ] || { cat "$log" >&2; return 1; }
}

# grpc NAME...: clients, each of which is a client.py. one COMMAND...: what one prints.
grpc() {
    local name
    for name; do spawn "$name" docs/grpc/client.py "127.0.0.1:$GRPC"; done
}
one() { printf '%s\n' "$@" | timeout "$PATIENCE" docs/grpc/client.py "127.0.0.1:$GRPC"; }

# sends N: so many messages that kvss was asked to send.
sends() { [[ $(ask 'KV/1.0 STATS all') == *" SEND=$1 "* ]]; }

# call METHOD TYPE FIELDS: any call, by curl. Prints the status.
call() {
    protoc --encode="kvss.v1.$2" docs/grpc/kvss.proto <<<"$3" >message
    {
        printf '%010x' "$(wc -c <message)" | sed 's/../\\x&/g' | xargs -0 env printf
        cat message
    } | curl -s --http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' \
        -D headers -o reply --data-binary @- "http://127.0.0.1:$GRPC/kvss.v1.$1"
    tr -d '\r' <headers | sed -n 's/^grpc-status: //p'
}

# The page's commands that a test has to see to: ports, and a server that goes on.
eval "follow_$(declare -f one_plain_command)"
one_plain_command() {
    case $1 in
    docs/grpc/server.py*)
        gateway
        same "$(cat "$2")" "server.py: listening on 127.0.0.1:3000" ;;
    *) follow_one_plain_command "${1//127.0.0.1:3000/127.0.0.1:$GRPC}" "$2" ;;
    esac
}

@test "docs/grpc: every command does what the page shows" {
    command -v tshark >/dev/null || skip "tshark is needed: apt-get install tshark"
    check_page docs/grpc/README.md
}

@test "the assignment's session in two terminals, line by line" {
    serve
    gateway
    connect() { grpc "$1"; }
    block docs/grpc/README.md session >terminals
    [ "$(grep -c '^[23]< ' terminals)" -ge 8 ]
    together terminals
}

@test "the assignment's own program, unchanged" {
    serve
    gateway
    for name in 2 3; do
        spawn $name env PYTHONPATH=docs/grpc "$ROOT/tests/book/grpc_client.py" "$GRPC"
    done
    says 2 'create user2'; hears 2 'Server response: 201 CREATED'
    says 3 'create user3'; hears 3 'Server response: 201 CREATED'
    says 2 list; hears 2 'Server response: 200 OK user2 user3'
    says 2 'send user3 hello, you'; hears 2 'Server response: 202 ACCEPTED'
    says 2 'send user4 hello'; hears 2 'Server response: 404 NOT_FOUND'
    says 2 nonsense; hears 2 'Server response: 400 BAD_REQUEST'
    says 3 'connect user3'
    hears 3 'Server response: Connection successful for user user3' 'Message: hello, you' ''
    says 2 'send user3 helloagain'; hears 2 'Server response: 200 OK'
    hears 3 'Message: helloagain' '' # within 5 seconds
    says 2 'delete user2'; hears 2 'Server response: 204 NO_CONTENT'
    # It dies: no poll has said that it has the last message. So 15 seconds later, that is back with the next one.
    hang_up 3
    says 2 'send user3 once more'; hears 2 'Server response: 200 OK'
    wait_until sends 6
    same $'200 OK 2\n100 MESSAGE user3 helloagain\n100 MESSAGE user3 once more' "$(ask 'KV/1.0 CONNECT user3')"
}

@test "a client that goes away loses no message, and their order is kept" {
    serve
    gateway
    grpc ann bob
    says ann 'create bob'; hears ann ok
    says bob 'connect bob'; hears bob 'ok, 0 waiting'
    says ann 'send bob 1'; hears ann 'ok, delivered'
    hears bob 'message: 1'
    freeze "${NC[bob]}" # it has not asked for the next one, or has
    for n in 2 3 4; do
        says ann "send bob $n"; hears ann 'ok, delivered'
    done
    hang_up bob
    wait_until logged ' leave '
    says ann 'send bob 5'; hears ann 'ok, it waits'
    returned() { ask 'KV/1.0 CONNECT bob' >got && grep -q ' 5$' got; }
    wait_until returned
    same '2 3 4 5' "$(sed -n 's/^100 MESSAGE bob //p' got | grep -v 1 | paste -s -d ' ')"
}

@test "clients that are killed at any moment lose no message" {
    serve
    gateway
    grpc ann
    says ann 'create bob'; hears ann ok
    seq 300 | sed 's/^/send bob /' >&"${TO[ann]}"
    local killed
    : >all
    for killed in {1..8}; do
        grpc bob
        says bob 'connect bob'
        next bob
        mapfile -t -n $((RANDOM % 30 + 1)) -u "${FROM[bob]}" got
        kill -s KILL "${NC[bob]}"
        mapfile -t -u "${FROM[bob]}" -O ${#got[@]} got # what it had printed
        hang_up bob
        printf '%s\n' "${got[@]}" | sed -n 's/^message: //p' >one
        sort -n -c one
        cat one >>all
    done
    grpc carol # the rest
    says carol 'connect bob'; next carol
    [[ $LINE == 'ok, '*' waiting' ]]
    while [ "$LINE" != 'message: 300' ]; do
        next carol
        [[ $LINE == 'message: '* ]]
        echo "${LINE#message: }" >>all
    done
    seq 300 | diff - <(sort -n -u all)
    [ "$(wc -l <all)" -le $((300 + killed)) ] # a message comes twice if its client could not say that it has it
}

@test "a mailbox is taken over by the newest client, and the older one is told" {
    serve
    gateway
    grpc ann bob carol
    says ann 'create box'; hears ann ok
    says bob 'connect box'; hears bob 'ok, 0 waiting'
    says carol 'connect box'; hears carol 'ok, 0 waiting'
    hears bob 'ABORTED: another client has the mailbox'
    says ann 'send box hi'; hears ann 'ok, delivered'
    hears carol 'message: hi'
    says bob 'connect nobody'; hears bob 'NOT_FOUND: 404 NOT_FOUND'
    says bob 'connect box'; hears bob 'ok, 0 waiting'
    says ann 'send box you'; hears ann 'ok, delivered'
    hears bob 'message: you'
}

@test "server.py that is stopped gives back what no client has, and ends well" {
    serve
    gateway
    grpc ann bob
    says ann 'create bob'; hears ann ok
    says bob 'connect bob'; hears bob 'ok, 0 waiting'
    freeze "${NC[bob]}"
    says ann 'send bob 1' 'send bob 2'; hears ann 'ok, delivered' 'ok, delivered'
    stop "$GATEWAY"
    same $'200 OK 2\n100 MESSAGE bob 1\n100 MESSAGE bob 2' "$(ask 'KV/1.0 CONNECT bob')"
}

@test "kvss is gone: UNAVAILABLE for calls and streams, until it is back" {
    serve
    gateway
    grpc ann
    says ann 'create bob' 'connect bob' 'put city Hue'
    hears ann ok 'ok, 0 waiting' 'ok, created'
    stop "$PID"
    hears ann 'UNAVAILABLE: 503 kvss does not answer' # the stream's end
    serve --port "$PORT"
    says ann 'get city' 'connect bob' 'create bob' 'connect bob' 'put city Hue'
    hears ann 'NOT_FOUND: 404 NOT_FOUND' 'NOT_FOUND: 404 NOT_FOUND' ok 'ok, 0 waiting' 'ok, created'
    stop "$PID"
    hears ann 'UNAVAILABLE: 503 kvss does not answer'
    says ann 'get city' 'connect bob'
    hears ann 'UNAVAILABLE: 503 kvss does not answer' 'UNAVAILABLE: 503 kvss does not answer'
    serve --port "$PORT"
    says ann 'put city Hue' 'get city'; hears ann 'ok, created' 'value: Hue'
}

@test "whatever a text has in it, it stays one text" {
    serve
    gateway
    one 'create bob' 'put key value'
    # OK, INVALID_ARGUMENT: a line feed would begin another request, a space another argument.
    same 0 "$(call Mailboxes/Send Message 'user: "bob" text: " a  \r"')"
    same 3 "$(call Mailboxes/Send Message 'user: "bob" text: "hi\nKV/1.0 DEL key"')"
    same 3 "$(call Mailboxes/Connect Next 'user: "bob\nKV/1.0 DEL key"')"
    same 3 "$(call Mailboxes/Send Message 'user: "bob a" text: "b"')"
    same 3 "$(call Mailboxes/Send Message 'user: "bob" text: "a\000b"')"
    same 3 "$(call Mailboxes/Send Message 'user: "bob"')"
    same 3 "$(call Store/Put Pair 'key: "a b" value: "c"')"
    same 3 "$(call Store/Put Pair "key: \"long\" value: \"$(printf %065536d 0)\"")"
    same 0 "$(call Store/Put Pair "key: \"l\" value: \"$(printf %065522d 0)\"")"
    same 0 "$(call Store/Put Pair 'key: "cr" value: "\r"')"
    same 0 "$(call Store/Get Key 'key: "cr"')"
    same $'\r' "$(tail -c +6 reply | protoc --decode=kvss.v1.Value docs/grpc/kvss.proto | sed 's/value: "\\r"/\r/')"
    same $'100 MESSAGE bob  a  \r' "$(ask 'KV/1.0 CONNECT bob' | tail -n 1)"
    same '200 OK value' "$(ask 'KV/1.0 GET key')"
    same 12 "$(call Store/Append Pair 'key: "a" value: "b"')" # UNIMPLEMENTED: gRPC knows no such call
}

# pairs: of the page's table, each status and its code.
pairs() { sed -n 's/^| `\([0-9]*\)`[^|]*| `\([A-Z_]*\)`.*/\1 \2/p' "$ROOT/docs/grpc/README.md"; }

@test "the page's table of statuses is that of docs/protocol.md, and what server.py does" {
    # A kvss that answers GET with the status that the key names.
    same "$(sed -n 's/^| `\([1-5][0-9]*\) [A-Z_]*`.*/\1/p' "$ROOT/docs/protocol.md" | grep -v 100)" \
        "$(pairs | cut -d ' ' -f 1)"
    python3 -c 'if True:
        import asyncio
        async def answer(reader, writer):
            while line := await reader.readline():
                writer.write(line.split()[2] + b" NAME data\n")
        async def main():
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            print(server.sockets[0].getsockname()[1], flush=True)
            await server.serve_forever()
        asyncio.run(main())' >port 3>&- &
    fake=$!
    wait_until test -s port
    gateway "127.0.0.1:$(<port)"
    while read -r status code; do
        wanted="$code: $status NAME data"
        [ "$code" != OK ] || wanted='value: data'
        same "$wanted" "$(one "get $status")"
    done < <(pairs)
    kill $fake
}

@test "a real kvss gives each status of the table that the page does not call impossible" {
    mkdir data
    serve --max-mailboxes-per-client 1 --data data/data
    gateway
    grpc ann
    says ann 'create bob'; hears ann ok
    says ann 'create bob'; hears ann 'ALREADY_EXISTS: 409 CONFLICT'
    says ann 'create eve'; hears ann 'RESOURCE_EXHAUSTED: 507 INSUFFICIENT_STORAGE'
    says ann 'list ('; hears ann 'INVALID_ARGUMENT: 400 BAD_REQUEST'
    says ann 'get x'; hears ann 'NOT_FOUND: 404 NOT_FOUND'
    mv data/data data/moved
    denied() { [ "$(one 'put x 1')" = 'INTERNAL: 500 SERVER_ERROR' ]; } # kvss looks once a second
    wait_until denied
    mv data/moved data/data
    stop "$PID"
    serve --max-clients 1
    gateway
    connect only
    grpc bob
    says bob 'get x'; hears bob 'UNAVAILABLE: 503 SERVICE_UNAVAILABLE'
}

@test "server.py and client.py say how they are called" {
    run docs/grpc/server.py 127.0.0.1:9000
    [ "$status" = 1 ]
    [[ $output == *'server.py KVSS ADDRESS'* ]]
    run docs/grpc/client.py
    [ "$status" = 1 ]
    [[ $output == *'client.py ADDRESS'* ]]
}

@test "docs/grpc/kvss.proto has a call for each verb of mailboxes and store, and no other" {
    same "$(printf '%s\n' Put Get Delete Stats Create Delete List Send Connect)" \
        "$(sed -n 's/^  rpc \([A-Za-z]*\)(.*/\1/p' docs/grpc/kvss.proto)"
}

# sizes FILE STREAM: of a connection of the capture, for each segment with data, its direction and its bytes.
sizes() {
    tshark -r "$1" -Y "tcp.stream == $2 && tcp.len > 0" -T fields -e tcp.dstport -e tcp.len 2>/dev/null |
        awk '{ print $1 == 3000 || $1 == 9000 || $1 == 9001 ? ">" : "<", $2 }'
}

# calls FILE: of gRPC's connection, the direction, stream, kind and length of each HEADERS and DATA. Other frames
# come as it happens.
calls() {
    tshark -r "$1" -d tcp.port==3000,http2 -Y 'tcp.stream == 2 && http2' -T fields -e tcp.dstport \
        -e http2.streamid -e http2.type -e http2.length 2>/dev/null |
        awk '{ n = split($2, stream, ","); split($3, kind, ","); split($4, len, ",")
            for (i = 1; i <= n; i++) if (kind[i] < 2) print $1 == 3000 ? ">" : "<", stream[i], kind[i], len[i] }'
}

@test "docs/grpc/wires.pcapng is what a capture gives today, and the page's sums are right" {
    command -v tshark >/dev/null || skip "tshark is needed: apt-get install tshark"
    unshare --map-root-user --net dumpcap -D 2>/dev/null | grep -q '\. lo' || skip "there is no right to capture"
    local kept=docs/grpc/wires.pcapng stream
    cp -R "$ROOT/tests" "$KVSS" . # what capture.bash runs
    KVSS='' docs/grpc/capture.bash new
    for stream in 0 1; do same "$(sizes $kept $stream)" "$(sizes new $stream)"; done
    same "$(calls $kept)" "$(calls new)"
    [ "$(calls new | wc -l)" = 10 ]
    # The first call ends where the second one begins, whose segment is the page's packet 36.
    sum() { sizes $kept 2 | awk -v way="$1" '$2 == 71 && $1 == ">" { exit } $1 == way { n += $2 } END { print n }'; }
    grep -q "^| the first SEND .* | $(sum '>'), $(sum '<') |\$" docs/grpc/README.md
}
