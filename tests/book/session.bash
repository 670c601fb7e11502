# shellcheck shell=bash disable=SC2016 # a $ of a hash is no variable
# A server in all its occupations, for a test of what it asks of the kernel.

# busy_session FOLDER: starts servers that keep their files in the folder, one after the other.
busy_session() {
    local when
    # Made by: openssl passwd -1 -salt kvss eve
    echo 'adam:$1$kvss$L5ncgsjATo3aIaHMmzODv0' >"$1/managers"
    chmod 600 "$1/managers"
    for when in always everysec no; do
        serve_frames --data "$1/data" --fsync "$when" --managers "$1/managers"
        connect ann # so that the others are not all clients
        busy_lines
        printf 'SEND%011dbob,hello%01000d' 0 0 | tr 0 '\0' |
            nc ${NC_CLOSE:+"$NC_CLOSE"} 127.0.0.1 "$FRAMES" >"$1/frames"
        ask 'KV/1.0 COMPACT' >"$1/answers"
        wait_until logged ' compact '
        stop "$PID"
    done
    busy_repair "$1"
    busy_clients
}

# The tables of the server grow and shrink, and its file is written anew.
busy_lines() {
    {
        printf 'KV/1.0 %s\n' 'PUT city Hue' 'EXPIRE city 1' 'TTL city' 'STATS all' WHOAMI \
            'AUTH adam eve' 'MANAGE 1 GET city' 'CREATE bob' 'SEND bob hi' 'CONNECT bob' 'LIST ^b'
        seq 20000 | sed 's/.*/KV\/1.0 PUT key& & & & & & & & &/'
        seq 20000 | sed 's/.*/KV\/1.0 DEL key&/'
        echo 'GET / HTTP/1.1'
    } | talk | tail -n 1 >"$BATS_TEST_TMPDIR/last"
    same '426 UPGRADE_REQUIRED' "$(cat "$BATS_TEST_TMPDIR/last")"
}

# A compaction that did not end, a bad line, a long file, and a torn line at its end.
busy_repair() {
    head -n 1 "$1/data" >"$1/data.kvss-new"
    echo garbage >>"$1/data"
    yes 'KV/1.0 PUT city Hue' | head -c 9000001 >>"$1/data"
    serve --data "$1/data" --repair --long-stats
    wait_until logged ' compact '
    stop "$PID" INT
}

# A client too many, one that is idle, and one that stops the server.
busy_clients() {
    serve --host localhost --private --max-clients 2 --timeout 1 --verbose --explain \
        --quit-stops-server
    connect ann
    connect bob
    says ann 'KV/1.0 PUT city Hue'
    hears ann '201 CREATED'
    says bob 'KV/1.0 STATS'
    next bob
    connect carol
    hears carol '503 SERVICE_UNAVAILABLE'
    wait_until logged ' idle'
    closed ann
    wait_until logged ' idle' 2
    replies 'KV/1.0 QUIT' '200 OK bye'
    ended "$PID"
}
