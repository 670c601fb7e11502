# shellcheck shell=bash disable=SC2153 # LINE and PORT are set by the helper
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

# together FILE: a conversation of several clients, whose names are digits. "1> request" is what client 1 says,
# and "1< reply" is what it has to hear. The port in a reply to WHOAMI is not the one on the page, but it
# goes on as that.
together() {
    local line name from='' to='' names=()
    while IFS= read -r line; do
        name=${line:0:1}
        case $line in
        ?'> '*)
            [ "${names[name]-}" ] || connect "$name"
            names[name]=$name
            line=${line#?> }
            says "$name" "${line//$from/$to}" ;;
        ?'< '*)
            next "$name"
            case $LINE in '200 OK guest '*) from=${line##* } to=${LINE##* } ;; esac
            same "${line#?< }" "${LINE//${to:-$from}/$from}" "$line" ;;
        esac
    done <"$1"
    hang_up "${names[@]}"
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

# converse COMMAND FILE: what the file has the client say is piped into the command.
converse() {
    same "$(grep -E '^[1-5][0-9][0-9] ' "$2" | alike)" \
        "$(grep -v -E '^[1-5][0-9][0-9] ' "$2" | sed 's/^KVSS> //; /^exit$/d' | $1 | alike)" "$1"
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
        # It has both ports in any case; a page may not be about the second one.
        same "$(alike "$2")" "$(sed "s/:$PORT$/:9000/; s/:$FRAMES$/:9001/" "$LOG" |
            grep -v -e "$(grep -q 'for frames' "$2" && echo '^$' || echo 'for frames')" |
            head -n "$(wc -l <"$2")" | alike)" "$1" ;;
    *) one_plain_command "$@" ;;
    esac
}

one_plain_command() {
    command=${1//127.0.0.1 9001/127.0.0.1 $FRAMES}
    command=${command//9000/$PORT}
    command=${command//kvss_client/kvss_client --port $PORT}
    # shellcheck disable=SC2016
    got=$(cd "$COPY" && bash -c 'nc() { [ "$1" != -N ] || shift; command nc $NC_CLOSE "$@"; }
        '"$command" 2>&1) || { echo "$1: status $?, and it printed:" "$got" >&2; return 1; }
    [ -z "$(cat "$2")" ] || same "$(alike "$2")" "$(alike <<<"${got//$PORT/9000}")" "$1"
}

# block PAGE NAME: the lines of the page's block of that name, which is the last word after ```.
block() {
    sed -n '/^```\([a-z]* \)\{0,1\}'"$2"'$/,/^```$/p' "$ROOT/$1" | grep -v '^```'
}

# functions: each line of stdin names one that is in kvss.c, and there are more than $1.
functions() {
    local function count=0
    while read -r function; do
        count=$((count + 1))
        grep -q "^static .*\b$function(" "$ROOT/kvss.c" || { echo "no $function()" >&2; return 1; }
    done < <(sort -u)
    [ $count -gt "$1" ]
}

# check_page PAGE: every command of a page of ROOT does what it shows, and there is one at least.
check_page() {
    BLOCKS=0 PORT=none
    cp "$KVSS" "$KVSS_CLIENT" "$COPY"
    follow "$ROOT/$1"
    [ "$BLOCKS" -gt 0 ]
    [ "$BLOCKS" = "$(grep -c -e '^\$ ' -e '^```kv' "$ROOT/$1")" ]
}
