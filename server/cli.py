"""The ``genarm`` command.

Each subcommand lives where its work is done and is imported only when it is asked for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from arm_models.errors import UserError

COMMANDS = {
    "serve": ("server.serve_command", "serve a base model and its reward models over the OpenAI API"),
    "deploy": ("server.deploy_command", "serve several replicas of them on Ray"),
    "key": ("server.access.key_command", "make an API key and its entry for the file of keys"),
    "doctor": (
        "server.doctor_command",
        "say what is installed and what of a deployment fits on this machine",
    ),
    "chat": ("server.terminal.command", "talk to a server and move its weights while it answers"),
    "train": ("arm_models.training_command", "train a reward model or a policy on preference pairs"),
    "evaluate": ("server.evaluate_command", "score guided answers on held-out prompts"),
    "sweep": ("server.sweep_command", "answer prompts under many methods and weights, in one batch"),
    "compare": (
        "server.compare_command",
        "train and measure the methods against each other on the demo world",
    ),
    "soup": ("arm_models.soup.command", "average the weights of models trained for different rewards"),
    "bench": ("server.bench.command", "measure throughput and what guidance costs"),
    "simulate": (
        "server.simulate_command",
        "simulate many replicas under many users from measured times of steps",
    ),
    "demo": ("arm_models.demo.command", "rebuild the shipped demo models"),
}
"""Name → (module with ``add_arguments`` and ``run``, one line of help)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; its exit code. What the user did wrong is one line on stderr and code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = _parser(chosen=next((word for word in arguments if not word.startswith("-")), None))
        namespace = parser.parse_args(arguments)
        namespace.arguments = arguments
        code: int = namespace.run(namespace)
    except UserError as error:
        print(f"genarm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("genarm: interrupted", file=sys.stderr)
        return 130
    return code


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser with every command's name, and the options of the chosen one."""
    parser = argparse.ArgumentParser(
        prog="genarm", description="Text generation steered by preference weights at every token."
    )
    parser.add_argument("--version", action="version", version=f"genarm {metadata.version('genarm')}")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            owner = import_module(module)
            owner.add_arguments(command)
            command.set_defaults(run=owner.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
