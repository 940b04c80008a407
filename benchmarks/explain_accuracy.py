"""How often the peak of the embedded model's heat map lies on the object that it was asked about.

    python benchmarks/explain_accuracy.py --clips 200 --seed 1 --compare

Each clip is drawn from the seed and asked a question about one of its objects; kinds take turns. The heat of
the whole answer is the mean over its words, and its peak is looked for in all frames. Two measures:

- "patch": the strongest patch, the one outlined in the picture, touches the object;
- "inside": the brightest point of the map as it is drawn lies inside the object's outline. With patches as
  large as objects even a perfect map misses often; "ceiling" is how often a map of the object itself hits.

"chance" is what a patch, or a point, drawn at random gets. `--compare` also measures other ways to sum up
attention, on the same clips. The last line of the output is a JSON object.
"""

import argparse
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from watchword import pipeline
from watchword.nn.attention import Uncached
from watchword.nn.trace import Trace
from watchword.pipeline.explaining import Explained, prompt_embeds, to_patches
from watchword.pipeline.families import Exchange, pixels_of
from watchword.train import shapes, topics, world

KINDS = ("does", "colour", "shape", "moves", "size", "direction")
"""Those that are about one object."""
SIDE = 320
SEED_OFFSET = 2_000_000
"""Keeps every seed given here apart from those of training."""


def meant(question: str, answer: str, things: list[shapes.Thing]) -> int | None:
    """Which object the question speaks of, or else the answer; None where that is not one object."""
    for text in (question, answer):
        said = set(re.findall(r"\w+", text.lower()))
        colours, forms = said & set(shapes.COLOURS), said & set(shapes.SHAPES)
        if colours or forms:
            fits = [
                place
                for place, thing in enumerate(things)
                if (not colours or thing.colour in colours) and (not forms or thing.shape in forms)
            ]
            return fits[0] if len(fits) == 1 else None
    return None


