"""Quantizers by name. A new family adds one line here."""

from __future__ import annotations

import importlib
import inspect
import math
import typing
from typing import Any

from quantizers.base import Quantizer

FAMILIES = {
    "rvq": ("rvq", "ResidualVQ"),
    "grouped_rvq": ("grouped_rvq", "GroupedResidualVQ"),
    "factorized_rvq": ("factorized_rvq", "FactorizedResidualVQ"),
    "split_rvq": ("split_rvq", "SplitResidualVQ"),
    "multiscale_rvq": ("multiscale_rvq", "MultiScaleResidualVQ"),
    "single": ("single", "SingleVQ"),
    "product": ("product", "ProductVQ"),
    "fsq": ("fsq", "FSQ"),
    "residual_fsq": ("fsq", "ResidualFSQ"),
    "lfq": ("lfq", "LFQ"),
    "bsq": ("lfq", "BSQ"),
    "simvq": ("simvq", "SimVQ"),
    "random_projection": ("random_projection", "RandomProjectionQuantizer"),
    "kmeans": ("kmeans", "KMeansQuantizer"),
    "mvq": ("mvq", "MultiCodebookVQ"),
}

MAX_CODEBOOKS = 256
COMMON = ("dim", "num_codebooks", "codebook_size")


def available() -> tuple[str, ...]:
    """Names that `build` knows."""
    return tuple(FAMILIES)


def family(name: str) -> type[Quantizer]:
    """The class of that name. Raises ValueError for a name that is not there."""
    if name not in FAMILIES:
        raise ValueError(f"no quantizer is named {name!r}; there is {', '.join(FAMILIES)}")
    module, cls = FAMILIES[name]
    return getattr(importlib.import_module(f"quantizers.{module}"), cls)


def options(name: str) -> dict[str, Any]:
    """The options of a family and their defaults, besides dim, num_codebooks and codebook_size."""
    parameters = inspect.signature(family(name)).parameters.values()
    return {one.name: one.default for one in parameters if one.name not in COMMON}


def option_types(name: str) -> dict[str, Any]:
    """The types of these options."""
    hints = typing.get_type_hints(family(name).__init__)
    return {option: hints[option] for option in options(name)}


def build(name: str, dim: int, num_codebooks: int, codebook_size: int, **chosen: Any) -> Quantizer:
    """Build the quantizer `name` for latents (B, dim, T). Raises ValueError for a name, an option or a value that it
    has not."""
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ValueError(f"quantizer {name!r} has no option {', '.join(map(repr, unknown))}; it has {', '.join(known) or 'none'}")
    sizes = {"dim": dim, "num_codebooks": num_codebooks, "codebook_size": codebook_size}
    for size, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{size}={value!r} must be a whole number")
    if dim < 1:
        raise ValueError(f"dim={dim}: latents are at least 1 wide")
    if not 1 <= num_codebooks <= MAX_CODEBOOKS:
        remedy = "take fewer, larger codebooks" if num_codebooks > 1 else "at least 1 is needed"
        raise ValueError(f"num_codebooks={num_codebooks} is outside 1..{MAX_CODEBOOKS}: {remedy}")
    hints = option_types(name)
    for option, value in chosen.items():
        _check_kind(f"quantizer {name!r}: {option}", value, hints[option])
    return family(name)(**sizes, **chosen)


def _check_kind(what: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless a value is of the annotated type of an option."""
    kinds = typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
    if value is None and type(None) in kinds:
        return
    kind = kinds[0]
    if typing.get_origin(kind) is not None:  # a tuple or sequence of whole numbers
        fits = isinstance(value, (list, tuple)) and all(isinstance(n, int) and not isinstance(n, bool) for n in value)
        wanted = "a list of whole numbers"
    elif kind is float:
        fits, wanted = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value), "a number"
    else:
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        wanted = {int: "a whole number", bool: "True or False", str: "a name"}[kind]
    if not fits:
        raise ValueError(f"{what}={value!r} must be {wanted}")
