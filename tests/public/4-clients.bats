#!/usr/bin/env bats
# Many clients at once.

load public

# With 256 descriptors, 500 clients show whether each is given back.
setup() {
    ulimit -Sn 256
    serve
    trap '' PIPE
}

@test "[3] what one client stores, another gets, while both are connected" {
    connect
    one=$FD
    connect
    echo 'KV/1.0 PUT city Hanoi' >&"$one"
    read -r -t "$REPLY_WITHIN" -u "$one"
    says "$FD" 'KV/1.0 GET city' '200 OK Hanoi'
    hang_up "$one" "$FD"
}

@test "[4] a client that stops in the middle of a line holds up nobody" {
    put city Hanoi
    connect
    printf 'KV/1.0 GET ci' >&"$FD"
    half=$FD
    connect
    says "$FD" 'KV/1.0 GET city' '200 OK Hanoi'
    says "$half" ty '200 OK Hanoi'
    hang_up "$half" "$FD"
}

@test "[4] 50 clients at once" {
    clients=()
    for i in {1..50}; do
        connect
        clients+=("$FD")
        printf 'KV/1.0 PUT key%s value%s\nKV/1.0 GET key%s\n' "$i" "$i" "$i" >&"$FD"
    done
    for i in {50..1}; do
        read -r -t "$REPLY_WITHIN" -u "${clients[i - 1]}"
        hears "${clients[i - 1]}" "200 OK value$i"
    done
    hang_up "${clients[@]}"
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
    for _ in {1..500}; do
        connect
        says "$FD" 'KV/1.0 GET city' '200 OK Hanoi'
        hang_up "$FD"
    done
}
