#!/usr/bin/env bats
# tests/grade.sh gives full marks to kvss, and to other servers what they are worth.

# shellcheck disable=SC2016 # programs of students have a $1

load ../helper
load follow

setup() {
    GRADE=$ROOT/tests/grade.sh
    STUDENT=$BATS_TEST_TMPDIR/student
    mkdir "$STUDENT"
}

# python: the test needs it, and the server threads.py of the benchmark, in the student's folder.
python() {
    command -v python3 >/dev/null || skip "python3 is needed: apt-get install python3"
    sed 's/^import sys$/import os, sys/' "$ROOT/tests/tools/bench/threads.py" >"$STUDENT/server.py"
}

# marks GROUP: the group's line in the table that was printed.
marks() {
    sed -n "s/^$1 *\([0-9/]*\) *\([0-9/]*\)$/\1 \2/p" <<<"$output"
}

# change SED: the student's server is changed so, and it is a change.
change() {
    sed -i.before "$1" "$STUDENT/server.py"
    ! cmp -s "$STUDENT/server.py" "$STUDENT/server.py.before" ||
        { echo "no change: $1" >&2; return 1; }
}

# costs GROUP SED TEST...: a change of threads.py makes these tests of a group fail, beside those
# that failed without. With QUICK, no others are run.
costs() {
    local group=$1
    python
    export START='python3 server.py PORT' GRADED=$STUDENT QUIT_STOPS=0 PATIENCE=5
    change "$2"
    run bats --tap ${QUICK:+--filter "$(IFS='|'; echo "${*:3}")"} "$ROOT/tests/public/$group.bats"
    echo "$output"
    same "$(printf '%s\n' "${@:3}")" \
        "$(sed -n 's/^not ok [0-9]* \[[0-9]*\] //p' <<<"$output" |
            grep -v -e '^STATS' -e '^QUIT: 200' -e 'never ended')"
}

@test "kvss gets all points" {
    run "$GRADE" --command "$KVSS PORT" "$STUDENT"
    echo "$output"
    [ "$status" = 0 ]
    [ "$(marks all)" = "40/40 100/100" ]
    [ "${#lines[@]}" = 7 ] # and nothing has failed
}

@test "a program named start, which starts others: QUIT stops it, and nothing of it is left" {
    printf '%s\n' '#!/bin/sh' 'sleep 1000 &' "$KVSS --quit-stops-server \$1 &" 'wait $!' \
        >"$STUDENT/start"
    chmod +x "$STUDENT/start"
    run "$GRADE" --quit-stops-server "$STUDENT"
    echo "$output"
    [ "$status" = 0 ]
    [ "$(marks all)" = "40/40 100/100" ]
    [ -z "$(find /proc/[0-9]*/cwd -lname "$STUDENT" 2>/dev/null)" ]
}

@test "a server that QUIT stops loses two points where it should not" {
    export START="$KVSS --quit-stops-server PORT" GRADED=$STUDENT QUIT_STOPS=0 PATIENCE=5
    run bats --tap "$ROOT/tests/public/5-service.bats"
    echo "$output"
    [ "$(grep -c '^not ok ' <<<"$output")" = 1 ]
    [[ $output == *'not ok '?' [2] QUIT: the others are served;'* ]]
}

