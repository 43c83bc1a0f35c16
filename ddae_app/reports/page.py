"""How the HTML pages are written: one style, all text escaped, no network access."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ddae_app.files import write_atomically


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill a template of ``ddae_app/data/report`` and write the page atomically.

    Parameters
    ----------
    path : Path
        Where the page is written.
    template : str
        Name of the template.
    **content
        The variables of the template; text in them is escaped.
    """
    folder = files('ddae_app') / 'data' / 'report'
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    page = environment.from_string((folder / template).read_text(encoding='utf-8'))
    # Style sheet and script are files of this package, so they are not escaped.
    css, script = (
        Markup((folder / name).read_text(encoding='utf-8')) for name in ('page.css', 'sort.js')
    )
    write_atomically(path, page.render(css=css, script=script, **content))
