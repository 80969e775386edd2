"""A near-linear initial state for the autoencoder: principal components instead of noise.

A ResNet block whose last convolution is zero is the identity, so the residual stream of a fresh
AutoencoderKL can be made linear: each downsampling sorts 2x2 pixels into channels and keeps their
principal components, the decoder interpolates them back. Training then starts at the quality
of smooth block averages and only has to learn the rest.

The tail `norm -> silu -> conv` is made linear too: silu(x) - silu(-x) = x, so every wanted
channel is carried with both signs, and two constant channels +-PIN fix the norm's statistics.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

PIN = 4.0  # constant channels; several standard deviations of the carried ones
LOG_VARIANCE = -5.6  # posterior standard deviation of 0.06, latents being about 1


@torch.no_grad()
def start_near_linear(vae: AutoencoderKL, images: Tensor) -> None:
    """Set the weights of a fresh autoencoder from pictures [N, 3, S, S] in -1..1."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.zero_()
            module.conv2.bias.zero_()
            if module.conv_shortcut is not None:
                n = min(module.conv_shortcut.weight.shape[:2])
                module.conv_shortcut.weight[:n] = torch.eye(n, module.conv_shortcut.in_channels)[
                    ..., None, None
                ]
                module.conv_shortcut.bias.zero_()
    for half in (vae.encoder, vae.decoder):
        half.mid_block.attentions[0].to_out[0].weight.zero_()
        half.mid_block.attentions[0].to_out[0].bias.zero_()
    latents = _encoder(vae, images)
    _decoder(vae, images, latents)


def _encoder(vae: AutoencoderKL, images: Tensor) -> Tensor:
    encoder, wanted = vae.encoder, vae.config.latent_channels
    _only(encoder.conv_in, torch.eye(3), 4)
    stream = images
    last = len(encoder.down_blocks) - 2
    for i, block in enumerate(encoder.down_blocks[: last + 1]):
        conv = block.downsamplers[0].conv
        stacked = torch.nn.functional.pixel_unshuffle(stream, 2)  # [N, 4c, ...], c-major
        keep = wanted if i == last else min(stacked.shape[1], conv.out_channels // 2)
        basis = _components(stacked, keep)  # [keep, 4c]
        if i == last:
            spread = torch.einsum("kc,nchw->nkhw", basis, stacked).std((0, 2, 3))
            basis = basis / spread.sqrt()[:, None] / spread.mean().sqrt()
            basis = torch.cat([basis, -basis])
        kernel = basis.view(len(basis), -1, 2, 2)
        used = len(basis) + 2 * (i == last)
        conv.weight[:used] = 0
        conv.bias[:used] = 0
        conv.weight[: len(basis), : kernel.shape[1], :2, :2] = kernel
        if i == last:
            conv.bias[used - 2 : used] = torch.tensor([PIN, -PIN])
        stream = torch.einsum("kc,nchw->nkhw", basis[:keep], stacked)
    _linear_tail(encoder.conv_norm_out, encoder.conv_out, wanted)
    encoder.conv_out.weight[wanted:] = 0
    encoder.conv_out.bias[wanted:] = LOG_VARIANCE
    _only(vae.quant_conv, torch.eye(2 * wanted), 2 * wanted)
    _only(vae.post_quant_conv, torch.eye(wanted), wanted)
    return stream


def _decoder(vae: AutoencoderKL, images: Tensor, latents: Tensor) -> None:
    decoder = vae.decoder
    blocks = torch.nn.functional.adaptive_avg_pool2d(images, latents.shape[-1])
    x = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double().numpy()
    y = blocks.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy()
    solved, *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
    to_colour = torch.from_numpy(solved.T).float()  # [3, latents + 1]
    matrix = torch.cat([to_colour, -to_colour])
    _only(decoder.conv_in, matrix[:, :-1], 8)
    decoder.conv_in.bias[:6] = matrix[:, -1]
    decoder.conv_in.bias[6:8] = torch.tensor([PIN, -PIN])
    smooth = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
    for block in decoder.up_blocks[:-1]:
        conv = block.upsamplers[0].conv
        conv.weight[:8] = 0
        conv.bias[:8] = 0
        for channel in range(8):
            conv.weight[channel, channel] = smooth
            if channel >= 6:  # the border's zero padding must not bend the constants
                conv.weight[channel] = 0
                conv.bias[channel] = PIN if channel == 6 else -PIN
    _linear_tail(decoder.conv_norm_out, decoder.conv_out, 3)


def _components(stacked: Tensor, keep: int) -> Tensor:
    """The `keep` strongest principal directions of the channels, [keep, channels]."""
    flat = stacked.transpose(0, 1).flatten(1)
    _, vectors = torch.linalg.eigh(torch.cov(flat))
    return vectors.flip(1)[:, :keep].T.contiguous()


def _only(conv: torch.nn.Conv2d, matrix: Tensor, rows: int) -> None:
    """Make the first `rows` outputs of a convolution a plain matrix of its first inputs."""
    middle = conv.kernel_size[0] // 2
    conv.weight[:rows] = 0
    conv.bias[:rows] = 0
    conv.weight[: matrix.shape[0], : matrix.shape[1], middle, middle] = matrix


def _linear_tail(norm: torch.nn.GroupNorm, conv: torch.nn.Conv2d, wanted: int) -> None:
    """Make `norm -> silu -> conv` return channels 0..wanted of a stream with both signs."""
    per_group = norm.num_channels // norm.num_groups
    if 2 * wanted + 2 > per_group:
        raise ValueError(f"{2 * wanted + 2} channels must fit into one norm group of {per_group}")
    norm.weight[: 2 * wanted] = (2 * (PIN**2 + wanted * 0.4) / per_group) ** 0.5
    conv.weight.mul_(0.05)
    conv.weight[:, : 2 * wanted + 2] = 0
    conv.bias.zero_()
    for i in range(wanted):
        conv.weight[i, i, 1, 1] = 1
        conv.weight[i, i + wanted, 1, 1] = -1
