"""Nearest neighbors in blocks, and sparse weights, against dense matrices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fsbench_methods import neighbors
from fsbench_methods.neighbors import Links, nearest, nearest_others

FEATURES = F.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.mark.parametrize("cells", [1, 64, 2**24])
def test_neighbors_found_in_blocks_are_those_of_the_whole_matrix(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "CELLS", cells)
    cosines = FEATURES @ FEATURES.T
    values, numbers = nearest(FEATURES[:20], FEATURES, 3)
    assert torch.equal(numbers, cosines[:20].topk(3).indices)
    assert torch.allclose(values, cosines[:20].topk(3).values)
    assert torch.equal(numbers[:, 0], torch.arange(20))
    assert torch.equal(nearest_others(FEATURES, 3)[1], cosines.topk(4).indices[:, 1:])


def test_a_few_images_have_fewer_neighbors() -> None:
    assert nearest(FEATURES, FEATURES[:2], 3)[1].shape == (50, 2)
    for count in (1, 2, 3, 4):
        values, numbers = nearest_others(FEATURES[:count], 3)
        assert values.shape == numbers.shape == (count, min(3, count - 1))
        assert (numbers != torch.arange(count)[:, None]).all()
        product = Links.both_ways(values, numbers) @ torch.eye(count)
        assert product.diagonal().abs().max() == 0


def test_equal_images_are_neighbors_of_each_other_and_never_of_themselves() -> None:
    _, numbers = nearest_others(FEATURES[:1].expand(5, -1), 3)
    assert (numbers != torch.arange(5)[:, None]).all()


def test_links_multiply_as_the_dense_matrix_does() -> None:
    values, numbers = nearest_others(FEATURES, 3)
    dense = torch.zeros(50, 50).scatter(1, numbers, values)
    z = torch.rand(50, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(Links.both_ways(values, numbers) @ z, (dense + dense.T) @ z, atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 50, 51])
def test_blocks_of_links_are_their_rows(size: int) -> None:
    links = Links.both_ways(*nearest_others(FEATURES, 3))
    parts = links.split(size)
    assert len(parts) == -(-50 // size)
    z = torch.rand(50, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.cat([part @ z for part in parts]), links @ z)


def test_links_may_be_rectangular_with_empty_rows_and_repeated_places() -> None:
    rows, columns = torch.tensor([2, 0, 2, 2]), torch.tensor([1, 0, 1, 0])
    links = Links.of(rows, columns, torch.tensor([1.0, 2.0, 3.0, 5.0]), 4)
    expected = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 4.0], [0.0, 0.0]])
    assert torch.equal(links @ torch.eye(2), expected)
