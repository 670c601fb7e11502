#!/usr/bin/env python3
"""The commands of the assignment, and those of the store, one a line: client.py ADDRESS"""
import sys
import threading

import grpc
import kvss_pb2
import kvss_pb2_grpc


def say(text):
    print(text, flush=True)


def say_error(error):
    say(f"{error.code().name}: {error.details()}")


class Client:
    def __init__(self, channel):
        self.store = kvss_pb2_grpc.StoreStub(channel)
        self.mailboxes = kvss_pb2_grpc.MailboxesStub(channel)
        self.messages = None  # the call of Connect, which stays
        self.commands = {
            "create": self.create,
            "connect": self.connect,
            "delete": self.delete,
            "list": self.list,
            "send": self.send,
            "put": self.put,
            "get": self.get,
            "del": self.remove,
            "stats": self.stats,
        }

    def create(self, user):
        self.mailboxes.Create(kvss_pb2.User(user=user))
        say("ok")

    def connect(self, user):
        if self.messages:
            self.messages.cancel()
        wanted = threading.Semaphore(1)  # how many messages the server may send

        def requests():
            while wanted.acquire():
                yield kvss_pb2.Next(user=user)

        self.messages = self.mailboxes.Connect(requests())
        metadata = dict(self.messages.initial_metadata())  # waits for them
        if "waiting" not in metadata:
            next(self.messages)  # raises the error
        say(f"ok, {metadata['waiting']} waiting")
        threading.Thread(target=self.listen, args=(self.messages, wanted), daemon=True).start()

    def listen(self, messages, wanted):
        try:
            for message in messages:
                say(f"message: {message.text}")
                wanted.release()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                say_error(error)

    def delete(self, user):
        self.mailboxes.Delete(kvss_pb2.User(user=user))
        say("ok")

    def list(self, pattern):
        users = self.mailboxes.List(kvss_pb2.Pattern(pattern=pattern)).users
        say("users: " + " ".join(users))

    def send(self, words):
        user, _, text = words.partition(" ")
        reply = self.mailboxes.Send(kvss_pb2.Message(user=user, text=text))
        say("ok, delivered" if reply.delivered else "ok, it waits")

    def put(self, words):
        key, _, value = words.partition(" ")
        reply = self.store.Put(kvss_pb2.Pair(key=key, value=value))
        say("ok, created" if reply.created else "ok, replaced")

    def get(self, key):
        say("value: " + self.store.Get(kvss_pb2.Key(key=key)).value)

    def remove(self, key):
        self.store.Delete(kvss_pb2.Key(key=key))
        say("ok")

    def stats(self, _):
        figures = self.store.Stats(kvss_pb2.Nothing())
        say(f"keys={figures.keys} uptime={figures.uptime}s served={figures.served}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with grpc.insecure_channel(sys.argv[1]) as channel:
        client = Client(channel)
        for line in sys.stdin:
            verb, _, rest = line.rstrip("\n").partition(" ")
            command = client.commands.get(verb)
            if not command:
                say("commands: " + " ".join(client.commands))
                continue
            try:
                command(rest)
            except grpc.RpcError as error:
                say_error(error)


main()
