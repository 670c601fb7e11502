"""A kvss behind asyncio: requests of KV/1.0 and their replies, and mailboxes that lose no message."""
import asyncio
import collections

SHARED = 8  # connections for all requests, but CONNECT
LINE_MAX = 4 << 20  # bytes: LIST of all users that a kvss can have takes 2.5 million
Reply = collections.namedtuple("Reply", "status data line")
GONE = Reply(503, "", "503 kvss does not answer")


async def exchange(stream, words):
    """Sends a request, and waits for its reply. Only the last word may have a space in it."""
    reader, writer = stream
    line = " ".join(("KV/1.0", *words))
    if "\n" in line or " " in "".join(words[:-1]):
        return Reply(400, "", "400 BAD_REQUEST")
    # kvss drops one CR before the LF. So a text that ends with a CR needs one more.
    writer.write(line.encode() + (b"\r\n" if line.endswith("\r") else b"\n"))
    answer = await reader.readline()
    if not answer.endswith(b"\n"):
        return GONE
    line = answer[:-1].decode()
    status, _, data = line.split(" ", 2) if line.count(" ") > 1 else (line[:3], "", "")
    return Reply(int(status), data, line)


class Kvss:
    def __init__(self, address):
        self.address = address.rsplit(":", 1)
        self.held = {}  # of each user whose mailbox is held here, the Mailbox
        self.idle = asyncio.LifoQueue()  # shared connections; None stands for one that is not open
        for _ in range(SHARED):
            self.idle.put_nowait(None)

    async def ask(self, *words):
        stream = await self.idle.get()
        reply = GONE
        try:
            if not stream or stream[0].at_eof():
                stream = await asyncio.open_connection(*self.address, limit=LINE_MAX)
            reply = await exchange(stream, words)
        except OSError:
            pass
        finally:
            if reply.status == 503 and stream:  # or the call was cancelled, and its reply is still to come
                stream[1].close()
                stream = None
            self.idle.put_nowait(stream)
        return reply

    async def send(self, user, text):
        if user in self.held and self.held[user].leaving:  # what is given back is older
            await asyncio.shield(self.held[user].leaving)
        return await self.ask("SEND", user, text)

    async def hold(self, user):
        """The newest client has the mailbox. The client before it gets no more messages."""
        while user in self.held:
            await asyncio.shield(self.held[user].leave())
        self.held[user] = Mailbox(self, user)
        return self.held[user]


class Mailbox:
    """A mailbox that a connection of its own holds. kvss forgets a message that it has sent. So a message is
    kept here until the client has it. If the client goes away before that, the message is sent anew."""

    def __init__(self, kvss, user):
        self.kvss = kvss
        self.user = user
        self.stream = None
        self.unread = []  # messages that the client may not have
        self.reading = None  # the task that waits for the next message
        self.leaving = None  # the task that gives the messages back
        self.timer = None  # calls leave(), if the client has to poll
        self.connected = asyncio.create_task(self.connect())  # its result is the reply to CONNECT

    async def connect(self):
        try:
            # With this limit, the messages for a client that reads slowly stay in kvss.
            self.stream = await asyncio.open_connection(*self.kvss.address, limit=1 << 17)
            return await exchange(self.stream, ("CONNECT", self.user))
        except OSError:
            return GONE

    async def read(self):
        """Reads one more message. Returns False if kvss has closed the connection."""
        try:
            line = await self.stream[0].readline()
        except OSError:
            return False
        if not line.endswith(b"\n"):
            return False
        self.unread.append(line[:-1].decode().split(" ", 3)[3])
        return True

    async def more(self):
        """Waits for one more message. Returns False if kvss is gone, or another client has the mailbox."""
        if self.leaving:
            return False
        self.reading = asyncio.create_task(self.read())
        try:
            return await self.reading
        except asyncio.CancelledError:
            if self.leaving:
                return False
            raise

    def taken(self):
        """The client has all messages so far."""
        if not self.leaving:
            self.unread.clear()

    def leave(self):
        self.leaving = self.leaving or asyncio.create_task(self.give_back())
        return self.leaving

    async def give_back(self):
        """Takes the messages that wait in kvss, too, so that all of them keep their order."""
        if self.reading:
            self.reading.cancel()
            await asyncio.wait([self.reading])
        if (await self.connected).status == 200:
            self.stream[1].write_eof()  # kvss sends what waits, and closes
            while await self.read():
                pass
        if self.stream:
            self.stream[1].close()
        for text in self.unread:
            while (await self.kvss.ask("SEND", self.user, text)).status == 507:
                await asyncio.sleep(0.1)  # somebody has filled the mailbox meanwhile
        del self.kvss.held[self.user]
