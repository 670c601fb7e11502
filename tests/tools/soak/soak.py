#!/usr/bin/env python3
"""soak: a thousand clients that come, go, stall, reset, half-close, send garbage, and do good work,
on a server with a log; every reply is compared with a model of what the store must hold.

    soak.py [--kvss PATH] [--seconds N] [--clients N] [--seed N]

Each client is a task that plays one part after another, drawn from a random number of its own: the
same seed gives the same parts and requests, though not the same order among clients. First comes a
warm-up, in which all memory is touched that a busy server needs; what is there at the end is
compared with what was there after it. Exits with 1, and says what, if anything is wrong."""
import argparse
import asyncio
import itertools
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque

from model import Box, Keys, Register, Session, Wrong

LINE_MAX = 65536  # bytes of a request
PART_MAX = 300  # seconds that no part takes, unless the server does not answer
OWN_KEYS = 20  # of each client
SHARED_KEYS = 16
BOXES = 4
BIG = b"x" * 60000
PASSWORD = "eve"
WARM_UP = 5  # seconds, at least
GROWTH_MAX = 16384  # kB: what malloc() may keep, for pieces of other sizes that lie in between


class Server:
    """A kvss, with its log in a file and stderr in another."""

    started = []

    def __init__(self, program, folder, data):
        self.data = data
        managers = os.path.join(folder, "managers")
        if not os.path.exists(managers):
            command = ["openssl", "passwd", "-6", PASSWORD]
            hashed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            with open(os.open(managers, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write("adam:" + hashed)
        self.said = data + ".stderr"
        with open(self.said, "w") as stderr:
            options = ["--quiet", "--port", "0", "--managers", managers, "--data", data]
            self.process = subprocess.Popen([program, *options], stderr=stderr)
        self.started.append(self.process)
        self.port = self.find_port()

    def find_port(self):
        while True:
            found = re.search(r"listening on .*:(\d+)\n", self.text())
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                raise Wrong("the server did not start: " + self.text())
            time.sleep(0.01)

    def text(self):
        with open(self.said) as file:
            return file.read()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self):
        """Resident, in kB."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        said = re.sub(r"kvss: (replayed|listening) .*\n", "", self.text())
        if status or said:
            raise Wrong(f"the server ended with status {status}, and said: {said}")

    @classmethod
    def end_all(cls):
        for process in cls.started:
            process.kill()
            process.wait()


class Connection:
    def __init__(self, world, sock, reader, writer):
        self.world = world
        self.sock = sock
        self.port = sock.getsockname()[1]
        self.reader = reader
        self.writer = writer

    def send(self, *requests):
        self.world.requests += len(requests)
        self.writer.write(b"".join(b"KV/1.0 %s\n" % request for request in requests))

    async def line(self):
        """The next one, without its LF."""
        line = await self.reader.readline()
        if line[-1:] != b"\n":
            raise Wrong(f"the server closed after {line[:80]}")
        self.world.replies[line[:3]] += 1
        return line[:-1]

    async def expect(self, *lines):
        for line in lines:
            got = await self.line()
            if got != line:
                raise Wrong(f"{got[:80]} and not {line[:80]}")

    async def ask(self, request):
        self.send(request)
        return await self.line()

    async def end(self):
        """The server has closed, and said no more."""
        rest = await self.reader.read()
        if rest:
            raise Wrong(f"{rest[:80]} and not the end")
        self.close()

    def stop_reading(self):
        self.writer.transport.pause_reading()

    def read_again(self):
        """With a larger buffer: through a small one, megabytes take minutes."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LINE_MAX)
        self.writer.transport.resume_reading()

    def close(self):
        self.writer.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def figures(stats):
    return {name: int(n) for name, n in re.findall(r"(\S+)=(\d+)", stats.decode())}


class World:
    """What all clients share."""

    def __init__(self, server, arguments):
        self.server = server
        self.seed = arguments.seed
        self.clients = arguments.clients
        self.players = [Player(self, i) for i in range(arguments.clients)]
        self.registers = [Register() for _ in range(SHARED_KEYS)]
        self.boxes = [Box(b"box%d" % i, lossy=i % 2 == 1) for i in range(BOXES)]
        self.senders = itertools.count()
        self.parts = Counter()
        self.replies = Counter()
        self.requests = self.connections = self.refused = 0
        self.knocks = 0  # connections of which nobody knows whether they were refused
        self.asked = deque()  # futures of replies to the manager
        self.until = 0
        self.wrong = None

    async def knock(self, port=None, buffer=None):
        """A connection which may still be refused."""
        sock = socket.socket()
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port or self.server.port))
        self.connections += 1
        streams = await asyncio.open_connection(sock=sock, limit=2 * LINE_MAX)
        return Connection(self, sock, *streams)

    async def connect(self, port=None, buffer=None):
        """One that has been admitted. The server may see a newcomer before it sees that another has
        left; then there may be no room for a moment. It counts those that it refuses."""
        while True:
            c = await self.knock(port, buffer)
            c.send(b"WHOAMI")
            try:
                hello = await c.reader.readline()
            except ConnectionError:
                hello = b""
            if hello == b"200 OK guest %d\n" % c.port:
                self.replies[b"200"] += 1
                return c
            c.writer.transport.abort()
            if hello not in (b"", b"503 SERVICE_UNAVAILABLE\n"):
                raise Wrong(f"{hello} as the first line")
            self.refused += 1
            await asyncio.sleep(0.05)

    async def prepare(self):
        """The first connection, a manager's; and what is there before the clients come."""
        self.manager = await self.connect()
        await self.manager.ask(b"AUTH adam " + PASSWORD.encode())
        self.manager.send(b"PUT here yes", b"PUT big " + BIG)
        await self.manager.expect(b"201 CREATED", b"201 CREATED")
        for i, register in enumerate(self.registers):
            start = register.write_begins()
            self.manager.send(b"PUT shared%d %d" % (i, start))
            await self.manager.expect(b"201 CREATED")
            register.write_ends(start)
        for box in self.boxes:
            self.manager.send(b"CREATE " + box.name)
            await self.manager.expect(b"201 CREATED")

    async def answer(self):
        """Hands the manager's replies to those who have asked."""
        while True:
            reply = await self.manager.line()
            self.asked.popleft().set_result(reply)

    async def ask(self, request):
        """Through the manager's connection, while answer() runs."""
        future = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        self.manager.send(request)
        return await future

    async def gone(self, port):
        """Waits until the server has closed the connection from that port: nothing more of it will
        be run."""
        while await self.ask(b"MANAGE %d GET here" % port) != b"404 NOT_FOUND":
            await asyncio.sleep(0.01)

    async def play(self, seconds):
        """All clients, for so many seconds and until each has ended its part."""
        self.until = time.monotonic() + seconds
        answers = asyncio.create_task(self.answer())
        await asyncio.gather(*(player.play() for player in self.players))
        if self.wrong:
            raise self.wrong
        while figures(await self.ask(b"STATS all"))["connections"] > 1:
            await asyncio.sleep(0.01)
        answers.cancel()
        await asyncio.wait([answers])

    async def touch(self):
        """As many clients as there will be, with a line as long as there may be: all the memory for
        what comes in is in use then."""
        clients = [await self.connect() for _ in range(self.clients)]
        for c in clients:
            c.writer.write(b"x" * LINE_MAX + b"\n")
            await c.expect(b"400 BAD_REQUEST")
            c.close()

    async def verify(self, port):
        """The store on that port is the model's, neither more nor less."""
        c = await self.connect(port)
        low = high = len(self.registers) + 2
        for player in self.players:
            fewest, most = player.keys.count(time.monotonic(), time.monotonic())
            low, high = low + fewest, high + most
        keys = int(re.search(rb"keys=(\d+)", await c.ask(b"STATS"))[1])
        if not low <= keys <= high:
            raise Wrong(f"{keys} keys, and not {low} to {high}")
        for player in self.players:
            names = [b"own:%d:%d" % (player.number, i) for i in range(OWN_KEYS)]
            await player.run(c, [b"GET " + name for name in names])
            await player.run(c, [b"TTL " + name for name in names])
        for i, register in enumerate(self.registers):
            bound = register.read_begins()
            register.read_ends(bound, int((await c.ask(b"GET shared%d" % i)).split(b" ")[2]))
        c.send(b"GET here", b"GET big")
        await c.expect(b"200 OK yes", b"200 OK " + BIG)
        c.close()
        return keys

    async def clear(self):
        """The last messages are taken, and all keys and mailboxes deleted."""
        for box in self.boxes:
            session = Session(box, self.replies)
            waiting = await self.manager.ask(b"CONNECT " + box.name)
            for _ in range(int(waiting.split(b" ")[2])):
                session.receive(await self.manager.line())
            if box.sent and not box.lossy:
                raise Wrong(f"{box.name}: {len(box.sent)} messages were lost")
            box.sent.clear()
            self.manager.send(b"DELETE " + box.name)
            await self.manager.expect(b"204 NO_CONTENT")
        for player in self.players:
            await player.run(self.manager, [b"DEL " + key for key in player.keys.entries])
        for key in [b"here", b"big"] + [b"shared%d" % i for i in range(SHARED_KEYS)]:
            self.manager.send(b"DEL " + key)
            await self.manager.expect(b"204 NO_CONTENT")
        stats = figures(await self.manager.ask(b"STATS all"))
        if stats["keys"] or await self.manager.ask(b"LIST") != b"200 OK":
            raise Wrong(f"something is left: {stats}")
        if not self.refused <= stats["refused"] <= self.refused + self.knocks:
            raise Wrong(f"{self.refused} were refused, but the server says {stats['refused']}")
        self.manager.close()
        return stats["memory"]


