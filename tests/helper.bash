# shellcheck shell=bash disable=SC2034,SC2154 # the tests use what is set here
# How to write a test. It starts a server, says something to it, and looks at what comes back. One
# client whose requests are known beforehand needs only `replies`, a request and a reply in turn:
#     serve
#     replies 'KV/1.0 PUT city Hue' '201 CREATED' \
#             'KV/1.0 GET city' '200 OK Hue'
# Several clients have names; what one says and what it hears are lines:
#     connect ann; connect bob
#     says ann 'KV/1.0 PUT city Hue'; hears ann '201 CREATED'
#     says bob 'KV/1.0 GET city'; hears bob '200 OK Hue'
# What takes its time is waited for, never slept for. LOG is the file of what the server says:
#     serve --timeout 1; connect ann; wait_until logged ' idle'
# In a reply, " *" at its end stands for any reason: '400 BAD_REQUEST *'. Clients talk through nc.

ROOT=$(cd "${BASH_SOURCE[0]%/*}/.." && pwd)
KVSS=${KVSS:-$ROOT/kvss} KVSS_CLIENT=${KVSS_CLIENT:-$ROOT/kvss_client}
declare -gA TO=() FROM=() NC=()         # of each client, by its name: descriptors, and the process
SERVERS=() STARTED=0 PATIENCE=${PATIENCE:-120} # seconds, for what takes a moment
NEVER=${BATS_SUITE_TMPDIR:-/tmp}/never  # a fifo to wait at: nothing ever comes
[ -p "$NEVER" ] || mkfifo "$NEVER" 2>/dev/null || :
export LC_ALL=C ASAN_OPTIONS=${ASAN_OPTIONS-detect_leaks=1} NC_CLOSE NC_LISTEN
[ "${NC_LISTEN+known}" ] || case $(nc -h 2>&1 || :) in # it has several authors
*OpenBSD*) NC_CLOSE=-N NC_LISTEN='-l 127.0.0.1' ;;     # -N: to pass the end of stdin on
*'[v1.'*) NC_CLOSE=-q60 NC_LISTEN='-l -s 127.0.0.1 -p' ;;
*BusyBox*) NC_CLOSE='' NC_LISTEN='' ;;                 # it can't listen at one address
*) NC_CLOSE='' NC_LISTEN='-l 127.0.0.1' ;;
esac

