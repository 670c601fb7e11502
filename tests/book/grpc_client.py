#!/usr/bin/env python3
"""The assignment's program for gRPC, as its text describes it: grpc_client.py PORT. It knows no more than the
two calls of the service Chat. It polls for messages, and then waits 5 seconds for a command."""
import select
import sys

import grpc
import grpc_chat_pb2
import grpc_chat_pb2_grpc

with grpc.insecure_channel(f"localhost:{sys.argv[1]}") as channel:
    chat = grpc_chat_pb2_grpc.ChatStub(channel)
    name = ""
    while True:
        messages = chat.listen(grpc_chat_pb2.User(name=name)).message
        if messages != "":
            print(messages, end="", flush=True)
        if not select.select([sys.stdin], [], [], 5)[0]:
            continue
        line = sys.stdin.readline()
        if not line:
            break
        response = chat.try_command(grpc_chat_pb2.Command(command=line.strip()))
        print("Server response:", response.message, flush=True)
        if response.message.startswith("Connection successful for user"):
            name = response.name
