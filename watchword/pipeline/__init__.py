"""The front door: `load` a checkpoint, then `ask` about pictures and videos."""

from watchword.pipeline.answer import Answer
from watchword.pipeline.asking import Pipeline
from watchword.pipeline.chatting import Chat
from watchword.pipeline.opening import EMBEDDED, load
from watchword.pipeline.options import Options

__all__ = ["EMBEDDED", "Answer", "Chat", "Options", "Pipeline", "load"]
