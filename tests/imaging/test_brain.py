from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from ddae_app.errors import ImageError, WeightsError
from ddae_app.imaging.brain import (
    _warped_mask,
    brain_only,
    dice,
    given_mask,
    hd_bet_mask,
    head_kind,
    stripped_mask,
    template_mask,
    volume_ml,
)
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.registration import resample_to_grid
from ddae_app.imaging.weights import CHECKPOINT, WEIGHTS_FILES, weights_sha256
from tests.imaging.heads import known_affine, moved, packaged
from tests.imaging.nnunet_model import write_model

THRESHOLD = 0.25


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp('weights') / 'release_2.0.0', THRESHOLD)


def brain_on(*voxel_mm: float) -> nib.Nifti1Image:
    """The packaged brain, a piece of its right front missing, on a grid of given voxels."""
    brain = packaged().brain
    extent = np.array(brain.shape) * 2
    grid = model_grid('MNI152NLin2009aSym', tuple(int(n) for n in extent / voxel_mm))
    image = resample_to_grid(brain, np.eye(4), grid)
    data = 1000 * np.asarray(image.dataobj)
    data[int(0.7 * data.shape[0]) :, int(0.6 * data.shape[1]) :] = 0
    return nib.Nifti1Image(data, image.affine)


def mask_by(weights: Path, image: nib.Nifti1Image) -> np.ndarray:
    return hd_bet_mask(image, weights, weights_sha256(weights), 'cpu')


def above_threshold(image: nib.Nifti1Image) -> np.ndarray:
    """What the network computes, by hand: z-scores of the box that is not zero."""
    data = np.asarray(image.dataobj)
    box = data[ndimage.find_objects((data > 0).astype(int))[0]]
    bright, _ = ndimage.label((data - box.mean()) / box.std() > THRESHOLD)
    largest = bright == 1 + np.bincount(bright.ravel())[1:].argmax()
    return ndimage.binary_fill_holes(largest)


def test_mask_follows_the_network(weights):
    """Several tiles, at the network's own resolution: no voxel may be elsewhere."""
    image = brain_on(4, 4, 4)
    assert max(image.shape) > 32
    mask = mask_by(weights, image)
    assert mask.dtype == bool
    assert mask.shape == image.shape
    expected = above_threshold(image)
    assert 0.05 < expected.mean() < 0.5
    assert np.count_nonzero(mask ^ expected) <= 5


def test_anisotropic_voxels_reach_the_network_in_its_own_size(weights, monkeypatch):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    seen = []
    predict = nnUNetPredictor.predict_logits_from_preprocessed_data
    monkeypatch.setattr(
        nnUNetPredictor,
        'predict_logits_from_preprocessed_data',
        lambda self, data: seen.append(data.shape) or predict(self, data),
    )
    image = brain_on(3, 4, 5)
    mask = mask_by(weights, image)
    assert mask.shape == image.shape
    assert dice(mask, above_threshold(image)) > 0.97
    (shape,) = seen
    # nnU-Net's axes are z, y, x, cropped to the brain.
    (box,) = ndimage.find_objects((np.asarray(image.dataobj) > 0).astype(int))
    extent = [(s.stop - s.start) * mm for s, mm in zip(box, (3, 4, 5), strict=True)]
    np.testing.assert_allclose(np.array(shape[1:]) * 4, extent[::-1], atol=4)


def test_no_process_is_started(weights, monkeypatch):
    import multiprocessing.process

    def refuse(self):
        raise AssertionError('a process was started')

    monkeypatch.setattr(multiprocessing.process.BaseProcess, 'start', refuse)
    assert mask_by(weights, brain_on(4, 4, 4)).any()


def test_network_that_finds_nothing(tmp_path):
    blind = write_model(tmp_path / 'blind', threshold=100)
    with pytest.raises(ImageError, match='found 0 mL of brain.*--skull-strip'):
        mask_by(blind, brain_on(4, 4, 4))


def test_network_that_finds_brain_everywhere(tmp_path):
    greedy = write_model(tmp_path / 'greedy', threshold=-100)
    with pytest.raises(ImageError, match='expected 250 to 2600 mL'):
        mask_by(greedy, in_a_head(brain_on(4, 4, 4), thick=40)[0])


