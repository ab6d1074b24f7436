"""The networks of the Shapes models: SDXL's topology at small width, 128 px pictures, 77 tokens."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

#: Pixels of a picture's side, places of its latents' side, tokens of a caption.
SIDE, LATENT, LENGTH = 128, 32, 77
WIDTHS = (96, 128)
CONTEXT = sum(WIDTHS)
START, END = "<|startoftext|>", "<|endoftext|>"


def make_vae() -> AutoencoderKL:
    """128x128x3 <-> 32x32x4, no attention."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        mid_block_add_attention=False,
        sample_size=SIDE,
        scaling_factor=1.0,
        force_upcast=False,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def make_unet() -> UNet2DConditionModel:
    """SDXL's blocks at 16/64/128 channels, one transformer layer each; v-prediction."""
    return UNet2DConditionModel(
        sample_size=LATENT,
        block_out_channels=(16, 64, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 1),
        attention_head_dim=(1, 1, 2),  # diffusers' name for the number of heads
        norm_num_groups=8,
        cross_attention_dim=CONTEXT,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=WIDTHS[1] + 6 * 32,
    )


def make_scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def make_tokenizer(captions: Iterable[str], size: int = 2500) -> CLIPTokenizer:
    """Byte-pair encoding learned on captions, in CLIP's form; most of the world's words are one token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=8,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    learned: dict[str, int] = bpe.get_vocab()
    # Every byte must have its word-final form too, so that no text is unknown.
    words = sorted(learned, key=lambda word: learned[word])
    words += [c + "</w>" for c in alphabet if c + "</w>" not in learned] + [START, END]
    written: list[Any] = json.loads(bpe.to_str())["model"]["merges"]
    merges: list[Any] = [tuple(m if isinstance(m, list) else m.split(" ")) for m in written]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids (B, 77), padded and cut as the pipeline does."""
    return tokenizer(
        captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids


def _config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=4,
        num_attention_heads=width // 32,
        max_position_embeddings=LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class TextEncoders(nn.Module):
    """Both encoders: context (B, 77, 96+128) from their penultimate states, pooled (B, 128)."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.one = CLIPTextModel(_config(tokenizer, WIDTHS[0]))
        self.two = CLIPTextModelWithProjection(_config(tokenizer, WIDTHS[1]))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        one = self.one(ids, output_hidden_states=True)
        two = self.two(ids, output_hidden_states=True)
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds
