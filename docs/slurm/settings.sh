# What the batch scripts share. Copy this folder, fill this in, then: sh submit.sh
BIDS=/data/bids                 # the dataset
OUT=/data/derivatives/ddae-app  # where outputs go
# Intermediate results, seen by all nodes; may be deleted afterwards. All jobs share it, so that none
# reads again what another has read; --clean-workdir in ARGS would take it from the others.
WORK=/scratch/$USER/ddae-app
CHUNK=1                         # participants a task of the array; a start takes seconds
TARGET=IXI                      # the site to harmonize to
ARGS=""                         # for example "--skull-strip deepbet"
TRAIN_ARGS=""                   # for example "--preset paper"

# With Apptainer (or Singularity), the usual case; for a plain installation RUN="".
IMAGE=/apps/ddae-app.sif
RUN="apptainer exec --cleanenv --nv -B $BIDS:$BIDS:ro -B $(dirname $OUT) -B $(dirname $WORK) $IMAGE"
APP="$RUN ddae-app"
