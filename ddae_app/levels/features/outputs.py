"""The harmonized table or maps, and their sidecars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddae_app import __version__
from ddae_app.bids import sidecars
from ddae_app.bids.dataset import generator, write_json
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.surface_files import MapFile
from ddae_app.bids.tables import Dictionary
from ddae_app.errors import NothingSelectedError, UsageError
from ddae_app.features.maps import SurfaceMaps
from ddae_app.features.matrix import listed
from ddae_app.features.model import FeatureModelInfo
from ddae_app.features.table import PERSON, SESSION, FeatureTable, read_feature_table
from ddae_app.files import digest_of, write_atomically
from ddae_app.imaging.surfaces import HEMISPHERES, read_maps, written_like
from ddae_app.levels.features.dataset import datasets
from ddae_app.levels.features.inputs import FeatureInputs
from ddae_app.levels.features.used import UsedModel
from ddae_app.methods.registry import METHODS
from ddae_app.settings import Settings

MODEL_ROWS = 'ModelRowsSHA256'
"""In a sidecar, the digest of the rows that the model was fitted to."""


def write_harmonized(
    settings: Settings,
    inputs: FeatureInputs,
    used: UsedModel,
    values: np.ndarray,
    measures: Sequence[Mapping[str, float | str]],
) -> None:
    """Write the table, or the maps, each file after its sidecar.

    An earlier one goes first, so that none is left beside the sidecar of another harmonization if
    the run is stopped here.

    Parameters
    ----------
    settings : Settings
    inputs : FeatureInputs
    used : UsedModel
    values : np.ndarray, shape (N, F)
        Harmonized; NaN where missing.
    measures : sequence of mapping of str to float or str, length N
        What the anatomy guard found in each row, for the sidecars of maps.
    """
    table, path = inputs.table, inputs.files.harmonized
    record = _record(settings, used, inputs)
    if isinstance(table, FeatureTable):
        own = _columns(table, inputs.dictionary, used.model.info) | _sources(settings, table.path)
        path.unlink(missing_ok=True)
        # A column that bears the name of an entry of the record goes without a description.
        write_json(sidecar(path), own | record)
        write_atomically(path, table.written(values))
        return
    for row, harmonized, found in zip(table.files, values, measures, strict=True):
        on_mesh = table.on_mesh(harmonized)
        told = {name: value for name, value in found.items() if _is_known(value)}
        for file in dict.fromkeys(row.values()):
            path = file.harmonized(settings.output_dir, table.measure, table.mesh)
            own = _sources(settings, file.path) | _said_of_mesh(file, table)
            path.unlink(missing_ok=True)
            write_json(sidecar(path), own | record | told)
            write_atomically(path, written_like(file.path, file.hemispheres, on_mesh))


def read_harmonized(
    settings: Settings, inputs: FeatureInputs
) -> tuple[np.ndarray, dict[str, Any]]:
    """The values that the participant level wrote, and what their sidecars say.

    Returns
    -------
    values : np.ndarray, shape (N, F)
    said : dict

    Raises
    ------
    NothingSelectedError
        They are not there.
    UsageError
        They were made from other values, or by runs that do not go together.
    """
    table, path = inputs.table, inputs.files.harmonized
    if isinstance(table, FeatureTable):
        said = _made(path, table.path)
        harmonized = read_feature_table(path)
        if (harmonized.names, harmonized.features) != (table.names, table.features):
            raise UsageError(
                f'{path}: its rows and columns are not those of {table.path.name} in their order; '
                'run the participant level again'
            )
        return harmonized.values, said
    values, runs = table.values.copy(), {}
    runs_of: dict[str, set[str]] = {}
    people = zip(table.participants, inputs.labels.sites.tolist(), strict=True)
    for row, files, person_and_site in zip(values, table.files, people, strict=True):
        parts: list[np.ndarray] = []
        for file in dict.fromkeys(files[h] for h in HEMISPHERES):
            path = file.harmonized(settings.output_dir, table.measure, table.mesh)
            said = _made(path, file.path)
            runs[said.get('ModelSHA256'), said['TargetSite']] = said
            for what in _taken_together(said, *person_and_site):
                runs_of.setdefault(what, set()).add(str(said.get('RowsSHA256')))
            parts += read_maps(path, file.hemispheres).values()
        if sum(map(len, parts)) != sum(table.sizes):
            raise UsageError(f'{path} is on another mesh; run the participant level again')
        row[:] = np.where(np.isnan(row), np.nan, np.concatenate(parts)[table.vertices])
    if len(runs) > 1:
        raise UsageError(
            f'{settings.output_dir}: {table.measure} was harmonized with different models or to '
            'different targets; run the participant level again'
        )
    if parted := [what for what, of in runs_of.items() if len(of) > 1]:
        raise UsageError(
            f'{settings.output_dir}: {table.measure} of {listed(parted)} was harmonized in '
            'several runs, each of which knew a part of these maps; run the participant level '
            'again with all of them'
        )
    return values, next(iter(runs.values()))


def is_of_other_rows(said: Mapping[str, Any], inputs: FeatureInputs) -> bool:
    """Whether the model was fitted to other rows than those that it harmonized.

    Models of earlier versions do not say it.

    Parameters
    ----------
    said : mapping
        The sidecar of what was harmonized.
    inputs : FeatureInputs
        The rows of all runs, where maps were harmonized in parts.
    """
    return said.get(MODEL_ROWS, inputs.digest) not in (inputs.digest, said.get('RowsSHA256'))


def _taken_together(said: Mapping[str, Any], person: str, site: str) -> list[str]:
    """Whose other maps of the same run a harmonized map depends on.

    Nobody's, where the model knows the site and takes all maps as of different people: these may
    be harmonized in parts.
    """
    measured = said.get('SitesMeasuredInTheseRows', [])
    sites = [f'site {name}' for name in measured if name in (site, said['TargetSite'])]
    return [*sites, *([f'sub-{person}'] if said.get('RandomInterceptOfPeople') else [])]


def _made(path: Path, source: Path) -> dict[str, Any]:
    """The sidecar of a harmonized file, which was made from its source as that is now."""
    said = sidecars.read(path)
    if not path.is_file() or 'TargetSite' not in said:
        raise NothingSelectedError(
            f'{path} is not there, or without its JSON; run the participant level first'
        )
    if said.get('SourceSHA256') != digest_of(source):
        raise UsageError(
            f'{source} is another file than {path.name} was made from; run the participant '
            'level again'
        )
    return said


def _is_known(value: float | str) -> bool:
    return bool(value) if isinstance(value, str) else not math.isnan(value)


def covariates_in_words(info: FeatureModelInfo) -> list[str]:
    """What the model protects, age as a curve or a straight line.

    Age or sex that did not differ between the people whom it was fitted to, or that was not known,
    is not among it.
    """
    knots = ', '.join(f'{knot:.4g}' for knot in info.design.knots)
    age = f'age (natural cubic spline, knots at {knots} years)' if knots else 'age (straight line)'
    female = info.design.centers[-1]
    return [age] * (info.ages[:1] != info.ages[1:]) + ['sex'] * (0 < female < 1)


def _columns(table: FeatureTable, own: Dictionary, info: FeatureModelInfo) -> dict[str, Any]:
    """What each column is; what the user's own JSON says of it stays."""
    columns: dict[str, Any] = {}
    for name in table.header:
        said = own.get(name.lower(), {})
        if name in (PERSON, SESSION):
            columns[name] = said or {'Description': 'Label as in the source dataset'}
            continue
        done = 'as the source has it' if name in info.constant else 'without its site effects'
        what = said.get('Description') or f'Column {name} of {table.path.name}'
        columns[name] = {**said, 'Description': f'{what}; {done}'}
    return columns


