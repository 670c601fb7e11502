#!/usr/bin/env bash
# Puts the tables and the machine of docs/figures/performance.tsv into docs/performance.md; with --print, prints
# the page as it has to be.
set -eu
cd "$(dirname "$0")/../../.."
export LC_ALL=C
page() {
    awk -v report="$(awk -f tests/tools/bench/report.awk docs/figures/performance.tsv)" \
        -v machine="$(sed -n '1,4s/^# /- /p' docs/figures/performance.tsv)" '
        /^<!-- report: / { print; print report; skip = 1 }
        /^<!-- machine -->/ { print; print ""; print machine; skip = 1 }
        /^<!-- end -->/ { skip = 0; print ""; }
        !skip { print }' docs/performance.md
}
if [ "${1-}" = --print ]; then
    page
else
    page >docs/performance.md.new
    mv docs/performance.md.new docs/performance.md
fi
