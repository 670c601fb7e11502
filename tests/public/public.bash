# shellcheck shell=bash
# What the public tests share. They ask a server of KV/1.0, in any language, for nothing but the lab in
# docs/protocol.md, and talk to it as the other tests do: see tests/helper.bash. grade.sh says how the server is
# started, and how long it may take to answer:
#
#     START       the command, in which PORT is the port to listen on; it's run in the folder GRADED
#     PATIENCE    seconds, for a reply
#     QUIT_STOPS  1 where QUIT stops the server, as in one variant of the lab; else 0

load ../helper
START_MAX=$((PATIENCE * 4))          # seconds, to answer the first request; to start may take long
LIFETIME=$((BATS_TEST_TIMEOUT + 10)) # a server lives no longer, whatever becomes of its test

setup() {
    serve
}

# up: whether somebody listens. Nobody does, if nc fails by itself.
up() {
    local status=0
    talk </dev/null >/dev/null 2>&1 || status=$?
    [ $status != 1 ]
}

# answers: whether a line comes back for one.
answers() {
    connect first
    says first 'KV/1.0 GET key' && next first || LINE='(nothing)'
    hang_up first
    [[ $LINE != '(nothing)'* ]]
} 2>/dev/null

answers_or_dead() { answers || dead "$PID"; }

# serve: starts the server. Sets PORT, and PID, which is also the group of all that it starts. The
# port is below those that the kernel gives to clients; tests that run at once begin at different
# ones. If one did not answer, the next tests of the group don't wait for that again.
serve() {
    local mute=$BATS_RUN_TMPDIR/mute
    [ ! -e "$mute" ] || { echo 'the server does not answer' >&2; return 1; }
    PORT=$((20000 + BASHPID % 12000)) LOG=$BATS_TEST_TMPDIR/log
    while up; do PORT=$((PORT + 1)); done
    (cd "$GRADED" && exec timeout --signal KILL $LIFETIME bash -c "${START//PORT/$PORT}") \
        </dev/null >"$LOG" 2>&1 3>&- &
    PID=$!
    PATIENCE=$START_MAX wait_until answers_or_dead 2>/dev/null || : >"$mute"
    answers || { echo "no answer from port $PORT" >&2; return 1; }
}

teardown() {
    hang_up "${!NC[@]}"
    [ "${PID-}" ] || return 0
    [ "${BATS_TEST_COMPLETED-}" ] || tail -n 5 "$LOG" | sed 's/^/the server: /' >&2
    kill -s KILL -- "-$PID" 2>/dev/null || :
    wait "$PID" 2>/dev/null || :
}

# put KEY VALUE: stores it, for tests that are not about the reply to that.
put() {
    ask "KV/1.0 PUT $1 $2" >"$BATS_TEST_TMPDIR/put"
}

# each REQUEST REPLY [REQUEST REPLY...]: a connection for each request, which must get its reply.
each() {
    while [ $# -gt 0 ]; do
        replies "$1" "$2"
        shift 2
    done
}

# serves: still, a client that comes now.
serves() {
    put still there
    replies 'KV/1.0 GET still' '200 OK there'
}

# taken BYTES: whether the server has read so many from the only client, and no more wait for it.
taken() {
    [[ $(ss -tniH state established "sport = :$PORT") =~ ^'0 '.*' bytes_received:'"$1 " ]]
}

# long BYTES: so many times the letter x.
long() {
    printf '%*s' "$1" '' | tr ' ' x
}
