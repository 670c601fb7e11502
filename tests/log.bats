#!/usr/bin/env bats
# Beyond the lab: with --data FILE, each change of the store is a line of FILE, and the store outlives the server.
# FILE stays whole and short, whatever happens to the server, to the disk and to FILE.

# shellcheck disable=SC2153 # PORT is set by serve
load helper
load watch
load log

setup() {
    DATA=$BATS_TEST_TMPDIR/data
}

# fails STATUS MESSAGE WORD...: kvss with these words ends so, having said just this.
fails() {
    run timeout -s KILL "$PATIENCE" "$KVSS" --port 0 "${@:3}"
    printed "kvss: $2"
    [ "$status" = "$1" ]
}

# fails_at_stop: the server ends with status 1.
fails_at_stop() {
    local status=0
    kill "$PID"
    ended "$PID" || status=$?
    [ $status = 1 ]
}

# ends_with LINE: whether that is the last line of FILE.
ends_with() {
    [ "$(tail -n 1 "$DATA")" = "$1" ]
}

# compacted [N]: the server has written FILE anew, so many times.
compacted() {
    logged ' compact ' "${1-1}"
}

# soon: sets SOON to a time of day, for EXPIREAT, that is past in a moment.
soon() {
    local ms=$((${EPOCHREALTIME/./} / 1000 + 300))
    SOON=${ms%???}.${ms: -3}
}

# bats test_tags=expiry
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
            'KV/1.0 STATS some' '400 BAD_REQUEST' \
            $'KV/1.0 PUT crlf v\r' '201 CREATED'
    data 'KV/1.0 PUT foo bar' 'KV/1.0 PUT foo  two words ' 'KV/1.0 PUT Hà Nội' 'KV/1.0 DEL foo' \
         'KV/1.0 EXPIREAT Hà 9999999999' 'KV/1.0 PUT crlf v'
    [ "$(find "$DATA" -perm 600)" ]
}

