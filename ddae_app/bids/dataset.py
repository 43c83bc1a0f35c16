"""What makes the output folder a BIDS derivative dataset."""

from __future__ import annotations

import csv
import io
import json
import numbers
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import metadata
from itertools import chain, count
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ddae_app import __version__
from ddae_app.bids.layout import BIDSIGNORE, IMAGES, Layout, sidecar
from ddae_app.bids.measures import MEASURES
from ddae_app.bids.output_folder import PROGRAM, add_ignored, locked, read_description
from ddae_app.bids.sidecars import DESCRIPTIONS
from ddae_app.errors import InvalidBIDSError
from ddae_app.files import write_atomically
from ddae_app.settings import RAW

BIDS_VERSION = '1.11.1'

NAME = 'ddae-app: harmonized T1-weighted images'
"""The name of the output dataset, where the run does not give another."""

REMEDY = 'remove it, and run the participant level with --reports-only to have it made anew'


def write_description(
    output_dir: Path,
    bids_dir: Path,
    derivatives: Sequence[tuple[str, Path]] = (),
    container: Mapping[str, str] = MappingProxyType({}),
    name: str = NAME,
    not_bids: Sequence[str] = (),
) -> None:
    """Write what describes the output dataset; every job writes the same.

    That is ``dataset_description.json``, ``README.md``, ``.bidsignore`` and
    ``descriptions.tsv`` with its dictionary.

    Parameters
    ----------
    output_dir, bids_dir : Path
    derivatives : sequence of tuple of str and Path
        Other datasets from which files are taken, by name. Links of earlier runs stay, since
        their sidecars refer to them.
    container : mapping of str to str
        Of the run, as BIDS describes it; empty outside of one.
    name : str
        Of the output dataset.
    not_bids : sequence of str
        Patterns of further files that the validator does not know.
    """
    raw = read_description(bids_dir)
    license_, named = raw.get('License'), raw.get('Authors')
    authors = [a for a in named if isinstance(a, str) and a] if isinstance(named, list) else []
    authors = authors or ['not given by the source dataset']
    if len(authors) < 2:  # the validator warns of datasets with a single author
        authors.append('ddae-app (software)')
    description: dict[str, Any] = {
        'Name': name,
        'BIDSVersion': BIDS_VERSION,
        'DatasetType': 'derivative',
        'License': license_ if isinstance(license_, str) and license_ else 'as the source dataset',
        'Authors': authors,
        'GeneratedBy': [generator(container)],
        'SourceDatasets': [_source(bids_dir, raw)],
    }
    meanings = {image.desc: DESCRIPTIONS[image.desc] for image in IMAGES.values()}
    meanings['harmonized'] += f'. Without a space entity: {DESCRIPTIONS["native"]}'
    meanings['harmonized'] += '. Of a table, or a map on the cortex: without its site effects'
    rows = [{'desc_id': f'desc-{key}', 'description': text} for key, text in meanings.items()]
    dictionary = {
        'Description': 'Meaning of the desc- labels',
        'desc_id': {'Description': 'Value of the desc entity'},
        'description': {'Description': 'What an image with this label shows'},
    }
    layout = Layout(output_dir)
    # Jobs that take scans from different datasets must not give them the same name.
    with locked(layout.description):
        links = link_names(output_dir, derivatives)
        description['DatasetLinks'] = _links(output_dir) | {
            name: _relative(folder, output_dir)
            for name, folder in {RAW: bids_dir, **links}.items()
        }
        # What people added to a description, or wrote in place of our texts, is theirs.
        write_json(layout.description, read_description(output_dir) | description)
    if _README_MARK in _text(layout.readme, _README):
        write_atomically(layout.readme, _README)
    add_ignored(output_dir, [*BIDSIGNORE.splitlines(), *not_bids])
    write_atomically(layout.labels, to_tsv(rows))
    write_json(sidecar(layout.labels), dictionary)


