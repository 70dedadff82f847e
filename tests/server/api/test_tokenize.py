"""The base's tokenizer over HTTP: ids as the models read them, text as it came."""

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

from server.runtime import load_runtime

PATHS = ("/tokenize", "/detokenize", "/tokenizer_info")


def post(server: Any, path: str, **body: Any) -> httpx.Response:
    with server.client() as client:
        response: httpx.Response = client.post(path, json=body)
    return response


def error(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert len(response.content) < 1500
    found: dict[str, Any] = body["error"]
    return found


@pytest.mark.parametrize("text", ["", "water the plants", "<|user|>hi<|end|>", "naïve 😀\n\x00  x", "\u2028"])
def test_a_text_goes_to_ids_and_back(real: Any, tiny_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    answer = post(real, "/tokenize", prompt=text).json()
    assert answer["tokens"] == tiny_tokenizer.encode(text, add_special_tokens=False)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 256
    assert answer["token_strs"] is None
    assert post(real, "/detokenize", tokens=answer["tokens"]).json() == {"prompt": text}


def test_the_ids_of_a_chat_are_what_its_completion_is_billed_for(real: Any) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "hello"},
    ]
    answer = post(real, "/tokenize", messages=messages).json()
    usage = real.chat(messages=messages, max_tokens=1).json()["usage"]
    assert answer["count"] == len(answer["tokens"]) == usage["prompt_tokens"]
    text = post(real, "/detokenize", tokens=answer["tokens"]).json()["prompt"]
    assert text == "<|system|>be\nbrief<|end|><|user|>hello<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"add_generation_prompt": True}, "<|user|>hi<|end|><|assistant|>so<|end|><|assistant|>"),
        ({"add_generation_prompt": False}, "<|user|>hi<|end|><|assistant|>so<|end|>"),
        ({"continue_final_message": True}, "<|user|>hi<|end|><|assistant|>so"),
        (
            {"continue_final_message": True, "add_generation_prompt": False},
            "<|user|>hi<|end|><|assistant|>so",
        ),
    ],
)
def test_a_chat_ends_as_its_completion_would_begin(real: Any, fields: dict[str, Any], text: str) -> None:
    messages = [*CHAT, {"role": "assistant", "content": "so"}]
    tokens = post(real, "/tokenize", messages=messages, **fields).json()["tokens"]
    assert post(real, "/detokenize", tokens=tokens).json()["prompt"] == text


def test_token_strs_are_the_vocabularys_spelling(real: Any) -> None:
    answer = post(real, "/tokenize", prompt="<|user|> é", return_token_strs=True).json()
    assert len(answer["token_strs"]) == answer["count"]
    assert "".join(answer["token_strs"]) == "<|user|>ĠÃ©"


def test_a_beginning_that_the_tokenizer_adds_can_be_left_out(
    make_checkpoint: Callable[..., Any], make_tokenizer: Callable[..., Any], serve: Callable[..., Any]
) -> None:
    from tokenizers.processors import TemplateProcessing

    from server.config import read_deployment

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", 2)]
    )
    folder = make_checkpoint("llama", "with-bos", seed=4, tokenizer=tokenizer)
    with serve(
        read_deployment({"model": "bos", "base": {"model": str(folder)}}, "test"), load_runtime
    ) as server:
        plain = post(server, "/tokenize", prompt="hi", add_special_tokens=False).json()["tokens"]
        for fields in ({}, {"add_special_tokens": True}, {"add_special_tokens": None}):
            assert post(server, "/tokenize", prompt="hi", **fields).json()["tokens"] == [2, *plain]
        # A chat's template writes what belongs there itself.
        chat = post(server, "/tokenize", messages=[{"role": "user", "content": "hi"}]).json()["tokens"]
        assert chat[0] != 2


def test_the_tokenizers_info_is_what_evaluations_need(real: Any) -> None:
    with real.client() as client:
        info = client.get("/tokenizer_info").json()
    assert info["eos_token"] == "<|end|>"
    assert info["pad_token"] == "<|pad|>"
    assert info["bos_token"] is None
    assert info["model_max_length"] == 256
    assert "add_generation_prompt" in info["chat_template"]
    (eos,) = post(real, "/tokenize", prompt=info["eos_token"], add_special_tokens=False).json()["tokens"]
    assert eos == 0


@pytest.mark.parametrize("model", ["tiny", "tiny:kind", "tiny:plain", None])
def test_the_model_and_its_presets_are_known(real: Any, model: str | None) -> None:
    assert post(real, "/tokenize", model=model, prompt="hi").status_code == 200
    assert post(real, "/detokenize", model=model, tokens=[0]).status_code == 200


@pytest.mark.parametrize("model", ["", "big", "tiny:", "tiny:cruel", "TINY"])
def test_another_model_is_not_found(real: Any, model: str) -> None:
    for path, fields in (("/tokenize", {"prompt": "hi"}), ("/detokenize", {"tokens": [0]})):
        found = error(post(real, path, model=model, **fields), 404)
        assert (found["code"], found["param"]) == ("model_not_found", "model")


