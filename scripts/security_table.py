"""Write docs/security.md: what hostile media come to. python scripts/security_table.py [--check]"""

# ruff: noqa: E501  the page has longer lines

import re
import sys
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.media import hostile  # noqa: E402
from watchword.errors import MediaError  # noqa: E402
from watchword.media import read_media  # noqa: E402

PAGE = ROOT / "docs" / "security.md"
INTRO = """# Media of strangers

Every picture and video goes through one gate (`watchword/media/gate.py`) under one policy (`media.Policy`). The
default policy, `OPEN`, is for one's own files: any local file, no addresses. `STRICT` is for those of strangers: no
local file unless its folder is named, no host unless it is listed, small budgets, common codecs only, and a child
process that has one open file, no network and limited memory (`watchword/media/sandbox.py`).

    from dataclasses import replace
    from watchword.media import STRICT, read_media

    policy = replace(STRICT, hosts=("media.example.org",))
    clip = read_media("https://media.example.org/clip.mp4", policy=policy)

What is refused is a `MediaError`, whose text names neither the folders nor the hosts allowed, no path of an address
and nothing of what was read.

- **Files**: links are resolved before the folder is compared; pipes, devices and folders are refused; where folders
  are named, the file that was checked is the one that is read, even if a link takes its place meanwhile.
- **Addresses**: https, hosts from a list, no name or password. A host is resolved once, all its addresses must be
  public, and the connection goes there; redirects are checked the same way, three at most. One deadline holds for
  name, connection, headers and body together.
- **Formats**: pictures by Pillow's names and containers by FFmpeg's, from a list without playlists, manifests and
  scripts. What a file calls itself counts for nothing.
- **Budgets**: bytes, pixels of a frame, frames kept, packets and seconds; looked at before memory is taken and again
  while decoding.
- **The child process**: a namespace without network, a filter of system calls (no file can be opened, no connection
  or process made), and limits of memory, seconds and open files; each where the system allows it.
  `watchword doctor` says which stand on this machine. It costs 0.25 s or more a medium (see
  benchmarks/video_reading.md). Without a `STRICT` policy it is switched on by `--sandbox`, `load(..., sandbox=True)` or
  `read_frames(..., sandbox=True)`.

Two thousand files with flipped bytes (`tests/media/mutate.py`) and files cut off at every structure are read or
refused as well; none ends the process. A transport stream, a raw stream or a GIF that is cut off between two frames
reads as a shorter one: nothing in it says that there was more.

The table is written by `scripts/security_table.py` from what happens when the tests' own cases are read under
`STRICT`, the sandbox off, one folder allowed.
"""


def result(case: hostile.Case) -> str:
    """What a case comes to, without the names of temporary things."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place) / "allowed"
        folder.mkdir()
        source, more = case.make(folder, stack)
        try:
            clip = read_media(source, policy=hostile.policy_in(folder, **more))
            text = f"read as {clip.frames.shape}"
        except MediaError as error:
            text = str(error)
        text = text.replace(str(folder), "/allowed").replace(place, "")
    text = re.sub(r"\(AVIF, [A-Z, ]+\)", "(...)", text)
    text = re.sub(r"\.test:\d+", ".test", text)
    return text.replace("|", "\\|")


def page() -> str:
    """The whole page."""
    warnings.simplefilter("ignore")
    parts = [INTRO]
    for group in dict.fromkeys(case.group for case in hostile.CASES):
        parts.append(f"\n## {group[0].upper()}{group[1:]}\n\n| case | result |\n|---|---|\n")
        parts += [f"| {case.title} | {result(case)} |\n" for case in hostile.CASES if case.group == group]
    return "".join(parts)


def main() -> int:
    """Write the page, or with --check say whether it is current."""
    text = page()
    if "--check" in sys.argv:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not current:
            print("docs/security.md is not current; run python scripts/security_table.py")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
