# shellcheck shell=bash
# What the tests share. A test starts its own servers on free ports, talks to them with nc, and
# leaves nothing behind: teardown ends every server, and fails the test if one did not end well, so
# that a report of a sanitizer is never missed.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
KVSS=${KVSS:-$ROOT/kvss}
KVSS_CLIENT=${KVSS_CLIENT:-$ROOT/kvss_client}
export LC_ALL=C ASAN_OPTIONS=${ASAN_OPTIONS-detect_leaks=1}
PATIENCE=${PATIENCE:-10} # how many times as long to wait as a quiet machine needs
SERVERS=()
LOGS=0

# wait_until SECONDS COMMAND...: until the command succeeds. SECONDS are enough on a quiet machine; it
# fails after PATIENCE times as many.
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

# serve [OPTION...]: starts a server. Sets PID, PORT, and LOG, the file of what it says.
serve() {
    LOG=$BATS_TEST_TMPDIR/log.$((++LOGS))
    "$KVSS" --port 0 "$@" 2>"$LOG" 3>&- &
    PID=$!
    SERVERS+=("$PID")
    wait_until 10 grep -q '^kvss: listening on ' "$LOG"
    PORT=$(sed -n 's/^kvss: listening on .*://p' "$LOG")
}

# serve_frames [OPTION...]: starts one that has both wires. Sets FRAMES, too, the other port.
serve_frames() {
    serve --frames 0 "$@"
    wait_until 10 grep -q '^kvss: listening for frames on ' "$LOG"
    # shellcheck disable=SC2034 # the tests use it
    FRAMES=$(sed -n 's/^kvss: listening for frames on .*://p' "$LOG")
}

# stop PID [SIGNAL]: ends a server, and succeeds if it says goodbye with status 0.
stop() {
    kill -s "${2:-TERM}" "$1" && ended "$1"
}

# ended PID: waits until the server has ended, and gives its exit status.
ended() {
    local i status=0
    wait "$1" || status=$?
    for i in "${!SERVERS[@]}"; do
        [ "${SERVERS[i]}" != "$1" ] || unset "SERVERS[i]"
    done
    return $status
}

# dead PID: whether it has ended, seen or not by its parent.
dead() {
    case $(ps -o stat= -p "$1") in
    '' | Z*) ;;
    *) return 1 ;;
    esac
}

teardown() {
    local pid failed=0
    for pid in "${SERVERS[@]}"; do
        kill "$pid" 2>/dev/null || { echo "server $pid had died" >&2; failed=1; }
        # A failed test may have left it stopped. (If not, no SIGCONT: it upsets LeakSanitizer.)
        [[ $(ps -o stat= -p "$pid") != T* ]] || kill -s CONT "$pid"
        wait_until 20 dead "$pid" || kill -s KILL "$pid"
        wait "$pid" || { echo "server $pid ended with status $?" >&2; failed=1; }
    done
    if [ $failed = 1 ]; then
        cat "$BATS_TEST_TMPDIR"/log.* >&2
        return 1
    fi
}

# nc has several authors. Sets NC_CLOSE, the option that passes the end of stdin on to the other side
# (without one, some do that unasked), and NC_LISTEN, how to listen on PORT; empty where it can't on
# one address alone.
# shellcheck disable=SC2034 # used by the tests
know_nc() {
    NC_CLOSE=() NC_LISTEN=(-l 127.0.0.1 "$PORT")
    case $(nc -h 2>&1 || :) in
    *OpenBSD*) NC_CLOSE=(-N) ;;
    *'[v1.'*) NC_CLOSE=(-q 60) NC_LISTEN=(-l -s 127.0.0.1 -p "$PORT") ;;
    *BusyBox*) NC_LISTEN=() ;;
    esac
}

# talk: sends stdin to the server, says that this is all, and prints what comes until the server
# closes.
talk() {
    know_nc
    timeout "${REPLY_WITHIN:-$((60 * PATIENCE))}" nc "${NC_CLOSE[@]}" 127.0.0.1 "$PORT"
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
# shellcheck disable=SC2034
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
        IFS= read -r -t "${REPLY_WITHIN:-$((20 * PATIENCE))}" -u "$fd" line || line='nothing, or the end'
        [ "$line" = "$wanted" ] || { printf 'expected:\n%s\nbut got:\n%s\n' "$wanted" "$line" >&2; return 1; }
    done
}

# says FD REQUEST REPLY: on that connection, the request gets the reply.
says() {
    printf '%s\n' "$2" >&"$1"
    hears "$1" "$3" || { printf 'to: %s\n' "$2" >&2; return 1; }
}

# stuff: sends bob, who does not read, numbered messages of 10,000 bytes, until 60 or more of them wait
# in his mailbox. Sets SENT, how many there were.
stuff() {
    local text waiting=0
    text=$(printf '%10000s' '' | tr ' ' x)
    SENT=0
    while [ "$waiting" -lt 60 ]; do
        seq $((SENT + 1)) $((SENT + 20)) | sed "s/.*/KV\/1.0 SEND bob & $text/" | talk >"$BATS_TEST_TMPDIR/stuffed"
        [ "$(grep -c '^20[02] ' "$BATS_TEST_TMPDIR/stuffed")" = 20 ]
        waiting=$((waiting + $(grep -c '^202 ' "$BATS_TEST_TMPDIR/stuffed" || :)))
        SENT=$((SENT + 20))
    done
}

# memory PID: its resident memory, in kB.
memory() {
    ps -o rss= -p "$1" | tr -d ' '
}

# instrumented: whether the server's memory and time are not its own: it was built by make SANITIZE=1, or
# KVSS is a script that has valgrind or qemu run it.
instrumented() {
    grep -q -e __asan_init -e '^#!' "$KVSS"
}
