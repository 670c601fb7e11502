#!/usr/bin/env bats
# What tests/limits.bats leaves out, since it takes minutes or needs other tools. To be run with
# `bats --setup-suite-file tests/setup_suite.bash tests/hostile/`.

load ../helper
load ../watch
load ../limits

@test "100,000 connections opened and dropped leave no descriptor and no memory behind" {
    command -v python3 >/dev/null || skip "python3 is needed"
    start
    descriptors() { find "/proc/$PID/fd" -mindepth 1 2>/dev/null | wc -l; }
    before=$(descriptors)
    # One says nothing, the next half a line, a request, and QUIT. Only one in 200 waits for its reply, so
    # that no more are open at a time: the pages that a client has read into and written from stay.
    python3 - "$PORT" $((${QUICK:+-80000} + 100000)) <<'PYTHON'
import socket, sys

port, number = map(int, sys.argv[1:])
for i in range(number):
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        client.sendall((b"", b"KV/1.0 GET", b"KV/1.0 GET a\n", b"KV/1.0 QUIT\n")[i % 4])
        if i % 200 == 2:
            client.recv(100)
PYTHON
    wait_until alone
    [ "$(descriptors)" = "$before" ]
    bounded 5000
}

@test "a client that asks for 100 MB of replies and reads none is no longer read" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    start
    printf -v value '%060000d' 0
    replies "KV/1.0 PUT big $value" '201 CREATED'
    connect greedy
    yes 'KV/1.0 GET big' | head -n 1700 >&"${TO[greedy]}"
    STAT=0
    stuck() {
        local before=$STAT
        stat bytes_out
        [ "$(ss -tnH "sport = :$PORT" | awk '$3 > 0' | wc -l)" = 1 ] && [ $((STAT - before)) -lt 1000 ]
    }
    wait_until stuck
    echo "$STAT bytes sent until then"
    [ "$STAT" -lt 50000000 ]
    bounded 10000
    for _ in {1..500}; do head -c 60008 <&"${FROM[greedy]}"; done | cmp - <(yes "200 OK $value" | head -n 500)
    bounded 10000
    head -c $((1200 * 60008)) <&"${FROM[greedy]}" | cmp - <(yes "200 OK $value" | head -n 1200)
    bounded 10000
}

@test "a store of a million keys grows, answers right, and gives its memory back" {
    start
    grow_and_shrink 1000000
}

# sanitized FLAG...: KVSS is a server with AddressSanitizer, and without optimization.
sanitized() {
    command -v clang >/dev/null || skip "clang is needed"
    KVSS=$BATS_TEST_TMPDIR/kvss
    clang -std=c99 -O0 -g -fsanitize=address "$@" "$ROOT/kvss.c" -o "$KVSS" -lcrypt -lrt || skip "clang has no sanitizers here"
}

# One turn reads QUIT first, then thousands of requests, whose log lines take their time; it closes 500
# clients who have left. Meanwhile as many come, and are accepted after this last turn. A server that has
# both in its table writes past the end, which only UBSan sees.
@test "a stop, when half of the clients have just left and as many have come" {
    ulimit -Sn 1200 2>/dev/null || skip "ulimit -n 1200 is refused here"
    command -v python3 >/dev/null || skip "python3 is needed"
    sanitized -fsanitize=undefined -fno-sanitize-recover=undefined
    serve --quit-stops-server --verbose
    status=0
    python3 - "$PORT" "$PID" "$LOG" <<'PYTHON' || status=$?
import os, signal, socket, sys, time

port, pid, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def connect(number):
    return [socket.create_connection(("127.0.0.1", port), timeout=120) for _ in range(number)]

def wait_for(what, path=log, times=1):
    while open(path, errors="replace").read().count(what) < times:
        time.sleep(0.01)

stopping, busy, leaving = connect(1)[0], connect(40), connect(500)
wait_for(" connect ", times=541)
os.kill(pid, signal.SIGSTOP)
wait_for(") T ", f"/proc/{pid}/stat")
stopping.sendall(b"KV/1.0 QUIT\n")
for client in busy:
    client.sendall(b"x\n" * 1000)
for client in leaving:
    client.close()
os.kill(pid, signal.SIGCONT)
wait_for("KV/1.0 QUIT")
os.kill(pid, signal.SIGSTOP)
try:
    newcomers = connect(500)
except ConnectionRefusedError:
    sys.exit(3)
os.kill(pid, signal.SIGCONT)
assert stopping.makefile("rb").readline() == b"200 OK bye\n"
PYTHON
    [ $status != 3 ] || skip "the server was faster than this test"
    [ $status = 0 ]
    ended "$PID"
}

# Without optimization, a compiler may write a struct as a whole, with its padding.
@test "a key and a value of one byte: the entry is shorter than its struct, and nothing is written behind it" {
    sanitized
    serve
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 PUT k vw' '200 OK' \
            'KV/1.0 PUT k w' '200 OK' \
            'KV/1.0 GET k' '200 OK w'
}
