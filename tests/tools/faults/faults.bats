#!/usr/bin/env bats
# Calls of kvss and of its client fail, one in each session: the short form of run.bash.

load ../../helper

@test "a fault in each session of kvss, and of its client" {
    for tool in cc openssl python3; do
        command -v $tool >/dev/null || skip "$tool is needed"
    done
    QUICK=1 "$ROOT/tests/tools/faults/run.bash"
}
