"""The methods text in all its forms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddae_app.harmonize.models import find_model
from ddae_app.levels.methods import methods_text
from ddae_app.reports import boilerplate
from ddae_app.settings import Protocol
from ddae_app.workflows.harmonize import DESCRIPTIONS
from ddae_app.workflows.preproc import preprocessing_methods

TEXT = (
    'Made with *ddae-app* [@ijishakin2024; @gorgolewski2011].\n\n'
    'Bias was corrected [@tustison2010], 100 % of site_A & {B} $x$ #1 ~ ^ \\ <b>.'
)


def test_every_form_is_written_and_read_back(tmp_path):
    boilerplate.write_boilerplate(tmp_path, TEXT)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'CITATION.bib', 'CITATION.html', 'CITATION.md', 'CITATION.tex',
    ]  # fmt: skip
    assert boilerplate.read_boilerplate(tmp_path / 'CITATION.md') == TEXT


def test_citations_in_html_lead_to_their_references():
    page = boilerplate.to_html(TEXT)
    assert '(<a href="#ref-ijishakin2024">Ijishakin et al., 2024</a>; ' in page
    targets = set(re.findall('href="#([^"]+)"', page))
    assert targets == set(re.findall('<li id="([^"]+)"', page)) and len(targets) == 3
    assert '<em>ddae-app</em>' in page
    assert '&amp; {B}' in page and '&lt;b&gt;' in page and '<b>' not in page


def test_specials_of_latex_are_escaped():
    page = boilerplate.to_latex(TEXT)
    assert r'\citep{ijishakin2024,gorgolewski2011}' in page and r'\emph{ddae-app}' in page
    assert (
        r'100 \% of site\_A \& \{B\} \$x\$ \#1 \textasciitilde{} \textasciicircum{} '
        r'\textbackslash{} <b>.'
    ) in page
    assert page.count('{') - page.count(r'\{') == page.count('}') - page.count(r'\}')


def test_the_bibliography_has_what_is_cited_and_nothing_else():
    keys = re.findall(r'^@\w+\{([^,]+),', boilerplate.to_bibtex(TEXT), re.MULTILINE)
    assert sorted(keys) == sorted(boilerplate.cited(TEXT))


@pytest.mark.parametrize('label', ['[@nobody2000]', '[@tustison2010; @nobody]', '*', '[@', '\\'])
def test_labels_of_users_are_no_citations(label):
    text = f'The target site was {label}.'
    for form in boilerplate.FORMATTERS.values():
        assert 'tustison' not in form(text).partition('## References')[2]
    assert boilerplate.cited(text) == []


def test_names_of_authors_survive():
    text = 'Written with SimpleITK [@lowekamp2013].'
    assert 'Ibáñez' in boilerplate.to_markdown(text)
    assert 'Ibáñez' in boilerplate.to_bibtex(text)


def everything_said():
    methods = [preprocessing_methods(Protocol(), how) for how in ('hd-bet', 'template', 'none')]
    model = find_model(None, None, Path('nowhere'))
    ran = ['preprocessing', 'hd-bet', 'harmonization']
    extra = 'The result was denoised [@immerkaer1996].'
    parts = [*methods, *DESCRIPTIONS.values(), extra]
    return methods_text(parts, ran, model, 'Site_A', sloppy=True)


def test_everything_that_is_ever_said_can_be_cited():
    text = everything_said()
    assert set(re.findall(r'@(\w+)', text)) == set(boilerplate.cited(text))
    assert set(boilerplate.cited(text)) == set(boilerplate.bibliography().entries)


def test_the_text_tells_what_ran():
    text = everything_said()
    assert 'target site was Site_A' in text and 'simulated scanners only' in text
    assert '*antspyx*' in text and '*HD_BET*' in text and '*torch*' in text and '--sloppy' in text
    preprocessed = methods_text(['Done.'], ['preprocessing'], None, None, sloppy=False)
    assert 'preprocessing performed' in preprocessed
    assert 'torch' not in preprocessed and '--sloppy' not in preprocessed
