#!/usr/bin/env bash
# commands.bash BUILD TESTS: what run.bash runs in the bare root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

echo "bare: $1"
bash -e -c "$1" 2>&1

# README starts the server on port 9000, which may be taken here.
./kvss 0 2>/tmp/said &
server=$!
until grep '^kvss: listening on ' /tmp/said; do
    kill -0 $server
    sleep 0.1
done
kill $server
wait $server

echo "bare: $2"
bash -e -c "$2" 2>&1 | tee /tmp/tap

skipped=$(grep -c '^ok .* # skip' /tmp/tap || :)
if [ "$skipped" -gt "$SKIPPED_MAX" ]; then
    echo "bare: $skipped tests were skipped; $SKIPPED_MAX may be"
    exit 1
fi
