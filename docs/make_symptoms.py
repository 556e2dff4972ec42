"""Writes docs/symptoms.md from the detectors' advice and settings."""

from __future__ import annotations

from pathlib import Path

from lossguard.agent.symptom_page import page

DOCS = Path(__file__).parent


def main() -> None:
    """Write the page."""
    (DOCS / "symptoms.md").write_text(page(DOCS), encoding="utf-8")


if __name__ == "__main__":
    main()
