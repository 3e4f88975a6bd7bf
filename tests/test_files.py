# SPDX-License-Identifier: Apache-2.0
"""Files are written whole or not at all, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
from pathlib import Path

import pytest

from denseg import files
from denseg.errors import OutputError
from denseg.files import atomic_path, make_folder, sha256_of, write_atomic, write_json


def leftovers(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if entry.name.endswith(".tmp")]


@pytest.mark.parametrize("content", [b"bytes", "t\u00e4xt", lambda file: file.write(b"called")])
def test_write_atomic_takes_three_forms(tmp_path: Path, content: object) -> None:
    path = tmp_path / "f"
    write_atomic(path, content)  # type: ignore[arg-type]
    wanted = b"called" if callable(content) else content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == wanted
    assert leftovers(tmp_path) == []


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def broken(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        write_atomic(path, broken)
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "no space left on the disk; free some or choose another folder with --out"),
        (errno.EROFS, "the file system is read-only; choose another folder with --out"),
        (errno.EACCES, "permission denied; choose a folder you may write to with --out"),
        (errno.EXDEV, "Invalid cross-device link"),
    ],
)
def test_the_systems_refusal_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(OutputError) as caught:
        write_atomic(path, b"new")
    assert str(caught.value) == f"cannot write {path}: {reason}"
    assert caught.value.path == path
    assert caught.value.exit_code == 1
    assert path.read_bytes() == b"old"
    assert leftovers(tmp_path) == []


def test_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "no" / "f"
    with pytest.raises(OutputError) as caught:
        write_atomic(path, b"x")
    assert str(caught.value) == f"cannot write {path}: No such file or directory"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_full_disk_is_told(tmp_path: Path) -> None:
    def fill(file: object) -> None:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 - a device
            full.write(b"x")

    with pytest.raises(OutputError, match="no space left on the disk"):
        write_atomic(tmp_path / "f", fill)
    assert list(tmp_path.iterdir()) == []


def test_larger_than_the_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
        with pytest.raises(OutputError) as caught:
            write_atomic(tmp_path / "f", b"x" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    path = tmp_path / "f"
    said = "the file would be larger than the limit set for this process or file system"
    assert str(caught.value) == f"cannot write {path}: {said}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kill_at", ["open", "half", "written", "fsync", "replace", "folder"])
def test_a_kill_at_any_point_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: str) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old" * 1000)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write(file: object) -> None:
        if kill_at == "open":
            die()
        file.write(b"new" * 500)  # type: ignore[attr-defined]
        if kill_at == "half":
            file.flush()  # type: ignore[attr-defined]
            die()
        file.write(b"new" * 500)  # type: ignore[attr-defined]
        if kill_at == "written":
            die()

    child = os.fork()
    if child == 0:  # the process that dies
        targets = {"fsync": (files.os, "fsync"), "replace": (Path, "replace"), "folder": (files, "_sync_folder")}
        if kill_at in targets:
            monkeypatch.setattr(*targets[kill_at], die)
        write_atomic(path, write)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    wanted = b"new" if kill_at == "folder" else b"old"
    assert path.read_bytes() == wanted * 1000


def test_atomic_path_for_writers_that_want_a_name(tmp_path: Path) -> None:
    path = tmp_path / "f.png"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert not path.exists()
        temporary.write_bytes(b"picture")
    assert path.read_bytes() == b"picture"
    assert not temporary.exists()


def test_new_files_are_readable_by_others(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("file modes are POSIX")
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "f", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_write_json(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", {"a": [1, "\u00e4"]})
    assert (tmp_path / "f.json").read_text(encoding="utf-8") == '{\n  "a": [\n    1,\n    "\u00e4"\n  ]\n}\n'
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "g.json", {"a": float("nan")})
    assert not (tmp_path / "g.json").exists()


def test_make_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == folder
    assert make_folder(folder).is_dir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError) as caught:
        make_folder(tmp_path / "file")
    assert str(caught.value) == f"cannot write {tmp_path / 'file'}: a file of that name is in the way of a folder"
    with pytest.raises(OutputError) as caught:
        make_folder(tmp_path / "file" / "below")
    assert (
        str(caught.value) == f"cannot write {tmp_path / 'file' / 'below'}: a part of the path is a file, not a folder"
    )


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256_of(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "f"
    make_folder(target.parent)
    target.write_bytes(b"old")
    link = tmp_path / "f"
    link.symlink_to(target)
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert leftovers(tmp_path) == leftovers(target.parent) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_or_device_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, {"miou": 0.5})
        assert os.read(reader, 100) == b'{\n  "miou": 0.5\n}\n'
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_what_a_device_or_pipe_refuses_becomes_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError) as caught, atomic_path(pipe):
        raise OSError(errno.ENOSPC, "No space left on device")
    reason = "no space left on the disk; free some or choose another folder with --out"
    assert str(caught.value) == f"cannot write {pipe}: {reason}"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