# bats test_tags=expiry
@test "after kill -9 and after SIGTERM, the store is as it was; and FILE can be piped into another server" {
    serve --data "$DATA"
    logged 'kvss: replayed 0 lines in '
    long=$(printf '%065519d' 7) # the longest: "KV/1.0 PUT long " and the LF make it 65,536 bytes
    ask 'KV/1.0 PUT foo bar' 'KV/1.0 PUT foo baz' 'KV/1.0 PUT gone x' 'KV/1.0 DEL gone' "KV/1.0 PUT long $long" \
        'KV/1.0 PUT late v' 'KV/1.0 EXPIRE late 1000' >/dev/null
    for how in KILL TERM; do
        kill -s $how "$PID"
        ended "$PID" 2>/dev/null || [ $how = KILL ]
        serve --data "$DATA"
        logged 'kvss: replayed 7 lines in '
        replies 'KV/1.0 GET foo' '200 OK baz' \
                'KV/1.0 GET gone' '404 NOT_FOUND' \
                'KV/1.0 GET long' "200 OK $long" \
                'KV/1.0 STATS all' '200 OK keys=3 *'
        [[ $(ask 'KV/1.0 STATS all') == *' PUT=0 '* ]]
        [[ $(ask 'KV/1.0 TTL late') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
    done
    serve
    run talk <"$DATA"
    printed "$(printf '%s\n' '426 UPGRADE_REQUIRED' '201 CREATED' '200 OK' '201 CREATED' '204 NO_CONTENT' '201 CREATED' '201 CREATED' '200 OK')"
    replies 'KV/1.0 GET foo' '200 OK baz'
    [[ $(ask 'KV/1.0 TTL late') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
}

# bats test_tags=expiry
@test "a FILE that version 1.0.0 has written is replayed" {
    cp "$ROOT/tests/log-1.0.0" "$DATA"
    serve --data "$DATA"
    replies 'KV/1.0 GET city' '200 OK Huế' \
            'KV/1.0 GET foo' '200 OK two  words' \
            'KV/1.0 TTL gone' '404 NOT_FOUND' \
            'KV/1.0 GET tab' $'200 OK a\tb' \
            'KV/1.0 TTL tab' '200 OK -1' \
            'KV/1.0 TTL city' '200 OK *'
    head -n 11 "$DATA" | cmp - "$ROOT/tests/log-1.0.0"
}

# bats test_tags=expiry
@test "time goes on while the server is down; a key whose time is past is a DEL in FILE, asked for or not" {
    # A deletion of what has gone by itself is no error in FILE.
    changes=('KV/1.0 PUT asked v' 'KV/1.0 EXPIREAT asked 1' 'KV/1.0 PUT late v' 'KV/1.0 EXPIREAT late 9999999999'
        'KV/1.0 DEL late' 'KV/1.0 DEL nobody' 'KV/1.0 EXPIREAT nobody 1')
    printf '%s\n' "$HEADER" "${changes[@]}" >"$DATA"
    serve --data "$DATA"
    # The reply is there, so the line is.
    replies 'KV/1.0 GET asked' '404 NOT_FOUND' \
            'KV/1.0 GET late' '404 NOT_FOUND'
    data "${changes[@]}" 'KV/1.0 DEL asked'
    soon
    ask "KV/1.0 PUT unasked v" "KV/1.0 EXPIREAT unasked $SOON" 'KV/1.0 PUT again v' 'KV/1.0 EXPIREAT again 1' \
        'KV/1.0 PUT again w' >/dev/null
    wait_until ends_with 'KV/1.0 DEL unasked'
    [ "$(grep -A 2 'EXPIREAT again' "$DATA")" = "$(printf '%s\n' 'KV/1.0 EXPIREAT again 1' 'KV/1.0 DEL again' 'KV/1.0 PUT again w')" ]
    # By a clock that is behind, no deadline would be past. What is gone stays gone.
    crash
    sed -i.bak 's/EXPIREAT \([a-z]*\) .*/EXPIREAT \1 9999999999/' "$DATA"
    serve --data "$DATA"
    replies 'KV/1.0 STATS' '200 OK keys=1 *' \
            'KV/1.0 GET again' '200 OK w' \
            'KV/1.0 TTL again' '200 OK -1'
}

# bats test_tags=expiry
@test "a deadline that was put off in time holds, though the first is past by the restart" {
    serve --data "$DATA"
    soon
    ask 'KV/1.0 PUT k v' "KV/1.0 EXPIREAT k $SOON" 'KV/1.0 EXPIRE k 1000' 'KV/1.0 PUT at v' 'KV/1.0 EXPIREAT at 9' \
        'KV/1.0 PUT put v' "KV/1.0 EXPIREAT put $SOON" 'KV/1.0 PUT put w' 'KV/1.0 PUT brief v' "KV/1.0 EXPIREAT brief $SOON" >/dev/null
    wait_until ends_with 'KV/1.0 DEL brief'
    restart
    [[ $(ask 'KV/1.0 TTL k') =~ ^'200 OK '(9[0-9][0-9]|1000)$ ]]
    replies 'KV/1.0 GET brief' '404 NOT_FOUND' \
            'KV/1.0 GET at' '404 NOT_FOUND' \
            'KV/1.0 TTL put' '200 OK -1' \
            'KV/1.0 STATS' '200 OK keys=2 *'
}

# bats test_tags=glibc
@test "FILE that is moved away: changes get 500 until it is back, and then none is missing" {
    serve --data "$DATA"
    gone=" error $DATA is gone;" well=" recover $DATA changes are made again"
    mv "$DATA" "$DATA.moved"
    # After a quiet time, the server looks before it takes a change.
    replies 'KV/1.0 PUT a 1' '500 SERVER_ERROR' \
            'KV/1.0 GET a' '404 NOT_FOUND' \
            'KV/1.0 PUT a 2' '500 SERVER_ERROR'
    mv "$DATA.moved" "$DATA"
    wait_until logged "$well"
    connect one
    says one 'KV/1.0 PUT a 3';     hears one '201 CREATED'
    mv "$DATA" "$DATA.moved"
    # Within a second after a look, it may take one; FILE has it then, wherever FILE is.
    says one 'KV/1.0 PUT a 4' 'KV/1.0 GET a'
    next one
    next one
    value=${LINE#200 OK }
    # It looks once more after the last change, even if nobody asks for anything.
    wait_until logged "$gone" 2
    says one 'KV/1.0 PUT a 5' 'KV/1.0 GET a'
    hears one '500 SERVER_ERROR' "200 OK $value"
    [ "$(tail -n 1 "$DATA.moved")" = "KV/1.0 PUT a $value" ]
    hang_up one
    fails_at_stop
    run ! logged "$gone" 3
    run ! logged "$well" 2
}

# bats test_tags=glibc
@test "FILE that has gone just when a change comes: no 200, and FILE has the change when it is back" {
    serve --data "$DATA"
    connect one
    says one 'KV/1.0 PUT a 1';     hears one '201 CREATED'
    # The server looks each second. It sleeps until that is due, and awakes when the change is there, too.
    freeze "$PID"
    due=$((${EPOCHREALTIME/./} + 1000000))
    mv "$DATA" "$DATA.moved"
    says one 'KV/1.0 PUT a 2'
    is_due() { [ "${EPOCHREALTIME/./}" -gt $due ]; }
    wait_until is_due
    kill -s CONT "$PID"
    closed one
    logged " error $DATA is gone;"
    mv "$DATA.moved" "$DATA"
    data 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2'
    stop "$PID"
}

# bats test_tags=glibc
@test "FILE that is deleted, or its folder moved away: COMPACT writes it anew" {
    mkdir "$BATS_TEST_TMPDIR"/folder{1,2}
    pids=('') ports=('') logs=('')
    for i in 1 2; do
        serve --data "$BATS_TEST_TMPDIR/folder$i/data"
        pids+=("$PID") ports+=("$PORT") logs+=("$LOG")
        replies 'KV/1.0 PUT a 1' '201 CREATED'
    done
    rm "$BATS_TEST_TMPDIR/folder1/data"
    mv "$BATS_TEST_TMPDIR/folder2" "$BATS_TEST_TMPDIR/moved"
    mkdir "$BATS_TEST_TMPDIR/folder2"
    for i in 1 2; do
        DATA=$BATS_TEST_TMPDIR/folder$i/data PID=${pids[i]} PORT=${ports[i]} LOG=${logs[i]}
        wait_until logged " error $DATA is gone;"
        replies 'KV/1.0 PUT b 1' '500 SERVER_ERROR' \
                'KV/1.0 COMPACT' '202 ACCEPTED'
    done
    for i in 1 2; do
        DATA=$BATS_TEST_TMPDIR/folder$i/data PID=${pids[i]} PORT=${ports[i]} LOG=${logs[i]}
        wait_until logged " recover $DATA changes are made again"
        wait_until gets 'KV/1.0 PUT b 2' '201 CREATED'
        data 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2'
        restart
        replies 'KV/1.0 GET a' '200 OK 1' \
                'KV/1.0 GET b' '200 OK 2'
    done
}

# bats test_tags=glibc
@test "FILE whose name something else has taken: that is not harmed" {
    for make in 'echo precious' "ln -s $DATA.moved $DATA" "ln -s $DATA.nowhere $DATA" "mkdir $DATA"; do
        serve --data "$DATA"
        mv "$DATA" "$DATA.moved"
        case $make in echo*) $make >"$DATA" ;; *) $make ;; esac
        before=$(ls -lid "$DATA")
        replies 'KV/1.0 PUT k w' '500 SERVER_ERROR' \
                'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until logged " error $DATA is another file now;"
        run ! logged ' compact'
        [ "$(ls -lid "$DATA")" = "$before" ]
        [ ! -e "$DATA.kvss-new" ]
        fails_at_stop
        [ "$(ls -lid "$DATA")" = "$before" ]
        rm -r "$DATA" "$DATA.moved"
    done
}

# bats test_tags=glibc, expiry
@test "FILE that is moved away just before a compaction is due: it stays away" {
    serve --data "$DATA"
    value=$(printf '%010000d' 0)
    yes "KV/1.0 PUT k $value" | head -n 104 | talk >/dev/null
    connect one
    soon
    says one 'KV/1.0 PUT brief v' "KV/1.0 EXPIREAT brief $SOON";   hears one '201 CREATED' '200 OK'
    # The next change makes it a megabyte. The server has looked within a second, and need not look again.
    mv "$DATA" "$DATA.moved"
    says one "KV/1.0 PUT k $value"
    wait_until logged " error $DATA is gone;"
    wait_until gets 'KV/1.0 GET brief' '404 NOT_FOUND'
    [ ! -e "$DATA" ]
    run ! logged ' compact'
    mv "$DATA.moved" "$DATA"
}

# bats test_tags=glibc
@test "FILE that is moved away while a compaction goes on: it stays away, and so does what takes its name" {
    value=$(printf '%010000d' 0)
    for name in free taken; do
        DATA=$BATS_TEST_TMPDIR/$name
        serve --data "$DATA"
        connect one
        # The server falls asleep while a compaction goes on; or, if that was too late, while the next one does.
        n=0
        begun() { [ -e "$DATA.kvss-new" ] || compacted "$n"; }
        until [ -e "$DATA.kvss-new" ]; do
            [ $((n++)) = 0 ] || kill -s CONT "$PID"
            yes "KV/1.0 PUT k $value" | head -n 104 | talk >/dev/null
            says one "KV/1.0 PUT k $value" # with this one, FILE is too long
            wait_until begun
            freeze "$PID"
        done
        mv "$DATA" "$DATA.moved"
        [ $name = free ] || echo precious >"$DATA"
        kill -s CONT "$PID"
        wait_until logged ' error compaction '
        [ "$(cat "$DATA" 2>/dev/null)" = "$([ $name = free ] || echo precious)" ]
        wait_until [ ! -e "$DATA.kvss-new" ]
        mv "$DATA.moved" "$DATA"
        hang_up one
        stop "$PID"
    done
}

@test "a file named like FILE.kvss-new that is not kvss's own: it stays, and the server says so" {
    new=$DATA.kvss-new trouble="$DATA.kvss-new: this file is in the way; move it"
    # Each is tried while a server runs, which must not compact then.
    for make in 'echo precious' 'echo KV/1.0 PUT k v' "mkdir $new" "mkfifo $new" "ln -s $DATA $new" "ln $DATA $new" \
        "ln -s /dev/null $new"; do
        serve --data "$DATA"
        case $make in echo*) $make >"$new" ;; *) $make ;; esac
        before=$(ls -lid "$new")
        replies 'KV/1.0 COMPACT' '202 ACCEPTED'
        wait_until logged " error compaction $trouble"
        # A second server would be let in, had the lock been dropped.
        fails 1 "$DATA is in use by another kvss" --data "$DATA"
        [ "$(ls -lid "$new")" = "$before" ]
        rm -r "$new"
        stop "$PID"
    done
    for repair in '' --repair; do
        echo precious >"$new"
        fails 1 "$trouble" --data "$DATA" $repair
        [ "$(cat "$new")" = precious ]
        # What a compaction left that was killed at any moment is no such file.
        for left in '' '# kvss' "$HEADER" "$HEADER"$'\nKV/1.0 PUT k'; do
            printf '%s' "$left" >"$new"
            serve --data "$DATA" $repair
            [ ! -e "$new" ]
            stop "$PID"
        done
    done
    # Nor is it one's own if another server has it open.
    serve --data "$new"
    replies 'KV/1.0 PUT k v' '201 CREATED'
    fails 1 "$trouble" --data "$DATA"
    [ "$(tail -n 1 "$new")" = 'KV/1.0 PUT k v' ]
}

@test "a second server on FILE is refused, by any name of it, until the first has ended" {
    serve --data "$DATA"
    ln -s data "$BATS_TEST_TMPDIR/link"
    for name in "$DATA" "$BATS_TEST_TMPDIR/link" "$BATS_TEST_TMPDIR/./data"; do
        fails 1 "$name is in use by another kvss" --data "$name"
    done
    # When FILE is another one, it's that which is locked.
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until compacted
    fails 1 "$DATA is in use by another kvss" --data "$DATA"
    crash
    serve --data "$BATS_TEST_TMPDIR/link"
    replies 'KV/1.0 GET k' '200 OK v' \
            'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until compacted
    [ -L "$BATS_TEST_TMPDIR/link" ] && [ ! -L "$DATA" ]
}

@test "what is not a data file stays as it is, and the server does not start" {
    for text in x 'precious\n' '# kvss data 2: the changes\n' 'KV/1.0 PUT foo bar\n' '# kvss dat\n' '\0' "$(printf '%3000000s' '')"; do
        printf '%b' "$text" >"$DATA"
        cp "$DATA" "$DATA.before"
        for repair in '' --repair; do
            run timeout -s KILL "$PATIENCE" "$KVSS" --port 0 --data "$DATA" $repair
            [ "$status" = 1 ]
            [[ $output == "kvss: $DATA"*'a data file of kvss'* ]]
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
        serve --data "$DATA.$when" --fsync $when
        replies 'KV/1.0 PUT k v' '201 CREATED'
        stop "$PID"
        [ "$(tail -n 1 "$DATA.$when")" = 'KV/1.0 PUT k v' ]
    done
    fails 2 "fsync: 'never' is not always, everysec or no" --fsync never
    fails 2 'fsync: WHEN is empty' --fsync=
    fails 2 'repair: --data FILE is missing' --repair
}

# bats test_tags=expiry
@test "a torn line: FILE cut short in each of its last lines" {
    changes=('KV/1.0 PUT a 1' 'KV/1.0 PUT b first' 'KV/1.0 PUT b second value' 'KV/1.0 DEL a' 'KV/1.0 EXPIREAT b 9999999999')
    as=('404 NOT_FOUND' '200 OK 1' '200 OK 1' '200 OK 1' '404 NOT_FOUND' '404 NOT_FOUND')
    bs=('404 NOT_FOUND' '404 NOT_FOUND' '200 OK first' '200 OK second value' '200 OK second value' '200 OK second value')
    # So many lines are whole, and so much of the next one is there: a byte, all but a field, all but the LF.
    for whole in -1 0 1 2 3 4 5; do
        next_line=$HEADER so_far=
        [ "$whole" = -1 ] || so_far=$HEADER$'\n' next_line=${changes[whole]-}
        for ((i = 0; i < whole; i++)); do so_far+=${changes[i]}$'\n'; done
        for torn in '' "${next_line:0:1}" "${next_line% *}" "$next_line"; do
            printf '%s%s' "$so_far" "$torn" >"$DATA"
            serve --data "$DATA"
            n=$((whole < 0 ? 0 : whole))
            logged "kvss: replayed $n line"
            # A header that is torn is as good as none.
            if [ "$torn" ] && [ "$whole" -ge 0 ]; then logged ' 1 torn line dropped'; else run ! logged torn; fi
            replies 'KV/1.0 GET a' "${as[n]}" \
                    'KV/1.0 GET b' "${bs[n]}" \
                    'KV/1.0 PUT new line' '201 CREATED'
            crash
            # FILE is whole again, and what comes after is not glued to what was torn.
            data "${changes[@]:0:n}" 'KV/1.0 PUT new line'
            [ "$next_line" ] || break
        done
    done
}

# bats test_tags=mailboxes
@test "a bad line: the server names it and does not start; --repair moves it to FILE.bad" {
    bad=('KV/1.0 PUT onlykey' 'GET foo' 'KV/1.0 GET foo' 'KV/1.0 QUIT' 'KV/1.0 MANAGE 1 PUT k v' ''
        'KV/1.0 EXPIRE foo 100' 'KV/1.0 EXPIREAT foo soon' 'KV/1.0 CREATE bob' "$HEADER" $'KV/1.0 PUT \xff x'
        "KV/1.0 PUT $(printf '%0300d' 1) v" "KV/1.0 PUT k $(printf '%065523d' 1)" "KV/1.0 PUT k $(printf '%0300000d' 1)")
    for line in "${bad[@]}"; do
        printf '%s\n' "$HEADER" 'KV/1.0 PUT a 1' 'KV/1.0 PUT a 2' "$line" 'KV/1.0 PUT b 3' >"$DATA"
        run timeout -s KILL "$PATIENCE" "$KVSS" --port 0 --data "$DATA"
        [ "$status" = 1 ]
        [[ $output == "kvss: $DATA, line 4: "*'--repair'*"$DATA.bad" ]]
        [ "${#lines[@]}" = 1 ]
        [ ! -e "$DATA.bad" ] && [ ! -e "$DATA.kvss-new" ]
    done
    # They all, and good ones between them; and one that is torn.
    printf '%s\n' "$HEADER" >"$DATA"
    for i in "${!bad[@]}"; do printf '%s\n' "KV/1.0 PUT key$i v" "${bad[i]}" >>"$DATA"; done
    printf 'KV/1.0 PUT torn v' >>"$DATA"
    mapfile -t good < <(for i in "${!bad[@]}"; do echo "KV/1.0 PUT key$i v"; done | sort)
    repaired() { [ "$(tail -n +2 "$DATA" | sort)" = "$(printf '%s\n' "${good[@]}")" ]; }
    serve --data "$DATA" --repair
    logged "replayed ${#bad[@]} lines, 15 bad lines moved to $DATA.bad"
    diff <(printf '%s\n' "${bad[@]}" 'KV/1.0 PUT torn v') "$DATA.bad"
    [ "$(find "$DATA.bad" -perm 600)" ]
    replies 'KV/1.0 STATS' "200 OK keys=${#bad[@]} *" \
            'KV/1.0 GET key13' '200 OK v' \
            'KV/1.0 LIST' '200 OK'
    wait_until repaired
    restart
    logged "replayed ${#bad[@]} lines in "
    crash
    # Others are added to those; where nothing is bad, nothing is moved.
    echo 'bad, too' >>"$DATA"
    serve --data "$DATA" --repair
    diff <(printf '%s\n' "${bad[@]}" 'KV/1.0 PUT torn v' 'bad, too') "$DATA.bad"
    wait_until repaired
    restart --repair
    logged "replayed ${#bad[@]} lines in "
    [ "$(tail -n 2 "$DATA.bad")" = $'KV/1.0 PUT torn v\nbad, too' ]
    replies 'KV/1.0 GET torn' '404 NOT_FOUND' \
            'KV/1.0 PUT d 4' '201 CREATED'
    ends_with 'KV/1.0 PUT d 4'
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
}

# bats test_tags=crypt
@test "a signal to stop ends the replay, and FILE is as it was" {
    env --block-signal=TERM true 2>/dev/null || skip "env can't block signals here"
    printf '%s\n' "$HEADER" 'KV/1.0 PUT a 1' 'bad' >"$DATA"
    printf '%s\n%s' "$HEADER" 'KV/1.0 PUT torn' >"$DATA.torn"
    cp "$DATA" "$DATA.copy"
    cp "$DATA.torn" "$DATA.torn.copy"
    for signal in INT TERM; do
        for words in "$DATA.torn" "$DATA.torn --repair" "$DATA --repair"; do
            file=${words% *}
            # A signal that is blocked is still pending after exec: it is there before the replay begins.
            # shellcheck disable=SC2016,SC2086 # $$ is sh's, and words are several
            run timeout -s KILL "$PATIENCE" env --block-signal=INT,TERM sh -c 'kill -s "$0" $$; exec "$@"' \
                $signal "$KVSS" --port 0 --data $words
            [[ $output == "kvss: SIG$signal ends the replay"* ]]
            [ "$status" = 0 ]
            cmp "$file" "$file.copy"
            [ ! -e "$file.kvss-new" ] && [ ! -e "$file.bad" ]
        done
    done
}

# bats test_tags=crypt, roles, mailboxes, expiry
@test "the store that all share is logged: what MANAGE does there, but no private store and no mailbox" {
    # shellcheck disable=SC2016 # a hash
    echo 'adam:$1$kvss$L5ncgsjATo3aIaHMmzODv0' >"$BATS_TEST_TMPDIR/managers"
    chmod 600 "$BATS_TEST_TMPDIR/managers"
    serve --data "$DATA" --managers "$BATS_TEST_TMPDIR/managers"
    connect adam
    says adam 'KV/1.0 WHOAMI'
    next adam
    port=${LINE##* }
    says adam 'KV/1.0 AUTH adam eve' "KV/1.0 MANAGE $port PUT k v" "KV/1.0 MANAGE $port GET k" "KV/1.0 MANAGE $port DEL k" \
        'KV/1.0 CREATE bob' 'KV/1.0 SEND bob hello' 'KV/1.0 DELETE bob'
    hears adam '200 OK manager' '201 CREATED' '200 OK v' '204 NO_CONTENT' '201 CREATED' '202 ACCEPTED' '204 NO_CONTENT'
    data 'KV/1.0 PUT k v' 'KV/1.0 DEL k'
    DATA=$BATS_TEST_TMPDIR/private
    serve --data "$DATA" --private --quiet
    # An operator who gives both may expect something else.
    logged 'kvss: with --private, nothing that clients store is kept in '
    replies 'KV/1.0 PUT k v' '201 CREATED' \
            'KV/1.0 EXPIRE k 100' '200 OK' \
            'KV/1.0 DEL k' '204 NO_CONTENT'
    data
}

# bats test_tags=expiry
@test "COMPACT: 202, and FILE has what the store needs, and its rights; 404 without --data" {
    serve --data "$DATA"
    chmod 640 "$DATA"
    { seq 1 1000 | sed 's/.*/KV\/1.0 PUT k& v&/'; seq 11 1000 | sed 's/.*/KV\/1.0 DEL k&/'
        echo 'KV/1.0 EXPIREAT k3 9999999999'; } | talk >/dev/null
    replies 'KV/1.0 COMPACT' '202 ACCEPTED' \
            'KV/1.0 COMPACT now' '400 BAD_REQUEST'
    wait_until compacted
    # Two clocks are read, one after the other; so a deadline may be off by a millisecond.
    diff <({ seq 1 10 | sed 's/.*/KV\/1.0 PUT k& v&/'; echo 'KV/1.0 EXPIREAT k3 9999999999.000'; } | sort) \
        <(tail -n +2 "$DATA" | sed 's/9999999998.999/9999999999.000/; s/9999999999.001/9999999999.000/' | sort)
    [ "$(find "$DATA" -perm 640)" ]
    [ ! -e "$DATA.kvss-new" ]
    ask 'KV/1.0 PUT after it' 'KV/1.0 DEL k1' >/dev/null
    restart
    logged 'kvss: replayed 13 lines in '
    replies 'KV/1.0 GET after' '200 OK it' \
            'KV/1.0 GET k1' '404 NOT_FOUND' \
            'KV/1.0 GET k10' '200 OK v10'
    serve
    replies 'KV/1.0 COMPACT' '404 NOT_FOUND'
}

# bats test_tags=expiry
@test "COMPACT again and again: it joins the one that is due, a copy of FILE stays, and nothing is left behind" {
    serve --data "$DATA"
    replies 'KV/1.0 PUT k 1' '201 CREATED' \
            'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until compacted
    descriptors=$(find "/proc/$PID/fd" 2>/dev/null | wc -l)
    # One turn of the loop reads all of these. Then there is one compaction, and not eight.
    for i in {2..9}; do printf 'KV/1.0 PUT k %d\nKV/1.0 COMPACT\n' "$i"; done >"$BATS_TEST_TMPDIR/requests"
    [ "$(talk <"$BATS_TEST_TMPDIR/requests" | sort | uniq -c | tr -d '\n')" = '      8 200 OK      8 202 ACCEPTED' ]
    wait_until compacted 2
    data 'KV/1.0 PUT k 9'
    # Another name of FILE stays as it is, and so does FILE to those who have it open.
    ask 'KV/1.0 PUT k 10' 'KV/1.0 PUT k 11' >/dev/null
    ln "$DATA" "$DATA.name"
    cp "$DATA" "$DATA.before"
    exec {copy}<"$DATA"
    replies 'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until compacted 3
    cmp "$DATA.name" "$DATA.before"
    cmp - "$DATA.before" <&"$copy"
    shut "$copy"
    data 'KV/1.0 PUT k 11'
    run ! logged ' compact ' 4
    # No child is left, no descriptor, and no work.
    childless() { [ -z "$(pgrep -P "$PID")" ]; }
    wait_until childless
    [ "$(find "/proc/$PID/fd" 2>/dev/null | wc -l)" -le "$descriptors" ]
    [ -r "/proc/$PID/stat" ] && ! instrumented || return 0
    used=$(cpu "$PID")
    soon
    ask "KV/1.0 EXPIREAT k $SOON" >/dev/null
    wait_until ends_with 'KV/1.0 DEL k'
    [ "$(cpu "$PID")" -le $((used + 10)) ]
}

# bats test_tags=limits
@test "compaction has descriptors left, however many clients there are" {
    local files=20
    if grep -q '^#!' "$KVSS"; then files=32; fi # valgrind keeps twelve for itself
    printf '#!/bin/sh\nulimit -n %d\nexec "%s" "$@"\n' $files "$KVSS" >"$BATS_TEST_TMPDIR/limited"
    chmod +x "$BATS_TEST_TMPDIR/limited"
    KVSS=$BATS_TEST_TMPDIR/limited serve --data "$DATA"
    for i in {1..20}; do connect "c$i"; done
    wait_until logged ' refuse '
    says c1 'KV/1.0 COMPACT';      hears c1 '202 ACCEPTED'
    wait_until compacted
}

@test "compaction begins by itself: over 1 MiB, and over twice what the store needs" {
    serve --data "$DATA"
    value=$(printf '%01000d' 0)
    # 1,000 keys, then the same again and again. A megabyte is there by then, and half of it is old.
    for _ in 1 2 3; do seq 1 1000 | sed "s/.*/KV\/1.0 PUT k& $value/"; done | talk >/dev/null
    wait_until compacted
    [ "$(wc -c <"$DATA")" -lt 2100000 ]
    restart
    replies 'KV/1.0 STATS' '200 OK keys=1000 *' \
            'KV/1.0 GET k777' "200 OK $value"
}

@test "FILE stays under 128 MiB while one key of a small store is changed again and again" {
    serve --data "$DATA"
    connect reader
    yes "KV/1.0 PUT k $(printf '%060000d' 0)" | head -n 4000 | talk >"$BATS_TEST_TMPDIR/replies" 3>&- &
    most=0
    while kill -0 $! 2>/dev/null; do
        size=$(wc -c <"$DATA")
        [ "$size" -le "$most" ] || most=$size
        # Whoever only reads goes on.
        says reader 'KV/1.0 GET other';    hears reader '404 NOT_FOUND'
    done
    wait $!
    [ "$most" -le $((1 << 27)) ]
    [ "$(grep -c '^20[01] ' "$BATS_TEST_TMPDIR/replies")" = 4000 ]
}

# fill COUNT: so many keys.
fill() {
    seq 1 "$1" | sed 's/.*/KV\/1.0 PUT key& value&/' | talk >/dev/null
}

# bats test_tags=expiry
@test "compaction goes on beside changes, and none is lost" {
    serve --data "$DATA" --quiet
    fill 50000
    restart --quiet
    # Each of these may be seen by the child, or not; all end in the same. They last longer than the child.
    awk 'BEGIN { print "KV/1.0 COMPACT"
        for (i = 1; i <= 2000; i++)
            printf "KV/1.0 PUT key%d new\nKV/1.0 DEL key%d\nKV/1.0 PUT n%d v\nKV/1.0 EXPIREAT key%d 9999999998\n", i * 7, i * 11, i, i * 13
        for (; i <= 60000; i++) print "KV/1.0 PUT n" i " v"
        }' | talk >/dev/null
    awk 'BEGIN {
        for (i = 1; i <= 50000; i += 3) printf "KV/1.0 GET key%d\nKV/1.0 TTL key%d\n", i, i
        for (i = 1; i <= 60000; i++) print "KV/1.0 GET n" i }' >"$BATS_TEST_TMPDIR/everything"
    everything() { talk <"$BATS_TEST_TMPDIR/everything" | sed 's/^200 OK [0-9]\{10\}$/long/'; }
    gone() { [ ! -e "$DATA.kvss-new" ]; }
    wait_until gone
    everything >"$BATS_TEST_TMPDIR/before"
    [ "$(sort "$BATS_TEST_TMPDIR/before" | uniq -c | grep -c -e ' long$' -e ' 200 OK new$' -e ' 404 NOT_FOUND$')" = 3 ]
    restart --quiet
    everything | cmp - "$BATS_TEST_TMPDIR/before"
}

