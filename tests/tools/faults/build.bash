#!/usr/bin/env bash
# build.bash OUT: kvss whose calls can be made to fail, see faults.c; or kvss_client, with
# KVSS_SOURCE=kvss_client.c. With sanitizers, or with FLAGS.
set -euo pipefail
cd -P "$(dirname "$0")"
cd ../../..
wraps=()
for call in $(sed -nE 's/^ +(FAILS|CUTS)\(([a-z0-9_]+),.*/\2/p' tests/tools/faults/faults.c) \
    pselect aio_fsync64 aio_error64 aio_return64 clock_gettime; do
    wraps+=("-Wl,--wrap=$call")
done
sanitized='-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined'
# shellcheck disable=SC2086 # several
${CC:-cc} -std=gnu11 -Wall -Wextra -Wpedantic ${FLAGS:-$sanitized} "${wraps[@]}" \
    -o "$1" "${KVSS_SOURCE:-kvss.c}" tests/tools/faults/faults.c -lcrypt -lrt
