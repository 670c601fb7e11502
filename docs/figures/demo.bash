#!/usr/bin/env bash
# make demo: what kvss does, in less than a minute. What is typed here is sent to a real server, and
# what comes back is what it says. PACE=2 is half as fast, PACE=0 does not wait at all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PACE=${PACE-1}
COLOURS=''
[ ! -t 1 ] || COLOURS=yes
log=$(mktemp)
trap 'kill "$server" 2>/dev/null && wait "$server" || :; rm -f "$log"' EXIT
trap 'exit 1' INT TERM

# pause TENTHS: of a second, times PACE.
pause() {
    [ "$PACE" = 0 ] || sleep "$(awk "BEGIN { print $1 / 10 * $PACE }")"
}

# colour NUMBER TEXT
colour() {
    if [ "$COLOURS" ]; then printf '\e[%sm%s\e[0m' "$1" "$2"; else printf '%s' "$2"; fi
}

# say LINE...: to whoever watches.
say() {
    echo
    for line; do
        colour 33 "# $line"
        echo
    done
    pause 15
}

# types CLIENT REQUEST
types() {
    colour 36 "$1> "
    local i step=4
    [ "$PACE" != 0 ] || step=1000
    for ((i = 0; i < ${#2}; i += step)); do
        printf %s "${2:i:step}"
        pause 1
    done
    echo
}

# hears CLIENT: prints the next line that comes for it.
hears() {
    local reply
    IFS= read -r -t 10 -u "${connections[$1]}" reply
    colour "$([[ $reply = [45]* ]] && echo 31 || echo 32)" "$reply"
    echo
    pause 8
}

# asks CLIENT REQUEST...
asks() {
    local request
    for request in "${@:2}"; do
        types "$1" "$request"
        printf '%s\n' "$request" >&"${connections[$1]}"
        hears "$1"
    done
}

# enters CLIENT: it connects.
declare -A connections
enters() {
    local fd
    exec {fd}<>"/dev/tcp/127.0.0.1/$port"
    connections[$1]=$fd
}

"${KVSS-./kvss}" --port 0 --explain 2>"$log" &
server=$!
until port=$(sed -n 's/^kvss: listening on .*://p' "$log"); [ "$port" ]; do sleep 0.01; done

say 'kvss keeps values under keys. A request is a line, and so is the reply.'
enters ann
asks ann 'KV/1.0 PUT name John' 'KV/1.0 GET name'
say 'To PUT again is to replace. A value is the rest of the line.'
asks ann 'KV/1.0 PUT name Jane Doe of Hà Nội' 'KV/1.0 GET name'
asks ann 'KV/1.0 DEL name' 'KV/1.0 GET name'

say 'Errors have numbers too. (--explain makes the server say why.)'
asks ann 'KV/1.0 GET' 'KV/1.0 PUT keyonly' 'KV/1.0 INVALID command' 'WRONG/1.0 GET test'

say 'Several clients at once: what one writes, the other reads.'
enters bob
asks ann 'KV/1.0 PUT city Kolkata'
asks bob 'KV/1.0 GET city' 'KV/1.0 PUT city Mumbai'
asks ann 'KV/1.0 GET city'

say 'They can also talk to each other: bob has a mailbox.'
asks bob 'KV/1.0 CREATE bob' 'KV/1.0 CONNECT bob'
asks ann 'KV/1.0 SEND bob see you at six'
colour 36 'bob> '
hears bob

say 'A hundred more connect, and each stores a key.'
for n in {1..100}; do enters "$n"; done
for n in {1..100}; do echo "KV/1.0 PUT key$n value$n" >&"${connections[$n]}"; done
for n in {1..100}; do read -r -t 10 -u "${connections[$n]}"; echo "$REPLY"; done | sort | uniq -c
pause 10
asks ann 'KV/1.0 GET key42' 'KV/1.0 STATS' 'KV/1.0 QUIT'
