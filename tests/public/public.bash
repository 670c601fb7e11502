# shellcheck shell=bash
# What the public tests share. They ask a server of KV/1.0, in any language, for nothing but the
# lab in docs/protocol.md. grade.sh says how it's started, and how long it may take to answer:
#
#     START       the command, in which PORT is the port to listen on; it's run in the folder GRADED
#     REPLY_WITHIN    seconds
#     QUIT_STOPS  1 where QUIT stops the server, as in one variant of the lab; else 0

export LC_ALL=C
START_MAX=$((REPLY_WITHIN * 4))          # seconds, to answer the first request; to start may take long
LIFETIME=$((BATS_TEST_TIMEOUT + 10)) # a server lives no longer, whatever becomes of its test

# A server writes to a client that is gone: that must be able to end it. The test's own printf, to a
# server that is gone, has to fail and no more.
setup() {
    serve
    trap '' PIPE
}

# up: whether somebody listens.
up() { (: <>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; }

# answers: whether a line comes back for one.
answers() {
    (exec 8<>"/dev/tcp/127.0.0.1/$PORT" && echo 'KV/1.0 GET key' >&8 &&
        read -r -t "$REPLY_WITHIN" -u 8) 2>/dev/null
}

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
    wait_until $START_MAX answers_or_dead 2>/dev/null || : >"$mute"
    answers || { echo "no answer from port $PORT" >&2; return 1; }
}

teardown() {
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

# taken: whether the server has read all that was sent.
taken() {
    [ -z "$(ss -tnH "sport = :$PORT" | awk '$2 > 0')" ]
}

# long BYTES: so many times the letter x.
long() {
    printf '%*s' "$1" '' | tr ' ' x
}

# wait_until SECONDS COMMAND...: until the command succeeds.
wait_until() {
    local end=$((SECONDS + $1 * PATIENCE + 1))
    shift
    until "$@"; do
        if [ $SECONDS -ge $end ]; then
            echo "waited in vain: $*" >&2
            return 1
        fi
        sleep 0.01
    done
}

# dead PID: whether it has ended, seen or not by its parent.
dead() {
    case $(ps -o stat= -p "$1") in
    '' | Z*) ;;
    *) return 1 ;;
    esac
}

# talk: sends stdin to the server, says that this is all, and prints what comes until the server
# closes. Without -N or -q, some authors' nc says so unasked.
talk() {
    local close=()
    case $(nc -h 2>&1 || :) in
    *OpenBSD*) close=(-N) ;;
    *'[v1.'*) close=(-q 60) ;;
    esac
    timeout "$REPLY_WITHIN" nc "${close[@]}" 127.0.0.1 "$PORT"
}

# ask REQUEST...: sends the requests, a line each, and prints the replies.
ask() {
    printf '%s\n' "$@" | talk
}

# printed TEXT: what `run` must have printed.
# shellcheck disable=SC2154 # run sets output
printed() {
    if [ "$output" != "$1" ]; then
        printf 'expected:\n%s\nbut got:\n%s\n' "$1" "$output" >&2
        return 1
    fi
}

# replies REQUEST REPLY [REQUEST REPLY...]: one connection, and each request must get its reply.
replies() {
    local requests=() wanted=()
    while [ $# -gt 0 ]; do
        requests+=("$1")
        wanted+=("$2")
        shift 2
    done
    run ask "${requests[@]}"
    printed "$(printf '%s\n' "${wanted[@]}")"
}

# connect: opens a connection that stays. Sets FD, its descriptor.
# shellcheck disable=SC2034 # the tests use it
connect() {
    exec {FD}<>"/dev/tcp/127.0.0.1/$PORT"
}

# hang_up FD...
hang_up() {
    local fd
    for fd; do exec {fd}>&-; done
}

# hears FD LINE...: these lines come on that connection.
hears() {
    local fd=$1 wanted line
    for wanted in "${@:2}"; do
        IFS= read -r -t "$REPLY_WITHIN" -u "$fd" line || line='nothing, or the end'
        [ "$line" = "$wanted" ] || { printf 'expected:\n%s\nbut got:\n%s\n' "$wanted" "$line" >&2; return 1; }
    done
}

# says FD REQUEST REPLY: on that connection, the request gets the reply.
says() {
    printf '%s\n' "$2" >&"$1"
    hears "$1" "$3" || { printf 'to: %s\n' "$2" >&2; return 1; }
}