CHAT = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "get"}}]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("/tokenize", {}, "prompt"),
    ("/tokenize", {"prompt": None}, "prompt"),
    ("/tokenize", {"prompt": ["a", "b"]}, "prompt"),
    ("/tokenize", {"prompt": "x" * (2**18 + 1)}, "prompt"),
    ("/tokenize", {"prompt": "x", "messages": CHAT}, "prompt"),
    ("/tokenize", {"prompt": "x", "add_generation_prompt": True}, "add_generation_prompt"),
    ("/tokenize", {"prompt": "x", "add_special_tokens": 1}, "add_special_tokens"),
    ("/tokenize", {"prompt": "x", "return_token_strs": "yes"}, "return_token_strs"),
    ("/tokenize", {"prompt": "x", "truncate": 5}, "truncate"),
    ("/tokenize", {"messages": []}, "messages"),
    ("/tokenize", {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    ("/tokenize", {"messages": CHAT, "tools": [{"type": "function"}]}, "tools[0].function"),
    ("/tokenize", {"messages": CHAT, "tools": TOOLS}, "tools"),
    ("/tokenize", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ("/tokenize", {"messages": CHAT, "continue_final_message": True}, "continue_final_message"),
    ("/tokenize", {"messages": CHAT, "add_generation_prompt": 1}, "add_generation_prompt"),
    ("/tokenize", {"messages": CHAT, "add_special_tokens": True}, "add_special_tokens"),
    ("/tokenize", {"messages": CHAT, "chat_template": "{{ 1 }}"}, "chat_template"),
    ("/tokenize", {"messages": CHAT, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ("/detokenize", {}, "tokens"),
    ("/detokenize", {"tokens": None}, "tokens"),
    ("/detokenize", {"tokens": "abc"}, "tokens"),
    ("/detokenize", {"tokens": [5, 300]}, "tokens[1]"),
    ("/detokenize", {"tokens": [5, 10**30]}, "tokens[1]"),
    ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
    ("/detokenize", {"tokens": [1.5]}, "tokens[0]"),
    ("/detokenize", {"tokens": [True]}, "tokens[0]"),
    ("/detokenize", {"tokens": [[1]]}, "tokens[0]"),
    ("/detokenize", {"tokens": [0] * (2**19 + 1)}, "tokens"),
    ("/detokenize", {"tokens": [0], "skip_special_tokens": True}, "skip_special_tokens"),
]


@pytest.mark.parametrize(
    ("path", "body", "param"), REFUSED, ids=[f"{param}-{i}" for i, (_, _, param) in enumerate(REFUSED)]
)
def test_a_wrong_field_is_named(real: Any, path: str, body: dict[str, Any], param: str) -> None:
    found = error(post(real, path, **body))
    assert found["param"] == param
    assert found["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b'{"prompt": "\\ud800"}', b'{"tokens": [NaN]}'])
@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_what_is_no_json_object_is_refused(real: Any, path: str, body: bytes) -> None:
    with real.client() as client:
        error(client.post(path, content=body, headers={"content-type": "application/json"}))
        error(client.post(path, content=body), 415)


def test_a_chat_that_no_member_can_read_is_refused_before_it_is_tokenized(real: Any) -> None:
    found = error(post(real, "/tokenize", messages=[{"role": "user", "content": "x" * 100_000}]))
    assert found["code"] == "context_length_exceeded"


def test_a_text_longer_than_the_context_is_counted(real: Any) -> None:
    assert post(real, "/tokenize", prompt="x" * 10_000).json()["count"] > 256


def test_while_loading_they_ask_to_come_again(deployment: Any, serve: Callable[..., Any]) -> None:
    gate = threading.Event()

    def load(*_: Any) -> Any:
        gate.wait(30)
        raise RuntimeError("stopped by the test")

    with serve(deployment, load, wait=False) as server, server.client() as client:
        for response in (
            client.post("/tokenize", json={"prompt": "hi"}),
            client.post("/detokenize", json={"tokens": [0]}),
            client.get("/tokenizer_info"),
        ):
            assert error(response, 503)["code"] == "loading"
            assert response.headers["retry-after"]
        gate.set()


def test_they_are_behind_the_keys(scripted: Callable[..., Any]) -> None:
    with scripted(keys=["secret"]) as server:
        for path in PATHS:
            with server.client() as client:
                assert client.request("GET" if path == PATHS[2] else "POST", path).status_code == 401
        with server.client(authorization="Bearer secret") as client:
            assert client.post("/tokenize", json={"prompt": "hi"}).status_code == 200
            assert client.get("/tokenizer_info").status_code == 200


def test_they_are_documented(real: Any) -> None:
    with real.client() as client:
        document = client.get("/openapi.json").json()
    for path in PATHS:
        (operation,) = document["paths"][path].values()
        assert "200" in operation["responses"]
    assert document["components"]["schemas"]["TokenizeText"]["additionalProperties"] is False
