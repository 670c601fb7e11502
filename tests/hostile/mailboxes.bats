#!/usr/bin/env bats
# The long forms of tests/mailboxes.bats: 500 clients, 10,000 users, floods from many sides. They take minutes
# where a machine is slow.

# shellcheck disable=SC2153 # PORT is set by serve
load ../helper

FLOODS=() PIDS=() FDS=()

# long BYTES [LETTER]: so many times the letter.
long() {
    printf '%*s' "$1" '' | tr ' ' "${2-x}"
}

# users FILE: creates the users that it names, a line each.
users() {
    sed 's/^/KV\/1.0 CREATE /' "$1" | talk | sort | uniq -c
}

# figure NAME: what STATS all says of it.
figure() {
    ask 'KV/1.0 STATS all' | tr ' ' '\n' | sed -n "s/^$1=//p"
}

# flood REQUEST: a client that sends it without end, until FLOODS are killed.
flood() {
    yes "$1" 2>/dev/null | nc 127.0.0.1 "$PORT" >/dev/null 2>&1 3>&- &
    FLOODS+=($!)
}

# cpu PID: hundredths of a second that it has computed.
cpu() {
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

@test "LIST: no pattern takes much more than any other, or memory, with 10,000 users" {
    [ -r "/proc/$$/stat" ] || skip "this system has no /proc"
    serve --quiet
    awk 'BEGIN { srand(1); for (i = 0; i < 10000; i++) {
        name = sprintf("%05d", i); while (length(name) < 250) name = name (rand() < 0.5 ? "a" : "b"); print name } }' \
        >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    # lists PATTERN: what 20 of them cost.
    lists() {
        local before
        before=$(cpu "$PID")
        for _ in {1..20}; do echo "KV/1.0 LIST $1"; done | talk >"$BATS_TEST_TMPDIR/replies"
        [ "$(grep -c '^200 OK' "$BATS_TEST_TMPDIR/replies")" = 20 ]
        COST=$(($(cpu "$PID") - before))
    }
    lists 'c'
    plain=$COST
    before=$(memory "$PID")
    for pattern in '(a*)*c' '((a*)*)*c' '(a|aa)+c' '(a|a)*c' '(.*)*c' '(.*.*.*)*c' '(a?){30}a{30}c' '[ab]*a[ab]{40}c' \
        '((a|b)*a(a|b)(a|b)(a|b)(a|b)(a|b)(a|b))*c' '(x+x+)+y' '(([a-z])+.)+[A-Z]([a-z])+c' "$(long 60 '(')a$(long 60 ')'){60}c" \
        '^(([a-z])*)*$' '.*.*.*.*.*.*.*.*.*.*=.*'; do
        lists "$pattern"
        echo "$COST hundredths of a second, where c takes $plain: $pattern"
        [ "$COST" -le $((plain * 4 + 20)) ]
    done
    instrumented || [ "$(memory "$PID")" -le $((before + 2000)) ]
}

@test "LIST: who asks for many does not keep the others waiting" {
    serve --quiet
    seq 1 10000 >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    flood 'KV/1.0 LIST (.*a)*b'
    begun() { [ "$(figure LIST)" -gt 10 ]; }
    wait_until begun
    before=$(figure LIST)
    for _ in {1..20}; do [ "$(ask 'KV/1.0 GET a')" = '404 NOT_FOUND' ]; done
    more() { [ "$(figure LIST)" -gt "$before" ]; } # the flood went on meanwhile
    wait_until more
    kill "${FLOODS[@]}"
    wait "${FLOODS[@]}" || :
    [ "$(yes 'KV/1.0 LIST (.*a)*b' | head -n 500 | talk | grep -c '^200 OK$')" = 500 ]
}

