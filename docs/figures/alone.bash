# shellcheck shell=bash disable=SC2034 # FILE is the script's
# For scripts that capture packets: SCRIPT FILE. The script goes on in a network of its own, in which all ports
# are free and nobody else is heard. That takes no rights where users may make one (unshare).
[ "${1-}" = --inside ] || exec unshare --map-root-user --net "$0" --inside "$@"

BATS_TEST_TMPDIR=$(mktemp -d)
# shellcheck source=tests/helper.bash
. "$(dirname "${BASH_SOURCE[0]}")/../../tests/helper.bash"
trap 'kill ${DUMPCAP-} 2>/dev/null || :; teardown; rm -rf "$BATS_TEST_TMPDIR"' EXIT
FILE=$2
CAPTURE=$BATS_TEST_TMPDIR/capture
ip link set lo up
echo '61001 61999' >/proc/sys/net/ipv4/ip_local_port_range # no port of a test is among them

# capture FILTER: begins, into the file CAPTURE.
capture() {
    dumpcap -q -P -i lo -f "$1" -w "$CAPTURE" 2>"$CAPTURE.log" &
    DUMPCAP=$!
    wait_until grep -qs '^File: ' "$CAPTURE.log"
}

# captured: waits until the script's function complete says so. Then ends the capture, and writes FILE: as a
# pcapng made from a pcap, which says nothing about the machine.
captured() {
    wait_until complete
    kill "$DUMPCAP"
    wait "$DUMPCAP"
    DUMPCAP=
    editcap -F pcapng "$CAPTURE" "$FILE"
}
