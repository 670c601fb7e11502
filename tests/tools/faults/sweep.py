#!/usr/bin/env python3
"""The fault sweep: sweep.py [--short] PROGRAM

A session with a server is run again and again, and each time another call of kvss fails: the first
malloc(), the second, and so on until there is no such call any more; then the same with realloc(),
recv(), pwrite() and all the others, in each way that they can fail. PROGRAM is what build.bash
makes, whose calls fail as faults.c is told.

In each run, every reply has to be what a model of the store says or, where the fault explains it,
500, 503, or the end of that connection. The server must not die, hang, spin or leak, and what it
has acknowledged must be there after a restart. Or it ends before it serves, and says why in one
line. Every wait is bounded; one that's in vain is a failure."""

import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time

sys.path.append(os.path.join(sys.path[0], '..'))
import kvss
from kvss import Lost, Wrong, expect, wait_for

TURNS = 3000  # calls of pselect() in a session: without a fault it's some 200
HEADER = '# kvss data 1: the changes of a store, as requests'
PASSWORD = 'eve'

# What may come of a fault, beside the right replies: a 500, a 503, the end of a connection, and an
# exit status of 1, since it's not known whether the disk has everything.
NOTHING = frozenset()
MEMORY = {'500', '503', 'lost'}
CONNECTION = {'lost'}
REFUSED = {'503'}
DISK = {'500', 'lost', 'status'}


def faults(*rows):
    """For each call of faults.c that is in a row, and for each way that it can fail."""
    return [(call, how, excuses) for calls, hows, excuses in rows
            for call in calls.split() for how in hows.split()]


FAULTS = faults(
    ('malloc calloc realloc strdup', 'ENOMEM', MEMORY),
    ('recv send', 'EAGAIN EINTR ONE', NOTHING),
    ('recv', 'ECONNRESET', CONNECTION),
    ('send', 'ECONNRESET EPIPE', CONNECTION),
    ('accept', 'EINTR ECONNABORTED ENOBUFS', NOTHING),
    ('accept', 'EMFILE', REFUSED),
    ('pselect', 'EINTR ENOMEM', NOTHING),
    ('poll', 'EINTR ENOMEM', NOTHING),
    ('link', 'EPERM EXDEV', NOTHING),
    ('fcntl64', 'ENOLCK', REFUSED),
    ('write', 'EIO EINTR EAGAIN ONE', NOTHING),
    ('read', 'EIO EINTR ONE', NOTHING),
    ('pread64', 'EIO EINTR ONE', NOTHING),
    ('pwrite64', 'ONE', NOTHING),
    ('pwrite64', 'ENOSPC EIO EINTR HALF', DISK),
    ('fsync aio_error64', 'EIO', DISK),
    ('aio_fsync64', 'EAGAIN', NOTHING),
    ('ftruncate64 fstat64 lstat64 stat64 lseek64 rename unlink fchown fchmod', 'EIO', NOTHING),
    ('open64', 'EMFILE EINTR', REFUSED),
    ('fopen64 socket', 'EMFILE', NOTHING),
    ('realpath nice setitimer sigaction getrlimit64 setrlimit64', 'EIO', NOTHING),
    ('bind listen', 'EADDRINUSE', NOTHING),
    ('getaddrinfo getsockname setsockopt socketpair', 'ENOBUFS', NOTHING),
    ('shutdown', 'ENOTCONN', CONNECTION),
    ('fork', 'EAGAIN', NOTHING),
    ('crypt', 'ENOMEM', {'500', 'lost'}),
)


class Model(kvss.Model):
    """What the store may hold, and what FILE may: FILE has to have what was acknowledged."""

    def __init__(self, lines=()):
        super().__init__()
        for line in lines:
            self.run(line.removeprefix('KV/1.0 '), 0, 0)
        self.durable = dict(self.keys)

    def judge(self, request, reply, sent, got):
        super().judge(request, reply, sent, got)
        verb, key = request.split(' ')[:2]
        if verb in ('GET', 'TTL'):
            return
        if not reply:
            self.durable[key] = self.durable.get(key, {None}) | self.states(key)
        elif reply[0] == '2':
            self.durable[key] = self.states(key)

    def restarted(self):
        """What there is after a restart is what FILE has."""
        after = Model()
        after.keys = dict(self.durable)
        return after


