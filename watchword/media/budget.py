"""Budgets that are spent while a clip is read, whatever its header promised."""

import time

from watchword.errors import MediaError

__all__ = ["Budget"]

_LOOK = 32  # packets between two looks at the clock


class Budget:
    """Counts packets and seconds of one reading and refuses to go on when they are spent."""

    def __init__(self, name: str, max_packets: int, max_seconds: float | None) -> None:
        self.name = name
        self.max_packets, self.max_seconds = max_packets, max_seconds
        self.spent = 0
        self.start = time.monotonic()

    def packet(self) -> None:
        """Count a packet read or a frame decoded."""
        self.spent += 1
        if self.spent > self.max_packets:
            raise MediaError(
                f"{self.name}: more than {self.max_packets:,} packets were read and decoded; "
                "shorten it or raise Policy.max_packets"
            )
        if self.spent % _LOOK == 0:
            self.clock()

    def packets_ahead(self, count: int) -> None:
        """Refuse a clip whose own index lists more packets than may be read."""
        if count > self.max_packets:
            raise MediaError(
                f"{self.name}: {count:,} frames, at most {self.max_packets:,} packets are read; "
                "shorten it or raise Policy.max_packets"
            )

    def clock(self) -> None:
        """Refuse to work longer."""
        if self.max_seconds is not None and time.monotonic() - self.start > self.max_seconds:
            raise MediaError(
                f"{self.name}: still not read after {self.max_seconds:g} s of work; "
                "shorten it or raise Policy.max_seconds"
            )
