"""The classes of the Transformers documentation, over the embedded checkpoint folder."""

from pathlib import Path

import watchword
from watchword import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

folder = Path(watchword.__file__).parent / "demo" / "video-llava"
model = VideoLlavaForConditionalGeneration.from_pretrained(folder)
processor = VideoLlavaProcessor.from_pretrained(folder)

clip = watchword.media.read_frames(folder.parent / "clips" / "shapes_4.mp4", rotate=False)
prompt = "USER: <video>\nWhat happens? ASSISTANT:"
inputs = processor(text=prompt, videos=clip.frames, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=20)
print(processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip())
