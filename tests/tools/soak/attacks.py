#!/usr/bin/env python3
"""What hostile clients cost the others. 20 clients wait for each reply before they ask again, and are
measured without and with each attack, in rounds that alternate; printed are the medians, in us.

    attacks.py [--short] [ATTACK...]    some five minutes, or half a minute; without ATTACK all of them

Server and attacker are on a core each; the 20 share that of the attacker: a part of what they wait is its
work, and not the server's. An attack is a function that yields when it is in place, and gives a function that
says what came of it; what comes after that yield goes on until the end."""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from statistics import median

sys.path.append(os.path.join(sys.path[0], ".."))
from kvss import Client, Lost, Server, expect, managers, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[3]
KVSS = os.environ.get("KVSS", f"{ROOT}/kvss")
PASSWORD = "eve"


def slowloris(server, count):
    """Connections that never finish a line: a byte a second of each."""
    clients = [Client(server.ports[0]) for _ in range(count)]
    for c in clients:
        c.write(b"KV/1.0 PUT slow ")
    sent = 0
    yield lambda: f"{count} connections, {sent} bytes, a byte a time"
    while True:
        for c in clients:
            c.write(b"x")
            sent += 1
            time.sleep(1 / count)


def deaf(server, count):
    """Readers that stop: they ask for 18 MB each."""
    clients = [Client(server.ports[0], buffer=4096) for _ in range(count)]
    clients[0].ask("PUT big " + "x" * 60000)
    for c in clients:
        c.send(*["GET big"] * 300)
    yield lambda: f"{count} that asked for {count * 18} MB and do not read"


def turns(server, count):
    """Connections, one after the other: one request, and gone."""
    began, done = time.monotonic(), 0
    yield lambda: f"{done} connections, {done / (time.monotonic() - began):.0f} a second"
    for _ in range(count):
        c = Client(server.ports[0])
        expect(c.ask("GET nothing") == ["404 NOT_FOUND"], "a wrong reply")
        c.close()
        done += 1


def lists(server, count):
    """LIST with a pattern that no name matches, and that has to be tried to the end of each."""
    clients = [Client(server.ports[0]) for _ in range(50)]
    clients[0].ask(*[f"CREATE {'a' * 244}{i:06d}" for i in range(count)])
    for c in clients:
        c.send("LIST (a|b){31}b")
    began, done = time.monotonic(), 0
    yield lambda: f"{count} users, {done / (time.monotonic() - began):.0f} LIST a second"
    while True:
        for c in clients:
            c.hears("200 OK")
            done += 1
            c.send("LIST (a|b){31}b")


def auth(server, count):
    """Guesses passwords on all connections, and comes again when it's thrown out. Meanwhile one
    client knows the password: how long it waits at the most."""
    answers, waits = Counter(), [0]

    def guess():
        while True:
            c = Client(server.ports[0])
            c.send(*["AUTH adam guess"] * 10)
            try:
                while True:
                    answers[c.line()[:3]] += 1
                    c.send("AUTH adam guess")
            except Lost:
                c.close()

    def rates():
        seconds = time.monotonic() - began
        each = (f"{n / seconds:.0f} {code} a second" for code, n in answers.items())
        return ", ".join(each) + f"; the right password waits {max(waits):.1f} s at most"

    began = time.monotonic()
    for _ in range(count):
        threading.Thread(target=guess, daemon=True).start()
    yield rates
    while True:
        asked = time.monotonic()
        c = Client(server.ports[0])
        while c.ask(f"AUTH adam {PASSWORD}") != ["200 OK manager"]:
            pass
        waits.append(time.monotonic() - asked)
        c.close()


def flood(server, keys):
    """Keys that may have been chosen to share a home: writes them, and looks them up for ever. The
    server's own time for that, while nobody else asks for anything."""
    c = Client(server.ports[0])
    clock = ~server.process.pid << 3 | 2  # CPU time of that process: clock_getcpuclockid() in Linux

    def cost(requests):
        before = time.clock_gettime(clock)
        expect(all(reply[:2] == "20" for reply in c.ask(*requests)), "a wrong reply")
        return (time.clock_gettime(clock) - before) / len(requests) * 1e6

    put = cost([f"PUT {key} 1" for key in keys])
    get = cost([f"GET {key}" for key in keys[-10000:]])
    yield lambda: f"{len(keys)} keys: {put:.2f} us for a PUT, {get:.2f} us for a GET"
    while True:
        c.ask(*[f"GET {key}" for key in keys])