class Server(kvss.Server):
    """A kvss, or none, whose calls fail as it says in a file."""

    def __init__(self, program, folder, options, faults=''):
        self.counts = f'{folder}/counts'
        super().__init__(program, folder, *options, **shim(f'{folder}/faults', self.counts, faults))


def shim(path, counts, faults):
    """The environment of a program whose calls fail so, and are counted."""
    with open(path, 'w', encoding='ascii') as file:
        file.write(faults + '\n')
    return {'FAULTS': path, 'COUNTS': counts, 'ASAN_OPTIONS': 'detect_leaks=1'}


def counted(path):
    """How often each call was made so far."""
    with open(path, 'rb') as file:
        records = struct.iter_unpack('24sQ', file.read())
    return {name.rstrip(b'\0').decode(): count for name, count in records}


class Client(kvss.Client):
    """A connection. When it has ended, and the fault is an excuse for that, it's made anew, and
    what was asked and not answered is unknown."""

    def __init__(self, run, model, on_connect=None):
        self.run, self.on_connect = run, on_connect
        self.model, self.shares = model, model is not None
        self.messages = []
        self.connect()

    def connect(self):
        """Until the server answers. The first line may be a 503."""
        for _ in range(5):
            super().__init__(self.run.server.ports[0])
            try:
                reply = self.exchange('WHOAMI')
                if reply.startswith('503'):
                    self.run.excuse('503')
                    continue
                self.run.check(reply, f'200 OK guest {self.port}', 'WHOAMI')
                if not self.shares:
                    self.model = Model()
                if self.on_connect:
                    self.on_connect(self)
                return
            except Lost:
                self.run.excuse('lost', '503')
        raise Wrong('there is no connection to be had')

    def reply(self):
        while (line := self.line()).startswith('100 MESSAGE bob '):
            self.messages.append(line.removeprefix('100 MESSAGE bob '))
        return line

    def exchange(self, request):
        """A request and its reply, which may be that the connection ends."""
        self.send(request)
        return self.reply()

    def replies(self, requests):
        """To what was sent; None for what is unknown, after a 500 or the end of the connection."""
        replies = []
        try:
            while len(replies) < len(requests):
                reply = self.reply()
                if reply == '500 SERVER_ERROR':
                    self.run.excuse('500')
                    reply = None
                replies.append(reply)
        except Lost:
            self.run.excuse('lost')
            self.connect()
        return replies + [None] * (len(requests) - len(replies))

    def ask(self, *requests):
        self.send(*requests)
        return self.replies(requests)

    def judge(self, requests, sent):
        """To what was sent about keys, the replies have to be those of the model, which are returned."""
        model, replies = self.model, self.replies(requests)
        for request, reply in zip(requests, replies):
            model.judge(request, reply, sent, time.monotonic())
        return replies

    def do(self, *requests):
        sent = time.monotonic()
        self.send(*requests)
        return self.judge(requests, sent)

    def insist(self, request, pattern):
        """Asks until the answer is known."""
        known = []
        wait_for(request[:60], lambda: known.extend(filter(None, self.ask(request))) or known)
        expect(re.fullmatch(pattern, known[0]), f'{request[:60]!r} was answered {known[0][:60]!r}')
        return known[0]

    def acknowledged(self, request):
        """Asks until the change is made for certain."""
        wait_for(request, lambda: self.do(request)[0])

    def quit(self):
        """The goodbye, and then the end of the stream."""
        try:
            self.run.check(self.exchange('QUIT'), '200 OK bye', 'QUIT')
        except Lost:
            self.run.excuse('lost')
        self.hears_end()


