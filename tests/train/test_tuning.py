"""Whole runs on tiny checkpoints: what learns and what stays, every data format, stopping and going on."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import watchword
from tests import folders
from tests.train import material
from watchword import train
from watchword.errors import CapacityError, MissingExtra, RequestError, TrainingError, UnknownArgument
from watchword.train import measuring
from watchword.train import plan as planning
from watchword.train import tuner as tuner_module
from watchword.train.opening import CLASSES
from watchword.train.recipes import RECIPES
from watchword.weights import files

QUICK = {
    "workers": 0, "batch": 2, "micro": 1, "rate": 3e-3, "hold_out": 0, "save": 100, "warm_up": 0,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of every family one, made when first asked for."""
    made = {}

    def of(kind, text="llama"):
        if (kind, text) not in made:
            folder = tmp_path_factory.mktemp(kind)
            if kind == "video_llava":
                made[kind, text] = folders.video_llava(folder)
            else:
                made[kind, text] = folders.instructblip(folder, text=text, video=kind == "instructblipvideo")
        return made[kind, text]

    return of


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return material.jsonl(folder / "data.jsonl", material.lines(folder, 6))


@pytest.fixture(autouse=True)
def one_thread():
    """A forked child has none of its parent's threads, and must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(measuring, "LONGEST", 4)


def losses(folder):
    with (folder / "losses.csv").open(newline="") as file:
        return [float(line["loss"]) for line in csv.DictReader(file)]


def weights(folder):
    opened = files.open_weights(folder)
    return {name: shard.read(name).clone() for shard in opened.shards() for name in shard.names}


FAMILIES = [("video_llava", "llama"), ("instructblip", "opt"), ("instructblipvideo", "t5")]


@pytest.mark.parametrize("name", ["qformer", "projector", "language", "full"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f[0])
def test_what_is_frozen_stays_to_the_byte_and_what_learns_moves(family, name, checkpoints, tmp_path):
    checkpoint = checkpoints(*family)
    kind = "image" if family[0] == "instructblip" else "video"
    data = material.jsonl(tmp_path / "d.jsonl", material.lines(tmp_path, 2, kind=kind))
    ask = {"model": checkpoint, "out": tmp_path / "run", "recipe": name, "steps": 2, "frames": 2}
    if family[0] not in RECIPES[name].families:
        with pytest.raises(
            RequestError, match=r"recipe 'qformer': teaches the Q-Former.*video_llava has no such"
        ):
            train.run(data, **ask, **QUICK)
        return
    found = train.run(data, **ask, **QUICK)
    before, after = weights(checkpoint), weights(found.model)
    assert before.keys() == after.keys()
    for one in before:
        learns = one.startswith(RECIPES[name].parts) or (one.startswith("model.") and name == "full")
        assert learns or torch.equal(before[one], after[one]), one
    assert any(not torch.equal(before[one], after[one]) for one in before)
    again = watchword.load(found.model, device="cpu")
    assert again.model.config.model_type == family[0]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f[0])
def test_an_adapter_learns_beside_the_model(family, checkpoints, pictures, tmp_path):
    from watchword.models import layouts
    from watchword.weights.adapters import Family, load_adapter, values_of

    target = ("language",) if family[0] == "video_llava" else ("language", "qformer")
    found = train.run(
        pictures,
        model=checkpoints(*family),
        out=tmp_path,
        recipe="lora",
        steps=4,
        rank=4,
        targets=target,
        **QUICK,
    )
    assert (found.model / "adapter_config.json").exists()
    model = CLASSES[family[0]].from_pretrained(checkpoints(*family))
    load_adapter(model, found.model, Family(**layouts.for_adapters(model)))
    values = values_of(model, "default")
    assert all(one.any() for name, one in values.items() if name.endswith(".B"))
    assert any(name.startswith("qformer.") for name in values) == (len(target) == 2)


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_an_adapter_learns_over_quantized_weights_that_stay(checkpoints, pictures, tmp_path, bits):
    settings = QUICK | {"rate": 1e-2, "steps": 8, "quantize": bits, "rank": 4}
    found = train.run(pictures, model=checkpoints("video_llava"), out=tmp_path, recipe="qlora", **settings)
    shard = files.Shard(found.model / "adapter_model.safetensors")
    assert all(shard.read(name).any() for name in shard.names if ".lora_B." in name)  # the lowest layers' too
    assert np.mean(losses(tmp_path)[-2:]) < 0.9 * losses(tmp_path)[0]


def formats(folder):
    """The same six examples in every form."""
    entries = material.lines(folder / "media", 6)
    for one in entries:
        one["image"] = str(folder / "media" / one["image"])
    yield "jsonl", material.jsonl(folder / "own.jsonl", entries)
    llava = [
        {"image": one["image"], "conversations": [{"from": "human", "value": f"<image>\n{one['question']}"},
                                                  {"from": "gpt", "value": one["answer"]}]}
        for one in entries
    ]  # fmt: skip
    (folder / "llava.json").write_text(json.dumps(llava))
    yield "llava", folder / "llava.json"
    clips = material.lines(folder / "clips", 6, kind="video")
    asked = [
        {"q": c["question"], "a": c["answer"], "video_id": c["video"].removesuffix(".mp4")} for c in clips
    ]
    (folder / "clips" / "chatgpt.json").write_text(json.dumps(asked))
    yield "chatgpt", folder / "clips" / "chatgpt.json"
    sidecars = folder / "sidecars"
    for one in material.lines(sidecars, 6):
        (sidecars / one["image"]).with_suffix(".txt").write_text(
            f"Q: {one['question']}\nA: {one['answer']}\n"
        )
    yield "sidecars", sidecars
    yield "table", [one | {"image": Image.open(one["image"])} for one in entries]


def test_a_run_from_every_format_lowers_the_loss(checkpoints, tmp_path):
    for name, data in formats(tmp_path):
        out = tmp_path / f"run-{name}"
        model = checkpoints("video_llava")
        train.run(data, model=model, out=out, recipe="language", steps=8, frames=2, **QUICK | {"rate": 1e-2})
        found = losses(out)
        assert np.mean(found[-2:]) < 0.7 * found[0], name


def test_a_run_from_parquet_lowers_the_loss(checkpoints, tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"question": one["question"], "answer": one["answer"],
         "image": {"bytes": (tmp_path / one["image"]).read_bytes(), "path": None}}
        for one in material.lines(tmp_path, 6)
    ]  # fmt: skip
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    ask = {"model": checkpoints("video_llava"), "out": tmp_path / "run", "recipe": "language", "steps": 8}
    train.run(tmp_path / "d.parquet", **ask, **QUICK | {"workers": 1, "rate": 1e-2})
    found = losses(tmp_path / "run")
    assert np.mean(found[-2:]) < 0.7 * found[0]


def test_a_run_from_a_datasets_object_lowers_the_loss(checkpoints, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [
        one | {"image": Image.open(tmp_path / one["image"]).copy()} for one in material.lines(tmp_path, 6)
    ]
    data = datasets.Dataset.from_list(rows)
    assert isinstance(data, datasets.Dataset)
    ask = {"model": checkpoints("video_llava"), "out": tmp_path / "run", "recipe": "language", "steps": 8}
    train.run(data, **ask, **QUICK | {"workers": 1, "rate": 1e-2})
    found = losses(tmp_path / "run")
    assert np.mean(found[-2:]) < 0.7 * found[0]


def test_a_run_tells_what_learns_and_what_it_takes_before_the_first_step(checkpoints, pictures, tmp_path):
    told = []
    ask = {"model": checkpoints("video_llava"), "out": tmp_path, "recipe": "projector", "steps": 1}
    train.run(pictures, tell=told.append, **ask, **QUICK)
    first = next(n for n, line in enumerate(told) if line.startswith("step 1/1"))
    before = "\n".join(told[:first])
    assert "learns: the projection from vision to language" in before
    assert "multi_modal_projector             1,200 of          1,200 parameters" in before
    assert "language_model                        0 of" in before
    assert "memory: weights" in before
    assert "data: 6 examples in 1 sets" in before


def test_a_run_leaves_its_losses_as_table_and_picture_and_answers(checkpoints, pictures, tmp_path):
    settings = QUICK | {"hold_out": 2, "measure": 2, "samples": 1, "steps": 4}
    found = train.run(
        pictures, model=checkpoints("instructblip", "opt"), out=tmp_path, recipe="qformer", **settings
    )
    with (tmp_path / "losses.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["1", "2", "3", "4"]
    measured = {int(line["step"]): float(line["held_out"]) for line in lines if line["held_out"]}
    assert list(measured) == [2, 4]
    best = min(measured, key=measured.__getitem__)
    assert found.held_out == (measured[best], best)
    said = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [one["step"] for one in said] == [2, 4]
    assert said[0].keys() == {"step", "where", "question", "answer", "expected"}
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size[0] > 500
        assert len(picture.convert("RGB").getcolors(100_000)) > 20


def test_micro_batches_and_recomputing_change_nothing(checkpoints, pictures, tmp_path):
    found = []
    for micro, recompute in ((1, False), (4, False), (4, True)):
        out = tmp_path / f"{micro}-{recompute}"
        settings = QUICK | {"batch": 4, "micro": micro, "steps": 3, "recompute": recompute}
        train.run(pictures, model=checkpoints("instructblip", "opt"), out=out, recipe="projector", **settings)
        found.append(losses(out))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[1] == pytest.approx(found[2], rel=1e-5)


def test_kept_features_change_nothing(checkpoints, pictures, tmp_path):
    found = []
    for kept in (False, True):
        out = tmp_path / str(kept)
        ask = {"model": checkpoints("instructblipvideo", "t5"), "recipe": "projector", "steps": 3}
        train.run(pictures, out=out, cache_features=kept, **ask, **QUICK)
        found.append(losses(out))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert len(list((tmp_path / "True" / "features").iterdir())) == 6


def test_weights_in_bfloat16_learn_through_masters(checkpoints, pictures, tmp_path):
    settings = QUICK | {"steps": 16, "dtype": "bfloat16"}
    found = train.run(pictures, model=checkpoints("video_llava"), out=tmp_path, recipe="language", **settings)
    assert {one.dtype for one in weights(found.model).values()} == {torch.bfloat16}
    assert np.mean(losses(tmp_path)[-2:]) < 0.7 * losses(tmp_path)[0]


def test_answers_with_words_that_the_vocabulary_lacks_are_told(checkpoints, tmp_path):
    entries = material.lines(tmp_path / "data", 3)
    entries[1]["answer"] = "A Жук."
    data = material.jsonl(tmp_path / "data" / "data.jsonl", entries)
    for text, lacks in (("t5", True), ("opt", False)):
        told = []
        model = checkpoints("instructblip", text)
        out = tmp_path / text
        train.run(data, model=model, out=out, recipe="projector", steps=1, tell=told.append, **QUICK)
        found = [line for line in told if "vocabulary lacks" in line]
        assert len(found) == lacks
        assert all("1 examples have" in line and "data.jsonl" in line for line in found), found


# ---- going on


def test_one_process_at_a_time_trains_in_a_folder(checkpoints, pictures, tmp_path):
    run = partial(train.run, pictures, model=checkpoints("video_llava"), out=tmp_path, recipe="projector")
    run(steps=1, **QUICK)
    code = (
        "import fcntl, sys\n"
        f"file = open({str(tmp_path / planning.LOCK)!r}, 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RequestError, match="another process is training here; wait until it ends"):
            run(steps=1, resume=True, **QUICK)
    finally:
        other.communicate()
    assert run(steps=1, resume=True, **QUICK).steps == 1


def going(checkpoints, pictures, out, *, resume=False, **more):
    settings = (
        QUICK | {"steps": 8, "save": 2, "hold_out": 1, "measure": 3, "samples": 1, "dropout": 0.1} | more
    )
    return train.run(
        pictures,
        model=checkpoints("instructblip", "opt"),
        out=out,
        recipe="lora",
        resume=resume,
        rank=2,
        **settings,
    )


def in_child(work):
    """Run in a process of its own; its number. Nothing is left to chance there but when it is killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    return child


