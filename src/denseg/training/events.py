# SPDX-License-Identifier: Apache-2.0
"""TensorBoard event files, written in this process: without a thread, a full disk is an error here, not a traceback."""

from __future__ import annotations

import io
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EventLog"]

_NUMBERS = itertools.count()


class EventLog:
    """One event file. Whatever cannot be written is left out: the log is a copy of what ``metrics.csv`` holds.

    Attributes:
        failure: Why writing stopped; empty while it works.
    """

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """Open a new file; TensorBoard forgets what earlier files said of steps from ``step`` on.

        Args:
            folder: The run folder.
            step: First step that this file will speak of.
        """
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.failure = ""
        self._file: IO[bytes] | None = None
        self._event: Any = Event
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        try:
            self._file = (folder / name).open("wb")
        except OSError as error:
            self.failure = str(error)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write numbers.

        Args:
            step: Images or steps done, the horizontal axis.
            values: By tag, for example ``val/miou``; ``None`` and NaN are left out.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        entries = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if value is not None and value == value
        ]
        if entries:
            self._write(self._event(wall_time=time.time(), step=step, summary=Summary(value=entries)))

    def image(self, step: int, tag: str, pixels: NDArray[np.uint8]) -> None:
        """Write a picture.

        Args:
            step: The horizontal axis.
            tag: Its name.
            pixels: ``(H, W, 3)``.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
        height, width = pixels.shape[:2]
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
        summary = Summary(value=[Summary.Value(tag=tag, image=picture)])
        self._write(self._event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        """Hand everything to the operating system."""
        try:
            if self._file is not None:
                self._file.flush()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as error:
            self._give_up(error)
        self._file = None

    def _write(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is None:
            return
        try:
            RecordWriter(self._file).write(event.SerializeToString())
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                self._file = None
