# shellcheck shell=bash
# To follow a page of the documentation as a reader would: type what it shows, and compare what is printed
# with what it shows.

# fresh_copy: of the project, like a clone, to follow the pages in. Sets COPY.
fresh_copy() {
    COPY=$BATS_TEST_TMPDIR/copy
    mkdir "$COPY"
    cp -R "$ROOT"/{Makefile,kvss.c,kvss_client.c,docs} "$COPY"
}

# What is never twice the same is made the same.
alike() {
    sed 's/uptime=[0-9]*s/uptime=Ns/; s/uptime: [0-9:]*/uptime: H:MM:SS/; s/ in [0-9.]* s$/ in N s/'" ; s|$COPY|/home/you|" "$@"
}

# together FILE: a conversation of several clients. "1> request" is sent on connection 1, and "1< reply"
# has to come there. The port in a reply to WHOAMI is not the one on the page, but it goes on as that.
together() {
    local line fd reply from='' to='' connections=()
    while IFS= read -r line; do
        fd=${connections[${line:0:1}]-}
        case $line in
        ?'> '*)
            [ "$fd" ] || exec {fd}<>"/dev/tcp/127.0.0.1/$PORT"
            connections[${line:0:1}]=$fd
            line=${line#?> }
            printf '%s\n' "${line//$from/$to}" >&"$fd" ;;
        ?'< '*)
            IFS= read -r -t 20 -u "$fd" reply
            case $line in *' 200 OK guest '*) from=${line##* } to=${reply##* } ;; esac
            same "$line" "${line#?< }" "${reply//${to:-$from}/$from}" ;;
        esac
    done <"$1"
    for fd in "${connections[@]}"; do exec {fd}>&-; done
}

# follow PAGE: runs its blocks. "kv [OPTION]" is a conversation with a server of its own, in which
# lines that begin with a status are the server's, or one of several clients. "console" is commands
# after "$ " with what they print; for them, ports 9000 and 9001 become free ones. Other blocks have a
# name, and a test of their own that reads them by it.
follow() {
    local line block='' CONSOLE='' FRAMES=''
    while IFS= read -r line; do
        case $line in
        '```kv'* | '```console') block=${line#'```'}; : >"$BATS_TEST_TMPDIR/block" ;;
        '```')
            case $block in
            kv*)
                read -r -a options <<<"${block#kv}"
                BLOCKS=$((BLOCKS + 1))
                serve "${options[@]/#managers/$COPY/managers}"
                if grep -q '^[0-9]> ' "$BATS_TEST_TMPDIR/block"; then
                    together "$BATS_TEST_TMPDIR/block"
                else
                    converse talk "$BATS_TEST_TMPDIR/block"
                fi ;;
            console)
                [ "$CONSOLE" ] || { serve_frames; remember; }
                PORT=$CONSOLE
                commands "$BATS_TEST_TMPDIR/block" ;;
            esac
            block='' ;;
        '```'*) block=other ;;
        *) [ -z "$block" ] || printf '%s\n' "$line" >>"$BATS_TEST_TMPDIR/block" ;;
        esac
    done <"$1"
}

# remember: the server that commands talk to is the one just started.
remember() {
    CONSOLE=$PORT CONSOLE_PID=$PID
}

# same WHAT WANTED GOT
same() {
    [ "$2" = "$3" ] || {
        printf 'on the page: %s\n%s\nin fact:\n%s\n' "$1" "$2" "$3" >&2
        return 1
    }
}

# converse COMMAND FILE: what the file has the client say is piped into the command.
converse() {
    same "$1" "$(grep -E '^[1-5][0-9][0-9] ' "$2" | alike)" \
        "$(grep -v -E '^[1-5][0-9][0-9] ' "$2" | sed 's/^KVSS> //; /^exit$/d' | $1 | alike)"
}

# commands FILE: runs each command of a block.
commands() {
    local line typed='' output="$BATS_TEST_TMPDIR/output"
    while IFS= read -r line; do
        case $line in
        '$ '*)
            [ -z "$typed" ] || one_command "$typed" "$output"
            typed=${line#'$ '}
            : >"$output" ;;
        *) printf '%s\n' "$line" >>"$output" ;;
        esac
    done <"$1"
    one_command "$typed" "$output"
}

one_command() {
    BLOCKS=$((BLOCKS + 1))
    case $1 in
    'nc 127.0.0.1 9000') converse talk "$2" ;;
    './kvss_client') converse "$COPY/kvss_client --port $PORT" "$2" ;;
    './kvss 9000'*)
        # Before the next server, the reader has stopped the one before.
        [ -z "${CONSOLE_PID-}" ] || stop "$CONSOLE_PID"
        CONSOLE_PID=''
        case $1 in *'||'*) one_plain_command "$@"; return ;; esac
        read -r -a words <<<"${1#./kvss 9000}"
        cd "$COPY" || return
        KVSS=./kvss serve_frames "${words[@]/#9001/0}"
        cd - >/dev/null || return
        remember
        same "$1" "$(alike "$2")" "$(head -n "$(wc -l <"$2")" "$LOG" |
            sed "s/:$PORT$/:9000/; s/:$FRAMES$/:9001/" | alike)" ;;
    *) one_plain_command "$@" ;;
    esac
}

one_plain_command() {
    command=${1//127.0.0.1 9001/127.0.0.1 $FRAMES}
    command=${command//9000/$PORT}
    command=${command//kvss_client/kvss_client --port $PORT}
    know_nc
    export NC_CLOSE_WORDS=${NC_CLOSE[*]}
    # shellcheck disable=SC2016
    got=$(cd "$COPY" && bash -c 'nc() { [ "$1" != -N ] || shift; command nc $NC_CLOSE_WORDS "$@"; }
        '"$command" 2>&1) || { echo "$1: status $?, and it printed:" "$got" >&2; return 1; }
    [ -z "$(cat "$2")" ] || same "$1" "$(alike "$2")" "$(alike <<<"${got//$PORT/9000}")"
}

# block PAGE NAME: the lines of the page's block of that name, which is the last word after ```.
block() {
    sed -n '/^```\([a-z]* \)\{0,1\}'"$2"'$/,/^```$/p' "$ROOT/$1" | grep -v '^```'
}

# check_page PAGE: every command of a page of ROOT does what it shows, and there is one at least.
check_page() {
    BLOCKS=0 PORT=none
    cp "$KVSS" "$KVSS_CLIENT" "$COPY"
    follow "$ROOT/$1"
    [ "$BLOCKS" -gt 0 ]
    [ "$BLOCKS" = "$(grep -c -e '^\$ ' -e '^```kv' "$ROOT/$1")" ]
}
