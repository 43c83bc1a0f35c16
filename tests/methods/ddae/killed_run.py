"""Trains the toy model and kills itself: ``killed_run.py FOLDER IMAGES_BEFORE_DEATH``."""

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy import MODEL, PROTOCOL, TRAIN, slices

from ddae_app.methods.ddae.train import train

torch.set_num_threads(1)


def die(progress):
    if progress.images_seen >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


train(slices(), MODEL, TRAIN, PROTOCOL, sys.argv[1], progress=die, checkpoint_seconds=0)
