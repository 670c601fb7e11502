#!/usr/bin/env python3
"""A crowd of clients, for tests that need more of them than there can be processes.

    crowd.py PORT

It obeys lines on stdin, and prints a line when it has: "open GROUP N" connects so many clients,
"say GROUP TEXT" has each send the text (which is a Python string without its quotes, as in GET a\\n),
"hear GROUP" prints how many got which line, "close GROUP" closes them, and "drop N" opens and drops so
many, one after the other: one says nothing, the next half a line, a request, and QUIT."""
import codecs
import collections
import socket
import sys

port = int(sys.argv[1])
groups = collections.defaultdict(list)


def client():
    return socket.create_connection(("127.0.0.1", port), timeout=120)


def send(one, text):
    try:
        one.sendall(text)
    except OSError:
        pass  # a client that was refused may fail to


def line(one):
    got = b""
    try:
        while not got.endswith(b"\n"):
            byte = one.recv(1)
            if not byte:
                break
            got += byte
    except OSError as error:
        return type(error).__name__
    return got.decode().rstrip("\n")


for order in sys.stdin:
    verb, group, *rest = order.rstrip("\n").split(" ", 2)
    answer = "done"
    if verb == "open":
        groups[group] += [client() for _ in range(int(rest[0]))]
    elif verb == "say":
        for one in groups[group]:
            send(one, codecs.decode(rest[0], "unicode_escape").encode())
    elif verb == "hear":
        lines = collections.Counter(line(one) for one in reversed(groups[group]))
        answer = ", ".join(f"{n} {text}" for text, n in sorted(lines.items()))
    elif verb == "close":
        for one in groups.pop(group):
            one.close()
    elif verb == "drop":
        for i in range(int(group)):
            with client() as one:
                send(one, (b"", b"KV/1.0 GET", b"KV/1.0 GET a\n", b"KV/1.0 QUIT\n")[i % 4])
    print(answer, flush=True)