def until_killed(work, seconds):
    """Whether the process ended before it was killed."""
    child = in_child(work)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def same_runs(first, second):
    """Losses, measurements and what was learned are those of the other run, to the bit."""
    for name in ("losses.csv",):
        tables = []
        for folder in (first, second):
            with (folder / name).open(newline="") as file:
                tables.append(
                    [{k: v for k, v in line.items() if k != "seconds"} for line in csv.DictReader(file)]
                )
        assert tables[0] == tables[1]
    one, other = (weights_of_adapter(folder) for folder in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (first / "answers.jsonl").read_text() == (second / "answers.jsonl").read_text()


def weights_of_adapter(folder):
    shard = files.Shard(folder / "adapter" / "adapter_model.safetensors")
    return {name: shard.read(name).clone() for name in shard.names}


def killed_and_resumed(checkpoints, pictures, tmp_path, kills, seed):
    began = time.monotonic()
    going(checkpoints, pictures, tmp_path / "whole")
    whole = time.monotonic() - began
    out, chance = tmp_path / "broken", random.Random(seed)
    count = 0
    while True:
        resume = (out / "run.json").exists()
        seconds = chance.uniform(0.02, 0.8) * whole if count < kills else 600
        if until_killed(partial(going, checkpoints, pictures, out, resume=resume), seconds):
            break
        count += 1
    same_runs(tmp_path / "whole", out)
    return count


def dying(checkpoints, pictures, out, event, resume):
    """A run that kills itself at that event: steps, lines of the table and files on the disk count."""
    left = [event]

    def counted(work):
        def run(*rest, **more):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*rest, **more)

        return run

    for owner, name in (
        (tuner_module.saves, "to_disk"),
        (tuner_module.Tuner, "learn"),
        (tuner_module.Journal, "note"),
    ):
        setattr(owner, name, counted(getattr(owner, name)))
    going(checkpoints, pictures, out, resume=resume)


