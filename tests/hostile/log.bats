#!/usr/bin/env bats
# What tests/log.bats leaves out: 300 rounds of kill -9; and a clock and a disk that go wrong, for which the
# server's system calls are made to fail. These need a C compiler.

# shellcheck disable=SC2153 # PORT is set by serve
load ../helper
load ../watch
load ../log
load faults

setup() {
    DATA=$BATS_TEST_TMPDIR/data
}

# break_sync: from now on the disk says that it could not write, when it's waited for. So does a thread
# for that: there is none.
break_sync() {
    printf '%s\n' 'fsync EIO' 'aio_fsync64 EAGAIN' >"$FAULTS"
}

@test "a key that has gone stays gone with the clock an hour behind, after a full disk too" {
    faulty --data "$DATA"
    gone() {
        ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 1' >/dev/null
        [ -z "$1" ] || echo "$1" >"$FAULTS"
        wait_until gets 'KV/1.0 GET k' '404 NOT_FOUND'
    }
    back() {
        crash
        set_clock -3600
        faulty --data "$DATA"
        replies 'KV/1.0 GET k' '404 NOT_FOUND'
        crash
        set_clock 0
        faulty --data "$DATA"
    }
    gone ''
    back
    gone 'pwrite64 ENOSPC'
    rm "$FAULTS"
    deleted() { [ "$(tail -n 1 "$DATA")" = 'KV/1.0 DEL k' ]; }
    wait_until deleted
    back
}

@test "the clock is set: no deadline moves, and FILE gets them anew, at a stop too" {
    set_clock -1000000000
    faulty --data "$DATA"
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 1000' 'KV/1.0 PUT stays v' >/dev/null
    set_clock 0
    wait_until logged ' compact '
    logged ' clock was set by '
    kept() {
        [[ $(ask 'KV/1.0 TTL k') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
        replies 'KV/1.0 GET stays' '200 OK v'
    }
    kept
    crash
    faulty --data "$DATA"
    kept
    # Set and stopped, at once.
    set_clock 1000000
    stop "$PID"
    faulty --data "$DATA"
    kept
}

@test "fsync() fails: no 200, until FILE is written anew" {
    for fault in 'always fsync' 'everysec fsync' 'everysec aio_error64'; do
        DATA=$BATS_TEST_TMPDIR/${fault/ /.}
        faulty --data "$DATA" --fsync "${fault% *}"
        ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2' 'KV/1.0 PUT a 3' >/dev/null
        break_sync
        [[ $fault != *aio* ]] || printf '%s\n' 'fsync EIO' 'aio_error64 EIO' >"$FAULTS"
        case $fault in
        always*) refused 'KV/1.0 PUT a 3' ;;
        *) wait_until gets 'KV/1.0 PUT a 3' '500 SERVER_ERROR' ;;
        esac
        replies 'KV/1.0 GET a' '200 OK 3' \
                'KV/1.0 PUT c 1' '500 SERVER_ERROR' \
                'KV/1.0 COMPACT' '202 ACCEPTED' \
                'KV/1.0 PUT c 1' '500 SERVER_ERROR'
        logged " error $DATA Input/output error"
        run ! logged " error $DATA Input/output error" 2
        rm "$FAULTS"
        wait_until gets 'KV/1.0 PUT b 4' '201 CREATED'
        logged ' compact '
        logged " recover $DATA changes are made again"
        # Whether what got 500 is made is not known.
        diff <(printf '%s\n' "$HEADER" 'KV/1.0 PUT a 3' 'KV/1.0 PUT b 4') <(grep -v 'PUT c 1$' "$DATA")
        restart
        replies 'KV/1.0 GET a' '200 OK 3' \
                'KV/1.0 GET b' '200 OK 4'
    done
}

@test "a sync of FILE that is due when the child of a compaction is found to be done: one at a time" {
    faulty --data "$DATA"
    connect one
    # The server falls asleep while a compaction goes on; or, if that was too late, while the next one does.
    n=0
    begun() { [ -e "$DATA.kvss-new" ] || logged ' compact ' "$n"; }
    until [ -e "$DATA.kvss-new" ]; do
        [ $((n++)) = 0 ] || kill -s CONT "$PID"
        says one "KV/1.0 PUT a $n" 'KV/1.0 COMPACT'
        next one
        hears one '202 ACCEPTED'
        due=$((${EPOCHREALTIME/./} + 1000000))
        wait_until begun
        freeze "$PID"
    done
    # When it awakes, the child is done, and FILE is to be synced.
    is_due() { [ "${EPOCHREALTIME/./}" -gt "$due" ]; }
    wait_until is_due
    kill -s CONT "$PID"
    # If a second one begins, the shim ends the server.
    wait_until logged ' compact ' "$n"
    data "KV/1.0 PUT a $n"
    says one 'KV/1.0 GET a';       hears one "200 OK $n"
}

@test "--fsync no never syncs, and a disk that can't is no matter" {
    faulty --data "$DATA" --fsync no
    break_sync
    replies 'KV/1.0 PUT a 1' '201 CREATED'
    # More than a second later:
    ask 'KV/1.0 EXPIRE a 2'
    wait_until gets 'KV/1.0 GET a' '404 NOT_FOUND'
    replies 'KV/1.0 PUT b 1' '201 CREATED'
}

@test "rename() or fork() fails: FILE goes on as it is" {
    for call in rename fork; do
        DATA=$BATS_TEST_TMPDIR/$call
        faulty --data "$DATA"
        echo "$call EIO" >"$FAULTS"
        replies 'KV/1.0 PUT a 1' '201 CREATED' 'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until logged ' error compaction Input/output error'
        replies 'KV/1.0 PUT a 2' '200 OK'
        [ ! -e "$DATA.kvss-new" ]
        data 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2'
        rm "$FAULTS"
        restart
        replies 'KV/1.0 GET a' '200 OK 2'
    done
}

@test "at the end, what the disk has not taken is told by the exit status" {
    faulty --data "$DATA"
    ask 'KV/1.0 PUT a 1'
    break_sync
    ask 'KV/1.0 PUT a 2'
    kill "$PID"
    status=0
    ended "$PID" || status=$?
    [ "$status" = 1 ]
    logged " error $DATA Input/output error"
}

# With QUICK=1, a fifth of them.
@test "300 rounds of kill -9 at any moment: nothing acknowledged is missing, and no value is half" {
    kill_rounds $((${QUICK:+-240} + 300))
}

@test "a FILE that is mounted by itself: it is said at the start what to do" {
    unshare -m true 2>/dev/null || skip "unshare -m is refused here"
    : >"$BATS_TEST_TMPDIR/outside"
    : >"$DATA"
    # shellcheck disable=SC2016 # that shell expands it
    unshare -m sh -c 'mount --bind "$1" "$2" && exec "$3" --port 0 --data "$2"' - \
        "$BATS_TEST_TMPDIR/outside" "$DATA" "$KVSS" 2>"$BATS_TEST_TMPDIR/said" 3>&- &
    pid=$!
    wait_until grep -q ' listening ' "$BATS_TEST_TMPDIR/said"
    kill "$pid"
    wait "$pid"
    grep -q "^kvss: $DATA is mounted by itself, .*; mount its folder$" "$BATS_TEST_TMPDIR/said"
    # A server with a FILE of the usual kind says nothing, and leaves nothing behind.
    serve --data "$DATA"
    run ! grep 'mounted' "$LOG"
    [ ! -e "$DATA.kvss-link" ]
}
