"""The parts of GLAD at the paper's scale, from the real graphs with random weights.

    python benchmarks/glad_paper.py [--time 256]

Multiply-adds of one pass of Stable Diffusion's U-Net, of its autoencoder both ways and of DINO
ViT-B/8 at 256 and 512 px; from these, an image and a category. With --time also the seconds of
each part at that size, in float32 on one thread (4 GB).
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

import adbench  # noqa: F401  (lets timm and diffusers import beside any torchvision)

STEPS, COMPARED = 25, 13  # T = 750, t_min = 350: 13 of the 25 steps compare
TRAINED, BATCH = 4000, 32


def parts(device):
    """Return name -> (module's call, input shape by side in pixels)."""
    import timm
    from diffusers import AutoencoderKL, UNet2DConditionModel

    blocks = ("CrossAttnDownBlock2D",) * 3
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=(*blocks, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        ).eval()
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        ).eval()
        dino = timm.create_model("vit_base_patch8_224.dino", dynamic_img_size=True).eval()
        prompt, when = torch.zeros(1, 77, 768), torch.zeros(1)
    return {
        "network": (unet, lambda x: unet(x, when, encoder_hidden_states=prompt).sample, 4, 8),
        "encode": (vae.encoder, vae.encoder, 3, 1),
        "decode": (vae.decoder, vae.decoder, 4, 8),
        "features": (dino, dino.forward_features, 3, 1),
    }


@torch.no_grad()
def macs(side):
    """Return part -> 10^9 multiply-adds of one pass, counted on the graph."""
    found = {}
    for name, (_, call, channels, factor) in parts("meta").items():
        image = torch.zeros(1, channels, side // factor, side // factor, device="meta")
        with FlopCounterMode(display=False) as counter:
            call(image)
        found[name] = counter.get_total_flops() / 2e9
    return found


def image(cost, guided, compared):
    """Return the multiply-adds of a normal image, 10^9, with so many comparisons."""
    walk = STEPS * (2 if guided else 1) * cost["network"]
    comparing = compared * 2 * (cost["decode"] + cost["features"])
    return walk + comparing + cost["encode"] + cost["decode"] + 2 * cost["features"]


@torch.no_grad()
def timed(side):
    found = {}
    for name, (module, call, channels, factor) in parts("cpu").items():
        shape = (1, channels, side // factor, side // factor)
        start = time.process_time()
        call(torch.randn(shape))
        found[name] = time.process_time() - start
        weights = sum(p.numel() for p in module.parameters()) / 1e6
        print(f"  {name}: {weights:.0f} M weights, {found[name]:.1f} s a pass", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", type=int, help="side in pixels")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for side in (256, 512):
        cost = macs(side)
        print(
            f"{side} px, 10^9 multiply-adds: " + ", ".join(f"{k} {v:.0f}" for k, v in cost.items())
        )
        for guided in (True, False):
            walk, last = (image(cost, guided, n) / 1e3 for n in (COMPARED, 1))
            print(
                f"  guided {guided}: a normal image {walk:.1f} T walked, {last:.1f} T last_first",
                end="",
            )
            rest = 2 * cost["features"] * (COMPARED + 1) / 1e3, 4 * cost["features"] / 1e3
            print(f"; without features {(walk - rest[0]) / (last - rest[1]):.1f} times more")
        step = 3 * cost["network"]
        once = 1.5 * cost["encode"]  # half the images carry a defect
        total = TRAINED * BATCH * step / 1e6
        print(f"  training {total:.0f} P cached, {total + TRAINED * BATCH * once / 1e6:.0f} P not")
    if chosen.time:
        cost = timed(chosen.time)
        for guided in (True, False):
            walk, last = (image(cost, guided, n) for n in (COMPARED, 1))
            print(f"  guided {guided}: a normal image {walk:.0f} s walked, {last:.0f} s last_first")


if __name__ == "__main__":
    main()