class Player:
    """One client, through all its connections, and the keys that are its own."""

    def __init__(self, world, number):
        self.world = world
        self.number = number
        self.random = random.Random(f"{world.seed} {number}")
        self.keys = Keys()
        self.values = itertools.count()

    async def play(self):
        parts, weights = zip(*PARTS.items())
        await asyncio.sleep(self.random.random())
        while time.monotonic() < self.world.until and not self.world.wrong:
            part = self.random.choices(parts, weights)[0]
            self.world.parts[part.__name__] += 1
            try:
                async with asyncio.timeout(PART_MAX):
                    await part(self)
            except (Wrong, OSError, ValueError, asyncio.TimeoutError) as error:
                text = f"client {self.number} as {part.__name__}: {type(error).__name__} {error}"
                self.world.wrong = self.world.wrong or Wrong(text)

    def rounds(self, most):
        """Some; fewer when the time is up."""
        for _ in range(self.random.randint(1, most)):
            yield
            if time.monotonic() > self.world.until:
                return

    async def pause(self, most):
        await asyncio.sleep(self.random.uniform(0, most))

    def value(self):
        """One that was never there before."""
        size = self.random.choices([0, 10, 100, 1000, 20000], [20, 40, 25, 14, 1])[0]
        return b"%d.%d H\xc3\xa0 " % (self.number, next(self.values)) + b"v" * (size + 1)

    def request(self, verbs):
        verb = self.random.choice(verbs)
        request = b"%s own:%d:%d" % (verb, self.number, self.random.randrange(OWN_KEYS))
        if verb == b"PUT":
            request += b" " + self.value()
        if verb == b"EXPIRE":
            request += b" %d" % self.random.randint(1, 60)
        return request

    def batch(self, verbs=(*[b"PUT"] * 4, *[b"GET"] * 4, b"DEL", b"EXPIRE", b"TTL")):
        return [self.request(verbs) for _ in range(self.random.randint(1, 40))]

    async def run(self, c, requests):
        sent = time.monotonic()
        c.send(*requests)
        await self.replies(c, requests, sent)

    async def replies(self, c, requests, sent):
        for request in requests:
            self.keys.check(request, await c.line(), sent, time.monotonic())


