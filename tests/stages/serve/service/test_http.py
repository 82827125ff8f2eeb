"""The service over HTTP: every status with its reason in one line, and nothing a client sends can break it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from prometheus_client.parser import text_string_to_metric_families

from premortem.stages.serve.service import Service, ServiceConfig, running
from premortem.stages.serve.service.http import MOST_BYTES, build_app

Client = httpx.AsyncClient
PATIENT = ServiceConfig(timeout_s=60, max_wait_s=60)
SOLVE = "/v1/solve/sudoku"


def play(scene: Callable[[Client, Service], Awaitable[None]], service: Service) -> None:
    async def main() -> None:
        async with running(service, grace_s=10), client_of(service) as client:
            await scene(client, service)

    asyncio.run(main())


def client_of(service: Service) -> Client:
    transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
    return Client(transport=transport, base_url="http://service", timeout=120)


def is_one_line(reply: httpx.Response) -> str:
    told: dict[str, Any] = reply.json()
    assert set(told) == {"error", "reason"}
    assert told["error"]
    assert told["error"].isprintable()
    assert len(told["error"]) < 200
    return str(told["error"])


def test_an_answer_says_who_gave_it_and_how_well_each_policy_does(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(client: Client, service: Service) -> None:
        reply = await client.post(SOLVE, json={"puzzle": asked[0], "model": "step-00000007"})
        told = reply.json()
        assert reply.status_code == 200
        assert len(told["solution"]) == 16
        assert (told["policy"], told["valid"], told["load"], told["depth"]) == ("hrm", False, 1, 4)
        assert told["scores"] == {"hrm": {"answered": 1, "solve_rate": 0.0}}
        served = (await client.get("/v1/models")).json()["models"]
        assert [(m["task"], m["version"], m["fallback"]) for m in served] == [("sudoku", told["model"], None)]
        assert (await client.get("/healthz")).json() == {"status": "alive"}
        assert (await client.get("/readyz")).json() == {"ready": True, "reason": ""}

    play(scene, Service([sudoku_bundle], PATIENT))


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "Invalid JSON"),
        (b"{", 422, "Invalid JSON"),
        (b"\xff\xfe", 422, "Invalid JSON"),
        (b"[" * 50_000, 422, "Invalid JSON"),
        (b'{"puzzle": "' + b"\xc2\x85" * 30_000 + b'"}', 422, r"puzzle: Input should be a valid array, found '\x85"),
        (b"null", 422, "should be an object"),
        (b'{"puzzle": "1"}', 422, "puzzle: Input should be a valid array"),
        (b'{"puzzle": [true]}', 422, "puzzle.0: Input should be a valid integer, found True"),
        (b'{"puzzle": [1.5]}', 422, "puzzle.0: Input should be a valid integer, found 1.5"),
        (b'{"puzzle": [1], "extra": 1}', 422, "extra: Extra inputs are not permitted"),
        (b'{"puzzle": [1], "a\\nb": 1}', 422, r"'a\nb': Extra inputs are not permitted"),
        (b'{"puzzle": [1], "' + b"k" * 60_000 + b'": 1}', 422, "kkk: Extra inputs are not permitted"),
        (b'{"puzzle": [-1]}', 422, "puzzle.0: Input should be greater than or equal to 0"),
        (b'{"puzzle": [' + b"9" * 4000 + b"]}", 422, "puzzle.0: Input should be less than or equal to 255, found 9999"),
        (b'{"puzzle": [1], "timeout_ms": NaN}', 422, "timeout_ms: Input should be less than or equal to 600000"),
        (b'{"puzzle": [1]}', 422, "found 1 cells, expected 16 for sudoku 4"),
        (b'{"puzzle": [9,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}', 422, "cell 1 holds 9, expected 0 to 4"),
        (b'{"puzzle": [1,1,0,0,0,0,0,0,0,0,0,0,0,0,0,0]}', 422, "unsolvable: row 1 holds the digit 1 twice"),
        (b'{"puzzle": [1], "timeout_ms": 0}', 422, "timeout_ms: Input should be greater than 0"),
        (b'{"puzzle": [0], "model": "v9"}', 404, "model 'v9': not served here"),
        (b" " * (MOST_BYTES + 1), 413, f"larger than {MOST_BYTES} bytes"),
    ],
)
def test_bad_input_is_one_clear_line(service_in_a_thread: httpx.Client, body: bytes, status: int, said: str) -> None:
    for content in (body, iter([body[: len(body) // 2], body[len(body) // 2 :]])):  # with a length, and in pieces
        reply = service_in_a_thread.post(SOLVE, content=content)
        assert reply.status_code == status
        assert said in is_one_line(reply)


def test_what_there_is_not_is_said_so(service_in_a_thread: httpx.Client) -> None:
    reply = service_in_a_thread.post("/v1/solve/chess", json={"puzzle": [1]})
    assert (reply.status_code, is_one_line(reply)) == (
        404, "task 'chess': not served here, expected one of sudoku",
    )  # fmt: skip
    assert service_in_a_thread.get(SOLVE).status_code == 405
    assert service_in_a_thread.get("/v2").status_code == 404
    assert service_in_a_thread.post("/v1/solve/a/b", json={}).status_code == 404


def test_overload_timeout_and_shutdown_have_their_status(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(client: Client, service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        late = await client.post(SOLVE, json={"puzzle": asked[5], "timeout_ms": 100})
        assert (late.status_code, late.json()["reason"]) == (504, "timeout")
        waiting = [asyncio.ensure_future(client.post(SOLVE, json={"puzzle": puzzle})) for puzzle in asked[:4]]
        while service.pending < 4:
            await asyncio.sleep(0.01)
        full = await client.post(SOLVE, json={"puzzle": asked[5]})
        assert (full.status_code, full.json()["reason"]) == (429, "full")
        assert int(full.headers["retry-after"]) >= 1
        os.kill(service.worker_pid, signal.SIGCONT)
        assert {(await one).status_code for one in waiting} == {200}
        service.refuse_new()
        closing = await client.post(SOLVE, json={"puzzle": asked[5]})
        assert (closing.status_code, closing.json()["reason"]) == (503, "closing")
        assert int(closing.headers["retry-after"]) >= 1
        unready = await client.get("/readyz")
        assert (unready.status_code, unready.json()["ready"]) == (503, False)
        assert (await client.get("/healthz")).status_code == 200

    play(scene, Service([sudoku_bundle], ServiceConfig(queue=4, timeout_s=60, max_wait_s=60)))


def test_before_the_worker_is_warm_nothing_is_promised(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def main() -> None:
        service = Service([sudoku_bundle], PATIENT)
        async with client_of(service) as client:
            reply = await client.post(SOLVE, json={"puzzle": asked[0]})
            assert (reply.status_code, reply.json()["reason"]) == (503, "starting")
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/v1/models")).json() == {"models": []}
            assert (await client.get("/metrics")).status_code == 200

    asyncio.run(main())


def _values_of(text: str) -> dict[tuple[Any, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_latency_queue_and_every_refusal(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(client: Client, service: Service) -> None:
        for _ in range(3):
            for puzzle in asked[:100]:
                await client.post(SOLVE, json={"puzzle": puzzle})
        service.refuse_new()
        await client.post(SOLVE, json={"puzzle": asked[0]})
        text = (await client.get("/metrics")).text
        values = _values_of(text)
        assert values["inference_latency_ms_count", ("policy", "hrm"), ("task", "sudoku")] == 300
        assert values["inference_answered_total", ("policy", "hrm")] == 300
        assert values["inference_cache_hits_total",] == 200
        assert values["inference_accepted_total",] == 300
        assert values["inference_refused_total", ("accepted", "no"), ("reason", "closing")] == 1
        assert values["inference_queue_length",] == 0
        assert values["inference_solved_ratio", ("policy", "hrm"), ("task", "sudoku")] == 0.0
        p50, p95, p99 = (values["inference_latency_quantile_ms", ("quantile", q)] for q in ("0.5", "0.95", "0.99"))
        assert 0 <= p50 <= p95 <= p99

    play(scene, Service([sudoku_bundle], PATIENT))


def test_who_ran_out_of_time_counts_in_the_exported_latency(sudoku_bundle: Path, asked: list[list[int]]) -> None:
    async def scene(client: Client, service: Service) -> None:
        os.kill(service.worker_pid, signal.SIGSTOP)
        late = (client.post(SOLVE, json={"puzzle": puzzle, "timeout_ms": 50}) for puzzle in asked[:40])
        assert {reply.status_code for reply in await asyncio.gather(*late)} == {504}
        os.kill(service.worker_pid, signal.SIGCONT)
        service.mark()
        values = _values_of((await client.get("/metrics")).text)
        assert values["inference_latency_ms_count", ("policy", "none"), ("task", "sudoku")] == 40
        assert values["inference_latency_ms_sum", ("policy", "none"), ("task", "sudoku")] >= 40 * 50
        assert values["inference_latency_quantile_ms", ("quantile", "0.5")] >= 50, "a guard's mark leaves it alone"
        assert ("inference_latency_quantile_ms", ("quantile", "0.95")) not in values, "40 are too few for it"

    play(scene, Service([sudoku_bundle], PATIENT))


@pytest.mark.filterwarnings("default")  # of the tool's own parts, not of what it is pointed at
def test_nothing_that_the_description_allows_or_forbids_breaks_it(service_in_a_thread: httpx.Client) -> None:
    """Schemathesis: requests that fit the OpenAPI and requests that do not, each answered as it is described."""
    schema = schemathesis.openapi.from_dict(service_in_a_thread.get("/openapi.json").json())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.label for operation in operations} == {
        "POST /v1/solve/{task}", "GET /v1/models", "GET /healthz", "GET /readyz", "GET /metrics",
    }  # fmt: skip
    seen: set[tuple[str, int]] = set()
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            try:
                cases = _drawn(operation.as_strategy(generation_mode=mode), 60)
            except Exception as error:
                if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):
                    raise
                continue  # there is no wrong request to a path without parameters
            seen |= {(operation.label, _call(service_in_a_thread, case)) for case in cases}
    assert {status for label, status in seen if label.startswith("POST")} >= {200, 404, 422}


def _call(client: httpx.Client, case: schemathesis.Case) -> int:
    given = case.as_transport_kwargs(base_url=str(client.base_url))
    reply = client.request(
        given["method"], given["url"], params=given.get("params"), headers=dict(given.get("headers") or {}),
        content=given.get("data") if isinstance(given.get("data"), bytes | str) else None,
        json=given.get("json"),
    )  # fmt: skip
    declared = case.operation.definition.raw["responses"]
    assert str(reply.status_code) in declared or reply.status_code in (404, 405), (case.as_curl_command(), reply.text)
    return reply.status_code


def _drawn(strategy: Any, count: int) -> list[Any]:
    from hypothesis import given, seed

    drawn: list[Any] = []

    @seed(0)
    @hypothesis_settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(case: Any) -> None:
        drawn.append(case)

    collect()
    return drawn


def test_the_description_says_what_is_served(service_in_a_thread: httpx.Client) -> None:
    description = service_in_a_thread.get("/openapi.json").json()
    path = description["paths"]["/v1/solve/{task}"]["post"]["parameters"][0]
    assert path["schema"]["enum"] == ["sudoku"]
    puzzle = description["components"]["schemas"]["SolveRequest"]["properties"]["puzzle"]
    assert (puzzle["minItems"], puzzle["maxItems"], puzzle["items"]["maximum"]) == (16, 16, 4)


def test_the_description_names_every_refusal_and_gives_examples(sudoku_bundle: Path) -> None:
    description = build_app(Service([sudoku_bundle])).openapi()
    responses = description["paths"]["/v1/solve/{task}"]["post"]["responses"]
    assert set(responses) == {"200", "404", "413", "422", "429", "503", "504"}
    assert all("Retry-After" in responses[status]["headers"] for status in ("429", "503"))
    schemas = description["components"]["schemas"]
    assert all(schemas[name]["examples"] for name in ("SolveRequest", "SolveReply", "Problem"))
    json.dumps(description)
