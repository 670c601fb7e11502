#!/usr/bin/env python3
"""Compares the patterns of LIST with Python's re.search(), on patterns and names made up at random.

    make && tests/tools/patterns/compare.py [--kvss ./kvss] [--patterns 10000] [--seed N]

Half of the patterns are well-formed trees, whose states are counted here once more: kvss has to refuse
those that need over 64, and no others. The other half are tokens in any order: kvss has to refuse what
Python refuses, and possessive quantifiers. Whatever kvss takes has to match just the names that it
matches in Python. Names are of ASCII and of letters of UTF-8. [[:digit:]] has no meaning in Python, which
is shown 0-9 in its place. Prints what it has compared; the exit status is 1 if anything differs."""

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter

sys.path.append(os.path.join(sys.path[0], '..'))
from kvss import Client, Server, expect

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
BRACKETS = ['[', '[', '[^', ']', ']', '[]', '[^]', '-', 'a-b', '0-', '[_-]', '[b-a]']


def in_python(pattern):
    for name, members in CLASSES.items():
        pattern = pattern.replace(name, members)
    return pattern


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
        return character, len(character.encode())

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
    in_brackets = rng.random() < 0.4
    usable = [token for token in TOKENS if token.isascii()] + BRACKETS if in_brackets else TOKENS
    pattern = ''
    for _ in range(rng.randint(1, 10)):
        whole = in_brackets and rng.random() < 0.2
        pattern += Tree(rng).brackets()[0] if whole else rng.choice(usable)
    return pattern + '\\' * (rng.random() < 0.02)


def means_something_else(pattern):
    """(?a) is of Python's own, and in brackets [.x.] is of POSIX; a range does not begin or end with a class."""
    return '(?' in pattern.replace('(?:', '') or re.search(r'-\[:|:]-|\[.*\[\.', pattern)


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


def too_slow(*_):
    """Python may need a time that is exponential in the repetitions that stand in one another."""
    raise TimeoutError


def compare(server, rng, names, patterns):
    """Counts the patterns by what they match, and the replies that are wrong, and shows some of those."""
    expect(set(server.ask(*[f'CREATE {name}' for name in names])) == {'201 CREATED'}, 'no users')
    seen, counts, differences = set(), Counter(), 0
    while len(seen) < patterns:
        pattern, states = Tree(rng).choice(3) if len(seen) % 2 else (tokens(rng), 0)
        if not pattern or pattern in seen or not states and means_something_else(pattern):
            continue
        seen.add(pattern)
        try:
            signal.alarm(2)
            found = wanted(pattern, states, names)
            signal.alarm(0)
        except TimeoutError:
            counts['too slow for Python'] += 1
            continue
        reply, = server.ask(f'LIST {pattern}')
        right = '400 BAD_REQUEST' if found is None else ' '.join(['200 OK', *found])
        counts['refused' if found is None else 'matched some' if found else 'matched none'] += 1
        if reply != right:
            differences += 1
            if differences <= 20:
                print(f'LIST {pattern}\n    is       {reply[:200]}\n    should be {right[:200]}')
    return counts, differences


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--kvss', default='./kvss')
    arguments.add_argument('--patterns', type=int, default=10000)
    arguments.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1 << 32))
    chosen = arguments.parse_args()
    warnings.simplefilter('ignore')
    signal.signal(signal.SIGALRM, too_slow)
    rng = random.Random(chosen.seed)
    names = random_names(rng)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(chosen.kvss, folder)
        try:
            counts, differences = compare(Client(server.ports[0]), rng, names, chosen.patterns)
            server.stop()
        finally:
            server.kill()
    print(f'seed {chosen.seed}: {sum(counts.values())} patterns, {len(names)} names; '
          + ', '.join(f'{kind} {count}' for kind, count in counts.items())
          + f'; {differences} differences')
    return 1 if differences else 0


if __name__ == '__main__':
    sys.exit(main())
