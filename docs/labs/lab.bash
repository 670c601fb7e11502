# shellcheck shell=bash
# What the tests of the labs share: those of the suite, and a build that is up to date.

ELSEWHERE=${KVSS-} # built there, if it's set; helper.bash sets KVSS
load ../../../tests/helper
load ../../../tests/follow

setup_file() {
    export BATS_TEST_TIMEOUT=${BATS_TEST_TIMEOUT-120}
    [ -n "$ELSEWHERE" ] || make -s -C "$BATS_TEST_DIRNAME/../../.." >&2
}

# offers WORD: kvss has such an option. (A server that is given another one does not start.)
offers() {
    "$KVSS" --help | grep -q -e " $1 " || { echo "kvss has no $1 yet" >&2; return 1; }
}
