#!/usr/bin/env python3
"""attackers: what hostile clients do to a server, until SIGTERM.

    attackers.py ATTACK PORT COUNT [KEYS PID | USAGE]

Says "ready" when the attack is in place, and at the end what came of it. COUNT is how many
connections, users or keys; KEYS is a file of keys, a line each, and PID the server's; USAGE is a
line of kvss --help, such as "EXPIRE key seconds"."""
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import Counter


def connect(port, buffer=None):
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.connect(("127.0.0.1", port))
    return sock


def ready(came_of_it):
    """At SIGTERM, says what came of it, and ends."""

    def stop(*_):
        os.write(1, came_of_it().encode() + b"\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    os.write(1, b"ready\n")


def ask(sock, requests):
    """Sends them all, while a thread reads as many replies. Returns these."""
    lines = []
    reader = sock.makefile("rb")
    thread = threading.Thread(target=lambda: lines.extend(reader.readline() for _ in requests),
                              daemon=True)
    thread.start()
    sock.sendall(b"".join(b"KV/1.0 %s\n" % request for request in requests))
    thread.join()
    return lines


def forever():
    while True:
        signal.pause()


def slowloris(port, count):
    """Connections that never finish a line: a byte a second of each."""
    socks = [connect(port) for _ in range(count)]
    for sock in socks:
        sock.sendall(b"KV/1.0 PUT slow ")
    sent = 0
    ready(lambda: f"{count} connections, {sent} bytes, a byte a time")
    while True:
        for sock in socks:
            sock.sendall(b"x")
            sent += 1
            time.sleep(1 / count)


def deaf(port, count):
    """Readers that stop: they ask for 18 MB each."""
    socks = [connect(port, 4096) for _ in range(count)]
    ask(socks[0], [b"PUT big " + b"x" * 60000])
    for sock in socks:
        sock.sendall(b"KV/1.0 GET big\n" * 300)
    ready(lambda: f"{count} that asked for {count * 18} MB and do not read")
    forever()


def turns(port, count):
    """Connections, one after the other: one request, and gone."""
    began, done = time.monotonic(), 0
    ready(lambda: f"{done} connections, {done / (time.monotonic() - began):.0f} a second")
    for _ in range(count):
        with connect(port) as sock:
            sock.sendall(b"KV/1.0 GET nothing\n")
            if sock.recv(100) != b"404 NOT_FOUND\n":
                sys.exit("a wrong reply")
        done += 1
    forever()


def auth(port, count):
    """Guesses passwords on all connections, and comes again when it's thrown out. Meanwhile one
    client knows the password: how long it waits at the most."""
    selector = selectors.DefaultSelector()
    answers = Counter()
    guess = b"KV/1.0 AUTH adam guess\n"

    def come():
        sock = connect(port)
        sock.sendall(guess * 10)
        selector.register(sock, selectors.EVENT_READ)

    def rates():
        seconds = time.monotonic() - began
        each = (f"{n / seconds:.0f} {code.decode()} a second" for code, n in answers.items())
        return ", ".join(each) + f"; the right password waits {max(waits, default=0):.1f} s at most"

    def know():
        while True:
            asked = time.monotonic()
            with connect(port) as sock:
                got = b""
                while got[:3] != b"200":
                    sock.sendall(b"KV/1.0 AUTH adam eve\n")
                    got = sock.recv(100)
            waits.append(time.monotonic() - asked)

    waits = []
    for _ in range(count):
        come()
    began = time.monotonic()
    threading.Thread(target=know, daemon=True).start()
    ready(rates)
    while True:
        for key, _ in selector.select():
            try:
                got = key.fileobj.recv(4096)
                key.fileobj.sendall(guess * got.count(b"\n"))
            except ConnectionError:
                got = b""
            answers.update(line[:3] for line in got.split(b"\n")[:-1])
            if not got:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                come()


def flood(port, count, path, pid):
    """Keys that may have been chosen to share a home: writes them, and looks them up for ever. The
    server's own time for that, while nobody else asks for anything."""
    with open(path, "rb") as file:
        keys = file.read().split()[:count]
    sock = connect(port)
    clock = ~int(pid) << 3 | 2  # CPU time of that process: clock_getcpuclockid() in Linux

    def cost(requests):
        before = time.clock_gettime(clock)
        if any(line[:2] != b"20" for line in ask(sock, requests)):
            sys.exit("a wrong reply")
        return (time.clock_gettime(clock) - before) / len(requests) * 1e6

    put = cost([b"PUT %s 1" % key for key in keys])
    get = cost([b"GET " + key for key in keys[-10000:]])
    ready(lambda: f"{len(keys)} keys: {put:.2f} us for a PUT, {get:.2f} us for a GET")
    while True:
        for i in range(0, len(keys), 1000):
            ask(sock, [b"GET " + key for key in keys[i : i + 1000]])


def lists(port, count):
    """LIST with a pattern that no name matches, and that has to be tried to the end of each."""
    pattern = b"KV/1.0 LIST (a|b){31}b\n"
    socks = [connect(port) for _ in range(50)]
    ask(socks[0], [b"CREATE " + b"a" * 244 + b"%06d" % i for i in range(count)])
    for sock in socks:
        sock.sendall(pattern)
    began, done = time.monotonic(), 0
    ready(lambda: f"{count} users, {done / (time.monotonic() - began):.0f} LIST a second")
    while True:
        for sock in socks:
            if sock.recv(100) != b"200 OK\n":
                sys.exit("a wrong reply")
            done += 1
            sock.sendall(pattern)


def store_expiring(port, count):
    """So many keys, with the same deadline, which is returned: a time of day."""
    sock = connect(port)
    ask(sock, [b"PUT expires%d 1" % i for i in range(count)])
    at = int(time.time()) + 3 + count // 50000
    ask(sock, [b"EXPIREAT expires%d %d" % (i, at) for i in range(count)])
    return at


def expiry(port, count):
    """Keys that all expire in the same millisecond."""
    at = store_expiring(port, count)
    time.sleep(max(0, at - time.time() - 1))
    ready(lambda: f"{count} keys expired at once")
    forever()


def leaves(port, count):
    """With --private: a store of many keys, and its owner leaves."""
    sock = connect(port)
    ask(sock, [b"PUT key%d 1" % i for i in range(count)])
    ready(lambda: f"the owner of {count} keys left")
    time.sleep(0.2)
    sock.close()
    forever()


# What the words of a usage stand for; the numbers make a thousand different requests. The pattern
# takes long, and no name matches it.
WORDS = {"key": "key%d", "value": "v" * 30, "user": "user%d", "text": "x", "password": "guess",
         "pattern": "(a|b){31}b", "seconds": "60", "unixtime": "1"}
# What has to come before each request of that verb, or there would soon be nothing left to do.
BEFORE = {"DEL": "PUT key value", "EXPIREAT": "PUT key value", "CREATE": "DELETE user",
          "DELETE": "CREATE user"}
FULL_MAILBOXES, MESSAGES = 300, 1000


def requests_of(usage, port):
    """A thousand requests of that usage. Of a choice it's the first, and what is in brackets is there."""
    usages = [usage]
    if usage.split()[0] in BEFORE:
        usages.insert(0, BEFORE[usage.split()[0]])
    lines = []
    for i in range(1000):
        for words in usages:
            words = [word.strip("[]").split("|")[0] for word in words.split()]
            words = [str(port) if word == "port" else WORDS.get(word, word) for word in words]
            lines.append("KV/1.0 " + " ".join(words).replace("%d", str(i)) + "\n")
    return "".join(lines).encode()


def fill(sock):
    """All the users that there can be, some with all the messages that they can have."""
    ask(sock, [b"PUT key%d 1" % i for i in range(1000)])
    ask(sock, [b"CREATE user%d" % i for i in range(1000)])
    ask(sock, [b"CREATE " + b"a" * 244 + b"%06d" % i for i in range(9000)])
    for i in range(FULL_MAILBOXES):
        ask(sock, [b"SEND user%d x" % i] * MESSAGES)


def verb(port, count, usage):
    """Connections that pipeline one verb, as fast as they are served."""
    sock = connect(port)
    fill(sock)
    replies = 0

    def come():
        sock = connect(port)
        if usage.startswith("MANAGE "):
            ask(sock, [b"AUTH adam eve"])
        sock.setblocking(False)
        requests = requests_of(usage, sock.getsockname()[1])
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, [requests, 0])

    selector = selectors.DefaultSelector()
    for _ in range(count):
        come()
    began = time.monotonic()
    ready(lambda: f"{replies / (time.monotonic() - began):.0f} replies a second")
    while True:
        for key, events in selector.select():
            requests, at = key.data
            try:
                if events & selectors.EVENT_READ:
                    got = key.fileobj.recv(1 << 20)
                    replies += got.count(b"\n")
                    if not got:
                        raise ConnectionError
                if events & selectors.EVENT_WRITE:
                    at += key.fileobj.send(requests[at : at + 65536])
                    key.data[1] = at % len(requests)
            except BlockingIOError:
                pass
            except ConnectionError:
                selector.unregister(key.fileobj)
                key.fileobj.close()
                come()


def stats(port, count):
    """Eight connections that pipeline STATS, beside keys that have all just expired."""
    at = store_expiring(port, count)
    socks = [connect(port) for _ in range(8)]
    time.sleep(max(0, at - time.time() - 0.1))
    batch, done = b"KV/1.0 STATS\n" * 100, 0
    ready(lambda: f"{count} keys expired, {done} STATS")
    while True:
        for sock in socks:
            sock.sendall(batch)
        for sock in socks:
            left = 100
            while left > 0:
                left -= sock.recv(65536).count(b"\n")
            done += 100


ATTACKS = [slowloris, deaf, turns, auth, flood, lists, expiry, leaves, verb, stats]


def main():
    attacks = {attack.__name__: attack for attack in ATTACKS}
    name, port, count, *rest = sys.argv[1:]
    attacks[name](int(port), int(count), *rest)


if __name__ == "__main__":
    main()
