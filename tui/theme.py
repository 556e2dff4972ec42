"""The dashboard's own theme; the palette (ctrl+p) offers Textual's others."""

from __future__ import annotations

from textual.theme import Theme

LOSSGUARD = Theme(
    name="lossguard",
    primary="#56B4E9",
    secondary="#F0E442",
    accent="#CC79A7",
    warning="#E69F00",
    error="#F2603C",
    success="#2BBF8F",
    foreground="#D7DEE8",
    background="#0D1117",
    surface="#0D1117",
    panel="#161D27",
    dark=True,
    variables={
        "border": "#56B4E9",
        "border-blurred": "#2A3646",
        "block-cursor-background": "#1F3A52",
        "block-cursor-foreground": "#FFFFFF",
        "block-cursor-text-style": "none",
        "block-cursor-blurred-background": "#151D28",
        "block-cursor-blurred-foreground": "#D7DEE8",
        "block-hover-background": "#182230",
        "footer-background": "#111821",
        "footer-key-foreground": "#56B4E9",
        "scrollbar": "#2A3646",
        "scrollbar-background": "#0D1117",
    },
)
"""Okabe and Ito's sky blue, orange, vermilion, green and purple on a near-black blue."""
