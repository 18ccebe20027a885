import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from components.core.errors import InputError
from components.data.config import DataConfig
from components.data.reading import Reader
from components.data.sources import SourceFile, kind_of

FAIL, SKIP = DataConfig(), DataConfig(on_error="skip")


def source(path: Path, text_field: str = "text") -> SourceFile:
    return SourceFile(path, path.name, *kind_of(path.name, path.name), text_field)


def read(path: Path, cfg: DataConfig = FAIL) -> list[str]:
    return [document.text for document in Reader(cfg).documents([source(path, cfg.text_field)])]


def read_and_skip(path: Path) -> tuple[list[str], dict[str, int]]:
    reader = Reader(SKIP)
    return [document.text for document in reader.documents([source(path)])], dict(reader.skipped)


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


# What a document is


def test_a_text_file_is_one_document_to_the_byte(tmp_path: Path) -> None:
    assert read(file(tmp_path, "a.txt", "\ufeffone\r\n\r\ntwo\n".encode())) == ["one\r\n\r\ntwo\n"]


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    cfg = DataConfig(document_separator="blank-line")
    path = file(tmp_path, "a.txt", b"\n\nKing:\nSpeak.\n\n \t\n\nServant:\nI do.\n")
    assert read(path, cfg) == ["King:\nSpeak.", "Servant:\nI do."]


def test_a_marker_line_separates_documents(tmp_path: Path) -> None:
    cfg = DataConfig(document_separator="<|endoftext|>")
    path = file(tmp_path, "a.txt", b"one\n\nstill one\n<|endoftext|>\r\ntwo\n<|endoftext|>\n")
    assert read(path, cfg) == ["one\n\nstill one", "two"]


def test_jsonl_is_split_at_line_feeds_only(tmp_path: Path) -> None:
    texts = ["a\u2028b\u2029c\x85d", "two\r\nlines", "\x1e"]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for text in texts)
    assert read(file(tmp_path, "a.jsonl", lines.encode())) == texts[:2]  # the third is white space alone


def test_the_text_field_can_be_named(tmp_path: Path) -> None:
    cfg = DataConfig(text_field="content")
    assert read(file(tmp_path, "a.ndjson", b'{"content": "yes", "text": "no"}\n'), cfg) == ["yes"]
    assert read(parquet(tmp_path / "a.parquet", {"content": ["yes"], "text": ["no"]}), cfg) == ["yes"]


def test_a_text_of_several_fields_has_a_template(tmp_path: Path) -> None:
    cfg = DataConfig(text_field="{q}\n{a} {{{q}}}")
    line = b'{"q": "1+1?", "a": "2", "text": "no"}\n'
    assert read(file(tmp_path, "a.jsonl", line), cfg) == ["1+1?\n2 {1+1?}"]
    assert read(parquet(tmp_path / "a.parquet", {"a": ["2"], "n": [0], "q": ["1+1?"]}), cfg) == ["1+1?\n2 {1+1?}"]
    with pytest.raises(InputError, match=r"line 1 has no text: no field 'a' among \['q'\]"):
        read(file(tmp_path, "b.jsonl", b'{"q": "1+1?"}\n'), cfg)
    with pytest.raises(InputError, match=r"row 1 has no text: 'a' is null"):
        read(parquet(tmp_path / "b.parquet", {"q": ["1+1?"], "a": pa.array([None], pa.string())}), cfg)
    with pytest.raises(InputError, match=r"no column 'a'; it has \['q'\]"):
        read(parquet(tmp_path / "c.parquet", {"q": ["1+1?"]}), cfg)


