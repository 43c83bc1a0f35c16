"""Settings: frozen dataclasses, passed as arguments, saved as TOML; never global."""

from __future__ import annotations

import os
import re
import tomllib
import unicodedata
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import msgspec
import tomli_w

from ddae_app.errors import UsageError
from ddae_app.methods.registry import trainable

CALIBRATED = 'calibrated'
"""The preset that trains no network."""

CHOICES = {
    'analysis_level': ('participant', 'train', 'group'),
    'skull_strip': ('auto', 'hd-bet', 'deepbet', 'template', 'none'),
    'slices': ('medial', 'all'),
    'unseen_site': ('auto', 'agnostic', 'adapt', 'refuse'),
    'stage': ('all', 'preproc', 'harmonize'),
    'preset': ('auto', CALIBRATED, 'tiny', 'base', 'paper'),
    'precision': ('auto', 'fp32', 'bf16'),
}
"""The allowed words of settings that are one of a few; see :func:`choices`."""

PATTERNS = {
    'device': (r'auto|cpu|cuda(:\d+)?', 'auto, cpu, cuda or cuda:N'),
    'model_name': (
        r'[A-Za-z0-9][\w.+-]{0,99}(?<!_features)',
        'letters, digits and any of . _ + -, at most 100, and not _features at the end',
    ),
}
"""The form of other words, as a pattern and in words."""

LEAST = {
    'nprocs': 1, 'omp_nthreads': 1, 'mem_mb': 1, 'train_images': 1, 'random_seed': 0,
    'verbose_count': 0, 'max_hours': 0,
}  # fmt: skip
"""Lower bounds of the numbers."""

SURFER_STATS = ('aparc', 'aparc.a2009s', 'aparc.DKTatlas', 'aseg')
"""What ``--features`` reads from the stats files of FreeSurfer and FastSurfer, in words."""
WORD = re.compile('|'.join(map(re.escape, SURFER_STATS)) + '|[A-Za-z]+')

OWN_DERIVATIVES = 'ddae-app'
"""The name by which ``--derivatives`` takes outputs of this program."""

RAW = 'raw'
"""The name of the input in BIDS URIs and in ``DatasetLinks``."""

MAX_SEED, MAX_NAME = 2**31 - 1, 200


@dataclass(frozen=True)
class Protocol:
    """How a scan becomes model input; every model file carries the one it was trained with.

    Attributes
    ----------
    template : str
        TemplateFlow identifier of the space.
    grid : tuple of int
        Voxels along x, y, z over the template's field of view (paper: 130, 130, 130).
    slices : {'medial', 'all'}
        Which axial slices are taken: the middle one of the grid, as in the paper, or every one.
    slice_shape : tuple of int
        Center crop of each slice (paper: 128, 128).
    intensity_percentile : float
        Percentile of the brain's intensities that becomes 1 (0 stays 0); 100 is the maximum.
        On sixteen scans the 99.5th is 1.04 to 1.06 times the 95th; the 99.9th, which bright
        vessels reach, is 1.06 to 1.49 times. Where even this percentile is far brighter than
        tissue, :func:`~ddae_app.imaging.intensities.brain_scale` leaves such voxels out.
    """

    template: str = 'MNI152NLin2009aSym'
    grid: tuple[int, int, int] = (130, 130, 130)
    slices: str = 'medial'
    slice_shape: tuple[int, int] = (128, 128)
    intensity_percentile: float = 99.5

    @property
    def depth(self) -> int:
        """Slices of a scan."""
        return self.grid[2] if self.slices == 'all' else 1


def protocol_from(values: dict[str, Any]) -> Protocol:
    """A protocol from its fields, lists for tuples, as JSON and nipype hold them."""
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Protocol(**arguments)


@dataclass(frozen=True)
class SelectSettings:
    """Which scans, and what is known about them; see the flags of the same names."""

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filter_file: Path | None = None
    bids_database_dir: Path | None = None
    skip_bids_validation: bool = False
    derivatives: tuple[str, ...] = ()
    site_column: str | None = None
    source_site: str | None = None


@dataclass(frozen=True)
class PreprocSettings:
    """How scans are brought to the model's grid."""

    skull_strip: str = 'auto'
    brain_mask_filter: Path | None = None
    hd_bet_weights: Path | None = None
    hd_bet_sha256: str | None = None
    template: str | None = None
    templateflow_home: Path | None = None
    slices: str | None = None
    sloppy: bool = False


