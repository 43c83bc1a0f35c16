"""The packaged models: the networks of ``benchmarks.universal``, with real sites as targets.

    python -m benchmarks.references BIDS_DIR PREPROC_DIR UNIVERSAL_DIR WORK_DIR
        [--networks NETWORKS.safetensors] [--scanners 50]

The appearance and the residual correction of the sites of the dataset are measured in all of its
scans, for whole volumes and for the medial slice. The two models have the same networks. How the
scans of one scanner differ is measured in the scans that these learned from, which
``UNIVERSAL_DIR`` has, the work directory of ``benchmarks.universal``; how scanners differ, in
scans of the same people by other random scanners. The models are written to ``WORK_DIR`` in half
precision.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.phantoms import PROTOCOL
from benchmarks.random_scanners import draw_random_scanner
from benchmarks.universal import (
    NAME,
    SCANNERS,
    SEED,
    VOLUMES,
    Brains,
    brains,
    draw,
    labels_of,
    real_data,
    scanned,
    stored_scans,
)
from ddae_app.imaging.slices import TRAINING_NEIGHBORS, slice_indices
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.appearance import SiteAppearance, fit_site_appearance
from ddae_app.methods.ddae.bundle import Bundle, load_bundle, save_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.config import CURVE_LEVELS
from ddae_app.methods.ddae.intensity import edge_means, rising, tissue_quantiles
from ddae_app.methods.ddae.model import DDAE, Networks
from ddae_app.methods.ddae.residuals import LEVELS
from ddae_app.methods.site_effects import Prior, Regression
from ddae_app.phantom.seeds import generator

SAME_PEOPLE, SAME_SCANNERS = 8, 100
"""How many people each of how many random scanners scans, to learn how scanners differ."""

NOTES = (
    'The networks learned from real and simulated brains under simulated scanners. Real brains: '
    'IXI (brain-development.org, CC BY-SA 3.0), OpenNeuro ds002748 (CC0) and OpenfMRI ds000011 '
    '(PDDL 1.0), whose sites are the targets IXI, Novosibirsk and UCLA. The IXI scans are those '
    'of Hammersmith Hospital, resampled to 2 mm: their contrast and shading are a target, their '
    'blur is not. This file is distributed under CC BY-SA 3.0.'
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bids_dir', type=Path)
    parser.add_argument('preproc_dir', type=Path)
    parser.add_argument('universal_dir', type=Path)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--networks', type=Path, help='if not those of UNIVERSAL_DIR')
    parser.add_argument('--scanners', type=int, default=SCANNERS)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--slices', nargs='+', default=['medial', 'all'])
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(args.threads)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    volumes = load_bundle(args.networks or args.universal_dir / 'networks' / f'{NAME}.safetensors')
    data = real_data(
        args.bids_dir, args.preproc_dir, args.work_dir / 'references.npy', learnt=None
    )
    drawn = brains(args.bids_dir, args.preproc_dir, args.universal_dir)
    learnt = draw(drawn, args.universal_dir, args.scanners, args.threads)
    same = draw_same_people(drawn['Real'], args.work_dir, args.threads)
    for slices in args.slices:
        bundle, scans, drawn_scans = (
            (medial(volumes, data), near_the_middle(data, TRAINING_NEIGHBORS),
             [near_the_middle(some, 0) for some in (learnt, same)])
            if slices == 'medial'
            else (volumes, data, [learnt, same])
        )  # fmt: skip
        found = calibrate(bundle, scans)
        assert found.model.evidence is not None  # these networks are of a kind that has it
        found.model.evidence.set_priors(measure_priors(bundle, *drawn_scans))
        info = replace(found.info, notes=NOTES, references=found.info.sites)
        save_bundle(
            args.work_dir / f'universal-{slices}.safetensors', found.model, info, half=True
        )


def draw_same_people(of: Brains, work_dir: Path, processes: int) -> SliceData:
    """Scans of the same people by each of many random scanners."""
    sites = [(of, f'Same{number:03d}', SAME_PEOPLE) for number in range(SAME_SCANNERS)]
    return stored_scans(work_dir / 'same', sites, _scans_of_same, processes)


def _scans_of_same(brains: Brains, site: str, n: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Scans by a random scanner of people who are the same for all, every second one mirrored."""
    rng = generator(SEED, 'random scanner', site)
    scanner = draw_random_scanner(rng)
    chosen = np.linspace(0, len(brains.names) - 1, n).round().astype(int)
    images = (brains.images[who][:, :: 1 if i % 2 else -1] for i, who in enumerate(chosen))
    scans = np.stack([scanned(image, scanner, rng) for image in images])
    return scans, labels_of(brains, chosen, site)