async def works(p):
    """Some batches on its own keys."""
    c = await p.world.connect()
    for _ in p.rounds(10):
        await p.run(c, p.batch())
        await p.pause(2)
    c.close()


async def shares(p):
    """Reads and writes what others read and write at the same time."""
    c = await p.world.connect()
    for _ in p.rounds(10):
        plan = []
        for _ in range(p.random.randint(1, 10)):
            key = p.random.randrange(SHARED_KEYS)
            register = p.world.registers[key]
            is_write = p.random.random() < 0.3
            name = register.write_begins() if is_write else register.read_begins()
            plan.append((register, is_write, name))
            c.send(b"PUT shared%d %d" % (key, name) if is_write else b"GET shared%d" % key)
        for register, is_write, name in plan:
            if is_write:
                await c.expect(b"200 OK")
                register.write_ends(name)
            else:
                register.read_ends(name, int((await c.line()).split(b" ")[2]))
        await p.pause(2)
    c.close()


async def stalls(p):
    """Stops in the middle of a line. Cut short, it must not be run."""
    c = await p.world.connect()
    request = p.request([b"PUT", b"DEL", b"EXPIRE"])
    line = b"KV/1.0 %s\n" % request
    cut = p.random.randrange(1, len(line))
    sent = time.monotonic()
    c.writer.write(line[:cut])
    await p.pause(3)
    end = p.random.choice(["finish", "half-close", "close", "reset"])
    if end == "finish":
        c.writer.write(line[cut:])
        await p.replies(c, [request], sent)
    if end == "half-close":
        c.writer.write_eof()
        await c.expect(b"400 BAD_REQUEST")
        await c.end()
    c.reset() if end == "reset" else c.close()


