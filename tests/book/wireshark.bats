#!/usr/bin/env bats
# docs/kvss.lua reads packets as kvss reads the stream: tried with tshark on the session that is
# kept, on one captured now, and on packets made here, cut and mixed as a network might do it.

load ../helper
load follow

setup() {
    for program in tshark text2pcap mergecap editcap; do
        command -v $program >/dev/null || skip "$program is needed: apt-get install tshark"
    done
    export HOME=$BATS_TEST_TMPDIR
    unset XDG_CONFIG_HOME WIRESHARK_CONFIG_DIR
    KEPT=$ROOT/docs/figures/kvss-session.pcapng
    MADE=$BATS_TEST_TMPDIR/made
}

# dissect FILE [OPTION...]: what tshark prints, if nothing went wrong in kvss.lua.
dissect() {
    tshark -X "lua_script:$ROOT/docs/kvss.lua" -r "$@" >"$MADE.out" 2>"$MADE.err" ||
        { cat "$MADE.err" >&2; return 1; }
    ! grep -a 'Lua Error' "$MADE.out" "$MADE.err" >&2 || return 1
    cat "$MADE.out"
}

# fields FILE NAMES [OPTION...]: of the packets with KV/1.0 in them, a line each, in two passes.
fields() {
    local names=()
    for name in $2; do names+=(-e "$name"); done
    dissect "$1" -2 -Y kv -T fields -E separator='|' -E aggregator='+' "${names[@]}" "${@:3}"
}

# segment SIDE BYTES: a segment to the server (I) or from it (O), for connection. Bytes is a format.
segment() {
    # shellcheck disable=SC2059
    printf "$2" | hexdump_of "$1"
}

hexdump_of() {
    echo "$1"
    od -A x -t x1 -v
    echo
}

# connection FILE [PORT]: makes packets of the segments.
connection() {
    text2pcap -q -D -T "${2-50000},9000" - "$1" 2>"$MADE.err" ||
        { cat "$MADE.err" >&2; return 1; }
}

LINES='kv.version kv.verb kv.key kv.value kv.rest kv.status kv.name kv.data'

@test "the session of docs/wireshark.md, field by field" {
    run fields "$KEPT" "frame.number $LINES kv.request_in kv.response_in kv.time"
    printed '4|KV/1.0|PUT|foo|bar||||||6|
6||||||201|CREATED||4||0.000197000
8|KV/1.0|GET|foo|||||||9|
9||||||200|OK|bar|8||0.000012000
10|KV/1.0|DEL|foo|||||||11|
11||||||204|NO_CONTENT||10||0.000010000
12|KV/1.0|STATS||||||||13|
13||||||200|OK|keys=0 uptime=0s served=4|12||0.000023000
14|KV/1.0+KV/1.0|PUT+GET|user42+user42|Alice||||||15+15|
15||||||201+200|CREATED+OK|Alice|14+14||0.009574000+0.009574000
20|KV/1.0|PUT|city|Hà Nội||||||22|
22||||||201|CREATED||20||0.010329000
23|KV/1.0|GET|city|||||||24|
24||||||200|OK|Hà Nội|23||0.006900000
25|KV/1.0|DEL|city|||||||26|
26||||||204|NO_CONTENT||25||0.004302000
27|KV/2.0||||GET user42|||||28|
28||||||426|UPGRADE_REQUIRED||27||0.000088000
29|KV/1.0|POTT|user42|Alice||||||30|
30||||||400|BAD_REQUEST||29||0.000013000
31|KV/1.0|QUIT||||||||32|
32||||||200|OK|bye|31||0.000011000
39|KV/1.0|GET|user42|||||||41|
41||||||200|OK|Alice|39||0.000015000'
}

@test "one pass or two: the packet list is the same" {
    dissect "$KEPT" >"$MADE.once"
    dissect "$KEPT" -2 | diff "$MADE.once" -
    [ "$(grep -c 'KV' "$MADE.once")" = 24 ]
    grep -q ' KV .* PUT user42 Alice | GET user42$' "$MADE.once"
    grep -q ' KV .* KV/2.0 GET user42$' "$MADE.once"
    grep -q ' KV .* 200 OK Alice$' "$MADE.once"
}

