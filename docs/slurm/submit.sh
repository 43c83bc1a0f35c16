#!/bin/sh
# Queues everything, each step after the one that it needs. MODEL=no leaves the calibration out.
set -eu
. ./settings.sh
participants=$(($(wc -l < "$BIDS/participants.tsv") - 1))
preproc=$(sbatch --parsable --array="1-$participants%50" preproc.sbatch)
# A participant that failed must not hold the others up: afterany, not afterok.
last=$preproc
if [ "${MODEL:-yes}" = yes ]; then
    last=$(sbatch --parsable --dependency="afterany:$preproc" train.sbatch)
    kind=afterok
fi
harmonize=$(sbatch --parsable --dependency="${kind:-afterany}:$last" harmonize.sbatch)
group=$(sbatch --parsable --dependency="afterany:$harmonize" group.sbatch)
echo "queued: preproc $preproc, model ${last}, harmonize $harmonize, group $group"
