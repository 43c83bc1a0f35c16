"""Trains the toy model and kills itself: ``killed_run.py FOLDER IMAGES_BEFORE_DEATH``."""

from __future__ import annotations

import os
import signal
import sys

import torch

from ddae_app.methods.base import Progress
from ddae_app.methods.ddae.train import TrainingControl, train
from tests.methods.toy import CONFIG, PROTOCOL, TRAIN, slices


def die(progress: Progress) -> None:
    if progress.images_seen >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == '__main__':
    torch.set_num_threads(1)
    control = TrainingControl(progress=die, checkpoint_seconds=0)
    train(slices(), CONFIG, TRAIN, PROTOCOL, sys.argv[1], control=control)
