# What the batch scripts share. Copy this folder, fill this in, then: sh submit.sh
BIDS=/data/bids                 # the dataset
OUT=/data/derivatives/ddae-app  # where outputs go
WORK=/scratch/$USER/ddae-app    # intermediate results; may be deleted afterwards
TARGET=IXI                      # the site whose look every scan is given
ARGS=""                         # for example "--skull-strip template"

# With Apptainer (or Singularity), the usual case; a plain installation is APP=ddae-app.
IMAGE=/apps/ddae-app.sif
APP="apptainer run --cleanenv --nv -B $BIDS:$BIDS:ro -B $(dirname $OUT) -B $(dirname $WORK) $IMAGE"