@test "what is wrong is flagged: a wrong version, what was refused, and nothing else" {
    run fields "$KEPT" 'frame.number _ws.expert.severity _ws.expert.message' -Y 'kv && _ws.expert'
    error=$((0x00800000)) note=$((0x00400000))
    printed "27|$error|A request begins with KV/1.0 and a space
28|$note|426 UPGRADE_REQUIRED
30|$note|400 BAD_REQUEST"
}

@test "the session can be captured again, with the same requests and replies" {
    command -v unshare >/dev/null && unshare --map-root-user --net dumpcap -D >"$MADE.log" 2>&1 ||
        skip "there is no right to make a network, or to capture in it"
    command=$(block docs/wireshark.md replay)
    (cd "$ROOT" && eval "${command/\/tmp\/mine/$MADE}")
    lines() { fields "$1" "tcp.dstport $LINES" | alike | sed 's/^6[0-9]*/client/'; }
    lines "$KEPT" >"$MADE.kept"
    lines "$MADE.pcapng" | diff "$MADE.kept" -
}

@test "docs/wireshark.md: a capture of one's own; docs/questions.md has the same command" {
    command=$(block docs/wireshark.md capture)
    for page in questions vi/questions; do
        grep -q -F "(\`${command% -w *}\`)" "$ROOT/docs/$page.md"
    done
    dumpcap -D 2>/dev/null | grep -q '\. lo' || skip "there is no right to capture"
    serve
    command=${command/9000/$PORT}
    bash -c "sudo() { exec \"\$@\"; }; ${command/\/tmp\/mine/$MADE}" 2>"$MADE.log" 3>&- &
    capture=$!
    # shellcheck disable=SC2034 # the helper ends it
    SERVERS[capture]=$capture
    # It says that it does before it does.
    captured() {
        grep -q '^Capturing on' "$MADE.log" && ask 'KV/1.0 GET foo' >"$MADE.reply" &&
            told "$MADE.pcapng" -o "kv.ports:$PORT" | grep -q '^GET foo | 404 NOT_FOUND | $'
    }
    wait_until captured
    stop $capture
}

@test "docs/wireshark.md: wireshark takes kvss.lua for once" {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    options=$(tr '\n' ' ' <"$ROOT/docs/wireshark.md" |
        sed 's/.*`wireshark \([^`]*\) \(docs[^`]*\)`.*/\1 -r \2/')
    cd "$ROOT"
    # shellcheck disable=SC2086 # words
    tshark $options 2>"$MADE.err" | grep -q ' KV .* PUT foo bar$'
}

