# Random requests, good and bad, the same for the same seed with every awk: -v seed=1 -v n=5000.
# The byte \001 stands for NUL, which not every awk can print: tr '\001' '\000' makes it one. Run
# with LC_ALL=C.

# From 0 to below n. (Park and Miller's minimal standard generator; awk's own differ.)
function random(n) {
    STATE = (STATE * 16807) % 2147483647
    return int(STATE / 2147483647 * n)
}

function one_of(list,    parts) {
    return parts[1 + random(split(list, parts, "|"))]
}

function long(n,    s) {
    for (s = "x"; length(s) * 2 <= n; ) s = s s
    while (length(s) < n) s = s substr(s, 1, n - length(s))
    return s
}

function key(    kind) {
    kind = random(100)
    if (kind < 80) return "key" random(60)
    if (kind < 90) return one_of("th\303\240nh|\346\227\245\346\234\254|\360\237\215\214|=|KV/1.0|GET|\302\205")
    if (kind < 94) return long(248 + random(5))
    if (kind < 97) return "k" one_of("\t|\033|\177|\037|\002|\r") "y"
    return one_of("\200|\303|\300\257|\340\237\277|\355\240\200|\364\220\200\200|\370|a\001b|\342\202")
}

function value(    kind) {
    kind = random(100)
    if (kind < 60) return "value " random(1000)
    if (kind < 70) return one_of(" leading|trailing |  |\ttab\t|\302\205|a\rb|\r| \r|\033[31m|-|all")
    if (kind < 80) return one_of("H\303\240 N\341\273\231i|\360\237\215\214\360\237\215\214|\355\237\277|\356\200\200")
    if (kind < 95) return long(random(500) + 1)
    return one_of("\377|\001|a\001|\303(|\360\217\277\277|\355\277\277|\364\217\277\300")
}

function good(    verb) {
    verb = one_of("PUT|PUT|GET|GET|DEL")
    return "KV/1.0 " verb " " key() (verb == "PUT" ? " " value() : "")
}

function bad(    kind) {
    kind = random(14)
    if (kind == 0) return one_of("KV/1.1|KV/2.0|kv/1.0|KV/1.0\t|KV/1.|KV|WRONG/1.0|\377|\001") " GET " key()
    if (kind == 1) return one_of("|\r| |GET a|KV/1.0|KV/1.0 |KV/1.0  |\001|\377\376")
    if (kind == 2) return "KV/1.0 " one_of("POTT|get|Put|GE|GETT|DELETE|STATUS|\303\211") " " key() " " value()
    if (kind == 3) return "KV/1.0 PUT " key()
    if (kind == 4) return "KV/1.0 " one_of("GET|DEL|PUT|STATS|QUIT") " "
    if (kind == 5) return "KV/1.0 " one_of("GET|DEL|QUIT|STATS") " " key() " " value()
    if (kind == 6) return "KV/1.0  GET " key()
    if (kind == 7) return "KV/1.0 PUT  " value()
    if (kind == 8) return "KV/1.0 PUT " key() " "
    if (kind == 9) return "KV/1.0 " one_of("GET|DEL") "  " key()
    if (kind == 10) return "KV/1.0 " one_of("GET|DEL|PUT|STAT|QUI|QUIT now")
    if (kind == 11) return "KV/1.0 STATS " one_of("some|al|alle|ALL")
    if (kind == 12) return " " good()
    return value()
}

# At the edge of 65,536 bytes with the LF, and far past it.
function huge(    start, size) {
    start = one_of("KV/1.0 PUT key1 |KV/1.0 GET |KV/2.0 |")
    size = random(4) ? 65531 + random(9) : 65536 * (1 + random(3)) + random(3)
    return start long(size - length(start))
}

function request(    kind) {
    kind = random(1000)
    if (kind < 700) return good()
    if (kind < 740) return "KV/1.0 STATS"
    if (kind < 741) return random(6) ? good() : huge()
    return bad()
}

BEGIN {
    STATE = seed * 7919 % 2147483646 + 1
    for (i = 0; i < n; i++) printf "%s%s\n", request(), random(20) ? "" : "\r"
    ending = random(3)
    if (ending == 0) printf "KV/1.0 QUIT\n%s\n%s", good(), good()
    if (ending == 1) printf "%s", good()
}