def test_a_killed_run_goes_on_exactly(checkpoints, pictures, tmp_path):
    going(checkpoints, pictures, tmp_path / "whole")
    out = tmp_path / "broken"
    for event in (
        14,
        9,
    ):  # in the middle of the first checkpoint, and between a step and its line in the table
        resume = (out / "run.json").exists()
        child = in_child(partial(dying, checkpoints, pictures, out, event, resume))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    going(checkpoints, pictures, out, resume=True)
    same_runs(tmp_path / "whole", out)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_goes_on_exactly(checkpoints, pictures, tmp_path):
    killed = 0
    for seed in range(30):
        if killed < 10:
            killed += killed_and_resumed(checkpoints, pictures, tmp_path / str(seed), 10, seed)
    assert killed >= 10


def test_a_run_that_is_asked_to_stop_saves_first_and_goes_on(checkpoints, pictures, tmp_path, monkeypatch):
    going(checkpoints, pictures, tmp_path / "whole")
    note = tuner_module.Tuner._note

    def interrupt(self, *rest):
        note(self, *rest)
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(tuner_module.Tuner, "_note", interrupt)
        with pytest.raises(KeyboardInterrupt):
            going(checkpoints, pictures, tmp_path / "broken")
    assert (tmp_path / "broken" / "checkpoints" / "step-0000003").is_dir()
    going(checkpoints, pictures, tmp_path / "broken", resume=True)
    same_runs(tmp_path / "whole", tmp_path / "broken")


