#!/usr/bin/env bash
# make faults            each call of kvss that can fail fails once, in a session of its own; some
#                        minutes for each of four kinds of session
# make faults QUICK=1    of each call the 1st, 4th, 16th, ...
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
"$here/build.bash" "$FOLDER/kvss"
"$here/sweep.py" ${QUICK:+--short} "$FOLDER/kvss"
