#!/usr/bin/env bash
# Runs the public tests against a server of KV/1.0, in any language, and prints a table of marks.
#
#     tests/grade.sh [--command 'python3 server.py PORT'] [--quit-stops-server] [--patience SECONDS]
#         DIR
#
# DIR has the server. --command starts it there; PORT in it is the port to listen on, at 127.0.0.1.
# Without it, that's the program "start" in DIR, with the port as its argument. A reply may take 5
# seconds, or as many as --patience says. The points of a test are the number in its name.
#
# Exit status: 0 all points, 1 fewer, 2 nothing was graded.
set -euo pipefail
TESTS=$(cd "$(dirname "$0")" && pwd)
export START='./start PORT' QUIT_STOPS=0 PATIENCE=5 GRADED=

refuse() {
    echo "grade.sh: $1" >&2
    exit 2
}

read_options() {
    while [[ ${1-} == -* ]]; do
        case $1 in
        --command) START=${2-} && shift ;;
        --patience) PATIENCE=${2-} && shift ;;
        --quit-stops-server) QUIT_STOPS=1 ;;
        *) refuse "$1: no such option" ;;
        esac
        shift || refuse "a value is missing"
    done
    [ $# = 1 ] || refuse "one folder has to be named, and there are $#"
    [[ $PATIENCE =~ ^[1-9][0-9]?$ ]] || refuse "--patience: '$PATIENCE' is not from 1 to 99"
    [[ $START == *PORT* ]] || refuse "--command: PORT does not occur in '$START'"
    GRADED=$(cd "$1" 2>/dev/null && pwd) || refuse "$1: no such folder"
    [ "$START" != './start PORT' ] || [ -x "$GRADED/start" ] ||
        refuse "$1/start: no such program; see --command"
}

# points PATTERN FILE: the sum of those in the names of tests, on the lines that match.
points() {
    sed -n "/$1/s/^[^[]*\[\([0-9]*\)\].*/\1/p" "$2" | awk '{ sum += $1 } END { print sum + 0 }'
}

# row NAME PASSED TESTS EARNED POINTS
row() {
    printf '%-12s %7s %9s\n' "$1" "$2/$3" "$4/$5"
}

# grade FILE: runs a group of tests, prints its row, and adds it to the sums. What did not pass goes
# to the file failed.
grade() {
    local all passed possible earned
    timeout $((BATS_TEST_TIMEOUT * 12)) bats --tap "$1" >"$OUT/tap" 2>&1 </dev/null || :
    all=$(grep -c '^@test ' "$1")
    possible=$(points '^@test ' "$1")
    passed=$(grep -c '^ok ' "$OUT/tap" || :)
    earned=$(points '^ok ' "$OUT/tap")
    row "$(basename "$1" .bats)" "$passed" "$all" "$earned" "$possible"
    PASSED=$((PASSED + passed)) ALL=$((ALL + all))
    EARNED=$((EARNED + earned)) POINTS=$((POINTS + possible))
    sed -n 's/^@test "\(.*\)" {$/\1/p' "$1" | while IFS= read -r name; do
        grep -q "^ok [0-9]* ${name//[/\\[}\$" "$OUT/tap" || why "$name" >>"$OUT/failed"
    done
}

# why NAME: the name of a test, and what it said.
why() {
    echo "$1"
    awk -v name="$1" '/^(not )?ok / { found = index($0, name) }
        found && /^# / && !/^# \(|^#  /' "$OUT/tap" |
        cut -c 1-100 | head -n 10 | sed 's/^# /    /'
}

command -v bats >/dev/null || refuse "bats is needed: apt-get install bats"
read_options "$@"
export BATS_TEST_TIMEOUT=$((PATIENCE * 4 + 20))
OUT=$(mktemp -d)
trap 'rm -r "$OUT"' EXIT
PASSED=0 ALL=0 EARNED=0 POINTS=0
: >"$OUT/failed"
row group passed tests points possible | sed 's|/tests|/of|; s|/possible|/of|'
for group in "$TESTS"/public/*.bats; do grade "$group"; done
row all "$PASSED" "$ALL" "$EARNED" "$POINTS"
[ ! -s "$OUT/failed" ] || { echo; cat "$OUT/failed"; }
[ "$EARNED" = "$POINTS" ]