class SamePeople(Regression):
    """Of scans of the same people at each site, whose order is the same.

    What a site adds is then known without knowing what people add, and not shrunk.

    Attributes
    ----------
    values : dict of str to np.ndarray, shape (S, n, ...)
        Of each site and person, by the name of the measure.
    """

    def __init__(self, data: SliceData, rows: np.ndarray) -> None:
        super().__init__(data, rows)
        self.values: dict[str, np.ndarray] = {}

    def effects(
        self, name: str, parts: Iterable[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values = np.concatenate([part.astype(np.float64) for part in parts])
        _, common, variance = super().effects(name, [values])
        values = values.reshape(len(self.sites), -1, *values.shape[1:])
        self.values[name] = values
        at_site = values.mean(axis=1)
        return at_site - at_site.mean(axis=0), common, variance


def measure_priors(bundle: Bundle, learnt: SliceData, same: SliceData) -> dict[str, Prior]:
    """How the appearance of random scanners differs on the common scale of some networks.

    Parameters
    ----------
    bundle : Bundle
    learnt : SliceData
        Scans of many people, who show how the scans of one scanner differ.
    same : SliceData
        Scans of the same people by many scanners, who show how these differ.
    """
    rows = np.arange(len(learnt))
    people = Regression(learnt, rows), Regression(learnt, rows)
    _measure(bundle, learnt, *people)
    rows = np.arange(len(same))
    scanners = SamePeople(same, rows), SamePeople(same, rows)
    _measure(bundle, same, *scanners)
    return {
        name: Prior.of_scanners(values, of_people.evidence().within(name))
        for of_people, of_scanners in zip(people, scanners, strict=True)
        for name, values in of_scanners.values.items()
    }


def _measure(
    bundle: Bundle, data: SliceData, of_look: Regression, of_contrast: Regression
) -> None:
    """The appearance of all sites, and the contrast that it leaves."""
    rows, model = np.arange(len(data)), bundle.model
    config = replace(model.config, noise_corrected=False)  # noise has no prior
    appearance = fit_site_appearance(config, data, rows, model.appearance, regression=of_look)
    common = (tissue_quantiles(appearance.common_scans(data, some), LEVELS)
              for some in data.chunks(rows))  # fmt: skip
    of_contrast.effects('before', common)


def near_the_middle(data: SliceData, neighbors: int) -> SliceData:
    """The medial slice and so many on each side, each as a scan."""
    (middle,) = slice_indices(PROTOCOL)
    near = range(middle - neighbors, middle + neighbors + 1)
    rows = np.repeat(np.arange(len(data)), len(near))
    images = np.concatenate([scan[list(near)] for scan in data.images])[:, None]
    return SliceData(
        images,
        tuple(data.sites[i] for i in rows),
        data.ages[rows],
        tuple(data.sexes[i] for i in rows),
        tuple(data.subjects[i] for i in rows),
    )


def medial(volumes: Bundle, data: SliceData) -> Bundle:
    """The same networks for the medial slice, on the same common scale.

    What that slice looks like on it is measured in whole scans.
    """
    model, (middle,) = volumes.model, slice_indices(PROTOCOL)
    rows = np.arange(len(data))
    whole = fit_site_appearance(model.config, data, rows, model.appearance)
    common = [whole.common_scans(data, some) for some in data.chunks(rows)]
    seen = near_the_middle(replace(data, images=np.concatenate(common)), TRAINING_NEIGHBORS)
    regression = Regression(seen, np.arange(len(seen)))
    config = replace(model.config, depth=1, first_slice=middle)
    shape = 1, config.image_size, config.image_size
    appearance = SiteAppearance(shape, 0)
    near = slice(middle - TRAINING_NEIGHBORS, middle + TRAINING_NEIGHBORS + 1)
    appearance.average.copy_(model.appearance.average[near].mean(dim=0, keepdim=True))
    appearance.deviation.copy_(model.appearance.deviation)
    quantiles = tissue_quantiles(seen.images, CURVE_LEVELS)
    _, curve, _ = regression.effects('quantiles', [quantiles])
    appearance.curve[-1] = torch.from_numpy(rising(curve))
    _, edge, _ = regression.effects('edge', [edge_means(seen.images)])
    appearance.edge[-1] = torch.from_numpy(edge)
    old = model.networks
    networks = Networks(config, 0, old.condition.age_mean, old.condition.age_sd)
    networks.load_state_dict(old.for_sites((), ()).state_dict())
    info = replace(volumes.info, config=config, protocol=replace(VOLUMES, slices='medial'))
    return replace(volumes, model=DDAE(networks, appearance).eval(), info=info)


if __name__ == '__main__':
    main()
