#!/bin/sh
# Builds the image and runs it as a careful user does: as nobody in particular, on a read-only
# root, without a network, on simulated scans. `make image-test` calls it.
#
#   BASE_IMAGE      of the build; by default one is made with debootstrap, which takes root
#   PIP_FIND_LINKS  a folder of wheels to hand in, for example a CPU build of torch
#   WORK            folder for the outputs; by default a temporary one
set -eu

IMAGE=localhost/ddae-app:test
WORK=${WORK:-$(mktemp -d)}
here=$(cd "$(dirname "$0")/../.." && pwd)

if [ -z "${BASE_IMAGE:-}" ]; then
    BASE_IMAGE=localhost/ddae-base:bookworm
    if ! podman image exists "$BASE_IMAGE"; then
        root=$WORK/root
        mirror=$(grep -hs '^URIs:' /etc/apt/sources.list.d/*.sources | awk 'NR == 1 {print $2}')
        debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
            bookworm "$root" ${mirror:+"$mirror"} > "$WORK/debootstrap.log"
        # Whatever certificates this machine trusts, the build has to trust as well.
        cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        tar -C "$root" -c . | podman import - "$BASE_IMAGE"
    fi
fi

# Templates and weights are left out: whoever builds this may have no network but for packages.
buildah bud --isolation chroot --pull-never --network host --layers \
    ${PIP_FIND_LINKS:+-v "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro"} \
    --build-arg BASE_IMAGE="$BASE_IMAGE" --build-arg PIP_FIND_LINKS="${PIP_FIND_LINKS:-}" \
    --build-arg FETCH= -t "$IMAGE" -f "$here/Dockerfile" "$here"

mkdir -p "$WORK/data" "$WORK/out"
chmod 777 "$WORK" "$WORK/data" "$WORK/out"

run() {
    podman --runtime runc run --rm --read-only --network none --user 1000:1000 \
        --ulimit nofile=1024:4096 --ulimit nproc=4096:4096 -v "$WORK:$WORK" "$@"
}

run --entrypoint ddae-phantom "$IMAGE" "$WORK/data/bids" --sites 2 --subjects-per-site 1
run "$IMAGE" "$WORK/data/bids" "$WORK/out" participant --target-site PhantomA --skull-strip none \
    --sloppy --nprocs 2 --omp-nthreads 1
run "$IMAGE" "$WORK/data/bids" "$WORK/out" participant --target-site PhantomA --skull-strip none \
    --sloppy --dry-run | tee "$WORK/listed"
test "$(grep -c 'done	done' "$WORK/listed")" = 2
run --entrypoint bids-validator-deno "$IMAGE" "$WORK/out" --datasetTypes derivative
test "$(stat -c %u "$WORK/out/sub-A01.html")" = 1000
# What is not in the image is asked for, not fetched.
if run "$IMAGE" "$WORK/data/bids" "$WORK/out" participant --target-site PhantomA 2> "$WORK/said"; then
    echo 'weights that are not there were not missed' >&2
    exit 1
fi
grep -q 'HD-BET weights are not there' "$WORK/said"

podman images "$IMAGE"
start=$(date +%s%N)
run "$IMAGE" --version
echo "start-up: $((($(date +%s%N) - start) / 1000000)) ms"
