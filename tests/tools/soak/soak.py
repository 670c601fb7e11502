#!/usr/bin/env python3
"""soak: a thousand clients that come, go, stall, reset, half-close, send garbage, and do good work,
on a server with a log; every reply is compared with a model of what the store must hold.

    soak.py [--kvss PATH] [--seconds N] [--clients N] [--seed N]

Each client is a thread that plays one part after another, drawn from a random number of its own: the
same seed gives the same parts and requests, though not the same order among clients. First comes a
warm-up, in which all memory is touched that a busy server needs; what is there at the end is
compared with what was there after it. Exits with 1, and says what, if anything is wrong."""
import argparse
import itertools
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from math import inf

sys.path.append(os.path.join(sys.path[0], ".."))
from kvss import WAIT, Client, Late, Lost, Model, Server, Wrong, expect, managers, wait_for

LINE_MAX = 65536  # bytes of a request
OWN_KEYS = 20  # of each client
SHARED_KEYS = 16
BOXES = 4
BIG = "x" * 60000
PASSWORD = "eve"
WARM_UP = 5  # seconds, at least
GROWTH_MAX = 16384  # kB: what malloc() may keep, for pieces of other sizes that lie in between


class Connection(Client):
    """It counts the lines that came."""

    def __init__(self, world, port=None, buffer=None):
        super().__init__(port or world.server.ports[0], buffer)
        self.world, self.heard = world, 0
        world.count(connections=1)

    def line(self):
        line = super().line()
        self.heard += 1
        return line

    def read_again(self):
        """With a larger buffer: through a small one, megabytes take minutes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LINE_MAX)

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        super().close()
        self.world.count(replies=self.heard)
        self.heard = 0


class Register:
    """A key that many write and read at once. A value is named by the time its write began. Once a
    write has been acknowledged, or read, no later read may get one that ended before it began."""

    clock = itertools.count(1)

    def __init__(self):
        self.ends = {}  # when each write was acknowledged, by when it began
        self.settled = 0  # the latest write known to have happened

    def write_begins(self):
        start = next(self.clock)
        self.ends[start] = inf
        return start

    def write_ends(self, start):
        self.ends[start] = next(self.clock)
        self.settled = max(self.settled, start)

    def read_ends(self, bound, start):
        """Bound is what was settled when the read began."""
        expect(self.ends.get(start, 0) >= bound, f"the value of write {start} was read, after that of {bound}")
        self.settled = max(self.settled, start)


class Box:
    """A mailbox: each message arrives once, and those of one sender in order. Where a holder may
    reset its connection, what was on its way then is lost."""

    def __init__(self, name, lossy):
        self.name = name
        self.lossy = lossy
        self.sent = set()  # and neither received nor refused
        self.begun = self.ended = 0  # sessions

    def take_out(self, message):
        expect(message in self.sent, f"{self.name}: {message} came twice, or was refused, or never sent")
        self.sent.remove(message)


class Session:
    """What one holder of a mailbox gets."""

    def __init__(self, world, box):
        self.world, self.box = world, box
        self.last = {}
        with world.lock:
            self.was_free = box.begun == box.ended
            box.begun += 1
            self.number = box.begun

    def receive(self, line):
        prefix = f"100 MESSAGE {self.box.name} "
        expect(line.startswith(prefix), f"{line[:80]} is no message for {self.box.name}")
        sender, number = map(int, line[len(prefix):].split(" ", 2)[:2])
        expect(number > self.last.get(sender, -1), f"{self.box.name}: {number} of {sender} after {self.last}")
        self.last[sender] = number
        self.box.take_out((sender, number))

    def take(self, c, seconds):
        """Messages up to another line, or the end of the stream: ''."""
        end = time.monotonic() + seconds
        line = "100 "
        try:
            while line.startswith("100 "):
                c.socket.settimeout(max(0.001, end - time.monotonic()))
                line = c.line()
                if line.startswith("100 "):
                    self.receive(line)
                if time.monotonic() > end:
                    raise Late("messages")
        except Lost:
            line = ""
        finally:
            c.socket.settimeout(WAIT)
        return line

    def may_be_over(self):
        """Another one may have taken the mailbox."""
        return not self.was_free or self.box.begun > self.number

    def ends(self):
        with self.world.lock:
            self.box.ended += 1


def figures(stats):
    return {name: int(n) for name, n in re.findall(r"(\S+)=(\d+)", stats)}


class World:
    """What all clients share."""

    def __init__(self, server, arguments):
        self.server = server
        self.seed = arguments.seed
        self.lock, self.asking = threading.Lock(), threading.Lock()
        self.counts = Counter()
        self.players = [Player(self, i) for i in range(arguments.clients)]
        self.registers = [Register() for _ in range(SHARED_KEYS)]
        self.boxes = [Box(f"box{i}", lossy=i % 2 == 1) for i in range(BOXES)]
        self.senders = itertools.count()
        self.until = 0
        self.wrong = None

    def count(self, **numbers):
        with self.lock:
            self.counts.update(numbers)

    def connect(self, port=None, buffer=None):
        """A connection that has been admitted. The server may see a newcomer before it sees that
        another has left; then there may be no room for a moment. It counts those that it refuses."""
        while True:
            c = Connection(self, port, buffer)
            try:
                hello, = c.ask("WHOAMI")
            except Lost:
                hello = ""
            if hello == f"200 OK guest {c.port}":
                return c
            c.reset()
            expect(hello in ("", "503 SERVICE_UNAVAILABLE"), f"{hello} as the first line")
            self.count(refused=1)
            time.sleep(0.05)

    def prepare(self):
        """The first connection, a manager's; and what is there before the clients come."""
        self.manager = self.connect()
        self.manager.ask("AUTH adam " + PASSWORD)
        new = ["PUT here yes", "PUT big " + BIG]
        for i, register in enumerate(self.registers):
            start = register.write_begins()
            new.append(f"PUT shared{i} {start}")
            register.write_ends(start)
        new += [f"CREATE {box.name}" for box in self.boxes]
        expect(set(self.manager.ask(*new)) == {"201 CREATED"}, "something was there before")

    def ask(self, request):
        """Of the manager, one client after the other."""
        with self.asking:
            return self.manager.ask(request)[0]

    def gone(self, port):
        """Waits until the server has closed the connection from that port: nothing more of it will
        be run."""
        wait_for("a reset", lambda: self.ask(f"MANAGE {port} GET here") == "404 NOT_FOUND")

    def play(self, seconds):
        """All clients, for so many seconds and until each has ended its part."""
        self.until = time.monotonic() + seconds
        threads = [threading.Thread(target=player.play, daemon=True) for player in self.players]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.wrong:
            raise self.wrong
        wait_for("the last client to be gone", lambda: figures(self.ask("STATS all"))["connections"] == 1)

    def touch(self):
        """As many clients as there will be, with a line as long as there may be: all the memory for
        what comes in is in use then."""
        clients = [self.connect() for _ in self.players]
        for c in clients:
            c.write(b"x" * LINE_MAX + b"\n")
            c.hears("400 BAD_REQUEST")
            c.close()

    def verify(self, port):
        """The store on that port is the model's, neither more nor less."""
        c = self.connect(port)
        low = high = len(self.registers) + 2
        for player in self.players:
            fewest, most = player.keys.count()
            low, high = low + fewest, high + most
        keys = figures(c.ask("STATS")[0])["keys"]
        expect(low <= keys <= high, f"{keys} keys, and not {low} to {high}")
        for player in self.players:
            player.run(c, [f"{verb} {name}" for verb in ("GET", "TTL") for name in player.names])
        for i, register in enumerate(self.registers):
            register.read_ends(register.settled, int(c.ask(f"GET shared{i}")[0].split(" ")[2]))
        c.send("GET here", "GET big")
        c.hears("200 OK yes", "200 OK " + BIG)
        c.close()
        return keys

    def clear(self):
        """The last messages are taken, and all keys and mailboxes deleted."""
        for box in self.boxes:
            session = Session(self, box)
            waiting = self.ask(f"CONNECT {box.name}")
            for _ in range(int(waiting.split(" ")[2])):
                session.receive(self.manager.line())
            session.ends()
            expect(box.lossy or not box.sent, f"{box.name}: {len(box.sent)} messages were lost")
            box.sent.clear()
        for player in self.players:
            player.run(self.manager, [f"DEL {name}" for name in player.names])
        last = ["here", "big"] + [f"shared{i}" for i in range(SHARED_KEYS)]
        gone = self.manager.ask(*[f"DEL {key}" for key in last], *[f"DELETE {box.name}" for box in self.boxes])
        expect(set(gone) == {"204 NO_CONTENT"}, "something was not there at the end")
        stats = figures(self.ask("STATS all"))
        expect(not stats["keys"] and self.ask("LIST") == "200 OK", f"something is left: {stats}")
        refused = self.counts["refused"]
        expect(refused <= stats["refused"] <= refused + self.counts["knocks"],
               f"{refused} were refused, but the server says {stats['refused']}")
        self.manager.close()
        return stats["memory"]


