"""The harmonized table and its sidecar."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddae_app import __version__
from ddae_app.bids.dataset import generator, write_json
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.tables import read_dictionary
from ddae_app.features.model import FeatureModelInfo
from ddae_app.features.table import PERSON, SESSION
from ddae_app.files import digest_of, write_atomically
from ddae_app.levels.features.dataset import datasets
from ddae_app.levels.features.inputs import FeatureInputs
from ddae_app.levels.features.used import UsedModel
from ddae_app.methods.registry import METHODS
from ddae_app.settings import Settings


def write_harmonized(
    settings: Settings, inputs: FeatureInputs, used: UsedModel, values: np.ndarray
) -> None:
    """Write the table after its sidecar.

    Parameters
    ----------
    settings : Settings
    inputs : FeatureInputs
    used : UsedModel
    values : np.ndarray, shape (N, F)
        Harmonized; NaN where missing.
    """
    path = inputs.files.harmonized
    write_json(sidecar(path), _sidecar(settings, inputs, used))
    write_atomically(path, inputs.table.written(values))


def covariates_in_words(info: FeatureModelInfo) -> list[str]:
    """What the model protects, age as a curve or a straight line."""
    knots = ', '.join(f'{knot:.4g}' for knot in info.design.knots)
    age = f'age (natural cubic spline, knots at {knots} years)' if knots else 'age (straight line)'
    return [age, 'sex']


def _sidecar(settings: Settings, inputs: FeatureInputs, used: UsedModel) -> dict[str, Any]:
    """What was done, and what each column is; what the user's own JSON says of it stays."""
    layout, info, table = Layout(settings.output_dir), used.model.info, inputs.table
    links = datasets(settings)
    sources = [table.path, settings.bids_dir / 'participants.tsv']
    own = read_dictionary(table.path.with_suffix('.json'))
    columns: dict[str, Any] = {}
    for name in table.header:
        said = own.get(name.lower(), {})
        if name in (PERSON, SESSION):
            columns[name] = said or {'Description': 'Label as in the source dataset'}
            continue
        done = 'as the source has it' if name in info.constant else 'without its site effects'
        what = said.get('Description') or f'Column {name} of {table.path.name}'
        columns[name] = {**said, 'Description': f'{what}; {done}'}
    record = {
        'Description': f'{table.path.name}, harmonized',
        'GeneratedBy': [generator(settings.run.container)],
        'Sources': [layout.uri(path, links) for path in sources if path.is_file()],
        'HarmonizationMethod': METHODS[info.method].label,
        'TargetSite': settings.harmonize.target_site or 'n/a',
        'Target': target_in_words(settings.harmonize.target_site),
        'Covariates': covariates_in_words(info),
        'AgeSpline': bool(info.design.knots),
        'RandomInterceptOfPeople': info.longitudinal,
        'ModelName': info.name,
        'ModelSHA256': used.sha256,
        'ModelSites': list(info.sites),
        'SourceSHA256': digest_of(table.path),
        'SoftwareVersion': __version__,
    }
    # A column that bears the name of an entry of the record goes without a description.
    return record | {name: said for name, said in columns.items() if name not in record}


def target_in_words(target: str | None) -> str:
    """Where all sites were brought to."""
    return (
        f'site {target}, whose own values stay as they are'
        if target
        else 'the mean of all sites, weighted by their rows'
    )