def generator(container: Mapping[str, str]) -> dict[str, Any]:
    """This program, with the address of its code where the package names one."""
    urls = metadata('ddae-app').get_all('Project-URL') or []
    named = dict(url.split(', ', 1) for url in urls)
    return {
        'Name': PROGRAM,
        'Version': __version__,
        **({'CodeURL': named['Source']} if 'Source' in named else {}),
        **({'Container': dict(container)} if container else {}),
    }


def _links(folder: Path) -> dict[str, str]:
    """The datasets to which an earlier run linked."""
    links = read_description(folder).get('DatasetLinks')
    items = links.items() if isinstance(links, dict) else ()
    return {name: link for name, link in items if isinstance(link, str)}


def link_names(output_dir: Path, derivatives: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """The names in ``DatasetLinks`` of other datasets, and their folders.

    A folder keeps the name that an earlier run gave it, and a new one gets a name that no other
    has, since sidecars of earlier runs refer to it. The output folder itself needs no name.
    """
    root = os.path.realpath(output_dir)
    known = {name: _target(link, root) for name, link in _links(output_dir).items()}
    named = {}
    for wanted, folder in derivatives:
        if folder == output_dir:
            continue
        target = os.path.realpath(folder)
        same = (name for name, where in known.items() if where == target)
        numbered = (f'{wanted}-{number}' for number in count(2))
        unused = (name for name in chain([wanted], numbered) if name not in known)
        name = next(chain(same, unused))
        known[name] = target
        named[name] = folder
    return named


def source_of(folder: Path) -> Path | None:
    """The dataset, without links, of which an earlier run made what a folder holds.

    Parameters
    ----------
    folder : Path
        It need not be there.

    Returns
    -------
    Path or None
        Where the dataset was at that time; None if the folder does not say.
    """
    link = _links(folder).get(RAW)
    target = None if link is None else _target(link, os.path.realpath(folder))
    return Path(target) if target else None


def file_of(folder: Path, uri: str) -> Path | None:
    """The file, without links, that a BIDS URI means in a sidecar of a folder.

    Parameters
    ----------
    folder : Path
        A dataset; the datasets that it links to are where they were at its latest run.
    uri : str
        ``bids:<name>:<path>``.

    Returns
    -------
    Path or None
        It need not be there; None if nothing says where it is, or it is not on this disk.
    """
    scheme, _, rest = uri.partition(':')
    name, colon, path = rest.partition(':')
    link = _links(folder).get(name) if name else '.'
    if scheme != 'bids' or not colon or link is None:
        return None
    target = _target(link, os.path.realpath(folder))
    return Path(target, path) if target else None


def _target(link: str, root: str) -> str | None:
    """The folder to which an entry of ``DatasetLinks`` points; None if it is not on this disk."""
    parts = urlsplit(link)
    if parts.scheme not in ('', 'file'):
        return None
    return os.path.realpath(Path(root, unquote(parts.path)))


def _relative(folder: Path, output_dir: Path) -> str:
    """The way from the output folder to another, as BIDS wants links.

    The system follows ``..`` from where a link leads, so both ends are taken without links.
    """
    way = os.path.relpath(os.path.realpath(folder), os.path.realpath(output_dir))
    return quote(Path(way).as_posix())


def dataset_name(bids_dir: Path) -> str:
    """The name that a dataset gives itself."""
    return str(read_description(bids_dir).get('Name') or bids_dir.name)


def license_of(bids_dir: Path) -> str:
    """What a dataset says that its data may be used for."""
    return str(read_description(bids_dir).get('License') or 'not stated')


def is_phantom(bids_dir: Path) -> bool:
    """Whether a dataset was written by ``ddae-phantom``."""
    generators = read_description(bids_dir).get('GeneratedBy')
    return isinstance(generators, list) and any(
        isinstance(g, dict) and g.get('Name') == 'ddae-phantom' for g in generators
    )


def update_scans(tables: Mapping[Path, Mapping[str, Mapping[str, Any] | None]]) -> None:
    """Put the quality of scans into their tables, keeping what other runs wrote there.

    Parameters
    ----------
    tables : mapping of Path to mapping of str to mapping
        By table and by name of the image in it: its measures by name, see
        :data:`ddae_app.bids.measures.MEASURES`; None for one that is no longer measured. Instead
        of measures, None for an image that no longer has a row.
    """
    dictionary = {name: measure.dictionary for name, measure in MEASURES.items()}
    meaning = {'Description': 'Quality measures of each scan', **dictionary}
    for path, rows in tables.items():
        with locked(path):
            earlier = read_scans(path) if path.is_file() else []
            known: dict[str, dict[str, Any]] = {row['filename']: {**row} for row in earlier}
            for name, row in rows.items():
                before = known.pop(name, {})
                if row is not None:
                    # No column for what has never been measured.
                    kept = {*before, *(k for k, v in row.items() if v is not None)}
                    now = {k: v for k, v in row.items() if k in kept or k not in MEASURES}
                    known[name] = {'filename': name, **before, **now}
            write_atomically(path, to_tsv([row for _, row in sorted(known.items())]))
            write_json(sidecar(path), meaning)


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a table that this program wrote."""
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file, delimiter='\t', restval='n/a'))


def read_scans(path: Path) -> list[dict[str, str]]:
    """Rows of a ``*_scans.tsv`` that this program wrote.

    Raises
    ------
    InvalidBIDSError
        It is another table, or damaged.
    """
    try:
        rows = read_tsv(path)
    except (UnicodeDecodeError, csv.Error) as e:
        raise InvalidBIDSError(f'{path}: not readable as a UTF-8 table ({e}); {REMEDY}') from e
    if not all(row.get('filename') and None not in row for row in rows):
        raise InvalidBIDSError(
            f'{path}: rows without a filename, or longer than the header; {REMEDY}'
        )
    return rows


def to_tsv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as BIDS wants tables: tabs, n/a where there is nothing."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, delimiter='\t', lineterminator='\n', quoting=csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return out.getvalue()


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + '\n')


def _cell(value: Any) -> str:
    if value is None or value == '' or value != value:
        return 'n/a'
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return f'{float(value):.5g}'
    return ' '.join(str(value).split()) or 'n/a'


def _text(path: Path, default: str) -> str:
    try:
        return path.read_text(encoding='utf-8', errors='replace')
    except FileNotFoundError:
        return default


def _source(bids_dir: Path, raw: dict[str, Any]) -> dict[str, str]:
    doi = raw.get('DatasetDOI')
    return {'DOI': doi} if isinstance(doi, str) and doi else {'URL': bids_dir.absolute().as_uri()}


_README_MARK = 'Written by ddae-app'
"""Where it is missing, somebody wrote another text."""

_README = """# Harmonized T1-weighted images

Written by ddae-app: each T1w image of the source dataset registered to an MNI152 template,
bias-corrected, stripped of the skull, and rendered as if acquired at one target site.

- `desc-preproc`: preprocessed image in template space, brain only
- `desc-brain_mask`: brain mask
- `from-T1w_to-*_xfm.txt`: affine in ITK's format, resamples the T1w into template space
- `desc-slices`: axial slices as the network sees them, brain scaled to [0, 1]
- `desc-harmonized`: the same slices at the target site; without `space`, where the model knows
  all slices, the scan itself in its own space, of which only the brain differs
- `desc-siteeffect`: what harmonization added, where it was asked for
- `features/`: tables of features that were harmonized instead of images; the JSON beside each
  names the method, and so does that of a map on the cortex (`desc-harmonized` of other suffixes)
- `models/`: models that were made in this folder, each with its card
- `targets/`: reference scans that were given as the target, preprocessed, with their model
- `sub-*_scans.tsv`: quality measures of each scan, explained in the JSON beside it
- `sub-*.html`: a page per participant, with its pictures in `sub-*/figures/`
- `group_*`: the evaluation of all participants
- `logs/`: settings and log of each run

Intensities of `desc-slices` and of `desc-harmonized` in template space times the sidecar's
`IntensityScale` are on the scale of `desc-preproc`.
"""
