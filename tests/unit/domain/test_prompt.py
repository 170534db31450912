"""The prompt for the model, and which answers can become ideas."""

import json
from datetime import date
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import model, prompt
from app.domain.model import Action, Idea
from app.domain.text import make_storable
from app.errors import UnusableAnswer

VERSION_1_SHA256 = "04059f3ec434c263c4ec907ebc26a7d7470d5be3e426fb267dd0e776a27a86e9"


def an_idea(**changes: object) -> dict[str, object]:
    """Return a usual idea, as the model writes it."""
    return {"ticker": "KO", "action": "BUY", "reasoning": "People drink it."} | changes


def make_answer(*first: dict[str, object], **more: object) -> str:
    """Return an answer of three picks: those that are passed, then usual ones."""
    usual = [an_idea(), an_idea(ticker="MSFT", action="SELL"), an_idea(ticker="XOM")]
    return json.dumps({"picks": [*first, *usual[len(first) :]], **more})


def without(member: str) -> dict[str, object]:
    """Return a usual idea that lacks a member."""
    return {name: value for name, value in an_idea().items() if name != member}


def refusal(answer: str, benchmark: str = "SPY") -> str:
    """Return the reason for which an answer is refused."""
    with pytest.raises(UnusableAnswer) as refused:
        prompt.parse_answer(answer, benchmark, "1")
    return str(refused.value)


def test_an_answer_becomes_three_ideas():
    """The ideas are in the model's order."""
    assert prompt.parse_answer(make_answer(), "SPY", "1") == [
        Idea(ticker="KO", action=Action.BUY, reasoning="People drink it."),
        Idea(ticker="MSFT", action=Action.SELL, reasoning="People drink it."),
        Idea(ticker="XOM", action=Action.BUY, reasoning="People drink it."),
    ]


# The kind: a letter that is not ASCII, and that upper() turns into one or two letters of a ticker.
@pytest.mark.parametrize(
    "spelling",
    ["\u0131bm", "\u017fo", "\u00df", "\ufb01", "\ufb00", "\uff4b\uff4f"],
    ids=ascii,
)
def test_no_other_letters_become_a_ticker(spelling):
    """An operator who mistypes a ticker must not change the pick of another share."""
    assert prompt.parse_ticker(spelling) is None
    assert prompt.normalize_ticker(spelling) == spelling


@pytest.mark.parametrize(
    ("spelling", "stored"),
    [
        pytest.param("BRK.B", "BRK.B", id="as it is stored"),
        pytest.param("BRK-B", "BRK.B", id="a hyphen"),
        pytest.param("brk-b", "BRK.B", id="small letters and a hyphen"),
        pytest.param("bf.b", "BF.B", id="small letters"),
        pytest.param(" aapl\n", "AAPL", id="white space around"),
        pytest.param("F", "F", id="one letter"),
        pytest.param("GOOGL", "GOOGL", id="five letters"),
    ],
)
def test_tickers_have_one_form(spelling, stored):
    """However a ticker is spelled, it is stored in capitals, its class after a dot."""
    assert (
        prompt.parse_answer(make_answer(an_idea(ticker=spelling)), "SPY", "1")[0].ticker == stored
    )


