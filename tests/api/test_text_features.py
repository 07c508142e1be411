"""Features of classes that are described by texts."""

from __future__ import annotations

import pytest
import torch

from fewshot_bench import ContractError, UsageError, Vocabulary
from fewshot_bench.backbones import loading
from fewshot_bench.training import raw_class_features, score_classes, text_samples, unit
from tests.reference import class_texts

BACKBONE = loading.load("tiny")
NAMES, TEMPLATES = ("zero", "one", "seven"), ("a photo of a {}.", "the number {}")
TEXTS = (("a round zero.",), ("one stroke.", "a one, drawn.", "1"), ("seven", "seven"))


@pytest.mark.parametrize("pooling", ["unit-mean", "mean", "max"])
def test_class_features_pool_the_texts_of_each_class(pooling: str) -> None:
    images = torch.randn(5, BACKBONE.embed_dim, generator=torch.Generator().manual_seed(1))
    asked = Vocabulary(NAMES, TEMPLATES, texts=TEXTS, pooling=pooling)
    raw = [BACKBONE.encode_text(texts) for texts in TEXTS]

    scores = score_classes(unit(images), BACKBONE.class_features(asked))

    torch.testing.assert_close(scores, class_texts.scores(images, raw, pooling))


def test_the_prompts_of_the_templates_as_texts_give_the_features_of_the_templates() -> None:
    plain = Vocabulary(NAMES, TEMPLATES)
    texts = zip(*map(plain.prompts, TEMPLATES), strict=True)
    given = Vocabulary(NAMES, TEMPLATES, texts=tuple(texts))

    torch.testing.assert_close(BACKBONE.class_features(given), BACKBONE.class_features(plain))
    torch.testing.assert_close(
        raw_class_features(BACKBONE, given), raw_class_features(BACKBONE, plain)
    )


def test_samples_of_texts_have_their_classes() -> None:
    features, labels = text_samples(BACKBONE, Vocabulary(NAMES, TEMPLATES, texts=TEXTS))

    assert labels.tolist() == [0, 1, 1, 1, 2, 2]
    torch.testing.assert_close(features[1:4], BACKBONE.encode_text(TEXTS[1]))


def test_a_text_is_cut_at_the_context_where_a_prompt_is_refused() -> None:
    long = "a zero " * 60
    cut = BACKBONE.class_features(Vocabulary(("zero",), TEMPLATES, texts=((long,),)))

    torch.testing.assert_close(cut, unit(BACKBONE.encode_text([long], cut=True)))
    with pytest.raises(UsageError, match="tokens, the text encoder reads 77"):
        BACKBONE.encode_text([long])


def test_templates_are_not_to_be_read_where_texts_describe_the_classes() -> None:
    with pytest.raises(ContractError, match="prompts were asked for in a run with --texts"):
        Vocabulary(NAMES, TEMPLATES, texts=TEXTS).prompts(TEMPLATES[0])
