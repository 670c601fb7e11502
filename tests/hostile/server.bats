#!/usr/bin/env bats
# What tests/protocol.bats and tests/server.bats leave out: days go by, and a client leaves in the moment before
# accept(). For that the server's system calls are made to lie, which needs a C compiler.

load ../helper
load faults

@test "--long-stats: an uptime of less than a day, of one, and of more" {
    set_clock 0
    faulty --long-stats
    for uptime in 1 '1 day, 1' '2 days, 1' '10 days, 1'; do
        [[ $uptime == *day* ]] && days=${uptime%% *} || days=0
        set_clock 0 $((days * 86400 + 3700)) # an hour and 100 seconds
        [[ $(ask 'KV/1.0 STATS') =~ ^"200 OK uptime: $uptime:0"[1-9]:[0-5][0-9]';' ]]
    done
}

@test "a client that has left before accept() is no error" {
    faulty
    echo 'accept ECONNABORTED 1' >"$FAULTS"
    replies 'KV/1.0 GET a' '404 NOT_FOUND'
    run ! logged ' error accept '
}
