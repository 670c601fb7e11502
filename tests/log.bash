# shellcheck shell=bash
# What tests/log.bats and tests/hostile/log.bats share: FILE, its header, and crashes.

HEADER='# kvss data 1: the changes of a store, as requests'

# crash: ends the server of now without warning. (coverage.bash has a signal for that which leaves
# what was counted.)
crash() {
    kill -s "${CRASH:-KILL}" "$PID"
    wait_until dead "$PID" || kill -s KILL "$PID" # gcov may wait for itself, in the handler of CRASH
    ended "$PID" 2>/dev/null || :
}

# restart [OPTION...]: crash, and start again with the same file.
restart() {
    crash
    serve --data "$DATA" "$@"
}

# data LINE...: what FILE holds, after its header.
data() {
    diff <(printf '%s\n' "$HEADER" "$@") "$DATA"
}
