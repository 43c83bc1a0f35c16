"""The methods text of a run, with its references, as Markdown, HTML, LaTeX and BibTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from pybtex.database import BibliographyData, Entry, parse_string
from pybtex.plugin import find_plugin

from ddae_app.files import write_atomically

WAIVER = (
    'This text was written by ddae-app so that it can be copied into a paper as it is. It is '
    'released under the CC0 license.'
)

_CITATION = re.compile(r'\[(@[\w-]+(?:; @[\w-]+)*)\]')
_DOI = re.compile(r'^    doi = .*$', re.MULTILINE)
_LINK = re.compile('href="([^"]+)"')
_EMPHASIS = re.compile(r'\*([^*\n]+)\*')
_SPECIAL = re.compile(r'[][\\`*<>~^$@&]|(?<![^\W_])_|_(?![^\W_])')
"""What Markdown may take for markup within a line; an underscore within a word it does not."""

_ESCAPED = re.compile(r'\\([!-/:-@[-`{-~])')
_PRIVATE = 0xE000
"""Unicode gives no meaning to this character and those after it."""

_HIDDEN = re.compile(f'[{chr(_PRIVATE + ord("!"))}-{chr(_PRIVATE + ord("~"))}]')
_LATEX = str.maketrans({
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_',
    '{': r'\{', '}': r'\}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}',
})  # fmt: skip


def plain(name: str) -> str:
    """A name that somebody else chose, of a site for example, as a part of a text.

    Whatever characters it has, the text shows them and does not take them for markup.
    """
    return _SPECIAL.sub(r'\\\g<0>', name)


def write_boilerplate(files: Mapping[str, Path], text: str) -> None:
    """Write the methods text in several formats.

    Parameters
    ----------
    files : mapping of str to Path
        By format: ``md``, ``html``, ``tex`` and ``bib``; the last two lie side by side.
    text : str
        Paragraphs, separated by blank lines, with citations ``[@key; @key]`` of the packaged
        bibliography and ``*emphasis*``; a backslash takes the meaning from the character after it
        (:func:`plain`).
    """
    for ending, path in files.items():
        write_atomically(path, FORMATTERS[ending](text))


def read_boilerplate(file: Path) -> str:
    """The text that a Markdown file of the methods text was made from."""
    return file.read_text(encoding='utf-8').partition('\n## ')[0].strip()


def cited(text: str) -> list[str]:
    """Keys of the references that a text cites, in the order of their first mention."""
    keys = (key for match in _CITATION.finditer(_hidden(text)) for key in _keys(match))
    return list(dict.fromkeys(keys))


def to_bibtex(text: str) -> str:
    """The entries that a text cites, as BibTeX."""
    entries = _cited_entries(text).to_string('bibtex')
    # Programs take a DOI as it stands: a backslash that escapes a character would be part of it.
    return _DOI.sub(lambda match: match[0].replace('\\', ''), entries)


def to_markdown(text: str) -> str:
    """The text with its citation keys, as pandoc reads them, and the list of references."""
    references = ''.join(f'- @{key}: {line}\n' for key, line in _references(text, 'text'))
    listed = f'\n## References\n\n{references}' if references else ''
    return f'{text.strip()}\n\n## Copyright waiver\n\n{WAIVER}\n{listed}'


def to_html(text: str) -> str:
    """A page in which citations, by author and year, link to the references below."""
    body = html_body(text)
    head = '<meta charset="utf-8"><title>Methods</title>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    )


def html_body(text: str) -> str:
    """The body of that page; markup that `text` may contain is escaped."""
    entries = _cited_entries(text).entries

    def link(match: re.Match[str]) -> str:
        links = [f'<a href="#ref-{k}">{html.escape(_label(entries[k]))}</a>' for k in _keys(match)]
        return f'({"; ".join(links)})' if links else match[0]

    paragraphs = (
        _shown(
            _EMPHASIS.sub(r'<em>\1</em>', _CITATION.sub(link, html.escape(hidden))), html.escape
        )
        for hidden in _paragraphs(_hidden(text))
    )
    items = '\n'.join(
        f'<li id="ref-{key}">{_LINK.sub(_quoted, line)}</li>'
        for key, line in _references(text, 'html')
    )
    notice = f'\n<h3>Copyright waiver</h3>\n<p>{WAIVER}</p>'
    listed = f'\n<h3>References</h3>\n<ul>\n{items}\n</ul>' if items else ''
    return '\n'.join(f'<p>{paragraph}</p>' for paragraph in paragraphs) + notice + listed


def _quoted(link: re.Match[str]) -> str:
    """Some DOIs hold characters that no address may have, as < and >."""
    return f'href="{quote(link[1], safe="/:;()?=&")}"'


def to_latex(text: str) -> str:
    """A document that cites ``CITATION.bib`` with natbib."""
    body = '\n\n'.join(_latex_paragraph(hidden) for hidden in _paragraphs(_hidden(text)))
    body = _shown(body, lambda character: character.translate(_LATEX))
    notice = f'\\section*{{Copyright waiver}}\n\n{WAIVER}'
    # An empty bibliography is an error of LaTeX.
    listed = '\\bibliographystyle{apalike}\n\\bibliography{CITATION}\n\n' if cited(text) else ''
    return (
        '\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage[T1]{fontenc}\n'
        '\\usepackage{natbib}\n'
        f'\\begin{{document}}\n\n{body}\n\n{notice}\n\n{listed}\\end{{document}}\n'
    )


def _latex_paragraph(text: str) -> str:
    parts, end = [], 0
    for match in _CITATION.finditer(text):
        keys = _keys(match)
        if keys:
            parts += [_latex(text[end : match.start()]), f'\\citep{{{",".join(keys)}}}']
            end = match.end()
    return ''.join([*parts, _latex(text[end:])])


def _latex(text: str) -> str:
    # Two hyphens would become a dash, in the names of flags.
    return _EMPHASIS.sub(r'\\emph{\1}', text.translate(_LATEX).replace('--', '-{}-'))


FORMATTERS = {'md': to_markdown, 'html': to_html, 'tex': to_latex, 'bib': to_bibtex}


@cache
def bibliography() -> BibliographyData:
    """All references that the program may cite."""
    source = files('ddae_app') / 'data' / 'boilerplate.bib'
    return parse_string(source.read_text(encoding='utf-8'), 'bibtex')


def _keys(match: re.Match[str]) -> list[str]:
    """Keys of a citation; none if one is unknown, as in a user's label in brackets."""
    keys = [key[1:] for key in match[1].split('; ')]
    return keys if all(key in bibliography().entries for key in keys) else []


