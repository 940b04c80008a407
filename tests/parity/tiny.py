"""Tiny random reference models: every parameter shaken, every shape its own, saved in small shards.

T5 has as many decoder layers as encoder layers here: with more, the reference's own `generate` runs out of
cache.
"""

import torch
import transformers as ref

TEXTS = {
    "llama": lambda: ref.LlamaConfig(
        vocab_size=99,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "mistral": lambda: ref.MistralConfig(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        sliding_window=11,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "opt-pre": lambda: ref.OPTConfig(
        vocab_size=99,
        hidden_size=20,
        ffn_dim=36,
        num_hidden_layers=2,
        num_attention_heads=5,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
        word_embed_proj_dim=20,
    ),
    "opt-post": lambda: ref.OPTConfig(
        vocab_size=99,
        hidden_size=16,
        ffn_dim=36,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    ),
    "t5-gated": lambda: ref.T5Config(
        vocab_size=99,
        d_model=24,
        d_kv=5,
        d_ff=40,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        feed_forward_proj="gated-gelu",
        dense_act_fn="gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
        bos_token_id=1,
    ),
    "t5-relu": lambda: ref.T5Config(
        vocab_size=99,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        decoder_start_token_id=0,
        bos_token_id=1,
    ),
}
IMAGE, VIDEO = 97, 98
QUERIES = 5


def shaken(model, amount=0.2):
    """Default initialisation is too small to show mistakes: add noise to every parameter."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * amount)
    return model.eval()


def instructblip(text: str, video: bool = False):
    """A reference InstructBLIP (or InstructBlipVideo) around the named text model."""
    kind = "InstructBlipVideo" if video else "InstructBlip"
    token = {"video_token_index": VIDEO} if video else {"image_token_index": IMAGE}
    config = getattr(ref, f"{kind}Config")(
        vision_config={
            "hidden_size": 12,
            "intermediate_size": 20,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 28,
            "patch_size": 14,
            "initializer_range": 0.02,
        },
        qformer_config={
            "vocab_size": 60,
            "hidden_size": 16,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": 40,
        },
        text_config=TEXTS[text]().to_dict(),
        num_query_tokens=QUERIES,
        **token,
    )
    return shaken(getattr(ref, f"{kind}ForConditionalGeneration")(config))


def video_llava(text: str, layer=-2, strategy="default"):
    """A reference Video-LLaVA around the named text model."""
    config = ref.VideoLlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 18,
            "intermediate_size": 30,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "image_size": 28,
            "patch_size": 14,
            "projection_dim": 8,
        },
        text_config=TEXTS[text]().to_dict(),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
    )
    model = ref.VideoLlavaForConditionalGeneration(config)
    model.generation_config = ref.GenerationConfig.from_model_config(config.text_config)
    return shaken(model)


def saved(model, folder):
    """The model's folder, in shards of 60 kB, as users have them."""
    model.save_pretrained(folder, max_shard_size="60KB")
    return folder


def agree(ours, theirs, where=None, tolerance=2e-5):
    """Equal within `tolerance` of the largest value, at the places that the mask keeps."""
    assert ours.shape == theirs.shape
    if where is not None:
        ours, theirs = ours[where], theirs[where]
    worst = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)
    assert worst <= tolerance, f"differs by {worst:.2e} of the largest value"
