"""Requests are ragged, the same every time, and so is a sample of them."""

import statistics

from server.bench.workload import Workload, output_tokens, sample


def test_a_workload_is_ragged_and_the_same_every_time() -> None:
    workload = Workload(requests=50)
    requests = workload.build(100, ["a"], guided=True)
    assert requests == workload.build(100, ["a"], guided=True)
    assert len({len(request.prompts["base"]) for request in requests}) > 20
    assert len({request.mix["a"] for request in requests}) > 20
    assert output_tokens(requests) == output_tokens(workload.build(100, [], guided=False))


def test_it_is_as_large_as_the_models_are_meant_for() -> None:
    demo, small = Workload.of("demo", None, 0), Workload.of("small", None, 0)
    assert (demo.requests, demo.prompt, demo.response) == (32, (16, 64), (16, 128))
    assert (small.requests, small.prompt, small.response) == (64, (16, 256), (16, 128))
    assert Workload.of("small", 5, 0).requests == 5


def test_a_sample_is_as_ragged_as_all_of_them() -> None:
    requests = Workload(requests=64).build(100, [], guided=False)
    few = sample(requests, 8)
    assert few == sample(requests, 8)
    assert len({request.id for request in few}) == 8
    lengths = [[request.sampling.max_tokens for request in some] for some in (requests, few)]
    means, spreads = map(statistics.mean, lengths), map(statistics.stdev, lengths)
    for every, chosen in (means, spreads):
        assert 0.9 < chosen / every < 1.1


def test_a_sample_of_all_is_all() -> None:
    requests = Workload(requests=3).build(100, [], guided=False)
    assert sample(requests, 3) == sample(requests, 99) == requests