# wait_until COMMAND...: until it succeeds, for instance `logged TEXT [N]`: the text is in LOG, N times.
wait_until() {
    local end=$((SECONDS + PATIENCE))
    until "$@"; do
        [ $SECONDS -lt $end ] || { echo "waited in vain: $*" >&2; return 1; }
        read -rt 0.01 <>"$NEVER" || :
    done
}
logged() {
    local log rest
    log=$(<"$LOG") rest=${log//"$1"/}
    [ $((${#log} - ${#rest})) -ge $((${#1} * ${2-1})) ]
}

# serve [OPTION...]: starts a server on a free port. Sets PID, PORT and LOG, the file of its stderr.
# serve_frames [OPTION...]: sets FRAMES, too, the port of the other wire.
serve() {
    LOG=$BATS_TEST_TMPDIR/log.$((++STARTED)) PORT= && : >"$LOG"
    apart "$KVSS" --port 0 "$@" 2>"$LOG" &
    PID=$! SERVERS[$!]=$!
    wait_until listens '' && PORT=${BASH_REMATCH[1]-}
    [ "$PORT" ] || { cat "$LOG" >&2; ended "$PID"; return 1; }
}
serve_frames() { serve --frames 0 "$@" && wait_until listens 'for frames ' && FRAMES=${BASH_REMATCH[1]}; }
apart() { shut "${TO[@]}" "${FROM[@]}" 3 && exec "$@"; } # it must not hold what clients write to
listens() { [[ $(<"$LOG")$'\n' =~ "kvss: listening $1on "[^$'\n']*:([0-9]+)$'\n' ]] || dead "$PID"; }

# stop PID [SIGNAL]: ends a server, and succeeds if its exit status, which `ended PID` waits for, is 0.
# freeze PID: it sleeps, until kill -s CONT. instrumented: time and memory are not the server's own, since
# SANITIZE=1 built it, or KVSS has valgrind or qemu run it.
stop() { kill -s "${2:-TERM}" "$1" && ended "$1"; }
ended() { wait_until dead "$1" && unset "SERVERS[$1]" && wait "$1"; }
dead() { ! kill -s 0 "$1" || { local stat && read -r stat <"/proc/$1/stat" && [[ $stat == *') Z '* ]]; }; } 2>/dev/null # Z: bash has not noticed
freeze() { kill -s STOP "$1" && wait_until asleep "$1"; }
asleep() { [[ $(ps -o stat= -p "$1") == T* ]]; }
instrumented() { grep -q -e __asan_init -e '^#!' "$KVSS"; }
teardown() { # every server has to end well, so that a report of a sanitizer is never missed
    local pid failed=0
    hang_up "${!NC[@]}"
    for pid in "${SERVERS[@]}"; do
        [ "${BATS_TEST_COMPLETED-}" ] || kill -s CONT "$pid" 2>/dev/null || : # it may be asleep
        stop "$pid" || { failed=1; kill -s KILL "$pid" 2>/dev/null || :; }
    done
    [ $failed = 0 ] || { tail -n 100 "$BATS_TEST_TMPDIR"/log.* >&2; return 1; }
}

# talk: sends stdin to the server, and its end, and prints what comes. ask REQUEST...: these requests.
# printed TEXT: what `run` must have printed. replies REQUEST REPLY...: each request must get its reply.
talk() { timeout "$PATIENCE" nc ${NC_CLOSE:+"$NC_CLOSE"} 127.0.0.1 "$PORT"; }
ask() { printf '%s\n' "$@" | talk; }
printed() { same "$1" "$output"; }
same() {
    [ "$2" = "$1" ] || [[ $1 == *' *' && $2 == "${1%\*}"?* ]] ||
        { printf 'expected:\n%s\nbut got:\n%s\n%s' "$1" "$2" "${3+to: $3$'\n'}" >&2; return 1; }
}
replies() {
    local i got requests=()
    for ((i = 1; i <= $#; i += 2)); do requests+=("${!i}"); done
    mapfile -t got < <(ask "${requests[@]}")
    for ((i = 2; i <= $#; i += 2)); do same "${!i}" "${got[i / 2 - 1]-(nothing)}" "${requests[i / 2 - 1]}" || return; done
    same "${#requests[@]} replies" "${#got[@]} replies"
}

# connect NAME [PORT [OPTION...]]: a client that stays, an nc. spawn NAME COMMAND...: one that is this command.
# says NAME LINE...: sends these. hears NAME LINE...: these come next. next NAME: sets LINE to what comes next.
# closed NAME: nothing does, and the server closes. hang_up NAME...: dies, whatever it has not read.
connect() { spawn "$1" nc "${@:3}" "${HOST:-127.0.0.1}" "${2:-$PORT}"; }
spawn() {
    local to from fifo=$BATS_TEST_TMPDIR/client.$((++STARTED))
    mkfifo "$fifo.to" "$fifo.from"
    apart "${@:2}" <"$fifo.to" >"$fifo.from" &
    disown && exec {to}>"$fifo.to" {from}<"$fifo.from"
    TO[$1]=$to FROM[$1]=$from NC[$1]=$!
    trap : PIPE # to write to a client that has ended fails, and kills no test
}
says() { printf '%s\n' "${@:2}" >&"${TO[$1]}"; }
next() { IFS= read -r -t "$PATIENCE" -u "${FROM[$1]}" LINE || LINE="(nothing) $LINE"; }
hears() { while [ $# -gt 1 ]; do next "$1" && same "$2" "$LINE" || return; set -- "$1" "${@:3}"; done; }
closed() {
    shut "${TO[$1]}" && unset "TO[$1]" # an nc may wait for that
    same '' "$(timeout "$PATIENCE" cat <&"${FROM[$1]}" || echo '(not closed)')"
}
shut() { local all; [ $# = 0 ] || { printf -v all ' %s>&-' "$@" && eval "exec$all"; }; } # bats is slow with loops
hang_up() {
    local name
    for name; do
        kill -s KILL "${NC[$name]}" 2>/dev/null || : # no other signal is sure, while bash becomes nc
        shut ${TO[$name]+"${TO[$name]}"} "${FROM[$name]}"
        unset "NC[$name]" "TO[$name]" "FROM[$name]"
    done
}
