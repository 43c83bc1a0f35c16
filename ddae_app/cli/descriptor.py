"""The command line as a Boutiques descriptor, for platforms that run BIDS-Apps."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

from ddae_app import __version__
from ddae_app.settings import flag_types

EXIT_CODES = {
    0: 'all T1w images were processed',
    1: 'some failed, and the log lists them',
    2: 'usage error, or a model, template or weights file is missing',
    16: 'the input is not valid BIDS',
    18: 'the filters selected no image',
    130: 'interrupted',
    143: 'terminated',
}


class PrintDescriptor(argparse.Action):
    """``--bids-exec-spec``: print the descriptor of the parser and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print the descriptor and exit."""
        print(json.dumps(descriptor(parser), indent=2))
        parser.exit()


def descriptor(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The parser as a Boutiques descriptor (schema 0.5; Glatard et al. 2018).

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The parser of ddae-app, whose flags are the settings of :mod:`ddae_app.settings`.

    Returns
    -------
    dict
        The JSON object of the descriptor.
    """
    types = flag_types()
    actions = [a for a in parser._actions if a.dest in types or a.dest == 'config_file']
    return {
        'name': 'ddae-app',
        'description': ' '.join((parser.description or '').split()),
        'author': 'the ddae-app developers',
        'tool-version': __version__,
        'schema-version': '0.5',
        'command-line': ' '.join(['ddae-app', *(_key(action) for action in actions)]),
        'inputs': [_input(action, types.get(action.dest, Path)) for action in actions],
        'output-files': [
            {
                'id': 'derivative_dataset',
                'name': 'Derivative dataset',
                'description': 'A BIDS derivative dataset',
                'path-template': '[OUTPUT_DIR]',
                'optional': False,
            }
        ],
        'error-codes': [
            {'code': code, 'description': text} for code, text in EXIT_CODES.items() if code
        ],
        'tags': {'domain': ['neuroinformatics', 'bids-app', 'mri']},
    }


def _input(action: argparse.Action, kind: Any) -> dict[str, Any]:
    """The descriptor of one flag or positional argument."""
    inner = [k for k in (get_args(kind) or (kind,)) if k not in (type(None), Ellipsis)][0]
    is_flag = isinstance(action, argparse._StoreTrueAction | argparse._CountAction)
    entry: dict[str, Any] = {
        'id': action.dest,
        'name': action.dest.replace('_', ' '),
        'description': (action.help or '').replace('%%', '%'),
        'value-key': _key(action),
        'optional': bool(action.option_strings),
    }
    if is_flag:
        entry['type'] = 'Flag'
    elif inner is Path and action.dest != 'output_dir':
        entry['type'] = 'File'
    elif inner in (int, float) and action.dest != 'mem_mb':  # --mem-mb takes units
        entry |= {'type': 'Number', 'integer': inner is int}
    else:
        entry['type'] = 'String'
    if action.option_strings:
        entry['command-line-flag'] = next(s for s in action.option_strings if s[:2] == '--')
    if action.choices is not None:
        entry['value-choices'] = list(action.choices)
    if get_origin(kind) is tuple:
        entry |= {'list': True, 'min-list-entries': 1}
    return entry


def _key(action: argparse.Action) -> str:
    return f'[{action.dest.upper()}]'