@pytest.mark.parametrize('name', WEIGHTS_FILES)
@pytest.mark.parametrize('content', [b'', b'{"not": "a model"}', b'PK\x03\x04' + bytes(500)])
def test_corrupt_weights(weights, tmp_path, name, content):
    bad = shutil.copytree(weights, tmp_path / 'bad')
    (bad / name).write_bytes(content)
    with pytest.raises(WeightsError, match='not usable as HD-BET weights') as caught:
        mask_by(bad, brain_on(4, 4, 4))
    assert str(bad) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_truncated_checkpoint(weights, tmp_path):
    bad = shutil.copytree(weights, tmp_path / 'bad')
    content = (bad / CHECKPOINT).read_bytes()
    (bad / CHECKPOINT).write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match='not usable'):
        mask_by(bad, brain_on(4, 4, 4))


def test_weights_of_another_network(weights, tmp_path):
    bad = shutil.copytree(weights, tmp_path / 'bad')
    plans = (bad / 'plans.json').read_text().replace('[2, 4]', '[3, 4]')
    (bad / 'plans.json').write_text(plans)
    with pytest.raises(WeightsError) as caught:
        mask_by(bad, brain_on(4, 4, 4))
    assert '\n' not in str(caught.value)


def test_weights_that_were_changed_meanwhile_are_not_loaded(weights, tmp_path):
    other = write_model(tmp_path / 'other', threshold=1)
    with pytest.raises(WeightsError, match='changed during the run'):
        hd_bet_mask(brain_on(4, 4, 4), other, weights_sha256(weights), 'cpu')


def test_foreground_of_a_stripped_scan():
    assert dice(stripped_mask(packaged().brain), np.asarray(packaged().mask.dataobj) > 0) > 0.98


def test_dark_parts_are_foreground_and_the_smear_of_interpolation_is_not():
    image = brain_on(4, 4, 4)
    data = np.asarray(image.dataobj).copy()
    whole = stripped_mask(image)
    data[:, :20][whole[:, :20]] = 0.1 * data.max()
    data[~whole] = 0.01 * data.max()
    mask = stripped_mask(nib.Nifti1Image(data, image.affine))
    assert dice(mask, whole) > 0.999


def test_foreground_leaves_out_crumbs_and_what_is_zero():
    image = brain_on(4, 4, 4)
    data = np.asarray(image.dataobj).copy()
    whole = stripped_mask(image)
    inside = tuple(np.argwhere(ndimage.binary_erosion(whole, iterations=5))[0])
    data[inside], data[:2, :2, :2] = 0.001, data.max()
    np.testing.assert_array_equal(stripped_mask(nib.Nifti1Image(data, image.affine)), whole)
    data[inside] = 0
    found = stripped_mask(nib.Nifti1Image(data, image.affine))
    assert not found[inside] and np.count_nonzero(found ^ whole) == 1


def test_a_whole_head_is_not_stripped():
    with pytest.raises(ImageError, match='mL of brain in the scan.*--skull-strip'):
        stripped_mask(in_a_head(brain_on(4, 4, 4), thick=40)[0])


def test_foreground_of_nothing_is_refused():
    with pytest.raises(ImageError, match='found 0 mL'):
        stripped_mask(nib.Nifti1Image(np.zeros((50, 50, 50), np.float32), np.diag([4, 4, 4, 1])))


def in_a_head(image: nib.Nifti1Image, thick: float = 15) -> tuple[nib.Nifti1Image, np.ndarray]:
    """A brain with dark bone and bright scalp around it, and the mask of the brain."""
    mask = stripped_mask(image)
    spacing = nib.affines.voxel_sizes(image.affine)
    away = ndimage.distance_transform_edt(~mask, sampling=spacing)
    data = np.where(mask, np.asarray(image.dataobj), 0)
    data[(away > 8) & (away < 8 + thick)] = np.percentile(data[mask], 90)
    return nib.Nifti1Image(data.astype(np.float32), image.affine), mask


@pytest.mark.parametrize('size', [1.0, 0.75])
def test_a_head_is_told_by_what_is_around_the_brain_and_not_by_its_size(size):
    brain = brain_on(4, 4, 4)
    head, mask = in_a_head(brain)
    for image, expected in ((brain, 'brain'), (head, 'head')):
        affine = np.diag([size, size, size, 1]) @ image.affine
        assert head_kind(nib.Nifti1Image(image.get_fdata(), affine), mask) == expected


