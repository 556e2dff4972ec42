"""Slack's blocks as a page to look at, about as Slack shows them.

python -m tests.support.slack_socket conversation.json     # prints what to export elsewhere
lossguard run --guard --name gpt examples/train_gpt.py --trouble --steps 500
python docs/render_slack.py conversation.json slack.html
python docs/render_slack.py conversation.json docs/slack.png    # needs chromium

The file holds a list of messages: ``ts``, ``text``, ``blocks``, and ``thread_ts`` for replies.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EMOJI = {
    "red_circle": '<i class="dot" style="background:#dd2e44"></i>',
    "large_orange_circle": '<i class="dot" style="background:#f4900c"></i>',
    "large_blue_circle": '<i class="dot" style="background:#55acee"></i>',
    "white_check_mark": '<i class="tick">✓</i>',
    "arrow_right": "➜",
    "mute": "✕",
}
"""Drawn, for machines without a font for them."""
STYLE = """
body { font: 15px/1.46 Lato, "Noto Sans", "DejaVu Sans", sans-serif; color: #1d1c1d; margin: 0;
       background: #fff; width: 760px; padding: 14px 20px }
.message { display: flex; margin: 0 0 14px }
.thread { border-left: 3px solid #ddd; margin-left: 18px; padding-left: 14px }
.face { width: 36px; height: 36px; border-radius: 6px; background: #0072b2; color: #fff;
        font-weight: 900; text-align: center; line-height: 36px; margin-right: 9px; flex: none }
.body { min-width: 0; flex: 1 }
.who { font-weight: 900 } .app { background: #e8e8e8; color: #616061; font-size: 10px;
       padding: 1px 3px; border-radius: 2px; margin-left: 4px }
.note { color: #616061; font-size: 13px }
h3 { font-size: 18px; margin: 4px 0 } .section { margin: 6px 0; white-space: pre-wrap }
.fields { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 16px; margin: 8px 0;
          white-space: pre-wrap }
.context { color: #616061; font-size: 13px; margin: 6px 0 } .context span { margin-right: 10px }
.button { display: inline-block; border: 1px solid #bbb; border-radius: 4px; padding: 4px 12px;
          margin: 4px 8px 4px 0; font-weight: 700; font-size: 14px }
.danger { color: #e01e5a }
code { font: 12px "DejaVu Sans Mono", monospace; color: #c01343; background: #f6f6f6;
       border: 1px solid #ddd; border-radius: 3px; padding: 1px 3px; overflow-wrap: anywhere }
pre { font: 12px/1.5 "DejaVu Sans Mono", monospace; background: #f6f6f6; border: 1px solid #ddd;
      border-radius: 4px; padding: 8px; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 }
img { max-width: 620px; border: 1px solid #ddd; border-radius: 8px }
.dot { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 50% }
.tick { display: inline-block; width: 1.1em; height: 1.1em; line-height: 1.1em; color: #fff;
        background: #77b255; border-radius: 3px; text-align: center; font-style: normal;
        font-size: 0.85em }
.call { background: #fcf4da; color: #1264a3; padding: 0 2px }
"""


def page(messages: list[dict[str, Any]]) -> str:
    """HTML of a whole conversation: each message with its thread below it."""
    parts = []
    for root in (message for message in messages if "thread_ts" not in message):
        parts.append(_message(root))
        replies = [one for one in messages if one.get("thread_ts") == root["ts"]]
        if replies:
            parts.append(f'<div class="thread">{"".join(map(_message, replies))}</div>')
    return f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>{"".join(parts)}'


def _message(message: dict[str, Any]) -> str:
    notes = ["edited"] * bool(message.get("edited"))
    notes += ["also sent to the channel"] * bool(message.get("reply_broadcast"))
    note = f' <span class="note">({", ".join(notes)})</span>' if notes else ""
    body = "".join(map(_block, message.get("blocks") or ()))
    if not body:
        body = f'<div class="section">{_mrkdwn(message["text"])}</div>'
    if file := message.get("file"):
        body += f'<img src="data:image/png;base64,{file["data"]}">'
    return (
        f'<div class="message"><div class="face">L</div><div class="body">'
        f'<span class="who">Lossguard</span><span class="app">APP</span>{note}{body}</div></div>'
    )


def _block(block: dict[str, Any]) -> str:
    kind = block["type"]
    if kind == "header":
        return f"<h3>{_text(block['text'])}</h3>"
    if kind == "actions":
        buttons = (
            f'<span class="button {item.get("style", "")}">{_text(item["text"])}</span>'
            for item in block["elements"]
        )
        return f"<div>{''.join(buttons)}</div>"
    if kind == "context":
        words = "".join(f"<span>{_text(item)}</span>" for item in block["elements"])
        return f'<div class="context">{words}</div>'
    text = f'<div class="section">{_text(block["text"])}</div>' if "text" in block else ""
    fields = "".join(f"<div>{_text(item)}</div>" for item in block.get("fields", ()))
    return text + (f'<div class="fields">{fields}</div>' if fields else "")


def _text(text: dict[str, Any]) -> str:
    if text["type"] == "mrkdwn":
        return _mrkdwn(text["text"])
    return _emoji(html.escape(text["text"]))


def _mrkdwn(text: str) -> str:
    pieces = re.split(r"```(.*?)```", text, flags=re.DOTALL)
    return "".join(
        f"<pre>{piece}</pre>" if i % 2 else _inline(piece) for i, piece in enumerate(pieces)
    )


def _inline(text: str) -> str:
    pieces = text.split("`")
    return "".join(
        f"<code>{piece}</code>" if i % 2 else _words(piece) for i, piece in enumerate(pieces)
    )


def _words(text: str) -> str:
    text = re.sub(r"<!date\^(\d+)\^[^|>]*\|[^>]*>", _date, text)
    text = re.sub(r"<[@!]([^>]+)>", r'<span class="call">@\1</span>', text)
    text = re.sub(r"(?<![\w*])\*(?=\S)([^*\n]+)\*(?!\w)", r"<b>\1</b>", text)
    return _emoji(text)


def _date(found: re.Match[str]) -> str:
    return time.strftime("Today at %H:%M:%S", time.gmtime(int(found[1])))


def _emoji(text: str) -> str:
    return re.sub(r":([a-z_]+):", lambda found: EMOJI.get(found[1], found[0]), text)


def photograph(document: str, target: Path) -> None:
    """PNG of the page by headless Chromium, cut to what is on it."""
    from PIL import Image, ImageChops

    with tempfile.TemporaryDirectory() as folder:
        source, whole = Path(folder) / "page.html", Path(folder) / "whole.png"
        source.write_text(document)
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-background-networking", "--window-size=800,6000",
                f"--user-data-dir={folder}/profile", f"--screenshot={whole}", str(source),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        picture = Image.open(whole).convert("RGB")
        white = Image.new("RGB", picture.size, "white")
        box = ImageChops.difference(picture, white).getbbox() or (0, 0, 800, 100)
        shown = picture.crop((0, 0, 800, box[3] + 14))
        shown.quantize(256, Image.Quantize.FASTOCTREE).save(target, optimize=True)


def main() -> None:
    messages = json.loads(Path(sys.argv[1]).read_text())
    target = Path(sys.argv[2]).absolute()
    if target.suffix == ".png":
        photograph(page(messages), target)
    else:
        target.write_text(page(messages))


if __name__ == "__main__":
    main()
