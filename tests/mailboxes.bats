#!/usr/bin/env bats
# Beyond the lab: mailboxes, on KV/1.0.

# shellcheck disable=SC2153 # PORT is set by serve
load helper

# long BYTES [LETTER]: so many times the letter.
long() {
    printf '%*s' "$1" '' | tr ' ' "${2-x}"
}

# users FILE: creates the users that it names, a line each.
users() {
    sed 's/^/KV\/1.0 CREATE /' "$1" | talk | sort | uniq -c
}

@test "the session of the assignment: three terminals" {
    serve
    connect; two=$FD
    connect; three=$FD
    says "$two" 'KV/1.0 CREATE user2' '201 CREATED'
    says "$three" 'KV/1.0 CREATE user3' '201 CREATED'
    says "$two" 'KV/1.0 LIST' '200 OK user2 user3'
    says "$two" 'KV/1.0 SEND user3 hello' '202 ACCEPTED'
    says "$three" 'KV/1.0 CONNECT user3' '200 OK 1'
    hears "$three" '100 MESSAGE user3 hello'
    says "$two" 'KV/1.0 SEND user3 helloagain' '200 OK'
    hears "$three" '100 MESSAGE user3 helloagain'
    hang_up "$two" "$three"
}

@test "CREATE: 201, then 409" {
    serve
    replies 'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 CREATE bob' '409 CONFLICT' \
            'KV/1.0 CREATE bo' '201 CREATED' \
            "KV/1.0 CREATE $(long 250)" '201 CREATED' \
            'KV/1.0 CREATE Nguyễn' '201 CREATED'
}

@test "a user's name obeys the rules for keys, and has no comma" {
    serve --explain
    for verb in CREATE DELETE CONNECT; do
        replies "KV/1.0 $verb" "400 BAD_REQUEST $verb needs a user" \
                "KV/1.0 $verb a b" "400 BAD_REQUEST $verb needs a user" \
                "KV/1.0 $verb " '400 BAD_REQUEST a field is empty: one space stands between two fields' \
                "KV/1.0 $verb a,b" "400 BAD_REQUEST a user's name has no comma" \
                "KV/1.0 $verb "$'a\tb' '400 BAD_REQUEST the key has a control character in it' \
                "KV/1.0 $verb $(long 251)" '400 BAD_REQUEST the key is longer than 250 bytes'
    done
    replies 'KV/1.0 SEND a,b text' "400 BAD_REQUEST a user's name has no comma" \
            'KV/1.0 SEND bob' '400 BAD_REQUEST SEND needs a user and a text' \
            'KV/1.0 SEND bob ' '400 BAD_REQUEST a field is empty: one space stands between two fields'
}

@test "users are no keys" {
    serve
    replies 'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 GET bob' '404 NOT_FOUND' \
            'KV/1.0 PUT bob v' '201 CREATED' \
            'KV/1.0 DEL bob' '204 NO_CONTENT' \
            'KV/1.0 CREATE bob' '409 CONFLICT'
    [[ $(ask 'KV/1.0 STATS') == '200 OK keys=0 '* ]]
}

@test "--private: mailboxes are shared all the same" {
    serve --private
    replies 'KV/1.0 CREATE bob' '201 CREATED'
    replies 'KV/1.0 SEND bob hi' '202 ACCEPTED'
}

@test "DELETE: 204, then 404; unread messages go with it" {
    serve
    replies 'KV/1.0 DELETE bob' '404 NOT_FOUND' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 SEND bob hi' '202 ACCEPTED' \
            'KV/1.0 DELETE bob' '204 NO_CONTENT' \
            'KV/1.0 DELETE bob' '404 NOT_FOUND' \
            'KV/1.0 SEND bob hi' '404 NOT_FOUND' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 CONNECT bob' '200 OK 0'
}

@test "DELETE: whoever was connected is so no longer, and goes on" {
    serve
    connect; bob=$FD
    says "$bob" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 0'
    replies 'KV/1.0 DELETE bob' '204 NO_CONTENT' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 SEND bob new' '202 ACCEPTED'
    says "$bob" 'KV/1.0 GET a' '404 NOT_FOUND'
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 1'
    hears "$bob" '100 MESSAGE bob new'
    hang_up "$bob"
}

