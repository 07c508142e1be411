"""Compares a classifier that is restored from its tensors with the fitted one, before it is kept.

`check_restored` is the entry point.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from fewshot_bench.api.author_frame import error_text
from fewshot_bench.api.keeping import class_named, name_of_class, restore
from fewshot_bench.api.method import Classifier
from fewshot_bench.api.option_files import open_files
from fewshot_bench.api.record import Incidents
from fewshot_bench.images.features import accounted, image_view
from fewshot_bench.profiling.meter import Meter
from fewshot_bench.runner.evaluate import plain_logits
from fewshot_bench.runner.fit import Fitted, check_backbone, seed_of
from fewshot_bench.runner.isolation import guard
from fewshot_bench.runner.session import Session
from fewshot_bench.utils.errors import ContractError, FsbenchError
from fewshot_bench.utils.rng import derive, isolate

# Most images that are classified by both; they are spread over the train images.
COMPARED = 16
# Largest gap of two logits, relative to the largest fitted one. The tensors are the same, so only
# rounding may differ: of 16-bit products in another memory layout, at most.
TOLERANCE = 0.01


def check_restored(fitted: Fitted, session: Session, incidents: Incidents) -> Mapping[str, Tensor]:
    """The tensors of a fit; ContractError if what they restore answers otherwise than the fit.

    The classifier is restored as in another process: by a new instance of the method.
    NotApplicableError if the method states that it cannot be kept.
    """
    spec = fitted.cell.spec
    with ExitStack() as stack:
        stack.enter_context(accounted(session.features, Meter(fitted.backbone.device)))
        stack.enter_context(isolate(derive(seed_of(fitted.cell), "keep")))
        stack.enter_context(guard(f"{spec.method}.restore", incidents))
        stack.enter_context(torch.no_grad())
        try:
            tensors = fitted.classifier.tensors()
            again = _restore(fitted, tensors)
            expected = _answers(copy.copy(fitted.classifier), fitted, session)
            again_logits = _answers(again, fitted, session)
        except FsbenchError:
            raise
        except Exception as error:
            why = error_text(error, type(fitted.cell.method))
            raise ContractError(f"it cannot be restored from its tensors: {why}") from error
        check_backbone(fitted.backbone, fitted.fingerprint, f"{spec.method}.restore")
    gap, scale = float(np.abs(again_logits - expected).max()), float(np.abs(expected).max())
    if gap > TOLERANCE * scale:
        raise ContractError(
            f"restored from its tensors it answers otherwise: logits differ by up to {gap:.3g} "
            f"where the largest is {scale:.3g}; keep all that logits uses in tensors(), and mend "
            f"restore (fsbench check {shlex.quote(spec.method)})"
        )
    return tensors


def _restore(fitted: Fitted, tensors: Mapping[str, Tensor]) -> Classifier:
    spec, space = fitted.cell.spec, fitted.cell.lists.fitted
    method = type(fitted.cell.method)(**open_files(spec.options))
    return restore(
        method,
        tensors,
        space.vocabulary,
        fitted.backbone,
        class_named(name_of_class(fitted.classifier), method),
    )


def _answers(classifier: Classifier, fitted: Fitted, session: Session) -> np.ndarray:
    """(images, classes) logits of a classifier for some train images."""
    train, spec = fitted.cell.lists.train, fitted.cell.spec
    count = min(COMPARED, train.count)
    order = [index * train.count // count for index in range(count)]
    queries = image_view(
        session.source(train, spec),
        session.features,
        Meter(fitted.backbone.device),
        phase="encode_support",
        order=order,
    )
    classes = len(fitted.cell.lists.fitted.classnames)
    return plain_logits(classifier.logits(queries), count, classes, spec.precision)
