# Draws the packet list and, below it, the details of one packet, as Wireshark's window has them:
# draw.bash feeds it the packets, an empty line, and the details.

BEGIN {
    FS = "\t"
    split("34 118 176 234 252 372 390", column, " ")
    split("end end end end start end start", anchor, " ")
    split("No.,Time,From,To,Protocol,Length,Info", head, ",")
    row = 18; y = row
    for (i = 1; i <= 7; i++) cell(i, head[i], "head")
}

function xml(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    return text
}

function bar(y, color) {
    body = body sprintf("<rect x=\"0\" y=\"%d\" width=\"1040\" height=\"%d\" fill=\"%s\"/>\n",
        y - 13, row, color)
}

function cell(i, text, class) {
    body = body sprintf("<text x=\"%s\" y=\"%d\" text-anchor=\"%s\" class=\"%s\">%s</text>\n",
        column[i], y, anchor[i], class, xml(text))
}

NF == 0 {
    if (details++) next
    y += row / 2
    body = body sprintf("<path d=\"M0 %dH1040\" stroke=\"#8c959f\"/>\n", y - 5)
    next
}

details {
    if (/ Data: /) next
    y += row
    column[0] = /^ / ? 34 : 14
    anchor[0] = "start"
    sub(/^ +/, "")
    cell(0, $0, "plain")
    next
}

{
    y += row
    chosen = $7 == "PUT city H\xc3\xa0 N\xe1\xbb\x99i"
    bar(y, chosen ? "#2f5d95" : $9 || $10 ? "#c8c8c8" : $5 != "KV" ? "#e7e6ff" : \
        $8 >= 400 || $7 ~ /^KV\/2/ ? "#ffd9d6" : $8 ? "#e0f7d0" : "#d6ebff")
    for (i = 1; i <= 7; i++) cell(i, i == 2 ? sprintf("%.6f", $2) : $i, chosen ? "chosen" : "plain")
}

END {
    height = y + 14
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1040\" height=\"%d\"" \
        " viewBox=\"0 0 1040 %d\">\n", height, height
    print "<title>The packet list of docs/figures/kvss-session.pcapng</title>"
    print "<style>"
    print "text { font: 12px monospace; fill: #12272e }"
    print ".head { font-weight: bold } .chosen { fill: #ffffff }"
    print "</style>"
    print "<rect width=\"1040\" height=\"" height "\" fill=\"#ffffff\"/>"
    printf "%s</svg>\n", body
}
