#!/usr/bin/env bats
# The long forms of tests/log.bats: every byte cut, 300 rounds of kill -9; and a clock and a disk that go wrong, for
# which the server's system calls are made to fail. Most of these need a C compiler.

# shellcheck disable=SC2153 # PORT is set by serve
load ../helper
load ../log
load faults

setup() {
    DATA=$BATS_TEST_TMPDIR/data
}

# set_clock SECONDS: the clock is wrong by that much, for servers that faulty starts.
set_clock() {
    export CLOCK=$BATS_TEST_TMPDIR/clock
    echo "$1" >"$CLOCK.new"
    mv "$CLOCK.new" "$CLOCK"
}

# break_sync: from now on the disk says that it could not write, when it's waited for. So does a thread
# for that: there is none.
break_sync() {
    printf '%s\n' 'fsync EIO' 'aio_fsync64 EAGAIN' >"$FAULTS"
}

# gets REQUEST REPLY: whether the request gets it now, for wait_until.
gets() {
    [ "$(ask "$1")" = "$2" ]
}

# refused REQUEST: it gets 500, or the connection ends without a reply.
refused() {
    run ask "$1"
    [ -z "$output" ] || [ "$output" = '500 SERVER_ERROR' ]
}

# bats test_tags=shim
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

# bats test_tags=shim
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

