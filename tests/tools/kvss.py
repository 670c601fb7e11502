"""What the tools in Python share: a server that they start, a connection to it, and a model of its store."""
import itertools
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections import deque, namedtuple
from math import inf

WAIT = 60  # seconds, for whatever has to come
SLACK = 5  # seconds: a turn of the server's loop knows one time, that of its beginning


class Wrong(Exception):
    """What the server did is not what it has to do."""


class Lost(Wrong):
    """The connection has ended, after this part of a line."""


class Late(Wrong):
    """Nothing has come in time."""


def expect(condition, what):
    if not condition:
        raise Wrong(what)


def wait_for(what, condition):
    end = time.monotonic() + WAIT
    while not condition():
        expect(time.monotonic() < end, f'waited in vain for {what}')
        time.sleep(0.005)


def managers(folder, password):
    """A file for --managers, with adam and his password."""
    command = ['openssl', 'passwd', '-6', password]
    hashed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    path = f'{folder}/managers'
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), 'w', encoding='ascii') as file:
        file.write('adam:' + hashed)
    return path


class Server:
    """A kvss on free ports. What it says on stderr goes to a file in the folder."""

    numbers = itertools.count()

    def __init__(self, program, folder, *options, **environment):
        self.log = f'{folder}/log.{next(self.numbers)}'
        with open(self.log, 'w', encoding='utf-8') as log:
            self.process = subprocess.Popen(
                [os.path.abspath(program), '--port', '0', *options], stdin=subprocess.DEVNULL, stderr=log,
                cwd=folder, env={**os.environ, **environment})
        self.ports = []
        wait_for('the server to listen', lambda: self.listens(1 + ('--frames' in options)))

    def listens(self, listeners):
        """On so many ports, that of KV/1.0 being the first; or it has ended."""
        self.ports = [int(port) for what in ('on', 'for frames on')
                      for port in re.findall(rf'^kvss: listening {what} .*:(\d+)$', self.said(), re.M)]
        return len(self.ports) == listeners or not self.serves()

    def serves(self):
        return self.process.poll() is None

    def said(self):
        with open(self.log, encoding='utf-8', errors='replace') as file:
            return file.read()

    def complaints(self):
        """What it said, line by line, but for what it says at each start, and the audit."""
        return [line for line in self.said().splitlines()
                if not re.match(r'kvss: (replayed|listening) |\S+ audit ', line)]

    def descriptors(self):
        return len(os.listdir(f'/proc/{self.process.pid}/fd'))

    def memory(self):
        """Resident, in kB."""
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as file:
            return int(re.search(r'VmRSS:\s+(\d+)', file.read())[1])

    def ends(self, *statuses):
        """It ends with one of these, which is returned; the sanitizers have nothing to say."""
        try:
            status = self.process.wait(WAIT)
        except subprocess.TimeoutExpired as error:
            raise Wrong('the server does not end') from error
        expect(not re.search('Sanitizer|runtime error', self.said()), 'a sanitizer reports')
        expect(status in statuses, f'exit status {status}: {self.said()[-200:]}')
        return status

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.ends(0)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Client:
    """A connection of KV/1.0. Requests and replies are text, without the version and the LF."""

    def __init__(self, port, buffer=None):
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(WAIT)
        self.socket.connect(('127.0.0.1', port))
        self.port = self.socket.getsockname()[1]
        self.lines, self.rest = deque(), b''

    def write(self, data):
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Late('the server reads no more') from error
        except OSError:
            pass  # what it has answered is still there to be read

    def send(self, *requests):
        self.write(''.join(f'KV/1.0 {request}\n' for request in requests).encode())

    def line(self):
        """The next one, whatever it is."""
        while not self.lines:
            try:
                data = self.socket.recv(65536)
            except TimeoutError as error:
                raise Late('the server does not answer') from error
            except OSError:
                data = b''
            if not data:
                half, self.rest = self.rest, b''
                raise Lost(half)
            *lines, self.rest = (self.rest + data).split(b'\n')
            self.lines.extend(lines)
        return self.lines.popleft().decode()

    def ask(self, *requests):
        """Some at a time, so that both sides never wait for each other to read."""
        replies = []
        for at in range(0, len(requests), 500):
            some = requests[at:at + 500]
            self.send(*some)
            replies += [self.line() for _ in some]
        return replies

    def hears(self, *lines):
        for line in lines:
            got = self.line()
            expect(got == line, f'{got[:80]!r} and not {line[:80]!r}')

    def hears_end(self):
        """The server has closed, and said no more."""
        try:
            raise Wrong(f'there is more: {self.line()[:80]!r}')
        except Lost as lost:
            expect(lost.args == (b'',), f'half a line before the end: {lost}')
        self.close()

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.close()


# A key that is there. Its deadline is between low and high: the server's clock is read between request and
# reply.
Entry = namedtuple('Entry', 'value low high', defaults=(inf, inf))


class Model:
    """What a store may hold. Each key has the states that it may be in, an Entry or None: after a change of
    which nobody knows whether it was made, there are several."""

    def __init__(self, keys=()):
        self.keys = dict(keys)

    def copy(self):
        return Model(self.keys)

    def states(self, key):
        return self.keys.get(key, {None})

    @staticmethod
    def outcome(state, verb, argument, reply, sent, got):
        """The reply to a request on a key in this state, and the state after it. Where several replies are
        right, and this is one of them, it is this one."""
        if verb == 'PUT':
            return '200 OK' if state else '201 CREATED', Entry(argument)
        if not state:
            return '404 NOT_FOUND', None
        if verb == 'DEL':
            return '204 NO_CONTENT', None
        if verb == 'EXPIRE':
            return '200 OK', Entry(state.value, sent + int(argument), got + int(argument))
        if verb == 'EXPIREAT':
            return '200 OK', None  # at a time that is past
        if verb == 'GET':
            return '200 OK ' + state.value, state
        if state.low == inf:
            return '200 OK -1', state
        left = int(reply[7:]) if reply and reply[7:].isdigit() else 0
        right = max(1, state.low - got - SLACK) <= left <= state.high - sent + SLACK + 1
        return f'200 OK {left}' if right else 'a time that is left', state

    def outcomes(self, request, reply, sent, got):
        """In each state that the key can be in at that time."""
        verb, key, *argument = request.split(' ', 2)
        states = set(self.states(key))
        if any(state and got > state.low - SLACK for state in states):
            states.add(None)
        states = {state for state in states if not state or sent < state.high + SLACK}
        return [self.outcome(state, verb, ''.join(argument), reply, sent, got) for state in states]

    def judge(self, request, reply, sent, got):
        """A reply is right if one of the states explains it. It may be None: nobody knows whether the request
        was run."""
        key = request.split(' ')[1]
        outcomes = self.outcomes(request, reply, sent, got)
        after = {state for right, state in outcomes if reply in (right, None)}
        expect(after, f'{request[:60]!r} was answered {str(reply)[:60]!r}, and the model has {self.states(key)}')
        self.keys[key] = after if reply else self.states(key) | after

    def run(self, request, sent, got):
        """It was run, and nobody knows the reply."""
        self.keys[request.split(' ')[1]] = {state for _, state in self.outcomes(request, None, sent, got)}

    def count(self):
        """How many keys there are, at least and at most."""
        now = time.monotonic()
        least = sum(all(state and now < state.low - SLACK for state in states) for states in self.keys.values())
        most = sum(any(state and now < state.high + SLACK for state in states) for states in self.keys.values())
        return least, most