def draw(rng: np.random.Generator, number: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Kind, question, frames (T H W 3) and where the object asked about is (T H W) in each."""
    made = 0
    while made < number:
        kind, scene = KINDS[made % len(KINDS)], world.sample(rng, 1)
        things = scene.things(0)
        asked = topics.CLIPS[kind](things, rng)
        place = None if asked is None else meant(*asked, things)
        if asked is None or place is None:
            continue
        order = sorted(range(scene.count[0]), key=lambda i: (scene.colour[0, i], scene.shape[0, i]))
        times = shapes.frame_times(int(rng.integers(16, 49)))[None]
        frames = world.render(scene, times, SIDE)[0][0].round().byte().permute(0, 2, 3, 1)
        made += 1
        yield kind, asked[0], frames.contiguous().numpy(), outline(scene, times, order[place])


def outline(scene: world.World, times: np.ndarray, place: int) -> np.ndarray:
    """True inside one object of a world: T H W."""
    alone = np.where(np.arange(shapes.MOST)[:, None] == place, scene.radius, 0)
    return (world.render(replace(scene, radius=alone), times, SIDE)[1][0] > 0.5).numpy()


def hits(heat: np.ndarray, inside: np.ndarray) -> tuple[bool, bool, float]:
    """Whether the peak patch touches the object, the drawn peak is inside, and the share of heat on it."""
    touched = patches(inside, heat.shape[1:]) > 0
    drawn = np.stack([bicubic(one) for one in heat])
    return (
        bool(touched.flat[heat.argmax()]),
        bool(inside.flat[drawn.argmax()]),
        float(heat[touched].sum() / heat.sum()),
    )


def bicubic(values: np.ndarray) -> np.ndarray:
    """A frame's map as large as the frame, as the sheet draws it."""
    return np.asarray(
        Image.fromarray(values.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    )


def patches(inside: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Which part of each patch is covered."""
    rows, columns = grid
    return inside.reshape(len(inside), rows, SIDE // rows, columns, SIDE // columns).mean(axis=(2, 4))


@torch.no_grad()
def other_ways(model: pipeline.Pipeline, explained: Explained) -> dict[str, np.ndarray]:
    """Heat of the whole answer, summed up in other ways: T h w each."""
    config, words, text = model.model.config, model.words, model.model.language_model
    exchanges = [Exchange(explained.question, (explained.clip,))]
    encoded = model.family.encode(config, words, exchanges)
    ids = torch.tensor([model.family.follow(config, words, exchanges, explained.text)])
    pixels = pixels_of(explained.clip, model.specs)
    prompt, _ = prompt_embeds(model.model, words, encoded, explained.question, explained.clip, pixels)
    embeds = torch.cat((prompt, text.embed(ids)), dim=1)
    trace = Trace.asked(False, True)
    positions = text.forward_positions(None, 0, embeds.shape[1], embeds.device)
    text.hidden(embeds, positions=positions, cache=Uncached(), trace=trace)
    layers = [weights[0].mean(dim=0) for weights in trace.attentions]  # heads averaged: S S
    begin, length = encoded.length, ids.shape[1] - 1  # without the full stop
    where_chosen, where_standing = slice(begin - 1, begin - 1 + length), slice(begin, begin + length)
    columns = [place for place, one in enumerate(encoded.positions) if isinstance(one, tuple)]
    later = torch.stack(layers[len(layers) // 2 :]).mean(dim=0)
    sums = {f"layer {number}": layer[where_chosen] for number, layer in enumerate(layers)}
    sums |= {
        "all layers": torch.stack(layers).mean(dim=0)[where_chosen],
        "later half": later[where_chosen],
        "later half, where the tokens stand": later[where_standing],
        "later half, question and answer": later[columns[-1] + 1 : begin - 1 + length],
        "rollout, residual 0.3": rollout(layers, 0.3)[where_chosen],
        "rollout, residual 0.5": rollout(layers, 0.5)[where_chosen],
        "rollout, residual 0.7": rollout(layers, 0.7)[where_chosen],
        "rollout, residual 0.8": rollout(layers, 0.8)[where_chosen],
        "rollout from layer 1, residual 0.7": rollout(layers[1:], 0.7)[where_chosen],
    }
    grid = explained.attention.shape[2:]
    frames = len(explained.clip.frames)
    return {
        name: to_patches(rows[:, columns], frames, grid, None).mean(dim=0).numpy()
        for name, rows in sums.items()
    }


def rollout(layers: list[torch.Tensor], stays: float) -> torch.Tensor:
    """Attention followed through all layers; `stays` is the part that the residual stream keeps."""
    reach = torch.eye(len(layers[0]))
    for layer in layers:
        reach = (stays * torch.eye(len(layer)) + (1 - stays) * layer) @ reach
    return reach


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", help="else the embedded one")
    parser.add_argument("--compare", action="store_true", help="measure other ways too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = pipeline.load(options.model)
    found: dict[str, list[tuple[bool, bool, float]]] = defaultdict(list)
    chance, began = [], time.perf_counter()
    for kind, question, frames, inside in draw(
        np.random.default_rng(SEED_OFFSET + options.seed), options.clips
    ):
        explained = model.explain(frames, question)
        seen = inside[list(explained.clip.indices)]
        heat = explained.attention.mean(axis=0)
        cover = patches(seen, heat.shape[1:])
        chance.append(((cover > 0).mean(), seen.mean()))
        found["all"].append(hits(heat, seen))
        found[f"kind {kind}"].append(hits(heat, seen))
        found["ceiling"].append(hits(cover, seen))
        if options.compare:
            for name, other in other_ways(model, explained).items():
                found[f"way {name}"].append(hits(other, seen))
    for name, values in found.items():
        patch, point, share = np.mean(values, axis=0)
        print(f"{name:45} patch {patch:.3f}  inside {point:.3f}  share of heat {share:.3f}")
    print(f"{options.clips} clips in {time.perf_counter() - began:.0f} s")
    patch, point, share = np.mean(found["all"], axis=0)
    print(
        json.dumps(
            {
                "clips": options.clips,
                "seed": options.seed,
                "patch": round(float(patch), 4),
                "inside": round(float(point), 4),
                "share": round(float(share), 4),
                "ceiling_inside": round(float(np.mean(found["ceiling"], axis=0)[1]), 4),
                "chance_patch": round(float(np.mean(chance, axis=0)[0]), 4),
                "chance_inside": round(float(np.mean(chance, axis=0)[1]), 4),
                "kinds": {
                    name[5:]: round(float(np.mean(values, axis=0)[0]), 4)
                    for name, values in found.items()
                    if name.startswith("kind ")
                },
            }
        )
    )


if __name__ == "__main__":
    main()
