"""``ddae-app-file T1W OUT --target-site IXI``: one scan, without a BIDS dataset."""

from __future__ import annotations

import argparse
import base64
import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ddae_app import __version__
from ddae_app.cli import main as app
from ddae_app.cli import runtime
from ddae_app.errors import DdaeError, UsageError
from ddae_app.files import write_atomically
from ddae_app.settings import absolute

log = logging.getLogger('ddae_app')

SITE = 'file'
"""The site of the one scan; no model knows it."""

ENDINGS = '.nii.gz', '.nii'


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddae-app-file``."""
    parser = argparse.ArgumentParser(
        prog='ddae-app-file',
        description='Harmonize one T1-weighted scan, with the steps and checks of ddae-app. The '
        'scan stays in its own space. What its scanner does to all scans alike is estimated from '
        'this scan alone; where there are five or more scans of it, use ddae-app.',
        epilog='All other flags are those of the participant level of ddae-app.',
    )
    add = parser.add_argument
    add('scan', metavar='T1W', help='the scan, .nii or .nii.gz; it is never changed')
    add('out', metavar='OUT', help='the file to write, .nii.gz; a page, OUT.html, goes beside it')
    add('--target-site', metavar='NAME', help='a packaged site: IXI, Novosibirsk or UCLA')
    add('--target-scans', metavar='PATH', help='a BIDS dataset of reference scans, instead')
    add('--version', action='version', version=f'ddae-app {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ddae-app-file`` and return its exit code."""
    arguments, flags = build_parser().parse_known_args(argv)
    for name in ('target_site', 'target_scans'):
        if (value := getattr(arguments, name)) is not None:
            flags += [f'--{name.replace("_", "-")}', value]
    try:
        return harmonize_file(arguments.scan, arguments.out, *flags)
    except DdaeError as error:
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
        A path is not that of a NIfTI file, or both are the same.
    """
    scan, out = absolute(scan, 'T1W'), absolute(out, 'OUT')
    ending = next((e for e in ENDINGS if scan.name.endswith(e)), None)
    if not scan.is_file() or ending is None:
        raise UsageError(f'{scan}: expected the file of a scan, .nii or .nii.gz')
    if not out.name.endswith('.nii.gz') or not out.parent.is_dir():
        raise UsageError(f'{out}: expected the name of a .nii.gz file in a folder that is there')
    if out.resolve() == scan.resolve():
        raise UsageError(f'{out}: this is the scan itself, which is never changed; name another')
    # Beside the output, where there is room for a few images.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.ddae-app-') as folder:
        bids, derived = Path(folder) / 'bids', Path(folder) / 'out'
        _write_dataset(bids, scan, ending)
        command = [str(bids), str(derived), 'participant', '-w', str(Path(folder) / 'work')]
        code = app.main([*command, *flags])
        image = derived / 'sub-1' / 'anat' / 'sub-1_desc-harmonized_T1w.nii.gz'
        if code == 0 and image.is_file():
            page = (derived / 'sub-1.html').read_text(encoding='utf-8')
            write_atomically(_page_of(out), _with_figures_inside(page, derived))
            write_atomically(out, image.read_bytes())
            # The places that were named before are of the folder that is removed now.
            log.info('harmonized scan: %s', out)
            log.info('report: %s', _page_of(out))
        return code


def _page_of(out: Path) -> Path:
    return out.with_name(out.name.removesuffix('.nii.gz') + '.html')


def _write_dataset(folder: Path, scan: Path, ending: str) -> None:
    """A BIDS dataset of one scan."""
    anat = folder / 'sub-1' / 'anat'
    anat.mkdir(parents=True)
    (anat / f'sub-1_T1w{ending}').symlink_to(scan)
    write_atomically(
        folder / 'dataset_description.json', f'{{"Name": "{SITE}", "BIDSVersion": "1.10.0"}}\n'
    )
    write_atomically(folder / 'participants.tsv', f'participant_id\tsite\nsub-1\t{SITE}\n')
    sidecar = scan.with_name(scan.name.removesuffix(ending) + '.json')
    if sidecar.is_file():
        (anat / 'sub-1_T1w.json').symlink_to(sidecar)


def _with_figures_inside(page: str, folder: Path) -> str:
    """A page that needs no other file."""

    def inside(match: re.Match[str]) -> str:
        figure = folder / match[2]
        if not figure.is_file():
            return match[0]
        kind = {'.svg': 'svg+xml', '.png': 'png'}[figure.suffix]
        content = base64.b64encode(figure.read_bytes()).decode()
        return f'{match[1]}="data:image/{kind};base64,{content}"'

    return re.sub(r'\b(src|data)="(sub-1/figures/[^"]+)"', inside, page)


if __name__ == '__main__':
    with runtime.stop_signals():
        sys.exit(main())
