"""The pictures of the documentation show what is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / 'docs'
PICTURES = DOCS / 'pictures'


def words_of(picture: Path) -> set[str]:
    """The texts of an SVG drawing, which matplotlib repeats in comments beside their outlines."""
    return set(re.findall(r'<!-- (.*?) -->', picture.read_text(encoding='utf-8')))


def test_the_drawn_workflow_has_the_steps_of_the_code(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(PICTURES))
    graph = importlib.import_module('graph')
    steps = graph.steps_of(graph.scan_workflow(tmp_path))
    assert {'conform', 'harmonize', 'ds_harmonized'} <= {name for _, name in steps}
    expected = {word for step in steps for word in step}
    drawn = words_of(PICTURES / 'workflow.svg')
    assert drawn == expected, 'run make pictures: the workflow has changed'


def test_every_picture_is_small_and_shown():
    pictures = [path for path in PICTURES.iterdir() if path.suffix in ('.png', '.svg')]
    assert sum(path.stat().st_size for path in pictures) < 1_000_000
    pages = [*DOCS.glob('*.md'), DOCS.parent / 'README.md']
    text = '\n'.join(page.read_text(encoding='utf-8') for page in pages)
    assert not [path.name for path in pictures if f'pictures/{path.name})' not in text]