@dataclass(frozen=True)
class HarmonizeSettings:
    """What is done to the slices."""

    target_site: str | None = None
    target_scans: Path | None = None
    model: Path | None = None
    method: str | None = None
    unseen_site: str = 'auto'
    keep_noise: bool = False
    write_site_effect: bool = False
    stage: str = 'all'
    device: str = 'auto'


@dataclass(frozen=True)
class TrainSettings:
    """How a model is trained."""

    preset: str = 'auto'
    train_images: int | None = None
    precision: str = 'auto'
    max_hours: float | None = None
    init_from: Path | None = None
    allow_few_scans: bool = False
    allow_confounding: bool = False
    model_name: str | None = None


@dataclass(frozen=True)
class TableSettings:
    """A table, by its path or one of ``SURFER_STATS``, or maps, by any other word, not scans."""

    features: Path | None = None
    age_spline: bool = False

    @property
    def surfer_stats(self) -> str | None:
        """What is read from stats files; None where a table is."""
        return word if (word := str(self.features)) in SURFER_STATS else None

    @property
    def measure(self) -> str | None:
        """The measure of maps on the cortex; None where there is a table, or nothing."""
        return w if (w := str(self.features or '')).isalpha() and not self.surfer_stats else None


@dataclass(frozen=True)
class EvaluateSettings:
    """What the group level evaluates."""

    biology: tuple[str, ...] = ()
    inception_weights: Path | None = None


