"""Two replies at once: one may fail or be stopped, and nothing tells who wrote which before the vote."""

import asyncio
from dataclasses import replace

import pytest

from chatui.chat import ChatRequest, Message, ReplyDelta
from chatui.errors import ChatError, GenerationError, NotFoundError, OverloadError
from chatui.generation_settings import GenerationSettings
from chatui.models.votes import Choice
from chatui.personas import PRESETS
from chatui.store.store import Store
from chatui.ui.models import reply_columns
from chatui.ui.models.side_by_side import Comparisons, Label, RecentTabs, Side, SideBySide
from tests.fakes import FakeBackend, Hold, Script

POET, CRITIC = PRESETS[0], PRESETS[1]
HISTORY = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Go"))


def side(model: str, messages: tuple[Message, ...] = HISTORY) -> Side:
    return Side(POET, ChatRequest(messages, GenerationSettings(seed=7), model))


def comparison(blind: bool = True, temporary: bool = False) -> SideBySide:
    return SideBySide("owner", [side("small"), side("large")], blind, temporary, shuffle=list.reverse)


def by_model(**scripts: Script) -> FakeBackend:
    return FakeBackend(lambda request: scripts[request.model], rate=1000)


async def finished(given: SideBySide, backend: FakeBackend) -> SideBySide:
    async for _change in given.run(backend):
        pass
    return given


async def test_both_are_written_with_the_same_seed() -> None:
    backend = by_model(small=["tiny"], large=["huge", " one"])
    given = await finished(comparison(), backend)
    assert (given.a.progress.text, given.b.progress.text) == ("huge one", "tiny")
    assert [request.settings.seed for request in backend.requests] == [7, 7]
    assert given.can_vote
    assert backend.running == 0


async def test_who_wrote_which_is_shown_after_the_vote() -> None:
    thought = ReplyDelta(reasoning="aha", tokens=1)
    given = await finished(comparison(), by_model(small=["tiny"], large=[thought, "huge"]))
    before = "".join(reply_columns.reply_columns(given))
    assert "tiny" in before
    for hint in ("small", "large", "tokens/s", "aha", "first after", POET.name):
        assert hint not in before
    vote = given.vote("a", ("code",))
    assert (vote.a.model, vote.b.model, vote.choice, vote.tags) == ("large", "small", "a", ("code",))
    given.choice = "a"
    a, b = reply_columns.reply_columns(given)
    assert "large" in a
    assert "aha" in a
    assert "first after" in a
    assert "small" in b
    assert "A better" in reply_columns.verdict(given)
    with pytest.raises(ChatError, match="nothing to vote"):
        given.vote("a", ())


async def test_a_stopped_one_can_be_judged_and_the_other_goes_on() -> None:
    hold = Hold()
    given = comparison()
    async for _change in given.run(by_model(small=["never", hold], large=["huge", " one"])):
        if given.b.progress.text and given.a.ended:
            given.stop("b")
    assert (given.a.progress.text, given.b.progress.text, given.b.stopped) == ("huge one", "never", True)
    assert not given.a.stopped
    assert given.can_vote
    assert "Stopped." in reply_columns.reply_columns(given)[1]


async def test_one_that_fails_stops_nothing_and_leaves_nothing_to_vote_on() -> None:
    broken: Script = ["half", GenerationError("small is broken.")]
    hold = Hold()
    given = comparison()
    seen = ""
    async for _change in given.run(by_model(small=broken, large=["huge", hold, " one"])):
        if given.b.ended and not hold.released.is_set():
            seen = reply_columns.reply_columns(given)[1]
            hold.release()
    assert "This reply failed." in seen
    assert "small" not in seen, "the error would tell who it is"
    assert given.a.progress.text == "huge one"
    assert not given.can_vote
    assert "small is broken." in reply_columns.reply_columns(given)[1]


async def test_closing_the_stream_stops_both() -> None:
    backend = by_model(small=[Hold()], large=[Hold()])
    given = comparison()
    stream = given.run(backend)
    await anext(stream)
    while backend.running < 2:
        await asyncio.sleep(0.001)
    await stream.aclose()
    assert backend.running == 0
    assert backend.cancelled == 2


