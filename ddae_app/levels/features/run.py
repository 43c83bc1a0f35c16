"""From the analysis level to what is done with a table of features."""

from __future__ import annotations

import numpy as np

from ddae_app.bids.layout import RunFiles
from ddae_app.features.model import read_features_info
from ddae_app.levels.features.harmonize import run_participant, run_train
from ddae_app.levels.features.inputs import read_inputs
from ddae_app.settings import Settings


def run_features(settings: Settings, logs: RunFiles) -> int:
    """Run a level on the table of ``--features``.

    Parameters
    ----------
    settings : Settings
    logs : RunFiles
        Of this run.

    Returns
    -------
    int
        The exit code.

    Raises
    ------
    DdaeError
        See the levels.
    """
    if settings.analysis_level == 'train':
        return run_train(settings)
    if settings.analysis_level == 'participant':
        return run_participant(settings, logs)
    # Imported here, since probes need torch.
    from ddae_app.levels.features.evaluate import run_group

    return run_group(settings)


def list_feature_targets(settings: Settings) -> int:
    """Print the sites that can be targets of a run, a line each, and what they are.

    Those of the rows come first, then others that the model of the run was fitted to, where
    there is one. Nothing is written, if the settings are those of a dry run.

    Returns
    -------
    int
        0.

    Raises
    ------
    DdaeError
        The table, the dataset or the model is not suitable.
    """
    inputs = read_inputs(settings)
    what = 'these maps' if inputs.table.maps else 'this table'
    here, counts = np.unique(inputs.labels.sites, return_counts=True)
    for site, n in zip(here.tolist(), counts.tolist(), strict=True):
        print(f'{site}\t{what}, {n} rows')
    files = inputs.files.model(settings.train.model_name)
    path = settings.harmonize.model or (files.model if files.is_made else None)
    if path is not None:
        info = read_features_info(path)
        for site, n in zip(info.sites, info.people, strict=True):
            if site not in here:
                print(f'{site}\t{info.name} ({path}), {n} people')
    return 0
