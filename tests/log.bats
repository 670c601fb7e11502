#!/usr/bin/env bats
# Beyond the lab: --data FILE, and the store outlives the server.

# shellcheck disable=SC2153 # PORT is set by serve
load helper

HEADER='# kvss data 1: the changes of a store, as requests'

setup_file() {
    if [ -x "$(command -v cc)" ]; then
        "$ROOT/tests/faults/build.bash" "$BATS_FILE_TMPDIR/kvss"
    fi
}

setup() {
    DATA=$BATS_TEST_TMPDIR/data
}

# crash: ends the server of now without warning. (coverage.bash has a signal for that which leaves
# what was counted.)
crash() {
    kill -s "${CRASH:-KILL}" "$PID"
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

# fails STATUS MESSAGE WORD...: kvss with these words ends so, having said just this.
fails() {
    run timeout -s KILL 60 "$KVSS" --port 0 "${@:3}"
    printed "kvss: $2"
    [ "$status" = "$1" ]
}

# set_clock SECONDS: the clock is wrong by that much, for servers that faulty starts.
set_clock() {
    export CLOCK=$BATS_TEST_TMPDIR/clock
    echo "$1" >"$CLOCK.new"
    mv "$CLOCK.new" "$CLOCK"
}

# faulty OPTION...: a server whose system calls fail as "$FAULTS" says, see faults/faults.c.
faulty() {
    [ -e "$BATS_FILE_TMPDIR/kvss" ] || skip "a C compiler is needed"
    export FAULTS=$BATS_TEST_TMPDIR/faults
    KVSS=$BATS_FILE_TMPDIR/kvss serve --data "$DATA" "$@"
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

says_log() {
    grep -q "$1" "$LOG"
}

@test "each change is a line of FILE, as the request that makes it; FILE is its owner's alone" {
    serve --data "$DATA"
    replies 'KV/1.0 PUT foo bar' '201 CREATED' \
            'KV/1.0 PUT foo  two words ' '200 OK' \
            'KV/1.0 GET foo' '200 OK  two words ' \
            'KV/1.0 DEL nobody' '404 NOT_FOUND' \
            'KV/1.0 PUT' '400 BAD_REQUEST' \
            'KV/1.0 PUT Hà Nội' '201 CREATED' \
            'KV/1.0 DEL foo' '204 NO_CONTENT' \
            'PUT foo bar' '426 UPGRADE_REQUIRED' \
            'KV/1.0 EXPIREAT Hà 9999999999' '200 OK' \
            'KV/1.0 EXPIRE nobody 10' '404 NOT_FOUND' \
            'KV/1.0 STATS some' '400 BAD_REQUEST'
    printf 'KV/1.0 PUT crlf v\r\n' | talk
    data 'KV/1.0 PUT foo bar' 'KV/1.0 PUT foo  two words ' 'KV/1.0 PUT Hà Nội' 'KV/1.0 DEL foo' \
         'KV/1.0 EXPIREAT Hà 9999999999' 'KV/1.0 PUT crlf v'
    [ "$(find "$DATA" -perm 600)" ]
}

@test "after kill -9 and after SIGTERM, the store is as it was" {
    serve --data "$DATA"
    grep -q '^kvss: replayed 0 lines in [0-9.]* s$' "$LOG"
    long=$(printf '%065519d' 7) # the longest: "KV/1.0 PUT long " and the LF make it 65,536 bytes
    ask 'KV/1.0 PUT foo bar' 'KV/1.0 PUT foo baz' 'KV/1.0 PUT gone x' 'KV/1.0 DEL gone' "KV/1.0 PUT long $long" \
        'KV/1.0 PUT late v' 'KV/1.0 EXPIRE late 1000'
    for how in KILL TERM; do
        kill -s $how "$PID"
        ended "$PID" || [ $how = KILL ]
        serve --data "$DATA"
        grep -q '^kvss: replayed 7 lines in [0-9.]* s$' "$LOG"
        replies 'KV/1.0 GET foo' '200 OK baz' \
                'KV/1.0 GET gone' '404 NOT_FOUND' \
                'KV/1.0 GET long' "200 OK $long"
        [[ $(ask 'KV/1.0 TTL late') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
        [[ $(ask 'KV/1.0 STATS all') == '200 OK keys=3 '*' PUT=0 '* ]]
    done
}

@test "FILE can be piped into another server" {
    serve --data "$DATA"
    ask 'KV/1.0 PUT foo bar' 'KV/1.0 PUT gone x' 'KV/1.0 DEL gone' 'KV/1.0 EXPIRE foo 1000' >/dev/null
    serve
    run talk <"$DATA"
    printed "$(printf '%s\n' '426 UPGRADE_REQUIRED' '201 CREATED' '201 CREATED' '204 NO_CONTENT' '200 OK')"
    replies 'KV/1.0 GET foo' '200 OK bar'
    [[ $(ask 'KV/1.0 TTL foo') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
}

@test "time goes on while the server is down" {
    serve --data "$DATA"
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 2' 'KV/1.0 PUT stays v' 'KV/1.0 EXPIRE stays 1000' \
        'KV/1.0 PUT again v' 'KV/1.0 EXPIRE again 2' 'KV/1.0 PUT again v' >/dev/null
    crash
    then=$(($(date +%s) + 3))
    past() { [ "$(date +%s)" -gt $then ]; }
    wait_until 10 past
    serve --data "$DATA"
    replies 'KV/1.0 GET k' '404 NOT_FOUND' \
            'KV/1.0 TTL again' '200 OK -1'
    [[ $(ask 'KV/1.0 TTL stays') =~ ^'200 OK 9'[0-9][0-9]$ ]]
    # A deletion of what has gone by itself is no error in FILE.
    printf 'KV/1.0 DEL k\nKV/1.0 EXPIREAT k 1\n' >>"$DATA"
    restart
    replies 'KV/1.0 GET stays' '200 OK v'
}

@test "a key whose time is past is a DEL in FILE, asked for or not, and stays gone whatever FILE says of its deadline" {
    changes=('KV/1.0 PUT asked v' 'KV/1.0 EXPIREAT asked 1' 'KV/1.0 PUT late v' 'KV/1.0 EXPIREAT late 9999999999'
        'KV/1.0 DEL late' 'KV/1.0 DEL nobody')
    printf '%s\n' "$HEADER" "${changes[@]}" >"$DATA"
    serve --data "$DATA"
    # The reply is there, so the line is.
    replies 'KV/1.0 GET asked' '404 NOT_FOUND' 'KV/1.0 GET late' '404 NOT_FOUND'
    data "${changes[@]}" 'KV/1.0 DEL asked'
    ask 'KV/1.0 PUT unasked v' 'KV/1.0 EXPIRE unasked 1' 'KV/1.0 PUT again v' 'KV/1.0 EXPIREAT again 1' 'KV/1.0 PUT again w' >/dev/null
    unasked() { [ "$(tail -n 1 "$DATA")" = 'KV/1.0 DEL unasked' ]; }
    wait_until 10 unasked
    [ "$(grep -A 2 'EXPIREAT again' "$DATA")" = "$(printf '%s\n' 'KV/1.0 EXPIREAT again 1' 'KV/1.0 DEL again' 'KV/1.0 PUT again w')" ]
    # By a clock that is behind, no deadline would be past.
    crash
    sed -i 's/EXPIREAT \([a-z]*\) .*/EXPIREAT \1 9999999999/' "$DATA"
    serve --data "$DATA"
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=1 '* ]]
    replies 'KV/1.0 GET again' '200 OK w'
}

# bats test_tags=shim
@test "a key that has gone stays gone with the clock an hour behind, after a full disk too" {
    faulty
    gone() {
        connect
        ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 1' >/dev/null
        [ -z "$1" ] || echo "$1" >"$FAULTS"
        wait_until 10 over 2>/dev/null
        hang_up "$FD"
    }
    over() { says "$FD" 'KV/1.0 GET k' '404 NOT_FOUND'; }
    back() {
        crash
        set_clock -3600
        faulty
        replies 'KV/1.0 GET k' '404 NOT_FOUND'
        crash
        set_clock 0
        faulty
    }
    gone ''
    back
    gone 'pwrite64 ENOSPC'
    rm "$FAULTS"
    deleted() { [ "$(tail -n 1 "$DATA")" = 'KV/1.0 DEL k' ]; }
    wait_until 20 deleted
    back
}

# bats test_tags=shim
@test "the clock is set: no deadline moves, and FILE gets them anew, at a stop too" {
    set_clock -1000000000
    faulty
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 1000' 'KV/1.0 PUT stays v' >/dev/null
    set_clock 0
    wait_until 20 says_log ' compact '
    says_log ' clock was set by \(1000000000\|999999999\) s; FILE gets its deadlines anew$'
    kept() {
        [[ $(ask 'KV/1.0 TTL k') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
        replies 'KV/1.0 GET stays' '200 OK v'
    }
    kept
    crash
    faulty
    kept
    # Set and stopped, at once.
    set_clock 1000000
    stop "$PID"
    faulty
    kept
}

@test "a deadline that was put off in time holds, though the first is past by the restart" {
    serve --data "$DATA"
    ask 'KV/1.0 PUT k v' 'KV/1.0 EXPIRE k 1' 'KV/1.0 EXPIRE k 1000' 'KV/1.0 PUT at v' 'KV/1.0 EXPIREAT at 9' \
        'KV/1.0 PUT brief v' 'KV/1.0 EXPIRE brief 1' >/dev/null
    wait_until 10 gets 'KV/1.0 GET brief' '404 NOT_FOUND'
    restart
    [[ $(ask 'KV/1.0 TTL k') =~ ^'200 OK 9'[0-9][0-9]$ ]]
    replies 'KV/1.0 GET brief' '404 NOT_FOUND' 'KV/1.0 GET at' '404 NOT_FOUND'
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=1 '* ]]
}

# bats test_tags=glibc
@test "FILE that is moved away: changes get 500 until it is back, and then none is missing" {
    serve --data "$DATA"
    gone=" error $DATA is gone; changes get 500 until it is back, or COMPACT writes it anew\$"
    well=" recover $DATA changes are made again\$"
    mv "$DATA" "$DATA.moved"
    # After a quiet time, the server looks before it takes a change.
    replies 'KV/1.0 PUT a 1' '500 SERVER_ERROR' 'KV/1.0 GET a' '404 NOT_FOUND' 'KV/1.0 PUT a 2' '500 SERVER_ERROR'
    mv "$DATA.moved" "$DATA"
    wait_until 20 says_log "$well"
    connect
    says "$FD" 'KV/1.0 PUT a 3' '201 CREATED'
    mv "$DATA" "$DATA.moved"
    # Within a second after a look, it may take one; FILE has it then, wherever FILE is.
    printf '%s\n' 'KV/1.0 PUT a 4' 'KV/1.0 GET a' >&"$FD"
    read -r -t 20 -u "$FD" _
    read -r -t 20 -u "$FD" _ _ value
    # It looks once more after the last change, even if nobody asks for anything.
    log_grows() { [ "$(grep -c "$gone" "$LOG")" = "$1" ]; }
    wait_until 20 log_grows 2
    says "$FD" 'KV/1.0 PUT a 5' '500 SERVER_ERROR'
    says "$FD" 'KV/1.0 GET a' "200 OK $value"
    [ "$(tail -n 1 "$DATA.moved")" = "KV/1.0 PUT a $value" ]
    status=0
    stop "$PID" || status=$?
    [ "$status" = 1 ]
    log_grows 2
    [ "$(grep -c "$well" "$LOG")" = 1 ]
}

# bats test_tags=glibc
@test "FILE that is deleted, or its folder moved away: COMPACT writes it anew" {
    gone=" error $BATS_TEST_TMPDIR/folder/data is gone;"
    for how in "rm $BATS_TEST_TMPDIR/folder/data" "mv $BATS_TEST_TMPDIR/folder $BATS_TEST_TMPDIR/moved"; do
        DATA=$BATS_TEST_TMPDIR/folder/data
        mkdir -p "$BATS_TEST_TMPDIR/folder"
        serve --data "$DATA"
        replies 'KV/1.0 PUT a 1' '201 CREATED'
        $how
        mkdir -p "$BATS_TEST_TMPDIR/folder"
        wait_until 20 says_log "$gone"
        replies 'KV/1.0 PUT b 1' '500 SERVER_ERROR' 'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until 20 says_log " recover $DATA changes are made again\$"
        wait_until 20 gets 'KV/1.0 PUT b 2' '201 CREATED'
        data 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2'
        restart
        replies 'KV/1.0 GET a' '200 OK 1' 'KV/1.0 GET b' '200 OK 2'
        stop "$PID"
        rm "$DATA"
    done
}

# bats test_tags=glibc
@test "FILE whose name something else has taken: that is not harmed" {
    for make in 'echo precious' "ln -s $DATA.moved $DATA" "ln -s $DATA.nowhere $DATA" "mkdir $DATA"; do
        serve --data "$DATA"
        mv "$DATA" "$DATA.moved"
        case $make in echo*) $make >"$DATA" ;; *) $make ;; esac
        ls -lid "$DATA" >"$BATS_TEST_TMPDIR/before"
        replies 'KV/1.0 PUT k w' '500 SERVER_ERROR' 'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until 20 says_log " error compaction $DATA: this file is in the way; move it\$"
        grep -q " error $DATA is another file now; changes get 500 until the right one is back\$" "$LOG"
        diff "$BATS_TEST_TMPDIR/before" <(ls -lid "$DATA")
        [ ! -e "$DATA.kvss-new" ]
        status=0
        stop "$PID" || status=$?
        [ "$status" = 1 ]
        diff "$BATS_TEST_TMPDIR/before" <(ls -lid "$DATA")
        rm -r "$DATA" "$DATA.moved"
    done
}

@test "a file named like FILE.kvss-new that is not kvss's own: it stays, and the server says so" {
    new=$DATA.kvss-new trouble="$DATA.kvss-new: this file is in the way; move it"
    # Each is tried while a server runs, where it must not compact, and then at a start.
    for make in 'echo precious' 'echo KV/1.0 PUT k v' "mkdir $new" "mkfifo $new" "ln -s $DATA $new" "ln $DATA $new" \
        "ln -s /dev/null $new"; do
        serve --data "$DATA"
        ask 'KV/1.0 PUT k v'
        case $make in echo*) $make >"$new" ;; *) $make ;; esac
        ls -lid "$new" >"$BATS_TEST_TMPDIR/before"
        replies 'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until 20 says_log " error compaction $trouble\$"
        # A second server would be let in, had the lock been dropped.
        fails 1 "$DATA is in use by another kvss" --data "$DATA"
        diff "$BATS_TEST_TMPDIR/before" <(ls -lid "$new")
        rm -r "$new"
        stop "$PID"
    done
    cp "$DATA" "$DATA.2"
    for repair in '' --repair; do
        echo precious >"$DATA.2.kvss-new"
        fails 1 "$DATA.2.kvss-new: this file is in the way; move it" --data "$DATA.2" $repair
        [ "$(cat "$DATA.2.kvss-new")" = precious ]
        # What a compaction left that was killed at any moment is no such file.
        for left in '' '# kvss' "$HEADER" "$HEADER"$'\nKV/1.0 PUT k'; do
            printf '%s' "$left" >"$DATA.2.kvss-new"
            serve --data "$DATA.2" $repair
            [ ! -e "$DATA.2.kvss-new" ]
            stop "$PID"
        done
    done
}

@test "a file named like FILE.kvss-new that another server has open stays" {
    serve --data "$DATA.kvss-new"
    ask 'KV/1.0 PUT k v'
    fails 1 "$DATA.kvss-new: this file is in the way; move it" --data "$DATA"
    [ "$(tail -n 1 "$DATA.kvss-new")" = 'KV/1.0 PUT k v' ]
}

@test "FILE keeps its rights when it is written anew" {
    serve --data "$DATA"
    chmod 640 "$DATA"
    ask 'KV/1.0 COMPACT'
    wait_until 20 says_log ' compact '
    [ "$(find "$DATA" -perm 640)" ]
}

@test "a second server on FILE is refused, by any name of it, until the first has ended" {
    serve --data "$DATA"
    ln -s data "$BATS_TEST_TMPDIR/link"
    for name in "$DATA" "$BATS_TEST_TMPDIR/link" "$BATS_TEST_TMPDIR/./data"; do
        fails 1 "$name is in use by another kvss" --data "$name"
    done
    ask 'KV/1.0 PUT k v'
    # When FILE is another one, it's that which is locked.
    ask 'KV/1.0 COMPACT'
    wait_until 20 says_log ' compact '
    fails 1 "$DATA is in use by another kvss" --data "$DATA"
    crash
    serve --data "$BATS_TEST_TMPDIR/link"
    replies 'KV/1.0 GET k' '200 OK v' 'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until 20 says_log ' compact '
    [ -L "$BATS_TEST_TMPDIR/link" ] && [ ! -L "$DATA" ]
}

@test "what is not a data file stays as it is, and the server does not start" {
    for text in x 'precious\n' '# kvss data 2: the changes\n' 'KV/1.0 PUT foo bar\n' '# kvss dat\n' '\0' "$(printf '%3000000s' '' | tr ' ' x)"; do
        printf '%b' "$text" >"$DATA"
        cp "$DATA" "$DATA.before"
        for repair in '' --repair; do
            run "$KVSS" --port 0 --data "$DATA" $repair
            [ "$status" = 1 ]
            case $output in
            "kvss: $DATA is not a data file of kvss") ;;
            "kvss: $DATA, line 1: a data file of kvss begins with '$HEADER'") ;;
            *) echo "$output" >&2; false ;;
            esac
            cmp "$DATA" "$DATA.before"
        done
    done
    fails 1 "$BATS_TEST_TMPDIR: Is a directory" --data "$BATS_TEST_TMPDIR"
    fails 1 "$BATS_TEST_TMPDIR/no/data: No such file or directory" --data "$BATS_TEST_TMPDIR/no/data"
    fails 1 '/dev/null is not a regular file' --data /dev/null
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    fails 1 "$BATS_TEST_TMPDIR/fifo is not a regular file" --data "$BATS_TEST_TMPDIR/fifo"
}

@test "--fsync and --repair: what they take" {
    for when in always everysec no; do
        serve --data "$BATS_TEST_TMPDIR/$when" --fsync $when
        replies 'KV/1.0 PUT k v' '201 CREATED'
        stop "$PID"
        grep -q '^KV/1.0 PUT k v$' "$BATS_TEST_TMPDIR/$when"
    done
    fails 2 "fsync: 'never' is not always, everysec or no" --fsync never
    fails 2 'fsync: WHEN is empty' --fsync=
    fails 2 'repair: --data FILE is missing' --repair
    for fsync in always everysec no; do
        serve --data "$DATA.$fsync" --fsync $fsync
        replies 'KV/1.0 PUT k v' '201 CREATED'
        stop "$PID"
        [ "$(tail -n 1 "$DATA.$fsync")" = 'KV/1.0 PUT k v' ]
    done
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
        grep -q "^${wanted}[0-9.]* s\$" "$LOG" || { echo "cut at $cut: $wanted" >&2; head -n 1 "$LOG" >&2; false; }
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

@test "a bad line: the server names it and does not start; --repair moves it to FILE.bad" {
    for bad in 'KV/1.0 PUT onlykey' 'GET foo' 'KV/1.0 GET foo' 'KV/1.0 QUIT' 'KV/1.0 MANAGE 1 PUT k v' '' \
        'KV/1.0 EXPIRE foo 100' 'KV/1.0 EXPIREAT foo soon' 'KV/1.0 CREATE bob' "$HEADER" $'KV/1.0 PUT \xff x' \
        "KV/1.0 PUT $(printf '%0300d' 1) v" "KV/1.0 PUT k $(printf '%065523d' 1)" "KV/1.0 PUT k $(printf '%0300000d' 1)"; do
        rm -f "$DATA".*
        printf '%s\n' "$HEADER" 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2' "$bad" 'KV/1.0 PUT b 3' >"$DATA"
        run "$KVSS" --port 0 --data "$DATA"
        [ "$status" = 1 ]
        [[ $output == "kvss: $DATA, line 4: "*"; --repair moves such lines to $DATA.bad" ]]
        [ "${#lines[@]}" = 1 ]
        [ ! -e "$DATA.bad" ] && [ ! -e "$DATA.kvss-new" ]
        serve --data "$DATA" --repair
        grep -q "^kvss: replayed 3 lines, 1 bad line moved to $DATA.bad, in [0-9.]* s\$" "$LOG"
        replies 'KV/1.0 GET a' '200 OK 2' 'KV/1.0 GET b' '200 OK 3' 'KV/1.0 LIST' '200 OK'
        diff <(printf '%s\n' "$bad") "$DATA.bad"
        data 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2' 'KV/1.0 PUT b 3'
        [ "$(find "$DATA.bad" -perm 600)" ]
        restart
        crash
    done
}

@test "--repair: bad lines are added to those of before, a torn one too; nothing bad, nothing moved" {
    printf '%s\nKV/1.0 PUT a 1\nx\n\ny\nKV/1.0 PUT b 2\nKV/1.0 PUT c 3' "$HEADER" >"$DATA"
    echo before >"$DATA.bad"
    serve --data "$DATA" --repair
    grep -q '^kvss: replayed 2 lines, 4 bad lines moved to ' "$LOG"
    diff <(printf '%s\n' before x '' y 'KV/1.0 PUT c 3') "$DATA.bad"
    data 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2'
    restart --repair
    grep -q '^kvss: replayed 2 lines in ' "$LOG"
    [ "$(wc -l <"$DATA.bad")" = 5 ]
    replies 'KV/1.0 GET c' '404 NOT_FOUND' 'KV/1.0 GET b' '200 OK 2' 'KV/1.0 PUT d 4' '201 CREATED'
    data 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2' 'KV/1.0 PUT d 4'
    [ ! -e "$DATA.kvss-new" ]
}

@test "--repair: FILE.bad is a regular file or none, and is not another name of FILE; or nothing is changed" {
    printf '%s\nKV/1.0 PUT a 1\nx\nKV/1.0 PUT b 2\n' "$HEADER" >"$DATA"
    cp "$DATA" "$DATA.before"
    echo precious >"$DATA.other"
    for make in 'mkfifo' 'mkdir' "ln -s $DATA.other" "ln -s $DATA.none" "ln -s $DATA" "ln $DATA" 'ln -s /dev/null'; do
        $make "$DATA.bad"
        fails 1 "$DATA.bad: this file is in the way; move it" --data "$DATA" --repair
        cmp "$DATA" "$DATA.before"
        [ "$(cat "$DATA.other")" = precious ] && [ ! -e "$DATA.none" ] && [ ! -e "$DATA.kvss-new" ]
        rm -r "$DATA.bad"
    done
    serve --data "$DATA" --repair
    [ "$(cat "$DATA.bad")" = x ]
}

# bats test_tags=crypt
@test "a signal to stop ends the replay, and FILE is as it was" {
    perl -MPOSIX -e 1 2>/dev/null || skip "perl is needed"
    # A blocked signal is still pending after exec: it is there before the replay begins.
    # shellcheck disable=SC2016 # the variables are perl's
    script='my $signal = shift; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGINT, SIGTERM)); kill $signal, $$; exec @ARGV'
    printf '%s\n' "$HEADER" 'KV/1.0 PUT a 1' 'bad' >"$DATA"
    printf '%s\n%s' "$HEADER" 'KV/1.0 PUT torn' >"$DATA.torn"
    cp "$DATA" "$DATA.copy"
    cp "$DATA.torn" "$DATA.torn.copy"
    for signal in INT TERM; do
        for words in "$DATA.torn" "$DATA.torn --repair" "$DATA --repair"; do
            file=${words% *}
            # shellcheck disable=SC2086 # words
            run timeout -s KILL 60 perl -MPOSIX -e "$script" $signal "$KVSS" --port 0 --data $words
            printed "kvss: SIG$signal ends the replay; $file is as it was"
            [ "$status" = 0 ]
            cmp "$file" "$file.copy"
            [ ! -e "$file.kvss-new" ]
            [ ! -e "$file.bad" ]
        done
    done
}

@test "the store that all share is logged: what MANAGE does there, but no private store and no mailbox" {
    echo "boss:$(openssl passwd -6 secret)" >"$BATS_TEST_TMPDIR/managers"
    chmod 600 "$BATS_TEST_TMPDIR/managers"
    serve --data "$DATA" --managers "$BATS_TEST_TMPDIR/managers"
    connect; boss=$FD
    printf 'KV/1.0 WHOAMI\n' >&"$boss"
    read -r -t 20 -u "$boss" _ _ _ port
    says "$boss" 'KV/1.0 AUTH boss secret' '200 OK manager'
    says "$boss" "KV/1.0 MANAGE $port PUT k v" '201 CREATED'
    says "$boss" "KV/1.0 MANAGE $port GET k" '200 OK v'
    says "$boss" "KV/1.0 MANAGE $port DEL k" '204 NO_CONTENT'
    says "$boss" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$boss" 'KV/1.0 SEND bob hello' '202 ACCEPTED'
    says "$boss" 'KV/1.0 DELETE bob' '204 NO_CONTENT'
    hang_up "$boss"
    data 'KV/1.0 PUT k v' 'KV/1.0 DEL k'
    DATA=$BATS_TEST_TMPDIR/private
    serve --data "$DATA" --private --quiet
    # An operator who gives both may expect something else.
    [ "$(head -n 1 "$LOG")" = "kvss: with --private, nothing that clients store is kept in $DATA" ]
    replies 'KV/1.0 PUT k v' '201 CREATED' 'KV/1.0 EXPIRE k 100' '200 OK' 'KV/1.0 DEL k' '204 NO_CONTENT'
    data
}

@test "COMPACT: 202, and FILE has what the store needs; 404 without --data" {
    serve --data "$DATA"
    { seq 1 1000 | sed 's/.*/KV\/1.0 PUT k& v&/'; seq 11 1000 | sed 's/.*/KV\/1.0 DEL k&/'
        echo 'KV/1.0 EXPIREAT k3 9999999999'; } | talk >/dev/null
    replies 'KV/1.0 COMPACT' '202 ACCEPTED' 'KV/1.0 COMPACT now' '400 BAD_REQUEST'
    wait_until 20 says_log ' compact '
    # Two clocks are read, one after the other; so a deadline may be off by a millisecond.
    diff <(seq 1 10 | sed 's/.*/KV\/1.0 PUT k& v&/' | cat - <(echo 'KV/1.0 EXPIREAT k3 9999999999.000') | sort) \
        <(tail -n +2 "$DATA" | sed 's/9999999998.999/9999999999.000/; s/9999999999.001/9999999999.000/' | sort)
    [ "$(find "$DATA" -perm 600)" ]
    [ ! -e "$DATA.kvss-new" ]
    ask 'KV/1.0 PUT after it' 'KV/1.0 DEL k1'
    restart
    grep -q '^kvss: replayed 13 lines in ' "$LOG"
    replies 'KV/1.0 GET after' '200 OK it' 'KV/1.0 GET k1' '404 NOT_FOUND' 'KV/1.0 GET k10' '200 OK v10'
    serve
    replies 'KV/1.0 COMPACT' '404 NOT_FOUND'
}

@test "a copy of FILE stays as it is: another name of it, and one that is open" {
    serve --data "$DATA"
    seq 1 60000 | sed 's/.*/KV\/1.0 PUT k value &/' | talk >/dev/null
    wait_until 20 says_log ' compact '
    seq 1 1000 | sed 's/.*/KV\/1.0 PUT k value &/' | talk >/dev/null
    ln "$DATA" "$DATA.name"
    cp "$DATA" "$DATA.before"
    exec 8<"$DATA"
    compactions=$(grep -c ' compact ' "$LOG")
    ask 'KV/1.0 COMPACT'
    one_more() { [ "$(grep -c ' compact ' "$LOG")" -gt "$compactions" ]; }
    wait_until 20 one_more
    cmp "$DATA.name" "$DATA.before"
    cmp - "$DATA.before" <&8
    exec 8<&-
    data 'KV/1.0 PUT k value 1000'
}

@test "COMPACT is for everybody, and joins the compaction that goes on or is due" {
    serve --data "$DATA"
    ask 'KV/1.0 PUT k 1' 'KV/1.0 COMPACT' >/dev/null
    wait_until 20 says_log ' compact '
    # One turn of the loop reads all of these. Then there is one compaction, and not eight.
    for i in {2..9}; do printf 'KV/1.0 PUT k %d\nKV/1.0 COMPACT\n' "$i"; done >"$BATS_TEST_TMPDIR/requests"
    [ "$(talk <"$BATS_TEST_TMPDIR/requests" | sort | uniq -c | tr -d '\n')" = '      8 200 OK      8 202 ACCEPTED' ]
    compacted() { [ "$(cat "$DATA")" = "$HEADER"$'\nKV/1.0 PUT k 9' ]; }
    wait_until 20 compacted
    [ "$(grep -c ' compact ' "$LOG")" = 2 ]
}

@test "after three compactions: no child is left, no descriptor, and no work" {
    serve --data "$DATA"
    ask 'KV/1.0 PUT k v'
    ask 'KV/1.0 COMPACT'
    wait_until 20 says_log ' compact '
    descriptors=$(find "/proc/$PID/fd" 2>/dev/null | wc -l)
    for i in 2 3; do
        ask 'KV/1.0 COMPACT' >/dev/null
        so_many() { [ "$(grep -c ' compact ' "$LOG")" -ge "$i" ]; }
        wait_until 20 so_many
    done
    alone() { [ -z "$(pgrep -P "$PID")" ]; }
    wait_until 20 alone
    [ "$(find "/proc/$PID/fd" 2>/dev/null | wc -l)" -le "$descriptors" ]
    used=$(ps -o cputimes= -p "$PID")
    ask 'KV/1.0 EXPIRE k 2'
    wait_until 10 gets 'KV/1.0 GET k' '404 NOT_FOUND'
    instrumented || [ "$(ps -o cputimes= -p "$PID")" -le $((used + 1)) ]
}

# limited WORD...: kvss, with no more than 40 descriptors. To be run in a shell of its own.
limited() {
    ulimit -n 40
    exec "$ROOT/kvss" "$@"
}

@test "compaction has descriptors left, however many clients there are" {
    KVSS=limited serve --data "$DATA"
    for _ in {1..40}; do connect; fds+=("$FD"); done
    wait_until 20 says_log ' refuse '
    says "${fds[0]}" 'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until 20 says_log ' compact '
    hang_up "${fds[@]}"
}

@test "compaction begins by itself: over 1 MiB, and over twice what the store needs" {
    serve --data "$DATA"
    value=$(printf '%01000d' 0)
    # 1,000 keys, then the same again and again. A megabyte is there by then, and half of it is old.
    for _ in 1 2 3; do seq 1 1000 | sed "s/.*/KV\/1.0 PUT k& $value/" | talk >/dev/null; done
    wait_until 20 says_log ' compact '
    smaller() { [ "$(wc -c <"$DATA")" -lt 2100000 ]; }
    wait_until 20 smaller
    restart
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=1000 '* ]]
    replies 'KV/1.0 GET k777' "200 OK $value"
}

@test "FILE stays under 128 MiB while one key of a small store is changed again and again" {
    serve --data "$DATA"
    connect
    yes "KV/1.0 PUT k $(printf '%060000d' 0)" | head -n 4000 | talk >"$BATS_TEST_TMPDIR/flood" &
    flood=$!
    most=0
    while kill -0 "$flood" 2>/dev/null; do
        size=$(wc -c <"$DATA")
        [ "$size" -le "$most" ] || most=$size
        # Whoever only reads goes on.
        says "$FD" 'KV/1.0 GET other' '404 NOT_FOUND'
        sleep 0.01
    done
    wait "$flood"
    hang_up "$FD"
    [ "$most" -le $((1 << 27)) ]
    [ "$(grep -c '^20[01] ' "$BATS_TEST_TMPDIR/flood")" = 4000 ]
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
    wait_until 20 gone
    everything() { { seq 1 200000 | sed 's/.*/KV\/1.0 GET k&/'; seq 1 3000 | sed 's/.*/KV\/1.0 GET n&/'; seq 1 200000 | sed 's/.*/KV\/1.0 TTL k&/'; } | talk | sed 's/^200 OK [0-9]\{10\}$/long/'; }
    everything >"$BATS_TEST_TMPDIR/before"
    crash
    serve --data "$DATA"
    everything | cmp - "$BATS_TEST_TMPDIR/before"
}

@test "compaction that can't be: the log says so, and the server goes on with FILE" {
    serve --data "$DATA"
    mkdir "$DATA.kvss-new"
    replies 'KV/1.0 PUT k v' '201 CREATED' 'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until 20 says_log ' error compaction .*: this file is in the way; move it$'
    rmdir "$DATA.kvss-new"
    replies 'KV/1.0 PUT k w' '200 OK' 'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until 20 says_log ' compact '
    restart
    replies 'KV/1.0 GET k' '200 OK w'
}

@test "compaction whose child is killed, and a stop while it goes on: FILE stays whole, FILE.kvss-new goes" {
    serve --data "$DATA" --quiet
    seq 1 300000 | sed 's/.*/KV\/1.0 PUT key& value&/' | talk >/dev/null
    killed() {
        ask 'KV/1.0 COMPACT' >/dev/null
        child=$(pgrep -P "$PID" || :)
        [ -z "$child" ] || kill -s KILL "$child"
        says_log ' error compaction the child has died$'
    }
    wait_until 20 killed
    replies 'KV/1.0 GET key300000' '200 OK value300000' 'KV/1.0 PUT new v' '201 CREATED'
    ask 'KV/1.0 COMPACT'
    wait_until 60 test -e "$DATA.kvss-new"
    stop "$PID"
    [ ! -e "$DATA.kvss-new" ]
    serve --data "$DATA"
    grep -q '^kvss: replayed 300,001 lines in ' "$LOG"
}

@test "clients leave while a child has their descriptors, and see the end at once" {
    serve --data "$DATA" --quiet
    seq 1 300000 | sed 's/.*/KV\/1.0 PUT key& value&/' | talk >/dev/null
    ask 'KV/1.0 COMPACT' >/dev/null
    while [ ! -e "$DATA.kvss-new" ]; do :; done
    # talk ends when the server closes.
    for _ in 1 2 3 4 5; do replies 'KV/1.0 GET key1' '200 OK value1'; done
}

@test "a full disk: what can't be written gets 500, what can be read is, and writes come back by themselves" {
    command -v prlimit >/dev/null || skip "prlimit is needed: apt-get install util-linux"
    serve --data "$DATA"
    # The limit is for every file that the server writes, so FILE is made longer than its other log.
    ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2' "KV/1.0 PUT long $(printf '%050000d' 0)"
    before=$(cat "$DATA")
    prlimit --pid "$PID" --fsize=$(($(wc -c <"$DATA") + 10)):unlimited
    # The whole turn is not written, so all of its changes are broken promises, and nothing else.
    replies 'KV/1.0 GET a' '200 OK 1' \
            'KV/1.0 PUT a 3' '500 SERVER_ERROR' \
            'KV/1.0 PUT c 3' '500 SERVER_ERROR' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 DEL b' '500 SERVER_ERROR' \
            'KV/1.0 GET c' '200 OK 3'
    [ "$(cat "$DATA")" = "$before" ]
    replies 'KV/1.0 PUT d 4' '500 SERVER_ERROR' \
            'KV/1.0 GET d' '404 NOT_FOUND' \
            'KV/1.0 EXPIRE a 10' '500 SERVER_ERROR' \
            'KV/1.0 GET a' '200 OK 3'
    [ "$(grep -c " error $DATA File too large; from now on changes get 500\$" "$LOG")" = 1 ]
    # A crash now: what was promised is there.
    cp "$DATA" "$DATA.crashed"
    prlimit --pid "$PID" --fsize=unlimited:unlimited
    wait_until 20 gets 'KV/1.0 PUT d 4' '201 CREATED'
    grep -q " recover $DATA changes are made again\$" "$LOG"
    restart
    replies 'KV/1.0 GET a' '200 OK 3' 'KV/1.0 GET b' '404 NOT_FOUND' 'KV/1.0 GET c' '200 OK 3' 'KV/1.0 GET d' '200 OK 4'
    mv "$DATA.crashed" "$DATA"
    restart
    replies 'KV/1.0 GET a' '200 OK 1' 'KV/1.0 GET b' '200 OK 2' 'KV/1.0 GET c' '404 NOT_FOUND'
}

@test "a full disk and --verbose: the log says which reply became a 500" {
    command -v prlimit >/dev/null || skip "prlimit is needed: apt-get install util-linux"
    serve --data "$DATA" --verbose
    ask "KV/1.0 PUT long $(printf '%050000d' 0)"
    prlimit --pid "$PID" --fsize=50100:unlimited
    replies "KV/1.0 PUT a $(printf '%01000d' 0)" '500 SERVER_ERROR'
    run sed -n 's/^[^ ]* \(reply\|revoke\) 127\.0\.0\.1:[0-9]* /\1 /p' "$LOG"
    printed $'reply 201 CREATED\nreply 201 CREATED\nrevoke 500 SERVER_ERROR'
    prlimit --pid "$PID" --fsize=unlimited:unlimited
}

@test "more than a megabyte of changes in a turn: all are kept" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve --data "$DATA" --quiet
    kill -s STOP "$PID"
    fds=()
    for i in {1..120}; do
        connect
        fds+=("$FD")
        seq 1 15 | sed "s/.*/KV\/1.0 PUT k$i-& $(printf '%01000d' 0)/" >&"$FD"
    done
    # The kernel has taken it all, while the server sleeps.
    arrived() { [ "$(ss -tnH "sport = :$PORT" | awk '{ n += $2 } END { print n }')" -ge 1800000 ]; }
    wait_until 20 arrived
    kill -s CONT "$PID"
    for fd in "${fds[@]}"; do
        hears "$fd" '201 CREATED' '201 CREATED' '201 CREATED'
    done
    hang_up "${fds[@]}"
    restart
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=1800 '* ]]
}

@test "a full disk under many clients: acknowledged or not, and a restart agrees" {
    command -v prlimit >/dev/null || skip "prlimit is needed: apt-get install util-linux"
    serve --data "$DATA" --quiet
    prlimit --pid "$PID" --fsize=300000:unlimited
    clients=()
    for client in 1 2 3 4 5 6; do
        (seq 1 3000 | sed "s/.*/KV\/1.0 PUT c$client-& v&-v&/" | talk >"$BATS_TEST_TMPDIR/acks.$client") 3>&- &
        clients+=($!)
    done
    wait "${clients[@]}"
    [ "$(grep -c . "$LOG")" -ge 2 ]
    [ "$(wc -c <"$DATA")" -le 300000 ]
    restart --quiet
    for client in 1 2 3 4 5 6; do
        [ "$(wc -l <"$BATS_TEST_TMPDIR/acks.$client")" = 3000 ]
        [ "$(grep -c -v -e '^201 CREATED$' -e '^500 SERVER_ERROR$' "$BATS_TEST_TMPDIR/acks.$client")" = 0 ]
        seq 1 3000 | sed "s/.*/KV\/1.0 GET c$client-&/" | talk >"$BATS_TEST_TMPDIR/now"
        # 201: there, and whole. 500: not there, since it was cut off at once.
        paste -d ' ' "$BATS_TEST_TMPDIR/acks.$client" "$BATS_TEST_TMPDIR/now" |
            awk '{ n++ } /^201/ { if ($0 != "201 CREATED 200 OK v" n "-v" n) exit 1 } /^500/ { if ($3 != 404) exit 1 }'
    done
    grep -q '^500' "$BATS_TEST_TMPDIR"/acks.*
    grep -q '^201' "$BATS_TEST_TMPDIR"/acks.*
}

# bats test_tags=shim
@test "write() fails, or falls short: 500, and nothing of it in FILE" {
    faulty
    ask 'KV/1.0 PUT a 1'
    for how in EIO ENOSPC HALF HALF; do
        size=$(wc -c <"$DATA")
        echo "pwrite64 $how" >"$FAULTS"
        replies 'KV/1.0 PUT a 2' '500 SERVER_ERROR' 'KV/1.0 GET a' '200 OK 2' 'KV/1.0 PUT b 1' '500 SERVER_ERROR'
        [ "$(wc -c <"$DATA")" = "$size" ]
        rm "$FAULTS"
        wait_until 20 gets 'KV/1.0 PUT a 3' '200 OK'
        [ "$(tail -n 3 "$DATA")" = "$(printf 'KV/1.0 PUT a 2\nKV/1.0 PUT b 1\nKV/1.0 PUT a 3')" ]
    done
    restart
    replies 'KV/1.0 GET a' '200 OK 3'
}

# bats test_tags=shim
@test "fsync() fails: 500, until FILE is written anew" {
    for fault in 'always fsync' 'everysec fsync' 'everysec aio_error64'; do
        DATA=$BATS_TEST_TMPDIR/${fault/ /.}
        faulty --fsync "${fault% *}"
        ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2' 'KV/1.0 PUT a 3' >/dev/null
        break_sync
        [[ $fault != *aio* ]] || echo 'aio_error64 EIO' >"$FAULTS"
        case $fault in
        always*) replies 'KV/1.0 PUT a 3' '500 SERVER_ERROR' 'KV/1.0 GET a' '200 OK 3' ;;
        *) wait_until 20 gets 'KV/1.0 PUT a 3' '500 SERVER_ERROR' ;;
        esac
        replies 'KV/1.0 PUT b 1' '500 SERVER_ERROR' 'KV/1.0 COMPACT' '202 ACCEPTED' 'KV/1.0 PUT b 1' '500 SERVER_ERROR'
        [ "$(grep -c " error $DATA Input/output error; from now on changes get 500\$" "$LOG")" = 1 ]
        rm "$FAULTS"
        wait_until 20 gets 'KV/1.0 PUT b 4' '201 CREATED'
        grep -q ' compact ' "$LOG"
        grep -q " recover $DATA changes are made again\$" "$LOG"
        data 'KV/1.0 PUT a 3' 'KV/1.0 PUT b 4'
        restart
        replies 'KV/1.0 GET a' '200 OK 3' 'KV/1.0 GET b' '200 OK 4'
    done
}

