"""The application as a whole: what it lists, and a document of the API that holds together."""

from typing import Any

import httpx
import pytest


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    if isinstance(node, list):
        return set().union(*(references(child) for child in node))
    return set()


def get(real: Any, path: str) -> httpx.Response:
    with real.client() as client:
        response: httpx.Response = client.get(path)
    return response


def test_models_list_the_model_and_its_presets(real: Any) -> None:
    listed = get(real, "/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["tiny", "tiny:kind", "tiny:plain"]
    for model in listed["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert get(real, f"/v1/models/{model['id']}").json() == model


def test_preferences_list_rewards_methods_and_presets(real: Any) -> None:
    listed = get(real, "/v1/preferences").json()
    assert set(listed) == {"object", "data", "policies", "scorers", "objectives", "methods", "presets"}
    assert (listed["policies"], listed["scorers"], listed["objectives"]) == ([], [], [])
    assert listed["data"][0] == {
        "name": "helpful",
        "description": "helps",
        "default": 1.0,
        "range": [0.0, 2.0],
    }
    assert listed["data"][1]["range"] == [-1.0, 3.0]
    genarm = listed["methods"][0]
    assert (genarm["name"], genarm["available"], genarm["needs"]) == ("genarm", True, None)
    assert genarm["preferences"] == ["helpful", "harmless"]
    assert set(genarm["parameters"]) == {"beta", "max_kl", "normalize"}
    assert listed["presets"] == {"kind": {"harmless": 2.0}, "plain": {}}


def test_every_listed_preset_and_method_can_be_asked_for(real: Any) -> None:
    for model in get(real, "/v1/models").json()["data"]:
        assert real.chat(model=model["id"], max_tokens=1).status_code == 200
    for method in get(real, "/v1/preferences").json()["methods"]:
        status = real.chat(guidance={"method": method["name"]}, max_tokens=1).status_code
        assert (status == 200) is method["available"] is (method["needs"] is None)


def test_the_openapi_document_holds_together(real: Any) -> None:
    document = get(real, "/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert references(document) <= {f"#/components/schemas/{name}" for name in schemas}
    request = schemas["ChatCompletionRequest"]
    assert {"preferences", "guidance", "stream", "max_tokens"} <= set(request["properties"])
    assert request["additionalProperties"] is False
    assert set(document["paths"]["/v1/chat/completions/{id}"]) == {"get", "patch", "delete"}


def test_errors_are_documented_as_400_and_not_as_422(real: Any) -> None:
    document = get(real, "/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], (method, path)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "4XX" in document["paths"]["/v1/chat/completions"]["post"]["responses"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_what_generates_documents_its_refusals_and_its_stream(real: Any, path: str) -> None:
    document = get(real, "/openapi.json").json()
    responses = document["paths"][path]["post"]["responses"]
    for status in ("400", "401", "404", "413", "415", "429", "503"):
        schema = responses[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/ErrorBody"}
        assert ("Retry-After" in responses[status].get("headers", {})) == (status in ("429", "503"))
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    event = responses["200"]["content"]["text/event-stream"]["schema"]
    chunk = "Completion" if path == "/v1/completions" else "ChatCompletionChunk"
    assert event["properties"]["data"]["contentSchema"] == {"$ref": f"#/components/schemas/{chunk}"}
    assert set(document["paths"][f"{path}/{{id}}"]) == {"get", "patch", "delete"}
