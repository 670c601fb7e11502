#!/usr/bin/env bash
# Builds both programs with gcov, runs the suite and the fault sweeps on them, and prints how many of their
# lines and branches were run, and which were not; with QUICK=1, without the sweeps.
#
# What is compiled goes to a folder of its own, which is removed. Both programs are those whose calls can
# be made to fail; they don't, unless a sweep has them fail. What a program did that is killed by a signal
# is not counted.
set -euo pipefail
cd "$(dirname "$0")/../../.."

FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
for program in kvss kvss_client; do
    FLAGS='-O0 -g --coverage -DCOVERAGE -D_exit=exit' CC=gcc KVSS_SOURCE=$PWD/$program.c \
        tests/tools/faults/build.bash "$FOLDER/$program"
done

status=0
KVSS=$FOLDER/kvss KVSS_CLIENT=$FOLDER/kvss_client CRASH=USR2 PATIENCE=50 BATS_TEST_TIMEOUT=6000 \
    bats --jobs 2 tests/ tests/hostile/model.bats || status=$?
[ -n "${QUICK-}" ] || tests/tools/faults/sweep.py "$FOLDER/kvss" || status=$?
[ -n "${QUICK-}" ] || KVSS=$FOLDER/kvss tests/tools/faults/client.py "$FOLDER/kvss_client" || status=$?

# missed FILE: what gcov has noted in it, as FILE:LINE: what: the source.
missed() {
    awk -v file="$1" '
        /^ *[0-9#=*-]+: *[0-9]+:/ {
            split($0, part, ":")
            line = part[2] + 0
            source = substr($0, length(part[1] part[2]) + 3)
            if (part[1] ~ /#####/) print file ":" line ": line:" source
        }
        /^branch .* taken 0( |$)/ { print file ":" line ": branch " $2 ":" source }'
}

cd "$FOLDER"
for program in kvss-kvss kvss_client-kvss_client; do
    file=${program#*-}.c
    echo "== $file"
    gcov --branch-counts --branch-probabilities --stdout "$program.gcda" | missed "$file"
    gcov --branch-counts --branch-probabilities --no-output "$program.gcda" |
        sed -n "/^File.*$file'/,/^\$/s/^\(Lines\|Taken\)/$file: \1/p" | head -n 2
done
exit $status
