#!/usr/bin/env bats
# Lab 8: poll(), and more than FD_SETSIZE clients.

load ../lab

# start [OPTION...]: a server that may have 3,000 descriptors; and so may this test.
start() {
    ulimit -Sn 3000 2>/dev/null || skip "ulimit -n 3000 is refused here"
    serve --quiet "$@"
}

# open_all N: N connections. Sets FDS.
open_all() {
    local fd i
    FDS=()
    for ((i = 0; i < $1; i++)); do
        exec {fd}<>"/dev/tcp/127.0.0.1/$PORT"
        FDS+=("$fd")
    done
}

# each_gets REPLY: a request on each connection, the last first. (No read -t: bash waits by select(),
# and past FD_SETSIZE it aborts.)
each_gets() {
    local i line
    for ((i = ${#FDS[@]} - 1; i >= 0; i--)); do echo 'KV/1.0 GET k' >&"${FDS[i]}"; done
    for i in "${!FDS[@]}"; do
        read -r -u "${FDS[i]}" line
        [ "$line" = "$1" ] || { echo "client $i got '$line'" >&2; return 1; }
    done
}

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/8-poll/README.md
}

@test "2,000 clients at once, each of them served, twice; when they have left, the server rests" {
    start --max-clients 2001
    open_all 2000
    each_gets '404 NOT_FOUND'
    replies 'KV/1.0 PUT k v' '201 CREATED'
    each_gets '200 OK v'
    [[ $(ask 'KV/1.0 STATS all') == *' connections=2001 refused=0 '* ]]
    shut "${FDS[@]}"
    alone() { [[ $(ask 'KV/1.0 STATS all') == *' connections=1 '* ]]; }
    wait_until alone
    # Nanoseconds that it runs, until a client of another server tells that a second has gone by.
    run_so_far() { cut -d ' ' -f 1 "/proc/$resting/schedstat"; }
    resting=$PID
    before=$(run_so_far)
    serve --timeout 1
    connect ann
    wait_until logged ' idle'
    [ $(($(run_so_far) - before)) -lt 300000000 ]
}

@test "--max-clients 1100: one more is told 503" {
    start --max-clients 1100
    open_all 1100
    each_gets '404 NOT_FOUND'
    run talk </dev/null
    printed '503 SERVICE_UNAVAILABLE'
}

@test "a signal stops it, with 2,000 clients connected" {
    start --max-clients 2000
    open_all 2000
    each_gets '404 NOT_FOUND'
    stop "$PID"
}
