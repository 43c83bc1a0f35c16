"""Which model a run uses, and what is said where that is not clear."""

from __future__ import annotations

import numpy as np
import pytest

from ddae_app.errors import ModelError
from ddae_app.methods.base import cohort_of
from ddae_app.methods.combat import ComBat
from ddae_app.methods.ddae.bundle import save_bundle
from ddae_app.methods.find import PACKAGED, find_model, load_harmonizer, read_models

from .toy import PROTOCOL, info, random_model, slices


@pytest.fixture(scope='module')
def ddae(tmp_path_factory):
    path = tmp_path_factory.mktemp('ddae') / 'toy.safetensors'
    save_bundle(path, random_model(), info())
    return path


@pytest.fixture(scope='module')
def combat(tmp_path_factory):
    path, data = tmp_path_factory.mktemp('combat') / 'combat.safetensors', slices()
    ComBat(protocol=PROTOCOL).fit(data.images, cohort_of(data)).save(path)
    return path


def test_the_nearest_wish_counts(ddae, combat):
    named = find_model(ddae, combat, [combat])
    assert (named.path, named.origin) == (ddae, '--model')
    assert find_model(None, ddae, [combat]).origin == 'DDAE_MODEL'
    trained = find_model(None, None, [combat])
    assert (trained.path, trained.info.method) == (combat, 'combat')
    packaged = find_model(None, None, [])
    assert packaged.path.name == 'universal-all.safetensors' and packaged.origin == PACKAGED
    assert find_model(None, None, [combat], 'ddae').path == packaged.path


def test_one_of_several_trained_models_is_chosen_by_method(ddae, combat):
    assert [model.path for model in read_models([ddae, combat])] == [ddae, combat]
    with pytest.raises(ModelError, match=r'holds 2 models .*; choose one with --model or --meth'):
        find_model(None, None, [ddae, combat])
    assert find_model(None, None, [ddae, combat], 'combat').path == combat
    with pytest.raises(ModelError, match=r'choose one with --model$'):
        find_model(None, None, [combat, combat], 'combat')


def test_a_model_of_another_method_than_was_asked_for_is_refused(ddae, combat):
    with pytest.raises(ModelError, match=r'\(--model\) is a model of combat, where one of cvae'):
        find_model(combat, None, [], 'cvae')
    with pytest.raises(ModelError, match=r'\(--init-from\) is a model of combat'):
        find_model(combat, None, [], 'ddae', flag='--init-from')
    with pytest.raises(ModelError, match='--method cvae: the output folder holds no such model'):
        find_model(None, None, [ddae, combat], 'cvae')


def test_what_is_said_of_a_model(ddae):
    model = find_model(ddae, None, [])
    assert model.method.label == 'DDAE'
    line = model.describe()
    assert line.startswith("PHANTOM model, of simulated scans only 'toy'")
    assert 'sites: A, B' in line and model.sha256[:16] in line
    assert model.reference('B') == {
        'levels': [0, 1], 'p25': [0.2, 0.8], 'median': [0.2, 0.8], 'p75': [0.2, 0.8]
    }  # fmt: skip


def test_a_harmonizer_gets_the_options_that_its_method_supports(ddae, combat):
    options = {'device': 'cpu', 'unseen_site': 'agnostic', 'keep_noise': True, 'steps': 2}
    harmonizer = load_harmonizer(ddae, **options, batch_size=3)
    assert harmonizer.unseen_site == 'agnostic' and harmonizer.keep_noise
    assert (harmonizer.steps, harmonizer.batch_size) == (2, 3)
    assert harmonizer.facts() == {'SamplingSteps': 2, 'Denoised': False, 'LabelBlind': True}
    data = slices()
    fitted = load_harmonizer(combat, **options)
    assert np.isfinite(fitted.transform(data.images, cohort_of(data), 'A')).all()
