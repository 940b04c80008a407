from types import SimpleNamespace

import pytest
import torch

from watchword import config as configs
from watchword.errors import CapacityError, ConfigError
from watchword.models import build
from watchword.nn import memory as memories
from watchword.nn.memory import Memory, gib, group_left, memory
from watchword.weights import quantize, sizes

TEXT = configs.LlamaConfig(
    vocab_size=600, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
CONFIG = configs.VideoLlavaConfig(
    vision_config={"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3,
                   "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
    text_config=TEXT, image_token_index=1, video_token_index=2,
)  # fmt: skip
SHAPES = {name: tuple(one.shape) for name, one in build.build(CONFIG).state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_weights_are_counted_to_the_byte(dtype):
    model = build.build(CONFIG).to(dtype)
    parts = {name: sum(p.nbytes for p in part.state_dict().values()) for name, part in model.named_children()}
    assert sizes.weight_bytes(SHAPES, dtype) == parts


@pytest.mark.parametrize("form", ["int8", "int4", "nf4"])
def test_packed_weights_are_counted_as_their_linears_hold_them(form):
    linear = quantize.Recipe(form).linear(form, torch.randn(256, 512), "linear")
    linear.settle()
    most = sizes.weight_bytes({"text.linear": (256, 512)}, torch.float32, {"text.linear": form})["text"]
    least = 0.5 if form == "nf4" else 0.95  # two planes only where the processor has the product for them
    assert least * most <= linear.nbytes <= most


@pytest.mark.parametrize(("form", "expected"), [("int8", 10 * 132 + 40), ("int4", 10 * (66 + 18))])
def test_matrix_counts_scales_of_every_group_begun(form, expected):
    assert sizes.matrix_bytes((10, 132), sizes.FORMATS[form]) == expected
    idle = 10 * 3 * 2 if form == "int4" else 0
    assert sizes.matrix_bytes((10, 132), sizes.FORMATS[form], read=True) == expected - idle


def test_cache_is_what_the_cache_takes():
    from watchword.generation.cache import KVCache

    model = build.build(CONFIG).language_model
    cache = KVCache(model.cache_spec, 3, 50, torch.bfloat16)
    for index in range(3):
        keys = torch.zeros(3, 2, 1, 16, dtype=torch.bfloat16)
        cache.layer(index).attend(torch.zeros(3, 4, 1, 16, dtype=torch.bfloat16), keys, keys)
    assert sizes.cache_bytes(TEXT, 40, 3, new=10) == cache.nbytes


def test_need_adds_up_and_keeps_within_its_budget():
    found = sizes.need(SHAPES, TEXT, torch.bfloat16, positions=100, rows=2, new=20, keep=1000)
    assert found.kept == 1000
    assert found.cache == sizes.cache_bytes(TEXT, 100, 2, new=20)
    assert found.total == sum(found.rows().values())
    more = sizes.need(SHAPES, TEXT, torch.bfloat16, positions=100, keep=10**9)
    assert more.kept == sizes.cache_bytes(TEXT, 100)


def test_formats_unknown_are_refused_by_name():
    name = next(iter(SHAPES))
    with pytest.raises(ConfigError, match=rf"{name}: format 'int3': unknown; expected one of int8, .*, fp4"):
        sizes.weight_bytes(SHAPES, torch.float32, {name: "int3"})


def test_check_refuses_what_does_not_fit():
    wanted = sizes.Need({"language_model": 3 * 2**30}, 2**30, 0, 0, 0)
    sizes.check_fits(wanted, Memory(2**32, "the machine's free memory"), "model")
    sizes.check_fits(wanted, Memory(None, "this system"), "model")
    with pytest.raises(CapacityError, match=r"model: needs about 4\.0 GiB \(3\.0 GiB of weights\), and the "
                       r"container's limit is 2\.0 GiB; .*quantize='int8'"):  # fmt: skip
        sizes.check_fits(wanted, Memory(2**31, "the container's limit"), "model")


def test_memory_says_what_this_machine_has():
    found = memory("cpu")
    assert found.available is None or found.available == min(found.more.values())


@pytest.mark.parametrize(("line", "folder", "names"), [
    ("0::/a/b", "a", ("memory.max", "memory.current")),
    ("4:cpu,memory:/a/b", "memory/a", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
])  # fmt: skip
def test_container_limits_count_files_as_free(tmp_path, line, folder, names):
    (tmp_path / "own").write_text(f"1:name=x:/\n{line}\n")
    place = tmp_path / folder
    (place / "b").mkdir(parents=True)
    for at, most in ((place, "5000"), (place / "b", "max" if line[0] == "0" else str(2**63))):
        (at / names[0]).write_text(f"{most}\n")
        (at / names[1]).write_text("3000\n")
        (at / "memory.stat").write_text("anon 2000\ninactive_file 600\nactive_file 400\n")
    assert group_left(tmp_path, tmp_path / "own") == 3000
    assert group_left(tmp_path, tmp_path / "none") is None


def test_sizes_are_told_in_the_unit_that_fits():
    assert [gib(one) for one in (2**30 * 3.25, 2**20 * 80)] == ["3.2 GiB", "80.0 MiB"]


def test_freed_memory_is_given_back_where_the_c_library_can(monkeypatch):
    called = []
    library = SimpleNamespace(malloc_trim=lambda pad: called.append(pad))
    for found in (library, SimpleNamespace()):  # the second is another system's
        monkeypatch.setattr(memories.ctypes, "CDLL", lambda name, found=found: found)
        memories._trim.cache_clear()
        memories.give_back()
    memories._trim.cache_clear()
    assert called == [0]
