"""Metrics for Prometheus: ``figures`` is what the loop hands over, ``families`` how it reads to a
scraper, ``server`` who answers, ``exporter`` what the agent holds of all this.

Nothing here is imported by an agent that exports nothing, but its settings.
"""