@test "LIST: fifty who ask for many do not keep the others waiting" {
    serve --quiet
    for ((i = 0; i < 10000; i++)); do printf '%0250d\n' "$i"; done >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    yes 'KV/1.0 LIST (.*a)*b' | head -n 500 >"$BATS_TEST_TMPDIR/requests"
    for i in {1..50}; do
        connect "many$i"
        cat "$BATS_TEST_TMPDIR/requests" >&"${TO[many$i]}"
    done
    before=$(figure LIST)
    for _ in {1..20}; do [ "$(ask 'KV/1.0 GET a')" = '404 NOT_FOUND' ]; done
    # One a turn; fifty a turn would be some thousands.
    meanwhile=$(($(figure LIST) - before))
    echo "$meanwhile meanwhile"
    [ $meanwhile -lt 500 ]
    # And none of the fifty is left out.
    for i in {1..50}; do hears "many$i" '200 OK'; done
}

@test "whoever is sent messages without end, from three sides, can still ask, and leave" {
    serve --quiet
    ask 'KV/1.0 CREATE bob' >/dev/null
    text=$(long 1000)
    for _ in 1 2 3; do flood "KV/1.0 SEND bob $text"; done
    connect bob
    says bob 'KV/1.0 CONNECT bob' 'KV/1.0 GET none'
    timeout "$PATIENCE" grep -q -m 1 '^404 NOT_FOUND$' <&"${FROM[bob]}"
    says bob 'KV/1.0 QUIT'
    timeout "$PATIENCE" grep -q '^200 OK bye$' <&"${FROM[bob]}"
    # The flood went on all the time.
    before=$(figure SEND)
    more() { [ "$(figure SEND)" -gt "$before" ]; }
    wait_until more
    kill "${FLOODS[@]}"
    wait "${FLOODS[@]}" || :
}

# faulty OPTION...: a server whose system calls fail as the file FAULTS says, see faults.c.
faulty() {
    local build
    for build in "$ROOT"/tests/{,tools/}faults/build.bash; do
        if [ -e "$build" ] && [ -x "$(command -v cc)" ]; then
            "$build" "$BATS_TEST_TMPDIR/kvss"
            break
        fi
    done
    [ -e "$BATS_TEST_TMPDIR/kvss" ] || skip "a C compiler is needed"
    export FAULTS=$BATS_TEST_TMPDIR/faults
    KVSS=$BATS_TEST_TMPDIR/kvss serve "$@"
}

# does NAME REQUEST: the client says it, and the server has run it, though it may send no reply.
does() {
    RUN=$((${RUN-0} + 1))
    says "$1" "$2"
    wait_until logged ' request ' "$RUN"
}

# bats test_tags=shim
@test "messages that wait behind a reply, and the kernel takes neither: they are for the next, whole" {
    faulty --verbose
    for i in old new other{1..4}; do connect "$i"; done
    does old 'KV/1.0 CREATE bob';      hears old '201 CREATED'
    does old 'KV/1.0 CONNECT bob';     hears old '200 OK 0'
    for behind in nothing reply; do
        printf '%s\n' 'send EAGAIN' 'pselect NONE' >"$FAULTS"
        [ $behind = nothing ] || does old 'KV/1.0 GET k'
        does other1 'KV/1.0 SEND bob hi'
        # Each of these is a turn of its own, and bob gets what he can get meanwhile.
        for i in other{2..4}; do does "$i" 'KV/1.0 GET k'; done
        does new 'KV/1.0 CONNECT bob'
        rm "$FAULTS"
        hears new '200 OK 1' '100 MESSAGE bob hi'
        [ $behind = nothing ] || hears old '404 NOT_FOUND'
        # It has heard of no message, and is not taken for one that does not read.
        does old 'KV/1.0 LIST';        hears old '200 OK bob'
        does old 'KV/1.0 CONNECT bob'; hears old '200 OK 0'
        for i in other{2..4}; do hears "$i" '404 NOT_FOUND'; done
        next other1
    done
}

# The client is Python's, which can send without reading: nc can't.
@test "a connection that reads nothing and still sends: messages and replies are in order, and none is lost" {
    command -v python3 >/dev/null || skip "python3 is needed"
    serve --quiet
    python3 - "$PORT" <<'PYTHON'
import socket, sys, time

def client():
    s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 120)
    return s, s.makefile('rb')

def ask(to, request):
    to[0].sendall(request.encode() + b'\n')
    return to[1].readline().decode()[:-1]