@test "a torn line: FILE cut short at every byte of its last lines" {
    serve --data "$DATA"
    ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT b first' 'KV/1.0 PUT b second value' 'KV/1.0 DEL a' 'KV/1.0 EXPIREAT b 9999999999' >/dev/null
    stop "$PID"
    cp "$DATA" "$DATA.whole"
    size=$(wc -c <"$DATA")
    for ((cut = 0; cut <= size; cut++)); do
        head -c $cut "$DATA.whole" >"$DATA"
        serve --data "$DATA"
        whole=$(head -c $cut "$DATA.whole" | tail -n +2 | wc -l)
        torn=', 1 torn line dropped,'
        [ $cut -gt ${#HEADER} ] && [ "$(head -c $cut "$DATA.whole" | tail -c 1)" ] || torn=''
        wanted="kvss: replayed $whole line$([ "$whole" = 1 ] || echo s)$torn in "
        logged "$wanted" || { echo "cut at $cut: $wanted" >&2; head -n 1 "$LOG" >&2; false; }
        case $whole in
        0) a='404 NOT_FOUND' b='404 NOT_FOUND' ;;
        1) a='200 OK 1' b='404 NOT_FOUND' ;;
        2) a='200 OK 1' b='200 OK first' ;;
        3) a='200 OK 1' b='200 OK second value' ;;
        *) a='404 NOT_FOUND' b='200 OK second value' ;;
        esac
        replies 'KV/1.0 GET a' "$a" 'KV/1.0 GET b' "$b" 'KV/1.0 PUT new line' '201 CREATED'
        crash
        # FILE is whole again, and what comes after is not glued to what was torn.
        diff <(if [ $cut -le ${#HEADER} ]; then echo "$HEADER"; else head -n $((whole + 1)) "$DATA.whole"; fi; echo 'KV/1.0 PUT new line') "$DATA"
    done
}

@test "compaction goes on beside changes, and none is lost" {
    serve --data "$DATA"
    { seq 1 200000 | sed 's/.*/KV\/1.0 PUT k& old/'; seq 1 2 200000 | sed 's/.*/KV\/1.0 EXPIREAT k& 9999999999/'; } | talk >/dev/null
    # Each of these is a time at which the store may be seen by the child; all end in the same.
    for round in 1 2 3; do
        restart --quiet
        { echo 'KV/1.0 COMPACT'
            for ((i = 1; i <= 3000; i++)); do printf 'KV/1.0 PUT k%d new%d\nKV/1.0 DEL k%d\nKV/1.0 PUT n%d v\nKV/1.0 EXPIREAT k%d 9999999998\n' $((i * 7)) $round $((i * 11)) $i $((i * 13)); done
        } | talk | sort | uniq -c
    done
    gone() { [ ! -e "$DATA.kvss-new" ]; }
    wait_until gone
    everything() { { seq 1 200000 | sed 's/.*/KV\/1.0 GET k&/'; seq 1 3000 | sed 's/.*/KV\/1.0 GET n&/'; seq 1 200000 | sed 's/.*/KV\/1.0 TTL k&/'; } | talk | sed 's/^200 OK [0-9]\{10\}$/long/'; }
    everything >"$BATS_TEST_TMPDIR/before"
    crash
    serve --data "$DATA"
    everything | cmp - "$BATS_TEST_TMPDIR/before"
}

# bats test_tags=shim
@test "write() fails, or falls short: no 200, and nothing of it in FILE" {
    faulty --data "$DATA"
    ask 'KV/1.0 PUT a 1' >/dev/null
    for how in EIO ENOSPC HALF HALF; do
        size=$(wc -c <"$DATA")
        echo "pwrite64 $how" >"$FAULTS"
        refused 'KV/1.0 PUT a 2'
        replies 'KV/1.0 PUT b 1' '500 SERVER_ERROR'
        [ "$(wc -c <"$DATA")" = "$size" ]
        rm "$FAULTS"
        wait_until gets 'KV/1.0 PUT a 3' '200 OK'
        [ "$(tail -n 1 "$DATA")" = 'KV/1.0 PUT a 3' ]
    done
    restart
    replies 'KV/1.0 GET a' '200 OK 3'
}

# bats test_tags=shim
@test "fsync() fails: no 200, until FILE is written anew" {
    for fault in 'always fsync' 'everysec fsync' 'everysec aio_error64'; do
        DATA=$BATS_TEST_TMPDIR/${fault/ /.}
        faulty --data "$DATA" --fsync "${fault% *}"
        ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2' 'KV/1.0 PUT a 3' >/dev/null
        break_sync
        [[ $fault != *aio* ]] || echo 'aio_error64 EIO' >"$FAULTS"
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

# bats test_tags=shim
@test "a sync of FILE that is due when the child of a compaction is found to be done: one at a time" {
    faulty --data "$DATA"
    connect one
    # Nobody can hear of the child, so it is found to be done when the server awakes. FILE is to be synced then, too.
    echo 'read EAGAIN' >"$FAULTS"
    says one 'KV/1.0 COMPACT';     hears one '202 ACCEPTED'
    wait_until [ -e "$DATA.kvss-new" ]
    says one 'KV/1.0 PUT a 1';     hears one '201 CREATED'
    says one 'KV/1.0 PUT a 2';     hears one '200 OK'
    due=$((${EPOCHREALTIME/./} + 1000000))
    freeze "$PID"
    rm "$FAULTS"
    is_due() { [ "${EPOCHREALTIME/./}" -gt $due ]; }
    wait_until is_due
    kill -s CONT "$PID"
    # If a second one begins, the shim ends the server.
    wait_until logged ' compact '
    data 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2'
    says one 'KV/1.0 GET a';       hears one '200 OK 2'
}

# bats test_tags=shim
@test "--fsync no never syncs, and a disk that can't is no matter" {
    faulty --data "$DATA" --fsync no
    break_sync
    replies 'KV/1.0 PUT a 1' '201 CREATED'
    # More than a second later:
    ask 'KV/1.0 EXPIRE a 2'
    wait_until gets 'KV/1.0 GET a' '404 NOT_FOUND'
    replies 'KV/1.0 PUT b 1' '201 CREATED'
}

# bats test_tags=shim
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

# bats test_tags=shim
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

# count_up CLIENT FROM: puts numbers in the client's key, one after the other, with something between
# that would show half a value. What comes back goes to the file acks.CLIENT. The first shows whose server
# it is: when ours is killed before nc connects, its port may be another's by then.
count_up() {
    { echo "KV/1.0 GET c$1"; [ "$1" != 1 ] || echo 'KV/1.0 COMPACT'; seq $(($2 + 1)) $(($2 + 20000)) | sed "s/.*/KV\/1.0 PUT c$1 & $PADDING &/"; } |
        talk >"$BATS_TEST_TMPDIR/acks.$1" 2>/dev/null || :
}

# With QUICK=1, a fifth of them.
@test "300 rounds of kill -9 at any moment: nothing acknowledged is missing, and no value is half" {
    serve --data "$DATA" --quiet
    seq 1 20000 | sed 's/.*/KV\/1.0 PUT ballast& value&/' | talk >/dev/null
    PADDING=$(printf '%0100d' 0) rounds=${QUICK:+60}
    counts=(0 0 0 0) compacting=0 acknowledged=0
    values=('' '404 NOT_FOUND' '404 NOT_FOUND' '404 NOT_FOUND')
    modes=(always everysec no)
    for ((round = 1; round <= ${rounds:=300}; round++)); do
        jobs=()
        for client in 1 2 3; do
            : >"$BATS_TEST_TMPDIR/acks.$client"
            count_up $client "${counts[client]}" 3>&- &
            jobs+=($!)
        done
        # It comes when so many bytes have been acknowledged to the first, who also asked to compact.
        moment=$((RANDOM % 60000))
        [ $((round % 3)) != 0 ] || moment=$((RANDOM % 2000))
        arrived() { [ "$(wc -c <"$BATS_TEST_TMPDIR/acks.1")" -ge $moment ]; }
        while ! arrived; do :; done
        kill -s KILL "$PID"
        ended "$PID" 2>/dev/null || :
        [ ! -e "$DATA.kvss-new" ] || compacting=$((compacting + 1))
        wait "${jobs[@]}"
        serve --data "$DATA" --quiet --fsync "${modes[round % 3]}"
        for client in 1 2 3; do
            acks=$(tail -n +2 "$BATS_TEST_TMPDIR/acks.$client" | grep -c '^20[01] ' || :)
            [ "$(head -n 1 "$BATS_TEST_TMPDIR/acks.$client")" = "${values[client]}" ] || acks=0
            values[client]=$(ask "KV/1.0 GET c$client")
            read -r status _ n padding again <<<"${values[client]}"
            if [ "$status" != 200 ]; then n=0; else [ "$padding" = "$PADDING" ] && [ "$again" = "$n" ]; fi
            [ "$n" -ge $((counts[client] + acks)) ] || { echo "round $round: $n after ${counts[client]} and $acks more" >&2; false; }
            [ "$n" -le $((counts[client] + 20000)) ]
            acknowledged=$((acknowledged + acks))
            counts[client]=$n
        done
        [[ $(ask 'KV/1.0 STATS') =~ ^'200 OK keys=2000'[0-3]' ' ]]
    done
    echo "$acknowledged acknowledged, $compacting of $rounds crashes in a compaction"
    [ $compacting -ge 1 ]
    replies 'KV/1.0 GET ballast20000' '200 OK value20000'
}
