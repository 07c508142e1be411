"""A run condition is one field of `RunSpec`; everything else derives from its declaration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from fewshot_bench.api.spec import CONDITIONS
from fewshot_bench.store.store import Store
from tests.support.compare_records import make
from tests.support.helpers import PATIENCE, REPOSITORY, fsbench

# The declaration of a new condition, inserted into the source of `api/spec.py` on import.
FIELD = """    blur: str = condition(
        "none",
        "Only records of this blur.",
        words=("none", "soft", "strong"),
        option="Blur images before they are encoded.",
        short="blur",
        quiet=True,
        late=True,
    )
    note_tag: str = condition(
        "", "Only records of this tag.", option="A tag.", short="tag", quiet=True, late=True
    )
    options: Options"""

PROGRAM = """
import importlib.util, json, sys
from pathlib import Path

import fewshot_bench

path = Path(fewshot_bench.__file__).parent / "api" / "spec.py"
spec = importlib.util.spec_from_file_location("fewshot_bench.api.spec", path)
module = importlib.util.module_from_spec(spec)
sys.modules["fewshot_bench.api.spec"] = module
source = path.read_text(encoding="utf-8")
assert source.count("    options: Options") == 1
exec(compile(source.replace("    options: Options", FIELD), str(path), "exec"), module.__dict__)

import fewshot_bench as fb
from fewshot_bench.analysis.signature import commands_of, signature_of
from fewshot_bench.api.record import Record
from tests.support.compare_records import make
from tests.support.helpers import fsbench
from fewshot_bench.store.store import Store

store = Path(sys.argv[1])
made = Store(store)
made.create()
for blur in ("none", "strong"):
    made.write(make("coop", blur=blur, limit=None))

told = {}
words = ("-m", "zero-shot", "-d", "digits", "--shots", 1, "--seeds", 1, "--store", store / "new")
told["help"] = fsbench("run", "--help").out
told["planned"] = fsbench("run", *words, "--blur", "soft", "--dry-run").out
told["refused"] = fsbench("run", *words, "--blur", "sharp").err
told["blocks"] = fsbench("compare", "--store", store).out
told["rows"] = fsbench("compare", "--store", store, "--allow-mixed").out
told["filtered"] = fsbench("compare", "--store", store, "--blur", "strong").out
told["csv"] = fsbench("compare", "--store", store, "--blur", "strong", "--format", "csv").out
told["usual"] = fsbench("compare", "--store", store, "--blur", "none", "--format", "csv").out
told["audit"] = fsbench("audit", "--store", store).out
spec = next(record.spec for record in Store(store).records() if record.spec.blur == "strong")
told["signature"] = signature_of([Record(spec, "done")])
told["command"] = "".join(commands_of([spec])[0])
results = fb.load(store)
told["frame"] = sorted(results.to_frame().blur)
told["where"] = [record.spec.blur for record in results.where(blur="strong")]
few = {"shots": 1, "seeds": 1, "store": store / "new", "progress": False}
try:
    fb.run("zero-shot", "digits", blur="sharp", **few)
except fb.UsageError as error:
    told["library"] = str(error)
told["key"] = make("coop", limit=None).spec.key()
told["old"] = fsbench("compare", "--store", store / "old", "--format", "csv").out
tagged = Store(store / "tagged")
tagged.create()
for tag in ("", "a b"):
    tagged.write(make("coop", note_tag=tag, limit=None))
where = ("--store", tagged.path)
told["two tags"] = fsbench("compare", *where).out
told["no tag"] = fsbench("compare", *where, "--note-tag", "", "--format", "csv").out
told["tag audit"] = fsbench("audit", *where).out
try:
    fb.run("zero-shot", "digits", note_tag=3, **few)
except fb.UsageError as error:
    told["tag"] = str(error)
print(json.dumps(told))
"""


def test_a_new_condition_is_one_field(tmp_path: Path) -> None:
    old = Store(tmp_path / "old")
    old.create()
    old.write(make("coop", limit=None))
    before = fsbench("compare", "--store", old.path, "--format", "csv").out
    program = f"FIELD = {FIELD!r}\n{PROGRAM}"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "--blur [none|soft|strong]" in told["help"]
    assert "1 cell: 0 done already, 1 to run" in told["planned"]
    assert "'sharp' is not one of 'none', 'soft', 'strong'" in told["refused"]
    assert "Conditions 1 of 2: blur none\n" in told["blocks"]
    assert "Conditions 2 of 2: blur strong\n" in told["blocks"]
    assert {"coop blur=none", "coop blur=strong"} <= {
        line.partition("  ")[0] for line in told["rows"].splitlines()
    }
    assert "blur strong" in told["filtered"]
    assert ",blur" in told["csv"].partition("\n")[0]
    assert ",blur" not in told["usual"].partition("\n")[0]
    assert "values of blur" in told["audit"]
    assert "|blur:strong" in told["signature"]
    assert "--blur strong" in told["command"]
    assert told["frame"] == ["none", "strong"]
    assert told["where"] == ["strong"]
    assert "unknown blur 'sharp': expected one of none, soft, strong" in told["library"]
    # Older records keep their keys.
    assert told["key"] == make("coop", limit=None).spec.key()
    assert told["old"] == before
    assert "Conditions 1 of 2: note_tag none\n" in told["two tags"]
    assert "Conditions 2 of 2: note_tag a b\n" in told["two tags"]
    assert len(told["no tag"].splitlines()) == len(before.splitlines())
    assert "values of note tag: '' (coop), a b (coop)" in told["tag audit"]
    assert "note_tag=3: expected a name" in told["tag"]


def test_conditions_are_what_tables_show_in_this_order() -> None:
    assert [*CONDITIONS] == [
        *("protocol", "val", "prompts", "backbone", "precision", "device", "limit", "weights"),
        *("exif", "published", "augment"),
        *("queries", "views", "bystanders", "texts", "pooling"),
    ]
