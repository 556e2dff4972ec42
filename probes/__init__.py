"""In the training process: measure, veto a bad update, keep snapshots, obey.

Importing this package loads nothing; ``lossguard.attach`` is the way in. ``probes.wire`` is the
one module the agent shares, and it never imports torch.
"""
