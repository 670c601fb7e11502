#!/usr/bin/env bash
# Checks the labs: in a copy of the project, all tests of a lab have to fail; with the model patch
# they have to pass, and so has the whole suite. Nothing is changed here.
#
#     tests/book/labs.bash                        all labs
#     LABS='1-incr 3-append' tests/book/labs.bash only these
#     QUICK=1 tests/book/labs.bash                of the suite, only what the labs change most
#
# When kvss.c has changed, and a model patch does not apply any more, or only with an offset:
#
#     git switch -c lab/1-incr && git apply --3way docs/labs/1-incr/model.patch
#     ... git commit -a ...
#     git switch main && git diff main lab/1-incr >docs/labs/1-incr/model.patch
#
# Where the branch is kept, git rebase main lab/1-incr comes in place of the first line.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
unset KVSS KVSS_CLIENT

suite=(tests/)
[ -z "${QUICK-}" ] || suite=(tests/protocol.bats)
jobs=()
! command -v parallel >/dev/null || jobs=(--jobs "$(nproc)")
for tool in bats patch; do
    command -v $tool >/dev/null && continue
    echo "labs.bash needs $tool: apt-get install $tool" >&2
    exit 1
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# copy FOLDER: of the project, as it is here, without what make made.
copy() {
    mkdir "$1" &&
        cp -R .ci .clang-format LICENSE Makefile README.md docs kvss.c kvss_client.c tests "$1"
}

# passes FOLDER FILE...: runs these tests there; what they say goes to a file.
passes() {
    (cd "$1" && bats --tap "${jobs[@]}" "${@:2}") >"$work/tap" 2>&1
}

# fails FOLDER FILE: every test in the file fails there. Some fail because they wait in vain.
fails() {
    ! PATIENCE=1 passes "$@" && ! grep -q '^ok ' "$work/tap" &&
        [ "$(grep -c '^not ok ' "$work/tap")" = "$(grep -c '^@test ' "$2")" ]
}

# complain LAB WHAT: shows the run that went wrong.
complain() {
    grep -v '^ok ' "$work/tap"
    echo "not ok $1: $2"
    return 1
}

lab() {
    local patched=$work/$1 tests=docs/labs/$1/lab.bats
    fails "$work/main" "$tests" ||
        complain "$1" "its tests pass without the patch, or don't run" || return
    copy "$patched" && patch -s -p1 -d "$patched" <"docs/labs/$1/model.patch" >"$work/tap" &&
        make -s -C "$patched" CFLAGS='-O2 -Werror' >>"$work/tap" 2>&1 ||
        complain "$1" 'the model can not be built' || return
    ! command -v clang-format >/dev/null ||
        clang-format --dry-run -Werror "$patched"/*.c >"$work/tap" 2>&1 ||
        complain "$1" 'clang-format would change the model' || return
    passes "$patched" "$tests" || complain "$1" 'its tests fail with the model' || return
    passes "$patched" "${suite[@]}" ||
        complain "$1" 'the suite fails with the model' || return
    echo "ok $1: its tests fail before, pass after; the suite passes"
}

failed=0
[ -n "${LABS-}" ] || LABS=$(cd docs/labs && printf '%s\n' */ | sort -n | tr -d /)
copy "$work/main" && make -s -C "$work/main" || exit 1
for name in $LABS; do lab "$name" || failed=1; done
exit $failed
