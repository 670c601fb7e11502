#!/usr/bin/env bats
# Many clients at once.

load public

# With 256 descriptors, 500 clients show whether each is given back.
setup() {
    ulimit -Sn 256
    serve
}

@test "[3] what one client stores, another gets, while both are connected" {
    connect ann
    connect bob
    says ann 'KV/1.0 PUT city Hanoi'
    next ann
    says bob 'KV/1.0 GET city'
    hears bob '200 OK Hanoi'
}

@test "[4] a client that stops in the middle of a line holds up nobody" {
    put city Hanoi
    connect ann
    printf 'KV/1.0 GET ci' >&"${TO[ann]}"
    wait_until taken 13
    connect bob
    says bob 'KV/1.0 GET city'
    hears bob '200 OK Hanoi'
    says ann 'ty'
    hears ann '200 OK Hanoi'
}

@test "[4] 50 clients at once" {
    for i in {1..50}; do
        connect "$i"
        says "$i" "KV/1.0 PUT key$i value$i" "KV/1.0 GET key$i"
    done
    for i in {50..1}; do
        next "$i"
        hears "$i" "200 OK value$i"
    done
}

@test "[2] 8 clients store 500 keys each at the same time, and all are there" {
    pids=()
    for i in {1..8}; do
        (seq 1 500 | sed "s/.*/KV\/1.0 PUT $i-& value&/" | talk >/dev/null) 3>&- &
        pids+=($!)
    done
    wait "${pids[@]}"
    for i in {1..8}; do
        seq -f "KV/1.0 GET $i-%g" 1 500 | talk | cmp - <(seq -f '200 OK value%g' 1 500)
    done
}

@test "[2] 500 clients one after the other" {
    put city Hanoi
    for _ in {1..500}; do # some authors' nc takes a tenth of a second to begin, so bash connects by itself
        exec {fd}<>"/dev/tcp/127.0.0.1/$PORT"
        echo 'KV/1.0 GET city' >&"$fd"
        IFS= read -r -t "$PATIENCE" -u "$fd" reply
        same '200 OK Hanoi' "$reply"
        exec {fd}>&-
    done
}