@test "a compaction goes wrong, its child is killed, the server is stopped: FILE stays whole, FILE.kvss-new goes" {
    serve --data "$DATA" --quiet
    fill 100000
    mkdir "$DATA.kvss-new"
    replies 'KV/1.0 COMPACT' '202 ACCEPTED'
    wait_until logged ' error compaction '
    rmdir "$DATA.kvss-new"
    killed() {
        ask 'KV/1.0 COMPACT' >/dev/null
        child=$(pgrep -P "$PID" || :)
        [ -z "$child" ] || kill -s KILL "$child"
        logged ' error compaction the child has died'
    }
    wait_until killed
    replies 'KV/1.0 GET key100000' '200 OK value100000' \
            'KV/1.0 PUT new v' '201 CREATED'
    # A child goes on while clients leave, which see the end at once: talk ends when the server closes.
    begun() { [ -e "$DATA.kvss-new" ] || { ask 'KV/1.0 COMPACT' >/dev/null; [ -e "$DATA.kvss-new" ]; }; }
    wait_until begun
    for _ in 1 2 3 4 5; do replies 'KV/1.0 GET key1' '200 OK value1'; done
    stop "$PID"
    [ ! -e "$DATA.kvss-new" ]
    serve --data "$DATA"
    logged 'kvss: replayed 100001 lines in '
}

