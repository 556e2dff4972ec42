"""The dashboard: one terminal screen on the runs of this user's agent.

``lossguard.tui.app.main`` opens it. Importing this package loads nothing; it speaks the
agent's feed and needs no torch.
"""
