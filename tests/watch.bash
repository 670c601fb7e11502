# shellcheck shell=bash disable=SC2034 # the tests use what is set here
# What several files of tests see of a server from outside.

# stat NAME: sets STAT, a figure of STATS all.
stat() {
    [[ $(ask 'KV/1.0 STATS all') =~ " $1="([0-9]+) ]] && STAT=${BASH_REMATCH[1]}
}

# memory PID: how much it uses, in kB.
memory() {
    ps -o rss= -p "$1"
}

# cpu PID: hundredths of a second that it has computed.
cpu() {
    sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# arrived BYTES [PORT]: so many wait to be read by a server that sleeps.
arrived() {
    ss -tnH "sport = :${2:-$PORT}" | awk -v bytes="$1" '{ n += $2 } END { exit n < bytes }'
}
