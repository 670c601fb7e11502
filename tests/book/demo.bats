#!/usr/bin/env bats
# make demo: it runs, and the picture of it shows what it prints.

load ../helper
load follow

# demo: the lines of it as they are now, without spaces, which the picture has lost, and with ? for
# what is not ASCII.
demo() {
    PACE=0 "$ROOT/docs/figures/demo.bash" | alike | tr -d ' ' | sed 's/[^ -~][^ -~]*/?/g' | sort -u
}

# picture FILE: the lines that it shows, whole ones and those that are still being typed.
picture() {
    grep -o '<g id="g[0-9]*">.*</g>' "$1" | sed 's/<g id=/\n&/g' | grep '^<g id="g.*</text>' |
        sed 's/<[^>]*>//g; s/&gt;/>/g; s/&lt;/</g; s/&#[0-9]*;/?/g; s/&quot;/"/g; s/&amp;/\&/g' |
        alike | tr -d ' ' | sort -u
}

# shows FILE: the picture has every line of the demo, and each of its own is one, or the beginning
# of one.
shows() {
    demo | sed '/^$/d' >"$BATS_TEST_TMPDIR/demo"
    picture "$1" >"$BATS_TEST_TMPDIR/picture"
    [ "$(wc -l <"$BATS_TEST_TMPDIR/demo")" -gt 30 ] || return
    cd "$BATS_TEST_TMPDIR" || return
    comm -23 demo picture | sed 's/^/not in the picture: /'
    comm -13 demo picture | awk 'NR == FNR { lines[$0]; next }
        { for (line in lines) if (index(line, $0) == 1) next; print "not in the demo: " $0 }' demo -
}

@test "make demo: the server answers as it should" {
    run env PACE=0 "$ROOT/docs/figures/demo.bash"
    [ "$status" = 0 ]
    [ "$(grep -c '^# ' <<<"$output")" = 6 ]
    [ "$(sed -n 's/^\([1-5][0-9][0-9]\) .*/\1/p' <<<"$output" | tr '\n' ' ')" = \
        "201 200 200 200 204 404 400 400 400 426 201 200 200 200 201 200 200 200 200 200 " ]
    [[ $output == *'bob> 100 MESSAGE bob see you at six'* && $output == *' 100 201 CREATED'* ]]
    [[ $output == *'200 OK keys=101 uptime='*'s served=119'* ]]
}

@test "docs/figures/demo.svg shows what the demo prints" {
    run shows "$ROOT/docs/figures/demo.svg"
    printed ''
    # And a picture of another demo would not do.
    sed 's/Kolkata/Kolkuta/g' "$ROOT/docs/figures/demo.svg" >"$BATS_TEST_TMPDIR/other.svg"
    run shows "$BATS_TEST_TMPDIR/other.svg"
    [[ $output == *'not in the picture: 200OKKolkata'* ]]
    [[ $output == *'not in the demo: 200OKKolkuta'* ]]
}

@test "docs/figures/demo.svg is recorded by docs/figures/record.bash" {
    command -v termtosvg >/dev/null || skip "termtosvg is needed: apt-get install termtosvg"
    PACE=0.01 run timeout 1000 "$ROOT/docs/figures/record.bash" "$BATS_TEST_TMPDIR/demo.svg"
    [ "$status" = 0 ]
    # At this pace lines may have come and gone between two frames, but not the last ones.
    picture "$BATS_TEST_TMPDIR/demo.svg" | grep -q '^200OKbye$'
    picture "$BATS_TEST_TMPDIR/demo.svg" | grep -q '^200OKkeys=101'
}
