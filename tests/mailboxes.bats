#!/usr/bin/env bats
# Beyond the lab: a user is a mailbox, where messages wait until a connection takes them. CREATE, DELETE, LIST,
# SEND and CONNECT are what KV/1.0 has for that.

# shellcheck disable=SC2153 # PORT is set by serve
load helper
load watch
load mailboxes

# long BYTES [LETTER]: so many times the letter.
long() {
    printf '%*s' "$1" '' | tr ' ' "${2-x}"
}

# users FILE: creates the users that it names, a line each.
users() {
    sed 's/^/KV\/1.0 CREATE /' "$1" | talk >"$BATS_TEST_TMPDIR/created"
    [ "$(uniq "$BATS_TEST_TMPDIR/created")" = '201 CREATED' ]
}

# figure NAME FIGURE: what STATS all says to that client, in VALUE.
figure() {
    says "$1" 'KV/1.0 STATS all'
    next "$1"
    VALUE=${LINE##* "$2"=} VALUE=${VALUE%% *}
}

@test "the session of the assignment: three terminals" {
    serve
    connect two
    connect three
    says two 'KV/1.0 CREATE user2';            hears two '201 CREATED'
    says three 'KV/1.0 CREATE user3';          hears three '201 CREATED'
    says two 'KV/1.0 LIST';                    hears two '200 OK user2 user3'
    says two 'KV/1.0 SEND user3 hello';        hears two '202 ACCEPTED'
    says three 'KV/1.0 CONNECT user3';         hears three '200 OK 1' '100 MESSAGE user3 hello'
    says two 'KV/1.0 SEND user3 helloagain';   hears two '200 OK'
    hears three '100 MESSAGE user3 helloagain'
}

# bats test_tags=roles
@test "CREATE: 201, then 409; users are no keys, and --private does not part them" {
    serve --private
    replies 'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 CREATE bob' '409 CONFLICT' \
            'KV/1.0 CREATE bo' '201 CREATED' \
            "KV/1.0 CREATE $(long 250)" '201 CREATED' \
            'KV/1.0 CREATE Nguyễn' '201 CREATED' \
            'KV/1.0 GET bob' '404 NOT_FOUND' \
            'KV/1.0 PUT bob v' '201 CREATED' \
            'KV/1.0 DEL bob' '204 NO_CONTENT' \
            'KV/1.0 CREATE bob' '409 CONFLICT' \
            'KV/1.0 STATS' '200 OK keys=0 *'
    replies 'KV/1.0 SEND bob hi' '202 ACCEPTED'
}

@test "a user's name obeys the rules for keys, and has no comma" {
    serve --explain
    table=()
    for verb in CREATE DELETE CONNECT; do
        for arguments in '' ' a b' ' ' ' a,b' $' a\tb' " $(long 251)"; do table+=("KV/1.0 $verb$arguments" '400 BAD_REQUEST *'); done
    done
    replies "${table[@]}" \
            'KV/1.0 SEND a,b text' '400 BAD_REQUEST *' \
            'KV/1.0 SEND bob' '400 BAD_REQUEST *' \
            'KV/1.0 SEND bob ' '400 BAD_REQUEST *'
}

@test "DELETE: 204, then 404; unread messages go with it, and whoever was connected is so no longer" {
    serve
    connect bob
    says bob 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears bob '201 CREATED' '200 OK 0'
    replies 'KV/1.0 DELETE ann' '404 NOT_FOUND' \
            'KV/1.0 CREATE ann' '201 CREATED' \
            'KV/1.0 SEND ann hi' '202 ACCEPTED' \
            'KV/1.0 DELETE ann' '204 NO_CONTENT' \
            'KV/1.0 DELETE ann' '404 NOT_FOUND' \
            'KV/1.0 SEND ann hi' '404 NOT_FOUND' \
            'KV/1.0 CREATE ann' '201 CREATED' \
            'KV/1.0 CONNECT ann' '200 OK 0' \
            'KV/1.0 DELETE bob' '204 NO_CONTENT' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 SEND bob new' '202 ACCEPTED'
    says bob 'KV/1.0 GET a' 'KV/1.0 CONNECT bob'
    hears bob '404 NOT_FOUND' '200 OK 1' '100 MESSAGE bob new'
}

@test "SEND: 202 while nobody is connected, 200 while somebody is" {
    serve
    connect bob
    replies 'KV/1.0 CONNECT bob' '404 NOT_FOUND' \
            'KV/1.0 SEND bob hi' '404 NOT_FOUND' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 SEND bob first' '202 ACCEPTED' \
            'KV/1.0 SEND bob   second,  with spaces ' '202 ACCEPTED'
    says bob 'KV/1.0 CONNECT bob'
    hears bob '200 OK 2' '100 MESSAGE bob first' '100 MESSAGE bob   second,  with spaces '
    replies 'KV/1.0 SEND bob third' '200 OK'
    hears bob '100 MESSAGE bob third'
    says bob 'KV/1.0 SEND bob to myself'
    hears bob '200 OK' '100 MESSAGE bob to myself'
    says bob 'KV/1.0 QUIT'
    hears bob '200 OK bye'
    # A client that has said all gets its messages before the end.
    replies 'KV/1.0 SEND bob fourth' '202 ACCEPTED'
    run ask 'KV/1.0 CONNECT bob'
    printed $'200 OK 1\n100 MESSAGE bob fourth'
}

@test "SEND to oneself, behind more replies than a turn has room for" {
    serve
    {
        printf 'KV/1.0 CREATE bob\nKV/1.0 CONNECT bob\nKV/1.0 PUT k %s\n' "$(long 60000 x)"
        printf 'KV/1.0 %s\n' 'GET k' 'GET k' 'GET k' 'GET k' 'GET k' 'GET k' 'GET k' 'GET k' 'GET k' 'SEND bob hi' 'GET none'
    } | talk | cut -c 1-20 | tail -n 4 >"$BATS_TEST_TMPDIR/end"
    printf '%s\n' '200 OK xxxxxxxxxxxxx' '200 OK' '404 NOT_FOUND' '100 MESSAGE bob hi' |
        diff "$BATS_TEST_TMPDIR/end" -
}

@test "LIST: the names, sorted, one space between" {
    serve
    replies 'KV/1.0 LIST' '200 OK' \
            'KV/1.0 CREATE carl' '201 CREATED' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 CREATE Ánh' '201 CREATED' \
            'KV/1.0 CREATE bo' '201 CREATED' \
            'KV/1.0 CREATE Zoe' '201 CREATED' \
            'KV/1.0 LIST' '200 OK Zoe bo bob carl Ánh' \
            'KV/1.0 LIST ^bo' '200 OK bo bob' \
            'KV/1.0 LIST o' '200 OK Zoe bo bob' \
            'KV/1.0 LIST ^.nh$' '200 OK Ánh' \
            'KV/1.0 LIST ^nobody$' '200 OK' \
            'KV/1.0 LIST us|' '200 OK Zoe bo bob carl Ánh' \
            'KV/1.0 DELETE bo' '204 NO_CONTENT' \
            'KV/1.0 LIST' '200 OK Zoe bob carl Ánh' \
            'KV/1.0 LIST a b' '400 BAD_REQUEST'
}

@test "LIST: patterns mean what grep -E says" {
    serve
    printf '%s\n' a b ab ba aab abb abab user1 user2 user10 User3 a.b a-b '^a' 'a$' '[x]' 'é' 'aé' 'ééé' \
        'x^y' 'a|b' '{2}' 'Đào' 'a_b' '1' '22' '333' | sort >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    table=()
    while IFS= read -r pattern; do
        mapfile -t names < <(LC_ALL=C.UTF-8 grep -E -e "$pattern" "$BATS_TEST_TMPDIR/names")
        wanted=(200 OK "${names[@]}")
        table+=("KV/1.0 LIST $pattern" "${wanted[*]}")
    done <<'PATTERNS'
a
^a
a$
^a$
^ab*$
^ab+$
^ab?$
^(ab)*$
^(ab|ba)+$
a|^b
^(a|b)$
.
^.$
^..$
é
^é+$
^é{2,3}$
[^a]
^[^a]
^[^ab]*$
[[:digit:]]
^[[:digit:]]+$
^[[:upper:]]ser
[0-9]{2}
^[0-9]{2,}$
^[0-9]{1,2}$
^[0-9]{0,1}$
user[13]
^user[^1]
[a-b]-
[]x]
[^]x[]
[-_]
[_-]
\.
\^
\$
\[
\|
\{
^(x|y)?$
((a)(b))
(^a|b$)
^^a
a$$
a{0}b
^a{0,}b
^(a{2}b|b{1}a)$
(a|ab)(c|bcd|b)*$
a{2,}
x*
(((a)))
PATTERNS
    [ ${#table[@]} -gt 90 ]
    replies "${table[@]}"
}

@test "LIST: patterns may be written as in Python" {
    serve
    printf '%s\n' 7 a ab abc a1 a-b a_b 'a\b' 'a]b' 'a{2' 'a{}' 42 Đào 'Nguyễn' >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    table=()
    while IFS= read -r line; do # a pattern, and the names that it finds
        table+=("KV/1.0 LIST ${line%% *}" "200 OK${line#"${line%% *}"}")
    done <<'PATTERNS'
^\d+$ 42 7
^\D+$ Nguyễn a a-b a\b a]b a_b ab abc a{} Đào
^\w+$ 42 7 Nguyễn a a1 a_b ab abc Đào
^\w\W\w$ a-b a\b a]b a{2
^\w\W+$ a{}
\s
^\S{6}$ Nguyễn
^[\d]$ 7
^a[^\w]b$ a-b a\b a]b
^[^\W\d]+$ Nguyễn a a_b ab abc Đào
^[\w-]{3}$ a-b a_b abc Đào
^a[\]\\]b a\b a]b
^a[+-\-]b a-b
^a\-b a-b
^a\]b|a\{ a]b a{2 a{}
^\Đ Đào
^a.*?b$ a-b a\b a]b a_b ab
^.+?.??b{1,2}?$ a-b a\b a]b a_b ab
^(?:a|b)+$ a ab
^(?:4|x(?:y))2$ 42
^(ab|)$ ab
^a(|b)c?$ a ab abc
^a()b$ ab
^()*(){9}a(?:)$ a
^\d{,1}$ 7
^a.{,1}$ a a1 ab
^\d{,}$ 42 7
{2$ a{2
a{} a{}
a{,1}{2 a{2
^(?:^)*a(?:$)+$ a
PATTERNS
    replies "${table[@]}"
}

@test "LIST: what is no pattern, or asks too much, is 400" {
    serve --explain
    # shellcheck disable=SC1003 # one backslash is what is meant
    patterns=(
        '(' ')' 'a)' '(a' '(*a)' '|*' '*' '+a' '?' '{1}' '{,2}' '^*' '$?' '^{2}' # nothing to repeat
        'a**' 'a+*' 'a{1}{2}' 'a*??' 'a*+' 'a++' 'a?+' 'a{1}+' 'a{2,1}'
        '[' '[a' '[]' '[^]' '[b-a]' '[\' '[a-\d]' '[\d-z]' '[\b]' '[é]' '[a-é]'
        '[[:nonsense:]]' '[[:alpha' '[[:alpha:' '[[:digit:]-z]' '[!-[.a.]]' '[[.a.]]' '[[.]' 'a[[=]' '[[=a=]]'
        '\' 'a\' '\1' '(a)\1' '\b' '\A' 'a\Z' '\n' '\x61' '(?=a)' '(?<!b)a' '(?i)A' '(?P<name>a)' '(?#a)' '(?>a)'
        'a{65}' 'a{99999999999}' 'a{99999999999999999999}' "$(long 65 a)" "$(long 33 .)" '\w{33}' '((a{9}){9})'
        '((((a{60}){60}){60}){60})' "$(long 240 '(')"
    )
    table=()
    for pattern in "${patterns[@]}"; do table+=("KV/1.0 LIST $pattern" '400 BAD_REQUEST *'); done
    # Groups without a state are copied no more often than others, however deep they are nested.
    nested=
    for _ in {1..40}; do nested="($nested){60}"; done
    replies "${table[@]}" \
            'KV/1.0 CREATE a' '201 CREATED' \
            'KV/1.0 LIST ' '400 BAD_REQUEST *' \
            "KV/1.0 LIST $(long 251 a)" '400 BAD_REQUEST *' \
            "KV/1.0 LIST $(long 64 a)" '200 OK' \
            "KV/1.0 LIST $(long 120 '(')a$(long 120 ')')" '200 OK a' \
            "KV/1.0 LIST $nested" '200 OK a'
}

# costs PATTERN: COST is what fifty of them cost the server.
costs() {
    local before
    before=$(cpu "$PID")
    yes "KV/1.0 LIST $1" | head -n 50 | talk >"$BATS_TEST_TMPDIR/replies"
    [ "$(grep -c '^200 OK' "$BATS_TEST_TMPDIR/replies")" = 50 ]
    COST=$(($(cpu "$PID") - before))
}

@test "LIST: no pattern takes much more than any other, or memory" {
    [ -r "/proc/$$/stat" ] || skip "this system has no /proc"
    serve --quiet
    awk 'BEGIN { srand(1); for (i = 0; i < 2000; i++) {
        name = sprintf("%04d", i); while (length(name) < 250) name = name (rand() < 0.5 ? "a" : "b"); print name } }' \
        >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    costs c
    plain=$COST
    before=$(memory "$PID")
    for pattern in '(a*)*c' '((a*)*)*c' '(a|aa)+c' '(a|a)*c' '(.*)*c' '(.*.*.*)*c' '(a?){30}a{30}c' '[ab]*a[ab]{40}c' \
        '((a|b)*a(a|b)(a|b)(a|b)(a|b)(a|b)(a|b))*c' '(x+x+)+y' '(([a-z])+.)+[A-Z]([a-z])+c' "$(long 60 '(')a$(long 60 ')'){60}c" \
        '^(([a-z])*)*$' '.*.*.*.*.*.*.*.*.*.*=.*'; do
        costs "$pattern"
        echo "$COST hundredths of a second, where c takes $plain: $pattern"
        [ "$COST" -le $((plain * 4 + 20)) ]
    done
    instrumented || [ "$(memory "$PID")" -le $((before + 2000)) ]
}

@test "LIST: who asks for many does not keep the others waiting" {
    serve --quiet
    for ((i = 0; i < 2000; i++)); do printf '%0250d\n' "$i"; done >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    connect other
    printf 'KV/1.0 LIST (.*a)*b\n%.0s' {1..200} >"$BATS_TEST_TMPDIR/lists"
    many=()
    for i in {1..20}; do
        connect "many$i"
        many+=("many$i")
        cat "$BATS_TEST_TMPDIR/lists" >&"${TO[many$i]}"
    done
    figure other LIST
    before=$VALUE
    for _ in {1..20}; do says other 'KV/1.0 GET a'; hears other '404 NOT_FOUND'; done
    figure other LIST
    # One is run in a turn. Twenty in a turn would be some hundreds.
    echo "$((VALUE - before)) meanwhile"
    [ $((VALUE - before)) -le 160 ]
    # The others went on meanwhile, and none is left out: after two rounds, each has had a reply.
    until [ "$VALUE" -ge $((before + 40)) ]; do figure other LIST; done
    freeze "$PID"
    for name in "${many[@]}"; do hears "$name" '200 OK'; done
    kill -s CONT "$PID"
}

# bats test_tags=expiry, log
@test "LIST: who asks for many and does not read costs nothing" {
    [ -r "/proc/$$/stat" ] || skip "this system has no /proc"
    if instrumented; then skip "what is measured is not the server alone"; fi
    serve --quiet --data "$BATS_TEST_TMPDIR/data"
    connect many
    connect other
    says other "KV/1.0 PUT big $(long 20000)";     hears other '201 CREATED'
    # More replies than the kernel takes, and behind them a LIST that waits.
    printf 'KV/1.0 GET big\nKV/1.0 LIST\n%.0s' {1..1000} >&"${TO[many]}"
    alone=0 before=0
    while [ $alone -lt 20 ]; do
        figure other served
        if [ "$VALUE" = $((before + 1)) ]; then alone=$((alone + 1)); else alone=0; fi
        before=$VALUE
    done
    used=$(cpu "$PID")
    ms=$((${EPOCHREALTIME/./} / 1000 + 500))
    says other "KV/1.0 EXPIREAT big ${ms%???}.${ms: -3}";   hears other '200 OK'
    gone() { [ "$(tail -n 1 "$BATS_TEST_TMPDIR/data")" = 'KV/1.0 DEL big' ]; }
    wait_until gone
    COST=$(($(cpu "$PID") - used))
    echo "$COST hundredths of a second"
    [ "$COST" -le 10 ]
    # Whoever reads gets a LIST meanwhile.
    says other 'KV/1.0 LIST';   hears other '200 OK'
}

@test "--max-mailboxes-per-client: an address may have no more, and another address still may" {
    serve --max-mailboxes-per-client 2
    replies 'KV/1.0 CREATE ann' '201 CREATED' \
            'KV/1.0 CREATE bob' '201 CREATED'
    replies 'KV/1.0 CREATE eve' '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 DELETE ann' '204 NO_CONTENT' \
            'KV/1.0 CREATE eve' '201 CREATED' \
            'KV/1.0 CREATE fay' '507 INSUFFICIENT_STORAGE'
    nc -h 2>&1 | grep -q -e '-s ' || skip "this nc has no -s, for another address"
    same '201 CREATED
200 OK bye' "$(printf 'KV/1.0 CREATE fay\nKV/1.0 QUIT\n' | nc -s 127.0.0.2 127.0.0.1 "$PORT" 2>&1)"
}

@test "10,000 users are enough: 507, and LIST names them all" {
    serve --quiet --max-mailboxes-per-client 10000
    seq 10000 19999 >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    replies 'KV/1.0 CREATE bob' '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 DELETE 12345' '204 NO_CONTENT' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 DELETE bob' '204 NO_CONTENT'
    ask 'KV/1.0 LIST' | cmp - <(printf '200 OK'; seq 10000 19999 | grep -v 12345 | sed 's/^/ /' | tr -d '\n'; echo)
    [ "$("$KVSS_CLIENT" --port "$PORT" --value list | wc -w)" = 9999 ]
}

@test "CONNECT: the newest connection has the mailbox, and a connection has one mailbox" {
    serve
    connect old
    connect new
    says old 'KV/1.0 CREATE bob' 'KV/1.0 CREATE ann' 'KV/1.0 CONNECT bob'
    hears old '201 CREATED' '201 CREATED' '200 OK 0'
    says new 'KV/1.0 CONNECT bob';     hears new '200 OK 0'
    replies 'KV/1.0 SEND bob hi' '200 OK'
    hears new '100 MESSAGE bob hi'
    says old 'KV/1.0 GET a';           hears old '404 NOT_FOUND' # and no message before it
    hang_up old
    wait_until logged ' disconnect '
    replies 'KV/1.0 SEND bob more' '200 OK'
    hears new '100 MESSAGE bob more'
    # Who fails to connect to another keeps what it has; who does so leaves the first.
    says new 'KV/1.0 CONNECT nobody';  hears new '404 NOT_FOUND'
    replies 'KV/1.0 SEND bob 1' '200 OK'
    hears new '100 MESSAGE bob 1'
    says new 'KV/1.0 CONNECT ann';     hears new '200 OK 0'
    replies 'KV/1.0 SEND bob 2' '202 ACCEPTED' \
            'KV/1.0 SEND ann 1' '200 OK'
    hears new '100 MESSAGE ann 1'
    says new 'KV/1.0 CONNECT bob';     hears new '200 OK 1' '100 MESSAGE bob 2'
    says new 'KV/1.0 CONNECT bob';     hears new '200 OK 0'
    # Doing so again and again does not fill the log.
    printf 'KV/1.0 CONNECT bob\n%.0s' {1..1000} | talk >/dev/null
    [ "$(grep -c -e ' hold ' -e ' leave ' "$LOG")" -le 40 ]
}

@test "a full mailbox is 507, and nothing is dropped: 1,000 messages, or 1 MiB" {
    serve
    ask 'KV/1.0 CREATE bob' 'KV/1.0 CREATE ann' >/dev/null
    seq 1 1003 | sed 's/^/KV\/1.0 SEND bob /' | talk >"$BATS_TEST_TMPDIR/replies"
    cmp "$BATS_TEST_TMPDIR/replies" <(yes '202 ACCEPTED' | head -n 1000; yes '507 INSUFFICIENT_STORAGE' | head -n 3)
    replies 'KV/1.0 SEND ann hi' '202 ACCEPTED' \
            'KV/1.0 DELETE ann' '204 NO_CONTENT' \
            'KV/1.0 CREATE ann' '201 CREATED'
    ask 'KV/1.0 CONNECT bob' | cmp - <(echo '200 OK 1000'; seq 1 1000 | sed 's/^/100 MESSAGE bob /')
    replies 'KV/1.0 SEND bob again' '202 ACCEPTED'
    # 16 of these are 1,040,000 bytes; 8,576 are left.
    text=$(long 65000) rest=$(long 8576 y)
    { yes "KV/1.0 SEND ann $text" | head -n 16; printf 'KV/1.0 SEND ann %s\n' "${rest}y" "$rest" z; } | talk >"$BATS_TEST_TMPDIR/replies"
    cmp "$BATS_TEST_TMPDIR/replies" <(yes '202 ACCEPTED' | head -n 16
        printf '%s\n' '507 INSUFFICIENT_STORAGE' '202 ACCEPTED' '507 INSUFFICIENT_STORAGE')
    ask 'KV/1.0 CONNECT ann' | cmp - <(echo '200 OK 17'; yes "100 MESSAGE ann $text" | head -n 16; echo "100 MESSAGE ann $rest")
}

@test "a message is never taken for a reply: replies keep their order among messages" {
    serve
    connect bob
    connect other
    says bob 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears bob '201 CREATED' '200 OK 0'
    for i in {1..300}; do says bob "KV/1.0 PUT k $i" 'KV/1.0 GET k' "KV/1.0 SEND bob m$i"; says other "KV/1.0 SEND bob other$i"; done
    timeout "$PATIENCE" head -n 1500 <&"${FROM[bob]}" >"$BATS_TEST_TMPDIR/lines"
    awk '
        /^100 MESSAGE bob m/     { bad = bad || $4 != "m" ++mine; next }
        /^100 MESSAGE bob other/ { bad = bad || $4 != "other" ++others; next }
        { n++ }
        n % 3 == 1 { bad = bad || $0 != (n == 1 ? "201 CREATED" : "200 OK") }
        n % 3 == 2 { bad = bad || $0 != "200 OK " (n + 1) / 3 }
        n % 3 == 0 { bad = bad || $0 !~ /^20[02] [A-Z]+$/ }
        bad { print NR ": " $0; exit }
        END { exit bad || mine != 300 || others != 300 || n != 900 }' "$BATS_TEST_TMPDIR/lines"
}

@test "whoever is sent messages without end, from three sides, can still ask, and leave" {
    serve --quiet
    connect bob
    connect other
    says bob 'KV/1.0 CREATE bob';      hears bob '201 CREATED'
    for _ in 1 2 3; do
        yes "KV/1.0 SEND bob $(long 1000)" 2>/dev/null | nc 127.0.0.1 "$PORT" >/dev/null 2>&1 3>&- &
        floods+=($!)
    done
    says bob 'KV/1.0 CONNECT bob' 'KV/1.0 GET none'
    timeout "$PATIENCE" grep -q -m 1 '^404 NOT_FOUND$' <&"${FROM[bob]}"
    says bob 'KV/1.0 QUIT'
    timeout "$PATIENCE" grep -q '^200 OK bye$' <&"${FROM[bob]}"
    # The flood went on all the time.
    figure other SEND
    before=$VALUE
    until [ "$VALUE" -gt "$before" ]; do figure other SEND; done
    kill "${floods[@]}"
    wait "${floods[@]}" || :
}

@test "--timeout closes an idle connection, and its mailbox waits for the next" {
    serve --timeout 1
    connect bob
    says bob 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears bob '201 CREATED' '200 OK 0'
    closed bob
    logged ' idle'
    replies 'KV/1.0 SEND bob hi' '202 ACCEPTED'
    run ask 'KV/1.0 CONNECT bob'
    printed $'200 OK 1\n100 MESSAGE bob hi'
}

@test "a connection that stops reading: what the kernel has not taken is for the next, once and in order" {
    serve
    connect old
    says old 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears old '201 CREATED' '200 OK 0'
    stuff
    says old 'KV/1.0 WHOAMI' # it's not read any more; a reset would take what the kernel has
    ask 'KV/1.0 CONNECT bob' >new
    says old 'KV/1.0 WHOAMI'
    # The old connection is ended, since it has the beginning of a message; that one came whole now.
    shut "${TO[old]}"
    unset 'TO[old]'
    timeout "$PATIENCE" cat <&"${FROM[old]}" >old
    [ "$(tail -c 1 old)" = 0 ] # it was cut
    whole=$(wc -l <old)
    [ "$whole" -gt 0 ]
    head -n "$whole" old | cmp - <(head -n "$whole" stuffed)
    rest $((whole + 1))
}

@test "a connection that dies: what the kernel has not taken is back, in order" {
    serve
    connect old
    says old 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears old '201 CREATED' '200 OK 0'
    dies_stuffed old
}

@test "a slow connection gets all its messages, and once" {
    serve
    connect bob
    says bob 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears bob '201 CREATED' '200 OK 0'
    stuff
    timeout "$PATIENCE" head -c "$(wc -c <stuffed)" <&"${FROM[bob]}" | cmp - stuffed
    says bob 'KV/1.0 CONNECT bob'
    hears bob '200 OK 0'
}

@test "a connection that reads no replies: messages behind them are for the next, and only those" {
    serve --quiet
    connect old
    connect other
    says old 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
    hears old '201 CREATED' '200 OK 0'
    says other "KV/1.0 PUT big $(long 60000)" 'KV/1.0 SEND bob 1' 'KV/1.0 SEND bob 2'
    hears other '201 CREATED' '200 OK' '200 OK'
    # More replies than the kernel takes. It's no longer read, when STATS is the only request of fifty.
    printf 'KV/1.0 GET big\n%.0s' {1..400} >"$BATS_TEST_TMPDIR/gets"
    cat "$BATS_TEST_TMPDIR/gets" >&"${TO[old]}"
    alone=0 before=0
    while [ $alone -lt 50 ]; do
        figure other served
        if [ "$VALUE" = $((before + 1)) ]; then alone=$((alone + 1)); else alone=0; fi
        before=$VALUE
    done
    says other 'KV/1.0 SEND bob 3' 'KV/1.0 SEND bob 4'
    hears other '202 ACCEPTED' '202 ACCEPTED'
    run ask 'KV/1.0 CONNECT bob'
    printed $'200 OK 2\n100 MESSAGE bob 3\n100 MESSAGE bob 4'
    # All the replies are for the old one, whose last requests were run when they could be.
    says old 'KV/1.0 GET none'
    timeout "$PATIENCE" sed '/^404/q' <&"${FROM[old]}" | cut -c 1-20 | uniq -c >"$BATS_TEST_TMPDIR/old"
    diff "$BATS_TEST_TMPDIR/old" - <<'WANTED'
      1 100 MESSAGE bob 1
      1 100 MESSAGE bob 2
    400 200 OK xxxxxxxxxxxxx
      1 404 NOT_FOUND
WANTED
}

# crowd: 20 clients, u1 to u20, connected to mailboxes with their names.
crowd() {
    local name
    CROWD=(u{1..20})
    for name in "${CROWD[@]}"; do
        connect "$name"
        says "$name" "KV/1.0 CREATE $name" "KV/1.0 CONNECT $name"
        hears "$name" '201 CREATED' '200 OK 0'
    done
}

# send N NAME...: each of these sends its message N to everybody else.
send() {
    local from to requests
    for from in "${@:2}"; do
        requests=()
        for to in "${CROWD[@]}"; do [ "$to" = "$from" ] || requests+=("KV/1.0 SEND $to $from $1"); done
        says "$from" "${requests[@]}"
    done
}

# collect NAME LINE: what NAME hears goes to the file got.NAME, until it's that line.
collect() {
    LINE=
    until [ "$LINE" = "$2" ]; do
        next "$1"
        printf '%s\n' "$LINE"
        [[ $LINE != '(nothing)'* ]] || return
    done >>"$BATS_TEST_TMPDIR/got.$1"
}

# complete SENDER...: in each of the files got, there are both messages of each of these, once and in order; of
# the others, no message came twice or before its time.
complete() {
    awk -v senders="$*" '
        function check() {
            for (i = 1; i <= n; i++)
                if (s[i] != user && last[s[i]] != 2) { print user ": " last[s[i]] + 0 " of 2 from " s[i]; bad = 1 }
        }
        BEGIN { n = split(senders, s, " ") }
        FNR == 1 { if (user) check(); user = FILENAME; sub(/.*\./, "", user); split("", last) }
        !/^1/ || $4 == "end" { next }
        $3 != user || NF != 5 || $5 != last[$4] + 1 { print FILENAME ": " $0; bad = 1 }
        { last[$4] = $5 }
        END { check(); exit bad }' "$BATS_TEST_TMPDIR"/got.*
}

# settle NAME...: everything that these have sent is run, and everything that was sent to them is heard.
settle() {
    local name
    for name; do says "$name" 'KV/1.0 GET none'; done
    for name; do collect "$name" '404 NOT_FOUND'; done
    for name; do says other "KV/1.0 SEND $name end"; done
    for name; do
        next other
        collect "$name" "100 MESSAGE $name end"
    done
}

@test "20 clients send to one another, and seven are killed midway: nothing is lost" {
    serve
    connect other
    crowd
    killed=(u{1..7}) alive=(u{8..20})
    send 1 "${CROWD[@]}"
    next u1
    echo "$LINE" >"$BATS_TEST_TMPDIR/dead.u1"
    freeze "$PID" # so that it's midway
    for name in "${killed[@]}"; do kill -s KILL "${NC[$name]}"; done
    kill -s CONT "$PID"
    send 2 "${alive[@]}"
    wait_until logged ' leave ' 7
    settle "${alive[@]}"
    complete "${alive[@]}"
    [ "$(cat "$BATS_TEST_TMPDIR"/got.* | grep -c -e '^200 OK$' -e '^202 ACCEPTED$')" = $((${#alive[@]} * 19 * 2)) ]
    figure other SEND
    sends=$((VALUE - ${#alive[@]})) # but for those of settle
    # What was sent was delivered, to the kernel at least, or is in a mailbox.
    received=$(cat "$BATS_TEST_TMPDIR"/got.* | grep -c '^1.* [12]$')
    delivered=$(sed -n 's/.* leave .* \([0-9]*\) delivered, .*/\1/p' "$LOG" | awk '{ n += $1 } END { print n }')
    waiting=0
    # Those killed: what they had read and what waited are one order, with a gap where they died.
    for name in "${killed[@]}"; do
        timeout "$PATIENCE" cat <&"${FROM[$name]}" >>"$BATS_TEST_TMPDIR/dead.$name"
        ask "KV/1.0 CONNECT $name" >"$BATS_TEST_TMPDIR/rest"
        mapfile -t rest <"$BATS_TEST_TMPDIR/rest"
        [ "${rest[0]}" = "200 OK $((${#rest[@]} - 1))" ]
        waiting=$((waiting + ${#rest[@]} - 1))
        grep -h "^100 MESSAGE $name u[0-9]* [12]\$" "$BATS_TEST_TMPDIR/dead.$name" "$BATS_TEST_TMPDIR/rest" |
            awk '$3 $4 in last && $5 <= last[$3 $4] { print; exit 1 } { last[$3 $4] = $5 }'
    done
    echo "$sends sent, $received heard, $delivered delivered to those killed, $waiting waited for them"
    [ "$waiting" -gt 0 ]
    [ $((received + delivered + waiting)) = "$sends" ]
}

@test "kvss_client: all five, once; connect shows what waits, and ends" {
    serve
    client() { "$KVSS_CLIENT" --port "$PORT" "$@"; }
    [ "$(client create bob)" = '201 CREATED' ]
    run client create bob
    printed '409 CONFLICT'
    [ "$status" = 1 ]
    [ "$(client send bob hello you)" = '202 ACCEPTED' ]
    [ "$(client send bob - <<<'from a pipe')" = '202 ACCEPTED' ]
    [ "$(client list)" = '200 OK bob' ]
    [ "$(client list '^b')" = '200 OK bob' ]
    run client connect bob
    printed $'200 OK 2\n100 MESSAGE bob hello you\n100 MESSAGE bob from a pipe'
    [ "$status" = 0 ]
    client send bob 'a  b'
    run client --value connect bob
    printed $'1\na  b'
    run client connect nobody
    printed '404 NOT_FOUND'
    [ "$status" = 1 ]
    [ "$(client delete bob)" = '204 NO_CONTENT' ]
}

@test "kvss_client: a batch gets replies and messages, and waits for the last" {
    serve
    seq 1 500 | sed 's/^/send bob /' >"$BATS_TEST_TMPDIR/sends"
    { echo 'create bob'; cat "$BATS_TEST_TMPDIR/sends"; echo 'connect bob'; cat "$BATS_TEST_TMPDIR/sends"; } |
        "$KVSS_CLIENT" --port "$PORT" >"$BATS_TEST_TMPDIR/out"
    grep '^1' "$BATS_TEST_TMPDIR/out" | cmp - <({ seq 1 500; seq 1 500; } | sed 's/^/100 MESSAGE bob /')
    [ "$(grep -c '^2' "$BATS_TEST_TMPDIR/out")" = 1002 ]
}

@test "kvss_client: while its input is open, messages come as they are sent" {
    serve
    ask 'KV/1.0 CREATE bob'
    mkfifo "$BATS_TEST_TMPDIR/to" "$BATS_TEST_TMPDIR/from"
    "$KVSS_CLIENT" --port "$PORT" <"$BATS_TEST_TMPDIR/to" >"$BATS_TEST_TMPDIR/from" 3>&- &
    exec {to}>"$BATS_TEST_TMPDIR/to" {from}<"$BATS_TEST_TMPDIR/from"
    TO['client']=$to FROM['client']=$from NC['client']=$!
    says client 'connect bob'
    hears client '200 OK 0'
    replies 'KV/1.0 SEND bob one' '200 OK'
    hears client '100 MESSAGE bob one'
    says client 'get a'
    hears client '404 NOT_FOUND'
    closed client # when its input ends
    replies 'KV/1.0 SEND bob two' '202 ACCEPTED'
}
