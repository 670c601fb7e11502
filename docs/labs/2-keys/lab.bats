#!/usr/bin/env bats
# Lab 2: KEYS.

load ../lab

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/2-keys/README.md
}

@test "KEYS sorts by bytes, and a prefix is a prefix of bytes" {
    serve
    for key in b Ab a ab Ánh a.; do echo "KV/1.0 PUT $key 1"; done | talk >/dev/null
    replies 'KV/1.0 KEYS' '200 OK Ab a a. ab b Ánh' \
            'KV/1.0 KEYS a' '200 OK a a. ab' \
            'KV/1.0 KEYS a.' '200 OK a.' \
            'KV/1.0 KEYS abc' '200 OK' \
            'KV/1.0 KEYS Á' '200 OK Ánh' \
            'KV/1.0 DEL ab' '204 NO_CONTENT' \
            'KV/1.0 KEYS a' '200 OK a a.' \
            'KV/1.0 KEYS ' '400 BAD_REQUEST'
}

@test "10,000 keys: those with the prefix, all of them and no other" {
    serve
    seq 1 10000 | sed 's/.*/KV\/1.0 PUT key& v/' | talk >/dev/null
    wanted=$(seq 1 10000 | sed -n 's/^77/key77/p' | sort | paste -s -d ' ' -)
    replies 'KV/1.0 KEYS key77' "200 OK $wanted"
}

@test "65,536 bytes of keys are shown, one more is 507" {
    serve
    # 512 keys of 127 bytes, each with a space or the LF after it.
    seq 1 512 | sed 's/.*/printf "KV\/1.0 PUT %0127d v\\n" &/' | bash | talk >/dev/null
    [ "$(ask 'KV/1.0 KEYS' | wc -c)" = $((7 + 65536)) ]
    ask 'KV/1.0 PUT one more'
    replies 'KV/1.0 KEYS' '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 KEYS one' '200 OK one'
}

@test "a key whose deadline is past is not shown" {
    serve
    ask 'KV/1.0 PUT stays 1' 'KV/1.0 EXPIRE stays 100' 'KV/1.0 PUT goes 1' >/dev/null
    replies 'KV/1.0 KEYS' '200 OK goes stays' \
            'KV/1.0 EXPIREAT goes 1' '200 OK' \
            'KV/1.0 KEYS' '200 OK stays'
}

@test "--private: a client sees its own keys" {
    serve --private
    connect ann
    says ann 'KV/1.0 PUT mine 1'
    hears ann '201 CREATED'
    replies 'KV/1.0 PUT yours 1' '201 CREATED' 'KV/1.0 KEYS' '200 OK yours'
    says ann 'KV/1.0 KEYS'
    hears ann '200 OK mine'
}

@test "--help has KEYS, and STATS all counts it" {
    "$KVSS" --help | grep -q '^  KV/1.0 KEYS \[prefix\]$'
    serve
    [[ "$(ask 'KV/1.0 KEYS' 'KV/1.0 KEYS a' 'KV/1.0 STATS all') " == *' KEYS=2 '* ]]
}
