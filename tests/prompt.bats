#!/usr/bin/env bats
# kvss_client at a terminal, with expect(1) as the person in front of it.
# The keys that edit a line, its history, messages that come meanwhile, and the ways to leave.
# shellcheck disable=SC2016,SC2153 # the scripts are Tcl, whose variables the shell must not expand

load helper

setup() {
    command -v expect >/dev/null || skip "expect is needed: apt-get install expect"
}

# at_terminal SCRIPT [OPTION...]: runs the client in a terminal with these options, and the script,
# in Tcl, in front of it. "type" sends keys, "see" waits for text, "prompt" waits for the prompt to
# be drawn last. The terminal is 80 columns wide, UTF-8, and knows no answers of its own.
at_terminal() {
    cat >"$BATS_TEST_TMPDIR/script" <<'TCL'
set timeout 120
set stty_init "rows 24 cols 80"
fconfigure stdout -encoding utf-8
encoding system utf-8
log_user 1
proc fail {what} { puts "\nFAILED: $what"; exit 1 }
proc see {text} {
    expect -ex $text {} timeout { fail "did not see: $text" } eof { fail "ended before: $text" }
}
proc type {keys} { send -- $keys }
proc enter {keys} { send -- "$keys\r" }
proc ended {} {
    expect eof {} timeout { fail "did not end" }
    return [wait]
}
proc closed {} { return [lindex [ended] 3] }
set up "\033\[A"; set down "\033\[B"; set right "\033\[C"; set left "\033\[D"
set home "\033\[H"; set end "\033\[F"; set delete "\033\[3~"
TCL
    echo "$1" >>"$BATS_TEST_TMPDIR/script"
    run env TERM=xterm LC_ALL=C.UTF-8 CLIENT="$KVSS_CLIENT" PORT="$PORT" ARGS="${*:2}" \
        SHELL_COMMAND="$KVSS_CLIENT --port $PORT ${*:2}" \
        expect -f "$BATS_TEST_TMPDIR/script" 3>&-
    if [ "$status" != 0 ]; then
        printf '%s\n' "$output" | cat -v >&2
        return 1
    fi
}

# pretend LINE: a server that says just this, whatever it's asked, and stays. Sets PORT.
pretend() {
    [ "$NC_LISTEN" ] || skip "this nc can't listen on 127.0.0.1 only"
    serve
    stop "$PID"
    mkfifo "$BATS_TEST_TMPDIR/replies"
    : >"$LOG"
    # shellcheck disable=SC2086 # words
    timeout "$PATIENCE" nc -v $NC_LISTEN "$PORT" <>"$BATS_TEST_TMPDIR/replies" >"$BATS_TEST_TMPDIR/heard" 2>"$LOG" 3>&- &
    PRETENDS=$!
    echo "$1" >"$BATS_TEST_TMPDIR/replies"
    wait_until logged 'istening on '
}

START='eval spawn -noecho $env(CLIENT) --port $env(PORT) $env(ARGS)
see "KVSS> "'

@test "says where it is connected and from which port, and ends with exit or Ctrl-D" {
    serve
    at_terminal "$START"'
        enter exit
        exit [closed]'
    wait_until logged ' disconnect '
    port=$(sed -n 's/.* connect 127\.0\.0\.1:\([0-9]*\)$/\1/p' "$LOG")
    [[ $output == *"connected to 127.0.0.1:$PORT from port $port; help lists the commands, exit leaves"* ]]
    at_terminal "$START"'
        type "\004"
        exit [closed]'
}

