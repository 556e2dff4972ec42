"""A few lines for frameworks that own the training loop; each module imports its framework.

    from lossguard.integrations.huggingface import LossguardCallback
    from lossguard.integrations.lightning import LossguardCallback
    from lossguard.integrations.accelerate import watch

``lossguard run`` needs none of them. What they add: the framework's own validation loss, a watch
from the first step on, an end with the training instead of with the process, and ``policy=`` in
the script.
"""
