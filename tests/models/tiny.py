"""A tiny SDXL with random weights and SDXL's topology: the eleven transformer blocks at their real paths.

The usual test configurations of the field have two levels, where `down_blocks.2` does not exist. Here:
channels (32, 64, 128), 1/2/3 transformer layers, heads (2, 4, 8), context 24 + 40, images of 64 px,
32x32 latents, so 16x16 positions at level 1 and 8x8 at the deep blocks. 10,284,676 UNet parameters; nothing
is downloaded.
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = (
    "a an the of in on with and cat dog bird car tree house boat moon red green blue small large "
    "circle square star heart left right above below background painting photo cartoon"
)

SDXL_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of whole WORDS, single letters and digits, written as vocab.json and merges.txt."""
    letters = [chr(c) for c in range(ord("!"), ord("~") + 1)]
    tokens, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS.split():
        *pieces, last = word
        pieces.append(f"{last}</w>")
        while len(pieces) > 1:
            left, right, *rest = pieces
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                tokens.append(left + right)
            pieces = [left + right, *rest]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _text_config(tokenizer: CLIPTokenizer, width: int, layers: int = 3) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_unet(
    seed: int = 0, context: int = 64, time_ids: int = 6, guidance_numbers: int | None = None
) -> UNet2DConditionModel:
    """The UNet alone: input (batch, 4, 32, 32), `context` text channels, `time_ids` micro-conditions.

    `guidance_numbers`: as how many it reads the guidance scale, None if it does not."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(32, 64, 128),
            layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 3),
            attention_head_dim=(2, 4, 8),
            cross_attention_dim=context,
            use_linear_projection=True,
            norm_num_groups=8,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 8 * time_ids,
            time_cond_proj_dim=guidance_numbers,
        ).eval()


def tiny_vae(seed: int = 0) -> AutoencoderKL:
    """A two-level VAE: 64 px images to 4x32x32 latents."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=8,
            latent_channels=4,
            sample_size=64,
            scaling_factor=0.13025,
            force_upcast=False,
        ).eval()


def tiny_pipeline(folder: Path, seed: int = 0, layers_2: int = 3, **scheduler: object) -> Path:
    """Write the tiny SDXL as a diffusers folder and return it. `scheduler`: configuration over Euler's."""
    folder = Path(folder)
    tokenizers = [tiny_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        text = CLIPTextModel(_text_config(tokenizers[0], 24))
        text_2 = CLIPTextModelWithProjection(_text_config(tokenizers[1], 40, layers_2))
    StableDiffusionXLPipeline(
        vae=tiny_vae(seed),
        text_encoder=text,
        text_encoder_2=text_2,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=tiny_unet(seed),
        scheduler=EulerDiscreteScheduler(
            **{**SDXL_BETAS, "timestep_spacing": "leading", "steps_offset": 1, **scheduler}
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def tiny_refiner(folder: Path, seed: int = 7, layers: int = 3) -> Path:
    """Write a tiny refiner beside `tiny_pipeline`: the second text encoder only, five micro-conditions."""
    folder = Path(folder)
    tokenizer = tiny_tokenizer(folder / "tokenizer_2")
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        text_2 = CLIPTextModelWithProjection(_text_config(tokenizer, 40, layers))
    StableDiffusionXLImg2ImgPipeline(
        vae=tiny_vae(),
        text_encoder=None,
        text_encoder_2=text_2,
        tokenizer=None,
        tokenizer_2=tokenizer,
        unet=tiny_unet(seed, context=40, time_ids=5),
        scheduler=EulerDiscreteScheduler(**SDXL_BETAS, timestep_spacing="leading", steps_offset=1),
        requires_aesthetics_score=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder
