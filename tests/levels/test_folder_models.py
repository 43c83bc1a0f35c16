"""Which models of an output folder are for which runs, and what makes them anew."""

from __future__ import annotations

from dataclasses import replace

from ddae_app.levels.participant.folder_models import how_to_renew, models_of_dataset
from ddae_app.methods.find import packaged_model


def calibrated(model, path, networks='universal'):
    info = replace(model.info, networks=f'{networks} {64 * "a"}')
    return replace(model, path=path, info=info)


def test_a_model_to_target_scans_is_for_runs_with_them_only(tmp_path):
    models, reference = tmp_path / 'models', tmp_path / 'targets' / 'Malmo' / 'models'
    for folder in (models, reference):
        folder.mkdir(parents=True)
    own, named, to_target = (
        models / f'calibrated{end}.safetensors' for end in ('', '-again', '-Malmo')
    )
    for path in (own, named, to_target):
        path.touch()
    assert models_of_dataset(tmp_path) == [named, own]
    packaged = packaged_model('medial')
    assert how_to_renew(calibrated(packaged, own)) == 'run train'
    assert how_to_renew(calibrated(packaged, named)) == 'run train --model-name calibrated-again'
    again = "run train with --init-from, the file of 'my net'"
    assert how_to_renew(calibrated(packaged, own, 'my net')) == again
    assert how_to_renew(replace(packaged, path=own)) == 'train it again'
    both = f'delete {reference} and {to_target} and run again'
    assert how_to_renew(replace(packaged, path=to_target)) == both
    assert how_to_renew(replace(packaged, path=reference / 'calibrated.safetensors')) == both
