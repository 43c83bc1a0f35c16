"""All kinds of untrusted input: an example of each, and how the program reads it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort, read_cohort
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.provenance import read_record
from ddae_app.bids.query import read_filters
from ddae_app.bids.scan import Scan
from ddae_app.bids.understood import facts, warnings
from ddae_app.cli.main import resolve
from ddae_app.cli.parser import build_parser
from ddae_app.engine.inputs import space_of
from ddae_app.imaging.brain import given_mask
from ddae_app.imaging.conform import conform, load_t1w
from ddae_app.levels.group.level import quality_of_all
from ddae_app.levels.participant.results import Results, write_results
from ddae_app.methods.find import find_model
from ddae_app.reports.group import write_group_report
from ddae_app.settings import Protocol, from_flat, read_flat, to_toml


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes
    ----------
    example : tuple of bytes
        The parts of a valid input: files, or arguments of a command line.
    read : callable
        Reads such parts in an empty folder, as the program does.
    header : int or None
        Number of bytes at the start of the first part that are worth mutating most.
    """

    example: tuple[bytes, ...]
    read: Callable[[tuple[bytes, ...], Path], object]
    header: int | None = None


def nifti(folder: Path) -> Kind:
    """A small image."""
    data = np.arange(24 * 24 * 24, dtype=np.int16).reshape(24, 24, 24)

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        file = path / 'sub-01_T1w.nii'
        file.write_bytes(parts[0])
        return conform(load_t1w(file))

    image = nib.Nifti1Image(data, np.diag([5.0, 5.0, 5.0, 1.0]))
    return Kind((image.to_bytes(),), read, 348)


def brain_mask(folder: Path) -> Kind:
    """A brain mask of the user."""
    return _mask(nib.Nifti1Image, 'mask.nii', 352)


def surfer_mask(folder: Path) -> Kind:
    """A brain mask of FreeSurfer."""
    return _mask(nib.MGHImage, 'mask.mgh', 284)


def _mask(kind: type, name: str, header: int) -> Kind:
    ball = np.linalg.norm(np.indices((24, 24, 24)) - 11.5, axis=0) < 9
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    scan = nib.Nifti1Image(500 * ball.astype(np.float32), affine)

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        file = path / name
        file.write_bytes(parts[0])
        return given_mask(scan, file)

    return Kind((kind(ball.astype(np.uint8), affine).to_bytes(),), read, header)


def table(folder: Path) -> Kind:
    """participants.tsv and its dictionary."""
    rows = b'participant_id\tage\tsex\tsite\nsub-01\t30\tF\tA\nsub-02\t89+\tmale\tn/a\n'
    levels = {'age': {'Units': 'year'}, 'sex': {'Levels': {'F': 'female'}}}

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        (path / 'participants.tsv').write_bytes(parts[0])
        (path / 'participants.json').write_bytes(parts[1])
        scans = [Scan(path / 'x.nii', label, None, f'sub-{label}') for label in ('01', '02')]
        cohort = read_cohort(path, scans)
        return [*facts(cohort, scans), *warnings(cohort, scans, ScanMetadata(path))]

    return Kind((rows, json.dumps(levels).encode()), read)


def filters(folder: Path) -> Kind:
    """A BIDS filter file."""

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        (path / 'filters.json').write_bytes(parts[0])
        return read_filters(path / 'filters.json')

    example = {'t1w': {'session': ['01', None], 'acquisition': '*', 'run': 1}}
    return Kind((json.dumps(example).encode(),), read)


def results(folder: Path) -> Kind:
    """Sidecars and the table of an earlier run, as pages and the group level read them."""
    scan, space = Scan(Path('sub-01_T1w.nii'), '01', None, 'sub-01'), space_of(Protocol())
    model = sidecars.ModelFacts('DDAE', 'm', 'f' * 64, False)
    made = {'MadeFrom': {'RawSHA256': 'ab', 'Grid': [1, 2, 3]}, 'cjv': 0.5}
    brain = sidecars.preproc(space, ['bids:raw:x'], Extraction('template')) | made
    rendered = sidecars.harmonization(model, Covariates('A'), 'B', 'refuse') | {
        'Device': 'cpu', 'SamplingSteps': 4, 'Denoised': True, 'LabelBlind': False,
        'target_distance_before': 0.2, 'target_distance_after': 0.1, 'anatomy_flag': 'none',
    }  # fmt: skip
    rows = b'filename\tsource_site\tcjv\nanat/sub-01_T1w.nii.gz\tA\t0.5\n'

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        flags = {'bids_dir': path / 'in', 'output_dir': path, 'analysis_level': 'participant'}
        settings = from_flat(flags)
        layout = Layout(path).in_space(space)
        image = layout.image('preproc', scan)
        files = (
            sidecar(image),
            sidecar(layout.image('harmonized', scan)),
            layout.scans_table(scan),
        )
        for file, content in zip(files, parts, strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        cohort = Cohort({scan.stem: Covariates('A')}, 'site', ())
        results = Results(settings, layout, cohort, None, layout.run('log'), '')
        write_results(results, [scan], {})
        rows, pages = quality_of_all(layout)
        write_group_report(layout.group_page, rows, {}, pages)
        return read_record(image), layout.group_page.read_text()

    texts = (json.dumps(brain).encode(), json.dumps(rendered).encode(), rows)
    return Kind(texts, read)


def settings(folder: Path) -> Kind:
    """A settings file, with every setting in it."""
    some = {'bids_dir': 'in', 'output_dir': 'out', 'analysis_level': 'train', 'biology': ['a']}

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        (path / 'settings.toml').write_bytes(parts[0])
        return read_flat(path / 'settings.toml')

    example = to_toml(from_flat(some | {'target_site': 'A', 'max_hours': 2.5}))
    return Kind((example.encode(),), read)


def bundle(folder: Path) -> Kind:
    """A model file: the length of its header, the header, and the first weights."""
    model = find_model(None, None, ()).path.read_bytes()
    header = 8 + int.from_bytes(model[:8], 'little')
    start = model[: header + 4096]

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        (path / 'model.safetensors').write_bytes(parts[0] + model[len(start) :])
        return find_model(path / 'model.safetensors', None, ())

    return Kind((start,), read, header)


def arguments(folder: Path) -> Kind:
    """A command line; argparse ends with 2 what it cannot read."""
    words = (
        'participant', '--target-site', 'A', '--nprocs', '2', '--mem', '4G', '-w', 'W', '--device',
        'cpu', '-v', '--max-hours', '1.5', '--random-seed', '3', '--stage', 'all',
    )  # fmt: skip

    def read(parts: tuple[bytes, ...], path: Path) -> object:
        # No word may lead out of this folder, and the system hands over none that holds a NUL.
        given = (part.decode('utf-8', 'replace') for part in parts)
        line = [text.replace('\0', '0').replace('/', '_') for text in given]
        (path / 'bids').mkdir()
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                words = vars(build_parser().parse_args([f'{path}/bids', f'{path}/out', *line]))
            except SystemExit as e:
                return e.code
            return resolve(words | {'work_dir': path / 'work'}, {'HOME': '/nowhere'})

    return Kind(tuple(word.encode() for word in words), read)


KINDS = {
    f.__name__: f
    for f in (
        nifti, brain_mask, surfer_mask, table, filters, results, settings, bundle, arguments,
    )
}  # fmt: skip
