#!/bin/sh
# Runs the scripts of docs/slurm on a Slurm of two nodes, both started here: the array, what depends
# on it, a task that is killed and queued again, training that stops at its time limit and queues
# itself again, on one node and on two, a node that fails, and nipype's own plugin. `make
# slurm-test` calls it.
#
# Needs root, slurm-wlm and munge (Debian's packages). WORK: folder for everything; by default a
# temporary one. BIN: folder of ddae-app.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
WORK=${WORK:-$(mktemp -d)}
BIN=${BIN:-$here/.venv/bin}
. "$here/tests/slurm/cluster.sh"
export OMP_NUM_THREADS=1

wait_for() { # until no job is queued or running any more
    while [ -n "$(squeue -h -o %i)" ]; do sleep 2; done
}

state() { scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p' | sort -u | xargs; }

cp -r "$here/docs/slurm" "$WORK/scripts"
"$BIN/ddae-phantom" "$WORK/bids" --sites 2 --subjects-per-site 2
cat > "$WORK/scripts/settings.sh" <<SETTINGS
BIDS=$WORK/bids
OUT=$WORK/out
WORK=$WORK/work
TARGET=PhantomA
ARGS="--skull-strip none --sloppy --template MNI152NLin2009aSym --slices medial"
TRAIN_ARGS="--preset tiny --train-images 640 --allow-few-scans --allow-confounding \${MORE-}"
RUN="env PATH=$BIN:$PATH"
APP="\$RUN ddae-app"
# The first job of a training reaches its time limit after one step, and the second completes it.
[ "\${SLURM_RESTART_COUNT:-0}" = 0 ] && MAX_HOURS=\${FIRST_HOURS:-0} || MAX_HOURS=1
SETTINGS

cd "$WORK/scripts"
queued=$(sh submit.sh)
echo "$queued"
id() { echo "$queued" | sed "s/.*$1 \([0-9]*\).*/\1/"; }

# A task is cancelled while ddae-app is working, and queued again.
until grep -qs 'conform\|register' "slurm-$(id preproc)_1.out"; do sleep 1; done
scontrol requeue "$(id preproc)_1"
wait_for

for step in preproc model harmonize group; do
    echo "$step $(id $step): $(state "$(id $step)")"
    test "$(state "$(id $step)")" = COMPLETED
done
scontrol show job "$(id preproc)_1" | grep -q 'Restarts=1'
scontrol show job "$(id model)" | grep -q 'Restarts=1'
test "$(ls "$WORK"/out/sub-*/anat/*_desc-harmonized_T1w.nii.gz | wc -l)" = 4
test -f "$WORK/out/group_T1w.html"
"$BIN/bids-validator-deno" "$WORK/out" --datasetTypes derivative

# On two nodes, of which one loses its process; the other must not wait forever.
export MORE='--model-name two'
torn=$(FIRST_HOURS=1 sbatch --parsable --nodes=2 train.sbatch)
until grep -qs 'trained on' "slurm-$torn.out"; do sleep 1; done
pkill -9 -n -f "m ddae_app $WORK/bids"
wait_for
echo "model on two nodes, one of which fails $torn: $(state "$torn")"
test "$(state "$torn")" = FAILED
grep -q 'another process of this training ended' "slurm-$torn.out"

# The same again without failure; it learns the same as one node.
two=$(sbatch --parsable --nodes=2 train.sbatch)
wait_for
echo "model on two nodes $two: $(state "$two")"
test "$(state "$two")" = COMPLETED
scontrol show job "$two" | grep -q 'Restarts=1'
"$BIN/python" - "$WORK"/out/models/*_losses.tsv << 'PYTHON'
import sys
import numpy as np
one, two = (np.genfromtxt(path, skip_header=1) for path in sys.argv[1:])
print('losses on one node and on two:', one[-1], two[-1])
np.testing.assert_allclose(two, one, rtol=1e-3)
PYTHON

# Each step is a job that nipype submits.
cat > "$WORK/plugin.yml" <<PLUGIN
plugin: SLURM
plugin_args: {sbatch_args: '--mem=4G', dont_resubmit_completed_jobs: true}
PLUGIN
before=$(sbatch --parsable --wrap true)
"$BIN/ddae-app" "$WORK/bids" "$WORK/plugin" participant --target-site IXI --slices medial --skull-strip none \
    --sloppy --participant-label A01 -w "$WORK/plugin-work" --use-plugin "$WORK/plugin.yml" \
    --skip-bids-validation
after=$(sbatch --parsable --wrap true)
wait_for
test -f "$WORK/plugin/sub-A01.html"
# The array's first task has the number of the array; the other three follow the last script's job.
echo "jobs: $((before - $(id preproc))) by the scripts, $((after - before - 1)) by nipype"
