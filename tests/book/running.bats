#!/usr/bin/env bats
# The page for those who run kvss: what it shows is so, and systemd takes the unit.

load ../helper
load follow
load session

setup() { fresh_copy; }

@test "docs/running.md: every command does what the page shows" {
    check_page docs/running.md
}

@test "docs/running.md: what it says about installing puts program and unit in place" {
    cp -R "$ROOT/tests" "$COPY"
    cd "$COPY"
    system=$BATS_TEST_TMPDIR/system
    mkdir -p "$system/etc/systemd/system"
    sudo() {
        case $1 in
        make) make install DESTDIR="$system" ;;
        cp) cp "$2" "$system$3" ;;
        *) echo "$*" ;;
        esac
    }
    journalctl() { echo "journalctl $*"; }
    eval "$(block docs/running.md install)" >said
    program=$(sed -n 's/^ExecStart=\([^ ]*\) .*/\1/p' "$system/etc/systemd/system/kvss.service")
    "$system$program" --version
    same $'systemctl enable --now kvss\njournalctl -u kvss' "$(tail -n 2 said)"
}

needs_systemd() {
    command -v systemd-analyze >/dev/null ||
        skip "systemd-analyze is needed: apt-get install systemd"
}

@test "docs/kvss.service: systemd takes it, and kvss its options" {
    needs_systemd
    cp "$KVSS" "$COPY"
    unit=$BATS_TEST_TMPDIR/kvss.service
    sed "s|/usr/local/bin/kvss|$COPY/kvss|" "$ROOT/docs/kvss.service" >"$unit"
    run systemd-analyze verify --man=no --recursive-errors=no "$unit"
    echo "$output"
    [ "$status" = 0 ]
    mkdir "$BATS_TEST_TMPDIR/kvss" # which systemd makes, by StateDirectory
    read -r -a words <<<"$(sed -n 's|^ExecStart=[^ ]* \(.*\) 9000$|\1|p' "$unit")"
    serve "${words[@]//%S/$BATS_TEST_TMPDIR}"
    replies 'KV/1.0 PUT city Hue' '201 CREATED'
    [ -s "$BATS_TEST_TMPDIR/kvss/data" ]
}

@test "docs/kvss.service: systemd-analyze finds an exposure below 2.0" {
    needs_systemd
    systemd-analyze --help | grep -q -e --offline || skip "systemd 250 is needed, or a later one"
    run systemd-analyze security --offline=true --threshold=19 "$ROOT/docs/kvss.service"
    echo "$output"
    [ "$status" = 0 ]
}

# members WORD...: system calls; for a group, which is @NAME, all that are in it.
members() {
    local word calls
    for word; do
        case $word in
        @*)
            calls=$(systemd-analyze syscall-filter "$word" 2>>"$BATS_TEST_TMPDIR/hints")
            # shellcheck disable=SC2046 # they are words
            members $(grep '^  *[@a-z_]' <<<"$calls") ;;
        *) echo "$word" ;;
        esac
    done
}

@test "docs/kvss.service: SystemCallFilter has all that kvss calls" {
    needs_systemd
    instrumented && skip "this kvss makes calls that are not its own"
    strace -o "$BATS_TEST_TMPDIR/nothing" true ||
        skip "strace is needed, and allowed: apt-get install strace"
    cd "$BATS_TEST_TMPDIR"
    mkdir files
    # -D: the process that is started becomes kvss, and strace its grandchild.
    printf '#!/bin/sh\nexec strace -D -f -qq -o "%s.$$" "%s" "$@"\n' "$PWD/trace" "$KVSS" >traced
    chmod +x traced
    KVSS=$PWD/traced busy_session files
    sed -n 's/^[0-9]* *\([a-z0-9_]*\)(.*/\1/p' trace.* | sort -u >seen
    for call in accept setitimer fsync fchown ftruncate rename unlink setpriority ioctl; do
        grep -q -x $call seen || { echo "the session has no $call()" >&2; false; }
    done
    read -r -a filter < <(sed -n 's/^SystemCallFilter=//p' "$ROOT/docs/kvss.service" | paste -s -d ' ')
    # systemd lets @default through in any case.
    members @default "${filter[@]}" | sort -u >allowed
    same '' "$(comm -23 seen allowed)" 'calls that the filter lacks'
    members @debug @module @mount @reboot @swap kill setuid | sort -u >harmful
    same '' "$(comm -12 harmful allowed)" 'calls that kvss never makes'
}