@test "what changes while the copy of a compaction is synced is in FILE" {
    serve --data "$DATA"
    connect one
    says one 'KV/1.0 PUT k v' 'KV/1.0 COMPACT';    hears one '201 CREATED' '202 ACCEPTED'
    # Each turn of the loop has a change, until FILE is another one.
    n=0
    until logged ' compact '; do
        says one "KV/1.0 PUT n$((++n)) v"
        hears one '201 CREATED'
    done
    restart
    replies 'KV/1.0 STATS' "200 OK keys=$((n + 1)) *"
}

# limit BYTES: the server's files can't be longer, as if the disk were full.
limit() {
    prlimit --pid "$PID" --fsize="$1":unlimited
}

# bats test_tags=mailboxes, expiry
@test "a full disk: what can't be written gets no 200, what can be read is, and writes come back by themselves" {
    command -v prlimit >/dev/null || skip "prlimit is needed: apt-get install util-linux"
    serve --data "$DATA" --verbose
    # The limit is for every file that the server writes, so FILE is made longer than its other log.
    ask 'KV/1.0 PUT a 1' 'KV/1.0 PUT b 2' "KV/1.0 PUT long $(printf '%050000d' 0)" >/dev/null
    cp "$DATA" "$DATA.crashed"
    limit $(($(wc -c <"$DATA") + 10))
    refused 'KV/1.0 PUT a 3'
    cmp "$DATA" "$DATA.crashed"
    # Whether a change that was not acknowledged is made is not known; but reads don't change their mind.
    a=$(ask 'KV/1.0 GET a')
    [[ $a == '200 OK '[13] ]]
    replies 'KV/1.0 PUT d 4' '500 SERVER_ERROR' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 DEL nobody' '404 NOT_FOUND' \
            'KV/1.0 GET d' '404 NOT_FOUND' \
            'KV/1.0 GET b' '200 OK 2' \
            'KV/1.0 EXPIRE a 10' '500 SERVER_ERROR' \
            'KV/1.0 GET a' "$a"
    cmp "$DATA" "$DATA.crashed"
    logged " error $DATA File too large; from now on changes get 500"
    run ! logged " error $DATA File too large" 2
    limit unlimited
    wait_until gets 'KV/1.0 PUT d 4' '201 CREATED'
    logged " recover $DATA changes are made again"
    restart
    replies 'KV/1.0 GET a' "$a" \
            'KV/1.0 TTL a' '200 OK -1' \
            'KV/1.0 GET b' '200 OK 2' \
            'KV/1.0 GET d' '200 OK 4'
    # Had it crashed then: what was promised is there.
    crash
    mv "$DATA.crashed" "$DATA"
    serve --data "$DATA"
    replies 'KV/1.0 GET a' '200 OK 1' \
            'KV/1.0 GET b' '200 OK 2'
}

