#!/usr/bin/env bash
# Runs README.md's two commands in a bare Debian, and prints what they print. README.md, beside this
# file, says more. SKIPPED_MAX is how many tests may be skipped there for want of a tool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
export SKIPPED_MAX=${SKIPPED_MAX:-3}

# inside: runs in namespaces of its own: its mounts are seen by nobody else, and end with it.
inside() {
    local build tests release mirror proxy=''
    build=$(sed -n 's/^sudo \(apt-get .* && make\) && \.\/kvss 9000$/\1/p' README.md)
    tests=$(sed -n 's/^sudo \(apt-get .* && bats tests\/\)$/\1/p' README.md)
    if [ -z "$build" ] || [ -z "$tests" ]; then
        echo "README.md has no such commands" >&2
        return 1
    fi

    # shellcheck disable=SC2016 # the words in $() are apt's
    targets='$(RELEASE) $(COMPONENT) $(REPO_URI)'
    release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    mirror=$(apt-get indextargets --format "$targets" 'Identifier: Packages' |
        sed -n "s/^$release main //p" | head -n 1)
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    [ -z "$proxy" ] || export http_proxy=$proxy
    echo "bare: debootstrap --variant=minbase $release"
    debootstrap --variant=minbase "$release" "$BARE/root" "$mirror" >"$BARE/log" 2>&1 || {
        cat "$BARE/log"
        return 1
    }

    # An installed Debian has these: ps and terminals need /proc and /dev/pts.
    mount -t proc proc "$BARE/root/proc"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts "$BARE/root/dev/pts"
    cp /etc/hosts "$BARE/root/etc/hosts"
    # What apt needs here to reach the mirror: a proxy, certificates.
    apt-config dump | grep '^Acquire::' >"$BARE/root/etc/apt/apt.conf.d/99acquire"
    if [ -d /etc/ssl/certs ]; then
        mkdir -p "$BARE/root/etc/ssl"
        cp -rL /etc/ssl/certs "$BARE/root/etc/ssl"
    fi
    git -c safe.directory='*' checkout-index --all --prefix="$BARE/root/root/kvss/"

    env -i HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        SKIPPED_MAX="$SKIPPED_MAX" ${QUICK+QUICK="$QUICK"} ${http_proxy+http_proxy="$http_proxy"} \
        chroot "$BARE/root" bash /root/kvss/tests/tools/bare/commands.bash \
        "${build//sudo /}" "${tests//sudo /}"
}

# end: leaves nothing behind. With the first process of the namespaces, all others end.
end() {
    local status=$?
    trap '' INT TERM HUP
    if [ -n "${unshared-}" ]; then
        pkill -KILL -P "$unshared" || :
        wait "$unshared" || :
    fi
    rm -rf --one-file-system "$BARE"
    exit "$status"
}

if [ "${1-}" = inside ]; then
    inside
    exit
fi
trap 'exit 1' INT TERM HUP
trap end EXIT
BARE=$(mktemp -d)
export BARE
unshare --mount --pid --fork --mount-proc "$PWD/tests/tools/bare/run.bash" inside &
unshared=$!
status=0
wait $unshared || status=$?
unshared=
exit $status
