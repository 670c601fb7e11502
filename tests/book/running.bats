#!/usr/bin/env bats
# The page for those who run kvss: what it shows is so, and systemd takes the unit.

load ../helper
load follow
load session

setup() { fresh_copy; }

@test "docs/running.md: every command does what the page shows" {
    check_page docs/running.md
}

# as_root: from now on, sudo works below a folder, SYSTEM. What needs a real system is printed.
as_root() {
    SYSTEM=$BATS_TEST_TMPDIR/system
    mkdir -p "$SYSTEM/etc/systemd/system" "$SYSTEM/var/lib/kvss"
    sudo() {
        local words=("${@/#\/etc\//$SYSTEM/etc/}")
        words=("${words[@]/#\/var\//$SYSTEM/var/}")
        words=("${words[@]/#--reference=\/var\//--reference=$SYSTEM/var/}")
        [ "$*" != 'make install' ] || words+=(DESTDIR="$SYSTEM")
        "${words[@]}"
    }
    systemctl() { echo "systemctl $*"; }
    journalctl() { echo "journalctl $*"; }
    useradd() { echo "useradd $*"; }
    cp "$ROOT/docs/kvss.service" "$SYSTEM/etc/systemd/system"
}

# as_service: systemctl starts and stops a server on FILE of the unit.
as_service() {
    systemctl() {
        case $1 in
        start) serve --data "$SYSTEM/var/lib/kvss/data" ;;
        stop) stop "$PID" ;;
        esac
    }
    systemctl start kvss
}

@test "docs/running.md: what it says about installing puts program and unit in place" {
    cp -R "$ROOT/tests" "$COPY"
    cd "$COPY"
    as_root
    rm "$SYSTEM/etc/systemd/system/kvss.service"
    eval "$(block docs/running.md install)" >said
    program=$(sed -n 's/^ExecStart=\([^ ]*\) .*/\1/p' "$SYSTEM/etc/systemd/system/kvss.service")
    "$SYSTEM$program" --version
    same $'systemctl enable --now kvss\njournalctl -u kvss' "$(tail -n 2 said)"
}

@test "docs/running.md: what was backed up can be restored, and the rest is in data.old" {
    cd "$COPY"
    as_root
    as_service
    replies 'KV/1.0 PUT city Hue' '201 CREATED'
    eval "$(block docs/running.md backup)"
    replies 'KV/1.0 PUT city Paris' '200 OK'
    eval "$(block docs/running.md restore)"
    replies 'KV/1.0 GET city' '200 OK Hue'
    grep Paris "$SYSTEM/var/lib/kvss/data.old"
}

@test "docs/running.md: what cron runs prints what needs a look, and nothing else" {
    look() { eval "$(block docs/running.md watch)"; }
    kvss_client() { "$KVSS_CLIENT" --port "$PORT" "$@"; }
    serve
    same '' "$(look)"
    serve --max-clients 1
    connect ann
    says ann 'KV/1.0 PUT city Hue'
    hears ann '201 CREATED'
    connect bob
    hears bob '503 SERVICE_UNAVAILABLE'
    hang_up ann
    wait_until logged ' disconnect'
    same 'clients that were refused: 1' "$(look)"
    stop "$PID"
    same 'no answer' "$(look 2>/dev/null)"
    kvss_client() { echo 'keys=1 connections=801 refused=0 memory=1000000001'; }
    same $'many clients: 801\nmuch memory: 1000000001' "$(look)"
}

@test "docs/running.md: the manager that it adds can AUTH, and a reload reads the file anew" {
    command -v openssl >/dev/null || skip "openssl is needed: apt-get install openssl"
    cd "$COPY"
    as_root
    openssl() { command openssl "$@" eve; } # it would ask
    install() { command install "${@/#kvss/"$(id -un)"}"; } # there is no user kvss
    eval "$(block docs/running.md managers)" >said
    same 'systemctl restart kvss' "$(tail -n 1 said)"
    unit=$SYSTEM/etc/systemd/system/kvss.service
    read -r -a words < <(sed -n 's|^ExecStart=[^ ]* \(.*\) 9000$|\1|p' "$unit")
    words=("${words[@]/#%S/$SYSTEM/var/lib}")
    serve "${words[@]/#\/etc\//$SYSTEM/etc/}"
    replies 'KV/1.0 AUTH adam eve' '200 OK manager'
    MAINPID=$PID bash -c "$(sed -n 's/^ExecReload=+//p' "$unit")"
    wait_until logged '/managers is read anew'
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
    for call in accept fsync fchown ftruncate rename unlink setpriority socketpair; do
        grep -q -x $call seen || { echo "the session has no $call()" >&2; false; }
    done
    read -r -a filter < <(sed -n 's/^SystemCallFilter=//p' "$ROOT/docs/kvss.service" | paste -s -d ' ')
    # systemd lets @default through in any case.
    members @default "${filter[@]}" | sort -u >allowed
    same '' "$(comm -23 seen allowed)" 'calls that the filter lacks'
    members @debug @module @mount @reboot @swap kill setuid | sort -u >harmful
    same '' "$(comm -12 harmful allowed)" 'calls that kvss never makes'
}
