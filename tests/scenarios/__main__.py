"""One training of the zoo, as a script: ``python -m tests.scenarios NAME [--seed N] [--healthy]``.

It attaches by itself and starts an agent where none is running; with ``--bare`` it does not, for
``lossguard run -m tests.scenarios NAME --bare``.
"""

from __future__ import annotations

import argparse
import sys

import torch

import lossguard
from lossguard.probes.guard import Guard
from tests.scenarios.catalogue import NORMAL, SCENARIOS


def main() -> None:
    parser = argparse.ArgumentParser(description="One training of the zoo.")
    parser.add_argument("name", choices=[*SCENARIOS, *NORMAL])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--healthy", action="store_true", help="the twin without the trouble")
    parser.add_argument("--bare", action="store_true", help="do not attach")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.bare:
        lossguard.attach = lambda *_, **__: Guard(None)
    if arguments.name in NORMAL:
        NORMAL[arguments.name].train(arguments.seed)
        return
    begins = SCENARIOS[arguments.name].train(arguments.seed, healthy=arguments.healthy)
    sys.stdout.write(f"begins {begins}\n")


if __name__ == "__main__":
    main()