def store_expiring(server, count):
    """So many keys, with the same deadline, which is returned: a time of day."""
    c = Client(server.ports[0])
    c.ask(*[f"PUT expires{i} 1" for i in range(count)])
    at = int(time.time()) + 3 + count // 50000
    c.ask(*[f"EXPIREAT expires{i} {at}" for i in range(count)])
    return at


def expiry(server, count):
    """Keys that all expire in the same millisecond."""
    at = store_expiring(server, count)
    time.sleep(max(0, at - time.time() - 1))
    yield lambda: f"{count} keys expired at once"


def stats(server, count):
    """Eight connections that pipeline STATS, beside keys that have all just expired."""
    at = store_expiring(server, count)
    clients = [Client(server.ports[0]) for _ in range(8)]
    time.sleep(max(0, at - time.time() - 0.1))
    done = 0
    yield lambda: f"{count} keys expired, {done} STATS"
    while True:
        for c in clients:
            c.send(*["STATS"] * 100)
        for c in clients:
            done += len([c.line() for _ in range(100)])


def leaves(server, count):
    """With --private: a store of many keys, and its owner leaves."""
    c = Client(server.ports[0])
    c.ask(*[f"PUT key{i} 1" for i in range(count)])
    yield lambda: f"the owner of {count} keys left"
    time.sleep(0.2)
    c.close()


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
    usages = [BEFORE[usage.split()[0]], usage] if usage.split()[0] in BEFORE else [usage]
    lines = []
    for i in range(1000):
        for words in usages:
            words = [word.strip("[]").split("|")[0] for word in words.split()]
            words = [str(port) if word == "port" else WORDS.get(word, word) for word in words]
            lines.append("KV/1.0 " + " ".join(words).replace("%d", str(i)) + "\n")
    return "".join(lines).encode()


def verb(server, usage):
    """Four connections that pipeline one verb, as fast as they are served. Before that, there are all
    the users that there can be, some with all the messages that they can have."""
    c = Client(server.ports[0])
    c.ask(*[f"PUT key{i} 1" for i in range(1000)], *[f"CREATE user{i}" for i in range(1000)])
    c.ask(*[f"CREATE {'a' * 244}{i:06d}" for i in range(9000)])
    c.ask(*[f"SEND user{i} x" for i in range(FULL_MAILBOXES) for _ in range(MESSAGES)])
    replies = 0

    def send(c):
        requests = requests_of(usage, c.port)
        try:
            while True:
                c.socket.sendall(requests)
        except OSError:
            pass  # the server has closed

    def receive():
        nonlocal replies
        while True:
            c = Client(server.ports[0])
            if usage.startswith("MANAGE "):
                c.ask(f"AUTH adam {PASSWORD}")
            threading.Thread(target=send, args=[c], daemon=True).start()
            try:
                while got := c.socket.recv(1 << 20):
                    replies += got.count(b"\n")
            except ConnectionError:
                pass
            c.close()

    began = time.monotonic()
    for _ in range(4):
        threading.Thread(target=receive, daemon=True).start()
    yield lambda: f"{replies / (time.monotonic() - began):.0f} replies a second"


class Attack:
    """A process that attacks, from its beginning to its end."""

    def __init__(self, attack, *arguments):
        self.pipe, pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.attack(pipe, attack(*arguments))
            finally:
                os._exit(1)
        os.close(pipe)
        expect(os.read(self.pipe, 100) == b"ready", "the attack has failed")

    @staticmethod
    def attack(pipe, steps):
        def stop(*_):
            os.write(pipe, came_of_it().encode())
            os._exit(0)

        came_of_it = next(steps)
        signal.signal(signal.SIGTERM, stop)
        os.write(pipe, b"ready")
        next(steps, None)
        while True:
            signal.pause()

    def end(self):
        """Returns what came of it."""
        os.kill(self.pid, signal.SIGTERM)
        text = os.read(self.pipe, 1000).decode()
        expect(os.waitpid(self.pid, 0)[1] == 0, "the attack has failed")
        os.close(self.pipe)
        return text


