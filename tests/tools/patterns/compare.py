#!/usr/bin/env python3
"""Compares the patterns of LIST with Python's re.search(), on patterns and names made up at random.

    make && tests/tools/patterns/compare.py [--kvss ./kvss] [--patterns 10000] [--seed N]

Half of the patterns are well-formed trees, whose states are counted here once more: kvss has to refuse
those that need over 64, and no others. The other half are tokens in any order: kvss has to refuse what
Python refuses, and possessive quantifiers. Whatever kvss takes has to match just the names that it
matches in Python. Names are of ASCII and of letters of UTF-8. [[:digit:]] has no meaning in Python, which
is shown 0-9 in its place. Prints what it has compared; the exit status is 1 if anything differs."""

import argparse
import random
import re
import socket
import subprocess
import sys
import warnings

try:
    from re import _parser as parser
except ImportError:
    import sre_parse as parser  # before Python 3.11

STATES = 64
LETTERS = ['a', 'b', 'A', '0', '7', '_', 'é', 'Đ', 'ễ', '𝒳']
PUNCTUATION = list('-.@{}/+^$[]|\\()*?:"')
CLASSES = {'[:digit:]': '0-9', '[:lower:]': 'a-z', '[:upper:]': 'A-Z', '[:alnum:]': 'a-zA-Z0-9',
           '[:xdigit:]': '0-9a-fA-F', '[:space:]': r'\s'}
QUANTIFIERS = ['*', '+', '?', '{0}', '{1}', '{2}', '{3}', '{,2}', '{1,}', '{2,}', '{,}', '{0,1}', '{1,3}', '{0,2}']
TOKENS = LETTERS + ['(', '(', ')', ')', '(?:', '|', '|', '.', '^', '$', '-', '()', '\\.', '\\-', '\\/', '\\@',
                    '\\\\', '\\é', '\\{', '\\q', '\\d', '\\w', '\\s', '\\D', '\\W', '\\S', '?', '+',
                    '{', '}', '{}', '{a}', '{1', '{2,1}', ',', ']'] + QUANTIFIERS
BRACKETS = ['[', '[', '[^', ']', ']', '[]', '[^]', '-', 'a-b', '0-', '[:digit:]', '[:lower:]', '[_-]', '[b-a]', '[\\w.-]',
            '[^\\d]', '[\\]]', '\\d', '\\W']


def in_python(pattern):
    for name, members in CLASSES.items():
        pattern = pattern.replace(name, members)
    return pattern


def length(character):
    return len(character.encode())


class Tree:
    """A pattern that is well-formed, and the states that it needs."""

    def __init__(self, rng):
        self.rng = rng

    def choice(self, depth):
        rows = [self.row(depth) for _ in range(self.rng.choice([1, 1, 1, 2, 3]))]
        return '|'.join(text for text, _ in rows), sum(states for _, states in rows)

    def row(self, depth):
        parts = [self.repeat(depth) for _ in range(self.rng.choice([0, 1, 1, 2, 2, 3, 4]))]
        return ''.join(text for text, _ in parts), sum(states for _, states in parts)

    def repeat(self, depth):
        text, states = self.atom(depth)
        if text in '^$' or self.rng.random() < 0.5:
            return text, states
        quantifier = self.rng.choice(QUANTIFIERS)
        copies = max([1] + [int(number) for number in re.findall('[0-9]+', quantifier)])
        return text + quantifier + self.rng.choice(['', '', '?']), states * copies

    def atom(self, depth):
        kind = self.rng.choice(['letter', 'letter', 'escaped', 'class', 'set', 'any', 'anchor', 'group', 'group'])
        if kind == 'group' and depth > 0:
            text, states = self.choice(depth - 1)
            return self.rng.choice(['(', '(?:']) + text + ')', states
        if kind == 'escaped':
            return '\\' + self.rng.choice(PUNCTUATION), 1
        if kind == 'class':
            letter = self.rng.choice('dDwWsS')
            return '\\' + letter, 2 if letter in 'DwS' else 1
        if kind == 'set':
            return self.brackets()
        if kind == 'any':
            return '.', 2
        if kind == 'anchor':
            return self.rng.choice('^$'), 1
        character = self.rng.choice(LETTERS)
        return character, length(character)

    def brackets(self):
        others = False
        members = []
        for _ in range(self.rng.randint(1, 3)):
            member = self.rng.choice(['a', 'b', '_', 'a-z', '0-9', 'A-F', '.', '$', '(', '\\]', '\\\\', '\\^', '\\-',
                                      '\\d', '\\D', '\\w', '\\W', '\\s', '\\S', *CLASSES])
            others |= member in ('\\D', '\\w', '\\S')
            members.append(member)
        text = ''.join(members) + self.rng.choice(['', '', '-'])
        complement = self.rng.random() < 0.4
        return '[' + '^' * complement + text + ']', 1 + (others != complement)


