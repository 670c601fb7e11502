#!/usr/bin/env bash
# Captures what docs/grpc/README.md counts: docs/grpc/capture.bash FILE. The same message is sent twice on
# each of three wires.
set -eu
# shellcheck source=docs/figures/alone.bash
. "$(dirname "$0")/../figures/alone.bash"

# complete: the file has the end of both calls of gRPC, which come last.
complete() {
    [ "$(tshark -r "$CAPTURE" -d tcp.port==3000,http2 -Y 'http2.header.name == "grpc-status"' 2>"$CAPTURE.tshark" | wc -l)" = 2 ]
}

# sends_frame: on the old wire, whose replies have 1,024 bytes.
sends_frame() {
    printf 'send\0\0\0\0\0\0\0\0\0\0\0bob,hi, you' >&"${TO[frames]}"
    [ "$(timeout "$PATIENCE" head -c 1024 <&"${FROM[frames]}" | tr -d '\0')" = ok ]
}

serve --port 9000 --frames 9001
ask 'KV/1.0 CREATE bob' >"$CAPTURE.created"
apart docs/grpc/server.py 127.0.0.1:9000 127.0.0.1:3000 >"$CAPTURE.server" 2>&1 &
SERVERS[$!]=$!
wait_until grep -qs listening "$CAPTURE.server"
# Not what server.py asks kvss: the nc of port 9000 has a port that is known.
capture 'port 61000 or port 9001 or port 3000'
connect lines 9000 -p 61000
for _ in 1 2; do
    says lines 'KV/1.0 SEND bob hi, you'
    hears lines '202 ACCEPTED'
done
connect frames 9001
sends_frame
sends_frame
spawn grpc docs/grpc/client.py 127.0.0.1:3000
for _ in 1 2; do
    says grpc 'send bob hi, you'
    hears grpc 'ok, it waits'
done
captured
hang_up lines frames grpc