@test "threads.py lacks STATS and QUIT, and runs a line that never ended" {
    python
    run "$GRADE" --command 'python3 server.py PORT' "$STUDENT"
    echo "$output"
    [ "$status" = 1 ]
    [ "$(marks 1-store)" = "11/11 30/30" ]
    [ "$(marks 2-errors)" = "8/8 20/20" ]
    [ "$(marks 3-lines)" = "6/7 18/20" ]
    [ "$(marks 4-clients)" = "5/5 15/15" ]
    [ "$(marks 5-service)" = "5/9 8/15" ]
    [ "$(marks all)" = "35/40 91/100" ]
    [ "$(grep -c '^\[' <<<"$output")" = 5 ]
    [[ $output == *'[2] a line that never ended is not run
    expected:
    200 OK Hanoi
    but got:
    200 OK Hue'* ]]
}

# worthless PYTHON: a server that begins so gets no points.
worthless() {
    python
    printf '%s\n' 'import socket, sys' 'kept = []' \
        's = socket.create_server(("127.0.0.1", int(sys.argv[1])))' "$1" >"$STUDENT/server.py"
    run "$GRADE" --patience 1 --command 'python3 server.py PORT' "$STUDENT"
    echo "$output"
    [ "$status" = 1 ]
    [ "$(marks all)" = "0/40 0/100" ]
}

@test "a server that does not answer gets no points" {
    worthless 'while True: kept.append(s.accept())'
}

@test "a server that closes at once gets no points" {
    worthless 'while True: s.accept()[0].close()'
}

@test "a server that does not start gets no points, and what it says is shown" {
    worthless 'while forever'
    [[ $output == *'    the server: SyntaxError: '* ]]
}

@test "without a server to grade: one line, status 2" {
    # refused MESSAGE WORD...
    refused() {
        run "$GRADE" "${@:2}"
        [ "$status" = 2 ] && printed "grade.sh: $1"
    }
    refused "$STUDENT/start: no such program; see --command" "$STUDENT"
    refused "/nowhere: no such folder" /nowhere
    refused "--wrong: no such option" --wrong "$STUDENT"
    refused "a value is missing" --command
    refused "--patience: 'x' is not from 1 to 99" --patience x "$STUDENT"
    refused "--command: PORT does not occur in './server'" --command ./server "$STUDENT"
    run "$GRADE"
    [ "$status" = 2 ]
    mkdir "$BATS_TEST_TMPDIR/bin"
    ln -s "$(command -v bash)" "$(command -v dirname)" "$BATS_TEST_TMPDIR/bin"
    PATH=$BATS_TEST_TMPDIR/bin refused "bats is needed: apt-get install bats" "$STUDENT"
}

@test "a bug in PUT, GET or DEL costs its test" {
    costs 1-store 's/"201 CREATED"/"200 OK"/' 'PUT: 201 CREATED for a new key'
    costs 1-store 's/"200 OK" if words\[1\] in store else //' 'PUT: 200 OK for a key that is there'
    costs 1-store 's/store\[words\[1\]\] = words\[2\]/store.setdefault(words[1], words[2])/' \
        'GET: the newest value'
    costs 1-store 's/store\[words\[1\]\] if .* "404 NOT_FOUND"/store.get(words[1], "")/' \
        'GET: 404 NOT_FOUND without such a key'
    costs 1-store 's/"204 NO_CONTENT"/"200 OK"/' 'DEL: 204 NO_CONTENT'
}

@test "another bug in DEL, or in how keys and values are read, costs its test" {
    costs 1-store 's/store.pop(/store.get(/' 'DEL: the key is gone, and no other'
    costs 1-store 's/ if store.pop(.*/ if store.pop(words[1], 0) != 1 else ""/' \
        'DEL: 404 NOT_FOUND without such a key'
    costs 1-store 's/words\[1\]\] = words\[2\]/words[1]] = words[2].strip()/' \
        'a value may have spaces: one, two, at its end'
    costs 1-store 's/line.decode()/line.decode("ascii", "replace")/' 'keys and values in UTF-8'
    costs 1-store 's/^    with lock:/    words[1:2] = [w.lower() for w in words[1:2]]\n&/' \
        'city and City are two keys'
}

@test "a bug in how errors are told costs its test" {
    costs 2-errors 's/version != "KV\/1.0"/version == "GET"/' \
        'another version: 426 UPGRADE_REQUIRED' 'an empty line has no version'
    costs 2-errors 's/if version != /if version and version != /' 'an empty line has no version'
    costs 2-errors 's/words\[0\] == "PUT"/words[0] in ("PUT", "POTT")/' 'POTT: 400 BAD_REQUEST'
    costs 2-errors 's/^    words = /    if not rest: return "426 UPGRADE_REQUIRED"\n&/' \
        'no verb: 400 BAD_REQUEST'
    costs 2-errors 's/rest.split(" ", 2)/[*&, "", ""]/; s/len(words) == [23]/len(words) > 1/' \
        'an argument too few: 400 BAD_REQUEST' 'an argument too many: 400 BAD_REQUEST'
    costs 2-errors 's/^            self.wfile.*/&\n            if line[:6] != b"KV\/1.0": return/' \
        'after an error, the connection goes on'
}

@test "what one recv() brings is no message: that costs half of the lines" {
    costs 3-lines 's/for line in self.rfile:/while line := self.connection.recv(1024):/' \
        'two requests that arrive together get two replies, in order' \
        'a request in two pieces gets one reply' 'a request byte by byte' \
        '1,000 requests sent at once' 'a value of 10,000 bytes'
    costs 3-lines 's/rstrip("\\r\\n")/rstrip("\\n")/' 'CR LF ends a line as LF does'
}

@test "one client at a time, or a descriptor not given back, costs the tests for that" {
    costs 4-clients 's/ThreadingTCPServer/TCPServer/' \
        'what one client stores, another gets, while both are connected' \
        'a client that stops in the middle of a line holds up nobody' '50 clients at once'
    costs 4-clients 's/^    def handle(self):/&\n        os.dup(0)/' \
        '500 clients one after the other'
}

@test "a server that a client can end loses the points for that" {
    costs 5-service 's/^ *for line in self.rfile:/&\n            if 10 not in line: os._exit(1)/' \
        'clients that leave in the middle of a line'
    costs 5-service 's/^class Server.*/&\n    def handle_error(self, *_): os._exit(1)/' \
        'clients that leave without their replies' garbage
    costs 5-service 's/^ *for line in self.rfile:/&\n            if line[65536:]: os._exit(1)/' \
        'a line of 1,000,000 bytes'
}