async def resets(p):
    """Leaves with requests outstanding: so many of the first were run, and none after them."""
    c = await p.world.connect()
    requests = p.batch([b"PUT", b"PUT", b"DEL"])
    read = p.random.randint(0, len(requests))
    sent = time.monotonic()
    c.send(*requests)
    replies = [(await c.line(), time.monotonic()) for _ in range(read)]
    c.reset()
    await p.world.gone(c.port)
    for request, (reply, got) in zip(requests, replies):
        p.keys.check(request, reply, sent, got)
    await find(p, requests[read:])


async def find(p, doubtful):
    """After how many of these requests is the store as it is?"""
    touched = sorted({request.split(b" ")[1] for request in doubtful})
    c = await p.world.connect()
    sent = time.monotonic()
    c.send(*(b"GET " + key for key in touched))
    replies = [(key, await c.line(), time.monotonic()) for key in touched]
    c.close()
    before = p.keys
    for request in [None, *doubtful]:
        if request:
            verb, key, *rest = request.split(b" ", 2)
            before.apply(verb, key, rest, True, sent, sent)
        p.keys = before.copy()
        try:
            for key, reply, got in replies:
                p.keys.check(b"GET " + key, reply, sent, got)
            return
        except Wrong:
            continue
    raise Wrong(f"after a reset, {replies} fit none of the requests {doubtful}")


async def half_closes(p):
    """Says that this is all, with requests outstanding, and gets every reply."""
    c = await p.world.connect()
    requests = p.batch()
    sent = time.monotonic()
    c.send(*requests)
    c.writer.write_eof()
    await p.pause(0.5)
    await p.replies(c, requests, sent)
    await c.end()


async def quits(p):
    """What comes after QUIT is not run."""
    c = await p.world.connect()
    requests = p.batch()
    sent = time.monotonic()
    c.send(*requests, b"QUIT", p.request([b"PUT"]), p.request([b"DEL"]))
    await p.replies(c, requests, sent)
    await c.expect(b"200 OK bye")
    await c.end()


