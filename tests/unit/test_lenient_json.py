"""What the bytes of a file are, whatever other programs, mail and disks have done to them."""

import bz2
import gzip
import io
import json
import tarfile
import zipfile
import zlib

import pytest

from chatui import i18n
from chatui.errors import TransferError
from chatui.store import import_limits
from chatui.store.imports import importing
from chatui.store.store import Store
from chatui.ui.sidebar import import_tasks

GREETING = {"title": "Grüße", "messages": [{"role": "user", "content": "Hi “you”"}]}
SECOND = {
    "title": "Second",
    "messages": [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "Yes."}],
}
LIST = json.dumps([GREETING, SECOND], indent=1).encode()
LINES = b"\n".join(json.dumps(one).encode() for one in (GREETING, SECOND))
BOTH = ["Grüße", "Second"]


def titles(data: bytes) -> tuple[list[str], list[str]]:
    """What comes in, and what is said of the rest."""
    reading = importing.read(data)
    found = [tree.conversation.title for tree in reading]
    return found, [str(one) for one in reading.skipped]


def zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def tarred(data: bytes, mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        entry = tarfile.TarInfo("conversations.json")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def locked(data: bytes) -> bytes:
    """A .zip whose files are said to have a password."""
    return data.replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1").replace(
        b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"
    )


def nested(data: bytes, depth: int) -> bytes:
    for _ in range(depth):
        data = zipped({"x.zip": data})
    return data


LOCKED = locked(zipped({"a.json": LIST}))
DAMAGED = zipped({"a.json": LIST}).replace(zlib.compress(LIST, 6)[2:40], b"\xff" * 38)
DEEP = zipped({"a.zip": nested(zipped({"a.json": LIST}), 5), "b.json": LIST})


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(LIST, mtime=0),
        gzip.compress(LIST[:50], mtime=0) + gzip.compress(LIST[50:], mtime=0),
        gzip.compress(zipped({"conversations.json": LIST}), mtime=0),
        tarred(LIST),
        tarred(LIST, "w"),
        zipped({"export.tar.gz": tarred(LIST)}),
        zipped({"Takeout/": b"", "Takeout/inner.zip": zipped({"a/conversations.json": LIST, "b/x.json": b"{}"})}),
        zipped({"x/": b"", "x/a.json": LIST, "x/.DS_Store": b"\0", "__MACOSX/x/._a.json": b"\0", "x/._a.json": b"\0"}),
        zipped({"conversations.json.gz": gzip.compress(LIST, mtime=0)}),
        zipped({"CONVERSATIONS.JSON": LIST, "user.json": b"{}"}),
        LIST + b"\0\0\0",
        LIST[:-2] + b",\n]",
        LINES.replace(b"\n", b"\r"),
        LINES.replace(b"\n", b""),
        json.dumps(GREETING, indent=1).encode() + json.dumps(SECOND, indent=1).encode(),
        json.dumps([GREETING]).encode() + b"\n" + json.dumps([SECOND]).encode(),
        json.dumps({"version": 1, "data": {"conversations": [GREETING, SECOND]}}).encode(),
    ],
)
def test_the_same_comes_in_however_it_is_packed(data: bytes) -> None:
    assert titles(data) == (BOTH, [])


