"""The run: servers up, rounds of scenes over all of them by turns, the report."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Sequence

import psutil

from chatui import cli
from chatui.errors import ChatError
from scripts.benchmark import bandwidth, baseline, chatui_server, peers, report, scenarios
from scripts.benchmark.figures import Interruption, Wave
from scripts.benchmark.options import Options, read
from scripts.benchmark.results import Measurement, Results, Scene
from scripts.benchmark.server import connected
from scripts.benchmark.target import BenchError, Target

LISTEN_SECONDS = 2.0


def main(words: Sequence[str] | None = None) -> int:
    """Run. Returns 0, 1 where something could not be measured, 2 for what the user can mend."""
    options = read(sys.argv[1:] if words is None else words)
    try:
        results = asyncio.run(_interruptible(options))
    except (BenchError, ChatError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    print(f"\n{report.text(results)}")
    return 1 if results.failures() else 0


async def _interruptible(options: Options) -> Results:
    """The run, which stops the servers it started when it is told to end."""
    task = asyncio.current_task()
    if task is not None:
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await measure(options)


async def measure(options: Options) -> Results:
    """Everything that the options ask for. Raises BenchError where a server cannot be reached."""
    async with contextlib.AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(target) for target in _targets(options)]
        lengths = await scenarios.lengths(targets[0], options.seed)
        results = Results(options, lengths, {target.name: target.weight_bytes for target in targets})
        words = [lengths.words(prompt) for prompt in options.prompts]
        for target in targets:
            _print_progress(f"warming up {target.name}")
            await scenarios.warm_up(target, options.users, words, options.seed)
        for number in range(options.rounds):
            results.others_busy.append(await asyncio.to_thread(psutil.cpu_percent, LISTEN_SECONDS))
            results.bandwidth.append(await bandwidth.gigabytes_per_second(results.least_weight_bytes))
            await _round(results, targets, number)
            if options.json:
                results.write(options.json)
    return results


def _targets(options: Options) -> list[contextlib.AbstractAsyncContextManager[Target]]:
    """Servers elsewhere come first: to miss one takes no time."""
    flags = options.flags
    targets: list[contextlib.AbstractAsyncContextManager[Target]] = []
    targets += [connected(other) for other in options.others]
    settings = cli.parse(list(flags))
    for peer in options.peers:
        file = peers.model_file(settings)
        targets.append(peers.running(peer, file, max(options.users), settings.cache_dir))
    if options.baseline:
        targets.append(baseline.running(baseline.model_folder(settings)))
    if options.own:
        targets.append(chatui_server.running(flags, options.own_weight_bytes))
    return targets


async def _round(results: Results, targets: Sequence[Target], number: int) -> None:
    """Every scene once, all servers in each before the next, another of them first in each round."""
    options = results.options
    scenes = [Scene(prompt, users) for prompt in options.prompts for users in options.users]
    first = number % len(targets)
    for scene in [*scenes, Scene(max(options.prompts))]:
        for target in [*targets[first:], *targets[:first]]:
            start = time.monotonic()
            outcome = await _play(results, scene, target, number)
            results.measured.append(Measurement(number, scene, target.name, outcome))
            took = f"{time.monotonic() - start:.0f} s" if not isinstance(outcome, str) else outcome
            _print_progress(f"round {number + 1} of {options.rounds}, {scene.title}, {target.name}: {took}")


async def _play(results: Results, scene: Scene, target: Target, number: int) -> Wave | Interruption | str:
    """A scene with one server; what it says where it cannot."""
    options, words = results.options, results.lengths.words(scene.prompt)
    try:
        if scene.users is None:
            return await scenarios.interruption(target, words, options.tokens, options.seed, number)
        return await scenarios.wave(target, scene.users, words, options.tokens, options.seed, number)
    except BenchError as error:
        return str(error)


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
