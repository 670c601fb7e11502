#!/usr/bin/env bats
# Lab 4: 405, with the list of verbs.

load ../lab

setup() {
    offers --list-verbs
    verbs=$("$KVSS" --help | sed -n 's/^  KV\/1\.0 \([A-Z]*\).*/\1/p' | paste -s -d ' ' -)
    ALLOWED="405 METHOD_NOT_ALLOWED $verbs"
}

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/4-verbs/README.md
}

@test "405 has the verbs of --help, in its order, whatever comes after the verb" {
    serve --list-verbs
    replies 'KV/1.0 POTT user42 Alice' "$ALLOWED" \
            'KV/1.0 get' "$ALLOWED" \
            'KV/1.0 GETT ' "$ALLOWED" \
            'KV/1.0 GE  ' "$ALLOWED" \
            $'KV/1.0 STATS\r\r' "$ALLOWED" \
            "KV/1.0 FROB $(printf '%0300d' 0)" "$ALLOWED"
}

@test "the rules before it and after it decide as they did" {
    serve --list-verbs
    replies 'FROB' '426 UPGRADE_REQUIRED' \
            $'KV/1.0 FROB \xff' '400 BAD_REQUEST' \
            'KV/1.0 ' '400 BAD_REQUEST' \
            'KV/1.0  FROB' '400 BAD_REQUEST' \
            'KV/1.0 PUT a' '400 BAD_REQUEST' \
            'KV/1.0 FROB' "$ALLOWED"
    run ask "KV/1.0 FROB $(head -c 70000 /dev/zero | tr '\0' x)"
    printed '400 BAD_REQUEST'
    [ "$(printf 'KV/1.0 FROB' | talk)" = '400 BAD_REQUEST' ]
}

@test "many at once, with others between them" {
    serve --list-verbs
    seq 1 1000 | sed 's/.*/KV\/1.0 FROB &\nKV\/1.0 GET &/' | talk |
        cmp - <(yes "$ALLOWED"$'\n404 NOT_FOUND' | head -n 2000)
}

@test "--explain adds nothing; the log has the reason" {
    serve --list-verbs --explain
    replies 'KV/1.0 FROB' "$ALLOWED"
    grep -q ' bad 127\.0\.0\.1:[0-9]* there is no such verb; verbs are upper case$' "$LOG"
}

@test "without the option it is 400 as before; -L is the short form" {
    serve
    replies 'KV/1.0 POTT user42 Alice' '400 BAD_REQUEST' 'KV/1.0 GET a' '404 NOT_FOUND'
    serve -L
    replies 'KV/1.0 POTT user42 Alice' "$ALLOWED"
}
