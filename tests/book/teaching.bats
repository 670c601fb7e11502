#!/usr/bin/env bats
# The teacher's page and the way through the book: what they show, and that what they name is there.

# shellcheck disable=SC2016 # a student's program has a $1

load ../helper
load follow

setup() {
    fresh_copy
    cp -R "$ROOT/tests" "$COPY"
}

@test "docs/teaching.md: every command does what the page shows" {
    check_page docs/teaching.md
}

@test "docs/teaching.md: servers of students are graded, one or a whole class" {
    command -v python3 >/dev/null || skip "python3 is needed: apt-get install python3"
    cd "$COPY"
    rm tests/public/[134]*.bats # two groups of tests are enough here
    mkdir -p students/{an,binh,chi,dung} bin
    printf '#!/bin/sh\nexec "%s" --port "$1"\n' "$KVSS" >students/binh/start
    cp tests/tools/bench/threads.py students/an/server.py
    printf '#!/bin/sh\ntest "$1" = Server && exec "%s" --port "$2"\n' "$KVSS" >bin/java
    printf '#!/bin/sh\nexec "%s" --quit-stops-server --port "$1"\n' "$KVSS" >students/dung/server
    chmod +x bin/java students/{binh/start,dung/server}
    PATH=$PWD/bin:$PATH
    run bash -c "$(block docs/teaching.md grade)"
    echo "$output"
    same $'17/17 35/35\n13/17 28/35\n17/17 35/35\n17/17 35/35' \
        "$(sed -n 's/^all *\([^ ]*\) *\([^ ]*\)$/\1 \2/p' <<<"$output")"
    rm -r students/{an,chi}
    mv students/dung/{server,start}
    run bash -c "$(block docs/teaching.md class)"
    printed $'students/binh 35/35\nstudents/dung 33/35'
    head -n 1 students/binh/marks | grep -q '^group '
}

@test "docs/teaching.md names tests that there are" {
    sed -n 's/^@test "\[[0-9]*\] \(.*\)" {$/\1/p' "$ROOT"/tests/public/*.bats | sort \
        >"$BATS_TEST_TMPDIR/tests"
    sed -n '/^## What goes wrong/,/^## /p' "$ROOT/docs/teaching.md" | grep '^|' | cut -d '|' -f 3 |
        grep -o '"[^"]*"' | tr -d '"' | sort >"$BATS_TEST_TMPDIR/named"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/named")" -ge 15 ]
    same '' "$(comm -13 "$BATS_TEST_TMPDIR/tests" "$BATS_TEST_TMPDIR/named")"
}

@test "docs/teaching.md: each function that it would have students write can be left out" {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    sed -n '/^## A version/,$p' "$ROOT/docs/teaching.md" | grep '^|' | cut -d '|' -f 2 |
        grep -o '`[a-z_]*()`' | tr -d '`()' >"$BATS_TEST_TMPDIR/functions"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/functions")" -ge 5 ]
    empty=$(sed -n "s/^\$ \(awk .*\) kvss.c >.*/\1/p" "$ROOT/docs/teaching.md")
    while read -r function; do
        (cd "$COPY" && eval "${empty//command_del/$function} kvss.c" >emptied.c)
        grep -A 1 "^static enum status $function(" "$COPY/emptied.c" | grep -q '(void)r;'
        cc -std=c99 -fsyntax-only "$COPY/emptied.c"
    done <"$BATS_TEST_TMPDIR/functions"
}

@test "docs/README.md leads to every page, and the map to none that it does not" {
    for page in "$ROOT"/docs/*.md "$ROOT"/docs/vi/*.md; do
        page=${page#"$ROOT/docs/"}
        [ "$page" = README.md ] || grep -q "]($page)" "$ROOT/docs/README.md" ||
            { echo "no way to $page" >&2; false; }
    done
    sed -n 's/.*class="page"[^>]*>\(.*\)<.*/\1/p' "$ROOT/docs/figures/map.svg" | sort -u \
        >"$BATS_TEST_TMPDIR/map"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/map")" -ge 9 ]
    while read -r page; do
        grep -q "\[$page\](" "$ROOT/docs/README.md" || { echo "$page is on the map" >&2; false; }
    done <"$BATS_TEST_TMPDIR/map"
}
