#!/usr/bin/env bats
# A short soak, and the attacks in small: that others are served meanwhile, in whatever time it takes.
# soak.py and attacks.py are the long ones.

load ../../helper

setup() {
    [ "$(uname)" = Linux ] || skip "epoll() and /proc are needed"
    for tool in cc openssl python3; do
        command -v $tool >/dev/null || skip "$tool is needed"
    done
}

# bats test_tags=crypt
@test "a short soak: 300 clients, good and bad, beside a model" {
    "$ROOT/tests/tools/soak/soak.py" --kvss "$KVSS" --seconds 5 --clients 300
}

# bats test_tags=crypt
@test "attacks: the others get their replies meanwhile, and afterwards no descriptor is left" {
    KVSS=$KVSS "$ROOT/tests/tools/soak/attacks.py" --short | tee "$BATS_TEST_TMPDIR/table"
    [ "$(grep -c ' without ' "$BATS_TEST_TMPDIR/table")" = 11 ]
}
