"""Which sites can be targets of a run, printed for ``--target-site help``."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ddae_app.engine.inputs import select_all_scans
from ddae_app.levels.participant.calibration import lacks_calibration, large_sites
from ddae_app.levels.participant.folder_models import models_of_dataset
from ddae_app.levels.train.data import participants_by_site
from ddae_app.methods.find import find_model, packaged_model
from ddae_app.methods.suitability import FEWEST_TO_CALIBRATE
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')


def list_targets(settings: Settings, default_model: Path | None) -> int:
    """Print the sites that can be targets of a run, a line each, and what they are."""
    scans, cohort = select_all_scans(settings)
    large = {}
    if lacks_calibration(settings, default_model):
        large = large_sites(scans, cohort)
        model = packaged_model(settings.preproc.slices or 'all')
    else:
        trained, asked = models_of_dataset(settings.output_dir), settings.harmonize
        model = find_model(
            asked.model, default_model, trained, asked.method, settings.preproc.slices
        )
    for site, n in large.items():
        print(f'{site}\tthis dataset, {n} participants')
    for site, n in zip(model.info.sites, model.info.training.subjects_per_site, strict=True):
        if site not in large:
            own = site in model.info.source_sites
            where = f'{model.info.name} ({model.origin})' if own else 'packaged with the program'
            print(f'{site}\t{where}, {n} participants')
    listed = {*large, *model.info.source_sites}  # a packaged one may have the name of another
    for line in _not_listed(participants_by_site(scans, cohort), listed):
        log.info('%s', line)
    return 0


def _not_listed(sites: Mapping[str, int], listed: Collection[str]) -> Iterator[str]:
    """Which sites of a dataset, of so many participants, can be no target, and why; sentences."""
    if not sites:
        yield 'nothing names the sites of the dataset, so none of them is listed'
    small = {site: n for site, n in sites.items() if n < FEWEST_TO_CALIBRATE}
    large = {site: n for site, n in sites.items() if site not in small}
    for why, kind in (
        (f'a target needs {FEWEST_TO_CALIBRATE} participants', small),
        ('the model does not know them', large),
    ):
        if lacking := [f'{site} {n}' for site, n in kind.items() if site not in listed]:
            yield f'sites of the dataset that are not listed, since {why}: {", ".join(lacking)}'
