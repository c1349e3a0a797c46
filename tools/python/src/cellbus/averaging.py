"""Weighted means of named arrays, and what cannot be averaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cellbus import tensors
from cellbus.errors import CellbusError, TensorError

__all__ = ["CheckFailed", "WeightedMean", "finite_check"]

_CHUNK = 1 << 18


class CheckFailed(CellbusError):  # noqa: N818 - what has happened
    """A result cannot be used; the text names the site and the tensor."""


def finite_check(
    found: Mapping[str, Any],
    weight: float,
    *,
    site: str = "this site",
    like: Mapping[str, Any] | None = None,
) -> None:
    """Refuses what cannot be averaged: NaN, infinity, a weight that is not finite and above zero, integers beyond
    2^53, and everything that cannot be checked (a dtype that numpy has not, booleans, an array that cannot be read).

    `like` are the arrays whose names, shapes and dtypes it must have. Raises `CheckFailed`, which names site and
    tensor.

    This is hygiene and no defence against poisoning: finite numbers can do more harm than infinite ones.
    """
    np = tensors.numpy()
    if not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight <= 0:
        raise CheckFailed(f"{site}: weight {weight!r} is not a finite number above 0")
    if like is not None and set(found) != set(like):
        odd = sorted(set(found) ^ set(like))[0]
        raise CheckFailed(f"{site}: tensor `{odd}` is {'missing' if odd in like else 'not in the model'}")
    for name in found:
        try:
            array = found[name]
        except (TensorError, ValueError, TypeError) as error:
            raise CheckFailed(f"{site}: tensor `{name}` cannot be checked: {error}") from None
        if not isinstance(array, (np.ndarray, np.generic)) or array.dtype.kind not in "fiu":
            raise CheckFailed(f"{site}: tensor `{name}` cannot be checked: {getattr(array, 'dtype', type(array))}")
        if like is not None and (array.shape != like[name].shape or array.dtype != like[name].dtype):
            raise CheckFailed(
                f"{site}: tensor `{name}` is {array.dtype} of shape {array.shape}, "
                f"the model has {like[name].dtype} of shape {like[name].shape}"
            )
        if array.size == 0:
            continue
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckFailed(f"{site}: tensor `{name}` holds NaN or infinity")
        if array.dtype.kind in "iu" and max(abs(low), abs(high)) > 2**53:
            raise CheckFailed(f"{site}: tensor `{name}` holds integers beyond 2^53")
        if not math.isfinite(max(abs(low), abs(high)) * max(weight, 1.0) * 2.0**20):
            raise CheckFailed(f"{site}: tensor `{name}` is too large to be added up")


class WeightedMean:
    """A weighted mean of named arrays that is added to one contribution at a time.

    Sums are kept in 64-bit floats, so memory is that of one model in float64, whatever the number of sites.
    """

    def __init__(self, like: Mapping[str, Any]) -> None:
        np = tensors.numpy()
        self._like = like
        self._sums = {name: np.zeros(array.size, "f8") for name, array in like.items()}
        self.weight = 0.0
        """The sum of all weights."""
        self.count = 0
        """How many contributions there are."""

    def add(self, found: Mapping[str, Any], weight: float) -> None:
        """Adds a contribution that was checked."""
        np = tensors.numpy()
        for name, total in self._sums.items():
            flat = found[name].reshape(-1)
            for begin in range(0, total.size, _CHUNK):
                part = flat[begin : begin + _CHUNK]
                total[begin : begin + _CHUNK] += np.multiply(part, weight, dtype="f8", casting="unsafe")
        self.weight += weight
        self.count += 1

    def mean(self, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The mean, with the dtypes of the model; integers are rounded. With `base`, that plus the mean.

        Raises `CheckFailed` where all weights are zero.
        """
        np = tensors.numpy()
        if not self.weight > 0:
            raise CheckFailed("the sum of all weights is zero")
        out = {}
        for name, array in self._like.items():
            mean = self._sums[name] / self.weight
            if base is not None:
                mean += base[name].reshape(-1)
            if array.dtype.kind in "iu":
                mean = np.rint(mean)
            out[name] = mean.astype(array.dtype).reshape(array.shape)
        return out
