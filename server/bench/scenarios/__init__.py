"""The questions `genarm bench` answers, by name; a new one is a new file."""

from collections.abc import Callable, Mapping, Sequence

from server.bench.result import Result
from server.bench.scenarios.cost import reward_cost
from server.bench.scenarios.flood import key_under_flood
from server.bench.scenarios.floor import byte_floor
from server.bench.scenarios.generate import against_generate, against_static, one_stream
from server.bench.scenarios.http import over_http
from server.bench.scenarios.lora import adapter_cost
from server.bench.scenarios.prefix import second_request
from server.bench.scenarios.quantized import rounding, speed_of_int8
from server.bench.scenarios.replicas import replicas
from server.bench.scenarios.reports import reports_asked, reports_unasked
from server.bench.scenarios.scaling import second_replica
from server.bench.scenarios.serving import poisson_serving
from server.bench.scenarios.speculation import speculation_pays
from server.bench.scenarios.steering import change_lag
from server.bench.scenarios.steps import engine_steps
from server.bench.scenarios.sweep import weight_sweep
from server.bench.scenarios.transformers import against_transformers
from server.bench.scenarios.vectors import weight_vectors
from server.bench.scenarios.zero import weight_zero
from server.bench.setup import Setup

SCENARIOS: Mapping[str, Callable[[Setup], Result | Sequence[Result]]] = {
    "zero": weight_zero,
    "generate": against_generate,
    "static": against_static,
    "stream": one_stream,
    "http": over_http,
    "sweep": weight_sweep,
    "vectors": weight_vectors,
    "unreported": reports_unasked,
    "reported": reports_asked,
    "prefix": second_request,
    "steering": change_lag,
    "cost": reward_cost,
    "lora": adapter_cost,
    "floor": byte_floor,
    "serving": poisson_serving,
    "flood": key_under_flood,
    "transformers": against_transformers,
    "speculation": speculation_pays,
    "steps": engine_steps,
    "rounding": rounding,
    "int8": speed_of_int8,
    "replicas": replicas,
    "scaling": second_replica,
}
