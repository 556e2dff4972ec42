"""Metrics for Prometheus: ``figures`` is what the loop hands over, ``families`` how the table
of metrics reads to a scraper, ``server`` who answers, ``exporter`` what the agent holds of it.

Nothing here is imported by an agent that exports nothing, but its settings.
"""