def _said_of_mesh(file: MapFile, table: SurfaceMaps) -> dict[str, Any]:
    """What the source says of its mesh, and what BIDS asks for where the name has ``den``."""
    said = sidecars.read(file.path)
    density = {'Density': f'{table.sizes[0]} vertices in each hemisphere'}
    return (density if '_den-' in file.entities else {}) | {
        key: said[key] for key in ('Density', 'SpatialReference') if key in said
    }


def _sources(settings: Settings, source: Path) -> dict[str, Any]:
    """What one file was made from."""
    layout = Layout(settings.output_dir)
    links, paths = datasets(settings), [source, settings.bids_dir / 'participants.tsv']
    return {
        'Description': f'{source.name}, harmonized',
        'Sources': [layout.uri(path, links) for path in paths if path.is_file()],
        'SourceSHA256': digest_of(source),
    }


def _record(settings: Settings, used: UsedModel, inputs: FeatureInputs) -> dict[str, Any]:
    """What was done, the same in all files of a run."""
    info = used.model.info
    return {
        'GeneratedBy': [generator(settings.run.container)],
        'HarmonizationMethod': METHODS[info.method].label,
        'TargetSite': settings.harmonize.target_site or 'n/a',
        'Target': target_in_words(settings.harmonize.target_site),
        'Covariates': covariates_in_words(info),
        'AgeSpline': bool(info.design.knots),
        'RandomInterceptOfPeople': info.longitudinal,
        'ModelName': info.name,
        'ModelSHA256': used.sha256,
        **({MODEL_ROWS: info.digest} if info.digest else {}),
        'ModelSites': list(used.fitted_sites),
        'SitesMeasuredInTheseRows': list(used.calibrated),
        'RowsSHA256': inputs.digest,
        'SoftwareVersion': __version__,
    }


def target_in_words(target: str | None) -> str:
    """Where all sites were brought to."""
    return (
        f'site {target}, whose own values stay as they are'
        if target
        else 'the mean of all sites, weighted by their rows'
    )
