"""A very small nnU-Net model in the layout of HD-BET's weights, that thresholds intensities."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

RESAMPLING = {'is_seg': False, 'order': 1, 'order_z': 0, 'force_separate_z': None}
ARCHITECTURE = {
    'network_class_name': 'dynamic_network_architectures.architectures.unet.PlainConvUNet',
    'arch_kwargs': {
        'n_stages': 2,
        'features_per_stage': [2, 4],
        'conv_op': 'torch.nn.modules.conv.Conv3d',
        'kernel_sizes': [[3, 3, 3]] * 2,
        'strides': [[1, 1, 1], [2, 2, 2]],
        'n_conv_per_stage': [1, 1],
        'n_conv_per_stage_decoder': [1],
        'conv_bias': True,
        'norm_op': None,
        'norm_op_kwargs': None,
        'dropout_op': None,
        'dropout_op_kwargs': None,
        'nonlin': 'torch.nn.LeakyReLU',
        'nonlin_kwargs': {'negative_slope': 1.0},  # nothing but linear
    },
    '_kw_requires_import': ['conv_op', 'norm_op', 'dropout_op', 'nonlin'],
}


def write_model(folder: Path, threshold: float = 0.0, spacing: float = 4.0) -> Path:
    """Write ``plans.json``, ``dataset.json`` and ``fold_all/checkpoint_final.pth``.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    threshold : float
        Brain is what lies above, in standard deviations from the mean of the image that is
        cropped to what is not zero (nnU-Net normalizes intensities before the network).
    spacing : float
        Voxel edge in mm at which the network works.
    """
    (folder / 'fold_all').mkdir(parents=True)
    configuration = {
        'data_identifier': 'small_3d_fullres',
        'preprocessor_name': 'DefaultPreprocessor',
        'batch_size': 1,
        'patch_size': [32, 32, 32],
        'median_image_size_in_voxels': [48, 58, 48],
        'spacing': [spacing] * 3,
        'normalization_schemes': ['ZScoreNormalization'],
        'use_mask_for_norm': [False],
        'resampling_fn_data': 'resample_data_or_seg_to_shape',
        'resampling_fn_seg': 'resample_data_or_seg_to_shape',
        'resampling_fn_probabilities': 'resample_data_or_seg_to_shape',
        'resampling_fn_data_kwargs': RESAMPLING,
        'resampling_fn_seg_kwargs': RESAMPLING | {'is_seg': True},
        'resampling_fn_probabilities_kwargs': RESAMPLING,
        'batch_dice': False,
        'architecture': ARCHITECTURE,
    }
    plans = {
        'dataset_name': 'Dataset000_Small',
        'plans_name': 'nnUNetPlans',
        'original_median_spacing_after_transp': [spacing] * 3,
        'original_median_shape_after_transp': [48, 58, 48],
        'image_reader_writer': 'SimpleITKIO',
        'transpose_forward': [0, 1, 2],
        'transpose_backward': [0, 1, 2],
        'configurations': {'3d_fullres': configuration},
        'experiment_planner_used': 'ExperimentPlanner',
        'label_manager': 'LabelManager',
        'foreground_intensity_properties_per_channel': {'0': {}},
    }
    dataset = {
        'channel_names': {'0': 'T1'},
        'labels': {'background': 0, 'brain': 1},
        'numTraining': 1,
        'file_ending': '.nii.gz',
    }
    (folder / 'plans.json').write_text(json.dumps(plans))
    (folder / 'dataset.json').write_text(json.dumps(dataset))
    torch.save(
        {
            'network_weights': thresholding(threshold).state_dict(),
            'trainer_name': 'nnUNetTrainer',
            'init_args': {'configuration': '3d_fullres', 'fold': 'all'},
            'inference_allowed_mirroring_axes': (0, 1, 2),
        },
        folder / 'fold_all' / 'checkpoint_final.pth',
    )
    return folder


def thresholding(threshold: float) -> nn.Module:
    """Random weights but for one path, through the skip connection, that keeps the intensity."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    torch.manual_seed(0)
    modules = {'conv_op': nn.Conv3d, 'nonlin': nn.LeakyReLU}
    net = PlainConvUNet(
        input_channels=1,
        num_classes=2,
        deep_supervision=False,
        **(ARCHITECTURE['arch_kwargs'] | modules),
    )
    into = net.encoder.stages[0][0].convs[0].conv
    out = net.decoder.stages[0].convs[0].conv
    labels = net.decoder.seg_layers[0]
    with torch.no_grad():
        # Channels of the decoder: two from below, then two from the skip connection.
        for layer, channel in ((into, 0), (out, 2)):
            layer.weight[0] = 0
            layer.weight[0, channel, 1, 1, 1] = 1
            layer.bias[0] = 0
        labels.weight[:] = 0
        labels.weight[1, 0] = 1
        labels.bias[:] = torch.tensor([threshold, 0.0])
    return net
