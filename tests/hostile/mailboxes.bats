#!/usr/bin/env bats
# What tests/mailboxes.bats leaves out, since it needs a C compiler or Python.

# shellcheck disable=SC2153 # PORT is set by serve
load ../helper
load faults

# does NAME REQUEST: the client says it, and the server has run it, though it may send no reply.
does() {
    RUN=$((${RUN-0} + 1))
    says "$1" "$2"
    wait_until logged ' request ' "$RUN"
}

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
# All the replies are for the old one; the last request was run when it could be. A message comes after the
# reply that the old one had before it was sent, and may come after the replies to later requests.
lines = [old[1].readline().decode() for _ in range(sent - 1 + sent - left)]
assert [line for line in lines if line.startswith('200')] == [f'200 OK {value}\n'] * (sent - 1)
messages = [at for at, line in enumerate(lines) if line.startswith('100')]
assert [lines[at] for at in messages] == [f'100 MESSAGE bob {i}\n' for i in range(1, sent - left + 1)]
for n, at in enumerate(messages, 1): # before the nth message there are n - 1 messages
    assert at - (n - 1) >= n
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

# Without an order, a client would wait until each of the others has had one more list.
@test "300 clients ask for one LIST after the other: another client's LIST comes at once, and its AUTH" {
    command -v python3 >/dev/null || skip "python3 is needed"
    command -v openssl >/dev/null || skip "openssl is needed"
    (umask 077; echo "adam:$(openssl passwd -6 eve)" >"$BATS_TEST_TMPDIR/managers")
    serve --quiet --managers "$BATS_TEST_TMPDIR/managers"
    python3 - "$PORT" <<'PYTHON'
import os, selectors, signal, socket, sys

def connect():
    return socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=120)

def ask(c, request):
    c.sendall(b"KV/1.0 " + request + b"\n")
    return c.makefile("rb").readline()

def lists():
    return int(ask(honest, b"STATS all").split(b" LIST=")[1].split()[0])

honest = connect()
for i in range(3000):
    assert ask(honest, b"CREATE %s%06d" % (b"u" * 244, i)) == b"201 CREATED\n"
flood = os.fork()
if flood == 0:
    ready = selectors.DefaultSelector()
    for _ in range(300):
        c = connect()
        c.sendall(b"KV/1.0 LIST (.*a)*b\n" * 20)
        ready.register(c, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            lines = key.fileobj.recv(1 << 20).count(b"\n")
            key.fileobj.sendall(b"KV/1.0 LIST (.*a)*b\n" * lines)
try:
    while lists() < 900:  # each has had some
        pass
    for request, reply in (b"LIST", b"200 OK u"), (b"AUTH adam eve", b"200 OK manager"), (b"LIST", b"200 OK u"):
        before = lists()
        assert ask(honest, request).startswith(reply), request
        meanwhile = lists() - before
        print(request, "came after", meanwhile, "lists of others")
        assert meanwhile < 150
finally:
    os.kill(flood, signal.SIGKILL)
    os.waitpid(flood, 0)
PYTHON
}
