#!/usr/bin/env bash
# Draws the pictures of docs/performance.md from the numbers of run.bash: plot.bash FILE FOLDER
set -eu
command -v gnuplot >/dev/null || { echo 'plot.bash needs gnuplot: sudo apt-get install -y gnuplot-nox' >&2; exit 1; }
NUMBERS=$1 FOLDER=$2
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# medians PREFIX SERVER COLUMN: of each work "PREFIX N", a line "N median".
medians() {
    awk -F '\t' -v prefix="$1" -v server="$2" -v column="$3" '
        !/^#/ && $2 == server && index($1, prefix " ") == 1 { split($1, words, " "); print words[2], $column }' "$NUMBERS" |
        sort -n -k 1,1 -k 2,2 | awk '
            function flush() { if (n) print at, n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2 }
            $1 != at { flush(); at = $1; n = 0 }
            { v[++n] = $2 }
            END { flush() }'
}

# percentiles WORK SERVER: lines "percentile wait", the medians of the rounds.
percentiles() {
    local column=6 name
    for name in 50 99 99.9 longest; do
        awk -F '\t' -v work="$1" -v server="$2" -v column=$column '!/^#/ && $1 == work && $2 == server { print $column }' "$NUMBERS" |
            sort -n | awk -v name="$name" '{ v[NR] = $1 } END { print name, NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
        column=$((column + 1))
    done
}

for server in kvss redis memcached floor; do
    medians depth $server 4 >"$WORK/depth.$server"
    medians active $server 5 >"$WORK/active.$server"
    medians idle $server 5 >"$WORK/idle.$server"
    percentiles '50 clients, depth 1' $server >"$WORK/waits.$server"
done

# draw NAME COMMANDS: a picture; LINES stands for the four servers, with the data named so.
draw() {
    gnuplot <<END
set terminal svg size 760,420 font "sans-serif,14" background "white"
set output "$FOLDER/performance-$1.svg"
set border 3 lc "#888888"
set tics nomirror textcolor "#333333"
set grid ytics lc "#dddddd"
set key top left reverse Left
set style line 1 lc "#0b6e4f" lw 3 pt 7 ps 0.7
set style line 2 lc "#c1440e" lw 2 pt 7 ps 0.6
set style line 3 lc "#3b5ba5" lw 2 pt 7 ps 0.6
set style line 4 lc "#999999" lw 2 dt 2 pt 7 ps 0.5
$2
plot "$WORK/$1.kvss" using $3 with linespoints ls 1 title "kvss", \\
     "$WORK/$1.redis" using $3 with linespoints ls 2 title "redis-server", \\
     "$WORK/$1.memcached" using $3 with linespoints ls 3 title "memcached", \\
     "$WORK/$1.floor" using $3 with linespoints ls 4 title "the floor: select(), and no work"
END
}

# shellcheck disable=SC2016 # the dollars are gnuplot's
{
draw depth 'set title "Requests a second: 50 clients, by depth of the pipeline"
set logscale xy
set xlabel "requests sent before the replies are waited for"
set xrange [1:280]
set xtics (1, 2, 4, 8, 16, 32, 64, 128, 256)
set format y "%.0s%c"' 1:2
draw active 'set title "CPU time of the server for a request: all clients active, depth 1"
set yrange [0:*]
set xlabel "clients"
set ylabel "us"
set key top right' '1:($2/1000)'
draw idle 'set title "CPU time of the server for a request: one client active, the others idle"
set yrange [0:*]
set xlabel "clients"
set ylabel "us"' '1:($2/1000)'
draw waits 'set title "How long a client waits: 50 clients, depth 1"
set logscale y
set xlabel "percent of the batches that wait no longer"
set ylabel "us"
set xrange [-0.3:3.3]' '0:2:xtic(1)'
}
