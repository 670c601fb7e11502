#!/usr/bin/env bash
# Draws the pictures of docs/wireshark.md from its capture: docs/figures/draw.bash FOLDER
set -eu
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
export LC_ALL=C

# dissect OPTION...: what tshark says of the capture.
dissect() {
    tshark -X "lua_script:$ROOT/docs/kvss.lua" -o tcp.ignore_tcp_timestamps:TRUE \
        -r "$ROOT/docs/figures/kvss-session.pcapng" "$@" 2>/dev/null
}

# packets FIELD...: the fields of each packet, with tabs between them.
packets() {
    dissect -T fields "${@/#/-e}"
}

packets frame.number frame.time_relative tcp.srcport tcp.stream tcp.flags.syn tcp.flags.fin \
    tcp.flags.ack tcp.ack tcp.payload kv.status _ws.col.Info |
    awk -f "$ROOT/docs/figures/exchange.awk" >"$1/wireshark-exchange.svg"

{
    packets frame.number frame.time_relative tcp.srcport tcp.dstport _ws.col.Protocol frame.len \
        _ws.col.Info kv.status tcp.flags.syn tcp.flags.fin
    echo
    dissect -V -Y 'tcp.segment.count == 3' | sed -n '/^\[3 Reassembled/,/^$/p'
} | awk -f "$ROOT/docs/figures/list.awk" >"$1/wireshark-list.svg"
