"""`chatui models find`, `pull` and `rm`: search the Hub, fetch a model into the HF cache, delete it from there."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TextIO

from chatui.errors import SettingsError
from chatui.model_spec import HUB_FILE, parse_model_name
from chatui.models.catalogue import plan_deletion
from chatui.models.fetch import Download, DownloadPlan, Progress, plan_download
from chatui.models.file_choice import gguf_choices
from chatui.models.hub import Hub, HubModel, ModelSearch, Sort
from chatui.models.listing import as_json, as_table
from chatui.units import human_bytes, human_count

SORTS: Mapping[str, Sort] = {
    "trending": "trending_score",
    "downloads": "downloads",
    "likes": "likes",
    "updated": "last_modified",
}
WITH_QUANTIZATION = re.compile(r"(?:hf\.co/|huggingface\.co/)?(?P<name>[\w.-]+/[\w.-]+):(?P<gguf>[\w.-]+)")
"""The names of GGUF files that llama.cpp and Ollama take."""


AddSubcommand = Callable[[str, Callable[[argparse.Namespace], str], str], argparse.ArgumentParser]
"""Adds a subcommand of this name, function and help, with the flag --json, and returns its parser."""


def add_subcommands(add: AddSubcommand) -> None:
    """Add find, pull and rm to `chatui models`."""
    parser = add("find", find, "Search the Hub for models.")
    parser.add_argument("text", nargs="?", default="", help="part of the name")
    parser.add_argument("--task", default=ModelSearch.task, help="task on the Hub; empty for all")
    parser.add_argument(
        "--tag", action="append", default=[], help="tag on the Hub, such as code or medical; repeatable"
    )
    parser.add_argument("--language", default="", help="language code, such as de")
    parser.add_argument("--licence", default="", help="identifier of a licence, such as apache-2.0")
    parser.add_argument("--library", choices=("safetensors", "gguf"), help="format of the weights")
    parser.add_argument("--author", default="", help="owner of the model")
    parser.add_argument("--parameters", default="", metavar="RANGE", help="such as min:1B,max:8B")
    parser.add_argument("--sort", choices=SORTS, default="trending")
    parser.add_argument("--page", type=int, default=1)
    parser = add("pull", pull, "Fetch a model from the Hub. Run it again after an interruption: it continues.")
    parser.add_argument("name", help="owner/name, owner/name:QUANTIZATION or the address of its page")
    parser.add_argument("--revision", help="branch, tag or commit")
    parser.add_argument("--gguf", default="", metavar="QUANTIZATION", help="which GGUF file, such as Q4_K_M")
    parser = add("rm", rm, "Delete a model from the HF cache. Files elsewhere are never deleted.")
    parser.add_argument("name", help="owner/name, or the path of a GGUF file in the cache")
    parser.add_argument("--revision", default="", metavar="COMMIT", help="only this revision")
    parser.add_argument("--dry-run", action="store_true", help="only say what it frees")


def find(options: argparse.Namespace) -> str:
    """A page of models on the Hub."""
    search = ModelSearch(
        options.text,
        options.task,
        tuple(options.tag),
        options.language,
        options.licence,
        options.library,
        options.author,
        options.parameters,
        SORTS[options.sort],
    )
    page = Hub().search(search, options.page)
    if options.json:
        return as_json({"models": [_facts(model) for model in page.models], "has_more": page.has_more})
    if not page.models:
        return "No model was found."
    header = ("Model", "Parameters", "Downloads", "Likes", "Updated", "Licence", "Access")
    table = as_table(header, (_row(model) for model in page.models))
    return f"{table}\n\nMore with --page {page.number + 1}." if page.has_more else table


def pull(options: argparse.Namespace) -> str:
    """Fetch a model, with its progress on standard error."""
    name, revision, gguf = _parse(options.name)
    plan = plan_download(name, options.revision or revision, options.gguf or gguf)
    sys.stderr.write(f"{_description(plan)}\n")
    bar = ProgressBar(sys.stderr)
    download = Download(plan)
    try:
        download.start()
        for progress in download:
            bar.show(progress)
    except KeyboardInterrupt:
        download.pause()
        bar.close()
        sys.stderr.write("Interrupted. Run the same command again to continue.\n")
        raise
    bar.close()
    if download.progress.error:
        raise download.progress.error
    if options.json:
        files = [file.path for file in plan.files]
        about = {"repository": plan.repository, "commit": plan.commit, "model": plan.model}
        return as_json({**about, "path": str(plan.snapshot), "bytes": plan.total_bytes, "files": files})
    return f"{plan.repository} is here. Start it with: chatui --model {plan.model}"


def rm(options: argparse.Namespace) -> str:
    """Delete a model from the HF cache."""
    deletion = plan_deletion(options.name, options.revision)
    if not options.dry_run:
        deletion.execute()
    if options.json:
        return as_json({"name": deletion.name, "freed": deletion.freed, "deleted": not options.dry_run})
    verb = "would free" if options.dry_run else "freed"
    return f"Deleting {deletion.name} {verb} {human_bytes(deletion.freed)}."


class ProgressBar:
    """A line on a terminal that is written over; nothing on other outputs."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Show how far a download is."""
        if not self._output.isatty():
            return
        line = progress_line(progress)
        self._output.write("\r" + line.ljust(self._width))
        self._output.flush()
        self._width = len(line)

    def close(self) -> None:
        """End the line."""
        if self._width:
            self._output.write("\n")


