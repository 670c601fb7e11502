# shellcheck shell=bash
# Runs once, before the first test: the tests need nc, and programs that are up to date.

setup_suite() {
    bats_require_minimum_version 1.5.0
    # With --jobs, each job runs a whole file: one test a job costs more time than it saves.
    export BATS_NO_PARALLELIZE_WITHIN_FILE=1
    export BATS_TEST_TIMEOUT=${BATS_TEST_TIMEOUT-1200} # seconds; bats from 1.8 on minds it
    if ! command -v nc >/dev/null; then
        echo "The tests need nc: apt-get install netcat-openbsd" >&2
        return 1
    fi
    # KVSS and KVSS_CLIENT name programs to test that were built elsewhere.
    [ -n "${KVSS-}" ] || make -C "$(dirname "${BASH_SOURCE[0]}")/.." >&2
}
