#!/usr/bin/env python3
"""A second implementation of KV/1.0, to hold kvss against. It shares no line with it.

    model.py generate SEED COUNT    prints that many random requests, good and bad
    model.py answer [FILE...]       prints the replies to the requests in each file, or on stdin; each
                                    file is a connection, and the store outlives it"""
import os
import random
import sys

sys.path.append(os.path.join(sys.path[0], ".."))
from kvss import Model

ARGUMENTS = {b"PUT": 2, b"GET": 1, b"DEL": 1, b"STATS": 0, b"QUIT": 0}
LINE_MAX = 65536  # bytes, with the LF
KEY_MAX = 250


class Service:
    """What answers requests, of one client after another."""

    def __init__(self):
        self.store = {}
        self.served = 0

    def session(self, file):
        """Yields the replies to all lines of a connection, or up to QUIT."""
        for line in file:
            reply = self.reply(line)
            yield reply
            if reply == b"200 OK bye":
                return

    def reply(self, line):
        self.served += 1
        if len(line) > LINE_MAX or not line.endswith(b"\n"):
            return b"400 BAD_REQUEST"
        line = line[:-1].removesuffix(b"\r")
        version, _, rest = line.partition(b" ")
        if version != b"KV/1.0":
            return b"426 UPGRADE_REQUIRED"
        verb, *arguments = rest.split(b" ", 2)
        if not self.is_text(line) or not self.is_good(verb, arguments):
            return b"400 BAD_REQUEST"
        if verb == b"QUIT":
            return b"200 OK bye"
        if verb == b"STATS":
            return b"200 OK keys=%d uptime=Ns served=%d" % (len(self.store), self.served)
        verb, key, value = (word.decode() for word in (verb, *arguments, b"")[:3])
        reply, entry = Model.outcome(self.store.pop(key, None), verb, value, None, 0, 0)
        if entry:
            self.store[key] = entry
        return reply.encode()

    @staticmethod
    def is_text(line):
        try:
            return "\0" not in line.decode()
        except UnicodeDecodeError:
            return False

    @staticmethod
    def is_good(verb, arguments):
        if len(arguments) != ARGUMENTS.get(verb) or b"" in arguments:
            return False
        key = arguments[0] if arguments else b""
        return len(key) <= KEY_MAX and all(32 <= byte != 127 for byte in key)


class Generator:
    """Random requests, the same for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def below(self, number):
        return int(self.random.random() * number)

    def one_of(self, choices):
        """One of those between which there is a |."""
        choices = choices.split(b"|")
        return choices[self.below(len(choices))]

    def key(self):
        kind = self.below(100)
        if kind < 80:
            return b"key%d" % self.below(60)
        if kind < 90:
            return self.one_of("thành|日本|\U0001f34c|=|KV/1.0|GET|\u0085".encode())
        if kind < 94:
            return b"x" * (KEY_MAX - 2 + self.below(5))
        if kind < 97:
            return b"k" + self.one_of(b"\t|\x1b|\x7f|\x1f|\2|\r") + b"y"
        return self.one_of(b"\x80|\xc3|\xc0\xaf|\xe0\x9f\xbf|\xed\xa0\x80|\xf4\x90\x80\x80|\xf8"
                           b"|a\0b|\xe2\x82")

    def value(self):
        kind = self.below(100)
        if kind < 60:
            return b"value %d" % self.below(1000)
        if kind < 70:
            return self.one_of(b" leading|trailing |  |\ttab\t|\xc2\x85|a\rb|\r| \r|\x1b[31m|-|all")
        if kind < 80:
            return self.one_of("Hà Nội|\U0001f34c\U0001f34c|\ud7ff|\ue000".encode())
        if kind < 95:
            return b"x" * (self.below(500) + 1)
        return self.one_of(b"\xff|\0|a\0|\xc3(|\xf0\x8f\xbf\xbf|\xed\xbf\xbf|\xf4\x8f\xbf\xc0")

    def good(self):
        verb = self.one_of(b"PUT|PUT|GET|GET|DEL")
        request = b"KV/1.0 " + verb + b" " + self.key()
        return request + b" " + self.value() if verb == b"PUT" else request

    def bad(self):
        """A line that is not as it should be; nearly all of these are refused."""
        one_of, key, value = self.one_of, self.key, self.value
        kinds = [
            lambda: one_of(b"KV/1.1|KV/2.0|kv/1.0|KV/1.0\t|KV/1.|KV|WRONG/1.0|\xff|\0")
            + b" GET " + key(),
            lambda: one_of(b"|\r| |GET a|KV/1.0|KV/1.0 |KV/1.0  |\0|\xff\xfe"),
            lambda: b"KV/1.0 " + one_of(b"POTT|get|Put|GE|GETT|DELETE|STATUS|\xc3\x89")
            + b" " + key() + b" " + value(),
            lambda: b"KV/1.0 PUT " + key(),
            lambda: b"KV/1.0 " + one_of(b"GET|DEL|PUT|STATS|QUIT") + b" ",
            lambda: b"KV/1.0 " + one_of(b"GET|DEL|QUIT|STATS") + b" " + key() + b" " + value(),
            lambda: b"KV/1.0  GET " + key(),
            lambda: b"KV/1.0 PUT  " + value(),
            lambda: b"KV/1.0 PUT " + key() + b" ",
            lambda: b"KV/1.0 " + one_of(b"GET|DEL") + b"  " + key(),
            lambda: b"KV/1.0 " + one_of(b"GET|DEL|PUT|STAT|QUI|QUIT now"),
            lambda: b"KV/1.0 STATS " + one_of(b"some|al|alle|ALL"),
            lambda: b" " + self.good(),
            value,
        ]
        return kinds[self.below(len(kinds))]()

    def huge(self):
        """At the edge of what a line may have, or far past it."""
        start = self.one_of(b"KV/1.0 PUT key1 |KV/1.0 GET |KV/2.0 |")
        if self.below(4):
            return start.ljust(LINE_MAX - 5 + self.below(9), b"x")
        return start.ljust(LINE_MAX * (1 + self.below(3)) + self.below(3), b"x")

    def request(self):
        kind = self.below(6000)
        if kind == 0:
            return self.huge()
        if kind < 4200:
            return self.good()
        return b"KV/1.0 STATS" if kind < 4440 else self.bad()

    def session(self, count):
        """Lines, and an end: QUIT and lines that come too late, or half a line, or nothing."""
        for _ in range(count):
            yield self.request() + (b"\n" if self.below(20) else b"\r\n")
        ends = [b"", self.good(), b"KV/1.0 QUIT\n" + self.good() + b"\n" + self.good()]
        yield ends[self.below(3)]


def main():
    command, *arguments = sys.argv[1:]
    out = sys.stdout.buffer
    if command == "generate":
        out.writelines(Generator(int(arguments[0])).session(int(arguments[1])))
        return
    service = Service()
    for name in arguments or ["/dev/stdin"]:
        with open(name, "rb") as file:
            out.writelines(reply + b"\n" for reply in service.session(file))


if __name__ == "__main__":
    main()
