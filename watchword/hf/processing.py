"""The documented processors: words and media to model inputs."""

from watchword.hf.processing_instructblip import InstructBlipProcessor, InstructBlipVideoProcessor
from watchword.hf.processing_video_llava import VideoLlavaProcessor

__all__ = ["InstructBlipProcessor", "InstructBlipVideoProcessor", "VideoLlavaProcessor"]