def keys_session(run, model):
    """Two clients and their keys, and FILE is written anew."""
    a, b = Client(run, model), Client(run, model)
    a.do('PUT a1 one', 'PUT a2 two words', 'GET a1', 'GET nobody', 'DEL a2', 'GET a2', 'PUT a1 1')
    b.do('PUT b1 eins', 'GET a1', 'EXPIRE b1 1050', 'TTL b1', 'TTL a1', 'DEL nobody')
    b.do(*[f'PUT big{i} {chr(97 + i) * 60000}' for i in range(3)],
         *['GET big0', 'GET big1', 'GET big2'] * 2)
    file = os.stat(run.data).st_ino
    a.insist('COMPACT', '202 ACCEPTED')
    at_once = {a: [f'PUT a{i} {i}' for i in range(10)] + [f'GET a{i}' for i in range(10)],
               b: [f'PUT b{i} -{i}' for i in range(10)] + ['DEL b3', 'EXPIRE b4 2050', 'GET b4']}
    sent = time.monotonic()
    for client, requests in at_once.items():
        client.send(*requests)
    for client, requests in at_once.items():
        client.judge(requests, sent)
    # The log may be told nothing, if the fault is there.
    wait_for('the end of the compaction', lambda: os.stat(run.data).st_ino != file or
             ' error ' in run.server.said() or run.call in ('write', 'poll'))
    for client in a, b:
        client.acknowledged('PUT after compaction')
    a.do('DEL a1', 'GET a1', 'GET b1', 'PUT b2 2', 'TTL b1', 'EXPIREAT b5 1', 'GET b5')
    a.quit()
    b.socket.close()


def bulk_session(run, model):
    """Enough keys for tables to grow, deadlines that move, and fewer keys again."""
    keys_session(run, model)
    a = Client(run, model)
    a.do(*[f'PUT k{i} v{i}' for i in range(600)])
    a.do(*[f'{verb} k{i}{end}' for i in range(150)
           for verb, end in (('EXPIRE', f' {150 - i}50'), ('TTL', ''))])
    a.do(*[f'GET k{i}' for i in range(600)])
    a.do(*[f'DEL k{i}' for i in range(590)])
    a.socket.close()


def mail_session(run, model):
    """Mailboxes. The other wire is there, too, but makes no calls of its own once it listens."""
    sender = Client(run, model)
    sender.insist('CREATE bob', '201 CREATED' if not run.call else '201 CREATED|409 CONFLICT')
    sender.insist('LIST ^b', '200 OK bob')
    texts = [f'{i} ' + 'x' * (i % 5 * 4000) for i in range(20)]
    sent = sender.ask(*[f'SEND bob {text}' for text in texts[:10]])
    holder = Client(run, model, hold_bob)
    sent += sender.ask(*[f'SEND bob {text}' for text in texts[10:]])
    for reply in sent:
        expect(reply in (None, '200 OK', '202 ACCEPTED'), f'SEND: {reply}')
    hear_all(run, holder, texts, [text for text, reply in zip(texts, sent) if reply])
    thief = Client(run, model, hold_bob)
    sender.insist('SEND bob 20', '20[02] .*')
    hear_all(run, thief, ['20', '20'], ['20'])
    holder.insist('STATS', '200 OK keys=0 .*')
    sender.insist('DELETE bob', '204 NO_CONTENT|404 NOT_FOUND')
    for client in sender, holder, thief:
        client.quit()


def hold_bob(client):
    reply = client.exchange('CONNECT bob')
    client.run.check(reply, r'200 OK \d+', 'CONNECT')


def hear_all(run, holder, texts, promised):
    """The messages come, each once and in order; those whose SEND is unknown may."""
    while not set(promised) <= set(holder.messages):
        try:
            holder.messages.append(holder.line().removeprefix('100 MESSAGE bob '))
        except Lost:
            run.excuse('lost')
            holder.connect()
    rest = iter(texts)
    expect(all(message in rest for message in holder.messages), 'messages lost, or out of order')


def roles_session(run, _):
    """Each client has a store of its own, and a manager sees into them."""
    guests = Client(run, None), Client(run, None)
    manager = Client(run, None, become_manager)
    for i, guest in enumerate(guests):
        guest.do(*[f'PUT k{j} {i}-{j}' for j in range(20)], 'GET k1', 'EXPIRE k2 1050', 'TTL k2')
    for guest in guests:
        requests = 'GET k1', 'PUT k1 managed', 'DEL k3', 'GET k3', 'PUT new value'
        model, sent = guest.model, time.monotonic()
        replies = manager.ask(*[f'MANAGE {guest.port} {request}' for request in requests])
        for request, reply in zip(requests, replies):
            model.judge(request, reply, sent, time.monotonic())
    for guest in guests:
        guest.do('GET k1', 'GET k3', 'GET new', 'EXPIREAT k4 1', 'GET k4')
    manager.insist('AUTH adam wrong', '401 UNAUTHORIZED')
    manager.insist('MANAGE 1 GET k1', '404 NOT_FOUND')
    guests[0].quit()
    guests[1].socket.close()
    manager.quit()


