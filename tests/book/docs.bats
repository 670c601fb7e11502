#!/usr/bin/env bats
# Every command and every output on the pages is run and compared; options, statuses, verbs and links
# are checked against what they are about.

# shellcheck disable=SC2016 # these are backquotes of Markdown

load ../helper
load follow

setup() { fresh_copy; }

@test "README.md: every command does what the page shows" {
    check_page README.md
}

@test "docs/protocol.md: every example is answered as the page shows" {
    check_page docs/protocol.md
}

@test "README.md's two commands build the server and start it, and run these tests" {
    sudo() { :; }
    bats() { echo "bats $*"; }
    command=$(block README.md build)
    (cd "$COPY" && eval "${command%'&& ./kvss 9000'}")
    [ "$command" != "${command%'&& ./kvss 9000'}" ]
    KVSS=$COPY/kvss serve
    [ "$(eval "$(block README.md tests)")" = 'bats tests/' ]
}

# pages: all pages there are.
pages() {
    find "$ROOT/README.md" "$ROOT/docs" -name '*.md'
}

# spans: the code in the text of all pages, a line each; what is in blocks is not.
spans() {
    pages | while read -r page; do
        sed '/^```/,/^```$/d' "$page" | tr '\n' ' ' | grep -o '`[^`]*`' | tr -d '`'
    done | sort -u
}

# followed PAGE KIND: whether a test follows such a block of the page. In the chapters, what is of
# no kind is a drawing.
followed() {
    local tests=("$ROOT"/tests/book/*.bats "$ROOT"/docs/labs/*/lab.bats)
    case $2 in
    kv | 'kv '* | console)
        grep -q -F -e "check_page $1" -e "check_page \"${1%/*}/\${page##*/}\"" "${tests[@]}" ;;
    '') [[ $1 == docs/chapters/* ]] ;;
    *) grep -q -e "block $1 ${2##* }\b" "${tests[@]}" ;;
    esac
}

@test "there is a test for each block on each page" {
    local page kind blocks=0
    while read -r page; do
        while IFS= read -r kind; do
            blocks=$((blocks + 1))
            followed "${page#"$ROOT/"}" "$kind" ||
                { echo "$page: no test follows the block '$kind'" >&2; false; }
        done < <(awk '/^ *(```|~~~)/ && (inside = !inside) { sub(/^ *(```|~~~)/, ""); print }
            /^(    |\t|<pre)/ && !inside { print "of no fence" }' "$page")
    done < <(pages)
    [ $blocks -gt 100 ]
}

@test "packages that the pages have installed can be installed" {
    apt-cache madison wireshark 2>&1 | grep -q ' wireshark ' ||
        skip "there is no apt-get, or it wants an apt-get update"
    sudo() { "$@"; }
    apt-get() { [ "$1" != install ] || command apt-get --simulate "$@"; }
    { # but for what comes after that
        block README.md build | sed 's/ && make.*//'
        block README.md tests | sed 's/ && bats.*//'
        block docs/wireshark.md install
        block docs/grpc/README.md install
        spans | grep '^sudo apt-get'
    } >"$BATS_TEST_TMPDIR/commands"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/commands")" -ge 5 ]
    while read -r command; do eval "$command"; done <"$BATS_TEST_TMPDIR/commands"
}

@test "what the pages have make do, it can do; its head says what that is" {
    local targets
    targets=$({ spans; sed -n 's/^# //p' "$ROOT/Makefile"; } |
        sed -n 's/^\(sudo \)\{0,1\}make \([a-z]\{1,\}\)\b.*/\2/p')
    for target in $targets; do
        grep -q "^$target:" "$ROOT/Makefile" && grep -q "^# make $target " "$ROOT/Makefile" ||
            { echo "make $target?" >&2; false; }
    done
    [ "$(wc -w <<<"$targets")" -ge 10 ]
}

@test "servers that the text has started do start" {
    local words
    cd "$BATS_TEST_TMPDIR"
    (umask 077; : >managers)
    spans | grep '^\./kvss .*9000' >commands
    [ "$(wc -l <commands)" -ge 5 ]
    while read -r command; do
        command=${command//900[01]/0}
        read -r -a words <<<"${command/managers FILE/managers managers}"
        serve "${words[@]:1}"
        stop "$PID"
    done <commands
}

@test "files that the text names are there" {
    spans | sed -n 's/^\(bats \|man \)\{0,1\}\(\(tests\|docs\)\/[^ ]*\).*/\2/p' \
        >"$BATS_TEST_TMPDIR/files"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/files")" -ge 15 ]
    while read -r file; do
        [ -e "$ROOT/$file" ] || { echo "there is no $file" >&2; false; }
    done <"$BATS_TEST_TMPDIR/files"
}