@test "SEND to oneself, behind more replies than a turn has room for" {
    serve
    {
        printf 'KV/1.0 CREATE bob\nKV/1.0 CONNECT bob\nKV/1.0 PUT k %s\n' "$(long 60000 x)"
        for _ in {1..9}; do echo 'KV/1.0 GET k'; done
        printf 'KV/1.0 SEND bob hi\nKV/1.0 GET none\n'
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
            'KV/1.0 DELETE bo' '204 NO_CONTENT' \
            'KV/1.0 LIST' '200 OK Zoe bob carl Ánh' \
            'KV/1.0 LIST a b' '400 BAD_REQUEST'
}

@test "LIST: patterns mean what grep -E says" {
    serve
    printf '%s\n' a b ab ba aab abb abab user1 user2 user10 User3 a.b a-b '^a' 'a$' '[x]' 'é' 'aé' 'ééé' \
        'x^y' 'a|b' '{2}' 'Đào' 'a_b' '1' '22' '333' >"$BATS_TEST_TMPDIR/names"
    LC_ALL=C sort "$BATS_TEST_TMPDIR/names" >"$BATS_TEST_TMPDIR/sorted"
    users "$BATS_TEST_TMPDIR/names"
    cat >"$BATS_TEST_TMPDIR/patterns" <<'PATTERNS'
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
    sed 's/^/KV\/1.0 LIST /' "$BATS_TEST_TMPDIR/patterns" | talk >"$BATS_TEST_TMPDIR/replies"
    while IFS= read -r pattern; do
        printf '200 OK %s\n' "$(LC_ALL=C.UTF-8 grep -E -e "$pattern" "$BATS_TEST_TMPDIR/sorted" | tr '\n' ' ')" |
            sed 's/ *$//'
    done <"$BATS_TEST_TMPDIR/patterns" >"$BATS_TEST_TMPDIR/wanted"
    paste -d ' ' "$BATS_TEST_TMPDIR/patterns" "$BATS_TEST_TMPDIR/replies" >"$BATS_TEST_TMPDIR/got"
    paste -d ' ' "$BATS_TEST_TMPDIR/patterns" "$BATS_TEST_TMPDIR/wanted" | diff "$BATS_TEST_TMPDIR/got" -
    [ "$(wc -l <"$BATS_TEST_TMPDIR/got")" -gt 45 ]
}

# shows PATTERN NAME...: LIST shows these names.
shows() {
    local wanted=(200 OK "${@:2}")
    replies "KV/1.0 LIST $1" "${wanted[*]}"
}

@test "LIST: patterns may be written as in Python" {
    serve
    printf '%s\n' 7 a ab abc a1 a-b a_b 'a\b' 'a]b' 'a{2' 'a{}' 42 Đào 'Nguyễn' >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    while read -r -a words; do
        shows "${words[@]}"
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
    [ "$(ask 'KV/1.0 LIST us|')" = "$(ask 'KV/1.0 LIST')" ]
}

@test "LIST: what is no pattern, or asks too much, is 400" {
    serve --explain
    ask 'KV/1.0 CREATE a'
    bad='400 BAD_REQUEST LIST takes nothing or a pattern, as docs/protocol.md describes it, of up to 64 states'
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
    for pattern in "${patterns[@]}"; do printf 'KV/1.0 LIST %s\n' "$pattern"; done | talk >"$BATS_TEST_TMPDIR/replies"
    for pattern in "${patterns[@]}"; do printf '%s %s\n' "$bad" "$pattern"; done >"$BATS_TEST_TMPDIR/wanted"
    printf '%s\n' "${patterns[@]}" | paste -d ' ' "$BATS_TEST_TMPDIR/replies" - | diff - "$BATS_TEST_TMPDIR/wanted"
    # Groups without a state are copied no more often than others, however deep they are nested.
    nested=
    for _ in {1..40}; do nested="($nested){60}"; done
    replies 'KV/1.0 LIST ' '400 BAD_REQUEST a field is empty: one space stands between two fields' \
            "KV/1.0 LIST $(long 251 a)" '400 BAD_REQUEST the key is longer than 250 bytes' \
            "KV/1.0 LIST $(long 64 a)" '200 OK' \
            "KV/1.0 LIST $(long 120 '(')a$(long 120 ')')" '200 OK a' \
            "KV/1.0 LIST $nested" '200 OK a'
}

# cpu PID: hundredths of a second that it has computed.
cpu() {
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

@test "LIST: no pattern takes much more than any other, or memory, with 10,000 users" {
    [ -r "/proc/$$/stat" ] || skip "this system has no /proc"
    serve --quiet
    awk 'BEGIN { srand(1); for (i = 0; i < 10000; i++) {
        name = sprintf("%05d", i); while (length(name) < 250) name = name (rand() < 0.5 ? "a" : "b"); print name } }' \
        >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    # lists PATTERN: what 20 of them cost.
    lists() {
        local before
        before=$(cpu "$PID")
        for _ in {1..20}; do echo "KV/1.0 LIST $1"; done | talk >"$BATS_TEST_TMPDIR/replies"
        [ "$(grep -c '^200 OK' "$BATS_TEST_TMPDIR/replies")" = 20 ]
        COST=$(($(cpu "$PID") - before))
    }
    lists 'c'
    plain=$COST
    before=$(memory "$PID")
    for pattern in '(a*)*c' '((a*)*)*c' '(a|aa)+c' '(a|a)*c' '(.*)*c' '(.*.*.*)*c' '(a?){30}a{30}c' '[ab]*a[ab]{40}c' \
        '((a|b)*a(a|b)(a|b)(a|b)(a|b)(a|b)(a|b))*c' '(x+x+)+y' '(([a-z])+.)+[A-Z]([a-z])+c' "$(long 60 '(')a$(long 60 ')'){60}c" \
        '^(([a-z])*)*$' '.*.*.*.*.*.*.*.*.*.*=.*'; do
        lists "$pattern"
        echo "$COST hundredths of a second, where c takes $plain: $pattern"
        [ "$COST" -le $((plain * 4 + 20)) ]
    done
    instrumented || [ "$(memory "$PID")" -le $((before + 2000)) ]
}

