"""`python -m scripts.docs`: writes the generated parts of docs/*.md anew: settings, module map, imports, message flow.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`. tests/unit/test_docs.py checks that each
part is current.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from chatui.generation_settings import GenerationSettings
from chatui.remote.dialects import DIALECTS, STANDARD
from chatui.settings import AppSettings
from scripts.benchmark import capacity_report
from scripts.benchmark.capacity_inputs import Engine, Load
from scripts.benchmark.capacity_model import sized

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = "chatui"
PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
THINKING = {"": "as the model does", "template": "on, off", "effort": "levels", "both": "on, off, levels"}
FOLDERS = {"cache_dir": "the user's cache folder", "data_dir": "the user's data folder"}
VERSIONS = "chatui.store.migrations.versions."


@dataclass(frozen=True)
class Call:
    """One step of the message flow: `caller`, or what runs on its behalf, calls `callee`, which runs in `thread`."""

    caller: Any
    callee: Any
    thread: str
    what: str


def app_settings() -> str:
    """The table of AppSettings."""
    rows = []
    for name, field in AppSettings.model_fields.items():
        default = FOLDERS.get(name) or _default(field)
        rows.append(f"| `--{name.replace('_', '-')}` | `CHATUI_{name.upper()}` | {default} | {field.description} |")
    return _table(["Flag", "Variable", "Default", "What it does"], rows)


def generation_settings() -> str:
    """The table of GenerationSettings, with the range that the page and /v1 allow."""
    rows = [
        f"| {field.title} | `{name}` | `--generation.{name.replace('_', '-')}` | {_default(field)} | {_range(field)} "
        f"| {field.description} |"
        for name, field in GenerationSettings.model_fields.items()
    ]
    return _table(["On the page", "In `/v1`", "Flag", "Default", "Range", "What it does"], rows)


def dialects() -> str:
    """The table of DIALECTS: what each kind of server takes and tells."""
    rows = []
    for name, dialect in DIALECTS.items():
        settings = ", ".join(f"`{setting}`" for setting in dialect.settings if setting not in STANDARD) or "–"
        told = [f"{dialect.top_logprobs} alternatives" if dialect.top_logprobs else ""]
        told += ["prompt" if dialect.prompt else "", "ids" if dialect.token_ids else ""]
        rows.append(
            f"| {dialect.title} | `{name}` | {settings} | {THINKING[dialect.thinking]} "
            f"| {'yes' if dialect.continues else 'no'} | {', '.join(filter(None, told)) or '–'} |"
        )
    taken = ", ".join(f"`{name}`" for name in STANDARD)
    header = ["Server", "`dialect=`", f"Settings besides {taken}", "Thinking", "Continue", "Tells of tokens"]
    return _table(header, rows)


def capacity_costs() -> str:
    """What things cost each part of an installation, as it was measured last."""
    found = capacity_report.read()
    told = f"Measured by `scripts/bench capacity` on {found.date} ({found.processor}):"
    return f"{told}\n\n{capacity_report.cost_table(found.costs)}"


def capacity_plans() -> str:
    """What 10 to 10,000 users need."""
    return capacity_report.plans(Load(), Engine(), capacity_report.read().costs)


def capacity_parts() -> str:
    """How full the parts are that 10,000 users need, by the arithmetic and by the simulation."""
    found, load, engine = capacity_report.read(), Load(), Engine()
    site = sized(load, engine, found.costs)
    return capacity_report.part_table(load, site, engine, found.costs, found.simulated)


def capacity_check() -> str:
    """What real visitors took, beside the arithmetic."""
    check = capacity_report.read().check
    told = f"{check['visitors']} visitors, {check['seconds']:.0f} seconds, {check['turns']} turns"
    return f"{told}, {check['failed']} failed:\n\n{capacity_report.check_table(check)}"


def module_map() -> str:
    """Every module with the first sentence of its docstring, as a tree."""
    lines = ["```text"]
    for name, path in modules().items():
        if name.startswith(VERSIONS):
            continue
        folder = path.name == "__init__.py"
        depth = name.count(".")
        shown = f"{path.parent.name}/" if folder else path.name
        lines.append(f"{'  ' * depth + shown:<30} {_summary(path)}".rstrip())
    return "\n".join([*lines, "```"])


def import_map() -> str:
    """A Mermaid diagram: top-level modules and packages, an arrow to each that is imported directly.

    An import that another path of arrows implies is left out. A dotted arrow is an import inside a function.
    """
    graph, late = room_imports(), room_imports(late=True)
    lines = ["```mermaid", "flowchart LR"]
    for room, imported in graph.items():
        shape = f'{room}[["{room}/"]]' if (ROOT / PACKAGE / room).is_dir() else f'{room}["{room}"]'
        lines.append(f"  {shape}")
        lines += [f"  {room} --> {other}" for other in sorted(imported - _implied(graph, imported))]
        lines += [f"  {room} -.-> {other}" for other in sorted(late[room] - imported - _implied(graph, imported))]
    return "\n".join([*lines, "```"])


def message_flow() -> str:
    """The message flow as a Mermaid diagram, and as a table that names modules and functions."""
    calls = message_calls()
    functions = list(dict.fromkeys(function for call in calls for function in (call.caller, call.callee)))
    threads = {call.callee: call.thread for call in calls}
    lines = ["```mermaid", "flowchart TB"]
    for thread in dict.fromkeys(threads.get(function, calls[0].thread) for function in functions):
        lines.append(f'  subgraph {thread.replace(" ", "_")}["{thread}"]')
        for at, function in enumerate(functions):
            if threads.get(function, calls[0].thread) == thread:
                lines.append(f'    n{at}["{function.__qualname__}<br/>{_file(function)}"]')
        lines.append("  end")
    lines.append('  box(["message box"]) --> n0')
    for step, call in enumerate(calls, 1):
        lines.append(f"  n{functions.index(call.caller)} -- {step} --> n{functions.index(call.callee)}")
    shown = next(at for at, function in enumerate(functions) if function.__module__.endswith(".transcript"))
    lines.append(f'  n{shown} --> chat(["chat on the page"])')
    rows = [
        f"| {step} | `{call.callee.__qualname__}` | `{PACKAGE}/{_file(call.callee)}` | {call.what} |"
        for step, call in enumerate(calls, 1)
    ]
    return "\n".join([*lines, "```", "", _table(["Step", "Function", "Module", "What it does"], rows)])


def message_calls() -> list[Call]:
    """The calls that bring a message from the box to the model, and the reply back, in their order."""
    from chatui import character_prompt
    from chatui.engine.backend import LocalBackend
    from chatui.engine.batching.blocks import BlockPool
    from chatui.engine.batching.forward import Forward
    from chatui.engine.batching.scheduler import Scheduler
    from chatui.engine.model_thread import ModelThread
    from chatui.engine.request_queue import RequestQueue
    from chatui.engine.runners import reply_builder
    from chatui.engine.runners.batch_runner import BatchRunner
    from chatui.engine.runners.reply_builder import ReplyBuilder
    from chatui.engine.sampling.sampler import choose_each
    from chatui.engine.text import prompt
    from chatui.engine.text.detokenizer import Detokenizer
    from chatui.reply_text.stop_strings import StopStrings
    from chatui.reply_writer import ReplyWriter
    from chatui.runner import Runner, build_messages
    from chatui.running_reply import ReplyProgress, RunningReply
    from chatui.store.owner_store import OwnerStore
    from chatui.store.store import Store
    from chatui.ui.chat import transcript
    from chatui.ui.chat.conversation_view import ConversationView
    from chatui.ui.chat.reply_requests import ReplyRequests

    loop, prompts, model, store = "event loop", "prompt thread", "model thread", "store threads"
    return [
        Call(
            ReplyRequests.start, character_prompt.build_prompt, loop, "Makes the system prompt of persona and lorebook."
        ),
        Call(
            ReplyRequests.start, Runner.start_reply, loop, "Starts a reply, which goes on whether or not a tab is open."
        ),
        Call(Runner.start_reply, LocalBackend.admit, loop, "Reserves a place in the queue, or refuses."),
        Call(Runner.start_reply, OwnerStore.start_turn, store, "Saves question and empty reply in one transaction."),
        Call(Runner.start_reply, build_messages, loop, "Makes the list of messages with roles."),
        Call(Runner.start_reply, LocalBackend.stream, loop, "Queues the request; yields the reply in pieces."),
        Call(LocalBackend.stream, RequestQueue.put, loop, "Gives the request its place among those that wait."),
        Call(
            LocalBackend.stream, ModelThread, model, "Takes requests from the queue, and sends the pieces of replies."
        ),
        Call(ModelThread, BatchRunner.prepare, prompts, "Makes the prompt of the next request ahead of its turn."),
        Call(BatchRunner.prepare, ReplyBuilder, prompts, "Makes the state of a reply that is to be generated."),
        Call(ReplyBuilder, reply_builder.preview, prompts, "Applies template and tokenizer for this model."),
        Call(reply_builder.preview, prompt.build, prompts, "Messages to text by the chat template, text to token ids."),
        Call(ModelThread, BatchRunner.begin, model, "Gives the reply a row of the batch."),
        Call(BatchRunner.begin, Scheduler.add, model, "Adds the row."),
        Call(
            Scheduler.add,
            BlockPool.open,
            model,
            "Finds the K/V blocks of the beginning that are cached, and takes new ones.",
        ),
        Call(ModelThread, BatchRunner.step, model, "Advances all replies by one step, again and again."),
        Call(BatchRunner.step, Scheduler.step, model, "Reads a piece of a prompt, or writes one token of each row."),
        Call(Scheduler.step, Forward.prefill, model, "Forward pass over a piece of a prompt (prefill)."),
        Call(Scheduler.step, Forward.decode, model, "Forward pass for one token of each row (decode)."),
        Call(Scheduler.step, choose_each, model, "Logits to one token id for each row: penalties, filters, draw."),
        Call(BatchRunner.step, ReplyBuilder.push, model, "Token id to a piece of the reply, and whether it is over."),
        Call(ReplyBuilder.push, Detokenizer.push, model, "Token ids to whole characters."),
        Call(ReplyBuilder.push, StopStrings.push, model, "Ends the text before a stop string."),
        Call(Runner.start_reply, ReplyProgress.add, loop, "Adds each piece that comes to what is known of the reply."),
        Call(Runner.start_reply, RunningReply.notify, loop, "Wakes the tabs that show this reply."),
        Call(ConversationView.show, RunningReply.changes, loop, "Waits in a tab until there is something new to show."),
        Call(
            ConversationView.show,
            transcript.render_reply,
            loop,
            "Makes what the chat shows of it, a few times a second.",
        ),
        Call(ReplyWriter, RunningReply.to_update, loop, "Takes what has been written, several times a second."),
        Call(ReplyWriter, Store.update_replies, store, "Saves it; the last time with what Inspect shows."),
    ]


PARTS: dict[str, Callable[[], str]] = {
    "settings": app_settings,
    "generation settings": generation_settings,
    "module map": module_map,
    "import map": import_map,
    "message flow": message_flow,
    "dialects": dialects,
    "capacity costs": capacity_costs,
    "capacity plans": capacity_plans,
    "capacity parts": capacity_parts,
    "capacity check": capacity_check,
}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, a package before what is in it."""
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return dict(sorted(found.items(), key=lambda item: item[0].split(".")))


