"""The data card of a store on the Hub: what it holds, where it came from, how to read it."""

import json

from activation_store import Store
from unbox.memory_limit import size_text

#: The Hub shows no table of it: shards are HDF5 files of our own layout.
FRONT_MATTER = (
    "---\nlibrary_name: unbox\nviewer: false\ntags:\n- activations\n- interpretability\n- sdxl\n---"
)
USE = """## Use

```
unbox store pull {repo} --out acts
unbox train --store hf://datasets/{repo} --out saes
```

```python
from activation_store import Store
store = Store.open("hf://datasets/{repo}")
store.blocks, len(store), store.samples[0]
```"""


def card(store: Store, repo: str) -> str:
    """Markdown with the Hub's front matter, of a store as it is now."""
    schema = store.schema
    size = size_text(sum(entry.bytes for entry in store.entries))
    blocks = "\n".join(f"| `{name}` | {y} x {x} | {width} |" for name, (y, x, width) in schema.blocks.items())
    facts = json.dumps(store.provenance, indent=1, ensure_ascii=False)
    return (
        "\n\n".join(
            [
                f"{FRONT_MATTER}\n\n# Activations: {', '.join(store.blocks)}",
                f"Updates (output minus input) of transformer blocks, {len(store):,} images, {size}, "
                f"{schema.dtype}; steps {', '.join(map(str, schema.steps))}; branches "
                f"{', '.join(schema.branches)}. Written by unbox.",
                f"| block | grid | channels |\n| --- | --- | --- |\n{blocks}",
                USE.format(repo=repo),
                f"## Where it came from\n\n```json\n{facts}\n```",
            ]
        )
        + "\n"
    )
