#!/usr/bin/env bats
# The page for those who run kvss: what it shows is so, and systemd takes the unit.

load ../helper
load follow

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

@test "docs/kvss.service: systemd takes it, and kvss its options" {
    command -v systemd-analyze >/dev/null ||
        skip "systemd-analyze is needed: apt-get install systemd"
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
