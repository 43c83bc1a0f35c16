"""How the HTML pages are written: one style, all text escaped, no network access."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
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
    # Style sheet and script are files of this package, so they are not escaped.
    css, script = (Markup(_text(name)) for name in ('page.css', 'sort.js'))
    page = _pages().get_template(template)
    write_atomically(path, page.render(css=css, script=script, **content))


@cache
def _pages() -> Environment:
    """Compiles each template once: that takes far longer than to fill it."""
    loader = PackageLoader('ddae_app', 'data/report')
    return Environment(autoescape=True, undefined=StrictUndefined, loader=loader)


@cache
def _text(name: str) -> str:
    """A file of ``ddae_app/data/report``."""
    environment = _pages()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
