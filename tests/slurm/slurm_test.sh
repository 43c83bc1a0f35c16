#!/bin/sh
# Runs the scripts of docs/slurm on a Slurm of one node, started here: the array, what depends on
# it, a task that is killed and queued again, and nipype's own plugin. `make slurm-test` calls it.
#
# Needs root, slurm-wlm and munge (Debian's packages). WORK: folder for everything; by default a
# temporary one. BIN: folder of ddae-app.
set -eu

here=$(cd "$(dirname "$0")/../.." && pwd)
WORK=${WORK:-$(mktemp -d)}
BIN=${BIN:-$here/.venv/bin}
export SLURM_CONF=$WORK/slurm/slurm.conf LOGNAME=${LOGNAME:-root} OMP_NUM_THREADS=1
mkdir -p "$WORK/slurm/spool" "$WORK/slurm/state" /run/munge
host=$(hostname -s)

cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
StateSaveLocation=$WORK/slurm/state
SlurmdSpoolDir=$WORK/slurm/spool
SlurmctldPidFile=$WORK/slurm/slurmctld.pid
SlurmdPidFile=$WORK/slurm/slurmd.pid
SlurmctldLogFile=$WORK/slurm/slurmctld.log
SlurmdLogFile=$WORK/slurm/slurmd.log
MinJobAge=3600
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=64000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
# A GPU only in name: the scripts ask for one, ddae-app finds none and takes the CPU.
printf "AutoDetect=off\nName=gpu File=/dev/null\n" > "$WORK/slurm/gres.conf"

chown munge: /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- munged --force
slurmctld
slurmd
trap 'kill $(cat "$WORK"/slurm/slurmctld.pid "$WORK"/slurm/slurmd.pid)' EXIT
until sinfo -h -o %T 2> /dev/null | grep -q idle; do sleep 1; done

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
TRAIN_ARGS="--preset tiny --train-images 640 --allow-few-scans --allow-confounding"
APP=$BIN/ddae-app
SETTINGS

cd "$WORK/scripts"
queued=$(sh submit.sh)
echo "$queued"
id() { echo "$queued" | sed "s/.*$1 \([0-9]*\).*/\1/"; }

# A task is taken away from under ddae-app in the middle of its work, and queued again.
until grep -qs 'conform\|register' "slurm-$(id preproc)_1.out"; do sleep 1; done
scontrol requeue "$(id preproc)_1"
wait_for

for step in preproc model harmonize group; do
    echo "$step $(id $step): $(state "$(id $step)")"
    test "$(state "$(id $step)")" = COMPLETED
done
scontrol show job "$(id preproc)_1" | grep -q 'Restarts=1'
test "$(ls "$WORK"/out/sub-*/anat/*_desc-harmonized_T1w.nii.gz | wc -l)" = 4
test -f "$WORK/out/group_T1w.html"
"$BIN/bids-validator-deno" "$WORK/out" --datasetTypes derivative

# Every step a job of its own, queued by nipype.
cat > "$WORK/plugin.yml" <<PLUGIN
plugin: SLURM
plugin_args: {sbatch_args: '--mem=4G', dont_resubmit_completed_jobs: true}
PLUGIN
before=$(sbatch --parsable --wrap true)
"$BIN/ddae-app" "$WORK/bids" "$WORK/plugin" participant --target-site PhantomA --skull-strip none \
    --sloppy --participant-label A01 -w "$WORK/plugin-work" --use-plugin "$WORK/plugin.yml" \
    --skip-bids-validation
after=$(sbatch --parsable --wrap true)
wait_for
test -f "$WORK/plugin/sub-A01.html"
echo "jobs: $(($(id group) - $(id preproc) + 4)) by the scripts, $((after - before - 1)) by nipype"
