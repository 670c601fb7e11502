# shellcheck shell=bash
# What the tests of the labs share: those of the suite, and a build that is up to date.

load ../../../tests/helper
load ../../../tests/book/follow

setup_file() {
    export BATS_TEST_TIMEOUT=${BATS_TEST_TIMEOUT-120}
    [ "$KVSS" != "$ROOT/kvss" ] || make -s -C "$ROOT" >&2
}

# offers WORD: kvss has such an option. (A server that is given another one does not start.)
offers() {
    "$KVSS" --help | grep -q -e " $1 " || { echo "kvss has no $1 yet" >&2; return 1; }
}
