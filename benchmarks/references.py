"""The packaged models: the networks of ``benchmarks.universal``, with real sites as targets.

    python -m benchmarks.references BIDS_DIR PREPROC_DIR UNIVERSAL_DIR WORK_DIR
        [--networks NETWORKS.safetensors] [--scanners 50]

The appearance and the residual correction of the sites of the dataset are measured in all of its
scans, for whole volumes and for the medial slice. The two models have the same networks. How
scanners differ is measured in the scans that these learned from, which ``UNIVERSAL_DIR`` has, the
work directory of ``benchmarks.universal``. The models are written to ``WORK_DIR`` in half
precision.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.phantoms import PROTOCOL
from benchmarks.universal import NAME, SCANNERS, VOLUMES, brains, draw, real_data
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
    for slices in args.slices:
        bundle, scans, of_scanners = (
            (medial(volumes, data), near_the_middle(data, TRAINING_NEIGHBORS),
             near_the_middle(learnt, 0))
            if slices == 'medial'
            else (volumes, data, learnt)
        )  # fmt: skip
        found = calibrate(bundle, scans)
        assert found.model.evidence is not None  # these networks are of a kind that has it
        found.model.evidence.set_priors(measure_priors(bundle, of_scanners))
        info = replace(found.info, notes=NOTES, references=found.info.sites)
        save_bundle(
            args.work_dir / f'universal-{slices}.safetensors', found.model, info, half=True
        )


def measure_priors(bundle: Bundle, data: SliceData) -> dict[str, Prior]:
    """How the appearance of random scanners differs on the common scale of some networks."""
    rows, model = np.arange(len(data)), bundle.model
    config = replace(model.config, noise_corrected=False)  # noise has no prior
    regression, of_contrast = Regression(data, rows), Regression(data, rows)
    appearance = fit_site_appearance(config, data, rows, model.appearance, regression=regression)
    common = (tissue_quantiles(appearance.common_scans(data, some), LEVELS)
              for some in data.chunks(rows))  # fmt: skip
    of_contrast.effects('before', common)
    found = regression.evidence(), of_contrast.evidence()
    return {name: evidence.prior(name) for evidence in found for name in evidence.sums}


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
