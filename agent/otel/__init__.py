"""Metrics to an OpenTelemetry collector: ``message`` is what it is sent, ``sender`` who sends it.

Nothing here is imported by an agent that sends nothing, but its settings.
"""