def test_parquet_is_read_over_all_row_groups(tmp_path: Path) -> None:
    texts = [f"row {number} é" for number in range(10)]
    assert read(parquet(tmp_path / "a.parquet", {"id": list(range(10)), "text": texts})) == texts
    assert read(parquet(tmp_path / "b.parquet", {"text": pa.array(texts, pa.large_string())})) == texts


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".gz", gzip.compress),
        (".gz", lambda raw: gzip.compress(raw[:50]) + gzip.compress(raw[50:])),  # as `cat a.gz b.gz` makes
        (".zst", zstandard.compress),
        (".zst", lambda raw: zstandard.compress(raw[:50]) + zstandard.compress(raw[50:])),
    ],
)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    texts = [f"document {number}" for number in range(2000)]
    raw = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    assert read(file(tmp_path, f"a.jsonl{suffix}", compress(raw))) == texts
    assert read(file(tmp_path, f"a.txt{suffix}", compress(raw))) == [raw.decode()]


def test_progress_adds_up_to_the_bytes_on_disk(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(2000)]
    raw = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    for path in (
        file(tmp_path, "a.jsonl", raw),
        file(tmp_path, "b.jsonl.gz", gzip.compress(raw)),
        parquet(tmp_path / "c.parquet", {"text": texts[:256]}),
    ):
        told: list[int] = []
        assert list(Reader(FAIL).documents([source(path)], told.append))
        assert sum(told) == path.stat().st_size


def test_real_biographies_are_read_whole(biographies: Path) -> None:
    lines = gzip.decompress(biographies.read_bytes()).decode().split("\n")
    assert read(biographies) == [json.loads(line)["text"] for line in lines if line]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string_view(),
        pa.binary_view(),
        pa.large_binary(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.binary()),
    ],
    ids=str,
)
def test_every_layout_of_text_that_arrow_knows_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["one", "two é", "one", "three"]
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    as_bytes = pa.types.is_binary(held) or pa.types.is_large_binary(held) or pa.types.is_binary_view(held)
    column = pa.array([text.encode() if as_bytes else text for text in texts], kind)
    path = parquet(tmp_path / "a.parquet", {"text": column})
    assert pq.read_schema(path).field("text").type == kind
    assert read(path) == texts


# What can be wrong with a document: fail and name the place, or skip and count


def test_undecodable_bytes_of_a_text_file(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", b"caf\xe9 au lait")
    with pytest.raises(InputError, match=r"a\.txt, byte 3 is not UTF-8 \(0xe9.*data\.on_error=skip"):
        read(path)
    assert read_and_skip(path) == ([], {"undecodable": 1})


def test_undecodable_bytes_between_separators(tmp_path: Path) -> None:
    path = file(tmp_path, "a.txt", b"one\n\n\ntw\xffo\n\nthree\n")
    with pytest.raises(InputError, match=r"byte 8 is not UTF-8"):
        read(path, DataConfig(document_separator="blank-line"))
    reader = Reader(DataConfig(document_separator="blank-line", on_error="skip"))
    assert [document.text for document in reader.documents([source(path)])] == ["one", "three"]
    assert reader.skipped == {"undecodable": 1}


def test_undecodable_bytes_of_a_jsonl_line_count_from_the_start_of_the_unpacked_file(tmp_path: Path) -> None:
    first = b'{"text": "fine"}\n'
    path = file(tmp_path, "a.jsonl.gz", gzip.compress(first + b'{"text": "\xc3("}\n' + first))
    with pytest.raises(InputError, match=rf"a\.jsonl\.gz, byte {len(first) + 10} is not UTF-8"):
        read(path)
    assert read_and_skip(path) == (["fine", "fine"], {"undecodable": 1})


def test_undecodable_bytes_of_a_parquet_column(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": pa.array([b"fine", b"\xff"], pa.binary())})
    with pytest.raises(InputError, match=r"a\.parquet, row 2, byte 0 is not UTF-8"):
        read(path)
    assert read_and_skip(path) == (["fine"], {"undecodable": 1})


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    path = file(tmp_path, "a.jsonl", b'{"text": "\\ud83d"}\n{"text": "\\ud83d\\ude00"}\n')
    with pytest.raises(InputError, match="line 1 holds text that is not valid Unicode"):
        read(path)
    assert read_and_skip(path) == (["😀"], {"undecodable": 1})


@pytest.mark.parametrize("line", [b"{'text': 1}", b'{"text": "cut', b"plain words", b"[" * 100_000])
def test_a_line_that_is_not_json(tmp_path: Path, line: bytes) -> None:
    path = file(tmp_path, "a.jsonl", b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 3 is not JSON .*data\.on_error=skip"):
        read(path)
    assert read_and_skip(path) == (["one", "two"], {"not_json": 1})


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"body": "x", "id": 1}', r"no field 'text' among \['body', 'id'\]\. Set data\.text_field"),
        (b'{"text": 5}', "its 'text' is int, not text"),
        (b'{"text": null}', "its 'text' is NoneType, not text"),
        (b'["text"]', "it is list, not an object"),
    ],
)
def test_a_line_without_text(tmp_path: Path, line: bytes, complaint: str) -> None:
    path = file(tmp_path, "a.jsonl", line + b'\n{"text": "fine"}')
    with pytest.raises(InputError, match=rf"a\.jsonl, line 1 has no text: {complaint}"):
        read(path)
    assert read_and_skip(path) == (["fine"], {"no_text": 1})


