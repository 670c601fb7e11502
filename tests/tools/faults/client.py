#!/usr/bin/env python3
"""The sweep of the client: client.py [--short] CLIENT

As in sweep.py, each call of kvss_client fails, one in each session: a request on the command line,
a batch, and the prompt, at a terminal. Either it makes no difference, or the client ends with
status 2 and one line that says why ("refused", in the table). It must not die, hang or leak, what
it has printed must be right, and a terminal gets its settings back. The server is $KVSS, or
./kvss."""

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

from sweep import NOTHING, counted, faults, kvss, main, shim
from kvss import WAIT, Wrong, expect

KVSS = os.path.abspath(os.environ.get('KVSS', './kvss'))
LONG = 'x' * 60000
UP, DOWN, CTRL_D, CTRL_U = '\033[A', '\033[B', '\x04', '\x15'

# What may come of a fault: that the client ends, and says why; or that a prompt leaves, since its
# terminal is gone, and a batch takes that for the end of its input.
ENDS = {'ends'}
LEAVES = {'leaves'}

FAULTS = faults(
    ('strdup', 'ENOMEM', NOTHING),
    ('open64 socket', 'EMFILE', ENDS),
    ('fcntl64', 'ENOLCK', ENDS),
    ('fstat64', 'EIO', NOTHING),
    ('tcgetattr tcsetattr', 'EIO', ENDS),
    ('getsockname getpeername', 'ENOBUFS', NOTHING),
    ('getaddrinfo getsockopt', 'ENOBUFS', ENDS),
    ('connect', 'ENETUNREACH', ENDS),
    ('pselect', 'EINTR ENOMEM', ENDS),
    ('read', 'EINTR EAGAIN ONE', NOTHING),
    ('read', 'NONE', LEAVES),
    ('read', 'EIO', LEAVES | ENDS),
    ('write', 'EINTR EAGAIN ONE', NOTHING),
    ('write', 'EIO', ENDS),
    ('recv', 'EINTR EAGAIN ONE', NOTHING),
    ('recv', 'ECONNRESET', ENDS),
    ('send', 'EINTR EAGAIN ONE', NOTHING),
    ('send', 'EPIPE ENOBUFS', ENDS),
    ('shutdown', 'ENOTCONN', ENDS),
)


def once(run):
    run.goes('connect', 'bob', prints='200 OK 2\n100 MESSAGE bob one\n100 MESSAGE bob two\n')


def batch(run):
    requests = [f'put k{i} {LONG}' for i in range(8)] + ['get k7', 'del k1', 'connect bob']
    path = f'{run.folder}/requests'
    with open(path, 'w', encoding='ascii') as file:
        file.write('\n'.join(requests))
    replies = ['201 CREATED'] * 8 + [f'200 OK {LONG}', '204 NO_CONTENT', '200 OK 2',
                                     '100 MESSAGE bob one', '100 MESSAGE bob two']
    run.goes('--file', path, prints='\n'.join(replies) + '\n')


def prompt(run):
    run.at_terminal([
        ('', 'connected to'), ('', 'KVSS> '),
        ('get b\r', '\r\033[K404 NOT_FOUND'), ('', 'KVSS> '),
        ('put a 1\r', '\r\033[K201 CREATED'), ('', 'KVSS> '),
        ('get a\r', '\r\033[K200 OK 1'), ('', 'KVSS> '),
        ('x' + UP + DOWN + CTRL_U + 'get a\r', '\r\033[K200 OK 1'), ('', 'KVSS> '),
        (signal.SIGTSTP, 'KVSS> '),  # nobody could make it go on: it does so itself
        ('connect bob\r', '\r\033[K200 OK 2'), ('', '100 MESSAGE bob one'),
        ('', '100 MESSAGE bob two'), ('', 'KVSS> '),
        (CTRL_D, None)])