async def babbles(p):
    """Each line of garbage has its answer, and the connection goes on."""
    c = await p.world.connect()
    for _ in range(p.random.randint(1, 30)):
        junk = p.random.randbytes(p.random.randint(0, 300)).replace(b"\n", b"")
        kind = p.random.randrange(3)
        if kind == 0:
            c.writer.write(b"?" + junk + b"\n")
            await c.expect(b"426 UPGRADE_REQUIRED")
        elif kind == 1:
            c.writer.write(b"KV/1.0 GET \xff" + junk + b"\n")
            await c.expect(b"400 BAD_REQUEST")
        else:
            await p.run(c, [p.request([b"GET", b"PUT"])])
    c.close()


async def overflows(p):
    """Lines that are too long, by one byte or by many."""
    c = await p.world.connect()
    for _ in range(p.random.randint(1, 3)):
        size = p.random.choice([LINE_MAX, LINE_MAX + 1, 100000, 300000])
        c.writer.write(b"KV/1.0 PUT own:%d:0 " % p.number + b"y" * size + b"\n")
        await p.pause(0.5)
        await c.expect(b"400 BAD_REQUEST")
        await p.run(c, p.batch())
    c.close()


async def ignores(p):
    """Asks for more than its socket holds, and does not read, or only much later."""
    c = await p.world.connect(buffer=4096)
    number = p.random.randint(50, 100)
    c.stop_reading()
    c.send(*[b"GET big"] * number)
    await p.pause(5)
    if p.random.random() < 0.7:
        c.reset()
        return
    c.read_again()
    await c.expect(*[b"200 OK " + BIG] * number)
    c.close()


async def knocks(p):
    """Comes and goes."""
    p.world.knocks += 1
    c = await p.world.knock()
    await p.pause(0.01)
    p.random.choice([c.close, c.reset])()


async def sends(p):
    """Messages, each with the number of this sender and its own."""
    c = await p.world.connect()
    box = p.random.choice(p.world.boxes)
    sender = next(p.world.senders)
    last = 0
    for _ in p.rounds(5):
        first, last = last, last + p.random.randint(1, 30)
        for i in range(first, last):
            text = b"m" * p.random.choice([1, 100, 60000])
            box.sent.add((sender, i))
            c.send(b"SEND %s %d %d %s" % (box.name, sender, i, text))
        for i in range(first, last):
            reply = await c.line()
            if reply == b"507 INSUFFICIENT_STORAGE":
                box.take_out((sender, i))
            elif reply not in (b"200 OK", b"202 ACCEPTED"):
                raise Wrong(f"SEND got {reply}")
        await p.pause(2)
    c.close()


async def holds(p):
    """Takes a mailbox, perhaps from another, is slow at times, and leaves it in some way. Who loses
    it in the middle of a message gets the end of the stream there, the next holder all of it."""
    c = await p.world.connect(buffer=4096)
    box = p.random.choice(p.world.boxes)
    c.send(b"CONNECT " + box.name)
    session = Session(box, p.world.replies)
    reply = await c.line()
    if not re.fullmatch(rb"200 OK \d+", reply):
        raise Wrong(f"CONNECT got {reply[:80]}")
    c.stop_reading()
    await p.pause(5)
    c.read_again()
    try:
        async with asyncio.timeout(p.random.uniform(0, 5)):
            rest = await session.take(c.reader)
        if not session.is_over():
            raise Wrong(f"{rest[:80]} in the midst of messages")
    except asyncio.TimeoutError:
        pass
    leave = p.random.choice(["quit", "half-close", "reset" if box.lossy else "quit"])
    if leave == "reset":
        c.reset()
        return
    if leave == "quit":
        c.send(b"QUIT")
    else:
        c.writer.write_eof()
    rest = await session.take(c.reader)
    if rest != (b"200 OK bye\n" if leave == "quit" else b"") and not session.is_over():
        raise Wrong(f"{rest[:80]} at the end of messages")
    await c.end()


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