def test_what_is_around_a_brain_is_what_is_far_from_all_of_it(monkeypatch):
    """Distances are measured in a box, at the faces of which they are those of the whole scan."""
    mask = np.zeros((40, 40, 40), bool)
    mask[12:30, 15:25, 0:20] = True
    affine = np.diag([1.0, 2.0, 0.7, 1])
    away = ndimage.distance_transform_edt(~mask, sampling=[1.0, 2.0, 0.7])
    near = np.where(mask, 1.0, (away <= 5) * 1.0)
    far = np.where(mask, 1.0, (away > 5) * 1.0)
    for least in (
        0,
        1,
    ):  # the share of what is bright outside, exactly on either side of the limit
        monkeypatch.setattr(
            'ddae_app.imaging.brain.HEAD_SHARE', ((away > 5).sum() - least) / mask.sum()
        )
        expected = 'head' if least else 'brain'
        assert head_kind(nib.Nifti1Image(far.astype(np.float32), affine), mask) == expected
    assert head_kind(nib.Nifti1Image(near.astype(np.float32), affine), mask) == 'brain'


def test_brain_only_is_a_box_in_the_same_place():
    head, mask = in_a_head(brain_on(3, 4, 5))
    data = head.get_fdata(dtype=np.float32)
    bright = tuple(np.argwhere(mask)[500])
    data[bright] = 60 * data.max()
    image = brain_only(nib.Nifti1Image(data, head.affine), mask)
    assert image.shape < head.shape
    index = np.argwhere(np.asarray(image.dataobj) > 0)
    mm = nib.affines.apply_affine(image.affine, index)
    there = np.rint(nib.affines.apply_affine(np.linalg.inv(head.affine), mm)).astype(int)
    assert mask[tuple(there.T)].all()
    # One spike is cut, and nothing else changes but the brightest half percent.
    top = np.percentile(data[mask], 99.5)
    assert np.asarray(image.dataobj).max() == pytest.approx(top, rel=1e-5)
    np.testing.assert_allclose(
        np.asarray(image.dataobj)[tuple(index.T)], np.minimum(data[tuple(there.T)], top)
    )


def saved_mask(path: Path, mask: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)
    return path


def test_a_given_mask_is_taken_as_it_is(tmp_path):
    head, mask = in_a_head(brain_on(4, 4, 4))
    path = saved_mask(tmp_path / 'mask.nii.gz', mask, head.affine)
    np.testing.assert_array_equal(given_mask(head, path), mask)


def test_a_given_mask_on_other_voxels_lies_where_its_millimeters_are(tmp_path):
    """As those of FreeSurfer: other axes, another size, one millimeter, MGZ."""
    head, mask = in_a_head(brain_on(4, 4, 4))
    shape, fine = (
        (256, 256, 256),
        np.array([[-1.0, 0, 0, 128], [0, 0, 1, -145], [0, -1, 0, 130], [0, 0, 0, 1]]),
    )
    to_scan = np.linalg.inv(head.affine) @ fine
    there = ndimage.affine_transform(mask.astype(np.uint8), to_scan, output_shape=shape, order=0)
    nib.save(nib.MGHImage(there, fine), tmp_path / 'brainmask.mgz')
    assert dice(given_mask(head, tmp_path / 'brainmask.mgz'), mask) > 0.99


def test_a_given_mask_is_whole_at_the_edge_of_the_scan(tmp_path):
    """Of an oblique scan, rounding puts voxels of the edge a little outside of the mask."""
    data = np.full((28, 34, 26), 500, np.float32)
    turn = nib.eulerangles.euler2mat(0.13, -0.07, 0.11)
    affine = nib.affines.from_matvec(4 * turn, [-61.3, -80.7, -50.9])
    mask = np.ones(data.shape, bool)
    path = saved_mask(tmp_path / 'mask.nii.gz', mask, affine)
    scan = nib.Nifti1Image(data, nib.load(path).affine)
    np.testing.assert_array_equal(given_mask(scan, path), mask)


