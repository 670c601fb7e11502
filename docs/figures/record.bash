#!/usr/bin/env bash
# Records docs/figures/demo.bash as docs/figures/demo.svg, or as the file that is named: an animation for the
# README. Needs termtosvg (Debian has it, and pip).
set -euo pipefail
picture=$(realpath "${1-$(dirname "${BASH_SOURCE[0]}")/demo.svg}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! command -v termtosvg >/dev/null; then
    echo 'termtosvg is needed: apt-get install termtosvg' >&2
    exit 1
fi
make -s kvss

# termtosvg also records what is typed, and the end of that would end it. Nothing comes from this
# pipe, and no end.
keyboard=$(mktemp -u)
mkfifo "$keyboard"
exec 5<>"$keyboard"
rm "$keyboard"
termtosvg "$picture" --command docs/figures/demo.bash --screen-geometry 76x30 --template window_frame \
    --min-frame-duration 100 --loop-delay 8000 <&5
