"""What a run says of a model that may not be the one for its scans."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from ddae_app.bids.cohort import Cohort
from ddae_app.bids.layout import SpaceLayout
from ddae_app.bids.scan import Scan
from ddae_app.engine.run import Crashes
from ddae_app.levels.participant.folder_models import how_to_renew
from ddae_app.levels.participant.others import MOST_RUNS
from ddae_app.levels.train.data import participants_by_site, people
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.find import FoundModel, packaged_model
from ddae_app.methods.suitability import FEWEST_TO_CALIBRATE

log = logging.getLogger('ddae_app')


def doubts_of(model: FoundModel, dataset: str) -> list[str]:
    """Why a model that lies in the output folder may not be the one for this run.

    Parameters
    ----------
    model : FoundModel
    dataset : str
        Name of the dataset of the run.
    """
    doubts, made_for = [], model.info.training.dataset
    if made_for != dataset:
        doubts.append(
            f'{model.path} was made for the dataset {made_for!r}, and this is {dataset!r}; '
            f'{how_to_renew(model)}, or give another output folder'
        )
    if isinstance(model.info, DDAEInfo) and model.info.networks:
        name, sha256 = model.info.networks.rsplit(' ', 1)
        packaged = packaged_model(model.info.protocol.slices)
        if name == packaged.info.name and sha256 != packaged.sha256:
            doubts.append(
                f'{model.path} was calibrated with the networks of another version of ddae-app; '
                f'outputs of both versions do not belong together: {how_to_renew(model)}, or keep '
                'that version'
            )
    return doubts


def warn_of_unknown_sites(
    model: FoundModel, scans: Sequence[Scan], cohort: Cohort, *, of_folder: bool
) -> None:
    """Log which sites of some scans a model does not know, and what becomes of the scans.

    Parameters
    ----------
    model : FoundModel
    scans : sequence of Scan
    cohort : Cohort
    of_folder : bool
        Whether the model lies in the output folder, where ``train`` makes it anew.
    """
    sites = [site for scan in scans if (site := cohort[scan].site)]
    if without := len(scans) - len(sites):
        log.warning(
            '%d scan%s no site: each is harmonized by itself',
            without, ' has' if without == 1 else 's have',
        )  # fmt: skip
    participants = participants_by_site(scans, cohort)
    renewable = of_folder and _is_calibrated(model)
    alike: dict[tuple[str, str], list[str]] = {}
    for site, n in sorted(Counter(sites).items()):
        if site not in model.info.source_sites:
            namesake = site in model.info.sites
            calibrates = renewable and participants[site] >= FEWEST_TO_CALIBRATE
            told = (
                ' (a packaged site of the same name may be another)' if namesake else '',
                f'; {how_to_renew(model)} to calibrate it' if calibrates else '',
            )
            alike.setdefault(told, []).append(f'{site} ({n} scan{"s" * (n != 1)})')
    for (namesakes, remedy), named in alike.items():
        one = len(named) == 1
        log.warning(
            'site%s %s %s unknown to %r%s: each scan is harmonized by itself, which removes some '
            "of what is its subject's own%s",
            '' if one else 's', ', '.join(named), 'is' if one else 'are', model.info.name,
            namesakes, remedy if one else remedy.replace(' it', ' them'),
        )  # fmt: skip


def tell_what_changed(
    model: FoundModel, scans: Sequence[Scan], cohort: Cohort, layout: SpaceLayout
) -> None:
    """Log where participants came or went since the sites of the dataset were calibrated.

    Parameters
    ----------
    model : FoundModel
        Of the output folder.
    scans : sequence of Scan
        All of the dataset.
    cohort : Cohort
    layout : SpaceLayout
        Of the output folder.
    """
    if not _is_calibrated(model):
        return
    counts = zip(model.info.sites, model.info.training.subjects_per_site, strict=True)
    before = {site: n for site, n in counts if site in model.info.source_sites}
    if _changed(before, participants_by_site(scans, cohort)):
        # Of a scan that fails each time, a calibration takes nothing, today as then.
        failed = Crashes(layout.runs()[:MOST_RUNS])
        scans = [s for s in scans if layout.image('preproc', s).exists() or not failed.of(s)]
    for site, (then, now) in _changed(before, participants_by_site(scans, cohort)).items():
        log.log(
            logging.WARNING if now < then else logging.INFO,
            'site %s was calibrated with %s and now has %d: its calibration stays as it is; %s '
            'to renew it', site, people(then), now, how_to_renew(model),
        )  # fmt: skip


def _is_calibrated(model: FoundModel) -> bool:
    return isinstance(model.info, DDAEInfo) and bool(model.info.networks)


def _changed(before: dict[str, int], now: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Participants of each site before and now, where these differ and there are any now."""
    return {site: (n, now[site]) for site, n in before.items() if now.get(site, n) != n}