def test_reasonings_lose_only_the_white_space_around_them():
    """The model's reasoning is stored as it was written."""
    reasoning = 'Growth: 12 %, "naïve" — 株価 🚀\n\n\tSecond\u00a0line.'
    assert (
        prompt.parse_answer(make_answer(an_idea(reasoning=f"\n {reasoning} \t")), "SPY", "1")[
            0
        ].reasoning
        == reasoning
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param("", "not JSON of the schema", id="nothing"),
        pytest.param("I choose KO.", "not JSON of the schema", id="prose"),
        pytest.param(
            f"Here:\n```json\n{make_answer()}\n```",
            "not JSON of the schema",
            id="words before a fence",
        ),
        pytest.param(
            f"```json\n{make_answer()}\n```\nGood luck!",
            "not JSON of the schema",
            id="words after a fence",
        ),
        pytest.param(
            f"```json\n```\n{make_answer()}\n```\n```", "not JSON of the schema", id="two fences"
        ),
        pytest.param(
            f"```json\n{make_answer()}", "not JSON of the schema", id="a fence that does not end"
        ),
        pytest.param(
            f"```j\u017fon\n{make_answer()}\n```",
            "not JSON of the schema",
            id="a fence with a letter that is not ASCII",
        ),
        # The kind: a character that is no letter from a to z or A to Z, although it is one of
        # Unicode, or is folded to one.
        pytest.param(
            f"```\u212aotlin\n{make_answer()}\n```", "not JSON of the schema", id="a kelvin sign"
        ),
        pytest.param(
            f"```\uff4ason\n{make_answer()}\n```", "not JSON of the schema", id="a wide letter"
        ),
        pytest.param(
            f"```\u0458son\n{make_answer()}\n```", "not JSON of the schema", id="a Cyrillic letter"
        ),
        pytest.param(
            f"```j\u0131son\n{make_answer()}\n```", "not JSON of the schema", id="a dotless i"
        ),
        pytest.param(
            f"```json5\n{make_answer()}\n```", "not JSON of the schema", id="a fence with a digit"
        ),
        pytest.param(
            f"```json_\n{make_answer()}\n```", "not JSON of the schema", id="a fence with a line"
        ),
        pytest.param(
            f"<think>KO! {make_answer()}",
            "not JSON of the schema",
            id="a thought that does not end",
        ),
        pytest.param(f"<b>{make_answer()}</b>", "not JSON of the schema", id="another tag"),
        pytest.param(
            f"{make_answer()}</think>", "not JSON of the schema", id="a thought's end behind it"
        ),
        pytest.param("<think>KO!</think>", "not JSON of the schema", id="a thought alone"),
        pytest.param(make_answer()[:-9], "not JSON of the schema", id="cut off"),
        pytest.param(make_answer() + "}", "not JSON of the schema", id="text behind it"),
        pytest.param("null", "not JSON of the schema", id="null"),
        pytest.param("[]", "not JSON of the schema", id="a list at the root"),
        pytest.param("{}", "not JSON of the schema", id="no picks"),
        pytest.param('{"picks": {}}', "not JSON of the schema", id="picks that are no list"),
        pytest.param(
            '{"picks": ["KO", "MSFT", "XOM"]}', "not JSON of the schema", id="tickers alone"
        ),
        pytest.param(
            make_answer(note="x"), "not JSON of the schema", id="a member too many at the root"
        ),
        pytest.param(
            make_answer(an_idea(price="1")),
            "not JSON of the schema",
            id="a member too many in a pick",
        ),
        pytest.param(make_answer(without("ticker")), "not JSON of the schema", id="no ticker"),
        pytest.param(make_answer(without("action")), "not JSON of the schema", id="no action"),
        pytest.param(
            make_answer(without("reasoning")), "not JSON of the schema", id="no reasoning"
        ),
        pytest.param(
            make_answer(an_idea(ticker=None)), "not JSON of the schema", id="a null ticker"
        ),
        pytest.param(
            make_answer(an_idea(ticker=5)), "not JSON of the schema", id="a number for a ticker"
        ),
        pytest.param(
            make_answer(an_idea(action="HOLD")), "not JSON of the schema", id="an unknown action"
        ),
        pytest.param(
            make_answer(an_idea(action="buy")),
            "not JSON of the schema",
            id="an action in small letters",
        ),
        pytest.param(
            make_answer(an_idea(action="")), "not JSON of the schema", id="an empty action"
        ),
        pytest.param(
            make_answer(an_idea(reasoning="\ud800")),
            "not JSON of the schema",
            id="a lone surrogate, escaped",
        ),
        pytest.param(
            make_answer(an_idea(reasoning="@")).replace("@", "\ud800"),
            "not JSON of the schema",
            id="a lone surrogate",
        ),
        pytest.param(
            '{"picks":[{"x":' + "[" * 9000,
            "not JSON of the schema",
            id="deeper than any parser reads",
        ),
        pytest.param('{"picks": []}', "had 0 picks; exactly 3", id="no pick"),
        pytest.param(json.dumps({"picks": [an_idea()]}), "had 1 picks; exactly 3", id="one pick"),
        pytest.param(
            json.dumps({"picks": [an_idea(ticker=ticker) for ticker in ("A", "B", "C", "D")]}),
            "had 4 picks; exactly 3",
            id="four picks",
        ),
        pytest.param(
            make_answer(an_idea(ticker="MSFT")),
            "MSFT was chosen more than once",
            id="a repeated ticker",
        ),
        pytest.param(
            make_answer(an_idea(ticker="msft ")),
            "MSFT was chosen more than once",
            id="repeated, misspelled",
        ),
        pytest.param(
            make_answer(an_idea(ticker="SPY")), "SPY is the benchmark", id="the benchmark"
        ),
        pytest.param(
            make_answer(an_idea(ticker="spy")),
            "SPY is the benchmark",
            id="the benchmark in small letters",
        ),
        pytest.param(make_answer(an_idea(ticker="")), "'' is not a ticker", id="an empty ticker"),
        pytest.param(
            make_answer(an_idea(ticker="TOOLONG")),
            "'TOOLONG' is not a ticker",
            id="six letters or more",
        ),
        pytest.param(
            make_answer(an_idea(ticker="BRK.BB")),
            "'BRK.BB' is not a ticker",
            id="two letters of class",
        ),
        pytest.param(
            make_answer(an_idea(ticker="BRK B")), "'BRK B' is not a ticker", id="a space within"
        ),
        pytest.param(make_answer(an_idea(ticker="BRK/B")), "'BRK/B' is not a ticker", id="a slash"),
        pytest.param(
            make_answer(an_idea(ticker="$KO")), "'$KO' is not a ticker", id="a dollar sign"
        ),
        pytest.param(
            make_answer(an_idea(ticker="NYSE:KO")),
            "'NYSE:KO' is not a ticker",
            id="an exchange before it",
        ),
        pytest.param(make_answer(an_idea(ticker="7203")), "'7203' is not a ticker", id="digits"),
        pytest.param(
            make_answer(an_idea(ticker="КО")), "'КО' is not a ticker", id="Cyrillic letters"
        ),
        pytest.param(
            make_answer(an_idea(ticker="ﬁ")),
            "'ﬁ' is not a ticker",
            id="a ligature that capitals take apart",
        ),
        pytest.param(
            make_answer(an_idea(ticker="\u017fo")), "'\u017fo' is not a ticker", id="a long s"
        ),
        pytest.param(
            make_answer(an_idea(ticker="K\0")), r"'K\x00' is not a ticker", id="a NUL in a ticker"
        ),
        pytest.param(
            make_answer(an_idea(reasoning="")), "KO has no reasoning", id="an empty reasoning"
        ),
        pytest.param(
            make_answer(an_idea(reasoning=" \n\t\u00a0")),
            "KO has no reasoning",
            id="a blank reasoning",
        ),
        pytest.param(
            make_answer(an_idea(reasoning="a\0b")), "KO holds characters", id="a NUL in a reasoning"
        ),
        pytest.param(
            make_answer(an_idea(reasoning="a" * 4001)),
            "longer than 4,000 characters",
            id="a long reasoning",
        ),
    ],
)
def test_refused_answers(answer, reason):
    """Each broken rule is described in a sentence."""
    assert reason in refusal(answer)


