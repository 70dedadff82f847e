"""A Ray of several nodes on this machine: ``python -m tests.replicas.nodes PORT`` prints its address; Serve listens on PORT on
all but the first. A line ``kill`` on stdin ends the last node with all that runs on it, ``add`` starts another one; each is
answered with a line.
"""

import os
import sys

from ray.cluster_utils import Cluster


def main() -> None:
    os.environ["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = sys.argv[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    last = cluster.add_node(num_cpus=1)
    print(f"nodes: at {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(last, allow_graceful=False)
        else:
            last = cluster.add_node(num_cpus=1)
        print(f"nodes: {line.strip()} done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
