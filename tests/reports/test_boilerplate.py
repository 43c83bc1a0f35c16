"""The methods text in all its forms."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path
from urllib.parse import unquote

import pytest

from ddae_app.bids.layout import RunFiles
from ddae_app.features.fit import fit_model
from ddae_app.levels.features.page import methods_text as features_text
from ddae_app.levels.features.used import UsedModel
from ddae_app.levels.participant.methods_text import methods_text
from ddae_app.methods.find import find_model
from ddae_app.methods.registry import METHODS
from ddae_app.reports import boilerplate
from ddae_app.settings import Protocol, from_flat
from ddae_app.workflows.preproc import preprocessing_methods
from tests.features.simulated import labels_of, table_of, truth_of

TEXT = (
    'Made with *ddae-app* [@ijishakin2024; @gorgolewski2011].\n\n'
    'Bias was corrected [@tustison2010], 100 % of site_A & {B} $x$ #1 ~ ^ \\ <b>.'
)


def test_every_form_is_written_and_read_back(tmp_path):
    boilerplate.write_boilerplate(RunFiles(tmp_path).citations, TEXT)
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


def test_all_forms_cite_the_same_and_list_no_more():
    for text in (TEXT, everything_said()):
        said = boilerplate.to_markdown(text)
        page, latex = boilerplate.to_html(text), boilerplate.to_latex(text)
        found = (
            re.findall(r'^@\w+\{([^,]+),', boilerplate.to_bibtex(text), re.MULTILINE),
            re.findall(r'^- @([\w-]+): ', said, re.MULTILINE),
            re.findall('<li id="ref-([^"]+)"', page),
            {key for keys in re.findall(r'\\citep\{([^}]+)\}', latex) for key in keys.split(',')},
            set(re.findall('href="#ref-([^"]+)"', page)),
        )
        assert all(sorted(keys) == sorted(boilerplate.cited(text)) for keys in found)
        assert all(boilerplate.WAIVER in form for form in (said, page, latex))


@pytest.mark.skipif(not shutil.which('pdflatex'), reason='LaTeX is not installed')
@pytest.mark.parametrize('text', [TEXT, 'Nothing is cited; site --A_B [@x] <b> |"| Zürich.'])
def test_latex_takes_the_document(text, tmp_path):
    boilerplate.write_boilerplate(RunFiles(tmp_path).citations, text)
    steps = [['pdflatex', '-interaction=nonstopmode', '-halt-on-error', 'CITATION.tex']] * 2
    steps.insert(1, ['bibtex', 'CITATION'])
    for step in steps if boilerplate.cited(text) else steps[:1]:
        done = subprocess.run(step, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    assert (tmp_path / 'CITATION.pdf').is_file()


def test_flags_keep_their_hyphens_in_latex():
    assert '(-{}-sloppy)' in boilerplate.to_latex('Few (--sloppy).')


@pytest.mark.parametrize('label', ['[@nobody2000]', '[@tustison2010; @nobody]', '*', '[@', '\\'])
def test_labels_of_users_are_no_citations(label):
    text = f'The target site was {label}.'
    for form in boilerplate.FORMATTERS.values():
        assert 'tustison' not in form(text).partition('## References')[2]
    assert boilerplate.cited(text) == []


@pytest.mark.parametrize(
    ('name', 'in_markdown'),
    [
        ('3T*new', r'3T\*new'),
        ('_old_ site_A', r'\_old\_ site_A'),
        ('<b> & [x](y) [@tustison2010]', r'\<b\> \& \[x\](y) \[\@tustison2010\]'),
        (r'a\*b*', r'a\\\*b\*'),
        ('`~^$|', r'\`\~\^\$|'),
        ('Zürich 3T-1, (north)', 'Zürich 3T-1, (north)'),
    ],
)
def test_names_show_as_they_are_whatever_characters_they_have(name, in_markdown):
    settings, found = asked(target_site=name), find_model(None, None, ())
    text = methods_text([], settings, found, extractions=(), sites=[f'{name}2'])
    features = features_text(UsedModel(Path('m'), feature_models()['combat', ''], 'ab'), name)
    for said in (text, features):
        assert in_markdown in boilerplate.to_markdown(said)
        assert 'tustison2010' not in boilerplate.cited(said)
        page = boilerplate.to_html(said)
        assert escape(name) in page
        italics = set(re.findall('<em>(.+?)</em>', page.partition('<h3>')[0]))
        assert italics <= {'ddae-app', 'Nipype', 'torch', 'numpy'}
        assert name.translate(boilerplate._LATEX) in boilerplate.to_latex(said)


def test_names_of_authors_survive():
    text = 'Written with SimpleITK [@lowekamp2013].'
    assert 'Ibáñez' in boilerplate.to_markdown(text)
    assert 'Ibáñez' in boilerplate.to_bibtex(text)


def test_dois_lead_to_what_they_name():
    """One holds < and >, and some hold _, which an address and BibTeX take in other ways."""
    text = everything_said()
    works = boilerplate.bibliography().entries.values()
    names = {work.fields['doi'] for work in works if 'doi' in work.fields}
    assert {char for doi in names for char in doi} >= {'<', '>', '_'}
    entries = re.findall(r'doi = "([^"]+)"', boilerplate.to_bibtex(text))
    assert {*entries} == names
    links = re.findall('href="https://doi.org/([^"]+)"', boilerplate.to_html(text))
    assert {unquote(link) for link in links} == names
    assert not [link for link in links if re.search(r'[^\w./:;()%-]', link)]


def asked(**values):
    level = {'bids_dir': 'in', 'output_dir': 'out', 'analysis_level': 'participant'}
    return from_flat(level | values)


def everything_said():
    brains = 'hd-bet', 'deepbet', 'template', 'mask', 'none'
    templates = 'MNI152NLin2009cAsym', 'MNI152NLin2009aSym'
    protocols = [replace(Protocol(), template=name) for name in templates]
    methods = [preprocessing_methods(p, how) for p in protocols for how in brains]
    model = find_model(None, None, ())
    model = replace(model, info=replace(model.info, phantom=True))
    done = (method.describe(keep_noise=False) for method in METHODS.values())
    settings = asked(target_site='Site_A', sloppy=True, skull_strip='hd-bet')
    text = methods_text([*methods, *done], settings, model, extractions={'hd-bet', 'deepbet'})
    paragraphs = '\n\n'.join(said_of_features().values())
    return f'{text}\n\n{paragraphs}'


def feature_models():
    """ComBat and DDAEs, by what they are of; of the DDAEs, words depend on nothing else."""
    labels = labels_of(12, sessions=2)
    table = table_of(truth_of(labels), labels)
    combat, _ = fit_model(table, labels, name='Site_A', age_spline=True)
    maps = '', 'thickness on fsaverage5', 'thickness on fsLR_den-32k'
    of = {what: replace(combat, info=replace(combat.info, maps=what)) for what in maps}
    ddaes = {what: replace(model, ddae=object()) for what, model in of.items()}
    return {('combat', what): model for what, model in of.items()} | {
        ('ddae', what): model for what, model in ddaes.items()
    }


def said_of_features():
    return {
        of: features_text(UsedModel(Path('m'), model, 'ab'), 'A')
        for of, model in feature_models().items()
    }


@pytest.mark.parametrize('method', ['combat', 'ddae'])
@pytest.mark.parametrize(
    ('maps', 'source'),
    [
        ('', ''),
        ('thickness on fsaverage5', 'Nilearn [@abraham2014]'),
        ('thickness on fsLR_den-32k', 'TemplateFlow [@ciric2022]'),
    ],
)
def test_what_knows_where_vertices_lie_says_whose_files_tell(method, maps, source):
    text = said_of_features()[method, maps]
    assert (' sphere' in text) == (method == 'ddae' and bool(maps))
    assert ('TemplateFlow' in text) == (method == 'ddae' and 'fsLR' in maps)
    assert method == 'combat' or source in text


def test_everything_that_is_ever_said_can_be_cited():
    text = everything_said()
    assert set(re.findall(r'@(\w+)', text)) == set(boilerplate.cited(text))
    assert set(boilerplate.cited(text)) == set(boilerplate.bibliography().entries)


def test_the_text_names_what_ran():
    text = everything_said()
    assert 'target site was Site_A' in text and 'made from simulated scans' in text
    assert '*antspyx*' in text and '*HD_BET*' in text and '*torch*' in text and '--sloppy' in text
    assert 'did not know' not in text
    preprocessed = methods_text(['Done.'], asked(skull_strip='none'), None, extractions={'none'})
    assert 'preprocessing performed' in preprocessed
    assert 'torch' not in preprocessed and '--sloppy' not in preprocessed


@pytest.mark.parametrize(
    ('policy', 'how'),
    [('agnostic', 'measured in each scan alone'), ('adapt', 'measured in the scans of the site')],
)
def test_the_text_describes_how_unseen_sites_were_treated(policy, how):
    packaged = find_model(None, None, ())
    settings = asked(target_site='PhantomA', unseen_site=policy)
    text = methods_text(['Done.'], settings, packaged, extractions=(), sites=['UCLA'])
    assert f'appearance of UCLA in this dataset: it was {how}' in text, 'no packaged site'
    of_packaged = asked(target_site='UCLA', unseen_site=policy)
    text = methods_text(['Done.'], of_packaged, packaged, extractions=(), sites=['UCLA'])
    assert 'target site was UCLA, of reference scans that come with the program; ' in text
    model = replace(packaged, info=replace(packaged.info, references=()))
    text = methods_text(['Done.'], settings, model, extractions=(), sites=['UCLA', 'Else', None])
    assert f'appearance of Else and a site that is not recorded: it was {how}' in text
    text = methods_text(['Done.'], settings, model, extractions=(), sites=['UCLA'])
    assert 'did not know' not in text and 'calibrated' not in text
    info = replace(model.info, networks='universal 0123')
    calibrated = replace(model, info=info)
    text = methods_text(['Done.'], settings, calibrated, extractions=(), sites=['UCLA'])
    assert 'whose networks are those of universal, calibrated to its sites' in text
