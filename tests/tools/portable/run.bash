#!/usr/bin/env bash
# Compiles with each compiler, without a warning, and runs the suite on what came of it; by qemu-user, on
# processors that this machine does not have. With QUICK=1, a part of the suite only.
#
# What is compiled goes to a folder of its own, which is removed. Tests say by tags what they need that
# not all of these have:
#
#     crypt    a library with crypt()
#     glibc    the words in which glibc tells an error
#
# and with the tag own, that they bring programs of their own, or are about something else.
set -euo pipefail
cd "$(dirname "$0")/../../.."

FOLDER=$(mktemp -d)
trap 'rm -rf "$FOLDER"' EXIT
FAILED=0

# result STATUS WHAT: a line of TAP, as bats prints them.
result() {
    if [ "$1" = 0 ]; then
        echo "ok $2"
    else
        echo "not ok $2"
        FAILED=1
    fi
}

# compile NAME VARIABLE=VALUE...: as make does it with these variables, but to a folder.
compile() {
    local status=0 folder=$FOLDER/$1
    mkdir "$folder"
    make -s -j 2 -C "$folder" -f "$PWD/Makefile" VPATH="$PWD" CFLAGS='-O2 -Wshadow -Werror' "${@:2}" ||
        status=$?
    result $status "$1 compiles kvss and kvss_client without a warning"
}

# emulate NAME: its programs are run by qemu-user, in scripts of the same names.
emulate() {
    local program folder=$FOLDER/$1
    for program in kvss kvss_client; do
        [ -e "$folder/$program" ] || return 0
        mv "$folder/$program" "$folder/$program.$1"
        printf '#!/bin/sh\nexec qemu-%s -L /usr/%s-linux-gnu %s "$@"\n' \
            "$1" "$1" "$folder/$program.$1" >"$folder/$program"
        chmod +x "$folder/$program"
    done
}

# run NAME TAGS FILE...: the tests without these tags.
run() {
    local status=0 folder=$FOLDER/$1
    [ -x "$folder/kvss" ] && [ -x "$folder/kvss_client" ] || return 0
    "$folder/kvss" --version >"$FOLDER/version" 2>&1 || status=$?
    if [ $status = 126 ]; then # the kernel need not have been built for programs of 32 bits
        echo "ok $1 # skip this machine can not run its programs"
        return 0
    fi
    status=0
    echo "# $1: ${*:3}"
    KVSS=$folder/kvss KVSS_CLIENT=$folder/kvss_client bats --jobs 2 ${2:+--filter-tags "$2"} "${@:3}" ||
        status=$?
    [ $status = 0 ] || FAILED=1
}

# Debian has no 32-bit library with crypt(), and none for other processors: there the name stands for another
# function, since no test calls it. Its musl has none either, but there glibc's static one can stand in. It
# wants three functions of glibc; the last two are for settings and salts that no test has. gcc-multilib, which
# puts headers where gcc -m32 looks for them, can't be installed beside compilers for other processors;
# gcc-12-multilib can.
NO_CRYPT=-Wl,--defsym=crypt=main
compile gcc CC=gcc
compile clang CC=clang
compile tcc CC=tcc
compile musl CC='musl-gcc -static' LDLIBS="$(gcc -print-file-name=libcrypt.a) \
    -Wl,--defsym=__explicit_bzero_chk=explicit_bzero,--defsym=__snprintf_chk=abort,--defsym=arc4random_buf=abort"
compile gcc-m32 CC="gcc -m32 -idirafter /usr/include/$(gcc -print-multiarch)" LDLIBS=$NO_CRYPT
compile s390x CC=s390x-linux-gnu-gcc LDLIBS=$NO_CRYPT
compile aarch64 CC=aarch64-linux-gnu-gcc LDLIBS=$NO_CRYPT
emulate s390x
emulate aarch64

# Under qemu-user, prompt.bats is not run: it looks for the client by its name, which is qemu's
# there, and locales are files in the byte order of this machine. Nor is what tests limits of memory
# and descriptors: qemu has some of its own. Nor is roles.bats, for want of crypt().
others=(tests/ tests/hostile/model.bats) same_libc=("${others[@]}")
emulated=(tests/{client,expiry,frames,log,mailboxes,protocol,server,hostile/model}.bats)
if [ -n "${QUICK-}" ]; then
    others=(tests/{client,expiry,frames,protocol}.bats)
    same_libc=(tests/protocol.bats) emulated=(tests/protocol.bats)
fi
export PATIENCE=50 BATS_TEST_TIMEOUT=6000 # qemu is slow, and all of this at once, too
run musl '!glibc' "${others[@]}"
run gcc-m32 '!crypt' "${others[@]}"
run gcc '' "${same_libc[@]}"
run clang '' "${same_libc[@]}"
run tcc '' "${same_libc[@]}"
run s390x '!crypt' "${emulated[@]}"
run aarch64 '!crypt' "${emulated[@]}"
exit "$FAILED"
