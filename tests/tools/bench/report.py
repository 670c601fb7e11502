#!/usr/bin/env python3
"""What the numbers of run.bash say.

    report.py FILE     prints the tables
    report.py page     puts those of docs/figures/performance.tsv into docs/performance.md
    report.py draw     draws the pictures of that page, with gnuplot

A ratio is of two servers that were measured one after the other; what is shown is the median of rounds."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from statistics import median

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs"
NUMBERS = DOCS / "figures/performance.tsv"
PAGE = DOCS / "performance.md"
OPS, CPU, P50, P99, P999, LONGEST, KB = range(7)
SERVERS = "kvss", "lab", "redis", "memcached", "python", "floor"
NAMES = {"lab": "Part I alone", "floor": "the floor"}
WORKS = ("50 clients, depth 100", "50 clients, depth 16", "1 client, depth 100", "50 clients, depth 1",
         "900 clients, depth 1", "1 client, 900 idle")
RATIOS = [  # work, servers of which the one counts that kvss has the harder time with, what, wanted
    ("50 clients, depth 100", "redis", OPS, "throughput", "4 or more"),
    ("50 clients, depth 16", "redis", OPS, "throughput", "2.2 or more"),
    ("1 client, depth 100", "redis", OPS, "throughput", "1.6 or more"),
    ("50 clients, depth 1", "memcached redis", OPS, "throughput", "1.1 or more"),
    ("50 clients, depth 1", "memcached redis", P99, "99 of 100 waits", "1 or less"),
    ("900 clients, depth 1", "memcached redis", OPS, "throughput", "1.05 or more"),
    ("900 clients, depth 1", "memcached redis", LONGEST, "longest wait", "1 or less"),
    ("1 client, 900 idle", "redis", CPU, "CPU for a request", "1.2 or less"),
    ("50 clients, depth 100", "floor", OPS, "throughput", "0.5 or more"),
    ("50 clients, depth 100", "lab", OPS, "throughput", "2 or less"),
    ("fill", "redis", KB, "memory", "0.7 or less"),
    ("fill", "redis", LONGEST, "longest wait", "1 or less"),
]
TITLES = {"fill": {KB: "1,000,000 keys held", LONGEST: "growing to 1,000,000 keys"}}


class Numbers:
    def __init__(self, path):
        self.rounds = defaultdict(list)  # by work and server
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\n") for line in file]
        self.machine = [line[2:] for line in lines[:4]]
        for line in lines:
            if not line.startswith("#"):
                work, server, _, *values = line.split("\t")
                self.rounds[work, server].append([float(value) for value in values])

    def middle(self, work, server, what):
        return median(values[what] for values in self.rounds[work, server])

    def ratio(self, work, server, what):
        pairs = zip(self.rounds[work, "kvss"], self.rounds[work, server])
        return median(ours[what] / theirs[what] for ours, theirs in pairs)

    def tables(self):
        yield "| work | against | what | kvss / it | wanted |"
        yield "| --- | --- | --- | --- | --- |"
        for work, servers, what, name, wanted in RATIOS:
            if not all((work, server) in self.rounds for server in servers.split()):
                continue
            worst = min if what == OPS else max
            ratio, server = worst((self.ratio(work, server, what), server) for server in servers.split())
            title = TITLES.get(work, {}).get(what, work)
            yield f"| {title} | {NAMES.get(server, server)} | {name} | {ratio:.2f} | {wanted} |"
        yield ""
        yield "| work | server | requests a second | kvss / it | CPU each, ns | median, us | 99 % | 99.9 % | longest |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        for work in WORKS:
            for server in SERVERS:
                if (work, server) in self.rounds:
                    cells = [f"{int(self.middle(work, server, what)):,}"
                             for what in (OPS, CPU, P50, P99, P999, LONGEST)]
                    cells.insert(1, f"{self.ratio(work, server, OPS):.2f}")
                    yield f"| {work} | {NAMES.get(server, server)} | {' | '.join(cells)} |"

    def page(self, text):
        parts = {"report: [^\n]*": "\n".join(self.tables()),
                 "machine": "\n" + "\n".join(f"- {line}" for line in self.machine)}
        for begin, new in parts.items():
            text = re.sub(rf"(<!-- {begin} -->\n).*?\n(<!-- end -->)",
                          lambda found, new=new: f"{found[1]}{new}\n\n{found[2]}", text, flags=re.S)
        return text

    def series(self, prefix, server, what):
        """The medians of each work "PREFIX N", by N."""
        works = [work for work, name in self.rounds if name == server and work.startswith(prefix + " ")]
        for work in sorted(works, key=lambda work: int(work.split(" ")[1])):
            yield work.split(" ")[1], self.middle(work, server, what)

    def draw(self, folder):
        waits = [("50", P50), ("99", P99), ("99.9", P999), ("longest", LONGEST)]
        for name, commands, columns in PICTURES:
            script = [STYLE, f'set output "{DOCS}/figures/performance-{name}.svg"', commands, "plot "]
            for style, (server, title) in enumerate(LINES.items(), 1):
                if ("50 clients, depth 1", server) not in self.rounds:
                    continue
                rows = self.series(name, server, OPS if name == "depth" else CPU)
                if name == "waits":
                    rows = [(text, self.middle("50 clients, depth 1", server, what)) for text, what in waits]
                path = os.path.join(folder, f"{name}.{server}")
                with open(path, "w", encoding="ascii") as file:
                    file.writelines(f"{x} {y:.15g}\n" for x, y in rows)
                script[-1] += f'"{path}" using {columns} with linespoints ls {style} title "{title}", '
            subprocess.run(["gnuplot"], input="\n".join(script).rstrip(", "), text=True, check=True)


LINES = {"kvss": "kvss", "lab": "Part I of kvss.c alone", "redis": "redis-server", "memcached": "memcached",
         "floor": "the floor: select(), and no work"}
STYLE = """
set terminal svg size 760,420 font "sans-serif,14" background "white"
set border 3 lc "#888888"
set tics nomirror textcolor "#333333"
set grid ytics lc "#dddddd"
set key top left reverse Left
set style line 1 lc "#0b6e4f" lw 3 pt 7 ps 0.7
set style line 2 lc "#63b598" lw 2 pt 7 ps 0.6
set style line 3 lc "#c1440e" lw 2 pt 7 ps 0.6
set style line 4 lc "#3b5ba5" lw 2 pt 7 ps 0.6
set style line 5 lc "#999999" lw 2 dt 2 pt 7 ps 0.5"""
PICTURES = [
    ("depth", """set title "Requests a second: 50 clients, by depth of the pipeline"
set logscale xy
set xlabel "requests sent before the replies are waited for"
set xrange [1:280]
set xtics (1, 2, 4, 8, 16, 32, 64, 128, 256)
set format y "%.0s%c\"""", "1:2"),
    ("active", """set title "CPU time of the server for a request: all clients active, depth 1"
set yrange [0:*]
set xlabel "clients"
set ylabel "us"
set key top right""", "1:($2/1000)"),
    ("idle", """set title "CPU time of the server for a request: one client active, the others idle"
set yrange [0:*]
set xlabel "clients"
set ylabel "us\"""", "1:($2/1000)"),
    ("waits", """set title "How long a client waits: 50 clients, depth 1"
set logscale y
set xlabel "percent of the batches that wait no longer"
set ylabel "us"
set xrange [-0.3:3.3]""", "0:2:xtic(1)"),
]


def main():
    what = sys.argv[1]
    numbers = Numbers(what if what not in ("page", "draw") else NUMBERS)
    if what == "page":
        PAGE.write_text(numbers.page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    elif what == "draw":
        with tempfile.TemporaryDirectory() as folder:
            numbers.draw(folder)
    else:
        print(*numbers.tables(), sep="\n")


if __name__ == "__main__":
    main()
