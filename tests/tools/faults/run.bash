#!/usr/bin/env bash
# Each call of kvss_client and kvss that can fail fails once, in a session of its own; some minutes for
# each of four kinds of session with kvss. With QUICK=1, of each call the 1st, 4th, 16th, ...
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
"$here/build.bash" "$FOLDER/kvss"
KVSS_SOURCE=kvss_client.c "$here/build.bash" "$FOLDER/kvss_client"
KVSS=$FOLDER/kvss "$here/client.py" ${QUICK:+--short} "$FOLDER/kvss_client"
"$here/sweep.py" ${QUICK:+--short} "$FOLDER/kvss"
