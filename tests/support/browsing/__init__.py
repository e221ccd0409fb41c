"""Chromium without a window: pictures of a page, and their pixels.

Debian's package `chromium`; a machine without it cannot run these tests, which belong to `full`.
"""

from __future__ import annotations

import shutil
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Picture", "shoot"]

_SIGNATURE = 8
_CHANNELS = {2: 3, 6: 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Rows of pixels; a pixel is (red, green, blue), 0 to 255."""

    rows: tuple[tuple[tuple[int, int, int], ...], ...]

    @property
    def background(self) -> tuple[int, int, int]:
        """The pixel of the upper left corner."""
        return self.rows[0][0]

    def left(self, width: int) -> Picture:
        """Return the columns up to a width."""
        return Picture(rows=tuple(row[:width] for row in self.rows))

    def count(self, colour: tuple[int, int, int], *, near: int = 12) -> int:
        """Return how many pixels have the colour, or nearly so."""
        return sum(
            all(abs(a - b) <= near for a, b in zip(pixel, colour, strict=True))
            for row in self.rows
            for pixel in row
        )

    def reaches(self) -> int:
        """Return the last column in which anything but background is drawn."""
        return max(
            (x for row in self.rows for x, pixel in enumerate(row) if pixel != self.background),
            default=-1,
        )


def shoot(page: Path, target: Path, *, width: int, height: int, dark: bool = False) -> Picture:
    """Open the page at a width in CSS pixels and return what is drawn; ``target`` keeps the PNG."""
    program = shutil.which("chromium")
    if program is None:
        raise FileNotFoundError("chromium is missing: apt-get install chromium")
    command = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={target.parent / 'profile'}", f"--screenshot={target}",
        f"--window-size={width},{height}", "--force-device-scale-factor=1",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--virtual-time-budget=1000", page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    return _decode(target.read_bytes())


def _decode(data: bytes) -> Picture:
    """Read a PNG of 8 bits a channel without interlacing, which is what Chromium writes."""
    place, packed = _SIGNATURE, b""
    width = channels = 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        kind, chunk = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width = int.from_bytes(chunk[:4], "big")
            channels = _CHANNELS[chunk[9]]
        packed += chunk if kind == b"IDAT" else b""
        place += length + 12
    return Picture(rows=tuple(_rows(zlib.decompress(packed), width, channels)))


def _rows(raw: bytes, width: int, channels: int) -> list[tuple[tuple[int, int, int], ...]]:
    line = width * channels
    above, rows = bytes(line), []
    for start in range(0, len(raw), line + 1):
        above = _unfilter(raw[start], raw[start + 1 : start + 1 + line], above, channels)
        rows.append(tuple((above[i], above[i + 1], above[i + 2]) for i in range(0, line, channels)))
    return rows


def _unfilter(method: int, row: bytes, above: bytes, step: int) -> bytes:
    """Undo a row's filter (PNG specification, section 9)."""
    found = bytearray(row)
    for i in range(len(found)):
        left = found[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        guess = (0, left, above[i], (left + above[i]) // 2, _paeth(left, above[i], corner))[method]
        found[i] = (found[i] + guess) & 255
    return bytes(found)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
