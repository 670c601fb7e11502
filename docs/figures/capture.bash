#!/usr/bin/env bash
# Captures the session that docs/wireshark.md reads: docs/figures/capture.bash FILE.
set -eu
# shellcheck source=docs/figures/alone.bash
. "$(dirname "$0")/alone.bash"

# arrived: what clients have sent is acknowledged, and the server has read it.
arrived() {
    ss -Htn state established | awk '$4 ~ /:9000$/ && $2 || $3 ~ /:9000$/ && $1 { exit 1 }'
}

# open: connects, without an nc in between, which would put segments together. asks REQUEST REPLY, gets LINE...
open() { exec {FD}<>"/dev/tcp/127.0.0.1/$PORT"; }
asks() { echo "$1" >&$FD && gets "$2"; }
gets() {
    local line wanted
    for wanted; do IFS= read -r -t 20 -u $FD line && same "$wanted" "$line"; done
}

# sends BYTES...: each in a segment of its own.
sends() {
    local bytes
    for bytes; do
        env printf "$bytes" >&$FD # bash would write each line by itself
        wait_until arrived
    done
}

# The client says QUIT, and the server is the first to close.
first_connection() {
    open
    asks 'KV/1.0 PUT foo bar' '201 CREATED'
    asks 'KV/1.0 GET foo' '200 OK bar'
    asks 'KV/1.0 DEL foo' '204 NO_CONTENT'
    sends 'KV/1.0 STATS\n'
    gets '200 OK *'
    sends 'KV/1.0 PUT user42 Alice\nKV/1.0 GET user42\n'
    gets '201 CREATED' '200 OK Alice'
    env printf 'KV/1.0 PU' >&$FD # TCP keeps the next one back until this is acknowledged
    sends 'T city H\xc3' '\xa0 N\xe1\xbb\x99i\n'
    gets '201 CREATED'
    sends 'KV/1.0 GET city\nKV/1.0 DE'
    gets '200 OK Hà Nội'
    sends 'L city\n'
    gets '204 NO_CONTENT'
    asks 'KV/2.0 GET user42' '426 UPGRADE_REQUIRED'
    asks 'KV/1.0 POTT user42 Alice' '400 BAD_REQUEST'
    asks 'KV/1.0 QUIT' '200 OK bye'
    timeout 200 cat <&$FD # nothing, and the end of the stream
    exec {FD}>&-
}

# The client is the first to close.
second_connection() {
    open
    asks 'KV/1.0 GET user42' '200 OK Alice'
    exec {FD}>&-
}

# complete: the file holds the end of both sides of both connections (one may be there twice, if TCP
# sent it again), and the last acknowledgement.
complete() {
    tshark -r "$CAPTURE" -T fields -e tcp.flags.fin -e tcp.stream -e tcp.srcport 2>"$CAPTURE.tshark" |
        awk '$1 && !seen[$2, $3]++ { ends++ } { last = $1 } END { exit !(ends == 4 && !last) }'
}

capture 'tcp port 9000'
serve --port 9000
first_connection
second_connection
captured
stop "$PID"
