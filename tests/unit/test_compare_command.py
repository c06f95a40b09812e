"""`chatui models compare`: stored votes and files of votes, as a table, JSON and CSV."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chatui import cli
from chatui.errors import ChatError
from chatui.models import command
from chatui.models.fit import Machine
from chatui.models.votes import Choice, Contestant, Vote, as_json
from chatui.settings import AppSettings
from chatui.store.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POET, CRITIC = Contestant("small", "Poet"), Contestant("large", "Critic")
CHOICES: tuple[Choice, ...] = ("b", "b", "a", "neither")
VOTES = [
    Vote(POET, CRITIC, choice, NOON + timedelta(hours=hour), ("code",) if hour else ())
    for hour, choice in enumerate(CHOICES)
]


def no_machine() -> Machine:
    raise AssertionError("nothing is measured")


def run(*arguments: str) -> str:
    def stored(login: str, data_dir: str) -> list[Vote]:
        return VOTES if not login else []

    return command.run(["compare", *arguments], no_machine, stored)


def test_the_table_has_the_best_first_and_says_what_it_shows() -> None:
    table, evidence = run().split("\n\n")
    header, first, second = table.splitlines()
    assert header.split() == ["rank", "name", "rating", "95", "%", "interval", "Elo", "votes", "wins", "ties", "losses"]
    assert "large · Critic" in first
    assert first.split()[-4:] == ["4", "2", "1", "1"]
    assert "small · Poet" in second
    assert "4 votes over 1 pair" in evidence
    assert run("--login", "ada") == "There are no votes yet."


def test_json_and_the_choice_of_votes() -> None:
    value = json.loads(run("--json", "--by", "model", "--tag", "code"))
    assert [(rating["name"], rating["votes"]) for rating in value["ratings"]] == [("large", 3), ("small", 3)]
    assert (value["votes"], value["regularized"], value["groups"]) == (3, False, [["large", "small"]])
    assert json.loads(run("--json", "--persona", "Poet"))["votes"] == 0


def test_votes_are_exported_and_rated_from_a_file(tmp_path: Path) -> None:
    exported = run("--export", "json")
    assert exported == as_json(VOTES).rstrip()
    assert len(run("--export", "csv").splitlines()) == 1 + len(VOTES)
    file = tmp_path / "votes.json"
    file.write_text(exported)
    assert run("--file", str(file), "--login", "nobody") == run()
    with pytest.raises(ChatError, match="cannot be read"):
        run("--file", str(tmp_path))


def test_the_command_line_reads_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHATUI_DATA_DIR", str(tmp_path))
    assert cli.main(["models", "compare"]) == 2  # there is no database
    store = Store.open(AppSettings(data_dir=tmp_path))
    store.for_owner("local").votes.add(VOTES)
    store.for_owner("login:ada").votes.add([replace(VOTES[0], a=Contestant("other"))])
    store.close()
    assert cli.main(["models", "compare"]) == 0
    monkeypatch.delenv("CHATUI_DATA_DIR")
    assert cli.main(["models", "compare", "--login", "ada", "--data-dir", str(tmp_path)]) == 0
    local, ada = capsys.readouterr().out.split("small", 1)
    assert "large · Critic" in local
    assert "other" in ada
