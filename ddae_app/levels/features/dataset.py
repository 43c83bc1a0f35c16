"""What describes the output dataset around a harmonized table or maps."""

from __future__ import annotations

from pathlib import Path

from ddae_app.bids.dataset import link_names, write_description
from ddae_app.bids.output_folder import read_description
from ddae_app.engine.inputs import derivatives
from ddae_app.settings import RAW, Settings

NAME = 'ddae-app: harmonized tables of features'
NAME_OF_MAPS = 'ddae-app: harmonized maps on the cortex'
"""The names of output datasets without images."""

LINK = 'features'
"""The name in ``DatasetLinks`` of the folder of a table that lies outside of the dataset."""


def writes_outputs(settings: Settings) -> bool:
    """Whether a run makes or replaces features; group reads them, and a dry run only looks."""
    return settings.analysis_level != 'group' and not settings.run.dry_run


def describe_dataset(settings: Settings) -> None:
    """Write what makes the output folder a BIDS dataset; one of images keeps its name."""
    name = read_description(settings.output_dir).get('Name')
    measure = settings.table.measure
    usual = NAME_OF_MAPS if measure else NAME
    write_description(
        settings.output_dir,
        settings.bids_dir,
        _linked(settings),
        settings.run.container,
        name if isinstance(name, str) else usual,
        [f'*_{measure}.*'] if measure else [],
    )


def datasets(settings: Settings) -> dict[str, Path]:
    """The folders by their names in BIDS URIs; of two that hold a file, the inner one first."""
    links = {**link_names(settings.output_dir, _linked(settings)), RAW: settings.bids_dir}
    return dict(sorted(links.items(), key=lambda link: -len(link[1].parts)))


def _linked(settings: Settings) -> list[tuple[str, Path]]:
    """The folders that files are taken from, beside the dataset: of stats, maps, or the table."""
    if settings.table.surfer_stats or settings.table.measure:
        return derivatives(settings)
    table = settings.table.features
    assert table is not None
    inside = (table.is_relative_to(folder) for folder in (settings.bids_dir, settings.output_dir))
    return [] if any(inside) else [(LINK, table.parent)]