def test_a_finished_run_goes_on_to_nothing(checkpoints, pictures, tmp_path):
    first = going(checkpoints, pictures, tmp_path)
    told = losses(tmp_path)
    assert going(checkpoints, pictures, tmp_path, resume=True) == first
    assert losses(tmp_path) == told


def test_resume_refuses_what_is_another_run(checkpoints, pictures, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RequestError, match="holds no run to go on with"):
        going(checkpoints, pictures, out, resume=True)
    going(checkpoints, pictures, out)
    before = sorted(str(path) for path in out.rglob("*"))
    with pytest.raises(RequestError, match="holds a run already, saved up to step 8; go on with --resume"):
        going(checkpoints, pictures, out)
    with pytest.raises(RequestError, match=r"was begun with rate=0.003, not 0.5"):
        going(checkpoints, pictures, out, resume=True, rate=0.5)
    other = material.jsonl(tmp_path / "other.jsonl", material.lines(tmp_path, 3))
    with pytest.raises(RequestError, match="was begun with other data"):
        going(checkpoints, other, out, resume=True)
    settings = QUICK | {"steps": 8, "save": 2, "hold_out": 1, "measure": 3, "dropout": 0.1, "rank": 2}
    opt, llava = checkpoints("instructblip", "opt"), checkpoints("video_llava")
    with pytest.raises(RequestError, match="was begun with recipe 'lora', not 'full'"):
        train.run(pictures, model=opt, out=out, recipe="full", resume=True, **settings)
    with pytest.raises(RequestError, match="was begun with model"):
        train.run(pictures, model=llava, out=out, recipe="lora", resume=True, **settings)
    assert sorted(str(path) for path in out.rglob("*")) == before