def module_imports(late: bool = False) -> dict[str, set[str]]:
    """The modules that each module imports; those that functions import when they are called only if `late`.

    Imports under TYPE_CHECKING are left out.
    """
    known = modules()
    return {name: set(_imports(ast.parse(path.read_text()).body, known, late)) - {name} for name, path in known.items()}


def room_imports(late: bool = False) -> dict[str, set[str]]:
    """The same between the rooms of the package, which are its top-level modules and packages."""
    graph: dict[str, set[str]] = {}
    for name, imported in module_imports(late).items():
        if name != PACKAGE:
            others = {other.split(".")[1] for other in imported - {PACKAGE}}
            graph.setdefault(name.split(".")[1], set()).update(others - {name.split(".")[1]})
    return graph


def render(text: str) -> str:
    """The text of a page with its generated parts made anew. Raises KeyError for a part that is not known."""
    return PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", text)


def main() -> int:
    """Write the pages; names those that have changed."""
    for page in sorted(DOCS.glob("*.md")):
        before = page.read_text()
        after = render(before)
        if after != before:
            page.write_text(after)
            print(f"{page.relative_to(ROOT)} written")
    return 0


def _imports(body: list[ast.stmt], known: dict[str, Path], late: bool) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, known, late)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody"):
                yield from _imports(getattr(node, part, []), known, late)
            for handler in getattr(node, "handlers", []):
                yield from _imports(handler.body, known, late)