# The kind: text that a server adds around the JSON. It is not part of the answer.
@pytest.mark.parametrize(
    "around",
    [
        pytest.param("```json\n{}\n```", id="a fence"),
        pytest.param("```\n{}\n```", id="a fence without a language"),
        pytest.param("```JSON {}```", id="a fence on one line"),
        pytest.param("\n```json\r\n{}\r\n```  \n", id="a fence with white space around it"),
        pytest.param("\ufeff{}", id="a byte order mark"),
        pytest.param(" \t\r\n{}\n\n", id="white space"),
        pytest.param("<think>KO? {{no}}\n\nYes.</think>\n\n{}", id="a thought"),
        pytest.param("<think></think>{}", id="an empty thought"),
        pytest.param("So KO.\n</think>\n{}", id="a thought whose begin the server took off"),
        pytest.param("<Thinking>KO</Thinking>{}", id="another word for a thought"),
        pytest.param("<reasoning>KO</reasoning>\n```json\n{}\n```", id="a thought and a fence"),
    ],
)
def test_text_around_the_json_is_removed(around):
    """It is removed, and the rest is read as strictly as without it."""
    assert prompt.parse_answer(around.format(make_answer()), "SPY", "1") == prompt.parse_answer(
        make_answer(), "SPY", "1"
    )


def test_a_reasoning_that_quotes_a_thought_or_a_fence():
    """Nothing is removed within the JSON."""
    reasoning = "```json\n<think>It</think> ```"
    assert (
        prompt.parse_answer(make_answer(an_idea(reasoning=reasoning)), "SPY", "1")[0].reasoning
        == reasoning
    )