@pytest.mark.parametrize(
    ('shift', 'word'), [(60, 'background of the scan'), (400, 'field of view')]
)
def test_a_given_mask_of_another_space_is_refused(tmp_path, shift, word):
    head, mask = in_a_head(brain_on(4, 4, 4))
    affine = head.affine.copy()
    affine[1, 3] += shift
    data = np.pad(head.get_fdata(dtype=np.float32), 20)
    start = head.affine.copy()
    start[:3, 3] = nib.affines.apply_affine(head.affine, [-20, -20, -20])
    path = saved_mask(tmp_path / 'mask.nii.gz', mask, affine)
    with pytest.raises(ImageError, match=f'{word}.*space of the T1w'):
        given_mask(nib.Nifti1Image(data, start), path)


def test_a_given_mask_that_is_no_mask_is_refused(tmp_path):
    head, mask = in_a_head(brain_on(4, 4, 4))
    (tmp_path / 'mask.nii.gz').write_bytes(b'nothing')
    with pytest.raises(ImageError, match='not a readable image'):
        given_mask(head, tmp_path / 'mask.nii.gz')
    with pytest.raises(ImageError, match='the brain mask is empty'):
        given_mask(head, saved_mask(tmp_path / 'empty.nii', 0 * mask, head.affine))
    four = np.stack([mask, mask], axis=3)
    with pytest.raises(ImageError, match='expected one 3D volume'):
        given_mask(head, saved_mask(tmp_path / 'four.nii', four, head.affine))


def test_a_given_mask_that_is_cut_short_is_refused_in_one_line(tmp_path):
    """Nibabel says it in two, of which the log shows the first."""
    head, mask = in_a_head(brain_on(4, 4, 4))
    path = saved_mask(tmp_path / 'mask.nii.gz', mask, head.affine)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    with pytest.raises(ImageError, match='not a readable image.*copy it again') as error:
        given_mask(head, path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['mask.nii.gz', 'mask.mgz'])
def test_a_given_mask_that_fails_its_checksum_is_refused(tmp_path, name):
    """A few bytes that were copied wrongly are another mask, which could be read."""
    head, mask = in_a_head(brain_on(4, 4, 4))
    kind = nib.MGHImage if name.endswith('mgz') else nib.Nifti1Image
    nib.save(kind(mask.astype(np.uint8), head.affine), tmp_path / name)
    np.testing.assert_array_equal(given_mask(head, tmp_path / name), mask)
    content = bytearray((tmp_path / name).read_bytes())
    content[-6] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match='not a readable image .CRC check failed'):
        given_mask(head, tmp_path / name)


def test_a_given_mask_that_claims_too_much_costs_nothing(tmp_path):
    header = nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.diag([4.0, 4, 4, 1])).header
    header.set_data_shape((20000, 20000, 20000))
    header['vox_offset'], header['magic'] = 352, b'n+1'
    (tmp_path / 'mask.nii.gz').write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    with pytest.raises(ImageError, match='claims .* voxels; expected at most 1024'):
        given_mask(brain_on(4, 4, 4), tmp_path / 'mask.nii.gz')


def test_a_given_mask_of_no_brain_is_named(tmp_path):
    """Another --skull-strip, which is advised otherwise, has no effect where masks are given."""
    head, mask = in_a_head(brain_on(4, 4, 4))
    part = mask & (np.arange(mask.shape[2]) > mask.shape[2] * 0.7)
    path = saved_mask(tmp_path / 'small.nii', part, head.affine)
    with pytest.raises(ImageError, match='small.nii: the brain mask has .* mL; expected') as error:
        given_mask(head, path)
    assert '--brain-mask-filter' in str(error.value) and '--skull-strip' not in str(error.value)


@pytest.mark.parametrize('index', [(None,), (slice(None), slice(None), None)])
def test_a_given_mask_with_a_single_axis_before_others_is_refused(tmp_path, index):
    head, mask = in_a_head(brain_on(4, 4, 4))
    path = saved_mask(tmp_path / 'mask.nii', mask[index], head.affine)
    with pytest.raises(ImageError, match='expected one 3D volume'):
        given_mask(head, path)
    saved_mask(path, mask[..., None, None], head.affine)
    np.testing.assert_array_equal(given_mask(head, path), mask)