@test "LIST: who asks for many does not keep the others waiting" {
    serve --quiet
    seq 1 10000 >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    lists() { ask 'KV/1.0 STATS all' | sed 's/.* LIST=\([0-9]*\) .*/\1/'; }
    (yes 'KV/1.0 LIST (.*a)*b' | timeout 600 nc 127.0.0.1 "$PORT" >/dev/null 2>&1) 3>&- &
    flood=$!
    begun() { [ "$(lists)" -gt 10 ]; }
    wait_until 20 begun
    before=$(lists)
    for _ in {1..20}; do [ "$(ask 'KV/1.0 GET a')" = '404 NOT_FOUND' ]; done
    more() { [ "$(lists)" -gt "$before" ]; } # the flood went on meanwhile
    wait_until 20 more
    pkill -P $flood || :
    wait $flood || :
    [ "$(yes 'KV/1.0 LIST (.*a)*b' | head -n 500 | talk | grep -c '^200 OK$')" = 500 ]
}

@test "LIST: fifty who ask for many do not keep the others waiting" {
    serve --quiet
    for ((i = 0; i < 10000; i++)); do printf '%0250d\n' "$i"; done >"$BATS_TEST_TMPDIR/names"
    users "$BATS_TEST_TMPDIR/names"
    lists() { ask 'KV/1.0 STATS all' | sed 's/.* LIST=\([0-9]*\) .*/\1/'; }
    yes 'KV/1.0 LIST (.*a)*b' | head -n 500 >"$BATS_TEST_TMPDIR/requests"
    fds=()
    for _ in {1..50}; do
        connect; fds+=("$FD")
        cat "$BATS_TEST_TMPDIR/requests" >&"$FD"
    done
    before=$(lists)
    for _ in {1..20}; do [ "$(ask 'KV/1.0 GET a')" = '404 NOT_FOUND' ]; done
    # One a turn; fifty a turn would be some thousands.
    echo "$(($(lists) - before)) meanwhile"
    [ $(($(lists) - before)) -lt 500 ]
    # And none of the fifty is left out.
    for fd in "${fds[@]}"; do hears "$fd" '200 OK'; done
    hang_up "${fds[@]}"
}