class Bench:
    """Where attacks are measured."""

    def __init__(self, folder, short):
        self.folder, self.short = folder, short
        self.rounds, self.ms, self.plan = (1, 500, 2000) if short else (5, 2000, 100000)
        self.load = self.compile("load", ROOT / "tests/tools/bench/load.c", "-std=gnu11")
        managers(folder, PASSWORD)
        self.cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, self.cores[-1:])  # and of all processes that begin here

    def compile(self, name, source, *options):
        out = f"{self.folder}/{name}"
        subprocess.run(["cc", "-O2", "-w", *options, "-o", out, source, "-lcrypt", "-lrt"], check=True)
        return out

    def known_seed(self):
        """A kvss whose seed is known: zeros."""
        text = (ROOT / "kvss.c").read_text()
        zeros = text.replace("read(fd, hash_seed, sizeof hash_seed) != sizeof hash_seed", "0")
        expect(zeros != text, "kvss.c has another way to its seed")
        path = pathlib.Path(self.folder, "known.c")
        path.write_text(zeros)
        return self.compile("known", path)

    def colliding(self, count):
        """Keys that share few chains, where the seed is zeros."""
        program = self.compile("collide", ROOT / "tests/tools/soak/collide.c", "-std=gnu11")
        return subprocess.run([program, str(count)], check=True, capture_output=True, text=True).stdout.split()

    def measure(self, title, attack, argument, options=(), keys=100000, others=(), kvss=KVSS):
        """A row without the attack, and a row with it, on a server of its own."""
        server = Server(kvss, self.folder, "--quiet", "--max-mailboxes-per-client", "10000", *options)
        os.sched_setaffinity(server.process.pid, self.cores[:1])

        def load(*words):
            command = [self.load, "--port", str(server.ports[0]), "--keys", str(keys), *words]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return dict(value.split("=") for value in line.split())

        def others_wait():
            return load("--connections", "20", "--plan", str(self.plan), "--ms", str(self.ms), *others)

        try:
            descriptors = server.descriptors()
            load("--fill", "1", "--connections", "10", "--depth", "100")
            without, beside, said = [], [], []
            for _ in range(self.rounds):
                without.append(others_wait())
                attacker = Attack(attack, server, argument)
                beside.append(others_wait())
                said.append(attacker.end())
                wait_for("descriptors to be closed", lambda: server.descriptors() == descriptors)
            if attack is expiry:
                wait_for("all to expire", lambda: f"={keys} " in Client(server.ports[0]).ask("STATS")[0])
            server.stop()
        finally:
            server.kill()
        row(title, "without", without, said[0])
        row("", "with", beside, "")


def row(title, kind, figures, text):
    waits = "".join(f"{median(float(each[name]) for each in figures):10.0f}" for name in ("p50", "p99", "p999", "max"))
    print(f"{title:<26} {kind:<8}{waits}  {text}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="all but verb in small, to see that others are served")
    parser.add_argument("attack", nargs="*", help="slowloris deaf turns lists auth flood expiry stats leaves verb")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, chosen.short)
        adam = ["--managers", f"{folder}/managers"]

        def measure(title, attack, argument, *rest, **more):
            if not chosen.attack or attack.__name__ in chosen.attack:
                bench.measure(title, attack, argument, *rest, keys=1000 if chosen.short else 100000, **more)

        def n(long, short):
            return short if chosen.short else long

        print(f'{"":<26} {"attack":<8}{"p50":>10}{"p99":>10}{"p99.9":>10}{"longest":>10}')
        measure("slowloris", slowloris, n(900, 300))
        measure("readers that stop", deaf, n(100, 20))
        measure("connections in turn", turns, n(100000, 2000))
        measure("LIST, the worst pattern", lists, n(10000, 300))
        measure("AUTH guessing", auth, n(50, 20), adam)
        if not chosen.attack or "flood" in chosen.attack:
            colliding = bench.colliding(n(200000, 2000))
            measure("flood of any keys", flood, [f"random{i}" for i in range(n(200000, 2000))])
            measure("flood, seed unknown", flood, colliding)
            measure("flood, seed known", flood, colliding[:50000], kvss=bench.known_seed())
        million = n(1000000, 20000)
        measure("a million keys expire", expiry, million)
        measure("STATS of expired keys", stats, million)
        measure("owner of a million leaves", leaves, million, ["--private"], others=["--fill", "1"])
        # Each verb that there is; a million keys, and all the mailboxes.
        if not chosen.short and (not chosen.attack or "verb" in chosen.attack):
            usages = subprocess.run([KVSS, "--help"], check=True, capture_output=True, text=True).stdout
            for number, usage in enumerate(usages.split("\n  KV/1.0 ")[1:]):
                usage = usage.split("\n")[0]
                bench.measure(usage.split()[0], verb, usage, [*adam, "--data", f"{folder}/data{number}"], 1000000)


if __name__ == "__main__":
    main()
