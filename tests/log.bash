# shellcheck shell=bash
# What tests/log.bats and tests/hostile/log.bats share: FILE, its header, and crashes.

HEADER='# kvss data 1: the changes of a store, as requests'

# crash: ends the server of now without warning. (tests/tools/coverage has a signal for that which leaves
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

# gets REQUEST REPLY: whether the request gets it now, for wait_until.
gets() {
    [ "$(ask "$1")" = "$2" ]
}

# refused REQUEST: it gets 500, or the connection ends without a reply.
refused() {
    run ask "$1"
    [ -z "$output" ] || printed '500 SERVER_ERROR'
}

# kill_rounds N: so many times, the server is killed at any moment, and started again. Each time, what was
# acknowledged is there.
kill_rounds() {
    serve --data "$DATA" --quiet
    seq 1 20000 | sed 's/.*/KV\/1.0 PUT ballast& value&/' | talk >/dev/null
    local padding modes=(always everysec no) counts=(0 0 0) acknowledged=0 compacting=0 round c
    local jobs first replies now acks status n middle again values=('404 NOT_FOUND' '404 NOT_FOUND' '404 NOT_FOUND')
    padding=$(printf '%0100d' 0)
    mkfifo "$BATS_TEST_TMPDIR/acks.0"
    for ((round = 1; round <= $1; round++)); do
        # Numbers, one after the other, with something between that would show half a value. The first request
        # shows whose server it is: when ours is killed before nc connects, its port may be another's by then.
        jobs=()
        for c in 0 1 2; do
            seq $((counts[c] + 1)) $((counts[c] + 20000)) | sed "1s/^/KV\/1.0 GET c$c\nKV\/1.0 COMPACT\n/; s/^[0-9]*\$/KV\/1.0 PUT c$c & $padding &/" |
                talk >"$BATS_TEST_TMPDIR/acks.$c" 2>/dev/null 3>&- &
            jobs+=($!)
        done
        # It comes when the first has got so many replies.
        exec {first}<"$BATS_TEST_TMPDIR/acks.0"
        mapfile -t -n $((RANDOM % (round % 3 ? 3000 : 50) + 1)) -u "$first" replies
        crash
        [ ! -e "$DATA.kvss-new" ] || compacting=$((compacting + 1))
        mapfile -t -u "$first" -O ${#replies[@]} replies
        shut "$first"
        for job in "${jobs[@]}"; do wait "$job" || :; done
        serve --data "$DATA" --quiet --fsync "${modes[round % 3]}"
        mapfile -t now < <(ask 'KV/1.0 GET c0' 'KV/1.0 GET c1' 'KV/1.0 GET c2' 'KV/1.0 STATS')
        for c in 0 1 2; do
            [ $c = 0 ] || mapfile -t replies <"$BATS_TEST_TMPDIR/acks.$c"
            acks=$(printf '%s\n' "${replies[@]:1}" | grep -c '^20[01] ' || :)
            [ "${replies[0]-}" = "${values[c]}" ] || acks=0
            read -r status _ n middle again <<<"${now[c]}"
            if [ "$status" != 200 ]; then n=0; else [ "$middle $again" = "$padding $n" ]; fi
            [ "$n" -ge $((counts[c] + acks)) ] || { echo "round $round: $n after ${counts[c]} and $acks more" >&2; false; }
            [ "$n" -le $((counts[c] + 20000)) ]
            acknowledged=$((acknowledged + acks))
            counts[c]=$n
        done
        values=("${now[@]}")
        [[ ${now[3]} =~ ^'200 OK keys=2000'[0-3]' ' ]]
    done
    echo "$acknowledged acknowledged, $compacting of $1 crashes in a compaction"
    [ $acknowledged -gt 0 ]
    [ "$1" -lt 60 ] || [ $compacting -gt 0 ]
    replies 'KV/1.0 GET ballast20000' '200 OK value20000'
}