@test "10,000 users are enough: 507, and LIST names them all" {
    serve --quiet
    seq 10000 19999 >"$BATS_TEST_TMPDIR/names"
    [[ $(users "$BATS_TEST_TMPDIR/names") =~ ^' '*'10000 201 CREATED'$ ]]
    replies 'KV/1.0 CREATE bob' '507 INSUFFICIENT_STORAGE' \
            'KV/1.0 DELETE 12345' '204 NO_CONTENT' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 DELETE bob' '204 NO_CONTENT'
    ask 'KV/1.0 LIST' | cmp - <(printf '200 OK'; seq 10000 19999 | grep -v 12345 | sed 's/^/ /' | tr -d '\n'; echo)
    [ "$("$KVSS_CLIENT" --port "$PORT" --value list | wc -w)" = 9999 ]
}

@test "SEND: 202 while nobody is connected, 200 while somebody is" {
    serve
    connect; bob=$FD
    replies 'KV/1.0 SEND bob hi' '404 NOT_FOUND' \
            'KV/1.0 CREATE bob' '201 CREATED' \
            'KV/1.0 SEND bob first' '202 ACCEPTED' \
            'KV/1.0 SEND bob   second,  with spaces ' '202 ACCEPTED'
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 2'
    hears "$bob" '100 MESSAGE bob first' '100 MESSAGE bob   second,  with spaces '
    replies 'KV/1.0 SEND bob third' '200 OK'
    hears "$bob" '100 MESSAGE bob third'
    says "$bob" 'KV/1.0 SEND bob to myself' '200 OK'
    hears "$bob" '100 MESSAGE bob to myself'
    says "$bob" 'KV/1.0 QUIT' '200 OK bye'
    replies 'KV/1.0 SEND bob fourth' '202 ACCEPTED'
    hang_up "$bob"
    replies 'KV/1.0 CONNECT bob' $'200 OK 1\n100 MESSAGE bob fourth'
}

@test "CONNECT: 404 where there is no such user" {
    serve
    replies 'KV/1.0 CONNECT bob' '404 NOT_FOUND'
}

@test "CONNECT: a client that has said all gets its messages before the end" {
    serve
    ask 'KV/1.0 CREATE bob'
    seq 1 900 | sed 's/^/KV\/1.0 SEND bob /' | talk >/dev/null
    ask 'KV/1.0 CONNECT bob' | cmp - <(echo '200 OK 900'; seq 1 900 | sed 's/^/100 MESSAGE bob /')
    replies 'KV/1.0 CONNECT bob' '200 OK 0'
}

@test "CONNECT: the newest has the mailbox" {
    serve
    connect; old=$FD
    connect; new=$FD
    says "$old" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$old" 'KV/1.0 CONNECT bob' '200 OK 0'
    says "$new" 'KV/1.0 CONNECT bob' '200 OK 0'
    replies 'KV/1.0 SEND bob hi' '200 OK'
    hears "$new" '100 MESSAGE bob hi'
    says "$old" 'KV/1.0 GET a' '404 NOT_FOUND' # and no message before it
    hang_up "$old"
    wait_until 10 grep -q ' disconnect ' "$LOG"
    replies 'KV/1.0 SEND bob more' '200 OK'
    hears "$new" '100 MESSAGE bob more'
    hang_up "$new"
}

@test "CONNECT: one connection has one mailbox" {
    serve
    connect; fd=$FD
    says "$fd" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$fd" 'KV/1.0 CREATE ann' '201 CREATED'
    says "$fd" 'KV/1.0 CONNECT bob' '200 OK 0'
    says "$fd" 'KV/1.0 CONNECT nobody' '404 NOT_FOUND'
    replies 'KV/1.0 SEND bob 1' '200 OK'
    hears "$fd" '100 MESSAGE bob 1'
    says "$fd" 'KV/1.0 CONNECT ann' '200 OK 0'
    replies 'KV/1.0 SEND bob 2' '202 ACCEPTED' \
            'KV/1.0 SEND ann 1' '200 OK'
    hears "$fd" '100 MESSAGE ann 1'
    says "$fd" 'KV/1.0 CONNECT bob' '200 OK 1'
    hears "$fd" '100 MESSAGE bob 2'
    says "$fd" 'KV/1.0 CONNECT bob' '200 OK 0'
    hang_up "$fd"
}

