"""Fields that configs of the reference share whatever they describe: their defaults, and what is refused.

Files leave out what stands at its default.
"""

from typing import Any

# Name -> default, of every config.
BASE_FIELDS: dict[str, Any] = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "torchscript": False,
    "dtype": None,
    "pruned_heads": {},
    "tie_word_embeddings": True,
    "chunk_size_feed_forward": 0,
    "is_encoder_decoder": False,
    "is_decoder": False,
    "cross_attention_hidden_size": None,
    "add_cross_attention": False,
    "tie_encoder_decoder": False,
    "architectures": None,
    "finetuning_task": None,
    "id2label": {0: "LABEL_0", 1: "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "task_specific_params": None,
    "problem_type": None,
    "tokenizer_class": None,
    "prefix": None,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": None,
    "sep_token_id": None,
    "decoder_start_token_id": None,
    "tf_legacy_loss": False,
    "use_bfloat16": False,
}

# Old checkpoints keep settings of generation in config.json; these are their names and defaults.
GENERATION_FIELDS: dict[str, Any] = {
    "max_length": 20,
    "min_length": 0,
    "do_sample": False,
    "early_stopping": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "num_return_sequences": 1,
    "output_scores": False,
    "return_dict_in_generate": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}

# Written by one library or another for its own records; no number depends on them.
BOOKKEEPING = frozenset({"transformers_version", "auto_map", "name_or_path", "gradient_checkpointing"})

# Known to change the numbers, and not implemented: field -> the values that leave the numbers alone.
REFUSED: dict[str, tuple[Any, ...]] = {
    "pruned_heads": ({}, None),
    "tie_encoder_decoder": (False, None),
    "quantization_config": (None,),
}

# The reference has these everywhere but computes nothing from them in the parts implemented here.
INERT = (
    "chunk_size_feed_forward",
    "is_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "use_bfloat16",
)

DTYPES = ("float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "uint8")
