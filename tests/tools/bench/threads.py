#!/usr/bin/env python3
"""The usual answer to the lab: KV/1.0 with a thread for each client, and a lock around a dict."""
import socketserver
import sys
import threading

store = {}
lock = threading.Lock()


def answer(line):
    version, _, rest = line.partition(" ")
    if version != "KV/1.0":
        return "426 UPGRADE_REQUIRED"
    words = rest.split(" ", 2)
    with lock:
        if words[0] == "PUT" and len(words) == 3:
            status = "200 OK" if words[1] in store else "201 CREATED"
            store[words[1]] = words[2]
            return status
        if words[0] == "GET" and len(words) == 2:
            return "200 OK " + store[words[1]] if words[1] in store else "404 NOT_FOUND"
        if words[0] == "DEL" and len(words) == 2:
            return "204 NO_CONTENT" if store.pop(words[1], None) is not None else "404 NOT_FOUND"
    return "400 BAD_REQUEST"


class Client(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        for line in self.rfile:
            self.wfile.write((answer(line.decode().rstrip("\r\n")) + "\n").encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


with Server(("127.0.0.1", int(sys.argv[1])), Client) as server:
    server.serve_forever()