@pytest.mark.parametrize(
    ("data", "come", "message"),
    [
        (LIST[:-30], ["Grüße"], "The rest of the file: The file is not JSON from line 20"),
        (LIST[:-4] + b"oops" + LIST[-4:], ["Grüße"], "The rest of the file: The file is not JSON from line"),
        (b'{"chats": ' + LIST[:-30], ["Grüße"], "The rest of the file: The file is not JSON from line 20"),
        (LIST + b"\nand more", BOTH, "The rest of the file: The file is not JSON from line 25, column 1 on."),
        (b"{bad\n" + LINES, BOTH, "Line number 1: It is not JSON."),
        (LINES + b'\n{"messages": [', BOTH, "Line number 3: It is not JSON."),
        (b"// exported\n" + LINES, BOTH, "Line number 1: It is not JSON."),
        (LIST.replace(b"\\u00fc\\u00df", "üß".encode("cp1252")), BOTH, "The file: It is not in UTF-8, and was read as"),
        (LIST.replace(b"Hi", "é".encode() + b"\xff"), BOTH, "The file: Some of its characters, 1, are damaged"),
        (LIST[:-1] + b"," + b"[" * 90_000 + b"]" * 90_001, BOTH, "The rest of the file: There are brackets"),
        (zipped({"conversations-0.json": LIST, "conversations-1.json": b"[{"}), BOTH, "conversations-1.json: The file"),
        (zipped({"a.zip": b"PK\x03\x04oops", "b.json": LIST}), BOTH, "a.zip: The .zip cannot be read"),
        (zipped({"a.zip": LOCKED, "b.json": LIST}), BOTH, "a.zip/a.json: It has a password"),
        (zipped({"a.zip": DAMAGED, "b.json": LIST}), BOTH, "a.zip/a.json: It is damaged"),
        (DEEP, BOTH, "too deep to read"),
        (zipped({"a.json": b"\x89PNG\r\n", "b.json": LIST}), BOTH, "a.json: The file is a picture: choose"),
    ],
)
def test_what_can_be_read_comes_in_and_the_rest_is_told(data: bytes, come: list[str], message: str) -> None:
    found, (left,) = titles(data)
    assert found == come
    assert message in left


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "is a picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "is a picture"),
        (b"%PDF-1.7\n%\xe2\xe3", "is a PDF document"),
        (b"SQLite format 3\0", "is a database"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html>", "is a web page"),
        (bz2.compress(LIST), "is an archive"),
        (gzip.compress(LIST, mtime=0)[:9], "The file is empty"),
        (LOCKED, "It has a password: unpack it"),
        (DAMAGED, "It is damaged"),
        (tarred(LIST, "w:xz"), "is an archive"),
        (b"\x1f\x8b\x08" + b"\xff" * 20, "The .gz file cannot be read"),
        (b"role,content\nuser,hi\n", "not JSON from line 1, column 1"),
    ],
)
def test_another_kind_of_file_is_called_by_its_name(data: bytes, message: str) -> None:
    with pytest.raises(TransferError, match=message):
        titles(data)


def test_what_a_gz_unpacks_to_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(b" " * 3_000_000)
    monkeypatch.setattr(import_limits, "MAX_BYTES", 1_000_000)
    for data in (bomb, zipped({"conversations.json": bomb}), bomb * 3):
        with pytest.raises(TransferError, match="unpacks to more than 1,000,000"):
            titles(data)


def test_all_archives_of_a_file_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = zipped({"a.json": b" " * 600_000})
    monkeypatch.setattr(import_limits, "MAX_BYTES", 1_000_000)
    for data in (zipped({"a.zip": inner, "b.zip": inner}), zipped({"a.zip": zipped({"a.zip": inner, "b.zip": inner})})):
        with pytest.raises(TransferError, match="unpacks to more than 1,000,000"):
            titles(data)
    monkeypatch.setattr(import_limits, "MAX_FILES", 3)
    many = zipped({f"{number}.json": b"{}" for number in range(2)})
    with pytest.raises(TransferError, match="more than 3 files"):
        titles(zipped({"a.zip": many, "b.zip": many}))


def test_a_number_too_large_for_python_refuses_nothing_else() -> None:
    data = json.dumps([GREETING | {"created_at": 1}, SECOND]).encode().replace(b": 1}", b": " + b"9" * 5000 + b"}")
    assert titles(data) == (BOTH, [])


def test_no_value_is_told_as_python_writes_it() -> None:
    values: tuple[object, ...] = (None, True, 1.5, {"a": {"b": 1}}, [1], {}, [], "x" * 100, 10**100)
    shortened = [import_limits.short_repr(value) for value in values]
    assert shortened[:7] == ["null", "true", "1.5", "{…}", "[…]", "{}", "[]"]
    assert all(len(one) < 70 for one in shortened)


@pytest.mark.parametrize("language", i18n.LANGUAGES[1:])
def test_what_is_left_is_told_in_the_readers_language(language: str) -> None:
    odd = {"role": "narrator", "content": "x"}
    chatgpt = {"title": "T", "mapping": {"a": {"message": 3}, "b": 4}}
    left = []
    for value in (
        [SECOND, {"messages": []}, 3, {"mapping": None}, chatgpt, [odd]],
        [{"messages": [*SECOND["messages"], odd, "x", {"role": "user"}]}],
        {"format": "chatui", "version": 1, "conversations": [{}, {"conversation": None, "messages": []}]},
    ):
        reading = importing.read(json.dumps(value).encode())
        assert list(reading) or value
        left += reading.skipped
    for data in (LIST[:-30], b"{bad\n" + LINES, LIST.replace(b"\\u00fc", b"\xfc")):
        reading = importing.read(data)
        assert list(reading)
        left += reading.skipped
    assert len(left) > 9
    coming = import_tasks.ImportTask(Store.in_memory().for_owner("a"), None)
    for one in left:
        coming.source = importing.ImportSource()
        coming.source.skip(one.title, one.reason, "file.json")
        with i18n.use_language(language):
            reason = coming.skipped_items().split(": ", 1)[1]
        assert one.reason not in reason
        assert not {"could", "is", "not", "the", "The", "from"} & set(reason.replace(":", " ").split())
