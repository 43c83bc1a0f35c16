# What the tests of images share: a base, how an image is built, and how it is run.
#
#   BASE_IMAGE      of the build; by default one is made with debootstrap, which takes root
#   PIP_FIND_LINKS  a folder of wheels to hand in, for example a CPU build of torch
#   WORK            folder for the outputs; by default a temporary one

WORK=${WORK:-$(mktemp -d)}
here=$(cd "$(dirname "$0")/../.." && pwd)
# Weights and templates are left out: whoever builds this may have no network but for packages.
flags="participant --target-site IXI --skull-strip none --sloppy --nprocs 2 --omp-nthreads 1"

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

build() { # IMAGE RECIPE [further arguments]
    built=$1 file=$2
    shift 2
    buildah bud --isolation chroot --pull-never --network host --layers \
        ${PIP_FIND_LINKS:+-v "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro"} "$@" -t "$built" -f "$file" "$here"
}

run() { # as nobody in particular, on a read-only root, without a network
    podman --runtime runc run --rm --read-only --network none --user 1000:1000 \
        --ulimit nofile=1024:4096 --ulimit nproc=4096:4096 -v "$WORK:$WORK" "$@"
}

mkdir -p "$WORK"
for folder in "$WORK" "$WORK/data" "$WORK/out"; do
    mkdir -p "$folder"
    chmod 777 "$folder"
done
