#!/usr/bin/env bats
# The labs in docs/labs are whole: each has a page, tests and a model. Whether these do what they
# should, labs.bash checks.

# shellcheck disable=SC2016 # these are backquotes of Markdown

load ../helper
load follow

# missing WHAT WHERE
missing() {
    echo "$1 is not in $2" >&2
    return 1
}

setup() { cd "$ROOT/docs/labs" || return; }

@test "each lab has a page, tests and a model, and is in the list" {
    [ "$(find . -mindepth 1 -maxdepth 1 -type d | wc -l)" -ge 8 ]
    for lab in */; do
        lab=${lab%/}
        grep -q "^| \[$lab\]($lab/README.md) |" README.md || missing "$lab" README.md
        for file in README.md lab.bats model.patch; do
            [ -s "$lab/$file" ] || missing "$file" "$lab"
        done
        grep -q '^\*\*Goal\.\*\*' "$lab/README.md"
        grep -q '^<details><summary>' "$lab/README.md"
        grep -q "check_page docs/labs/$lab/README.md" "$lab/lab.bats"
    done
}

@test "docs/labs/README.md: the way from the tests that fail to a patch like the model" {
    for tool in git patch; do
        command -v $tool >/dev/null || skip "$tool is needed: apt-get install $tool"
    done
    fresh_copy
    cp -R "$ROOT/tests" "$ROOT/README.md" "$COPY"
    cd "$COPY"
    unset KVSS KVSS_CLIENT
    git init -q -b main
    git add .
    git -c user.name=student -c user.email=student@localhost commit -q -m 'As it was'
    line() { block docs/labs/README.md work | sed -n "$1p"; }
    eval "$(line 1)"
    run eval "$(line 2)"
    [[ $status = 1 && $output == *$'\n# 400 BAD_REQUEST'* && $output != *$'\nok '* ]]
    eval "$(tr '\n' ' ' <docs/labs/README.md | grep -o 'patch -p1 < docs/labs/[^`]*')"
    eval "$(line 3)"
    [[ $(line 4) == 'bats tests/ '* ]] # labs.bash does that, for minutes
    less() { cat "$@" | grep -v -e '^index ' -e '^@@ '; }
    eval "$(block docs/labs/README.md compare | sed -n 1p)" >mine
    eval "$(block docs/labs/README.md compare | sed -n 2p)" | diff mine -
    grep -q '^+++ b/kvss.c' mine
}

@test "docs/labs/README.md: a measurement with tests/tools/bench/load.c" {
    [ "$(uname)" = Linux ] || skip "it needs Linux"
    fresh_copy
    cp -R "$KVSS" "$ROOT/tests" "$COPY"
    cd "$COPY"
    serve
    stop "$PID" # so that its port is free
    ours() {
        block docs/labs/README.md load |
            sed -n "s/ 9000 / $PORT /; s/\.\/load/& --port $PORT/g; $1p"
    }
    eval "$(ours 1)"
    eval "$(ours 2)" 3>&-
    # shellcheck disable=SC2034 # teardown ends it
    SERVERS[$!]=$!
    answers() { ask 'KV/1.0 GET key' 2>/dev/null; }
    wait_until answers
    run eval "$(ours 3)"
    [ "${#lines[@]}" = 2 ]
    [[ ${lines[1]} == ops=[1-9]*' cpu_ns='[1-9]* ]]
    eval "$(ours 4)"
    ended $!
}

@test "docs/labs/8-poll: grep finds what has so many elements" {
    cd "$ROOT"
    run eval "$(grep -o '`grep [^`]* kvss.c`' docs/labs/8-poll/README.md | tr -d '`')"
    [[ $output == *'[FD_SETSIZE]'* ]]
}

@test "docs/labs/0-hello: a changed reply makes tests of the protocol fail, which say what came" {
    fresh_copy
    cp -R "$ROOT/tests" "$COPY"
    cd "$COPY"
    unset KVSS KVSS_CLIENT
    sed -i.before 's/STR("bye")/STR("see you")/' kvss.c
    run eval "$(block docs/labs/0-hello/README.md change)"
    [[ $status = 1 && $output == *'200 OK bye'*'200 OK see you'* ]]
    mv kvss.c.before kvss.c
    patch -p1 <docs/labs/0-hello/model.patch
    make -s
    eval "$(block docs/labs/0-hello/README.md check | sed -n 1p)"
    [[ $(block docs/labs/0-hello/README.md check | sed -n 2p) == 'bats tests/ '* ]] # it takes a while
}