# ---- what goes wrong


def test_wrong_lines_are_told_all_at_once_with_their_numbers(checkpoints, tmp_path):
    good, other = material.lines(tmp_path, 2)
    (tmp_path / "no.png").write_text("no picture")
    asked = {name: good[name] for name in ("question", "answer")}
    bad = [
        '{"image": ', other | {"image": "none.png"}, other | {"answer": ""},
        other | {"answer": "The red ball. " * 200}, other | {"image": "no.png"},
        {"video": "image0.png"} | asked,
    ]  # fmt: skip
    data = material.jsonl(tmp_path / "d.jsonl", [good, *bad])
    ask = {"model": checkpoints("video_llava"), "recipe": "projector", "steps": 1}
    with pytest.raises(RequestError) as error:
        train.run(data, out=tmp_path / "run", **ask, **QUICK)
    told = str(error.value)
    assert told.startswith(
        "6 of 7 lines cannot be learned from; repair them, or leave them out with --skip-bad"
    )
    for line, message in (
        (2, "broken JSON (Expecting value, column 11)"), (3, "none.png: no such file"),
        (4, "answer: is empty"),
        (5, "at most 300 are allowed (the text model's max_position_embeddings)"), (6, "no.png"),
        (7, "is a picture, but the line calls it video"),
    ):  # fmt: skip
        assert any(f"line {line}: " in one and message in one for one in told.splitlines()), (line, told)
    assert not (tmp_path / "run" / "run.json").exists()
    train.run(data, out=tmp_path / "run", skip_bad=True, **ask, **QUICK)
    aside = [json.loads(one) for one in (tmp_path / "run" / "bad.jsonl").read_text().splitlines()]
    assert sorted(one["where"].rpartition(" ")[2] for one in aside) == list("234567")
    assert '{"image": ' in [one["line"] for one in aside]


def test_too_long_for_the_asked_length_and_for_the_qformer(checkpoints, tmp_path):
    data = material.jsonl(tmp_path / "d.jsonl", material.lines(tmp_path, 1))
    ask = {"model": checkpoints("video_llava"), "out": tmp_path / "a", "recipe": "full", "max_length": 20}
    told = r"takes \d+ positions, \d+ of them answers; at most 20 are allowed \(max_length\)"
    with pytest.raises(RequestError, match=told):
        train.run(data, **ask, **QUICK)
    long = material.lines(tmp_path, 1)[0] | {"question": "What is happening? " * 12}
    data = material.jsonl(tmp_path / "d.jsonl", [long])
    with pytest.raises(RequestError, match=r"the question has \d+ tokens; the Q-Former reads at most 40"):
        train.run(data, model=checkpoints("instructblip", "opt"), out=tmp_path / "b", recipe="full", **QUICK)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"recipe": "magic"}, RequestError, "recipe 'magic': unknown; known are qformer, projector"),
        ({"stepz": 3}, UnknownArgument, "unknown argument 'stepz'; did you mean 'steps'"),
        ({"batch": 0}, RequestError, "train: batch=0; expected a whole number from 1 up"),
        ({"rate": -1.0}, RequestError, r"train: rate=-1.0; expected a number above 0"),
        ({"turns": "both"}, RequestError, "train: turns='both'; expected one of conversation, apart"),
        ({"hold_out": 6}, RequestError, "hold_out=6: nothing is left of a data set"),
        ({"weights": (1.0, 2.0)}, RequestError, "expected one number from 0 up for each of 1"),
        ({"dtype": "float16"}, watchword.ConfigError, "float16 overflows while it learns"),
        ({"recipe": "lora", "targets": ("nose",)}, RequestError, "nose fits nothing"),
    ],
)
def test_what_cannot_be_is_refused(checkpoints, pictures, tmp_path, settings, kind, message):
    ask = (
        {"model": checkpoints("video_llava"), "out": tmp_path / "run", "recipe": "projector"}
        | QUICK
        | settings
    )
    with pytest.raises(kind, match=message):
        train.run(pictures, **ask)


