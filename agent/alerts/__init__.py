"""Alerts: what the agent tells people who are not looking, and how it makes sure that it arrives.

``notifier`` stands in the agent's loop and never waits; all else runs in a thread of its own:
``desk`` decides what is said (pure, with the clock handed in), ``rendering`` puts it into words,
``journal`` keeps it until it is sent, ``slack`` sends it. Nothing here is imported by an agent
that is to tell nobody.
"""
