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

# The brain by nnU-Net, with a small network in place of HD-BET's.
inside() { # Python in the image, which also sees the tests
    run -v "$here/tests:/tests-of-ddae-app/tests:ro" -e PYTHONPATH=/tests-of-ddae-app \
        --entrypoint python3 "$IMAGE" -c "$1" "$WORK/weights"
}
rm -rf "$WORK/weights" "$WORK/out-network"
inside 'import pathlib, sys; from tests.imaging.nnunet_model import write_model
write_model(pathlib.Path(sys.argv[1]), threshold=-0.5)'
sha256=$(inside 'import pathlib, sys; from ddae_app.imaging.weights import weights_sha256
print(weights_sha256(pathlib.Path(sys.argv[1])))')
run "$IMAGE" "$WORK/data/bids" "$WORK/out-network" participant --participant-label A01 \
    --target-site IXI --stage preproc --skull-strip hd-bet --hd-bet-weights "$WORK/weights" \
    --hd-bet-sha256 "$sha256" --sloppy --nprocs 1
test "$(ls "$WORK"/out-network/sub-*/anat/*_desc-brain_mask.nii.gz | wc -l)" = 1
inside 'import ants, nnunetv2, umap
for name in "imagecodecs", "gdcm", "dicom2nifti", "setuptools", "pip":
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} is in the image, although scripts/slim_image.py takes it out")'

podman images "$IMAGE"
start=$(date +%s%N)
run "$IMAGE" --version
echo "start-up: $((($(date +%s%N) - start) / 1000000)) ms"
