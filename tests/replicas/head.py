"""A Ray with a dashboard that ``serve deploy`` talks to: ``python -m tests.replicas.head PORT`` prints where it is. It ends with
its standard input.
"""

import sys

import ray


def main() -> None:
    port = int(sys.argv[1])
    ray.init(address="local", num_cpus=2, include_dashboard=True, dashboard_port=port, log_to_driver=False)
    print(f"head: dashboard at http://127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
