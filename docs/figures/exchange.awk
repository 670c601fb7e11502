# Draws the packets between client and server, from the top down: draw.bash feeds it.

BEGIN {
    FS = "\t"
    left = 140; right = 640; row = 25; slope = 5; y = 40
    tails = "[89ab][0-9a-f][89ab][0-9a-f][89ab][0-9a-f]" # of the bytes after a character's first
    for (i = 0; i < 256; i++) hex[sprintf("%02x", i)] = i
}

# The bytes that are hex, as text; an LF is an arrow, and a part of a character \xNN.
function shown(digits,    text, i, n, more) {
    for (i = 1; i < length(digits); i += 2) {
        n = hex[substr(digits, i, 2)]
        more = n < 194 || n > 244 ? 0 : n < 224 ? 1 : n < 240 ? 2 : 3
        if (n == 10) text = text "\xe2\x86\xb5"
        else if (n > 31 && n < 127) text = text sprintf("%c", n)
        else if (more && substr(digits, i + 2) ~ "^" substr(tails, 1, 14 * more))
            for (; more >= 0; more--) {
                text = text sprintf("%c", hex[substr(digits, i, 2)])
                if (more) i += 2
            }
        else text = text sprintf("\\x%02X", n)
    }
    return text
}

# The ampersand first: what stands for < has one.
function xml(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    return text
}

function write_text(x, y, class, text) {
    body = body sprintf("<text x=\"%s\" y=\"%s\" class=\"%s\">%s</text>\n",
        x, y, class, xml(text))
}

# What begins with this packet, in words; or nothing.
function chapter() {
    if ($5 && !$7) return $4 ? "Another connection: the handshake" : "The handshake"
    if ($11 == "PUT foo bar") return "A request a segment, a reply a segment"
    if ($11 ~ / [|] / && $3 != 9000) return "Two requests in one segment, two replies in one"
    if ($11 ~ /reassembled/ && !cut++) return "One request in three segments, cut in a character"
    if ($11 == "GET city") return "One request and a half in one segment"
    if ($11 ~ /^KV\/2/) return "A wrong version, and a verb that does not exist"
    if ($11 == "QUIT") return "The close: QUIT makes the server the first"
    if ($4 && $11 == "GET user42") return "A request"
    if ($4 && $6 && $3 != 9000) return "The close: here the client is the first"
}

{
    words = chapter()
    if (words) {
        y += 26
        write_text(left + 10, y, "chapter", words)
        y += 4
    }
    y += row
    from = $3 == 9000 ? right : left
    to = $3 == 9000 ? left : right
    class = !$9 ? "bare" : $3 != 9000 ? "request" : $10 >= 400 ? "refused" : "reply"
    label = $5 ? ($7 ? "SYN, ACK" : "SYN") : $6 ? "FIN, ACK" : $9 ? shown($9) : "ACK"
    if (!$9 && !$5) label = label " " $8
    write_text(30, y + 2, "number", $1)
    write_text(108, y + 2, "number", sprintf("%.3f", $2 * 1000))
    body = body sprintf("<path d=\"M%d %dL%d %d\" class=\"%s\" marker-end=\"url(#%s)\"/>\n",
        from, y - slope, to + (from < to ? -2 : 2), y, class, class)
    write_text((left + right) / 2, y - 7, "label " class, label)
    passed = ($2 - last) * 1000
    last = $2
    if (passed > 30 && !words)
        write_text(right + 12, y + 2, "later", sprintf("%.0f ms later", passed))
}

END {
    height = y + 24
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"%d\"" \
        " viewBox=\"0 0 760 %d\">\n", height, height
    print "<title>The packets of docs/figures/kvss-session.pcapng</title>"
    print "<style>"
    print "text { font: 13px sans-serif; fill: #1f2328 }"
    print ".number { font-size: 11px; text-anchor: end; fill: #59636e }"
    print ".later { font-size: 11px; fill: #9a4b00 }"
    print ".head { font-weight: bold; text-anchor: middle }"
    print ".chapter { font-weight: bold }"
    print ".label { font-family: monospace; font-size: 12px; text-anchor: middle }"
    print "text.bare { fill: #59636e; font-size: 11px } text.request { fill: #0a4fa0 }"
    print "text.reply { fill: #116329 } text.refused { fill: #b3261e }"
    print "path { fill: none; stroke-width: 1.5 } path.bare { stroke: #8c959f; stroke-width: 1 }"
    print "path.request { stroke: #0a4fa0 } path.reply { stroke: #116329 }"
    print "path.refused { stroke: #b3261e }"
    print ".life { stroke: #8c959f; stroke-width: 2 }"
    print "</style>"
    print "<defs>"
    split("bare #8c959f request #0a4fa0 reply #116329 refused #b3261e", color, " ")
    for (i = 1; i < 8; i += 2)
        printf "<marker id=\"%s\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\"" \
            " markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">" \
            "<path d=\"M0 0L8 4L0 8z\" style=\"fill: %s\"/></marker>\n", color[i], color[i + 1]
    print "</defs>"
    print "<rect width=\"760\" height=\"" height "\" fill=\"#ffffff\"/>"
    print "<path class=\"life\" d=\"M" left " 46V" height - 12 "M" right " 46V" height - 12 "\"/>"
    print "<text x=\"" left "\" y=\"32\" class=\"head\">client</text>"
    print "<text x=\"" right "\" y=\"32\" class=\"head\">server, port 9000</text>"
    print "<text x=\"30\" y=\"32\" class=\"number\">No.</text>"
    print "<text x=\"108\" y=\"32\" class=\"number\">ms</text>"
    printf "%s</svg>\n", body
}