def test_a_given_mask_of_colors_is_refused(tmp_path):
    head, mask = in_a_head(brain_on(4, 4, 4))
    colors = np.zeros(mask.shape, [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    nib.save(nib.Nifti1Image(colors, head.affine), tmp_path / 'mask.nii')
    with pytest.raises(ImageError, match='expected numbers'):
        given_mask(head, tmp_path / 'mask.nii')


@pytest.mark.parametrize('code', [0, 1])
def test_a_given_mask_that_lies_nowhere_is_refused(tmp_path, code):
    """For such a header, nibabel puts it into the middle, left and right swapped."""
    head, mask = in_a_head(brain_on(4, 4, 4))
    image = nib.Nifti1Image(mask.astype(np.uint8), head.affine)
    image.header['qform_code'], image.header['sform_code'] = 0, code
    for row in 'xyz':
        image.header[f'srow_{row}'] = 0
    (tmp_path / 'mask.nii').write_bytes(
        image.header.binaryblock + bytes(4) + mask.astype(np.uint8).tobytes('F')
    )
    with pytest.raises(ImageError, match='does not say where it lies'):
        given_mask(head, tmp_path / 'mask.nii')


def test_a_given_mask_has_one_value(tmp_path):
    """Probabilities and labels are above 0 also where there is no brain."""
    head, mask = in_a_head(brain_on(4, 4, 4))
    path = tmp_path / 'mask.nii.gz'
    around = ndimage.binary_dilation(mask, iterations=2) & ~mask
    for value in (0.02, 5):
        values = np.where(mask, 1, np.where(around, value, 0)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, head.affine), path)
        with pytest.raises(ImageError, match='2 values above 0, from .*; expected one'):
            given_mask(head, path)
    outside = np.where(mask, 1, np.nan).astype(np.float32)
    nib.save(nib.Nifti1Image(outside, head.affine), path)
    np.testing.assert_array_equal(given_mask(head, path), mask)


def test_what_was_erased_from_the_mask_of_freesurfer_is_not_brain(tmp_path):
    head, mask = in_a_head(brain_on(4, 4, 4))
    erased = ndimage.binary_dilation(mask, iterations=2) & ~mask
    values = np.where(mask, 110, np.where(erased, 1, 0)).astype(np.uint8)
    values[mask] -= (np.arange(mask.sum()) % 50).astype(np.uint8)
    nib.save(nib.MGHImage(values, head.affine), tmp_path / 'brainmask.mgz')
    assert dice(given_mask(head, tmp_path / 'brainmask.mgz'), mask) > 0.999


def pushed(image: nib.Nifti1Image, mm: float) -> nib.Nifti1Image:
    """The image with its front pushed outwards and its sides inwards, which no affine undoes."""
    data, spacing = np.asarray(image.dataobj, np.float32), nib.affines.voxel_sizes(image.affine)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in data.shape], indexing='ij'))
    x, y, _ = nib.affines.apply_affine(image.affine, np.moveaxis(index, 0, -1)).T
    index[1] -= mm / spacing[1] * np.clip(y.T / 60, 0, 1) ** 2
    index[0] += mm / spacing[0] * np.sin(x.T / 45)
    return nib.Nifti1Image(ndimage.map_coordinates(data, index, order=1), image.affine)


def test_template_mask_follows_a_deformation():
    template, brain = packaged(), brain_on(3, 3, 3)
    grid = model_grid('MNI152NLin2009aSym', brain.shape)
    as_float = nib.Nifti1Image(template.mask.get_fdata(dtype=np.float32), template.mask.affine)
    mask = resample_to_grid(as_float, np.eye(4), grid)
    truth = np.asarray(pushed(mask, 8).dataobj) > 0.5
    warped = _warped_mask(pushed(brain, 8), brain, mask, sloppy=False)
    assert dice(np.asarray(mask.dataobj) > 0.5, truth) < 0.93
    assert dice(warped, truth) > 0.97


def test_template_mask_comes_back_to_the_scan_and_leaves_out_what_is_zero():
    template, scan = packaged(), moved(known_affine())
    data = np.asarray(scan.dataobj).copy()
    data[:, :, :14] = 0
    image = nib.Nifti1Image(data, scan.affine)
    grid = model_grid('MNI152NLin2009aSym', (65, 65, 65))
    mask = template_mask(image, template, grid, sloppy=True)
    assert dice(mask, data > 1) > 0.95
    assert not mask[:, :, :14].any()


def test_volume():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    assert volume_ml(mask, np.diag([-2, 3, 4, 1])) == pytest.approx(24)


def test_dice():
    a = np.array([True, True, False, False])
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert dice(a, np.array([True, True, True, False])) == pytest.approx(0.8)
    assert dice(np.zeros(4, bool), np.zeros(4, bool)) == 0