@pytest.mark.parametrize(("temporary", "chat"), [(True, ""), (True, "passing"), (False, "")])
async def test_a_temporary_one_beside_no_chat_is_forgotten_at_its_end(temporary: bool, chat: str) -> None:
    backend = by_model(small=["tiny"], large=["huge"])
    sides = [side("small"), side("large")]
    for number, each in enumerate(sides):
        each.request = replace(each.request, temporary_conversation=chat or str(number))
    await finished(SideBySide("owner", sides, temporary=temporary, chat=chat), backend)
    assert sorted(backend.forgotten) == (["0", "1"] if temporary and not chat else [])


async def test_with_the_names_at_once_there_is_no_vote() -> None:
    given = await finished(comparison(blind=False), by_model(small=["tiny"], large=["huge"]))
    assert given.a.request.model == "small", "in the order that was chosen"
    assert not given.can_vote
    assert "small" in reply_columns.reply_columns(given)[0]


def test_the_order_is_drawn() -> None:
    firsts = {SideBySide("o", [side("small"), side("large")]).a.request.model for _ in range(200)}
    assert firsts == {"small", "large"}


async def test_hostile_replies_are_escaped_as_in_the_chat() -> None:
    given = await finished(comparison(), by_model(small=["<img src=x onerror=alert(1)>"], large=["```\nopen"]))
    shown = reply_columns.reply_columns(given)[1]
    assert "<img" not in shown
    assert "&#0060;img" in shown


async def test_a_reply_goes_on_in_a_chat() -> None:
    given = await finished(comparison(), by_model(small=["tiny"], large=["huge"]))
    store = Store.in_memory().for_owner("owner")
    (added,) = store.add_trees([given.b.as_tree()])
    path = store.path(added.id)
    assert [(one.role, one.content) for one in path] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Go"),
        ("assistant", "tiny"),
    ]
    assert added.title == "Hi"
    author = path[-1].author
    assert author is not None
    assert (author.model, author.seed, author.system_prompt) == ("small", 7, "Be brief.")
    assert store.initial_persona(added.id) == POET


async def test_a_tab_has_one_comparison_of_its_own_owner() -> None:
    comparisons = Comparisons(2)
    given = comparison()
    comparisons.start("tab", given)
    assert comparisons.find("tab", "owner") is given
    with pytest.raises(NotFoundError):
        comparisons.find("tab", "somebody else")
    with pytest.raises(NotFoundError):
        comparisons.find("other tab", "owner")
    with pytest.raises(ChatError, match="page only"):
        comparisons.start("", given)
    others = [await finished(comparison(), by_model(small=["a"], large=["b"])) for _ in range(2)]
    comparisons.start("tab", others[0])
    comparisons.start("second", others[1])
    comparisons.start("third", await finished(comparison(), by_model(small=["a"], large=["b"])))
    with pytest.raises(NotFoundError):
        comparisons.find("tab", "owner")


async def test_one_owner_runs_few_at_once() -> None:
    comparisons, streams = Comparisons(9), []

    async def start(tab: str, owner: str = "owner") -> None:
        given = comparison()
        given.owner = owner
        comparisons.start(tab, given)
        streams.append(given.run(by_model(small=[Hold()], large=[Hold()])))
        await anext(streams[-1])

    await start("first")
    await start("second")
    with pytest.raises(OverloadError):
        await start("third")
    await start("third", "somebody else")
    comparisons.forget("second")
    await streams[1].aclose()
    await start("fourth")
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("choice", ["a", "b", "both", "neither"])
async def test_a_vote_in_a_temporary_chat_is_said_not_to_be_kept(choice: Choice) -> None:
    given = await finished(comparison(temporary=True), by_model(small=["tiny"], large=["huge"]))
    given.choice = choice
    assert "not kept" in reply_columns.verdict(given)


def test_tabs_that_were_not_seen_lately_are_new() -> None:
    seen = RecentTabs(2)
    assert [seen.add(tab) for tab in "aabac"] == [True, False, True, False, True]
    assert seen.add("b"), "it was the oldest"
    assert seen.add("a")
    assert not seen.add("b")


def test_labels_are_those_of_votes() -> None:
    labels: list[Label] = ["a", "b"]
    assert list(comparison().sides) == labels
    assert replace(side("small"), stopped=True).contestant == side("small").contestant
