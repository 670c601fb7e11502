#!/usr/bin/env bash
# Captures what docs/grpc/README.md counts: docs/grpc/capture.bash FILE. The same message is sent twice on
# each of three wires. Servers, clients and capture are in a network of their own, as in
# docs/figures/capture.bash.
set -eu
[ "${1-}" = --inside ] || exec unshare --map-root-user --net "$0" --inside "$@"

BATS_TEST_TMPDIR=$(mktemp -d)
# shellcheck source=tests/helper.bash
. "$(dirname "$0")/../../tests/helper.bash"
trap 'kill ${DUMPCAP-} 2>/dev/null || :; teardown; rm -rf "$BATS_TEST_TMPDIR"' EXIT
FILE=$2
CAPTURE=$BATS_TEST_TMPDIR/capture

# complete: the file has the end of both calls of gRPC, which come last.
complete() {
    [ "$(tshark -r "$CAPTURE" -d tcp.port==3000,http2 -Y 'http2.header.name == "grpc-status"' 2>"$CAPTURE.log" | wc -l)" = 2 ]
}

# sends_frame: on the old wire, whose replies have 1,024 bytes.
sends_frame() {
    printf 'send\0\0\0\0\0\0\0\0\0\0\0bob,hi, you' >&"${TO[frames]}"
    [ "$(timeout "$PATIENCE" head -c 1024 <&"${FROM[frames]}" | tr -d '\0')" = ok ]
}

ip link set lo up
echo '61001 61999' >/proc/sys/net/ipv4/ip_local_port_range # no port of a test is among them
serve --port 9000 --frames 9001
ask 'KV/1.0 CREATE bob' >"$CAPTURE.log"
apart docs/grpc/server.py 127.0.0.1:9000 127.0.0.1:3000 >"$CAPTURE.server" 2>&1 &
SERVERS[$!]=$!
wait_until grep -qs listening "$CAPTURE.server"
# Not what server.py asks kvss: the nc of port 9000 has a port that is known.
dumpcap -q -P -i lo -f 'port 61000 or port 9001 or port 3000' -w "$CAPTURE" 2>"$CAPTURE.log" &
DUMPCAP=$!
wait_until grep -qs '^File: ' "$CAPTURE.log"
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
wait_until complete
kill "$DUMPCAP"
wait "$DUMPCAP"
DUMPCAP=
hang_up lines frames grpc
editcap -F pcapng "$CAPTURE" "$FILE" # from a pcap, which says nothing about the machine
