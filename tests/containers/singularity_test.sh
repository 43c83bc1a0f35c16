#!/bin/sh
# Builds what Singularity.def says and runs it without Apptainer: the recipe is converted by spython
# and built by buildah; the unpacked image is run by Charliecloud, as a user without rights, with the
# environment and the run script of the recipe where Apptainer puts them. `make singularity-test`
# calls it; common.sh lists its settings.
#
#   SPYTHON  the program spython
set -eu
. "$(dirname "$0")/common.sh"

IMAGE=localhost/ddae-app:singularity
recipe=$here/Singularity.def
section() { # what stands in a section of the recipe
    sed -n "/^%$1/,/^\(%\|Bootstrap\)/p" "$recipe" | sed '1d; /^%/d; s/^ *//'
}

# Spython knows no arguments, loses an ENV, and its HEALTHCHECK is none of a user's.
"${SPYTHON:-spython}" recipe "$recipe" | sed "s|^FROM [^ ]*|FROM $BASE_IMAGE|
    ${PIP_FIND_LINKS:+/ AS build/a ENV PIP_FIND_LINKS=$PIP_FIND_LINKS}
    s/{{ [a-z_]* }}//; s/^[A-Z]*=/ENV &/; /^HEALTHCHECK/d" > "$WORK/Dockerfile"
build "$IMAGE" "$WORK/Dockerfile"

root=$WORK/singularity
rm -rf "$root"
mkdir -p "$root"
container=$(buildah from --pull-never "$IMAGE")
cp -a "$(buildah mount "$container")/." "$root"
buildah rm "$container" > /dev/null
mkdir -p "$root/.singularity.d"
for part in environment runscript test; do
    section "$part" > "$root/.singularity.d/$part"
    grep -q . "$root/.singularity.d/$part"
done
chmod -R a+rX "$root"

alone() { # in the unpacked image, which is read-only; the folder of the test is at /mnt
    start='. /.singularity.d/environment; . /.singularity.d/'$1
    shift
    runuser -u nobody -- env -i USER=nobody HOME=/tmp PATH=/usr/bin:/bin \
        ch-run -b "$WORK:/mnt" "$root" -- sh -c "$start" sh "$@"
}

alone test
[ -d "$WORK/data/bids" ] || run --entrypoint /opt/ddae-app/bin/ddae-phantom "$IMAGE" \
    "$WORK/data/bids" --sites 2 --subjects-per-site 1
alone runscript /mnt/data/bids /mnt/out-singularity $flags -w /mnt/work-singularity
run --entrypoint /opt/ddae-app/bin/ddae-app "$IMAGE" "$WORK/data/bids" "$WORK/out-podman" $flags \
    -w "$WORK/work-podman"

# The same bytes as by podman, and as by the image of the Dockerfile, if that was tested here.
for out in "$WORK/out-podman" "$WORK/out"; do
    for image in "$out"/sub-*/anat/*.nii.gz; do
        [ -e "$image" ] || continue
        cmp "$image" "$WORK/out-singularity/${image#"$out"/}"
        echo "the same: $image"
    done
done