# bats test_tags=compaction
@test "a full disk: FILE is written anew where that makes it shorter, and DEL makes room" {
    command -v prlimit >/dev/null || skip "prlimit is needed: apt-get install util-linux"
    serve --data "$DATA" --quiet
    long=$(printf '%01000d' 0)
    for i in 1 2 3 4 5; do echo "KV/1.0 PUT same $long"; echo "KV/1.0 PUT key$i $long"; done | talk >/dev/null
    # FILE has old values of a key in it.
    limit "$(wc -c <"$DATA")"
    refused "KV/1.0 PUT new $long"
    wait_until gets "KV/1.0 PUT new $long" '200 OK'
    # FILE has nothing that could go.
    limit 7500
    refused "KV/1.0 PUT newer $long"
    replies "KV/1.0 PUT newer $long" '500 SERVER_ERROR'
    refused 'KV/1.0 DEL key1'
    refused 'KV/1.0 DEL key2'
    wait_until gets "KV/1.0 PUT newest $long" '201 CREATED'
    crash
    serve --data "$DATA"
    replies 'KV/1.0 GET key1' '404 NOT_FOUND' \
            'KV/1.0 GET key2' '404 NOT_FOUND' \
            'KV/1.0 GET key3' "200 OK $long" \
            'KV/1.0 GET newest' "200 OK $long"
}