@test "the session of the assignment, reply by reply" {
    serve --long-stats
    at_terminal "$START"'
        foreach {typed reply} {
            "PUT name John"       "201 CREATED"
            "GET name"            "200 OK John"
            "PUT name Jane"       "200 OK"
            "GET name"            "200 OK Jane"
            "DEL name"            "204 NO_CONTENT"
            "get name"            "404 NOT_FOUND"
            "STATS"               "200 OK uptime: 0:"
            "GET"                 "400 BAD_REQUEST"
            "PUT keyonly"         "400 BAD_REQUEST"
            "INVALID command"     "400 BAD_REQUEST"
            "WRONG/1.0 GET test"  "426 UPGRADE_REQUIRED"
            "KV/2.0 GET test"     "426 UPGRADE_REQUIRED"
            "KV/1.0 GET name"     "404 NOT_FOUND"
        } {
            enter $typed
            see "\r\033\[K$reply"
            see "KVSS> "
        }
        enter quit
        see "200 OK bye"
        exit [closed]'
    [[ $output == *'; connections: 1; commands_processed: 6; get_requests: 3; put_requests: 2; del_requests: 1; keys_stored: 0'* ]]
}

@test "an IPv6 address is shown in brackets; an empty line asks for nothing" {
    serve --host ::1 || skip "this machine has no ::1"
    at_terminal "$START"'
        enter {}
        see "KVSS> "
        enter {}
        see "KVSS> "
        enter exit
        exit [closed]' --host ::1
    [[ $output == *"connected to [::1]:$PORT from port "* ]]
    [ "$("$KVSS_CLIENT" --host ::1 --port "$PORT" --value stats | sed 's/.*served=//')" = 1 ]
}

@test "a terminal that can do nothing gets no prompt: a request a line" {
    serve
    at_terminal 'spawn -noecho env TERM=dumb $env(CLIENT) --port $env(PORT)
        enter "get k"
        see "404 NOT_FOUND"
        type "\004"
        ended
        spawn -noecho env --unset=TERM $env(CLIENT) --port $env(PORT)
        type "\004"
        exit [closed]'
    [[ $output != *KVSS* ]]
}

@test "help lists the commands" {
    serve
    at_terminal "$START"'
        enter help
        see "put KEY VALUE"
        see "KVSS> "
        type "\004"
        exit [closed]'
    for verb in put get del stats quit; do [[ $output == *$'\n'"  $verb"* ]]; done
}

# edits KEYS LINE: with these keys, in Tcl, this line is sent.
edits() {
    at_terminal "$START
        type \"$1\"
        enter {}
        see {404 NOT_FOUND}
        type \"\\004\"
        exit [closed]"
    grep -q " request 127\.0\.0\.1:[0-9]* KV/1\.0 $2\$" "$LOG" ||
        { sed -n 's/.* request /sent: /p' "$LOG" >&2; false; }
}

@test "editing: arrows, Home, End, Delete, Backspace, Ctrl-A B D E F H K U W" {
    serve --verbose
    edits 'get ac${left}b${left}${left}${right}${right}${end}d' 'GET abcd'
    edits 'et key1${home}g${end}x' 'GET key1x'
    edits 'et key2\001g\005x' 'GET key2x'
    edits 'get key3xy\177\010' 'GET key3'
    edits 'get xkey4${left}${left}${left}${left}${left}${delete}' 'GET key4'
    edits 'get xkey5\002\002\002\002\002\004\006\006\006\006' 'GET key5'
    edits 'get key6 and more\001\006\006\006\006\006\006\006\006\013' 'GET key6'
    edits 'nonsense\025get key7' 'GET key7'
    edits 'get two words  \027\027key8' 'GET key8'
    edits 'get k\033Oay\033\[99~\033xk9' 'GET kyk9' # sequences that mean nothing here
    edits 'get key\033\[1~\033\[4~10' 'GET key10'
    edits '  x\027\027get key12' 'GET key12'
    edits 'get key13\014' 'GET key13'
    edits 'get key11\033\[1;2R\033\[1;2R${left}${right}' 'GET key11' # Shift-F3 is no report
    edits 'get key14\033\[5R\033\[1;0R\033\[9~\033\[\1773~\007' 'GET key14'
    edits 'get key15${right}$delete' 'GET key15'
    edits 'get key16\033\[[string repeat 1 40]"; see "key16\033\[K"; type "' 'GET key16' # nothing is as long as that
}

