"""``ddae-app-file T1W OUT --target-site IXI``: one scan, without a BIDS dataset."""

from __future__ import annotations

import argparse
import base64
import fcntl
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from markupsafe import escape

from ddae_app import __version__
from ddae_app.cli import main as app
from ddae_app.cli import runtime
from ddae_app.cli.main import TARGET_HELP
from ddae_app.errors import DdaeError, UsageError
from ddae_app.files import not_fetched, write_atomically
from ddae_app.processes import StopRequest
from ddae_app.settings import OWN_DERIVATIVES, absolute, read_derivative, read_flat

log = logging.getLogger('ddae_app')

SITE = 'its own scanner'
"""The site of the one scan, as pictures and the methods text call it; no model knows it."""

PARTICIPANT = 'sub-onescan'
"""The name of the scan in the dataset that is made of it; reference scans hardly have it."""

OF_A_DATASET = re.compile(
    rf"input: 1 T1w .*|sites \(column 'site'\): {SITE} 1|(age|sex) unknown .*|"
    rf'no site has \d+ participants, so .*|.* that are not listed, .*|[01] of 1 T1w done'
)
"""What the participant level tells of the dataset that is made of the scan."""

OTHERWISE_SAID = (
    # It adds this to an error of a target, since there could be more scans.
    (re.compile(r'; no site of the dataset has \d+ participants$'), ''),
    # Nothing is kept to resume from, and no file of details.
    (re.compile(r'(?<=; run the same command again) to resume$'), ', which starts anew'),
    (re.compile(r'; details in .*/crash-[^/]*\.txt$'), '; run ddae-app, which keeps the details'),
)
"""What it says at the end of a message, and what is told instead."""

ALONE = (
    'what the scanner does to all scans alike is estimated from this scan alone, which removes '
    "some of what is its subject's own"
)

ENDINGS = '.nii.gz', '.nii'

OTHERWISE = {
    'slices': lambda value: value != 'all',
    'stage': lambda value: value != 'all',
    'boilerplate_only': bool,
    'reports_only': bool,
    'write_site_effect': bool,
}
"""Flags of the participant level, and with which values they ask for something else than OUT."""

