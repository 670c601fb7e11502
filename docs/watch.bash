#!/usr/bin/env bash
# Watches a server at work on one request: docs/watch.bash log|strace|gdb REQUEST
#   log     what the server itself says, with --verbose
#   strace  its system calls, from the first wait on
#   gdb     functions as they are called, see docs/watch.gdb; wants a kvss made by: make CFLAGS=-g
set -euo pipefail
tool=${1-} request=${2-} level=--quiet
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/log"
exec 3>&- 4>&- 5>&- # or the server's descriptors would have other numbers

# shellcheck disable=SC2054 # these commas are strace's
case $tool in
log) command=() level=--verbose ;;
strace)
    command=(strace -qq -e signal=none -e trace=pselect6,accept,recvfrom,sendto,close
        -o "$work/calls") ;;
gdb) command=(gdb -nx -batch -x docs/watch.gdb --args) ;;
*) sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
"${command[@]}" ./kvss --port 0 $level >"$work/functions" 2>"$work/log" &
watcher=$!
until port=$(sed -n 's/^kvss: listening on .*://p' "$work/log"); [ "$port" ]; do
    kill -0 $watcher || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
done

echo "$request" | ./kvss_client --port "$port" >"$work/reply" || :
# gdb quits when the client is gone. Of strace, it's the child that is kvss.
case $tool in
log) kill $watcher ;;
strace) pkill -P $watcher ;;
esac
wait $watcher || :
case $tool in
log) sed -n '/ connect /,/ disconnect /p' "$work/log" ;;
strace) sed -n '/^pselect6/,$p' "$work/calls" | sed '/ERESTART/,$d; s/, left {[^}]*}//' ;;
gdb) sed -n '/^loop_accept/,$p' "$work/functions" ;;
esac
