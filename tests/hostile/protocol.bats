#!/usr/bin/env bats
# What tests/protocol.bats leaves out: days go by, which the server's clock has to be told. That needs a C compiler.

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