def tokens(rng):
    """Anything. With brackets in it all is of ASCII, since kvss refuses [é]."""
    usable = TOKENS
    if rng.random() < 0.4:
        usable = [token for token in TOKENS if token.isascii()] + BRACKETS
    while True:
        pattern = ''.join(rng.choice(usable) for _ in range(rng.randint(1, 10)))
        if rng.random() < 0.02:
            pattern += '\\'
        # (?a) is of Python's own; a class is one in brackets only; a range does not begin or end with one.
        if '(?' in pattern.replace('(?:', ''):
            continue
        if re.search(r'-\[:|:]-', pattern) or not classes_are_in_brackets(pattern):
            continue
        return pattern


def classes_are_in_brackets(pattern):
    """Whether each [:digit:] is inside of brackets, as Python would see it with 0-9 in its place."""
    inside = first = False
    at = 0
    while at < len(pattern):
        name = next((name for name in CLASSES if pattern.startswith(name, at)), '')
        if name and not inside:
            return False
        if pattern[at] == '\\':
            at += 1
            first = False
        elif not inside and pattern[at] == '[':
            inside = first = True
            if pattern.startswith('[^', at):
                at += 1
        elif inside and pattern[at] == ']' and not first:
            inside = False
        elif inside:
            # [.x.] and [=x=] are of POSIX, and no class is [: and something else.
            if pattern[at] == '[' and not name and pattern[at + 1:at + 2] in ('.', '=', ':'):
                return False
            first = False
        at += len(name) or 1
    return True


def possessive(parsed):
    """Whether a*+ and the like, new in Python 3.11, is in what Python's parser has made."""
    for item in parsed:
        if isinstance(item, (tuple, list, parser.SubPattern)):
            if possessive(item):
                return True
        elif str(item) == 'POSSESSIVE_REPEAT':
            return True
    return False


def wanted(pattern, states, names):
    """The names that kvss has to show, or None for 400."""
    if len(pattern.encode()) > 250 or states > STATES:
        return None
    text = in_python(pattern)
    try:
        compiled = re.compile(text)
    except (re.error, OverflowError):
        return None
    if possessive(parser.parse(text)):
        return None
    return [name for name in names if compiled.search(name)]


def random_names(rng):
    names = set(LETTERS)
    while len(names) < 300:
        alphabet = LETTERS if rng.random() < 0.6 else LETTERS + PUNCTUATION
        names.add(''.join(rng.choice(alphabet) for _ in range(rng.randint(1, 6))))
    return sorted(names, key=str.encode)


class Server:
    def __init__(self, path):
        self.process = subprocess.Popen([path, '--port', '0'], stderr=subprocess.PIPE, text=True)
        port = None
        while port is None:
            line = self.process.stderr.readline()
            if not line:
                sys.exit(f'{path} has not started')
            if line.startswith('kvss: listening on '):
                port = int(line.rsplit(':', 1)[1])
        self.socket = socket.create_connection(('127.0.0.1', port))
        self.replies = self.socket.makefile('r', encoding='utf-8', newline='\n')

    def ask(self, requests):
        self.socket.sendall(''.join(f'KV/1.0 {request}\n' for request in requests).encode())
        return [self.replies.readline().rstrip('\n') for _ in requests]

    def stop(self):
        self.socket.close()
        self.process.terminate()
        self.process.stderr.read()
        return self.process.wait()


def compare(server, rng, names, patterns):
    """Counts the patterns by what they match, and the replies that are wrong, and shows some of those."""
    assert set(server.ask([f'CREATE {name}' for name in names])) == {'201 CREATED'}

    seen, counts = set(), {'matched some names': 0, 'matched all': 0, 'matched none': 0, 'refused': 0}
    differences = 0
    while len(seen) < patterns:
        pattern, states = Tree(rng).choice(3) if len(seen) % 2 else (tokens(rng), 0)
        if not pattern or pattern in seen:
            continue
        seen.add(pattern)
        expected = wanted(pattern, states, names)
        reply, = server.ask([f'LIST {pattern}'])
        right = '400 BAD_REQUEST' if expected is None else ' '.join(['200 OK', *expected])
        if reply != right:
            differences += 1
            if differences <= 20:
                print(f'LIST {pattern}\n    is       {reply[:200]}\n    should be {right[:200]}')
        if expected is None:
            counts['refused'] += 1
        elif not expected:
            counts['matched none'] += 1
        elif len(expected) == len(names):
            counts['matched all'] += 1
        else:
            counts['matched some names'] += 1
    return counts, differences


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--kvss', default='./kvss')
    arguments.add_argument('--patterns', type=int, default=10000)
    arguments.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1 << 32))
    chosen = arguments.parse_args()
    warnings.simplefilter('ignore')
    rng = random.Random(chosen.seed)
    names = random_names(rng)
    server = Server(chosen.kvss)
    try:
        counts, differences = compare(server, rng, names, chosen.patterns)
    finally:
        status = server.stop()
    print(f'seed {chosen.seed}: {sum(counts.values())} patterns, {len(names)} names; '
          + ', '.join(f'{kind} {count}' for kind, count in counts.items())
          + f'; {differences} differences')
    return 1 if differences or status else 0


if __name__ == '__main__':
    sys.exit(main())