@test "a full mailbox is 507, and nothing is dropped: 1,000 messages" {
    serve
    ask 'KV/1.0 CREATE bob' 'KV/1.0 CREATE ann'
    seq 1 1003 | sed 's/^/KV\/1.0 SEND bob /' | talk >"$BATS_TEST_TMPDIR/replies"
    cmp "$BATS_TEST_TMPDIR/replies" <(yes '202 ACCEPTED' | head -n 1000; yes '507 INSUFFICIENT_STORAGE' | head -n 3)
    replies 'KV/1.0 SEND ann hi' '202 ACCEPTED'
    ask 'KV/1.0 CONNECT bob' | cmp - <(echo '200 OK 1000'; seq 1 1000 | sed 's/^/100 MESSAGE bob /')
    replies 'KV/1.0 SEND bob again' '202 ACCEPTED'
}

@test "a full mailbox is 507, and nothing is dropped: 1 MiB" {
    serve
    text=$(long 65000)
    # 16 of these are 1,040,000 bytes; 8,576 are left.
    for _ in {1..16}; do echo "KV/1.0 SEND bob $text"; done >"$BATS_TEST_TMPDIR/sends"
    rest=$(long 8576 y)
    { echo 'KV/1.0 CREATE bob'; cat "$BATS_TEST_TMPDIR/sends"
        printf 'KV/1.0 SEND bob %s\n' "${rest}y" "$rest" z; } | talk >"$BATS_TEST_TMPDIR/replies"
    cmp "$BATS_TEST_TMPDIR/replies" <(echo '201 CREATED'; yes '202 ACCEPTED' | head -n 16
        printf '%s\n' '507 INSUFFICIENT_STORAGE' '202 ACCEPTED' '507 INSUFFICIENT_STORAGE')
    ask 'KV/1.0 CONNECT bob' | cmp - <(echo '200 OK 17'; yes "100 MESSAGE bob $text" | head -n 16; echo "100 MESSAGE bob $rest")
}

@test "a message is never taken for a reply: replies keep their order among messages" {
    serve
    connect; bob=$FD
    says "$bob" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 0'
    for i in {1..300}; do printf 'KV/1.0 PUT k %s\nKV/1.0 GET k\nKV/1.0 SEND bob m%s\n' "$i" "$i"; done >&"$bob"
    (for i in {1..300}; do echo "KV/1.0 SEND bob other$i"; done | talk >/dev/null)
    mapfile -t -n 1500 -u "$bob" lines
    printf '%s\n' "${lines[@]}" | grep -v '^1' | sed 's/^20[01] .*[a-zA-Z]$/2xx/' >"$BATS_TEST_TMPDIR/replies"
    for i in {1..300}; do printf '2xx\n200 OK %s\n2xx\n' "$i"; done | cmp - "$BATS_TEST_TMPDIR/replies"
    printf '%s\n' "${lines[@]}" | grep '^100 MESSAGE bob m' | cmp - <(seq 1 300 | sed 's/^/100 MESSAGE bob m/')
    printf '%s\n' "${lines[@]}" | grep '^100 MESSAGE bob o' | cmp - <(seq 1 300 | sed 's/^/100 MESSAGE bob other/')
    hang_up "$bob"
}

@test "whoever is sent messages without end can still ask, and leave" {
    serve --quiet
    ask 'KV/1.0 CREATE bob'
    flood=()
    for _ in 1 2 3; do
        (yes "KV/1.0 SEND bob $(long 1000)" | timeout 600 nc 127.0.0.1 "$PORT" >/dev/null 2>&1) 3>&- &
        flood+=($!)
    done
    connect; bob=$FD
    echo 'KV/1.0 CONNECT bob' >&"$bob"
    echo 'KV/1.0 GET none' >&"$bob"
    timeout 200 grep -q -m 1 '^404 NOT_FOUND$' <&"$bob"
    echo 'KV/1.0 QUIT' >&"$bob"
    timeout 200 grep -q '^200 OK bye$' <&"$bob"
    # The flood went on all the time.
    sends() { ask 'KV/1.0 STATS all' | sed 's/.* SEND=\([0-9]*\) .*/\1/'; }
    before=$(sends)
    more() { [ "$(sends)" -gt "$before" ]; }
    wait_until 10 more
    hang_up "$bob"
    for pid in "${flood[@]}"; do pkill -P "$pid" || :; done
    wait "${flood[@]}" || :
}