def test_a_file_in_the_place_of_the_run_is_refused(checkpoints, pictures, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(RequestError, match="run: is a file; name a folder"):
        train.run(pictures, model=checkpoints("video_llava"), out=tmp_path / "run", **QUICK)


def test_a_loss_that_is_no_number_stops_the_run_and_writes_the_batch_aside(
    checkpoints, pictures, tmp_path, monkeypatch
):
    learn = tuner_module.Tuner.learn

    def spoil(self, batches):
        if self.step == 2:
            next(iter(self.masters.weights.values())).data.fill_(float("nan"))
        return learn(self, batches)

    monkeypatch.setattr(tuner_module.Tuner, "learn", spoil)
    with pytest.raises(TrainingError, match=r"step 3: the loss is nan, .*stopped-step-3.jsonl"):
        train.run(
            pictures, model=checkpoints("video_llava"), out=tmp_path, recipe="projector", steps=5, **QUICK
        )
    aside = [json.loads(line) for line in (tmp_path / "stopped-step-3.jsonl").read_text().splitlines()]
    assert len(aside) == 2
    assert all(json.loads(one["line"])["image"].endswith(".png") for one in aside)
    assert len(losses(tmp_path)) == 2


def test_a_jump_of_the_loss_stops_the_run(checkpoints, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(tuner_module, "SETTLED", 2)
    learn = tuner_module.Tuner.learn

    def spoil(self, batches):
        if self.step == 3:
            self.recent.clear()
            self.recent.extend([0.01, 0.01])
        return learn(self, batches)

    monkeypatch.setattr(tuner_module.Tuner, "learn", spoil)
    ask = {"model": checkpoints("video_llava"), "recipe": "projector", "steps": 5} | QUICK
    with pytest.raises(TrainingError, match=r"step 4: the loss jumped to \d+\.\d+ from a mean of 0.01"):
        train.run(pictures, out=tmp_path / "a", **ask)
    train.run(pictures, out=tmp_path / "b", jump=0, **ask)


def test_media_that_change_during_a_run_are_told(checkpoints, tmp_path):
    data = material.jsonl(tmp_path / "d.jsonl", material.lines(tmp_path, 2, kind="video"))
    ask = {"model": checkpoints("video_llava"), "out": tmp_path / "run", "recipe": "projector", "steps": 2}
    with pytest.raises(
        watchword.MediaError, match=r"line \d: a video of 3 frames now, and a video of 8 when"
    ):
        train.run(
            data, check="quick", **ask, **QUICK
        )  # the clips have 3 frames, of which a quick check sees nothing


def test_a_full_disk_is_told_and_what_was_saved_stays(checkpoints, pictures, tmp_path):
    import resource

    out = tmp_path / "run"

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        save = tuner_module.saves.write_state

        def full(run, step, tensors, facts):
            if step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            return save(run, step, tensors, facts)

        tuner_module.saves.write_state = full
        with pytest.raises(CapacityError, match=r"step-0000004: cannot be written"):
            going(checkpoints, pictures, out)

    child = in_child(limited)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(path.name for path in (out / "checkpoints").iterdir())[0] == "step-0000002"
    going(checkpoints, pictures, out, resume=True)
    going(checkpoints, pictures, tmp_path / "whole")
    same_runs(tmp_path / "whole", out)


def test_tensorboard_needs_its_package(checkpoints, pictures, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install watchword\[tensorboard\]"):
        train.run(
            pictures,
            model=checkpoints("video_llava"),
            out=tmp_path,
            recipe="projector",
            tensorboard=True,
            **QUICK,
        )


def test_tensorboard_gets_what_the_table_has(checkpoints, pictures, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = QUICK | {"hold_out": 2, "measure": 2, "samples": 0, "steps": 4}
    ask = {"model": checkpoints("video_llava"), "out": tmp_path, "recipe": "projector"}
    train.run(pictures, tensorboard=True, **ask, **settings)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "held_out", "rate", "norm"}
    seen = events.Scalars("loss")
    assert [one.step for one in seen] == [1, 2, 3, 4]
    assert [one.value for one in seen] == pytest.approx(losses(tmp_path), rel=1e-6)
    assert [one.step for one in events.Scalars("held_out")] == [2, 4]