def test_a_null_in_a_parquet_column(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": ["one", "two", "three", None]})
    with pytest.raises(InputError, match=r"a\.parquet, row 4 has no text"):
        read(path)
    assert read_and_skip(path) == (["one", "two", "three"], {"no_text": 1})


def test_documents_without_visible_text_are_counted_and_left_out(tmp_path: Path) -> None:
    reader = Reader(FAIL)
    path = file(tmp_path, "a.jsonl", b'{"text": ""}\n{"text": " \\n"}\n{"text": "x"}\n')
    assert [document.text for document in reader.documents([source(path)])] == ["x"]
    assert reader.skipped == {"empty": 2}


# What can be wrong with a file: always an error


@pytest.mark.parametrize("cfg", [FAIL, SKIP])
@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
@pytest.mark.parametrize("harm", ["cut", "foreign"])
def test_a_damaged_compressed_file(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes], harm: str, cfg: DataConfig
) -> None:
    raw = b"".join(b'{"text": "%d"}\n' % (number**7) for number in range(5000))
    content = compress(raw)[:-2000] if harm == "cut" else raw
    with pytest.raises(InputError, match=rf"a\.jsonl{suffix} is truncated or damaged"):
        read(file(tmp_path, f"a.jsonl{suffix}", content), cfg)


def test_a_gzip_file_with_an_altered_byte(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"text": "abcdefgh"}\n' * 50))
    packed[-6] ^= 1  # in the checksum
    with pytest.raises(InputError, match="truncated or damaged"):
        read(file(tmp_path, "a.jsonl.gz", bytes(packed)))


@pytest.mark.parametrize("content", [b"not parquet at all", b""])
def test_a_file_that_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet"):
        read(file(tmp_path, "a.parquet", content))


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", {"text": ["x" * 100] * 100})
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet"):
        read(whole)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_parquet_file_with_an_altered_byte_is_read_whole_or_named(tmp_path: Path, compression: str) -> None:
    texts = [f"document {number} " * 3 for number in range(200)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": texts}), path, compression=compression, write_page_checksum=True)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert read(path) == texts  # what was altered says nothing about the text, for example who wrote the file
        except InputError as error:
            refused += "a.parquet" in str(error)
    assert refused > 20


def test_a_parquet_file_without_the_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'text'; it has \['body', 'n'\]\. Set data\.text_field"):
        read(parquet(tmp_path / "a.parquet", {"body": ["x"], "n": [1]}))


def test_a_parquet_column_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"column 'text' of a\.parquet holds int64, not text"):
        read(parquet(tmp_path / "a.parquet", {"text": [1, 2]}))