@test "editing: a key may come in parts" {
    serve --verbose
    at_terminal "$START"'
        type "get kyx\033"; see "kyx\033\[K"; type "\[D"; see "\033\[12C"
        type "\177e\033O"; see "kex\033\[K"; type "C"; see "\033\[13C"
        enter {}
        see "404 NOT_FOUND"
        type "\004"
        exit [closed]'
    grep -q ' KV/1.0 GET kex$' "$LOG"
}

@test "editing: UTF-8 by character, wide and combining ones too" {
    serve --verbose
    edits 'get thành_phốx\177${left}${left}\177p${delete}h${delete}ô' 'GET thành_phô'
    edits 'get 日本語${left}${left}\177に' 'GET に本語'
    edits 'get cafe\u0301s${left}\177o' 'GET cafos'
    edits 'get cafe\u0301s${left}${left}${right}\177o' 'GET cafos'
    edits 'get caf\u00e9s${home}\005${left}\177e' 'GET cafes'
}

@test "editing: UTF-8 also where the locale knows nothing of it, or is none" {
    serve --verbose
    for locale in C nonsense; do
        at_terminal '
            spawn -noecho env LC_ALL='$locale' $env(CLIENT) --port $env(PORT)
            see "KVSS> "
            type "get '$locale'\u00e9\u00e8\177x"
            enter {}
            see "404 NOT_FOUND"
            type "\004"
            exit [closed]'
        grep -q " KV/1.0 GET ${locale}éx\$" "$LOG"
    done
}

@test "editing: a line longer than the terminal is shown in part, and sent whole" {
    serve --verbose
    key=$(printf '%*s' 200 '' | tr ' ' k)
    edits "get $key\${home}\${end}x\\001\\006\\006\\006\\006y" "GET y${key}x"
}

@test "the width is the terminal's own, by its report of the cursor" {
    serve --verbose
    at_terminal "$START"'
        type "\033\[1;20R"
        type "get 123456789012345678901234567890"
        see "\rKVSS> 8901234567890\033\[K\r\033\[19C"
        type $left
        see "\rKVSS> 234567890\033\[K" ;# some of what is right of the cursor, too
        type $home
        see "\rKVSS> get 123456789\033\[K\r\033\[6C"
        type "\005\025\004"
        exit [closed]'
}

@test "history: up and down, and back to the line that was begun" {
    serve --verbose
    at_terminal "$START"'
        enter "put a 1"; see "201 CREATED"; see "KVSS> "
        enter "put b 2"; see "201 CREATED"; see "KVSS> "
        enter "put b 2"; see "200 OK"; see "KVSS> "
        type "get "
        type "$up$up$up$down$down$down${down}b\r"
        see "200 OK 2"
        see "KVSS> "
        type "$up$up$up"
        type "0\r"
        see "200 OK"
        see "KVSS> "
        type "\020\016\004"
        exit [closed]'
    run sed -n 's/.* request 127\.0\.0\.1:[0-9]* //p' "$LOG"
    printed 'KV/1.0 PUT a 1
KV/1.0 PUT b 2
KV/1.0 PUT b 2
KV/1.0 GET b
KV/1.0 PUT a 10'
}

@test "history: the last thousand lines" {
    serve
    at_terminal "$START"'
        log_user 0
        for {set i 1} {$i <= 1001} {incr i} {
            type "get x $i\r"
            if {$i % 20 == 0} { see "KVSS> get x $i\033"; see "400 BAD_REQUEST"; see "KVSS> \033" }
        }
        see "KVSS> get x 1001\033"; see "400 BAD_REQUEST"; see "KVSS> \033"
        type [string repeat $up 999]; see "KVSS> get x 3\033"
        type $up; see "KVSS> get x 2\033"
        type "${up}x"; see "KVSS> get x 2x\033"
        type "\025\004"
        exit [closed]'
}

@test "lines that are pasted are sent one by one, each before its reply" {
    serve
    at_terminal "$START"'
        type "put a 1\rget a\rdel a\r"
        see "put a 1"; see "201 CREATED"; see "get a"; see "200 OK 1"; see "del a"; see "204 NO_CONTENT"
        see "KVSS> "
        type "\004"
        exit [closed]'
}