@test "TIME-WAIT is where docs/wireshark.md says, on the side whose FIN is first" {
    command -v ss >/dev/null || skip "ss is needed: apt-get install iproute2"
    command=$(tr '\n' ' ' <"$ROOT/docs/wireshark.md" | grep -o 'ss -tan state time-wait')
    # waits SIDE
    waits() {
        [ "$1" = "$($command | awk -v server="127.0.0.1:$PORT" '
            $3 == server { print "server" }
            $4 == server { print "client" }')" ]
    }
    serve
    connect one
    says one 'KV/1.0 QUIT'
    hears one '200 OK bye'
    closed one
    wait_until waits server
    serve
    connect two
    says two 'KV/1.0 GET nothing'
    hears two '404 NOT_FOUND' # it is connected
    hang_up two
    wait_until waits client
}

# told FILE: the lines of each connection, as the Info column tells them.
told() {
    fields "$1" 'tcp.stream _ws.col.Info' "${@:2}" | awk -F '|' '
        { stream = $1; sub(/^[0-9]*\|(\[TCP [A-Za-z-]*\] )?/, "") }
        { told[stream] = told[stream] $0 " | " }
        END { for (stream in told) print told[stream] }'
}

@test "a session cut at every byte is the same session" {
    requests=$'KV/1.0 PUT k\xc3\xa9y v\xc3\xa0lue \r\nKV/1.0 GET k\xc3\xa9y\r\n'
    requests+=$'\nKV/2.0 GET x\nKV/1.0 QUIT\n'
    for ((i = 1; i < ${#requests}; i++)); do
        {
            printf '%s' "${requests:0:i}" | hexdump_of I
            printf '%s' "${requests:i}" | hexdump_of I
        } | connection "$MADE.$((1000 + i)).pcap" $((50000 + i))
    done
    mergecap -a -w "$MADE.pcap" "$MADE".1*.pcap
    told "$MADE.pcap" | sort | uniq -c >"$MADE.told"
    same \
        "$((${#requests} - 1)) PUT kéy vàlue  | GET kéy |  | KV/2.0 GET x | QUIT | " \
        "$(sed 's/^ *//' "$MADE.told")"
}

@test "requests of one byte a segment, with replies between them" {
    {
        for byte in K V / 1 . 0 ' ' G E T ' ' a '\r' '\n'; do segment I "$byte"; done
        for byte in 2 0 0 ' ' O K ' ' 1 '\n'; do segment O "$byte"; done
    } | connection "$MADE.pcap"
    run fields "$MADE.pcap" 'frame.number kv.key kv.data kv.request_in kv.response_in'
    printed '14|a|||23
23||1|14|'
}

@test "replies find their requests; 100 and 503 have none, nor what was asked before the capture" {
    {
        segment O '200 OK of a request before\n'
        segment I 'KV/1.0 GET a\nKV/1.0 GET b\nKV/1.0 GET c\n'
        segment O '200 OK 1\n100 MESS'
        segment I 'KV/1.0 GET d\n'
        segment O 'AGE bob hello\n404 NOT_FOUND\n200 OK 3\n'
        segment O '503 SERVICE_UNAVAILABLE\n'
        segment O '200 OK 4\n'
    } | connection "$MADE.pcap"
    run fields "$MADE.pcap" 'frame.number _ws.col.Info kv.request_in kv.response_in'
    printed '1|200 OK of a request before||
2|GET a | GET b | GET c||3+5+5
3|200 OK 1|2|
4|GET d||7
5|100 MESSAGE bob hello | 404 NOT_FOUND | 200 OK 3|2+2|
6|503 SERVICE_UNAVAILABLE||
7|200 OK 4|4|'
}

@test "segments that come again or out of order" {
    for part in 'KV/1.0 GET a\n' 'KV/1.0 PUT a' ' 1\nKV/1.0 G' 'ET a\nKV/1.0 DEL a\n'; do
        segment I "$part"
    done | connection "$MADE.pcap"
    for n in 1 2 3 4; do editcap -F pcap -r "$MADE.pcap" "$MADE.part.$n" $n 2>"$MADE.err"; done
    for order in '1 1 2 2 3 3 4 4' '1 2 3 4 2 3' '1 2 4 3' '1 3 2 4' '1 4 3 2 4'; do
        read -r -a parts <<<"$order"
        mergecap -a -w "$MADE.mixed" "${parts[@]/#/$MADE.part.}"
        same 'GET a | PUT a 1 | GET a | DEL a | ' \
            "$(told "$MADE.mixed" -o tcp.reassemble_out_of_order:TRUE)" "in the order $order"
    done
}

@test "a line of 65,536 bytes is a request, and a longer one is flagged" {
    # long BYTES END: whether a PUT of so many bytes is flagged, and what is read of it.
    long() {
        {
            printf 'KV/1.0 PUT k '
            head -c "$(($1 - 14))" /dev/zero | tr '\0' x
            printf '%b\nKV/1.0 GET k\n' "$2"
        } | split -b 1448 --filter="$(declare -f hexdump_of); hexdump_of I" |
            connection "$MADE.pcap"
        fields "$MADE.pcap" 'kv.long_line kv.verb kv.key'
    }
    same '|PUT+GET|k+k' "$(long 65536 '')"
    same '1|PUT+GET|k+k' "$(long 65537 '')"
    same '1|PUT+GET|k+k' "$(long 65536 '\r')"
    same '1|PUT+GET|k+k' "$(long 70000 '')"
}

@test "what kvss refuses for its version or its bytes is flagged, and nothing else" {
    lines=('KV/1.0' 'KV/1.0x GET a' ' KV/1.0 GET a' 'kv/1.0 GET a' 'KV/1.0\tGET a' '' '\r'
        'KV/1.0\r' 'KV/1.0 \r' 'KV/1.0\r\r' '\xff' 'KV/2.0 GET \xff')
    for bytes in '\xc3\xa9' '\xc3' '\xc1\xbf' '\xc2\x80' '\xdf\xbf' '\x80' '\xc3A\xa9' \
        '\xe0\x9f\xbf' '\xe0\xa0\x80' '\xe1\x80' '\xe1\xc2\x80\x80' '\xec\xbf\xbf' '\xed\x9f\xbf' \
        '\xed\xa0\x80' '\xee\x80\x80' '\xef\xbf\xbf' '\xf0\x8f\xbf\xbf' '\xf0\x90\x80\x80' \
        '\xf3\xbf\xbf\xbf' '\xf4\x8f\xbf\xbf' '\xf4\x90\x80\x80' '\xf5\x80\x80\x80' '\xff' \
        '\xc3\xa9\xa9' 'a\0b'; do
        lines+=("KV/1.0 GET $bytes")
    done
    serve
    printf '%b\n' "${lines[@]}" | talk | cut -c 1-3 >"$MADE.kvss"
    for line in "${lines[@]}"; do segment I "$line\n"; done | connection "$MADE.pcap"
    fields "$MADE.pcap" 'kv.bad_version kv.bad_text kv.verb' | awk -F '|' '
        { print $1 ? 426 : $2 || !$3 ? 400 : 404 }' >"$MADE.flagged"
    paste "$MADE.kvss" "$MADE.flagged" <(printf '%s\n' "${lines[@]}")
    diff "$MADE.kvss" "$MADE.flagged"
    [ "$(sort "$MADE.flagged" | uniq -c | awk '{ printf "%s ", $2 }')" = '400 404 426 ' ]
}

@test "rubbish, both ways, cut anywhere" {
    for seed in 1 2 3 4 5 6; do
        awk -v seed=$seed 'BEGIN {
            srand(seed)
            for (segment = 0; segment < 50; segment++) {
                print rand() < .5 ? "I" : "O"
                len = 1 + int(rand() * 400)
                for (i = 0; i < len; i++)
                    printf i % 16 ? " %02x" : "\n%06x %02x", i % 16 ? byte() : i, byte()
                print "\n"
            }
        }
        function byte(at) {
            at = int(rand() * 40)
            return at > 2 ? int(rand() * 256) : substr("103248", at * 2 + 1, 2)
        }' | connection "$MADE.$seed.pcap"
        dissect "$MADE.$seed.pcap" -V >"$MADE.tree"
        dissect "$MADE.$seed.pcap" -2 >"$MADE.list"
        grep -q 'KV/1.0 request: ' "$MADE.tree"
        grep -q 'KV/1.0 reply: ' "$MADE.tree"
        iconv -f UTF-8 -t UTF-8 "$MADE.list" >"$MADE.text"
        ! grep -a -P '[\x00-\x1f\x7f]|\xc2[\x80-\x9f]' "$MADE.list" || false
    done
}

@test "control characters are shown escaped, and text as it is" {
    segment I 'KV/1.0 GET \x1b[31m\\\nKV/1.0 GET \xc2\x9b31m\nKV/1.0 GET Hà\n' |
        connection "$MADE.pcap"
    same 'GET \x1B[31m\x5C | GET \xC2\x9B31m | GET Hà | ' "$(told "$MADE.pcap")"
}

@test "replies that are none are flagged" {
    segment O '200 OK\n404\n20 OK\n2000 OK\n200 ok\n200 OK a\r\n200\tOK\n' |
        connection "$MADE.pcap"
    run fields "$MADE.pcap" 'kv.status kv.data kv.bad_reply'
    printed '200+200|a\r|1+1+1+1+1'
}

@test "other ports: by preference, or by Decode As" {
    { segment I 'KV/1.0 GET a\n'; segment O '200 OK 1\n'; } >"$MADE.hex"
    text2pcap -q -D -T 50000,9100 "$MADE.hex" "$MADE.pcap"
    [ -z "$(told "$MADE.pcap")" ]
    same 'GET a | 200 OK 1 | ' "$(told "$MADE.pcap" -o kv.ports:9000,9100-9101)"
    same 'GET a | 200 OK 1 | ' "$(told "$MADE.pcap" -d tcp.port==9100,kv)"
    connection "$MADE.9000" <"$MADE.hex"
    [ -z "$(told "$MADE.9000" -o kv.ports:9100)" ]
}

@test "without reassembly, a part of a line is shown as it is" {
    { segment I 'KV/1.0 PUT a 1\nKV/1.0 PU'; segment I 'T b 2\n'; } | connection "$MADE.pcap"
    same 'PUT a 1 | PU | T b 2 | ' "$(told "$MADE.pcap" -o tcp.desegment_tcp_streams:FALSE)"
}

@test "kvss.lua is sound" {
    command -v luacheck >/dev/null || skip "luacheck is needed: apt-get install lua-check"
    luacheck --no-cache -q --std lua52 "$ROOT/docs/kvss.lua" --read-globals Proto ProtoField \
        ProtoExpert Pref DissectorTable NSTime base frametype expert ENC_UTF_8 \
        DESEGMENT_ONE_MORE_SEGMENT
}

# documented: skips where tshark is another than that of the page, and prints other words. As root
# it prints a warning, which isn't on the page.
documented() {
    tshark --version 2>"$MADE.err" | grep -q '^TShark (Wireshark) 4\.0\.' ||
        skip 'the page is about tshark 4.0'
    mkdir "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/tshark" <<END
#!/bin/sh
{ $(command -v tshark) "\$@" 2>&1 >&3 3>&- | grep -v '^Running as user' >&2; } 3>&1
exit 0
END
    chmod +x "$BATS_TEST_TMPDIR/bin/tshark"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH
}

@test "docs/wireshark.md: every command prints what the page shows" {
    documented
    fresh_copy
    check_page docs/wireshark.md
}

@test "the pictures of docs/wireshark.md are what draw.bash draws of the capture" {
    documented
    "$ROOT/docs/figures/draw.bash" "$BATS_TEST_TMPDIR"
    for picture in exchange list; do
        cmp "$BATS_TEST_TMPDIR/wireshark-$picture.svg" "$ROOT/docs/figures/wireshark-$picture.svg"
        grep -q "](figures/wireshark-$picture.svg)" "$ROOT/docs/wireshark.md"
    done
}

@test "the filters of docs/wireshark.md are filters" {
    # shellcheck disable=SC2016 # these are backquotes of Markdown
    sed -n '/^| filter/,/^$/s/^| \(`.*`\) |.*/\1/p' "$ROOT/docs/wireshark.md" |
        grep -o '`[^`]*`' | tr -d '`' >"$MADE.filters"
    [ "$(wc -l <"$MADE.filters")" -ge 10 ]
    while read -r filter; do
        dissect "$KEPT" -Y "$filter" >"$MADE.found"
        case $filter in
        kv.bad_text | kv.long_line | tcp.analysis.flags) [ ! -s "$MADE.found" ] ;;
        *) [ -s "$MADE.found" ] ;;
        esac || { echo "$filter: $(wc -l <"$MADE.found") packets" >&2; false; }
    done <"$MADE.filters"
}
