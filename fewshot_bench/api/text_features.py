"""Features of what describes classes: prompts of templates, or texts of each class, pooled.

`pool_class_features` is `class_features` of a backbone; the other functions are for methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_bench.api.backbone import Backbone
    from fewshot_bench.api.task import Vocabulary

# Products of images and texts at once, in `score_classes`.
AT_ONCE = 1 << 24


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

    if not vocabulary.texts:
        prompts = map(vocabulary.prompts, vocabulary.templates)
        every = [F.normalize(encode(of_template), dim=-1) for of_template in prompts]
        return F.normalize(torch.stack(every).mean(dim=0), dim=-1)
    parts = [F.normalize(part, dim=-1) for part in _encode_each(encode, vocabulary)]
    if vocabulary.pooling == "max":
        most = max(map(len, parts))
        return torch.stack(
            [torch.cat([part, part[:1].expand(most - len(part), -1)]) for part in parts]
        )
    means = torch.stack([part.mean(dim=0) for part in parts])
    return F.normalize(means, dim=-1) if vocabulary.pooling == "unit-mean" else means


def _encode_each(encode: Callable[..., Tensor], vocabulary: Vocabulary) -> tuple[Tensor, ...]:
    """(texts, embed) raw features of each class.

    All are encoded at once, each once and in an order of their own: the same texts are found again,
    whichever classes have them.
    """
    import torch

    texts = [text for of_class in vocabulary.texts for text in of_class]
    distinct = sorted(set(texts))
    places = {text: place for place, text in enumerate(distinct)}
    rows = encode(distinct, cut=True)
    each = torch.tensor([places[text] for text in texts], device=rows.device)
    return torch.split(rows[each], [len(of_class) for of_class in vocabulary.texts])


def raw_class_features(backbone: Backbone, vocabulary: Vocabulary) -> Tensor:
    """(classes, embed) mean of the raw features of each class's prompts or texts.

    Its length is that of raw features: class vectors that are trained, and normalized afterwards,
    turn the less in a step, the longer they are (TaskRes, CLAP).

    >>> base = raw_class_features(backbone, task)
    """
    import torch

    if not vocabulary.texts:
        prompts = map(vocabulary.prompts, vocabulary.templates)
        return torch.stack([backbone.encode_text(each) for each in prompts]).mean(dim=0)
    parts = _encode_each(backbone.encode_text, vocabulary)
    return torch.stack([part.mean(dim=0) for part in parts])


def text_samples(backbone: Backbone, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """Raw features (n, embed) of all prompts or texts, and the class (n,) of each.

    >>> features, labels = text_samples(backbone, task)
    """
    import torch

    count = len(vocabulary.classnames)
    if not vocabulary.texts:
        prompts = map(vocabulary.prompts, vocabulary.templates)
        features = torch.cat([backbone.encode_text(each) for each in prompts])
        labels = torch.arange(count, device=features.device).repeat(len(vocabulary.templates))
        return features, labels
    features = torch.cat(_encode_each(backbone.encode_text, vocabulary))
    each = torch.tensor([len(texts) for texts in vocabulary.texts], device=features.device)
    labels = torch.arange(count, device=features.device)
    return features, labels.repeat_interleave(each, output_size=len(features))


def score_classes(images: Tensor, classes: Tensor) -> Tensor:
    """(n, classes) products of images (n, embed) with class features, of any pooling.

    classes: from `class_features`. Of several features of a class (pooling `max`) the largest
    product counts.

    >>> logits = score_classes(scale * queries.features, backbone.class_features(task))
    """
    import torch

    if classes.dim() == 2:
        return images @ classes.T
    flat = classes.flatten(0, 1).T
    blocks = torch.split(images, max(1, AT_ONCE // flat.shape[1]))
    scores = [(block @ flat).view(len(block), *classes.shape[:2]).amax(-1) for block in blocks]
    return torch.cat(scores)
