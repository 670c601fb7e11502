"""What the store must hold, and which replies are right."""
import itertools
import math
from collections import Counter, namedtuple

SLACK = 5  # seconds: a turn of the server's loop knows one time, that of its beginning

ABSENT = {b"PUT": b"201 CREATED"}
THERE = {b"PUT": b"200 OK", b"DEL": b"204 NO_CONTENT", b"EXPIRE": b"200 OK"}


class Wrong(Exception):
    """What the server did is not what it has to do."""


# The deadline is between low and high: the server's clock is read between request and reply.
Entry = namedtuple("Entry", "value low high")


class Keys:
    """Keys that one client alone uses."""

    def __init__(self):
        self.entries = {}

    def copy(self):
        other = Keys()
        other.entries = dict(self.entries)
        return other

    def chances(self, key, sent, got):
        """Whether it may be there, and whether it may be gone, between these times."""
        entry = self.entries.get(key)
        if entry is None:
            return False, True
        return sent < entry.high + SLACK, got > entry.low - SLACK

    def there(self, verb, key, reply, sent, got):
        """The reply if the key is there."""
        entry = self.entries[key]
        if verb == b"GET":
            return b"200 OK " + entry.value
        if verb != b"TTL":
            return THERE[verb]
        if entry.low == math.inf:
            return b"200 OK -1"
        left = int(reply[7:]) if reply[7:].isdigit() else -1
        right = max(1, entry.low - got - SLACK) <= left <= entry.high - sent + SLACK + 1
        return b"200 OK %d" % left if right else None

    def check(self, request, reply, sent, got):
        """The reply must be right; then the model changes as the store has."""
        verb, key, *rest = request.split(b" ", 2)
        may_be, may_lack = self.chances(key, sent, got)
        absent = ABSENT.get(verb, b"404 NOT_FOUND")
        is_there = may_be and reply == self.there(verb, key, reply, sent, got)
        if not is_there and not (may_lack and reply == absent):
            raise Wrong(f"{request[:80]} got {reply[:80]}; the model has {self.entries.get(key)}")
        self.apply(verb, key, rest, is_there, sent, got)

    def apply(self, verb, key, rest, is_there, sent, got):
        if verb == b"PUT":
            self.entries[key] = Entry(rest[0], math.inf, math.inf)
        elif verb == b"DEL" or not is_there:
            self.entries.pop(key, None)
        elif verb == b"EXPIRE":
            seconds = int(rest[0])
            value = self.entries[key].value
            self.entries[key] = Entry(value, sent + seconds, got + seconds)

    def count(self, sent, got):
        """The fewest keys that there can be, and the most."""
        chances = [self.chances(key, sent, got) for key in self.entries]
        return sum(not lack for _, lack in chances), sum(be for be, _ in chances)


class Register:
    """A key that many write and read at once. A value is named by the time its write began. Once a
    write has been acknowledged, or read, no later read may get one that ended before it began."""

    clock = itertools.count(1)

    def __init__(self):
        self.ends = {}  # when each write was acknowledged, by when it began
        self.settled = 0  # the latest write known to have happened
        self.reading = Counter()

    def write_begins(self):
        start = next(self.clock)
        self.ends[start] = math.inf
        return start

    def write_ends(self, start):
        self.ends[start] = next(self.clock)
        self.settled = max(self.settled, start)

    def read_begins(self):
        self.reading[self.settled] += 1
        return self.settled

    def read_ends(self, bound, start):
        if self.ends.get(start, 0) < bound:
            raise Wrong(f"the value of write {start} was read, after that of {bound}")
        self.settled = max(self.settled, start)
        self.reading[bound] -= 1
        if len(self.ends) > 5000:
            self.forget()

    def forget(self):
        """Drops writes that no read may get any more."""
        self.reading = +self.reading
        oldest = min(self.reading, default=self.settled)
        self.ends = {start: end for start, end in self.ends.items() if end >= oldest}


class Box:
    """A mailbox: each message arrives once, and those of one sender in order. Where a holder may
    reset its connection, what was on its way then is lost."""

    def __init__(self, name, lossy):
        self.name = name
        self.lossy = lossy
        self.sent = set()  # and neither received nor refused
        self.holders = 0  # so far

    def take_out(self, message):
        if message not in self.sent:
            raise Wrong(f"{self.name}: {message} came twice, or was refused, or never sent")
        self.sent.remove(message)


class Session:
    """What one holder of a mailbox gets."""

    def __init__(self, box, replies):
        self.box = box
        self.last = {}
        box.holders += 1
        self.number = box.holders
        self.replies = replies

    def receive(self, line):
        prefix = b"100 MESSAGE %s " % self.box.name
        if not line.startswith(prefix):
            raise Wrong(f"{line[:80]} is no message for {self.box.name}")
        sender, number = map(int, line[len(prefix):].split(b" ", 2)[:2])
        if number <= self.last.get(sender, -1):
            raise Wrong(f"{self.box.name}: {number} of {sender} after {self.last[sender]}")
        self.last[sender] = number
        self.box.take_out((sender, number))

    async def take(self, reader):
        """Messages up to what is none: another line, the end of the stream, or half a message."""
        while (line := await reader.readline()).endswith(b"\n") and line.startswith(b"100 "):
            self.replies[b"100"] += 1
            self.receive(line)
        return line

    def is_over(self):
        """Another one has taken the mailbox."""
        return self.box.holders > self.number
