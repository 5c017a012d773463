"""Draw ``steps.svg``: the main pipeline's steps on their node pools, with the store between them.

Run ``python docs/pictures/steps.py``; ``tests/test_docs.py`` fails while the picture is stale.
"""

from pathlib import Path

WIDTH, HEIGHT = 900, 330
BOX_WIDTH, BOX_HEIGHT = 74, 34
CPU_Y, STORE_Y, GPU_Y = 62, 168, 262
"""Middle line of each lane."""
CPU_STEPS = (
    "fetch",
    "ingest",
    "select",
    "curriculum",
    "plan",
    "watch",
    "evaluate",
    "quantize",
    "ledger",
    "publish",
)
GPU_STEPS = {"finetune": 5}
"""Step to the CPU step it stands below."""
LEFT, GAP = 54, 88
MESSAGES = (
    ("finetune", "checkpoints"),
    ("watch", "scores, stop"),
    ("publish", "release"),
    ("ledger", "receipts"),
)
"""What a step exchanges with the store."""
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .small { font-size: 11px; fill: #57606a; }
  .lane { fill: #f6f8fa; stroke: #d0d7de; }
  .cpu { fill: #ddf4ff; stroke: #0969da; }
  .gpu { fill: #fff1e5; stroke: #bc4c00; }
  .store { fill: #dafbe1; stroke: #1a7f37; }
  path { stroke: #57606a; fill: none; marker-end: url(#arrow); }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9198a1; } .lane { fill: #161b22; stroke: #30363d; }
    .cpu { fill: #0c2d6b; } .gpu { fill: #5a1e02; } .store { fill: #033a16; } path { stroke: #9198a1; }
  }
"""


def picture() -> str:
    """Return the picture as SVG."""
    places = {name: (LEFT + GAP * number, CPU_Y) for number, name in enumerate(CPU_STEPS)}
    places |= {name: (LEFT + GAP * below, GPU_Y) for name, below in GPU_STEPS.items()}
    parts = [
        _lane(CPU_Y, "CPU pool", 92),
        _lane(GPU_Y, "GPU pool, held only while training", 92),
    ]
    for one, other in zip(CPU_STEPS, CPU_STEPS[1:], strict=False):
        if "watch" not in (
            one,
            other,
        ):  # it runs at the same time as finetune, and talks to it through the store
            parts.append(_across(places[one], places[other]))
    plan, train = places["plan"], places["finetune"]
    parts.append(f'<path d="M{plan[0]} {plan[1] + 17} V{GPU_Y} H{train[0] - BOX_WIDTH / 2 - 4}"/>')
    evaluate = places["evaluate"]
    parts.append(f'<path d="M{train[0] + BOX_WIDTH / 2} {GPU_Y} H{evaluate[0]} V{CPU_Y + 21}"/>')
    for name, what in MESSAGES:
        parts.append(_exchange(places[name], what))
    label = "store (S3 or a folder): checkpoints, receipts, releases"
    parts.append(
        _box(WIDTH / 2, STORE_Y, WIDTH - 40, 40, "store", label)
    )  # over the lines that pass behind it
    for name, (x, y) in places.items():
        parts.append(_box(x, y, BOX_WIDTH, BOX_HEIGHT, "gpu" if name in GPU_STEPS else "cpu", name))
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"
  aria-label="Steps of the main pipeline on a CPU pool and a GPU pool, with the store between them">
<style>{STYLE}</style>
<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">
<polygon points="0 0, 7 3, 0 6" fill="#57606a"/></marker></defs>
{body}
</svg>
"""


def _lane(y: float, label: str, height: float) -> str:
    top = y - height / 2
    label_y = top + (15 if y < STORE_Y else height - 7)
    return (
        f'<rect class="lane" x="8" y="{top:g}" width="{WIDTH - 16}" height="{height:g}" rx="8"/>'
        f'<text class="small" x="18" y="{label_y:g}">{label}</text>'
    )


def _box(x: float, y: float, width: float, height: float, kind: str, label: str) -> str:
    return (
        f'<rect class="{kind}" x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" '
        f'height="{height:g}" rx="6"/><text x="{x:g}" y="{y + 4:g}" text-anchor="middle">{label}</text>'
    )


def _across(start: tuple[float, float], end: tuple[float, float]) -> str:
    return f'<path d="M{start[0] + BOX_WIDTH / 2:g} {start[1]:g} H{end[0] - BOX_WIDTH / 2 - 1:g}"/>'


def _exchange(place: tuple[float, float], what: str) -> str:
    """Draw an arrow between a step and the store, with its label."""
    x, y = place
    down = y < STORE_Y
    start, end = (y + 17, STORE_Y - 24) if down else (y - 17, STORE_Y + 24)
    middle = (start + end) / 2 + 4
    return (
        f'<path d="M{x:g} {start:g} V{end:g}"/>'
        f'<text class="small" x="{x - 4:g}" y="{middle:g}" text-anchor="end">{what}</text>'
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture())
