"""The models that lie in the output folder: of which runs each is, and how it is made anew."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from ddae_app.bids.layout import Layout, ModelFiles
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.find import FoundModel, packaged_model
from ddae_app.settings import CALIBRATED

TARGETS = 'targets'
"""Folder, in that of the output, of what was made of the scans of ``--target-scans``."""


def name_of_folder(folder: Path) -> str:
    """The name of a folder in letters that any file system takes: Malmo-2 of Malmö 2."""
    letters = unicodedata.normalize('NFKD', folder.resolve().name)
    plain = ''.join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r'[^\w.-]', '-', plain, flags=re.ASCII)


def model_to_target(output_dir: Path, target: str) -> ModelFiles:
    """The model of the sites of the dataset beside that of the target scans in a folder."""
    return Layout(output_dir).model(f'{CALIBRATED}-{target}')


def models_of_dataset(output_dir: Path) -> list[Path]:
    """The models of images that runs without ``--target-scans`` choose from."""
    return [path for path in Layout(output_dir).models() if _target_of(path) is None]


def how_to_renew(model: FoundModel) -> str:
    """What makes a model in the output folder anew, as the beginning of a sentence."""
    if (name := _target_of(model.path)) is None:
        if not (isinstance(model.info, DDAEInfo) and model.info.networks):
            return 'train it again'
        named = f' --model-name {model.path.stem}' if model.path.stem != CALIBRATED else ''
        networks = model.info.networks.rsplit(' ', 1)[0]
        packaged = packaged_model(model.info.protocol.slices).info.name
        given = '' if networks == packaged else f' with --init-from, the file of {networks!r}'
        return f'run train{named}{given}'
    root = next(p for p in model.path.parents if (p / TARGETS / name).is_dir())
    both = f'{root / TARGETS / name / "models"} and {model_to_target(root, name).model}'
    return f'delete {both} and run again'


def _target_of(model: Path) -> str | None:
    """The target scans, by the name of their folder, of which a model knows the site."""
    root = model.parents[1]  # of an output folder, or of that of the target scans in it
    if root.parent.name == TARGETS:
        return root.name
    name = model.stem.removeprefix(f'{CALIBRATED}-')
    return name if name != model.stem and (root / TARGETS / name).is_dir() else None
