"""Keeping the model of a cell beside its record.

`keep` is the entry point. It changes no number of the record; a model that cannot be kept becomes
an incident with the reason.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fewshot_bench.api.keeping import name_of_class, reason_not_to_keep, restore
from fewshot_bench.api.record import Incidents
from fewshot_bench.api.shots import plain
from fewshot_bench.api.task import Vocabulary
from fewshot_bench.images.features import accounted
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.fit import Fitted, check_backbone, seed_of
from fewshot_bench.runner.isolation import guarded
from fewshot_bench.runner.session import Cell, Session
from fewshot_bench.store.kept_models import STATED, facts_of, model_folder, remove_model
from fewshot_bench.store.model_files import ModelConfig, config_of, without_path, write_model
from fewshot_bench.utils.errors import FsbenchError
from fewshot_bench.utils.rng import derive, isolated

INCIDENT = "model"


def keep(
    fitted: Fitted, cell: Cell, session: Session, store: Path, incidents: Incidents
) -> dict[str, Any]:
    """Write the model of a cell into a store; return its facts for the record's footprint.

    On failure, add an incident and return an empty dict: the method cannot be kept, its restored
    model fails a check, or the disk is full.
    """
    key, method = cell.spec.key(), cell.spec.method
    folder = model_folder(store, key)
    try:
        remove_model(store, key)
        if reason := reason_not_to_keep(cell.method):
            raise FsbenchError(reason)
        config = _config(fitted, cell)
        with ExitStack() as stack:
            stack.enter_context(accounted(session.features, Meter(fitted.backbone.device)))
            stack.enter_context(isolated(derive(seed_of(cell.spec), "keep")))
            stack.enter_context(guarded(f"{method}.restore", incidents, session.mark_tainted))
            tensors = fitted.classifier.tensors()
            restore(
                cell.method,
                tensors,
                Vocabulary(config.classnames, config.templates),
                fitted.backbone,
                type(fitted.classifier),
            )
            check_backbone(fitted.backbone, fitted.fingerprint, f"{method}.restore")
        digest = write_model(folder, config, tensors, _card(cell, config))
        return {STATED: facts_of(folder, digest)}
    except (FsbenchError, OSError) as error:
        why = error if isinstance(error, FsbenchError) else error.strerror
        incidents.add(INCIDENT, f"{method}: its model was not kept: {why}")
        return {}
    except Exception as error:
        incidents.add(
            INCIDENT, f"{method}: its model was not kept: {type(error).__name__}: {error}"
        )
        return {}


def _config(fitted: Fitted, cell: Cell) -> ModelConfig:
    spec, lists = fitted.cell.spec, fitted.cell.lists
    counts = Counter(lists.train.labels)
    data = {
        "cell": cell.spec.key(),
        "dataset": without_path(spec.dataset),
        "revision": spec.revision,
        "split": lists.picks,
        "shots": plain(spec.shots),
        "split_seed": spec.split_seed,
        "seed": spec.train_seed,
        "protocol": spec.protocol,
        "val": spec.val,
        "prompts": spec.prompts,
        "validation": lists.val.count,
        "images": [counts[label] for label in range(len(lists.fitted.classnames))],
    }
    notes = fitted.declared.notes
    return config_of(
        spec.method,
        fitted.cell.method,
        fitted.backbone,
        lists.fitted,
        classifier=name_of_class(fitted.classifier),
        exif=spec.exif,
        data=data,
        notes=notes,
    )


def _card(cell: Cell, config: ModelConfig) -> str:
    spec = cell.spec
    return (
        f"# {spec.method} on {config.data['dataset']}\n\n"
        f"{len(config.classnames)} classes, backbone {config.backbone}, seed {spec.train_seed}.\n"
        f"Kept by `fsbench run --keep-models` beside the record {spec.key()}.\n\n"
        "```python\nimport fewshot_bench as fb\n\n"
        'fb.load_model("this folder").predict(["image.jpg"])\n```\n'
    )