# bats test_tags=shim
@test "--fsync no never syncs, and a disk that can't is no matter" {
    faulty --fsync no
    break_sync
    replies 'KV/1.0 PUT a 1' '201 CREATED'
    # More than a second later:
    ask 'KV/1.0 EXPIRE a 2'
    wait_until 10 gets 'KV/1.0 GET a' '404 NOT_FOUND'
    replies 'KV/1.0 PUT b 1' '201 CREATED'
}

# bats test_tags=shim
@test "rename() or fork() fails: FILE goes on as it is" {
    for call in rename fork; do
        DATA=$BATS_TEST_TMPDIR/$call
        faulty
        echo "$call EIO" >"$FAULTS"
        replies 'KV/1.0 PUT a 1' '201 CREATED' 'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until 20 says_log ' error compaction Input/output error$'
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
    faulty
    ask 'KV/1.0 PUT a 1'
    break_sync
    ask 'KV/1.0 PUT a 2'
    kill "$PID"
    status=0
    ended "$PID" || status=$?
    [ "$status" = 1 ]
    grep -q " error $DATA Input/output error" "$LOG"
}

@test "20,000 random commands, a crash, and the model's store" {
    serve --data "$DATA" --quiet
    awk 'BEGIN { srand(11); for (i = 0; i < 20000; i++) { key = "k" int(rand() * 500); what = rand()
        if (what < 0.6) print "KV/1.0 PUT " key " value " i
        else if (what < 0.8) print "KV/1.0 DEL " key
        else if (what < 0.9) print "KV/1.0 EXPIRE " key " 100000"
        else if (what < 0.92) print "KV/1.0 EXPIREAT " key " 1000"
        else if (what < 0.9203) print "KV/1.0 COMPACT"
        else print "KV/1.0 GET " key } }' | talk >/dev/null
    everything() { seq 0 499 | sed 's/.*/KV\/1.0 GET k&\nKV\/1.0 TTL k&/' | talk | sed 's/^200 OK [0-9]*$/later/'; }
    everything >"$BATS_TEST_TMPDIR/before"
    [ "$(sort -u "$BATS_TEST_TMPDIR/before" | wc -l)" -gt 200 ]
    restart --quiet
    everything | cmp - "$BATS_TEST_TMPDIR/before"
}

@test "a terminal sees how far the replay is, if FILE is long" {
    command -v expect >/dev/null || skip "expect is needed: apt-get install expect"
    { echo "$HEADER"; seq 1 400000 | sed 's/.*/KV\/1.0 PUT key& value&/'; } >"$DATA"
    run expect -c "
        set timeout 600
        spawn $KVSS --port 0 --data $DATA
        expect -re {replaying, 100 %} {} timeout { exit 1 }
        expect -re {kvss: replayed 400,000 lines in [0-9.]+ s} {} timeout { exit 1 }
        expect {listening on} {} timeout { exit 1 }
        exec kill [exp_pid]
        expect {goodbye} {} timeout { exit 1 }" 3>&-
    echo "$output" | cat -v
    [ "$status" = 0 ]
    serve --data "$DATA"
    [ "$(head -n 1 "$LOG" | sed 's/ in .*//')" = 'kvss: replayed 400,000 lines' ]
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