@test "a full disk under many clients: acknowledged or not, and a restart agrees" {
    command -v prlimit >/dev/null || skip "prlimit is needed: apt-get install util-linux"
    serve --data "$DATA" --quiet
    limit 200000
    clients=()
    for client in 1 2 3 4; do
        awk -v c="$client" 'BEGIN { for (i = 1; i <= 3000; i++) print "KV/1.0 PUT c" c "-" i " v" i "-v" i }' |
            talk >"$BATS_TEST_TMPDIR/acks.$client" 3>&- &
        clients+=($!)
    done
    for client in "${clients[@]}"; do wait "$client" || :; done
    logged ' error '
    [ "$(wc -c <"$DATA")" -le 200000 ]
    restart --quiet
    for client in 1 2 3 4; do
        awk -v c="$client" 'BEGIN { for (i = 1; i <= 3000; i++) print "KV/1.0 GET c" c "-" i }' | talk >"$BATS_TEST_TMPDIR/now.$client"
        # 201: there, and whole. 500: not there, since it was cut off at once. No reply: nobody knows, but not half.
        awk -v c="$client" '
            FNR == NR { ack[FNR] = $0; next }
            { whole = $0 == "200 OK v" FNR "-v" FNR }
            ack[FNR] == "201 CREATED" && whole { next }
            ack[FNR] == "500 SERVER_ERROR" && $1 == 404 { next }
            ack[FNR] == "" && (whole || $1 == 404) { next }
            { print c, FNR, ack[FNR], $0; exit 1 }' "$BATS_TEST_TMPDIR/acks.$client" "$BATS_TEST_TMPDIR/now.$client"
    done
    [ "$(cat "$BATS_TEST_TMPDIR"/acks.* | grep -c '^201')" -gt 1000 ]
    [ "$(cat "$BATS_TEST_TMPDIR"/acks.* | grep -c '^201')" -lt 12000 ]
}

