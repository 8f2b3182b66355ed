"""The shapes in annotations are checked in tests: a hook that checks nothing would not be seen otherwise."""

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from shapes import once
from torch import Tensor

from sharedllm.context.tree import Nodes, one_a_stride
from sharedllm.model.rope import rotate
from sharedllm.scoring.base import spread


def test_a_shape_that_does_not_fit_is_refused():
    two, three = torch.ones(2, dtype=torch.long), torch.ones(3, dtype=torch.long)
    with pytest.raises(TypeCheckError):
        one_a_stride(two, three, two)
    with pytest.raises(TypeCheckError):
        Nodes(two, two, three, two, two)
    with pytest.raises(TypeCheckError):
        rotate(torch.zeros(1, 2, 3), (torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)))


def test_a_dtype_that_does_not_fit_is_refused():
    with pytest.raises(TypeCheckError):
        spread(torch.zeros(1, 4, dtype=torch.long))
    assert spread(torch.zeros(1, 4)).shape == (1, 4)


def test_a_result_is_checked_also_where_the_arguments_are_as_before():
    results = [torch.ones(2), torch.ones(2), torch.ones(3)]

    def given(like: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        return results.pop(0)

    checked, two = once(given), torch.ones(2)
    for _ in range(2):
        assert checked(two).shape == (2,)
    with pytest.raises(TypeCheckError):
        checked(two)
    assert results == []


def test_a_number_that_a_shape_names_is_looked_at():
    def zeros(length: int, made: int) -> Float[Tensor, " {length}"]:
        return torch.zeros(made)

    checked = once(zeros)
    assert checked(2, 2).shape == checked(length=2, made=2).shape == (2,)
    with pytest.raises(TypeCheckError):
        checked(3, 2)
    with pytest.raises(TypeCheckError):
        checked(2, 3)