def become_manager(client):
    reply = client.exchange(f'AUTH adam {PASSWORD}')
    client.run.check(reply, '200 OK manager', 'AUTH')


def always(folder):
    """FILE is empty but for a torn line."""
    with open(f'{folder}/data', 'w', encoding='ascii') as file:
        file.write(f'{HEADER}\nKV/1.0 PUT to')
    return ['--data', f'{folder}/data', '--fsync', 'always', '--verbose'], []


def repair(folder):
    """FILE has lines that are bad, and a torn one."""
    lines = [f'KV/1.0 PUT old{i} {i}' for i in range(5)] + ['KV/1.0 DEL old2']
    with open(f'{folder}/data', 'w', encoding='ascii') as file:
        file.write('\n'.join([HEADER, *lines[:3], 'bad', *lines[3:], 'KV/1.0 PUT to']))
    return ['--data', f'{folder}/data', '--fsync', 'everysec', '--repair'], lines


def mail(_):
    return ['--frames', '0', '--verbose'], []


def roles(folder):
    return ['--private', '--managers', kvss.managers(folder, PASSWORD)], []


VARIANTS = [(always, keys_session), (repair, bulk_session), (mail, mail_session),
            (roles, roles_session)]


class Run:
    """A session, with one fault: call() fails the nth time."""

    def __init__(self, program, call='', how='', nth=0, excuses=NOTHING):
        self.program, self.call, self.how, self.nth, self.excuses = program, call, how, nth, excuses
        self.excused, self.server, self.data, self.crashed = set(), None, None, None
        self.fault = f'{call} {how} {nth}' if call else ''

    def excuse(self, *whats):
        """One of these has happened, and the fault has to be a reason for it."""
        expect(self.excuses & set(whats), f'what came of it: {whats[0]}')
        self.excused |= set(whats)

    def check(self, reply, pattern, request):
        """A connection that's told 500 is given up."""
        if reply == '500 SERVER_ERROR':
            self.excuse('500')
            raise Lost(b'')
        expect(re.fullmatch(pattern, reply), f'{request} was answered {reply[:60]!r}')

    def run(self, folder, variant, session):
        """Returns how it went: 'survived', 'refused' to start, or 'unreached': no such call."""
        options, lines = variant(folder)
        model = Model(lines)
        self.data = f'{folder}/data' if '--data' in options else None
        try:
            self.server = Server(self.program, folder, options, self.fault)
            refused = not self.server.serves()
            if refused:
                self.check_refusal()
            else:
                session(self, model)
                self.close(options, model)
            self.counts = counted(self.server.counts)
            reached = self.call and self.counts[self.call] >= self.nth
            expect(reached or not (self.excused or refused), 'nothing failed, and this came of it')
            if reached and not refused and self.excuses == DISK:
                self.check_told('always' in options)
            if self.data:
                self.restart(folder, options, model.restarted())
            if self.crashed:
                options[options.index(self.data)] += '.crash'
                self.restart(folder, options, self.crashed)
            if '--repair' in options:
                with open(f'{self.data}.bad', encoding='utf-8') as file:
                    expect('bad\n' in file, 'FILE.bad lacks the bad line')
            return 'refused' if refused else 'survived' if reached else 'unreached'
        finally:
            if self.server:
                self.server.kill()

    def check_refusal(self):
        """It ended before it served, and said why in one line, after what it said of its start."""
        self.server.ends(1)
        lines = self.server.complaints()
        expect(len(lines) == 1 and lines[0].startswith('kvss: '), f'it said {lines}')

    def close(self, options, model):
        """A new client is served, and SIGTERM ends it all. FILE just before that is what a crash
        would leave."""
        fresh = Client(self, None if '--private' in options else model)
        fresh.acknowledged('PUT fresh 1')
        keys = re.match(r'200 OK keys=(\d+) ', fresh.insist('STATS', '.*'))
        least, most = fresh.model.count()
        expect(keys and least <= int(keys[1]) <= most, f'not {least} to {most} keys')
        if self.data:
            shutil.copy(self.data, f'{self.data}.crash')
            self.crashed = model.restarted()
        fresh.send('GET fresh')
        self.server.process.send_signal(signal.SIGTERM)
        self.last_reply(fresh)
        fresh.hears_end()
        ended = self.server.ends(0, int('status' in self.excuses))
        expect(ended == 0 or ' error ' in self.server.said(), 'the log does not tell why status 1')
        turns = counted(self.server.counts)['pselect']
        expect(turns <= TURNS, f'it spins: {turns} turns')

    def check_told(self, always):
        """The disk was at fault: the log says so, and if it names FILE, some changes got 500, or
        a connection has ended without its replies. (If not always, a sync may have failed too late
        for that.)"""
        said = self.server.said()
        expect(' error ' in said, 'the log does not tell of it')
        broken = f' error {self.data} ' in said
        felt = bool(self.excused & {'500', 'lost'})
        expect(not always or broken == felt, 'promises and the log differ')

    def last_reply(self, client):
        """To what had come before the signal; unless the fault says that nothing had."""
        try:
            reply = client.reply()
            if reply == '500 SERVER_ERROR':
                self.excuse('500')
            else:
                client.model.judge('GET fresh', reply, time.monotonic(), time.monotonic())
        except Lost:
            if (self.call, self.how) != ('recv', 'EAGAIN'):
                self.excuse('lost')

    def restart(self, folder, options, model):
        """Without a fault, a server has what FILE promises."""
        self.excuses = NOTHING
        self.server = Server(self.program, folder, options)
        expect(self.server.serves(), 'it does not start again')
        client = Client(self, model)
        client.do(*[f'{verb} {key}' for verb in ('GET', 'TTL') for key in sorted(model.keys)])
        client.quit()
        self.server.stop()