# anchors PAGE: what GitHub makes of its headings.
anchors() {
    sed -n 's/^##* //p' "$1" | tr '[:upper:]' '[:lower:]' | sed 's/[][`*(),.:;?!"/=+$<>'"'"']//g; s/ /-/g'
}

@test "links on the pages lead somewhere" {
    while read -r page; do
        while read -r link; do
            case $link in http*) continue ;; esac
            to=$(dirname "$page")/${link%%#*}
            [ "${link%%#*}" ] || to=$page
            [ -e "$to" ] || { echo "$page: $link" >&2; false; }
            case $link in
            *.md#* | '#'*) anchors "$to" | grep -q -x -F -e "${link#*#}" || { echo "$page: $link" >&2; false; } ;;
            esac
        done < <(grep -o '](\([^)]*\))' "$page" | sed 's/^](//; s/)$//')
    done < <(pages)
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
        same "$wanted" "$(described_in "$ROOT/docs/$program.1")" "$program"
        [ "$(wc -l <<<"$wanted")" -ge 7 ]
    done
}

@test "the client's help has each request of kvss" {
    for verb in $("$KVSS" --help | sed -n 's/^  KV\/1\.0 \([A-Z]*\).*/\1/p'); do
        "$KVSS_CLIENT" --help | grep -q "^  ${verb,,}" || { echo "no $verb" >&2; false; }
    done
}

@test "every option of kvss is used in a test" {
    for option in $("$KVSS" --help | sed -n 's/^  -., \(--[a-z-]*\).*/\1/p'); do
        grep -q -e "^ .*$option\b" "$ROOT"/tests/{,hostile/}*.bats "$ROOT"/docs/labs/*/lab.bats ||
            { echo "no test uses $option" >&2; false; }
    done
}

@test "the man pages are sound" {
    command -v mandoc >/dev/null || skip "mandoc is needed: apt-get install mandoc"
    mandoc -Tlint -Wwarning "$ROOT"/docs/*.1
}

@test "docs/protocol.md has the statuses of kvss.c, all of them and no other" {
    same "$(grep -o '\[[A-Z_]*\] = STR_INIT("[1-5][0-9]* [A-Z_]*"' "$ROOT/kvss.c" | cut -d '"' -f 2)" \
        "$(sed -n 's/^| `\([1-5][0-9]* [A-Z_]*\)`.*/\1/p' "$ROOT/docs/protocol.md")"
}

@test "docs/protocol.md is about this version" {
    grep -q "This is what $("$KVSS" --version) does" "$ROOT/docs/protocol.md"
}

@test "docs/protocol.md has a section for each request of --help" {
    "$KVSS" --help | sed -n 's/^  KV\/1\.0 \([A-Z]*\).*/\1/p' >"$BATS_TEST_TMPDIR/verbs"
    [ -s "$BATS_TEST_TMPDIR/verbs" ]
    while read -r verb; do
        grep -q "^\*\*$verb\b" "$ROOT/docs/protocol.md"
        grep -q "^[a-z]* *= \"$verb\"" "$ROOT/docs/protocol.md"
    done <"$BATS_TEST_TMPDIR/verbs"
}

# various: requests of all verbs, good and bad, that are UTF-8. Left out: what ends the connection,
# what needs more than the right form, and a value that is nothing but a CR.
various() {
    {
        sed -n 's/^\([0-9]> \)\{0,1\}\(KV\/1.0 .*\)/\2/p' "$ROOT/docs/protocol.md" |
            awk '{ print; print $0 " x"; sub(/ [^ ]*$/, ""); print; print $0 " " }'
        "$ROOT/tests/tools/soak/model.py" generate 5 20000
        echo
    } | LC_ALL=C.UTF-8 grep -a -x '.*' |
        grep -a -v -e '^KV/1.0 \(MANAGE\|AUTH\|QUIT.\{0,1\}$\)' -e '^KV/1.0 LIST user($' \
            -e '^KV/1.0 EXPIRE session 0$' -e $'^KV/1.0 PUT [^ ]* \r$'
}

