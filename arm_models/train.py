"""``genarm train`` as a module, for launchers: ``accelerate launch -m arm_models.train --model_name_or_path …``."""

import argparse
import os
import sys
from collections.abc import Sequence

import torch

from arm_models import training_command
from arm_models.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Train in this process; 0, 2 for a user's error, 130 after an interrupt.

    An error is one line on stderr, from the first process alone.
    """
    parser = argparse.ArgumentParser(prog="python -m arm_models.train", description="Train a reward model.")
    training_command.add_arguments(parser)
    try:
        return training_command.run(parser.parse_args(argv))
    except UserError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"genarm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
