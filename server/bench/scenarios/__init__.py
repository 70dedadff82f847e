"""The questions `genarm bench` answers, by name; a new one is a new file."""

from collections.abc import Callable, Mapping

from server.bench.result import Result
from server.bench.scenarios.generate import against_generate, against_static, one_stream
from server.bench.scenarios.http import over_http
from server.bench.scenarios.prefix import second_request
from server.bench.scenarios.reports import reports_asked, reports_unasked
from server.bench.scenarios.steering import change_lag
from server.bench.scenarios.sweep import weight_sweep
from server.bench.scenarios.zero import weight_zero
from server.bench.setup import Setup

SCENARIOS: Mapping[str, Callable[[Setup], Result]] = {
    "zero": weight_zero,
    "generate": against_generate,
    "static": against_static,
    "stream": one_stream,
    "http": over_http,
    "sweep": weight_sweep,
    "unreported": reports_unasked,
    "reported": reports_asked,
    "prefix": second_request,
    "steering": change_lag,
}