# The kind: an object with two members of one name. Python and msgspec take the last one, so each of
# these was once accepted.
@pytest.mark.parametrize(
    "twice",
    [
        pytest.param(('"ticker": "KO"', '"ticker": "XOM", "ticker": "KO"'), id="a ticker"),
        pytest.param(('"action": "BUY"', '"action": "SELL", "action": "BUY"'), id="an action"),
        pytest.param(
            ('"action": "BUY"', '"action": "BUY", "action": "BUY"'), id="the same value twice"
        ),
        pytest.param(
            ('"action": "BUY"', '"\\u0061ction": "SELL", "action": "BUY"'), id="one of them escaped"
        ),
        pytest.param(('"ticker": "KO"', '"reasoning": "None.", "ticker": "KO"'), id="a reasoning"),
        pytest.param(('{"picks": [', '{"picks": [], "picks": ['), id="the picks"),
        pytest.param(('{"picks": [', '```\n{"picks": [], "picks": ['), id="in a fence"),
    ],
)
def test_two_members_of_one_name(twice):
    """It is unclear which of the two was meant, so the model is asked again."""
    once, instead = twice
    answer = make_answer().replace(once, instead, 1) + ("\n```" if "```" in instead else "")
    assert refusal(answer) == (
        "An object of the answer had two members of one name; each name may stand there once."
    )


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(make_answer(an_idea(action="HO\0LD")), id="a NUL in an action"),
        pytest.param(make_answer(**{"no\0te": "x"}), id="a NUL in a member's name"),
        pytest.param(
            make_answer(an_idea(**{"no\0te": "x"})), id="a NUL in the name of a pick's member"
        ),
        pytest.param(make_answer(an_idea(ticker="\0" * 30)), id="a ticker of NULs"),
        pytest.param(
            make_answer(an_idea(reasoning="@")).replace("@", "\udfff"), id="a lone surrogate"
        ),
        pytest.param(make_answer(an_idea(action="HOLD" * 2000)), id="a long action"),
        pytest.param(make_answer(**{"note" * 2000: "x"}), id="a long member"),
    ],
)
def test_a_refusal_can_be_stored_and_shown(answer):
    """For any answer, the refusal is short and can be stored."""
    reason = refusal(answer)
    assert make_storable(reason) == reason
    assert len(reason) <= 500


@settings(deadline=None)
@given(st.text(st.characters(categories=None), max_size=200))
def test_any_text_is_refused_in_words(answer):
    """A text that is no answer raises UnusableAnswer, and no other error."""
    assert make_storable(refusal(answer)) == refusal(answer)


@settings(deadline=None)
@given(st.text(max_size=50), st.text(max_size=50))
def test_what_is_accepted_can_be_stored(ticker, reasoning):
    """A ticker or a reasoning is refused, or it has a form that the record can store."""
    try:
        (idea, *_) = prompt.parse_answer(
            make_answer(an_idea(ticker=ticker, reasoning=reasoning)), "SPY", "1"
        )
    except UnusableAnswer:
        return
    assert prompt.TICKER_RE.fullmatch(idea.ticker)
    assert idea.reasoning
    assert make_storable(idea.reasoning) == idea.reasoning


def test_the_benchmark_is_the_one_in_use():
    """Another benchmark lets SPY be chosen, and cannot be chosen itself."""
    assert prompt.parse_answer(make_answer(an_idea(ticker="SPY")), "VOO", "1")[0].ticker == "SPY"
    assert (
        refusal(make_answer(an_idea(ticker="VOO")), "VOO")
        == "VOO is the benchmark and cannot be chosen."
    )


def parts(schema: object) -> list[dict[str, object]]:
    """Return a schema with all the schemas in it."""
    if isinstance(schema, list):
        return [part for item in schema for part in parts(item)]
    if not isinstance(schema, dict):
        return []
    return [schema, *(part for item in schema.values() for part in parts(item))]


@pytest.mark.parametrize(
    ("version", "members"),
    [
        (prompt.VERSION_1, ["ticker", "action", "reasoning"]),
        (prompt.VERSION_2, ["ticker", "action", "reasoning", "probability"]),
    ],
    ids=["1", "2"],
)
def test_the_schema_is_strict(version, members):
    """
    Every object lists all of its members as required and allows no other. A member has its type and
    nothing else: there are no references, and no keywords that some servers refuse.
    """
    schema = version.schema
    assert json.loads(json.dumps(schema)) == schema
    objects = [part for part in parts(schema) if part.get("type") == "object"]
    assert [list(part["properties"]) for part in objects] == [["picks"], members]
    for part in objects:
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
        assert set(part) == {"type", "properties", "required", "additionalProperties"}
    of_pick = objects[1]["properties"]
    assert of_pick["ticker"] == of_pick["reasoning"] == {"type": "string"}
    assert of_pick["action"] == {"type": "string", "enum": ["BUY", "SELL"]}
    if "probability" in members:
        assert of_pick["probability"] == {"type": "integer"}


