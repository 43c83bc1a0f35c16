#!/bin/sh
# Queues everything, each step after the one that it needs. MODEL=no leaves the calibration out.
set -eu
. ./settings.sh
# The last row that is not empty, whether or not a line break ends it.
participants=$(awk 'NF {last = NR} END {print last - 1}' "$BIDS/participants.tsv")
tasks=$(((participants + ${CHUNK:-1} - 1) / ${CHUNK:-1}))
# Slurm numbers the tasks of an array up to this, and no further.
most=$(($(scontrol show config | sed -n 's/^MaxArraySize *= *//p') - 1))
if [ "$tasks" -gt "$most" ]; then
    echo "$participants participants, and arrays of at most $most tasks here; set CHUNK in" \
        "settings.sh to $(((participants + most - 1) / most)) or more" >&2
    exit 2
fi
# A quarter of an hour for each participant, and what a start may take.
minutes=$((45 + 15 * ${CHUNK:-1}))
preproc=$(sbatch --parsable --array="1-$tasks%50" --time="$minutes" preproc.sbatch)
# A participant that failed must not hold the others up: afterany, not afterok.
last=$preproc
if [ "${MODEL:-yes}" = yes ]; then
    last=$(sbatch --parsable --dependency="afterany:$preproc" train.sbatch)
    kind=afterok
fi
harmonize=$(sbatch --parsable --dependency="${kind:-afterany}:$last" harmonize.sbatch)
group=$(sbatch --parsable --dependency="afterany:$harmonize" group.sbatch)
echo "queued: preproc $preproc, model ${last}, harmonize $harmonize, group $group"
