"""Features of what describes classes: prompts of templates, or texts of each class, pooled.

`pool_class_features` is `class_features` of a backbone; the other functions are for methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_bench.api.backbone import Backbone
    from fewshot_bench.api.task import Vocabulary


def pool_class_features(encode: Callable[..., Tensor], vocabulary: Vocabulary) -> Tensor:
    """(classes, embed): what `Backbone.class_features` returns; encode: its `encode_text`.

    Of templates: the mean of the unit features of each class's prompts, at unit length. Of texts:
    that of each class's texts (pooling `unit-mean`; CuPL, Pratt et al. 2023), their mean alone
    (`mean`; VDT, Menon and Vondrick 2023, WaffleCLIP, Roth et al. 2023), or, for `max`, the unit
    features themselves: (classes, most texts, embed), where a class with fewer texts repeats its
    first one.
    """
    import torch
    import torch.nn.functional as F

    unit = functools.partial(F.normalize, dim=-1)
    if vocabulary.texts and vocabulary.pooling == "max":
        parts = [unit(part) for part in _encode_texts(encode, vocabulary)]
        most = max(map(len, parts))
        return torch.stack([torch.cat([p, p[:1].expand(most - len(p), -1)]) for p in parts])
    means = _mean_features(lambda *texts, **way: unit(encode(*texts, **way)), vocabulary)
    return means if vocabulary.texts and vocabulary.pooling == "mean" else unit(means)


def _mean_features(encode: Callable[..., Tensor], vocabulary: Vocabulary) -> Tensor:
    """(classes, embed) mean of the features of each class's prompts or texts."""
    import torch

    if vocabulary.texts:
        return torch.stack([part.mean(dim=0) for part in _encode_texts(encode, vocabulary)])
    prompts = map(vocabulary.prompts, vocabulary.templates)
    return torch.stack([encode(each) for each in prompts]).mean(dim=0)


def _encode_texts(encode: Callable[..., Tensor], vocabulary: Vocabulary) -> tuple[Tensor, ...]:
    """(texts, embed) features of the texts of each class.

    All are encoded at once, each once and in an order of their own: the same texts are found again,
    whichever classes have them.
    """
    import torch

    texts = [text for of_class in vocabulary.texts for text in of_class]
    places = {text: place for place, text in enumerate(sorted(set(texts)))}
    rows = encode([*places], cut=True)
    each = torch.tensor([places[text] for text in texts], device=rows.device)
    return torch.split(rows[each], [len(of_class) for of_class in vocabulary.texts])


def raw_class_features(backbone: Backbone, vocabulary: Vocabulary) -> Tensor:
    """(classes, embed) mean of the raw features of each class's prompts or texts.

    Its length is that of raw features: class vectors that are trained, and normalized afterwards,
    turn the less in a step, the longer they are (TaskRes, CLAP).

    >>> base = raw_class_features(backbone, task)
    """
    return _mean_features(backbone.encode_text, vocabulary)


def text_samples(backbone: Backbone, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Raw features (n, embed) of all prompts or texts, and the class (n,) of each.

    >>> features, labels = text_samples(backbone, task)
    """
    import torch

    classes, templates = range(len(vocabulary.classnames)), vocabulary.templates
    if vocabulary.texts:
        features = torch.cat(_encode_texts(backbone.encode_text, vocabulary))
        labels = [label for label in classes for _ in vocabulary.texts[label]]
    else:
        features = torch.cat([backbone.encode_text(vocabulary.prompts(t)) for t in templates])
        labels = [label for _ in templates for label in classes]
    return features, torch.tensor(labels, device=features.device)


def score_classes(images: Tensor, classes: Tensor) -> Tensor:
    """(n, classes) products of images (n, embed) with class features, of any pooling.

    classes: from `class_features`. Of several features of a class (pooling `max`) the largest
    product counts.

    >>> logits = score_classes(scale * queries.features, backbone.class_features(task))
    """
    import torch

    if classes.dim() == 2:
        return images @ classes.T
    return functools.reduce(torch.maximum, (images @ each.T for each in classes.unbind(1)))
