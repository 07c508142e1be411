"""Changes to the values in JSON and YAML files."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.fuzzing.hostile import HOSTILE_NAMES, VALUES


def changed_tree(rng: random.Random, tree: Any) -> Any:
    """Change one to three nodes of a parsed file."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, dict):
            name = rng.choice((*HOSTILE_NAMES, "role", "label", "trust_remote_code"))
            parent[name] = parent.pop(key)
        elif how == 2:
            other, place = rng.choice(places)
            # An earlier change may have removed the node.
            has = place in other if isinstance(other, dict) else place < len(other)
            parent[key] = json.loads(json.dumps(other[place])) if has else None
        elif how == 3 and isinstance(parent, list):
            parent.insert(key, parent[key])
        elif how == 4 and isinstance(parent[key], str):
            parent[key] = rng.choice(HOSTILE_NAMES) + parent[key]
        else:
            parent[key] = rng.choice(VALUES)
    return tree


def _places(tree: Any) -> Any:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def changed_json(rng: random.Random, data: bytes) -> bytes:
    """Change nodes of a JSON file, with escaped or unescaped text."""
    tree = changed_tree(rng, json.loads(data))
    return json.dumps(tree, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")


def changed_json_lines(rng: random.Random, data: bytes) -> bytes:
    """Change nodes or lines of a JSON lines file."""
    rows = changed_tree(rng, [json.loads(line) for line in data.splitlines() if line.strip()])
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(json.dumps(row) for row in rows).encode("utf-8", "surrogatepass")


def changed_yaml(rng: random.Random, data: bytes) -> bytes:
    """Change nodes of a YAML file."""
    import yaml

    tree = changed_tree(rng, yaml.safe_load(data))
    return yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")
