"""Several processes learn what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ddae_app.bids.dataset import read_tsv
from ddae_app.errors import DdaeError, UsageError
from ddae_app.methods.ddae import losses
from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.train import train
from ddae_app.methods.parallel import others_needed, start_fabric

from ..toy import CONFIG, PROTOCOL, TRAIN, slices

ROOT = Path(__file__).parents[3]


def run(processes: int, out: Path) -> None:
    launcher = ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
    subprocess.run(
        [sys.executable, *launcher, '-m', 'tests.methods.ddae.parallel_run', str(out)],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )


def test_two_processes_learn_what_one_does(tmp_path):
    run(1, tmp_path / 'one')
    run(2, tmp_path / 'two')
    one, two = (read_tsv(tmp_path / name / 'losses.tsv') for name in ('one', 'two'))
    assert len(one) == len(two) == 4
    for alone, together in zip(one, two, strict=True):
        for column in ('train_loss', 'validation_loss'):
            assert float(together[column]) == pytest.approx(float(alone[column]), rel=1e-3)
    weights = [
        load_bundle(tmp_path / name / 'model.safetensors').model.state_dict()
        for name in ('one', 'two')
    ]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-4, rtol=1e-3)


def test_bf16_learns_what_fp32_does(tmp_path, monkeypatch):
    """Only networks compute in bf16: images, ages and noise are not rounded."""
    seen, real = set(), losses.training_loss

    def spy(model, x_0, view, condition, *rest):
        seen.update(tensor.dtype for tensor in (x_0, view, condition.age, model.appearance.curve))
        return real(model, x_0, view, condition, *rest)

    monkeypatch.setattr(losses, 'training_loss', spy)
    final = {}
    for precision in ('fp32', 'bf16'):
        folder, fabric = tmp_path / precision, start_fabric('cpu', precision)
        train(slices(), CONFIG, TRAIN, PROTOCOL, folder, fabric=fabric)
        final[precision] = [float(row['train_loss']) for row in read_tsv(folder / 'losses.tsv')]
    assert seen == {torch.float32}
    assert final['bf16'] == pytest.approx(final['fp32'], rel=0.02)
    assert final['bf16'] != final['fp32']
    weights = load_bundle(tmp_path / 'bf16' / 'model.safetensors').model.state_dict()
    assert weights['appearance.curve'].dtype == torch.float32


def test_alone_without_a_launcher():
    fabric = start_fabric('cpu')
    assert fabric.world_size == 1 and fabric.is_global_zero
    assert fabric.device == torch.device('cpu')


def test_alone_in_a_batch_job_of_many_tasks(monkeypatch):
    job = {
        'SLURM_NTASKS': '4', 'SLURM_JOB_NAME': 'train', 'SLURM_PROCID': '1', 'SLURM_LOCALID': '1',
        'SLURM_NODEID': '0', 'SLURM_JOB_ID': '1', 'SLURM_NODELIST': 'n1',
    }  # fmt: skip
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    fabric = start_fabric('cpu')
    assert fabric.world_size == 1 and fabric.is_global_zero


def test_one_gpu_for_many_processes_is_refused(monkeypatch):
    launched = {
        'LOCAL_RANK': '0', 'TORCHELASTIC_RUN_ID': 'x', 'WORLD_SIZE': '2', 'GROUP_RANK': '0',
        'LOCAL_WORLD_SIZE': '2', 'RANK': '0', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '1',
    }  # fmt: skip
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match='--device cuda:1 with 2 processes'):
        start_fabric('cuda:1', local_processes=2)


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError(
            '[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:35507'
        ),
        torch.distributed.DistBackendError('NCCL error: remote process exited'),
    ],
)
def test_the_others_report_a_lost_process_in_one_line(error):
    many = SimpleNamespace(world_size=2)
    with (
        pytest.raises(DdaeError, match='another process of this training ended'),
        others_needed(many),
    ):
        raise error


def test_other_errors_are_left_as_they_are():
    for world_size in (1, 2):
        with (
            pytest.raises(RuntimeError, match='no kernel'),
            others_needed(SimpleNamespace(world_size=world_size)),
        ):
            raise RuntimeError('no kernel image')
