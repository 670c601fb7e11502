#!/usr/bin/env bats
# docs/tour.md and the pages of the chapters: their commands do what they show, their pictures are
# of this program, and they name what there is.

load ../helper
load follow

setup() { fresh_copy; }

# Also made the same: the time, and the port and the address that a system call was given.
eval "follow_$(declare -f alike)"
alike() {
    follow_alike "$@" | sed 's/^[0-9T:.-]*Z /TIME /; s/127\.0\.0\.1:[0-9]*/127.0.0.1:PORT/
        s/htons([0-9]*)/htons(PORT)/; s/(3, 0x[0-9a-f]*,/(3, ADDRESS,/'
}

# traces: whether this machine lets strace and gdb watch a program.
traces() {
    command -v strace >/dev/null || skip "strace is needed: apt-get install strace"
    command -v gdb >/dev/null || skip "gdb is needed: apt-get install gdb"
    strace -o /dev/null true 2>/dev/null || skip "here one program must not trace another"
}

@test "docs/tour.md: every command does what the page shows" {
    traces
    check_page docs/tour.md
}

@test "docs/tour.md: gdb prints a client, while the server waits" {
    traces
    make -s -C "$COPY" "$(sed -n 's/^\$ make \(CFLAGS=.*\)/\1/p' "$ROOT/docs/tour.md")" kvss
    KVSS=$COPY/kvss serve 4>&- 5>&- # or its descriptors have other numbers
    connect one
    says one 'KV/1.0 PUT course networks'
    hears one '201 CREATED'
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    command=$(grep -o '`print [^`]*' "$ROOT/docs/tour.md" | tr -d '`')
    run gdb -nx -batch -p "$PID" -ex "$command"
    [[ $output != *'Operation not permitted'* ]] || skip "here gdb must not attach to a program"
    echo "$output"
    [[ $output == *' = {phase = OPEN, '*'name = "127.0.0.1:'* ]]
}

@test "docs/chapters: every command does what the pages show" {
    for page in "$ROOT"/docs/chapters/*.md; do
        echo "$page"
        [ -z "${CONSOLE_PID-}" ] || stop "$CONSOLE_PID" # its FILE goes with the copy
        CONSOLE_PID=''
        rm -r "$COPY"
        fresh_copy
        check_page "docs/chapters/${page##*/}"
    done
}

# contents: the chapters in the head of kvss.c, a line each: the number, and the name.
contents() {
    sed '/\*\/$/q' "$ROOT/kvss.c" | grep -oE '[0-9]+\. [A-Z][a-z]+( [a-z]+)? {2}' | sed 's/\./ /; s/  */ /g; s/ $//'
}

@test "docs/tour.md names each chapter of kvss.c, by the number that it has in the contents and in its head" {
    local name number count=0
    while read -r number name; do
        count=$((count + 1))
        grep -q "^/\* == $number\. $name =" "$ROOT/kvss.c" ||
            { echo "chapter $number of kvss.c is not $name" >&2; false; }
        grep -q "$name (chapter $number)\|(chapter $number, $name)" "$ROOT/docs/tour.md" ||
            { echo "where is chapter $number, $name?" >&2; false; }
    done < <(contents)
    [ $count -ge 21 ]
    [ "$(grep -o 'chapter [0-9][0-9]*)' "$ROOT/docs/tour.md" | sort -u | wc -l)" -ge 20 ]
}

# Those that the text of the pages names, docs.bats looks for.
@test "functions that the picture of the loop and the script for gdb name are in kvss.c" {
    sed -n 's/.*class="name"[^>]*>\([a-z_]*\)().*/\1/p' "$ROOT/docs/figures/tour-loop.svg" | functions 3
    sed -n 's/^break //p' "$ROOT/docs/watch.gdb" | functions 10
}

@test "tests that the chapters name, or a part of their names, are there" {
    local title count=0
    while IFS= read -r title; do
        count=$((count + 1))
        cat "$ROOT"/tests/{,hostile/}*.bats | grep '^@test ' | grep -qF -e "$title" || { echo "no: $title" >&2; false; }
    done < <(sed -n 's/^  \*\(.*\)\*$/\1/p' "$ROOT"/docs/chapters/*.md)
    [ $count -gt 15 ]
}

@test "docs/figures/tour-table.svg shows the tables of kvss.c" {
    command -v cc >/dev/null || skip "a C compiler is needed"
    [ "$(uname)" = Linux ] || skip "on this system crypt() is elsewhere"
    cc -std=c99 -o "$BATS_TEST_TMPDIR/table" "$ROOT/docs/figures/table.c" -lcrypt -lrt
    "$BATS_TEST_TMPDIR/table" | awk -f "$ROOT/docs/figures/table.awk" >"$BATS_TEST_TMPDIR/table.svg"
    diff "$ROOT/docs/figures/tour-table.svg" "$BATS_TEST_TMPDIR/table.svg"
}

@test "docs/figures/tour-buffers.svg has the sizes that the buffers have" {
    size() { sed -n "s/^    $1 = \([0-9]*\), .*/\1/p" "$ROOT/kvss.c"; }
    same "$(size REQUEST_MAX) bytes $(($(size OUTPUT_MAX) + $(size REPLY_MAX))) bytes" \
        "$(grep -o '[0-9]*,[0-9]* bytes' "$ROOT/docs/figures/tour-buffers.svg" | tr -d , | paste -s -d ' ')"
}
