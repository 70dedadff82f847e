"""Chat templates that show tools, in the styles that are about, and vocabularies over the tiny tokenizer."""

import random
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from server.structured import GrammarCompiler, TokenMatcher, ToolFormat, Vocabulary
from server.structured.tool_format import Render

TAGGED = (
    "{% if tools %}<|system|>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{%- if m.content %}{{ '\n' + m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}\n</tool_call>' }}"
    "{% endfor %}<|end|>{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% endif %}"
)
BARE = (
    "{% for m in messages %}{% if m.tool_calls %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '<|assistant|>{"name": "{{ m.tool_calls[0].function.name }}", '
    '"parameters": {{ m.tool_calls[0].function.arguments | tojson }}}<|end|>'
    "{% else %}<|{{ m.role }}|>{% if m.role == 'user' and tools %}{{ tools | tojson }}{% endif %}{{ m.content }}<|end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LISTED = (
    "{% for m in messages %}{% if m.role == 'user' %}{% if tools %}[TOOLS]{{ tools | tojson }}{% endif %}"
    "[INST]{{ m.content }}[/INST]"
    "{% elif m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{% set text = call.function | tojson %}{{ text[:-1] }}, "id": "{{ call.id }}"}{% if not loop.last %}, {% endif %}'
    "{% endfor %}]<|end|>"
    "{% elif m.role == 'assistant' %} {{ m.content }}<|end|>"
    "{% else %}[RESULTS]{{ m.content }}[/RESULTS]{% endif %}{% endfor %}"
)
NAMED = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'user' %}{{ tools | tojson if tools }}{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<function={{ call.function.name }}>{{ call.function.arguments + '' }}</function>"
    "{% endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STYLES = {"tagged": TAGGED, "bare": BARE, "listed": LISTED, "named": NAMED}


def a_word(draw: random.Random) -> str:
    return "".join(draw.choice(string.ascii_letters + ' _"\\é') for _ in range(draw.randint(1, 8)))


def a_leaf(draw: random.Random) -> dict[str, Any]:
    low = draw.randint(-1000, 1000)
    return draw.choice(
        [
            {"type": "string", "maxLength": draw.randint(0, 12)},
            {"type": "string", "minLength": 2, "maxLength": 5},
            {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]{1,3}$"},
            {"type": "string", "format": draw.choice(["date", "time", "date-time", "ipv4", "uuid"])},
            {"enum": [a_word(draw), draw.randint(-9, 9), None, True, {"a": [1.5]}]},
            {"const": a_word(draw)},
            {"type": "integer", "minimum": low, "maximum": low + draw.randint(0, 5000)},
            {"type": "integer", "minimum": 0, "maximum": 400, "multipleOf": draw.choice([2, 5, 25])},
            {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": low + 1},
            {"type": "boolean"},
            {"type": ["null", "boolean"]},
            {"type": "null"},
        ]
    )


def a_schema(draw: random.Random, depth: int) -> dict[str, Any]:
    """A random schema over most of what is supported, whose values are bounded in size."""
    kind = draw.choice(["object", "object", "array", "tuple", "any", "all", "ref", "map", "leaf"])
    if depth == 0 or kind == "leaf":
        return a_leaf(draw)

    def inner() -> dict[str, Any]:
        return a_schema(draw, depth - 1)

    if kind == "object":
        names = list(dict.fromkeys(a_word(draw) for _ in range(draw.randint(0, 5))))
        required = [name for name in names if draw.random() < 0.6]
        return {
            "type": "object",
            "properties": {name: inner() for name in names},
            "required": required,
            "additionalProperties": False,
        }
    if kind == "array":
        least = draw.randint(0, 2)
        return {"type": "array", "items": inner(), "minItems": least, "maxItems": least + draw.randint(0, 2)}
    if kind == "tuple":
        return {"type": "array", "prefixItems": [inner(), inner()], "items": False, "minItems": 2}
    if kind == "any":
        return {"anyOf": [inner(), inner()]}
    if kind == "all":
        left = {"type": "object", "properties": {"left": inner()}, "required": ["left"]}
        right = {"properties": {"right": inner()}, "required": ["right"]}
        return {"allOf": [left, right], "type": "object", "maxProperties": 2}
    if kind == "ref":
        again = {"anyOf": [{"type": "null"}, {"$ref": "#"}]}
        return {
            "type": "object",
            "properties": {"one": a_leaf(draw), "again": again},
            "additionalProperties": False,
        }
    return {"type": "object", "additionalProperties": a_leaf(draw), "maxProperties": 2}


@pytest.fixture(scope="session", name="a_schema")
def a_schema_fixture() -> Callable[[random.Random, int], dict[str, Any]]:
    """``a_schema(random, depth)``: a schema that an answer of some hundred tokens can follow."""
    return a_schema


@pytest.fixture(scope="session")
def styles() -> Mapping[str, str]:
    return STYLES


@pytest.fixture(scope="session")
def rendering(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Callable[[str], Render]:
    """``rendering(template)``: what renders chats with it."""

    def make(template: str) -> Render:
        tokenizer = make_tokenizer(template)

        def render(
            messages: Sequence[Mapping[str, Any]],
            *,
            tools: Sequence[Mapping[str, Any]] | None,
            add_generation_prompt: bool,
        ) -> str:
            text: str = tokenizer.apply_chat_template(
                list(messages), tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
            )
            return text

        return render

    return make


@pytest.fixture(scope="session")
def formats(rendering: Callable[[str], Render]) -> Mapping[str, ToolFormat]:
    """The format of every style."""
    return {name: ToolFormat.derive(rendering(template), ["<|end|>"]) for name, template in STYLES.items()}


@pytest.fixture(scope="session")
def make_vocabulary(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> Callable[..., Vocabulary]:
    """``make_vocabulary(shown=[…], hidden=[…], size=…)``: the tiny tokenizer with further tokens; ``<|end|>`` (0) ends."""

    def make(*, shown: Sequence[str] = (), hidden: Sequence[str] = (), size: int = 310) -> Vocabulary:
        tokenizer = make_tokenizer().backend_tokenizer
        tokenizer.add_tokens([AddedToken(text, special=False) for text in shown])
        tokenizer.add_special_tokens([AddedToken(text, special=True) for text in hidden])
        added = tokenizer.get_added_tokens_decoder()
        return Vocabulary(
            tokenizer.to_str,
            size,
            frozenset({0}),
            {token: text.content for token, text in added.items()},
            frozenset(token for token, text in added.items() if text.special),
        )

    return make


@pytest.fixture(scope="session")
def vocabulary(make_vocabulary: Callable[..., Vocabulary]) -> Vocabulary:
    return make_vocabulary()


@pytest.fixture
def compile(vocabulary: Vocabulary) -> Callable[..., Callable[[], TokenMatcher]]:
    """``compile(grammar, over=vocabulary)`` without an event loop of one's own."""
    import asyncio

    def make(
        grammar: str, over: Vocabulary = vocabulary, *, param: str = "field", ends: bool = True
    ) -> Callable[[], TokenMatcher]:
        async def work() -> Callable[[], TokenMatcher]:
            compiler = GrammarCompiler(over)
            try:
                return await compiler.compile(grammar, param=param, ends=ends)
            finally:
                compiler.stop()

        return asyncio.run(work())

    return make


@pytest.fixture(scope="session")
def write() -> Callable[..., tuple[str, bool]]:
    """``write(matcher, vocabulary, random, most)``: text of randomly drawn allowed tokens, and whether it ended by itself."""

    def make(
        matcher: TokenMatcher, vocabulary: Vocabulary, draw: random.Random, most: int = 400
    ) -> tuple[str, bool]:
        written: list[int] = []
        while not matcher.ended and len(written) < most:
            token = draw.choice(matcher.allowed().nonzero().flatten().tolist())
            if token in vocabulary.ends:
                return vocabulary.tokens.decode_bytes(written).decode(), True
            matcher.accept(token)
            written.append(token)
        return vocabulary.tokens.decode_bytes(written).decode(errors="ignore"), matcher.ended

    return make
