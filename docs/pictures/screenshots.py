"""Pictures of the pages that the program writes, taken with Chromium without a window."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from canvas import shrink
from PIL import Image

FRAME = """<!DOCTYPE html>
<style>body {{ margin: 0 }} iframe {{ border: 0; width: 100vw; height: 100vh }}</style>
<iframe src="{address}"></iframe>
"""
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


def find_browser() -> str:
    """Path of Chromium or Chrome.

    Raises
    ------
    SystemExit
        None is installed.
    """
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    sys.exit(
        f'found none of {", ".join(BROWSERS)} on the PATH to take screenshots with; install one '
        '(Debian: apt-get install chromium), or give --no-screenshots'
    )


def take(page: Path, size: tuple[int, int], width: int, path: Path, section: str = '') -> None:
    """Write a picture of a part of a page, a PNG file.

    Parameters
    ----------
    page : Path
        HTML file.
    size : tuple of int
        Width and height of what is shown, in pixels of the page.
    width : int
        Width of the picture, in pixels; its height follows.
    path : Path
        PNG file to write.
    section : str
        Identifier of the part that the picture begins with; empty for the top of the page.

    Raises
    ------
    SystemExit
        The browser took no picture, or the page has no such part.
    """
    if section and f'id="{section}"' not in page.read_text(encoding='utf-8'):
        sys.exit(f'{page} has no part {section!r}; name one of its parts in make.py')
    with TemporaryDirectory() as folder:
        shot, frame = Path(folder) / 'shot.png', Path(folder) / 'frame.html'
        # A frame scrolls to a part of the page; without one the picture would be white.
        frame.write_text(FRAME.format(address=f'{page.resolve().as_uri()}#{section}'))
        command = [
            find_browser(), '--headless', '--no-sandbox', '--hide-scrollbars', '--disable-gpu',
            f'--user-data-dir={folder}/profile', '--force-prefers-reduced-motion',
            f'--window-size={size[0]},{size[1]}', f'--screenshot={shot}', frame.as_uri(),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if not shot.is_file():
            sys.exit(f'{command[0]} took no picture of {page}: {result.stderr.strip()[-300:]}')
        with Image.open(shot) as image:
            height = round(size[1] * width / size[0])
            small = image.convert('RGB').resize((width, height), Image.Resampling.LANCZOS)
    small.save(path)
    shrink(path)
