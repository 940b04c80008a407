"""llama.cpp at the text part of the same work, in a process of its own.

    PYTHON benchmarks/peers_llama.py write FILE --layers 32 --vocabulary 32064
    PYTHON benchmarks/peers_llama.py run FILE --positions 2087 --tokens 16 --repeats 3 --threads 2

PYTHON needs `llama-cpp-python` and `gguf`. The file is a LLaMA of 7B width in Q4_0 (head in Q6_K, as its own
tool writes it) with random bytes. `run` prints one JSON line. Nothing here imports watchword or torch.
"""

import argparse
import json
import random
import statistics
import time
from importlib.metadata import version

import numpy as np

WIDTH, INNER, HEADS = 4096, 11008, 32
BLOCKS = {"Q4_0": (32, 18), "Q6_K": (256, 210)}
"""Values in a block, and bytes of it."""


def packed(rows: int, width: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A random matrix in blocks, each with a small scale: Q4_0 has it in front, Q6_K at the end."""
    values, size = BLOCKS[kind]
    raw = rng.integers(0, 256, (rows, width // values, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.002 if kind == "Q4_0" else 0.00002).tobytes(), dtype=np.uint8)
    raw[..., : 2 if kind == "Q4_0" else None][..., -2:] = scale
    return raw.reshape(rows, -1)


def write(path: str, layers: int, vocabulary: int) -> None:
    """The file: settings, a made-up vocabulary, matrices."""
    import gguf

    rng = np.random.default_rng(0)
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(4096)
    out.add_embedding_length(WIDTH)
    out.add_block_count(layers)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    out.add_vocab_size(vocabulary)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    out.add_tokenizer_model("llama")
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words += [f"w{i}" for i in range(len(words), vocabulary)]
    out.add_token_list(words)
    out.add_token_scores([0.0] * vocabulary)
    out.add_token_types([2, 3, 3] + [6] * 256 + [1] * (vocabulary - 259))
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)

    def matrix(name: str, rows: int, width: int, kind: str = "Q4_0") -> None:
        out.add_tensor(
            name, packed(rows, width, kind, rng), raw_dtype=getattr(gguf.GGMLQuantizationType, kind)
        )

    matrix("token_embd.weight", vocabulary, WIDTH)
    out.add_tensor("output_norm.weight", np.ones(WIDTH, dtype=np.float32))
    matrix("output.weight", vocabulary, WIDTH, "Q6_K")
    for at in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{at}.{name}.weight", np.ones(WIDTH, dtype=np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{at}.{name}.weight", WIDTH, WIDTH)
        matrix(f"blk.{at}.ffn_gate.weight", INNER, WIDTH)
        matrix(f"blk.{at}.ffn_up.weight", INNER, WIDTH)
        matrix(f"blk.{at}.ffn_down.weight", WIDTH, INNER)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def run(path: str, positions: int, tokens: int, repeats: int, threads: int) -> dict:
    """Seconds to the first token and per further one, medians of `repeats` behind one that does not count."""
    from llama_cpp import Llama

    start = time.perf_counter()
    model = Llama(path, n_ctx=positions + tokens + 8, n_batch=512, n_threads=threads,
                  n_threads_batch=threads, verbose=False)  # fmt: skip
    load = time.perf_counter() - start
    ids = [random.Random(0).randrange(300, 32000) for _ in range(positions)]
    firsts, steps = [], []
    for number in range(repeats + 1):
        model.reset()
        start = time.perf_counter()
        model.eval(ids)
        token = model.sample(temp=0.0)
        middle = time.perf_counter()
        for _ in range(tokens - 1):
            model.eval([token])
            token = model.sample(temp=0.0)
        end = time.perf_counter()
        if number:
            firsts.append(middle - start)
            steps.append((end - middle) / (tokens - 1))
    return {
        "name": f"llama.cpp Q4_0 (llama-cpp-python {version('llama-cpp-python')}, text part)",
        "positions": positions,
        "load": load,
        "first_token": statistics.median(firsts),
        "step": statistics.median(steps),
        "vision": None,
        "peak": peak(),
        "runs": [round(one, 4) for one in firsts],
    }


def peak() -> int:
    """The most this process has held, in bytes."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("write")
    one.add_argument("file")
    one.add_argument("--layers", type=int, default=32)
    one.add_argument("--vocabulary", type=int, default=32064)
    two = commands.add_parser("run")
    two.add_argument("file")
    for name, default in (("positions", 2087), ("tokens", 16), ("repeats", 3), ("threads", 2)):
        two.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    if given.command == "write":
        write(given.file, given.layers, given.vocabulary)
    else:
        print(json.dumps(run(given.file, given.positions, given.tokens, given.repeats, given.threads)))


if __name__ == "__main__":
    main()
