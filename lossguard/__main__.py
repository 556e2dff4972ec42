"""``python -m lossguard`` is ``lossguard``: what torchrun and accelerate launch."""

from lossguard.agent.cli import main

if __name__ == "__main__":
    main()
