"""From the analysis level to what is done with a table of features."""

from __future__ import annotations

from ddae_app.bids.layout import RunFiles
from ddae_app.levels.features.harmonize import run_participant, run_train
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
