#!/usr/bin/env bats
# Lab 9: --follow.

load ../lab

setup() {
    offers --follow
    DATA=$BATS_TEST_TMPDIR/data
    HEADER='# kvss data 1: the changes of a store, as requests'
}

# lead [OPTION...]: starts the leader. Sets LEADER, its port, LEADER_PID and LEADER_LOG.
lead() {
    serve --data "$DATA" "$@"
    LEADER=$PORT LEADER_PID=$PID LEADER_LOG=$LOG
}

# follow_leader: starts a follower. Sets FOLLOWER, its port, and FOLLOWER_PID.
follow_leader() {
    serve --follow "$DATA"
    FOLLOWER=$PORT FOLLOWER_PID=$PID
}

# leader REQUEST..., follower REQUEST...: what it answers.
leader() { PORT=$LEADER; ask "$@"; }
follower() { PORT=$FOLLOWER; ask "$@"; }

# soon REPLY REQUEST: the follower gets there.
soon() {
    there() { [ "$(follower "$2")" = "$1" ]; }
    wait_until there "$@"
}

# compact: has the leader's log written anew, and waits for that.
compact() {
    local before
    before=$(grep -c ' compact ' "$LEADER_LOG" || :)
    leader 'KV/1.0 COMPACT' >/dev/null
    done_anew() { [ "$(grep -c ' compact ' "$LEADER_LOG")" -gt "$before" ]; }
    wait_until done_anew
}

@test "every example of the page is answered as it shows" {
    fresh_copy
    check_page docs/labs/9-replica/README.md
}

@test "what is there at the start, and what changes then" {
    lead
    leader 'KV/1.0 PUT old 1' 'KV/1.0 PUT city Hue' >/dev/null
    follow_leader
    run follower 'KV/1.0 GET old' 'KV/1.0 GET city'
    printed $'200 OK 1\n200 OK Hue'
    leader 'KV/1.0 PUT city Hà Nội' 'KV/1.0 DEL old' 'KV/1.0 PUT new 1' \
        'KV/1.0 EXPIRE new 1000' >/dev/null
    soon '200 OK 1' 'KV/1.0 GET new'
    run follower 'KV/1.0 GET city' 'KV/1.0 GET old'
    printed $'200 OK Hà Nội\n404 NOT_FOUND'
    [[ $(follower 'KV/1.0 TTL new') =~ ^'200 OK '(1000|9[0-9][0-9])$ ]]
    stop "$FOLLOWER_PID"
    stop "$LEADER_PID"
}

@test "100,000 changes: the copy is the same" {
    lead --quiet
    follow_leader
    PORT=$LEADER
    seq 1 100000 | awk '{ key = "key" $1 * 7919 % 10007 }
        $1 % 3 { print "KV/1.0 PUT", key, $1; next }
        { print "KV/1.0 DEL", key }
        END { print "KV/1.0 PUT last 1" }' | talk >/dev/null
    soon '200 OK 1' 'KV/1.0 GET last'
    seq 0 10006 | sed 's/.*/KV\/1.0 GET key&/' >"$BATS_TEST_TMPDIR/gets"
    PORT=$LEADER; talk <"$BATS_TEST_TMPDIR/gets" >"$BATS_TEST_TMPDIR/leader"
    PORT=$FOLLOWER; talk <"$BATS_TEST_TMPDIR/gets" | cmp - "$BATS_TEST_TMPDIR/leader"
}

@test "what would change the copy is 403; mailboxes are the follower's own" {
    lead
    leader 'KV/1.0 PUT k 1' >/dev/null
    follow_leader
    run follower 'KV/1.0 PUT k 2' 'KV/1.0 DEL k' 'KV/1.0 EXPIRE k 5' 'KV/1.0 EXPIREAT k 1' \
        'KV/1.0 PUT k' 'KV/1.0 GET k' 'KV/1.0 TTL k' 'KV/1.0 COMPACT' 'KV/1.0 CREATE bob'
    printed '403 FORBIDDEN
403 FORBIDDEN
403 FORBIDDEN
403 FORBIDDEN
400 BAD_REQUEST
200 OK 1
200 OK -1
404 NOT_FOUND
201 CREATED'
    [ "$(leader 'KV/1.0 GET k')" = '200 OK 1' ]
}

@test "the leader compacts its log, twice between two looks, too" {
    lead
    seq 1 1000 | sed 's/.*/KV\/1.0 PUT key& v/' | talk >/dev/null
    follow_leader
    for round in 1 2 3; do
        compact
        leader "KV/1.0 DEL key$round" "KV/1.0 PUT round $round" >/dev/null
        soon "200 OK $round" 'KV/1.0 GET round'
        [ "$(follower "KV/1.0 GET key$round")" = '404 NOT_FOUND' ]
    done
    kill -s STOP "$FOLLOWER_PID"
    leader 'KV/1.0 DEL key4' >/dev/null
    compact
    leader 'KV/1.0 DEL key5' >/dev/null
    compact
    leader 'KV/1.0 PUT round 4' >/dev/null
    kill -s CONT "$FOLLOWER_PID"
    soon '200 OK 4' 'KV/1.0 GET round'
    run follower 'KV/1.0 GET key4' 'KV/1.0 GET key5' 'KV/1.0 GET key6'
    printed $'404 NOT_FOUND\n404 NOT_FOUND\n200 OK v'
    [[ $(follower 'KV/1.0 STATS') == '200 OK keys=996 '* ]]
}