@test "more text than a queue holds can be pasted" {
    serve
    at_terminal "$START"'
        set line "put k [string repeat x 4000]"
        for {set i 0} {$i < 80} {incr i} { enter $line; see "20"; see "KVSS> " }
        type "\004"
        exit [closed]'
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=1 '*' served=81' ]]
}

@test "a line too long for a request is refused, not cut" {
    serve
    at_terminal "$START"'
        log_user 0
        type "KV/1.0 put k "
        for {set i 0} {$i < 70} {incr i} { type [string repeat x 1000]; see "x\033" }
        enter {}
        see "that is longer than a request can be"
        see "KVSS> "
        type "\004"
        exit [closed]'
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=0 '*' served=1' ]]
}

@test "a tab is part of a value" {
    serve --verbose
    edits 'get x\025put t a\tb\rget y' 'GET y'
    [ "$(ask 'KV/1.0 GET t')" = $'200 OK a\tb' ]
}

@test "nothing is sent after QUIT, pasted or not" {
    serve
    at_terminal "$START"'
        type "quit\rput a 1\r"
        see "200 OK bye"
        exit [closed]'
}

@test "after QUIT it does not wait for ever, should the server stay" {
    pretend '200 OK bye'
    at_terminal "$START"'
        enter quit
        see "no reply in 1 s"
        exit [expr {[closed] != 2}]' --timeout 1
    kill "$PRETENDS" 2>/dev/null || : # most ncs have ended with the connection
}

@test "a value can't reach the terminal: control characters are shown as numbers" {
    serve
    printf 'KV/1.0 PUT k a\x1b[31mb\tc\xc2\x9b\xc3\xa0\xc2\xa3\x7f\n' | talk
    at_terminal "$START"'
        enter "get k"
        see "200 OK a\\x1B\[31mb\\x09c\\xC2\\x9B\u00e0\u00a3\\x7F\r"
        see "KVSS> "
        type "\004"
        exit [closed]'
    pretend $'200 OK a\xc2'
    at_terminal "$START"'
        see "200 OK a\\xC2\r"
        type "\004"
        exit [closed]'
    kill "$PRETENDS" 2>/dev/null || : # most ncs have ended with the connection
}

@test "the server's end shows at once, while a line is being typed, above it" {
    serve
    at_terminal "$START"'
        type "put a"
        exec kill -TERM '"$PID"'
        see "\r\033\[Kkvss_client: the server closed the connection"
        exit [expr {[closed] != 2}]'
    ended "$PID"
    serve
    ask 'KV/1.0 CREATE bob'
    at_terminal "$START"'
        enter "connect bob"
        see "200 OK 0"
        exec kill -TERM '"$PID"'
        see "kvss_client: the server closed the connection"
        exit [expr {[closed] != 2}]'
    ended "$PID"
}

@test "Ctrl-C ends it as a signal does, whatever was typed just before" {
    serve
    for _ in {1..20}; do
        at_terminal "$START"'
            type "put a\003"
            exit [expr {[lindex [ended] 4] ne "CHILDKILLED"}]'
    done
}

@test "Ctrl-C ends it also while it waits for the last messages" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    ask 'KV/1.0 CREATE bob'
    at_terminal "$START"'
        enter "connect bob"
        see "200 OK 0"
        see "KVSS> "
        exec kill -STOP '"$PID"'
        type "\004"
        while {[exec ss -tnH state fin-wait-2 "dport = :$env(PORT)"] eq ""} { after 10 }
        type "\003"
        exit [expr {[lindex [ended] 4] ne "CHILDKILLED"}]' --timeout 30
    kill -s CONT "$PID"
}

@test "it ends when its terminal goes away" {
    serve
    at_terminal "$START"'
        close'
    wait_until logged ' disconnect '
}

@test "it ends when its terminal goes away, and no SIGHUP says so" {
    command -v setsid >/dev/null || skip "setsid is needed"
    serve
    at_terminal '
        spawn -noecho setsid --wait $env(CLIENT) --port $env(PORT)
        see "KVSS> "
        close'
    wait_until logged ' disconnect '
}

