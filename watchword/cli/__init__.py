"""The shell: `watchword ask`, `watchword demo`. One file per command; heavy imports wait until it runs."""

from watchword.cli.commands import main

__all__ = ["main"]