other = client()
served = lambda: int(ask(other, 'KV/1.0 STATS').split('served=')[1])
value = 'x' * 20000
old = client()
assert ask(old, 'KV/1.0 CREATE bob') == '201 CREATED'
assert ask(old, 'KV/1.0 CONNECT bob') == '200 OK 0'
ask(other, 'KV/1.0 PUT big ' + value)

# A request and a message in turn, until the old connection is no longer read.
sent = 0
while True:
    before = served()
    old[0].sendall(b'KV/1.0 GET big\n')
    tries = 1
    end = time.monotonic() + 1
    while time.monotonic() < end and served() == before + tries:
        tries += 1
    if time.monotonic() >= end:
        break
    sent += 1
    ask(other, f'KV/1.0 SEND bob {sent}')
for _ in range(2):
    sent += 1
    assert ask(other, f'KV/1.0 SEND bob {sent}') == '202 ACCEPTED'
new = client()
left = int(ask(new, 'KV/1.0 CONNECT bob').split()[2])
assert left >= 2
for i in range(sent - left + 1, sent + 1):
    assert new[1].readline().decode() == f'100 MESSAGE bob {i}\n'
# All the replies are for the old one; the last request was run when it could be.
for i in range(1, sent - 1):
    assert old[1].readline().decode() == f'200 OK {value}\n'
    if i <= sent - left:
        assert old[1].readline().decode() == f'100 MESSAGE bob {i}\n'
assert old[1].readline().decode() == f'200 OK {value}\n'
assert ask(old, 'KV/1.0 GET none') == '404 NOT_FOUND'
new[0].close()
new[1].close()

# The kernel has much for the old one, and the server something from it that it has not read. A reset would
# take what the kernel has.
assert ask(other, 'KV/1.0 DELETE bob') == '204 NO_CONTENT'
assert ask(old, 'KV/1.0 CREATE bob') == '201 CREATED'
assert ask(old, 'KV/1.0 CONNECT bob') == '200 OK 0'
text, sent, waiting = 'x' * 10000, 0, 0
while waiting < 60:
    sent += 1
    waiting = waiting + 1 if ask(other, f'KV/1.0 SEND bob {sent} {text}') == '202 ACCEPTED' else 0
old[0].sendall(b'KV/1.0 WHOAMI\n')
new = client()
left = int(ask(new, 'KV/1.0 CONNECT bob').split()[2])
old[0].sendall(b'KV/1.0 WHOAMI\n')
got = old[1].read()
whole = got.count(b'\n')
assert got and not got.endswith(b'\n') and left == sent - whole, (left, sent, whole)
assert got[:got.rindex(b'\n') + 1].decode() == ''.join(f'100 MESSAGE bob {i} {text}\n' for i in range(1, whole + 1))
for i in range(whole + 1, sent + 1):
    assert new[1].readline().decode() == f'100 MESSAGE bob {i} {text}\n'
PYTHON
}

# crowd: 500 clients, nc each, connected to a mailbox of its own. Client I reads from descriptor
# FDS[I], and writes what it gets to got.I; first.I and second.I are what it may send, a message to
# everybody else.
crowd() {
    local i
    PIDS=() FDS=()
    cd "$BATS_TEST_TMPDIR" || return
    seq 1 500 | sed 's/^/u/' >names
    users names
    awk 'BEGIN { for (i = 1; i <= 500; i++) for (n = 1; n <= 2; n++) { file = (n == 1 ? "first." : "second.") i
        for (k = 1; k < 500; k++) printf "KV/1.0 SEND u%d %d %d\n", (i + k - 1) % 500 + 1, i, n >file
        close(file) } }'
    for i in {1..500}; do
        mkfifo "fifo.$i"
        exec {fd}<>"fifo.$i"
        FDS[i]=$fd
        nc 127.0.0.1 "$PORT" <&"$fd" >"got.$i" 3>&- &
        PIDS[i]=$!
        disown $!
        echo "KV/1.0 CONNECT u$i" >&"$fd"
    done
    connected() { [ "$(cat got.* | grep -c '^200 OK 0$')" = 500 ]; }
    wait_until connected
}

# send FILE I...: these clients send what their files have, all at once.
send() {
    local i
    for i in "${@:2}"; do cat "$1.$i" >&"${FDS[i]}" 3>&- & done
}

