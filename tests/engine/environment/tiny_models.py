"""Write a tiny pipeline with random weights to a folder: `python tiny_models.py sd3|wan|lora FOLDER SEED`.

Run by the interpreter of the engine's environment. SGLang knows a model by its folder's name, which must hold
`sd3-medium` or `wanpipeline`. All sizes are the smallest that the pipelines take.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import safetensors.torch
import torch
import transformers

CHANNELS = 16  # of the latents
PRINTABLE = [chr(code) for code in range(33, 127)]


def sd3():
    """Stable Diffusion 3: three text encoders, a transformer of two layers, 8 pixels a latent."""
    words = _byte_alphabet()
    vocabulary = {
        token: number
        for number, token in enumerate([*words, *(word + "</w>" for word in words), "<|startoftext|>", "<|endoftext|>"])
    }
    clip_tokens = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=96,
    )
    vae = diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(32,) * 4,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0609,
        scaling_factor=1.5035,
    )
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=_clip(vocabulary),
        tokenizer=clip_tokens,
        text_encoder_2=_clip(vocabulary),
        tokenizer_2=clip_tokens,
        text_encoder_3=_t5(transformers.T5EncoderModel, transformers.T5Config),
        tokenizer_3=_t5_tokens(256),
    )


def wan():
    """Wan 2.1, text to video: one text encoder, a transformer of two layers, 4 frames and 8 pixels a latent."""
    transformer = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=64,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )
    vae = diffusers.AutoencoderKLWan(
        base_dim=8,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return diffusers.WanPipeline(
        tokenizer=_t5_tokens(512),
        text_encoder=_t5(transformers.UMT5EncoderModel, transformers.UMT5Config),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )


def write_lora(folder):
    """A LoRA of rank 4 for the Stable Diffusion 3 above, named as SGLang takes it: without the transformer's name."""
    Path(folder).mkdir(parents=True)
    tensors = {}
    for block in range(2):
        for layer in ("to_q", "to_k", "to_v"):
            name = f"transformer_blocks.{block}.attn.{layer}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, 64)
            tensors[f"{name}.lora_B.weight"] = torch.randn(64, 4)
    safetensors.torch.save_file(tensors, Path(folder) / "pytorch_lora_weights.safetensors")


def _byte_alphabet():
    """Give the 256 characters that stand for bytes in CLIP's vocabulary (openai/CLIP, simple_tokenizer.py)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + place) for place in range(len(hidden))]


def _clip(vocabulary):
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        max_position_embeddings=77,
        hidden_act="gelu",
        bos_token_id=vocabulary["<|startoftext|>"],
        eos_token_id=vocabulary["<|endoftext|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
    )
    return transformers.CLIPTextModelWithProjection(config).eval()


def _t5_tokens(longest):
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces = special + [(character, -3.0) for character in PRINTABLE]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=longest)


def _t5(model, config):
    return model(
        config(
            vocab_size=4 + len(PRINTABLE),
            d_model=64,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()


def main():
    """Make the pipeline that the command line names."""
    kind, folder, seed = sys.argv[1:]
    torch.manual_seed(int(seed))
    if kind == "lora":
        write_lora(folder)
    else:
        {"sd3": sd3, "wan": wan}[kind]().save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main()
