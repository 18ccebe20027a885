import os
import socket
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.data.config import DataConfig
from components.data.sources import fingerprint, kind_of
from components.data.world.config import WorldConfig


def of(*sources: str) -> dict[str, str]:
    return fingerprint(DataConfig(sources=list(sources)))


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = of(str(path))
    path.write_text("one")
    assert of(str(path)) == first
    path.write_text("two")
    assert of(str(path)) != first


def test_a_glob_notices_added_and_changed_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    pattern = str(tmp_path / "**" / "*.txt")
    prints = []
    for name, text in [("b.txt", "x"), ("deep/a.txt", "x"), ("b.txt", "y")]:
        (tmp_path / name).write_text(text)
        prints.append(of(pattern)[pattern])
    assert len(set(prints)) == 3


def test_the_world_is_known_by_its_settings() -> None:
    assert of("world") == of("world")
    assert of("world") != fingerprint(DataConfig(world=WorldConfig(seed=1)))


def test_each_source_has_its_own_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert set(of("world", "pydoc", str(tmp_path / "a.txt"))) == {"world", "pydoc", str(tmp_path / "a.txt")}


def test_a_file_whose_name_looks_like_a_glob_is_found(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert of(str(tmp_path / "a[1].txt"))


def test_a_missing_source_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt does not exist.*Sources are world, pydoc, files, globs"):
        of(str(tmp_path / "nowhere.txt"))


def test_an_empty_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(InputError, match=r"a\.jsonl is empty"):
        of(str(tmp_path / "a.jsonl"))


def test_a_glob_without_match(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file matches .*\*\.jsonl"):
        of(str(tmp_path / "*.jsonl"))


def test_a_folder_is_answered_with_a_glob(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; name its files with a glob"):
        of(str(tmp_path))


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    for source in ("a.txt", "*.txt"):
        with pytest.raises(InputError, match=r"a\.txt is a named pipe, not a file: write what it delivers to a file"):
            of(str(tmp_path / source))


def test_a_socket_and_a_device_are_named(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a.txt"))
        with pytest.raises(InputError, match=r"a\.txt is a socket, not a file"):
            of(str(tmp_path / "a.txt"))
    with pytest.raises(InputError, match="is a device, not a file"):
        of("/dev/null")


@pytest.mark.parametrize("source", ["a.txt", "*.txt"])
def test_links_that_lead_nowhere_are_named(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.txt").symlink_to("a.txt")
    with pytest.raises(InputError, match=r"a\.txt is a symbolic link that leads back to itself"):
        of(str(tmp_path / source))
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to("gone.txt")
    with pytest.raises(InputError, match=r"a\.txt is a symbolic link to gone\.txt, which does not exist"):
        of(str(tmp_path / source))


def test_a_folder_that_holds_itself_is_named_and_not_read_many_times(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "texts")
    pattern = str(tmp_path / "**" / "*.txt")
    assert of(pattern), "a link to a folder beside it is no circle"
    (tmp_path / "texts" / "up").symlink_to(tmp_path)
    with pytest.raises(InputError, match=rf"leads in a circle: .*up is a symbolic link to {tmp_path}, a folder above"):
        of(pattern)


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.json", "a.gz", "a.txt.bz2"])
def test_a_kind_of_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"must end in one of \.txt, .*optionally followed by \.gz or \.zst"):
        of(str(tmp_path / name))


def test_compressed_parquet_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="Parquet compresses inside the file"):
        kind_of("a.parquet.gz", "a.parquet.gz")


def test_names_tell_format_and_compression() -> None:
    assert kind_of("A.TXT", "") == ("text", "")
    assert kind_of("wiki.test.tokens.txt.gz", "") == ("text", "gzip")
    assert kind_of("part-0.jsonl.zst", "") == ("jsonl", "zstd")
    assert kind_of("part-0.parquet", "") == ("parquet", "")