@test "one client can't fill the log with CONNECT" {
    serve
    { echo 'KV/1.0 CREATE bob'; yes 'KV/1.0 CONNECT bob' | head -n 1000; } | talk >/dev/null
    [ "$(grep -c -e ' hold ' -e ' leave ' "$LOG")" = 20 ]
}

@test "--timeout closes an idle connection, and its mailbox waits for the next" {
    serve --timeout 1
    connect; bob=$FD
    says "$bob" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 0'
    wait_until 20 grep -q ' disconnect .* idle$' "$LOG"
    replies 'KV/1.0 SEND bob hi' '202 ACCEPTED'
    replies 'KV/1.0 CONNECT bob' $'200 OK 1\n100 MESSAGE bob hi'
    hang_up "$bob"
}

@test "a connection that stops reading: what the kernel has not taken is for the next, once and in order" {
    serve
    connect; old=$FD
    says "$old" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$old" 'KV/1.0 CONNECT bob' '200 OK 0'
    stuff
    echo 'KV/1.0 WHOAMI' >&"$old" # it's not read any more; a reset would take what the kernel has
    ask 'KV/1.0 CONNECT bob' >"$BATS_TEST_TMPDIR/new"
    echo 'KV/1.0 WHOAMI' >&"$old"
    # The old connection is ended, since it has the beginning of a message; that one came whole now.
    cat <&"$old" >"$BATS_TEST_TMPDIR/old"
    hang_up "$old"
    head -n -1 "$BATS_TEST_TMPDIR/old" >"$BATS_TEST_TMPDIR/whole"
    last=$(tail -n 1 "$BATS_TEST_TMPDIR/old" | cut -d ' ' -f 4)
    [ "$(tail -c 1 "$BATS_TEST_TMPDIR/old")" = x ] # it was cut
    echo "$SENT sent, the old connection got all before $last"
    [ "$(head -n 1 "$BATS_TEST_TMPDIR/new")" = "200 OK $((SENT - last + 1))" ]
    tail -n +2 "$BATS_TEST_TMPDIR/new" >>"$BATS_TEST_TMPDIR/whole"
    cmp "$BATS_TEST_TMPDIR/whole" <(seq 1 "$SENT" | sed "s/.*/100 MESSAGE bob & $(long 10000)/")
}

