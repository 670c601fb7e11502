#!/usr/bin/env bats
# A request is a line, however TCP cuts it up.

load public

setup() {
    serve
    put city Hanoi
}

@test "[4] two requests that arrive together get two replies, in order" {
    put town Hue
    replies 'KV/1.0 GET city' '200 OK Hanoi' \
            'KV/1.0 GET town' '200 OK Hue'
}

@test "[4] a request in two pieces gets one reply" {
    connect ann
    printf 'KV/1.0 GET ci' >&"${TO[ann]}"
    wait_until taken 13
    says ann 'ty'
    hears ann '200 OK Hanoi'
}

@test "[2] a request byte by byte" {
    request='KV/1.0 GET city'
    connect ann
    for ((i = 0; i < ${#request}; i++)); do
        printf '%s' "${request:i:1}" >&"${TO[ann]}"
        wait_until taken $((i + 1))
    done
    says ann ''
    hears ann '200 OK Hanoi'
}

@test "[3] CR LF ends a line as LF does" {
    put town $'Hue\r'
    replies $'KV/1.0 GET town\r' '200 OK Hue'
}

@test "[3] 1,000 requests sent at once" {
    seq 1000 | sed 's/.*/KV\/1.0 GET city/' | talk | cmp - <(seq 1000 | sed 's/.*/200 OK Hanoi/')
}

@test "[2] a value of 10,000 bytes" {
    value=$(long 10000)
    put long "$value"
    replies 'KV/1.0 GET long' "200 OK $value"
}

@test "[2] a line that never ended is not run" {
    printf 'KV/1.0 PUT city Hue' | talk >"$BATS_TEST_TMPDIR/half"
    replies 'KV/1.0 GET city' '200 OK Hanoi'
}
