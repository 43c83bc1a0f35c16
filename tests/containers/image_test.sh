#!/bin/sh
# Builds the image and runs it as a careful user does, on simulated scans. `make image-test` calls
# it; common.sh lists its settings.
set -eu
. "$(dirname "$0")/common.sh"

IMAGE=localhost/ddae-app:test
build "$IMAGE" "$here/Dockerfile" --build-arg BASE_IMAGE="$BASE_IMAGE" \
    --build-arg PIP_FIND_LINKS="${PIP_FIND_LINKS:-}" --build-arg FETCH=

run --entrypoint ddae-phantom "$IMAGE" "$WORK/data/bids" --sites 2 --subjects-per-site 1
run "$IMAGE" "$WORK/data/bids" "$WORK/out" $flags
run "$IMAGE" "$WORK/data/bids" "$WORK/out" $flags --dry-run | tee "$WORK/listed"
test "$(grep -c 'done	done' "$WORK/listed")" = 2
run --entrypoint bids-validator-deno "$IMAGE" "$WORK/out" --datasetTypes derivative
test "$(stat -c %u "$WORK/out/sub-A01.html")" = 1000
# What is not in the image is asked for, not fetched.
if run "$IMAGE" "$WORK/data/bids" "$WORK/out" participant --target-site IXI --skull-strip hd-bet 2> "$WORK/said"; then
    echo 'weights that are not there were not missed' >&2
    exit 1
fi
grep -q 'HD-BET weights are missing' "$WORK/said"

podman images "$IMAGE"
start=$(date +%s%N)
run "$IMAGE" --version
echo "start-up: $((($(date +%s%N) - start) / 1000000)) ms"