@test "a connection that reads no replies: messages behind them are for the next, and only those" {
    serve
    value=$(long 20000)
    connect; old=$FD
    says "$old" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$old" 'KV/1.0 CONNECT bob' '200 OK 0'
    ask "KV/1.0 PUT big $value"
    # A request and a message in turn, until the old connection is no longer read.
    served() { ask 'KV/1.0 STATS' | sed 's/.*served=//'; }
    sent=0
    while :; do
        before=$(served)
        echo 'KV/1.0 GET big' >&"$old"
        for ((tries = 1; tries < 30 && $(served) == before + tries; tries++)); do :; done
        [ $tries -lt 30 ] || break
        sent=$((sent + 1))
        ask "KV/1.0 SEND bob $sent"
    done >"$BATS_TEST_TMPDIR/sends"
    for _ in 1 2; do sent=$((sent + 1)); [ "$(ask "KV/1.0 SEND bob $sent")" = '202 ACCEPTED' ]; done
    mapfile -t new < <(ask 'KV/1.0 CONNECT bob')
    left=${new[0]#200 OK }
    [ "$left" -ge 2 ]
    [ "$(printf '%s\n' "${new[@]:1}")" = "$(seq $((sent - left + 1)) "$sent" | sed 's/^/100 MESSAGE bob /')" ]
    # All the replies are for the old one.
    for ((i = 1; i <= sent - 2; i++)); do
        echo "200 OK $value"
        [ "$i" -gt $((sent - left)) ] || echo "100 MESSAGE bob $i"
    done >"$BATS_TEST_TMPDIR/wanted"
    echo "200 OK $value" >>"$BATS_TEST_TMPDIR/wanted" # the last request was run when it could be
    head -c "$(wc -c <"$BATS_TEST_TMPDIR/wanted")" <&"$old" | cmp - "$BATS_TEST_TMPDIR/wanted"
    says "$old" 'KV/1.0 GET none' '404 NOT_FOUND'
    hang_up "$old"
}

@test "a connection that dies: what the kernel has not taken is back, in order" {
    serve
    connect; old=$FD
    says "$old" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$old" 'KV/1.0 CONNECT bob' '200 OK 0'
    stuff
    hang_up "$old"
    wait_until 10 grep -q ' leave ' "$LOG"
    delivered=$(sed -n 's/.* leave .* \([0-9]*\) delivered, [0-9]* left$/\1/p' "$LOG")
    [ "$delivered" -gt 0 ]
    ask 'KV/1.0 CONNECT bob' | cmp - <(echo "200 OK $((SENT - delivered))"
        seq $((delivered + 1)) "$SENT" | sed "s/.*/100 MESSAGE bob & $(long 10000)/")
}

@test "a slow connection gets all its messages, and once" {
    serve
    connect; bob=$FD
    says "$bob" 'KV/1.0 CREATE bob' '201 CREATED'
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 0'
    stuff
    for ((i = 1; i <= SENT; i++)); do echo "100 MESSAGE bob $i $(long 10000)"; done >"$BATS_TEST_TMPDIR/wanted"
    head -c "$(wc -c <"$BATS_TEST_TMPDIR/wanted")" <&"$bob" | cmp - "$BATS_TEST_TMPDIR/wanted"
    says "$bob" 'KV/1.0 CONNECT bob' '200 OK 0'
    hang_up "$bob"
}

# crowd: 500 clients, nc each, connected to a mailbox of its own. Client I reads from descriptor
# FDS[I], and writes what it gets to got.I; first.I and second.I are what it may send, a message to
# everybody else.
crowd() {
    local i
    PIDS=() FDS=()
    cd "$BATS_TEST_TMPDIR" || return
    seq 1 500 | sed 's/^/u/' >names
    users names
    awk 'BEGIN { for (i = 1; i <= 500; i++) for (n = 1; n <= 2; n++) { file = (n == 1 ? "first." : "second.") i
        for (k = 1; k < 500; k++) printf "KV/1.0 SEND u%d %d %d\n", (i + k - 1) % 500 + 1, i, n >file
        close(file) } }'
    for i in {1..500}; do
        mkfifo "fifo.$i"
        exec {fd}<>"fifo.$i"
        FDS[i]=$fd
        nc 127.0.0.1 "$PORT" <&"$fd" >"got.$i" 3>&- &
        PIDS[i]=$!
        disown $!
        echo "KV/1.0 CONNECT u$i" >&"$fd"
    done
    connected() { [ "$(cat got.* | grep -c '^200 OK 0$')" = 500 ]; }
    wait_until 60 connected
}

# send FILE I...: these clients send what their files have, all at once.
send() {
    local i
    for i in "${@:2}"; do cat "$1.$i" >&"${FDS[i]}" 3>&- & done
}

uncrowd() {
    hang_up "${FDS[@]}"
    kill "${PIDS[@]}" 2>/dev/null || :
}

# complete FILE USER [SENDER...]: from each of these senders (all the others, if none is given), both
# messages came to that user, once and in order; from the rest, no message came twice or before its time.
complete() {
    awk -v user="$2" -v senders="${*:3}" '
        BEGIN { n = split(senders, s, " "); for (i = 1; i <= n; i++) must[s[i]] = 1
            for (i = 1; n == 0 && i <= 500; i++) must[i] = 1
            delete must[substr(user, 2)] }
        !/^1/ { next }
        $3 != user || NF != 5 || $5 != last[$4] + 1 { print FILENAME ": " $0; bad = 1 }
        { last[$4] = $5 }
        END { for (i in must) if (last[i] != 2) { print FILENAME ": " last[i] + 0 " of 2 from " i; bad = 1 }
            exit bad }' "$1"
}