OF_OTHER_SCANS = {
    'participant_label': bool,
    'session_label': bool,
    'bids_database_dir': bool,
    'site_column': bool,
    'source_site': bool,
    'brain_mask_filter': bool,
    # Scans of --target-scans may be preprocessed already.
    'derivatives': lambda value: any(read_derivative(d)[0] != OWN_DERIVATIVES for d in value),
    'unseen_site': lambda value: value in ('adapt', 'refuse'),
}
"""Those with which there has to be a dataset, with tables, labels or masks, or other scans."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddae-app-file``."""
    parser = argparse.ArgumentParser(
        prog='ddae-app-file',
        usage='%(prog)s T1W OUT [--target-site NAME | --target-scans PATH] [flags of ddae-app]',
        description='Harmonize one T1-weighted scan, with the steps and checks of ddae-app. The '
        'scan stays in its own space. What its scanner does to all scans alike is estimated from '
        'this scan alone; where there are five or more scans of it, use ddae-app.',
        epilog='All other flags are those of the participant level of ddae-app.',
    )
    add = parser.add_argument
    add('scan', metavar='T1W', help='the scan, .nii or .nii.gz; it is never changed')
    add(
        'out',
        metavar='OUT',
        help='the file to write, .nii.gz; a page of the same name, .html, goes beside it',
    )
    add(
        '--target-site',
        metavar='NAME',
        help='a packaged site: IXI, Novosibirsk or UCLA; help lists them',
    )
    add('--target-scans', metavar='PATH', help='a BIDS dataset of reference scans, instead')
    add('--version', action='version', version=f'ddae-app {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ddae-app-file`` and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    arguments, flags = parser.parse_known_args(words)
    before = words[: words.index(arguments.scan)]
    if early := next((word for word in before if word in flags), None):
        # It cannot be told whether the next word is its value or the scan.
        parser.error(f'{early} comes before T1W; give T1W and OUT first')
    for name in ('target_site', 'target_scans'):
        if (value := getattr(arguments, name)) is not None:
            flags += [f'--{name.replace("_", "-")}', value]
    # As in the program's own process, where none was started for its caller.
    level = app.main if argv is not None else partial(app.main, own_process=True)
    try:
        with runtime.stop_signals():
            return _harmonize(arguments.scan, arguments.out, flags, level)
    except (DdaeError, StopRequest) as error:
        print(f'ddae-app-file: error: {error}', file=sys.stderr)
        return error.exit_code


def harmonize_file(scan: str | Path, out: str | Path, *flags: str) -> int:
    """Harmonize one scan in its own space, and write a page beside it.

    Parameters
    ----------
    scan : path
        A T1-weighted scan, NIfTI.
    out : path
        The file to write, ``.nii.gz``, of the grid of the scan; its page is beside it, with
        ``.html`` in place of that ending. Both are replaced if they are there.
    *flags : str
        Of the participant level of ddae-app, for example ``'--target-site', 'IXI'``.

    Returns
    -------
    int
        0, or the exit code of the participant level, which has said why in one line.

    Raises
    ------
    UsageError
        A path is not that of a NIfTI file, both are the same, the folder of `out` cannot be
        written to, or a flag asks for something else than an image in the space of the scan, or
        is for the scans of a dataset.
    """
    try:
        return _harmonize(scan, out, flags, app.main)
    except SystemExit as end:  # of the parser, whose caller is a program of somebody else here
        return int(end.code or 0)


def _harmonize(
    scan: str | Path, out: str | Path, flags: Sequence[str], level: Callable[[list[str]], int]
) -> int:
    """What :func:`harmonize_file` does, by a function that takes the arguments of ddae-app."""
    scan, out = absolute(scan, 'T1W'), absolute(out, 'OUT')
    ending = next((e for e in ENDINGS if scan.name.endswith(e)), None)
    if message := not_fetched(scan):
        raise UsageError(message)
    if not scan.is_file() or ending is None:
        raise UsageError(f'{scan}: expected the file of a scan, .nii or .nii.gz')
    if not out.name.endswith('.nii.gz') or not out.parent.is_dir():
        raise UsageError(f'{out}: expected the name of a .nii.gz file in a folder that is there')
    if out.resolve() == scan.resolve():
        raise UsageError(f'{out}: this is the scan itself, which is never changed; name another')
    for path in out, _page_of(out):
        if path.is_dir():
            raise UsageError(f'{path}: this is a folder, and not to be replaced; name another OUT')
    with _folder_beside(out) as folder:
        bids, derived = folder / 'bids', folder / 'out'
        _write_dataset(bids, scan, ending)
        command = [str(bids), str(derived), 'participant', '-w', str(folder / 'work'), *flags]
        given = vars(app.build_parser().parse_args(command))
        _check_flags(given)
        with _told_of_one_scan(folder, scan, ending):
            code = level(command)
        image = derived / PARTICIPANT / 'anat' / f'{PARTICIPANT}_desc-harmonized_T1w.nii.gz'
        if code == 0 and image.is_file():
            page = (derived / f'{PARTICIPANT}.html').read_text(encoding='utf-8')
            page = _with_figures_inside(page, derived)
            own_command = shlex.join([str(scan), str(out), *flags])
            page = _about_the_scan(page, scan, ending, shlex.join(command), own_command)
            _write({_page_of(out): page, out: image.read_bytes()})
            log.info('harmonized scan: %s', out)
            log.info('report: %s', _page_of(out))
        elif code == 0 and not (given.get('dry_run') or given.get('target_site') == TARGET_HELP):
            raise UsageError(
                f'{out} was not written, since the settings ask for no harmonized image in the '
                'space of the scan; leave out --config-file and a model of medial slices '
                '(--model, DDAE_MODEL), or use ddae-app'
            )
        return code


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder that is removed in the end, beside the output, where there is room for images.

    A run that is killed leaves it behind; the next one for the same output removes it.
    """
    prefix = f'.ddae-app-{sha256(os.fsencode(out.name)).hexdigest()[:12]}-'
    for left in out.parent.glob(f'{prefix}*'):
        with suppress(OSError), _held(left):
            shutil.rmtree(left, ignore_errors=True)
    try:
        folder = tempfile.TemporaryDirectory(dir=out.parent, prefix=prefix)
    except OSError as e:
        raise UsageError(
            f'the folder {out.parent} cannot be written to ({e.strerror}); name another for OUT'
        ) from e
    with folder as name, ExitStack() as stack:
        with suppress(OSError):  # where folders cannot be locked
            stack.enter_context(_held(Path(name)))
        yield Path(name)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """While the lock of a folder is held, by this process and those that it starts.

    Raises
    ------
    OSError
        Another one holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


@contextmanager
def _told_of_one_scan(folder: Path, scan: Path, ending: str) -> Iterator[None]:
    """Leave out of the log what is no matter of one scan, and places in a folder that is removed.

    What is wrong is left in, wherever it is. The scan is called by its name, not as a participant,
    and so it is in what is printed.
    """
    bids = folder / 'bids'
    places = {
        _place(bids, ending): scan,
        _place(bids, '.json'): _sidecar_of(scan, ending),
        bids: scan,  # where it is said what the dataset lacks
    }

    def own(text: str) -> str:
        """A text that names the scan and its place as the user does."""
        name = scan.name.removesuffix(ending)
        called = rf'(?<![\w/]){PARTICIPANT}(_T1w)?(?![\w/])'
        for inside, place in places.items():
            text = text.replace(str(inside), str(place))
        return re.sub(called, lambda _: name, text)

    def is_shown(record: logging.LogRecord) -> bool:
        text = own(record.getMessage())
        if OF_A_DATASET.fullmatch(text):
            return False
        if text.startswith(f'site {SITE} (1 scan) is unknown to '):
            text = ALONE
        for end, instead in OTHERWISE_SAID:
            text = end.sub(instead, text)
        record.msg, record.args = text, ()
        return record.levelno > logging.INFO or str(folder) not in text

    log.addFilter(is_shown)
    # A file, since another process may print.
    with tempfile.TemporaryFile('w+', encoding='utf-8', dir=folder) as printed:
        try:
            with redirect_stdout(printed):
                yield
        finally:
            log.removeFilter(is_shown)
            printed.seek(0)
            print(own(printed.read()), end='')


def _check_flags(given: Mapping[str, Any]) -> None:
    """Refuse what would end well and leave no image, and a scan that is brought nowhere."""
    if not given.keys() & {'target_site', 'target_scans', 'config_file'}:
        raise UsageError(
            'where to bring the scan is missing; give --target-site (IXI, for example; "help" '
            'lists them) or --target-scans'
        )
    file = given.get('config_file')
    values = {**(read_flat(absolute(file, '--config-file')) if file else {}), **given}
    for refused, why in (
        (
            OTHERWISE,
            'asks for something else than OUT, the whole scan harmonized in its own space; leave '
            'it out, or use ddae-app, which writes all else',
        ),
        (OF_OTHER_SCANS, 'is for the scans of a dataset; leave it out, or use ddae-app'),
    ):
        for name, is_refused in refused.items():
            if name in values and is_refused(values[name]):
                where = '' if name in given else f' in --config-file {file}'
                raise UsageError(f'--{name.replace("_", "-")}{where} {why}')


def _write(contents: Mapping[Path, bytes | str]) -> None:
    for path, content in contents.items():
        try:
            write_atomically(path, content)
        except OSError as e:
            raise UsageError(
                f'{path} cannot be written ({e.strerror}); make room for it, or name another OUT'
            ) from e


def _page_of(out: Path) -> Path:
    return out.with_name(out.name.removesuffix('.nii.gz') + '.html')


def _write_dataset(folder: Path, scan: Path, ending: str) -> None:
    """A BIDS dataset of one scan."""
    place = _place(folder, ending)
    place.parent.mkdir(parents=True)
    place.symlink_to(scan)
    write_atomically(
        folder / 'dataset_description.json', '{"Name": "One scan", "BIDSVersion": "1.10.0"}\n'
    )
    write_atomically(folder / 'participants.tsv', f'participant_id\tsite\n{PARTICIPANT}\t{SITE}\n')
    if (sidecar := _sidecar_of(scan, ending)).is_file():
        _place(folder, '.json').symlink_to(sidecar)


def _sidecar_of(scan: Path, ending: str) -> Path:
    return scan.with_name(scan.name.removesuffix(ending) + '.json')


def _place(folder: Path, ending: str) -> Path:
    """The scan, or its sidecar, in the dataset that is made of it."""
    return folder / PARTICIPANT / 'anat' / f'{PARTICIPANT}_T1w{ending}'


def _with_figures_inside(page: str, folder: Path) -> str:
    """A page that needs no other file."""

    def inside(match: re.Match[str]) -> str:
        figure = folder / match[2]
        if not figure.is_file():
            return match[0]
        kind = {'.svg': 'svg+xml', '.png': 'png'}[figure.suffix]
        content = base64.b64encode(figure.read_bytes()).decode()
        return f'{match[1]}="data:image/{kind};base64,{content}"'

    page = re.sub(rf'\b(src|data)="({PARTICIPANT}/figures/[^"]+)"', inside, page)
    link = rf'<a href="{PARTICIPANT}/figures/[^"]+">(.*?)</a>'
    return re.sub(link, r'\1', page, flags=re.DOTALL)


def _about_the_scan(page: str, scan: Path, ending: str, command: str, own_command: str) -> str:
    """A page that names the scan and the command, not the dataset that was made of them."""
    name = escape(scan.name.removesuffix(ending))
    page = page.replace(f'{PARTICIPANT}_T1w{ending}', escape(scan.name))
    page = page.replace(f'<title>{PARTICIPANT}', f'<title>{name}')
    page = page.replace(f'>{PARTICIPANT}<', f'>{name}<')
    page = page.replace(escape(f'ddae-app {command}'), escape(f'ddae-app-file {own_command}'))
    gone = 'Participant', 'T1w images', 'Site', 'Age, sex', 'Logs and settings'
    page = re.sub(rf'<tr><th>({"|".join(gone)})</th>.*?</tr>\n?', '', page)
    # Its places are of a folder that is removed.
    return re.sub(r'<details><summary>Settings of the run.*?</details>', '', page, flags=re.DOTALL)


if __name__ == '__main__':
    sys.exit(main())