def test_the_question_of_a_monday():
    """The question names the Monday, the count and the benchmark."""
    assert prompt.VERSION_1.user_prompt(date(2026, 1, 5), "SPY") == (
        "Today is Monday, 05 January 2026. Choose 3 different S&P 500 stocks, each BUY or SELL, "
        "to be measured against SPY for the next 14 calendar days. SPY itself cannot be "
        "chosen."
    )


def test_the_question_says_why_earlier_answers_were_refused():
    """The next prompt contains each reason."""
    question = prompt.VERSION_1.user_prompt(
        date(2026, 1, 5), "VOO", ["KO has no reasoning.", "The answer was truncated."]
    )
    assert question.startswith(prompt.VERSION_1.user_prompt(date(2026, 1, 5), "VOO"))
    assert question.endswith(
        "\n\nEarlier answers could not be used:\n- KO has no reasoning.\n- The answer was "
        "truncated.\nAnswer anew."
    )


@pytest.mark.parametrize("version", [prompt.VERSION_1, prompt.VERSION_2], ids=["1", "2"])
def test_the_system_prompt(version):
    """It asks for what the rules of the record require."""
    assert "exactly 3 different stocks of the S&P 500" in version.system_prompt
    assert "JSON" in version.system_prompt  # DeepSeek requires the word
    assert (model.PICKS_PER_BATCH, model.QUESTIONS_PER_MONDAY) == (3, 3)


def test_version_1_is_for_ever():
    """The journal has the SHA-256 of this text: it must never change."""
    assert sha256(prompt.VERSION_1.system_prompt.encode()).hexdigest() == VERSION_1_SHA256


def test_version_2_has_the_schema():
    """It stands in the prompt itself, in the order in which a model writes the members."""
    start = prompt.VERSION_2.system_prompt.index("{")
    schema, _ = json.JSONDecoder().raw_decode(prompt.VERSION_2.system_prompt[start:])
    assert schema == prompt.VERSION_2.schema
    assert list(schema["properties"]["picks"]["items"]["properties"]) == [
        "ticker",
        "action",
        "reasoning",
        "probability",
    ]


def with_probability(probability: object) -> str:
    """Return an answer to version 2 whose first pick has this probability."""
    picks = json.loads(make_answer())["picks"]
    chances = [probability, 50, 99]
    return json.dumps(
        {
            "picks": [
                {**pick, "probability": chance} for pick, chance in zip(picks, chances, strict=True)
            ]
        }
    )


@pytest.mark.parametrize("probability", [50, 51, 75, 98, 99])
def test_a_probability(probability):
    """It is a whole number of percent from 50 to 99, and belongs to its pick."""
    ideas = prompt.parse_answer(with_probability(probability), "SPY", "2")
    assert [idea.probability for idea in ideas] == [probability, 50, 99]


@pytest.mark.parametrize(
    "probability", [49, 100, 0, -60, 0.75, 75.5, "75", "75%", None, True, [75], 10**30]
)
def test_a_probability_that_is_refused(probability):
    """The reason is one sentence; a number that could be meant otherwise is not guessed."""
    with pytest.raises(UnusableAnswer) as refused:
        prompt.parse_answer(with_probability(probability), "SPY", "2")
    assert "\n" not in str(refused.value)


def test_each_version_has_its_own_answers():
    """A probability is refused under version 1, and needed under version 2."""
    assert prompt.parse_answer(make_answer(), "SPY", "1")[0].probability is None
    with pytest.raises(UnusableAnswer, match="probability"):
        prompt.parse_answer(make_answer(), "SPY", "2")
    with pytest.raises(UnusableAnswer, match="probability"):
        prompt.parse_answer(with_probability(75), "SPY", "1")


def test_an_unknown_version_is_read_as_the_newest():
    """A later version of this program may have asked."""
    assert prompt.prompt_of("3") is prompt.CURRENT is prompt.VERSION_2