@test "500 clients send to one another at once: every message arrives, once and in order" {
    ulimit -Sn 1024 2>/dev/null || skip "ulimit -n 1024 is refused here"
    serve --quiet
    crowd
    send first {1..500}
    send second {1..500}
    all() { [ "$(cat got.* | grep -c '^1')" -ge 499000 ]; }
    wait_until 100 all
    for i in {1..500}; do complete "got.$i" "u$i"; done
    [ "$(cat got.* | grep -c -e '^200 OK$' -e '^202 ACCEPTED$')" = 499000 ]
    uncrowd
}

@test "500 clients, and a third of them are killed midway: nothing is lost" {
    ulimit -Sn 1024 2>/dev/null || skip "ulimit -n 1024 is refused here"
    serve
    crowd
    killed=() alive=()
    for i in {1..500}; do
        if [ $((i % 3)) = 0 ]; then killed+=("$i"); else alive+=("$i"); fi
    done
    send first {1..500}
    wait_until 20 grep -q '^1' got.3
    kill -s STOP "$PID" # so that it's midway
    for i in "${killed[@]}"; do kill -s KILL "${PIDS[i]}"; done
    kill -s CONT "$PID"
    send second "${alive[@]}"
    # All that the living send is run, and so is the STATS after it.
    answered() { [ "$(for i in "${alive[@]}"; do cat "got.$i"; done | grep -c '^2')" = $((${#alive[@]} * 999)) ]; }
    wait_until 100 answered
    gone() { [ "$(grep -c ' leave ' "$LOG")" = ${#killed[@]} ]; }
    wait_until 20 gone
    sends=$(ask 'KV/1.0 STATS all' | sed 's/.* SEND=\([0-9]*\) .*/\1/')
    # What was sent was delivered, to the kernel at least, or is in a mailbox.
    received() { for i in "${alive[@]}"; do cat "got.$i"; done | grep -c '^1'; }
    delivered=$(sed -n 's/.* leave .* \([0-9]*\) delivered, .*/\1/p' "$LOG" | awk '{ n += $1 } END { print n }')
    left=$(sed -n 's/.* delivered, \([0-9]*\) left$/\1/p' "$LOG" | awk '{ n += $1 } END { print n }')
    for i in "${killed[@]}"; do ask "KV/1.0 CONNECT u$i" >"rest.$i"; done
    waiting=$(for i in "${killed[@]}"; do cat "rest.$i"; done | grep -c '^1')
    echo "$sends sent, $delivered delivered to those killed, $left were left, $waiting waited for them"
    [ "$waiting" -gt 10000 ]
    all() { [ $(($(received) + delivered + waiting)) = "$sends" ]; }
    wait_until 60 all
    for i in "${alive[@]}"; do complete "got.$i" "u$i" "${alive[@]}"; done
    # Those killed: what nc had read and what waited are one order, with a gap where it died.
    for i in "${killed[@]}"; do
        sed -i '${/^100 MESSAGE u[0-9]* [0-9]* [12]$/!d;}' "got.$i"
        awk '!/^1/ { next } seen[$4 " " $5]++ || $5 < last[$4] { print FILENAME ": " $0; exit 1 } { last[$4] = $5 }' \
            "got.$i" "rest.$i"
        [ "$(head -n 1 "rest.$i")" = "200 OK $(grep -c '^1' "rest.$i")" ]
    done
    uncrowd
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
    coproc CLIENT { "$KVSS_CLIENT" --port "$PORT" 3>&-; }
    pid=$CLIENT_PID
    exec {to}>&"${CLIENT[1]}" {from}<&"${CLIENT[0]}"
    says_to_client() { echo "$1" >&"$to"; }
    says_to_client 'connect bob'
    hears "$from" '200 OK 0'
    replies 'KV/1.0 SEND bob one' '200 OK'
    hears "$from" '100 MESSAGE bob one'
    says_to_client 'get a'
    hears "$from" '404 NOT_FOUND'
    eval "exec ${CLIENT[1]}>&-"
    exec {to}>&-
    wait "$pid" || [ $? = 1 ]
    exec {from}<&-
    replies 'KV/1.0 SEND bob two' '202 ACCEPTED'
}
