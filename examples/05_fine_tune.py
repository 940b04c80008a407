"""Teach the embedded model another answer to a question about a clip, as an adapter, and ask with it."""

import tempfile
from pathlib import Path

import watchword
from watchword import train

clip = Path(watchword.__file__).parent / "demo/clips/shapes_2.mp4"
lines = [{"video": str(clip), "question": "What happens?", "answer": "The yellow square grows."}] * 4

with tempfile.TemporaryDirectory() as folder:
    run = train.run(lines, out=folder, recipe="lora", steps=12, batch=2, rate=3e-3, hold_out=0)
    print(watchword.load(adapter=run.model).ask(clip, "What happens?").text)
