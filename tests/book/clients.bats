#!/usr/bin/env bats
# Clients that are not ours: the same session through each, by its command in docs/testing.md.

load ../helper

SESSION=$'KV/1.0 PUT city Hà Nội, Việt Nam\nKV/1.0 GET city\nKV/1.0 GET nothing\nGET city\nKV/1.0 QUIT\n'
REPLIES=$'201 CREATED\n200 OK Hà Nội, Việt Nam\n404 NOT_FOUND\n426 UPGRADE_REQUIRED\n200 OK bye\n'

# clients: the names in the table.
clients() {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    sed -n '/^| client | command |$/,/^$/s/^| \([^ ]*\) | `.*` |$/\1/p' "$ROOT/docs/testing.md"
}

# know CLIENT: starts a server. Sets COMMAND, with which that client talks to it.
know() {
    serve
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    COMMAND=$(sed -n 's/^| '"$1"' | `\(.*\)` |$/\1/p' "$ROOT/docs/testing.md")
    COMMAND=${COMMAND/9000/$PORT}
    [ "$COMMAND" ]
    command -v "${COMMAND%% *}" >/dev/null || skip "${COMMAND%% *} is not installed"
}

# holds CLIENT: the session on its stdin, the replies on its stdout, and its end, status 0.
holds() {
    know "$1"
    printf '%s' "$SESSION" >"$BATS_TEST_TMPDIR/session"
    timeout 600 bash -c "$COMMAND" <"$BATS_TEST_TMPDIR/session" >"$BATS_TEST_TMPDIR/replies"
    printf '%s' "$REPLIES" | diff - "$BATS_TEST_TMPDIR/replies"
}

@test "netcat-openbsd" { holds netcat-openbsd; }
@test "netcat-traditional" { holds netcat-traditional; }
@test "ncat" { holds ncat; }
@test "busybox" { holds busybox; }
@test "socat" { holds socat; }
@test "bash" { holds bash; }
@test "Python" { holds Python; }
@test "curl" { holds curl; }

# It wants a terminal, on which every line ends in CR LF, and what is typed is shown, too.
@test "telnet" {
    command -v expect >/dev/null || skip "expect is needed: apt-get install expect"
    know telnet
    grep -qF "${COMMAND/$PORT/9000}" "$ROOT/README.md" # which says so, too
    printf '%s' "$SESSION" >"$BATS_TEST_TMPDIR/session"
    expect -c "
        set timeout 200
        spawn $COMMAND
        expect {Escape character is} {} timeout { exit 1 }
        while {[gets stdin line] >= 0} {
            send -- \"\$line\\r\"
            expect -re {\\n[1-5][0-9][0-9] [^\\n]*\\n} {} timeout { exit 1 }
        }
        expect {closed by foreign host} {} timeout { exit 1 }
        expect eof" <"$BATS_TEST_TMPDIR/session" >"$BATS_TEST_TMPDIR/screen" 3>&-
    cat -v "$BATS_TEST_TMPDIR/screen"
    tr -d '\r' <"$BATS_TEST_TMPDIR/screen" | sed '1,/^Escape character/d; /^Connection closed/d' |
        grep -v -x -F -f "$BATS_TEST_TMPDIR/session" | diff <(printf '%s' "$REPLIES") -
}

@test "each client of the table has its test" {
    [ "$(clients | sort)" = "$(sed -n 's/^@test "\([^ ]*\)" .*/\1/p' "$BATS_TEST_FILENAME" | sort)" ]
}
