"""What the style sheet promises: text that can be read on what it stands on, light and dark."""

import re

import pytest

from reconciler.dashboard.pages import STATIC

CSS = (STATIC / "app.css").read_text("utf-8")
AA = 4.5
TEXT_ON = [
    *((ink, ground) for ink in ("ink", "muted", "faint", "accent", "bad", "warn", "good")
      for ground in ("ground", "surface")),
    *((ink, "raised") for ink in ("ink", "muted")),
    *((tone, f"{tone}-ground") for tone in ("good", "bad", "warn", "plain", "accent")),
    ("on-accent", "accent"),
]  # fmt: skip


def _colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\n\s*\}", CSS, re.DOTALL)[:2]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    if scheme == "dark":
        found |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark))
    return found


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme: str) -> None:
    colours = _colours(scheme)
    poor = {}
    for ink, ground in TEXT_ON:
        low, high = sorted((_luminance(colours[ink]), _luminance(colours[ground])))
        ratio = (high + 0.05) / (low + 0.05)
        if ratio < AA:
            poor[ink, ground] = round(ratio, 2)
    assert poor == {}


def test_both_schemes_name_the_same_colours() -> None:
    blocks = re.findall(r":root \{(.*?)\n\s*\}", CSS, re.DOTALL)[:2]
    light, dark = (set(re.findall(r"--([\w-]+): #", block)) for block in blocks)
    assert light == dark


def test_nothing_comes_from_elsewhere() -> None:
    assert "url(" not in CSS
    assert "@import" not in CSS