def progress_line(progress: Progress) -> str:
    """The progress as text: a bar, the share, bytes, speed, time left."""
    share = progress.bytes / progress.total if progress.total else 1.0
    bar = ("#" * int(20 * share)).ljust(20, ".")
    parts = [f"[{bar}] {100 * share:3.0f} %", f"{human_bytes(progress.bytes)} of {human_bytes(progress.total)}"]
    if progress.waiting:
        parts.append(f"trying again in {progress.waiting:.0f} s")
    elif progress.step in ("check", "link"):
        parts.append({"check": "checking", "link": "storing"}[progress.step])
    elif progress.seconds_left is not None:
        minutes, seconds = divmod(int(progress.seconds_left), 60)
        parts += [f"{human_bytes(progress.speed)}/s", f"{minutes}:{seconds:02} left"]
    return "  ".join(parts)


def _parse(text: str) -> tuple[str, str | None, str]:
    """(name, revision, GGUF file) of what the user gave. Raises SettingsError for an empty name."""
    if match := WITH_QUANTIZATION.fullmatch(text):
        return match["name"], None, match["gguf"]
    if (match := HUB_FILE.fullmatch(text)) and match["path"].lower().endswith(".gguf"):
        return match["name"], None, match["path"]
    name, revision = parse_model_name(text.strip())
    if not name:
        raise SettingsError("name", "it is empty.", "Give the name of a model on the Hub (owner/name).")
    return name, revision, ""


def _description(plan: DownloadPlan) -> str:
    size, present = human_bytes(plan.total_bytes), plan.present_bytes
    choices = gguf_choices(plan.files)
    what = str(choices[0]) if choices else f"{len(plan.files)} files, {size}"
    there = f"; {human_bytes(present)} of it are here" if present else ""
    return f"Fetching {plan.repository} at {plan.commit[:8]}: {what}{there}"


def _row(model: HubModel) -> tuple[str, ...]:
    return (
        model.id,
        human_count(model.total_parameters) if model.total_parameters else "-",
        str(model.downloads),
        str(model.likes),
        f"{model.updated:%Y-%m-%d}" if model.updated else "-",
        model.licence or "-",
        "gated" if model.gated else "open",
    )


def _facts(model: HubModel) -> dict[str, Any]:
    facts = asdict(model)
    facts["updated"] = model.updated.isoformat() if model.updated else None
    facts["total_parameters"] = model.total_parameters
    del facts["files"]
    return facts
