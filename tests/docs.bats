#!/usr/bin/env bats
# Every command and every output on the pages is run and compared; options, statuses, verbs and links
# are checked against what they are about.

load helper

# A copy of the project, as fresh as a clone, to follow the pages in.
setup() {
    COPY=$BATS_TEST_TMPDIR/copy
    mkdir "$COPY"
    cp -R "$ROOT"/{Makefile,kvss.c,kvss_client.c,docs} "$COPY"
}

# What is never twice the same is made the same.
alike() {
    sed 's/uptime=[0-9]*s/uptime=Ns/; s/ in [0-9.]* s$/ in N s/'" ; s|$COPY|/home/you|" "$@"
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
# lines that begin with a status are the server's, or one of several clients. "console" is commands after "$ " with what they
# print; for them, ports 9000 and 9001 become free ones. Other blocks are not run.
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
                [ "$CONSOLE" ] || { serve --frames 0; remember; }
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
    FRAMES=$(sed -n 's/^kvss: listening for frames on .*://p' "$LOG")
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
        KVSS=./kvss serve --frames 0 "${words[@]}"
        cd - >/dev/null || return
        remember
        same "$1" "$(alike "$2")" "$(head -n 1 "$LOG" | sed "s/:$PORT$/:9000/" | alike)" ;;
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

@test "README.md: every command does what the page shows" {
    BLOCKS=0 PORT=none
    follow "$ROOT/README.md"
    [ "$BLOCKS" = "$(grep -c -e '^\$ ' -e '^```kv' "$ROOT/README.md")" ]
}

@test "docs/protocol.md: every example is answered as the page shows" {
    BLOCKS=0
    cp "$KVSS" "$KVSS_CLIENT" "$COPY"
    follow "$ROOT/docs/protocol.md"
    [ "$BLOCKS" = "$(grep -c -e '^\$ ' -e '^```kv' "$ROOT/docs/protocol.md")" ]
}

@test "telnet works as README.md says" {
    command -v expect >/dev/null || skip "expect is needed: apt-get install expect"
    command -v telnet >/dev/null || skip "telnet is needed: apt-get install telnet"
    serve
    run expect -c "
        set timeout 20
        spawn telnet 127.0.0.1 $PORT
        expect {Connected to} {} timeout { exit 1 }
        foreach {request reply} {
            {KV/1.0 PUT foo a b} {201 CREATED}
            {KV/1.0 GET foo} {200 OK a b}
            {KV/1.0 QUIT} {200 OK bye}
        } {
            send \"\$request\\r\"
            expect -ex \"\$reply\\r\" {} timeout { exit 1 }
        }
        expect {closed by foreign host} {} timeout { exit 1 }" 3>&-
    echo "$output"
    [ "$status" = 0 ]
}

@test "README.md's test command is the one that runs these tests" {
    grep -q '&& bats tests/$' "$ROOT/README.md"
}

@test "links on the pages lead somewhere" {
    for page in "$ROOT"/README.md "$ROOT"/docs/*.md; do
        while read -r link; do
            case $link in
            http*) ;;
            *) [ -e "$(dirname "$page")/$link" ] || { echo "$page: $link" >&2; false; } ;;
            esac
        done < <(grep -o '](\([^)]*\))' "$page" | sed 's/^](//; s/)$//; s/#.*//')
    done
}

# options_of PROGRAM: the options in --help, a line each, as "-p --port PORT".
options_of() {
    "$1" --help | sed -n 's/^  \(-.\), \(--[a-z-]*\) \([A-Z]*\) .*/\1 \2 \3/p' | sed 's/ *$//'
}

# described_in PAGE: the same, as a man page has them.
described_in() {
    sed -n 's/^\.It Fl \(.\) , Fl -\([a-z-]*\)\( Ar\)\{0,1\}\(.*\)$/-\1 --\2\4/p' "$1"
}

@test "the man pages have the options of --help, in its order" {
    for program in kvss kvss_client; do
        wanted=$(options_of "$ROOT/$program")
        same "$program" "$(described_in "$ROOT/docs/$program.1")" "$wanted"
        [ "$(wc -l <<<"$wanted")" -ge 7 ]
    done
}

@test "the man pages are sound" {
    command -v mandoc >/dev/null || skip "mandoc is needed: apt-get install mandoc"
    mandoc -Tlint -Wwarning "$ROOT"/docs/*.1
}

@test "docs/protocol.md has the statuses of kvss.c, all of them and no other" {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    same statuses "$(sed -n 's/^| `\([1-5][0-9]* [A-Z_]*\)`.*/\1/p' "$ROOT/docs/protocol.md")" \
        "$(sed -n 's/^ *\[[A-Z_]*\] = {TEXT("\(.*\)")},$/\1/p' "$ROOT/kvss.c")"
}

@test "docs/protocol.md has a section for each request of --help" {
    "$KVSS" --help | sed -n 's/^  KV\/1\.0 \([A-Z]*\).*/\1/p' >"$BATS_TEST_TMPDIR/verbs"
    [ -s "$BATS_TEST_TMPDIR/verbs" ]
    while read -r verb; do
        grep -q "^\*\*$verb\b" "$ROOT/docs/protocol.md"
        grep -q "^[a-z]* *= \"$verb\"" "$ROOT/docs/protocol.md"
    done <"$BATS_TEST_TMPDIR/verbs"
}

@test "docs/performance.md has the tables that its numbers give" {
    same page "$(cat "$ROOT/docs/performance.md")" "$("$ROOT/tests/bench/page.bash" --print)"
    grep -q '^| 50 clients, depth 100 | redis | throughput | [0-9]' "$ROOT/docs/performance.md"
}

@test "functions that the pages name are in kvss.c" {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    grep -o '`[a-z]*_[a-z_]*()`' "$ROOT"/docs/*.md | sed 's/.*`\(.*\)()`/\1/' | sort -u >"$BATS_TEST_TMPDIR/functions"
    [ -s "$BATS_TEST_TMPDIR/functions" ]
    while read -r function; do
        grep -q "^static .*\b$function(" "$ROOT/kvss.c" || { echo "$function() is not in kvss.c" >&2; false; }
    done <"$BATS_TEST_TMPDIR/functions"
}

@test "make install puts programs and pages in place, and they work there" {
    make -s -C "$COPY" install PREFIX=/opt/kvss DESTDIR="$BATS_TEST_TMPDIR/root"
    cd "$BATS_TEST_TMPDIR/root/opt/kvss"
    run find . -type f
    same files "$(printf '%s\n' ./bin/kvss ./bin/kvss_client ./share/man/man1/kvss.1 ./share/man/man1/kvss_client.1)" \
        "$(sort <<<"$output")"
    [ "$(bin/kvss --version)" = "$("$KVSS" --version)" ]
    make -s -C "$COPY" clean
    [ ! -e "$COPY/kvss" ] && [ ! -e "$COPY/kvss_client" ]
}
