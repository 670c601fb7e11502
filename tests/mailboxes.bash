# shellcheck shell=bash
# What tests/mailboxes.bats and tests/frames.bats share: a mailbox whose holder does not read.

# stuff: sends bob, who does not read, messages of 10,000 bytes, until 60 or more of them wait in his mailbox
# or find it full. The file stuffed has the messages that were taken, as bob must get them.
stuff() {
    local text n=0
    printf -v text '%010000d' 0
    cd "$BATS_TEST_TMPDIR" || return
    until [ -e sent ] && ! tail -n 60 sent | grep -q '^200'; do
        seq $((n + 1)) $((n += 1500)) | sed "s/.*/KV\/1.0 SEND bob & $text/" | talk >>sent
    done
    awk -v text="$text" '/^20[02] / { print "100 MESSAGE bob " NR " " text }' sent >stuffed
}

# rest FROM: the file new has what bob must get, from that message on.
rest() {
    tail -n +"$1" stuffed >wanted
    [ "$(head -n 1 new)" = "200 OK $(wc -l <wanted)" ]
    tail -n +2 new | cmp - wanted
}

# dies_stuffed NAME: who holds bob's mailbox, and does not read, dies; what was not delivered is for the next.
dies_stuffed() {
    local delivered
    stuff
    hang_up "$1"
    wait_until logged ' left'
    delivered=$(sed -n 's/.* leave .* \([0-9]*\) delivered, [0-9]* left$/\1/p' "$LOG")
    [ "$delivered" -gt 0 ]
    ask 'KV/1.0 CONNECT bob' >new
    rest $((delivered + 1))
}