async def report(world, compactions):
    """A line each minute; and how often the log has become another file."""
    began, minutes, file = time.monotonic(), 1, 0
    while True:
        before, file = file, os.stat(world.server.data).st_ino
        compactions += [file] if file != before else []
        await asyncio.sleep(1)
        seconds = time.monotonic() - began
        if seconds < 60 * minutes:
            continue
        minutes = seconds // 60 + 1
        stats = figures(await world.ask(b"STATS all"))
        print(
            f"{seconds:5.0f} s: {stats['connections']} clients, {world.connections} connections,"
            f" {world.requests} requests, {stats['keys']} keys, {world.server.memory()} kB,"
            f" log {os.path.getsize(world.server.data)} bytes",
            flush=True,
        )


async def settle(server, descriptors):
    """Waits until the server has no more descriptors than that."""
    end = time.monotonic() + 60
    while server.descriptors() != descriptors:
        if time.monotonic() > end:
            raise Wrong(f"{server.descriptors()} descriptors, and not {descriptors}")
        await asyncio.sleep(0.05)


async def run_again(arguments, folder, world):
    """A server that starts with a copy of the log as it is now, as after kill -9."""
    data = os.path.join(folder, "copy")
    shutil.copy(world.server.data, data)
    again = Server(arguments.kvss, folder, data)
    keys = await world.verify(again.port)
    again.stop()
    return keys


def is_sanitized(program):
    with open(program, "rb") as file:
        return b"__asan_init" in file.read()


async def soak(arguments, folder):
    data = os.path.join(folder, "data")
    server = Server(arguments.kvss, folder, data)
    world = World(server, arguments)
    descriptors, fresh = server.descriptors(), server.memory()
    await world.touch()
    await world.prepare()
    await world.play(max(arguments.seconds / 10, WARM_UP))
    held = await world.clear()
    await settle(server, descriptors)
    before = server.memory()

    await world.prepare()
    compactions = []
    reporter = asyncio.create_task(report(world, compactions))
    began = time.monotonic()
    await world.play(arguments.seconds)
    reporter.cancel()
    seconds = time.monotonic() - began
    await world.verify(server.port)
    keys = await run_again(arguments, folder, world)
    held_after = await world.clear()
    await settle(server, descriptors)
    after = server.memory()
    server.stop()
    empty = Server(arguments.kvss, folder, data)
    c = await world.knock(port=empty.port)
    if not (await c.ask(b"STATS")).startswith(b"200 OK keys=0 "):
        raise Wrong("keys that were deleted came back with the log")
    c.close()
    empty.stop()

    print(f"{seconds:.0f} s, {world.connections} connections, {world.refused} refused,")
    print(f"{world.requests} requests, {sum(world.replies.values())} replies checked:")
    print("  " + ", ".join(f"{k.decode()}: {n}" for k, n in sorted(world.replies.items())))
    print("  " + ", ".join(f"{k}: {n}" for k, n in sorted(world.parts.items())))
    print(f"{len(compactions) - 1} compactions seen; {keys} keys were there again from the log")
    print(f"descriptors: {descriptors} at the start and at the end")
    print(f"memory: {fresh} kB at the start, {before} kB after the warm-up, {after} kB at the end;")
    print(f"  of it for an empty store: {held} and {held_after} bytes")
    most = before + (400000 if is_sanitized(arguments.kvss) else GROWTH_MAX)
    if after > most or held_after > held + 100000:
        raise Wrong(f"memory has grown: no more than {most} kB were allowed")


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
    print(f"seed {arguments.seed}, {arguments.clients} clients", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(soak(arguments, folder))
        except Wrong as wrong:
            sys.exit(f"WRONG: {wrong}")
        finally:
            Server.end_all()
    print("all is right")


if __name__ == "__main__":
    main()
