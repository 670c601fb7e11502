#!/usr/bin/env python3
"""Which lines a rule of an ABNF grammar takes: grammar.py GRAMMAR RULE <LINES prints 1 or 0 for each.

Strings match in their own case only, as docs/protocol.md has it. No rule may use itself."""
import re
import sys

RULES = {"SP": "%x20", "CR": "%x0D", "LF": "%x0A", "DIGIT": "%x30-39"}
TOKEN = r'"[^"]*"|%x\w\w(?:-\w\w)?|\d*\*\d*|\d+|[A-Za-z][\w-]*|[][()/]'


def regex(text):
    """The text of a rule as a regular expression."""
    out, repeat, ends = "", "", []
    for token in re.findall(TOKEN, text):
        if token[0].isdigit() or token[0] == "*":
            least, star, most = re.fullmatch(r"(\d*)(\*?)(\d*)", token).groups()
            repeat = f"{{{least or 0},{most}}}" if star else f"{{{least}}}"
        elif token == "/":
            out += "|"
        elif token in "[(":
            out += "(?:"
            ends.append(")?" if token == "[" else ")" + repeat)
            repeat = ""
        elif token in "])":
            out += ends.pop()
        else:
            out += element(token) + repeat
            repeat = ""
    return f"(?:{out})"


def element(token):
    if token[0] == '"':
        return f"(?:{re.escape(token[1:-1])})"
    if token[0] == "%":
        first, _, last = token[2:].partition("-")
        return f"[\\x{first}-\\x{last or first}]"
    return regex(RULES[token])


def main():
    grammar, rule = sys.argv[1:]
    with open(grammar, encoding="utf-8") as file:
        for line in file:
            found = re.match(r"([a-z-]+) *=(/?) *([^;]*)", line)
            if found:
                name, more, text = found.groups()
                RULES[name] = f"{RULES[name]} / {text}" if more else text
    takes = re.compile(regex(RULES[rule]).encode(), re.DOTALL).fullmatch
    for line in sys.stdin.buffer:
        print(1 if takes(line) else 0)


if __name__ == "__main__":
    main()
