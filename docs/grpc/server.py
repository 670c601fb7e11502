#!/usr/bin/env python3
"""The store and the mailboxes of a kvss, for gRPC. server.py KVSS ADDRESS, for instance:
server.py 127.0.0.1:9000 127.0.0.1:3000"""
import asyncio
import signal
import sys

import grpc
import grpc_chat_pb2_grpc
import kvss_pb2
import kvss_pb2_grpc
from chat import Chat
from kvss import GONE, Kvss

CODES = {  # the statuses of KV/1.0 that are errors
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ALREADY_EXISTS,
    426: grpc.StatusCode.UNIMPLEMENTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
OPTIONS = {
    "grpc.so_reuseport": 0,  # two servers must not share a port
    "grpc.keepalive_time_ms": 20000,  # a client whose machine was switched off is missed,
    "grpc.keepalive_timeout_ms": 10000,  # when it does not answer for so long
}


async def checked(context, reply):
    """The reply. If it is an error, this ends the call with its code."""
    if reply.status in CODES:
        await context.abort(CODES[reply.status], reply.line)
    return reply


class Store(kvss_pb2_grpc.StoreServicer):
    def __init__(self, kvss):
        self.kvss = kvss

    async def Put(self, pair, context):
        reply = await checked(context, await self.kvss.ask("PUT", pair.key, pair.value))
        return kvss_pb2.PutReply(created=reply.status == 201)

    async def Get(self, key, context):
        reply = await checked(context, await self.kvss.ask("GET", key.key))
        return kvss_pb2.Value(value=reply.data)

    async def Delete(self, key, context):
        await checked(context, await self.kvss.ask("DEL", key.key))
        return kvss_pb2.Nothing()

    async def Stats(self, nothing, context):
        reply = await checked(context, await self.kvss.ask("STATS", "all"))
        figures = dict(figure.split("=") for figure in reply.data.split())
        uptime = figures["uptime"].rstrip("s")
        return kvss_pb2.Figures(keys=int(figures["keys"]), uptime=int(uptime), served=int(figures["served"]))


class Mailboxes(kvss_pb2_grpc.MailboxesServicer):
    def __init__(self, kvss):
        self.kvss = kvss

    async def Create(self, user, context):
        await checked(context, await self.kvss.ask("CREATE", user.user))
        return kvss_pb2.Nothing()

    async def Delete(self, user, context):
        await checked(context, await self.kvss.ask("DELETE", user.user))
        return kvss_pb2.Nothing()

    async def List(self, pattern, context):
        words = ["LIST", pattern.pattern] if pattern.pattern else ["LIST"]
        reply = await checked(context, await self.kvss.ask(*words))
        return kvss_pb2.Users(users=reply.data.split())

    async def Send(self, message, context):
        reply = await checked(context, await self.kvss.send(message.user, message.text))
        return kvss_pb2.SendReply(delivered=reply.status == 200)

    async def Connect(self, requests, context):
        mailbox = None
        try:
            async for request in requests:
                if mailbox is None:
                    mailbox = await self.kvss.hold(request.user)
                    reply = await checked(context, await asyncio.shield(mailbox.connected))
                    await context.send_initial_metadata((("waiting", reply.data),))
                mailbox.taken()
                if not await mailbox.more():
                    break
                yield kvss_pb2.Message(user=mailbox.user, text=mailbox.unread[0])
            else:
                return
            if mailbox.leaving:
                await context.abort(grpc.StatusCode.ABORTED, "another client has the mailbox")
            await checked(context, GONE)
        finally:
            if mailbox:
                mailbox.leave()


async def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    kvss = Kvss(sys.argv[1])
    server = grpc.aio.server(options=tuple(OPTIONS.items()))
    kvss_pb2_grpc.add_StoreServicer_to_server(Store(kvss), server)
    kvss_pb2_grpc.add_MailboxesServicer_to_server(Mailboxes(kvss), server)
    grpc_chat_pb2_grpc.add_ChatServicer_to_server(Chat(kvss), server)
    port = server.add_insecure_port(sys.argv[2])
    await server.start()
    print(f"server.py: listening on {sys.argv[2].rsplit(':', 1)[0]}:{port}", flush=True)
    stopped = asyncio.Event()
    for number in signal.SIGINT, signal.SIGTERM:
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop(0)
    await asyncio.gather(*(mailbox.leave() for mailbox in kvss.held.values()))


asyncio.run(main())
