"""The tables of docs/capacity.md, from what was measured last."""

from pathlib import Path

import pytest

from scripts.benchmark import capacity, capacity_report
from scripts.benchmark.capacity_inputs import Engine, Load
from scripts.benchmark.capacity_model import TARGET, parts, sized


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_what_was_measured_last_is_whole() -> None:
    found = capacity_report.read()
    assert min(vars(found.costs).values()) >= 0
    assert {row["name"] for row in found.check["compared"]} >= {"page servers, cores", "database, cores"}
    site = sized(Load(), Engine(), found.costs)
    names = {part.name for part in parts(Load(), site, Engine(), found.costs)}
    assert set(found.simulated) <= names


def test_the_simulation_that_was_kept_agrees_with_the_arithmetic() -> None:
    found = capacity_report.read()
    site = sized(Load(), Engine(), found.costs)
    for part in parts(Load(), site, Engine(), found.costs):
        if part.name in found.simulated:
            # Arrivals of five minutes are random; the unit tests compare with those that came.
            assert part.utilisation == pytest.approx(found.simulated[part.name], rel=0.15, abs=0.01), part.name


def test_more_users_need_no_less_of_anything() -> None:
    needed = [row[4:8] for row in rows(capacity_report.plans(Load(), Engine(), capacity_report.read().costs))]
    counts = [[int(cell.replace(",", "")) for cell in row] for row in needed]
    assert counts == sorted(counts)


def test_the_command_plans_with_what_was_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = ["--costs", str(capacity_report.MEASURED), "--users", "50,500", "--replicas", "1", "--page-servers", "2"]
    assert capacity.main(given) == 0
    printed = capsys.readouterr().out
    assert "| 500 |" in printed
    assert f"For {TARGET:.0%}" in printed
    assert "Full first: " in printed