@dataclass(frozen=True)
class RunSettings:
    """How the work is carried out; changes no result.

    ``container`` is the container of the run as BIDS describes it, empty outside of one; it is
    what the environment says, whatever a settings file of an earlier run does.
    """

    work_dir: Path = Path('work')
    clean_workdir: bool = False
    nprocs: int = 1
    omp_nthreads: int = 1
    mem_mb: int | None = None
    low_mem: bool = False
    use_plugin: Path | None = None
    dry_run: bool = False
    boilerplate_only: bool = False
    reports_only: bool = False
    write_graph: bool = False
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    notrack: bool = False
    verbose_count: int = 0
    container: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Everything that one run was asked to do."""

    bids_dir: Path
    output_dir: Path
    analysis_level: str
    random_seed: int = 0
    select: SelectSettings = field(default_factory=SelectSettings)
    preproc: PreprocSettings = field(default_factory=PreprocSettings)
    harmonize: HarmonizeSettings = field(default_factory=HarmonizeSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    table: TableSettings = field(default_factory=TableSettings)
    run: RunSettings = field(default_factory=RunSettings)


def to_toml(settings: Settings) -> str:
    """Settings as TOML; what is not set is left out, since TOML has no null."""
    return tomli_w.dumps(_plain(settings))


def read_flat(path: Path) -> dict[str, Any]:
    """Read a settings file back, as one value per flag.

    Raises
    ------
    UsageError
        Not readable, not TOML, a name that is no setting, or a value that none may have.
    """
    try:
        content = tomllib.loads(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f'--config-file {path}: not readable as TOML ({e})') from e
    flat = {key: value for key, value in content.items() if not isinstance(value, dict)}
    for section in (value for value in content.values() if isinstance(value, dict)):
        flat |= section
    hints = flag_types()
    if unknown := sorted(set(flat) - set(hints)):
        raise UsageError(
            f'--config-file {path}: {unknown[0]!r} is no setting; a file of an earlier run, '
            'logs/<run id>/settings.toml, shows what there is'
        )
    try:
        return {name: _convert(name, value, hints[name]) for name, value in flat.items()}
    except UsageError as e:
        raise UsageError(f'--config-file {path}: {e}') from e


def from_flat(values: dict[str, Any]) -> Settings:
    """Settings from one value per flag; values that are not given keep their defaults.

    Paths become absolute here, since steps of a run have current folders of their own.

    Raises
    ------
    UsageError
        A value is of the wrong type, or none of those that there are.
    """
    return _build(Settings, values)


def absolute(path: Any, what: str) -> Path:
    """The absolute path of what a user named relative to the current folder, or to ``~``.

    Links are not followed: the files beside a link may matter, and not those beside its target.

    Parameters
    ----------
    path : str or Path
    what : str
        Who names it, for the message.

    Raises
    ------
    UsageError
        It cannot be a path, or the settings file of the run could not hold it.
    """
    text = str(path) if isinstance(path, str | Path) else ''
    if not text or '\0' in text or any(unicodedata.category(c) == 'Cs' for c in text):
        raise UsageError(f'{what} is {path!r}; expected a path, in UTF-8')
    full = Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - ~ may be a folder's name
    plain = os.path.normpath(full)
    # The parent of a link's target is another folder than the one that holds the link.
    return Path(plain) if os.path.realpath(plain) == os.path.realpath(full) else full


def read_derivative(entry: str) -> tuple[str, Path]:
    """The name and the folder of an entry of ``--derivatives``, ``NAME=PATH``.

    A path alone is one of our own outputs.

    Raises
    ------
    UsageError
        It cannot be a name in BIDS URIs, or there is no path.
    """
    name, equals, path = entry.partition('=')
    if not equals or '/' in name:  # a path may hold the sign as well
        name, path = OWN_DERIVATIVES, entry
    if name == RAW or not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name, re.ASCII) or not path:
        raise UsageError(
            f'--derivatives {entry}: expected NAME=PATH, the name of letters and digits, and not '
            f'{RAW!r}'
        )
    return name, absolute(path, '--derivatives')


def is_name(text: str) -> bool:
    """Whether a text can name a site or a model: names reach tables, pages and terminals."""
    odd = {'Cc', 'Cs', 'Zl', 'Zp'}.intersection(map(unicodedata.category, text))
    return 1 <= len(text) <= MAX_NAME and not odd


def choices(name: str) -> tuple[str, ...] | None:
    """The words that a setting may be, if it is one of a few."""
    return trainable() if name == 'method' else CHOICES.get(name)


def check_value(name: str, value: Any) -> None:
    """Refuse a value of the right type that means nothing.

    Raises
    ------
    ValueError
        With what was expected.
    """
    expected, words = None, choices(name)
    if words and value not in words:
        expected = ' or '.join(words)
    elif name in PATTERNS and not re.fullmatch(PATTERNS[name][0], value):
        expected = PATTERNS[name][1]
    elif name in LEAST and not value >= LEAST[name]:  # NaN is not either
        expected = f'{LEAST[name]} or more'
    elif name == 'random_seed' and value > MAX_SEED:
        expected = f'0 to {MAX_SEED}'
    if expected:
        raise ValueError(f'{value!r}: expected {expected}')


def flag_names() -> list[str]:
    """The names of all settings, without their sections."""
    return list(flag_types())


def flag_types() -> dict[str, Any]:
    """The types of all settings by name, without their sections."""
    hints: dict[str, Any] = {}
    for name, hint in get_type_hints(Settings).items():
        hints |= get_type_hints(hint) if is_dataclass(hint) else {name: hint}
    return hints


def _build(kind: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for item in fields(kind):
        hint = hints[item.name]
        if is_dataclass(hint):
            arguments[item.name] = _build(hint, values)  # type: ignore[arg-type]
        elif values.get(item.name) is not None:
            arguments[item.name] = _convert(item.name, values[item.name], hint)
    return kind(**arguments)


def _convert(name: str, value: Any, hint: Any) -> Any:
    value = str(value) if isinstance(value, Path) else value
    if name == 'features' and isinstance(value, str) and WORD.fullmatch(value):
        return Path(value)
    try:
        converted = msgspec.convert(
            value, hint, dec_hook=lambda _, text: absolute(text, f'setting {name}')
        )
        if name == 'derivatives':
            converted = tuple('='.join(map(str, read_derivative(e))) for e in converted)
        check_value(name, converted)
    except msgspec.ValidationError as e:
        kind = 'a list of texts' if get_origin(hint) is tuple else getattr(hint, '__name__', hint)
        raise UsageError(f'setting {name} is {value!r}; expected {kind}') from e
    except ValueError as e:
        raise UsageError(f'setting {name} is {e}') from e
    return converted


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        items = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: _plain(v) for name, v in items if v is not None}
    value = str(value) if isinstance(value, Path) else value
    return list(value) if isinstance(value, tuple) else value
