"""What the assignment's gRPC program calls: a whole command as one string, and a poll for messages."""
import asyncio

import grpc_chat_pb2
import grpc_chat_pb2_grpc

POLL_SECONDS = 15  # a client that has not polled for so long is gone; the program polls every 5 seconds
MESSAGES_MAX = 50  # in one answer: gRPC takes 4 MiB, and a message may have 64 KiB


class Chat(grpc_chat_pb2_grpc.ChatServicer):
    def __init__(self, kvss):
        self.kvss = kvss

    async def try_command(self, command, context):
        verb, _, rest = command.command.strip().partition(" ")
        if verb == "connect":
            return await self.connect(rest)
        if verb == "send":
            user, _, text = rest.partition(" ")
            reply = await self.kvss.send(user, text)
        elif verb == "list" and not rest:
            reply = await self.kvss.ask("LIST")
        elif verb in ("create", "delete", "list"):
            reply = await self.kvss.ask(verb.upper(), rest)
        else:
            return grpc_chat_pb2.Response(message="400 BAD_REQUEST")
        return grpc_chat_pb2.Response(message=reply.line)

    async def connect(self, user):
        mailbox = await self.kvss.hold(user)
        self.polled(mailbox)
        reply = await asyncio.shield(mailbox.connected)
        if reply.status != 200:
            mailbox.leave()
            return grpc_chat_pb2.Response(message=reply.line)
        # The program looks for these words, and takes the name.
        return grpc_chat_pb2.Response(message=f"Connection successful for user {user}", name=user)

    def polled(self, mailbox):
        if mailbox.timer:
            mailbox.timer.cancel()
        mailbox.timer = asyncio.get_running_loop().call_later(POLL_SECONDS, mailbox.leave)

    async def listen(self, user, context):
        """A client that polls again has all that the poll before has brought."""
        if not user.name:
            return grpc_chat_pb2.Response()  # it has not said "connect" so far
        mailbox = self.kvss.held.get(user.name)
        if not mailbox or not mailbox.timer or mailbox.leaving:
            return grpc_chat_pb2.Response(message=f"{user.name} is not connected")
        if mailbox.reading and not mailbox.reading.done():
            return grpc_chat_pb2.Response()  # another client polls for the same user just now
        self.polled(mailbox)
        mailbox.taken()
        try:
            while len(mailbox.unread) < MESSAGES_MAX:
                if not await asyncio.wait_for(mailbox.more(), 0.1):
                    mailbox.leave()
                    break
        except asyncio.TimeoutError:
            pass
        text = "".join(f"Message: {text}\n\n" for text in mailbox.unread)
        return grpc_chat_pb2.Response(message=text)
