"""Small tokenizers of every kind the families use, made from a few lines, and the folders that hold them."""

import json
import math
from collections import Counter
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [
    "What is happening in this video? A cat chases the red ball, doesn't it?",
    "Why is this video funny? The baby reads a book while sitting on the bed.",
    "USER: ASSISTANT: Describe the picture in detail. Two people are walking, I'm sure.",
    "What is unusual about this image? The unusual aspect of the image is a man ironing clothes on a car.",
    "Ünïcödé naïve café, 日本語, emoji 🙂 and numbers 1234567890 ' n't 's 've",
] * 4


def _pieces(backend: tokenizers.Tokenizer, inside: str = "") -> Counter[str]:
    """How often words begin and end with what, and hold which letter; `inside` marks what begins no word.

    For the kinds whose trainers are not used: what the library's Unigram and WordPiece find differs from run
    to run.
    """
    counts: Counter[str] = Counter()
    for line in LINES:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(line)):
            cuts = range(1, len(word))
            counts.update([word, word[0], *(inside + letter for letter in word[1:])])
            counts.update(part for cut in cuts for part in (word[:cut], inside + word[cut:]))
    return counts


def llama_like(legacy: bool = True) -> tokenizers.Tokenizer:
    """BPE with byte fallback, the space as a piece, BOS in front."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=560, special_tokens=special, show_progress=False, limit_alphabet=60
    )
    backend.train_from_iterator(LINES, trainer)
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # bytes are ordinary pieces
    backend = tokenizers.Tokenizer.from_str(json.dumps(state))
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return backend


def t5_like() -> tokenizers.Tokenizer:
    """Unigram with EOS at the end."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    counts = _pieces(backend)
    scores = [(piece, math.log(count / counts.total())) for piece, count in counts.most_common(177)]
    backend.model = models.Unigram([*((one, 0.0) for one in special), *scores], unk_id=2)
    backend.add_special_tokens(special)
    backend.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="$A:0 </s>:0", pair="$A:0 </s>:0 $B:0 </s>:0", special_tokens=[("</s>", 1)]
    )
    return backend


def opt_like() -> tokenizers.Tokenizer:
    """Byte-level BPE with BOS </s> in front."""
    backend = tokenizers.Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(LINES, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="</s>:0 $A:0", pair="</s>:0 $A:0 $B:1", special_tokens=[("</s>", 2)]
    )
    return backend


def bert_like() -> tokenizers.Tokenizer:
    """WordPiece in lower case, [CLS] text [SEP]."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    counts = _pieces(backend, inside="##")
    letters_first = sorted(counts, key=lambda piece: (len(piece.removeprefix("##")) > 1, -counts[piece]))
    vocabulary = {piece: index for index, piece in enumerate([*special, *letters_first[:215]])}
    backend.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return backend


def word_list() -> tokenizers.Tokenizer:
    """Whole words and nothing else, as the smallest models have."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    backend.train_from_iterator(LINES, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    backend.post_processor = processors.TemplateProcessing(single="<s>:0 $A:0", special_tokens=[("<s>", 1)])
    return backend


MAKERS = {
    "llama": llama_like,
    "llama_new": lambda: llama_like(legacy=False),
    "t5": t5_like,
    "opt": opt_like,
    "bert": bert_like,
    "words": word_list,
}
SETTINGS = {
    "llama": {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "add_eos_token": False,
        "legacy": True,
        "extra_special_tokens": {"image_token": "<image>", "video_token": "<video>"},
    },
    "t5": {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "extra_ids": 0,
        "additional_special_tokens": [],
        "clean_up_tokenization_spaces": True,
    },
    "opt": {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "</s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
        "pad_token": "<pad>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": True,
    },
    "bert": {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "model_max_length": 512,
        "truncation_side": "left",
        "clean_up_tokenization_spaces": True,
    },
}
SETTINGS["words"] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "padding_side": "left",
    "model_input_names": ["input_ids", "attention_mask"],
}
SETTINGS["llama_new"] = SETTINGS["llama"] | {"legacy": False}


def write_tokenizer(folder: Path, kind: str, **changes: object) -> Path:
    """A tokenizer folder of the given kind, as the reference's 4.x versions write it."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = MAKERS[kind]()
    config = SETTINGS[kind] | changes
    if kind.startswith("llama"):
        named = config["extra_special_tokens"]
        backend.add_special_tokens(
            [AddedToken(token, special=True) for token in ("<image>", "<video>", "<pad>")]
        )
        config = config | named
    backend.save(str(folder / "tokenizer.json"))
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config["added_tokens_decoder"] = {
        str(index): {name: getattr(token, name) for name in fields}
        for index, token in backend.get_added_tokens_decoder().items()
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