@test "nobody sees the copy half full while it goes on with a new file" {
    lead --quiet
    seq 1 100000 | sed 's/.*/KV\/1.0 PUT key& v/' | talk >/dev/null
    follow_leader
    inode() { find "$DATA" -printf %i; }
    before=$(inode)
    leader 'KV/1.0 COMPACT' 'KV/1.0 PUT more 1' >/dev/null
    moved() {
        case $(follower 'KV/1.0 STATS') in
        '200 OK keys=100000 '* | '200 OK keys=100001 '*) ;;
        *) : >"$BATS_TEST_TMPDIR/half" ;;
        esac
        [ "$(inode)" != "$before" ]
    }
    wait_until moved
    for _ in {1..50}; do moved; done
    [ ! -e "$BATS_TEST_TMPDIR/half" ]
    [[ $(follower 'KV/1.0 STATS') == '200 OK keys=100001 '* ]]
}

@test "the leader is killed and started again, and so is the follower" {
    lead
    leader 'KV/1.0 PUT k 1' >/dev/null
    follow_leader
    kill -s KILL "$LEADER_PID"
    ended "$LEADER_PID" || :
    printf 'KV/1.0 PUT k to' >>"$DATA" # torn
    [ "$(follower 'KV/1.0 GET k')" = '200 OK 1' ]
    lead
    leader 'KV/1.0 PUT k 2' >/dev/null
    soon '200 OK 2' 'KV/1.0 GET k'
    stop "$FOLLOWER_PID"
    leader 'KV/1.0 PUT k 3' >/dev/null
    follow_leader
    [ "$(follower 'KV/1.0 GET k')" = '200 OK 3' ]
    stop "$LEADER_PID"
    lead
    leader 'KV/1.0 PUT k 4' >/dev/null
    soon '200 OK 4' 'KV/1.0 GET k'
}

@test "half a line is not run before the rest is there; a file that got shorter is run anew" {
    printf '%s\n' "$HEADER" 'KV/1.0 PUT a 1' >"$DATA"
    printf 'KV/1.0 PUT b 1' >>"$DATA"
    follow_leader
    run follower 'KV/1.0 GET a' 'KV/1.0 GET b'
    printed $'200 OK 1\n404 NOT_FOUND'
    printf '23\nKV/1.0 PUT' >>"$DATA"
    soon '200 OK 123' 'KV/1.0 GET b'
    printf ' c 1\n' >>"$DATA"
    soon '200 OK 1' 'KV/1.0 GET c'
    truncate -s $((${#HEADER} + 1 + 15)) "$DATA" # to the first line
    soon '404 NOT_FOUND' 'KV/1.0 GET c'
    [ "$(follower 'KV/1.0 GET a')" = '200 OK 1' ]
}

@test "a deadline passes on the follower, too; one that was put off in time does not" {
    lead
    leader 'KV/1.0 PUT goes 1' 'KV/1.0 PUT stays 1' 'KV/1.0 EXPIRE goes 1' \
        'KV/1.0 EXPIRE stays 1' >/dev/null
    # What the leader writes in time comes to the follower later, when the deadline is past.
    cp "$DATA" "$DATA.seen"
    serve --follow "$DATA.seen"
    FOLLOWER=$PORT
    soon '404 NOT_FOUND' 'KV/1.0 GET goes'
    soon '404 NOT_FOUND' 'KV/1.0 GET stays'
    # The follower hides them, and keeps them: their deadlines may still be put off.
    [[ $(follower 'KV/1.0 STATS') == '200 OK keys=2 '* ]]
    printf 'KV/1.0 EXPIREAT stays %d\n' $(($(date +%s) + 1000)) >>"$DATA.seen"
    soon '200 OK 1' 'KV/1.0 GET stays'
    [ "$(follower 'KV/1.0 GET goes')" = '404 NOT_FOUND' ]
    [[ $(follower 'KV/1.0 STATS') == '200 OK keys=2 '* ]]
}

@test "no FILE, no log, a bad line, options that don't go together: one line, and the end" {
    fails() {
        run "$KVSS" --port 0 "${@:3}"
        printed "kvss: $2"
        [ "$status" = "$1" ]
    }
    fails 1 "$DATA: No such file or directory" --follow "$DATA"
    echo 'hello' >"$DATA"
    fails 1 "$DATA, line 1: it is no data file of kvss" -f "$DATA"
    printf '%s\n' "$HEADER" 'KV/1.0 GET a' >"$DATA"
    fails 1 "$DATA, line 2: it is no PUT, DEL or EXPIREAT" -f "$DATA"
    for other in "--data=$DATA" --private; do
        fails 2 'follow: the store is a copy; --data and --private are about another' \
            --follow "$DATA" "$other"
    done
}