def _implied(graph: dict[str, set[str]], imported: set[str]) -> set[str]:
    """What is reached from one of these by one arrow or more."""
    reached: set[str] = set()
    left = list(imported)
    while left:
        further = graph[left.pop()] - reached
        reached |= further
        left += further
    return reached


def _summary(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?]) (?=[A-Z])", text)[0].rstrip(".")


def _file(function: Any) -> str:
    return str(function.__module__).removeprefix(f"{PACKAGE}.").replace(".", "/") + ".py"


def _default(field: FieldInfo) -> str:
    if field.default is False or field.default in (None, PydanticUndefined, "", ()):
        return ""
    return f"`{', '.join(field.default) if isinstance(field.default, tuple) else field.default}`"


def _range(field: FieldInfo) -> str:
    limits = []
    for rule in field.metadata:
        if isinstance(rule, annotated_types.Ge):
            limits.append(f"from {rule.ge}")
        elif isinstance(rule, annotated_types.Gt):
            limits.append(f"above {rule.gt}")
        elif isinstance(rule, annotated_types.Le):
            limits.append(f"to {rule.le}")
        elif isinstance(rule, annotated_types.MaxLen):
            limits.append(f"at most {rule.max_length}")
    return " ".join(limits)


def _table(heads: list[str], rows: list[str]) -> str:
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows])


if __name__ == "__main__":
    sys.exit(main())