uncrowd() {
    shut "${FDS[@]}"
    kill "${PIDS[@]}" 2>/dev/null || :
}

# complete FILE USER [SENDER...]: from each of these senders (all the others, if none is given), both
# messages came to that user, once and in order; from the rest, no message came twice or before its time.
complete() {
    awk -v user="$2" -v senders="${*:3}" '
        BEGIN { n = split(senders, s, " "); for (i = 1; i <= n; i++) must[s[i]] = 1
            for (i = 1; n == 0 && i <= 500; i++) must[i] = 1
            delete must[substr(user, 2)] }
        !/^1/ { next }
        $3 != user || NF != 5 || $5 != last[$4] + 1 { print FILENAME ": " $0; bad = 1 }
        { last[$4] = $5 }
        END { for (i in must) if (last[i] != 2) { print FILENAME ": " last[i] + 0 " of 2 from " i; bad = 1 }
            exit bad }' "$1"
}

@test "500 clients send to one another at once: every message arrives, once and in order" {
    ulimit -Sn 1024 2>/dev/null || skip "ulimit -n 1024 is refused here"
    serve --quiet
    crowd
    send first {1..500}
    send second {1..500}
    all() { [ "$(cat got.* | grep -c '^1')" -ge 499000 ]; }
    wait_until all
    for i in {1..500}; do complete "got.$i" "u$i"; done
    [ "$(cat got.* | grep -c -e '^200 OK$' -e '^202 ACCEPTED$')" = 499000 ]
    uncrowd
}

@test "500 clients, and a third of them are killed midway: nothing is lost" {
    ulimit -Sn 1024 2>/dev/null || skip "ulimit -n 1024 is refused here"
    serve
    crowd
    killed=() alive=()
    for i in {1..500}; do
        if [ $((i % 3)) = 0 ]; then killed+=("$i"); else alive+=("$i"); fi
    done
    send first {1..500}
    wait_until grep -q '^1' got.3
    freeze "$PID" # so that it's midway
    for i in "${killed[@]}"; do kill -s KILL "${PIDS[i]}"; done
    kill -s CONT "$PID"
    send second "${alive[@]}"
    # All that the living send is run, and so is the STATS after it.
    answered() { [ "$(for i in "${alive[@]}"; do cat "got.$i"; done | grep -c '^2')" = $((${#alive[@]} * 999)) ]; }
    wait_until answered
    gone() { [ "$(grep -c ' leave ' "$LOG")" = ${#killed[@]} ]; }
    wait_until gone
    sends=$(figure SEND)
    # What was sent was delivered, to the kernel at least, or is in a mailbox.
    received() { for i in "${alive[@]}"; do cat "got.$i"; done | grep -c '^1'; }
    delivered=$(sed -n 's/.* leave .* \([0-9]*\) delivered, .*/\1/p' "$LOG" | awk '{ n += $1 } END { print n }')
    left=$(sed -n 's/.* delivered, \([0-9]*\) left$/\1/p' "$LOG" | awk '{ n += $1 } END { print n }')
    for i in "${killed[@]}"; do ask "KV/1.0 CONNECT u$i" >"rest.$i"; done
    waiting=$(for i in "${killed[@]}"; do cat "rest.$i"; done | grep -c '^1')
    echo "$sends sent, $delivered delivered to those killed, $left were left, $waiting waited for them"
    [ "$waiting" -gt 10000 ]
    all() { [ $(($(received) + delivered + waiting)) = "$sends" ]; }
    wait_until all
    for i in "${alive[@]}"; do complete "got.$i" "u$i" "${alive[@]}"; done
    # Those killed: what nc had read and what waited are one order, with a gap where it died.
    for i in "${killed[@]}"; do
        sed -i '${/^100 MESSAGE u[0-9]* [0-9]* [12]$/!d;}' "got.$i"
        awk '!/^1/ { next } seen[$4 " " $5]++ || $5 < last[$4] { print FILENAME ": " $0; exit 1 } { last[$4] = $5 }' \
            "got.$i" "rest.$i"
        [ "$(head -n 1 "rest.$i")" = "200 OK $(grep -c '^1' "rest.$i")" ]
    done
    uncrowd
}
