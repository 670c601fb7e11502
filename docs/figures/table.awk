# Draws what table.c prints:
#
#     cc -std=c99 -o table docs/figures/table.c -lcrypt -lrt
#     ./table | awk -f docs/figures/table.awk >docs/figures/tour-table.svg

BEGIN {
    FS = "\t"
    ROW = 26
    HEAD = 30 # width of a chain's number
    WIDTH = 82 # of an entry
    GAP = 14 # an arrow
    X["before"] = 20
    X["after"] = 400
    FROM = 2 # the chain that splits
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 740 600\" width=\"740\">"
    print "<title>The chains of the store before and after it grows</title>"
    print "<style>"
    print "  text { font: 14px sans-serif; fill: #222; } .key { font-family: monospace; }"
    print "  .number, .hash, .note { font-size: 12px; fill: #777; } .number { text-anchor: middle; }"
    print "  .hash { text-anchor: end; } rect { fill: #fff; stroke: #888; } .full { fill: #dbeafe; }"
    print "  .moved { fill: #fed7aa; }"
    print "  line, path { stroke: #888; stroke-width: 1.5; fill: none; } path { stroke: #c2410c; }"
    print "  @media (prefers-color-scheme: dark) {"
    print "    text { fill: #ddd; } .number, .hash, .note { fill: #999; }"
    print "    rect { fill: #161b22; } .full { fill: #1e3a5f; }"
    print "    .moved { fill: #7c2d12; } path { stroke: #fb923c; }"
    print "  }"
    print "</style>"
    text(X["before"], 30, "", "18 chains")
    text(X["after"], 30, "", "19 chains")
}

function text(x, y, class, what) {
    printf "<text x=\"%d\" y=\"%d\" class=\"%s\">%s</text>\n", x, y, class, what
}

function box(x, y, width, class) {
    printf "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" class=\"%s\"/>\n",
        x, y, width, ROW - 4, class
}

{
    when = $1
    x = X[when] + HEAD
    y = 46 + $2 * ROW
}

NF == 2 {
    box(X[when], y, HEAD, "chain")
    text(X[when] + HEAD / 2, y + 16, "number", $2)
    entries = 0
    last = $2
}

NF > 2 {
    x += entries++ * (GAP + WIDTH)
    class = when == "after" && was[$3] != $2 ? "moved" : "full"
    printf "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", x, y + 11, x + GAP, y + 11
    box(x + GAP, y, WIDTH, class)
    text(x + GAP + 6, y + 16, "key", $3)
    text(x + GAP + WIDTH - 6, y + 16, "hash", $4)
    if (when == "before") was[$3] = $2
}

END {
    x = X["after"] - 8
    printf "<path d=\"M%d %dC%d %d %d %d %d %d\"/>\n", x, 57 + FROM * ROW, x - 40, 57 + FROM * ROW,
        x - 40, 57 + last * ROW, x, 57 + last * ROW
    text(20, 560, "note", "beside each key: its hash % 32. Chain 20 is not there yet, so key7 is in 20 - 16 = 4")
    text(20, 578, "note", "orange: from chain " FROM ", which was split into " \
        FROM " and " last)
    print "</svg>"
}