@test "the grammar of docs/protocol.md takes the requests that kvss takes, and what it answers" {
    command -v python3 >/dev/null || skip "python3 is needed"
    # in_grammar RULE
    in_grammar() { "$ROOT/tests/book/grammar.py" rules "$1"; }
    cd "$BATS_TEST_TMPDIR"
    block docs/protocol.md abnf >rules
    various >requests
    serve --quiet
    talk <requests >answers
    grep -a '^100 ' answers >messages
    grep -a -v '^100 ' answers >replies
    in_grammar request <requests >taken
    paste -d ' ' taken replies requests |
        awk '($1 == 1) == ($2 ~ /^(400|405|426)$/)' >wrong # 405 is lab 4's
    cat -v wrong | cut -c 1-100 | head
    [ ! -s wrong ]
    [ "$({ in_grammar message <messages; in_grammar reply <replies; } | sort -u)" = 1 ]
    [ "$(grep -c 1 taken)" -gt 5000 ] && [ "$(grep -c 0 taken)" -gt 1000 ]
    [ "$(wc -l <replies)" = "$(wc -l <requests)" ]
}

@test "docs/performance.md has the tables that its numbers give" {
    command -v python3 >/dev/null || skip "python3 is needed"
    cp -R "$ROOT/tests" "$COPY"
    "$COPY/tests/tools/bench/report.py" page
    cmp "$ROOT/docs/performance.md" "$COPY/docs/performance.md"
    grep -q '^| 50 clients, depth 100 | redis | throughput | [0-9]' "$ROOT/docs/performance.md"
}

@test "docs/performance.md: its commands draw its pictures, and write its tables" {
    command -v gnuplot >/dev/null || skip "gnuplot is needed: apt-get install gnuplot-nox"
    made_by=$(gnuplot --version)
    grep -q "Produced by GNUPLOT ${made_by#gnuplot } *<" "$ROOT/docs/figures/performance-depth.svg" ||
        skip "another gnuplot draws in another way"
    cp -R "$ROOT/tests" "$COPY"
    cd "$COPY"
    rm docs/figures/performance-*.svg
    make() { command make -n "$@" >made; } # it takes minutes
    eval "$(block docs/performance.md draw)"
    grep -q tests/tools/bench/run.bash made
    for file in performance.md figures/performance-{active,depth,idle,waits}.svg; do
        cmp "docs/$file" "$ROOT/docs/$file"
    done
}

# watching WORD: the command of docs/performance.md that begins so.
watching() {
    sed -n 's/.*`\('"$1"' [^`]*\)`.*/\1/p' "$ROOT/docs/performance.md"
}

@test "docs/performance.md: perf sees where the time goes" {
    command -v perf >/dev/null || skip "perf is needed: apt-get install linux-perf"
    cd "$BATS_TEST_TMPDIR"
    perf record -o right true >perf.log 2>&1 || skip "perf may not record here"
    serve --quiet
    command=$(watching perf)
    seq -f 'KV/1.0 PUT key%g value' 1 100000 >requests
    ${command/PID/$PID} "$KVSS_CLIENT" --port "$PORT" <requests >replies 2>>perf.log
    perf report -i perf.data --stdio --sort comm | grep -q '[0-9]% *kvss' # without -i, it may read from stdin
}

@test "docs/performance.md: callgrind counts instructions" {
    command -v valgrind >/dev/null || skip "valgrind is needed: apt-get install valgrind"
    printf '#!/bin/sh\nexec %s "%s" "$@"\n' \
        "$(watching valgrind) --callgrind-out-file=$BATS_TEST_TMPDIR/out" "$KVSS" >"$COPY/counted"
    chmod +x "$COPY/counted"
    KVSS=$COPY/counted serve --quiet
    [ "$(ask 'KV/1.0 PUT foo bar')" = '201 CREATED' ]
    stop "$PID"
    grep -q '^totals: [1-9]' "$BATS_TEST_TMPDIR/out"
}

@test "functions that the pages name are in kvss.c or kvss_client.c" {
    pages | xargs grep -h -o '`[a-z]*_[a-z_]*()`' | sed 's/.*`\(.*\)()`/\1/' | sort -u >"$BATS_TEST_TMPDIR/functions"
    [ -s "$BATS_TEST_TMPDIR/functions" ]
    while read -r function; do
        grep -q "\b$function(" "$ROOT"/kvss{,_client}.c || { echo "there is no $function()" >&2; false; }
    done <"$BATS_TEST_TMPDIR/functions"
}

@test "make install puts programs and pages in place, and they work there" {
    make -s -C "$COPY" install PREFIX=/opt/kvss DESTDIR="$BATS_TEST_TMPDIR/root"
    cd "$BATS_TEST_TMPDIR/root/opt/kvss"
    run find . -type f
    same "$(printf '%s\n' ./bin/kvss ./bin/kvss_client ./share/man/man1/kvss.1 ./share/man/man1/kvss_client.1)" \
        "$(sort <<<"$output")"
    [ "$(bin/kvss --version)" = "$("$KVSS" --version)" ]
    make -s -C "$COPY" clean
    [ ! -e "$COPY/kvss" ] && [ ! -e "$COPY/kvss_client" ]
}
