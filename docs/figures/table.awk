# Draws what table.c prints:
#
#     cc -std=c99 -o table docs/figures/table.c -lcrypt -lrt
#     ./table | awk -f docs/figures/table.awk >docs/figures/tour-table.svg

BEGIN {
    FS = "\t"
    ROW = 26
    WIDTH = 130 # of a slot
    X["before"] = 70
    X["after"] = 430
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 660 530\" width=\"660\">"
    print "<title>One table of the store before and after it grows</title>"
    print "<style>"
    print "  text { font: 14px sans-serif; fill: #222; } .key { font-family: monospace; }"
    print "  .number, .home { font-size: 12px; fill: #777; } .away { fill: #c2410c; }"
    print "  rect { fill: #fff; stroke: #888; } .full { fill: #dbeafe; } .new { fill: #bbf7d0; }"
    print "  line { stroke: #9ab; stroke-width: 1.5; }"
    print "  @media (prefers-color-scheme: dark) {"
    print "    text { fill: #ddd; } .number, .home { fill: #999; } .away { fill: #fb923c; }"
    print "    rect { fill: #161b22; } .full { fill: #1e3a5f; } .new { fill: #14532d; }"
    print "    line { stroke: #567; }"
    print "  }"
    print "</style>"
    title("before", "8 slots, 6 entries")
    title("after", "16 slots, 7 entries")
}

function text(x, y, class, what) {
    printf "<text x=\"%d\" y=\"%d\" class=\"%s\">%s</text>\n", x, y, class, what
}

function title(when, what) {
    text(X[when], 30, "", what)
}

function top(when, slot) {
    return 46 + (when == "before" ? 4 * ROW : 0) + slot * ROW
}

{
    when = $1
    y = top(when, $2)
    class = NF < 3 ? "empty" : when == "after" && !($3 in was) ? "new" : "full"
    printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" class=\"%s\"/>\n",
        X[when], y, WIDTH, ROW, class
    text(X[when] - 24, y + 18, "number", $2)
}

NF > 2 {
    text(X[when] + 10, y + 18, "key", $3)
    if ($4 != $2) text(X[when] + 90, y + 18, "home away", "not " $4)
    if (when == "before") was[$3] = y
    if (when == "after" && $3 in was)
        printf "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", X["before"] + WIDTH + 4,
            was[$3] + ROW / 2, X["after"] - 30, y + ROW / 2
}

END {
    text(70, 500, "home away",
        "not 5: its home is slot 5, which was taken, so it went on to the next free one")
    text(70, 518, "home", "green: the key that made the table grow")
    print "</svg>"
}