# The terminal's settings, before and after, as a shell in that terminal sees them.
# bats test_tags=process
@test "the terminal is restored, however it ends" {
    serve
    for end in 'type "\004"' 'enter exit' 'enter quit' 'type "\003"' 'exec kill -TERM $pid' \
        'exec kill -HUP $pid' 'type "\034"'; do
        at_terminal '
            spawn -noecho sh
            send "PS1=rea\\dy; stty -a >'"$BATS_TEST_TMPDIR"'/before\r"
            see "ready"
            send "$env(SHELL_COMMAND)\r"
            see "KVSS> "
            set pid [exec pgrep -f -n "^[string trim $env(SHELL_COMMAND)]"]
            '"$end"'
            see "ready"
            send "stty -a >'"$BATS_TEST_TMPDIR"'/after\r"
            see "ready"
            send "exit\r"
            closed'
        cmp "$BATS_TEST_TMPDIR/before" "$BATS_TEST_TMPDIR/after"
    done
}

# bats test_tags=process
@test "Ctrl-Z stops it with the terminal restored, and fg brings the line back" {
    serve
    at_terminal '
        spawn -noecho bash --norc -i
        send "PS1=rea\\dy\r"
        see "ready"
        send "$env(SHELL_COMMAND)\r"
        see "KVSS> "
        type "stat"
        see "KVSS> stat"
        type "\032"
        see "Stopped"
        see "ready"
        send "stty -a | grep -o -w -e -icanon -e icanon; echo do\\ne\r"
        see "icanon"
        see "done"
        send "fg\r"
        see "KVSS> stat"
        enter "s"
        see "200 OK keys=0"
        see "KVSS> "
        type "\004"
        see "ready"
        send "exit\r"
        closed'
    [[ $output != *$'\n-icanon'* ]]
}

@test "--file on a terminal: a progress line for a long load" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    serve
    seq 1 1000 | sed 's/.*/put k& v/' >"$BATS_TEST_TMPDIR/requests"
    freeze "$PID"
    at_terminal '
        spawn -noecho sh -c "$env(SHELL_COMMAND) --file '"$BATS_TEST_TMPDIR"'/requests >/dev/null"
        while {[exec ss -tnH "dport = :$env(PORT)"] eq ""} { after 10 }
        catch {exec $env(CLIENT) --port $env(PORT) --timeout 1 get k} ;# the line is for what takes longer than a second
        exec kill -CONT '"$PID"'
        see "1000 replies, 100 % of the file"
        exit [closed]'
}

@test "--file on a terminal: no progress line for a short load, or among the replies" {
    serve
    echo 'put k v' >"$BATS_TEST_TMPDIR/requests"
    at_terminal '
        spawn -noecho sh -c "$env(SHELL_COMMAND) --file '"$BATS_TEST_TMPDIR"'/requests >/dev/null"
        if {[closed] != 0} { fail "status" }
        spawn -noecho sh -c "$env(SHELL_COMMAND) --file '"$BATS_TEST_TMPDIR"'/requests"
        see "200 OK"
        exit [closed]'
    [[ $output != *replies* ]]
}

@test "a message is shown as it comes, above the line being typed" {
    serve
    ask 'KV/1.0 CREATE bob' 'KV/1.0 SEND bob first'
    at_terminal "$START"'
        enter "connect bob"
        see "200 OK 1"
        see "100 MESSAGE bob first"
        see "KVSS> "
        type "get na"
        see "KVSS> get na"
        exec $env(CLIENT) --port $env(PORT) send bob second \\x1B
        see "\r\033\[K100 MESSAGE bob second"
        see "KVSS> get na"
        enter "me"
        see "\r\033\[K404 NOT_FOUND"
        see "KVSS> "
        exec $env(CLIENT) --port $env(PORT) send bob third
        see "100 MESSAGE bob third"
        see "KVSS> "
        type "\004"
        exit [closed]'
}