class ClientRun:
    """A session, with one fault: call() fails the nth time."""

    def __init__(self, client, call='', how='', nth=0, excuses=NOTHING):
        self.client, self.call, self.how, self.nth = client, call, how, nth
        self.excuses, self.server, self.folder, self.counts = excuses, None, None, None
        self.fault = f'{call} {how} {nth}' if call else ''

    def run(self, folder, session, _):
        """Returns how it went: 'survived', 'refused' or 'unreached': no such call."""
        self.folder = folder
        self.server = kvss.Server(KVSS, folder)
        try:
            # The mailbox has two messages.
            kvss.Client(self.server.ports[0]).ask('CREATE bob', 'SEND bob one', 'SEND bob two')
            session(self)
            self.counts = counted(f'{folder}/client.counts')
            reached = self.call and self.counts[self.call] >= self.nth
            expect(reached or self.status == 0, f'nothing failed, and it ended with {self.status}')
            expect(self.status == 0 or 'ends' in self.excuses, 'it ended')
            return 'refused' if self.status else 'survived' if reached else 'unreached'
        finally:
            self.server.kill()

    def command(self, *arguments):
        """The client's command line, and its environment."""
        faults = shim(f'{self.folder}/client.faults', f'{self.folder}/client.counts', self.fault)
        command = [self.client, '--port', str(self.server.ports[0]), '--timeout', '2', *arguments]
        return command, dict(os.environ, TERM='xterm', LC_ALL='C.UTF-8', **faults)

    def check_end(self, status, errors):
        """With a status that's not 0, one line says why."""
        self.status = status
        expect(not re.search('Sanitizer|runtime error', errors), f'a sanitizer reports: {errors}')
        expect(status in (0, 2), f'exit status {status}: {errors[-200:]!r}')
        lines = errors.splitlines()
        expect(len(lines) == (status != 0) and (not lines or lines[0].startswith('kvss_client: ')),
               f'with status {status}, it said {errors[-200:]!r}')

    def goes(self, *arguments, prints):
        command, environment = self.command(*arguments)
        try:
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, timeout=WAIT,
                                  capture_output=True, check=False)
        except subprocess.TimeoutExpired as error:
            raise Wrong('the client does not end') from error
        self.check_end(done.returncode, done.stderr.decode())
        printed = done.stdout.decode()
        whole = done.returncode == 0 and 'leaves' not in self.excuses
        expect(printed == prints if whole else prints.startswith(printed),
               f'it printed {printed[-200:]!r}')

    def at_terminal(self, steps):
        """Each step is what is typed, or a signal, and what is to be seen then; None: the end."""
        master, slave = pty.openpty()
        before = termios.tcgetattr(slave)
        command, environment = self.command()
        process = subprocess.Popen(command, env=environment, stdin=slave, stdout=slave,
                                   stderr=subprocess.PIPE, start_new_session=True)
        try:
            terminal = Terminal(master, process)
            for keys, wanted in steps:
                if isinstance(keys, int):
                    process.send_signal(keys)
                else:
                    os.write(master, keys.encode())
                if not terminal.sees(wanted):
                    break
            status = process.wait(WAIT)
            left_early = status == 0 and wanted is not None
            expect(not left_early or 'leaves' in self.excuses, 'it left')
            self.check_end(status, process.stderr.read().decode())
            expect(self.call == 'tcsetattr' or termios.tcgetattr(slave) == before,
                   'the terminal is not as it was')
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
            os.close(master)
            os.close(slave)


class Terminal:
    """What the client shows."""

    def __init__(self, master, process):
        self.master, self.process, self.shown = master, process, ''

    def sees(self, wanted):
        """Waits for that, and takes what was before it. False: the client has ended."""
        end = time.monotonic() + WAIT
        while True:
            ended = self.process.poll() is not None
            readable = select.select([self.master], [], [], 0 if ended else 0.01)[0]
            if readable:
                self.shown += os.read(self.master, 65536).decode(errors='replace')
            elif ended:
                return False
            if wanted is not None and wanted in self.shown:
                self.shown = self.shown.split(wanted, 1)[1]
                return True
            expect(time.monotonic() < end, f'{wanted!r} is not to be seen: {self.shown[-200:]!r}')


if __name__ == '__main__':
    main([(session, None) for session in (once, batch, prompt)], FAULTS, ClientRun)
