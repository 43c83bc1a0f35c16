"""Which flags go with --features, which only with it, and which without."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass

from ddae_app.errors import UsageError
from ddae_app.settings import OWN_DERIVATIVES, SURFER_STATS, Settings, read_derivative

TAKEN = {
    'skip_bids_validation', 'site_column', 'source_site', 'target_site', 'model', 'method',
    'allow_few_scans', 'allow_confounding', 'model_name', 'features', 'age_spline', 'random_seed',
    'work_dir', 'clean_workdir', 'nprocs', 'omp_nthreads', 'mem_mb', 'low_mem', 'notrack',
    'verbose_count', 'container',
}  # fmt: skip
"""Settings that mean something for a table, or that say how any run is carried out."""

TAKEN_OF_FILES = TAKEN | {'derivatives'}
"""Those of a table that is read from stats files, and of maps on the cortex."""

TAKEN_OF_MAPS = TAKEN_OF_FILES | {'participant_label'}
"""Those of maps at the participant level, of which each person has files of their own."""

FROM_ENVIRONMENT = {'hd_bet_weights', 'templateflow_home'}
"""Settings that have a value although no flag gave it."""

METHODS = ('combat', 'ddae')


def check_feature_flags(settings: Settings, given: Collection[str]) -> None:
    """Refuse flags that mean nothing for what is harmonized.

    Parameters
    ----------
    settings : Settings
    given : collection of str
        Names of the flags of the command line.

    Raises
    ------
    UsageError
        With the flag.
    """
    if settings.table.features is None:
        if settings.table.age_spline:
            raise UsageError(
                '--age-spline is for tables; name one with --features, or leave it out'
            )
        return
    stats, measure = settings.table.surfer_stats, settings.table.measure
    taken = TAKEN_OF_FILES if stats or measure else TAKEN
    if measure and settings.analysis_level == 'participant':
        taken = TAKEN_OF_MAPS
    plain = Settings(settings.bids_dir, settings.output_dir, settings.analysis_level)
    for group in fields(settings):
        section, default = (getattr(s, group.name) for s in (settings, plain))
        for item in fields(section) if is_dataclass(section) else ():
            name, usual = item.name, getattr(default, item.name)
            changed = getattr(section, name) != usual and name not in FROM_ENVIRONMENT
            if name not in taken and (changed or name in given):
                what = 'maps on the cortex' if measure else 'a table'
                raise UsageError(
                    f'--{name.replace("_", "-")} means nothing with --features at the '
                    f'{settings.analysis_level} level, which takes {what} and no scans; leave it '
                    'out'
                )
    named = [read_derivative(entry)[0] for entry in settings.select.derivatives]
    if stats and (not named or OWN_DERIVATIVES in named):
        raise UsageError(
            f'--features {stats}: name the folder of the people that FreeSurfer or FastSurfer '
            'wrote, SUBJECTS_DIR, as -d freesurfer=PATH'
        )
    if measure and (not named or OWN_DERIVATIVES in named):
        raise UsageError(
            f'--features {measure}: name the folder of the maps, the outputs of sMRIPrep or '
            'fMRIPrep or the SUBJECTS_DIR of FreeSurfer, as -d NAME=PATH (a table would end with '
            f'.tsv or .csv; stats files are {", ".join(SURFER_STATS)})'
        )
    if (method := settings.harmonize.method) not in (None, *METHODS):
        raise UsageError(
            f'--method {method} is for images; --features takes {" or ".join(METHODS)}'
        )
    if settings.harmonize.model and settings.analysis_level != 'participant':
        raise UsageError(
            f'--model means nothing with --features at the {settings.analysis_level} level; leave '
            'it out'
        )