def _hidden(text: str) -> str:
    """A text in which escaped characters are others, of no meaning, until :func:`_shown`."""
    return _ESCAPED.sub(lambda match: chr(_PRIVATE + ord(match[1])), text)


def _shown(text: str, form: Callable[[str], str]) -> str:
    """A text with its escaped characters, each as a form writes it."""
    return _HIDDEN.sub(lambda match: form(chr(ord(match[0]) - _PRIVATE)), text)


def _cited_entries(text: str) -> BibliographyData:
    entries = bibliography().entries
    return BibliographyData({key: entries[key] for key in cited(text)})


@lru_cache(maxsize=4)
def _references(text: str, backend: str) -> list[tuple[str, str]]:
    """Keys and formatted references of the works that a text cites, sorted by author."""
    data = _cited_entries(text)
    if not data.entries:
        return []
    style = find_plugin('pybtex.style.formatting', 'plain')(abbreviate_names=True)
    write = find_plugin('pybtex.backends', backend)('utf-8')
    return [(e.key, e.text.render(write)) for e in style.format_bibliography(data)]


def _label(entry: Entry) -> str:
    """Author and year, ``Choi et al., 2020``."""
    names = [' '.join([*p.prelast_names, *p.last_names]) for p in entry.persons['author']]
    if len(names) > 2:
        who = f'{names[0]} et al.'
    else:
        who = ' and '.join(names)
    return f'{who}, {entry.fields["year"]}'


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r'\n\s*\n', text) if part.strip()]
