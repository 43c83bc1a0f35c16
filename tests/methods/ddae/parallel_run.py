"""Trains the toy model in one of the processes that torchrun started: ``parallel_run.py OUT``."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import torch

from ddae_app.methods.ddae.train import train
from ddae_app.methods.parallel import start_fabric
from tests.methods.toy import CONFIG, PROTOCOL, TRAIN, slices

if __name__ == '__main__':
    torch.set_num_threads(1)
    fabric = start_fabric('cpu', local_processes=int(os.environ.get('LOCAL_WORLD_SIZE', '1')))
    # Each process draws its dropout by itself.
    still = replace(CONFIG, dropout=0.0)
    train(slices(), still, TRAIN, PROTOCOL, sys.argv[1], fabric=fabric)
