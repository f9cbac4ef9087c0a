"""The storage: real files, real file systems' refusals."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from negspace.errors import FileError, InvalidInputError, NotFoundError
from negspace.storage import Storage, relative_path

OLD = 1_600_000_000  # seconds; a time stamp nobody takes for fresh


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path / "storage")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b"negative space" * 200_000)  # some blocks of 1 MiB
    return path


@contextmanager
def nobody():
    """Act as a user who isn't root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def stored(storage: Storage) -> list[Path]:
    return [p for p in storage.folder.rglob("*") if p.is_file()]


def test_a_kept_file_lies_under_its_hash(storage, source):
    content = source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with storage.receiving(source) as received:
        assert (received.file_hash, received.file_size) == (digest, len(content))
        path = storage.keep(received, "png")
    assert path == f"{digest[:2]}/{digest[2:4]}/{digest}.png"
    assert stored(storage) == [storage.folder / path]
    assert (storage.folder / path).stat().st_mode & 0o077 == 0
    with storage.open(path) as file:
        assert file.readall() == content
    assert list(storage.files()) == [path]


def test_what_is_not_kept_leaves_nothing(storage, source):
    with storage.receiving(source):
        assert len(stored(storage)) == 1
    assert stored(storage) == []


def test_the_same_bytes_again_are_stored_once_and_mend_a_damaged_file(storage, source):
    for _ in range(2):
        with storage.receiving(source) as received:
            path = storage.keep(received, "png")
    storage.verify(path)
    with (storage.folder / path).open("r+b") as file:
        file.write(b"X")
    with pytest.raises(FileError, match="damaged"):
        storage.verify(path)
    with storage.receiving(source) as received:
        storage.keep(received, "png")
    storage.verify(path)
    assert len(stored(storage)) == 1


def test_bytes_at_hand_are_stored_the_same_way(storage):
    path = storage.put(b"overlay", "png")
    assert path == relative_path(hashlib.sha256(b"overlay").hexdigest(), "png")
    storage.verify(path)


@pytest.mark.parametrize("age", ["fresh", "old"])
def test_a_file_that_grows_while_it_is_read_is_refused(storage, source, age):
    if age == "old":
        os.utime(source, (OLD, OLD))

    def grow(_: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(FileError, match="changed while it was read"):  # noqa: SIM117
        with storage.receiving(source, progress=grow):
            pass
    assert stored(storage) == []


def test_a_change_that_no_time_stamp_shows_is_seen_in_a_fresh_file(storage, source):
    before = source.stat()

    def overwrite(_: int) -> None:
        with source.open("r+b") as file:
            file.write(b"X")
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(FileError, match="changed while it was read"):  # noqa: SIM117
        with storage.receiving(source, progress=overwrite):
            pass


def test_a_file_that_is_cut_while_it_is_read_is_refused(storage, source):
    def cut(_: int) -> None:
        os.truncate(source, 2 << 20)

    with pytest.raises(FileError, match="changed"), storage.receiving(source, progress=cut):
        pass


def test_what_is_no_file_is_refused_with_a_word(storage, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name, word in {
        "missing": "is not there",
        "missing/below": "is not there",
        "pipe": "no regular file",
        "empty": "is empty",
        "loop": "can't be read",
        "nul\0": "no name of a file",
    }.items():
        with pytest.raises(FileError, match=word), storage.receiving(tmp_path / name):
            pass
    with pytest.raises(FileError, match="is a folder"), storage.receiving(tmp_path):
        pass
    assert stored(storage) == []


def test_a_file_that_may_not_be_read_is_refused(storage, source):
    source.chmod(0)
    storage.folder.mkdir(mode=0o777)
    with nobody(), pytest.raises(FileError, match="may not be read"), storage.receiving(source):
        pass


def test_a_storage_that_can_not_be_written_says_so(storage, source, tmp_path):
    storage.folder.mkdir(mode=0o555)
    source.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    with nobody(), pytest.raises(FileError, match="can't write to the image storage") as caught:  # noqa: SIM117
        with storage.receiving(source):
            pass
    assert "NEGSPACE_STORAGE" in (caught.value.hint or "")


def test_a_full_disk_says_so_and_leaves_nothing(storage, source):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, hard))
    try:
        with pytest.raises(FileError, match="can't write to the image storage"):  # noqa: SIM117
            with storage.receiving(source):
                pass
        with pytest.raises(FileError, match="can't write"):
            storage.put(b"x" * 2_000_000, "png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stored(storage) == []


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "/etc/passwd",
        "ab/cd/../../secret.png",
        "ab/cd/" + "0" * 64 + ".png",  # not the folder of that hash
        "00/00/" + "0" * 64,
        "00/00/" + "0" * 64 + ".png\n",
        "incoming/" + "0" * 32,
        "",
    ],
)
def test_no_path_leads_out_of_the_folder(storage, path):
    with pytest.raises(InvalidInputError), storage.open(path):
        pass
    with pytest.raises(InvalidInputError):
        storage.remove(path)


def test_a_missing_stored_file_says_so(storage):
    path = relative_path("0" * 64, "png")
    with pytest.raises(NotFoundError):
        storage.verify(path)
    assert not storage.remove(path)


def test_a_suffix_is_letters_and_digits(storage, source):
    with storage.receiving(source) as received, pytest.raises(InvalidInputError):
        storage.keep(received, "../x")


def test_a_killed_process_leaves_no_file_under_a_hash(storage, source):
    program = (
        "import os, signal, sys; from pathlib import Path; from negspace.storage import Storage\n"
        "with Storage(Path(sys.argv[1])).receiving(Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(storage.folder), str(source)], check=False
    )
    assert done.returncode == -9
    assert list(storage.files()) == []
    assert [p.parent for p in stored(storage)] == [storage.incoming]


def test_many_processes_store_the_same_file_at_once(storage, source):
    program = (
        "import sys; from pathlib import Path; from negspace.storage import Storage\n"
        "storage = Storage(Path(sys.argv[1]))\n"
        "sys.stdin.readline()\n"
        "with storage.receiving(Path(sys.argv[2])) as received:\n"
        "    print(storage.keep(received, 'png'))"
    )
    command = [sys.executable, "-c", program, str(storage.folder), str(source)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    said = {process.communicate("go\n")[0] for process in running}
    assert {process.returncode for process in running} == {0}
    assert len(said) == 1
    assert list(storage.files()) == [said.pop().strip()]
    storage.verify(next(storage.files()))
    assert len(stored(storage)) == 1