@test "more than a megabyte of changes in a turn: all are kept" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve --data "$DATA" --quiet
    value=$(printf '%060000d' 0)
    # Twenty lines of 60,000 bytes are there, but for their ends.
    connect other
    for i in {1..20}; do
        connect "c$i"
        printf '%s' "KV/1.0 PUT k$i $value" >&"${TO[c$i]}"
    done
    bytes=0
    until [ "$bytes" -ge 1200000 ]; do
        says other 'KV/1.0 STATS all'
        next other
        bytes=${LINE##* bytes_in=} bytes=${bytes%% *}
    done
    # The ends come while the server sleeps, so that one turn of the loop has them all.
    freeze "$PID"
    for i in {1..20}; do says "c$i" ''; done
    wait_until arrived 20
    kill -s CONT "$PID"
    for i in {1..20}; do hears "c$i" '201 CREATED'; done
    restart
    replies 'KV/1.0 STATS' '200 OK keys=20 *' \
            'KV/1.0 GET k20' "200 OK $value"
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
        set timeout $PATIENCE
        spawn $KVSS --port 0 --data $DATA
        expect -re {replaying, 100 %} {} timeout { exit 1 }
        expect -re {kvss: replayed 400000 lines in [0-9.]+ s} {} timeout { exit 1 }
        expect {listening on} {} timeout { exit 1 }
        exec kill [exp_pid]
        expect {goodbye} {} timeout { exit 1 }" 3>&-
    echo "$output" | cat -v
    [ "$status" = 0 ]
    serve --data "$DATA"
    [[ $(head -n 1 "$LOG") == 'kvss: replayed 400000 lines in '* ]]
}

@test "12 rounds of kill -9 at any moment: nothing acknowledged is missing, and no value is half" {
    kill_rounds 12
}