class Sweep:
    """All the runs, and what came of them."""

    def __init__(self, program, short, kind):
        self.program, self.short, self.kind = program, short, kind
        self.table, self.counts, self.lock = {}, {}, threading.Lock()

    def run(self, variant, session, *fault):
        """One run. A failure is told with the end of what the server said."""
        folder = tempfile.mkdtemp(prefix='kvss-faults-')
        run = self.kind(self.program, *fault)
        try:
            outcome = run.run(folder, variant, session)
            if not fault:
                self.counts[variant] = run.counts
            return outcome
        except (Wrong, OSError) as error:
            with self.lock:
                print(f'FAILED: {variant.__name__}, {" ".join(map(str, fault[:3]))}: {error}')
                if run.server:
                    print(f'    it ended with {run.server.process.returncode}, and had said:')
                    said = run.server.said().splitlines()[-12:]
                    print(''.join(f'    {line[:200]}\n' for line in said), flush=True)
            return 'failed'
        finally:
            shutil.rmtree(folder)

    def sweep(self, variant, session, call, how, excuses):
        """N = 1, 2, 3, ... until there's no such call; or, for the short form, 1, 4, 16, ..., as
        long as a session without a fault has so many."""
        nth = 1
        while not self.short or nth <= self.counts[variant][call]:
            outcome = self.run(variant, session, call, how, nth, excuses)
            if outcome == 'unreached':
                return
            with self.lock:
                row = self.table.setdefault((call, how), {'refused': 0, 'survived': 0, 'failed': 0})
                row[outcome] += 1
            nth = nth * 4 if self.short else nth + 1

    def report(self):
        """Returns the number of failures."""
        print(f'{"call":<14}{"how":<14}{"tried":>7}{"refused":>9}{"survived":>10}{"failed":>8}')
        rows = [(*fault, sum(row.values()), *row.values()) for fault, row in sorted(self.table.items())]
        rows.append(('all', '', *[sum(row[i] for row in rows) for i in range(2, 6)]))
        for row in rows:
            print('{:<14}{:<14}{:>7}{:>9}{:>10}{:>8}'.format(*row))
        return rows[-1][-1]


def main(variants, faults, kind):
    parser = argparse.ArgumentParser()
    parser.add_argument('--short', action='store_true', help='N = 1, 4, 16, ...')
    parser.add_argument('program')
    options = parser.parse_args()
    sweep = Sweep(options.program, options.short, kind)
    if any(sweep.run(*variant) != 'unreached' for variant in variants):
        sys.exit('without a fault, it fails as well')
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(sweep.sweep, *variant, *fault) for fault in faults for variant in variants]
        for task in tasks:
            task.result()
    sys.exit(1 if sweep.report() else 0)


if __name__ == '__main__':
    main(VARIANTS, FAULTS, Run)
