#!/usr/bin/env bats
# The questions and answers: every command does what the pages show, in both languages, and both
# pages say the same.

# shellcheck disable=SC2016 # these are backquotes of Markdown

load ../helper
load follow

ENGLISH=docs/questions.md
VIETNAMESE=docs/vi/questions.md

setup() { fresh_copy; }

# tools: what the pages' commands need.
tools() {
    command -v tshark >/dev/null || skip "tshark is needed: apt-get install tshark"
    command -v protoc >/dev/null || skip "protoc is needed: apt-get install protobuf-compiler"
}

# blocks PAGE: the blocks of code, without the text between them.
blocks() {
    sed -n '/^```/,/^```$/p' "$ROOT/$1"
}

# sections PAGE [PATTERN]: each question's number and, in order, the parts of its text that match.
sections() {
    sed '/^```/,/^```$/d' "$ROOT/$1" | awk -v pattern="${2-}" '
        /^## /  { print $2; next }
        { while (pattern && match($0, pattern)) {
            print substr($0, RSTART, RLENGTH)
            $0 = substr($0, RSTART + RLENGTH)
        } }'
}

@test "docs/questions.md: every command does what the page shows" {
    tools
    check_page docs/questions.md
}

@test "docs/vi/questions.md: every command does what the page shows" {
    tools
    check_page docs/vi/questions.md
}

@test "both pages have the same questions, commands and outputs" {
    [ "$(sections $ENGLISH)" = "$(seq -f '%g.' 1 9)" ]
    same "$(sections $ENGLISH)" "$(sections $VIETNAMESE)"
    same "$(blocks $ENGLISH)" "$(blocks $VIETNAMESE)"
    [ "$(blocks $ENGLISH | wc -l)" -gt 100 ]
}

@test "both pages name the same functions for each question, and kvss.c has them" {
    pattern='`[a-z_]+[(][)]`'
    sections $ENGLISH "$pattern" | tr -d '`()' |
        grep -v -x -e '[0-9]\.' -e recv -e bind -e accept -e main | functions 20
    # For each question the same ones, though a sentence may need them in another order.
    each() { sections "$1" "$pattern" | awk '/^[0-9]/ { n = $1; next } { print n, $0 }' | sort -u; }
    same "$(each $ENGLISH)" "$(each $VIETNAMESE)"
}

@test "both pages answer each question in the same four steps" {
    # steps NAME...: for each question, these.
    steps() { for n in {1..9}; do printf '%s\n' "$n." "${@/#/**}"; done | sed 's/^\*\*.*/&.**/'; }
    same "$(steps Try Meaning 'In kvss.c' 'Next question')" "$(sections $ENGLISH '^[*][*][^*]+[*][*]')"
    same "$(steps Thử 'Ý nghĩa' 'Trong kvss.c' 'Câu hỏi tiếp theo')" \
        "$(sections $VIETNAMESE '^[*][*][^*]+[*][*]')"
}

@test "both pages lead to the same places" {
    # leads PAGE: from there, each to the other language in its first lines.
    leads() { tail -n +4 "$ROOT/$1" | grep -o ']([^)#]*' | sed 's/^](//' | sort -u; }
    [ "$(leads $ENGLISH | wc -l)" -ge 5 ]
    same "$(leads $ENGLISH | sed 's|^|../|')" "$(leads $VIETNAMESE)"
}

# shape FILE PORT: who sends what, for each packet with data, and how connections begin and end. An
# ACK alone may come or not.
shape() {
    tshark -r "$1" -o data.show_as_text:TRUE \
        -Y 'tcp.len > 0 or tcp.flags.syn == 1 or tcp.flags.fin == 1' \
        -T fields -e tcp.dstport -e tcp.flags.syn -e tcp.flags.fin -e data.text 2>/dev/null |
        awk -v port="$2" '{ $1 = $1 == port ? ">" : "<"; print }'
}

@test "docs/figures/questions.pcap is what a capture gives today" {
    tools
    command -v tcpdump >/dev/null || skip "tcpdump is needed: apt-get install tcpdump"
    serve
    capture=$BATS_TEST_TMPDIR/capture
    tcpdump -i lo -U --immediate-mode -Z root -w "$capture" "tcp port $PORT" 2>"$capture.log" 3>&- &
    dumper=$!
    listening() { dead $dumper || grep -q 'listening on' "$capture.log"; }
    wait_until listening
    ! dead $dumper || skip "tcpdump may not capture here"
    captured() { shape "$capture" "$PORT" | grep -q "$1"; }
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    talk <"$BATS_TEST_TMPDIR/fifo" >/dev/null 3>&- &
    exec 8>"$BATS_TEST_TMPDIR/fifo"
    printf 'KV/1.0 PUT ci' >&8
    wait_until captured 'PUT ci$'
    printf 'ty Hanoi\nKV/1.0 GET city\n' | cat >&8
    wait_until captured '200 OK' # a FIN before that would be captured before it
    exec 8>&-
    wait $!
    over() { [ "$(shape "$capture" "$PORT" | grep -c ' 0 1 *$')" = 2 ]; }
    wait_until over
    kill $dumper
    wait $dumper || :
    same "$(shape "$ROOT/docs/figures/questions.pcap" 9000)" "$(shape "$capture" "$PORT")"
}
