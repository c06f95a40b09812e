import io
import json
from pathlib import Path
from typing import Any

import pytest

from chatui import cli
from chatui.models.catalogue import local_models
from chatui.models.fetch import Download, Progress
from chatui.models.hub_commands import ProgressBar, progress_line
from tests.local_hub import LocalHub

FACTS: dict[str, Any] = {
    "pipeline_tag": "text-generation",
    "tags": ["gguf", "license:apache-2.0"],
    "downloads": 1234,
    "likes": 5,
    "lastModified": "2026-11-01T12:00:00.000Z",
    "safetensors": {"parameters": {"BF16": 8_030_261_248}, "total": 8_030_261_248},
}
GGUFS = {"m-Q8_0.gguf": b"GGUF" * 2000, "m-Q4_K_M.gguf": b"GGUF" * 1000}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["models", *arguments])
    return code, *capsys.readouterr()


def test_find(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("owner/wanted-8B", {}, facts=FACTS, gated=True)
    hub.add("owner/image", {}, facts={"pipeline_tag": "text-to-image"})
    code, out, _ = run(capsys, "find", "wanted", "--licence", "apache-2.0", "--sort", "likes")
    assert code == 0
    for shown in ("owner/wanted-8B", "8.03B", "1234", "2026-11-01", "apache-2.0", "gated"):
        assert shown in out
    assert "image" not in out
    _, out, _ = run(capsys, "find", "--json", "--task", "")
    found = json.loads(out)
    assert {model["id"] for model in found["models"]} == {"owner/wanted-8B", "owner/image"}
    assert not found["has_more"]
    assert run(capsys, "find", "absent")[1] == "No model was found.\n"
    for index in range(21):
        hub.add(f"owner/m{index}", {}, facts=FACTS)
    assert "More with --page 2." in run(capsys, "find")[1]


def test_pull_and_rm(hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("owner/ggufs", GGUFS)
    code, out, err = run(capsys, "pull", "owner/ggufs:q8_0", "--json")
    assert code == 0
    assert "Q8_0 (8 kB, nearly no loss)" in err
    fetched = json.loads(out)
    assert (fetched["repository"], fetched["bytes"], fetched["files"]) == ("owner/ggufs", 8000, ["m-Q8_0.gguf"])
    assert Path(fetched["model"]).read_bytes() == GGUFS["m-Q8_0.gguf"]
    code, out, _ = run(capsys, "rm", fetched["model"], "--dry-run")
    assert (code, Path(fetched["model"]).exists()) == (0, True)
    assert "would free 8 kB" in out
    code, out, _ = run(capsys, "rm", "owner/ggufs", "--json")
    assert json.loads(out) == {"name": "owner/ggufs", "freed": 8000, "deleted": True}
    assert local_models() == ()
    assert not Path(fetched["model"]).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("pull", "owner/absent"), "no model 'owner/absent' on the Hub"),
        (("pull", "owner/ggufs:Q2_K"), "It offers: Q4_K_M (4 kB, small loss, the usual choice), Q8_0"),
        (("pull", "owner/ggufs", "--revision", "v9"), "no revision 'v9'"),
        (("pull", ""), "name: it is empty"),
        (("rm", "owner/absent"), "not in the HF cache"),
        (("find", "--page", "99"), "first 1000 models"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], says: str, hub: LocalHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.add("owner/ggufs", GGUFS)
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


@pytest.mark.parametrize(
    "address",
    [
        "https://huggingface.co/owner/ggufs/tree/main",
        "hf.co/owner/ggufs:Q4_K_M",
        "https://huggingface.co/owner/ggufs/blob/main/m-Q4_K_M.gguf",
    ],
)
def test_addresses_are_taken_as_people_copy_them(
    address: str, hub: LocalHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(download: Download) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Download, "start", interrupted)
    hub.add("owner/ggufs", GGUFS)
    _, _, err = run(capsys, "pull", address)
    assert "Q4_K_M (4 kB" in err
    assert "Run the same command again to continue." in err


def test_the_progress_as_text() -> None:
    progress = Progress("running", 500_000_000, 1_000_000_000, speed=8_000_000.0)
    assert progress_line(progress) == "[##########..........]  50 %  500 MB of 1.0 GB  8 MB/s  1:02 left"
    assert progress_line(Progress("running", 0, 10, waiting=4.0)).endswith("trying again in 4 s")
    assert progress_line(Progress("running", 10, 10, step="check")).endswith("checking")
    assert "100 %" in progress_line(Progress("done", 0, 0))


def test_the_progress_is_written_over_on_a_terminal_only() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for output, shown in ((Terminal(), 2), (io.StringIO(), 0)):
        bar = ProgressBar(output)
        for done in (1, 2):
            bar.show(Progress("running", done, 2))
        bar.close()
        assert output.getvalue().count("\r") == shown
        assert output.getvalue().count("\n") == shown // 2