class Player:
    """One client, through all its connections, and the keys that are its own."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.random = random.Random(f"{world.seed} {number}")
        self.names = [f"own:{number}:{i}" for i in range(OWN_KEYS)]
        self.keys = Model()
        self.values = itertools.count()

    def play(self):
        parts, weights = zip(*PARTS.items())
        time.sleep(self.random.random())
        while time.monotonic() < self.world.until and not self.world.wrong:
            part = self.random.choices(parts, weights)[0]
            self.world.count(**{part.__name__: 1})
            try:
                part(self)
            except (Wrong, OSError, ValueError) as error:
                text = f"client {self.number} as {part.__name__}: {type(error).__name__} {error}"
                self.world.wrong = self.world.wrong or Wrong(text)

    def rounds(self, most):
        """Some; fewer when the time is up."""
        for _ in range(self.random.randint(1, most)):
            yield
            if time.monotonic() > self.world.until:
                return

    def pause(self, most):
        time.sleep(self.random.uniform(0, most))

    def value(self):
        """One that was never there before."""
        size = self.random.choices([0, 10, 100, 1000, 20000], [20, 40, 25, 14, 1])[0]
        return f"{self.number}.{next(self.values)} Hà " + "v" * (size + 1)

    def request(self, *verbs):
        verb = self.random.choice(verbs)
        request = f"{verb} {self.random.choice(self.names)}"
        if verb == "PUT":
            request += f" {self.value()}"
        if verb == "EXPIRE":
            request += f" {self.random.randint(1, 60)}"
        return request

    def batch(self, verbs=(*["PUT"] * 4, *["GET"] * 4, "DEL", "EXPIRE", "TTL")):
        return [self.request(*verbs) for _ in range(self.random.randint(1, 40))]

    def run(self, c, requests):
        sent = time.monotonic()
        c.send(*requests)
        self.replies(c, requests, sent)

    def replies(self, c, requests, sent):
        for request in requests:
            self.keys.judge(request, c.line(), sent, time.monotonic())


def works(p):
    """Some batches on its own keys."""
    c = p.world.connect()
    for _ in p.rounds(10):
        p.run(c, p.batch())
        p.pause(2)
    c.close()


def shares(p):
    """Reads and writes what others read and write at the same time."""
    c = p.world.connect()
    for _ in p.rounds(10):
        plan = []
        for _ in range(p.random.randint(1, 10)):
            key = p.random.randrange(SHARED_KEYS)
            register = p.world.registers[key]
            writes = p.random.random() < 0.3
            name = register.write_begins() if writes else register.settled
            plan.append((register, writes, name))
            c.send(f"PUT shared{key} {name}" if writes else f"GET shared{key}")
        for register, writes, name in plan:
            if writes:
                c.hears("200 OK")
                register.write_ends(name)
            else:
                register.read_ends(name, int(c.line().split(" ")[2]))
        p.pause(2)
    c.close()


def stalls(p):
    """Stops in the middle of a line. Cut short, it must not be run."""
    c = p.world.connect()
    request = p.request("PUT", "DEL", "EXPIRE")
    line = f"KV/1.0 {request}\n".encode()
    cut = p.random.randrange(1, len(line))
    sent = time.monotonic()
    c.write(line[:cut])
    p.pause(3)
    end = p.random.choice(["finish", "half-close", "close", "reset"])
    if end == "finish":
        c.write(line[cut:])
        p.replies(c, [request], sent)
    if end == "half-close":
        c.half_close()
        c.hears("400 BAD_REQUEST")
        c.hears_end()
    c.reset() if end == "reset" else c.close()


def resets(p):
    """Leaves with requests outstanding: so many of the first were run, and none after them."""
    c = p.world.connect()
    requests = p.batch(["PUT", "PUT", "DEL"])
    read = p.random.randint(0, len(requests))
    sent = time.monotonic()
    c.send(*requests)
    p.replies(c, requests[:read], sent)
    c.reset()
    p.world.gone(c.port)
    find(p, requests[read:])


def find(p, doubtful):
    """After how many of these requests is the store as it is?"""
    touched = sorted({request.split(" ")[1] for request in doubtful})
    c = p.world.connect()
    sent = time.monotonic()
    replies = c.ask(*[f"GET {key}" for key in touched])
    got = time.monotonic()
    c.close()
    before = p.keys
    for request in [None, *doubtful]:
        if request:
            before.run(request, sent, sent)
        p.keys = before.copy()
        try:
            for key, reply in zip(touched, replies):
                p.keys.judge(f"GET {key}", reply, sent, got)
            return
        except Wrong:
            continue
    raise Wrong(f"after a reset, {replies} fit none of the requests {doubtful}")


def half_closes(p):
    """Says that this is all, with requests outstanding, and gets every reply."""
    c = p.world.connect()
    requests = p.batch()
    sent = time.monotonic()
    c.send(*requests)
    c.half_close()
    p.pause(0.5)
    p.replies(c, requests, sent)
    c.hears_end()


def quits(p):
    """What comes after QUIT is not run."""
    c = p.world.connect()
    requests = p.batch()
    sent = time.monotonic()
    c.send(*requests, "QUIT", p.request("PUT"), p.request("DEL"))
    p.replies(c, requests, sent)
    c.hears("200 OK bye")
    c.hears_end()


def babbles(p):
    """Each line of garbage has its answer, and the connection goes on."""
    c = p.world.connect()
    for _ in range(p.random.randint(1, 30)):
        junk = p.random.randbytes(p.random.randint(0, 300)).replace(b"\n", b"")
        kind = p.random.randrange(3)
        if kind == 0:
            c.write(b"?" + junk + b"\n")
            c.hears("426 UPGRADE_REQUIRED")
        elif kind == 1:
            c.write(b"KV/1.0 GET \xff" + junk + b"\n")
            c.hears("400 BAD_REQUEST")
        else:
            p.run(c, [p.request("GET", "PUT")])
    c.close()


def overflows(p):
    """Lines that are too long, by one byte or by many."""
    c = p.world.connect()
    for _ in range(p.random.randint(1, 3)):
        size = p.random.choice([LINE_MAX, LINE_MAX + 1, 100000, 300000])
        c.write(f"KV/1.0 PUT {p.names[0]} ".encode() + b"y" * size + b"\n")
        p.pause(0.5)
        c.hears("400 BAD_REQUEST")
        p.run(c, p.batch())
    c.close()


def ignores(p):
    """Asks for more than its socket holds, and does not read, or only much later."""
    c = p.world.connect(buffer=4096)
    number = p.random.randint(50, 100)
    c.send(*["GET big"] * number)
    p.pause(5)
    if p.random.random() < 0.7:
        c.reset()
        return
    c.read_again()
    c.hears(*["200 OK " + BIG] * number)
    c.close()


def knocks(p):
    """Comes and goes. Nobody knows whether it was refused."""
    c = Connection(p.world)
    p.pause(0.01)
    p.random.choice([c.close, c.reset])()


def sends(p):
    """Messages, each with the number of this sender and its own."""
    c = p.world.connect()
    box = p.random.choice(p.world.boxes)
    sender = next(p.world.senders)
    last = 0
    for _ in p.rounds(5):
        first, last = last, last + p.random.randint(1, 30)
        for i in range(first, last):
            text = "m" * p.random.choice([1, 100, 60000])
            box.sent.add((sender, i))
            c.send(f"SEND {box.name} {sender} {i} {text}")
        for i in range(first, last):
            reply = c.line()
            if reply == "507 INSUFFICIENT_STORAGE":
                box.take_out((sender, i))
            else:
                expect(reply in ("200 OK", "202 ACCEPTED"), f"SEND got {reply}")
        p.pause(2)
    c.close()


def holds(p):
    """Takes a mailbox, perhaps from another, is slow at times, and leaves it in some way. Who loses
    it in the middle of a message gets the end of the stream there, the next holder all of it."""
    c = p.world.connect(buffer=4096)
    box = p.random.choice(p.world.boxes)
    session = Session(p.world, box)
    reply, = c.ask(f"CONNECT {box.name}")
    expect(re.fullmatch(r"200 OK \d+", reply), f"CONNECT got {reply[:80]}")
    p.pause(5)
    c.read_again()
    try:
        rest = session.take(c, p.random.uniform(0, 5))
        expect(session.may_be_over(), f"{rest[:80]} in the midst of messages")
    except Late:
        pass
    leave = p.random.choice(["quit", "half-close", "reset" if box.lossy else "quit"])
    if leave == "reset":
        c.reset()
    else:
        c.send("QUIT") if leave == "quit" else c.half_close()
        rest = session.take(c, 5 * WAIT)
        wanted = "200 OK bye" if leave == "quit" else ""
        expect(rest == wanted or session.may_be_over(), f"{rest[:80]} at the end of messages")
        c.hears_end()
    session.ends()


PARTS = {
    works: 30,
    shares: 10,
    stalls: 8,
    resets: 10,
    half_closes: 8,
    quits: 8,
    babbles: 6,
    overflows: 3,
    ignores: 3,
    knocks: 6,
    sends: 8,
    holds: 2,
}


def is_sanitized(program):
    with open(program, "rb") as file:
        return b"__asan_init" in file.read()


def soak(arguments, folder, servers):
    def start(data):
        """A kvss with that log."""
        servers.append(Server(arguments.kvss, folder, "--quiet", "--managers", file, "--data", data))
        expect(servers[-1].serves(), "it did not start: " + servers[-1].said())
        return servers[-1]

    def stop(server):
        server.stop()
        expect(not server.complaints(), f"the server said: {server.complaints()}")

    def settle():
        wait_for(f"{descriptors} descriptors", lambda: server.descriptors() == descriptors)
        return server.memory()

    file = managers(folder, PASSWORD)
    data = f"{folder}/data"
    server = start(data)
    world = World(server, arguments)
    descriptors, fresh = server.descriptors(), server.memory()
    world.touch()
    world.prepare()
    world.play(max(arguments.seconds / 10, WARM_UP))
    held = world.clear()
    before = settle()

    world.prepare()
    began = time.monotonic()
    world.play(arguments.seconds)
    seconds = time.monotonic() - began
    world.verify(server.ports[0])
    # As after kill -9: a server that starts with a copy of the log as it is now.
    shutil.copy(data, f"{folder}/copy")
    again = start(f"{folder}/copy")
    keys = world.verify(again.ports[0])
    stop(again)
    held_after = world.clear()
    after = settle()
    stop(server)
    empty = start(data)
    there, = Client(empty.ports[0]).ask("STATS")
    expect(there.startswith("200 OK keys=0 "), "keys that were deleted came back with the log")
    stop(empty)

    print(f"{seconds:.0f} s; " + ", ".join(f"{name}: {n}" for name, n in sorted(world.counts.items())))
    print(f"{keys} keys were there again from the log")
    print(f"memory: {fresh} kB at the start, {before} kB after the warm-up, {after} kB at the end;")
    print(f"  of it for an empty store: {held} and {held_after} bytes")
    most = before + (400000 if is_sanitized(arguments.kvss) else GROWTH_MAX)
    expect(after <= most and held_after <= held + 100000, f"memory has grown: no more than {most} kB were allowed")


def main():
    parser = argparse.ArgumentParser()
    root = pathlib.Path(__file__).resolve().parents[3]
    parser.add_argument("--kvss", default=str(root / "kvss"))
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1000000))
    arguments = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threading.stack_size(1 << 18)
    print(f"seed {arguments.seed}, {arguments.clients} clients", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    servers = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            soak(arguments, folder, servers)
        except Wrong as wrong:
            sys.exit(f"WRONG: {wrong}")
        finally:
            for server in servers:
                server.kill()
    print("all is right")


if __name__ == "__main__":
    main()
